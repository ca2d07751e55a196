"""`device.py`, which also takes firmware: docs/firmware-updates.md tells the pattern.

    pip install websockets
    python3 firmware.py --url ws://localhost:8080 --state state

A real device has two slots and a boot loader; this one has a folder: `version` is what runs, `next` what was downloaded
and is tried at the next start, `fell-back` what was tried and did not work.
"""

import asyncio
import hashlib
import json
import os
import pathlib
import sys
import urllib.request

import device


class Updatable(device.Device):
    def __init__(self, options):
        super().__init__(options)
        self.state = pathlib.Path(options.state)
        self.state.mkdir(exist_ok=True)
        self.handlers["firmware"] = self.firmware
        self.try_next()
        device.say("running", self.version())

    def read(self, name):
        file = self.state / name
        return file.read_text() if file.exists() else None

    def version(self):
        return self.read("version") or "1.0.0"

    def try_next(self):
        """What a boot loader does: starts what was downloaded, and keeps it if it works."""
        if (pending := self.read("next")) is None:
            return
        (self.state / "next").unlink()
        wanted, image = json.loads(pending), (self.state / "image").read_bytes()
        works = not image.startswith(b"BROKEN")
        (self.state / ("version" if works else "fell-back")).write_text(wanted["version"])

    async def firmware(self, wanted):
        """The same command comes again after the restart: then there is only something to be said."""
        if self.version() == wanted["version"]:
            return {"version": self.version()}
        if self.read("fell-back") == wanted["version"]:
            raise RuntimeError(f"{wanted['version']} did not start: {self.version()} runs again")
        image = await asyncio.to_thread(self.download, wanted["url"], wanted["bytes"])
        if hashlib.sha256(image).hexdigest() != wanted["sha256"]:
            raise RuntimeError("the download is not what was announced")
        (self.state / "image").write_bytes(image)
        (self.state / "next").write_text(json.dumps(wanted))
        device.say("restarting into", wanted["version"])
        # Without an answer: the next boot gives it.
        os.execv(sys.executable, [sys.executable, *sys.argv])

    def download(self, url, size):
        """In pieces, and on from where it broke off: networks of devices break often."""
        part = self.state / "image.part"
        done = part.read_bytes() if part.exists() else b""
        request = urllib.request.Request(url, headers={"Range": f"bytes={len(done)}-"} if done else {})
        with urllib.request.urlopen(request, timeout=30) as answer:
            with part.open("ab" if answer.status == 206 else "wb") as file:
                while file.tell() <= size and (piece := answer.read(16 * 1024)):
                    file.write(piece)
        image = part.read_bytes()
        if len(image) < size:
            raise RuntimeError(f"{len(image)} of {size} bytes: the next try goes on there")
        part.unlink()
        return image


if __name__ == "__main__":
    arguments = device.parser()
    arguments.add_argument("--state", default="state", help="the folder that stands for its flash")
    device.main(Updatable(arguments.parse_args()))
