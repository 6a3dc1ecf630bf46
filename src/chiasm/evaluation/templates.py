"""Sentences that name a class in a picture."""

from __future__ import annotations

_QUALITIES = (
    *("bad", "good", "low resolution", "cropped", "bright", "dark", "close-up", "black and white", "pixelated"),
    *("jpeg corrupted", "blurry"),
)
# What a picture can be of its object: each stands before "{}." once with "a" and once with "the".
_EITHER = (
    *(f"a {quality} photo of" for quality in _QUALITIES),
    *(f"a {work} of" for work in ("sculpture", "rendering", "tattoo", "drawing", "painting", "doodle", "sketch")),
    *("a rendition of", "a photo of", "graffiti of", "art of", "itap of"),
)
_ADJECTIVES = ("hard to see", "clean", "dirty", "cool", "nice", "weird", "small", "large")
_MATTERS = ("embroidered", "plastic", "origami", "toy", "cartoon", "plushie")

# The 80 templates of CLIP's zero-shot ImageNet (Radford et al. 2021, notebook "Prompt Engineering for ImageNet"). Their
# order plays no part, as they are averaged.
OPENAI: tuple[str, ...] = (
    *(f"{what} {article} {{}}." for what in _EITHER for article in ("a", "the")),
    *(f"a photo of {article} {adjective} {{}}." for adjective in _ADJECTIVES for article in ("a", "the")),
    *(f"{article} {matter} {{}}." for matter in _MATTERS for article in ("a", "the")),
    *(f"{article} {{}} in a video game." for article in ("a", "the")),
    "a photo of many {}.",
    "a photo of my {}.",
    "a photo of one {}.",
    "itap of my {}.",
)
