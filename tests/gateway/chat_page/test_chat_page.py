"""The page's files and their headers. What it does in a browser is in compat_tests/test_chat_page.py."""

from __future__ import annotations

import hashlib
import json
import re

import httpx
import pytest

from gateway.chat_page.route import STATIC
from gateway.settings import GatewaySettings
from tests.serving import ScriptedBackend, serving

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def test_browsers_get_the_page_and_curl_a_line(client: httpx.Client) -> None:
    page = client.get("/", headers=BROWSER)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>Chat" in page.text
    line = client.get("/")
    assert line.headers["content-type"] == "text/plain; charset=utf-8"
    assert line.text.count("\n") == 1
    assert "Accept" in line.headers["vary"]


def test_all_that_the_page_names_is_there(client: httpx.Client) -> None:
    page = client.get("/", headers=BROWSER).text
    names = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert len(names) == 9
    styles = client.get("/page/vendor/katex/katex.min.css").text
    names += [f"page/vendor/katex/{font}" for font in re.findall(r"url\((fonts/[^)]+\.woff2)\)", styles)]
    for name in names:
        answer = client.get(f"/{name}")
        assert answer.is_success
        assert answer.headers["content-type"].startswith(("text/", "font/woff2", "image/svg"))


@pytest.mark.parametrize("path", ["/", "/page/chat.js", "/page/vendor/marked/marked.umd.js"])
def test_nothing_runs_but_what_is_here(client: httpx.Client, path: str) -> None:
    headers = client.get(path, headers=BROWSER).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_a_browser_that_has_a_file_is_not_sent_it_again(client: httpx.Client) -> None:
    etag = client.get("/page/chat.js").headers["etag"]
    again = client.get("/page/chat.js", headers={"If-None-Match": f'"other", W/{etag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/page/chat.js", headers={"If-None-Match": '"other"'}).status_code == 200


def test_only_the_pages_files_are_served(client: httpx.Client) -> None:
    for path in (
        "/page/../route.py",
        "/page/%2e%2e/route.py",
        "/page/index.html",
        "/page/vendor/manifest.json",
    ):
        assert client.get(path).status_code == 404


def test_the_page_needs_no_key_but_the_api_does() -> None:
    with serving(ScriptedBackend(), GatewaySettings(api_keys="secret")) as url:  # type: ignore[arg-type]
        assert httpx.get(url, headers=BROWSER).is_success
        assert httpx.get(f"{url}/page/chat.js").is_success
        for path in ("/v1/models", "/page", "/page/other.js"):
            assert httpx.get(url + path).status_code == 401


def test_the_page_lies_under_a_proxys_path_too() -> None:
    with serving(ScriptedBackend(), GatewaySettings(root_path="/llm", api_keys="secret")) as url:  # type: ignore[arg-type]
        assert "<title>Chat" in httpx.get(url, headers=BROWSER).text
        assert httpx.get(f"{url}/page/chat.js").is_success
        assert not re.search(r'(?:href|src)="(/|http)', httpx.get(url, headers=BROWSER).text)


def test_the_page_can_be_switched_off() -> None:
    with serving(ScriptedBackend(), GatewaySettings(chat_page=False)) as url:
        assert httpx.get(url, headers=BROWSER).status_code == 404
        assert httpx.get(f"{url}/page/chat.js").status_code == 404


def test_what_is_from_others_is_what_they_published() -> None:
    """Each library's files as its npm package has them, and its licence beside them."""
    vendor = STATIC / "vendor"
    manifest = json.loads((vendor / "manifest.json").read_text())
    written = {f"{name}/{file}": hash for name, of in manifest.items() for file, hash in of["sha256"].items()}
    found = {
        path.relative_to(vendor).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in vendor.glob("*/**/*")
        if path.is_file()
    }
    assert found == written
    assert {f"{name}/LICENSE" for name in manifest} <= set(found)
    assert all(of["package"] and of["version"] and of["licence"] for of in manifest.values())
