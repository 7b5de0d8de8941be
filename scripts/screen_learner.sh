#!/usr/bin/env bash
# Screens the learner's options, each alone and all together, with dense reward and no VLM (conf/evidence/dense.yaml).
#
#   scripts/screen_learner.sh [furl-fit's options]     goes on where it was stopped
#
# JOBS (default 1) runs at a time; AT_MOST (default 1000h) is when a run is stopped, saved, and gone on with next time.
# RUNS (default runs/screen) is where the runs lie.
set -euo pipefail
cd "$(dirname "$0")/.."
export runs=${RUNS:-runs/screen} at_most=${AT_MOST:-1000h} python=${PYTHON:-python}
repeated="--data.env.action_repeat 2"
bins="--config conf/beyond_paper/critic_categorical.yaml --config conf/beyond_paper/critic_pair_mean.yaml --model.sac.critic_range"
residual="--config conf/beyond_paper/critic_residual.yaml --config conf/beyond_paper/critic_weight_decay_0.01.yaml"
n_step="--config conf/beyond_paper/n_step_3.yaml"
pink="--config conf/beyond_paper/pink_noise.yaml"
variants="base
action_repeat_2 $repeated
n_step_3 $n_step
critic_categorical $bins [0,1000]
critic_residual $residual
pink_noise $pink
all $n_step $bins [0,2000] $residual $pink $repeated
published --config conf/learner/published.yaml"
run() {
    local name=$1
    timeout -s TERM -k 60 "$at_most" "$python" -c 'import sys; from furl_lightning.cli import furl_fit; sys.exit(furl_fit())' \
        --config conf/evidence/dense.yaml "${@:2}" --runs "$runs" --name "$name" --ckpt_path auto || true
}
export -f run
mkdir -p "$runs"
xargs -P "${JOBS:-1}" -I{} bash -c 'run {} '"$(printf '%q ' "$@")" <<<"$variants"
