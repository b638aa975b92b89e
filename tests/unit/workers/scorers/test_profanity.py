"""The real alt-profanity-check, and what is checked before its files are unpickled."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from excise.names import Direction
from tests.unit.workers.scorers.answers import answers
from workers.scorers import profanity
from workers.scorers.errors import ScorerUnavailableError
from workers.scorers.profanity import check_files, load_profanity


def test_probability_of_toxicity() -> None:
    scorer = load_profanity()
    toxic, kind = scorer.score(answers("you are a fucking idiot", "what a lovely morning"))
    assert 0 <= kind < 0.1 < 0.9 < toxic <= 1
    assert scorer.direction is Direction.LOWER_IS_BETTER
    assert scorer.name == "alt-profanity-check"


def test_a_score_does_not_depend_on_the_others() -> None:
    scorer = load_profanity()
    texts = ["shut up you moron", "", "the council met on Tuesday", "a" * 5000]
    together = scorer.score(answers(*texts))
    assert together == [scorer.score(answers(text))[0] for text in texts]
    assert scorer.score([]) == []


def test_nothing_is_unpickled_before_it_is_asked_for() -> None:
    load = "import sys, workers.scorers.profanity"
    code = f"{load}; sys.exit('profanity_check' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_changed_file_is_refused_unread(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "model.joblib").write_bytes(b"as published")
    pin = hashlib.sha256(b"as published").hexdigest()
    monkeypatch.setattr(profanity, "PINNED_FILES", {"1.9.1": {"model.joblib": pin}})
    check_files(tmp_path, "1.9.1")
    (tmp_path / "model.joblib").write_bytes(b"something else")
    with pytest.raises(ScorerUnavailableError, match=r"model\.joblib is not .* Reinstall it"):
        check_files(tmp_path, "1.9.1")


def test_an_unknown_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScorerUnavailableError, match=r"0\.0\.1 is installed.* pip install"):
        check_files(tmp_path, "0.0.1")


def test_a_missing_package_is_named(monkeypatch) -> None:
    monkeypatch.setattr(profanity.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ScorerUnavailableError, match="pip install 'alt-profanity-check=="):
        load_profanity()
