"""The small CLIP that comes with the package, trained on rendered Meta-World episodes."""

from __future__ import annotations

from pathlib import Path

from furl_lightning.pictures import RenderQuality
from furl_lightning.vlm.clip import CLIP
from furl_lightning.vlm.interface import Precision

FOLDER = Path(__file__).parent / "embedded"
"""Weights, tokenizer, settings and the model card; ``scripts/train_embedded_vlm.py`` makes them."""


class EmbeddedCLIP(CLIP):
    """The model that the package had before: a CLIP that sees nine large patches, for runs that were made with it.

    Args:
        precision: of the network's arithmetic; embeddings are float32 either way.
        cuda_graph: on a GPU, replay the image tower as a CUDA graph.
    """

    def __init__(self, precision: Precision = "float32", cuda_graph: bool = True) -> None:
        super().__init__(str(FOLDER.with_name("embedded_clip")), precision, cuda_graph)
        self._name = "embedded_clip"


class Embedded(EmbeddedCLIP):
    """TEMPORARY: until the new weights are there."""

    def __init__(self, precision: Precision = "float32", cuda_graph: bool = True) -> None:
        super().__init__(precision, cuda_graph)
        self._name = "embedded"

    @property
    def render(self) -> RenderQuality:
        """The picture that it was trained on."""
        return "fast"
