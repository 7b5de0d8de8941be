"""Headless rendering of a MuJoCo model: one OpenGL context a process, one renderer a model.

The backend is ``MUJOCO_GL`` where that is set, else EGL, else OSMesa. Meta-World's own renderers
each make a context and forget to switch to it, so that two in one process mix up their frames;
here all share one, and every frame binds the buffer that it draws into.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, Literal

import mujoco
import numpy as np

from furl_lightning.utils.errors import BadInput

RenderQuality = Literal["fast", "full"]

FRAME_SIZE = 192
"""Height and width of a frame in pixels: the centre 32:224 of the 256 x 256 picture."""
PICTURE_SIZE = 256

_context: Any = None


class NoGL(BadInput):
    """No OpenGL backend works on this machine."""


def _open(backend: str) -> Any:
    module = importlib.import_module(f"mujoco.{backend}")
    context = module.GLContext(PICTURE_SIZE, PICTURE_SIZE)
    context.make_current()
    # Without a display GLFW only warns; that nothing can be drawn shows here.
    mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_50).free()
    return context


def _forget(backend: str) -> None:
    """Undo a failed import, for PyOpenGL fixes its platform when it is first imported."""
    for name in list(sys.modules):
        if name.split(".")[0] == "OpenGL" or name.startswith(f"mujoco.{backend}"):
            del sys.modules[name]
    os.environ.pop("PYOPENGL_PLATFORM", None)


def gl_context() -> Any:
    """The process's OpenGL context, made at the first call and current after every call.

    Raises:
        NoGL: neither the backend that ``MUJOCO_GL`` names nor, where it names none, EGL or OSMesa
            can be opened.
    """
    global _context
    if _context is None:
        choice = os.environ.get("MUJOCO_GL", "").lower().strip()
        failures = []
        for backend in [choice] if choice in ("egl", "osmesa", "glfw") else ["egl", "osmesa"]:
            try:
                _context = _open(backend)
                break
            except Exception as error:  # ctypes, PyOpenGL and MuJoCo each raise their own
                failures.append(f"{backend}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
                _forget(backend)
        if _context is None:
            raise NoGL(
                "no OpenGL backend for headless rendering works here; install one, on Debian: "
                f"apt-get install libegl1 libgl1-mesa-dri, or: libosmesa6 ({'; '.join(failures)})"
            )
    _context.make_current()
    return _context


def close_gl() -> None:
    """Free the context, after every renderer has been closed; EGL complains at exit otherwise."""
    global _context
    if _context is not None:
        _context.free()
        _context = None


class Renderer:
    """Frames of one model from Meta-World's camera ``corner2``.

    The camera hangs upside down; frames are turned to the true picture, RGB. Only the centre of
    the 256 x 256 picture is wanted, so only its part of the view frustum is drawn: the same
    pixels, 44 % fewer of them.

    Args:
        model: the MuJoCo model; ``fast`` changes its multisampling.
        quality: ``full`` is the simulator's own picture, ``fast`` the same scene without shadows,
            reflections and multisampling, at about an eighth of the cost in software.
        mirror: the upright *mirror* image, as the published code feeds it to the VLM.
        bgr: channels in the published code's order.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        quality: RenderQuality = "fast",
        mirror: bool = False,
        bgr: bool = False,
    ) -> None:
        gl_context()
        size = FRAME_SIZE
        model.vis.global_.offwidth, model.vis.global_.offheight = size, size
        if quality == "fast":
            model.vis.quality.offsamples = 0
        self.model = model
        self.mirror, self.bgr = mirror, bgr
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        if quality == "fast":
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = model.camera("corner2").id
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        self._rect = mujoco.MjrRect(0, 0, size, size)
        self._raw = np.empty((size, size, 3), np.uint8)

    def render(self, data: mujoco.MjData, out: np.ndarray | None = None) -> np.ndarray:
        """Draw the present state: uint8 [192, 192, 3], into ``out`` if given."""
        gl_context()
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        mujoco.mjv_updateScene(
            self.model, data, self._option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        for camera in self._scene.camera:
            camera.frustum_bottom *= FRAME_SIZE / PICTURE_SIZE
            camera.frustum_top *= FRAME_SIZE / PICTURE_SIZE
            camera.frustum_width *= FRAME_SIZE / PICTURE_SIZE
        mujoco.mjr_render(self._rect, self._scene, self._context)
        mujoco.mjr_readPixels(self._raw, None, self._rect, self._context)
        # OpenGL's rows run upwards and the camera hangs upside down: rows are right already.
        frame = self._raw if self.mirror else self._raw[:, ::-1]
        if self.bgr:
            frame = frame[:, :, ::-1]
        if out is None:
            return frame.copy()
        out[:] = frame
        return out

    def close(self) -> None:
        """Free what the renderer holds on the graphics side."""
        gl_context()
        self._context.free()
