"""Benchmarks on a GPU, in a few minutes: training steps beside PyTorch's and JAX's, crossover, character model.

    python benchmarks/gpu.py --quick                # under 3 minutes
    python benchmarks/gpu.py --out gpu.md           # under 10
    python benchmarks/gpu.py --device cpu           # seconds: tiny shapes on NumPy, to see that all of it works

Each engine runs in a process of its own (``gpu_work.py``), within a time limit. One that fails gets a row with its
error, and the rest goes on. The tables are Markdown, rewritten after each part, so that nothing is lost.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from subprocess import PIPE
from typing import Any

from gpu_work import BACKENDS, CAPTURED, grid, shapes
from workloads import VOCABULARY, Workload

Figure = dict[str, Any]
Found = dict[str, list[Figure]]

HERE = Path(__file__).resolve().parent
BESIDE = ("torch-cells", "torch-lstm")
ENGINES = ("tinygrad_rnn", *CAPTURED, *BESIDE, "jax-scan")
NEEDED = {"float32": 1e-4, "TF32": 2e-2}  # largest relative difference between the losses of two engines
SECONDS = {"whole": 570.0, "engine": 75.0}
QUICK_SECONDS = {"whole": 170.0, "engine": 30.0}


def run(arguments: list[str], seconds: float) -> list[Figure]:
    """The figures of one process; if it fails or takes too long, those found until then, and an error."""
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if seconds <= 0:
        return [{"error": "not begun: no time was left"}]
    command = [sys.executable, str(HERE / "gpu_work.py"), *arguments]
    complaints: list[str] = []
    found: list[Figure] = []
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        late = threading.Timer(seconds, process.kill)
        listener = threading.Thread(target=complaints.extend, args=(process.stderr,))  # or its pipe could fill up
        late.start()
        listener.start()
        try:
            for line in process.stdout:
                with suppress(json.JSONDecodeError):  # the last line of a process that was stopped may be half a line
                    found.append(json.loads(line))
        finally:
            in_time = late.is_alive()
            late.cancel()
            listener.join()
    if not in_time:
        found.append({"error": f"stopped at its limit of {seconds:.0f} s"})
    elif process.returncode:
        last = [line.strip() for line in complaints if line.strip()][-1:] or ["nothing was said"]
        found.append({"error": f"ended with status {process.returncode}: {last[0]}"})
    return found


# ---- the roofline ----


def needed(w: Workload) -> tuple[float, float, int]:
    """Operations, bytes and launches that a training step needs at least.

    FLOPs: three products of the inputs and three of the states (forward, gradients of these, gradients of weights),
    48 T B H^2 per layer, and the head. Bytes, 4 per float: for each of the (T, B, H) states about 16 floats are read or
    written forward and 22 backward, as the gates do not fit in the cache; each weight five times. Launches: a product
    and a pointwise kernel for each step, layer and direction.
    """
    states, weights = w.steps * w.batch * w.hidden_size, 8 * w.hidden_size**2
    flops = w.layers * 6 * w.steps * w.batch * weights + 6 * states * VOCABULARY
    return flops, 4.0 * w.layers * (38 * states + 5 * weights), 4 * w.steps * w.layers


def bounds(w: Workload, limits: Figure) -> dict[str, float]:
    """Lower bounds on the milliseconds of a training step on this device, by what limits it.

    The recurrence counts for one layer only, as layers can run side by side.
    """
    flops, bytes_, _ = needed(w)
    return {
        "FLOPs": flops / limits["flops"] * 1e3,
        "bytes": bytes_ / limits["bytes"] * 1e3,
        "recurrence": w.steps * limits["recurrent_s"][str(w.hidden_size)] * 1e3,
    }


# ---- tables ----


def table(header: list[str], rows: list[list[str]], left: int = 1) -> str:
    """A Markdown table whose first ``left`` columns are words."""
    marks = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, marks, *rows])


def errors(figures: list[Figure], *keys: str) -> list[str]:
    """What went wrong in a part."""
    return [f"{', '.join(str(f[k]) for k in keys if k in f) or 'whole'}: {f['error']}" for f in figures if "error" in f]


def by_key(figures: list[Figure], *keys: str) -> dict[tuple[Any, ...], Figure]:
    """The figures without an error, by some of their values."""
    return {tuple(f[k] for k in keys): f for f in figures if "error" not in f}


def steps_table(found: Found, cases: dict[str, Workload]) -> str:
    """Every engine in every shape and precision, beside PyTorch's two and the roofline."""
    ways = {engine: by_key(found.get(engine, []), "shape", "precision") for engine in ENGINES}
    limits = by_key(found.get("limits", []), "precision")
    rows, notes = [], []
    for shape, w in cases.items():
        for precision in ("float32", "TF32"):
            have = {engine: way[shape, precision] for engine, way in ways.items() if (shape, precision) in way}
            medians = {engine: statistics.median(f["ms"]) for engine, f in have.items()}
            bound = max(bounds(w, limits[(precision,)]).values()) if (precision,) in limits else None
            first: list[float] = next((f["losses"] for f in have.values()), [])
            for engine, f in have.items():
                if not all(abs(a - b) <= NEEDED[precision] * abs(b) for a, b in zip(f["losses"], first, strict=True)):
                    notes.append(f"LOSSES DIFFER: {shape}, {precision}, {engine} has {f['losses']}, not {first}")
                ratios = [f"{medians[engine] / medians[b]:.2f}" if b in medians else "" for b in BESIDE]
                far = f"{medians[engine] / bound:.1f}" if bound else ""
                spread = f"{min(f['ms']):.3g}..{max(f['ms']):.3g}"
                cells = [f"{medians[engine]:.3g}", spread, *ratios, far, f"{f['first_s']:.1f}"]
                rows.append([shape, precision, engine, *cells])
    notes += [f"{e}: {told}" for e in (*ENGINES, "limits") for told in errors(found.get(e, []), "shape", "precision")]
    head = ["layers x hidden", "precision", "engine", "ms", "min..max", "/ torch-cells", "/ torch-lstm", "/ roofline"]
    return "\n\n".join([table([*head, "first step s"], rows, 3), *(f"- {note}" for note in notes)])


def roofline_table(found: Found, cases: dict[str, Workload]) -> str:
    """What each shape needs, the measured limits of the device, and the bounds that follow."""
    rows = []
    for limits in by_key(found.get("limits", []), "precision").values():
        for shape, w in cases.items():
            flops, bytes_, launches = needed(w)
            times = [f"{ms:.3g}" for ms in bounds(w, limits).values()]
            rates = [
                f"{limits['flops'] / 1e12:.3g}",
                f"{limits['bytes'] / 1e12:.3g}",
                f"{limits['launch_s'] * 1e6:.3g}",
            ]
            needs = [f"{flops / 1e9:.3g}", f"{bytes_ / 1e9:.3g}", str(launches)]
            rows.append([shape, limits["precision"], *needs, *rates, *times])
    head = "layers x hidden,precision,GFLOP,GB,launches,TFLOP/s,TB/s,us a launch,FLOPs ms,bytes ms,recurrence ms"
    return table(head.split(","), rows, 2)


def crossover_table(found: Found, device: str, cases: Iterable[str]) -> str:
    """CPU over GPU: above 1 the GPU is quicker."""
    cpu, gpu = (by_key(found.get(f"crossover {d}", []), "shape", "mode") for d in ("cpu", device))
    rows = []
    for shape in cases:
        here = [(cpu.get((shape, mode)), gpu.get((shape, mode))) for mode in ("eager", "captured")]
        words = [[f"{f['ms']:.3g}" if f else "" for f in pair] for pair in here]
        ratios = [f"{a['ms'] / b['ms']:.2f}" if a and b else "" for a, b in here]
        rows.append([shape, *words[0], ratios[0], *words[1], ratios[1]])
    notes = [
        f"- {d}: {told}" for d in ("cpu", device) for told in errors(found.get(f"crossover {d}", []), "shape", "mode")
    ]
    head = "hidden, batch|CPU eager ms|GPU eager ms|CPU / GPU|CPU captured ms|GPU captured ms|CPU / GPU"
    return "\n\n".join([table(head.split("|"), rows), *notes])


def char_table(found: Found, device: str) -> str:
    """Losses and seconds of the character model."""
    rows, notes = [], []
    for place in dict.fromkeys((device, "cpu")):
        figures = found.get(f"char {place}", [])
        notes += [f"- {place}: {told}" for told in errors(figures, "epoch")]
        for f in by_key(figures, "epoch").values():
            numbers = [f"{f['train']:.4f}", f"{f['validation']:.4f}", f"{f['seconds']:.2f}"]
            rows.append([BACKENDS[place], str(f["epoch"]), *numbers])
    return "\n\n".join([table(["backend", "epoch", "train nats", "validation nats", "seconds"], rows), *notes])


def machine(device: str) -> str:
    """Hardware and versions."""
    packages = ("numpy", "cupy-cuda12x", "cupy-cuda13x", "nvidia-cublas-cu12", "nvidia-cublas", "torch", "jax")
    versions = [f"{p} {metadata.version(p)}" for p in packages if any(metadata.distributions(name=p))]
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        gpu = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        gpu = "no nvidia-smi"
    return f"{gpu}; {os.cpu_count()} cores; Python {platform.python_version()}, {', '.join(versions)}; device {device}"


def report(found: Found, device: str, quick: bool) -> str:
    """The whole page."""
    parts = {
        "One training step": steps_table(found, shapes(quick, device != "cuda")),
        "The roofline": roofline_table(found, shapes(quick, device != "cuda")),
        "CPU or GPU": crossover_table(found, device, grid(quick, device != "cuda")),
        "The character model": char_table(found, device),
    }
    return "\n\n".join([machine(device), *(f"## {title}\n\n{text}" for title, text in parts.items())]) + "\n"


def main() -> int:
    """Run all parts, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer shapes and repetitions")
    parser.add_argument("--device", choices=BACKENDS, default="cuda", help="cpu and strict are to try this script")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--out", type=Path, default=Path("gpu.md"), help="where the tables go (%(default)s)")
    arguments = parser.parse_args()
    device, quick = arguments.device, arguments.quick
    limit = QUICK_SECONDS if quick else SECONDS
    end = time.monotonic() + limit["whole"]
    jobs = {"limits": ["limits"], **{engine: ["steps", engine] for engine in arguments.engines}}
    jobs |= {f"{part} {d}": [part] for d in dict.fromkeys((device, "cpu")) for part in ("crossover", "char")}
    found: Found = {}
    for name, job in jobs.items():
        on_cpu = name.endswith(" cpu") or (device == "strict" and job[-1].startswith(("torch", "jax")))
        place = "cpu" if on_cpu else device
        begin = time.monotonic()
        own = [*job, "--device", place, *["--quick"] * quick, *["--tiny"] * (device != "cuda")]
        found[name] = run(own, min(limit["engine"], end - begin))
        arguments.out.write_text(report(found, device, quick), encoding="utf-8")
        print(f"{name}: {time.monotonic() - begin:.0f} s, {len(errors(found[name]))} errors", file=sys.stderr)
    print(arguments.out.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
