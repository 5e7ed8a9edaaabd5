"""Batches of stories of like length, and each process's share of them."""

import numpy as np
from torch.utils.data import Sampler


class BucketBatches(Sampler):
    """Batches (lists of story numbers) of like length: each story once an epoch, the order a
    function of (seed, epoch).

    Shuffled stories are sorted by length inside windows of 50 batches, and the batches shuffled.
    Without `shuffle`: all sorted by length, the same every epoch.
    """

    def __init__(self, lengths, batch_size, seed=0, shuffle=True):
        self.lengths, self.batch_size, self.seed, self.shuffle = (
            np.asarray(lengths),
            batch_size,
            seed,
            shuffle,
        )
        self.set_epoch(0)

    def set_epoch(self, epoch, start=0):
        """The epoch to run next, from its batch number `start` on (where a stopped run goes on)."""
        self.epoch, self.start = epoch, start

    def __len__(self):
        return -(-len(self.lengths) // self.batch_size) - self.start

    def __iter__(self):
        chance, count = np.random.default_rng([self.seed, self.epoch]), len(self.lengths)
        order = chance.permutation(count) if self.shuffle else np.arange(count)
        window = 50 * self.batch_size if self.shuffle else max(1, count)
        for at in range(0, count, window):
            part = order[at : at + window]
            order[at : at + window] = part[np.argsort(self.lengths[part], kind="stable")]
        starts = np.arange(0, count, self.batch_size)
        for at in (chance.permutation(starts) if self.shuffle else starts)[self.start :].tolist():
            yield order[at : at + self.batch_size].tolist()


def cut(items, size):
    """Consecutive parts of `size` items, the last as long as what is left."""
    return [items[at : at + size] for at in range(0, len(items), size)] if items else []


class Shard:
    """One process's share of every batch.

    Every process does every batch, since they wait for each other. Where a batch has fewer stories
    than processes, those without one do a story that does not count, by a negative number.
    """

    def __init__(self, batches, accelerator):
        self.batches, self.rank, self.world = (
            batches,
            accelerator.process_index,
            accelerator.num_processes,
        )

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            yield batch[self.rank :: self.world] or [~batch[0]]

    @staticmethod
    def counts(batch):
        """Whether the stories of a batch count."""
        return bool(batch["index"][0] >= 0)
