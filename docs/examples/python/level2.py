"""A device at level 2: what it measured is stored once, whatever happens to the network, the gateway or Kafka.

    pip install websocket-client
    python level2.py --url ws://localhost:8080                        # beside `make run`, without a token
    python level2.py --url wss://gateway.example --token eyJ... [--ca ca.pem] [--count 100] [--every 1]

What a device at this level does:
  * draws a `boot` when it starts, and numbers its updates with `seq`
  * keeps each update until its `ack`; after reconnecting sends what is unacked first, lowest first
  * obeys `pause` and `resume`, and moves to a new connection at `goaway`
  * waits before it reconnects: random(0, min(60 s, 1 s * 2^n)), n starting anew after a minute of connection
  * answers each command id once, and keeps the answer until the command expires
"""

import argparse
import json
import random
import secrets
import ssl
import time
from collections import OrderedDict

import websocket

MAX_KEPT = 10_000  # the oldest go when a device has been offline for that long: gaps in `seq` are fine
ACK_TIMEOUT_S = 60


class Device:
    def __init__(self, options):
        self.options = options
        self.boot = secrets.token_hex(8)
        self.next_seq = 1
        self.kept = OrderedDict()  # seq -> update, until acked or refused
        self.sent_up_to = 0  # on this connection
        self.answers = {}  # command id -> (expires at, answer)
        self.paused = False
        self.window = 64
        self.leave = None  # seconds until we connect elsewhere
        self.last_progress = time.monotonic()
        self.next_measurement = 0.0
        self.retries = 0

    def run(self):
        while not self.done():
            started = time.monotonic()
            self.leave = None
            try:
                self.one_connection()
            except (websocket.WebSocketException, OSError) as error:
                print("connection ended:", error, flush=True)
            if self.done():
                break
            if time.monotonic() - started > 60:
                self.retries = 0
            wait = random.uniform(0, min(60, 2 ** self.retries))
            self.retries += 1
            if self.leave is not None:
                wait = self.leave
            print(f"connecting again in {wait:.1f} s", flush=True)
            time.sleep(wait)
        print("done: all acked", flush=True)

    def done(self):
        count = self.options.count
        return count and self.next_seq > count and not self.kept

    def one_connection(self):
        headers = [f"Authorization: Bearer {self.options.token}"] if self.options.token else []
        separator = "&" if "?" in self.options.url else "?"
        ws = websocket.create_connection(
            f"{self.options.url}{separator}boot={self.boot}",
            header=headers,
            subprotocols=["tidegate.v1.json"],
            sslopt={"ca_certs": self.options.ca} if self.options.ca else {"cert_reqs": ssl.CERT_REQUIRED},
            timeout=10,
        )
        try:
            self.serve(ws)
        finally:
            ws.close()

    def serve(self, ws):
        self.paused, self.sent_up_to = False, 0
        self.last_progress = time.monotonic()
        ws.settimeout(0.2)
        while not self.done():
            self.measure()
            self.send_unacked(ws)
            try:
                text = ws.recv()
                if not text:
                    raise websocket.WebSocketConnectionClosedException("closed by the gateway")
                self.handle(ws, json.loads(text))
            except websocket.WebSocketTimeoutException:
                pass
            if self.leave is not None:
                return
            waits = self.kept and not self.paused
            if waits and time.monotonic() - self.last_progress > ACK_TIMEOUT_S:
                raise websocket.WebSocketTimeoutException("no ack for 60 s")

    def measure(self):
        now = time.monotonic()
        if now < self.next_measurement or (self.options.count and self.next_seq > self.options.count):
            return
        self.next_measurement = now + self.options.every
        if not self.kept:
            self.last_progress = now
        seq = self.next_seq
        self.next_seq += 1
        self.kept[seq] = {
            "type": "update",
            "name": "temperature",
            "value": round(random.uniform(20, 25), 2),
            "timestamp": int(time.time() * 1000),
            "seq": seq,
        }
        if len(self.kept) > MAX_KEPT:
            self.kept.popitem(last=False)

    def send_unacked(self, ws):
        """Sends what was not sent on this connection, lowest first, as far as the window goes."""
        if self.paused:
            return
        in_flight = sum(1 for seq in self.kept if seq <= self.sent_up_to)
        for seq, update in list(self.kept.items()):
            if seq <= self.sent_up_to:
                continue
            if in_flight >= self.window:
                return
            ws.send(json.dumps(update))
            self.sent_up_to = seq
            in_flight += 1

    def handle(self, ws, message):
        kind = message.get("type")
        if kind == "welcome":
            print("welcome", message.get("device_id"), "boot", self.boot, flush=True)
            self.window = message.get("window", 64)
            self.forget_up_to(message.get("resume_after") or 0)
        elif kind == "ack" and "seq" in message:
            self.forget_up_to(message["seq"])
            print("acked", message["seq"], flush=True)
        elif kind == "refused":
            # Settled too: it will never be taken, so it is not sent again.
            print("refused", message, flush=True)
            self.kept.pop(message.get("seq"), None)
        elif kind == "pause":
            self.paused = True
        elif kind == "resume":
            self.paused = False
            self.last_progress = time.monotonic()
        elif kind == "goaway":
            self.leave = message.get("retry_after_ms", 1000) / 1000
        elif kind == "command":
            self.answer(ws, message)
        elif kind == "error":
            print("error", message, flush=True)
        # Everything else is from a newer gateway, and is not for us.

    def forget_up_to(self, seq):
        self.last_progress = time.monotonic()
        while self.kept and next(iter(self.kept)) <= seq:
            self.kept.popitem(last=False)

    def answer(self, ws, command):
        now = time.time() * 1000
        self.answers = {key: kept for key, kept in self.answers.items() if kept[0] > now}
        known = self.answers.get(command["id"])
        if known is None:
            # Run the command here, once.
            print("command", command["name"], command.get("params"), flush=True)
            known = (command["expires_at"], {"type": "ack", "id": command["id"], "status": "succeeded"})
            self.answers[command["id"]] = known
        ws.send(json.dumps(known[1]))


parser = argparse.ArgumentParser(description="A Tidegate device at level 2")
parser.add_argument("--url", default="ws://localhost:8080")
parser.add_argument("--token", default="", help="a device token; none is needed beside `make run`")
parser.add_argument("--ca", default="", help="PEM file with the gateway's certificate authority, for a private one")
parser.add_argument("--count", type=int, default=0, help="end when that many updates are acked; 0: never")
parser.add_argument("--every", type=float, default=1.0, help="seconds between measurements")
Device(parser.parse_args()).run()
