"""The alert rules and the dashboard in deploy/: of metrics that are there, and each rule fires when it should."""

from __future__ import annotations

import json
import os
import re
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.fake_upstream import faking
from tests.support.harness import serving
from tests.support.programs import program
from tests.support.scraping import families, scraped

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
RULES = DEPLOY / "alerts.yml"
PAGE = (DEPLOY / "WATCHING.md").read_text()
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
ALERTS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
PROMETHEUS_OWN = {"up"}
G = 'job="gateway",instance="g"'
POLLS = f'gateway_polls_total{{{G},host_class="sharepoint",outcome="%s"}}'


def rising(bucket: str, a_minute: int, above: int) -> dict[str, str]:
    """A histogram of which so many observations a minute are beyond its bucket of so many seconds."""
    return {
        f'{bucket}{{{G},le="{above}"}}': "0x60",
        f'{bucket}{{{G},le="+Inf"}}': f"0+{a_minute}x60",
    }


FIRES: dict[str, dict[str, str]] = {
    "GatewayDown": {f"up{{{G}}}": "1 0x60"},
    "GatewayStoreAway": {f"gateway_store_up{{{G}}}": "1 0x60"},
    "GatewayStoreSlow": rising("gateway_store_write_duration_seconds_bucket", 60, 2),
    "GatewayVerdictsHeld": {f"gateway_verdicts_held{{{G}}}": "0 3x60"},
    "GatewayLeaseNotHeld": {f"gateway_lease_held{{{G}}}": "1 0x60"},
    "GatewayLeasesFlapping": {f"gateway_leases_lost_total{{{G}}}": "0+1x60"},
    "GatewayCopiesUnknown": {f'gateway_copies_total{{{G},outcome="outcomeUnknown"}}': "0x30 1x30"},
    "GatewayJobsLost": {f'gateway_jobs_lost_total{{{G},reason="monitorExpired"}}': "0x30 1x30"},
    "GatewayJobsNearLimit": {f"gateway_jobs_running{{{G}}}": "90x60", f"gateway_jobs_limit{{{G}}}": "100x60"},
    "GatewayPollsLate": rising("gateway_poll_lag_seconds_bucket", 60, 10),
    "GatewayPollsFailing": {POLLS % "timed_out": "0+6x60", POLLS % "answered": "0+1x60"},
    "GatewayThrottled": {POLLS % "throttled": "0+6x60", POLLS % "answered": "0+6x60"},
    "GatewayStreamsRefused": {f'gateway_streams_refused_total{{{G},reason="full"}}': "0+1x60"},
    "GatewayStreamsNearLimit": {f"gateway_streams_open{{{G}}}": "90x60", f"gateway_streams_limit{{{G}}}": "100x60"},
    "GatewayPushSlow": rising("gateway_push_latency_seconds_bucket", 60, 2),
    "GatewayCallbacksExhausted": {f"gateway_callbacks_exhausted_total{{{G}}}": "0x30 1x30"},
    "GatewayCallbacksFailing": {
        f'gateway_callback_attempts_total{{{G},outcome="failed"}}': "0+6x60",
        f'gateway_callback_attempts_total{{{G},outcome="delivered"}}': "0+1x60",
    },
    "GatewayDescriptorsLow": {f"process_open_fds{{{G}}}": "95x60", f"process_max_fds{{{G}}}": "100x60"},
    "GatewayErrors": {
        f'gateway_requests_total{{{G},route="/jobs",code="5xx"}}': "0+6x60",
        f'gateway_requests_total{{{G},route="/jobs",code="2xx"}}': "0+6x60",
    },
}
"""By alert, what is seen in an hour, a value a minute, at whose end it fires."""
CALM = {
    f"up{{{G}}}": "1x60",
    f"gateway_store_up{{{G}}}": "1x60",
    f"gateway_verdicts_held{{{G}}}": "0x60",
    f"gateway_lease_held{{{G}}}": "1x60",
    f"gateway_leases_lost_total{{{G}}}": "1x60",
    f'gateway_copies_total{{{G},outcome="outcomeUnknown"}}': "7x60",
    f'gateway_copies_total{{{G},outcome="started"}}': "0+9x60",
    f'gateway_jobs_lost_total{{{G},reason="watchStopped"}}': "0+9x60",
    f"gateway_jobs_running{{{G}}}": "70x60",
    f"gateway_jobs_limit{{{G}}}": "100x60",
    POLLS % "answered": "0+60x60",
    POLLS % "throttled": "0+6x60",
    POLLS % "no_answer": "0+6x60",
    f'gateway_streams_refused_total{{{G},reason="draining"}}': "0+9x60",
    f'gateway_streams_refused_total{{{G},reason="full"}}': "5x60",
    f"gateway_streams_open{{{G}}}": "70x60",
    f"gateway_streams_limit{{{G}}}": "100x60",
    f"gateway_callbacks_exhausted_total{{{G}}}": "4x60",
    f'gateway_callback_attempts_total{{{G},outcome="failed"}}': "0+2x60",
    f'gateway_callback_attempts_total{{{G},outcome="delivered"}}': "0+9x60",
    f"gateway_drain_elapsed_seconds{{{G}}}": "0x60",
    f"gateway_drain_limit_seconds{{{G}}}": "10x60",
    f"process_open_fds{{{G}}}": "70x60",
    f"process_max_fds{{{G}}}": "100x60",
    f'gateway_requests_total{{{G},route="/jobs",code="5xx"}}': "0+1x60",
    f'gateway_requests_total{{{G},route="/jobs",code="2xx"}}': "0+60x60",
    **{
        f'{name}_bucket{{{G},le="{le}"}}': "0+60x60"
        for name in ("gateway_store_write_duration_seconds", "gateway_poll_lag_seconds", "gateway_push_latency_seconds")
        for le in ("0.5", "+Inf")
    },
}
"""An hour in which nothing is wrong, though not nothing happened before it."""


def promtool(*arguments: str) -> str:
    """What it complains of."""
    command = [program("promtool", package="prometheus"), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended.stdout + ended.stderr if ended.returncode else ""


def first_queries() -> dict[str, str]:
    """By alert, the query that its part of the page begins with."""
    return dict(re.findall(r"(?m)^### (Gateway\w+)\n\n    (.+)\n\n\S", PAGE))


def expressions() -> list[str]:
    """The dashboard's, with its variables set."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    found += [annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]]
    return [expr.replace("$__rate_interval", "1m").replace("$instance", ".+") for expr in found]


@pytest.fixture
async def series(tmp_path: Path) -> set[str]:
    """The names of all that a gateway tells, and of its histograms' parts."""
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        found = families(await scraped(gateway)).values()
    return {sample.name for family in found for sample in family.samples}


async def test_what_they_ask_for_is_told(series: set[str]) -> None:
    """Every metric that an alert, its first query or a panel names; and every label it matches or sums by."""
    for expr in (*(alert["expr"] for alert in ALERTS), *first_queries().values(), *expressions()):
        bare = re.sub(r'"[^"]*"|\[[^\]]*\]|\bby \([^)]*\)|\{[^}]*\}', "", expr)
        names = set(re.findall(r"\b[a-z]+_[a-z0-9_]+\b(?!\s*\()", bare)) | (PROMETHEUS_OWN & set(bare.split("{")))
        assert names or "up" in bare, expr
        assert names <= series | PROMETHEUS_OWN, (expr, names - series)


async def test_the_dashboard_shows_all(series: set[str]) -> None:
    """Nothing of the gateway's own is counted in vain: each has its panel."""
    shown = " ".join(expressions()) + json.dumps(DASHBOARD["templating"])
    own = {re.sub(r"_(bucket|sum|count)$", "", name) for name in series if name.startswith("gateway_")}
    assert {name for name in own if name not in shown} == {"gateway_draining"}  # drain_elapsed_seconds tells more


def test_the_dashboard_can_be_imported() -> None:
    """What Grafana wants of one: ids that differ, panels that do not lie on each other, a data source to choose."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        columns, lines = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        area = set(product(columns, lines))
        assert not area & taken, panel["title"]
        assert all(0 <= x < 24 for x, _ in area)
        taken |= area
        assert panel["type"] == "row" or panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(references)) == len(references)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels)))
    assert used <= variables | {"__rate_interval"}
    assert isinstance(DASHBOARD["schemaVersion"], int)
    assert DASHBOARD["uid"]


def test_the_expressions_are_promql(tmp_path: Path) -> None:
    """As Prometheus' own parser takes them, for alerts, first queries and panels alike."""
    assert promtool("check", "rules", str(RULES)) == ""
    queries = (*first_queries().values(), *expressions())
    recorded = [{"record": f"query:{number}", "expr": expr} for number, expr in enumerate(queries)]
    written = tmp_path / "queries.yml"
    written.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    assert promtool("check", "rules", str(written)) == ""


def test_each_alert_fires_when_it_should(tmp_path: Path) -> None:
    """On what it is there for, and none on an hour in which nothing is wrong."""
    assert set(FIRES) == {alert["alert"] for alert in ALERTS}
    tests = []
    for alert in ALERTS:
        name = alert["alert"]
        seen = {f"up{{{G}}}": "1x60", **FIRES[name]}
        firing = f"count by (alertname) (ALERTS{{alertname='{name}',alertstate='firing'}})"
        tests.append(case(seen, firing, name))
    tests.append(case(CALM, "count(ALERTS)", None))
    written = tmp_path / "test.yml"
    written.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    assert promtool("test", "rules", str(written)) == ""


def case(seen: dict[str, str], expr: str, name: str | None) -> dict[str, Any]:
    samples = [] if name is None else [{"labels": f'{{alertname="{name}"}}', "value": 1}]
    return {
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in seen.items()],
        "promql_expr_test": [{"expr": expr, "eval_time": "40m", "exp_samples": samples}],
    }


def test_each_alert_says_what_to_do() -> None:
    """What is wrong, what it means, and where the page has a first query and what to do; the page tells of no other."""
    headings = re.findall(r"^### (Gateway\w+)$", PAGE, re.MULTILINE)
    assert list(first_queries()) == headings
    assert headings == [alert["alert"] for alert in sorted(ALERTS, key=lambda alert: headings.index(alert["alert"]))]
    for alert in ALERTS:
        notes = alert["annotations"]
        assert set(notes) == {"summary", "description", "runbook_url"}
        assert notes["runbook_url"].endswith(f"/WATCHING.md#{alert['alert'].lower()}")
        assert notes["summary"].endswith(".")
        assert alert["labels"]["severity"] in {"critical", "warning"}
        assert "gateway" in alert["expr"]


def test_the_runbooks_are_set_at_once(tmp_path: Path) -> None:
    """The command in the file's head makes every `runbook_url` begin with the operator's own address."""
    rules = tmp_path / "alerts.yml"
    rules.write_text(RULES.read_text())
    found = re.search(r"(?m)^#   (sed .*)$", RULES.read_text())
    assert found is not None
    own = "https://wiki.test/gateway"
    subprocess.run(["sh", "-c", found[1]], cwd=tmp_path, env={**os.environ, "RUNBOOKS": own}, check=True)
    urls = [rule["annotations"]["runbook_url"] for rule in yaml.safe_load(rules.read_text())["groups"][0]["rules"]]
    assert urls == [f"{own}#{alert['alert'].lower()}" for alert in ALERTS]
    assert promtool("check", "rules", str(rules)) == ""
