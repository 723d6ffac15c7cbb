"""The OpenAPI document's part on callbacks (webhooks): their routes, and the requests that receivers get."""

from __future__ import annotations

from typing import Any

from gateway.core.callback import KINDS
from gateway.core.job import Kind
from gateway.web.docs.openapi.components import CALLBACK, body, empty_answer, errors, json_answer, parameter, ref
from gateway.web.docs.openapi.schemas import CALLBACK_FAILING, COMPLETED, FAILED, NEW_CALLBACK, RUNNING

_SECURITY: list[dict[str, list[str]]] = [{"jobKey": []}, {"operatorKey": []}]
_TAGS = ["Callbacks"]
_ERRORS = errors("401 unauthenticated", "404 callbackNotFound", "404 jobNotFound", "503 serviceNotAvailable")

PATHS: dict[str, Any] = {
    "/jobs/{job}/callbacks": {
        "parameters": [ref("parameters", "job")],
        "get": {
            "operationId": "listCallbacks",
            "tags": _TAGS,
            "summary": "List a job's callbacks, oldest first",
            "security": _SECURITY,
            "responses": {
                "200": json_answer(
                    ref("schemas", "Callbacks"), "the job's callbacks", failing={"value": [CALLBACK_FAILING]}
                ),
                **errors("401 unauthenticated", "404 jobNotFound", "503 serviceNotAvailable"),
            },
        },
        "post": {
            "operationId": "registerCallback",
            "tags": _TAGS,
            "summary": "Register a callback on a job, running or ended",
            "description": "A callback (webhook) that is registered late still gets the earlier events. A job has at "
            "most 16 callbacks.",
            "requestBody": body(
                ref("schemas", "CallbackToRegister"),
                end={"url": NEW_CALLBACK["url"]},
                all={
                    "url": NEW_CALLBACK["url"],
                    "events": ["progress", "completed", "failed"],
                    "secret": NEW_CALLBACK["secret"],
                },
            ),
            "callbacks": {"told": ref("callbacks", "NamedInBody")},
            "security": _SECURITY,
            "responses": {
                "201": json_answer(
                    ref("schemas", "NewCallback"),
                    "registered; the secret is shown in this response only",
                    new=NEW_CALLBACK,
                )
                | {
                    "links": {
                        name: {
                            "operationId": name,
                            "parameters": {"job": "$request.path.job", "callback": "$response.body#/id"},
                        }
                        for name in ("removeCallback", "retryCallback")
                    }
                },
                **errors(
                    "400 callbackUrlNotAllowed",
                    "400 invalidRequest",
                    "401 unauthenticated",
                    "404 jobNotFound",
                    "408 requestTimeout",
                    "409 tooManyCallbacks",
                    "413 requestTooLarge",
                    "415 unsupportedMediaType",
                    "503 serviceNotAvailable",
                ),
            },
        },
    },
    "/jobs/{job}/callbacks/{callback}": {
        "parameters": [ref("parameters", "job"), ref("parameters", "callback")],
        "delete": {
            "operationId": "removeCallback",
            "tags": _TAGS,
            "summary": "Remove a callback",
            "security": _SECURITY,
            "responses": {"204": empty_answer("removed; no further event is sent to it"), **_ERRORS},
        },
    },
    "/jobs/{job}/callbacks/{callback}/retry": {
        "parameters": [ref("parameters", "job"), ref("parameters", "callback")],
        "post": {
            "operationId": "retryCallback",
            "tags": _TAGS,
            "summary": "Retry a callback now, with a new retry schedule",
            "description": "Also for a callback that is `exhausted` or `gone`. A `delivered` callback is not retried.",
            "security": _SECURITY,
            "responses": {
                "202": json_answer(ref("schemas", "Callback"), "the callback's state", failing=CALLBACK_FAILING),
                **_ERRORS,
            },
        },
    },
}

SIGNATURE = {
    "webhook-id": parameter(
        "webhook-id", "header", "the id of the event, the same on every attempt", f"msg_{CALLBACK}_9", required=True
    ),
    "webhook-timestamp": parameter(
        "webhook-timestamp",
        "header",
        "the time of this attempt, in seconds since 1970",
        "1795383601",
        required=True,
        pattern="^[0-9]+$",
    ),
    "webhook-signature": parameter(
        "webhook-signature",
        "header",
        "v1, and the HMAC-SHA256 of webhook-id.webhook-timestamp.body with the secret as key, in base64",
        "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
        required=True,
        pattern="^v1,[A-Za-z0-9+/]+=*$",
    ),
}
_RECEIVER_RESPONSES = {
    "2XX": {"description": "delivered; the next event may be sent"},
    "410": {"description": "gone; no further event is sent to this callback"},
    **{
        code: {"description": "try again later", "headers": {"Retry-After": ref("headers", "Retry-After")}}
        for code in ("429", "503")
    },
    "default": {
        "description": "failed; tried again after 5 s, 5 min, 30 min … for about 75 h. Redirects are not followed"
    },
}
STATES: dict[Kind, dict[str, Any]] = {"progress": RUNNING, "completed": COMPLETED, "failed": FAILED}


def message(kind: Kind) -> dict[str, Any]:
    """An example of the body that a receiver is sent."""
    return {"type": f"job.{kind}", "timestamp": STATES[kind]["at"], "data": STATES[kind]}


def _webhook(name: str, summary: str, *kinds: Kind) -> dict[str, Any]:
    return {
        "post": {
            "operationId": name,
            "tags": _TAGS,
            "summary": summary,
            "description": "Signed according to Standard Webhooks. Delivery is at least once, in the order of the log; "
            "a repeated delivery has the same `webhook-id`. The response must come within 15 s. Only its status "
            "counts; its head may have 32 KiB.",
            "parameters": [ref("parameters", name) for name in (*SIGNATURE, "traceparent")],
            "requestBody": body(ref("schemas", "Message"), **{kind: message(kind) for kind in kinds}),
            "responses": _RECEIVER_RESPONSES,
        }
    }


WEBHOOKS = {f"job.{kind}": _webhook(f"on{kind.title()}", f"Send a {kind} event to a receiver", kind) for kind in KINDS}
NAMED = {  # by the part of the request that holds the receiver's URL
    "NamedInHeader": {
        "{$request.header.Gateway-Callback-Url}": _webhook("onCopyEvent", "Send an event to a receiver", *KINDS)
    },
    "NamedInBody": {"{$request.body#/url}": _webhook("onJobEvent", "Send an event to a receiver", *KINDS)},
}
