"""Posting JSON to a checked address: bounded, signed, retried, never redirected."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import httpx

from excise.outgoing.endpoints import Destination

SIGNATURE_HEADER = "X-Excise-Signature"
ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 0.5
MAX_ANSWER_BYTES = 1024 * 1024
MAX_SECONDS_PER_ATTEMPT = 120.0

_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class PostError(RuntimeError):
    """A post got no usable answer; the message never contains what was sent or received."""


class _PassingError(PostError):
    """A failure after which another attempt may succeed."""


class SecretUse(StrEnum):
    """How a secret authenticates the sender."""

    BEARER = "bearer"
    """The secret itself is sent: `Authorization: Bearer …`."""
    HMAC = "hmac"
    """It signs time and body: `X-Excise-Signature: t=<seconds>,v1=<hex>`, see `sign`."""


@dataclass(frozen=True)
class Credentials:
    """The operator's secret for one host."""

    secret: str = field(repr=False)
    use: SecretUse = SecretUse.BEARER

    def __post_init__(self) -> None:
        if not self.secret.isascii() or not self.secret.isprintable() or not self.secret.strip():
            raise ValueError("the secret must be printable ASCII and not blank")


@dataclass(frozen=True)
class Clock:
    """The clock for retries and signatures; tests use their own."""

    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random


def sign(secret: str, seconds: int, body: bytes) -> str:
    """Return the signature header of `body`, sent at `seconds` since 1970.

    It is HMAC-SHA256 over "<seconds>.<body>", so that an old post cannot be replayed as a new one.
    """
    digest = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"


class Poster:
    """Posts JSON to one destination over one connection; a context manager."""

    def __init__(
        self,
        destination: Destination,
        credentials: Credentials | None = None,
        clock: Clock | None = None,
        timeout: httpx.Timeout = _TIMEOUT,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        """Post to `destination` at the checked address, without any proxy.

        Certificates are verified against `trust`, by default httpx's authorities.
        """
        self._destination = destination
        self._credentials = credentials
        self._clock = clock or Clock()
        self._client = httpx.AsyncClient(
            timeout=timeout, follow_redirects=False, trust_env=False, verify=trust or True
        )
        self._runner = asyncio.Runner()  # a task can be cancelled wherever it waits

    def __enter__(self) -> Poster:
        return self

    def __exit__(self, *exception: object) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()

    def post(self, body: bytes) -> bytes:
        """Return the answer to `body`, at most `MAX_ANSWER_BYTES`.

        An attempt takes at most `MAX_SECONDS_PER_ATTEMPT`, even if the answer comes slowly.
        Time-outs, broken connections and status 5xx or 429 are retried, with up to `ATTEMPTS`
        attempts in total and doubling pauses. Raises `PostError`, also for a redirect.
        """
        for attempt in range(1, ATTEMPTS):
            try:
                return self._post_once(body)
            except _PassingError:
                pause = FIRST_PAUSE_SECONDS * 2 ** (attempt - 1)
                self._clock.sleep(pause * (1 + self._clock.jitter()))
        try:
            return self._post_once(body)
        except _PassingError as error:
            raise PostError(f"{error}, {ATTEMPTS} times in a row") from error

    def _post_once(self, body: bytes) -> bytes:
        """Make one attempt, which ends when its time is up."""
        self._runner.get_loop()  # raises if closed, before a coroutine exists that must be awaited
        return self._runner.run(self._post_in_time(body))

    async def _post_in_time(self, body: bytes) -> bytes:
        try:
            async with asyncio.timeout(MAX_SECONDS_PER_ATTEMPT):
                return await self._send(body)
        except TimeoutError:
            host = self._destination.endpoint.host
            raise _PassingError(f"{host} took over {MAX_SECONDS_PER_ATTEMPT:g} s") from None

    async def _send(self, body: bytes) -> bytes:
        host = self._destination.endpoint.host
        try:
            async with self._client.stream(
                "POST",
                self._destination.url,
                content=body,
                headers=self._build_headers(body),
                extensions={"sni_hostname": host},  # verify the certificate against the name
            ) as response:
                return await self._read(response)
        except (httpx.TransportError, httpx.StreamError) as error:
            raise _PassingError(f"{host} failed: {type(error).__name__}") from error
        except httpx.HTTPError as error:
            raise PostError(f"{host} failed: {type(error).__name__}") from error

    async def _read(self, response: httpx.Response) -> bytes:
        """Return the body as received.

        Raises `PostError` for any status but 200, for a compressed body and for one that is too
        large.
        """
        host, status = self._destination.endpoint.host, response.status_code
        if status in _TRY_AGAIN:
            raise _PassingError(f"{host} answered {status}")
        if response.is_redirect:
            raise PostError(f"{host} answered {status}, a redirect; name the final URL")
        if status != 200:
            raise PostError(f"{host} answered {status} instead of 200")
        if (coding := response.headers.get("Content-Encoding", "identity")) != "identity":
            raise PostError(f"{host} answered with the encoding {coding[:32]!r}; send it unpacked")
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > MAX_ANSWER_BYTES:
                raise PostError(f"{host} answered more than {MAX_ANSWER_BYTES:,} bytes")
        return bytes(content)

    def _build_headers(self, body: bytes) -> dict[str, str]:
        headers = {
            "Host": self._destination.endpoint.authority,
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # compressed bodies could unpack to gigabytes
        }
        if self._credentials is not None:
            secret = self._credentials.secret
            if self._credentials.use is SecretUse.HMAC:
                headers[SIGNATURE_HEADER] = sign(secret, int(self._clock.now()), body)
            else:
                headers["Authorization"] = f"Bearer {secret}"
        return headers
