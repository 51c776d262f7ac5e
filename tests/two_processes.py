"""Runs a script in two real processes with gloo, as a user would with `torch.distributed.run`."""

import os
import subprocess
import sys
from pathlib import Path


def run_two_processes(script: Path, *arguments: str | Path) -> None:
    """Run `script arguments...` in two processes on the CPU; if it fails, fail with what it printed."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [*launcher, str(script), *map(str, arguments)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{script.name} failed:\n{done.stdout}\n{done.stderr}"
