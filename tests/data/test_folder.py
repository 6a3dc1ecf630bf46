from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from chiasm.config import dump, parse
from chiasm.data.source import Source
from chiasm.data.sources.folder import Folder
from chiasm.errors import DataError
from tests.shared_data import shared_data


def picture(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full((4, 4, 3), level, np.uint8)).save(path)


def test_classes_and_pictures_come_sorted(tmp_path: Path) -> None:
    for level, name in enumerate(("b/2.png", "b/10.png", "a/z/deep.PNG", "a/y.jpg")):
        picture(tmp_path / name, level)
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    (tmp_path / "a" / ".hidden.png").write_text("no picture")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.md").write_text("no class")
    source = Folder(tmp_path)
    assert [(one.key, one.label) for one in source] == [
        ("a/y.jpg", "a"),
        ("a/z/deep.PNG", "a"),
        ("b/10.png", "b"),
        ("b/2.png", "b"),
    ]
    assert np.asarray(source[2].image.decode()).max() == 1
    assert parse(Source, dump(source)) == source  # type: ignore[type-abstract]  # a choice of the room is built


def test_broken_pictures_and_empty_classes_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        Folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no folders"):
        len(Folder(tmp_path))
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match=r"cat holds no pictures"):
        len(Folder(tmp_path))
    (tmp_path / "cat" / "1.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(DataError, match=r"cat/1\.jpg is not a picture"):
        Folder(tmp_path)[0].image.decode()


def test_cifar() -> None:
    path = shared_data("cifar10") / "test"
    source = Folder(path)
    assert Counter(str(one.label) for one in source) == {
        folder.name: sum(1 for _ in folder.iterdir()) for folder in path.iterdir()
    }
    assert source[0].key == f"airplane/{min(file.name for file in (path / 'airplane').iterdir())}"
    assert source[0].image.size == (32, 32)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "secret.png"
    PIL.Image.new("RGB", (4, 4)).save(outside)
    (tmp_path / "data" / "cat").mkdir(parents=True)
    (tmp_path / "data" / "cat" / "link.png").symlink_to(outside)
    with pytest.raises(DataError, match="leads out of the folder"):
        Folder(tmp_path / "data")[0]
