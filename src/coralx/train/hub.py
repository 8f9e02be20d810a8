"""A model of the Hugging Face hub as a local folder: its weights as safetensors, never pickle."""

from __future__ import annotations

import socket
import urllib.parse
import urllib.request
from pathlib import Path

from coralx.errors import ModelError

WAIT = 5.0  # seconds; the hub's own client would try for half a minute before it says anything
FILES = ("*.json", "*.safetensors", "*.txt", "*.model")  # at the top of the repository


def fetch_model(name: str, with_code: bool = False) -> str:
    """The folder of a model: `name` itself if it is one, else the hub's files in the local cache,
    downloaded where the hub can be reached.

    Args:
        with_code: download the model's own Python files as well.

    Raises:
        ModelError: the hub cannot be reached and the cache lacks the model, or there is none.
    """
    if Path(name).is_dir():
        return name
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    reachable = can_reach(huggingface_hub.constants.ENDPOINT)
    try:
        return huggingface_hub.snapshot_download(
            name,
            allow_patterns=[*FILES, *(["*.py"] if with_code else [])],
            ignore_patterns=["*/*"],
            local_files_only=not reachable or huggingface_hub.constants.HF_HUB_OFFLINE,
        )
    except LocalEntryNotFoundError:
        raise ModelError(
            f"base_model: {name!r} is a hub id, but {huggingface_hub.constants.ENDPOINT} cannot be "
            "reached and the model is not in the local cache; name a local folder, or download it "
            f"first where there is a network (hf download {name})"
        ) from None
    except (HfHubHTTPError, ValueError, OSError) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"base_model: {name!r} cannot be fetched from the hub: {cause}") from None


def can_reach(address: str) -> bool:
    """Whether a server takes connections; where a proxy stands between, it is not asked."""
    place = urllib.parse.urlsplit(address)
    if place.scheme in urllib.request.getproxies():
        return True
    try:
        port = place.port or (443 if place.scheme == "https" else 80)
        socket.create_connection((place.hostname or "", port), timeout=WAIT).close()
    except OSError:
        return False
    return True
