"""The words of many stories as token ids, in flat tables."""

from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from utils.tokenizer import encode


class TokenTable(NamedTuple):
    """The words of N stories, S sentences, W words in all: flat, so that millions fit in memory.

    Tokenising VIST's 40,155 training stories takes 5 s on one core, so they are on no disk.
    """

    words: np.ndarray  # W: token ids, sentence after sentence
    sentence_starts: np.ndarray  # S + 1: where in `words` each sentence begins, and the last ends
    story_starts: np.ndarray  # N + 1: where in the sentences each story begins
    photos: np.ndarray  # S: the row of each sentence's photo, -1 where there is none

    @classmethod
    def from_stories(cls, stories: list[dict], tokenizer: PreTrainedTokenizerBase) -> "TokenTable":
        """From stories as in a split's .json."""
        beats = [beat for story in stories for beat in story["beats"]]
        sentences = encode(tokenizer, [beat["sentence"] for beat in beats])
        rows = [-1 if beat["photo"] is None else beat["photo"] for beat in beats]
        return cls(
            words=np.fromiter((word for words in sentences for word in words), np.int32),
            sentence_starts=np.cumsum([0, *map(len, sentences)]),
            story_starts=np.cumsum([0, *(len(story["beats"]) for story in stories)]),
            photos=np.array(rows, np.int64),
        )

    def sentences(self, i: int) -> list[list[int]]:
        """Token ids of each sentence of story i."""
        starts = self.sentence_starts[self.story_starts[i] : self.story_starts[i + 1] + 1]
        return [self.words[start:end].tolist() for start, end in zip(starts, starts[1:])]

    def lengths(self, image_positions: int) -> np.ndarray:
        """Positions that `dataset.pack` gives each story."""
        words = np.diff(self.sentence_starts[self.story_starts])
        return words + np.diff(self.story_starts) * story_length([[]], image_positions)

    def rows(self, i: int) -> list[int | None]:
        """The row of each sentence's photo in story i, None where it has none."""
        rows = self.photos[self.story_starts[i] : self.story_starts[i + 1]].tolist()
        return [None if row < 0 else row for row in rows]


def story_length(sentences: list[list[int]], image_positions: int) -> int:
    """Positions of a story: image positions, [bos], words, [eos] and [dyn] of each beat."""
    return sum(image_positions + len(words) + 3 for words in sentences)


def truncate(sentences: list[list[int]], image_positions: int, max_length: int) -> list[list[int]]:
    """The sentences without the trailing beats that do not fit; a lone sentence is cut."""
    while len(sentences) > 1 and story_length(sentences, image_positions) > max_length:
        sentences = sentences[:-1]
    if story_length(sentences, image_positions) > max_length:
        sentences = [sentences[0][: max_length - image_positions - 3]]
    return sentences
