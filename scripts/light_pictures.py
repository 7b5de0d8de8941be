"""Frames of some tasks in light, fast and full, one under another: docs/pictures/light.png.

    python scripts/light_pictures.py --out docs/pictures/light.png

Each column is one state, halfway to the scripted expert's first success. Light is drawn at the size that the embedded
model sees and shown enlarged, pixel by pixel.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mujoco
from PIL import Image, ImageDraw, ImageFont

from furl_lightning.envs.metaworld import Expert, MetaWorld
from furl_lightning.envs.rendering import Renderer, close_gl
from furl_lightning.pictures import FRAME_SIZE, RenderQuality
from furl_lightning.tasks import EPISODE_STEPS

TASKS = ("drawer-open", "button-press-topdown", "peg-insert-side", "window-open", "reach")
SIDE = 2 * FRAME_SIZE
"""Of a picture on the sheet, pixels."""
GAP, MARGIN, TOP = 6, 96, 30


def halfway(task: str) -> MetaWorld:
    """The task as its expert has it halfway to its first success."""
    simulator, expert = MetaWorld(task, 0, show_goal=True), Expert(task)

    def play(steps: int) -> int:
        observation = simulator.reset()
        for taken in range(1, steps + 1):
            step = simulator.step(expert.action(observation))
            if step.success:
                return taken
            observation = step.observation
        return steps

    play(play(EPISODE_STEPS) // 2)  # goals are fixed: both episodes are the same
    return simulator


def main() -> None:
    """Run from the command line."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--size", type=int, default=128, help="height and width of the light picture, pixels")
    flags.add_argument("--out", type=Path, required=True)
    options = flags.parse_args()
    rows: list[tuple[RenderQuality, int]] = [("light", options.size), ("fast", FRAME_SIZE), ("full", FRAME_SIZE)]
    width, height = (number * (SIDE + GAP) - GAP for number in (len(TASKS), len(rows)))
    sheet = Image.new("RGB", (MARGIN + width, TOP + height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for row, (quality, size) in enumerate(rows):
        draw.text((8, TOP + row * (SIDE + GAP) + SIDE // 2 - 22), f"{quality}\n{size} x {size}", "black", font)
    for column, task in enumerate(TASKS):
        left = MARGIN + column * (SIDE + GAP)
        draw.text((left, 4), task, "black", font)
        simulator = halfway(task)
        mujoco.mj_forward(simulator.env.model, simulator.env.data)
        for row, (quality, size) in enumerate(rows):
            renderer = Renderer(simulator.env.model, quality, size)
            frame = Image.fromarray(renderer.render(simulator.env.data))
            renderer.close()
            sheet.paste(frame.resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, TOP + row * (SIDE + GAP)))
    sheet.quantize(256, dither=Image.Dither.NONE).save(options.out, optimize=True)
    close_gl()
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
