"""What a dashboard shows of a time: its queries, asked as Grafana asks them."""

import dashboards

# A plot of Grafana's has about this many points across.
POINTS = 240
# What Grafana makes of its own variables for a data source that is told nothing: four times 15 s.
RATE_INTERVAL = "1m"
VARIABLES = {"$namespace": ".*", "$job": ".*", "$pod": ".*", "$instance": ".*", "$by": "pod"}


class Panel:
    """A panel, and for each of its queries the series it got."""

    def __init__(self, board, made, series):
        self.board, self.made, self.series = board, made, series
        self.title = made["title"]

    def empty(self):
        """The queries that got nothing."""
        return [target["expr"] for target, got in zip(self.made["targets"], self.series) if not any(v for _, v in got)]


def step_of(begin, end):
    return max(15, int((end - begin) / POINTS))


def query_of(expression, begin, end):
    expression = expression.replace("$__rate_interval", RATE_INTERVAL).replace("$__range", f"{int(end - begin)}s")
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression


def of(prometheus, begin, end, boards=None):
    """Every panel of every dashboard, by dashboard, of the time from `begin` to `end`."""
    shown = {}
    for name, board in dashboards.all_of_them().items():
        if boards and name not in boards:
            continue
        shown[name] = [
            Panel(
                name,
                made,
                [
                    prometheus.over(query_of(target["expr"], begin, end), begin, end, step_of(begin, end))
                    for target in made["targets"]
                ],
            )
            for made in board["panels"]
            if made["type"] != "row"
        ]
    return shown


def unmet_variables(prometheus):
    """Variables of dashboards that would have nothing to choose."""
    found = []
    for name, board in dashboards.all_of_them().items():
        for variable in board["templating"]["list"]:
            if variable["type"] != "query":
                continue
            series, _, label = variable["query"]["query"].removeprefix("label_values(")[:-1].rpartition(", ")
            for placeholder, value in VARIABLES.items():
                series = series.replace(placeholder, value)
            got = prometheus.ask("series", **{"match[]": series})
            if not {one.get(label) for one in got} - {None}:
                found.append(f"{name}: nothing to choose for {variable['label']}")
    return found
