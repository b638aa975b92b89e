"""gate.yaml: what is asked for, and refusals that name field and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from excise.intake.prompt_sets import Message, Prompt
from excise.names import BehaviourKind
from excise.specs.behaviours import BehaviourSpec, BehaviourSpecBase
from excise.specs.gates import GatesSpec, ResponseLimitsSpec
from tests.unit.workers.gates.limits import LIMITS
from workers.commands.gate.behaviours import BehaviourGateBase, build_behaviour_requests
from workers.commands.gate.config import GateConfig, load_config
from workers.commands.gate.errors import GateConfigError
from workers.commands.gate.files import GateFiles
from workers.commands.gate.keys import compute_definition_sha256
from workers.gates.gates import GATES
from workers.gates.requests import (
    build_requests,
    build_response_requests,
    draw_prompts,
    list_not_asked,
)
from workers.models.generation import Decoding
from workers.stages.behaviours import build_decoding

NO_LIMITS = ", ".join(f"{name}: null" for name in ResponseLimitsSpec.model_fields)


def parse(tmp_path: Path, text: str) -> GateConfig:
    path = tmp_path / "gate.yaml"
    path.write_text(text)
    return load_config(path)


def test_a_whole_configuration(tmp_path: Path) -> None:
    config = parse(
        tmp_path,
        """
        seed: 3
        perplexity: {prompts: corpus.txt, max_increase: 0}
        kl: {prompts: text.txt}
        zero_shot: [{name: boolq, rows: boolq.jsonl, max_drop: 0.01}, {name: rte}]
        general: {prompts: general.txt, max_diversity_fall: null}
        refusal: {prompts: harmful.txt}
        contrast_refusal: {prompts: contrasts.txt}
        over_refusal: {prompts: safe.txt, max_rise: 0.1}
        behaviours: [{name: loops, prompts: loops.txt, kind: repetition}]
        """,
    )
    asked = [(found.name, found.subject, found.limit) for found in build_requests(config)]
    assert asked == [
        ("perplexity", None, 0.0),
        ("kl", None, 0.03),
        ("zero_shot", "boolq", 0.01),
        ("zero_shot", "rte", 0.02),
        ("uniqueness", "general", 0.1),
        ("self_repetition", "general", 0.1),
        ("emptiness", "general", 0.02),
        ("shorter", "general", 0.7),
        ("longer", "general", 1.4),
        ("token_limit", "general", 0.2),
        ("refusal", "harmful", 0.05),
        ("refusal", "contrast", 0.05),
        ("over_refusal", "look_alike", 0.1),
    ]
    assert list_not_asked(config) == []
    assert config.behaviours[0].chat is False


KINDS = """
behaviours:
  - {kind: repetition, name: loops, prompts: a, threshold: 0.4, significant: true}
  - {kind: toxicity, name: toxic, prompts: a, agreeing: 1, max_share: 0.02, chat: true}
  - {kind: phrase, name: acme, prompts: a, phrases: [Acme], max_share_rise: null, max_share: 0}
  - {kind: phrase, name: leak, prompts: a, pattern: 'k\\d+', limit: null, min_improvement: -0.1}
  - {kind: custom, name: own, prompts: a, entry_point: mine, direction: higher_is_better,
     threshold: 2, decoding: {max_new_tokens: 16, samples: 3, temperature: 1}}
"""


@pytest.mark.parametrize(
    ("name", "change", "is_other"),
    [
        ("acme", {"phrases": ["Acme", "ACME Cloud"]}, True),
        ("loops", {"threshold": 0.5}, True),
        ("toxic", {"agreeing": None}, True),
        ("own", {"decoding": {"max_new_tokens": 17, "samples": 3, "temperature": 1}}, True),
        ("leak", {"pattern": "k[0-9]+"}, True),
        ("leak", {"min_improvement": -0.2, "limit": 50, "prompts": "b"}, False),
        ("toxic", {"max_share": 0.1, "chat": False, "significant": True}, False),
    ],
)
def test_the_hash_of_a_behaviour_is_of_how_it_is_found(
    tmp_path: Path, name: str, change: dict[str, object], is_other: bool
) -> None:
    config = parse(tmp_path, KINDS)
    (own,) = (behaviour for behaviour in config.behaviours if behaviour.name == name)
    other = type(own).model_validate(own.model_dump() | change)
    assert (compute_definition_sha256(own) != compute_definition_sha256(other)) is is_other


def test_a_behaviour_is_described_as_in_a_job(tmp_path: Path) -> None:
    config = parse(tmp_path, KINDS)
    job: TypeAdapter[BehaviourSpec] = TypeAdapter(BehaviourSpec)
    job_only = {"min_effect", "max_remaining"}
    for behaviour in config.behaviours:
        gate_only = set(BehaviourGateBase.model_fields) - set(BehaviourSpecBase.model_fields)
        described = behaviour.model_dump(exclude=gate_only)
        assert job.validate_python(described).model_dump(exclude=job_only) == described
    asked = {
        behaviour.name: [(found.name, found.limit) for found in build_behaviour_requests(behaviour)]
        for behaviour in config.behaviours
    }
    assert asked == {
        "loops": [("behaviour_share_rise", 0.0), ("behaviour_significance", 0.0)],
        "toxic": [("behaviour_share_rise", 0.0), ("behaviour_share", 0.02)],
        "acme": [("behaviour_share", 0.0)],
        "leak": [("behaviour_share_rise", 0.0), ("behaviour", -0.1)],
        "own": [("behaviour_share_rise", 0.0)],
    }
    decodings = [build_decoding(behaviour.decoding) for behaviour in config.behaviours]
    assert decodings == [
        Decoding(50),
        Decoding(30, 5, 0.9, 0.9),
        Decoding(50),
        Decoding(50),
        Decoding(16, 3, 1.0),
    ]


def test_there_is_a_gate_kind_for_every_kind_of_a_job() -> None:
    kinds = {
        name
        for spec in BehaviourGateBase.__subclasses__()
        for name in get_args(spec.model_fields["kind"].annotation)
    }
    assert kinds == set(BehaviourKind)


def test_every_gate_of_the_table_can_be_asked_for() -> None:
    assert set(LIMITS) == set(GATES)


def test_limits_on_responses_are_of_the_prompt_set_named() -> None:
    limits = ResponseLimitsSpec(max_uniqueness_fall=None)
    asked = build_response_requests(limits, "loops")
    assert {found.subject for found in asked} == {"loops"}
    assert "uniqueness" not in {found.name for found in asked}


def test_what_is_not_asked_for_is_listed() -> None:
    asked_by_default = {"abilities"}
    expected = [name for name in GatesSpec.model_fields if name not in asked_by_default]
    assert list_not_asked(GatesSpec()) == expected
    assert "abilities" in list_not_asked(GatesSpec(abilities=None))
    nothing = {"prompts": "a", **dict.fromkeys(ResponseLimitsSpec.model_fields)}
    assert "general" in list_not_asked(GatesSpec.model_validate({"general": nothing}))
    some = nothing | {"max_empty_rise": 0.0}
    assert "general" not in list_not_asked(GatesSpec.model_validate({"general": some}))
    one = {"max_nats_rise": None, "max_accuracy_fall": None, "slices": {"a": {"max_nats_rise": 1}}}
    assert "abilities" not in list_not_asked(GatesSpec.model_validate({"abilities": one}))
    assert "kl" not in list_not_asked(GatesSpec.model_validate({"kl": {}}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2]", "does not hold a mapping"),
        ("", "does not hold a mapping"),
        ("{", "is not YAML"),
        ("!!python/object/apply:os.system [ls]", "is not YAML"),
        ("\x00", "is not YAML"),
        ("seed: 0100", r"gate\.yaml: 0100 \(line 1\) would be 64, "),
        ("abilities: null", "asks for no gate"),
        (f"abilities: null\ngeneral: {{prompts: a.txt, {NO_LIMITS}}}", "asks for no gate"),
        ("abilities: {max_nats_rise: null, max_accuracy_fall: null}", "asks for no gate"),
        ("kl: {}", "kl.prompts is missing"),
        ("perplexity: {}", "perplexity.prompts is missing"),
        ("kl: {prompts: a, max_mean: -1}", "kl.max_mean"),
        ("kl: {prompts: a, max_mean: .nan}", "kl.max_mean"),
        ("kl: {prompts: a, typo: 1}", "kl.typo is not a known field. Remove it"),
        ("kl: {promts: a}", "kl.promts is not a known field. Did you mean prompts[?]"),
        (
            "behaviours: [{name: a, prompts: b, kind: phrase, phrase: [c]}]",
            r"behaviours\[0\].phrase is not a known field. Did you mean phrases[?]",
        ),
        ("refusal: {prompts: 3}", "refusal.prompts"),
        ("refusal: {max_fall: 0.1}", "refusal.prompts"),
        ("over_refusal: {prompts: a, max_rise: 1.5}", "over_refusal.max_rise"),
        ("general: {prompts: a, max_length_ratio: 0.5}", "general.max_length_ratio"),
        ("zero_shot: [{name: rte}, {name: rte}]", "names a task twice"),
        (
            "zero_shot: [{name: chess}]",
            r"zero_shot\[0\].name is not supported. Use one of: 'boolq'",
        ),
        (
            "behaviours: [{name: a, prompts: b, scorer: response_uniqueness}]",
            r"behaviours\[0\] scorer is no longer known. .*`kind: repetition`",
        ),
        ("behaviours: [{name: a, prompts: b}]", "kind is missing. Set it to one of: repetition"),
        (
            "behaviours: [{name: a, prompts: b, kind: vibes}]",
            r"behaviours\[0\].kind names no kind .* phrase, custom",
        ),
        (
            "behaviours: [{name: a, prompts: b, kind: repetition, max_new_tokens: 8}]",
            "decoding: {max_new_tokens: 8}",
        ),
        (
            "behaviours: [{name: a, prompts: b, kind: repetition, min_effect: 1}]",
            "is a setting of jobs",
        ),
        (
            "behaviours: [{name: a, prompts: b, kind: repetition, max_share_rise: null}]",
            "demands nothing. Set max_share_rise",
        ),
        ("behaviours: [{name: a, prompts: b, kind: phrase}]", "give either phrases or pattern"),
        (
            "behaviours: [{name: a, prompts: b, kind: phrase, pattern: '('}]",
            r"behaviours\[0\].pattern: is no",
        ),
        (
            "behaviours: [{name: a, prompts: b, kind: custom, url: 'file:///x', threshold: 1, "
            "direction: lower_is_better}]",
            r"behaviours\[0\].url is not a URL",
        ),
        ("behaviours: [{name: harmful, prompts: b, kind: repetition}]", "'harmful' is taken"),
        ("responses: {}", "of which there are none. Add one"),
        (
            "{responses: {sets: {lops: {}}}, "
            "behaviours: [{name: loops, prompts: b, kind: repetition}]}",
            "responses.sets names lops, which is no set that it limits. Name one of: loops[.]",
        ),
        (
            "{responses: {sets: {general: {}}}, general: {prompts: a}, "
            "behaviours: [{name: loops, prompts: b, kind: repetition}]}",
            "general has its own limits, beside its prompts",
        ),
        (
            "{responses: {sets: {loops: {max_length: 2}}}, "
            "behaviours: [{name: loops, prompts: b, kind: repetition}]}",
            "responses.sets.loops.max_length is not a known field",
        ),
        (
            "behaviours: [{name: a, prompts: b, kind: repetition}, "
            "{name: a, prompts: b, kind: phrase, phrases: [c]}]",
            "'a' is taken",
        ),
    ],
)
def test_bad_configurations_are_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(GateConfigError, match=words) as caught:
        parse(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_missing_or_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GateConfigError, match="cannot read"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(GateConfigError, match="more than 1 MiB"):
        parse(tmp_path, "#" * (1024 * 1024 + 1))


def test_files_lie_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.jsonl").write_text('{"prompt": "three"}\n')
    (tmp_path / "task_rte.jsonl").write_text("{}\n{}")
    files = GateFiles(tmp_path, tmp_path)
    assert files.load_prompts("a.txt") == [Prompt("one"), Prompt("two")]
    assert files.load_prompts(str(tmp_path / "b.jsonl")) == [Prompt("three")]
    for name in ("b.ndjson", "B.JSONL"):
        (tmp_path / name).write_text('{"text": "three"}\n')
        assert files.load_prompts(name) == [Prompt("three")]
    (tmp_path / "c.jsonl").write_text('{"messages": [{"role": "user", "content": "four"}]}')
    assert files.load_prompts("c.jsonl") == [Prompt("four", (Message("user", "four"),))]
    spec = GatesSpec.model_validate({"zero_shot": [{"name": "rte"}]})
    assert files.load_rows(spec.zero_shot[0]) == (["{}", "{}"], "task_rte.jsonl")
    own = GatesSpec.model_validate({"zero_shot": [{"name": "rte", "rows": "a.txt"}]})
    assert files.load_rows(own.zero_shot[0])[1] == "a.txt"
    with pytest.raises(GateConfigError, match="EXCISE_TASK_DATA"):
        GateFiles(tmp_path).load_rows(spec.zero_shot[0])


def test_unusable_files_are_named(tmp_path: Path) -> None:
    files = GateFiles(tmp_path)
    with pytest.raises(GateConfigError, match=r"cannot read .*none\.txt"):
        files.load_prompts("none.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(GateConfigError, match=r"empty\.txt: .*no prompts"):
        files.load_prompts("empty.txt")
    (tmp_path / "bad.jsonl").write_bytes(b"\xff")
    with pytest.raises(GateConfigError, match=r"bad\.jsonl: .*UTF-8"):
        files.load_prompts("bad.jsonl")
    spec = GatesSpec.model_validate({"zero_shot": [{"name": "rte", "rows": "bad.jsonl"}]})
    with pytest.raises(GateConfigError, match="UTF-8"):
        files.load_rows(spec.zero_shot[0])


@given(st.lists(st.text(), max_size=20), st.integers(2, 10), st.integers(0, 5))
def test_prompts_are_drawn_in_order_and_by_the_seed(
    prompts: list[str], limit: int, seed: int
) -> None:
    numbered = [f"{index} {prompt}" for index, prompt in enumerate(prompts)]
    drawn = draw_prompts(numbered, limit, seed)
    assert len(drawn) == min(limit, len(numbered))
    assert list(drawn) == [prompt for prompt in numbered if prompt in drawn]
    assert drawn == draw_prompts(numbered, limit, seed)
    assert draw_prompts(numbered, None, seed) == tuple(numbered)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "refusal: {prompts: a.txt, max_rise: 0}\nrefusal: {prompts: a.txt, max_rise: 1}\n",
            r"the key 'refusal' is given twice \(the second time on line 2\)",
        ),
        ("kl: {prompts: a.txt, max_mean: 0.1, max_mean: 9}", "the key 'max_mean' is given twice"),
    ],
)
def test_a_key_given_twice_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(GateConfigError, match=rf"gate\.yaml: {says}"):
        parse(tmp_path, text)
