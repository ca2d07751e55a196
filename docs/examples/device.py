"""A whole device at level 2, which loses nothing through a rollout, an outage or a crash of the gateway.

    pip install websockets
    python3 device.py --url ws://localhost:8080                       # beside `tidegate dev`, without a token
    python3 device.py --url wss://gateway.example --token-file token  # the file is read again at each connect

What it does: docs/clients.md says why.
  * draws a `boot` as it starts, and numbers its updates with `seq`
  * keeps each update until its `ack`, and sends what is unacked first on a new connection, lowest first
  * holds its updates between `pause` and `resume`; commands go on
  * at `goaway` works on until it is to connect elsewhere, waits for its last acks, closes, connects
  * answers each command id once, and keeps the answer until the command expires
  * comes back as the close code says, else after random(0, min(60 s, 1 s * 2^n))
"""

import argparse
import asyncio
import json
import pathlib
import random
import secrets
import ssl
import time
from collections import OrderedDict

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

MAX_KEPT = 10_000  # while offline the oldest updates go: gaps in `seq` are fine
ACK_TIMEOUT_S = 60
NEVER = {1000, 1002, 1003, 1007, 1008, 1009, 4302}  # something is to be changed first
TOKEN_FIRST = {4201, 4202, 4203}


def say(*words):
    print(*words, flush=True)


class Stop(Exception):
    """There is no point in coming back."""


class Device:
    def __init__(self, options):
        self.options = options
        self.boot = secrets.token_hex(8)
        self.next_seq = 1
        self.kept = OrderedDict()  # seq -> update, until acked or refused
        self.sent_up_to = 0  # on this connection
        self.window = 64
        self.paused = set()  # reasons
        self.leave_at = None  # when to close and connect elsewhere
        self.ours = False  # whether this end closed
        self.hint_s = None  # from `error` or `goaway`
        self.progress = time.monotonic()
        self.answers = {}  # command id -> (expires_at, answer); None while it is at work
        self.handlers = {"echo": self.echo}
        self.jobs = set()

    # ---- connections ---------------------------------------------------------------------------------------------

    async def run(self):
        measuring = asyncio.create_task(self.measure())
        failures = 0
        while not self.is_done():
            begun = time.monotonic()
            self.hint_s, self.leave_at, self.ours = None, None, False
            try:
                wait = await self.one_connection()
            except InvalidStatus as refused:
                wait = self.after_refusal(refused.response)
            except (OSError, asyncio.TimeoutError, ConnectionClosed, InvalidHandshake) as error:
                say("no connection:", error)
                wait = None
            if self.is_done():
                break
            failures = 0 if time.monotonic() - begun > 60 else failures
            if wait is None:
                wait = random.uniform(0, min(60, 2**failures))
                failures += 1
            say(f"connecting again in {wait:.1f} s")
            await asyncio.sleep(wait)
        measuring.cancel()
        say(f"done: all {self.next_seq - 1} acked")

    async def one_connection(self):
        """One connection, to its end. Gives the seconds to wait before the next; None: by back-off."""
        options, headers = self.options, {}
        if token := self.token():
            headers["Authorization"] = f"Bearer {token}"
        tls = ssl.create_default_context(cafile=options.ca) if options.url.startswith("wss") else None
        async with connect(
            f"{options.url}/v1/device?boot={self.boot}",
            additional_headers=headers,
            subprotocols=["tidegate.v1.json"],
            ssl=tls,
            open_timeout=10,
            ping_interval=None,  # the gateway pings, and this library answers by itself
        ) as ws:
            self.sent_up_to, self.paused, self.progress = 0, set(), time.monotonic()
            sending = asyncio.create_task(self.send(ws))
            try:
                async for text in ws:
                    await self.take(ws, json.loads(text))
            except ConnectionClosed:
                pass
            finally:
                sending.cancel()
        if self.ours:
            return None if self.leave_at is None else 0
        say("closed:", ws.close_code, ws.close_reason)
        return self.after_close(ws.close_code or 1006)

    def after_close(self, code):
        if code in NEVER:
            raise Stop(f"the gateway closed with {code}: something is to be changed first")
        if code in TOKEN_FIRST:
            if not self.options.token_file:
                raise Stop(f"the gateway closed with {code}: a new token is needed")
            return random.uniform(1, 10)  # whoever renews the file needs a moment
        if code == 4301:  # another boot of this identity is connected: once, after a minute
            return 60 + random.uniform(0, 60)
        if 4000 <= code < 4100:
            return random.uniform(0, 1)
        return self.hint_s

    def after_refusal(self, response):
        say("refused:", response.status_code, response.body.decode(errors="replace"))
        if response.status_code in (401, 403) and not self.options.token_file:
            raise Stop("this token is not taken")
        after = response.headers.get("Retry-After")
        return float(after) * random.uniform(1, 2) if after else None

    def token(self):
        if self.options.token_file:
            return pathlib.Path(self.options.token_file).read_text().strip()
        return self.options.token

    # ---- updates -------------------------------------------------------------------------------------------------

    async def measure(self):
        while not self.options.count or self.next_seq <= self.options.count:
            seq, self.next_seq = self.next_seq, self.next_seq + 1
            self.kept[seq] = {
                "type": "update",
                "name": "temperature",
                "value": round(random.uniform(20, 25), 2),
                "timestamp": int(time.time() * 1000),
                "seq": seq,
            }
            if len(self.kept) > MAX_KEPT:
                self.kept.popitem(last=False)
            await asyncio.sleep(self.options.every)

    async def send(self, ws):
        """Sends what this connection has not sent, lowest first, as far as the window goes; closes when it is time."""
        while True:
            now = time.monotonic()
            leaving = self.leave_at is not None and now >= self.leave_at
            in_flight = sum(1 for seq in self.kept if seq <= self.sent_up_to)
            if (leaving and (not in_flight or now > self.leave_at + 5)) or (not self.kept and self.is_done()):
                return await self.close(ws)
            if not in_flight or self.paused:
                self.progress = now
            elif now - self.progress > ACK_TIMEOUT_S:
                say(f"no ack for {ACK_TIMEOUT_S} s")
                return await self.close(ws)
            if not leaving and not self.paused:
                room = self.window - in_flight
                for seq in [seq for seq in self.kept if seq > self.sent_up_to][:room]:
                    await ws.send(json.dumps(self.kept[seq]))
                    self.sent_up_to = seq
            await asyncio.sleep(0.02)

    async def close(self, ws):
        self.ours = True
        await ws.close()

    def is_done(self):
        count = self.options.count
        return bool(count) and self.next_seq > count and not self.kept and not self.jobs

    # ---- what the gateway says -----------------------------------------------------------------------------------

    async def take(self, ws, message):
        kind = message.get("type")
        if kind == "welcome":
            say("welcome", message["device_id"], "boot", self.boot, "session", message["session"])
            self.window = message["window"]
            self.forget_up_to(message.get("resume_after", 0))
        elif kind == "ack" and "seq" in message:
            self.forget_up_to(message["seq"])
            say("acked", message["seq"])
        elif kind == "refused":
            say("refused:", message)  # settled too: it is not sent again
            self.kept.pop(message.get("seq"), None)
        elif kind == "pause":
            say("pause:", message["reason"])
            self.paused.add(message["reason"])
        elif kind == "resume":
            say("resume:", message["reason"])
            self.paused.discard(message["reason"])
        elif kind == "goaway":
            say("goaway:", message["reason"])
            self.hint_s = message["retry_after_ms"] / 1000
            self.leave_at = time.monotonic() + self.hint_s
        elif kind == "error":
            say("error:", message["code"], message["message"])
            self.hint_s = message.get("retry_after_ms", 0) / 1000 or self.hint_s
        elif kind == "auth_due" and self.options.token_file:
            await ws.send(json.dumps({"type": "auth", "token": self.token()}))
        elif kind == "command":
            job = asyncio.create_task(self.command(ws, message))
            self.jobs.add(job)
            job.add_done_callback(self.jobs.discard)
        # Everything else is from a newer gateway, and not for us.

    def forget_up_to(self, seq):
        self.progress = time.monotonic()
        while self.kept and next(iter(self.kept)) <= seq:
            self.kept.popitem(last=False)

    # ---- commands ------------------------------------------------------------------------------------------------

    async def command(self, ws, command):
        now, key = time.time() * 1000, command["id"]
        self.answers = {key: kept for key, kept in self.answers.items() if kept[1] is None or kept[0] > now}
        if key not in self.answers:
            self.answers[key] = (command["expires_at"], None)
            await self.tell(ws, {"type": "ack", "id": key, "status": "received"})
            self.answers[key] = (command["expires_at"], await self.carry_out(command))
        if self.answers[key][1] is not None:
            await self.tell(ws, self.answers[key][1])

    async def carry_out(self, command):
        answer = {"type": "ack", "id": command["id"]}
        handler = self.handlers.get(command["name"])
        if handler is None:
            return answer | {"status": "rejected", "message": f"this device has no {command['name']}"}
        try:
            return answer | {"status": "succeeded", "result": await handler(command["params"])}
        except Exception as error:  # whatever it is, whoever asked has to know
            return answer | {"status": "failed", "message": str(error)[:256]}

    async def tell(self, ws, answer):
        """What cannot be told now is told when the command comes again."""
        try:
            await ws.send(json.dumps(answer))
        except ConnectionClosed:
            pass

    async def echo(self, params):
        say("echo", params)
        return params


def parser():
    arguments = argparse.ArgumentParser(description="A Tidegate device at level 2")
    arguments.add_argument("--url", default="ws://localhost:8080", help="without a path")
    arguments.add_argument("--token", default="", help="a device token; none is needed beside `tidegate dev`")
    arguments.add_argument("--token-file", default="", help="a file with one, which somebody renews")
    arguments.add_argument("--ca", help="PEM file with the gateway's certificate authority, for a private one")
    arguments.add_argument("--count", type=int, default=0, help="end when that many updates are acked; 0: never")
    arguments.add_argument("--every", type=float, default=1.0, help="seconds between updates")
    return arguments


def main(device):
    try:
        asyncio.run(device.run())
    except Stop as why:
        raise SystemExit(f"stopped: {why}") from None
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main(Device(parser().parse_args()))
