"""The cluster as the steps see it: kubectl and helm, the gateway's pods, their metrics and logs."""

import base64
import contextlib
import json
import pathlib
import re
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
NAMESPACE, RELEASE, NAME = "tidegate-test", "gw", "gw-tidegate"
# A busy machine is no reason to fail: what takes longer than this does not come at all.
PATIENCE_S = 240
BEGAN = time.monotonic()


class Failed(Exception):
    """What does not hold, for a person."""


def ok(text):
    print(f"ok   {time.monotonic() - BEGAN:4.0f} s  {text}", flush=True)


def need(holds, text):
    if not holds:
        raise Failed(text)


def call(*command, stdin=None, fails=False, timeout=PATIENCE_S + 30):
    """What a command prints. With `fails` it has to fail, and what it complains about is the answer."""
    words = list(map(str, command))
    try:
        run = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(words[:6])}: not done in {timeout} s") from None
    said = (run.stderr.strip() + "\n" + run.stdout.strip()).strip()
    if fails:
        need(run.returncode != 0, f"{' '.join(words)}: succeeded")
        return said
    need(run.returncode == 0, f"{' '.join(words[:8])}: exit {run.returncode}: {said[-2000:]}")
    return run.stdout


def kubectl(*args, **options):
    return call("kubectl", f"--namespace={NAMESPACE}", *args, **options)


def helm(command, *args, **options):
    return call("helm", command, RELEASE, f"--namespace={NAMESPACE}", *args, **options)


def chart(command, values, *args, **options):
    """`helm install` or `helm upgrade` of the chart, waiting. Values are a map."""
    timeout = [] if any("--timeout" in arg for arg in args) else [f"--timeout={PATIENCE_S}s"]
    text = json.dumps(values)
    return helm(command, ROOT / "helm" / "tidegate", "--values=-", "--wait", *timeout, *args, stdin=text, **options)


def get(*args):
    return json.loads(kubectl("get", *args, "--output=json"))


def apply(*objects):
    kubectl("apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))


def secret(name, kind="Opaque", **data):
    """A Secret; `__` in a key stands for a point, `_` for a hyphen."""
    keys = {key.replace("__", ".").replace("_", "-"): text for key, text in data.items()}
    meta = {"name": name, "namespace": NAMESPACE}
    apply({"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": meta, "stringData": keys})


def read_secret(name, key):
    return base64.b64decode(get("secret", name)["data"][key]).decode()


def until(what, holds, within=PATIENCE_S, every=0.5):
    """Waits until `holds` gives something, and gives that."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        if found := holds():
            return found
        time.sleep(every)
    raise Failed(f"waited {within} s until {what}")


# ---- the gateway's pods ----------------------------------------------------------------------------------------------


def pods(leaving=False):
    """Names of the gateway's pods that run; with `leaving` those that leave too."""
    items = get("pods", "--selector=app.kubernetes.io/component=gateway")["items"]
    return sorted(
        item["metadata"]["name"]
        for item in items
        if item["status"]["phase"] == "Running" and (leaving or "deletionTimestamp" not in item["metadata"])
    )


def ready_pods():
    items = get("pods", "--selector=app.kubernetes.io/component=gateway")["items"]
    return sorted(
        item["metadata"]["name"]
        for item in items
        if "deletionTimestamp" not in item["metadata"]
        and any(each["type"] == "Ready" and each["status"] == "True" for each in item["status"].get("conditions", []))
    )


def gone(names, within=PATIENCE_S):
    for name in names:
        kubectl("wait", "--for=delete", f"pod/{name}", f"--timeout={within}s")


def containers(pod):
    """The state of the gateway's container in a pod: restarts and what ended it last."""
    status = get("pod", pod)["status"]["containerStatuses"]
    return next(each for each in status if each["name"] == "tidegate")


def metric(pod, name, **labels):
    """The sum of a metric's series in one pod, those with these labels only; through the API server, on any cluster."""
    text = kubectl("get", f"--raw=/api/v1/namespaces/{NAMESPACE}/pods/{pod}:9090/proxy/metrics")
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    total = 0.0
    for line in text.splitlines():
        series = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
        if series and all(each in (series[1] or "").split(",") for each in wanted):
            total += float(series[2])
    return total


def devices(names):
    """How many devices each of these pods has."""
    return {name: int(metric(name, "tidegate_connections", kind="device", state="open")) for name in names}


def in_pod(*command, **options):
    return kubectl("exec", f"deploy/{NAME}", "--container=tidegate", "--", "tidegate", *command, **options)


class Followed:
    """The log of a pod, read to the pod's end: afterwards it is not there to be asked."""

    def __init__(self, pod):
        command = ["kubectl", f"--namespace={NAMESPACE}", "logs", "--follow", f"pod/{pod}", "--container=tidegate"]
        self.pod, self.lines = pod, []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                self.lines.append(json.loads(line))

    def end(self):
        """What was logged, once the pod is gone."""
        self.reader.join(20)
        self.process.kill()
        self.process.wait()
        return self.lines
