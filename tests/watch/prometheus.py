"""A Prometheus of its own, with the rules as they are shipped: its targets, what it is asked, and which alerts fired."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import source

RULES = source.ROOT / "helm" / "tidegate" / "files" / "rules" / "*.yaml"
SCRAPE_S = 10
JOB = {"namespace": "tidegate", "job": "tidegate/tidegate"}
# Burn alerts judge minutes by the hours before them, which a Prometheus that is minutes old has not: so long all was well, at
# these rates a second, about those of a run. The windows of a day and more need hours to alert, and are not tried.
HISTORY_S = 6 * 3600
BEFORE = {"handshake": 0.5, "publish_acked": 80, "publish_fast": 80, "command_answered": 6, "command_fast": 6}
# Between two samples of what alerts did.
STEP_S = 5


def free_port(address="127.0.0.1"):
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


class Prometheus:
    """Runs until `end`. Its data stays in `folder`, and what is there already it knows."""

    def __init__(self, folder):
        self.folder, self.address = folder, f"127.0.0.1:{free_port()}"
        folder.mkdir(parents=True, exist_ok=True)
        self.listed, self.groups = folder / "targets.json", {}
        self._list()
        config = folder / "prometheus.yml"
        config.write_text(
            f"global: {{scrape_interval: {SCRAPE_S}s, scrape_timeout: {SCRAPE_S - 2}s, evaluation_interval: {SCRAPE_S}s}}\n"
            f"rule_files: ['{RULES}']\n"
            "scrape_configs:\n"
            "  - job_name: all\n"
            f"    file_sd_configs: [{{files: ['{self.listed}'], refresh_interval: 5s}}]\n"
        )
        if not (folder / "data").exists():
            self._remember()
        flags = [
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.address}",
        ]
        with open(folder / "prometheus.log", "w") as log:
            self.process = subprocess.Popen(["prometheus", *flags], stdout=log, stderr=log)
        try:
            self._begin()
        except BaseException:
            self.end()
            raise

    def _begin(self):
        until(30, self._is_ready, "Prometheus is ready")
        groups = self.ask("rules")["groups"]
        broken = [rule["name"] for group in groups for rule in group["rules"] if rule.get("lastError")]
        if broken or not groups:
            raise RuntimeError(f"Prometheus did not take the rules: {broken}")

    def _remember(self):
        """What would have been recorded of hours in which all was well."""
        now, lines = int(time.time()), []
        for slo, each in BEFORE.items():
            labels = ",".join(f'{label}="{value}"' for label, value in {**JOB, "slo": slo}.items())
            for what, value in (("errors", 0), ("total", each)):
                times = range(now - HISTORY_S, now, SCRAPE_S)
                lines += [f"tidegate:slo_{what}:rate5m{{{labels}}} {value} {at}" for at in times]
        history = self.folder / "history.txt"
        history.write_text("\n".join([*lines, "# EOF\n"]))
        make = ["promtool", "tsdb", "create-blocks-from", "openmetrics", history, self.folder / "data"]
        subprocess.run(make, check=True, capture_output=True)

    def _is_ready(self):
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=5):
                return True
        except OSError:
            return False

    def _list(self):
        groups = [{"targets": [address], "labels": labels} for address, labels in self.groups.items()]
        part = self.listed.with_suffix(".part")
        part.write_text(json.dumps(groups, indent=1))
        part.rename(self.listed)

    def add_node(self, name, address):
        """With the labels that a PodMonitor of the chart gives a pod."""
        self.groups[address] = {**JOB, "pod": name, "container": "tidegate", "endpoint": "internal"}
        self._list()

    def add_load(self, address):
        self.groups[address] = {"job": "loadtest"}
        self._list()

    def remove(self, address):
        if self.groups.pop(address, None):
            self._list()

    def ask(self, what, **parameters):
        url = f"http://{self.address}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{parameters}: {error.read().decode()}") from error

    def over(self, query, begin, end, step):
        """Series of a range: their labels, and times with numbers."""
        found = self.ask("query_range", query=query, start=begin, end=end, step=step)["result"]
        return [
            (one["metric"], [(float(at), float(value)) for at, value in one["values"] if value != "NaN"])
            for one in found
        ]

    def now(self, query):
        return self.ask("query", query=query)["result"]

    def with_devices(self, at):
        """Nodes that had devices then: one that came back has none until somebody connects."""
        query = 'sum by (pod) (tidegate_connections{kind="device",state="open"}) > 0'
        return {one["metric"]["pod"] for one in self.ask("query", query=query, time=at)["result"]}

    def unsettled(self):
        """Alerts that fire or are about to."""
        return {one["metric"]["alertname"] for one in self.now('ALERTS{alertname=~"Tidegate.*"}')}

    def fires(self, alert):
        return bool(self.now(f'ALERTS{{alertname="{alert}",alertstate="firing"}}'))

    def fired(self, begin, end):
        """Every alert that fired: its labels, and from when until when, as often as it did."""
        found = []
        for labels, values in self.over('ALERTS{alertstate="firing"}', begin, end, STEP_S):
            times = [at for at, _ in values]
            first = 0
            for number in range(1, len(times) + 1):
                if number == len(times) or times[number] - times[number - 1] > 2 * STEP_S:
                    found.append((labels, times[first], times[number - 1]))
                    first = number
        return sorted(found, key=lambda one: (one[1], one[0]["alertname"]))

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def until(within, there, what):
    """Waits for what `there` returns."""
    end = time.monotonic() + within
    while True:
        found = there()
        if found:
            return found
        if time.monotonic() > end:
            raise RuntimeError(f"not within {within} s: {what}")
        time.sleep(0.25)
