"""Whatever a file holds: it is read, or refused with an error that explains; nothing else."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from coralx.config import Config, load_config
from coralx.errors import ConfigError, CoralXError, DataError
from coralx.rows.file import iterate_rows
from coralx.rows.pictures import decode_image
from coralx.settings.sections import DataSettings
from coralx.train.rows import Rows, read_rows
from coralx.train.splits import load_splits

# The same examples each time; `CORALX_FUZZ=20 pytest tests/test_fuzz.py` draws 20 times as many.
TIMES = int(os.environ.get("CORALX_FUZZ", "1"))


def examples(count: int) -> settings:
    return settings(
        max_examples=count * TIMES,
        derandomize=TIMES == 1,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


SECTIONS = Config().model_dump(mode="json")
KEYS = sorted({*SECTIONS, *(k for v in SECTIONS.values() if isinstance(v, dict) for k in v)})

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.sampled_from(
        ["~nobody/x", "a\0b", "1e-3", "module:function", "choice", "float", "x" * 5000]
    )
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | scalars, inner, max_size=4)
    ),
    max_leaves=12,
)


def _load(source: Any) -> None:
    """Pass where settings come of it, or problems with words."""
    problems: tuple[str, ...] = ("none",)
    try:
        assert isinstance(load_config(source), Config)
    except ConfigError as error:
        problems = error.problems
    assert all(problem.strip() for problem in problems)
    assert problems


@examples(150)
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), values, max_size=6))
def test_any_mapping_is_settings_or_an_explained_error(data: dict[str, Any]) -> None:
    _load(data)


@st.composite
def spoiled(draw: st.DrawFn) -> dict[str, Any]:
    """The default settings with a few values, somewhere, replaced by anything."""
    data: Any = json.loads(json.dumps(SECTIONS))
    for _ in range(draw(st.integers(1, 3))):
        place: Any = data
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or draw(st.integers(0, 3)) == 0:
                place[key] = draw(values)
                break
            place = place[key]
    return data  # type: ignore[no-any-return]


@examples(150)
@given(spoiled())
def test_spoiled_settings_are_settings_or_an_explained_error(data: dict[str, Any]) -> None:
    _load(data)


@examples(150)
@given(spoiled(), st.randoms(use_true_random=False))
def test_a_settings_file_is_read_or_refused_whatever_bytes_it_holds(
    data: dict[str, Any], rng: Any
) -> None:
    text = bytearray(yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "surrogatepass"))
    for _ in range(rng.randint(0, 6)):
        _mutate(text, rng)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.yaml"
        path.write_bytes(bytes(text))
        _load(path)


@examples(150)
@given(st.text(alphabet="abc:-?!&*|>[]{}#'\"\n\t \\%@`,~<=0123456789.eE+_", max_size=60))
def test_signs_of_yaml_in_any_order_are_read_or_refused(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.yaml"
        path.write_text(text, encoding="utf-8")
        _load(path)


def _mutate(data: bytearray, rng: Any) -> None:
    """Cut, double, drop or overwrite a part."""
    if not data:
        return
    first = rng.randrange(len(data))
    last = min(len(data), first + rng.randint(1, 20))
    kind = rng.randint(0, 4)
    if kind == 0:
        del data[first:]
    elif kind == 1:
        del data[first:last]
    elif kind == 2:
        data[first:first] = data[first:last]
    else:
        data[first:last] = rng.randbytes(last - first)


ROWS = [
    {"text": "bake a cake", "label": 0, "task": "food", "image": None},
    {"text": 'a "quoted", text\nof two lines', "label": 1, "task": None, "image": "a.png"},
    {"text": "\u00fcml\u00e4ut \U0001f600", "label": 1, "task": "food", "image": ""},
] * 3


def _jsonl() -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def _csv() -> bytes:
    import csv

    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(ROWS[0]))
    writer.writeheader()
    writer.writerows(ROWS)
    return buffer.getvalue().encode()


def _parquet() -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), buffer)
    return buffer.getvalue()


VALID = {".jsonl": _jsonl(), ".csv": _csv(), ".parquet": _parquet()}


def _read_everywhere(path: Path) -> None:
    """By training, by `plan` and by `predict`."""
    said = str(path)
    for mode in ("refuse", "skip"):
        try:
            assert isinstance(read_rows(path, DataSettings(on_bad_rows=mode)).rows, Rows)
        except DataError as error:
            said = str(error)
        assert str(path) in said
    with contextlib.suppress(CoralXError):
        load_splits(DataSettings(train=path), seed=0, pictures=False)
    with contextlib.suppress(CoralXError):
        list(iterate_rows(path))


@pytest.mark.parametrize("kind", VALID)
@examples(60)
@given(st.randoms(use_true_random=False))
def test_spoiled_rows_are_read_or_refused(kind: str, rng: Any) -> None:
    data = bytearray(VALID[kind])
    for _ in range(rng.randint(1, 4)):
        _mutate(data, rng)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows{kind}"
        path.write_bytes(bytes(data))
        _read_everywhere(path)


@pytest.mark.parametrize("kind", [*VALID, ".json"])
@examples(25)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(kind: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows{kind}"
        path.write_bytes(data)
        _read_everywhere(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@examples(60)
@given(
    st.lists(
        json_values
        | st.fixed_dictionaries({"text": json_values, "label": json_values})
        | st.fixed_dictionaries(
            {"text": st.text(), "label": st.integers(0, 1), "image": json_values}
        ),
        max_size=4,
    )
)
def test_lines_of_any_json_are_read_or_refused(lines: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        _read_everywhere(path)


def _picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((24, 16), 90).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@examples(80)
@given(st.randoms(use_true_random=False))
def test_spoiled_pictures_are_decoded_or_refused(kind: str, rng: Any) -> None:
    data = bytearray(PICTURES[kind])
    for _ in range(rng.randint(1, 5)):
        _mutate(data, rng)
    with contextlib.suppress(DataError):
        assert decode_image(bytes(data)).mode == "RGB"


PICTURES = {kind: _picture(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")}
