from __future__ import annotations

import io
import json
import tarfile
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from chiasm.config import dump, parse
from chiasm.data.image import Image
from chiasm.data.sample import Sample
from chiasm.data.shards import Entries, ShardEntry, expand
from chiasm.data.source import Source
from chiasm.data.sources.captions import Captions
from chiasm.data.sources.webdataset import WebDataset, write_shards
from chiasm.errors import DataError
from tests.data.sources.made import fails, jpeg
from tests.shared_data import shared_data

PEER = "compares with the webdataset package: pip install webdataset"
Members = list[tuple[str, bytes | str | tarfile.TarInfo]]


def shard(path: Path, members: Members) -> Path:
    """A tar file of these names and contents; text is stored as UTF-8, a TarInfo as it is."""
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.name = name
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(member)
                continue
            data = content.encode() if isinstance(content, str) else content
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def pairs(count: int, start: int = 0) -> Members:
    members: Members = []
    for i in range(start, start + count):
        members += [(f"{i:04d}.jpg", jpeg(i)), (f"{i:04d}.txt", f"number {i}")]
    return members


def link(kind: bytes, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo()
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "pattern",
    [
        "a.tar",
        "shard-{000000..000012}.tar",
        "{0..10}.tar",
        "{08..11}",
        "{3..1}",
        "{a,b}/{1..2}.tar",
        "x{train,val}-{00..01}y{7..7}",
        "{a,,b}",
    ],
)
def test_braces_stand_for_what_braceexpand_says(pattern: str) -> None:
    braceexpand: Any = pytest.importorskip("braceexpand", reason=PEER)
    assert expand(pattern) == list(braceexpand.braceexpand(pattern))


def test_braces() -> None:
    assert expand("s-{08..11}.tar") == ["s-08.tar", "s-09.tar", "s-10.tar", "s-11.tar"]
    assert expand("{a,b}{1..2}") == ["a1", "a2", "b1", "b2"]
    with pytest.raises(DataError, match="braces hold a range"):
        expand("{a}.tar")


def test_shards_are_read_back(tmp_path: Path) -> None:
    folder = shared_data("flickr8k")
    source = Captions(folder / "captions.jsonl")
    samples = [source[i] for i in range(25)]
    paths = write_shards(samples, tmp_path / "shards", per_shard=10)
    assert [path.name for path in paths] == ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    again = WebDataset(str(tmp_path / "shards" / "shard-{000000..000002}.tar"))
    assert [(one.captions, one.image.key, one.meta) for one in again] == [
        (one.captions, one.image.key, {**one.meta, "key": one.key}) for one in samples
    ]
    assert again[24].key == "shard-000002/000000024"
    for index in (24, 3, 17, -2):
        assert again[index].captions == samples[index].captions
    assert parse(Source, dump(again)) == again  # type: ignore[type-abstract]  # a choice of the room is built
    write_shards(samples, tmp_path / "second", per_shard=10)
    assert [path.read_bytes() for path in paths] == [(tmp_path / "second" / path.name).read_bytes() for path in paths]
    with pytest.raises(DataError, match="holds shards already"):
        write_shards(samples, tmp_path / "shards")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the package leaves shards open
def test_the_webdataset_package_reads_our_shards(tmp_path: Path) -> None:
    peer: Any = pytest.importorskip("webdataset", reason=PEER)
    samples = [
        Sample(f"a/{i}.x", (Image(jpeg(i)),), (f"eins {i} 狗", "zwei"), label=str(i % 2), meta={"url": "u"})
        for i in range(7)
    ]
    write_shards(samples, tmp_path, per_shard=3)
    found = list(peer.WebDataset(str(tmp_path / "shard-{000000..000002}.tar"), shardshuffle=False).decode("rgb8"))
    ours = WebDataset(str(tmp_path / "shard-{000000..000002}.tar"))
    assert len(found) == len(ours) == 7
    for theirs, mine, sample in zip(found, ours, samples, strict=True):
        assert mine.key.endswith(theirs["__key__"])
        assert theirs["txt"] == sample.captions[0]
        assert str(theirs["cls"]) == mine.label == sample.label
        assert tuple(theirs["json"]["captions"]) == mine.captions == sample.captions
        assert theirs["json"]["key"] == mine.meta["key"] == sample.key
        assert (theirs["jpg"] == np.asarray(mine.image.decode())).all()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the package leaves shards open
def test_we_read_shards_of_the_webdataset_package(tmp_path: Path) -> None:
    peer: Any = pytest.importorskip("webdataset", reason=PEER)
    path = tmp_path / "theirs.tar"
    with peer.TarWriter(str(path)) as sink:
        for i in range(5):
            told = {"caption": f"number {i}", "captions": ["b", f"number {i}"], "url": "u"}
            sink.write({"__key__": f"dir.v1/{i:03d}", "JPG": jpeg(i), "txt": f"number {i}", "json": told, "cls": i})
    found = list(peer.WebDataset(str(path), shardshuffle=False))
    ours = WebDataset(str(path))
    assert [one.key for one in ours] == [f"theirs/{one['__key__']}" for one in found]
    for i, sample in enumerate(ours):
        assert sample.captions == (f"number {i}", "b")
        assert (sample.meta, sample.label) == ({"url": "u"}, str(i))
        assert sample.image.key == Image(jpeg(i)).key


def test_what_a_sample_may_hold(tmp_path: Path) -> None:
    members: Members = [
        ("./", link(tarfile.DIRTYPE, "")),
        ("./.DS_Store", b"x"),
        ("./a.jpg", jpeg(0)),
        ("./a.cls", "cat\n"),
        ("b.left.PNG", jpeg(1)),
        ("b.jpg", jpeg(2)),
        ("b.png", jpeg(3)),
        ("b.seg.npy", b"x"),
        ("b.json", json.dumps({"caption": ["one", ""], "captions": None, "width": 3})),
    ]
    path = shard(tmp_path / "s.tar", members)
    first, second = WebDataset(str(path))
    assert (first.key, first.label, first.meta, first.captions) == ("s/a", "cat", {}, ())
    assert (second.key, second.meta, second.captions) == ("s/b", {"width": 3}, ("one",))
    assert [one.key for one in second.images] == [Image(jpeg(2)).key, Image(jpeg(3)).key]
    chosen = WebDataset(str(path), pictures=("left.png",))
    assert [one.key for one in chosen[1].images] == [Image(jpeg(1)).key]


def test_shards_of_one_name_keep_their_keys_apart(tmp_path: Path) -> None:
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
        shard(tmp_path / name / "0.tar", pairs(2))
    source = WebDataset(str(tmp_path / "{train,val}" / "0.tar"))
    assert [one.key for one in source] == ["train/0/0000", "train/0/0001", "val/0/0000", "val/0/0001"]
    assert source == WebDataset(source.shards)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("9.jpg", jpeg(9))], r"sample '9' has neither a caption nor a label, only \.jpg"),
        ([("9.jpg", jpeg(9)), ("9.txt", " \n")], "neither a caption nor a label"),
        ([("9.txt", "text alone")], r"sample '9' has no picture, only \.txt"),
        ([("../9.jpg", jpeg(9)), ("../9.txt", "a")], r"its member '\.\./9\.jpg' is named out of the archive"),
        ([("/etc/9.jpg", jpeg(9)), ("/etc/9.txt", "a")], "'/etc/9.jpg' is named out of the archive"),
        ([("a/../../9.jpg", jpeg(9)), ("a/../../9.txt", "a")], "is named out of the archive"),
        ([("9.jpg", link(tarfile.SYMTYPE, "/etc/hostname")), ("9.txt", "a")], "'9.jpg' is a link"),
        ([("9.jpg", link(tarfile.LNKTYPE, "0000.jpg")), ("9.txt", "a")], "'9.jpg' is a link"),
        ([("9.jpg", link(tarfile.FIFOTYPE, "")), ("9.txt", "a")], "is a link or a device"),
        ([("0000.jpg", jpeg(9)), ("0000.txt", "a")], "sample '0000': another sample of the shard has the same key"),
        ([("9.jpg", jpeg(9, (64, 64))[:900]), ("9.txt", "a")], "is broken"),
        ([("9.jpg", "no picture"), ("9.txt", "a")], "is not a picture"),
        ([("9.jpg", jpeg(9)), ("9.txt", b"caf\xe9")], r"\.txt is not UTF-8 at byte 3"),
        ([("9.jpg", jpeg(9)), ("9.json", b"{")], r"\.json is not JSON"),
        ([("9.jpg", jpeg(9)), ("9.json", b"[]")], r"\.json must hold an object"),
        ([("9.jpg", jpeg(9)), ("9.json", b'{"caption": 3}')], "'caption' must be a text or a list"),
    ],
)
def test_a_broken_sample_leaves_the_others(members: Members, words: str, tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", [*pairs(2), *members, *pairs(2, start=20)])
    source = WebDataset(str(path))
    assert len(source) == 5
    fails(source, 2, words)
    assert [source[i].captions[0] for i in (0, 1, 3, 4)] == ["number 0", "number 1", "number 20", "number 21"]


def test_a_key_that_repeats_at_once_is_named(tmp_path: Path) -> None:
    source = WebDataset(str(shard(tmp_path / "s.tar", [*pairs(1), *pairs(1)])))
    assert source[0].captions == ("number 0",)
    fails(source, 1, "has the same key")
    assert len(source) == 2


def test_a_shard_cut_anywhere_loses_no_sample_in_silence(tmp_path: Path) -> None:
    whole = shard(tmp_path / "whole.tar", pairs(3)).read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as archive:
        ends = [member.offset_data + member.size for member in archive][1::2]  # where each sample's last member ends
        end = archive.offset
    path = tmp_path / "cut.tar"
    for cut in (*range(ends[0], end + 512, 251), *ends, *(one - 1 for one in ends), end, end + 1, end + 511):
        path.write_bytes(whole[:cut])
        source = WebDataset(str(path))
        complete = sum(one <= cut for one in ends)
        read, failed = [], []
        for index in range(len(source)):
            try:
                read.append(source[index].captions[0])
            except DataError as error:
                failed.append(str(error))
        assert read == [f"number {i}" for i in range(complete)], cut
        assert failed, cut
        assert any("cut short" in one for one in failed), cut
    path.write_bytes(whole[: end + 512])
    assert len(WebDataset(str(path))) == 3


def test_a_cut_shard_tells_what_is_kept_and_what_is_lost(tmp_path: Path) -> None:
    """It counts as one skipped sample, so that one must say that it stands for many."""
    whole = shard(tmp_path / "whole.tar", pairs(40)).read_bytes()
    path = tmp_path / "cut.tar"
    path.write_bytes(whole[: len(whole) // 2])
    source = WebDataset(str(path))
    kept = len(source) - 1
    assert 15 < kept < 25
    assert [source[i].captions for i in range(kept)] == [(f"number {i}",) for i in range(kept)]
    told = rf"^{path}, sample '.*': the shard is cut short or broken at byte \d+; {kept} whole samples before that are"
    fails(source, kept, told + " kept, and all that followed is lost; copy it again$")


def test_a_shard_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    path = shard(tmp_path / "0.tar", pairs(2))
    with pytest.raises(DataError, match=r"0\.tar is named 2 times"):
        WebDataset((str(path), str(tmp_path / "{0..0}.tar")))


def test_a_broken_header_is_named(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", pairs(3))
    content = bytearray(path.read_bytes())
    at = content.index(b"0001.jpg")
    content[at + 148 : at + 154] = b"999999"  # the header's checksum
    path.write_bytes(content)
    source = WebDataset(str(path))
    assert source[0].captions == ("number 0",)
    fails(source, 1, f"cut short or broken at byte {at}")
    assert len(source) == 2


def test_shards_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    shard(tmp_path / "none.tar", [])
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("0.txt"))
    packed = (tmp_path / "packed.tar").read_bytes()
    for content, words in (
        (b"", "not a tar file that can be read .empty file"),
        (b"x" * 2000, "not a tar file"),
        (packed, "not a tar file"),
        ((tmp_path / "none.tar").read_bytes(), "holds no samples"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=words):
            len(WebDataset(str(path)))
    with pytest.raises(DataError, match=r"no shard at .*absent-1\.tar"):
        WebDataset((str(path), str(tmp_path / "absent-{1..2}.tar")))
    with pytest.raises(DataError, match="at least one shard"):
        WebDataset(())


def test_samples_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    fine = Sample("fine", (Image(jpeg(0)),), ("a",))
    for sample, words in (
        (replace(fine, captions=()), "'fine' has neither a caption nor a label"),
        (replace(fine, parts=()), "'fine' has 0 pictures"),
        (replace(fine, parts=(Image(b"no picture"),)), "is not a picture"),
        (replace(fine, meta={"x": object()}), "'fine' has meta that JSON cannot hold"),
    ):
        with pytest.raises(DataError, match=words):
            write_shards([sample], tmp_path / "shards")
        assert not list((tmp_path / "shards").glob("*.tar"))
    with pytest.raises(DataError, match="at least one sample"):
        write_shards([fine], tmp_path / "shards", per_shard=0)


def test_other_formats_are_written_as_png(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(buffer, "BMP")
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    samples = [Sample("bmp", (Image(buffer.getvalue()),), ("a",)), Sample("array", (Image(pixels),), ("b",))]
    (path,) = write_shards(samples, tmp_path)
    with tarfile.open(path) as archive:
        assert [name for name in archive.getnames() if name.endswith("png")] == ["000000000.png", "000000001.png"]
    assert all((np.asarray(one.image.decode()) == pixels).all() for one in WebDataset(str(path)))


def test_the_index_of_a_shard_keeps_all_of_its_samples_in_little_memory() -> None:
    listed = [
        ShardEntry(f"{place:06}", {"jpg": (place * 10_000, 9000), "txt": (place * 10_000 + 9500, place)})
        for place in range(1000)
    ]
    listed[3] = ShardEntry("狗", {}, "it is broken")
    listed[4] = ShardEntry("\udcff", {"0.jpg": (2**40, 0)})  # a byte of a name that is no UTF-8, as tarfile gives it
    tracemalloc.start()
    kept = Entries(iter(listed))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [kept[place] for place in range(len(kept))] == listed
    assert kept[-1] == listed[-1]
    with pytest.raises(IndexError):
        kept[1000]
    assert taken < 100 * len(listed)
