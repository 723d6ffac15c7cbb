"""The settings: environment variables named `GATEWAY_…`, read and checked once at start.

Whoever has several of them wrong is told so once: each one's validator judges all of its value, and what one setting
asks of another is judged on what was given, whether or not the rest of it is right.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gateway.core.addresses import DEFAULT_MONITOR_HOSTS, HostPattern, Network, host_pattern, is_loopback, split
from gateway.core.errors import StoreRefused
from gateway.settings_words import MAKE_A_KEY, POSTGRES, UNIT, database_url, each, origin, place_to_listen, shown, told

PREFIX = "GATEWAY_"
COMMANDS = frozenset({f"{PREFIX}URL"})
"""What is no setting of the gateway, but read by the commands that use one."""
Seconds = Annotated[float, Field(gt=0, le=366 * 86400, allow_inf_nan=False), UNIT]
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
    lease: Annotated[float, UNIT] = Field(
        10, ge=1, le=3600, description="how long a silent gateway keeps its jobs, when many share a store"
    )
    drain: Seconds = Field(10, description="longest shutdown")

    @field_validator("monitor_hosts", "cors_origins", "callback_allow", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @model_validator(mode="wrap")
    @classmethod
    def _together(cls, given: Any, judge: ModelWrapValidatorHandler[Self]) -> Self:
        """Raises SettingsError, which pydantic lets pass, for all that is wrong."""
        problems = _between(given)
        try:
            settings = judge(given)
        except ValidationError as error:
            for one in error.errors(include_url=False):
                name = str(one["loc"][0])
                problems[name] = f"{PREFIX}{name.upper()}: {told(one, cls.model_fields[name])}"
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
            return database_url(value)
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
        return value and database_url(value)

    @field_validator("monitor_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return each(value, host_pattern, "host or *.host, either with :port, such as *.sharepoint.com")

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return each(value, origin, "an origin, without a path, such as https://app.example.com")

    @field_validator("callback_allow")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return each(value, ip_network, "a network, without bits set beyond its length, such as 10.0.0.0/8")

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
        """The SQLite file; by default in the XDG state folder, which is made. Raises StoreRefused when it cannot be."""
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
    """The settings of the environment. Raises SettingsError, which names all that is wrong at once."""
    return Settings()


def unknown(environment: Mapping[str, str]) -> list[str]:
    """A sentence for each name that looks like a setting and is none: most likely it is misspelt."""
    known = {name.upper() for name in Settings.model_fields}
    sentences = []
    for name in sorted(environment):
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in known and name not in COMMANDS:
            nearest = get_close_matches(name.removeprefix(PREFIX), sorted(known), n=1)
            meant = f"did you mean {PREFIX}{nearest[0]}?" if nearest else "gateway serve --help lists them all."
            sentences.append(f"{name} is no setting and has no effect: {meant}")
    return sentences


def _between(given: Mapping[str, Any]) -> dict[str, str]:
    """What settings ask of each other, by the setting that has to change. They may be wrong themselves."""
    host = str(given.get("host", Settings.model_fields["host"].default))
    shared = str(given.get("store_url", "")).startswith(POSTGRES)
    problems = {}
    if given.get("public_url") is None and not is_loopback(host):
        problems["public_url"] = (
            f"must be set when {PREFIX}HOST ({shown(host)}) is not a loopback address: to the URL that callers know "
            "the gateway by, such as https://gateway.example.com"
        )
    if given.get("operator_key") is None and shared:
        problems["operator_key"] = f"must be set with PostgreSQL, the same for all gateways: {MAKE_A_KEY}"
    if given.get("listen_url") is not None and not shared:
        problems["listen_url"] = f"goes with a {PREFIX}STORE_URL of PostgreSQL only; leave it out"
    return {name: f"{PREFIX}{name.upper()}: {words}" for name, words in problems.items()}
