"""Photos, JSON and checkpoints that are broken, odd or made to do harm: read rightly, or refused in
one line."""

import errno
import json
import os
import pickle
import random
import shutil
import socket
import struct
import zlib

import pytest
import torch
from conftest import random_sentences
from PIL import Image, ImageFile, features
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from dataset import StoryDataset
from model import PlanCVAE, load_checkpoint
from utils import preprocessing, stories
from utils.cli import UserError
from utils.files import write_story_lines
from utils.image_encoder import ImageEncoder
from utils.loading import load_encoder
from utils.photos import BrokenPhoto, load_photo, photo_files, photo_index, time_taken
from utils.tokenizer import train_tokenizer


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small(tokenizer, tmp_path_factory):
    """The folder of a tiny checkpoint."""
    folder = tmp_path_factory.mktemp("small") / "model"
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=128,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    fields = dict(state_bow=True, image_positions=2, plan_size=4, dynamics_layers=1)
    eye = ImageEncoder.build("resnet18", "none", image_size=16, stages=1)
    PlanCVAE.build(GPT2LMHeadModel(config), eye, **fields).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save(path, size=(30, 20), colour=(0, 100, 200), **options):
    Image.new("RGB", size, colour).save(path, **options)
    return path


# ------------------------------------------------------------------------------------------- photos


def one_bit_png(path, side):
    """A PNG of side × side zeros, one bit each: few bytes, many pixels."""
    row = b"\0" * (1 + side // 8)
    packed = zlib.compressobj(9)
    zeros = b"".join(packed.compress(row) for _ in range(side)) + packed.flush()

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zeros) + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("error")  # Pillow's own warning would be lines on the screen
@pytest.mark.parametrize(
    "side", [20_000, 12_000]
)  # beyond Pillow's limit, and between its warning and its limit
def test_a_bomb_is_refused_before_it_is_decoded(side, tmp_path, monkeypatch):
    one_bit_png(tmp_path / "x.png", side)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(BrokenPhoto, match="too many pixels"):
        load_photo(tmp_path / "x.png", 16)


@pytest.mark.filterwarnings("error")
def test_a_jpeg_of_very_many_pixels_is_decoded_at_a_fraction(tmp_path, monkeypatch):
    """As one of 100 megapixels, beyond Pillow's warning, is; here the limit is a smaller one."""
    save(tmp_path / "x.jpg", (1600, 1200))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    assert load_photo(tmp_path / "x.jpg", 32).size == (200, 150)


def test_moving_webp_one_pixel_and_odd_exif(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((0, 200, 0), (200, 0, 0))]
    frames[0].save(tmp_path / "x.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert load_photo(tmp_path / "x.webp", 8).getpixel((4, 4)) == (0, 200, 0)
    assert load_photo(save(tmp_path / "one.png", (1, 1)), 8).size == (1, 1)
    exif = Image.Exif()
    for number, time in enumerate((7, "soon", "0000:00:00 00:00:00", "2004:11:27 10:40:46")):
        exif[0x0112], exif[0x0132] = 99, time  # an orientation that there is not
        path = save(tmp_path / f"{number}.jpg", exif=exif)
        assert time_taken(path) == (time if number == 3 else None) and load_photo(path, 8).size == (
            30,
            20,
        )


def test_a_format_that_is_not_read_says_what_to_do(tmp_path):
    for name in ("x.heic", "really.jpg"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
        with pytest.raises(BrokenPhoto, match="HEIC, which is not read; export it as JPEG"):
            load_photo(tmp_path / name, 8)
    if "avif" in features.get_supported_modules():
        assert load_photo(save(tmp_path / "x.avif"), 8).size == (30, 20)
        (tmp_path / "x.avif").unlink()
    save(tmp_path / "x.jpg")  # stands beside x.heic, and is the photo of that id
    assert photo_index(tmp_path, "train")[0]["x"].name == "x.jpg"


@pytest.fixture
def zoo(tmp_path):
    """A folder with a photo, and all that may be named as one."""
    folder, elsewhere = tmp_path / "zoo", tmp_path / "elsewhere"
    folder.mkdir(), elsewhere.mkdir()
    save(folder / "good.jpg"), save(elsewhere / "secret.jpg")
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(folder)
        listener.bind("socket.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "out.jpg").symlink_to("../elsewhere/secret.jpg")
    (folder / "inside.jpg").symlink_to("good.jpg")
    (folder / "nowhere.jpg").symlink_to("gone.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    return folder


REASONS = {
    "folder": "a folder",
    "pipe": "not a file",
    "socket": "not a file",
    "device": "a link out of the folder",
    "out": "a link out of the folder",
    "nowhere": "a link that leads nowhere",
    "loop": "a link that leads nowhere",
}


def test_what_is_named_as_a_photo_and_is_none(zoo):
    found, aside = photo_files(zoo)
    assert [path.name for path in found] == ["good.jpg", "inside.jpg"]
    assert {path.stem: reason for path, reason in aside.items()} == REASONS
    found, aside = photo_files(zoo, follow_links=True)
    assert [path.name for path in found] == ["good.jpg", "inside.jpg", "out.jpg"]
    assert aside[zoo / "device.jpg"] == "not a file"
    for name in ("pipe.jpg", "folder.jpg", "device.jpg"):  # nor where a file of stories names them
        with pytest.raises(BrokenPhoto, match="not a file"):
            load_photo(zoo / name, 8)


def test_a_photo_without_permission_says_so(zoo, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(BrokenPhoto, match="^Permission denied$"):
        load_photo(zoo / "good.jpg", 8)


@pytest.fixture
def told(script, small, tmp_path):
    def tell(*arguments):
        done = script(
            "generate.py", "--checkpoint", small, "--max_new_tokens", 2, *arguments, cwd=tmp_path
        )
        path = tmp_path / "output/stories.json"
        return done, json.loads(path.read_text()) if path.exists() else None

    return tell


def test_a_folder_of_all_these_is_told_and_counted(zoo, told):
    done, written = told(zoo)
    assert done.returncode == 0 and written["stories"][0]["photo_ids"] == ["good.jpg", "inside.jpg"]
    assert done.stderr.count("skipped") == 1 and "7 photos cannot be read" in done.stderr
    assert all(f"{name}.jpg ({reason})" in done.stderr for name, reason in REASONS.items())
    assert "--follow_links" in done.stderr
    _, written = told(zoo, "--follow_links")
    assert written["stories"][0]["photo_ids"] == ["good.jpg", "inside.jpg", "out.jpg"]


NAMES = [
    b"two  spaces .jpg",
    "ünïcode 写真.jpg".encode(),
    b"two\nlines.jpg",
    b"\x1b[31mred.jpg",
    b"\xff\xfe.jpg",
]


def test_photos_of_any_name_are_told_shown_written_and_scored(told, script, small, tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    for name in NAMES:
        with open(folder + b"/" + name, "wb") as file:
            Image.new("RGB", (20, 20), (200, 0, 0)).save(file, "jpeg")
    done, written = told(os.fsdecode(folder))
    assert done.returncode == 0 and "skipped" not in done.stderr
    done.stdout.encode()  # which half characters could not
    assert "\x1b" not in done.stdout and "\\x1b[31mred.jpg" in done.stdout
    (story,) = written["stories"]
    assert story["folder"] == os.fsdecode(folder) and story["story_id"] == "caf\\udce9"
    assert {"two  spaces .jpg", "ünïcode 写真.jpg", "two\\nlines.jpg", "\\udcff\\udcfe.jpg"} < {
        *story["photo_ids"]
    }
    done = script("CDE_score.py", "output/stories.json", "--checkpoint", small, cwd=tmp_path)
    assert done.returncode == 0 and "scored as a missing photo" not in done.stderr


def annotations(*photos, text="a fox ."):
    return {
        "annotations": [
            [
                {
                    "story_id": "1",
                    "album_id": "7",
                    "photo_flickr_id": p,
                    "worker_arranged_photo_order": i,
                    "text": text,
                }
            ]
            for i, p in enumerate(photos)
        ]
    }


@pytest.fixture
def preprocess(script, small, tmp_path):
    """preprocess(annotations, *arguments): dataset.py over them and the photos in VIST/images; its
    report."""

    def run(told, *arguments):
        (tmp_path / "VIST" / "sis").mkdir(parents=True, exist_ok=True)
        (tmp_path / "VIST" / "sis" / "train.story-in-sequence.json").write_text(json.dumps(told))
        options = (
            "--image_encoder resnet18 --encoder_weights none --encoder_stages 1 --image_size 16 "
            "--store pixels"
        )
        done = script(
            "dataset.py",
            "--vist",
            "VIST",
            "--output",
            "out",
            *options.split(),
            "--tokenizer",
            small,
            *arguments,
            cwd=tmp_path,
        )
        path = tmp_path / "out" / "report.json"
        return done, json.loads(path.read_text())["splits"]["train"][
            "photos"
        ] if path.exists() else None

    return run


@pytest.fixture
def no_forks(monkeypatch):
    monkeypatch.setattr(
        preprocessing, "DataLoader", lambda files, sampler, **_: (files[batch] for batch in sampler)
    )


def test_each_photo_of_a_data_set_has_its_reason(zoo, preprocess, no_forks, tmp_path):
    (tmp_path / "VIST").mkdir()
    zoo.rename(tmp_path / "VIST" / "images")
    (tmp_path / "VIST" / "images" / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "VIST" / "images" / "x\nx\udcff.jpg").write_text("text")
    (tmp_path / "VIST" / "images" / "out.jpg").unlink()
    (tmp_path / "VIST" / "images" / "out.jpg").symlink_to("../../elsewhere/secret.jpg")
    unsafe = {"../../elsewhere/secret": "unsafe id", "/etc/passwd": "unsafe id", "..": "unsafe id"}
    half = {"a\0b": "not found", "\ud800": "not found"}
    shown = annotations("good", "inside", "cut", "x\nx\udcff", *REASONS, *unsafe, *half)
    done, report = preprocess(shown)
    assert done.returncode == 0, done.stderr
    assert report["missing"] == REASONS | unsafe | half
    assert report["found"] == 2 and {*report["broken"]} == {"cut", "x\nx\udcff"}
    line = next(line for line in done.stderr.splitlines() if "skipped" in line)
    assert (
        "a link out of the folder: 2" in line
        and "unsafe id: 3" in line
        and "--follow_links" in line
    )
    done, report = preprocess(shown, "--follow_links", "--overwrite")
    assert (
        report["found"] == 3
        and report["missing"]["device"] == "not a file"
        and "out" not in report["missing"]
    )


def test_a_folder_that_is_a_link_out_is_refused(zoo, preprocess, no_forks, tmp_path):
    (tmp_path / "VIST" / "images").mkdir(parents=True)
    (tmp_path / "VIST" / "images" / "train").symlink_to(zoo)
    done, _ = preprocess(annotations("good"))
    assert (
        done.returncode == 2
        and "VIST/images/train: a link out of VIST/images; expected" in done.stderr
    )
    assert done.stderr.count("\n") == 1 and not (tmp_path / "out").exists()
    assert preprocess(annotations("good"), "--follow_links")[1]["found"] == 1


# --------------------------------------------------------------------------------------------- JSON


ENTRY = annotations("a")["annotations"][0][0]
EDIT = {
    "photo_sequence_ids": ["1", "2"],
    "auto_story_text_normalized": "a . b .",
    "edited_stories": [{"normalized_edited_story_text_sent": ["a .", "b ."]}],
}
SPLIT = {
    "format": 1,
    "photos": {"file": "x.safetensors", "kind": "features"},
    "stories": [{"story_id": "1", "beats": [{"photo_id": "a", "sentence": "a .", "photo": 0}]}],
}
STORY = SPLIT["stories"][0]


@pytest.mark.parametrize(
    "value, message",
    [
        ({"annotations": [[ENTRY, ENTRY]]}, "annotation 0 is ["),
        ({"annotations": [ENTRY | {"text": 7}]}, 'annotation 0: "text" is 7'),
        ({"annotations": [ENTRY | {"story_id": ["1"]}]}, 'annotation 0: "story_id" is ['),
        ({"annotations": [ENTRY | {"photo_flickr_id": float("nan")}]}, '"photo_flickr_id" is nan'),
        (
            {"annotations": [ENTRY | {"worker_arranged_photo_order": 1.5}]},
            "is 1.5; expected a whole number",
        ),
        (
            {"annotations": [ENTRY | {"worker_arranged_photo_order": float("inf")}]},
            "is inf; expected a whole",
        ),
        (EDIT | {"photo_sequence_ids": [None, "2"]}, "a list of photo ids"),
        (EDIT | {"auto_story_text_normalized": "  "}, "expected text"),
        (EDIT | {"model": {}}, '"model" is {}'),
        (EDIT | {"edited_stories": [{"normalized_edited_story_text_sent": [["a"]]}]}, "edit 0"),
        (SPLIT | {"photos": {"file": "../x.safetensors", "kind": "features"}}, '"photos"'),
        (SPLIT | {"photos": {"file": "..", "kind": "features"}}, '"photos"'),
        (SPLIT | {"photos": {"file": "", "kind": "features"}}, '"photos"'),
        (SPLIT | {"photos": {"file": "x\0", "kind": "features"}}, '"photos"'),
        (SPLIT | {"text": "shouted"}, '"text" is'),
        (SPLIT | {"stories": [STORY | {"story_id": {}}]}, "story number 0"),
        (SPLIT | {"stories": [STORY | {"album_id": []}]}, '"album_id" is []'),
        (
            SPLIT | {"stories": [STORY | {"beats": [STORY["beats"][0] | {"photo": 10**30}]}]},
            'a beat: "photo" is 1000',
        ),
        (
            SPLIT | {"stories": [STORY | {"beats": [STORY["beats"][0] | {"photo_id": 1.5}]}]},
            'a beat: "photo_id" is 1.5',
        ),
        ({"stories": [{"story_id": [1], "sentences": ["a"]}]}, '"story_id" is ['),
        (
            {"stories": [{"photo_ids": [True], "sentences": ["a"]}]},
            "[True]; expected a list of photo ids",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_of_a_wrong_type_are_named(value, message, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match="x.json: ") as error:
        stories.read_stories(path)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "not JSON"),
        ('{"7": ["café ."]}'.encode("latin-1"), "codec can't decode"),
        (json.dumps({"7": ["a ."]}).encode("utf-16"), "codec can't decode"),
        (b'{"7": [' + b"1" * 5000 + b"]}", "4300"),
        (b'{"7": 1e400}', "inf; expected one text"),
        (b'{"7": [' + b"[" * 900 + b"]" * 900 + b"]}", "expected a list of stories"),
        (b"[" * 200_000, "maximum recursion depth"),
        (b'{"7": ["a ."]}\0', "not JSON"),
    ],
    ids=["empty", "latin-1", "UTF-16", "digits", "1e400", "nested", "deeper", "null byte"],
)
def test_texts_that_are_no_stories_are_one_line(content, message, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match="x.json: ") as error:
        stories.read_stories(tmp_path / "x.json")
    assert message in str(error.value)


def test_odd_texts_are_told(tmp_path, script):
    """With a byte order mark; one beat, twelve; a null byte, half a character, an escape; 10,000
    words."""
    told = {
        "1": "one .",
        "12": " . ".join("abcdefghijkl") + " .",
        "odd": "null \0 half \ud83d red \x1b[31m .",
        "long": "word " * 10_000,
    }
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(told).encode())
    found = stories.read_stories(tmp_path / "x.json").stories
    assert [len(story["beats"]) for story in found] == [1, 12, 1, 1]
    done = script("CDE_score.py", "x.json", "--checkpoint", "none", cwd=tmp_path)
    assert done.returncode == 0 and not done.stderr


def test_what_a_model_has_no_room_for_is_counted(tmp_path, script, small):
    (tmp_path / "x.json").write_text(json.dumps({"1": "fox " * 10_000, "2": "a fox ."}))
    done = script("CDE_score.py", "x.json", "--checkpoint", small, cwd=tmp_path)
    assert done.returncode == 0 and "shortened to the model's 128 positions 1" in " ".join(
        done.stdout.split()
    )


def test_an_album_without_ids_or_photos_beyond_the_file(tmp_path, told):
    save_file({"photos": torch.zeros(1, 64).half()}, tmp_path / "x.safetensors")
    (tmp_path / "x.json").write_text(
        json.dumps(
            SPLIT
            | {
                "stories": [
                    {
                        "story_id": 7,
                        "beats": [
                            {"sentence": "a .", "photo": None},
                            {"sentence": "a .", "photo": 0},
                        ],
                    }
                ]
            }
        )
    )
    done, written = told("--data_path", "x.json")
    assert done.returncode == 0 and written["stories"][0]["album_id"] == 7
    (tmp_path / "x.json").write_text(
        (tmp_path / "x.json").read_text().replace('"photo": 0', '"photo": 1')
    )
    done, _ = told("--data_path", "x.json")
    assert done.returncode == 2 and "story 7: photo 1; expected one of the 1 rows" in done.stderr


@pytest.mark.parametrize("damage", ["NaN", "pixels", "a pipe"])
def test_tables_that_would_stop_a_training_midway(damage, tmp_path, tokenizer):
    told = [STORY | {"beats": [beat | {"sentence": "the fox ."} for beat in STORY["beats"]]}]
    about = {"format": 1, "photos": SPLIT["photos"]}
    write_story_lines(tmp_path / "x.json", about, told)
    features = torch.zeros(1, 4).half()
    save_file(
        {"photos": features.to(torch.uint8) if damage == "pixels" else features},
        tmp_path / "x.safetensors",
    )
    if damage == "NaN":
        save_file({"photos": features / 0}, tmp_path / "x.safetensors")
    if damage == "a pipe":
        (tmp_path / "x.safetensors").unlink()
        os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="safetensors: "):
        StoryDataset.load(tmp_path / "x.json", tokenizer, 2, 99)[0]


# -------------------------------------------------------------------------------------- checkpoints


@pytest.fixture
def broken(small, tmp_path):
    """A copy of the checkpoint, to break."""
    return shutil.copytree(small, tmp_path / "model")


def change(path, **values):
    about = json.loads(path.read_text())
    for name, value in values.items():
        at, _, key = name.rpartition("__")
        (about[at] if at else about)[key] = value
    path.write_text(json.dumps(about))


@pytest.mark.parametrize(
    "values, message",
    [
        ({"decoder__n_layer": 9}, "do not fit its config.json"),
        ({"decoder__n_embd": 64}, "do not fit its config.json"),
        ({"decoder__n_inner": 99}, "do not fit its config.json"),
        ({"decoder__n_layer": "3"}, "cannot be loaded"),
        ({"image_positions": 9}, "do not fit its config.json"),
        ({"plan_size": -1}, "cannot be loaded"),
        ({"dynamics_layers": 9}, "do not fit its config.json"),
        ({"decoder": [1]}, "cannot be loaded"),
        ({"image_encoder__grid": 10**9}, "encoder_grid 1000000000"),
        ({"image_encoder__image_size": 10**9}, "image_size 1000000000"),
        ({"image_encoder__arch": "../resnet"}, "unknown"),
        ({"plan": "perfect"}, "plan perfect"),
        ({"model_type": "gpt2"}, "not of a plan_cvae"),
        ({"decoder__eos_token_id": 3}, "its tokenizer is not its model's"),
    ],
    ids=str,
)
def test_a_configuration_that_is_not_the_weights(values, message, broken, capfd):
    change(broken / "config.json", **values)
    with pytest.raises(UserError, match=".*model: ") as error:
        load_checkpoint(broken)
    assert message in str(error.value) and not capfd.readouterr().err


def test_a_checkpoint_of_an_older_format_or_with_numbers_that_are_none(broken):
    weights = load_file(broken / "model.safetensors")
    older = {name.replace("prior_mlp", "prior_net"): tensor for name, tensor in weights.items()}
    save_file(older, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="do not fit its config.json .*another version"):
        load_checkpoint(broken)
    weights["plan_head.weight"][3, 1] = float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="plan_head.weight in model.safetensors is not finite"):
        load_checkpoint(broken)


class Harm:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_no_pickle_is_ever_run(broken, tmp_path, script):
    harm, target = pickle.dumps({"x": Harm(tmp_path / "harm")}, protocol=2), tmp_path / "harm"
    (broken / "model.safetensors").unlink()
    (broken / "pytorch_model.bin").write_bytes(harm)
    torch.save({"x": Harm(target)}, tmp_path / "file.pth")
    with pytest.raises(UserError, match="no model.safetensors in it"):
        load_checkpoint(broken)
    (tmp_path / "plain.pth").write_bytes(harm)
    for name in ("file.pth", "plain.pth"):
        with pytest.raises(UserError, match=f"encoder_weights .*{name}: ") as error:
            ImageEncoder.build("resnet18", str(tmp_path / name), 16)
        assert "\n" not in str(error.value)
    assert not target.exists()
    pickle.loads(harm)["x"].close()  # it would have
    assert target.exists()


def test_weights_of_an_eye_that_are_not_finite(tmp_path):
    resnet = ImageEncoder.build("resnet18", "none", 16).network[0].weight.detach()
    import torchvision

    state = torchvision.models.resnet18(weights=None).state_dict()
    state["conv1.weight"] = resnet * float("inf")
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(UserError, match="encoder_weights .*file.pth: .*not finite"):
        ImageEncoder.build("resnet18", str(tmp_path / "file.pth"), 16)


def test_a_tokenizer_that_does_not_fit_or_would_run_code(broken, tmp_path):
    other = train_tokenizer(random_sentences(random.Random(3), 99), 270)
    other.save_pretrained(broken)
    with pytest.raises(UserError, match="its tokenizer has 271 tokens and ends a text"):
        load_checkpoint(broken)
    (broken / "harm.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')")
    change(
        broken / "tokenizer_config.json",
        auto_map={"AutoTokenizer": [None, "harm.Harm"]},
        tokenizer_class="Harm",
    )
    # at once: it asks nobody whether to trust it
    with pytest.raises(UserError, match="model"):
        load_checkpoint(broken)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("damage", ["missing", "cut", "pickle", "NaN", "another model"])
def test_the_shared_photo_encoder_is_checked_too(damage, tmp_path):
    folder = tmp_path / "image_encoder"
    ImageEncoder.build("resnet18", "none", image_size=16, stages=1).save_pretrained(folder)
    weights = folder / "model.safetensors"
    state = load_file(weights)
    if damage == "missing":  # transformers would make random ones up
        del state["network.0.weight"]
        save_file(state, weights, {"format": "pt"})
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-9])
    elif damage == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    elif damage == "NaN":
        state["network.0.weight"] *= float("nan")
        save_file(state, weights, {"format": "pt"})
    else:
        change(folder / "config.json", model_type="plan_cvae")
    with pytest.raises(UserError, match="image_encoder"):
        load_encoder(folder)
