"""The callbacks' part of the OpenAPI document: their routes, and what receivers are sent."""

from __future__ import annotations

from typing import Any, get_args

from gateway.deliveries import KINDS, LONGEST_URL, CallbackState
from gateway.openapi_parts import JOB_ID, TEXT, empty_answer, errors, json_answer, parameter

_EVENTS = {"type": "array", "items": {"enum": list(KINDS)}, "minItems": 1, "uniqueItems": True}
_SECRET = {"type": "string", "pattern": "^whsec_[A-Za-z0-9+/]+=*$"}
_CALLBACK = parameter("callback", "path", "the callback's id", required=True)

CALLBACK_SCHEMAS: dict[str, Any] = {
    "NewCallback": {
        "type": "object",
        "properties": {"id": TEXT, "url": TEXT, "events": _EVENTS, "secret": _SECRET},
        "required": ["id", "url", "events", "secret"],
    },
    "Callback": {
        "type": "object",
        "properties": {
            "id": TEXT,
            "url": {"type": "string", "description": "scheme and host only: the rest is a secret"},
            "events": _EVENTS,
            "state": {"enum": list(get_args(CallbackState))},
            "attempts": {"type": "integer", "minimum": 0},
            "lastError": TEXT,
            "nextAttemptAt": {"type": "string", "format": "date-time"},
        },
        "required": ["id", "url", "events", "state", "attempts"],
    },
    "Callbacks": {
        "type": "object",
        "properties": {"value": {"type": "array", "items": {"$ref": "#/components/schemas/Callback"}}},
        "required": ["value"],
    },
    "Message": {
        "type": "object",
        "properties": {
            "type": {"enum": [f"job.{kind}" for kind in KINDS]},
            "timestamp": {"type": "string", "format": "date-time"},
            "data": {"$ref": "#/components/schemas/State"},
        },
        "required": ["type", "timestamp", "data"],
    },
}

_SECURITY: list[dict[str, list[str]]] = [{"jobKey": []}]

CALLBACKS: dict[str, Any] = {
    "/jobs/{job}/callbacks": {
        "get": {
            "summary": "List a job's callbacks, oldest first",
            "parameters": [JOB_ID],
            "security": _SECURITY,
            "responses": {"200": json_answer("Callbacks", "all of them"), **errors("401", "404", "503")},
        },
        "post": {
            "summary": "Register a callback on a job, running or ended",
            "parameters": [JOB_ID],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "properties": {
                                "url": {"type": "string", "maxLength": LONGEST_URL},
                                "events": _EVENTS,
                                "secret": _SECRET,
                            },
                            "required": ["url"],
                        },
                        "examples": {"callback": {"value": {"url": "https://receiver.example/copies"}}},
                    }
                },
            },
            "security": _SECURITY,
            "responses": {
                "201": json_answer("NewCallback", "registered; its secret is shown only here"),
                **errors("400", "401", "404", "408", "409", "413", "415", "503"),
            },
        },
    },
    "/jobs/{job}/callbacks/{callback}": {
        "delete": {
            "summary": "Remove a callback",
            "parameters": [JOB_ID, _CALLBACK],
            "security": _SECURITY,
            "responses": {"204": empty_answer("it is told nothing more"), **errors("401", "404", "503")},
        }
    },
    "/jobs/{job}/callbacks/{callback}/retry": {
        "post": {
            "summary": "Try a callback at once, with all its tries",
            "parameters": [JOB_ID, _CALLBACK],
            "security": _SECURITY,
            "responses": {"202": json_answer("Callback", "how it stands"), **errors("401", "404", "503")},
        }
    },
}

_SIGNATURE = [
    parameter("webhook-id", "header", "the same on every attempt of an event", required=True),
    parameter("webhook-timestamp", "header", "when this attempt was made, in seconds since 1970", required=True),
    parameter("webhook-signature", "header", "v1, and HMAC-SHA256 of id.timestamp.body in base64", required=True),
]
_TOLD = {
    "2XX": {"description": "taken; the next event may come"},
    "410": {"description": "no more of this callback, please"},
    "429": {"description": "later, please; Retry-After is honoured"},
    "503": {"description": "later, please; Retry-After is honoured"},
    "default": {"description": "tried again: 5 s, 5 min, 30 min … about 75 h in all"},
}
MESSAGES: dict[str, Any] = {
    f"job.{kind}": {
        "post": {
            "summary": f"A callback is told of a {kind} event",
            "parameters": _SIGNATURE,
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Message"}}},
            },
            "responses": _TOLD,
        }
    }
    for kind in KINDS
}
