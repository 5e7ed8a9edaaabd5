"""Memory of a training step and of a data set, each in a process of its own."""

import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import psutil
import torch
from accelerate.utils import send_to_device

from dataset import collate
from experiments.benchmark.inputs import BEATS, RandomStories, build_decoder, build_model
from experiments.benchmark.measuring import BARE, OURS
from experiments.benchmark.setup import VIST_STORIES
from experiments.benchmark.training import adamw, bare_step, train_step
from utils import cli


def in_fresh_process(function, *arguments):
    """The function's result, computed in a process of its own; None where that was killed, as for
    its memory."""
    spawn = get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=cli.keep_memory) as process:
        try:
            return process.submit(function, *arguments).result()
        except (BrokenProcessPool, torch.OutOfMemoryError):
            return None


def peak_memory(setup):
    """The most bytes that this process has held: on the GPU, or else in main memory."""
    if setup.on_gpu:
        return torch.cuda.max_memory_allocated()
    try:  # getrusage would hand on the peak of the process that started this one
        return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    except OSError:
        import resource  # not there on every system

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )


def peak_of_steps(who, batch_size, beats, setup):
    """Peak memory in bytes of two training steps, what the imports alone take left out."""
    setup.begin()
    before = 0 if setup.on_gpu else psutil.Process().memory_info().rss
    network = (build_model if who == OURS else build_decoder)(setup.size).to(setup.device).train()
    feature_size = network.image_encoder.config.feature_size if who == OURS else 1
    stories = RandomStories(batch_size, setup.size, feature_size, beats, setup.seed)
    batch = send_to_device(
        collate([stories[i] for i in range(batch_size)], setup.size.special.pad), setup.device
    )
    optimizer, step = adamw(network, fused=True), train_step if who == OURS else bare_step
    for _ in range(2):  # the optimizer's state is there from the second on
        step(network, optimizer, batch, setup)
    return peak_memory(setup) - before


def memory_of_stories(count, setup):
    """Bytes that `count` stories take in a StoryDataset, words and all (of a split's files, its
    words stay there)."""
    before = psutil.Process().memory_info().rss
    stories = RandomStories(count, setup.size, 0, seed=setup.seed)
    return psutil.Process().memory_info().rss - before if len(stories) else 0


def measure_memory(setup):
    peaks = []
    for batch_size, beats in ((8, BEATS), (16, BEATS), (32, BEATS), (8, 2 * BEATS)):
        found = {
            who: in_fresh_process(peak_of_steps, who, batch_size, beats, setup)
            for who in (OURS, BARE)
        }
        peaks.append({"batch_size": batch_size, "beats": beats, **found})
    counts = (VIST_STORIES // 10, VIST_STORIES)
    return {
        "rows": [],
        "peaks": peaks,
        "stories": {n: in_fresh_process(memory_of_stories, n, setup) for n in counts},
    }
