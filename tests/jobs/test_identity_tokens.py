"""Where the tokens of the gateway's own identity come from."""

from __future__ import annotations

import json
import ssl
import sys
from pathlib import Path

import anyio
import trustme

from tests.jobs.test_identity import giving

ASK = """
import anyio, json, os, sys
from gateway.jobs.identity import Identity

async def main():
    for environment in json.loads(sys.argv[1]):
        os.environ.update(environment)
        async with Identity.open("https://graph.test") as identity:
            print(await identity.authorization())
        for name in environment:
            del os.environ[name]

anyio.run(main)
"""


async def test_where_its_token_comes_from(tmp_path: Path) -> None:
    """A service principal's secret, a workload's file, a managed identity's endpoint: whichever the environment has."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    (tmp_path / "federated").write_text("an assertion")
    async with giving(context) as entra, giving() as managed:
        of_entra = {"AZURE_AUTHORITY_HOST": entra.url, "AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c"}
        environments = [
            {**of_entra, "AZURE_CLIENT_SECRET": "s"},
            {**of_entra, "AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "federated")},
            {"IDENTITY_ENDPOINT": f"{managed.url}/msi/token", "IDENTITY_HEADER": "h"},
        ]
        command = [sys.executable, "-c", ASK, json.dumps(environments)]
        ran = await anyio.run_process(command, env={"SSL_CERT_FILE": str(tmp_path / "ca.pem"), "PATH": ""}, stderr=None)
    assert ran.stdout.decode().split() == ["Bearer", "own-1", "Bearer", "own-2", "Bearer", "own-1"]
    (_, secret), (path, federated) = entra.asked
    assert (path, secret["client_secret"], federated["client_assertion"]) == (
        "/t/oauth2/v2.0/token",
        "s",
        "an assertion",
    )
    assert {secret["scope"], federated["scope"]} == {"https://graph.test/.default"}
    assert managed.asked[0][1]["resource"] == "https://graph.test"
