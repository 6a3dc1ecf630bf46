"""Preference pairs in the forms that public data sets have, and what is refused of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chiasm.data.sample import Image, Part, Sample, Text
from chiasm.data.sources.preferences import Preferences
from chiasm.errors import DataError
from tests.data.sources.made import folder_of_images, json_lines

# A row as openbmb/RLAIF-V-Dataset has them, its image as a file.
RLAIF_V: dict[str, Any] = {
    "ds_name": "RLAIF-V",
    "image": "0.jpg",
    "question": "What is in the photo?",
    "chosen": "A dog on grass.",
    "rejected": "Two cats.",
    "origin_dataset": "LCS-558K",
    "idx": "17",
}


def say(role: str, *blocks: str) -> dict[str, Any]:
    """A message of TRL's vision data sets: "" is an image."""
    return {
        "role": role,
        "content": [{"type": "text", "text": block} if block else {"type": "image"} for block in blocks],
    }


def told(parts: tuple[Part, ...]) -> list[object]:
    return [
        Path(str(part.source)).name if isinstance(part, Image) else (part.text, part.role, part.target)
        for part in parts
        if isinstance(part, (Image, Text))
    ]


def read(tmp_path: Path, row: dict[str, Any]) -> Sample:
    return Preferences(json_lines(tmp_path / "rows.jsonl", [row]), tmp_path)[0]  # images are not opened


def sides(sample: Sample) -> list[list[object]]:
    return [told(one.parts) for one in sample.continuations]


def test_a_row_of_rlaif_v(tmp_path: Path) -> None:
    sample = read(tmp_path, RLAIF_V)
    asked = ["0.jpg", ("What is in the photo?", "user", False)]
    assert told(sample.parts) == asked
    assert sides(sample) == [
        [*asked, ("A dog on grass.", "assistant", True)],
        [*asked, ("Two cats.", "assistant", True)],
    ]
    assert sample.meta == {"ds_name": "RLAIF-V", "origin_dataset": "LCS-558K", "idx": "17"}


def test_trls_conversations(tmp_path: Path) -> None:
    """As trl-lib/rlaif-v has them, and with a system's message, texts as they are, and an image between words."""
    row = {
        "images": ["1.jpg"],
        "prompt": [say("user", "", "What is it?")],
        "chosen": [say("assistant", "A dog.")],
        "rejected": [say("assistant", "A cat.")],
    }
    asked = ["1.jpg", ("What is it?", "user", False)]
    assert sides(read(tmp_path, row)) == [
        [*asked, ("A dog.", "assistant", True)],
        [*asked, ("A cat.", "assistant", True)],
    ]
    row |= {
        "images": ["1.jpg", "2.jpg"],
        "prompt": [{"role": "system", "content": "Be brief."}, say("user", "Is", "", "like", "", "?")],
    }
    words = [(word, "user", False) for word in ("Is", "like", "?")]
    assert told(read(tmp_path, row).parts) == [
        ("Be brief.", "system", False),
        words[0],
        "1.jpg",
        words[1],
        "2.jpg",
        words[2],
    ]
    row["prompt"] = [{"role": "system", "content": "Be brief."}, say("user", "Alike?")]
    assert told(read(tmp_path, row).parts)[:3] == [("Be brief.", "system", False), "1.jpg", "2.jpg"]


def test_what_both_conversations_begin_with_is_the_prompt(tmp_path: Path) -> None:
    """Later turns of a user belong to an answer, but are not learned."""
    begun = [say("user", "", "What is it?"), say("assistant", "An animal.")]
    row = {
        "image": "0.jpg",
        "chosen": [*begun, say("user", "Which?"), say("assistant", "A dog.")],
        "rejected": [*begun, say("user", "Which one?"), say("assistant", "A dog.")],
    }
    sample = read(tmp_path, row)
    assert told(sample.parts) == ["0.jpg", ("What is it?", "user", False), ("An animal.", "assistant", False)]
    assert sample.preference is not None
    assert told(sample.preference.chosen) == [("Which?", "user", False), ("A dog.", "assistant", True)]


def test_plain_texts_have_no_roles(tmp_path: Path) -> None:
    row = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
    assert sides(read(tmp_path, row)) == [
        [("The sky is", "", False), (" blue.", "", True)],
        [("The sky is", "", False), (" green.", "", True)],
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rejected": "A dog on grass."}, "row 0.*the same, so neither is preferred"),
        ({"chosen": " "}, "the chosen continuation of a preference has no text to learn"),
        ({"chosen": None}, "needs 'chosen' and 'rejected' beside 'prompt' or 'question'"),
        ({"chosen": [say("assistant", "x")]}, "all as texts or as lists of messages"),
        ({"image": 3}, "'image' must name a file"),
        ({"image": "../secret.jpg"}, "leads out of the folder"),
        (
            {
                "prompt": [say("user", "", "", "?")],
                "chosen": [say("assistant", "a")],
                "rejected": [say("assistant", "b")],
            },
            "has 2 places for images but names 1",
        ),
        ({"prompt": [{"role": "bot"}], "chosen": [], "rejected": []}, "a message needs 'role'"),
        (
            {"prompt": "x", "chosen": [{"role": "assistant", "content": [{"type": "audio"}]}], "rejected": []},
            "blocks of the types 'image' and 'text'",
        ),
        (
            {"prompt": "x", "chosen": [say("assistant", "")], "rejected": [say("assistant", "b")]},
            "an answer holds an image",
        ),
    ],
)
def test_a_row_that_cannot_be_read_is_named(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "images")
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{**RLAIF_V, **change}]))
    with pytest.raises(DataError, match=words) as caught:
        Preferences(path, images)[0]
    assert "rows.json" in str(caught.value) or "../secret.jpg" in str(caught.value)


def test_a_sample_without_a_preference_says_so() -> None:
    with pytest.raises(DataError, match="sample 'a' has no preference"):
        _ = Sample("a", (Text("x"),)).continuations
