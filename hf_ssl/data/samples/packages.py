"""The registry packages that the samples are made of: downloaded with the registry's own client and unpacked."""

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """One version of a package of `debian`, `npm` or `pypi`, and the checksum of the file that the registry serves."""

    registry: str
    name: str
    version: str
    sha256: str


PACKAGES = (
    Package("npm", "emoji-datasource", "16.0.0", "2006725061dc0098daa832d65f854a7bec0740af2eb47cb5b23d89f7e2c849f9"),
    Package(
        "debian",
        "asterisk-core-sounds-it-wav",
        "1.6.1-1",
        "5a26638089e134b8ac39363fe249c5c93c50cd8bfdc9b2499ae61ec4a35e2fcb",
    ),
    Package(
        "debian",
        "asterisk-core-sounds-it",
        "1.6.1-1",
        "3884d9457e12f21caa018c18f0d587df5d53ebea14b673d8453a134c5941ab3b",
    ),
    Package(
        "debian",
        "asterisk-core-sounds-ru-wav",
        "1.6.1-1",
        "ccbfaebfa450b7a9ddf644ae0f3d1e9017d5df7c0aebe816e946345589d38201",
    ),
    Package(
        "debian",
        "asterisk-core-sounds-ru",
        "1.6.1-1",
        "28a61616bb0cd3345a7ea532dec4df9f071e5d0fa9f8c1a563ea9669002f39ab",
    ),
    Package(
        "debian",
        "pocketsphinx-testdata",
        "0.8+5prealpha+1-15",
        "eaeb7a01d54f20b799d1a81ef110ec544b2cb47ea006614078220737a33019f0",
    ),
    Package("debian", "wordnet-base", "1:3.0-37", "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752"),
)


def unpack_packages(folder: Path, packages: Sequence[Package] | None = None) -> None:
    """Downloads what is not yet in `folder` and unpacks each package to `folder/<name>`.

    Args:
        folder: for the files as served and unpacked.
        packages: by default those of the embedded samples.

    Raises:
        ValueError: when a downloaded file is not the one whose checksum is known.
        subprocess.CalledProcessError: when a registry's client fails; its own words are on standard error.
    """
    for package in PACKAGES if packages is None else packages:
        target = folder / package.name
        if target.exists():
            continue
        archive = _download(package, folder)
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        if digest != package.sha256:
            raise ValueError(f"{archive.name} has SHA-256 {digest}, not {package.sha256}: not the file that is known.")
        if package.registry == "npm":
            with tarfile.open(archive) as tar:
                tar.extractall(target, filter="data")
        elif package.registry == "pypi":
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(target)
        else:
            subprocess.run(["dpkg", "-x", archive, target], check=True)


def _download(package: Package, folder: Path) -> Path:
    """Puts the package's file into `folder` with the registry's client, which writes it into the working folder."""
    name, version = package.name, package.version
    if package.registry == "npm":
        pattern = f"{name.removeprefix('@').replace('/', '-')}-*.tgz"
        command = ["npm", "pack", "--silent", f"{name}@{version}"]
    elif package.registry == "pypi":
        pattern = f"{name.replace('-', '_')}-*.whl"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"{name}=={version}"]
    else:
        pattern = f"{name}_*.deb"
        command = ["apt-get", "download", f"{name}={version}"]
    if not list(folder.glob(pattern)):
        subprocess.run(command, cwd=folder, check=True)
    (archive,) = folder.glob(pattern)
    return archive
