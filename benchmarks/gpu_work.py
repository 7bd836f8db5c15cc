"""One part of ``gpu.py``, in a process of its own: results go to stdout, a line of JSON for each figure.

    python benchmarks/gpu_work.py steps torch-lstm --device cpu --tiny

A figure that cannot be measured is a line too, with its error.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import workloads
from engines import ENGINES, build_captured, build_tinygrad_rnn
from train_step import stdout_for_answers
from workloads import Parameters, Step, Workload

ROOT = Path(__file__).resolve().parents[1]
BACKENDS = {"cuda": "cupy", "cpu": "numpy", "strict": "strict"}
Figure = dict[str, Any]


def shapes(quick: bool, tiny: bool) -> dict[str, Workload]:
    """The training steps to time; tiny ones only show that everything works."""
    if tiny:
        return {f"{layers} x 8": Workload(batch=2, steps=4, hidden_size=8, layers=layers) for layers in (1, 2)}
    sizes = product((512, 1024), (1,) if quick else (1, 2))
    return {f"{layers} x {h}": Workload(batch=64, steps=100, hidden_size=h, layers=layers) for h, layers in sizes}


def grid(quick: bool, tiny: bool) -> dict[str, Workload]:
    """The training steps among which to look for the crossover between CPU and GPU."""
    batches, sizes = ([1, 64], [128, 1024]) if quick else ([1, 16, 64, 256], [64, 128, 256, 512, 1024])
    steps = 25
    if tiny:
        batches, sizes, steps = [1, 2], [4], 4
    return {f"{h}, {b}": Workload(batch=b, steps=steps, hidden_size=h, layers=1) for h, b in product(sizes, batches)}


# ---- devices, precisions, clocks ----


def set_up(package: str, device: str, stack: ExitStack) -> None:
    """Let a package work on a device from now on."""
    if package == "torch" and device == "cuda":
        import_module("torch").set_default_device("cuda")
    elif package == "jax" and device == "cuda" and import_module("jax").default_backend() != "gpu":
        raise RuntimeError("this JAX has no GPU")
    elif package == "tinygrad_rnn":
        if device == "strict":
            sys.path.insert(0, str(ROOT / "tests"))
            stack.enter_context(import_module("strict").registered())
        import_module("tinygrad_rnn").set_backend(BACKENDS[device])


def set_tf32(package: str, device: str, allowed: bool) -> None:
    """Let products of float32 round their inputs to TF32, or not."""
    if package == "torch":
        backends = import_module("torch").backends
        backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = allowed
    elif package == "jax":
        precision = "tensorfloat32" if allowed else "float32"
        import_module("jax").config.update("jax_default_matmul_precision", precision)
    elif device != "cpu":
        blas = import_module("tinygrad_rnn").backend.get(BACKENDS[device]).cublas
        if not isinstance(blas, str):
            blas.tf32 = allowed
        elif allowed:
            raise RuntimeError(f"cuBLAS could not be loaded ({blas})")


def clock(package: str, device: str) -> Callable[[Callable[[], Any]], float]:
    """A function that times a call in milliseconds: by events on a GPU, except for JAX, which shows none."""

    def wall(call: Callable[[], Any]) -> float:
        begin = time.perf_counter()
        call()
        return (time.perf_counter() - begin) * 1e3

    if device != "cuda" or package == "jax":
        return wall
    cuda = import_module("torch" if package == "torch" else "cupy").cuda

    def by_events(call: Callable[[], Any]) -> float:
        begin, end = (cuda.Event(enable_timing=True) if package == "torch" else cuda.Event() for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end) if package == "torch" else cuda.get_elapsed_time(begin, end))

    return by_events


def timed(measure: Callable[[Callable[[], Any]], float], call: Callable[[], Any], seconds: float) -> list[float]:
    """The milliseconds of calls, made for some seconds, but at least three times."""
    end, found = time.perf_counter() + seconds, [measure(call) for _ in range(3)]
    while time.perf_counter() < end and len(found) < 200:
        found.append(measure(call))
    return found


@contextmanager
def errors_told_in(figure: Figure) -> Iterator[None]:
    """An error inside the block goes into the figure, and the next one is measured; the memory of this one is freed."""
    try:
        yield
    except Exception as error:
        figure["error"] = f"{type(error).__name__}: {error}"
    gc.collect()


# ---- the parts ----


# This engine's recorded step: replayed call by call or, on a GPU, as a CUDA graph, of one lane or of several.
CAPTURED = {"captured": ["graph"], "captured-graph-one-lane": ["lanes"], "captured-graph": []}


def captured(without: list[str], params: Parameters, tokens: np.ndarray, targets: np.ndarray) -> Step:
    """A recorded step."""
    from tinygrad_rnn import backend, capture

    if "graph" not in without and not backend.default().cuda:
        raise NotImplementedError("CUDA graphs need a GPU")
    warnings.filterwarnings("error", message="capture")  # without a graph there is no figure for a graph
    return build_tinygrad_rnn(params, tokens, targets, capture(without=without))


def builder(engine: str) -> tuple[str, Callable[..., Any]]:
    """The package of an engine, and what builds its step."""
    if engine in CAPTURED:
        return "tinygrad_rnn", partial(captured, CAPTURED[engine])
    return ENGINES[engine].package, ENGINES[engine].build


def steps(engine: str, device: str, quick: bool, tiny: bool) -> Iterator[Figure]:
    """Training steps of one engine, in all shapes and precisions."""
    package, build = builder(engine)
    with ExitStack() as stack:
        set_up(package, device, stack)
        measure = clock(package, device)
        workloads.WORKLOADS.update(shapes(quick, tiny))
        for shape, tf32 in product(shapes(quick, tiny), (False, True) if device != "cpu" else (False,)):
            figure: Figure = {"shape": shape, "precision": "TF32" if tf32 else "float32"}
            with errors_told_in(figure):
                set_tf32(package, device, tf32)
                begin = time.perf_counter()
                step = build(*workloads.make(shape))
                losses = [step()]
                figure["first_s"] = time.perf_counter() - begin
                figure["losses"] = [*losses, step(), step()]
                figure["ms"] = timed(measure, step, 0 if tiny else 0.5 if quick else 2)
                del step
            yield figure


def crossover(_: str, device: str, quick: bool, tiny: bool) -> Iterator[Figure]:
    """Training steps of this engine over a grid of batches and hidden sizes, eager and recorded."""
    with ExitStack() as stack:
        set_up("tinygrad_rnn", device, stack)
        measure = clock("tinygrad_rnn", device)
        workloads.WORKLOADS.update(grid(quick, tiny))
        for shape, mode in product(grid(quick, tiny), ("eager", "captured")):
            figure: Figure = {"shape": shape, "mode": mode}
            with errors_told_in(figure):
                data = workloads.make(shape)
                step = build_captured(*data) if mode == "captured" else build_tinygrad_rnn(*data)
                for _warm in range(3):
                    step()
                figure["ms"] = statistics.median(timed(measure, step, 0 if tiny else 0.2))
                del step
            yield figure


def char(_: str, device: str, quick: bool, tiny: bool) -> Iterator[Figure]:
    """The character model of examples/char_rnn.py on Python's documentation: losses and seconds of its epochs."""
    sys.path.insert(0, str(ROOT / "examples"))
    char_rnn = import_module("char_rnn")
    with ExitStack() as stack:
        set_up("tinygrad_rnn", device, stack)
        settings = char_rnn.QUICK if quick or tiny else char_rnn.DEFAULTS
        settings = settings | {"limit": 3000, "steps": 5} if tiny else settings
        training, _ = char_rnn.prepare(settings, "", "fast")
        for epoch in range(1 if quick else 2):
            begin = time.perf_counter()
            losses = list(training.windows_left())
            validation = training.end_epoch()
            seconds = time.perf_counter() - begin
            train = float(np.mean([float(x) for x in losses]))
            yield {"epoch": epoch + 1, "train": train, "validation": float(validation), "seconds": seconds}


def limits(_: str, device: str, quick: bool, tiny: bool) -> Iterator[Figure]:
    """What the device can do at best: products, copies, launches, and the products that a recurrence cannot avoid."""
    from tinygrad_rnn import backend

    with ExitStack() as stack:
        set_up("tinygrad_rnn", device, stack)
        home, measure = backend.get(BACKENDS[device]), clock("tinygrad_rnn", device)
        xp, n = home.xp, 64 if tiny else 4096

        def ones(*shape: int) -> Any:
            return xp.ones(shape, dtype=np.float32)

        def best(call: Callable[[], Any], times: int) -> float:
            """Seconds per call, of many in a row."""
            return min(timed(measure, lambda: [call() for _ in range(times)], 0 if tiny else 0.2)) / times / 1e3

        def product_of(a: Any, b: Any) -> Callable[[], Any]:
            out = ones(a.shape[0], b.shape[1])
            blas = getattr(home, "cublas", "")
            return partial(xp.dot, a, b, out=out) if isinstance(blas, str) else blas.product(a, b, out)

        square, large, small = ones(n, n), ones(64, n, n // 4), ones(64)
        copy = xp.empty(large.shape, dtype=np.float32)
        for tf32 in (False, True) if device != "cpu" else (False,):
            set_tf32("tinygrad_rnn", device, tf32)
            figure: Figure = {"precision": "TF32" if tf32 else "float32", "recurrent_s": {}}
            figure["flops"] = 2 * n**3 / best(product_of(square, square), 4)
            figure["bytes"] = 2 * large.nbytes / best(partial(xp.multiply, large, 2, out=copy), 4)
            figure["launch_s"] = best(partial(xp.multiply, small, 1, out=small), 100)
            for w in shapes(quick, tiny).values():
                h, dz = ones(w.batch, w.hidden_size), ones(w.batch, 4 * w.hidden_size)
                weight = ones(4 * w.hidden_size, w.hidden_size)
                both = [best(product_of(*pair), w.steps) for pair in ((h, weight.T), (dz, weight))]
                figure["recurrent_s"][str(w.hidden_size)] = sum(both)
            yield figure


PARTS = {"steps": steps, "crossover": crossover, "char": char, "limits": limits}


def main() -> None:
    """Do one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("engine", nargs="?", default="")
    parser.add_argument("--device", choices=BACKENDS, default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    answers = stdout_for_answers()
    sys.path.insert(0, str(ROOT))
    for figure in PARTS[arguments.part](arguments.engine, arguments.device, arguments.quick, arguments.tiny):
        print(json.dumps(figure), file=answers)


if __name__ == "__main__":
    main()
