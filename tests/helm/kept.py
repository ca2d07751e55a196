"""What helm made is kept by an upgrade, and a changed Secret rolls the pods: the chart rendered against an API server
that has the Secrets of an earlier rendering and nothing else."""

import base64
import contextlib
import http.server
import json
import pathlib
import tempfile
import threading

from chart import CHART, NAMESPACE, RELEASE, helm, objects_of, text_of

VERSION = {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
# Helm asks what kinds there are before it looks for anything.
KINDS = {
    "v1": ["Secret", "ConfigMap", "Service", "ServiceAccount", "Pod"],
    "apps/v1": ["Deployment"],
    "policy/v1": ["PodDisruptionBudget"],
}


def discovery():
    groups = [name.split("/")[0] for name in KINDS if "/" in name]
    found = {
        "/version": VERSION,
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [
                {
                    "name": group,
                    "versions": [{"groupVersion": f"{group}/v1", "version": "v1"}],
                    "preferredVersion": {"groupVersion": f"{group}/v1", "version": "v1"},
                }
                for group in groups
            ],
        },
    }
    for name, kinds in KINDS.items():
        resources = [
            {
                "name": f"{kind.lower()}s",
                "singularName": kind.lower(),
                "namespaced": True,
                "kind": kind,
                "verbs": ["get"],
            }
            for kind in kinds
        ]
        found[f"/apis/{name}" if "/" in name else "/api/v1"] = {
            "kind": "APIResourceList",
            "groupVersion": name,
            "resources": resources,
        }
    return found


DISCOVERY = discovery()
# Helm leaves alone what it has not made.
OWNED = {
    "namespace": NAMESPACE,
    "labels": {"app.kubernetes.io/managed-by": "Helm"},
    "annotations": {"meta.helm.sh/release-name": RELEASE, "meta.helm.sh/release-namespace": NAMESPACE},
}


@contextlib.contextmanager
def api_server(secrets):
    """A file for KUBECONFIG, of an API server that knows these Secrets, by name, with their data."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.split("?")[0]
            folder, _, name = path.rpartition("/")
            if path in DISCOVERY:
                self.answer(200, DISCOVERY[path])
            elif folder == f"/api/v1/namespaces/{NAMESPACE}/secrets" and name in secrets:
                self.answer(
                    200,
                    {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, **OWNED}, "data": secrets[name]},
                )
            else:
                self.answer(
                    404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
                )

        def answer(self, code, body):
            text = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "users": [{"name": "a", "user": {}}],
    }
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "config"
        file.write_text(json.dumps(config))
        try:
            yield file
        finally:
            server.shutdown()
            server.server_close()


def rendered(values, secrets):
    """The objects of a rendering that sees these Secrets, by kind and name."""
    with api_server(secrets) as config:
        text = helm(
            "template",
            RELEASE,
            CHART,
            f"--namespace={NAMESPACE}",
            "--dry-run=server",
            "--disable-openapi-validation",
            f"--kubeconfig={config}",
            f"--values={CHART / 'ci' / values}",
        )
    return {(item["kind"], item["metadata"]["name"]): item for item in objects_of(text)}


def encoded(secret):
    return secret.get("data") or {
        key: base64.b64encode(text.encode()).decode() for key, text in secret["stringData"].items()
    }


def check(_=None):
    mistakes = []
    first = {
        (item["kind"], item["metadata"]["name"]): item
        for item in objects_of(text_of([CHART / "ci" / "tryout-values.yaml"]))
    }
    made = {name: encoded(item) for (kind, name), item in first.items() if kind == "Secret"}
    second = rendered("tryout-values.yaml", made)
    for name, keys in (
        ("gw-tidegate-peer", ("ca.crt", "tls.crt", "tls.key")),
        ("gw-tidegate-tryout", ("jwks.json", "signing-key.json")),
    ):
        again = encoded(second["Secret", name])
        mistakes += [f"{name}: an upgrade makes another {key}" for key in keys if again[key] != made[name][key]]
    fresh = encoded(rendered("tryout-values.yaml", {})["Secret", "gw-tidegate-peer"])
    if fresh["tls.key"] == made["gw-tidegate-peer"]["tls.key"]:
        mistakes.append("gw-tidegate-peer: two installations have the same key")

    def rolls(name, text):
        pods = rendered("existing-secret-values.yaml", {name: {"a": text}})["Deployment", "gw-tidegate"]["spec"][
            "template"
        ]
        return pods["metadata"]["annotations"]

    for name, wanted in (
        ("kafka-user", True),
        ("kafka-tls", True),
        ("redis-tls", True),
        ("devices-tls", False),
        ("issuer-keys", False),
    ):
        if (rolls(name, "MQ==") != rolls(name, "Mg==")) != wanted:
            mistakes.append(f"{name}: a change {'does not roll' if wanted else 'rolls'} the pods")
    return mistakes, "what helm made is kept, and what rolls the pods"
