"""gate.yaml: which gates `excise gate` asks for, and the files they are measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from excise.intake.duplicates import DuplicateKeyError
from excise.intake.local_files import read_file
from excise.intake.yaml_documents import AmbiguousNumberError, load_yaml
from excise.names import ComputeDtype, GatedSet
from excise.patterns.searching import BusyError, Expression, PatternError, check_expression
from excise.specs.behaviours import PhraseDefinition
from excise.specs.common import OneOf
from excise.specs.complaints import describe_complaints
from excise.specs.gates import GatesSpec, ResponsesSpec
from workers.commands.gate.behaviours import BehaviourGateSpec
from workers.commands.gate.errors import GateConfigError

MAX_CONFIG_BYTES = 1024 * 1024


def _check_behaviours(behaviours: list[BehaviourGateSpec]) -> list[BehaviourGateSpec]:
    """Return `behaviours` if no name is taken; raises `ValueError` otherwise."""
    taken: set[str] = {GatedSet.GENERAL, GatedSet.HARMFUL, GatedSet.LOOK_ALIKE, GatedSet.CONTRAST}
    for behaviour in behaviours:
        if behaviour.name in taken:
            raise ValueError(f"the name {behaviour.name!r} is taken. Rename the behaviour.")
        taken.add(behaviour.name)
    return behaviours


class GateConfig(GatesSpec):
    """The gates of `excise gate`; every `prompts` and `rows` is a file beside the configuration."""

    dtype: OneOf[ComputeDtype] = ComputeDtype.FLOAT32
    """What both checkpoints are held and computed in."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Draws prompts and questions."""
    behaviours: Annotated[
        list[BehaviourGateSpec], Field(max_length=16), AfterValidator(_check_behaviours)
    ] = []  # noqa: RUF012 - pydantic copies it
    responses: ResponsesSpec | None = None
    """Limits on the answers to the behaviours' prompts, in addition to what is said in them."""

    @model_validator(mode="after")
    def _check_asked(self) -> Self:
        """Refuse what asks for nothing, and texts without a file."""
        for name in ("perplexity", "kl"):
            part = getattr(self, name)
            if part is not None and part.prompts is None:
                raise ValueError(f"{name}.prompts is missing. Name a text file.")
        if self.responses is not None:
            if not self.behaviours:
                raise ValueError(
                    "responses limits the answers to the prompts of behaviours, of which there are "
                    "none. Add one, or give the limits under general."
                )
            self.responses.require_known({behaviour.name for behaviour in self.behaviours})
        fields = (*GatesSpec.model_fields, "behaviours")
        if not any(self.asks_for(name) for name in fields):
            raise ValueError(
                f"asks for no gate. Give at least one of: {', '.join(fields)}; one whose limits "
                "are all null asks for none."
            )
        return self


def load_config(path: Path) -> GateConfig:
    """Return the configuration in the YAML file at `path`. Raises `GateConfigError`."""
    try:
        content = read_file(path, MAX_CONFIG_BYTES)
    except OSError as error:
        raise GateConfigError(f"cannot read {path}: {error.strerror}") from error
    try:
        document: Any = load_yaml(content)
    except (DuplicateKeyError, AmbiguousNumberError) as error:
        raise GateConfigError(f"{path}: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise GateConfigError(f"{path} is not YAML: {reason}") from error
    if not isinstance(document, dict):
        raise GateConfigError(f"{path} does not hold a mapping; write `kl:`, `general:` and so on")
    try:
        config = GateConfig.model_validate(document)
    except ValidationError as error:
        raise GateConfigError(f"{path}: {describe_complaints(error, GateConfig)}") from error
    _check_patterns(path, config)
    return config


def _check_patterns(path: Path, config: GateConfig) -> None:
    """Refuse the first pattern that cannot be searched by."""
    for number, behaviour in enumerate(config.behaviours):
        if isinstance(behaviour, PhraseDefinition) and behaviour.pattern is not None:
            try:
                check_expression(Expression(behaviour.pattern, behaviour.ignore_case))
            except (PatternError, BusyError) as error:
                place = f"behaviours[{number}].pattern"
                raise GateConfigError(f"{path}: {place}: {error}") from error
