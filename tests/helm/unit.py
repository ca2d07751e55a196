"""The unit tests of the templates: files in helm/tidegate/tests, in the manner of helm-unittest.

A file has `template`, `values` (files of values, from its own folder) and `tests`; a test has `it`, `set`, perhaps
`version` (of Kubernetes), `template` and `select` (a kind, or a name), and `asserts`.
"""

import pathlib
import re

import yaml

from chart import CHART, Refused, in_parallel, objects_by_template, text_of

MISSING = object()
STEP = re.compile(r'\.?([\w-]+)|\["([^"]+)"\]|\[(\d+)\]|\[name=([\w.-]+)\]')


def look_up(value, path):
    """What stands at `a.b[0].c`, `a["b/c"]` or `a[name=b]`."""
    for name, quoted, index, named in STEP.findall(path):
        if index:
            value = value[int(index)] if isinstance(value, list) and int(index) < len(value) else MISSING
        elif named:
            entries = value if isinstance(value, list) else []
            value = next((item for item in entries if isinstance(item, dict) and item.get("name") == named), MISSING)
        else:
            value = value.get(name or quoted, MISSING) if isinstance(value, dict) else MISSING
        if value is MISSING:
            return MISSING
    return value


def is_subset(part, whole):
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and is_subset(item, whole[key]) for key, item in part.items())
    if isinstance(part, list):
        return isinstance(whole, list) and len(part) == len(whole) and all(map(is_subset, part, whole))
    return part == whole


def holds(name, wanted, objects):
    """Why an assertion does not hold; nothing where it does."""
    if name == "documents":
        return None if len(objects) == wanted else f"{len(objects)} documents, not {wanted}"
    if len(objects) != 1:
        return f"{len(objects)} documents, where one is looked at"
    path, value = next(iter(wanted.items())) if isinstance(wanted, dict) else (wanted, None)
    found = look_up(objects[0], path)
    shown = "nothing" if found is MISSING else repr(found)
    checks = {
        "equal": lambda: found == value,
        "exists": lambda: found is not MISSING,
        "absent": lambda: found is MISSING,
        "has": lambda: found is not MISSING and (any(is_subset(value, item) for item in found) if isinstance(found, list) else is_subset(value, found)),
        "lacks": lambda: found is MISSING or value not in found,
        "matches": lambda: isinstance(found, str) and re.search(value, found) is not None,
        "differs": lambda: isinstance(found, str) and re.search(value, found) is None,
    }
    return None if checks[name]() else f"{name} {path}: wanted {value!r}, found {shown}"


def run_test(case):
    path, suite, test = case
    files = [path.parent / file for file in test.get("values", suite.get("values", []))]
    template = test.get("template", suite["template"])
    title = f"{path.name}: {test['it']}"
    try:
        text = text_of(files, test.get("set"), test.get("version", "1.34.0"), notes=template == "NOTES.txt")
    except Refused as error:
        return [f"{title}: {error}"]
    if template == "NOTES.txt":
        objects = [{"text": " ".join(text.split("\nNOTES:\n", 1)[-1].split())}]
    else:
        objects = objects_by_template(text).get(template, [])
        chosen = test.get("select", suite.get("select"))
        if chosen:
            objects = [item for item in objects if chosen in (item["kind"], item["metadata"]["name"])]
    found = [holds(name, wanted, objects) for entry in test["asserts"] for name, wanted in entry.items()]
    return [f"{title}: {why}" for why in found if why]


def check():
    cases, seen = [], set()
    for path in sorted(pathlib.Path(CHART / "tests").glob("*_test.yaml")):
        suite = yaml.safe_load(path.read_text())
        seen.add(suite["template"])
        cases += [(path, suite, test) for test in suite["tests"]]
    folder = CHART / "templates"
    templates = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in (".yaml", ".txt")}
    mistakes = [f"templates/{name} has no file of unit tests" for name in sorted(templates - seen - {"refusals.yaml"})]
    for found in in_parallel(run_test, cases):
        mistakes += found
    return mistakes, f"{len(cases)} unit tests of {len(templates)} templates"
