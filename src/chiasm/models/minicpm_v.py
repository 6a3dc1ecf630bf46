"""MiniCPM-V (Yao et al. 2024, arXiv:2408.01800), versions 2.5 and 2.6: a small view of the whole picture and up to nine
slices, each at its own shape, each resampled to 96 or 64 image tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from chiasm.data.batch import Images, PatchImages
from chiasm.data.layouts.slices import Slices
from chiasm.models.connector_vlm import ConnectorVLM
from chiasm.models.model import Model, ModelConfig
from chiasm.models.needed_layout import NeededLayout
from chiasm.nn.connectors import cross_attention
from chiasm.nn.decoder import DecoderConfig
from chiasm.nn.decoders import llama
from chiasm.nn.image_towers import native
from chiasm.nn.image_towers.naflex import patch_mask


@dataclass(frozen=True)
class Config(ModelConfig):
    """vision: the image tower. language: the decoder. connector: between them.

    side: in pixels, of a square with as many pixels as a slice. most: slices of a picture, the whole not counted.
    numbered: pictures have their number before them, and slices marks of their own (2.6); in 2.5 they have those of a
        whole, with others around all of them.
    """

    vision: native.Config
    language: DecoderConfig
    connector: cross_attention.Config
    side: int = 448
    most: int = 9
    numbered: bool = True

    @classmethod
    def model(cls) -> type[Model]:
        return MiniCPMV

    def processor_entries(self) -> dict[str, Any]:
        numbers = {
            "patch": self.vision.patch,
            "image_tokens": self.connector.queries,
            "size": self.side,
            "most": self.most,
        }
        marks = _NUMBERED if self.numbered else _PLAIN
        return {"context": self.language.context, "layout": {"layout": "slices", **numbers, **marks}}


# Entries of the layout: how versions 2.6 and 2.5 write pictures.
_NUMBERED = {"id_before": "<image_id>", "id_behind": "</image_id>", "between": "\n"}
_PLAIN = {
    "slice_before": "<image>",
    "slice_behind": "</image>",
    "grid_before": "<slice>",
    "grid_behind": "</slice>",
    "between": "\n",
}


class MiniCPMV(ConnectorVLM):
    """Slices of any shape through one tower, each read by a fixed number of queries."""

    config: Config

    @property
    def needed_layout(self) -> NeededLayout:
        return NeededLayout(Slices, {"patch": self.config.vision.patch, "image_tokens": self.config.connector.queries})

    def image_features(self, images: Images) -> Tensor:
        assert isinstance(images, PatchImages)
        return self.connector(self.vision.tokens(images), images.grid_M2, patch_mask(images)).flatten(0, 1)


_SO400M = native.Config(14, 1152, 27, 16, 4304, positions=70**2)

SIZES = {
    "2.5": Config(_SO400M, llama.SIZES["llama3-8b"], cross_attention.Config(96, 32), numbered=False),
    "2.6": Config(_SO400M, replace(llama.SIZES["qwen2-7b"], vocabulary=151_666), cross_attention.Config(64, 28)),
    # For small pictures, trained on a laptop.
    "small": Config(
        native.Config(8, 128, 4, 4, 512, positions=64),
        llama.SIZES["small"],
        cross_attention.Config(8, 4),
        side=48,
        most=4,
    ),
}
