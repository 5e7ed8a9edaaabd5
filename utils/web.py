"""One photo from one address: requests, redirects, what is no photo."""

import contextlib
import hashlib
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    InvalidHeader,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util import Retry, Timeout, make_headers, parse_url

from utils.cli import UserError

USER_AGENT = (
    "plan-CVAE-visual-storytelling (research; fetches the photos of the VIST data set; dataset.py "
    "--download)"
)


BY_HEAD = {  # what a file of each kind begins with, "?" being anything
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG\r\n\x1a\n": ".png",
    b"GIF8": ".gif",
    b"RIFF????WEBP": ".webp",
    b"BM": ".bmp",
    b"II*\x00": ".tif",
    b"MM\x00*": ".tif",
}


HEAD_BYTES = 12  # that tell


# answers that asking again does not change; 403 and 451 may be the network's own, not Flickr's
GONE = (404, 410)


UNAVAILABLE = "photo unavailable"  # by the address of the picture that stands in for it


BROKEN, NOT_ASKED = "broken where it comes from", "not asked"


REDIRECTS = 5


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds, and how often to ask."""

    connect: float = 10  # until a connection stands
    read: float = 30  # between two parts of an answer
    photo: float = 180  # of asking for one photo, in all
    attempts: int = 5
    backoff: float = 1  # before the second attempt; doubled before each one more
    longest: float = 120  # that a server can have us wait


PATIENCE = Patience()


@dataclass(eq=False)
class Photo:
    """One that is to be fetched, and how that goes."""

    id: str
    album: str
    url: str
    folder: Path  # where its file goes
    at: str = ""  # the address that it was redirected to
    redirects: int = 0
    attempts: int = 0
    seconds: float = 0.0  # that asking has taken
    reason: str = NOT_ASKED  # why it is not there yet
    broken: str = ""  # the SHA-256 of an answer that is an image but cannot be decoded


class Gone(Exception):
    """The photo is not to be had; the message is the reason."""


class Failed(Exception):
    """The photo was not to be had this time; the message is the reason."""

    def __init__(self, reason, attempts=None, wait=0.0, connected=True, broken=""):
        """attempts: how many are worth it (None: as many as usual). wait: the seconds that the
        server asks for."""
        super().__init__(reason)
        self.attempts, self.wait, self.connected, self.broken = attempts, wait, connected, broken


class Elsewhere(Exception):
    """The server redirects to the address that is the message."""


def is_web_address(url):
    """Whether `url` is text that begins with http:// or https:// and names a host."""
    if not isinstance(url, str):
        return False
    try:
        parts = parse_url(url)
    except HTTPError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.host)


def is_stand_in(url):
    """Whether `url` is that of the picture by which Flickr says that there is no photo (any
    more)."""
    return PurePosixPath(parse_url(url).path or "/").name.startswith("photo_unavailable")


def suffix_of(head):
    """The suffix of the file of an image that begins with `head`; None where it is none."""
    for start, suffix in BY_HEAD.items():
        if len(head) >= len(start) and all(a in (b, ord("?")) for a, b in zip(start, head)):
            return suffix
    return None


class Web:
    """GET requests over connections that are kept, through the proxies that the environment
    names."""

    def __init__(self, connections, patience):
        self.patience = patience
        options = {
            "num_pools": 64,
            "maxsize": connections,
            "headers": {"User-Agent": USER_AGENT, "Accept": "image/*"},
        }
        if "SSL_CERT_FILE" not in os.environ:  # which the system's own certificates are read by
            with contextlib.suppress(ImportError):
                import certifi

                options["ca_certs"] = certifi.where()
        self.direct, self.proxied, proxies = urllib3.PoolManager(**options), {}, getproxies()
        for scheme in ("http", "https"):
            if proxy := proxies.get(scheme) or proxies.get("all"):
                self.proxied[scheme] = proxy_manager(
                    proxy if "://" in proxy else f"http://{proxy}", options
                )
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # odd headers are no news to the user

    def get(self, url, seconds):
        """The response, its body still to be read. Raises Failed where none comes within
        `seconds`."""
        parts, patience, seconds = parse_url(url), self.patience, max(seconds, 0.01)
        proxied = parts.scheme in self.proxied and not proxy_bypass(parts.host)
        timeout = Timeout(connect=min(patience.connect, seconds), read=min(patience.read, seconds))
        try:
            # Bytes as they are sent (decode_content): a photo is compressed already, and a small
            # answer stays small.
            return (self.proxied[parts.scheme] if proxied else self.direct).request(
                "GET",
                url,
                preload_content=False,
                decode_content=False,
                redirect=False,
                retries=False,
                timeout=timeout,
            )
        except (NewConnectionError, ConnectTimeoutError, SSLError, ProxyError):
            raise Failed("no connection", connected=False) from None
        except ReadTimeoutError:
            raise Failed("too slow") from None
        except (
            Exception
        ):  # urllib3's, http.client's, ssl's, and ValueError of what is no HTTP at all
            raise Failed("connection lost") from None


def proxy_manager(url, options):
    parts = parse_url(url)
    if parts.scheme not in ("http", "https"):
        raise UserError(
            f"the environment's proxy is of the kind {parts.scheme!r}; expected http:// or https://"
        )
    headers = make_headers(proxy_basic_auth=unquote(parts.auth)) if parts.auth else None
    return urllib3.ProxyManager(url, proxy_headers=headers, **options)


def parts_of(response, most, deadline):
    """The body of a response in parts, as they come in. Raises Failed where it is cut short, too
    big or too late."""
    size, too_big = 0, f"larger than {most / 1e6:g} MB (--max_megabytes)"
    if (response.length_remaining or 0) > most:
        raise Failed(too_big, attempts=1)
    while True:
        try:
            # what is there: read() would wait for a server that sends byte by byte
            part = response.read1(1 << 16)
        except ReadTimeoutError:
            raise Failed("too slow") from None
        except Exception:  # as above
            raise Failed("cut short") from None
        if not part:
            return
        size += len(part)
        if size > most:
            raise Failed(too_big, attempts=1)
        if time.monotonic() > deadline:
            raise Failed("too slow")
        yield part


def fetch(web, url, path, most, deadline):
    """Ask for `url` once and write the image that it gives to the empty file `path`. Returns its
    SHA-256 and suffix.

    Raises Gone, Failed or Elsewhere; OSError where it cannot be written.
    """
    response = web.get(url, deadline - time.monotonic())
    try:
        if response.status != 200:
            # a connection is kept where its last answer was read
            for _ in parts_of(response, 1e5, deadline):
                pass
        raise_for(response)
        sha256, head = hashlib.sha256(), b""
        with open(path, "r+b") as file:
            for part in parts_of(response, most, deadline):
                if len(head) < HEAD_BYTES:
                    head = (head + part)[:HEAD_BYTES]
                    if len(head) == HEAD_BYTES and not suffix_of(head):
                        break  # a page, perhaps an endless one
                sha256.update(part)
                file.write(part)
            file.flush()
            # before it takes its name, so that no power cut leaves half a photo under it
            os.fsync(file.fileno())
    except Failed:
        raise_for(response)  # says more than how its body ended
        raise
    finally:
        response.close()
    if not head:
        raise Failed("empty answer")
    if not suffix_of(head):
        raise Failed("not a photo", attempts=2)
    return sha256.hexdigest(), suffix_of(head)


def raise_for(response):
    """Raise what any status but 200 says."""
    status = response.status
    if location := response.get_redirect_location():
        raise Elsewhere(location)
    if status in GONE:
        raise Gone(f"HTTP {status}")
    if status in (403, 451):
        raise Failed(f"HTTP {status}", attempts=1)
    if status == 429 or status >= 500:
        try:
            wait = Retry().get_retry_after(response)
        except (InvalidHeader, ValueError, OverflowError):  # no number, no date
            wait = None
        raise Failed(f"HTTP {status}", wait=wait or 0.0)
    if status != 200:
        raise Failed(f"HTTP {status}", attempts=2)
