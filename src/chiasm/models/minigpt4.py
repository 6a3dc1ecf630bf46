"""MiniGPT-4 (Zhu et al. 2023, arXiv:2304.10592) and MiniGPT-v2 (Chen et al. 2023, arXiv:2310.09478).

MiniGPT-4 is BLIP-2's frozen ViT-g and Q-Former before Vicuna, with one linear map that learns: 32 image tokens.
MiniGPT-v2 leaves the Q-Former out, sees 448 pixels, and puts four neighbouring patches into each of its 256 image
tokens; its prompts say by an identifier what is to be done (`asked`). How boxes are written in them is a
matter of the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from chiasm.config import suggest
from chiasm.errors import DataError
from chiasm.models import blip2
from chiasm.models.model import Model
from chiasm.nn.connectors import concatenated
from chiasm.nn.decoders import llama

# What the released code asks of MiniGPT-v2, section 3.2's identifiers before it. {}: the question, the phrase, or the
# box; a task without it takes no words.
TASKS: Mapping[str, str] = MappingProxyType(
    {
        "vqa": "[vqa] Based on the image, respond to this question with a short answer: {}",
        "caption": "[caption] Briefly describe this image.",
        "grounding": "[grounding] please describe this image in details",
        "refer": "[refer] give me the location of {}",
        "identify": "[identify] what object is in this location {}",
        "detection": "[detection] {}",
    }
)


def asked(task: str, words: str = "") -> str:
    """The words by which MiniGPT-v2 is asked to do one of its TASKS.

    words: the question, the phrase to be found, or the box as text. Raises DataError for a task that it does not have,
    and where words are missing or of no use.
    """
    if task not in TASKS:
        raise DataError(f"MiniGPT-v2 has no task '{task}'{suggest(task, TASKS)}")
    if ("{}" in TASKS[task]) != bool(words):
        raise DataError(f"MiniGPT-v2's task '{task}' {'takes no words' if words else 'needs words to ask about'}")
    return TASKS[task].replace("{}", words)


@dataclass(frozen=True)
class Config(blip2.Config):
    """chat: how the chats of a new processor are written: as the first version does, or as Llama 2."""

    chat: Literal["minigpt4", "llama2"] = "minigpt4"

    @classmethod
    def model(cls) -> type[Model]:
        return MiniGPT4

    def processor_entries(self) -> dict[str, Any]:
        entries = super().processor_entries()
        entries["layout"] |= {"before": "<Img>", "behind": "</Img>"}
        return {**entries, "template": str(blip2.TEMPLATES / f"{self.chat}.jinja")}


class MiniGPT4(blip2.BLIP2):
    """A picture in image tokens between two marks, <Img> and </Img>, among the words of a chat."""

    config: Config


_EVA_G_448 = replace(blip2.EVA_G, image_size=448)
_FOUR = concatenated.Config(4)

SIZES = {
    "v1-7b": Config(blip2.EVA_G, llama.SIZES["llama-7b"]),
    "v1-13b": Config(blip2.EVA_G, llama.SIZES["llama-13b"]),
    "v2-7b": Config(_EVA_G_448, llama.SIZES["llama2-7b"], _FOUR, class_token=False, chat="llama2"),
    # For pictures of 64 pixels, trained on a laptop.
    "small": Config(blip2.SMALL_VIT, llama.SIZES["small"], blip2.SMALL_Q_FORMER),
    "small-v2": Config(blip2.SMALL_VIT, llama.SIZES["small"], _FOUR, class_token=False, chat="llama2"),
}
