#!/usr/bin/env bash
# Runs the evidence of README and docs/findings.md, keeps it in results/, and makes its tables and figures anew.
#
#   scripts/evidence.sh            goes on where it was stopped; days on two cores, so stop it when you like
#   scripts/evidence.sh report     only makes tables and figures anew, from results/
#
# Partial results are useful early: what is judged comes first, then longer runs and what they are compared with. A longer
# run goes on from a shorter one's checkpoint. RUNS (default runs/evidence) is where the checkpoints lie.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${RUNS:-runs/evidence}
first_tasks="drawer-close button-press-topdown window-close drawer-open"
commit=$(git rev-parse HEAD)
git diff --quiet HEAD -- furl_lightning conf || commit+=" with changes"

fit() { # FOLDER NAME STEPS CONFIG... [-- OPTION...]
    local folder=$1 name=$2 steps=$3 configs=() resume=()
    shift 3
    awk -v steps="$steps" '/^- steps:/ && $3 >= steps {found = 1} END {exit !found}' "results/$folder/$name/source.yaml" 2>/dev/null && return
    while [ $# -gt 0 ] && [ "$1" != -- ]; do configs+=(--config "conf/$1.yaml") && shift; done
    local command=(furl-fit "${configs[@]}" "${@:2}" --data.env_steps "$steps" --name "$name")
    [ -e "$runs/$folder/$name/checkpoints/last.ckpt" ] && resume=(--ckpt_path last)
    [ -e "$runs/$folder/$name/checkpoints/step-$(printf %09d "$steps").ckpt" ] || # stopped after the run, before it was kept
        "${command[@]}" --runs "$runs/$folder" "${resume[@]}"
    python scripts/keep_run.py "$runs/$folder/$name" "results/$folder" --steps "$steps" --command "${command[*]}" --commit "$commit" --every 2500
}

report() { python scripts/evidence_report.py; }

screen() { # NAME CONFIG... [-- OPTION...]: a variant of FuRL+ on the four screening tasks
    fit screen "$1" 25000 evidence/screen "${@:2}"
}

mt10() { # STEPS SEED METHOD: FuRL+, or a method with its learner, on MT10
    fit mt10 "$3-$2" "$1" evidence/mt10 "method/$3" -- --data.seeds "[$2]"
}

four_tasks() { # STEPS TASK METHOD...: the earlier learner and embedded model, three seeds
    for method in "${@:3}"; do fit fixed "$method-$2" "$1" evidence/fixed "method/$method" -- --data.tasks "[$2]"; done
}

[ "${1:-}" != report ] || { report && exit; }

repeat=beyond_paper/action_repeat_2 n_step=beyond_paper/n_step_3 share=beyond_paper/success_share_0.25 margin=ablation/l2_margin_0.1
screen all $repeat $n_step $share $margin
screen none
screen no_repeat $n_step $share $margin
screen no_n_step $repeat $share $margin
screen no_share $repeat $n_step $margin
screen no_l2_margin $repeat $n_step $share
screen updates_2 $repeat $n_step $share $margin -- --model.updates_per_step 2
screen n_step_5 $repeat $share $margin -- --data.replay.n_step 5
screen pink $repeat $n_step $share $margin beyond_paper/pink_noise
screen turns_500 $repeat $n_step $share $margin -- --model.relay.turns '[500]'
screen turns_50 $repeat $n_step $share $margin ablation/relay_turns_50
screen goal_distance $repeat $n_step $share method/goal_distance
for method in furl_no_goal align relay vlm sac; do screen $method $repeat $n_step $share $margin method/$method; done
for seed in 10 11 12; do
    for method in furl sac; do mt10 100000 $seed $method; done
done
report
fit dense plus-10 100000 evidence/dense $repeat $n_step tasks/mt10 -- --data.seeds '[10]' --data.collection.num_workers 0 --data.collection.overlap false
for method in relay align vlm furl_no_goal; do mt10 100000 10 $method; done
fit mt10_fast furl-10 100000 evidence/mt10 learner/fast -- --data.env.action_repeat 1 --data.replay.n_step 1 \
    --data.replay.success_share 0 --model.alignment.l2_margin 0.25
for seed in 10 11 12; do
    for method in furl sac; do mt10 200000 $seed $method; done
done
report

for method in sac furl vlm relay; do four_tasks 20000 drawer-close $method; done
fit learner sac-published-drawer-close 30000 evidence/fixed method/sac learner/published -- --data.tasks '[drawer-close]'
for task in $first_tasks; do four_tasks 20000 "$task" sac furl; done
for steps in 30000 60000; do four_tasks $steps window-close sac furl vlm relay; done
for change in l2_margin_0.1 rho_0.2; do
    fit ablation "furl-$change-window-close" 20000 evidence/fixed method/furl "ablation/$change" -- --data.tasks '[window-close]'
done
for task in $first_tasks; do four_tasks 20000 "$task" relay vlm; done
for task in drawer-open button-press-topdown; do four_tasks 40000 "$task" furl; done
for task in $first_tasks; do four_tasks 60000 "$task" sac; done
for task in drawer-open button-press-topdown; do
    fit light "furl-$task" 60000 evidence/light method/furl -- --data.tasks "[$task]"
done
report
