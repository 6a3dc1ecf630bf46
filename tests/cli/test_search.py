from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from chiasm.cli import main
from chiasm.models import folder as model_folder
from tests.serving.made import folder_of
from tests.shared_data import shared_data
from tests.worlds import COLOURS, tiny_clip


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model_folder.save(tiny_clip(), tmp_path / "model")
    return folder_of(tmp_path / "photos")


def test_search_answers_in_a_table_as_json_and_as_csv(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", str(photos.parent / "model")]
    (photos / "broken.png").write_bytes(b"x")
    assert main(["search", str(photos), *model]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "16 pictures, 16 new, 1 unreadable" in told.err
    assert "broken.png: " in told.err
    assert main(["search", str(photos), "red and blue", "--top", "3"]) == 0, "the model of last time is taken"
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 4
    assert main(["search", str(photos), "red and blue", "--top", "3", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    assert [hit["path"] in line for hit, line in zip(hits, shown[1:], strict=True)] == [True] * 3
    assert main(["search", str(photos), "--like", hits[0]["path"], "--csv", "--exact"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows[0]["path"] == hits[0]["path"]
    assert float(rows[0]["score"]) == pytest.approx(1, abs=0.01), "in bf16, where that is faster here"
    assert not list(photos.rglob("*chiasm*")), "the pictures' folder is left as it was"


def test_search_sorts_by_names(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", str(photos), "--model", str(photos.parent / "model"), "--names", ",".join(COLOURS)]
    words += ["--template", "{} and {}"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(found["counts"].values()) == len(found["pictures"]) == 16
    assert main([*words, "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 17
    assert main([*words, "--top", "4"]) == 0
    assert "the 4 surest of 16; --csv writes all" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere", "red"], "there is no folder nowhere"),
        (["PHOTOS", "red"], "no model has looked at"),
        (["PHOTOS", "red", "--model", "MODEL", "--names", "a,b"], "--names sorts all pictures"),
        (["PHOTOS", "red", "--model", "MODEL", "--serve"], "--serve takes its questions on the page"),
        (["PHOTOS", "red", "--model", "MODEL", "--top", "0"], "--top must be at least 1"),
        (["PHOTOS", "--model", "MODEL", "--names", "a"], "at least two names"),
        (["PHOTOS", "--model", "MODEL", "--like", "absent.png"], "absent.png"),
        (["PHOTOS", "red", "--model", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_mistakes_of_search_are_one_sentence(
    words: list[str], told: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"PHOTOS": str(photos), "MODEL": str(photos.parent / "model")}
    assert main(["search", *(places.get(word, word) for word in words)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("what", "rows"),
    [
        (["scenes", "count=9", "size=32"], 9),
        (["PHOTOS"], 16),
        (["FILE", "count=4"], 4),
        (["RECIPE", "data.train.count=5"], 5),
    ],
)
def test_embed_takes_sources_files_recipes_and_folders(what: list[str], rows: int, photos: Path) -> None:
    (photos.parent / "source.yaml").write_text("source: scenes\nseed: 3\ncount: 7\n")
    places = {"PHOTOS": str(photos), "FILE": str(photos.parent / "source.yaml"), "RECIPE": "clip/scenes"}
    out = photos.parent / "out"
    words = ["embed", str(photos.parent / "model"), *(places.get(one, one) for one in what), "--out", str(out)]
    assert main([*words, "--what", "images", "--dtype", "float16"]) == 0
    found = np.load(out / "images.npy", mmap_mode="r")
    assert found.shape == (rows, 16)
    assert found.dtype == np.float16


def test_embed_and_search_compute_in_the_precision_that_is_asked_for(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for precision in ("float32", "bf16"):
        words = ["--precision", precision]
        out = photos.parent / precision
        assert main(["embed", str(photos.parent / "model"), str(photos), "--out", str(out), *words]) == 0
        found[precision] = np.load(out / "images.npy")
        assert main(["search", str(photos), "--model", str(photos.parent / "model"), *words]) == 0
        assert "16 new" in capsys.readouterr().err, "vectors of another precision are not taken for its own"
    assert not np.array_equal(found["float32"], found["bf16"])
    np.testing.assert_allclose(found["float32"], found["bf16"], atol=0.02)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothing"], "there is no recipe 'nothing'"),
        (["PHOTOS", "count=3"], "is a folder of pictures and takes no entries, such as count=3"),
        (["scenes", "cuont=3"], "did you mean 'count'?"),
    ],
)
def test_mistakes_of_embed_are_one_sentence(
    words: list[str], told: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(photos) if word == "PHOTOS" else word for word in words]
    assert main(["embed", str(photos.parent / "model"), *given, "--out", str(photos.parent / "out")]) == 2
    assert told in capsys.readouterr().err
    assert not (photos.parent / "out").exists()


@pytest.mark.slow
def test_real_photos_are_indexed(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real = shared_data("flickr8k") / "images"
    words = ["search", str(real), "--model", str(photos.parent / "model"), "--index", str(tmp_path / "home")]
    first = min(real.iterdir())
    assert main([*words, "--like", str(first), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)[0]["path"] == str(first)
    assert f"{len(list(real.iterdir()))} pictures" in told.err
