"""Has a live node say nearly all that it can say, on sockets, over HTTP and in Kafka, and writes it down.

traffic.py TIDEGATE OUT    needs TIDEGATE_TEST_KAFKA and TIDEGATE_TEST_REDIS
"""

import asyncio
import http.client
import json
import pathlib
import sys
import time

import cbor2

import rig
from client import Api, Log, Socket, note_refusal, refused

OPEN = {"name": "open", "params": {"angle": 90, "fast": None}, "ttl_s": 60}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
# What a device may say, the second of each in another guise.
SAID = [
    {"type": "update", "name": "temperature", "value": 23.5, "seq": 1, "timestamp": "2025-05-29T12:45:00Z"},
    {"type": "temperature_update", "value": {"a": [1, None, "x"]}, "seq": 2, "traceparent": TRACE},
    {"type": "status", "value": {"battery": 80}, "seq": 3, "timestamp": int(time.time() * 1000)},
    {"type": "update", "value": None, "device_id": "DEVICE", "unknown": "is ignored", "seq": 4},
    [{"type": "update", "value": 1, "seq": 5}, {"type": "ping"}],
    {"type": "ping", "id": "p1"},
    {"type": "update", "value": "without a number"},
]
# And what it may not, with the code of the refusal.
UNSAID = [
    ({"type": "update", "seq": 6}, "malformed"),
    ({"type": "update", "value": 1, "seq": 0}, "malformed"),
    ({"type": "nothing"}, "unknown_type"),
    ({"type": "ack", "id": "x", "status": "done"}, "malformed"),
    ({"type": "auth", "id": "a"}, "malformed"),
]


class Scene:
    """A node, its addresses, and tokens."""

    def __init__(self, node):
        self.node, self.log = node, Log()
        self.base = f"127.0.0.1:{node.public}"
        self.api = Api(self.log, self.base)
        self.app = node.token("console", "telemetry:read", "commands:write", "admin")

    def device(self, name, query="?boot=b1", ttl="1h", **more):
        return Socket(self.log, self.base, "device", self.node.token(name, "device", ttl=ttl), query, **more)

    async def ask(self, *args, **more):
        """A request to the API, without holding up the sockets."""
        return await asyncio.to_thread(self.api.ask, *args, **{"token": self.app, **more})


async def device_says(scene, name, protocol):
    async with scene.device(name, protocol=protocol) as device:
        await device.get("welcome")
        for message in SAID:
            if isinstance(message, dict) and message.get("device_id") == "DEVICE":
                message = message | {"device_id": name}
            await device.send(message)
        await device.get("ack", seq=5)
        await device.send({"type": "auth", "id": "a1", "token": scene.node.token(name, "device")})
        await device.get("ack", id="a1")
        await device.send({"type": "auth", "id": "a2", "token": scene.node.token(name, "device")})
        await device.get("refused", code="rate")
        for message, code in UNSAID:
            await device.send(message, wrong=True)
            await device.get("refused", code=code)
        await device.send({"type": "update", "value": 1, "device_id": "another", "seq": 9})
        await device.get("refused", code="forbidden")
    # The bytes of CBOR's integer keys are for the test of the wire; here they are sent once, too.
    if protocol.endswith("cbor"):
        async with scene.device(name, "?boot=b2", protocol=protocol) as device:
            await device.get("welcome")
            await device.ws.send(cbor2.dumps({0: "update", 2: 1, 5: b"bytes"}))
            await device.get("ack", seq=1)


async def too_fast_and_expiring(scene):
    async with scene.device("fast") as device:
        await device.get("welcome")
        for seq in range(1, 101):
            await device.send({"type": "update", "value": seq, "seq": seq})
        await device.get("pause", reason="rate")
        await device.get("resume", reason="rate")
    async with scene.device("brief", ttl="32s") as device:
        await device.get("auth_due")
        await device.send({"type": "auth", "id": "a", "token": "nonsense"})
        await device.get("refused", code="invalid_token")
    brief = scene.node.token("console", "commands:write", ttl="32s")
    async with Socket(scene.log, scene.base, "app", brief) as app:
        await app.get("auth_due")
        await app.send({"type": "auth", "id": "a", "token": scene.node.token("somebody", "commands:write")})
        await app.get("error")
        await app.ended(4203)


async def ends(scene):
    """Connections that the gateway ends, each with its word and code."""
    async with scene.device("twice", "?boot=one") as first:
        await first.get("welcome")
        async with scene.device("twice", "?boot=two") as second:
            await second.get("welcome")
            await first.ended(4301)
            # Of the same boot.
            async with scene.device("twice", "?boot=two") as third:
                await third.get("welcome")
                await second.ended(4002)
    async with scene.device("other") as device:
        await device.get("welcome")
        await device.send({"type": "auth", "id": "a", "token": scene.node.token("somebody", "device")})
        await device.ended(4203)
    async with scene.device("large") as device:
        await device.get("welcome")
        await device.ws.send(json.dumps({"type": "update", "value": "x" * 5000}))
        await device.ended(1009)
    async with scene.device("binary") as device:
        await device.get("welcome")
        await device.ws.send(b"{}")
        await device.ended(1003)
    async with scene.device("blocked") as device:
        await device.get("welcome")
        await scene.ask("PUT", "/v1/devices/blocked/block", 204)
        await device.ended(4302)
    token = scene.node.token("blocked", "device")
    await refused(scene.log, scene.base, "/v1/device", 403, token)
    await scene.ask("DELETE", "/v1/devices/blocked/block", 204)
    # A browser sees no status: it is told in frames.
    browser = Socket(scene.log, scene.base, "device", None)
    browser.options["subprotocols"].append("tidegate.bearer.e30.e30.x")
    async with browser:
        await browser.get("error")


async def handshakes(scene):
    device, app = scene.node.token("sensor-1", "device"), scene.app
    for path, status, token in [
        ("/v1/device?boot=not%20one", 400, device),
        ("/v1/device", 401, "nonsense"),
        ("/v1/app", 401, None),
        ("/v1/device", 403, app),
        ("/v1/app", 403, device),
        ("/v2/device", 404, device),
    ]:
        await refused(scene.log, scene.base, path, status, token)
    for method, status in (("GET", 426), ("POST", 405)):
        connection = http.client.HTTPConnection(scene.base, timeout=30)
        connection.request(method, "/v1/device")
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != status:
            raise RuntimeError(f"{method} /v1/device: {answer.status} instead of {status}")
        note_refusal(scene.log, "/v1/device", status, dict(answer.getheaders()), body)


async def obey(device):
    """A device that does what it is told, but for what it does not know."""
    while (message := await device.got.get()) is not None:
        if message["type"] != "command":
            continue
        answer = {"type": "ack", "id": message["id"]}
        if message["name"] == "open":
            await device.send(answer | {"status": "received"})
            await device.send(answer | {"status": "running"})
            await device.send(answer | {"status": "succeeded", "result": {"angle": 90}, "message": "open"})
            # Once more, after its end: recorded and nothing else.
            await device.send(answer | {"status": "failed"})
        elif message["name"] == "close":
            await device.send(answer)
        else:
            await device.send(answer | {"status": "rejected", "message": "never heard of it"})


async def commands(scene):
    async with scene.device("door-1") as device:
        await device.get("welcome")
        works = asyncio.create_task(obey(device))
        async with Socket(scene.log, scene.base, "app", scene.app) as app:
            await app.get("welcome")
            for key, name, end in [("k1", "open", "succeeded"), ("k2", "close", "succeeded"), ("k3", "x", "rejected")]:
                order = {"type": "command", "key": key, "device_id": "door-1", "name": name, "ttl_s": 60}
                await app.send(order | {"params": OPEN["params"], "max_attempts": 3, "replace": True})
                await app.get("command_state", key=key, state=end)
            await app.send({"type": "command", "key": "k1", "device_id": "door-1", "name": "other", "ttl_s": 60})
            await app.get("refused", code="conflict")
            await app.send({"type": "command", "key": "k4", "device_id": "nobody", "name": "open", "ttl_s": 0})
            await app.get("refused", code="not_connected")
            await app.send({"type": "command", "key": "k5", "device_id": "asleep", "name": "open", "ttl_s": 1})
            await app.get("command_state", key="k5", state="expired")
            await app.send({"type": "command", "key": "k6", "device_id": "door-1", "ttl_s": 60}, wrong=True)
            await app.get("refused", code="malformed")
            await app.send({"type": "ping", "id": "p"})
            await app.get("pong", id="p")
            await app.send({"type": "auth", "id": "a", "token": scene.app})
            await app.get("ack", id="a")
        await over_http(scene)
        await from_kafka(scene)
        await asyncio.to_thread(scene.api.ask, "DELETE", "/v1/devices/door-1/session", 204, token=scene.app)
        await device.ended(4002)
        await works
    await scene.ask("GET", "/v1/devices/door-1", 200)


async def over_http(scene):
    doors = "/v1/devices/door-1/commands"
    key = {"Idempotency-Key": "h1"}
    await scene.ask("POST", doors, 202, OPEN)
    done = await scene.ask("POST", doors, 200, OPEN | {"wait_s": 20}, headers=key)
    await scene.ask("GET", f"{doors}/{done['id']}", 200)
    await scene.ask("POST", doors, 409, OPEN | {"name": "other"}, headers=key)
    await scene.ask("DELETE", f"{doors}/{done['id']}", 409)
    await scene.ask("POST", "/v1/devices/nobody/commands", 409, OPEN | {"ttl_s": 0})
    waiting = await scene.ask("POST", "/v1/devices/asleep/commands", 202, OPEN | {"max_attempts": 1})
    await scene.ask("DELETE", f"/v1/devices/asleep/commands/{waiting['id']}", 200)
    await scene.ask("POST", "/v1/commands", 200, OPEN | {"devices": ["asleep", "door-1", "a/b"]})
    await scene.ask("POST", doors, 400, raw=b"{}", headers={"Content-Type": "application/json"})
    await scene.ask("POST", doors, 415, raw=b"x", headers={"Content-Type": "text/plain"})
    large = json.dumps(OPEN | {"params": "x" * 5000}).encode()
    await scene.ask("POST", doors, 413, raw=large, headers={"Content-Type": "application/json"})
    await scene.ask("POST", "/v1/commands", 413, raw=large * 4, headers={"Content-Type": "application/json"})
    await scene.ask("POST", "/v1/commands", 400, raw=b"{", headers={"Content-Type": "application/json"})
    await scene.ask("GET", f"{doors}/{'0' * 32}", 404)
    await scene.ask("GET", f"{doors}/nonsense", 400)
    await scene.ask("GET", "/v1/devices?limit=1", 200)
    await scene.ask("GET", "/v1/devices?limit=x", 400)
    await scene.ask("GET", "/v1/devices/door-1", 200)
    await scene.ask("GET", "/v1/devices/nobody", 404)
    await scene.ask("GET", "/v1/devices/a%2Fb", 400)
    await scene.ask("DELETE", "/v1/devices/nobody/session", 404)
    await scene.ask("PUT", "/v1/devices/door-1/trace", 200, {"for_s": 1})
    await scene.ask("PUT", "/v1/devices/nobody/trace", 404, {"for_s": 1})
    await scene.ask("PUT", "/v1/revocations", 200, {"kid": "old", "issuer": "https://id.example"})
    await scene.ask("PUT", "/v1/revocations", 200, {"issued_before": 1, "device_id": "gone"})
    await scene.ask("PUT", "/v1/revocations", 200, {"device_id": "gone"})
    await scene.ask("PUT", "/v1/revocations", 400, raw=b"{}", headers={"Content-Type": "application/json"})
    await scene.ask("GET", "/v1/cluster", 200)
    for method, path in [("GET", "/v1/devices"), ("GET", "/v1/cluster"), ("POST", doors), ("PUT", "/v1/revocations")]:
        await scene.ask(method, path, 401, token=None)
        await scene.ask(method, path, 403, token=scene.node.token("door-1", "device"))
    inside = Api(scene.log, f"127.0.0.1:{scene.node.internal}", "openapi-internal")
    for path in ("/livez", "/readyz", "/readyz?verbose", "/metrics"):
        await asyncio.to_thread(inside.ask, "GET", path, 200)


async def from_kafka(scene):
    """The topic of commands, and the dead letters of what is none."""
    order = {"topic": "commands", "key": f"{rig.TENANT}/door-1", "headers": {"ce_id": "order-1"}, "value": OPEN}
    wrong = [order | {"value": {"name": "open"}}, order | {"value": OPEN | {"wait_s": 5}}, order | {"key": "door-1"}]
    for record, is_wrong in [(order, False), *((record, True) for record in wrong)]:
        headers = [(name, value.encode()) for name, value in record["headers"].items()]
        value = json.dumps(record["value"])
        await asyncio.to_thread(rig.produce, scene.node, "commands", record["key"], value, headers)
        scene.log.record(record, "in", is_wrong)


async def leave(scene):
    async with scene.device("sensor-1", "?boot=b3") as device, Socket(scene.log, scene.base, "app", scene.app) as app:
        await device.get("welcome")
        await app.get("welcome")
        scene.node.leave()
        await device.get("goaway")
        await app.get("goaway")


def enough(scene):
    """Waits until what was told is in Kafka: the dead letters are the last of it."""
    for _ in range(600):
        if len([record for record in rig.records(scene.node, ["dead-letter"])]) >= 3:
            return
        time.sleep(0.1)
    raise RuntimeError("three dead letters are not there")


async def play(scene):
    await asyncio.gather(
        device_says(scene, "sensor-1", "tidegate.v1.json"),
        device_says(scene, "sensor-2", "tidegate.v1.cbor"),
        too_fast_and_expiring(scene),
        ends(scene),
        handshakes(scene),
        commands(scene),
    )
    await asyncio.to_thread(enough, scene)
    await leave(scene)


def main():
    program, out = sys.argv[1:]
    with rig.node(program) as node:
        scene = Scene(node)
        asyncio.run(play(scene))
        node.process.wait(60)
        for record in rig.records(node, ["telemetry", "status", "command-events", "dead-letter", "revocations"]):
            scene.log.record(record, "out")
    pathlib.Path(out).write_text("".join(json.dumps(entry) + "\n" for entry in scene.log))


main()
