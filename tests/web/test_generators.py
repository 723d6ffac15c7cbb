"""Client code that generators of the field make of the OpenAPI document: it compiles, and it works.

hey-api's has a place among the clients on Node (tests/system/test_clients_node.py).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.simulator import Simulator, running
from gateway.web import docs
from tests.support.fake_receiver import ALLOWED, receiving
from tests.support.generators import Generated, install
from tests.support.harness import OPERATOR_KEY, serving

pytestmark = pytest.mark.timeout(300)  # installing takes its time, too

OF_OPENAPI_GENERATOR = """
import json, os
from openapi_client import *

def client(key):
    return ApiClient(Configuration(host=os.environ["GATEWAY"], access_token=key))

def error_of(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except ApiException as error:
        return [error.status, type(error.data).__name__, error.data.error.code]

copies = CopiesApi(client("a-token"))
body = Copy(
    name="Copy of LargeFolder1",
    parentReference=ItemReference(driveId="b!personal", id="01MOWKYVDOCUMENTS"),
)
headers = {"idempotency_key": "generated-1", "microsoft_graph_conflict_behavior": "rename"}
job = copies.copy_my_drive_item("v1.0", "01MOWKYVLARGEFOLDER1", body, **headers)
again = copies.copy_my_drive_item("v1.0", "01MOWKYVLARGEFOLDER1", body, **headers)

callbacks = CallbacksApi(client(job.job_key))
callback = callbacks.register_callback(job.job_id, CallbackToRegister(url=os.environ["RECEIVER"]))

jobs = JobsApi(ApiClient(Configuration(host=os.environ["GATEWAY"])))
states = []
while not states or states[-1].status not in ("completed", "failed"):
    states.append(jobs.get_job(job.job_id, prefer="wait=20"))

moved = copies.move_my_drive_item("v1.0", states[-1].resource_id, Move(
    parentReference=ItemReference(path="/drive/root:/Documents"), name="Moved",
))
print(json.dumps({
    "repeated": again.job_id == job.job_id,
    "percentage": states[-1].percentage_complete,
    "item": copies.read_drive_item("v1.0", "b!personal", states[-1].resource_id).name,
    "moved": type(moved.actual_instance).__name__,
    "stream": StreamsApi(client(None)).follow_job(job.job_id),
    "listed": [one.job_id for one in JobsApi(client(os.environ["OPERATOR_KEY"])).list_jobs(limit=200).value],
    "job": job.job_id,
    "secret": callback.secret,
    "callbacks": [[one.id == callback.id, one.events] for one in callbacks.list_callbacks(job.job_id).value],
    "refused": error_of(CallbacksApi(client("another key")).list_callbacks, job.job_id),
    "unknown": error_of(jobs.get_job, "nobody"),
    "upstream": error_of(copies.read_my_drive_item, "v1.0", "nothing"),
}))
"""

OF_OPENAPI_PYTHON_CLIENT = """
import json, os
from client import AuthenticatedClient, Client
from client.api.callbacks import list_callbacks, register_callback
from client.api.copies import copy_my_drive_item, move_my_drive_item, read_drive_item, read_my_drive_item
from client.api.jobs import get_job, list_jobs
from client.api.streams import follow_job
from client.models import CallbackToRegister, ConflictBehavior, Copy, GraphVersion, ItemReference, Move

def using(key):
    return AuthenticatedClient(base_url=os.environ["GATEWAY"], token=key)

def error_of(response):
    return [response.status_code, type(response.parsed).__name__, response.parsed.error.code]

caller, nobody = using("a-token"), Client(base_url=os.environ["GATEWAY"], timeout=30)
request = dict(
    version=GraphVersion.V1_0,
    item_id="01MOWKYVLARGEFOLDER1",
    client=caller,
    body=Copy(
        name="Copy of LargeFolder1",
        parent_reference=ItemReference(drive_id="b!personal", id="01MOWKYVDOCUMENTS"),
    ),
    microsoft_graph_conflict_behavior=ConflictBehavior.RENAME,
    idempotency_key="generated-2",
)
job = copy_my_drive_item.sync(**request)
again = copy_my_drive_item.sync(**request)
body = CallbackToRegister(url=os.environ["RECEIVER"])
callback = register_callback.sync(job.job_id, client=using(job.job_key), body=body)

states = []
while not states or states[-1].status not in ("completed", "failed"):
    states.append(get_job.sync(job.job_id, client=nobody, prefer="wait=20"))

moved = move_my_drive_item.sync(
    GraphVersion.V1_0, states[-1].resource_id, client=caller,
    body=Move(parent_reference=ItemReference(path="/drive/root:/Documents"), name="Moved"),
)
read = read_drive_item.sync(GraphVersion.V1_0, "b!personal", states[-1].resource_id, client=caller)
listed = list_callbacks.sync(job.job_id, client=using(job.job_key)).value
print(json.dumps({
    "repeated": again.job_id == job.job_id,
    "percentage": states[-1].percentage_complete,
    "item": read.name,
    "moved": type(moved).__name__,
    "stream": follow_job.sync(job.job_id, client=nobody),
    "listed": [one.job_id for one in list_jobs.sync(client=using(os.environ["OPERATOR_KEY"]), limit=200).value],
    "job": job.job_id,
    "secret": callback.secret,
    "callbacks": [[one.id == callback.id, one.events] for one in listed],
    "refused": error_of(list_callbacks.sync_detailed(job.job_id, client=using("another key"))),
    "unknown": error_of(get_job.sync_detailed("nobody", client=nobody)),
    "upstream": error_of(read_my_drive_item.sync_detailed(GraphVersion.V1_0, "nothing", client=caller)),
}))
"""


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Generated:
    thorough: bool = pytestconfig.getoption("thorough")
    install(thorough=thorough)
    document = docs.openapi_json("http://127.0.0.1:8000")
    return Generated(document, tmp_path_factory.mktemp("generated"), thorough=thorough)


@pytest.mark.parametrize(
    "made",
    [
        pytest.param({"openapi-typescript": "types.ts"}, id="few"),
        pytest.param(
            {"openapi-generator": "fetch/index.ts", "orval": "orval/client.ts"}, id="more", marks=pytest.mark.thorough
        ),
    ],
)
def test_what_is_made_for_typescript_compiles(made: dict[str, str], generated: Generated) -> None:
    """Under its strictest rules."""
    for name in made:
        generated.by(name)
    generated.compile_typescript(*made.values())


@pytest.mark.parametrize("name", ["redocly", pytest.param("spectral", marks=pytest.mark.thorough)])
def test_linters_find_no_error(name: str, generated: Generated) -> None:
    """By their own recommended rules."""
    generated.by(name)


@pytest.mark.parametrize(
    ("name", "package", "script"),
    [
        pytest.param("openapi-generator", "project/openapi_client", OF_OPENAPI_GENERATOR, id="openapi-generator"),
        pytest.param(
            *("openapi-python-client", "client", OF_OPENAPI_PYTHON_CLIENT),
            id="openapi-python-client",
            marks=pytest.mark.thorough,
        ),
    ],
)
async def test_a_generated_python_client(
    name: str, package: str, script: str, generated: Generated, tmp_path: Path
) -> None:
    """A whole copy: started, repeated, told to a callback, waited for, followed, read and moved; and errors of both."""
    generated.by(name)
    generated.compile_python(package)
    async with (
        receiving() as receiver,
        running(Simulator(seconds=0.5, steps=5)) as upstream,
        serving(upstream.url, tmp_path, **ALLOWED) as gateway,
    ):
        to = {"GATEWAY": gateway.url, "RECEIVER": f"{receiver.url}/told", "OPERATOR_KEY": OPERATOR_KEY}
        environment = generated.environment((generated.folder / package).parent, **to)
        used = await anyio.run_process([sys.executable, "-c", script], env=environment, check=False)
        assert used.returncode == 0, used.stderr.decode()
        told: dict[str, Any] = json.loads(used.stdout)
    assert (told["repeated"], told["percentage"], told["item"], told["moved"]) == (True, 100, "Moved", "DriveItem")
    assert told["stream"].count("\nevent: completed\n") == 1
    assert told["listed"] == [told["job"]]
    assert told["secret"].startswith("whsec_")
    assert told["callbacks"] == [[True, ["completed", "failed"]]]
    assert told["refused"] == [401, "GatewayError", "unauthenticated"]
    assert told["unknown"] == [404, "GatewayError", "jobNotFound"]
    assert told["upstream"] == [404, "UpstreamError", "itemNotFound"]
