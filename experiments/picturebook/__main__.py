"""The command: draw the picture book, or check stories about it."""

import os
from pathlib import Path

from experiments.picturebook.facts import SPLIT_SIZES
from utils.cli import BOOK, Parser, UserError, parse_before_imports, positive_int, run, warn


def parser():
    parser = Parser(
        prog="python -m experiments.picturebook",
        description="Draw a picture book as a data set, or check stories about it.",
    )
    parser.add_argument("--output", default=BOOK, help="folder to write")
    for split, count in SPLIT_SIZES.items():
        parser.add_argument(
            f"--{split}", type=positive_int, default=count, help=f"stories in {split}"
        )
    parser.add_argument(
        "--stories_per_album",
        type=positive_int,
        default=1,
        help="stories of the same five pictures",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes")
    parser.add_argument(
        "--size", type=positive_int, default=128, help="width and height of a picture in pixels"
    )
    parser.add_argument(
        "--num_workers", type=positive_int, default=os.cpu_count(), help="processes that draw"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a picture book of other settings"
    )
    parser.add_argument(
        "--check", metavar="FILE", help="draw nothing: check these stories against --world"
    )
    parser.add_argument("--world", default=BOOK, help="picture book that --check reads")
    parser.add_argument("--json", metavar="FILE", help="also write the figures of --check here")
    return parser


def parse(arguments=None):
    options = parser().parse_args(arguments)
    if options.json and not options.check:
        raise UserError("--json: goes with --check")
    return options


if __name__ == "__main__":
    parse_before_imports(parse)


from experiments.picturebook.checker import check_stories, print_check
from experiments.picturebook.writer import make_dataset
from utils.files import write_json
from utils.stories import read_stories


def main():
    arguments = parse()
    if arguments.check:
        file = read_stories(arguments.check)
        for remark, count in (+file.remarks).items():
            warn(f"{arguments.check}: {count} stories {remark}")
        result = check_stories(file.stories, arguments.world)
        print_check(result)
        if arguments.json:
            write_json(arguments.json, result)
        return
    settings = {
        "stories": {split: getattr(arguments, split) for split in SPLIT_SIZES},
        "stories_per_album": arguments.stories_per_album,
        "seed": arguments.seed,
        "size": arguments.size,
    }
    if make_dataset(arguments.output, settings, arguments.num_workers, arguments.overwrite):
        pictures = len(list(Path(arguments.output, "images").glob("*/*.jpg")))
        print(
            f"{arguments.output}: {sum(settings['stories'].values())} stories, {pictures} pictures "
            "written"
        )
    else:
        print(
            f"{arguments.output}: this picture book is there already, drawn with these settings; "
            "nothing to do"
        )
    print(
        "next: python dataset.py"
        + (f" --picturebook {arguments.output}" if arguments.output != BOOK else "")
    )


if __name__ == "__main__":
    run(main)
