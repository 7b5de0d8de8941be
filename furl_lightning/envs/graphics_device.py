"""Which device draws: the GPU that trains, where there are several; and a warning where software draws beside CUDA."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import torch

from furl_lightning.envs.rendering import NoGL, gl_context, renderer_name

SOFTWARE = ("llvmpipe", "softpipe", "swrast", "software rasterizer", "osmesa")
"""What OpenGL or the backend calls itself where the processor draws."""
NOT_BY_THE_GPU = (
    "warning: the GPU trains but the processor draws, which is many times slower; the graphics part of the GPU's "
    "driver is missing or does not reach this container, see docs/rendering.md"
)
_CUDA_DEVICE, _DEVICE_UUID = 0x323A, 0x335C  # of EGL_NV_device_cuda and EGL_EXT_device_persistent_id


class EGLDevice(NamedTuple):
    """What EGL says of one of its devices, as far as its driver says it."""

    uuid: UUID | None
    cuda: int | None
    """CUDA's number of it."""


def open_gl(training: torch.device) -> None:
    """Make the process's OpenGL context, on the GPU that trains if EGL lists it.

    EGL counts GPUs in another order than CUDA and knows nothing of ``CUDA_VISIBLE_DEVICES``, so the device is
    recognised by its UUID. It is left in ``MUJOCO_EGL_DEVICE_ID``, for the processes that are started from here; one
    that is set already counts more.

    Raises:
        NoGL: see :func:`~furl_lightning.envs.rendering.gl_context`.
    """
    chosen = os.environ.get("MUJOCO_EGL_DEVICE_ID", "").strip()
    backend = os.environ.get("MUJOCO_GL", "").lower().strip()
    if chosen or training.type != "cuda" or backend in ("osmesa", "glfw"):
        gl_context()
        return
    index = torch.cuda.current_device() if training.index is None else training.index
    number = number_of(egl_devices(), UUID(str(torch.cuda.get_device_properties(index).uuid)), index)
    if number is None:
        gl_context()
        return
    os.environ["MUJOCO_EGL_DEVICE_ID"] = str(number)
    try:
        gl_context()
    except NoGL:  # it is listed but cannot draw: whatever can may do so
        del os.environ["MUJOCO_EGL_DEVICE_ID"]
        gl_context()


def number_of(devices: Sequence[EGLDevice], uuid: UUID, cuda: int) -> int | None:
    """EGL's number of a GPU, or None: by its UUID or, where the driver is too old to tell those, by CUDA's number."""
    if any(device.uuid for device in devices):
        numbers = [number for number, device in enumerate(devices) if device.uuid == uuid]
    else:
        numbers = [number for number, device in enumerate(devices) if device.cuda == cuda]
    return numbers[0] if numbers else None


def egl_devices() -> list[EGLDevice]:
    """EGL's devices in its order; none where there is no EGL."""
    try:
        from mujoco.egl import egl_ext as egl

        devices = egl.eglQueryDevicesEXT()
    except Exception:  # ctypes, PyOpenGL and MuJoCo each raise their own; opening it will say what is wrong
        return []
    c_int, pointer = ctypes.c_int, ctypes.c_void_p
    attribute_address = egl.eglGetProcAddress("eglQueryDeviceAttribEXT")
    binary_address = egl.eglGetProcAddress("eglQueryDeviceBinaryEXT")
    attribute = attribute_address and ctypes.CFUNCTYPE(c_int, pointer, c_int, pointer)(attribute_address)
    binary = binary_address and ctypes.CFUNCTYPE(c_int, pointer, c_int, c_int, pointer, pointer)(binary_address)
    known = []
    for device in devices:
        number, uuid, size = ctypes.c_ssize_t(), (ctypes.c_ubyte * 16)(), c_int()
        has_number = attribute and attribute(device, _CUDA_DEVICE, ctypes.byref(number))
        has_uuid = binary and binary(device, _DEVICE_UUID, 16, uuid, ctypes.byref(size)) and size.value == 16
        known.append(EGLDevice(UUID(bytes=bytes(uuid)) if has_uuid else None, number.value if has_number else None))
    return known


def what_draws(training: torch.device) -> list[str]:
    """What is to be said of it at a run's start: one line, and another where it is not as it should be.

    Raises:
        NoGL: see :func:`~furl_lightning.envs.rendering.gl_context`.
    """
    renderer, number = renderer_name(), os.environ.get("MUJOCO_EGL_DEVICE_ID")
    drawn = f"frames are drawn by {renderer}" + (f", device {number}" if number and renderer.endswith("EGL") else "")
    return [drawn, *([NOT_BY_THE_GPU] if software_beside_cuda(renderer, training.type) else [])]


def software_beside_cuda(renderer: str, training: str) -> bool:
    """Whether the processor draws the frames of a run that trains on a GPU.

    Args:
        renderer: what :func:`~furl_lightning.envs.rendering.renderer_name` gives.
        training: type of the device that trains, such as ``cuda``.
    """
    return training == "cuda" and any(name in renderer.lower() for name in SOFTWARE)
