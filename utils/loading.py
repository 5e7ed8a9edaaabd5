"""Models by name or from their directories: complete, of the right sizes and finite."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from utils.cli import UserError, flag, loading
from utils.files import read_json, recover
from utils.image_encoder import ImageEncoder, not_finite
from utils.tokenizer import load_data_tokenizer
from utils.train_options import TrainOptions

BEST, LATEST = "best", "latest"  # the checkpoints in train.py's output_dir


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' progress bars and its tables of mismatched weights."""
    verbosity = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(50)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()


def load_encoder(path: Path) -> ImageEncoder:
    """The image encoder that dataset.py has left in a folder, in eval mode. Raises UserError."""
    return load_model(ImageEncoder, path, "expected the encoder that dataset.py left there")


def load_decoder(options: TrainOptions, tokenizer: PreTrainedTokenizerBase) -> GPT2LMHeadModel:
    """The GPT-2 that TrainOptions name or describe, its vocabulary the tokenizer's."""
    name = f"--decoder {options.decoder}"
    if options.decoder == "scratch":
        if options.n_embd % options.n_head:
            raise UserError(
                f"--n_embd {options.n_embd}: not a multiple of --n_head {options.n_head}"
            )
        sizes = {x: getattr(options, x) for x in ("n_positions", "n_embd", "n_layer", "n_head")}
        decoder = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes))
    else:
        advice = "--decoder takes a name on the hub, a local directory, or scratch (no download)"
        with loading(name, advice), quiet_transformers():
            decoder, report = GPT2LMHeadModel.from_pretrained(
                options.decoder, dtype=torch.float32, output_loading_info=True
            )
        if missing := sorted(report["missing_keys"]):
            raise UserError(f"{name}: not a GPT-2 (it lacks {missing[0]})")
        if len(tokenizer) < decoder.config.vocab_size:
            raise UserError(
                f"{name}: has {decoder.config.vocab_size} words, the data's tokenizer only "
                f"{len(tokenizer)}; preprocess with that decoder's tokenizer (python dataset.py "
                "--tokenizer …)"
            )
        decoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    config = decoder.config
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = options.dropout
    return decoder


def load_model(kind: type[PreTrainedModel], path: Path, advice: str) -> PreTrainedModel:
    """A model of class `kind` from its directory, in eval mode.

    Raises UserError, which ends with `advice`, where weights are missing, of other sizes or not
    finite.
    """
    path = Path(path)
    config = read_json(path / "config.json", "the configuration of a model")
    model_type = kind.config_class.model_type
    if not isinstance(config, dict) or config.get("model_type") != model_type:
        raise UserError(f"{path}: its config.json is not of a {model_type}; {advice}")
    if not (path / "model.safetensors").is_file():  # a pickle could run code
        raise UserError(
            f"{path}: no model.safetensors in it (other formats are not read); {advice}"
        )
    with loading(str(path), advice, tried=""), flag(f"{path}:"), quiet_transformers():
        model, report = kind.from_pretrained(
            path,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    names = [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]
    if names:
        raise UserError(
            f"{path}: its weights do not fit its config.json ({min(map(str, names))}, {len(names)} "
            "in all): damaged, or written by another version of this code; expected one that "
            "train.py has written since"
        )
    if name := not_finite(model):
        raise UserError(f"{path}: {name} in model.safetensors is not finite; {advice}")
    return model.eval()


def load_model_and_tokenizer(
    kind: type[PreTrainedModel], path: str | Path
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of class `kind` and the tokenizer of a checkpoint, or of the best (else the
    latest) one in a training's output_dir.

    Raises UserError where there is none or it is damaged.
    """
    path = Path(path)
    places = (path, path / BEST, path / LATEST)
    for place in places:
        recover(place)  # a training may have been killed while it replaced one
    place = next((place for place in places if (place / "config.json").is_file()), None)
    if place is None:
        raise UserError(f"{path}: no checkpoint there; expected a directory that train.py wrote")
    advice = "expected the complete directory that train.py wrote"
    model = load_model(kind, place, advice)
    with loading(str(place), advice, tried=""), quiet_transformers():
        tokenizer = load_data_tokenizer(place, advice)
        largest_id = max(tokenizer.get_vocab().values())
        tokenizer.backend_tokenizer.to_str()  # damaged rules show only then
    vocab_size = model.decoder.config.vocab_size
    same_size = len(tokenizer) == vocab_size and largest_id < vocab_size
    same_eos = tokenizer.eos_token_id == model.config.eos_token_id
    if not same_size or not same_eos or tokenizer.pad_token_id is None:
        raise UserError(
            f"{place}: its tokenizer is not its model's: its tokenizer has {len(tokenizer)} "
            f"tokens, its model {vocab_size}; expected train.py's own files, with [eos] and [pad]"
        )
    return model, tokenizer
