"""One poll of a monitor, and what all watches of a process share for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from gateway.core.job import Answer, Job, reference
from gateway.graph.client import Monitor, Upstream
from gateway.graph.dialects import Lost, NoAnswer, Observation, Throttled, TokenRefused, interpret
from gateway.graph.documents import BROKEN
from gateway.jobs.host import Host
from gateway.jobs.identity import Identity
from gateway.jobs.loss import Patience
from gateway.jobs.pacing import HungLane, StartQueue
from gateway.jobs.schedule import Bounds
from gateway.membership import Runtime
from gateway.outbound.reply import Reply
from gateway.store import Store
from gateway.telemetry.logs import EventLog

_OUTCOMES: dict[type[Observation], str] = {
    Answer: "answered",
    Lost: "lost",
    TokenRefused: "lost",
    Throttled: "throttled",
    NoAnswer: "no_answer",
}

HUNG_AT_ONCE = 2000
"""Most polls in flight for jobs whose last polls ran into their time limit: with 3,600 such jobs none waits for it."""

SHORTEST_SECRET = 16
"""Characters of the shortest token that is looked for in bodies: many texts hold shorter ones by chance."""

log = EventLog("gateway.watch")


class PollContext(Runtime, frozen=True, kw_only=True):
    """The runtime, and the rest of the context that all watches of a process share.

    `deadline` is the longest life of a job in seconds; `rate` is the limit in polls a second, of the process and of
    each host. `identity` is the gateway's own at upstream, if it has one. `troubled` is the store's, None when no other
    gateway shares it.
    """

    store: Store
    upstream: Upstream
    bounds: Bounds
    patience: Patience
    deadline: float
    rate: float
    start_queue: StartQueue
    hung_lane: HungLane
    identity: Identity | None = None
    troubled: Callable[[str], Awaitable[tuple[int, int]]] | None = None


async def poll(
    job: Job, monitor: Monitor, host: Host, context: PollContext, authorization: str | None = None
) -> Observation:
    """Ask a job's monitor once; count and trace it. `authorization` is for an operation's own status."""
    now = asyncio.get_running_loop().time
    sent = now()
    with context.tracing.calling("GET", "{monitor}", under=job.target.trace) as span:
        reply = await context.upstream.poll(monitor, span.along({}), authorization)
        observed = reply if isinstance(reply, NoAnswer) else _interpreted(reply, job, monitor, context, authorization)
        outcome = "timed_out" if isinstance(observed, NoAnswer) and observed.hung else _OUTCOMES[type(observed)]
        span.of_job(job.id)
        span.set_attributes(host=host.kind, outcome=outcome)
        if isinstance(reply, NoAnswer):
            span.fail(outcome)
        else:
            span.answered(reply.code)
    host.poll_duration.observe(now() - sent)
    host.polls[outcome].inc()
    return observed


def _without_token(reply: Reply, authorization: str) -> Reply:
    """A reply whose body does not repeat the token that it was asked for under."""
    token = authorization.rpartition(" ")[2].encode()
    if len(token) < SHORTEST_SECRET or token not in reply.body:
        return reply
    return msgspec.structs.replace(reply, body=reply.body.replace(token, BROKEN.encode()))


def _interpreted(
    reply: Reply, job: Job, monitor: Monitor, context: PollContext, authorization: str | None
) -> Observation:
    if authorization is not None:
        reply = _without_token(reply, authorization)
    try:
        return interpret(
            reply,
            monitor.url,
            context.clock(),
            allowed=context.upstream.allows,
            under_token=authorization is not None,
        )
    except Exception as error:  # noqa: BLE001 - the answer to one job must not end the process
        # Without a traceback, which may contain the monitor URL.
        log.error("answer_unreadable", job=reference(job.id), status=reply.code, error=type(error).__name__)  # noqa: TRY400
        return NoAnswer("it cannot be read")
