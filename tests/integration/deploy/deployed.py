"""A deployed Excise under test: what the acceptance tests' harness asks of it, by its URL alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import httpx

from tests.acceptance.harness import Harness


@dataclass(frozen=True)
class Address:
    """What stands where an embedded stack stands elsewhere: nothing but its address."""

    url: str


class DeployedHarness(Harness):
    """The acceptance tests' view of a service that somebody else started."""

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
        """A new key of a tenant, made as an operator makes one."""
        return self._make_key(tenant)

    def close(self) -> None:
        """Close every connection."""
        self.client.close()
        self._http.close()

    def describe(self) -> str:
        """What the deployment says about itself."""
        return self._describe()
