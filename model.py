"""plan-CVAE: a conditional VAE around GPT-2 that draws a plan before each sentence of a story.

Shapes: B stories in a batch, T beats of the longest, M beats of all of them, L sequence length, K
image positions a photo, D decoder width, Z plan width, V vocabulary, F photo feature size, N
predicted words in the batch. A batch is what `dataset.collate` makes. Stories of fewer than T beats
are padded where a network reads them; what is computed per beat is computed for the M beats.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import ModelOutput

from utils.bounds import log_weights
from utils.checkpoint import CARD_TITLE
from utils.cli import PLANS, UserError
from utils.gaussian import Gaussian, Noise, select_beats
from utils.image_encoder import ImageEncoder, ImageEncoderConfig
from utils.loading import load_model_and_tokenizer
from utils.losses import WordLoss, bow_losses, future_words

# ---------------------------------------------------------------------------------------- the model


class PlanCVAEConfig(PreTrainedConfig):
    model_type = "plan_cvae"

    decoder: dict | None = None  # GPT2Config as a dict; None is GPT-2 small
    image_encoder: dict | None = None  # ImageEncoderConfig as a dict; None is ResNet-152
    train_encoder: bool = False  # train the photo encoder with the rest, from pixels
    image_positions: int = 4  # K, sequence positions that a photo fills
    plan: str = "cvae"  # cvae | deterministic (the prior's mean) | none (z = 0)
    plan_size: int = 32  # Z
    dynamics_layers: int = 2  # GPT-2 blocks in the latent dynamic module
    state_bow: bool = False  # the foreseen state tells the words to come, in no order
    # True: the dynamics loss does not move the states that it predicts
    detach_dynamics_target: bool = False
    eos_token_id: int | None = None  # [eos]; ends a sentence and is not a word of it
    # how its stories are written: normalized (VIST's tokens) or original (as typed)
    text: str = "normalized"

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.decoder = self.decoder or GPT2Config().to_dict()
        self.image_encoder = self.image_encoder or ImageEncoderConfig().to_dict()
        if self.plan not in PLANS:
            raise UserError(f"--plan {self.plan}: unknown; expected one of {', '.join(PLANS)}")


@dataclass
class States:
    """What the decoder and the latent dynamics say about a batch of stories."""

    slots: torch.Tensor  # B, T, K, D: the photos as the decoder reads them
    hidden: torch.Tensor  # B, L, D: the decoder's states
    dyn: torch.Tensor  # M, D: h_t^d, the state after sentence t
    predicted: torch.Tensor  # M, D: h̃_t^d, the same as predicted before sentence t
    observed_change: torch.Tensor  # M, D: Δh_t
    expected_change: torch.Tensor  # M, D: Δh̃_t


@dataclass
class PlanCVAEOutput(ModelOutput):
    """The loss, and its terms for the record: sums over the batch in nats, of which kl and dynamics
    have gradients."""

    # (nll + β·kl + the others, each times its weight) / predicted tokens
    loss: torch.Tensor | None = None
    nll: torch.Tensor | None = None  # −log p(words | z, what came before)
    kl: torch.Tensor | None = None  # KL(posterior ‖ prior), without free bits
    bow: torch.Tensor | None = None  # −log p(words | z), in no order (Zhao et al. 2017)
    # −log p(words of the sentences to come | z), in no order, a mean over them
    future_bow: torch.Tensor | None = None
    photo_bow: torch.Tensor | None = None  # −log p(words | photo), in no order
    # −log p(words | h̃_t), in no order: the state foreseen before them
    state_bow: torch.Tensor | None = None
    dynamics: torch.Tensor | None = None  # Σ_t ‖h̃_t^d − h_t^d‖² / D
    tokens: torch.Tensor | None = None  # how many words (and [eos]) were predicted
    kl_per_beat: torch.Tensor | None = None  # M
    posterior: Gaussian | None = None  # M, Z, in the prior's units, without gradients
    cosine: torch.Tensor | None = None  # M: cos(Δh, Δh̃)
    # samples, M: the importance-weighted bound is made of, on request
    log_weights: torch.Tensor | None = None


class PlanCVAE(PreTrainedModel):
    """The story model. Build one with `PlanCVAE.build`, load one with
    `PlanCVAE.from_pretrained(directory)`."""

    config_class = PlanCVAEConfig
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.image_encoder = ImageEncoder(ImageEncoderConfig(**config.image_encoder))
        self.decoder = GPT2LMHeadModel(GPT2Config(**config.decoder))
        D, K, Z, V = (
            self.width,
            config.image_positions,
            config.plan_size,
            self.decoder.config.vocab_size,
        )
        feature_size = self.image_encoder.config.feature_size

        # One linear layer over standardised features: a narrow hidden layer lost what sets photos
        # of a kind apart (the hero's colour) long before the words had learned to ask for it.
        self.register_buffer("feature_mean", torch.zeros(feature_size))
        self.register_buffer("feature_var", torch.ones(feature_size))
        self.photo_projection = nn.Linear(feature_size, K * D)
        self.no_photo = nn.Parameter(torch.zeros(K, D))
        self.photo_bow_head = nn.Linear(D, D)

        # The latent dynamic module reads states, not words: it has no word embeddings.
        no_words = {
            "vocab_size": 1,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
        }
        self.dynamics = GPT2Model(
            GPT2Config(**{**config.decoder, **no_words, "n_layer": config.dynamics_layers})
        )
        self.dynamics.wte = None
        self.dynamics_head = nn.Linear(D, D)
        self.first_dyn = nn.Parameter(torch.zeros(D))  # h_0^d

        # An ablation has no parameters that it does not use (several GPUs would wait for their
        # gradients).
        if config.plan != "none":
            self.prior_mlp = nn.Sequential(nn.Linear(D, D), nn.GELU(), nn.Linear(D, 2 * Z))
            self.plan_head = nn.Linear(Z, V, bias=False)  # W_z
            self.bow_bias = nn.Parameter(torch.zeros(V))
            self.future_bow_mlp = nn.Sequential(nn.Linear(Z, D), nn.GELU(), nn.Linear(D, D))
        if config.plan == "cvae":
            self.posterior_mlp = nn.Sequential(nn.Linear(2 * D, D), nn.GELU(), nn.Linear(D, 2 * Z))
        if config.state_bow:
            self.state_bow_head = nn.Linear(D, D)
        self.first_dyn.requires_grad_(config.plan != "none")
        self.image_encoder.requires_grad_(config.train_encoder)
        self.post_init()

    def _init_weights(self, module):
        """What stands around GPT-2 and the encoder, which initialise themselves."""
        if isinstance(module, nn.Linear):
            # torch's own scale, 1/sqrt(fan in). GPT-2's 0.02 is for layers that add to a residual
            # stream; through the few units of a plan it would leave a signal so small that the
            # words never learn to listen to it.
            module.reset_parameters()
        elif module is self:  # "nothing yet" and "no photo" start as one more small embedding
            nn.init.normal_(self.no_photo, std=0.02)
            nn.init.normal_(self.first_dyn, std=0.02)

    @classmethod
    def build(cls, decoder, image_encoder, **fields):
        """A model around a GPT2LMHeadModel and an ImageEncoder, pretrained or not; fields are
        PlanCVAEConfig's."""
        config = PlanCVAEConfig(
            decoder=decoder.config.to_dict(), image_encoder=image_encoder.config.to_dict(), **fields
        )
        model = cls(config)
        model.decoder.load_state_dict(decoder.state_dict())
        model.image_encoder.load_state_dict(image_encoder.state_dict())
        return model

    def _upload_modified_files(self, working_dir, *args, **kwargs):
        """What push_to_hub() sends: with the card of the checkpoint that the model is of, in place
        of an empty one."""
        card, sent = Path(self.name_or_path, "README.md"), Path(working_dir, "README.md")
        there = sent.read_text(encoding="utf-8")  # the hub's own, or transformers' empty one
        ours = "automatically generated" in there or CARD_TITLE in there
        if self.name_or_path and card.is_file() and ours:
            sent.write_bytes(card.read_bytes())
        return super()._upload_modified_files(working_dir, *args, **kwargs)

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

    # --------------------------------------------------------------------------------------- stages

    def project_photos(self, photos, photo_mask):
        """Photos (B, T, F) or uint8 pixels (B, T, 3, S, S), mask (B, T) -> (B, T, K, D).

        Where no photo is there at all, `photos` may be (B, T, 0).
        """
        B, T = photo_mask.shape
        size = self.image_encoder.config.feature_size
        if photos.dim() == 3 and photos.shape[2]:
            features = photos.to(self.dtype).masked_fill(~photo_mask[..., None], 0)
            features = self.standardise(features.view(B * T, size), from_pixels=False)
        else:
            features = torch.zeros(B * T, size, dtype=self.dtype, device=photos.device)
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.train_encoder):
                if photos.dim() == 5 and photo_mask.any():
                    seen = self.image_encoder(photos[photo_mask])  # the photos there are
                    features[photo_mask.flatten()] = self.standardise(
                        seen.to(features.dtype), from_pixels=True
                    )
                elif photos.dim() == 5 and self.training and self.config.train_encoder:
                    # Other processes may have photos, and wait for this one's gradients.
                    features = features + 0 * self.image_encoder(photos[:1, 0]).to(features.dtype)
        slots = self.photo_projection(features).view(B, T, self.config.image_positions, self.width)
        return torch.where(photo_mask[:, :, None, None], slots, self.no_photo.to(slots.dtype))

    def standardise(self, features, from_pixels):
        """Features (N, F) with mean 0 and variance 1 each.

        Features computed beforehand have their moments from the start (train.py takes them from the
        training split). Those of pixels move while the encoder learns: they have the batch's, with
        running ones for later.
        """
        of_batch = self.training and from_pixels and len(features) > 1
        return F.batch_norm(features, self.feature_mean, self.feature_var, training=of_batch)

    def embed(self, input_ids, segment_ids, slots, image_at, beats):
        """What the decoder reads (B, L, D): word embeddings, the photos in their places,
        and the segments'."""
        (B, L), (T, K) = input_ids.shape, slots.shape[1:3]
        # one gradient for both
        words, segments = self.decoder.transformer.wte(torch.stack([input_ids, segment_ids]))
        slots = slots.flatten(0, 1).index_select(0, beats)  # M, K, D: of the beats there are
        first = image_at.flatten().index_select(0, beats) + beats // T * L + 1 - K
        at = first[:, None] + torch.arange(K, device=first.device)
        words = words.flatten(0, 1).index_copy(0, at.flatten(), slots.flatten(0, 1).to(words.dtype))
        return words.view(B, L, -1) + segments

    def decode(self, embeddings, **cache):
        """GPT-2's states (B, L, D). Stories are padded on the right, so the causal mask alone keeps
        pads unread."""
        return self.decoder.transformer(inputs_embeds=embeddings, **cache)

    def predict_states(self, image_states, dyn_states, beats):
        """The latent dynamics over boundary states (B, T, D) each -> h̃_t^d (M, D) of `beats`.

        What is predicted at photo t reads photos 1..t and sentences 1..t-1.
        """
        B, T, D = image_states.shape
        both = torch.stack([image_states, dyn_states], dim=2)  # h_1^v, h_1^d, h_2^v, …
        both = both.view(B, 2 * T, D)
        hidden = self.dynamics(inputs_embeds=both, use_cache=False).last_hidden_state
        return self.dynamics_head(select_beats(hidden[:, ::2], beats))

    def state_deltas(self, dyn_states, predicted, beats):
        """Observed Δh_t and expected Δh̃_t (M, D) of `beats`, from h_t^d (B, T, D) and h̃_t^d
        (M, D): both from where sentence t-1 left the story."""
        first = self.first_dyn.to(dyn_states.dtype).expand(len(dyn_states), 1, -1)
        before = select_beats(torch.cat([first, dyn_states[:, :-1]], dim=1), beats)
        return select_beats(dyn_states, beats) - before, predicted - before

    def prior(self, expected_change):
        """p(z_t | photos up to t, sentences before t)."""
        return Gaussian.from_output(self.prior_mlp(expected_change))

    def posterior(self, observed_change, expected_change):
        """q(z_t | photos and sentences up to t)."""
        both = torch.cat([observed_change, expected_change], dim=-1)
        return Gaussian.from_output(self.posterior_mlp(both))

    def plan_bias(self, z):
        """W_z z: what plans (..., Z) add to every word's logit, (..., V)."""
        return self.plan_head(z.to(self.plan_head.weight.dtype))

    @contextmanager
    def add_plan_bias(self, bias):
        """Within it the decoder writes under plans: the bias (B, V) is added to every logit of its
        own generate().

        The bias enters where the logits arise, before any softmax, so that it is right for greedy,
        beam and nucleus alike. (transformers applies a logits processor to beam search only after
        the softmax.)
        """

        def add(head, inputs, logits):  # logits: B times the beams, positions, V
            return logits + bias.repeat_interleave(len(logits) // len(bias), dim=0)[:, None]

        hook = self.decoder.lm_head.register_forward_hook(add)
        try:
            yield
        finally:
            hook.remove()

    def word_loss(self, hidden, z, words, word_beat, weight):
        """−log p(words | z) of words (N) after states (N, D), times weight: the linear layer over
        [h; z], W_h tied.

        z: M, Z, or None. Returns the sum, and the summands (N), which have no gradient.
        """
        pairs = [hidden, self.decoder.lm_head.weight]
        if z is not None:
            # index_select, not [word_beat]: on several CPU threads the gradient of the latter adds
            # in no fixed order
            z = z.to(self.plan_head.weight.dtype)
            pairs += [z.index_select(0, word_beat), self.plan_head.weight]
        return WordLoss.of(words, None, weight, *pairs)

    def plan_bow_loss(self, z, words, word_beat, weight):
        """−log p(words of sentence t, in no order | z_t) under softmax(W_z z + b): by what the plan
        adds to the logits.

        So the bag teaches the very matrix by which the decoder listens to the plan. Returns what
        `word_loss` does.
        """
        z = z.to(self.plan_head.weight.dtype)
        pairs = [z, self.plan_head.weight, z.new_ones(len(z), 1), self.bow_bias[:, None]]
        return WordLoss.of(words, word_beat, weight, *pairs)

    def expected_words(self, predicted):
        """Log-probabilities (M, V) of each word of the coming sentence, in no order, from h̃_t (M,
        D)."""
        return self.decoder.lm_head(self.state_bow_head(predicted)).float().log_softmax(-1)

    # -------------------------------------------------------------------------------------- forward

    def states(self, input_ids, segment_ids, image_at, dyn_at, beats, photos, photo_mask, **_):
        """Everything that is read off a batch of whole stories, as States."""
        slots = self.project_photos(photos, photo_mask)  # B, T, K, D
        hidden = self.decode(
            self.embed(input_ids, segment_ids, slots, image_at, beats), use_cache=False
        )[0]
        image_states = self.states_at(hidden, image_at, beats)  # B, T, D
        dyn_states = self.states_at(hidden, dyn_at, beats)
        predicted = self.predict_states(image_states, dyn_states, beats)  # M, D
        changes = self.state_deltas(dyn_states, predicted, beats)
        return States(slots, hidden, select_beats(dyn_states, beats), predicted, *changes)

    @staticmethod
    def states_at(hidden, at, beats):
        """hidden (B, L, D) at positions (B, T) -> (B, T, D), zeros where there is no beat."""
        (B, L, D), T = hidden.shape, at.shape[1]
        position = at.flatten().index_select(0, beats) + beats // T * L
        there = hidden.flatten(0, 1).index_select(0, position)  # M, D
        return there.new_zeros(B * T, D).index_copy(0, beats, there).view(B, T, D)

    def plans(self, states, unseen=None):
        """The prior, and the posterior (None unless plan is cvae), of every beat.

        unseen: (M), the beats whose posterior does not see the expected change. What it then knows
        of the sentence it knows from the state after it, so that this state comes to tell the
        sentence.
        """
        prior = self.prior(states.expected_change) if self.config.plan != "none" else None
        if self.config.plan != "cvae":
            return prior, None
        expected = states.expected_change
        if unseen is not None:
            expected = expected.masked_fill(unseen[:, None], 0)
        return prior, self.posterior(states.observed_change, expected)

    def forward(
        self,
        words,
        word_at,
        word_beat,
        beat_mask,
        beats,
        beta=1.0,
        free_bits=0.0,
        bow_weight=0.0,
        future_bow_weight=0.0,
        photo_bow_weight=0.0,
        state_bow_weight=0.0,
        dynamics_weight=1.0,
        posterior_dropout=0.0,
        photo_dropout=0.0,
        num_tokens=None,
        draws=None,
        iwae_noise=None,
        **batch,
    ):
        """The objective over a batch of stories: see PlanCVAEOutput.

        beta weighs the KL; free_bits (nats a dimension and beat) is KL that is not charged;
        the bow weights and dynamics_weight weigh their
        terms, and a weight of 0 leaves it uncomputed; posterior_dropout is the share of beats whose
        posterior sees the observed change alone, photo_dropout that of stories told without their
        photos. num_tokens divides the loss where this batch is a part of a larger one (gradient
        accumulation, several processes). draws: what is random, Draws, or None to draw it here;
        iwae_noise (samples, B, T, Z) adds log_weights.
        """
        if draws is None:
            (B, T), on = beat_mask.shape, {"device": beat_mask.device}
            plans = torch.randn(B, T, self.config.plan_size, **on)
            draws = Noise(plans, torch.rand(B, T, **on), torch.rand(B, 1, **on))
        if photo_dropout:
            batch["photo_mask"] = batch["photo_mask"] & (draws.stories >= photo_dropout)
        states = self.states(beats=beats, **batch)
        unseen = select_beats(draws.beats, beats) < posterior_dropout if posterior_dropout else None
        prior, posterior = self.plans(states, unseen)
        num_tokens = torch.as_tensor(
            len(words) if num_tokens is None else num_tokens, device=words.device
        )
        zero = states.hidden.new_zeros((), dtype=torch.float32)
        out = PlanCVAEOutput(
            nll=zero,
            kl=zero,
            bow=zero,
            future_bow=zero,
            photo_bow=zero,
            state_bow=zero,
            dynamics=zero,
        )
        charged_kl = zero
        z = None
        if posterior is not None:
            z = posterior.sample(select_beats(draws.plans, beats))
            kl = posterior.kl(prior)  # M, Z
            out.kl, out.kl_per_beat = kl.sum(), kl.sum(1).detach()
            out.posterior = posterior.relative_to(prior).detach()
            charged_kl = kl.clamp(min=free_bits).sum()
        elif prior is not None:
            z = prior.mean

        hidden = states.hidden.flatten(0, 1).index_select(0, word_at)  # N, D
        loss, nll = self.word_loss(hidden, z, words, word_beat, 1 / num_tokens)
        out.nll = nll.sum() * num_tokens
        out.tokens = torch.tensor(len(words), device=words.device)
        inside = words != self.config.eos_token_id
        bag, bag_beat = words[inside], word_beat[inside]  # the words of each sentence, in no order
        if bow_weight and z is not None:
            in_no_order, bow = self.plan_bow_loss(z, bag, bag_beat, bow_weight / num_tokens)
            loss, out.bow = loss + in_no_order, bow.sum() * num_tokens / bow_weight
        # what is known at each beat, the term's weight, the words to tell, of which beat, and how
        # much
        tellers = {}
        once = torch.ones(len(bag), device=words.device)
        if future_bow_weight and z is not None:
            later = future_words(bag, bag_beat, beats, beat_mask)
            tellers["future_bow"] = self.future_bow_mlp(z.to(self.dtype)), future_bow_weight, *later
        if photo_bow_weight:  # there is nothing to learn from a photo that is not there
            seen = select_beats(batch["photo_mask"], beats)[bag_beat]
            known = self.photo_bow_head(select_beats(states.slots.mean(2), beats))
            tellers["photo_bow"] = known, photo_bow_weight, bag[seen], bag_beat[seen], once[seen]
        if state_bow_weight and self.config.state_bow:
            known = self.state_bow_head(states.predicted)
            tellers["state_bow"] = known, state_bow_weight, bag, bag_beat, once
        if tellers:
            in_no_order, terms = bow_losses(tellers, self.decoder.lm_head.weight, num_tokens)
            loss = loss + in_no_order
            for name, term in terms.items():
                setattr(out, name, term)
        if dynamics_weight:
            target = states.dyn.detach() if self.config.detach_dynamics_target else states.dyn
            error = (states.predicted.float() - target.float()).pow(2).mean(-1)  # M
            out.dynamics = error.sum()
        out.cosine = F.cosine_similarity(
            states.observed_change.float(), states.expected_change.float(), dim=-1
        ).detach()
        out.loss = loss + (beta * charged_kl + dynamics_weight * out.dynamics) / num_tokens
        if iwae_noise is not None:
            noise = iwae_noise.flatten(1, 2).index_select(1, beats)  # samples, M, Z
            out.log_weights = log_weights(
                self, prior, posterior, noise, hidden, words, word_beat, len(beats)
            )
        return out


AutoConfig.register(PlanCVAEConfig.model_type, PlanCVAEConfig)
AutoModel.register(PlanCVAEConfig, PlanCVAE)


def load_checkpoint(path):
    """The model and tokenizer of a checkpoint, or of the best (else the latest) one in a training's
    output_dir. Raises UserError, a ValueError, where there is none or it is damaged."""
    return load_model_and_tokenizer(PlanCVAE, path)
