"""The AsyncAPI document: channels, messages and topics out of the messages' schemas, the pinned bytes of the wire,
the table of close codes and the list of topics that the program prints."""

import json
import re

from source import ROOT

SCHEMAS = ROOT / "docs" / "protocol" / "schemas"
ID = "[A-Za-z0-9._-]{1,128}"
TRANSLATED = "The same model in CBOR (tidegate.cddl) and Protobuf (tidegate.proto), by the subprotocol."


def schema(name):
    return json.loads((SCHEMAS / f"{name}.json").read_text())


def bare(node, prefix):
    """A schema that points into its own `$defs`, for a place among the document's components."""
    if isinstance(node, dict):
        return {
            key: f"#/components/schemas/{prefix}.{value.removeprefix('#/$defs/')}"
            if key == "$ref"
            else bare(value, prefix)
            for key, value in node.items()
            if key not in ("$schema", "$id", "$defs")
        }
    return [bare(item, prefix) for item in node] if isinstance(node, list) else node


def kinds(document):
    """Each message of a schema of frames, by its type."""
    for node in document.get("oneOf") or document["$defs"].values():
        if "properties" in node:
            yield node["title"], node


def examples():
    """What is pinned of the wire in JSON: for each message its examples."""
    found = {}
    for line in (ROOT / "tests" / "golden" / "wire.txt").read_text().splitlines():
        name, encoding, text = line.split(" ", 2)
        if encoding == "Json":
            payload = json.loads(text)
            side, label = name.split("/")
            kind = "update" if payload["type"].endswith("_update") else payload["type"]
            found.setdefault((side, kind), []).append({"name": label, "payload": payload})
    return found


def closes():
    """The close codes, as the code has them."""
    text = (ROOT / "src" / "protocol" / "close.rs").read_text()
    found = re.findall(r"/// (.+)\n    \w+ = (\d{4}), \"(\w+)\", (\w+);", text)
    return [
        {
            "code": int(code),
            "reason": reason,
            "meaning": doc,
            "advice": re.sub(r"(?<!^)([A-Z])", r" \1", advice).lower(),
        }
        for doc, code, reason, advice in found
    ]


def topics(printed):
    """What `tidegate topics --print` says: for each topic its meaning, partitions and settings."""
    row = re.compile(r"^# tidegate\.([\w-]+) +(\d+) +(\d+)  (.*?)  \((.*)\)$", re.M)
    return {
        name: {
            "meaning": meaning[0].upper() + meaning[1:] + ".",
            "partitions": int(partitions),
            "replicas": int(replicas),
            "settings": dict(word.split("=") for word in settings.split()),
        }
        for name, partitions, replicas, settings, meaning in row.findall(printed)
    }


class Document:
    """Grows message by message."""

    def __init__(self):
        self.schemas, self.messages, self.channels, self.operations = {}, {}, {}, {}
        self.pinned = examples()

    def frames(self, channel, name, sides):
        """The messages of one direction of a socket; of a client also the batch of them."""
        document, names = schema(name), []
        for key, node in document.get("$defs", {}).items():
            self.schemas[f"{name}.{key}"] = bare(node, name)
        for kind, node in kinds(document):
            if "$defs" not in document:
                self.schemas[f"{name}.{kind}"] = bare(node, name)
            pinned = [one for side in sides for one in self.pinned.get((side, kind), [])]
            message = {
                "name": kind,
                "title": kind,
                "summary": node["description"],
                "contentType": "application/json",
                "payload": {"$ref": f"#/components/schemas/{name}.{kind}"},
            }
            names.append(self.message(channel, f"{name}.{kind}", message | ({"examples": pinned} if pinned else {})))
        if "anyOf" in document:
            batch = bare(document["anyOf"][1], name)
            self.schemas[f"{name}.batch"] = {"title": "batch", **batch}
            message = {
                "name": "batch",
                "title": "batch",
                "summary": "Several messages, handled in their order, each taken or refused by itself.",
                "contentType": "application/json",
                "payload": {"$ref": f"#/components/schemas/{name}.batch"},
            }
            names.append(self.message(channel, f"{name}.batch", message))
        return names

    def message(self, channel, name, message):
        self.messages[name] = message
        self.channels[channel]["messages"][name] = {"$ref": f"#/components/messages/{name}"}
        return {"$ref": f"#/channels/{channel}/messages/{name}"}

    def operation(self, name, action, channel, summary, messages):
        self.operations[name] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{channel}"},
            "summary": summary,
            "messages": messages,
        }

    def socket(self, channel, title, who, refusals, query):
        self.channels[channel] = {
            "address": f"/v1/{channel}",
            "title": title,
            "description": f"A WebSocket of {who}. {TRANSLATED} Ignore every type and field you do not know. Times are "
            "Unix milliseconds. A handshake that is refused is answered with problem+json; `x-handshake-refusals` "
            "lists the statuses, `x-close-codes` what a connection ends with.",
            "servers": [{"$ref": "#/servers/public"}],
            "messages": {},
            "bindings": {
                "ws": {
                    "method": "GET",
                    "query": {"type": "object", "properties": query},
                    "headers": {"$ref": "#/components/schemas/handshake"},
                    "bindingVersion": "0.1.0",
                }
            },
            "x-handshake-refusals": refusals,
            "x-close-codes": closes(),
        }

    def topic(self, name, about):
        self.channels[name] = {
            "address": f"tidegate.{name}",
            "title": name,
            "description": f"{about['meaning']} The prefix of the name is `kafka.topic_prefix`.",
            "servers": [{"$ref": "#/servers/kafka"}],
            "messages": {},
            "bindings": {
                "kafka": {
                    "topic": f"tidegate.{name}",
                    "partitions": about["partitions"],
                    "replicas": about["replicas"],
                    "topicConfiguration": topic_settings(about["settings"]),
                    "bindingVersion": "0.5.0",
                }
            },
        }

    def record(self, topic, name, summary, payload, headers, key):
        message = {
            "name": name,
            "title": name,
            "summary": summary,
            "contentType": "application/json",
            "payload": payload,
            "headers": headers,
            "bindings": {"kafka": {"key": key, "bindingVersion": "0.5.0"}},
        }
        return self.message(topic, f"{topic}.{name}", message)


def topic_settings(settings):
    """Those that AsyncAPI has names for."""
    found = {"cleanup.policy": settings["cleanup.policy"].split(",")}
    if "retention.ms" in settings:
        found["retention.ms"] = int(settings["retention.ms"])
    return found


def text(pattern, **more):
    return {"type": "string", "pattern": pattern, **more}


MOMENT = text(r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$")
DEVICE_KEY = text(
    f"^{ID}/{ID}$", description="Tenant and device: what is of one device is in one partition, in its order."
)


def event(kind, event_id):
    """The headers of a CloudEvent in the Kafka binding's binary mode."""
    return {
        "type": "object",
        "required": [
            "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "tg_received_at", "tg_epoch", "content-type",
        ],
        "additionalProperties": False,
        "properties": {
            "ce_specversion": {"const": "1.0"},
            "ce_id": text(event_id[0], description=event_id[1]),
            "ce_source": text(f"^/tidegate/{ID}/{ID}$"),
            "ce_type": {"const": f"tidegate.{kind}.v1"},
            "ce_time": MOMENT | {"description": "When it was: the device's claim where that can be, else the receipt."},
            "tg_clock_suspect": {"const": "true", "description": "The device's claim cannot be, and was not taken."},
            "tg_received_at": MOMENT,
            "tg_epoch": text(r"^\d+$", description="Of the connection; 0 where there was none."),
            "content-type": {"const": "application/json"},
            "traceparent": {"type": "string", "description": "W3C trace context."},
        },
    }  # fmt: skip


def probe_headers():
    headers = event("probe", ("^[0-9a-f]{16}$", "Drawn."))
    properties = {key: value for key, value in headers["properties"].items() if not key.startswith(("tg_", "trace"))}
    return headers | {
        "required": list(properties),
        "properties": properties | {"ce_source": {"const": "/tidegate"}},
    }


REPORT_ID = (
    r"^[A-Za-z0-9_-]{1,64}:(\d+|-[0-9a-f]{16})$",
    "`<boot>:<seq>`: the same for a repeat. Without `seq` a fresh one.",
)
PRESENCE_ID = (r"^\d+:(online|offline)$", "`<epoch>:online` or `<epoch>:offline`.")
COMMAND_ID = (r"^[0-9a-f]{32}:\d+$", "`<command>:<version>`: the same for the same transition, whoever publishes it.")
AS_SENT = {"additionalProperties": True, "description": "As the device sent it, in JSON whatever it spoke."}


def stored(document, topic, about):
    """The topics that the gateway writes events to."""
    document.topic(topic, about[topic])
    device = "#/components/schemas/device-to-gateway"
    if topic == "telemetry":
        payload = {"allOf": [{"$ref": f"{device}.update"}], **AS_SENT}
        headers = event("update", REPORT_ID)
        return [document.record(topic, "update", "A device's update.", payload, headers, DEVICE_KEY)]
    if topic == "status":
        payload = {"allOf": [{"$ref": f"{device}.status"}], **AS_SENT}
        probe = {"type": "object", "maxProperties": 0}
        return [
            document.record(
                topic, "status", "A device's health report.", payload, event("status", REPORT_ID), DEVICE_KEY
            ),
            of_file(document, topic, "presence", event("presence", PRESENCE_ID), DEVICE_KEY),
            document.record(
                topic,
                "probe",
                "A node's round trip through Kafka: pass over it.",
                probe,
                probe_headers(),
                text("^/probe/"),
            ),
        ]
    return [of_file(document, topic, "command-event", event("command", COMMAND_ID), DEVICE_KEY)]


def of_file(document, topic, name, headers, key):
    """A record whose value has a schema in a file of its own."""
    whole = schema(name)
    for part, node in whole.get("$defs", {}).items():
        document.schemas[f"{name}.{part}"] = bare(node, name)
    document.schemas[name] = bare(whole, name)
    payload = {"$ref": f"#/components/schemas/{name}"}
    return document.record(topic, name, whole.get("description") or whole["title"], payload, headers, key)


def orders(document, about):
    document.topic("commands", about["commands"])
    headers = {
        "type": "object",
        "properties": {
            "ce_id": {"type": "string", "minLength": 1, "maxLength": 256, "description": "The idempotency key."},
            "traceparent": {"type": "string", "description": "W3C trace context."},
        },
    }
    found = of_file(document, "commands", "command-order", headers, DEVICE_KEY)
    document.operation("readCommands", "receive", "commands", "Commands for devices, of any tenant.", [found])


def letters(document, about):
    document.topic("dead-letter", about["dead-letter"])
    reasons = ["malformed", "too_large", "conflict", "queue_full", "expired"]
    headers = {
        "type": "object",
        "required": ["tg_reason", "tg_detail", "tg_topic", "tg_partition", "tg_offset"],
        "description": "Those of the record, and why it is here and where it was.",
        "additionalProperties": True,
        "properties": {
            "tg_reason": {"enum": reasons},
            "tg_detail": {"type": "string", "description": "What is wrong, in words."},
            "tg_topic": {"type": "string"},
            "tg_partition": text(r"^\d+$"),
            "tg_offset": text(r"^\d+$"),
        },
        "propertyNames": {"pattern": "^(?!tg_)|^tg_(reason|detail|topic|partition|offset)$"},
    }
    payload = {"description": "The value of the record as it was, if it was JSON or not; none where it is too large."}
    found = document.record(
        "dead-letter", "letter", "A command that was not accepted.", payload, headers, {"type": "string"}
    )
    document.operation("publishDeadLetters", "send", "dead-letter", "Commands that were not accepted.", [found])


def revocations(document, about):
    document.topic("revocations", about["revocations"])
    key = text(r"^(device|key|issued):", description="What it is about; a record without a value takes it back.")
    headers = {"type": "object", "maxProperties": 0}
    found = of_file(document, "revocations", "revocation", headers, key)
    taken_back = document.record(
        "revocations", "tombstone", "What was revoked under this key holds again.", {"type": "null"}, headers, key
    )
    messages = [found, taken_back]
    document.operation("publishRevocations", "send", "revocations", "Blocks and revocations of the HTTP API.", messages)
    document.operation("readRevocations", "receive", "revocations", "Every node follows all of them.", messages)


def sockets(document):
    words = {
        "heartbeat_s": {
            "type": "integer",
            "minimum": 0,
            "description": "How often the gateway is to ping, within its bounds.",
        },
        "max_bytes": {"type": "integer", "minimum": 512, "description": "The largest message the device can take."},
        "close": {"enum": ["drop"], "description": "Closes that mean *come back* end without a close frame."},
        "access_token": {"type": "string", "description": "The token, where `auth.query_token` is on."},
    }
    boot = {
        "boot": text("^[A-Za-z0-9_-]{1,64}$", description="Drawn anew at each boot of the device: it scopes `seq`.")
    }
    statuses = [400, 401, 403, 404, 405, 414, 421, 426, 429, 431, 503, 505]
    document.socket(
        "device", "Devices", "a device; `/` is the same for clients that know no path", statuses, boot | words
    )
    document.socket("app", "Applications", "an application", statuses, words)
    for channel, who in (("device", "devices"), ("app", "applications")):
        got = document.frames(channel, f"{channel}-to-gateway", [channel])
        told = document.frames(
            channel, f"gateway-to-{channel}", ["gateway"] if channel == "device" else ["gateway", "gateway-to-app"]
        )
        said = channel.capitalize()
        document.operation(f"from{said}", "receive", channel, f"What {who} say.", got)
        document.operation(f"to{said}", "send", channel, f"What {who} are told.", told)


HANDSHAKE = {
    "type": "object",
    "properties": {
        "Authorization": text("^Bearer ", description="Or a subprotocol `tidegate.bearer.<token>` from a browser."),
        "Sec-WebSocket-Protocol": {
            "type": "string",
            "description": "`tidegate.v1.json`, `tidegate.v1.cbor` or `tidegate.v1.protobuf`; none is JSON.",
        },
    },
}


def whole(printed_topics):
    """The document. `printed_topics`: what `tidegate topics --print` says."""
    document, about = Document(), topics(printed_topics)
    document.schemas["handshake"] = HANDSHAKE
    sockets(document)
    published = {"telemetry": "Updates", "status": "Health reports and presence", "command-events": "Commands' states"}
    for topic, what in published.items():
        name = "publish" + "".join(word.capitalize() for word in topic.split("-"))
        document.operation(name, "send", topic, f"{what}, as CloudEvents.", stored(document, topic, about))
    orders(document, about)
    letters(document, about)
    revocations(document, about)
    if unsaid := about.keys() - document.channels.keys():
        raise SystemExit(f"docs/make: nothing is written of the topics {', '.join(sorted(unsaid))}")
    return {
        "asyncapi": "3.0.0",
        "id": "urn:tidegate:v1",
        "info": {
            "title": "Tidegate",
            "version": "1",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            "description": "What a gateway says to devices and applications, and they to it; and what it writes to "
            "Kafka and reads there. `receive` is what the gateway gets, `send` what it says.",
        },
        "defaultContentType": "application/json",
        "servers": {
            "public": {
                "host": "{gateway}",
                "protocol": "wss",
                "description": "Where devices and applications connect.",
                "variables": {"gateway": {"default": "localhost:8443"}},
                "security": [{"$ref": "#/components/securitySchemes/token"}],
            },
            "kafka": {
                "host": "{broker}",
                "protocol": "kafka",
                "description": "The Kafka of the gateway (`kafka.brokers`).",
                "variables": {"broker": {"default": "localhost:9092"}},
            },
        },
        "channels": document.channels,
        "operations": document.operations,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            "messages": document.messages,
            "schemas": document.schemas,
        },
    }
