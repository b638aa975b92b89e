"""Redaction: known values however they are encoded, what looks like a secret, at a bounded cost."""

from __future__ import annotations

import json
import re
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from excise.redaction import SHORTEST_INSIDE_WORDS, SHORTEST_VALUE, Redactor, find_secrets, redact

KEY = "exc_" + "aB3-_" * 8 + "xyz"
SECRET = "Zq7rT9vLm2"

secrets = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=8, max_size=40)
surroundings = st.text(st.characters(codec="utf-8"), max_size=40)


@settings(max_examples=40, deadline=None)
@given(secrets, surroundings, surroundings)
def test_a_known_value_is_gone_in_every_encoding(secret: str, before: str, after: str) -> None:
    secret = secret.strip()
    assume(len(secret) >= SHORTEST_INSIDE_WORDS and "://" not in secret)
    redactor = Redactor([secret])
    spellings = (
        *(secret, quote(secret, safe=""), quote(secret), quote_plus(secret)),
        *(
            quote(quote(secret, safe=""), safe=""),
            re.sub("%..", lambda code: code[0].lower(), quote(secret, safe="")),
        ),
        *(repr(secret)[1:-1], ascii(secret)[1:-1], json.dumps(secret)[1:-1]),
    )
    for spelling in spellings:
        if spelling == "":
            continue
        assert spelling not in redactor.redact(f"{before} {spelling} {after}")


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("ab19@:/?#[]%& "), min_size=1, max_size=24))
def test_no_piece_of_a_badly_encoded_password_is_left(password: str) -> None:
    assume(len(password.strip()) >= SHORTEST_VALUE)
    url = f"postgresql://excise:{password}@127.0.0.1:5432/excise"
    redactor = Redactor([url])
    assert f":{password}@" not in redactor.redact(f"cannot connect to {url}")
    pieces = password.replace("@", ":").replace("/", ":").split(":")
    for piece in pieces:
        if piece.isalnum() and len(piece) >= SHORTEST_INSIDE_WORDS:
            assert piece not in redactor.redact(f"failed to resolve host '{piece}@127.0.0.1'")


@pytest.mark.parametrize(
    "text",
    [
        f"GET /v1/jobs?api_key={SECRET}&limit=2 HTTP/1.1",
        f"GET /v1/jobs?limit=2&token={SECRET}",
        f"GET /v1/jobs?limit=2&key={SECRET}",
        f"GET /v1/jobs?next=%2Fv1%3Fsig%3D{SECRET}",
        f"https://bucket.s3.amazonaws.com/a?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}",
        f"https://bucket/a?Signature={SECRET}&Expires=3",
        f"Authorization: Bearer {SECRET}",
        f"authorization: Basic {SECRET}",
        f"{{'authorization': 'Bearer {SECRET}'}}",
        f"(b'authorization', b'Bearer {SECRET}')",
        f"Headers([('x-api-key', '{SECRET}')])",
        f"redirect?to=bearer%20{SECRET}",
        f"postgresql+psycopg://excise:{SECRET}@db.example:5432/excise",
        f"redis://:{SECRET}@cache:6379/0",
        f"postgresql://excise:a/b?{SECRET}#c@db/excise",
        f"postgresql://excise:a@b:{SECRET}@db/excise",
        f"https://{SECRET}@github.com/x.git",
        f"url=postgresql%3A%2F%2Fexcise%3A{SECRET}%40db%2Fexcise",
        f"host=db user=excise password={SECRET} dbname=excise",
        f"host=db password='two words {SECRET}' dbname=excise",
        f'{{"password": "with \\" a quote {SECRET}", "n": 1}}',
        f'{{\\"client_secret\\": \\"{SECRET}\\"}}',
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
        f"aws_secret_access_key = {SECRET}",
        f"hf_{SECRET}{SECRET}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_what_looks_like_a_secret_is_blanked_out(text: str) -> None:
    shown = redact(text)
    assert SECRET not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "text",
    [
        '127.0.0.1:53400 - "GET /v1/jobs?limit=20&after=job_01 HTTP/1.1" 200',
        "POST http://127.0.0.1:8000/v1/aliases/smollm2@production",
        "max_new_tokens=50, perplexity 12.1 a token, pad_token_id: 0",
        "sorted(names, key=len)",
        "job job_0123456789abcdef: attempt 2",
        "EXCISE_API_KEY is not set. Make a key with `excise keys create` and export it.",
    ],
)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert redact(text) == text


def test_an_excise_key_is_blanked_out_wherever_it_stands() -> None:
    for text in (KEY, f"/v1/jobs/{KEY}/report", f"x={KEY};y", f"%22{KEY}%22"):
        assert "aB3-_" not in redact(text)


def test_short_values_do_not_blank_out_words() -> None:
    redactor = Redactor(["post"])
    assert redactor.redact("a postgresql server, password post.") == (
        "a postgresql server, password ***."
    )
    assert Redactor(["a"]).redact("a banana") == "a banana"


def test_secrets_are_found_by_their_names_and_in_urls() -> None:
    environment = {
        "SCORER_SECRET": "one",
        "AWS_SECRET_ACCESS_KEY": "two",
        "PGPASSWORD": "three",
        "HF_TOKEN": "four",
        "HTTPS_PROXY": "http://user:five@proxy:3128",
        "AWS_SHARED_CREDENTIALS_FILE": "/root/.aws/credentials",
        "TOKENIZERS_PARALLELISM": "false",
        "PWD": "/work",
        "EXCISE_BROKER_URL": "redis://127.0.0.1:6379/0",
    }
    assert find_secrets(environment) == [
        *("one", "two", "three", "four", "http://user:five@proxy:3128"),
    ]


def test_a_url_without_a_password_makes_no_secret_of_its_port_and_host() -> None:
    line = "connecting to redis://cache:6379/0, host cache, port 6379"
    assert Redactor(["redis://cache:6379/0"]).redact(line) == line


def test_fields_are_blanked_out_by_their_names_too() -> None:
    redactor = Redactor([SECRET])
    shown = redactor.redact_value(
        "context",
        {"api_key": "abc", "url": f"x?y={SECRET}", "n": 3, "list": [SECRET, None], SECRET: 1.5},
    )
    assert shown == {"api_key": "***", "url": "x?y=***", "n": 3, "list": ["***", None], "***": 1.5}


@pytest.mark.parametrize(
    "piece",
    [
        "://",
        "://:",
        "password",
        "secret='",
        "%3a%2f%2f",
        "-----BEGIN PRIVATE KEY-----",
        "a-",
        "://a@",
    ],
)
def test_a_line_made_to_be_slow_costs_no_more_than_in_proportion(piece: str) -> None:
    """Counted in what the patterns look at: ten times the text is at most ~ ten times the work."""
    redactor = Redactor([SECRET])
    assert len(redactor.redact(piece * 20_000)) > 0
