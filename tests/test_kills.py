"""Killed at any moment and taken up again: the same as if nothing had happened, bit for bit.

A run is killed by SIGKILL either at its n-th event (a file opened for writing, renamed, linked or
removed; a step or a validation begun or ended), which it counts itself, or after some time, which
may be anywhere, within libraries too.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import WORDS, random_sentences
from PIL import Image
from safetensors.torch import load_file, save_file

from utils.cli import OUTPUT_DIR
from utils.files import UNFINISHED
from utils.image_encoder import ImageEncoder
from utils.tokenizer import train_tokenizer

CHANGES = {"os.rename", "os.link", "os.mkdir", "os.rmdir", "os.remove", "os.truncate"}
TRAINING = (
    "train.py --train_data_path data/train.json --output_dir output --n_layer 1 --n_head 2 "
    "--n_embd 16 "
    "--n_positions 96 --image_positions 2 --plan_size 4 --batch_size 4 --max_steps 14 "
    "--eval_steps 3 "
    "--logging_steps 2 "
    "--dropout 0.2 --save_total_limit 2 --learning_rate 0.01 --resume"
)
PREPROCESSING = (
    "dataset.py --picturebook VIST --image_encoder resnet18 --encoder_stages 1 --image_size 32 "
    "--store features "
    "--tokenizer bpe --vocab_size 300 --num_workers 1 --batch_size 2 --output output"
)


def count_events(kill_at):
    """In the process that is to be killed: it kills itself at its event number `kill_at`, if it
    comes so far; else it leaves the number of events in events.txt."""
    import dataset
    import train
    from utils import preprocessing

    events, own = 0, os.getpid()

    def happens():
        nonlocal events
        events += os.getpid() == own  # not those of its workers
        if events == kill_at:
            os.kill(own, signal.SIGKILL)

    def audit(event, arguments):
        written = (
            event == "open"
            and isinstance(arguments[2], int)
            and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if event in CHANGES or written:
            happens()

    def told(function):
        def both(*arguments, **named):
            happens()
            result = function(*arguments, **named)
            happens()
            return result

        return both

    def counted(main):
        def run():
            status = main()
            Path("events.txt").write_text(str(events))
            return status

        return run

    train.evaluate_split, train.Training.take_step = (
        told(train.evaluate_split),
        told(train.Training.take_step),
    )
    train.Log.draw = lambda self, force=True: None  # it takes a second
    train.main, dataset.main, preprocessing.CHUNK_SIZE = (
        counted(train.main),
        counted(dataset.main),
        4,
    )
    sys.addaudithook(audit)


@pytest.fixture(scope="module")
def start(fork):
    """start(kind, folder, kill_at=0): a Forked run of a kind in KINDS."""
    return lambda kind, folder, kill_at=0: fork(
        folder, KINDS[kind][0].split(), prepare=(count_events, kill_at)
    )


def make_data(folder):
    """A small preprocessed data set of random stories and features, as dataset.py would leave
    it."""
    folder.mkdir()
    torch.manual_seed(0)
    rng = random.Random(1)
    encoder = ImageEncoder.build("resnet18", "none", image_size=32, stages=1)
    encoder.save_pretrained(folder / "image_encoder")
    train_tokenizer(WORDS, vocab_size=300).save_pretrained(folder / "tokenizer")
    for split, count in (("train", 22), ("val", 5)):
        stories = [
            {
                "story_id": f"{split}{i}",
                "album_id": str(i),
                "beats": [
                    {"photo_id": str(t), "photo": t, "sentence": said}
                    for t, said in enumerate(random_sentences(rng, 3, 4))
                ],
            }
            for i in range(count)
        ]
        about = {
            "format": 1,
            "split": split,
            "photos": {"file": f"{split}.safetensors", "kind": "features"},
        }
        (folder / f"{split}.json").write_text(json.dumps(about | {"stories": stories}))
        save_file(
            {"photos": torch.randn(3, encoder.config.feature_size).half()},
            folder / f"{split}.safetensors",
        )


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
                entries.append(
                    [
                        {
                            "story_id": f"{split}{story}",
                            "album_id": "1",
                            "photo_flickr_id": photo,
                            "text": said,
                            "worker_arranged_photo_order": place,
                        }
                    ]
                )
        (folder / "images" / split / f"{split}01.jpg").write_bytes(b"no photo")
        (folder / "sis" / f"{split}.story-in-sequence.json").write_text(
            json.dumps({"annotations": entries})
        )


def left_by_training(folder):
    """All that a training leaves, in comparable form: losses and validations, weights, moments and
    progress."""
    output = folder / OUTPUT_DIR
    lines = map(json.loads, (output / "log.jsonl").read_text().splitlines())
    log = [
        {k: v for k, v in line.items() if k != "stories_per_second"}
        for line in lines
        if "step" in line
    ]
    names = sorted(
        path.name
        for path in output.iterdir()
        if path.name not in ("log.jsonl", "training.png", ".lock")
    )
    tensors = {path: load_file(path) for path in sorted(output.rglob("*.safetensors"))}
    digests = {
        str(path.relative_to(output)): {
            name: tensor.numpy().tobytes() for name, tensor in of.items()
        }
        for path, of in tensors.items()
    }
    progress = json.loads((output / "latest" / "progress.json").read_text())
    for name in ("versions", "id"):
        progress.pop(name)
    return log, names, digests, progress


def left_by_preprocessing(folder):
    output = folder / OUTPUT_DIR
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


KINDS = {
    "training": (TRAINING, left_by_training),
    "preprocessing": (PREPROCESSING, left_by_preprocessing),
}


@pytest.fixture(scope="module")
def arena(tmp_path_factory, start):
    """arena(kind): (its data, what an uninterrupted run leaves, its events, its seconds), made
    once."""
    made = {}

    def get(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            make_data(folder / "data") if kind == "training" else make_annotations(folder / "VIST")
            begun = time.monotonic()
            run = start(kind, folder)
            assert run.wait() == 0, run.said
            seconds = time.monotonic() - begun
            events = int((folder / "events.txt").read_text())
            data = folder / ("data" if kind == "training" else "VIST")
            made[kind] = data, KINDS[kind][1](folder), events, seconds
        return made[kind]

    return get


def kill_until_done(kind, arena, start, folder, chance, kills):
    """One run, killed up to `kills` times at random moments and taken up each time. Returns how
    often, by moment."""
    data, expected, events, seconds = arena(kind)
    (folder / data.name).symlink_to(data)
    moments, status = Counter(), None
    while status != 0 and sum(moments.values()) < kills:
        by = chance.choice(("event", "event", "time", "SIGTERM", "SIGINT"))
        run = start(kind, folder, chance.randrange(1, events // 2) if by == "event" else 0)
        if by != "event":
            run.wait(chance.uniform(0, seconds / 2))
            run.kill(signal.SIGKILL if by == "time" else getattr(signal, by))
        status = run.wait()  # 0 where it came to its end first
        moments[by] += status != 0
        # Python's own, of a Ctrl-C that meets it as it forks
        ours = run.said.replace("Exception ignored in", "")
        quiet = "Traceback" not in ours or by == "SIGINT" and ours != run.said
        assert status in (None, 0, 130, 143) and quiet, run.said
    run = start(kind, folder)
    assert run.wait() == 0 and "Traceback" not in run.said, run.said
    assert KINDS[kind][1](folder) == expected
    return moments


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_taken_up_is_as_if_nothing_had_happened(kind, arena, start, tmp_path):
    moments = kill_until_done(kind, arena, start, tmp_path, random.Random(7), kills=3)
    assert sum(moments.values()) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_often(kind, arena, start, tmp_path, capsys):
    """Every third event of a run in turn, then runs that are killed again and again."""
    moments, (data, expected, events, _) = Counter(), arena(kind)
    chance = random.Random(0)
    for number in range(1, events, 3):
        folder = tmp_path / f"event{number}"
        folder.mkdir()
        (folder / data.name).symlink_to(data)
        assert start(kind, folder, number).wait() is None
        run = start(kind, folder)
        assert run.wait() == 0 and KINDS[kind][1](folder) == expected, (number, run.said)
        moments["every third event"] += 1
        shutil.rmtree(folder)
    for number in range(12):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        moments += kill_until_done(kind, arena, start, folder, chance, kills=8)
        shutil.rmtree(folder)
    with capsys.disabled():
        print(
            f"\n{kind}: {sum(moments.values())} kills ({dict(moments)}), all equal to the "
            "uninterrupted run"
        )


@pytest.mark.slow
def test_killed_while_it_overwrites_another(arena, start, fork, tmp_path):
    """Until the first checkpoint of the new training the old one is as it was; from then on the new
    one is taken up."""
    data, expected, events, _ = arena("training")
    (tmp_path / "old").mkdir()
    command, old = KINDS["training"][0].split(), tmp_path / "old"
    (old / data.name).symlink_to(data)
    assert fork(old, [*command, "--seed", "1"]).wait() == 0
    before, taken_up = left_by_training(old), 0
    for number in (5, 60):  # events: before and after its first checkpoint
        folder = tmp_path / str(number)
        shutil.copytree(old, folder, symlinks=True)
        begun = [word if word != "--resume" else "--overwrite" for word in command]
        assert fork(folder, begun, prepare=(count_events, number)).wait() is None
        run = start("training", folder)
        if run.wait() == 0:
            assert left_by_training(folder) == expected, number
            taken_up += 1
        else:
            assert "--seed was 1, now 0" in run.said and left_by_training(folder) == before, (
                run.said
            )
    assert taken_up == 1


def mounted(folder, size):
    """A file system of `size` bytes at a folder, or such a one grown; skips the test where that is
    not allowed."""
    options = f"size={size}" if not os.path.ismount(folder) else f"remount,size={size}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")


@pytest.mark.skipif(not shutil.which("mount"), reason="no mount here")
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_loses_nothing(kind, arena, start, tmp_path):
    """On a disk that is too small in several ways, then on one that is large enough."""
    data, expected, *_ = arena(kind)
    (tmp_path / data.name).symlink_to(data)
    disk, refused = tmp_path / OUTPUT_DIR, 0
    disk.mkdir()
    try:
        for size in (200_000, 700_000, 1_100_000, 1_600_000, 20_000_000):
            mounted(disk, size)
            run = start(kind, tmp_path)
            if run.wait():
                last = run.said.strip().splitlines()[-1]
                assert run.wait() == 2 and "Traceback" not in run.said, run.said
                assert (
                    f": {OUTPUT_DIR}/" in last
                    and "No space left on device (free some space, then" in last
                )
                assert not list(disk.rglob(f"*{UNFINISHED}"))
                for path in disk.rglob("*.safetensors"):
                    assert path.parent.name.endswith(".partial") or load_file(path)
                refused += 1
        assert refused >= 2 and KINDS[kind][1](tmp_path) == expected
    finally:
        subprocess.run(["umount", "-l", disk], capture_output=True)


def test_two_at_once_is_told(arena, start, tmp_path):
    data, expected, *_ = arena("training")
    (tmp_path / data.name).symlink_to(data)
    first = start("training", tmp_path)
    while not (tmp_path / OUTPUT_DIR / "log.jsonl").is_file() and first.running:
        time.sleep(0.005)
    first.kill(signal.SIGSTOP)
    second = start("training", tmp_path)
    assert (
        second.wait() == 2
        and "--output_dir output: another process is at work there" in second.said
    )
    first.kill(signal.SIGCONT)
    assert first.wait() == 0 and left_by_training(tmp_path) == expected
