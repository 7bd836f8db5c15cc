"""What all tests share: the GPU's absence stated, a fresh seed for each test, a stand-in GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import strict

import tinygrad_rnn as tg
from tinygrad_rnn import backend


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    gpu = "cupy" in tg.available_backends()
    for item in items:
        if "gpu" in item.keywords and not gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA GPU with CuPy on this machine"))


@pytest.fixture(autouse=True)
def seed() -> None:
    tg.manual_seed(0)


@pytest.fixture
def strict_device() -> Iterator[str]:
    """The name of a backend that stands in for a GPU, and refuses what CuPy refuses."""

    class Device(backend.CupyBackend):
        name = "strict"

    tables = (backend._backends, backend._by_type, backend.modules)
    before = [dict(table) for table in tables]
    yield backend.register(Device(strict.xp)).name
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)
