"""Microsoft Graph as its documentation and public threads describe it: upstream of the demo and of the tests."""

from gateway.simulator.catalogue import SCENARIOS, scenario_table
from gateway.simulator.receiver import Receiver
from gateway.simulator.record import Operation, RecordedRequest
from gateway.simulator.scenario import Scenario
from gateway.simulator.server import Simulator
from gateway.simulator.serving import running, serve

__all__ = [
    "SCENARIOS",
    "Operation",
    "Receiver",
    "RecordedRequest",
    "Scenario",
    "Simulator",
    "running",
    "scenario_table",
    "serve",
]
