"""The commands. Each one imports its own modules, so that `gateway serve` starts without those of the others."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gateway.cli.arguments import DEFAULT_URL
from gateway.cli.options import GatewayOption, OperatorKeyOption, PatienceOption, SecretOption, WithTable

STATUS_OF_JOBS = (
    "Exit status: 0 the jobs were shown (a live table: until Ctrl-C), 2 wrong use or refused, 3 gateway unreachable."
)


class _Commands(TyperGroup):
    """The commands of this file; those of the other files are imported when one of them, or the list, is needed."""

    def list_commands(self, ctx: Any) -> list[str]:
        self._add_others()
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            self._add_others()
        return super().get_command(ctx, cmd_name)

    def _add_others(self) -> None:
        from gateway.cli import callbacks, copies

        for others in (copies.app, callbacks.app):
            self.commands.update(typer.main.get_group(others).commands)


app = typer.Typer(
    name="gateway",
    cls=_Commands,
    help="Turns Microsoft Graph's polled long-running operations into pushed events. Start with: gateway demo",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "terminal_width": max(30, min(100, shutil.get_terminal_size().columns) - 1),
    },
)


class _WithSettings(WithTable):
    title = "Settings (environment variables; times in seconds)"

    def rows(self) -> list[tuple[str, str]]:
        from gateway.settings import Settings

        rows = []
        for name, field in Settings.model_fields.items():
            default = field.default
            shown = ", ".join(default) if isinstance(default, tuple) else default
            text = field.description or ""
            rows.append((f"GATEWAY_{name.upper()}", f"{text} [{shown}]" if shown not in (None, "") else text))
        return rows


class _WithScenarios(WithTable):
    title = "Scenarios; the id or name of a copied item selects one too, of other operations an id or displayName"

    def rows(self) -> list[tuple[str, str]]:
        from gateway.simulator import SCENARIOS

        return [(scenario.name, scenario.summary) for scenario in SCENARIOS.values()]


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"gateway {version('copy-gateway')}")
        raise typer.Exit


@app.callback()
def common(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Exit after the copy instead of leaving everything running.")
    ] = False,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0, max=3600, metavar="SECONDS", help="How long the copy takes; default: 8, or 12 with replicas."
        ),
    ] = None,
    replicas: Annotated[
        int,
        typer.Option(
            min=1, max=9, metavar="NUMBER", help="Number of gateways on a temporary PostgreSQL; one is killed."
        ),
    ] = 1,
) -> None:
    """Demonstrate the gateway on this machine. Runs a simulated Graph, a gateway and one copy, and shows its events.

    The simulated Graph accepts any token. Of the settings, the demo takes GATEWAY_CORS_ORIGINS; for others, run
    gateway simulate, which prints how to start a gateway for it.
    """
    import anyio

    from gateway.cli.demo import demonstrate
    from gateway.cli.run import exit_status

    raise typer.Exit(exit_status(lambda: anyio.run(demonstrate, once, seconds, replicas)))


@app.command(cls=_WithSettings)
def serve(
    *,
    workers: Annotated[
        int,
        typer.Option(
            min=1, max=256, metavar="NUMBER", help="Worker processes that share the port; several require PostgreSQL."
        ),
    ] = 1,
    worker: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Run the gateway until SIGTERM or SIGINT. Invalid settings are all listed at once, with exit status 2."""
    if workers > 1:
        from gateway.server import workers as several

        gc.enable()  # only a gateway that has started enables it
        raise typer.Exit(several.run(workers))
    from gateway.cli.arguments import command
    from gateway.server.server import run

    raise typer.Exit(run(command(), worker))


@app.command(cls=_WithScenarios)
def simulate(
    *,
    host: Annotated[str, typer.Option(metavar="HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port to listen on; 0 selects a free port.")
    ] = 9090,
    scenario: Annotated[
        str, typer.Option(metavar="NAME", help="Scenario of the copies that select none themselves.")
    ] = "copy",
    seconds: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long a copy takes.")] = 5.0,
    steps: Annotated[
        int, typer.Option(min=1, metavar="NUMBER", help="Number of steps in which its percentage rises.")
    ] = 20,
    receiver: Annotated[
        bool, typer.Option("--receiver", help="Receive callbacks (webhooks) too, and print them.")
    ] = False,
    secret_file: SecretOption = None,
) -> None:
    """Run a simulated Microsoft Graph until SIGTERM or SIGINT. Any Bearer token is accepted.

    The receiver verifies signatures with the secret of --secret-file, and with those that it is sent while it runs.
    """
    import anyio

    from gateway.cli.arguments import command, webhook_secret
    from gateway.cli.display import stderr_line
    from gateway.cli.run import WRONG_USE
    from gateway.simulator import SCENARIOS, Receiver, serve

    if scenario not in SCENARIOS:
        raise typer.BadParameter(
            f"there is no scenario {scenario!r}; gateway simulate --help lists them", param_hint="--scenario"
        )
    secret, is_new = webhook_secret(secret_file) if receiver else ("", False)

    def ready(url: str) -> None:
        print(f"The simulated upstream is at {url} (open this URL to see how to choose a scenario).")
        allowed = "GATEWAY_CALLBACK_ALLOW=127.0.0.1/32 " if receiver else ""
        print(f"Run a gateway for it: GATEWAY_UPSTREAM_URL={url} {allowed}{command()} serve", flush=True)
        if receiver:
            body = json.dumps({"url": f"{url}/receiver", "secret": secret if is_new else "whsec_..."})
            print(f"Register a callback: curl -X POST JOB-URL/callbacks -H 'Authorization: Bearer JOBKEY' -d '{body}'")
            print(f"Teach it the secret of another callback: curl -X PUT {url}/receiver/secrets -d whsec_...")
            print("Received callbacks:", flush=True)

    receiving = Receiver(lambda line: print(line, flush=True)) if receiver else None
    if receiving is not None:
        receiving.learn(secret)

    async def run() -> None:
        await serve(host, port, scenario=scenario, seconds=seconds, steps=steps, on_ready=ready, receiver=receiving)

    try:
        anyio.run(run)
    except OSError as error:
        why = os.strerror(error.errno).lower() if error.errno else str(error)
        stderr_line(f"cannot listen on {host}, port {port}: {why}; choose others with --host and --port")
        raise typer.Exit(WRONG_USE) from None
    except ValueError as error:
        stderr_line(str(error))
        raise typer.Exit(WRONG_USE) from None


@app.command(epilog=STATUS_OF_JOBS)
def jobs(
    *,
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help="Only jobs with this status: inProgress, failed, completed, …")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="Show at most this many jobs, the newest.")] = 50,
    once: Annotated[bool, typer.Option("--once", help="Print one line per job and exit.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Like --once, each line being a job's state as JSON.")
    ] = False,
    gateway: GatewayOption = DEFAULT_URL,
    operator_key_file: OperatorKeyOption = None,
    patience: PatienceOption = 60.0,
) -> None:
    """Show a gateway's jobs, newest first. On a terminal the table is live until Ctrl-C; elsewhere it is printed once.

    GATEWAY_OPERATOR_KEY=… gateway jobs --status failed
    """
    from gateway.cli.arguments import operator_key, origin, parsed, status_word
    from gateway.cli.display import on_terminal
    from gateway.cli.run import COMPLETED, exit_status, until_done

    where = parsed(origin, gateway, "--gateway")
    wanted = status_word(status)
    key = operator_key(operator_key_file)

    live = on_terminal() and not (once or as_json)

    async def run() -> None:
        if live:
            from gateway.cli.table import watch_jobs

            await watch_jobs(where, key, status=wanted, limit=limit, patience=patience)
        else:
            from gateway.cli.jobs import print_jobs

            await print_jobs(where, key, status=wanted, limit=limit, as_json=as_json)

    def show() -> int:
        status = until_done(run)
        return COMPLETED if live else status  # Ctrl-C is how a live table ends

    raise typer.Exit(exit_status(show))


@app.command(epilog="Exit status: 0 copied, 1 not copied, 2 wrong use or settings.")
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new file; it must not exist. Its mode is 0600.")],
) -> None:
    """Copy the SQLite store to a file, also while a gateway runs. PostgreSQL has pg_dump for this.

    The settings name the store. To restore it, stop the gateway, remove the store's file with its -wal and -shm, put
    the copy in its place, and start the gateway again.
    """
    from gateway.cli.backup import run

    raise typer.Exit(run(file))


@app.command(epilog="Exit status: 0 all is encrypted with the first key, 1 it is not, 2 wrong use or settings.")
def reseal() -> None:
    """Encrypt the store with the first key of GATEWAY_SECRET_KEY.

    It is a step of changing that key, and encrypts monitor URLs, callback URLs and their secrets anew. It reads the
    settings of the gateways, which may go on running. Repeat it as often as you like.
    """
    from gateway.cli.reseal import run

    raise typer.Exit(run())


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # None or not a TextIOWrapper
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    app(prog_name="gateway")
