"""Samples with pictures anywhere in them to one stream of tokens, the input of generative models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import tokenizers
import torch
from tokenizers import AddedToken

from chiasm.config import dump, parse
from chiasm.data.attention_blocks import prefix_blocks
from chiasm.data.batch import Batch, Images, Stream
from chiasm.data.box_format import BoxFormat, ParsedText
from chiasm.data.chat import IMAGE, VIDEO, ChatTemplate, Rendered
from chiasm.data.infilling import Infilling, moved, segments_of
from chiasm.data.layout import Layout, VideoLayout
from chiasm.data.processor import Cost, Preview, Processor, TokenizerEntry
from chiasm.data.sample import Image, Sample, Text, Video
from chiasm.data.tokenizer import learn_tokenizer, load_backend
from chiasm.data.transforms import ImageTransform
from chiasm.errors import CheckpointError, DataError, RecipeError

_TEMPLATE, _SETTINGS, _TOKENIZER = "chat_template.jinja", "processor.json", "tokenizer.json"


@dataclass(frozen=True)
class ChatSettings:
    """How samples become tokens; the `processor` entries of a recipe, but for template and tokenizer.

    context: the most tokens of a sample, pictures included; a longer one is an error that names it, never cut.
    start: a token that begins every sample, where the checkpoint has one and its template does not write it.
    ends: tokens that end a turn or a text; the first also ends texts without roles.
    boxes: how regions are written; None for a model that knows none, which is then given no boxes.
    attention: "causal", or "prefix" where all that stands before the first learned word, and all of a prompt, is read
        with attention both ways (PaliGemma).
    infilling: which spans are moved to the end of a sample in training; None for none.
    """

    context: int = 2048
    layout: Layout | None = None
    start: str = ""
    ends: tuple[str, ...] = ("<|endoftext|>",)
    marks: Mapping[str, str] = field(default_factory=dict)
    boxes: BoxFormat | None = None
    attention: Literal["causal", "prefix"] = "causal"
    infilling: Infilling | None = None


@dataclass(frozen=True)
class ChatEntries(ChatSettings):
    """The `processor` entries of a recipe: the settings, a tokenizer, and a chat template as a file."""

    tokenizer: TokenizerEntry = field(default_factory=lambda: TokenizerEntry(learn=512))
    template: Path | None = None


class ChatProcessor(Processor):
    """Renders a sample by the chat template, makes room for its pictures, and finds the tokens to learn."""

    packs = True
    backend: tokenizers.Tokenizer

    def __init__(self, backend: tokenizers.Tokenizer, settings: ChatSettings, template: str = "") -> None:
        self.backend = tokenizers.Tokenizer.from_str(backend.to_str())  # ours alone
        self.backend.no_padding()
        self.backend.no_truncation()
        self.settings, self.layout = settings, settings.layout
        image = self.layout.placeholder if self.layout is not None else "<image>"
        video = self.layout.video_placeholder if isinstance(self.layout, VideoLayout) else "<video>"
        self.template = ChatTemplate(template, image, video, settings.marks, settings.ends)
        self.end_ids = tuple(self._id(end) for end in settings.ends)
        image_tokens = self.layout.placeholder_tokens if self.layout is not None else ()
        self.image_token_ids = tuple(self._id(image_token) for image_token in image_tokens)
        self.start_ids = (self._id(settings.start),) if settings.start else ()
        codes = self.layout.image_codes if self.layout is not None else None
        self.code_ids = codes.in_vocabulary(self._id) if codes is not None else None
        reserved = (*image_tokens, *(codes.names if codes is not None else ()))
        self._reserved = re.compile("|".join(map(re.escape, reserved)) or "(?!)")  # matches nothing where none is
        infilling = settings.infilling
        if infilling is not None:
            self.end_ids += (self._id(infilling.end),)
            self._masks = [self._id(mask) for mask in infilling.masks]
            self._boundaries = [self._id(token) for token in infilling.within]
            if settings.attention != "causal":
                raise RecipeError(
                    "processor: infilling moves what attention both ways would see; leave out one of both"
                )
        self._silent = _silent(self.backend, settings.boxes)
        if settings.boxes is not None and self.transform is not None and self.transform.augment is not None:
            raise RecipeError("processor: random views of pictures move what boxes mean; leave out augment or boxes")

    @property
    def transform(self) -> ImageTransform | None:
        return self.layout.alike if self.layout is not None else None

    @cached_property
    def dummy_images(self) -> Images | None:
        """One small grey image."""
        return self.layout.images([Image(np.full((28, 28, 3), 128, np.uint8))]) if self.layout is not None else None

    @property
    def shares_prompts(self) -> bool:
        """Whether what several prompts begin with can be read once for all of them: no token of it sees the rest."""
        return self.settings.attention == "causal"

    @property
    def chat_template(self) -> str:
        return self.template.source

    @property
    def vocabulary(self) -> int:
        """V, the number of tokens, added ones included."""
        return self.backend.get_vocab_size()

    def __call__(self, samples: Sequence[Sample], generators: Sequence[np.random.Generator] | None = None) -> Batch:
        return self._batch(samples, generators, answer=False)

    def prompts(self, samples: Sequence[Sample]) -> Batch:
        """The batch of samples that are to be continued: each ends with the words that open the assistant's turn.

        A sample without roles is continued where it ends.
        """
        return self._batch(samples, None, answer=True)

    def render(self, sample: Sample, answer: bool = False) -> Rendered:
        """The sample as the tokenizer reads it, image tokens written out, with the spans that are learned."""
        rendered = self.template.render(self._with_boxes(sample), answer)
        self._check_image_tokens(rendered, sample)
        return rendered.expanded(self._all_written(sample, rendered.text))

    def tokens(self, sample: Sample, *, answer: bool = False) -> tuple[list[int], list[bool]]:
        """The ids of a sample, image tokens included, and which of them are learned; of images only sizes are read.

        answer: as a prompt, see `prompts`. Raises DataError for what is empty or longer than the context.
        """
        rendered = self.render(sample, answer)
        encoding = self.backend.encode(rendered.text, add_special_tokens=False)
        ids = [*self.start_ids, *encoding.ids]
        targets = [False] * len(self.start_ids) + rendered.covered(encoding.offsets)
        if len(ids) > self.settings.context:
            image_tokens = self._count_image_tokens(ids)
            raise DataError(
                f"sample '{sample.key}' has {len(ids)} tokens, {image_tokens} of them for its pictures, but the "
                f"context is {self.settings.context}; shorten it, give smaller pictures, or raise processor.context"
            )
        if not ids:
            raise DataError(f"sample '{sample.key}' is empty: it has neither words nor pictures")
        if not answer and not any(targets[1:]):  # nothing stands before the first token, so it cannot be learned
            raise DataError(
                f"sample '{sample.key}' has nothing to learn: no text of it is a target (in chats, the assistant's)"
            )
        return ids, targets

    def cost(self, sample: Sample) -> Cost:
        ids, _ = self.tokens(sample)
        return Cost(len(ids), self._count_image_tokens(ids))

    def preview(self, sample: Sample) -> Preview:
        rendered, start = self.render(sample), self.settings.start
        encoding = self.backend.encode(rendered.text, add_special_tokens=False)
        tokens, limit = len(self.start_ids) + len(encoding.ids), self.settings.context
        image_tokens = self._count_image_tokens(encoding.ids)
        targets = sum(rendered.covered(encoding.offsets))
        beyond = f", beyond the context of {limit:,}" if tokens > limit else ""
        return Preview(
            text=start + rendered.text,
            spans=tuple((first + len(start), end + len(start)) for first, end in rendered.spans),
            image_token=self.layout.image_token if self.layout is not None else "",
            tokens=tokens,
            image_tokens=image_tokens,
            target_tokens=targets,
            limit=limit,
            summary=f"{tokens:,} tokens{beyond}: {image_tokens:,} for pictures, {targets:,} learned",
        )

    def dumped(self) -> dict[str, Any]:
        entries: dict[str, Any] = dump(self.settings)
        return entries

    def _count_image_tokens(self, ids: Sequence[int]) -> int:
        return sum(ids.count(image_token) for image_token in self.image_token_ids)

    def ids(self, text: str) -> list[int]:
        """The tokens of a text as it stands, without marks of its own."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, marks left out, but for those of boxes."""
        return self.backend.decode([token for token in ids if token not in self._silent], skip_special_tokens=False)

    def reading(self, sample: Sample, reply: str) -> ParsedText:
        """A reply to a sample, parsed, its boxes as regions of the sample's (first) picture.

        Raises DataError for a model that writes no boxes.
        """
        if self.settings.boxes is None:
            raise DataError("this model writes no boxes; say in processor.boxes how it does")
        images = sample.images
        return self.settings.boxes.read(reply, images[0].size if images else (1, 1))

    def _with_boxes(self, sample: Sample) -> Sample:
        if self.settings.boxes is not None:
            written = self.settings.boxes.written(sample)
            self._check_seen(sample)
            return written
        if any(text.grounded_spans for text in sample.texts):
            if any(mention.boxes for text in sample.texts for mention in text.grounded_spans):
                raise DataError(
                    f"sample '{sample.key}' has boxes to write, but nothing says how this model writes them; set "
                    "processor.boxes"
                )
            parts = (replace(part, grounded_spans=()) if isinstance(part, Text) else part for part in sample.parts)
            return replace(sample, parts=tuple(parts))
        return sample

    def _check_seen(self, sample: Sample) -> None:
        """A box to learn must lie, at least in part, in what the layout shows of its picture."""
        if self.transform is None or self.transform.resize not in ("crop", "none"):
            return
        learned = (mention for text in sample.texts if text.target for mention in text.grounded_spans)
        for box in (box for mention in learned for box in mention.boxes):
            shown = sample.shown[box.image]
            if isinstance(shown, Video):
                continue
            x0, y0, x1, y1 = self.transform.seen(shown.size)
            if box.corners[0] >= x1 or box.corners[2] <= x0 or box.corners[1] >= y1 or box.corners[3] <= y0:
                raise DataError(
                    f"sample '{sample.key}': the box of '{box.phrase}' lies in a part of the picture that is cut off; "
                    "set the transform's resize to squash or pad, so that all of it is seen"
                )

    def _batch(
        self, samples: Sequence[Sample], generators: Sequence[np.random.Generator] | None, answer: bool
    ) -> Batch:
        rows = [self.tokens(sample, answer=answer) for sample in samples]
        order = None
        if self.settings.infilling is not None and generators is not None:
            infilled = [self._infilled(*row, generator) for row, generator in zip(rows, generators, strict=True)]
            rows, order = (
                [row for row, _ in infilled],
                torch.tensor([position for _, row in infilled for position in row]),
            )
        ids, targets = (torch.tensor([value for row in rows for value in row[part]]) for part in (0, 1))
        ids, targets = ids.long(), targets.bool()
        image_tokens = torch.isin(ids, torch.tensor(self.image_token_ids, dtype=torch.long))
        lengths = [len(row[0]) for row in rows]
        positions = self._positions(samples, torch.split(image_tokens, lengths))
        if order is not None and positions is not None:
            raise RecipeError(
                "processor.infilling: this layout gives image tokens positions of their own; leave it out"
            )
        blocks = None
        if self.settings.attention == "prefix":
            prefixes = lengths if answer else [targets.index(True) for _, targets in rows]
            blocks = prefix_blocks(prefixes, lengths)
        return Batch(
            keys=tuple(sample.key for sample in samples),
            images=self._images(samples, generators),
            stream=Stream(ids, torch.tensor(lengths), targets, image_tokens, positions, blocks, order),
        )

    def _infilled(
        self, ids: list[int], targets: list[bool], generator: np.random.Generator
    ) -> tuple[tuple[list[int], list[bool]], list[int]]:
        """A sample with spans moved to its end, and which of its image tokens each of its tokens was.

        The masks are not learned, for where a span begins is chance; where it ends is learned.
        """
        infilling = self.settings.infilling
        assert infilling is not None
        most = (self.settings.context - len(ids)) // 3  # two masks and an end for each
        spans = infilling.spans(segments_of(ids, targets, self._boundaries), most, generator)
        order = moved(spans, len(ids))
        number = np.isin(ids, self.image_token_ids).cumsum() - 1
        extra = {-1 - at: mask for at, mask in enumerate(self._masks)} | {-1 - len(ids): self._id(infilling.end)}
        return (
            [ids[position] if position >= 0 else extra[position] for position in order],
            [targets[position] if position >= 0 else position == -1 - len(ids) for position in order],
        ), [max(0, int(number[position])) if position >= 0 else 0 for position in order]

    def _images(self, samples: Sequence[Sample], generators: Sequence[np.random.Generator] | None) -> Images | None:
        shown = [(row, visual) for row, sample in enumerate(samples) for visual in sample.shown]
        if not shown or self.layout is None:
            return None
        drawn = [generators[row] for row, _ in shown] if generators is not None else None
        if isinstance(self.layout, VideoLayout):
            images = self.layout.images([visual for _, visual in shown], drawn)
        else:
            images = self.layout.images([visual for _, visual in shown if isinstance(visual, Image)], drawn)
        return images.of_samples(torch.tensor([row for row, _ in shown]))

    def _all_written(self, sample: Sample, text: str) -> list[str]:
        """The text for each picture and video of a rendered text: image tokens and the marks around them."""
        if not sample.shown:
            return []
        *pieces, last = re.split(f"[{IMAGE}{VIDEO}]", text)[1:]
        following = [*(piece or IMAGE for piece in pieces), last]
        written = [self._written(sample, visual) for visual in sample.shown]
        if self.layout is None:
            return written
        numbered = [self.layout.numbered(text, at) for at, text in enumerate(written)]
        return [self.layout.beside(text, rest) for text, rest in zip(numbered, following, strict=True)]

    def _positions(self, samples: Sequence[Sample], image_tokens: Sequence[torch.Tensor]) -> torch.Tensor | None:
        if self.layout is None:
            return None
        by_sample = [
            self.layout.positions(image_mask_T, sample.shown)
            for image_mask_T, sample in zip(image_tokens, samples, strict=True)
        ]
        given = [positions for positions in by_sample if positions is not None]
        return torch.cat(given, dim=1) if given else None

    def _written(self, sample: Sample, visual: Image | Video) -> str:
        if isinstance(visual, Video):
            if not isinstance(self.layout, VideoLayout):
                raise DataError(f"sample '{sample.key}' has videos, which this model does not read")
            return self.layout.written_video(*visual.size, len(self.layout.frame_indices(visual)))
        if self.layout is None:
            raise DataError(f"sample '{sample.key}' has pictures, but this model reads text alone")
        return self.layout.written(*visual.size)

    def _check_image_tokens(self, rendered: Rendered, sample: Sample) -> None:
        if found := self._reserved.search(rendered.text):
            raise DataError(
                f"sample '{sample.key}' has '{found[0]}' in its text, a token that stands for a part of an image; "
                "remove it"
            )
        if self.code_ids is None and any(image.target for image in sample.images):
            raise DataError(f"sample '{sample.key}' has images to learn, but this model writes none")

    def _id(self, token: str) -> int:
        found = self.backend.token_to_id(token)
        if found is None:
            raise RecipeError(
                f"the tokenizer has no token '{token}', which the processor needs; add it to the tokenizer"
            )
        return int(found)

    @classmethod
    def from_recipe(cls, entries: Mapping[str, Any], texts: Iterable[str]) -> Self:
        given = parse(ChatEntries, entries, "processor")
        settings = ChatSettings(**{field.name: getattr(given, field.name) for field in fields(ChatSettings)})
        template = given.template.read_text(encoding="utf-8") if given.template is not None else ""
        if given.tokenizer.file is not None:
            backend = load_backend(given.tokenizer.file)
        else:
            assert given.tokenizer.learn is not None
            backend = learn_tokenizer(texts, given.tokenizer.learn)
        if given.layout is not None:
            if given.layout.alike is not None:
                given.layout.alike.require_decoders()  # now, not in the middle of a run
            backend.add_special_tokens([given.layout.image_token, *given.layout.marks])
        if given.infilling is not None:
            backend.add_special_tokens([*given.infilling.masks, given.infilling.end])
        if given.boxes is not None:  # not as special tokens: they are part of the text
            backend.add_tokens([AddedToken(mark, normalized=False) for mark in given.boxes.marks])
        return cls(backend, settings, template)

    def save(self, folder: Path) -> None:
        (folder / _SETTINGS).write_text(json.dumps(self.dumped(), indent=2) + "\n")
        (folder / _TEMPLATE).write_text(self.template.source, encoding="utf-8")
        self.backend.save(str(folder / _TOKENIZER))

    @classmethod
    def load(cls, folder: Path) -> Self:
        for name in (_SETTINGS, _TEMPLATE):
            if not (folder / name).exists():
                raise CheckpointError(f"{folder} has no {name}: it is not a whole checkpoint")
        settings = parse(ChatSettings, json.loads((folder / _SETTINGS).read_text()), str(folder / _SETTINGS))
        return cls(load_backend(folder), settings, (folder / _TEMPLATE).read_text(encoding="utf-8"))


def _silent(backend: tokenizers.Tokenizer, boxes: BoxFormat | None) -> frozenset[int]:
    """Ids of special tokens, which are left out of decoded text, except those that write boxes."""
    box_tokens = frozenset(boxes.marks) if boxes is not None else frozenset()
    added = backend.get_added_tokens_decoder().items()
    return frozenset(at for at, token in added if token.special and token.content not in box_tokens)
