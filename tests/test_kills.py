"""Killed at any moment and taken up again: the same as if nothing had happened, bit for bit.

A child is forked for each run from a process that has imported torch already. It is killed by SIGKILL either at its
n-th event (a file opened for writing, renamed, linked or removed; a step or a validation begun or ended), which it
counts itself, or after some time, which may be anywhere, within the libraries too.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import torch
from conftest import WORDS, random_sentences
from PIL import Image
from safetensors.torch import load_file, save_file

import cli
from cli import OUTPUT_DIR
from dataset import train_tokenizer
from model import ImageEncoder

CHANGES = {"os.rename", "os.link", "os.mkdir", "os.rmdir", "os.remove", "os.truncate"}
TRAINING = (
    "train.py --train_data_path data/train.json --output_dir output --n_layer 1 --n_head 2 --n_embd 16 "
    "--n_positions 96 --image_slots 2 --plan_size 4 --batch_size 4 --max_steps 14 --eval_every 3 --log_every 1 "
    "--dropout 0.2 --keep 2 --learning_rate 0.01 --resume"
)
PREPROCESSING = (
    "dataset.py --picturebook VIST --image_encoder resnet18 --encoder_stages 1 --image_size 32 --store features "
    "--tokenizer bpe --vocab_size 300 --workers 1 --batch_size 2 --output output"
)


def child(command, folder, kill_at, draws):
    """In a process of its own: the command, which kills itself at an event; the number of events otherwise."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as cli.answer_early does
    os.chdir(folder)
    screen = os.open("screen.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(screen, 1), os.dup2(screen, 2)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # its workers need not import torch anew
    sys.argv = command.split()
    events, own = 0, os.getpid()

    def happens():
        nonlocal events
        events += os.getpid() == own  # not those of its workers
        if events == kill_at:
            os.kill(own, signal.SIGKILL)

    def audit(event, arguments):
        written = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES or written:
            happens()

    def told(function):
        def both(*arguments, **named):
            happens()
            result = function(*arguments, **named)
            happens()
            return result

        return both

    import dataset
    import train

    train.evaluate, train.Training.take_step = told(train.evaluate), told(train.Training.take_step)
    if not draws:
        train.Log.draw = lambda self, anew=True: None
    dataset.CHUNK = 4
    sys.addaudithook(audit)
    try:
        cli.run({"train.py": train.main, "dataset.py": dataset.main}[sys.argv[0]])
    except SystemExit as stop:
        Path("status.json").write_text(json.dumps([stop.code or 0, events]))


@pytest.fixture(scope="module")
def fork():
    """fork(command, folder, …): a started child. Its parent has torch, and has never run a backward pass."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train", "dataset", "test_kills"])

    def start(command, folder, kill_at=0, draws=False):
        (folder / "status.json").unlink(missing_ok=True)
        process = context.Process(target=child, args=(command, folder, kill_at, draws))
        process.start()
        return process

    first = context.Process(target=os.getpid)  # waits for the imports
    first.start()
    first.join()
    return start


def wait(process, seconds=100):
    """Until the process has ended. (join() would wait for its orphaned workers too.)"""
    end = time.monotonic() + seconds
    while psutil.pid_exists(process.pid) and time.monotonic() < end:
        time.sleep(0.003)


def status(folder):
    """(exit status, events) of a child that was not killed; None of one that was."""
    path = folder / "status.json"
    return json.loads(path.read_text()) if path.is_file() else None


def make_data(folder):
    """A small preprocessed data set of random stories and features, as dataset.py would leave it."""
    folder.mkdir()
    torch.manual_seed(0)
    rng = random.Random(1)
    encoder = ImageEncoder.build("resnet18", "none", image_size=32, stages=1)
    encoder.save_pretrained(folder / "image_encoder")
    train_tokenizer(WORDS, vocab_size=300).save_pretrained(folder / "tokenizer")
    for split, count in (("train", 22), ("val", 5)):
        stories = [
            {"story_id": f"{split}{i}", "album_id": str(i), "beats": [
                {"photo_id": str(t), "photo": t, "sentence": said} for t, said in enumerate(random_sentences(rng, 3, 4))
            ]} for i in range(count)
        ]  # fmt: skip
        about = {"format": 1, "split": split, "photos": {"file": f"{split}.safetensors", "kind": "features"}}
        (folder / f"{split}.json").write_text(json.dumps(about | {"stories": stories}))
        save_file({"photos": torch.randn(3, encoder.config.feature_size).half()}, folder / f"{split}.safetensors")


def make_annotations(folder):
    """VIST annotations with 22 photos, one of them broken, in three splits."""
    rng = random.Random(2)
    (folder / "sis").mkdir(parents=True)
    for split, stories in (("train", 3), ("val", 1), ("test", 1)):
        (folder / "images" / split).mkdir(parents=True)
        entries = []
        for story in range(stories):
            for place, said in enumerate(random_sentences(rng, 4, 5)):
                photo = f"{split}{story}{place}"
                picture = Image.new("RGB", (40, 40), tuple(rng.choices(range(256), k=3)))
                picture.save(folder / "images" / split / f"{photo}.jpg")
                entries.append([{
                    "story_id": f"{split}{story}", "album_id": "1", "photo_flickr_id": photo, "text": said,
                    "worker_arranged_photo_order": place,
                }])  # fmt: skip
        (folder / "images" / split / f"{split}01.jpg").write_bytes(b"no photo")
        (folder / "sis" / f"{split}.story-in-sequence.json").write_text(json.dumps({"annotations": entries}))


def left_by_training(folder):
    """All that a training leaves, in comparable form: losses and validations, weights, moments and progress."""
    output = folder / OUTPUT_DIR
    lines = map(json.loads, (output / "log.jsonl").read_text().splitlines())
    log = [{k: v for k, v in line.items() if k != "stories_per_second"} for line in lines if "step" in line]
    names = sorted(path.name for path in output.iterdir() if path.name not in ("log.jsonl", "training.png", ".lock"))
    tensors = {path: load_file(path) for path in sorted(output.rglob("*.safetensors"))}
    digests = {
        str(path.relative_to(output)): {name: tensor.numpy().tobytes() for name, tensor in of.items()}
        for path, of in tensors.items()
    }
    progress = json.loads((output / "latest" / "progress.json").read_text())
    progress.pop("versions")
    return log, names, digests, progress


def left_by_preprocessing(folder):
    output = folder / OUTPUT_DIR
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


KINDS = {"training": (TRAINING, left_by_training), "preprocessing": (PREPROCESSING, left_by_preprocessing)}


@pytest.fixture(scope="module")
def arena(tmp_path_factory, fork):
    """arena(kind): (a folder of data, what an uninterrupted run leaves, its events, its seconds), made once."""
    made = {}

    def get(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            make_data(folder / "data") if kind == "training" else make_annotations(folder / "VIST")
            start = time.monotonic()
            process = fork(KINDS[kind][0], folder)
            wait(process)
            seconds = time.monotonic() - start
            code, events = status(folder)
            assert code == 0, (folder / "screen.txt").read_text()
            made[kind] = folder, KINDS[kind][1](folder), events, seconds
            shutil.rmtree(folder / OUTPUT_DIR)
        return made[kind]

    return get


def kill_until_done(kind, arena, fork, folder, chance, kills):
    """One run, killed up to `kills` times at random moments and taken up each time. Returns how often, by moment."""
    source, expected, events, seconds = arena(kind)
    command, left = KINDS[kind]
    for path in source.iterdir():
        if path.is_dir():
            (folder / path.name).symlink_to(path)
    moments, done = Counter(), False
    while not done and sum(moments.values()) < kills:
        by = chance.choice(("event", "event", "time", "SIGTERM", "SIGINT"))
        process = fork(command, folder, chance.randrange(1, events // 2) if by == "event" else 0)
        if by != "event":
            wait(process, chance.uniform(0, seconds / 2))
            if psutil.pid_exists(process.pid):
                os.kill(process.pid, signal.SIGKILL if by == "time" else getattr(signal, by))
        wait(process)
        done = status(folder) is not None and status(folder)[0] == 0  # it came to its end first
        moments[by] += not done
        assert done or status(folder) is None or status(folder)[0] in (130, 143), (folder / "screen.txt").read_text()
    wait(fork(command, folder))
    assert status(folder)[0] == 0, (folder / "screen.txt").read_text()[-3000:]
    assert "Traceback" not in (folder / "screen.txt").read_text()
    assert left(folder) == expected
    return moments


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_taken_up_is_as_if_nothing_had_happened(kind, arena, fork, tmp_path):
    moments = kill_until_done(kind, arena, fork, tmp_path, random.Random(7), kills=6)
    assert sum(moments.values()) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_often(kind, arena, fork, tmp_path, capsys):
    """Every event of a run in turn (of a preprocessing, every fourth), then runs that are killed again and again."""
    moments, (source, expected, events, _) = Counter(), arena(kind)
    chance = random.Random(0)
    for number in range(1, events, 1 if kind == "training" else 4):
        folder = tmp_path / f"event{number}"
        folder.mkdir()
        for path in source.iterdir():
            if path.is_dir():
                (folder / path.name).symlink_to(path)
        for kill_at in (number, 0):
            wait(fork(KINDS[kind][0], folder, kill_at))
        assert status(folder)[0] == 0 and KINDS[kind][1](folder) == expected, number
        moments["one event after the other"] += 1
        shutil.rmtree(folder)
    for run in range(20):
        folder = tmp_path / f"run{run}"
        folder.mkdir()
        moments += kill_until_done(kind, arena, fork, folder, chance, kills=8)
        shutil.rmtree(folder)
    with capsys.disabled():
        print(f"\n{kind}: {sum(moments.values())} kills ({dict(moments)}), all equal to the uninterrupted run")


def mounted(folder, size):
    """A file system of `size` bytes at a folder, or such a one grown; skips the test where that is not allowed."""
    options = f"size={size}" if not os.path.ismount(folder) else f"remount,size={size}"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")


@pytest.mark.skipif(not shutil.which("mount"), reason="no mount here")
@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_loses_nothing(kind, arena, fork, tmp_path):
    """On a disk that is too small in several ways, then on one that is large enough."""
    source, expected, *_ = arena(kind)
    for path in source.iterdir():
        if path.is_dir():
            (tmp_path / path.name).symlink_to(path)
    disk, screen = tmp_path / OUTPUT_DIR, tmp_path / "screen.txt"
    disk.mkdir()
    refused = 0
    try:
        for size in (200_000, 700_000, 1_100_000, 1_600_000, 20_000_000):
            mounted(disk, size)
            screen.unlink(missing_ok=True)
            wait(fork(KINDS[kind][0], tmp_path))
            if status(tmp_path)[0]:
                assert status(tmp_path)[0] == 2 and "Traceback" not in screen.read_text(), screen.read_text()
                last = screen.read_text().strip().splitlines()[-1]
                assert f": {OUTPUT_DIR}/" in last and "No space left on device (free some space, then" in last
                refused += 1
                assert not list(disk.rglob(f"*{cli.UNFINISHED}"))
                for path in disk.rglob("*.safetensors"):
                    assert path.parent.name.endswith(".partial") or load_file(path)
        assert refused >= 2
        assert KINDS[kind][1](tmp_path) == expected
    finally:
        subprocess.run(["umount", "-l", disk], capture_output=True)


def test_two_at_once_is_told(arena, fork, tmp_path):
    source, expected, events, _ = arena("training")
    (tmp_path / "data").symlink_to(source / "data")
    first = fork(TRAINING, tmp_path)
    while not (tmp_path / OUTPUT_DIR / "log.jsonl").is_file() and first.is_alive():
        time.sleep(0.005)
    os.kill(first.pid, signal.SIGSTOP)
    (tmp_path / "screen.txt").unlink()
    second = fork(TRAINING, tmp_path)
    wait(second)
    said = (tmp_path / "screen.txt").read_text()
    assert status(tmp_path)[0] == 2 and "--output_dir output: another process is at work there" in said, said
    os.kill(first.pid, signal.SIGCONT)
    wait(first)
    assert status(tmp_path)[0] == 0 and left_by_training(tmp_path) == expected
