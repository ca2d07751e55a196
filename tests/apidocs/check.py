"""The parts of `tests/apidocs/run`, each of which says what is wrong. Two run at a time."""

import argparse
import concurrent.futures
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import pages

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


ALONE = {"asyncapi": asyncapi, "openapi": openapi, "golden": golden, "pages": lambda _: pages.check()}
WITH_PROGRAM = {"generated": generated, "traffic": traffic}
SERVICES = ["TIDEGATE_TEST_KAFKA", "TIDEGATE_TEST_REDIS"]


def left_out(part, options):
    """Why a part cannot be run; nothing where it can."""
    if part in WITH_PROGRAM and not options.bin:
        return "it needs --bin"
    lacks = [name for name in SERVICES if part == "traffic" and not os.environ.get(name)]
    return f"it needs {' and '.join(lacks)}" if lacks else None


def timed(check, program):
    begun = time.monotonic()
    found, said = check(program)
    return found, f"{said} ({time.monotonic() - begun:.1f} s)"


def main():
    parts = ALONE | WITH_PROGRAM
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", help="the gateway")
    parser.add_argument("part", nargs="*", help=" ".join(parts))
    options = parser.parse_args()
    wanted = options.part or list(parts)
    if unknown := [part for part in wanted if part not in parts]:
        parser.error(f"there is no part {unknown[0]}")
    without = {part: why for part in wanted if (why := left_out(part, options))}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        jobs = {part: pool.submit(timed, parts[part], options.bin) for part in wanted if part not in without}
    failed = False
    for part, job in jobs.items():
        found, said = job.result()
        failed |= bool(found)
        print(f"{part}: {f'{len(found)} mistakes' if found else said}")
        for mistake in found:
            print(f"  {mistake}")
    for part, why in without.items():
        print(f"{part}: left out, as {why}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
