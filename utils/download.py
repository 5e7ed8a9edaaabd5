"""Photos fetched from the addresses in VIST's and VIST-Edit's annotations.

    python dataset.py --download --vist dataset/VIST

Threads fetch, each one photo at a time into a temporary file; the calling thread names the files
and keeps the journal, from which a stopped run resumes.
"""

import contextlib
import hashlib
import json
import logging
import os
import random
import re
import shlex
import shutil
import signal
import sys
import threading
import time
import warnings
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from queue import Empty, SimpleQueue
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

import urllib3
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    InvalidHeader,
    MaxRetryError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util import Retry, Timeout, make_headers, parse_url

from utils.cli import UserError, printable, say, warn
from utils.dataset_options import DOWNLOAD, NOTHING_FOUND, SOURCES, choose_source
from utils.files import directory_lock, new_holder, read_json, reraise_with_path, write_json
from utils.photos import DEAD_LINK, photo_index, why_broken
from utils.story_files import SPLITS

USER_AGENT = (
    "plan-CVAE-visual-storytelling (research; fetches the photos of the VIST data set; dataset.py "
    "--download)"
)
SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "GIF": ".gif",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "TIFF": ".tif",
}
REDIRECTS = 5
BROKEN, PLACEHOLDER, UNAVAILABLE = "broken where it comes from", "placeholder", "photo unavailable"
# Failures to connect, and requests to slow down, in a row, after which the rest is not asked for.
MAX_UNCONNECTED, MAX_PAUSES = 30, 10
JOURNAL, REPORT = "download.jsonl", "download.json"  # in the folder of the photos


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds, and how often to ask."""

    connect: float = 10
    read: float = 30  # between two parts of an answer
    photo: float = 180  # for all requests of one photo
    attempts: int = 5
    backoff: float = 1  # before the second attempt, doubled before each further one
    longest: float = 120  # that a server can have us wait


PATIENCE = Patience()


@dataclass(eq=False)
class Photo:
    id: str
    album: str
    url: str
    folder: Path
    sha256: str = ""  # of an answer that cannot be decoded


class Gone(Exception):
    """The photo does not exist any more; the message is the reason."""


class Failed(Exception):
    """The photo could not be fetched this time; the message is the reason."""

    def __init__(self, reason: str, attempts: int = 1000, wait: float = 0.0):
        """attempts: how many are worth it. wait: the seconds that the server asks for."""
        super().__init__(reason)
        self.attempts, self.wait = attempts, wait


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


def is_safe(photo_id: str) -> bool:
    """Whether a photo id can name a file of its folder, not hidden."""
    is_short = len(photo_id.encode(errors="replace")) <= 200
    return re.fullmatch(r"\w[\w .-]*", photo_id) is not None and is_short


def is_web_address(url: object) -> bool:
    """Whether `url` is text that begins with http:// or https:// and names a host."""
    if not isinstance(url, str):
        return False
    try:
        parts = parse_url(url)
    except HTTPError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.host)


def is_stand_in(url: str) -> bool:
    """Whether `url` is that of Flickr's picture for photos that do not exist."""
    return PurePosixPath(parse_url(url).path or "/").name.startswith("photo_unavailable")


def refusal(photo_id: str, url: object) -> str | None:
    """Why a photo cannot be asked for, or None."""
    if not is_safe(photo_id):
        return "unsafe id"
    if not url:
        return "no URL"
    if not is_web_address(url):
        return "not a web address"
    return UNAVAILABLE if is_stand_in(url) else None


# ------------------------------------------------------------------------------------------ journal


class Journal:
    """What runs have found: a line of JSON each, in the folder of the photos.

    gone: {photo id: reason}. placeholders: SHA-256 of pictures that are no photos; the same bytes
    under three ids of two albums are what a server sends in place of a photo (people do upload a
    photo twice). files: of what was fetched, {SHA-256: {photo id: (album, file)}}.
    """

    def __init__(self, images: Path):
        self.images, self.path = images, images / JOURNAL
        self.gone, self.placeholders, self.files = {}, set(), {}
        lines = self.path.read_bytes() if self.path.exists() else b""
        for line in lines.splitlines():
            with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
                self.replay(json.loads(line))  # a killed run can have left half a line
        self.file = open(self.path, "ab", buffering=0)
        if lines and not lines.endswith(b"\n"):
            self.file.write(b"\n")
        for sha256 in self.placeholders:  # a run may have been killed while it removed them
            self.remove(sha256)

    def replay(self, entry: dict) -> None:
        if "placeholder" in entry:
            self.placeholders.add(str(entry["placeholder"]))
        elif "gone" in entry:
            self.gone[entry["id"]] = str(entry["gone"])
        elif self.is_place(entry["id"], entry["file"]):
            files = self.files.setdefault(entry["sha256"], {})
            files[entry["id"]] = str(entry["album"]), entry["file"]
            self.gone.pop(entry["id"], None)

    @staticmethod
    def is_place(photo_id: str, file: str) -> bool:
        """Whether a photo of this id is put into `file`, from the folder of the photos."""
        *folder, name = file.split("/")
        is_folder = not folder or (len(folder) == 1 and folder[0] in SPLITS)
        names = [photo_id + suffix for suffix in SUFFIXES.values()]
        return is_folder and name in names and is_safe(photo_id)

    def add(self, **entry: str) -> None:
        with reraise_with_path(self.path, self.path):
            self.file.write(json.dumps(entry).encode() + b"\n")

    def add_gone(self, photo_id: str, reason: str) -> None:
        self.gone[photo_id] = reason
        self.add(id=photo_id, gone=reason)

    def add_fetched(self, photo: Photo, file: str, sha256: str) -> bool:
        """Note a photo's bytes before it takes its name; whether they are a placeholder's."""
        if sha256 not in self.placeholders:
            files = self.files.setdefault(sha256, {})
            files[photo.id] = photo.album, file
            self.add(id=photo.id, album=photo.album, file=file, sha256=sha256)
            albums = Counter(album for album, _ in files.values())
            num_albums = len(albums) + (albums[""] > 1)  # each unknown one its own
            if len(files) < 3 or num_albums < 2:
                return False
            self.placeholders.add(sha256)
            self.add(placeholder=sha256)
        return True

    def remove(self, sha256: str) -> None:
        """Remove the files that still have a placeholder's bytes; their photos are gone."""
        for photo_id, (_, file) in self.files.get(sha256, {}).items():
            path = self.images / file
            if path.is_file():
                if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                    continue
                path.unlink()
            self.gone[photo_id] = PLACEHOLDER


# ------------------------------------------------------------------------------------- one request


class Web:
    """GET requests over connections that are kept, by the environment's proxies, at most `rate` a
    second."""

    def __init__(self, connections: int, rate: float, patience: Patience):
        self.patience, self.interval = patience, 1 / rate if rate else 0.0
        self.next_request, self.lock = 0.0, threading.Lock()
        self.pauses = self.unconnected = 0  # in a row
        self.paused = 0.0  # when
        self.stopped = threading.Event()
        options = {"num_pools": 64, "maxsize": connections}
        options["headers"] = {"User-Agent": USER_AGENT, "Accept": "image/*"}
        if "SSL_CERT_FILE" not in os.environ:
            with contextlib.suppress(ImportError):
                import certifi

                options["ca_certs"] = certifi.where()
        self.direct, self.proxied, proxies = urllib3.PoolManager(**options), {}, getproxies()
        for scheme in ("http", "https"):
            if proxy := proxies.get(scheme) or proxies.get("all"):
                self.proxied[scheme] = proxy_manager(proxy, options)
        logging.getLogger("urllib3").setLevel(logging.ERROR)

    def wait_for_turn(self) -> None:
        with self.lock:
            now = time.monotonic()
            turn = max(now, self.next_request)
            self.next_request = turn + self.interval
        self.stopped.wait(turn - now)

    def pause(self, failure: Failed, sent: float) -> None:
        """All requests wait as long as a server asks for, and come more slowly."""
        seconds = min(max(failure.wait, self.patience.backoff), self.patience.longest)
        with self.lock:
            if sent > self.paused:  # requests that were under way together count once
                self.pauses, self.paused = self.pauses + 1, time.monotonic()
                self.interval = min(max(2 * self.interval, 0.02), self.patience.backoff)
            self.next_request = max(self.next_request, time.monotonic() + seconds)

    def halted(self) -> str | None:
        """Why the rest is not asked for."""
        if self.unconnected >= MAX_UNCONNECTED:
            return f"no connection {MAX_UNCONNECTED} times in a row (is there a network?)"
        if self.pauses >= MAX_PAUSES:
            return "the server asks to slow down (HTTP 429), however long the pauses"
        return None

    def get(self, url: str, seconds: float) -> urllib3.BaseHTTPResponse:
        """The response, its body still to be read. Raises Failed."""
        parts = parse_url(url)
        is_proxied = parts.scheme in self.proxied and not proxy_bypass(parts.host)
        manager = self.proxied[parts.scheme] if is_proxied else self.direct
        read = min(self.patience.read, max(seconds, 0.01))
        try:
            return manager.request(
                "GET",
                url,
                preload_content=False,
                decode_content=False,  # a photo is compressed already
                retries=Retry(None, connect=0, read=0, status=0, other=0, redirect=REDIRECTS),
                timeout=Timeout(connect=min(self.patience.connect, read), read=read),
            )
        except Exception as error:  # urllib3's, http.client's, ssl's, ValueError
            reason = error.reason if isinstance(error, MaxRetryError) else error
        if isinstance(reason, ReadTimeoutError):
            raise Failed("too slow")
        if isinstance(reason, (NewConnectionError, ConnectTimeoutError, SSLError, ProxyError)):
            raise Failed("no connection")
        if "redirect" in str(reason):
            raise Failed("redirected without end", attempts=1)
        raise Failed("connection lost")

    def fetch(self, photo: Photo, path: Path, max_bytes: float, seconds: float) -> tuple[str, str]:
        """Ask once and write the image to the file `path`. Returns its SHA-256 and suffix.

        Raises Gone or Failed; OSError where it cannot be written.
        """
        deadline, sha256, size = time.monotonic() + seconds, hashlib.sha256(), 0
        response = self.get(photo.url, seconds)
        try:
            raise_for_status(response)
            with open(path, "r+b") as file:
                while part := read_part(response):
                    size += len(part)
                    if max(size, response.length_remaining or 0) > max_bytes:
                        limit = f"larger than {max_bytes / 1e6:g} MB (--max_megabytes)"
                        raise Failed(limit, attempts=1)
                    if time.monotonic() > deadline:
                        raise Failed("too slow")
                    sha256.update(part)
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())  # a power cut leaves no half under its name
        finally:
            response.close()
        if not size:
            raise Failed("empty answer")
        try:
            with Image.open(path) as image:
                return sha256.hexdigest(), SUFFIXES[image.format]
        except (UnidentifiedImageError, KeyError):
            raise Failed("not a photo", attempts=2) from None


def proxy_manager(url: str, options: dict) -> urllib3.ProxyManager:
    url = url if "://" in url else f"http://{url}"
    parts = parse_url(url)
    if parts.scheme not in ("http", "https"):
        raise UserError(
            f"the environment's proxy is of the kind {parts.scheme!r}; expected http:// or https://"
        )
    headers = make_headers(proxy_basic_auth=unquote(parts.auth)) if parts.auth else None
    return urllib3.ProxyManager(url, proxy_headers=headers, **options)


def read_part(response: urllib3.BaseHTTPResponse) -> bytes:
    try:
        return response.read1(1 << 16)  # read() would wait for a server that sends byte by byte
    except ReadTimeoutError:
        raise Failed("too slow") from None
    except Exception:
        raise Failed("cut short") from None


def raise_for_status(response: urllib3.BaseHTTPResponse) -> None:
    status, reason = response.status, f"HTTP {response.status}"
    if is_stand_in(response.geturl() or ""):
        raise Gone(UNAVAILABLE)
    if status in (404, 410):
        raise Gone(reason)
    if status in (403, 451):  # may be the network's own
        raise Failed(reason, attempts=1)
    if status == 429 or status >= 500:
        wait = None
        with contextlib.suppress(InvalidHeader, ValueError, OverflowError):
            wait = Retry().get_retry_after(response)
        raise Failed(reason, wait=wait or 0.0)
    if status != 200:
        raise Failed(reason, attempts=2)


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
                web.unconnected = web.pauses = 0
                with self.decoding:
                    if not self.check(path):
                        return path, sha256, suffix
                if photo.sha256 == sha256:  # the same bytes again: no accident on the way
                    raise Gone(BROKEN)
                photo.sha256 = sha256
                failure = Failed(BROKEN)
            except Failed as error:
                failure = error
                web.unconnected = web.unconnected + 1 if str(error) == "no connection" else 0
                if str(error) == "HTTP 429":
                    web.pause(error, start)
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
