from __future__ import annotations

import io

import PIL.Image
import pytest

from chiasm.data.image import Image
from chiasm.data.scenes.noise import Noise
from chiasm.data.sources.scenes import Scenes
from chiasm.diagnosis.prints import Prints, alike, print_of
from tests.shared_data import shared_data


def _copy(image: Image, scale: float, quality: int) -> Image:
    picture = image.decode()
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image(buffer.getvalue())


def _prints(images: list[Image]) -> Prints:
    prints = Prints()
    for at, image in enumerate(images):
        prints.add(at, print_of(image.decode(at_least=64)))
    return prints


@pytest.mark.parametrize(("scale", "quality"), [(0.7, 50), (1.5, 90)])
def test_copies_of_photos_are_found_and_nothing_else(scale: float, quality: int) -> None:
    photos = [Image(file) for file in sorted((shared_data("flickr8k") / "images").glob("*.jpg"))[:150]]
    copies = [_copy(photo, scale, quality) for photo in photos]
    pairs = [(at, of) for at, of in _prints(copies).pairs(_prints(photos)) if alike(copies[at], photos[of])]
    assert all(at == of for at, of in pairs)
    assert len(pairs) >= 0.97 * len(photos)
    assert not list(_prints(photos).pairs())


def test_copies_among_scenes_are_those_that_the_world_made() -> None:
    scenes = Scenes(count=600, seed=5, objects=(1, 2), noise=Noise(duplicates=0.1), annotations=False)
    samples = [scenes[index] for index in range(600)]
    images = [sample.image for sample in samples]
    origins = [str(sample.meta.get("duplicate_of", sample.key)) for sample in samples]
    found = {(at, of) for at, of in _prints(images).pairs() if alike(images[at], images[of])}
    true = {(at, of) for of in range(600) for at in range(of) if origins[at] == origins[of]}
    assert len(true) > 30
    assert found <= true, "scenes that only resemble each other are no copies"
    assert len(found) >= 0.9 * len(true)


def test_flat_pictures_are_like_nothing() -> None:
    flat = [Image(io.BytesIO(_png(colour)).getvalue()) for colour in ("white", "white", "navy")]
    assert len(_prints(flat)) == 0
    assert not alike(flat[0], flat[1])


def _png(colour: str) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (80, 80), colour).save(buffer, "PNG")
    return buffer.getvalue()
