"""Write a story for a folder of photos, one sentence a photo.

python generate.py FOLDER [FOLDER …]              a story for each
python generate.py --data_path test.json          a story for each story of a preprocessed split
python generate.py FOLDER --num_samples 5         five stories from five plans
python generate.py FOLDER --num_samples 20 --decoding nucleus --rerank   of twenty the best
python generate.py FOLDER --html story.html       a page to keep, the photos inside
python generate.py FOLDER --format json           what stdout shows: text, json, html or vist

Plans are handles: --save_plans keeps those of a telling, --plans tells the photos by them again,
--redraw draws those of some beats anew, --interpolate goes from one telling's plans to another's. A
plan is kept as drawn, (z − μ) / σ, in units of the prior that it meets: so it can be told again in
a story that has become another one before it.
"""

import sys
from collections import Counter
from itertools import groupby

from utils import cli
from utils.cli import UserError
from utils.files import to_json, write_json, write_text

# ------------------------------------------------------------------------------------------ options
from utils.generate_options import parse, parser  # noqa: F401

if __name__ == "__main__":
    cli.parse_before_imports(parse)

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import DynamicCache, GenerationConfig

from dataset import StoryDataset, pack
from model import load_checkpoint
from utils.albums import read_albums, read_folder
from utils.batches import cut
from utils.photos import open_photo
from utils.plans import Sample, list_samples, plan_noise, write_plans
from utils.processes import alone_here, best_device, join_team
from utils.screen import Screen, page_of, vist_submission
from utils.tensors import take_photos
from utils.text import one_line
from utils.token_table import story_length
from utils.tokenizer import encode, special_ids

# ---------------------------------------------------------------------------------------- one batch


def check_cache(cache, length):
    """Raises UserError where the cache lacks what was read: a release of transformers swallows a
    keyword that it does not know, and the photos would be ignored without a word."""
    if cache.get_seq_length() < length:
        found = f"{cache.get_seq_length()} of the {length} positions that were read"
        raise UserError(
            f"the decoder's cache holds {found}: this release of transformers does not fit; "
            "expected one that requirements.txt allows"
        )


@torch.inference_mode()
def tell(model, special, photos, photo_mask, settings, noise=None, told=None, listener=None):
    """Write one sentence a photo, beat by beat on a key/value cache.

    photos (B, T, ...) and photo_mask (B, T) as `dataset.collate` makes them; settings a
    GenerationConfig; noise (B, T, Z) makes the plans samples of the prior, None its mean; told, B
    lists of the sentences (lists of token ids) that the stories begin with, equally many each, at
    most T: only the beats after them are written; listener, called after each beat with its B
    sentences. Returns the words, B lists of T lists of token ids, and how many sentences were cut
    at settings.max_new_tokens. Raises ValueError where the stories told so far are not equally
    long.

    Each beat is two calls of the decoder: one reads what was said since the last photo and the
    photos up to the next (all positions at once), which gives the plan; then transformers'
    generate() writes the sentence under it. Its words stay in the cache, but where beams have mixed
    there: then they leave it, and are read again with the next photo.
    """
    B, T = photo_mask.shape
    device = photos.device
    decoder = model.decoder
    slots = model.project_photos(photos, photo_mask)  # B, T, K, D
    K = slots.shape[2]
    cache = DynamicCache(config=decoder.config)
    history = torch.empty(
        B, 0, dtype=torch.long, device=device
    )  # token ids, [img] for image positions
    mask = torch.empty(B, 0, dtype=torch.long, device=device)  # 0 where a row is padded
    # B, beats read, D
    image_states = dyn_states = torch.empty(B, 0, model.width, device=device, dtype=slots.dtype)
    # in place of the coming h_t^d
    unwritten = torch.zeros(B, 1, model.width, device=device, dtype=slots.dtype)
    sentences = [list(story) for story in told] if told else [[] for _ in range(B)]
    if len(set(map(len, sentences))) > 1:
        raise ValueError(
            f"stories of {sorted(set(map(len, sentences)))} sentences; expected equally many of "
            "each"
        )
    forbidden = torch.zeros(decoder.config.vocab_size, device=device)
    forbidden[[i for i in special if i != special.eos]] = -torch.inf
    # positions of the last sentence that the cache holds
    known = torch.zeros(B, 1, dtype=torch.long, device=device)
    rows, beams, cut_short = torch.arange(B, device=device)[:, None], settings.num_beams or 1, 0
    for t in range(len(sentences[0]), T):
        # Read the sentences that the cache lacks, each after its photo, then this beat's photo.
        # beats whose photo, whose sentence was read
        seen, heard = (image_states.shape[1], dyn_states.shape[1])
        unread = [pack(story[heard:], special, K) for story in sentences]
        said = [
            p["input_ids"][start:]
            for p, start in zip(unread, known.flatten().tolist(), strict=True)
        ]
        said = pad_sequence(said, True, special.pad).to(device)
        chunk = torch.cat([said, said.new_full((B, K), special.img)], dim=1)
        dyn_at = torch.stack([p["dyn_at"] for p in unread]).to(device) - known
        image_at = torch.stack([p["image_at"][seen - heard :] for p in unread]).to(device) - known
        image_at = torch.cat([image_at, image_at.new_full((B, 1), chunk.shape[1] - 1)], dim=1)
        mask = torch.cat([mask, (chunk != special.pad).long()], dim=1)
        segments = torch.where(chunk == special.img, special.img, special.txt)
        beats = torch.arange(image_at.numel(), device=device)
        states = model.decode(
            model.embed(chunk, segments, slots[:, seen : t + 1], image_at, beats),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1)[:, -chunk.shape[1] :],
            cache=cache,
            use_cache=True,
        ).last_hidden_state
        check_cache(cache, mask.shape[1])
        history = torch.cat([history, chunk], dim=1)
        image_states = torch.cat([image_states, states[rows, image_at]], dim=1)
        dyn_states = torch.cat([dyn_states, states[rows, dyn_at]], dim=1)

        # Foresee the change, draw the plan.
        bias = forbidden.expand(B, -1)
        if model.config.plan != "none":
            dyn = torch.cat([dyn_states, unwritten], dim=1)
            this_beat = (t + 1) * rows[:, 0] + t
            predicted = model.predict_states(image_states, dyn, this_beat)
            prior = model.prior(model.state_deltas(dyn, predicted, this_beat)[1])
            z = prior.mean if noise is None else prior.sample(noise[:, t])
            bias = bias + model.plan_bias(z)

        # Write the sentence.
        if beams > 1:
            cache.batch_repeat_interleave(beams)
        ids = torch.cat([history, history.new_full((B, 1), special.bos)], dim=1)
        with model.add_plan_bias(bias):
            ids = decoder.generate(
                ids,
                attention_mask=torch.cat([mask, mask.new_ones(B, 1)], dim=1),
                token_type_ids=torch.full_like(
                    ids, special.txt
                ),  # only the new positions' are read
                cache=cache,
                generation_config=settings,
            )
        check_cache(cache, history.shape[1] + 1)
        written = ids[:, history.shape[1] + 1 :]
        if beams > 1:
            # a negative number: how many positions go
            cache.crop(history.shape[1] - cache.get_seq_length())
            cache.batch_select_indices(beams * rows[:, 0])
        # [bos] and words; rows that ended early are padded
        kept = ids[:, history.shape[1] : cache.get_seq_length()]
        history = torch.cat([history, kept], dim=1)
        mask = torch.cat([mask, (kept != special.pad).long()], dim=1)
        known = K + (kept != special.pad).sum(1, keepdim=True)
        for story, words in zip(sentences, written.tolist(), strict=True):
            end = words.index(special.eos) if special.eos in words else len(words)
            cut_short += end == len(words)
            story.append([word for word in words[:end] if word != special.pad])
        if listener is not None:
            listener([story[-1] for story in sentences])
    return sentences, cut_short


# --------------------------------------------------------------------------------------------- main


class StoryWriter:
    """Writes stories: StoryWriter.from_pretrained(directory)(photos)."""

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer

    @classmethod
    def from_pretrained(cls, directory, device=None):
        """Of a checkpoint, or of the best one in train.py's output_dir, on the GPU where there is
        one. Raises UserError, a ValueError, where there is none."""
        model, tokenizer = load_checkpoint(directory)
        return cls(model.to(device or best_device()), tokenizer)

    def __call__(self, photos, num_samples=1, plans=None, prefix=None, scores=(), **options):
        """Stories of one sentence a photo.

        photos: paths, PIL images or arrays (height, width, 3) of uint8. num_samples: stories, each
        under plans of its own where there are several. plans: those to write under (stories,
        photos, Z), in units of the prior, as a story has them. prefix: sentences that each story
        begins with. scores: names of utils.cli.SCORES. options: those of generate.py by name, as
        in decoding="nucleus", max_words=20, seed=1.

        Returns a dict a story: "sentences", "plans" (photos, Z) and "scores" by name.
        """
        chosen = parser().parse_args(["."])
        if unknown := options.keys() - vars(chosen).keys():
            raise TypeError(f"{sorted(unknown)[0]!r} is no option of generate.py")
        vars(chosen).update(options)
        encoder, size = self.model.image_encoder, self.model.config.plan_size
        pixels = torch.stack([encoder.preprocess(open_photo(x, encoder)) for x in photos])
        beats = len(pixels)
        if self.model.config.plan != "cvae" and plans is not None:
            raise UserError("this model was trained without sampled plans; expected no plans")
        if plans is not None:
            plans = torch.stack([torch.as_tensor(plan, dtype=torch.float32) for plan in plans])
            if plans.shape[1:] != (beats, size):
                found = " x ".join(map(str, plans.shape))
                raise UserError(f"plans of {found}; expected stories x {beats} x {size}")
        elif num_samples > 1 and self.model.config.plan == "cvae":
            how = beats, size, chosen.seed, chosen.plan_temperature
            plans = [plan_noise(number, *how) for number in range(num_samples)]
        else:
            plans = [None] * num_samples
        album = {"story_id": "photos", "photo_ids": [None] * beats, "rows": list(range(beats))}
        albums = [album | {"photos": pixels}]
        asked = [Sample(0, number, plan) for number, plan in enumerate(plans, start=1)]
        stories = self.write(albums, asked, chosen, alone_here(self.model.device), prefix=prefix)
        found = self.score(albums, asked, stories, scores, chosen.batch_size) if scores else {}
        return [
            {
                "sentences": story["sentences"],
                "plans": torch.zeros(beats, size) if telling.plan is None else telling.plan,
                "scores": {name: values[k] for name, values in found.items()},
            }
            for k, (story, telling) in enumerate(zip(stories, asked, strict=True))
        ]

    def write(self, albums, asked, options, team, screen=None, prefix=None):
        """The stories asked for, Tellings of the albums, as dicts; how many sentences were cut
        short is said.

        screen: a Screen that shows them while they are written. Of a team's processes each writes
        its share of the batches, and all of them have all stories in the end. prefix: sentences
        that every story begins with.
        """
        model, special = self.model, special_ids(self.tokenizer)
        sampling = {"top_p": options.top_p, "top_k": 0, "temperature": options.temperature}
        settings = GenerationConfig(
            do_sample=options.decoding == "nucleus",
            num_beams=options.num_beams if options.decoding == "beam" else 1,
            **(sampling if options.decoding == "nucleus" else {}),
            min_new_tokens=1,
            max_new_tokens=options.max_words,
            bos_token_id=special.bos,
            eos_token_id=special.eos,
            pad_token_id=special.pad,
        )
        beat_length = story_length([[]], model.config.image_positions) + options.max_words
        for album in albums:
            if len(album["rows"]) * beat_length > model.max_length:
                where = album.get("folder", f"story {album['story_id']}")
                raise UserError(
                    f"{where}: {len(album['rows'])} photos; this model has room for "
                    f"{model.max_length // beat_length} "
                    f"sentences of --max_words {options.max_words}: take fewer photos or a smaller "
                    "--max_words"
                )
        beats = lambda k: len(albums[asked[k].album]["rows"])
        order = sorted(range(len(asked)), key=beats)
        # A batch holds stories of one length. Its words depend on nothing but itself, so that any
        # process may write it.
        batches = [
            batch
            for _, alike in groupby(order, beats)
            for batch in cut(list(alike), options.batch_size)
        ]
        mine, device, written = batches[team.index :: team.count], model.device, []
        as_text = lambda sentences: [
            sentence.strip() for sentence in self.tokenizer.batch_decode(sentences)
        ]
        # no need of a bar
        watched = (
            screen and len(screen.stories) == len(asked) and sys.stdout and sys.stdout.isatty()
        )
        idle = len(asked) < 2 or team.index > 0 or watched
        bar = tqdm(total=sum(map(len, mine)), unit="story", desc="writing", disable=bool(idle))
        for batch in mine:
            of = [albums[asked[k].album] for k in batch]
            photos, mask = zip(*(take_photos(album["rows"], album["photos"]) for album in of))
            plans = [asked[k].plan for k in batch]
            noise = None if plans[0] is None else torch.stack(plans).to(device)
            show = screen and (
                lambda said: [
                    screen.add(k, text) for k, text in zip(batch, as_text(said), strict=True)
                ]
            )
            # for nucleus sampling of words
            torch.manual_seed((options.seed * 1_000_003 + batch[0]) % 2**32)
            words, cut_short = tell(
                model,
                special,
                torch.stack(photos).to(device),
                torch.stack(mask).to(device),
                settings,
                noise,
                [encode(self.tokenizer, prefix)] * len(batch) if prefix else None,
                show,
            )
            written.append((batch, [as_text(sentences) for sentences in words], cut_short))
            bar.update(len(batch))
        bar.close()
        written = team.gather(written)
        if cut_short := sum(of_batch for _, _, of_batch in written):
            cli.warn(f"{cut_short} sentences were cut at --max_words {options.max_words}")
        texts = {
            k: text for batch, texts, _ in written for k, text in zip(batch, texts, strict=True)
        }
        return [told | {"sentences": texts[k]} for k, told in enumerate(headings(albums, asked))]

    def score(self, albums, asked, stories, names, batch_size):
        """{name: the score of each story} for names of cli.SCORES, NaN where a story has none."""
        from CDE_score import SCORES, features, traces
        from utils.systems import normalize_like_training

        model, tokenizer = self.model, self.tokenizer
        photos, places, told = [], [], []
        for album in albums:
            there = [row for row in album["rows"] if row is not None]
            places.append(dict(zip(there, range(len(photos), len(photos) + len(there)))))
            photos += (
                features(album["photos"], there, model.image_encoder, model.device) if there else []
            )
        for story, telling in zip(stories, asked, strict=True):
            place, beats = (
                places[telling.album],
                zip(albums[telling.album]["rows"], story["sentences"], strict=True),
            )
            told.append(
                {
                    "beats": [
                        {"photo": place.get(row), "sentence": one_line(said)} for row, said in beats
                    ]
                }
            )
        if model.config.text != "original":  # as CDE_score.py would read them
            told = normalize_like_training(told, Counter())
        photos = torch.stack(photos) if photos else None
        data = StoryDataset(told, photos, tokenizer, model.config.image_positions, model.max_length)
        found = traces(model, data, tokenizer.pad_token_id, batch_size)
        return {name: [float(SCORES[name](trace, None)) for trace in found] for name in names}


def headings(albums, asked):
    """What is known of the stories asked for before they are written: their ids and photos, the
    telling's number."""
    last = {telling.album: telling.number for telling in asked}
    return [
        {
            name: albums[i][name]
            for name in ("story_id", "album_id", "photo_ids", "folder")
            if name in albums[i]
        }
        | ({"telling": number} if last[i] > 1 else {})
        for i, number, _ in asked
    ]


def best_of(asked, scores):
    """The place of each album's story with the least score; of its first, where none has a
    score."""
    alike = groupby(range(len(asked)), lambda k: asked[k].album)
    return [min(places, key=lambda k: np.nan_to_num(scores[k], nan=np.inf)) for _, places in alike]


def main():
    options = parse()
    with cli.flag("--checkpoint"):
        writer = StoryWriter.from_pretrained(options.checkpoint, device="cpu")
    model = writer.model
    kind = model.config.plan
    for name in ("plan", "plans", "save_plans"):
        value = getattr(options, name)
        if kind != "cvae" and value not in (None, "mean"):
            raise UserError(
                f"--{name} {value}: {options.checkpoint} was trained with --plan {kind}; expected "
                "cvae"
            )
    if options.plan is None:
        options.plan = (
            "sample" if kind == "cvae" and (options.num_samples > 1 or options.redraw) else "mean"
        )
    if kind != "cvae" and options.num_samples > 1 and options.decoding != "nucleus":
        found = (
            f"--num_samples {options.num_samples}: {options.checkpoint} was trained with --plan "
            f"{kind}"
        )
        raise UserError(f"{found}, so that all would be alike; add --decoding nucleus")
    lacks = {cli.BOW_AGREEMENT: not model.config.state_bow, cli.MAX_KL: model.config.plan != "cvae"}
    if options.rerank and lacks.get(options.rerank_by):
        raise UserError(
            f"--rerank_by {options.rerank_by}: the model in {options.checkpoint} lacks it; "
            "expected another"
        )
    how = model.image_encoder, options.order, options.follow_links
    albums = (
        read_albums(options.data_path, model.image_encoder)
        if options.data_path
        else [read_folder(folder, *how) for folder in options.folders]
    )
    asked = list_samples(albums, options, model.config.plan_size)
    on_screen = slice(0 if options.format != "text" else None if options.folders else 1)
    with join_team() as team:
        model.to(team.device)
        # else the sentences are elsewhere, or to be chosen among
        at_once = team.count == 1 and not options.rerank
        screen = Screen(headings(albums, asked)[on_screen]) if at_once else None
        stories = writer.write(albums, asked, options, team, screen)
    if team.index:
        return
    if options.rerank:
        by, many = options.rerank_by, Counter(telling.album for telling in asked)
        scores = writer.score(albums, asked, stories, [by], options.batch_size)[by]
        best = best_of(asked, scores)
        if unscored := sum(bool(np.isnan(scores[k])) for k in best):
            cli.warn(f"--rerank: {unscored} stories have no {by}; their first telling is kept")
        stories = [
            stories[k]
            | {"best_of": many[asked[k].album], by: None if np.isnan(scores[k]) else scores[k]}
            for k in best
        ]
        asked = [asked[k] for k in best]
    if not at_once:
        screen = Screen(stories[on_screen])
        for k, story in enumerate(stories):
            for sentence in story["sentences"]:
                screen.add(k, sentence)
    written = {"checkpoint": options.checkpoint, "settings": vars(options), "stories": stories}
    # first of all: nothing that goes wrong from here on loses them
    write_json(options.output, written)
    page = page_of(albums, asked, stories) if options.html or options.format == "html" else None
    if options.format != "text" and sys.stdout:
        # like the files, whatever a terminal here would read
        sys.stdout.reconfigure(encoding="utf-8")
        objects = {"json": written, "vist": vist_submission(stories)}
        cli.say(page if options.format == "html" else to_json(objects[options.format]))

    note = lambda what, path: print(f"{what} -> {cli.printable(path)}", file=sys.stderr)
    more = len(stories) - len(stories[on_screen]) if options.format == "text" else 0
    count = f"{len(stories)} {'story' if len(stories) == 1 else 'stories'}"
    note(f"{count}, {more} of them not shown" if more else count, options.output)
    if options.html:
        write_text(options.html, page)
        note("as a page", options.html)
    if options.vist_output:
        write_json(options.vist_output, vist_submission(stories))
        note("in the VIST Challenge's format", options.vist_output)
    if options.save_plans:
        write_plans(options.save_plans, stories, asked, model.config.plan_size, options.checkpoint)
        note("the plans", options.save_plans)


if __name__ == "__main__":
    cli.run(main)
