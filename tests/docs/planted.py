"""Each kind of mistake, planted, is found, and what is right is not taken for wrong."""

import links
import names
import pages
import settings
import source
import tests

HERE = source.ROOT / "docs" / "planted.md"
RIGHT = "[a](concepts.md#the-ack) `limits.window_bytes` `tidegate_connections` `4301` `tidegate smoke --url U` `max_bytes`"


def page(text):
    return source.read(HERE, text)


def named(known):
    def found(text):
        return links.mistakes(page(text)) + names.mistakes(page(text), known, True) + tests.mistakes(page(text))

    cases = {
        "what is right": (RIGHT, False),
        "a link to nothing": ("[x](nothing.md)", True),
        "a link to no heading": ("[x](concepts.md#nothing)", True),
        "a link in code": ("`[x](nothing.md)`", False),
        "a key nobody knows": ("`limits.windw_bytes`", True),
        "a file named like a section": ("`limits.rs`", False),
        "a variable nobody knows": ("`TIDEGATE_KAFKA__BROKER`", True),
        "a variable for a file": ("`TIDEGATE_KAFKA__PASSWORD_FILE`", False),
        "a metric nobody counts": ("`tidegate_conections`", True),
        "a close code nobody sends": ("`4999`", True),
        "a word nobody knows": ("`retry_before_ms`", True),
        "a flag nobody takes": ("`tidegate smoke --uri U`", True),
        "a file that is not there": ("`tests/nothing.rs`", True),
        "a test that is not there": ("`nothing_is_held_between_two_messages` (`tests/frames.rs`)", True),
        "a test of another file": ("`an_ack_waits_for_everything_before_it` (`tests/frames.rs`)", True),
        "a test that is there": ("`nothing_is_held_between_messages` (`tests/frames.rs`)", False),
    }
    return {what: (bool(found(text)), wrong) for what, (text, wrong) in cases.items()}


def tabled(known):
    text = (source.ROOT / "docs" / "codes.md").read_text()
    cases = {
        "every code": (text, False),
        "a close code less": (text.replace("| `4002` |", "| 4002 |"), True),
        "a refusal more": (text.replace("| `malformed` |", "| `malformd` |"), True),
    }
    return {what: (bool(names.tables(page(text), known)), wrong) for what, (text, wrong) in cases.items()}


def set_up(known):
    cases = {
        "a key": ('```toml test\n[redis]\nmode = "auto"\n```', False),
        "a key that is none": ('```toml test\n[redis]\nmod = "auto"\n```', True),
        "no TOML": ("```toml test\n[redis\n```", True),
        "a message": ('```json\n{"type":"update","value":1}\n```', False),
        "a type nobody knows": ('```json\n{"type":"upd","value":1}\n```', True),
        "no JSON": ('```json\n{"type":"update"\n```', True),
    }
    return {what: (bool(settings.mistakes(page(text), known)), wrong) for what, (text, wrong) in cases.items()}


def ran(program):
    told = {"api_url": "http://127.0.0.1:9", "app_token": "t", "device_token": "t"}
    cases = {
        "what is shown": ("```sh test\necho one; echo two; echo three\n```\n```text output\none\nth…\n```", False),
        "another order": ("```sh test\necho one; echo two\n```\n```text output\ntwo\none\n```", True),
        "a line that is not there": ("```sh test\necho one\n```\n```text output\ntwo\n```", True),
        "a failure": ("```sh test\nfalse\n```", True),
        "a failure that is right": ("```sh test exit=1\nfalse\n```", False),
        "a variable from before": ("```sh test\na=b\n```\n```sh test\necho $a\n```\n```text output\nb\n```", False),
        "nobody at the address": ("```sh test\ncurl -s http://localhost:8080/readyz\n```", True),
        "a block that is only shown": ("```sh\nfalse\n```", False),
    }
    return {
        what: (bool(list(pages.mistakes(page(text), program, told))), wrong) for what, (text, wrong) in cases.items()
    }


def promised():
    head = "## What it promises\n\n| promise | held by |\n| --- | --- |\n"
    rows = [f"| {number} | `nothing_is_held_between_messages` (`tests/frames.rs`) |" for number in range(8)]
    cases = {
        "rows with tests": (head + "\n".join(rows), False),
        "a row without": (head + "\n".join([*rows, "| another | soon |"]), True),
        "no table": ("", True),
    }
    return {what: (bool(tests.promises(page(text))), wrong) for what, (text, wrong) in cases.items()}


def check(known):
    results = {**named(known), **tabled(known), **set_up(known), **ran(known.program), **promised()}
    found = [
        f"{what}: {'not found' if wrong else 'taken for wrong'}"
        for what, (is_found, wrong) in results.items()
        if is_found != wrong
    ]
    return found, f"{len(results)} cases"
