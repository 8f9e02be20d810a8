"""Settings that break a rule: each is refused by `run` and by `plan` with key, rule and value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coralx.cli import app

STAGE = "{name: a, epoch_budget: 1, data_percentage: 50, survival_rate: 1}"
LATER = "{name: b, epoch_budget: 1, data_percentage: 90, survival_rate: 1}"
EARLIER = "{name: b, epoch_budget: 1, data_percentage: 5, survival_rate: 1}"


def stage(**change: str) -> str:
    """A section with one stage, values as they stand in YAML."""
    facts = {"name": "a", "epoch_budget": "1", "data_percentage": "50", "survival_rate": "1"}
    written = ", ".join(f"{key}: {value}" for key, value in (facts | change).items())
    return f"hyperband: {{training_stages: [{{{written}}}]}}"


def choice(gene: str, *values: str) -> str:
    return f"space: {{{gene}: {{kind: choice, values: [{', '.join(values)}]}}}}"


def between(gene: str, kind: str, low: str, high: str, more: str = "") -> str:
    return f"space: {{{gene}: {{kind: {kind}, low: {low}, high: {high}{more}}}}}"


# What the file holds, and what the message must say word for word.
CASES: dict[str, tuple[str, ...]] = {
    # Keys that are not known, at every level, with the nearest that is.
    "unknown section": ("trainning: {}", "trainning: unknown key", "did you mean 'training'?"),
    "unknown key at the top": ("base_modle: x", "did you mean 'base_model'?"),
    "unknown data key": ("data: {max_token: 9}", "data.max_token", "did you mean 'max_tokens'?"),
    "unknown evolution key": ("evolution: {seeed: 1}", "evolution.seeed", "'seed'?"),
    "unknown training key": ("training: {batchsize: 1}", "training.batchsize", "'batch_size'?"),
    "unknown hyperband key": ("hyperband: {stages: []}", "stages", "'training_stages'?"),
    "unknown stage key": (stage(survival="1"), "training_stages.0.survival", "'survival_rate'?"),
    "unknown gene key": (between("r", "integer", "1", "2", ", hgih: 3"), "space.r.hgih", "'high'?"),
    "key of another section": ("evolution: {batch_size: 4}", "'batch_size' belongs under 'train"),
    "unknown storage key": (
        "storage: {checkpoint_gb: 1}",
        "storage.checkpoint_gb",
        "'checkpoints_gb'",
    ),
    "storage key elsewhere": ("training: {checkpoints_gb: 1}", "belongs under 'storage'"),
    "key of a section at the top": ("population: 4", "'population' belongs under 'evolution'"),
    "key of a section with two names": ("promotion: asha", "'promotion' belongs under 'hyperband'"),
    "nothing like it": ("evolution: {xyzzy: 4}", "unknown key; there are crossover_rate, "),
    "both names of a section": ("hyperband: {}\nhyperband_config: {}", "other name; keep one"),
    "key given twice": (
        "evolution:\n  seed: 1\n  seed: 2",
        "evolution.seed: given twice",
        "2 and 3",
    ),
    "section given twice": ("data: {}\ndata: {}", "data: given twice, in lines 1 and 2"),
    "number as key": ("evolution: {7: 1}", "evolution.7", "must be a text key"),
    "half a character in a value": (
        'space: {note: {kind: choice, values: ["a", "caf\\ud83d"]}}',
        "line 1: a text must have whole characters, got half a one in 'caf\\\\ud83d'",
    ),
    "half a character in a key": (
        'seed: 1\nspace: {"\\ude00": {kind: choice, values: [a]}}',
        "line 2: a text must have whole characters",
    ),
    # Values of the wrong type.
    "section is a number": ("evolution: 3", "evolution: must be a mapping", "got 3"),
    "section is empty": ("evolution:", "evolution: must be a mapping", "got None"),
    "section is a list": ("training: [1]", "training: must be a mapping", "got [1]"),
    "text for a number": ("evolution: {population: many}", "evolution.population", "got 'many'"),
    "truth for a number": ("evolution: {population: yes}", "must be a number, got True"),
    "truth for a rate": ("evolution: {mutation_rate: on}", "must be a number, got True"),
    "fraction for a count": ("evolution: {population: 2.5}", "evolution.population", "got 2.5"),
    "number for a truth": ("evolution: {warm_start: 7}", "evolution.warm_start", "got 7"),
    "number for a path": ("data: {train: 5}", "data.train: must be the path of a file", "got 5"),
    "list for a number": ("training: {batch_size: [8]}", "training.batch_size", "got [8]"),
    "date for a number": ("evolution: {seed: 2024-01-02}", "evolution.seed", "datetime.date(2024"),
    "text for a list": ("objectives: task_skill", "objectives: must be a list", "'task_skill'"),
    "unknown word": (
        "data: {on_bad_rows: drop}",
        "data.on_bad_rows",
        "'refuse' or 'skip'",
        "'drop'",
    ),
    "unknown device": (
        "training: {device: tpu}",
        "training.device: must be 'auto', 'cpu'",
        "'tpu'",
    ),
    "unknown precision": ("training: {dtype: float16}", "training.dtype", "got 'float16'"),
    "empty column name": ("data: {text_column: ''}", "data.text_column: must not be empty"),
    "empty model name": ("base_model: ''", "base_model: must not be empty", "got ''"),
    # Values outside their range.
    "no population": ("evolution: {population: 0}", "population: must be greater than", "got 0"),
    "negative population": ("evolution: {population: -1}", "evolution.population", "got -1"),
    "huge population": ("evolution: {population: 1000000}", "equal to 100000, got 1000000"),
    "no generations": ("evolution: {generations: 0}", "evolution.generations", "got 0"),
    "negative seed": ("evolution: {seed: -1}", "evolution.seed", "equal to 0, got -1"),
    "rate above one": ("evolution: {mutation_rate: 1.5}", "mutation_rate", "equal to 1, got 1.5"),
    "rate below zero": ("evolution: {crossover_rate: -0.1}", "crossover_rate", "got -0.1"),
    "rate is not a number": ("evolution: {mutation_rate: .nan}", "finite number, got nan"),
    "no tournament": ("evolution: {tournament_size: 0}", "tournament_size", "got 0"),
    "large tournament": (
        "evolution: {population: 4, tournament_size: 5}",
        "evolution.tournament_size: must not be above population (4), got 5",
    ),
    "no batch": ("training: {batch_size: 0}", "training.batch_size", "got 0"),
    "infinite memory": ("training: {memory_budget_gb: .inf}", "finite number, got inf"),
    "no memory": ("training: {memory_budget_gb: 0}", "memory_budget_gb", "greater than 0, got 0"),
    "negative clipping": ("training: {clip_norm: -1}", "training.clip_norm", "got -1"),
    "no threads": ("training: {threads: 0}", "training.threads", "got 0"),
    "a million threads": ("training: {threads: 1000000}", "equal to 1024, got 1000000"),
    "no patience": ("training: {patience: 0}", "training.patience", "got 0"),
    "three tokens": ("data: {max_tokens: 3}", "data.max_tokens", "equal to 4, got 3"),
    "too few rows": ("data: {max_rows: 2}", "data.max_rows", "equal to 8, got 2"),
    "too many image tokens": ("image_tokens: 65", "image_tokens", "equal to 64, got 65"),
    # Stages and budgets.
    "no stages": ("hyperband: {training_stages: []}", "training_stages: must not be empty"),
    "no epochs": (stage(epoch_budget="0"), "training_stages.0.epoch_budget", "than 0, got 0"),
    "epochs without end": (stage(epoch_budget=".inf"), "epoch_budget", "finite number, got inf"),
    "epochs beyond reason": (stage(epoch_budget="5000"), "or equal to 1000, got 5000"),
    "no data": (stage(data_percentage="0"), "data_percentage", "greater than 0, got 0"),
    "more data than there is": (stage(data_percentage="101"), "equal to 100, got 101"),
    "nobody survives": (stage(survival_rate="0"), "survival_rate", "greater than 0, got 0"),
    "more survive than entered": (stage(survival_rate="1.5"), "survival_rate", "1, got 1.5"),
    "survival is a truth": (stage(survival_rate="yes"), "survival_rate: must be a number, got T"),
    "gate above one": (stage(min_auroc="1.1"), "min_auroc", "equal to 1, got 1.1"),
    "gate never met": (stage(max_grad_norm="-5"), "max_grad_norm", "greater than 0, got -5"),
    "stage name is a path": (stage(name="../../x"), "letters, digits", "got '../../x'"),
    "stage name too long": (stage(name="x" * 65), "at most 64 characters"),
    "stage without budget": (
        "hyperband: {training_stages: [{name: a, data_percentage: 5, survival_rate: 1}]}",
        "hyperband.training_stages.0.epoch_budget: is required; add it",
    ),
    "stage is a text": ("hyperband: {training_stages: [a]}", "0: must be a mapping", "got 'a'"),
    "stages of one name": (
        f"hyperband: {{training_stages: [{STAGE}, {STAGE}]}}",
        "hyperband.training_stages: names must differ, got a, a; rename one",
    ),
    "stages out of order": (
        f"hyperband: {{training_stages: [{STAGE}, {EARLIER}]}}",
        "hyperband.training_stages: data_percentage must not shrink",
        "got 50, 5; put the stages in order",
    ),
    "growth at no stage": (
        f"hyperband: {{training_stages: [{STAGE}], grow_rank_at: b}}",
        "hyperband.grow_rank_at: must be one of the stages (a), got 'b'",
    ),
    "growth at the first stage": (
        f"hyperband: {{training_stages: [{STAGE}, {LATER}], grow_rank_at: a}}",
        "hyperband.grow_rank_at: must be a stage after the first",
        "got 'a'; name one of b, or null",
    ),
    "growth at the only stage": (
        f"hyperband: {{training_stages: [{STAGE}], grow_rank_at: a}}",
        "hyperband.grow_rank_at: must be a stage after the first",
        "got 'a'; name null",
    ),
    "no naive epochs": ("hyperband: {naive_epochs: 0}", "naive_epochs", "greater than 0, got 0"),
    "old name of the section": ("hyperband_config: {naive_epochs: -1}", "naive_epochs", "got -1"),
    # Objectives and towers.
    "no objectives": ("objectives: []", "objectives: must not be empty"),
    "unknown objective": ("objectives: [task_skil]", "'task_skil' not known", "task_skill, safety"),
    "half an own objective": ("objectives: ['mine:']", "'mine:' not known", "'module:function'"),
    "objective twice": ("objectives: [safety, safety]", "objectives: each may be named once"),
    "copies where no stage closes": (
        "evolution: {exploit_below: '0.3'}\nhyperband: {promotion: asha}",
        "evolution.exploit_below: acts when a stage closes",
        "got asha with 0.3; set it to 0",
    ),
    "promotion by luck": (
        "evolution: {promote_by: luck}",
        "evolution.promote_by: must be 'rank'",
        "'luck'",
    ),
    "unknown tower": ("vision_tower: clip", "vision_tower: 'clip' is not known", "or null"),
    "splits without training rows": ("data: {test: t.csv}", "data.test: given without train"),
    "validation rows alone": ("data: {validation: v.csv}", "data.validation: given without train"),
    "one column for two things": ("data: {label_column: text}", "not be that of text_column"),
    # The space.
    "no genes": ("space: {}", "space: must not be empty"),
    "gene without kind": ("space: {r: {values: [1]}}", "space.r: needs `kind`"),
    "gene of unknown kind": ("space: {r: {kind: log, low: 1}}", "space.r: must have the kind"),
    "gene is a list": ("space: {r: [1, 2]}", "space.r: must be a mapping", "got [1, 2]"),
    "gene without values": (choice("r"), "space.r.values: must not be empty"),
    "gene of mappings": (choice("r", "{a: 1}"), "space.r.values.0: must be a number", "{'a': 1}"),
    "low above high": (between("r", "integer", "8", "2"), "space.r.high: low must not", "8 > 2"),
    "log of zero": (between("learning_rate", "float", "0", "1", ", log: true"), "needs low > 0"),
    "endless gene": (between("alpha", "float", "1", ".inf"), "space.alpha.high", "got inf"),
    "gene beyond counting": (
        f"{between('mine', 'integer', '0', '1.0e+30')}\ntraining: {{hook: 'a:b'}}",
        "space.mine.high",
    ),
    "misspelt gene": (choice("learning_rte", "1"), "space.learning_rte", "'learning_rate'?"),
    "gene by PEFT's name": (choice("lora_alpha", "8", "16"), "space.lora_alpha", "'alpha'? Else"),
    "gene by its sign in reports": (
        f"{choice('lr', '0.1', '0.2')}\ntraining: {{hook: 'a:b'}}",
        "space.lr: no gene of CoralX; did you mean 'learning_rate'? Else choose another name",
    ),
    "gene that nothing reads": (
        choice("rankk", "2", "4"),
        "space.rankk: no gene of CoralX, and without training.hook nothing reads it; did you mean "
        "'r'? Else name the function that does as training.hook",
    ),
    "rank zero": (choice("r", "0", "8"), "space.r: must be greater than or equal to 1, got 0"),
    "rank is a fraction": (between("r", "float", "2", "8"), "space.r: must be a valid integer"),
    "rank is a text": (choice("r", "eight"), "space.r: must be a valid integer, got 'eight'"),
    "rank beyond reason": (choice("r", "4096"), "space.r", "equal to 1024, got 4096"),
    "alpha zero": (choice("alpha", "0"), "space.alpha: must be greater than 0, got 0"),
    "alpha without end": (choice("alpha", ".inf"), "space.alpha", "got inf"),
    "dropout above one": (choice("dropout", "1.5"), "space.dropout: must be less than 1, got 1.5"),
    "dropout of all": (between("dropout", "float", "0", "1"), "space.dropout", "than 1, got 1.0"),
    "negative rate": (choice("learning_rate", "-0.001"), "space.learning_rate", "got -0.001"),
    "negative decay": (choice("weight_decay", "-1"), "space.weight_decay", "got -1"),
    "warm-up above one": (choice("warmup", "2"), "space.warmup", "equal to 1, got 2"),
    "no target modules": (choice("target_modules", "[]"), "space.target_modules", "got ()"),
    "target is a number": (choice("target_modules", "3"), "space.target_modules", "got 3"),
    "no layers": (choice("layers", "0"), "space.layers: layers must be 'all' or at least 1"),
    "layers by name": (choice("layers", "most"), "space.layers", "integer or must be 'all'"),
    "rslora by number": (choice("use_rslora", "1"), "space.use_rslora", "boolean, got 1"),
    "space too small": (choice("r", "8"), "population 8 needs as many", "the space holds 1"),
}

# Files that hold no settings at all.
FILES: dict[str, tuple[bytes, str]] = {
    "list at the top": (b"- a", "must hold a mapping of settings (key: value lines), got a list"),
    "text at the top": (b"hello", "got text"),
    "unclosed bracket": (b"a: [1,\nb: 2", "cannot be read as YAML: line 2"),
    "tabs": (b"evolution:\n\tseed: 1", "line 2, column 1: found character '\\t'"),
    "two documents": (b"a: 1\n---\nb: 2", "found another document"),
    "not UTF-8": (b"seed: 1\nname: caf\xe9", "line 2 is not UTF-8 text (byte 0xe9)"),
    "UTF-16": ("seed: 1".encode("utf-16"), "line 1 is not UTF-8 text (byte 0xff)"),
    "binary": (b"\x00\x01\x02", "cannot be read as YAML"),
    "a Python object": (b"a: !!python/object/apply:os.system [ls]", "python/object/apply"),
    "undefined alias": (b"a: *b", "undefined alias"),
    "alias of itself": (b"a: &a [*a]", "at most 100,000 values"),
    "billion laughs": (
        b"a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        + b"".join(
            b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 10)) for i in range(1, 10)
        ),
        "at most 100,000 values, aliases written out",
    ),
    "too deep": (b"a: " + b"[" * 5000, "is nested too deeply"),
    "too large": (b"# " + b"x" * 1_000_001, "at most 1,000,000 bytes"),
    "a number of 5000 digits": (
        b"# a seed\nseed: " + b"9" * 5000,
        "at most 1,000 digits, the one in line 2 has 5,000",
    ),
    "a long number in base 16": (
        b"evolution: {seed: 0x" + b"f" * 3600 + b"}",
        "in line 1 has 3,602",
    ),
    "a long number in base 60": (
        b"evolution: {seed: 1" + b":59" * 9000 + b"}",
        "at most 1,000 digits",
    ),
    "a day that never was": (b"seed: 2001-99-99", "holds a value that cannot be read"),
    "a tag that does not fit": (b"seed: !!int ''", "holds a value that cannot be read"),
}


def _refuse_plan(path: Path) -> None:
    result = CliRunner().invoke(app, ["plan", str(path)])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert str(path) in result.stderr or "space" in result.stderr


@pytest.mark.parametrize("name", CASES)
def test_settings_that_break_a_rule_are_refused(job: Any, name: str) -> None:
    text, *said = CASES[name]
    message = job.refuse(*said, text=text)
    assert message.count("\n  - ") == 1, "one problem, one line"
    _refuse_plan(job.folder / "job.yaml")


def test_an_own_objective_that_is_not_there_is_refused(job: Any) -> None:
    job.settings["objectives"] = ["task_skill", "no_such_module:function"]
    job.refuse(
        "objectives: 1 problem(s)",
        "PYTHONPATH=. coralx",
        "'no_such_module:function' cannot be imported: No module named",
    )
    job.settings["objectives"] = ["task_skill", "math:pi"]
    job.refuse("objectives: 1 problem(s)", "'math:pi' must be a function, got 3.14")


@pytest.mark.parametrize("name", FILES)
def test_files_that_hold_no_settings_are_refused(job: Any, name: str) -> None:
    data, said = FILES[name]
    job.refuse(str(job.folder / "job.yaml"), said, text=data)
    _refuse_plan(job.folder / "job.yaml")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.yaml", "no such file; `coralx init DIR` writes one"),
        (".", "is a folder; name the YAML file in it"),
        ("x" * 300, "cannot be read: [Errno 36] File name too long"),
    ],
)
def test_paths_that_are_no_file_are_refused(tmp_path: Path, name: str, said: str) -> None:
    for command in ("run", "plan"):
        result = CliRunner().invoke(app, [command, str(tmp_path / name)])
        assert result.exit_code == 2
        assert str(tmp_path) in result.stderr
        assert said in result.stderr


@pytest.mark.parametrize("label", ["text", "3"])
def test_pictures_left_out_share_no_column_with_a_refused_label(job: Any, label: str) -> None:
    text = f"data: {{label_column: {label}, image_column: null}}"
    assert "image_column" not in job.refuse("1 problem(s)", "data.label_column", text=text)


def test_every_problem_of_a_file_is_said_at_once(job: Any) -> None:
    texts = (
        "base_modle: x",
        "vision_tower: clip",
        "objectives: [task_skil, safety, safety]",
        "data: {max_tokens: 3, test: t.csv, label_column: text}",
        "space: {r: {kind: choice, values: [0]}, alpha: {kind: float, low: 3, high: 2}, lyers: {}}",
        "evolution: {population: 0, promote_by: luck, exploit_below: 0.1, seeed: 1}",
        "training: {batch_size: 0, threads: yes}",
        f"hyperband: {{training_stages: [{STAGE}, {STAGE}], grow_rank_at: b, naive_epochs: .nan,"
        " promotion: asha}",
    )
    message = job.refuse(
        "base_modle",
        "vision_tower: 'clip'",
        "objectives: 'task_skil'",
        "objectives: each may be named once",
        "data.max_tokens",
        "data.test: given without train",
        "data.label_column",
        "space.alpha.high",
        "space.lyers",
        "evolution.population",
        "evolution.seeed",
        "evolution.promote_by: must be 'rank'",
        "evolution.exploit_below: acts when",
        "training.batch_size",
        "training.threads",
        "training_stages: names must differ",
        "hyperband.naive_epochs",
        text="\n".join(texts),
    )
    assert f"{message.count(chr(10) + '  - ')} problem(s) in the configuration" in message


def test_problems_of_options_and_file_are_said_together(job: Any) -> None:
    path = job.folder / "job.yaml"
    path.write_text("training: {batch_size: 0}", encoding="utf-8")
    result = CliRunner().invoke(app, ["run", str(path), "--population", "0", "--seed", "-4"])
    assert result.exit_code == 2
    for words in ("training.batch_size", "evolution.population", "evolution.seed", "3 problem(s)"):
        assert words in result.stderr


def test_a_small_population_goes_with_the_default_tournament(job: Any) -> None:
    job.settings["evolution"] = {"population": 1, "generations": 1}
    assert job.run().exit_code == 0
    assert CliRunner().invoke(app, ["report", str(job.out), "--json"]).exit_code == 0
