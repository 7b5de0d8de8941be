"""Make the embedded vision-language model: ``python scripts/train_embedded_vlm.py --out FOLDER``.

Two stages, each of which goes on where it was stopped: ``frames`` draws episodes of the forty tasks outside
MT10; ``train`` fits the two towers. Two losses:

- *distance*: within a scene the L2 distance of two frames' embeddings is to be the distance of what they
  show, where a frame's state is the gripper as seen from the object, the object, and (little) the opening of
  the gripper. Not the gripper's own place: on its way to an object that is to be moved it would count twice.
- *captions*: CLIP's symmetric contrastive loss, in which every caption that is true of a frame is its positive.

Two helpers, dropped afterwards: a regression of positions from the embedding, and heatmaps of gripper and object.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from embedded_vlm_captions import GENERIC, NUM_STAGES, Scale, captions, find_scale, stages
from embedded_vlm_frames import FIRST_SEED, SIZE, TRAINING_TASKS, file_names, make_frames, missing_files, pixels_of
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTokenizer

from furl_lightning.tasks import INSTRUCTIONS
from furl_lightning.utils.durable import write_file
from furl_lightning.vlm.scene_clip import SceneCLIP

CROP = 112
"""Height and width of the pictures that the model sees: the centre of a frame."""
SHIFT = 3
"""Pixels by which a scene's crop is off the centre at most, in training."""
WIDTH = 128
"""Of the embedding."""
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
CONTEXT = 32
"""Tokens that a text may have."""
TOWERS: dict[str, dict[str, Any]] = {
    "image": {"size": CROP, "width": WIDTH},
    "text": {
        "max_position_embeddings": CONTEXT,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        "projection_dim": WIDTH,
        "hidden_act": "gelu_pytorch_tanh",
    },
}
SCENES, FRAMES = 12, 14
"""Of a batch: scenes, each of another task, and frames of each."""
OPENING = 0.05
"""What the gripper's opening from 0 to 1 counts as, metres."""
UNIT = 5.0
"""Embedding distance of a metre in training; the saved model is scaled anew."""
CAPTIONS, POSITIONS, HEATMAPS = 0.1, 0.5, 0.1
"""Weights of the losses beside that of the distance, which has 1."""

SAVE_EVERY = 500
"""Steps."""
HAS_BFLOAT16 = torch.cpu._is_avx512_bf16_supported()
"""Without it float32 is faster; the models differ in little."""


@dataclass
class Frames:
    """All training frames by scene; P of them."""

    files: list[np.ndarray]  # rows as embedded_vlm_frames.FRAME has them, on disk
    task: list[int]  # of each scene, [P], an index of TRAINING_TASKS
    file: list[int]  # that it is in, [P]
    rows: list[np.ndarray]  # of that file, [P][F]
    stage: list[np.ndarray]  # of each frame, [P][F]; -1 where no caption holds
    successes: list[np.ndarray]  # the frames that show success, [P]
    by_task: dict[int, list[int]]  # the scenes of each task


def load_frames(folder: Path, parts: int, without: Sequence[str]) -> Frames:
    """Open the files of frames, pixels left on disk.

    Args:
        folder: that :func:`~embedded_vlm_frames.make_frames` wrote.
        parts: files of each task.
        without: training tasks that are left out.
    """
    frames = Frames([], [], [], [], [], [], {})
    for number, task in enumerate(TRAINING_TASKS):
        if task in without:
            continue
        files = [np.load(folder / f"{task}-{part}.npy", mmap_mode="r") for part in range(parts)]
        columns = ("hand", "object", "to_target", "success", "expert", "as_simulated", "scene", "episode")
        tables = [{name: np.array(file[name]) for name in columns} for file in files]
        whole = {name: np.concatenate([table[name] for table in tables]) for name in columns}
        scale = task_scale(whole)
        for file, table in zip(files, tables, strict=True):
            stage = np.full(len(file), -1)
            for scene in np.unique(table["scene"]):
                rows = np.flatnonzero(table["scene"] == scene)
                for episode in np.unique(table["episode"][rows]):
                    told = rows[(table["episode"][rows] == episode) & table["as_simulated"][rows]]
                    if len(told) > 1 and scale is not None:
                        away = np.linalg.norm(table["hand"][told] - table["object"][told], axis=1)
                        stage[told] = stages(scale, away, table["to_target"][told], table["success"][told])[0]
                frames.by_task.setdefault(number, []).append(len(frames.task))
                frames.task.append(number)
                frames.file.append(len(frames.files))
                frames.rows.append(rows)
                frames.stage.append(stage[rows])
                frames.successes.append(np.flatnonzero(table["success"][rows]))
            frames.files.append(file)
    return frames


def task_scale(table: dict[str, np.ndarray]) -> Scale | None:
    """What a task's distances are measured against for its captions; None where the frames do not tell.

    Args:
        table: columns of all frames of the task.
    """
    expert = table["expert"] & table["as_simulated"]
    order = np.flatnonzero(expert & table["success"])
    if not len(order):
        return None
    _, firsts = np.unique(table["scene"][order], return_index=True)
    away = np.linalg.norm(table["hand"][expert] - table["object"][expert], axis=1)
    return find_scale(away, table["to_target"], order[firsts])


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

    def batch(self, task: Tensor, stage: Tensor, random: np.random.Generator) -> tuple[list[str], Tensor]:
        """Captions for frames [B] of these tasks and stages, and their weights [B, captions].

        Those of the frames, half of the rest of their tasks', and a few of other tasks'.
        """
        weight = self.weight[task, stage]
        of_tasks = self.weight[task.unique()].sum((0, 1)) > 0
        chosen = of_tasks & (torch.from_numpy(random.random(len(self.texts))) < 0.5)
        chosen |= torch.from_numpy(random.random(len(self.texts))) < 0.05
        chosen |= F.one_hot(weight.argmax(1), len(self.texts)).sum(0) > 0
        return [self.texts[number] for number in chosen.nonzero()[:, 0]], weight[:, chosen]


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


def normalised(pixels: Tensor) -> Tensor:
    """From uint8 [B, crop, crop, 3] to what the network takes, float32 [B, 3, crop, crop]."""
    x = pixels.permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def cropped(pixels: np.ndarray, down: int = 0, right: int = 0) -> Tensor:
    """The centre of frames [B, size, size, 3], or what lies down and right of it in pixels: [B, crop, crop, 3]."""
    edge = (SIZE - CROP) // 2
    top, left = edge + down, edge + right
    return torch.from_numpy(np.ascontiguousarray(pixels[:, top : top + CROP, left : left + CROP]))


def jittered(x: Tensor, random: np.random.Generator) -> Tensor:
    """Change brightness, contrast and colour of normalised pictures [B, 3, H, W], and add noise."""
    batch = len(x)
    gain = random.normal(1, 0.08, (batch, 1, 1, 1)) * random.normal(1, 0.03, (batch, 3, 1, 1))
    shift = random.normal(0, 0.1, (batch, 1, 1, 1)) + random.normal(0, 0.03, (batch, 3, 1, 1))
    noise = random.standard_normal(tuple(x.shape), np.float32) * 0.03
    return x * torch.from_numpy(gain).float() + torch.from_numpy(shift).float() + torch.from_numpy(noise)


@dataclass
class Batch:
    """Frames of P scenes, F of each, B = P * F in all."""

    pixels: Tensor  # float32 [B, 3, crop, crop]
    hand: Tensor  # float32 [B, 3]
    thing: Tensor  # float32 [B, 3]
    opening: Tensor  # float32 [B, 1]
    seen: Tensor  # float32 [B, 2, 2]: row and column of hand and thing in the picture, 0 to 1
    task: Tensor  # int64 [B]
    stage: Tensor  # int64 [B]; -1 where no caption holds


def draw_batch(frames: Frames, random: np.random.Generator) -> Batch:
    """Scenes of different tasks; of each some frames, one of which is a success where there is one."""
    chosen_tasks = random.choice(list(frames.by_task), SCENES, replace=False)
    chosen = [int(random.choice(frames.by_task[task])) for task in chosen_tasks]
    pictures: list[Tensor] = []
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("hand", "object", "opening")}
    tasks, all_stages, shifts = [], [], []
    for scene in chosen:
        file, rows = frames.files[frames.file[scene]], frames.rows[scene]
        pick = random.choice(len(rows), FRAMES, replace=len(rows) < FRAMES)
        if len(frames.successes[scene]):
            pick[0] = random.choice(frames.successes[scene])
        down, right = random.integers(-SHIFT, SHIFT + 1, 2)
        shifts += [(down, right)] * FRAMES
        sample = file[rows[pick]]
        pictures.append(cropped(sample["pixels"], int(down), int(right)))
        for name, values in columns.items():
            values.append(sample[name])
        tasks += [frames.task[scene]] * FRAMES
        all_stages.append(frames.stage[scene][pick])
    hand, thing, opening = (torch.from_numpy(np.concatenate(values)) for values in columns.values())
    corner = np.array(shifts) + (SIZE - CROP) // 2
    seen = np.stack([(pixels_of(place.numpy()) - corner) / CROP for place in (hand, thing)], 1)
    return Batch(
        jittered(normalised(torch.cat(pictures)), random),
        hand, thing, opening[:, None], torch.from_numpy(seen).float(),
        torch.tensor(tasks), torch.from_numpy(np.concatenate(all_stages)),
    )  # fmt: skip


def distance_loss(embedding: Tensor, batch: Batch) -> Tensor:
    """How far the embeddings' distances within scenes are from the states'.

    Args:
        embedding: of the batch's frames, [B, width].
        batch: what they show.
    """
    state = torch.cat([batch.hand - batch.thing, batch.thing, OPENING * batch.opening], 1) * UNIT
    states, embeddings = state.view(SCENES, FRAMES, -1), embedding.view(SCENES, FRAMES, -1)
    first, second = torch.triu_indices(FRAMES, FRAMES, 1)
    wanted = (states[:, first] - states[:, second]).norm(dim=-1)
    distance = ((embeddings[:, first] - embeddings[:, second]).square().sum(-1) + 1e-6).sqrt()
    return F.smooth_l1_loss(distance, wanted, beta=0.1)


def heatmap_loss(logits: Tensor, seen: Tensor) -> Tensor:
    """Cross entropy of heatmaps and the places that they are to show, shared between the cells around each.

    Args:
        logits: [B, K, cells], row by row.
        seen: row and column, [B, K, 2], 0 to 1; one outside counts as at the edge.
    """
    side = round(logits.shape[-1] ** 0.5)
    place = (seen * side - 0.5).clamp(0, side - 1)[..., None]  # [B, K, 2, 1], in cells
    share = (1 - (place - torch.arange(side)).abs()).clamp(min=0)  # [B, K, 2, side]
    target = (share[:, :, 0, :, None] * share[:, :, 1, None, :]).flatten(2)
    return -(target * logits.log_softmax(-1)).sum(-1).mean()


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


class Training(nn.Module):
    """The network with all that is trained, and its losses.

    Args:
        vocabulary: tokens of the tokenizer.
        batch: whose positions' means and deviations are the regression's units.
    """

    def __init__(self, vocabulary: int, batch: Batch) -> None:
        super().__init__()
        self.network = SceneCLIP(TOWERS["image"], TOWERS["text"] | {"vocab_size": vocabulary}, normalised=True)
        self.log_scale = nn.Parameter(torch.tensor(2.6))
        positions = positions_of(batch)
        self.positions = nn.Linear(WIDTH, positions.shape[1])
        self.mean, self.std = nn.Buffer(positions.mean(0)), nn.Buffer(positions.std(0))
        self.network.image.cancel(batch.pixels.mean(0))

    def forward(self, batch: Batch, tokens: Any, weight: Tensor) -> Tensor:
        """The losses, [4]: of distance, captions, positions and heatmaps."""
        with torch.autocast("cpu", torch.bfloat16, enabled=HAS_BFLOAT16):
            image, heatmaps = self.network.image.with_heatmaps(batch.pixels)
            text = self.network.text(**tokens).text_embeds
        image, text, told = image.float(), text.float(), batch.stage >= 0
        cosine = F.normalize(image[told], dim=-1) @ F.normalize(text, dim=-1).T
        wanted = (positions_of(batch) - self.mean) / self.std
        return torch.stack(
            [
                distance_loss(image, batch),
                contrastive_loss(cosine, self.log_scale.exp().clamp(max=60), weight),
                F.smooth_l1_loss(self.positions(image), wanted),
                heatmap_loss(heatmaps[:, :2].float(), batch.seen),
            ]
        )


def positions_of(batch: Batch) -> Tensor:
    """What the regression is to find, [B, 10]."""
    return torch.cat([batch.hand, batch.thing, batch.hand - batch.thing, batch.opening], 1)


def train(settings: argparse.Namespace) -> None:
    """Take the steps that ``settings.out`` does not have yet, and save the model there.

    A step's batch follows from the seed and the step's number, so that a resumed training is the same as one that
    was not stopped.
    """
    torch.set_num_threads(settings.threads)
    frames = load_frames(settings.frames, settings.parts, settings.without)
    table = CaptionTable()
    tokenizer = make_tokenizer([*table.texts, *INSTRUCTIONS.values()])
    torch.manual_seed(settings.seed)
    training = Training(len(tokenizer), joined([draw_batch(frames, generator(settings.seed, -n)) for n in range(1, 9)]))
    matrices = [p for p in training.parameters() if p.ndim > 1]
    vectors = [p for p in training.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95))
    state, start = settings.out / "training.pt", 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        training.load_state_dict(saved["training"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
    weights = torch.tensor([1.0, CAPTIONS, POSITIONS, HEATMAPS])
    recent: list[Tensor] = []
    bar = tqdm(range(start, settings.steps), "training", initial=start, total=settings.steps, mininterval=5)
    for step in bar:
        lr = 2e-3 * min(1.0, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * step / settings.steps))
        for group in optimizer.param_groups:
            group["lr"] = lr
        random = generator(settings.seed, step)
        batch = draw_batch(frames, random)
        told = batch.stage >= 0
        texts, weight = table.batch(batch.task[told], batch.stage[told], random)
        losses = training(batch, tokenizer(texts, padding=True, return_tensors="pt"), weight)
        optimizer.zero_grad()
        (losses @ weights).backward()
        nn.utils.clip_grad_norm_(training.parameters(), 1.0)
        optimizer.step()
        recent = [*recent[-99:], losses.detach()]
        if step % 20 == 0:
            names = ("distance", "captions", "positions", "heatmaps")
            means = zip(names, torch.stack(recent).mean(0).tolist(), strict=True)
            bar.set_postfix_str(", ".join(f"{name} {mean:.3f}" for name, mean in means), refresh=False)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == settings.steps:
            save_training(state, training, optimizer, step + 1)
            save(training.network, tokenizer, frames, settings.out)


def save_training(path: Path, training: Training, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write what a training goes on from."""
    kept = {"training": training.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    write_file(path, lambda part: torch.save(kept, part))


def generator(seed: int, step: int) -> np.random.Generator:
    """The random numbers of one step; those below 0 are the beginning's."""
    return np.random.default_rng([seed, step + 1000])


def joined(batches: Sequence[Batch]) -> Batch:
    """Several batches as one."""
    return Batch(*(torch.cat([getattr(batch, field.name) for batch in batches]) for field in fields(Batch)))


@torch.no_grad()
def save(network: SceneCLIP, tokenizer: CLIPTokenizer, frames: Frames, out: Path) -> None:
    """Write the model's folder in half precision, the image embedding scaled.

    The scale makes the median L2 distance between the first frame and the first success of the
    experts' episodes 1, so that the reward alignment's ``l2_margin`` of 0.25 is a quarter of the way.
    """
    network.eval()
    image = network.image.fused()
    network.train()
    ends = [first_and_success(frames, scene) for scene in range(0, len(frames.task), 4)]
    pictures = [torch.stack(side) for side in zip(*(pair for pair in ends if pair is not None), strict=True)]
    first, success = (image(normalised(picture)) for picture in pictures)
    last = image.head[-1]
    assert isinstance(last, nn.Linear)
    factor = 1 / (first - success).norm(dim=-1).median()
    last.weight.mul_(factor)
    last.bias.mul_(factor)
    weights = {f"image.{name}": tensor.half().contiguous() for name, tensor in image.state_dict().items()}
    weights |= {f"text.{name}": tensor.half().contiguous() for name, tensor in network.text.state_dict().items()}
    write_file(out / "model.safetensors", lambda part: safetensors.torch.save_file(weights, part))
    (out / "model.safetensors").chmod(0o644)  # the library leaves it readable to its owner alone
    towers = {"image": TOWERS["image"], "text": TOWERS["text"] | {"vocab_size": len(tokenizer)}}
    side, crop = {"height": SIZE, "width": SIZE}, {"height": CROP, "width": CROP}
    preprocessing = {
        "size": side, "crop_size": crop, "do_center_crop": True, "resample": 3, "rescale_factor": 1 / 255,
        "image_mean": MEAN, "image_std": STD,
    }  # fmt: skip
    for name, content in {"config.json": towers, "preprocessor_config.json": preprocessing}.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n")
    tokenizer.save_pretrained(out)


def first_and_success(frames: Frames, scene: int) -> tuple[Tensor, Tensor] | None:
    """Pictures of a scene's beginning and of its expert's first success; None if it has none."""
    file, rows = frames.files[frames.file[scene]], frames.rows[scene]
    expert = rows[file["expert"][rows]]
    successes = expert[file["success"][expert]]
    if not len(successes):
        return None
    return cropped(file["pixels"][expert[:1]])[0], cropped(file["pixels"][successes[:1]])[0]


def data_card(settings: argparse.Namespace) -> None:
    """Write what the frames are into ``data_card.json`` in the model's folder."""
    tasks = [task for task in TRAINING_TASKS if task not in settings.without]
    files = [np.load(settings.frames / name, mmap_mode="r") for name in file_names(settings.parts, tasks)]
    card = {
        "frames": sum(len(file) for file in files),
        "size": SIZE,
        "tasks": tasks,
        "without": settings.without,
        "steps": settings.steps,
        "seed": settings.seed,
        "scenes": sum(len(np.unique(file["scene"])) for file in files),
        "first_seed": FIRST_SEED,
        "share of success": float(np.mean([file["success"].mean() for file in files])),
        "share as simulated": float(np.mean([file["as_simulated"].mean() for file in files])),
        "drawn": "light, camera corner2, the centre 192 of 256 of its view",
    }
    (settings.out / "data_card.json").write_text(json.dumps(card, indent=2) + "\n")


def main() -> None:
    """Run one stage or both."""
    parser = argparse.ArgumentParser(description="Make the embedded vision-language model.")
    parser.add_argument("--stage", choices=["all", "frames", "train"], default="all")
    parser.add_argument("--out", type=Path, default=Path("build/embedded_vlm/model"), help="the model's folder")
    parser.add_argument("--frames", type=Path, default=Path("build/embedded_vlm/frames"), help="9 GB of them")
    parser.add_argument("--parts", type=int, default=8, help="files of five placements for each task")
    parser.add_argument("--steps", type=int, default=5_000, help="of training")
    parser.add_argument("--processes", type=int, default=2, help="that draw")
    parser.add_argument("--threads", type=int, default=1, help="that train")
    parser.add_argument("--seed", type=int, default=0, help="of initial weights, batches and jitter")
    parser.add_argument("--without", nargs="*", default=[], choices=TRAINING_TASKS, metavar="TASK", help="left out")
    settings = parser.parse_args()
    for name in ("parts", "steps", "processes", "threads"):
        if getattr(settings, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(settings, name)}")
    if settings.stage != "train":
        make_frames(settings.frames, settings.parts, settings.processes)
    if settings.stage != "frames":
        if missing := missing_files(settings.frames, settings.parts):
            parser.error(f"{settings.frames} lacks {missing[0]} and {len(missing) - 1} more; run --stage frames first")
        settings.out.mkdir(parents=True, exist_ok=True)
        data_card(settings)
        train(settings)


if __name__ == "__main__":
    main()
