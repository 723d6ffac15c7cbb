"""Turns tracing on when OpenTelemetry's own variables name a destination for spans and the extra `otel` is installed.

Otherwise no part of OpenTelemetry is imported.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from gateway.telemetry.logs import EventLog
from gateway.telemetry.tracing import OFF, Tracing

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
NEEDED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")

log = EventLog("gateway.tracing")


def begin(environment: Mapping[str, str], version: str) -> Tracing:
    """The tracing that OpenTelemetry's variables ask for, or OFF, with a warning when it cannot be turned on.

    `version` is the gateway's.
    """
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    endpoint = any(environment.get(name) for name in ENDPOINTS)
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if disabled or exporter == "none" or not (exporter or endpoint):
        return OFF
    why = _obstacle(exporter, next((environment[name] for name in PROTOCOLS if environment.get(name)), ""))
    if why is None:
        from gateway.telemetry.opentelemetry import OpenTelemetry  # noqa: PLC0415 - an extra that need not be installed

        try:
            tracing = OpenTelemetry(version)
        except (ValueError, RuntimeError, OSError) as error:
            why = f"{type(error).__name__}: {error}"
        else:
            log.info("tracing_on")
            return tracing
    log.warning("tracing_off", reason=why)
    return OFF


def _obstacle(exporter: str, protocol: str) -> str | None:
    if exporter not in ("", "otlp"):
        return f"OTEL_TRACES_EXPORTER is {exporter}; only otlp is supported"
    if protocol not in ("", "http/protobuf"):
        return f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}; only http/protobuf is supported"
    if not all(_is_installed(name) for name in NEEDED):
        return "OTEL_ variables ask for tracing, but OpenTelemetry is not installed: pip install 'copy-gateway[otel]'"
    return None


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False
