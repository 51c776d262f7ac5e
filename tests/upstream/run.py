"""Runs transformers' own model tests, of the installed version, on every objective.

    python tests/upstream/run.py [pytest options]

They are in the source distribution only (Apache-2.0), which pip fetches from the package index into `.cache/upstream`;
nothing of it is kept in the repository. What the distribution leaves out of its tests is replaced by empty classes.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CACHE = ROOT / ".cache" / "upstream"

LEFT_OUT = {
    "__init__.py": "",
    "models/__init__.py": "",
    "models/hf_ssl/__init__.py": "",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/__init__.py": "",
    "utils/test_configuration_utils.py": "config_common_kwargs = {'output_hidden_states': True}\n",
}


def fetch(number: str) -> Path:
    """The unpacked source distribution of a version of transformers."""
    folder = CACHE / f"transformers-{number}"
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
    subprocess.run([*pip, "--no-build-isolation", "--dest", str(CACHE), f"transformers=={number}"], check=True)
    with tarfile.open(CACHE / f"transformers-{number}.tar.gz") as archive:
        archive.extractall(CACHE / "unpacking", filter="data")
    (CACHE / "unpacking" / folder.name).rename(folder)
    return folder


def main() -> int:
    """Fetch, complete, add our module, run."""
    folder = fetch(version("transformers"))
    for name, text in LEFT_OUT.items():
        path = folder / "tests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    module = folder / "tests" / "models" / "hf_ssl" / "test_modeling_hf_ssl.py"
    shutil.copy(Path(__file__).with_name("modeling_hf_ssl.py"), module)
    shutil.copy(ROOT / "tests" / "tiny.py", module.with_name("tiny.py"))
    shutil.copy(ROOT / "tests" / "tiny_vision.py", folder / "tests")  # as `tiny.py` imports it
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(folder), "-o", "addopts=", "-W", "ignore"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *sys.argv[1:], str(module.relative_to(folder))],
        cwd=folder,
        env=environment,
        check=False,
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
