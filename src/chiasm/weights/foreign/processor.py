"""Samples to what a model of transformers is given, by the checkpoint's own processor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import PIL.Image

from chiasm.data.batch import Batch
from chiasm.data.chat import IMAGE, ChatTemplate
from chiasm.data.processor import Processor
from chiasm.data.sample import Image, Sample, Text
from chiasm.errors import CapabilityError, CheckpointError, DataError, MissingExtra
from chiasm.weights.files import read_json_if_present

_PROBE = Sample("probe", (Image(np.full((64, 64, 3), 128, np.uint8)), Text("a", role="user")))


class ForeignProcessor(Processor):
    """A processor of transformers. inner: it, or the tokenizer of a model that only reads.

    sees: whether the model is shown pictures between its words. ends: ids of the tokens that end an answer.
    """

    def __init__(self, inner: Any, sees: bool = False, ends: Sequence[int] = ()) -> None:
        self.inner, self.sees = inner, sees
        self.tokenizer = getattr(inner, "tokenizer", inner)
        self.end_ids = tuple(ends)

    @property
    def ends(self) -> tuple[str, ...]:
        """The tokens that end an answer."""
        return tuple(self.tokenizer.convert_ids_to_tokens(list(self.end_ids)))

    def prompt(self, sample: Sample) -> tuple[str, str]:
        """The text before the answer, and the answer to score with the mark that ends it; "" where none is to be.

        Raises DataError, naming the sample, for videos, and where the words to score are not at its end.
        """
        if any(not isinstance(part, Text | Image) for part in sample.parts):
            raise DataError(f"sample '{sample.key}' has videos, which are not handed to foreign models; give frames")
        scored = any(text.target for text in sample.texts)
        rendered = self._template.render(sample, answer=not scored)
        if not scored:
            return rendered.text, ""
        if len(rendered.spans) != 1 or rendered.text[rendered.spans[0][1] :].strip():
            raise DataError(f"sample '{sample.key}': a foreign model scores one text, at the end of a sample")
        first, behind = rendered.spans[0]
        return rendered.text[:first], rendered.text[first:behind]

    def inputs(self, sample: Sample, texts: Sequence[str]) -> Any:
        """What the model is given for rows that show the sample's pictures beside these texts, all of one length.

        texts: as `prompt` makes them. Raises DataError for what the processor refuses.
        """
        if sample.images and not self.sees:
            raise DataError(f"sample '{sample.key}' has pictures, but this model reads text alone")
        given = [text.replace(IMAGE, self._mark) for text in texts]
        return self._called(given, [image.decode() for image in sample.images], sample.key)

    def pixels(self, image: Image) -> Mapping[str, Any]:
        """What a vision tower is given for a picture."""
        return self._checked(image.name, images=image.decode(), return_tensors="pt")

    def words(self, text: str, context: int | None) -> Mapping[str, Any]:
        """What a text tower is given for a text, cut at its context, padded only where the checkpoint says so."""
        longest = self.tokenizer.model_max_length
        most = {"max_length": context} if context is not None and context < longest else {}
        return self._checked("a text", text=text, return_tensors="pt", truncation=True, **most)

    def ids(self, text: str, *, whole: bool = False) -> list[int]:
        """The tokens of an answer. whole: with the marks that the tokenizer puts around a text of its own."""
        return list(self.tokenizer(text, add_special_tokens=whole).input_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, marks left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def without_marks(self, ids: Sequence[int]) -> list[int]:
        """The tokens that are words."""
        marks = set(self.tokenizer.all_special_ids)
        return [one for one in ids if one not in marks]

    # --- parts of the above

    @cached_property
    def _template(self) -> ChatTemplate:
        """The checkpoint's chat template, rendered by us: in bounds, and with what is scored marked in it."""
        source = _source(getattr(self.inner, "chat_template", None) or getattr(self.tokenizer, "chat_template", None))
        marks = {name: token for name, token in self.tokenizer.special_tokens_map.items() if isinstance(token, str)}
        plain = ChatTemplate(source, marks=marks, ends=self.ends)
        if not source or not self.sees:
            return plain
        for mark in self._marks:
            template = ChatTemplate(source, mark, marks=marks, ends=self.ends)
            try:
                template.render(_PROBE)
            except DataError:
                continue
            return template
        raise CheckpointError(
            f"the chat template of {type(self.inner).__name__} writes none of {', '.join(self._marks)} for a picture, "
            "so pictures cannot be found in what it makes"
        )

    @property
    def _marks(self) -> list[str]:
        """By what a picture may stand in a text for this processor."""
        holders = [(one, name) for name in ("image_token", "boi_token") for one in (self.inner, self.tokenizer)]
        named = [getattr(one, name, None) for one, name in holders]
        return list(dict.fromkeys([*(str(one) for one in named if one), "<image>"]))

    @cached_property
    def _mark(self) -> str:
        """What is written for a picture: nothing where the processor makes room for pictures by itself."""
        if self._template.source:
            return self._template.image
        alone = self._image_tokens("a")
        for mark in self._marks:
            if (image_tokens := self._image_tokens(f"{mark}a")) and (not alone or image_tokens == alone):
                return mark
        if alone is None:
            raise CheckpointError(f"{type(self.inner).__name__} takes no picture, whatever stands for it in the text")
        return ""

    def _image_tokens(self, text: str) -> int | None:
        """How many places for features the processor makes beside this text and a picture; None where it refuses."""
        try:
            ids = self._called([text], [image.decode() for image in _PROBE.images], "probe")["input_ids"][0].tolist()
        except DataError:
            return None
        unknown = self.tokenizer.unk_token_id
        image_tokens = {self.tokenizer.convert_tokens_to_ids(mark) for mark in self._marks} - {None, unknown}
        return sum(one in image_tokens for one in ids)

    def _called(self, texts: list[str], pictures: list[PIL.Image.Image], key: str) -> Any:
        entries: dict[str, Any] = {"text": texts, "return_tensors": "pt"}
        if pictures:
            entries["images"] = [pictures] * len(texts)
        begin = self.tokenizer.bos_token
        if begin is not None and all(text.startswith(begin) for text in texts):
            entries["add_special_tokens"] = False  # the template has written the first mark
        return self._checked(f"sample '{key}'", **entries)

    def _checked(self, what: str, **entries: Any) -> Any:
        try:
            return self.inner(**entries)
        except (ValueError, TypeError, IndexError) as error:
            raise DataError(f"{what}: {type(self.inner).__name__} refuses it: {first_line(error)}") from error

    # --- what belongs to processors that train

    def __call__(self, samples: Sequence[Sample], generators: Sequence[np.random.Generator] | None = None) -> Batch:
        """Raises CapabilityError: no batches to learn from are made of foreign models' samples."""
        del samples, generators
        raise CapabilityError("a foreign model is asked sample by sample; it has no training batches")

    @classmethod
    def from_recipe(cls, entries: Mapping[str, Any], texts: Iterable[str]) -> Self:
        """Raises CapabilityError: it comes with a checkpoint."""
        del entries, texts
        raise CapabilityError("a foreign model's processor comes with its checkpoint; no recipe makes one")

    def save(self, folder: Path) -> None:
        self.inner.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(read_processor(folder))


def read_processor(folder: Path) -> Any:
    """The processor in a folder as transformers builds it.

    Many hold one for videos too, which cannot be built without torchvision: then the same class is built without it.
    Raises CheckpointError where it cannot be built, saying why.
    """
    import transformers

    try:
        return transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except ImportError as error:
        told = error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"transformers cannot build the processor in {folder}: {first_line(error)}") from error
    kind = _without_videos(folder)
    if kind is None:
        raise CheckpointError(f"transformers cannot build the processor in {folder}: {first_line(told)}") from told
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except ImportError as error:
        raise MissingExtra(str(error.name or "torchvision"), "transformers", f"the processor in {folder}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"transformers cannot build the processor in {folder}: {first_line(error)}") from error


def _without_videos(folder: Path) -> Any:
    """The class of a folder's processor, less what prepares videos; None where it has no such part."""
    import transformers

    files = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
    named = (read_json_if_present(folder / file).get("processor_class") for file in files)
    kind: Any = next((getattr(transformers, str(name), None) for name in named if name), None)
    if kind is None or "video_processor" not in kind.get_attributes():
        return None
    kept = [name for name in kind.get_attributes() if name != "video_processor"]
    return type(kind.__name__, (kind,), {"get_attributes": classmethod(lambda _: kept)})


def _source(template: Any) -> str:
    """The usual one where there are several by name."""
    return str(template.get("default", "") if isinstance(template, Mapping) else template or "")


def first_line(error: Exception) -> str:
    """What an error of transformers says, without its advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else repr(error)
