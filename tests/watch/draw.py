"""A dashboard as a picture: each panel's series in its place, in its unit, with its legend, much as Grafana draws them.

HTML with SVG in it, and a headless Chromium makes a PNG of that."""

import html
import math
import subprocess
import time

import units

WIDTH, ROW, GAP = 1320, 38, 8
TITLE, AXIS, UNDER = 28, 72, 20
LINE = 18
COLORS = {
    "green": "#56a64b",
    "yellow": "#e0b400",
    "red": "#e02f44",
    "blue": "#3274d9",
    "orange": "#ff780a",
    "purple": "#a352cc",
    "text": "#24292e",
}
# Grafana's classic palette, in its order.
PALETTE = (
    "#7eb26d #eab839 #6ed0e0 #ef843c #e24d42 #1f78c1 #ba43a9 #705da0 #508642 #cca300 #447ebc #c15c17 #890f02 #0a437c"
    " #6d1f62 #584477 #b7dbab #f4d598 #70dbed #f9ba8f #f29191 #82b5d8 #e5a8e2 #aea2e0 #629e51 #e5ac0e #64b0c8"
).split()
STYLE = """
body { margin: 0; background: #f4f5f5; font: 12px Inter, Helvetica, Arial, sans-serif; color: #24292e; position: relative }
.panel { position: absolute; background: #fff; border: 1px solid #dfe1e4; border-radius: 3px; box-sizing: border-box; overflow: hidden }
.panel h3 { font-size: 13px; font-weight: 600; margin: 6px 8px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
.row { position: absolute; font-size: 15px; font-weight: 600; padding: 8px }
.legend { position: absolute; overflow: hidden; font-size: 11px }
.legend table { border-collapse: collapse; width: 100% }
.legend td, .legend th { padding: 0 3px; height: 18px; text-align: right; white-space: nowrap }
.legend th { color: #3871dc; font-weight: 600 }
.legend td:first-child { text-align: left; overflow: hidden; text-overflow: ellipsis }
.key { display: inline-block; width: 12px; height: 4px; border-radius: 2px; margin-right: 5px; vertical-align: middle }
.nothing { position: absolute; left: 8px; right: 8px; text-align: center; color: #6e7780 }
svg { position: absolute } text { font: 11px Inter, Helvetica, Arial, sans-serif; fill: #565c63 }
.stats { display: flex; height: calc(100% - 28px) }
.stat { flex: 1; display: flex; flex-direction: column; align-items: center; justify-content: center; position: relative }
.under { flex-direction: column } .under .stat { flex-direction: row; justify-content: space-between; padding: 0 24px; font-size: 16px }
.stat b { font-weight: 600 } .stat svg { bottom: 0; left: 0 }
"""


def color_of(name):
    return COLORS.get(name, name)


def name_of(target, labels):
    """A series' name, from its legend."""
    text = target["legendFormat"]
    for label in [part.split("}}")[0] for part in text.split("{{")[1:]]:
        text = text.replace("{{%s}}" % label, labels.get(label, ""))
    return text or " ".join(f"{label}={value}" for label, value in labels.items() if label != "__name__")


def series_of(panel):
    """Name, colour and values of every series that has any, in the order of Grafana's palette."""
    fixed = {
        one["matcher"]["options"]: one["properties"][0]["value"]["fixedColor"]
        for one in panel.made["fieldConfig"]["overrides"]
        if one["properties"][0]["id"] == "color"
    }
    found = []
    for target, got in zip(panel.made["targets"], panel.series):
        for labels, values in sorted(got, key=lambda one: sorted(one[0].items())):
            name = name_of(target, labels)
            found.append((name, color_of(fixed.get(name, PALETTE[len(found) % len(PALETTE)])), values))
    return [one for one in found if one[2]]


class Plot:
    """Where a time and a value stand in a panel's drawing."""

    def __init__(self, width, height, begin, end, most):
        self.width, self.height, self.begin, self.end, self.most = width, height, begin, end, most

    def x(self, at):
        return AXIS + (at - self.begin) / (self.end - self.begin) * (self.width - AXIS - 10)

    def y(self, value):
        low = self.height - UNDER
        return low - value / self.most * (low - 6)

    def times(self):
        """The labels below."""
        step = next(step for step in (60, 120, 300, 600, 900, 1800, 3600, 1e9) if (self.end - self.begin) / step <= 8)
        at, text = math.ceil(self.begin / step) * step, ""
        while at < self.end:
            shown = time.strftime("%H:%M", time.gmtime(at))
            text += f'<line x1="{self.x(at):.1f}" x2="{self.x(at):.1f}" y1="6" y2="{self.height - UNDER}" stroke="#eceef0"/>'
            text += f'<text x="{self.x(at):.1f}" y="{self.height - 5}" text-anchor="middle">{shown}</text>'
            at += step
        return text


def ticks(most, unit):
    """Round values from zero up to at least `most`."""
    if unit == "bytes":
        scale = 1024 ** math.floor(math.log(max(most, 1), 1024))
        return [mark * scale for mark in ticks(most / scale, "short")]
    rough = most / 4
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * 0.999)
    count = math.ceil(most / step - 1e-9)
    return [step * number for number in range(count + 1)]


def path(plot, values, step):
    """Lines between values that follow each other."""
    text, last = "", None
    for at, value in values:
        text += f"{'L' if last is not None and at - last < 1.5 * step else 'M'}{plot.x(at):.1f} {plot.y(value):.1f}"
        last = at
    return text


def filled(plot, values, base, color, step, opacity):
    """What is between a series and those it stands on, without what lies in gaps."""
    text, begun = "", 0
    for number in range(1, len(values) + 1):
        if number == len(values) or values[number][0] - values[number - 1][0] >= 1.5 * step:
            there, back = values[begun:number], base[begun:number][::-1]
            text += "M" + "L".join(f"{plot.x(at):.1f} {plot.y(value):.1f}" for at, value in there + back) + "Z"
            begun = number
    return f'<path d="{text}" fill="{color}" fill-opacity="{opacity / 100}"/>'


def stacked(series):
    """Each series on top of those before it."""
    base, found = {}, []
    for name, color, values in series:
        below = [(at, base.get(at, 0)) for at, _ in values]
        base.update({at: base.get(at, 0) + value for at, value in values})
        found.append((name, color, [(at, base[at]) for at, _ in values], below))
    return found


def timeseries(panel, width, height, begin, end, step):
    made, defaults = panel.made, panel.made["fieldConfig"]["defaults"]
    series, custom = series_of(panel), panel.made["fieldConfig"]["defaults"]["custom"]
    if not series:
        return nothing(defaults, height)
    drawn = [(name, color, values, None) for name, color, values in series]
    if custom["stacking"]["mode"] == "normal":
        drawn = stacked(series)
    legend, taken = legend_of(made["options"]["legend"], series, defaults, width, height)
    below = made["options"]["legend"]["placement"] == "bottom"
    wide, high = (width, height - TITLE - taken) if below else (width - taken, height - TITLE)
    most = max((value for _, _, values, _ in drawn for _, value in values if math.isfinite(value)), default=0)
    marks = ticks(defaults.get("max") or (most if most > 0 else 1), defaults["unit"])
    plot = Plot(wide, high, begin, end, defaults.get("max") or marks[-1])
    svg = plot.times()
    for mark in marks:
        y = plot.y(mark)
        svg += f'<line x1="{AXIS}" x2="{wide - 10}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e6e8"/>'
        svg += f'<text x="{AXIS - 6}" y="{y + 4:.1f}" text-anchor="end">{units.shown(mark, defaults["unit"], defaults.get("decimals"))}</text>'
    for _, color, values, base in drawn:
        svg += filled(plot, values, base, color, step, custom["fillOpacity"]) if base else ""
        if custom["lineWidth"]:
            svg += f'<path d="{path(plot, values, step)}" fill="none" stroke="{color}" stroke-width="1.3"/>'
    if custom["thresholdsStyle"]["mode"] != "off":
        for one in defaults["thresholds"]["steps"][1:]:
            if one["value"] <= plot.most:
                y = plot.y(one["value"])
                svg += f'<line x1="{AXIS}" x2="{wide - 10}" y1="{y:.1f}" y2="{y:.1f}" stroke="{color_of(one["color"])}" stroke-dasharray="8 6"/>'
    return f'<svg width="{wide:.0f}" height="{high}">{svg}</svg>{legend}'


def legend_of(options, series, defaults, width, height):
    """A legend, and how much room it takes: a table of names, last values and highest; as much of it as there is room for."""
    rows = [(name, color, values[-1][1], max(value for _, value in values)) for name, color, values in series]
    if options.get("sortBy"):
        column = {"Name": 0, "Last *": 2, "Max": 3}[options["sortBy"]]
        rows.sort(key=lambda row: row[column], reverse=options.get("sortDesc", False))
    below, unit, digits = options["placement"] == "bottom", defaults["unit"], defaults.get("decimals")
    room = int(0.35 * (height - TITLE)) if below else height - TITLE - 4
    fits = room // LINE - 1
    rows = [
        (name, color, units.shown(last, unit, digits), units.shown(top, unit, digits))
        for name, color, last, top in rows
    ]
    lines = "".join(
        f'<tr><td><span class="key" style="background:{color}"></span>{html.escape(name)}</td>'
        f"<td>{last}</td><td>{top}</td></tr>"
        for name, color, last, top in rows[:fits]
    )
    head = f"<tr><th>{'Name' if len(rows) <= fits else f'Name ({len(rows)}, scrolls)'}</th><th>Last *</th><th>Max</th></tr>"
    if below:
        taken = min(room, (len(rows) + 1) * LINE) + 4
        place = f"left:8px;right:8px;bottom:2px;height:{taken - 2}px"
    else:
        letters = sum(max(len(row[column]) for row in rows) for column in (0, 2, 3))
        taken = min(0.45 * width, max(letters * 6.2 + 60, 200))
        place = f"right:4px;top:{TITLE}px;width:{taken - 6:.0f}px;height:{room}px"
    return f'<div class="legend" style="{place}"><table>{head}{lines}</table></div>', taken


def nothing(defaults, height):
    return (
        f'<div class="nothing" style="top:{height // 2 - 8}px">{html.escape(defaults.get("noValue", "No data"))}</div>'
    )


def stat(panel, width, height, begin, end, step):
    defaults, series = panel.made["fieldConfig"]["defaults"], series_of(panel)
    if not series:
        return nothing(defaults, height)
    boxes, each = "", width / len(series)
    own = {
        one["matcher"]["options"]: one["properties"][0]["value"]["steps"]
        for one in panel.made["fieldConfig"]["overrides"]
    }
    across = panel.made["options"]["orientation"] != "horizontal"
    if not across:
        each = width
    for name, _, values in series:
        last = values[-1][1]
        color = COLORS["text"]
        if panel.made["options"]["colorMode"] != "none":
            limits = own.get(name, defaults["thresholds"]["steps"])
            reached = [one for one in limits if one["value"] is None or one["value"] <= last]
            color = color_of(reached[-1]["color"])
        text = units.shown(last, defaults["unit"], decimals=defaults.get("decimals"))
        tall = (height - TITLE) / (1 if across else len(series))
        size = min(0.5 * tall, 1.6 * (each - 16) / max(len(text), 3), 44)
        most = max(value for _, value in values) or 1
        high = (height - TITLE) * 0.4
        points = [
            f"{(at - begin) / (end - begin) * each:.1f} {high - value / most * high * 0.9:.1f}" for at, value in values
        ]
        area = (
            ""
            if panel.made["options"]["graphMode"] == "none"
            else f'<path d="M{"L".join(points)}V{high}H{points[0].split()[0]}Z" fill="{color}" fill-opacity="0.18"/>'
        )
        label = f"<span>{html.escape(name)}</span>" if len(series) > 1 else ""
        boxes += f'<div class="stat"><svg width="{each:.0f}" height="{high:.0f}">{area}</svg>{label}<b style="font-size:{size:.0f}px;color:{color}">{text}</b></div>'
    return f'<div class="stats{"" if across else " under"}">{boxes}</div>'


def heatmap(panel, width, height, begin, end, step):
    unit = panel.made["options"]["yAxis"]["unit"]
    rows = sorted((float(labels["le"]), dict(values)) for labels, values in panel.series[0])
    if not rows:
        return nothing(panel.made["fieldConfig"]["defaults"], height)
    plot = Plot(width, height - TITLE, begin, end, len(rows))
    cells = [
        (number, at, value - (rows[number - 1][1].get(at, 0) if number else 0))
        for number, (_, values) in enumerate(rows)
        for at, value in values.items()
    ]
    most = max((value for _, _, value in cells), default=0) or 1
    svg = plot.times()
    for number, at, value in cells:
        if value > 1e-9 * most:
            depth = (value / most) ** 0.5
            color = f"rgb({255 - 40 * depth:.0f},{236 - 166 * depth:.0f},{213 - 203 * depth:.0f})"
            left, right = plot.x(at - step), plot.x(at)
            svg += f'<rect x="{max(left, AXIS):.1f}" width="{max(right - left - 0.5, 1):.1f}" y="{plot.y(number + 1):.1f}" height="{plot.y(number) - plot.y(number + 1) - 1:.1f}" fill="{color}"/>'
    every = math.ceil(len(rows) / 12)
    for number, (bound, _) in enumerate(rows):
        if number % every == 0 or bound == math.inf:
            text = "more" if bound == math.inf else units.shown(bound, unit)
            svg += f'<text x="{AXIS - 6}" y="{plot.y(number + 1) + 8:.1f}" text-anchor="end">{text}</text>'
    return f'<svg width="{width:.0f}" height="{height - TITLE}">{svg}</svg>'


def state_timeline(panel, width, height, begin, end, step):
    defaults = panel.made["fieldConfig"]["defaults"]
    meaning = defaults["mappings"][0]["options"]
    series = series_of(panel)
    if not series:
        return nothing(defaults, height)
    high = height - TITLE - LINE - 4
    plot = Plot(width, high, begin, end, len(series))
    svg = plot.times()
    for number, (name, _, values) in enumerate(series):
        top = plot.y(len(series) - number) + 2
        thick = plot.y(0) - plot.y(1) - 4
        svg += f'<text x="{AXIS - 6}" y="{top + thick / 2 + 4:.1f}" text-anchor="end">{html.escape(name)}</text>'
        for at, value in values:
            color = color_of(meaning.get(f"{value:g}", {"color": "#999"})["color"])
            svg += f'<rect x="{plot.x(at):.1f}" width="{plot.x(at + step) - plot.x(at) + 0.3:.1f}" y="{top:.1f}" height="{thick:.1f}" fill="{color}" fill-opacity="0.7"/>'
    keys = "".join(
        f'<span class="key" style="background:{color_of(one["color"])};margin-left:10px"></span>{html.escape(one["text"])}'
        for one in meaning.values()
    )
    return f'<svg width="{width:.0f}" height="{high}">{svg}</svg><div class="legend" style="left:8px;bottom:2px">{keys}</div>'


DRAWN = {"timeseries": timeseries, "stat": stat, "heatmap": heatmap, "state-timeline": state_timeline}


def page(board, panels, begin, end, step):
    """A dashboard's HTML, and how high it is."""
    by_title, body, bottom = {panel.title: panel for panel in panels}, "", 0
    for made in board["panels"]:
        place = made["gridPos"]
        left, top = place["x"] * WIDTH / 24 + GAP / 2, place["y"] * ROW
        width, height = place["w"] * WIDTH / 24 - GAP, place["h"] * ROW - GAP
        bottom = max(bottom, top + height)
        at = f"left:{left:.0f}px;top:{top + 34}px;width:{width:.0f}px;height:{height}px"
        title = html.escape(made["title"])
        if made["type"] == "row":
            body += f'<div class="row" style="left:{left:.0f}px;top:{top + 28}px">⌄ {title}</div>'
            continue
        drawn = DRAWN[made["type"]](by_title[made["title"]], width - 2, height - 2, begin, end, step)
        body += f'<div class="panel" style="{at}"><h3>{title}</h3>{drawn}</div>'
    head = f'<div class="row" style="left:4px;top:0;font-size:17px">{html.escape(board["title"])}</div>'
    return (
        f"<!doctype html><meta charset=utf-8><style>{STYLE}</style><body>{head}{body}</body>",
        bottom + 34 + GAP,
    )


def picture(browser, folder, name, board, panels, begin, end, step):
    """Writes `NAME.html` and `NAME.png`."""
    text, height = page(board, panels, begin, end, step)
    file = folder / f"{name}.html"
    file.write_text(text)
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--window-size={WIDTH},{height}",
        f"--screenshot={folder / f'{name}.png'}",
    ]
    subprocess.run([browser, *flags, file.as_uri()], check=True, capture_output=True, timeout=120)
