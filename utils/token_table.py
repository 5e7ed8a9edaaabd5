"""The words of many stories as token ids, in one table that is read from a file."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.numpy import save_file

from utils.cli import UserError
from utils.tensors import Rows
from utils.tokenizer import encode


def story_length(sentences, image_positions):
    """Positions that `pack` gives a story: image positions, [bos], words, [eos] and [dyn] of each
    beat."""
    return sum(image_positions + len(words) + 3 for words in sentences)


class Text(NamedTuple):
    """The words of N stories (S sentences, W words in all) as flat tables: what training holds of
    them is small."""

    words: np.ndarray | Rows  # W: token ids, sentence after sentence; from a file, they stay there
    sentence_at: np.ndarray  # S + 1: where in `words` each sentence begins, and the last ends
    story_at: np.ndarray  # N + 1: the same of stories in sentences
    photos: np.ndarray  # S: the row of each sentence's photo, -1 where there is none

    @classmethod
    def of(cls, stories, tokenizer):
        """Those of stories as in a split's .json."""
        sentences = encode(tokenizer, sentences_of(stories))
        words = np.fromiter((word for sentence in sentences for word in sentence), np.int32)
        photos = [
            -1 if beat["photo"] is None else beat["photo"]
            for story in stories
            for beat in story["beats"]
        ]
        starts = (
            np.cumsum([0, *map(len, of)])
            for of in (sentences, [story["beats"] for story in stories])
        )
        return cls(words, *starts, np.array(photos, np.int64))

    @classmethod
    def load(cls, path, json_path, tokenizer):
        """Those of a file that `save` wrote; None where it is of another tokenizer or of other
        stories.

        Raises UserError where it is damaged.
        """
        words, *tables = (Rows(path, name) for name in cls._fields)
        if words.metadata != words_of(json_path, tokenizer):
            return None
        for table in (words, *tables):
            if len(table.shape) != 1 or table.dtype not in (torch.int32, torch.int64):
                raise UserError(
                    f"{path}: a table of {table.dtype}, {table.shape}; expected those that "
                    "dataset.py wrote"
                )
        sentence_at, story_at, photos = (table[:].numpy() for table in tables)
        for at, count in (
            (sentence_at, len(words)),
            (story_at, len(photos)),
            (sentence_at[:1], 0),
            (story_at[:1], 0),
        ):
            if not at.size or at.min() < 0 or at[-1] != count or (np.diff(at) < 0).any():
                raise UserError(
                    f"{path}: its tables do not fit together; expected those that dataset.py wrote"
                )
        # an id beyond the table of embeddings would stop a training midway
        for start in range(0, len(words), 2**20):
            part = words[start : start + 2**20]
            if part.min() < 0 or part.max() >= len(tokenizer):
                raise UserError(
                    f"{path}: words beyond the tokenizer's {len(tokenizer)}; expected dataset.py's "
                    "own file"
                )
        if len(sentence_at) != len(photos) + 1:
            raise UserError(
                f"{path}: {len(photos)} photos; expected one for each of {len(sentence_at) - 1} "
                "sentences"
            )
        return cls(words, sentence_at, story_at, photos)

    def save(self, path, json_path, tokenizer):
        """Write them beside the split's JSON, which is there already."""
        save_file(self._asdict(), path, metadata=words_of(json_path, tokenizer))

    def sentences(self, i):
        """Token ids of each sentence of story i."""
        at = self.sentence_at[self.story_at[i] : self.story_at[i + 1] + 1].tolist()
        words = self.words[at[0] : at[-1]].tolist()
        return [words[start - at[0] : end - at[0]] for start, end in zip(at, at[1:])]

    def lengths(self, image_positions):
        """Positions that `pack` gives each story."""
        return np.diff(self.sentence_at[self.story_at]) + np.diff(self.story_at) * story_length(
            [[]], image_positions
        )

    def rows(self, i):
        """The row of each sentence's photo in story i, None where it has none."""
        return [
            None if row < 0 else row
            for row in self.photos[self.story_at[i] : self.story_at[i + 1]].tolist()
        ]


def words_of(json_path, tokenizer):
    """What the words of a split depend on, to know whether they are still its: the tokenizer, the
    bytes of its file."""
    rules = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    # one entry: no order
    return {"of": f"tokenizer {rules}, stories of {Path(json_path).stat().st_size} bytes"}


def sentences_of(stories):
    return [beat["sentence"] for story in stories for beat in story["beats"]]


def fit(sentences, image_positions, max_length):
    """The sentences without the trailing beats that do not fit; a lone one is cut. The same object
    where all fit."""
    while len(sentences) > 1 and story_length(sentences, image_positions) > max_length:
        sentences = sentences[:-1]
    if story_length(sentences, image_positions) > max_length:
        sentences = [sentences[0][: max_length - image_positions - 3]]
    return sentences
