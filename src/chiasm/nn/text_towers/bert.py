"""BERT as a text tower: a bidirectional encoder whose tokens are averaged, as sentence encoders are read."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from chiasm.data.batch import Tokens
from chiasm.nn import bert
from chiasm.nn.tower import TextTower, TextTowerConfig


@dataclass(frozen=True)
class Config(TextTowerConfig):
    """bert: the encoder's dimensions; those of MiniLM-L6 by default."""

    bert: bert.Config = field(default_factory=lambda: bert.SIZES["minilm-l6"])

    def build(self) -> BertTower:
        return BertTower(self)


class BertTower(TextTower):
    """The mean over a text's tokens, padding left out (Reimers & Gurevych 2019, arXiv:1908.10084)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.net = config.bert.build()
        self.width, self.vocabulary, self.context = config.bert.width, config.bert.vocabulary, config.bert.context

    def forward(self, texts: Tokens) -> Tensor:
        return bert.mean_over_tokens(self.tokens(texts), texts.mask_BT)

    def tokens(self, texts: Tokens) -> Tensor:
        return self.net(texts.ids_BT, texts.mask_BT)
