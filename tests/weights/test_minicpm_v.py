"""MiniCPM-V's published folders, beside transformers' classes where there are such: the language models, and the tower
of version 4.6 without the merger in its midst, which is that of all versions, under the same names. The resampler,
which 4.6 has no more, stands beside its equations."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from transformers.models.minicpmv4_6.configuration_minicpmv4_6 import MiniCPMV4_6VisionConfig
from transformers.models.minicpmv4_6.modeling_minicpmv4_6 import MiniCPMV4_6VisionModel

import chiasm
from chiasm.data.layouts.slices import Slices
from chiasm.data.sample import Sample, Text
from chiasm.errors import CheckpointError, DataError
from chiasm.models.minicpm_v import SIZES, MiniCPMV
from chiasm.weights.transformers import save
from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.weights import equations, generating, pictures
from tests.weights.shaking import shaken

EXTRA = ("<unk>", "<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>", "<|eot_id|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WIDTH, PATCH, SIZE, QUERIES = 256, 8, 48, 6
MEAN, STD = [0.4, 0.5, 0.6], [0.3, 0.25, 0.2]
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 50_000.0,
    "tie_word_embeddings": False,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 9 * PATCH,
    "patch_size": PATCH,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-2,
}


class Peer:
    """The parts, and the folder that their authors would have written of them."""

    def __init__(self, folder: Path, version: str, **more: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        vocabulary = generating.write_tokenizer(folder, TEMPLATE, EXTRA)
        torch.manual_seed(0)
        self.tower = MiniCPMV4_6VisionModel(MiniCPMV4_6VisionConfig(**VISION)).eval()
        self.resampler = pictures.Resampler(QUERIES, WIDTH, VISION["hidden_size"], WIDTH // 128).eval()
        kinds: Any = {
            "2.5": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
            "2.6": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        }[version]
        self.language = kinds[1](kinds[0](**TEXT, vocab_size=vocabulary, pad_token_id=0)).eval()
        for part in (self.tower, self.language):
            pictures.spread_out(part)
        for part in (self.tower, self.resampler, self.language):
            shaken(part)
        state: dict[str, Tensor] = {}
        for name, part in (("vpm", self.tower), ("resampler", self.resampler), ("llm", self.language)):
            state |= {f"{name}.{key}": one for key, one in part.state_dict().items() if "vit_merger" not in key}
        settings = {"architectures": ["MiniCPMV"], "model_type": "minicpmv", "version": version, **TEXT}
        settings |= {
            "vocab_size": vocabulary,
            "query_num": QUERIES,
            "vision_config": VISION,
            "slice_mode": True,
            **more,
        }
        pictures.write_folder(folder, settings, state)
        pixels: dict[str, Any] = {
            "max_slice_nums": 4,
            "scale_resolution": SIZE,
            "patch_size": PATCH,
            "image_feature_size": QUERIES,
        }
        pixels |= {"use_image_id": version == "2.6", "slice_mode": True, "norm_mean": MEAN, "norm_std": STD}
        (folder / "preprocessor_config.json").write_text(json.dumps({**pixels, "version": float(version)}))

    def features(self, batch: Any) -> Tensor:
        """Of all slices at once through their tower; then each with its own positions through the resampler."""
        grids = batch.images.grid_M2
        cut = [patches[: int(grid.prod())] for patches, grid in zip(batch.images.pixels, grids, strict=True)]
        rows = torch.cat(cut).view(-1, PATCH, PATCH, 3)  # their processor lays all patches in one row
        pixels = rows.permute(3, 1, 0, 2).reshape(1, 3, PATCH, -1)
        found = self.tower(pixel_values=pixels, target_sizes=grids, use_vit_merger=False).last_hidden_state[0]
        state = {f"r.{name}": one.double().numpy() for name, one in self.resampler.state_dict().items()}
        made = []
        for seen, (down, across) in zip(torch.split(found, [len(one) for one in cut]), grids.tolist(), strict=True):
            places = equations.sines(down, across, WIDTH)
            made.append(equations.resampler(state, seen.numpy(), 0.0, places, ("r", "r")))
        return torch.from_numpy(np.concatenate(made))

    def logits(self, ids: Tensor, features: Tensor, image_token: int) -> Tensor:
        x_TD = self.language.get_input_embeddings()(ids)
        x_TD[ids == image_token] = features
        return self.language(inputs_embeds=x_TD[None]).logits[0]


def loaded(folder: Path) -> MiniCPMV:
    ours = chiasm.load(folder)
    assert isinstance(ours, MiniCPMV)
    ours.check()
    return ours


PICTURES = (pictures.noise(40, 48), pictures.noise(150, 50, seed=1), pictures.noise(90, 100, seed=2))


def sample(key: str = "a") -> Sample:
    return Sample(
        key, (PICTURES[1], Text("What is in the picture?", role="user"), PICTURES[0], Text("this?", role="user"))
    )


@pytest.mark.parametrize("version", ["2.5", "2.6"])
def test_tokens_and_logits_are_those_of_the_parts(version: str, tmp_path: Path) -> None:
    theirs, ours = Peer(tmp_path, version), loaded(tmp_path)
    batch = ours.processor.prompts([sample()])
    assert batch.stream is not None
    # 150x50 pixels are ceil(7500 / 48²) = 4 slices: of 3 and 4 the row of three is nearest to 3 : 1.
    unk, (first, second) = "<unk>" * QUERIES, (f"<image_id>{at}</image_id>" for at in (0, 1))
    whole = f"<image>{unk}</image>"
    if version == "2.6":
        wide, small = f"{first}{whole}" + f"<slice>{unk}</slice>" * 3, f"{second}{whole}"
    else:
        wide, small = f"{whole}<slice>{whole * 3}</slice>", whole
    text = f"<|im_start|>user\n{wide}\nWhat is in the picture?{small}\nthis?<|im_end|>\n<|im_start|>assistant\n"
    fast = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert batch.stream.ids_T.tolist() == fast(text, add_special_tokens=False).input_ids
    assert ours.processor.settings.ends[0] == ("<|im_end|>" if version == "2.6" else "<|eot_id|>")
    assert batch.images is not None
    levels = (np.asarray(PICTURES[0].decode()) / 255 - MEAN) / STD  # it is not resized
    rows, columns = 48 // PATCH, 40 // PATCH
    patches = levels.reshape(rows, PATCH, columns, PATCH, 3).swapaxes(1, 2).reshape(rows * columns, -1)
    assert np.allclose(batch.images.pixels[-1, : rows * columns], patches, atol=1e-5)
    for model in (ours, theirs.tower, theirs.resampler, theirs.language):
        model.double()
    batch.images.pixels.data = batch.images.pixels.double()
    image_token = ours.processor.image_token_ids[0]
    with torch.no_grad():
        features = theirs.features(batch)
        found = ours.image_features(batch.images)
        assert torch.allclose(found, features, atol=1e-4, rtol=1e-4)
        expected = theirs.logits(batch.stream.ids_T, features, image_token)
    assert torch.allclose(pictures.logits(ours, batch), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.1, "logits that are all alike prove nothing"


@pytest.mark.parametrize("version", ["2.5", "2.6"])
def test_what_we_write_is_the_folder_that_we_read(version: str, tmp_path: Path) -> None:
    Peer(tmp_path / "theirs", version)
    ours = loaded(tmp_path / "theirs")
    save(ours, tmp_path / "ours")
    again = loaded(tmp_path / "ours")
    assert again.config == ours.config
    assert again.processor.layout == ours.processor.layout
    assert again.processor.settings == ours.processor.settings
    read = {name: json.loads((tmp_path / name / "config.json").read_text()) for name in ("theirs", "ours")}
    missing = {key for key, one in read["theirs"].items() if read["ours"].get(key) != one} - {"vision_config"}
    assert not missing
    assert torch.equal(again.log_likelihood([learned(again)]), ours.log_likelihood([learned(ours)]))


def learned(model: MiniCPMV) -> Sample:
    return Sample("a", (*sample().parts, Text("a red ball", role="assistant", target=True)))


def test_a_tower_without_its_last_block_and_a_folder_without_pixels(tmp_path: Path) -> None:
    """As the files of 2.0 and the first ones of 2.5 have it: slices stand in config.json."""
    slices = {"max_slice_nums": 2, "scale_resolution": SIZE, "patch_size": PATCH}
    Peer(tmp_path, "2.5", drop_vision_last_layer=False, slice_config=slices)
    (tmp_path / "preprocessor_config.json").unlink()
    layout = loaded(tmp_path).processor.layout
    assert isinstance(layout, Slices)
    assert (layout.most, layout.size, layout.mean) == (2, SIZE, (0.5, 0.5, 0.5))
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "drop_vision_last_layer": True}))
    with pytest.raises(CheckpointError, match=r"unexpected: vpm.encoder.layers.2"):
        loaded(tmp_path)


def test_pictures_without_numbers(tmp_path: Path) -> None:
    """As version 2.6 writes them where its file says so."""
    Peer(tmp_path / "theirs", "2.6")
    file = tmp_path / "theirs" / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "use_image_id": False}))
    ours = loaded(tmp_path / "theirs")
    text = ours.processor.render(sample()).text
    assert "<image_id>" not in text
    assert text.count("<slice>") == 3
    save(ours, tmp_path / "ours")
    assert loaded(tmp_path / "ours").processor.layout == ours.processor.layout


def test_what_cannot_be_read_or_written_is_refused(tmp_path: Path) -> None:
    Peer(tmp_path, "2.6")
    ours = loaded(tmp_path)
    ours.config = chiasm.models.minicpm_v.Config(
        ours.config.vision, ours.config.language, ours.config.connector, numbered=False
    )
    with pytest.raises(CheckpointError, match=r"MiniCPM-V 2.5 has the decoder of llama; this model has qwen2's"):
        save(ours, tmp_path / "never")
    assert not list((tmp_path / "never").iterdir())
    file = tmp_path / "config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "version": 4.0}))
    with pytest.raises(CheckpointError, match=r"version 4.0 of MiniCPM-V cannot be read; 2.5, 2.6 can"):
        loaded(tmp_path)
    file.write_text(json.dumps({**settings, "slice_mode": False}))
    with pytest.raises(CheckpointError, match="slice_mode"):
        loaded(tmp_path)


def test_a_picture_beyond_the_context_is_named(tmp_path: Path) -> None:
    Peer(tmp_path, "2.6", max_position_embeddings=20)
    with pytest.raises(DataError, match=r"'receipt' has .* tokens, 30 of them for its pictures, but the context is 20"):
        loaded(tmp_path).processor.prompts([sample("receipt")])


@pytest.mark.parametrize(("size", "published"), [("2.5", 8_537_092_336), ("2.6", 8_099_175_152)])
def test_the_published_sizes(size: str, published: int) -> None:
    """As the released files count their values."""
    assert SIZES[size].parameters() == published


def test_the_published_numbers_of_tokens() -> None:
    """96 and 64 slots a slice; at most nine slices and the whole."""
    for size, each in (("2.5", 96), ("2.6", 64)):
        entries = dict(SIZES[size].processor_entries()["layout"])
        assert entries.pop("layout") == "slices"
        layout = Slices(**entries)
        assert layout.written(1344, 1344).count(layout.image_token) == 10 * each
        assert layout.written(448, 448).count(layout.image_token) == each
        assert layout.written(640, 480).count(layout.image_token) == 3 * each
