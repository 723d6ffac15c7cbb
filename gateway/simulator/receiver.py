"""A receiver of callbacks: prints and verifies each one, and misbehaves as its URL requests."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from gateway.simulator.answers import Answer, Delivery, document

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PATH = "/receiver"
SECRETS = f"{PATH}/secrets"
KEPT = 1000  # messages
TOLERANCE = 300  # largest difference of a timestamp from the clock, in seconds
LARGE = 1 << 20  # bytes
SIGNATURE = re.compile(r"v1,[A-Za-z0-9+/]{43}=")

HELP = f"""\
The receiver of callbacks (webhooks): {{origin}}{PATH}
  received callbacks   curl {{origin}}{PATH}       clear them: curl -X DELETE {{origin}}{PATH}
  add a secret         curl -X PUT {{origin}}{SECRETS} -d whsec_...

The query of a callback's URL selects the response, always or with &times=N for the first N requests:
  ?fail=500            that code           ?hang        no response      ?drop     the connection is reset
  ?throttle=2          429, Retry-After    ?redirect    307              ?drip     a response byte by byte
  ?unavailable=2       503, Retry-After    ?gone        410              ?large    a response of a megabyte
"""


@dataclass(frozen=True, slots=True)
class Received:
    """One received attempt."""

    at: float  # seconds since 1970
    message_id: str
    timestamp: str
    signatures: str
    body: bytes
    status: int | None  # None when no response was sent
    repeated: bool  # whether the message id was received before


class Receiver:
    """Records each attempt, and reports it to `on_message` as one line. `clock` returns seconds since 1970."""

    def __init__(
        self, on_message: Callable[[str], None] = lambda _: None, clock: Callable[[], float] = time.time
    ) -> None:
        self.received: deque[Received] = deque(maxlen=KEPT)
        self._on_message = on_message
        self._clock = clock
        self._keys: list[bytes] = []
        self._times: Counter[str] = Counter()

    def learn(self, secret: str) -> None:
        """Add a secret for verification. Raises ValueError when it is malformed."""
        prefix, _, key = secret.strip().partition("_")
        try:
            decoded = base64.b64decode(key, validate=True)
        except binascii.Error:
            decoded = b""
        if prefix != "whsec" or not decoded:
            raise ValueError('A secret is "whsec_" and base64.')
        self._keys.append(decoded)

    def handle(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Return the response to a request at or below PATH; names in `headers` are in lower case."""
        if path == SECRETS and method in ("PUT", "POST"):
            try:
                self.learn(body.decode(errors="replace"))
            except ValueError as error:
                return document(400, {"error": str(error)})
            return Answer(204, content_type=None)
        if path != PATH:
            return document(404, {"error": f"There are {PATH} and {SECRETS}."})
        if method == "GET":
            return document(200, {"received": [self.as_json(attempt) for attempt in self.received]})
        if method == "DELETE":
            self.received.clear()
            self._times.clear()
            return Answer(204, content_type=None)
        if method != "POST":
            return document(405, {"error": "POST, GET or DELETE it."})
        try:
            answer = self._behaviour(query)
        except ValueError as error:
            return document(400, {"error": str(error)})
        self._record(headers, body, answer)
        return answer

    def as_json(self, attempt: Received) -> dict[str, Any]:
        """Return an attempt as an object for JSON; its signature is verified with the secrets known now."""
        try:
            message = json.loads(attempt.body)
        except ValueError:
            message = attempt.body.decode(errors="replace")
        return {
            "at": attempt.at,
            "webhook-id": attempt.message_id,
            "signature": self.verdict(attempt),
            "repeated": attempt.repeated,
            "answered": attempt.status,
            "message": message,
        }

    def verdict(self, attempt: Received) -> str:
        """Verify the signature by the Standard Webhooks' rules; "holds", or the reason why it does not.

        A signature that no known secret made is wrong if it is malformed, or if another message of the same callback
        was signed with a known secret. Otherwise the callback's secret is unknown.
        """
        if not attempt.message_id or not attempt.timestamp.isdecimal() or not attempt.signatures:
            return "is missing"
        if abs(attempt.at - int(attempt.timestamp)) > TOLERANCE:
            return "is too old or too new"
        if self._is_signed(attempt):
            return "holds"
        callback = _callback(attempt.message_id)
        known = any(_callback(one.message_id) == callback and self._is_signed(one) for one in self.received)
        if known or not any(SIGNATURE.fullmatch(signature) for signature in attempt.signatures.split(" ")):
            return "is wrong"
        return f"cannot be checked: the secret is unknown, send it with PUT to {SECRETS}"

    def _is_signed(self, attempt: Received) -> bool:
        signed = f"{attempt.message_id}.{attempt.timestamp}.".encode() + attempt.body
        given = [signature.encode() for signature in attempt.signatures.split(" ")]
        for key in self._keys:
            expected = b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256"))
            if any(hmac.compare_digest(expected, signature) for signature in given):
                return True
        return False

    def _record(self, headers: Mapping[str, str], body: bytes, answer: Answer) -> None:
        answered = answer.status if answer.delivery not in (Delivery.HANG, Delivery.RESET) else None
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        message_id, timestamp, signatures = (headers.get(name, "") for name in names)
        repeated = any(earlier.message_id == message_id for earlier in self.received)
        attempt = Received(self._clock(), message_id, timestamp, signatures, body, answered, repeated)
        self.received.append(attempt)
        facts = self.as_json(attempt)
        kind = facts["message"].get("type") if isinstance(facts["message"], dict) else "no message"
        message = f"{kind} ({message_id}{', repeated' if repeated else ''})"
        self._on_message(f"{message}: its signature {facts['signature']}; answered {answered or 'nothing'}")

    def _behaviour(self, query: str) -> Answer:
        """Return the response that the query of a callback's URL selects. Raises ValueError for an invalid query."""
        parameters = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
        times = parameters.pop("times", None)
        if times is not None and not times.isdecimal():
            raise ValueError("times must be a whole number.")
        self._times[query] += 1
        if not parameters or (times is not None and self._times[query] > int(times)):
            return Answer(204, content_type=None)
        name, value = next(iter(parameters.items()))
        if name in ("throttle", "unavailable") and not value.isdecimal():
            raise ValueError(f"{name} needs a number of seconds.")
        if name == "fail":
            if not (value.isdecimal() and 400 <= int(value) <= 599):
                raise ValueError("fail needs a code from 400 to 599.")
            return document(int(value), {"error": "as asked"})
        behaviours: dict[str, Callable[[], Answer]] = {
            "throttle": lambda: document(429, {"error": "too many"}, {"Retry-After": value}),
            "unavailable": lambda: document(503, {"error": "not now"}, {"Retry-After": value}),
            "gone": lambda: document(410, {"error": "gone"}),
            "redirect": lambda: Answer(307, content_type=None, headers={"Location": f"{PATH}?redirected"}),
            "redirected": lambda: Answer(204, content_type=None),
            "hang": lambda: Answer(200, delivery=Delivery.HANG),
            "drop": lambda: Answer(200, delivery=Delivery.RESET),
            "drip": lambda: Answer(200, b"." * 60, delivery=Delivery.DRIP),
            "large": lambda: Answer(200, b"." * LARGE),
        }
        if name not in behaviours:
            raise ValueError(f"There is no {name}; GET / tells what there is.")
        return behaviours[name]()


def _callback(message_id: str) -> str:
    """Return what the ids of all messages of one callback begin with: the gateway numbers the events behind it."""
    return message_id.rpartition("_")[0]
