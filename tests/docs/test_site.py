"""The documentation builds without a warning, has a page for every command, and makes no network requests."""

import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import click
import pytest

import deploy
from deploy.cli.main import cli

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'deploy-toolkit[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def commands() -> dict[str, click.Command]:
    """Return every command by the name of its page."""
    pages = {}
    with click.Context(cli) as context:
        for name in cli.list_commands(context):
            command = cli.get_command(context, name)
            assert command is not None
            pages[name] = command
            if isinstance(command, click.Group):
                pages.update({f"{name}-{inner}": item for inner, item in command.commands.items()})
    return pages


def text_of(page: Path) -> str:
    return unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_every_command_has_its_page(site: Path) -> None:
    expected = commands()
    assert {path.stem for path in (site / "commands").glob("*.html")} == {"index", *expected}
    listed = (site / "commands" / "index.html").read_text(encoding="utf-8")
    for name, command in expected.items():
        assert f'href="{name}.html"' in listed
        text = text_of(site / "commands" / f"{name}.html")
        assert (command.help or "").splitlines()[0].split("`")[0] in " ".join(text.split())
        for option in command.params:
            if isinstance(option, click.Option):
                assert all((word in text) != option.hidden for word in option.opts), (name, option)
        for line in (command.epilog or "").replace("Examples:", "").splitlines():
            assert line.strip("\b \\") in text, name


def test_the_lists_for_readers_without_the_site_are_current() -> None:
    """Else: python docs/_hooks.py."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install 'deploy-toolkit[docs]'")
    code = (
        "from docs import _hooks\n"
        "pages = _hooks.stored_pages()\n"
        "assert len(pages) == 2\n"
        "for path, text in pages.items():\n"
        "    assert path.read_text(encoding='utf-8') == text, path\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stored = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
    for name in deploy.__all__:
        assert f"`deploy.{name}`" in stored, name
    for source in re.findall(r"\]\(\.\./(deploy/[^)]+)\)", stored):
        assert (ROOT / source).is_file()


def test_every_public_name_is_documented(site: Path) -> None:
    page = (site / "python-api.html").read_text(encoding="utf-8")
    for name in deploy.__all__:
        assert f'id="deploy.{name}"' in page or name == "__version__", name
    assert "deploy.__version__" in text_of(site / "python-api.html")


def test_no_page_makes_network_requests(site: Path) -> None:
    tag = r"(?:<(?:script|img|iframe|source)[^>]*\ssrc|<link[^>]*\shref)"
    requested = re.compile(tag + r"""=["']?((?:https?:)?//[^"'\s>]+)""")
    for page in site.rglob("*.html"):
        assert not requested.findall(page.read_text(encoding="utf-8")), page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_it_is_searched_from_a_folder(site: Path, browser: Any) -> None:
    page = browser.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    for start in ("index.html", "commands/export.html"):
        page.goto((site / start).as_uri())
        page.locator("[data-md-component=search-query]").first.click()
        page.locator("[data-md-component=search-query]").first.press_sequentially("calibration")
        page.locator(".md-search-result__item").first.wait_for(timeout=60_000)
    assert not [url for url in requests if not url.startswith(("file:", "data:", "blob:"))]
    page.close()


def test_examples_are_shown_completely(site: Path) -> None:
    pages = {path.name: text_of(path) for path in (site / "extending").glob("*.html")}
    for example in (ROOT / "docs" / "examples").rglob("*.py"):
        source = example.read_text(encoding="utf-8").strip()
        assert any(source in page for page in pages.values()), example
    assert not list(site.rglob("*.py")), "sources are shown, not served"
