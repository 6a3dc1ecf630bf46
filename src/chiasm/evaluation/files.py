"""Atomic writing of files."""

from __future__ import annotations

import os
from pathlib import Path

from chiasm.errors import ChiasmError


def write_file(file: Path, content: str | bytes) -> None:
    """Writes a file aside, then renames it; makes the folder. Raises ChiasmError where it cannot."""
    aside = file.with_name(f"{file.name}.{os.getpid()}.new")  # several processes may write the same file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
        aside.replace(file)
    except OSError as error:
        raise ChiasmError(f"cannot write {file}: {error.strerror or error}") from error
