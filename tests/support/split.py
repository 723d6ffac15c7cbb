"""A real proxy with a file of deploy/proxies/split-*, a gateway behind it, and the simulator as the rest of Graph."""

from __future__ import annotations

import os
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx
import trustme
from aiohttp import web

from gateway.simulator import RecordedRequest, Simulator, running
from gateway.simulator.drives import LIBRARY, Item
from tests.support.forward_proxy import ForwardProxy, proxying
from tests.support.harness import Process, free_port
from tests.support.programs import program

FOLDER = Path(__file__).parent.parent.parent / "deploy" / "proxies"
GRAPH = "graph.microsoft.com"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass
class Place:
    """Where the parts of a split are: `port` is the proxy's own, `tls` the folder of its certificate."""

    folder: Path
    port: int
    gateway: int
    graph: int

    @property
    def tls(self) -> Path:
        return self.folder / "tls"


def _nginx(place: Place) -> tuple[str, dict[str, str], list[str]]:
    temporary = "".join(f"{name}_temp_path {place.folder}/{name};" for name in TEMPORARY)
    changes = {
        "listen 443 ": f"listen 127.0.0.1:{place.port} ",
        "gateway:8000": f"127.0.0.1:{place.gateway}",
        f"{GRAPH}:443;": f"127.0.0.1:{place.graph};",
        CERTIFICATES: f"{place.tls}/ca.pem",
        "/var/log/nginx/": f"{place.folder}/",
        "http {": f"http {{{temporary}",
    }
    file = f"{place.folder}/split-nginx.conf"
    own = ["-p", f"{place.folder}", "-c", file, "-e", f"{place.folder}/start.log"]
    return (
        "split-nginx.conf",
        changes,
        [program("nginx", "nginx-light"), *own, "-g", f"daemon off; pid {place.folder}/p;"],
    )


def _haproxy(place: Place) -> tuple[str, dict[str, str], list[str]]:
    changes = {
        "bind :443 ": f"bind 127.0.0.1:{place.port} ",
        "tls/both.pem": f"{place.tls}/both.pem",
        "abns@split-inside": f"abns@{place.port}",
        "gateway:8000": f"127.0.0.1:{place.gateway}",
        f"{GRAPH}:443 ": f"127.0.0.1:{place.graph} ",
        CERTIFICATES: f"{place.tls}/ca.pem",
    }
    return (
        "split-haproxy.cfg",
        changes,
        [program("haproxy", "haproxy"), "-db", "-f", f"{place.folder}/split-haproxy.cfg"],
    )


def _caddy(place: Place) -> tuple[str, dict[str, str], list[str]]:
    tls = f"\ttls {place.tls}/fullchain.pem {place.tls}/privkey.pem\n\tbind 127.0.0.1\n"
    changes = {
        "{\n\t# No token": "{\n\tadmin off\n\tauto_https off\n\tskip_install_trust\n\t# No token",
        "graph.example.com {": f"https://localhost:{place.port}, https://{GRAPH}:{place.port} {{\n{tls}",
        "gateway:8000": f"127.0.0.1:{place.gateway}",
        f"https://{GRAPH} {{": f"https://127.0.0.1:{place.graph} {{",
        f"tls_server_name {GRAPH}": f"tls_server_name {GRAPH}\n\t\t\ttls_trusted_ca_certs {place.tls}/ca.pem",
    }
    own = ["run", "--adapter", "caddyfile", "--config", f"{place.folder}/split-Caddyfile"]
    return "split-Caddyfile", changes, [program("caddy", "caddy"), *own]


PROXIES: Mapping[str, Callable[[Place], tuple[str, dict[str, str], list[str]]]] = {
    "nginx": _nginx,
    "haproxy": _haproxy,
    "caddy": _caddy,
}
"""For each the file, what is replaced in it, each of which must be there, and the command that runs it."""


class Split:
    """`url` is the proxy's; `proxy` leads there who has Graph's address built in; `ca` must be trusted."""

    def __init__(self, place: Place, upstream: Simulator, gateway: Process, proxy: ForwardProxy) -> None:
        self.url = f"https://localhost:{place.port}"
        self.ca = place.tls / "ca.pem"
        self.upstream = upstream
        self.gateway = gateway
        self.proxy = proxy
        self._place = place

    @property
    def home(self) -> Path:
        """The home folder of programs that are run."""
        return self._place.folder

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)

    def client(self) -> httpx.AsyncClient:
        """One that trusts the proxy, and waits 20 s at most for anything."""
        return httpx.AsyncClient(base_url=self.url, verify=self.trust(), timeout=20)

    def environment(self) -> dict[str, str]:
        """Of a program that has Graph's address built in."""
        trusted = dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"), str(self.ca))
        return {
            "HTTPS_PROXY": self.proxy.url,
            "NO_PROXY": "localhost,127.0.0.1",
            "HOME": str(self._place.folder),
            **trusted,
        }

    def is_direct(self, asked: RecordedRequest) -> bool:
        """Whether a request came to Graph without the gateway, from the proxy."""
        return asked.headers.get("host") == GRAPH

    def make_files(self) -> None:
        """Have a file in the library, unless it is there."""
        tree = self.upstream.tree
        if not tree.holds("01LIBRARYREPORT"):
            tree.create(Item("01LIBRARYREPORT", "report.xlsx", LIBRARY, tree.root(LIBRARY), size=2048, folder=False))

    def logged(self) -> str:
        """All that the proxy ever wrote."""
        return "".join(path.read_text() for path in self._place.folder.glob("*.log"))


@asynccontextmanager
async def splitting(
    kind: str,
    folder: Path,
    *,
    seconds: float = 0.3,
    clock: Callable[[], float] = time.monotonic,
    graph_name: str = GRAPH,
) -> AsyncIterator[Split]:
    """`kind` is one of PROXIES; a copy takes so many `seconds` by `clock`; Graph's certificate has `graph_name`."""
    place = Place(folder / kind, free_port(), free_port(), free_port())
    place.tls.mkdir(parents=True)
    (place.folder / "gateway").mkdir()
    theirs = _certificates(place, graph_name)
    name, changes, command = PROXIES[kind](place)
    text = (FOLDER / name).read_text()
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    (place.folder / name).write_text(text)
    async with AsyncExitStack() as parts:
        upstream = await parts.enter_async_context(running(Simulator(seconds=seconds, clock=clock)))
        await parts.enter_async_context(_over_tls(upstream, place.graph, theirs))
        url = f"https://localhost:{place.port}"
        gateway = Process(upstream.url, place.folder / "gateway", port=place.gateway, public_url=url)
        gateway.spawn()
        await parts.enter_async_context(gateway)
        proxy = await parts.enter_async_context(proxying())
        proxy.names[GRAPH], proxy.ports[GRAPH] = "127.0.0.1", place.port
        split = Split(place, upstream, gateway, proxy)
        with _running(command, place):
            await gateway.ready()
            await _answers(split)
            upstream.forget()
            yield split


def _certificates(place: Place, graph_name: str) -> ssl.SSLContext:
    """Write those of the proxy, and return what Graph itself shows."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(place.tls / "ca.pem")
    mine = authority.issue_cert("localhost", GRAPH)
    mine.private_key_pem.write_to_path(place.tls / "privkey.pem")
    mine.cert_chain_pems[0].write_to_path(place.tls / "fullchain.pem")
    mine.private_key_and_cert_chain_pem.write_to_path(place.tls / "both.pem")
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(graph_name).configure_cert(theirs)
    return theirs


@asynccontextmanager
async def _over_tls(simulator: Simulator, port: int, theirs: ssl.SSLContext) -> AsyncIterator[None]:
    runner = web.AppRunner(simulator.app(), access_log=None, handle_signals=False, shutdown_timeout=0.3)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=theirs).start()
        yield
    finally:
        await runner.cleanup()


@contextmanager
def _running(command: list[str], place: Place) -> Iterator[None]:
    environment = {**os.environ, "HOME": str(place.folder), "XDG_DATA_HOME": str(place.folder)}
    with (place.folder / "said.log").open("wb") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment)
    try:
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


async def _answers(split: Split) -> None:
    """Wait until the proxy does."""
    async with split.client() as client:
        with anyio.fail_after(20):
            while True:
                with suppress(httpx.TransportError):
                    if (await client.get("/readyz")).status_code == 200:
                        return
                await anyio.sleep(0.02)
