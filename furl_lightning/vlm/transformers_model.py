"""Loading a checkpoint in the transformers library's format: a folder that ``save_pretrained`` wrote, or the Hub's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoTokenizer
from transformers.utils import logging as library_logging

from furl_lightning.vlm.dual_encoder import DualEncoder, dtype_of, first_line
from furl_lightning.vlm.hub import TOKENIZER_FILES, locate, require
from furl_lightning.vlm.interface import Precision, UnusableModel
from furl_lightning.vlm.preprocess import Preprocess

SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")
SETTINGS = ("preprocessor_config.json", "processor_config.json")
FILES = (
    ("config.json",),
    (*SAFE_WEIGHTS, *PICKLED_WEIGHTS),
    SETTINGS,
    ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model"),
)
"""Files of a model's folder; it must have one of each row."""


class TransformersModel(DualEncoder):
    """A checkpoint of one of the transformers library's families, with its own tokenizer and image settings.

    Weights are read from ``.safetensors`` files, or from ``.bin`` files that hold nothing but
    tensors, and no code that comes with a model is run.

    Args:
        path: a folder written by ``save_pretrained``, or a name on the Hub.
        precision: of the network's arithmetic; embeddings are float32 either way.
        cuda_graph: on a GPU, replay the image tower as a CUDA graph.
        revision: branch, tag or commit of a name on the Hub.

    Raises:
        UnusableModel: no such folder, the Hub is out of reach, a file is missing or broken, or
            the model is of another family.
    """

    KINDS: ClassVar[dict[str, tuple[Any, Any]]]
    """The library's model and image processor for each ``model_type`` of the family."""

    def __init__(
        self,
        path: str,
        precision: Precision = "float32",
        cuda_graph: bool = True,
        revision: str | None = None,
    ) -> None:
        dtype = dtype_of(precision)
        folder = _folder(path, revision)
        self.kind = self._kind(folder, path, revision)
        model, image_processor = self.KINDS[self.kind]
        network = _load_network(model, folder, path, dtype)
        try:
            with _quiet_library():
                tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
                settings: dict[str, Any] = image_processor.from_pretrained(folder, local_files_only=True).to_dict()
            preprocess = self._make_preprocess(settings)
        except UnusableModel as error:
            raise UnusableModel(f"'{path}' cannot be used: {error}") from error
        except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
            raise UnusableModel(
                f"tokenizer or image settings of '{path}' cannot be read: {first_line(error)}"
            ) from error
        config: Any = network.config
        width, text = self._width_of(config), config.text_config
        super().__init__(
            network, path, width, text.max_position_embeddings, text.vocab_size, preprocess, tokenizer,
            cuda_graph,
        )  # fmt: skip
        self._refuse_other_size(config.vision_config)

    @property
    def image_size(self) -> int | None:
        """Side of the square picture that the network sees; None where it takes any."""
        config: Any = self.network.config
        return getattr(config.vision_config, "image_size", None)

    @staticmethod
    def _width_of(config: Any) -> int:
        """Width of the embeddings."""
        raise NotImplementedError

    def _make_preprocess(self, settings: dict[str, Any]) -> Preprocess:
        return Preprocess(settings)

    def _refuse_other_size(self, vision: Any) -> None:
        """Refuse image settings that do not make pictures of the image tower's size."""
        side = int(vision.image_size)
        size = self._preprocess.output_size(side, side)
        if size != (side, side):
            raise UnusableModel(
                f"the image settings of '{self.name}' make pictures of {size[0]} x {size[1]}, but its image tower "
                f"takes {side} x {side}; set size or crop_size in its {SETTINGS[0]}"
            )

    def _kind(self, folder: Path, path: str, revision: str | None) -> str:
        """The checkpoint's ``model_type``, which must be one of the family's; no file may be missing."""
        for names in (*FILES, *([part] for part in _weight_parts(folder))):
            require(folder, path, names, "give a folder that save_pretrained wrote", revision)
        try:
            kind = json.loads((folder / "config.json").read_text()).get("model_type")
        except (ValueError, AttributeError) as error:
            raise UnusableModel(f"config.json of '{path}' cannot be read: {first_line(error)}") from error
        if kind not in self.KINDS:
            kinds = " or ".join(f"'{name}'" for name in self.KINDS)
            classes = [cls.__name__ for cls in TransformersModel.__subclasses__() if kind in cls.KINDS]
            hint = f"load it with {classes[0]}" if classes else f"give a {type(self).__name__} in transformers' format"
            raise UnusableModel(f"'{path}' is a model of type '{kind}', not {kinds}; {hint}")
        return str(kind)


def _folder(path: str, revision: str | None) -> Path:
    """The folder with the model's files. The Hub's ``.bin`` files are fetched only where it has no safetensors."""
    others = ("config.json", *SETTINGS, *TOKENIZER_FILES)
    folder = locate(path, (*others, *SAFE_WEIGHTS, "model-*.safetensors"), revision)
    if folder.is_file():
        raise UnusableModel(f"'{path}' is a file; give the folder that holds config.json and {SAFE_WEIGHTS[0]}")
    if not Path(path).expanduser().exists() and not any((folder / file).exists() for file in SAFE_WEIGHTS):
        folder = locate(path, (*others, *PICKLED_WEIGHTS, "pytorch_model-*.bin"), revision)
    return folder


def _weight_parts(folder: Path) -> list[str]:
    """Names of the files of weights that come in several, by the index that would be read."""
    for name in (*SAFE_WEIGHTS, *PICKLED_WEIGHTS):
        if (folder / name).is_file():
            if not name.endswith(".index.json"):
                return []
            try:
                return sorted({str(part) for part in json.loads((folder / name).read_text())["weight_map"].values()})
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise UnusableModel(f"'{folder / name}' cannot be read: {first_line(error)}") from error
    return []


def _load_network(model: Any, folder: Path, path: str, dtype: torch.dtype) -> nn.Module:
    with _quiet_library():
        try:
            network, loading = model.from_pretrained(
                folder, dtype=dtype, local_files_only=True, weights_only=True, output_loading_info=True
            )
        except Exception as error:  # broken files raise OSError, safetensors' own errors, RuntimeError ...
            raise UnusableModel(f"the weights of '{path}' cannot be read: {first_line(error)}") from error
    missing = sorted(loading["missing_keys"])
    if missing:
        # The library would go on with random numbers in their place.
        rest = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UnusableModel(f"the weights of '{path}' are incomplete: they lack {missing[0]}{rest}")
    assert isinstance(network, nn.Module)
    return network


@contextmanager
def _quiet_library() -> Iterator[None]:
    """Turn off the library's progress bars, and its reports of what is checked here."""
    bars, verbosity = library_logging.is_progress_bar_enabled(), library_logging.get_verbosity()
    library_logging.disable_progress_bar()
    library_logging.set_verbosity_error()
    try:
        yield
    finally:
        library_logging.set_verbosity(verbosity)
        if bars:
            library_logging.enable_progress_bar()
