"""The distance to the goal image on the scripted expert's way there: where it rises, following it leads away.

    python scripts/expert_way.py --seed 10

prints, for each task of MT10 with fixed goals: the distance at the reset, the largest before the first success, and the
share of the steps to the first success that have been made when it falls below that of the reset for good.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from furl_lightning.envs.episodes import record
from furl_lightning.envs.settings import EnvSettings
from furl_lightning.tasks import TASK_SETS
from furl_lightning.vlm import Embedded


def main() -> None:
    """Run from the command line."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--seed", type=int, default=0)
    seed = flags.parse_args().seed
    vlm = Embedded()
    settings = EnvSettings("fixed").simulators(True, vlm.render, vlm.picture_size)
    print("| task | at the reset | farthest | nearer than at the reset for good |\n|---|---|---|---|")
    for task in TASK_SETS["mt10"]:
        episode = record(task, seed, settings, "expert", every=2)
        first = episode.first_success()
        assert first is not None
        embedding = vlm.encode_images(torch.from_numpy(episode.frames[: first + 1])).float()
        distance = (embedding - embedding[-1]).norm(dim=-1).numpy()
        nearer = int(np.flatnonzero(distance >= distance[0])[-1]) + 1
        share = episode.step[nearer] / episode.step[first]
        print(f"| {task} | {distance[0]:.2f} | {distance.max():.2f} | after {share:.0%} of the way |")


if __name__ == "__main__":
    main()
