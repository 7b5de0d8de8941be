#!/usr/bin/env bash
# Runs the evidence of docs/findings.md, keeps it in results/, and refreshes the README's tables and curves.
#
#   scripts/evidence.sh            goes on where it was stopped; days on two cores, so stop it when you like
#   scripts/evidence.sh report     only makes tables and curves anew, from results/
#
# Partial results are useful early: a block is some methods on one task; short blocks come before long ones, SAC and FuRL
# before the parts of FuRL, the four first tasks before the others, fixed goals before random ones. A longer run goes on
# from a shorter one's checkpoint.
# RUNS (default runs/evidence) is where the checkpoints lie.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${RUNS:-runs/evidence}
first_tasks="drawer-close button-press-topdown window-close drawer-open"
other_tasks="reach push pick-place door-open peg-insert-side window-open"
commit=$(git rev-parse HEAD)
git diff --quiet HEAD -- furl_lightning conf || commit+=" with changes"

fit() { # FOLDER NAME TASK STEPS CONFIG...
    local results=results/$1 name=$2-$3 task=$3 steps=$4 configs=() resume=()
    awk -v steps="$steps" '/^- steps:/ && $3 >= steps {found = 1} END {exit !found}' "$results/$name/source.yaml" 2>/dev/null && return
    for config in "${@:5}"; do configs+=(--config "conf/$config.yaml"); done
    local command=(furl-fit "${configs[@]}" --data.tasks "[$task]" --data.env_steps "$steps" --name "$name")
    [ -e "$runs/$1/$name/checkpoints/last.ckpt" ] && resume=(--ckpt_path last)
    [ -e "$runs/$1/$name/checkpoints/step-$(printf %09d "$steps").ckpt" ] || # stopped after the run, before it was kept
        "${command[@]}" --runs "$runs/$1" "${resume[@]}"
    python scripts/keep_run.py "$runs/$1/$name" "$results" --steps "$steps" --command "${command[*]}" --commit "$commit"
}

block() { # GOAL STEPS TASK METHOD...
    for method in "${@:4}"; do
        fit "$1" "$method" "$3" "$2" "evidence/$1" "method/$method"
    done
    python scripts/evidence_report.py
}

if [ "${1:-}" = report ]; then
    exec python scripts/evidence_report.py
fi
block fixed 20000 drawer-close sac furl vlm relay
fit learner sac-published drawer-close 30000 evidence/fixed method/sac learner/published
for task in $first_tasks; do block fixed 20000 "$task" sac furl; done
for steps in 30000 60000; do block fixed "$steps" window-close sac furl vlm relay; done # FuRL first succeeds near 20,000
for change in l2_margin_0.1 rho_0.2; do # what might bring the first success sooner
    fit ablation "furl-$change" window-close 20000 evidence/fixed method/furl "ablation/$change"
done
for task in $first_tasks; do block fixed 20000 "$task" relay vlm; done
for task in drawer-open button-press-topdown; do block fixed 40000 "$task" furl; done
for task in $first_tasks; do block fixed 60000 "$task" sac; done # the cheapest: it draws nothing
for task in $first_tasks; do block fixed 60000 "$task" furl relay vlm; done
fit learner furl-published drawer-close 30000 evidence/fixed method/furl learner/published
for task in drawer-open button-press-topdown; do # the present embedded model
    fit light furl "$task" 60000 evidence/light method/furl
done
for task in $first_tasks; do block fixed 250000 "$task" sac furl vlm relay; done
for task in $other_tasks; do block fixed 250000 "$task" sac furl vlm relay; done
for task in $first_tasks $other_tasks; do block random 250000 "$task" sac furl vlm relay; done
