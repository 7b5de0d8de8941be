"""The data module: collector -> frames embedded -> replay buffer and success memory -> batches."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import LightningDataModule
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.collectors import Collector

from furl_lightning.agents.encoder import SMALLEST, FrameStack, draw_shifts, random_shift
from furl_lightning.data.policy import ExplorationPolicy, RelayPolicy, SoloPolicy
from furl_lightning.envs.fleet import SimulatorSettings
from furl_lightning.envs.metaworld import MetaWorldEnv, RewardKind
from furl_lightning.envs.rendering import FRAME_SIZE, RenderQuality
from furl_lightning.envs.simulator import GoalMode, first_success_frame
from furl_lightning.method.success_memory import LagRule, SuccessMemory
from furl_lightning.randomness import Randomness, global_states, seed_global, set_global_states
from furl_lightning.replay.buffer import FIELDS, Replay
from furl_lightning.replay.journal import Journal
from furl_lightning.replay.pixel_buffer import PixelReplay
from furl_lightning.replay.successful_episodes import SuccessfulEpisodes
from furl_lightning.tasks import EPISODE_STEPS, INSTRUCTIONS, Agent, task_names
from furl_lightning.training.learner import Learner
from furl_lightning.vlm.prompts import Prompt, sentences_of

ReplayStorage = Literal["memory", "disk"]
ObservationKind = Literal["state", "pixels"]
T = TypeVar("T")

logging.getLogger("torchrl").setLevel(logging.WARNING)  # it announces every storage that it allocates


class Episode(NamedTuple):
    """What became of every agent's episode, each [A]."""

    success: Tensor  # bool, at the last step
    success_any: Tensor  # bool, at any step
    returns: Tensor  # sum of the task reward


class Iteration(NamedTuple):
    """One turn of the loop: ``steps_per_iteration`` environment steps have been collected."""

    env_steps: int  # per agent, since the run began
    updates: int  # to be made now
    episode: Episode | None  # where one has just ended


@dataclass
class Batch:
    """What one update of the learner needs."""

    transitions: dict[str, Tensor]  # [A, B, ...], the replay buffer's fields in float32
    success_agents: list[int]  # the K agents past their first success
    triples: Tensor | None  # theirs, [K, 3, B, D]: positives, lags, negatives
    goal_agents: list[int]  # those before it that have a goal image


class FuRLDataModule(LightningDataModule):
    """Collects with the relay policy, embeds frames, stores transitions, draws batches.

    Args:
        tasks: Meta-World tasks or sets of them (mt10, mt25, mt50); the population is tasks x seeds.
        seeds: one agent per task and seed.
        env_steps: length of the run, in environment steps per agent.
        start_steps: steps of uniform random actions at the beginning, without updates.
        goal: fixed: placed once from the seed, goal hidden; random: placed anew at each reset, goal observed.
        obs: what policies see: state, or pixels, the last three frames (DrQ).
        pixel_size: side of the frames that policies see.
        goal_image: align with the expert's first-success frame until the agent's own first success; null:
            wherever there are heads to align.
        reward: task reward: sparse (success - 1) or dense (Meta-World's own).
        prompts: by task name: a sentence in place of the catalogue's, or a list of several to be averaged.
        render: fast (no shadows, reflections, multisampling) or full (the simulator's own picture).
        mirror: feed the VLM the mirror image, as the published code does.
        bgr: feed the VLM channels in BGR order, as the published code does.
        num_workers: processes that host the environments; 0 hosts them in the training process.
        steps_per_iteration: environment steps collected before as many updates are made; divides 500.
        updates_per_step: updates of everything for each environment step.
        overlap: collect the next steps_per_iteration steps while the updates of the last are made; policies
            then act with parameters from before those updates. Needs num_workers; a learner on the CPU
            takes the cores that they leave, at least one (OMP_NUM_THREADS overrides).
        batch_size: transitions drawn for each agent and update.
        success_share: share of each batch that is drawn from episodes with a success, once there is one.
        replay_size: transitions kept for each agent.
        replay_storage: memory: on the learner's device; disk: in the run's folder, for a buffer larger than memory.
        memory_size: frames in each ring of the success memory, for each agent.
        gap: frames between a positive and its lag.
        lag_rule: ring: the lag is gap places back in the ring; published: the authors' faulty place.
        eval_every: environment steps between evaluations; there is one at the end too.
        eval_episodes: episodes an evaluation; 0 stands for 1 with fixed and 10 with random goals.
        save_every: environment steps between checkpoints; there is one at the beginning and at the end too.
        save_top_k: newest checkpoints that are kept, at least 2.
    """

    def __init__(
        self,
        tasks: str | list[str] = "mt10",
        seeds: list[int] = [0],  # noqa: B006 (read only; shown as a list in --help)
        env_steps: int = 1_000_000,
        start_steps: int = 10_000,
        goal: GoalMode = "fixed",
        obs: ObservationKind = "state",
        pixel_size: int = 84,
        goal_image: bool | None = None,
        reward: RewardKind = "sparse",
        prompts: dict[str, Prompt] | None = None,
        render: RenderQuality = "fast",
        mirror: bool = False,
        bgr: bool = False,
        num_workers: int = 0,
        steps_per_iteration: int = 1,
        updates_per_step: int = 1,
        overlap: bool = False,
        batch_size: int = 256,
        success_share: float = 0.0,
        replay_size: int = 500_000,
        replay_storage: ReplayStorage = "memory",
        memory_size: int = 20_000,
        gap: int = 10,
        lag_rule: LagRule = "ring",
        eval_every: int = 100_000,
        eval_episodes: int = 0,
        save_every: int = 10_000,
        save_top_k: int = 2,
    ) -> None:
        super().__init__()
        positive = dict(
            env_steps=env_steps, steps_per_iteration=steps_per_iteration, updates_per_step=updates_per_step,
            batch_size=batch_size, replay_size=replay_size, memory_size=memory_size, gap=gap, eval_every=eval_every,
            save_every=save_every,
        )  # fmt: skip
        for name, value in positive.items():
            if value < 1:
                raise ValueError(f"data.{name} must be at least 1, not {value}")
        for name, value in dict(start_steps=start_steps, num_workers=num_workers, eval_episodes=eval_episodes).items():
            if value < 0:
                raise ValueError(f"data.{name} must not be negative, but is {value}")
        if overlap and not num_workers:
            raise ValueError("data.overlap true needs data.num_workers of at least 1; set that, or data.overlap false")
        if save_top_k < 2:
            raise ValueError(f"data.save_top_k must be at least 2, not {save_top_k}: one to fall back on")
        if not 0 <= success_share < 1:
            raise ValueError(f"data.success_share must be at least 0 and below 1, not {success_share}")
        if EPISODE_STEPS % steps_per_iteration:
            near = min(_divisors(EPISODE_STEPS), key=lambda d: abs(d - steps_per_iteration))
            raise ValueError(
                f"data.steps_per_iteration must divide an episode's {EPISODE_STEPS} steps; "
                f"the nearest to {steps_per_iteration} is {near}"
            )
        for name, value in dict(env_steps=env_steps, start_steps=start_steps).items():
            if value % steps_per_iteration:
                raise ValueError(
                    f"data.{name} must be a multiple of data.steps_per_iteration ({steps_per_iteration}), not {value}; "
                    f"the next is {-(-value // steps_per_iteration) * steps_per_iteration}"
                )
        for name, value in dict(replay_size=replay_size, memory_size=memory_size).items():
            if value < EPISODE_STEPS:
                raise ValueError(f"data.{name} must hold an episode of {EPISODE_STEPS} steps, not {value}")
        if not SMALLEST <= pixel_size <= FRAME_SIZE:
            raise ValueError(
                f"data.pixel_size must be from {SMALLEST}, which the encoder needs, to {FRAME_SIZE}, the size of "
                f"data.render's picture, not {pixel_size}"
            )
        if not seeds:
            raise ValueError("data.seeds is empty; give at least one, e.g. [0]")
        if min(seeds) < 0:
            raise ValueError(f"data.seeds must not be negative, but has {min(seeds)}")
        if len(set(seeds)) < len(seeds):
            twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
            raise ValueError(f"data.seeds has {', '.join(map(str, twice))} twice; each agent needs a seed of its own")
        names = task_names(tasks)
        self.agents = [Agent(task, seed) for task in names for seed in seeds]
        unknown = sorted(set(prompts or {}) - set(names))
        if unknown:
            raise ValueError(f"data.prompts names {', '.join(unknown)}, not among data.tasks: {', '.join(names)}")
        for name, prompt in (prompts or {}).items():
            if not prompt or not all(sentence.strip() for sentence in sentences_of(prompt)):
                raise ValueError(f"data.prompts has an empty sentence for {name}; write what the robot is to do")
        chosen: dict[str, Prompt] = {**INSTRUCTIONS, **(prompts or {})}
        self.instructions = [chosen[agent.task] for agent in self.agents]
        self.env_steps_total, self.start_steps = env_steps, start_steps
        self.goal, self.goal_image, self.reward_kind = goal, goal_image, reward
        self.num_workers = num_workers
        self.steps_per_iteration, self.batch_size = steps_per_iteration, batch_size
        self.updates_per_step, self.overlap, self.success_share = updates_per_step, overlap, success_share
        self.replay_size, self.replay_storage = replay_size, replay_storage
        self.replay_capacity = max(EPISODE_STEPS, min(replay_size, env_steps))
        self.memory_size, self.gap, self.lag_rule = memory_size, gap, lag_rule
        self.eval_every, self.save_every, self.save_top_k = eval_every, save_every, save_top_k
        self.eval_episodes = eval_episodes or (1 if goal == "fixed" else 10)
        self.settings = SimulatorSettings(goal, render, mirror, bgr)
        self.frame_size = pixel_size if obs == "pixels" else None
        """Side of the frames that policies see; None where they see states."""

        self.randomness = Randomness(self.agents)
        self.env_steps = 0
        """Environment steps made so far, per agent."""
        self.goal_embedding: Tensor | None = None
        self._with_goal: list[int] = []
        self._seconds = dict.fromkeys(("step", "render", "embed", "collect"), 0.0)
        self.run_folder: Path | None = None
        """Where the run lies on disk, if it does."""
        self.restored_from: Path | None = None
        """The folder of the checkpoint that the run resumes from, if it does."""
        self._env: MetaWorldEnv | None = None
        self._collector: Any = None
        self._collecting: Executor = _Here()
        self._ahead: Future[TensorDictBase] | None = None
        """The next steps, on their way."""
        self._threads: int | None = None
        """The number of threads that there was before training, where training takes another."""
        self._actors_taken = False
        """Whether the actors for the next steps are those from before the updates of the last."""
        self._restored: dict[str, Any] | None = None

    # -- the pieces, made when training begins

    def prepare_for(self, module: Learner) -> None:
        """Leave out what the module's method does not use.

        Raises:
            ValueError: a setting contradicts one of the module's; both are named.
        """
        aligned = module.reward_source == "aligned"
        if self.goal_image and not aligned:
            raise ValueError(
                f"data.goal_image true is for heads to align with, but model.reward {module.reward_source} has none; "
                "set data.goal_image false or model.reward aligned"
            )
        if self.goal_image is None:
            self.goal_image = aligned
        largest = module.vlm.image_size if module.vlm is not None else None
        if self.frame_size is not None and largest is not None and self.frame_size > largest:
            raise ValueError(
                f"data.pixel_size {self.frame_size} is more than model.vlm sees ({largest}): the VLM is to have the "
                "larger picture; set a smaller data.pixel_size or name another VLM"
            )
        if module.vlm is None and self.frame_size is None:
            self.settings = replace(self.settings, render=None)

    def connect(self, module: Learner) -> None:
        """Make environments, collector, replay buffer and memory around the module's policies."""
        self._module = module
        device, num = module.device, len(self.agents)
        self.journal = Journal(self.run_folder / "checkpoints" if self.run_folder else None)
        kind = Replay if self.frame_size is None else PixelReplay
        self.replay = kind(self.replay_capacity, device, self._fields(module), folder=self._replay_folder())
        counting = module.relaying and module.relay_counts == "positives"
        self.remembers = module.trains_heads or counting
        """Whether there is a success memory."""
        self.memory = SuccessMemory(
            num if self.remembers else 0,
            self.memory_size,
            module.vlm.width if module.vlm is not None and module.trains_heads else 0,
            self.gap,
            self.lag_rule,
            device=device,
        )
        self.successful = SuccessfulEpisodes(num, self.replay_capacity) if self.success_share else None
        self._success_steps = torch.zeros(num, dtype=torch.int64)
        if self.goal_image:
            if self.goal_embedding is None:
                self.goal_embedding = self._embed_goals(module)
            self._with_goal = (~self.goal_embedding[:, 0].isnan()).nonzero().flatten().tolist()
            self.goal_embedding = self.goal_embedding.to(device)
        self._env = MetaWorldEnv(self.agents, self.settings, self.num_workers, self.reward_kind, self.frame_size)
        self.policy = self._policy(module)
        self._success = torch.zeros(EPISODE_STEPS, num, dtype=torch.bool)
        self._returns = torch.zeros(num)
        restored, self._restored = self._restored, None
        if restored is not None:
            self._resume(restored)
        self._collector = Collector(
            self._env,
            self.policy,
            frames_per_batch=num * self.steps_per_iteration,
            total_frames=-1,
            use_buffers=False,
            return_same_td=True,
            trust_policy=True,
            track_traj_ids=False,
            split_trajs=False,
            auto_register_policy_transforms=False,
        )
        if self.overlap:
            self._collecting = ThreadPoolExecutor(1, "collector")
            if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
                self._threads = torch.get_num_threads()
                torch.set_num_threads(max(1, self._threads - self.num_workers))
        if restored is None:
            seed_global(self.agents)
        else:
            set_global_states(restored["global_randomness"])

    def _replay_folder(self) -> Path | None:
        if self.replay_storage == "memory":
            return None
        return (self.run_folder or Path(tempfile.mkdtemp())) / "replay"

    def _fields(self, module: Learner) -> list[str]:
        """What the method needs of a step."""
        absent = {"embedding": module.vlm is None, "goal_distance": not self.goal_image}
        if self.frame_size is not None:
            absent |= {"observation": True, "next_observation": True}
        fields = [name for name in FIELDS if not absent.get(name)]
        return fields if self.frame_size is None else [*fields, "frame"]

    def frame_stack(self) -> FrameStack | None:
        """What a policy that sees pixels needs to see them; one for each policy."""
        return None if self.frame_size is None else FrameStack()

    def _policy(self, module: Learner) -> ExplorationPolicy:
        if module.relay is None:
            noise = module.sac_noise if module.vlm_agent is None else 0.0
            return SoloPolicy(module.evaluated_agent, self.randomness, self.start_steps, noise, self.frame_stack())
        assert module.vlm_agent is not None and module.sac_agent is not None
        return RelayPolicy(
            module.vlm_agent,
            module.sac_agent,
            module.relay,
            self.randomness,
            self.start_steps,
            module.sac_noise,
            self.frame_stack(),
        )

    def _embed_goals(self, module: Learner) -> Tensor:
        """The goal images' embeddings [A, D]; NaN where the expert fails.

        The images are left as PNG in the run's folder, to be looked at.
        """
        assert module.vlm is not None
        embedding = torch.full((len(self.agents), module.vlm.width), math.nan)
        frames: dict[int, np.ndarray] = {}
        for i, agent in enumerate(self.agents):
            s = self.settings
            assert s.render is not None
            frame = first_success_frame(agent.task, agent.seed, s.goal, s.render, s.mirror, s.bgr)
            if frame is None:
                logging.getLogger(__name__).warning(
                    "the scripted expert fails on %s: no goal image, so no alignment before its first success", agent
                )
                continue
            frames[i] = frame
            if self.run_folder is not None:
                folder = self.run_folder / "goals"
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(frame).save(folder / f"{agent.task}-{agent.seed}.png")
        if frames:
            embedding[list(frames)] = module.vlm.encode_images(torch.from_numpy(np.stack(list(frames.values())))).cpu()
        return embedding

    # -- the loop

    def train_dataloader(self) -> _Iterations:
        """One item per iteration until ``env_steps`` have been made."""
        assert self.trainer is not None
        self.connect(self.trainer.lightning_module)  # type: ignore[arg-type]
        return _Iterations(self)

    def iterate(self) -> Iterator[Iteration]:
        """Collect, embed and store, one iteration at a time.

        Iteration k yields with the agents as they are after the updates of k - 1. The policies act with
        the agents of the moment when the collection begins: with ``overlap``, before iteration k's
        updates for the steps of k + 1, except for an episode's first steps, which wait for them, so
        that an episode's end finds nothing on its way.
        """
        collected = iter(self._collector)
        while self.env_steps < self.env_steps_total:
            started = perf_counter()
            if self._ahead is None:
                if not self._actors_taken:
                    self.policy.refresh()
                self._ahead = self._collecting.submit(next, collected)
            rollout, self._ahead, self._actors_taken = self._ahead.result(), None, False
            embedding_seconds = self._store(rollout)
            self._seconds["embed"] += embedding_seconds
            self._seconds["collect"] += perf_counter() - started - embedding_seconds
            updates = self.steps_per_iteration * self.updates_per_step if self.env_steps > self.start_steps else 0
            episode = self._end_episode()
            if self.overlap and episode is None:
                self.policy.refresh()
                self._actors_taken = True
                if self.env_steps < self.env_steps_total:
                    self._exploration = self.randomness.state_dict(["exploration"])
                    self._ahead = self._collecting.submit(next, collected)
            yield Iteration(self.env_steps, updates, episode)

    def _store(self, rollout: TensorDictBase) -> float:
        """Embed a rollout [A, T] in one call and append it; returns the seconds spent embedding."""
        following = rollout["next"]
        num, length = rollout.batch_size
        steps = {
            "observation": rollout["observation"],
            "action": rollout["action"],
            "next_observation": following["observation"],
            "reward": following["reward"].squeeze(-1),
            "terminated": following["terminated"].squeeze(-1),
        }
        seconds = 0.0
        if self._module.vlm is not None:
            started = perf_counter()
            embedding = self._module.vlm.encode_images(following["pixels"].flatten(0, 1)).unflatten(0, (num, length))
            seconds = perf_counter() - started
            steps["embedding"] = embedding.half()
            if self.goal_embedding is not None:
                steps["goal_distance"] = (embedding - self.goal_embedding[:, None]).norm(dim=-1)
        begun = self.env_steps % EPISODE_STEPS
        if isinstance(self.replay, PixelReplay):
            steps["frame"] = following["frame"]
            if not begun:
                self.replay.begin_episode(rollout["frame"][:, 0])
        fields = {name: steps[name].transpose(0, 1) for name in self.replay.fields}
        self.replay.extend(TensorDict(fields, [length, num]))
        self._success[begun : begun + length] = following["success"].squeeze(-1).T
        self._returns += following["reward"].sum((1, 2))
        assert self._env is not None
        for part, spent in self._env.take_seconds().items():
            self._seconds[part] += spent
        self.env_steps += length
        return seconds

    def _end_episode(self) -> Episode | None:
        """If an episode has just ended: fill what remembers successes and let the relay look at it."""
        if self.env_steps % EPISODE_STEPS:
            return None
        if self.remembers:
            embedding = self.replay.last(EPISODE_STEPS, "embedding")[..., : self.memory.width]  # [500, A, D]
            for i in range(len(self.agents)):
                self.memory.add_episode(i, embedding[:, i], self._success[:, i])
        if self.successful is not None:
            self.successful.add(self._success.any(0))
        self._success_steps += self._success.sum(0)
        if self._module.relay is not None:
            by_positives = self._module.relay_counts == "positives"
            self._module.relay.retire(self.memory.positives if by_positives else self._success_steps)
        episode = Episode(self._success[-1].clone(), self._success.any(0), self._returns.clone())
        self._returns.zero_()
        return episode

    def sample(self) -> Batch:
        """Draw one update's batch from the agents' ``learning`` streams."""
        generators = self.randomness.learning
        number = self.replay.draw(self.batch_size, generators)
        if self.successful is not None:
            count = round(self.success_share * self.batch_size)
            self.successful.replace(number, count, self.replay.first_drawable, generators)
        transitions = self.replay.at(number)
        if "embedding" in transitions:
            transitions["embedding"] = transitions["embedding"].float()
        if "frames" in transitions:
            frames = transitions.pop("frames")
            shift = draw_shifts(generators, 2, self.batch_size)
            transitions["observation"] = random_shift(frames[:, :, :-1], shift[:, 0])
            transitions["next_observation"] = random_shift(frames[:, :, 1:], shift[:, 1])
        transitions["discount"] = 1.0 - transitions.pop("terminated").float()
        agents = self.memory.drawable.nonzero().flatten().tolist() if self._module.trains_heads else []
        triples = self.memory.draw(agents, self.batch_size, generators) if agents else None
        goal_agents = [i for i in self._with_goal if i not in agents]
        return Batch(transitions, agents, triples, goal_agents)

    def take_seconds(self) -> dict[str, float]:
        """Time spent by part since the last call.

        ``collect`` is the wait for the collector, which covers acting, stepping and rendering;
        ``step`` and ``render`` are summed over the simulators, so that with workers they can exceed it.
        """
        taken, self._seconds = self._seconds, dict.fromkeys(self._seconds, 0.0)
        return taken

    # -- checkpoints: the rings' contents go to files of their own, see checkpoint.py

    def state_dict(self) -> dict[str, Any]:
        """Counters and random states; small. With the rings it restores the data module exactly."""
        if self._env is None:
            return {}
        return {
            "env_steps": self.env_steps,
            "randomness": self.randomness.state_dict() | (self._exploration if self._ahead is not None else {}),
            "acting": self.policy.acting_state() if self._actors_taken else None,
            "global_randomness": global_states(),
            "environment": self._env.snapshot(),
            "goal_embedding": self.goal_embedding.cpu() if self.goal_embedding is not None else None,
            "memory": self.memory.counters(),
            "success_steps": self._success_steps,
            "successful": self.successful.state_dict() if self.successful is not None else None,
            "journal": self.journal.entries,
            "returns": self._returns,
            "success": self._success,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave; used when :meth:`connect` makes the pieces."""
        if not state:
            return
        self.randomness.load_state_dict(state["randomness"])
        self.goal_embedding = state["goal_embedding"]
        self._restored = state

    def _resume(self, state: dict[str, Any]) -> None:
        assert self._env is not None
        self.env_steps = state["env_steps"]
        self.policy.env_steps = self.env_steps
        self._actors_taken = self.overlap and state["acting"] is not None
        if self._actors_taken:
            self.policy.load_acting_state(state["acting"])
        self.memory.load_counters(state["memory"])
        self._success_steps.copy_(state["success_steps"])
        if self.successful is not None:
            self.successful.load_state_dict(state["successful"])
        self.journal.restore(state["journal"], self.restored_from, self.replay, self.memory)
        self._returns.copy_(state["returns"])
        self._success.copy_(state["success"])
        begun = self.env_steps % EPISODE_STEPS
        if begun and isinstance(self.replay, PixelReplay):
            assert self.policy.stack is not None
            number = torch.full((len(self.agents), 1), self.replay.steps_written - 1)
            self.policy.stack.frames = self.replay.stacks(number)[
                :, 0, :-1
            ].cpu()  # before the newest, still to be shown
        actions = self.replay.last(begun, "action").cpu() if begun else torch.empty(0, len(self.agents), 4)
        self._env.restore(state["environment"], actions)

    def teardown(self, stage: str) -> None:
        """End the workers and free the renderers."""
        if self._env is not None:
            self._collecting.shutdown()  # waits for steps that are on their way
            if self._threads is not None:
                torch.set_num_threads(self._threads)
            if self._collector is not None:
                self._collector.shutdown()
            self._env.close(raise_if_closed=False)
            self._env = self._collector = None
            self.replay.close()

    def on_exception(self, exception: BaseException) -> None:
        """End the workers where Lightning skips :meth:`teardown`."""
        self.teardown("fit")


class _Here(Executor):
    """Does what it is given at once, in the thread that gives it: an OpenGL context belongs to one thread."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Its result, in a future that has come."""
        future: Future[T] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class _Iterations:
    """What Lightning iterates over; its length is known, so that Lightning does not prefetch."""

    def __init__(self, data: FuRLDataModule) -> None:
        self.data = data

    def __len__(self) -> int:
        left = self.data.env_steps_total - self.data.env_steps
        return max(0, left // self.data.steps_per_iteration)

    def __iter__(self) -> Iterator[Iteration]:
        return self.data.iterate()


def _divisors(number: int) -> Sequence[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
