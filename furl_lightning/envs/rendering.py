"""Headless rendering of a MuJoCo model: one OpenGL context a process, one renderer a model.

The backend is ``MUJOCO_GL`` where that is set, else EGL, else OSMesa. Meta-World's own renderers
each make a context and forget to switch to it, so that two in one process mix up their frames;
here all share one, and every frame binds the buffer that it draws into.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import mujoco
import numpy as np

from furl_lightning.envs.light_meshes import light_copy
from furl_lightning.pictures import FRAME_SIZE, RenderQuality
from furl_lightning.utils.errors import BadInput

PICTURE_SIZE = 256
"""Side in pixels of Meta-World's own picture; a frame shows the part of its view that is the centre 32:224."""
CENTRE = FRAME_SIZE / PICTURE_SIZE
METAWORLD_CAMERA = "corner2"
LEANS = 0.01
"""Vertical part of a direction of length 1 that counts as rounding, not as up or down."""

BACKENDS = {"egl": "EGL", "osmesa": "OSMesa", "glfw": "GLFW"}

_context: Any = None
_backend = ""
_parents_context: Any = None
"""In a forked process: the context of the one that it was forked from, of no use here; freeing it could hang."""


class NoGL(BadInput):
    """No OpenGL backend works on this machine."""


def _open(backend: str) -> Any:
    module = importlib.import_module(f"mujoco.{backend}")
    if backend == "egl":
        _refuse_device_that_is_not_there(len(module.EGL.eglQueryDevicesEXT()))
    module.GLContext._context = None  # one whose __init__ fails looks for it in its __del__
    context = module.GLContext(PICTURE_SIZE, PICTURE_SIZE)
    context.make_current()
    # Without a display GLFW only warns; that nothing can be drawn shows here.
    mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_50).free()
    return context


def _refuse_device_that_is_not_there(count: int) -> None:
    """Check ``MUJOCO_EGL_DEVICE_ID`` against the number of EGL's devices; a blank one is as good as none."""
    text = os.environ.get("MUJOCO_EGL_DEVICE_ID", "").strip()
    if not text:
        os.environ.pop("MUJOCO_EGL_DEVICE_ID", None)
    elif count and not (text.isascii() and text.isdigit() and int(text) < count):
        there = "one device" if count == 1 else f"{count} devices"
        right = "0" if count == 1 else f"from 0 to {count - 1}"
        raise NoGL(f"MUJOCO_EGL_DEVICE_ID must be {right}, not {text}: EGL has {there} here")


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
            can be opened; or ``MUJOCO_EGL_DEVICE_ID`` names a device that is not there; or this process was
            forked from one that draws.
    """
    global _context, _backend
    if _parents_context is not None:
        raise NoGL(
            "OpenGL does not survive a fork, and the process that this one was forked from draws: start it with "
            "multiprocessing's spawn, or before anything is drawn"
        )
    if _context is None:
        choice = os.environ.get("MUJOCO_GL", "").lower().strip()
        failures = []
        for backend in [choice] if choice in BACKENDS else ["egl", "osmesa"]:
            try:
                _context, _backend = _open(backend), backend
                break
            except NoGL:
                raise
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


def _lose_context() -> None:
    global _context, _parents_context
    _context, _parents_context = None, _context or _parents_context


os.register_at_fork(after_in_child=_lose_context)


def renderer_name() -> str:
    """What draws in this process: OpenGL's name of it, and the backend, as in ``llvmpipe (LLVM 15.0.6), EGL``.

    Makes the context where there is none yet: not to be asked for a run that draws nothing.

    Raises:
        NoGL: see :func:`gl_context`.
    """
    gl_context()
    from OpenGL import GL  # its platform follows from the backend, which must be open

    name: bytes = GL.glGetString(GL.GL_RENDERER) or b"unknown"
    return f"{name.decode(errors='replace')}, {BACKENDS[_backend]}"


def is_used() -> bool:
    """Whether a :class:`Renderer` has been made in this process: an environment may draw by other means."""
    return Renderer.made > 0


def close_gl() -> None:
    """Free the context, after every renderer has been closed; EGL complains at exit otherwise."""
    global _context
    if _context is not None:
        _context.free()
        _context = None


def camera_named(model: mujoco.MjModel, name: str, of: str) -> mujoco.MjvCamera:
    """A camera of a model, where it stands.

    Args:
        model: which must have it.
        name: of the camera.
        of: what the model is of, for the refusal.

    Raises:
        BadInput: the model has no camera of that name.
    """
    names = [model.camera(i).name for i in range(model.ncam)]
    if name not in names:
        those = f"one of {', '.join(names)} (the cameras of {of}) or null" if names else f"null ({of} has no camera)"
        raise BadInput(f"data.env.camera must be {those}, not '{name}'")
    camera = mujoco.MjvCamera()
    camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, names.index(name)
    return camera


def hangs(model: mujoco.MjModel, camera: mujoco.MjvCamera) -> bool:
    """Whether a camera of the model is mounted upside down: the top of its picture looks towards the ground.

    One that looks straight down, or nearly, has no top by this measure and does not hang.
    """
    if camera.type != mujoco.mjtCamera.mjCAMERA_FIXED:
        return False
    up = model.cam_mat0[camera.fixedcamid].reshape(3, 3)[:, 1]  # in the model's resting pose: the same in every state
    return bool(up[2] < -LEANS)


class Renderer:
    """Frames of one model, upright and RGB.

    Cameras that hang upside down, such as Meta-World's corners, have their frames turned to the true picture. Of
    ``corner2`` only the centre of its 256 x 256 picture is wanted, so only its part of the view frustum is drawn: the
    same pixels, 44 % fewer of them.

    Args:
        model: the MuJoCo model, of which only what concerns pictures is changed.
        quality: ``full`` is the simulator's own picture, ``fast`` the same scene without shadows,
            reflections and multisampling, at about an eighth of the cost in software; ``light`` the
            same as ``fast`` with a tenth of the meshes' faces.
        size: height and width of a frame in pixels, whatever the size of the same centre of the view.
        mirror: the upright *mirror* image, as the published code feeds it to the VLM.
        bgr: channels in the published code's order.
        camera: the name of one of the model's cameras, or any camera. Its whole view is drawn, but where the name is
            ``corner2``, Meta-World's.

    Raises:
        BadInput: the model has no camera of that name.
    """

    made = 0
    """How many there have been in this process."""

    def __init__(
        self,
        model: mujoco.MjModel,
        quality: RenderQuality = "fast",
        size: int = FRAME_SIZE,
        mirror: bool = False,
        bgr: bool = False,
        camera: str | mujoco.MjvCamera = METAWORLD_CAMERA,
    ) -> None:
        gl_context()
        Renderer.made += 1
        drawn = light_copy(model) if quality == "light" else model
        drawn.vis.global_.offwidth, drawn.vis.global_.offheight = size, size
        if quality != "full":
            drawn.vis.quality.offsamples = 0
        self.model = model
        self.mirror, self.bgr = mirror, bgr
        self.scene = mujoco.MjvScene(model, maxgeom=2000)
        if quality != "full":
            self.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
            self.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._option = mujoco.MjvOption()
        self._centre_only = camera == METAWORLD_CAMERA
        self._camera = camera_named(model, camera, "this model") if isinstance(camera, str) else camera
        self._hangs = hangs(model, self._camera)
        self._context = mujoco.MjrContext(drawn, mujoco.mjtFontScale.mjFONTSCALE_100)
        self._rect = mujoco.MjrRect(0, 0, size, size)
        self._raw = np.empty((size, size, 3), np.uint8)

    def render(self, data: mujoco.MjData, out: np.ndarray | None = None) -> np.ndarray:
        """Draw the present state: uint8 [size, size, 3], into ``out`` if given."""
        gl_context()
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self.update_scene(data)
        for camera in self.scene.camera if self._centre_only else ():
            camera.frustum_bottom *= CENTRE
            camera.frustum_top *= CENTRE
            camera.frustum_width *= CENTRE
        mujoco.mjr_render(self._rect, self.scene, self._context)
        mujoco.mjr_readPixels(self._raw, None, self._rect, self._context)
        # OpenGL's rows run upwards; those of a camera that hangs upside down are right already.
        upright = self._raw[:, ::-1] if self._hangs else self._raw[::-1]
        frame = upright[:, ::-1] if self.mirror else upright
        if self.bgr:
            frame = frame[:, :, ::-1]
        if out is None:
            return frame.copy()
        out[:] = frame
        return out

    def update_scene(self, data: mujoco.MjData) -> None:
        """Fill ``scene`` with what is drawn of the present state; a subclass may change it there."""
        mujoco.mjv_updateScene(
            self.model, data, self._option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self.scene
        )

    def close(self) -> None:
        """Free what the renderer holds on the graphics side."""
        gl_context()
        self._context.free()
