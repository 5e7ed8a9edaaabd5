"""Image encoders of three libraries, each by its own preprocessing; published features."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    ConvNextConfig,
    ConvNextImageProcessor,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from utils.cli import UserError
from utils.image_encoder import ImageEncoder
from utils.loading import load_encoder

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 2, "image_size": 64, "patch_size": 16}
WORDS = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 9}
WORDS |= {"num_attention_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SQUARE = {"height": 64, "width": 64}


def clip():
    config = CLIPConfig(vision_config=SMALL, text_config=WORDS, projection_dim=8)
    return CLIPModel(config), CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=SQUARE)


def siglip():
    config = SiglipConfig(vision_config=SMALL, text_config=WORDS)
    return SiglipModel(config), SiglipImageProcessor(size=SQUARE)


def dinov2():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    crop = {"height": 70, "width": 70}
    config = Dinov2Config(image_size=70, patch_size=14, **sizes)
    return Dinov2Model(config), BitImageProcessor(size={"shortest_edge": 80}, crop_size=crop)


def vit():
    """Of a classifier: its pooling has no weights, so that [class] is the feature."""
    return ViTForImageClassification(ViTConfig(**SMALL)), ViTImageProcessor(size=SQUARE)


def convnext():
    config = ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32])
    return ConvNextModel(config), ConvNextImageProcessor(size={"shortest_edge": 224})


@pytest.fixture(scope="module")
def images():
    """20 real photos, or as many drawn ones where there are none."""
    if "FLICKR8K" in os.environ:
        paths = sorted(Path(os.environ["FLICKR8K"], "images").glob("*.jpg"))[:20]
        return [Image.open(path).convert("RGB") for path in paths]
    rng = np.random.default_rng(0)
    sizes = [(90 + 7 * i, 120) for i in range(20)]
    small = [Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)) for _ in sizes]
    return [image.resize(size) for image, size in zip(small, sizes)]


@pytest.fixture(scope="module", params=[clip, siglip, dinov2, vit, convnext])
def published(request, tmp_path_factory):
    """The folder of a model of transformers, as its publisher saves it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param.__name__)
    for part in request.param():
        part.save_pretrained(folder)
    return str(folder)


def features_of(encoder, images):
    pixels = torch.stack([encoder.preprocess(image) for image in images])
    assert pixels.dtype == torch.uint8
    with torch.no_grad():
        return encoder.eval()(pixels)


@pytest.mark.filterwarnings("ignore:.*resume_download.*")
def test_a_model_of_transformers_gives_its_own_features(published, images, tmp_path):
    encoder = ImageEncoder.build(published, "pretrained")
    own = AutoModel.from_pretrained(published).eval()
    own = getattr(own, "vision_model", own)
    inputs = AutoImageProcessor.from_pretrained(published)(images, return_tensors="pt")
    with torch.no_grad():
        out = own(**inputs)
    expected = out.last_hidden_state[:, 0]
    if encoder.config.has_pooler:
        expected = out.pooler_output.flatten(1)
    found = features_of(encoder, images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found.std() > 0.1 and encoder.config.feature_size == found.shape[1]
    encoder.save_pretrained(tmp_path)
    torch.testing.assert_close(features_of(load_encoder(tmp_path), images), found)


def test_a_grid_of_patches_is_their_mean_by_cell(published, images):
    encoder = ImageEncoder.build(published, "pretrained", grid=2)
    found = features_of(encoder, images[:3]).unflatten(1, (-1, 4))
    whole = ImageEncoder.build(published, "pretrained")
    pixels = torch.stack([whole.preprocess(image) for image in images[:3]])
    about = whole.config.preprocessing
    mean, std = (torch.tensor(about[x])[:, None, None] for x in ("image_mean", "image_std"))
    with torch.no_grad():
        states = whole.eval().network.model(pixel_values=(pixels / 255 - mean) / std)
    states = states.last_hidden_state
    if states.dim() == 3:
        side = int((states.shape[1]) ** 0.5)
        states = states[:, -(side**2) :].transpose(1, 2).unflatten(2, (side, side))
    if states.shape[-1] % 2 == 0:
        half = states.shape[-1] // 2
        corner = states[:, :, :half, :half].mean((2, 3))
        torch.testing.assert_close(found[:, :, 0], corner, rtol=1e-3, atol=1e-4)
    assert found.shape[1] == states.shape[1]


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "vit_tiny_patch16_224"])
def test_a_model_of_timm_gives_its_own_features(name, images, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")  # with its classifier
    encoder = ImageEncoder.build(f"timm:{name}", str(tmp_path / "weights.pt"))
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    images = images[:4]
    with torch.no_grad():
        inputs = torch.stack([transform(image) for image in images])
        expected = model.forward_head(model.forward_features(inputs), pre_logits=True)
    found = features_of(encoder, images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    encoder.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(features_of(load_encoder(tmp_path / "saved"), images), found)
    fused = encoder.fuse_batch_norms()
    torch.testing.assert_close(features_of(fused, images), found, rtol=1e-4, atol=1e-5)


def test_tables_that_no_checkpoint_holds_are_computed_again(images, tmp_path):
    encoder = ImageEncoder.build("timm:swin_tiny_patch4_window7_224", "none", grid=2)
    encoder.save_pretrained(tmp_path)
    found = features_of(encoder, images[:1])
    torch.testing.assert_close(features_of(load_encoder(tmp_path), images[:1]), found)


@pytest.mark.parametrize(
    "arch, weights, message",
    [
        ("timm:no_such_net", "none", "--image_encoder timm:no_such_net .*: cannot be loaded"),
        ("no/such-net", "pretrained", "--image_encoder no/such-net .*: cannot be loaded, neither"),
        ("timm:tf_efficientnet_lite0", "absent.pt", "absent.pt: cannot be loaded"),
        ("timm:tf_efficientnet_lite0", "other.pt", "not in both the file and the network"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(arch, weights, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.zeros(1)}, "other.pt")
    with pytest.raises(UserError) as error:
        ImageEncoder.build(arch, weights)
    import re

    assert re.search(message, error.value.line) and "takes pretrained" in error.value.line


# --------------------------------------------------------------------- from photos to a story


def write_stories(folder, count=12, size=(50, 40)):
    """Stories of one's own, with photos."""
    rng = np.random.default_rng(0)
    lines = []
    for i in range(count):
        names = []
        for t in range(2):
            names.append(f"{i}_{t}.jpg")
            pixels = rng.integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(folder / names[-1])
        split = "val" if i < 2 else "train"
        sentences = [f"a red kite number {i} .", "the dog ran home ."]
        line = {"story_id": f"s{i}", "photos": names, "sentences": sentences, "split": split}
        lines.append(json.dumps(line))
    (folder / "stories.jsonl").write_text("\n".join(lines))


TRAIN = "--n_layer 1 --n_head 2 --n_embd 16 --n_positions 96 --image_positions 2 --plan_size 4"
TRAIN += " --batch_size 4 --max_steps 3"


def run_all(script, tmp_path, *options):
    """dataset.py and train.py on stories of one's own; the checkpoint."""
    data = ["--stories", "stories.jsonl", "--output", "data", "--tokenizer", "bpe"]
    data += ["--vocab_size", 300, "--num_workers", 1, *options]
    for name, arguments in (
        ("dataset.py", data),
        ("train.py", ["--train_data_path", "data/train.json", *TRAIN.split()]),
    ):
        done = script(name, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    return tmp_path / "output"


@pytest.mark.parametrize("arch", ["published", "timm:tf_efficientnet_lite0", "resnet18"])
def test_from_photos_to_a_story(arch, request, tmp_path, script):
    options = [] if arch != "resnet18" else ["--image_size", 32]
    if arch == "published":
        arch = tmp_path / "model"
        torch.manual_seed(0)
        for part in siglip():
            part.save_pretrained(arch)
    write_stories(tmp_path)
    run_all(script, tmp_path, "--image_encoder", arch, "--encoder_weights", "none", *options)
    (tmp_path / "album").mkdir()
    (tmp_path / "0_0.jpg").rename(tmp_path / "album/a.jpg")
    done = script("generate.py", "album", "--max_new_tokens", 4, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "output/stories.json").read_text())["stories"]) == 1


@pytest.mark.parametrize("kind", ["npy", "safetensors", "h5"])
def test_published_features_in_place_of_photos(kind, tmp_path, script):
    """As AREL's are: fc/<split>/<photo id>.npy, one vector a photo; 500 photos."""
    rng = np.random.default_rng(0)
    lines, vectors = [], {}
    for i in range(100):
        ids = [f"{5 * i + t}" for t in range(5)]
        vectors |= {photo: rng.random(24, np.float32) for photo in ids}
        split = "val" if i < 10 else "train"
        line = {"story_id": f"s{i}", "photos": ids, "split": split}
        lines.append(json.dumps(line | {"sentences": [f"a kite {t} ." for t in range(5)]}))
    (tmp_path / "stories.jsonl").write_text("\n".join(lines))
    del vectors["7"]  # one is missing
    features = tmp_path / f"fc.{kind}"
    if kind == "npy":
        for photo, vector in vectors.items():
            folder = features / ("val" if int(photo) < 50 else "train")
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{photo}.npy", vector)
    elif kind == "safetensors":
        save_file({photo: torch.from_numpy(x) for photo, x in vectors.items()}, features)
    else:
        with h5py.File(features, "w") as file:
            for photo, vector in vectors.items():
                file[photo] = vector
    run_all(script, tmp_path, "--features", features)
    report = json.loads((tmp_path / "data/report.json").read_text())["splits"]
    found = {name: report[name]["photos"]["found"] for name in report}
    assert found == {"val": 49, "train": 450} and list(report["val"]["photos"]["missing"]) == ["7"]
    done = script(
        "generate.py", "--data_path", "data/val.json", "--max_new_tokens", 8, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "output/stories.json").read_text())["stories"]) == 10
    (tmp_path / "album").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "album/a.jpg")
    done = script("generate.py", "album", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "reads published features" in done.stderr


def test_features_of_two_widths_are_refused(tmp_path, script):
    write_stories(tmp_path, count=4)
    (tmp_path / "fc").mkdir()
    for i in range(4):
        for t in range(2):
            np.save(tmp_path / "fc" / f"{i}_{t}.jpg.npy", np.zeros(8 + (i == 3), np.float32))
    options = ["--stories", "stories.jsonl", "--output", "data", "--tokenizer", "bpe"]
    done = script("dataset.py", *options, "--vocab_size", 300, "--features", "fc", cwd=tmp_path)
    assert done.returncode == 2 and "expected 8, as the first has" in done.stderr
    done = script("dataset.py", *options, "--features", "fc", "--store", "pixels", cwd=tmp_path)
    assert done.returncode == 2 and "--store: of photos; --features stands" in done.stderr
    done = script("dataset.py", *options, "--features", "absent", cwd=tmp_path)
    assert done.returncode == 2 and "--features absent: no such file or folder" in done.stderr
