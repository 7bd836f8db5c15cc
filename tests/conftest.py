"""What all tests share: what is left out and why, a fresh seed and registry for each test, a stand-in GPU."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # or the threads of several workers wait for each other; before NumPy

from collections.abc import Iterator
from unittest.mock import patch

import pytest
import strict

import tinygrad_rnn as tg
from tinygrad_rnn import backend
from tinygrad_rnn.op import registry

SLOW = {  # more than five seconds each, for little that others do not cover
    "test_a_rung_holds[08_clipping-strict]",
    "test_a_rung_holds[12_bidirectional-strict]",
    "test_a_rung_holds[15_own_cell-strict]",
    "test_tests_that_take_too_long_are_interrupted_and_the_failures_until_then_are_shown",
    "test_the_quick_form_reaches_its_bar[captions]",
    "test_the_quick_form_reaches_its_bar[cells_compared]",
    "test_the_quick_form_reaches_its_bar[exons]",
    "test_the_quick_form_reaches_its_bar[speech]",
    "test_the_quick_form_reaches_its_bars[adding]",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.name in SLOW:
            item.add_marker("slow")
    left_out = {}
    if "cupy" not in tg.available_backends():
        left_out["gpu"] = "no CUDA GPU with CuPy on this machine"
    if not config.option.markexpr and not any("::" in asked for asked in config.args):
        left_out["slow"] = "takes long; run it with -m slow"
    for item in items:
        for marker, reason in left_out.items():
            if item.get_closest_marker(marker):  # keywords would hold the names of folders too
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module", autouse=True)
def frozen() -> None:
    """No full collection looks through what is there when a module's tests begin: that takes a tenth of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seed() -> None:
    tg.manual_seed(0)


@pytest.fixture(autouse=True)
def own_operations() -> Iterator[None]:
    """What a test registers is gone afterwards."""
    with patch.dict(registry):
        yield


@pytest.fixture
def strict_device() -> Iterator[str]:
    """The name of a backend that stands in for a GPU, and refuses what CuPy refuses."""
    with strict.registered() as device:
        yield device.name


@pytest.fixture(params=["strict", pytest.param("cupy", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[backend.Backend]:
    """A backend for devices: the stand-in, and CuPy where there is a GPU."""
    with strict.registered():
        yield backend.get(request.param)
