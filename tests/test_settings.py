"""The environment, read once and judged as a whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway import settings
from gateway.addresses import DEFAULT_MONITOR_HOSTS, HostPattern
from gateway.settings import Settings, SettingsError

DEFAULTS = {
    "upstream_url": "https://graph.microsoft.com",
    "host": "127.0.0.1",
    "port": 8000,
    "public_url": None,
    "monitor_hosts": DEFAULT_MONITOR_HOSTS,
    "operator_key": None,
    "secret_key": None,
    "cors_origins": (),
    "copy_timeout": 60,
    "poll_min": 0.5,
    "poll_max": 30,
    "poll_rate": 500,
    "poll_patience": 1800,
    "job_deadline": 86400,
    "retention": 86400,
    "heartbeat": 15,
    "send_timeout": 10,
    "stream_max_age": 3600,
    "max_streams": 10000,
    "max_jobs": 10000,
    "log_limit": 256,
    "callback_allow": (),
    "drain": 10,
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("GATEWAY_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults(name: str) -> None:
    """Each is what the contract's table says."""
    assert getattr(settings.read(), name) == DEFAULTS[name]


def test_all_that_is_wrong_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each wrong setting, with what is allowed; secrets are not shown."""
    wrong = {
        "PORT": "x",
        "POLL_MIN": "0",
        "POLL_RATE": "nan",
        "OPERATOR_KEY": "too-short",
        "UPSTREAM_URL": "http://example.com",
        "HOST": "0.0.0.0",
        "MONITOR_HOSTS": "ok.com,https://no.com",
        "CORS_ORIGINS": "https://a.com/path",
        "STORE_URL": "mysql://x",
        "LOG_LIMIT": "1",
        "CALLBACK_ALLOW": "10.0.0.1/8",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(f"GATEWAY_{name}", value)
    with pytest.raises(SettingsError) as caught:
        settings.read()
    named = {problem.split(":")[0] for problem in caught.value.problems}
    assert named == {f"GATEWAY_{name}" for name in wrong if name != "HOST"} | {"GATEWAY_PUBLIC_URL"}
    assert "too-short" not in str(caught.value)
    assert "at least 16 characters" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("UPSTREAM_URL", "ftp://x"),
        ("UPSTREAM_URL", "https://user@graph.microsoft.com"),
        ("UPSTREAM_URL", "https://graph.microsoft.com?x=1"),
        ("PUBLIC_URL", "gateway.example.com"),
        ("POLL_MAX", "0.1"),
        ("HEARTBEAT", "inf"),
        ("HEARTBEAT", "-1"),
        ("MAX_JOBS", "0"),
        ("STORE_URL", "sqlite://"),
        ("STORE_URL", "sqlite:///"),
        ("CORS_ORIGINS", "a.com"),
    ],
)
def test_wrong_ones(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Each is refused by its name."""
    monkeypatch.setenv(f"GATEWAY_{name}", value)
    with pytest.raises(SettingsError, match=f"GATEWAY_{name}"):
        settings.read()


def test_lists_paths_and_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are comma-separated; an empty value is no value."""
    monkeypatch.setenv("GATEWAY_MONITOR_HOSTS", " *.a.com:444 , b.c ,")
    monkeypatch.setenv("GATEWAY_CORS_ORIGINS", "https://a.com,http://localhost:3000")
    monkeypatch.setenv("GATEWAY_CALLBACK_ALLOW", "10.0.0.0/8,fd00::/8")
    monkeypatch.setenv("GATEWAY_STORE_URL", "sqlite:////var/x.db")
    monkeypatch.setenv("GATEWAY_PUBLIC_URL", "https://g.example.com/base/")
    monkeypatch.setenv("GATEWAY_PORT", "")
    read = settings.read()
    assert read.monitor_patterns == (HostPattern("*.a.com", 444), HostPattern("b.c", 443))
    assert read.cors_origins == ("https://a.com", "http://localhost:3000")
    assert [str(network) for network in read.callback_networks] == ["10.0.0.0/8", "fd00::/8"]
    assert read.store_path == Path("/var/x.db")
    assert read.public_url == "https://g.example.com/base"
    assert read.port == 8000


def test_the_store_lies_in_the_state_folder_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Under XDG_STATE_HOME, in a folder that only its owner can enter."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = Settings().store_path
    assert path == tmp_path / "state" / "copy-gateway" / "gateway.db"
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_misspelt_names_are_noticed() -> None:
    """A name that only looks like a setting is told."""
    given = {"GATEWAY_POL_MIN": "1", "GATEWAY_PORT": "1", "GATEWAY_URL": "http://127.0.0.1:8000", "PATH": ""}
    assert settings.unknown(given) == ["GATEWAY_POL_MIN"]
