"""The scripts on a fresh machine, and on one that lacks something: one clear line each."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pip
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).parent.parent.parent
SCRIPTS = ("deploy/demo", "tests/run")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the scripts need, in a folder with a space in its name."""
    copy = tmp_path / "a checkout"
    for name in (*SCRIPTS, "deploy/venv", "deploy/constraints.txt", "pyproject.toml"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, copy / name)
    return copy


def run(
    checkout: Path, script: str, python: Path | str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(checkout / script), *(arguments or ["--help"])],
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(python), "HOME": str(checkout), **environment},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        cwd="/",
    )


def fake_python(folder: Path, body: str) -> Path:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def one_line(ended: subprocess.CompletedProcess[str], *words: str) -> None:
    assert ended.returncode != 0
    last = ended.stderr.strip().splitlines()[-1]
    assert all(word in last for word in words), ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_python_that_is_too_old(script: str, checkout: Path, tmp_path: Path) -> None:
    """Its version, what is needed, and how to name another."""
    old = fake_python(tmp_path, 'case "$1" in --version) echo Python 3.8.18;; *) exit 1;; esac')
    one_line(run(checkout, script, old), "3.11", "3.8.18", "PYTHON=")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_python_that_is_not_there(script: str, checkout: Path) -> None:
    """The name that was looked for."""
    one_line(run(checkout, script, "/no/such/python"), "3.11", "/no/such/python")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_python_without_venv(script: str, checkout: Path, tmp_path: Path) -> None:
    """What to install."""
    bare = fake_python(tmp_path, f'case "$*" in *ensurepip*) exit 1;; *) exec "{sys.executable}" "$@";; esac')
    one_line(run(checkout, script, bare), "venv", "python3-venv")


@pytest.mark.parametrize(
    ("script", "own_pip"), [("deploy/demo", False), pytest.param("tests/run", True, marks=pytest.mark.thorough)]
)
def test_no_network(script: str, own_pip: bool, checkout: Path, tmp_path: Path) -> None:
    """Pip's reason in one line, the rest in a log; the next run tries again. To give a venv a pip of its own takes most
    of the time: else it has that of the tests.
    """
    packages, there = Path(pip.__file__).parents[1], "lib/python3.*/site-packages"
    lend = f"""
"-m venv") "{sys.executable}" -m venv --without-pip "$3" && cd "$3"/{there} && echo "{packages}" >pip.pth ;;"""
    cases = f'{"" if own_pip else lend}\n*) exec "{sys.executable}" "$@" ;;'
    python = fake_python(tmp_path, f'case "$1 $2" in{cases}\nesac')
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": "/dev/null"}
    for _ in range(2):
        ended = run(checkout, script, python, **nowhere)
        one_line(ended, "pip could not install", "install.log")
    assert (checkout / ".venv" / "install.log").exists()


@pytest.fixture
def pretender(tmp_path: Path) -> Path:
    """A Python whose venv holds itself, whose pip only notes that it was called, and whose programs say their words."""
    return fake_python(
        tmp_path,
        f"""
case "$1 $2" in
"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-m pip") echo "$@" >>"{tmp_path}/pips"; [ ! -e "{tmp_path}/killed" ] || kill -9 $PPID ;;
"-P -m" | "-m pytest") printf '%s|' "$@" ;;
*) exec "{sys.executable}" "$@" ;;
esac""",
    )


def installed(folder: Path) -> list[str]:
    """What pip was told to install since the last look."""
    notes = folder / "pips"
    lines = notes.read_text().splitlines() if notes.exists() else []
    notes.unlink(missing_ok=True)
    return [line.split()[-1] for line in lines]


def pips(folder: Path) -> int:
    """How often packages were installed since the last look."""
    return len(installed(folder))


def test_packages_are_installed_once(checkout: Path, pretender: Path, tmp_path: Path) -> None:
    """Again only when what goes in has changed; an .venv for the tests serves the demo too, not the other way round."""
    assert run(checkout, "deploy/demo", pretender).stdout == "-P|-m|gateway|demo|--help|"
    assert pips(tmp_path) == 1
    assert run(checkout, "deploy/demo", pretender).stderr == ""
    assert pips(tmp_path) == 0
    assert run(checkout, "tests/run", pretender).stdout == "-m|pytest|--help|"
    assert pips(tmp_path) == 1
    run(checkout, "deploy/demo", pretender)
    assert pips(tmp_path) == 0
    with (checkout / "deploy" / "constraints.txt").open("a") as constraints:
        constraints.write("another==1\n")
    run(checkout, "deploy/demo", pretender)
    assert pips(tmp_path) == 1


@pytest.mark.parametrize("replicas", [("--replicas", "3"), ("--once", "--replicas=3")])
def test_a_demo_with_replicas_gets_a_database(
    replicas: tuple[str, ...], checkout: Path, pretender: Path, tmp_path: Path
) -> None:
    """Which the demo without them can do without, and the tests have too."""
    assert run(checkout, "deploy/demo", pretender).returncode == 0
    assert installed(tmp_path) == ["."]
    shown = "".join(f"{word}|" for word in replicas)
    assert run(checkout, "deploy/demo", pretender, *replicas).stdout == f"-P|-m|gateway|demo|{shown}"
    assert installed(tmp_path) == [".[demo]"]
    for arguments in (replicas, ("--once",)):
        assert run(checkout, "deploy/demo", pretender, *arguments).stderr == ""
    assert installed(tmp_path) == []
    run(checkout, "tests/run", pretender)
    assert installed(tmp_path) == [".[test]"]
    for arguments in (replicas, ("--once",)):
        assert run(checkout, "deploy/demo", pretender, *arguments).stderr == ""
    assert installed(tmp_path) == []


def test_an_interrupted_installation_is_made_anew(checkout: Path, pretender: Path, tmp_path: Path) -> None:
    """Killed while pip wrote, or left with an interpreter that does not run."""
    (tmp_path / "killed").touch()
    assert run(checkout, "deploy/demo", pretender).returncode < 0
    (tmp_path / "killed").unlink()
    leftover = checkout / ".venv" / "half a package"
    leftover.touch()
    assert run(checkout, "deploy/demo", pretender).returncode == 0
    assert not leftover.exists()
    (checkout / ".venv" / "bin" / "python").unlink()
    assert run(checkout, "deploy/demo", pretender).returncode == 0
    assert pips(tmp_path) == 3


def test_two_at_once(checkout: Path, pretender: Path, tmp_path: Path) -> None:
    """One makes .venv, the other waits for it."""
    with ThreadPoolExecutor() as threads:
        ended = list(threads.map(lambda _: run(checkout, "tests/run", pretender), range(3)))
    assert [one.returncode for one in ended] == [0, 0, 0]
    assert pips(tmp_path) == 1


def test_everything_is_pinned() -> None:
    """Each package that pyproject.toml names, and each that those need here, to one release."""
    lines = (CHECKOUT / "deploy" / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(Requirement(pin).name) for pin in lines if pin and not pin.startswith("#")}
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    extras = project["project"]["optional-dependencies"]
    wanted += [requirement for extra in extras.values() for requirement in extra]
    itself = canonicalize_name(project["project"]["name"])  # an extra may hold another one
    seen = {itself}
    while wanted:
        requirement = Requirement(wanted.pop())
        name = canonicalize_name(requirement.name)
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        with suppress(PackageNotFoundError):
            wanted += distribution(name).requires or []
    assert seen - {itself} <= pinned


def test_the_constraints_name_no_index() -> None:
    """Pins and nothing else."""
    lines = (CHECKOUT / "deploy" / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert len(pins) > 50
    assert not [pin for pin in pins if "://" in pin or "==" not in pin]


def test_ci_is_what_everybody_runs() -> None:
    """`.ci/run` calls the README's test command."""
    assert "./tests/run" in (CHECKOUT / ".ci" / "run").read_text()
    for script in (*SCRIPTS, ".ci/run"):
        assert (CHECKOUT / script).stat().st_mode & 0o111
