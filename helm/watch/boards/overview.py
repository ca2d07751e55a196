"""Overview: is it well?"""

from panels import (
    ANSWERED,
    GATEWAY,
    GREEN,
    OPEN,
    OUTCOMES,
    RED,
    STORED,
    YELLOW,
    dashboard,
    happened,
    kept,
    lines,
    number,
    of,
    quantile,
    quantiles,
    rate,
    row,
    share,
    total,
    zero,
)
from rules import BURNS, HANDSHAKE_FAULTS, SLOS

PACES = sorted((factor, RED if severity == "critical" else YELLOW) for factor, _, _, _, severity in BURNS)


def burning():
    return "tidegate:slo_errors:ratio_rate1h{%s} / on (slo) group_left () tidegate:slo_budget:ratio" % GATEWAY


def share_kept():
    def over(what):
        return f"sum by (slo) (sum_over_time(tidegate:slo_{what}:rate5m{{{GATEWAY}}}[$__range]))"

    return f"1 - {share(over('errors'), over('total'))}"


def made():
    objectives = ", ".join(f"{name} {slo['objective']} %" for name, slo in SLOS.items())
    alerts = 'count(ALERTS{alertname=~"Tidegate.*",alertstate="firing"}) or vector(0)'
    return dashboard(
        "overview",
        "Overview",
        "Is it well? Rates, errors and durations, the service levels, and what must be zero.",
        row(
            "Now",
            number(
                "Nodes",
                "Nodes that Prometheus reads.",
                f"count({of('tidegate_build_info')})",
                limits=[(1, GREEN)],
                base=RED,
                width=3,
            ),
            number(
                "Devices",
                "Devices that are connected.",
                total("tidegate_connections", f'kind="device",{OPEN}'),
                width=3,
            ),
            number(
                "Applications",
                "Applications that are connected by a socket.",
                total("tidegate_connections", f'kind="app",{OPEN}'),
                width=3,
            ),
            number(
                "Updates stored",
                "Updates and health reports that Kafka stored, a second.",
                rate("tidegate_publish_total", STORED),
                "ops",
                width=4,
            ),
            number(
                "Ack, 99 %",
                "From an update's receipt to its place in Kafka: 99 of 100 took no longer.",
                quantile(0.99, "tidegate_publish_duration_seconds", STORED),
                "s",
                [(0.25, RED)],
                width=4,
            ),
            number(
                "Commands answered",
                "Commands that devices answered, a second.",
                rate("tidegate_commands_total", ANSWERED),
                "ops",
                width=4,
            ),
            number(
                "Alerts",
                "Alerts of the gateway that fire, whatever is chosen above.",
                alerts,
                limits=[(1, RED)],
                width=3,
            ),
        ),
        row(
            "Service levels",
            lines(
                "Budget burn",
                "How fast each error budget burns, over an hour. At 1 the budget of 30 days lasts 30 days; the lines are the paces that alert.",
                [(burning(), "{{slo}}")],
                "none",
                PACES,
            ),
            kept(
                "Kept over the time shown",
                f"The share that was well, green where it meets its objective: {objectives}.",
                share_kept(),
                {name: slo["objective"] for name, slo in SLOS.items()},
            ),
        ),
        row(
            "Rates",
            lines(
                "Handshakes",
                "Attempts to connect: accepted, failed by our fault, failed by the client's.",
                [
                    (rate("tidegate_connection_attempts_total", 'outcome="accepted"'), "accepted"),
                    (rate("tidegate_connection_attempts_total", f'outcome=~"{HANDSHAKE_FAULTS}"'), "our fault"),
                    (
                        rate("tidegate_connection_attempts_total", f'outcome!~"accepted|http|{HANDSHAKE_FAULTS}"'),
                        "the client's",
                    ),
                ],
                "ops",
                width=8,
                colors={"accepted": GREEN, "our fault": RED},
            ),
            lines(
                "Updates",
                "Received from devices, and stored in Kafka. Where the second stays behind, it waits; nothing that was taken is dropped.",
                [
                    (rate("tidegate_messages_received_total", 'type="update"'), "received"),
                    (rate("tidegate_publish_total", 'topic="telemetry",outcome="stored"'), "stored"),
                ],
                "ops",
                width=8,
            ),
            lines(
                "Commands",
                "Commands that ended, by how.",
                [(rate("tidegate_commands_total", by="outcome"), "{{outcome}}")],
                "ops",
                width=8,
                stacked=True,
                colors=OUTCOMES,
            ),
        ),
        row(
            "Durations",
            lines(
                "Handshake",
                "From accept to the 101.",
                quantiles("tidegate_handshake_duration_seconds"),
                "s",
                width=8,
                empty="Nobody connected",
            ),
            lines(
                "Receipt to stored",
                "Objective: 99 % below 250 ms.",
                quantiles("tidegate_publish_duration_seconds", STORED),
                "s",
                [(0.25, RED)],
                width=8,
            ),
            lines(
                "Command to answer",
                "From acceptance to the device's answer; commands that waited for a device that was away are among them. Objective: 99 % below 1 s.",
                quantiles("tidegate_command_duration_seconds", ANSWERED),
                "s",
                [(1, RED)],
                width=8,
                empty="No command was answered",
            ),
        ),
        row(
            "Must be zero (over the time shown)",
            zero(
                "Faults of ours",
                "Handshakes that ended with a fault of the gateway's own.",
                happened("tidegate_connection_attempts_total", 'outcome="internal"'),
                6,
            ),
            zero(
                "Closed by a fault",
                "Connections closed with 1011.",
                happened("tidegate_disconnects_total", 'reason="internal_error"'),
                6,
            ),
            zero(
                "Refused by Kafka",
                "Records that will never be stored.",
                happened("tidegate_publish_total", 'outcome="refused"'),
                6,
            ),
            zero(
                "Shed",
                "Connections ended at the memory cap (4100).",
                happened("tidegate_disconnects_total", 'reason="overloaded"'),
                6,
            ),
            zero(
                "Rows lost",
                "Rows of connected devices that Redis had lost, or that ran out while it could not be reached.",
                happened("tidegate_ownership_lost_total"),
                6,
            ),
            zero(
                "Left behind",
                "Updates taken and not stored when a node had to stop; their devices send them again.",
                happened("tidegate_shutdown_unacked_total"),
                6,
            ),
            zero(
                "Producers replaced",
                "After a fatal error of librdkafka.",
                happened("tidegate_producer_replacements_total"),
                6,
            ),
            zero("Log lines lost", "Lines that could not be written.", happened("tidegate_log_lines_lost_total"), 6),
        ),
    )
