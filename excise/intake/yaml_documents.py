"""YAML of plain values in which every key counts: none may be given twice in one mapping."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

from excise.intake.duplicates import DuplicateKeyError

_MERGE = "tag:yaml.org,2002:merge"
_VALUE = "tag:yaml.org,2002:value"


class _StrictLoader(yaml.SafeLoader):  # type: ignore[misc]  # yaml carries no types
    """The safe loader, but a second key of a mapping does not win over the first.

    Mappings are looked at as they are written, so a key may still override one that `<<` brings.
    """

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Return the mapping's node. Raises `DuplicateKeyError`."""
        node = super().compose_mapping_node(anchor)
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # no key of a dict: constructing it fails
            key = self._read_key(key_node)
            if key in seen:
                raise DuplicateKeyError(key_node.value, key_node.start_mark.line + 1)
            seen.add(key)
        return node

    def _read_key(self, node: yaml.ScalarNode) -> Hashable:
        """The key as a dict would hold it: `1` and `0x1` are the same, `1` and `"1"` are not."""
        if node.tag in (_MERGE, _VALUE):
            return str(node.value)
        key: Hashable = self.construct_object(node)
        return key


def load_yaml(content: str | bytes) -> Any:
    """Return what `content` stands for, as `yaml.safe_load` does.

    Raises `DuplicateKeyError`, and what `yaml.safe_load` raises: `yaml.YAMLError`, `ValueError`
    and `RecursionError`.
    """
    return yaml.load(content, Loader=_StrictLoader)  # noqa: S506 - a kind of SafeLoader
