"""Hosts that lie for a while: front ends whose 401, 403 and 404 say nothing about the monitor behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from gateway.simulator.answers import HTML, TEXT, Answer, Delivery, GraphError, document
from gateway.simulator.scenario import Scenario, plain, within
from gateway.simulator.troubles import BUSY, DENIED, GONE, PAGE, THROTTLED, UNAUTHENTICATED

if TYPE_CHECKING:
    from gateway.simulator.scenario import Monitor

PATH = "/lie"
WINDOW = 45.0  # seconds
GENERAL = {"error": {"code": "generalException", "message": "General Exception While Processing"}}
RPS = b"RPS: the ticket could not be validated.\r\n"
NOT_FOUND = (
    b'<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-strict.dtd">\r\n'
    b"<html><head><title>404 - File or directory not found.</title></head><body><h1>Server Error</h1>"
    b"<h2>404 - File or directory not found.</h2></body></html>\r\n"
)

LIES = {
    "401": document(401, GENERAL),
    "401-plain": document(401, UNAUTHENTICATED),
    "401-text": Answer(401, RPS, TEXT),
    "403": document(403, GENERAL),
    "403-plain": document(403, DENIED),
    "404": Answer(404, b"", None),
    "404-html": Answer(404, NOT_FOUND, HTML),
    "404-plain": document(404, GONE),
    "429": document(429, THROTTLED, {"Retry-After": "1"}),
    "500": Answer(500, PAGE, HTML),
    "503": document(503, BUSY),
    "hang": Answer(200, delivery=Delivery.HANG),
    "reset": Answer(200, delivery=Delivery.RESET),
}

HELP = f"""\
Let every monitor of this simulator lie for a while: curl -X POST '{{origin}}{PATH}?seconds={WINDOW:g}&answer=401'
End it: curl -X DELETE {{origin}}{PATH}
  answer=…    one of {", ".join(LIES)};
              "plain" ones have an error code that says so
"""


@dataclass(frozen=True, slots=True)
class Lie:
    """What every monitor answers until a time of the simulator's clock."""

    name: str
    until: float

    @property
    def answer(self) -> Answer:
        return LIES[self.name]


def lie(query: str, now: float) -> Lie:
    """Return the lie that a request asks for. Raises GraphError (400) for an invalid parameter."""
    parameters = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    name = parameters.get("answer", "401")
    try:
        seconds = within("seconds", float(parameters.get("seconds", WINDOW)))
    except ValueError as error:
        raise GraphError(400, "invalidRequest", str(error)) from None
    if name not in LIES:
        raise GraphError(400, "invalidRequest", f"answer is {name!r}; it must be one of {', '.join(LIES)}.")
    return Lie(name, now + seconds)


def _lying(name: str, summary: str, answer: str) -> Scenario:
    return Scenario(name, summary, _at_first(answer), window=WINDOW)


def _at_first(answer: str) -> Monitor:
    return lambda moment: LIES[answer] if moment.early else plain(moment)


LYING = (
    _lying("lying-401", "401 generalException.", "401"),
    _lying("lying-401-text", "401 with a line of text.", "401-text"),
    _lying("lying-403", "403 generalException.", "403"),
    _lying("lying-404", "404 with nothing.", "404"),
    _lying("lying-404-html", "404 with the web server's page in HTML.", "404-html"),
    _lying("late-404", "404 itemNotFound until the monitor is there.", "404-plain"),
    Scenario("doubtful-401", "401 generalException from the start.", lambda _: LIES["401"]),
    Scenario(
        "doubtful-404",
        "404 with the web server's page from half-way on.",
        lambda m: LIES["404-html"] if m.part >= 0.5 else plain(m),
    ),
)
