"""Where the frozen blocks' outputs are kept: in memory up to a budget, then in mapped files.

A file's name is a digest of all that its content depends on (base model, tokens, block, type), so
what is found under it cannot be stale; a process that goes on with a run finds it there. A file
ends in a digest of its content, so what is damaged is not used. That costs one reading of a file
when it is finished and one when it is found again: 0.7 s a gigabyte, beside the disk's time.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from coralx.errors import StoreError

PART = ".part"  # the suffix of a file that is being filled
SEAL = 16  # bytes of the digest at a file's end
CHUNK = 1 << 20


class PrefixStore:
    """Tensors by key.

    Args:
        folder: of the mapped files, made when the first is needed; None keeps all in memory.
        budget: bytes of memory, shared by all that is kept here.
    """

    def __init__(self, folder: Path | None = None, budget: float = float("inf")) -> None:
        self._folder, self._left = folder, budget
        self._parts: dict[str, Path] = {}  # files being filled, by key
        self._filling: dict[str, int] = {}  # bytes of memory being filled, by key

    @property
    def has_files(self) -> bool:
        """Whether keys must name the content, not just tell tensors of one process apart."""
        return self._folder is not None

    def find(self, key: str, size: Sequence[int], dtype: torch.dtype) -> Tensor | None:
        """What an earlier process left in a file; None if there is none, or one that is damaged or
        of another size."""
        path = self._path(key)
        if path is None or not _is_sealed(path, _bytes(size, dtype)):
            return None
        return _map(path, size, dtype)

    def make(
        self, key: str, size: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """Zeros, to be filled and then passed to `keep` or, should that fail, to `drop`.

        Raises:
            StoreError: there is no room for the file.
        """
        needed = _bytes(size, dtype)
        path = self._path(key)
        if needed <= self._left or path is None:
            try:
                made = torch.zeros(*size, dtype=dtype, device=device)
            except torch.OutOfMemoryError:  # of a GPU that holds less than the budget
                if path is None:
                    raise
            else:
                self._left -= needed
                self._filling[key] = needed
                return made
        # A name of its own: another process may be filling, or have mapped, a file for this key.
        part = self._parts[key] = path.with_suffix(f".{uuid.uuid4().hex}{PART}")
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            with part.open("xb") as file:
                # Reserved now: a full disk met while writing to a map would end the process.
                os.posix_fallocate(file.fileno(), 0, needed + SEAL)
        except OSError as error:
            self.drop(key)
            raise StoreError(
                f"{part.parent}: {needed / 1e6:.0f} MB of frozen outputs cannot be kept "
                f"({error.strerror}); free some space, or raise training.prefix_memory_gb"
            ) from None
        return _map(part, size, dtype)

    def keep(self, key: str) -> None:
        """The tensor made under this key is whole: a later process may use it."""
        self._filling.pop(key, None)
        path, part = self._path(key), self._parts.get(key)
        if path is None or part is None:
            return
        with part.open("r+b") as file:
            seal = _digest(file, os.fstat(file.fileno()).st_size - SEAL)
            file.write(seal)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the name without the content
        part.replace(path)
        del self._parts[key]

    def drop(self, key: str) -> None:
        """The tensor made under this key will not be filled: neither its file nor its share of
        the budget is kept."""
        self._left += self._filling.pop(key, 0)
        if part := self._parts.pop(key, None):
            part.unlink(missing_ok=True)

    def _path(self, key: str) -> Path | None:
        return None if self._folder is None else self._folder / f"{key}.bin"


def drop_parts(folder: Path) -> None:
    """Remove what killed processes left half filled. Only while nobody fills any."""
    for part in folder.glob(f"*{PART}"):
        part.unlink(missing_ok=True)


def _is_sealed(path: Path, size: int) -> bool:
    """Whether the file holds so many bytes and after them their digest."""
    try:
        with path.open("rb") as file:
            whole = os.fstat(file.fileno()).st_size == size + SEAL
            return whole and _digest(file, size) == file.read()
    except OSError:  # there is none, or the disk cannot read it
        return False


def _digest(file: BinaryIO, size: int) -> bytes:
    """Of the first `size` bytes; the file is left at their end."""
    seen = hashlib.blake2b(digest_size=SEAL)
    for start in range(0, size, CHUNK):
        seen.update(file.read(min(CHUNK, size - start)))
    return seen.digest()


def _bytes(size: Sequence[int], dtype: torch.dtype) -> int:
    return torch.Size(size).numel() * dtype.itemsize


def _map(path: Path, size: Sequence[int], dtype: torch.dtype) -> Tensor:
    count = torch.Size(size).numel()
    return torch.from_file(str(path), shared=True, size=count, dtype=dtype).view(*size)
