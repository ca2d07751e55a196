"""Configurations and messages on the pages: every key is one, every message is JSON of a type there is."""

import json
import tomllib

import source


def names(node, prefix=""):
    for key, child in node.items():
        yield f"{prefix}{key}"
        for one in child if isinstance(child, list) else [child]:
            if isinstance(one, dict):
                yield from names(one, f"{prefix}{key}.")


def toml(page, block, known):
    try:
        wanted = list(names(tomllib.loads(block.text)))
    except tomllib.TOMLDecodeError as error:
        return [f"{page.name}:{block.line}: no TOML: {error}"]
    wrong = [key for key in wanted if key not in known.config and not key.startswith("kafka.properties.")]
    return [f"{page.name}:{block.line}: there is no key {key}" for key in wrong]


def messages(page, block, known):
    for line in block.text.splitlines():
        try:
            message = json.loads(line)
        except ValueError as error:
            yield f"{page.name}:{block.line}: no JSON: {error}"
            continue
        for one in message if isinstance(message, list) else [message]:
            kind = one.get("type", "")
            if kind not in known.types and not kind.endswith("_update"):
                yield f"{page.name}:{block.line}: there is no type {kind}"


def mistakes(page, known):
    found = []
    for block in page.blocks:
        if block.info == "toml test":
            found += toml(page, block, known)
        if block.info == "json":
            found += messages(page, block, known)
    return found


def check(known):
    pages = source.handbook()
    count = sum(1 for page in pages for block in page.blocks if block.info in ("toml test", "json"))
    return [mistake for page in pages for mistake in mistakes(page, known)], f"{count} blocks"
