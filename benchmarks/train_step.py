"""Time one training step of a character-level LSTM, or of another cell, in several engines, side by side.

    python benchmarks/train_step.py --workloads S M --engines tinygrad_rnn numpy torch-cells --threads 1
    python benchmarks/train_step.py --workloads S M --cell gru

Each engine lives in a process of its own, held to the same cores. In every round the processes take turns: one steps
for about 0.3 s while the others wait, so whatever else the machine is doing hits all alike. Shown are medians over
rounds, the time to import the package (beside NumPy's) and the time to build and do a first step, compilation
included. The losses of the first three steps must agree; if they do not, the exit status is 1.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from engines import ENGINES
from workloads import CELLS, WORKLOADS, make

CHUNK_SECONDS = 0.3
MIN_STEPS = 3
SETTLE_SECONDS = 0.1  # OpenMP's and OpenBLAS's threads spin for a while before they sleep and leave the cores to others
TOLERANCE = 1e-4


def stdout_for_answers() -> TextIO:
    """The stdout of a worker, for its answers alone: whatever a package prints goes to stderr from now on."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def work(engine_name: str, workload: str, cell: str, threads: int) -> None:
    """Serve one engine over stdin and stdout: a report of the first steps, then one timed chunk for each line read."""
    answers = stdout_for_answers()
    engine = ENGINES[engine_name]
    data = make(workload, cell=cell)
    start = time.perf_counter()
    package = import_module(engine.package)
    imported = time.perf_counter()
    if engine.package == "torch":
        package.set_num_threads(threads)
    step = engine.build(*data)
    losses = [step()]
    first = time.perf_counter()
    losses += [step(), step()]
    begin = time.perf_counter()
    step()
    steps = max(MIN_STEPS, round(CHUNK_SECONDS / (time.perf_counter() - begin)))
    report = {"losses": losses, "import_s": imported - start, "first_step_s": first - imported}
    print(json.dumps(report), file=answers)
    for _ in sys.stdin:
        step()  # warms the caches, which another engine has used meanwhile
        begin = time.perf_counter()
        for _ in range(steps):
            step()
        print(json.dumps((time.perf_counter() - begin) / steps * 1e3), file=answers)


def hold_to_cores(threads: int) -> None:
    """Restrict this process to as many cores as it may have threads, where the system can.

    JAX has no setting for its threads, but counts the cores that it may use.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


class Worker:
    """A process that runs one engine: a script called with --worker."""

    def __init__(self, engine: str, script: str, arguments: list[str], threads: int) -> None:
        count = str(threads)
        here = Path(script).resolve()
        environment = os.environ | {
            "OMP_NUM_THREADS": count,
            "OPENBLAS_NUM_THREADS": count,
            "MKL_NUM_THREADS": count,
            "NPROC": count,  # size of JAX's thread pool
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(here.parent.parent), os.environ.get("PYTHONPATH")])),
        }
        command = [sys.executable, str(here), "--worker", engine, *arguments, "--threads", count]
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=functools.partial(hold_to_cores, threads),
        )
        self.engine = engine
        self.chunks: list[Any] = []
        self.report: dict[str, Any] = self.receive()

    def receive(self) -> Any:
        """Read one answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.engine}: its process ended with status {self.process.wait()}; see above")
        return json.loads(line)

    def time_chunk(self) -> None:
        """Have the engine time some steps."""
        assert self.process.stdin is not None
        print("go", file=self.process.stdin, flush=True)
        self.chunks.append(self.receive())

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def take_turns(engines: list[str], script: str, arguments: list[str], threads: int, rounds: int) -> list[Worker]:
    """Start a worker for each engine, let them work one after the other in every round, and end them."""
    workers: list[Worker] = []
    try:
        for engine in engines:
            workers.append(Worker(engine, script, arguments, threads))
        for index in range(rounds):
            # Alternate the order, so that no engine always runs after the same one.
            for worker in workers if index % 2 == 0 else workers[::-1]:
                time.sleep(SETTLE_SECONDS)
                worker.time_chunk()
    finally:
        for worker in workers:
            worker.close()
    return workers


def measure(workload: str, cell: str, engines: list[str], threads: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Return, for each engine, its losses, start-up times and milliseconds per step in each round."""
    workers = take_turns(engines, __file__, [workload, "--cell", cell], threads, rounds)
    return {worker.engine: worker.report | {"ms": worker.chunks} for worker in workers}


def disagreements(results: dict[str, dict[str, Any]]) -> list[str]:
    """Return a line for each engine whose first losses differ from those of the reference."""
    reference_name = "numpy" if "numpy" in results else next(iter(results))
    reference = results[reference_name]["losses"]
    lines = []
    for engine, result in results.items():
        # Written so that a NaN counts as a difference.
        if not all(abs(a - b) <= TOLERANCE * abs(b) for a, b in zip(result["losses"], reference, strict=True)):
            lines.append(f"{engine}: losses {result['losses']}, but {reference_name} has {reference}")
    return lines


def columns(result: dict[str, Any], base: float) -> list[str]:
    """Return the numbers of one engine's row; base is the median that its own is divided by."""
    ms = result["ms"]
    median = statistics.median(ms)
    return [
        f"{median:.3g}",
        f"{min(ms):.3g}..{max(ms):.3g}",
        f"{median / base:.2f}",
        f"{result['import_s']:.2f}",
        f"{result['first_step_s']:.2f}",
    ]


def table(results: dict[str, dict[str, dict[str, Any]]], missing: list[str], base_engine: str) -> str:
    """Return a GitHub table of everything measured."""
    header = ["workload", "engine", "ms per step", "min..max", f"/ {base_engine}", "import s", "first step s"]
    lines = [header, ["---", "---"] + ["---:"] * (len(header) - 2)]
    for workload, by_engine in results.items():
        base = statistics.median(by_engine[base_engine]["ms"])
        for engine, result in by_engine.items():
            lines.append([workload, engine, *columns(result, base)])
    lines += [["", engine, "not installed", "", "", "", ""] for engine in missing]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cpu_model() -> str:
    """Return the processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def blas_name() -> str:
    """Return NumPy's BLAS, its version and, for OpenBLAS, the kernels that it chose on this machine."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    name = f"{blas['name']} {blas['version']}"
    for library in Path(np.__file__).parent.parent.glob("numpy.libs/libscipy_openblas*"):
        try:
            corename = ctypes.CDLL(str(library)).scipy_openblas_get_corename64_
        except (OSError, AttributeError):
            continue
        corename.restype = ctypes.c_char_p
        name += f" ({corename().decode()} kernels)"
    if "OPENBLAS_CORETYPE" in os.environ:  # not OpenBLAS's own choice then, and easily half the speed
        name += f", OPENBLAS_CORETYPE={os.environ['OPENBLAS_CORETYPE']} set"
    return name


def machine(threads: int) -> str:
    """Return a line on hardware and versions."""
    versions = [f"Python {platform.python_version()}"]
    for package in ("numpy", "torch", "jax", "autograd"):
        if importlib.util.find_spec(package):
            versions.append(f"{package} {metadata.version(package)}")
    cores = os.cpu_count()
    return f"{cpu_model()}, {cores} cores, {threads} thread(s); {', '.join(versions)}; BLAS {blas_name()}"


def main() -> int:
    """Run the benchmark, or one of its workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--cell", default="lstm", choices=CELLS, help="engines without this cell sit out")
    parser.add_argument("--relative-to", metavar="ENGINE", help="default: tinygrad_rnn, else numpy")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every chunk's time to FILE")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        engine, workload = arguments.worker
        work(engine, workload, arguments.cell, arguments.threads)
        return 0

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tinygrad_rnn need not be installed
    able = [name for name in arguments.engines if arguments.cell in ENGINES[name].cells]
    engines = [name for name in able if importlib.util.find_spec(ENGINES[name].package)]
    missing = [name for name in able if name not in engines]
    if not engines:
        parser.error(f"none of these engines is installed and has the cell {arguments.cell}")
    base = arguments.relative_to or next((name for name in ("tinygrad_rnn", "numpy") if name in engines), engines[0])
    if base not in engines:
        parser.error(f"--relative-to {base}: not among the engines that run ({', '.join(engines)})")

    results: dict[str, dict[str, dict[str, Any]]] = {}
    complaints = []
    for workload in arguments.workloads:
        print(f"{workload}: {WORKLOADS[workload]}, {arguments.cell}", file=sys.stderr)
        results[workload] = measure(workload, arguments.cell, engines, arguments.threads, arguments.rounds)
        complaints += [f"{workload}, {line}" for line in disagreements(results[workload])]
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(arguments.threads), "results": results}, indent=1))
    print(table(results, missing, base))
    print(f"\n{machine(arguments.threads)}")
    if complaints:
        print("\nLOSSES DISAGREE: these engines do not compute the same step.", *complaints, sep="\n", file=sys.stderr)
        return 1
    print(f"Losses of the first three steps agree to {TOLERANCE:g}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
