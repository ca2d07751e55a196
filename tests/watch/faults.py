"""Three nodes behind HAProxy under load, made of what a rehearsal left, and what is done to them and their neighbours."""

import copy
import json
import os
import signal
import socket
import subprocess
import time
import tomllib
import urllib.request

from prometheus import free_port, until

HAPROXY = """
defaults
    mode tcp
    maxconn 20000
    retries 0
    timeout connect 5s
    timeout client 10m
    timeout server 10m
frontend public
    bind 127.0.0.1:{port}
    default_backend nodes
backend nodes
    balance leastconn
    option httpchk GET /readyz
    http-check expect status 200
"""

# Only who is quiet for longer than a heartbeat is pinged.
QUIET = """
[[groups]]
name = "quiet"
share = 10
data = "climate"
every_s = 120
"""


def toml(tables):
    """A configuration as TOML; what JSON makes of its values is TOML too."""
    return "".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
        for name, table in tables.items()
    )


def without_settings():
    """The environment, less what would configure a node."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}


class Cluster:
    """Nodes `one`, `two` and `three`; everything ends with `end`."""

    NAMES = ("one", "two", "three")

    def __init__(self, programs, site, folder, prometheus, devices):
        self.programs, self.site, self.folder, self.prometheus = programs, site, folder, prometheus
        self.running, self.addresses = {}, {}
        folder.mkdir(parents=True, exist_ok=True)
        settings = tomllib.loads((site / "gw-1.toml").read_text())
        settings["kafka"]["brokers"] = os.environ["TIDEGATE_TEST_KAFKA"]
        settings["redis"]["urls"] = [os.environ["TIDEGATE_TEST_REDIS"]]
        self.prefix = settings["kafka"]["topic_prefix"]
        for number, name in enumerate(self.NAMES):
            one, address = copy.deepcopy(settings), f"127.0.0.{31 + number}"
            one["node"]["name"] = name
            for part in ("public", "internal", "peer"):
                one[part]["listen"] = f"{address}:{free_port(address)}"
            self.addresses[name] = one
            (folder / f"{name}.toml").write_text(toml(one))
        topics = ["topics", "--apply", "--replication-factor", "1", "--partitions", "6"]
        command = [programs / "tidegate", *topics, "--config", folder / "one.toml"]
        subprocess.run(command, check=True, capture_output=True, env=without_settings())
        try:
            for name in self.NAMES:
                self.start(name)
            self.front = self.start_front()
            self.start_load(devices)
        except BaseException:
            self.end()
            raise

    def run(self, name, *command):
        with open(self.folder / f"{name}.log", "a") as log:
            self.running[name] = subprocess.Popen(command, stdout=log, stderr=log, env=without_settings())

    def internal(self, name):
        return self.addresses[name]["internal"]["listen"]

    def start(self, name):
        """A node; it is a target from its beginning, as a pod is."""
        self.run(name, self.programs / "tidegate", "serve", "--config", self.folder / f"{name}.toml")
        self.prometheus.add_node(name, self.internal(name))
        until(60, lambda: answers(f"http://{self.internal(name)}/readyz"), f"{name} is ready")

    def start_front(self):
        port = free_port()
        text = HAPROXY.format(port=port)
        for name, one in self.addresses.items():
            address, _, internal = one["internal"]["listen"].partition(":")
            check = f"check addr {address} port {internal} inter 1s fall 4 rise 1"
            text += f"    server {name} {one['public']['listen']} send-proxy-v2 {check}\n"
        (self.folder / "haproxy.cfg").write_text(text)
        debian = "/usr/sbin/haproxy"
        haproxy = debian if os.path.exists(debian) else "haproxy"
        self.run("haproxy", haproxy, "-db", "-f", self.folder / "haproxy.cfg")
        until(20, lambda: accepts(port), "HAProxy accepts")
        # Nobody gets anything before its first check.
        time.sleep(2)
        return port

    def start_load(self, devices):
        """The rehearsal's own load, until `end_load`."""
        metrics, site = f"127.0.0.1:{free_port()}", self.site
        flags = ["--plain", "--tenant", "faults", "--give-up", "20m", "--devices", str(devices), "--metrics", metrics]
        flags += ["--target", f"wss://127.0.0.1:{self.front}", "--ca", site / "public-ca.pem"]
        flags += ["--signing-key", site / "signing-key.pem", "--out", self.folder / "load"]
        flags += ["--kafka", os.environ["TIDEGATE_TEST_KAFKA"], "--topic-prefix", self.prefix, "--check-within", "5m"]
        profile = self.folder / "profile.toml"
        profile.write_text((site / "profile.toml").read_text() + QUIET)
        self.run("load", self.programs / "tidegate-loadtest", "run", profile, *flags)
        self.prometheus.add_load(metrics)

    def stand(self, seconds):
        """So long nothing is done; what was started has to go on."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for name, process in self.running.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended: {(self.folder / f'{name}.log').read_text()[-2000:]}")
            time.sleep(1)

    def kill(self, name):
        """As a crash does. It stays a target, as a pod does whose container ended."""
        self.running[name].kill()
        self.running.pop(name).wait()

    def end_load(self):
        """Ends the load: what it says of what was acked."""
        load = self.running.pop("load")
        load.send_signal(signal.SIGINT)
        code = load.wait(420)
        ledger = json.loads((self.folder / "load" / "summary.json").read_text())["ledger"]
        counts = {what: ledger[what] for what in ("acked", "stored", "lost", "doubled", "reordered")}
        return code, ", ".join(f"{count} {what}" for what, count in counts.items())

    def end(self):
        for process in self.running.values():
            process.kill()
        for process in self.running.values():
            process.wait()
        for name in self.NAMES:
            self.prometheus.remove(self.internal(name))


def accepts(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 2):
            return True
    except OSError:
        return False


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


class Stopped:
    """A process that stands still in between, as one does that nobody can reach: it goes on however this ends."""

    def __init__(self, pid):
        self.pid = pid

    def __enter__(self):
        os.kill(self.pid, signal.SIGSTOP)

    def __exit__(self, *_):
        os.kill(self.pid, signal.SIGCONT)


def pid_of(what):
    """Of Kafka or Redis, where `tests/run` started it."""
    pid = os.environ.get(f"TIDEGATE_TEST_{what}_PID")
    if not pid:
        raise RuntimeError(f"TIDEGATE_TEST_{what}_PID is not set: start this by tests/run, with services of its own")
    return int(pid)
