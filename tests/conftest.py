"""What all tests share: the --slow option, the GPU's absence stated, and a fresh seed for each test."""

from __future__ import annotations

import pytest

import tinygrad_rnn as tg


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    gpu = "cupy" in tg.available_backends()
    for item in items:
        if "gpu" in item.keywords and not gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA GPU with CuPy on this machine"))
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))


@pytest.fixture(autouse=True)
def seed() -> None:
    tg.manual_seed(0)
