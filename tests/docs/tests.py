"""Every test that a page names is there, in the file that the page says; every promise of the README has one."""

import re

import source

NAME = re.compile(r"^(?!tidegate_)[a-z][a-z0-9]*(?:_[a-z0-9]+){4,}$")
FILE = re.compile(r"^(?:tests|src|loadtest)/[\w/]+\.rs$")


def mistakes(page):
    """A name belongs to the file that is named next behind it."""
    found, waiting = [], []
    for span in page.spans():
        if NAME.match(span):
            waiting.append(span)
        elif FILE.match(span) and waiting:
            path = source.ROOT / span
            text = path.read_text() if path.exists() else ""
            found += [f"{page.name}: {span} has no test {name}" for name in waiting if f"fn {name}(" not in text]
            waiting = []
    return found + [f"{page.name}: {name} is in no file" for name in waiting]


def promises(page):
    """Each row of the README's table names a test."""
    part = page.prose.split("## What it promises\n", 1)[-1].split("\n## ", 1)[0]
    rows = [row for row in part.splitlines() if row.startswith("| ")][2:]
    bare = [row for row in rows if not any(NAME.match(span) for span in source.SPAN.findall(row))]
    found = [f"{page.name}: no test holds this: {row[:60]}" for row in bare]
    return found if len(rows) > 5 else [*found, f"{page.name}: there are no promises"]


def check():
    pages = source.handbook()
    found = [mistake for page in pages for mistake in mistakes(page)] + promises(pages[0])
    return found, f"{sum(1 for page in pages for span in page.spans() if NAME.match(span))} tests named"
