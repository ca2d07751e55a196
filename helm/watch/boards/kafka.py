"""Messages to Kafka."""

from panels import (
    GREEN,
    NODE,
    RED,
    STORED,
    YELLOW,
    dashboard,
    density,
    lines,
    of,
    probe,
    quantiles,
    rate,
    row,
    share,
    states,
    total,
)


def made():
    def room(what):
        name = f"tidegate_publish_pending_{what}"
        return share(total(name, by="$by"), total(f"{name}_capacity", by="$by"))

    in_time = share(
        rate("tidegate_publish_duration_seconds_bucket", f'{STORED},le="0.25"', "$by"),
        rate("tidegate_publish_duration_seconds_count", STORED, "$by"),
    )
    return dashboard(
        "kafka",
        "Messages to Kafka",
        "What devices send, how fast it is stored, and what waits.",
        row(
            "In",
            lines(
                "Received by type",
                "Messages and control frames from clients.",
                [(rate("tidegate_messages_received_total", by="type"), "{{type}}")],
                "ops",
                stacked=True,
            ),
            lines(
                "Bytes received",
                "Payload, inflated.",
                [(rate("tidegate_messages_received_bytes_total", by="$by"), NODE)],
                "Bps",
                stacked=True,
            ),
        ),
        row(
            "Stored",
            lines(
                "Records by topic and outcome",
                "Records that ended: stored, or refused by Kafka for good.",
                [(rate("tidegate_publish_total", by="topic, outcome"), "{{topic}} {{outcome}}")],
                "ops",
            ),
            lines(
                "Receipt to stored",
                "Updates and health reports. Objective: 99 % below 250 ms.",
                quantiles("tidegate_publish_duration_seconds", STORED),
                "s",
                [(0.25, RED)],
            ),
            density(
                "How long records take",
                "Updates and health reports that were stored, by how long it took.",
                "tidegate_publish_duration_seconds",
                "s",
                STORED,
            ),
            lines(
                "Stored within 250 ms",
                "The share, by node. One node alone below the others: look at that node. All: look at Kafka.",
                [(in_time, NODE)],
                "percentunit",
                top=1,
            ),
        ),
        row(
            "Waiting",
            lines(
                "Records pending",
                "Taken from devices and not stored yet.",
                [(total("tidegate_publish_pending_messages", by="$by"), NODE)],
            ),
            lines(
                "Room for records used",
                "Of what may be pending.",
                [(room("messages"), NODE)],
                "percentunit",
                [(0.8, RED)],
                top=1,
            ),
            lines(
                "Room for bytes used",
                "Of `limits.node_budget_bytes`. At half of it devices are told to pause.",
                [(room("bytes"), NODE)],
                "percentunit",
                [(0.5, YELLOW), (0.8, RED)],
                top=1,
            ),
            lines(
                "Pending by topic",
                "What waits for which topic. One alone: look at that topic, its leader, its ACL.",
                [(total("tidegate_publish_topic_pending_messages", by="topic"), "{{topic}}")],
                stacked=True,
            ),
            lines(
                "Stalled by topic",
                "How long nothing was stored although something waits. After `limits.log_stall_ms` devices are told to pause, not for command-events.",
                [(f"max by (topic) ({of('tidegate_publish_stalled_seconds')})", "{{topic}}")],
                "s",
                [(1.5, YELLOW)],
            ),
            lines(
                "Paused connections",
                "Told to hold their updates: because the log is slow, or because they send more than their rate.",
                [(total("tidegate_paused_connections", by="code"), "{{code}}")],
            ),
        ),
        row(
            "Kafka itself",
            states(
                "Probe",
                "One record to Kafka and its delivery report, every 5 s.",
                [(probe("success", "kafka"), NODE)],
                {0: ("fails", RED), 1: ("comes back", GREEN)},
            ),
            lines(
                "Since the last probe came back",
                "At 60 s an alert fires.",
                [(probe("age_seconds", "kafka"), NODE)],
                "s",
                [(60, RED)],
            ),
            lines(
                "Producers replaced",
                "After a fatal error; what was outstanding is stored by the next.",
                [(f"sum by ($by) (increase({of('tidegate_producer_replacements_total')}[$__rate_interval]))", NODE)],
            ),
            lines(
                "Acks sent",
                "An ack is cumulative: one may settle many updates.",
                [(rate("tidegate_messages_sent_total", 'type="ack"', "$by"), NODE)],
                "ops",
            ),
        ),
    )
