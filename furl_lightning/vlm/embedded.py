"""The small CLIP that comes with the package, trained on rendered Meta-World episodes."""

from __future__ import annotations

from pathlib import Path

from furl_lightning.vlm.clip import CLIP
from furl_lightning.vlm.interface import Precision

FOLDER = Path(__file__).parent / "embedded"
"""Weights, tokenizer, settings and the model card; ``scripts/train_embedded_vlm.py`` makes them."""


class Embedded(CLIP):
    """The package's own model: needs no network, and has never seen a frame of the MT10 tasks.

    Args:
        precision: of the network's arithmetic; embeddings are float32 either way.
        cuda_graph: on a GPU, replay the image tower as a CUDA graph.
    """

    def __init__(self, precision: Precision = "float32", cuda_graph: bool = True) -> None:
        super().__init__(str(FOLDER), precision, cuda_graph)
        self._name = "embedded"
