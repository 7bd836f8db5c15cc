"""What all tests share: the GPU's absence stated, a fresh seed for each test, a stand-in GPU."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # or the threads of several workers wait for each other; before NumPy

from collections.abc import Iterator

import pytest
import strict

import tinygrad_rnn as tg
from tinygrad_rnn import backend


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    gpu = "cupy" in tg.available_backends()
    for item in items:
        if item.get_closest_marker("gpu") and not gpu:  # keywords would hold the names of folders too
            item.add_marker(pytest.mark.skip(reason="no CUDA GPU with CuPy on this machine"))


@pytest.fixture(autouse=True)
def seed() -> None:
    tg.manual_seed(0)


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
