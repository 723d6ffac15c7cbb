"""`gateway listen`: follows jobs' streams and posts their events to a receiver, signed as callbacks are."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import aiohttp
import anyio
from yarl import URL

from gateway.cli.display import advice, clean, stderr_line
from gateway.cli.follow import UNREACHABLE, LostError, Message, RefusedError, Tail, broken, json_object
from gateway.cli.run import COMPLETED, FAILED, LOST, WRONG_USE
from gateway.core.callback import CallbackRequest, new_callback, webhook_message
from gateway.core.job import Event, iso
from gateway.core.keys import new_callback_id, webhook_headers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.streams.memory import MemoryObjectReceiveStream

    from gateway.core.callback import Callback
    from gateway.core.job import Kind

ATTEMPT = aiohttp.ClientTimeout(total=15.0)
"""One delivery takes as long as one of the gateway's at most."""


class Forwarding:
    """Posts the events of the kinds `events` to `receiver`, a URL, under `secret`."""

    def __init__(self, receiver: str, events: tuple[Kind, ...], secret: str) -> None:
        self._request = CallbackRequest(receiver, events, secret)
        self._receiver = URL(receiver)
        self._status = COMPLETED

    async def run(self, jobs: Sequence[str], patience: float) -> int:
        """Follow the jobs, given by their URLs, until all have ended, and return the exit status.

        `patience` is in seconds. What happens to one job does not end the others. Raises BrokenPipeError.
        """
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
                anyio.create_task_group() as group,
            ):
                for job in jobs:
                    group.start_soon(self._follow, session, job, patience)
        except BaseExceptionGroup as errors:
            if errors.subgroup(BrokenPipeError) is not None:
                raise BrokenPipeError from None
            raise
        return self._status

    async def _follow(self, session: aiohttp.ClientSession, job: str, patience: float) -> None:
        callback = new_callback(self._request, job.rpartition("/")[2], new_callback_id(), time.time())
        # Unbounded: a stream that is not read would be cut, and a log has a limit of its own.
        send, receive = anyio.create_memory_object_stream[Message](math.inf)
        async with anyio.create_task_group() as group:
            group.start_soon(self._forward, session, callback, receive)
            with send:
                try:
                    await Tail(
                        session,
                        job,
                        patience=patience,
                        show=lambda _: None,
                        notice=lambda text: stderr_line(f"{job}: {text}"),
                        message=send.send_nowait,
                    ).ended()
                except (LostError, RefusedError) as error:
                    stderr_line(f"{job}: {advice(str(error))}")
                    self._ends_with(LOST if isinstance(error, LostError) else WRONG_USE)

    async def _forward(
        self, session: aiohttp.ClientSession, callback: Callback, messages: MemoryObjectReceiveStream[Message]
    ) -> None:
        with messages:
            async for message in messages:
                for kind in callback.events:
                    if kind == message.event:
                        event = Event(int(message.id), kind, status_changed=True, data=message.data.encode())
                        await self._post(session, callback, event)

    async def _post(self, session: aiohttp.ClientSession, callback: Callback, event: Event) -> None:
        message_id, body = webhook_message(callback, event)
        now, begun = time.time(), anyio.current_time()
        headers = {
            "Content-Type": "application/json",
            **webhook_headers(callback.secret, message_id, int(now), body),
        }
        try:
            async with session.post(
                self._receiver, data=body, headers=headers, timeout=ATTEMPT, allow_redirects=False
            ) as response:
                answer, is_accepted = f"{response.status}", 200 <= response.status < 300
        except UNREACHABLE as error:
            answer, is_accepted = broken(error), False
        if not is_accepted:
            if self._status == COMPLETED:
                stderr_line("what the receiver does not accept is not sent again; run the command again to send it all")
            self._ends_with(FAILED)
        took = round(1000 * (anyio.current_time() - begun))
        title = json_object(event.data).get("label") or callback.job_id
        print(f"{iso(now)}  job.{event.kind:<9}  {clean(title)}  {answer}  {took} ms", flush=True)

    def _ends_with(self, status: int) -> None:
        self._status = max(self._status, status)
