"""Scorers of the user's own: installed ones, and real HTTP endpoints on this machine."""

from __future__ import annotations

import importlib.metadata
import json
import math
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from excise.names import Direction
from excise.outgoing.posts import SecretUse
from tests.unit.excise.outgoing.servers import Reply, Request, serve
from tests.unit.workers.scorers.answers import answers
from workers.scorers import built_in, custom
from workers.scorers import scorer as scorer_module
from workers.scorers.build import (
    HttpDescription,
    PluginDescription,
    ScorerSurroundings,
    TrustedHost,
    build_scorer,
)
from workers.scorers.custom import load_plugin
from workers.scorers.errors import ScorerUnavailableError, ScoringError


class LengthScorer:
    """Scores by the number of characters."""

    name = "whatever it calls itself"
    direction = Direction.HIGHER_IS_BETTER

    def score(self, answers):
        return [len(answer.text) for answer in answers]


class ShortScorer(LengthScorer):
    def score(self, answers):
        return [1.0]


class InfiniteScorer(LengthScorer):
    def score(self, answers):
        return [math.inf] * len(answers)


class BrokenScorer(LengthScorer):
    def score(self, answers):
        raise KeyError("weights")


class LocatingScorer(LengthScorer):
    """Finds every x, in order."""

    def locate(self, text):
        return [(at, at + 1) for at, character in enumerate(text) if character == "x"]


class LostScorer(LengthScorer):
    def locate(self, text):
        return {"behind": [(0, 9)], "empty": [(1, 1)], "mixed": [(2, 3), (0, 1)]}[text]


class Sideways(LengthScorer):
    direction = "sideways"


@pytest.fixture(autouse=True)
def _installed(monkeypatch) -> None:
    """A package that offers the classes above under their own names, and some twice or broken."""
    values = {
        "length": "LengthScorer",
        "short": "ShortScorer",
        "infinite": "InfiniteScorer",
        "broken": "BrokenScorer",
        "sideways": "Sideways",
        "locating": "LocatingScorer",
        "lost": "LostScorer",
        "absent": "Nothing",
    }
    entries = [
        importlib.metadata.EntryPoint(name, f"{__name__}:{value}", "excise.scorers")
        for name, value in values.items()
    ]
    twice = [importlib.metadata.EntryPoint("twice", f"x:{i}", "excise.scorers") for i in "ab"]
    other = importlib.metadata.EntryPoint("other", f"{__name__}:LengthScorer", "other.group")
    everything = importlib.metadata.EntryPoints([*entries, *twice, other])
    monkeypatch.setattr(
        custom.importlib.metadata, "entry_points", lambda group: everything.select(group=group)
    )


def test_an_installed_scorer() -> None:
    scorer = load_plugin("length")
    assert scorer.score(answers("", "abc")) == [0.0, 3.0]
    assert (scorer.name, scorer.direction) == ("custom/length", Direction.HIGHER_IS_BETTER)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unknown", "no scorer is called .*Built in: .* group excise.scorers.: absent, broken"),
        ("twice", "2 installed packages offer"),
        ("other", "no scorer is called"),
        ("absent", "gave no scorer"),
        ("sideways", "gave no scorer"),
    ],
)
def test_no_scorer(name: str, message: str) -> None:
    with pytest.raises(ScorerUnavailableError, match=message):
        load_plugin(name)


def test_an_installed_scorer_does_not_replace_a_built_in_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(built_in.BUILT_IN, "length", ShortScorer)
    with pytest.raises(ScorerUnavailableError, match="it is built in"):
        load_plugin("length")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short", "gave 1 scores for 2 answers"),
        ("infinite", "not finite"),
        ("broken", "custom/broken failed: KeyError"),
    ],
)
def test_an_installed_scorer_is_held_to_the_contract(name: str, message: str) -> None:
    with pytest.raises(ScoringError, match=message):
        load_plugin(name).score(answers("a", "b"))


def test_an_installed_scorer_may_say_where() -> None:
    scorer = load_plugin("locating")
    assert isinstance(scorer, scorer_module.LocatingScorer)
    assert scorer.locate("axbx") == [(1, 2), (3, 4)]
    assert scorer.score(answers("abc")) == [3.0]
    assert not isinstance(load_plugin("length"), scorer_module.LocatingScorer)


@pytest.mark.parametrize("text", ["behind", "empty", "mixed"])
def test_what_it_locates_lies_in_the_text_and_in_order(text: str) -> None:
    scorer = load_plugin("lost")
    assert isinstance(scorer, scorer_module.LocatingScorer)
    with pytest.raises(ScoringError, match=r"custom/lost located .* in order, none empty"):
        scorer.locate(text)
    with pytest.raises(ScoringError, match="custom/lost failed to locate: KeyError"):
        scorer.locate("something else")


def test_directions_must_agree() -> None:
    description = PluginDescription("length", Direction.LOWER_IS_BETTER)
    with pytest.raises(ScorerUnavailableError, match="says higher_is_better"):
        build_scorer(description, surroundings(), ExitStack())


def surroundings(**options) -> ScorerSurroundings:
    return ScorerSurroundings(find_detoxify=lambda name: pytest.fail("not asked for"), **options)


def score_over_http(
    answer: Callable[[Request], Reply], texts: list[str], **options: object
) -> tuple[list[float], list[Request]]:
    with serve(answer) as server, ExitStack() as resources:
        host = TrustedHost(f"127.0.0.1:{server.port}", **options)  # type: ignore[arg-type]
        url = f"http://127.0.0.1:{server.port}/score"
        scorer = build_scorer(
            HttpDescription("mine", url, Direction.HIGHER_IS_BETTER),
            surroundings(hosts=(host,), environment={"MY_SECRET": "s3cret"}),
            resources,
        )
        assert (scorer.name, scorer.direction) == ("mine", Direction.HIGHER_IS_BETTER)
        return scorer.score(answers(*texts)), server.requests


def by_length(request: Request) -> Reply:
    asked = json.loads(request.body)["answers"]
    assert all(set(answer) == {"prompt", "response"} for answer in asked)
    return Reply(json.dumps({"scores": [len(answer["response"]) for answer in asked]}).encode())


def test_scores_over_http_in_order_and_in_batches() -> None:
    texts = ["x" * (number % 7) for number in range(70)]
    scores, requests = score_over_http(by_length, texts)
    assert scores == [float(len(text)) for text in texts]
    assert [len(json.loads(request.body)["answers"]) for request in requests] == [32, 32, 6]
    assert requests[0].headers["Authorization"] is None


def test_batches_are_bounded_in_bytes(monkeypatch) -> None:
    monkeypatch.setattr(custom, "MAX_POST_BYTES", 300)
    scores, requests = score_over_http(by_length, ["a" * 80, "b" * 80, "c" * 500, "d"])
    assert scores == [80, 80, 500, 1]
    assert len(requests) == 3
    assert score_over_http(by_length, [])[1] == []


def test_prompt_and_text_arrive_as_they_are() -> None:
    texts = ['"quoted"', "line\nline", "ünïcode 🙂", "\ud800"]
    _, requests = score_over_http(by_length, texts)
    sent = json.loads(requests[0].body)["answers"]
    assert [answer["response"] for answer in sent] == texts
    assert sent[0]["prompt"] == "the prompt"


def test_the_operators_secret_goes_to_the_operators_host() -> None:
    _, requests = score_over_http(by_length, ["a"], secret_variable="MY_SECRET")
    assert requests[0].headers["Authorization"] == "Bearer s3cret"
    _, requests = score_over_http(
        by_length, ["a"], secret_variable="MY_SECRET", secret_use=SecretUse.HMAC
    )
    assert requests[0].headers["X-Excise-Signature"].startswith("t=")


def test_a_missing_secret_is_named() -> None:
    with pytest.raises(ScorerUnavailableError, match=r"variable OTHER_SECRET, .* is not set"):
        score_over_http(by_length, ["a"], secret_variable="OTHER_SECRET")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"not json", "must answer"),
        (b"[1.0]", "must answer"),
        (b"{}", "wrong: scores"),
        (b'{"scores": ["1"]}', r"wrong: scores\.0"),
        (b'{"scores": [true]}', r"wrong: scores\.0"),
        (b'{"scores": [null]}', r"wrong: scores\.0"),
        (b'{"scores": [NaN]}', "must answer"),
        (b'{"scores": [1e999]}', "must answer"),
        (b'{"scores": []}', "gave 0 scores for 1 answers"),
        (b'{"scores": [1, 2]}', "gave 2 scores for 1 answers"),
    ],
)
def test_what_is_no_finite_score_each_is_an_error(body: bytes, message: str) -> None:
    with pytest.raises(ScoringError, match=message):
        score_over_http(lambda request: Reply(body), ["a"])


def test_a_failing_endpoint_is_named() -> None:
    with pytest.raises(ScoringError, match=r"the scorer mine: 127\.0\.0\.1 answered 403"):
        score_over_http(lambda request: Reply(status=403), ["a"])


def test_a_host_the_operator_did_not_allow_is_not_called() -> None:
    with serve(by_length) as server:
        for url in (f"http://127.0.0.1:{server.port}/", f"https://127.0.0.1:{server.port}/"):
            description = HttpDescription("mine", url, Direction.LOWER_IS_BETTER)
            with pytest.raises(ScorerUnavailableError, match=r"the URL of mine: .* operator allow"):
                build_scorer(description, surroundings(), ExitStack())
        assert server.requests == []


def test_the_connection_is_closed_with_the_resources() -> None:
    with serve(by_length) as server, ExitStack() as resources:
        url = f"http://127.0.0.1:{server.port}/"
        scorer = build_scorer(
            HttpDescription("mine", url, Direction.LOWER_IS_BETTER),
            surroundings(hosts=(TrustedHost(f"127.0.0.1:{server.port}"),)),
            resources,
        )
        assert scorer.score(answers("ab")) == [2.0]
        resources.close()
        with pytest.raises(RuntimeError, match="closed"):
            scorer.score(answers("ab"))
