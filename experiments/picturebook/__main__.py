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
    add = parser.add_argument
    add("--output", default=BOOK, help="folder to write")
    add("--seed", type=int, default=0, help="the same seed gives the same bytes")
    numbers = [(split, count, f"stories in {split}") for split, count in SPLIT_SIZES.items()]
    numbers += [
        ("stories_per_album", 1, "stories of the same five pictures"),
        ("size", 128, "width and height of a picture in pixels"),
        ("num_workers", os.cpu_count(), "processes that draw"),
    ]
    for name, default, meaning in numbers:
        add(f"--{name}", type=positive_int, default=default, help=meaning)
    add("--overwrite", action="store_true", help="replace a picture book of other settings")
    add("--check", metavar="FILE", help="draw nothing: check these stories against --world")
    add("--world", default=BOOK, help="picture book that --check reads")
    add("--json", metavar="FILE", help="also write the figures of --check here")
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
    output = arguments.output
    settings = {
        "stories": {split: getattr(arguments, split) for split in SPLIT_SIZES},
        "stories_per_album": arguments.stories_per_album,
        "seed": arguments.seed,
        "size": arguments.size,
    }
    if make_dataset(output, settings, arguments.num_workers, arguments.overwrite):
        pictures = len(list(Path(output, "images").glob("*/*.jpg")))
        stories = sum(settings["stories"].values())
        print(f"{output}: {stories} stories, {pictures} pictures written")
    else:
        print(
            f"{output}: this picture book is there already, drawn with these settings; "
            "nothing to do"
        )
    options = f" --picturebook {output}" if output != BOOK else ""
    print(f"next: python dataset.py{options}")


if __name__ == "__main__":
    run(main)
