"""What a query names, held against what there is. No parser of PromQL: promtool is that; this looks at names and labels."""

import re

import source

WORD = re.compile(r"[a-zA-Z_:][\w:]*")
SELECTOR = re.compile(r"((?:tidegate|process)[:_][\w:]*)\s*(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
RANGE = re.compile(r"\[\$__\w+\]|\[[\w:]+\]")


def names(query):
    """The series a query reads."""
    return [match[1] for match in SELECTOR.finditer(query)]


class Known:
    """Every series there is: those of nodes, of the load tester and those that are recorded."""

    def __init__(self, metrics, recorded):
        self.by_series = {series: metric for metric in metrics.values() for series in metric.series()}
        self.recorded = recorded

    def mistakes(self, query):
        """What of a query cannot be."""
        found = []
        labels = set(source.TARGET_LABELS) | {"le", "slo", "window"}
        for match in SELECTOR.finditer(query):
            name, matchers = match[1], match[2] or ""
            if name in self.recorded:
                labels |= self.recorded[name]
                found += self.of_matchers(name, matchers, {label: None for label in self.recorded[name]})
            elif name in self.by_series:
                metric = self.by_series[name]
                labels |= set(metric.labels)
                bounds = (
                    {"le": {number(bound) for bound in metric.buckets} | {"+Inf"}} if name.endswith("_bucket") else {}
                )
                found += self.of_matchers(name, matchers, metric.labels | bounds)
            else:
                found.append(f"there is no {name}")
        for group in GROUPING.finditer(query):
            for label in filter(None, (part.strip() for part in group[1].split(","))):
                if label not in labels and not label.startswith("$"):
                    found.append(f"none of these has a label {label}")
        return found

    def of_matchers(self, name, matchers, labels):
        for label, operator, value in MATCHER.findall(matchers):
            if label not in labels:
                if label not in source.TARGET_LABELS:
                    yield f"{name} has no label {label}"
                continue
            values = labels[label]
            wanted = value.split("|") if "~" in operator else [value]
            if values is None or "$" in value:
                continue
            yield from (f'{name} has no {label}="{one}"' for one in wanted if one not in values)


def number(bound):
    """A boundary as it stands in `le`."""
    return f"{bound:g}" if bound < 1e6 else str(int(bound))
