"""What the code says its metrics are: read from src/telemetry, so that nothing here can speak of a metric nobody has."""

import dataclasses
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
METRICS = ROOT / "src" / "telemetry" / "metrics.rs"
LABELS = ROOT / "src" / "telemetry" / "metrics" / "labels.rs"
LOADTEST = ROOT / "loadtest" / "src"
SUFFIXES = ("_bucket", "_sum", "_count")

# What Prometheus and the chart's monitors add to every series.
TARGET_LABELS = {"job", "instance", "namespace", "pod", "container", "service", "endpoint"}

# The collector that the `prometheus` crate brings for Linux; what a running node shows is held against this.
PROCESS = {
    "process_cpu_seconds_total": ("counter", "CPU time, user and system."),
    "process_open_fds": ("gauge", "Open file descriptors."),
    "process_max_fds": ("gauge", "How many there may be (`ulimit -n`)."),
    "process_virtual_memory_bytes": ("gauge", "Virtual memory."),
    "process_resident_memory_bytes": ("gauge", "Memory that is really held."),
    "process_start_time_seconds": ("gauge", "When the process began, Unix seconds."),
    "process_threads": ("gauge", "Threads of the operating system."),
}


@dataclasses.dataclass
class Metric:
    """One family of series. `labels`: a set of values by label, `None` where any value may stand."""

    name: str
    kind: str
    meaning: str
    labels: dict = dataclasses.field(default_factory=dict)
    enums: dict = dataclasses.field(default_factory=dict)
    buckets: list = dataclasses.field(default_factory=list)

    def series(self):
        """The names that queries use."""
        return [self.name + suffix for suffix in SUFFIXES] if self.kind == "histogram" else [self.name]


class Unreadable(Exception):
    """The source is not written as this reader knows it: teach it the new way."""


def enums():
    """For each enum of label values: its description, and for each value its own."""
    found = {}
    body = LABELS.read_text().split("labels! {\n", 1)[1].split("\n}\n", 1)[0]
    for block in re.finditer(r"((?:^    /// [^\n]*\n)+)    (\w+) \{\n(.*?)\n    \}", body + "\n", re.S | re.M):
        values, doc = {}, []
        for line in block[3].splitlines():
            line = line.strip()
            if line.startswith("///"):
                doc.append(line[3:].strip())
            else:
                value = re.fullmatch(r'\w+ = "([\w-]+)",', line)
                if not value:
                    raise Unreadable(f"{LABELS}: {line}")
                values[value[1]], doc = " ".join(doc), []
        found[block[2]] = (" ".join(line.strip()[3:].strip() for line in block[1].splitlines()), values)
    return found


def fields(text):
    """For each field of `Series`: its type and its description."""
    body = text.split("pub struct Series {", 1)[1].split("\n}\n", 1)[0]
    pattern = r"((?:    /// .*\n)+)    pub (\w+): (.+),\n"
    return {
        match[2]: (match[3], " ".join(line.strip()[3:].strip() for line in match[1].splitlines()))
        for match in re.finditer(pattern, body + "\n")
    }


def boundaries(text):
    lists = re.finditer(r"const (\w+): &\[f64\] = &\[([^\]]*)\];", text)
    return {
        match[1]: [float(number.replace("_", "")) for number in match[2].split(",") if number.strip()]
        for match in lists
    }


def node():
    """Every metric of a node, by name."""
    text, known = METRICS.read_text(), enums()
    types, buckets = fields(text), boundaries(text)
    kinds = {"IntCounter": "counter", "IntGauge": "gauge", "Gauge": "gauge", "Histogram": "histogram"}
    found, made = {}, set()
    for line in re.finditer(r"^ {12}(\w+): make\.(\w+)\((.*)\)\?,$", text, re.M):
        field, how, args = line[1], line[2], line[3]
        made.add(field)
        names = re.findall(r'"((?:[^"\\]|\\.)*)"', args)
        labels = names[2:]
        rust, meaning = types.get(field) or ("Gauge", names[1])
        inner = [part.strip() for part in re.sub(r"^\w+<|>$", "", rust).split(",")] if "<" in rust else [rust]
        if (
            how not in ("plain", "one", "family", "timed", "grid")
            or len(labels) != len(inner) - 1
            or inner[-1] not in kinds
        ):
            raise Unreadable(f"{METRICS}: {field}: {rust}, {how}")
        # A field may lean on the one before it, which a table does not show.
        metric = Metric("tidegate_" + names[0], kinds[inner[-1]], names[1] if "the same" in meaning else meaning)
        metric.enums = dict(zip(labels, inner))
        metric.labels = {label: set(known[enum][1]) for label, enum in metric.enums.items()}
        if metric.kind == "histogram":
            metric.buckets = next((buckets[name] for name in buckets if re.search(rf"\b{name}\b", args)), None)
            if not metric.buckets:
                raise Unreadable(f"{METRICS}: {field}: no boundaries")
        found[metric.name] = metric
    missing = set(types) - made
    if missing or len(found) < 30:
        raise Unreadable(f"{METRICS}: {sorted(missing)} are not made in a line of their own")
    for name, help_text in re.findall(r'make\.one\("(probe_\w+)", "([^"]+)"', text):
        found["tidegate_" + name] = Metric(
            "tidegate_" + name, "gauge", help_text, {"path": set(known["ProbePath"][1])}, {"path": "ProbePath"}
        )
    build = re.search(r'"build_info", "([^"]+)"', text)
    found["tidegate_build_info"] = Metric("tidegate_build_info", "gauge", build[1], {"version": None})
    for name, (kind, meaning) in PROCESS.items():
        found[name] = Metric(name, kind, meaning)
    return found


def loadtest():
    """Every metric of the load tester, by name; nothing where its exporter is not there."""
    figures, families = LOADTEST / "figures.rs", LOADTEST / "exporter" / "families.rs"
    if not families.exists():
        return {}
    text, made = figures.read_text(), families.read_text()
    sets = {}
    for name in ("Count", "Timing"):
        body = re.search(rf"^    {name} \{{\n(.*?)\n    \}}", text, re.S | re.M)
        sets[name] = re.findall(r'= "(\w+)",', body[1])
    head = "tidegate_loadtest_"
    found = {f"{head}{count}_total": Metric(f"{head}{count}_total", "counter", "") for count in sets["Count"]}
    labels = {
        "closes_total": {"code": None},
        "duration_seconds": {"timing": set(sets["Timing"])},
        "info": {"profile": None, "target": None, "version": None},
    }
    for name in re.findall(r'"((?:\w+_(?:total|seconds|connected|wanted|paused|in_flight))|info|warnings)"', made):
        kind = "histogram" if name == "duration_seconds" else "counter" if name.endswith("_total") else "gauge"
        found[head + name] = Metric(head + name, kind, "", labels.get(name, {}))
    return found
