"""Files of text that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

from chiasm.errors import ChiasmError


def write_file(file: Path, text: str) -> None:
    """Writes a text aside, then in its place; makes the folder. Raises ChiasmError where it cannot be written."""
    aside = file.with_name(file.name + ".new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, encoding="utf-8")
        aside.replace(file)
    except OSError as error:
        raise ChiasmError(f"cannot write {file}: {error.strerror or error}") from error
