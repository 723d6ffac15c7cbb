"""The AsyncAPI 3.0 document of what the gateway tells by itself: the events of its streams, and callbacks.

Its schemas are those of the OpenAPI document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from gateway.core.callback import KINDS
from gateway.core.job import Kind
from gateway.web.docs.openapi import INFO
from gateway.web.docs.openapi.callbacks import SIGNATURE, STATES, message
from gateway.web.docs.openapi.components import JOB, PARAMETERS, ref
from gateway.web.docs.openapi.jobs import OTHER_JOB
from gateway.web.docs.openapi.schemas import schemas

_ID = {"type": "string", "description": "what a reader sends as Last-Event-ID to go on after it"}
_TOLD = {
    "progress": "Something changed and the copy goes on. Each event has the whole state: the newest alone is enough.",
    "completed": "The copy has ended well. It is the last event of its job.",
    "failed": "The copy failed, or the gateway lost sight of it: `error.origin` tells which. It is the last event of "
    "its job.",
}
_GET_EVENTS = {"http": {"method": "GET", "bindingVersion": "0.3.0"}}


def document(base: str) -> dict[str, Any]:
    """The document, for a gateway whose URLs begin with `base`."""
    server = urlsplit(base)
    one, many, told = list(KINDS), [*KINDS, "gone"], [f"job.{kind}" for kind in KINDS]
    return {
        "asyncapi": "3.0.0",
        "info": {
            **{name: INFO[name] for name in ("title", "version")},
            "description": f"{INFO['summary']} This document tells of its events and callbacks; /openapi.json tells of "
            "its routes.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "gateway": {
                "host": server.netloc,
                "protocol": server.scheme,
                "description": "this gateway",
                **({"pathname": server.path} if server.path else {}),
            }
        },
        "channels": {
            "job": _stream(
                "/jobs/{job}/events",
                "Every event of one job. Its URL is a secret: whoever holds it may follow the job.",
                one,
                parameters={"job": {"description": PARAMETERS["job"]["description"], "examples": [JOB]}},
            ),
            "jobs": _stream(
                "/events",
                "The events of 1 to 200 jobs, named in the query as job=A&job=B. An id is their positions in that "
                "order, joined by commas; - stands for a job that is gone.",
                many,
            ),
            "receiver": {
                "address": None,
                "title": "A receiver of callbacks",
                "description": "The URL that was given in Gateway-Callback-Url, or to POST /jobs/{job}/callbacks.",
                "messages": _refs("messages", told),
            },
        },
        "operations": {
            "followJob": _sends("job", "Follow a job", one, _GET_EVENTS),
            "followJobs": _sends("jobs", "Follow several jobs on one stream", many, _with_query()),
            "tellReceiver": {
                **_sends(
                    "receiver",
                    "Call a receiver",
                    told,
                    {"http": {"method": "POST", "bindingVersion": "0.3.0"}},
                ),
                "description": "At least once, in the order of the log: webhook-id tells what comes again. 2xx is "
                "taken, 410 ends it, anything else is tried again for about 75 h.",
                "security": [{"$ref": "#/components/securitySchemes/signature"}],
            },
        },
        "components": {
            "messages": {
                **{kind: _event(kind, _TOLD[kind], "State", STATES[kind]) for kind in KINDS},
                "gone": _event(
                    "gone", "Told once of a job that nobody knows; the other jobs go on.", "Gone", {"jobId": OTHER_JOB}
                ),
                **{f"job.{kind}": _message(kind) for kind in KINDS},
            },
            "schemas": schemas(base),
            "securitySchemes": {
                "signature": {
                    "type": "httpApiKey",
                    "in": "header",
                    "name": "webhook-signature",
                    "description": "Standard Webhooks: v1, and HMAC-SHA256 of webhook-id.webhook-timestamp.body under "
                    "the callback's secret, in base64",
                }
            },
        },
    }


def _stream(address: str, description: str, names: Sequence[str], **more: Any) -> dict[str, Any]:
    return {
        "address": address,
        "title": f"The stream at {address}",
        "description": description,
        "servers": [{"$ref": "#/servers/gateway"}],
        "messages": _refs("messages", names),
        **more,
    }


def _refs(kind: str, names: Sequence[str]) -> dict[str, Any]:
    return {name: ref(kind, name) for name in names}


def _sends(channel: str, title: str, names: Sequence[str], bindings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "action": "send",
        "title": title,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names],
        "bindings": bindings,
    }


def _with_query() -> dict[str, Any]:
    ids = {name: {"type": "string"} for name in ("lastEventId", "last_event_id")}
    jobs = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 200, "uniqueItems": True}
    query = {"type": "object", "properties": {"job": jobs, **ids}, "required": ["job"]}
    return {"http": {**_GET_EVENTS["http"], "query": query}}


def _event(name: str, told: str, schema: str, example: Mapping[str, Any]) -> dict[str, Any]:
    """An event of a stream: `event` and `id` are its fields beside `data`, which is the payload."""
    event_id = {"gone": "0,-", "progress": "5"}.get(name, "9")
    fields = {"event": {"const": name}, "id": _ID}
    return {
        "name": name,
        "title": f"event: {name}",
        "description": told,
        "contentType": "application/json",
        "headers": {"type": "object", "properties": fields, "required": ["event", "id"]},
        "payload": ref("schemas", schema),
        "examples": [{"headers": {"event": name, "id": event_id}, "payload": example}],
    }


def _message(kind: Kind) -> dict[str, Any]:
    fields = {name: {**field["schema"], "description": field["description"]} for name, field in SIGNATURE.items()}
    return {
        "name": f"job.{kind}",
        "title": f"job.{kind}",
        "description": _TOLD[kind],
        "contentType": "application/json",
        "headers": {"type": "object", "properties": fields, "required": list(fields)},
        "payload": ref("schemas", "Message"),
        "bindings": {"http": {"bindingVersion": "0.3.0", "headers": {"type": "object", "properties": fields}}},
        "examples": [
            {"headers": {name: field["example"] for name, field in SIGNATURE.items()}, "payload": message(kind)}
        ],
    }
