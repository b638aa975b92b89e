"""The local files that gate.yaml names: prompts, texts and rows, paths relative to it."""

from __future__ import annotations

from pathlib import Path

from excise.intake.local_files import MAX_TEXT_BYTES, read_file
from excise.intake.prompt_sets import Prompt, PromptSetError, find_format, parse_prompts
from excise.specs.gates import ZeroShotGateSpec
from workers.commands.gate.errors import GateConfigError


class GateFiles:
    """Loads what the configuration in `folder` names."""

    def __init__(self, folder: Path, task_data: Path | None = None) -> None:
        """`task_data` is where `task_<name>.jsonl` lie for tasks without rows of their own."""
        self._folder = folder
        self._task_data = task_data

    def load_prompts(self, name: str) -> list[Prompt]:
        """Return the prompts of a file of JSON lines, chats as such, or of one of text lines.

        The file's suffix tells which. Raises `GateConfigError`.
        """
        path = self._folder / name
        try:
            return parse_prompts(_read(path), find_format(path))
        except PromptSetError as error:
            raise GateConfigError(f"{path}: {error.message}") from error

    def load_rows(self, task: ZeroShotGateSpec) -> tuple[list[str], str]:
        """Return a task's JSON lines and their file's name. Raises `GateConfigError`."""
        if task.rows is not None:
            path = self._folder / task.rows
        elif self._task_data is not None:
            path = self._task_data / f"task_{task.name}.jsonl"
        else:
            raise GateConfigError(
                f"zero_shot.{task.name} has no rows; name a file in `rows`, or set "
                f"EXCISE_TASK_DATA to the folder with task_{task.name}.jsonl"
            )
        try:
            return _read(path).decode().split("\n"), path.name
        except UnicodeDecodeError as error:
            raise GateConfigError(f"{path} is not UTF-8; save it as UTF-8") from error


def _read(path: Path) -> bytes:
    try:
        return read_file(path, MAX_TEXT_BYTES)
    except OSError as error:
        raise GateConfigError(
            f"cannot read {path}: {error.strerror}. Files are looked for beside the configuration "
            "that names them, unless their paths are absolute"
        ) from error
