"""POPE's question files: is there a dog in the image? yes or no (Li et al. 2023, arXiv:2305.10355).

Reads the published files, which hold one object a line for all their name ends in .json."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from chiasm.data.files import Rows, json_lines, picture
from chiasm.data.locations import Location, Url, matching
from chiasm.data.sample import Question, Sample
from chiasm.data.source import Source
from chiasm.errors import DataError

_FIELDS = ("image", "text", "label")
_CHOICES = ("yes", "no")
_ENDINGS = (".json", ".jsonl")
# The published questions say "Is there a dog in the image?" and "Is there an orange in the imange?".
_ASKED = re.compile(r"Is there (?P<named>an? (?P<name>.+)) in the (?:image|imange)\?", re.IGNORECASE)


@dataclass(frozen=True)
class Pope(Source):
    """One sample a question, for the task `existence` with `polls: questions`.

    path: one file, such as coco_pope_adversarial.json, or a folder of them; the kind of a question is its file's name.
    A URL that ends in .json or .jsonl is a file, any other a folder.
    images: the folder of photos. The statements for models that score are made of the question's words: "there is a
    dog", "there is no dog"; a question in other words has none.
    """

    path: Location
    images: Location

    def __post_init__(self) -> None:
        if not (self.path.is_dir() if self._is_folder else self.path.is_file()):
            raise DataError(f"there is no file or folder {self.path} with POPE's questions")
        if not self.images.is_dir():
            raise DataError(f"there is no folder {self.images} with the photos of POPE's questions")

    @property
    def _is_folder(self) -> bool:
        if isinstance(self.path, Url):  # by its name: a web server does not tell
            return self.path.suffix not in _ENDINGS
        return self.path.is_dir()

    @cached_property
    def _files(self) -> list[tuple[str, Rows]]:
        paths = [self.path]
        if self._is_folder:
            paths = sorted((path for ending in _ENDINGS for path in matching(self.path, f"*{ending}")), key=str)
        if not paths:
            raise DataError(f"{self.path} holds none of POPE's files, such as coco_pope_random.json")
        return [(path.stem, json_lines(path)) for path in paths]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(len(rows) for _, rows in self._files))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        at = bisect_right(self._ends, index)
        kind, rows = self._files[at]
        number = index - (self._ends[at] - len(rows))
        row, where = rows[number], rows.where(number)
        if not all(isinstance(row.get(name), str) and row[name].strip() for name in _FIELDS):
            raise DataError(f"{where} needs a text in each of {', '.join(_FIELDS)}")
        image, text, label = (row[name].strip() for name in _FIELDS)
        if label not in _CHOICES:
            raise DataError(f"{where} has the label '{label}'; it must be yes or no")
        asked = _ASKED.fullmatch(text)
        statements = (f"there is {asked['named']}", f"there is no {asked['name']}") if asked else ()
        return Sample(
            key=f"{kind}/{row.get('question_id', number)}",
            parts=(picture(self.images, image),),
            questions=(Question(text, label, kind, _CHOICES, statements),),
        )
