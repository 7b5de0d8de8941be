"""Frames of one state by some of Meta-World's cameras, side by side: docs/pictures/cameras.png.

python scripts/camera_pictures.py --out docs/pictures/cameras.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from light_pictures import halfway
from PIL import Image

from furl_lightning.envs.rendering import Renderer, close_gl
from furl_lightning.pictures import FRAME_SIZE

CAMERAS = ("corner2", "corner", "topview", "behindGripper")
GAP = 4


def main() -> None:
    """Run from the command line."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--task", default="drawer-open")
    flags.add_argument("--out", type=Path, required=True)
    options = flags.parse_args()
    simulator = halfway(options.task)
    sheet = np.full((FRAME_SIZE, len(CAMERAS) * (FRAME_SIZE + GAP) - GAP, 3), 255, np.uint8)
    for place, camera in enumerate(CAMERAS):
        renderer = Renderer(simulator.env.model, "fast", camera=camera)
        left = place * (FRAME_SIZE + GAP)
        renderer.render(simulator.env.data, sheet[:, left : left + FRAME_SIZE])
        renderer.close()
    Image.fromarray(sheet).quantize(256, dither=Image.Dither.NONE).save(options.out, optimize=True)
    close_gl()
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
