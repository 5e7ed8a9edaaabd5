"""Every option of generate.py."""

import os
from argparse import Namespace
from typing import Any

from utils import cli
from utils.cli import OUTPUT_DIR, UserError
from utils.files import check_can_write

MAX_SAMPLES = 10_000  # of a folder


def parser() -> cli.Parser:
    parser = cli.Parser(
        prog="generate.py",
        description="Write a story for a folder of photos, one sentence per photo.",
    )
    add, count = parser.add_argument, cli.positive_int
    add("folders", nargs="*", metavar="FOLDER", help="folder of photos; one story each")
    add("--data_path", help="a preprocessed split (.json) in place of folders")
    add("--checkpoint", default=OUTPUT_DIR, help="checkpoint, or train.py's output_dir")
    add("--follow_links", action="store_true", help="read photos that are links out of the folder")
    add("--order", choices=("name", "time"), help="photos by name (default) or EXIF time")
    # None, here and for the next nine: the checkpoint's
    chosen = "how words are chosen (this and what belongs to it: default of the checkpoint)"
    add("--decoding", choices=("greedy", "beam", "nucleus"), help=chosen)
    add("--num_beams", type=cli.number(int, 2), help="of --decoding beam")
    add("--length_penalty", type=cli.number(float, -10, high=10), help="of --decoding beam")
    add("--top_p", type=cli.fraction, help="of --decoding nucleus")
    add("--top_k", type=cli.non_negative_int, help="of --decoding nucleus; 0: all words")
    temperature = cli.number(float, 0.01, high=100)  # beyond, no probabilities are left
    add("--temperature", type=temperature, help="of --decoding nucleus")
    ngrams = "no n-gram of so many words twice in a story; 0: all may be"
    add("--no_repeat_ngram_size", type=cli.non_negative_int, help=ngrams)
    penalty = "above 1, words that the story has used are less likely, as in transformers"
    add("--repetition_penalty", type=cli.positive_float, help=penalty)
    add("--min_new_tokens", type=count, help="shortest sentence, in tokens")
    add("--max_new_tokens", type=count, help="longest sentence, in tokens")
    plan = "the prior's mean or a sample of it (default: mean for one story, sample for several)"
    add("--plan", choices=("mean", "sample"), help=plan)
    add("--plan_temperature", type=cli.positive_float, help="of --plan sample (default: 1.0)")
    add("--num_samples", type=count, default=1, help="stories per folder")
    add("--rerank", action="store_true", help="of --num_samples keep the one that scores best")
    score = f"score of --rerank (default: {cli.BOW_AGREEMENT})"
    add("--rerank_by", choices=cli.SCORE_NAMES, help=score)
    add("--save_plans", metavar="FILE", help="write the plans of the stories to a file")
    add("--plans", metavar="FILE", help="write stories under the plans of such a file")
    redraw = "beats whose plan of --plans is sampled anew"
    add("--redraw", type=count, nargs="+", metavar="BEAT", help=redraw)
    interpolate = "--num_samples from the first plans in --plans to the second"
    add("--interpolate", action="store_true", help=interpolate)
    add("--batch_size", type=count, default=32, help="stories written together")
    seed = "random seed of plans and words (default: 0)"
    add("--seed", type=cli.non_negative_int, help=seed)
    formats = "of stdout: the story, or what --output, --html or --vist_output would hold"
    add("--format", choices=("text", "json", "html", "vist"), default="text", help=formats)
    add("--output", default=f"{OUTPUT_DIR}/stories.json", metavar="FILE", help="stories, always")
    add("--html", metavar="FILE", help="write a page too, the photos inside")
    add("--vist_output", metavar="FILE", help="write a submission to the VIST Challenge too")
    return parser


# those that a StoryWriter takes by name
WRITER_OPTIONS = (
    "decoding", "num_beams", "length_penalty", "top_p", "top_k", "temperature",
    "no_repeat_ngram_size", "repetition_penalty", "min_new_tokens", "max_new_tokens",
    "plan", "plan_temperature", "batch_size", "seed",
)  # fmt: skip


def parse(arguments: list[str] | None = None) -> Namespace:
    """The options, checked against each other; that outputs can be written is tried."""
    options = parser().parse_args(arguments)
    if bool(options.folders) == bool(options.data_path):
        raise UserError("expected folders of photos, or --data_path with a preprocessed split")
    if options.num_samples > MAX_SAMPLES:
        raise UserError(f"--num_samples {options.num_samples}: expected {MAX_SAMPLES:,} at most")
    if options.rerank and options.num_samples == 1 and not options.plans:
        raise UserError("--rerank: of one story; expected --num_samples of 2 or more")
    if options.data_path:
        for name in ("order", "follow_links"):
            if value := getattr(options, name):
                raise UserError(
                    f"--{name}{'' if value is True else f' {value}'}: of folders of photos; "
                    "--data_path has an order of its own"
                )
    if options.rerank_by and not options.rerank:
        raise UserError(f"--rerank_by {options.rerank_by}: expected --rerank too")
    options.rerank_by = options.rerank_by or cli.BOW_AGREEMENT
    options.order = options.order or "name"
    flag = "--html" if options.html else "--format html" if options.format == "html" else None
    if flag and options.data_path:
        raise UserError(
            f"{flag}: a preprocessed split holds no pictures for a page; expected folders of photos"
        )
    for name in ("redraw", "interpolate"):
        if getattr(options, name) and not options.plans:
            raise UserError(f"--{name}: of no plans; expected --plans too")
    if options.interpolate and (options.num_samples == 1 or options.redraw):
        raise UserError("--interpolate: expected --num_samples of 2 or more, and no --redraw")
    check_outputs(options)
    return options


def check_outputs(options: Namespace) -> None:
    """Raise UserError where two outputs are one file, or one cannot be written, before there is
    work to lose."""
    places = {}  # {path: the first option that names it}
    for name in ("data_path", "plans", "output", "vist_output", "html", "save_plans"):
        path = getattr(options, name)
        if not path:
            continue
        other = places.setdefault(os.path.abspath(path), name)
        if other != name and (other, name) != ("plans", "save_plans"):
            raise UserError(f"--{name} {path}: --{other} names that file; expected another name")
        if name not in ("data_path", "plans"):
            with cli.flag(f"--{name}"):
                check_can_write(path)


def writer_options(num_samples: int, plans: Any, given: dict[str, Any]) -> Namespace:
    """The options of a StoryWriter's call, refused as a command line's are. given: of
    WRITER_OPTIONS, by name."""
    arguments = ["."]
    for name, value in given.items():
        if name not in WRITER_OPTIONS:
            raise TypeError(f"{name!r} is no option of a StoryWriter")
        if value is not None:
            arguments.append(f"--{name}={value}")
    options = parser().parse_args([*arguments, f"--num_samples={num_samples}"])
    options.plans, options.checkpoint = plans, "this model"
    return options
