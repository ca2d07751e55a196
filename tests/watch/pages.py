"""The runbooks: one page for each alert, where its alert says it is, with the same parts, and links and panels that are there."""

import re

import dashboards
import rules
import source

FOLDER = source.ROOT / "docs" / "runbooks"
PARTS = ["What it means", "What users feel", "First look", "What to do", "When to wake whom"]
BLOCK = re.compile(r"^```promql\n(.*?)^```", re.S | re.M)
PANEL = re.compile(r"\*\*([^*]+)\*\*, “([^”]+)”")
LINK = re.compile(r"\]\(([^)#]*)(?:#([^)]*))?\)")


def anchor(heading):
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def headings(text):
    return re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)


def queries():
    """Every query on a page, and the page."""
    for page in sorted(FOLDER.glob("*.md")):
        for block in BLOCK.findall(page.read_text()):
            for query in filter(None, (part.strip() for part in block.split("\n\n"))):
                yield page.name, query


def mistakes(name, text, all_panels, folder=FOLDER):
    found = []
    titles = headings(text)
    if not titles or rules.file_of(titles[0]) != name:
        found.append("its first heading is not its alert")
    if titles[1:] != PARTS:
        found.append(f"its parts are not {', '.join(PARTS)}")
    for part in re.split(r"^## ", text, flags=re.M)[1:]:
        heading, _, body = part.partition("\n")
        if len(body.strip()) < 15:
            found.append(f"nothing under {heading}")
    if not BLOCK.search(text):
        found.append("no query")
    shown = [tuple(" ".join(part.split()) for part in one) for one in PANEL.findall(text)]
    if not shown:
        found.append("no panel")
    found += [f"there is no panel {panel} in {title}" for title, panel in shown if (title, panel) not in all_panels]
    for path, fragment in LINK.findall(text):
        if path.startswith("http"):
            continue
        target = (folder / path).resolve() if path else folder / name
        if not target.exists():
            found.append(f"{path} is not there")
        elif fragment and fragment not in map(anchor, headings(target.read_text())):
            found.append(f"{path} has no heading #{fragment}")
    return [f"{name}: {mistake}" for mistake in found]


def panels():
    return {(title.removeprefix("Tidegate / "), panel) for title, panel, _ in dashboards.queries()}


def check():
    found, wanted = [], {"README.md"}
    for rule in rules.all_rules():
        if "alert" not in rule:
            continue
        where, _, fragment = rule["annotations"]["runbook_url"].removeprefix(rules.RUNBOOKS + "/").partition("#")
        page = FOLDER / where
        wanted.add(where)
        if not page.exists():
            found.append(f"{rule['alert']}: {where} is not there")
        elif fragment not in map(anchor, headings(page.read_text())):
            found.append(f"{rule['alert']}: {where} has no heading #{fragment}")
        lacks = {"summary", "description", "runbook_url"} - set(rule["annotations"])
        found += [f"{rule['alert']}: no {what}" for what in lacks] + (
            [] if rule.get("for") else [f"{rule['alert']}: no for"]
        )
    there, known = {page.name for page in FOLDER.glob("*.md")}, panels()
    found += [f"{name}: no alert has this page" for name in sorted(there - wanted)]
    for name in sorted(there - {"README.md"}):
        found += mistakes(name, (FOLDER / name).read_text(), known)
    return sorted(set(found)), f"{len(there) - 1} pages, {len(list(queries()))} queries on them"


def planted():
    """A page that lacks something has to be found."""
    body = "x" * 50
    whole = (
        "# TidegateNodeDown\n\n"
        + "".join(f"## {part}\n\n{body}\n\n" for part in PARTS)
        + "```promql\nup\n```\n**Overview**, “Nodes”\n"
    )
    cases = {
        "a page that is whole": (whole, False),
        "a part is missing": (whole.replace("## What to do\n", ""), True),
        "an empty part": (whole.replace(f"## What to do\n\n{body}", "## What to do\n"), True),
        "another alert's page": (whole.replace("NodeDown", "NodeUp"), True),
        "a panel that is nowhere": (whole.replace("“Nodes”", "“Nods”"), True),
        "a link to nothing": (whole + "[x](nothing.md)\n", True),
        "a link to no heading": (whole + "[x](#nothing)\n", True),
        "no query": (whole.replace("```promql", "```sh"), True),
    }
    results = {what: (bool(mistakes("node-down.md", text, panels())), wrong) for what, (text, wrong) in cases.items()}
    return [
        f"{what}: {'not found' if wrong else 'taken for wrong'}"
        for what, (is_found, wrong) in results.items()
        if is_found != wrong
    ]
