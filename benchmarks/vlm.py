"""Speed and memory of each family of vision-language models at full size, with random weights.

``python benchmarks/vlm.py`` prints the table of ``docs/vlm.md``, ``--write`` puts it there. Each row
is measured in a process of its own: a checkpoint is made, loaded as any other, and embeds frames of
the size that is drawn for it, preprocessing included.

Speed is by the process's CPU time divided among its threads, which other programs on the machine
hardly change; it is the speed of threads that have a core each and share the work evenly.
``--clock wall`` measures elapsed time, for a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForImageTextRetrieval,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.utils import logging as library_logging

from furl_lightning.envs.settings import EnvSettings, Render
from furl_lightning.envs.simulator import SimulatorSettings
from furl_lightning.vlm import BLIP, CLIP, VLM, CLIPResNet, Embedded, SigLIP
from furl_lightning.vlm.interface import Precision
from furl_lightning.vlm.resnet import ModifiedResNet

DOCS = Path(__file__).resolve().parents[1] / "docs" / "vlm.md"
MARKS = "<!-- figures: benchmarks/vlm.py --write -->", "<!-- end of figures -->"
BATCHES = (1, 10, 64)


def embedded(folder: Path, precision: Precision) -> VLM:
    """The package's own; its weights are there."""
    return Embedded(precision)


def clip(folder: Path, precision: Precision) -> VLM:
    """CLIP ViT-B/32, 224 pixels."""
    letters = [*sorted(ByteLevel.alphabet()), *(letter + "</w>" for letter in sorted(ByteLevel.alphabet()))]
    words = [*letters, "<|startoftext|>", "<|endoftext|>"]
    CLIPModel(CLIPConfig()).save_pretrained(folder)
    CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[]).save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    return CLIP(str(folder), precision)


def siglip(folder: Path, precision: Precision) -> VLM:
    """SigLIP ViT-B/16, 224 pixels."""
    SiglipModel(SiglipConfig()).save_pretrained(folder)
    Siglip2Tokenizer().save_pretrained(folder)
    SiglipImageProcessorPil().save_pretrained(folder)
    return SigLIP(str(folder), precision)


def blip(folder: Path, precision: Precision) -> VLM:
    """BLIP ViT-B/16 for retrieval, 384 pixels."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    BlipForImageTextRetrieval(BlipConfig(vision_config={"image_size": 384})).save_pretrained(folder)
    BertTokenizer(vocab={word: i for i, word in enumerate(special)}).save_pretrained(folder)
    BlipImageProcessorPil().save_pretrained(folder)
    return BLIP(str(folder), precision)


def resnet(folder: Path, precision: Precision) -> VLM:
    """CLIP's ResNet-50 as LIV is one, 224 pixels."""
    visual = ModifiedResNet([3, 4, 6, 3], 64, 224, 1024).state_dict()
    weights = {f"visual.{name}": tensor for name, tensor in visual.items()} | text_tower(512, 12, 1024)
    torch.save(weights, folder / "weights.pt")
    words = [*(f"<{i}>" for i in range(49406)), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[]).save_pretrained(folder)
    return CLIPResNet(str(folder / "weights.pt"), str(folder), precision)


def text_tower(width: int, layers: int, outputs: int) -> dict[str, Tensor]:
    """Random weights of a CLIP's text tower under OpenAI's names."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (49408, width), "positional_embedding": (77, width), "ln_final.weight": (width,),
        "ln_final.bias": (width,), "text_projection": (width, outputs), "logit_scale": (),
    }  # fmt: skip
    for layer in range(layers):
        block = {
            "attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,),
            "attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,),
            "ln_1.weight": (width,), "ln_1.bias": (width,), "ln_2.weight": (width,), "ln_2.bias": (width,),
            "mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,),
            "mlp.c_proj.weight": (width, 4 * width), "mlp.c_proj.bias": (width,),
        }  # fmt: skip
        shapes |= {f"transformer.resblocks.{layer}.{name}": shape for name, shape in block.items()}
    return {name: 0.02 * torch.randn(shape) for name, shape in shapes.items()}


Family = Callable[[Path, Precision], VLM]
FAMILIES: dict[str, tuple[str, Family]] = {
    "embedded": ("Embedded, 112 px", embedded),
    "clip": ("CLIP ViT-B/32, 224 px", clip),
    "siglip": ("SigLIP ViT-B/16, 224 px", siglip),
    "resnet": ("LIV (ResNet-50), 224 px", resnet),
    "blip": ("BLIP ViT-B/16, 384 px", blip),
}


def drawn_for(vlm: VLM, render: Render = "auto") -> SimulatorSettings:
    """The picture of a run with a VLM."""
    return EnvSettings(render=render).simulators(True, vlm.render, vlm.picture_size)


def measure(family: str, precision: Precision, seconds: float, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Frames per second and peak memory in MiB at each batch size; the best of the calls that fit in the time."""
    library_logging.disable_progress_bar()
    library_logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        vlm = FAMILIES[family][1](Path(folder), precision)
        parameters = sum(p.numel() for p in vlm.network.parameters())
        out: dict[str, list[float]] = {"frames": [], "memory": [], "parameters": [parameters / 1e6]}
        generator = torch.Generator().manual_seed(0)
        for batch in BATCHES:
            side = drawn_for(vlm).size
            frames = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8, generator=generator)
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
            beginning, times = perf_counter(), [float("inf")]
            while len(times) == 1 or perf_counter() - beginning < seconds:
                started = clock()
                vlm.encode_images(frames)
                times.append(clock() - started)
            out["frames"].append(batch / min(times))
            out["memory"].append(peak_memory())
    return out


def peak_memory() -> float:
    """The process's greatest resident memory since it was last forgotten, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def row(family: str, precision: str, options: list[str]) -> str:
    """A line of the table, measured in a process of its own."""
    argv = [sys.executable, __file__, "--one", family, precision]
    # Threads that wait for each other sleep, so that waiting is not counted as work.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.run([*argv, *options], check=True, capture_output=True, text=True, env=environment)
    figures = json.loads(process.stdout.splitlines()[-1])
    speed = " | ".join(f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in figures["frames"])
    memory = " | ".join(f"{value:.0f}" for value in figures["memory"])
    return f"| {FAMILIES[family][0]} | {figures['parameters'][0]:.1f} | {precision} | {speed} | {memory} |"


def main() -> None:
    """Measure all rows, or one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("FAMILY", "PRECISION"))
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each batch size; one call at least")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCS.name}")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        family, precision = arguments.one
        clock = perf_counter if arguments.clock == "wall" else lambda: process_time() / arguments.threads
        print(json.dumps(measure(family, precision, arguments.seconds, clock)))
        return
    options = ["--seconds", str(arguments.seconds), "--threads", str(arguments.threads), "--clock", arguments.clock]
    sizes = " | ".join(f"{what} {batch}" for what in ("frames/s,", "MiB,") for batch in BATCHES)
    table = [f"| model | million parameters | precision | {sizes} |", "|---|---|---|" + "---|" * (2 * len(BATCHES))]
    for family in arguments.families:
        for precision in ("float32", "bfloat16"):
            table.append(row(family, precision, options))
            print(table[-1], flush=True)
    if arguments.write:
        before, rest = DOCS.read_text().split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        DOCS.write_text(f"{before}{MARKS[0]}\n" + "\n".join(table) + f"\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
