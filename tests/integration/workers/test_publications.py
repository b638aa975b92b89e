"""Published versions built by workers over a real database: every ending, and repeatability."""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from peft import PeftModel
from sqlalchemy import select, text, update
from torch import nn
from transformers import LlamaForCausalLM

from excise.names import ComputeDtype, Granularity, VersionStatus
from excise.resources.serving import PublishRequest
from excise.resources.tenants import Quotas
from excise.specs import CorrectionSpec
from excise.specs.behaviours import BehaviourSpecBase, CustomSpec, PhraseSpec, RepetitionSpec
from service.artifacts import ArtifactStore, open_artifact_store
from service.database import Database
from service.embedded import ServingOptions
from service.embedded.processes import Guardian
from service.embedded.serving import CHECKPOINT_POOL, EmbeddedServing
from service.errors import LeaseLostError
from service.jobs.execution import attach_artifact, claim_job, finish_job
from service.jobs.operations import submit_job
from service.keys.operations import Identity, authenticate, create_tenant_key
from service.leases.operations import sweep
from service.models import ModelVersion, new_id
from service.prompt_sets.operations import create_prompt_set
from service.serving.canary import CanaryDocument
from service.serving.folders import hash_content, place_files
from service.serving.pools import ServingPool
from service.serving.publications import VERSIONS, claim_publication
from service.serving.publishing import publish_job
from service.serving.versions import retire
from tests.integration.service.conftest import clear_jobs
from tests.integration.workers import children
from tests.integration.workers.test_supervision import is_gone, wait_for_child, wait_until
from tests.tiny import build_tiny_model, save_tiny_checkpoint, select_components
from tests.unit.workers.publishing.cases import continue_slowly
from workers.domain import Selection
from workers.kinds.leased import LeasedPublication
from workers.kinds.publication.publish import run_publication
from workers.models.checkpoints import load_checkpoint
from workers.pruning.components import pruned
from workers.pruning.patch_building import build_patch
from workers.pruning.patch_format import serialise_patch
from workers.running.supervision import Supervisor
from workers.settings import WorkerSettings

DOWN = "model.layers.{}.mlp.down_proj"
NEURONS = select_components({DOWN.format(0): [1, 5], DOWN.format(1): [7]}, Granularity.NEURON)
WEIGHTS = select_components(
    {"model.layers.0.self_attn.o_proj": list(range(0, 1000, 3))}, Granularity.WEIGHT
)
ON_LINES = select_components(
    {
        DOWN.format(0): [row * 48 + column for row in range(32) for column in (1, 5)],
        DOWN.format(1): list(range(48, 96, 2)),
        "model.layers.0.self_attn.q_proj": list(range(3, 1024, 32)),
    },
    Granularity.WEIGHT,
)
"""Single weights on two columns, on one row, and on one column of their matrices."""
MANY = select_components({DOWN.format(0): list(range(20))}, Granularity.NEURON)


@dataclass(frozen=True)
class Publisher:
    """Makes versions and inspects them."""

    database: Database
    settings: WorkerSettings
    identity: Identity
    store: ArtifactStore
    base: Path
    prompt_sets: tuple[str, str]

    def publish(
        self,
        selection: Selection,
        *,
        kind: str = "lora",
        behaviour: BehaviourSpecBase | None = None,
        dtype: ComputeDtype = ComputeDtype.FLOAT32,
    ) -> str:
        """Return the id of a queued version of a job that made this correction."""
        patch = self.store.put_bytes(serialise_patch(build_patch(self.base, selection)))
        undesired, reference = self.prompt_sets
        behaviour = behaviour or RepetitionSpec(name="a", kind="repetition", prompts=undesired)
        spec = CorrectionSpec(
            kind="correction",
            model="tiny",
            behaviours=[behaviour],
            reference=reference,
            dtype=dtype,
        )
        pool = ServingPool(
            name="pool", url="http://localhost:1", base_model="tiny", kind=kind, max_slots=100
        )
        with self.database.transaction() as session:
            job_id = submit_job(session, self.identity, spec, self.settings)[0].id
            claim = claim_job(session, job_id, "worker", 30)
            assert claim is not None
            attach_artifact(session, job_id, claim.token, "patch.safetensors", patch, 1, "x/y")
            finish_job(session, job_id, claim.token, "succeeded", "passed")
            return publish_job(
                session, self.identity, job_id, PublishRequest(), [pool], self.store
            )[0].id

    def build(self, version_id: str) -> ModelVersion:
        """Build the version in this process."""
        with self.database.transaction() as session:
            claim = claim_publication(session, version_id, "worker", 30)
        assert claim is not None
        run_publication(self.database, self.settings, claim)
        return self.read(version_id)

    def read(self, version_id: str) -> ModelVersion:
        with self.database.transaction() as session:
            return session.scalars(select(ModelVersion).where(ModelVersion.id == version_id)).one()

    def read_canary(self, version: ModelVersion) -> CanaryDocument:
        assert version.canary_sha256 is not None
        return CanaryDocument.model_validate_json(self.store.get(version.canary_sha256))


@pytest.fixture
def publisher(database: Database, settings: WorkerSettings) -> Publisher:
    clear_jobs(database)
    with database.transaction() as session:
        session.execute(update(ModelVersion).values(status=VersionStatus.FAILED))
    base = settings.model_roots[0] / "tiny"
    shutil.rmtree(base)
    save_tiny_checkpoint(base, build_lively_model())
    with database.transaction() as session:
        key = create_tenant_key(session, new_id("tenant"), "test", ["submit", "publish"])
        identity = authenticate(session, key)

        def upload(name: str, count: int, step: int) -> str:
            lines = [
                " ".join(f"w{(number * step + place * place) % 101}" for place in range(9))
                for number in range(count)
            ]
            content = "\n".join(lines).encode()
            created = create_prompt_set(
                session, identity.tenant_id, name, "text/plain", content, Quotas()
            )
            return str(created[0].id)

        sets = (upload("undesired", 20, 3), upload("reference", 20, 7))
    return Publisher(
        database, settings, identity, open_artifact_store(settings.artifacts), base, sets
    )


def build_lively_model() -> LlamaForCausalLM:
    """Build a tiny model whose MLPs have such an effect that a few neurons change its answers."""
    model = build_tiny_model()
    with torch.no_grad():
        for layer in model.model.layers:
            nn.init.normal_(
                layer.mlp.down_proj.weight, std=0.5, generator=torch.Generator().manual_seed(1)
            )
    return model


@pytest.mark.parametrize("selection", [NEURONS, ON_LINES], ids=["neurons", "weights"])
def test_weights_on_few_lines_become_an_adapter_that_peft_loads(
    selection: Selection, publisher: Publisher, tmp_path: Path
) -> None:
    version = publisher.build(publisher.publish(selection))
    assert (version.status, version.kind, version.rank) == (VersionStatus.BUILT, "adapter", 2)
    assert set(version.files) == {"adapter_config.json", "adapter_model.safetensors"}
    folder = place_files(publisher.store, "adapter", version.files, tmp_path / "served")
    document = publisher.read_canary(version)
    checkpoint = load_checkpoint(publisher.base)
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        adapted = PeftModel.from_pretrained(checkpoint.model, folder).eval()
    for prompt in document.prompts[:6]:
        tokens, _ = continue_slowly(adapted, prompt.prompt_token_ids, prompt.max_tokens)
        assert tuple(tokens) == prompt.corrected_token_ids


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_canary_holds_base_and_pruned_answers_in_float32(
    publisher: Publisher, dtype: ComputeDtype
) -> None:
    document = publisher.read_canary(publisher.build(publisher.publish(NEURONS, dtype=dtype)))
    model = load_checkpoint(publisher.base).model
    assert len(document.prompts) == 24
    assert document.dtype == "float32"
    assert document.telling_prompts >= 8
    assert document.behaviour
    for prompt in document.prompts[::6]:
        ids, count = prompt.prompt_token_ids, prompt.max_tokens
        assert tuple(continue_slowly(model, ids, count)[0]) == prompt.base_token_ids
        with pruned(model, NEURONS):
            assert tuple(continue_slowly(model, ids, count)[0]) == prompt.corrected_token_ids


def test_a_metric_the_service_cannot_compute_comes_with_its_values(publisher: Publisher) -> None:
    undesired = publisher.prompt_sets[0]
    words = [f"w{number}" for number in range(40)]
    phrase = PhraseSpec(name="avoid", kind="phrase", prompts=undesired, phrases=words)
    document = publisher.read_canary(publisher.build(publisher.publish(NEURONS, behaviour=phrase)))
    assert document.telling_prompts >= 8
    assert document.behaviour
    tokenizer = load_checkpoint(publisher.base).tokenizer
    answered = {prompt.prompt_token_ids: prompt for prompt in document.prompts}
    for check in document.behaviour:
        assert check.metric == "avoid"
        base, after = check.scored
        for response, value in ((base, check.base_value), (after, check.corrected_value)):
            text = tokenizer.decode(response.token_ids).split()
            assert response.value == value == float(bool(set(words).intersection(text)))
        if (prompt := answered.get(check.prompt_token_ids)) is not None:
            assert (base.token_ids, after.token_ids) == (
                prompt.base_token_ids,
                prompt.corrected_token_ids,
            )


def test_a_users_own_scorer_is_not_called_for_a_canary(publisher: Publisher) -> None:
    custom = CustomSpec(
        name="own",
        kind="custom",
        prompts=publisher.prompt_sets[0],
        entry_point="nowhere",
        direction="lower_is_better",
        threshold=0.5,
    )
    document = publisher.read_canary(publisher.build(publisher.publish(NEURONS, behaviour=custom)))
    assert document.behaviour == ()


def test_built_twice_a_version_has_the_same_artifacts(publisher: Publisher) -> None:
    version_id = publisher.publish(NEURONS)
    first = publisher.build(version_id)
    with publisher.database.transaction() as session:
        session.execute(
            update(ModelVersion)
            .where(ModelVersion.id == version_id)
            .values(status=VersionStatus.QUEUED)
        )
    second = publisher.build(version_id)
    assert second.lease_token == first.lease_token + 1
    assert (second.files, second.canary_sha256) == (first.files, first.canary_sha256)


@pytest.mark.parametrize(
    ("selection", "kind"), [(WEIGHTS, "lora"), (MANY, "lora"), (NEURONS, "checkpoint")]
)
def test_a_correction_too_large_for_an_adapter_becomes_a_checkpoint(
    selection: Selection, kind: str, publisher: Publisher, tmp_path: Path
) -> None:
    version = publisher.build(publisher.publish(selection, kind=kind))
    assert (version.status, version.kind, version.rank) == (VersionStatus.BUILT, "checkpoint", None)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(version.files)
    folder = place_files(publisher.store, "checkpoint", version.files, tmp_path / "served")
    served = load_checkpoint(folder).model.state_dict()
    base = load_checkpoint(publisher.base).model
    with pruned(base, selection):
        assert all(torch.equal(served[name], values) for name, values in base.state_dict().items())


def test_a_correction_that_changes_no_answer_is_not_published(publisher: Publisher) -> None:
    model = build_lively_model()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[:, 3] = 0
    shutil.rmtree(publisher.base)
    save_tiny_checkpoint(publisher.base, model)
    silent = select_components({DOWN.format(0): [3]}, Granularity.NEURON)
    version_id = publisher.publish(silent)
    with pytest.raises(Exception, match="answer all 28 prompts tried alike"):
        publisher.build(version_id)


@pytest.fixture
def supervisor(publisher: Publisher) -> Supervisor:
    return Supervisor(publisher.database, publisher.settings, "worker")


def test_a_worker_builds_it_in_a_child(publisher: Publisher, supervisor: Supervisor) -> None:
    version_id = publisher.publish(NEURONS)
    supervisor.run(LeasedPublication(), version_id)
    assert publisher.read(version_id).status == VersionStatus.BUILT
    supervisor.run(LeasedPublication(), version_id)  # the message is redelivered
    assert publisher.read(version_id).attempts == 1


def test_a_version_that_cannot_be_built_fails_with_the_reason(
    publisher: Publisher, supervisor: Supervisor
) -> None:
    version_id = publisher.publish(NEURONS)
    shutil.rmtree(publisher.base)
    save_tiny_checkpoint(publisher.base, build_tiny_model(seed=1))
    supervisor.run(LeasedPublication(), version_id)
    version = publisher.read(version_id)
    assert version.status == VersionStatus.FAILED
    assert version.error_message is not None
    assert "weights of tiny have changed" in version.error_message
    assert str(publisher.base) not in version.error_message


def run_in_thread(
    supervisor: Supervisor,
    version_id: str,
    act: children.Act,
) -> threading.Thread:
    work = children.ActingPublication(act)
    thread = threading.Thread(target=supervisor.run, args=(work, version_id))
    thread.start()
    return thread


def test_a_killed_childs_version_is_requeued_and_finally_given_up(
    publisher: Publisher, supervisor: Supervisor
) -> None:
    version_id = publisher.publish(NEURONS)
    for attempt in (1, 2):
        run_in_thread(supervisor, version_id, children.die).join(60)
        version = publisher.read(version_id)
        assert (version.status, version.attempts) == (VersionStatus.QUEUED, attempt)
    run_in_thread(supervisor, version_id, children.die).join(60)
    version = publisher.read(version_id)
    assert version.status == VersionStatus.FAILED
    assert "3 attempts at building it ended early" in (version.error_message or "")
    assert "SIGKILL" in (version.error_message or "")


def test_a_silent_workers_version_is_built_by_another_and_the_first_writes_nothing(
    publisher: Publisher,
) -> None:
    version_id = publisher.publish(NEURONS)
    with publisher.database.transaction() as session:
        silent = claim_publication(session, version_id, "silent", 30)
        session.execute(text("UPDATE model_versions SET lease_expires_at = now() - interval '1 s'"))
    assert silent is not None
    with publisher.database.transaction() as session:
        assert sweep(session, VERSIONS, 30, 3) == [version_id]
    built = publisher.build(version_id)
    with pytest.raises(LeaseLostError):
        run_publication(publisher.database, publisher.settings, silent)
    assert publisher.read(version_id).files == built.files


def test_retiring_a_version_ends_its_builder(publisher: Publisher, supervisor: Supervisor) -> None:
    version_id = publisher.publish(NEURONS)
    job_id = publisher.read(version_id).job_id
    thread = run_in_thread(supervisor, version_id, children.hang)
    child = wait_for_child(publisher.settings, job_id)
    with publisher.database.transaction() as session:
        tenant_id, key_id = publisher.identity.tenant_id, publisher.identity.key_id
        retire(session, tenant_id, version_id, key_id=key_id)
    thread.join(60)
    wait_until(lambda: is_gone(child))
    assert publisher.read(version_id).status == VersionStatus.RETIRED


def test_the_embedded_stack_runs_a_server_for_a_checkpoint_and_ends_it_with_the_version(
    publisher: Publisher, tmp_path: Path
) -> None:
    version_id = publisher.publish(WEIGHTS, kind="checkpoint")
    version = publisher.build(version_id)
    with publisher.database.transaction() as session:
        chosen = ModelVersion.id == version_id
        session.execute(update(ModelVersion).where(chosen).values(pool=CHECKPOINT_POOL))
    program, seen = tmp_path / "vllm", tmp_path / "seen"
    program.write_text(
        f'#!/bin/sh\necho $$ "$@" > {seen}.new && mv {seen}.new {seen}\nexec sleep 600\n'
    )
    program.chmod(0o755)
    (tmp_path / "logs").mkdir()
    with (tmp_path / "lock").open("w") as lock:
        guardian = Guardian(lock)
        serving = EmbeddedServing(
            ServingOptions("tiny"),
            home=tmp_path,
            models=publisher.base.parent,
            environment={"EXCISE_VLLM": str(program), "PATH": os.environ["PATH"]},
            guardian=guardian,
            report=lambda _: None,
        )
        try:
            url = publisher.settings.database_url.get_secret_value()
            serving.start(url, publisher.settings.artifacts)
            wait_until(seen.exists)
            pid, *arguments = seen.read_text().split()
            process = psutil.Process(int(pid))
            folder = tmp_path / "served" / hash_content(version.files)
            assert arguments[:4] == ["serve", str(folder), "--served-model-name", version_id]
            assert (folder / "model.safetensors").is_file()
            with publisher.database.transaction() as session:
                tenant_id, key_id = publisher.identity.tenant_id, publisher.identity.key_id
                retire(session, tenant_id, version_id, key_id=key_id)
            wait_until(lambda: is_gone(process))
        finally:
            serving.stop()
            guardian.close()
