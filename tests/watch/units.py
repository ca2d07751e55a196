"""Numbers in the units that dashboards name, as Grafana writes them."""

import math

SECONDS = ((86400 * 7, "week"), (86400, "day"), (3600, "hour"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs"))


def plain(value, most=3):
    """With as many digits as say something."""
    if value == 0:
        return "0"
    digits = max(0, most - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(digits, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def scaled(value, factor, names):
    for name in names:
        if abs(value) < factor or name == names[-1]:
            return plain(value), name
        value /= factor


def shown(value, unit, decimals=None):
    """A value in its unit."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞"
    if unit == "percentunit":
        return f"{value * 100:.{decimals}f}%" if decimals is not None else f"{plain(value * 100)}%"
    if unit == "s":
        size, name = next(((size, name) for size, name in SECONDS if abs(value) >= size), SECONDS[-1])
        if value == 0:
            return "0 s"
        return f"{plain(value / size)} {name}"
    if unit in ("bytes", "Bps"):
        binary = unit == "bytes"
        names = ("B", "KiB", "MiB", "GiB") if binary else ("B/s", "kB/s", "MB/s", "GB/s")
        return " ".join(scaled(value, 1024 if binary else 1000, names))
    if unit == "ops":
        number, name = scaled(value, 1000, ("", "K", "Mil"))
        return f"{number}{name} ops/s"
    if unit == "none":
        return plain(value, 4) if decimals is None else f"{value:.{decimals}f}"
    if decimals is not None and abs(value) < 1000:
        return f"{value:.{decimals}f}"
    number, name = scaled(value, 1000, ("", "K", "Mil", "Bil"))
    return f"{number}{' ' + name if name else ''}"
