"""Shards in the database: leased, fenced, combined, released, and deleted with their job."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient
from redis import Redis
from sqlalchemy import select, text

from service.broker import Broker
from service.database import Database
from service.errors import LeaseLostError
from service.jobs import execution, shards
from service.jobs.leases import JOBS, SHARDS
from service.leases import operations as leases
from service.models import OutboxMessage, Shard
from service.outbox import resend
from service.relay import Relay
from service.settings import Settings
from tests.integration.service.conftest import clear_jobs, submit

INPUT = "1" * 64
RESULTS = [f"{position:064x}" for position in range(16)]
COUNT = 3


@pytest.fixture
def claim(client: TestClient, database: Database) -> execution.Claim:
    """A claim on a running job whose stage is cut into three shards."""
    clear_jobs(database)
    job_id = str(submit(client)["id"])
    with database.transaction() as session:
        found = execution.claim_job(session, job_id, "owner", 30)
        assert found
        open_stage(session, found)
    return found


def open_stage(session: Any, claim: execution.Claim) -> None:
    shards.open_shards(session, claim.job_id, claim.token, "attribute", "key", INPUT, COUNT)


def list_states(database: Database, claim: execution.Claim) -> list[shards.ShardState]:
    with database.transaction() as session:
        return shards.list_shards(session, claim.job_id, claim.token, "attribute", "key")


def take_next(database: Database, claim: execution.Claim) -> shards.ShardClaim | None:
    with database.transaction() as session:
        return shards.claim_next_shard(session, claim.job_id, claim.token, "attribute", "key", 30)


def take(database: Database, shard_id: str, worker: str = "helper") -> shards.ShardClaim | None:
    with database.transaction() as session:
        return shards.claim_shard(session, shard_id, worker, 30)


def take_first(database: Database, claim: execution.Claim) -> shards.ShardClaim:
    found = take(database, list_states(database, claim)[0].shard_id)
    assert found
    return found


def file(database: Database, held: shards.ShardClaim) -> None:
    with database.transaction() as session:
        shards.file_shard(session, held.shard_id, held.token, RESULTS[held.position])


def expire(database: Database) -> None:
    with database.transaction() as session:
        for table in ("jobs", "shards"):
            session.execute(text(f"UPDATE {table} SET lease_expires_at = now() - interval '1 s'"))


def read(database: Database, shard_id: str) -> Shard:
    with database.transaction() as session:
        return session.get_one(Shard, shard_id)


def read_job(client: TestClient, claim: execution.Claim) -> dict[str, Any]:
    body: dict[str, Any] = client.get(f"/v1/jobs/{claim.job_id}").json()
    return body


def test_a_stage_is_split_once_and_offered_to_other_workers(
    database: Database, claim: execution.Claim
) -> None:
    first = list_states(database, claim)
    with database.transaction() as session:
        open_stage(session, claim)
    assert list_states(database, claim) == first
    assert [state.position for state in first] == [0, 1, 2]
    with database.transaction() as session:
        query = select(OutboxMessage.shard_id).where(OutboxMessage.shard_id.is_not(None))
        assert sorted(session.scalars(query)) == sorted(state.shard_id for state in first)


def test_shards_are_claimed_once_each_and_in_order(
    database: Database, claim: execution.Claim
) -> None:
    ids = [state.shard_id for state in list_states(database, claim)]
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: take_next(database, claim), range(8)))
    assert sorted(found.position for found in taken if found) == [0, 1, 2]
    assert all(take(database, shard_id) is None for shard_id in ids)


def test_the_first_result_stays(database: Database, claim: execution.Claim) -> None:
    held = take_first(database, claim)
    file(database, held)
    with pytest.raises(LeaseLostError), database.transaction() as session:
        shards.file_shard(session, held.shard_id, held.token, RESULTS[9])
    assert take(database, held.shard_id) is None
    state = list_states(database, claim)[0]
    assert (state.result_sha256, state.worker) == (RESULTS[0], "helper")


WRITES: list[Callable[[Any, str, int], object]] = [
    lambda s, i, t: leases.renew(s, SHARDS, i, t, 30),
    lambda s, i, t: shards.file_shard(s, i, t, RESULTS[0]),
    lambda s, i, t: leases.release(s, SHARDS, i, t, "crash"),
    lambda s, i, t: shards.fail_by_shard(s, i, t, "invalid_input", "no"),
]


@pytest.mark.parametrize("write", WRITES)
def test_a_stale_token_writes_nothing(
    database: Database, claim: execution.Claim, write: Callable[[Any, str, int], object]
) -> None:
    stale = take_first(database, claim)
    with database.transaction() as session:
        session.execute(text("UPDATE shards SET lease_expires_at = now() - interval '1 s'"))
    fresh = take(database, stale.shard_id, "another")
    assert fresh
    assert fresh.token > stale.token
    with pytest.raises(LeaseLostError), database.transaction() as session:
        write(session, stale.shard_id, stale.token)
    with database.transaction() as session:
        write(session, fresh.shard_id, fresh.token)


def test_the_owners_shards_live_as_long_as_its_job(
    database: Database, claim: execution.Claim
) -> None:
    held = take_next(database, claim)
    assert held
    before = read(database, held.shard_id).lease_expires_at
    with database.transaction() as session:
        leases.renew(session, JOBS, claim.job_id, claim.token, 300)
    after = read(database, held.shard_id).lease_expires_at
    assert before is not None
    assert after is not None
    assert (after - before).total_seconds() > 200


@pytest.mark.parametrize(("counts", "attempts"), [(True, 1), (False, 0)])
def test_the_owners_shards_are_freed_with_its_job(
    database: Database, claim: execution.Claim, counts: bool, attempts: int
) -> None:
    held, other = take_next(database, claim), take_next(database, claim)
    assert held
    assert other
    file(database, other)
    helper = take(database, list_states(database, claim)[2].shard_id)
    assert helper
    with database.transaction() as session:
        leases.release(session, JOBS, claim.job_id, claim.token, "crash", counts=counts)
    freed = read(database, held.shard_id)
    assert (freed.status, freed.attempts) == ("pending", attempts)
    assert read(database, other.shard_id).status == "succeeded"
    file(database, helper)  # a helper continues while the job waits for a new owner


def test_a_dead_owner_loses_its_shards_to_the_sweeper(
    database: Database, claim: execution.Claim, settings: Settings, broker: Redis
) -> None:
    held = take_next(database, claim)
    assert held
    expire(database)
    relay = Relay(database, Broker(settings.broker_url.get_secret_value()), settings)
    relay.sweep_once()
    assert read(database, held.shard_id).status == "pending"
    assert take(database, held.shard_id) is not None


def test_a_silent_helper_is_reported_and_loses_its_shard(
    client: TestClient, database: Database, claim: execution.Claim
) -> None:
    held = take_first(database, claim)
    with database.transaction() as session:
        assert leases.sweep(session, SHARDS, 30, 3) == []
        session.execute(text("UPDATE shards SET lease_expires_at = now() - interval '1 s'"))
        assert leases.sweep(session, SHARDS, 30, 3) == [held.shard_id]
        assert leases.sweep(session, SHARDS, 30, 3) == []
    event = client.get(f"/v1/jobs/{claim.job_id}/events").json()["data"][-1]
    assert event["type"] == "shard.requeued"
    assert "helper was not heard of any more" in event["message"]


@pytest.mark.parametrize("by_owner", [True, False])
def test_a_shard_that_keeps_killing_its_workers_fails_the_job(
    client: TestClient, database: Database, claim: execution.Claim, by_owner: bool
) -> None:
    for _ in range(3):
        held = take_first(database, claim)
        with database.transaction() as session:
            leases.release(session, SHARDS, held.shard_id, held.token, "Ended by SIGKILL.")
    found = take_next(database, claim) if by_owner else take(database, held.shard_id)
    assert found is None
    job = read_job(client, claim)
    assert (job["status"], job["error"]["code"]) == ("failed", "poison_job")
    message = job["error"]["message"]
    assert message.startswith("Shard 1 of the stage attribute was given up after 3 attempts")
    assert "Ended by SIGKILL." in message
    with pytest.raises(LeaseLostError):
        take_next(database, claim)


def test_an_uncounted_attempt_uses_none_up(database: Database, claim: execution.Claim) -> None:
    for _ in range(5):
        held = take_first(database, claim)
        with database.transaction() as session:
            leases.release(session, SHARDS, held.shard_id, held.token, "shutdown", counts=False)
    assert held.attempt == 1


def test_a_cancelled_job_offers_no_shards(
    client: TestClient, database: Database, claim: execution.Claim
) -> None:
    ids = [state.shard_id for state in list_states(database, claim)]
    held = take_first(database, claim)
    assert client.post(f"/v1/jobs/{claim.job_id}/cancel").status_code == 200
    assert take(database, ids[1]) is None
    with database.transaction() as session:
        assert leases.renew(session, SHARDS, held.shard_id, held.token, 30)
        execution.finish_job(session, claim.job_id, claim.token, "cancelled")
    with pytest.raises(LeaseLostError):
        file(database, held)
    with database.transaction() as session:
        assert session.scalars(select(Shard).where(Shard.job_id == claim.job_id)).all() == []


def test_a_fault_found_in_a_shard_ends_the_job(
    client: TestClient, database: Database, claim: execution.Claim
) -> None:
    held = take_first(database, claim)
    with database.transaction() as session:
        shards.fail_by_shard(session, held.shard_id, held.token, "invalid_input", "No tokeniser.")
    job = read_job(client, claim)
    assert job["error"] == {"code": "invalid_input", "message": "No tokeniser.", "param": None}
    with pytest.raises(LeaseLostError):
        list_states(database, claim)


def test_a_lost_file_is_computed_again(database: Database, claim: execution.Claim) -> None:
    held = take_first(database, claim)
    file(database, held)
    with database.transaction() as session:
        shards.reopen_shard(session, claim.job_id, claim.token, held.shard_id)
    again = take_next(database, claim)
    assert again
    assert again.shard_id == held.shard_id


def test_messages_that_were_lost_are_sent_again(
    database: Database, claim: execution.Claim, settings: Settings, broker: Redis
) -> None:
    relay = Relay(database, Broker(settings.broker_url.get_secret_value()), settings)
    relay.send_once()
    assert broker.llen("celery") == 1 + COUNT
    file(database, take_first(database, claim))
    broker.flushall()
    assert relay.send_once() == COUNT - 1
    with database.transaction() as session:
        assert resend(session, SHARDS, 300) == 0
        session.execute(text("UPDATE shards SET pending_since = now() - interval '10 minutes'"))
        assert resend(session, SHARDS, 300) == 0  # the messages themselves are recent
        session.execute(text("UPDATE outbox SET sent_at = now() - interval '10 minutes'"))
        assert resend(session, SHARDS, 300) == COUNT - 1
        assert resend(session, SHARDS, 300) == 0
