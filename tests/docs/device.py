"""The handbook's device loses nothing when its gateway leaves and another is started in its place."""

import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time

import pages
import source

UPDATES = 40
PATIENCE_S = 40


def wait_for(file, text):
    end = time.monotonic() + PATIENCE_S
    while text not in file.read_text():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def mistakes(said, code):
    found, acks = [], [int(number) for number in re.findall(r"^acked (\d+)$", said, re.M)]
    if code != 0 or f"done: all {UPDATES} acked" not in said:
        found.append(f"it ended with {code}")
    if len(re.findall(r"^welcome ", said, re.M)) < 2 or "goaway: restart" not in said:
        found.append("it was not told to leave, or did not come back")
    if acks != sorted(acks) or acks[-1:] != [UPDATES]:
        found.append(f"its acks are {acks}")
    return [f"{'; '.join(found)}:\n{said}"] if found else []


def check(program):
    address = f"127.0.0.1:{pages.free_port()}"
    with tempfile.TemporaryDirectory() as name:
        log = pathlib.Path(name) / "log"
        command = [f"{os.environ['TIDEGATE_DOCS_VENV']}/bin/python", source.ROOT / "docs" / "examples" / "device.py"]
        command += ["--url", f"ws://{address}", "--count", str(UPDATES), "--every", "0.1"]
        with log.open("w") as out, pages.gateway(program, address) as (first, _):
            with subprocess.Popen(command, stdout=out, stderr=out) as client:
                wait_for(log, "acked ")
                first.send_signal(signal.SIGTERM)
                first.wait(PATIENCE_S)
                with pages.gateway(program, address):
                    try:
                        code = client.wait(PATIENCE_S)
                    except subprocess.TimeoutExpired:
                        client.kill()
                        code = "nothing: it hangs"
        return mistakes(log.read_text(), code), f"{UPDATES} updates through a restart"
