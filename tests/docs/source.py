"""The pages as they are read here, and what the program and its documents know."""

import json
import os
import pathlib
import re
import subprocess
from dataclasses import dataclass, field

ROOT = pathlib.Path(__file__).resolve().parents[2]
SKIPPED = {"target", "node_modules"}
FENCE = re.compile(r"^(`{3,})(.*)$")
SPAN = re.compile(r"`([^`\n]+)`")
WORD = re.compile(r"\b[a-z][a-z0-9]*(?:_[a-z0-9]+)+\b")


@dataclass
class Block:
    """What stands between two fences."""

    info: str
    text: str
    line: int


@dataclass
class Page:
    """A page: its text without blocks, and the blocks."""

    path: pathlib.Path
    prose: str
    blocks: list = field(default_factory=list)

    @property
    def name(self):
        return str(self.path.relative_to(ROOT)) if self.path.is_relative_to(ROOT) else self.path.name

    def spans(self):
        """What stands in backticks outside of blocks."""
        return SPAN.findall(self.prose)


def read(path, text=None):
    """Takes a page apart. Blocks that are indented instead of fenced stay in its prose."""
    prose, blocks, block, fence = [], [], None, None
    for number, line in enumerate((path.read_text() if text is None else text).splitlines(), 1):
        mark = FENCE.match(line)
        if block is None and mark:
            fence, block = mark[1], Block(mark[2].strip(), "", number)
        elif block is not None and line.strip() == fence:
            blocks.append(block)
            block = None
        elif block is not None:
            block.text += line + "\n"
        else:
            prose.append(line)
    return Page(path, "\n".join(prose), blocks)


def all_pages():
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if name not in SKIPPED and not name.startswith("."))
        for name in sorted(names):
            if name.endswith(".md"):
                yield read(pathlib.Path(folder) / name)


def handbook():
    """The pages for users, which have no words but the program's: of what `docs/README.md` links to."""
    index = (ROOT / "docs" / "README.md").read_text()
    others = {"architecture.md", "benchmarks.md", "metrics.md", "loadtest.md"}
    # These have many words of Kafka, Redis, Kubernetes and OpenTelemetry.
    others |= {"secured-neighbours.md", "kubernetes-tried.md", "why-did-this-device-drop.md"}
    names = dict.fromkeys(re.findall(r"\]\(([a-z-]+\.md)", index))
    paths = [ROOT / "docs" / name for name in names if name not in others]
    return [read(path) for path in [ROOT / "README.md", ROOT / "docs" / "README.md", *paths] if path.exists()]


def keys_of(schema, node=None, prefix=""):
    """The dotted names of everything a JSON Schema knows by name."""
    node = schema if node is None else node
    while "$ref" in node:
        target = schema
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    for branch in node.get("allOf", []) + node.get("anyOf", []):
        yield from keys_of(schema, branch, prefix)
    if isinstance(node.get("items"), dict):
        yield from keys_of(schema, node["items"], prefix)
    for name, child in node.get("properties", {}).items():
        yield f"{prefix}{name}"
        yield from keys_of(schema, child, f"{prefix}{name}.")


def values(node):
    """Every text in a JSON document: names and values."""
    if isinstance(node, dict):
        for key, child in node.items():
            yield key
            yield from values(child)
    elif isinstance(node, list):
        for child in node:
            yield from values(child)
    elif isinstance(node, str):
        yield node


class Known:
    """What there is to be named."""

    def __init__(self, program):
        self.program = program
        schema = json.loads(self.run("config-schema"))
        self.config = set(keys_of(schema)) | {"kafka.properties"}
        self.sections = {key for key in self.config if "." not in key}
        chart = ROOT / "helm" / "tidegate" / "values.schema.json"
        self.chart = set(keys_of(json.loads(chart.read_text())))
        metrics = (ROOT / "docs" / "metrics.md").read_text()
        self.metrics = set(re.findall(r"^\| `((?:tidegate|process)_\w+)` \|", metrics, re.M))
        closes = (ROOT / "src" / "protocol" / "close.rs").read_text()
        # Code and reason of each.
        self.closes = dict(re.findall(r"= (\d{4}), \"(\w+)\", \w+;", closes))
        schemas = {
            path.stem: json.loads(path.read_text()) for path in (ROOT / "docs" / "protocol" / "schemas").glob("*.json")
        }
        self.types = {
            branch["properties"]["type"]["const"]
            for schema in schemas.values()
            for branch in schema.get("oneOf", []) + list(schema.get("$defs", {}).values())
            if "const" in branch.get("properties", {}).get("type", {})
        } | {"update", "status"}
        self.refusals = next(
            set(branch["properties"]["code"]["enum"])
            for branch in schemas["gateway-to-device"]["oneOf"]
            if branch["properties"]["type"].get("const") == "refused"
        )
        self.words = self.vocabulary([schema, *schemas.values()], metrics)
        self.flags = {}

    def run(self, *args):
        return subprocess.run([self.program, *args], capture_output=True, text=True, check=True).stdout

    def vocabulary(self, schemas, metrics):
        """Every word with an underscore that stands in a document of the program or in an example."""
        texts = [metrics, *self.closes.values()]
        texts += [text for schema in schemas for text in values(schema)]
        texts += values(json.loads((ROOT / "docs" / "openapi.json").read_text()))
        folders = ["docs/protocol", "docs/examples"]
        files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
        texts += [path.read_text(errors="ignore") for path in files]
        return {word for text in texts for word in WORD.findall(text)}

    def flags_of(self, command):
        """The flags of a command of the program; nothing where there is no such command."""
        if command not in self.flags:
            run = subprocess.run([self.program, *command.split(), "--help"], capture_output=True, text=True)
            self.flags[command] = set(re.findall(r"--[a-z][a-z-]*", run.stdout)) if run.returncode == 0 else None
        return self.flags[command]
