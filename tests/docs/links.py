"""Every relative link leads to a file, and every anchor to a heading in it."""

import re

import source

LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)")
IMAGE = re.compile(r"src=\"([^\"]+)\"")


def anchors(text):
    """The anchors of a page, as GitHub makes them: of two equal ones the second ends in -1."""
    found, seen = set(), {}
    for heading in re.findall(r"^#{1,6} +(.*)$", source.read(source.ROOT / "x", text).prose, re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w -]", "", plain).replace(" ", "-")
        count = seen.get(name, 0)
        seen[name] = count + 1
        found.add(f"{name}-{count}" if count else name)
    return found


def mistakes(page):
    found, prose = [], source.SPAN.sub(lambda span: "`" * len(span[0]), page.prose)
    links = LINK.findall(prose) + [(path, "") for path in IMAGE.findall(prose)]
    for path, fragment in links:
        if re.match(r"[a-z]+:", path):
            continue
        target = (page.path.parent / path).resolve() if path else page.path
        if not target.exists():
            found.append(f"{path} is not there")
        elif fragment and target.suffix == ".md" and fragment not in anchors(text_of(page, target if path else None)):
            found.append(f"{path or 'this page'} has no heading #{fragment}")
    return [f"{page.name}: {mistake}" for mistake in found]


def text_of(page, target=None):
    """Another page's text, or its own, which a planted one has nowhere else."""
    file = target or page.path
    return file.read_text() if file.exists() else page.prose


def check():
    pages = list(source.all_pages())
    return [mistake for page in pages for mistake in mistakes(page)], f"{len(pages)} pages"
