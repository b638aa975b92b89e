"""Detoxify's checkpoints fetched, converted and found, without any network."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from tests.unit.workers.scorers.answers import answers
from tests.unit.workers.scorers.detoxify_folders import write_base, write_ckpt
from workers.fetching import detoxify as detoxify_checkpoints  # RENAMED
from workers.fetching.detoxify import (
    LOCK_FILE,
    VARIANTS,
    PublishedVariant,
    fetch_detoxify,
    find_detoxify,
)
from workers.scorers.detoxify import load_detoxify
from workers.scorers.errors import ScorerUnavailableError

URL = "https://host.example/tiny.ckpt"


@dataclass
class Published:
    """A tiny checkpoint that stands in for `original`, and a host that serves it."""

    content: bytes
    base: Path
    requests: int = 0

    def client(self, answer: Callable[[httpx.Request], httpx.Response] | None = None):
        def serve(request: httpx.Request) -> httpx.Response:
            self.requests += 1
            assert str(request.url) == URL
            return answer(request) if answer else httpx.Response(200, content=self.content)

        return httpx.Client(transport=httpx.MockTransport(serve), follow_redirects=True)

    def fetch(self, cache: Path, **options) -> Path:
        options.setdefault("client", self.client())
        return fetch_detoxify("original", cache, fetch_base=lambda *_: self.base, **options)


@pytest.fixture
def published(tmp_path: Path, monkeypatch) -> Published:
    model = write_ckpt(tmp_path / "tiny.ckpt", classes=("toxic", "severe_toxic"))
    content = (tmp_path / "tiny.ckpt").read_bytes()
    variant = PublishedVariant(URL, sha256(content).hexdigest()[:8], "org/base", "0" * 40)
    monkeypatch.setattr(detoxify_checkpoints, "VARIANTS", {"original": variant})
    return Published(content, write_base(tmp_path / "base", model))


def test_every_published_variant_is_pinned() -> None:
    assert set(VARIANTS) == {
        "original",
        "unbiased",
        "multilingual",
        "original-small",
        "unbiased-small",
    }
    from detoxify.detoxify import MODEL_URLS

    for name, variant in VARIANTS.items():
        assert variant.url == MODEL_URLS[name]
        in_file_name = variant.url.removesuffix(".ckpt").rsplit("-", 1)[1]
        assert variant.sha256.startswith(in_file_name)
        assert len(variant.base_revision) == 40


def test_fetched_once_and_kept_as_safetensors(published: Published, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    folder = published.fetch(cache)
    assert folder == cache / "original"
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "detoxify.json", "tokenizer.json"} <= names
    assert not list(cache.rglob("*.ckpt"))
    manifest = json.loads((folder / "detoxify.json").read_text())
    assert manifest["source"] == URL
    assert manifest["source_sha256"] == sha256(published.content).hexdigest()
    assert json.loads((folder / "config.json").read_text())["id2label"]["0"] == "toxicity"
    assert published.fetch(cache) == folder
    assert published.requests == 1
    assert sorted(path.name for path in cache.iterdir()) == [LOCK_FILE, "original"]


def test_converted_scores_are_the_same(published: Published, tmp_path: Path) -> None:
    local = write_base(tmp_path / "local", write_ckpt(tmp_path / "x.ckpt"), labels=3)
    (local / "tiny.ckpt").write_bytes(published.content)
    converted = load_detoxify(published.fetch(tmp_path / "cache"))
    texts = answers("a b c", "z y", "q " * 90)
    assert converted.score(texts) == load_detoxify(local).score(texts)


def test_a_changed_conversion_is_refused(published: Published, tmp_path: Path) -> None:
    folder = published.fetch(tmp_path / "cache")
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ScorerUnavailableError, match="has changed since it was converted"):
        load_detoxify(folder)


def test_another_file_than_published_is_refused(published: Published, tmp_path: Path) -> None:
    published.content += b"x"
    with pytest.raises(ScorerUnavailableError, match=r"SHA-256 is .*, not .* Do not use it"):
        published.fetch(tmp_path / "cache")
    assert not (tmp_path / "cache" / "original").exists()


def test_a_hash_once_seen_is_held_to(published: Published, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    published.fetch(cache)
    lock = cache / LOCK_FILE
    digest = sha256(published.content).hexdigest()
    assert json.loads(lock.read_text()) == {"original": digest}
    (cache / "original").rename(tmp_path / "away")
    lock.write_text(json.dumps({"original": digest[:8] + "0" * 56}))
    with pytest.raises(ScorerUnavailableError, match=f"not {digest[:8]}0000"):
        published.fetch(cache)
    lock.write_text("{")
    with pytest.raises(ScorerUnavailableError, match="is damaged"):
        published.fetch(cache)


def _unreachable(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no route")


@pytest.mark.parametrize("answer", [_unreachable, lambda request: httpx.Response(404)])
def test_a_host_out_of_reach(answer, published: Published, tmp_path: Path) -> None:
    with pytest.raises(ScorerUnavailableError, match=r"cannot fetch .* detoxify/<folder>"):
        published.fetch(tmp_path / "cache", client=published.client(answer))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_download_too_large(published: Published, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(detoxify_checkpoints, "MAX_BYTES", 100)
    with pytest.raises(ScorerUnavailableError, match="larger than 100 bytes"):
        published.fetch(tmp_path / "cache")


def test_a_checkpoint_that_does_not_load_is_not_kept(published: Published, tmp_path: Path) -> None:
    (published.base / "tokenizer.json").unlink()
    with pytest.raises(ScorerUnavailableError):
        published.fetch(tmp_path / "cache")
    assert not (tmp_path / "cache" / "original").exists()


def test_an_unpublished_variant(tmp_path: Path) -> None:
    with pytest.raises(ScorerUnavailableError, match="no 'large', only original, unbiased"):
        fetch_detoxify("large", tmp_path)


def test_found_by_name_in_the_first_root_that_has_it(tmp_path: Path) -> None:
    roots = [tmp_path / "one", tmp_path / "two"]
    (roots[1] / "mine").mkdir(parents=True)
    assert find_detoxify("mine", roots) == roots[1] / "mine"
    (roots[0] / "mine").mkdir(parents=True)
    assert find_detoxify("mine", roots) == roots[0] / "mine"


def test_a_published_name_is_fetched_into_the_first_root(tmp_path: Path, monkeypatch) -> None:
    fetched = []

    def fetch(variant: str, cache: Path) -> Path:
        fetched.append((variant, cache))
        return cache / variant

    monkeypatch.setattr(detoxify_checkpoints, "fetch_detoxify", fetch)
    roots = [tmp_path / "one", tmp_path / "two"]
    assert find_detoxify("unbiased", roots) == roots[0] / "unbiased"
    assert fetched == [("unbiased", roots[0])]


def test_what_there_is_is_listed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ScorerUnavailableError, match=r"called 'theirs'. There: mine; published"):
        find_detoxify("theirs", [tmp_path, tmp_path / "absent"])
    with pytest.raises(ScorerUnavailableError, match="There: none"):
        find_detoxify("original", [])


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc", "a.b", "a\\b", "-a", "a\n"])
def test_names_are_never_paths(name: str, tmp_path: Path) -> None:
    with pytest.raises(ScorerUnavailableError, match="neither dots nor slashes"):
        find_detoxify(name, [tmp_path])
