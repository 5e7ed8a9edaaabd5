"""The photo encoder: a ResNet of torchvision's, with its preprocessing; loading of models."""

import copy
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision import models as torchvision_models
from torchvision.transforms import functional as vision
from transformers import GPT2Config, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from utils.cli import RESNETS, UserError, loading
from utils.files import read_json
from utils.photos import LARGEST_PHOTO

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageEncoderConfig(PreTrainedConfig):
    model_type = "plan_cvae_image_encoder"

    arch: str = "resnet152"  # one of RESNETS
    image_size: int = 224  # side of the square that a photo is reduced to, in pixels
    stages: int = 4  # residual stages kept, 1 to 4; fewer keep more of where things are
    grid: int = 1  # features are pooled to grid x grid cells; 1 is the usual global average
    feature_size: int | None = None  # F, filled in from the network

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.arch not in RESNETS:
            raise UserError(
                f"--image_encoder {self.arch}: unknown; expected one of {', '.join(RESNETS)}"
            )
        if not 1 <= self.stages <= 4:
            raise UserError(f"image encoder stages {self.stages}: expected 1 to 4")
        if not 1 <= self.image_size <= LARGEST_PHOTO:
            raise UserError(f"--image_size {self.image_size}: expected 1 to {LARGEST_PHOTO} pixels")
        if not 1 <= self.grid <= self.image_size:
            raise UserError(
                f"--encoder_grid {self.grid}: expected 1 to the {self.image_size} pixels of a "
                "photo's side"
            )


class ImageEncoder(PreTrainedModel):
    """A torchvision ResNet without its classifier, with the preprocessing that belongs to it."""

    config_class = ImageEncoderConfig
    main_input_name = "pixels"

    def __init__(self, config, resnet=None):
        super().__init__(config)
        resnet = resnet or torchvision_models.get_model(config.arch, weights=None)
        stages = [getattr(resnet, f"layer{i}") for i in range(1, config.stages + 1)]
        self.trunk = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool, *stages)
        self.pool = nn.AdaptiveAvgPool2d(config.grid)
        last = stages[-1][-1]
        channels = (last.conv3 if hasattr(last, "conv3") else last.conv2).out_channels
        config.feature_size = channels * config.grid**2
        self.post_init()

    def _init_weights(self, module):
        """Nothing: torchvision has initialised the network, or its weights were loaded."""

    @classmethod
    def build(cls, arch, weights, image_size, stages=4, grid=1):
        """An encoder with `weights`: "imagenet" (torchvision's), "none" (random), or a local
        state-dict file.

        Raises UserError where the name is unknown or the weights cannot be loaded.
        """
        config = ImageEncoderConfig(arch=arch, image_size=image_size, stages=stages, grid=grid)
        advice = (
            "--encoder_weights takes imagenet, a local state dict, a trained model, or none "
            "(random weights)"
        )
        with loading(f"--encoder_weights {weights}", advice):
            resnet = torchvision_models.get_model(
                arch, weights="DEFAULT" if weights == "imagenet" else None
            )
            if weights not in ("imagenet", "none"):
                resnet.load_state_dict(read_state_dict(weights))
                if wrong := not_finite(resnet):
                    raise ValueError(f"{wrong} is not finite")
        return cls(config, resnet)

    def preprocess(self, image):
        """A PIL RGB image -> uint8 (3, S, S): the square in its middle, reduced to S."""
        size, side = self.config.image_size, min(image.size)
        # first, so that a strip does not grow before it is cut
        square = vision.center_crop(image, [side, side])
        return vision.pil_to_tensor(vision.resize(square, [size, size], antialias=True))

    def folded(self):
        """A copy to encode frozen photos with: each batch norm folded into the convolution before
        it, channels last.

        Its features are the encoder's up to rounding (1e-6), a fifth sooner on CPUs.
        """
        network = copy.deepcopy(self).eval().requires_grad_(False)
        for module in list(network.modules()):
            for (name, before), (next_name, after) in pairwise(list(module.named_children())):
                if isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
                    setattr(module, name, fuse_conv_bn_eval(before, after))
                    setattr(module, next_name, nn.Identity())
        return network.to(memory_format=torch.channels_last)

    def forward(self, pixels):
        """uint8 pixels (N, 3, S, S) -> features (N, F)."""
        mean, std = (
            torch.tensor(x, device=pixels.device).view(3, 1, 1)
            for x in (IMAGENET_MEAN, IMAGENET_STD)
        )
        x = ((pixels.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
        x = self.trunk(x.to(self.dtype))  # N, C, S/4 or less, S/4 or less
        return self.pool(x).flatten(1)


def load_encoder(path):
    """The photo encoder that dataset.py has left in a folder, in eval mode. Raises UserError."""
    return load_whole(
        ImageEncoder, path, str(path), "expected the encoder that dataset.py left there"
    )


def load_whole(kind, path, where, otherwise):
    """A model of class `kind` from its directory, in eval mode: all of its weights are there, fit
    and are finite.

    where and otherwise: what errors begin and end with. Raises UserError.
    """
    path = Path(path)
    about = read_json(path / "config.json", "the configuration of a model")
    if not isinstance(about, dict) or about.get("model_type") != kind.config_class.model_type:
        raise UserError(
            f"{where}: its config.json is not of a {kind.config_class.model_type}; {otherwise}"
        )
    if not (path / "model.safetensors").is_file():  # a pickle could run code
        raise UserError(
            f"{where}: no model.safetensors in it (other formats are not read); {otherwise}"
        )
    with loading(where, otherwise, tried=""), quiet_transformers():
        try:
            config = kind.config_class.from_pretrained(path, local_files_only=True)
            wanted = sizes(config)
        except UserError as error:
            raise ValueError(f"config.json: {error}") from None
        with safe_open(path / "model.safetensors", "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        # First, since a network of other sizes could be too large to be made.
        if wrong := [name for name, size in wanted if shapes.get(name) != size]:
            raise UserError(unfitting(where, wrong))
        model, report = kind.from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
        if wrong := sorted(
            {
                *report["missing_keys"],
                *report["unexpected_keys"],
                *map(str, report["mismatched_keys"]),
            }
        ):
            raise UserError(unfitting(where, wrong))
        if wrong := not_finite(model):
            raise UserError(f"{where}: {wrong} in model.safetensors is not finite; {otherwise}")
    return model.eval()


def sizes(config):
    """(name, shape) of the weights whose shapes say how large a network is; the last block's among
    them."""
    if isinstance(config, ImageEncoderConfig):
        return []  # a ResNet of at most 152 layers
    decoder, eye = GPT2Config(**config.decoder), ImageEncoderConfig(**config.image_encoder)
    D, V = decoder.n_embd, decoder.vocab_size
    F = (512 if eye.arch in RESNETS[:2] else 2048) // 2 ** (4 - eye.stages) * eye.grid**2
    found = [
        ("decoder.transformer.wte.weight", (V, D)),
        ("decoder.transformer.wpe.weight", (decoder.n_positions, D)),
        ("photo_projection.weight", (config.image_slots * D, F)),
    ]
    for network, blocks in (
        ("decoder.transformer", decoder.n_layer),
        ("dynamics", config.dynamics_layers),
    ):
        for block in {0, blocks - 1} - {-1}:
            found.append((f"{network}.h.{block}.mlp.c_fc.weight", (D, decoder.n_inner or 4 * D)))
    if config.plan != "none":
        found.append(("plan_head.weight", (V, config.plan_size)))
    return found


def read_state_dict(path):
    """Tensors by name from a safetensors file or a torch file (read without unpickling code)."""
    if not Path(path).is_file():
        raise FileNotFoundError("no such file, or none to read")
    if str(path).endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def unfitting(where, wrong):
    return (
        f"{where}: its weights do not fit its config.json ({wrong[0]}, {len(wrong)} in all): "
        "damaged, or written by "
        f"another version of this code; expected one that train.py has written since"
    )


def not_finite(model):
    """The name of a tensor that holds NaN or infinity; None where all numbers are finite."""
    return next((name for name, of in model.state_dict().items() if not of.isfinite().all()), None)


@contextmanager
def quiet_transformers():
    """Without transformers' own tables of what is wrong with weights (an error says it in a line)
    and its bars, which would hide ours for half a second of weights."""
    verbosity, bars = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    transformers_logging.set_verbosity(50)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
