"""The image encoder: a ResNet of torchvision's without its classifier, and its preprocessing."""

import copy
from itertools import pairwise
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision import models as torchvision_models
from torchvision.transforms import functional as vision
from transformers import PreTrainedConfig, PreTrainedModel

from utils.cli import RESNETS, UserError, loading
from utils.photos import LARGEST_PHOTO

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageEncoderConfig(PreTrainedConfig):
    model_type = "plan_cvae_image_encoder"

    arch: str = "resnet152"  # one of RESNETS
    image_size: int = 224  # S, side of the square that a photo is reduced to, in pixels
    stages: int = 4  # residual stages kept, 1 to 4; fewer keep more of where things are
    grid: int = 1  # features are pooled to grid x grid cells; 1 is the usual global average
    feature_size: int | None = None  # F, computed

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
        channels = 512 if self.arch in ("resnet18", "resnet34") else 2048
        self.feature_size = channels // 2 ** (4 - self.stages) * self.grid**2


class ImageEncoder(PreTrainedModel):
    """A torchvision ResNet without its classifier, with the preprocessing that belongs to it."""

    config_class = ImageEncoderConfig
    main_input_name = "pixels"

    def __init__(self, config: ImageEncoderConfig, resnet: nn.Module | None = None):
        super().__init__(config)
        resnet = resnet or torchvision_models.get_model(config.arch, weights=None)
        stages = [getattr(resnet, f"layer{i}") for i in range(1, config.stages + 1)]
        self.trunk = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool, *stages)
        self.pool = nn.AdaptiveAvgPool2d(config.grid)
        self.post_init()

    def _init_weights(self, module: nn.Module):
        """Nothing: torchvision has initialised the network, or its weights were loaded."""

    @classmethod
    def build(
        cls, arch: str, weights: str, image_size: int, stages: int = 4, grid: int = 1
    ) -> "ImageEncoder":
        """An encoder with `weights`: "imagenet" (torchvision's), "none" (random), or a local
        state-dict file. Raises UserError where the weights cannot be loaded."""
        config = ImageEncoderConfig(arch=arch, image_size=image_size, stages=stages, grid=grid)
        advice = (
            "--encoder_weights takes imagenet, a local state dict, a trained model, or none "
            "(random weights)"
        )
        with loading(f"--encoder_weights {weights}", advice):
            pretrained = "DEFAULT" if weights == "imagenet" else None
            resnet = torchvision_models.get_model(arch, weights=pretrained)
            if weights not in ("imagenet", "none"):
                resnet.load_state_dict(read_state_dict(weights))
            if name := not_finite(resnet):
                raise ValueError(f"{name} is not finite")
        return cls(config, resnet)

    def preprocess(self, image: Image) -> Tensor:
        """A PIL RGB image -> uint8 (3, S, S): the square in its middle, reduced to S."""
        size, side = self.config.image_size, min(image.size)
        # cropped first, so that a panorama's edge does not grow before it is cut
        square = vision.center_crop(image, [side, side])
        return vision.pil_to_tensor(vision.resize(square, [size, size], antialias=True))

    def fuse_batch_norms(self) -> "ImageEncoder":
        """A frozen copy, each batch norm fused into the convolution before it, channels last.

        Its features are equal up to rounding (1e-6), a fifth sooner on CPUs.
        """
        network = copy.deepcopy(self).eval().requires_grad_(False)
        for module in list(network.modules()):
            for (name, conv), (next_name, norm) in pairwise(list(module.named_children())):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    setattr(module, name, fuse_conv_bn_eval(conv, norm))
                    setattr(module, next_name, nn.Identity())
        return network.to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (N, 3, S, S) -> features (N, F)."""
        x = vision.normalize(pixels.float() / 255, IMAGENET_MEAN, IMAGENET_STD)
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.trunk(x.to(self.dtype))  # N, C, S/4 or less, S/4 or less
        return self.pool(x).flatten(1)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file or a torch file (read without unpickling code)."""
    if not Path(path).is_file():
        raise FileNotFoundError("no such file, or none to read")
    if str(path).endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def not_finite(model: nn.Module) -> str | None:
    """The name of a tensor that holds NaN or infinity."""
    tensors = model.state_dict().items()
    return next((name for name, tensor in tensors if not tensor.isfinite().all()), None)
