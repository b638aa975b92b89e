"""A word count's only stage, report and verdict: what would be in `workers/kinds/`."""

from __future__ import annotations

from typing import Literal

from excise.names import Verdict
from excise.reports.common import JobReport, ModelIdentity
from excise.reports.gates import GateResult
from tests.integration.workers.word_count.spec import WordCountSpec
from workers.kinds.kind import INVALID_INPUT, Kind
from workers.progress import Advance, Counter, Progress
from workers.running.context import JobContext, TaskContext
from workers.running.loading import JobInputs
from workers.stages.context import ShardedStage, ShardedWork, compute_key
from workers.stages.packaging import list_versions, publish_package

SHARD_PROMPTS = 5


class NoWordsError(ValueError):
    """A prompt has no words."""


class WordCountReport(JobReport):
    """The number of words."""

    kind: Literal["word_count"] = "word_count"
    words: int


def run(context: JobContext, spec: WordCountSpec) -> WordCountReport:
    """Count in shards, and store the report."""
    inputs = JobInputs(context, spec)
    key = {
        "model": inputs.model_sha256,
        "prompts": inputs.prompt_set(spec.prompts).sha256,
        "least": spec.least,
    }

    def work(progress: Progress) -> bytes:
        data = "\n".join(inputs.prompts(spec.prompts)).encode()
        stage = ShardedStage("count", compute_key("count", key), context.store.put_bytes(data))
        shards = build_sharded_work(context, spec, data)
        counts = context.run_shards(stage, shards, Counter(progress, [shards.part]))
        report = build_report(spec, sum(map(int, counts)), inputs.model_sha256)
        publish_package(context, report, spec.model_dump(mode="json"), {}, progress)
        return report.model_dump_json().encode()

    return WordCountReport.model_validate_json(context.run_stage("count", key, work).data)


def build_sharded_work(context: TaskContext, spec: WordCountSpec, data: bytes) -> ShardedWork:
    """Return one shard for every few prompts."""
    lines = data.decode().split("\n")
    shards = [lines[start : start + SHARD_PROMPTS] for start in range(0, len(lines), SHARD_PROMPTS)]

    def compute(position: int, advance: Advance) -> bytes:
        counts = [len(line.replace("_", " ").split()) for line in shards[position]]
        if 0 in counts:
            raise NoWordsError("a prompt has no words; write one")
        advance(len(counts))
        return str(sum(counts)).encode()

    return ShardedWork(tuple(map(len, shards)), compute)


def build_report(spec: WordCountSpec, words: int, model_sha256: str) -> WordCountReport:
    """Return the report: passed if there are enough words."""
    passed = words >= spec.least
    gate = GateResult(
        name="words",
        sentence="The prompts have words enough.",
        limit=spec.least,
        value=words,
        passed=passed,
    )
    return WordCountReport(
        verdict=Verdict.PASSED if passed else Verdict.REJECTED,
        reason=f"There are {words} words; {spec.least} are needed.",
        gates=[gate],
        timings={},
        seed=spec.seed,
        versions=list_versions(),
        model=ModelIdentity(id=spec.model, sha256=model_sha256),
        words=words,
    )


WORD_COUNT = Kind(WordCountSpec, run, build_sharded_work, (*INVALID_INPUT, NoWordsError))
