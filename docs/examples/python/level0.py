"""A device at level 0: it sends updates and ignores every message and field it does not know.

    pip install websocket-client
    python level0.py                        # beside `make run`, which needs no token on this machine
    python level0.py ws://host:8080 10      # another gateway; stop after 10 messages

At level 0 nothing is numbered, so nothing is acked: what was on its way as a connection broke may be lost.
../device.py loses nothing.
"""

import json
import random
import sys
import threading
import time
from datetime import datetime, timezone

import websocket

URL = sys.argv[1] if len(sys.argv) > 1 else "ws://localhost:8080"
COUNT = int(sys.argv[2]) if len(sys.argv) > 2 else 0  # 0: for ever
EVERY_S = float(sys.argv[3]) if len(sys.argv) > 3 else 2.0

sent = 0


def on_open(ws):
    print("connected", flush=True)
    threading.Thread(target=send_readings, args=(ws,), daemon=True).start()


def on_message(ws, message):
    print("received", message, flush=True)


def on_error(ws, error):
    print("error", error, flush=True)


def on_close(ws, code, reason):
    print("closed", code, reason, flush=True)


def send_readings(ws):
    global sent
    try:
        while COUNT == 0 or sent < COUNT:
            ws.send(json.dumps({
                "device_id": "sensor-001",
                "type": "temperature_update",
                "value": 23.5,
                "timestamp": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }))
            sent += 1
            time.sleep(EVERY_S)
        ws.close()
    except (websocket.WebSocketException, OSError):
        pass  # on_close follows, and the loop below connects again


failures = 0
while COUNT == 0 or sent < COUNT:
    begun = time.monotonic()
    app = websocket.WebSocketApp(URL, on_open=on_open, on_message=on_message, on_error=on_error, on_close=on_close)
    app.run_forever()
    if COUNT == 0 or sent < COUNT:
        # Never after a fixed time: all devices of a gateway that restarts would return together.
        failures = 0 if time.monotonic() - begun > 60 else failures
        time.sleep(random.uniform(0, min(60, 2**failures)))
        failures += 1
