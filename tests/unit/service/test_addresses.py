"""The address that the audit log keeps of a request, and that opens `/metrics`."""

from __future__ import annotations

import pytest

from service.addresses import find_address


@pytest.mark.parametrize(
    ("client", "source"),
    [
        (("203.0.113.7", 1), "203.0.113.7"),
        (("2001:DB8::1", 1), "2001:db8::1"),
        (("\x1b[31mSPOOF", 1), None),
        (("9" * 60_000, 1), None),
        (None, None),
    ],
)
def test_a_source_is_an_address_or_nothing(
    client: tuple[str, int] | None, source: str | None
) -> None:
    address = find_address({"type": "http", "client": client})
    assert (None if address is None else str(address)) == source
