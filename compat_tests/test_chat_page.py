"""The page at `/` in a real browser: Debian's chromium, told what to do by playwright."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from gateway.settings import GatewaySettings
from tests.serving import ScriptedBackend, say_hello, serving
from worker.protocol import (
    Accepted,
    ChatRequest,
    Event,
    Finished,
    ModelInfo,
    Overloaded,
    ReasoningDelta,
    TextDelta,
    Usage,
    WorkerFailed,
)

HOSTILE = """\
<script>window.hacked = 1</script> <img src=x onerror="window.hacked = 2">
<svg onload="window.hacked = 3"></svg>
<iframe src="http://evil.example/"></iframe> <style>body { display: none }</style>
<a href="javascript:window.hacked = 4" onclick="window.hacked = 5">raw</a>

[link](javascript:window.hacked=6) [data](data:text/html,<script>window.hacked=7</script>)
![picture](http://evil.example/secret.png) [other](http://good.example/ "title")

$\\href{javascript:window.hacked=8}{x}$ $\\includegraphics{http://evil.example/a.png}$

```"><img src=http://evil.example/b.png onerror=window.hacked=9>
</code></pre><script>window.hacked = 10</script>
```
"""
RICH = """\
Euler: $e^{i\\pi} + 1 = 0$, and it costs $5 or $6. **Bold**, `code`.

$$\\sqrt{\\frac{a}{b}} = \\int_0^1 x\\,dx$$

```python
def square(x: int) -> int:
    return x * x
```
"""


def saying(*texts: str, reasoning: str = "") -> object:
    async def script(backend: ScriptedBackend, request: ChatRequest) -> AsyncGenerator[list[Event]]:
        yield [Accepted(5)]
        if reasoning:
            yield [ReasoningDelta(0, reasoning)]
        for text in texts:
            yield [TextDelta(0, text)]
        yield [Finished(0, "stop")]
        yield [Usage(5, 7)]

    return script


async def beginning(backend: ScriptedBackend, request: ChatRequest) -> AsyncGenerator[list[Event]]:
    yield [Accepted(5)]
    yield [TextDelta(0, "Once upon")]
    await asyncio.Event().wait()


async def failing(backend: ScriptedBackend, request: ChatRequest) -> AsyncGenerator[list[Event]]:
    yield [Accepted(5)]
    yield [TextDelta(0, "Once upon")]
    raise WorkerFailed("The engine has stopped.")


async def overloaded(backend: ScriptedBackend, request: ChatRequest) -> AsyncGenerator[list[Event]]:
    raise Overloaded("Too many are waiting.", 1.0)
    yield []


@dataclass
class Tab:
    """The page as one test sees it: what it says on the console, and what it asks of other hosts."""

    page: Page
    url: str
    console: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda message: self.console.append(message.text))
        self.page.on("pageerror", lambda error: self.console.append(str(error)))
        self.page.on("request", lambda request: self._note(request.url))

    def _note(self, address: str) -> None:
        if not address.startswith(self.url):
            self.elsewhere.append(address)

    def open(self) -> Tab:
        self.page.goto(self.url)
        expect(self.page.get_by_label("Model")).to_have_value("test-model")
        return self

    def ask(self, text: str) -> None:
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")

    def answers(self, text: str) -> None:
        expect(self.page.locator("article.assistant > .text").last).to_have_text(text)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None and not os.environ.get("CI"):
        pytest.skip("chromium is not installed (on Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=chromium or "chromium", args=options)
        yield browser
        browser.close()


@pytest.fixture
def backend() -> ScriptedBackend:
    models = [ModelInfo("vectors", 1, 512, "embedding"), ModelInfo("test-model", 1, 512)]
    return ScriptedBackend(served=models)


@pytest.fixture
def tab(browser: Browser, backend: ScriptedBackend) -> Iterator[Tab]:
    with serving(backend) as url, browser.new_context() as context:
        context.set_default_timeout(8000)
        tab = Tab(context.new_page(), url).open()
        yield tab
        assert tab.elsewhere == []


def test_an_answer_is_streamed_and_kept(tab: Tab, backend: ScriptedBackend) -> None:
    page = tab.page
    assert page.get_by_label("Model").locator("option").all_text_contents() == ["test-model"]
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Max tokens").fill("64")
    page.keyboard.press("Escape")
    backend.script = saying("Hel", "lo", reasoning="Who is it?")  # type: ignore[assignment]
    page.get_by_label("Message", exact=True).fill("line 1")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("line 2")
    page.keyboard.press("Enter")
    tab.answers("Hello")
    expect(page.locator("#status")).to_contain_text("12 of 512 tokens of context used")
    request = backend.requests[-1]
    assert [message["role"] for message in request.messages] == ["system", "user"]
    assert request.messages[1]["content"] == "line 1\nline 2"
    assert (request.sampling.temperature, request.sampling.max_tokens) == (0.5, 64)
    thoughts = page.locator("details.thinking")
    expect(thoughts).not_to_have_attribute("open", "")
    page.get_by_text("Thoughts").click()
    expect(thoughts).to_contain_text("Who is it?")
    page.reload()
    page.get_by_role("button", name="line 1", exact=False).first.click()
    tab.answers("Hello")
    assert tab.console == []


def test_an_answer_can_be_stopped(tab: Tab, backend: ScriptedBackend) -> None:
    backend.script = beginning
    tab.ask("Tell me a story")
    tab.answers("Once upon")
    expect(tab.page.get_by_role("button", name="Stop")).to_be_visible()
    tab.page.keyboard.press("Escape")
    expect(tab.page.get_by_role("button", name="Send")).to_be_visible()
    assert backend.closed.acquire(timeout=5), "the slot is not freed"
    tab.answers("Once upon")
    assert tab.console == []


def test_an_error_in_the_stream_is_shown_and_can_be_tried_again(tab: Tab, backend: ScriptedBackend) -> None:
    backend.script = failing
    tab.ask("Hi")
    error = tab.page.get_by_role("alert")
    expect(error).to_contain_text("The engine has stopped.")
    tab.answers("Once upon")
    backend.script = say_hello
    error.get_by_role("button", name="Retry").click()
    tab.answers("Hello")
    expect(error).to_have_count(0)
    assert [message["role"] for message in backend.requests[-1].messages] == ["user"]
    assert tab.console == []


def test_overload_and_a_server_that_is_gone_are_shown(tab: Tab, backend: ScriptedBackend) -> None:
    backend.script = overloaded
    tab.ask("Hi")
    error = tab.page.get_by_role("alert")
    expect(error).to_contain_text("Too many are waiting.")
    tab.page.context.set_offline(True)
    error.get_by_role("button", name="Retry").click()
    expect(error).to_contain_text("cannot be reached")
    tab.page.context.set_offline(False)
    backend.script = say_hello
    error.get_by_role("button", name="Retry").click()
    tab.answers("Hello")


def test_a_wrong_key_is_shown_and_can_be_replaced(browser: Browser) -> None:
    settings = GatewaySettings(api_keys="right-key")  # type: ignore[arg-type]
    with serving(ScriptedBackend(), settings) as url, browser.new_context() as context:
        page = context.new_page()
        tab = Tab(page, url)
        page.goto(url)
        expect(page.locator("#status")).to_contain_text("You didn't provide an API key.")
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("API key").fill("wrong-key")
        page.keyboard.press("Enter")
        expect(page.locator("#status")).to_contain_text("Incorrect API key provided.")
        tab.ask("Hi")
        page.get_by_role("alert").get_by_role("button", name="Enter a key").click()
        page.get_by_label("API key").fill("right-key")
        page.keyboard.press("Enter")
        expect(page.get_by_label("Model")).to_have_value("test-model")
        page.get_by_role("button", name="Retry").click()
        tab.answers("Hello")
        assert tab.elsewhere == []


def test_a_message_can_be_edited_and_sent_again(tab: Tab, backend: ScriptedBackend) -> None:
    for text in ("First", "Second"):
        tab.ask(text)
        tab.answers("Hello")
        expect(tab.page.get_by_role("button", name="Send")).to_be_visible()
    tab.page.get_by_role("button", name="Edit").first.click()
    expect(tab.page.get_by_label("Edit message")).to_be_focused()
    tab.page.get_by_label("Edit message").fill("Changed")
    tab.page.keyboard.press("Enter")
    expect(tab.page.locator("article")).to_have_count(2)
    tab.answers("Hello")
    assert [message["content"] for message in backend.requests[-1].messages] == ["Changed"]
    assert tab.console == []


def test_markdown_code_and_formulas(tab: Tab, backend: ScriptedBackend) -> None:
    backend.script = saying(RICH)  # type: ignore[assignment]
    tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.ask("Hi")
    answer = tab.page.locator("article.assistant")
    expect(answer.locator(".hljs-keyword").first).to_have_text("def")
    expect(answer.locator(".katex")).to_have_count(2)
    expect(answer.locator(".text")).to_contain_text("it costs $5 or $6")
    answer.get_by_label("Copy code").click()
    copied = tab.page.evaluate("navigator.clipboard.readText()")
    assert copied == "def square(x: int) -> int:\n    return x * x"
    assert tab.console == []


def test_formulas_have_their_colours_and_frames_and_a_wrong_one_is_shown(
    tab: Tab, backend: ScriptedBackend
) -> None:
    backend.script = saying("$\\fcolorbox{red}{yellow}{x}$ $\\textcolor{blue}{y}$ $\\nosuch{z}$ $\\frac{1$")  # type: ignore[assignment]
    tab.ask("Hi")
    answer = tab.page.locator("article.assistant")
    expect(answer.locator(".katex")).to_have_count(3)
    expect(answer.locator(".katex-html .fcolorbox").first).to_have_css("border-color", "rgb(255, 0, 0)")
    expect(answer.locator("math [style*='solid red']")).to_have_count(1)
    expect(answer.locator(".katex-error")).to_have_css("color", "rgb(204, 0, 0)")
    assert tab.console == []


def test_a_hostile_answer_does_nothing(tab: Tab, backend: ScriptedBackend) -> None:
    backend.script = saying(HOSTILE, "\nend", reasoning=HOSTILE)  # type: ignore[assignment]
    tab.ask(HOSTILE)
    expect(tab.page.get_by_role("button", name="Again")).to_be_visible()
    log = tab.page.locator("#log")
    expect(
        log.locator("script, img, iframe, style, object, form, [onerror], [onload], [onclick]")
    ).to_have_count(0)
    expect(log.locator("article.assistant > .text")).to_contain_text("<script>window.hacked = 1</script>")
    addresses = tab.page.evaluate("[...document.querySelectorAll('#log a[href]')].map(link => link.href)")
    assert {address.split(":")[0] for address in addresses} == {"http"}
    for link in log.locator("article.assistant > .text a").all():
        if not (link.get_attribute("href") or "").startswith("http"):
            link.click()
    assert tab.page.evaluate("window.hacked") is None
    assert tab.console == []
