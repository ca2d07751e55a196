"""Saturation."""

from panels import NODE, OPEN, RED, YELLOW, dashboard, lines, of, rate, row, share, total


def made():
    def process(name):
        """Of nodes only: other programs have the same names."""
        return f"{of(name)} and on (job, instance) {of('tidegate_build_info')}"

    def each(query, how="sum"):
        return f"{how} by ($by) ({query})"

    cpu = (
        f"rate({of('process_cpu_seconds_total')}[$__rate_interval]) and on (job, instance) {of('tidegate_build_info')}"
    )
    busy = share(
        each(f"rate({of('tidegate_runtime_busy_seconds')}[$__rate_interval])"),
        total("tidegate_runtime_workers", by="$by"),
    )
    fds = share(each(process("process_open_fds")), each(process("process_max_fds")))
    memory = each(process("process_resident_memory_bytes"))

    def room(what):
        return share(total(f"tidegate_{what}", by="$by"), total(f"tidegate_{what}_capacity", by="$by"))

    return dashboard(
        "saturation",
        "Saturation",
        "How full each node is, by whatever runs out first.",
        row(
            "How full",
            lines(
                "Workers busy",
                "The runtime's busy time over its workers. At 90 % for ten minutes an alert fires.",
                [(busy, NODE)],
                "percentunit",
                [(0.9, RED)],
                width=6,
                top=1,
            ),
            lines(
                "Connections",
                "Over `limits.max_connections`.",
                [
                    (
                        share(
                            total("tidegate_connections", OPEN, "$by"), total("tidegate_connections_capacity", by="$by")
                        ),
                        NODE,
                    )
                ],
                "percentunit",
                [(0.85, RED)],
                width=6,
                top=1,
            ),
            lines(
                "File descriptors",
                "Open ones over the limit of the process.",
                [(fds, NODE)],
                "percentunit",
                [(0.85, RED)],
                width=6,
                top=1,
            ),
            lines(
                "Bytes pending",
                "Over `limits.node_budget_bytes`; at half of it devices are told to pause.",
                [(room("publish_pending_bytes"), NODE)],
                "percentunit",
                [(0.5, YELLOW), (0.8, RED)],
                width=6,
                top=1,
            ),
            lines(
                "Records pending",
                "Over what the producer's queue holds.",
                [(room("publish_pending_messages"), NODE)],
                "percentunit",
                [(0.8, RED)],
                width=8,
                top=1,
            ),
            lines(
                "In TLS or HTTP",
                "Connections that are being made, over `limits.max_handshakes`.",
                [(room("handshakes"), NODE)],
                "percentunit",
                [(0.8, YELLOW)],
                width=8,
                top=1,
            ),
            lines(
                "Bytes parked",
                "Read beyond the windows, unfinished, or waiting to be written, over `limits.parked_bytes`. Above, connections are ended (4100).",
                [(room("parked_bytes"), NODE)],
                "percentunit",
                [(0.8, RED)],
                width=8,
                top=1,
            ),
        ),
        row(
            "What it takes",
            lines("Processor", "Cores in use.", [(each(cpu), NODE)], "none"),
            lines("Memory", "Resident memory of the process.", [(memory, NODE)], "bytes"),
            lines(
                "Memory per connection",
                "Resident memory of all nodes over all open connections: what one more would cost at most, once there are many.",
                [(share(f"sum({memory})", f"({total('tidegate_connections', OPEN)} > 0)"), "all nodes")],
                "bytes",
            ),
            lines(
                "Messages per busy second",
                "Messages received over the workers' busy time: how many one core could do.",
                [
                    (
                        share(
                            rate("tidegate_messages_received_total", by="$by"),
                            f"(sum by ($by) (rate({of('tidegate_runtime_busy_seconds')}[$__rate_interval])) > 0)",
                        ),
                        NODE,
                    )
                ],
                "ops",
            ),
            lines(
                "Tasks",
                "About one a connection, and those of the node itself.",
                [(total("tidegate_runtime_tasks", by="$by"), NODE)],
            ),
            lines("Threads", "Of the operating system.", [(each(process("process_threads")), NODE)]),
        ),
        row(
            "What goes through",
            lines(
                "Payload in",
                "Bytes from clients, inflated.",
                [(rate("tidegate_messages_received_bytes_total", by="$by"), NODE)],
                "Bps",
            ),
            lines(
                "Payload out",
                "Bytes to clients, before compression.",
                [(rate("tidegate_messages_sent_bytes_total", by="$by"), NODE)],
                "Bps",
            ),
        ),
    )
