"""Files of tensors have the rights of all other files."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from chiasm.errors import CheckpointError
from chiasm.models.folder import load_weights
from chiasm.models.tensor_file import save_file


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_rights_are_those_of_any_file(umask: int, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    for _ in range(2):  # anew, and over an older one
        save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
        rights = stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode)
        assert rights == stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o666 & ~umask


def test_not_allowed_is_not_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="there is no"):
        load_weights(nn.Linear(1, 1), file)
    save_file(nn.Linear(1, 1).state_dict(), file)
    load_weights(nn.Linear(1, 1), file)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)  # the superuser, as whom tests may run, may read everything
    with pytest.raises(CheckpointError, match="may not be read by this user"):
        load_weights(nn.Linear(1, 1), file)
