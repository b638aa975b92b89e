"""Bad input to the running service is rejected with a reason, and affects nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.torch import load_file, save_file

from tests.acceptance.harness import CONTEXT, MODEL, Harness, build_prompts, wait_for

LOST_WEIGHT = "model.layers.3.mlp.up_proj.weight"
TEXT = {"Content-Type": "text/plain"}


def check_problem(
    response: httpx.Response, status: int, code: str, param: str | None, *mentions: str
) -> None:
    """Check that the answer is problem+json whose message names the problem and the remedy."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    body = response.json()
    assert (body["status"], body["detail"]) == (status, body["error"]["message"])
    assert (body["error"]["code"], body["error"]["param"]) == (code, param)
    for mention in mentions:
        assert mention.lower() in body["detail"].lower()
    assert "Traceback" not in response.text


def upload(stack: Harness, content: bytes, **headers: str) -> httpx.Response:
    return stack.request(
        "POST", "/v1/prompt-sets?name=bad", content=content, headers=TEXT | headers
    )


def submit(stack: Harness, **changes: Any) -> httpx.Response:
    return stack.request("POST", "/v1/jobs", json=stack.build_spec(**changes))


UPLOADS: dict[str, tuple[bytes, int, str, str, tuple[str, ...]]] = {
    "empty": (b"", 422, "invalid_request", "body", ("no prompts", "at least one")),
    "blank lines": (b"\n \n\t\n", 422, "invalid_request", "body", ("no prompts",)),
    "an image": (
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        422,
        "invalid_request",
        "body",
        ("line", "utf-8"),
    ),
    "a shell's binary": (
        b"\x7fELF\x02\x01\x01\0\0\0",
        422,
        "invalid_request",
        "body",
        ("NUL", "binary"),
    ),
    "a 10 MB prompt": (b"a" * 10_000_000, 413, "too_large", "body", ("8388608",)),
    "a 1 MB prompt": (b"a" * 1_000_000, 422, "invalid_request", "body", ("32768", "shorten")),
}


@pytest.mark.parametrize("name", UPLOADS)
def test_a_bad_prompt_file_is_rejected(stack: Harness, name: str) -> None:
    content, status, code, param, mentions = UPLOADS[name]
    check_problem(upload(stack, content), status, code, param, *mentions)
    assert stack.get("/healthz").status_code == 200


def test_a_set_of_one_prompt_can_be_kept_but_not_corrected(stack: Harness) -> None:
    prompts = upload(stack, b"w1 w2 w3")
    assert prompts.json()["prompts"] == 1
    spec = stack.build_spec()
    spec["behaviours"][0]["prompts"] = prompts.json()["id"]
    response = stack.request("POST", "/v1/jobs", json=spec)
    mentions = ("has 1 prompt", "least is 4", "larger set")
    check_problem(response, 422, "invalid_request", "behaviours[0].prompts", *mentions)


def write_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def add_pickle(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def add_custom_code(folder: Path) -> None:
    write_config(folder, auto_map={"AutoModelForCausalLM": "modeling.Evil"})


def keep_only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.ckpt")


def use_another_architecture(folder: Path) -> None:
    write_config(folder, architectures=["BertModel"])


@pytest.mark.parametrize(
    ("spoil", "mentions"),
    [
        (add_pickle, ("pytorch_model.bin", "only safetensors", "convert")),
        (keep_only_a_pickle, ("model.ckpt", "safetensors")),
        (add_custom_code, ("config.json", "auto_map", "never")),
        (use_another_architecture, ("BertModel", "supported are", "LlamaForCausalLM")),
    ],
)
def test_an_unsafe_checkpoint_is_rejected(
    stack: Harness, spoil: Callable[[Path], None], mentions: tuple[str, ...]
) -> None:
    folder = copy_model(stack, f"bad-{spoil.__name__}")
    spoil(folder)
    response = submit(stack, model=folder.name)
    check_problem(response, 422, "invalid_request", "model", *mentions)


@pytest.mark.parametrize(
    ("model", "mentions"),
    [
        ("smollm3", ("no checkpoint", "smollm3", MODEL)),
        ("/etc", ("not a folder inside", "EXCISE_MODEL_ROOTS")),
        ("/tmp/../etc", ("..",)),
        ("../models/tiny", ("..", "folder under one of the model roots")),
        ("https://huggingface.co/meta-llama/x", ("URL", "never")),
        ("file:///etc/passwd", ("URL", "never")),
        ("meta-llama/Llama-3@main", ("pinned", "40")),
    ],
)
def test_a_model_out_of_bounds_is_rejected(
    stack: Harness, model: str, mentions: tuple[str, ...]
) -> None:
    check_problem(submit(stack, model=model), 422, "invalid_request", "model", *mentions)


def test_a_path_outside_the_roots_is_rejected_whether_it_exists_or_not(stack: Harness) -> None:
    answers = {submit(stack, model=path).text for path in ("/etc", "/nowhere", "/root")}
    assert len(answers) == 1


@pytest.mark.parametrize(
    ("changes", "param", "mentions"),
    [
        ({"learning_rate": 1}, "learning_rate", ("learning_rate",)),
        ({"budget": {"kl": 1}}, "budget.kl", ("budget.kl",)),
        ({"seed": -1}, "seed", ("seed", "0")),
        ({"search": {"amounts": []}}, "search.amounts", ("search.amounts", "1")),
    ],
)
def test_a_spec_that_breaks_a_rule_is_rejected(
    stack: Harness, changes: dict[str, Any], param: str, mentions: tuple[str, ...]
) -> None:
    check_problem(submit(stack, **changes), 422, "invalid_request", param, *mentions)


def test_a_missing_key_and_a_wrong_key_are_rejected(stack: Harness) -> None:
    for value, mention in (
        ("", "no API key"),
        ("Bearer exc_" + "x" * 43, "unknown or revoked"),
        ("Bearer nonsense", "unknown or revoked"),
    ):
        headers = {"Authorization": value}
        for method, path in (
            ("GET", "/v1/jobs"),
            ("POST", "/v1/jobs"),
            ("POST", "/v1/prompt-sets"),
        ):
            response = stack.request(method, path, headers=headers)
            check_problem(response, 401, "unauthorized", None, mention)


def test_another_tenants_rows_do_not_exist(stack: Harness) -> None:
    job_id = stack.submit()
    stack.client.cancel_job(job_id)
    spec = stack.build_spec()
    headers = {"Authorization": f"Bearer {stack.create_key('stranger')}"}
    unknown = "job_" + "0" * 24
    for method, path in (
        ("GET", "/v1/jobs/{}"),
        ("POST", "/v1/jobs/{}/cancel"),
        ("GET", "/v1/jobs/{}/events"),
        ("GET", "/v1/jobs/{}/report"),
        ("GET", "/v1/jobs/{}/patch"),
        ("GET", "/v1/jobs/{}/artifacts/report.json"),
    ):
        theirs = stack.request(method, path.format(job_id), headers=headers)
        check_problem(theirs, 404, "not_found", None, "no such job")
        assert theirs.text == stack.request(method, path.format(unknown), headers=headers).text
    prompts = spec["reference"]
    response = stack.request("GET", f"/v1/prompt-sets/{prompts}", headers=headers)
    check_problem(response, 404, "not_found", None, "no such prompt set")
    response = stack.request("POST", "/v1/jobs", json=spec, headers=headers)
    param = "behaviours[0].prompts"
    check_problem(response, 422, "invalid_request", param, "names no prompt set", "upload")
    assert stack.request("GET", "/v1/jobs", headers=headers).json()["data"] == []


def copy_model(stack: Harness, name: str) -> Path:
    models = stack.stack.home / "models"
    return Path(shutil.copytree(models / MODEL, models / name))


def cut_weights(folder: Path) -> None:
    """Remove half of the weights' bytes, as after an interrupted copy."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def forget_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def lose_a_weight(folder: Path) -> None:
    """Remove one tensor, which transformers would initialise at random."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights[LOST_WEIGHT]
    save_file(weights, path, metadata={"format": "pt"})


def disagree_about_the_shape(folder: Path) -> None:
    """Write a config for a model of another width than the weights have."""
    write_config(folder, intermediate_size=512)


@pytest.mark.parametrize(
    ("spoil", "mentions"),
    [
        (cut_weights, ("model.safetensors", "outside the file")),
        (forget_tokenizer, ("no tokenizer", "save_pretrained")),
        (lose_a_weight, ("lacks 1 of its weights", LOST_WEIGHT)),
        (disagree_about_the_shape, ("shapes", "config.json")),
    ],
)
def test_a_broken_checkpoint_fails_only_its_own_job(
    stack: Harness, spoil: Callable[[Path], None], mentions: tuple[str, ...]
) -> None:
    worker = stack.worker_pid()
    folder = copy_model(stack, f"broken-{spoil.__name__}")
    spoil(folder)
    check_invalid_input(stack, submit(stack, model=folder.name), worker, *mentions)


def test_a_prompt_beyond_the_models_context_fails_its_job(stack: Harness) -> None:
    worker = stack.worker_pid()
    long = build_prompts(5, 6, 3) + b"\n" + build_prompts(1, CONTEXT, 4)
    spec = stack.build_spec()
    spec["behaviours"][0]["prompts"] = upload(stack, long).json()["id"]
    response = stack.request("POST", "/v1/jobs", json=spec)
    mentions = ("prompt 6", f"{CONTEXT} tokens", f"context of {CONTEXT}", "shorten the prompt")
    check_invalid_input(stack, response, worker, *mentions)


def test_a_corpus_shorter_than_one_window_fails_its_job(stack: Harness) -> None:
    worker = stack.worker_pid()
    prompts = upload(stack, build_prompts(2, 10, 5)).json()["id"]
    response = submit(stack, perplexity={"prompts": prompts, "context": 64})
    check_invalid_input(stack, response, worker, "20 tokens", "64", "longer text")


def test_a_reference_of_single_words_fails_its_job(stack: Harness) -> None:
    worker = stack.worker_pid()
    reference = upload(stack, build_prompts(8, 1, 6)).json()["id"]
    response = submit(stack, reference=reference)
    check_invalid_input(stack, response, worker, "reference", "8 texts", "longer")


def check_invalid_input(
    stack: Harness, response: httpx.Response, worker: int, *mentions: str
) -> None:
    """Check that the job fails at once with a message for its owner, and the worker lives on."""
    assert response.status_code == 201, response.text
    job = stack.wait(response.json()["id"])
    assert (job.status, job.verdict, job.attempts) == ("failed", None, 1)
    assert job.error is not None
    assert job.error.code == "invalid_input", stack.describe()
    for mention in mentions:
        assert mention.lower() in job.error.message.lower(), job.error.message
    assert len(job.error.message) < 1000
    assert str(stack.stack.home) not in job.error.message
    assert job.artifacts == []
    wait_for(lambda: not stack.job_processes(), "the end of the job's process")
    assert stack.worker_pid() == worker
