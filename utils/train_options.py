"""Every option of a training."""

import dataclasses
import math
from dataclasses import dataclass

from utils import cli
from utils.cli import OUTPUT_DIR, PLANS, UserError, option


@dataclass
class TrainOptions:
    """Every option of a training."""

    # data and output
    train_data_path: str | None = option(
        None, "preprocessed training split (.json); the newest one if not named"
    )
    val_data_path: str | None = option(
        None, "preprocessed validation split; val.json beside the training split if not named"
    )
    output_dir: str = option(OUTPUT_DIR, "where checkpoints, log and picture go")
    resume: bool = option(
        False, "take up the latest checkpoint in output_dir (or start, if there is none)"
    )
    allow_changed: str = option(
        "", "options that may differ from the training that --resume takes up", metavar="NAMES"
    )
    overwrite: bool = option(False, "start again in an output_dir that already holds a training")
    evaluate: str | None = option(
        None,
        "train nothing: figures of output_dir's best model over this preprocessed split",
        metavar="SPLIT",
    )

    # model
    decoder: str = option(
        "scratch", "GPT-2 by name (gpt2, distilgpt2, gpt2-medium …) or local path; or scratch"
    )
    n_layer: int = option(3, "decoder from scratch: blocks")
    n_head: int = option(4, "decoder from scratch: attention heads")
    n_embd: int = option(256, "decoder from scratch: width")
    n_positions: int = option(512, "decoder from scratch: longest story, in positions")
    dropout: float = option(0.0, "dropout in decoder and dynamics")
    image_positions: int = option(4, "sequence positions that a photo fills")
    train_encoder: bool = option(
        True, "where the data holds pixels: train the photo encoder with the rest"
    )
    plan: str = option("cvae", "the plan, or an ablation of it", choices=PLANS)
    plan_size: int = option(32, "width of the plan")
    detach_dynamics_target: bool = option(
        False, "keep the dynamics loss from moving the states that it predicts"
    )

    # objective
    beta: float = option(1.0, "weight of the KL")
    beta_schedule: str = option(
        "linear", "how β gets there", choices=("constant", "linear", "cyclical")
    )
    beta_warmup_steps: float = option(
        0.3, "share of the steps (linear) or of each cycle (cyclical) in which β rises"
    )
    beta_cycles: int = option(4, "cycles of the cyclical schedule")
    free_bits: float = option(0.3, "KL in nats per dimension and beat that is not charged")
    bow_weight: float = option(
        1.0, "weight of the plan's bag-of-words term, until half of the steps"
    )
    future_bow_weight: float = option(
        1.0, "weight of the bag-of-words term of the sentences to come, likewise"
    )
    bow_final_scale: float = option(
        0.2, "what is left of these two weights after four fifths of the steps"
    )
    photo_bow_weight: float = option(
        0.5, "weight of the bag-of-words term of the photo, which teaches the eye"
    )
    state_bow_weight: float = option(1.0, "weight of the bag-of-words term of the foreseen state")
    dynamics_weight: float = option(3.0, "weight of the latent dynamics term")
    posterior_dropout: float = option(
        0.7, "share of beats whose posterior sees the observed change alone"
    )
    photo_dropout: float = option(
        0.1, "share of stories told without their photos, so that text alone can be scored"
    )

    # optimisation
    num_train_epochs: float = option(4.0, "passes over the training stories")
    max_steps: int = option(0, "optimizer steps, in place of epochs; 0 means by epochs")
    batch_size: int = option(16, "stories per step and accumulation, over all processes")
    gradient_accumulation_steps: int = option(1, "batches per optimizer step")
    learning_rate: float = option(2e-3, "peak learning rate (5e-5 suits a pretrained GPT-2)")
    warmup_steps: float = option(0.05, "share of the steps in which the learning rate rises")
    weight_decay: float = option(0.01, "AdamW weight decay, on matrices alone")
    max_grad_norm: float = option(1.0, "largest gradient norm; 0 leaves gradients alone")
    mixed_precision: str = option(
        "auto", "auto is bf16 where the GPU can, else no", choices=("auto", "no", "bf16", "fp16")
    )
    seed: int = option(0, "of everything random")
    num_workers: int = option(0, "processes that read photos; 0 reads them in the training process")
    fsdp: bool = option(
        False, "cut gradients, moments and model over the processes, for what one GPU cannot hold"
    )

    # watching
    logging_steps: int = option(10, "steps between lines in the log")
    eval_steps: int = option(0, "steps between validations and checkpoints; 0 means once an epoch")
    patience: int = option(
        0, "validations without a better −ELBO before stopping; 0 never stops early"
    )
    iwae_samples: int = option(
        0, "samples of the importance-weighted bound at validation; 0 leaves it out"
    )
    save_total_limit: int = option(
        0, "newest validated checkpoints to keep as step-<number> beside best and latest"
    )
    tensorboard: bool = option(
        False, "log to output_dir/tensorboard as well (pip install tensorboard)"
    )


# A resumed training may change these; anything else would make it another training.
FREE_TO_CHANGE = {
    "output_dir", "resume", "allow_changed", "overwrite", "evaluate", "num_workers", "fsdp",
    "logging_steps", "patience", "iwae_samples", "save_total_limit", "tensorboard",
    "train_data_path", "val_data_path",  # by name: what they hold is compared
}  # fmt: skip


# These are in the model that a checkpoint holds, so that no resumed training can change them.
OF_THE_MODEL = {
    "decoder", "n_layer", "n_head", "n_embd", "n_positions", "dropout", "image_positions",
    "train_encoder", "plan", "plan_size", "detach_dynamics_target", "state_bow_weight",
}  # fmt: skip


def parser():
    return cli.Parser(
        prog="train.py", description="Train a plan-CVAE by the ELBO; `bash train.sh` does it all."
    ).add_dataclass(TrainOptions)


def parse(arguments=None):
    """The options; values that cannot work are refused by the option's name."""
    options = TrainOptions(**vars(parser().parse_args(arguments)))
    at_least = {
        "n_layer": 1,
        "n_head": 1,
        "n_embd": 1,
        "n_positions": 8,
        "image_positions": 1,
        "plan_size": 1,
        "batch_size": 1,
        "gradient_accumulation_steps": 1,
        "logging_steps": 1,
        "beta_cycles": 1,
        "max_steps": 0,
        "eval_steps": 0,
        "patience": 0,
        "iwae_samples": 0,
        "save_total_limit": 0,
        "num_workers": 0,
        "beta": 0,
        "free_bits": 0,
        "bow_weight": 0,
        "future_bow_weight": 0,
        "bow_final_scale": 0,
        "photo_bow_weight": 0,
        "state_bow_weight": 0,
        "dynamics_weight": 0,
        "learning_rate": 0,
        "weight_decay": 0,
        "max_grad_norm": 0,
        "warmup_steps": 0,
        "beta_warmup_steps": 0,
        "dropout": 0,
        "posterior_dropout": 0,
        "photo_dropout": 0,
        "seed": 0,
    }
    for name, least in at_least.items():
        if not getattr(options, name) >= least or not math.isfinite(getattr(options, name)):
            raise UserError(f"--{name} {getattr(options, name)}: expected at least {least}")
    for name in (
        "warmup_steps",
        "beta_warmup_steps",
        "bow_final_scale",
        "dropout",
        "posterior_dropout",
        "photo_dropout",
    ):
        if getattr(options, name) > 1:
            raise UserError(f"--{name} {getattr(options, name)}: a share, expected 0 to 1")
    if not 0 < options.num_train_epochs < math.inf:
        raise UserError(f"--num_train_epochs {options.num_train_epochs}: expected more than 0")
    for name in changeable(options):
        if name not in {field.name for field in dataclasses.fields(TrainOptions)} - OF_THE_MODEL:
            found = "of the model, which is made" if name in OF_THE_MODEL else "no option"
            raise UserError(
                f"--allow_changed {name}: {found}; expected options' names, as in "
                "learning_rate,num_train_epochs"
            )
    return options


def changeable(options):
    return [
        name.strip().removeprefix("--") for name in options.allow_changed.split(",") if name.strip()
    ]


# Options that the model's forward takes by name.
OBJECTIVE = ("free_bits", "bow_weight", "future_bow_weight", "photo_bow_weight", "state_bow_weight")
OBJECTIVE = (*OBJECTIVE, "dynamics_weight", "posterior_dropout", "photo_dropout")
