"""The dashboard and the alerts of docs/grafana."""

from __future__ import annotations

import json
import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "grafana"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
ALERTS = FOLDER / "alerts.yml"


def expressions() -> list[str]:
    """The dashboard's queries, with Grafana's variables filled in."""
    values = {"__rate_interval": "5m", "__range": "1h"}
    return [
        re.sub(r"\$(\w+)", lambda found: values.get(found[1], ".*"), target["expr"])
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    ]
