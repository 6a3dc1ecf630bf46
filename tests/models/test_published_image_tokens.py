"""How many slots a picture takes in each published model, known from its size alone."""

import pytest

from chiasm.config import parse
from chiasm.data.layout import Layout
from chiasm.models.model import ModelConfig

# family, size, the picture's width and height, its slots as the papers and model cards tell them
PUBLISHED = [
    ("llava", "v1-7b", (640, 480), 256),
    ("llava", "v1.5-7b", (640, 480), 576),
    ("llava_next", "vicuna-7b", (1000, 1000), 2_880 + 48),  # five tiles of 576, and a mark behind each of 48 rows
    ("llava_next", "34b", (336, 1008), 4 * 576 + 72),
    ("blip2", "opt-2.7b", (640, 480), 32),
    ("minigpt4", "v1-7b", (640, 480), 32),
    ("minigpt4", "v2-7b", (640, 480), 256),
    ("qwen_vl", "9.6b", (640, 480), 256),
    ("monkey", "9.8b", (640, 480), 7 * 256),
    ("idefics2", "8b", (640, 480), 5 * 64),  # four quarters and the whole
    ("idefics3", "8b", (364, 364), 17 * 169),  # it is scaled up to four tiles a side
    ("idefics3", "smolvlm-2.2b", (640, 480), 13 * 81),
    ("idefics3", "smolvlm-256m", (640, 480), 13 * 64),
    ("internvl", "1.5-26b", (448, 448), 256),
    ("internvl", "2-8b", (800, 1300), 7 * 256),  # two by three, and the whole
    ("internvl", "2-76b", (4 * 448, 3 * 448), 13 * 256),
    ("qwen2_vl", "7b", (224, 224), 64),
    ("qwen2_vl", "7b", (28 * 20, 28 * 30), 600),
    ("qwen2_vl", "2b", (20_000, 20_000), 127**2),  # no more than 16,384
    ("minicpm_v", "2.5", (1344, 1344), 10 * 96),
    ("minicpm_v", "2.6", (1344, 1344), 10 * 64),
    ("minicpm_v", "2.6", (300, 300), 64),
    ("kosmos2", "patch14-224", (640, 480), 64),
    ("flamingo", "idefics-9b", (640, 480), 1),  # its features stand beside the stream
    ("frozen", "7b", (640, 480), 2),
    ("limber", "clip-rn50x16", (640, 480), 144),
    ("mapl", "clip-l", (640, 480), 32),
]


@pytest.mark.parametrize(("family", "size", "image", "image_tokens"), PUBLISHED)
def test_slots_are_those_published(family: str, size: str, image: tuple[int, int], image_tokens: int) -> None:
    entries = ModelConfig.choose(family).sizes()[size].processor_entries()["layout"]
    layout = parse(Layout, entries, "layout")  # type: ignore[type-abstract]  # its entry says which
    assert layout.written(*image).count(layout.image_token) == image_tokens


def test_internvl_takes_up_to_forty_tiles_if_asked() -> None:
    entries = ModelConfig.choose("internvl").sizes()["2-8b"].processor_entries()["layout"]
    layout = parse(Layout, {**entries, "max_tiles": 40}, "layout")  # type: ignore[type-abstract]  # as above
    counts = {
        layout.written(wide, high).count(layout.image_token) for wide in range(99, 3999, 300) for high in (400, 2240)
    }
    assert max(counts) <= 41 * 256
    assert layout.written(8 * 448, 5 * 448).count(layout.image_token) == 41 * 256
