"""plan-CVAE: a conditional VAE around GPT-2 that draws a plan before each sentence of a story.

Shapes: B stories in a batch, T beats of the longest, M beats in all, L sequence length, K image
positions per photo, D decoder width, Z plan width, V vocabulary, F photo feature size, N predicted
words in the batch. A batch is what `dataset.collate` makes. Networks read stories padded to T
beats; everything else is computed for the M beats.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.gpt2 import GPT2Config, GPT2LMHeadModel, GPT2Model
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from utils.bounds import log_weights
from utils.cli import PLANS, UserError
from utils.gaussian import Gaussian, Noise, sample_plans, select_beats
from utils.image_encoder import ImageEncoder, ImageEncoderConfig
from utils.loading import load_model_and_tokenizer
from utils.losses import bow_loss, future_words, linear_cross_entropy
from utils.outputs import PlanCVAEOutput, States
from utils.structure import BOS, STRUCTURE, InputEmbedding, embed_ids, normalise_states


class PlanCVAEConfig(PreTrainedConfig):
    model_type = "plan_cvae"

    decoder: dict | None = None  # GPT2Config as a dict; None is GPT-2 small
    image_encoder: dict | None = None  # ImageEncoderConfig as a dict; None is ResNet-152
    train_encoder: bool = False  # train the image encoder too, from pixels
    image_positions: int = 4  # K
    photo_projection: str = "all"  # of all features to K positions, or of each cell to one
    plan: str = "cvae"  # cvae | deterministic (the prior's mean) | none (z = 0)
    plan_size: int = 32  # Z
    dynamics_layers: int = 2  # GPT-2 blocks in the latent dynamic module
    state_bow: bool = False  # the predicted state predicts the coming sentence's bag of words
    text: str = "normalized"  # what it writes: normalized (VIST's tokens) or original (as typed)

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.decoder = self.decoder or GPT2Config().to_dict()
        self.image_encoder = self.image_encoder or ImageEncoderConfig().to_dict()
        if self.photo_projection == "cell":
            self.image_positions = self.image_encoder["grid"] ** 2
        if self.plan not in PLANS:
            raise UserError(f"--plan {self.plan}: unknown; expected one of {', '.join(PLANS)}")


class PlanCVAE(PreTrainedModel):
    """The story model: `PlanCVAE.build` makes one, `PlanCVAE.from_pretrained(directory)` loads
    one."""

    config_class = PlanCVAEConfig
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, config: PlanCVAEConfig):
        super().__init__(config)
        self.image_encoder = ImageEncoder(ImageEncoderConfig(**config.image_encoder))
        self.decoder = GPT2LMHeadModel(GPT2Config(**config.decoder))
        D, K, Z = self.width, config.image_positions, config.plan_size
        V = self.decoder.config.vocab_size
        feature_size = self.image_encoder.config.feature_size

        self.structure_embedding = nn.Embedding(len(STRUCTURE), D)
        # One linear layer over standardised features: a narrow hidden layer lost what sets photos
        # of a kind apart (the hero's colour) before the words had learned to ask for it.
        self.register_buffer("feature_mean", torch.zeros(feature_size))
        self.register_buffer("feature_var", torch.ones(feature_size))
        parts = K if config.photo_projection == "cell" else 1
        self.photo_projection = nn.Linear(feature_size // parts, K // parts * D)
        self.no_photo = nn.Parameter(torch.zeros(K, D))
        self.photo_bow_head = nn.Linear(D, D)

        no_words = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
        no_words |= {"vocab_size": 1, "n_layer": config.dynamics_layers}
        self.dynamics = GPT2Model(GPT2Config(**config.decoder | no_words))
        self.dynamics.wte = None  # it reads states
        self.dynamics_head = nn.Linear(D, D)
        self.initial_state = nn.Parameter(torch.zeros(D))  # h_0^d

        # Only what the ablation uses: with several processes DDP waits for every gradient.
        if config.plan != "none":
            self.prior_mlp = mlp(D, D, 2 * Z)
            self.plan_head = nn.Linear(Z, V, bias=False)  # W_z
            self.bow_bias = nn.Parameter(torch.zeros(V))
            self.future_bow_mlp = mlp(Z, D, D)
        if config.plan == "cvae":
            self.posterior_mlp = mlp(2 * D, D, 2 * Z)
        if config.state_bow:
            self.state_bow_head = nn.Linear(D, D)
        self.initial_state.requires_grad_(config.plan != "none")
        self.image_encoder.requires_grad_(config.train_encoder)
        self.post_init()
        self.generation_config = GenerationConfig()  # how it writes; a checkpoint carries its own

    def _init_weights(self, module: nn.Module):
        """For the new parts; GPT-2 and the encoder initialise themselves."""
        if isinstance(module, nn.Linear):
            # torch's scale, 1/sqrt(fan in). GPT-2's 0.02 is for layers that add to a residual
            # stream; through the few units of a plan the words would never learn to listen.
            module.reset_parameters()
        elif module is self:
            nn.init.normal_(self.initial_state)  # as large as the normalised states

    @classmethod
    def build(
        cls,
        decoder: GPT2LMHeadModel,
        image_encoder: ImageEncoder,
        is_pretrained: bool = False,
        **config_fields,
    ) -> "PlanCVAE":
        """A model around a decoder, pretrained or not, and an image encoder."""
        config = PlanCVAEConfig(
            decoder=decoder.config.to_dict(),
            image_encoder=image_encoder.config.to_dict(),
            **config_fields,
        )
        model = cls(config)
        model.decoder.load_state_dict(decoder.state_dict())
        model.image_encoder.load_state_dict(image_encoder.state_dict())
        model.start_as_decoder(is_pretrained)
        return model

    @torch.no_grad()
    def start_as_decoder(self, is_pretrained: bool) -> None:
        """Initialise what the decoder reads at the scale of its word embeddings, [bos] as its end
        of text. The plan adds nothing yet to the logits of a pretrained decoder."""
        words, eos = self.decoder.get_input_embeddings().weight, self.decoder.config.eos_token_id
        scale = words.square().mean().sqrt().item()
        std = scale / math.sqrt(self.photo_projection.in_features)
        nn.init.normal_(self.photo_projection.weight, std=std)
        nn.init.zeros_(self.photo_projection.bias)
        nn.init.normal_(self.no_photo, std=scale)
        nn.init.normal_(self.structure_embedding.weight, std=scale)
        if eos is not None:
            self.structure_embedding.weight[-1 - BOS] = words[eos]
        if is_pretrained and self.config.plan != "none":
            nn.init.zeros_(self.plan_head.weight)

    @property
    def width(self) -> int:
        """D."""
        return self.decoder.config.n_embd

    @property
    def max_length(self) -> int:
        """The longest sequence, in positions."""
        return self.decoder.config.n_positions

    def train(self, mode: bool = True) -> "PlanCVAE":
        super().train(mode)
        if not self.config.train_encoder:  # a frozen encoder keeps its batch-norm statistics
            self.image_encoder.eval()
        return self

    # --------------------------------------------------------------------------------------- stages

    def project_photos(self, photos: Tensor, photo_mask: Tensor) -> Tensor:
        """Features (B, T, F), pixels (B, T, 3, S, S) or nothing (B, T, 0), mask (B, T) -> (B, T,
        K, D)."""
        B, T = photo_mask.shape
        photo_mask = photo_mask.flatten()
        if photos.dim() == 5:
            features = self.encode_pixels(photos.flatten(0, 1), photo_mask)
        elif photos.shape[2]:
            features = photos.flatten(0, 1).to(self.dtype).masked_fill(~photo_mask[:, None], 0)
            features = self.standardise(features, use_batch_statistics=False)
        else:
            size = self.image_encoder.config.feature_size
            features = torch.zeros(B * T, size, dtype=self.dtype, device=photos.device)
        if self.config.photo_projection == "cell":  # N, C·K -> N, K, C
            cells = features.unflatten(1, (-1, self.config.image_positions))
            features = cells.transpose(1, 2)
        embeddings = self.photo_projection(features)
        embeddings = embeddings.view(B * T, self.config.image_positions, self.width)
        no_photo = self.no_photo.to(embeddings.dtype)
        return torch.where(photo_mask[:, None, None], embeddings, no_photo).unflatten(0, (B, T))

    def encode_pixels(self, pixels: Tensor, photo_mask: Tensor) -> Tensor:
        """Pixels (B·T, 3, S, S), mask (B·T) -> standardised features (B·T, F), zeros where there
        is no photo."""
        size = self.image_encoder.config.feature_size
        features = torch.zeros(len(pixels), size, dtype=self.dtype, device=pixels.device)
        train_encoder = self.training and self.config.train_encoder
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.train_encoder):
            if photo_mask.any():
                encoded = self.image_encoder(pixels[photo_mask]).to(features.dtype)
                features[photo_mask] = self.standardise(encoded, use_batch_statistics=self.training)
            elif train_encoder:
                # Other processes may have photos, and wait for this one's gradients.
                features = features + 0 * self.image_encoder(pixels[:1]).to(features.dtype)
        return features

    def standardise(self, features: Tensor, use_batch_statistics: bool) -> Tensor:
        """Features (N, F) with mean 0 and variance 1 each.

        Those computed beforehand have fixed moments, of the training split. Those of pixels move
        while the encoder learns: they have the batch's, with running ones for evaluation.
        """
        training = use_batch_statistics and len(features) > 1
        return F.batch_norm(features, self.feature_mean, self.feature_var, training=training)

    def embed(
        self, input_ids: Tensor, image_embeddings: Tensor, image_at: Tensor, beats: Tensor
    ) -> Tensor:
        """The decoder's input (B, L, D): words, structural embeddings, photos in their places."""
        (B, L), (T, K) = input_ids.shape, image_embeddings.shape[1:3]
        words = self.decoder.get_input_embeddings()
        embeddings = embed_ids(input_ids, words, self.structure_embedding).flatten(0, 1)
        images = select_beats(image_embeddings, beats).to(embeddings.dtype)  # M, K, D
        last = image_at.flatten().index_select(0, beats) + beats // T * L
        positions = last[:, None] + torch.arange(1 - K, 1, device=last.device)  # M, K
        embeddings = embeddings.index_copy(0, positions.flatten(), images.flatten(0, 1))
        return embeddings.view(B, L, -1)

    def decode(self, embeddings: Tensor, **kwargs) -> BaseModelOutputWithPastAndCrossAttentions:
        """GPT-2 over embeddings (B, L, D). Padding is on the right: the causal mask hides it."""
        return self.decoder.transformer(inputs_embeds=embeddings, **kwargs)

    def predict_states(self, image_states: Tensor, dyn_states: Tensor, beats: Tensor) -> Tensor:
        """The latent dynamic module: h_t^v and h_t^d (B, T, D) -> h̃_t^d (M, D).

        The prediction at photo t reads photos 1..t and sentences 1..t−1.
        """
        sequence = torch.stack([image_states, dyn_states], dim=2).flatten(1, 2)  # B, 2 T, D
        hidden = self.dynamics(inputs_embeds=sequence, use_cache=False).last_hidden_state
        return normalise_states(self.dynamics_head(select_beats(hidden[:, ::2], beats)))

    def state_deltas(
        self, dyn_states: Tensor, predicted: Tensor, beats: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Observed Δh_t and expected Δh̃_t (M, D), from h_t^d (B, T, D) and h̃_t^d (M, D); both
        subtract h_{t−1}^d."""
        initial = self.initial_state.to(dyn_states.dtype).expand(len(dyn_states), 1, -1)
        previous = select_beats(torch.cat([initial, dyn_states[:, :-1]], dim=1), beats)
        return select_beats(dyn_states, beats) - previous, predicted - previous

    def prior(self, expected_change: Tensor) -> Gaussian:
        """p(z_t | photos up to t, sentences before t)."""
        return Gaussian.from_output(self.prior_mlp(expected_change))

    def posterior(self, observed_change: Tensor, expected_change: Tensor) -> Gaussian:
        """q(z_t | photos and sentences up to t)."""
        changes = torch.cat([observed_change, expected_change], dim=-1)
        return Gaussian.from_output(self.posterior_mlp(changes))

    def plan_bias(self, z: Tensor) -> Tensor:
        """W_z z (..., V): what plans (..., Z) add to the logits."""
        return self.plan_head(z.to(self.plan_head.weight.dtype))

    @contextmanager
    def under_plan(self, bias: Tensor) -> Iterator[None]:
        """Within it, the decoder's own generate() reads structural positions and adds bias (B, V)
        to all logits.

        A logits processor would not do: beam search applies it only after the softmax.
        """

        def add_bias(head, inputs, logits):  # logits: B times the beams, positions, V
            return logits + bias.repeat_interleave(len(logits) // len(bias), dim=0)[:, None]

        words = self.decoder.get_input_embeddings()
        self.decoder.set_input_embeddings(InputEmbedding(words, self.structure_embedding))
        hook = self.decoder.lm_head.register_forward_hook(add_bias)
        try:
            yield
        finally:
            hook.remove()
            self.decoder.set_input_embeddings(words)

    def word_loss(
        self, hidden: Tensor, z: Tensor | None, words: Tensor, word_beat: Tensor
    ) -> Tensor:
        """−log p(words | z), summed, of words (N) after states (N, D) under plans (M, Z)."""
        factors = [hidden, self.decoder.lm_head.weight]
        if z is not None:
            # not z[word_beat], whose gradient CPU threads add in no fixed order
            z = z.to(self.plan_head.weight.dtype).index_select(0, word_beat)
            factors += [z, self.plan_head.weight]
        return linear_cross_entropy(words, *factors)

    def bow_logits(self, x: Tensor) -> Tensor:
        """Logits (M, V) of a bag of words from x (M, D) by the decoder's output embeddings, as a
        constant: auxiliary terms move them by what is read alone."""
        return F.linear(x, self.decoder.lm_head.weight.detach())

    def expected_words(self, predicted: Tensor) -> Tensor:
        """Log-probabilities (M, V) of the coming sentence's bag of words from h̃_t^d (M, D)."""
        return self.bow_logits(self.state_bow_head(predicted)).float().log_softmax(-1)

    # -------------------------------------------------------------------------------------- forward

    def states(
        self,
        input_ids: Tensor,
        image_at: Tensor,
        dyn_at: Tensor,
        beats: Tensor,
        photos: Tensor,
        photo_mask: Tensor,
        **_,
    ) -> States:
        """One pass over a batch of whole stories."""
        image_embeddings = self.project_photos(photos, photo_mask)  # B, T, K, D
        embeddings = self.embed(input_ids, image_embeddings, image_at, beats)
        hidden = self.decode(embeddings, use_cache=False).last_hidden_state
        return self.changes(image_embeddings, hidden, image_at, dyn_at, beats)

    def changes(
        self,
        image_embeddings: Tensor,
        hidden: Tensor,
        image_at: Tensor,
        dyn_at: Tensor,
        beats: Tensor,
        **_,
    ) -> States:
        """The decoder's states (B, L, D) -> those of beats, their predictions, the changes."""
        image_states = self.states_at(hidden, image_at, beats)  # B, T, D
        dyn_states = self.states_at(hidden, dyn_at, beats)  # B, T, D
        predicted = self.predict_states(image_states, dyn_states, beats)  # M, D
        observed, expected = self.state_deltas(dyn_states, predicted, beats)
        dyn = select_beats(dyn_states, beats)
        return States(image_embeddings, hidden, dyn, predicted, observed, expected)

    @staticmethod
    def states_at(hidden: Tensor, at: Tensor, beats: Tensor) -> Tensor:
        """hidden (B, L, D) at positions (B, T), normalised -> (B, T, D), zeros where there is no
        beat."""
        (B, L, D), T = hidden.shape, at.shape[1]
        positions = at.flatten().index_select(0, beats) + beats // T * L
        states = normalise_states(hidden.flatten(0, 1).index_select(0, positions))  # M, D
        return states.new_zeros(B * T, D).index_copy(0, beats, states).view(B, T, D)

    def plans(
        self, states: States, dropped: Tensor | None = None
    ) -> tuple[Gaussian | None, Gaussian | None]:
        """Prior and posterior of every beat; None where the ablation has none.

        dropped (M): beats whose posterior does not see the expected change. What it then knows of
        the sentence comes from the state after it, which so learns to hold the sentence.
        """
        prior = posterior = None
        expected = states.expected_change
        if self.config.plan != "none":
            prior = self.prior(expected)
        if self.config.plan == "cvae":
            if dropped is not None:
                expected = expected.masked_fill(dropped[:, None], 0)
            posterior = self.posterior(states.observed_change, expected)
        return prior, posterior

    def bow_losses(
        self, states: States, z: Tensor | None, batch: dict, weights: dict[str, float]
    ) -> dict[str, Tensor]:
        """The bag-of-words terms whose weight is not 0, by name."""
        beats, is_word = batch["beats"], batch["is_word"]
        words, word_beat = batch["words"][is_word], batch["word_beat"][is_word]
        losses = {}
        if weights["bow"] and z is not None:
            # by W_z itself, so that the term teaches the decoder to listen to the plan
            logits = self.plan_bias(z) + self.bow_bias
            losses["bow"] = bow_loss(logits, words, word_beat)
        if weights["future_bow"] and z is not None:
            logits = self.bow_logits(self.future_bow_mlp(z.to(self.dtype)))
            later = future_words(words, word_beat, beats, batch["beat_mask"])
            losses["future_bow"] = bow_loss(logits, *later)
        if weights["photo_bow"]:
            photos = select_beats(states.image_embeddings.mean(2), beats)
            logits = self.bow_logits(self.photo_bow_head(photos))
            has_photo = select_beats(batch["photo_mask"], beats)[word_beat]
            losses["photo_bow"] = bow_loss(logits, words[has_photo], word_beat[has_photo])
        if weights["state_bow"] and self.config.state_bow:
            logits = self.bow_logits(self.state_bow_head(states.predicted))
            losses["state_bow"] = bow_loss(logits, words, word_beat)
        return losses

    def forward(
        self,
        beta: float = 1.0,
        free_bits: float = 0.0,
        bow_weight: float = 0.0,
        future_bow_weight: float = 0.0,
        photo_bow_weight: float = 0.0,
        state_bow_weight: float = 0.0,
        dynamics_weight: float = 1.0,
        posterior_dropout: float = 0.0,
        photo_dropout: float = 0.0,
        num_tokens: int | Tensor | None = None,
        noise: Noise | None = None,
        iwae_noise: Tensor | None = None,
        **batch: Tensor,
    ) -> PlanCVAEOutput:
        """The objective over a batch of stories.

        free_bits: the least KL that is charged, in nats per dimension and beat. A term of weight 0
        is not computed. posterior_dropout: share of beats whose posterior sees the observed change
        alone; photo_dropout: share of stories without their photos. num_tokens divides the loss
        where the batch is a part of a larger one. noise: drawn here if None. iwae_noise
        (samples, B, T, Z) asks for log_weights.
        """
        words, word_beat, beats = batch["words"], batch["word_beat"], batch["beats"]
        if noise is None:
            noise = Noise.draw(batch["beat_mask"], self.config.plan_size)
        if photo_dropout:
            batch["photo_mask"] = batch["photo_mask"] & (noise.stories >= photo_dropout)
        states = self.states(**batch)
        dropped = select_beats(noise.beats, beats) < posterior_dropout
        prior, posterior = self.plans(states, dropped if posterior_dropout else None)

        zero = states.hidden.new_zeros((), dtype=torch.float32)
        out = PlanCVAEOutput(kl=zero, tokens=torch.tensor(len(words), device=words.device))
        plan_noise = select_beats(noise.plans, beats)  # M, Z
        z, charged_kl = sample_plans(prior, posterior, plan_noise), zero
        if posterior is not None:
            kl = posterior.kl(prior)  # M, Z
            charged_kl = kl.clamp(min=free_bits).sum()
            out.kl, out.kl_per_beat = kl.sum(), kl.sum(1).detach()
            out.posterior = posterior.relative_to(prior).detach()

        hidden = states.hidden.flatten(0, 1).index_select(0, batch["word_at"])  # N, D
        out.nll = self.word_loss(hidden, z, words, word_beat)
        weights = {
            "bow": bow_weight, "future_bow": future_bow_weight, "photo_bow": photo_bow_weight,
            "state_bow": state_bow_weight, "dynamics": dynamics_weight,
        }  # fmt: skip
        auxiliary = {}
        if any(weights.values()):
            # Auxiliary terms read the decoder's states as data: they do not move it.
            fixed = self.changes(states.image_embeddings, states.hidden.detach(), **batch)
            plans = self.plans(fixed, dropped if posterior_dropout else None)
            auxiliary = self.bow_losses(fixed, sample_plans(*plans, plan_noise), batch, weights)
            if dynamics_weight:
                error = (fixed.predicted.float() - fixed.dyn.float()).square()
                auxiliary["dynamics"] = error.mean(-1).sum()
        loss = out.nll + beta * charged_kl
        for name, weight in weights.items():
            out[name] = auxiliary.get(name, zero)
            if name in auxiliary:
                loss = loss + weight * out[name]
        out.loss = loss / (len(words) if num_tokens is None else num_tokens)

        observed, expected = states.observed_change.float(), states.expected_change.float()
        out.cosine = F.cosine_similarity(observed, expected, dim=-1).detach()
        if iwae_noise is not None:
            iwae_noise = iwae_noise.flatten(1, 2).index_select(1, beats)  # samples, M, Z
            out.log_weights = log_weights(
                self, prior, posterior, iwae_noise, hidden, words, word_beat
            )
        return out


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


AutoConfig.register(PlanCVAEConfig.model_type, PlanCVAEConfig)
AutoModel.register(PlanCVAEConfig, PlanCVAE)


def load_checkpoint(path: str | Path) -> tuple[PlanCVAE, PreTrainedTokenizerBase]:
    """Model and tokenizer of a checkpoint, or of the best (else the latest) one in a training's
    output_dir. Raises UserError, a ValueError, where there is none or it is damaged."""
    return load_model_and_tokenizer(PlanCVAE, path)
