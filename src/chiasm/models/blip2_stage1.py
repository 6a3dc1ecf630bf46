"""BLIP-2, first stage: a Q-Former learns what of a picture words can tell (Li et al. 2023, arXiv:2301.12597).

Three losses share one Q-Former. contrastive: the best of a picture's queries is near to its text, and not to others.
matching: queries beside a text tell whether it belongs, with hard negatives drawn by similarity. captioning: the text
is told word by word, and all that it learns of the picture has passed through the queries.

Differs from the paper: no dropout; the temperature is learned as its logarithm, as CLIP's is. A picture's embedding,
where one vector is asked for, is the mean of its queries'; scores are by the best query or by matching.

Shapes: N pairs, K queries, T words, D width of the shared space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.data.batch import Batch, Images, Tokens
from chiasm.data.image import Image
from chiasm.data.processor import PairProcessor
from chiasm.data.transforms import ImageTransform
from chiasm.errors import RecipeError
from chiasm.losses.best_query import Similarities, best, similarities
from chiasm.losses.gather import gathered, summed
from chiasm.losses.ring import full
from chiasm.models.blip2 import EVA_G, SMALL_Q_FORMER, SMALL_VIT
from chiasm.models.dual_encoder import require_images, require_texts, unit
from chiasm.models.model import ContrastiveModel, ModelConfig
from chiasm.nn.connectors import q_former
from chiasm.nn.image_towers import vit

T = TypeVar("T")
ScoreBy = Literal["itc", "itm"]

_CHUNK = 64  # pictures, texts or pairs that are computed at once; bounds memory, does not change results
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


class BLIP2Stage1(ContrastiveModel):
    """An image tower, a Q-Former that reads texts too, and a head for each loss."""

    processor_type = PairProcessor
    processor: PairProcessor
    config: Config
    scorings: ClassVar[tuple[str, ...]] = get_args(ScoreBy)
    compares_by_layers = True

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

    def encode_texts(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """(B, D), unit length, read at the first token."""
        return unit(self.text_head(self.q_former.text(ids_BT, mask_BT)[:, 0]))

    def match(self, seen_NPF: Tensor, ids_NT: Tensor, mask_NT: Tensor) -> Tensor:
        """(N, 2): scores that text and picture of each pair do not, and that they do, belong together."""
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
            "text": self.encode_texts(texts.ids_BT, texts.mask_BT),
            "seen": seen_NPF,
            # Of one length, whatever the longest text of this part of a batch is.
            "ids": F.pad(texts.ids_BT, (0, self.processor.tokenizer.rules.context - texts.ids_BT.shape[1])),
            "lengths": texts.lengths_B,
            "draw": torch.rand(len(texts), 2).to(seen_NPF.device),
        }
        if self.caption_head is not None:
            found["caption"], found["told"] = self._captions(seen_NPF, texts)
        return found

    def _scale(self) -> Tensor:
        return self.log_scale.clamp(max=_MAX_LOG_SCALE).exp()

    def logit_scale_and_bias(self) -> tuple[float, None]:
        return float(self._scale().detach()), None

    def losses_of(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        scale = self._scale()
        alike = similarities(features["image"], features["text"], scale)
        losses = {"contrastive": alike.loss(), "matching": self._matching(features, alike)}
        if "caption" in features:
            ring = alike.ring
            words = ring.sum(features["told"].sum())
            losses["captioning"] = summed(features["caption"].sum() / words, ring)
        return {**losses, "_temperature": 1 / scale.detach()}

    def _matching(self, features: Mapping[str, Tensor], alike: Similarities) -> Tensor:
        """Each pair as it is, its text with a picture that is not its own, its picture with another text."""
        seen_NPF, ids_NT, lengths_N = (features[name] for name in ("seen", "ids", "lengths"))
        ring, (images_N, texts_N) = alike.ring, alike.negatives(features["draw"])
        seen_MPF, ids_MT, lengths_M = (gathered(rows, ring) for rows in (seen_NPF, ids_NT, lengths_N))
        seen = torch.cat([seen_NPF, seen_MPF[images_N], seen_NPF])
        ids = torch.cat([ids_NT, ids_NT, ids_MT[texts_N]])
        lengths = torch.cat([lengths_N, lengths_N, lengths_M[texts_N]])
        longest = int(lengths_M.max())
        mask = torch.arange(longest, device=ids.device) < lengths[:, None]
        logits = full(self.match(seen, ids[:, :longest], mask))
        belongs = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        belongs[: len(ids_NT)] = 1
        return summed(F.cross_entropy(logits, belongs, reduction="sum") / (3 * ring.rows), ring)

    def _captions(self, seen_NPF: Tensor, texts: Tokens) -> tuple[Tensor, Tensor]:
        """The sum of each caption's losses, (N,), and how many words it has to tell, its end mark included, (N,)."""
        told = full(self.tell(seen_NPF, texts.ids_BT, texts.mask_BT)[:, :-1])
        targets = texts.ids_BT[:, 1:].masked_fill(~texts.mask_BT[:, 1:], -100)
        each = F.cross_entropy(told.transpose(1, 2), targets, reduction="none", label_smoothing=_SMOOTHING)
        return each.sum(1), (targets != -100).sum(1)

    # --- the verbs

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """(N, D) float32 on the CPU, unit length: the mean of the queries."""
        require_images(images)
        self.eval()
        found = [unit(self.queries(self._seen(part)).mean(1)).float().cpu() for part in _parts(images)]
        return torch.cat([torch.empty(0, self.config.width), *found])

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(B, D) float32 on the CPU, unit length."""
        require_texts(texts)
        self.eval()
        read = (self.processor.texts(part).to(self.device) for part in _parts(texts))
        found = [self.encode_texts(one.ids_BT, one.mask_BT).float().cpu() for one in read]
        return torch.cat([torch.empty(0, self.config.width), *found])

    @torch.inference_mode()
    def score(self, images: Sequence[Image], texts: Sequence[str], *, by: ScoreBy = "itc") -> Tensor:
        """(N_images, N_texts), higher matches better.

        by: "itc": cosine similarity of the best query; "itm": log p(belongs) - log p(does not), for which every pair
            goes through the Q-Former.
        """
        require_images(images)
        self.eval()
        if by == "itc":
            texts_MD = self.embed_texts(texts)
            found = [best(self.queries(self._seen(part)).float().cpu(), texts_MD) for part in _parts(images)]
            return torch.cat([torch.empty(0, len(texts)), *found])
        rows = [torch.cat([torch.empty(0), *self._matches(image, texts)]) for image in images]
        return torch.stack(rows) if rows else torch.empty(0, len(texts))

    def _matches(self, image: Image, texts: Sequence[str]) -> list[Tensor]:
        seen_1PF = self._seen([image])
        found = []
        for part in _parts(texts):
            read = self.processor.texts(part).to(self.device)
            logits_B2 = self.match(seen_1PF.expand(len(part), -1, -1), read.ids_BT, read.mask_BT)
            found.append((logits_B2[:, 1] - logits_B2[:, 0]).float().cpu())
        return found

    def _seen(self, images: Sequence[Image]) -> Tensor:
        pictures: Images = self.processor.images(images).to(self.device)
        return self.vision.tokens(pictures)


def _parts(whole: Sequence[T]) -> list[Sequence[T]]:
    return [whole[at : at + _CHUNK] for at in range(0, len(whole), _CHUNK)]


SIZES = {
    "vit-g": Config(EVA_G),
    # For pictures of 64 pixels, trained on a laptop.
    "small": Config(SMALL_VIT, SMALL_Q_FORMER, width=128, vocabulary=513, context=40, words=40),
}
