"""The plot of a run, and the peer that a run starts itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import nginx, plot, report
from bench.modes import COLUMNS
from bench.servers import StartError

DOCS = Path(__file__).resolve().parent.parent / "docs" / "explanation"
SVG = "{http://www.w3.org/2000/svg}"


def document() -> dict[str, Any]:
    """Three servers, with ratios that are told apart; ``direct`` has costs of no process."""
    results: dict[str, list[report.Row]] = {
        "direct | c=32": [{"per_s": 9e4, "p99_ms": 0.5}] * 3,
        "go & co | c=32": [{"cpu_us": 200.0, "per_s": 4e3, "p99_ms": 16.0}] * 3,
        "aigw | c=32": [{"cpu_us": us, "per_s": 8e3, "p99_ms": 8.0} for us in (90.0, 80.0, 130.0)],
        "nginx | c=32": [{"cpu_us": us, "per_s": 5e4, "p99_ms": 2.0} for us in (15.0, 17.0, 19.0)],
    }
    streams: dict[str, list[report.Row]] = {
        "go & co | streams=1000": [{"cpu_us": 50.0, "added_p99_ms": 4.0}] * 3,
        "aigw | streams=1000": [{"cpu_us": 37.0, "added_p99_ms": ms} for ms in (1.0, -0.2, 1.0)],
    }
    modes = {"json": results, "sse": streams}
    summaries = {mode: report.summarise(rows, COLUMNS[mode], baseline="go & co") for mode, rows in modes.items()}
    return {
        "baseline": "go & co",
        "rounds": 3,
        "modes": {mode: {"summary": summary, "rounds": modes[mode]} for mode, summary in summaries.items()},
    }


def texts(svg: str) -> list[str]:
    """Every text element, in order. Raises ParseError unless it is well-formed."""
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_every_median_is_in_the_plot() -> None:
    found = texts(plot.draw(document()))
    at = found.index("JSON exchange, 32 connections: CPU µs/request")
    rows = [found[at + 1 + n * 4 : at + 5 + n * 4] for n in range(3)]
    assert rows == [
        ["go & co", "1.00", "1.00 … 1.00", "200.0"],
        ["aigw", "0.45", "0.40 … 0.65", "90.0"],
        ["nginx", "0.085", "0.075 … 0.095", "17.0"],
    ]
    assert "Event streams, 1,000 streams: CPU µs/event" in found
    assert "direct" not in found


def test_a_ratio_that_has_no_place_on_the_axis_is_left_out() -> None:
    latency = [panel for panel in plot.panels(document()) if panel.heading.endswith("added p99 ms")]
    assert [[line.target for line in panel.lines] for panel in latency] == [["go & co"]]


def test_marks_stand_where_their_ratios_are() -> None:
    root = ElementTree.fromstring(plot.draw(document()))
    ticks = [text for text in root.iter(f"{SVG}text") if text.get("y") == "80" and "middle" in text.get("class", "")]
    places = {text.text: float(text.get("x", "")) for text in ticks}
    assert list(places) == ["0.05", "0.1", "0.2", "0.5", "1", "2"]
    dots = [float(dot.get("cx", "")) for dot in root.iter(f"{SVG}circle")]
    go, ours, bare = dots[:3]
    assert go == pytest.approx(places["1"], abs=0.1)
    assert places["0.2"] < ours < places["0.5"]
    assert places["0.05"] < bare < places["0.1"]
    assert places["1"] - places["0.5"] == pytest.approx(places["0.2"] - places["0.1"], abs=0.2)
    assert ["ours" in dot.get("class", "") for dot in root.iter(f"{SVG}circle")][:3] == [False, True, False]


def test_both_schemes_have_their_colours() -> None:
    style = ElementTree.fromstring(plot.draw(document())).findtext(f"{SVG}style")
    assert style is not None
    light, _, dark = style.partition("@media (prefers-color-scheme: dark) {")
    coloured = [line.partition(" {")[0] for line in light.splitlines() if "fill:" in line or "stroke:" in line]
    assert [name for name in coloured if f"\n{name} {{" not in dark] == []


def test_a_plot_is_drawn_again_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(report.as_json(document()))
    assert plot.main([str(tmp_path / "run.json"), str(tmp_path / "run.svg")]) == 0
    assert texts((tmp_path / "run.svg").read_text()) == texts(plot.draw(document()))


def test_the_plot_of_the_docs_is_that_of_the_run_beside_it() -> None:
    run = json.loads((DOCS / "side-by-side.json").read_text())
    assert (DOCS / "side-by-side.svg").read_text() == plot.draw(run)
    found = texts(plot.draw(run))
    drawn = [line for panel in plot.panels(run) for line in panel.lines]
    assert {line.target for line in drawn} >= {"go", "nginx", "aigw"}
    assert all(plot.number(line.ratio["median"]) in found for line in drawn)
    page = (DOCS / "performance.md").read_text()
    assert "](side-by-side.svg)" in page
    assert "](side-by-side.json)" in page


# nginx

NGINX = pytest.mark.skipif(
    shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin") is None,
    reason="nginx is not installed",
)


@NGINX
def test_nginx_is_measured_beside(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    tiny = "--mode json,sse --rounds 1 --seconds 0.1 --concurrency 2 --streams 2 --events 3 --provider-port 0"
    # In a process of its own: a run pins itself to a core and switches the collector off.
    command = [sys.executable, "-m", "bench.run", *tiny.split(), "--nginx", "--tls", "--baseline", "nginx"]
    done = subprocess.run([*command, "--json", str(out)], capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["bodies_equal"] == dict.fromkeys(("direct", "nginx", "nginx-tls", "aigw", "aigw-tls"), True)
    for name in ("nginx", "nginx-tls"):
        entry = found["modes"]["json"]["summary"][f"{name} | c=2"]
        assert entry["ratios"]["cpu_us"]["median"] == 1
        assert entry["figures"]["cpu_us"]["median"] > 0
        assert found["modes"]["sse"]["rounds"][f"{name} | streams=2"][0]["complete_percent"] == 100


def test_without_nginx_a_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(StartError, match=r"nginx is not installed .*apt install nginx-light"):
        nginx.find_nginx()


def test_the_key_of_the_provider_stays_behind_nginx(tmp_path: Path) -> None:
    plain = nginx.configuration(tmp_path, 1234, "http://127.0.0.1:9100", None)
    assert "listen 127.0.0.1:1234 " in plain
    assert "proxy_pass http://provider/;" in plain
    assert "server 127.0.0.1:9100;" in plain
    assert '"Bearer sk-test" "Bearer sk-upstream";' in plain
    assert "proxy_ssl" not in plain
    secure = nginx.configuration(tmp_path, 1234, "https://localhost:9101", tmp_path / "ca.pem")
    assert "proxy_pass https://provider/;" in secure
    assert "proxy_ssl_verify on;" in secure
