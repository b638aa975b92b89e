"""Whole checkpoints on the embedded stack's servers, for a fake vLLM and a real one alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from service.database import Database
from service.embedded import ServingOptions
from service.embedded.processes import Guardian
from service.embedded.serving import EmbeddedServing
from service.serving.pools import ServingPool
from service.settings import Settings
from tests.integration.serving.conftest import BASE_MODEL, Stage, open_stage, retire_everything
from tests.integration.serving.scenarios import ALIAS, STREAMS, Load, Scene


@dataclass
class Hall:
    """A service whose embedded stack runs servers of whole checkpoints."""

    stage: Stage
    reports: list[str] = field(default_factory=list)

    def count_starts(self) -> int:
        """Return how many servers were started."""
        return sum(line.startswith("starting vLLM for") for line in self.reports)


@contextmanager
def open_hall(
    database: Database,
    settings: Settings,
    folder: Path,
    *,
    models: Path,
    environment: Mapping[str, str],
    checkpoints: int,
) -> Iterator[Hall]:
    """Yield a service with the embedded stack's checkpoint servers, but no server of the base."""
    reports: list[str] = []
    (folder / "logs").mkdir()
    with (folder / "lock").open("w") as lock:
        guardian = Guardian(lock)
        serving = EmbeddedServing(
            ServingOptions(BASE_MODEL, checkpoints=checkpoints, max_model_len=256),
            home=folder,
            models=models,
            environment={"PATH": os.environ["PATH"], **environment},
            guardian=guardian,
            report=reports.append,
        )
        own = serving.api_environment
        pools = TypeAdapter(list[ServingPool]).validate_json(own["EXCISE_SERVING_POOLS"])
        changes: dict[str, object] = {
            "serving_pools": tuple(pool.with_key_from(own) for pool in pools),
            "serving_folder": serving.served_folder,
        }
        try:
            serving.start(settings.database_url.get_secret_value(), settings.artifacts)
            with open_stage(database, settings, None, **changes) as stage:
                yield Hall(stage, reports)
        finally:
            serving.stop()
            guardian.close()
            retire_everything(database)


def switch_checkpoints(
    hall: Hall,
    scene: Scene,
    publish: Callable[[str], str],
    publish_misfit: Callable[[], str],
    names: tuple[str, str, str],
) -> None:
    """Move the alias under load from one whole checkpoint to the next, back, and on to a third.

    No request fails and no answer is mixed. With two servers, the third checkpoint must wait until
    the version to which the alias could go back is given up; publishing it too early is refused
    with that reason.
    """
    client = scene.client
    versions = [publish(names[0])]
    scene.wait_for(versions[0], "live")

    def bring_up(load: Load, name: str) -> None:
        versions.append(publish(name))
        assert scene.wait_for(versions[-1], "live", "failed")["error"] is None
        load.wait_for(STREAMS, lambda answer: answer.version == versions[-1])

    def switch(load: Load) -> None:
        load.wait_for(STREAMS)
        bring_up(load, names[1])
        first, second = versions
        error = scene.wait_for(publish_misfit(), "failed")["error"]
        assert "hold 2 at most" in error
        assert f"{second} answers for {ALIAS}" in error
        assert f"{ALIAS} can go back to {first}" in error
        assert "--serve-checkpoints" in error
        assert client.post(f"/v1/aliases/{ALIAS}/rollback").json()["version"] == first
        load.wait_for(len(load.answers) + 2 * STREAMS)
        assert client.post(f"/v1/aliases/{ALIAS}/promote", json={"version": second}).is_success
        assert client.post(f"/v1/versions/{first}/retire").json()["status"] == "retired"
        bring_up(load, names[2])

    answers = Load(lambda number: scene.ask(ALIAS, number)).run(switch)
    scene.check(answers)
    assert {answer.version for answer in answers} == set(versions)
    assert hall.count_starts() == 3
    assert scene.ask(versions[0], 0).status == 404
