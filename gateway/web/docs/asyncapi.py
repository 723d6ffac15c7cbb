"""The AsyncAPI 3.0 document of the messages that the gateway sends: stream events and callbacks (webhooks).

Its schemas are those of the OpenAPI document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from gateway.core.callback import KINDS
from gateway.core.job import Kind
from gateway.web.docs.openapi import INFO
from gateway.web.docs.openapi.callbacks import SIGNATURE
from gateway.web.docs.openapi.components import JOB, PARAMETERS, ref
from gateway.web.docs.openapi.jobs import OTHER_JOB
from gateway.web.docs.openapi.schemas import STATES, WAITING, message, schemas

_ID = {"type": "string", "description": "the value to send as Last-Event-ID to resume after this event"}
_DESCRIPTIONS = {
    "progress": "The state changed and the job is running. Each event holds the whole state: the newest is enough. "
    "While `trouble.code` is `tokenRequired`, the job waits for a token: see `PUT /jobs/{job}/token` in /openapi.json.",
    "completed": "The job has completed; with `error`, only in part. This is the last event of its job.",
    "failed": "The job failed, or the gateway lost track of it: `error.origin` says which. This is the last event of "
    "its job.",
}
_STATES = {kind: [state] for kind, state in STATES.items()} | {"progress": [STATES["progress"], WAITING]}
_GET_EVENTS = {"http": {"method": "GET", "bindingVersion": "0.3.0"}}


def document(base: str) -> dict[str, Any]:
    """The document, for a gateway whose public URL is `base`, without a final slash."""
    server = urlsplit(base)
    one_job, many_jobs, webhooks = list(KINDS), [*KINDS, "gone"], [f"job.{kind}" for kind in KINDS]
    return {
        "asyncapi": "3.0.0",
        "info": {
            **{name: INFO[name] for name in ("title", "version")},
            "description": f"{INFO['summary']} This document describes its events and its callbacks (webhooks); "
            "/openapi.json describes its routes.",
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
                "Every event of one job. The URL is a secret: anyone who has it can follow the job.",
                one_job,
                parameters={"job": {"description": PARAMETERS["job"]["description"], "examples": [JOB]}},
            ),
            "jobs": _stream(
                "/events",
                "The events of 1 to 200 jobs, named in the query as job=A&job=B. An event id holds their positions in "
                "that order, joined by commas; - stands for an unknown job.",
                many_jobs,
            ),
            "receiver": {
                "address": None,
                "title": "A receiver of callbacks (webhooks)",
                "description": "The URL from the header Gateway-Callback-Url, or from POST /jobs/{job}/callbacks.",
                "messages": _refs("messages", webhooks),
            },
        },
        "operations": {
            "followJob": _sends("job", "Follow a job", one_job, _GET_EVENTS),
            "followJobs": _sends("jobs", "Follow several jobs on one stream", many_jobs, _with_query()),
            "tellReceiver": {
                **_sends(
                    "receiver",
                    "Send a callback (webhook)",
                    webhooks,
                    {"http": {"method": "POST", "bindingVersion": "0.3.0"}},
                ),
                "description": "Delivery is at least once, in the order of the log; a repeated delivery has the same "
                "webhook-id. 2xx means delivered, 410 ends the callback, any other response is tried again for about "
                "75 h.",
                "security": [{"$ref": "#/components/securitySchemes/signature"}],
            },
        },
        "components": {
            "messages": {
                **{kind: _event(kind, _DESCRIPTIONS[kind], "State", *_STATES[kind]) for kind in KINDS},
                "gone": _event(
                    "gone", "Sent once for an unknown job; the other jobs continue.", "Gone", {"jobId": OTHER_JOB}
                ),
                **{f"job.{kind}": _message(kind) for kind in KINDS},
            },
            "schemas": schemas(base),
            "securitySchemes": {
                "signature": {
                    "type": "httpApiKey",
                    "in": "header",
                    "name": "webhook-signature",
                    "description": "Standard Webhooks: v1, and the HMAC-SHA256 of webhook-id.webhook-timestamp.body "
                    "with the callback's secret as key, in base64",
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


def _event(name: str, description: str, schema: str, *examples: Mapping[str, Any]) -> dict[str, Any]:
    """An event of a stream: its fields `event` and `id` are the headers, its `data` is the payload."""
    event_id = {"gone": "0,-", "progress": "5"}.get(name, "9")
    fields = {"event": {"const": name}, "id": _ID}
    return {
        "name": name,
        "title": f"event: {name}",
        "description": description,
        "contentType": "application/json",
        "headers": {"type": "object", "properties": fields, "required": ["event", "id"]},
        "payload": ref("schemas", schema),
        "examples": [{"headers": {"event": name, "id": event_id}, "payload": example} for example in examples],
    }


def _message(kind: Kind) -> dict[str, Any]:
    fields = {name: {**field["schema"], "description": field["description"]} for name, field in SIGNATURE.items()}
    return {
        "name": f"job.{kind}",
        "title": f"job.{kind}",
        "description": _DESCRIPTIONS[kind],
        "contentType": "application/json",
        "headers": {"type": "object", "properties": fields, "required": list(fields)},
        "payload": ref("schemas", "Message"),
        "bindings": {"http": {"bindingVersion": "0.3.0", "headers": {"type": "object", "properties": fields}}},
        "examples": [
            {"headers": {name: field["example"] for name, field in SIGNATURE.items()}, "payload": message(kind)}
        ],
    }
