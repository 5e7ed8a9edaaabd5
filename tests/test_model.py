"""The mathematics of model.py against closed forms and naive loops, and what it must not see."""

import pytest
import torch
import torchvision
from conftest import batch_of, padded
from torch.distributions import Normal, kl_divergence

from model import PlanCVAE, load_checkpoint
from utils import losses
from utils.bounds import log_weights
from utils.cli import UserError
from utils.gaussian import Gaussian, Noise
from utils.image_encoder import ImageEncoder
from utils.train_log import BAGS

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def random_gaussian(*shape, seed):
    g = torch.Generator().manual_seed(seed)
    return Gaussian(
        torch.randn(*shape, generator=g).requires_grad_(),
        torch.randn(*shape, generator=g).requires_grad_(),
    )


def as_normal(gaussian):
    return Normal(gaussian.mean, (0.5 * gaussian.log_var).exp())


def test_kl_is_that_of_torch_distributions_and_pulls_on_both():
    q, p = random_gaussian(3, 4, 5, seed=1), random_gaussian(3, 4, 5, seed=2)
    kl = q.kl(p)
    torch.testing.assert_close(kl, kl_divergence(as_normal(q), as_normal(p)))
    assert (kl > 0).all() and torch.allclose(q.kl(q), torch.zeros(()), atol=1e-6)
    kl.sum().backward()
    assert all(x.grad.abs().min() > 0 for x in (q.mean, q.log_var, p.mean, p.log_var))


def test_log_prob_and_samples_are_those_of_the_gaussian():
    q = random_gaussian(2, 3, 4, seed=3)
    z = torch.randn(7, 2, 3, 4)
    torch.testing.assert_close(q.log_prob(z), as_normal(q).log_prob(z).sum(-1))
    g = torch.Generator().manual_seed(0)
    samples = q.sample(torch.randn(20_000, 2, 3, 4, generator=g))
    torch.testing.assert_close(samples.mean(0), q.mean, atol=0.12, rtol=0)
    torch.testing.assert_close(samples.std(0), (0.5 * q.log_var).exp(), rtol=0.05, atol=0)


def plain_word_loss(words, *factors):
    """linear_cross_entropy by autograd over all logits."""
    logits = sum(x @ matrix.T for x, matrix in zip(factors[::2], factors[1::2]))
    return -logits.float().log_softmax(-1)[torch.arange(len(words)), words].sum()


@pytest.mark.parametrize("with_plan", [True, False])
@pytest.mark.parametrize("N", [1, 4, 23])
def test_linear_cross_entropy_in_chunks_equals_the_plain_one(N, with_plan, monkeypatch):
    """Loss and every gradient; chunks of 4 words that do or do not divide the words."""
    monkeypatch.setattr(losses, "CHUNK", 4)
    g = torch.Generator().manual_seed(N)
    V, D, Z = 50, 8, 3
    words = torch.randint(V, (N,), generator=g)
    shapes = [(N, D), (V, D), (N, Z), (V, Z)][: 4 if with_plan else 2]
    factors = [torch.randn(shape, generator=g).requires_grad_() for shape in shapes]
    plain = [x.detach().clone().requires_grad_() for x in factors]
    loss = losses.linear_cross_entropy(words, *factors)
    expected = plain_word_loss(words, *plain)
    torch.testing.assert_close(loss, expected)
    (2 * loss).backward()
    (2 * expected).backward()
    for x, y in zip(factors, plain):
        torch.testing.assert_close(x.grad, y.grad)
    with pytest.raises(RuntimeError, match="after one backward"):
        loss.backward()
    # not called where no gradient is asked for
    monkeypatch.setattr(losses, "add_gradients", None)
    with torch.no_grad():
        torch.testing.assert_close(losses.linear_cross_entropy(words, *factors), expected)


def test_linear_cross_entropy_in_fp16_keeps_small_gradients():
    """Of 40,000 words each error is far below fp16's smallest number; the scale of the loss brings
    it back."""
    g = torch.Generator().manual_seed(0)
    V, D, N, scale = 300, 8, 40_000, 2.0**16
    words = torch.randint(V, (N,), generator=g)
    factors = [torch.randn(s, generator=g).requires_grad_() for s in ((N, D), (V, D))]
    plain = [x.detach().clone().requires_grad_() for x in factors]
    with torch.autocast("cpu", torch.float16):
        loss = losses.linear_cross_entropy(words, *factors)
    (scale / N * loss).backward()
    (scale / N * plain_word_loss(words, *plain)).backward()
    for x, y in zip(factors, plain):
        assert (x.grad - y.grad).norm() < 0.01 * y.grad.norm()
        assert (x.grad == 0).float().mean() < 0.001


def test_the_objective_in_bf16_is_close_to_float32(make_model, make_stories, tokenizer):
    model = make_model()
    batch = batch_of(make_stories(model, [5, 3, 4]), [0, 1, 2], tokenizer)
    draws = Noise.sample(batch["index"], batch["beat_mask"], model.config.plan_size, [0])
    weights = {"bow_weight": 1.0, "photo_bow_weight": 1.0, "state_bow_weight": 1.0, "noise": draws}
    gradients, losses = [], []
    for half in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = model(**batch, **weights)
        out.loss.backward()
        losses.append(out.loss.item())
        gradients.append(
            torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        )
        assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)
    assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[0] != losses[1]
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


def test_what_is_drawn_for_a_story_depends_on_the_story_and_the_seed_alone():
    beats = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
    numbers = torch.tensor([5, 7, 900])
    together = Noise.sample(numbers, beats, 4, [0, 3])
    for b in (2, 0, 1):
        count = beats[b].sum()
        alone = Noise.sample(numbers[b : b + 1], beats[b : b + 1, :count], 4, [0, 3])
        assert torch.equal(together.plans[b, :count], alone.plans[0])
        assert (
            torch.equal(together.beats[b, :count], alone.beats[0])
            and together.stories[b] == alone.stories[0]
        )
    assert not torch.equal(together.plans, Noise.sample(numbers, beats, 4, [0, 4]).plans)
    many = Noise.sample(torch.arange(2000), torch.ones(2000, 2, dtype=torch.bool), 4, [1])
    assert abs(many.plans.mean()) < 0.03 and abs(many.plans.std() - 1) < 0.03
    assert (
        abs(many.beats.mean() - 0.5) < 0.03 and 0 <= many.stories.min() and many.stories.max() < 1
    )
    assert Noise.sample(numbers, beats, 4, [0], (6,)).plans.shape == (6, 3, 3, 4)


def test_nll_and_bow_equal_naive_loops(make_model, make_stories, tokenizer):
    model = make_model(plan="deterministic")  # z is the prior's mean: nothing is drawn
    data = make_stories(model, [3, 1, 5])
    batch = batch_of(data, [0, 1, 2], tokenizer)
    with torch.no_grad():
        out = model(
            **batch,
            bow_weight=0.7,
            future_bow_weight=1.3,
            photo_bow_weight=1.0,
            state_bow_weight=1.0,
        )
        nll = bow = future_bow = photo_bow = state_bow = 0.0
        for i in range(3):  # one story, one word at a time, on a sequence of its own
            single = batch_of(data, [i], tokenizer)
            states = model.states(**single)
            z = model.plans(states)[0].mean
            told = data.sentences(i)
            for t, words in enumerate(told):
                known = model.decoder.lm_head.weight @ model.future_bow_mlp(z[t])
                later = [word for sentence in told[t + 1 :] for word in sentence]
                future_bow -= sum(known.log_softmax(-1)[word] for word in later) / max(
                    1, len(told) - 1 - t
                )
                bos = single["image_at"][0, t] + 1
                for k, word in enumerate([*words, tokenizer.eos_token_id]):
                    logits = (
                        model.decoder.lm_head(states.hidden[0, bos + k])
                        + model.plan_head.weight @ z[t]
                    )
                    nll -= logits.log_softmax(-1)[word]
                    if k < len(words):
                        bow -= (model.plan_head.weight @ z[t] + model.bow_bias).log_softmax(-1)[
                            word
                        ]
                        foreseen = model.state_bow_head(states.predicted[t])
                        state_bow -= (model.decoder.lm_head.weight @ foreseen).log_softmax(-1)[word]
                        if single["photo_mask"][0, t]:
                            seen = model.photo_bow_head(states.image_embeddings[0, t].mean(0))
                            photo_bow -= (model.decoder.lm_head.weight @ seen).log_softmax(-1)[word]
    torch.testing.assert_close(out.nll, nll, **CLOSE)
    torch.testing.assert_close(out.bow, bow, **CLOSE)
    torch.testing.assert_close(out.future_bow, future_bow, **CLOSE)
    torch.testing.assert_close(out.photo_bow, photo_bow, **CLOSE)
    torch.testing.assert_close(out.state_bow, state_bow, **CLOSE)
    assert out.tokens == sum(len(words) + 1 for i in range(3) for words in data.sentences(i))


def test_loss_is_the_sum_of_its_terms(make_model, make_stories, tokenizer):
    model = make_model()
    batch = batch_of(make_stories(model, [2, 4]), [0, 1], tokenizer)
    weights = {
        "beta": 0.3,
        "bow_weight": 0.7,
        "future_bow_weight": 0.4,
        "photo_bow_weight": 1.3,
        "state_bow_weight": 0.6,
        "dynamics_weight": 1.9,
    }
    out = model(**batch, **weights)
    total = out.nll + 0.3 * out.kl + 0.7 * out.bow + 0.4 * out.future_bow
    total = total + 1.3 * out.photo_bow + 0.6 * out.state_bow + 1.9 * out.dynamics
    torch.testing.assert_close(out.loss, total / out.tokens)
    torch.testing.assert_close(out.kl_per_beat.sum(), out.kl.detach())
    assert out.kl > 0
    free = model(**batch, free_bits=0.02, dynamics_weight=0.0)
    with torch.no_grad():
        prior, posterior = model.plans(model.states(**batch))
        kl = torch.distributions.kl_divergence(as_normal(posterior), as_normal(prior))
    charged = torch.where(kl < 0.02, 0.02, kl).sum()
    assert charged > kl.sum() + 0.01
    torch.testing.assert_close((free.loss * free.tokens - free.nll).detach(), charged, **CLOSE)
    assert free.bow == free.future_bow == free.photo_bow == free.state_bow == free.dynamics == 0


def test_photo_dropout_tells_stories_without_their_photos(make_model, make_stories, tokenizer):
    model = make_model(plan="deterministic")
    batch = batch_of(make_stories(model, [3] * 64, missing=0.0), range(64), tokenizer)
    blind = batch | {"photo_mask": torch.zeros_like(batch["photo_mask"])}
    with torch.no_grad():
        torch.testing.assert_close(model(**batch, photo_dropout=1.0).nll, model(**blind).nll)
        draws = Noise.sample(batch["index"], batch["beat_mask"], model.config.plan_size, [0])
        kept = draws.stories >= 0.4
        half = model(**batch, photo_dropout=0.4, photo_bow_weight=1.0, noise=draws)
        expected = model(**batch | {"photo_mask": batch["photo_mask"] & kept}, photo_bow_weight=1.0)
    assert 10 < kept.sum() < 54 and batch["photo_mask"].all()
    torch.testing.assert_close(half.nll, expected.nll)
    torch.testing.assert_close(half.photo_bow, expected.photo_bow)


def test_dynamics_term_and_changes_follow_the_definition(make_model, make_stories, tokenizer):
    model = make_model()
    batch = batch_of(make_stories(model, [4, 2]), [0, 1], tokenizer)
    with torch.no_grad():
        states, out = model.states(**batch), model(**batch)
    error, m = 0.0, 0
    for i, beats in enumerate((4, 2)):
        before = model.initial_state
        for t in range(beats):
            dyn, predicted = states.dyn[m], states.predicted[m]
            hidden = states.hidden[i, batch["dyn_at"][i, t]]
            expected = (hidden - hidden.mean()) / (hidden.var(correction=0) + 1e-5).sqrt()
            torch.testing.assert_close(dyn, expected, **CLOSE)
            torch.testing.assert_close(predicted.mean(), torch.tensor(0.0), rtol=0, atol=1e-5)
            torch.testing.assert_close(states.observed_change[m], dyn - before)
            torch.testing.assert_close(states.expected_change[m], predicted - before)
            error += (predicted - dyn).pow(2).mean()
            before, m = dyn, m + 1
    assert m == len(states.dyn) == len(states.predicted)
    torch.testing.assert_close(out.dynamics, error, **CLOSE)


@pytest.mark.parametrize("plan", ["cvae", "deterministic", "none"])
def test_every_trained_parameter_gets_a_gradient(plan, make_model, make_stories, tokenizer):
    model = make_model(plan=plan).train()
    batch = batch_of(make_stories(model, [3, 3], missing=0.5), [0, 1], tokenizer)
    model(
        **batch, bow_weight=1.0, future_bow_weight=1.0, photo_bow_weight=1.0, state_bow_weight=1.0
    ).loss.backward()
    idle = {
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or (p.grad == 0).all())
    }
    assert idle == set()
    assert not any(p.requires_grad for p in model.image_encoder.parameters())


def test_posterior_and_prior_move_with_the_kl_alone(make_model, make_stories, tokenizer):
    model = make_model()
    batch = batch_of(make_stories(model, [3]), [0], tokenizer)
    model(**batch).kl.backward()
    for mlp in (model.prior_mlp, model.posterior_mlp):
        assert all(p.grad.abs().max() > 0 for p in mlp.parameters())


@pytest.mark.parametrize("changed", [0, 2, 4])
def test_no_leak(changed, make_model, make_stories, tokenizer):
    """Changing sentence t changes no prior up to t and, with plans from the prior, no logit before
    the changed word."""
    model = make_model()
    data = make_stories(model, [5])
    batch = batch_of(data, [0], tokenizer)
    # a word in its middle
    where = batch["image_at"][0, changed] + 2 + len(data.sentences(0)[changed]) // 2
    other = dict(batch, input_ids=batch["input_ids"].clone())
    other["input_ids"][0, where] = (batch["input_ids"][0, where] + 7) % 250

    def read(batch):
        states = model.states(**batch)
        prior = model.plans(states)[0]
        starts = torch.cat([torch.zeros(1, dtype=torch.long), batch["dyn_at"][0, :-1] + 1])
        beat = torch.bucketize(torch.arange(states.hidden.shape[1]), starts, right=True) - 1
        return prior, model.decoder.lm_head(states.hidden[0]) + model.plan_bias(prior.mean)[beat]

    with torch.no_grad():
        (prior, logits), (prior2, logits2) = read(batch), read(other)
    upto = changed + 1
    assert torch.equal(prior.mean[:upto], prior2.mean[:upto])
    assert torch.equal(prior.log_var[:upto], prior2.log_var[:upto])
    assert torch.equal(logits[:where], logits2[:where])
    assert not torch.allclose(logits[where:], logits2[where:])
    if upto < 5:
        assert not torch.allclose(prior.mean[upto:], prior2.mean[upto:])


def test_a_photo_moves_nothing_before_it(make_model, make_stories, tokenizer):
    model = make_model()
    batch = batch_of(make_stories(model, [4], missing=0), [0], tokenizer)
    other = dict(batch, photos=batch["photos"].clone())
    other["photos"][0, 2] += 1
    with torch.no_grad():
        a, b = model.states(**batch), model.states(**other)
    assert torch.equal(a.predicted[:2], b.predicted[:2]) and not torch.allclose(
        a.predicted[2], b.predicted[2]
    )


def test_a_batch_equals_its_stories_one_by_one(make_model, make_stories, tokenizer):
    model = make_model(plan="deterministic")
    data = make_stories(model, [5, 1, 3, 2])
    with torch.no_grad():
        weights = {"bow_weight": 1.0, "photo_bow_weight": 1.0, "state_bow_weight": 1.0}
        together = model(**batch_of(data, range(4), tokenizer), **weights)
        alone = [model(**batch_of(data, [i], tokenizer), **weights) for i in range(4)]
    for term in ("nll", "bow", "photo_bow", "state_bow", "dynamics", "tokens"):
        torch.testing.assert_close(
            getattr(together, term), sum(getattr(out, term) for out in alone), **CLOSE
        )
    torch.testing.assert_close(together.cosine, torch.cat([out.cosine for out in alone]), **CLOSE)


@pytest.mark.parametrize("padding", [0.0, 1e30, float("nan")])
@pytest.mark.parametrize("plan", ["cvae", "none"])
def test_what_is_padded_moves_no_loss_and_no_gradient(
    plan, padding, make_model, make_stories, tokenizer
):
    """Whatever the networks make of padding: loss and every gradient are those of the stories one
    by one."""
    model = make_model(plan=plan)
    data = make_stories(model, [1, 7, 3, 2, 5])
    weights = {f"{name}_weight": 0.7 for name in (*BAGS, "dynamics")}
    weights |= {"beta": 0.6, "free_bits": 0.02, "posterior_dropout": 0.5, "photo_dropout": 0.3}

    def run(numbers):
        batch = batch_of(data, numbers, tokenizer)
        draws = Noise.sample(batch["index"], batch["beat_mask"], model.config.plan_size, [3])
        there = batch["beat_mask"]
        draws.plans[~there], draws.beats[~there] = padding, padding
        batch["photos"][~batch["photo_mask"]] = padding
        model.zero_grad()
        out = model(**batch, **weights, num_tokens=100, noise=draws)
        out.loss.backward()
        return out, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    alone = [run([i]) for i in range(len(data))]
    with padded(model, padding) as spoilt:
        together, gradients = run(range(len(data)))
    # the auxiliary terms predict the states again
    beats = 2 * (5 * 7 - 18)
    assert spoilt == {"words": sum(max(data.lengths) - data.lengths), "beats": beats}
    for term in (
        "loss",
        "nll",
        "kl",
        "bow",
        "future_bow",
        "photo_bow",
        "state_bow",
        "dynamics",
        "tokens",
    ):
        expected = sum(getattr(out, term) for out, _ in alone)
        torch.testing.assert_close(getattr(together, term), expected, **CLOSE)
    for name, gradient in gradients.items():
        expected = sum(of_one[name] for _, of_one in alone if name in of_one)
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6, msg=name)
    assert gradients.keys() == {name for _, of_one in alone for name in of_one}


def test_log_variances_stay_in_their_range(make_model, make_stories, tokenizer):
    """A posterior that has run away is neither infinite nor NaN, nor is its gradient."""
    model = make_model()
    with torch.no_grad():
        model.posterior_mlp[-1].bias[model.config.plan_size :] = 1e6
        model.prior_mlp[-1].bias[model.config.plan_size :] = -1e6
    out = model(**batch_of(make_stories(model, [3, 1]), [0, 1], tokenizer))
    out.loss.backward()
    assert 1e8 < out.kl < 1e12
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_an_encoder_without_photos_has_gradients_of_zero(make_model, make_stories, tokenizer):
    """Where all its photos are missing or dropped a process must not leave the others waiting."""
    model = make_model(train_encoder=True).train()
    batch = batch_of(make_stories(model, [2]), [0], tokenizer)
    batch["photos"] = torch.randint(0, 256, (1, 2, 3, 32, 32), dtype=torch.uint8)
    model(**batch, photo_dropout=1.0, photo_bow_weight=1.0).loss.backward()
    assert all((p.grad == 0).all() for p in model.image_encoder.parameters())
    assert model.no_photo.grad.abs().max() > 0


def test_missing_photos_are_the_no_photo_embedding(make_model, make_stories, tokenizer):
    model = make_model()
    batch = batch_of(make_stories(model, [3], missing=0), [0], tokenizer)
    masked = dict(batch, photo_mask=torch.zeros_like(batch["photo_mask"]))
    garbage = dict(masked, photos=torch.full_like(batch["photos"], 1e3))
    absent = dict(masked, photos=torch.zeros(1, 3, 0))  # text alone
    with torch.no_grad():
        first, second, third = (model.states(**b).hidden for b in (masked, garbage, absent))
        slots = model.project_photos(masked["photos"], masked["photo_mask"])
    assert torch.equal(first, second) and torch.equal(first, third)
    assert torch.equal(slots[0, 1], model.no_photo)


def test_pixels_equal_features_of_the_same_encoder(make_model, make_stories, tokenizer):
    model = make_model()
    batch = batch_of(make_stories(model, [3, 2]), [0, 1], tokenizer)
    pixels = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        features = model.image_encoder(pixels.flatten(0, 1)).view(2, 3, -1)
        a, b = (model.states(**dict(batch, photos=photos)).hidden for photos in (pixels, features))
    torch.testing.assert_close(a, b, **CLOSE)


def test_importance_weights(make_model, make_stories, tokenizer):
    """One alone is the ELBO; the bound tightens with more samples, and beat by beat."""
    model = make_model()
    batch = batch_of(make_stories(model, [3, 4]), [0, 1], tokenizer)
    noise = Noise.sample(
        batch["index"], batch["beat_mask"], model.config.plan_size, [0], (400,)
    ).plans
    with torch.no_grad():
        weights = model(**batch, iwae_noise=noise).log_weights  # 400, 7 beats
        lone = torch.cat(
            [model(**batch, iwae_noise=noise[i : i + 1]).log_weights for i in range(60)]
        )
        elbos = []
        for _ in range(60):
            out = model(**batch)
            elbos.append(-(out.nll + out.kl))
    elbo, of_story = torch.stack(elbos), lone.sum(1)
    assert abs(of_story.mean() - elbo.mean()) < 4 * (elbo.std() + of_story.std()) / 60**0.5
    bound = lambda x: x.logsumexp(0) - torch.tensor(float(len(x))).log()
    assert (bound(weights) > lone.mean(0)).all()
    with torch.no_grad():  # both are means of a bound over 20 draws of 20 samples
        parts = [model(**batch, iwae_noise=part).log_weights for part in noise.split(20)]
    assert sum(bound(w).sum() for w in parts) > sum(
        bound(story.sum(1)) for w in parts for story in w.split([3, 4], 1)
    )


def test_the_bound_reaches_the_likelihood(make_model, make_stories, tokenizer):
    """log p(y_t) by quadrature over a plan of one dimension, a word at a time, and the bound of
    many samples."""
    model = make_model(plan_size=1)
    with torch.no_grad():
        model.plan_head.weight.mul_(6)  # a plan that matters
    data = make_stories(model, [2])
    batch = batch_of(data, [0], tokenizer)
    noise = torch.randn(20_000, 1, 2, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weights = model(**batch, iwae_noise=noise).log_weights
        states = model.states(**batch)
        prior, posterior = model.plans(states)
        grid = torch.linspace(-9, 9, 2001)
        for t, words in enumerate(data.sentences(0)):
            z = prior.mean[t] + grid[:, None] * (0.5 * prior.log_var[t]).exp()  # 2001, 1
            log_p = torch.distributions.Normal(0, 1).log_prob(grid)
            for k, word in enumerate([*words, tokenizer.eos_token_id]):
                state = states.hidden[0, batch["image_at"][0, t] + 1 + k]
                logits = model.decoder.lm_head(state) + z * model.plan_head.weight[:, 0]
                log_p = log_p + logits.log_softmax(-1)[:, word]
            exact = (log_p.logsumexp(0) + (grid[1] - grid[0]).log()).item()
            bound = (weights[:, t].logsumexp(0) - torch.tensor(20_000.0).log()).item()
            assert bound == pytest.approx(exact, abs=0.02)
            # A posterior that is sure of something wrong does not loosen it by more than half the
            # samples' worth.
            wrong = Gaussian(posterior.mean + 40, posterior.log_var - 6)
            hidden = states.hidden[0].index_select(0, batch["word_at"])
            of = batch["words"], batch["word_beat"]
            rest = log_weights(model, prior, wrong, noise[:, 0], hidden, *of)[:, t]
            assert (rest.logsumexp(0) - torch.tensor(20_000.0).log()).item() == pytest.approx(
                exact, abs=0.03
            )


def random_gaussians(seed, *shape):
    chance = torch.Generator().manual_seed(seed)
    return Gaussian(torch.randn(*shape, generator=chance), torch.randn(*shape, generator=chance))


def test_a_gaussian_in_units_of_another():
    one, other = random_gaussians(1, 7, 3, 4), random_gaussians(2, 7, 3, 4)
    relative, noise = one.relative_to(other), torch.randn(7, 3, 4)
    torch.testing.assert_close(
        relative.kl(Gaussian(torch.zeros(1), torch.zeros(1))), one.kl(other), **CLOSE
    )
    inside = (one.sample(noise) - other.mean) / (0.5 * other.log_var).exp()
    torch.testing.assert_close(relative.sample(noise), inside, **CLOSE)


def test_information():
    """Against a naive loop over torch's densities; of plans that are all alike, and of some that
    are far apart."""
    plans, noise = random_gaussians(3, 9, 2, 4), torch.randn(9, 2, 4)
    z, naive = plans.sample(noise), torch.zeros(2)
    for t in range(2):
        for n in range(9):
            of = [
                as_normal(Gaussian(plans.mean[m, t], plans.log_var[m, t])).log_prob(z[n, t]).sum()
                for m in range(9)
            ]
            naive[t] += (of[n] - torch.stack(of).logsumexp(0) + torch.tensor(9.0).log()) / 9
    torch.testing.assert_close(plans.information(noise).float(), naive, **CLOSE)
    alike = Gaussian(plans.mean[:1].expand(9, 2, 4), plans.log_var[:1].expand(9, 2, 4))
    torch.testing.assert_close(
        alike.information(noise), torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0
    )
    apart = Gaussian(1000 * torch.arange(9.0)[:, None, None].expand(9, 2, 4), plans.log_var)
    torch.testing.assert_close(apart.information(noise), torch.tensor([9.0, 9.0]).double().log())


def test_round_trip_gives_the_same_numbers(make_model, make_stories, tokenizer, tmp_path):
    model = make_model(train_encoder=True)
    batch = batch_of(make_stories(model, [3, 2]), [0, 1], tokenizer)
    batch["photos"] = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)
    model.save_pretrained(tmp_path / "best")
    tokenizer.save_pretrained(tmp_path / "best")
    again, tokenizer2 = load_checkpoint(tmp_path)
    assert isinstance(again, PlanCVAE) and tokenizer2.get_vocab() == tokenizer.get_vocab()
    with torch.no_grad():
        a, b = model.states(**batch), again.states(**batch)
    assert torch.equal(a.predicted, b.predicted) and torch.equal(a.hidden, b.hidden)
    assert sorted(p.name for p in (tmp_path / "best").glob("*.safetensors")) == [
        "model.safetensors"
    ]
    assert again.decoder.lm_head.weight is again.decoder.transformer.wte.weight


@pytest.mark.parametrize("damage", ["no folder", "truncated", "other shape", "no tokenizer"])
def test_a_damaged_checkpoint_is_one_clear_error(damage, make_model, tokenizer, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    if damage != "no tokenizer":
        tokenizer.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    if damage == "other shape":
        make_model(plan_size=9).config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="expected"):
        load_checkpoint(tmp_path / "absent" if damage == "no folder" else tmp_path)


@pytest.mark.parametrize(
    "arch, channels", [("resnet18", 512), pytest.param("resnet50", 2048, marks=pytest.mark.slow)]
)
def test_resnet_weights_from_a_file(arch, channels, tmp_path):
    torch.manual_seed(0)
    resnet = torchvision.models.get_model(arch, weights=None).eval()
    torch.save(resnet.state_dict(), tmp_path / "weights.pth")
    encoder = ImageEncoder.build(arch, str(tmp_path / "weights.pth"), image_size=64).eval()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((pixels / 255).permute(0, 2, 3, 1) - mean) / std
    resnet.fc = torch.nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(
            encoder(pixels), resnet(x.permute(0, 3, 1, 2)), rtol=1e-3, atol=1e-4
        )
    assert encoder.config.feature_size == channels


def test_bad_encoder_weights_are_one_clear_error(tmp_path):
    (tmp_path / "pickle.pth").write_bytes(b"cos\nsystem\n(S'echo pwned'\ntR.")
    for weights in (tmp_path / "absent.pth", tmp_path / "pickle.pth"):
        with pytest.raises(UserError, match="encoder_weights .*none"):
            ImageEncoder.build("resnet18", str(weights), image_size=32)
    with pytest.raises(UserError, match="resnet19"):
        ImageEncoder.build("resnet19", "none", image_size=32)


def test_frozen_encoder_keeps_its_statistics(make_model):
    model = make_model().train()
    assert not model.image_encoder.training and model.decoder.training
    assert make_model(train_encoder=True).train().image_encoder.training
