"""Small models that speak, with random weights and a tokenizer learned from a few sentences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from chiasm.data.chat_processor import ChatProcessor, ChatSettings
from chiasm.data.image import Image
from chiasm.data.layouts.fixed import Fixed
from chiasm.data.layouts.marked import Marked
from chiasm.data.tokenizer import learn_tokenizer
from chiasm.data.transforms import ImageTransform
from chiasm.models import flamingo, language, llava
from chiasm.nn import cross
from chiasm.nn.connectors import resampler
from chiasm.nn.decoders import llama
from chiasm.nn.image_towers import vit
from tests.worlds import Patches

CHAT = (
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TEXTS = (
    "Is there a dog in the picture? Answer with yes or no.",
    "Yes",
    "No",
    "What colour is the ball? red blue green",
)


TINY_FLAMINGO = flamingo.Config(
    vit.Config(32, 16, 32, 2, 2, 48),
    llama.Config(300, 32, 4, 4, 2, 48, 512),
    cross.Config(heads=4, mlp_width=48, kv_heads=2, every=2),
    resampler.Config(latents=3, layers=1, heads=2, head_width=8),
)


def small_llava(seed: int = 0, template: str = CHAT) -> llava.LLaVA:
    config = llava.SIZES["small"]
    captions = [caption for sample in Patches() for caption in sample.captions]
    backend = learn_tokenizer([*captions, *TEXTS], 300)
    layout = Fixed(config.patches, ImageTransform(size=64))
    backend.add_special_tokens([layout.image_token])
    torch.manual_seed(seed)
    model = llava.LLaVA(config, ChatProcessor(backend, ChatSettings(layout=layout, context=512), template))
    with torch.no_grad():  # random weights say the same to everything; larger ones differ between questions
        for one in model.parameters():
            one.mul_(2.0)
    return model.eval()


def small_language(template: str = CHAT) -> language.Language:
    torch.manual_seed(0)
    processor = ChatProcessor(learn_tokenizer(TEXTS, 300), ChatSettings(context=512), template)
    return language.Language(language.SIZES["small"], processor).eval()


def noise(seed: int, size: int = 64) -> Image:
    return Image(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8))


def small_flamingo(gate: float = 1.0, config: flamingo.Config = TINY_FLAMINGO, until: str = "") -> flamingo.Flamingo:
    captions = [caption for sample in Patches() for caption in sample.captions]
    backend = learn_tokenizer([*captions, *TEXTS], 290)
    layout = Marked(ImageTransform(size=config.vision.image_size), until=until)
    backend.add_special_tokens([layout.image_token])
    torch.manual_seed(0)
    processor = ChatProcessor(backend, ChatSettings(layout=layout, context=512), CHAT)
    model = flamingo.Flamingo(replace(config, cross=replace(config.cross, gate=gate)), processor)
    with torch.no_grad():  # random weights say the same to everything; larger ones differ between pictures
        for name, one in model.named_parameters():
            if "gate1" not in name and "gate2" not in name:
                one.mul_(3.0)
    model.check()
    return model.eval()
