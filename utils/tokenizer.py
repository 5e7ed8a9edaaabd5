"""The tokenizer of a model: GPT-2's, another's, or a small one that is trained here."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    GPT2Tokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from utils.cli import UserError, loading

LARGEST_VOCABULARY = 1_000_000  # the trainer would allocate more at once
END_OF_TEXT = "<|endoftext|>"  # of a tokenizer that is trained here, as of GPT-2's


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer, set to decode exactly what was encoded. Raises UserError where it cannot end a
    sentence."""
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{name}: a tokenizer without an end-of-text token (eos_token); expected that of a "
            "causal language model"
        )
    tokenizer.clean_up_tokenization_spaces = False
    encode(tokenizer, ["a"])  # wrong settings show only then
    return tokenizer


def load_tokenizer(name_or_path: str | Path) -> PreTrainedTokenizerBase:
    """GPT-2's tokenizer, or another of transformers', by name or local folder. Raises UserError
    where it cannot be loaded."""
    folder = Path(name_or_path)
    # GPT-2 was published as two files that do not say what they are
    is_bare = (folder / "vocab.json").is_file() and not (folder / "tokenizer_config.json").is_file()
    kind = GPT2Tokenizer if is_bare else AutoTokenizer
    name = f"--tokenizer {name_or_path}"
    advice = "name a local folder, or --tokenizer bpe to train one on the stories"
    with loading(name, advice):
        # else it would ask whether to run code
        tokenizer = kind.from_pretrained(name_or_path, trust_remote_code=False)
        return check_tokenizer(tokenizer, name)


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
        return check_tokenizer(tokenizer, str(path))


def train_tokenizer(sentences: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE of at most `vocab_size` entries plus the end of text. Raises UserError where
    they cannot hold the 256 bytes."""
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
    bpe.train_from_iterator((f" {sentence}" for sentence in sentences), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END_OF_TEXT)
    tokenizer.clean_up_tokenization_spaces = False
    return tokenizer


def wants_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether words begin with their space, and the tokenizer adds none to a sentence's first: as
    in GPT-2, for which "dog" at a beginning is another word than " dog"."""
    with_space, without = tokenizer.tokenize(" a")[0], tokenizer.tokenize("a")[0]
    return with_space.startswith("Ġ") and not without.startswith("Ġ")


def encode(tokenizer: PreTrainedTokenizerBase, sentences: list[str]) -> list[list[int]]:
    """Token ids of each sentence; "<|endoftext|>" in a user's text is thirteen characters, not a
    token."""
    if not sentences:
        return []
    if wants_space(tokenizer):
        sentences = [f" {sentence}" if sentence else "" for sentence in sentences]
    # JSON may hold half a character
    sentences = [sentence.encode(errors="replace").decode() for sentence in sentences]
    return tokenizer(
        sentences,
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        verbose=False,
    )["input_ids"]


def decode(tokenizer: PreTrainedTokenizerBase, sentences: list[list[int]]) -> list[str]:
    """The text of each sentence, without the space that `encode` put before it."""
    return [text.strip() for text in tokenizer.batch_decode(sentences)]
