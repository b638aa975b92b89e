"""The artifact store: files stored under the SHA-256 of their content.

Workers write to it and the API reads from it; see docs/decisions/0001.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

import fsspec

from service.errors import (
    ArtifactCorruptError,
    ArtifactNotFoundError,
    ExciseError,
    StoreUnavailableError,
)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 1024 * 1024
_PARTIAL = ".partial-"


@contextmanager
def _reaching() -> Iterator[None]:
    """Raise `StoreUnavailableError` for whatever a disk or an object store fails with.

    The libraries behind fsspec share no class of errors. Running out of memory is no fault of the
    store.
    """
    try:
        yield
    except (ExciseError, MemoryError):
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise StoreUnavailableError(
            f"The artifact store cannot be used ({reason}). Make room or bring it back, and try "
            "again."
        ) from error


class ArtifactStore(ABC):
    """Content-addressed files. An id is 64 hex digits, never a path.

    Every read checks the hash before returning the first byte. Every method raises
    `StoreUnavailableError` if the disk is full or the object store does not answer; nothing
    half-written is left then.
    """

    def put_bytes(self, content: bytes) -> str:
        """Store `content`; return its SHA-256."""
        sha256 = hashlib.sha256(content).hexdigest()
        if not self._holds(sha256, len(content)):
            self._write(sha256, io.BytesIO(content))
        return sha256

    def put_file(self, path: Path) -> str:
        """Store the file at `path`; return its SHA-256."""
        with path.open("rb") as source:
            sha256 = hashlib.file_digest(source, "sha256").hexdigest()
            if not self._holds(sha256, source.tell()):
                source.seek(0)
                self._write(sha256, source)
        return sha256

    def get(self, sha256: str) -> bytes:
        """Return the content stored under `sha256`.

        Raises `ArtifactNotFoundError` for an unknown or malformed id, and `ArtifactCorruptError` if
        the stored bytes have another hash.
        """
        check_artifact_id(sha256)
        with self._read(sha256) as source:
            content = b"".join(_read_chunks(source))  # once: a second answer may be another
        self._check(sha256, hashlib.sha256(content).hexdigest(), len(content))
        return content

    def fetch_file(self, sha256: str, destination: Path) -> Path:
        """Copy the content to `destination`, completely or not at all, and return that path.

        Raises what `get` does.
        """
        check_artifact_id(sha256)
        digest = hashlib.sha256()
        with self._read(sha256) as source, _replacing(destination) as target:
            for chunk in _read_chunks(source):
                digest.update(chunk)
                target.write(chunk)
            self._check(sha256, digest.hexdigest(), target.tell())
        return destination

    def share_file(self, sha256: str, destination: Path) -> Path:
        """Like `fetch_file`, for a file that will never be written to.

        If the content is on the same disk, it is not copied: both names refer to one file.
        """
        return self.fetch_file(sha256, destination)

    @contextmanager
    def open(self, sha256: str) -> Iterator[IO[bytes]]:
        """Yield the content as a stream, after checking its hash; raises what `get` does.

        The content is read twice and not copied, because stored content never changes.
        """
        check_artifact_id(sha256)
        digest, size = hashlib.sha256(), 0
        with self._read(sha256) as source:
            for chunk in _read_chunks(source):
                digest.update(chunk)
                size += len(chunk)
            self._check(sha256, digest.hexdigest(), size)
            with _reaching():
                source.seek(0)
            yield source

    @abstractmethod
    def exists(self, sha256: str) -> bool:
        """Return whether something is stored under `sha256`."""

    @abstractmethod
    def size(self, sha256: str) -> int:
        """Return the stored size in bytes; raises `ArtifactNotFoundError`."""

    @abstractmethod
    def delete(self, sha256: str) -> None:
        """Delete what is stored under `sha256`, if anything is."""

    def sweep_partial(self, unchanged_seconds: float) -> int:  # noqa: ARG002 - of folders only
        """Delete incomplete files left by writers that died; return their number."""
        return 0

    def _holds(self, sha256: str, size: int) -> bool:
        """Return whether something of this size is stored under `sha256`.

        Content that was cut off, for example by a full disk or a backup, is then stored again.
        """
        try:
            return self.size(sha256) == size
        except ArtifactNotFoundError:
            return False

    def _check(self, sha256: str, found: str, size: int) -> None:
        """Raise `ArtifactCorruptError` unless the bytes read have the hash in their name.

        If they are fewer than are stored, only the answer was cut off: `StoreUnavailableError`.
        """
        if found == sha256:
            return
        if size < self.size(sha256):
            raise StoreUnavailableError(
                "The artifact store's answer was cut off. Try again in a few seconds."
            )
        raise ArtifactCorruptError(
            f"Artifact {sha256} has the hash {found}. Delete the stored file and run the job again."
        )

    @abstractmethod
    def _read(self, sha256: str) -> IO[bytes]:
        """Return the stored bytes, unchecked; raises `ArtifactNotFoundError`."""

    @abstractmethod
    def _write(self, sha256: str, source: IO[bytes]) -> None:
        """Store all of `source` under `sha256`, atomically."""


class LocalArtifactStore(ArtifactStore):
    """Artifacts in a folder: `<folder>/<first two digits>/<sha256>`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @_reaching()
    def exists(self, sha256: str) -> bool:
        """Return whether something is stored under `sha256`."""
        return self._path(sha256).is_file()

    @_reaching()
    def size(self, sha256: str) -> int:
        """Return the stored size in bytes; raises `ArtifactNotFoundError`."""
        try:
            return self._path(sha256).stat().st_size
        except FileNotFoundError:
            raise _not_found(sha256) from None

    @_reaching()
    def delete(self, sha256: str) -> None:
        """Delete what is stored under `sha256`, if anything is."""
        self._path(sha256).unlink(missing_ok=True)

    def sweep_partial(self, unchanged_seconds: float) -> int:
        """Delete temporary files unchanged for `unchanged_seconds`; return their number."""
        before, deleted = time.time() - unchanged_seconds, 0
        for path in self._folder.glob(f"*/{_PARTIAL}*"):
            with suppress(FileNotFoundError):  # it was renamed, or another sweeper was faster
                if path.stat().st_mtime < before:
                    path.unlink()
                    deleted += 1
        return deleted

    def share_file(self, sha256: str, destination: Path) -> Path:
        """Create a hard link after checking the content's hash; a copy if links are impossible."""
        with self.open(sha256):
            pass
        try:
            os.link(self._path(sha256), destination)
        except OSError:
            return self.fetch_file(sha256, destination)
        return destination

    @_reaching()
    def _read(self, sha256: str) -> IO[bytes]:
        try:
            return self._path(sha256).open("rb")
        except FileNotFoundError:
            raise _not_found(sha256) from None

    @_reaching()
    def _write(self, sha256: str, source: IO[bytes]) -> None:
        path = self._path(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(path) as target:
            shutil.copyfileobj(source, target, _CHUNK_BYTES)

    def _path(self, sha256: str) -> Path:
        check_artifact_id(sha256)
        return self._folder / sha256[:2] / sha256


class RemoteArtifactStore(ArtifactStore):
    """Artifacts behind an fsspec URL such as `s3://bucket/prefix`.

    Object stores show an object only when its upload is complete, so no rename is needed.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._files, prefix = fsspec.core.url_to_fs(url, **options)
        self._prefix = str(prefix).rstrip("/")

    @_reaching()
    def exists(self, sha256: str) -> bool:
        """Return whether something is stored under `sha256`."""
        return bool(self._files.isfile(self._path(sha256)))

    @_reaching()
    def size(self, sha256: str) -> int:
        """Return the stored size in bytes; raises `ArtifactNotFoundError`."""
        try:
            return int(self._files.size(self._path(sha256)))
        except FileNotFoundError:
            raise _not_found(sha256) from None

    @_reaching()
    def delete(self, sha256: str) -> None:
        """Delete what is stored under `sha256`, if anything is."""
        with suppress(FileNotFoundError):
            self._files.rm_file(self._path(sha256))

    @_reaching()
    def _read(self, sha256: str) -> IO[bytes]:
        try:
            return cast(IO[bytes], self._files.open(self._path(sha256), "rb"))
        except FileNotFoundError:
            raise _not_found(sha256) from None

    @_reaching()
    def _write(self, sha256: str, source: IO[bytes]) -> None:
        path = self._path(sha256)
        with self._files.transaction, self._files.open(path, "wb") as target:
            shutil.copyfileobj(source, target, _CHUNK_BYTES)

    def _path(self, sha256: str) -> str:
        check_artifact_id(sha256)
        return f"{self._prefix}/{sha256[:2]}/{sha256}"


def open_artifact_store(location: str) -> ArtifactStore:
    """Return the store at `location`: a folder path, or an fsspec URL (`s3://…`)."""
    folder = _find_folder(location)
    return RemoteArtifactStore(location) if folder is None else LocalArtifactStore(folder)


def count_free_bytes(location: str) -> int | None:
    """Return the bytes that can still be stored at `location`; None if unknown, as for S3."""
    folder = _find_folder(location)
    if folder is None:
        return None
    absolute = folder.absolute()
    existing = next(path for path in (absolute, *absolute.parents) if path.exists())
    return shutil.disk_usage(existing).free


def _find_folder(location: str) -> Path | None:
    """Return the folder at `location`, or None for a URL that is not a file's."""
    if "://" in location and not location.startswith("file://"):
        return None
    return Path(location.removeprefix("file://")).expanduser()


def check_artifact_id(sha256: str) -> None:
    """Raise `ArtifactNotFoundError` unless `sha256` is 64 lower-case hex digits."""
    if not _SHA256.fullmatch(sha256):
        raise ArtifactNotFoundError("An artifact id is 64 lower-case hex digits.")


def _read_chunks(source: IO[bytes]) -> Iterator[bytes]:
    """Yield the rest of a stored file in chunks. Raises `StoreUnavailableError`."""
    while True:
        with _reaching():
            chunk = source.read(_CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a temporary file next to `path`, which replaces `path` if the block succeeds."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=_PARTIAL)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power failure, if the platform supports it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _not_found(sha256: str) -> ArtifactNotFoundError:
    return ArtifactNotFoundError(f"There is no artifact {sha256}. It may have been cleaned up.")
