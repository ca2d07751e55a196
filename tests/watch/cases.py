"""Whether the tests of the rules cover every alert: one case in which it fires, and one in which it stays silent."""

import re

import yaml


def told_apart(series):
    """What tells the series of a test apart: its job, pod or instance."""
    labels = dict(re.findall(r'(\w+)="([^"]*)"', series))
    return [(label, labels[label]) for label in ("job", "pod", "instance") if label in labels]


def fires(test, alert):
    """The labels of everything for which a test expects the alert, over all its queries."""
    for query in test.get("promql_expr_test", []):
        for sample in query.get("exp_samples") or []:
            labels = dict(re.findall(r'(\w+)="([^"]*)"', sample["labels"]))
            if labels.get("alertname") == alert:
                yield labels


def is_silent_for_some(test, alert):
    """Whether something in the test's series never has the alert although every alert that fires is asked for."""
    queries = test.get("promql_expr_test", [])
    if not any("ALERTS" in query["expr"] for query in queries):
        return False
    firing = {
        (label, labels[label])
        for labels in fires(test, alert)
        for label in ("job", "pod", "instance")
        if label in labels
    }
    if not firing:
        return True
    kinds = {label for label, _ in firing}
    there = {one for series in test["input_series"] for one in told_apart(series["series"]) if one[0] in kinds}
    return bool(there - firing)


def uncovered(files, alerts, load=lambda file: yaml.safe_load(file.read_text())):
    tests = [test for file in files for test in load(file)["tests"]]
    found = [f"a test about no alert: {test['name']}" for test in tests if test["name"].split(":")[0] not in alerts]
    for alert in sorted(alerts):
        about = [test for test in tests if test["name"].startswith(f"{alert}:")]
        if not any(list(fires(test, alert)) for test in about):
            found.append(f"{alert}: no test in which it fires")
        if not any(is_silent_for_some(test, alert) for test in about):
            found.append(f"{alert}: no test in which it is silent")
    return found


def planted():
    """A case that lacks something has to be found."""

    def test(name, series, samples):
        asked = [{"expr": "ALERTS", "exp_samples": [{"labels": sample} for sample in samples]}]
        return {"name": f"{name}: x", "input_series": [{"series": one} for one in series], "promql_expr_test": asked}

    def of(*tests):
        return uncovered([0], {"A"}, lambda _: {"tests": list(tests)})

    both = test("A", ['m{pod="a"}', 'm{pod="b"}'], ['{alertname="A",pod="a"}'])
    cases = [
        ("no case that is silent", of(test("A", ['m{pod="a"}'], ['{alertname="A",pod="a"}'])), True),
        ("no case that fires", of(test("A", ['m{pod="a"}'], [])), True),
        ("another alert's case", of(both, test("B", [], [])), True),
        ("a case that has both", of(both), False),
    ]
    return [
        f"{what}: {'not found' if wrong else mistakes}" for what, mistakes, wrong in cases if bool(mistakes) != wrong
    ]
