"""The pages of docs/api are whole: sound HTML that loads nothing, links that lead somewhere, and nothing left out."""

import html
import json
import pathlib
import re
from html.parser import HTMLParser

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
VOID = {"meta", "br", "hr", "link", "img", "input"}
# What a browser would fetch, or run.
FOREIGN = {"script", "link", "img", "iframe", "object", "embed", "video", "audio", "source", "base", "form"}


class Reader(HTMLParser):
    """Notes what is open, the ids and the links."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.found, self.text = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag in FOREIGN or any(name.startswith("on") or name in ("src", "style") for name in attributes):
            self.found.append(f"<{tag}> at {self.getpos()}")
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.found.append(f"</{tag}> at {self.getpos()} closes nothing")

    def handle_data(self, data):
        self.text.append(data)
        if re.search(r"url\(|@import", data) and self.open[-1:] == ["style"]:
            self.found.append("its style loads something")


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    reader.found += [f"<{tag}> is not closed" for tag in reader.open]
    twice = {name for name in reader.ids if reader.ids.count(name) > 1}
    reader.found += [f"two places are called {name}" for name in sorted(twice)]
    return reader


def dead_links(path, reader, every):
    for link in reader.links:
        file, _, place = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if re.match(r"\w+:|//", link) or not target.exists():
            yield f"{link} leads nowhere here"
        elif place and place not in every[target].ids:
            yield f"{link}: there is no such place"


def wanted():
    """Words that must be on the pages: every message, field, route, key and metric."""
    messages = json.loads((DOCS / "asyncapi.json").read_text())
    yield "messages.html", [channel["address"] for channel in messages["channels"].values()]
    yield "messages.html", [message["title"] for message in messages["components"]["messages"].values()]
    yield "messages.html", list(names(messages["components"]["schemas"]))
    for name in ("openapi.json", "openapi-internal.json"):
        document = json.loads((DOCS / name).read_text())
        yield "http.html", list(document["paths"])
        answers = {key: value for key, value in document["components"]["schemas"].items() if key != "Problem"}
        yield "http.html", list(names(answers))
    configuration = json.loads((DOCS / "configuration.schema.json").read_text())
    for section, node in configuration["properties"].items():
        yield "configuration.html", [f"[{section}]", *node.get("properties", {})]
    yield "metrics.html", re.findall(r"^\| `((?:tidegate|process)_\w+)` \|", (DOCS / "metrics.md").read_text(), re.M)


def names(node):
    """The names of all fields."""
    if isinstance(node, dict):
        fields = node.get("properties")
        yield from fields if isinstance(fields, dict) and "const" not in fields else []
        for child in node.values():
            yield from names(child)
    elif isinstance(node, list):
        for child in node:
            yield from names(child)


def planted():
    """Pages that are not whole."""
    wrong = ["<p>", "<p></b></p>", '<script src="x.js"></script>', '<img src="x">', '<p id="a"></p><p id="a"></p>']
    wrong += ["<style>@import 'x';</style>", '<p onclick="x()"></p>']
    return [f"not found: {text}" for text in wrong if not read(text).found]


def check():
    every = {path: read(path.read_text()) for path in sorted((DOCS / "api").glob("*.html"))}
    found = planted()
    for path, reader in every.items():
        found += [f"{path.name}: {what}" for what in [*reader.found, *dead_links(path, reader, every)]]
    for name, words in wanted():
        text = html.unescape((DOCS / "api" / name).read_text())
        found += [
            f"{name}: nothing of {word}"
            for word in dict.fromkeys(words)
            if not re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text)
        ]
    return found, f"{len(every)} pages, whole in themselves"
