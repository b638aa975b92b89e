"""The Compose file and what lies beside it keep their promises; no containers are started."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "compose"


def test_a_broker_that_is_away_takes_no_api_out_of_the_proxy() -> None:
    """The API takes jobs without it, as docs/runbooks/lost-broker.md says."""
    lines = (FOLDER / "haproxy.cfg").read_text(encoding="utf-8").splitlines()
    checks = [line.split() for line in lines if "httpchk" in line]
    assert checks == [["option", "httpchk", "GET", "/healthz"]]
