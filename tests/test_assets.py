"""The shipped data set keeps its promises: shape, separate splits, and no cheap shortcut."""

import io
import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline

ASSETS = Path(__file__).parents[1] / "src" / "coralx" / "assets"
SPLITS = ("train", "validation", "test", "clean_holdout")
LABELLED = SPLITS[:3]
TASKS = ("harmful_request", "hazard_picture")
COLUMNS = {
    "text": pa.string(),
    "label": pa.int8(),
    "task": pa.string(),
    "image": pa.binary(),
    "source": pa.string(),
    "group": pa.string(),
}
# Measured at most 0.58; the rest is room for harmless edits.
SHORTCUT_BOUND = 0.65
# Measured at most 0.75 for words; a perfect reader of one input reaches 0.78.
ONE_INPUT_BOUND = 0.80


def load_split(split: str) -> pd.DataFrame:
    return pq.read_table(ASSETS / f"{split}.parquet").to_pandas()


@pytest.fixture(scope="module")
def frames() -> dict[str, pd.DataFrame]:
    return {split: load_split(split) for split in SPLITS}


def select_task(frame: pd.DataFrame, task: str) -> pd.DataFrame:
    return frame[frame["task"] == task]


def fold_area(labels: pd.Series, scores: object) -> float:
    area = float(roc_auc_score(labels, scores))
    return max(area, 1 - area)


def normalize(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum() or c == " ").strip()


def collect_values(frames: dict[str, pd.DataFrame], task: str, column: str) -> Counter[str]:
    """Count in how many splits each value occurs."""
    parts = (select_task(frames[split], task)[column] for split in SPLITS)
    return Counter(value for part in parts for value in set(part.map(normalize)))


def test_data_files_are_small() -> None:
    assert sum(path.stat().st_size for path in ASSETS.glob("*.*")) <= 6_000_000


@pytest.mark.parametrize("split", SPLITS)
def test_columns_and_values(split: str, frames: dict[str, pd.DataFrame]) -> None:
    schema = pq.read_schema(ASSETS / f"{split}.parquet")
    assert dict(zip(schema.names, schema.types, strict=True)) == COLUMNS
    frame = frames[split]
    assert set(frame["label"]) == ({0} if split == "clean_holdout" else {0, 1})
    assert set(frame["task"]) <= set(TASKS)
    assert (frame["text"].str.strip() == frame["text"]).all()
    assert frame["text"].str.split().str.len().between(2, 40).all()
    assert frame["group"].str.len().gt(0).all()


@pytest.mark.parametrize(
    ("split", "task", "rows"),
    [
        ("train", "harmful_request", 1000),
        ("train", "hazard_picture", 1000),
        ("validation", "harmful_request", 200),
        ("validation", "hazard_picture", 250),
        ("test", "harmful_request", 300),
        ("test", "hazard_picture", 300),
        ("clean_holdout", "harmful_request", 300),
    ],
)
def test_each_part_is_large_enough(
    split: str, task: str, rows: int, frames: dict[str, pd.DataFrame]
) -> None:
    assert len(select_task(frames[split], task)) >= rows


@pytest.mark.parametrize("split", LABELLED)
def test_harmful_requests_are_balanced(split: str, frames: dict[str, pd.DataFrame]) -> None:
    assert select_task(frames[split], "harmful_request")["label"].mean() == pytest.approx(0.5)


def test_harmful_request_texts_are_unique(frames: dict[str, pd.DataFrame]) -> None:
    parts = [select_task(frames[split], "harmful_request")["text"] for split in SPLITS]
    texts = pd.concat(parts).map(normalize)
    assert not texts.duplicated().any()


@pytest.mark.parametrize("task", TASKS)
def test_no_group_crosses_splits(task: str, frames: dict[str, pd.DataFrame]) -> None:
    counts = collect_values(frames, task, "group")
    assert [group for group, splits in counts.items() if splits > 1] == []


def test_picture_wordings_are_disjoint(frames: dict[str, pd.DataFrame]) -> None:
    counts = collect_values(frames, "hazard_picture", "text")
    assert [text for text, splits in counts.items() if splits > 1] == []


@pytest.mark.parametrize("split", LABELLED)
def test_wording_and_object_meet_once(split: str, frames: dict[str, pd.DataFrame]) -> None:
    part = select_task(frames[split], "hazard_picture")
    shown = part["group"].str.rpartition("/")[2]
    assert not pd.DataFrame({"text": part["text"], "shown": shown}).duplicated().any()
    assert not part["image"].duplicated().any()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_some_objects_are_new(split: str, frames: dict[str, pd.DataFrame]) -> None:
    shown = {
        name: set(select_task(frames[name], "hazard_picture")["group"].str.rpartition("/")[2])
        for name in ("train", split)
    }
    assert len(shown[split] - shown["train"]) >= 6


@pytest.mark.parametrize("split", LABELLED)
def test_label_follows_from_wording_and_object(split: str, frames: dict[str, pd.DataFrame]) -> None:
    part = select_task(frames[split], "hazard_picture")
    shown = part["group"].str.rpartition("/")[2]
    risky = part.groupby("text")["label"].transform("max")
    hazard = part.groupby(shown)["label"].transform("max")
    assert (part["label"] == risky * hazard).all()
    assert set(zip(risky, hazard, strict=True)) == {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize("split", SPLITS)
def test_pictures_decode(split: str, frames: dict[str, pd.DataFrame]) -> None:
    frame = frames[split]
    assert (frame["image"].notna() == (frame["task"] == "hazard_picture")).all()
    for data in frame["image"].dropna():
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            assert (picture.size, picture.mode) == ((128, 128), "RGB")


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("task", TASKS)
def test_length_does_not_tell_the_label(
    split: str, task: str, frames: dict[str, pd.DataFrame]
) -> None:
    part = select_task(frames[split], task)
    assert fold_area(part["label"], part["text"].str.len()) <= SHORTCUT_BOUND
    assert fold_area(part["label"], part["text"].str.split().str.len()) <= SHORTCUT_BOUND


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("task", TASKS)
def test_first_word_does_not_tell_the_label(
    split: str, task: str, frames: dict[str, pd.DataFrame]
) -> None:
    train, part = select_task(frames["train"], task), select_task(frames[split], task)
    first = train["text"].str.split().str[0].str.lower()
    base = train["label"].mean()
    seen = train["label"].groupby(first).agg(["sum", "count"])
    rates = (seen["sum"] + 2 * base) / (seen["count"] + 2)
    scores = part["text"].str.split().str[0].str.lower().map(rates).fillna(base)
    assert fold_area(part["label"], scores) <= SHORTCUT_BOUND


@pytest.mark.parametrize("split", ["validation", "test"])
def test_text_alone_does_not_solve_hazard_picture(
    split: str, frames: dict[str, pd.DataFrame]
) -> None:
    train = select_task(frames["train"], "hazard_picture")
    part = select_task(frames[split], "hazard_picture")
    risky = part.groupby("text")["label"].transform("max")
    assert fold_area(part["label"], risky) <= ONE_INPUT_BOUND
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=10, max_iter=2000))
    model.fit(train["text"], train["label"])
    assert fold_area(part["label"], model.decision_function(part["text"])) <= ONE_INPUT_BOUND


@pytest.mark.parametrize("split", LABELLED)
def test_picture_alone_does_not_solve_hazard_picture(
    split: str, frames: dict[str, pd.DataFrame]
) -> None:
    part = select_task(frames[split], "hazard_picture")
    hazard = part.groupby(part["group"].str.rpartition("/")[2])["label"].transform("max")
    assert fold_area(part["label"], hazard) <= ONE_INPUT_BOUND


def test_card_names_a_licence_for_each_source(frames: dict[str, pd.DataFrame]) -> None:
    lines = (ASSETS / "DATA_CARD.md").read_text(encoding="utf-8").splitlines()
    licences = ("MIT", "AFL-3.0", "Apache-2.0", "CC-BY-4.0")
    for source in sorted(set().union(*(set(frame["source"]) for frame in frames.values()))):
        rows = [line.split("|")[4] for line in lines if line.startswith(f"| `{source}` |")]
        assert rows, source
        assert any(name in rows[0] for name in licences), source


def test_card_states_the_row_counts(frames: dict[str, pd.DataFrame]) -> None:
    card = (ASSETS / "DATA_CARD.md").read_text(encoding="utf-8")
    for split, frame in frames.items():
        for task, part in frame.groupby("task"):
            unsafe = int(part["label"].sum())
            counts = f"{unsafe} | {len(part) - unsafe} | {len(part)}"
            assert f"| {split} | {task} | {counts} |" in card


def test_licence_texts_are_shipped() -> None:
    shipped = {path.name for path in (ASSETS / "licenses").iterdir()}
    expected = {"MIT-AdvBench", "MIT-HarmBench", "MIT-PyRIT", "AFL-3.0", "Apache-2.0", "CC-BY-4.0"}
    assert {f"{name}.txt" for name in expected} <= shipped


def test_attack_templates_have_their_slots() -> None:
    material = json.loads((ASSETS / "attack_templates.json").read_text(encoding="utf-8"))
    assert len(material["jailbreak"]) >= 8
    for item in material["jailbreak"]:
        assert "pick a lock" in item["template"].format(prompt="pick a lock")
        assert len(item["template"].split()) <= 65
        assert item["source"]
        assert item["licence"]
    for tense in ("past_tense", "future_tense"):
        assert all("{goal}" in template for template in material[tense]["templates"])
        assert material[tense]["source"]
        assert material[tense]["licence"]


def find_frame(text: str, frames: list[str]) -> str:
    """Return the longest frame whose beginning the text has ("" is the plain imperative)."""
    starts = [frame.partition("{goal}")[0].lower() for frame in frames]
    return max((start for start in starts if text.lower().startswith(start)), key=len)


@pytest.mark.parametrize("split", LABELLED)
def test_both_classes_wear_the_same_frames(split: str, frames: dict[str, pd.DataFrame]) -> None:
    material = json.loads((ASSETS / "attack_templates.json").read_text(encoding="utf-8"))
    part = select_task(frames[split], "harmful_request")
    used = part["text"].map(lambda text: find_frame(text, material["strip_frames"]))
    unsafe, safe = (Counter(used[part["label"] == label]) for label in (1, 0))
    # A plain imperative may itself begin like a frame ("Explain how to ..."): hence the slack.
    assert (unsafe - safe).total() <= 0.02 * len(part)
    assert len(unsafe) >= 7
