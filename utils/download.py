"""The photos that stories need, fetched from the addresses in VIST's and VIST-Edit's annotations.

    python dataset.py --download --vist dataset/VIST

The caller's thread decides: what is asked next and when, what is kept, what is written down. The
others each ask for one photo at a time and put its bytes into a temporary file. Imports nothing
heavy.
"""

import contextlib
import heapq
import itertools
import os
import random
import shutil
import signal
import tempfile
import threading
import time
import warnings
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.parse import urljoin

from tqdm import tqdm

from utils.cli import printable, warn
from utils.files import UNFINISHED, directory_lock, read_json, reraise_with_path, write_json
from utils.journal import HOLDER, PLACEHOLDER, REPORT, Journal, is_safe
from utils.story_files import SPLITS
from utils.web import (
    BROKEN,
    PATIENCE,
    REDIRECTS,
    UNAVAILABLE,
    Elsewhere,
    Failed,
    Gone,
    Photo,
    Web,
    fetch,
    is_stand_in,
    is_web_address,
)

# failures to connect, and requests to slow down, in a row: there is no use in going on
NO_NETWORK, NO_MERCY = (30, 10)


class Stopped(KeyboardInterrupt):
    """By Ctrl-C or SIGTERM; the message is the signal's number."""


# -------------------------------------------------------------------------------- ids and addresses


def vist_urls(folder):
    """{photo id: URL} of a folder in VIST's format; a photo without one is not in it."""
    urls = {}
    for split in SPLITS:
        path = folder / "sis" / f"{split}.story-in-sequence.json"
        data = read_json(path, "VIST annotations") if path.exists() else None
        images = data.get("images") if isinstance(data, dict) else None
        for image in images if isinstance(images, list) else ():
            if isinstance(image, dict) and (url := image.get("url_o") or image.get("url_m")):
                urls.setdefault(str(image.get("id")), url)
    return urls


def vist_edit_urls(folder):
    """{photo id: URL} of VIST-Edit; a photo without one is not in it."""
    urls = {}
    for path in sorted(
        path for name in ("train", "dev", "test") for path in folder.glob(f"*/{name}/[!.]*.json")
    ):
        data = read_json(path, "a story of VIST-Edit")
        ids, addresses = (data.get(f"photo_sequence_{name}") for name in ("ids", "urls"))
        if isinstance(ids, list) and isinstance(addresses, list):
            for photo_id, url in zip(ids, addresses):
                if url:
                    urls.setdefault(str(photo_id), url)
    return urls


# ------------------------------------------------------------------------------------ many requests


class Team:
    """Many requests at once, one photo each, as many a second as is polite.

    there, fetched: photo ids; gone, failed: {photo id: reason}. halted: why it was given up, or
    None.
    """

    def __init__(self, images, journal, check, connections, rate, most, patience):
        self.images, self.journal, self.check, self.most, self.patience = (
            images,
            journal,
            check,
            most,
            patience,
        )
        self.connections, self.web = connections, Web(connections, patience)
        self.there, self.fetched, self.gone, self.failed, self.halted = set(), set(), {}, {}, None
        # waiting: (when, number, photo), a heap
        self.waiting, self.number, self.threads = ([], itertools.count(), 0)
        self.busy = {}  # job: when it was sent; a job is (photo, temporary path, deadline)
        self.jobs, self.results = SimpleQueue(), SimpleQueue()
        # a big photo takes much memory while it is decoded
        self.decoding = threading.Semaphore(os.cpu_count() or 1)
        self.holders = {}  # folder: the one in it for temporary files
        # once closed, no thread begins a file any more
        self.beginning, self.closed = (threading.Lock(), False)
        self.least_interval = self.interval = 1 / rate if rate else 0.0
        self.next_request = self.paused_at = self.paused_until = float("-inf")
        self.unconnected = self.pauses = 0  # in a row

    def run(self, photos, bar):
        """Fetch the photos, or as many as there is use in trying."""
        now = time.monotonic()
        self.waiting = [(now, next(self.number), photo) for photo in photos]
        try:
            while (self.waiting or self.busy) and not self.halted:
                wait = min(self.send_what_is_due(), self.patience.read)
                try:
                    came = [self.results.get(timeout=wait)]
                except Empty:
                    came = []
                for job, result in came + self.overdue():
                    if job in self.busy:  # else its photo was given up
                        bar.update(self.settle(job, result))
        finally:
            for photo in [photo for *_, photo in self.waiting] + [photo for photo, *_ in self.busy]:
                self.failed[photo.id] = photo.reason
            for _ in range(self.threads):
                self.jobs.put(None)
            with self.beginning:
                self.closed = True
            for holder in self.holders.values():
                shutil.rmtree(holder, ignore_errors=True)

    def send_what_is_due(self):
        """Returns the seconds until there is more to send."""
        while self.waiting and len(self.busy) < self.connections:
            now = time.monotonic()
            wait = max(self.waiting[0][0], self.next_request, self.paused_until) - now
            if wait > 0:
                return wait
            photo = heapq.heappop(self.waiting)[-1]
            job = (
                photo,
                self.holder(photo.folder) / str(next(self.number)),
                now + self.patience.photo - photo.seconds,
            )
            self.busy[job] = now
            self.next_request = now + self.interval
            if self.threads < len(self.busy):
                self.add_thread()
            self.jobs.put(job)
        return float("inf")

    def overdue(self):
        """Jobs that take much longer than they may, and that as their result.

        A body is watched by who reads it. But nothing interrupts a thread that waits for a name to
        be looked up, or for headers byte by byte: it is left to itself, and another takes its
        place.
        """
        now = time.monotonic()
        jobs = [job for job in self.busy if now > job[-1] + self.patience.read]
        for _ in jobs:
            self.add_thread()
        return [(job, Failed("too slow", attempts=1)) for job in jobs]

    def holder(self, folder):
        """The folder of temporary files in a folder, from which a rename is one step."""
        if folder not in self.holders:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(f"{HOLDER}*{UNFINISHED}"):  # by a run that was killed
                shutil.rmtree(left, ignore_errors=True)
            self.holders[folder] = Path(
                tempfile.mkdtemp(prefix=HOLDER, suffix=UNFINISHED, dir=folder)
            )
        return self.holders[folder]

    def add_thread(self):
        self.threads += 1
        threading.Thread(
            target=self.work, daemon=True
        ).start()  # daemon: a stop waits for no server

    def work(self):
        """What each of the threads does: jobs, until there are no more."""
        while (job := self.jobs.get()) is not None:
            photo, path, deadline = job
            try:
                with self.beginning:
                    if self.closed:
                        return
                    path.touch()
                sha256, suffix = fetch(self.web, photo.at or photo.url, path, self.most, deadline)
                with self.decoding:
                    broken = self.check(path)
                result = Failed(BROKEN, broken=sha256) if broken else (sha256, suffix)
            except (
                BaseException
            ) as error:  # an answer, or the disk's failure, which is the caller's to raise
                result = error
            if isinstance(result, BaseException):
                with contextlib.suppress(OSError):
                    path.unlink()
            self.results.put((job, result))

    def settle(self, job, result):
        """Take note of a result; returns whether that was the last of its photo."""
        (photo, path, _), now = job, time.monotonic()
        sent = self.busy.pop(job)
        photo.seconds += now - sent
        if isinstance(result, Elsewhere):
            result = self.follow(photo, str(result))
        if isinstance(result, tuple):
            result = self.keep(photo, path, *result)
        self.pace(result, sent, now)
        if result is None:
            self.fetched.add(photo.id)
        elif isinstance(result, Gone):
            self.journal.add_gone(photo.id, str(result))
            self.gone[photo.id] = str(result)
        elif isinstance(result, Elsewhere):
            heapq.heappush(self.waiting, (now, next(self.number), photo))
            return False
        elif isinstance(result, Failed):
            return self.try_again(photo, result, now)
        else:
            if isinstance(result, OSError):
                result.filename = str(photo.folder / photo.id)
            raise result
        return True

    def follow(self, photo, location):
        """Have the photo asked for at the address that a server names; what becomes of it."""
        photo.redirects += 1
        try:
            photo.at = urljoin(photo.at or photo.url, location)
        except ValueError:
            photo.at = ""
        if not is_web_address(photo.at):
            return Failed("redirected to no web address", attempts=1)
        if is_stand_in(photo.at):
            return Gone(UNAVAILABLE)
        return (
            Failed("redirected without end", attempts=1)
            if photo.redirects > REDIRECTS
            else Elsewhere(photo.at)
        )

    def keep(self, photo, path, sha256, suffix):
        """Give the photo its name, unless it is a placeholder; returns None, or Gone."""
        place = photo.folder / (photo.id + suffix)
        if self.journal.add_fetched(photo, place.relative_to(self.images).as_posix(), sha256):
            path.unlink()
            # none, but when it has turned out to be one just now
            for photo_id in self.journal.remove(sha256):
                for found in (self.there, self.fetched):
                    if photo_id in found:
                        found.remove(photo_id)
                        self.gone[photo_id] = PLACEHOLDER
            return Gone(PLACEHOLDER)
        with reraise_with_path(place, path.parent):
            os.replace(path, place)
        return None

    def try_again(self, photo, failure, now):
        """Have a photo that has failed wait for its next attempt, or give it up: returns whether
        that."""
        photo.attempts += 1
        photo.at, photo.redirects, photo.reason = "", 0, str(failure)
        if failure.broken and failure.broken == photo.broken:  # as before: no accident on the way
            self.journal.add_gone(photo.id, BROKEN)
            self.gone[photo.id] = BROKEN
            return True
        photo.broken = failure.broken
        if (
            photo.attempts >= (failure.attempts or self.patience.attempts)
            or photo.seconds >= self.patience.photo
        ):
            self.failed[photo.id] = photo.reason
            return True
        wait = self.patience.backoff * 2 ** (photo.attempts - 1) * random.uniform(0.5, 1)
        wait = min(max(wait, failure.wait), self.patience.longest)
        heapq.heappush(self.waiting, (now + wait, next(self.number), photo))
        return False

    def pace(self, result, sent, now):
        """Slow down, or give up, as the results have it."""
        failed = isinstance(result, Failed)
        self.unconnected = self.unconnected + 1 if failed and not result.connected else 0
        if self.unconnected >= NO_NETWORK // 3:  # no hurry: a network can be gone for some seconds
            self.paused_until = max(self.paused_until, now + self.patience.backoff)
        # With many connections, all that were under way when the network went fail together.
        if self.unconnected >= max(NO_NETWORK, self.connections + 1):
            self.halted = f"no connection {self.unconnected} times in a row (is there a network?)"
        if failed and str(result) == "HTTP 429":
            wait = min(max(result.wait, self.patience.backoff), self.patience.longest)
            self.paused_until = max(self.paused_until, now + wait)
            # those that were under way together ask for one and the same pause
            if sent > self.paused_at:
                self.pauses, self.paused_at = self.pauses + 1, now
                self.interval = min(
                    max(2 * self.interval, 0.02), max(self.patience.backoff, self.least_interval)
                )
            if self.pauses >= NO_MERCY:
                self.halted = "the server asks to slow down (HTTP 429), however long the pauses"
        elif not failed:
            self.pauses = 0
            self.interval = max(self.least_interval, 0.98 * self.interval)


# -------------------------------------------------------------------------------------- all of them


def download(
    images,
    needed,
    urls,
    there,
    check,
    connections=16,
    rate=20.0,
    max_megabytes=50.0,
    retry_gone=False,
    patience=None,
):
    """Fetch the photos that stories need and that no file stands for, into images/<split>/. Returns
    the exit status.

    needed: {split: {photo id: album id}}; urls: {photo id: URL}; there(split): ids of photos that
    are there; check(path): why a file is no photo, or None. Raises UserError where another process
    fetches into the same folder, OSError where nothing more can be written: what was fetched stays.
    """
    images, status = Path(images), 0
    with directory_lock(images, "--images"):
        journal = Journal(images)
        with contextlib.closing(journal.file):
            most = max_megabytes * 1e6
            team = Team(images, journal, check, connections, rate, most, patience or PATIENCE)
            photos = plan(team, needed, urls, there, retry_gone)
            try:
                with (
                    stoppable(),
                    warnings.catch_warnings(),
                    tqdm(total=len(photos), unit=" photos", disable=not photos) as bar,
                ):
                    # Pillow's about odd metadata would tear the bar
                    warnings.simplefilter("ignore")
                    team.run(photos, bar)
            except Stopped as stop:
                warn(
                    f"stopped; {len(team.fetched)} photos fetched, {len(team.failed)} to go: the "
                    "same command goes on"
                )
                status = 128 + stop.args[0]
        write_json(images / REPORT, report_of(team))
    if status:
        return status
    if team.halted:
        warn(f"{team.halted}: stopped; the same command goes on")
    print_report(images, report_of(team))
    return 1 if team.failed else 0


def plan(team, needed, urls, there, retry_gone):
    """The photos to ask for; the team learns of those that are there, gone, or not to be asked
    for."""
    photos, seen, journal = [], set(), team.journal
    flat = not any((team.images / split).is_dir() for split in SPLITS) and any(map(there, needed))
    for split, albums in needed.items():
        # Where the photos lie in the folder itself, a folder of a split beside them would hide
        # them.
        folder, found = team.images if flat else team.images / split, there(split)
        for photo_id, album in albums.items():
            if photo_id in seen:
                continue
            seen.add(photo_id)
            url = urls.get(photo_id)
            if photo_id in found:
                team.there.add(photo_id)
            elif reason := why_not(photo_id, url):
                team.gone[photo_id] = reason
            elif photo_id in journal.gone and not retry_gone:
                team.gone[photo_id] = journal.gone[photo_id]
            else:
                photos.append(Photo(photo_id, album, url, folder))
    return photos


def why_not(photo_id, url):
    """Why a photo is not to be asked for, or None."""
    if not is_safe(photo_id):
        return "unsafe id"
    if not url:
        return "no URL"
    if not is_web_address(url):
        return "not a web address"
    return UNAVAILABLE if is_stand_in(url) else None


@contextlib.contextmanager
def stoppable():
    """Ctrl-C and SIGTERM raise Stopped."""

    def stop(number, frame):
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


def report_of(team):
    """How many photos are there, and which are not and why."""

    def by_reason(reasons):
        groups = {}
        for photo_id, reason in reasons.items():
            text = photo_id.encode(
                errors="backslashreplace"
            ).decode()  # JSON may hold half a character, no file does
            groups.setdefault(reason, []).append(text)
        return dict(sorted(groups.items()))

    return {
        "there already": len(team.there),
        "fetched": len(team.fetched),
        "gone": by_reason(team.gone),
        "failed for now": by_reason(team.failed),
    }


def print_report(images, report):
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
