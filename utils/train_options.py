"""Every option of a training."""

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from utils import cli
from utils.cli import OUTPUT_DIR, PLANS, UserError, option

# A resumed training may change the options that are `free`; those `of_model` are in the model that
# a checkpoint holds; any other makes another training unless --allow_changed names it.
free_option = partial(option, changes="free")
model_option = partial(option, changes="of_model")


# What suits a decoder from scratch, and a pretrained one.
DECODER_DEFAULTS = {
    "learning_rate": (2e-3, 5e-5),
    "new_lr_multiplier": (1.0, 10.0),
    "warmup_steps": (0.05, 0.1),
    "dropout": (0.0, 0.1),
    "bow_weight": (1.0, 0.2),
    "future_bow_weight": (1.0, 0.2),
    "photo_bow_weight": (0.5, 0.1),
    "state_bow_weight": (1.0, 0.2),
}


def by_decoder(name: str, help: str) -> str:
    """The help of an option whose default depends on the decoder."""
    scratch, pretrained = DECODER_DEFAULTS[name]
    return f"{help} (default: {scratch:g} from scratch, {pretrained:g} for a pretrained decoder)"


@dataclass
class TrainOptions:
    """Every option of a training."""

    # data and output
    train_data_path: list[str] | None = free_option(
        None,
        "training split, or several for a mixture (.json; default: the newest)",
        metavar="SPLIT",
    )
    train_data_weights: list[float] | None = option(
        None,
        "shares of a mixture's stories, a number per split (default: each story once an epoch; an "
        "epoch is as many stories as all splits hold)",
        metavar="N",
    )
    val_data_path: list[str] | None = free_option(
        None,
        "validation splits; the first selects the best model (default: val.json beside the first "
        "training split)",
        metavar="SPLIT",
    )
    output_dir: str = free_option(OUTPUT_DIR, "for checkpoints, log and figure")
    resume: bool = free_option(False, "resume the latest checkpoint in output_dir, if any")
    allow_changed: str = free_option("", "options that --resume may change", metavar="NAMES")
    overwrite: bool = free_option(False, "replace the training in output_dir")
    evaluate: str | None = free_option(
        None, "train nothing: figures of the best model on this split", metavar="SPLIT"
    )

    # model
    decoder: str = model_option(
        "scratch", "GPT-2 by name (gpt2, distilgpt2 …) or local path; or scratch"
    )
    n_layer: int = model_option(3, "decoder from scratch: blocks", low=1)
    n_head: int = model_option(4, "decoder from scratch: attention heads", low=1)
    n_embd: int = model_option(256, "decoder from scratch: width", low=1)
    n_positions: int = model_option(512, "decoder from scratch: longest story", low=8)
    dropout: float | None = model_option(
        None, by_decoder("dropout", "in decoder and latent dynamic module"), low=0, high=1
    )
    image_positions: int = model_option(4, "sequence positions per photo", low=1)
    photo_projection: str = model_option(
        "all", "all features to image_positions, or each cell to one", choices=("all", "cell")
    )
    train_encoder: bool = model_option(True, "train the image encoder, where data are pixels")
    plan: str = model_option("cvae", "the plan, or an ablation of it", choices=PLANS)
    plan_size: int = model_option(32, "width of the plan", low=1)

    # objective
    beta: float = option(1.0, "weight of the KL", low=0)
    beta_schedule: str = option("linear", "KL annealing schedule", choices=("constant", "linear"))
    beta_warmup_steps: float = option(
        0.3, "steps in which β rises linearly; below 1 a share of all", low=0
    )
    free_bits: float = option(0.3, "minimum KL (free bits), nats per dimension and beat", low=0)
    bow_weight: float | None = option(
        None, by_decoder("bow_weight", "bag of words from the plan, until half of the steps"), low=0
    )
    future_bow_weight: float | None = option(
        None,
        by_decoder("future_bow_weight", "bag of words of the later sentences from the plan"),
        low=0,
    )
    bow_final_scale: float = option(
        0.2, "scale of these two weights after four fifths of the steps", low=0, high=1
    )
    photo_bow_weight: float | None = option(
        None,
        by_decoder("photo_bow_weight", "bag of words from the photo, for the image encoder"),
        low=0,
    )
    state_bow_weight: float | None = model_option(
        None, by_decoder("state_bow_weight", "bag of words from the predicted state"), low=0
    )
    dynamics_weight: float = option(3.0, "error of the predicted state", low=0)
    posterior_dropout: float = option(
        0.7, "share of beats whose posterior sees the observed change alone", low=0, high=1
    )
    photo_dropout: float = option(0.1, "share of stories without their photos", low=0, high=1)

    # optimisation
    num_train_epochs: float = option(4.0, "passes over the training stories", low=0)
    max_steps: int = option(0, "optimizer steps, in place of epochs; 0: by epochs", low=0)
    batch_size: int = option(16, "stories per batch, over all processes", low=1)
    gradient_accumulation_steps: int = option(1, "batches per optimizer step", low=1)
    learning_rate: float | None = option(None, by_decoder("learning_rate", "peak"), low=0)
    new_lr_multiplier: float | None = option(
        None,
        by_decoder("new_lr_multiplier", "learning rate of new parts, in units of the decoder's"),
        low=0,
    )
    warmup_steps: float | None = option(
        None,
        by_decoder("warmup_steps", "of the learning rate; below 1 a share of all steps"),
        low=0,
    )
    weight_decay: float = option(0.01, "AdamW weight decay, on matrices alone", low=0)
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm; 0: not", low=0)
    mixed_precision: str = option(
        "auto", "auto: bf16 where the GPU can, else no", choices=("auto", "no", "bf16", "fp16")
    )
    seed: int = option(0, "random seed", low=0)
    num_workers: int = free_option(0, "processes that read photos; 0: none", low=0)
    fsdp: bool = free_option(False, "shard model, gradients and moments over the processes")

    # logging
    logging_steps: int = free_option(10, "steps between lines of the log", low=1)
    eval_steps: int = option(0, "steps between validations; 0: once an epoch", low=0)
    patience: int = free_option(
        0, "validations without a better −ELBO before stopping; 0: never", low=0
    )
    iwae_samples: int = free_option(
        0, "samples of the importance-weighted bound at validation; 0: none", low=0
    )
    save_total_limit: int = free_option(
        0, "newest validated checkpoints to keep beside best and latest", low=0
    )
    tensorboard: bool = free_option(False, "log to output_dir/tensorboard too")

    def __post_init__(self):
        """Fill in the options whose default depends on the decoder; one split is a list of one."""
        for name in ("train_data_path", "val_data_path"):
            if isinstance(path := getattr(self, name), str):
                setattr(self, name, [path])
        is_pretrained = self.decoder != "scratch"
        for name, values in DECODER_DEFAULTS.items():
            if getattr(self, name) is None:
                setattr(self, name, values[is_pretrained])


# options that the model's forward takes by name
OBJECTIVE = (
    "free_bits", "bow_weight", "future_bow_weight", "photo_bow_weight", "state_bow_weight",
    "dynamics_weight", "posterior_dropout", "photo_dropout",
)  # fmt: skip


OF_EVALUATION = {
    "evaluate", "output_dir", "batch_size", "num_workers", "iwae_samples", "mixed_precision",
    "free_bits", "seed",
}  # fmt: skip
# options, when they have an effect, and what is expected then
EFFECTS = (
    (
        {"n_layer", "n_head", "n_embd", "n_positions"},
        lambda options: options.decoder == "scratch",
        "--decoder scratch; a pretrained one has its own",
    ),
    (
        {"beta_warmup_steps"},
        lambda options: options.beta_schedule == "linear",
        "--beta_schedule linear",
    ),
    (
        {"beta", "beta_schedule", "beta_warmup_steps", "free_bits", "posterior_dropout"},
        lambda options: options.plan == "cvae",
        "--plan cvae",
    ),
    (
        {"bow_weight", "future_bow_weight", "bow_final_scale"},
        lambda options: options.plan != "none",
        "--plan cvae or deterministic",
    ),
    (
        {"image_positions"},
        lambda options: options.photo_projection == "all",
        "--photo_projection all; a cell has one position",
    ),
    ({"num_train_epochs"}, lambda options: options.max_steps == 0, "no --max_steps"),
    ({"allow_changed"}, lambda options: options.resume, "--resume too"),
)


def option_names(*changes: str | None) -> set[str]:
    """The options that are "free", "of_model", or None of these."""
    fields = dataclasses.fields(TrainOptions)
    return {field.name for field in fields if field.metadata.get("changes") in changes}


def parser() -> cli.Parser:
    return cli.Parser(
        prog="train.py", description="Train a plan-CVAE by the ELBO; `bash train.sh` does it all."
    ).add_dataclass(TrainOptions)


def parse(arguments: list[str] | None = None) -> TrainOptions:
    """The options. Raises UserError for values that cannot work."""
    options = TrainOptions(**vars(parser().parse_args(arguments)))
    cli.check_bounds(options)
    check_effects(options)
    if options.num_train_epochs == 0:
        raise UserError("--num_train_epochs 0.0: expected more than 0")
    if options.tensorboard and find_spec("tensorboard") is None:
        raise UserError(
            "--tensorboard: the package is not installed; pip install tensorboard, or do without"
        )
    for name in allowed_changes(options) - option_names("free", None):
        raise UserError(
            f"--allow_changed {name}: no option, or one of the model, which exists; expected "
            "options' names, as in learning_rate,num_train_epochs"
        )
    return options


def check_effects(options: TrainOptions) -> None:
    """Raise UserError for an option that has no effect beside the others."""
    defaults = TrainOptions(decoder=options.decoder)
    changed = {
        field.name: value
        for field in dataclasses.fields(options)
        if (value := getattr(options, field.name)) != getattr(defaults, field.name)
    }
    if options.evaluate is not None:
        for name in changed.keys() - OF_EVALUATION:
            raise UserError(f"--{name} {changed[name]}: has no effect on --evaluate")
    for names, has_effect, expected in EFFECTS:
        if not has_effect(options) and (unused := changed.keys() & names):
            name = min(unused)
            raise UserError(f"--{name} {changed[name]}: has no effect; expected {expected}")


def allowed_changes(options: TrainOptions) -> set[str]:
    """The names in --allow_changed."""
    names = (name.strip().removeprefix("--") for name in options.allow_changed.split(","))
    return set(filter(None, names))


# --------------------------------------------------------------------------------------- schedules


def warmup(steps: float, total_steps: int) -> float:
    """A number of steps; below 1 it is a share of them."""
    return steps * total_steps if steps < 1 else steps


def get_lr(step: int, total_steps: int, options: TrainOptions) -> float:
    """Learning rate at `step`: a linear rise, then a cosine down to a hundredth of the peak."""
    warmup_steps = max(1, round(warmup(options.warmup_steps, total_steps)))
    if step < warmup_steps:
        return options.learning_rate * (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return options.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def get_beta(step: int, total_steps: int, options: TrainOptions) -> float:
    """Weight of the KL at `step`: constant, or a linear rise from 0 (Bowman et al. 2016)."""
    warmup_steps = warmup(options.beta_warmup_steps, total_steps)
    if options.beta_schedule == "constant" or step >= warmup_steps:
        return options.beta
    return options.beta * step / warmup_steps


def get_bow_scale(step: int, total_steps: int, options: TrainOptions) -> float:
    """Scale of the plan's bag-of-words weights at `step`: 1 for half of the steps, then a fall to
    bow_final_scale.

    The terms make the plan informative; once the words listen to it, they cost likelihood.
    """
    progress = min(1.0, max(0.0, (step / total_steps - 0.5) / 0.3))
    # not 0, which would drop the terms: DDP waits for their gradients
    return max(1e-6, 1 - progress * (1 - options.bow_final_scale))
