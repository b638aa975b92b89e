"""The pages of the service: what they show comes from the service alone."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from tests.unit.service.test_middleware import build_settings

_LOADED = re.compile(r"""(?:src|href)=["']([^"']+)|url:\s*["']([^"']+)""")
_ADDRESS = re.compile(r"//[\w-]+\.[\w-]+")


@pytest.fixture
def client() -> TestClient:
    """A client of a service that is never started, so that it needs neither database nor broker."""
    return TestClient(create_app(build_settings()), raise_server_exceptions=False)


def list_directives(policy: str) -> dict[str, set[str]]:
    """A content security policy's directives and what each allows."""
    parts = (part.split() for part in policy.split(";"))
    return {name: set(allowed) for name, *allowed in parts}


def test_the_api_page_loads_from_its_own_host(client: TestClient) -> None:
    page = client.get("/docs")
    start = client.get("/docs/start.js")
    loaded = [a or b for a, b in _LOADED.findall(page.text + start.text)]
    assert {"docs/swagger-ui.css", "docs/swagger-ui-bundle.js", "openapi.json"} <= set(loaded)
    for address in loaded:
        assert address == "data:," or client.get(f"/{address}").status_code == 200, address
    assert not _ADDRESS.search(page.text + start.text)


def test_the_browser_is_told_to_ask_no_other_host(client: TestClient) -> None:
    directives = list_directives(client.get("/docs").headers["content-security-policy"])
    assert directives["default-src"] == {"'none'"}
    assert directives["script-src"] == directives["connect-src"] == {"'self'"}
    allowed = set().union(*directives.values())
    assert allowed <= {"'none'", "'self'", "'unsafe-inline'", "data:"}
    assert "validatorUrl: null" in client.get("/docs/start.js").text


def test_the_files_of_the_api_page_are_what_they_say(client: TestClient) -> None:
    script = client.get("/docs/swagger-ui-bundle.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "SwaggerUIBundle" in script.text
    style = client.get("/docs/swagger-ui.css")
    assert style.headers["content-type"].startswith("text/css")
    assert not re.search(r"@import|url\(\s*['\"]?(?:https?:)?//", style.text)


@pytest.mark.parametrize("name", ["other.js", "..%2Froutes.py", "redoc.standalone.js"])
def test_other_files_are_not_served(client: TestClient, name: str) -> None:
    assert client.get(f"/docs/{name}").status_code == 404
