"""InternVL's videos, a tile a frame with its number before it, against transformers' whole processor and model."""

from pathlib import Path

import numpy as np
import PIL.Image
import torch

from chiasm.data.batch import PixelImages
from chiasm.data.image import Image
from chiasm.data.sample import Sample, Text, Video
from tests.weights.generating import write_tokenizer
from tests.weights.test_transformers_internvl import (
    SIZE,
    TEMPLATE,
    TOKENS,
    continued,
    load,
    logits,
    peer,
    picture,
    whole,
)

VIDEOS = TEMPLATE.replace(
    "{% elif content['type'] == 'text' %}", "{% elif content['type'] == 'video' %}{{ '<video>\n' }}{% else %}"
)


@torch.no_grad()
def test_frames_stand_with_their_numbers_beside_pictures(tmp_path: Path) -> None:
    theirs = peer(tmp_path)
    write_tokenizer(tmp_path, VIDEOS, TOKENS)
    made = whole(tmp_path, VIDEOS)
    ours = load(tmp_path)
    # Frames of a tile's size, as the two resize in ways that differ by a level here and there.
    frames = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    photo = picture(tmp_path, "wide")
    video = Video(tuple(Image(frame) for frame in frames), (0.0, 1.0, 2.0))
    for shown in ((video,), (Image(photo), video), (video, Image(photo))):
        sample = Sample("a", (*shown, Text("What happens?", role="user")))
        content = [{"type": "video" if isinstance(one, Video) else "image"} for one in shown]
        chat = [{"role": "user", "content": [*content, {"type": "text", "text": "What happens?"}]}]
        text = made.tokenizer.apply_chat_template(
            chat, chat_template=VIDEOS, add_generation_prompt=True, tokenize=False
        )
        pictures = [PIL.Image.open(photo)] if len(shown) > 1 else None
        inputs = made(text=[text], images=pictures, videos=[frames], return_tensors="pt")
        batch = ours.processor.prompts([sample])
        assert batch.stream is not None
        assert batch.images is not None
        assert batch.stream.ids_T.tolist() == inputs["input_ids"][0].tolist()
        assert "Frame3: " in ours.processor.decode(batch.stream.ids_T.tolist())
        assert torch.allclose(batch.images.pixels, inputs["pixel_values"], atol=1e-5)
        given = {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")}
        assert torch.allclose(logits(ours, sample), theirs(**given).logits[0], atol=1e-4, rtol=1e-4)
        (answered,) = ours.generate([sample], max_tokens=8)
        assert answered.texts[-1].text == ours.processor.decode(continued(theirs, 8, **given)[0])


def test_frames_are_resized_to_a_tile(tmp_path: Path) -> None:
    peer(tmp_path)
    write_tokenizer(tmp_path, VIDEOS, TOKENS)
    ours = load(tmp_path)
    odd = Image(np.random.default_rng(1).integers(0, 256, (90, 40, 3), np.uint8))
    sample = Sample("a", (Video((odd, odd), (0.0, 1.0)), Text("What?", role="user")))
    batch = ours.processor.prompts([sample])
    assert batch.images is not None
    assert batch.images.pixels.shape == (2, 3, SIZE, SIZE)
    assert isinstance(batch.images, PixelImages)
    assert batch.images.tiles_N is not None
    assert batch.images.tiles_N.tolist() == [2]
