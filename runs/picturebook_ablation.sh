#!/usr/bin/env bash
# What the plan is worth on the drawn sample: the tables "Ablation" and "Plans" of docs/results.md,
# three variants and three seeds. It needs the model of runs/picturebook.sh, whose photo encoder
# makes the features. It goes on where it was stopped.
set -euo pipefail

python dataset.py --picturebook dataset/picturebook --encoder_weights output --store features \
    --output dataset/preprocessed/picturebook_features
python -m experiments.ablation \
    --train_data_path dataset/preprocessed/picturebook_features/train.json \
    --world dataset/picturebook --jobs 2 --train "--iwae_samples 20"
python -m experiments.plan_analysis output/ablation/plan=cvae/0 output/ablation/plan=cvae/1 \
    output/ablation/plan=cvae/2 --control --albums 50 \
    --data_path dataset/preprocessed/picturebook_features/test.json \
    --no_plan output/ablation/plan=none/0 output/ablation/plan=none/1 output/ablation/plan=none/2
