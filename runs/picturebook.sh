#!/usr/bin/env bash
# The drawn sample, from nothing to the tables "right of its own pictures" and "Systems" of
# docs/results.md (its model without a plan is one of runs/picturebook_ablation.sh). A run that was
# stopped goes on when the command is given again.
set -euo pipefail

bash train.sh

python generate.py --data_path dataset/preprocessed/picturebook/test.json \
    --output output/test_stories.json
python -m experiments.picturebook --check output/test_stories.json
python CDE_score.py human=dataset/preprocessed/picturebook/test.json \
    model=output/test_stories.json --references dataset/picturebook/references/test.json \
    --baselines --corruptions --train_data_path dataset/preprocessed/picturebook/train.json
