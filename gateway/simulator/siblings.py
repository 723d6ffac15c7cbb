"""The siblings of a copy: what the monitors of moves, archives and labels are, and scenarios that only these have."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from gateway.simulator.answers import Answer, GraphError
from gateway.simulator.scenario import Scenario, accepted, accepted_at

if TYPE_CHECKING:
    from gateway.simulator.scenario import Copy, Start


def _archiving(copy: Copy) -> Answer:
    return accepted_at(f"{copy.origins.graph}/monitor/{copy.operation}")


def _labelling(copy: Copy) -> Answer:
    name = base64.b64encode(f"AssignSensitivityLabel,{copy.operation}".encode()).decode()
    return accepted_at(f"{copy.origins.monitor}/_api/v2.0/monitor/{name}?tempAuth={copy.token}")


KINDS: dict[str, tuple[str, Start]] = {
    "copy": ("ItemCopy", accepted),
    "move": ("ItemMove", accepted),
    "archive": ("ItemArchive", _archiving),
    "unarchive": ("ItemUnarchive", _archiving),
    "assignSensitivityLabel": ("AssignSensitivityLabel", _labelling),
}
"""What the monitor of each kind of request calls it, and the 202 to it."""

SIBLINGS = (
    Scenario(
        "move",
        "A move is answered with 202 and a monitor, as for every scenario; without one it is done at once.",
    ),
    Scenario("archive-file", "The item is a file: archive is 204 and unarchive 200, at once.", file=True),
    Scenario(
        "label-encrypted",
        "423: the file is encrypted with two keys.",
        lands=False,
        refusal=GraphError(423, "fileDoubleKeyEncrypted", "The file is protected with double key encryption."),
    ),
)
