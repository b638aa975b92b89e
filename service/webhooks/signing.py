"""Signatures of Standard Webhooks 1.0 (https://www.standardwebhooks.com), as `v1,<base64>`."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

from pydantic import SecretStr

SECRET_PREFIX = "whsec_"  # noqa: S105 - what every secret begins with
SECRET_BYTES = 32
"""Bytes of a new secret; the specification requires 24 to 64."""


def make_secret() -> SecretStr:
    """Return a new secret: `whsec_` and random bytes in base64."""
    random = base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    return SecretStr(f"{SECRET_PREFIX}{random}")


def build_headers(
    event_id: str, seconds: int, body: bytes, signers: Sequence[SecretStr]
) -> dict[str, str]:
    """Return the headers of `body`, sent at `seconds` since 1970, signed with each secret.

    Receivers accept any of the signatures, so that a secret can be changed without interruption.
    """
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": " ".join(sign(signer, event_id, seconds, body) for signer in signers),
    }


def sign(secret: SecretStr, event_id: str, seconds: int, body: bytes) -> str:
    """Return the signature: HMAC-SHA256 over `<id>.<seconds>.<body>`, keyed by the bytes."""
    key = base64.b64decode(secret.get_secret_value().removeprefix(SECRET_PREFIX))
    digest = hmac.new(key, f"{event_id}.{seconds}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
