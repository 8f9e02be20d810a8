"""A settings file read as data alone: bounded YAML in which every key is given once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from coralx.errors import ConfigError

MAX_BYTES = 1_000_000
# Values after aliases are written out: nine aliases of nine aliases of ... fit in a few lines and
# would fill the memory (the "billion laughs").
MAX_VALUES = 100_000
# Of a whole number in whatever base: Python writes none of more than 4,300 decimal ones, so that
# a message about it could not be made.
MAX_DIGITS = 1_000
# Half a character. Those of U+DC80 to U+DCFF stand for the bytes of a path that is no UTF-8.
_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")


class _Loader(yaml.SafeLoader):
    """Plain values only, never objects. Reads 1e-3 as a number, as YAML 1.2 does."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MAX_DIGITS:
            rule = f"a whole number has at most {MAX_DIGITS:,} digits"
            line = node.start_mark.line + 1
            raise ValueError(f"{rule}, the one in line {line} has {len(node.value):,}")
        return super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_settings(path: Path) -> Mapping[str, Any]:
    """The mapping that a YAML file holds; an empty file holds an empty one.

    Raises:
        ConfigError: there is no such file, it is not UTF-8 YAML with a mapping at the top, a key
            is given twice, half a character stands in a text, or it is larger than MAX_BYTES or
            MAX_VALUES.
    """
    try:
        data = _parse(path, _read_text(path))
    except yaml.YAMLError as error:
        raise ConfigError(str(path), [f"cannot be read as YAML: {_place(error)}"]) from None
    except RecursionError:
        raise ConfigError(str(path), ["is nested too deeply; settings need six levels"]) from None
    except (ValueError, LookupError, AttributeError) as error:
        # PyYAML leaks these where a tag (!!int) or the look of a value (2001-99-99) promises what
        # Python cannot hold.
        raise ConfigError(str(path), [f"holds a value that cannot be read: {error}"]) from None
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        kind = {"list": "a list", "str": "text"}.get(type(data).__name__, type(data).__name__)
        rule = f"must hold a mapping of settings (key: value lines), got {kind}"
        raise ConfigError(str(path), [rule])
    return data


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(str(path), ["no such file; `coralx init DIR` writes one"]) from None
    except IsADirectoryError:
        raise ConfigError(str(path), ["is a folder; name the YAML file in it"]) from None
    except (OSError, ValueError) as error:
        raise ConfigError(str(path), [f"cannot be read: {error}"]) from None
    if len(data) > MAX_BYTES:
        rule = f"a settings file has at most {MAX_BYTES:,} bytes, this one has more"
        raise ConfigError(str(path), [f"{rule}; is it the rows file?"])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        found = f"line {line} is not UTF-8 text (byte 0x{data[error.start]:02x})"
        raise ConfigError(str(path), [f"{found}; save the file as UTF-8"]) from None


def _parse(path: Path, text: str) -> Any:
    """The document's value, built only after its size and its keys are found in order."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > MAX_VALUES:
            rule = f"a settings file has at most {MAX_VALUES:,} values, aliases written out"
            raise ConfigError(str(path), [f"{rule}; this one has more"])
        if problems := [*_find_repeats(node, ""), *_find_halves(node)]:
            raise ConfigError(str(path), problems)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Nodes under a node, each alias written out; a node within itself counts as too many."""
    if id(node) not in known:
        known[id(node)] = MAX_VALUES + 1
        known[id(node)] = 1 + sum(_count(part, known) for part in _parts(node))
    return known[id(node)]


def _parts(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _find_repeats(node: yaml.Node, place: str) -> Iterator[str]:
    """Keys given twice, of which YAML would keep the last without a word."""
    if isinstance(node, yaml.SequenceNode):
        for number, part in enumerate(node.value):
            yield from _find_repeats(part, f"{place}{number}.")
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and name in lines:
                yield f"{place}{name}: given twice, in lines {lines[name]} and {line}; keep one"
            lines.setdefault(name, line)
            yield from _find_repeats(value, f"{place}{name}.")


def _find_halves(node: yaml.Node) -> Iterator[str]:
    """Texts with half a character, as of an emoji that was cut: no file or page can hold them."""
    if isinstance(node, yaml.ScalarNode) and _HALF.search(node.value):
        found = node.value.encode(errors="backslashreplace").decode()
        place = f"line {node.start_mark.line + 1}"
        yield f"{place}: a text must have whole characters, got half a one in {found!r:.60}"
    for part in _parts(node):
        yield from _find_halves(part)


def _place(error: yaml.YAMLError) -> str:
    """What is wrong and where, in one line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return " ".join(str(error).split())
    hint = "; indent with spaces" if "'\\t'" in problem else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}{hint}"
