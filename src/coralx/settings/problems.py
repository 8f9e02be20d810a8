"""What pydantic finds wrong with settings, said in the words of a settings file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

Sections = Mapping[str, type[BaseModel]]

SHOWN = 60  # characters of a value

# By pydantic's name of the error; the rest say "Input should ..." and are turned to "must ...".
_RULES = {
    "missing": "is required; add it",
    "model_type": "must be a mapping (key: value lines)",
    "model_attributes_type": "must be a mapping (key: value lines)",
    "dict_type": "must be a mapping (key: value lines)",
    "tuple_type": "must be a list",
    "path_type": "must be the path of a file",
    "invalid_key": "must be a text key",
    "union_tag_not_found": "needs `kind`: choice, integer or float",
    "union_tag_invalid": "must have the kind choice, integer or float",
    "string_pattern_mismatch": "may hold letters, digits, `_`, `.` and `-` alone",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
}
_VALUE = "must be a number, a text, a truth, a list of texts or null"


def explain(error: ValidationError, sections: Sections, others: Sequence[str] = ()) -> list[str]:
    """Every problem in a line: `key: rule, got value`; an unknown key with the nearest known one.

    A validator's own message is taken as it is; each of its lines is a problem, and one that
    begins with a dot goes on the key (`.r: ...` under `space` is `space.r: ...`).

    Args:
        sections: the settings by the last word of their place, "" for those at the top.
        others: names that stand for settings at the top without being their names.
    """
    lines: dict[str, str] = {}  # a union finds fault with a value once per kind it tried
    for item in error.errors():
        for line in _explain(item, sections, others):
            lines.setdefault(line.partition(", got ")[0], line)
    return list(lines.values())


def describe_value(value: Any) -> str:
    """The value as Python writes it, not longer than a line should be."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number too long to write"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that a mistyped one most likely stands for."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def _explain(item: Any, sections: Sections, others: Sequence[str]) -> list[str]:
    place = _place(item["loc"], sections)
    kind, value = item["type"], item.get("input")
    if kind == "extra_forbidden":
        return [f"{place}: {_unknown(item['loc'], sections, others)}"]
    if kind == "value_error":
        lines = item["msg"].removeprefix("Value error, ").split("\n")
        named = place or "configuration"
        return [
            f"{place}{line}".removeprefix(".") if line.startswith(".") else f"{named}: {line}"
            for line in lines
        ]
    if kind == "too_short" and value:  # its items are wrong, which is said of each
        return []
    found = "" if kind == "missing" else f", got {describe_value(value)}"
    return [f"{place or 'configuration'}: {_rule(item)}{found}"]


def _place(parts: Sequence[Any], sections: Sections) -> str:
    """`space.r.values.0` of pydantic's path, which also names the kinds of a union it tried."""
    names = [str(part) for part in parts]
    if "values" in names:
        names = names[: names.index("values") + 2]
    tags = {"choice", "integer", "float"} & set(sections)
    return ".".join(name for i, name in enumerate(names) if not (i == 2 and name in tags))


def _rule(item: Any) -> str:
    names = [str(part) for part in item["loc"]]
    if "values" in names[:-1]:
        return _VALUE
    if item["type"] in _RULES:
        return _RULES[item["type"]]
    message = str(item["msg"])
    for words in ("Input should be", "Input should", "Value should be", "String should"):
        if message.startswith(words):
            return f"must be{message[len(words) :]}".replace("must be have", "must have")
    return message


def _unknown(parts: Sequence[Any], sections: Sections, others: Sequence[str]) -> str:
    """What an unknown key may be meant for: a key of its own section before one of another."""
    name = str(parts[-1])
    above = [str(part) for part in parts[:-1] if not isinstance(part, int)]
    section = above[-1] if above else ""
    known = set(sections[section].model_fields) if section in sections else set()
    own = known | (set(others) if not section else set())
    if name in own:
        return "given twice, by this and by its other name; keep one"
    everywhere = {key: where for where, part in sections.items() for key in part.model_fields}
    if name in everywhere:
        return f"unknown key; {_home(name, everywhere)}"
    if close := nearest(name, sorted(own)) or next((k for k in sorted(own) if name in k), None):
        return f"unknown key; did you mean {close!r}?"
    if close := nearest(name, sorted(everywhere), cutoff=0.8):
        return f"unknown key; {_home(close, everywhere)}"
    return f"unknown key; there are {', '.join(sorted(own))}"


def _home(key: str, everywhere: Mapping[str, str]) -> str:
    where = everywhere[key]
    return f"{key!r} belongs {f'under {where!r}' if where else 'at the top'}"
