"""Train the embedded vision-language model: ``python scripts/train_embedded_vlm.py --out FOLDER``.

Two stages: ``data`` renders episodes of those of the forty tasks outside MT10 that the cache lacks;
``train`` fits a small CLIP to the frames and their captions with CLIP's symmetric contrastive loss, in
which every caption that is true of a frame counts as its positive.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from embedded_vlm_captions import GENERIC, NUM_STAGES, captions
from embedded_vlm_frames import SIZE, TRAINING_TASKS, Frames, load_frames, make_data, missing_tasks
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from furl_lightning.tasks import INSTRUCTIONS

CROP = 120
"""Height and width of the pictures that the model sees."""
CONTEXT = 32
"""Tokens that a text may have."""


class CaptionTable:
    """Which caption is true of which task and stage, and with what weight."""

    def __init__(self) -> None:
        of_task = [captions(task) | GENERIC for task in TRAINING_TASKS]
        self.texts = list(dict.fromkeys(text for table in of_task for text in table))
        column = {text: number for number, text in enumerate(self.texts)}
        self.weight = torch.zeros(len(TRAINING_TASKS), NUM_STAGES, len(self.texts))  # [task, stage, caption]
        for task, table in enumerate(of_task):
            for text, weights in table.items():
                self.weight[task, :, column[text]] = torch.tensor(weights)


def make_tokenizer(texts: Sequence[str]) -> CLIPTokenizer:
    """CLIP's tokenizer with a small byte-level vocabulary: few tokens for these texts, and able to read any."""
    pattern = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = pattern.normalizer, pattern.pre_tokenizer
    trainer = BpeTrainer(vocab_size=2000, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator(texts, trainer)
    merges: Any = [(first, second) for first, second in json.loads(learner.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    tokens += ["".join(pair) for pair in merges]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT)


def make_model(vocabulary: int) -> CLIPModel:
    """A CLIP of about four million parameters with random weights."""
    tower = {"hidden_act": "gelu_pytorch_tanh", "attention_dropout": 0.0}
    return CLIPModel(
        CLIPConfig(
            vision_config={
                "image_size": CROP,
                "patch_size": 40,
                "hidden_size": 256,
                "intermediate_size": 1024,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                **tower,
            },
            text_config={
                "vocab_size": vocabulary,
                "max_position_embeddings": CONTEXT,
                "hidden_size": 128,
                "intermediate_size": 512,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "bos_token_id": 0,
                "eos_token_id": 1,
                "pad_token_id": 1,
                **tower,
            },
            projection_dim=256,
        )
    )


@torch.no_grad()
def whiten_patches(model: CLIPModel, frames: Frames, settings: CLIPImageProcessorPil) -> None:
    """Initialise the patch embeddings so that they show where a frame differs from the average frame, and how.

    The camera never moves, so that nearly all of a frame is the same in all frames; from random weights
    most of the training goes into learning that. The embedding's filters are set to the principal
    components of the patches, and each position's vector cancels the average patch there.
    """
    rows = np.random.default_rng(0).choice(len(frames.task), 2000, replace=False)
    edge = (SIZE - CROP) // 2
    x = torch.from_numpy(frames.pixels[np.sort(rows)]).permute(0, 3, 1, 2)[..., edge : edge + CROP, edge : edge + CROP]
    embeddings = model.vision_model.embeddings
    size = embeddings.patch_embedding.kernel_size[0]
    patches = F.unfold(normalise(x.float() / 255, settings), size, stride=size).transpose(1, 2)  # [N, P, 3 * size^2]
    mean = patches.mean(0)
    centred = (patches - mean).flatten(0, 1)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    values, vectors = values.flip(0), vectors.flip(1)
    width = embeddings.patch_embedding.out_channels
    filters = (vectors[:, :width] / (values[:width] + values[width // 5]).sqrt()).T  # [width, 3 * size^2]
    embeddings.patch_embedding.weight.copy_(filters.view_as(embeddings.patch_embedding.weight))
    places = embeddings.position_embedding.weight
    places.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    places[1:] -= mean @ filters.T


def batches(frames: Frames, random: np.random.Generator, tasks: int, each: int) -> Iterator[np.ndarray]:
    """Indices of frames, endlessly: many frames of a few tasks, all stages equally often.

    The negatives of a frame are so the same scene at other stages, not just other scenes.
    """
    while True:
        rows: list[int] = []
        for task in random.choice(len(frames.by_stage), tasks, replace=False):
            piles = frames.by_stage[task]
            first = random.integers(len(piles))
            rows += [int(random.choice(piles[(first + number) % len(piles)])) for number in range(each)]
        yield np.array(rows)


def augment(pixels: np.ndarray, random: np.random.Generator, settings: CLIPImageProcessorPil) -> Tensor:
    """Crop anywhere, change brightness, contrast and colour, normalise: float32 [B, 3, crop, crop]."""
    cropped = np.empty((len(pixels), CROP, CROP, 3), np.uint8)
    for row, (top, left) in enumerate(random.integers(0, SIZE - CROP + 1, (len(pixels), 2))):
        cropped[row] = pixels[row, top : top + CROP, left : left + CROP]
    x = torch.from_numpy(cropped).permute(0, 3, 1, 2).float() / 255
    gain = torch.from_numpy(random.normal(1, 0.12, (len(x), 1, 1, 1)) * random.normal(1, 0.05, (len(x), 3, 1, 1)))
    shift = torch.from_numpy(random.normal(0, 0.04, (len(x), 1, 1, 1)))
    x = (x * gain.float() + shift.float()).clamp(0, 1)
    return normalise(x, settings)


def normalise(x: Tensor, settings: CLIPImageProcessorPil) -> Tensor:
    """From [0, 1] to what the network takes, [B, 3, H, W]."""
    return (x - torch.tensor(settings.image_mean)[:, None, None]) / torch.tensor(settings.image_std)[:, None, None]


def contrastive_loss(cosine: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    """CLIP's symmetric loss with soft targets.

    Args:
        cosine: of each image and text, [B, U].
        scale: the inverse temperature.
        weight: of each text for each image, [B, U]; every image has a text, not every text an image.
    """
    logits = cosine * scale
    of_image = weight / weight.sum(1, keepdim=True)
    texts = weight.sum(0) > 0.2  # those that are true of an image
    of_text = weight[:, texts] / weight[:, texts].sum(0, keepdim=True)
    image_loss = -(of_image * logits.log_softmax(1)).sum(1).mean()
    text_loss = -(of_text * logits[:, texts].log_softmax(0)).sum(0).mean()
    return (image_loss + text_loss) / 2


def train(
    rank: int,
    processes: int,
    meeting: str,
    cache: Path,
    out: Path,
    minutes: float,
    steps: int | None,
    seed: int,
    early: float,
) -> None:
    """Fit the model for ``steps`` steps, or else ``minutes`` of wall-clock time, and save it to ``out``.

    With ``early`` it is saved a first time after that many minutes, or that share of ``minutes`` in steps.

    Every process draws its own batches and has one thread, because on a busy machine two threads of
    one process wait for each other most of the time. Gradients are averaged.
    """
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{meeting}/point", rank=rank, world_size=processes)
    frames = load_frames(cache)
    torch.manual_seed(seed)
    random = np.random.default_rng([seed, rank])
    table = CaptionTable()
    tokenizer = make_tokenizer([*table.texts, *INSTRUCTIONS.values()])
    settings = CLIPImageProcessorPil(size={"height": SIZE, "width": SIZE}, crop_size={"height": CROP, "width": CROP})
    model = make_model(len(tokenizer)).train()
    whiten_patches(model, frames, settings)
    # Regression of the simulator's state teaches the image tower where things are; it is dropped afterwards.
    regression = nn.Linear(model.config.projection_dim, frames.state.shape[1])
    parameters = [*model.parameters(), *regression.parameters()]
    matrices, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95))
    start, progress, totals = time.monotonic(), 0.0, torch.zeros(3)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    if rank == 0:
        print(f"{len(frames.task)} frames, {len(table.texts)} captions, {len(tokenizer)} tokens, ", end="")
        print(f"{size:.2f} million parameters", flush=True)
    for step, rows in enumerate(batches(frames, random, tasks=10, each=15), 1):
        lr = 1e-3 * min(1.0, step / 40) * (0.5 + 0.5 * np.cos(np.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = lr
        weight = table.weight[frames.task[rows], frames.stage[rows]]  # [B, caption]
        # The images' texts, half of those of their tasks, and a few of the rest of the table.
        of_tasks = table.weight[np.unique(frames.task[rows])].sum((0, 1)) > 0
        in_batch = of_tasks & (torch.from_numpy(random.random(len(table.texts))) < 0.5)
        in_batch |= torch.from_numpy(random.random(len(table.texts))) < 0.05
        in_batch |= F.one_hot(weight.argmax(1), len(table.texts)).sum(0) > 0
        texts = [table.texts[number] for number in in_batch.nonzero()[:, 0]]
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            image = model.get_image_features(pixel_values=augment(frames.pixels[rows], random, settings)).pooler_output
            text = model.get_text_features(**tokens).pooler_output
        image, text = image.float(), text.float()
        cosine = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        contrast = contrastive_loss(cosine, model.logit_scale.exp().clamp(max=60), weight[:, in_batch])
        state = F.smooth_l1_loss(regression(image), frames.state[rows])
        optimizer.zero_grad()
        (contrast + state).backward()
        elapsed = step / steps if steps else (time.monotonic() - start) / 60 / minutes
        progress = average_gradients(parameters, elapsed)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        totals += torch.tensor([1.0, contrast.item(), state.item()])
        if step % 10 == 0:
            if rank == 0:
                print(
                    f"step {step}, {100 * progress:.1f} % done, contrast {totals[1] / totals[0]:.3f}, "
                    f"state {totals[2] / totals[0]:.4f}, scale {model.logit_scale.exp().item():.1f}, lr {lr:.2e}",
                    flush=True,
                )
            totals.zero_()
        if progress >= 1:
            break
        if early and progress * minutes >= early:
            if rank == 0:
                save(model, tokenizer, settings, frames, out)
            early = 2.5 * early
    if rank == 0:
        save(model, tokenizer, settings, frames, out)
    torch.distributed.destroy_process_group()


def average_gradients(parameters: Sequence[nn.Parameter], number: float) -> float:
    """Average gradients over the processes, and a number with them, which is returned."""
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), torch.tensor([number])])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    pieces = flat.split([*(p.numel() for p in parameters), 1])
    for parameter, piece in zip(parameters, pieces[:-1], strict=True):
        parameter.grad = piece.view_as(parameter)
    return float(pieces[-1])


@torch.no_grad()
def save(
    model: CLIPModel, tokenizer: CLIPTokenizer, settings: CLIPImageProcessorPil, frames: Frames, out: Path
) -> None:
    """Scale the image embedding and write the model's folder in half precision.

    The scale makes the median L2 distance between the first frame and the first success of the
    experts' episodes 1, so that the reward alignment's ``l2_margin`` of 0.25 is a quarter of the way.
    """
    model.eval()
    ends = []
    for end in range(2):
        rows = np.array([pair[end] for pair in frames.pairs])
        x = torch.from_numpy(frames.pixels[rows]).permute(0, 3, 1, 2).float() / 255
        edge = (SIZE - CROP) // 2
        x = normalise(x[..., edge : edge + CROP, edge : edge + CROP], settings)
        ends.append(model.get_image_features(pixel_values=x).pooler_output)
    factor = 1 / (ends[0] - ends[1]).norm(dim=-1).median()
    scaled = CLIPModel(model.config)
    scaled.load_state_dict(model.state_dict())
    scaled.visual_projection.weight.mul_(factor)
    scaled.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    settings.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # the library leaves it readable to its owner alone
    print(f"saved to {out}, image embedding scaled by {factor:.4f}", flush=True)
    model.train()


def main() -> None:
    """Run one stage or both."""
    parser = argparse.ArgumentParser(description="Train the embedded vision-language model.")
    parser.add_argument("--stage", choices=["all", "data", "train"], default="all")
    parser.add_argument("--out", type=Path, default=Path("build/embedded_vlm/model"), help="the model's folder")
    parser.add_argument("--cache", type=Path, default=Path("build/embedded_vlm"), help="for the rendered episodes")
    parser.add_argument("--minutes", type=float, default=20.0, help="wall-clock time for the training itself")
    parser.add_argument("--steps", type=int, help="steps in place of --minutes, which can be repeated exactly")
    parser.add_argument(
        "--early", type=float, default=0.0, help="minutes after which the model is also saved; 0: at the end only"
    )
    parser.add_argument("--processes", type=int, default=2, help="for rendering and for training")
    parser.add_argument("--seed", type=int, default=0, help="of initial weights, batches and augmentation")
    args = parser.parse_args()
    if args.minutes <= 0:
        parser.error(f"--minutes must be above 0, not {args.minutes}")
    if args.steps is not None and args.steps < 1:
        parser.error(f"--steps must be at least 1, not {args.steps}")
    if args.processes < 1:
        parser.error(f"--processes must be at least 1, not {args.processes}")
    if args.stage != "train":
        make_data(args.cache, args.processes)
    if args.stage != "data":
        if missing := missing_tasks(args.cache):
            parser.error(f"{args.cache} has no episodes of {', '.join(missing)}; run --stage data first")
        with tempfile.TemporaryDirectory() as meeting:
            settings = (args.processes, meeting, args.cache, args.out, args.minutes, args.steps, args.seed, args.early)
            spawn(train, settings, nprocs=args.processes)


if __name__ == "__main__":
    main()
