"""The bodies of requests, within their limits."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
from starlette.requests import Request

from gateway.core.errors import GatewayError, invalid

BODY_LIMIT = 64 << 10
BODY_SECONDS = 30.0


async def body_of(request: Request) -> bytes:
    """The request's body, within its limits. Raises GatewayError: 408, 413 or 415."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise GatewayError(415, "unsupportedMediaType", "The body must not be compressed. Send it as it is.")
    length = request.headers.get("Content-Length", "0")
    if not length.isdecimal() or int(length) > BODY_LIMIT:
        raise _too_large()
    body = bytearray()
    try:
        with anyio.fail_after(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_LIMIT:
                    raise _too_large()
    except TimeoutError:
        raise GatewayError(408, "requestTimeout", f"The body did not come within {BODY_SECONDS:g} seconds.") from None
    return bytes(body)


def _too_large() -> GatewayError:
    return GatewayError(413, "requestTooLarge", f"The body must be at most {BODY_LIMIT} bytes.")


def json_object(body: bytes) -> dict[str, Any]:
    try:
        content = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # msgspec leaves bad UTF-8 as it is
        raise invalid(f"The body must be a JSON object, but it is no JSON ({error}).") from None
    if not isinstance(content, dict):
        raise invalid("The body must be a JSON object.")
    return content
