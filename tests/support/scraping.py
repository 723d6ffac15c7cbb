"""What a gateway tells Prometheus, read by Prometheus' own parser."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.support.harness import Running

Series = tuple[str, frozenset[tuple[str, str]]]


async def scraped(gateway: Running, accept: str = "") -> str:
    async with gateway.session.get(f"{gateway.url}/metrics", headers={"Accept": accept}) as response:
        assert response.status == 200
        return await response.text()


def families(text: str) -> dict[str, Metric]:
    """By name; a counter's is without `_total`."""
    return {family.name: family for family in text_string_to_metric_families(text)}


def series(text: str) -> dict[Series, float]:
    """Every series and its value."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families(text).values()
        for sample in family.samples
    }


def value(found: Mapping[Series, float], name: str, **labels: str) -> float:
    return found[(name, frozenset(labels.items()))]
