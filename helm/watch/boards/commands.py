"""Commands and routing."""

from panels import (
    ANSWERED,
    GREEN,
    NODE,
    OUTCOMES,
    RED,
    dashboard,
    lines,
    of,
    probe,
    quantile,
    quantiles,
    rate,
    row,
    share,
    states,
    total,
)


def made():
    def failed(metric, good):
        return share(rate(metric, f'outcome!~"{good}"', "$by"), rate(metric, by="$by"))

    return dashboard(
        "commands",
        "Commands and routing",
        "Commands to devices, how nodes reach each other, and the directory of owners in Redis.",
        row(
            "Commands",
            lines(
                "Ended by outcome",
                "Commands that ended.",
                [(rate("tidegate_commands_total", by="outcome"), "{{outcome}}")],
                "ops",
                stacked=True,
                colors=OUTCOMES,
            ),
            lines(
                "Ended by route",
                "local: accepted and ended on one node; peer: on two; queued: never sent.",
                [(rate("tidegate_commands_total", by="route"), "{{route}}")],
                "ops",
                stacked=True,
            ),
            lines(
                "Acceptance to answer",
                "Commands that devices answered. Objective: 99 % below 1 s where the device is connected.",
                quantiles("tidegate_command_duration_seconds", ANSWERED),
                "s",
                [(1, RED)],
                empty="No command was answered",
            ),
            lines(
                "99 % by route",
                "What a second node costs.",
                [(quantile(0.99, "tidegate_command_duration_seconds", ANSWERED, "route"), "{{route}}")],
                "s",
                [(1, RED)],
                empty="No command was answered",
            ),
            lines(
                "Acceptance to first sending, 99 %",
                "By route: the gateway's part, and the time the device was away.",
                [(quantile(0.99, "tidegate_command_delivery_seconds", 'route=~"local|peer"', "route"), "{{route}}")],
                "s",
                [(1, RED)],
                empty="No command was answered",
            ),
            lines(
                "First sending to first answer, 99 %",
                "By route: the network and the device.",
                [(quantile(0.99, "tidegate_command_answer_seconds", 'route=~"local|peer"', "route"), "{{route}}")],
                "s",
                [(1, RED)],
                empty="No command was answered",
            ),
            lines(
                "Events that will not be in Kafka",
                "backlog, queue: too many waited, and ends come again by the due sweep; refused: by Kafka.",
                [(rate("tidegate_command_events_dropped_total", by="reason"), "{{reason}}")],
                "ops",
                colors={"refused": RED},
            ),
            lines(
                "Sent and answered",
                "Commands written to devices, every attempt, and what became of their answers.",
                [
                    (rate("tidegate_messages_sent_total", 'type="command"'), "sent"),
                    (rate("tidegate_command_answers_total", by="outcome"), "answer {{outcome}}"),
                ],
                "ops",
            ),
            lines(
                "Asked for",
                "By applications' sockets, and by the topic of commands with what became of its records.",
                [
                    (rate("tidegate_messages_received_total", 'type="command"'), "socket"),
                    (rate("tidegate_commands_read_total", by="outcome"), "topic {{outcome}}"),
                ],
                "ops",
            ),
            each=8,
        ),
        row(
            "Between nodes",
            lines(
                "Calls by outcome",
                "Calls to peers. `not_here` is an answer like any other: the device has moved.",
                [(rate("tidegate_peer_requests_total", by="outcome"), "{{outcome}}")],
                "ops",
                width=8,
                stacked=True,
                colors=OUTCOMES,
            ),
            lines(
                "Calls that fail",
                "The share, by the node that asks. At 5 % an alert fires.",
                [(failed("tidegate_peer_requests_total", "ok|not_here|gone|other_life"), NODE)],
                "percentunit",
                [(0.05, RED)],
                width=8,
            ),
            lines(
                "How long calls take",
                "Whatever their outcome.",
                quantiles("tidegate_peer_request_duration_seconds"),
                "s",
                width=8,
            ),
            lines(
                "Peers known",
                "Live nodes that each node can ask: one less than there are.",
                [(total("tidegate_peers", by="$by"), NODE)],
            ),
            states(
                "Peers answer",
                "A call to each live peer, every 5 s.",
                [(probe("success", "peer"), NODE)],
                {0: ("no", RED), 1: ("yes", GREEN)},
            ),
        ),
        row(
            "The directory of owners",
            lines(
                "Asked, by operation",
                "What nodes ask of Redis about who has which device.",
                [(rate("tidegate_ownership_operations_total", by="op"), "{{op}}")],
                "ops",
                width=8,
                stacked=True,
            ),
            lines(
                "That fails",
                "The share that was not done, by node. Denied claims are no failures. At 5 % an alert fires.",
                [(failed("tidegate_ownership_operations_total", "ok|denied"), NODE)],
                "percentunit",
                [(0.05, RED)],
                width=8,
            ),
            lines(
                "99 % by operation",
                "How long Redis takes.",
                [(quantile(0.99, "tidegate_ownership_duration_seconds", 'outcome=~"ok|denied"', "op"), "{{op}}")],
                "s",
                width=8,
            ),
            lines(
                "Rows lost",
                "Rows of connected devices found missing, older or another's, and written again.",
                [(f"sum by ($by) (increase({of('tidegate_ownership_lost_total')}[$__rate_interval]))", NODE)],
            ),
            states(
                "Redis answers",
                "The node's lease, every 5 s.",
                [(probe("success", "redis"), NODE)],
                {0: ("no", RED), 1: ("yes", GREEN)},
            ),
        ),
    )
