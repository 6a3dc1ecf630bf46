"""Generative models: a decoder reads a stream of words and images, and continues it.

What LLaVA, BLIP-2, InternVL, Qwen2-VL and their kin share. A family says what stands in the places of image tokens
(`image_features`); losses, likelihoods, answers and scores follow."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from chiasm.data.batch import Batch, Images, Stream
from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.image import Image
from chiasm.data.sample import Sample, Text
from chiasm.errors import CapabilityError, DataError, RecipeError
from chiasm.generation.beams import beam_search
from chiasm.generation.cache import Cache
from chiasm.generation.choosing import Sampling
from chiasm.generation.constraints import AllowedTokens, Choices
from chiasm.generation.likelihood import log_likelihoods, token_log_likelihoods
from chiasm.generation.prompt import Prompt
from chiasm.generation.tokens import Ended, continuations, stream
from chiasm.losses.next_token import next_token
from chiasm.models.caption_scores import CaptionScorer, shown
from chiasm.models.model import Model
from chiasm.models.needed_layout import NeededLayout
from chiasm.models.shared_prefixes import SharedPrefix as SharedPrefix
from chiasm.models.shared_prefixes import common_tokens, shared_prefixes
from chiasm.nn.decoder import Decoder, Packed, positions_of
from chiasm.nn.visible_images import VisibleImages


class GenerativeModel(Model):
    """A model that answers with the tokens of a decoder. `language`: the decoder."""

    processor_type = ChatProcessor
    processor: ChatProcessor

    language: Decoder

    def image_features(self, images: Images) -> Tensor:
        """(S, D) features that take the places of the S image tokens of these images; D is the decoder's width."""
        raise CapabilityError(f"{type(self).__name__} cannot see, but was given {len(images)} pictures")

    def visible(self, batch: Batch, features_SD: Tensor) -> VisibleImages | None:  # noqa: ARG002  # most have them in the stream
        """What the tokens of a batch see beside each other, given the features of its pictures; nothing by default."""
        return None

    def check(self) -> None:
        """The tokenizer must not make ids, nor the context lengths, that the decoder does not know."""
        if self.processor.vocabulary > self.language.vocabulary:
            raise RecipeError(
                f"the tokenizer has {self.processor.vocabulary} tokens, the decoder only {self.language.vocabulary}; "
                "set model.language.vocabulary or processor.tokenizer.learn"
            )
        if self.processor.settings.context > self.language.context:
            raise RecipeError(
                f"processor.context is {self.processor.settings.context}, but the decoder reads at most "
                f"{self.language.context} tokens"
            )

    @property
    def unshareable_ids(self) -> tuple[int, ...]:
        """Tokens that questions must not add to a shared prefix, since what its images show depends on them."""
        return self.processor.image_token_ids

    @property
    def needs_images(self) -> bool:
        return not any(parameter.requires_grad for parameter in self.language.parameters())

    # --- learning

    def tokenized(self, batch: Batch) -> Batch:
        """The batch with images in its stream where they are written as codes; most families have features instead."""
        return batch

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Next-token cross-entropy: the mean over all target tokens of the batch."""
        h_TD, targets_T = self._before_targets(batch)
        return {"next_token": next_token(h_TD, self.language.head_weight, targets_T)}

    def weight(self, batch: Batch) -> int:
        """Target tokens: parts with many count for more than parts with few."""
        return len(_predicted(_stream(batch)))

    def embedded(self, batch: Batch) -> Prompt:
        """The stream with words and features in place. Raises DataError where their numbers differ."""
        batch = self.tokenized(batch)
        words = _stream(batch)
        x_TD = self.language.embed(words.ids_T)
        image_tokens = int(words.image_mask_T.sum())
        features_SD = self.image_features(batch.images) if batch.images is not None else x_TD.new_zeros(0, 1)
        if len(features_SD) != image_tokens:
            raise self._mismatch(batch, image_tokens, len(features_SD))
        if image_tokens:
            order_S = words.image_order_S
            features_SD = features_SD if order_S is None else features_SD[order_S]
            x_TD = x_TD.masked_scatter(words.image_mask_T[:, None], features_SD.to(x_TD.dtype))
        elif batch.dummy_images is not None:
            x_TD = x_TD + (self.image_features(batch.dummy_images).sum() * 0).to(x_TD.dtype)
        return self._prompt(words, x_TD)

    def _mismatch(self, batch: Batch, image_tokens: int, features: int) -> DataError:
        return DataError(
            f"the stream of {', '.join(batch.keys[:4])} has {image_tokens} image tokens, but its images made "
            f"{features} features; the processor's layout does not fit the model"
        )

    def _prompt(self, words: Stream, x_TD: Tensor, visible: VisibleImages | None = None) -> Prompt:
        """A stream with its embedded tokens. visible: what they see beside each other."""
        lengths = tuple(words.lengths_B.tolist())
        positions, ends = self._positions(words, lengths)
        ids = tuple(tuple(row.tolist()) for row in torch.split(words.ids_T, list(lengths)))
        return Prompt(x_TD, lengths, positions, ends, ids, visible, words.blocks_T)

    def _positions(self, words: Stream, lengths: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
        if words.positions_AT is None:
            return positions_of(lengths, words.ids_T.device), lengths
        parts = torch.split(words.positions_AT, list(lengths), dim=1)
        return words.positions_AT, tuple(int(part.max()) + 1 for part in parts)

    def _before_targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the decoder makes of each token before a target, (T, D), and the targets, (T,)."""
        batch = self.tokenized(batch)
        prompt, words = self.embedded(batch), _stream(batch)
        backend = Packed(prompt.lengths, prompt.visible, prompt.blocks_T)
        h_TD = self.language(prompt.x_TD, prompt.positions, backend)
        predicted = _predicted(words)
        return h_TD[predicted - 1], words.ids_T[predicted]

    # --- the verbs

    def generate(
        self,
        samples: Sequence[Sample],
        *,
        max_tokens: int = 128,
        sampling: Sampling | None = None,
        beams: int = 1,
        stop: Sequence[str] = (),
        allowed: AllowedTokens | None = None,
    ) -> list[Sample]:
        """Each sample with the answer as its last part; several parts where a model answers with texts and images.

        sampling: how tokens are drawn; the likeliest where None. beams: above 1, beam search.
        stop: texts that end an answer; they are cut off. allowed: which tokens may come next, such as those of
        `choices`. Each sample is read on its own; see `answers` for questions on the same images.
        """
        if max_tokens < 1 or beams < 1 or "" in stop:
            raise RecipeError("max_tokens and beams must be at least 1, and no text of stop may be empty")
        if not samples:
            return []
        if beams > 1 and sampling is not None and sampling.temperature > 0:
            raise CapabilityError("beam search draws nothing at random; leave out either beams or sampling")
        self.eval()
        with torch.inference_mode():
            prompt = self.embedded(self.processor.prompts(samples).to(self.device))
            ended, allowed = self._ended(stop), self._allowed(prompt, max_tokens, allowed)
            tokens = (
                beam_search(self.language, prompt, max_tokens, ended, beams, allowed=allowed)
                if beams > 1
                else continuations(self.language, prompt, max_tokens, ended, sampling, allowed)
            )
        return [sample.answered(*self._answer(row, stop)) for sample, row in zip(samples, tokens, strict=True)]

    def choices(self, texts: Sequence[str]) -> AllowedTokens:
        """Answers that are one of these texts, for `generate`."""
        end = self.processor.end_ids[0]
        return Choices([[*self.processor.ids(text), end] for text in texts], self.language.vocabulary)

    def stream(
        self, sample: Sample, *, max_tokens: int = 128, sampling: Sampling | None = None, stop: Sequence[str] = ()
    ) -> Iterator[str]:
        """The answer to one sample, piece by piece as it comes; together the pieces are what `generate` adds.

        It is text alone, also of a model that writes images.
        """
        self.eval()
        with torch.inference_mode():
            prompt = self.embedded(self.processor.prompts([sample]).to(self.device))
        tokens: list[int] = []
        given = ""
        for step in stream(
            self.language, prompt, max_tokens, self._ended(stop), sampling, allowed=self._allowed_words()
        ):
            tokens.append(step[0])
            text = self._text(tokens, stop)
            # A character may take several tokens, and a stop text may be half there: give only what is settled.
            whole = text.rstrip("\ufffd")
            settled = len(whole) - max((_overlap(whole, ending) for ending in stop), default=0)
            if settled > len(given):
                yield text[len(given) : settled]
                given = text[:settled]
        if len(text := self._text(tokens, stop)) > len(given):
            yield text[len(given) :]

    def answers(self, begun: Sample, questions: Sequence[Sequence[Text]], *, max_tokens: int = 32) -> list[str]:
        """Answers, in words, to several questions that begin alike; what they share is encoded and read once.

        begun: what all share, such as the images. questions: what each adds. Equal to `generate` on each alone.
        """
        asked = tuple(tuple(question) for question in questions)
        return self.replies([SharedPrefix(begun, asked, (max_tokens,) * len(asked))])[0]

    def replies(self, groups: Sequence[SharedPrefix]) -> list[list[str]]:
        """`answers` of several groups at once, each of which shares something else."""
        self.eval()
        limits = [limit for group in groups for limit in group.limits]
        owners = [at for at, group in enumerate(groups) for _ in group.questions]
        with torch.inference_mode():
            if self.processor.shares_prompts:
                cache, prompt = self._read_shared(groups, owners)
            else:
                samples = [sample for group in groups for sample in group.samples]
                cache, prompt = None, self.embedded(self.processor.prompts(samples).to(self.device))
        ended = self._ended(())

        def over(row: int, new: list[int]) -> bool:
            return len(new) >= limits[row] or ended(row, new)

        tokens: list[list[int]] = [[] for _ in limits]
        of_cache = owners if cache is not None else None
        for step in stream(
            self.language, prompt, max(limits), over, None, cache, of_cache, allowed=self._allowed_words()
        ):
            for row, token in step.items():
                tokens[row].append(token)
        texts = iter([self._text(row, ()) for row in tokens])
        return [[next(texts) for _ in group.questions] for group in groups]

    def _read_shared(self, groups: Sequence[SharedPrefix], owners: Sequence[int]) -> tuple[Cache, Prompt]:
        """What the questions of each group begin with, read into a row of a cache, and what each question adds."""
        ids = [[self.processor.tokens(sample, answer=True)[0] for sample in group.samples] for group in groups]
        alike = [common_tokens(rows, self.unshareable_ids) for rows in ids]
        rest = [row[shared:] for shared, rows in zip(alike, ids, strict=True) for row in rows]
        firsts = self.processor.prompts([group.samples[0] for group in groups])
        begun = self.embedded(firsts.to(self.device)).heads(alike)
        cache = Cache.empty(self.language, len(groups), max(alike))
        cache.expect(alike, begun.visible, begun.blocks_T)
        if len(begun.x_TD):
            self.language(begun.x_TD, begun.positions, cache)
        return cache, Prompt.after(self.language, rest, [begun.ends[owner] for owner in owners])

    def prompt_length(self, sample: Sample) -> int:
        """How many tokens the decoder reads before it answers; nothing is computed. Raises DataError if too many."""
        return len(self.processor.tokens(sample, answer=True)[0])

    @torch.inference_mode()
    def log_likelihood(self, samples: Sequence[Sample]) -> Tensor:
        """(B,) log p of the target parts of each sample, summed over their tokens, given what stands before them.

        What samples share before their targets, such as pictures and a question with several answers, is read once.
        """
        return self._likelihoods_and_counts(samples)[0]

    def _likelihoods_and_counts(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """(B,) log p of each sample's targets, and (B,) how many tokens they are."""
        self.eval()
        rows = [self.processor.tokens(sample) for sample in samples]
        groups = shared_prefixes(samples, rows, self.unshareable_ids)
        found = torch.empty(len(samples))
        for first, several in groups.items():
            if len(several) > 1:
                begun = self.embedded(self.processor([samples[first]]).to(self.device))
                answers = [[token for token, target in zip(*rows[at], strict=True) if target] for at in several]
                before = rows[first][1].index(True)
                found[several] = log_likelihoods(self.language, begun.heads([before]), answers)
        if alone := [at for at, several in groups.items() if len(several) == 1]:
            found[alone] = self._likelihoods([samples[at] for at in alone])
        # Nothing stands before a sample's first token, so it has no likelihood.
        return found, torch.tensor([sum(targets[1:]) for _, targets in rows])

    def _likelihoods(self, samples: Sequence[Sample]) -> Tensor:
        """(B,) of samples that share nothing, as one stream."""
        batch = self.processor(samples).to(self.device)
        words = _stream(batch)
        h_TD, targets_T = self._before_targets(batch)
        owner = torch.arange(len(batch), device=self.device).repeat_interleave(words.lengths_B)[_predicted(words)]
        each_T = token_log_likelihoods(self.language, h_TD, targets_T)
        return each_T.new_zeros(len(batch)).index_add(0, owner, each_T).float().cpu()

    def part_outputs(self, batch: Batch) -> Iterator[Tensor]:
        """The features of images, and what the decoder makes of the stream."""
        words, visible = _stream(batch), None
        if batch.images is not None:
            features_SD = self.image_features(batch.images.to("meta"))
            yield features_SD
            visible = self.visible(batch, features_SD)
        lengths = words.lengths_B.tolist()
        x_TD = self.language.embed(words.ids_T.to("meta"))
        yield self.language(x_TD, positions_of(lengths, "meta"), Packed(tuple(lengths), visible))

    # --- parts of the above

    def _ended(self, stop: Sequence[str]) -> Ended:
        ends = set(self.processor.end_ids)

        def ended(_row: int, tokens: list[int]) -> bool:
            return tokens[-1] in ends or (bool(stop) and any(text in self.processor.decode(tokens) for text in stop))

        return ended

    def _allowed(self, prompt: Prompt, max_tokens: int, allowed: AllowedTokens | None) -> AllowedTokens | None:  # noqa: ARG002  # of models that write images
        """Which tokens an answer may go on with: what the caller allows, where the family has no grammar of its own."""
        return allowed

    def _allowed_words(self) -> AllowedTokens | None:
        """Which tokens an answer without images may go on with; None for all."""
        return None

    def _answer(self, tokens: Sequence[int], stop: Sequence[str]) -> tuple[str | Image, ...]:
        """The parts that generated tokens are."""
        return (self._text(tokens, stop),)

    def _text(self, tokens: Sequence[int], stop: Sequence[str]) -> str:
        ends = set(self.processor.end_ids)
        text = self.processor.decode([token for token in tokens if token not in ends])
        cuts = [text.index(ending) for ending in stop if ending in text]
        return text[: min(cuts)] if cuts else text


class VisionLanguageModel(CaptionScorer, GenerativeModel):
    """A generative model that images are in the stream of, or beside it, so that texts about them can be scored."""

    @abstractmethod
    def image_features(self, images: Images) -> Tensor: ...

    @property
    @abstractmethod
    def needed_layout(self) -> NeededLayout:
        """How images must be laid out for the model."""

    def check(self) -> None:
        super().check()
        self.needed_layout.require(self.processor.layout, type(self).__name__)

    @torch.inference_mode()
    def yes_over_no(self, image: Image, texts: Sequence[str]) -> Tensor:
        """(N,) log p("Yes") - log p("No"). Both are read after the rest of the question, whose own likelihood is the
        same for both, so the image and what all questions begin with are read once, where they can be read apart."""
        self.eval()
        questions = [shown(image, text) for text in texts]
        words = self.processor.ids("Yes"), self.processor.ids("No")
        if not self.processor.shares_prompts:
            prompts = (self.embedded(self.processor.prompts([question]).to(self.device)) for question in questions)
            return torch.stack([-log_likelihoods(self.language, prompt, words).diff()[0] for prompt in prompts])
        ids = [self.processor.tokens(question, answer=True)[0] for question in questions]
        alike = common_tokens(ids, self.unshareable_ids)
        begun = self.embedded(self.processor.prompts(questions[:1]).to(self.device)).heads([alike])
        found = log_likelihoods(self.language, begun, [row[alike:] + word for word in words for row in ids])
        return found[: len(texts)] - found[len(texts) :]

    @torch.inference_mode()
    def caption_likelihoods(self, image: Image, texts: Sequence[str]) -> Tensor:
        """(N,) mean log-likelihood a token of each caption; the image is read once."""
        samples = [Sample("score", (image, Text(text, target=True))) for text in texts]
        likelihoods, tokens = self._likelihoods_and_counts(samples)
        return likelihoods / tokens


def _stream(batch: Batch) -> Stream:
    assert batch.stream is not None
    return batch.stream


def _predicted(words: Stream) -> Tensor:
    """Places of the target tokens in the stream; nothing stands before the first of a sample, so it is none."""
    target = words.target_T.clone()
    target[words.lengths_B.cumsum(0) - words.lengths_B] = False
    return target.nonzero()[:, 0]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of the text may be the start of a stop text."""
    return max((size for size in range(1, len(stop) + 1) if text.endswith(stop[:size])), default=0)
