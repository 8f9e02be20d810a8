"""Put the measured figures into the data card, so that none is typed by hand."""

from pathlib import Path

BEGIN, END = "<!-- audit:begin -->", "<!-- audit:end -->"


def write_card(path: Path, audit: str) -> None:
    """Replace what stands between the audit marks; raise if the marks are missing."""
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path.name} has no audit marks")
    path.write_text(f"{before}{BEGIN}\n{audit}\n{END}{after}", encoding="utf-8")
