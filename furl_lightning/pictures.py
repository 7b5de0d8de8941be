"""What a picture of a simulator can be like: environments draw it, and a vision-language model says which it wants."""

from __future__ import annotations

from typing import Literal

RenderQuality = Literal["light", "fast", "full"]
"""``full``: the simulator's own picture; ``fast``: the same scene without shadows, reflections and multisampling;
``light``: that with a tenth of the meshes' faces, at the size that a model asks for."""

FRAME_SIZE = 192
"""Height and width in pixels of a frame that nobody asks for in another size: the centre of the 256 x 256 picture."""
