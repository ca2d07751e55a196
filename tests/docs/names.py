"""What stands in backticks exists: configuration keys, metrics, codes, flags, files, words of the protocol."""

import re

import source

METRIC = re.compile(r"\btidegate_(?!loadtest)[a-z0-9_]+[a-z0-9]\b(?!::)")
ENVIRONMENT = re.compile(r"\bTIDEGATE_([A-Z]+)__([A-Z_]+?)(_FILE)?\b")
PLACE = re.compile(r"^(?:docs|src|tests|helm|k8s|loadtest|image|fuzz)/[\w./*-]+$")
FILES = (".rs", ".md", ".toml", ".lua", ".proto", ".py", ".yaml", ".json")
COMMAND = re.compile(r"\btidegate ((?:keys new|[a-z-]+))\b([^|&;`\n]*)")
# Words of other programs, and of Kafka's and CloudEvents' headers that are in no schema.
FOREIGN = set(
    """esp_websocket_client buffer_size least_conn proxy_read_timeout proxy_next_upstream worker_shutdown_timeout
    fail_timeout upgrade_configs ce_source ce_id ce_time ce_type ce_specversion tg_epoch tg_received_at tg_clock_suspect tg_reason tg_detail
    tg_offset tg_topic tg_partition access_token""".split()
)


def mistakes(page, known, is_handbook):
    found = []
    for span in page.spans():
        found += keys(span, known) + codes(span, known) + places(span, page)
        if is_handbook:
            found += words(span, known)
    everything = page.prose + "".join(block.text for block in page.blocks)
    for name in METRIC.findall(everything):
        if re.sub(r"_(bucket|sum|count)$", "", name) not in known.metrics | known.words and name not in known.metrics:
            found.append(f"there is no metric {name}")
    for section, key, _ in ENVIRONMENT.findall(everything):
        if section != "SECTION" and f"{section}.{key}".lower() not in known.config and not key.startswith("PROPERTIES"):
            found.append(f"there is no key {section.lower()}.{key.lower()} for TIDEGATE_{section}__{key}")
    found += flags(page, known)
    return [f"{page.name}: {mistake}" for mistake in dict.fromkeys(found)]


def keys(span, known):
    sections = "|".join(sorted(known.sections))
    named = re.findall(rf"(?<![\w./-])((?:{sections})\.[A-Za-z_]+(?:\.[A-Za-z_]+)*)(?![\w(/])", span)
    named = [key for key in named if not key.endswith(FILES) and not key.startswith("kafka.properties")]
    return [f"there is no configuration key {key}" for key in named if key not in known.config | known.chart]


def codes(span, known):
    is_code = re.fullmatch(r"1[0-9]{3}|4[0-9]{3}", span)
    return [f"there is no close code {span}"] if is_code and span not in known.closes else []


def places(span, page):
    if not PLACE.match(span):
        return []
    there = any(source.ROOT.glob(span)) if "*" in span else (source.ROOT / span).exists()
    return [] if there or (page.path.parent / span).exists() else [f"{span} is not there"]


def words(span, known):
    """Words with an underscore are names of something. What has four and more is a test's: `tests.py` looks for it."""
    for place in [] if PLACE.match(span) else source.WORD.findall(span):
        if place.count("_") < 4 and place not in known.words | FOREIGN and not place.startswith("tidegate_"):
            yield f"nobody knows the word {place}"


def flags(page, known):
    for command, rest in COMMAND.findall(page.prose + "".join(b.text.replace("\\\n", " ") for b in page.blocks)):
        if (there := known.flags_of(command)) is not None:
            for flag in re.findall(r"(?<=\s)--[a-z][a-z-]*", rest):
                if flag not in there:
                    yield f"`tidegate {command}` has no {flag}"


def table(page, heading):
    """The first column of the table under a heading; the second too, where it is such a name."""
    part = page.prose.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"^\| `(\d{4}` \| `\w+|[a-z_]+)`", part, re.M))


def tables(page, known):
    """The page of codes has every code, and no other; a close code with its reason."""
    found = []
    closes = {f"{code}` | `{reason}" for code, reason in known.closes.items()}
    for heading, wanted in (("Close codes", closes), ("Refusals", known.refusals)):
        there = table(page, heading)
        found += [f"{page.name}: {code} is missing under {heading}" for code in sorted(wanted - there)]
        found += [f"{page.name}: {code} under {heading} is not one" for code in sorted(there - wanted)]
    return found


def check(known):
    handbook = source.handbook()
    names = {page.name for page in handbook}
    found = []
    # Values of the chart have their own reference; a decision is of its day.
    pages = [page for page in source.all_pages() if not page.name.startswith(("helm/", "docs/adr/"))]
    for page in pages:
        found += mistakes(page, known, page.name in names)
    found += tables(source.read(source.ROOT / "docs" / "codes.md"), known)
    return found, f"{len(pages)} pages, {len(handbook)} of them the handbook's, against {len(known.config)} keys"
