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


def parse(arguments: list[str] | None = None) -> Namespace:
    """The options, checked against each other."""
    options = parser().parse_args(arguments)
    if bool(options.folders) == bool(options.data_path):
        raise UserError("expected folders of photos, or --data_path with a preprocessed split")
    several = f"--num_samples {options.num_samples}"
    if options.num_samples > MAX_SAMPLES:
        raise UserError(f"{several}: expected {MAX_SAMPLES:,} at most")
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
            with cli.flag(f"--{flag}"):  # before there is work to lose
                check_can_write(name)
    for name in ("redraw", "interpolate"):
        if getattr(options, name) and not options.plans:
            raise UserError(f"--{name}: of no plans; expected --plans too")
    if options.interpolate and (options.num_samples == 1 or options.redraw):
        raise UserError("--interpolate: expected --num_samples of 2 or more, and no --redraw")
    return options


def check_model(options: Namespace, model: Any) -> None:
    """Raise UserError where the model lacks what the options ask for, or an option has no effect;
    choose --plan and what goes with it."""
    plan, where = model.config.plan, options.checkpoint
    several = f"--num_samples {options.num_samples}"
    if options.decoding != "nucleus" and options.num_samples > 1 and not options.interpolate:
        if options.plan == "mean":
            raise UserError(
                f"{several}: all would be alike; add --plan sample or --decoding nucleus"
            )
        if options.plans and not options.redraw:
            raise UserError(
                f"{several}: all would be alike; expected --redraw or --interpolate with --plans"
            )
    for name in ("plan", "plans", "save_plans"):
        value = getattr(options, name)
        if plan != "cvae" and value not in (None, "mean"):
            raise UserError(
                f"--{name} {value}: {where} was trained with --plan {plan}; expected cvae"
            )
    if options.plan is None:
        samples = plan == "cvae" and (options.num_samples > 1 or options.redraw)
        options.plan = "sample" if samples else "mean"
    if plan != "cvae" and options.num_samples > 1 and options.decoding != "nucleus":
        raise UserError(
            f"{several}: {where} was trained with --plan {plan}, so that all would be alike; add "
            "--decoding nucleus"
        )
    # plans that are given are not drawn
    draws = options.plan == "sample" and (options.redraw or not options.plans)
    if not draws and options.plan_temperature is not None:
        raise UserError(
            f"--plan_temperature {options.plan_temperature}: no plan is sampled; expected --plan "
            "sample too"
        )
    if not draws and options.decoding != "nucleus" and options.seed is not None:
        raise UserError(
            f"--seed {options.seed}: nothing is drawn; expected --plan sample or --decoding nucleus"
        )
    lacks = {cli.BOW_AGREEMENT: not model.config.state_bow, cli.MAX_KL: plan != "cvae"}
    if options.rerank and lacks.get(options.rerank_by):
        raise UserError(
            f"--rerank_by {options.rerank_by}: the model in {where} lacks it; expected another"
        )
    fill_in(options)


def fill_in(options: Namespace) -> None:
    """The defaults of what is drawn."""
    if options.seed is None:
        options.seed = 0
    if options.plan_temperature is None:
        options.plan_temperature = 1.0
