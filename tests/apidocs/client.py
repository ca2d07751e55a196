"""Clients that note down all that they send and get."""

import asyncio
import http.client
import json

import cbor2
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

PATIENCE_S = 30
ENCODINGS = {
    "tidegate.v1.json": (json.dumps, json.loads),
    "tidegate.v1.cbor": (cbor2.dumps, cbor2.loads),
}


class Log(list):
    """What went over the wire, as `judge.mjs` reads it."""

    def message(self, channel, direction, payload, wrong=False):
        self.append({"kind": "message", "channel": channel, "direction": direction, "payload": payload, "wrong": wrong})

    def record(self, record, direction, wrong=False):
        self.append({"kind": "record", "direction": direction, "wrong": wrong} | record)


class Socket:
    """A device's or an application's connection."""

    def __init__(self, log, base, channel, token, query="", protocol="tidegate.v1.json"):
        self.log, self.channel, self.protocol = log, channel, protocol
        self.url = f"ws://{base}/v1/{channel}{query}"
        self.options = {"subprotocols": [protocol], "compression": None, "proxy": None}
        if token:
            self.options["additional_headers"] = {"Authorization": f"Bearer {token}"}
        self.got = asyncio.Queue()
        self.close = None

    async def __aenter__(self):
        self.ws = await connect(self.url, **self.options)
        self.reader = asyncio.create_task(self.read())
        return self

    async def __aexit__(self, *_):
        await self.ws.close()
        await self.reader

    async def read(self):
        _, loads = ENCODINGS[self.protocol]
        try:
            async for frame in self.ws:
                payload = loads(frame)
                self.log.message(self.channel, "out", payload)
                await self.got.put(payload)
        except ConnectionClosed:
            pass
        end = self.ws.protocol.close_rcvd
        if end is not None:
            self.close = end.code
            self.log.append({"kind": "close", "channel": self.channel, "code": end.code, "reason": end.reason})
        await self.got.put(None)

    async def send(self, payload, wrong=False):
        """`wrong`: the gateway has to refuse it for what it is, and so have the documents."""
        dumps, _ = ENCODINGS[self.protocol]
        await self.ws.send(dumps(payload))
        self.log.message(self.channel, "in", payload, wrong)

    async def get(self, kind, **fields):
        """The next message of a type and with these fields; what comes before it is only noted."""
        async with asyncio.timeout(PATIENCE_S):
            while (payload := await self.got.get()) is not None:
                if payload["type"] == kind and all(payload.get(name) == value for name, value in fields.items()):
                    return payload
        raise RuntimeError(f"{self.url}: closed with {self.close} before {kind} {fields}")

    async def ended(self, code):
        async with asyncio.timeout(PATIENCE_S):
            await self.reader
        if self.close != code:
            raise RuntimeError(f"{self.url}: closed with {self.close} instead of {code}")


async def refused(log, base, path, status, token=None, subprotocols=("tidegate.v1.json",)):
    """A handshake that is answered without a 101."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        async with connect(
            f"ws://{base}{path}", subprotocols=list(subprotocols), additional_headers=headers, proxy=None
        ):
            raise RuntimeError(f"{path}: let in instead of {status}")
    except InvalidStatus as error:
        answer = error.response
        if answer.status_code != status:
            raise RuntimeError(f"{path}: {answer.status_code} instead of {status}") from error
        note_refusal(log, path, status, dict(answer.headers.raw_items()), answer.body)


def note_refusal(log, path, status, headers, body):
    channel = "app" if path.startswith("/v1/app") else "device"
    headers = {name.lower(): value for name, value in headers.items()}
    log.append(
        {"kind": "handshake", "channel": channel, "status": status, "headers": headers, "body": json.loads(body)}
    )


class Api:
    """The HTTP API as an application calls it."""

    def __init__(self, log, base, document="openapi"):
        self.log, self.base, self.document = log, base, document

    def ask(self, method, path, status, body=None, token=None, headers=None, raw=None):
        """`raw`: what is sent in place of a body that is noted."""
        connection = http.client.HTTPConnection(self.base, timeout=PATIENCE_S)
        sent = dict(headers or {})
        if token:
            sent["Authorization"] = f"Bearer {token}"
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        connection.request(method, path, raw if raw is not None else body and json.dumps(body), sent)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        if answer.status != status:
            raise RuntimeError(f"{method} {path}: {answer.status} instead of {status}: {text}")
        got = {name.lower(): value for name, value in answer.getheaders()}
        content = json.loads(text) if "json" in got.get("content-type", "") else text
        self.log.append(
            {
                "kind": "http",
                "document": self.document,
                "method": method.lower(),
                "path": path,
                "request": body,
                "sent": {name.lower(): value for name, value in sent.items()},
                "status": status,
                "headers": got,
                "body": content,
            }
        )
        return content
