"""`tests/watch/run --live`: a real Prometheus with the shipped rules looks at real nodes under load while they are rolled out,
scaled, killed, and cut off from Redis and Kafka. Every query of every dashboard has to show something, exactly the alerts that
belong to what was done have to fire, and each dashboard is drawn."""

import argparse
import json
import os
import pathlib
import shutil
import signal
import sys
import time

import dashboards
import draw
import expected
import faults
import shown
from prometheus import Prometheus, until
from rehearsal import Rehearsal

CALM_S = 135
# Longer than any `for` of what a stopped Redis and a killed node fire; longer than that of TidegateDevicesPaused.
REDIS_STOPPED_S, KAFKA_STOPPED_S = 150, 345
# How long alerts may take to end after a fault is over.
SETTLED_S = 480


class Phases:
    """What was done, from when until when."""

    def __init__(self):
        self.all, self.began = [], time.monotonic()

    def begin(self, name):
        self.end()
        self.all.append([name, time.time(), None])
        say(f"--- {name}")

    def end(self):
        if self.all and self.all[-1][2] is None:
            self.all[-1][2] = time.time()

    def of(self, name):
        return next(((begin, end) for phase, begin, end in self.all if phase == name), None)


def say(text):
    print(text, flush=True)


def settle(prometheus):
    """Until no alert fires or is about to."""
    began = time.monotonic()
    try:
        until(SETTLED_S, lambda: not prometheus.unsettled(), "alerts end")
    except RuntimeError:
        say(f"  after {SETTLED_S} s there are still {', '.join(sorted(prometheus.unsettled()))}")
        return
    say(f"  settled after {time.monotonic() - began:.0f} s")


def rehearse(args, prometheus, phases):
    """The rehearsal itself; whether its checks held is its own matter, and told."""
    flags = ["--quick"] if args.quick else []
    flags += ["--devices", str(args.devices)]
    phases.begin("rehearsal, quick" if args.quick else "rehearsal")
    rehearsal = Rehearsal(args.bins, args.out / "rehearsal", prometheus, flags, say)
    try:
        held = rehearsal.follow()
        rehearsal.forget_killed()
    finally:
        rehearsal.end()
    return [] if held else ["the rehearsal's own checks do not all hold: see above"]


def endure(args, prometheus, phases):
    """One fault after the other on three nodes under load."""
    found = []
    cluster = faults.Cluster(args.bins, args.out / "rehearsal" / "nodes", args.out / "faults", prometheus, args.devices)
    try:
        phases.begin("calm")
        cluster.stand(CALM_S)
        if "killed" in args.faults:
            phases.begin("node killed")
            cluster.kill("one")
            # Another alert would have to come soon after.
            until(240, lambda: prometheus.fires("TidegateNodeDown"), "TidegateNodeDown fires")
            cluster.stand(30)
            cluster.start("one")
            settle(prometheus)
        if "redis" in args.faults:
            phases.begin("Redis stopped")
            with faults.Stopped(faults.pid_of("REDIS")):
                cluster.stand(REDIS_STOPPED_S)
            settle(prometheus)
        if "kafka" in args.faults:
            phases.begin("Kafka stopped")
            with faults.Stopped(faults.pid_of("KAFKA")):
                cluster.stand(KAFKA_STOPPED_S)
            settle(prometheus)
        phases.begin("end")
        code, ledger = cluster.end_load()
        say(f"  the load's own verdict: exit code {code}; {ledger}")
        if code:
            found.append(f"the load tester ended with {code}; {ledger}")
    finally:
        cluster.end()
    return found


def judged(prometheus, phases):
    """Which alerts fired in which phase, and what of that is not as it should be."""
    found, lines = [], []
    for name, begin, end in phases.all:
        # Each is of the phase in which it began.
        fired = [one for one in prometheus.fired(phases.all[0][1], end) if begin <= one[1] < end]
        found += expected.mistakes(name, [labels for labels, _, _ in fired], prometheus.with_devices(begin))
        lines.append(f"{name}: {end - begin:.0f} s" + ("" if fired else ", nothing fired"))
        for labels, first, last in fired:
            about = " ".join(
                f"{label}={labels[label]}" for label in ("pod", "topic", "slo", "window") if label in labels
            )
            lines.append(f"    {labels['alertname']} {about}: after {first - begin:.0f} s, for {last - first:.0f} s")
    return found, lines


def looked_at(args, prometheus, phases):
    """Dashboards over everything, and over the calm time alone: what shows nothing, and pictures."""
    found = shown.unmet_variables(prometheus)
    spans = {"whole": (phases.all[0][1], phases.all[-1][2])}
    if phases.of("calm"):
        spans["calm"] = phases.of("calm")
    for span, (begin, end) in spans.items():
        boards = shown.of(prometheus, begin, end)
        folder = args.out / "pictures" / span
        folder.mkdir(parents=True)
        count = 0
        for name, panels in boards.items():
            count += sum(len(panel.made["targets"]) for panel in panels)
            for panel in panels:
                # In calm times a panel may be empty that says what that means; over everything that was done none may.
                if span == "whole" or "noValue" not in panel.made["fieldConfig"]["defaults"]:
                    found += [f"{span}: {name}, “{panel.title}” shows nothing: {query}" for query in panel.empty()]
            board, step = dashboards.all_of_them()[name], shown.step_of(begin, end)
            draw.picture(os.environ["TIDEGATE_TEST_BROWSER"], folder, name, board, panels, begin, end, step)
        say(f"{span}: {count} queries of {len(boards)} dashboards asked and drawn in {folder}")
    return found


def done(args, prometheus, phases):
    """Everything that is done to nodes, and what of that went wrong by itself."""
    found = []
    try:
        if not args.skip_rehearsal:
            found += rehearse(args, prometheus, phases)
        if args.faults:
            found += endure(args, prometheus, phases)
        return found
    finally:
        phases.end()
        (args.out / "phases.json").write_text(json.dumps(phases.all))


def arguments():
    parser = argparse.ArgumentParser(prog="tests/watch/run --live")
    parser.add_argument(
        "--bins", type=pathlib.Path, required=True, help="where tidegate, tidegate-loadtest, rehearse are"
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("target/watch-live"))
    parser.add_argument("--devices", type=int, default=400)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a rehearsal of one restart, after which some panels are empty: for who changes this program",
    )
    parser.add_argument(
        "--skip-rehearsal", action="store_true", help="faults alone, with what a rehearsal left in --out"
    )
    parser.add_argument(
        "--again", action="store_true", help="do nothing, look at the last run once more: after a change of a dashboard"
    )
    parser.add_argument(
        "--faults", nargs="*", default=["killed", "redis", "kafka"], help="which of them, in this order"
    )
    args = parser.parse_args()
    args.out, args.bins = args.out.resolve(), args.bins.resolve()
    return args


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    old = ["pictures"] + ([] if args.again else ["prometheus", "faults"])
    for part in old + ([] if args.again or args.skip_rehearsal else ["rehearsal"]):
        shutil.rmtree(args.out / part, ignore_errors=True)
    prometheus, phases, found = Prometheus(args.out / "prometheus"), Phases(), []
    try:
        if args.again:
            phases.all = json.loads((args.out / "phases.json").read_text())
        else:
            found += done(args, prometheus, phases)
        wrong, lines = judged(prometheus, phases)
        say("\n".join(["", "alerts"] + ["  " + line for line in lines]))
        found += wrong + looked_at(args, prometheus, phases)
    finally:
        prometheus.end()
    for mistake in found:
        say(f"FAILED {mistake}")
    say(f"{'FAILED' if found else 'ok'}: {time.monotonic() - phases.began:.0f} s")
    sys.exit(1 if found else 0)


main()
