"""A user's hook: what it is told, what it may override, how it fails."""

from __future__ import annotations

import dataclasses

import pytest

from coralx.config import load_config
from coralx.errors import ConfigError, CoralXError
from coralx.records import Genome, LoRAConfig
from coralx.train.hook import Turn, apply_hook
from coralx.train.own_function import load_function

GENOME = Genome(lora_cfg=LoRAConfig(dropout=0.1), learning_rate=1e-3, extra={"mine": 3})


def test_it_is_told_genome_and_stage_and_what_it_gives_is_trained() -> None:
    told: list[Turn] = []

    def hook(turn: Turn):
        told.append(turn)
        return {"learning_rate": turn.genome.learning_rate * 2, "dropout": 0.0, "warmup": 0.5}

    now = apply_hook(hook, GENOME, "S1_shakeout")
    assert told == [Turn(GENOME, "S1_shakeout")]
    assert (now.learning_rate, now.lora_cfg.dropout, now.warmup) == (2e-3, 0.0, 0.5)
    assert (now.id, now.extra, now.weight_decay) == (GENOME.id, GENOME.extra, 0.0)
    assert apply_hook(lambda _: None, GENOME, "S1") == GENOME
    with pytest.raises(dataclasses.FrozenInstanceError):
        told[0].stage = "S2"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"r": 4}, "before S1: may override learning_rate, weight_decay, warmup, dropout, got r"),
        ({"learning_rate": -1}, "learning_rate: Input should be greater than 0, got -1"),
        ({"dropout": 1.5}, "dropout: Input should be less than 1, got 1.5"),
        (3, "before S1: TypeError: 'int' object is not iterable"),
    ],
)
def test_what_it_gives_is_checked(given, message: str) -> None:
    with pytest.raises(CoralXError, match=f"hook failed for genome {GENOME.id} before S1: ") as e:
        apply_hook(lambda _: given, GENOME, "S1")
    assert message in str(e.value)


def test_its_own_failure_is_named() -> None:
    with pytest.raises(CoralXError, match="before S1: KeyError: 'none'; mend the function") as e:
        apply_hook(lambda turn: turn.genome.extra["none"], GENOME, "S1")
    assert "a run goes on" in str(e.value)
    assert "`train_population` begins anew" in str(e.value)


def test_it_is_found_by_name() -> None:
    assert load_function("training.hook", "math:sqrt")(9) == 3  # type: ignore[arg-type]
    for name, message in (("math:pi", "must be a function"), ("math:sqr", "cannot be imported")):
        with pytest.raises(ConfigError, match=message):
            load_function("training.hook", name)
    with pytest.raises(ConfigError, match=r"training\.hook: must be named 'module:function'"):
        load_config({"training": {"hook": "mine"}})
