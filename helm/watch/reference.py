"""Pages that are made: the reference of metrics, and the list of alerts."""

import dashboards
import promql
import rules
import source

GROUPS = [
    (
        "Connections",
        (
            "connection",
            "handshake",
            "disconnects",
            "ping",
            "paused",
            "leaving",
            "parked",
            "shed",
            "rebalance",
            "drain",
            "readiness",
            "security",
            "refused",
            "revocations",
        ),
    ),
    ("Messages", ("messages",)),
    ("Records to Kafka", ("publish", "producer", "shutdown")),
    ("Commands", ("command",)),
    ("The node", ("probe", "runtime", "log", "trace", "jwks", "certificate", "peer_certificate", "build", "process")),
    ("Between nodes", ("peer", "ownership")),
]


def group_of(name):
    word = name.removeprefix("tidegate_")
    return next(title for title, heads in GROUPS if word.startswith(heads))


def shown_in(metrics):
    """For each metric, the dashboards and alerts whose queries read it."""
    of = {series: metric.name for metric in metrics.values() for series in metric.series()}
    where = {name: {} for name in metrics}
    for title, _, query in dashboards.queries():
        for name in promql.names(query):
            where.get(of.get(name), {})[title.removeprefix("Tidegate / ")] = True
    recorded = {}
    for rule in rules.all_rules():
        for name in promql.names(rule["expr"]):
            if "alert" in rule:
                link = f"[{rule['alert'].removeprefix('Tidegate')}](runbooks/{rules.file_of(rule['alert'])})"
                where.get(of.get(name), {})[link] = True
            else:
                recorded.setdefault(of.get(name), set()).add(rule["labels"]["slo"]) if "labels" in rule else None
    for name, slos in recorded.items():
        if name:
            where[name]["[service levels](runbooks/README.md#service-levels)"] = True
    return where


def bounds(metric):
    return " ".join(promql.number(bound) for bound in metric.buckets)


def metrics_page():
    metrics = source.node()
    known = source.enums()
    where = shown_in(metrics)
    out = [
        "<!-- Made by helm/watch/generate out of src/telemetry: change it there. -->",
        "# Metrics",
        "",
        "What a node answers at `/metrics` of its internal port, in Prometheus' text format. The values of every label are a"
        " closed list, given below: no device, tenant or address is ever among them, so 50 devices and 50,000 make the same"
        " number of series. Times are seconds, sizes bytes. What ends in `_total` is a counter; a histogram has `_bucket`,"
        " `_sum` and `_count`.",
        "",
        "Alerts and dashboards that read these come with the chart (`metrics.rules`, `metrics.dashboards`); without Kubernetes"
        " take `helm/tidegate/files/rules/*.yaml` for Prometheus' `rule_files` and import `helm/tidegate/files/dashboards/*.json`"
        " in Grafana. Several gateways may share a Prometheus: they are told apart by `namespace` and `job`. Their rules are the"
        " same, so install them once. [What the dashboards show](dashboards.md), and how both were tried.",
        "",
    ]
    for title, _ in GROUPS:
        members = [metric for metric in metrics.values() if group_of(metric.name) == title]
        out += [f"## {title}", "", "| metric | type | labels | meaning | shown in |", "| --- | --- | --- | --- | --- |"]
        for metric in members:
            labels = ", ".join(label_link(label, metric.enums.get(label)) for label in metric.labels)
            meaning = metric.meaning + (f" Up to {bounds(metric)}." if metric.buckets else "")
            out.append(f"| `{metric.name}` | {metric.kind} | {labels} | {meaning} | {', '.join(where[metric.name])} |")
        out.append("")
    out += ["## Labels", ""]
    used = {enum for metric in metrics.values() for enum in metric.enums.values()}
    for enum, (about, values) in known.items():
        if enum not in used:
            continue
        homes = sorted(
            {
                f"`{label}` of `{metric.name}`"
                for metric in metrics.values()
                for label, its in metric.enums.items()
                if its == enum
            }
        )
        out += [f"### {enum}", "", f"{about} {'; '.join(homes)}.", "", "| value | |", "| --- | --- |"]
        out += [f"| `{value}` | {text} |" for value, text in values.items()] + [""]
    out += ["### version", "", "`version` of `tidegate_build_info`: the version of the program.", ""]
    return "\n".join(out).rstrip() + "\n"


def label_link(label, enum):
    return f"[`{label}`](#{(enum or label).lower()})"


def runbooks_page():
    alerts = {}
    for rule in rules.all_rules():
        if "alert" in rule:
            alerts.setdefault(rule["alert"], []).append(rule)
    out = [
        "<!-- Made by helm/watch/generate out of helm/watch/rules.py: change it there. -->",
        "# Runbooks",
        "",
        "One page for each alert: what it means, what users feel, where to look first, what to do, when to wake whom.",
        "`critical` is worth waking somebody for, `warning` can wait for the morning.",
        "",
        "Queries on these pages can be pasted into Prometheus as they are. Without one, ask each node on its internal port (on",
        "Kubernetes after `kubectl port-forward POD 9090`): how it sees itself, Kafka, Redis and its peers, and every series.",
        "",
        "```sh",
        "curl -s 'http://NODE:9090/readyz?verbose'",
        "curl -s http://NODE:9090/metrics",
        "```",
        "",
        "## Service levels",
        "",
        "| | objective | what counts |",
        "| --- | --- | --- |",
    ]
    out += [f"| `{name}` | {slo['objective']} % | {slo['what']} |" for name, slo in rules.SLOS.items()]
    out += [
        "",
        "An error budget is what an objective lets fail in 30 days. An alert fires when it burns too fast both over a long window",
        f"and, so that it ends soon after the trouble, over a short one; fewer than {rules.FEWEST} failures wake nobody.",
        "",
        "| pace | windows | for | severity | the budget is gone in |",
        "| --- | --- | --- | --- | --- |",
    ]
    out += [
        f"| {factor:g} | {long} and {short} | {lasting} | {severity} | {rules.gone_in(factor)} |"
        for factor, long, short, lasting, severity in rules.BURNS
    ]
    out += ["", "## Alerts", "", "| alert | severity | for | |", "| --- | --- | --- | --- |"]
    for name, variants in alerts.items():
        severity = " or ".join(dict.fromkeys(rule["labels"]["severity"] for rule in variants))
        lasting = variants[0]["for"] if len(variants) == 1 else "by window"
        summary = (
            variants[0]["annotations"]["summary"]
            .replace(rules.WHO, "a node")
            .replace(" for the topic {{ $labels.topic }}", "")
        )
        out.append(f"| [{name}]({rules.file_of(name)}) | {severity} | {lasting} | {summary[0].upper() + summary[1:]} |")
    return "\n".join(out) + "\n"
