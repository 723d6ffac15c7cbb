"""The options that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

GatewayOption = Annotated[
    str, typer.Option("--gateway", envvar="GATEWAY_URL", metavar="URL", help="URL of the running gateway.")
]
PatienceOption = Annotated[
    float, typer.Option(min=0, metavar="SECONDS", help="How long to retry while the gateway is unreachable.")
]
OperatorKeyOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A file with the operator key; default: the value of GATEWAY_OPERATOR_KEY."),
]
JobKeyOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A file with the job's jobKey; default: the value of GATEWAY_JOB_KEY, else the operator key.",
    ),
]
TokenOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A file with Graph's access token, - for standard input; default: the value of GRAPH_TOKEN.",
    ),
]
SecretOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A file with the webhook secret (whsec_…); default: the value of GATEWAY_WEBHOOK_SECRET, else a new one.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
StartedJsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON object a line. The first has the jobKey, a secret that stop, callbacks and token take.",
    ),
]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job's URL (the Location that named it), or its id.")]

_ID_WITH_DASH = re.compile(r"-[\w-]{23}", re.ASCII)
"""An id that begins with a dash. Gateways made such ids once."""


class WithTable(TyperCommand):
    """A command whose help ends in a table. The table is built only when the help is shown."""

    title = ""

    def rows(self) -> list[tuple[str, str]]:
        raise NotImplementedError

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        with formatter.section(self.title):
            formatter.write_dl(self.rows())
        super().format_epilog(ctx, formatter)


class TakesIds(TyperCommand):
    """A command whose arguments may be ids that begin with a dash: they are told from options by their length."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with_value = {
            name
            for parameter in self.params
            if isinstance(parameter, TyperOption) and not parameter.is_flag
            for name in parameter.opts
        }
        options: list[str] = []
        given: list[str] = []
        left = iter(args)
        for arg in left:
            if arg == "--":
                given += left
            elif not arg.startswith("-") or _ID_WITH_DASH.fullmatch(arg):
                given.append(arg)
            else:
                options.append(arg)
                options += [next(left, "")] if arg in with_value else []
        return super().parse_args(ctx, [*options, "--", *given])
