"""Shared by the tests of the ops."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def garbage_in_new_tensors() -> Iterator[None]:
    """``torch.empty`` holds NaN: what a kernel leaves unwritten shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
