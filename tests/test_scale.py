"""dataset.py with several processes, killed and taken up again: always the bytes of one that nobody
stopped."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from accelerate import PartialState
from conftest import ROOT, ranks
from PIL import Image
from safetensors.torch import load_file

import dataset
from utils import cli, preprocessing
from utils.files import write_story_lines
from utils.photos import load_photo
from utils.preprocessing import note_path
from utils.tensors import create_photos_file

PHOTOS, CHUNK = 22, 4
OPTIONS = (
    "--image_encoder resnet18 --encoder_weights none --image_size 32 --tokenizer bpe --vocab_size "
    "300 --num_workers 1"
)


@pytest.fixture(scope="module")
def vist(tmp_path_factory):
    """A split of 22 photos, two of them broken, and one of a single photo."""
    folder, chance = tmp_path_factory.mktemp("scale") / "VIST", np.random.default_rng(0)
    for split, count in (("train", PHOTOS), ("val", 1)):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "sis").mkdir(exist_ok=True)
        for i in range(count):
            picture = Image.fromarray(chance.integers(0, 256, (30, 40, 3), dtype=np.uint8))
            picture.save(folder / "images" / split / f"{i}.png")
        told = [
            {
                "story_id": str(i // 5),
                "album_id": "a",
                "photo_flickr_id": str(i),
                "worker_arranged_photo_order": i % 5,
                "text": f"photo {i} is « é 🙂 » .",
            }
            for i in range(count)
        ]
        annotations = json.dumps({"annotations": [[entry] for entry in told]})
        (folder / "sis" / f"{split}.story-in-sequence.json").write_text(annotations)
    for broken in (5, 17):
        (folder / "images/train" / f"{broken}.png").write_bytes(b"photo unavailable")
    return folder


@pytest.mark.slow
def test_photos_ten_times_as_large_as_the_memory(tmp_path, tokenizer, make_model):
    """A (sparse) file of 80 GiB of photos, of which a training holds what it reads."""
    size, num_beats = 80 * 2**30, 5
    encoder = make_model().image_encoder
    encoder.save_pretrained(tmp_path / "image_encoder")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    row_bytes = 2 * encoder.config.feature_size
    for split, rows in (("train", size // row_bytes), ("val", 10)):
        file = tmp_path / f"{split}.safetensors"
        create_photos_file(file, "F16", (rows, encoder.config.feature_size), row_bytes * rows)
        stories = []
        for i in range(min(1000, rows // num_beats)):
            beats = [
                {"sentence": "a fox .", "photo": (i * rows // 1000 + t) % rows}
                for t in range(num_beats)
            ]
            stories.append({"story_id": str(i), "beats": beats})
        about = {"format": 1, "photos": {"file": file.name, "kind": "features"}}
        write_story_lines(tmp_path / f"{split}.json", about, stories)
    options = "--n_layer 1 --n_embd 32 --n_head 2 --max_steps 3 --batch_size 4"
    paths = ["--train_data_path", tmp_path / "train.json", "--output_dir", tmp_path / "out"]
    code = "import resource, train; train.main(); print(resource.getrusage(0).ru_maxrss)"
    done = subprocess.run(
        [sys.executable, "-c", code, *paths, *options.split()],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) < 2 * 2**20 and "best model" in done.stdout  # KiB


def work(environment, arguments, notes):
    """What a launcher starts; it kills itself after `notes` notes."""
    os.environ.update(environment)
    PartialState._reset_state()  # of the process that was forked
    torch.set_num_threads(1)
    preprocessing.CHUNK_SIZE, write_json, left = CHUNK, preprocessing.write_json, notes

    def write_and_die(path, value):
        nonlocal left
        if path.parent.suffix == ".partial":
            rows_are_there(path.parent, int(path.stem), value)
            left -= 1
        write_json(path, value)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    preprocessing.write_json = write_and_die
    cli.run(lambda: dataset.main(arguments))


def rows_are_there(folder, chunk, broken):
    """As the note of a chunk is written, its rows stand in the file."""
    assert not note_path(folder, chunk).exists()
    if folder.stem == "train":
        rows = (
            load_file(folder / preprocessing.PHOTOS)["photos"][chunk * CHUNK : (chunk + 1) * CHUNK]
            .flatten(1)
            .float()
        )
        empty = {str(chunk * CHUNK + i) for i, row in enumerate(rows) if not row.any()}
        assert (
            empty == broken.keys() == {"5", "17"} & {str(chunk * CHUNK + i) for i in range(CHUNK)}
        )


def launch(vist, output, count, *more, notes=(-1, -1)):
    """Exit statuses of `count` processes, forked (a launcher would import torch again); process i
    dies at notes[i]."""
    processes = []
    for i, environment in enumerate(ranks(count) if count > 1 else [{}]):
        arguments = ["--vist", str(vist), "--output", str(output), *OPTIONS.split(), *more]
        processes.append(
            multiprocessing.get_context("fork").Process(
                target=work, args=(environment, arguments, notes[i])
            )
        )
        processes[-1].start()
    while None in (statuses := [process.exitcode for process in processes]):
        if any(statuses):  # of one that failed; a launcher ends the others then
            for process in processes:
                process.kill()
        time.sleep(0.02)
    return statuses


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def straight(vist, tmp_path_factory):
    """The files of one process that nobody stopped."""
    output = tmp_path_factory.mktemp("straight")
    assert launch(vist, output, 1) == [0]
    return content(output)


def test_two_processes_give_the_bytes_of_one(vist, straight, tmp_path):
    assert launch(vist, tmp_path, 2) == [0, 0]
    assert content(tmp_path) == straight
    assert {
        "train.json",
        "train.safetensors",
        "val.json",
        "val.safetensors",
        "report.json",
    } <= straight.keys()


@pytest.mark.slow
@pytest.mark.parametrize("before, after", [(1, 2), (2, 1)])
def test_killed_and_taken_up_by_as_many_or_others(vist, straight, tmp_path, before, after):
    statuses = launch(vist, tmp_path, before, notes=(2, 1))
    assert -signal.SIGKILL in statuses and 0 not in statuses
    partial = tmp_path / "train.partial"
    assert (
        0 < len([*partial.glob(preprocessing.NOTES)]) < 6
        and not (tmp_path / "train.safetensors").exists()
    )
    assert launch(vist, tmp_path, after) == [0] * after
    assert content(tmp_path) == straight and not partial.exists()


def test_a_photo_is_not_encoded_twice(vist, tmp_path, monkeypatch):
    asked, load_batch = [], preprocessing.PhotoBatches.__getitem__
    launch(vist, tmp_path, 1, "--store", "pixels", notes=(2,))
    monkeypatch.setattr(preprocessing, "CHUNK_SIZE", CHUNK)
    monkeypatch.setattr(
        preprocessing,
        "DataLoader",
        lambda files, sampler, **more: (files[batch] for batch in sampler),
    )
    monkeypatch.setattr(
        preprocessing.PhotoBatches,
        "__getitem__",
        lambda *batch: asked.extend(batch[1]) or load_batch(*batch),
    )
    assert (
        dataset.main(
            ["--vist", str(vist), "--output", str(tmp_path), *OPTIONS.split(), "--store", "pixels"]
        )
        == 0
    )
    assert asked == [*range(2 * CHUNK, PHOTOS), 0]  # and the one of val


def test_features_of_one_file_are_computed_in_one_way(vist, tmp_path, capfd):
    launch(vist, tmp_path, 1, "--batch_size", "2", notes=(1,))
    assert launch(vist, tmp_path, 1, "--batch_size", "3") == [2]
    error = capfd.readouterr().err.splitlines()[-1]
    assert "batch_size was 2, now 3); expected --overwrite" in error
    assert launch(vist, tmp_path, 1, "--batch_size", "3", "--overwrite") == [0]


def test_a_mistake_is_said_once(vist, tmp_path, capfd):
    (tmp_path / "mine.txt").write_text("not to be touched")
    assert sorted(launch(vist, tmp_path, 2))[1] == 2
    assert capfd.readouterr().err.count("expected a new or empty folder") == 1


@pytest.mark.slow
def test_torchrun_and_pixels(vist, tmp_path):
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
    ]
    options = ["--vist", vist, "--output", tmp_path / "two", *OPTIONS.split(), "--store", "pixels"]
    done = subprocess.run(
        [*launcher, ROOT / "dataset.py", *options], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.count("Next: python train.py") == 1
        and done.stdout.count("20 found, 0 missing, 2 broken") == 1
    )
    assert launch(vist, tmp_path / "one", 1, "--store", "pixels") == [0]
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_a_split_is_a_story_a_line(straight):
    lines, split = straight["train.json"].decode().splitlines(), json.loads(straight["train.json"])
    assert json.loads(lines[0] + "]}") == split | {"stories": []} and lines[-1] == "]}"
    assert [json.loads(line.removesuffix(",")) for line in lines[1:-1]] == split["stories"]
    assert "« é 🙂 »" in lines[1]


@pytest.mark.parametrize(
    "width, height", [(1600, 400), (400, 1600), (1000, 1000), (447, 300), (100, 90)]
)
def test_a_jpeg_is_never_decoded_smaller_than_asked(tmp_path, width, height):
    Image.new("RGB", (width, height)).save(tmp_path / "x.jpg")
    for size in (16, 50, 64, 112, 224):
        photo = load_photo(tmp_path / "x.jpg", size)
        assert min(photo.size) >= min(2 * size, width, height)
        if min(width, height) >= 4 * size:  # and no bigger than twice that
            assert min(photo.size) <= max(4 * size, -(-min(width, height) // 8))


def test_the_fused_encoder_is_the_encoder():
    from utils.image_encoder import ImageEncoder

    for arch in ("resnet18", "resnet50"):
        torch.manual_seed(0)
        encoder = ImageEncoder.build(arch, "none", image_size=32, stages=4, grid=1).eval()
        for module in encoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
                torch.nn.init.uniform_(module.running_var, 0.5, 2)
                torch.nn.init.uniform_(module.weight, 0.1, 0.5)
        names = list(encoder.state_dict())
        pixels = torch.randint(
            0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.manual_seed(0)
        )
        fused = encoder.fuse_batch_norms()
        with torch.inference_mode():
            torch.testing.assert_close(fused(pixels), encoder(pixels), rtol=1e-4, atol=1e-4)
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules())
        assert list(encoder.state_dict()) == names  # it is a copy
