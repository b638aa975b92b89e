"""The rules of prompt sets that need no database."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from excise.resources.tenants import Quotas
from service.errors import InvalidRequestError
from service.prompt_sets.operations import create_prompt_set


@pytest.mark.parametrize("is_rows", [False, True])
def test_what_is_no_prompt_set_is_refused_as_a_request(is_rows: bool) -> None:
    session = Mock()
    with pytest.raises(InvalidRequestError, match="Line 1 is not valid JSON") as refused:
        create_prompt_set(
            session, "t", "mine", "application/jsonl", b"{", Quotas(), is_rows=is_rows
        )
    assert refused.value.param == "body"
    assert session.mock_calls == []
