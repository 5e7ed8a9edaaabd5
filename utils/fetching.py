"""dataset.py --download: the photos that stories need and that are not there."""

import shlex
import sys

from utils.cli import UserError, say
from utils.dataset_options import DOWNLOAD, NOTHING_FOUND, SOURCES, parser
from utils.photos import DEAD_LINK, photo_index
from utils.preprocessing import album_of_photos, choose_source, why_broken


def fetch_photos(args):
    """Fetch the photos that the stories need and that are not there. Returns the exit status."""
    from utils import download

    chosen = choose_source(args)
    if chosen is None:
        print(NOTHING_FOUND, file=sys.stderr)
        return 2
    key, folder = chosen
    if key == "picturebook":
        raise UserError(
            "--download: the picture book is drawn (python -m experiments.picturebook); expected "
            "--vist or --vist_edit DIR"
        )
    source = SOURCES[key]
    images = vars(args).get("images", folder / source.images)
    splits, _ = source.read(folder, args.text)
    needed = {split: album_of_photos(stories) for split, (stories, _) in splits.items()}
    urls = download.vist_urls(folder) if key == "vist" else download.vist_edit_urls(folder)
    options = {name: value for name, value in vars(args).items() if name in DOWNLOAD}

    def there(split):
        """Ids of the photos for which a file stands, taken or left aside: none is replaced."""
        index, aside = photo_index(images, split, args.follow_links)
        return index.keys() | {
            photo_id for photo_id, reason in aside.items() if reason != DEAD_LINK
        }

    status = download.download(images, needed, urls, there, why_broken, **options)
    if status in (0, 1):
        named = ["--images", str(images)] if "images" in args else []
        text = ["--text", args.text] if args.text != parser().get_default("text") else []
        say(f"Next: python dataset.py {shlex.join([f'--{key}', str(folder), *named, *text])}")
    return status
