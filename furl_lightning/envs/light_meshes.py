"""A copy of a MuJoCo model whose meshes have a tenth of their faces, to be drawn in place of the model.

A frame of Meta-World is 67,000 triangles, nearly all of them the robot's, whose meshes are the same in all tasks. Each
mesh is decimated once on a machine: it is kept in the process, and on disk.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import os
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import fast_simplification
import mujoco
import numpy as np

from furl_lightning.utils.durable import write_file

SHARE = 0.1
"""Of a mesh's faces that is kept."""
LEAST_FACES = 500
"""Meshes of fewer stay whole."""
CREASE = 35.0
"""Degrees; where faces meet at a larger angle there is an edge to be seen."""
ROUNDNESS = {"numslices": 12, "numstacks": 8, "numquads": 1}
"""Of spheres, cylinders and boxes, in place of 28, 16 and 4: a quarter of the cost, and not to be seen."""
VERSION = 1
"""Of the decimated meshes; a change of how they are made needs another, for those on disk to be made anew."""


class Mesh(NamedTuple):
    """Triangles with a normal at each corner, as MuJoCo has them: V vertices, F faces, N normals."""

    vertices: np.ndarray  # float32 [V, 3]
    faces: np.ndarray  # int32 [F, 3]: vertices
    normals: np.ndarray  # float32 [N, 3]
    face_normals: np.ndarray  # int32 [F, 3]: normals at the faces' corners


_meshes: dict[str, Mesh] = {}
"""The decimated meshes of this process, by key; several simulators of one task share them."""


def light_copy(model: mujoco.MjModel) -> mujoco.MjModel:
    """A copy of a model with fewer faces to draw, good for a rendering context and not for physics.

    Meshes with texture coordinates, of which Meta-World has none of this size, stay whole.
    """
    light = copy.copy(model)
    for name, number in ROUNDNESS.items():
        setattr(light.vis.quality, name, number)
    for i in range(model.nmesh):
        if model.mesh_facenum[i] >= LEAST_FACES and not model.mesh_texcoordnum[i]:
            vertices, faces = _part(model, i, "vert"), _part(model, i, "face")
            _replace(light, i, _decimated(vertices, faces))
    return light


def _part(model: mujoco.MjModel, mesh: int, name: str) -> np.ndarray:
    """A mesh's rows of one of the model's arrays, ``vert``, ``face`` or ``normal``."""
    start = getattr(model, f"mesh_{name}adr")[mesh]
    rows: np.ndarray = getattr(model, f"mesh_{name}")[start : start + getattr(model, f"mesh_{name}num")[mesh]]
    return rows


def _replace(model: mujoco.MjModel, mesh: int, light: Mesh) -> None:
    """Put a smaller mesh in the place of one; where it is not smaller, leave that."""
    arrays = {"vert": light.vertices, "face": light.faces, "normal": light.normals}
    if any(len(rows) > len(_part(model, mesh, name)) for name, rows in arrays.items()):
        return
    for name, rows in arrays.items():
        getattr(model, f"mesh_{name}num")[mesh] = len(rows)
        _part(model, mesh, name)[:] = rows
    start = model.mesh_faceadr[mesh]
    model.mesh_facenormal[start : start + len(light.faces)] = light.face_normals
    model.mesh_graphadr[mesh] = -1  # the convex hull, of vertices that are no longer there


def _decimated(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    """The decimated mesh, from the process, from disk, or made."""
    digest = hashlib.sha256(f"{VERSION} {fast_simplification.__version__} {len(vertices)}".encode())
    digest.update(vertices.tobytes() + faces.tobytes())
    key = digest.hexdigest()
    if key not in _meshes:
        path = _path(key)
        mesh = path and _read(path)
        if not mesh:
            mesh = _decimate(vertices, faces)
            if path:
                _write(path, mesh)
        _meshes[key] = mesh
    return _meshes[key]


# -- made


def _decimate(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    """Collapse edges until a tenth of the faces is left, those first that change the surface least."""
    places, place = np.unique(vertices.round(7), axis=0, return_inverse=True)  # the file has some twice, at creases
    faces = place.reshape(-1)[faces]
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    light, light_faces = fast_simplification.simplify(
        places.astype(np.float32), faces.astype(np.int32), target_reduction=1 - SHARE, agg=5
    )
    corners = _corner_normals(light.astype(np.float64), light_faces)
    normals, numbers = np.unique(corners.reshape(-1, 3).round(5), axis=0, return_inverse=True)
    return Mesh(
        light.astype(np.float32),
        light_faces.astype(np.int32),
        normals.astype(np.float32),
        numbers.reshape(-1, 3).astype(np.int32),
    )


def _corner_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals at the faces' corners [F, 3, 3]: the mean of smooth neighbours' there, by area."""
    a, b, c = vertices[faces].swapaxes(0, 1)
    areas = np.cross(b - a, c - a)  # [F, 3], twice the area long
    units = _unit(areas)
    normals = np.empty((len(faces), 3, 3))
    order = faces.reshape(-1).argsort(kind="stable")
    for corners in np.split(order, np.cumsum(np.bincount(faces.reshape(-1), minlength=len(vertices)))[:-1]):
        around = corners // 3
        smooth = units[around] @ units[around].T > np.cos(np.radians(CREASE))
        normals.reshape(-1, 3)[corners] = _unit(smooth @ areas[around])
    return normals


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-20)
    return unit


# -- on disk


def _path(key: str) -> Path | None:
    """The file of a mesh; None where the user has no folder for caches."""
    folder = os.environ.get("XDG_CACHE_HOME", "")
    try:
        cache = Path(folder) if os.path.isabs(folder) else Path.home() / ".cache"
    except RuntimeError:
        return None
    return cache / "furl_lightning" / "meshes" / f"{key}.npz"


def _read(path: Path) -> Mesh | None:
    """The mesh of a file; None where there is none, or the file is damaged or no mesh's."""
    try:
        file = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        mesh = Mesh(*(file[name] for name in Mesh._fields))
    except Exception:  # whatever a broken archive raises
        return None
    return mesh if _is_whole(mesh) else None


def _is_whole(mesh: Mesh) -> bool:
    """Whether the arrays can be given to OpenGL, which looks at no index."""
    integers, numbers = (mesh.faces, mesh.face_normals), (mesh.vertices, mesh.normals)
    return (
        all(array.ndim == 2 and array.shape[1] == 3 and array.size for array in mesh)
        and all(array.dtype == np.int32 for array in integers)
        and all(array.dtype == np.float32 and np.isfinite(array).all() for array in numbers)
        and mesh.faces.shape == mesh.face_normals.shape
        and all(a.min() >= 0 and a.max() < len(b) for a, b in zip(integers, numbers, strict=True))
    )


def _write(path: Path, mesh: Mesh) -> None:
    """Keep a mesh on disk if there is room and leave to; another process may be at the same."""
    contents = io.BytesIO()
    np.savez(contents, **mesh._asdict())
    part = path.with_name(f"{uuid4().hex}.npz")
    with contextlib.suppress(OSError):
        write_file(part, lambda file: file.write_bytes(contents.getbuffer()))
        os.replace(part, path)
