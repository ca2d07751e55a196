// Holds the documents against what is sent: `golden` the pinned bytes, `traffic FILE` what a live node said.
// Every captured message has to be allowed, what the gateway refused must not be, and what is a little beside
// a captured message must not be either. Prints each mistake as a line; the last line says what was looked at.
"use strict";

const fs = require("fs");
const path = require("path");
const { AsyncApi, OpenApi, DOCS } = require("./documents.js");

const mistakes = [];
const mistake = (what, entry, why) =>
  mistakes.push(`${what}: ${JSON.stringify(entry).slice(0, 400)} ${why.slice(0, 4).join("; ")}`);
const lines = (file) => fs.readFileSync(file, "utf8").split("\n").filter(Boolean);

// Each is a message that nobody may send: with a field nobody knows, of a type nobody knows, without its first field.
function spoilt(payload, closed) {
  if (payload === null || typeof payload !== "object" || Array.isArray(payload)) return [];
  const { type, ...untyped } = payload;
  const wrong = [untyped, { ...payload, type: "nothing" }, { ...payload, type: 7 }, [[]], "text"];
  if (closed) wrong.push({ ...payload, undocumented: 1 });
  return wrong;
}

function golden(api) {
  const sides = {
    gateway: ["device", "out"],
    "gateway-to-app": ["app", "out"],
    app: ["app", "in"],
    device: ["device", "in"],
  };
  let count = 0;
  for (const line of lines(path.join(DOCS, "..", "tests", "golden", "wire.txt"))) {
    const [name, encoding, ...rest] = line.split(" ");
    if (encoding !== "Json") continue;
    const [channel, direction] = sides[name.split("/")[0]];
    const payload = JSON.parse(rest.join(" "));
    const { names, why } = api.judge(channel, direction, payload);
    if (names.length === 0) mistake("not allowed", payload, why);
    count += 1;
    for (const wrong of spoilt(payload, direction === "out")) {
      if (api.judge(channel, direction, wrong).names.length) mistake("allowed", wrong, [`in the place of ${name}`]);
    }
  }
  return `${count} pinned messages`;
}

class Traffic {
  constructor(asyncapi) {
    this.asyncapi = asyncapi;
    this.apis = Object.fromEntries(["openapi", "openapi-internal"].map((name) => [name, new OpenApi(name)]));
    this.seen = new Set();
    this.counts = { message: 0, record: 0, http: 0, handshake: 0, close: 0, planted: 0 };
  }

  take(entry) {
    this.counts[entry.kind] += 1;
    this[entry.kind](entry);
  }

  allowed(entry, channel, payload, headers, key) {
    const { names, why } = this.asyncapi.judge(channel, entry.direction, payload, headers, key);
    if (entry.wrong && names.length) mistake("refused by the gateway, and allowed", entry, names);
    if (!entry.wrong && !names.length) mistake("not allowed", entry, why);
    if (entry.wrong) this.counts.planted += 1;
    else names.forEach((name) => this.seen.add(`${channel} ${entry.direction} ${name}`));
    return names.length > 0;
  }

  planted(entry, channel, payload, headers, key) {
    this.counts.planted += 1;
    const { names } = this.asyncapi.judge(channel, entry.direction, payload, headers, key);
    if (names.length) mistake("planted, and allowed", payload, [JSON.stringify(headers ?? {}), ...names]);
  }

  message(entry) {
    if (!this.allowed(entry, entry.channel, entry.payload)) return;
    for (const wrong of spoilt(entry.payload, entry.direction === "out")) this.planted(entry, entry.channel, wrong);
  }

  record(entry) {
    const { topic, value, headers, key } = entry;
    if (!this.allowed(entry, topic, value, headers, key) || topic === "commands" || entry.direction === "in") return;
    this.planted(entry, topic, value, { ...headers, tg_undocumented: "1" }, key);
    if (topic === "dead-letter") return;
    this.planted(entry, topic, value, headers, "nobody");
    this.planted(entry, topic, "text", headers, key);
  }

  http(entry) {
    const why = this.apis[entry.document].judge(entry);
    if (why.length) return mistake("not as documented", entry, why);
    this.seen.add(`${entry.document} ${entry.method} ${this.apis[entry.document].route(entry.path)}`);
    this.unheard({ ...entry, status: 418 });
    this.unheard({ ...entry, path: `/v0${entry.path}` });
    this.unheard({ ...entry, method: "patch" });
    this.unheard({ ...entry, headers: { ...entry.headers, "x-undocumented": "1" } });
    if (entry.request) this.unheard({ ...entry, request: { ...entry.request, undocumented: 1 } });
    if (entry.body && typeof entry.body === "object" && Object.keys(entry.body).length) {
      this.unheard({ ...entry, body: { ...entry.body, undocumented: 1 } });
      this.unheard({ ...entry, body: [] });
    }
  }

  // An exchange that the documents must not allow.
  unheard(entry) {
    this.counts.planted += 1;
    if (!this.apis[entry.document].judge(entry).length) mistake("planted, and allowed", entry, []);
  }

  handshake(entry) {
    const channel = this.asyncapi.document.channels[entry.channel];
    if (!channel["x-handshake-refusals"].includes(entry.status)) mistake("not documented", entry, []);
    const problem = this.apis.openapi.check(this.apis.openapi.said, "/components/schemas/Problem", entry.body);
    if (problem.length) mistake("no problem", entry, problem);
  }

  close(entry) {
    const known = this.asyncapi.document.channels[entry.channel]["x-close-codes"];
    // A client's own 1000 is given back to it without a word.
    const mine = entry.code === 1000 && entry.reason === "";
    if (!mine && !known.some((end) => end.code === entry.code && end.reason === entry.reason)) {
      mistake("not documented", entry, []);
    }
  }

  // Every message there is was captured.
  unseen() {
    for (const operation of Object.values(this.asyncapi.document.operations)) {
      const channel = operation.channel.$ref.split("/").pop();
      const direction = operation.action === "receive" ? "in" : "out";
      if (channel === "revocations" && direction === "in") continue;
      for (const name of this.asyncapi.messages(channel, direction)) {
        const place = `${channel} ${direction} ${name}`;
        // An application sends no batches here: it is the device's code that takes them apart.
        if (!this.seen.has(place) && place !== "app in app-to-gateway.batch") mistakes.push(`never seen: ${place}`);
      }
    }
    for (const [name, one] of Object.entries(this.apis)) {
      for (const [route, item] of Object.entries(one.document.paths)) {
        for (const method of Object.keys(item).filter((key) => key !== "parameters")) {
          if (!this.seen.has(`${name} ${method} ${route}`)) mistakes.push(`never asked: ${method} ${route}`);
        }
      }
    }
  }
}

function captured(asyncapi, file) {
  const traffic = new Traffic(asyncapi);
  lines(file).forEach((line) => traffic.take(JSON.parse(line)));
  traffic.unseen();
  const counts = traffic.counts;
  return (
    `${counts.message} messages, ${counts.record} records, ${counts.http} exchanges, ` +
    `${counts.handshake} refused handshakes and ${counts.close} closes of a live node, ` +
    `${counts.planted} planted mistakes`
  );
}

const [what, file] = process.argv.slice(2);
const asyncapi = new AsyncApi();
const said = what === "golden" ? golden(asyncapi) : captured(asyncapi, file);
mistakes.forEach((line) => console.log(line));
console.log(said);
process.exit(mistakes.length ? 1 : 0);
