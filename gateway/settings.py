"""The settings: environment variables named `GATEWAY_…`, read and checked once at start.

All wrong settings are reported at once. Each validator checks the whole value of its setting. Constraints between
settings are checked on the raw input, so that they are reported even when other settings are invalid.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gateway.core.addresses import (
    DEFAULT_MONITOR_HOSTS,
    HostPattern,
    Network,
    browser_origin,
    host_pattern,
    is_loopback,
    place_to_listen,
    proxy_url,
    split,
)
from gateway.core.database_url import parse as parse_database_url
from gateway.core.errors import StoreRefused
from gateway.core.keys import SHORTEST_KEY, is_weak, key_list

PREFIX = "GATEWAY_"
POSTGRES = ("postgresql://", "postgres://")
UNIT = "of seconds"
"""Unit in the error message of a number; in a field's metadata it marks the numbers that have this unit."""
MAKE_A_KEY = f"at least {SHORTEST_KEY} characters, such as openssl rand -hex 16 makes"
COMMANDS = frozenset({f"{PREFIX}URL", f"{PREFIX}JOB_KEY", f"{PREFIX}WEBHOOK_SECRET"})
"""Environment variables that only the client commands read."""
CREDENTIAL = "a credential"
"""In a field's metadata: its value is a key, or a URL that may hold a password anywhere, and is never shown."""
Seconds = Annotated[float, Field(gt=0, le=366 * 86400, allow_inf_nan=False), UNIT]
List = Annotated[tuple[str, ...], NoDecode]
LogLevel = Literal["debug", "info", "warning", "error"]

_HIDDEN = "<not shown: it may hold a secret>"
_LONGEST_SHOWN = 100
_SECRET = re.compile(
    r"@|%40|passw|secret|token|key=|^\s*(?!(https?|ftp|sqlite):)[a-z0-9+.-]*:/|://[^/?#]*:(?!\d{1,5}([/?#]|$))",
    re.IGNORECASE,
)
"""What looks like a secret, and URLs that may hold a password: of other schemes, or without the @ behind it."""
_USER_AGENT = re.compile(r"[\x20-\x7e]{1,256}")


class SettingsError(Exception):
    """The settings are invalid. `problems` holds one line per wrong setting."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


_NETWORK = "a network, without bits set beyond its length, such as 10.0.0.0/8"
_ENTRIES: dict[str, tuple[Callable[[str], object], str]] = {
    "monitor_hosts": (host_pattern, "host or *.host, either with :port, such as *.sharepoint.com"),
    "cors_origins": (browser_origin, "an origin, without a path, such as https://app.example.com"),
    "callback_allow": (ip_network, _NETWORK),
    "monitor_allow": (ip_network, _NETWORK),
}
"""What reads the entries of a list, and what they must be."""


class Settings(BaseSettings):
    """Every setting with its default and meaning; times are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore", validate_default=True
    )

    upstream_url: str = Field(
        "https://graph.microsoft.com", description="base URL of Graph, above /v1.0 and /beta; http only on loopback"
    )
    store_url: Annotated[str, CREDENTIAL] = Field(
        "",
        description="sqlite:///path for one process, by default in the user's state folder; "
        "postgresql://… for any number of processes",
    )
    listen_url: Annotated[str | None, CREDENTIAL] = Field(
        None, description="direct PostgreSQL URL, for LISTEN, when the store's URL leads through a pooler"
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free port")
    public_url: str | None = Field(
        None, description="base of the URLs in responses; required unless the host is loopback"
    )
    monitor_hosts: List = Field(
        DEFAULT_MONITOR_HOSTS,
        description="allowed hosts of monitor URLs: host or *.host, :port optional; replaces the default",
    )
    operator_key: Annotated[str | None, CREDENTIAL] = Field(
        None, description="key that authenticates the operator, at least 16 characters; of new,old each does"
    )
    secret_key: Annotated[str | None, CREDENTIAL] = Field(
        None,
        description="encrypts monitor URLs, callback URLs and callback secrets at rest, at least 16 characters; of "
        "new,old the first encrypts and each decrypts, until gateway reseal has run",
    )
    cors_origins: List = Field((), description="browser origins that may call the gateway (CORS)")
    copy_timeout: Seconds = Field(
        60,
        description="timeout of one request upstream that starts a copy or another operation, and of reading an item",
    )
    poll_min: Seconds = Field(0.5, description="shortest wait between two polls of a job")
    poll_max: Seconds = Field(
        30, description="longest wait between two polls of a job, unless Retry-After asks for more"
    )
    poll_rate: float = Field(500, gt=0, le=100_000, description="rate limit of polls, per second and process")
    poll_patience: Seconds = Field(
        1800, description="how long a monitor may fail to answer until its job is lost track of"
    )
    lost_patience: Seconds = Field(
        300, description="how long doubtful answers (401, 403, 404) may go on until a monitor counts as lost"
    )
    job_deadline: Seconds = Field(86400, description="largest age of a running job")
    retention: Seconds = Field(86400, description="how long a job is kept after its end")
    heartbeat: Seconds = Field(15, description="idle time after which a stream sends a comment line")
    send_timeout: Seconds = Field(10, description="how long a slow consumer may read nothing until its stream ends")
    stream_max_age: Seconds = Field(3600, description="largest age of a stream; its client then reconnects and resumes")
    max_streams: int = Field(10_000, ge=1, description="most open streams per process")
    max_jobs: int = Field(10_000, ge=1, description="most running jobs per process")
    log_limit: int = Field(256, ge=2, description="most events kept per job")
    callback_allow: List = Field(
        (), description="networks that callbacks (webhooks) may reach besides public addresses, also by http"
    )
    monitor_allow: List = Field(
        (), description="networks that monitors on allowed hosts may be in besides public addresses"
    )
    upstream_proxy: Annotated[str | None, CREDENTIAL] = Field(
        None, description="HTTP proxy to upstream and monitors: http://host:port, or http://user:password@host:port"
    )
    callback_proxy: Annotated[str | None, CREDENTIAL] = Field(
        None, description="HTTP proxy to the receivers of callbacks, in the same form"
    )
    user_agent: str = Field(
        "NONISV|copy-gateway|CopyGateway/{version}", description="User-Agent that upstream and monitors see"
    )
    poll_identity: Literal["default"] | None = Field(
        None, description="default: azure-identity's credential, for statuses that ask for a token and have none"
    )
    lease: Annotated[float, UNIT] = Field(
        10, ge=1, le=3600, description="time after which others have taken over the jobs of a silent gateway"
    )
    drain: Seconds = Field(10, description="longest duration of a graceful shutdown")
    log_level: LogLevel = Field("info", description="least level of the log lines: debug, info, warning or error")

    @field_validator("monitor_hosts", "cors_origins", "callback_allow", "monitor_allow", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @model_validator(mode="wrap")
    @classmethod
    def _validate_all(cls, given: Any, judge: ModelWrapValidatorHandler[Self]) -> Self:
        """Raises SettingsError with every problem; pydantic lets this error through."""
        problems = _conflicts(given)
        try:
            settings = judge(given)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                name = str(detail["loc"][0])
                problems[name] = f"{PREFIX}{name.upper()}: {problem_text(detail, cls.model_fields[name])}"
        if problems:
            order = list(cls.model_fields)
            raise SettingsError([problems[name] for name in sorted(problems, key=order.index)])
        return settings

    @field_validator("upstream_url")
    @classmethod
    def _upstream(cls, value: str) -> str:
        parts = split(value)
        if parts is None or parts.username is not None or parts.query or parts.fragment:
            raise ValueError("must be a URL such as https://graph.microsoft.com")
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise ValueError(
                "must be https, such as https://graph.microsoft.com; http is for loopback only, such as "
                "http://127.0.0.1:9090"
            )
        return value.rstrip("/")

    @field_validator("log_level", mode="before")
    @classmethod
    def _log_level(cls, value: object) -> object:
        if (found := str(value).strip().lower()) in get_args(LogLevel):
            return found
        raise ValueError(f"must be one of {', '.join(get_args(LogLevel))}")

    @field_validator("host")
    @classmethod
    def _host(cls, value: str) -> str:
        return place_to_listen(value)

    @field_validator("public_url")
    @classmethod
    def _public(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = split(value)
        if parts is None or parts.username is not None or parts.query or parts.fragment:
            raise ValueError("must be a URL such as https://gateway.example.com")
        return value.rstrip("/")

    @field_validator("poll_max")
    @classmethod
    def _bounds(cls, value: float, others: ValidationInfo) -> float:
        shortest = others.data.get("poll_min")
        if shortest is not None and value < shortest:
            raise ValueError(f"must not be below {PREFIX}POLL_MIN, which is {shortest:g}")
        return value

    @field_validator("store_url")
    @classmethod
    def _store(cls, value: str) -> str:
        if value.startswith(POSTGRES):
            return _checked_database(value)
        if value and (not value.startswith("sqlite:///") or len(value) == len("sqlite:///")):
            raise ValueError(
                "must be sqlite:///relative.db, sqlite:////absolute/path.db or postgresql://user:password@host/database"
            )
        return value

    @field_validator("listen_url")
    @classmethod
    def _listen(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(POSTGRES):
            raise ValueError("must be postgresql://user:password@host/database, PostgreSQL itself and no pooler")
        return value and _checked_database(value)

    @field_validator(*_ENTRIES)
    @classmethod
    def _lists(cls, value: tuple[str, ...], field: ValidationInfo) -> tuple[str, ...]:
        return each(value, *_ENTRIES[field.field_name or ""])

    @field_validator("operator_key", "secret_key")
    @classmethod
    def _keys(cls, value: str | None, field: ValidationInfo) -> str | None:
        weak = [is_weak(key) for key in key_list(value)]
        # A weak key may have sealed what is stored: beside a strong one it still opens that.
        if any(weak) and (field.field_name == "operator_key" or all(weak)):
            raise ValueError(f"must be {MAKE_A_KEY}, and not the placeholder of an example")
        return value

    @field_validator("upstream_proxy", "callback_proxy")
    @classmethod
    def _proxy(cls, value: str | None) -> str | None:
        return value and proxy_url(value)

    @field_validator("user_agent")
    @classmethod
    def _user_agent(cls, value: str) -> str:
        value = value.strip()
        if not _USER_AGENT.fullmatch(value):
            raise ValueError("must be 1 to 256 printable ASCII characters; {version} in it becomes the gateway's own")
        return value

    @property
    def monitor_patterns(self) -> tuple[HostPattern, ...]:
        return tuple(host_pattern(text) for text in self.monitor_hosts)

    @property
    def callback_networks(self) -> tuple[Network, ...]:
        return tuple(ip_network(text) for text in self.callback_allow)

    @property
    def monitor_networks(self) -> tuple[Network, ...]:
        return tuple(ip_network(text) for text in self.monitor_allow)

    @property
    def is_shared(self) -> bool:
        """Whether several gateways may share the store."""
        return self.store_url.startswith(POSTGRES)

    @property
    def store_path(self) -> Path:
        """The SQLite file; by default in the XDG state folder, which is created when it is missing.

        Raises StoreRefused when the folder cannot be created.
        """
        if self.store_url:
            return Path(self.store_url.removeprefix("sqlite:///"))
        remedy = (
            f"Set {PREFIX}STORE_URL to a file in a folder that can be written, such as sqlite:////var/lib/gateway.db."
        )
        try:
            state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "copy-gateway"
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            where = error.filename or "of the user"
            raise StoreRefused(f"The state folder {where} cannot be made: {error.strerror}. {remedy}") from None
        except RuntimeError:  # a user without a home folder, as in some containers
            raise StoreRefused(f"The user has no home folder to keep the store in. {remedy}") from None
        return state / "gateway.db"


def read() -> Settings:
    """Read the settings from the environment. Raises SettingsError, which names every problem."""
    return Settings()


def unknown(environment: Mapping[str, str]) -> list[str]:
    """One warning for each variable that has no effect: a `GATEWAY_…` that is no setting, since its name is probably
    misspelt, and a proxy that other programs would take from `HTTPS_PROXY`.
    """
    known = {name.upper() for name in Settings.model_fields}
    sentences = []
    for name in sorted(environment):
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in known and name not in COMMANDS:
            nearest = get_close_matches(name.removeprefix(PREFIX), sorted(known), n=1)
            meant = f"did you mean {PREFIX}{nearest[0]}?" if nearest else "gateway serve --help lists them all."
            sentences.append(f"{name} is no setting and has no effect: {meant}")
    own = [f"{PREFIX}UPSTREAM_PROXY", f"{PREFIX}CALLBACK_PROXY"]
    theirs = [name for name in ("HTTPS_PROXY", "https_proxy") if environment.get(name)]
    if theirs and not any(environment.get(name) for name in own):
        sentences.append(f"{theirs[0]} alone is not used: a proxy is set with {' and '.join(own)}.")
    return sentences


def _conflicts(given: Mapping[str, Any]) -> dict[str, str]:
    """Violated constraints between settings, by the setting to change. `given` is raw input and may be invalid."""
    host = str(given.get("host", Settings.model_fields["host"].default))
    shared = str(given.get("store_url", "")).startswith(POSTGRES)
    problems = {}
    if given.get("poll_identity") and not (find_spec("azure") and find_spec("azure.identity")):
        problems["poll_identity"] = "needs an extra that is not installed: pip install 'copy-gateway[identity]'"
    if given.get("public_url") is None and not is_loopback(host):
        problems["public_url"] = (
            f"must be set when {PREFIX}HOST ({safe_repr(host)}) is not a loopback address: to the URL that callers "
            "know the gateway by, such as https://gateway.example.com"
        )
    if given.get("operator_key") is None and shared:
        problems["operator_key"] = f"must be set with PostgreSQL, the same for all gateways: {MAKE_A_KEY}"
    if given.get("listen_url") is not None and not shared:
        problems["listen_url"] = f"goes with a {PREFIX}STORE_URL of PostgreSQL only; leave it out"
    return {name: f"{PREFIX}{name.upper()}: {text}" for name, text in problems.items()}


def problem_text(problem: Mapping[str, Any], field: FieldInfo) -> str:
    """The message for one of pydantic's errors: the expected value, and the value found."""
    told = problem.get("ctx", {})
    message = str(told["error"]) if "error" in told else f"must be {told.get('expected') or _wanted(field)}"
    # A list names its wrong parts.
    if get_origin(field.annotation) is tuple or CREDENTIAL in field.metadata:
        return message
    return f"{message} (it is {safe_repr(problem['input'])})"


def safe_repr(value: object) -> str:
    """The `repr` of a value, or a placeholder when it may hold a secret, such as the password in a URL's user info."""
    text = str(value)
    if _SECRET.search(text):
        return _HIDDEN
    return repr(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…")


def each(values: tuple[str, ...], parse: Callable[[str], object], wanted: str) -> tuple[str, ...]:
    """The values unchanged when `parse` accepts all of them. Raises ValueError, which names the rejected values."""
    wrong = [safe_repr(value) for value in values if not _parses(value, parse)]
    if wrong:
        raise ValueError(f"each must be {wanted}; what is not: {', '.join(wrong)}")
    return values


def _checked_database(url: str) -> str:
    """The URL unchanged. Raises ValueError."""
    parse_database_url(url)
    return url


def _parses(value: str, parse: Callable[[str], object]) -> bool:
    try:
        parse(value)
    except ValueError:
        return False
    return True


def _wanted(field: FieldInfo) -> str:
    """The expected value of a setting with bounds, for an error message."""
    bounds = {
        kind: getattr(limit, kind) for limit in field.metadata for kind in ("gt", "ge", "le") if hasattr(limit, kind)
    }
    number = "a whole number" if field.annotation is int else "a number"
    unit = f" {UNIT}" if UNIT in field.metadata else ""
    lowest = f"above {bounds['gt']}" if "gt" in bounds else f"from {bounds['ge']}"
    highest = (" and up to " if "gt" in bounds else " to ") + str(bounds["le"]) if "le" in bounds else " upwards"
    return f"{number}{unit} {lowest}{highest}, such as {field.default}"
