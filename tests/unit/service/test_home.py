"""A stack's home: nobody else on the machine may hold its lock."""

from __future__ import annotations

from pathlib import Path

from service.embedded.home import acquire_lock


def test_the_lock_is_its_owners_alone(tmp_path: Path) -> None:
    acquire_lock(tmp_path).close()
    lock = tmp_path / "stack.lock"
    assert lock.stat().st_mode & 0o777 == 0o600
    lock.chmod(0o644)  # as stacks of before made it
    with acquire_lock(tmp_path) as held:
        held.seek(0)
        assert held.read().strip().isdecimal()
    assert lock.stat().st_mode & 0o777 == 0o600
