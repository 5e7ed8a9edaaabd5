"""Image encoders without their classifiers, each with the preprocessing that belongs to it: the
ResNets of torchvision, the models of timm, the vision models of transformers."""

import copy
import json
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision import models as torchvision_models
from torchvision.transforms import functional as vision
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
)

from utils.cli import RESNETS, UserError, loading
from utils.photos import LARGEST_PHOTO
from utils.quiet import quiet_transformers

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
FEATURES = "features"  # published ones, in place of an encoder
TIMM = "timm:"


class ImageEncoderConfig(PreTrainedConfig):
    model_type = "plan_cvae_image_encoder"

    arch: str = "resnet152"  # one of RESNETS, timm:NAME, a model of transformers, or features
    image_size: int = 224  # S, side of the square that a photo is reduced to, in pixels
    stages: int = 4  # residual stages of a ResNet kept, 1 to 4; fewer keep more of where things are
    grid: int = 1  # features are pooled to grid x grid cells; 1 is the network's own pooling
    feature_size: int | None = None  # F, of all cells
    pretrained: bool = False  # it began with weights, not with random numbers
    network: dict | None = None  # the configuration of a model of transformers
    preprocessing: dict | None = None  # of its image processor, or timm's data configuration
    has_pooler: bool = True  # a model of transformers: its weights have its pooling too

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if not 1 <= self.stages <= 4:
            raise UserError(f"image encoder stages {self.stages}: expected 1 to 4")
        if not 1 <= self.image_size <= LARGEST_PHOTO:
            raise UserError(f"--image_size {self.image_size}: expected 1 to {LARGEST_PHOTO} pixels")
        if not 1 <= self.grid <= self.image_size:
            raise UserError(
                f"--encoder_grid {self.grid}: expected 1 to the {self.image_size} pixels of a "
                "photo's side"
            )
        is_known = self.arch in (*RESNETS, FEATURES) or self.arch.startswith(TIMM)
        if not is_known and self.network is None:
            raise UserError(
                f"--image_encoder {self.arch}: unknown; expected one of {', '.join(RESNETS)}, "
                "timm:NAME or a model of transformers"
            )
        if self.arch in RESNETS:
            channels = 512 if self.arch in ("resnet18", "resnet34") else 2048
            self.feature_size = channels // 2 ** (4 - self.stages) * self.grid**2


class ImageEncoder(PreTrainedModel):
    """uint8 pixels -> features, and photos -> pixels."""

    config_class = ImageEncoderConfig
    main_input_name = "pixels"

    def __init__(self, config: ImageEncoderConfig):
        super().__init__(config)
        self.network = build_network(config)
        self.post_init()

    def _init_weights(self, module: nn.Module):
        """Nothing: the library has initialised the network, or its weights were loaded."""

    @classmethod
    def build(
        cls, arch: str, weights: str, image_size: int | None = None, stages: int = 4, grid: int = 1
    ) -> "ImageEncoder":
        """An encoder with `weights`: "pretrained" (the library's), "none" (random), or a file of
        them by name. image_size: None is the network's own. Raises UserError where something
        cannot be loaded."""
        sizes = {"arch": arch, "stages": stages, "grid": grid}
        sizes |= {} if image_size is None else {"image_size": image_size}
        sizes["pretrained"] = weights != "none"
        advice = (
            "--encoder_weights takes pretrained (the library's weights), a local file of weights, "
            "a trained model, or none (random weights)"
        )
        name = f"--image_encoder {arch} --encoder_weights {weights}"
        with loading(name, advice), quiet_transformers():
            is_file = weights not in ("pretrained", "none")
            if arch in RESNETS:
                config, network = ImageEncoderConfig(**sizes), None
                if weights != "none":
                    published = "DEFAULT" if weights == "pretrained" else None
                    resnet = torchvision_models.get_model(arch, weights=published)
                    if is_file:
                        load_file_into(resnet, weights)
                    network = Resnet(resnet, stages)
            elif arch.startswith(TIMM):
                config, network = from_timm(sizes, weights)
            else:
                config, network = from_transformers(sizes, weights)
            if is_file and config.preprocessing:
                load_file_into(network.model, weights)
                config.preprocessing = read_preprocessing(config, weights)
            encoder = cls(config)
            if network is not None:
                encoder.network.load_state_dict(network.state_dict())
            if tensor := not_finite(encoder):
                raise ValueError(f"{tensor} is not finite")
            return encoder

    @cached_property
    def transform(self) -> Any:
        """What transformers or timm makes of a photo, made once."""
        make = image_processor if self.config.network is not None else timm_transform
        return make(self.config)

    def preprocess(self, image: Image) -> Tensor:
        """A PIL RGB image -> uint8 (3, S, S), as the network's library reduces it. Of ResNets: the
        square in its middle, reduced to S."""
        config = self.config
        if config.arch == FEATURES:
            raise UserError(
                "this model reads published features (--features of dataset.py), which photos of a "
                "folder do not have; expected --data_path with a preprocessed split"
            )
        if config.network is not None:
            return self.transform(image, return_tensors="pt").pixel_values[0]
        if config.arch.startswith(TIMM):
            return self.transform(image)
        # cropped first, so that a panorama's edge does not grow before it is cut
        size, side = config.image_size, min(image.size)
        square = vision.center_crop(image, [side, side])
        return vision.pil_to_tensor(vision.resize(square, [size, size], antialias=True))

    def restore_buffers(self) -> "ImageEncoder":
        """Compute what no checkpoint holds (tables of positions), which from_pretrained leaves
        empty in networks of other libraries."""
        saved = self.network.state_dict()
        if self.config.arch not in RESNETS:
            for name, buffer in build_network(self.config).named_buffers():
                if name not in saved:
                    self.network.get_buffer(name).copy_(buffer)
        return self

    def fuse_batch_norms(self) -> "ImageEncoder":
        """A frozen copy, each batch norm fused into the convolution before it, channels last.

        Its features are equal up to rounding (1e-6), a fifth sooner on CPUs.
        """
        network = copy.deepcopy(self).eval().requires_grad_(False)
        for module in list(network.modules()):
            for (name, conv), (next_name, norm) in pairwise(list(module.named_children())):
                # exactly: timm's own batch norms hold an activation too
                if isinstance(conv, nn.Conv2d) and type(norm) is nn.BatchNorm2d:
                    setattr(module, name, fuse_conv_bn_eval(conv, norm))
                    setattr(module, next_name, nn.Identity())
        return network.to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (N, 3, S, S) -> features (N, F): of each channel, of all cells."""
        about = self.config.preprocessing or {}
        if self.config.network is not None:
            factor = about.get("rescale_factor", 1 / 255)
            mean, std = about["image_mean"], about["image_std"]
        else:
            factor = 1 / 255
            mean, std = about.get("mean", IMAGENET_MEAN), about.get("std", IMAGENET_STD)
        x = vision.normalize(pixels.float() * factor, mean, std)
        x = x.contiguous(memory_format=torch.channels_last).to(self.dtype)
        return self.network(x, self.config.grid).flatten(1)


def build_network(config: ImageEncoderConfig) -> nn.Module:
    """The network of a configuration, with random weights."""
    if config.arch == FEATURES:
        return nn.Embedding(1, 1)  # never read: a model must have parameters
    if config.arch in RESNETS:
        return Resnet(torchvision_models.get_model(config.arch, weights=None), config.stages)
    if config.arch.startswith(TIMM):
        name = config.arch.removeprefix(TIMM)
        return Timm(timm().create_model(name, pretrained=False, num_classes=0))
    network = dict(config.network)
    network = AutoConfig.for_model(network.pop("model_type"), **network)
    return Transformer(AutoModel.from_config(network), config.has_pooler)


class Resnet(nn.Sequential):
    """A torchvision ResNet without its classifier."""

    def __init__(self, resnet: nn.Module, stages: int):
        layers = [getattr(resnet, f"layer{i}") for i in range(1, stages + 1)]
        super().__init__(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool, *layers)

    def forward(self, x: Tensor, grid: int) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(super().forward(x), grid)


class Timm(nn.Module):
    """A model of timm without its classifier."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, grid: int) -> Tensor:
        if grid == 1:
            return self.model(x)
        features = self.model.forward_features(x)
        if features.dim() == 4 and features.shape[1] != self.model.num_features:
            features = features.permute(0, 3, 1, 2)  # N, h, w, C of some
        return pool_cells(features, grid)


class Transformer(nn.Module):
    """A vision model of transformers."""

    def __init__(self, model: PreTrainedModel, has_pooler: bool):
        super().__init__()
        self.model, self.has_pooler = model, has_pooler

    def forward(self, x: Tensor, grid: int) -> Tensor:
        out = self.model(pixel_values=x)
        if grid > 1:
            return pool_cells(out.last_hidden_state, grid)
        if self.has_pooler and out.get("pooler_output") is not None:
            return out.pooler_output
        return out.last_hidden_state[:, 0]  # [class]


def pool_cells(features: Tensor, grid: int) -> Tensor:
    """A feature map (N, C, h, w), or tokens (N, L, C) of a square of patches, with others before
    them -> (N, C, grid, grid)."""
    if features.dim() == 3:
        side = int(features.shape[1] ** 0.5)
        patches = features[:, features.shape[1] - side**2 :]
        features = patches.transpose(1, 2).unflatten(2, (side, side))
    return nn.functional.adaptive_avg_pool2d(features, grid)


# -------------------------------------------------------------------------------------- libraries


def timm() -> Any:
    try:
        import timm
    except ImportError:
        raise UserError(
            "--image_encoder timm:…: the package is not installed; pip install timm"
        ) from None
    return timm


def timm_transform(config: ImageEncoderConfig) -> Any:
    from timm.data import create_transform

    about = config.preprocessing
    return create_transform(**about | {"input_size": tuple(about["input_size"])}, normalize=False)


def from_timm(sizes: dict, weights: str) -> tuple[ImageEncoderConfig, nn.Module]:
    """The configuration of a model of timm, and its network."""
    name = sizes["arch"].removeprefix(TIMM)
    model = timm().create_model(name, pretrained=weights == "pretrained", num_classes=0)
    about = timm().data.resolve_data_config({}, model=model)
    names = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    about = {x: about[x] for x in names}
    if "image_size" in sizes:
        about["input_size"] = (3, sizes["image_size"], sizes["image_size"])
    network = Timm(model)
    return complete(sizes, about["input_size"][-1], network, preprocessing=about), network


def from_transformers(sizes: dict, weights: str) -> tuple[ImageEncoderConfig, nn.Module]:
    """The configuration of a vision model of transformers (the image tower of CLIP and the like),
    and its network."""
    name = sizes["arch"]
    about = AutoConfig.from_pretrained(name, trust_remote_code=False)
    about = getattr(about, "vision_config", about)
    processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    has_pooler = True
    if weights == "pretrained":
        model, report = AutoModel.from_pretrained(name, config=about, output_loading_info=True)
        missing = sorted(report["missing_keys"])
        has_pooler = not any("pooler" in key for key in missing)  # of a classifier: no pooling
        if other := [key for key in missing if "pooler" not in key]:
            raise ValueError(f"it lacks {other[0]}")
    else:
        model = AutoModel.from_config(about)
    network = Transformer(model.float(), has_pooler)
    size = processor.size if getattr(processor, "do_resize", False) else {}
    if getattr(processor, "do_center_crop", False):
        size = processor.crop_size
    side = size.get("height") or size.get("shortest_edge") or about.image_size
    if sizes.get("image_size", side) != side:
        raise UserError(f"--image_size {sizes['image_size']}: that of {name} is {side}")
    preprocessing = {"image_processor_type": type(processor).__name__, **processor.to_dict()}
    return (
        complete(
            sizes,
            side,
            network,
            network=about.to_dict(),
            preprocessing=preprocessing,
            has_pooler=has_pooler,
        ),
        network,
    )


def image_processor(config: ImageEncoderConfig) -> Any:
    """The image processor of a model of transformers; it leaves pixels what they are."""
    about = dict(config.preprocessing)
    import transformers

    kind = getattr(transformers, about.pop("image_processor_type"))
    return kind(**about | {"do_rescale": False, "do_normalize": False})


def complete(sizes: dict, side: int, model: nn.Module, **fields: Any) -> ImageEncoderConfig:
    """The configuration with the size of the network's features."""
    with torch.no_grad():
        features = model.eval()(torch.zeros(1, 3, side, side), sizes["grid"])
    fields |= {"image_size": side, "feature_size": features.flatten(1).shape[1]}
    return ImageEncoderConfig(**sizes | fields)


# ---------------------------------------------------------------------------------------- weights


def load_file_into(model: nn.Module, path: str | Path) -> None:
    """Load a file of weights, of the library's names, with or without those of a classifier. Raises
    ValueError where they do not fit."""
    report = model.load_state_dict(read_state_dict(path), strict=False)
    classifier = ("classifier", "head", "fc")
    wrong = [key for key in report.missing_keys if not key.startswith("fc.")]
    wrong += [key for key in report.unexpected_keys if not key.startswith(classifier)]
    if wrong:
        raise ValueError(f"{wrong[0]}: not in both the file and the network")


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file or a torch file (read without unpickling code)."""
    if not Path(path).is_file():
        raise FileNotFoundError("no such file, or none to read")
    if str(path).endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def read_preprocessing(config: ImageEncoderConfig, path: str) -> dict:
    """A timm model's data configuration, with the parts that a safetensors file of weights names
    in its metadata."""
    if not path.endswith(".safetensors"):
        return config.preprocessing
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    return config.preprocessing | json.loads(metadata.get("preprocessing", "{}"))


def not_finite(model: nn.Module) -> str | None:
    """The name of a tensor that holds NaN or infinity."""
    tensors = model.state_dict().items()
    return next((name for name, tensor in tensors if not tensor.isfinite().all()), None)
