#!/usr/bin/env bash
# The first nine minutes on a GPU: does everything that needs one work, and how fast is it?
#
#     benchmarks/gpu.sh [folder]
#
# Runs the tests that need a GPU, the throughput table, and 5,000 environment steps of ten tasks. Writes folder/gpu.json
# (default: gpu/) after each part, so that being cut off loses nothing, and each part's output beside it. Without a GPU
# it is a rehearsal: the tests are skipped and everything else runs on the processor.
set -u
out=$(mkdir -p "${1:-gpu}" && cd "${1:-gpu}" && pwd)
cd "$(dirname "$0")/.."
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python3}
device=$("$python" -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")') || exit
cores=$(nproc)
workers=$((cores > 10 ? 10 : cores))
fit="$python -c 'import sys; from furl_lightning.cli import furl_fit; sys.exit(furl_fit())'"

part() { # name, seconds at most, command
    local began=$SECONDS
    printf '\n== %s\n%s\n' "$1" "$3"
    timeout -k 10 "$2" bash -c "$3" >"$out/$1.log" 2>&1
    local rc=$?
    tail -n 6 "$out/$1.log" | cut -c1-200
    "$python" - "$out" "$1" "$3" $rc $((SECONDS - began)) <<'PY'
import json, os, platform, sys
from pathlib import Path

import torch

out, name, command, rc, seconds = Path(sys.argv[1]), *sys.argv[2:]
path = out / "gpu.json"
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
kept = json.loads(path.read_text()) if path.exists() else {
    "gpu": gpu, "cores": os.cpu_count(), "torch": torch.__version__, "python": platform.python_version(), "parts": {}
}
lines = (out / f"{name}.log").read_text(errors="replace").replace("\r", "\n").splitlines()
kept["parts"][name] = {"command": command, "rc": int(rc), "seconds": int(seconds), "last_lines": lines[-4:]}
table = out / "throughput.json"
if table.exists():
    kept["throughput"] = json.loads(table.read_text())
path.write_text(json.dumps(kept, indent=1) + "\n")
PY
}

rm -f "$out/gpu.json" "$out/throughput.json"
part renderer 60 "$python -c 'from furl_lightning.envs.rendering import close_gl, renderer_name; print(renderer_name()); close_gl()'"
part tests 180 "$python -m pytest -q -p no:cacheprovider tests/test_gpu.py tests/test_update_graph.py tests/test_cuda_graph.py"
part throughput 180 "$python benchmarks/throughput.py --agents 10 --device $device --workers $workers --seconds 0.3 --out '$out/throughput.json'"
part mt10 120 "$fit --config mt10 --data.env_steps 5000 --data.collection.start_steps 500 --data.collection.num_workers $workers \
--data.collection.overlap true --data.evaluation.every 5000 --runs '$out/runs' --name mt10"
echo
echo "$out/gpu.json"
