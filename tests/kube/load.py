"""The load tester as a pod, so that it reaches the Service and the Kafka that is in the cluster."""

import json

from cluster import NAME, Failed, apply, devices, get, kubectl, need, ready_pods, until

# The tester is no child that ends with the pod's first process: it is told to end by its id, and then still reports.
SCRIPT = """
tidegate-loadtest run "$@" --plain --out /out & echo $! >/out/pid
wait $!
status=$?
echo '=== summary'
printf '%s\\n' "$(</out/summary.json)"
exit $status
"""
# A busy machine may stand still for a moment.
SILENT_S = 5
NOBODY = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "fsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONFINED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
MOUNTS = {"keys": {"secretName": "load-keys"}, "ca": {"secretName": "devices-ca"}}


def pod(name, args):
    container = {
        "name": "load",
        "image": "localhost/tidegate-load:test",
        "command": ["/usr/bin/bash", "-c", SCRIPT, "load", *args],
        "securityContext": CONFINED,
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
        "volumeMounts": [
            {"name": "out", "mountPath": "/out"},
            {"name": "profiles", "mountPath": "/load/profiles"},
            *({"name": each, "mountPath": f"/load/{each}"} for each in MOUNTS),
        ],
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": NOBODY,
        "containers": [container],
        "volumes": [
            {"name": "out", "emptyDir": {}},
            {"name": "profiles", "configMap": {"name": "load-profiles"}},
            *({"name": each, "secret": secret} for each, secret in MOUNTS.items()),
        ],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


class Load:
    """A run of the load tester against the Service, over TLS, with tokens it signs and the ledger on."""

    def __init__(self, name, profile, count):
        self.name, self.count = f"load-{name}", count
        args = [
            f"/load/profiles/{profile}.toml",
            f"--target=wss://{NAME}",
            f"--devices={count}",
            f"--prefix={name}-",
            "--kafka=kafka:9092",
            "--signing-key=/load/keys/signing-key.pem",
            "--ca=/load/ca/ca.crt",
        ]
        apply(pod(self.name, args))

    def phase(self):
        return get("pod", self.name)["status"]["phase"]

    def connected(self):
        """Waits until all devices are connected, and says how many each pod has."""

        def all_there():
            if self.phase() not in ("Pending", "Running"):
                raise Failed(f"{self.name} ended early: {self.said()[-1500:]}")
            found = devices(ready_pods())
            return found if sum(found.values()) >= self.count else None

        return until(f"{self.count} devices are connected", all_there)

    def said(self):
        return kubectl("logs", f"pod/{self.name}")

    def end(self):
        """Tells it to end as at its time; its summary, the ledger within."""
        kubectl("exec", self.name, "--", "/usr/bin/bash", "-c", "kill -TERM $(</out/pid)")
        until(f"{self.name} has reported", lambda: self.phase() in ("Succeeded", "Failed"))
        lines, found, summary = self.said().partition("=== summary\n")
        if not found:
            raise Failed(f"{self.name} reported nothing: {lines[-1500:]}")
        kubectl("delete", "pod", self.name, "--wait=false")
        return json.loads(summary)


def longest(facts):
    """How many in a row are true at most."""
    most = row = 0
    for fact in facts:
        row = row + 1 if fact else 0
        most = max(most, row)
    return most


def judged(summary):
    """Whether what the ledger found is nothing, and the run in one line."""
    ledger, counts = summary["ledger"], summary["counts"]
    need(ledger and ledger["complete"], f"the ledger is incomplete: {summary['verdict']}, {summary['warnings']}")
    findings = {key: ledger[key] for key in ("lost", "doubled", "reordered", "altered", "acked_and_refused")}
    commands = ledger["commands"]
    findings |= {key: commands[key] for key in ("unfounded", "answered_twice", "misdelivered")}
    wrong = {key: number for key, number in findings.items() if number}
    named = {key: names for key, names in ledger.get("named", {}).items() if names}
    need(not wrong, f"the ledger found {wrong}: {json.dumps(named)[:1500]}")
    need(ledger["acked"] > 0 and commands["succeeded"] > 0, f"there was no load: {counts}")
    ack = summary["timings_ms"]["ack"]
    # With a hundred updates a second no second is without acks unless nobody serves.
    silent = longest(second["acked"] == 0 for second in summary["series"] if 20 < second["at_s"] < summary["took_s"] - 10)
    need(silent <= SILENT_S, f"for {silent} s nothing was acked")
    return (
        f"{ledger['acked']} acked, all stored, none lost, doubled or reordered; {commands['succeeded']} of "
        f"{commands['accepted']} commands done; {counts['reconnects']} reconnects, {counts['connect_failures']} failed; {silent} s without acks at most; "
        f"ack p50 {ack['p50']:.0f} ms, p99 {ack['p99']:.0f} ms; closes {summary['closes']}"
    )
