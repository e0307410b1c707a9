"""When alerts fire and when they do not, by Prometheus itself where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.sources import ROOT

RULES = ROOT / "deploy" / "prometheus"


def promtool(*arguments: str, folder: Path = RULES) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool, which comes with Prometheus, is not installed: alerts are parsed, and not evaluated")
    return subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_the_rules_are_good_to_prometheus() -> None:
    run = promtool("check", "rules", "alerts.yml")
    assert run.returncode == 0, run.stdout + run.stderr


def test_alerts_fire_when_they_should() -> None:
    run = promtool("test", "rules", "alerts.test.yml")
    assert run.returncode == 0, run.stdout + run.stderr


def test_an_alert_that_does_not_fire_is_noticed(tmp_path: Path) -> None:
    for name in ("alerts.yml", "alerts.test.yml"):
        text = (RULES / name).read_text()
        (tmp_path / name).write_text(text.replace("aigw_facts_publish_lag_seconds > 300", "up > 300"))
    assert promtool("test", "rules", "alerts.test.yml", folder=tmp_path).returncode == 1


def test_what_pages_is_tried() -> None:
    rules = [rule for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
    tried = (RULES / "alerts.test.yml").read_text()
    assert [
        rule["alert"] for rule in rules if rule["labels"]["severity"] == "page" and rule["alert"] not in tried
    ] == []
