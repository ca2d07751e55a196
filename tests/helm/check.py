"""The parts of `tests/helm/run`."""

import pathlib
import subprocess
import sys

import yaml

import image
import kept
import objects
import parts
import together
import tryout
import unit
from chart import CHART, CI, ROOT, Refused, helm, in_parallel, text_of


def generated(binary):
    """values.schema.json and the README's table are what values.yaml and the configuration say."""
    command = [sys.executable, ROOT / "helm" / "generate", "--check"] + (["--bin", binary] if binary else [])
    run = subprocess.run(command, capture_output=True, text=True)
    return ([run.stderr.strip()] if run.returncode else []), "schema and table of values"


def lint(_):
    def one(file):
        try:
            helm("lint", "--strict", "--quiet", CHART, f"--values={file}")
        except Refused as error:
            return [f"{file.name}: {error}"]
        return []

    return sum(in_parallel(one, CI), []), f"{len(CI)} files of values linted"


def refusals(_):
    """What must not be rendered, and the words that say so."""
    cases = yaml.safe_load((pathlib.Path(__file__).parent / "refusals.yaml").read_text())

    def one(case):
        files = [] if case.get("bare") else [CHART / "ci" / f"{case.get('base', 'default')}-values.yaml"]
        try:
            text_of(files, case["set"])
        except Refused as error:
            text = " ".join(str(error).split())
            return [f"{case['it']}: no word of `{word}` in: {text}" for word in case["says"] if word not in text]
        return [f"{case['it']}: was rendered"]

    return sum(in_parallel(one, cases), []), f"{len(cases)} refusals"


def manifests(_):
    """k8s/ is what the chart renders."""
    run = subprocess.run([sys.executable, ROOT / "k8s" / "render", "--check"], capture_output=True, text=True)
    return ([run.stderr.strip()] if run.returncode else []), "k8s/ and its overlays"


PARTS = {
    "generated": generated,
    "lint": lint,
    "unit": lambda _: unit.check(),
    "objects": lambda _: objects.check(),
    "refusals": refusals,
    "config": objects.check_config,
    "tryout": tryout.check,
    "kept": kept.check,
    "manifests": manifests,
    "image": image.check,
    "together": together.check,
}
NEEDS = {
    "config": ["--bin"],
    "tryout": ["--bin"],
    "image": ["--bin"],
    "together": ["--bin", "TIDEGATE_KAFKA_LIBS"],
}

parts.main(PARTS, NEEDS)
