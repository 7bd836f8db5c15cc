"""Run the programs of this folder and of learn/ and reference/, and print one table of what they came to.

    python examples/run_all.py --quick                      # the short forms, within minutes
    python examples/run_all.py --quick parity ball          # some of them
    python examples/run_all.py --markdown gallery.md        # the full forms, and the table as Markdown

A program is any file there that can be run by itself and knows --quick. It is run as from a shell, in the folder --out,
and fails if it raises anything or ends with another status than 0. Of a ``common.Report`` the table has the worst seed,
of other programs the last line that they print.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import runpy
import sys
import time
from pathlib import Path
from typing import NamedTuple

from common import Finished, Report

HERE = Path(__file__).resolve().parent
COLUMNS = ("task", "result", "baseline", "bar", "seeds", "seconds")


class Row(NamedTuple):
    """What one program came to, in words, and whether it did what it should."""

    task: str
    result: str
    baseline: str
    bar: str
    seeds: str
    seconds: str
    passed: bool


def programs() -> dict[str, Path]:
    """All programs by name, such as "parity" and "learn/01_scalar"."""
    found = [path for folder in (HERE, HERE / "learn", HERE / "reference") for path in sorted(folder.glob("[!_]*.py"))]
    return {
        path.relative_to(HERE).with_suffix("").as_posix(): path
        for path in found
        if path != Path(__file__).resolve() and '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8")
    }


def run(name: str, path: Path, arguments: list[str]) -> Row:
    """Run a program as a shell would, say what it printed, and make a row of it."""
    begun, printed, why = time.perf_counter(), io.StringIO(), ""
    before, finished = (sys.argv, sys.path), None
    sys.argv, sys.path = [str(path), *arguments], [str(path.parent), str(HERE), *sys.path]
    try:
        with contextlib.redirect_stdout(printed):
            runpy.run_path(str(path), run_name="__main__")
    except Finished as end:
        finished = end.report
    except SystemExit as end:
        why = f"ended with {end.code}" if end.code else ""
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
    finally:
        sys.argv, sys.path = before
        print(printed.getvalue(), end="", flush=True)
    seconds = f"{time.perf_counter() - begun:.1f}"
    if finished:
        return row(name, finished, seconds)
    said = why or printed.getvalue().strip().rpartition("\n")[2]
    return Row(name, said if len(said) <= 80 else f"{said[:77]}...", "", "", "", seconds, not why)


def row(name: str, report: Report, seconds: str) -> Row:
    """A line of the table: the worst seed, and what it is compared with."""
    bar, sign = report.bar, -1 if report.bar.lower else 1
    worst = min(report.results, key=lambda result: sign * result.value)
    seeds = f"{report.met} of {len(report.results)}"
    compared = f"{worst.baseline:.4g} ({bar.baseline})"
    return Row(name, f"{worst.value:.4g} {bar.what}", compared, bar.text(report.quick), seeds, seconds, report.passed)


def table(rows: list[Row]) -> str:
    """The rows as Markdown, which is easy to read as it stands."""
    cells = [COLUMNS, *[[cell.replace("|", "\\|") for cell in row[:-1]] for row in rows]]
    widths = [max(len(line[k]) for line in cells) for k in range(len(COLUMNS))]
    lines = [f"| {' | '.join(map(str.ljust, line, widths))} |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for, and return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("names", nargs="*", help="programs to run, such as parity or learn/01_scalar (all)")
    parser.add_argument("--quick", action="store_true", help="the short form of each")
    parser.add_argument("--out", type=Path, default=Path("runs/all"), help="folder to work in (%(default)s)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table to a file as well")
    args, there = parser.parse_args(arguments), programs()
    if unknown := [name for name in args.names if name not in there]:
        parser.error(f"there is no program {unknown[0]!r}; there are {', '.join(there)}")
    args.out.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    os.chdir(args.out)
    chosen = {name: path for name, path in there.items() if not args.names or name in args.names}
    try:
        rows = [run(name, path, ["--quick"] * args.quick) for name, path in chosen.items()]
    finally:
        os.chdir(before)
    print(f"\n{table(rows)}\n")
    if args.markdown:
        args.markdown.write_text(table(rows) + "\n", encoding="utf-8")
    failed = [row.task for row in rows if not row.passed]
    print(f"{len(failed)} of {len(rows)} failed{': ' * bool(failed)}{', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
