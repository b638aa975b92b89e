"""YAML of plain values in which no key occurs twice in a mapping, and numbers are as they look."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from excise.intake.duplicates import DuplicateKeyError

_MERGE = "tag:yaml.org,2002:merge"
_VALUE = "tag:yaml.org,2002:value"
_INTEGER = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"

_OTHER_BASE = re.compile(r"[-+]?(?:0[0-9_]+|.*:.*)")
"""Numbers that YAML 1.1 reads in base 8 for a leading zero, or in base 60 for a colon."""


class AmbiguousNumberError(ValueError):
    """A number means something else in YAML 1.1 than it looks; the message names the remedy."""

    def __init__(self, written: str, value: float, line: int) -> None:
        super().__init__(
            f"{written} (line {line}) would be {value}, because YAML reads a leading zero as base "
            "8 and a colon as base 60. Write the number without either, or a text in quotes."
        )


class _StrictLoader(yaml.SafeLoader):  # type: ignore[misc]  # yaml carries no types
    """The safe loader, but a repeated key in a mapping is an error.

    Mappings are checked as written, so a key may still override one merged by `<<`.
    """

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Return the mapping's node. Raises `DuplicateKeyError`."""
        node = super().compose_mapping_node(anchor)
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # not hashable: constructing it will fail
            key = self._read_key(key_node)
            if key in seen:
                raise DuplicateKeyError(key_node.value, key_node.start_mark.line + 1)
            seen.add(key)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> Any:
        """Return the integer. Raises `AmbiguousNumberError`."""
        return _require_plain(node, super().construct_yaml_int(node))

    def construct_yaml_float(self, node: yaml.ScalarNode) -> Any:
        """Return the float. Raises `AmbiguousNumberError`."""
        return _require_plain(node, super().construct_yaml_float(node))

    def _read_key(self, node: yaml.ScalarNode) -> Hashable:
        """Return the key as a dict holds it: `1` and `0x1` are the same, `1` and `"1"` are not."""
        if node.tag in (_MERGE, _VALUE):
            return str(node.value)
        key: Hashable = self.construct_object(node)
        return key


_StrictLoader.add_constructor(_INTEGER, _StrictLoader.construct_yaml_int)
_StrictLoader.add_constructor(_FLOAT, _StrictLoader.construct_yaml_float)


def _require_plain(node: yaml.ScalarNode, value: float) -> float:
    """Return the node's value unless it was written in base 8 or 60."""
    if _OTHER_BASE.fullmatch(node.value):
        raise AmbiguousNumberError(node.value, value, node.start_mark.line + 1)
    return value


def load_yaml(content: str | bytes) -> Any:
    """Return the value of `content`, as `yaml.safe_load` does.

    Raises `DuplicateKeyError`, `AmbiguousNumberError`, and what `yaml.safe_load` raises:
    `yaml.YAMLError`, `ValueError` and `RecursionError`.
    """
    return yaml.load(content, Loader=_StrictLoader)  # noqa: S506 - a kind of SafeLoader
