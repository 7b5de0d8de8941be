"""Train the embedded vision-language model: ``python scripts/train_embedded_vlm.py --out FOLDER``.

Two stages: ``data`` renders episodes of the forty tasks outside MT10, but for the tasks that the
cache holds already; ``train`` fits a small CLIP to the frames and their captions with CLIP's symmetric
contrastive loss, in which every caption that holds for a frame counts as its positive.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from embedded_vlm_captions import GENERIC, NUM_STAGES, captions, find_scale, stages
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from furl_lightning.envs.episodes import Manner, record
from furl_lightning.tasks import INSTRUCTIONS, TASK_SETS

TRAINING_TASKS = TASK_SETS["mt50"][10:]
"""The tasks outside MT10; of MT10 no frame is ever trained on."""
FIRST_SEED = 10_000
"""Of the training episodes; the seeds below it are for measuring."""
SIZE = 128
"""Height and width that frames are kept in; the model looks at the centre of them."""
CROP = 120
CONTEXT = 32
PLAN: tuple[tuple[Manner, int, int], ...] = (
    ("expert", 9, 3),
    ("noisy", 5, 4),
    ("interrupted", 4, 4),
    ("halted", 1, 8),
    ("random", 2, 8),
)
"""Episodes of each training task: manner, how many, environment steps between frames."""


def make_data(folder: Path, processes: int) -> None:
    """Render the episodes of every training task into ``folder``, a file a task; skips what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(task, folder / f"{task}.npz") for task in TRAINING_TASKS if not (folder / f"{task}.npz").exists()]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for done, task in enumerate(pool.imap_unordered(_make_task, wanted), 1):
            print(f"data {done}/{len(wanted)}: {task}", flush=True)


def _make_task(wanted: tuple[str, Path]) -> str:
    torch.set_num_threads(1)
    task, path = wanted
    columns: dict[str, list[np.ndarray]] = {}
    seed = FIRST_SEED
    for manner, count, every in PLAN:
        for _ in range(count):
            episode = record(task, seed, "fixed" if seed % 2 else "random", manner, every, SIZE)
            length = len(episode.frames)
            extra = {"episode": np.full(length, seed - FIRST_SEED), "expert": np.full(length, manner == "expert")}
            for name, values in {**vars(episode), **extra}.items():
                columns.setdefault(name, []).append(values)
            seed += 1
    temporary = path.with_suffix(f".{os.getpid()}.tmp.npz")
    whole: dict[str, Any] = {name: np.concatenate(values) for name, values in columns.items()}
    np.savez(temporary, **whole)
    temporary.rename(path)
    return task


@dataclass
class Frames:
    """All training frames, F of them, with what their captions are made of."""

    pixels: np.ndarray  # uint8 [F, size, size, 3]
    task: np.ndarray  # int64 [F], index into TRAINING_TASKS
    stage: np.ndarray  # int64 [F]
    state: Tensor  # float32 [F, 11], standardised: hand, object, goal, opening, share of the way
    pairs: list[tuple[int, int]]  # first frame and first success of the experts' episodes
    by_stage: list[list[np.ndarray]]  # of each task, of each of its stages: the frames


def load_frames(folder: Path) -> Frames:
    """Read what :func:`make_data` wrote."""
    pixels, tasks, found_stages, states = [], [], [], []
    pairs: list[tuple[int, int]] = []
    by_stage: list[list[np.ndarray]] = []
    offset = 0
    for index, task in enumerate(TRAINING_TASKS):
        path = folder / f"{task}.npz"
        if not path.exists():
            raise ValueError(f"{path} is missing; run --stage data with the same --cache first")
        with np.load(path) as file:
            column = {name: file[name] for name in file.files}
        away = np.linalg.norm(column["hand"] - column["object"], axis=1)
        episodes = [np.flatnonzero(column["episode"] == number) for number in np.unique(column["episode"])]
        firsts = [
            (int(rows[0]), int(rows[column["success"][rows].argmax()]))
            for rows in episodes
            if column["expert"][rows[0]] and column["success"][rows].any()
        ]
        expert = column["expert"].astype(bool)
        scale = find_scale(away[expert], column["to_target"], np.array([last for _, last in firsts]))
        sorted_rows = [stages(scale, away[r], column["to_target"][r], column["success"][r]) for r in episodes]
        stage = np.concatenate([found for found, _ in sorted_rows])
        share = np.concatenate([found for _, found in sorted_rows])
        by_stage.append([offset + np.flatnonzero(stage == s) for s in range(NUM_STAGES) if (stage == s).any()])
        pairs += [(offset + first, offset + last) for first, last in firsts]
        places = [column["hand"], column["object"], column["goal"]]
        states.append(np.column_stack([*places, column["opening"], share]).astype(np.float32))
        pixels.append(column["frames"])
        tasks.append(np.full(len(stage), index))
        found_stages.append(stage)
        offset += len(stage)
    state = torch.from_numpy(np.concatenate(states))
    state = (state - state.mean(0)) / state.std(0)
    return Frames(np.concatenate(pixels), np.concatenate(tasks), np.concatenate(found_stages), state, pairs, by_stage)


class CaptionTable:
    """Which caption holds for which task and stage, and with what weight."""

    def __init__(self) -> None:
        of_task = [captions(task) | GENERIC for task in TRAINING_TASKS]
        self.texts = list(dict.fromkeys(text for table in of_task for text in table))
        column = {text: number for number, text in enumerate(self.texts)}
        self.weight = torch.zeros(len(TRAINING_TASKS), NUM_STAGES, len(self.texts))  # [task, stage, caption]
        for task, table in enumerate(of_task):
            for text, weights in table.items():
                self.weight[task, :, column[text]] = torch.tensor(weights)


def make_tokenizer(texts: Sequence[str]) -> CLIPTokenizer:
    """CLIP's tokenizer with a small byte-level vocabulary: short on these texts, able to read any."""
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
    """A CLIP of about four million parameters, at random."""
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
def see_differences(model: CLIPModel, frames: Frames, settings: CLIPImageProcessorPil) -> None:
    """Begin with patch embeddings that show where a frame differs from the average frame, and how.

    The camera never moves: nearly all of a frame is the same in all of them, and a random start
    spends most of the training on finding that out. The embedding's filters begin as the principal
    components of the patches, and each position's vector cancels the average patch that is there.
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
    """Indices of frames without end: of a few tasks many frames, every stage as often as the next.

    So the negatives of a frame are the same scene at other stages, not just other scenes.
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
        weight: with which a text holds for an image, [B, U]; every image has one, not every text.
    """
    logits = cosine * scale
    of_image = weight / weight.sum(1, keepdim=True)
    held = weight.sum(0) > 0.2
    of_text = weight[:, held] / weight[:, held].sum(0, keepdim=True)
    image_loss = -(of_image * logits.log_softmax(1)).sum(1).mean()
    text_loss = -(of_text * logits[:, held].log_softmax(0)).sum(0).mean()
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
    """Fit the model for so many steps, or else ``minutes`` of wall-clock time, and save it to ``out``.

    With ``early`` it is saved a first time after that many minutes, or that share of ``minutes`` in steps.

    Each of the processes has batches of its own and one thread: on a busy machine two threads of
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
    see_differences(model, frames, settings)
    # Regressing the simulator's state teaches the image tower where things are; dropped afterwards.
    regress = nn.Linear(model.config.projection_dim, frames.state.shape[1])
    everything = [*model.parameters(), *regress.parameters()]
    decayed = [p for p in everything if p.ndim > 1]
    rest = [p for p in everything if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95))
    started, spent, seen = time.monotonic(), 0.0, torch.zeros(3)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    if rank == 0:
        print(f"{len(frames.task)} frames, {len(table.texts)} captions, {len(tokenizer)} tokens, ", end="")
        print(f"{size:.2f} million parameters", flush=True)
    for step, rows in enumerate(batches(frames, random, tasks=10, each=15), 1):
        lr = 1e-3 * min(1.0, step / 40) * (0.5 + 0.5 * np.cos(np.pi * spent))
        for group in optimizer.param_groups:
            group["lr"] = lr
        weight = table.weight[frames.task[rows], frames.stage[rows]]  # [B, caption]
        # Each image's texts and as many that hold for none, so that the rest of the table counts too.
        present = table.weight[np.unique(frames.task[rows])].sum((0, 1)) > 0
        chosen = present & (torch.from_numpy(random.random(len(table.texts))) < 0.5)
        chosen |= torch.from_numpy(random.random(len(table.texts))) < 0.05
        chosen |= F.one_hot(weight.argmax(1), len(table.texts)).sum(0) > 0
        texts = [table.texts[number] for number in chosen.nonzero()[:, 0]]
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            image = model.get_image_features(pixel_values=augment(frames.pixels[rows], random, settings)).pooler_output
            text = model.get_text_features(**tokens).pooler_output
        image, text = image.float(), text.float()
        cosine = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        alike = contrastive_loss(cosine, model.logit_scale.exp().clamp(max=60), weight[:, chosen])
        state = F.smooth_l1_loss(regress(image), frames.state[rows])
        optimizer.zero_grad()
        (alike + state).backward()
        done = step / steps if steps else (time.monotonic() - started) / 60 / minutes
        spent = average_gradients(everything, done)
        nn.utils.clip_grad_norm_(everything, 1.0)
        optimizer.step()
        seen += torch.tensor([1.0, alike.item(), state.item()])
        if step % 10 == 0:
            if rank == 0:
                print(
                    f"step {step}, {100 * spent:.1f} % done, contrast {seen[1] / seen[0]:.3f}, "
                    f"state {seen[2] / seen[0]:.4f}, scale {model.logit_scale.exp().item():.1f}, lr {lr:.2e}",
                    flush=True,
                )
            seen.zero_()
        if spent >= 1:
            break
        if early and spent * minutes >= early:
            if rank == 0:
                save(model, tokenizer, settings, frames, out)
            early = 2.5 * early
    if rank == 0:
        save(model, tokenizer, settings, frames, out)
    torch.distributed.destroy_process_group()


def average_gradients(parameters: Sequence[nn.Parameter], number: float) -> float:
    """Average gradients over the processes, and a number with them, so that all see the same."""
    found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([*(grad.reshape(-1) for grad in found), torch.tensor([number])])
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
    """Run the stages that the command line asks for."""
    parser = argparse.ArgumentParser(description="Train the embedded vision-language model.")
    parser.add_argument("--stage", choices=["all", "data", "train"], default="all")
    parser.add_argument("--out", type=Path, default=Path("build/embedded_vlm/model"), help="the model's folder")
    parser.add_argument("--cache", type=Path, default=Path("build/embedded_vlm"), help="for the rendered episodes")
    parser.add_argument("--minutes", type=float, default=20.0, help="wall-clock time for the training itself")
    parser.add_argument("--steps", type=int, help="train for so many steps instead, which can be repeated exactly")
    parser.add_argument("--early", type=float, default=0.0, help="also save after so many minutes; 0: at the end only")
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
        with tempfile.TemporaryDirectory() as meeting:
            settings = (args.processes, meeting, args.cache, args.out, args.minutes, args.steps, args.seed, args.early)
            spawn(train, settings, nprocs=args.processes)


if __name__ == "__main__":
    main()
