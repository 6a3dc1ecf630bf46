from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from rich.console import Console
from starlette.testclient import TestClient

from chiasm.data.image import Image
from chiasm.errors import ChiasmError, DataError, MissingExtra
from chiasm.serving import page
from chiasm.serving.index import Index
from chiasm.serving.page import app as app_module
from chiasm.serving.page import make_app, serve
from chiasm.serving.page.thumbnails import IndexThumbnails
from chiasm.serving.search import Finder
from tests.serving.made import colour_model, folder_of, picture

QUIET = Console(file=io.StringIO())
HOME = "http://127.0.0.1:8123"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = folder_of(tmp_path / "photos", each=3)
    picture(root / "<img src=x onerror=alert(1)>.png", "orange", seed=50)
    return root


@pytest.fixture
def finder(photos: Path) -> Finder:
    index = Index(photos, colour_model(), photos.parent / "home")
    index.update(QUIET)
    return Finder(index)


@pytest.fixture
def client(finder: Finder) -> TestClient:
    return TestClient(make_app(finder, ["{}"]), base_url=HOME)


def _names(answer: dict) -> list[str]:
    return [hit["name"] for hit in answer["hits"]]


def test_words_and_pictures_are_found(client: TestClient, photos: Path) -> None:
    found = client.get("/search", params={"q": "something red", "top": 3}).json()
    assert {name.split("/")[0] for name in _names(found)} == {"red"}
    assert found["total"] == 25
    first = found["hits"][0]
    like = client.get("/search", params={"like": first["id"], "top": 3}).json()
    assert _names(like)[0] == first["name"]
    upload = (photos / "blue" / "2.png").read_bytes()
    assert _names(client.post("/search", params={"top": 1}, content=upload).json()) == ["blue/2.png"]
    assert len(_names(client.get("/search").json())) == 25
    assert client.get("/about").json()["pictures"] == 25


def test_names_sort_the_pictures(client: TestClient) -> None:
    found = client.get("/names", params={"names": "red, green,blue,yellow,black,white,orange,purple"}).json()
    assert found["counts"][0] == {"name": "orange", "count": 4}
    assert all(hit["best"] in hit["name"] for hit in found["hits"] if "<" not in hit["name"])
    one = client.get("/names", params={"names": "red,green", "name": "green", "top": 500}).json()
    assert {hit["best"] for hit in one["hits"]} == {"green"}
    assert len(one["hits"]) == next(count["count"] for count in one["counts"] if count["name"] == "green")
    assert "at least two names" in client.get("/names", params={"names": "red"}).json()["error"]


def test_pictures_come_by_the_hash_of_their_content_and_by_nothing_else(client: TestClient, photos: Path) -> None:
    key = Image(photos / "red" / "0.png").key
    small = client.get(f"/small/{key}")
    assert small.headers["content-type"] == "image/jpeg"
    shown = np.asarray(PIL.Image.open(io.BytesIO(small.content)).convert("RGB"), np.int64)
    assert abs(shown - np.asarray(PIL.Image.open(photos / "red" / "0.png"))).mean() < 5
    assert client.get(f"/large/{key}").status_code == 200
    (photos / "secret.txt").write_text("secret")
    tries = ["0" * 32, "red%2F0.png", "..%2Fsecret.txt", "%2Fetc%2Fpasswd", f"{key}%00", f"..%2F{key}"]
    for one in tries:
        assert client.get(f"/small/{one}").status_code == 404
        assert client.get(f"/large/{one}").status_code == 404
    for path in ("/../page/app.py", "/%2e%2e/app.py", "/app.py", "/page.html", "/static/../app.py"):
        assert client.get(path).status_code == 404


def test_a_picture_that_was_exchanged_is_not_sent(client: TestClient, photos: Path, tmp_path: Path) -> None:
    file = photos / "red" / "0.png"
    key = Image(file).key
    secret = picture(tmp_path / "elsewhere" / "secret.png", "blue", seed=99)
    file.unlink()
    file.symlink_to(secret)
    assert client.get(f"/small/{key}").status_code == 404
    assert _names(client.get("/search", params={"like": key, "top": 1}).json()) == ["red/0.png"], "by its own vector"
    file.unlink()
    picture(file, "blue", seed=98)
    assert client.get(f"/large/{key}").status_code == 404
    file.unlink()
    assert client.get(f"/small/{key}").status_code == 404


@pytest.mark.parametrize("path", ["/", "/page.css", "/theme.css", "/page.js", "/about", "/search", "/nothing"])
def test_every_answer_is_guarded(path: str, client: TestClient) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_other_sites_get_nothing(client: TestClient) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    asked = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert client.get("/search", headers=asked).status_code == 403
    assert client.post("/search", headers=asked, content=b"x").status_code == 403
    assert client.get("/search", headers={"sec-fetch-site": "same-origin"}).status_code == 200
    assert client.get("/", headers=asked | {"sec-fetch-mode": "navigate"}).status_code == 200


def test_uploads_are_bounded(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(content: bytes) -> tuple[int, str]:
        answer = client.post("/search", content=content)
        return answer.status_code, answer.json()["error"]

    assert "not a picture that can be read" in told(b"no picture")[1]
    assert "not a picture that can be read" in told(b"")[1]
    buffer = io.BytesIO()
    PIL.Image.new("1", (9000, 9000)).save(buffer, "PNG")
    assert "50,000,000 pixels, not 9,000 x 9,000" in told(buffer.getvalue())[1]
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(buffer, "EPS")
    assert "it has none of the formats of pictures" in told(buffer.getvalue())[1]

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 1000

    monkeypatch.setattr(app_module, "_UPLOAD_BYTES", 10_000)
    answer = client.post("/search", content=endless())
    assert answer.status_code == 413
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "asked",
    [
        {"top": "0"},
        {"top": "501"},
        {"top": "x"},
        {"top": "²"},
        {"q": "x" * 1001},
        {"like": "nothing"},
        {"top": "9" * 5000},
    ],
)
def test_senseless_questions_are_told(asked: dict[str, str], client: TestClient) -> None:
    answer = client.get("/search", params=asked)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_names_of_files_are_data_never_markup(client: TestClient) -> None:
    """The script puts everything that comes from outside into the page as text."""
    found = client.get("/search", params={"top": 100}).json()
    assert "<img src=x onerror=alert(1)>.png" in _names(found)
    script = client.get("/page.js").text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)
    html = client.get("/").text
    assert not re.search(r"<script(?! src=\"/page.js\")|\son\w+=|style=|https?://", html)
    assert "http" not in client.get("/page.css").text
    assert "@import" not in client.get("/theme.css").text


def test_bytes_that_are_no_text_in_names_are_shown(photos: Path) -> None:
    (photos / "red" / "0.png").rename(os.fsdecode(os.fsencode(photos) + b"/\xff.png"))
    index = Index(photos, colour_model(), photos.parent / "home")
    index.update(QUIET)
    found = TestClient(make_app(Finder(index)), base_url=HOME).get("/search").json()
    assert "\N{REPLACEMENT CHARACTER}.png" in _names(found)


def test_thumbnails_are_kept_up_to_a_limit(finder: Finder, tmp_path: Path) -> None:
    names = {entry.key: entry.name for entry in finder.entries}
    made = IndexThumbnails(finder.index.folder, names, tmp_path / "kept")
    one = len(made.small(next(iter(names))))
    few = IndexThumbnails(finder.index.folder, names, tmp_path / "few", most_bytes=8 * one)
    for key in names:
        few.small(key)
        assert sum(file.stat().st_size for file in (tmp_path / "few").iterdir()) <= 8 * one * 1.2
    assert few.small(key) == (tmp_path / "few" / f"{key}.jpg").read_bytes()
    assert not list((tmp_path / "few").glob("*.new"))
    with pytest.raises(KeyError):
        few.small("../../photos/red/0.png")
    (finder.index.folder / names[key]).unlink()
    with pytest.raises(DataError):
        few.large(key)


def test_a_large_picture_is_scaled(photos: Path) -> None:
    PIL.Image.new("RGB", (4000, 1000), (200, 0, 0)).save(photos / "wide.png")
    key = Image(photos / "wide.png").key
    made = IndexThumbnails(photos, {key: "wide.png"}, photos.parent / "kept")
    assert PIL.Image.open(io.BytesIO(made.small(key))).size == (320, 80)
    assert PIL.Image.open(io.BytesIO(made.large(key))).size == (1600, 400)


def test_a_port_that_is_taken_is_told(finder: Finder) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ChiasmError, match="give another with --port"):
            serve(finder, other.getsockname()[1])
    with pytest.raises(ChiasmError, match="the port 99999 cannot be used"):
        serve(finder, 99_999)


def test_the_extra_is_named_where_it_is_missing(finder: Finder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(MissingExtra, match=r"pip install 'chiasm\[search\]'"):
        page.make_app(finder)


@pytest.mark.slow
def test_the_command_serves_this_machine_alone(photos: Path, tmp_path: Path) -> None:
    import httpx

    from chiasm.models import folder as model_folder
    from tests.worlds import tiny_clip

    model_folder.save(tiny_clip(), tmp_path / "model")
    words = [sys.executable, "-u", "-m", "chiasm", "search", str(photos), "--serve", "--port", "0"]
    words += ["--model", str(tmp_path / "model"), "--index", str(tmp_path / "home")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            assert address.startswith("http://127.0.0.1:")
            assert httpx.get(f"{address}/about", timeout=30).json()["pictures"] == 25
        finally:
            process.terminate()
