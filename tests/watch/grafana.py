"""The dashboards as TypeScript, held against the types that Grafana publishes (npm: @grafana/schema)."""

import json
import os
import pathlib
import re
import subprocess
import tempfile

import dashboards
import panels

PACKAGES = ["@grafana/schema@13.2.3", "typescript@5.9.3"]
FOLDER = pathlib.Path(os.environ["TIDEGATE_WATCH_CACHE"]) / "grafana"
TYPES = "node_modules/@grafana/schema/dist/types/raw"
KINDS = {"timeseries": "timeseries", "stat": "stat", "heatmap": "heatmap", "state-timeline": "statetimeline"}
# An enum of TypeScript takes no plain text, though that is what it stands for in JSON.
HEAD = (
    'import type { Dashboard } from "@grafana/schema";\n'
    "type Plain<T> = T extends string ? `${T}` : T extends (infer U)[] ? Plain<U>[] : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;\n"
)


def fetch():
    """The packages, beside each other, once."""
    done = FOLDER / ".complete"
    if done.exists() and done.read_text() == "\n".join(PACKAGES):
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "package.json").write_text("{}")
    npm = [
        "npm",
        "install",
        "--silent",
        "--no-audit",
        "--no-fund",
        "--no-package-lock",
        "--ignore-scripts",
        "--no-save",
    ]
    subprocess.run([*npm, *PACKAGES], cwd=FOLDER, check=True, stdout=subprocess.DEVNULL)
    done.write_text("\n".join(PACKAGES))


def typed(made):
    """Dashboards, and the options and curves of their panels, each with its type."""
    text = HEAD
    for module in KINDS.values():
        text += f'import type * as {module} from "../{TYPES}/composable/{module}/panelcfg/x/types.gen.js";\n'
    for number, one in enumerate(made):
        text += f"export const dashboard{number}: Plain<Dashboard> = {json.dumps(one)};\n"
        for panel in one["panels"]:
            if panel["type"] == "row":
                continue
            module, name = KINDS[panel["type"]], f"panel{number}_{panel['id']}"
            text += f"export const {name}: Plain<Partial<{module}.Options>> = {json.dumps(panel['options'])};\n"
            if panel["type"] != "stat":
                text += f"export const {name}c: Plain<{module}.FieldConfig> = {json.dumps(panel['fieldConfig']['defaults']['custom'])};\n"
    return text


def errors(made):
    """What the compiler says, each with the start of the line it is about."""
    fetch()
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        file = pathlib.Path(folder) / "dashboards.ts"
        file.write_text(typed(made))
        flags = [
            "--noEmit",
            "--strict",
            "--skipLibCheck",
            "--moduleResolution",
            "bundler",
            "--module",
            "esnext",
            "--target",
            "es2022",
            "--pretty",
            "false",
        ]
        run = subprocess.run([FOLDER / "node_modules" / ".bin" / "tsc", *flags, file], capture_output=True, text=True)
    found = [line for line in run.stdout.splitlines() if "error TS" in line]
    return found or ([run.stdout + run.stderr] if run.returncode else [])


def check():
    made = list(dashboards.all_of_them().values())
    found = errors(made)
    current = re.search(
        r"schemaVersion: (\d+)",
        (FOLDER / "node_modules/@grafana/schema/dist/esm/raw/dashboard/x/types.gen.mjs").read_text(),
    )
    if int(current[1]) != panels.SCHEMA_VERSION:
        found.append(f"schemaVersion is {panels.SCHEMA_VERSION}, and Grafana's {current[1]}")
    wrong = json.loads(json.dumps(made[0]))
    wrong["graphTooltip"] = 7
    wrong["panels"][1]["fieldConfig"]["defaults"]["thresholds"]["mode"] = "absolut"
    wrong["panels"][1]["options"]["colorMode"] = "rainbow"
    wrong["panels"][2]["gridPos"]["z"] = 1
    seen = len(errors([wrong]))
    if seen < 4:
        found.append(f"of four planted mistakes {seen} were found")
    return found, f"{len(made)} dashboards against {PACKAGES[0]}, and four planted mistakes"
