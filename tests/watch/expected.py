"""Which alerts belong to what is done, and for which nodes; everything else has to stay silent.

What a fault brings soon after it, such as TidegateRevocationsUnreadable ten minutes after Kafka stopped, is not waited for.
"""

ALL = {"one", "two", "three"}
WITH_DEVICES = "those that have devices"
ALERTS = {
    # One node gets SIGKILL, and stays a target until that was seen. Drains, new nodes and crashes alert nobody by themselves.
    "rehearsal": {"TidegateNodeDown": {"gw-4"}},
    "rehearsal, quick": {},
    "calm": {},
    "node killed": {"TidegateNodeDown": {"one"}},
    "Redis stopped": {"TidegateRedisProbeFailing": ALL},
    # For more than five minutes: that is when devices have been paused for too long.
    "Kafka stopped": {"TidegateKafkaProbeFailing": ALL, "TidegateDevicesPaused": WITH_DEVICES},
    "end": {},
}


def planted(alerts):
    """An alert that is missing, one too many, and one of a node that nothing was done to have to be found."""
    fired = [{"alertname": "TidegateRedisProbeFailing", "pod": pod} for pod in sorted(ALL)]
    cases = [
        ("as it should be", fired, 0),
        ("one node's is missing", fired[1:], 1),
        ("one too many", [*fired, {"alertname": "TidegateAbsent"}], 1),
        ("another node's", [*fired[1:], fired[0] | {"pod": "four"}], 2),
    ]
    found = [
        f"alerts of a live run: {what}"
        for what, given, count in cases
        if len(mistakes("Redis stopped", given, ALL)) != count
    ]
    unknown = {alert for told in ALERTS.values() for alert in told} - alerts
    return found + [f"a live run waits for {alert}, which is no alert" for alert in sorted(unknown)]


def mistakes(phase, fired, with_devices):
    """What did not fire and should have, and the other way round. `fired`: labels of each alert."""
    told = {alert: with_devices if pods is WITH_DEVICES else pods for alert, pods in ALERTS[phase].items()}
    wanted = {(alert, pod) for alert, pods in told.items() for pod in pods}
    seen = {(labels["alertname"], labels.get("pod")) for labels in fired}
    odd = [(one, "did not fire") for one in wanted - seen] + [(one, "fired") for one in seen - wanted]
    return [f"{phase}: {alert} {f'of {pod} ' if pod else ''}{what}" for (alert, pod), what in sorted(odd, key=str)]
