"""One file from one address: requests, failures, further attempts, what is no photo."""

import contextlib
import hashlib
import itertools
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

import urllib3
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    InvalidHeader,
    NewConnectionError,
    ProxyError,
    ProxySchemeUnknown,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util import Retry, Timeout, make_headers, parse_url

from utils.cli import UserError

USER_AGENT = "plan-CVAE-visual-storytelling (research; dataset.py --download)"
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
    """The file does not exist any more; the message is the reason."""


@dataclass(eq=False)
class Failed(Exception):
    """The file could not be fetched this time; str() is the reason."""

    reason: str
    attempts: int = 1000  # that are worth it
    wait: float = 0.0  # seconds that the server asks for


def is_web_address(url: object) -> bool:
    """Whether `url` is text that begins with http:// or https:// and names a host."""
    with contextlib.suppress(HTTPError, TypeError):
        parts = parse_url(url)
        return parts.scheme in ("http", "https") and bool(parts.host)
    return False


def is_stand_in(url: str) -> bool:
    """Whether `url` is that of Flickr's picture for photos that do not exist."""
    return PurePosixPath(parse_url(url).path or "/").name.startswith("photo_unavailable")


class Web:
    """GET requests over connections that are kept, by the environment's proxies, at most `rate` a
    second."""

    def __init__(self, connections: int, rate: float, patience: Patience):
        self.patience, self.interval = patience, 1 / rate if rate else 0.0
        self.next_request, self.lock = 0.0, threading.Lock()
        self.unconnected = self.pauses = 0  # in a row
        self.paused = 0.0  # when
        self.stopped = threading.Event()
        options = {"num_pools": 64, "maxsize": connections}
        options["headers"] = {"User-Agent": USER_AGENT, "Accept": "*/*"}
        if "SSL_CERT_FILE" not in os.environ:
            with contextlib.suppress(ImportError):
                import certifi

                options["ca_certs"] = certifi.where()
        self.direct, self.proxied, proxies = urllib3.PoolManager(**options), {}, getproxies()
        for scheme in ("http", "https"):
            if proxy := proxies.get(scheme) or proxies.get("all"):
                self.proxied[scheme] = proxy_manager(proxy, options)
        logging.getLogger("urllib3").setLevel(logging.ERROR)

    def stop(self) -> None:
        """From now on no request is sent and no file is made: threads that wait for a server may
        outlive the folder that they write into."""
        with self.lock:
            self.stopped.set()

    def open_file(self, path: Path, mode: str) -> BinaryIO:
        """Open a file to write, unless stopped."""
        with self.lock:
            if self.stopped.is_set():
                raise Failed("not asked")
            return open(path, mode)

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

    def retry(self, ask: Callable[[float], Any]) -> Any:
        """What `ask` returns, given the seconds that are left, once it does not fail. Raises Gone,
        or Failed where another attempt is not worth it."""
        patience, seconds = self.patience, 0.0
        for attempt in itertools.count(1):
            self.wait_for_turn()
            if self.stopped.is_set():
                raise Failed("not asked")
            start = time.monotonic()
            try:
                return ask(patience.photo - seconds)
            except Failed as error:
                failure = error
            self.unconnected = self.unconnected + 1 if failure.reason == "no connection" else 0
            if failure.reason == "HTTP 429":
                self.pause(failure, start)
            seconds += time.monotonic() - start
            is_last = attempt >= min(failure.attempts, patience.attempts)
            if is_last or seconds >= patience.photo or self.halted():
                raise failure
            wait = patience.backoff * 2 ** (attempt - 1) * random.uniform(0.5, 1)
            self.stopped.wait(min(max(wait, failure.wait), patience.longest))

    def get(self, url: str, seconds: float, start: int = 0) -> urllib3.BaseHTTPResponse:
        """The response, its body from byte `start` still to be read. Raises Failed."""
        parts = parse_url(url)
        manager = self.proxied.get(parts.scheme, self.direct)
        if proxy_bypass(parts.host):
            manager = self.direct
        read = min(self.patience.read, max(seconds, 0.01))
        try:
            return manager.request(
                "GET",
                url,
                headers=manager.headers | ({"Range": f"bytes={start}-"} if start else {}),
                preload_content=False,
                decode_content=False,  # what is fetched is compressed already
                retries=Retry(None, connect=0, read=0, status=0, other=0, redirect=REDIRECTS),
                timeout=Timeout(connect=min(self.patience.connect, read), read=read),
            )
        except Exception as error:  # urllib3's, http.client's, ssl's, ValueError
            reason = getattr(error, "reason", error)
        if isinstance(reason, ReadTimeoutError):
            raise Failed("too slow")
        if isinstance(reason, (NewConnectionError, ConnectTimeoutError, SSLError, ProxyError)):
            raise Failed("no connection")
        if "redirect" in str(reason):
            raise Failed("redirected without end", attempts=1)
        raise Failed("connection lost")

    def save(
        self,
        url: str,
        path: Path,
        max_bytes: float,
        seconds: float,
        limit: str = "--max_megabytes",
        bar: tqdm | None = None,
    ) -> str:
        """Ask once and write the answer to the file `path`. Returns the SHA-256 of what came.

        bar: of the bytes; a file that has one is continued where it ends.
        Raises Gone or Failed, which names the limit; OSError where it cannot be written.
        """
        deadline, sha256 = time.monotonic() + seconds, hashlib.sha256()
        size = path.stat().st_size if bar is not None and path.exists() else 0
        response = self.get(url, seconds, size)
        with contextlib.closing(response):
            if size and response.status in (206, 416):
                if not response.headers.get("Content-Range", "").startswith(f"bytes {size}-"):
                    path.unlink()
                    raise Failed("another part than the missing one")
            else:
                raise_for_status(response)
                size = 0
            with self.open_file(path, "ab" if size else "wb") as file:
                try:
                    # read() would wait for a server that sends byte by byte
                    while part := response.read1(1 << 16):
                        size += len(part)
                        to_come = response.length_remaining or 0
                        if size + to_come > max_bytes:
                            reason = f"larger than {max_bytes / 1e6:g} MB ({limit})"
                            raise Failed(reason, attempts=1)
                        if time.monotonic() > deadline:
                            raise Failed("too slow")
                        sha256.update(part)
                        file.write(part)
                        if bar is not None:
                            bar.total = size + to_come
                            bar.update(size - bar.n)
                except ReadTimeoutError:
                    raise Failed("too slow") from None
                except HTTPError:
                    raise Failed("cut short") from None
                file.flush()
                os.fsync(file.fileno())  # a power cut leaves no half under its name
        if not size:
            raise Failed("empty answer")
        return sha256.hexdigest()

    def fetch(self, photo: Photo, path: Path, max_bytes: float, seconds: float) -> tuple[str, str]:
        """`save` a photo. Returns its SHA-256 and suffix."""
        sha256 = self.save(photo.url, path, max_bytes, seconds)
        try:
            with Image.open(path) as image:
                suffix = SUFFIXES[image.format]
        except (UnidentifiedImageError, KeyError):
            raise Failed("not a photo", attempts=2) from None
        self.unconnected = self.pauses = 0
        return sha256, suffix


def proxy_manager(url: str, options: dict) -> urllib3.ProxyManager:
    url = url if "://" in url else f"http://{url}"
    parts = parse_url(url)
    headers = make_headers(proxy_basic_auth=unquote(parts.auth)) if parts.auth else None
    try:
        return urllib3.ProxyManager(url, proxy_headers=headers, **options)
    except ProxySchemeUnknown as error:
        raise UserError(f"the environment's proxy: {error}") from None


def raise_for_status(response: urllib3.BaseHTTPResponse) -> None:
    status, reason = response.status, f"HTTP {response.status}"
    if is_stand_in(response.geturl() or ""):
        raise Gone(UNAVAILABLE)
    if status in (404, 410):
        raise Gone(reason)
    if status == 429 or status >= 500:
        wait = None
        with contextlib.suppress(InvalidHeader, ValueError, OverflowError):
            wait = Retry().get_retry_after(response)
        raise Failed(reason, wait=wait or 0.0)
    if status != 200:  # 403 and 451 may be the network's own
        raise Failed(reason, attempts=1 if status in (403, 451) else 2)
