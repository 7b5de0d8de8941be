"""``furl-export``: one agent's policy as ONNX or as a PyTorch program, with its contract beside it, and compared."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from furl_lightning.commands.arguments import answer, parse, parser
from furl_lightning.training.contract import contract
from furl_lightning.training.policies import Policies, Policy
from furl_lightning.training.recording import record
from furl_lightning.training.saved_settings import refuse_foreign_simulator
from furl_lightning.utils.durable import write_file
from furl_lightning.utils.errors import BadInput
from furl_lightning.utils.places import refuse_unwritable

TOLERANCE = 1e-5
"""Greatest difference of an entry of an action from PyTorch's."""
STEPS = 100
"""Recorded observations that are compared."""
NEEDS = ("onnx", "onnxscript", "onnxruntime")

Run = Callable[[np.ndarray], np.ndarray]


def export(argv: Sequence[str] | None = None) -> int:
    """``furl-export``; returns the exit status."""
    return answer("furl-export", _export, argv)


def _export(argv: list[str]) -> int:
    options = parser("furl-export", "Write the policy of one agent as ONNX (.onnx) or as a PyTorch program (.pt2).")
    options.add_argument("--ckpt_path", type=str, required=True, help="A checkpoint, or a run's folder for its last.")
    options.add_argument("--task", type=str | None, default=None, help="The agent's task, where there are several.")
    options.add_argument("--seed", type=int | None, default=None, help="The agent's seed, where there are several.")
    options.add_argument(
        "--out", type=str, required=True, help="policy.onnx, or policy.pt2; policy.json goes beside it."
    )
    options.add_argument(
        "--simulator", type=str | None, default=None, help="The run's data.env.simulator, if your own."
    )
    options.add_argument("--overwrite", action="store_true", help="Replace files that are there.")
    arguments = parse(options, argv)
    out = Path(arguments.out)
    beside = out.with_suffix(".json")
    if out.suffix not in WRITERS:
        raise BadInput(f"--out must end in {' or '.join(WRITERS)}, not '{out.suffix}'")
    if out.suffix == ".onnx" and (missing := [name for name in NEEDS if not importlib.util.find_spec(name)]):
        raise BadInput(f"for ONNX, {', '.join(missing)} must be there: pip install furl_lightning[export]")
    refuse_unwritable(out.parent, "--out")
    for path in (out, beside):
        if path.exists() and not (arguments.overwrite and path.is_file()):
            raise BadInput(f"{path} is there already; name another with --out, or give --overwrite")
    policy = Policies(Path(arguments.ckpt_path)).find(arguments.task, arguments.seed)
    refuse_foreign_simulator(policy.simulators, Path(arguments.ckpt_path), arguments.simulator)

    observations = record(policy, STEPS)
    contents, run = WRITERS[out.suffix](policy, observations)
    difference = max(
        float(np.abs(run(batch) - policy(batch)).max()) for batch in (observations, observations[:1])
    )  # of several and of one
    if not difference <= TOLERANCE:
        raise RuntimeError(f"actions differ by {difference:.2g}, which is more than {TOLERANCE:g}; nothing is written")
    compared = {"observations": len(observations), "largest_difference": difference, "tolerance": TOLERANCE}
    text = json.dumps({**contract(policy), "compared_with_pytorch": compared}, indent=1) + "\n"
    write_file(out, lambda part: part.write_bytes(contents))
    write_file(beside, lambda part: part.write_text(text))
    print(f"{policy}: on {len(observations)} recorded observations the actions differ by at most {difference:.1e}")
    for path in (out, beside):
        print(f"written: {path}")
    return 0


def _onnx(policy: Policy, observations: np.ndarray) -> tuple[bytes, Run]:
    import onnxruntime

    name = contract(policy)["observation"]["name"]
    _quiet()
    program = torch.onnx.export(
        policy.network,
        (_example(observations),),
        input_names=[name],
        output_names=["action"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    contents = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(contents, providers=["CPUExecutionProvider"])
    return contents, lambda batch: session.run(["action"], {name: batch})[0]


def _pt2(policy: Policy, observations: np.ndarray) -> tuple[bytes, Run]:
    _quiet()
    program = torch.export.export(
        policy.network, (_example(observations),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    module = torch.export.load(file).module()
    return file.getvalue(), lambda batch: module(torch.from_numpy(batch)).detach().numpy()


WRITERS: dict[str, Callable[[Policy, np.ndarray], tuple[bytes, Run]]] = {".onnx": _onnx, ".pt2": _pt2}


def _example(observations: np.ndarray) -> Tensor:
    """A batch of two: one of one would be taken for a constant."""
    return torch.from_numpy(observations[[0, -1]])


def _quiet() -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="torch.onnx.*")
    warnings.filterwarnings("ignore", module="onnxscript.*")
