"""What the OpenAPI document says of an answer, held against the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from gateway.web.docs.openapi import document
from gateway.web.docs.openapi.components import ALWAYS, FAULTS
from gateway.web.docs.resolved import Operation, examples, follow

DOCUMENT = document("http://127.0.0.1:8000")
BY_HTTP = {"connection", "content-length", "content-type", "date", "transfer-encoding"}
"""Headers that tell of the message and not of the answer; OpenAPI has a place of its own for Content-Type."""


def fits(schema: Mapping[str, Any], content: Any) -> None:
    """Raises unless the content is as a schema of the document says."""
    _validator(json.dumps(schema)).validate(content)


def matches(schema: str, content: Any) -> None:
    fits({"$ref": f"#/components/schemas/{schema}"}, content)


@cache
def _validator(schema: str) -> Draft202012Validator:
    whole = {**json.loads(schema), "components": DOCUMENT["components"]}
    return Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)


def is_told(operation: Operation, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Raises unless the document tells of such an answer: its status, its headers, its body, the code of its error."""
    responses = operation.responses
    told = responses.get(str(status)) or responses.get("default")
    assert told is not None, (operation.name, status, body[:300])
    sent = {name.lower() for name in headers}
    assert {name.lower() for name in ALWAYS} <= sent
    unheard_of = sent - BY_HTTP - {name.lower() for name in told["headers"]}
    assert not unheard_of, (operation.name, status, unheard_of)
    for name, value in headers.items():
        if name in told["headers"]:
            schema = follow(DOCUMENT, told["headers"][name])["schema"]
            fits(schema, int(value) if schema["type"] == "integer" else value)
    if not body:
        return
    kind = headers.get("content-type", "").partition(";")[0]
    media = told["content"][kind if kind in told["content"] else "*/*"]
    if kind != "application/json":
        return
    content = json.loads(body)
    fits(media.get("schema", {}), content)
    if status >= 400:
        code = content["error"]["code"]
        may_be_upstreams = "*/*" in told["content"] and f"{status} {code}" not in FAULTS
        assert may_be_upstreams or code in examples(media), (operation.name, status, code)
