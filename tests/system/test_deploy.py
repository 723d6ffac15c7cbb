"""What deploy/ holds beside proxies/: each file against its rules and the others, and the commands of its page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio
import pytest
import yaml

from gateway.cli.demo.postgres import _programs
from gateway.core.errors import StoreRefused
from gateway.core.keys import PLACEHOLDERS
from gateway.settings import Settings, unknown
from gateway.store.postgres.database import Database
from gateway.store.sqlite.file import StoreFile
from tests.support.fake_upstream import faking
from tests.support.harness import COPY_BODY, FOLDER, TOKEN, Process, events
from tests.support.postgres import Databases, _execute
from tests.support.programs import program

CHECKOUT = Path(__file__).parent.parent.parent
DEPLOY = CHECKOUT / "deploy"
PAGE = (DEPLOY / "README.md").read_text()
DRAIN = Settings.model_fields["drain"].default
STREAM_MAX_AGE = Settings.model_fields["stream_max_age"].default
SECRET_KEY = "a-secret-key-for-tests"


def seconds(text: str) -> int:
    """Of a time such as 90s."""
    found = re.fullmatch(r"(\d+)s?", text)
    assert found is not None, text
    return int(found[1])


def the_same_user(user: str) -> None:
    assert user == "10001"


# The image


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile, without comments, each in one line."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text()).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def test_the_image_has_no_root_and_no_shell() -> None:
    """A number for a user, and every command as a list."""
    steps = instructions()
    starts = [number for number, (name, _) in enumerate(steps) if name == "FROM"]
    assert len(starts) == 2
    assert [steps[number][1].split()[0] for number in starts] == ["python:3.13-slim"] * 2
    last = dict(steps[starts[1] :])
    user, group = last["USER"].split(":")
    the_same_user(user)
    assert group == user
    assert last["STOPSIGNAL"] == "SIGTERM"
    check = last["HEALTHCHECK"].partition("CMD ")[2]
    for command in (*(rest for name, rest in steps if name in {"RUN", "CMD", "ENTRYPOINT"}), check):
        assert isinstance(json.loads(command), list)
    assert json.loads(last["ENTRYPOINT"])[0].endswith("/bin/gateway")
    compile(json.loads(check)[2], "healthcheck", "exec")


def test_the_image_is_made_of_what_is_let_in() -> None:
    """What the Dockerfile copies is there, is all that .dockerignore lets in, and is all that the package needs."""
    copied = {
        source
        for name, rest in instructions()
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    lines = (CHECKOUT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == copied
    assert all((CHECKOUT / source).exists() for source in copied)
    assert {"pyproject.toml", "README.md", "LICENSE", "gateway", "deploy/constraints.txt"} == copied


# systemd


def test_the_unit(tmp_path: Path) -> None:
    """It is taken by systemd without a word, found shut in, and waits longer for the end than the gateway may take."""
    analyze = program("systemd-analyze", package="systemd")
    gateway = tmp_path / "gateway"
    gateway.write_text("#!/bin/sh\n")
    gateway.chmod(0o755)
    text = (DEPLOY / "gateway.service").read_text()
    unit = tmp_path / "gateway.service"
    unit.write_text(text.replace("/opt/gateway/bin/gateway", str(gateway)))
    for command in (["verify"], ["security", "--offline=yes", "--threshold=20", "--no-pager"]):
        ended = subprocess.run([analyze, *command, str(unit)], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "gateway.service" not in ended.stderr, ended.stderr
    values = dict(line.split("=", 1) for line in text.splitlines() if re.match(r"\w+=", line))
    assert seconds(values["TimeoutStopSec"]) > DRAIN
    assert values["ExecStart"] == "/opt/gateway/bin/gateway serve"
    known_settings(dict(word.split("=", 1) for word in values["Environment"].split()))


# compose


def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return parsed


def env_example() -> dict[str, str]:
    lines = (DEPLOY / "gateway.env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_compose_hangs_together() -> None:
    """What a service names is there; each is shut in, and is given time to end."""
    whole = compose()
    services: dict[str, dict[str, Any]] = whole["services"]
    assert set(services) == {"gateway-1", "gateway-2", "postgres", "nginx"}
    network = whole["networks"]["inside"]["ipam"]["config"][0]["subnet"].removesuffix("0/24")
    addresses = {}
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services)
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert seconds(service["stop_grace_period"]) > DRAIN
        assert set(service["networks"]) == {"inside"}
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in whole["volumes"] or (DEPLOY / source).exists() or source == "./tls"
        if name.startswith("gateway"):
            addresses[name] = service["networks"]["inside"]["ipv4_address"]
            assert addresses[name].startswith(network)
            assert (DEPLOY / service["build"]["context"]).resolve() == CHECKOUT
            assert (CHECKOUT / service["build"]["dockerfile"]).exists()
            assert service["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["nginx"]["extra_hosts"] == [f"{name}:{address}" for name, address in addresses.items()]
    assert services["postgres"]["user"] != "root"
    assert "healthcheck" in services["postgres"]


def test_compose_and_its_settings() -> None:
    """Every variable that it wants is in the example, none is misspelt, and the gateways have the same."""
    services = compose()["services"]
    gateways = [services[name]["environment"] for name in ("gateway-1", "gateway-2")]
    assert gateways[0] == gateways[1]
    example = env_example()
    text = (DEPLOY / "compose.yaml").read_text()
    wanted = set(re.findall(r"\$\{(\w+)", text))
    assert wanted == set(example)
    filled = {name: value or "filled-in-by-the-operator" for name, value in example.items()}
    given = {
        name: re.sub(r"\$\{(\w+)[^}]*\}", lambda one: filled[one[1]], value) for name, value in gateways[0].items()
    }
    known_settings(given | {"GATEWAY_HOST": "0.0.0.0", "GATEWAY_CORS_ORIGINS": ""})
    commented = re.findall(r"(?m)^#(GATEWAY_\w+)=", (DEPLOY / "gateway.env.example").read_text())
    assert not unknown(dict.fromkeys([*commented, *example], ""))
    assert services["postgres"]["environment"]["POSTGRES_USER"] == "gateway"
    ignored = (DEPLOY / ".gitignore").read_text().split()
    assert {".env", "tls/"} <= set(ignored)


def known_settings(environment: dict[str, str]) -> None:
    """All of them are settings, and the gateway takes them, once keys stand in the place of the placeholders."""
    named = {
        name: SECRET_KEY if value in PLACEHOLDERS else value
        for name, value in environment.items()
        if name.startswith("GATEWAY_")
    }
    assert not unknown(named)
    values: dict[str, Any] = {name.removeprefix("GATEWAY_").lower(): value for name, value in named.items() if value}
    Settings(**values)


def test_nginx_has_the_gateways_of_compose() -> None:
    """By name and port, in each of its two lists; and its times are those of the gateway's settings."""
    text = (DEPLOY / "proxies" / "nginx.conf").read_text()
    servers = re.findall(r"server (gateway-\d:\d+)", text)
    assert servers == ["gateway-1:8000", "gateway-2:8000"] * 2
    assert dict(instructions())["EXPOSE"] == "8000"
    waits = [seconds(one) for one in re.findall(r"proxy_read_timeout (\w+);", text)]
    assert max(waits) > STREAM_MAX_AGE
    assert "non_idempotent;" not in text


# Kubernetes


def kubernetes() -> dict[str, dict[str, Any]]:
    whole = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return {one["kind"]: one for one in whole}


def test_kubernetes_hangs_together() -> None:
    """Selectors find the pods, ports have their names, secrets are there."""
    things = kubernetes()
    assert set(things) == {"Secret", "Deployment", "Service", "PodDisruptionBudget", "Ingress"}
    spec = things["Deployment"]["spec"]
    pod, labels = spec["template"]["spec"], spec["template"]["metadata"]["labels"]
    (container,) = pod["containers"]
    (spread,) = pod["topologySpreadConstraints"]
    selectors = [spec["selector"]["matchLabels"], spread["labelSelector"]["matchLabels"]]
    selectors += [things["Service"]["spec"]["selector"]]
    selectors += [things["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]]
    assert all(selector == labels for selector in selectors)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": int(dict(instructions())["EXPOSE"])}
    (service_port,) = things["Service"]["spec"]["ports"]
    assert service_port["targetPort"] in ports
    (rule,) = things["Ingress"]["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": things["Service"]["metadata"]["name"], "port": {"name": service_port["name"]}}
    assert [things["Ingress"]["spec"]["tls"][0]["hosts"]] == [[rule["host"]]]
    assert container["envFrom"] == [{"secretRef": {"name": things["Secret"]["metadata"]["name"]}}]
    given = {one["name"]: one["value"] for one in container["env"]}
    assert given["GATEWAY_PUBLIC_URL"] == f"https://{rule['host']}"
    known_settings(given | things["Secret"]["stringData"] | {"GATEWAY_HOST": "0.0.0.0"})
    assert pod["enableServiceLinks"] is False  # the Service's name would make a GATEWAY_PORT that is no number


def test_kubernetes_loses_nothing() -> None:
    """One pod at a time, never none; time for the way down; shut in; nothing buffered, logged, or sent twice."""
    things = kubernetes()
    spec = things["Deployment"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert spec["replicas"] == 2
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert things["PodDisruptionBudget"]["spec"]["minAvailable"] < spec["replicas"]
    drain = next(int(one["value"]) for one in container["env"] if one["name"] == "GATEWAY_DRAIN")
    python, flag, script = container["lifecycle"]["preStop"]["exec"]["command"]
    assert json.loads(dict(instructions())["HEALTHCHECK"].partition("CMD ")[2])[:2] == [python, flag]
    slept = re.search(r"sleep\((\d+)\)", script)
    assert slept is not None
    assert pod["terminationGracePeriodSeconds"] >= int(slept[1]) + drain + 10
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    the_same_user(str(pod["securityContext"]["runAsUser"]))
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    notes = {name.split("/")[1]: value for name, value in things["Ingress"]["metadata"]["annotations"].items()}
    assert all(isinstance(value, str) for value in notes.values())  # Kubernetes takes nothing else
    assert notes["proxy-buffering"] == "off"
    assert int(notes["proxy-read-timeout"]) > STREAM_MAX_AGE
    assert "non_idempotent" not in notes["proxy-next-upstream"]
    assert notes["enable-access-log"] == "false"


# The page


def test_the_page_is_about_what_is_there() -> None:
    """Every file of deploy/ that is an operator's, no other; at most one page."""
    named = set(re.findall(r"(?m)^\| `([\w.-]+)` \|", PAGE))
    suffixes = {".conf", ".service", ".yaml", ".yml", ".json", ".example"}
    there = {path.name for path in DEPLOY.iterdir() if path.suffix in suffixes}
    assert named == there | {"Dockerfile", "KEYS.md", "TOKENS.md", "WATCHING.md"}
    assert not unknown(dict.fromkeys(re.findall(r"GATEWAY_\w+", PAGE), ""))
    assert len(PAGE.splitlines()) < 120


async def run(name: str, folder: Path, programs: str = os.defpath, **environment: str) -> None:
    """Run the page's line with that program, in a shell that finds the program in a folder."""
    found = re.search(rf"(?m)^    ((?:[\w ]+&& )?{name} .*)$", PAGE)
    assert found is not None
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    await anyio.run_process(found[1], cwd=folder, env={**os.environ, "PATH": path, **environment})


def is_private(path: Path) -> bool:
    """Whether nobody but its owner may read a file."""
    return path.stat().st_mode & 0o077 == 0


async def copied(session: aiohttp.ClientSession, gateway: Process) -> str:
    """The id of a job whose log has grown to two events."""
    async with session.post(f"{gateway.url}{FOLDER}/copy", json=COPY_BODY, headers=TOKEN) as response:
        job: dict[str, Any] = await response.json()
    async with session.get(job["events"]) as response:
        stream = events(response)
        await anext(stream)
        await anext(stream)
    return str(job["jobId"])


async def goes_on(session: aiohttp.ClientSession, gateway: Process, job_id: str) -> None:
    """After a restore: a reader that has seen more than the log has gets it from its start."""
    async with session.get(f"{gateway.url}/jobs/{job_id}/events", headers={"Last-Event-ID": "99"}) as response:
        assert response.status == 200
        assert (await anext(events(response))).id == "1"


async def test_a_backup_of_postgresql(tmp_path: Path, postgres_server: Databases, database_url: str) -> None:
    """The page's two commands, made while the gateway runs; without the key the restored database is refused."""
    restored = f"{urlsplit(database_url).path.strip('/')}_restored"
    _execute(database_url, f"CREATE DATABASE {restored}")
    new_url = postgres_server.url(restored)
    programs = _programs(18)
    try:
        async with faking() as upstream, aiohttp.ClientSession() as session:
            values: dict[str, Any] = {"secret_key": SECRET_KEY, "lease": 1}
            async with Process(upstream.url, tmp_path, store_url=database_url, **values) as gateway:
                job_id = await copied(session, gateway)
                services = tmp_path / "services"
                services.write_text(_service("gateway", database_url) + _service("gateway-new", new_url))
                for name in ("pg_dump", "pg_restore"):
                    await run(name, tmp_path, str(programs), PGSERVICEFILE=str(services))
                assert is_private(tmp_path / "gateway.dump")
            for key in (None, "another-key"):
                with pytest.raises(StoreRefused, match="GATEWAY_SECRET_KEY"):
                    await Database.open(new_url, None, key)
            async with Process(upstream.url, tmp_path, store_url=new_url, **values) as gateway:
                await goes_on(session, gateway, job_id)
    finally:
        _execute(database_url, f"DROP DATABASE {restored} WITH (FORCE)")


def _service(name: str, url: str) -> str:
    """A database in libpq's service file."""
    parts = urlsplit(url)
    given = {"host": parts.hostname, "port": parts.port, "dbname": parts.path.strip("/"), "user": parts.username}
    lines = [f"{key}={value}" for key, value in {**given, "password": parts.password}.items() if value]
    return "\n".join([f"[{name}]", *lines, ""])


async def test_a_backup_of_sqlite(tmp_path: Path) -> None:
    """The page's commands: one while the gateway runs, one line when it does not, with a newer log left beside."""
    async with faking() as upstream, aiohttp.ClientSession() as session:
        async with Process(upstream.url, tmp_path, secret_key=SECRET_KEY) as gateway:
            job_id = await copied(session, gateway)
            store = f"sqlite:///{tmp_path}/gateway.db"
            await run("gateway backup", tmp_path, str(Path(sys.executable).parent), GATEWAY_STORE_URL=store)
            assert is_private(tmp_path / "gateway.backup")
            later = await copied(session, gateway)
        assert (tmp_path / "gateway.db-wal").exists()  # it was killed
        await run("rm", tmp_path)
        with pytest.raises(StoreRefused, match="GATEWAY_SECRET_KEY"):
            StoreFile.open(tmp_path / "gateway.db", None, "tests", make_operator_key=False)
        async with Process(upstream.url, tmp_path, secret_key=SECRET_KEY) as gateway:
            await goes_on(session, gateway, job_id)
            async with session.get(f"{gateway.url}/jobs/{later}") as response:
                assert response.status == 404
