"""The request that starts a job: sent through a gateway, at most once."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from gateway.cli.follow import (
    ANSWER,
    CONNECT,
    UNREACHABLE,
    Job,
    LostError,
    Patience,
    RefusedError,
    answer_text,
    broken,
    json_object,
)
from gateway.core.errors import REQUEST_IN_PROGRESS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BUSY = 0.5  # seconds between repeats of a request that is still in flight


class Answered(Exception):
    """Upstream did at once what it was asked for: there is no job. `text` is the answer's status, such as 204."""

    def __init__(self, text: str, body: bytes) -> None:
        super().__init__(text)
        self.body = body


async def start(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    body: bytes | None,
    token: str,
    *,
    headers: Mapping[str, str] | None = None,
    label: str | None = None,
    patience: float,
    notice: Callable[[str], None] = lambda _: None,
) -> Job:
    """Start a copy or another operation, at most once, and return its job.

    `body` is JSON, `label` names the job for people. A request whose response was lost is repeated with the same
    idempotency key. Raises RefusedError, LostError, and Answered.
    """
    sent = {
        "Accept": "application/json",
        **(headers or {}),
        "Authorization": f"Bearer {token}",
        "Idempotency-Key": str(uuid.uuid4()),
    }
    if body is not None:
        sent["Content-Type"] = "application/json"
    if label is not None:
        sent["Gateway-Label"] = label
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=ANSWER)
    where, waiting = URL(url, encoded=True), Patience(patience, notice)
    while True:
        try:
            async with session.request(
                method,
                where,
                data=body,
                headers=sent,
                timeout=timeout,
                allow_redirects=False,
                skip_auto_headers=("Content-Type",),
            ) as response:
                answer = await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            words, wait = broken(error), 1.0
            if not waiting.met:
                raise LostError(f"no gateway reachable at {where.origin()}: {words}; nothing was started") from None
        except UNREACHABLE as error:
            words, wait, waiting.met = broken(error), BUSY, True
        else:
            if not (waiting.met and response.status == 409 and _code(answer) == REQUEST_IN_PROGRESS.code):
                return _started(response, answer)
            words, wait = answer_text(response, answer), BUSY
        try:
            await waiting.wait(words, wait)
        except LostError as lost:
            raise LostError(f"{lost}. It may be running: look for its result before you start it again") from None


def _started(response: aiohttp.ClientResponse, answer: bytes) -> Job:
    words, job = answer_text(response, answer), json_object(answer)
    # 200: a repeat, after whose lost answer the job has already ended
    if response.status in (200, 202) and "Location" in response.headers and "jobId" in job:
        return Job(str(response.url.join(URL(response.headers["Location"], encoded=True))), job)
    if 400 <= response.status < 500:
        raise RefusedError(words)
    if response.status >= 500:
        raise LostError(words)
    if "sandbox" not in response.headers.get("Content-Security-Policy", ""):  # no gateway passes a body on without
        raise LostError(f"{response.url.origin()} does not seem to be a gateway: {words}")
    if response.status == 202:
        raise LostError("Upstream accepted it, but named nothing to follow. It may be running: look for its result")
    raise Answered(f"{response.status} {response.reason or ''}".rstrip(), answer)


def _code(body: bytes) -> str:
    error = json_object(body).get("error")
    return str(error.get("code")) if isinstance(error, dict) else ""
