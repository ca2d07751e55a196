"""Lays out the schemas that rendered objects are checked against, where kubeconform finds them.

Kubernetes' own come with the Python package kubernetes-validate, for each version; those of custom resources are in the
Go modules of their projects, as definitions of which only the schema is taken. In both nothing unknown is allowed.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import kubernetes_validate
import yaml

from versions import VERSIONS

# YAML 1.1 has a meaning for a lone `=` that nobody wants, and an operator of Prometheus' definitions is called so.
yaml.CSafeLoader.add_constructor("tag:yaml.org,2002:value", yaml.CSafeLoader.construct_yaml_str)


REFERENCE = re.compile(r'"\$ref": "(?:/api/_definitions\.json)?#/\$defs/([^"]+)"')


def kubernetes(out):
    source = pathlib.Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    for version in VERSIONS:
        target = out / f"v{version}.0"
        target.mkdir(parents=True)
        folder = source / f"v{version}.0-local-strict"
        definitions = json.loads((folder / "_definitions.json").read_text())["$defs"]
        for path in folder.glob("*.json"):
            schema = json.loads(path.read_text())
            if schema.get("x-kubernetes-group-version-kind") and not path.name.startswith("_"):
                (target / path.name).write_text(alone(schema, definitions))


def alone(schema, definitions):
    """A schema with the definitions that it needs within it: the file of all is large and read for each kind."""
    schema.pop("$id", None)
    needed, waiting = {}, REFERENCE.findall(json.dumps(schema))
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed[name] = definitions[name]
            waiting += REFERENCE.findall(json.dumps(definitions[name]))
    return json.dumps({**schema, "$defs": needed}).replace('"/api/_definitions.json#', '"#')


def custom(listed, out):
    target = out / "crds"
    target.mkdir()
    for line in listed.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        module, version, folder = line.split()
        for path in sorted((module_folder(module, version) / folder).glob("*.yaml")):
            for definition in yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader):
                if definition and definition.get("kind") == "CustomResourceDefinition":
                    write_definition(definition["spec"], target)


def module_folder(module, version):
    run = subprocess.run(
        ["go", "mod", "download", "-json", f"{module}@{version}"],
        check=True,
        capture_output=True,
        env={**os.environ, "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "auto"},
        cwd="/",
    )
    return pathlib.Path(json.loads(run.stdout)["Dir"])


def write_definition(spec, target):
    for version in spec["versions"]:
        schema = strict(version["schema"]["openAPIV3Schema"], root=True)
        name = f"{spec['names']['kind'].lower()}-{spec['group'].split('.')[0]}-{version['name']}.json"
        (target / name).write_text(json.dumps(schema))


def strict(schema, root=False):
    """Nothing but the properties listed, unless the definition itself says that others are kept."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {key: strict(value) for key, value in schema.items() if key not in ("properties", "default")}
    if "properties" in schema:
        made["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        if root:
            made["properties"]["metadata"] = {"type": "object"}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "type" in schema:
            made.setdefault("additionalProperties", False)
    return made


def main():
    listed, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    mark = f"{kubernetes_validate.__file__}\n{listed.read_text()}\n{pathlib.Path(__file__).read_text()}"
    done = out / ".complete"
    if done.exists() and done.read_text() == mark:
        return
    print("tests/helm/run: laying out schemas", file=sys.stderr)
    part = out.with_suffix(".part")
    for path in (part, out):
        shutil.rmtree(path, ignore_errors=True)
    part.mkdir(parents=True)
    kubernetes(part)
    custom(listed, part)
    (part / ".complete").write_text(mark)
    part.rename(out)


main()
