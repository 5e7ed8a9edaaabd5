"""The training loop: schedules, groups, checkpoints, resuming, and the mistakes that it catches."""

import dataclasses
import json
import math
import random
import shutil
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from conftest import random_sentences, ranks
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

import train
from utils.batches import BucketBatches
from utils.image_encoder import ImageEncoder
from utils.train_options import TrainOptions, get_beta, get_lr


@pytest.fixture(scope="module")
def data(tokenizer, tmp_path_factory):
    """A preprocessed data set of random stories as features: train (22 stories) and val (7)."""
    folder = tmp_path_factory.mktemp("data")
    torch.manual_seed(0)
    encoder = ImageEncoder.build("resnet18", "none", image_size=32, stages=1)
    encoder.save_pretrained(folder / "image_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    rng = random.Random(1)
    for split, count in (("train", 22), ("val", 7)):
        stories = []
        for i in range(count):
            sentences = random_sentences(rng, rng.randint(1, 4))
            beats = [
                {"photo_id": str(t), "photo": rng.choice([None, t]), "sentence": s}
                for t, s in enumerate(sentences)
            ]
            stories.append({"story_id": f"{split}{i}", "album_id": str(i), "beats": beats})
        photos = {"file": f"{split}.safetensors", "kind": "features"}
        (folder / f"{split}.json").write_text(
            json.dumps(
                {
                    "format": 1,
                    "source": "test",
                    "split": split,
                    "photos": photos,
                    "stories": stories,
                }
            )
        )
        save_file(
            {"photos": torch.randn(4, encoder.config.feature_size).half()},
            folder / f"{split}.safetensors",
        )
    return folder


SMALL = "--n_layer 1 --n_head 2 --n_embd 16 --n_positions 96 --image_positions 2".split()
SMALL += "--plan_size 4 --batch_size 4".split()


@pytest.fixture
def run_train(data, script):
    """run_train(output_dir, *arguments): returns (exit status, stderr)."""

    def run(output_dir, *arguments):
        paths = ["--train_data_path", data / "train.json", "--output_dir", output_dir]
        done = script("train.py", *paths, *SMALL, *arguments)
        return done.returncode, done.stderr

    return run


def log_of(directory, split):
    lines = map(json.loads, (directory / "log.jsonl").read_text().splitlines())
    return [
        {k: v for k, v in line.items() if k != "stories_per_second"}
        for line in lines
        if line.get("split") == split
    ]


def test_schedules():
    options = TrainOptions(learning_rate=2.0, warmup_steps=0.1, beta=0.5, beta_warmup_steps=0.25)
    rates = [get_lr(step, 100, options) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert all(a > b for a, b in zip(rates[10:], rates[11:])) and rates[55] == pytest.approx(
        2 * (0.01 + 0.99 * 0.5)
    )
    assert get_lr(100, 100, options) == pytest.approx(0.02)

    def betas(schedule, **kwargs):
        options = TrainOptions(beta=0.5, beta_schedule=schedule, beta_warmup_steps=0.25, **kwargs)
        return [get_beta(step, 100, options) for step in range(100)]

    assert betas("constant") == [0.5] * 100
    assert betas("linear") == pytest.approx([0.5 * min(1, step / 25) for step in range(100)])
    # from 1 on they are steps
    options = TrainOptions(learning_rate=2.0, warmup_steps=20, beta_warmup_steps=50)
    assert get_lr(9, 100, options) == 1 and get_beta(25, 100, options) == 0.5


def test_the_bags_fade(make_model):
    options = TrainOptions(bow_final_scale=0.2)
    shares = [train.get_bow_scale(step, 100, options) for step in (0, 50, 65, 80, 99)]
    assert shares == pytest.approx([1, 1, 0.6, 0.2, 0.2])


def test_each_trained_parameter_is_in_one_group(make_model):
    model = make_model(train_encoder=True)
    groups = train.parameter_groups(model, 0.1, 10.0)
    of_encoder = [p for p in model.image_encoder.parameters() if p.requires_grad]
    new = {id(p) for group in groups if group["lr_multiplier"] > 1 for p in group["params"]}
    assert of_encoder and all(id(p) in new for p in of_encoder)  # it began with random weights
    model.image_encoder.config.pretrained = True
    groups = train.parameter_groups(model, 0.1, 10.0)
    grouped = [p for group in groups for p in group["params"]]
    assert len({id(p) for p in grouped}) == len(grouped)
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters() if p.requires_grad}
    names = {id(p): name for name, p in model.named_parameters()}
    decayed = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
    new = {names[id(p)] for group in groups if group["lr_multiplier"] > 1 for p in group["params"]}
    assert "plan_head.weight" in new and "photo_projection.bias" in new
    assert not any(name.startswith(("decoder.", "image_encoder.")) for name in new)
    assert "decoder.transformer.h.0.attn.c_attn.weight" in decayed and "plan_head.weight" in decayed
    assert not any(
        name.endswith("bias") or "wte" in name or "ln_" in name or name == "no_photo"
        for name in decayed
    )


@pytest.mark.pictures("training.png")
def test_a_training_learns_logs_and_leaves_a_complete_checkpoint(run_train, tmp_path):
    code, err = run_train(
        tmp_path,
        "--num_train_epochs",
        8,
        "--learning_rate",
        0.01,
        "--logging_steps",
        1,
        "--iwae_samples",
        4,
    )
    assert code == 0, err
    lines = log_of(tmp_path, "train")
    first, last = (sum(line["nll"] for line in epoch) for epoch in (lines[:6], lines[-6:]))
    assert lines[-1]["step"] == 48 and last < 0.8 * first
    assert {"nll", "kl", "bow", "dynamics", "lr", "beta"} <= lines[0].keys()
    figures = log_of(tmp_path, "val")[-1]
    assert figures["stories"] == 7 and len(figures["kl_per_beat"]) == len(
        figures["active_units_per_beat"]
    )
    assert figures["perplexity"] == pytest.approx(
        math.exp(figures["elbo_loss"] * 7 / figures["tokens"])
    )
    assert (
        sum(figures["kl_per_beat"]) > 0
        and 1 < figures["iwae_perplexity"] < figures["perplexity"] * 1.01
    )
    assert len(figures["information_per_beat"]) == 4 and max(
        figures["information_per_beat"]
    ) <= math.log(7)
    shares = [figures[f"{of}_within_{share}"] for of in ("means", "samples") for share in (50, 90)]
    assert (
        all(0 <= share <= 1 for share in shares)
        and shares[0] <= shares[1]
        and shares[2] <= shares[3]
    )
    assert figures["bow_perplexity"] > 1
    for name in ("best", "latest"):
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
            p.name for p in (tmp_path / name).iterdir()
        }
        settings = json.loads((tmp_path / name / "generation_config.json").read_text())
        assert (settings["num_beams"], settings["no_repeat_ngram_size"]) == (3, 3)
    assert (tmp_path / "training.png").stat().st_size > 10_000
    first = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert first["options"]["learning_rate"] == 0.01 and "torch" in first["versions"]


@pytest.fixture
def training(data):
    options = TrainOptions(
        train_data_path=str(data / "train.json"),
        val_data_path=str(data / "val.json"),
        n_layer=1,
        n_head=2,
        n_embd=16,
        n_positions=96,
        image_positions=2,
        plan="deterministic",
    )
    return train.Training(options, None)


def test_validation_does_not_depend_on_the_batch_size(training):
    figures = {}
    for size in (2, 7):
        options = dataclasses.replace(training.options, batch_size=size, iwae_samples=2)
        figures[size] = train.evaluate_split(
            training.model, next(iter(training.val_sets.values())), training.accelerator, options
        )
    for name in (
        "nll",
        "bow",
        "photo_bow",
        "perplexity",
        "dynamics",
        "cosine",
        "iwae_perplexity",
        "tokens",
    ):
        assert figures[2][name] == pytest.approx(figures[7][name], rel=1e-4), name


def test_evaluate_alone_gives_the_figures_of_the_training(run_train, script, data, tmp_path):
    assert run_train(tmp_path, "--max_steps", 6, "--eval_steps", 6, "--iwae_samples", 3)[0] == 0
    (trained,) = log_of(tmp_path, "val")
    code, err = run_train(tmp_path, "--evaluate", data / "val.json", "--iwae_samples", 3)
    assert code == 2 and "has no effect on --evaluate" in err
    alone = ["--evaluate", data / "val.json", "--iwae_samples", 3, "--batch_size", 4]
    done = script("train.py", *alone, "--output_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["split"] == str(data / "val.json") and found[
        "figures"
    ].keys() == trained.keys() - {"step", "split"}
    for name, value in found["figures"].items():
        assert value == pytest.approx(trained[name], rel=1e-5), name
    done = script("train.py", *alone, "--output_dir", tmp_path / "nothing")
    assert done.returncode == 2 and "--output_dir" in done.stderr
    assert "no checkpoint there" in done.stderr


def test_the_posterior_in_the_middle_of_its_prior(training, tmp_path):
    """A posterior that is the prior has its means in the middle and its samples where the prior's
    fall."""
    options = dataclasses.replace(training.options, plan="cvae", output_dir=str(tmp_path))
    fresh = train.Training(options, None)
    model = fresh.model
    with torch.no_grad():
        for mlp in (model.prior_mlp, model.posterior_mlp):
            mlp[-1].weight.zero_()
            mlp[-1].bias.zero_()
        figures = train.evaluate_split(
            model, fresh.train_set.datasets[0], fresh.accelerator, options
        )
        # all means beyond the middle half
        model.posterior_mlp[-1].bias[: model.config.plan_size] = 1.0
        moved = train.evaluate_split(model, fresh.train_set.datasets[0], fresh.accelerator, options)
    assert (
        figures["means_within_50"] == 1
        and figures["kl"] == 0
        and sum(figures["active_units_per_beat"]) == 0
    )
    assert (
        abs(figures["samples_within_50"] - 0.5) < 0.05
        and abs(figures["samples_within_90"] - 0.9) < 0.03
    )
    assert figures["information_per_beat"] == pytest.approx(
        [0] * len(figures["kl_per_beat"]), abs=1e-6
    )
    assert moved["means_within_50"] == 0 and moved["means_within_90"] == 1
    assert moved["kl_per_beat"] == pytest.approx(
        [0.5 * model.config.plan_size] * len(moved["kl_per_beat"]), rel=1e-4
    )


def test_features_are_standardised_by_the_training_split(training, data):
    features = load_file(data / "train.safetensors")["photos"].float()
    torch.testing.assert_close(training.model.feature_mean, features.mean(0))
    torch.testing.assert_close(
        training.model.feature_var, features.var(0, correction=0), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("where, plan", [(5, "none"), (8, "cvae")])
def test_resumed_equals_uninterrupted(where, plan, run_train, tmp_path, monkeypatch):
    """Stopped by SIGTERM inside an epoch (of six steps) and taken up again: the same, bit for
    bit."""
    same = [
        "--max_steps",
        14,
        "--logging_steps",
        1,
        "--eval_steps",
        4,
        "--dropout",
        0.2,
        "--plan",
        plan,
    ]
    assert run_train(tmp_path / "whole", *same)[0] == 0
    take_step = train.Training.take_step

    def stop_after(self, group):
        result = take_step(self, group)
        if self.progress["step"] == where:
            self.ask_to_stop(15, None)
        return result

    monkeypatch.setattr(train.Training, "take_step", stop_after)
    assert run_train(tmp_path / "parts", *same)[0] == 128 + 15
    monkeypatch.setattr(train.Training, "take_step", take_step)
    assert run_train(tmp_path / "parts", *same, "--resume")[0] == 0
    for split in ("train", "val"):
        assert log_of(tmp_path / "whole", split) == log_of(tmp_path / "parts", split)
    for name in ("best", "latest"):
        a, b = (
            load_file(tmp_path / run / name / "model.safetensors") for run in ("whole", "parts")
        )
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_training_gives_the_signals_back(training):
    own = lambda number, frame: None
    found = signal.signal(signal.SIGTERM, own)  # a job in the background ignores SIGINT
    try:
        with pytest.raises(KeyError), training.stoppable():
            assert signal.getsignal(signal.SIGTERM) == training.ask_to_stop
            raise KeyError
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, found)


def test_accumulated_batches_equal_one_large_batch(run_train, tmp_path, monkeypatch):
    """Two batches of unequal token counts accumulated are one step over both; plan none, so that
    nothing is drawn."""
    whole = list(range(22))
    parts = {"one": [whole], "two": [whole[:5], whole[5:]]}
    weights = {}
    for name, batches in parts.items():
        monkeypatch.setattr(BucketBatches, "__len__", lambda self, b=batches: len(b))
        monkeypatch.setattr(
            BucketBatches,
            "__iter__",
            lambda self, b=batches: iter(b if len(self.lengths) == 22 else [range(7)]),
        )
        extra = [
            "--max_steps",
            2,
            "--plan",
            "none",
            "--dropout",
            0,
            "--gradient_accumulation_steps",
            len(batches),
        ]
        assert run_train(tmp_path / name, *extra)[0] == 0
        weights[name] = load_file(tmp_path / name / "latest" / "model.safetensors")
    for key, value in weights["one"].items():
        torch.testing.assert_close(value, weights["two"][key], rtol=2e-3, atol=2e-5)


def test_patience_stops_early_and_stays_stopped(run_train, tmp_path):
    same = [
        "--max_steps",
        40,
        "--eval_steps",
        2,
        "--learning_rate",
        0.0,
        "--patience",
        3,
        "--plan",
        "none",
    ]
    assert run_train(tmp_path, *same)[0] == 0
    assert log_of(tmp_path, "val")[-1]["step"] == 8  # the first is the best, three are not better
    code, err = run_train(tmp_path, *same, "--resume")
    assert code == 0, err
    assert log_of(tmp_path, "val")[-1]["step"] == 8


def test_a_loss_that_is_not_finite_stops_and_names_the_term(run_train, tmp_path, monkeypatch):
    predict_states = train.PlanCVAE.predict_states
    not_finite = lambda self, *states: predict_states(self, *states) * float("nan")
    monkeypatch.setattr(train.PlanCVAE, "predict_states", not_finite)
    code, err = run_train(tmp_path, "--max_steps", 3, "--plan", "none")
    assert (
        code == 2
        and "step 0: not finite: state_bow nan, dynamics nan, gradient nan" in err
        and "(stories train" in err
    )
    assert "there is no checkpoint yet" in err and not (tmp_path / "latest").exists()


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(
    run_train, tmp_path, monkeypatch
):
    """The loss of that step is finite; its gradient would leave NaN in the weights, and in the next
    checkpoint."""
    clip = Accelerator.clip_grad_norm_

    def overflow(self, parameters, most):
        parameters = list(parameters)
        if overflow.steps == 5:
            next(p for p in parameters if p.grad is not None).grad[0] = float("inf")
        overflow.steps += 1
        return clip(self, parameters, most)

    overflow.steps = 0
    monkeypatch.setattr(Accelerator, "clip_grad_norm_", overflow)
    code, err = run_train(tmp_path, "--max_steps", 8, "--eval_steps", 4)
    last = err.strip().splitlines()[-1]
    assert code == 2 and "step 5: not finite: gradient inf (stories train" in last, err
    assert f"{tmp_path / 'latest'} holds the last good checkpoint" in last
    assert all(
        tensor.isfinite().all()
        for tensor in load_file(tmp_path / "latest" / "model.safetensors").values()
    )


def test_a_validation_that_is_not_finite_keeps_the_last_checkpoint(
    run_train, tmp_path, monkeypatch
):
    evaluate = train.evaluate_split

    def broken(model, dataset, accelerator, options):
        figures = evaluate(model, dataset, accelerator, options)
        broken.calls += 1
        return figures | ({"nll": math.nan, "elbo_loss": math.nan} if broken.calls == 2 else {})

    broken.calls = 0
    monkeypatch.setattr(train, "evaluate_split", broken)
    code, err = run_train(tmp_path, "--max_steps", 8, "--eval_steps", 4)
    assert code == 2 and "validation at step 8: not finite: nll nan" in err
    assert json.loads((tmp_path / "latest" / "progress.json").read_text())["step"] == 4


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--learning_rate", "-1"], "--learning_rate -1.0: expected at least 0"),
        (["--beta", "nan"], "--beta nan"),
        (["--n_embd", "17"], "--n_embd 17: not a multiple of --n_head 2"),
        (["--batch_size", "0"], "--batch_size 0: expected at least 1"),
        (["--dropout", "1.5"], "--dropout 1.5"),
        (["--plan", "best"], "--plan"),
        (["--val_data_path", "absent.json"], "absent.json: no such file"),
        (
            [
                "--decoder",
                "no/such-model",
                "--n_layer",
                3,
                "--n_head",
                4,
                "--n_embd",
                256,
                "--n_positions",
                512,
            ],
            "--decoder no/such-model: cannot be loaded",
        ),
        (["--n_positions", "8", "--image_positions", "6"], "8 positions"),
        (
            ["--beta_schedule", "constant", "--beta_warmup_steps", "9"],
            "--beta_warmup_steps 9.0: has no effect; expected --beta_schedule linear",
        ),
        (["--plan", "none", "--bow_weight", "9"], "--bow_weight 9.0: has no effect; expected --pl"),
        (["--plan", "none", "--beta", "2"], "--beta 2.0: has no effect; expected --plan cvae"),
        (["--plan", "deterministic", "--free_bits", "0"], "--free_bits 0.0: has no effect"),
        (["--max_steps", "3", "--num_train_epochs", "2"], "expected no --max_steps"),
        (["--allow_changed", "beta"], "--allow_changed beta: has no effect; expected --resume"),
    ],
)
def test_mistakes_are_one_line(arguments, message, run_train, tmp_path):
    code, err = run_train(tmp_path / "out", *arguments)
    line = err.strip().splitlines()[-1]
    assert code == 2 and message in line and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_training_is_not_overwritten_or_mixed_up_unasked(run_train, tmp_path):
    assert run_train(tmp_path, "--max_steps", 2)[0] == 0
    code, err = run_train(tmp_path, "--max_steps", 2)
    assert code == 2 and "--resume resumes it, --overwrite starts again" in err
    code, err = run_train(tmp_path, "--max_steps", 2, "--resume", "--beta", 0.5, "--seed", 3)
    assert code == 2 and "--beta was 1.0, now 0.5" in err and "--seed was 0, now 3" in err
    assert run_train(tmp_path, "--max_steps", 2, "--overwrite", "--seed", 3)[0] == 0


def test_a_changed_setting_is_allowed_by_name_and_other_data_are_refused(run_train, data, tmp_path):
    same, output = ["--max_steps", 4, "--eval_steps", 2], tmp_path / "output"
    assert run_train(output, *same)[0] == 0
    code, err = run_train(output, "--max_steps", 6, "--eval_steps", 2, "--resume")
    assert code == 2 and "--max_steps was 4, now 6" in err and "--allow_changed max_steps" in err
    assert (
        run_train(
            output, "--max_steps", 6, "--eval_steps", 2, "--resume", "--allow_changed", "max_steps"
        )[0]
        == 0
    )
    assert log_of(output, "val")[-1]["step"] == 6
    for name in ("plan_size", "no_such"):
        code, err = run_train(output, *same, "--resume", "--allow_changed", name)
        assert code == 2 and f"--allow_changed {name}: no option, or one of the model" in err
    val = tmp_path / "val.json"
    val.write_text((data / "val.json").read_text())
    (tmp_path / "val.safetensors").write_bytes((data / "val.safetensors").read_bytes())
    again = ["--max_steps", 6, "--eval_steps", 2, "--resume", "--val_data_path", val]
    assert run_train(output, *again)[0] == 0  # the same data elsewhere
    val.write_text((data / "val.json").read_text().replace("val3", "val9"))
    code, err = run_train(output, *again)
    assert code == 2 and "other validation data" in err and "--allow_changed val_data_path" in err
    assert run_train(output, *again, "--allow_changed", "val_data_path")[0] == 0
    code, err = run_train(output, *again, "--plan_size", 8)
    assert code == 2 and "keep its options, or --overwrite" in err


def test_the_newest_checkpoints_are_kept(run_train, tmp_path):
    code, err = run_train(tmp_path, "--max_steps", 10, "--eval_steps", 2, "--save_total_limit", 3)
    assert code == 0, err
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-10", "step-6", "step-8"]
    steps = [
        json.loads((tmp_path / f"step-{n}" / "progress.json").read_text())["step"]
        for n in (6, 8, 10)
    ]
    assert steps == [6, 8, 10]
    shutil.rmtree(tmp_path / "latest")
    code, err = run_train(
        tmp_path, "--max_steps", 10, "--eval_steps", 2, "--save_total_limit", 3, "--resume"
    )
    assert code == 2 and "no latest, but step-10; rename it to latest" in err
    (tmp_path / "step-6").rename(tmp_path / "latest")  # any of them can be gone on from
    again = load_file(tmp_path / "step-10" / "model.safetensors")
    code, err = run_train(
        tmp_path, "--max_steps", 10, "--eval_steps", 2, "--save_total_limit", 2, "--resume"
    )
    assert code == 0 and sorted(p.name for p in tmp_path.glob("step-*")) == ["step-10", "step-8"], (
        err
    )
    for key, value in load_file(tmp_path / "latest" / "model.safetensors").items():
        assert torch.equal(value, again[key]), key
    assert run_train(tmp_path, "--max_steps", 2, "--overwrite")[0] == 0
    assert not list(tmp_path.glob("step-*")) and log_of(tmp_path, "val")[-1]["step"] == 2


@pytest.mark.parametrize(
    "name, damage, message",
    [
        ("progress.json", lambda text: b"{", "progress.json: not JSON"),
        ("progress.json", lambda text: b'{"step": true}', "progress.json: something else"),
        (
            "optimizer.safetensors",
            lambda text: text[:200],
            "optimizer.safetensors: cannot be loaded",
        ),
        (
            "optimizer.safetensors",
            lambda text: text.replace(b"exp_avg_sq", b"exp_avg_xx"),
            "optimizer.safetensors",
        ),
        ("model.safetensors", lambda text: text[:-9], "--resume"),
        ("../log.jsonl", lambda text: text[:-20] + b"\n\xff{}[1]", ""),
    ],
)
def test_what_is_damaged_is_told_and_nothing_is_replaced(
    name, damage, message, run_train, tmp_path
):
    assert run_train(tmp_path, "--max_steps", 2)[0] == 0
    path = tmp_path / "latest" / name
    path.write_bytes(damage(path.read_bytes()))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    code, err = run_train(tmp_path, "--max_steps", 4, "--resume", "--allow_changed", "max_steps")
    if message:
        assert code == 2 and message in err.strip().splitlines()[-1] and "Traceback" not in err
        assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    else:  # of the log a kill may have cut a line
        assert code == 0 and "lines were cut short" in err


def test_a_checkpoint_carries_its_card(run_train, tmp_path):
    assert run_train(tmp_path, "--max_steps", 4, "--eval_steps", 2)[0] == 0
    (_, figures) = log_of(tmp_path, "val")
    card = ModelCard.load(tmp_path / "latest" / "README.md")
    assert card.data.library_name == "transformers" and "22 stories (sha256" in card.text
    assert f'"elbo_loss": {figures["elbo_loss"]}' in card.text and '"step": 4' in card.text
    assert '"learning_rate": 0.002' in card.text and f"torch: {torch.__version__}" in card.text


def test_tensorboard_beside_the_log(run_train, tmp_path, monkeypatch):
    written = []

    class Writer:
        def __init__(self, directory, purge_step):
            written.append((directory.name, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def flush(self):
            pass

    monkeypatch.setattr("utils.train_options.find_spec", lambda name: name)
    board = SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    assert run_train(tmp_path, "--max_steps", 2, "--logging_steps", 1, "--tensorboard")[0] == 0
    (one, _), (figures,) = log_of(tmp_path, "train"), log_of(tmp_path, "val")
    assert written[0] == ("tensorboard", None) and ("train/nll", one["nll"], 1) in written
    assert ("val/elbo_loss", figures["elbo_loss"], 2) in written
    assert ("val/kl_per_beat/beat 2", figures["kl_per_beat"][1], 2) in written
    monkeypatch.undo()
    monkeypatch.setattr("utils.train_options.find_spec", lambda name: None)
    code, err = run_train(tmp_path, "--max_steps", 2, "--overwrite", "--tensorboard")
    assert (
        code == 2 and "--tensorboard: the package is not installed; pip install tensorboard" in err
    )


def test_shards_share_every_batch_and_leave_no_process_without_a_step():
    batches = [[1, 2, 3, 4, 5], [6, 7], [0]]
    for world in (1, 2, 3):
        of = [SimpleNamespace(process_index=rank, num_processes=world) for rank in range(world)]
        shares = [list(train.Shard(batches, one)) for one in of]
        assert {len(steps) for steps in shares} == {3} and all(
            share for steps in shares for share in steps
        )
        for step, batch in enumerate(batches):
            assert sorted(i for steps in shares for i in steps[step] if i >= 0) == sorted(batch)


@pytest.fixture
def launch(fork, data):
    """launch(output_dir, *arguments): train.py in two processes."""

    def start(output_dir, *arguments):
        command = [
            "train.py",
            "--train_data_path",
            data / "train.json",
            "--output_dir",
            output_dir,
            *SMALL,
            *arguments,
        ]
        return [
            fork(output_dir.with_name(f"rank{rank}"), command, environment)
            for rank, environment in enumerate(ranks(2))
        ]

    return start


def assert_same_training(a, b):
    """The same losses, validation and weights, but for rounding."""
    for split in ("train", "val"):
        first, second = log_of(a, split), log_of(b, split)
        assert [line["step"] for line in first] == [line["step"] for line in second]
        for one, other in zip(first, second):
            for name in one.keys() - {"split"}:
                assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), (
                    split,
                    one["step"],
                    name,
                )
    for name in ("best", "latest"):
        x, y = (load_file(run / name / "model.safetensors") for run in (a, b))
        assert x.keys() == y.keys()
        for key in x:
            torch.testing.assert_close(x[key], y[key], rtol=1e-2, atol=1e-4)


# Of 22 stories in threes the last batch holds one, which one of two processes lacks; of 7
# validation stories too. Words are unequally many, two batches are accumulated, plans are drawn,
# photos and expected changes dropped.
UNEVEN = [
    "--batch_size",
    3,
    "--gradient_accumulation_steps",
    2,
    "--logging_steps",
    1,
    "--iwae_samples",
    2,
]


def test_two_processes_equal_one(run_train, launch, tmp_path):
    same = [*UNEVEN, "--max_steps", 6, "--eval_steps", 3]
    two = launch(tmp_path / "two", *same)
    assert run_train(tmp_path / "one", *same)[0] == 0
    assert [one.wait() for one in two] == [0, 0], two[0].said + two[1].said
    # one of them speaks
    assert two[0].said.count("best model") == 1 and "best model" not in two[1].said
    assert_same_training(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_model_cut_over_two_processes_one_of_them_killed_is_taken_up_by_one(
    run_train, launch, tmp_path
):
    same = [*UNEVEN, "--max_steps", 40, "--eval_steps", 4]
    cut = launch(tmp_path / "cut", *same, "--fsdp")
    progress = tmp_path / "cut" / "latest" / "progress.json"
    while not progress.is_file() and cut[0].running:
        time.sleep(0.01)
    for one in reversed(cut):  # as a launcher ends the others
        one.kill()
    assert [one.wait() for one in cut] == [None, None], cut[0].said
    assert 4 <= json.loads(progress.read_text())["step"] < 40
    assert run_train(tmp_path / "cut", *same, "--resume")[0] == 0
    assert run_train(tmp_path / "one", *same)[0] == 0
    assert_same_training(tmp_path / "one", tmp_path / "cut")


def test_fsdp_needs_several_processes(run_train, tmp_path):
    code, err = run_train(tmp_path, "--fsdp")
    assert code == 2 and "--fsdp: one process; expected several" in err


def test_features_leave_the_encoder_frozen(training):
    assert not training.model.config.train_encoder
    assert not any(p.requires_grad for p in training.model.image_encoder.parameters())
