"""Photos fetched from the addresses in VIST's and VIST-Edit's annotations.

    python dataset.py --download --vist dataset/VIST

Threads fetch, each one photo at a time into a temporary file; the calling thread names the files
and keeps the journal, from which a stopped run resumes.
"""

import contextlib
import os
import random
import shlex
import shutil
import signal
import sys
import threading
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue

from tqdm import tqdm

from utils.cli import UserError, printable, say, warn
from utils.dataset_options import DOWNLOAD, NOTHING_FOUND, SOURCES, choose_source
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


class Stopped(KeyboardInterrupt):
    """By Ctrl-C or SIGTERM; the message is the signal's number."""


# -------------------------------------------------------------------------------- ids and addresses


def vist_urls(folder: Path) -> dict[str, str]:
    """{photo id: URL} of a folder in VIST's format."""
    urls = {}
    for split in SPLITS:
        path = folder / "sis" / f"{split}.story-in-sequence.json"
        data = read_json(path, "VIST annotations") if path.exists() else None
        images = data.get("images") if isinstance(data, dict) else None
        for image in images if isinstance(images, list) else ():
            if isinstance(image, dict) and (url := image.get("url_o") or image.get("url_m")):
                urls.setdefault(str(image.get("id")), url)
    return urls


def vist_edit_urls(folder: Path) -> dict[str, str]:
    """{photo id: URL} of VIST-Edit."""
    urls = {}
    for path in sorted(folder.glob("*/*/[!.]*.json")):
        data = read_json(path, "a story of VIST-Edit")
        ids, addresses = (data.get(f"photo_sequence_{name}") for name in ("ids", "urls"))
        if isinstance(ids, list) and isinstance(addresses, list):
            for photo_id, url in zip(ids, addresses):
                if url:
                    urls.setdefault(str(photo_id), url)
    return urls


def refusal(photo_id: str, url: object) -> str | None:
    """Why a photo cannot be asked for, or None."""
    if not is_safe(photo_id):
        return "unsafe id"
    if not url:
        return "no URL"
    if not is_web_address(url):
        return "not a web address"
    return UNAVAILABLE if is_stand_in(url) else None


# -------------------------------------------------------------------------------------- all of them


def fetch_photos(args: Namespace) -> int:
    """dataset.py --download. Returns the exit status."""
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
    source, options = SOURCES[key], vars(args)
    images = options.get("images", folder / source.images)
    splits, _ = source.read(folder, args.text)
    needed = {
        split: {beat["photo_id"]: story["album_id"] for story in stories for beat in story["beats"]}
        for split, (stories, _) in splits.items()
    }
    urls = vist_urls(folder) if key == "vist" else vist_edit_urls(folder)

    def list_existing(split: str) -> set[str]:
        """Ids of the photos for which there is a file: none is replaced."""
        index, skipped = photo_index(images, split, args.follow_links)
        return {*index, *(name for name, reason in skipped.items() if reason != DEAD_LINK)}

    settings = {name: options[name] for name in DOWNLOAD if name in options}
    status = download(images, needed, urls, list_existing, why_broken, **settings)
    if status in (0, 1):
        command = [f"--{key}", str(folder)]
        if "images" in args:
            command += ["--images", str(images)]
        if args.text != "normalized":
            command += ["--text", args.text]
        say(f"Next: python dataset.py {shlex.join(command)}")
    return status


class Downloader:
    """Threads that fetch photos. existing, fetched: photo ids; failed: {photo id: reason}."""

    def __init__(self, images: Path, journal: Journal, check: Callable, web: Web, max_bytes: float):
        self.images, self.journal, self.check = images, journal, check
        self.web, self.max_bytes = web, max_bytes
        self.existing, self.fetched, self.gone, self.failed = set(), set(), {}, {}
        self.holders, self.jobs, self.results = {}, SimpleQueue(), SimpleQueue()
        self.decoding = threading.Semaphore(os.cpu_count() or 1)  # decoding takes memory

    def run(self, photos: list[Photo], connections: int, bar: tqdm) -> None:
        """Fetch the photos, until it is pointless to go on."""
        for photo in photos:
            self.failed[photo.id] = "not asked"
            if photo.folder not in self.holders:
                photo.folder.mkdir(parents=True, exist_ok=True)
                self.holders[photo.folder] = new_holder(photo.folder / "download")
            self.jobs.put(photo)
        for _ in range(min(connections, len(photos))):
            threading.Thread(target=self.work, daemon=True).start()  # a stop waits for no server
        waiting = set(photos)
        try:
            while waiting and not self.web.halted():
                photo, result = self.results.get()
                waiting.remove(photo)
                self.settle(photo, result)
                bar.update()
        finally:
            self.web.stopped.set()
            for holder in self.holders.values():
                shutil.rmtree(holder, ignore_errors=True)

    def work(self) -> None:
        """What each thread does: photos, until there are no more."""
        while not self.web.stopped.is_set():
            try:
                photo = self.jobs.get_nowait()
            except Empty:
                return
            try:
                result = self.ask(photo)
            except Exception as error:  # an answer, or the disk's failure
                result = error
            self.results.put((photo, result))

    def ask(self, photo: Photo) -> tuple[Path, str, str]:
        """Ask for a photo until it is there, gone, or not worth another attempt. Returns its
        temporary file, SHA-256 and suffix."""
        web, patience, attempt, seconds = self.web, self.web.patience, 0, 0.0
        path = self.holders[photo.folder] / photo.id
        while True:
            web.wait_for_turn()
            if web.stopped.is_set():
                raise Failed("not asked")
            path.touch()
            attempt += 1
            start = time.monotonic()
            try:
                sha256, suffix = web.fetch(photo, path, self.max_bytes, patience.photo - seconds)
                web.note(None)
                with self.decoding:
                    if not self.check(path):
                        return path, sha256, suffix
                if photo.sha256 == sha256:  # the same bytes again: no accident on the way
                    raise Gone(BROKEN)
                photo.sha256 = sha256
                failure = Failed(BROKEN)
            except Failed as error:
                failure = error
                web.note(str(error), error.wait if str(error) == "HTTP 429" else 0.0)
            seconds += time.monotonic() - start
            is_last = attempt >= min(failure.attempts, patience.attempts)
            if is_last or seconds >= patience.photo or web.halted():
                raise failure
            wait = patience.backoff * 2 ** (attempt - 1) * random.uniform(0.5, 1)
            web.stopped.wait(min(max(wait, failure.wait), patience.longest))

    def settle(self, photo: Photo, result: tuple | Exception) -> None:
        """Name a photo's file, or note why there is none."""
        if isinstance(result, Failed):
            self.failed[photo.id] = str(result)
            return
        if isinstance(result, Gone):
            self.journal.add_gone(photo.id, str(result))
        elif isinstance(result, Exception):
            if isinstance(result, OSError):
                result.filename = str(photo.folder / photo.id)
            raise result
        else:
            path, sha256, suffix = result
            place = photo.folder / (photo.id + suffix)
            file = place.relative_to(self.images).as_posix()
            if self.journal.add_fetched(photo, file, sha256):
                path.unlink()
                self.journal.add_gone(photo.id, PLACEHOLDER)
                self.journal.remove(sha256)
                for found in (self.existing, self.fetched):
                    for photo_id in found & self.journal.gone.keys():
                        found.remove(photo_id)
                        self.gone[photo_id] = self.journal.gone[photo_id]
            else:
                with reraise_with_path(place, path.parent):
                    os.replace(path, place)
                self.fetched.add(photo.id)
        del self.failed[photo.id]
        if photo.id not in self.fetched:
            self.gone[photo.id] = self.journal.gone[photo.id]


def download(
    images: Path,
    needed: dict[str, dict[str, str]],
    urls: dict[str, str],
    list_existing: Callable[[str], set[str]],
    check: Callable[[Path], str | None],
    connections: int = 16,
    rate: float = 20.0,
    max_megabytes: float = 50.0,
    retry_gone: bool = False,
    patience: Patience | None = None,
) -> int:
    """Fetch the photos that stories need and that no file stands for, into images/<split>/.
    Returns the exit status.

    needed: {split: {photo id: album id}}; check(path): why a file is no photo, or None. Raises
    UserError where another process fetches into the same folder, OSError where nothing more can be
    written: what was fetched stays.
    """
    images, status = Path(images), 0
    web = Web(connections, rate, patience or PATIENCE)
    with directory_lock(images, "--images"):
        journal = Journal(images)
        downloader = Downloader(images, journal, check, web, max_megabytes * 1e6)
        photos = list_photos(downloader, needed, urls, list_existing, retry_gone)
        bar = tqdm(total=len(photos), unit=" photos", disable=not photos)
        with contextlib.closing(journal.file), bar, raise_on_signals(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's about odd metadata
            try:
                downloader.run(photos, connections, bar)
            except Stopped as stop:
                fetched, failed = len(downloader.fetched), len(downloader.failed)
                bar.close()
                warn(f"stopped; {fetched} photos fetched, {failed} to go: the same command goes on")
                status = 128 + stop.args[0]
        report = make_report(downloader)
        write_json(images / REPORT, report)
    if status:
        return status
    if web.halted():
        warn(f"{web.halted()}: stopped; the same command goes on")
    print_report(images, report)
    return 1 if downloader.failed else 0


def list_photos(
    downloader: Downloader, needed: dict, urls: dict, list_existing: Callable, retry_gone: bool
) -> list[Photo]:
    """The photos to ask for; the downloader notes those that exist, are gone, or cannot be."""
    images, gone, photos, seen = downloader.images, downloader.journal.gone, [], set()
    has_folders = any((images / split).is_dir() for split in SPLITS)
    # a folder of a split would hide the photos that lie in the folder itself
    is_flat = not has_folders and any(map(list_existing, needed))
    for split, albums in needed.items():
        folder, existing = images if is_flat else images / split, list_existing(split)
        for photo_id, album in albums.items():
            if photo_id in seen:
                continue
            seen.add(photo_id)
            url = urls.get(photo_id)
            reason = refusal(photo_id, url)
            if not retry_gone:
                reason = reason or gone.get(photo_id)
            if photo_id in existing:
                downloader.existing.add(photo_id)
            elif reason:
                downloader.gone[photo_id] = reason
            else:
                photos.append(Photo(photo_id, album, url, folder))
    return photos


@contextlib.contextmanager
def raise_on_signals() -> Iterator[None]:
    """Within it, Ctrl-C and SIGTERM raise Stopped."""

    def stop(number: int, frame: object) -> None:
        raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def make_report(downloader: Downloader) -> dict:
    report = {"there already": len(downloader.existing), "fetched": len(downloader.fetched)}
    for name, reasons in (("gone", downloader.gone), ("failed for now", downloader.failed)):
        groups = {}
        for photo_id, reason in sorted(reasons.items(), key=lambda item: item[1]):
            # JSON may hold half a character, no file does
            text = photo_id.encode(errors="backslashreplace").decode()
            groups.setdefault(reason, []).append(text)
        report[name] = groups
    return report


def print_report(images: Path, report: dict) -> None:
    lines = {name: report[name] for name in ("there already", "fetched")}
    for name in ("gone", "failed for now"):
        lines |= {f"{name}: {reason}": len(ids) for reason, ids in report[name].items()}
    print(printable(f"{images}: {sum(lines.values())} photos needed"))
    for name, count in lines.items():
        print(f"  {printable(name):<50} {count:>7}")
    if report["gone"] or report["failed for now"]:
        print(printable(f"Which are gone or failed: {images / REPORT}"))
    if report["failed for now"]:
        print("Some failed for now: the same command tries them again")
