"""A user's hook: called for each genome before it trains a stage, so that own genes have effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from coralx.errors import GO_ON, CoralXError
from coralx.records import Genome


@dataclass(frozen=True)
class Turn:
    """What a hook is told: the genome, whose `extra` holds the genes of other names, and the stage
    that it is about to train."""

    genome: Genome
    stage: str


# What training shall use in place of the genome's own values, if anything. A function of the turn
# alone: a stage that is trained again calls it again.
Hook = Callable[[Turn], Mapping[str, float] | None]

OVERRIDES = ("learning_rate", "weight_decay", "warmup", "dropout")


def apply_hook(hook: Hook, genome: Genome, stage: str) -> Genome:
    """The genome as it shall train the stage: its id stays, what the hook overrides does not.

    Raises:
        CoralXError: the hook fails, or what it gives cannot be used.
    """
    try:
        wanted = dict(hook(Turn(genome, stage)) or {})
        strange = sorted(map(str, wanted.keys() - set(OVERRIDES)))
        if not strange:
            facts = genome.model_dump()
            facts["lora_cfg"] |= {name: wanted.pop(name) for name in ("dropout",) if name in wanted}
            return Genome.model_validate({**facts, **wanted})
        cause = f"may override {', '.join(OVERRIDES)}, got {', '.join(strange)}"
    except ValidationError as error:
        first = error.errors()[0]
        cause = f"{first['loc'][-1]}: {first['msg']}, got {first['input']!r}"
    except (Exception, SystemExit) as error:  # whatever the function does
        cause = f"{type(error).__name__}: {error}"
    raise CoralXError(
        f"training.hook failed for genome {genome.id} before {stage}: {cause}; mend the function: "
        f"{GO_ON}"
    )
