"""Models by name or from their directories: complete, of the right sizes and finite."""

import re
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import (
    AutoConfig,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import GENERATION_CONFIG_NAME

from utils.cli import UserError, flag, loading
from utils.decoding import check_stored
from utils.files import read_json, recover
from utils.image_encoder import ImageEncoder, not_finite
from utils.quiet import quiet_transformers
from utils.tokenizer import load_data_tokenizer
from utils.train_options import TrainOptions

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # owner/name
BEST, LATEST = "best", "latest"  # the checkpoints in train.py's output_dir


def load_encoder(path: Path) -> ImageEncoder:
    """The image encoder that dataset.py has left in a folder, in eval mode. Raises UserError."""
    return load_model(ImageEncoder, path, "expected the encoder that dataset.py left there")


def load_decoder(options: TrainOptions, tokenizer: PreTrainedTokenizerBase) -> GPT2LMHeadModel:
    """The GPT-2 that TrainOptions name or describe; its end of text is the tokenizer's."""
    eos = tokenizer.eos_token_id
    if options.decoder == "scratch":
        if options.n_embd % options.n_head:
            raise UserError(
                f"--n_embd {options.n_embd}: not a multiple of --n_head {options.n_head}"
            )
        sizes = {x: getattr(options, x) for x in ("n_positions", "n_embd", "n_layer", "n_head")}
        ends = {"bos_token_id": eos, "eos_token_id": eos}
        decoder = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **ends, **sizes))
    else:
        decoder = load_pretrained_decoder(options.decoder)
        vocab_size, own_eos = decoder.config.vocab_size, decoder.config.eos_token_id
        if len(tokenizer) > vocab_size or own_eos != eos:
            raise UserError(
                f"--decoder {options.decoder}: has {vocab_size} words and ends a text by number "
                f"{own_eos}, the data's tokenizer has {len(tokenizer)} and {eos}; preprocess with "
                f"that decoder's tokenizer (python dataset.py --tokenizer {options.decoder})"
            )
    config = decoder.config
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = options.dropout
    return decoder


def load_pretrained_decoder(name_or_path: str) -> GPT2LMHeadModel:
    name = f"--decoder {name_or_path}"
    advice = "--decoder takes a name on the hub, a local directory, or scratch (no download)"
    with loading(name, advice), quiet_transformers():
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
        if config.model_type != "gpt2":
            raise UserError(f"{name}: a {config.model_type}; expected a GPT-2")
        decoder, report = GPT2LMHeadModel.from_pretrained(
            name_or_path, dtype=torch.float32, output_loading_info=True
        )
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"{name}: not a GPT-2 (it lacks {missing[0]})")
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
    getattr(model, "image_encoder", model).restore_buffers()
    return model.eval()


def find_checkpoint(name_or_path: str | Path) -> Path:
    """The folder of a checkpoint, of the best (else the latest) one in a training's output_dir, or
    of a model on the hub, which is fetched. Raises UserError where there is none."""
    path = Path(name_or_path)
    places = (path, path / BEST, path / LATEST)
    for place in places:
        recover(place)  # a training may have been killed while it replaced one
    for place in places:
        if (place / "config.json").is_file():
            return place
    if HUB_NAME.fullmatch(str(path)) and not path.parent.exists():
        advice = "expected a directory that train.py wrote, or the name of such a model on the hub"
        with loading(str(path), advice), quiet_transformers():
            patterns = ["*.json", "*.txt", "model.safetensors"]
            return Path(snapshot_download(str(name_or_path), allow_patterns=patterns))
    raise UserError(f"{path}: no checkpoint there; expected a directory that train.py wrote")


def load_model_and_tokenizer(
    kind: type[PreTrainedModel], name_or_path: str | Path
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of class `kind` and the tokenizer of a checkpoint that `find_checkpoint` finds; its
    generation_config is the checkpoint's, or transformers' defaults.

    Raises UserError where there is none or it is damaged.
    """
    place = find_checkpoint(name_or_path)
    advice = "expected the complete directory that train.py wrote"
    model = load_model(kind, place, advice)
    with loading(str(place), advice, tried=""), quiet_transformers():
        tokenizer = load_data_tokenizer(place, advice)
        largest_id = max(tokenizer.get_vocab().values())
        tokenizer.backend_tokenizer.to_str()  # damaged rules show only then
        if (place / GENERATION_CONFIG_NAME).is_file():
            model.generation_config = check_stored(GenerationConfig.from_pretrained(place))
    config = model.decoder.config
    if largest_id >= config.vocab_size or tokenizer.eos_token_id != config.eos_token_id:
        raise UserError(
            f"{place}: its tokenizer is not its model's: its tokenizer has {largest_id + 1} tokens "
            f"and ends a text by number {tokenizer.eos_token_id}, its model {config.vocab_size} "
            f"and {config.eos_token_id}; expected train.py's own files"
        )
    return model, tokenizer
