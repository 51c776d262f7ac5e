from pathlib import Path

import pytest
import torch

from tests.two_processes import run_two_processes


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    """What `joint_rows.py` computed on each of two ranks."""
    folder = tmp_path_factory.mktemp("joint_rows")
    run_two_processes(Path(__file__).parent / "joint_rows.py", folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
