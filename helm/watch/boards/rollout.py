"""Rollout and drain."""

from panels import (
    ANSWERED,
    GREEN,
    HEIGHT,
    NODE,
    OPEN,
    RED,
    STORED,
    YELLOW,
    dashboard,
    happened,
    lines,
    of,
    quantile,
    rate,
    row,
    states,
    total,
    zero,
)


def made():
    return dashboard(
        "rollout",
        "Rollout and drain",
        "One version follows another: who drains, who takes over, and whether anybody notices.",
        row(
            "Versions",
            lines(
                "Nodes by version",
                "How many run each version.",
                [(f"count by (version) ({of('tidegate_build_info')})", "{{version}}")],
                width=8,
                stacked=True,
            ),
            lines(
                "Up for",
                "Since the process began.",
                [
                    (
                        f"time() - max by ($by) ({of('process_start_time_seconds')} and on (job, instance) {of('tidegate_build_info')})",
                        NODE,
                    )
                ],
                "s",
                width=8,
            ),
            states(
                "Drains",
                "A node that leaves, or that alone lacks Kafka, sends its devices to the others.",
                [(f"max by ($by) ({of('tidegate_draining')})", NODE)],
                {0: ("serves", GREEN), 1: ("drains", YELLOW)},
                width=8,
            ),
        ),
        row(
            "Moving",
            lines(
                "Connections by node",
                "They fall where a node drains and rise at the others.",
                [(total("tidegate_connections", OPEN, "$by"), NODE)],
                stacked=True,
            ),
            lines(
                "Left on draining nodes",
                "Zero where nothing drains. With the default budget all are gone 235 s after the node said it leaves.",
                [
                    (
                        f"{total('tidegate_connections', by='$by')} * on ($by) max by ($by) ({of('tidegate_draining')})",
                        NODE,
                    )
                ],
            ),
            lines(
                "Told to leave, by reason",
                "`goaway`. drain: 200 a second and node, more where the budget would not do; rebalance, max_age: 20.",
                [(rate("tidegate_shed_total", by="reason"), "{{reason}}")],
                "ops",
                stacked=True,
            ),
            lines(
                "Told, and still here",
                "Each has 30 s to connect elsewhere, less in a small budget.",
                [(total("tidegate_leaving_connections", by="$by"), NODE)],
            ),
            lines(
                "Time left to drain",
                "Of `drain.propagation_s` and `drain.budget_s`; at zero whoever is left was closed.",
                [
                    (
                        f"max by ($by) ({of('tidegate_drain_budget_seconds')} + ({of('tidegate_drain_began_timestamp_seconds')} > 0)) - time()",
                        NODE,
                    )
                ],
                "s",
                empty="No node drains",
            ),
            zero(
                "Cut short",
                "Connections closed before their time to leave was over, over the time shown.",
                happened("tidegate_drain_cut_short_total"),
            ),
            lines(
                "Ends that were meant",
                "restart: the node leaves; moved: to another node; going_away: the client's own.",
                [
                    (
                        rate("tidegate_disconnects_total", 'reason=~"restart|moved|max_age|going_away"', "reason"),
                        "{{reason}}",
                    )
                ],
                "ops",
                stacked=True,
            ),
            lines(
                "Accepted by node",
                "Where the devices go.",
                [(rate("tidegate_connection_attempts_total", 'outcome="accepted"', "$by"), NODE)],
                "ops",
            ),
            lines(
                "Turned away",
                "draining: a load balancer still sends to a node that leaves; overloaded: a survivor is full.",
                [
                    (
                        rate("tidegate_connection_attempts_total", 'outcome=~"draining|overloaded"', "outcome"),
                        "{{outcome}}",
                    )
                ],
                "ops",
                colors={"draining": YELLOW, "overloaded": RED},
            ),
            each=8,
        ),
        row(
            "Balance",
            lines(
                "Devices and what would be fair",
                "A node that is 10 % above the mean for 30 s, and has more than 1,000, tells devices to move; never while a node drains.",
                [
                    (total("tidegate_connections", f'{OPEN},kind="device"', "$by"), NODE),
                    (f"max({of('tidegate_rebalance_mean_connections')}) > 0", "fair"),
                ],
            ),
            lines(
                "How it stands",
                "Nodes by what they do about their share: held while a node drains, resting while those who were told are on their way.",
                [(total("tidegate_rebalance_state", by="state"), "{{state}}")],
                stacked=True,
            ),
            lines(
                "Ready, and why not",
                "Nodes by what `/readyz` says.",
                [(total("tidegate_readiness", by="reason"), "{{reason}}")],
                stacked=True,
                colors={"ready": GREEN, "cut_off": RED, "sending_away": RED, "leaving": YELLOW},
            ),
            each=8,
        ),
        row(
            "Does anybody notice?",
            lines(
                "Ends that nobody meant",
                "Should not move during a rollout.",
                [
                    (
                        rate(
                            "tidegate_disconnects_total",
                            'reason=~"lost|heartbeat_lost|internal_error|overloaded|slow_consumer"',
                            "reason",
                        ),
                        "{{reason}}",
                    )
                ],
                "ops",
                stacked=True,
            ),
            lines(
                "Receipt to stored, 99 %",
                "By node. Objective: 250 ms.",
                [(quantile(0.99, "tidegate_publish_duration_seconds", STORED, "$by"), NODE)],
                "s",
                [(0.25, RED)],
            ),
            lines(
                "Command to answer, 99 %",
                "By route. Objective: 1 s.",
                [(quantile(0.99, "tidegate_command_duration_seconds", ANSWERED, "route"), "{{route}}")],
                "s",
                [(1, RED)],
                empty="No command was answered",
            ),
            zero(
                "Left behind",
                "Updates taken and not stored when a node had to stop, over the time shown; their devices send them again.",
                happened("tidegate_shutdown_unacked_total"),
                12,
                HEIGHT,
            ),
        ),
    )
