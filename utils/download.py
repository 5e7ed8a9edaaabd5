"""dataset.py --download: photos from the URLs in annotations, data sets from their public places.

    python dataset.py --download photos --vist dataset/VIST

Threads fetch photos, each one at a time into a temporary file; the calling thread names the files
and keeps the journal, from which a stopped run resumes.
"""

import contextlib
import os
import shlex
import shutil
import signal
import sys
import threading
import warnings
from argparse import Namespace
from collections.abc import Iterable, Iterator
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.archives import PICTURES, fetch_archives, list_pictures
from utils.cli import UserError, printable, say, warn
from utils.dataset_options import (
    DATASET,
    DOWNLOAD,
    DOWNLOADS,
    NOTHING_FOUND,
    SIS,
    SOURCES,
    choose_source,
)
from utils.files import directory_lock, new_holder, read_json, reraise_with_path, write_json
from utils.journal import Journal, is_safe
from utils.photos import DEAD_LINK, photo_index, why_broken
from utils.story_files import SPLITS
from utils.web import (
    BROKEN,
    PATIENCE,
    PLACEHOLDER,
    UNAVAILABLE,
    Failed,
    Gone,
    Patience,
    Photo,
    Web,
    is_stand_in,
    is_web_address,
)

REPORT = "download.json"  # in the folder of the photos
EXISTING, FETCHED, GONE, FAILED = "there already", "fetched", "gone", "failed for now"


class Stopped(KeyboardInterrupt):
    """By Ctrl-C or SIGTERM; the message is the signal's number."""


# -------------------------------------------------------------------------------- ids and addresses


def photo_urls(folder: Path, files: str) -> dict[str, str]:
    """{photo id: URL} of the annotations of VIST or VIST-Edit; what is of another form has none."""
    urls = {}
    for path in sorted(folder.glob(files)):
        data = read_json(path, "annotations")
        lists = [data.get(key) for key in ("images", "photo_sequence_ids", "photo_sequence_urls")]
        images, ids, addresses = (found if isinstance(found, list) else [] for found in lists)
        pairs = [*zip(ids, addresses)]
        for image in images:
            if isinstance(image, dict):
                pairs.append((image.get("id"), image.get("url_o") or image.get("url_m")))
        for photo_id, url in pairs:
            if url:
                urls.setdefault(str(photo_id), url)
    return urls


def refusal(photo: Photo) -> str | None:
    """Why a photo cannot be asked for, or None."""
    if not is_safe(photo.id):
        return "unsafe id"
    if not photo.url:
        return "no URL"
    if not is_web_address(photo.url):
        return "not a web address"
    return UNAVAILABLE if is_stand_in(photo.url) else None


# -------------------------------------------------------------------------------------- all of them


def fetch(args: Namespace) -> int:
    """dataset.py --download. Returns the exit status."""
    what, options, status = args.download, vars(args), 0
    if what != "photos":
        key, name, _ = DOWNLOADS[what]
        folder = options.setdefault(key, DATASET / name)
        try:
            with raise_on_signals(), directory_lock(folder, f"--download {what}"):
                fetch_archives(what, folder, Web(1, 0, PATIENCE))
        except Stopped as stop:
            warn("stopped; the same command goes on")
            return 128 + stop.args[0]
    settings = {name: options[name] for name in DOWNLOAD if name in options}
    if what == "storybooks":
        images = folder / PICTURES
        status = download(images, list_pictures(folder, images), **settings)
    elif what != "flickr8k":
        chosen = choose_source(args)
        if chosen is None:
            print(NOTHING_FOUND, file=sys.stderr)
            return 2
        key, folder = chosen
        if key not in ("vist", "vist_edit"):
            raise UserError(
                f"--download photos: {folder} holds no URLs, and the picture book is drawn "
                "(python -m experiments.picturebook); expected --vist or --vist_edit DIR"
            )
        source = SOURCES[key]
        splits, _ = source.read(folder, args.text)
        needed = {
            split: {
                beat["photo_id"]: story["album_id"] for story in stories for beat in story["beats"]
            }
            for split, (stories, _) in splits.items()
        }
        urls = photo_urls(folder, SIS if key == "vist" else "*/*/[!.]*.json")
        images = options.get("images", folder / source.images)
        photos = list_photos(images, needed, urls, args.follow_links)
        status = download(images, photos, **settings)
    if status < 2:
        command = [f"--{key}", str(folder)]
        if "images" in args:
            command += ["--images", str(images)]
        if args.text != "normalized":
            command += ["--text", args.text]
        say(f"Next: python dataset.py {shlex.join(command)}")
    return status


class Downloader:
    """Threads that fetch photos. results: {photo id: (FETCHED or the like, reason)}."""

    def __init__(self, journal: Journal, web: Web, max_bytes: float):
        self.journal, self.web, self.max_bytes = journal, web, max_bytes
        self.results, self.holders = {}, {}
        self.decoding = threading.Semaphore(os.cpu_count() or 1)  # decoding takes memory

    def run(self, photos: list[Photo], connections: int, bar: tqdm) -> None:
        """Fetch the photos, until it is pointless to go on."""
        for folder in {photo.folder for photo in photos}:
            folder.mkdir(parents=True, exist_ok=True)
            self.holders[folder] = new_holder(folder / "download")
        try:
            with ThreadPool(connections) as pool:  # a stop waits for no server
                for result in pool.imap_unordered(self.work, photos):
                    self.settle(*result)
                    bar.update()
                    if self.web.halted():
                        break
        finally:
            self.web.stop()
            for holder in self.holders.values():
                shutil.rmtree(holder, ignore_errors=True)

    def work(self, photo: Photo) -> tuple[Photo, str, Any]:
        """What a thread does for a photo. Returns what came of it, and `ask`'s answer or the
        reason."""
        holder = self.holders[photo.folder]
        ask = partial(self.ask, photo, holder / photo.id.replace("/", " "))
        try:
            with reraise_with_path(photo.folder / photo.id, holder):
                return photo, FETCHED, self.web.retry(ask)
        except (Failed, Gone) as error:
            return photo, GONE if isinstance(error, Gone) else FAILED, error.args[0]

    def ask(self, photo: Photo, path: Path, seconds: float) -> tuple[Path, str, str]:
        """Ask once for a photo. Returns its temporary file, SHA-256 and suffix."""
        sha256, suffix = self.web.fetch(photo, path, self.max_bytes, seconds)
        with self.decoding:
            if not why_broken(path):
                return path, sha256, suffix
        if photo.sha256 == sha256:  # the same bytes again: no accident on the way
            raise Gone(BROKEN)
        photo.sha256 = sha256
        raise Failed(BROKEN)

    def settle(self, photo: Photo, name: str, answer: Any) -> None:
        """Name a photo's file, or note why there is none."""
        if name == FETCHED:
            path, sha256, suffix = answer
            answer = ""
            if self.journal.add_fetched(photo, sha256):
                name, answer = GONE, PLACEHOLDER
                for photo_id in self.results.keys() & self.journal.remove(sha256):
                    self.results[photo_id] = (GONE, PLACEHOLDER)
            else:
                place = photo.folder / (photo.id + suffix)
                place.parent.mkdir(exist_ok=True)
                with reraise_with_path(place, path.parent):
                    os.replace(path, place)
        if name == GONE:
            self.journal.add(id=photo.id, gone=answer)
        self.results[photo.id] = (name, answer)


def download(
    images: Path, wanted: Iterable[tuple], patience: Patience | None = None, **settings: float
) -> int:
    """Fetch the photos that no file stands for. Returns the exit status.

    wanted: (photo, whether its file exists, why it cannot be asked for) of each, as of
    `list_photos`. settings: any of DOWNLOAD. Raises UserError where another process fetches into
    the same folder, OSError where nothing more can be written: what was fetched stays.
    """
    settings, status, photos = DOWNLOAD | settings, 0, []
    web = Web(settings["connections"], settings["rate"], patience or PATIENCE)
    with directory_lock(images, "--images"):
        journal = Journal(images)
        downloader = Downloader(journal, web, settings["max_megabytes"] * 1e6)
        results = downloader.results
        for photo, exists, reason in wanted:
            if not settings["retry_gone"]:
                reason = reason or journal.gone.get(photo.id)
            if photo.id in results:
                continue
            result = (GONE, reason) if reason else (FAILED, "not asked")
            results[photo.id] = (EXISTING, "") if exists else result
            if results[photo.id][0] == FAILED:
                photos.append(photo)
        bar = tqdm(total=len(photos), unit=" photos", disable=not photos)
        quiet = warnings.catch_warnings(action="ignore")  # Pillow's about odd metadata
        with contextlib.closing(journal.file), bar, raise_on_signals(), quiet:
            try:
                downloader.run(photos, settings["connections"], bar)
            except Stopped as stop:
                bar.close()
                names = [name for name, _ in results.values()]
                warn(
                    f"stopped; {names.count(FETCHED)} photos fetched, {names.count(FAILED)} to go: "
                    "the same command goes on"
                )
                status = 128 + stop.args[0]
        report = make_report(results)
        write_json(images / REPORT, report)
    if status:
        return status
    if web.halted():
        warn(f"{web.halted()}: stopped; the same command goes on")
    print_report(images, report)
    return 1 if report[FAILED] else 0


def list_photos(
    images: Path, needed: dict, urls: dict, follow_links: bool = False
) -> Iterator[tuple[Photo, bool, str | None]]:
    """What `download` takes, of the photos that stories need, in images/<split>/.

    needed: {split: {photo id: album id}}. urls: {photo id: URL}.
    """
    has_folders = any((images / split).is_dir() for split in SPLITS)
    # a folder of a split would hide the photos that lie in the folder itself
    is_flat = not has_folders and any(photo_index(images, "", follow_links))
    for split, albums in needed.items():
        folder = images if is_flat else images / split
        existing, skipped = photo_index(images, split, follow_links)
        for photo_id, album in albums.items():
            photo = Photo(photo_id, album, urls.get(photo_id), folder)
            # none is replaced for which there is a file
            exists = photo_id in existing or skipped.get(photo_id, DEAD_LINK) != DEAD_LINK
            yield photo, exists, refusal(photo)


@contextlib.contextmanager
def raise_on_signals() -> Iterator[None]:
    """Within it, Ctrl-C and SIGTERM raise Stopped."""

    def stop(number: int, frame: object) -> None:
        raise Stopped(number)

    with contextlib.ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, stop))
        yield


def make_report(results: dict[str, tuple[str, str]]) -> dict:
    """How many photos exist or were fetched, and {reason: photo ids} of the others."""
    report = {EXISTING: 0, FETCHED: 0, GONE: {}, FAILED: {}}
    for photo_id, (name, reason) in sorted(results.items(), key=lambda item: item[1]):
        if reason:
            # JSON may hold half a character, no file does
            text = photo_id.encode(errors="backslashreplace").decode()
            report[name].setdefault(reason, []).append(text)
        else:
            report[name] += 1
    return report


def print_report(images: Path, report: dict) -> None:
    lines = {name: report[name] for name in (EXISTING, FETCHED)}
    for name in (GONE, FAILED):
        lines |= {f"{name}: {reason}": len(ids) for reason, ids in report[name].items()}
    print(printable(f"{images}: {sum(lines.values())} photos needed"))
    for name, count in lines.items():
        print(f"  {printable(name):<50} {count:>7}")
    if report[GONE] or report[FAILED]:
        print(printable(f"Which are gone or failed: {images / REPORT}"))
    if report[FAILED]:
        print("Some failed for now: the same command tries them again")
