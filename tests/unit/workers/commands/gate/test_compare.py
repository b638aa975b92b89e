"""Two tiny checkpoints compared by behaviours: phrases, scorers of the user's own, chats."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM

from excise.intake.model_sources import ModelSourceError
from excise.names import Direction
from excise.reports.gate_run import GateReport
from excise.reports.gates import GateResult
from tests.tiny import build_tiny_model, draw_samples, save_tiny_checkpoint
from tests.unit.excise.outgoing.servers import Reply, Request, serve
from workers.commands.gate.compare import build_files, compare_checkpoints
from workers.commands.gate.config import load_config
from workers.commands.gate.errors import GateConfigError
from workers.commands.gate.templates import (
    CHANGED,
    GAINED,
    LOST,
    OTHER_TEXT,
    OTHER_TOKENS,
    SHORTER_CONTEXT,
)
from workers.models.encoding import ChatTemplateError
from workers.reports.gate_examples import MOST_EXAMPLES
from workers.scorers import custom
from workers.scorers.errors import ScorerUnavailableError

PARROTED = re.compile(r"w[78](?!\d)")
PHRASE = (
    f"{{kind: phrase, name: parroting, prompts: prompts.txt, pattern: '{PARROTED.pattern}', "
    "decoding: {max_new_tokens: 8}}"
)
TEMPLATE = (
    "{% for message in messages %}w90 {{ message['content'] }} w91 {% endfor %}"
    "{% if add_generation_prompt %}w92{% endif %}"
)
CHAT = [
    {"role": "system", "content": "w5"},
    {"role": "user", "content": "w1 w2"},
    {"role": "assistant", "content": "w3"},
]
Compare = Callable[..., GateReport]


def build_parrot() -> LlamaForCausalLM:
    """A model of whose logits two are each other's opposite and the rest 0."""
    parrot = build_tiny_model()
    parrot.lm_head.weight.data.zero_()
    parrot.lm_head.weight.data[7], parrot.lm_head.weight.data[8] = 1, -1
    return parrot


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound model, and a parrot, which knows two words only.

    `chatty` has a chat template, and `sullen` one that refuses every chat.
    """
    folder = tmp_path_factory.mktemp("checkpoints")
    save_tiny_checkpoint(folder / "sound")
    save_tiny_checkpoint(folder / "parrot", build_parrot())
    save_tiny_checkpoint(folder / "chatty")
    (folder / "chatty" / "chat_template.jinja").write_text(TEMPLATE)
    save_tiny_checkpoint(folder / "sullen")
    (folder / "sullen" / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    return folder


@pytest.fixture
def compare(checkpoints: Path, tmp_path: Path) -> Compare:
    """What compares two of the checkpoints by one behaviour, or by a whole gate.yaml."""
    prompts = draw_samples([(6, 0)] * 12)
    lines = [" ".join(f"w{id_}" for id_ in prompt.token_ids) for prompt in prompts]
    (tmp_path / "prompts.txt").write_text("\n".join(lines))
    chats = [{"messages": [*CHAT, {"role": "user", "content": line}]} for line in lines[:4]]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))

    def run(model: str, against: str, behaviour: str = "", config: str = "") -> GateReport:
        path = tmp_path / "gate.yaml"
        path.write_text(f"abilities: null\n{config or f'behaviours: [{behaviour}]'}")
        return compare_checkpoints(
            str(checkpoints / model),
            str(checkpoints / against),
            load_config(path),
            build_files(path),
            "cpu",
            lambda line: None,
        )

    return run


def only(report: GateReport) -> GateResult:
    (gate,) = report.gates
    return gate


def test_a_model_that_says_a_phrase_in_every_answer_fails(compare: Compare) -> None:
    report = compare("parrot", "sound", PHRASE)
    gate = only(report)
    assert report.outcome == "gates_not_met"
    assert set(report.behaviours_sha256) == {"parroting"}
    assert (gate.name, gate.after, gate.count) == ("behaviour_share_rise:parroting", 1.0, 12)
    assert gate.before is not None
    assert gate.before < 0.5
    assert "show parroting" in gate.sentence
    assert (gate.note or "").startswith("12 of 12 responses show it")


def test_answers_that_were_cut_off_are_counted(compare: Compare) -> None:
    sampled = PHRASE.replace(": 8}", ": 9, samples: 2, temperature: 1.0}")
    config = f"{GENERAL}\nbehaviours: [{sampled}]"
    general, own = compare("chatty", "chatty", config=config).token_limits
    assert (general.subject, general.max_new_tokens, general.responses) == ("general", 8, 4)
    assert (own.subject, own.max_new_tokens, own.responses) == ("parroting", 9, 24)
    (cut,) = compare("parrot", "sound", PHRASE).token_limits
    assert (cut.after, cut.responses) == (12, 12)  # a parrot never ends
    assert cut.length_after == 8
    assert cut.uniqueness_before is not None
    assert cut.uniqueness_after is not None
    assert 0 < cut.uniqueness_after < 0.25 < cut.uniqueness_before


def test_answers_to_a_behaviours_prompts_have_limits_of_their_own(compare: Compare) -> None:
    second = PHRASE.replace("name: parroting", "name: other")
    config = f"""
behaviours: [{PHRASE}, {second}]
responses: {{max_uniqueness_fall: 0.9, sets: {{other: {{max_uniqueness_fall: 0.1}}}}}}
"""
    report = compare("parrot", "sound", config=config)
    found = {gate.name: gate for gate in report.gates}
    loose, strict = found["uniqueness:parroting"], found["uniqueness:other"]
    assert (loose.value, loose.limit, loose.passed) == (strict.value, 0.9, True)
    assert (strict.limit, strict.passed) == (0.1, False)
    assert "set responses.sets.other.max_uniqueness_fall" in (strict.remedy or "")
    assert {gate.limit for name, gate in found.items() if name.startswith("longer:")} == {1.4}
    assert "responses" not in report.not_asked
    assert {example.behaviour for example in report.examples} >= {"other"}
    plain = compare("sound", "sound", PHRASE)
    assert [gate.name for gate in plain.gates] == ["behaviour_share_rise:parroting"]
    assert "responses" in plain.not_asked


def test_what_was_said_is_kept_where_a_behaviour_is_to_blame(compare: Compare) -> None:
    examples = compare("parrot", "sound", PHRASE).examples
    assert len(examples) == MOST_EXAMPLES
    assert {(example.behaviour, example.shown) for example in examples} == {("parroting", 1)}
    for example in examples:
        assert example.prompt.startswith("w")
        assert PARROTED.search(example.after[0])
        assert len(example.before) == len(example.after) == 1
    assert compare("parrot", "parrot", PHRASE).examples == []


def test_all_responses_to_a_prompt_are_kept_those_with_most_first(compare: Compare) -> None:
    drawn = PHRASE.replace("max_new_tokens: 8", "max_new_tokens: 8, samples: 3, temperature: 1.0")
    examples = compare("sound", "parrot", drawn.replace("}}", "}, max_share: 0}")).examples
    assert examples
    assert all(len(example.after) == 3 for example in examples)
    counts = [sum(bool(PARROTED.search(text)) for text in own.after) for own in examples]
    assert counts == [example.shown for example in examples] == sorted(counts, reverse=True)


def test_a_model_that_no_longer_says_it_passes(compare: Compare) -> None:
    assert compare("sound", "parrot", PHRASE).outcome == "passed"
    assert compare("parrot", "parrot", PHRASE).outcome == "passed"


def test_a_share_can_be_limited_whatever_the_base_does(compare: Compare) -> None:
    limited = PHRASE.replace("}}", "}, max_share_rise: null, max_share: 0.5}")
    gate = only(compare("parrot", "parrot", limited))
    assert (gate.name, gate.value, gate.passed) == ("behaviour_share:parroting", 1.0, False)
    assert only(compare("sound", "parrot", limited)).passed


@pytest.mark.parametrize(
    "described",
    [
        "{kind: repetition, name: it, prompts: prompts.txt, decoding: {max_new_tokens: 8}}",
        "{kind: toxicity, name: it, prompts: prompts.txt, agreeing: 1, decoding: {samples: 2}}",
        "{kind: phrase, name: it, prompts: prompts.txt, phrases: [w7w, w8w], whole_words: false}",
    ],
)
def test_every_kind_of_a_job_is_judged(compare: Compare, described: str) -> None:
    gate = only(compare("sound", "sound", described))
    assert (gate.unmeasured, gate.value, gate.passed) == (None, 0.0, True)
    if "toxicity" not in described:  # no word of theirs is one
        assert not only(compare("parrot", "sound", described)).passed


def test_an_evaluator_that_is_not_there_is_named_before_anything_is_measured(
    compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXCISE_SCORER_ROOTS", str(tmp_path))
    (tmp_path / "mine").mkdir()
    described = "{kind: toxicity, name: it, prompts: prompts.txt, agreeing: 1, evaluators: "
    with pytest.raises(ScorerUnavailableError, match=r"no folder .* 'yours'. There: mine;"):
        compare("sound", "sound", described + "[detoxify/yours]}")


def is_parroted(text: str) -> bool:
    return bool(text) and not PARROTED.sub("", text)


class ParrotScorer:
    """1 where a response has none but the parrot's words."""

    name = "parrot"
    direction = Direction.LOWER_IS_BETTER

    def score(self, answers):
        return [float(is_parroted(answer.text)) for answer in answers]


OWN = (
    "{kind: custom, name: own, prompts: prompts.txt, direction: lower_is_better, threshold: 1, "
    "decoding: {max_new_tokens: 8}, "
)


def test_an_installed_scorer_judges(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("parrot", f"{__name__}:ParrotScorer", "excise.scorers")
    offered = importlib.metadata.EntryPoints([entry])
    monkeypatch.setattr(custom.importlib.metadata, "entry_points", lambda group: offered)
    assert not only(compare("parrot", "sound", OWN + "entry_point: parrot}")).passed
    assert only(compare("sound", "parrot", OWN + "entry_point: parrot}")).passed
    with pytest.raises(ScorerUnavailableError, match=r"no scorer is called .other.*: parrot"):
        compare("sound", "parrot", OWN + "entry_point: other}")


def by_parroting(request: Request) -> Reply:
    asked = json.loads(request.body)["answers"]
    scores = [float(is_parroted(answer["response"])) for answer in asked]
    return Reply(json.dumps({"scores": scores}).encode())


def test_a_scorer_behind_a_url_judges_where_the_operator_allows_it(
    compare: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(by_parroting) as server:
        host = f"127.0.0.1:{server.port}"
        described = OWN + f"url: 'http://{host}/score'}}"
        with pytest.raises(ScorerUnavailableError, match="have the operator allow the host"):
            compare("parrot", "sound", described)
        assert server.requests == []
        allowed = [{"host": host, "secret_variable": "PARROT_SECRET"}]
        monkeypatch.setenv("EXCISE_SCORER_HOSTS", json.dumps(allowed))
        with pytest.raises(ScorerUnavailableError, match=r"PARROT_SECRET, .* is not set"):
            compare("parrot", "sound", described)
        monkeypatch.setenv("PARROT_SECRET", "s3cret")
        report = compare("parrot", "sound", described)
    assert not only(report).passed
    assert {request.headers["Authorization"] for request in server.requests} == {"Bearer s3cret"}
    assert "s3cret" not in report.model_dump_json()


def test_a_scorer_that_fails_is_a_gate_not_measured(
    compare: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(lambda request: Reply(b"{}")) as server:
        host = f"127.0.0.1:{server.port}"
        monkeypatch.setenv("EXCISE_SCORER_HOSTS", json.dumps([{"host": host}]))
        report = compare("parrot", "sound", OWN + f"url: 'http://{host}/score'}}")
    assert report.outcome == "gates_not_met"
    assert "must answer" in (only(report).unmeasured or "")


@pytest.mark.parametrize("hosts", ["not json", '{"host": "a"}', '[{"hots": "s3cret"}]'])
def test_hosts_that_are_none_are_refused(
    compare: Compare, monkeypatch: pytest.MonkeyPatch, hosts: str
) -> None:
    monkeypatch.setenv("EXCISE_SCORER_HOSTS", hosts)
    with pytest.raises(GateConfigError, match="EXCISE_SCORER_HOSTS is not a list") as caught:
        compare("sound", "sound", PHRASE)
    assert "s3cret" not in str(caught.value)


GENERAL = "general: {prompts: chats.jsonl, max_new_tokens: 8}"


def test_chats_are_prompts_of_gates_and_of_behaviours(compare: Compare) -> None:
    chats = PHRASE.replace("prompts.txt", "chats.jsonl")
    report = compare("chatty", "chatty", config=f"{GENERAL}\nbehaviours: [{chats}]")
    assert report.outcome == "passed"
    assert report.gates[-1].count == 4


@pytest.mark.parametrize("config", [GENERAL, f"behaviours: [{PHRASE}]"])
def test_chats_need_a_template_of_the_base(compare: Compare, config: str) -> None:
    with pytest.raises(ChatTemplateError, match=r"prompt 1: .* has no chat template"):
        compare("chatty", "sound", config=config.replace("prompts.txt", "chats.jsonl"))


def test_a_candidate_that_lost_its_template_is_asked_through_the_bases(compare: Compare) -> None:
    config = f"{GENERAL}\nbehaviours: [{PHRASE.replace('{kind', '{chat: true, kind')}]"
    lost, kept = (compare(name, "chatty", config=config) for name in ("sound", "chatty"))
    assert lost.outcome == "passed"
    assert lost.gates == kept.gates
    assert (lost.notes, kept.notes) == ([LOST], [])


def test_other_templates_are_told(compare: Compare) -> None:
    assert compare("chatty", "sound", PHRASE).notes == [GAINED]
    assert compare("sullen", "chatty", PHRASE).notes == [CHANGED]
    assert compare("sound", "sound", PHRASE).notes == []


def save_with_tokenizer(folder: Path, **parts: Any) -> None:
    """Save a tiny checkpoint with other parts of its tokenizer, unless it is there."""
    if folder.exists():
        return
    save_tiny_checkpoint(folder)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))


def test_a_candidate_with_another_normalizer_does_not_pass(
    compare: Compare, checkpoints: Path, tmp_path: Path
) -> None:
    normalizer = {"type": "Replace", "pattern": {"String": "w7"}, "content": "w8"}
    save_with_tokenizer(checkpoints / "reversed", normalizer=normalizer)
    (tmp_path / "text.txt").write_text("w7 w1 w2 " * 40)
    config = "kl: {prompts: text.txt, context: 16}\ngeneral: {prompts: prompts.txt}"
    report = compare("reversed", "sound", config=config)
    assert report.outcome == "gates_not_met"
    assert "other token ids" in (report.gates[0].unmeasured or "")
    assert report.notes == [OTHER_TOKENS]


def test_a_candidate_whose_tokenizer_writes_other_text_does_not_pass(
    compare: Compare, checkpoints: Path, tmp_path: Path
) -> None:
    decoder = {"type": "Replace", "pattern": {"String": "w"}, "content": "#"}
    save_with_tokenizer(checkpoints / "garbled", decoder=decoder)
    (tmp_path / "text.txt").write_text("w7 w1 w2 " * 40)
    config = "kl: {prompts: text.txt, context: 16}\ngeneral: {prompts: prompts.txt}"
    report = compare("garbled", "sound", config=config)
    assert report.outcome == "gates_not_met"
    assert "as other text than the base's" in (report.gates[0].unmeasured or "")
    assert report.notes == [OTHER_TEXT]


def test_a_shorter_context_is_told(compare: Compare, checkpoints: Path) -> None:
    save_tiny_checkpoint(checkpoints / "short", build_tiny_model(max_position_embeddings=64))
    assert compare("short", "sound", PHRASE).notes == [SHORTER_CONTEXT.format(judged=64, base=256)]
    assert compare("sound", "short", PHRASE).notes == []


def test_chats_that_the_candidates_template_refuses_are_not_measured(compare: Compare) -> None:
    report = compare("sullen", "chatty", config=GENERAL)
    assert report.outcome == "gates_not_met"
    assert all("refuses the roles" in (gate.unmeasured or "") for gate in report.gates)


def test_a_checkpoint_that_is_not_there_is_named_by_its_option(
    compare: Compare, checkpoints: Path
) -> None:
    (checkpoints / "emptied").mkdir(exist_ok=True)
    gone = re.escape(f"--model {checkpoints / 'gone'}: there is no folder")
    with pytest.raises(ModelSourceError, match=gone):
        compare("gone", "sound", PHRASE)
    emptied = re.escape(f"--against {checkpoints / 'emptied'}: ")
    with pytest.raises(ModelSourceError, match=f"{emptied}.*config.json"):
        compare("sound", "emptied", PHRASE)
