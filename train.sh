#!/usr/bin/env bash
# dataset.py -> train.py. Every flag goes to train.py.
#
#   bash train.sh                                            a drawn sample: draw, train, write a story, score it
#   bash train.sh --train_data_path … --val_data_path …      your own preprocessed data (python dataset.py)
set -euo pipefail

output_dir=output
own_data=false
for ((i = 1; i <= $#; i++)); do
    next=$((i + 1))
    case ${!i} in
        --output_dir) output_dir=${!next:-} ;;
        --output_dir=*) output_dir=${!i#*=} ;;
        --train_data_path | --train_data_path=* | --val_data_path | --val_data_path=*) own_data=true ;;
        -h | --help) exec python train.py --help ;;
    esac
done

say() { printf '\n== %s\n' "$*"; }

if $own_data; then
    exec python train.py "$@"
fi

# A mistyped flag is better told now than after the drawing.
python -c 'import sys, train; train.parser().parse_args(sys.argv[1:])' "$@"

say "No --train_data_path named: a drawn picture book serves as the sample"
book=dataset/picturebook
data=dataset/preprocessed/picturebook
python picturebook.py --output $book
say "Pictures and sentences -> tensors"
python dataset.py --picturebook $book --output $data
say "Training a small model from scratch"
python train.py --train_data_path $data/train.json --iwae_samples 20 --resume "$@"

say "A story for five pictures that it has never seen"
mkdir -p "$output_dir/unseen"
pictures=($book/images/test/*.jpg)
cp "${pictures[@]:0:5}" "$output_dir/unseen"
python generate.py "$output_dir/unseen" --checkpoint "$output_dir" --output "$output_dir/stories.json"
say "Its CDE score"
python CDE_score.py "$output_dir/stories.json" --checkpoint "$output_dir" --output "$output_dir/scores"

cat <<END

Try next:
  python generate.py <folder of photos> --checkpoint $output_dir --num_stories 3 --html story.html
  python generate.py --data_path $data/test.json --checkpoint $output_dir --output test_stories.json
  python picturebook.py --check test_stories.json
  python CDE_score.py --checkpoint $output_dir --controls
  the loss curves: $output_dir/training.png; all options: python train.py --help; real photos: README.md
END
