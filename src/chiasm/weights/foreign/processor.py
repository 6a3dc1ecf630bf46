"""Samples to the inputs of a model of transformers, by the checkpoint's own processor."""

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
    """A processor of transformers. inner: transformers' own object, or the tokenizer of a model of text alone.

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
        """The text before the answer, and the answer to score with its end token; "" where none is to be scored.

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
        first, end = rendered.spans[0]
        return rendered.text[:first], rendered.text[first:end]

    def inputs(self, sample: Sample, texts: Sequence[str]) -> Any:
        """The model's inputs for rows that show the sample's pictures beside these texts, all of one length.

        texts: as `prompt` makes them. Raises DataError for what the processor refuses.
        """
        if sample.images and not self.sees:
            raise DataError(f"sample '{sample.key}' has pictures, but this model reads text alone")
        given = [text.replace(IMAGE, self._placeholder) for text in texts]
        return self._called(given, [image.decode() for image in sample.images], sample.key)

    def pixels(self, image: Image) -> Mapping[str, Any]:
        """The vision tower's inputs for an image."""
        return self._checked(image.name, images=image.decode(), return_tensors="pt")

    def words(self, text: str, context: int | None) -> Mapping[str, Any]:
        """The text tower's inputs for a text, cut at its context, padded only where the checkpoint says so."""
        longest = self.tokenizer.model_max_length
        most = {"max_length": context} if context is not None and context < longest else {}
        return self._checked("a text", text=text, return_tensors="pt", truncation=True, **most)

    def ids(self, text: str, *, whole: bool = False) -> list[int]:
        """The tokens of an answer. whole: with the special tokens that the tokenizer puts around a text of its own."""
        return list(self.tokenizer(text, add_special_tokens=whole).input_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def without_marks(self, ids: Sequence[int]) -> list[int]:
        """The tokens that are not special."""
        special = set(self.tokenizer.all_special_ids)
        return [id_ for id_ in ids if id_ not in special]

    # --- parts of the above

    @cached_property
    def _template(self) -> ChatTemplate:
        """The checkpoint's chat template, rendered by us: in bounds, and with what is scored marked in it."""
        source = _source(getattr(self.inner, "chat_template", None) or getattr(self.tokenizer, "chat_template", None))
        marks = {name: token for name, token in self.tokenizer.special_tokens_map.items() if isinstance(token, str)}
        plain = ChatTemplate(source, marks=marks, ends=self.ends)
        if not source or not self.sees:
            return plain
        for placeholder in self._placeholders:
            template = ChatTemplate(source, placeholder, marks=marks, ends=self.ends)
            try:
                template.render(_PROBE)
            except DataError:
                continue
            return template
        raise CheckpointError(
            f"the chat template of {type(self.inner).__name__} writes none of {', '.join(self._placeholders)} for a "
            "picture, so pictures cannot be found in what it makes"
        )

    @property
    def _placeholders(self) -> list[str]:
        """The placeholders that may stand for an image in a text for this processor."""
        holders = [(holder, name) for name in ("image_token", "boi_token") for holder in (self.inner, self.tokenizer)]
        named = [getattr(holder, name, None) for holder, name in holders]
        return list(dict.fromkeys([*(str(token) for token in named if token), "<image>"]))

    @cached_property
    def _placeholder(self) -> str:
        """The placeholder that is written for an image: none where the processor inserts image tokens by itself."""
        if self._template.source:
            return self._template.image
        alone = self._image_tokens("a")
        for placeholder in self._placeholders:
            if (image_tokens := self._image_tokens(f"{placeholder}a")) and (not alone or image_tokens == alone):
                return placeholder
        if alone is None:
            raise CheckpointError(f"{type(self.inner).__name__} takes no picture, whatever stands for it in the text")
        return ""

    def _image_tokens(self, text: str) -> int | None:
        """The number of image tokens that the processor makes of this text and one image; None where it refuses."""
        try:
            ids = self._called([text], [image.decode() for image in _PROBE.images], "probe")["input_ids"][0].tolist()
        except DataError:
            return None
        unknown = self.tokenizer.unk_token_id
        known = set(map(self.tokenizer.convert_tokens_to_ids, self._placeholders)) - {None, unknown}
        return sum(id_ in known for id_ in ids)

    def _called(self, texts: list[str], images: list[PIL.Image.Image], key: str) -> Any:
        entries: dict[str, Any] = {"text": texts, "return_tensors": "pt"}
        if images:
            entries["images"] = [images] * len(texts)
        begin = self.tokenizer.bos_token
        if begin is not None and all(text.startswith(begin) for text in texts):
            entries["add_special_tokens"] = False  # the template has written the first token
        return self._checked(f"sample '{key}'", **entries)

    def _checked(self, what: str, **entries: Any) -> Any:
        try:
            return self.inner(**entries)
        except (ValueError, TypeError, IndexError) as error:
            raise DataError(f"{what}: {type(self.inner).__name__} refuses it: {first_line(error)}") from error

    # --- what belongs to processors that train

    def __call__(self, samples: Sequence[Sample], generators: Sequence[np.random.Generator] | None = None) -> Batch:
        """Raises CapabilityError: foreign models have no training batches."""
        del samples, generators
        raise CapabilityError("a foreign model is asked sample by sample; it has no training batches")

    @classmethod
    def from_recipe(cls, entries: Mapping[str, Any], texts: Iterable[str]) -> Self:
        """Raises CapabilityError: a foreign processor comes with its checkpoint."""
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
        lacks = error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"transformers cannot build the processor in {folder}: {first_line(error)}") from error
    kind = _without_videos(folder)
    if kind is None:
        raise CheckpointError(f"transformers cannot build the processor in {folder}: {first_line(lacks)}") from lacks
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
    """The chat template; where there are several by name, the default one."""
    return str(template.get("default", "") if isinstance(template, Mapping) else template or "")


def first_line(error: Exception) -> str:
    """The first line of an error of transformers, without its advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else repr(error)
