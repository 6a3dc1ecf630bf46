"""Shards and row groups in stores: how often they are fetched, what is kept, and the Hub's own protocol."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import PIL.Image
import pytest

from chiasm.data.image import Image
from chiasm.data.locations import Url
from chiasm.data.reader import Reader
from chiasm.data.sample import Sample
from chiasm.data.sources.parquet import Parquet
from chiasm.data.sources.webdataset import WebDataset, write_shards
from chiasm.errors import DataError
from tests.data.server import Ranged, serve
from tests.data.sources.made import jpeg
from tests.worlds import tiny_processor

fsspec: Any = pytest.importorskip("fsspec", reason="URLs are read with fsspec: pip install 'chiasm[data]'")
arrow: Any = pytest.importorskip("pyarrow", reason="parquet files are read with pyarrow: pip install 'chiasm[data]'")
tables: Any = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()


def shards(folder: Path, count: int = 12, per_shard: int = 10) -> list[Path]:
    samples = (Sample(str(i), (Image(jpeg(i)),), (f"number {i}",)) for i in range(count * per_shard))
    return write_shards(samples, folder, per_shard)


def fetches(caplog: pytest.LogCaptureFixture) -> Counter[str]:
    """How often each file was fetched since the log was cleared."""
    found = Counter(str(one.args[0]) for one in caplog.records if one.name == "chiasm.data.file_cache" and one.args)  # type: ignore[index]  # a tuple
    caplog.clear()
    return found


@pytest.mark.parametrize("threads", [1, 3])
def test_an_epoch_fetches_every_shard_about_once(
    threads: int, tmp_path: Path, memory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for path in shards(tmp_path / "shards"):
        memory.pipe(f"/b/{path.name}", path.read_bytes())
    caplog.set_level(logging.INFO, "chiasm.data.file_cache")
    source = WebDataset("memory://b/shard-{000000..000011}.tar", together=3, gigabytes=0)
    assert len(source) == 120
    assert fetches(caplog) == {f"memory://b/shard-{i:06d}.tar": 1 for i in range(12)}  # for the index
    assert len(list((tmp_path / "cache" / "shards").iterdir())) == 6  # twice as many as are shuffled together
    reader = Reader(source, tiny_processor(), 10, threads=threads)
    keys = [key for batch in islice(reader, 12) for key in batch.keys]
    assert sorted(keys) == sorted(sample.key for sample in source)
    caplog.clear()
    again = WebDataset("memory://b/shard-{000000..000011}.tar", together=3, gigabytes=0)
    (tmp_path / "cache" / "shards").rename(tmp_path / "gone")
    assert len(again) == 120
    assert fetches(caplog) == {}  # the index is kept, and tells the length alone
    keys = [again[again.at(place, 5)].key for place in range(120)]
    assert len(set(keys)) == 120
    assert fetches(caplog) == {f"memory://b/shard-{i:06d}.tar": 1 for i in range(12)}


def test_all_shards_that_fit_are_fetched_once_for_good(
    tmp_path: Path, memory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for path in shards(tmp_path / "shards", 6):
        memory.pipe(f"/b/{path.name}", path.read_bytes())
    caplog.set_level(logging.INFO, "chiasm.data.file_cache")
    for _ in range(2):
        source = WebDataset("memory://b/shard-{000000..000005}.tar", together=2)
        assert len({source[source.at(place, 0)].key for place in range(60)}) == 60
    assert fetches(caplog) == {f"memory://b/shard-{i:06d}.tar": 1 for i in range(6)}
    path = shards(tmp_path / "others", 1)[0]
    memory.pipe("/b/shard-000003.tar", path.read_bytes())  # another version under the old name
    source = WebDataset("memory://b/shard-{000000..000005}.tar", together=2)
    assert source[30].captions == ("number 0",)
    assert fetches(caplog) == {"memory://b/shard-000003.tar": 1}


def test_shards_of_this_machine_are_shuffled_whole_unless_told(tmp_path: Path) -> None:
    paths = tuple(str(path) for path in shards(tmp_path / "shards", 3))
    assert WebDataset(paths).blocks() is None
    chosen = WebDataset(paths, together=1)
    assert [chosen.at(place, 0) // 10 for place in range(30)] == [
        shard for shard in dict.fromkeys(chosen.at(place, 0) // 10 for place in range(30)) for _ in range(10)
    ]


def test_shards_that_cannot_be_fetched_are_named(tmp_path: Path, memory: Any) -> None:
    with pytest.raises(DataError, match=r"no shard at memory://b/0\.tar"):
        WebDataset("memory://b/{0..1}.tar")
    path = shards(tmp_path / "shards", 1)[0]
    memory.pipe("/b/0.tar", path.read_bytes())
    with pytest.raises(DataError, match=r"there is nothing at memory://b/1\.tar"):
        len(WebDataset("memory://b/{0..1}.tar"))
    memory.pipe("/b/1.tar", b"")
    with pytest.raises(DataError, match=r"the shard memory://b/1\.tar is not a tar file"):
        len(WebDataset("memory://b/{0..1}.tar"))
    memory.pipe("/b/1.tar", path.read_bytes()[:9000])
    cut = WebDataset("memory://b/{0..1}.tar")
    with pytest.raises(DataError, match=r"^memory://b/1\.tar, sample '.*: the shard is cut short"):
        cut[-1]
    with pytest.raises(DataError, match="named 2 times"):
        WebDataset(("memory://b/{0..1}.tar", "memory://b/1.tar"))


def table(path: Path, rows: int, group: int, start: int = 0, size: int = 64) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "image": [{"bytes": jpeg(i, (size, size)), "path": None} for i in range(start, start + rows)],
        "caption": [f"number {i}" for i in range(start, start + rows)],
    }
    tables.write_table(arrow.table(columns), path, row_group_size=group)
    return path


@pytest.mark.parametrize("threads", [1, 4])
def test_an_epoch_reads_every_row_group_once(threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in range(3):
        table(tmp_path / f"{part}.parquet", 40, 10, start=40 * part)
    source = Parquet(tmp_path, groups=4)
    read: list[tuple[int, int]] = []
    original = Parquet._read

    def counted(self: Parquet, group: Any) -> Any:
        read.append((group.file, group.number))
        return original(self, group)

    monkeypatch.setattr(Parquet, "_read", counted)
    reader = Reader(source, tiny_processor(), 8, threads=threads)
    keys = [key for batch in islice(reader, 15) for key in batch.keys]
    assert sorted(keys) == sorted(f"{part}/{row}" for part in range(3) for row in range(40))
    assert set(read) == {(part, group) for part in range(3) for group in range(4)}
    assert len(read) <= 12 + 4  # the reader prepares the first batches of the next epoch, in its first window


def test_row_groups_of_a_store_are_read_by_range_and_not_stored(tmp_path: Path) -> None:
    path = table(tmp_path / "data" / "train.parquet", 40, 10, size=200)
    size = path.stat().st_size
    with serve(tmp_path / "data") as (address, asked):
        source = Parquet(Url(f"{address}/train.parquet"))
        assert len(source) == 40
        assert source[25].image.key == Image(jpeg(25, (200, 200))).key
        spans = [span.removeprefix("bytes=").split("-") for _, span in asked]
        assert all(len(span) == 2 for span in spans)  # no request for the whole
        assert sum(int(last) - int(first) + 1 for first, last in spans) < size / 2
        before = len(asked)
        assert source[20].captions == ("number 20",)
        assert len(asked) == before
    assert not (tmp_path / "cache").exists()
    with pytest.raises(DataError, match=f"{address}/train.parquet"):
        source[0]


class Hub(Ranged):
    """The routes of the Hub that HfFileSystem asks: the revision, the tree, information on paths, and the files."""

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        self.path = unquote(urlsplit(self.path).path)
        if parts[:4] == ["api", "datasets", "owner", "photos"]:
            if parts[4:5] == ["tree"]:
                return self._json(self._tree("/".join(parts[6:])))
            return self._json({"id": "owner/photos", "sha": "a" * 40, "siblings": []})
        if parts[:4] == ["datasets", "owner", "photos", "resolve"]:
            self.path = "/" + "/".join(parts[5:])
            return super().do_GET()
        return self.send_error(404)

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
        wanted = json.loads(sent)["paths"] if sent.startswith("{") else [unquote(one[6:]) for one in sent.split("&")]
        self._json([one for one in self._tree("") if one["path"] in wanted])

    def _tree(self, under: str) -> list[dict[str, Any]]:
        root = Path(self.directory)
        return [
            {
                "type": "directory" if path.is_dir() else "file",
                "path": path.relative_to(root).as_posix(),
                "oid": "b" * 40,
                "size": 0 if path.is_dir() else path.stat().st_size,
            }
            for path in sorted((root / under).rglob("*"))
        ]

    def _json(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def test_a_data_set_of_the_hub_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real HfFileSystem, against a server that speaks the Hub's protocol."""
    hub: Any = pytest.importorskip("huggingface_hub", reason="hf:// needs huggingface_hub: pip install 'chiasm[hub]'")
    for part in range(2):
        table(tmp_path / "hub" / "default" / f"train-{part}.parquet", 20, 5, start=20 * part)
    table(tmp_path / "hub" / "default" / "test-0.parquet", 3, 5)
    with serve(tmp_path / "hub", Hub) as (address, asked):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        template = hub.constants.HUGGINGFACE_CO_URL_TEMPLATE
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template.replace("https://huggingface.co", address)
        )
        hub.HfFileSystem.clear_instance_cache()
        source = Parquet(Url("hf://datasets/owner/photos/**/train-*.parquet"))
        assert [sample.captions[0] for sample in source] == [f"number {i}" for i in range(40)]
        assert source[7].image.key == Image(jpeg(7, (64, 64))).key
        assert source[7].key == "train-0/7"
        assert len(Parquet(Url("hf://datasets/owner/photos/default/test-0.parquet"))) == 3
        assert all(span for path, span in asked if path.endswith(".parquet"))
        with pytest.raises(DataError, match="there is nothing at hf://datasets/owner/photos/none/"):
            Parquet(Url("hf://datasets/owner/photos/none/*.parquet"))
        with pytest.raises(DataError, match="hf://datasets/owner/absent/"):
            Parquet(Url("hf://datasets/owner/absent/*.parquet"))
        hub.HfFileSystem.clear_instance_cache()


def test_what_the_datasets_library_writes_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets: Any = pytest.importorskip("datasets", reason="compares with the datasets library: pip install datasets")
    pictures = [np.random.default_rng(i).integers(0, 255, (12, 9, 3), dtype=np.uint8) for i in range(7)]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "pages": datasets.Sequence(datasets.Image()),
            "caption": datasets.Sequence(datasets.Value("string")),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "licence": datasets.Value("string"),
        }
    )
    rows = {
        "image": [PIL.Image.fromarray(one) for one in pictures],
        "pages": [[PIL.Image.fromarray(one)] * (i % 3 + 1) for i, one in enumerate(pictures)],
        "caption": [[f"number {i}", "狗"] for i in range(7)],
        "label": [i % 2 for i in range(7)],
        "licence": ["CC0"] * 7,
    }
    made = datasets.Dataset.from_dict(rows, features=features)
    made.to_parquet(str(tmp_path / "train.parquet"), batch_size=3)
    source = Parquet(tmp_path / "train.parquet")
    assert len(source) == made.num_rows
    for i, sample in enumerate(source):
        assert (np.asarray(sample.image.decode()) == np.asarray(made[i]["image"])).all()
        assert list(sample.captions) == made[i]["caption"]
        assert sample.label == features["label"].int2str(made[i]["label"])
        assert sample.meta["licence"] == "CC0"
    pages = Parquet(tmp_path / "train.parquet", image="pages")
    assert [len(sample.images) for sample in pages] == [1, 2, 3, 1, 2, 3, 1]
    assert (np.asarray(pages[5].images[2].decode()) == pictures[5]).all()
