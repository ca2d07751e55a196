"""The parts of `tests/watch/run`."""

import pathlib
import subprocess
import sys
import tempfile

import yaml

import cases
import dashboards
import expected
import grafana
import node
import pages
import parts
import promql
import rules
import source

ROOT = source.ROOT
RULES = sorted((ROOT / "helm" / "tidegate" / "files" / "rules").glob("*.yaml"))
TESTS = sorted((ROOT / "tests" / "rules").glob("*.yaml"))
# What Grafana puts in place of its variables, more or less.
GRAFANA = (("$__rate_interval", "5m"), ("$__range", "1h"), ("$by", "pod"))


def promtool(*args):
    run = subprocess.run(["promtool", *map(str, args)], capture_output=True, text=True)
    return [(run.stdout + run.stderr).strip()] if run.returncode else []


def generated(_):
    run = subprocess.run(
        [sys.executable, ROOT / "helm" / "watch" / "generate", "--check"], capture_output=True, text=True
    )
    return ([run.stderr.strip()] if run.returncode else []), "rules, dashboards, reference and list of alerts"


def queries_of_all():
    """Every query, and where it stands."""
    for rule in rules.all_rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for title, panel, query in dashboards.queries():
        yield f"{title}, {panel}", query
    yield from pages.queries()


def names(_):
    """Every metric, label and label value in a query exists; every panel can be told from the others."""
    metrics, tester = source.node(), source.loadtest()
    known, found, count = promql.Known(metrics | tester, rules.recorded_names()), [], 0
    for where, query in queries_of_all():
        if "tidegate_loadtest_" in query and not tester:
            continue
        count += 1
        found += [f"{where}: {mistake}" for mistake in known.mistakes(query)]
    for one in dashboards.all_of_them().values():
        found += panels(one)
    note = "" if tester else "; the load tester has no exporter here, so its names were not looked at"
    return found, f"{len(metrics)} metrics of nodes and {len(tester)} of the load tester, in {count} queries{note}"


def panels(one):
    """What a dashboard's panels lack."""
    found, shown = [], [panel for panel in one["panels"] if panel["type"] != "row"]
    if len({panel["id"] for panel in one["panels"]}) != len(one["panels"]):
        found.append(f"{one['title']}: two panels of one number")
    titles = [panel["title"] for panel in shown]
    found += [f"{one['title']}: two panels called {title}" for title in set(titles) if titles.count(title) > 1]
    for panel in shown:
        lacks = [
            what
            for what, there in {
                "description": len(panel["description"]) > 10,
                "unit": panel["fieldConfig"]["defaults"].get("unit"),
                "thresholds": panel["fieldConfig"]["defaults"]["thresholds"]["steps"],
                "query": panel["targets"],
            }.items()
            if not there
        ]
        found += [f"{one['title']}, {panel['title']}: no {what}" for what in lacks]
        place = panel["gridPos"]
        if place["x"] + place["w"] > 24:
            found.append(f"{one['title']}, {panel['title']}: beyond the right edge")
    places = [panel["gridPos"] for panel in one["panels"]]
    overlap = [
        (a, b)
        for i, a in enumerate(places)
        for b in places[:i]
        if a["x"] < b["x"] + b["w"]
        and b["x"] < a["x"] + a["w"]
        and a["y"] < b["y"] + b["h"]
        and b["y"] < a["y"] + a["h"]
    ]
    return found + [f"{one['title']}: two panels overlap at {a}" for a, _ in overlap]


def rule_tests(_):
    """promtool takes the rules, every alert has a case that fires and one that is silent, and all come out as they say."""
    alerts = {rule["alert"] for rule in rules.all_rules() if "alert" in rule}
    found = promtool("check", "rules", *RULES) + cases.uncovered(TESTS, alerts)
    for file in TESTS:
        found += promtool("test", "rules", file)
    return found, f"{len(rules.all_rules())} rules, {len(alerts)} alerts"


def queries(_):
    """promtool can read every query of a dashboard or a runbook."""
    groups, where = [], list(dashboards.queries())
    every = [(f"{title}, {panel}", query) for title, panel, query in where] + list(pages.queries())
    for number, (_, query) in enumerate(every):
        for variable, value in GRAFANA:
            query = query.replace(variable, value)
        groups.append({"record": f"query:{number}", "expr": query})
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "queries.yaml"
        file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": groups}]}))
        found = promtool("check", "rules", file)
    for number, (place, _) in reversed(list(enumerate(every))):
        found = [text.replace(f'"query:{number}"', f'"{place}"') for text in found]
    return found, f"{len(every)} queries read"


def planted(_):
    """Mistakes that have to be found, so that finding none says something."""
    known = promql.Known(source.node(), rules.recorded_names())
    wrong = [
        "sum(rate(tidegate_nothing_total[5m]))",
        'tidegate_connections{state="opened"}',
        'tidegate_connections{outcome="open"}',
        'rate(tidegate_publish_total{outcome=~"stored|late"}[5m])',
        'tidegate_publish_duration_seconds_bucket{le="0.3"}',
        "tidegate_publish_duration_seconds",
        "sum by (device) (tidegate_connections)",
        'tidegate:slo_errors:rate7m{slo="handshake"}',
        'tidegate:slo_errors:rate5m{kind="handshake"}',
        "process_open_files",
    ]
    right = [
        'sum by (le, topic) (rate(tidegate_publish_duration_seconds_bucket{le=~"1|0.25|+Inf",topic!="status"}[5m]))',
        "up == 0",
    ]
    found = [f"not found: {query}" for query in wrong if not known.mistakes(query)]
    found += [f"taken for wrong: {query}: {known.mistakes(query)}" for query in right if known.mistakes(query)]
    alerts = {rule["alert"] for rule in rules.all_rules() if "alert" in rule}
    return (
        found + pages.planted() + cases.planted() + expected.planted(alerts),
        f"{len(wrong)} wrong queries, pages and cases that lack something, alerts of a live run that should not be",
    )


PARTS = {
    "generated": generated,
    "names": names,
    "rules": rule_tests,
    "queries": queries,
    "grafana": lambda _: grafana.check(),
    "runbooks": lambda _: pages.check(),
    "planted": planted,
    "node": lambda binary: node.check(binary),
}

parts.main(PARTS, {"node": ["--bin"]})
