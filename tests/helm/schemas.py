"""Lays out the schemas that rendered objects are checked against, where kubeconform finds them.

Kubernetes' own come with the Python package kubernetes-validate, for each version; those of custom resources are in the
Go modules of their projects, as definitions of which only the schema is taken. In both nothing unknown is allowed.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import kubernetes_validate
import yaml

from versions import VERSIONS




def kubernetes(out):
    source = pathlib.Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    for version in VERSIONS:
        target = out / f"v{version}.0"
        target.mkdir(parents=True)
        for path in (source / f"v{version}.0-local-strict").glob("*.json"):
            # A reference is from the root of a site there, and within the folder here.
            text = path.read_text().replace('"/api/_definitions.json', '"_definitions.json')
            (target / path.name).write_text(text)


def custom(listed, out):
    target = out / "crds"
    target.mkdir()
    for line in listed.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        module, version, folder = line.split()
        for path in sorted((module_folder(module, version) / folder).glob("*.yaml")):
            for definition in yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader):
                if definition and definition["kind"] == "CustomResourceDefinition":
                    write_definition(definition["spec"], target)


def module_folder(module, version):
    run = subprocess.run(
        ["go", "mod", "download", "-json", f"{module}@{version}"],
        check=True, capture_output=True, env={**os.environ, "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "auto"}, cwd="/",
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
