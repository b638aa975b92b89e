"""A deployed Excise under test: the acceptance tests' harness, given nothing but its URL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import httpx

from excise.client import Client
from excise.resources.jobs import JobView
from tests.acceptance.harness import Harness, wait_for

_PATIENCE_SECONDS = 1200
"""Two releases, or a stack of containers, are slow on a machine that others use as well."""


@dataclass(frozen=True)
class Address:
    """Replaces an embedded stack where only its address is needed."""

    url: str


class DeployedHarness(Harness):
    """The acceptance tests' harness for a service that was started elsewhere."""

    def __init__(
        self, url: str, make_key: Callable[[str], str], describe: Callable[[], str]
    ) -> None:
        self.stack = Address(url)
        self._make_key = make_key
        self._describe = describe
        self.key = self.create_key("first")
        self.client = self.connect(self.key)
        self._http = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def create_key(self, tenant: str) -> str:
        """Return a new key of a tenant, made as an operator makes one."""
        return self._make_key(tenant)

    def wait(self, job_id: str, client: Client | None = None) -> JobView:
        """Return the job once it has ended."""
        asked = client or self.client

        def ended() -> JobView | None:
            job = asked.get_job(job_id)
            return None if job.status in {"queued", "running"} else job

        return wait_for(ended, f"the end of {job_id}", self.describe, _PATIENCE_SECONDS)

    def close(self) -> None:
        """Close every connection."""
        self.client.close()
        self._http.close()

    def describe(self) -> str:
        """Return the deployment's description of itself."""
        return self._describe()
