"""Recording rules and alerts. What several have in common stands here once; the queries are in words of `source`."""

RUNBOOKS = "https://github.com/tidegate/tidegate/blob/main/docs/runbooks"
# A gateway is what has one job in one namespace; a node of it is one instance.
GATEWAY = "namespace, job"
NODE = "namespace, job, pod, instance"
# A node by the name people know it by.
WHO = "{{ or $labels.pod $labels.instance }}"

# ---- service levels ------------------------------------------------------------------------------------------------

# Outcomes of a handshake that are the gateway's fault. What the client did wrong counts neither way.
HANDSHAKE_FAULTS = "overloaded|draining|keys_unavailable|internal"
STORED = 'topic=~"telemetry|status",outcome="stored"'
ENDED = 'topic=~"telemetry|status"'
# A command that was never sent waited for its device, and one that was taken back is nobody's fault.
SENT = 'route=~"local|peer"'
ANSWERED = 'outcome=~"succeeded|failed|rejected"'

SLOS = {
    "handshake": {
        "objective": 99.9,
        "what": "handshakes that succeed, of those whose client did nothing wrong",
        "errors": f'tidegate_connection_attempts_total{{outcome=~"{HANDSHAKE_FAULTS}"}}',
        "total": f'tidegate_connection_attempts_total{{outcome=~"accepted|{HANDSHAKE_FAULTS}"}}',
    },
    "publish_acked": {
        "objective": 99.95,
        "what": "updates and health reports that are stored within 10 s of their receipt, of all that ended",
        "good": f'tidegate_publish_duration_seconds_bucket{{{STORED},le="10"}}',
        # The histogram's own count, refused ones included: it is read at the same moment as its buckets, a counter is not.
        "total": f"tidegate_publish_duration_seconds_count{{{ENDED}}}",
    },
    "publish_fast": {
        "objective": 99.0,
        "what": "updates and health reports that are stored within 250 ms of their receipt, of all that are stored",
        "good": f'tidegate_publish_duration_seconds_bucket{{{STORED},le="0.25"}}',
        "total": f"tidegate_publish_duration_seconds_count{{{STORED}}}",
    },
    "command_answered": {
        "objective": 99.9,
        "what": "commands whose device answered, of all that were sent to one",
        "errors": f'tidegate_commands_total{{{SENT},outcome=~"undeliverable|outcome_unknown"}}',
        "total": f'tidegate_commands_total{{{SENT},outcome=~"succeeded|failed|rejected|undeliverable|outcome_unknown"}}',
    },
    "command_fast": {
        "objective": 99.0,
        "what": "commands that are answered within 1 s of their acceptance, of those answered within 30 s: what takes longer"
        " waited for a device that was not connected",
        "good": f'tidegate_command_duration_seconds_bucket{{{SENT},{ANSWERED},le="1"}}',
        "total": f'tidegate_command_duration_seconds_bucket{{{SENT},{ANSWERED},le="30"}}',
    },
}

# How fast the budget of 30 days burns, over which windows, how long, how loud.
BURNS = [
    (14.4, "1h", "5m", "2m", "critical"),
    (6, "6h", "30m", "15m", "critical"),
    (3, "1d", "2h", "1h", "warning"),
    (1, "3d", "6h", "3h", "warning"),
]
WINDOWS = ["30m", "1h", "2h", "6h", "1d", "3d"]
SECONDS = {"m": 60, "h": 3600, "d": 86400}
# Fewer failures than this in the long window wake nobody: a percentage of almost nothing says nothing.
FEWEST = 10


def seconds(window):
    return int(window[:-1]) * SECONDS[window[-1]]


def budget(slo):
    """The share that may fail."""
    return f"{(100 - SLOS[slo]['objective']) / 100:.6g}"


def rate(series):
    return f"sum by ({GATEWAY}) (rate({series}[5m]))"


def recorded():
    rules = []
    for name, slo in SLOS.items():
        errors = rate(slo["errors"]) if "errors" in slo else f"{rate(slo['total'])}\n-\n{rate(slo['good'])}"
        # A difference of sums may be a hair below zero.
        errors = errors if "errors" in slo else f"clamp_min(\n{errors}\n, 0)"
        rules += [
            {"record": "tidegate:slo_errors:rate5m", "expr": errors, "labels": {"slo": name}},
            {"record": "tidegate:slo_total:rate5m", "expr": rate(slo["total"]), "labels": {"slo": name}},
            {"record": "tidegate:slo_budget:ratio", "expr": f"vector({budget(name)})", "labels": {"slo": name}},
        ]
    rules.append(
        {"record": "tidegate:slo_errors:ratio_rate5m", "expr": "tidegate:slo_errors:rate5m / tidegate:slo_total:rate5m"}
    )
    # By traffic, not by time: an hour in which nothing was asked says nothing about the others.
    for window in WINDOWS:
        errors, total = (f"avg_over_time(tidegate:slo_{what}:rate5m[{window}])" for what in ("errors", "total"))
        rules += [
            {"record": f"tidegate:slo_errors:rate{window}", "expr": errors},
            {
                "record": f"tidegate:slo_errors:ratio_rate{window}",
                "expr": f"tidegate:slo_errors:rate{window} / {total}",
            },
        ]
    return rules


BURNING = {
    "handshake": (
        "TidegateHandshakeErrorBudgetBurn",
        "Handshakes fail by the gateway's fault",
        "Devices that connect are turned away: the node is full, draining, without keys, or broken.",
    ),
    "publish_acked": (
        "TidegatePublishErrorBudgetBurn",
        "Updates are not acked within 10 s, or refused by Kafka",
        "Devices wait for their acks, keep what they sent, and run out of room for it.",
    ),
    "publish_fast": (
        "TidegatePublishLatencyBudgetBurn",
        "Updates take longer than 250 ms to be stored",
        "Acks come late; devices with small windows send more slowly.",
    ),
    "command_answered": (
        "TidegateCommandErrorBudgetBurn",
        "Commands are sent and never answered",
        "Whoever sends commands does not learn whether they were carried out.",
    ),
    "command_fast": (
        "TidegateCommandLatencyBudgetBurn",
        "Commands take longer than 1 s to be answered",
        "Buttons in applications feel dead.",
    ),
}


def burns():
    for slo, (name, summary, effect) in BURNING.items():
        for factor, long, short, lasting, severity in BURNS:
            over = f"> {factor} * {budget(slo)}"
            expr = (
                f'tidegate:slo_errors:ratio_rate{long}{{slo="{slo}"}} {over}\n'
                f'and tidegate:slo_errors:ratio_rate{short}{{slo="{slo}"}} {over}\n'
                f'and tidegate:slo_errors:rate{long}{{slo="{slo}"}} * {seconds(long)} >= {FEWEST}'
            )
            yield alert(
                name,
                expr,
                lasting,
                severity,
                summary,
                f"{{{{ $value | humanizePercentage }}}} over {long}, where {100 - SLOS[slo]['objective']:.3g} % may fail:"
                f" the budget of 30 days is gone in {gone_in(factor)} or less. {effect}",
                {"window": long},
            )


def gone_in(factor):
    hours = 720 / factor
    return f"{hours:.0f} hours" if hours < 100 else f"{hours / 24:.0f} days"


# ---- causes --------------------------------------------------------------------------------------------------------


def alert(name, expr, lasting, severity, summary, description, labels=None):
    page = file_of(name)
    return {
        "alert": name,
        "expr": expr,
        "for": lasting,
        "labels": {"severity": severity, **(labels or {})},
        "annotations": {
            "summary": summary,
            "description": description,
            "runbook_url": f"{RUNBOOKS}/{page}#{name.lower()}",
        },
    }


def file_of(name):
    """`TidegateNodeDown`: `node-down.md`."""
    words = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name.removeprefix("Tidegate"))
    return words.strip("-") + ".md"


def held(state="open"):
    return f'sum by ({NODE}) (tidegate_connections{{state="{state}"}})'


def probe(path, lasting, severity, summary, description, more=""):
    """A probe that failed, or that hangs."""
    old, failed = f'tidegate_probe_age_seconds{{path="{path}"}} > 60', f'tidegate_probe_success{{path="{path}"}} == 0'
    expr = f"max by ({NODE}) ({old} or {failed}){more}"
    return alert(f"Tidegate{path.capitalize()}ProbeFailing", expr, lasting, severity, summary, description)


def causes():
    """Groups of alerts, by name."""
    parts = {"nodes": nodes, "connections": connections, "kafka": kafka, "cluster": cluster, "tokens": tokens}
    return {f"tidegate-{name}": part() for name, part in parts.items()}


def nodes():
    was_there = "max by (namespace, job, instance) (max_over_time(tidegate_build_info[6h]))"
    return [
        alert(
            "TidegateAbsent",
            "absent(tidegate_build_info)",
            "5m",
            "critical",
            "Prometheus sees no Tidegate node at all",
            "Either no node runs, or none is scraped: nothing else here can fire meanwhile.",
        ),
        alert(
            "TidegateNodeDown",
            f"up == 0 and on (namespace, job, instance) {was_there}",
            "2m",
            "warning",
            f"{WHO} cannot be scraped",
            "It was a node within the last six hours and is still a target. Its devices reconnect to the others.",
        ),
        alert(
            "TidegateFileDescriptorsNearLimit",
            "process_open_fds / process_max_fds > 0.85 and on (namespace, job, instance) tidegate_build_info",
            "5m",
            "critical",
            f"{WHO} has almost no file descriptors left",
            "{{ $value | humanizePercentage }} are in use. At the limit it accepts nobody until somebody leaves.",
        ),
        alert(
            "TidegateRuntimeSaturated",
            "rate(tidegate_runtime_busy_seconds[5m]) / tidegate_runtime_workers > 0.9",
            "10m",
            "warning",
            f"{WHO} has no processor time left",
            "Its workers are busy {{ $value | humanizePercentage }} of the time: acks and pongs come late, and heartbeats may be missed.",
        ),
        alert(
            "TidegateCertificateExpiring",
            "(tidegate_certificate_expiry_timestamp_seconds > 0) - time() < 14 * 86400",
            "1h",
            "warning",
            f"The certificate that {WHO} serves expires soon",
            "It expires in {{ $value | humanizeDuration }}. After that no device that checks certificates can connect.",
        ),
        alert(
            "TidegateCertificateAboutToExpire",
            "(tidegate_certificate_expiry_timestamp_seconds > 0) - time() < 2 * 86400",
            "5m",
            "critical",
            f"The certificate that {WHO} serves expires within two days, or has expired",
            "It expires in {{ $value | humanizeDuration }}. After that no device that checks certificates can connect.",
        ),
        alert(
            "TidegatePeerCertificateExpiring",
            "(tidegate_peer_certificate_expiry_timestamp_seconds > 0) - time() < 7 * 86400",
            "1h",
            "critical",
            f"The certificate that {WHO} shows its peers expires within a week, or has expired",
            "It expires in {{ $value | humanizeDuration }}. After that no node reaches it: commands for its devices wait in the queue.",
        ),
        alert(
            "TidegateLogLinesLost",
            "increase(tidegate_log_lines_lost_total[10m]) > 0",
            "5m",
            "warning",
            f"{WHO} cannot write its log",
            "{{ $value | humanize }} lines were lost in ten minutes. The service goes on; what happens meanwhile is not on record.",
        ),
    ]


def connections():
    mean = f"avg by ({GATEWAY}) ({held()})"
    # Ends that somebody meant: by the protocol's close codes, and a drain.
    meant = "normal|going_away|no_code|restart|moved|max_age|superseded"
    lost = f'sum by ({GATEWAY}) (increase(tidegate_disconnects_total{{reason!~"{meant}"}}[5m]))'
    left = f"sum by ({NODE}) (tidegate_connections)"
    return [
        alert(
            "TidegateConnectionsNearCapacity",
            f"{held()} / on ({NODE}) tidegate_connections_capacity > 0.85",
            "5m",
            "critical",
            f"{WHO} holds almost as many connections as it may",
            "{{ $value | humanizePercentage }} of `limits.max_connections`. At the limit each further handshake is answered 503.",
        ),
        alert(
            "TidegateConnectionsImbalanced",
            f"{held()} / on ({GATEWAY}) group_left () {mean} > 1.3\n"
            f"and on ({NODE}) {held()} > 1000\n"
            f"unless on ({GATEWAY}) max by ({GATEWAY}) (max_over_time(tidegate_draining[15m])) == 1",
            "15m",
            "warning",
            f"{WHO} holds many more connections than the others",
            "{{ $value | humanize }} times the mean, and no node has drained for a while. It should tell devices to move by itself, and they do not stay away.",
        ),
        alert(
            "TidegateReconnectStorm",
            f'{lost} > 100\nand\n{lost} > 0.2 * sum by ({GATEWAY}) (tidegate_connections{{state="open"}})',
            "1m",
            "critical",
            "Connections break in great numbers",
            "{{ $value | humanize }} broke within five minutes, a fifth or more of those that are open now, and nobody meant them to. All those"
            " devices come back.",
        ),
        alert(
            "TidegateSheddingConnections",
            'increase(tidegate_disconnects_total{initiator="gateway",reason="overloaded"}[5m]) > 0',
            "1m",
            "critical",
            f"{WHO} ends connections to save its memory",
            "{{ $value | humanize }} in five minutes (4100): `limits.parked_bytes` is reached.",
        ),
        alert(
            "TidegateDrainStuck",
            f"{left} > 50\n"
            f"and on ({NODE}) min_over_time(tidegate_draining[3m]) == 1\n"
            f"and on ({NODE}) {left} > 0.99 * sum by ({NODE}) (tidegate_connections offset 2m)",
            "30s",
            "warning",
            f"{WHO} drains, and its connections do not leave",
            "{{ $value | humanize }} connections, as many as two minutes ago. When the budget is over they are closed at once.",
        ),
        alert(
            "TidegateDrainOverBudget",
            f"{left} > 0\n"
            f"and on ({NODE}) time() - (tidegate_drain_began_timestamp_seconds > 0) > tidegate_drain_budget_seconds",
            "1m",
            "warning",
            f"{WHO} drains for longer than its budget",
            "{{ $value | humanize }} connections are still there, although `drain.propagation_s` and `drain.budget_s` are over.",
        ),
    ]


def kafka():
    return [
        probe(
            "kafka",
            "1m",
            "critical",
            f"{WHO} gets no record into Kafka",
            "Its probe record has not come back for a minute. Devices are told to pause; nothing that was taken is dropped.",
        ),
        alert(
            "TidegateDevicesPaused",
            f'sum by ({NODE}) (tidegate_paused_connections{{code="log"}}) > 0',
            "5m",
            "warning",
            f"{WHO} has told devices to hold their updates",
            "{{ $value | humanize }} connections have been paused for five minutes and more, because Kafka takes too little.",
        ),
        alert(
            "TidegatePublishQueueNearFull",
            "tidegate_publish_pending_bytes / tidegate_publish_pending_bytes_capacity > 0.8\n"
            "or tidegate_publish_pending_messages / tidegate_publish_pending_messages_capacity > 0.8",
            "2m",
            "critical",
            f"{WHO} has almost no room for updates that are not stored",
            "{{ $value | humanizePercentage }} of the room for bytes or for records is used. Above it devices are read no further.",
        ),
        alert(
            "TidegateRecordsRefused",
            f'sum by ({NODE}, topic) (increase(tidegate_publish_total{{outcome="refused"}}[10m])) > 0',
            "1m",
            "critical",
            f"Kafka refuses records of {WHO} for the topic {{{{ $labels.topic }}}}",
            "{{ $value | humanize }} in ten minutes. They will never be stored, and their devices were told so.",
        ),
        alert(
            "TidegateProducerReplaced",
            f"sum by ({NODE}) (increase(tidegate_producer_replacements_total[30m])) > 2",
            "1m",
            "warning",
            f"{WHO} replaces its producer again and again",
            "{{ $value | humanize }} times in half an hour. Each time what was outstanding is sent again by the next.",
        ),
    ]


def cluster():
    bad_ops = 'tidegate_ownership_operations_total{outcome=~"unavailable|unknown|error"}'
    bad_calls = 'tidegate_peer_requests_total{outcome=~"unreachable|deadline|busy|too_large|refused"}'

    # Over so little time that what was over soon is forgotten before `for` is up: it must not alert once all is well again.
    def share(bad, total):
        return f"sum by ({NODE}) (rate({bad}[2m]))\n/\nsum by ({NODE}) (rate({total}[2m]))"

    # A node whose lease in Redis ran out claims its devices anew: then Redis was away, and has lost nothing.
    was_away = 'max_over_time(tidegate_probe_age_seconds{path="redis"}[15m]) > 60'

    return [
        probe(
            "redis",
            "1m",
            "critical",
            f"{WHO} cannot extend its lease in Redis",
            "For a minute. Its connections and their updates go on; new connections get provisional rows, and commands are answered 503.",
        ),
        probe(
            "peer",
            "2m",
            "warning",
            f"A peer does not answer {WHO}",
            "For two minutes. Commands between the two wait in the queue and arrive up to 35 s late.",
            f"\nand on ({NODE}) tidegate_peers > 0",
        ),
        alert(
            "TidegateOwnershipErrors",
            share(bad_ops, "tidegate_ownership_operations_total") + " > 0.05",
            "5m",
            "warning",
            f"Redis does not do what {WHO} asks",
            "{{ $value | humanizePercentage }} of what was asked of the directory of owners failed.",
        ),
        alert(
            "TidegateOwnershipLost",
            f"sum by ({GATEWAY}) (increase(tidegate_ownership_lost_total[10m])) > 10\n"
            f"unless on ({GATEWAY}) max by ({GATEWAY}) ({was_away})",
            "1m",
            "warning",
            "Redis has lost rows of connected devices",
            "{{ $value | humanize }} rows were missing, older or another's within ten minutes, and were written again. Queued commands may be lost.",
        ),
        alert(
            "TidegatePeerErrors",
            share(bad_calls, "tidegate_peer_requests_total") + " > 0.05",
            "5m",
            "warning",
            f"Calls of {WHO} to other nodes fail",
            "{{ $value | humanizePercentage }} of them. Commands to devices on those nodes are late.",
        ),
        alert(
            "TidegateMembershipSplit",
            f"count by ({GATEWAY}) (tidegate_build_info) - 1 - on ({GATEWAY}) group_right () tidegate_peers > 0",
            "3m",
            "warning",
            f"{WHO} does not know of all nodes",
            "{{ $value }} nodes that Prometheus scrapes are not among those it can ask.",
        ),
    ]


def tokens():
    return [
        alert(
            "TidegateKeysRefreshFailing",
            "increase(tidegate_jwks_refresh_failures_total[10m]) > 5",
            "5m",
            "warning",
            f"{WHO} cannot read the keys that verify tokens",
            "{{ $value | humanize }} failures in ten minutes. The keys it has go on working; new ones are not learnt.",
        ),
        alert(
            "TidegateKeysUnavailable",
            f'sum by ({NODE}) (rate(tidegate_connection_attempts_total{{outcome="keys_unavailable"}}[5m])) > 0',
            "2m",
            "critical",
            f"{WHO} turns devices away because it has no keys",
            "It could not read any key set (`auth.jwks`) since it started, so no token can be judged.",
        ),
        alert(
            "TidegateRevocationsUnreadable",
            "tidegate_revocations_readable == 0",
            "10m",
            "warning",
            f"{WHO} cannot read the topic of revocations",
            "What was blocked or revoked before stays so; what is revoked now does not reach it.",
        ),
    ]


def groups():
    """Groups of rules, by the file they are in."""
    return {
        "slo": {"tidegate-slo": recorded(), "tidegate-slo-burn": list(burns())},
        "causes": causes(),
    }


def all_rules():
    return [rule for file in groups().values() for rules in file.values() for rule in rules]


def recorded_names():
    """The labels of every recorded series, by its name."""
    return {rule["record"]: {"slo"} for rule in all_rules() if "record" in rule}
