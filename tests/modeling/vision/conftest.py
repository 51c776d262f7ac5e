from pathlib import Path

import pytest
import torch

from tests.two_processes import run_two_processes


@pytest.fixture(scope="session")
def two_view_ranks(tmp_path_factory):
    """What `two_view_ranks.py` computed on each of two ranks."""
    folder = tmp_path_factory.mktemp("two_view_ranks")
    run_two_processes(Path(__file__).parent / "two_view_ranks.py", folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
