"""CLIP with a ResNet, which the transformers library lacks: OpenAI's RN50 and its kin, and LIV.

The image tower is ours (``resnet.py``); the text tower is the library's, with OpenAI's weights renamed.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from furl_lightning.utils.errors import BadInput
from furl_lightning.vlm.dual_encoder import DualEncoder, dtype_of, first_line
from furl_lightning.vlm.hub import TOKENIZER_FILES, locate, require
from furl_lightning.vlm.interface import Precision, UnusableModel
from furl_lightning.vlm.preprocess import Preprocess, TensorPreprocess
from furl_lightning.vlm.resnet import ModifiedResNet

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's training pictures, by channel."""
BILINEAR, BICUBIC = 2, 3
"""PIL's numbers of the filters."""
NOT_PARAMETERS = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's archives keep among the tensors."""
OPENAI_TOKENIZER = "openai/clip-vit-base-patch32"
"""A name on the Hub where OpenAI's vocabulary is; all CLIPs of theirs share it."""

Resize = Literal["bicubic", "bilinear"]


class CLIPResNet(DualEncoder):
    """A CLIP with a ResNet image tower, from a file with OpenAI's parameter names.

    The file is a ``.safetensors`` file, or one that ``torch.save`` made of nothing but tensors. Sizes are
    read off the tensors, so that RN101, RN50x4 and the like load too. Activations are OpenAI's
    (QuickGELU in the text tower).

    Args:
        path: the file, a folder with it, or a name on the Hub, for example ``timm/resnet50_clip.openai``.
        tokenizer: a folder with the files of a CLIP tokenizer, or a name on the Hub.
        precision: of the network's arithmetic; embeddings are float32 either way.
        cuda_graph: on a GPU, replay the image tower as a CUDA graph.
        revision: branch, tag or commit of a name on the Hub.

    Raises:
        UnusableModel: no such file, the Hub is out of reach, the file holds more than tensors, lacks
            some or has others, or the tokenizer is another model's.
    """

    FILE: ClassVar[str] = "open_clip_model.safetensors"
    """The file's name in a folder and on the Hub."""

    def __init__(
        self,
        path: str,
        tokenizer: str = OPENAI_TOKENIZER,
        precision: Precision = "float32",
        cuda_graph: bool = True,
        revision: str | None = None,
    ) -> None:
        dtype = dtype_of(precision)
        place = locate(path, (self.FILE,), revision, "file")
        file = place / self.FILE if place.is_dir() else place
        if place.is_dir():
            require(place, path, (self.FILE,), "give the file with the weights", revision)
        weights = {name: t for name, t in self._weights(file).items() if name not in NOT_PARAMETERS}
        network = build_network(weights, path)
        words = _tokenizer(tokenizer)
        if len(words) != network.text.config.vocab_size:
            raise UnusableModel(
                f"tokenizer '{tokenizer}' has {len(words)} tokens, the text tower of '{path}' "
                f"{network.text.config.vocab_size}; give the tokenizer that the model was trained with"
            )
        preprocess = Preprocess(image_settings(network.size, BICUBIC))
        config: Any = network.text.config
        super().__init__(
            network.to(dtype), path, config.projection_dim, config.max_position_embeddings, config.vocab_size,
            preprocess, words, cuda_graph,
        )  # fmt: skip

    def _weights(self, file: Path) -> dict[str, Tensor]:
        return tensors_of(read_tensors(file), str(file))

    def _embed_pixels(self, pixels: Tensor) -> Tensor:
        network: Any = self.network
        embedding: Tensor = network.visual(pixels)
        return embedding

    def _embed_tokens(self, tokens: Mapping[str, Tensor]) -> Tensor:
        network: Any = self.network
        embedding: Tensor = network.text(**tokens).text_embeds
        return embedding


class LIV(CLIPResNet):
    """LIV (Ma et al. 2023, arXiv 2306.00958), the paper's own model: CLIP's RN50 trained further on robot videos.

    Args:
        path: the file ``model.pt`` or a ``snapshot.pt`` of its fine-tuning, a folder with ``model.pt``, or a name on
            the Hub.
        tokenizer: a folder with the files of a CLIP tokenizer, or a name on the Hub.
        precision: of the network's arithmetic; embeddings are float32 either way.
        cuda_graph: on a GPU, replay the image tower as a CUDA graph.
        revision: branch, tag or commit of a name on the Hub.
        resize: bicubic, antialiased and rounded, as CLIP's image processor; or bilinear and neither, as LIV's code
            resizes tensors, which is what the published FuRL used.
    """

    FILE: ClassVar[str] = "model.pt"
    PREFIXES: ClassVar[tuple[str, ...]] = ("module.model.", "model.")
    """LIV's file keeps the wrappers that it was trained in; a snapshot of its fine-tuning one less."""

    def __init__(
        self,
        path: str = "jasonyma/LIV",
        tokenizer: str = OPENAI_TOKENIZER,
        precision: Precision = "float32",
        cuda_graph: bool = True,
        revision: str | None = None,
        resize: Resize = "bicubic",
    ) -> None:
        if resize not in get_args(Resize):
            raise BadInput(f"resize must be {' or '.join(get_args(Resize))}, not '{resize}'")
        super().__init__(path, tokenizer, precision, cuda_graph, revision)
        if resize == "bilinear":
            network: Any = self.network
            self._preprocess = TensorPreprocess(image_settings(network.size, BILINEAR))

    def _weights(self, file: Path) -> dict[str, Tensor]:
        contents = read_tensors(file)
        if "liv" not in contents:
            raise UnusableModel(f"'{file}' has no entry 'liv', so it is no LIV; load OpenAI's CLIP with CLIPResNet")
        weights = tensors_of(contents["liv"], str(file))
        for prefix in self.PREFIXES:
            if any(name.startswith(prefix) for name in weights):
                return {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
        raise UnusableModel(
            f"the names in '{file}' begin neither with {' nor with '.join(self.PREFIXES)}, so it is no LIV; "
            "load OpenAI's CLIP with CLIPResNet"
        )


def image_settings(size: int, resample: int) -> dict[str, Any]:
    """CLIP's, for pictures of size x size; ``resample`` is PIL's number of a filter."""
    return {
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "do_center_crop": True,
        "resample": resample,
        "rescale_factor": 1 / 255,
        "image_mean": MEAN,
        "image_std": STD,
    }


class ResNetCLIP(nn.Module):
    """Both towers, and the temperature that the contrastive training learned.

    Args:
        visual: the image tower.
        size: of its pictures.
        text: the text tower.
    """

    def __init__(self, visual: ModifiedResNet, size: int, text: CLIPTextModelWithProjection) -> None:
        super().__init__()
        self.visual, self.size, self.text = visual, size, text
        self.logit_scale = nn.Parameter(torch.zeros(()))


def build_network(weights: Mapping[str, Tensor], name: str) -> ResNetCLIP:
    """The network with these weights, which have OpenAI's names, in float32; sizes are read off the tensors.

    Raises:
        UnusableModel: tensors are missing or left over, or their shapes do not fit together.
    """
    if "visual.conv1.weight" in weights and "visual.attnpool.positional_embedding" not in weights:
        raise UnusableModel(
            f"'{name}' is no CLIP with a ResNet, or its attention pool is missing; "
            "load a CLIP with a vision transformer with CLIP, in transformers' format"
        )
    try:
        blocks = [_count(weights, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)]
        side = round((len(weights["visual.attnpool.positional_embedding"]) - 1) ** 0.5)
        text_width, outputs = weights["text_projection"].shape
        vocabulary = len(weights["token_embedding.weight"])
        stem = len(weights["visual.conv3.weight"])
        context = len(weights["positional_embedding"])
        layers = _count(weights, r"transformer\.resblocks\.(\d+)\.")
    except (KeyError, ValueError, TypeError) as error:
        raise UnusableModel(f"'{name}' lacks {error}, so it is no whole CLIP with OpenAI's parameter names") from error
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=text_width,
        intermediate_size=4 * text_width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, text_width // 64),
        max_position_embeddings=context,
        projection_dim=outputs,
        hidden_act="quick_gelu",
        # A text ends with the last entry of OpenAI's vocabulary; its embedding is read off there.
        eos_token_id=vocabulary - 1,
        bos_token_id=vocabulary - 2,
        pad_token_id=vocabulary - 1,
    )
    visual = ModifiedResNet(blocks, stem, 32 * side, outputs)
    network = ResNetCLIP(visual, 32 * side, CLIPTextModelWithProjection(config))
    ours = renamed(weights)
    initial = network.state_dict()
    lacking = sorted(key for key in initial if key not in ours and not key.endswith("num_batches_tracked"))
    if lacking:
        rest = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise UnusableModel(f"the weights of '{name}' are incomplete: they lack {lacking[0]}{rest}")
    for key, tensor in ours.items():
        if key not in initial:
            raise UnusableModel(f"'{name}' has a tensor that no CLIP with a ResNet has: {key}")
        if tensor.shape != initial[key].shape:
            raise UnusableModel(
                f"{key} of '{name}' is {list(tensor.shape)}, but by the other tensors it must be "
                f"{list(initial[key].shape)}"
            )
    network.load_state_dict({key: tensor.float() for key, tensor in ours.items()}, strict=False)
    return network


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's names and layout of the text tower as the transformers library's; other names are kept.

    A block's query, key and value are one matrix there, [3 * width, width]; the projection is
    applied from the right, so that it is transposed here.
    """
    names = {
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "ln_final.weight": "text_model.final_layer_norm.weight",
        "ln_final.bias": "text_model.final_layer_norm.bias",
    }
    parts = {
        "attn.out_proj": "self_attn.out_proj",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    result: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        block = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)", name)
        if name in names:
            result[f"text.{names[name]}"] = tensor
        elif name == "text_projection":
            result["text.text_projection.weight"] = tensor.T
        elif block:
            number, part, kind = block.groups()
            layer = f"text.text_model.encoder.layers.{number}"
            if part == "attn.in_proj":
                for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                    result[f"{layer}.self_attn.{letter}_proj.{kind}"] = third
            else:
                result[f"{layer}.{parts.get(part, part)}.{kind}"] = tensor
        else:
            result[name] = tensor
    return result


def read_tensors(file: Path) -> dict[str, Any]:
    """Contents of a weights file, read without running any code that it may hold.

    Raises:
        UnusableModel: the file is broken, or holds more than tensors and plain values.
    """
    if file.suffix == ".safetensors":
        try:
            return dict(safetensors.torch.load_file(file))
        except Exception as error:  # safetensors' own errors
            raise UnusableModel(f"'{file}' cannot be read: {first_line(error)}") from error
    if _is_torchscript(file):
        raise UnusableModel(
            f"'{file}' is a TorchScript archive, which holds code; where you trust it, make a file of tensors of it: "
            f"python -c \"import torch; torch.save(torch.jit.load('{file}', 'cpu').state_dict(), 'weights.pt')\""
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats, before it refuses or reads them
            contents = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnusableModel(
            f"'{file}' is damaged or holds more than tensors; what could run code is not opened"
        ) from error
    except Exception as error:  # a broken archive raises RuntimeError, EOFError, KeyError ...
        raise UnusableModel(f"'{file}' cannot be read: {first_line(error)}") from error
    if not isinstance(contents, dict):
        raise UnusableModel(f"'{file}' holds a {type(contents).__name__} in place of tensors by name")
    return contents


def tensors_of(contents: Any, name: str) -> dict[str, Tensor]:
    """The same dict, checked to hold nothing but tensors.

    Raises:
        UnusableModel: it is no dict of tensors.
    """
    if not isinstance(contents, dict):
        raise UnusableModel(f"'{name}' holds a {type(contents).__name__} in place of tensors by name")
    for key, value in contents.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UnusableModel(f"entry '{key}' of '{name}' is no tensor but a {type(value).__name__}")
    return contents


def _is_torchscript(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _tokenizer(path: str) -> Any:
    folder = locate(path, TOKENIZER_FILES, kind="tokenizer folder")
    if folder.is_file():
        raise UnusableModel(f"tokenizer '{path}' is a file; give the folder that holds it")
    require(folder, path, ("tokenizer.json", "vocab.json"), "give a CLIP tokenizer's folder")
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise UnusableModel(f"tokenizer '{path}' cannot be read: {first_line(error)}") from error


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """How many blocks there are, counted from 0, whose number is the pattern's group.

    Raises:
        KeyError: none, or not all up to the last; names the first that is missing.
    """
    numbers = {int(match.group(1)) for name in weights if (match := re.match(pattern, name))}
    for number in range(max(numbers, default=0) + 1):
        if number not in numbers:
            raise KeyError(pattern.replace(r"(\d+)", str(number)).replace("\\", "") + "*")
    return len(numbers)
