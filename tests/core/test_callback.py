"""What a callback wants, how far it is, and what follows from each attempt."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from gateway.core import callback as deliveries
from gateway.core.callback import (
    GIVE_UP_AFTER,
    WAITS,
    Callback,
    Delivered,
    DeliveryProgress,
    Failed,
    Gone,
    Outcome,
    after_attempt,
)
from gateway.core.errors import GatewayError
from gateway.core.job import Answer, Event, Job, Target, accepted, advance

NOW = 1_790_000_000.0
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
URL = "https://example.com/hook?token=hidden"
REFUSED = Failed("answered 500")


def callback(*events: str, **fields: Any) -> Callback:
    wish = deliveries.callback_request(URL, list(events) or None, SECRET)
    return msgspec.structs.replace(deliveries.new_callback(wish, "job", "cb", NOW), **fields)


def log() -> tuple[Job, list[Event]]:
    """progress, progress, completed."""
    job, events = accepted("job", monitor="https://h/m", target=Target(), now=NOW)
    for answer in (Answer(status="inProgress", percentage=50), Answer(status="completed", resource_id="1")):
        job, more = advance(job, answer, NOW + 1)
        events += more
    return job, events


PROGRESS, LATER, END = log()[1]


def tried(
    one: Callback,
    event: Event,
    outcome: Outcome,
    *,
    final: bool = False,
    now: float = NOW,
    rng: random.Random | None = None,
) -> Callback:
    """After an attempt that took a quarter of a second."""
    rng = rng or random.Random(3)
    return after_attempt(one, event, outcome, final=final, begun=now - 0.25, seconds=0.25, now=now, rng=rng)


@pytest.mark.parametrize(
    ("url", "events", "secret", "words"),
    [
        (None, None, None, "url must be a text"),
        (7, None, None, "url must be a text"),
        ("", None, None, "url must be a text"),
        ("https://example.com/" + "x" * 2040, None, None, "at most 2048"),
        (URL, [], None, "events must be one or more of progress, completed, failed"),
        (URL, ["ended"], None, "events must be"),
        (URL, ["completed", 7], None, "events must be"),
        (URL, "completed", None, "events must be"),
        (URL, {"completed": True}, None, "events must be"),
        (URL, None, "", "secret must be"),
        (URL, None, "whsec_short", "secret must be"),
        (URL, None, 7, "secret must be"),
    ],
)
def test_a_wish_that_cannot_be_met(url: object, events: object, secret: object, words: str) -> None:
    """400, naming what is wrong."""
    with pytest.raises(GatewayError, match=words) as error:
        deliveries.callback_request(url, events, secret)
    assert error.value.kind.status == 400


def test_wishes() -> None:
    """The ends by default; each name once and in order; a secret is made when none is sent."""
    assert deliveries.callback_request(URL, None, SECRET) == deliveries.CallbackRequest(
        URL, ("completed", "failed"), SECRET
    )
    assert deliveries.callback_request(URL, ["failed", "progress", "failed"]).events == ("progress", "failed")
    assert deliveries.callback_request(URL, None).secret != deliveries.callback_request(URL, None).secret


def test_wishes_by_headers() -> None:
    """The same with commas; without a URL there is none, and events alone are a mistake."""
    assert deliveries.callback_request_from_headers(None, None) is None
    wish = deliveries.callback_request_from_headers(URL, " progress , completed")
    assert wish is not None
    assert wish.events == ("progress", "completed")
    with pytest.raises(GatewayError, match="Gateway-Callback-Events needs a Gateway-Callback-Url"):
        deliveries.callback_request_from_headers(None, "completed")
    with pytest.raises(GatewayError, match="Gateway-Callback-Secret needs a Gateway-Callback-Url"):
        deliveries.callback_request_from_headers(None, None, SECRET)
    with pytest.raises(GatewayError, match="events must be"):
        deliveries.callback_request_from_headers(URL, "")


def test_a_secret_in_a_header_is_not_shown_again() -> None:
    """It is the receiver's own, unlike one that was made here or that a body named."""
    for secret in (None, SECRET):
        wish = deliveries.callback_request_from_headers(URL, None, secret)
        assert wish is not None
        assert wish.own_secret == (secret is not None)
        registered = deliveries.as_registered(deliveries.new_callback(wish, "job", "cb", NOW, with_copy=True))
        assert registered.get("secret") == (None if secret else wish.secret)
    with pytest.raises(GatewayError, match="secret must be") as error:
        deliveries.callback_request_from_headers(URL, None, "whsec_hidden")
    assert "hidden" not in error.value.message


def test_the_message_of_an_event_is_always_the_same() -> None:
    """An id of the callback and the event, the time of the event, the state as it was."""
    message_id, body = deliveries.webhook_message(callback(), END)
    assert (message_id, body) == deliveries.webhook_message(
        callback(progress=DeliveryProgress(attempts=5, last_error="x")), END
    )
    assert message_id == "msg_cb_3"
    state = msgspec.json.decode(END.data)
    assert msgspec.json.decode(body) == {"type": "job.completed", "timestamp": state["at"], "data": state}


def test_the_waits_after_failed_attempts() -> None:
    """5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h, each give or take a fifth; then it is exhausted."""
    assert list(WAITS) == [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]
    seen: list[set[float]] = [set() for _ in WAITS]
    for seed in range(200):
        one, now, rng = callback(), NOW, random.Random(seed)
        for number, wait in enumerate(WAITS):
            one = tried(one, END, REFUSED, final=True, now=now, rng=rng)
            assert (one.state, one.progress.attempts, one.progress.last_error) == ("active", number + 1, "answered 500")
            assert deliveries.wait_before(one, END, now) == pytest.approx(one.progress.due - now)
            seen[number].add((one.progress.due - now) / wait)
            now = one.progress.due
        last = tried(one, END, REFUSED, final=True, now=now, rng=rng)
        assert (last.state, last.finished_at, last.progress.attempts) == ("exhausted", now, 10)
    for ratios in seen:
        assert 0.8 <= min(ratios) < 0.82
        assert 1.18 < max(ratios) <= 1.2


def test_an_event_that_something_newer_replaces_exhausts_nothing() -> None:
    """While the log goes on, the last wait repeats."""
    one = callback("progress", progress=DeliveryProgress(tried=2, attempts=9, failures=9, since=NOW, last_error="x"))
    one = tried(one, LATER, REFUSED)
    assert (one.state, one.progress.attempts) == ("active", 10)
    assert one.progress.due - NOW == pytest.approx(WAITS[-1], rel=0.2)
    assert tried(one, LATER, REFUSED, final=True).state == "exhausted"


def test_success_begins_anew() -> None:
    """With the next event; a terminal one settles it."""
    failing = tried(callback("progress", "completed"), PROGRESS, REFUSED)
    told = tried(failing, LATER, Delivered())
    assert told.progress == DeliveryProgress(cursor=2, tried=2, attempts=2, history=told.progress.history)
    assert told.state == "active"
    assert not deliveries.superseded(told)
    assert tried(told, END, REFUSED).progress.attempts == 1
    ended = tried(told, END, Delivered(), now=NOW + 5)
    assert (ended.state, ended.finished_at, ended.progress.cursor) == ("delivered", NOW + 5, 3)


def test_what_failed_gives_way_to_the_newest() -> None:
    """With its waits kept, but for a terminal event, which is tried at once and has all its tries."""
    one = callback("progress", "completed")
    assert not deliveries.superseded(one)
    for _ in range(3):
        one = tried(one, PROGRESS, REFUSED)
    assert deliveries.superseded(one)
    assert deliveries.wait_before(one, LATER, NOW) > 1000
    assert deliveries.wait_before(one, END, NOW) == 0
    one = tried(one, LATER, REFUSED)
    assert (one.progress.attempts, one.progress.cursor) == (4, 0)
    one = tried(one, END, REFUSED, final=True)
    assert (one.progress.attempts, one.progress.failures) == (1, 1)
    assert deliveries.wait_before(one, END, NOW) > 1


def test_a_clock_set_back_stops_nothing_for_ever() -> None:
    """The wait is a day or so at most."""
    one = tried(callback(), END, REFUSED, now=NOW + 10 * 86400)
    assert deliveries.wait_before(one, END, NOW) <= 86400 * 1.2


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        (0.0, 1, 1.1),
        (7.0, 7, 7.4),
        (3600.0, 3600, 3800),
        (82290, 82290, 86400),
        (1e9, 86400, 86400),
        (float("inf"), 86400, 86400),
    ],
)
def test_a_receiver_that_asks_for_time_gets_it(asked: float, least: float, most: float) -> None:
    """Up to a day in all, and without using up a try."""
    for seed in range(50):
        one = tried(callback(), END, Failed("answered 503", asked), rng=random.Random(seed))
        assert least <= one.progress.due - NOW <= most
        assert (one.progress.attempts, one.progress.failures) == (1, 0)


def test_a_receiver_that_keeps_asking_for_time_gets_it_for_three_days() -> None:
    """Each time for longer, however short it asks."""
    one, now, attempts = callback(), NOW, 0
    while one.state == "active":
        one = tried(one, END, Failed("answered 429", 0.0), final=True, now=now)
        now = max(now, one.progress.due)
        attempts += 1
    assert one.state == "exhausted"
    assert now - NOW == pytest.approx(GIVE_UP_AFTER, rel=0.01)
    assert attempts < GIVE_UP_AFTER / 50


def test_a_receiver_that_asks_for_time_late_gets_it_too() -> None:
    """It has failed for days by then, and keeps the tries that it has left."""
    one, now = callback(), NOW
    for _ in WAITS:
        one = tried(one, END, REFUSED, final=True, now=now)
        now = one.progress.due
    begun = now
    while one.state == "active":
        assert one.progress.failures == len(WAITS)
        one = tried(one, END, Failed("answered 429", 3600.0), final=True, now=now)
        now = max(now, one.progress.due)
    assert one.state == "exhausted"
    assert now - begun == pytest.approx(GIVE_UP_AFTER, rel=0.05)


def test_asking_for_time_and_failing_otherwise() -> None:
    """Each uses up its own."""
    one = tried(callback(), END, Failed("answered 429", 60.0), final=True)
    now = one.progress.due
    for number in range(len(WAITS)):
        one = tried(one, END, REFUSED, final=True, now=now)
        assert (one.state, one.progress.failures, one.progress.since) == ("active", number + 1, NOW)
        now = one.progress.due
    assert tried(one, END, REFUSED, final=True, now=now).state == "exhausted"
    told = tried(callback("progress", "completed", progress=one.progress), LATER, Delivered())
    assert told.progress.since == 0


def test_gone_ends_it() -> None:
    """At whatever event."""
    one = tried(callback("progress"), PROGRESS, Gone(), now=NOW + 3)
    assert (one.state, one.finished_at) == ("gone", NOW + 3)
    assert "410" in (one.progress.last_error or "")


def test_an_error_is_kept_short() -> None:
    """However much a receiver says."""
    assert len(tried(callback(), END, Failed("x" * 9999)).progress.last_error or "") == deliveries.ERROR_TEXT


def test_a_log_that_holds_nothing_it_wants() -> None:
    """It is delivered: there is nothing to tell."""
    done = deliveries.delivered_all(callback("failed"), NOW + 9)
    assert (done.state, done.finished_at) == ("delivered", NOW + 9)


@pytest.mark.parametrize("state", ["active", "exhausted", "gone"])
def test_a_revived_one_has_all_its_tries(state: Any) -> None:
    """Due at once, under a new epoch; what is newest goes first, since older events may have come before."""
    one = callback(
        state=state,
        finished_at=NOW,
        progress=DeliveryProgress(cursor=1, tried=2, attempts=9, failures=9, since=1, last_error="x"),
    )
    again = deliveries.retried(one)
    assert (again.state, again.finished_at, again.epoch) == ("active", None, one.epoch + 1)
    assert again.progress == DeliveryProgress(cursor=1, last_error="x")
    assert deliveries.superseded(again)
    assert deliveries.wait_before(again, LATER, NOW) == 0
    assert tried(again, LATER, REFUSED).progress.attempts == 1


def test_one_that_was_delivered_stays_so() -> None:
    """There is nothing to tell again."""
    told = tried(callback(), END, Delivered())
    assert deliveries.retried(told) == told


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://EXAMPLE.com./hook?token=hidden", "https://example.com"),
        ("HTTPS://example.com:0443/", "https://example.com"),
        ("https://[2606:4700:0:0::1111]:8443/", "https://[2606:4700::1111]:8443"),
        ("http://10.1.2.3:8080?token=hidden", "http://10.1.2.3:8080"),
    ],
)
def test_one_host_has_one_name(url: str, origin: str) -> None:
    """However its URL spells it: what is shown and logged, and by which its attempts are counted."""
    one = callback(url=url)
    assert one.origin == deliveries.as_listed(one)["url"] == origin


@pytest.mark.parametrize(
    ("outcome", "result"),
    [
        (Delivered(204), {"status": 204}),
        (Gone(), {"status": 410}),
        (Failed("answered 500", status=500), {"status": 500}),
        (Failed("answered 503", 7.0, 503), {"status": 503}),
        (Failed("the connection was refused"), {"error": "the connection was refused"}),
        (Failed("x" * 1000), {"error": "x" * deliveries.ERROR_TEXT}),
    ],
)
def test_an_attempt_is_remembered(outcome: Outcome, result: dict[str, Any]) -> None:
    """When it began, what came of it, and how long it took."""
    (attempt,) = deliveries.as_listed(tried(callback("progress"), PROGRESS, outcome))["history"]
    assert attempt == {"at": "2026-09-21T14:13:19.750Z", **result, "durationMs": 250}


def test_the_last_ten_attempts_are_remembered() -> None:
    """Whatever became of them, through deliveries, failures and a retry."""
    one = callback("progress", "completed")
    outcomes: list[Outcome] = [Failed("answered 500", status=500), Delivered()]
    for number in range(24):
        event = PROGRESS if number < 23 else END
        one = tried(one, event, outcomes[number % 2], now=NOW + number)
        if number == 20:
            one = deliveries.retried(one)
            assert len(one.progress.history) == deliveries.HISTORY
    assert one.state == "delivered"
    assert [attempt.at for attempt in one.progress.history] == [NOW + number - 0.25 for number in range(14, 24)]
    assert [attempt.status for attempt in one.progress.history] == [500, 200] * 5


def test_progress_that_an_earlier_version_stored() -> None:
    """It has no history; and that version passes over what it does not know."""
    stored = b'{"cursor":3,"tried":3,"attempts":2,"failures":2,"due":7.0,"last_error":"answered 500"}'
    assert msgspec.json.decode(stored, type=DeliveryProgress).history == ()
    progress = tried(callback(), END, REFUSED).progress
    assert msgspec.json.decode(msgspec.json.encode(progress), type=DeliveryProgress) == progress
    longest = DeliveryProgress(history=(deliveries.Attempt(NOW, 15000, None, "x" * deliveries.ERROR_TEXT),) * 10)
    assert len(msgspec.json.encode(longest)) < 3200


def test_what_is_shown() -> None:
    """Its registrant sees all of it once; lists show neither the secret nor where its URL leads."""
    one = callback()
    assert deliveries.as_registered(one) == {
        "id": "cb",
        "url": URL,
        "events": ("completed", "failed"),
        "secret": SECRET,
    }
    shown = deliveries.as_listed(one)
    assert shown == {
        "id": "cb",
        "url": "https://example.com",
        "events": ("completed", "failed"),
        "state": "active",
        "attempts": 0,
        "history": [],
    }
    failing = deliveries.as_listed(tried(one, END, REFUSED))
    assert (failing["attempts"], failing["lastError"]) == (1, "answered 500")
    assert failing["nextAttemptAt"].startswith("2026-09-2")
    assert "nextAttemptAt" not in deliveries.as_listed(tried(one, END, Gone()))
    assert "nextAttemptAt" not in deliveries.as_listed(deliveries.retried(tried(one, END, REFUSED)))
    for each in (shown, failing):
        assert "hidden" not in str(each)
        assert SECRET not in str(each)
