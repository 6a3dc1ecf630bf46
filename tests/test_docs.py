"""Every code block of README and docs runs, in order, page by page, in a folder of its own.

A block is run unless `<!-- not run: reason -->` stands before it: `sh` through the command line, `python` as it
stands, or, where its first line is a comment with a file's name, written to that file. DATA stands for the folder of
real data. Of all commands, those that are not run and those in the text and in the help too, the flags, recipes and
benchmarks that they name are there."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from chiasm.cli import main, shared_arguments
from chiasm.config import module_names
from chiasm.experiment.entries import shipped_recipes
from tests.shared_data import shared_data

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FILE = re.compile(r"# ([\w/]+\.py)\n")
_BLOCK = re.compile(r"(<!-- not run: [^>]+ -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


def _blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of the blocks that are to be run."""
    return [(language, text) for skipped, language, text in _BLOCK.findall(page.read_text()) if not skipped]


@pytest.fixture
def _pages_modules(tmp_path: Path) -> Iterator[None]:
    """Forgets the packages that a page wrote: the next one writes its own under the same name."""
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.usefixtures("_pages_modules")
@pytest.mark.parametrize("page", [page for page in PAGES if _blocks(page)], ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # as for a script that lies there
    names: dict[str, object] = {"__name__": "__main__"}
    for language, text in _blocks(page):
        if (named := _FILE.match(text)) is not None and language == "python":
            _write(tmp_path / named[1], text)
        elif language == "python":
            if "DATA" in text:
                text = text.replace("DATA", str(shared_data("flickr8k").parent))
            exec(compile(text, str(page), "exec"), names)
        elif language == "sh":
            for line in text.splitlines():
                _run(line, page)
        else:
            assert language in ("yaml", "text"), f"{page.name}: a block of '{language}' is neither run nor marked"
            assert language == "text" or isinstance(yaml.safe_load(text), dict), f"{page.name}: {text}"


def _write(file: Path, text: str) -> None:
    """A module of a package, which needs no file that says so."""
    file.parent.mkdir(exist_ok=True)
    (file.parent / "__init__.py").touch()
    file.write_text(text, encoding="utf-8")
    importlib.invalidate_caches()


def _run(line: str, page: Path) -> None:
    words = shlex.split(line, comments=True)
    if not words:
        return
    assert words[0] == "chiasm", f"{page.name}: only chiasm's own commands can be run by this test, not: {line}"
    if any("DATA" in word for word in words):
        root = str(shared_data("flickr8k").parent)
        words = [word.replace("DATA", root) for word in words]
    assert main(words[1:]) == 0, f"{page.name}: {line}"


COMMANDS = module_names("chiasm.cli")


def _commands(text: str) -> Iterator[list[str]]:
    """The words of each command of chiasm's in a text, without "chiasm": in blocks, or between backticks."""
    blocks = "\n".join(block for _, language, block in _BLOCK.findall(text) if language == "sh")
    lines = blocks.replace("\\\n", " ").splitlines()
    for line in [*lines, *re.findall(r"`([^`]+)`", _BLOCK.sub("", text).replace("\n", " "))]:
        words = line.split("#")[0].split()
        for at, word in enumerate(words):
            if word == "chiasm" and (at == 0 or words[at - 1] == "-m") and words[at + 1 :]:
                yield words[at + 1 :]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_links_of_a_page_name_what_is_there(page: Path) -> None:
    text = page.read_text()
    for words in _commands(text):
        _check(words, page.name)
    for name in re.findall(r"-m benchmarks\.(\w+)", text):
        assert (ROOT / "benchmarks" / f"{name}.py").exists(), f"{page.name}: there is no benchmark '{name}'"
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / link).exists(), f"{page.name}: there is no {link}"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_in_the_help_of_a_command_name_what_is_there(name: str) -> None:
    told = importlib.import_module(f"chiasm.cli.{name}").__doc__ or ""
    examples = [line.split()[1:] for line in told.splitlines() if line.startswith("chiasm ")]
    assert examples or name == "demo", "its help shows no example"
    for words in examples:
        _check(words, f"chiasm {name} --help")


def _check(words: list[str], where: str) -> None:
    told, name = f"{where}: chiasm {' '.join(words)}", words[0]
    if name != "COMMAND" and not name.startswith("--"):
        assert name in COMMANDS, f"{told}: there is no such command"
        parser = argparse.ArgumentParser()
        importlib.import_module(f"chiasm.cli.{name}").arguments(parser)
        shared_arguments(parser)
        flags = set(re.findall(r"--[\w-]+", parser.format_help()))
        for word in words:
            assert not word.startswith("--") or word in flags, f"{told}: there is no {word}"
    recipes = shipped_recipes()
    folders = {recipe.split("/")[0] for recipe in recipes}
    for word in words:
        family, slash, rest = word.partition("/")
        if slash and family in folders and rest:
            assert word in recipes, f"{told}: there is no recipe '{word}'"


def _pages(entry: object) -> Iterator[str]:
    """The pages that an entry of mkdocs' navigation leads to."""
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict):
        for inner in entry.values():
            yield from _pages(inner)
    else:
        assert isinstance(entry, list)
        for inner in entry:
            yield from _pages(inner)


def test_the_navigation_of_the_site_has_every_page() -> None:
    """That the reference has every module, and that all links lead somewhere, the strict build of `make docs` tells."""
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    there = {"index.md", *(page.name for page in (ROOT / "docs").glob("*.md"))}  # the start page is made of README.md
    assert sorted(_pages(navigation)) == sorted(there)


def test_the_guide_tells_every_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    told = re.findall(r"^\| (`[^|]+) \|", (ROOT / "docs/recipes.md").read_text(), re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(told))) == sorted(extras)


def test_the_extraction_sees_blocks() -> None:
    assert _blocks(ROOT / "README.md"), "README.md shows no code that is run"
