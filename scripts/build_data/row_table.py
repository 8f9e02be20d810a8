"""The columns every file shares, and how rows are written to and read from Parquet."""

from dataclasses import astuple, dataclass
from pathlib import Path

from untyped_packages import arrow, parquet

SCHEMA = arrow.schema(
    [
        ("text", arrow.string()),
        ("label", arrow.int8()),
        ("task", arrow.string()),
        ("image", arrow.binary()),
        ("source", arrow.string()),
        ("group", arrow.string()),
    ]
)


@dataclass(frozen=True)
class Row:
    """One example; ``label`` is 1 for unsafe and 0 for safe."""

    text: str
    label: int
    task: str
    image: bytes | None
    source: str
    group: str


def write_rows(rows: list[Row], path: Path) -> None:
    """Write rows in the given order."""
    columns = list(zip(*[astuple(row) for row in rows], strict=True))
    arrays = [
        arrow.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)
    ]
    parquet.write_table(arrow.Table.from_arrays(arrays, schema=SCHEMA), path, compression="zstd")


def read_rows(path: Path) -> list[Row]:
    """Return the rows of one file in file order."""
    return [Row(**record) for record in parquet.read_table(path, schema=SCHEMA).to_pylist()]
