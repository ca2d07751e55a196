"""Load test: what tidegate-loadtest says of a run."""

from panels import BLUE, GREEN, QUOTE, RED, SOURCE, YELLOW, dashboard, happened, lines, number, of, rate, row, variable


def made():
    chosen = 'job=~"$job",instance=~"$instance"'

    def of_test(name, matchers=""):
        return f"tidegate_loadtest_{name}{{{chosen}{',' + matchers if matchers else ''}}}"

    def per_second(name, legend):
        return f"sum(rate({of_test(name + '_total')}[$__rate_interval]))", legend

    def timed(timing):
        buckets = f"sum by (le) (rate({of_test('duration_seconds_bucket', f'timing={QUOTE}{timing}{QUOTE}')}[$__rate_interval]))"
        return [
            (f"histogram_quantile({share_of}, {buckets})", f"{timing} {name}")
            for share_of, name in ((0.5, "median"), (0.99, "99 %"))
        ]

    def counted(name):
        return f"sum({of_test(name + '_total')})"

    where = "label_values(tidegate_loadtest_info, job)"
    variables = [
        SOURCE,
        variable("job", "Job", where, "Scrape jobs of load testers"),
        variable("instance", "Worker", 'label_values(tidegate_loadtest_info{job=~"$job"}, instance)', "Load testers"),
    ]
    return dashboard(
        "loadtest",
        "Load test",
        "A run of tidegate-loadtest, as the devices see the gateway.",
        row(
            "The run",
            number(
                "Done",
                "How far the run is.",
                f"max({of_test('elapsed_seconds')}) / max({of_test('planned_seconds')})",
                "percentunit",
                width=4,
            ),
            number("Devices", "Connected now.", f"sum({of_test('devices_connected')})", width=4),
            number("Acked", "Updates acked so far.", counted("acked"), width=4),
            number("Refused", "Updates refused so far.", counted("refused"), limits=[(1, YELLOW)], width=4),
            number(
                "Protocol errors",
                "Connections on which something happened that the protocol does not allow.",
                counted("protocol_errors"),
                limits=[(1, RED)],
                width=4,
            ),
            number(
                "Warnings",
                "Such as that the generator itself is the bottleneck: then the figures are not the gateway's.",
                f"sum({of_test('warnings')})",
                limits=[(1, RED)],
                width=4,
            ),
        ),
        row(
            "Updates",
            lines(
                "Updates",
                "Written, acked, refused, and dropped by the device since its buffer was full.",
                [per_second(name, name) for name in ("sent", "acked", "refused", "dropped", "repeats")],
                "ops",
                colors={"sent": BLUE, "acked": GREEN, "refused": RED, "repeats": YELLOW},
            ),
            lines(
                "Update to ack",
                "From the moment the update was due; `uncorrected` from the moment it was written, which hides what waits. Objective: 99 % below 250 ms.",
                timed("ack") + timed("ack_uncorrected"),
                "s",
                [(0.25, RED)],
            ),
            lines("In flight", "Written and not settled.", [(f"sum({of_test('updates_in_flight')})", "in flight")]),
            lines(
                "Generator late",
                "By how much the generator was late with what was due. Should be far below what is measured.",
                timed("lateness"),
                "s",
            ),
        ),
        row(
            "Connections",
            lines(
                "Devices over time",
                "Wanted by the profile, connected, and paused.",
                [(f"sum({of_test('devices_' + name)})", name) for name in ("wanted", "connected", "paused")],
            ),
            lines(
                "Connects",
                "Connections that got their welcome, attempts that did not, and connections that ended.",
                [
                    per_second(name, name.replace("_", " "))
                    for name in ("connects", "connect_failures", "reconnects", "disconnects")
                ],
                "ops",
                colors={"connect failures": RED},
            ),
            lines(
                "To connect",
                "From the first SYN to the welcome; TLS alone.",
                timed("connect") + timed("tls"),
                "s",
                empty="Nobody connected",
            ),
            lines(
                "To reconnect",
                "From the end of a connection to the next welcome, the back-off included.",
                timed("reconnect"),
                "s",
                empty="Nobody had to reconnect",
            ),
            lines(
                "Closes by code",
                "Connections that the gateway ended; 1006 without a close frame.",
                [(f"sum by (code) (rate({of_test('closes_total')}[$__rate_interval]))", "{{code}}")],
                "ops",
                stacked=True,
                empty="The gateway closed no connection",
            ),
            lines(
                "Pauses and goaways",
                "What the gateway told devices.",
                [per_second("pauses", "pause"), per_second("goaways", "goaway")],
                "ops",
            ),
        ),
        row(
            "Commands",
            lines(
                "Commands",
                "Asked for, seen to succeed, seen to end otherwise; received by devices, every attempt.",
                [per_second("commands_" + name, name) for name in ("asked", "done", "failed", "received")],
                "ops",
                colors={"asked": BLUE, "done": GREEN, "failed": RED},
            ),
            lines(
                "Command to answer",
                "From the moment a command was due to its caller's hearing of its end. Objective: 99 % below 1 s.",
                timed("command"),
                "s",
                [(1, RED)],
                empty="No command was answered",
            ),
            lines(
                "Errors",
                "Of every kind; the report has their texts.",
                [per_second("errors", "errors"), per_second("protocol_errors", "protocol errors")],
                "ops",
            ),
            lines(
                "Bytes",
                "Written and read, before TLS.",
                [per_second("bytes_sent", "sent"), per_second("bytes_received", "received")],
                "Bps",
            ),
        ),
        variables=variables,
    )
