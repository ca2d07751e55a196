"""A running node's /metrics, held against what was read from the source: names, types, labels and all their values."""

import itertools
import json
import re
import subprocess
import urllib.request

import promql
import source

SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? \S+$")


def scraped(binary):
    """What `tidegate dev` answers at /metrics."""
    node = subprocess.Popen(
        [binary, "dev", "--json", "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        url = json.loads(node.stdout.readline())["metrics_url"]
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()
    finally:
        node.terminate()
        try:
            node.wait(10)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()


def series_of(text):
    types, series = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            types[name] = kind
        elif line and not line.startswith("#"):
            name, labels = SAMPLE.match(line).groups()
            series.setdefault(name, set()).add(frozenset(re.findall(r'(\w+)="([^"]*)"', labels or "")))
    return types, series


def expected(metric):
    """For each name that queries use, every combination of its labels."""
    values = [[(label, value) for value in metric.labels[label]] for label in metric.labels]
    plain = {frozenset(combination) for combination in itertools.product(*values)}
    for name in metric.series():
        bounds = [promql.number(bound) for bound in metric.buckets] + ["+Inf"]
        yield name, {one | {("le", bound)} for one in plain for bound in bounds} if name.endswith("_bucket") else plain


def check(binary):
    types, series = series_of(scraped(binary))
    metrics, found = source.node(), []
    found += [f"a node has no {name}" for name in metrics if name not in types]
    found += [f"nothing is written of {name}" for name in types if name not in metrics]
    for name, metric in metrics.items():
        if name not in types:
            continue
        if types[name] != metric.kind:
            found.append(f"{name} is a {types[name]}, not a {metric.kind}")
        if None in metric.labels.values():
            continue
        for one, wanted in expected(metric):
            if series.get(one) != wanted:
                odd = sorted(map(sorted, series.get(one, set()) ^ wanted))[:3]
                found.append(f"{one}: {odd} are only on one side")
    return found, f"{sum(map(len, series.values()))} series of a running node"
