"""The tokenizer of a model: GPT-2's, another's, or a small one that is trained here."""

from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast

from utils import cli
from utils.cli import UserError, loading

MOST_ENTRIES = 1_000_000  # of a tokenizer that is trained here


class SpecialIds(NamedTuple):
    """Ids of the special tokens; the field names are the tokens' names, `[bos]` to `[pad]`."""

    bos: int
    eos: int
    img: int
    txt: int
    dyn: int
    pad: int


SPECIAL_TOKENS = tuple(f"[{name}]" for name in SpecialIds._fields)


def special_ids(tokenizer):
    """Raises UserError where the tokenizer is not one of ours."""
    ids = SpecialIds(*tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)))
    for token, number in zip(SPECIAL_TOKENS, ids, strict=True):
        if number is None or tokenizer.convert_ids_to_tokens(number) != token:
            raise UserError(
                f"{tokenizer.name_or_path}: a tokenizer without {token}; expected one that "
                "dataset.py wrote"
            )
    return ids


def add_special_tokens(tokenizer):
    """The tokenizer with our special tokens (it may have them already), decoding exactly what was
    encoded."""
    tokenizer.add_tokens(list(SPECIAL_TOKENS), special_tokens=True)
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = "[bos]", "[eos]", "[pad]"
    tokenizer.clean_up_tokenization_spaces = False
    return tokenizer


def load_tokenizer(name_or_path):
    """GPT-2's tokenizer, or another of transformers', by name or local folder, with the special
    tokens.

    Raises UserError where it cannot be loaded.
    """
    folder = Path(name_or_path)
    with loading(
        f"--tokenizer {name_or_path}",
        "name a local folder, or --tokenizer bpe to train one on the stories",
    ):
        # GPT-2 was published as these two files, and a folder that holds no others does not say
        # what it is
        bare = (folder / "vocab.json").is_file() and not (
            folder / "tokenizer_config.json"
        ).is_file()
        kind = GPT2Tokenizer if bare else AutoTokenizer
        # else it would ask
        tokenizer = add_special_tokens(kind.from_pretrained(name_or_path, trust_remote_code=False))
        encode(tokenizer, ["a"])  # what is wrong with its settings shows only then
        return tokenizer


def train_tokenizer(sentences, vocab_size):
    """A byte-level BPE of at most `vocab_size` entries plus the special tokens, trained on
    `sentences` (strings).

    Raises UserError where `vocab_size` leaves no room for the 256 bytes, or is beyond MOST_ENTRIES.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    # the library would ask for the memory of all at once
    if not len(alphabet) <= vocab_size <= MOST_ENTRIES:
        expected = (
            f"expected at least {len(alphabet)}, one entry for every byte, and at most "
            f"{MOST_ENTRIES}"
        )
        raise UserError(f"--vocab_size {vocab_size}: {expected}")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=sorted(alphabet), show_progress=False
    )
    bpe.train_from_iterator(sentences, trainer)
    return add_special_tokens(PreTrainedTokenizerFast(tokenizer_object=bpe))


def encode(tokenizer, sentences):
    """Token ids of each sentence, without special tokens: "[eos]" in a user's text is six
    characters, not a token."""
    if not sentences:
        return []
    plain = dict(
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        verbose=False,
    )
    # JSON may hold half a character
    sentences = [sentence.encode(errors="replace").decode() for sentence in sentences]
    return tokenizer(sentences, **plain)["input_ids"]


def load_data_tokenizer(path):
    if not path.is_dir():
        raise UserError(
            f"{path}: no such folder; expected the tokenizer that dataset.py leaves beside the data"
        )
    with cli.loading(
        path, "expected the tokenizer that dataset.py leaves beside the data", tried=""
    ):
        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        encode(tokenizer, ["a"])  # what is wrong with its settings shows only then
        return tokenizer
