"""What downloads have fetched or found gone, line by line: a stopped run resumes."""

import contextlib
import hashlib
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

from utils.files import reraise_with_path
from utils.story_files import SPLITS
from utils.web import PLACEHOLDER, SUFFIXES, Photo

JOURNAL = "download.jsonl"  # in the folder of the photos


def is_safe(photo_id: str) -> bool:
    """Whether a photo id can name a file of its folder, not hidden."""
    is_short = len(photo_id.encode(errors="replace")) <= 200
    return re.fullmatch(r"\w[\w .-]*", photo_id) is not None and is_short


class Journal:
    """What runs have found: a line of JSON each, in the folder of the photos.

    gone: {photo id: reason}. placeholders: SHA-256 of pictures that are no photos; the same bytes
    under three ids of two albums are what a server sends in place of a photo (people do upload a
    photo twice). albums: of what was fetched, {SHA-256: {photo id: album}}.
    """

    def __init__(self, images: Path):
        self.images, self.path = images, images / JOURNAL
        self.gone, self.placeholders, self.albums = {}, set(), defaultdict(dict)
        self.file = open(self.path, "a+b", buffering=0)
        self.file.seek(0)
        for line in self.file.read().splitlines():
            with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
                self.replay(json.loads(line))  # a killed run can have left half a line
        for sha256 in self.placeholders:  # a run may have been killed while it removed them
            self.remove(sha256)

    def replay(self, entry: dict) -> None:
        if "placeholder" in entry:
            self.placeholders.add(str(entry["placeholder"]))
        elif "gone" in entry:
            self.gone[entry["id"]] = str(entry["gone"])
        else:
            self.gone.pop(entry["id"], None)
            if is_safe(entry["id"]):  # pictures of books, in folders, may be alike
                self.albums[entry["sha256"]][entry["id"]] = str(entry["album"])

    def add(self, **entry: str) -> None:
        self.replay(entry)
        with reraise_with_path(self.path, self.path):
            self.file.write(b"\n" + json.dumps(entry).encode())  # after what may be half a line

    def add_fetched(self, photo: Photo, sha256: str) -> bool:
        """Note a photo's bytes before it takes its name; whether they are a placeholder's."""
        if sha256 not in self.placeholders:
            self.add(id=photo.id, album=photo.album, sha256=sha256)
            albums = Counter(self.albums[sha256].values())
            num_albums = len(albums) + (albums[""] > 1)  # each unknown one its own
            if albums.total() < 3 or num_albums < 2:
                return False
            self.add(placeholder=sha256)
        return True

    def remove(self, sha256: str) -> list[str]:
        """Remove the files that still have a placeholder's bytes; their photos are gone. Returns
        the photos' ids."""
        removed = []
        for photo_id in self.albums[sha256]:
            names = [photo_id + suffix for suffix in SUFFIXES.values()]
            paths = [self.images / folder / name for folder in ("", *SPLITS) for name in names]
            files = {path: path.read_bytes() for path in paths if path.is_file()}
            same = [path for path in files if hashlib.sha256(files[path]).hexdigest() == sha256]
            for path in same:
                path.unlink()
            if same or not files:  # else something better has taken its place
                removed.append(photo_id)
        self.gone |= dict.fromkeys(removed, PLACEHOLDER)
        return removed
