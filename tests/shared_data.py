"""Where tests find real pictures: third-party data that is not part of the project."""

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared_data(name: str) -> Path:
    """The folder of a real data set, such as "flickr8k"; skips the test where it is absent."""
    folder = Path(os.environ.get("CHIASM_DATA", _BESIDE)) / name
    if not folder.exists():
        pytest.skip(f"needs the real data in {folder}; set CHIASM_DATA to the folder that holds '{name}'")
    return folder
