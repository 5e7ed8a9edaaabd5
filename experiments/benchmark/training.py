"""Training: its speed, where a step's time goes, and what an epoch takes."""

import itertools

import torch
import torch.nn.functional as F
from accelerate.utils import send_to_device
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dataset import collate
from experiments.benchmark.inputs import RandomStories
from experiments.benchmark.measuring import (
    BARE,
    COMPILED,
    GOALS,
    OURS,
    REFERENCE,
    interleave,
    row,
    spread,
)
from experiments.benchmark.reference import networks
from experiments.benchmark.setup import VIST_STORIES
from utils import cli
from utils.batches import BucketBatches
from utils.gaussian import Noise
from utils.losses import bow_losses, future_words

# The objective and the optimizer of train.py's defaults (a test holds them together: nothing
# imports train.py).
OBJECTIVE = {
    "bow_weight": 1.0,
    "future_bow_weight": 1.0,
    "photo_bow_weight": 0.5,
    "state_bow_weight": 1.0,
    "dynamics_weight": 3.0,
    "posterior_dropout": 0.7,
    "photo_dropout": 0.1,
    "free_bits": 0.3,
}
GRAD_CLIP, ADAM_BETAS = 1.0, (0.9, 0.95)
LEARNING_RATE = 5e-5
# published, of bf16 without sparsity, a second
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}


def stages(model, batch):
    """Each stage of the training's forward by its name: a function of inputs, and the inputs.

    What the profile knows of the model's inside, it knows here.
    """
    states = model.states(**batch)
    words, word_beat, beat_mask, beats = (
        batch[name] for name in ("words", "word_beat", "beat_mask", "beats")
    )
    of_words = states.hidden.flatten(0, 1)[batch["word_at"]]
    z, one = model.prior(states.expected_change).mean, torch.tensor(1.0, device=words.device)

    def decoder(slots):
        embeddings = model.embed(
            batch["input_ids"], batch["segment_ids"], slots, batch["image_at"], batch["beats"]
        )
        return model.decode(embeddings, use_cache=False)[0]

    def latent_dynamics(dyn):
        dyn = dyn.view(*beat_mask.shape, -1)  # every story has as many beats
        predicted = model.predict_states(dyn, dyn, beats)
        observed, expected = model.state_deltas(dyn, predicted, beats)
        return model.posterior(observed, expected).kl(model.prior(expected))

    def bags_of_words(z, slots, predicted):
        inside = words != model.config.eos_token_id
        bag, bag_beat, once = words[inside], word_beat[inside], inside[inside].float()
        bow = model.plan_bow_loss(z, bag, bag_beat, one)[0]
        later = future_words(bag, bag_beat, beats, beat_mask)
        photos = slots.mean(2).flatten(0, 1)
        tellers = {
            "ahead": (model.future_bow_mlp(z), 1.0, *later),
            "photo": (model.photo_bow_head(photos), 1.0, bag, bag_beat, once),
            "foresight": (model.state_bow_head(predicted), 1.0, bag, bag_beat, once),
        }
        return bow + bow_losses(tellers, model.decoder.lm_head.weight, one)[0]

    return {
        "image projection": (
            lambda: model.project_photos(batch["photos"], batch["photo_mask"]),
            (),
        ),
        "decoder": (decoder, (states.slots,)),
        "latent dynamics": (latent_dynamics, (states.dyn,)),
        "vocabulary and word loss": (
            lambda h, z: model.word_loss(h, z, words, word_beat, one)[0],
            (of_words, z),
        ),
        "bags of words": (bags_of_words, (z, states.slots, states.predicted)),
    }


def adamw(model, **kwargs):
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=LEARNING_RATE, **kwargs)


def update(model, optimizer):
    nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
    optimizer.step()
    optimizer.zero_grad()


def train_step(model, optimizer, batch, setup):
    """One step of ours, as train.py takes it."""
    with setup.autocast():
        loss = model(**batch, **OBJECTIVE).loss
    if not torch.isfinite(loss):
        raise RuntimeError("the loss is not finite")  # train.py asks a GPU less often
    loss.backward()
    update(model, optimizer)


def bare_logits(decoder, batch):
    """The limit of reading stories: GPT-2 itself over the same tokens, logits (N, V) only of
    predicted words."""
    embeddings = decoder.transformer.wte(batch["input_ids"])
    states = decoder.transformer(
        inputs_embeds=embeddings, token_type_ids=batch["segment_ids"], use_cache=False
    )[0]
    return decoder.lm_head(states.flatten(0, 1)[batch["word_at"]])


def bare_step(decoder, optimizer, batch, setup):
    with setup.autocast():
        loss = F.cross_entropy(bare_logits(decoder, batch).float(), batch["words"])
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def padding(lengths, batch_size, seed):
    """Share of the positions in a training's batches that are padding."""
    batches = [
        [lengths[i] for i in numbers] for numbers in BucketBatches(lengths, batch_size, seed)
    ]
    return 1 - sum(lengths) / sum(len(batch) * max(batch) for batch in batches)


def measure_training(setup):
    # a GPU's step is too short to time one by itself
    size, steps = (setup.size, 10 if setup.on_gpu else 1)
    model, decoder, reference = networks(setup, training=True)
    feature_size = model.image_encoder.config.feature_size
    stories = RandomStories(50 * setup.batch_size, size, feature_size, seed=setup.seed)
    fused = {"betas": ADAM_BETAS, "fused": True}
    optimizer, bare_optimizer, reference_optimizer = (
        adamw(model, **fused),
        adamw(decoder, **fused),
        adamw(reference),
    )

    def batch_of(numbers):
        batch = collate([stories[i] for i in numbers], size.special.pad)
        batch["draws"] = Noise.of(
            batch["index"], batch["beat_mask"], model.config.plan_size, [setup.seed, 0]
        )
        return send_to_device(batch, setup.device)

    epoch = itertools.cycle(BucketBatches(stories.lengths, setup.batch_size, setup.seed))
    # the same for all ways
    rounds = [list(itertools.islice(epoch, steps)) for _ in range(setup.repetitions + 1)]
    ready = [[batch_of(numbers) for numbers in of] for of in rounds]

    def ours(turn, network=model):
        for numbers in rounds[turn]:
            train_step(network, optimizer, batch_of(numbers), setup)

    def limit(turn):
        for batch in ready[turn]:
            bare_step(decoder, bare_optimizer, batch, setup)

    def one_by_one(turn):
        story = stories.as_read(rounds[turn][0][0], setup.device)
        reference.train_on(*story, reference_optimizer, setup.autocast)

    ways = {REFERENCE: one_by_one, BARE: limit, OURS: ours}
    if setup.compile:
        compiled = torch.compile(model, dynamic=True)
        try:
            ours(0, compiled)
            ways[COMPILED] = lambda turn: ours(turn, compiled)
        except (
            Exception
        ) as error:  # torch's compiler and the C++ compiler behind it raise many kinds
            cli.warn(
                f"--compile: torch cannot compile the model ({type(error).__name__}), which is "
                "left out"
            )
    work = dict.fromkeys(ways, steps * setup.batch_size) | {REFERENCE: 1}
    goals = GOALS["training, GPU" if setup.on_gpu else "training, CPU"]
    seconds = interleave(ways, setup)
    what = f"training, batch {setup.batch_size}"
    rows = [row(what, "stories", seconds, work, goals)]
    if COMPILED in ways:
        rows.append(row(f"{what}, compiled", "stories", seconds, work, goals, COMPILED))
    profile = measure_profile(model, optimizer, lambda: batch_of(rounds[0][0]), setup)
    per_step, step = (
        profile["optimizer and clipping"]["median"],
        setup.batch_size / rows[0]["rates"][OURS]["median"],
    )
    return {
        "rows": rows,
        "profile": profile,
        "padding": padding(stories.lengths, setup.batch_size, setup.seed),
        "seconds_per_step": per_step,
        "seconds_per_story": max(0, step - per_step) / setup.batch_size,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        **throughput(model, optimizer, ready, step, setup),
    }


def measure_profile(model, optimizer, make_batch, setup):
    """Seconds of each stage of a step, forward and backward, each by itself; and of the whole
    step."""
    batch = make_batch()
    with torch.no_grad(), setup.autocast():
        parts = stages(model, batch)

    def forward_backward(stage, inputs):
        inputs = [x.detach().requires_grad_() for x in inputs]
        with setup.autocast():
            total = stage(*inputs).float().sum()
        total.backward()

    ways = {name: lambda _, part=part: forward_backward(*part) for name, part in parts.items()}
    ways["optimizer and clipping"] = lambda _: update(model, optimizer)
    ways["data"] = lambda _: make_batch()
    ways["whole step"] = lambda _: train_step(model, optimizer, make_batch(), setup)
    return {name: spread(times) for name, times in interleave(ways, setup).items()}


def throughput(model, optimizer, batches, seconds, setup):
    """Tokens and arithmetic a second of a step of `seconds`, by the operations that torch counts in
    one."""
    with FlopCounterMode(display=False) as counter:
        train_step(model, optimizer, batches[0][0], setup)
    name = torch.cuda.get_device_name() if setup.on_gpu else ""
    peak = next((flops for gpu, flops in PEAK_FLOPS.items() if gpu in name and setup.bf16), None)
    rate = counter.get_total_flops() / seconds
    tokens = [
        int((batch["input_ids"] != setup.size.special.pad).sum()) for of in batches for batch in of
    ]
    return {
        "tokens_per_second": sum(tokens) / len(tokens) / seconds,
        "flops_per_second": rate,
        "flop_utilisation": peak and rate / peak,
        "epoch_seconds": VIST_STORIES * seconds / setup.batch_size,
    }
