"""The artifact store: one contract, two places."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import fsspec
import pytest

from service.artifacts import (
    ArtifactStore,
    LocalArtifactStore,
    RemoteArtifactStore,
    count_free_bytes,
    open_artifact_store,
)
from service.errors import ArtifactCorruptError, ArtifactNotFoundError, StoreUnavailableError

UNKNOWN = "0" * 64


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "local":
        return open_artifact_store(str(tmp_path / "artifacts"))
    return open_artifact_store(f"memory://{tmp_path.name}")


def test_content_comes_back(store: ArtifactStore, tmp_path: Path) -> None:
    sha256 = store.put_bytes(b"content")
    assert sha256 == hashlib.sha256(b"content").hexdigest()
    assert store.put_bytes(b"content") == sha256
    assert store.get(sha256) == b"content"
    assert store.size(sha256) == 7
    assert store.exists(sha256)
    assert store.fetch_file(sha256, tmp_path / "copy").read_bytes() == b"content"
    with store.open(sha256) as stream:
        assert stream.read(3) == b"con"


def test_files_are_stored_by_content(store: ArtifactStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 10_000)
    sha256 = store.put_file(source)
    assert store.get(sha256) == source.read_bytes()


def test_unknown_and_malformed_ids(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    assert not store.exists(UNKNOWN)
    for bad in (UNKNOWN, "", "../secret", str(tmp_path / "secret"), "A" * 64, UNKNOWN + "\n"):
        with pytest.raises(ArtifactNotFoundError):
            store.get(bad)
        with pytest.raises(ArtifactNotFoundError):
            store.size(bad)


def test_changed_content_is_noticed_on_read(tmp_path: Path) -> None:
    store = LocalArtifactStore(tmp_path)
    sha256 = store.put_bytes(b"content")
    (tmp_path / sha256[:2] / sha256).write_bytes(b"Content")
    with pytest.raises(ArtifactCorruptError):
        store.get(sha256)
    with pytest.raises(ArtifactCorruptError):
        store.fetch_file(sha256, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_changed_remote_content_is_noticed_on_read(tmp_path: Path) -> None:
    store = open_artifact_store(f"memory://{tmp_path.name}")
    sha256 = store.put_bytes(b"content")
    fsspec.filesystem("memory").pipe(f"/{tmp_path.name}/{sha256[:2]}/{sha256}", b"other")
    with pytest.raises(ArtifactCorruptError):
        store.get(sha256)


def test_a_shared_file_is_not_copied_where_it_lies_on_the_same_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalArtifactStore(tmp_path / "store")
    sha256 = store.put_bytes(b"weights")
    (stored,) = [path for path in (tmp_path / "store").rglob(sha256) if path.is_file()]
    linked = store.share_file(sha256, tmp_path / "linked")
    assert linked.stat().st_ino == stored.stat().st_ino
    store.delete(sha256)
    assert linked.read_bytes() == b"weights"

    def refuse(*_: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr("service.artifacts.os.link", refuse)
    sha256 = store.put_bytes(b"others")
    copied = store.share_file(sha256, tmp_path / "copied")
    assert copied.read_bytes() == b"others"
    assert copied.stat().st_nlink == 1


def test_what_is_shared_is_checked_first(store: ArtifactStore, tmp_path: Path) -> None:
    sha256 = store.put_bytes(b"weights")
    assert store.share_file(sha256, tmp_path / "file").read_bytes() == b"weights"
    with pytest.raises(ArtifactNotFoundError):
        store.share_file("0" * 64, tmp_path / "nothing")
    local = LocalArtifactStore(tmp_path / "store")
    sha256 = local.put_bytes(b"right")
    (stored,) = [path for path in (tmp_path / "store").rglob(sha256) if path.is_file()]
    stored.write_bytes(b"wrong")
    with pytest.raises(ArtifactCorruptError):
        local.share_file(sha256, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize("is_file", [True, False])
def test_what_was_cut_off_is_stored_anew(
    store: ArtifactStore, tmp_path: Path, is_file: bool
) -> None:
    """As by a disk that was full, or a backup; who has the content still need not know of it."""
    (tmp_path / "file").write_bytes(b"content")
    sha256 = store.put_bytes(b"content")
    for cut in (b"", b"cont"):
        store.delete(sha256)
        store._write(sha256, io.BytesIO(cut))
        with pytest.raises(ArtifactCorruptError):
            store.get(sha256)
        found = store.put_file(tmp_path / "file") if is_file else store.put_bytes(b"content")
        assert found == sha256
        assert store.get(sha256) == b"content"


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalArtifactStore(tmp_path / "artifacts")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("service.artifacts.os.fsync", fail)
    with pytest.raises(StoreUnavailableError, match="No space"):
        store.put_bytes(b"content")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_is_deleted_is_gone_and_can_be_stored_again(store: ArtifactStore) -> None:
    sha256 = store.put_bytes(b"content")
    store.delete(sha256)
    assert not store.exists(sha256)
    store.delete(sha256)
    assert store.put_bytes(b"content") == sha256
    assert store.get(sha256) == b"content"
    with pytest.raises(ArtifactNotFoundError):
        store.delete("../secret")


def test_reading_copies_nothing_aside(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten large downloads that nobody took filled TMPDIR."""
    content = bytes(range(256)) * 100_000
    sha256 = store.put_bytes(content)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a temporary file was made")

    monkeypatch.setattr("tempfile.SpooledTemporaryFile", refuse)
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with store.open(sha256) as stream:
        assert stream.read() == content


def test_a_file_with_another_hash_is_not_put_in_place(tmp_path: Path) -> None:
    store = LocalArtifactStore(tmp_path)
    sha256 = store.put_bytes(b"content")
    (tmp_path / sha256[:2] / sha256).write_bytes(b"Content")
    destination = tmp_path / "copy"
    with pytest.raises(ArtifactCorruptError):
        store.fetch_file(sha256, destination)
    assert [path.name for path in tmp_path.iterdir()] == [sha256[:2]]


def test_what_dead_writers_left_is_swept(store: ArtifactStore, tmp_path: Path) -> None:
    sha256 = store.put_bytes(b"content")
    if not isinstance(store, LocalArtifactStore):  # an object store shows whole objects only
        assert store.sweep_partial(0) == 0
        return
    folder = tmp_path / "artifacts" / sha256[:2]
    old, new = folder / ".partial-old", folder / ".partial-new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert store.sweep_partial(3600) == 1
    assert sorted(path.name for path in folder.iterdir()) == sorted([".partial-new", sha256])
    assert store.get(sha256) == b"content"


def test_room_is_told_of_folders_alone_even_before_they_are_there(tmp_path: Path) -> None:
    assert (count_free_bytes(str(tmp_path / "not" / "yet")) or 0) > 0
    assert (count_free_bytes(f"file://{tmp_path}") or 0) > 0
    assert count_free_bytes("s3://bucket/prefix") is None


class FaultyFiles:
    """A bucket of fsspec's whose answers go wrong as the test says."""

    def __init__(self, store: ArtifactStore, fault: Callable[[IO[bytes]], IO[bytes]]) -> None:
        assert isinstance(store, RemoteArtifactStore)
        self._files, self._fault = store._files, fault
        store._files = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def open(self, path: str, mode: str) -> IO[bytes]:
        opened: IO[bytes] = self._files.open(path, mode)
        return self._fault(opened)


class LostAnswerError(Exception):
    """What a library of its own raises: no OSError."""


def lose(_: IO[bytes]) -> IO[bytes]:
    raise LostAnswerError("503 Slow Down, asked for by key AKIA")


def cut_off(opened: IO[bytes]) -> IO[bytes]:
    return io.BytesIO(opened.read()[:-1])


@pytest.mark.parametrize("fault", [lose, cut_off])
def test_a_bucket_that_fails_says_nothing_about_the_content(
    tmp_path: Path, fault: Callable[[IO[bytes]], IO[bytes]]
) -> None:
    store = open_artifact_store(f"memory://{tmp_path.name}")
    sha256 = store.put_bytes(b"content")
    FaultyFiles(store, fault)
    with pytest.raises(StoreUnavailableError) as told:
        store.get(sha256)
    assert "AKIA" not in str(told.value)
    with pytest.raises(StoreUnavailableError):
        store.fetch_file(sha256, tmp_path / "copy")
    with pytest.raises(StoreUnavailableError), store.open(sha256):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_is_returned_is_what_was_checked(tmp_path: Path) -> None:
    """A bucket that answers rightly once and cuts off the second answer."""
    store = open_artifact_store(f"memory://{tmp_path.name}")
    sha256 = store.put_bytes(b"content")

    class Fickle(io.BytesIO):
        def seek(self, *arguments: int) -> int:
            self.truncate(3)
            return super().seek(*arguments)

    FaultyFiles(store, lambda opened: Fickle(opened.read()))
    assert store.get(sha256) == b"content"
