"""SmolVLM as transformers stores it (SmolVLMForConditionalGeneration): an Idefics3 by another name.

It is written as Idefics3, as its first versions are: whose processor needs none of the packages that read videos."""

from chiasm.weights.transformers.idefics3 import MODEL as MODEL
from chiasm.weights.transformers.idefics3 import load as load
from chiasm.weights.transformers.idefics3 import save as save
