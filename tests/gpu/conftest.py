"""Tests that need CUDA: collected everywhere, skipped by name where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests; skip those for which there are too few GPUs."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for item in items:
        if HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.gpu)
        wanted = next((mark.args[0] for mark in item.iter_markers("gpus")), 1)
        if count < wanted:
            item.add_marker(pytest.mark.skip(reason=f"needs {wanted} CUDA device(s); this machine has {count}"))
