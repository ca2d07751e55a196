"""All dashboards, each from a module of its own: which question each panel answers stands there."""

from boards import commands, connections, kafka, loadtest, overview, rollout, saturation


def all_of_them():
    """Each dashboard by the name of its file."""
    modules = (overview, connections, kafka, commands, rollout, saturation, loadtest)
    made = [module.made() for module in modules]
    return {one["uid"].removeprefix("tidegate-"): one for one in made}


def queries():
    """Every query: its dashboard, its panel, and itself."""
    for one in all_of_them().values():
        for panel in one["panels"]:
            for target in panel.get("targets", []):
                yield one["title"], panel["title"], target["expr"]
