"""A hook of mkdocs: one page of the API reference for every package of chiasm, made by walking its folders.

The start page is README.md, whose links lead from the top of the repository into docs/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "chiasm"
REFERENCE = "reference"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the reference to the navigation."""
    pages: list[dict[str, Any] | str] = [f"{REFERENCE}/{name}.md" for name in packages()]
    assert config.nav is not None
    config.nav.append({"API reference": pages})
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the start page and the reference's pages."""
    start = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    start = start.replace("](CONTRIBUTING.md)", f"]({config.repo_url}/blob/main/CONTRIBUTING.md)")
    files.append(File.generated(config, "index.md", content=start))
    for name, modules in packages().items():
        page = "\n\n".join([f"# {name}", *(f"::: {module}" for module in modules)])
        files.append(File.generated(config, f"{REFERENCE}/{name}.md", content=f"{page}\n"))
    return files


def packages() -> dict[str, list[str]]:
    """The public modules of every package, the package itself first, by its dotted name."""
    found: dict[str, list[str]] = {}
    for folder in sorted({file.parent for file in PACKAGE.rglob("*.py")}):
        parts = folder.relative_to(PACKAGE.parent).parts
        if any(part.startswith("_") for part in parts):
            continue
        name = ".".join(parts)
        modules = sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_"))
        found[name] = [name, *(f"{name}.{module}" for module in modules)]
    return found
