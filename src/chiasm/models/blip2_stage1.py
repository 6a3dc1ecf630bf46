"""BLIP-2, first stage: a Q-Former learns what of a picture words can tell (Li et al. 2023, arXiv:2301.12597).

Three losses share one Q-Former. contrastive: the best of a picture's queries is near to its text, and not to others.
matching: queries beside a text tell whether it belongs, with hard negatives drawn by similarity. captioning: the text
is told word by word, and all that it learns of the picture has passed through the queries.

Differs from the paper: no dropout; the temperature is learned as its logarithm, as CLIP's is. A picture's embedding,
where one vector is asked for, is the mean of its queries'; scores are by the best query or by matching.

Shapes: N pairs, K queries, T words, D width of the shared space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.data.batch import Batch, Images, Tokens
from chiasm.data.processor import PairProcessor
from chiasm.data.transforms import ImageTransform
from chiasm.errors import RecipeError
from chiasm.losses.best_query import best, similarities
from chiasm.losses.gather import summed
from chiasm.losses.ring import full
from chiasm.models.blip2 import EVA_G, SMALL_Q_FORMER, SMALL_VIT
from chiasm.models.model import ModelConfig
from chiasm.models.pair_model import MatchingModel, unit
from chiasm.nn.connectors import q_former
from chiasm.nn.image_towers import vit

_SMOOTHING = 0.1  # of the captioning loss: the released code's
_MAX_LOG_SCALE = math.log(1000)  # the released code keeps the temperature above 0.001


@dataclass(frozen=True)
class Config(ModelConfig):
    """vision: the image tower. q_former: the Q-Former. width: D. temperature: its first value; it is learned.

    vocabulary, context: of the text; the last id of the vocabulary opens a caption that is told ([DEC]), and no
        tokenizer may make it of ordinary words. words: the most tokens of a text, of those that the context allows.
    captioning: whether there is a head that tells captions; transformers' files have none.
    """

    only_in_training = frozenset({"temperature"})

    vision: vit.Config
    q_former: q_former.Config = field(default_factory=q_former.Config)
    width: int = 256
    vocabulary: int = 30_523
    context: int = 512
    words: int = 32
    temperature: float = 0.07
    captioning: bool = True

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise RecipeError(f"model.temperature must be above 0, not {self.temperature}")

    @classmethod
    def model(cls) -> type[BLIP2Stage1]:
        return BLIP2Stage1

    def processor_entries(self) -> dict[str, Any]:
        return {"image": {"size": self.vision.image_size, "resize": "squash"}, "text": {"context": self.words}}


class CaptionHead(nn.Module):
    """BERT's head of masked words, whose last map is the word embeddings: (..., width) to (..., V)."""

    def __init__(self, width: int, vocabulary: int, epsilon: float) -> None:
        super().__init__()
        self.map, self.norm = nn.Linear(width, width), nn.LayerNorm(width, epsilon)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        nn.init.normal_(self.map.weight, std=0.02)
        nn.init.zeros_(self.map.bias)

    def forward(self, x: Tensor, words_VD: Tensor) -> Tensor:
        return F.linear(self.norm(F.gelu(self.map(x))), words_VD, self.bias)


class BLIP2Stage1(MatchingModel):
    """An image tower, a Q-Former that reads texts too, and a head for each loss."""

    config: Config
    chunk = 64

    def __init__(self, config: Config, processor: PairProcessor) -> None:
        super().__init__(config, processor)
        self.vision = config.vision.build()
        words = q_former.Words(config.vocabulary, config.context)
        self.q_former = q_former.QFormer(self.vision.width, config.q_former, words)
        inner = config.q_former.width
        self.image_head, self.text_head = nn.Linear(inner, config.width), nn.Linear(inner, config.width)
        self.matching_head = nn.Linear(inner, 2)
        self.caption_head = (
            CaptionHead(inner, config.vocabulary, config.q_former.epsilon) if config.captioning else None
        )
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    def check(self) -> None:
        tokenizer, image = self.processor.tokenizer, self.processor.image
        last = self.config.vocabulary - 1
        added = tokenizer.backend.get_added_tokens_decoder()
        if tokenizer.vocabulary > (last + 1 if last in added else last):
            raise RecipeError(
                f"the tokenizer has {tokenizer.vocabulary} tokens, and the last of the model's {last + 1} must be left "
                "to open captions; set model.vocabulary or processor.tokenizer.learn"
            )
        if tokenizer.rules.context > self.config.context:
            raise RecipeError(
                f"processor.text.context is {tokenizer.rules.context}, but the Q-Former reads at most "
                f"{self.config.context} tokens"
            )
        if not isinstance(image, ImageTransform) or image.size != self.config.vision.image_size:
            raise RecipeError(f"the image tower sees whole pictures of {self.config.vision.image_size} pixels")

    # --- parts

    def queries(self, seen_NPF: Tensor) -> Tensor:
        """(N, K, D), unit length: what of pictures is compared with texts. seen_NPF: what the tower makes of them."""
        return unit(self.image_head(self.q_former(seen_NPF)))

    @property
    def scale(self) -> Tensor:
        return self.log_scale.clamp(max=_MAX_LOG_SCALE).exp()

    @property
    def space(self) -> int:
        return self.config.width

    def image_states(self, images: Images) -> Tensor:
        return self.vision.tokens(images)

    def encode_images(self, images: Images) -> Tensor:
        """(N, D), unit length: the mean of the queries."""
        return unit(self.queries(self.image_states(images)).mean(1))

    def encode_texts(self, texts: Tokens) -> Tensor:
        """(B, D), unit length, read at the first token."""
        return unit(self.text_head(self.q_former.text(texts.ids_BT, texts.mask_BT)[:, 0]))

    def similarity(self, images: Images, texts_MD: Tensor) -> Tensor:
        """Of the query that is nearest."""
        return best(self.queries(self.image_states(images)).float().cpu(), texts_MD)

    def match(self, seen_NPF: Tensor, ids_NT: Tensor, mask_NT: Tensor) -> Tensor:
        return self.matching_head(self.q_former.together(seen_NPF, ids_NT, mask_NT)).mean(1)

    def tell(self, seen_NPF: Tensor, ids_NT: Tensor, mask_NT: Tensor) -> Tensor:
        """(N, T, V): scores of the word behind each, given the picture. The first is taken for the opening mark."""
        assert self.caption_head is not None
        assert self.q_former.words is not None
        opened_NT = torch.cat([torch.full_like(ids_NT[:, :1], self.config.vocabulary - 1), ids_NT[:, 1:]], dim=1)
        return self.caption_head(self.q_former.told(seen_NPF, opened_NT, mask_NT), self.q_former.words.weight)

    # --- learning

    def features(self, batch: Batch) -> dict[str, Tensor]:
        """What is compared ("image", "text"), what hard negatives are made of ("seen", "ids", "lengths", "draw"), and
        what the captions cost, which is each sample's own affair ("caption", "told")."""
        assert batch.images is not None
        assert batch.texts is not None
        seen_NPF, texts = self.vision.tokens(batch.images), batch.texts
        found = {
            "image": self.queries(seen_NPF),
            "text": self.encode_texts(texts),
            **self.matched(seen_NPF, texts),
        }
        if self.caption_head is not None:
            found["caption"], found["told"] = self._captions(seen_NPF, texts)
        return found

    def losses_of(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        scale = self.scale
        alike = similarities(features["image"], features["text"], scale)
        losses = {"contrastive": alike.loss(), "matching": self.matching_loss(features, alike)}
        if "caption" in features:
            ring = alike.ring
            words = ring.sum(features["told"].sum())
            losses["captioning"] = summed(features["caption"].sum() / words, ring)
        return {**losses, "_temperature": 1 / scale.detach()}

    def _captions(self, seen_NPF: Tensor, texts: Tokens) -> tuple[Tensor, Tensor]:
        """The sum of each caption's losses, (N,), and how many words it has to tell, its end mark included, (N,)."""
        scores = full(self.tell(seen_NPF, texts.ids_BT, texts.mask_BT)[:, :-1])
        targets = texts.ids_BT[:, 1:].masked_fill(~texts.mask_BT[:, 1:], -100)
        losses_NT = F.cross_entropy(scores.transpose(1, 2), targets, reduction="none", label_smoothing=_SMOOTHING)
        return losses_NT.sum(1), (targets != -100).sum(1)


SIZES = {
    "vit-g": Config(EVA_G),
    # For pictures of 64 pixels, trained on a laptop.
    "small": Config(SMALL_VIT, SMALL_Q_FORMER, width=128, vocabulary=513, context=40, words=40),
}
