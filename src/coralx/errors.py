"""The errors a user can meet. Each message states the rule, the value found and the fix.

`args` are those of the constructor, so that an error can be pickled: workers send theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

# What comes after a mend, for errors that training meets within a run and without one.
GO_ON = "a run goes on with `coralx resume`, `train_population` begins anew"


class CoralXError(Exception):
    """Any error that is explained rather than traced; the command line exits with code 2."""


class ConfigError(CoralXError):
    """A configuration that breaks its rules; `problems` holds every one of them."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__(source, self.problems)

    def __str__(self) -> str:
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        return f"{self.source}: {len(self.problems)} problem(s) in the configuration\n{lines}"


class DataError(CoralXError):
    """Rows, columns or files that cannot be used as training or evaluation data."""


class ModelError(CoralXError):
    """A base model, vision tower, adapter or checkpoint that cannot be used."""


class StoreError(CoralXError):
    """A run directory or journal that cannot be read or written."""


class CheckpointError(StoreError):
    """A checkpoint that is missing, damaged or not the one its name says."""

    def __init__(
        self,
        checkpoint: str,
        reason: str,
        advice: str = "`coralx resume` trains it again from the last good ancestor",
    ) -> None:
        self.checkpoint, self.reason, self.advice = checkpoint, reason, advice
        super().__init__(checkpoint, reason, advice)

    def __str__(self) -> str:
        return f"checkpoint {self.checkpoint}: {self.reason}; {self.advice}"


class ObjectiveError(CoralXError):
    """A user's own objective that fails for a genome. The run stops, as it would fail for the next
    one too; what is recorded is kept."""

    def __init__(self, objective: str, genome: str, cause: str) -> None:
        self.objective, self.genome, self.cause = objective, genome, cause
        super().__init__(objective, genome, cause)

    def __str__(self) -> str:
        return (
            f"objectives: {self.objective!r} failed for genome {self.genome}: {self.cause}; mend "
            f"the function so that it gives a number for any scores: {GO_ON}"
        )


class ExecutorError(CoralXError):
    """Workers that cannot be started, or that die again and again."""


class ExtinctError(CoralXError):
    """No genome of a stage passed its gates; the message lists each reason."""


def remedy(error: Exception) -> str:
    """What helps where a file or a folder cannot be written."""
    taken = isinstance(error, FileExistsError | IsADirectoryError | NotADirectoryError)
    return "move away what is in its place" if taken else "free space or allow writing"
