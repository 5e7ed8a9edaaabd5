"""plan-CVAE: a conditional VAE around GPT-2 that draws a plan before each sentence of a story.

Shapes: B stories in a batch, T beats, L sequence length, K image slots a photo, D decoder width, Z plan width,
V vocabulary, F photo feature size, N predicted words in the batch. A batch is what `dataset.collate` makes.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models as torchvision_models
from torchvision.transforms import functional as vision
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import ModelOutput
from transformers.utils import logging as transformers_logging

from cli import UserError, loading

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
PLANS = ("cvae", "deterministic", "none")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OUTPUT_DIR = "output"  # where train.py leaves its checkpoints and the other scripts look for them
BEST, LATEST = "best", "latest"  # the checkpoints in it

transformers_logging.disable_progress_bar()  # a bar for half a second of weights would hide our own


def best_device():
    """The CUDA or Apple GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


# ---------------------------------------------------------------------------------------------- photos


class ImageEncoderConfig(PreTrainedConfig):
    model_type = "plan_cvae_image_encoder"

    arch: str = "resnet152"  # one of RESNETS
    image_size: int = 224  # side of the square that a photo is reduced to, in pixels
    stages: int = 4  # residual stages kept, 1 to 4; fewer keep more of where things are
    grid: int = 1  # features are pooled to grid x grid cells; 1 is the usual global average
    feature_size: int | None = None  # F, filled in from the network

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.arch not in RESNETS:
            raise UserError(f"--image_encoder {self.arch}: unknown; expected one of {', '.join(RESNETS)}")
        if not 1 <= self.stages <= 4:
            raise UserError(f"image encoder stages {self.stages}: expected 1 to 4")


class ImageEncoder(PreTrainedModel):
    """A torchvision ResNet without its classifier, with the preprocessing that belongs to it."""

    config_class = ImageEncoderConfig
    main_input_name = "pixels"

    def __init__(self, config, resnet=None):
        super().__init__(config)
        resnet = resnet or torchvision_models.get_model(config.arch, weights=None)
        stages = [getattr(resnet, f"layer{i}") for i in range(1, config.stages + 1)]
        self.trunk = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool, *stages)
        self.pool = nn.AdaptiveAvgPool2d(config.grid)
        last = stages[-1][-1]
        channels = (last.conv3 if hasattr(last, "conv3") else last.conv2).out_channels
        config.feature_size = channels * config.grid**2
        self.post_init()

    def _init_weights(self, module):
        """Nothing: torchvision has initialised the network, or its weights were loaded."""

    @classmethod
    def build(cls, arch, weights, image_size, stages=4, grid=1):
        """An encoder with `weights`: "imagenet" (torchvision's), "none" (random), or a local state-dict file.

        Raises UserError where the name is unknown or the weights cannot be loaded.
        """
        config = ImageEncoderConfig(arch=arch, image_size=image_size, stages=stages, grid=grid)
        advice = "--encoder_weights takes imagenet, the path of a local state dict, or none (random weights)"
        with loading(f"--encoder_weights {weights}", advice):
            resnet = torchvision_models.get_model(arch, weights="DEFAULT" if weights == "imagenet" else None)
            if weights not in ("imagenet", "none"):
                resnet.load_state_dict(read_state_dict(weights))
        return cls(config, resnet)

    def preprocess(self, image):
        """A PIL RGB image -> uint8 (3, S, S): the square in its middle, reduced to S."""
        size, side = self.config.image_size, min(image.size)
        square = vision.center_crop(image, [side, side])  # first, so that a strip does not grow before it is cut
        return vision.pil_to_tensor(vision.resize(square, [size, size], antialias=True))

    def forward(self, pixels):
        """uint8 pixels (N, 3, S, S) -> features (N, F)."""
        mean, std = (torch.tensor(x, device=pixels.device).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
        x = ((pixels.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
        x = self.trunk(x.to(self.dtype))  # N, C, S/4 or less, S/4 or less
        return self.pool(x).flatten(1)


def read_state_dict(path):
    """Tensors by name from a safetensors file or a torch file (read without unpickling code)."""
    if str(path).endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


# ------------------------------------------------------------------------------------------- the model


class PlanCVAEConfig(PreTrainedConfig):
    model_type = "plan_cvae"

    decoder: dict | None = None  # GPT2Config as a dict; None is GPT-2 small
    image_encoder: dict | None = None  # ImageEncoderConfig as a dict; None is ResNet-152
    train_encoder: bool = False  # train the photo encoder with the rest, from pixels
    image_slots: int = 4  # K, sequence positions that a photo fills
    plan: str = "cvae"  # cvae | deterministic (the prior's mean) | none (z = 0)
    plan_size: int = 32  # Z
    dynamics_layers: int = 2  # GPT-2 blocks in the latent dynamic module
    foresight: bool = False  # the foreseen state tells the words to come, in no order
    detach_dynamics_target: bool = False  # True: the dynamics loss does not move the states that it predicts
    eos_token_id: int | None = None  # [eos]; ends a sentence and is not a word of it
    text: str = "normalized"  # how its stories are written: normalized (VIST's tokens) or original (as typed)

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.decoder = self.decoder or GPT2Config().to_dict()
        self.image_encoder = self.image_encoder or ImageEncoderConfig().to_dict()
        if self.plan not in PLANS:
            raise UserError(f"--plan {self.plan}: unknown; expected one of {', '.join(PLANS)}")


@dataclass
class Gaussian:
    """A diagonal Gaussian per beat: mean and log-variance (B, T, Z)."""

    mean: torch.Tensor
    log_var: torch.Tensor

    def sample(self, noise=None, generator=None):
        """A sample, from standard normal noise of the mean's shape where it is given."""
        if noise is None:
            noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + noise * (0.5 * self.log_var).exp()

    def log_prob(self, z):
        """Log-density of z (..., T, Z), summed over Z."""
        log_2pi = 1.8378770664093453
        return -0.5 * (log_2pi + self.log_var + (z - self.mean) ** 2 / self.log_var.exp()).sum(-1)

    def kl(self, other):
        """KL(self ‖ other) per dimension (B, T, Z), in nats."""
        ratio = (self.log_var.exp() + (self.mean - other.mean) ** 2) / other.log_var.exp()
        return 0.5 * (other.log_var - self.log_var + ratio - 1)


@dataclass
class States:
    """What the decoder and the latent dynamics say about a batch of stories."""

    slots: torch.Tensor  # B, T, K, D: the photos as the decoder reads them
    hidden: torch.Tensor  # B, L, D: the decoder's states
    dyn: torch.Tensor  # B, T, D: h_t^d, the state after sentence t
    predicted: torch.Tensor  # B, T, D: the same as foreseen before sentence t
    observed_change: torch.Tensor  # B, T, D: Δh_t
    expected_change: torch.Tensor  # B, T, D: Δh̃_t


@dataclass
class PlanCVAEOutput(ModelOutput):
    """The loss and its terms. Terms are sums over the batch, in nats; divide them by the counts."""

    loss: torch.Tensor | None = None  # (nll + β·kl + the others, each times its weight) / predicted tokens
    nll: torch.Tensor | None = None  # −log p(words | z, what came before)
    kl: torch.Tensor | None = None  # KL(posterior ‖ prior), without free bits
    bow: torch.Tensor | None = None  # −log p(words | z), in no order (Zhao et al. 2017)
    photo: torch.Tensor | None = None  # −log p(words | photo), in no order
    foresight: torch.Tensor | None = None  # −log p(words | h̃_t), in no order: the state foreseen before them
    dynamics: torch.Tensor | None = None  # Σ_t ‖h̃_t^d − h_t^d‖² / D
    tokens: torch.Tensor | None = None  # how many words (and [eos]) were predicted
    kl_per_beat: torch.Tensor | None = None  # T
    posterior_shift: torch.Tensor | None = None  # B, T, Z: μ_q − μ_p; its variance tells the active units
    cosine: torch.Tensor | None = None  # B, T: cos(Δh, Δh̃)


class PlanCVAE(PreTrainedModel):
    """The story model. Build one with `PlanCVAE.build`, load one with `PlanCVAE.from_pretrained(directory)`."""

    config_class = PlanCVAEConfig
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.image_encoder = ImageEncoder(ImageEncoderConfig(**config.image_encoder))
        self.decoder = GPT2LMHeadModel(GPT2Config(**config.decoder))
        D, K, Z, V = self.width, config.image_slots, config.plan_size, self.decoder.config.vocab_size
        feature_size = self.image_encoder.config.feature_size

        # One linear layer over standardised features: a narrow hidden layer lost what sets photos of a kind apart (the
        # hero's colour) long before the words had learned to ask for it.
        self.register_buffer("feature_mean", torch.zeros(feature_size))
        self.register_buffer("feature_var", torch.ones(feature_size))
        self.photo_projection = nn.Linear(feature_size, K * D)
        self.no_photo = nn.Parameter(torch.zeros(K, D))
        self.photo_head = nn.Linear(D, D)

        # The latent dynamic module reads states, not words: it has no word embeddings.
        no_words = {"vocab_size": 1, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        self.dynamics = GPT2Model(GPT2Config(**{**config.decoder, **no_words, "n_layer": config.dynamics_layers}))
        self.dynamics.wte = None
        self.dynamics_head = nn.Linear(D, D)
        self.first_dyn = nn.Parameter(torch.zeros(D))  # h_0^d

        # An ablation has no parameters that it does not use (several GPUs would wait for their gradients).
        if config.plan != "none":
            self.prior_mlp = nn.Sequential(nn.Linear(D, D), nn.GELU(), nn.Linear(D, 2 * Z))
            self.plan_head = nn.Linear(Z, V, bias=False)  # W_z
            self.bow_mlp = nn.Sequential(nn.Linear(Z, D), nn.GELU(), nn.Linear(D, D))
        if config.plan == "cvae":
            self.posterior_mlp = nn.Sequential(nn.Linear(2 * D, D), nn.GELU(), nn.Linear(D, 2 * Z))
        if config.foresight:
            self.foresight_head = nn.Linear(D, D)
        self.first_dyn.requires_grad_(config.plan != "none")
        self.image_encoder.requires_grad_(config.train_encoder)
        self.post_init()

    def _init_weights(self, module):
        """What stands around GPT-2 and the encoder, which initialise themselves."""
        if isinstance(module, nn.Linear):
            # torch's own scale, 1/sqrt(fan in). GPT-2's 0.02 is for layers that add to a residual stream; through the
            # few units of a plan it would leave a signal so small that the words never learn to listen to it.
            module.reset_parameters()
        elif module is self:  # "nothing yet" and "no photo" start as one more small embedding
            nn.init.normal_(self.no_photo, std=0.02)
            nn.init.normal_(self.first_dyn, std=0.02)

    @classmethod
    def build(cls, decoder, image_encoder, **fields):
        """A model around a GPT2LMHeadModel and an ImageEncoder, pretrained or not; fields are PlanCVAEConfig's."""
        config = PlanCVAEConfig(
            decoder=decoder.config.to_dict(), image_encoder=image_encoder.config.to_dict(), **fields
        )
        model = cls(config)
        model.decoder.load_state_dict(decoder.state_dict())
        model.image_encoder.load_state_dict(image_encoder.state_dict())
        return model

    @property
    def width(self):
        """D."""
        return self.decoder.config.n_embd

    @property
    def max_length(self):
        """Positions that a story may take."""
        return self.decoder.config.n_positions

    def train(self, mode=True):
        super().train(mode)
        if not self.config.train_encoder:  # a frozen encoder keeps its batch-norm statistics too
            self.image_encoder.eval()
        return self

    # ------------------------------------------------------------------------------------------ stages

    def project_photos(self, photos, photo_mask):
        """Photos (B, T, F) or uint8 pixels (B, T, 3, S, S), mask (B, T) -> image slots (B, T, K, D).

        Where no photo is there at all, `photos` may have any size: only those that photo_mask tells of are read.
        """
        B, T = photo_mask.shape
        K = self.config.image_slots
        features = torch.zeros(B, T, self.image_encoder.config.feature_size, dtype=self.dtype, device=photos.device)
        if photo_mask.any():
            seen = photos[photo_mask]  # the photos there are
            if photos.dim() == 5:
                with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.train_encoder):
                    seen = self.image_encoder(seen)
            features[photo_mask] = self.standardise(seen.to(features.dtype), photos.dim() == 5)
        slots = self.photo_projection(features).view(B, T, K, self.width)
        return torch.where(photo_mask[:, :, None, None], slots, self.no_photo.to(slots.dtype))

    def standardise(self, features, from_pixels):
        """Features (N, F) with mean 0 and variance 1 each.

        Features computed beforehand have their moments from the start (train.py takes them from the training split).
        Those of pixels move while the encoder learns: they have the batch's, with running ones for later.
        """
        of_batch = self.training and from_pixels and len(features) > 1
        return F.batch_norm(features, self.feature_mean, self.feature_var, training=of_batch)

    def embed(self, input_ids, slots, image_at, beat_mask):
        """Word embeddings (B, L, D) with the image slots put in their places."""
        K = slots.shape[2]
        embeddings = self.decoder.transformer.wte(input_ids)
        story, _ = beat_mask.nonzero(as_tuple=True)
        at = image_at[beat_mask][:, None] + torch.arange(1 - K, 1, device=image_at.device)  # beats there are, K
        return embeddings.index_put((story[:, None].expand_as(at), at), slots[beat_mask].to(embeddings.dtype))

    def decode(self, embeddings, segment_ids, **cache):
        """GPT-2's states (B, L, D). Stories are padded on the right, so the causal mask alone keeps pads unread."""
        return self.decoder.transformer(inputs_embeds=embeddings, token_type_ids=segment_ids, **cache)

    def follow(self, image_states, dyn_states):
        """The latent dynamics over boundary states (B, T, D) each -> h̃_t^d (B, T, D), foreseen at each photo.

        The prediction for beat t reads photos 1..t and sentences 1..t-1.
        """
        B, T, D = image_states.shape
        both = torch.stack([image_states, dyn_states], dim=2).view(B, 2 * T, D)  # h_1^v, h_1^d, h_2^v, …
        return self.dynamics_head(self.dynamics(inputs_embeds=both, use_cache=False).last_hidden_state[:, ::2])

    def changes(self, dyn_states, predicted):
        """Observed Δh_t and expected Δh̃_t (B, T, D), both from where sentence t-1 left the story."""
        first = self.first_dyn.to(dyn_states.dtype).expand(len(dyn_states), 1, -1)
        before = torch.cat([first, dyn_states[:, :-1]], dim=1)
        return dyn_states - before, predicted - before

    def prior(self, expected_change):
        """p(z_t | photos up to t, sentences before t)."""
        return Gaussian(*self.prior_mlp(expected_change).float().chunk(2, dim=-1))

    def posterior(self, observed_change, expected_change):
        """q(z_t | photos and sentences up to t)."""
        both = torch.cat([observed_change, expected_change], dim=-1)
        return Gaussian(*self.posterior_mlp(both).float().chunk(2, dim=-1))

    def plan_bias(self, z):
        """W_z z: what plans (..., Z) add to every word's logit, (..., V)."""
        return self.plan_head(z.to(self.plan_head.weight.dtype))

    @contextmanager
    def planned(self, bias):
        """Within it the decoder writes under plans: the bias (B, V) is added to every logit of its own generate().

        The bias enters where the logits arise, before any softmax, so that it is right for greedy, beam and nucleus
        alike. (transformers applies a logits processor to beam search only after the softmax.)
        """

        def add(head, inputs, logits):  # logits: B times the beams, positions, V
            return logits + bias.repeat_interleave(len(logits) // len(bias), dim=0)[:, None]

        hook = self.decoder.lm_head.register_forward_hook(add)
        try:
            yield
        finally:
            hook.remove()

    def word_logits(self, hidden, bias=None):
        """Logits (N, V) from states (N, D) and the plan's bias (N, V): the linear layer over [h; z], W_h tied."""
        logits = self.decoder.lm_head(hidden)
        return logits if bias is None else logits + bias

    def bow_log_probs(self, hidden):
        """Log-probabilities (B, T, V) of each word of a sentence, in no order, from (B, T, D) about it."""
        return F.linear(hidden, self.decoder.lm_head.weight).float().log_softmax(-1)

    def foreseen_words(self, predicted):
        """Log-probabilities (B, T, V) of each word of the coming sentence, in no order, from h̃_t (B, T, D)."""
        return self.bow_log_probs(self.foresight_head(predicted))

    # ----------------------------------------------------------------------------------------- forward

    def states(self, input_ids, segment_ids, image_at, dyn_at, beat_mask, photos, photo_mask, **_):
        """Everything that is read off a batch of whole stories, as States."""
        slots = self.project_photos(photos, photo_mask)  # B, T, K, D
        hidden = self.decode(self.embed(input_ids, slots, image_at, beat_mask), segment_ids, use_cache=False)[0]
        image_states, dyn = (
            hidden.gather(1, at[:, :, None].expand(-1, -1, hidden.shape[-1])) for at in (image_at, dyn_at)
        )  # B, T, D
        predicted = self.follow(image_states, dyn)
        return States(slots, hidden, dyn, predicted, *self.changes(dyn, predicted))

    def plans(self, states, posterior_dropout=0.0):
        """The prior, and the posterior (None unless plan is cvae), of every beat.

        posterior_dropout: the share of beats whose posterior does not see the expected change. What it then knows of
        the sentence it knows from the state after it, so that this state comes to tell the sentence.
        """
        prior = self.prior(states.expected_change) if self.config.plan != "none" else None
        if self.config.plan != "cvae":
            return prior, None
        expected = states.expected_change
        if posterior_dropout:
            expected = (
                expected * (torch.rand(expected.shape[:2], device=expected.device) >= posterior_dropout)[..., None]
            )
        return prior, self.posterior(states.observed_change, expected)

    def forward(
        self,
        labels,
        beat,
        beat_mask,
        beta=1.0,
        free_bits=0.0,
        bow_weight=0.0,
        photo_weight=0.0,
        foresight_weight=0.0,
        dynamics_weight=1.0,
        posterior_dropout=0.0,
        photo_dropout=0.0,
        num_tokens=None,
        **batch,
    ):
        """The objective over a batch of stories: see PlanCVAEOutput.

        beta weighs the KL; free_bits (nats a dimension and beat) is KL that is not charged; bow_weight, photo_weight,
        foresight_weight and dynamics_weight weigh their terms, and a weight of 0 leaves the term uncomputed, 0;
        posterior_dropout is that of `plans`; photo_dropout the share of stories told without their photos. num_tokens
        divides the loss where this batch is a part of a larger one (gradient accumulation, several processes).
        """
        if photo_dropout:
            seen = torch.rand(len(beat_mask), 1, device=beat_mask.device) >= photo_dropout
            batch["photo_mask"] = batch["photo_mask"] & seen
        states = self.states(beat_mask=beat_mask, **batch)
        prior, posterior = self.plans(states, posterior_dropout)
        zero = states.hidden.new_zeros((), dtype=torch.float32)
        out = PlanCVAEOutput(nll=zero, kl=zero, bow=zero, photo=zero, foresight=zero, dynamics=zero)
        charged_kl = zero
        z = None
        if posterior is not None:
            z = posterior.sample()
            kl = posterior.kl(prior) * beat_mask[:, :, None]  # B, T, Z
            out.kl, out.kl_per_beat = kl.sum(), kl.sum((0, 2)).detach()
            out.posterior_shift = (posterior.mean - prior.mean).detach()
            charged_kl = (kl.clamp(min=free_bits) * beat_mask[:, :, None]).sum() if free_bits else out.kl
        elif prior is not None:
            z = prior.mean

        story, at, words, word_beat = self.predicted_words(labels, beat, beat_mask)
        # index_select, not [word_beat]: on several CPU threads the backward pass of the latter adds in no fixed order
        bias = None if z is None else self.plan_bias(z).flatten(0, 1).index_select(0, word_beat)
        logits = self.word_logits(states.hidden[story, at], bias)  # N, V
        out.nll = F.cross_entropy(logits.float(), words, reduction="sum")
        out.tokens = torch.tensor(len(words), device=words.device)
        if bow_weight or photo_weight or foresight_weight:
            bags = self.bags(words, word_beat, beat_mask)  # B, T, V
        if bow_weight and z is not None:
            out.bow = -(bags * self.bow_log_probs(self.bow_mlp(z.to(self.dtype)))).sum()
        if photo_weight:
            of_photos = self.bow_log_probs(self.photo_head(states.slots.mean(2)))
            seen = batch["photo_mask"][:, :, None]  # there is nothing to learn from a photo that is not there
            out.photo = -(bags * of_photos * seen).sum()
        if foresight_weight and self.config.foresight:
            out.foresight = -(bags * self.foreseen_words(states.predicted)).sum()
        if dynamics_weight:
            target = states.dyn.detach() if self.config.detach_dynamics_target else states.dyn
            error = (states.predicted.float() - target.float()).pow(2).mean(-1)  # B, T
            out.dynamics = (error * beat_mask).sum()
        out.cosine = F.cosine_similarity(
            states.observed_change.float(), states.expected_change.float(), dim=-1
        ).detach()
        total = out.nll + beta * charged_kl + bow_weight * out.bow + photo_weight * out.photo
        total = total + foresight_weight * out.foresight + dynamics_weight * out.dynamics
        out.loss = total / (out.tokens if num_tokens is None else num_tokens)
        return out

    def log_likelihood(self, states, batch, z):
        """log p(words | plans z (B, T, Z) or None) of each story (B), in nats; and how many words, [eos] counted."""
        predicted = self.predicted_words(batch["labels"], batch["beat"], batch["beat_mask"])
        log_p = self.log_p_of_stories(predicted, len(batch["labels"]), self.base_logits(states, predicted), z)
        return log_p, torch.bincount(predicted[0], minlength=len(log_p))

    def base_logits(self, states, predicted):
        """Logits (N, V) of the predicted words before any plan."""
        story, at, _, _ = predicted
        return self.decoder.lm_head(states.hidden[story, at]).float()

    def log_p_of_stories(self, predicted, stories, base, z):
        """log p(words | z (B, T, Z) or None) of each of `stories` stories, from their base logits."""
        story, _, words, word_beat = predicted
        logits = base if z is None else base + self.plan_bias(z).flatten(0, 1)[word_beat].float()
        log_p = -F.cross_entropy(logits, words, reduction="none")  # N
        return log_p.new_zeros(stories).index_add(0, story, log_p)

    def bags(self, words, word_beat, beat_mask):
        """How often each word stands in each sentence (B, T, V): `predicted_words` without their order, or [eos]."""
        (B, T), V = beat_mask.shape, self.decoder.config.vocab_size
        inside = words != self.config.eos_token_id
        counts = torch.bincount(word_beat[inside] * V + words[inside], minlength=B * T * V)
        return counts.view(B, T, V).to(self.dtype)

    @staticmethod
    def predicted_words(labels, beat, beat_mask):
        """Where words are predicted: story and position (N), the words (N), and their row (N) in a (B·T) table."""
        story, at = (labels != -100).nonzero(as_tuple=True)
        return story, at, labels[story, at], story * beat_mask.shape[1] + beat[story, at]

    @torch.no_grad()
    def log_weights(self, labels, beat, beat_mask, samples, generator=None, **batch):
        """log p(y, z) − log q(z | y) of z drawn from q: (samples, B), in nats, for the importance-weighted bound.

        Without a posterior z is the plan that is used, and the weights are log p(y). One decoder pass serves all.
        """
        states = self.states(beat_mask=beat_mask, **batch)
        prior, posterior = self.plans(states)
        predicted = self.predicted_words(labels, beat, beat_mask)
        base = self.base_logits(states, predicted)
        weights = []
        for _ in range(samples):
            z = posterior.sample(generator=generator) if posterior else prior.mean if prior else None
            weight = self.log_p_of_stories(predicted, len(labels), base, z)
            if posterior is not None:
                weight = weight + ((prior.log_prob(z) - posterior.log_prob(z)) * beat_mask).sum(1)
            weights.append(weight)
        return torch.stack(weights)


AutoConfig.register(PlanCVAEConfig.model_type, PlanCVAEConfig)
AutoModel.register(PlanCVAEConfig, PlanCVAE)


def load_checkpoint(path):
    """The model and tokenizer of a checkpoint, or of the best (else the latest) one in a training's output_dir.

    Raises UserError where there is none or it is damaged.
    """
    path = Path(path)
    found = next((p for p in (path, path / BEST, path / LATEST) if (p / "config.json").is_file()), None)
    if found is None:
        raise UserError(f"--checkpoint {path}: no checkpoint there; expected a directory that train.py wrote")
    with loading(f"--checkpoint {found}", "expected the complete directory that train.py wrote"):
        model, report = PlanCVAE.from_pretrained(found, local_files_only=True, output_loading_info=True)
        wrong = sorted({*report["missing_keys"], *report["unexpected_keys"], *map(str, report["mismatched_keys"])})
        if wrong:
            raise UserError(
                f"--checkpoint {found}: its weights do not fit its config.json ({wrong[0]}, {len(wrong)} in all)"
            )
        tokenizer = AutoTokenizer.from_pretrained(found, local_files_only=True)
    if len(tokenizer) > model.decoder.config.vocab_size:
        raise UserError(
            f"--checkpoint {found}: its tokenizer has {len(tokenizer)} tokens, "
            f"its model {model.decoder.config.vocab_size}"
        )
    return model.eval(), tokenizer
