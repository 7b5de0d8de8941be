"""How VLMs' distances to the goal image order episodes, side by side: ``python scripts/distance_table.py``.

Prints, as Markdown, a table for fixed and one for random goals: for every task the rank correlation of closeness to
the goal image and Meta-World's dense reward, on noisy experts' and on random episodes, and the means. By default the
package's model stands beside the one that it had before. On MT10 about twenty minutes of two cores.
"""

from __future__ import annotations

import argparse
import sys
from typing import get_args

import torch

from furl_lightning.analysis.goal_distance import goal_distances
from furl_lightning.analysis.tables import goal_distance_table
from furl_lightning.envs.simulator import GoalMode
from furl_lightning.tasks import task_names
from furl_lightning.utils.construct import import_class
from furl_lightning.utils.errors import BadInput


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Rank correlation of closeness to the goal image and dense reward.")
    parser.add_argument("--tasks", nargs="+", default=["mt10"], help="tasks or sets")
    vlms = ["furl_lightning.vlm.EmbeddedCLIP", "furl_lightning.vlm.Embedded"]
    parser.add_argument("--vlms", nargs="+", default=vlms, help="import paths of classes that need no arguments")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the placements")
    parser.add_argument("--goals", nargs="+", choices=get_args(GoalMode), default=get_args(GoalMode))
    parser.add_argument("--processes", type=int, default=2, help="that play and draw")
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        tasks = task_names(args.tasks)
    except BadInput as error:
        sys.exit(str(error))
    models = [import_class(path)() for path in args.vlms]
    for path, vlm in zip(args.vlms, models, strict=True):
        print(f"{path}: {vlm.render} pictures, fingerprint {vlm.fingerprint[:16]}")
    for goal in args.goals:
        distances = goal_distances(models, tasks, args.seeds, goal, args.processes)
        names = [path.rpartition(".")[2] for path in args.vlms]
        table = goal_distance_table(dict(zip(names, distances, strict=True)))
        print(f"\n{goal} goals, seeds {', '.join(map(str, args.seeds))}\n\n{table.markdown()}", flush=True)


if __name__ == "__main__":
    main()
