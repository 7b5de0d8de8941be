"""The small models that come with the package, trained on rendered Meta-World episodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, cast

from torch import Tensor

from furl_lightning.pictures import RenderQuality
from furl_lightning.vlm.clip import CLIP
from furl_lightning.vlm.dual_encoder import DualEncoder, dtype_of
from furl_lightning.vlm.interface import Precision
from furl_lightning.vlm.scene_clip import SceneCLIP, load


class Embedded(DualEncoder):
    """A CLIP whose distances between frames are those of what the frames show; the default.

    Args:
        precision: of the network's arithmetic; embeddings are float32 either way.
        cuda_graph: on a GPU, replay the image tower as a CUDA graph.
    """

    FOLDER: ClassVar[Path] = Path(__file__).parent / "embedded"
    """Weights, tokenizer, settings and the model card; ``scripts/train_embedded_vlm.py`` makes them."""

    def __init__(self, precision: Precision = "float32", cuda_graph: bool = True) -> None:
        dtype = dtype_of(precision)
        network, preprocess, tokenizer, settings = load(self.FOLDER)
        text = settings["text"]
        width, context, vocabulary = (text[k] for k in ("projection_dim", "max_position_embeddings", "vocab_size"))
        super().__init__(
            network.to(dtype), "embedded", width, context, vocabulary, preprocess, tokenizer, cuda_graph
        )  # fmt: skip
        self._image_size: int = settings["image"]["size"]

    @property
    def image_size(self) -> int | None:
        """Side in pixels of the square that the image tower sees."""
        return self._image_size

    @property
    def render(self) -> RenderQuality:
        """The picture that it was trained on."""
        return "light"

    @property
    def _towers(self) -> SceneCLIP:
        return cast(SceneCLIP, self.network)

    def _embed_pixels(self, pixels: Tensor) -> Tensor:
        embedding: Tensor = self._towers.image(pixels)
        return embedding

    def _embed_tokens(self, tokens: Mapping[str, Tensor]) -> Tensor:
        embedding: Tensor = self._towers.text(**tokens).text_embeds
        return embedding


class EmbeddedCLIP(CLIP):
    """The model that the package had before: a CLIP that sees nine large patches, for runs that were made with it.

    Args:
        precision: of the network's arithmetic; embeddings are float32 either way.
        cuda_graph: on a GPU, replay the image tower as a CUDA graph.
    """

    def __init__(self, precision: Precision = "float32", cuda_graph: bool = True) -> None:
        super().__init__(str(Embedded.FOLDER.with_name("embedded_clip")), precision, cuda_graph)
        self._name = "embedded"  # as checkpoints of those runs have it
