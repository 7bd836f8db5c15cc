"""The floors of the house: a file imports only from floors below its own; and all that is promised is exported."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import bptt, flow, nn, optim, tasks

ROOT = Path(tg.__file__).parent

# From the ground up. On one floor, files of the same folder may import each other; other neighbours may not.
FLOORS = [
    ["cublas", "tree", "extras", "formula", "surroundings", "hints"],
    ["numpy_backend"],
    ["cupy_backend"],
    ["backend"],
    ["tape"],
    ["writes", "grad_mode"],
    ["graph", "out_of_memory", "whereabouts"],
    ["dispatch"],
    ["plan"],
    ["op"],
    ["ops/"],
    ["operators", "readable"],
    ["cotangents"],
    ["backward"],
    ["tensor"],
    ["create"],
    ["grad"],
    ["finite_differences"],
    ["check", "draw/", "record"],
    ["anomaly", "replay/"],
    ["nn/", "optim/", "clip", "compare"],
    ["bptt/", "flow/", "lint/"],
    ["tasks", "text", "io"],
    ["train"],
    ["curves"],
]

Import = tuple[int, str]  # line, and the file that is imported, as "ops/shape" or "tape"


def name_of(path: Path) -> str:
    """A file's name within the package: ``tape``, ``ops/shape``, ``ops/`` for ops/__init__.py."""
    name = path.relative_to(ROOT).with_suffix("").as_posix()
    return name.removesuffix("__init__")


def floor_of(name: str) -> int:
    folder = name.partition("/")[0] + "/" if "/" in name else name
    for floor, members in enumerate(FLOORS):
        if folder in members:
            return floor
    raise AssertionError(f"tinygrad_rnn/{name} is on no floor: give it one in tests/test_floors.py")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below a node, functions and classes included, without what is only there for type checkers."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            assert isinstance(child, ast.If)
            for statement in child.orelse:
                yield statement
                yield from statements(statement)
        else:
            yield child
            yield from statements(child)


def target(parts: list[str]) -> str:
    """The file that a dotted path within the package leads to; the path may end in a name from that file."""
    while parts:
        path = ROOT.joinpath(*parts)
        if path.is_dir():
            return "/".join(parts) + "/"
        if path.with_suffix(".py").is_file():
            return "/".join(parts)
        parts = parts[:-1]
    return ""


def imports(path: Path, source: str | None = None) -> list[Import]:
    """What a file imports from the package, wherever in the file it does."""
    package = list(path.relative_to(ROOT).parent.parts)
    found: list[Import] = []
    for node in statements(ast.parse(path.read_text(encoding="utf-8") if source is None else source)):
        dotted: list[list[str]] = []
        if isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".") if node.module else []
            if node.level:
                module = package[: len(package) + 1 - node.level] + module
            elif module[:1] == [ROOT.name]:
                module = module[1:]
            else:
                continue
            dotted = [[*module, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            dotted = [a.name.split(".")[1:] for a in node.names if a.name.split(".")[0] == ROOT.name]
        found += [(node.lineno, target(parts)) for parts in dotted]
    return found


FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_from_floors_below(path: Path) -> None:
    name = name_of(path)
    floor = floor_of(name)
    folder = name.partition("/")[0] if "/" in name else None
    wrong = []
    for line, imported in imports(path):
        same_folder = folder is not None and imported.partition("/")[0] == folder and "/" in imported
        if not same_folder and (not imported or floor_of(imported) >= floor):
            wrong.append(f"{path.name}:{line} imports {imported or 'the whole package'}")
    assert not wrong, f"{name} is on floor {floor}, and {'; '.join(wrong)}"


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("tape.py", "from . import backend, op", ["backend", "op"]),
        ("tape.py", "from .ops.shape import rows", ["ops/shape"]),
        ("tape.py", "from .ops import shape, add", ["ops/shape", "ops/"]),
        (
            "ops/shape.py",
            "from .. import backend\nfrom ..op import op\nfrom .reduce import sum",
            ["backend", "op", "ops/reduce"],
        ),
        ("ops/__init__.py", "from .shape import rows", ["ops/shape"]),
        ("tape.py", "import tinygrad_rnn.nn.cells\nfrom tinygrad_rnn import nn, Tensor", ["nn/cells", "nn/", ""]),
        ("tape.py", "import numpy\nfrom numpy import op\nimport os.path as tape", []),
        ("tape.py", "def f():\n    from .nn import Module", ["nn/"]),
        ("tape.py", "if TYPE_CHECKING:\n    from .op import Plan\nelse:\n    from .backend import Array", ["backend"]),
        ("tape.py", "import typing\nif typing.TYPE_CHECKING:\n    from .op import Plan", []),
    ],
)
def test_imports_are_found_in_every_form(file: str, source: str, expected: list[str]) -> None:
    """A check that finds nothing passes always, so it is checked itself."""
    assert [name for _, name in imports(ROOT / file, source)] == expected


def test_folders_import_without_cycles() -> None:
    """Within a folder too, some order exists in which each file imports earlier ones only."""
    for folder in sorted(path.parent.name for path in ROOT.glob("*/__init__.py")):
        waiting = {
            name_of(path): {name for _, name in imports(path) if name.startswith(f"{folder}/") and name != f"{folder}/"}
            for path in (ROOT / folder).rglob("*.py")
            if path != ROOT / folder / "__init__.py"
        }
        while waiting:
            ready = {name for name, needs in waiting.items() if not needs & waiting.keys()}
            assert ready, f"these import each other in a circle: {sorted(waiting)}"
            waiting = {name: needs for name, needs in waiting.items() if name not in ready}


# ---- what is promised: section 6 of the design, as far as it is built ----

FACE: dict[ModuleType, str] = {
    tg: """Tensor tensor zeros ones full arange eye randn rand zeros_like ones_like manual_seed grad vjp jvp hvp
        jacobian no_grad enable_grad op check detect_anomaly use_backend set_backend available_backends
        linear embedding clip_grad_norm_ ClipReport clip_grad_value_ clip_message save load
        abs exp log sqrt sin cos tanh sigmoid relu softplus maximum minimum clip where sum mean max min var logsumexp
        cumsum reshape transpose broadcast_to expand_dims squeeze flip concatenate stack split take_along_axis pad
        matmul einsum outer softmax log_softmax cross_entropy dropout layer_norm
        ShapeError GraphError BackendError nn optim bptt flow
        draw lint Finding Findings watching Watcher capture Captured CaptureError compare_backends Comparison""",
    nn: """Module Linear Embedding Dropout LayerNorm Sequential Conv2d MaxPool2d RNNCell LSTMCell LSTMState
        RNN LSTM GRU Recurrent Bidirectional Stacked unroll Unrolled Recorded length_mask last mean reset
        load_torch_state_dict torch_state_dict roll_out teacher_forced greedy sample beam_search take_rows repeat_rows
        Conv1d cross_entropy mse_loss huber_loss binary_cross_entropy_with_logits nll_loss ctc_loss ctc_greedy_decode
        init""",
    optim: """SGD Adagrad RMSprop GravesRMSprop Adam AdamW Groups StepLR MultiStepLR ExponentialLR CosineAnnealingLR
        LinearLR LambdaLR ReduceLROnPlateau SequentialLR""",
    bptt: """unroll detach truncated randomly_truncated Window GatesDetached checkpointed memory_plan
        real_time Moment""",
    flow: """gradient_norms jacobian_spectrum lyapunov_exponents saturation omega gradient_by_lag LagMap
        gradient_paths GradientPaths""",
    tasks: """Batch one_hot multi_hot first_symbol adding temporal_order copy_memory parity anbn anbn_successors REBER
        reber embedded_reber embedded_reber_successors""",
}


@pytest.mark.parametrize(("module", "name"), [(m, name) for m, names in FACE.items() for name in names.split()])
def test_the_public_face_is_there(module: ModuleType, name: str) -> None:
    assert hasattr(module, name)


@pytest.mark.parametrize("module", [tg, nn, optim, bptt, flow], ids=lambda module: module.__name__)
def test_type_checkers_know_what_is_public(module: ModuleType) -> None:
    """In a package with types, what ``__init__`` imports is private to them unless ``__all__`` names it."""
    assert module.__file__
    body = ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body
    imported = {name.asname or name.name for line in body if isinstance(line, ast.ImportFrom) for name in line.names}
    assert set(module.__all__) == imported


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (tg.tensor, "data, dtype=None, backend=None, requires_grad=False"),
        (tg.Tensor.backward, "self, gradient=None, retain_graph=False, create_graph=False, horizon=None"),
        (tg.grad, "outputs, inputs, grad_outputs=None, create_graph=False, retain_graph=None, allow_unused=False"),
        (tg.clip_grad_norm_, "parameters, max_norm, per_parameter=False, on_nonfinite='raise'"),
        (
            tg.draw,
            "output, style='text', names=None, backward=False, horizon=None, fold=3, gradients=False, moving=False, "
            "steps=False",
        ),
        (bptt.unroll, "cell, xs, state=None, mask=None, reverse=False, record=False"),
        (bptt.truncated, "step, xs, state, k1, k2=None, recompute=False"),
        (nn.Module.load_state_dict, "self, state, strict=True"),
    ],
)
def test_parameters_have_the_promised_names_and_defaults(function: object, parameters: str) -> None:
    signature = inspect.signature(function)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    assert ", ".join(map(str, bare)) == parameters


def test_the_version_is_that_of_the_distribution() -> None:
    assert f'version = "{tg.__version__}"' in (ROOT.parent / "pyproject.toml").read_text(encoding="utf-8")
    with pytest.raises(AttributeError, match="module 'tinygrad_rnn' has no attribute 'tensors'"):
        tg.tensors  # noqa: B018


def test_what_training_needs_is_imported_on_demand() -> None:
    program = """
import sys
import tinygrad_rnn as tg
names = [f"tinygrad_rnn.{name}" for name in ("curves", "tasks", "text", "train")]
assert not sys.modules.keys() & set(names)
assert [m.__name__ for m in (tg.curves, tg.tasks, tg.text, tg.train)] == names
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_page_on_the_code_has_every_file_on_its_floor() -> None:
    page = (Path(__file__).parents[1] / "docs" / "code.md").read_text(encoding="utf-8")
    rows = [re.findall(r"`(\w+/?)(?:\.py)?`", row) for row in re.findall(r"^\| \d \| (.*) \|$", page, re.M)]
    assert sorted(name for row in rows for name in row) == sorted(name for floor in FLOORS for name in floor)
    floors = [floor_of(name) for row in rows for name in sorted(row, key=floor_of)]
    assert floors == sorted(floors)


def test_the_page_on_the_code_names_the_files_of_each_folder() -> None:
    page = (Path(__file__).parents[1] / "docs" / "code.md").read_text(encoding="utf-8")
    files = [path for kind in ("*/*.py", "*/*.html") for path in ROOT.glob(kind) if path.name != "__init__.py"]
    assert not [path.name for path in files if f"`{path.name}`" not in page]
