"""The OpenAPI document of the HTTP face."""

from __future__ import annotations

from typing import Any


def document(base: str) -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {"title": "Copy gateway", "version": "1"},
        "servers": [{"url": base}],
        "paths": {},
    }
