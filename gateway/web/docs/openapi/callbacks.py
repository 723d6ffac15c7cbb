"""The OpenAPI document's part on callbacks: their routes, and what receivers are sent."""

from __future__ import annotations

from typing import Any

from gateway.core.callback import KINDS
from gateway.core.job import Kind
from gateway.web.docs.openapi.components import CALLBACK, body, empty_answer, errors, json_answer, parameter, ref
from gateway.web.docs.openapi.schemas import CALLBACK_FAILING, COMPLETED, FAILED, NEW_CALLBACK, RUNNING

_SECURITY: list[dict[str, list[str]]] = [{"jobKey": []}, {"operatorKey": []}]
_TAGS = ["Callbacks"]
_NONE_SUCH = errors("401 unauthenticated", "404 callbackNotFound", "404 jobNotFound", "503 serviceNotAvailable")

PATHS: dict[str, Any] = {
    "/jobs/{job}/callbacks": {
        "parameters": [ref("parameters", "job")],
        "get": {
            "operationId": "listCallbacks",
            "tags": _TAGS,
            "summary": "List a job's callbacks, oldest first",
            "security": _SECURITY,
            "responses": {
                "200": json_answer(ref("schemas", "Callbacks"), "all of them", failing={"value": [CALLBACK_FAILING]}),
                **errors("401 unauthenticated", "404 jobNotFound", "503 serviceNotAvailable"),
            },
        },
        "post": {
            "operationId": "registerCallback",
            "tags": _TAGS,
            "summary": "Register a callback on a job, running or ended",
            "description": "Registered late, it is told all the same. At most 16 a job.",
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
                    ref("schemas", "NewCallback"), "registered; its secret is shown only here", new=NEW_CALLBACK
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
            "responses": {"204": empty_answer("it is told nothing more"), **_NONE_SUCH},
        },
    },
    "/jobs/{job}/callbacks/{callback}/retry": {
        "parameters": [ref("parameters", "job"), ref("parameters", "callback")],
        "post": {
            "operationId": "retryCallback",
            "tags": _TAGS,
            "summary": "Try a callback at once, with all its tries",
            "description": "Also one that is exhausted or gone. One that was delivered stays so.",
            "security": _SECURITY,
            "responses": {
                "202": json_answer(ref("schemas", "Callback"), "how it stands", failing=CALLBACK_FAILING),
                **_NONE_SUCH,
            },
        },
    },
}

SIGNATURE = {
    "webhook-id": parameter(
        "webhook-id", "header", "the same on every attempt of an event", f"msg_{CALLBACK}_9", required=True
    ),
    "webhook-timestamp": parameter(
        "webhook-timestamp",
        "header",
        "when this attempt was made, in seconds since 1970",
        "1795383601",
        required=True,
        pattern="^[0-9]+$",
    ),
    "webhook-signature": parameter(
        "webhook-signature",
        "header",
        "v1, and HMAC-SHA256 of webhook-id.webhook-timestamp.body under the secret, in base64",
        "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
        required=True,
        pattern="^v1,[A-Za-z0-9+/]+=*$",
    ),
}
_TOLD = {
    "2XX": {"description": "taken; the next event may come"},
    "410": {"description": "no more of this callback, please"},
    **{
        code: {"description": "later, please", "headers": {"Retry-After": ref("headers", "Retry-After")}}
        for code in ("429", "503")
    },
    "default": {"description": "tried again after 5 s, 5 min, 30 min … for about 75 h; a redirect is not followed"},
}
STATES: dict[Kind, dict[str, Any]] = {"progress": RUNNING, "completed": COMPLETED, "failed": FAILED}


def message(kind: Kind) -> dict[str, Any]:
    """An example of what a receiver is sent."""
    return {"type": f"job.{kind}", "timestamp": STATES[kind]["at"], "data": STATES[kind]}


def _told(name: str, summary: str, *kinds: Kind) -> dict[str, Any]:
    return {
        "post": {
            "operationId": name,
            "tags": _TAGS,
            "summary": summary,
            "description": "Signed as Standard Webhooks say. It comes at least once, in the order of the log; "
            "`webhook-id` tells what comes again. An answer is waited for 15 s.",
            "parameters": [ref("parameters", name) for name in (*SIGNATURE, "traceparent")],
            "requestBody": body(ref("schemas", "Message"), **{kind: message(kind) for kind in kinds}),
            "responses": _TOLD,
        }
    }


WEBHOOKS = {f"job.{kind}": _told(f"on{kind.title()}", f"A callback is told of a {kind} event", kind) for kind in KINDS}
NAMED = {  # by whom each is named to the gateway
    "NamedInHeader": {"{$request.header.Gateway-Callback-Url}": _told("onCopyEvent", "A callback is told", *KINDS)},
    "NamedInBody": {"{$request.body#/url}": _told("onJobEvent", "A callback is told", *KINDS)},
}
