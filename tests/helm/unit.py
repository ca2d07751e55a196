"""The unit tests of the templates: files in helm/tidegate/tests, in the manner of helm-unittest.

A file has `template`, `values` (files of values, from its own folder) and `tests`; a test has `it`, `set`, perhaps
`version` (of Kubernetes), `template`, `select` (a kind, or a name), `files` (below the chart's `files/`), and `asserts`.
helm-unittest itself cannot be had by `go install`: its go.mod replaces modules.
"""

import contextlib
import pathlib
import re
import shutil
import tempfile

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
        return isinstance(whole, dict) and all(
            key in whole and is_subset(item, whole[key]) for key, item in part.items()
        )
    if isinstance(part, list):
        return isinstance(whole, list) and len(part) == len(whole) and all(map(is_subset, part, whole))
    return part == whole


def holds(name, wanted, objects, before):
    """Why an assertion does not hold; nothing where it does. `before` is without what the test sets."""
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
        "has": lambda: found is not MISSING
        and (any(is_subset(value, item) for item in found) if isinstance(found, list) else is_subset(value, found)),
        "lacks": lambda: found is MISSING or value not in found,
        "changed": lambda: found is not MISSING and found != look_up(before()[0], path),
        "same": lambda: found is not MISSING and found == look_up(before()[0], path),
        "matches": lambda: isinstance(found, str) and re.search(value, found) is not None,
        "differs": lambda: isinstance(found, str) and re.search(value, found) is None,
    }
    return None if checks[name]() else f"{name} {path}: wanted {value!r}, found {shown}"


@contextlib.contextmanager
def chart_with(files):
    """The chart, in a copy where it is to have further files."""
    if not files:
        yield CHART
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "tidegate"
        shutil.copytree(CHART, copy)
        for name, text in files.items():
            (copy / "files" / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / "files" / name).write_text(text)
        yield copy


def rendered(path, suite, test, values):
    """The documents that a test looks at, with `values` set."""
    files = [path.parent / file for file in test.get("values", suite.get("values", []))]
    template = test.get("template", suite["template"])
    notes = template == "NOTES.txt"
    with chart_with(test.get("files")) as chart:
        text = text_of(files, values, test.get("version", "1.34.0"), notes=notes, chart=chart)
    if notes:
        return [{"text": " ".join(text.split("\nNOTES:\n", 1)[-1].split())}]
    chosen = test.get("select", suite.get("select"))
    objects = objects_by_template(text).get(template, [])
    return [item for item in objects if not chosen or chosen in (item["kind"], item["metadata"]["name"])]


def run_test(case):
    path, suite, test = case
    title = f"{path.name}: {test['it']}"
    try:
        objects = rendered(path, suite, test, test.get("set"))
        before = lambda: rendered(path, suite, test, None)
        found = [holds(name, wanted, objects, before) for entry in test["asserts"] for name, wanted in entry.items()]
    except Refused as error:
        return [f"{title}: {error}"]
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
