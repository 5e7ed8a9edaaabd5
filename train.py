"""Train a plan-CVAE by the ELBO. `--help` lists every option; `bash train.sh` does it all.

What is random for a story is a function of (seed, step, story), dropout of (seed, step, process),
the order of the data of (seed, epoch): a training that was stopped resumes from its latest
checkpoint as if it had not been, in one process on a CPU bit for bit.
"""

import dataclasses
import math
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

from utils import cli
from utils.cli import UserError
from utils.files import directory_lock, write_json
from utils.train_options import (
    DECODER_DEFAULTS,
    OBJECTIVE,
    TrainOptions,
    get_beta,
    get_bow_scale,
    get_lr,
    parse,
)

if __name__ == "__main__":
    cli.parse_before_imports(parse)

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device, set_seed
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from dataset import StoryDataset, collate
from model import PlanCVAE, load_checkpoint
from utils import validation
from utils.batches import BucketBatches, Shard
from utils.checkpoint import (
    OPTIMIZER,
    PROGRESS,
    load_optimizer,
    read_progress,
    save_checkpoint,
    update_derived,
    versions,
)
from utils.decoding import default_generation
from utils.gaussian import Noise
from utils.loading import BEST, LATEST, load_decoder, load_encoder
from utils.mixture import Mixture, split_names
from utils.parameters import freeze_unused, parameter_groups
from utils.processes import get_accelerator, shard, sum_over_processes
from utils.resuming import check_data, describe_data, find_splits, read_resumed
from utils.signals import Stoppable
from utils.tokenizer import load_data_tokenizer
from utils.train_log import BAGS, SUMS, TERMS, Log

ADAM_BETAS = (0.9, 0.95)  # 0.95, not 0.999, as is common for transformers


# -------------------------------------------------------------------------------------------- setup


def build_model(
    options: TrainOptions, tokenizer: PreTrainedTokenizerBase, data_dir: Path
) -> PlanCVAE:
    """The model that the options describe, with the data's tokenizer and image encoder."""
    names = ("train_encoder", "image_positions", "photo_projection", "plan", "plan_size")
    return PlanCVAE.build(
        load_decoder(options, tokenizer),
        load_encoder(data_dir / "image_encoder"),
        is_pretrained=options.decoder != "scratch",
        **{name: getattr(options, name) for name in names},
        state_bow=options.state_bow_weight > 0,
    )


def get_loader(
    dataset: StoryDataset, batches: BucketBatches, accelerator: Accelerator, num_workers: int
) -> DataLoader:
    return DataLoader(
        dataset,
        batch_sampler=Shard(batches, accelerator),
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )


def evaluate_split(
    model: PlanCVAE, dataset: StoryDataset, accelerator: Accelerator, options: TrainOptions
) -> dict:
    """Figures over a whole split: see utils/validation.py."""
    batches = BucketBatches(dataset.lengths, options.batch_size, shuffle=False)
    loader = get_loader(dataset, batches, accelerator, options.num_workers)
    return validation.evaluate(model, dataset, loader, accelerator, options)


# ----------------------------------------------------------------------------------------- training


class Training(Stoppable):
    """A training in progress: the model, the optimizer, and how far it is."""

    def __init__(self, options: TrainOptions, progress: dict | None):
        """progress: of the checkpoint that is resumed."""
        self.options, self.directory = options, Path(options.output_dir)
        self.resumed = progress is not None
        self.progress = {"step": 0, "best": math.inf, "best_step": None, "worse": 0}
        self.progress |= {"validation": {}, "window": [0.0] * len(SUMS), "id": uuid.uuid4().hex}
        self.progress |= progress or {}
        self.accelerator = get_accelerator(options)
        self.is_main = self.prints = self.accelerator.is_main_process
        set_seed(options.seed)
        self.load_model()
        self.load_data()
        freeze_unused(self.model, options)
        self.prepare()
        self.batches = BucketBatches(
            self.train_set.lengths,
            options.batch_size,
            options.seed,
            sizes=self.train_set.sizes,
            weights=options.train_data_weights,
        )
        self.steps_per_epoch = math.ceil(len(self.batches) / options.gradient_accumulation_steps)
        steps = max(1, round(options.num_train_epochs * self.steps_per_epoch))
        self.total_steps = options.max_steps or steps
        self.eval_steps = options.eval_steps or self.steps_per_epoch
        self.log = None  # of the main process
        self.stop_requested = False  # by a signal to any of several processes
        self.unchecked = []  # of steps: their number, stories, sums and gradient norm
        # SUMS since the last line of the log; a checkpoint holds those of all processes.
        self.window = torch.zeros(len(SUMS), device=self.accelerator.device)
        if self.is_main:
            self.window += torch.tensor(self.progress["window"], device=self.window.device)

    @property
    def stopped_early(self) -> bool:
        return 0 < self.options.patience <= self.progress["worse"]

    @property
    def is_complete(self) -> bool:
        return self.progress["step"] >= self.total_steps or self.stopped_early

    def load_model(self) -> None:
        if self.resumed:
            with cli.flag("--resume"):
                self.model, self.tokenizer = load_checkpoint(self.directory / LATEST)
        else:
            data_dir = Path(self.options.train_data_path[0]).parent
            self.tokenizer = load_data_tokenizer(data_dir / "tokenizer")
            self.model = build_model(self.options, self.tokenizer, data_dir)

    def load_data(self) -> None:
        model, options = self.model, self.options
        positions = model.config.image_positions, model.max_length
        paths = {"training": options.train_data_path, "validation": options.val_data_path}
        splits = {
            name: [
                StoryDataset.load(path, self.tokenizer, *positions, model.image_encoder)
                for path in paths[name]
            ]
            for name in paths
        }
        data = {name: describe_data(paths[name], splits[name]) for name in paths}
        if self.resumed:
            check_data(options, data, self.progress)
        self.progress |= {"data": data, "versions": versions()}
        self.train_set = Mixture(splits["training"], options.train_data_path)
        self.val_sets = dict(zip(split_names(options.val_data_path), splits["validation"]))
        model.config.text = self.train_set.text
        if not self.resumed:
            eos = self.tokenizer.eos_token_id
            model.generation_config = default_generation(self.train_set.source, eos)
        if self.train_set.photo_kind == "features":
            model.config.train_encoder = False  # there are no pixels to train it from
            if not self.resumed:
                mean, var = self.train_set.moments(options.train_data_weights)
                model.feature_mean.copy_(mean)
                model.feature_var.copy_(var)

    def prepare(self) -> None:
        """The optimizer, and the model as the processes share it."""
        options, accelerator = self.options, self.accelerator
        # self.model is asked at validation: DDP would wait for the others at every batch
        if options.fsdp:
            self.ddp = shard(self.model, accelerator)
        else:
            self.ddp = accelerator.prepare(self.model)
        decay, multiplier = options.weight_decay, options.new_lr_multiplier
        groups = parameter_groups(self.model, decay, multiplier)
        adamw = torch.optim.AdamW(groups, lr=options.learning_rate, betas=ADAM_BETAS, fused=True)
        self.optimizer = accelerator.prepare(adamw)
        if self.resumed:
            path = self.directory / LATEST / OPTIMIZER
            advice = "expected the state that train.py wrote"
            with cli.loading(f"--resume {path}", advice, tried=""):
                load_optimizer(self.model, adamw, path)
            if accelerator.scaler is not None and "scaler" in self.progress:
                accelerator.scaler.load_state_dict(self.progress["scaler"])

    def accumulated_batches(self) -> Iterator[list[dict]]:
        """The batches of each optimizer step, from the current one on, without end."""
        options = self.options
        accumulation_steps = options.gradient_accumulation_steps
        while True:
            epoch, done = divmod(self.progress["step"], self.steps_per_epoch)
            self.batches.set_epoch(epoch, start=done * accumulation_steps)
            loader = get_loader(self.train_set, self.batches, self.accelerator, options.num_workers)
            loader = iter(loader)
            while batches := list(islice(loader, accumulation_steps)):
                yield batches

    def take_step(self, batches: list[dict]) -> tuple[Tensor, dict[str, float]]:
        """One optimizer step. Returns this process's SUMS, and the schedules."""
        options, step, accelerator = self.options, self.progress["step"], self.accelerator
        set_seed((options.seed * 1_000_003 + step) % 2**32, device_specific=True)  # for dropout
        lr = get_lr(step, self.total_steps, options)
        beta = get_beta(step, self.total_steps, options)
        bow_scale = get_bow_scale(step, self.total_steps, options)
        objective = {name: getattr(options, name) for name in OBJECTIVE}
        objective["bow_weight"] *= bow_scale
        objective["future_bow_weight"] *= bow_scale
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_multiplier"]

        # The loss is divided by the tokens of the whole step: a mean of means over unequal batches
        # would weigh them wrongly.
        tokens = sum(len(batch["words"]) * Shard.counts(batch) for batch in batches)
        totals = torch.tensor([tokens, bool(self.stop)], device=accelerator.device)
        num_tokens, self.stop_requested = accelerator.reduce(totals)
        sums, stories = 0, []
        for i, batch in enumerate(batches):
            counts = Shard.counts(batch)
            stories += batch["index"].tolist()
            plan_size = self.model.config.plan_size
            seed = [options.seed, step]
            batch["noise"] = Noise.sample(batch["index"], batch["beat_mask"], plan_size, seed)
            batch = send_to_device(batch, accelerator.device, non_blocking=True)
            is_last = i == len(batches) - 1
            with nullcontext() if is_last else accelerator.no_sync(self.ddp):
                with accelerator.autocast():
                    out = self.ddp(**batch, beta=beta, num_tokens=num_tokens, **objective)
                # the processes' gradients are averaged, and should be added
                accelerator.backward(out.loss * (counts * accelerator.num_processes))
            terms = [out[name].detach().float() for name in (*TERMS, "tokens")]
            terms.append(out.loss.new_tensor(len(batch["index"])))
            sums = sums + counts * torch.stack(terms)
        norm = accelerator.clip_grad_norm_(self.ddp.parameters(), options.max_grad_norm or math.inf)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if accelerator.scaler is not None:  # which skips steps whose gradients overflow
            norm = torch.zeros_like(norm)
        self.unchecked.append((step, stories, torch.cat([sums, norm[None]])))
        if accelerator.device.type == "cpu":  # a GPU would have to be waited for
            self.check_steps()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.progress["step"] += 1
        return sums, {"lr": lr, "beta": beta, "bow_scale": bow_scale}

    def check_steps(self) -> None:
        """Raise UserError where a step since the last check was not finite. (Every process finds
        the same norm.)"""
        for step, stories, values in self.unchecked:
            ids = ", ".join(str(self.train_set.ids[i]) for i in stories[:32])
            values = dict(zip((*SUMS, "gradient"), values.tolist()))
            self.check_finite(f"step {step}", values, f" (stories {ids})")
        self.unchecked.clear()

    def check_finite(self, where: str, values: dict[str, float], what: str = "") -> None:
        bad = [f"{name} {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            latest = self.directory / LATEST
            remains = "there is no checkpoint yet"
            if latest.is_dir():
                remains = f"{latest} holds the last good checkpoint"
            raise UserError(
                f"{where}: not finite: {', '.join(bad)}{what}; {remains}; a smaller "
                "--learning_rate or --max_grad_norm often helps"
            )

    def validate(self) -> None:
        """Print and log figures on the validation splits, and save a checkpoint. The first split
        says which model is the best."""
        self.check_steps()
        of_split = {
            name: evaluate_split(self.model, split, self.accelerator, self.options)
            for name, split in self.val_sets.items()
        }
        figures, *others = of_split.values()
        progress, step, loss = self.progress, self.progress["step"], figures["elbo_loss"]
        terms = {name: figures[name] for name in TERMS}
        self.check_finite(f"validation at step {step}", terms)
        progress["worse"] += 1
        if loss < progress["best"]:
            progress |= {"best": loss, "best_step": step, "worse": 0}
        progress["validation"] = {"step": step, **figures}
        if self.log:
            self.log.write(step=step, split="val", **figures)
            for name, more in zip(list(of_split)[1:], others):
                self.log.write(step=step, split=f"val of {name}", **more)
            self.log.draw(force=False)
        self.save()
        for name, more in list(of_split.items()) if others else ():
            self.print(
                f"step {step}: {name}: validation −ELBO {more['elbo_loss']:.2f} nats per story, "
                f"perplexity {more['perplexity']:.3f}, KL {more['kl']:.2f}"
            )
        self.print(
            f"step {step}: validation −ELBO {loss:.2f} nats per story, perplexity "
            f"{figures['perplexity']:.3f}, KL {figures['kl']:.2f}, active units "
            f"{figures['active_units_per_beat']}{'' if progress['worse'] else ', the best so far'}"
        )

    def sum_window(self) -> dict[str, float]:
        """SUMS since the last line of the log, over all processes."""
        self.check_steps()
        return sum_over_processes(dict(zip(SUMS, self.window.tolist())))

    def save(self) -> None:
        """Write the latest checkpoint, from which any number of processes can resume."""
        window = list(self.sum_window().values())
        progress = self.progress | {"options": dataclasses.asdict(self.options), "window": window}
        if self.accelerator.scaler is not None:
            progress["scaler"] = self.accelerator.scaler.state_dict()
        state = self.model, self.tokenizer, self.optimizer.optimizer, progress
        save_checkpoint(self.directory / LATEST, *state, main=self.is_main)
        self.update_derived()
        self.accelerator.wait_for_everyone()

    def update_derived(self) -> None:
        if self.is_main:
            update_derived(self.directory, self.progress, self.options.save_total_limit)

    def print(self, text: str) -> None:
        if self.is_main:
            with tqdm.external_write_mode():
                cli.say(text)

    def write_log(self, bar: tqdm, since: float, schedules: dict) -> None:
        """A line of the log: the terms' means per story since the last one."""
        sums = self.sum_window()
        self.window.zero_()
        speed = sums["stories"] / (time.perf_counter() - since)
        terms = {name: sums[name] / sums["stories"] for name in TERMS}
        nll = sums["nll"] / sums["tokens"]
        bar.set_postfix_str(
            f"NLL {nll:.3f} per token, KL {terms['kl']:.2f} per story, {speed:.0f} stories/s"
        )
        if self.log:
            step = self.progress["step"]
            self.log.write(step=step, split="train", **terms, **schedules, stories_per_second=speed)

    def run(self) -> int:
        """Train to the end, or until a signal or --patience stops it. Returns the exit status."""
        options, progress = self.options, self.progress
        if self.resumed:
            self.update_derived()
        elif options.overwrite:
            self.save()  # from here on --resume resumes this training
        if self.is_main:
            self.log = Log(self.directory, options, progress["versions"], progress["step"])
        bar = tqdm(
            total=self.total_steps,
            initial=progress["step"],
            desc="training",
            unit="step",
            disable=not self.is_main,
        )
        self.ddp.train()
        since = time.perf_counter()
        for batches in self.accumulated_batches():
            sums, schedules = self.take_step(batches)
            self.window += sums
            bar.update()
            step = progress["step"]
            is_last = step >= self.total_steps
            if step % options.logging_steps == 0 or is_last:
                self.write_log(bar, since, schedules)
                since = time.perf_counter()
            validates = step % self.eval_steps == 0 or is_last
            if validates:
                self.validate()
                since = time.perf_counter()
            # A signal may reach one of several processes: they have exchanged it in take_step.
            several = self.accelerator.num_processes > 1
            stops = self.stop_requested if several else self.stop
            if stops and not validates:
                self.save()
            if stops or self.is_complete:
                break
        bar.close()
        if self.log:
            self.log.draw()
        self.accelerator.end_training()
        if not self.is_complete:
            self.print(f"stopped at step {step} and saved; the same command with --resume resumes")
            return 128 + (self.stop or signal.SIGTERM)
        if self.stopped_early:
            worse = progress["worse"]
            self.print(f"stopped early: {worse} validations without a better −ELBO (--patience)")
        best = self.directory / BEST
        self.print(f"best model: {best}; log.jsonl and training.png are beside it")
        return 0


def evaluate_only(options: TrainOptions) -> None:
    """Print the best model's figures on a split and write output_dir/evaluation.json."""
    path = Path(options.output_dir) / LATEST / PROGRESS
    if path.is_file():  # a term of weight 0 was not trained
        trained = read_progress(path)["options"]
        names = [f"{name}_weight" for name in BAGS]
        weights = {name: trained[name] for name in names if name in trained}
        options = dataclasses.replace(options, **weights)
    accelerator = get_accelerator(options)
    with cli.flag("--output_dir"):
        model, tokenizer = load_checkpoint(options.output_dir)
    positions = model.config.image_positions, model.max_length
    dataset = StoryDataset.load(options.evaluate, tokenizer, *positions, model.image_encoder)
    figures = evaluate_split(model.to(accelerator.device), dataset, accelerator, options)
    if accelerator.is_main_process:
        for name, value in figures.items():
            values = value if isinstance(value, list) else [value]
            print(f"{name:24}{', '.join(f'{x:.5g}' for x in values)}")
        target = Path(options.output_dir) / "evaluation.json"
        settings = {"split": options.evaluate, "iwae_samples": options.iwae_samples}
        write_json(target, settings | {"figures": figures})
        print(f"-> {target}")
    accelerator.end_training()


def train(options: TrainOptions) -> int:
    """Start or resume the training that the options describe. Returns the exit status."""
    find_splits(options)
    training = Training(options, read_resumed(options))
    progress = training.progress
    shares = training.train_set.shares(options.train_data_weights)
    named = [("training", data) for data in training.train_set.datasets]
    if len(named) > 1:
        named = [
            (f"training, {share:.1%} from {path}", data)
            for path, share, (_, data) in zip(options.train_data_path, shares, named)
        ]
    for name, data in training.val_sets.items():
        named.append(
            (f"validation of {name}" if len(training.val_sets) > 1 else "validation", data)
        )
    for name, data in named:
        shortened = ""
        if data.shortened:
            longest = training.model.max_length
            shortened = f", {data.shortened} of them shortened to {longest} positions"
        training.print(f"{name}: {len(data)} stories{shortened}, photos as {data.photos.kind}")
    if training.resumed and training.is_complete:
        training.update_derived()
        training.print(
            f"{options.output_dir}: this training is complete ({progress['step']} steps, −ELBO "
            f"{progress['best']:.2f})"
        )
        return 0
    chosen = ", ".join(f"{name} {getattr(options, name):g}" for name in DECODER_DEFAULTS)
    training.print(f"decoder {options.decoder}: {chosen}")
    trained = sum(p.numel() for p in training.model.parameters() if p.requires_grad)
    training.print(
        f"{trained / 1e6:.1f} M trained parameters, {training.total_steps} steps on "
        f"{training.accelerator.device}"
    )
    with training.stoppable():
        return training.run()


def main() -> int | None:
    options = parse()
    if options.evaluate is not None:
        return evaluate_only(options)
    lock = directory_lock(options.output_dir, "--output_dir")
    with lock if cli.first_process() else nullcontext():
        return train(options)


if __name__ == "__main__":
    cli.run(main)
