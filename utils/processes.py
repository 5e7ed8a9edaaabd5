"""The processes and devices that share the work."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import timedelta

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object

from utils.cli import UserError
from utils.train_options import TrainOptions


def best_device() -> torch.device:
    """The GPU where there is one, CUDA's or Apple's or another that torch knows, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


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
    precision = options.mixed_precision
    if precision == "fp16" and not torch.cuda.is_available():
        raise UserError("--mixed_precision fp16: needs a CUDA GPU; expected auto, no or bf16 here")
    if precision == "auto":
        has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        precision = "bf16" if has_bf16 else "no"
    # on a CPU several processes talk by gloo
    return Accelerator(mixed_precision=precision, cpu=best_device().type == "cpu")


def sum_over_processes(sums: Mapping) -> Counter:
    """Numbers, or tensors on the CPU, by name: summed over all processes."""
    totals = Counter()
    for share in gather_object([sums]):
        totals.update(share)
    return totals


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
