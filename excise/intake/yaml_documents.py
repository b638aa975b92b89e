"""YAML of plain values in which no key may occur twice in a mapping."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

from excise.intake.duplicates import DuplicateKeyError

_MERGE = "tag:yaml.org,2002:merge"
_VALUE = "tag:yaml.org,2002:value"


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

    def _read_key(self, node: yaml.ScalarNode) -> Hashable:
        """Return the key as a dict holds it: `1` and `0x1` are the same, `1` and `"1"` are not."""
        if node.tag in (_MERGE, _VALUE):
            return str(node.value)
        key: Hashable = self.construct_object(node)
        return key


def load_yaml(content: str | bytes) -> Any:
    """Return the value of `content`, as `yaml.safe_load` does.

    Raises `DuplicateKeyError`, and what `yaml.safe_load` raises: `yaml.YAMLError`, `ValueError`
    and `RecursionError`.
    """
    return yaml.load(content, Loader=_StrictLoader)  # noqa: S506 - a kind of SafeLoader
