"""Functions of the user's own that a configuration names as `module:function`."""

from __future__ import annotations

import importlib
from typing import Any

from coralx.errors import ConfigError


def load_function(setting: str, name: str) -> Any:
    """The function that `setting` names.

    Raises:
        ConfigError: there is no such module or function.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        advice = "name the folder that it lies in, as in `PYTHONPATH=. coralx ...`, or install it"
        raise ConfigError(setting, [f"{name!r} cannot be imported: {error}; {advice}"]) from None
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        raise ConfigError(setting, [f"{name!r} cannot be imported: {error}"]) from None
    if not callable(found):
        raise ConfigError(setting, [f"{name!r} must be a function, got {found!r:.40}"])
    return found
