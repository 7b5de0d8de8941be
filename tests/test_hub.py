"""Models from the Hugging Face Hub: a small server on the loopback interface stands where the Hub is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from furl_lightning.vlm import CLIP, LIV

from .openai_clip import openai_weights, save_tokenizer
from .test_vlm import save_clip

SHA = "0123456789abcdef0123456789abcdef01234567"


class LoopbackHub(ThreadingHTTPServer):
    """Serves the folders ``owner/model`` under a root as the Hub does its repositories."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.root, self.fetched = root, []  # type: ignore[var-annotated]
        self.broken: tuple[str, ...] = ()
        """Names of files that are listed but cannot be had."""


class Answer(BaseHTTPRequestHandler):
    server: LoopbackHub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            folder = self.server.root / parts[2] / parts[3]
            files = sorted(file.name for file in folder.glob("*"))
            siblings = [{"rfilename": name} for name in files]
            described = {"id": "/".join(parts[2:4]), "sha": SHA, "siblings": siblings}
            tree = [{"type": "file", "path": n, "size": (folder / n).stat().st_size, "oid": "0" * 40} for n in files]
            self.answer(folder.is_dir(), json.dumps(tree if "tree" in parts else described).encode())
        elif len(parts) == 5 and parts[2] == "resolve":
            file = self.server.root / parts[0] / parts[1] / parts[4]
            there = file.is_file() and file.name not in self.server.broken
            if self.command == "GET" and there:
                self.server.fetched.append("/".join(file.parts[-3:]))
            self.answer(there, file.read_bytes() if there else b"")
        else:
            self.answer(False, b"")

    def answer(self, found: bool, body: bytes) -> None:
        self.send_response(200 if found else 404)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    server = LoopbackHub(tmp_path / "hub")
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


DOWNLOAD = """
from huggingface_hub import snapshot_download
for name in ("someone/clip", "someone/parts"):
    try:
        snapshot_download(name)
    except OSError:
        print(name)
"""
LOAD = """
from furl_lightning.vlm import CLIP, UnusableModel
for name in ("someone/clip", "someone/parts"):
    for revision in (None, %r):
        try:
            print(CLIP(name, revision=revision).fingerprint)
        except UnusableModel as error:
            print(error)
"""


def load(code: str, cache: Path, endpoint: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code on a loaded ``vlm``; see :func:`run`."""
    guarded = f"try:\n    print({code})\nexcept UnusableModel as error:\n    print('NO:', error)"
    return run(f"from furl_lightning.vlm import *\n{guarded}", cache, endpoint, **environment)


def run(program: str, cache: Path, endpoint: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own: the Hub's client reads its settings when imported."""
    settings = {"HF_HOME": str(cache), "HF_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", program], env={**kept, **settings, **environment}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip


def test_a_download_is_kept_and_works_offline(hub: LoopbackHub, tmp_path: Path) -> None:
    """With a progress bar, only what is needed, and not again; without it, one line with the way out."""
    folder = hub.root / "someone" / "clip"
    save_clip(folder)
    (folder / "pytorch_model.bin").write_bytes(b"not needed beside safetensors")
    (folder / "open_clip_model.safetensors").write_bytes(b"another format")
    endpoint, code = f"http://127.0.0.1:{hub.server_port}", "CLIP('someone/clip').fingerprint"
    expected = CLIP(str(folder)).fingerprint
    offline = load(code, tmp_path / "cache", endpoint, HF_HUB_OFFLINE="1")
    assert offline.stdout.startswith("NO: 'someone/clip' is no folder here") and not hub.fetched
    assert "hf download someone/clip --local-dir FOLDER" in offline.stdout
    first = load(code, tmp_path / "cache", endpoint)
    assert first.stdout.strip() == expected
    assert "100%" in first.stderr
    assert "someone/clip/model.safetensors" in hub.fetched
    assert not any(name.endswith((".bin", "open_clip_model.safetensors")) for name in hub.fetched)
    hub.fetched.clear()
    assert load(code, tmp_path / "cache", endpoint, HF_HUB_OFFLINE="1").stdout.strip() == expected
    unreachable = "http://127.0.0.1:9"  # nothing listens there
    assert load(code, tmp_path / "cache", unreachable).stdout.strip() == expected
    assert not hub.fetched
    nothing = load(code, tmp_path / "other", unreachable).stdout
    assert nothing.startswith("NO: 'someone/clip' is no folder here") and len(nothing.splitlines()) == 1


def test_bin_files_and_liv_and_revisions(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = hub.root / "someone" / "clip"
    save_clip(folder)
    weights = CLIP(str(folder)).network.state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    words = save_tokenizer(hub.root / "openai" / "clip-vit-base-patch32")
    liv = hub.root / "jasonyma" / "LIV"
    liv.mkdir(parents=True)
    torch.save({"liv": {f"module.model.{name}": t for name, t in openai_weights().items()}}, liv / "model.pt")
    endpoint, cache = f"http://127.0.0.1:{hub.server_port}", tmp_path / "cache"
    code = f"CLIP('someone/clip', revision='{SHA}').fingerprint, LIV().fingerprint"
    expected = f"{CLIP(str(folder)).fingerprint} {LIV(str(liv), str(words)).fingerprint}"
    assert load(code, cache, endpoint).stdout.strip() == expected
    assert load(code, cache, endpoint, HF_HUB_OFFLINE="1").stdout.strip() == expected
    assert {"someone/clip/pytorch_model.bin", "jasonyma/LIV/model.pt"} <= set(hub.fetched)
    missing = load("CLIP('someone/nothing')", cache, endpoint).stdout
    assert missing.startswith("NO: 'someone/nothing' is no folder here") and len(missing.splitlines()) == 1


def test_an_interrupted_download_offline(hub: LoopbackHub, tmp_path: Path) -> None:
    """Loads if what is read is there; else one line names what is missing, and how to fetch it."""
    folder = hub.root / "someone" / "clip"
    save_clip(folder)
    parts = Path(shutil.copytree(folder, hub.root / "someone" / "parts"))
    for file in ("vocab.json", "merges.txt"):
        (folder / file).write_text("read only where there is no tokenizer.json")
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    weights = load_file(parts / "model.safetensors")
    places = {name: shards[number % 2] for number, name in enumerate(weights)}
    for shard in shards:
        save_file({n: weights[n] for n in weights if places[n] == shard}, parts / shard, metadata={"format": "pt"})
    (parts / "model.safetensors").unlink()
    (parts / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    expected = CLIP(str(folder)).fingerprint
    assert CLIP(str(parts)).fingerprint == expected

    endpoint, cache = f"http://127.0.0.1:{hub.server_port}", tmp_path / "cache"
    hub.broken = ("merges.txt", shards[1])
    assert run(DOWNLOAD, cache, endpoint).stdout.split() == ["someone/clip", "someone/parts"]
    (snapshot,) = (cache / "hub").glob("models--someone--parts/snapshots/*")
    assert (snapshot / shards[0]).exists() and not (snapshot / shards[1]).exists()
    line = f"'someone/parts' has no {shards[1]} in the Hub's cache here; if the Hub has it, fetch it with a network: "
    line += f"hf download someone/parts {shards[1]}"
    offline = run(LOAD % SHA, cache, endpoint, HF_HUB_OFFLINE="1").stdout
    assert offline.splitlines() == [expected, expected, line, f"{line} --revision {SHA}"]
