"""The Compose file and what lies beside it keep their promises; no containers are started."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy" / "compose"
RUNBOOKS = ROOT / "docs" / "runbooks"
SERVICES = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))["services"]


def test_a_broker_that_is_away_takes_no_api_out_of_the_proxy() -> None:
    """The API takes jobs without it, as docs/runbooks/lost-broker.md says."""
    lines = (FOLDER / "haproxy.cfg").read_text(encoding="utf-8").splitlines()
    checks = [line.split() for line in lines if "httpchk" in line]
    assert checks == [["option", "httpchk", "GET", "/healthz"]]


def test_the_proxy_writes_the_headers_that_the_api_believes() -> None:
    """With `FORWARDED_ALLOW_IPS=*` uvicorn takes the first address there is."""
    lines = (FOLDER / "haproxy.cfg").read_text(encoding="utf-8").splitlines()
    words = [line.split() for line in lines]
    assert ["http-request", "set-header", "X-Forwarded-For", "%[src]"] in words
    assert ["option", "forwardfor"] not in words


def test_a_restore_puts_checkpoints_back_before_workers_look_for_them() -> None:
    text = (RUNBOOKS / "backup-and-restore.md").read_text(encoding="utf-8")
    block = text.partition("## Restore")[2].split("```")[1]
    commands = block.strip().splitlines()
    starting = [number for number, line in enumerate(commands) if " up " in line]
    placing = [number for number, line in enumerate(commands) if "models" in line]
    assert len(placing) == 2
    assert starting == [0, len(commands) - 1]
    assert commands[0].endswith("postgres valkey")
    assert placing[0] - 1 == commands.index("docker compose create worker")


def test_no_container_s_log_fills_the_disk() -> None:
    for name, service in SERVICES.items():
        logging = {"driver": "json-file", "options": {"max-size": "20m", "max-file": "5"}}
        assert service.get("logging") == logging, name


def test_the_database_lies_in_its_volume_whatever_the_image_s_default_is() -> None:
    """PostgreSQL's official images have another default since 18."""
    postgres = SERVICES["postgres"]
    [volume] = postgres["volumes"]
    assert volume == f"database:{postgres['environment']['PGDATA']}"


def test_every_setting_of_the_compose_file_is_shown_and_every_shown_one_is_passed_on() -> None:
    text = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
    filled_in = set(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)", text))
    environments = [service.get("environment", {}) for service in SERVICES.values()]
    passed_on = {name for values in environments for name, value in values.items() if value is None}
    example = (FOLDER / "env.example").read_text(encoding="utf-8")
    shown = set(re.findall(r"^#?([A-Z0-9_]+)=", example, re.MULTILINE))
    assert shown == filled_in | passed_on


def test_passwords_and_backups_are_for_their_owner_alone(tmp_path: Path) -> None:
    """The lines of README and runbook, with programs that only print in the place of Docker's."""
    (tmp_path / "env.example").write_text("POSTGRES_PASSWORD=\nVALKEY_PASSWORD=\n")
    readme = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    install = readme.partition("## Compose, on one host")[2].split("```")[1]
    backup = (RUNBOOKS / "backup-and-restore.md").read_text(encoding="utf-8").split("```")[1]
    lines = [line for line in install.splitlines() if ".env" in line]
    script = "\n".join(["umask 022", "docker() { echo data; }", *lines, backup])
    subprocess.run(["sh", "-ec", script], cwd=tmp_path, check=True)
    written = (tmp_path / ".env", *(tmp_path / "backup").iterdir())
    assert {path.name for path in written} == {".env", "excise.dump", "artifacts.tar"}
    assert {path.stat().st_mode & 0o077 for path in written} == {0}
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {".env", "deploy/compose/backup/"} <= set(ignored)


def test_prometheus_finds_what_the_readme_has_it_ask_for() -> None:
    readme = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    config = yaml.safe_load(readme.partition("```yaml\n")[2].partition("```")[0])
    ports = {}
    for job in config["scrape_configs"]:
        [found] = job["dns_sd_configs"]
        [name] = found["names"]
        ports[name] = found["port"]
    assert ports == {"api": 8100, "worker": 9108}
    for name, network in (("api", "front"), ("worker", "outside")):
        assert network in SERVICES[name]["networks"]
        assert f"docker network connect excise_{network} prometheus" in readme
    assert f"EXCISE_METRICS_ADDRESS=0.0.0.0:{ports['worker']}" in readme
