"""The card of an exported correction: a README.md that describes it to people and model hubs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from excise.names import ExportForm
from excise.reports.common import JobReport
from excise.reports.text import code_span, escape_markdown, format_compact
from workers.pruning.patch import Patch, describe_verdict


@dataclass(frozen=True)
class CardFacts:
    """Facts on the card that are not in the patch."""

    base_model: str
    """Name of the base model."""
    form: ExportForm
    rank: int | None
    """Rank of the adapter; None if the whole model is exported."""
    patch_sha256: str
    """SHA-256 of the patch file."""
    report: JobReport | None


_LIBRARIES = {
    ExportForm.PEFT: "peft",
    ExportForm.MERGED: "transformers",
    ExportForm.GGUF: "llama.cpp",
}


def write_card(patch: Patch, facts: CardFacts) -> str:
    """Return the card in Markdown; equal facts give equal text."""
    sections = [
        _write_header(facts),
        f"# {escape_markdown(facts.base_model)}, corrected\n",
        _describe_change(patch, facts),
        _describe_use(facts),
        *_describe_gates(patch, facts.report),
        _describe_identity(patch, facts),
    ]
    return "\n".join(sections)


def _write_header(facts: CardFacts) -> str:
    """Return the YAML header that model hubs read."""
    name = json.dumps(facts.base_model)  # a JSON string is also a quoted string of YAML
    relation = "adapter" if facts.rank is not None else "finetune"
    return (
        f"---\nbase_model: {name}\nbase_model_relation: {relation}\n"
        f"library_name: {_LIBRARIES[facts.form]}\n"
        f"tags:\n- excise\n{'- lora' if facts.rank is not None else '- pruned'}\n---\n"
    )


def _describe_change(patch: Patch, facts: CardFacts) -> str:
    count, modules = len(patch.selection), len(patch.selection.indices)
    done = {
        "zero": "set to zero",
        "scale": f"multiplied by {patch.scale}",
        "mean": f"multiplied by {patch.scale}, their mean taken over by biases",
    }[patch.operation]
    held = "" if facts.rank is None else f" This LoRA adapter of rank {facts.rank} does exactly so."
    return (
        f"A correction by Excise: {count:,} {patch.granularity.value}s in {modules} modules of the "
        f"base are {done}; nothing was trained, and nothing else is changed.{held} The licence of "
        "the base holds.\n"
    )


def _describe_use(facts: CardFacts) -> str:
    base = code_span(facts.base_model)
    if facts.form is ExportForm.PEFT:
        how = (
            f"`PeftModel.from_pretrained(base, FOLDER)` with {base} as base, or vLLM's "
            "`--enable-lora` with this folder. The alpha is the rank: apply it at scale 1."
        )
    elif facts.form is ExportForm.MERGED:
        how = "As any checkpoint: `AutoModelForCausalLM.from_pretrained(FOLDER)`."
    elif facts.rank is not None:
        how = (
            f"`llama-cli -m BASE.gguf --lora adapter.gguf`, with a GGUF of {base}, at scale 1. On "
            "a quantised base it takes away what the unquantised base holds."
        )
    else:
        how = "`llama-cli -m model.gguf`."
    return f"## Use\n\n{how}\n"


def _describe_gates(patch: Patch, report: JobReport | None) -> Iterator[str]:
    yield "## What was proved\n"
    if report is None:
        yield f"{escape_markdown(describe_verdict(patch)).capitalize()}.\n"
        return
    yield f"**{report.verdict.value}**: {escape_markdown(report.reason)}.\n"
    yield "| gate | value | limit | met |\n|---|--:|--:|---|"
    for gate in report.gates:
        value = "not measured" if gate.value is None else format_compact(gate.value)
        unit = f" {gate.unit}" if gate.unit else ""
        yield (
            f"| {code_span(gate.name)} | {value} | {format_compact(gate.limit)}{unit} | "
            f"{'yes' if gate.is_met else '**no**'} |"
        )
    yield ""


def _describe_identity(patch: Patch, facts: CardFacts) -> str:
    return (
        "## Identity\n\n"
        "| | SHA-256 |\n|---|---|\n"
        f"| weights of the base (all tensors) | `{patch.base_sha256}` |\n"
        f"| weights corrected (all tensors) | `{patch.corrected_sha256}` |\n"
        f"| patch.safetensors | `{facts.patch_sha256}` |\n\n"
        "The files of this folder are in `SHA256SUMS` (`sha256sum -c SHA256SUMS`).\n"
    )
