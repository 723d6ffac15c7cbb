"""The gateway's OpenAPI and AsyncAPI documents, and the page at /docs that shows both.

Each is rendered once for a base URL and cached for the last few base URLs: rendering the page takes 15 ms, and no event
is sent meanwhile.
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
    """The OpenAPI document as JSON; `base` is the gateway's public URL, without a final slash."""
    return msgspec.json.encode(openapi.document(base))


@lru_cache(_BASES)
def asyncapi_json(base: str) -> bytes:
    """The AsyncAPI document as JSON, for the same `base`."""
    return msgspec.json.encode(asyncapi.document(base))


@lru_cache(_BASES)
def html(base: str) -> str:
    """The page at /docs; it must be sent with `POLICY`."""
    return page(openapi.document(base), asyncapi.document(base))
