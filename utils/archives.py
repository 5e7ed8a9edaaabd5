"""Data sets from their public places: archives, fetched whole and unpacked safely."""

import math
import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm import tqdm

from utils.cli import UserError, say
from utils.files import new_holder, reraise_with_path, sync
from utils.web import Failed, Gone, Photo, Web

HOSTS = {
    "vist": "https://visionandlanguage.net/VIST/json_files",
    "flickr8k": "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k",
    "storybooks": "https://github.com/global-asp/asp-source/archive",
    "pictures": "https://raw.githubusercontent.com/global-asp/asp-imagebank/master/medium",
}


class Archive(NamedTuple):
    file: str  # from its host
    folder: str  # where its files go, from the folder of the data set
    members: str  # a pattern of the paths in it that are wanted
    least: int  # how many those are at least
    max_bytes: float  # of the archive, and of all that is in it


ARCHIVES = {
    "vist": [
        Archive(
            "story-in-sequence/SIS-with-labels.tar.gz",
            "sis",
            r"(.*/)?(train|val|test)\.story-in-sequence\.json",
            3,
            2e9,
        ),
        Archive(
            "description-in-isolation/DII-with-labels.tar.gz",
            "dii",
            r"(.*/)?(train|val|test)\.description-in-isolation\.json",
            3,
            2e9,
        ),
    ],
    "flickr8k": [
        Archive(
            "Flickr8k_text.zip",
            "",
            r"(.*/)?(Flickr8k\.token|Flickr_8k\.(train|dev|test)Images)\.txt",
            4,
            1e8,
        ),
        Archive("Flickr8k_Dataset.zip", "images", r"(.*/)?\d+_\w+\.jpg", 8000, 3e9),
    ],
    "storybooks": [Archive("HEAD.zip", "asp-source/en", r".*/en/\d{4}_[^/\\]+\.md", 300, 5e8)],
}
PICTURES = "asp-imagebank/medium"  # of the books, from their folder
MORE_PICTURES = 3  # than pages: a book with more than two more does not fit, which must be seen


def fetch_archives(what: str, root: Path, web: Web) -> None:
    """Fetch and unpack those archives of a data set whose files are not all in its folder.

    Raises UserError where one cannot be fetched or is not what it should be.
    """
    for archive in ARCHIVES[what]:
        folder, url = root / archive.folder, f"{HOSTS[what]}/{archive.file}"
        path = root / f".{Path(archive.file).name}"  # stays until all of it is unpacked
        names = [f"/en/{file.name}" for file in folder.glob("*")]
        there = sum(re.fullmatch(archive.members, name) is not None for name in names)
        if path.exists() or there < archive.least:
            if not path.exists():
                fetch_archive(url, path, archive.max_bytes, web)
            try:
                unpack(path, archive, folder)
            except Exception as error:  # BadZipFile, TarError, EOFError, zlib.error, RuntimeError …
                if isinstance(error, OSError) and error.errno:  # ours, as a full disk
                    raise
                path.unlink()
                raise UserError(
                    f"{url}: {error}; expected an archive with {archive.folder or 'captions'}; "
                    "nothing of it is kept, the same command fetches it anew"
                ) from None
        say(f"{folder}: complete")


def fetch_archive(url: str, path: Path, max_bytes: float, web: Web) -> None:
    """Fetch a file; what an earlier run or attempt has of it is continued."""
    part, size = path.with_name(f"{path.name}.part"), -1
    with tqdm(desc=path.name[1:], unit="B", unit_scale=True) as bar:

        def ask(seconds: float) -> str:  # they are a photo's: an archive may take its time
            return web.save(url, part, max_bytes, math.inf, "expected: less", bar)

        while size < bar.n:  # as long as it goes on
            size = bar.n
            try:
                with reraise_with_path(path, part):
                    web.retry(ask)
                    return os.replace(part, path)
            except (Failed, Gone) as error:
                reason = error
    raise UserError(f"{url}: {reason}; expected the archive (the same command goes on)")


def unpack(path: Path, archive: Archive, folder: Path) -> None:
    """Put the wanted files of an archive into a folder, under their names alone, once all are
    unpacked; those that are there stay.

    Raises ValueError, or the archive's own errors, where anything is wrong with it.
    """
    holder, total = new_holder(path), 0
    try:
        with reraise_with_path(folder, holder):
            for name, size, is_file, open_member in read_members(path):
                total += size
                if total > archive.max_bytes:
                    raise ValueError(f"more than {archive.max_bytes / 1e6:g} MB when unpacked")
                if not re.fullmatch(archive.members, name):
                    continue
                inner = PurePosixPath(name)
                target = holder / inner.name
                is_inside = not inner.is_absolute() and ".." not in inner.parts
                if not is_file or not is_inside or target.exists():
                    raise ValueError(f"{name!r} in it is no plain file, outside, or there twice")
                with open_member() as source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file)
            names = os.listdir(holder)
            if len(names) < archive.least:
                raise ValueError(f"{len(names)} of {archive.least} files in it")
            sync(holder)
            folder.mkdir(parents=True, exist_ok=True)
            for name in names:
                if not (folder / name).exists():
                    os.replace(holder / name, folder / name)
        path.unlink()
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def read_members(path: Path) -> Iterator[tuple[str, int, bool, Callable]]:
    """Path, size, whether it is a plain file, and what opens it, of all that is in an archive."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                is_file = kind in (0, stat.S_IFREG)
                yield info.filename, info.file_size, is_file, partial(archive.open, info)
    else:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                opens = partial(archive.extractfile, member)
                yield member.name, member.size, member.isreg(), opens
            while rest := archive.fileobj.read(1 << 20):  # to its checksum
                yield "", len(rest), False, bytes


def list_pictures(root: Path, images: Path) -> Iterator[tuple[Photo, bool, None]]:
    """The pictures of all books, NNNN/PP, and whether they are there: a cover, one per page, and
    some more that there may be."""
    for path in sorted((root / "asp-source" / "en").glob("[0-9][0-9][0-9][0-9]_*.md")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        pages = sum(line.strip() == "##" for line in lines) - 1  # the last one holds the credits
        for number in range(1, pages + MORE_PICTURES + 1):
            name = f"{path.name[:4]}/{number:02}"
            photo = Photo(name, "", f"{HOSTS['pictures']}/{name}.jpg", images)
            yield photo, any(images.glob(f"{name}.*")), None
