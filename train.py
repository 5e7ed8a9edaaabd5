"""Train a plan-CVAE by the ELBO. `--help` lists every option; `bash train.sh` does it all.

What is drawn for a story is a function of (seed, step, story), dropout of (seed, step, process),
the data order of (seed, epoch), so a training that was stopped, by whatever, is taken up from its
latest checkpoint by --resume and then is the uninterrupted one: in one process on a CPU bit for
bit.
"""

import dataclasses
import math
import signal
import time
import uuid
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path

from utils import cli
from utils.cli import UserError
from utils.files import directory_lock, write_json
from utils.train_options import OBJECTIVE, changeable, parse, parser  # noqa: F401

if __name__ == "__main__":
    cli.parse_before_imports(parse)

import torch
from accelerate.utils import send_to_device, set_seed
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from dataset import StoryDataset, collate
from model import PlanCVAE, load_checkpoint
from utils import validation
from utils.batches import BucketBatches, Shard
from utils.checkpoint import (
    OPTIMIZER,
    PROGRESS,
    derive,
    gathered,
    load_optimizer,
    optimizer_tensors,
    read_progress,
    save_checkpoint,
    versions,
)
from utils.finite import first_not_finite
from utils.gaussian import Noise
from utils.loading import BEST, LATEST, load_decoder, load_encoder
from utils.optimization import get_beta, get_bow_scale, get_lr, parameter_groups
from utils.processes import get_accelerator, over_processes, shard
from utils.resuming import describe, resolve, restore
from utils.signals import Stoppable
from utils.tokenizer import load_data_tokenizer
from utils.train_log import BAGS, TERMS, Log, summary_writer

# A shorter memory of squared gradients than the usual 0.999, as is common for transformers of this
# kind.
ADAM_BETAS = (0.9, 0.95)


# -------------------------------------------------------------------------------------------- setup


def build_model(options, tokenizer, data_dir):
    """The model that the options describe, around the data's tokenizer and photo encoder."""
    return PlanCVAE.build(
        load_decoder(options, tokenizer),
        load_encoder(data_dir / "image_encoder"),
        train_encoder=options.train_encoder,
        image_positions=options.image_positions,
        plan=options.plan,
        plan_size=options.plan_size,
        detach_dynamics_target=options.detach_dynamics_target,
        eos_token_id=tokenizer.eos_token_id,
        state_bow=options.state_bow_weight > 0,
    )


def get_loader(dataset, batches, accelerator, workers):
    return DataLoader(
        dataset,
        batch_sampler=Shard(batches, accelerator),
        collate_fn=partial(collate, pad_id=dataset.special.pad),
        num_workers=workers,
        pin_memory=accelerator.device.type == "cuda",
    )


# --------------------------------------------------------------------------------------------- main


def evaluate(model, dataset, accelerator, options):
    """Figures over a whole split: see utils/validation.py."""
    batches = BucketBatches(dataset.lengths, options.batch_size, shuffle=False)
    data = get_loader(dataset, batches, accelerator, options.num_workers)
    return validation.evaluate(model, dataset, data, accelerator, options)


class Training(Stoppable):
    """A training in progress: the model, the optimizer, and where it stands."""

    def __init__(self, options, train_path, val_path, progress):
        self.options, self.directory = options, Path(options.output_dir)
        self.progress = {"step": 0, "best": math.inf, "best_step": None, "worse": 0} | (
            progress or {}
        )
        self.progress.setdefault("id", uuid.uuid4().hex)
        self.resumed = bool(progress)
        self.progress["stopped_early"] = 0 < options.patience <= self.progress["worse"]
        self.accelerator = get_accelerator(options)
        set_seed(options.seed)
        latest = self.directory / LATEST
        if progress:
            with cli.flag("--resume"):
                self.model, self.tokenizer = load_checkpoint(latest)
        else:
            self.tokenizer = load_data_tokenizer(train_path.parent / "tokenizer")
            self.model = build_model(options, self.tokenizer, train_path.parent)
        self.train_set, self.val_set = (
            StoryDataset.load(
                path,
                self.tokenizer,
                options.image_positions,
                self.model.max_length,
                self.model.image_encoder,
            )
            for path in (train_path, val_path)
        )
        data = {
            "training": describe(train_path, self.train_set),
            "validation": describe(val_path, self.val_set),
        }
        for split, name in (("training", "train_data_path"), ("validation", "val_data_path")):
            then = self.progress.get("data", data).get(split)
            if data[split] != then and name not in changeable(options):
                advice = f"the same data, or --allow_changed {name}, or --overwrite"
                raise UserError(
                    f"--resume {latest}: other {split} data ({then} then, {data[split]} now); "
                    f"{advice}"
                )
        self.progress |= {"data": data, "versions": versions()}
        self.model.config.text = self.train_set.written
        if self.train_set.photos.kind == "features":
            self.model.config.train_encoder = False  # there are no pixels to train it from
            if not progress:
                rows = self.train_set.text.photos
                mean, var = self.train_set.photos.moments(rows[rows >= 0])
                self.model.feature_mean.copy_(mean)
                self.model.feature_var.copy_(var)
        # A model that was loaded has forgotten what of it is frozen.
        self.model.initial_state.requires_grad_(options.plan != "none")
        self.model.image_encoder.requires_grad_(self.model.config.train_encoder)
        # several GPUs would wait for idle gradients
        self.model.photo_bow_head.requires_grad_(options.photo_bow_weight > 0)
        if options.plan != "none":
            self.model.bow_bias.requires_grad_(options.bow_weight > 0)
            self.model.future_bow_mlp.requires_grad_(options.future_bow_weight > 0)
        elif not (options.dynamics_weight or options.state_bow_weight):
            self.model.dynamics.requires_grad_(False)
            self.model.dynamics_head.requires_grad_(False)
        # Validation asks the model without the wrapper of DDP, which would wait for the others at
        # every batch.
        if options.fsdp:
            self.ddp = shard(self.model, self.accelerator)
        else:
            self.ddp = self.accelerator.prepare(self.model)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, options.weight_decay),
            lr=options.learning_rate,
            betas=ADAM_BETAS,
            fused=True,
        )
        self.optimizer = self.accelerator.prepare(self.optimizer)
        if progress:
            with cli.loading(
                f"--resume {latest / OPTIMIZER}", "expected the state that train.py wrote", tried=""
            ):
                load_optimizer(self.model, self.optimizer, latest / OPTIMIZER)
            if self.accelerator.scaler is not None and "scaler" in progress:
                self.accelerator.scaler.load_state_dict(progress["scaler"])
        self.batches = BucketBatches(self.train_set.lengths, options.batch_size, options.seed)
        self.steps_per_epoch = math.ceil(len(self.batches) / options.gradient_accumulation_steps)
        self.total_steps = options.max_steps or max(
            1, round(options.num_train_epochs * self.steps_per_epoch)
        )
        self.eval_steps = options.eval_steps or self.steps_per_epoch
        self.objective = {name: getattr(options, name) for name in OBJECTIVE}
        self.speaks = self.accelerator.is_main_process
        self.stopping = False  # whether it has asked any of several processes
        self.unchecked = []  # losses since the last check
        # Sums of the terms, tokens and stories since the last line of the log; in a checkpoint
        # those of all processes.
        self.window = torch.zeros(len(TERMS) + 2, device=self.accelerator.device)
        window = self.progress.get("window", [])
        if self.accelerator.is_main_process and len(window) == len(self.window):
            self.window += torch.tensor(window, device=self.accelerator.device)

    def groups(self):
        """The batches of each optimizer step, from where the training stands; it never ends."""
        options = self.options
        while True:
            epoch, done = divmod(self.progress["step"], self.steps_per_epoch)
            self.batches.set_epoch(epoch, start=done * options.gradient_accumulation_steps)
            data = iter(
                get_loader(self.train_set, self.batches, self.accelerator, options.num_workers)
            )
            while group := list(islice(data, options.gradient_accumulation_steps)):
                yield group

    def take_step(self, group):
        """One optimizer step over the batches of `group`. Returns this process's sums of the terms,
        and rates."""
        options, step, accelerator = self.options, self.progress["step"], self.accelerator
        set_seed((options.seed * 1_000_003 + step) % 2**32, device_specific=True)  # of the dropout
        lr, beta = (
            get_lr(step, self.total_steps, options),
            get_beta(step, self.total_steps, options),
        )
        for entry in self.optimizer.param_groups:
            entry["lr"] = lr
        # The whole step's tokens divide the loss: a mean of means over unequal parts would weigh
        # them wrongly.
        tokens = sum(len(batch["words"]) * Shard.counts(batch) for batch in group)
        told = accelerator.reduce(
            torch.tensor([tokens, bool(self.stop)], device=accelerator.device)
        )
        tokens, sums = told[0], 0
        objective, bags = dict(self.objective), get_bow_scale(step, self.total_steps, options)
        for name in ("bow_weight", "future_bow_weight"):
            objective[name] *= bags
        self.stopping = bool(told[1]) if accelerator.num_processes > 1 else False
        for place, batch in enumerate(group):
            stories, counts, Z = batch["index"], Shard.counts(batch), self.model.config.plan_size
            batch["noise"] = Noise.sample(stories, batch["beat_mask"], Z, [options.seed, step])
            batch = send_to_device(batch, accelerator.device, non_blocking=True)
            sync = nullcontext() if place == len(group) - 1 else accelerator.no_sync(self.ddp)
            with sync:
                with accelerator.autocast():
                    out = self.ddp(**batch, beta=beta, num_tokens=tokens, **objective)
                # Processes average their gradients, which are to be added.
                accelerator.backward(out.loss * (counts * accelerator.num_processes))
            terms = [out[name].detach() for name in TERMS]
            terms += [out.tokens.float(), out.tokens.new_tensor(len(stories)).float()]
            sums = sums + counts * torch.stack(terms)
            self.unchecked.append((step, stories, out.loss.detach(), sums))
        norm = accelerator.clip_grad_norm_(self.ddp.parameters(), options.max_grad_norm or math.inf)
        if accelerator.scaler is None:  # which leaves out steps whose gradients have overflown
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
            alone = accelerator.num_processes == 1  # else it is of all processes' stories
            stories = (
                torch.cat([batch["index"] for batch in group])
                if alone
                else torch.empty(0, dtype=torch.long)
            )
            self.unchecked.append((step, stories, norm, None))
        # a GPU would have to be waited for: run() does so now and then
        if accelerator.device.type == "cpu":
            self.check()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.progress["step"] += 1
        return sums, {"lr": lr, "beta": beta, "bags": bags}

    def check(self, together=False):
        """Stop at a loss or gradient that was not finite since the last check, saying which term;
        together: of any process."""
        found = first_not_finite(self.unchecked, self.options.train_data_path)
        self.unchecked = []
        bad = torch.tensor(found is not None).double()
        elsewhere = together and over_processes(self.accelerator, bad)
        if found:
            self.give_up(found)
        elif elsewhere:
            self.give_up("a loss is not finite in another process")

    def give_up(self, found):
        latest = self.directory / LATEST
        there = (
            f"{latest} holds the last good checkpoint"
            if latest.is_dir()
            else "there is no checkpoint yet"
        )
        raise UserError(
            f"{found}; {there}; a smaller --learning_rate or --max_grad_norm often helps"
        )

    def validate(self, log):
        """Figures over the validation split; the latest and the best model are saved. Returns a
        line to print."""
        self.check(together=True)
        figures = evaluate(self.model, self.val_set, self.accelerator, self.options)
        progress, patience = self.progress, self.options.patience
        if not math.isfinite(figures["elbo_loss"]):  # of the same weights in all processes
            names = [name for name in TERMS if not math.isfinite(figures[name])]
            self.give_up(f"validation at step {progress['step']}: {' and '.join(names)} not finite")
        better = figures["elbo_loss"] < progress["best"]
        if better:
            progress |= {"best": figures["elbo_loss"], "best_step": progress["step"]}
        progress["worse"] = 0 if better else progress["worse"] + 1
        progress["stopped_early"] = 0 < patience <= progress["worse"]
        progress["validation"] = {"step": progress["step"], **figures}
        if log:
            log.write(step=progress["step"], split="val", **figures)
            log.draw(anew=False)
        self.save()
        return (
            f"step {progress['step']}: validation −ELBO {figures['elbo_loss']:.2f} nats per story, "
            "perplexity "
            f"{figures['perplexity']:.3f}, KL {figures['kl']:.2f}, active units "
            f"{figures['active_units_per_beat']}"
            f"{', the best so far' if better else ''}"
        )

    def save(self):
        """Write the latest checkpoint, from which any number of processes can go on; all else is
        derived from it."""
        self.check(together=True)
        main = self.accelerator.is_main_process
        # Tied weights are there once: under FSDP they would be written twice.
        own = {name for name, _ in (*self.model.named_parameters(), *self.model.named_buffers())}
        state = {key: value for key, value in self.model.state_dict().items() if key in own}
        moments = optimizer_tensors(self.model, self.optimizer)
        weights, optimizer = gathered(state, main), gathered(moments, main)
        window = over_processes(self.accelerator, self.window.cpu().double()).tolist()
        progress = self.progress | {"options": dataclasses.asdict(self.options), "window": window}
        if self.accelerator.scaler is not None:
            progress["scaler"] = self.accelerator.scaler.state_dict()
        if main:
            save_checkpoint(
                self.directory / LATEST, self.model, self.tokenizer, weights, optimizer, progress
            )
            self.derive()
        self.accelerator.wait_for_everyone()

    def derive(self):
        derive(self.directory, self.progress, self.options.save_total_limit)

    def say(self, text):
        if self.accelerator.is_main_process:
            cli.say(text)

    def run(self):
        """Train to the end, or to where a signal or --patience stops it. Returns the exit
        status."""
        options, accelerator, progress = self.options, self.accelerator, self.progress
        main = accelerator.is_main_process
        if main and self.resumed:
            self.derive()
        elif options.overwrite:  # from here on it is this training that --resume takes up
            self.save()
        log = Log(self.directory, options, progress["versions"], progress["step"]) if main else None
        bar = tqdm(
            total=self.total_steps,
            initial=progress["step"],
            desc="training",
            unit="step",
            disable=not main,
        )
        names = (*TERMS, "tokens", "stories")
        since = time.perf_counter()
        self.ddp.train()
        for group in self.groups():
            sums, rates = self.take_step(group)
            self.window += sums
            bar.update()
            step = progress["step"]
            last = step >= self.total_steps
            if step % options.logging_steps == 0 or last:
                self.check()
                totals = over_processes(accelerator, self.window.cpu().double())
                totals = dict(zip(names, totals.tolist(), strict=True))
                speed = totals["stories"] / (time.perf_counter() - since)
                terms = {name: totals[name] / totals["stories"] for name in TERMS}
                nll = totals["nll"] / totals["tokens"]
                bar.set_postfix_str(
                    f"NLL {nll:.3f} a token, KL {terms['kl']:.2f} a story, {speed:.0f} stories/s"
                )
                if log:
                    log.write(step=step, split="train", **terms, **rates, stories_per_second=speed)
                since = time.perf_counter()
                self.window.zero_()
            validated = step % self.eval_steps == 0 or last
            if validated:
                figures = self.validate(log)
                if main:
                    with tqdm.external_write_mode():
                        cli.say(figures)
                since = time.perf_counter()
            if last or progress["stopped_early"]:
                break
            # A signal may reach one of several processes: they have told each other when the step
            # began.
            if self.stopping if accelerator.num_processes > 1 else self.stop:
                if not validated:
                    self.save()
                bar.close()
                if log:
                    log.draw()
                self.say(
                    f"stopped at step {step} and saved; the same command with --resume goes on"
                )
                accelerator.end_training()
                return 128 + (self.stop or signal.SIGTERM)
        bar.close()
        if log:
            log.draw()
        if progress["stopped_early"]:
            self.say(
                f"stopped early: {progress['worse']} validations without a better −ELBO "
                "(--patience)"
            )
        self.say(f"best model: {self.directory / BEST}; log.jsonl and training.png stand beside it")
        accelerator.end_training()


def evaluate_only(options):
    """Figures of the best model over a split, on the screen and in output_dir/evaluation.json.

    The weights of the bags are those that it was trained with, where output_dir tells.
    """
    progress = Path(options.output_dir) / LATEST / PROGRESS
    if progress.is_file():
        trained = read_progress(progress)["options"]
        weights = {
            f"{name}_weight": trained[f"{name}_weight"]
            for name in BAGS
            if f"{name}_weight" in trained
        }
        options = dataclasses.replace(options, **weights)
    accelerator = get_accelerator(options)
    with cli.flag("--output_dir"):
        model, tokenizer = load_checkpoint(options.output_dir)
    K, most = model.config.image_positions, model.max_length
    dataset = StoryDataset.load(options.evaluate, tokenizer, K, most, model.image_encoder)
    figures = evaluate(model.to(accelerator.device), dataset, accelerator, options)
    if accelerator.is_main_process:
        for name, value in figures.items():
            print(
                f"{name:24}"
                f"{[round(x, 3) for x in value] if isinstance(value, list) else round(value, 4)}"
            )
        target = Path(options.output_dir) / "evaluation.json"
        write_json(
            target,
            {"split": options.evaluate, "iwae_samples": options.iwae_samples, "figures": figures},
        )
        print(f"-> {target}")
    accelerator.end_training()


def main():
    options = parse()
    if options.evaluate is not None:
        return evaluate_only(options)
    if options.tensorboard:
        summary_writer()  # before anything is loaded
    with (
        directory_lock(options.output_dir, "--output_dir") if cli.first_process() else nullcontext()
    ):
        return train(options)


def train(options):
    """Start or take up the training that the options describe. Returns the exit status."""
    train_path, val_path = resolve(options)
    options.train_data_path, options.val_data_path = str(train_path), str(val_path)
    progress = restore(options)
    training = Training(options, train_path, val_path, progress)
    say = training.say
    for name, data in (("training", training.train_set), ("validation", training.val_set)):
        shortened = (
            f", {data.shortened} of them shortened to {training.model.max_length} positions"
            if data.shortened
            else ""
        )
        say(f"{name}: {len(data)} stories{shortened}, photos as {data.photos.kind}")
    done = training.progress
    if progress and (done["step"] >= training.total_steps or done["stopped_early"]):
        if cli.first_process():
            training.derive()
        say(
            f"{options.output_dir}: this training is complete ({done['step']} steps, −ELBO "
            f"{done['best']:.2f})"
        )
        return 0
    trained = sum(p.numel() for p in training.model.parameters() if p.requires_grad)
    say(
        f"{trained / 1e6:.1f} M trained parameters, {training.total_steps} steps on "
        f"{training.accelerator.device}"
    )
    with training.stoppable():
        return training.run()


if __name__ == "__main__":
    cli.run(main)
