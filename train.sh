#!/usr/bin/env bash
# dataset.py -> train.py. Every flag goes to train.py; paths are relative to the folder that you are in.
#
#   bash train.sh                                            a drawn sample: draw, train, write a story, score it
#   bash train.sh --train_data_path … --val_data_path …      your own preprocessed data (python dataset.py)
set -euo pipefail

repo=$(dirname "${BASH_SOURCE[0]}")
output_dir=output
own_data=false
for ((i = 1; i <= $#; i++)); do
    next=$((i + 1))
    case ${!i} in
        --output_dir) output_dir=${!next:-} ;;
        --output_dir=*) output_dir=${!i#*=} ;;
        --train_data_path | --train_data_path=* | --val_data_path | --val_data_path=*) own_data=true ;;
        -h | --help) exec python "$repo/train.py" --help ;;
    esac
done

say() { printf '\n== %s\n' "$*"; }

if $own_data; then
    exec python "$repo/train.py" "$@"
fi

# A mistyped flag is refused before the drawing.
export PYTHONPATH=$repo${PYTHONPATH:+:$PYTHONPATH}
check='import sys; from utils import cli, train_options; sys.argv[0] = "train.py"'
python -c "$check; cli.run(lambda: train_options.parse() and None)" "$@"

say "No --train_data_path named: the sample is a drawn picture book"
book=dataset/picturebook
data=dataset/preprocessed/picturebook
python -m experiments.picturebook --output $book
say "Pictures and sentences -> tensors"
python "$repo/dataset.py" --picturebook $book --output $data
say "Training a small model from scratch"
python "$repo/train.py" --train_data_path $data/train.json --iwae_samples 20 --resume "$@"

say "A story for five pictures that were not in the training"
mkdir -p "$output_dir/unseen"
pictures=($book/images/test/*.jpg)
cp "${pictures[@]:0:5}" "$output_dir/unseen"
python "$repo/generate.py" "$output_dir/unseen" --checkpoint "$output_dir" --output "$output_dir/stories.json"
say "Its CDE score"
python "$repo/CDE_score.py" "$output_dir/stories.json" --checkpoint "$output_dir" --output "$output_dir/scores"

script() { if [ "$repo" = . ]; then echo "$1"; else printf '%q' "$repo/$1"; fi; }
path=$(if [ "$repo" != . ]; then printf 'PYTHONPATH=%q ' "$repo"; fi)
cat <<END

Try next:
  python $(script generate.py) <folder of photos> --checkpoint $output_dir --num_samples 3 --html story.html
  python $(script generate.py) --data_path $data/test.json --checkpoint $output_dir --output $output_dir/test_stories.json
  ${path}python -m experiments.picturebook --check $output_dir/test_stories.json
  python $(script CDE_score.py) --checkpoint $output_dir --corruptions
  the loss curves: $output_dir/training.png; all options: --help; real photos: README.md
END
