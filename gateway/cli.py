"""The commands. Each imports what it needs, so that `gateway serve` starts without what only the others need."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import aiohttp

    from gateway.cli_display import Display
    from gateway.cli_follow import State

T = TypeVar("T")

COMPLETED, FAILED, WRONG_USE, LOST = 0, 1, 2, 3
INTERRUPTED = 130
PIPE_CLOSED = 141
STATUS = "Exit status: 0 completed, 1 failed, 2 wrong use or refused, 3 lost sight of, 130 interrupted."

app = typer.Typer(
    name="gateway",
    help="Turns Microsoft Graph's polled long-running copies into pushed events. Start with: gateway demo",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "terminal_width": max(30, min(100, shutil.get_terminal_size().columns) - 1),
    },
)


class _WithTable(TyperCommand):
    """A command whose help ends in a table that is only made when somebody asks for help."""

    title = ""

    def rows(self) -> list[tuple[str, str]]:
        raise NotImplementedError

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        with formatter.section(self.title):
            formatter.write_dl(self.rows())
        super().format_epilog(ctx, formatter)


class _WithSettings(_WithTable):
    title = "Settings, from the environment; times are in seconds"

    def rows(self) -> list[tuple[str, str]]:
        from gateway.settings import Settings

        rows = []
        for name, field in Settings.model_fields.items():
            default = field.default
            shown = ", ".join(default) if isinstance(default, tuple) else default
            text = field.description or ""
            rows.append((f"GATEWAY_{name.upper()}", f"{text} [{shown}]" if shown not in (None, "") else text))
        return rows


class _WithScenarios(_WithTable):
    title = "Scenarios; a copied item's id or name that is one of these plays it too"

    def rows(self) -> list[tuple[str, str]]:
        from gateway.simulator import SCENARIOS

        return [(scenario.name, scenario.summary) for scenario in SCENARIOS.values()]


GatewayOption = Annotated[
    str, typer.Option("--gateway", envvar="GATEWAY_URL", metavar="URL", help="The gateway that is running.")
]
PatienceOption = Annotated[
    float, typer.Option(min=0, metavar="SECONDS", help="How long the gateway may be away before it counts as lost.")
]


@app.command(cls=_WithSettings)
def serve() -> None:
    """Run the gateway until SIGTERM or SIGINT. Wrong settings are all named at once; then the exit status is 2."""
    from gateway.server import run

    raise typer.Exit(run())


@app.command(cls=_WithScenarios)
def simulate(
    *,
    host: Annotated[str, typer.Option(metavar="HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port to listen on; 0 takes a free one.")
    ] = 9090,
    scenario: Annotated[
        str, typer.Option(metavar="NAME", help="How copies go that name no scenario themselves.")
    ] = "copy",
    seconds: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long a copy takes.")] = 5.0,
    steps: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="In how many steps its percentage moves.")] = 20,
    receiver: Annotated[bool, typer.Option("--receiver", help="Receive callbacks too, and show what comes.")] = False,
) -> None:
    """Run a simulated Microsoft Graph until SIGTERM or SIGINT. Any Bearer token will do."""
    import anyio

    from gateway.cli_display import command, say
    from gateway.signing import new_secret
    from gateway.simulator import SCENARIOS, Receiver, serve

    if scenario not in SCENARIOS:
        raise typer.BadParameter(
            f"there is no {scenario!r}; gateway simulate --help lists them", param_hint="--scenario"
        )

    def ready(url: str) -> None:
        print(f"The simulated upstream is at {url} (open it to read how to choose a scenario).")
        allowed = "GATEWAY_CALLBACK_ALLOW=127.0.0.1/32 " if receiver else ""
        print(f"A gateway on top: GATEWAY_UPSTREAM_URL={url} {allowed}{command()} serve", flush=True)
        if receiver:
            wish = json.dumps({"url": f"{url}/receiver", "secret": secret})
            print(f"A callback to here: curl -X POST JOB-URL/callbacks -H 'Authorization: Bearer JOBKEY' -d '{wish}'")
            print("What comes is shown here:", flush=True)

    secret = new_secret()
    receiving = Receiver(lambda line: print(line, flush=True)) if receiver else None
    if receiving is not None:
        receiving.learn(secret)

    async def run() -> None:
        await serve(host, port, scenario=scenario, seconds=seconds, steps=steps, on_ready=ready, receiver=receiving)

    try:
        anyio.run(run)
    except OSError as error:
        why = os.strerror(error.errno).lower() if error.errno else str(error)
        say(f"cannot listen on {host}, port {port}: {why}; choose others with --host and --port")
        raise typer.Exit(WRONG_USE) from None
    except ValueError as error:
        say(str(error))
        raise typer.Exit(WRONG_USE) from None


@app.command(epilog=STATUS)
def copy(
    *,
    item: Annotated[
        str,
        typer.Argument(
            metavar="ITEM",
            help="me/drive/items/ID, drives/ID/items/ID, me/drive/root:/path:, a Graph URL, or a bare id.",
        ),
    ],
    to: Annotated[
        str, typer.Option(metavar="DRIVE/FOLDER", help="The target: ids of drive and folder, or /path/in/your/drive.")
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The copy's name; upstream's choice by default.")
    ] = None,
    conflict: Annotated[
        Literal["fail", "rename", "replace"] | None, typer.Option(help="What to do when the name is taken.")
    ] = None,
    gateway: GatewayOption = "http://127.0.0.1:8000",
    token: Annotated[
        str,
        typer.Option(
            envvar="GRAPH_TOKEN", metavar="TOKEN", help="Graph's access token; better set in the environment."
        ),
    ] = "",
    patience: PatienceOption = 60.0,
) -> None:
    """Start a copy through a gateway and follow it. It is started once at most; interrupted, it goes on."""
    from gateway.cli_follow import start
    from gateway.cli_item import copy_path, origin, target

    url = _parsed(origin, gateway, "--gateway") + _parsed(copy_path, item, "ITEM")
    if conflict is not None:
        url += f"?@microsoft.graph.conflictBehavior={conflict}"
    body: dict[str, Any] = {"parentReference": _parsed(target, to, "--to")}
    if name is not None:
        body["name"] = name
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable():
        raise typer.BadParameter("set the environment variable GRAPH_TOKEN to an access token", param_hint="--token")

    async def begin(session: aiohttp.ClientSession, shown: Display) -> str:
        return await start(session, url, body, token, patience=patience, notice=shown.notice)

    _follow(begin, patience)


@app.command(epilog=STATUS)
def tail(
    job: Annotated[str, typer.Argument(metavar="JOB-URL", help="The Location of a copy, or a job's bare id.")],
    gateway: GatewayOption = "http://127.0.0.1:8000",
    patience: PatienceOption = 60.0,
) -> None:
    """Follow one job to its end. Lost connections and restarts of the gateway are bridged."""
    from gateway.cli_item import job_url

    url = _parsed(lambda text: job_url(text, gateway), job, "JOB-URL")

    async def begin(_session: aiohttp.ClientSession, _shown: Display) -> str:
        return url

    _follow(begin, patience)


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="End after the copy instead of leaving all open.")] = False,
    seconds: Annotated[
        float | None,
        typer.Option(min=0, max=3600, metavar="SECONDS", help="How long the copy takes; 8, or 12 with replicas."),
    ] = None,
    replicas: Annotated[
        int,
        typer.Option(
            min=1, max=9, metavar="NUMBER", help="Gateways on a PostgreSQL of their own; one of them is killed."
        ),
    ] = 1,
) -> None:
    """Show it all on this machine. A simulated Microsoft Graph, a gateway, one copy, and its events as they arrive."""
    import anyio

    from gateway.cli_demo import demonstrate

    raise typer.Exit(_exit_status(lambda: anyio.run(demonstrate, once, seconds, replicas)))


def main() -> None:
    app(prog_name="gateway")


def _parsed(parse: Callable[[str], T], text: str, hint: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}", param_hint=hint) from None


def _follow(begin: Callable[[aiohttp.ClientSession, Display], Awaitable[str]], patience: float) -> None:
    """Find the job with `begin`, follow it to its end, and exit as it ended."""
    import aiohttp
    import anyio

    from gateway.cli_display import command, display, ending, say
    from gateway.cli_follow import Tail, verdict

    job = ""

    async def run() -> State:
        nonlocal job
        with display() as shown:
            async with aiohttp.ClientSession() as session:
                job = await begin(session, shown)
                return await Tail(session, job, patience=patience, show=shown.state, notice=shown.notice).ended()

    def follow() -> int:
        try:
            state = anyio.run(run)
        except KeyboardInterrupt:
            again = f"The copy goes on. Follow it again: {command()} tail {job}"
            say(again if job else "Interrupted before the gateway answered: the copy may have been started.")
            return INTERRUPTED
        status = verdict(state)
        if status != COMPLETED:
            say(ending(state))
        elif sys.stdout.isatty():
            print(ending(state))
        return status

    raise typer.Exit(_exit_status(follow))


def _exit_status(run: Callable[[], int]) -> int:
    """What `run` returns, or the status of the error it ends in, said in one line."""
    from gateway.cli_display import advice, say
    from gateway.cli_follow import LostError, RefusedError

    try:
        return run()
    except RefusedError as error:
        say(advice(str(error)))
        return WRONG_USE
    except LostError as error:
        say(advice(str(error)))
        return LOST
    except BrokenPipeError:
        # Whoever read our output has left; the interpreter must not try to flush the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
