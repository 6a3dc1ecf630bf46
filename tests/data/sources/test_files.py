from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest

from chiasm.data import files
from chiasm.errors import DataError
from tests.data.sources.made import OUTSIDE, folder_of_images

PIECES = ("a", "é", "狗", "\u2028", '"', '""', ",", "\t", "\n", "\r\n", " ", "[", "}", "\\", "", "😀")


def random_text(rng: random.Random) -> str:
    return "".join(rng.choice(PIECES) for _ in range(rng.randrange(8)))


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_out_are_refused(name: str, tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "images")
    with pytest.raises(DataError):
        files.inside(folder, name)


def test_names_that_stay_inside_are_joined(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "images")
    (tmp_path / "alias").symlink_to(folder)
    (folder / "near.jpg").symlink_to(folder / "0.jpg")
    for name in ("0.jpg", "a/../0.jpg", "near.jpg", "absent.jpg", "..jpg"):
        assert files.inside(tmp_path / "alias", name) == tmp_path / "alias" / name


@pytest.mark.parametrize(("suffix", "delimiter", "line_end"), [("csv", ",", "\r\n"), ("tsv", "\t", "\n")])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_separated_rows_are_those_of_the_csv_module(
    suffix: str, delimiter: str, line_end: str, mark: str, tmp_path: Path
) -> None:
    rng = random.Random(3)
    path = tmp_path / f"rows.{suffix}"
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(mark)
        writer = csv.writer(file, delimiter=delimiter, lineterminator=line_end)
        writer.writerow(["image", " caption"])
        for _ in range(200):
            writer.writerow([random_text(rng), random_text(rng)])
            if rng.random() < 0.1:
                file.write(line_end)
    with path.open(encoding="utf-8-sig", newline="") as file:
        expected = list(csv.DictReader(file, fieldnames=("image", "caption"), delimiter=delimiter))[1:]
    rows = files.separated(path, delimiter)
    assert len(expected) == 200
    assert [rows[index] for index in range(len(rows))] == expected == list(rows.each())


@pytest.mark.parametrize("stray", [{190}, {10, 60}, {199}, {0, 1, 2}])
@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_a_stray_quote_hides_no_row_in_silence(suffix: str, delimiter: str, stray: set[int], tmp_path: Path) -> None:
    texts = [f'"sale of {row}' if row in stray else f"photo {row}" for row in range(200)]
    path = tmp_path / f"rows.{suffix}"
    path.write_text(
        f"image{delimiter}caption\n" + "".join(f"{at}.jpg{delimiter}{text}\n" for at, text in enumerate(texts))
    )
    if stray == {199}:  # it swallows nothing: one broken row, told when it is read
        rows = files.separated(path, delimiter)
        assert len(rows) == 200
        with pytest.raises(DataError, match="line 201"):
            rows[199]
        return
    swallowed = {190: 9, 10: 50, 0: 1}[min(stray)]
    words = rf"line {min(stray) + 2}: a quote that begins there swallows the {swallowed} lines behind it"
    with pytest.raises(DataError, match=words):
        files.separated(path, delimiter)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_json_rows_are_those_of_the_json_module(mark: str, tmp_path: Path) -> None:
    rng = random.Random(4)
    expected = [{random_text(rng): [random_text(rng), 1.5, None], "狗": {"b": i}} for i in range(100)]
    for indent in (None, 2):
        path = tmp_path / "rows.json"
        path.write_text(mark + " " + json.dumps(expected, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")
        rows = files.json_list(path)
        assert [rows[index] for index in (99, 0, *range(100))] == [expected[99], expected[0], *expected]
    path.write_text(mark + "\n\n".join(json.dumps(one, ensure_ascii=False) for one in expected), encoding="utf-8")
    rows = files.json_lines(path)
    assert [rows[index] for index in range(100)] == expected
    assert rows.where(99) == f"{path}, line 199"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must hold a JSON list"),
        ('{"a": 1}', "must hold a JSON list"),
        ('[{"a": 1}, {"b"', r"line 1, is not JSON.*cut short"),
        ('[{"a": 1}, {"b": 2}', "does not end"),
        ('[{"a": 1} {"b": 2}]', "does not end"),
        ('[{"a": 1}] x', "does not end"),
        ('[{"a": 1},]', "is not JSON"),
        ("[" * 100_000, "cannot be read"),
        ("[" + "1" * 5000 + "]", "cannot be read"),
    ],
)
def test_broken_lists_are_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        files.json_list(path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "line 2 is not JSON"),
        (b"[1]", "line 2: expected a JSON object, not list"),
        (b'{"a": "\xe9"}', "line 2 is not UTF-8 at byte 7"),
        (b'{"a": "\\uD83D"}', "half of a surrogate pair"),
        (b'{"a": ' + b"[" * 100_000, "cannot be read"),
        (b'{"a": ' + b"1" * 5000 + b"}", "cannot be read"),
    ],
)
def test_a_broken_line_leaves_the_others(line: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": "\\ud83d\\ude00"}\n' + line + b'\n{"a": 3}')
    rows = files.json_lines(path)
    assert (len(rows), rows[0], rows[2]) == (3, {"a": "😀"}, {"a": 3})
    assert list(rows.each()) == [{"a": "😀"}, None, {"a": 3}]
    with pytest.raises(DataError, match=words):
        rows[1]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"1.jpg", "has 1 fields, but line 1 names 2"),
        (b"1.jpg,a,b", "has 3 fields"),
        (b"1.jpg,caf\xe9", "line 2 is not UTF-8"),
        (b'1.jpg,"a" dog', "cannot be read"),
        (b"1.jpg," + b"x" * 200_000, "cannot be read"),
    ],
)
def test_a_broken_record_leaves_the_others(line: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"image,caption\n" + line + b"\n2.jpg,fine\n")
    rows = files.separated(path, ",")
    assert (len(rows), rows[1]) == (2, {"image": "2.jpg", "caption": "fine"})
    with pytest.raises(DataError, match=words):
        rows[0]


def test_a_quote_that_is_never_closed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('image,caption\n1.jpg,fine\n2.jpg,"never closed\n3.jpg,lost\n')
    with pytest.raises(DataError, match=r"line 3: a quote that begins there swallows the 1 lines behind it"):
        files.separated(path, ",")


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "is empty"), (b"a,a\n1,2", "two columns"), (b"\xff\xfei\x00m", "line 1 is not UTF-8")]
)
def test_a_table_without_names_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        files.separated(path, ",")
