"""Images of no sample, for batches that have none where the model's parts for images are needed all the same."""

from __future__ import annotations

from dataclasses import replace

from chiasm.data.batch import Batch
from chiasm.data.processor import Processor
from chiasm.models.model import Model


def with_dummy_images(batch: Batch, model: Model, processor: Processor, *, elsewhere: bool = False) -> Batch:
    """The batch, with dummy images if it has no others but the model needs some.

    elsewhere: whether another process has images: gradients and slices of the model are put together part by part, so
        all processes have to go through all parts.
    """
    if batch.images is not None or not (elsewhere or model.needs_images):
        return batch
    return replace(batch, dummy_images=processor.dummy_images)
