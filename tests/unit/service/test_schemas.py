"""The job spec, the settings and the limits that need no server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from excise.specs import CorrectionSpec
from service.database import parse_database_url
from service.errors import InvalidRequestError
from service.jobs.views import compute_etag, is_known_etag
from service.problems import translate_validation_errors
from service.settings import Settings

MINIMAL: dict[str, Any] = {
    "kind": "correction",
    "model": "tiny",
    "behaviours": [{"name": "r", "kind": "repetition", "prompts": "ps_1"}],
    "reference": "ps_2",
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_a_minimal_spec_gets_the_documented_defaults() -> None:
    spec = CorrectionSpec.model_validate(MINIMAL)
    assert spec.behaviours[0].decoding.max_new_tokens == 50
    assert spec.attribution.attributor == "attnlrp"
    assert (spec.search.amounts, spec.perplexity, spec.seed) == (None, None, 0)
    assert (spec.budget.perplexity_increase, spec.budget.kl_mean) == (0.015, 0.03)


def test_a_spec_survives_the_database() -> None:
    asked = {"attribution": {"granularity": "neuron"}, "search": {"amounts": [4, 8]}}
    spec = CorrectionSpec.model_validate({**MINIMAL, **asked})
    assert CorrectionSpec.model_validate(spec.model_dump(mode="json")) == spec


@given(st.sampled_from([*MINIMAL, "search", "budget", "metadata", "new"]), JSON)
def test_any_broken_spec_gives_one_short_error(field: str, value: object) -> None:
    try:
        CorrectionSpec.model_validate({**MINIMAL, field: value})
    except ValidationError as caught:
        error = translate_validation_errors(caught.errors())  # type: ignore[arg-type]
        assert isinstance(error, InvalidRequestError)
        assert error.param
        assert len(error.message) < 600
        assert error.param.encode("utf-8")


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXCISE_DATABASE_URL", "postgresql://user:secret@host/db")
    monkeypatch.setenv("EXCISE_ARTIFACTS", "/a")
    monkeypatch.setenv("EXCISE_MODEL_ROOTS", f"/m{os.pathsep}/n")
    settings = Settings()
    assert settings.model_roots == (Path("/m"), Path("/n"))
    assert "secret" not in repr(settings)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_database_urls_get_the_driver(scheme: str) -> None:
    url = parse_database_url(f"{scheme}://postgres:@/postgres?host=/tmp/x")
    assert url.drivername == "postgresql+psycopg"
    assert url.query["host"] == "/tmp/x"


def test_etags_are_compared_weakly() -> None:
    etag = compute_etag("body")
    assert is_known_etag(etag, f'W/{etag}, "other"')
    assert is_known_etag(etag, "*")
    assert not is_known_etag(etag, None)
    assert not is_known_etag(etag, '"other"')
