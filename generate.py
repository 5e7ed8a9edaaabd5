"""Write a story for a folder of photos, one sentence per photo.

    python generate.py FOLDER [FOLDER …]              a story for each
    python generate.py PHOTO [PHOTO …]                one story for photos of a folder
    python generate.py --data_path test.json          a story for each story of a preprocessed split
    python generate.py FOLDER --num_samples 5         five stories from five plans
    python generate.py FOLDER --num_samples 20 --decoding nucleus --rerank   the best of twenty
    python generate.py FOLDER --html story.html       a page, the photos inside
    python generate.py FOLDER --format json           what stdout shows: text, json, html or vist

Plans are handles: --save_plans keeps them, --plans writes the story by them again, --redraw samples
those of some beats anew, --interpolate goes from one sample's plans to another's. A plan is kept as
(z − μ) / σ, in units of its prior, so that it fits a story that has changed before it.
"""

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable
from copy import deepcopy
from itertools import groupby
from pathlib import Path

from utils import cli
from utils.cli import UserError
from utils.generate_options import parse, writer_options

if __name__ == "__main__":
    cli.parse_before_imports(parse)

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import DynamicCache, GenerationConfig, PreTrainedTokenizerBase

from dataset import StoryDataset, pack, story_length
from model import PlanCVAE, load_checkpoint
from utils.albums import read_albums, read_named
from utils.batches import split_into
from utils.decoding import choose_settings, generation_config, words_processors
from utils.photos import open_photo
from utils.plans import Sample, check_plans, list_samples, plan_noise
from utils.processes import best_device, join_processes
from utils.reranking import rerank
from utils.screen import Screen, save_outputs
from utils.structure import BOS, IMG, PAD, normalise_states
from utils.tensors import take_photos
from utils.text import one_line
from utils.tokenizer import decode, encode

# ---------------------------------------------------------------------------------------- one batch


def check_cache(cache: DynamicCache, length: int) -> None:
    """Raise UserError where the cache lacks what was read: another release of transformers would
    silently ignore the photos."""
    if cache.get_seq_length() < length:
        raise UserError(
            f"the decoder's cache holds {cache.get_seq_length()} of the {length} positions that "
            "were read: this release of transformers does not fit; expected one that "
            "requirements.txt allows"
        )


class BatchDecoder:
    """Writes B stories beat by beat on one key/value cache.

    A sentence's words stay in the cache; those by beams leave it, and are read again with the next
    photo.
    """

    def __init__(
        self,
        model: PlanCVAE,
        image_embeddings: Tensor,
        settings: GenerationConfig,
        sentences: list[list[list[int]]],
    ):
        self.model, self.settings = model, settings
        # what blocks and penalises words is ours: it sees the words alone
        self.plain_settings = deepcopy(settings)
        self.plain_settings.update(no_repeat_ngram_size=None, repetition_penalty=None)
        self.image_embeddings = image_embeddings  # B, T, K, D
        self.sentences, self.num_cut = sentences, 0
        B, _, self.K, D = image_embeddings.shape
        device, dtype = image_embeddings.device, image_embeddings.dtype
        self.cache = DynamicCache(config=model.decoder.config)
        # what the cache holds, and which positions of a row are no padding: B, positions read
        self.history = torch.empty(B, 0, dtype=torch.long, device=device)
        self.mask = torch.empty(B, 0, dtype=torch.long, device=device)
        # of the beats whose photo, whose sentence was read
        self.image_states = self.dyn_states = torch.empty(B, 0, D, device=device, dtype=dtype)
        self.num_cached = torch.zeros(B, 1, dtype=torch.long)  # positions of the last beat
        self.rows = torch.arange(B, device=device)[:, None]

    def read_photo(self, t: int) -> None:
        """Read the sentences that the cache lacks, each after its photo, then photo t."""
        K, device, eos = self.K, self.history.device, self.settings.eos_token_id
        num_photos, num_sentences = self.image_states.shape[1], self.dyn_states.shape[1]
        packed = [pack(story[num_sentences:], eos, K) for story in self.sentences]
        cached = self.num_cached.flatten().tolist()
        unread = [p["input_ids"][start:] for p, start in zip(packed, cached)]
        unread = pad_sequence(unread, True, PAD).to(device)
        ids = torch.cat([unread, unread.new_full((len(unread), K), IMG)], dim=1)
        dyn_at = torch.stack([p["dyn_at"] for p in packed]) - self.num_cached
        image_at = torch.stack([p["image_at"][num_photos - num_sentences :] for p in packed])
        last = torch.full((len(ids), 1), ids.shape[1] - 1)
        image_at = torch.cat([image_at - self.num_cached, last], dim=1).to(device)
        self.mask = torch.cat([self.mask, (ids != PAD).long()], dim=1)
        images = self.image_embeddings[:, num_photos : t + 1]
        beats = torch.arange(image_at.numel(), device=device)
        hidden = self.model.decode(
            self.model.embed(ids, images, image_at, beats),
            attention_mask=self.mask,
            position_ids=(self.mask.cumsum(1) - 1)[:, -ids.shape[1] :],
            cache=self.cache,
            use_cache=True,
        ).last_hidden_state
        check_cache(self.cache, self.mask.shape[1])
        self.history = torch.cat([self.history, ids], dim=1)
        image_states = normalise_states(hidden[self.rows, image_at])
        dyn_states = normalise_states(hidden[self.rows, dyn_at.to(device)])
        self.image_states = torch.cat([self.image_states, image_states], dim=1)
        self.dyn_states = torch.cat([self.dyn_states, dyn_states], dim=1)

    def plan_bias(self, t: int, noise: Tensor | None) -> Tensor:
        """W_z z_t (B, V) of the prior's mean, or of its sample by noise (B, Z)."""
        model = self.model
        if model.config.plan == "none":
            return torch.zeros(1, 1, device=self.rows.device).expand(len(self.rows), -1)
        unknown = torch.zeros_like(self.image_states[:, :1])  # in place of the coming h_t^d
        dyn_states = torch.cat([self.dyn_states, unknown], dim=1)
        beats = (t + 1) * self.rows[:, 0] + t
        predicted = model.predict_states(self.image_states, dyn_states, beats)
        _, expected_change = model.state_deltas(dyn_states, predicted, beats)
        prior = model.prior(expected_change)
        return model.plan_bias(prior.mean if noise is None else prior.sample(noise))

    def write_sentence(self, bias: Tensor) -> None:
        """Write the next sentence of each story with transformers' generate()."""
        eos, beams = self.settings.eos_token_id, self.settings.num_beams or 1
        start = self.history.shape[1]
        if beams > 1:
            self.cache.batch_repeat_interleave(beams)
        bos = self.history.new_full((len(self.rows), 1), BOS)
        ids = torch.cat([self.history, bos], dim=1)
        with self.model.under_plan(bias):
            ids = self.model.decoder.generate(
                ids,
                attention_mask=torch.cat([self.mask, torch.ones_like(bos)], dim=1),
                cache=self.cache,
                generation_config=self.plain_settings,
                logits_processor=words_processors(self.settings, self.sentences, start + 1),
            )
        check_cache(self.cache, start + 1)
        if beams > 1:
            self.cache.crop(start - self.cache.get_seq_length())  # negative: positions to remove
            self.cache.batch_select_indices(beams * self.rows[:, 0])
        num_words = []
        for story, words in zip(self.sentences, ids[:, start + 1 :].tolist(), strict=True):
            end = words.index(eos) if eos in words else len(words)
            self.num_cut += end == len(words)
            story.append(words[:end])
            num_words.append(end)
        # [bos] and the words; what generate() has read after a row's end is masked
        kept = ids[:, start : self.cache.get_seq_length()]
        num_words = torch.tensor(num_words, device=kept.device)[:, None]
        kept_mask = (torch.arange(kept.shape[1], device=kept.device) <= num_words).long()
        self.history = torch.cat([self.history, kept], dim=1)
        self.mask = torch.cat([self.mask, kept_mask], dim=1)
        self.num_cached = self.K + kept_mask.sum(1, keepdim=True).cpu()


@torch.inference_mode()
def generate_stories(
    model: PlanCVAE,
    photos: Tensor,
    photo_mask: Tensor,
    settings: GenerationConfig,
    noise: Tensor | None = None,
    prefix: list[list[list[int]]] | None = None,
    on_sentence: Callable | None = None,
) -> tuple[list[list[list[int]]], int]:
    """Write one sentence per photo.

    photos (B, T, ...) and photo_mask (B, T): as `dataset.collate` makes them. noise (B, T, Z):
    plans are samples of the prior, for None its mean. prefix: the sentences (lists of token ids)
    that each story begins with, equally many. on_sentence: called after each beat with its B
    sentences. Returns B lists of T lists of token ids, and how many sentences were cut at
    settings.max_new_tokens. Raises ValueError where prefixes differ in length.
    """
    B, T = photo_mask.shape
    sentences = [list(story) for story in prefix] if prefix else [[] for _ in range(B)]
    lengths = sorted(set(map(len, sentences)))
    if len(lengths) > 1:
        raise ValueError(f"stories of {lengths} sentences; expected equally many of each")
    image_embeddings = model.project_photos(photos, photo_mask)
    decoder = BatchDecoder(model, image_embeddings, settings, sentences)
    for t in range(lengths[0], T):
        decoder.read_photo(t)
        bias = decoder.plan_bias(t, None if noise is None else noise[:, t])
        decoder.write_sentence(bias)
        if on_sentence is not None:
            on_sentence([story[-1] for story in sentences])
    return sentences, decoder.num_cut


# --------------------------------------------------------------------------------------------- main


class StoryWriter:
    """Writes stories: StoryWriter.from_pretrained(directory)(photos)."""

    def __init__(self, model: PlanCVAE, tokenizer: PreTrainedTokenizerBase):
        self.model, self.tokenizer = model, tokenizer

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, device: torch.device | str | None = None
    ) -> "StoryWriter":
        """From a checkpoint, or the best one in train.py's output_dir, on the GPU if there is one.
        Raises UserError, a ValueError, where there is none."""
        model, tokenizer = load_checkpoint(directory)
        return cls(model.to(device or best_device()), tokenizer)

    def __call__(
        self,
        photos: list,
        num_samples: int = 1,
        plans: list | None = None,
        prefix: list[str] | None = None,
        scores: tuple[str, ...] = (),
        **options,
    ) -> list[dict]:
        """Stories of one sentence per photo.

        photos: paths, PIL images or arrays (height, width, 3) of uint8. num_samples: stories, each
        under its own plans where there are several. plans: those to write under (stories, photos,
        Z), in units of the prior. prefix: sentences that each story begins with. scores: names of
        utils.cli.SCORE_NAMES. options: those of generate.py by name, as in decoding="nucleus",
        max_new_tokens=20, seed=1.

        Returns a dict per story: "sentences", "plans" (photos, Z) and "scores" by name.
        """
        settings = writer_options(num_samples, None if plans is None else "given", options)
        choose_settings(settings, self.model)
        if unknown := [name for name in scores if name not in cli.SCORE_NAMES]:
            names = ", ".join(cli.SCORE_NAMES)
            raise UserError(f"scores {unknown[0]!r}: unknown; expected some of {names}")
        prefix = self.encode_prefix(prefix or [], len(photos), settings.max_new_tokens)
        encoder = self.model.image_encoder
        pixels = torch.stack([encoder.preprocess(open_photo(x, encoder)) for x in photos])
        shape = len(pixels), self.model.config.plan_size
        if plans is not None:
            plans = [plan for plan in check_plans(plans, shape) for _ in range(num_samples)]
        elif settings.plan == "sample":
            seed, temperature = settings.seed, settings.plan_temperature
            plans = [plan_noise(number, *shape, seed, temperature) for number in range(num_samples)]
        else:
            plans = [None] * num_samples
        album = {"story_id": "photos", "photo_ids": [None] * len(pixels), "photos": pixels}
        albums = [album | {"rows": list(range(len(pixels)))}]
        samples = [Sample(0, number, plan) for number, plan in enumerate(plans, start=1)]
        stories = self.write(albums, samples, settings, prefix=prefix)
        values = {}
        if scores:
            values = self.score(albums, samples, stories, scores, settings.batch_size)
        return [
            {
                "sentences": story["sentences"],
                "plans": torch.zeros(shape) if sample.plan is None else sample.plan,
                "scores": {name: values[name][k] for name in values},
            }
            for k, (story, sample) in enumerate(zip(stories, samples, strict=True))
        ]

    def encode_prefix(
        self, prefix: list[str], num_photos: int, max_new_tokens: int
    ) -> list[list[int]]:
        """Token ids of the sentences that a story begins with. Raises UserError where they do not
        fit its photos or the decoder's positions."""
        if isinstance(prefix, str) or not all(isinstance(text, str) for text in prefix):
            raise UserError("prefix: expected a list of sentences")
        if num_photos == 0 or len(prefix) > num_photos:
            raise UserError(
                f"photos: {num_photos}, with {len(prefix)} sentences in prefix; expected a photo "
                "for each sentence, and at least one"
            )
        if not prefix:
            return []
        encoded = encode(self.tokenizer, list(prefix))
        coming = (num_photos - len(prefix)) * self.beat_length(max_new_tokens)
        length = story_length(encoded, self.model.config.image_positions) + coming
        if length > self.model.max_length:
            raise UserError(
                f"prefix: with the sentences to come the story may take {length} positions; this "
                f"model has {self.model.max_length}"
            )
        return encoded

    def beat_length(self, num_tokens: int) -> int:
        """Positions of a beat whose sentence has num_tokens tokens."""
        return story_length([[]], self.model.config.image_positions) + num_tokens

    def room(self, max_new_tokens: int) -> int:
        """Sentences that the decoder's positions hold."""
        return self.model.max_length // self.beat_length(max_new_tokens)

    def check_room(self, albums: list[dict], max_new_tokens: int) -> None:
        """Raise UserError where a story may not fit the decoder's positions."""
        room = self.room(max_new_tokens)
        for album in albums:
            count = album.get("num_photos", len(album["rows"]))
            if count <= room:
                continue
            where = album.get("folder", f"story {album['story_id']}")
            longest = self.model.max_length // count - self.beat_length(0)
            fits = [f"{room} photos"] if room else []
            fits += [f"--max_new_tokens {longest}"] if longest > 0 else []
            raise UserError(
                f"{where}: {count} photos; this model has room for {room} sentences of "
                f"--max_new_tokens {max_new_tokens}; expected {' or '.join(fits) or 'fewer'}"
            )

    def write(
        self,
        albums: list[dict],
        samples: list[Sample],
        options: Namespace,
        state: PartialState | None = None,
        screen: Screen | None = None,
        prefix: list[list[int]] | None = None,
    ) -> list[dict]:
        """The samples' stories, as dicts; how many sentences were cut is printed.

        state: the processes that share the batches; each returns all stories. screen: shows the
        stories while they are written. prefix: token ids of sentences that every story begins with.
        """
        index, count = 0, 1
        if state is not None:
            index, count = state.process_index, state.num_processes
        self.check_room(albums, options.max_new_tokens)
        num_beats = {k: len(albums[sample.album]["rows"]) for k, sample in enumerate(samples)}
        # A batch holds stories of one length, and its words depend on nothing but itself, so that
        # any process may write it.
        batches = []
        for _, places in groupby(sorted(num_beats, key=num_beats.get), num_beats.get):
            batches += split_into(list(places), options.batch_size)
        mine = batches[index::count]
        is_terminal = sys.stdout and sys.stdout.isatty()
        is_shown = screen and is_terminal and len(screen.stories) == len(samples)
        hidden = bool(len(samples) < 2 or index > 0 or is_shown)
        bar = tqdm(total=sum(map(len, mine)), unit="story", desc="writing", disable=hidden)
        results = []
        for batch in mine:
            results.append(self.write_batch(batch, albums, samples, options, screen, prefix))
            bar.update(len(batch))
        bar.close()
        results = gather_object(results) if count > 1 else results
        if num_cut := sum(result[2] for result in results):
            longest = options.max_new_tokens
            cli.warn(f"{num_cut} sentences were cut at --max_new_tokens {longest}")
        sentences = {}
        for batch, texts, _ in results:
            sentences |= zip(batch, texts, strict=True)
        headings = story_headings(albums, samples)
        return [heading | {"sentences": sentences[k]} for k, heading in enumerate(headings)]

    def write_batch(
        self,
        batch: list[int],
        albums: list[dict],
        samples: list[Sample],
        options: Namespace,
        screen: Screen | None,
        prefix: list[list[int]] | None,
    ) -> tuple[list[int], list[list[str]], int]:
        """The sentences of the samples at the places `batch`, and how many were cut."""
        device = self.model.device
        batch_albums = [albums[samples[k].album] for k in batch]
        photos, masks = zip(*(take_photos(x["rows"], x["photos"]) for x in batch_albums))
        noise = None
        if samples[batch[0]].plan is not None:
            noise = torch.stack([samples[k].plan for k in batch]).to(device)

        def show(sentences: list[list[int]]) -> None:
            for k, text in zip(batch, decode(self.tokenizer, sentences), strict=True):
                screen.add(k, text)

        no_words = range(len(self.tokenizer), self.model.decoder.config.vocab_size)
        torch.manual_seed((options.seed * 1_000_003 + batch[0]) % 2**32)  # for nucleus sampling
        sentences, num_cut = generate_stories(
            self.model,
            torch.stack(photos).to(device),
            torch.stack(masks).to(device),
            generation_config(options, self.tokenizer.eos_token_id, no_words),
            noise,
            [prefix] * len(batch) if prefix else None,
            show if screen else None,
        )
        return batch, [decode(self.tokenizer, story) for story in sentences], num_cut

    def score(
        self,
        albums: list[dict],
        samples: list[Sample],
        stories: list[dict],
        names: Iterable[str],
        batch_size: int,
    ) -> dict[str, list[float]]:
        """{name: each story's score} for names of cli.SCORE_NAMES, NaN where a story has none."""
        from CDE_score import load_features, score_stories
        from utils.systems import normalize_like_training

        model, tokenizer = self.model, self.tokenizer
        photos, places, scored = [], [], []
        for album in albums:
            rows = [row for row in album["rows"] if row is not None]
            places.append({row: len(photos) + i for i, row in enumerate(rows)})
            if rows:
                photos += load_features(album["photos"], rows, model.image_encoder, model.device)
        for story, sample in zip(stories, samples, strict=True):
            place, rows = places[sample.album], albums[sample.album]["rows"]
            beats = [
                {"photo": place.get(row), "sentence": one_line(sentence)}
                for row, sentence in zip(rows, story["sentences"], strict=True)
            ]
            scored.append({"beats": beats})
        if model.config.text != "original":  # as CDE_score.py reads them
            scored = normalize_like_training(scored, Counter())
        photos = torch.stack(photos) if photos else None
        positions = model.config.image_positions, model.max_length
        dataset = StoryDataset(scored, photos, tokenizer, *positions)
        scores = score_stories(model, dataset, batch_size)
        return {name: scores[name].tolist() for name in names}


def story_headings(albums: list[dict], samples: list[Sample]) -> list[dict]:
    """What is known of stories before they are written: ids, photos, the sample's number."""
    last = {sample.album: sample.number for sample in samples}
    names = ("story_id", "album_id", "photo_ids", "folder")
    headings = []
    for sample in samples:
        album = albums[sample.album]
        heading = {name: album[name] for name in names if name in album}
        if last[sample.album] > 1:
            heading["sample"] = sample.number
        headings.append(heading)
    return headings


def main() -> None:
    options = parse()
    with cli.flag("--checkpoint"):
        writer = StoryWriter.from_pretrained(options.checkpoint, device="cpu")
    model = writer.model
    choose_settings(options, model)
    encoder = model.image_encoder
    if options.data_path:
        albums = read_albums(options.data_path, encoder)
    else:
        room = writer.room(options.max_new_tokens)
        settings = encoder, options.order, options.follow_links, room
        albums = read_named(options.folders, *settings)
    writer.check_room(albums, options.max_new_tokens)
    samples = list_samples(albums, options, model.config.plan_size)
    num_shown = 0
    if options.format == "text":
        num_shown = len(samples) if options.folders else 1
    screen = None
    with join_processes() as state:
        model.to(state.device)
        if state.num_processes == 1 and not options.rerank:
            screen = Screen(story_headings(albums, samples)[:num_shown])
        stories = writer.write(albums, samples, options, state, screen)
    if not state.is_main_process:
        return
    if options.rerank:
        samples, stories = rerank(writer, albums, samples, stories, options)
    if screen is None:
        screen = Screen(stories[:num_shown])
        for k, story in enumerate(stories):
            for sentence in story["sentences"]:
                screen.add(k, sentence)
    save_outputs(options, albums, samples, stories, len(screen.stories), model.config.plan_size)


if __name__ == "__main__":
    cli.run(main)
