// The documents, and whether they allow what went over the wire. What the gateway says may have no field that they do
// not name.
"use strict";

const fs = require("fs");
const path = require("path");
const Ajv = require("ajv").default;
const Ajv2020 = require("ajv/dist/2020").default;
const formats = require("ajv-formats").default;

const DOCS = path.join(__dirname, "..", "..", "docs");
// Headers that are HTTP's own, or said of every answer in the text.
const TRANSPORT = new Set([
  "allow", "cache-control", "connection", "content-length", "content-type", "date", "sec-websocket-version", "upgrade",
]); // prettier-ignore

const read = (name) => JSON.parse(fs.readFileSync(path.join(DOCS, name), "utf8"));

// The same schemas, but that an object has no field that is not named, unless it says so itself. Not inside of branches
// that only say what is needed.
function closed(node) {
  if (Array.isArray(node)) return node.map(closed);
  if (node === null || typeof node !== "object") return node;
  const copy = Object.fromEntries(Object.entries(node).map(([key, value]) => [key, closed(value)]));
  const fields = node.properties && typeof node.properties === "object" && !("const" in node.properties);
  const more = "additionalProperties" in node || "propertyNames" in node || "allOf" in node;
  if (fields && !more && (node.type === "object" || node.type === undefined)) copy.additionalProperties = false;
  return copy;
}

function pointer(document, reference) {
  const parts = reference.slice(2).split("/").map((part) => part.replace(/~1/g, "/").replace(/~0/g, "~"));
  return parts.reduce((node, part) => node[part], document);
}

const escape = (part) => part.replace(/~/g, "~0").replace(/\//g, "~1");

class AsyncApi {
  constructor() {
    this.document = read("asyncapi.json");
    this.said = formats(new Ajv({ strict: false })).addSchema(strict(this.document.components), "asyncapi");
    this.got = formats(new Ajv({ strict: false })).addSchema({ components: this.document.components }, "asyncapi");
  }

  // The messages that a channel has in a direction, with their names.
  messages(channel, direction) {
    const action = direction === "in" ? "receive" : "send";
    return Object.values(this.document.operations)
      .filter((one) => one.action === action && one.channel.$ref === `#/channels/${channel}`)
      .flatMap((one) => one.messages.map((message) => pointer(this.document, message.$ref).$ref.split("/").pop()));
  }

  part(direction, name, what, value) {
    const ajv = direction === "in" ? this.got : this.said;
    const check = ajv.getSchema(`asyncapi#/components/messages/${escape(name)}/${what}`);
    return check(value) ? [] : check.errors.map((error) => `${name}: ${what}${error.instancePath} ${error.message}`);
  }

  // The names of those messages that this may be, and why it is none of the others.
  judge(channel, direction, payload, headers, key) {
    const why = [];
    const names = this.messages(channel, direction).filter((name) => {
      const about = this.document.components.messages[name];
      const found = this.part(direction, name, "payload", payload);
      if (headers !== undefined && about.headers) found.push(...this.part(direction, name, "headers", headers));
      if (key !== undefined) found.push(...this.part(direction, name, "bindings/kafka/key", key));
      why.push(...found);
      return found.length === 0;
    });
    return { names, why };
  }
}

// What the gateway says of itself is closed; what a device said is stored as it came.
function strict(components) {
  const copy = structuredClone(components);
  for (const [name, schema] of Object.entries(copy.schemas)) {
    if (!name.startsWith("device-to-gateway.")) copy.schemas[name] = closed(schema);
  }
  return { components: copy };
}

class OpenApi {
  constructor(name) {
    this.name = name;
    this.document = read(`${name}.json`);
    const { components, paths } = this.document;
    this.said = formats(new Ajv2020({ strict: false })).addSchema(closed({ components, paths }), name);
    this.got = formats(new Ajv2020({ strict: false })).addSchema({ components, paths }, name);
  }

  route(target) {
    const wanted = target.split("?")[0];
    return Object.keys(this.document.paths).find((template) => {
      const pattern = template.replace(/[.]/g, "\\.").replace(/\{[^}]+\}/g, "[^/]+");
      return new RegExp(`^${pattern}$`).test(wanted);
    });
  }

  check(ajv, place, value) {
    const check = ajv.getSchema(`${this.name}#${place}`);
    return check(value) ? [] : check.errors.map((error) => `${error.instancePath} ${error.message}`);
  }

  // What is wrong with a request that was understood; `media` is the place of its body in the document.
  asked(place, operation, entry) {
    if (entry.request === null) return [];
    if (!operation.requestBody) return ["no body is documented"];
    return this.check(this.got, `${place}/requestBody/content/application~1json/schema`, entry.request);
  }

  // Everything that is wrong with an exchange.
  judge(entry) {
    const route = this.route(entry.path);
    const operation = route && this.document.paths[route][entry.method];
    if (!operation) return [`${entry.method} ${entry.path} is not documented`];
    const place = `/paths/${escape(route)}/${entry.method}`;
    let answer = operation.responses[entry.status];
    if (!answer) return [`${entry.status} is not documented`];
    let at = `${place}/responses/${entry.status}`;
    if (answer.$ref) [at, answer] = [answer.$ref.slice(1), pointer(this.document, answer.$ref)];
    const found = this.asked(place, operation, entry);
    const known = new Set(Object.keys(answer.headers ?? {}).map((name) => name.toLowerCase()));
    found.push(...Object.keys(entry.headers).filter((name) => !TRANSPORT.has(name) && !known.has(name)));
    const type = entry.headers["content-type"]?.split(";")[0];
    if (!type) return entry.body === "" && !answer.content ? found : [...found, "a body without a type, or none"];
    if (!answer.content?.[type]) return [...found, `${type} is not documented`];
    return [...found, ...this.check(this.said, `${at}/content/${escape(type)}/schema`, entry.body)];
  }
}

module.exports = { AsyncApi, OpenApi, read, DOCS };
