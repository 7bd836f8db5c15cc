"""Run the programs of this folder and of learn/ and reference/, and print one table of their results.

    python examples/run_all.py --quick                      # the short forms, within minutes
    python examples/run_all.py --quick parity ball          # some of them
    python examples/run_all.py --markdown results.md        # the full forms, and the table as Markdown
    python examples/run_all.py --resume                     # go on where an earlier run was stopped

A program is any file there that can be run by itself and knows --quick. It runs as from a shell, in the folder --out,
and fails if it raises an error or its exit status is not 0. The table shows the worst seed of each gallery program, and
a line for each bar of a reference program, with the first seed or the first that missed. All others are run with the
seeds 0, 1 and 2 (only 0 with --quick); the table shows what they print about their result, or their last line.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import sys
import time
from pathlib import Path

# Two of OpenBLAS's threads wait for each other: beside a busy process, they take many times as long as one.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy

from common import Finished, Parser, Row, running

HERE = Path(__file__).resolve().parent
COLUMNS = Row._fields[:-1]


def programs() -> dict[str, Path]:
    """All programs by name, such as "parity" and "learn/01_tape"."""
    found = [path for folder in (HERE, HERE / "learn", HERE / "reference") for path in sorted(folder.glob("[!_]*.py"))]
    return {
        path.relative_to(HERE).with_suffix("").as_posix(): path
        for path in found
        if path != Path(__file__).resolve() and '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8")
    }


def run(name: str, path: Path, arguments: list[str], first: int = 0) -> list[Row]:
    """The rows of a program: those that it ends with, or one row for all that it printed with several seeds."""
    told: list[str] = []
    seeds, passed, begun = 1 if "--quick" in arguments else 3, 0, time.perf_counter()
    for seed in range(first, first + seeds):
        finished, printed, why = once(path, [*arguments, "--seed", str(seed)])
        if finished:
            return [row._replace(task=f"{name} {row.task}".strip()) for row in finished.rows]
        told.append(why or result(printed))
        passed += not why
    seconds = f"{time.perf_counter() - begun:.1f}"
    return [Row(name, "; ".join(dict.fromkeys(told)), "", "", f"{passed} of {seeds}", seconds, passed == seeds)]


def once(path: Path, arguments: list[str]) -> tuple[Finished | None, str, str]:
    """Run a program as a shell would; returns its ``Finished`` if it raised one, its output, and why it failed."""
    printed, why, finished, before = io.StringIO(), "", None, (sys.argv, sys.path)
    sys.argv, sys.path = [str(path), *arguments], [str(path.parent), str(HERE), *sys.path]
    try:
        with contextlib.redirect_stdout(printed):
            runpy.run_path(str(path), run_name="__main__")
    except Finished as end:
        finished = end
    except SystemExit as end:
        if end.code == 130:  # Ctrl-C stops everything
            raise KeyboardInterrupt from None
        why = f"ended with {end.code}" if end.code else ""
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
    finally:
        sys.argv, sys.path = before
        print(printed.getvalue(), end="", flush=True)
    return finished, printed.getvalue(), why


def result(printed: str) -> str:
    """The result in a program's output: the claims of a rung, a loss, or else the last line."""
    lines = printed.strip().splitlines() or [""]
    claims = [line.removeprefix("holds: ") for line in lines if line.startswith("holds: ")]
    if claims:
        return f"{len(claims)} claims hold, the last: {claims[-1]}"
    return next((line.partition(";")[0] for line in lines if line.startswith("best validation loss ")), lines[-1])


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table, aligned so that it is easy to read as it is."""
    cells = [COLUMNS, *[[cell.replace("|", "\\|") for cell in row[:-1]] for row in rows]]
    widths = [max(len(line[k]) for line in cells) for k in range(len(COLUMNS))]
    lines = [f"| {' | '.join(map(str.ljust, line, widths))} |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def all_rows(chosen: dict[str, Path], arguments: list[str], first: int, out: Path, resume: bool) -> list[Row]:
    """The rows of all programs, which run in a folder; each program's rows are saved there as soon as it has ended."""
    out.mkdir(parents=True, exist_ok=True)
    file, before = out.resolve() / "rows.json", Path.cwd()
    kept = read(file) if resume and file.exists() else {}
    commands = {name: " ".join([name, *arguments, "--seed", str(first)]) for name in chosen}
    os.chdir(out)
    try:
        for name, command in commands.items():
            if command not in kept:
                kept[command] = run(name, chosen[name], arguments, first)
                file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    finally:
        os.chdir(before)
    return [row for command in commands.values() for row in kept[command]]


def read(file: Path) -> dict[str, list[Row]]:
    """The rows that an earlier run has saved."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {command: [Row(*row) for row in rows] for command, rows in found.items()}
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"{file} was not written by this program, or not to its end; leave out --resume") from None


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for, and return 1 if anything failed."""
    parser = Parser(__doc__)
    parser.add_argument("names", nargs="*", help="programs to run, such as parity or learn/01_tape (all)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=Path("runs/all"), help="to work in (%(default)s)")
    parser.add_argument("--resume", action="store_true", help="do not run again what is in --out/rows.json by now")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table to a file as well")
    args, there = parser.parse_args(arguments), programs()
    if unknown := [name for name in args.names if name not in there]:
        parser.error(f"there is no program {unknown[0]!r}; there are {', '.join(there)}")
    if args.markdown and not args.markdown.parent.is_dir():
        parser.error(f"--markdown {args.markdown}: there is no folder {args.markdown.parent}")
    chosen = {name: path for name, path in there.items() if not args.names or name in args.names}
    passed_on = [*["--quick"] * args.quick, *(["--backend", args.backend] if args.backend else [])]
    with running("run_all.py"):
        rows = all_rows(chosen, passed_on, args.seed, args.out, args.resume)
        print(f"\n{table(rows)}\n")
        if args.markdown:
            args.markdown.write_text(table(rows) + "\n", encoding="utf-8")
    failed = [row.task for row in rows if not row.passed]
    print(f"{len(failed)} of {len(rows)} failed{': ' * bool(failed)}{', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
