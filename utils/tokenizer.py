"""The tokenizer of a model: GPT-2's, another's, or a small one that is trained here."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    GPT2Tokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from utils.cli import UserError, loading

LARGEST_VOCABULARY = 1_000_000  # the trainer would allocate more at once


class SpecialIds(NamedTuple):
    """Ids of the special tokens; the field names are the tokens' names, `[bos]` to `[pad]`."""

    bos: int
    eos: int
    img: int
    txt: int
    dyn: int
    pad: int


SPECIAL_TOKENS = tuple(f"[{name}]" for name in SpecialIds._fields)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> SpecialIds:
    """Raises UserError where the tokenizer lacks one of the special tokens."""
    vocabulary = tokenizer.get_vocab()
    for token in SPECIAL_TOKENS:
        if token not in vocabulary:
            raise UserError(
                f"{tokenizer.name_or_path}: a tokenizer without {token}; expected one that "
                "dataset.py wrote"
            )
    return SpecialIds(*map(vocabulary.get, SPECIAL_TOKENS))


def add_special_tokens(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """With our special tokens (it may have them already), decoding exactly what was encoded."""
    tokenizer.add_tokens(list(SPECIAL_TOKENS), special_tokens=True)
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = "[bos]", "[eos]", "[pad]"
    tokenizer.clean_up_tokenization_spaces = False
    return tokenizer


def load_tokenizer(name_or_path: str | Path) -> PreTrainedTokenizerBase:
    """GPT-2's tokenizer, or another of transformers', by name or local folder, with the special
    tokens. Raises UserError where it cannot be loaded."""
    folder = Path(name_or_path)
    # GPT-2 was published as two files that do not say what they are
    is_bare = (folder / "vocab.json").is_file() and not (folder / "tokenizer_config.json").is_file()
    kind = GPT2Tokenizer if is_bare else AutoTokenizer
    advice = "name a local folder, or --tokenizer bpe to train one on the stories"
    with loading(f"--tokenizer {name_or_path}", advice):
        # else it would ask whether to run code
        tokenizer = add_special_tokens(kind.from_pretrained(name_or_path, trust_remote_code=False))
        encode(tokenizer, ["a"])  # wrong settings show only then
    return tokenizer


def load_data_tokenizer(
    path: Path, advice: str = "expected the tokenizer that dataset.py leaves beside the data"
) -> PreTrainedTokenizerBase:
    """The tokenizer that dataset.py has left beside the data, or train.py in a checkpoint. Raises
    UserError, which ends with `advice`."""
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; {advice}")
    with loading(str(path), advice, tried=""):
        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        encode(tokenizer, ["a"])
    return tokenizer


def train_tokenizer(sentences: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE of at most `vocab_size` entries plus the special tokens. Raises UserError
    where they cannot hold the 256 bytes."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if not len(alphabet) <= vocab_size <= LARGEST_VOCABULARY:
        raise UserError(
            f"--vocab_size {vocab_size}: expected at least {len(alphabet)}, one entry for every "
            f"byte, and at most {LARGEST_VOCABULARY}"
        )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=sorted(alphabet), show_progress=False
    )
    bpe.train_from_iterator(sentences, trainer)
    return add_special_tokens(PreTrainedTokenizerFast(tokenizer_object=bpe))


def encode(tokenizer: PreTrainedTokenizerBase, sentences: list[str]) -> list[list[int]]:
    """Token ids of each sentence; "[eos]" in a user's text is six characters, not a token."""
    if not sentences:
        return []
    # JSON may hold half a character
    sentences = [sentence.encode(errors="replace").decode() for sentence in sentences]
    return tokenizer(
        sentences,
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        verbose=False,
    )["input_ids"]
