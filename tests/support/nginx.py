"""A real nginx with deploy/nginx.conf, of which only addresses, paths and what a test names are replaced."""

from __future__ import annotations

import ssl
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import httpx
import trustme

from tests.support.harness import free_port
from tests.support.programs import program

CONF = Path(__file__).parent.parent.parent / "deploy" / "nginx.conf"
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Nginx:
    """`ports` are those of the two gateways; `changes` replace texts of the file, each of which must be there.

    It needs no root: nothing of it lies outside `folder`.
    """

    def __init__(self, folder: Path, ports: tuple[int, int], changes: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.url = f"https://localhost:{self.port}"
        self.folder = folder / "nginx"
        self._program = program("nginx", package="nginx-light")
        self._process: subprocess.Popen[bytes] | None = None
        (self.folder / "tls").mkdir(parents=True)
        self._authority = trustme.CA()
        mine = self._authority.issue_cert("localhost")
        mine.private_key_pem.write_to_path(self.folder / "tls" / "privkey.pem")
        mine.cert_chain_pems[0].write_to_path(self.folder / "tls" / "fullchain.pem")
        text = CONF.read_text()
        for old, new in {
            "gateway-1:8000": f"127.0.0.1:{ports[0]}",
            "gateway-2:8000": f"127.0.0.1:{ports[1]}",
            "listen 443 ": f"listen 127.0.0.1:{self.port} ",
            "/var/log/nginx/": f"{self.folder}/",
            "http {": "http {" + "".join(f"{name}_temp_path {self.folder}/{name};" for name in TEMPORARY),
            **(changes or {}),
        }.items():
            assert old in text, old
            text = text.replace(old, new)
        (self.folder / "nginx.conf").write_text(text)

    def client(self, *, http2: bool = False) -> httpx.AsyncClient:
        """One that trusts it, and waits 20 s at most for anything."""
        trust = ssl.create_default_context()
        self._authority.configure_trust(trust)
        return httpx.AsyncClient(base_url=self.url, verify=trust, http1=not http2, http2=http2, timeout=20)

    def logged(self) -> str:
        """All that it ever wrote."""
        return "".join(path.read_text() for path in self.folder.glob("*.log"))

    def __enter__(self) -> Self:
        command = [self._program, "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")]
        command += ["-e", str(self.folder / "start.log"), "-g", f"daemon off; pid {self.folder}/pid;"]
        with (self.folder / "said.log").open("wb") as said:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        until = time.monotonic() + 10
        while not self._answers():
            assert self._process.poll() is None, self.logged()
            assert time.monotonic() < until, self.logged()
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        """A word in clear is refused by nginx itself."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/", timeout=1).status_code == 400
        except httpx.HTTPError:
            return False
