"""An event and its frame on the wire."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.job import Answer, Event, JobError, Kind, Target, accepted, advance, frame


@pytest.mark.parametrize(("kind", "terminal"), [("progress", False), ("completed", True), ("failed", True)])
def test_the_kinds_of_an_event(kind: Kind, terminal: bool) -> None:
    """Everything but progress ends a log, and the kind is the frame's `event:`."""
    event = Event(3, kind, status_changed=True, data=b"{}")
    assert event.terminal is terminal
    assert event.body() == b"event: %b\ndata: {}\n\n" % kind.encode()


def test_a_frame_is_the_contracts() -> None:
    """The id, the kind, the state, an empty line; an id of several positions goes in as it is."""
    body = Event(7, "completed", status_changed=True, data=b'{"jobId":"j"}').body()
    assert frame(b"7", body) == b'id: 7\nevent: completed\ndata: {"jobId":"j"}\n\n'
    assert frame(b"7,-,3", body).startswith(b"id: 7,-,3\nevent: ")


@given(st.text(max_size=40), st.text(min_size=1, max_size=20), st.sampled_from(["inProgress", "failed"]))
def test_no_text_breaks_out_of_its_frame(description: str, word: str, status: str) -> None:
    """Whatever upstream wrote, a frame is four lines: no text can end it early or forge a field."""
    job, _ = accepted("j", monitor="https://h/m", target=Target(prefix="me/drive"), now=1.0)
    error = JobError(code=word, message=description, origin="upstream")
    answer = Answer(status=status, description=description, operation=word, resource_id=word, error=error)
    _, events = advance(job, answer, 2.0)
    for event in events:
        written = frame(b"2", event.body())
        assert len(written.splitlines()) == 4
        assert written.endswith(b"\n\n")
        told = msgspec.json.decode(written.splitlines()[2].removeprefix(b"data: "))
        assert told.get("statusDescription", description) == description
