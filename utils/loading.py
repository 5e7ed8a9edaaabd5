"""Models from their directories: all of their weights are there, fit and are finite."""

from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoTokenizer, GPT2Config
from transformers.utils import logging as transformers_logging

from utils.cli import UserError, loading
from utils.files import read_json, recover
from utils.image_encoder import ImageEncoder, ImageEncoderConfig, feature_size, not_finite

BEST, LATEST = "best", "latest"  # the checkpoints in train.py's output_dir


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


def unfitting(where, wrong):
    return (
        f"{where}: its weights do not fit its config.json ({wrong[0]}, {len(wrong)} in all): "
        "damaged, or written by "
        f"another version of this code; expected one that train.py has written since"
    )


def sizes(config):
    """(name, shape) of the weights whose shapes say how large a network is; the last block's among
    them."""
    if isinstance(config, ImageEncoderConfig):
        return []  # a ResNet of at most 152 layers
    decoder, eye = GPT2Config(**config.decoder), ImageEncoderConfig(**config.image_encoder)
    D, V = decoder.n_embd, decoder.vocab_size
    F = feature_size(eye)
    found = [
        ("decoder.transformer.wte.weight", (V, D)),
        ("decoder.transformer.wpe.weight", (decoder.n_positions, D)),
        ("photo_projection.weight", (config.image_positions * D, F)),
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


def load_model_and_tokenizer(kind, path):
    """The model (of class `kind`) and tokenizer of a checkpoint, or of the best (else the latest)
    one in a training's output_dir.

    Raises UserError where there is none or it is damaged.
    """
    path = Path(path)
    for place in (path, path / BEST, path / LATEST):
        recover(place)  # a training may have been killed while it replaced one
    found = next(
        (p for p in (path, path / BEST, path / LATEST) if (p / "config.json").is_file()), None
    )
    if found is None:
        raise UserError(f"{path}: no checkpoint there; expected a directory that train.py wrote")
    where = str(found)
    model = load_whole(kind, found, where, "expected the complete directory that train.py wrote")
    vocab_size = model.decoder.config.vocab_size
    with (
        loading(where, "expected the complete directory that train.py wrote", tried=""),
        quiet_transformers(),
    ):
        tokenizer = AutoTokenizer.from_pretrained(
            found, local_files_only=True, trust_remote_code=False
        )
        ids, rules = tokenizer.get_vocab().values(), tokenizer.backend_tokenizer.to_str()
        tokenizer(["a"])  # what is wrong with its settings shows only then
    if len(tokenizer) != vocab_size or max(ids) >= vocab_size:
        raise UserError(
            f"{where}: its tokenizer has {len(tokenizer)} tokens, its model {vocab_size}"
        )
    if (
        not rules
        or tokenizer.pad_token_id is None
        or tokenizer.eos_token_id != model.config.eos_token_id
    ):
        raise UserError(
            f"{where}: its tokenizer is not its model's ([eos], [pad]); expected train.py's own "
            "files"
        )
    return model, tokenizer
