"""What every rendering must be: valid for each Kubernetes, restricted, without secrets where they can be read, and a
configuration that the gateway takes."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import yaml

from chart import CHART, SETS, Refused, in_parallel, objects_of, text_of
from versions import VERSIONS

# Google's, of which there are no schemas but validators in an npm package.
GOOGLES = ("GCPBackendPolicy", "HealthCheckPolicy")
SECRET = "not-for-git"


def with_files():
    """A copy of the chart with a rule and a dashboard, whether or not it has some of its own."""
    copy = pathlib.Path(tempfile.mkdtemp()) / "tidegate"
    shutil.copytree(CHART, copy)
    rule = {
        "alert": "Sample",
        "expr": "up == 0",
        "labels": {"severity": "page"},
        "annotations": {"summary": "{{ $labels.pod }}"},
    }
    for folder in ("rules", "dashboards"):
        (copy / "files" / folder).mkdir(parents=True, exist_ok=True)
    (copy / "files/rules/sample.yaml").write_text(yaml.safe_dump({"groups": [{"name": "sample", "rules": [rule]}]}))
    (copy / "files/dashboards/sample.json").write_text('{"title": "{{ pod }}"}')
    return copy


def renderings():
    """The text of each rendering, all-on with files in the chart; and what could not be rendered."""
    copy = with_files()

    def one(entry):
        name, files = entry
        chart = copy if name.startswith("all-on") else CHART
        try:
            return name, text_of(files, chart=chart), None
        except Refused as error:
            return name, None, f"{name}: {error}"

    done = in_parallel(one, SETS)
    shutil.rmtree(copy.parent)
    return {name: text for name, text, _ in done if text}, [error for *_, error in done if error]


# What no schema may let pass: a key that nobody knows, in Kubernetes' own and in a custom resource.
PLANTED = """
{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 1, protocoll: TCP}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: b}, spec: {rules: [{backendRef: []}]}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: 1}}
"""


def googles(objects):
    """What is wrong with those that are Google's own."""
    script = pathlib.Path(__file__).parent / "google.js"
    text = json.dumps([item for item in objects if item["kind"] in GOOGLES])
    run = subprocess.run(["node", script], input=text, capture_output=True, text=True)
    return [line for line in (run.stdout + run.stderr).splitlines() if line]


def lets_nothing_pass():
    found = " ".join(conform({"planted.yaml": PLANTED}, VERSIONS[-1:]))
    wrong = {"timeoutSec": "long"}
    target = {"group": "", "kind": "Service", "name": "a"}
    policy = {"apiVersion": "networking.gke.io/v1", "kind": GOOGLES[0], "metadata": {"name": "d"}}
    found += " ".join(googles([{**policy, "spec": {"default": wrong, "targetRef": target}}]))
    names = ("Service a", "HTTPRoute b", "ConfigMap c", "GCPBackendPolicy d")
    return [f"the schemas let {name} pass" for name in names if name not in found]


def conform(texts, versions=VERSIONS):
    schemas = os.environ["TIDEGATE_HELM_CACHE"] + "/schemas"
    kind = "{{ .ResourceKind }}{{ .KindSuffix }}.json"
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            (pathlib.Path(folder) / name).write_text(text)

        def one(version):
            run = subprocess.run(
                [
                    "kubeconform",
                    "-strict",
                    f"-kubernetes-version={version}.0",
                    f"-skip={','.join(GOOGLES)}",
                    "-output=text",
                    f"-schema-location={schemas}/{{{{ .NormalizedKubernetesVersion }}}}/{kind}",
                    f"-schema-location={schemas}/crds/{kind}",
                    folder,
                ],
                capture_output=True,
                text=True,
            )
            lines = (run.stdout + run.stderr).strip().splitlines()
            return [f"{version}: {line.replace(folder + '/', '')}" for line in lines] if run.returncode else []

        return sum(in_parallel(one, versions), [])


def pod_specs(item):
    if item["kind"] == "Pod":
        return [item["spec"]]
    return [item["spec"]["template"]["spec"]] if item["kind"] in ("Deployment", "Job", "StatefulSet") else []


def restricted(name, item):
    """The restricted pod security standard, a read-only root, no token, and something asked for."""
    for spec in pod_specs(item):
        place = f"{name}: {item['kind']} {item['metadata']['name']}"
        pod = spec.get("securityContext", {})
        if not (pod.get("runAsNonRoot") and pod.get("seccompProfile", {}).get("type") == "RuntimeDefault"):
            yield f"{place}: runs as root or without a seccomp profile"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{place}: has a service account's token"
        if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{place}: shares the host's namespaces"
        for container in spec["containers"] + spec.get("initContainers", []):
            context = container.get("securityContext", {})
            good = (
                context.get("allowPrivilegeEscalation") is False
                and context.get("readOnlyRootFilesystem") is True
                and context.get("capabilities", {}).get("drop") == ["ALL"]
            )
            if not good:
                yield f"{place}: container {container['name']} is not restricted"
            if not container.get("resources", {}).get("requests"):
                yield f"{place}: container {container['name']} asks for nothing"


def misplaced(name, item):
    if item["kind"] != "Secret" and SECRET in yaml.safe_dump(item):
        yield f"{name}: a secret stands in {item['kind']} {item['metadata']['name']}"
    names = [item["metadata"]["name"]] + [
        volume.get("name", "") for spec in pod_specs(item) for volume in spec.get("volumes", [])
    ]
    for long in (text for text in names if len(text) > 63):
        yield f"{name}: {item['kind']} {long} has more than 63 characters"


def check():
    texts, mistakes = renderings()
    count = 0
    mistakes += googles(objects_of("\n---\n".join(texts.values())))
    for name, text in texts.items():
        items = objects_of(text)
        count += len(items)
        seen = [(item["kind"], item["metadata"]["name"]) for item in items]
        mistakes += [f"{name}: {pair} twice" for pair in set(seen) if seen.count(pair) > 1]
        for item in items:
            mistakes += [*restricted(name, item), *misplaced(name, item)]
    mistakes += conform(texts) + lets_nothing_pass()
    return mistakes, f"{count} objects of {len(texts)} renderings, for Kubernetes {VERSIONS[0]} to {VERSIONS[-1]}"


def check_config(binary):
    """The gateway takes each rendered configuration, with the environment and the files its pods have."""

    def one(entry):
        try:
            return accepted(binary, *entry)
        except Refused as error:
            return [f"{entry[0]}: {error}"]

    return sum(in_parallel(one, SETS), []), f"{len(SETS)} rendered configurations taken by the gateway"


def accepted(binary, name, files):
    items = objects_of(text_of(files))
    pod = next(
        item
        for item in items
        if item["kind"] == "Deployment" and item["metadata"]["labels"]["app.kubernetes.io/component"] == "gateway"
    )
    container = next(entry for entry in pod["spec"]["template"]["spec"]["containers"] if entry["name"] == "tidegate")
    text = next(item["data"]["tidegate.toml"] for item in items if "tidegate.toml" in item.get("data", {}))
    with tempfile.TemporaryDirectory() as folder:
        env = {"HOSTNAME": "gw-0", "POD_IP": "10.0.0.7"}
        for entry in container["env"]:
            if "value" in entry:
                env[entry["name"]] = entry["value"].replace("$(POD_IP)", env["POD_IP"]).replace("/etc/tidegate", folder)
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        needed = re.findall(r'"(/etc/tidegate/[^"]+)"', text) + [
            entry["value"] for entry in container["env"] if entry["name"].endswith("_FILE")
        ]
        mistakes = [f"{name}: {path} is not mounted" for path in needed if os.path.dirname(path) not in mounts]
        for path in needed:
            here = pathlib.Path(path.replace("/etc/tidegate", folder))
            here.parent.mkdir(parents=True, exist_ok=True)
            here.write_text("x\n")
        config = pathlib.Path(folder) / "tidegate.toml"
        config.write_text(text.replace("/etc/tidegate", folder))
        run = subprocess.run([binary, "check-config", "--config", config], env=env, capture_output=True, text=True)
        return mistakes + ([f"{name}: {run.stderr.strip()}"] if run.returncode else [])
