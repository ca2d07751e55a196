"""The pieces that dashboards are made of, as Grafana's JSON has them."""

import itertools

# Grafana's own number for how a dashboard's JSON is written; older servers read it too.
SCHEMA_VERSION = 42
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 24, 8
STAT_HEIGHT = 4
GREEN, YELLOW, RED = "green", "yellow", "red"

# What several dashboards ask for.
STORED = 'topic=~"telemetry|status",outcome="stored"'
ANSWERED = 'route=~"local|peer",outcome=~"succeeded|failed|rejected"'
QUOTE = '"'
OPEN = 'state="open"'
BLUE, ORANGE, PURPLE = "blue", "orange", "purple"
# What is well is green and what is not is red in every panel, whatever else is counted beside it.
OUTCOMES = {
    "stored": GREEN,
    "refused": RED,
    "accepted": GREEN,
    "succeeded": GREEN,
    "ok": GREEN,
    "canceled": PURPLE,
    "failed": ORANGE,
    "busy": ORANGE,
    "deadline": YELLOW,
    "not_here": BLUE,
    "unreachable": RED,
}

# What a query of nodes is narrowed to, and what of the whole gateway.
NODES = 'namespace=~"$namespace",job=~"$job",pod=~"$pod"'
GATEWAY = 'namespace=~"$namespace",job=~"$job"'
# A node's name in a legend: whichever of the two the variable `by` chose is there.
NODE = "{{pod}}{{instance}}"


def of(metric, matchers=""):
    """A metric of the chosen nodes."""
    return f"{metric}{{{NODES}{',' + matchers if matchers else ''}}}"


def rate(metric, matchers="", by=""):
    total = f"(rate({of(metric, matchers)}[$__rate_interval]))"
    return f"sum by ({by}) {total}" if by else f"sum{total}"


def total(metric, matchers="", by=""):
    return f"sum by ({by}) ({of(metric, matchers)})" if by else f"sum({of(metric, matchers)})"


def quantile(share, metric, matchers="", by=""):
    """Of a histogram, in its own unit."""
    buckets = f"rate({of(metric + '_bucket', matchers)}[$__rate_interval])"
    return f"histogram_quantile({share}, sum by ({'le, ' + by if by else 'le'}) ({buckets}))"


def quantiles(metric, matchers=""):
    """The usual three, with their names."""
    return [
        (quantile(share, metric, matchers), name) for share, name in ((0.5, "median"), (0.95, "95 %"), (0.99, "99 %"))
    ]


def happened(metric, matchers=""):
    """How often over the whole time that is shown."""
    return f"sum(increase({of(metric, matchers)}[$__range]))"


def probe(what, path):
    """How the probes of a path went, or how old the last good one is: of a node's, the worst."""
    worst = "min" if what == "success" else "max"
    return f"{worst} by ($by) ({of(f'tidegate_probe_{what}', f'path={QUOTE}{path}{QUOTE}')})"


def share(part, whole):
    return f"{part}\n/\n{whole}"


# ---- panels --------------------------------------------------------------------------------------------------------


def steps(limits, base=GREEN):
    """Thresholds: a list of (from which value, colour)."""
    return {
        "mode": "absolute",
        "steps": [{"color": base, "value": None}] + [{"color": color, "value": value} for value, color in limits],
    }


def targets(queries, **more):
    letters = itertools.chain("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return [
        {"refId": next(letters), "datasource": DATASOURCE, "expr": expr, "legendFormat": legend, "range": True, **more}
        for expr, legend in queries
    ]


def panel(kind, title, about, queries, unit, limits, width, height, options, custom=None, **defaults):
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": DATASOURCE,
        "gridPos": {"w": width, "h": height},
        "targets": targets(queries),
        "fieldConfig": {
            "defaults": {"unit": unit, "thresholds": steps(limits), "custom": custom or {}, **defaults},
            "overrides": [],
        },
        "options": options,
    }


def placement(width):
    """Of a legend: beside a narrow plot it would take half of it."""
    return "right" if width >= WIDTH // 2 else "bottom"


def lines(title, about, queries, unit="short", limits=(), width=12, stacked=False, top=None, colors=None, empty=None):
    """Curves over time. `limits` are drawn as lines; `top` ends the axis; `colors` by legend; `empty` says what it means that
    there is nothing. What matters stands on top of the legend: most of what is counted by outcome never happens."""
    custom = {
        "drawStyle": "line",
        # Lines of what is zero would lie on top of a stack, in their own colours.
        "lineWidth": 0 if stacked else 1,
        "fillOpacity": 70 if stacked else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if limits else "off"},
        "axisSoftMin": 0,
    }
    options = {
        "legend": {
            "displayMode": "table",
            "placement": placement(width),
            "showLegend": True,
            "calcs": ["lastNotNull", "max"],
            "sortBy": "Max",
            "sortDesc": True,
        },
        "tooltip": {"mode": "multi", "sort": "desc", "hideZeros": True},
    }
    more = {"min": 0} | ({"max": top} if top is not None else {}) | ({"noValue": empty} if empty else {})
    if unit in ("percentunit", "none"):
        more["decimals"] = 1 if unit == "percentunit" else 2
    made = panel(
        "timeseries",
        title,
        about,
        queries,
        unit,
        limits,
        width,
        HEIGHT,
        options,
        custom,
        color={"mode": "palette-classic"},
        **more,
    )
    made["fieldConfig"]["overrides"] = [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}],
        }
        for name, color in (colors or {}).items()
    ]
    return made


def number(
    title, about, query, unit="short", limits=(), width=4, decimals=None, base=GREEN, legend="", height=STAT_HEIGHT
):
    """One figure, or one for each series, coloured by its thresholds."""
    options = {
        "colorMode": "value" if limits else "none",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    more = {"decimals": decimals} if decimals is not None else {}
    made = panel(
        "stat",
        title,
        about,
        [(query, legend)],
        unit,
        limits,
        width,
        height,
        options,
        color={"mode": "thresholds"},
        **more,
    )
    made["fieldConfig"]["defaults"]["thresholds"] = steps(limits, base)
    return made


def zero(title, about, query, width=4, height=STAT_HEIGHT):
    """A figure that is red when it is not zero. What is extrapolated to a fraction is rounded up."""
    return number(title, about, f"ceil({query})", "short", [(0.5, RED)], width, decimals=0, height=height)


def kept(title, about, query, objectives, width=12):
    """A share for each of several things, green where it is at least its own objective."""
    made = number(title, about, query, "percentunit", [(1, GREEN)], width, 3, RED, "{{slo}}", HEIGHT)
    made["options"] |= {"orientation": "horizontal", "graphMode": "none"}
    made["fieldConfig"]["overrides"] = [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "thresholds", "value": steps([(objective / 100, GREEN)], RED)}],
        }
        for name, objective in objectives.items()
    ]
    return made


def density(title, about, metric, unit, matchers="", width=12):
    """How a histogram is spread over time."""
    query = f"sum by (le) (increase({of(metric + '_bucket', matchers)}[$__rate_interval]))"
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "steps": 64,
            "exponent": 0.5,
            "fill": "dark-orange",
            "reverse": False,
        },
        "yAxis": {"axisPlacement": "left", "unit": unit},
        "cellValues": {"unit": "short"},
        "tooltip": {"mode": "single", "yHistogram": True},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "filterValues": {"le": 1e-9},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
    }
    made = panel("heatmap", title, about, [], unit, (), width, HEIGHT, options)
    made["targets"] = targets([(query, "{{le}}")], format="heatmap")
    return made


def states(title, about, queries, values, width=12):
    """What state each thing is in over time. `values`: a text and a colour for each number."""
    options = {
        "showValue": "never",
        "rowHeight": 0.85,
        "mergeValues": True,
        "alignValue": "left",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    mapped = {str(value): {"text": text, "color": color, "index": value} for value, (text, color) in values.items()}
    custom = {"fillOpacity": 70, "lineWidth": 0}
    more = {"mappings": [{"type": "value", "options": mapped}], "color": {"mode": "thresholds"}}
    return panel("state-timeline", title, about, queries, "short", (), width, HEIGHT, options, custom, **more)


# ---- dashboards ----------------------------------------------------------------------------------------------------


def variable(name, label, query, about, multi=True):
    everything = {"text": ["All"], "value": ["$__all"]} if multi else {}
    return {
        "type": "query",
        "name": name,
        "label": label,
        "description": about,
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": multi,
        # Where a label is not there at all everything is meant, too.
        "includeAll": multi,
        "allValue": ".*",
        "current": everything,
        "options": [],
        "regex": "",
        "hide": 0,
    }


SOURCE = {
    "type": "datasource",
    "name": "datasource",
    "label": "Data source",
    "description": "The Prometheus that scrapes the gateway",
    "query": "prometheus",
    "options": [],
    "refresh": 1,
    "regex": "",
    "multi": False,
    "includeAll": False,
    "hide": 0,
}
BY = {
    "type": "custom",
    "name": "by",
    "label": "Nodes by",
    "description": "The label that tells nodes apart: `pod` in Kubernetes, `instance` elsewhere",
    "query": "pod,instance",
    "current": {"text": "pod", "value": "pod"},
    "options": [{"text": name, "value": name, "selected": name == "pod"} for name in ("pod", "instance")],
    "multi": False,
    "includeAll": False,
    "hide": 0,
}
OF_NODES = [
    SOURCE,
    variable("namespace", "Namespace", "label_values(tidegate_build_info, namespace)", "Namespaces of the gateway"),
    variable(
        "job",
        "Gateway",
        'label_values(tidegate_build_info{namespace=~"$namespace"}, job)',
        "Scrape jobs, one for each gateway",
    ),
    variable("pod", "Pod", f"label_values(tidegate_build_info{{{GATEWAY}}}, pod)", "Nodes"),
    BY,
]


def placed(rows):
    """Every panel in its place: rows of a title and panels, from left to right."""
    panels, y, number_of = [], 0, itertools.count(1)
    for title, members in rows:
        panels.append(
            {
                "type": "row",
                "id": next(number_of),
                "title": title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
                "panels": [],
            }
        )
        x, y, tallest = 0, y + 1, 0
        for member in members:
            place = member["gridPos"]
            if x + place["w"] > WIDTH:
                x, y, tallest = 0, y + tallest, 0
            panels.append({"id": next(number_of), **member, "gridPos": {"x": x, "y": y, **place}})
            x, tallest = x + place["w"], max(tallest, place["h"])
        y += tallest
    return panels


def row(title, *members, each=None):
    """Panels under one heading, all of them `each` wide where that is said."""
    for member in members if each else ():
        member["gridPos"] = {"w": each, "h": HEIGHT}
        if "legend" in member["options"] and member["type"] == "timeseries":
            member["options"]["legend"]["placement"] = placement(each)
    return title, members


def dashboard(uid, title, about, *rows, variables=None):
    return {
        "uid": f"tidegate-{uid}",
        "title": f"Tidegate / {title}",
        "description": about,
        "tags": ["tidegate"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "",
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "annotations": {"list": []},
        "links": [
            {
                "type": "dashboards",
                "title": "Tidegate",
                "tags": ["tidegate"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
                "icon": "external link",
                "tooltip": "",
                "url": "",
            }
        ],
        "templating": {"list": variables or OF_NODES},
        "panels": placed(rows),
    }
