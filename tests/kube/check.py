"""The parts of `tests/kube/run`: each check says what it found on one line, and the first that fails ends it."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile

import images
import steps
from cluster import NAME, NAMESPACE, Failed, call, chart, gone, helm, in_pod, kubectl, need, ok, pods, read_secret

TRYOUT = {
    "tryout": {
        "enabled": True,
        "redis": {"image": "localhost/tidegate-redis:test"},
        "kafka": {"image": "localhost/tidegate-kafka:test"},
    },
    "replicaCount": 2,
    "image": {"registry": "localhost", "repository": "tidegate", "tag": "test"},
    "config": {"drain": {"propagation_s": 2, "budget_s": 40}},
    "preStop": {"seconds": 3},
    "minReadySeconds": 2,
    "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
}


def first_ack():
    token = read_secret(f"{NAME}-tryout", "device-token")
    said = in_pod("smoke", f"--url=ws://{NAME}", f"--token={token}")
    return next(line for line in said.splitlines() if line.startswith("ok       ack"))


def tryout(_):
    """What a new user does, and that a changed configuration and the end of it work too."""
    chart("install", TRYOUT)
    ok("helm install --wait with the trying-out values, in a namespace that enforces restricted pods")
    ok(f"first ack through the Service: {first_ack()}")
    said = helm("test", "--logs")
    need("ok       command" in said, f"helm test tried no command: {said}")
    ok("helm test: an ack, and a command answered")
    kept = {name: read_secret(f"{NAME}-{name}", key) for name, key in (("peer", "tls.crt"), ("tryout", "jwks.json"))}
    before = pods()
    changed = json.loads(json.dumps(TRYOUT))
    changed["config"]["limits"] = {"max_connections": 1_234}
    chart("upgrade", changed)
    gone(before)
    after = {name: read_secret(f"{NAME}-{name}", key) for name, key in (("peer", "tls.crt"), ("tryout", "jwks.json"))}
    need(after == kept, "an upgrade made other certificates or keys")
    first_ack()
    ok("helm upgrade with a changed configuration: all pods replaced, certificates and keys kept")
    helm("uninstall", "--wait", "--timeout=180s")
    gone(pods(leaving=True))
    ok("helm uninstall")


PARTS = {
    "tryout": tryout,
    "cluster": steps.cluster,
    "rollout": steps.rollout,
    "scale": steps.scale,
    "memory": steps.memory,
}


def too_long(*_):
    raise Failed("the time is over: TIDEGATE_KUBE_MINUTES allows for more")


def explain():
    """What the cluster says of a failure."""
    for what in ("get pods --output=wide", "get events --sort-by=.lastTimestamp"):
        with contextlib.suppress(Failed):
            print("\n".join(kubectl(*what.split()).splitlines()[-30:]), flush=True)
    with contextlib.suppress(Failed):
        said = kubectl("logs", "--selector=app.kubernetes.io/component=gateway", "--container=tidegate", "--tail=8")
        print(said[-6000:], flush=True)


def run(parts, scratch):
    call("kubectl", "create", "namespace", NAMESPACE)
    call("kubectl", "label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    try:
        for part in parts:
            PARTS[part](scratch)
    except Failed:
        explain()
        raise
    finally:
        signal.alarm(0)
        # Nobody waits for the drains of what is thrown away.
        with contextlib.suppress(Failed):
            kubectl("delete", "deployments", "--all", "--cascade=orphan")
            kubectl("delete", "replicasets", "--all", "--cascade=orphan")
            kubectl("delete", "pods", "--all", "--force", "--grace-period=0")
        call("kubectl", "delete", "namespace", NAMESPACE, "--timeout=180s")


def main():
    unknown = [part for part in sys.argv[1:] if part not in PARTS]
    if unknown:
        sys.exit(f"no part called {', '.join(unknown)}; there are {', '.join(PARTS)}")
    parts = sys.argv[1:] or list(PARTS)
    if set(parts) & {"rollout", "scale", "memory"} and "cluster" not in parts:
        parts.insert(0, "cluster")
    signal.signal(signal.SIGALRM, too_long)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.alarm(60 * int(os.environ.get("TIDEGATE_KUBE_MINUTES", 15)))
    scratch = pathlib.Path(tempfile.mkdtemp())
    try:
        ok(f"{images.load(scratch)} images made from folders and loaded")
        run(parts, scratch)
    except Failed as error:
        print(f"FAIL {error}", flush=True)
        sys.exit(1)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    ok("the namespace is removed again")


main()
