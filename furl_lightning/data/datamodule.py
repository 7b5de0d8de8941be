"""The data module: a collector's rollouts -> frames embedded -> replay buffer and success memory -> batches."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from tensordict import TensorDictBase
from torch import Tensor

from furl_lightning.agents.encoder import FrameStack
from furl_lightning.data.collection import Collection, CollectionSettings, LearnerThreads
from furl_lightning.data.experience import EpisodeOutcome, Experience
from furl_lightning.data.goal_images import embed_goal_images, goal_images, read_goal_images, save_goal_images
from furl_lightning.data.policy import exploration_policy
from furl_lightning.data.schedule import CheckpointSettings, EvaluationSettings
from furl_lightning.envs.examination import Sizes, can_be_replayed, sizes_of, with_sizes
from furl_lightning.envs.population import PopulationEnv
from furl_lightning.envs.rendering import is_used
from furl_lightning.envs.settings import EnvSettings
from furl_lightning.envs.simulators import sentences, task_names
from furl_lightning.method.goal_distance import GoalDistanceReward
from furl_lightning.method.learner import Batch, Learner
from furl_lightning.method.success_memory import MemorySettings
from furl_lightning.pictures import FRAME_SIZE, RenderQuality
from furl_lightning.randomness import Randomness, global_states, seed_global, set_global_states
from furl_lightning.replay.buffer import FIELDS, ReplaySettings
from furl_lightning.tasks import METAWORLD, Agent
from furl_lightning.utils.errors import BadInput
from furl_lightning.vlm import VLM
from furl_lightning.vlm.prompts import Prompt, check_prompt


class Iteration(NamedTuple):
    """One turn of the loop: environment steps have been collected, and it is the learner's turn."""

    env_steps: int  # per agent, since the run began
    actions_to_learn: int  # per agent, that updates are to be made for now
    episode: EpisodeOutcome | None  # where one has just ended


class FuRLDataModule(LightningDataModule):
    """Collects with the learner's policies, embeds frames, stores transitions, draws batches.

    Args:
        tasks: the simulator's tasks, or sets of Meta-World's (mt10, mt25, mt50); the population is tasks x seeds.
        seeds: one agent per task and seed.
        env_steps: length of the run, in environment steps per agent.
        prompts: by task name: a sentence in place of the task's own, or a list of several to be averaged.
        goal_image: align with the expert's first-success frame until the agent's own first success; null:
            wherever there are heads to align.
        goal_images: by task name: a picture of the task done, in place of the expert's frame, for all the task's
            agents: {reach: done.png}. PNG, JPEG, WebP or BMP, square, of the size that is drawn or larger, which is
            resized (bicubic); the right way round, and mirrored like frames where they are. The run keeps its
            embedding: to resume, the file is not needed.
        env: the environments.
        collection: how they are stepped.
        replay: the replay buffer.
        memory: the success memory.
        evaluation: when the policies are evaluated.
        checkpoints: when the run is saved.

    Raises:
        BadInput: a value that cannot be.
    """

    def __init__(
        self,
        tasks: str | list[str] = "mt10",
        seeds: list[int] = [0],  # noqa: B006 (read only; shown as a list in --help)
        env_steps: int = 1_000_000,
        prompts: dict[str, Prompt] | None = None,
        goal_image: bool | None = None,
        goal_images: dict[str, str] | None = None,
        env: EnvSettings = EnvSettings(),
        collection: CollectionSettings = CollectionSettings(),
        replay: ReplaySettings = ReplaySettings(),
        memory: MemorySettings = MemorySettings(),
        evaluation: EvaluationSettings = EvaluationSettings(),
        checkpoints: CheckpointSettings = CheckpointSettings(),
    ) -> None:
        super().__init__()
        if env_steps < 1:
            raise BadInput(f"data.env_steps must be at least 1, not {env_steps}")
        collection.refuse_partial_iterations(env.episode_steps, env_steps, env.action_repeat)
        for part in (replay, memory):
            if part.size < env.episode_actions:
                raise BadInput(
                    f"{part.option}.size must hold an episode of {env.episode_actions} steps, not {part.size}"
                )
        self.agents = population(tasks, seeds, env.simulator)
        self.instructions = instructions(self.agents, prompts or {}, sentences(env.simulator))
        self.env_steps_total, self.goal_image = env_steps, goal_image
        self.goal_files = goal_images or {}
        """The user's goal images by task; read when a run begins."""
        refuse_goal_files(self.goal_files, goal_image, self.agents)
        self.env_settings, self.collection_settings = env, collection
        self.replay_settings, self.memory_settings = replay, memory
        self.evaluation, self.checkpoints = evaluation, checkpoints
        self.simulators = env.simulators(frames=True)
        """What all simulators have in common; without a picture where the method has no use for one."""

        self.can_be_replayed = True
        """Whether an episode can be played again from its seed and actions, so that a run can resume within it."""
        self.randomness = Randomness(self.agents)
        self.env_steps = 0
        """Environment steps made so far, per agent."""
        self.goal_embedding: Tensor | None = None
        """The goal images' embeddings, [A, D]; NaN for an agent that has none."""
        self.goal_images: dict[int, np.ndarray] = {}
        """Those that were made when this run began, uint8 [size, size, 3], by place; none in a run that goes on."""
        self._given_images: dict[str, np.ndarray] | None = None
        self.run_folder: Path | None = None
        """Where the run lies on disk, if it does."""
        self.restored_from: Path | None = None
        """The folder of the checkpoint that the run resumes from, if it does."""
        self._collection: Collection | None = None
        self._restored: dict[str, Any] | None = None
        self._seconds = {"step": 0.0, "render": 0.0, "embed": 0.0}

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of each iteration."""
        return self.collection_settings.iteration_steps(self.action_repeat)

    @property
    def action_repeat(self) -> int:
        """Environment steps of each action."""
        return self.env_settings.action_repeat

    @property
    def episode_steps(self) -> int:
        """Length of every episode."""
        return self.env_settings.episode_steps

    @property
    def pixel_size(self) -> int | None:
        """Side of the frames that policies see; None where they see states."""
        return self.env_settings.pixel_size if self.env_settings.obs == "pixels" else None

    @property
    def evaluation_episodes(self) -> int:
        """Episodes an evaluation, for each agent."""
        return self.evaluation.episodes or (1 if self.env_settings.goal == "fixed" else 10)

    def frame_stack(self) -> FrameStack | None:
        """What a policy that sees pixels needs to see them; one for each policy."""
        return None if self.pixel_size is None else FrameStack()

    # -- the environments, before any is made for training

    def draw(self, frames: bool, auto: RenderQuality = "fast", light_size: int = FRAME_SIZE) -> None:
        """Say what is drawn, as :meth:`EnvSettings.simulators` has it; environments tell their sizes now.

        Raises:
            BadInput: they cannot be made like this.
        """
        simulators = self.env_settings.simulators(frames, auto, light_size)
        self.simulators = with_sizes(simulators, self._sizes)

    @cached_property
    def _sizes(self) -> dict[str, Sizes]:
        env = self.env_settings
        return sizes_of(env.simulator, env.options, [agent.task for agent in self.agents])

    @property
    def draws_with_gl(self) -> bool:
        """Whether OpenGL draws the frames; of other environments than Meta-World that shows when they are examined."""
        return self.simulators.render is not None and (self.simulators.simulator == METAWORLD or is_used())

    def examine(self) -> None:
        """Play a short episode of each task: whether it keeps the contract, and whether it can be replayed.

        Raises:
            BadInput: an environment does not keep the contract.
        """
        self.can_be_replayed = can_be_replayed(self.simulators, [agent.task for agent in self.agents])

    def read_goal_images(self) -> None:
        """Read the user's goal images, for a run that begins.

        Raises:
            BadInput: one cannot be used.
        """
        self._given_images = read_goal_images(self.goal_files, self.simulators)

    # -- the pieces, made when training begins

    def connect(self, learner: Learner, vlm: VLM | None) -> None:
        """Make environments, collector, replay buffer and memory for a learner; a restored run's go on."""
        self._vlm, device = vlm, learner.device
        if self.goal_image:
            assert vlm is not None
            if self.goal_embedding is None:
                if self._given_images is None:
                    self.read_goal_images()
                self.goal_images = goal_images(self.agents, self.simulators, self._given_images or {})
                self.goal_embedding = embed_goal_images(vlm, self.goal_images, len(self.agents))
                if self.run_folder is not None:
                    save_goal_images(self.goal_images, self.agents, self.run_folder / "goals")
            self.goal_embedding = self.goal_embedding.to(device)
            if isinstance(learner.reward, GoalDistanceReward):
                learner.reward.aim(self.goal_embedding)
        self.experience = self._make_experience(learner, vlm)
        if self.goal_embedding is not None:
            self.experience.with_goal = (~self.goal_embedding[:, 0].isnan()).nonzero().flatten().tolist()
        random_actions = self.collection_settings.start_steps // self.action_repeat
        policy = exploration_policy(learner, self.randomness, random_actions, self.frame_stack())
        policy.noise_beta, policy.episode_steps = self.collection_settings.noise_beta, self.episode_steps
        env = PopulationEnv(
            self.agents,
            self.simulators,
            self.collection_settings.num_workers,
            self.env_settings.reward,
            self.pixel_size,
            self.collection_settings.worker_timeout,
        )
        restored, self._restored = self._restored, None
        self._threads = LearnerThreads(self.collection_settings, device)
        self._collection = Collection(env, policy, self.collection_settings, self.action_repeat)
        if restored is None:
            seed_global(self.agents)
        else:
            self._resume(restored)
            set_global_states(restored["global_randomness"])

    def _make_experience(self, learner: Learner, vlm: VLM | None) -> Experience:
        """Rings for what the learner's method needs, and no more."""
        absent = {"embedding"} if vlm is None else set()
        if not self.goal_image:
            absent.add("goal_distance")
        fields = [name for name in FIELDS if name not in absent]
        if self.pixel_size is not None:
            fields = [*(name for name in fields if "observation" not in name), "frame"]
        counts_positives = learner.relay is not None and learner.relay.settings.counts == "positives"
        width = vlm.width if vlm is not None and learner.heads is not None else 0
        replay_folder, actions = None, self.env_settings.episode_actions
        if self.replay_settings.storage == "disk":
            replay_folder = (self.run_folder or Path(tempfile.mkdtemp())) / "replay"
        return Experience(
            len(self.agents),
            actions,
            max(actions, min(self.replay_settings.size, self.env_steps_total // self.action_repeat)),
            fields,
            self.replay_settings,
            self.memory_settings,
            width if width or counts_positives else None,
            learner.device,
            replay_folder,
            self.run_folder / "checkpoints" if self.run_folder is not None else None,
        )

    # -- the loop

    def train_dataloader(self) -> _Iterations:
        """One item per iteration until ``env_steps`` have been made."""
        return _Iterations(self)

    def iterate(self) -> Iterator[Iteration]:
        """Collect, embed and store, one iteration at a time."""
        assert self._collection is not None, "not connected to a learner yet"
        while self.env_steps < self.env_steps_total:
            self._store(self._collection.rollout())
            episode = self.experience.end_episode()
            if episode is None:
                self._collection.go_on(more=self.env_steps < self.env_steps_total)
            learns = self.env_steps > self.collection_settings.start_steps
            yield Iteration(self.env_steps, self._collection.actions if learns else 0, episode)

    def _store(self, rollout: TensorDictBase) -> None:
        """Embed a rollout [A, T] in one call and append it."""
        after = rollout["next"]
        steps = {
            "observation": rollout["observation"],
            "action": rollout["action"],
            "next_observation": after["observation"],
            "reward": after["reward"].squeeze(-1),
            "terminated": after["terminated"].squeeze(-1),
        }
        if self._vlm is not None:
            started = perf_counter()
            embedding = self._vlm.encode_images(after["pixels"].flatten(0, 1)).unflatten(0, rollout.batch_size)
            self._seconds["embed"] += perf_counter() - started
            steps["embedding"] = embedding.half()
            if self.goal_embedding is not None:
                steps["goal_distance"] = (embedding - self.goal_embedding[:, None]).norm(dim=-1)
        first_frame = None
        if self.pixel_size is not None:
            steps["frame"], first_frame = after["frame"], rollout["frame"][:, 0]
        self.experience.add(steps, after["success"].squeeze(-1), first_frame)
        self.env_steps += rollout.batch_size[1] * self.action_repeat

    def sample(self) -> Batch:
        """Draw one update's batch from the agents' ``learning`` streams."""
        return self.experience.sample(self.randomness.learning)

    def take_seconds(self) -> dict[str, float]:
        """Time spent by part since the last call.

        ``collect`` is the wait for the collector, which covers acting, stepping and rendering;
        ``step`` and ``render`` are summed over the simulators, so that with workers they can exceed it.
        """
        assert self._collection is not None
        seconds = {**self._seconds, **self._collection.env.take_seconds(), "collect": self._collection.seconds}
        self._seconds, self._collection.seconds = dict.fromkeys(self._seconds, 0.0), 0.0
        return seconds

    # -- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Counters and random states; small. With the rings it restores the data module exactly."""
        if self._collection is None:
            return {}
        collection = self._collection.state_dict()
        return {
            "env_steps": self.env_steps,
            "randomness": self.randomness.state_dict() | collection.pop("randomness"),
            "global_randomness": global_states(),
            "goal_embedding": self.goal_embedding.cpu() if self.goal_embedding is not None else None,
            **collection,
            **self.experience.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave; used when :meth:`connect` makes the pieces."""
        if not state:
            return
        self.randomness.load_state_dict(state["randomness"])
        self.goal_embedding = state["goal_embedding"]
        self._restored = state

    def _resume(self, state: dict[str, Any]) -> None:
        assert self._collection is not None
        self.env_steps = state["env_steps"]
        self.experience.load_state_dict(state, self.restored_from)
        taken = self.env_steps % self.episode_steps // self.action_repeat  # actions of this episode
        if taken and not self.can_be_replayed:
            raise BadInput(
                f"the checkpoint was saved at step {self.env_steps:,}, within an episode, which these environments "
                "cannot play again from its seed and actions; go on from one between two episodes"
            )
        policy, pixels = self._collection.policy, self.experience.pixels
        if taken and pixels is not None:
            assert policy.stack is not None
            number = torch.full((len(self.agents), 1), pixels.steps_written - 1)
            policy.stack.frames = pixels.stacks(number)[:, 0, :-1].cpu()  # before the newest, still to be shown
        replay = self.experience.replay
        actions = (
            replay.last(taken, "action").cpu()
            if taken
            else torch.empty(0, len(self.agents), self.simulators.action_dim)
        )
        self._collection.load_state_dict(state, self.env_steps // self.action_repeat, actions)

    def teardown(self, stage: str) -> None:
        """End the workers and free the renderers."""
        if self._collection is not None:
            self._collection.close()
            self._threads.close()
            self.experience.close()
            self._collection = None

    def on_exception(self, exception: BaseException) -> None:
        """End the workers where Lightning skips :meth:`teardown`."""
        self.teardown("fit")


class _Iterations:
    """What Lightning iterates over; its length is known, so that Lightning does not prefetch."""

    def __init__(self, data: FuRLDataModule) -> None:
        self.data = data

    def __len__(self) -> int:
        left = self.data.env_steps_total - self.data.env_steps
        return max(0, left // self.data.steps_per_iteration)

    def __iter__(self) -> Iterator[Iteration]:
        return self.data.iterate()


def population(tasks: str | list[str], seeds: list[int], simulator: str = METAWORLD) -> list[Agent]:
    """The agents of tasks x seeds.

    Raises:
        BadInput: no such task or simulator, or seeds that are none, negative, or given twice.
    """
    if not seeds:
        raise BadInput("data.seeds is empty; give at least one, e.g. [0]")
    if min(seeds) < 0:
        raise BadInput(f"data.seeds must not be negative, but has {min(seeds)}")
    if len(set(seeds)) < len(seeds):
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        raise BadInput(f"data.seeds has {', '.join(map(str, twice))} twice; each agent needs a seed of its own")
    return [Agent(task, seed) for task in task_names(simulator, tasks) for seed in seeds]


def refuse_goal_files(files: dict[str, str], goal_image: bool | None, agents: list[Agent]) -> None:
    """Check ``data.goal_images`` against the other settings.

    Raises:
        BadInput: there are to be no goal images, or nobody has the task of one.
    """
    if files and goal_image is False:
        raise BadInput(
            "data.goal_images are of no use with data.goal_image false: leave one of them out, or set it true"
        )
    refuse_other_tasks("data.goal_images", files, agents)


def refuse_other_tasks(option: str, by_task: Mapping[str, Any], agents: list[Agent]) -> None:
    """Check the tasks that a setting is given for.

    Raises:
        BadInput: no agent has one of them.
    """
    names = list(dict.fromkeys(agent.task for agent in agents))
    unknown = sorted(set(by_task) - set(names))
    if unknown:
        raise BadInput(f"{option} names {', '.join(unknown)}, not among data.tasks: {', '.join(names)}")


def instructions(agents: list[Agent], prompts: dict[str, Prompt], own: dict[str, str]) -> list[Prompt]:
    """Each agent's instruction: the task's own, or the prompt for it.

    Raises:
        BadInput: a prompt for a task that nobody has, or one without a sentence, or a task that has neither.
    """
    names = list(dict.fromkeys(agent.task for agent in agents))
    refuse_other_tasks("data.prompts", prompts, agents)
    for name, prompt in prompts.items():
        check_prompt(prompt, f"data.prompts.{name}")
    by_task: dict[str, Prompt] = {**own, **prompts}
    silent = [name for name in names if name not in by_task]
    if silent:
        raise BadInput(f"data.prompts must have a sentence for {', '.join(silent)}, which brings none of its own")
    return [by_task[agent.task] for agent in agents]
