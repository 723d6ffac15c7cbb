"""The OpenAPI document's part on callbacks (webhooks): their routes, and the requests that receivers get."""

from __future__ import annotations

from typing import Any

from gateway.web.docs.openapi.components import (
    CALLBACK,
    TRACEPARENT,
    body,
    empty_answer,
    errors,
    json_answer,
    parameter,
    ref,
)
from gateway.web.docs.openapi.schemas import CALLBACK_FAILING, NEW_CALLBACK

_SECURITY: list[dict[str, list[str]]] = [{"jobKey": []}, {"operatorKey": []}]
_TAGS = ["Callbacks"]
_ERRORS = errors("401 unauthenticated", "404 callbackNotFound", "404 jobNotFound", "503 serviceNotAvailable")

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
    "200": {"description": "delivered, as any other 2xx; the next event may be sent"},
    "410": {"description": "gone; no further event is sent to this callback"},
    "default": {
        "description": "failed; tried again after 5 s, 5 min, 30 min … for about 75 h. A `Retry-After` of a 429 or "
        "503 is kept to. Redirects are not followed"
    },
}


def callbacks(operation: str, url: str) -> dict[str, Any]:
    """The `callbacks` of an operation that registers one; `url` is the expression for the receiver's URL.

    Everything is inlined but the schema: generators do not follow references here.
    """
    receive = {
        "operationId": f"{operation}Event",
        "tags": _TAGS,
        "summary": "Send an event to a receiver",
        "description": "Signed according to Standard Webhooks. Delivery is at least once, in the order of the log; "
        "a repeated delivery has the same `webhook-id`. The response must come within 15 s. Only its status counts; "
        "its head may have 32 KiB.",
        "parameters": [*SIGNATURE.values(), TRACEPARENT],
        "requestBody": {"required": True, "content": {"application/json": {"schema": ref("schemas", "Message")}}},
        "responses": _RECEIVER_RESPONSES,
    }
    return {"event": {url: {"post": receive}}}


PATHS: dict[str, Any] = {
    "/jobs/{job}/callbacks": {
        "parameters": [ref("parameters", "job")],
        "get": {
            "operationId": "listCallbacks",
            "tags": _TAGS,
            "summary": "List a job's callbacks, oldest first",
            "description": "With the state of their deliveries, without secrets.",
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
            "callbacks": callbacks("registerCallback", "{$request.body#/url}"),
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
            "description": "Events that it has not been sent are dropped.",
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
