"""What a row's text and label may be, and how a file with bad ones is refused; without torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coralx.errors import DataError
from coralx.settings.sections import DataSettings

SHOWN = 20  # bad rows listed before "and n more"
MAX_CHARACTERS = 1_000_000  # no data set for fine-tuning meets it and a hostile file soon does


@dataclass
class Faults:
    """What is wrong with a file's rows, gathered as they are read."""

    path: Path
    rows: list[str] = field(default_factory=list)
    words: set[str] = field(default_factory=set)
    _numbers: bool = False  # whether a label was something else than a word

    def add(self, number: int, error: DataError) -> None:
        self.rows.append(f"row {number}: {error}")

    def see_label(self, label: Any) -> None:
        """Words are kept, three at most: that is too many for two classes."""
        if not isinstance(label, str) or read_number(label) is not None or not label.strip():
            self._numbers = True
        elif len(self.words) < 3:
            self.words.add(label)

    def check(self, on_bad_rows: str) -> None:
        """Pass if the rows may be used.

        Raises:
            DataError: two words stand for the classes in all rows; or rows are bad, in mode
                refuse. Each is listed with its number.
        """
        if len(self.words) == 2 and not self._numbers:
            names = ", ".join(map(short, sorted(self.words)))
            raise DataError(
                f"{self.path}: labels are {names}; write 0 and 1 in their place, 1 for unsafe"
            )
        if self.rows and on_bad_rows == "refuse":
            raise DataError(
                f"{self.path}: {len(self.rows)} bad row(s); mend them or set data.on_bad_rows: "
                f"skip\n{list_some(self.rows)}"
            )


def check_columns(path: Path, names: Collection[str], needed: Sequence[str]) -> None:
    """Pass if a file has the columns.

    Raises:
        DataError: it lacks some; the message says which there are.
    """
    if missing := [name for name in needed if name not in names]:
        raise DataError(
            f"{path}: no column {', '.join(map(repr, missing))}; there are "
            f"{', '.join(map(repr, names))}; name yours under data: text_column, label_column"
        )


def check_optional(settings: DataSettings, columns: Collection[str]) -> None:
    """Pass if the optional columns that the user has named are among those of the files: one typed
    wrong would leave all pictures out, or make all rows one task, without a word.

    Raises:
        DataError: one is not.
    """
    for field_name in ("image_column", "task_column"):
        column = getattr(settings, field_name)
        default = type(settings).model_fields[field_name].default
        if column not in (None, default, *columns):
            raise DataError(
                f"data.{field_name}: must be a column of one of the files, got {column!r}; there "
                f"are {', '.join(map(repr, columns))}; name one of them, or null to do without"
            )


def check_text(text: Any) -> None:
    """Pass if a text can be tokenized.

    Raises:
        DataError: no string, blank, beyond MAX_CHARACTERS, or half a character (a lone surrogate).
    """
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"text must be a non-empty string, got {short(text)}")
    if len(text) > MAX_CHARACTERS:
        raise DataError(f"text has {len(text):,} characters; cut it to {MAX_CHARACTERS:,}")
    check_whole("text", text)


def check_whole(what: str, text: str) -> None:
    """Pass if a text has no half characters.

    Raises:
        DataError: it has.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = text[error.start : error.end]
        raise DataError(
            f"{what} holds {found!r}, half of a UTF-16 pair; mend its encoding"
        ) from None


def read_label(label: Any) -> int:
    """A label as 0 or 1.

    Raises:
        DataError: it is something else.
    """
    value = read_number(label) if isinstance(label, str) else label
    if isinstance(value, int | float) and value in (0, 1):
        return int(value)
    raise DataError(f"label must be 0 or 1, got {short(label)}; write 1 for unsafe, 0 for safe")


def read_safe(label: Any) -> int:
    """As `read_label`, of a row that must be safe; it need not say so."""
    missing = label in (None, "") or label != label  # NaN: a missing value of Parquet
    if not missing and read_label(label):
        raise DataError(
            "label is 1 (unsafe), and a row of data.clean_holdout must be safe (0 or no label); "
            "take it out, or move it to data.validation or data.test"
        )
    return 0


def read_number(word: str) -> float | None:
    """Of a cell of a CSV file: 1, 1.0 or True; not 1_0, which is a number to Python alone."""
    if "_" in word:
        return None
    try:
        return float({"true": "1", "false": "0"}.get(word.strip().lower(), word))
    except ValueError:
        return None


def short(value: Any) -> str:
    """A value as a message shows it."""
    return f"{value!r:.40}"


def list_some(bad: Sequence[str]) -> str:
    """A line for each of the first SHOWN problems, and how many more there are."""
    shown = "\n".join(f"  {line}" for line in bad[:SHOWN])
    return shown + (f"\n  and {len(bad) - SHOWN} more" if len(bad) > SHOWN else "")
