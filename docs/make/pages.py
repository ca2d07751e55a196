"""The documents as pages for people: HTML that is whole in itself, asks the network for nothing and has no script."""

import html
import json
import re

import source

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --link: light-dark(#0550ae, #79b8ff); }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem 1.5rem 6rem; max-width: 62rem; }
nav { border-bottom: 1px solid var(--line); padding-bottom: .5rem; }
nav a { margin-right: 1.2rem; }
a { color: var(--link); }
h1 { font-size: 1.7rem; }
h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); }
h3, h4 { margin-top: 2rem; }
h4 { font-size: 1.15rem; }
code, pre { font: .88em/1.45 ui-monospace, monospace; }
pre { background: var(--soft); padding: .7rem; overflow-x: auto; border-radius: 4px; }
table { border-collapse: collapse; width: 100%; margin: .6rem 0; }
th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); }
td { overflow-wrap: break-word; }
td:first-child { white-space: nowrap; }
td:nth-child(2) { overflow-wrap: anywhere; min-width: 9rem; }
.method { font-weight: 700; }
ul.contents { columns: 20rem; }
"""
PAGES = {
    "index.html": "Overview",
    "messages.html": "Messages and topics",
    "http.html": "HTTP API",
    "configuration.html": "Configuration",
    "metrics.html": "Metrics",
}


def prose(text):
    """Plain text, with code between backticks and stress between stars."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text or "", quote=False))
    return re.sub(r"(?<![\w*])\*([^*<>]+)\*", r"<em>\1</em>", text)


def code(value):
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"<code>{html.escape(shown, quote=False)}</code>"


def anchor(*words):
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


def table(head, rows):
    cells = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<table>\n<tr>{cells}</tr>\n{body}</table>\n" if body else ""


def page(name, body):
    links = "".join(f'<a href="{file}">{title}</a>' for file, title in PAGES.items())
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Tidegate: {PAGES[name]}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<nav>{links}</nav>\n<h1>{PAGES[name]}</h1>\n{body}</body>\n</html>\n"
    )


class Schemas:
    """Shows schemas of one document."""

    def __init__(self, document):
        self.document = document

    def found(self, node):
        """What a reference points to, and where else it does."""
        while isinstance(node, dict) and "$ref" in node:
            target = self.document
            for part in node["$ref"].removeprefix("#/").split("/"):
                target = target[part.replace("~1", "/").replace("~0", "~")]
            node = {key: value for key, value in node.items() if key != "$ref"} | target
        for part in node.get("allOf", []) if isinstance(node, dict) else []:
            node = self.found(part) | {key: value for key, value in node.items() if key != "allOf"}
        return node

    def kind(self, node):
        """In a word or two what may stand there."""
        node = self.found(node)
        if node is True or not node.keys() - {"description", "title", "default"}:
            return "any JSON"
        if "const" in node:
            return code(node["const"])
        if "enum" in node:
            return " | ".join(code(value) for value in node["enum"])
        if "properties" in node and "title" in node:
            return code(node["title"])
        branches = node.get("anyOf") or node.get("oneOf")
        if branches and "properties" not in node:
            return " or ".join(dict.fromkeys(self.kind(branch) for branch in branches))
        kinds = node.get("type", "any JSON")
        words = kinds if isinstance(kinds, str) else " or ".join(kinds)
        if words == "array":
            words = f"array of {self.kind(node.get('items', True))}"
        return words + self.bounds(node)

    def bounds(self, node):
        low, high = node.get("minimum", node.get("minLength")), node.get("maximum", node.get("maxLength"))
        unit = " long" if "minLength" in node or "maxLength" in node else ""
        if low is not None and high is not None:
            return f", {low} to {high}{unit}"
        if high is not None:
            return f", at most {high}{unit}"
        if "pattern" in node:
            return f", {code(node['pattern'])}"
        return f", at least {low}{unit}" if low else ""

    def rows(self, node, prefix=""):
        node = self.found(node)
        if not isinstance(node, dict):
            return
        needed = node.get("required", [])
        for name, field in node.get("properties", {}).items():
            shown = self.found(field)
            about = shown.get("description", "") if isinstance(shown, dict) else ""
            yield code(prefix + name), self.kind(field), "" if name in needed else "optional", prose(about)
            inner = shown.get("items", shown) if isinstance(shown, dict) else shown
            yield from self.rows(inner, f"{prefix}{name}{'[]' if inner is not shown else ''}.")

    def shown(self, node):
        """A table of its fields, or a line where it has none."""
        whole = self.found(node)
        if not isinstance(whole, dict):
            return "<p>Any JSON value.</p>\n"
        fields = table(["field", "what", "", "meaning"], self.rows(whole))
        branches = [self.found(branch) for branch in whole.get("oneOf", []) + whole.get("anyOf", [])]
        parts = [self.shown(branch) for branch in branches if branch.get("properties")]
        both = fields + "<p>or</p>\n".join(parts)
        return both or f"<p>{self.kind(whole)}</p>\n"


def contents(entries):
    lines = "".join(f'<li><a href="#{at}">{title}</a></li>\n' for at, title in entries)
    return f'<ul class="contents">\n{lines}</ul>\n'


def messages_page(document):
    schemas, entries, body = Schemas(document), [], []
    by_channel = {}
    for operation in document["operations"].values():
        by_channel.setdefault(operation["channel"]["$ref"].rsplit("/", 1)[1], []).append(operation)
    for name, channel in document["channels"].items():
        at = anchor(name)
        entries.append((at, f"{html.escape(channel['title'])} <code>{channel['address']}</code>"))
        body.append(f'<h2 id="{at}">{html.escape(channel["title"])}</h2>\n<p><code>{channel["address"]}</code></p>\n')
        body.append(f"<p>{prose(channel['description'])}</p>\n{of_channel(schemas, channel)}")
        for operation in by_channel[name]:
            side = "To the gateway" if operation["action"] == "receive" else "From the gateway"
            body.append(f"<h3>{side}</h3>\n<p>{prose(operation['summary'])}</p>\n")
            for reference in operation["messages"]:
                message = schemas.found(schemas.found({"$ref": reference["$ref"]}))
                body.append(one_message(schemas, operation["action"], reference["$ref"].rsplit("/", 1)[1], message))
    intro = f'<p>{prose(document["info"]["description"])} Made of <a href="../asyncapi.json">asyncapi.json</a>.</p>\n'
    return page("messages.html", intro + contents(entries) + "".join(body))


def of_channel(schemas, channel):
    bindings = channel["bindings"]
    if "ws" in bindings:
        return (
            f"<h3>Words of the query</h3>\n{schemas.shown(bindings['ws']['query'])}"
            f"<h3>Headers of the handshake</h3>\n{schemas.shown(bindings['ws']['headers'])}"
            f"<p>Refused with {', '.join(map(str, channel['x-handshake-refusals']))}.</p>\n<h3>Close codes</h3>\n"
            + table(
                ["code", "reason", "meaning", "come back"],
                [
                    (code(end["code"]), code(end["reason"]), prose(end["meaning"]), end["advice"])
                    for end in channel["x-close-codes"]
                ],
            )
        )
    kafka = bindings["kafka"]
    settings = {"partitions": kafka["partitions"], "copies": kafka["replicas"], **kafka["topicConfiguration"]}
    return table(["setting", "of a new topic"], [(code(name), code(value)) for name, value in settings.items()])


def one_message(schemas, action, name, message):
    at = anchor(action, name)
    parts = [f'<h4 id="{at}"><code>{html.escape(message["title"])}</code></h4>\n<p>{prose(message["summary"])}</p>\n']
    if "bindings" in message:
        key = message["bindings"]["kafka"]["key"]
        parts.append(f"<p>Key: {schemas.kind(key)}. {prose(key.get('description'))}</p>\n")
    parts.append(schemas.shown(message["payload"]))
    if "headers" in message and message["headers"].get("properties"):
        parts.append(f"<p>Headers:</p>\n{schemas.shown(message['headers'])}")
    for example in message.get("examples", []):
        shown = json.dumps(example["payload"], ensure_ascii=False)
        parts.append(f"<pre>{html.escape(shown, quote=False)}</pre>\n")
    return "".join(parts)


def http_page(documents):
    entries, body = [], []
    for document in documents:
        schemas = Schemas(document)
        body.append(f"<h2>{document['info']['title']}</h2>\n<p>{prose(document['info']['description'])}</p>\n")
        for path, item in document["paths"].items():
            for method in ("get", "post", "put", "delete"):
                if method in item:
                    operation = item[method]
                    at = anchor(operation["operationId"])
                    entries.append((at, prose(operation["summary"])))
                    parameters = item.get("parameters", []) + operation.get("parameters", [])
                    body.append(one_route(schemas, at, method, path, operation, parameters))
    intro = (
        '<p>Made of <a href="../openapi.json">openapi.json</a> and '
        '<a href="../openapi-internal.json">openapi-internal.json</a>.</p>\n'
    )
    return page("http.html", intro + contents(entries) + "".join(body))


def one_route(schemas, at, method, path, operation, parameters):
    parts = [f'<h3 id="{at}">{prose(operation["summary"])}</h3>\n']
    parts.append(f'<p><span class="method">{method.upper()}</span> {code(path)}</p>\n')
    parts.append(f"<p>{prose(operation.get('description'))}</p>\n" if operation.get("description") else "")
    rows = [
        (
            code(one["name"]),
            one["in"],
            schemas.kind(one["schema"]),
            "" if one.get("required") else "optional",
            prose(one.get("description")),
        )
        for one in map(schemas.found, parameters)
    ]
    parts.append(table(["parameter", "in", "what", "", "meaning"], rows))
    for kind, media in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Body, {code(kind)}:</p>\n{schemas.shown(media['schema'])}")
    rows, answers = [], []
    for status, answer in operation["responses"].items():
        answer = schemas.found(answer)
        headers = ", ".join(code(name) for name in answer.get("headers", {}))
        rows.append((code(status), prose(answer["description"]), headers))
        for kind, media in answer.get("content", {}).items():
            if status.startswith("2") and kind == "application/json":
                answers.append(f"<p>Answer {status}, {code(kind)}:</p>\n{schemas.shown(media['schema'])}")
    return "".join(parts) + table(["status", "when", "headers"], rows) + "".join(answers)


def configuration_page(schema):
    schemas, entries, body = Schemas(schema), [], []
    for section, node in schema["properties"].items():
        node = schemas.found(node)
        entries.append((anchor(section), f"<code>[{section}]</code>"))
        body.append(
            f'<h2 id="{anchor(section)}"><code>[{section}]</code></h2>\n<p>{prose(node.get("description"))}</p>\n'
        )
        rows = [
            (
                code(key),
                schemas.kind(field),
                default(schemas.found(field)),
                prose(schemas.found(field).get("description")),
            )
            for key, field in node.get("properties", {}).items()
        ]
        body.append(table(["key", "what", "default", "meaning"], rows))
    intro = (
        "<p>A TOML file; each key is also read from <code>TIDEGATE_SECTION__KEY</code>, or from the file that "
        "<code>TIDEGATE_SECTION__KEY_FILE</code> names. <code>tidegate default-config</code> prints all of this, "
        "<code>tidegate check-config</code> what is in force. Made of "
        '<a href="../configuration.schema.json">configuration.schema.json</a>.</p>\n'
    )
    return page("configuration.html", intro + contents(entries) + "".join(body))


def default(node):
    return code(node["default"]) if node.get("default") is not None else ""


def metrics_page():
    rows = []
    for name, metric in source.node().items():
        labels = ", ".join(
            f'<a href="#{anchor(enum)}">{code(label)}</a>' if (enum := label_enum(metric, label)) else code(label)
            for label in metric.labels
        )
        rows.append((code(name), metric.kind, labels, prose(metric.meaning)))
    body = "<p>What <code>/metrics</code> of the internal port answers, in Prometheus' text format.</p>\n"
    body += table(["metric", "type", "labels", "meaning"], rows) + "<h2>Labels</h2>\n"
    for enum, (about, values) in source.enums().items():
        body += f'<h3 id="{anchor(enum)}">{enum}</h3>\n<p>{prose(about)}</p>\n'
        body += table(["value", "meaning"], [(code(value), prose(doc)) for value, doc in values.items()])
    return page("metrics.html", body)


def label_enum(metric, label):
    return metric.enums.get(label)


def index_page(schemas):
    lines = [
        (
            "messages.html",
            "Messages and topics",
            "what devices and applications say and are told, and what is in Kafka",
        ),
        ("http.html", "HTTP API", "commands to devices, and what may be known and done beside; health"),
        ("configuration.html", "Configuration", "every key of a node"),
        ("metrics.html", "Metrics", "what a node can be asked about itself"),
    ]
    body = table(["page", ""], [(f'<a href="{file}">{title}</a>', about) for file, title, about in lines])
    files = ["asyncapi.json", "openapi.json", "openapi-internal.json", "configuration.schema.json"]
    files += [f"protocol/schemas/{name}" for name in schemas]
    files += ["protocol/tidegate.cddl", "protocol/tidegate.proto"]
    body += "<h2>For programs</h2>\n<ul>\n"
    body += "".join(f'<li><a href="../{file}">{file}</a></li>\n' for file in files)
    return page("index.html", body + "</ul>\n")


def all_of_them(messages, apis, configuration):
    """Each page, by its file's name."""
    schemas = sorted(path.name for path in (source.ROOT / "docs" / "protocol" / "schemas").glob("*.json"))
    return {
        "index.html": index_page(schemas),
        "messages.html": messages_page(messages),
        "http.html": http_page(apis),
        "configuration.html": configuration_page(configuration),
        "metrics.html": metrics_page(),
    }
