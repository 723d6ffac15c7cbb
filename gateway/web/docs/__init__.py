"""What the gateway says of itself: the OpenAPI and AsyncAPI documents, and the page at /docs that shows both.

Each is made once for a base URL and kept for a few of them: making the page takes 15 ms, in which no event is sent.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from gateway.web.docs import asyncapi, openapi
from gateway.web.docs.page import POLICY, page

__all__ = ["POLICY", "asyncapi_json", "html", "openapi_json"]
_BASES = 8


@lru_cache(_BASES)
def openapi_json(base: str) -> bytes:
    return msgspec.json.encode(openapi.document(base))


@lru_cache(_BASES)
def asyncapi_json(base: str) -> bytes:
    return msgspec.json.encode(asyncapi.document(base))


@lru_cache(_BASES)
def html(base: str) -> str:
    return page(openapi.document(base), asyncapi.document(base))
