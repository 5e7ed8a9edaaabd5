"""Batches of stories of like length, and each process's share of them."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class BucketBatches(Sampler):
    """Batches (lists of story indices) of like length, each story once per epoch; the order is a
    function of (seed, epoch).

    Shuffled stories are sorted by length inside windows of 50 batches, and the batches shuffled.
    Without `shuffle`: all sorted by length, the same every epoch.

    sizes, weights: of the sources of a mixture, whose stories follow each other. An epoch has as
    many stories as the sources together, drawn from each by its weight: pass after pass over a
    source's stories, each pass in an order of its own, so that none comes again before all have.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        sizes: Sequence[int] = (),
        weights: Sequence[float] | None = None,
    ):
        self.lengths, self.batch_size = np.asarray(lengths), batch_size
        self.seed, self.shuffle = seed, shuffle
        self.sizes, self.counts = sizes, None
        if weights is not None:  # cumulated, so that the counts add up
            ends = np.cumsum([0.0, *weights]) / sum(weights) * len(self.lengths)
            self.counts = np.diff(np.rint(ends).astype(int)).tolist()
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """The next epoch, from its batch number `start` on (where a stopped run resumes)."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size) - self.start

    def __iter__(self) -> Iterator[list[int]]:
        rng, count = np.random.default_rng([self.seed, self.epoch]), len(self.lengths)
        order, window = np.arange(count), count + 1
        if self.shuffle:
            order, window = rng.permutation(self.draw()), 50 * self.batch_size
        # by window, then by length
        order = order[np.lexsort((self.lengths[order], np.arange(count) // window))]
        batches = split_into(order.tolist(), self.batch_size)
        if self.shuffle:
            rng.shuffle(batches)
        return iter(batches[self.start :])

    def draw(self) -> np.ndarray | int:
        """The stories of a mixture's epoch; of one source, how many there are: all are taken."""
        if self.counts is None:
            return len(self.lengths)
        drawn, before = [], 0
        for source, (size, count) in enumerate(zip(self.sizes, self.counts, strict=True)):
            first = self.epoch * count  # of the source's stream of stories
            passes = range(first // size, -(-(first + count) // size))
            orders = [np.random.default_rng([self.seed, source, i]) for i in passes]
            stream = [before + rng.permutation(size) for rng in orders]
            drawn += np.concatenate([*stream, []])[first % size :][:count].astype(int).tolist()
            before += size
        return np.array(drawn)


def split_into(items: Sequence, size: int) -> list[Sequence]:
    """Consecutive parts of `size` items, the last one shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]


class Shard:
    """One process's share of every batch.

    Every process takes part in every batch, since they wait for each other. Where a batch has
    fewer stories than processes, the others take a story that does not count, by a negative index.
    """

    def __init__(self, batches: BucketBatches, accelerator):
        self.batches = batches
        self.rank, self.world = accelerator.process_index, accelerator.num_processes

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            yield batch[self.rank :: self.world] or [~batch[0]]

    @staticmethod
    def counts(batch: dict) -> bool:
        """Whether the stories of a batch count."""
        return bool(batch["index"][0] >= 0)
