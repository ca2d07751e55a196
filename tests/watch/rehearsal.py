"""`rehearse`, followed by what it says: which nodes are there to be scraped, and since when."""

import os
import pathlib
import re
import signal
import subprocess
import threading
import time
import tomllib

READY = re.compile(r"(gw-\d+(?:, gw-\d+)*) (?:are|is) ready")
ENDED = re.compile(r"(gw-\d+) ended")
KILLED = re.compile(r"(gw-\d+) gets SIGKILL")
# After it was killed a node is a target for so long, as a pod is whose machine is gone; `TidegateNodeDown` takes two minutes.
LISTED_S = 150
WITHIN_S = 20 * 60


def load_metrics(pid):
    """Where the load tester that this process started has its metrics."""
    for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        command = pathlib.Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
        if "--metrics" in command:
            return command[command.index("--metrics") + 1]
    return None


class Rehearsal:
    """One that goes on."""

    def __init__(self, programs, out, prometheus, flags, say):
        self.out, self.prometheus, self.say, self.killed = out, prometheus, say, {}
        command = [programs / "rehearse", "--out", out, "--as", "make watch-live", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)

    def internal(self, name):
        return tomllib.loads((self.out / "nodes" / f"{name}.toml").read_text())["internal"]["listen"]

    def follow(self):
        """Until it ends: whether its own checks held."""
        load, too_late = None, threading.Timer(WITHIN_S, self.end)
        too_late.daemon = True
        too_late.start()
        for line in self.process.stdout:
            self.say(f"  {line.rstrip()}")
            for name in (READY.search(line) or [""])[0].replace(",", "").split():
                if name.startswith("gw-"):
                    self.prometheus.add_node(name, self.internal(name))
            if not load and "connect through it" in line:
                load = load_metrics(self.process.pid)
                self.prometheus.add_load(load)
            if left := ENDED.search(line):
                self.prometheus.remove(self.internal(left[1]))
            if gone := KILLED.search(line):
                self.killed[gone[1]] = time.monotonic()
            if line.rstrip().endswith(" over"):
                self.end_of_targets(load)
        too_late.cancel()
        return self.process.wait() == 0

    def end_of_targets(self, load):
        """Nodes that ended with it are targets no more, but the one that was killed under load."""
        kept = {self.internal(name) for name in self.killed}
        for address in set(self.prometheus.groups) - kept:
            self.prometheus.remove(address)

    def forget_killed(self):
        """Waits until the killed node was a target for long enough."""
        for name, since in self.killed.items():
            time.sleep(max(0, LISTED_S - (time.monotonic() - since)))
            self.prometheus.remove(self.internal(name))

    def end(self):
        """Ends whatever of it still runs, and its children."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
