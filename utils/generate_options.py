"""Every option of generate.py."""

import argparse
import os

from utils import cli
from utils.cli import OUTPUT_DIR, UserError


def temperature(text):
    """argparse type: a number from 0.01 to 100; beyond, floating point has no probabilities
    left."""
    value = float(text)
    if not 0.01 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0.01 to 100")
    return value


def parser():
    parser = cli.Parser(
        prog="generate.py",
        description="Write a story for a folder of photos, one sentence a photo.",
    )
    parser.add_argument(
        "folders", nargs="*", metavar="FOLDER", help="folder of photos; one story each"
    )
    parser.add_argument("--data_path", help="a preprocessed split (.json) in place of folders")
    parser.add_argument(
        "--checkpoint",
        default=OUTPUT_DIR,
        help="checkpoint, or train.py's output_dir (its best one)",
    )
    parser.add_argument(
        "--follow_links", action="store_true", help="take photos that are links out of their folder"
    )
    parser.add_argument(
        "--order", choices=("name", "time"), default="name", help="photos by name, or by EXIF time"
    )
    parser.add_argument(
        "--decoding",
        choices=("greedy", "beam", "nucleus"),
        default="greedy",
        help="how words are chosen",
    )
    parser.add_argument(
        "--num_beams", type=cli.positive_int, default=5, help="beams of --decoding beam"
    )
    parser.add_argument(
        "--top_p", type=cli.fraction, default=0.9, help="probability mass of --decoding nucleus"
    )
    parser.add_argument(
        "--temperature", type=temperature, default=1.0, help="of --decoding nucleus"
    )
    parser.add_argument(
        "--plan",
        choices=("mean", "sample"),
        help="the prior's mean, or a sample of it (default: mean for one telling, sample for "
        "several)",
    )
    parser.add_argument(
        "--plan_temperature", type=cli.positive_float, default=1.0, help="of --plan sample"
    )
    parser.add_argument(
        "--num_samples", type=cli.positive_int, default=1, help="tellings of each folder"
    )
    parser.add_argument(
        "--rerank", action="store_true", help="of the --num_samples keep the one that scores best"
    )
    parser.add_argument(
        "--rerank_by", choices=cli.SCORES, default=cli.BOW_AGREEMENT, help="score of --rerank"
    )
    parser.add_argument(
        "--save_plans", metavar="FILE", help="keep the plans that the stories are told by"
    )
    parser.add_argument(
        "--plans", metavar="FILE", help="tell by the plans of a file that --save_plans has written"
    )
    parser.add_argument(
        "--redraw",
        type=cli.positive_int,
        nargs="+",
        metavar="BEAT",
        help="beats whose plan of --plans is drawn anew",
    )
    parser.add_argument(
        "--interpolate",
        action="store_true",
        help="--num_samples from the first of --plans' tellings to the second",
    )
    parser.add_argument(
        "--max_words", type=cli.positive_int, default=40, help="longest sentence, in tokens"
    )
    parser.add_argument(
        "--batch_size", type=cli.positive_int, default=32, help="stories written together"
    )
    parser.add_argument("--seed", type=cli.non_negative_int, default=0, help="of plans and words")
    parser.add_argument(
        "--format",
        choices=("text", "json", "html", "vist"),
        default="text",
        help="of what is printed: the story as it is written, the object of --output, the page of "
        "--html, "
        "the submission of --vist_output",
    )
    parser.add_argument(
        "--output",
        default=f"{OUTPUT_DIR}/stories.json",
        metavar="FILE",
        help="where the stories go, always",
    )
    parser.add_argument(
        "--html", metavar="FILE", help="write them as one page, the photos inside, too"
    )
    parser.add_argument(
        "--vist_output", metavar="FILE", help="write them as a submission to the VIST Challenge too"
    )
    return parser


def parse(arguments=None):
    """The options, checked against each other."""
    options = parser().parse_args(arguments)
    if bool(options.folders) == bool(options.data_path):
        raise UserError("expected folders of photos, or --data_path with a preprocessed split")
    several = f"--num_samples {options.num_samples}"
    if options.num_samples > MOST_TELLINGS:
        raise UserError(f"{several}: expected {MOST_TELLINGS:,} at most")
    if options.rerank and options.num_samples == 1 and not options.plans:
        raise UserError("--rerank: of one story; expected --num_samples of 2 or more")
    flag = "--html" if options.html else "--format html" if options.format == "html" else None
    if flag and options.data_path:
        raise UserError(
            f"{flag}: a preprocessed split holds no pictures for a page; expected folders of photos"
        )
    goes = {
        os.path.abspath(name): flag
        for flag in ("data_path", "plans")
        if (name := getattr(options, flag))
    }
    for flag in ("output", "vist_output", "html", "save_plans"):
        if name := getattr(options, flag):
            other = goes.setdefault(os.path.abspath(name), flag)
            if other != flag and (other, flag) != ("plans", "save_plans"):
                what = {
                    "output": "the stories go there",
                    "data_path": "the split is there",
                    "plans": "the plans are there",
                }
                raise UserError(
                    f"--{flag} {name}: {what.get(other, f'--{other} goes there')}; expected "
                    "another name"
                )
    for name in ("redraw", "interpolate"):
        if getattr(options, name) and not options.plans:
            raise UserError(f"--{name}: of no plans; expected --plans too")
    if options.interpolate and (options.num_samples == 1 or options.redraw):
        raise UserError("--interpolate: expected --num_samples of 2 or more, and no --redraw")
    if options.decoding != "nucleus" and options.num_samples > 1 and not options.interpolate:
        if options.plan == "mean":
            raise UserError(
                f"{several}: all would be alike; add --plan sample or --decoding nucleus"
            )
        if options.plans and not options.redraw:
            raise UserError(
                f"{several}: all would be alike; expected --redraw or --interpolate with --plans"
            )
    return options


MOST_TELLINGS = 10_000  # of a folder
