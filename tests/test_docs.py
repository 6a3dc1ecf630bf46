"""Every code block of README and docs runs, in order, page by page, in a folder of its own.

A block is run unless `<!-- not run: reason -->` stands before it: `sh` through the command line, `python` as it
stands. DATA stands for the folder of real data."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from chiasm.cli import main
from tests.shared_data import shared_data

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"(<!-- not run: [^>]+ -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


def _blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of the blocks that are to be run."""
    return [(language, text) for skipped, language, text in _BLOCK.findall(page.read_text()) if not skipped]


@pytest.mark.parametrize("page", [page for page in PAGES if _blocks(page)], ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for language, text in _blocks(page):
        if language == "python":
            if "DATA" in text:
                text = text.replace("DATA", str(shared_data("flickr8k").parent))
            exec(compile(text, str(page), "exec"), names)
        elif language == "sh":
            for line in text.splitlines():
                _run(line, page)
        else:
            assert language in ("yaml", "text"), f"{page.name}: a block of '{language}' is neither run nor marked"


def _run(line: str, page: Path) -> None:
    words = shlex.split(line, comments=True)
    if not words:
        return
    assert words[0] == "chiasm", f"{page.name}: only chiasm's own commands can be run by this test, not: {line}"
    if any("DATA" in word for word in words):
        root = str(shared_data("flickr8k").parent)
        words = [word.replace("DATA", root) for word in words]
    assert main(words[1:]) == 0, f"{page.name}: {line}"


def test_the_extraction_sees_blocks() -> None:
    assert sys.version_info >= (3, 11)
    assert _blocks(ROOT / "README.md"), "README.md shows no code that is run"
