"""bfloat16 where the processor or GPU has no instructions for it: measured on the device, before a run."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Any

import torch
from jsonargparse import Namespace

from furl_lightning.utils.errors import BadInput
from furl_lightning.vlm import VLM

SLOW = 1.5
"""From this many times float32's time on bfloat16 counts as slow. With instructions for it, it takes about half."""


def refuse_slow_bfloat16(config: Namespace, device: torch.device) -> None:
    """Refuse a configuration of ``furl-fit`` that asks for bfloat16 where it is slow; its VLM need not be loaded.

    Raises:
        BadInput: it is slow on the device, and ``allow_slow_bfloat16`` is not set.
    """
    if config.allow_slow_bfloat16:
        return
    vlm: Any = (config.model.vlm or {}).get("init_args") or {}
    for option, value, instead in (
        ("trainer.precision", config.trainer.precision, "32-true"),
        ("model.vlm.precision", vlm.get("precision"), "float32"),
    ):
        if value in ("bf16-mixed", "bfloat16") and (slow := slow_bfloat16(device)):
            raise BadInput(
                f"{option} {value} is slow here: {slow}; give --{option} {instead}, "
                "or --allow_slow_bfloat16 true to have it all the same"
            )


def warn_of_slow_bfloat16(vlm: VLM | None) -> None:
    """Say so where a VLM computes in bfloat16 on a device that is slow at it."""
    if vlm is None or all(weight.dtype != torch.bfloat16 for weight in vlm.network.parameters()):
        return
    if slow := slow_bfloat16(vlm.device):
        logging.getLogger(__name__).warning("the VLM's precision is bfloat16, which is slow here: %s", slow)


def slow_bfloat16(device: torch.device) -> str | None:
    """The speeds of both precisions in words where bfloat16 is slow on a device, else None."""
    exact, rounded = speeds(device)
    if exact < SLOW * rounded:
        return None
    name = "a core of this processor" if device.type == "cpu" else f"this {device.type} device"
    return f"{name} multiplies matrices of float32 at {exact:.3g} GFLOP/s, of bfloat16 at {rounded:.3g}"


def speeds(device: torch.device) -> tuple[float, float]:
    """Of four products of square matrices in float32 and in bfloat16, in GFLOP/s; takes 5 to 300 milliseconds.

    The best of ten, in turns and on one thread of a processor: a busy machine must not look like a slow one.
    """
    on_cpu = device.type == "cpu"
    side = 128 if on_cpu else 2048  # a GPU takes no time for small ones
    seconds: dict[torch.dtype, float] = dict.fromkeys([torch.float32, torch.bfloat16], float("inf"))
    matrices = {dtype: torch.ones(4, side, side, dtype=dtype, device=device) for dtype in seconds}
    threads = torch.get_num_threads()
    if on_cpu:
        torch.set_num_threads(1)
    try:
        for dtype, matrix in [*matrices.items()] * 10:
            started = perf_counter()
            torch.matmul(matrix, matrix)
            if not on_cpu:
                torch.accelerator.synchronize(device)
            seconds[dtype] = min(seconds[dtype], perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    exact, rounded = (8 * side**3 / 1e9 / best for best in seconds.values())
    return exact, rounded
