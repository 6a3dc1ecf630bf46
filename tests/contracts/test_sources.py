"""What every source promises, found by walking the folder."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from chiasm.config import dump, parse
from chiasm.contracts.contract import Contract, Trial, contracts_of
from chiasm.data.image import Image
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.data.sources.webdataset import write_shards
from chiasm.errors import RecipeError
from tests.data.server import serve
from tests.data.sources.made import jpeg, json_lines

fsspec: Any = pytest.importorskip("fsspec", reason="URLs are read with fsspec: pip install 'chiasm[data]'")


_SCENES = {"source": "scenes", "seed": 3, "count": 5}
OF_NO_FILES: dict[str, dict[str, Any]] = {
    "scenes": {"seed": 3, "count": 5},
    "words": {"seed": 3, "count": 5},
    "answered": {"of": _SCENES},
    "grounded": {"of": _SCENES},
    "part": {"of": _SCENES, "share": 0.5},
    "referring": {"of": _SCENES},
}


@pytest.mark.parametrize("contract", list(contracts_of(Source)), ids=lambda contract: contract.__name__)
@pytest.mark.parametrize("name", OF_NO_FILES)
def test_a_source_of_no_files_keeps_the_contract(
    name: str, contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Source.choose(name), "example", classmethod(lambda cls, folder: OF_NO_FILES[name]))
    contract(Trial(Source.choose(name), tmp_path))


def test_the_walk_finds_the_sources() -> None:
    assert {"captions", "folder", "mixture", "scenes", "sugarcrepe"} <= set(Source.names())
    with pytest.raises(RecipeError, match="did you mean 'scenes'"):
        Source.choose("scene")


def _aro(root: Path) -> dict[str, Any]:
    row = {"true_caption": "a dog on a cat", "false_caption": "a cat on a dog", "relation_name": "on"}
    box = {"bbox_x": 3, "bbox_y": 2, "bbox_w": 10, "bbox_h": 5}
    rows = [{"image_path": f"{i}.jpg", **row, **box} for i in range(3)]
    (root / "visual_genome_relation.json").write_text(json.dumps(rows))
    return {"path": "ROOT/visual_genome_relation.json"}


def _captions(root: Path) -> dict[str, Any]:
    json_lines(root / "a.jsonl", [{"image": f"images/{i}.jpg", "captions": [f"number {i}", "狗"]} for i in range(3)])
    return {"path": "ROOT/a.jsonl"}


def _coco(root: Path) -> dict[str, Any]:
    photos = [{"id": i, "file_name": f"{i}.jpg", "width": 24, "height": 16} for i in range(3)]
    told = [{"id": i, "image_id": i, "caption": f"number {i}"} for i in range(3)]
    (root / "captions.json").write_text(json.dumps({"images": photos, "annotations": told}))
    boxed = [{"image_id": 1, "category_id": 4, "bbox": [2, 2, 6, 6]}]
    content = {"images": photos, "annotations": boxed, "categories": [{"id": 4, "name": "cat"}]}
    (root / "instances.json").write_text(json.dumps(content))
    return {"images": "ROOT/images", "captions": "ROOT/captions.json", "instances": "ROOT/instances.json"}


def _easy_vqa(root: Path) -> dict[str, Any]:
    for i in range(3):
        (root / "images" / f"{i}.png").write_bytes(jpeg(i))
    rows = [["is it red?", "yes", 1], ["what is it?", "circle", 1], ["is it red?", "no", 2]]
    (root / "questions.json").write_text(json.dumps(rows))
    return {"path": "ROOT"}


def _folder(root: Path) -> dict[str, Any]:
    for i in range(4):
        (root / "classes" / "ab"[i % 2] / "deep").mkdir(parents=True, exist_ok=True)
        (root / "classes" / "ab"[i % 2] / "deep" / f"{i} x.jpg").write_bytes(jpeg(i))
    (root / "classes" / "a" / "notes.txt").write_text("no picture")
    return {"path": "ROOT/classes"}


def _interleaved(root: Path) -> dict[str, Any]:
    rows = [{"parts": [{"text": f"before {i}"}, {"image": f"{i}.jpg"}, {"text": "after"}]} for i in range(3)]
    json_lines(root / "web.jsonl", rows)
    return {"path": "ROOT/web.jsonl", "images": "ROOT/images"}


def _llava(root: Path) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "Noise."}]
    rows = [{"id": i, "image": f"images/{i}.jpg", "conversations": turns} for i in range(3)]
    (root / "chat.json").write_text(json.dumps(rows))
    return {"path": "ROOT/chat.json"}


def _preferences(root: Path) -> dict[str, Any]:
    rows = [
        {"image": f"images/{i}.jpg", "question": "What?", "chosen": f"It is {i}.", "rejected": "No."} for i in range(3)
    ]
    (root / "pairs.json").write_text(json.dumps(rows))
    return {"path": "ROOT/pairs.json"}


def _mixture(root: Path) -> dict[str, Any]:
    parts = {"pairs": {"source": "captions", **_captions(root)}, "classes": {"source": "folder", **_folder(root)}}
    return {"sources": parts, "weights": {"pairs": 2, "classes": 1}}


def _mmbench(root: Path) -> dict[str, Any]:
    shown = [base64.b64encode(jpeg(i)).decode() for i in range(2)]
    rows = [f'{i}\t"Which\none?"\tleft\tright\t{"AB"[i % 2]}\t{one}' for i, one in enumerate([*shown, "0"])]
    (root / "dev.tsv").write_text("\n".join(["index\tquestion\tA\tB\tanswer\timage", *rows]) + "\n")
    return {"path": "ROOT/dev.tsv"}


def _parquet(root: Path) -> dict[str, Any]:
    arrow: Any = pytest.importorskip("pyarrow")
    tables: Any = pytest.importorskip("pyarrow.parquet")
    (root / "tables").mkdir()
    for part in range(2):
        columns = {
            "image": [{"bytes": jpeg(i), "path": None} for i in range(4)],
            "caption": [f"{part} {i}" for i in range(4)],
        }
        tables.write_table(arrow.table(columns), root / "tables" / f"train-{part}.parquet", row_group_size=3)
    return {"path": "ROOT/tables/train-*.parquet"}


def _prompts(root: Path) -> dict[str, Any]:
    return {"of": {"source": "folder", **_folder(root)}, "templates": ["a photo of a {}.", "a {}."]}


def _pope(root: Path) -> dict[str, Any]:
    (root / "asked").mkdir()
    rows = [{"image": f"{i}.jpg", "text": "Is there a dog in the image?", "label": "no"} for i in range(2)]
    for name in ("popular.json", "random.jsonl", "adversarial.json"):
        json_lines(root / "asked" / f"coco_pope_{name}", rows)
    return {"path": "ROOT/asked", "images": "ROOT/images"}


def _refcoco(root: Path) -> dict[str, Any]:
    rows = [{"image": f"{i}.jpg", "sent": "a dog", "bbox": [2, 2, 9, 9]} for i in range(3)]
    json_lines(root / "refs.jsonl", rows)
    return {"path": "ROOT/refs.jsonl", "images": "ROOT/images"}


def _scienceqa(root: Path) -> dict[str, Any]:
    row = {"question": "Which?", "choices": ["cat", "dog"], "answer": 1, "image": "image.jpg", "split": "test"}
    for i in range(2):
        (root / "images" / "test" / str(i)).mkdir(parents=True)
        (root / "images" / "test" / str(i) / "image.jpg").write_bytes(jpeg(i))
    (root / "problems.json").write_text(json.dumps({str(i): row for i in range(2)}))
    return {"path": "ROOT/problems.json"}


def _seed_bench(root: Path) -> dict[str, Any]:
    choices = {f"choice_{one}": f"{one} dogs" for one in "abcd"}
    rows = [{"question": "How many?", "question_id": i, "data_id": f"{i}.jpg", "answer": "C"} for i in range(2)]
    (root / "SEED-Bench.json").write_text(json.dumps({"questions": [{**row, **choices} for row in rows]}))
    return {"path": "ROOT/SEED-Bench.json", "images": "ROOT/images"}


def _sugarcrepe(root: Path) -> dict[str, Any]:
    (root / "pairs").mkdir()
    row = {"filename": "1.jpg", "caption": "a dog on a cat", "negative_caption": "a cat on a dog"}
    (root / "pairs" / "swap_obj.json").write_text(json.dumps({"0": row, "1": {**row, "filename": "2.jpg"}}))
    return {"path": "ROOT/pairs", "images": "ROOT/images"}


def _vqa(root: Path) -> dict[str, Any]:
    asked = [{"image_id": i // 2, "question_id": i, "question": f"what is {i}?"} for i in range(4)]
    told = [{"question_id": i, "answer_type": "other", "answers": [{"answer": "a kite"}]} for i in range(4)]
    for i in range(2):
        (root / "images" / f"{i:012}.jpg").write_bytes(jpeg(i))
    (root / "questions.json").write_text(json.dumps({"data_subtype": "val2014", "questions": asked}))
    (root / "annotations.json").write_text(json.dumps({"annotations": told}))
    return {"questions": "ROOT/questions.json", "annotations": "ROOT/annotations.json", "images": "ROOT/images"}


def _webdataset(root: Path) -> dict[str, Any]:
    write_shards([Sample(str(i), (Image(jpeg(i)),), (f"number {i}",)) for i in range(7)], root / "shards", per_shard=3)
    return {"shards": "ROOT/shards/shard-{000000..000002}.tar"}


def _winoground(root: Path) -> dict[str, Any]:
    for i in range(3):
        (root / "images" / f"ex_{i}.png").write_bytes(jpeg(i))
    row = {"caption_0": "a dog on a cat", "caption_1": "a cat on a dog", "image_0": "ex_0", "collapsed_tag": "Object"}
    json_lines(root / "examples.jsonl", [{"id": i, **row, "image_1": f"ex_{i}"} for i in (1, 2)])
    return {"path": "ROOT/examples.jsonl"}


EXAMPLES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "aro": _aro,
    "captions": _captions,
    "coco": _coco,
    "easy_vqa": _easy_vqa,
    "folder": _folder,
    "interleaved": _interleaved,
    "llava": _llava,
    "preferences": _preferences,
    "mixture": _mixture,
    "mmbench": _mmbench,
    "parquet": _parquet,
    "pope": _pope,
    "prompts": _prompts,
    "refcoco": _refcoco,
    "scienceqa": _scienceqa,
    "seed_bench": _seed_bench,
    "sugarcrepe": _sugarcrepe,
    "vqa": _vqa,
    "webdataset": _webdataset,
    "winoground": _winoground,
}


def _takes_urls(name: str) -> bool:
    return any("Url" in str(kind) for kind in get_type_hints(Source.choose(name)).values())


def test_every_source_that_takes_urls_has_an_example() -> None:
    assert {name for name in Source.names() if _takes_urls(name)} <= set(EXAMPLES) <= set(Source.names())


def test_every_source_is_held_to_the_contracts() -> None:
    assert sorted([*EXAMPLES, *OF_NO_FILES]) == sorted(Source.built_in())


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_place_in_a_recipe_may_be_a_url(name: str) -> None:
    """A field that is a plain Path would turn s3://bucket into s3:/bucket."""
    for field, kind in get_type_hints(Source.choose(name)).items():
        assert kind is not Path, field
        assert "Path |" not in str(kind) or "Url" in str(kind), field


def _put(value: Any, root: str) -> Any:
    if isinstance(value, dict):
        return {key: _put(one, root) for key, one in value.items()}
    return value.replace("ROOT", root) if isinstance(value, str) else value


@pytest.fixture
def memory() -> Iterator[Any]:
    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


def _told(source: Source) -> list[object]:
    """All that a source says, the content of its pictures too."""
    return [
        (
            one.key,
            [part.key if isinstance(part, Image) else part for part in one.parts],
            one.captions,
            one.boxes,
            one.negatives,
            one.questions,
            one.label,
            one.preference,
            one.meta,
        )
        for one in source
    ]


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_source_keeps_the_contracts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    for level in range(4):
        (root / "images" / f"{level}.jpg").write_bytes(jpeg(level))
    entries = _put(EXAMPLES[name](root), str(root))
    monkeypatch.setattr(Source.choose(name), "example", classmethod(lambda cls, folder: entries))
    for contract in contracts_of(Source):
        contract(Trial(Source.choose(name), tmp_path))


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_store_gives_what_the_folder_gives(
    name: str, tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "data"
    for level in range(4):
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "images" / f"{level}.jpg").write_bytes(jpeg(level))
    entries = {"source": name, **EXAMPLES[name](root)}
    expected = _told(_parsed(_put(entries, str(root))))
    assert len(expected) >= 2
    for path in root.rglob("*"):
        if path.is_file():
            memory.pipe(f"/bucket/{path.relative_to(root).as_posix()}", path.read_bytes())
    remote = _parsed(_put(entries, "memory://bucket"))
    assert _told(remote) == expected
    assert [remote.at(place, 3) for place in range(2 * len(remote))]
    assert _parsed(dump(remote)) == remote
    with serve(root) as (address, _):
        assert _told(_parsed(_put(entries, address))) == expected


def _parsed(entries: dict[str, Any]) -> Source:
    return parse(Source, entries)  # type: ignore[type-abstract]  # a choice of the room is built
