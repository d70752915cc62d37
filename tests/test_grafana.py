"""The dashboard and the alert rules in docs/grafana, as their own tools see them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from grafana import ALERTS, DASHBOARD, expressions
from ringdispatch.prometheus import DispatcherCollector

PANELS = [panel["title"] for panel in DASHBOARD["panels"]]

# Options of newer schemas, which require them, that the classes do not know.
NEWER = {"percentChangeColorMode", "showPercentChange", "wideLayout"}

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="not installed: promtool"
)


def metrics() -> set[str]:
    names = set()
    for family in DispatcherCollector().describe():
        suffix = "_total" if family.type == "counter" else ""
        names.add(f"{family.name}{suffix}")
    return names


def promtool(*arguments: str) -> None:
    ended = subprocess.run(
        ["promtool", *arguments], capture_output=True, check=False, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


# ---- the dashboard


def test_dashboard_has_only_what_grafanas_schema_knows() -> None:
    """Classes made of Grafana's schema read it, and write all of it again."""
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins

    register_default_plugins()
    read = models.Dashboard.from_json(DASHBOARD)
    written = json.loads(JSONEncoder(sort_keys=True).encode(read))
    assert missing(DASHBOARD, written, "dashboard") == []


def missing(ours: Any, theirs: Any, where: str) -> list[str]:
    """What of ours is not among theirs, which may have more, by default."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = [(f"{where}.{key}", key) for key in ours if key not in NEWER]
        pairs = [(place, ours[key], theirs.get(key)) for place, key in keys]
    elif isinstance(ours, list) and len(ours) == len(theirs):
        pairs = [(f"{where}[]", *both) for both in zip(ours, theirs, strict=True)]
    else:
        return [] if ours == theirs else [f"{where}: {ours!r}, {theirs!r}"]
    return [line for place, *both in pairs for line in missing(*both, place)]


def test_dashboard_shows_every_metric_and_no_other() -> None:
    used = set(re.findall(r"ringdispatch_\w+", " ".join(expressions())))
    assert used == metrics()


def test_panels_have_their_place() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len(set(PANELS)) == len({each["id"] for each in DASHBOARD["panels"]}) == 12


@needs_promtool
def test_queries_of_the_dashboard_parse(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": text}
        for number, text in enumerate(expressions())
    ]
    path = tmp_path / "rules.json"  # which is YAML
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(path))


# ---- the alerts


@needs_promtool
def test_promtool_finds_four_good_rules() -> None:
    promtool("check", "rules", "--lint-fatal", str(ALERTS))
    names = re.findall(r"alert: (\w+)", ALERTS.read_text(encoding="utf-8"))
    assert len(names) == 4


# What each alert fires at: series over time, and when it has fired.
FIRES = {
    "RingdispatchDrops": {
        'ringdispatch_entries_dropped_total{reason="evicted",': "0+0x5 0+10x15",
    },
    "RingdispatchFailures": {
        'ringdispatch_batches_total{outcome="failed",': "0+1x20",
    },
    "RingdispatchOldEntries": {
        "ringdispatch_oldest_entry_age_seconds{": "0+30x20",
    },
    "RingdispatchNearlyFull": {
        "ringdispatch_entries_pending{": "900x20",
        "ringdispatch_entries_capacity{": "1000x20",
    },
    "of bytes": {
        "ringdispatch_pending_bytes{": "900x20",
        "ringdispatch_capacity_bytes{": "1000x20",
        "ringdispatch_entries_pending{": "1x20",
        "ringdispatch_entries_capacity{": "1000x20",
    },
    "nothing": {
        'ringdispatch_entries_dropped_total{reason="evicted",': "7x20",
        'ringdispatch_batches_total{outcome="failed",': "7x20",
        'ringdispatch_batches_total{outcome="dispatched",': "0+100x20",
        "ringdispatch_oldest_entry_age_seconds{": "10x20",
        "ringdispatch_entries_pending{": "100x20",
        "ringdispatch_entries_capacity{": "1000x20",
    },
}


@needs_promtool
@pytest.mark.parametrize("case", FIRES)
def test_alert_fires_when_it_should(case: str, tmp_path: Path) -> None:
    labels = 'dispatcher="send",instance="a",job="shop"}'
    series = [
        {"series": f"{name}{labels}", "values": values}
        for name, values in FIRES[case].items()
    ]
    fires = {"of bytes": "RingdispatchNearlyFull", "nothing": None}.get(case, case)
    names = re.findall(r"alert: (\w+)", ALERTS.read_text(encoding="utf-8"))
    # promtool compares the labels and annotations of what fires: ask for the series.
    tests = [
        {
            "expr": f'count by (alertname) (ALERTS{{alertname="{name}",'
            'alertstate="firing",dispatcher="send",job="shop"})',
            "eval_time": "20m",
            "exp_samples": [
                {"labels": f'{{alertname="{name}"}}', "value": 1},
            ]
            if name == fires
            else [],
        }
        for name in names
    ]
    path = tmp_path / "tests.json"
    one = {"interval": "1m", "input_series": series, "promql_expr_test": tests}
    path.write_text(json.dumps({"rule_files": [str(ALERTS)], "tests": [one]}))
    promtool("test", "rules", str(path))
