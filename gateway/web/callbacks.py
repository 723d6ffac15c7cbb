"""The routes of a job's callbacks (webhooks). All require the jobKey or the operator key."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from gateway.callbacks.engine import Callbacks
from gateway.core.callback import as_listed, as_registered, callback_request, new_callback
from gateway.core.errors import CALLBACK_NOT_FOUND, JOB_NOT_FOUND, TOO_MANY_CALLBACKS, GatewayError
from gateway.core.job import reference
from gateway.core.keys import new_callback_id
from gateway.membership import Runtime
from gateway.store import Store
from gateway.telemetry.logs import EventLog
from gateway.web.answers import json_answer
from gateway.web.requests import Access, body_of, json_object, path_id

log = EventLog("gateway.callbacks")


class CallbackRoutes:
    def __init__(
        self,
        store: Store,
        callbacks: Callbacks,
        access: Access,
        runtime: Runtime,
    ) -> None:
        self._store = store
        self._callbacks = callbacks
        self._access = access
        self._clock = runtime.clock

    async def register(self, request: Request) -> Response:
        """Register a callback on a job, running or ended."""
        job_id = self._job(request)
        given = json_object(await body_of(request))
        wanted = callback_request(given.get("url"), given.get("events"), given.get("secret"))
        if await self._store.get(job_id) is None:
            raise GatewayError(JOB_NOT_FOUND)
        await self._callbacks.check(wanted.url)
        callback = new_callback(wanted, job_id, new_callback_id(), self._clock())
        match await self._store.add_callback(callback):
            case "unknownJob":
                raise GatewayError(JOB_NOT_FOUND)
            case "tooMany":
                raise GatewayError(TOO_MANY_CALLBACKS)
        self._callbacks.take(callback)
        log.info("callback_registered", job=reference(job_id), to=callback.origin, wants=callback.events)
        return json_answer(as_registered(callback), 201)

    async def list(self, request: Request) -> Response:
        """A job's callbacks, oldest first."""
        job_id = self._job(request)
        found = await self._store.callbacks(job_id)
        if not found and await self._store.get(job_id) is None:
            raise GatewayError(JOB_NOT_FOUND)
        return json_answer({"value": [as_listed(callback) for callback in found]})

    async def remove(self, request: Request) -> Response:
        """Remove a callback; no further event is sent to it."""
        job_id, callback_id = self._job(request), path_id(request, "callback")
        if not await self._store.remove_callback(job_id, callback_id):
            raise await self._unknown(job_id)
        self._callbacks.drop(callback_id)
        log.info("callback_removed", job=reference(job_id))
        return Response(status_code=204)

    async def retry(self, request: Request) -> Response:
        """Retry a callback now, with a new retry schedule; a delivered callback stays delivered."""
        job_id, callback_id = self._job(request), path_id(request, "callback")
        callback = await self._store.revive_callback(job_id, callback_id)
        if callback is None:
            raise await self._unknown(job_id)
        self._callbacks.take(callback)
        log.info("callback_retried", job=reference(job_id), to=callback.origin)
        return json_answer(as_listed(callback), 202)

    def _job(self, request: Request) -> str:
        job_id = path_id(request, "job")
        self._access.check(request, job_id)
        return job_id

    async def _unknown(self, job_id: str) -> GatewayError:
        if await self._store.get(job_id) is None:
            return GatewayError(JOB_NOT_FOUND)
        return GatewayError(CALLBACK_NOT_FOUND)
