"""Decimated meshes: a tenth of the faces, the model left alone; kept on disk without ever being in the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from furl_lightning.envs import light_meshes
from furl_lightning.envs.light_meshes import LEAST_FACES, Mesh, light_copy
from furl_lightning.envs.metaworld import MetaWorld


def grid(side: int, texture: bool = False) -> mujoco.MjModel:
    """A model of one mesh: a hemisphere of 2 side^2 faces."""
    angle = np.linspace(-1.4, 1.4, side + 1)
    u, v = (part.reshape(-1) for part in np.meshgrid(angle, angle))
    points = np.stack([np.sin(u), np.sin(v) * np.cos(u), np.cos(u) * np.cos(v)], 1)
    corner = (np.arange(side)[:, None] * (side + 1) + np.arange(side)).reshape(-1)
    right, above = corner + 1, corner + side + 1
    faces = np.concatenate([np.stack([corner, right, above], 1), np.stack([right, above + 1, above], 1)])
    spec: Any = mujoco.MjSpec()
    mesh = spec.add_mesh(name="ball", uservert=points.reshape(-1), userface=faces.reshape(-1))
    if texture:
        mesh.usertexcoord = np.stack([u, v], 1).reshape(-1)
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="ball")
    return spec.compile()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of meshes on disk, which is not there yet; the process has forgotten its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(light_meshes, "_meshes", {})
    return tmp_path / "furl_lightning" / "meshes"


def arrays(model: mujoco.MjModel) -> dict[str, np.ndarray]:
    """All arrays of a model."""
    values = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    return {name: value.copy() for name, value in values.items() if isinstance(value, np.ndarray)}


def surface(model: mujoco.MjModel) -> dict[str, np.ndarray]:
    """The arrays that meshes are drawn from."""
    return {name: values for name, values in arrays(model).items() if name.startswith("mesh_")}


def same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> bool:
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_meta_worlds_meshes(cache: Path) -> None:
    """A ninth of all faces is left, each within the mesh's own extent and normals; the model is as it was."""
    model = MetaWorld("drawer-open", 0).env.model
    before, quality = arrays(model), model.vis.quality.numslices
    light = light_copy(model)
    assert same(arrays(model), before) and model.vis.quality.numslices == quality
    assert 66_000 < model.mesh_facenum.sum() < 70_000 and light.mesh_facenum.sum() < 8_000
    for i in range(model.nmesh):
        smaller = light.mesh_facenum[i] < model.mesh_facenum[i]
        assert smaller == (model.mesh_facenum[i] >= LEAST_FACES)
        whole, part = (light_meshes._part(m, i, "vert") for m in (model, light))
        near = np.ptp(whole, axis=0).max() / 25
        assert np.abs(whole.min(0) - part.min(0)).max() < near and np.abs(whole.max(0) - part.max(0)).max() < near
        if smaller:
            normals = light_meshes._part(light, i, "normal")
            assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-4)
            assert light_meshes._part(light, i, "face").max() < len(part)
    assert len(list(cache.iterdir())) == sum(model.mesh_facenum >= LEAST_FACES)


def test_normals_point_out_of_a_ball_and_edges_stay_sharp(cache: Path) -> None:
    """A hemisphere's normals are its places; at a corner of 90 degrees each face keeps its own."""
    light = light_copy(grid(40))
    faces = light.mesh_face[: light.mesh_facenum[0]]
    assert len(faces) == pytest.approx(320, abs=5)
    places = light.mesh_vert[faces] - light.mesh_vert[: light.mesh_vertnum[0]].mean(0)
    normals = light.mesh_normal[light.mesh_facenormal[: len(faces)]]
    assert (np.einsum("fki,fki->fk", places, normals) > 0).all()
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float)
    roof = light_meshes._corner_normals(vertices, np.array([[0, 1, 2], [0, 3, 1]]))
    assert np.allclose(roof[0], (0, 0, 1)) and np.allclose(roof[1], (0, 1, 0))


def test_meshes_that_stay_whole(cache: Path) -> None:
    """Few faces; texture coordinates, which are of the whole mesh's corners."""
    for model in (grid(10), grid(40, texture=True)):
        assert same(surface(light_copy(model)), surface(model)), model.mesh_facenum
    assert not cache.exists()


def test_a_mesh_is_made_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From then on it is the process's, and for the next process it lies on disk; another version makes it anew."""
    made: list[int] = []
    make = light_meshes._decimate

    def count(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
        made.append(len(faces))
        return make(vertices, faces)

    monkeypatch.setattr(light_meshes, "_decimate", count)
    first = surface(light_copy(grid(40)))
    assert same(surface(light_copy(grid(40))), first) and len(made) == 1
    light_meshes._meshes.clear()
    assert same(surface(light_copy(grid(40))), first) and len(made) == 1
    light_copy(grid(41))
    assert len(made) == 2
    monkeypatch.setattr(light_meshes, "VERSION", "another")
    light_copy(grid(40))
    assert len(made) == 3 and len(list(cache.iterdir())) == 3


def test_a_file_that_is_no_mesh_is_made_again(cache: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Truncated, with a changed byte, something else, or a mesh whose faces point to nowhere."""
    first = surface(light_copy(grid(40)))
    (path,) = cache.iterdir()
    good = path.read_bytes()
    mesh = light_meshes._read(path)
    assert mesh is not None
    damages: list[Any] = [
        b"",
        good[:-400],
        good[:500] + bytes([good[500] ^ 1]) + good[501:],
        b"a stranger's",
        b"\x80\x04N.",  # a pickle
        {"faces": mesh.faces},
        {**mesh._asdict(), "faces": mesh.faces + 10_000},
        {**mesh._asdict(), "face_normals": -mesh.faces - 1},
        {**mesh._asdict(), "vertices": mesh.vertices.astype(float)},
        {**mesh._asdict(), "vertices": mesh.vertices * np.nan},
        {**mesh._asdict(), "normals": mesh.normals.astype(object)},
        {**mesh._asdict(), "faces": mesh.faces[:10]},
    ]
    for damage in damages:
        if isinstance(damage, bytes):
            path.write_bytes(damage)
        else:
            np.savez(path, **damage)
        light_meshes._meshes.clear()
        assert same(surface(light_copy(grid(40))), first)
        assert path.read_bytes() == good
    assert [*cache.iterdir()] == [path] and [str(w.message) for w in recwarn] == []


def test_without_a_folder_for_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A file in its place, one that may not be written to, no space, no home, or a path that is not absolute."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    results = []
    for folder in (tmp_path / "file", "/dev/full", "/proc/1", "relative", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
        monkeypatch.setattr(light_meshes, "_meshes", {})
        results.append(surface(light_copy(grid(40))))
    assert not Path("relative").exists() and len(list((tmp_path / "home/.cache/furl_lightning/meshes").iterdir())) == 1
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(Path, "home", lambda: Path("~nobody-of-this-name").expanduser())
    monkeypatch.setattr(light_meshes, "_meshes", {})
    results.append(surface(light_copy(grid(40))))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "full"))
    monkeypatch.setattr(light_meshes, "_meshes", {})
    monkeypatch.setattr(light_meshes, "write_file", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    results.append(surface(light_copy(grid(40))))
    assert all(same(result, results[0]) for result in results)
    assert capfd.readouterr() == ("", "")


WRITER = """
import sys
from pathlib import Path
import numpy as np
from furl_lightning.envs import light_meshes as light
path, mesh = Path(sys.argv[1]), light._read(Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(200):
    light._write(path, mesh)
    assert light._read(path) is not None
"""


def test_processes_write_at_once(cache: Path, tmp_path: Path) -> None:
    """Each reads a whole mesh after each of 200 writes, whosever it is, and nothing else is left."""
    light_copy(grid(40))
    (source,) = cache.iterdir()
    path = tmp_path / "shared" / "mesh.npz"
    command = [sys.executable, "-c", WRITER, str(path), str(source)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": dict(os.environ)}
    writers = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [*path.parent.iterdir()] == [path] and isinstance(light_meshes._read(path), Mesh)
