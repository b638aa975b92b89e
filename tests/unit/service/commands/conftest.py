"""The commands' tests talk to the same fake service as the client's."""

from tests.unit.excise.conftest import client, environment, service, url

__all__ = ["client", "environment", "service", "url"]
