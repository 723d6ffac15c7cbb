"""What a proxy says of the request's scheme and host, beside the URLs that are handed out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_upstream import faking
from tests.support.harness import TOKEN, serving

ITEM = "/v1.0/me/drive/items/1"
PUBLIC = "https://gateway.example.com"


def told(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record)["fields"] for record in caplog.records if record.msg == "forwarded_mismatch"]


@pytest.mark.parametrize(
    ("headers", "public_url", "mismatches"),
    [
        ({}, PUBLIC, {}),
        ({"X-Forwarded-Proto": "https", "X-Forwarded-Host": "gateway.example.com"}, PUBLIC, {}),
        ({"X-Forwarded-Proto": "HTTPS", "X-Forwarded-Host": "GATEWAY.example.com:443"}, PUBLIC, {}),
        ({"X-Forwarded-Proto": "https,http", "X-Forwarded-Host": "gateway.example.com, inner"}, PUBLIC, {}),
        ({"X-Forwarded-Host": "gateway.example.com"}, f"{PUBLIC}:8443/base", {}),
        ({"Forwarded": 'for=1.2.3.4;Host="gateway.example.com:8443"; PROTO=https, for=x'}, f"{PUBLIC}:8443", {}),
        ({"X-Forwarded-Proto": "http"}, PUBLIC, {"proto": "http"}),
        ({"X-Forwarded-Proto": "http, https"}, PUBLIC, {"proto": "http"}),
        ({"Forwarded": "for=1.2.3.4; proto=http", "X-Forwarded-Proto": "https"}, PUBLIC, {"proto": "http"}),
        ({"X-Forwarded-Host": "Other.example.com"}, PUBLIC, {"host": "other.example.com"}),
        ({"X-Forwarded-Host": "gateway.example.com:8443"}, PUBLIC, {"host": "gateway.example.com:8443"}),
        ({"Forwarded": 'host="[2001:db8::1]:80"; proto=http'}, PUBLIC, {"host": "[2001:db8::1]:80", "proto": "http"}),
        ({"X-Forwarded-Proto": "https"}, None, {"proto": "https"}),
        ({"X-Forwarded-Host": "gateway.example.com"}, None, {"host": "gateway.example.com"}),
        ({"X-Forwarded-Host": "g:99999", "Host": "h:99999"}, None, {"host": "g:99999"}),
        ({"X-Forwarded-Host": "g", "Host": "[::::]:1"}, None, {"host": "g"}),
        ({"X-Forwarded-Proto": "wss", "X-Forwarded-Host": 'a b"c'}, PUBLIC, {}),
        ({"X-Forwarded-Host": "e" * 261}, PUBLIC, {}),
        ({"X-Forwarded-Host": "user@host", "Forwarded": "host=;proto;;=,"}, PUBLIC, {}),
    ],
)
async def test_a_mismatch_is_told(
    headers: dict[str, str],
    public_url: str | None,
    mismatches: dict[str, str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once for the scheme and once for the host, whatever comes later; the URLs are not changed by it."""
    async with faking() as upstream, serving(upstream.url, tmp_path, public_url=public_url) as gateway:
        job = await gateway.copy(ITEM, headers={**TOKEN, **headers})
        base = public_url or f"http://{headers.get('Host', gateway.url.removeprefix('http://'))}"
        assert job["events"] == f"{base}/jobs/{job['jobId']}/events"
        found = told(caplog)
        assert {fields["what"]: fields["forwarded"] for fields in found} == mismatches
        assert len(found) == len(mismatches)
        for fields in found:
            assert fields["base"] == base
            assert job["jobId"] not in str(fields)
        for number in range(3):
            more = {"X-Forwarded-Host": f"h{number}.example.com", "X-Forwarded-Proto": "http"}
            await gateway.copy(ITEM, headers={**TOKEN, **more})
        assert [fields["what"] for fields in told(caplog)].count("host") == 1
        assert len(told(caplog)) <= 2
        assert {record.levelno for record in caplog.records if record.msg == "forwarded_mismatch"} == {logging.WARNING}


async def test_what_hands_out_no_url_tells_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It matters to nobody there."""
    async with faking() as upstream, serving(upstream.url, tmp_path, public_url=PUBLIC) as gateway:
        for path in ("/healthz", "/readyz", "/metrics", "/jobs/none", ITEM):
            async with gateway.session.get(gateway.url + path, headers={"X-Forwarded-Host": "other"}):
                pass
    assert told(caplog) == []
