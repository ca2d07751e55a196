"""The parts of `tests/apidocs/run`. Two run at a time."""

import pathlib
import subprocess
import sys
import tempfile

import pages
import parts

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
APIS = ["openapi.json", "openapi-internal.json"]


def lines_of(*command):
    """What a checker printed, a mistake a line and last what it looked at; more where it fell over."""
    run = subprocess.run([*map(str, command)], capture_output=True, text=True)
    *found, said = run.stdout.splitlines() or [""]
    if run.returncode and not found:
        found = [f"{run.stdout}{run.stderr}".strip() or f"ended with {run.returncode}"]
    return found, said


def asyncapi(_):
    return lines_of("node", HERE / "valid.js")


def lint(*files):
    run = subprocess.run(
        ["redocly", "lint", f"--config={HERE / 'redocly.yaml'}", *map(str, files)], capture_output=True, text=True
    )
    return run.returncode, run.stdout + run.stderr


def openapi(_):
    """Redocly takes the documents, and not one that is wrong."""
    code, said = lint(*(ROOT / "docs" / name for name in APIS))
    found = [said] if code else []
    with tempfile.TemporaryDirectory() as folder:
        wrong = pathlib.Path(folder) / "wrong.json"
        text = (ROOT / "docs" / APIS[0]).read_text()
        wrong.write_text(text.replace('"#/components/schemas/Problem"', '"#/components/schemas/Nothing"'))
        if lint(wrong)[0] == 0:
            found.append("redocly takes a document that points to nothing")
    return found, f"{' and '.join(APIS)} by redocly"


def golden(_):
    return lines_of("node", HERE / "judge.js", "golden")


def generated(program):
    run = subprocess.run(
        [sys.executable, ROOT / "docs" / "make" / "generate", "--bin", program, "--check"],
        capture_output=True,
        text=True,
    )
    return (run.stderr.splitlines() if run.returncode else []), "documents and pages are what the code says"


def traffic(program):
    """A live node on real services, and what it said held against the documents."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "traffic.jsonl"
        run = subprocess.run(
            [sys.executable, HERE / "traffic.py", program, file], capture_output=True, text=True, timeout=300
        )
        if run.returncode:
            return [run.stdout + run.stderr], ""
        return lines_of("node", HERE / "judge.js", "traffic", file)


PARTS = {
    "asyncapi": asyncapi,
    "openapi": openapi,
    "golden": golden,
    "pages": lambda _: pages.check(),
    "generated": generated,
    "traffic": traffic,
}
NEEDS = {"generated": ["--bin"], "traffic": ["--bin", "TIDEGATE_TEST_KAFKA", "TIDEGATE_TEST_REDIS"]}

parts.main(PARTS, NEEDS, at_once=2)
