"""SigLIP 2 as transformers stores it: its NaFlex models (Siglip2Model).

The models of one resolution are stored as SigLIPs (SiglipModel), and are read and written as such."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from chiasm.data.patches import PatchTransform
from chiasm.data.processor import PairProcessor
from chiasm.errors import CheckpointError
from chiasm.models.siglip2 import Config, SigLIP2
from chiasm.nn.image_towers import naflex
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import read_section, write_json, write_tensors
from chiasm.weights.mapping import give_tensors, take_tensors
from chiasm.weights.texts import padded_to_context, read_tokenizer, write_tokenizer
from chiasm.weights.transformers import siglip
from chiasm.weights.transformers._patches import read_patches, write_patches
from chiasm.weights.transformers._towers import POSITION_IDS, WEIGHTS, PatchVision, blocks

MODEL = SigLIP2
TABLE = siglip.TABLE  # the same names, though patches are mapped by a matrix here and by a convolution there

# What transformers takes where a config says nothing: B/16.
_VISION = PatchVision(768, 3072, 12, 12, "gelu_pytorch_tanh", 1e-6, patch_size=16, num_patches=256)


def load(folder: CheckpointFolder) -> SigLIP2:
    """The model in a folder, with its processor, in evaluation mode."""
    settings = folder.settings
    where = f"{folder / 'config.json'}"
    vision_entries, text_entries = siglip.sections(settings, where)
    vision = read_section(_VISION, vision_entries, f"{where}: vision_config")
    text = read_section(siglip.TEXT, text_entries, f"{where}: text_config")
    tokenizer = read_tokenizer(folder, text.max_position_embeddings, text.vocab_size, lower=True)
    tokenizer = padded_to_context(tokenizer, text.max_position_embeddings, where)
    processor = PairProcessor(read_patches(folder, vision.patch_size), tokenizer)
    with torch.device("meta"):
        model = SigLIP2(Config(vision.tower(), text.tower(causal=False)), processor)
    state, file = folder.tensors(WEIGHTS)
    return take_tensors(model, TABLE, state, str(file), POSITION_IDS).eval()


def save(model: SigLIP2, folder: Path) -> None:
    """Writes the model for transformers, into a folder that exists: a NaFlex model as SigLIP 2, another as SigLIP.

    Raises CheckpointError where transformers has no such model.
    """
    tower, image = model.config.vision, model.processor.image
    if not isinstance(tower, naflex.Config):
        siglip.save(model, folder)
        return
    if not isinstance(image, PatchTransform):
        raise CheckpointError("the processor of a NaFlex model makes patches; this one makes whole pictures")
    vision = PatchVision(**blocks(tower), patch_size=tower.patch, num_patches=tower.positions)
    settings = {
        "architectures": ["Siglip2Model"],
        "model_type": "siglip2",
        "vision_config": asdict(vision) | {"model_type": "siglip2_vision_model", "vision_use_head": True},
        "text_config": siglip.write_text(model) | {"model_type": "siglip2_text_model"},
    }
    write_patches(image, folder)
    write_tokenizer(model.processor.tokenizer, folder)
    write_json(folder / "config.json", settings)
    write_tensors(folder / "model.safetensors", give_tensors(model, TABLE))
