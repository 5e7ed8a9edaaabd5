"""dataset.py --download vist, flickr8k and storybooks, against a server on this machine that stands
in for their publishers."""

import asyncio
import gzip
import io
import os
import re
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import download_server
import pytest
from download_server import Site, picture
from test_download import BASE, HASTY, QUICK, annotation, files_of, wait_for

from utils import archives, download
from utils.cli import UserError
from utils.files import directory_lock, to_json
from utils.web import Web

ROOT = Path(__file__).parent.parent
SIS, DII = (
    "story-in-sequence/SIS-with-labels.tar.gz",
    "description-in-isolation/DII-with-labels.tar.gz",
)
PHOTOS = "flickr8k/Flickr8k_Dataset.zip"
SPLITS = ("train", "val", "test")
NOISE = os.urandom(300_000)


class Publisher(Site):
    """Serves `files`, {path: bytes}, by Range too. faults: {path: [what goes wrong, …]}, one a
    request: "cut" half of what is left, "slow" the same and then nothing, "html", "404", "503",
    "no range", "other range"."""

    def __init__(self, files):
        super().__init__(BASE)
        self.files, self.faults, self.sent, self.ranges = files, {}, Counter(), []

    async def serve(self, reader, writer):
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                path = head.split(" ", 2)[1].lstrip("/")
                found = re.search(r"(?i)\r\nrange: bytes=(\d+)-\r\n", head)
                start = int(found[1]) if found else 0
                self.requests[path] += 1
                if await self.give(path, start, writer) == "close":
                    break
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def give(self, path, start, writer):
        fault = self.faults[path].pop(0) if self.faults.get(path) else ""
        if path.startswith("photos/"):
            return self.send(writer, self.photo(Path(path).name))
        if path not in self.files or fault == "404":
            return self.refuse(writer, "404 Not Found")
        if fault == "503":
            return self.refuse(writer, "503 Service Unavailable")
        if fault == "html":
            return self.refuse(writer, "200 OK")
        body = self.files[path]
        if fault == "no range":
            start = 0
        headers, status = (), "200 OK"
        if start:
            self.ranges.append(start)
            start += fault == "other range"
            status = "206 Partial Content"
            headers = (f"Content-Range: bytes {start}-{len(body) - 1}/{len(body)}",)
        body = body[start:]
        part = body[: len(body) // 2] if fault in ("cut", "slow") else body
        self.sent[path] += len(part)
        self.send(writer, part, status, len(body), *headers)
        if fault == "slow":
            await writer.drain()
            await asyncio.sleep(20)
        return "close" if fault in ("cut", "slow") else None


def tar_of(members):
    """members: {path: bytes, or a TarInfo}."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return file.getvalue()


def zip_of(members, compression=zipfile.ZIP_STORED):
    """members: {path: bytes, or (mode, bytes)}."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            mode, content = content if isinstance(content, tuple) else (0, content)
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, compression
            archive.writestr(info, content)
    return file.getvalue()


def tier(name, server="http://nowhere"):
    """{path in the archive: bytes} of three splits, a story of two photos in each."""
    members = {"._sis": b"another system's", "sis/readme.json": b"{}"}
    for number, split in enumerate(SPLITS):
        ids = [f"{number}{place}" for place in range(2)]
        images = [{"id": i, "url_o": f"{server}/photos/{i}"} for i in ids]
        told = [annotation(f"s{number}", i, place) for place, i in enumerate(ids)]
        data = {"images": images, "annotations": told}
        members[f"sis/{split}.{name}.json"] = to_json(data).encode()
    return members


TEXTS = {
    "Flickr8k.token.txt": b"1_a.jpg#0\tA photo .\n",
    **{f"Flickr_8k.{split}Images.txt": b"1_a.jpg\n" for split in ("train", "dev", "test")},
}
MAC = {"__MACOSX/._1_a.jpg": b"another system's", "readme.txt": b"not asked for"}


def book(pages):
    return ("# A title\n\n" + "##\nA page.\n\n" * pages + "##\n* License: [CC-BY]\n").encode()


def publish(server):
    """{path: bytes} of all that the publishers have."""
    photos = {f"Flicker8k_Dataset/{n}_{n:x}a.jpg": picture(40, 30, n) for n in range(1, 5)}
    noise = {"Flicker8k_Dataset/noise": NOISE}
    books = {"asp-source-1/en/0001_a-tall-man.md": book(2), "asp-source-1/en/0004_dog.md": book(1)}
    others = {"asp-source-1/en/README.md": b"", "asp-source-1/af/0001_n-man.md": book(2)}
    files = {
        f"vist/{SIS}": tar_of(tier("story-in-sequence", server) | {"noise": NOISE}),
        f"vist/{DII}": tar_of(tier("description-in-isolation")),
        "flickr8k/Flickr8k_text.zip": zip_of(TEXTS | MAC),
        "flickr8k/Flickr8k_Dataset.zip": zip_of(photos | MAC | noise),
        "storybooks/HEAD.zip": zip_of(books | others),
    }
    for name, count in (("0001", 4), ("0004", 5)):  # pages and two more, and four more
        files |= {
            f"pictures/{name}/{n:02}.jpg": picture(40, 30, 10 * count + n)
            for n in range(1, count + 1)
        }
    return files


@pytest.fixture
def world(monkeypatch):
    """The publishers, all on this machine."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    site = Publisher({})
    with download_server.in_thread(site) as server:
        site.files = publish(server)
        for name in archives.HOSTS:
            monkeypatch.setitem(archives.HOSTS, name, f"{server}/{name}")
        few = {"images": 4, "asp-source/en": 2}  # photos and books
        for name, items in archives.ARCHIVES.items():
            items = [item._replace(least=few.get(item.folder, item.least)) for item in items]
            monkeypatch.setitem(archives.ARCHIVES, name, items)
        monkeypatch.setattr(download, "PATIENCE", QUICK)
        site.address = server
        yield site


@pytest.fixture
def run(script, tmp_path):
    def run(*arguments):
        return script("dataset.py", "--download", *arguments, cwd=tmp_path)

    return run


def names_of(folder):
    """The paths of a folder's files, without what downloads keep for themselves."""
    return {name for name in files_of(folder) if not name.endswith((".lock", "download.jsonl"))} - {
        "download.json"
    }


# --------------------------------------------------------------------------------- the four of them


def test_vist(world, run, tmp_path):
    done = run("vist", "--rate", 0)
    assert done.returncode == 0, done.stderr
    root = tmp_path / "dataset/VIST"
    found = {name for name in names_of(root) if not name.startswith("images/download")}
    expected = {f"sis/{split}.story-in-sequence.json" for split in SPLITS}
    expected |= {f"dii/{split}.description-in-isolation.json" for split in SPLITS}
    expected |= {
        f"images/{split}/{n}{place}.jpg" for n, split in enumerate(SPLITS) for place in (0, 1)
    }
    assert found == expected
    text = (root / "sis/val.story-in-sequence.json").read_bytes()
    assert text == tier("story-in-sequence", world.address)["sis/val.story-in-sequence.json"]
    assert done.stdout.splitlines()[-1] == "Next: python dataset.py --vist dataset/VIST"

    before = Counter(world.requests)  # what is there is not fetched again
    assert run("vist").returncode == 0 and world.requests == before


def test_vist_keeps_the_files_that_are_there(world, run, tmp_path):
    mine = tmp_path / "mine/sis/val.story-in-sequence.json"
    mine.parent.mkdir(parents=True)
    text = tier("story-in-sequence", world.address)["sis/val.story-in-sequence.json"] + b"\n\n"
    mine.write_bytes(text)
    assert run("vist", "--vist", tmp_path / "mine", "--rate", 0).returncode == 0
    assert mine.read_bytes() == text and (mine.parent / "test.story-in-sequence.json").exists()


def test_flickr8k(world, run, tmp_path):
    done = run("flickr8k")
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(io.BytesIO(world.files[PHOTOS])) as archive:
        paths = [
            name for name in archive.namelist() if name.endswith("a.jpg") and "/._" not in name
        ]
        photos = {f"images/{Path(path).name}": archive.read(path) for path in paths}
    root = tmp_path / "dataset/flickr8k"
    assert files_of(root) == TEXTS | photos and len(photos) == 4
    assert "complete" in done.stdout and "--captions dataset/flickr8k" in done.stdout
    before = Counter(world.requests)
    assert run("flickr8k").returncode == 0 and world.requests == before


def test_a_photo_of_ones_own_is_not_all_of_them(world, run, tmp_path):
    mine = tmp_path / "dataset/flickr8k/images/1_1a.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(BASE)
    assert run("flickr8k").returncode == 0 and mine.read_bytes() == BASE
    assert len(list(mine.parent.iterdir())) == 4


def test_storybooks(world, run, tmp_path):
    """A picture more than two after the last page is asked for: the book then does not fit."""
    done = run("storybooks", "--rate", 0, "--connections", 3)
    assert done.returncode == 0, done.stderr
    root = tmp_path / "dataset/storybooks"
    files = names_of(root / "asp-source")
    assert files == {"en/0001_a-tall-man.md", "en/0004_dog.md"}
    pictures = {name.removeprefix("pictures/") for name in world.files if "pictures" in name}
    medium = root / "asp-imagebank/medium"
    assert names_of(medium) == pictures - {"0004/05.jpg"}
    assert (medium / "0001/02.jpg").read_bytes() == world.files["pictures/0001/02.jpg"]
    assert "gone: HTTP 404" in done.stdout and done.stdout.count("complete") == 1
    assert "Next: python dataset.py --storybooks dataset/storybooks" in done.stdout
    before = Counter(world.requests)
    assert run("storybooks").returncode == 0 and world.requests == before


def test_books_that_share_pictures_keep_them(world, run, tmp_path):
    same = {name: BASE for name in world.files if name.startswith("pictures")}
    world.files |= same
    assert run("storybooks", "--rate", 0).returncode == 0
    assert len(names_of(tmp_path / "dataset/storybooks/asp-imagebank/medium")) == len(same) - 1


def test_real_addresses_are_https():
    assert all(host.startswith("https://") for host in archives.HOSTS.values())


# ------------------------------------------------------------------------------------------ resumed


@pytest.mark.parametrize(
    "faults",
    [["cut"] * 4, ["503", "cut", "503"], ["cut", "no range"], ["cut", "other range"]],
    ids=" ".join,
)
def test_a_cut_connection_is_continued(world, run, tmp_path, faults):
    path = f"vist/{SIS}"
    world.faults[path] = list(faults)
    done = run("vist", "--rate", 0)
    assert done.returncode == 0 and not world.faults[path], done.stderr
    assert len(list((tmp_path / "dataset/VIST/sis").iterdir())) == 3
    if "range" not in faults[-1]:  # each byte came once
        assert world.sent[path] == len(world.files[path])


def test_continued_by_the_next_run(world, run, tmp_path):
    """Where even the last attempt brought nothing."""
    world.faults[PHOTOS] = ["cut", *["503"] * 9]
    done = run("flickr8k")
    assert done.returncode == 2 and "HTTP 503" in done.stderr.splitlines()[-1]
    root = tmp_path / "dataset/flickr8k"
    assert (root / ".Flickr8k_Dataset.zip.part").stat().st_size == len(world.files[PHOTOS]) // 2
    assert set(TEXTS) == {name for name in files_of(root) if not name.startswith(".")}
    world.faults.clear()
    texts = world.requests["flickr8k/Flickr8k_text.zip"]
    assert run("flickr8k").returncode == 0 and world.sent[PHOTOS] == len(world.files[PHOTOS])
    assert len(files_of(root)) == 8 and world.requests["flickr8k/Flickr8k_text.zip"] == texts


CHILD = """
import sys
from utils import archives, cli, download
from utils.dataset_options import parse_args
for name in archives.HOSTS:
    archives.HOSTS[name] = f"{sys.argv[1]}/{name}"
cli.run(lambda: download.fetch(parse_args(["--download", "flickr8k"])))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_stopped_and_continued(world, run, tmp_path, number):
    world.faults[PHOTOS] = ["slow"]
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, world.address],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    root = tmp_path / "dataset/flickr8k"
    part, half = root / ".Flickr8k_Dataset.zip.part", len(world.files[PHOTOS]) // 2
    wait_for(lambda: part.exists() and part.stat().st_size > half - (1 << 16), 20)
    time.sleep(0.1)
    began = time.monotonic()
    process.send_signal(number)
    _, error = process.communicate(timeout=10)
    assert time.monotonic() - began < 3 and "Traceback" not in error
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert error.splitlines()[-1].endswith("stopped; the same command goes on")
    there = part.stat().st_size
    assert run("flickr8k").returncode == 0 and world.ranges == [there]
    assert len(files_of(root)) == 8


def test_killed_while_it_was_unpacked(world, run, tmp_path, monkeypatch):
    """Some photos have their names already: the archive is there and is not fetched again."""
    replace, calls = os.replace, []

    def fail(source, target):
        if "images" in str(target):
            calls.append(target)
            if len(calls) > 2:
                raise OSError(28, os.strerror(28))
        return replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(archives.os, "replace", fail)
        done = run("flickr8k")
    assert done.returncode == 2 and "No space left on device" in done.stderr.splitlines()[-1]
    before = Counter(world.requests)
    assert run("flickr8k").returncode == 0 and world.requests == before
    assert len(files_of(tmp_path / "dataset/flickr8k")) == 8


# ----------------------------------------------------------------------------- what is not accepted


def link(name, kind=tarfile.SYMTYPE, to="/etc/passwd"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return {name: info}


def encrypted(content):
    for start, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        parts = content.split(start)
        marked = [bytes([part[flags - 4] | 1]) for part in parts[1:]]
        parts[1:] = [p[: flags - 4] + m + p[flags - 3 :] for p, m in zip(parts[1:], marked)]
        content = start.join(parts)
    return content


NAME, TOKENS = "train.story-in-sequence.json", "Flickr8k.token.txt"
STORIES = tier("story-in-sequence")
OTHERS = {name: content for name, content in STORIES.items() if NAME not in name}
SPLIT_FILES = {name: content for name, content in TEXTS.items() if name != TOKENS}
TARS = {
    "..": tar_of(OTHERS | {f"../../{NAME}": b"{}"}),
    ".. in the middle": tar_of(OTHERS | {f"a/../../../{NAME}": b"{}"}),
    "absolute": tar_of(OTHERS | {f"/tmp/x/{NAME}": b"{}"}),
    "symlink": tar_of(OTHERS | link(f"a/{NAME}")),
    "hard link": tar_of(OTHERS | link(f"a/{NAME}", tarfile.LNKTYPE, "sis/readme.json")),
    "device": tar_of(OTHERS | link(f"a/{NAME}", tarfile.CHRTYPE)),
    "folder": tar_of(OTHERS | link(f"a/{NAME}", tarfile.DIRTYPE)),
    "twice": tar_of(STORIES | {f"a/{NAME}": b"{}"}),
    "bomb": tar_of(OTHERS | {f"bomb/{NAME}": bytes(5_000_000)}),
    "bomb beside": tar_of(STORIES | {"bomb": bytes(5_000_000)}),
    "bomb after its end": gzip.compress(gzip.decompress(tar_of(STORIES)) + bytes(5_000_000)),
    "missing file": tar_of(OTHERS),
    "truncated": tar_of(STORIES | {"noise": NOISE})[:-100_000],
    "truncated at its end": tar_of(STORIES)[:-4],
    "damaged": (lambda b: b[:-8] + bytes(4) + b[-4:])(tar_of(STORIES)),
    "html": b"<html>Please log in.</html>",
    "not a tar": gzip.compress(b"<html>Please log in.</html>" * 99),
}
LINK = stat.S_IFLNK | 0o777
ZIPS = {
    "..": zip_of(SPLIT_FILES | {f"../../{TOKENS}": b"x"}),
    "absolute": zip_of(SPLIT_FILES | {f"/tmp/x/{TOKENS}": b"x"}),
    "symlink": zip_of(SPLIT_FILES | {TOKENS: (LINK, b"/etc/passwd")}),
    "twice": zip_of(TEXTS | {f"a/{TOKENS}": b"x"}),
    "bomb": zip_of(SPLIT_FILES | {f"a/{TOKENS}": bytes(5_000_000)}, zipfile.ZIP_DEFLATED),
    "missing file": zip_of(SPLIT_FILES),
    "truncated": zip_of(TEXTS | {"noise": NOISE})[:-100_000],
    "damaged": zip_of(TEXTS).replace(b"A photo .", b"A phono ."),
    "encrypted": encrypted(zip_of(TEXTS)),
    "html": b"<html>Please log in.</html>",
}


@pytest.fixture
def small(monkeypatch):
    """Archives of at most 2 MB are expected."""
    for name, items in archives.ARCHIVES.items():
        items = [archive._replace(max_bytes=2e6) for archive in items]
        monkeypatch.setitem(archives.ARCHIVES, name, items)


@pytest.mark.parametrize(
    "what, file, content",
    [pytest.param("vist", SIS, TARS[name], id=f"tar: {name}") for name in TARS]
    + [pytest.param("flickr8k", "Flickr8k_text.zip", ZIPS[n], id=f"zip: {n}") for n in ZIPS],
)
def test_nothing_of_a_bad_archive_is_kept(world, run, small, tmp_path, what, file, content):
    world.files[f"{what}/{file}"] = content
    done = run(what)
    error = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert error.startswith(f"dataset.py: {world.address}/{what}/{file}: ") and "expected" in error
    left = {p for p in tmp_path.rglob("*") if p.is_file()}
    assert {p.name for p in left} <= {".lock"} and not Path("/tmp/x").exists()
    world.files |= publish(world.address)  # mended: the same command begins anew
    assert run(what).returncode == 0


def test_a_full_disk_names_the_file(world, run, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    done = run("flickr8k")
    assert done.returncode == 2 and "Flickr8k_text.zip: No space left on" in done.stderr


def test_one_that_is_too_large_is_not_fetched(world, run, small, tmp_path):
    world.files[f"vist/{SIS}"] = os.urandom(2_100_000)
    done = run("vist")
    assert done.returncode == 2 and "larger than 2 MB" in done.stderr.splitlines()[-1]
    assert "--max_megabytes" not in done.stderr


@pytest.mark.parametrize(
    "what, file", [("vist", DII), ("flickr8k", "Flickr8k_text.zip"), ("storybooks", "HEAD.zip")]
)
@pytest.mark.parametrize("fault", ["404", "503", "html"])
def test_what_cannot_be_fetched_is_one_line(world, run, tmp_path, what, file, fault):
    world.faults[f"{what}/{file}"] = [fault] * 9
    done = run(what)
    error = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and f"{what}/{file}: " in error and "expected" in error
    if fault != "html":
        assert f"HTTP {fault}" in error
    assert not [*(tmp_path / "dataset").rglob("*.unfinished")]


def test_two_at_once_are_refused(tmp_path, run):
    with directory_lock(tmp_path / "dataset/flickr8k", "--download"):
        done = run("flickr8k")
    assert done.returncode == 2 and "another process" in done.stderr


def test_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setitem(archives.HOSTS, "vist", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="SIS-with-labels.tar.gz: no connection"):
        archives.fetch_archives("vist", tmp_path, Web(1, 0, HASTY))


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "--download"),
        (["everything"], "'everything' (choose from"),
        (["photos", "--batch_size", 8], "--batch_size: no effect on --download photos"),
        (["photos", "--image_encoder", "resnet18"], "--image_encoder: no effect on"),
        (["photos", "--store", "pixels"], "--store: no effect"),
        (["photos", "--machine_stories"], "--machine_stories: no effect"),
        (["vist", "--vist_edit", "x"], "--vist_edit: no effect on --download vist"),
        (["flickr8k", "--rate", 5], "--rate: no effect on --download flickr8k"),
        (["flickr8k", "--vist", "x"], "--vist: no effect on --download flickr8k"),
        (["storybooks", "--text", "original"], "--text: no effect on --download storybooks"),
        (["storybooks", "--overwrite"], "--overwrite: no effect"),
    ],
)
def test_user_mistakes_are_one_line(run, tmp_path, options, message):
    done = run(*options)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "dataset").exists()
