"""The HTTP client of the REST API: `Client`, and `AsyncClient` with the same methods to await."""

from excise.client.async_client import AsyncClient
from excise.client.calls import build_set_name
from excise.client.client import Client
from excise.client.errors import ApiError, ClientError, ConnectionLostError, DownloadError

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "ClientError",
    "ConnectionLostError",
    "DownloadError",
    "build_set_name",
]
