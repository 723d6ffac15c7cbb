"""What the page is made of: its files and the policy they come under, and its decisions, run in Node."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway.core.job import COMPLETED, STATUSES
from gateway.web.page import FOLLOW, PAGE, PARTS, SIMULATED
from tests.support.fake_upstream import faking
from tests.support.harness import serving
from tests.support.node import running

pytestmark = pytest.mark.virtual_time

FOLDER = Path(__file__).parent.parent.parent / "gateway" / "web" / "page"
WAITING = "{ code: 'throttled', retryAt: '1970-01-01T00:00:09Z' }"
A, B = "XeaTDC76yA_LocS2N93-w24t", "-fpH2N93XeaTDC76yA_LoRJs"


def node(script: str) -> Any:
    """What a script that imports from the page's folder writes."""
    ran = subprocess.run(running(script), capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def of(module: str, names: str) -> str:
    return f"const {{ {names} }} = await import({json.dumps((FOLDER / module).as_uri())});"


def test_all_its_files_are_served_and_no_other() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.suffix not in ("", ".py")} == {FOLLOW, PAGE, *PARTS}


def test_it_knows_the_words_of_a_status() -> None:
    """The same as the gateway, in the same order."""
    page = node(of("words.js", "STATUSES, COMPLETED") + "console.log(JSON.stringify([STATUSES, COMPLETED]))")
    assert page == [list(STATUSES), list(COMPLETED)]


def test_it_names_no_address_outside() -> None:
    """But for the name by which SVG is known, which nobody asks."""
    for name in (FOLLOW, PAGE, *PARTS):
        text = (FOLDER / name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, name
        assert "https://" not in text.replace("https://…/jobs/…", ""), name


async def test_the_policy(tmp_path: Path) -> None:
    """Nothing inline, nothing from outside, no form, no frame, no markup from a text; on every file, also for HEAD."""
    kinds = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}
    async with faking() as upstream, serving(upstream.url, tmp_path) as gateway:
        for name in (PAGE, *PARTS):
            path = "/" if name == PAGE else f"/page/{name}"
            for method in ("GET", "HEAD"):
                async with gateway.session.request(method, gateway.url + path) as response:
                    assert response.status == 200
                    assert response.content_type == kinds[name.rpartition(".")[2]]
                    assert response.headers["Cache-Control"] == "no-store"
                    assert response.headers["X-Content-Type-Options"] == "nosniff"
                    policy = dict(
                        part.strip().split(" ", 1) for part in response.headers["Content-Security-Policy"].split(";")
                    )
                    content = await response.read()
            assert content == b""
            sent = (FOLDER / name).read_bytes().replace(b"<body>", SIMULATED)
            assert int(response.headers["Content-Length"]) == len(sent)
            for rule in ("default-src", "base-uri", "form-action", "frame-ancestors", "trusted-types"):
                assert policy[rule] == "'none'"
            assert {policy[rule] for rule in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
        for wrong in ("__init__.py", "index.html", "..%2fapp.py"):
            async with gateway.session.get(f"{gateway.url}/page/{wrong}") as response:
                assert response.status == 404


@pytest.mark.parametrize(
    ("text", "ids", "strange"),
    [
        ("", [], []),
        (A, [A], []),
        (f"http://h/jobs/{A}", [A], []),
        (f"http://h/base/jobs/{A}/events?lastEventId=3", [A], []),
        (f"curl -N 'https://h/events?job={A}&job={B}'", [A, B], ["curl", "-N"]),
        (f"Location: http://h/jobs/{A}\r\n", [A], []),
        (f"{A},{B};{A}\n\t{B}", [A, B], []),
        (f"http://h/#{A},{B}", [A, B], []),
        (f'"http://h/jobs/{A}",', [A], []),
        ("https://graph/monitor/x 01MOWKYVLARGEFOLDER1", [], ["https://graph/monitor/x", "01MOWKYVLARGEFOLDER1"]),
        (f"http://h/jobs/{A * 4}", [], [f"http://h/jobs/{A * 4}"]),
    ],
)
def test_what_is_pasted(text: str, ids: list[str], strange: list[str]) -> None:
    parsed = node(f"{of('ids.js', 'parse')} console.log(JSON.stringify(parse({json.dumps(text)})));")
    assert parsed == {"ids": ids, "strange": strange}


@pytest.mark.parametrize(
    ("samples", "now", "left"),
    [
        ([], 0, None),
        ([(0, 0), (1000, 10)], 1000, None),  # two are no rate
        ([(0, 0), (1000, 10), (2000, 20)], 2000, [8000, 8000]),
        ([(0, 0), (1000, 10), (2000, 20)], 5000, [5000, 5000]),  # it goes on meanwhile
        ([(0, 0), (1000, 10), (2000, 20)], 11_000, [0, 0]),  # … and is overdue
        ([(0, 0), (1000, 10), (2000, 20)], 13_000, None),  # … and then stands still: nobody knows
        ([(0, 0), (60_000, 1), (120_000, 2)], 240_000, [5_760_000, 5_760_000]),  # a slow one is slow, not still
        ([(0, 0), (10, 30), (20, 60)], 20, None),  # within a moment
        ([(0, 0), (1000, 10), (2000, 20)], 1000, [8000, 8000]),  # a clock that is behind
        ([(0, 0), (1000, 10), (3000, 20)], 3000, [8000, 16_000]),  # unsteady: it lies between
    ],
)
def test_the_time_left(samples: list[tuple[int, int]], now: int, left: list[int] | None) -> None:
    """As far as it can be known."""
    given = json.dumps([{"at": at, "percentage": percentage} for at, percentage in samples])
    assert node(f"{of('job.js', 'timeLeft')} console.log(JSON.stringify(timeLeft({given}, {now})));") == left


@pytest.mark.parametrize(
    ("least", "most", "words"),
    [
        (1000, 2000, "a few seconds left"),
        (39_000, 41_000, "about 40 s left"),
        (20_000, 40_000, "20 to 40 s left"),
        (50_000, 300_000, "50 s to 5 min left"),
        (120_000, 300_000, "2 to 5 min left"),
        (3_600_000, 7_200_000, "1 hour to 2 hours left"),
    ],
)
def test_the_words_of_the_time_left(least: int, most: int, words: str) -> None:
    assert node(f"{of('words.js', 'left')} console.log(JSON.stringify(left([{least}, {most}])));") == words


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("duration(0)", "0 s"),
        ("duration(3.2)", "4 ms"),
        ("duration(99)", "99 ms"),
        ("duration(1260)", "1.3 s"),
        ("ago(-500)", "just now"),
        ("ago(59_999)", "just now"),
        ("ago(60_000)", "1 min ago"),
        ("ago(7_199_999)", "1 h ago"),
        ("ago(172_800_000)", "2 days ago"),
        ("troubleWords({ code: 'throttled' }, 0)", "Graph throttles"),
        (f"troubleWords({WAITING}, 0)", "Graph throttles; next look in 9 s"),
        (f"troubleWords({WAITING}, 8001)", "Graph throttles; next look in 1 s"),
        (f"troubleWords({WAITING}, 9000)", "Graph throttles; the next look is due"),
        ("troubleWords({ code: 'tokenRequired' }, 0, true)", "Graph asks for a token"),
        ("troubleWords({ code: 'newer' }, 0, true)", "Newer"),
        ("jobWord(null)", "Job"),
        ("jobWord({ operation: 'ItemCopy' })", "Copy"),
        ("jobWord({ operation: 'archiveTeam' })", "Archive team"),
    ],
)
def test_the_words_of_times(call: str, words: str) -> None:
    names = call.partition("(")[0]
    assert node(f"{of('words.js', names)} console.log(JSON.stringify({call}));") == words


@pytest.mark.parametrize(
    "code", ["accessDenied_Copy", "cancelled", "nameAlreadyExists", "TeamUnavailable", "monitorExpired"]
)
@pytest.mark.parametrize("origin", ["upstream", "gateway"])
def test_advice_on_a_copy_is_for_copies(code: str, origin: str) -> None:
    """What is said of a team speaks of no folder and no copy."""
    told = {
        operation: node(f"{of('words.js', 'advice')} console.log(JSON.stringify(advice({json.dumps(state)})));")
        for operation in ("ItemCopy", "archiveTeam")
        for state in [{"operation": operation, "error": {"code": code, "origin": origin}}]
    }
    assert told["ItemCopy"]
    assert not re.search("folder|copies|copy|item", told["archiveTeam"])


@pytest.mark.parametrize("url", ["'localhost:8000/jobs/x/events'", "'ftp://h/jobs/x'", "'http://'", "''", "undefined"])
def test_an_invalid_url_is_told_at_once(url: str) -> None:
    """With an error, which does not repeat the secret in it."""
    script = f"let told = null; try {{ follow({url}); }} catch (error) {{ told = [error.name, error.message]; }}"
    name, message = node(f"{of('follow.js', 'follow')} {script} console.log(JSON.stringify(told));")
    assert name == "TypeError"
    assert "follow() takes" in message
    assert "jobs/x" not in message


@pytest.mark.parametrize(
    ("word", "is_one"),
    [
        ("https://contoso.sharepoint.com/_api/v2.0/monitor/4A3407B5?tempauth=x", True),
        ("https://graph.microsoft.com/v1.0/teams('1')/operations('2')", True),
        ("https://graph.microsoft.com/v1.0/sites/1/operations/2", True),
        ("https://westeurope1-mediap.svc.ms/transform?tempauth=x", True),
        (f"https://gateway.example/jobs/{A}", False),
        ("monitor", False),
    ],
)
def test_a_monitor_url_is_told(word: str, is_one: bool) -> None:
    assert node(f"{of('ids.js', 'isMonitor')} console.log(JSON.stringify(isMonitor({json.dumps(word)})));") is is_one


def test_five_sizes_of_type() -> None:
    """At most, with a real step between them; and no text has another."""
    style = (FOLDER / "style.css").read_text()
    sizes = dict(re.findall(r"--(small|normal|large|larger|huge): ([\d.]+)rem;", style))
    steps = sorted(map(float, sizes.values()))
    assert len(steps) == 5
    assert all(larger / smaller > 1.2 for smaller, larger in itertools.pairwise(steps))
    used = re.findall(r"font(?:-size)?: ([^;]+);", style)
    assert {name for text in used for name in re.findall(r"var\(--(\w+)\)", text)} <= {*sizes, "sans", "mono"}
    assert not [text for text in used if "var(--" not in text and text != "inherit"]
