"""Preprocessing: from JPEG files to a file of features."""

import contextlib
import copy
import io
import json
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil
import torch
from PIL import Image
from torchvision import models as torchvision_models
from torchvision import transforms

from experiments.benchmark.inputs import draw_photos
from experiments.benchmark.measuring import GOALS, OURS, REFERENCE, interleave, row
from utils.batches import cut
from utils.dataset_options import CPU_BATCH
from utils.image_encoder import ImageEncoder, ImageEncoderConfig
from utils.preprocessing import NOTES, encode_photos, write_photos
from utils.processes import join_team


def decode_jpeg(path):
    with Image.open(path) as image:
        return image.convert("RGB").size


def photos_at_once(setup):
    return 64 if setup.on_gpu else CPU_BATCH


def write_features(folder, photos, encoder, setup):
    """Ours: from files to a file of features."""
    with contextlib.redirect_stderr(io.StringIO()), join_team() as team:  # its bar
        write_photos(
            folder / "features",
            photos,
            encoder,
            "features",
            photos_at_once(setup),
            team.workers,
            team,
        )
    if any(json.loads(note.read_text()) for note in (folder / "features").glob(NOTES)):
        raise RuntimeError("photos are broken")
    shutil.rmtree(folder / "features")


def measure_preprocessing(setup):
    size = setup.size
    # Random residual branches would multiply their input by millions; switched off they cost as
    # much.
    resnet = torchvision_models.get_model(size.encoder, weights=None, zero_init_residual=True)
    encoder = ImageEncoder(
        ImageEncoderConfig(arch=size.encoder, image_size=size.image_size), resnet
    ).eval()
    network = copy.deepcopy(encoder).to(setup.device)
    folded = encoder.fuse_batch_norms().to(setup.device)
    count = size.photos * (32 if setup.on_gpu else 1)
    side = size.image_size
    transform = transforms.Compose(
        [
            transforms.Resize(side),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize(0.5, 0.25),
        ]
    )
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(psutil.cpu_count()) as pool:
        photos = draw_photos(Path(folder), count, setup.seed)
        paths = list(photos.values())
        square = encoder.preprocess(Image.open(paths[0]))
        pixels = [torch.stack([square] * len(of)) for of in cut(paths, photos_at_once(setup))]

        @torch.no_grad()
        def one_by_one(_):
            for path in paths[: size.reference_photos]:
                x = transform(Image.open(path).convert("RGB"))[None].to(setup.device)
                network.pool(network.trunk(x)).flatten(1).cpu()

        ways = {
            REFERENCE: one_by_one,
            "encoder alone": lambda _: [
                encode_photos(folded, of.to(setup.device)) for of in pixels
            ],
            "JPEG decoding alone": lambda _: list(pool.map(decode_jpeg, paths, chunksize=8)),
            OURS: lambda _: write_features(Path(folder), photos, encoder, setup),
        }
        work = dict.fromkeys(ways, count) | {REFERENCE: size.reference_photos}
        seconds = interleave(ways, setup)
    return {
        "rows": [
            row(f"preprocessing, {size.encoder}", "photos", seconds, work, GOALS["preprocessing"])
        ]
    }
