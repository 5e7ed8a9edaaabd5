"""The processes and devices that share the work."""

import contextlib
import datetime
import os
from collections.abc import Callable
from typing import NamedTuple

import torch

from utils.cli import UserError


def best_device():
    """The CUDA or Apple GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class Team(NamedTuple):
    """The processes that share the work."""

    index: int  # which of them this one is; the first, 0, does alone what is not a photo's
    count: int
    workers: int  # what is this one's share of its machine's cores
    device: torch.device
    wait: Callable  # until all of them are here

    def gather(self, items):
        """The items of all processes' lists, in each of them."""
        if self.count == 1:
            return items
        parts = [None] * self.count
        torch.distributed.all_gather_object(parts, items)
        return [item for part in parts for item in part]


def alone_here(device):
    """The Team of this process alone."""
    return Team(0, 1, os.cpu_count() or 1, device, lambda: None)


@contextlib.contextmanager
def join_team():
    """This process's Team: those that torchrun or `accelerate launch` started together, or itself
    alone."""
    cores, device = os.cpu_count() or 1, best_device()
    if "RANK" not in os.environ:
        yield alone_here(device)
        return
    # gloo on GPUs as well: they exchange some text at most, and wait for each other as long as it
    # takes
    torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(days=30))
    index, count = torch.distributed.get_rank(), torch.distributed.get_world_size()
    place, here = (int(os.environ[name]) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    if device.type == "cuda":
        device = torch.device("cuda", place % torch.cuda.device_count())
        torch.cuda.set_device(device)
    with contextlib.redirect_stdout(None) if index else contextlib.nullcontext():
        yield Team(index, count, max(1, cores // here), device, torch.distributed.barrier)
    torch.distributed.destroy_process_group()


def get_accelerator(options):
    from accelerate import Accelerator  # here: other scripts than train.py do without

    if options.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise UserError("--mixed_precision fp16: needs a CUDA GPU; expected auto, no or bf16 here")
    auto = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    return Accelerator(
        mixed_precision=auto if options.mixed_precision == "auto" else options.mixed_precision,
        cpu=best_device().type == "cpu",  # several processes talk by gloo then
    )


def over_processes(accelerator, sums):
    """The sum of a float64 tensor over all processes. A single one needs no device, and Apple's has
    no float64."""
    return (
        sums
        if accelerator.num_processes == 1
        else accelerator.reduce(sums.to(accelerator.device)).cpu()
    )


def shard(model, accelerator):
    """The model with its parameters, their gradients and their moments cut over the processes,
    block by block."""
    from torch.distributed.fsdp import fully_shard

    if accelerator.num_processes == 1:
        raise UserError("--fsdp: one process; expected several (torchrun or accelerate launch)")
    # whose batch norms would differ from process to process
    if model.config.train_encoder:
        raise UserError(
            "--fsdp: the photo encoder is trained too; expected features, or --no-train_encoder"
        )
    model.to(accelerator.device)
    for block in (*model.decoder.transformer.h, *model.dynamics.h):
        fully_shard(block)
    return fully_shard(model, reshard_after_forward=True)
