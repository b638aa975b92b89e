"""URLs of a database: what is read as one, and what is refused without being repeated."""

from __future__ import annotations

import pytest

from service.database import DatabaseUrlError, parse_database_url


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_the_driver_is_psycopg(scheme: str) -> None:
    url = parse_database_url(f"{scheme}://excise:a%40b/c?d@db:5432/excise?options=a@b")
    assert (url.drivername, url.password, url.host) == ("postgresql+psycopg", "a@b/c?d", "db")


@pytest.mark.parametrize(
    "password", ["Zq7@rT9", "Zq7@rT9/x", "Zq7@rT9?x", "Zq7@rT9:x", "Zq7@a:rT9", "Zq7rT9\udcff"]
)
def test_a_password_that_is_not_encoded_is_refused_unseen(password: str) -> None:
    with pytest.raises(DatabaseUrlError) as caught:
        parse_database_url(f"postgresql://excise:{password}@127.0.0.1:1/excise")
    assert "Zq7" not in str(caught.value)
    assert "rT9" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_url_without_its_end_is_refused_unseen() -> None:
    for url in ("postgresql://excise:Zq7rT9", "postgresql:/excise:Zq7rT9@db/excise", "Zq7rT9"):
        with pytest.raises(DatabaseUrlError, match="Percent-encode"):
            parse_database_url(url)
