"""The environment, read once and judged as a whole."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from gateway import settings
from gateway.core.addresses import DEFAULT_MONITOR_HOSTS, HostPattern
from gateway.core.errors import StoreRefused
from gateway.settings import Settings, SettingsError

CHECKOUT = Path(__file__).parent.parent
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
    "log_level": "info",
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
        "POLL_IDENTITY": "managed",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(f"GATEWAY_{name}", value)
    with pytest.raises(SettingsError) as caught:
        settings.read()
    named = {problem.split(":")[0] for problem in caught.value.problems}
    assert named == {f"GATEWAY_{name}" for name in wrong if name != "HOST"} | {"GATEWAY_PUBLIC_URL"}
    assert "too-short" not in str(caught.value)
    assert "at least 16 characters" in str(caught.value)


@pytest.mark.parametrize("value", ["\x01 nonsense", "-1", "https://[", ","])
@pytest.mark.parametrize("name", Settings.model_fields)
def test_nonsense_is_told_in_words(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Whatever a setting is of: it is taken as it stands, or named with what is wrong."""
    monkeypatch.setenv(f"GATEWAY_{name.upper()}", value)
    problems: tuple[str, ...] = ()
    try:
        settings.read()
    except SettingsError as error:
        problems = tuple(error.problems)
    named = [problem for problem in problems if problem.startswith(f"GATEWAY_{name.upper()}: ")]
    assert bool(named) == bool(problems)


def test_what_settings_ask_of_each_other_is_not_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told together with what is wrong with the others themselves."""
    wrong = {"HOST": "http://0.0.0.0:80", "STORE_URL": "postgresql://h:x/db", "PORT": "-1"}
    for name, value in wrong.items():
        monkeypatch.setenv(f"GATEWAY_{name}", value)
    with pytest.raises(SettingsError) as caught:
        settings.read()
    named = [problem.split(":")[0] for problem in caught.value.problems]
    assert named == [f"GATEWAY_{name}" for name in ("STORE_URL", "HOST", "PORT", "PUBLIC_URL", "OPERATOR_KEY")]
    monkeypatch.setenv("GATEWAY_STORE_URL", "mysql://h")
    monkeypatch.setenv("GATEWAY_LISTEN_URL", "postgresql://h/db")
    with pytest.raises(SettingsError, match="GATEWAY_LISTEN_URL: goes with"):
        settings.read()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PORT", "eighty", "must be a whole number from 0 to 65535, such as 8000 (it is 'eighty')"),
        ("HEARTBEAT", "15s", "must be a number of seconds above 0 and up to 31622400, such as 15 (it is '15s')"),
        ("LEASE", "0", "must be a number of seconds from 1 to 3600, such as 10 (it is '0')"),
        ("MAX_JOBS", "-1", "must be a whole number from 1 upwards, such as 10000 (it is '-1')"),
        ("POLL_RATE", "0", "must be a number above 0 and up to 100000, such as 500 (it is '0')"),
        (
            "CORS_ORIGINS",
            "https://ok.com,a.com,b.com/",
            "such as https://app.example.com; what is not: 'a.com', 'b.com/'",
        ),
        ("CALLBACK_ALLOW", "10.0.0.1/8,x", "such as 10.0.0.0/8; what is not: '10.0.0.1/8', 'x'"),
        ("HOST", "localhost:8000", "without a scheme or a port: 127.0.0.1, for example"),
        ("UPSTREAM_URL", "x" * 5000, f"(it is '{'x' * 100}…')"),
    ],
)
def test_what_would_be_right(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    """What it takes, an example, and what is there."""
    monkeypatch.setenv(f"GATEWAY_{name}", value)
    with pytest.raises(SettingsError) as caught:
        settings.read()
    assert words in caught.value.problems[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPERATOR_KEY", "hunter2"),
        ("OPERATOR_KEY", "a-key-that-is-long-enough,hunter2"),
        ("SECRET_KEY", "hunter2"),
        ("SECRET_KEY", "a-key-that-is-long-enough, hunter2"),
        ("STORE_URL", "postgresql://user:hunter2@host:port/db"),
        ("STORE_URL", "postgresql://host:port/db?password=hunter2"),
        ("LISTEN_URL", "mysql://user:hunter2@host/db"),
        ("PUBLIC_URL", "https://user:hunter2@gateway.example.com"),
        ("CORS_ORIGINS", "https://user:hunter2@app.example.com"),
        ("MONITOR_HOSTS", "user:hunter2@host"),
        ("UPSTREAM_PROXY", "https://user:hunter2@proxy.example.com:3128"),
        ("UPSTREAM_PROXY", "http://user:hunter2%40proxy.example.com:3128"),
        ("UPSTREAM_PROXY", "proxy.example.com:3128:user:hunter2"),
        ("UPSTREAM_PROXY", "user:hunter2:proxy.example.com:3128"),
        ("CALLBACK_PROXY", "http:user:hunter2 proxy.example.com:3128"),
        ("CALLBACK_PROXY", "http://user:hunter2@proxy.example.com"),
    ],
)
def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Neither keys nor passwords in URLs."""
    monkeypatch.setenv(f"GATEWAY_{name}", value)
    with pytest.raises(SettingsError, match=f"GATEWAY_{name}") as caught:
        settings.read()
    assert "hunter2" not in str(caught.value)


OLD, NEW, SHORT, PLACEHOLDER = "o" * 16, "n" * 16, "s" * 15, "CHANGE-ME-CHANGE-ME"


@pytest.mark.parametrize(
    ("value", "operator", "secret"),
    [
        (NEW, True, True),
        (f"{NEW},{OLD}", True, True),
        (f"{NEW},{OLD},{OLD}", True, True),
        (f"{NEW},{SHORT}", False, True),
        (f"{SHORT},{NEW}", False, True),
        (f"{NEW},{PLACEHOLDER}", False, True),
        (f"{PLACEHOLDER},{NEW}", False, True),
        (SHORT, False, False),
        ("x", False, False),
        (f"{SHORT},{SHORT}", False, False),
        (PLACEHOLDER, False, False),
        (PLACEHOLDER.lower(), False, False),
        (f"{PLACEHOLDER}\n", False, False),
        (f"{NEW},", False, False),
        (f",{NEW}", False, False),
        (f"{NEW},,{OLD}", False, False),
        (",", False, False),
        (f"{NEW}, {OLD}", False, False),
        (f"{NEW} ,{OLD}", False, False),
        (f"{NEW},\t,{OLD}", False, False),
    ],
)
def test_the_keys(monkeypatch: pytest.MonkeyPatch, value: str, *, operator: bool, secret: bool) -> None:
    """One, or several with a comma between them, each of 16 characters at least and no placeholder. But a weak secret
    key that is in use may stand beside a strong one, on either side of it while gateways roll.
    """
    for name, right in (("OPERATOR_KEY", operator), ("SECRET_KEY", secret)):
        monkeypatch.setenv(f"GATEWAY_{name}", value)
        if right:
            assert getattr(settings.read(), name.lower()) == value
        else:
            with pytest.raises(SettingsError, match=f"GATEWAY_{name}: must be (at least 16|one key)") as caught:
                settings.read()
            assert not [key for key in (NEW, SHORT, "CHANGE") if key in str(caught.value)]
        monkeypatch.delenv(f"GATEWAY_{name}")


def test_no_key_of_deploy_is_taken() -> None:
    """What stands there in the place of a key is a placeholder, a reference, or nothing."""
    assigned = re.compile(r"GATEWAY_(OPERATOR|SECRET)_KEY[\"']?[ \t]*[:=][ \t]*[\"']?([^\s\"'`]*)")
    found = [
        (path.name, key[1], key[2])
        for path in sorted((CHECKOUT / "deploy").rglob("*"))
        if path.is_file()
        for key in assigned.finditer(path.read_text())
    ]
    assert {name for name, _, _ in found} >= {"kubernetes.yaml", "compose.yaml", "gateway.env.example"}
    shown = {value for _, _, value in found if value and not value.startswith("$")}
    assert shown
    for value in shown:
        for name in ("operator_key", "secret_key"):
            with pytest.raises(SettingsError, match="placeholder"):
                Settings.model_validate({name: value})


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://host/db",
        "postgres://user:p%2Fw%23@host:5432/db?sslmode=verify-full",
        "postgresql://one:5432,two:5432/db",
        "postgresql://user@[::1]:5432/db",
        "postgresql:///db?host=/run/postgresql",
    ],
)
def test_database_urls_that_are_right(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Several hosts, an IPv6 address, a socket's folder."""
    monkeypatch.setenv("GATEWAY_STORE_URL", url)
    monkeypatch.setenv("GATEWAY_OPERATOR_KEY", "operator-key-for-tests")
    assert settings.read().store_url == url


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:p/w@host/db",
        "postgresql://user:p#w@host/db",
        "postgresql://host:0/db",
        "postgresql://host:99999/db",
        "postgresql://[::1/db",
        "postgresql://host/db?sslmode=yes",
    ],
)
def test_database_urls_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Found with all other settings, before anything is connected to."""
    monkeypatch.setenv("GATEWAY_STORE_URL", url)
    monkeypatch.setenv("GATEWAY_OPERATOR_KEY", "operator-key-for-tests")
    with pytest.raises(SettingsError, match="GATEWAY_STORE_URL"):
        settings.read()


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
        ("MONITOR_ALLOW", "198.18.0.1/15"),
        ("UPSTREAM_PROXY", "proxy.example.com:3128"),
        ("CALLBACK_PROXY", "socks5://proxy.example.com:1080"),
        ("LOG_LEVEL", "loud"),
        ("USER_AGENT", "a\tb"),
        ("USER_AGENT", "   "),
        ("USER_AGENT", "\u00e4"),
        ("USER_AGENT", "x" * 257),
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
    monkeypatch.setenv("GATEWAY_MONITOR_ALLOW", "198.18.0.0/15, 100.64.0.0/10")
    monkeypatch.setenv("GATEWAY_STORE_URL", "sqlite:////var/x.db")
    monkeypatch.setenv("GATEWAY_PUBLIC_URL", "https://g.example.com/base/")
    monkeypatch.setenv("GATEWAY_PORT", "")
    read = settings.read()
    assert read.monitor_patterns == (HostPattern("*.a.com", 444), HostPattern("b.c", 443))
    assert read.cors_origins == ("https://a.com", "http://localhost:3000")
    assert [str(network) for network in read.callback_networks] == ["10.0.0.0/8", "fd00::/8"]
    assert [str(network) for network in read.monitor_networks] == ["198.18.0.0/15", "100.64.0.0/10"]
    assert read.store_path == Path("/var/x.db")
    assert read.public_url == "https://g.example.com/base"
    assert read.port == 8000


def test_the_store_lies_in_the_state_folder_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Under XDG_STATE_HOME, in a folder that only its owner can enter."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = Settings().store_path
    assert path == tmp_path / "state" / "copy-gateway" / "gateway.db"
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_no_place_for_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A state folder that cannot be made, or no home folder: what to set instead."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file" / "state"))
    with pytest.raises(StoreRefused, match=r"cannot be made: Not a directory\. Set GATEWAY_STORE_URL"):
        _ = Settings().store_path
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(StoreRefused, match=r"no home folder"):
        _ = Settings().store_path


def test_misspelt_names_are_noticed() -> None:
    """A name that only looks like a setting is told, with the one that was meant if any is near."""
    given = {"GATEWAY_POL_MIN": "1", "GATEWAY_QQQ": "", "GATEWAY_PORT": "1", "GATEWAY_URL": "http://h", "PATH": ""}
    near, far = settings.unknown(given)
    assert near == "GATEWAY_POL_MIN is no setting and has no effect: did you mean GATEWAY_POLL_MIN?"
    assert far == "GATEWAY_QQQ is no setting and has no effect: gateway serve --help lists them all."


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
def test_a_proxy_of_other_programs_is_told(name: str) -> None:
    """Unless one of the gateway's own is set; its password is not shown."""
    given = {name: "http://user:hunter2@proxy.example.com:3128"}
    (told,) = settings.unknown(given)
    assert told == f"{name} alone is not used: a proxy is set with GATEWAY_UPSTREAM_PROXY and GATEWAY_CALLBACK_PROXY."
    assert settings.unknown({name: ""}) == []
    for own in ("GATEWAY_UPSTREAM_PROXY", "GATEWAY_CALLBACK_PROXY"):
        assert settings.unknown({**given, own: "http://proxy.example.com:3128"}) == []
        assert len(settings.unknown({**given, own: ""})) == 1
