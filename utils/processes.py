"""The processes and devices that share the work."""

import contextlib
from collections.abc import Iterator
from datetime import timedelta

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor

from utils.cli import UserError
from utils.train_options import TrainOptions


def best_device() -> torch.device:
    """The CUDA or Apple GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


@contextlib.contextmanager
def join_processes() -> Iterator[PartialState]:
    """The processes that torchrun or `accelerate launch` started together, or this one alone; all
    but the first print nothing."""
    # they wait for each other as long as it takes
    state = PartialState(cpu=best_device().type == "cpu", timeout=timedelta(days=30))
    with contextlib.nullcontext() if state.is_main_process else contextlib.redirect_stdout(None):
        yield state
    state.destroy_process_group()


def get_accelerator(options: TrainOptions) -> Accelerator:
    """The Accelerator that TrainOptions describe."""
    if options.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise UserError("--mixed_precision fp16: needs a CUDA GPU; expected auto, no or bf16 here")
    auto = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    return Accelerator(
        mixed_precision=auto if options.mixed_precision == "auto" else options.mixed_precision,
        cpu=best_device().type == "cpu",  # several processes talk by gloo then
    )


def over_processes(accelerator: Accelerator, sums: Tensor) -> Tensor:
    """The sum of a float64 tensor over all processes."""
    if accelerator.num_processes == 1:  # Apple's GPUs have no float64
        return sums
    return accelerator.reduce(sums.to(accelerator.device)).cpu()


def shard(model: torch.nn.Module, accelerator: Accelerator) -> torch.nn.Module:
    """The model with parameters, gradients and moments sharded over the processes (FSDP)."""
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
