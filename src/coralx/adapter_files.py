"""The folder of an exported adapter: whole once its sidecar, which is written last and says what
the other files and itself hold, is there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from coralx.durable import sync_folder, write_whole

ADAPTER = "adapter_model.safetensors"  # as PEFT names it, and its settings
SETTINGS = "adapter_config.json"
PROJECTOR = "projector.safetensors"
OTHERS = {ADAPTER, SETTINGS, PROJECTOR}
SIDECAR = "coralx.json"  # beside a PEFT adapter: what scoring needs and PEFT does not know
FILES = "files"  # its key for the SHA-256 of the others, by name
SEAL = "sha256"  # and for that of all its other keys


def seal_adapter(folder: Path, names: Iterable[str], facts: Mapping[str, object]) -> None:
    """Write the sidecar, after which the adapter survives a loss of power.

    Args:
        names: of the adapter's other files.

    Raises:
        OSError, StoreError: the folder cannot be written.
    """
    marks = {}
    for name in names:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
            marks[name] = hashlib.file_digest(file, "sha256").hexdigest()
    sidecar = {**facts, FILES: marks}
    text = json.dumps({**sidecar, SEAL: _digest(sidecar)}, indent=2) + "\n"
    write_whole(folder / SIDECAR, text)
    sync_folder(folder.parent)


def read_facts(folder: Path) -> dict[str, Any]:
    """What the sidecar says, as it was written.

    Raises:
        OSError: there is none, or it cannot be read.
        ValueError: it is damaged, or was changed since.
    """
    try:
        facts = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
        seal = facts.pop(SEAL, None) if isinstance(facts, dict) else None
        if seal is None or seal != _digest(facts):
            raise ValueError(f"{SIDECAR} is not as it was written")
    except RecursionError:  # one that is nested like this was never written here
        raise ValueError(f"{SIDECAR} is nested too deeply") from None
    files = facts.get(FILES)
    if not (isinstance(files, dict) and {ADAPTER} <= files.keys() <= OTHERS):
        raise ValueError(f"{SIDECAR} does not name an adapter's files")
    return facts  # type: ignore[no-any-return]


def find_changed(folder: Path, facts: Mapping[str, Any]) -> list[str]:
    """The files that are not as the sidecar says; reads every file once.

    Raises:
        OSError: one of them is not there, or cannot be read.
    """
    return [
        name
        for name, mark in facts[FILES].items()
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != mark
    ]


def is_whole(folder: Path, stated: Mapping[str, object]) -> bool:
    """Whether all that was exported is there as it was written.

    Args:
        stated: facts that the sidecar must state; with others, the adapter is another one.
    """
    try:
        facts = read_facts(folder)
        right = all(facts.get(key) == value for key, value in stated.items())
        return right and not find_changed(folder, facts)
    except (OSError, ValueError, LookupError):
        return False


def _digest(facts: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
