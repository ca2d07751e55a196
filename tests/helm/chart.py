"""Rendering the chart by helm, each rendering once."""

import concurrent.futures
import functools
import json
import os
import pathlib
import subprocess
import tempfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "tidegate"
CI = sorted((CHART / "ci").glob("*-values.yaml"))
# What is rendered to be checked: a name for each, and its files of values. k8s/ is made from the chart too.
_BASE = ROOT / "k8s" / "base-values.yaml"
SETS = [(file.name, [file]) for file in CI] + [
    ("k8s-base.yaml", [_BASE]),
    *((f"k8s-{name}.yaml", [_BASE, ROOT / "k8s" / f"{name}-values.yaml"]) for name in ("dev", "ha")),
]
RELEASE, NAMESPACE = "gw", "iot"


class Refused(Exception):
    """Helm rendered nothing; the text says why."""


def helm(*args):
    run = subprocess.run(["helm", *map(str, args)], capture_output=True, text=True)
    if run.returncode != 0:
        raise Refused(run.stderr.strip() or run.stdout.strip())
    return run.stdout


@functools.cache
def _render(chart, files, values, version, notes):
    command = ["install", "--dry-run=client", "--no-hooks"] if notes else ["template"]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as extra:
        extra.write(values)
        extra.flush()
        args = [f"--values={file}" for file in files]
        if not notes:
            args += [f"--kube-version={version}"]
        return helm(*command, RELEASE, chart, f"--namespace={NAMESPACE}", *args, f"--values={extra.name}")


def text_of(files=(), values=None, version="1.34.0", notes=False, chart=CHART):
    """What helm prints for some files of values and, over them, further values."""
    return _render(str(chart), tuple(map(str, files)), json.dumps(values or {}), version, notes)


def objects_by_template(text):
    """The objects of each template, by its path below `templates/`."""
    found = {}
    source = ""
    for document in text.split("\n---\n"):
        for line in document.splitlines():
            if line.startswith("# Source: "):
                source = line.removeprefix("# Source: ").split("/templates/", 1)[-1]
        loaded = yaml.load(document, Loader=yaml.CSafeLoader)
        if loaded:
            found.setdefault(source, []).append(loaded)
    return found


def objects_of(text):
    return [item for items in objects_by_template(text).values() for item in items]


def in_parallel(work, items):
    """The results in order; helm takes one core for a moment each time."""
    with concurrent.futures.ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
        return list(pool.map(work, items))
