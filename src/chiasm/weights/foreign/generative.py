"""Generative models of transformers. Every request goes through their own `generate`.

Likelihoods do too: the tokens to score are forced, and the model's log-probabilities of them are summed. So every model
that can generate can score, whatever it does with its masks, positions and encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from chiasm.data.image import Image
from chiasm.data.sample import Sample, Text
from chiasm.errors import CapabilityError, DataError
from chiasm.generation.choosing import Sampling
from chiasm.models.caption_scores import CaptionScorer, shown
from chiasm.weights.foreign.model import ForeignModel

_ROWS = 8  # answers scored at once


class ForeignGenerativeModel(ForeignModel):
    """A language model of transformers. Samples are asked one by one, so none is changed by those beside it."""

    def generate(
        self,
        samples: Sequence[Sample],
        *,
        max_tokens: int = 128,
        sampling: Sampling | None = None,
        beams: int = 1,
        stop: Sequence[str] = (),
    ) -> list[Sample]:
        """Each sample with the answer as its last part; see `GenerativeModel.generate`."""
        if beams > 1 and sampling is not None and sampling.temperature > 0:
            raise CapabilityError("beam search draws nothing at random; leave out either beams or sampling")
        return [self._answered(sample, max_tokens, sampling, beams, stop) for sample in samples]

    def log_likelihood(self, samples: Sequence[Sample]) -> Tensor:
        """(B,) log p of the words to score that end each sample, and of the token that ends an answer.

        The words are split into tokens by themselves. Raises DataError where a sample has none, or not at its end.
        """
        found = []
        for sample in samples:
            prompt, answer = self.processor.prompt(sample)
            if not answer:
                raise DataError(f"sample '{sample.key}' has nothing to score: no text of it is a target")
            found.append(self._forced(sample, prompt, [self._ids(answer)])[0])
        return torch.stack(found) if found else torch.empty(0)

    # --- parts of the above

    @torch.inference_mode()
    def _answered(
        self, sample: Sample, max_tokens: int, sampling: Sampling | None, beams: int, stop: Sequence[str]
    ) -> Sample:
        self.eval()
        inputs = self._inputs(sample, [self.processor.prompt(sample)[0]])
        entries: dict[str, Any] = {"do_sample": False, "num_beams": beams}
        if sampling is not None and sampling.temperature > 0:
            names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
            entries = {"do_sample": True} | {name: getattr(sampling, name) for name in names}
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(sampling.seed if sampling is not None else 0)
            output = self.inner.generate(**inputs, max_new_tokens=self._room(inputs, max_tokens, sample), **entries)
        text = self.processor.decode(self._new(inputs["input_ids"][0].tolist(), output[0].tolist()))
        cuts = [text.index(word) for word in stop if word in text]
        return sample.answered(text[: min(cuts)] if cuts else text)

    def _new(self, prompt: list[int], output: list[int]) -> list[int]:
        """The tokens after the prompt, which models repeat as it was, with other special tokens, or not at all."""
        if self.inner.config.is_encoder_decoder:
            return output
        if output[: len(prompt)] == prompt:
            return output[len(prompt) :]
        asked, words = self.processor.without_marks(prompt), self.processor.without_marks(output)
        return words[len(asked) :] if words[: len(asked)] == asked else words

    @torch.inference_mode()
    def _forced(self, sample: Sample, prompt: str, answers: Sequence[Sequence[int]]) -> Tensor:
        """(N,) log p of each answer, given the prompt."""
        from transformers import LogitsProcessorList

        self.eval()
        found = []
        for start in range(0, len(answers), _ROWS):
            some = answers[start : start + _ROWS]
            inputs = self._inputs(sample, [prompt] * len(some))
            longest = max(map(len, some))
            if self._room(inputs, longest, sample) < longest:
                raise DataError(
                    f"sample '{sample.key}' does not fit into the model's context with what is to be scored"
                )
            output = self.inner.generate(
                **inputs,
                max_new_tokens=longest,
                do_sample=False,
                num_beams=1,
                logits_processor=LogitsProcessorList([_Forced(some)]),
                output_logits=True,  # before what `generation_config.json` does to them
                return_dict_in_generate=True,
            )
            if len(output.logits) < longest:
                raise DataError(f"sample '{sample.key}': the words to score hold a mark that ends an answer; remove it")
            found.append(_sums(output.logits, some))
        return torch.cat(found) if found else torch.empty(0)

    def _ids(self, answer: str) -> list[int]:
        """The tokens of an answer as the model would generate them."""
        if not self.inner.config.is_encoder_decoder:
            return self.processor.ids(answer)
        bare = next((answer.removesuffix(end) for end in self.processor.ends if answer.endswith(end)), answer)
        ids, ends = self.processor.ids(bare, whole=True), self.processor.end_ids
        return ids if bare == answer or ids[-1:] in ([end] for end in ends) else [*ids, ends[0]]

    def _inputs(self, sample: Sample, texts: Sequence[str]) -> dict[str, Any]:
        inputs = self.processor.inputs(sample, texts).to(self.device)
        given = dict(inputs.items())
        if not sample.images and not self.processor.sees:
            given.pop("token_type_ids", None)  # tokenizers make them for models that have no use for them
        if not given["input_ids"].shape[1]:
            raise DataError(f"sample '{sample.key}' is empty: it has neither words nor pictures")
        return given

    def _room(self, inputs: dict[str, Any], wanted: int, sample: Sample) -> int:
        """How many new tokens fit, `wanted` at most. Raises DataError where the prompt alone fills the context."""
        context = getattr(self.inner.config.get_text_config(), "max_position_embeddings", None)
        if not isinstance(context, int) or self.inner.config.is_encoder_decoder:
            return wanted
        tokens = inputs["input_ids"].shape[1]
        if tokens >= context:
            raise DataError(
                f"sample '{sample.key}' has {tokens} tokens, pictures included, but the context is {context}; shorten "
                "it, or give smaller pictures"
            )
        return min(wanted, context - tokens)


class ForeignVisionLanguageModel(CaptionScorer, ForeignGenerativeModel):
    """A vision-language model of transformers, which can also score texts about images."""

    def caption_likelihoods(self, image: Image, texts: Sequence[str]) -> Tensor:
        """(N,) mean log-likelihood a token of each caption."""
        samples = [Sample("score", (image, Text(text, target=True))) for text in texts]
        prompts, answers = zip(*map(self.processor.prompt, samples), strict=True)
        ids = [self._ids(answer) for answer in answers]
        return self._forced(samples[0], prompts[0], ids) / torch.tensor([len(answer_ids) for answer_ids in ids])

    def yes_over_no(self, image: Image, texts: Sequence[str]) -> Tensor:
        return torch.stack([self._yes(image, text) for text in texts])

    def _yes(self, image: Image, text: str) -> Tensor:
        asked = shown(image, text)
        answers = [self.processor.ids("Yes"), self.processor.ids("No")]
        yes, no = self._forced(asked, self.processor.prompt(asked)[0], answers)
        return yes - no


class _Forced:
    """A logits processor of transformers that forces given answers, called once a token for all rows."""

    def __init__(self, answers: Sequence[Sequence[int]]) -> None:
        self._answers, self._step = answers, 0

    def __call__(self, _ids: Tensor, scores_NV: Tensor) -> Tensor:
        forced_NV = torch.full_like(scores_NV, -torch.inf)
        for row, answer in enumerate(self._answers):
            forced_NV[row, answer[min(self._step, len(answer) - 1)]] = 0.0  # a finished row goes on, uncounted
        self._step += 1
        return forced_NV


def _sums(logits: Sequence[Tensor], answers: Sequence[Sequence[int]]) -> Tensor:
    """(N,) log p of answers. logits: (N, V) of each token."""
    ids_NT = pad_sequence([torch.tensor(answer) for answer in answers], batch_first=True, padding_value=-1)
    found = torch.zeros(len(answers), device=logits[0].device)
    for scores_NV, ids_N in zip(logits, ids_NT.T.to(found.device), strict=True):
        log_p_N = scores_NV.float().log_softmax(-1).gather(1, ids_N.clamp(min=0)[:, None])[:, 0]
        found += log_p_N.masked_fill(ids_N < 0, 0.0)
    return found.cpu()
