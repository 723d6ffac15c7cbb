"""All scenarios, the page that lists them, and how a request selects one."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from gateway.simulator.answers import GraphError
from gateway.simulator.lies import LYING
from gateway.simulator.normal import NORMAL, REFUSALS
from gateway.simulator.operation_scenarios import OPERATION_SCENARIOS
from gateway.simulator.operations import KINDS, shown_path
from gateway.simulator.redirects import REDIRECTS
from gateway.simulator.scenario import within
from gateway.simulator.shapes import ENCODED, SHAPES
from gateway.simulator.siblings import SIBLINGS
from gateway.simulator.starts import STARTS
from gateway.simulator.troubles import BROKEN, ODD, THROTTLING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway.simulator.scenario import Scenario

CHAPTERS = (
    ("Copies that succeed, and copies that fail", NORMAL),
    ("Refused immediately", REFUSALS),
    ("Problems with the POST and its Location", STARTS),
    ("Throttling", THROTTLING),
    ("Monitors that break or expire", BROKEN),
    ("Hosts that lie for a while", LYING),
    ("Redirects", REDIRECTS),
    ("Unusual states", ODD),
    ("Status words, errors and ids of other operations", SHAPES),
    ("Encodings", ENCODED),
    ("Moves, archives and labels, for which all the others play, too", SIBLINGS),
    ("Operations whose status asks for a token, for which all the others play, too", OPERATION_SCENARIOS),
)
SCENARIOS: Mapping[str, Scenario] = MappingProxyType({s.name: s for _, chapter in CHAPTERS for s in chapter})

_PAGE = """\
The simulated upstream: Microsoft Graph's copies and other long-running operations.

Start a copy (any Authorization is accepted) and poll its Location without Authorization:

  curl -i -X POST '{origin}/v1.0/me/drive/items/copy/copy?seconds=10' \\
    -H 'Authorization: Bearer x' -H 'Content-Type: application/json' \\
    -d '{{"parentReference":{{"path":"/drive/root:/Documents"}},"name":"Copy of LargeFolder1"}}'

Through a gateway, send the same request to the gateway's address.

Select a scenario by the copied item's id, by the last segment of its path, or by a query parameter:

  {origin}/v1.0/me/drive/items/completed-303/copy
  {origin}/v1.0/me/drive/root:/failed-late:/copy
  {origin}/beta/me/drive/items/01MOWKYVLARGEFOLDER1/copy?simulate=throttled

  seconds=N   how long the copy takes (now {seconds:g})
  steps=N     number of steps in which its percentage rises (now {steps})
  every=N     for a scenario "at first and at every other poll": at the first of every N polls (1: at each)
  window=N    for a scenario "for the first … s": how long its fault lasts, in seconds
  limit=N     for a scenario "(limit=N: …)": as it says

By default a copy plays "{scenario}" under Graph's rules for name conflicts. When a scenario is selected, the copied
item and the target need not exist, and a name that is taken gets a number.

Moves (PATCH with a parentReference), /archive, /unarchive and /assignSensitivityLabel are played, too. Any scenario
gives them its monitor; without one a move and a file's archive are done at once. A folder's archive requires
Prefer: respond-async. Other changes of an item, new folders, and reads of drives, children, sites and people are played
for clients that need them around a copy.

Operations whose status asks for a token are played, too: a Bearer token starts them, and reads their status and their
result. Select the scenario by an id in the path, by the body's displayName, or by the query:

  curl -i -X POST '{origin}/v1.0/teams/token-ends/clone?seconds=10' -H 'Authorization: Bearer x'

{operations}
The tree: /me/drive is b!personal with /Documents (01MOWKYVDOCUMENTS), /LargeFolder1 (01MOWKYVLARGEFOLDER1),
/report.docx (01MOWKYVREPORT), /Photos (D4648F06C91D9D3D!54927) and /Private (01MOWKYVPRIVATE: 403).
Groups and sites have b!library with /Shared (01LIBRARYSHARED). A copy to b!full is 507.

Recorded requests: curl {origin}/record     Clear the record: curl -X DELETE {origin}/record
"""
MOST_STEPS = 1_000_000


def scenario_table() -> str:
    """Return the scenarios by chapter, one line each."""
    lines = []
    for title, chapter in CHAPTERS:
        lines += ["", title, ""]
        lines += [f"  {s.name:<22} {_summary(s)}" for s in chapter]
    return "\n".join([*lines[1:], ""])


def page(origin: str, scenario: str, seconds: float, steps: int, more: str = "") -> str:
    """Return the root page as plain text; `more` stands before the scenarios."""
    operations = "".join(f"  {kind.method:<5} {shown_path(kind)}\n" for kind in KINDS)
    facts = _PAGE.format(origin=origin, scenario=scenario, seconds=seconds, steps=steps, operations=operations)
    return "\n".join(part for part in (facts, more, scenario_table()) if part)


def listing(origin: str, scenario: str, seconds: float, steps: int) -> dict[str, Any]:
    """Return the content of the root page as an object for JSON."""
    parameters = "seconds={seconds}&steps={steps}&every={every}&window={window}&limit={limit}"
    return {
        "default": {"scenario": scenario, "seconds": seconds, "steps": steps},
        "copy": f"{origin}/v1.0/me/drive/items/{{scenario}}/copy?{parameters}",
        "record": f"{origin}/record",
        "scenarios": [
            {"name": s.name, "summary": _summary(s), "every": s.every, "window": s.window, "limit": s.limit}
            for s in SCENARIOS.values()
        ],
    }


def _summary(scenario: Scenario) -> str:
    if scenario.window:
        return f"{scenario.summary[:-1]}, for the first {scenario.window:g} s."
    return f"{scenario.summary[:-1]}, at first and at every other poll." if scenario.every > 1 else scenario.summary


@dataclass(frozen=True, slots=True)
class Choice:
    """The parameters of one request, defaults included."""

    scenario: Scenario
    seconds: float
    steps: int
    every: int
    window: float
    limit: float
    behaviour: str  # @microsoft.graph.conflictBehavior
    named: bool  # whether the caller selected the scenario


def checked(scenario: str, seconds: float, steps: int) -> tuple[str, float, int]:
    """Return the arguments unchanged. Raises ValueError, which names the invalid one."""
    if scenario not in SCENARIOS:
        raise ValueError(f"There is no scenario {scenario!r}; GET / lists them all.")
    within("seconds", seconds)
    if not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"steps is {steps!r}; it must be a whole number from 1 to {MOST_STEPS}.")
    return scenario, seconds, steps


def choose(query: str, candidates: Iterable[str], scenario: str, seconds: float, steps: int) -> Choice:
    """Return the caller's choice; `scenario`, `seconds` and `steps` are the defaults.

    The scenario is the query's, else the first of `candidates` that is a scenario's name.

    Raises GraphError (400) for an invalid parameter.
    """
    parameters = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    named = parameters.get("simulate", next((one for one in candidates if one in SCENARIOS), None))
    try:
        name, seconds, steps = checked(
            named or scenario, float(parameters.get("seconds", seconds)), int(parameters.get("steps", steps))
        )
        every = int(parameters.get("every", SCENARIOS[name].every))
        if every < 1:
            raise ValueError("every must be a whole number from 1 on.")  # noqa: TRY301
        window = within("window", float(parameters.get("window", SCENARIOS[name].window)))
        limit = within("limit", float(parameters.get("limit", SCENARIOS[name].limit)))
    except ValueError as error:
        raise GraphError(400, "invalidRequest", str(error)) from None
    behaviour = parameters.get("@microsoft.graph.conflictBehavior", "fail")
    return Choice(SCENARIOS[name], seconds, steps, every, window, limit, behaviour, bool(named))
