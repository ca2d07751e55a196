"""The parts of a script of checks, `tests/NAME/run`: run by name, each says what is wrong, and the next goes on.

A part is called with the path of the gateway, or None, and gives a list of what is wrong and a note of what it looked at.
"""

import argparse
import concurrent.futures
import os
import sys
import time
import traceback


def main(parts, needs=None, at_once=1):
    """Runs the parts that the command line names, all where it names none, and exits. `needs` has what a part cannot do
    without: `--bin`, or variables that tests/run sets. So many are run at once; they are told of in their order."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", metavar="TIDEGATE", default=os.environ.get("TIDEGATE_BIN"), help="the gateway")
    parser.add_argument("parts", nargs="*", metavar="PART", help=" ".join(parts))
    options = parser.parse_args()
    if unknown := [part for part in options.parts if part not in parts]:
        parser.error(f"no part is called {', '.join(unknown)}; there are {', '.join(parts)}")
    wanted, there = options.parts or list(parts), os.environ | ({"--bin": options.bin} if options.bin else {})
    lacks = {part: [need for need in (needs or {}).get(part, ()) if need not in there] for part in wanted}
    pool, failed = concurrent.futures.ThreadPoolExecutor(at_once), False
    try:
        jobs = {part: pool.submit(run, parts[part], options.bin) for part in wanted if not lacks[part]}
        for part in wanted:
            if lacks[part]:
                print(f"left out {part}: it needs {', '.join(lacks[part])}", flush=True)
                continue
            mistakes, note, took_s = jobs[part].result()
            print(f"{'FAILED' if mistakes else 'ok':<7} {part}: {note} ({took_s:.1f} s)", flush=True)
            for mistake in mistakes:
                print("  " + mistake.replace("\n", "\n    "), flush=True)
            failed = failed or bool(mistakes)
    finally:
        # Whoever interrupts does not wait for the rest.
        pool.shutdown(cancel_futures=True)
    sys.exit(1 if failed else 0)


def run(check, program):
    begun = time.monotonic()
    try:
        mistakes, note = check(program)
    except Exception:  # whatever it is, the other parts go on
        mistakes, note = [traceback.format_exc().strip()], "fell over"
    return mistakes, note, time.monotonic() - begun
