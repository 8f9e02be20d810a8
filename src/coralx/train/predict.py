"""Score new rows with an exported adapter: text alone, or text and picture."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError

from coralx.cautions import warn_python
from coralx.errors import DataError, ModelError
from coralx.json_values import plain, to_json
from coralx.models import resolve_model
from coralx.records import LoRAConfig
from coralx.rows.pictures import keep_small
from coralx.rows.values import check_text
from coralx.train.adapters import PackedAdapters
from coralx.train.backbone import Backbone
from coralx.train.export import check_weights, import_adapter, read_sidecar
from coralx.train.frozen import FORMATS
from coralx.train.network import score
from coralx.train.own_modes import own_modes
from coralx.train.prefix import EncodedRows
from coralx.train.rows import Rows, has_picture, read_image
from coralx.train.vision import VisionTower
from coralx.train.workbench import choose_device

CHUNK = 256  # rows held in memory at once
BATCH = 32
MAX_DEPTH = 100  # of lists and mappings in a row's columns, which come back as they are

Row = Mapping[str, Any]


class Facts(BaseModel):
    """What scoring reads of an adapter's coralx.json; columns are those of the training rows."""

    base_model: str = Field(min_length=1)
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the base that it was trained on
    vision_tower: str | None
    image_tokens: int = Field(ge=1, le=64)
    max_tokens: int = Field(ge=1)
    threshold: float = Field(ge=0, le=1)
    lora_cfg: LoRAConfig
    text_column: str = "text"
    image_column: str | None = None  # None where it was switched off
    base_digest: str | None = None  # of the base's files; older adapters have none


@dataclass(frozen=True)
class _Read:
    """A row with what is scored of it, or why it cannot be."""

    row: Row
    text: str = ""
    image: bytes | None = None
    error: str | None = None


class Predictor:
    """One adapter on its base model.

    Args:
        folder: as `coralx export` wrote it.
        device: auto, cpu or cuda.
        trust_remote_code: run code that lies in the base model's folder, should it need any.
        say: told, in texts that begin with "warning:", that the base model is another than was
            trained on and, once, that rows have pictures which the adapter does not read. By
            default these are Python's warnings.
        base_model: a folder or hub id in place of the one that the adapter names, as where that
            has moved.

    Raises:
        ModelError: the folder, its base model or its vision tower cannot be used.
    """

    @own_modes()
    @torch.random.fork_rng(devices=[])  # loading draws what is not used
    def __init__(
        self,
        folder: str | Path,
        device: str = "auto",
        trust_remote_code: bool = False,
        say: Callable[[str], None] = warn_python,
        base_model: str | Path | None = None,
    ) -> None:
        folder = Path(folder)
        facts = _read_facts(folder)
        check_weights(folder)
        self.threshold = facts.threshold
        self.bad = 0  # rows that were given an error
        self.cut = self.unknown = 0  # texts longer than `max_tokens`; without a known token
        self.text_column, self.image_column = facts.text_column, facts.image_column or "image"
        self.max_tokens = facts.max_tokens
        self.base_model = _find_base(folder, facts.base_model, base_model)
        self._say, self._warned = say, False
        self._device = choose_device(device, "device", "use auto")
        dtype = FORMATS[facts.dtype]
        self._backbone = Backbone(self.base_model, self._device, dtype, trust_remote_code)
        self._check_base(facts.base_digest)
        self._tower = None
        if facts.vision_tower:
            tokens = facts.image_tokens
            self._tower = VisionTower(facts.vision_tower, tokens, self._device, keep=False)
        weights = import_adapter(folder, self._backbone)
        self._pack = PackedAdapters([weights], [facts.lora_cfg.scale], [0.0], [0], self._device)

    def _check_base(self, digest: str | None) -> None:
        """Tell of a base model that took the place of the one that was trained on."""
        if digest not in (None, self._backbone.digest):
            self._say(
                f"warning: the base model {self.base_model} is not the one that this adapter was "
                "trained on (its files are not the same): scores and the threshold mean little"
            )

    @property
    def reads_pictures(self) -> bool:
        return self._tower is not None

    def score(
        self, texts: Sequence[str], images: Sequence[bytes | None] | None = None
    ) -> list[float]:
        """The probability of unsafe for each row, in their order.

        Args:
            images: a picture for each text, or None; None for none at all.

        Raises:
            DataError: something else than a list of texts with as many images, or what is no text.
        """
        images = [None] * len(texts) if images is None else images
        _check_lists(texts, images, self._check_text)
        if self.reads_pictures:  # as they are kept of the rows of files
            images = [image and keep_small(image) for image in images]
        return self._score(texts, images)

    @own_modes()
    @torch.no_grad()
    def _score(self, texts: Sequence[str], images: Sequence[bytes | None]) -> list[float]:
        """As `score`, of pictures as they are kept."""
        none = np.zeros(len(texts), dtype=np.int8)
        rows = Rows(tuple(texts), none, ("all",) * len(texts), tuple(images))
        encoded = EncodedRows(rows, self._backbone, self._tower, self.max_tokens, keep=False)
        self.cut += encoded.cut
        self.unknown += encoded.unknown
        scores = np.empty(len(texts))
        for part in encoded.sorted_batches(BATCH):
            batch = encoded.batch(part)
            logits = score(self._backbone, self._pack, batch)[0]
            scores[part] = torch.sigmoid(logits.double()).cpu().numpy()
        return scores.tolist()

    def predict(
        self,
        rows: Iterable[Row],
        folder: str | Path,
        text_column: str | None = None,
        image_column: str | None = None,
        allow_outside: bool = False,
        skip: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Each row, without bytes, with its `score` and whether that makes it `unsafe`.

        Args:
            folder: that relative picture paths are taken from.
            text_column, image_column: those of the training rows if None.
            allow_outside: let paths of pictures lead out of the folder.
            skip: give a row without text, with text that the base model has no token for or with
                an unreadable picture an `error` in place of the two, rather than stop there.

        Raises:
            DataError: such a row, unless `skip`, or one with columns of these names; it names the
                row. All rows before it have been given.
        """
        origin = Path(folder)
        columns = text_column or self.text_column, image_column or self.image_column
        met: set[bool] = set()  # whether rows have the pictures' column

        def read(number: int, row: Row) -> _Read:
            met.add(columns[1] in row)
            place = _place(number, row)
            _check_names(place, row, skip)
            _check_depth(place, row)
            try:
                return _Read(row, *self._read(place, row, origin, *columns, allow_outside))
            except DataError as error:
                if skip:
                    return _Read(row, error=str(error))
                if number == 1 and columns[0] not in row:  # as in all rows, most likely
                    raise
                raise DataError(
                    f"{error}; mend the row, or let such rows pass with --on-bad-rows skip"
                ) from None

        numbered = itertools.starmap(read, enumerate(rows, start=1))
        while True:
            chunk, bad = _take(numbered)
            yield from self._score_chunk(chunk)
            if bad is not None:
                raise bad
            if not chunk:
                break
        if self.reads_pictures and met == {False}:  # told last: a row may lack it lawfully
            self._say(
                f"warning: no row has a column {columns[1]!r}, so all were scored on their text "
                "alone; name the pictures' column with --image-column"
            )

    def _score_chunk(self, chunk: Sequence[_Read]) -> Iterator[dict[str, Any]]:
        good = [row for row in chunk if row.error is None]
        found = self._score([r.text for r in good], [r.image for r in good]) if good else []
        scores = iter(found)
        for row in chunk:
            if row.error is not None:
                self.bad += 1
                yield {**_echo(row.row), "error": row.error}
                continue
            value = next(scores)
            yield {**_echo(row.row), "score": value, "unsafe": value >= self.threshold}

    def _check_text(self, text: Any) -> None:
        check_text(text)
        self._backbone.check_text(text, self.max_tokens)

    def _read(
        self,
        place: str,
        row: Row,
        folder: Path,
        text_column: str,
        image_column: str,
        allow_outside: bool,
    ) -> tuple[str, bytes | None]:
        if text_column not in row:
            known = ", ".join(map(repr, row))
            raise DataError(
                f"{place}: no column {text_column!r}; there are {known}; use --text-column"
            )
        text, image = row[text_column], row.get(image_column)
        try:
            self._check_text(text)
            if self.reads_pictures:
                return text, read_image(image, folder, allow_outside)
        except DataError as error:
            raise DataError(f"{place}: {error}") from None
        if not self._warned and has_picture(image):
            self._warned = True
            self._say(
                f"warning: {place} has a picture ({image_column!r}); this adapter was trained "
                "on text alone, so pictures are not looked at"
            )
        return text, None


def _check_lists(
    texts: Sequence[str], images: Sequence[bytes | None], check: Callable[[str], None]
) -> None:
    if isinstance(texts, str):
        raise DataError(f"texts must be a list of texts, got {texts!r:.40}; put it into a list")
    if len(texts) != len(images):
        raise DataError(
            f"images must be as many as the texts ({len(texts)}), got {len(images)}; give None for "
            "a row without one"
        )
    for number, text in enumerate(texts, start=1):
        try:
            check(text)
        except DataError as error:
            raise DataError(f"text {number}: {error}") from None


def _place(number: int, row: Row) -> str:
    """How a message names a row: by its line, too, where blank lines make that another number."""
    line = getattr(row, "line", number)
    return f"row {number}" if line == number else f"row {number} (line {line})"


def _check_names(place: str, row: Row, skip: bool) -> None:
    """Pass if what is added to a row takes the place of nothing in it.

    Raises:
        DataError: it has a column of such a name.
    """
    added = ("score", "unsafe", "error") if skip else ("score", "unsafe")
    if taken := [name for name in added if name in row]:
        raise DataError(
            f"{place}: {' and '.join(added)} are added to each row, and it has a column "
            f"{taken[0]!r} already; rename that column"
        )


def _check_depth(place: str, row: Row) -> None:
    """Pass if the row can be written again.

    Raises:
        DataError: lists or mappings lie in each other beyond all use.
    """
    for name, value in row.items():
        level = [value]
        for _ in range(MAX_DEPTH):
            level = [inner for outer in level for inner in _inside(outer)]
            if not level:
                break
        else:
            raise DataError(
                f"{place}: column {name!r} is nested more than {MAX_DEPTH} deep, and columns come "
                "back with the scores; flatten it, or leave it out"
            )


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _take(rows: Iterator[_Read]) -> tuple[list[_Read], DataError | None]:
    """The next CHUNK rows or, with the error, those before one that cannot be read."""
    taken: list[_Read] = []
    try:
        for row in itertools.islice(rows, CHUNK):
            taken.append(row)
    except DataError as error:
        return taken, error
    return taken, None


def _read_facts(folder: Path) -> Facts:
    try:
        return Facts.model_validate(read_sidecar(folder))
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(map(str, found["loc"])) or "content"
        raise ModelError(
            f"{folder}: its coralx.json is incomplete or damaged ({place}: {found['msg']}, got "
            f"{found['input']!r:.60}); export the genome again"
        ) from None


def _find_base(folder: Path, named: str, given: str | Path | None) -> str:
    """The base model's name: what the caller gives, else what the adapter says."""
    if given is not None:
        return str(given)
    try:
        resolve_model(named)
    except ModelError as error:
        raise ModelError(
            f"{error} (it is the base model of the adapter {folder}; if it lies elsewhere now, say "
            "where with --base-model, in Python with base_model)"
        ) from None
    return named


def write_lines(rows: Iterable[Row], file: TextIO) -> int:
    """Write JSON lines, NaN and infinity as null; gives how many."""
    count = 0
    for row in rows:
        file.write(to_json(plain(row), file.encoding) + "\n")
        count += 1
    return count


def _echo(value: Any) -> Any:
    """A row, or what lies in it, without bytes, which JSON cannot hold. Mappings lose the keys of
    these; lists, whose places mean something, hold None instead."""
    if isinstance(value, Mapping):
        return {key: _echo(item) for key, item in value.items() if not _is_bytes(item)}
    if isinstance(value, list | tuple):
        return [None if _is_bytes(item) else _echo(item) for item in value]
    return value


def _is_bytes(value: Any) -> bool:
    return isinstance(value, bytes | bytearray | memoryview)
