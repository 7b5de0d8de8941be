"""``furl_lightning.fit``: what ``furl-fit`` does, called from a script or a notebook."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from furl_lightning.commands.fit import run_fit
from furl_lightning.envs.rendering import close_gl
from furl_lightning.envs.workers import leave_if_importing_main
from furl_lightning.utils.stopping import Stopping

AnyPath = str | os.PathLike[str]


def fit_from_python(
    configs: Sequence[AnyPath], name: str, runs: AnyPath, ckpt_path: AnyPath | None, settings: dict[str, Any]
) -> Path:
    """See :func:`furl_lightning.fit`."""
    leave_if_importing_main()
    with tempfile.TemporaryDirectory() as folder, Stopping() as stopping:
        file = Path(folder) / "settings.yaml"  # JSON is YAML as well
        file.write_text(json.dumps(settings, default=str))
        argv = [part for config in (*configs, file) for part in ("--config", str(config))]
        argv += ["--runs", str(runs), "--name", name, *(() if ckpt_path is None else ("--ckpt_path", str(ckpt_path)))]
        try:
            status = run_fit(argv, stopping)
        finally:
            close_gl()
    if stopping.signal is not None:
        raise KeyboardInterrupt(stopping.signal.name)
    if status:
        raise RuntimeError("training ended before its time; the message above says why")
    return Path(runs) / name
