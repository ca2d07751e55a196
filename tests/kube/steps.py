"""Nodes under load, on neighbours of their own: upgraded, scaled, evicted, killed, upgraded to nothing, and filled."""

import datetime
import functools
import itertools
import json
import os
import pathlib
import time

from cluster import HERE, NAME, NAMESPACE, Followed, apply, call, chart, containers, devices, get, gone, helm, in_pod
from cluster import kubectl, metric, need, ok, pods, ready_pods, secret, until
from load import Load, judged

DEVICES = 600
# Small enough that a drain of a third of the devices is seen to be paced, and takes no minutes.
RATE_PER_S, PROPAGATION_S, BUDGET_S = 20, 5, 90
# As `limits` has it for one at rest, and what a process has without devices, with room for handshakes.
AT_REST, PROCESS = 8 << 10, 64 << 20


# The section `limits` as it is in force: an upgrade changes it.
LIMITS = {}


def settings(replicas=3, memory=None):
    rebalance = rebalance_keys()
    config = {
        "kafka": {"brokers": "kafka:9092"},
        "redis": {"urls": ["redis://redis:6379"]},
        "drain": {"propagation_s": PROPAGATION_S, "budget_s": BUDGET_S, "rate_per_s": RATE_PER_S},
        "limits": LIMITS,
    }
    return {
        "replicaCount": replicas,
        "image": {"registry": "localhost", "repository": "tidegate", "tag": "test"},
        "config": config | ({"rebalance": rebalance} if rebalance else {}),
        "tls": {"existingSecret": "devices-tls"},
        "peer": {"existingSecret": "peers-tls"},
        "jwks": {"existingSecret": "issuer-keys"},
        "redis": {"existingSecret": "redis-user"},
        "topics": {"apply": True, "partitions": 4, "replicationFactor": 1},
        "smoke": {"existingSecret": "smoke-tokens", "appTokenKey": "app-token", "caSecret": "devices-ca"},
        "preStop": {"seconds": 5},
        "minReadySeconds": 3,
        # So that five pods have room on two CPUs; the limit stays the chart's own unless it is what is tried.
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}} | ({"limits": {"memory": memory}} if memory else {}),
    }


# ---- three nodes -----------------------------------------------------------------------------------------------------


def certificate(folder, name, names, authority=None):
    """A key and a certificate below `folder`, signed by an authority or its own."""
    key, made = folder / f"{name}.key", folder / f"{name}.crt"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", 2]
    command += ["-subj", f"/CN={name}", "-keyout", key, "-out", made]
    if authority:
        command += ["-CA", folder / f"{authority}.crt", "-CAkey", folder / f"{authority}.key"]
        command += ["-addext", "basicConstraints=critical,CA:FALSE"]
        command += ["-addext", "subjectAltName=" + ",".join(f"DNS:{each}" for each in names)]
    call(*command)
    return {"tls__crt": made.read_text(), "tls__key": key.read_text()}


def secrets(scratch):
    binary = os.environ["TIDEGATE_TEST_BINARY"]
    folder = pathlib.Path(scratch) / "keys"
    call(binary, "keys", "new", "--dir", folder)
    key = folder / "signing-key.pem"

    def token(*args):
        return call(binary, "token", "--tenant=load", f"--key={key}", *args).strip()

    certificate(folder, "devices-ca", [])
    certificate(folder, "peers-ca", [])
    secret("devices-ca", ca__crt=(folder / "devices-ca.crt").read_text())
    served = certificate(folder, "devices", [NAME, f"{NAME}.{NAMESPACE}.svc"], "devices-ca")
    secret("devices-tls", kind="kubernetes.io/tls", **served)
    peers = certificate(folder, "peers", ["tidegate-peer"], "peers-ca")
    secret("peers-tls", kind="kubernetes.io/tls", ca__crt=(folder / "peers-ca.crt").read_text(), **peers)
    secret("issuer-keys", jwks__json=(folder / "jwks.json").read_text())
    secret("load-keys", signing_key__pem=key.read_text())
    secret("redis-user", password="of-this-test-only")
    app = token("--sub=smoke", "--scope=commands:write")
    secret("smoke-tokens", token=token("--sub=smoke-device"), app_token=app)


def cluster(scratch):
    secrets(scratch)
    profiles = {each.name: each.read_text() for each in HERE.glob("*.toml")}
    apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "load-profiles"}, "data": profiles})
    kubectl("apply", f"--filename={HERE / 'neighbours.yaml'}")
    for each in ("redis", "kafka"):
        kubectl("rollout", "status", f"deployment/{each}", "--timeout=240s")
    chart("install", settings())
    need(len(ready_pods()) == 3, f"three pods are ready: {ready_pods()}")
    said = helm("test", "--logs")
    need("ok       ack" in said and "ok       command" in said, f"helm test over TLS: {said}")
    until("each node sees two peers", lambda: all(metric(pod, "tidegate_peers") == 2 for pod in pods()))
    need("plaintext = false" in in_pod("check-config", "--config=/etc/tidegate/config/tidegate.toml"), "TLS is off")
    ok("three nodes with a Redis and a Kafka of their own, TLS outside, mTLS between them: helm test, two peers each")


# ---- an upgrade under load -------------------------------------------------------------------------------------------


def at(line):
    return datetime.datetime.fromisoformat(line["timestamp"].replace("Z", "+00:00")).timestamp()


def drained(followed):
    """How many a pod told to leave in its busiest second, how many in all, and how long it took; judged by its log."""
    lines = followed.end()
    begun = next((at(line) for line in lines if line.get("message", "").startswith("leaving:")), None)
    left = next((at(line) for line in lines if line.get("message") == "left"), None)
    need(begun and left, f"{followed.pod} did not end by itself: {lines[-3:]}")
    turns = [line for line in lines if line.get("message") == "connections are told to leave"]
    told = [line["told"] for line in turns]
    # Those told in the last moment of a second may be counted in the next.
    over = [total - RATE_PER_S * seconds for seconds, total in enumerate(itertools.accumulate(told), 1)]
    need(told and max(over) <= RATE_PER_S / 10, f"{followed.pod} told {told} connections a second, not {RATE_PER_S}")
    # The last line comes when all are told, not a second after the one before.
    gaps = [at(after) - at(before) for before, after in zip(turns, turns[1:-1])]
    need(not gaps or sum(gaps) > 0.95 * len(gaps), f"{followed.pod}: its seconds were short: {gaps}")
    need(left - begun <= PROPAGATION_S + BUDGET_S, f"{followed.pod} took {left - begun:.0f} s, over its budget")
    return max(told), sum(told), left - begun


def rollout(_):
    load = Load("rollout", "rollout", DEVICES)
    load.connected()
    old = ready_pods()
    logs = [Followed(pod) for pod in old]
    LIMITS["max_connections"] = 12_345
    chart("upgrade", settings())
    gone(old)
    need(not set(old) & set(ready_pods()) and len(ready_pods()) == 3, f"not three new pods: {ready_pods()}")
    said = in_pod("check-config", "--config=/etc/tidegate/config/tidegate.toml")
    need("max_connections = 12345" in said, "the new configuration is not in the pods")
    drains = [drained(log) for log in logs]
    load.connected()
    by_peers = sum(metric(pod, "tidegate_commands_total", route="peer") for pod in pods())
    summary = load.end()
    told = "; ".join(f"{sum_} told in {took:.0f} s, {most}/s at most" for most, sum_, took in drains)
    ok(f"helm upgrade with a changed configuration under {DEVICES} devices: all pods replaced")
    ok(f"drains paced, within {RATE_PER_S}/s and {BUDGET_S} s: {told}")
    ok(f"ledger: {judged(summary)}")
    need(1006 not in {int(code) for code in summary["closes"]}, f"connections were cut: {summary['closes']}")
    need(by_peers > 0, "no command went by a peer")
    after_ramp = [second["connects"] for second in summary["series"] if second["at_s"] > 20]
    ok(f"no connection cut; {max(after_ramp)} connects in the busiest second; {by_peers:.0f} commands by a peer so far")


# ---- more nodes, and fewer -------------------------------------------------------------------------------------------


@functools.cache
def rebalance_keys():
    """What `[rebalance]` is given: that so few devices are worth it, soon. None where the node has no such section."""
    schema = json.loads(call(os.environ["TIDEGATE_TEST_BINARY"], "config-schema"))
    section = schema["properties"].get("rebalance")
    if not section:
        return None
    return {key: value for key, value in {"minimum": 50, "settle_s": 10}.items() if key in section["properties"]}


def grow():
    old = ready_pods()
    chart("upgrade", settings(5))
    need(len(ready_pods()) == 5 and set(old) <= set(ready_pods()), f"{old} became {ready_pods()}")
    if not rebalance_keys():
        ok(f"3 to 5 pods, none replaced; NOT CHECKED: rebalance, which this gateway has not: {devices(ready_pods())}")
        return

    def balanced():
        found = devices(ready_pods())
        return found if max(found.values()) <= 1.15 * sum(found.values()) / len(found) else None

    ok(f"3 to 5 pods, none replaced, and rebalanced: {list(until('the nodes are balanced', balanced).values())}")


def evict(pod):
    order = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE}}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    return ("create", f"--raw={path}", "--filename=-"), {"stdin": json.dumps(order)}


def busiest():
    """The pods that are ready, those with the most devices first."""
    held = devices(ready_pods())
    return sorted(held, key=held.get, reverse=True)


def budget():
    first, second, *_ = busiest()
    log, held = Followed(first), devices([first])[first]
    args, options = evict(first)
    kubectl(*args, **options)
    args, options = evict(second)
    said = kubectl(*args, **options, fails=True)
    need("disruption budget" in said, f"the second eviction was not refused by the budget: {said}")
    until("there are five again", lambda: len(ready_pods()) == 5)
    gone([first])
    need(second in ready_pods(), f"{second} is gone")
    most, told, took = drained(log)
    need(told >= 0.9 * held > 0, f"{first} had {held} devices and told {told}")
    ok(f"an eviction drains one pod ({told} told in {took:.0f} s), and the PodDisruptionBudget refuses a second")


def kill(load):
    victim, *_ = busiest()
    cut = devices([victim])[victim]
    need(cut > 0, f"{victim} has no devices")
    kubectl("delete", "pod", victim, "--force", "--grace-period=0")
    until("there are five again", lambda: len(ready_pods()) == 5)
    load.connected()
    ok(f"a pod with {cut} devices killed: a new one is there, and all {load.count} devices are connected")


def missing_image(load):
    before = {pod: containers(pod)["restartCount"] for pod in ready_pods()}
    load.connected()
    values = settings(5)
    values["image"]["tag"] = "none"
    chart("upgrade", values, "--rollback-on-failure", "--timeout=30s", fails=True)
    failed = [each["message"] for each in get("events", "--field-selector=reason=Failed")["items"]]
    need(any("tidegate:none" in text for text in failed), f"no pod tried the missing image: {failed}")
    after = {pod: containers(pod)["restartCount"] for pod in ready_pods()}
    need(after == before, f"the pods that served changed: {before} became {after}")
    load.connected()
    until("no pod waits for the image", lambda: pods(leaving=True) == sorted(before))
    need(helm("status", "--output=json").find('"deployed"') > 0, "the release is not as it was")
    ok("an upgrade to a missing image rolls back, and the old pods went on serving")


def scale(_):
    load = Load("scale", "rollout", DEVICES)
    load.connected()
    grow()
    budget()
    kill(load)
    missing_image(load)
    ok(f"ledger: {judged(load.end())}")


# ---- the memory limit ------------------------------------------------------------------------------------------------


def memory_of(pod):
    """Working set and resident memory of a pod's gateway, as its kubelet counts them: bytes."""
    node = get("pod", pod)["spec"]["nodeName"]
    stats = json.loads(kubectl("get", f"--raw=/api/v1/nodes/{node}/proxy/stats/summary"))
    ours = next((each for each in stats["pods"] if each["podRef"]["name"] == pod), {"containers": []})
    for container in ours["containers"]:
        if container["name"] == "tidegate" and "rssBytes" in container.get("memory", {}):
            return container["memory"]["workingSetBytes"], container["memory"]["rssBytes"]
    return None


def memory(_):
    count = int(os.environ.get("TIDEGATE_KUBE_DEVICES", 5_000))
    # Twice: with the chart's own limit, and with one that leaves a device no more than what is reckoned with.
    for memory_limit in (None, f"{(PROCESS + count * AT_REST) >> 20}Mi"):
        fill(count, memory_limit)


def fill(count, memory_limit):
    values = settings(1, memory=memory_limit)
    chart("upgrade", values)
    until("one pod is left", lambda: len(pods(leaving=True)) == 1)
    (pod,) = ready_pods()
    limit = get("pod", pod)["spec"]["containers"][0]["resources"]["limits"]["memory"]
    _, empty = until("the kubelet counts it", lambda: memory_of(pod))
    load = Load("fill", "quiet", count)
    load.connected()
    looks = []
    for _ in range(3):
        # The kubelet counts once in ten to fifteen seconds.
        time.sleep(12)
        looks.append(until("the kubelet counts it", lambda: memory_of(pod)))
    state = containers(pod)
    need(state["restartCount"] == 0 and "terminated" not in state["lastState"], f"{pod} was killed: {state}")
    need(devices([pod])[pod] == count, f"{pod} does not hold {count}")
    summary = load.end()
    judged(summary)
    gone([load.name])
    counts = summary["counts"]
    need(counts["disconnects"] == 0, f"connections ended: {summary['closes']}, {counts}")
    working, resident = max(looks)
    ok(
        f"memory limit {limit}: {count} devices over TLS and none cut, no OOM kill; working set {working >> 20} MiB, "
        f"resident {resident >> 20} MiB, {empty >> 20} MiB without devices: {(resident - empty) / count / 1024:.2f} KiB each"
    )

