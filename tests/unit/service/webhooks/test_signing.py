"""Signatures of webhooks, against the specification's own example."""

from __future__ import annotations

import base64

from pydantic import SecretStr

from excise.redaction import redact
from service.webhooks.signing import SECRET_BYTES, build_headers, make_secret, sign

EXAMPLE = SecretStr("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
BODY = b'{"test": 2432232314}'


def test_the_example_of_standard_webhooks() -> None:
    found = sign(EXAMPLE, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, BODY)
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_every_secret_signs() -> None:
    other = make_secret()
    headers = build_headers("evt_1", 7, BODY, [EXAMPLE, other])
    assert headers["webhook-id"] == "evt_1"
    assert headers["webhook-timestamp"] == "7"
    both = [sign(secret, "evt_1", 7, BODY) for secret in (EXAMPLE, other)]
    assert headers["webhook-signature"].split(" ") == both


def test_time_id_and_body_are_signed() -> None:
    signatures = {
        sign(EXAMPLE, "evt_1", 7, BODY),
        sign(EXAMPLE, "evt_2", 7, BODY),
        sign(EXAMPLE, "evt_1", 8, BODY),
        sign(EXAMPLE, "evt_1", 7, BODY + b" "),
    }
    assert len(signatures) == 4


def test_a_secret_is_random_and_shows_itself_nowhere() -> None:
    secret = make_secret()
    assert secret != make_secret()
    assert len(base64.b64decode(secret.get_secret_value().removeprefix("whsec_"))) == SECRET_BYTES
    assert "whsec_" not in f"{secret!r} {secret}"
    assert redact(f"it is {secret.get_secret_value()}.") == "it is ***."
