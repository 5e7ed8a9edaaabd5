"""Where and with what it is measured."""

import contextlib
import gc
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
import torchvision
import transformers

from utils.tokenizer import SpecialIds

VIST_STORIES, VIST_PHOTOS = 40_155, 200_775  # of its training split; a photo for each beat


@dataclass
class Size:
    """What is measured: a model and how much of everything makes one repetition."""

    decoder: dict  # GPT2Config's fields
    special: SpecialIds
    encoder: str
    image_size: int
    image_positions: int
    photos: int  # that are preprocessed
    reference_photos: int  # of them, by the reference's way
    scored: int  # stories


SIZES = {
    "gpt2": Size(
        {"vocab_size": 50263}, SpecialIds(*range(50257, 50263)), "resnet152", 224, 10, 192, 8, 32
    ),
    "tiny": Size(
        {"vocab_size": 306, "n_layer": 2, "n_embd": 32, "n_head": 2},
        SpecialIds(*range(300, 306)),
        "resnet18",
        32,
        3,
        8,
        2,
        6,
    ),
}


@dataclass
class Setup:
    """Where and with what it is measured. It travels to the processes that measure memory."""

    size: Size
    device: torch.device
    bf16: bool
    batch_size: int
    repetitions: int
    threads: int
    seed: int
    compile: bool = False

    @property
    def on_gpu(self):
        return self.device.type == "cuda"

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def wait(self):
        """Until the device has done what it was asked for."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def told(self):
        """It as JSON can hold it."""
        return {**vars(self), "size": vars(self.size), "device": str(self.device)}

    def begin(self):
        """The same start for every part."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
        torch.set_num_threads(self.threads)
        torch.manual_seed(self.seed)


def machine(setup):
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):
        cpu = (
            Path("/proc/cpuinfo")
            .read_text()
            .split("model name")[1]
            .split(":")[1]
            .splitlines()[0]
            .strip()
        )
    return {
        "device": torch.cuda.get_device_name()
        if setup.on_gpu
        else f"{cpu}, {setup.threads} threads",
        "cpu": cpu,
        "processors": psutil.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "transformers": transformers.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
