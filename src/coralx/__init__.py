"""CoralX evolves LoRA adapters on one frozen base model through Hyperband stages."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coralx.config import Config, load_config
    from coralx.errors import CoralXError
    from coralx.hyperband import HyperbandTrainer
    from coralx.records import Genome, LoRAConfig, TrainingResult, TrainingStage
    from coralx.train.predict import Predictor

__version__ = "0.1.0"

__all__ = [
    "Config",
    "CoralXError",
    "Genome",
    "HyperbandTrainer",
    "LoRAConfig",
    "Predictor",
    "TrainingResult",
    "TrainingStage",
    "load_config",
]

# Names are imported when first used, so that `import coralx` stays instant.
_HOMES = {
    "Config": "config",
    "CoralXError": "errors",
    "Genome": "records",
    "HyperbandTrainer": "hyperband",
    "LoRAConfig": "records",
    "Predictor": "train.predict",
    "TrainingResult": "records",
    "TrainingStage": "records",
    "load_config": "config",
}


if not TYPE_CHECKING:  # to a type checker any name would be there, mistyped ones, too

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'coralx' has no attribute {name!r}")
        return getattr(importlib.import_module(f"coralx.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
