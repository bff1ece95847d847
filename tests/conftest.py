"""Shared by all tests: which run, in what order, and a few fixtures. Tests need no network, no cache and no order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before anything imports torch or starts a child: one thread a process, the loopback interface, no hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="write tests/golden anew instead of comparing with it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Fast tests first. Benches run only when asked for by `-m bench`; GPU tests only where there is one."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
    wanted = config.getoption("-m") or ""
    if "bench" not in wanted:
        benches = [item for item in items if item.get_closest_marker("bench")]
        config.hook.pytest_deselected(items=benches)
        items[:] = [item for item in items if not item.get_closest_marker("bench")]
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            for item in items:
                if item.get_closest_marker("gpu"):
                    item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


@pytest.fixture
def root() -> Path:
    """The checkout."""
    return ROOT
