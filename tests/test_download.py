"""dataset.py --download photos, against a server on this machine that misbehaves in every way that
the web does."""

import contextlib
import errno
import functools
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from ast import literal_eval
from collections import Counter
from pathlib import Path

import download_server
import pytest
from download_server import NEVER, NOT_NOW, RECOVER, Site, picture
from PIL import Image

from utils import cli, download
from utils.cli import UserError
from utils.files import directory_lock
from utils.journal import is_safe
from utils.web import REDIRECTS, USER_AGENT, Failed, Patience, Photo, Web, is_web_address

ROOT = Path(__file__).parent.parent
QUICK = Patience(connect=2, read=0.8, photo=2.0, attempts=3, backoff=0.01, longest=0.1)
HASTY = Patience(connect=1, read=0.2, photo=0.4, attempts=1)
BASE = picture(60, 40)
NUL, LONE = "12\0", "12\ud83d"


def index(images, split):
    folder = images / split
    return (
        {path.stem: path for path in folder.iterdir() if path.is_file()} if folder.is_dir() else {}
    )


def fetch(images, needed, urls, **options):
    options = {"rate": 0, "max_megabytes": 1, "patience": QUICK} | options
    photos = download.list_photos(images, needed, urls)
    status = download.download(images, photos, **options)
    return status, json.loads((images / "download.json").read_text())


def child(path):
    """What the subprocesses of these tests run."""
    job = json.loads(Path(path).read_text())
    assert "torch" not in sys.modules
    patience = Patience(**job.pop("patience"))
    cli.run(lambda: fetch(Path(job.pop("images")), patience=patience, **job)[0])


def start(tmp_path, **job):
    (tmp_path / "job.json").write_text(json.dumps({"patience": vars(QUICK)} | job))
    paths = os.pathsep.join(
        [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    code = "import sys, test_download; test_download.child(sys.argv[1])"
    return subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "job.json"],
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )


def wait_for(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def files_of(images):
    """{path from the folder: bytes} of all but what the download keeps for itself; nothing
    temporary is among it."""
    found = {path.relative_to(images).as_posix(): path for path in images.rglob("*")}
    assert not [name for name in found if "unfinished" in name]
    own = (".lock", "download.json", "download.jsonl")
    return {
        name: path.read_bytes()
        for name, path in found.items()
        if path.is_file() and name not in own
    }


def jobs_of(server, kinds, split="train"):
    """Photos of these kinds, each its own id and one of three albums: what is needed, and the
    URLs."""
    ids = {f"{1000 + number}": kind for number, kind in enumerate(kinds)}
    urls = {photo_id: f"{server}/{kind}/{photo_id}" for photo_id, kind in ids.items()}
    return {split: {photo_id: f"album {int(photo_id) % 3}" for photo_id in ids}}, urls, ids


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def site():
    return Site(BASE)


@pytest.fixture
def server(site):
    with download_server.in_thread(site) as address:
        yield address


# -------------------------------------------------------------------------------- ids and addresses


@pytest.mark.parametrize(
    "photo_id",
    [
        "",
        ".",
        "..",
        "../1",
        "a/b",
        "a\\b",
        "/etc/passwd",
        "C:x",
        ".hidden",
        NUL,
        LONE,
        "a\n",
        "-rf",
        "1" * 201,
        "é" * 101,
    ],
)
def test_unsafe_ids(photo_id):
    assert not is_safe(photo_id)


@pytest.mark.parametrize("photo_id", ["1741642", "p0", "a.b", "a-b_c d", "é", "1" * 200])
def test_safe_ids(photo_id):
    assert is_safe(photo_id)


@pytest.mark.parametrize(
    "url",
    [
        None,
        7,
        ["http://a/b"],
        "",
        "a/b",
        "//a/b",
        "http://",
        "http:///b",
        "ftp://a/b",
        "file:///etc/passwd",
        "data:,x",
        "javascript:x",
        "http://a:port/b",
        "http://[1/b",
        " http://a/b",
        f"http://{'a' * 70}é.example/",
    ],
)
def test_no_web_addresses(url):
    assert not is_web_address(url)


@pytest.mark.parametrize(
    "url", ["http://a/b", "HTTPS://a.b/c d?e=f", "http://a/\r\nX: y", "http://[::1]:8/a"]
)
def test_web_addresses(url):
    assert is_web_address(url)


# ---------------------------------------------------------------------------- a web that misbehaves


def test_nothing_is_lost_and_nothing_wrong_is_kept(site, server, tmp_path, capsys):
    images, kinds = tmp_path / "images", [*RECOVER, *NEVER, *NOT_NOW]
    needed, urls, ids = jobs_of(server, [*kinds, *kinds, "placeholder", "placeholder", "good"])
    there = list(ids)[-1]
    (images / "train").mkdir(parents=True)
    (images / "train" / f"{there}.png").write_bytes(b"mine")
    odd = {
        "../../out": f"{server}/good/out",
        LONE: f"{server}/good/12",
        "none": None,
        "disk": "file:///etc/passwd",
    }
    odd["stand-in"] = "http://127.0.0.1/photo_unavailable_m.gif"
    needed["train"] |= {photo_id: "odd" for photo_id in odd}
    needed["val"] = {list(ids)[0]: "a photo of two splits"}
    urls |= odd

    status, report = fetch(images, needed, urls, connections=64)
    expected = {"there already": 1, "fetched": 2 * len(RECOVER), "gone": {}, "failed for now": {}}
    for photo_id, kind in ids.items():
        for name, reasons in (("gone", NEVER), ("failed for now", NOT_NOW)):
            if kind in reasons:
                expected[name].setdefault(reasons[kind], set()).add(photo_id)
    expected["gone"] |= {
        "no URL": {"none"},
        "not a web address": {"disk"},
        "unsafe id": {"../../out", "12\\ud83d"},
    }
    expected["gone"]["photo unavailable"].add("stand-in")
    for name in ("gone", "failed for now"):
        assert {reason: set(of) for reason, of in report[name].items()} == expected[name]
    assert report["fetched"] == expected["fetched"] and report["there already"] == 1 and status == 1

    good = {
        f"train/{photo_id}.jpg": site.photo(photo_id)
        for photo_id, kind in ids.items()
        if kind in RECOVER
    }
    del good[f"train/{there}.jpg"]
    assert files_of(images) == good | {f"train/{there}.png": b"mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["images"] and site.most <= 64
    asked = {
        kind: site.requests[f"/{kind}/{photo_id}"]
        for photo_id, kind in ids.items()
        if photo_id != there
    }
    assert (
        all(asked[kind] == 1 for kind in NEVER if NEVER[kind].startswith("HTTP"))
        and asked["unavailable"] == 1
    )
    assert (
        asked["truncated"] == asked["html"] == asked["teapot"] == 2
        and asked["busy"] == asked["cut"] == 3
    )
    assert asked["endless"] == asked["huge"] == 1 and asked["loop"] == REDIRECTS + 1
    assert site.agents == {f"User-Agent: {USER_AGENT}"}
    out = capsys.readouterr().out
    assert (
        "  gone: HTTP 404                                           2\n" in out
        and "tries them again" in out
    )

    # what is there or gone is not asked for again
    before = Counter(site.requests)
    status, report = fetch(images, needed, urls, connections=32, patience=HASTY)
    again = {path.split("/")[1] for path in site.requests - before}
    assert status == 1 and again == set(NOT_NOW) and report["there already"] == 2 * len(RECOVER) + 1
    assert {reason: set(of) for reason, of in report["gone"].items()} == expected["gone"]
    never = {
        split: {i: a for i, a in of.items() if ids.get(i) not in NOT_NOW}
        for split, of in needed.items()
    }
    before = Counter(site.requests)
    assert fetch(images, never, urls)[0] == 0 and site.requests == before

    # unless it is said so
    status, report = fetch(images, never, urls, retry_gone=True)
    again = {path.split("/")[1] for path in site.requests - before}
    assert status == 0 and again - {"pw"} == set(NEVER)
    assert {reason: set(of) for reason, of in report["gone"].items()} == expected["gone"]
    assert files_of(images) == good | {f"train/{there}.png": b"mine"}


def test_the_suffix_is_not_that_of_the_address(server, tmp_path):
    urls = {
        str(number): f"{server}/{kind}/{number}"
        for number, kind in enumerate(("png", "gif", "webp", "good"))
    }
    assert fetch(tmp_path, {"val": dict.fromkeys(urls, "")}, urls)[0] == 0
    assert set(files_of(tmp_path)) == {"val/0.png", "val/1.gif", "val/2.webp", "val/3.jpg"}


def test_photos_without_folders_of_splits_stay_in_sight(server, tmp_path):
    (tmp_path / "mine.jpg").write_bytes(BASE)
    urls = {"1": f"{server}/good/1"}
    fetch(tmp_path, {"val": {"1": "", "mine": ""}}, urls)
    assert set(files_of(tmp_path)) == {"mine.jpg", "1.jpg"}


def test_a_rate_is_kept_to(server, tmp_path):
    needed, urls, _ = jobs_of(server, ["good"] * 20)
    began = time.monotonic()
    assert fetch(tmp_path, needed, urls, rate=50)[0] == 0
    assert time.monotonic() - began >= 19 / 50


def test_a_proxy_of_the_environment_is_asked(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.removeprefix("http://"))
    assert fetch(tmp_path, {"train": {"1": ""}}, {"1": "http://photos.invalid/good/1"})[0] == 0
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(UserError, match="proxy"):
        fetch(tmp_path, {"train": {"1": ""}}, {"1": "http://photos.invalid/good/1"})


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
def test_a_certificate_is_asked_for(site, tmp_path, monkeypatch):
    key, certificate, urls = tmp_path / "key.pem", tmp_path / "certificate.pem", {}
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with download_server.in_thread(site, context) as server:
        urls["1"] = f"{server}/moved/1"
        status, report = fetch(tmp_path / "images", {"train": {"1": ""}}, urls)
        assert (
            status == 1
            and report["failed for now"] == {"no connection": ["1"]}
            and not site.requests
        )
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert fetch(tmp_path / "images", {"train": {"1": ""}}, urls)[0] == 0


# ------------------------------------------------------------------------------------- placeholders


def test_a_pair_of_the_same_bytes_is_no_placeholder(site, server, tmp_path):
    for needed in ({"1": "a", "2": "b"}, {"1": "a", "2": "a", "3": "a"}):  # nor three of one album
        images = tmp_path / str(len(needed))
        urls = {photo_id: f"{server}/placeholder/{photo_id}" for photo_id in needed}
        status, report = fetch(images, {"train": needed}, urls)
        assert status == 0 and report["fetched"] == len(needed) == len(files_of(images))
    status, report = fetch(
        images, {"train": needed | {"4": ""}}, urls | {"4": f"{server}/placeholder/4"}
    )
    assert report["gone"] == {"placeholder": ["4", "1", "2", "3"]} or set(
        report["gone"]["placeholder"]
    ) == set("1234")
    assert files_of(images) == {}


def test_placeholders_are_remembered(site, server, tmp_path):
    """Also when those of the same bytes came in another run; what has taken their place since
    stays."""
    urls = {photo_id: f"{server}/placeholder/{photo_id}" for photo_id in "1234"}
    assert fetch(tmp_path, {"train": {"1": "", "2": ""}}, urls)[1]["fetched"] == 2
    (tmp_path / "train/2.jpg").write_bytes(b"a better one")
    status, report = fetch(tmp_path, {"train": {"1": "", "2": "", "3": ""}}, urls)
    assert status == 0 and report["there already"] == 1 and report["fetched"] == 0
    assert set(report["gone"]["placeholder"]) == {"1", "3"} and files_of(tmp_path) == {
        "train/2.jpg": b"a better one"
    }
    assert fetch(tmp_path, {"train": {"4": ""}}, urls)[1]["gone"] == {"placeholder": ["4"]}
    before = Counter(site.requests)
    report = fetch(tmp_path, {"train": dict.fromkeys("1234", "")}, urls)[1]
    assert report["there already"] == 1 and set(report["gone"]["placeholder"]) == {"1", "3", "4"}
    assert site.requests == before


def test_a_journal_that_was_torn_or_tampered_with(server, tmp_path):
    (tmp_path / "images").mkdir()
    sha256 = hashlib.sha256(BASE).hexdigest()
    outside = {"id": "secret", "album": "", "file": "../secret.jpg", "sha256": sha256}
    (tmp_path / "secret.jpg").write_bytes(BASE)
    lines = [
        json.dumps(line)
        for line in ({"id": "1", "gone": "HTTP 404"}, outside, {"placeholder": sha256}, 7, [])
    ]
    (tmp_path / "images/download.jsonl").write_text("\n".join([*lines, '{"id": "2", "go']))
    urls = {photo_id: f"{server}/good/{photo_id}" for photo_id in "123"} | {
        "3": f"{server}/missing/3"
    }
    report = fetch(tmp_path / "images", {"train": dict.fromkeys("123", "")}, urls)[1]
    assert report["gone"] == {"HTTP 404": ["1", "3"]} and report["fetched"] == 1
    report = fetch(tmp_path / "images", {"train": dict.fromkeys("123", "")}, {"3": urls["3"]})[1]
    assert report["gone"] == {"HTTP 404": ["3"], "no URL": ["1"]} and report["there already"] == 1
    assert (tmp_path / "secret.jpg").exists()


# ------------------------------------------------------------------------------------------ stopped


def requests_of(server):
    with urllib.request.urlopen(f"{server}/requests/") as answer:
        requests = literal_eval(answer.read().decode())
    return Counter({path: count for path, count in requests.items() if path != "/requests/"})


def test_killed_and_taken_up_again(site, server, tmp_path):
    images = tmp_path / "images"
    needed, urls, ids = jobs_of(
        server, ["good", "slow", "good", "cut_once", "missing", "placeholder", "good"] * 25
    )
    job = {"images": str(images), "needed": needed, "urls": urls, "connections": 4}
    for least in (20, 60):
        process = start(tmp_path, **job)
        wait_for(lambda: len([*images.glob("train/*.jpg")]) >= least)
        process.kill()
        process.communicate()
        before, there = Counter(site.requests), index(images, "train")
        assert all(
            path.read_bytes() in (site.photo(photo_id), BASE) for photo_id, path in there.items()
        )
    status, report = fetch(images, needed, urls)
    assert status == 0 and set(report["gone"]) == {"HTTP 404", "placeholder"}
    assert [len(of) for of in report["gone"].values()] == [25, 25]
    good = {photo_id for photo_id, kind in ids.items() if kind not in ("missing", "placeholder")}
    assert files_of(images) == {f"train/{photo_id}.jpg": site.photo(photo_id) for photo_id in good}
    again = {path.rsplit("/", 1)[1] for path in site.requests - before}
    assert not again & there.keys() and report["there already"] == len(there.keys() & good)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_one_line(server, tmp_path, number):
    images = tmp_path / "images"
    needed, urls, _ = jobs_of(server, ["good", "silent"] * 10)
    patience = vars(QUICK) | {"read": 4, "photo": 4}
    process = start(
        tmp_path, images=str(images), needed=needed, urls=urls, connections=20, patience=patience
    )
    wait_for(lambda: len([*images.glob("train/*.jpg")]) == 10)
    began = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 128 + number and time.monotonic() - began < 2 and out == ""
    assert err.splitlines()[-1].endswith(
        "stopped; 10 photos fetched, 10 to go: the same command goes on"
    )
    assert "Traceback" not in err and len(files_of(images)) == 10
    assert json.loads((images / "download.json").read_text())["failed for now"].keys() == {
        "not asked"
    }


@pytest.mark.parametrize("what", ["fsync", "replace"])
def test_a_full_disk_is_one_line_and_what_was_fetched_stays(
    server, tmp_path, monkeypatch, capsys, what
):
    needed, urls, ids = jobs_of(server, ["good"] * 30)
    original, calls = getattr(os, what), []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) > 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*arguments)

    monkeypatch.setattr(download.os, what, full)
    monkeypatch.setattr(sys, "argv", ["dataset.py"])
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda: fetch(tmp_path, needed, urls, connections=1)[0])
    monkeypatch.undo()
    error = capsys.readouterr().err.splitlines()[-1]
    assert (
        stop.value.code == 2
        and "No space left on device (free some space" in error
        and str(tmp_path) in error
    )
    kept = files_of(tmp_path)
    assert len(kept) == 10
    again = {"there already": 10, "fetched": 20, "gone": {}, "failed for now": {}}
    assert fetch(tmp_path, needed, urls) == (0, again)


def test_a_full_disk_leaves_no_temporary_folder(server, tmp_path, monkeypatch, capsys):
    """A full disk takes no new folder either, and other threads go on while one is removed."""
    needed, urls, _ = jobs_of(server, ["good"] * 30)
    originals, is_full = {"replace": os.replace, "mkdir": os.mkdir}, threading.Event()
    names = itertools.count(1)

    def full(what, *arguments, **options):
        if what == "replace" and next(names) > 10:
            is_full.set()
        if is_full.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return originals[what](*arguments, **options)

    def remove_slowly(folder, ignore_errors=False):
        for path in Path(folder).iterdir():
            path.unlink()
        time.sleep(0.3)
        with contextlib.suppress(OSError):
            os.rmdir(folder)

    for what in originals:
        monkeypatch.setattr(os, what, functools.partial(full, what))
    monkeypatch.setattr(download.shutil, "rmtree", remove_slowly)
    monkeypatch.setattr(sys, "argv", ["dataset.py"])
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda: fetch(tmp_path, needed, urls, connections=8)[0])
    monkeypatch.undo()
    error = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2 and str(tmp_path) in error
    assert not list(tmp_path.rglob("*.unfinished"))


def test_after_a_stop_no_file_is_made(server, tmp_path):
    """Also where the server's answer comes after it."""
    _, urls, (photo_id,) = jobs_of(server, ["good"])
    web = Web(1, 0, Patience())
    web.stop()
    with pytest.raises(Failed, match="not asked"):
        web.fetch(Photo(photo_id, "", urls[photo_id], tmp_path), tmp_path / "photo", 1e6, 5.0)
    assert not list(tmp_path.iterdir())


def test_without_a_network_it_stops_early(tmp_path, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        needed, urls, _ = jobs_of(f"http://127.0.0.1:{closed.getsockname()[1]}", ["good"] * 500)
        status, report = fetch(tmp_path, needed, urls, connections=4)
    error = capsys.readouterr().err.splitlines()[-1]
    assert status == 1 and error.endswith(
        "no connection 30 times in a row (is there a network?): stopped; the same command goes on"
    )
    failed = report["failed for now"]
    assert sum(map(len, failed.values())) == 500 and len(failed["no connection"]) <= 30
    assert not (tmp_path / "download.jsonl").read_bytes()


def test_a_server_that_wants_no_more_is_left_alone(site, server, tmp_path, capsys):
    needed, urls, _ = jobs_of(server, ["limited_for_ever"] * 500)
    status, report = fetch(tmp_path, needed, urls, patience=Patience(backoff=0.01, longest=0.02))
    assert status == 1 and "asks to slow down (HTTP 429)" in capsys.readouterr().err
    assert (
        sum(site.requests.values()) <= 100  # as many as were under way, on a slow machine more
        and sum(map(len, report["failed for now"].values())) == 500
    )


def test_two_at_once_are_refused(tmp_path):
    with (
        directory_lock(tmp_path, "--images"),
        pytest.raises(UserError, match="images .*another process"),
    ):
        fetch(tmp_path, {"train": {}}, {})


# --------------------------------------------------------------------- dataset.py --download photos


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", QUICK)


def annotation(story_id, photo_id, place):
    return [
        {
            "story_id": story_id,
            "album_id": f"album of {story_id}",
            "photo_flickr_id": photo_id,
            "worker_arranged_photo_order": place,
            "text": "a photo .",
            "original_text": "A photo.",
        }
    ]


def write_vist(folder, server):
    """A story of five photos in two splits each; returns the ids by kind."""
    for number, split in enumerate(("train", "val")):
        kinds = ("good", "missing", "png", "moved", "unavailable")
        ids = {f"{number}{place}": kind for place, kind in enumerate(kinds)}
        images = [
            {"id": photo_id, "url_om"[:4] + "om"[place % 2]: f"{server}/{kind}/{photo_id}"}
            for place, (photo_id, kind) in enumerate(ids.items())
        ]
        told = [annotation(f"s{number}", photo_id, place) for place, photo_id in enumerate(ids)]
        told += [annotation("lone", f"../{number}", 0)]
        path = folder / "sis" / f"{split}.story-in-sequence.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({"images": [*images, None, {"id": "not needed"}], "annotations": told})
        )


def test_vist_end_to_end(site, server, tmp_path, script, quick):
    write_vist(tmp_path / "dataset/VIST", server)
    done = script("dataset.py", "--download", "photos", "--rate", 0, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    images = tmp_path / "dataset/VIST/images"
    names = (
        "train/00.jpg",
        "train/02.png",
        "train/03.jpg",
        "val/10.jpg",
        "val/12.png",
        "val/13.jpg",
    )
    assert set(files_of(images)) == set(names) and (images / names[0]).read_bytes() == site.photo(
        "00"
    )
    assert done.stdout.splitlines() == [
        "Fetching the photos of dataset/VIST",
        "dataset/VIST/images: 12 photos needed",
        *(
            f"  {name:<50} {count:>7}"
            for name, count in (
                ("there already", 0),
                ("fetched", 6),
                ("gone: HTTP 404", 2),
                ("gone: photo unavailable", 2),
                ("gone: unsafe id", 2),
            )
        ),
        "Which are gone or failed: dataset/VIST/images/download.json",
        "Next: python dataset.py --vist dataset/VIST",
    ]
    before = Counter(site.requests)
    assert (
        "there already                                            6\n"
        in script("dataset.py", "--download", "photos", "--rate", 0, cwd=tmp_path).stdout
    )
    assert site.requests == before

    small = "--image_encoder resnet18 --encoder_weights none --image_size 32".split()
    small += "--tokenizer bpe --num_workers 1".split()
    done = script("dataset.py", "--vist", "dataset/VIST", *small, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.count("3 found, 3 missing, 0 broken") == 2


def test_vist_edit_end_to_end(site, server, tmp_path, script, quick):
    """Its photos go where VIST's are; one that is there, in whichever split, is not fetched."""
    for split, ids in (("train", "12345"), ("dev", "23678")):
        path = tmp_path / "VIST-Edit/AREL" / split / f"{'-'.join(ids)}.json"
        path.parent.mkdir(parents=True)
        urls = [
            f"{server}/{'missing' if photo_id == '7' else 'good'}/{photo_id}" for photo_id in ids
        ]
        text = [f"sentence {photo_id} ." for photo_id in ids]
        whole = " ".join(text)
        edits = [{"normalized_edited_story_text_sent": text, "edited_story_text": whole}]
        path.write_text(
            json.dumps(
                {
                    "photo_sequence_ids": list(ids),
                    "photo_sequence_urls": urls,
                    "album_id": "a",
                    "auto_story_text_normalized": whole,
                    "edited_stories": edits,
                }
            )
        )
    images = tmp_path / "VIST/images"
    (images / "test").mkdir(parents=True)
    (images / "test/5.jpg").write_bytes(BASE)
    done = script(
        "dataset.py",
        "--download",
        "photos",
        "--vist_edit",
        tmp_path / "VIST-Edit",
        "--connections",
        3,
    )
    assert done.returncode == 0, done.stderr
    assert set(files_of(images)) == {
        *(f"train/{i}.jpg" for i in "1234"),
        "val/6.jpg",
        "val/8.jpg",
        "test/5.jpg",
    }
    assert (
        set(site.requests.values()) == {1}
        and f"Next: python dataset.py --vist_edit {tmp_path}" in done.stdout
    )
    named = script(
        "dataset.py",
        "--download",
        "photos",
        "--vist_edit",
        tmp_path / "VIST-Edit",
        "--images",
        tmp_path / "mine",
    )
    assert len(files_of(tmp_path / "mine")) == 7 and f"--images {tmp_path}/mine" in named.stdout


def test_real_checks_refuse_what_is_cut_short(tmp_path):
    from utils.photos import why_broken

    whole, path = picture(300, 200), tmp_path / "x"
    for progressive in (False, True):
        path.write_bytes(whole)
        with Image.open(path) as image:
            image.save(path, "JPEG", progressive=progressive)
        whole = path.read_bytes()
        assert why_broken(path) is None
        for size in (len(whole) - 60, len(whole) // 2, 100):
            path.write_bytes(whole[:size])
            assert why_broken(path)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--rate", "5"], "--rate: only --download"),
        (["--connections", "5"], "--connections: only --download"),
        (["--max_megabytes", "5"], "--max_megabytes: only --download"),
        (["--retry_gone"], "--retry_gone: only --download"),
        (["--download", "photos", "--rate", "-1"], "--rate"),
        (
            ["--download", "photos", "--connections", "1000"],
            "1000 is not a whole number of at least 1, at most 256",
        ),
        (["--download", "photos", "--vist", "nowhere"], "--vist nowhere: no such folder"),
        (
            ["--download", "photos", "--picturebook", "book"],
            "drawn (python -m experiments.picturebook); expected --vist",
        ),
        (["--download", "photos"], "holds no stories yet"),
    ],
)
def test_user_mistakes_are_one_line(tmp_path, script, options, message):
    (tmp_path / "book").mkdir()
    done = script("dataset.py", *options, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and not (tmp_path / "dataset").exists()
    assert done.stderr.count("\n") == 1 or options == ["--download", "photos"]


# ----------------------------------------------------------------------------------------- how fast


@pytest.mark.slow
def test_two_thousand_photos_a_fifth_of_them_faulty(tmp_path):
    """Killed once in the middle; prints how many photos per second were fetched."""
    base, count = picture(500, 375), 2000
    faults = [kind for kind in (*RECOVER, *NEVER) if kind not in ("good", "chunked")]
    chance = random.Random(0)
    kinds = [chance.choice(faults) if number % 5 == 0 else "good" for number in range(count)]
    images = tmp_path / "images"
    site = Site(base)
    with download_server.in_process(base) as server:
        needed, urls, ids = jobs_of(server, kinds)
        patience = vars(QUICK) | {"connect": 10, "read": 10, "photo": 60, "attempts": 5}
        job = {
            "images": "images",
            "needed": needed,
            "urls": urls,
            "connections": 64,
            "patience": patience,
        }
        process, seconds = start(tmp_path, **job), 0.0
        wait_for(lambda: index(images, "train"), 60)
        began = time.monotonic()
        wait_for(lambda: len(index(images, "train")) >= count // 2, 60)
        process.kill()
        process.communicate()
        seconds += time.monotonic() - began
        there, before = index(images, "train"), requests_of(server)
        for photo_id, path in there.items():
            assert path.read_bytes() in (site.photo(photo_id), base)

        process = start(tmp_path, **job)
        wait_for(lambda: requests_of(server) != before, 60)
        began = time.monotonic()
        out, err = process.communicate(timeout=120)
        seconds += time.monotonic() - began
        assert process.returncode == 0, err
        again = {path.rsplit("/", 1)[1] for path in requests_of(server) - before}
    report = json.loads((images / "download.json").read_text())
    good = {photo_id for photo_id, kind in ids.items() if kind in RECOVER}
    assert files_of(images) == {f"train/{photo_id}.jpg": site.photo(photo_id) for photo_id in good}
    assert report["failed for now"] == {} and not again & there.keys()
    gone = Counter(NEVER[kind] for kind in kinds if kind in NEVER)
    assert {reason: len(of) for reason, of in report["gone"].items()} == gone
    print(
        f"\n{len(good)} photos of {len(base) / 1e3:.0f} kB and {gone.total()} gone ones, "
        f"{sum(kind != 'good' for kind in kinds)} of {count} faulty, 64 connections, "
        f"killed once at {len(there)}: {seconds:.1f} s, {len(good) / seconds:.0f} photos a "
        f"second\n{out}"
    )
