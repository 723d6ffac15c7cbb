"""The simulator: one aiohttp handler that records each request, computes the response, and sends it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter, deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from gateway.simulator.answers import HTML, Answer, GraphError, document, send
from gateway.simulator.around import around
from gateway.simulator.catalogue import Choice, checked, choose, listing, page
from gateway.simulator.drives import Address, Tree, address, new_id
from gateway.simulator.lies import HELP as LIE_HELP
from gateway.simulator.lies import PATH as LIE
from gateway.simulator.lies import Lie, lie
from gateway.simulator.normal import LOGIN, failed_by_name
from gateway.simulator.operations import Request, parse, segments
from gateway.simulator.receiver import HELP, Receiver
from gateway.simulator.receiver import PATH as RECEIVER
from gateway.simulator.record import Operation, RecordedRequest
from gateway.simulator.rules import Plan, change, is_move, not_found, plan, source_item, update
from gateway.simulator.scenario import (
    DOCUMENTED_ID,
    DOCUMENTED_NAME,
    Copy,
    Moment,
    Origins,
    accepted,
    new_token,
    origins,
    spellings,
    unhopped,
)
from gateway.simulator.siblings import KINDS
from gateway.simulator.tokens import Results, begin, check_bearer, check_poll
from gateway.simulator.troubles import GONE, PAGE, UNAUTHENTICATED

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.simulator.scenario import Scenario

LARGEST_REQUEST = 4 * 2**20
DISCARD = 9  # the port of the discard service, used until the dead ends are open
AUDIENCE = {"error": {"code": "unauthenticated", "message": "Invalid audience Uri 'https://graph.microsoft.com/'"}}
TEXT_PAGE = "text/plain; charset=utf-8"
KEPT = 10_000  # requests


class Simulator:
    """Plays Graph and its monitors, and with a `receiver` also the receiver of callbacks.

    Copies have no tasks: a poll computes their state from `clock` (seconds). Raises ValueError for invalid defaults.
    """

    def __init__(
        self,
        *,
        scenario: str = "copy",
        seconds: float = 5.0,
        steps: int = 20,
        receiver: Receiver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.receiver = receiver
        self.scenario, self.seconds, self.steps = checked(scenario, seconds, steps)
        self.clock = clock
        self.url = ""  # set while it is running, like the next
        self.monitor_url = ""
        self.monitor_port: int | None = None  # None: monitors are on the port of the copy request
        self.refusing_port = DISCARD
        self.silent_port = DISCARD
        self.tree = Tree()
        self.requests: deque[RecordedRequest] = deque(maxlen=KEPT)
        self.operations: dict[str, Operation] = {}  # by operation id, oldest first
        self.refused = 0  # polls with an Authorization that the monitor must not receive
        self._monitors: dict[str, Operation] = {}  # by path with query
        self._monitor_paths: set[str] = set()
        self._numbers: Counter[tuple[str, str]] = Counter()
        self._results = Results()
        self._lie: Lie | None = None
        self._closing = asyncio.Event()

    def app(self) -> web.Application:
        """Return the application; a hanging response ends when the application shuts down."""
        app = web.Application(client_max_size=LARGEST_REQUEST)
        app.router.add_route("*", "/{anything:.*}", self._handle)

        async def start(_: web.Application) -> None:
            self._closing = asyncio.Event()

        async def stop(_: web.Application) -> None:
            self._closing.set()

        app.on_startup.append(start)
        app.on_shutdown.append(stop)
        return app

    def asked(self, kind: str) -> list[RecordedRequest]:
        """Return the recorded requests of a kind, oldest first; `RecordedRequest` lists the kinds."""
        return [request for request in self.requests if request.kind == kind]

    def polls(self, operation: str | None = None) -> list[RecordedRequest]:
        """Return the recorded polls of one monitor, or of all, oldest first."""
        return [request for request in self.asked("monitor") if operation in (None, request.operation)]

    def forget(self) -> None:
        """Clear the record; copies and items stay."""
        self.requests.clear()
        self.refused = 0

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        now = datetime.now(UTC)
        target = request.raw_path
        path, _, query = target.partition("?")
        headers = {name.lower(): value for name, value in request.headers.items()}
        own = self._own_page(request, path)
        if self.receiver is not None and (path == RECEIVER or path.startswith(f"{RECEIVER}/")):
            own = self.receiver.handle(request.method, path, query, headers, body)
        if own is not None:
            return await send(request, own, {}, self._closing)
        asked = RecordedRequest(self.clock(), now.isoformat(), request.method, path, query, headers, body)
        self.requests.append(asked)
        echoed: dict[str, str] = {}
        place, hop = unhopped(target)
        polled = self._monitors.get(place) or self._monitors.get(segments(place))
        if polled is not None:
            answer = self._monitor(polled, asked, now, hop)
        elif path.startswith(("/v1.0/", "/beta/")):
            request_id = str(uuid.uuid4())
            echoed = {"request-id": request_id, "client-request-id": headers.get("client-request-id", request_id)}
            try:
                result = self._graph(request, asked)
            except GraphError as error:
                result = error
            answer = result if isinstance(result, Answer) else result.answer(now, *echoed.values())
        else:
            answer = self._elsewhere(asked)
        asked.status = answer.status
        return await send(request, answer, echoed, self._closing)

    def _own_page(self, request: web.Request, path: str) -> Answer | None:
        """Return a page of the simulator itself, which is not recorded; None for any other path."""
        if path == "/record":
            if request.method == "DELETE":
                self.forget()
                return Answer(204, content_type=None)
            return document(
                200,
                {
                    "refused": self.refused,
                    "operations": [operation.as_json() for operation in self.operations.values()],
                    "requests": [recorded.as_json() for recorded in self.requests],
                },
            )
        if path == LIE:
            return self._lie_control(request)
        if path != "/":
            return None
        facts = (f"{request.scheme}://{request.host}", self.scenario, self.seconds, self.steps)
        if "application/json" in request.headers.get("Accept", ""):
            return document(200, listing(*facts))
        more = LIE_HELP if self.receiver is None else f"{LIE_HELP}\n{HELP}"
        return Answer(200, page(*facts, more.format(origin=facts[0])).encode(), TEXT_PAGE)

    def _lie_control(self, request: web.Request) -> Answer:
        if request.method == "DELETE":
            self._lie = None
            return Answer(204, content_type=None)
        now = self.clock()
        if request.method == "POST":
            try:
                self._lie = lie(request.query_string, now)
            except GraphError as error:
                return error.answer(datetime.now(UTC), str(uuid.uuid4()), "")
        left = 0.0 if self._lie is None else max(0.0, self._lie.until - now)
        return document(200, {"answer": self._lie.name if self._lie and left else None, "seconds": left})

    def _monitor(self, operation: Operation, asked: RecordedRequest, now: datetime, hop: int) -> Answer:
        asked.kind = "monitor"
        asked.operation = operation.copy.operation
        if operation.copy.status is not None:
            try:
                check_poll(operation, asked)
            except GraphError as error:
                return error.answer(now, str(uuid.uuid4()), "")
        elif asked.authorized != operation.scenario.bearer:
            self.refused += asked.authorized
            return document(401, UNAUTHENTICATED)
        if asked.method not in ("GET", "HEAD"):
            return document(405, {"error": {"code": "invalidRequest", "message": "A monitor is only read."}})
        if self._lie is not None and asked.at >= self._lie.until:
            self._lie = None
        waited = asked.at - operation.polled[-1] if operation.polled else float("inf")
        operation.polls += 1
        operation.polled.append(asked.at)
        moment = Moment(
            operation.copy,
            asked.at - operation.started,
            now,
            operation.polls,
            waited,
            operation.bound,
            operation.end_seen,
            hop,
            asked.headers.get("prefer", ""),
            operation.longest_wait,
        )
        answer = operation.monitor(moment) if self._lie is None else self._lie.answer
        wait = answer.headers.get("Retry-After", "")
        operation.bound = float(wait) if wait.isdecimal() else 0.0
        operation.end_seen = operation.end_seen or (moment.done and self._lie is None)
        return answer

    def _graph(self, request: web.Request, asked: RecordedRequest) -> Answer | GraphError:
        started = parse(asked.method, asked.path, asked.body)
        if started is not None:
            return self._begin(request, asked, started)
        found = address(asked.path)
        if found is not None:
            changed = "move" if is_move(asked.body) else "update"
            asked.kind = found.action or (changed if asked.method == "PATCH" else "item")
        if not asked.authorized:
            headers = {"WWW-Authenticate": LOGIN}
            return GraphError(401, "InvalidAuthenticationToken", "Access token is empty.", headers=headers)
        if found is None:
            return self._beside(request, asked)
        if asked.method not in (("POST",) if found.action else ("GET", "PATCH")):
            return GraphError(405, "BadRequest", "The HTTP method is not supported for the request URL.")
        choice = choose(asked.query, [found.leaf], self.scenario, self.seconds, self.steps)
        if choice.scenario.refusal is not None:
            return choice.scenario.refusal
        if asked.kind == "item":
            return self._item(asked, found, choice)
        if asked.kind == "copy":
            return self._start(request, asked, found, choice, plan(self.tree, found, asked.body, choice, asked.at))
        decide = update if asked.kind == "update" else change
        made = decide(self.tree, found, asked.headers, asked.body, choice, asked.at)
        return made if isinstance(made, Answer) else self._start(request, asked, found, choice, made)

    def _beside(self, request: web.Request, asked: RecordedRequest) -> Answer | GraphError:
        if asked.path.endswith("/drives('me')/items('')"):
            return GraphError(400, "BadRequest", "API not found")
        result = self._results.read(asked)
        if result is not None:
            asked.kind = "result"
            return result
        answer = around(self.tree, asked, self._origins(request).graph)
        if answer is None:
            return GraphError(400, "BadRequest", "Resource not found for the segment.")
        asked.kind = "around"
        return answer

    def _item(self, asked: RecordedRequest, found: Address, choice: Choice) -> Answer:
        item = source_item(self.tree, found, choice, asked.at)
        if item.hidden:
            item.hidden -= 1
            raise not_found()
        headers = {"ETag": item.etag}
        if asked.headers.get("if-none-match") == item.etag:
            return Answer(304, content_type=None, headers=headers)
        return document(200, item.document(asked.at), headers)

    def _start(
        self, request: web.Request, asked: RecordedRequest, found: Address, choice: Choice, made: Plan
    ) -> Answer | GraphError:
        scenario = choice.scenario
        kind, start = KINDS[asked.kind]
        self._numbers[scenario.name, found.drive] += 1
        copy = Copy(
            operation=str(uuid.uuid4()),
            token=new_token(),
            number=self._numbers[scenario.name, found.drive],
            version=found.version,
            origins=self._origins(request),
            source_id=made.source.id,
            drive_id=made.target.drive,
            resource_id=self._resource_id(asked.kind, made),
            name=made.name,
            seconds=choice.seconds,
            steps=choice.steps,
            every=choice.every,
            window=choice.window,
            limit=choice.limit,
            kind=kind,
        )
        answer = start(copy) if scenario.start is accepted else scenario.start(copy)
        monitor = failed_by_name if made.clash else scenario.monitor
        operation = Operation(copy, scenario, monitor, asked.at)
        self.operations[copy.operation] = operation
        asked.operation = copy.operation
        if isinstance(answer, Answer) and answer.status == 202:
            self._open_monitor(operation, answer)
        if asked.kind == "move" and scenario.lands:
            self.tree.move(made.source, made.target, made.name)
        elif asked.kind == "copy" and scenario.lands and not made.clash:
            self._land(made, copy, scenario, asked.at)
        return answer

    def _begin(self, request: web.Request, asked: RecordedRequest, wanted: Request) -> Answer | GraphError:
        kind = wanted.kind
        asked.kind = kind.action
        check_bearer(asked)
        choice = choose(asked.query, wanted.candidates(), self.scenario, self.seconds, self.steps)
        if choice.scenario.refusal is not None:
            return choice.scenario.refusal
        self._numbers[choice.scenario.name, kind.action] += 1
        number = self._numbers[choice.scenario.name, kind.action]
        operation, answer = begin(wanted, asked, choice, self._origins(request), number)
        self.operations[operation.copy.operation] = operation
        at_once = isinstance(answer, Answer) and answer.status != 202
        if isinstance(answer, Answer) and not at_once:
            self._open_monitor(operation, answer)
        self._results.add(operation, at_once=at_once)
        return answer

    def _open_monitor(self, operation: Operation, answer: Answer) -> None:
        operation.location = answer.headers.get("Location") or answer.headers.get("Operation-Location")
        try:
            parts = urlsplit(operation.location or "")
        except ValueError:
            return
        if parts.path.startswith("/_foreign/"):
            return
        place = parts.path
        if operation.copy.status is not None:
            if place.startswith("/teams"):
                place = f"/{operation.copy.version}{place}"
            self._monitors[segments(place)] = operation
        for path in spellings(place) if place else ():
            self._monitors[f"{path}?{parts.query}" if parts.query else path] = operation
            self._monitor_paths.add(path)

    def _resource_id(self, kind: str, made: Plan) -> str:
        """The id that the monitor tells at the end; empty when it tells none."""
        if kind != "copy":
            return made.source.id if kind == "move" else ""
        if made.children_only:
            return made.target.id
        if made.name == DOCUMENTED_NAME and not self.tree.holds(DOCUMENTED_ID):
            return DOCUMENTED_ID
        return new_id()

    def _land(self, made: Plan, copy: Copy, scenario: Scenario, now: float) -> None:
        appears = now if scenario.at_once else now + copy.seconds
        fills = copy.seconds if scenario.grows else 0.0
        if made.replaced is not None:
            self.tree.remove(made.replaced)
        if not made.children_only:
            facts = {"appears": appears, "fills": fills, "hidden": scenario.hidden}
            self.tree.copy(made.source, made.target, identity=copy.resource_id, name=made.name, **facts)
            return
        for child in list(made.source.children.values()):
            name = child.name
            if name.lower() in made.target.children:
                name = self.tree.free_name(name, made.target, file=not child.folder)
            self.tree.copy(child, made.target, identity=new_id(), name=name, appears=appears, fills=fills)

    def _origins(self, request: web.Request) -> Origins:
        url = f"{request.scheme}://{request.host}"
        return origins(url, monitor=self.monitor_port, refusing=self.refusing_port, silent=self.silent_port)

    def _elsewhere(self, asked: RecordedRequest) -> Answer:
        if asked.path.startswith("/_foreign/"):
            asked.kind = "foreign"
            return document(401, AUDIENCE)
        if asked.path in self._monitor_paths:
            # The path with another query: a monitor requires the token in its query.
            asked.kind = "monitor"
            return document(401, UNAUTHENTICATED)
        if asked.path == "/_layouts/15/Throttle.htm":
            return Answer(200, PAGE, HTML)
        return document(404, GONE)
