// What the public tools say of the documents: AsyncAPI's own parser, and ajv of every JSON Schema.
// Prints each mistake as a line.
"use strict";

const fs = require("fs");
const path = require("path");
const { Parser } = require("@asyncapi/parser");
const Ajv2020 = require("ajv/dist/2020").default;
const formats = require("ajv-formats").default;
const { DOCS, read } = require("./documents.js");

// The parser takes seconds for the whole document: one of little more than a channel shows that it finds fault.
function spoilt({ asyncapi, info, channels, components }) {
  const status = structuredClone(channels.commands);
  status.messages = { order: { payload: { type: "thing" } } };
  return { asyncapi, info, channels: { status }, components: { securitySchemes: components.securitySchemes } };
}

async function diagnosed(document) {
  const { diagnostics } = await new Parser().parse(JSON.stringify(document));
  // 3.1 exists; tools know 3.0.
  const found = diagnostics.filter((one) => one.code !== "asyncapi-latest-version");
  return found.map((one) => `asyncapi.json: ${one.path.join(".")}: ${one.message}`);
}

function schemas() {
  const folder = path.join(DOCS, "protocol", "schemas");
  const files = fs.readdirSync(folder).map((name) => path.join("protocol", "schemas", name));
  files.push("configuration.schema.json", "loadtest/profile.schema.json", "loadtest/summary.schema.json");
  const ajv = formats(new Ajv2020({ strict: true, strictTypes: false, strictRequired: false, strictTuples: false }));
  // What Rust's numbers are called.
  for (const format of ["uint", "uint8", "uint16", "uint32", "uint64", "int64", "double", "float"]) {
    ajv.addFormat(format, true);
  }
  const found = [];
  for (const file of files) {
    try {
      ajv.compile(read(file));
    } catch (error) {
      found.push(`${file}: ${error.message}`);
    }
  }
  return [found, files.length];
}

async function main() {
  const found = await diagnosed(read("asyncapi.json"));
  const planted = await diagnosed(spoilt(read("asyncapi.json")));
  if (!planted.some((line) => line.includes("payload"))) found.push(`a planted mistake was not found: ${planted}`);
  const [wrong, count] = schemas();
  found.push(...wrong);
  found.forEach((line) => console.log(line));
  console.log(`asyncapi.json by its parser, ${count} schemas by ajv`);
  process.exit(found.length ? 1 : 0);
}

main();
