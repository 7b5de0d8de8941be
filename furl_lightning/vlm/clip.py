"""Any CLIP of the ``transformers`` library, from a local folder or from the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import logging as library_logging

from furl_lightning.vlm.interface import VLM, Precision, UnusableModel, check_frames

FRAMES_PER_PASS = 256
"""Frames that go through the network at once; bounds the memory, not the call."""
FILTERS = {2: "bilinear", 3: "bicubic"}
"""PIL's numbers of the two resampling filters that tensors can be resized with alike."""
FILES = (
    ("config.json",),
    ("model.safetensors", "model.safetensors.index.json"),
    ("preprocessor_config.json", "processor_config.json"),
    ("tokenizer.json", "vocab.json"),
)
"""What a model's folder must hold, one of each row."""


class CLIP(VLM):
    """A frozen CLIP with its own tokenizer and its own image preprocessing.

    Preprocessing runs on tensors, for all frames of a call at once and on the model's device.
    Weights are read from ``.safetensors`` files only, and no code that comes with a model is run.

    Args:
        path: a folder written by ``save_pretrained``, or a name on the Hub.
        precision: of the network's arithmetic; embeddings are float32 either way.

    Raises:
        UnusableModel: no such folder, the Hub is out of reach, a file is missing or broken, or
            the model is no CLIP.
    """

    def __init__(self, path: str, precision: Precision = "float32") -> None:
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be {' or '.join(get_args(Precision))}, not '{precision}'")
        folder = model_folder(path)
        super().__init__(_load_network(folder, path, getattr(torch, precision)))
        self._name = path
        try:
            self._tokenizer = CLIPTokenizer.from_pretrained(folder)
            settings: dict[str, Any] = CLIPImageProcessorPil.from_pretrained(folder).to_dict()
        except (OSError, ValueError, TypeError) as error:
            raise UnusableModel(f"tokenizer or image settings of '{path}' cannot be read: {_line(error)}") from error
        self._preprocess = Preprocess(settings)

    @property
    def _config(self) -> CLIPConfig:
        return cast(CLIPModel, self.network).config

    @property
    def width(self) -> int:
        """Width of every embedding."""
        return int(cast(int, self._config.projection_dim))

    @property
    def image_size(self) -> int:
        """Side of the square picture that the network sees."""
        return int(cast(int, cast(CLIPVisionConfig, self._config.vision_config).image_size))

    @property
    def name(self) -> str:
        """The path or the name on the Hub that the model was loaded by."""
        return self._name

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over weights, image settings and tokenizer, taken when first asked for."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        digest.update(self._preprocess.description().encode())
        tokenizer = json.loads(self._tokenizer.backend_tokenizer.to_str())
        for changed_by_use in ("padding", "truncation"):
            tokenizer.pop(changed_by_use, None)
        digest.update(json.dumps(tokenizer, sort_keys=True).encode())
        return digest.hexdigest()

    def encode_images(self, frames: Tensor) -> Tensor:
        """Embed frames, uint8 [N, H, W, 3] in RGB on any device: float32 [N, width].

        Raises:
            ValueError: frames of another type or shape.
        """
        check_frames(frames)
        if not len(frames):
            return torch.empty(0, self.width, device=self.device)
        network = cast(CLIPModel, self.network)
        # Not in inference mode: its tensors could not be saved for a later backward pass.
        with torch.inference_mode(False), torch.no_grad():
            parts = [
                network.get_image_features(
                    pixel_values=self._preprocess(part.to(self.device)).to(network.dtype)
                ).pooler_output.float()
                for part in frames.split(FRAMES_PER_PASS)
            ]
            return torch.cat(parts)

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Embed sentences: float32 [M, width].

        Raises:
            ValueError: a sentence without a word, or one longer than the model can read.
        """
        if not texts:
            return torch.empty(0, self.width, device=self.device)
        longest = cast(CLIPTextConfig, self._config.text_config).max_position_embeddings
        for text in texts:
            if not text.strip():
                raise ValueError("an empty text cannot be embedded; write what the robot is to do")
            length = len(self._tokenizer(text, verbose=False)["input_ids"])
            if length > longest:
                raise ValueError(f"the text '{text[:40]}...' is {length} tokens long; '{self.name}' reads {longest}")
        tokens = self._tokenizer(texts, padding=True, return_tensors="pt").to(self.device)
        with torch.inference_mode(False), torch.no_grad():
            features: Tensor = cast(CLIPModel, self.network).get_text_features(**tokens).pooler_output
            return features.float()


class Preprocess:
    """CLIP's image preprocessing on tensors: resize, centre crop, rescale, normalise.

    Args:
        settings: what the model's ``preprocessor_config.json`` says.

    Raises:
        UnusableModel: a resampling filter other than bilinear and bicubic.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._size: dict[str, int] | None = settings["size"] if settings.get("do_resize", True) else None
        self._crop: dict[str, int] | None = settings["crop_size"] if settings.get("do_center_crop", True) else None
        self._scale = float(settings["rescale_factor"]) if settings.get("do_rescale", True) else 1.0
        normalise = settings.get("do_normalize", True)
        self._mean = [float(x) for x in settings["image_mean"]] if normalise else [0.0] * 3
        self._std = [float(x) for x in settings["image_std"]] if normalise else [1.0] * 3
        if int(settings["resample"]) not in FILTERS:
            raise UnusableModel(f"resampling filter {settings['resample']} is not supported; use 2 or 3 (bicubic)")
        self._mode = FILTERS[int(settings["resample"])]

    def description(self) -> str:
        """All settings, as one line of JSON."""
        return json.dumps(vars(self), sort_keys=True)

    def __call__(self, frames: Tensor) -> Tensor:
        """Turn uint8 [N, H, W, 3] into what the network takes, float32 [N, 3, height, width]."""
        pixels = frames.permute(0, 3, 1, 2).float()
        size = self._resized(pixels.shape[-2], pixels.shape[-1])
        if size != tuple(pixels.shape[-2:]):
            # Whole numbers again, as an image library keeps them between its steps.
            pixels = F.interpolate(pixels, size, mode=self._mode, antialias=True).round().clamp(0, 255)
        if self._crop:
            height, width = self._crop["height"], self._crop["width"]
            top, left = (pixels.shape[-2] - height) // 2, (pixels.shape[-1] - width) // 2
            # A negative padding crops; a picture smaller than the crop gets a black border.
            border = [-left, width + left - pixels.shape[-1], -top, height + top - pixels.shape[-2]]
            pixels = F.pad(pixels, border)
        mean = torch.tensor(self._mean, device=pixels.device)[:, None, None]
        std = torch.tensor(self._std, device=pixels.device)[:, None, None]
        return (pixels * self._scale - mean) / std

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self._size is None:
            return height, width
        if "shortest_edge" not in self._size:
            return self._size["height"], self._size["width"]
        short = self._size["shortest_edge"]
        if height <= width:
            return short, int(short * width / height)
        return int(short * height / width), short


def model_folder(path: str) -> Path:
    """The folder that holds a model's files, fetched from the Hub where ``path`` is no folder.

    Raises:
        UnusableModel: there is no such folder, or the Hub has no such model or is out of reach.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UnusableModel(f"'{path}' is a file; give the folder that holds config.json and model.safetensors")
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise UnusableModel(f"there is no folder '{path}'; give a model's folder or its name on the Hub, owner/model")
    from huggingface_hub import snapshot_download  # only here does anything touch the network

    try:
        return Path(snapshot_download(path, allow_patterns=["*.json", "*.txt", "*.safetensors"]))
    except Exception as error:  # the Hub's client raises a dozen kinds, some of them its HTTP library's
        raise UnusableModel(
            f"'{path}' is no folder here and cannot be had from the Hugging Face Hub ({type(error).__name__}); "
            f"fetch it on a machine with network (hf download {path} --local-dir FOLDER) and give that folder"
        ) from error


def _load_network(folder: Path, path: str, dtype: torch.dtype) -> CLIPModel:
    for wanted in FILES:
        if not any((folder / file).is_file() for file in wanted):
            raise UnusableModel(f"'{path}' has no {' or '.join(wanted)}; give a folder that save_pretrained wrote")
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
    except (ValueError, AttributeError) as error:
        raise UnusableModel(f"config.json of '{path}' cannot be read: {_line(error)}") from error
    if kind != "clip":
        raise UnusableModel(f"'{path}' is a model of type '{kind}', not 'clip'; give a CLIP in transformers' format")
    bars = library_logging.is_progress_bar_enabled()
    library_logging.disable_progress_bar()  # it would draw one for every model, however small
    try:
        loaded: Any = CLIPModel.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # broken files raise OSError, safetensors' own errors, RuntimeError ...
        raise UnusableModel(f"the weights of '{path}' cannot be read: {_line(error)}") from error
    finally:
        if bars:
            library_logging.enable_progress_bar()
    network, loading = loaded
    missing = sorted(loading["missing_keys"])
    if missing:
        # The library would go on with random numbers in their place.
        rest = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UnusableModel(f"the weights of '{path}' are incomplete: they lack {missing[0]}{rest}")
    return cast(CLIPModel, network)


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
