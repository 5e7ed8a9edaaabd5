"""Sentences and their tokens: VIST's way of writing, similarity."""

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

FUNCTION_WORDS = set(
    "a an and are as at be but by for from had has have he her his i in is it its my n of on or "
    "our s she so that the "
    "their them then there they this to us was we were with you".split()
)


def one_line(text: object) -> str:
    # JSON may hold half a character, which no file takes
    text = str(text).encode(errors="replace").decode()
    return " ".join(text.split())


def split_sentences(text: str) -> list[str]:
    """The sentences of a story that is one string: at VIST's tokenised full stops, else by Punkt
    (no download)."""
    if re.search(r"\s[.!?](\s|$)", text):
        return join_marks(re.split(r"(?<=\s[.!?])\s+", text))
    return join_marks(sentence_tokenizer().tokenize(text.strip()))


CLOSING = {*".!?,;:)]”’", "''"}


def has_words(text: str) -> bool:
    """Whether there is a letter or a digit in it."""
    return any(map(str.isalnum, text))


def join_marks(parts: Iterable[str]) -> list[str]:
    """The sentences among the parts of a text: marks that stand alone, or that close a quotation,
    belong to the sentence before them, at the beginning to the one after."""
    sentences = []
    for part in parts:
        tokens, count = part.split(), 0
        if sentences and not has_words(sentences[-1]):  # marks at the beginning
            tokens = [sentences.pop(), *tokens]
        if sentences:
            before = sentences[-1].split()
            marks = {'"': sentences[-1].count('"'), "'": before.count("'")}
            closing = CLOSING | {mark for mark, count in marks.items() if count % 2 == 1}
            while count < len(tokens) and tokens[count] in closing:
                count += 1
            if not has_words(" ".join(tokens)):
                count = len(tokens)
            sentences[-1] = " ".join([sentences[-1], *tokens[:count]])
        if tokens[count:]:
            sentences.append(" ".join(tokens[count:]))
    return sentences


@cache
def sentence_tokenizer() -> Any:
    """Punkt, untrained: nothing to download."""
    from nltk.tokenize.punkt import (  # takes a third of a second
        PunktParameters,
        PunktSentenceTokenizer,
    )

    parameters = PunktParameters()
    parameters.abbrev_types = set("mr mrs ms dr st jr sr prof vs a.m p.m u.s".split())
    return PunktSentenceTokenizer(parameters)


# "night." and "didn't"
ATTACHED = re.compile(r"\w[.!?,;:](?=\s|$)|\w(?:n't|'(?:s|m|re|ve|d|ll))\b")
# "night ." and "did n't"
STANDING = re.compile(r"(?<!\S)(?:[.!?,;:]|n't|'(?:s|m|re|ve|d|ll))(?!\S)")
NAMES = "male|female|location|organization"


def is_tokenised(text: str) -> bool:
    """Whether a story is written VIST's way: no capitals, and punctuation and contractions mostly
    stand by themselves.

    (Mostly: of VIST's own stories one in a hundred has a "mr." or a slip such as "church." in it.)
    """
    words = re.sub(rf"\[({NAMES})\]", "x", text, flags=re.IGNORECASE)
    attached, standing = ATTACHED.findall(words), STANDING.findall(words)
    return not re.search("[A-Z]", words) and len(attached) <= len(standing)


def tokenise(text: str) -> str:
    """A text VIST's way, as its publishers did it: Treebank tokens of each sentence, in lower case.

    [male], [female], [location] and [organization] stay whole. A tokenised text stays what it is.
    """
    if is_tokenised(text):
        return text
    from nltk.tokenize import NLTKWordTokenizer

    text = text.translate({0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"'})
    sentences = sentence_tokenizer().tokenize(text)
    words = [word for sentence in sentences for word in NLTKWordTokenizer().tokenize(sentence)]
    # brackets are tokens of their own
    return re.sub(rf"\[ ({NAMES}) \]", r"[\1]", " ".join(words).lower())


def similarity(a: str, b: str) -> float:
    """F1 of the words that two sentences share, 0 to 1; a function word weighs a tenth of
    another."""

    def weigh(words: Counter) -> float:
        return sum(n * (0.1 if word in FUNCTION_WORDS else 1) for word, n in words.items())

    a, b = (Counter(re.findall(r"\w+", sentence.lower())) for sentence in (a, b))
    return 2 * weigh(a & b) / (weigh(a) + weigh(b)) if a and b else 0.0


def normalise(text: str) -> str:
    """Lower case, single spaces: what texts are compared by."""
    return " ".join(text.lower().split())
