"""The settings: environment variables named `GATEWAY_…`, read and checked once at start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gateway.addresses import DEFAULT_MONITOR_HOSTS, HostPattern, Network, host_pattern, is_loopback, split

PREFIX = "GATEWAY_"
POSTGRES = ("postgresql://", "postgres://")

Seconds = Annotated[float, Field(gt=0, le=366 * 86400, allow_inf_nan=False)]
List = Annotated[tuple[str, ...], NoDecode]


class SettingsError(Exception):
    """One line for each wrong setting."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Settings(BaseSettings):
    """Every setting, its default and what it means; times are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore", validate_default=True
    )

    upstream_url: str = Field(
        "https://graph.microsoft.com", description="where /v1.0 and /beta live; http only on loopback"
    )
    store_url: str = Field(
        "",
        description="sqlite:///path, for one process, by default in the user's state folder; "
        "postgresql://…, for any number of them",
    )
    listen_url: str | None = Field(
        None, description="PostgreSQL directly, for wake-ups, when the store's URL leads through a pooler"
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    public_url: str | None = Field(
        None, description="base of the URLs handed out; required unless the host is loopback"
    )
    monitor_hosts: List = Field(
        DEFAULT_MONITOR_HOSTS,
        description="hosts of monitor URLs: host or *.host, either with :port; replaces the default",
    )
    operator_key: str | None = Field(
        None, min_length=16, description="opens the operator's routes; at least 16 characters"
    )
    secret_key: str | None = Field(None, description="encrypts monitor URLs and callback secrets at rest")
    cors_origins: List = Field((), description="origins of browsers that may call the gateway")
    copy_timeout: Seconds = Field(60, description="one copy request upstream")
    poll_min: Seconds = Field(0.5, description="shortest wait between two polls of a job")
    poll_max: Seconds = Field(30, description="longest wait between two polls of a job, of the gateway's own choice")
    poll_rate: float = Field(500, gt=0, le=100_000, description="most polls a process sends a second")
    poll_patience: Seconds = Field(1800, description="how long a monitor may give no usable answer")
    job_deadline: Seconds = Field(86400, description="how old a job may get")
    retention: Seconds = Field(86400, description="how long an ended job is kept")
    heartbeat: Seconds = Field(15, description="silence after which a stream gets a comment line")
    send_timeout: Seconds = Field(10, description="how long a stream's reader may take nothing")
    stream_max_age: Seconds = Field(3600, description="largest age of a stream; it is then resumed")
    max_streams: int = Field(10_000, ge=1, description="open streams per process")
    max_jobs: int = Field(10_000, ge=1, description="running jobs per process")
    log_limit: int = Field(256, ge=2, description="events kept per job")
    callback_allow: List = Field((), description="networks that callbacks may also reach")
    lease: float = Field(
        10, ge=1, le=3600, description="how long a silent gateway keeps its jobs, when many share a store"
    )
    drain: Seconds = Field(10, description="longest shutdown")

    @field_validator("monitor_hosts", "cors_origins", "callback_allow", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("upstream_url")
    @classmethod
    def _upstream(cls, value: str) -> str:
        parts = split(value)
        if parts is None or parts.username is not None or parts.query or parts.fragment:
            raise ValueError("must be a URL such as https://graph.microsoft.com")
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise ValueError("must be https; http is allowed on loopback only")
        return value.rstrip("/")

    @field_validator("public_url")
    @classmethod
    def _public(cls, value: str | None, others: ValidationInfo) -> str | None:
        if value is None:
            host = others.data.get("host")
            if host is not None and not is_loopback(host):
                raise ValueError(f"must be set when {PREFIX}HOST ({host}) is not a loopback address")
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
            raise ValueError(f"must not be below {PREFIX}POLL_MIN ({shortest:g})")
        return value

    @field_validator("store_url")
    @classmethod
    def _store(cls, value: str) -> str:
        if value.startswith(POSTGRES):
            return value
        if value and (not value.startswith("sqlite:///") or len(value) == len("sqlite:///")):
            raise ValueError("must be sqlite:///path (sqlite:////path from the root) or postgresql://host/database")
        return value

    @field_validator("listen_url")
    @classmethod
    def _listen(cls, value: str | None, others: ValidationInfo) -> str | None:
        if value is not None and not value.startswith(POSTGRES):
            raise ValueError("must be postgresql://host/database")
        if value is not None and not others.data.get("store_url", POSTGRES[0]).startswith(POSTGRES):
            raise ValueError(f"goes with a {PREFIX}STORE_URL of PostgreSQL only")
        return value

    @field_validator("operator_key")
    @classmethod
    def _operator(cls, value: str | None, others: ValidationInfo) -> str | None:
        if value is None and others.data.get("store_url", "").startswith(POSTGRES):
            raise ValueError("must be set with PostgreSQL, the same for all gateways; at least 16 characters")
        return value

    @field_validator("monitor_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            host_pattern(text)
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            parts = split(origin)
            if origin != "*" and (parts is None or origin != f"{parts.scheme}://{parts.netloc}"):
                raise ValueError(f"{origin!r} is not an origin such as https://app.example.com")
        return value

    @field_validator("callback_allow")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                ip_network(text)
            except ValueError as error:
                raise ValueError(f"{error}; a network is written as 10.0.0.0/8") from None
        return value

    @property
    def monitor_patterns(self) -> tuple[HostPattern, ...]:
        return tuple(host_pattern(text) for text in self.monitor_hosts)

    @property
    def callback_networks(self) -> tuple[Network, ...]:
        return tuple(ip_network(text) for text in self.callback_allow)

    @property
    def is_shared(self) -> bool:
        """Whether the store is one for many gateways."""
        return self.store_url.startswith(POSTGRES)

    @property
    def store_path(self) -> Path:
        """The SQLite file; by default in the XDG state folder, which is made."""
        if self.store_url:
            return Path(self.store_url.removeprefix("sqlite:///"))
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "copy-gateway"
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        return state / "gateway.db"


def read() -> Settings:
    """The settings of the environment. Raises SettingsError, which names all that is wrong at once."""
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError([_told(problem) for problem in error.errors(include_url=False)]) from None


def unknown(environment: Mapping[str, str]) -> list[str]:
    """Names that look like settings and are none: most likely misspelt."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {f"{PREFIX}URL"}  # which the commands read
    return sorted(name for name in environment if name.startswith(PREFIX) and name not in known)


def _told(problem: Any) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    name = PREFIX + str(problem["loc"][0]).upper()
    given = problem["input"]
    secret = name.endswith("_KEY") or "@" in str(given)  # a URL with user info holds a password
    shown = "" if secret or given is None else f" (it is {given!r})"
    return f"{name}: {message}{shown}"
