"""Applying a patch to a base checkpoint's folder, and reverting it bit for bit.

Applying overwrites the original values with scaled ones (usually zeros); reverting writes the
originals back. Nothing else in the files changes. Files that are not part of the model, such as a
second copy of the weights for another program, are not copied, because they would keep the old
values. Checkpoints are identified by the hash of their weights. Everything is written through
memory maps, one tensor at a time.
"""

from __future__ import annotations

from pathlib import Path

from excise.intake.checkpoint_folder import (
    CheckpointFiles,
    CheckpointFolderError,
    read_checkpoint_folder,
)
from excise.intake.local_files import require_new_folder
from excise.intake.new_folders import building_folder
from excise.names import Verdict
from workers.pruning.patch_building import (
    build_patch,
    compute_corrected_sha256,
    require_originals,
    require_stored,
    write_change,
)
from workers.pruning.patch_format import Patch, PatchVerdict, parse_patch, serialise_patch
from workers.pruning.safetensors_files import compute_checkpoint_sha256, list_tensors
from workers.pruning.stored_matrix import PatchError, view_bits

__all__ = [
    "Patch",
    "PatchError",
    "PatchVerdict",
    "RejectedPatchError",
    "WrongCheckpointError",
    "apply_patch",
    "build_patch",
    "describe_verdict",
    "has_passed",
    "parse_patch",
    "require_base",
    "require_passed",
    "require_promised",
    "revert_patch",
    "serialise_patch",
]


class RejectedPatchError(PatchError):
    """The job that made the patch did not pass; apply it knowingly, or not at all."""


class WrongCheckpointError(PatchError):
    """The folder's weights are not those that the patch was made for."""


def require_passed(patch: Patch) -> None:
    """Raise `RejectedPatchError`, naming the unmet gates, if the patch's job did not pass.

    A patch without a verdict is accepted.
    """
    if not has_passed(patch):
        raise RejectedPatchError(
            f"{describe_verdict(patch)}. Add --rejected, or rejected=True in Python, to apply it "
            "anyway."
        )


def require_base(patch: Patch, folder: Path) -> None:
    """Raise `WrongCheckpointError` unless the folder's weights are the base of the patch."""
    found = compute_checkpoint_sha256(folder)
    if found != patch.base_sha256:
        raise WrongCheckpointError(
            f"the weights in {folder} have sha256 {found}, the patch needs {patch.base_sha256}; "
            "give its base"
        )


def require_promised(patch: Patch, folder: Path) -> None:
    """Raise unless the patch changes the weights in the folder as it promises.

    For changes that are written in another form than by `apply_patch`. Raises
    `WrongCheckpointError` for another base, and `PatchError` for tensors that are not their
    modules', original values that are not the base's, and a result that is not
    `corrected_sha256`.
    """
    require_base(patch, folder)
    require_originals(patch, list_tensors(folder))
    found = compute_corrected_sha256(patch, folder)
    if found != patch.corrected_sha256:
        raise PatchError(
            f"the result has sha256 {found}, the patch promised {patch.corrected_sha256}; fetch "
            "the patch from its job again"
        )


def has_passed(patch: Patch) -> bool:
    """Return whether the patch's job passed; true if the patch has no verdict."""
    return patch.verdict is None or patch.verdict.verdict is Verdict.PASSED


def describe_verdict(patch: Patch) -> str:
    """Return a sentence fragment saying how the job that made the patch ended."""
    found = patch.verdict
    if found is None:
        return "the patch does not say how its job ended"
    unmet = f"; gates not met: {', '.join(found.unmet)}" if found.unmet else ""
    return f"the job that made this patch ended as {found.verdict.value}{unmet}"


def apply_patch(patch: Patch, base: Path, output: Path) -> tuple[str, ...]:
    """Write a corrected copy of the checkpoint in folder `base` to folder `output`.

    `output` appears complete or not at all. Returns the names of files in `base` that are not
    part of the model and were left out. Raises `WrongCheckpointError` if the weights are not the
    base of the patch, `PatchError` if `output` is `base` or lies inside it or if `base` is not a
    sound checkpoint folder (see `read_checkpoint_folder`), `FileExistsError` if `output` exists.
    """
    return _transform(patch, base, output, patch.base_sha256, patch.corrected_sha256, revert=False)


def revert_patch(patch: Patch, corrected: Path, output: Path) -> tuple[str, ...]:
    """Write the base of a corrected checkpoint to folder `output`, bit for bit as it was.

    Returns and raises what `apply_patch` does.
    """
    expected, promised = patch.corrected_sha256, patch.base_sha256
    return _transform(patch, corrected, output, expected, promised, revert=True)


def _transform(
    patch: Patch, source: Path, output: Path, expected: str, promised: str, *, revert: bool
) -> tuple[str, ...]:
    if output.resolve().is_relative_to(source.resolve()):
        raise PatchError(f"{output} lies inside {source}; name a folder outside it")
    require_new_folder(output)
    files = _read_folder(source)
    found = compute_checkpoint_sha256(source)
    if found != expected:
        raise WrongCheckpointError(
            f"the weights in {source} have sha256 {found}, the patch needs {expected}; "
            + ("revert takes the corrected checkpoint" if revert else "apply takes the base")
        )
    with building_folder(output) as result:
        files.copy(result)
        _write(patch, result, revert=revert)
        written = compute_checkpoint_sha256(result)
        if written != promised:
            raise PatchError(f"the result has sha256 {written}, the patch promised {promised}")
    return files.left_out


def _read_folder(source: Path) -> CheckpointFiles:
    try:
        return read_checkpoint_folder(source)
    except CheckpointFolderError as error:
        raise PatchError(f"{source}: {error}") from error


def _write(patch: Patch, folder: Path, *, revert: bool) -> None:
    tensors = list_tensors(folder)
    for name, change in patch.weights.items():
        tensor = require_stored(tensors, name)
        tensor.file.chmod(0o644)
        view = view_bits(tensor, "r+")
        scale = None if revert else patch.scale
        write_change(tensor, view, change, patch.layout, scale)
        view.flush()
    for name, bias in patch.biases.items():
        tensor = require_stored(tensors, name)
        tensor.file.chmod(0o644)
        view = view_bits(tensor, "r+")
        if (view.dtype, view.shape) != (bias.original.dtype, bias.original.shape):
            raise PatchError(f"the values of {name!r} have another height or width than its own")
        view[:] = bias.original if revert else bias.corrected
        view.flush()
