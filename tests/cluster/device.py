"""A device of the tests on websocket-client: it comes back, answers commands once, and prints what it is told.

    python device.py URL TOKEN CA BOOT
"""

import json
import sys
import time

import websocket

URL, TOKEN, CA, BOOT = sys.argv[1:5]
answers = {}  # What each command was answered, so that one that comes again is not done again.


def say(what, message):
    print(json.dumps({what: message}), flush=True)


def obey(ws, command):
    answer = answers.get(command["id"])
    if answer is None:
        say("did", command["id"])
        ws.send(json.dumps({"type": "ack", "id": command["id"], "status": "received"}))
        answer = {"type": "ack", "id": command["id"], "status": "succeeded", "result": {"did": command["params"]}}
        answers[command["id"]] = answer
    ws.send(json.dumps(answer))


def run():
    ws = websocket.create_connection(
        f"{URL}/v1/device?boot={BOOT}",
        header=[f"Authorization: Bearer {TOKEN}"],
        sslopt={"ca_certs": CA},
        timeout=60,
    )
    while True:
        text = ws.recv()
        if not text:
            say("closed", ws.status if ws.status else None)
            return
        message = json.loads(text)
        say("told", message)
        if message["type"] == "command":
            obey(ws, message)
        elif message["type"] == "goaway":
            ws.close()
            return


while True:
    try:
        run()
    except (websocket.WebSocketException, OSError) as error:
        say("lost", str(error))
    time.sleep(0.3)
