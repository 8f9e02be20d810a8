"""The report, drawn from a made-up run: no figure in this file was measured."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import random
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from coralx.config import load_config
from coralx.records import (
    Cost,
    CurvePoint,
    Generation,
    Genome,
    Interval,
    LoRAConfig,
    Start,
    Stop,
    TestResult,
    TrainingResult,
)
from coralx.report import lineage
from coralx.report.curves import stage_ends, thin
from coralx.report.lineage import lineage_section
from coralx.report.lives import by_interest, read_lives
from coralx.report.page import render_page, write_report
from coralx.settings.genes import Choice
from coralx.store import History
from coralx.summary import summarize

STEPS_PER_EPOCH = 240.0
KEPT = (8, 8, 4, 1)  # genomes of a generation per stage


class MadeUpRun:
    """Writes a History that looks like a run: better genomes learn faster and go further."""

    def __init__(self, generations: int, population: int, images: bool, seed: int) -> None:
        names = ("task_skill", "safety", "false_positive_cost", "memory", "calibration")
        objectives = (*names, "cross_modal_gain") if images else names
        self.config = load_config({"objectives": list(objectives), "evolution": {"seed": seed}})
        self.random = random.Random(seed)  # noqa: S311 - invents figures, keeps no secret
        self.images = images
        self.history = History(
            config=self.config,
            facts={
                "steps_per_epoch": STEPS_PER_EPOCH,
                "rows": {"train": 1920, "validation": 400, "test": 600},
                "left_out": {"rows.jsonl": 3},
                "versions": {"coralx": "0.1.0", "torch": "2.9.0"},
                "machine": "8 CPU cores",
                "seed": seed,
                "tasks": ["fraud", "moderation"],
                "started": "2026-01-15T09:30:00",
            },
        )
        self.parents: list[Genome] = []
        for index in range(generations):
            self._generation(index, population)

    def _generation(self, index: int, population: int) -> None:
        genomes = [self._genome(index) for _ in range(population)]
        field = [(genome, self._talent(genome, index)) for genome in genomes]
        for stage_index in range(len(KEPT)):
            keep = max(1, population * KEPT[stage_index] // 8)
            field = sorted(field, key=lambda pair: -pair[1])[:keep]
            results = [self._result(g, t, index, stage_index) for g, t in field]
            self.history.results.extend(results)
            stopped = {result.genome.id for result in results if result.stopped}
            field = [pair for pair in field if pair[0].id not in stopped]
        self.parents = [genome for genome, _ in field] or genomes[:2]
        finished = [r for r in self.history.results if r.stage_index == 3]
        finishers = [r.genome.id for r in finished]
        self.history.generations.append(
            Generation(
                index=index,
                population=tuple(finishers),
                front=tuple(finishers[-5:]),
                front_stages=tuple(r.stage for r in finished[-5:]),
                hypervolume=0.41 + 0.08 * math.sqrt(index),
                diversity=0.72 / (1 + 0.3 * index),
                first_front_share=0.375,
            )
        )

    def _genome(self, index: int) -> Genome:
        pick = self.random.choice
        parents: tuple[str, ...] = ()
        if self.parents:
            pool = [r.genome for r in self.history.results if r.generation == index - 1]
            parents = (pick(self.parents).id, pick(pool).id)
        return Genome(
            lora_cfg=LoRAConfig(
                r=pick((2, 4, 8, 16)),
                alpha=pick((8, 16, 32)),
                target_modules=pick((("query", "value"), ("up", "down"), ("all-linear",))),
                layers=pick((1, 2, 3)),
            ),
            learning_rate=10 ** self.random.uniform(-3.5, -2),
            parents=parents,
            generation=index,
        )

    def _talent(self, genome: Genome, index: int) -> float:
        return 0.8 + 0.03 * index + self.random.gauss(0, 0.05)

    def _result(self, genome: Genome, talent: float, index: int, stage: int) -> TrainingResult:
        stages = self.config.hyperband.stages
        before = sum(self._steps(i) for i in range(stage))
        steps = self._steps(stage)
        skill = min(0.985, 0.5 + (talent - 0.5) * (0.45 + 0.18 * stage)) + self.random.gauss(
            0, 0.01
        )
        stopped = self._stop(genome, stage, skill)
        origin = Start()
        if stage > 0:
            origin = Start(kind="continue", checkpoint=f"{genome.id}/{stages[stage - 1].name}")
        elif genome.parents:
            origin = Start(kind="inherit", checkpoint=f"{genome.parents[0]}/S2_serious")
        grown = genome.lora_cfg.model_copy(update={"r": min(16, 2 * genome.lora_cfg.r)})
        return TrainingResult(
            job=f"g{index}-{stage}",
            genome=genome,
            generation=index,
            stage=stages[stage].name,
            stage_index=stage,
            lora_cfg=grown if stage >= 2 else genome.lora_cfg,
            objectives={} if stopped and stage == 0 else self._objectives(skill),
            details=self._details(skill),
            stopped=stopped,
            start=origin,
            checkpoint=f"{genome.id}/{stages[stage].name}",
            curve=self._curve(before, steps, skill),
            left_early=stage == 2 and talent < 0.83,
            cost=self._cost(steps, self._planned(stage)),
        )

    def _planned(self, stage: int) -> float:
        settings = self.config.hyperband.stages[stage]
        return settings.epoch_budget * settings.data_percentage / 100 * STEPS_PER_EPOCH

    def _steps(self, stage: int) -> int:
        return math.ceil(self._planned(stage))

    def _stop(self, genome: Genome, stage: int, skill: float) -> Stop | None:
        if stage == 0 and genome.learning_rate > 7.5e-3:
            reason = "gradient norm 7.31 is above the limit of 5"
            return Stop(gate="gradient_norm", value=7.31, limit=5.0, reason=reason)
        if stage == 1 and skill < 0.58:
            reason = f"AUROC {skill:.3f} is below the limit of 0.55"
            return Stop(gate="auroc", value=skill, limit=0.55, reason=reason)
        return None

    def _objectives(self, skill: float) -> dict[str, float]:
        noise = self.random.gauss
        values = {
            "task_skill": skill,
            "safety": skill - 0.12 + noise(0, 0.03),
            "false_positive_cost": max(0.01, 1.15 - skill * 1.2 + noise(0, 0.03)),
            "memory": 96e6 + self.random.randrange(12) * 1.1e6,
            "calibration": 0.9 + noise(0, 0.02),
        }
        return {**values, "cross_modal_gain": noise(0.04, 0.02)} if self.images else values

    def _details(self, skill: float) -> dict[str, float]:
        kinds = {
            "auroc/task/fraud": 0.02,
            "auroc/task/moderation": -0.02,
            "auroc/text_alone": -0.04,
        }
        kinds |= {"attack_auroc/homoglyph": -0.1, "attack_auroc/spacing": -0.15}
        if self.images:
            kinds |= {"auroc/modality/text": 0.01, "auroc/modality/image": -0.06}
        figures = {name: skill + shift for name, shift in kinds.items()}
        return {**figures, "attack_success/homoglyph": 0.21, "attack_success/spacing": 0.34}

    def _curve(self, before: int, steps: int, skill: float) -> tuple[CurvePoint, ...]:
        points = []
        for step in range(1, steps + 1):
            at = before + step
            loss = (
                0.25 + 0.45 * math.exp(-at / 90) + 0.7 * (1 - skill) + self.random.gauss(0, 0.012)
            )
            measured = step == steps or step % max(1, steps // 4) == 0
            auroc = skill - 0.05 * (1 - step / steps) if measured else None
            points.append(CurvePoint(step=at, loss=loss, auroc=auroc))
        return tuple(points)

    def _cost(self, steps: int, planned: float) -> Cost:
        return Cost(
            steps=steps,
            planned_steps=planned,
            tokens=steps * 8 * 30,
            computed_tokens=steps * 8 * 40,
            flops=steps * 8 * 40 * 6 * 22e6,
            train_seconds=steps * 0.11,
            eval_seconds=1.9,
            busy_share=0.91,
            peak_memory=310_000_000,
        )

    def measure_front(self) -> None:
        """Add the test results of the last front."""
        for name in self.history.generations[-1].front:
            result = [r for r in self.history.results if r.genome.id == name][-1]
            shown = {k: v for k, v in result.objectives.items() if k != "memory"}
            self.history.tests.append(
                TestResult(
                    genome=name,
                    stage=result.stage,
                    objectives={k: self._interval(v) for k, v in shown.items()},
                    details={k: self._interval(v) for k, v in result.details.items()},
                    attack_threshold=0.4,
                )
            )

    def _interval(self, value: float) -> Interval:
        middle = value + self.random.gauss(-0.01, 0.008)
        return Interval(value=middle, low=middle - 0.021, high=middle + 0.018)


def make_history(
    generations: int = 3,
    population: int = 8,
    *,
    images: bool = True,
    tested: bool = True,
    seed: int = 3,
) -> History:
    run = MadeUpRun(generations, population, images, seed)
    if tested:
        run.measure_front()
    run.history.seconds = 1.15 * sum(
        r.cost.train_seconds + r.cost.eval_seconds for r in run.history.results
    )
    run.history.finished = True
    return run.history


class Page(HTMLParser):
    """What a browser would see: elements, what they load, and the data blocks."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.blocks: list[Any] = []
        self.scripts = 0
        self._in_data = False
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.handlers += [name for name in given if name.startswith("on")]
        self.loads += [given[key] or "" for key in ("src", "href", "srcset") if key in given]
        self._in_data = tag == "script" and given.get("type") == "application/json"
        self.scripts += tag == "script" and not self._in_data

    def handle_endtag(self, tag: str) -> None:
        self._in_data = False

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self.blocks.append(json.loads(data))
        elif len(data) < 100_000:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def figures(self) -> list[Any]:
        return [block for block in self.blocks if "data" in block]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_page(make_history()))


def test_page_has_every_chapter_and_headline(page: Page) -> None:
    for words in (
        "24 adapters tried, 3 that nothing dominates",
        "The trade-offs",
        "The front in figures",
        "Stage funnel",
        "How well a stage predicts the next",
        "S0_sanity → S1_shakeout",
        "Where the effort went",
        "Learning curves",
        "Objectives per generation",
        "Lineage",
        "Stopped genomes",
        "Configuration, defaults included",
        "Rows left out: rows.jsonl",
        "gradient norm 7.31 is above the limit of 5",
    ):
        assert words in page.text


@pytest.mark.parametrize(("epochs", "said"), [(1, "1 epoch of all"), (2.5, "2.5 epochs of all")])
def test_naive_epochs_are_counted_in_plain_english(epochs: float, said: str) -> None:
    config = load_config({"hyperband": {"naive_epochs": epochs}})
    history = dataclasses.replace(make_history(), config=config)
    assert said in Page(render_page(history)).text


def test_page_loads_nothing_and_only_its_own_scripts_run(page: Page) -> None:
    assert [target for target in page.loads if not target.startswith("#")] == []
    assert not {"link", "iframe", "img", "object", "embed"} & set(page.tags)
    assert page.scripts == 2  # plotly.js and the page's own
    assert page.handlers == []


def test_policy_names_the_scripts_by_their_hash() -> None:
    text = render_page(History(config=load_config(None), facts={}))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert policy is not None
    assert len(scripts) == 2
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"sha256-{digest}" in policy[1]
    assert "script-src &#x27;sha256" in policy[1]


def test_figures_are_what_plotly_accepts(page: Page) -> None:
    graph_objects = pytest.importorskip("plotly.graph_objects")
    assert len(page.figures) >= 12
    for figure in page.figures:
        graph_objects.Figure(figure)
    for look in next(block for block in page.blocks if "light" in block).values():
        graph_objects.layout.Template(look)


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"' onload='x'"


def make_hostile() -> History:
    """Every text that can come from configuration, data or genomes tries to get out."""
    history = make_history(2, 8)
    names: dict[str, str] = {}

    def renamed(name: str) -> str:
        return names.setdefault(name, f"{HOSTILE}{len(names)}")

    def twisted(result: TrainingResult) -> TrainingResult:
        genome = BaseModel.model_copy(  # unchecked
            result.genome,
            update={
                "id": renamed(result.genome.id),
                "parents": tuple(map(renamed, result.genome.parents)),
                "extra": {HOSTILE: HOSTILE},
            },
        )
        stop = Stop(gate="auroc", value=math.nan, limit=0.5, reason=HOSTILE)
        origin, _, stage = (result.start.checkpoint or "").rpartition("/")
        start = Start(kind=result.start.kind, checkpoint=f"{renamed(origin)}/{stage}")
        changes = {
            "genome": genome,
            "start": start,
            "stopped": stop if result.stopped else None,
            "details": {f"auroc/task/{HOSTILE}": 0.7},
            "objectives": {**result.objectives, "my:" + HOSTILE: 0.5},
        }
        return result.model_copy(update=changes)

    objectives = (*history.config.objectives, "my:" + HOSTILE)
    config = {"objectives": list(objectives), "base_model": HOSTILE}
    history.config = load_config({**config, "data": {"train": HOSTILE}})
    history.facts |= {"machine": HOSTILE, "tasks": [HOSTILE], "started": HOSTILE, "seed": HOSTILE}
    history.facts |= {"versions": {HOSTILE: HOSTILE}}
    history.facts |= {"rows": {HOSTILE: 3}, "left_out": {HOSTILE: 2}}
    history.results = [twisted(result) for result in history.results]
    front = tuple(map(renamed, history.generations[-1].front))
    shown = {"front": front, "front_stages": history.generations[-1].front_stages}
    history.generations = [g.model_copy(update=shown) for g in history.generations]
    wide = Interval(value=0.7, low=0.6, high=math.inf)
    history.tests = [
        TestResult(
            genome=name,
            stage="S3_finisher",
            objectives={"my:" + HOSTILE: wide},
            details={f"auroc/task/{HOSTILE}": wide},
            attack_threshold=0.5,
        )
        for name in front
    ]
    return history


def test_text_from_data_cannot_become_markup() -> None:
    history = make_hostile()
    assert any(result.stopped for result in history.results)
    hostile = Page(render_page(history))
    assert hostile.scripts == 2
    assert hostile.handlers == []
    assert "img" not in hostile.tags
    assert HOSTILE in hostile.text  # shown as it is
    for figure in hostile.figures:  # plotly reads tags in its texts
        assert "<script" not in json.dumps(figure)
        assert "<img" not in json.dumps(figure)


def test_report_replaces_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(make_history(1, 4), path)
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [item.name for item in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("history", "words"),
    [
        (History(config=load_config(None), facts={}), "No genome has been trained yet"),
        (make_history(1, 1), "1 adapter tried, 1 that nothing dominates"),
        (make_history(1, 8, images=False, tested=False), "no test measurement yet"),
        (make_history(2, 60), "120 adapters tried"),
    ],
    ids=["empty", "one genome", "text, untested", "large"],
)
def test_unusual_runs_have_a_page(history: History, words: str) -> None:
    page = Page(render_page(history))
    assert words in page.text
    assert page.scripts == 2
    assert "nan" not in page.text.lower().split()


def test_run_stopped_midway_has_a_page() -> None:
    history = make_history(2)
    history.generations, history.tests, history.finished = history.generations[:1], [], False
    page = Page(render_page(history))
    assert "not finished yet" in page.text
    assert "under way" in page.text


def test_the_ratio_of_a_run_that_is_not_finished_is_one_so_far() -> None:
    history = make_history(2)
    assert "so far" not in Page(render_page(history)).text
    history.finished = False
    ratio = f"{summarize(history)['efficiency']['efficiency_ratio']:.2f}"
    text = Page(render_page(history)).text
    assert text.count(ratio) == text.count("so far, which later stages lower") == 2
    stop = Stop(gate="auroc", value=0.5, limit=0.6, reason="low")
    history.results = [
        result.model_copy(update={"stopped": stop})
        for result in history.results
        if result.stage_index == 0
    ]
    history.generations, history.tests = [], []
    text = Page(render_page(history)).text
    assert text.count("every genome so far was stopped") == 2
    assert f"{summarize(history)['efficiency']['efficiency_ratio']:.2f}×" not in text  # noqa: RUF001


def test_large_run_without_a_closed_generation_has_a_page() -> None:
    history = make_history(2, 160, tested=False)
    history.generations = []
    page = Page(render_page(history))
    assert "There is no front yet" in page.text
    assert "of 320 genomes" in page.text


class CountedResults(list[TrainingResult]):
    """Counts how often they are gone through."""

    passes = 0

    def __iter__(self) -> Iterator[TrainingResult]:
        self.passes += 1
        return super().__iter__()


def test_a_long_run_is_gone_through_no_more_often_than_a_short_one() -> None:
    """Once a generation made a page of 200 generations take a minute and a half."""
    passes = []
    for generations in (2, 12):
        history = MadeUpRun(generations, 8, images=True, seed=3).history
        history.results = counted = CountedResults(history.results)
        render_page(history)
        passes.append(counted.passes)
    assert passes[0] == passes[1]


def test_numbers_that_are_not_finite_leave_gaps() -> None:
    history = make_history(1, 4)
    broken = CurvePoint(step=1, loss=math.nan, auroc=math.inf)
    history.results = [
        result.model_copy(
            update={"curve": (broken, *result.curve), "objectives": {"task_skill": math.nan}}
        )
        for result in history.results
    ]
    assert Page(render_page(history)).figures  # each block is strict JSON


def test_stage_ends_are_the_steps_of_a_genome_that_spends_its_budget() -> None:
    lives = read_lives(make_history())
    # epochs x share x 240 steps, rounded up per stage: 1, 15, 240, 480
    assert stage_ends(lives) == {
        "S0_sanity": 1,
        "S1_shakeout": 16,
        "S2_serious": 256,
        "S3_finisher": 736,
    }


def test_thinning_keeps_the_last_point_and_every_auroc() -> None:
    points = [CurvePoint(step=i, loss=1.0, auroc=0.5 if i == 7 else None) for i in range(100)]
    assert [point.step for point in thin(points, 4)] == [0, 7, 25, 50, 75, 99]


def test_fates() -> None:
    history = make_history()
    lives = {life.genome.id: life for life in read_lives(history)}
    assert len(lives) == 24
    for name in history.generations[-1].front:
        assert lives[name].fate == "front"
    stopped = next(result for result in history.results if result.stopped)
    assert lives[stopped.genome.id].fate == "stopped"
    child = next(life for life in lives.values() if life.genome.generation == 1)
    assert child.inherited_from == child.genome.parents[:1]


def test_a_merged_child_has_the_weights_of_both_parents_and_is_compared_with_them() -> None:
    history = make_history()
    place = next(i for i, r in enumerate(history.results) if r.start.kind == "inherit")
    result = history.results[place]
    one, two = result.genome.parents
    merged = {
        "start": Start(kind="merge", checkpoint=f"{one}/S2", second=f"{two}/S1"),
        "details": {"auroc_at_start": 0.8, "auroc_of_better_parent": 0.7},
    }
    history.results[place] = result.model_copy(update=merged)
    lives = read_lives(history)
    child = next(life for life in lives if life.genome.id == result.genome.id)
    assert child.inherited_from == (one, two)
    page = str(lineage_section(history, lives))
    assert "1 of 1 had a higher AUROC than either parent" in page
    assert f"the weights of {one}/S2 and {two}/S1" in page


def test_the_share_of_the_first_front_is_there_for_one_generation_and_for_more() -> None:
    single = " ".join(Page(render_page(make_history(1))).text.split())
    assert "Share on the first front 38%" in single  # 0.375
    titles = [f["layout"].get("title", {}) for f in Page(render_page(make_history())).figures]
    (place,) = [i for i, title in enumerate(titles) if "first front" in title.get("text", "")]
    of_all, within = Page(render_page(make_history())).figures[place]["data"]
    assert of_all["y"] == [0.375] * 3
    assert all(0 < share <= 1 for share in within["y"])


def test_a_stage_that_does_not_predict_the_next_has_a_warning() -> None:
    history = make_history()
    assert 'class="warning"' in render_page(history).split("S2_serious in: ")[0]
    history.results = [
        r.model_copy(update={"objectives": {"task_skill": int(r.genome.id, 16) / 16**12}})
        for r in history.results
    ]
    page = render_page(history)
    assert 'class="warning"' not in page
    assert "<b>1.00</b>" in page


def test_genes_that_are_neither_varied_nor_unusual_are_not_listed() -> None:
    history = make_history()
    assert "warmup 0.02" not in render_page(history)
    assert "warmup" not in history.config.space
    space = {**history.config.space, "warmup": Choice(values=(0.02, 0.1))}
    history.config = history.config.model_copy(update={"space": space})
    assert "warmup 0.02" in render_page(history)


def test_splits_with_few_rows_of_a_class_are_said_to_have_few() -> None:
    history = make_history(2)
    assert "to be more than chance" not in render_page(history)
    history.facts["classes"] = {
        "validation": {"unsafe": 2, "safe": 398},
        "test": {"unsafe": 300, "safe": 300},
    }
    text = render_page(history)
    assert "validation has 2 unsafe rows; figures of fewer than about 30 rows of a class" in text
    assert "test has" not in text
    assert "400 (2 unsafe, 398 safe)" in text
    assert summarize(history)["classes"] == history.facts["classes"]


def test_the_headline_is_of_the_best_on_validation_and_lives_begin_with_it() -> None:
    history = make_history(2)
    front = summarize(history)["front"]
    best = max(front, key=lambda member: member["objectives"]["task_skill"])
    assert len(front) > 1
    assert f"{best['genome']}, the best on validation" in render_page(history)
    skills = [
        life.shown.objectives["task_skill"]
        for life in by_interest(read_lives(history), "task_skill")
        if life.fate == "front"
    ]
    assert skills == sorted(skills, reverse=True)


def test_tasks_that_skill_leaves_out_are_told() -> None:
    history = make_history(2)
    history.facts["missing_classes"] = {"validation": {"<b>insults": ["safe"]}, "test": {}}
    text = render_page(history)
    assert "task_skill on validation rows leaves out tasks without both classes: " in text
    assert "&lt;b&gt;insults" in text
    assert summarize(history)["missing_classes"] == history.facts["missing_classes"]


def test_stages_that_choose_by_few_rows_are_told() -> None:
    """None of a run of before they were recorded."""
    history = make_history(2)
    assert summarize(history)["stage_classes"] == {}
    history.facts["classes"] = {"validation": {"unsafe": 32, "safe": 368}}
    history.facts["stage_classes"] = {"S1_shakeout": {"unsafe": 8, "safe": 92}}
    assert "validation has 8 unsafe rows for S1_shakeout to choose by; " in render_page(history)
    assert summarize(history)["stage_classes"] == history.facts["stage_classes"]


def test_tasks_and_pictures_with_few_rows_are_told() -> None:
    """None of a run of before they were counted."""
    history = make_history(2)
    assert "task_classes" not in history.facts
    assert summarize(history)["task_classes"] == summarize(history)["picture_classes"] == {}
    few, many = {"unsafe": 1, "safe": 50}, {"unsafe": 50, "safe": 49}
    history.facts["classes"] = {"validation": {"unsafe": 99, "safe": 99}}
    history.facts["task_classes"] = {"validation": {"<b>threat": few, "b": many}}
    history.facts["picture_classes"] = {"validation": few}
    text = render_page(history)
    assert "validation has 1 unsafe row of task " in text
    assert "&lt;b&gt;threat" in text
    assert "1 unsafe row with a picture (for " in text
    assert summarize(history)["task_classes"] == history.facts["task_classes"]
    assert summarize(history)["picture_classes"] == history.facts["picture_classes"]


def test_texts_that_the_model_does_not_read_whole_are_told() -> None:
    history = make_history(2)
    assert summarize(history)["reading"] == {}, "of a run of before it was recorded"
    assert "max_tokens (64) are cut" not in render_page(history)
    none = {"train": 0, "validation": 0, "test": 0}
    rows = {"train": 64, "validation": 16, "test": 20}
    history.facts["reading"] = {"max_tokens": 64, "rows": rows, "unknown": none, "trained_on": none}
    history.facts["reading"]["cut"] = none | {"test": 3}
    text = render_page(history)
    assert "texts longer than data.max_tokens (64) are cut: 3 of 20 test" in text
    assert summarize(history)["reading"] == history.facts["reading"]


def test_what_was_not_resampled_has_no_interval_and_chance_is_named() -> None:
    history = make_history(2)
    history.config = history.config.model_copy(
        update={"objectives": (*history.config.objectives, "own:gap")}
    )
    before = render_page(history)
    assert "no better than chance" not in before
    flat, poor = (Interval(value=v, low=v, high=v) for v in (123.4e6, 0.432))
    for i, test in enumerate(history.tests):
        figures = {**test.objectives, "memory": flat, "own:gap": poor, "task_skill": poor}
        history.tests[i] = test.model_copy(update={"objectives": figures})
    page = render_page(history)
    assert "123.4 to 123.4" not in page
    assert "no better than chance: test AUROC 0.432" in page
    test = summarize(history)["front"][0]["test"]
    assert test["own:gap"] == {"value": 0.432, "low": None, "high": None}
    assert test["task_skill"]["low"] == 0.432


def test_a_member_whose_interval_holds_chance_is_named() -> None:
    history = make_history(2)
    doubtful = {"task_skill": Interval(value=0.503, low=0.455, high=0.537)}
    for i, test in enumerate(history.tests):
        figures = {**test.objectives, **doubtful}
        history.tests[i] = test.model_copy(update={"objectives": figures})
    page = render_page(history)
    assert "not shown to be better than chance: test AUROC 0.503 (0.455 to 0.537)" in page


def test_a_lineage_too_large_to_draw_shows_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn has its ancestors, and the caption says of how many it is."""
    history = make_history(generations=6)
    lives = read_lives(history)
    by_name = {life.genome.id: life for life in lives}
    front = [life for life in lives if life.fate == "front"]
    monkeypatch.setattr(lineage, "MOST_NODES", 10)
    shown = lineage._main_line(lives)
    assert 0 < len(shown) <= 10
    names = {life.genome.id for life in shown}
    drawn = [life for life in front if life.genome.id in names]
    assert 0 < len(drawn) < len(front)
    assert all(parent in names for life in shown for parent in life.genome.parents
               if parent in by_name)  # fmt: skip
    page = str(lineage_section(history, lives))
    assert f"Drawn are {len(drawn)} of {len(front)} on the front with their ancestors" in page
    monkeypatch.setattr(lineage, "MOST_NODES", 2)  # fewer than the line of one
    assert len(lineage._main_line(lives)) == 2
