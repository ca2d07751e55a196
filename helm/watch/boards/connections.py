"""Connections and balance."""

from panels import (
    GREEN,
    NODE,
    OPEN,
    OUTCOMES,
    RED,
    YELLOW,
    dashboard,
    density,
    lines,
    of,
    quantiles,
    rate,
    row,
    share,
    states,
    total,
)


def made():
    by_node = total("tidegate_connections", OPEN, "$by")
    return dashboard(
        "connections",
        "Connections and balance",
        "Who is connected where, who comes and goes, and why.",
        row(
            "Held",
            lines("Connections by node", "Open connections of each node.", [(by_node, NODE)]),
            lines(
                "Share of the mean",
                "Each node's connections over the mean of all. At 1.1 it tells devices to move; at 1.3 for a quarter of an hour an alert fires.",
                [(f"{by_node} / scalar(avg({by_node}))", NODE)],
                "none",
                [(1.3, YELLOW)],
            ),
            lines(
                "Share of capacity",
                "Connections over `limits.max_connections`. Above, handshakes are answered 503.",
                [(share(by_node, total("tidegate_connections_capacity", by="$by")), NODE)],
                "percentunit",
                [(0.85, RED)],
                top=1,
            ),
            lines(
                "By kind and state",
                "Devices and applications; closing ones have been sent their close.",
                [(total("tidegate_connections", by="kind, state"), "{{kind}} {{state}}")],
            ),
        ),
        row(
            "Coming",
            lines(
                "Attempts by outcome",
                "How attempts to connect ended; requests to the HTTP API on the same port are left aside.",
                [(rate("tidegate_connection_attempts_total", 'outcome!="http"', "outcome"), "{{outcome}}")],
                "ops",
                stacked=True,
                colors=OUTCOMES,
            ),
            lines(
                "Accepted by node",
                "Where new connections go: a load balancer that forgets a node shows here.",
                [(rate("tidegate_connection_attempts_total", 'outcome="accepted"', "$by"), NODE)],
                "ops",
            ),
            lines(
                "Handshake",
                "From accept to the 101; accepted ones only.",
                quantiles("tidegate_handshake_duration_seconds"),
                "s",
                empty="Nobody connected",
            ),
            lines(
                "In TLS or HTTP",
                "Connections that are being made, over `limits.max_handshakes`; above, they wait in the listen queue.",
                [
                    (
                        share(total("tidegate_handshakes", by="$by"), total("tidegate_handshakes_capacity", by="$by")),
                        NODE,
                    )
                ],
                "percentunit",
                [(0.8, YELLOW)],
                top=1,
            ),
        ),
        row(
            "Going",
            lines(
                "Ends by reason",
                "Connections that ended, by close code or its lack.",
                [(rate("tidegate_disconnects_total", by="reason"), "{{reason}}")],
                "ops",
                stacked=True,
            ),
            lines(
                "Ends by initiator",
                "Who ended them.",
                [(rate("tidegate_disconnects_total", by="initiator"), "{{initiator}}")],
                "ops",
                stacked=True,
            ),
            density(
                "How long connections live",
                "Connections that ended, by how long they had lived.",
                "tidegate_connection_lifetime_seconds",
                "s",
            ),
            lines(
                "Ping to pong",
                "The network's round trip, as the gateway's pings see it.",
                quantiles("tidegate_ping_rtt_seconds"),
                "s",
                empty="Nobody was quiet for long enough to be pinged",
            ),
        ),
        row(
            "Misuse",
            lines(
                "Refused messages",
                "Messages that will never be taken, by code.",
                [(rate("tidegate_refused_total", by="code"), "{{code}}")],
                "ops",
                stacked=True,
            ),
            lines(
                "Security events",
                "What somebody should look at who watches for attacks.",
                [(rate("tidegate_security_events_total", by="event"), "{{event}}")],
                "ops",
            ),
            lines(
                "Revocations in force",
                "Blocked devices and revocations that each node knows; all should know as many.",
                [(total("tidegate_revocations", by="$by"), NODE)],
            ),
            states(
                "Revocations can be read",
                "Whether the topic of revocations could be read when it was tried last.",
                [(total("tidegate_revocations_readable", by="$by"), NODE)],
                {0: ("no", RED), 1: ("yes", GREEN)},
            ),
        ),
    )
