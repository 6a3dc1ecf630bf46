import copy
import pickle
from functools import partial

import numpy as np

from chiasm.data.image import Image
from chiasm.data.lazy_image import LazyImage
from chiasm.data.scenes.noise import Noise
from chiasm.data.scenes.render import render
from chiasm.data.sources.scenes import Scenes
from chiasm.data.tokenizer import learn_tokenizer
from tests.models.generative_models import noise


def test_nothing_is_made_until_pixels_are_asked_for_and_then_once() -> None:
    calls = []
    pixels = noise(0).pixels_uint8()

    def make() -> np.ndarray:
        calls.append(1)
        return pixels

    lazy, plain = LazyImage(make, (64, 64)), Image(pixels)
    assert (lazy.size, lazy.name, lazy.is_decoded, repr(lazy)) == (plain.size, plain.name, True, repr(plain))
    assert not calls
    assert lazy.key == plain.key
    assert np.array_equal(lazy.pixels_uint8(), pixels)
    assert np.array_equal(np.asarray(lazy.decode()), pixels)
    assert lazy.encoded() == plain.encoded()
    assert lazy.jpeg() is None
    assert calls == [1]


def test_it_is_copied_and_pickled_unmade() -> None:
    scene = Scenes(1).scene(0)
    lazy = LazyImage(partial(render, scene, 32), (32, 32))
    for other in (copy.deepcopy(lazy), pickle.loads(pickle.dumps(lazy))):
        assert other._made is None
        assert np.array_equal(other.pixels_uint8(), render(scene, 32))


def test_who_reads_texts_of_scenes_draws_none() -> None:
    world = Scenes(40, size=48, noise=Noise(mismatched=0.3, duplicates=0.3, boilerplate=0.2))
    samples = [world[at] for at in range(40)]
    assert {sample.meta["noise"] for sample in samples} == {"", "mismatched", "duplicates", "boilerplate"}
    images = [sample.images[0] for sample in samples]
    assert all(isinstance(image, LazyImage) and image._made is None for image in images)
    assert {image.size for image in images} == {(48, 48)}
    learn_tokenizer((caption for sample in samples for caption in sample.captions), 300)
    assert all(isinstance(image, LazyImage) and image._made is None for image in images)
    assert all(image.pixels_uint8().shape == (48, 48, 3) for image in images)
