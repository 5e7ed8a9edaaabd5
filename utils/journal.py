"""What of a download was fetched, is gone or is no photo, line by line: a stopped run goes on."""

import contextlib
import hashlib
import json
import os
import re
from collections import Counter
from errno import ENOSPC

from utils.story_files import SPLITS
from utils.web import BY_HEAD

PLACEHOLDER = "placeholder"  # by the bytes
SAME_BYTES, SAME_ALBUMS = 3, 2
JOURNAL, REPORT = "download.jsonl", "download.json"  # in the folder of the photos
HOLDER = ".download."  # how a folder of temporary files is called, up to UNFINISHED


def is_safe(photo_id):
    """Whether a photo id can be the name of a file, of no other folder than it is put into, hidden
    nowhere."""
    return (
        re.fullmatch(r"\w[\w .-]*", photo_id) is not None
        and len(photo_id.encode(errors="replace")) <= 200
    )


class Journal:
    """What earlier runs have found out: a line of JSON each, in the folder of the photos.

    gone: {photo id: reason}; placeholders: SHA-256 of pictures that are no photos; same, of what
    was fetched: {SHA-256: {photo id: (album, file)}}.
    """

    def __init__(self, images):
        self.images, self.path = images, images / JOURNAL
        self.gone, self.placeholders, self.same = {}, set(), {}
        before = self.path.read_bytes() if self.path.exists() else b""
        fetched = {}
        for line in before.splitlines():
            with contextlib.suppress(
                ValueError, KeyError, TypeError, AttributeError, RecursionError
            ):
                entry = json.loads(line)  # a run that was killed can have left half a line
                if "placeholder" in entry:
                    self.placeholders.add(str(entry["placeholder"]))
                elif "gone" in entry:
                    self.gone[entry["id"]] = str(entry["gone"])
                elif is_place(entry["id"], entry["file"]):
                    self.same.setdefault(entry["sha256"], {})[entry["id"]] = (
                        str(entry["album"]),
                        entry["file"],
                    )
                    fetched[entry["id"]] = entry["sha256"]
                    self.gone.pop(entry["id"], None)
        self.file = open(self.path, "ab", buffering=0)
        if before and not before.endswith(b"\n"):
            self.file.write(b"\n")
        for sha256 in self.placeholders:  # a run may have been killed while it removed them
            self.remove(sha256)
        self.gone |= {
            photo_id: PLACEHOLDER
            for photo_id, sha256 in fetched.items()
            if sha256 in self.placeholders
        }

    def add(self, **entry):
        """Write a line. Raises OSError that names the file."""
        line = json.dumps(entry).encode() + b"\n"
        try:
            if self.file.write(line) < len(line):
                raise OSError(ENOSPC, os.strerror(ENOSPC))
        except OSError as error:
            error.filename = str(self.path)
            raise

    def add_gone(self, photo_id, reason):
        self.gone[photo_id] = reason
        self.add(id=photo_id, gone=reason)

    def add_fetched(self, photo, file, sha256):
        """Note the bytes of a photo, before it takes its name. Returns whether they are a
        placeholder's."""
        if sha256 not in self.placeholders:
            same = self.same.setdefault(sha256, {})
            same[photo.id] = photo.album, file
            self.add(id=photo.id, album=photo.album, file=file, sha256=sha256)
            albums = Counter(album for album, _ in same.values())
            # each unknown one its own
            if len(same) < SAME_BYTES or len(albums) + (albums[""] > 1) < SAME_ALBUMS:
                return False
            self.placeholders.add(sha256)
            self.add(placeholder=sha256)
        return True

    def remove(self, sha256):
        """Remove the files that have these bytes, still. Returns the ids of their photos, which are
        gone."""
        removed = []
        for photo_id, (_, file) in self.same.get(sha256, {}).items():
            path = self.images / file
            if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
                path.unlink()
                self.gone[photo_id] = PLACEHOLDER  # which its line and the placeholder's say
                removed.append(photo_id)
        return removed


def is_place(photo_id, file):
    """Whether `file` is where a photo of this id is put, from the folder of the photos."""
    *folder, name = file.split("/")
    named = any(name == photo_id + suffix for suffix in BY_HEAD.values())
    return named and is_safe(photo_id) and (not folder or folder[0] in SPLITS and len(folder) == 1)


# People do upload one photo twice, under two ids and into two albums, so a pair proves nothing. The
# third id with the very same bytes, of not the same album as the others, is hardly a photo: it is
# what a server says instead of "gone".
