"""One request to a gateway under a key: its answer, or why there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
from yarl import URL

from gateway.cli.follow import ANSWER, CONNECT, UNREACHABLE, LostError, RefusedError, answer_text, broken, json_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.cli.follow import State


async def call(
    session: aiohttp.ClientSession, method: str, url: str, key: str, body: Mapping[str, Any] | None = None
) -> tuple[Mapping[str, str], State]:
    """Send a request and return the headers and the JSON object of its answer, which is empty for any other body.

    `key` is the operator key; for a job, its jobKey does too. Raises RefusedError for a 3xx or 4xx, LostError for a 5xx
    or no answer.
    """
    where = URL(url, encoded=True)
    headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=ANSWER)
    try:
        async with session.request(
            method, where, json=body, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            content = await response.read()
    except UNREACHABLE as error:
        raise LostError(f"no gateway reachable at {where.origin()}: {broken(error)}") from None
    if response.status == 401:
        keys = "the GATEWAY_OPERATOR_KEY that the gateway was started with or printed at its first start"
        if where.name != "jobs":
            first = "the first line of gateway copy --json, or start --json, has it"
            keys = f"the jobKey of the response that named the job ({first}), or {keys}"
        raise RefusedError(f"the gateway at {where.origin()} rejects this key. Use {keys}")
    if response.status >= 500:
        raise LostError(answer_text(response, content))
    if response.status >= 300:
        raise RefusedError(answer_text(response, content))
    return response.headers, json_object(content)
