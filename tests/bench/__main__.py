"""`python -m tests.bench [ROW …]` measures what the gateway costs, beside what one would take instead.

It uses loopback only, and leaves nothing behind but the files it is asked for.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from tests.bench import row
from tests.bench.machine import described, on_cpu, raise_descriptors
from tests.bench.report import Report, as_json, machine_lines, table
from tests.bench.row import Result
from tests.bench.rows import ROWS


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], metavar="ROW", help=f"all by default: {' '.join(ROWS)}")
    parser.add_argument("--runs", type=int, default=5, help="rounds, each in a random order of its own (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every figure of every run")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the charts of the rows that have one")
    parser.add_argument("--seed", type=int, default=None, help="of the order of the runs")
    parser.add_argument("--list", action="store_true", help="tell what there is to measure")
    return parser


def main() -> None:
    asked = arguments().parse_args()
    chosen = [ROWS[name] for name in asked.rows] or list(ROWS.values())
    if asked.list:
        for one in chosen:
            print(f"{one.name}: {one.about}")
        return
    raise_descriptors()
    machine = described()
    print("\n".join(machine_lines(machine)), flush=True)
    rng = random.Random(asked.seed)
    results: list[Result] = []
    for one in chosen:
        # A temporary folder that any user may pass: nginx's worker is not root.
        with TemporaryDirectory(prefix="bench-") as place, on_cpu(server=False):
            Path(place).chmod(0o711)
            result = uvloop.run(row.run(one, asked.runs, Path(place), rng, _say))
        print(f"\n{table(result)}\n", flush=True)
        results.append(result)
        if asked.json:
            asked.json.write_bytes(as_json(Report(machine, asked.runs, results)))
        if asked.plots and one.chart:
            asked.plots.mkdir(parents=True, exist_ok=True)
            chart = one.chart(result.runs)
            (asked.plots / f"{chart.name}.svg").write_text(chart.svg())


def _say(line: str) -> None:
    print(f"  {line}", flush=True)


if __name__ == "__main__":
    main()
