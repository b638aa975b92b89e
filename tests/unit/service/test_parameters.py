"""What a request can mean once only."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers, QueryParams

from service.errors import InvalidRequestError
from service.parameters import require_single, require_single_fields


@pytest.mark.parametrize("name", ["Idempotency-Key", "Authorization", "Last-Event-ID"])
@pytest.mark.parametrize("second", ["a", "b", ""])
def test_a_second_header_is_refused_by_name(name: str, second: str) -> None:
    one, other = (name.encode(), b"a"), (name.lower().encode(), second.encode())
    accept = [(b"accept", b"a"), (b"accept", b"b"), (b"if-none-match", b"a")]
    require_single(Headers(raw=[*accept, one]))
    with pytest.raises(InvalidRequestError, match=f"more than one header {name}") as raised:
        require_single(Headers(raw=[(key.lower(), value) for key, value in (*accept, one, other)]))
    assert raised.value.param == name


@pytest.mark.parametrize("query", ["limit=1&limit=1", "after=a&limit=1&l%69mit=", "limit&limit"])
def test_a_parameter_that_a_query_gives_twice_is_refused_by_name(query: str) -> None:
    require_single_fields(QueryParams("after=a&limit=1&Limit=1"))
    with pytest.raises(InvalidRequestError, match="gives limit twice") as raised:
        require_single_fields(QueryParams(query))
    assert raised.value.param == "limit"
