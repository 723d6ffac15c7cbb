"""What the parts of the OpenAPI document share: answers, errors and parameters."""

from __future__ import annotations

from typing import Any

TEXT = {"type": "string"}
IDS = {name: {"schema": TEXT} for name in ("request-id", "client-request-id")}
WAIT = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}


def bearer(description: str) -> dict[str, str]:
    return {"type": "http", "scheme": "bearer", "description": description}


def json_answer(schema: str, description: str, **headers: Any) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content, "headers": {**IDS, **headers}}


def empty_answer(description: str) -> dict[str, Any]:
    return {"description": description, "headers": IDS}


def errors(*codes: str) -> dict[str, Any]:
    said = {
        "400": "the input is wrong; nothing was done",
        "401": "the key is missing or wrong",
        "404": "nobody knows it",
        "408": "the body did not come in time",
        "409": "the first request with this Idempotency-Key is still being answered; or the job has 16 callbacks",
        "413": "the body is too large",
        "415": "the body is compressed",
        "422": "the Idempotency-Key was used for another request",
        "502": "upstreamUnreachable, outcomeUnknown, invalidUpstreamResponse or monitorHostNotAllowed",
        "503": "full, shutting down, or without its store; nothing was started",
    }
    return {code: json_answer("Error", said[code], **(WAIT if code in ("409", "503") else {})) for code in codes}


def parameter(name: str, where: str, description: str, *, required: bool = False, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": where,
        "description": description,
        "required": required,
        "schema": {"type": "string", **schema},
    }


JOB_ID = parameter("job", "path", "the job's id", required=True)
