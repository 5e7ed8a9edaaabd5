"""What downloads have fetched or found gone, line by line: a stopped run resumes."""

import contextlib
import hashlib
import json
import re
from collections import Counter
from pathlib import Path, PurePosixPath

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
        path = PurePosixPath(file)
        is_folder = str(path.parent) in (".", *SPLITS)
        is_name = path.name in [photo_id + suffix for suffix in SUFFIXES.values()]
        return is_folder and is_name and is_safe(photo_id)

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

    def remove(self, sha256: str) -> list[str]:
        """Remove the files that still have a placeholder's bytes; their photos are gone. Returns
        the photos' ids."""
        removed = []
        for photo_id, (_, file) in self.files.get(sha256, {}).items():
            path = self.images / file
            if path.is_file():
                if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                    continue
                path.unlink()
            removed.append(photo_id)
        self.gone |= dict.fromkeys(removed, PLACEHOLDER)
        return removed
