"""The parts of `tests/docs/run`. What waits for the gateway waits beside the rest."""

import functools

import balancers
import links
import names
import pages
import parts
import planted
import settings
import source
import tests

known = functools.cache(source.Known)
PARTS = {
    "links": lambda _: links.check(),
    "names": lambda program: names.check(known(program)),
    "tests": lambda _: tests.check(),
    "settings": lambda program: settings.check(known(program)),
    "balancers": lambda _: balancers.check(),
    "pages": pages.check,
    "planted": lambda program: planted.check(known(program)),
}
NEEDS = {part: ["--bin"] for part in ("names", "settings", "pages", "planted")}

parts.main(PARTS, NEEDS, at_once=len(PARTS))
