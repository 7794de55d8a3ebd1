"""The documentation: what it points at exists, and what is written by a command is up to date."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.settings import PAGE, page
from gateway import __version__
from worker.chat.formats.families import FORMATS

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_nowhere(link: str, page: Path) -> bool:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return not target.exists() or bool(anchor and anchor not in anchors(target))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if not link.startswith("https://")]
    assert [link for link in links if leads_nowhere(link, page)] == []


def described_rooms() -> Iterator[str]:
    """The paths in architecture.md's tree: the names before two blanks, below their folder."""
    tree = (ROOT / "docs" / "architecture.md").read_text().split("```")[1]
    folder = ""
    for line in tree.strip().splitlines():
        indent = len(line) - len(line.lstrip())
        names = re.split(r" {2,}", line.strip())[0].split()
        if indent == 0:
            folder = names[0]
        if indent <= 2:  # more is a description that goes on
            yield from (folder + name if indent else name for name in names)


def test_the_rooms_in_the_architecture_are_those_in_the_code() -> None:
    described = set(described_rooms())
    assert {path for path in described if not (ROOT / path).exists()} == set()
    packages = [init.parent for room in ("gateway", "worker") for init in ROOT.glob(f"{room}/*/__init__.py")]
    assert {f"{package.relative_to(ROOT)}/" for package in packages} <= described


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)) <= targets


def test_the_settings_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "a setting has changed: run `make docs`"


def test_the_changelog_ends_with_this_version() -> None:
    releases = re.findall(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert releases[0] == __version__


def test_a_setting_that_is_not_written_down_is_noticed() -> None:
    assert "| `HEARTBEAT_SECONDS` | `10.0` | more than 0 | Seconds between" in page()
    assert "| `PORT` | `8000` | 0 to 65535 |" in page()


def test_every_test_that_the_reliability_page_names_exists() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    rows = [
        line
        for line in page.splitlines()
        if line.startswith("| ") and not line.startswith(("| fault", "| ---"))
    ]
    assert all("`test_" in row for row in rows)
    files = [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "compat_tests").glob("test_*.py")]
    written = {
        name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert set(re.findall(r"`(test_\w+)`", page)) - written == set()


def family_rows() -> Iterator[str]:
    """Of the table in models.md: what each record says."""
    for form in sorted({form.name: form for form in FORMATS}.values(), key=lambda form: form.name.lower()):
        several = "yes" if form.calls.several else "no"
        forced = "yes" if form.calls.syntaxes else "no"
        thinking = ", ".join(f"`{tags.begin.strip()}`".replace("|", r"\|") for tags in form.thinking) or "no"
        yield f"| {form.name} | yes | yes | {forced} | {several} | {thinking} |"


def test_the_table_of_model_families_is_that_of_the_records() -> None:
    lines = (ROOT / "docs" / "models.md").read_text().splitlines()
    assert [line for line in lines if line.startswith("| ")][2:] == list(family_rows())
