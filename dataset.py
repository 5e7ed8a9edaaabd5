"""Stories as tensors: VIST, VIST-Edit and the picturebook -> three files a split -> batches.

    python dataset.py                          preprocess what lies under dataset/
    python dataset.py --vist dataset/VIST      name it
    python dataset.py --download               fetch the photos that are missing, and stop
    torchrun --nproc_per_node 4 dataset.py     four processes share the photos (and the GPUs)

Part 1 (special tokens, packing, batches) is what training, generation and scoring share: nothing
else knows positions. Part 2 is the preprocessing. A split is `<split>.json` (stories),
`<split>.words.safetensors` (their words as token ids) and `<split>.safetensors` (their photos).
"""

import contextlib
import os
import shutil
import sys
from itertools import accumulate
from pathlib import Path

from utils.cli import UserError, first_process, flag, parse_before_imports, run, say

# ------------------------------------------------------------------------------------------ options
from utils.dataset_options import (  # noqa: F401
    CPU_BATCH,
    DOWNLOAD,
    NOTHING_FOUND,
    PREPROCESSED,
    SOURCES,
    parse_args,
    parser,
)
from utils.files import atomic_write, directory_lock, read_json, write_json
from utils.stories import read_split, split_head, story_ids

if __name__ == "__main__":
    parse_before_imports(parse_args)

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from model import PlanCVAEConfig, load_checkpoint
from utils.fetching import fetch_photos
from utils.files import write_story_lines
from utils.image_encoder import ImageEncoder
from utils.loading import load_encoder, quiet_transformers
from utils.preprocessing import (
    HOW,
    PHOTOS,
    SHARED,
    broken_photos,
    choose_source,
    described,
    earlier_report,
    how_encoded,
    is_complete,
    is_utf8,
    partial_of,
    prepare,
    with_photos,
    write_photos,
)
from utils.processes import join_team
from utils.story_files import SPLITS
from utils.tensors import Photos, take_photos
from utils.token_table import Text, fit, sentences_of, story_length
from utils.tokenizer import SpecialIds, load_tokenizer, special_ids, train_tokenizer

# -------------------------------------------------------------------------- one story, one sequence


def pack(sentences, special, image_positions):
    """One story as one sequence: `[img]*K [bos] words [eos] [dyn]` for each beat.

    sentences: T lists of token ids.

    Returns 1-D long tensors. Of length L: input_ids and segment_ids. Of length T: image_at (the
    last image position of each beat) and dyn_at (each beat's [dyn]). Of length N, what is
    predicted: words (each sentence's and its [eos]), word_at (the positions that predict them:
    [bos] the first word) and word_beat (their beats).
    """
    input_ids, segment_ids, image_at, dyn_at = [], [], [], []
    predicted, word_at, word_beat = [], [], []
    for t, words in enumerate(sentences):
        image_at.append(len(input_ids) + image_positions - 1)
        spoken = [special.bos, *words, special.eos, special.dyn]
        input_ids += [special.img] * image_positions + spoken
        segment_ids += [special.img] * image_positions + [special.txt] * len(spoken)
        predicted += spoken[1:-1]
        word_at += range(image_at[-1] + 1, image_at[-1] + len(spoken) - 1)
        word_beat += [t] * (len(spoken) - 2)
        dyn_at.append(len(input_ids) - 1)
    fields = {
        "input_ids": input_ids,
        "segment_ids": segment_ids,
        "image_at": image_at,
        "dyn_at": dyn_at,
        "words": predicted,
        "word_at": word_at,
        "word_beat": word_beat,
    }
    return {name: torch.tensor(values, dtype=torch.long) for name, values in fields.items()}


def collate(examples, pad_id):
    """Examples of StoryDataset -> one batch, padded on the right to its longest story (L) and most
    beats (T).

    input_ids, segment_ids: (B, L) long, padded with pad_id. image_at, dyn_at: (B, T) long, 0 on
    padded beats; beat_mask: (B, T) bool; beats: (M) long, where in B·T the beats there are stand.
    words, word_at, word_beat: (N) long, what is predicted, where in B·L, and of which of the M
    beats. photos: (B, T, ...) float32 features or uint8 pixels, zeros where photo_mask (B, T) is
    False: photo missing or beat padded. index: (B), the stories' places in the split.
    """

    def pad(name, value=0):
        return pad_sequence([example[name] for example in examples], True, value)

    batch = {name: pad(name, pad_id) for name in ("input_ids", "segment_ids")}
    batch |= {name: pad(name) for name in ("image_at", "dyn_at", "photos", "photo_mask")}
    batch["beat_mask"] = pad_sequence(
        [torch.ones_like(example["photo_mask"]) for example in examples], True, False
    )
    batch["beats"] = batch["beat_mask"].flatten().nonzero()[:, 0]
    batch["words"] = torch.cat([example["words"] for example in examples])
    L, beats = batch["input_ids"].shape[1], [len(example["dyn_at"]) for example in examples]
    starts = {
        "word_at": [b * L for b in range(len(examples))],
        "word_beat": accumulate(beats[:-1], initial=0),
    }
    for name, at in starts.items():
        batch[name] = torch.cat(
            [example[name] + start for example, start in zip(examples, at, strict=True)]
        )
    batch["index"] = torch.tensor([example["index"] for example in examples])
    return batch


class StoryDataset(Dataset):
    """Stories with their photos: `pack`'s tensors and `take_photos`'s, story by story.

    stories: as in a preprocessed split; photos: a Photos, a tensor, or None (text alone). lengths
    and beats: positions and sentences of each story; shortened: how many stories lost trailing
    beats (or the end of a lone sentence) to fit `max_length`.
    """

    def __init__(self, stories, photos, tokenizer, image_positions, max_length, text=None):
        """text: the stories' Text where it is at hand; `stories` is not read then, and may be None.

        tokenizer: with our special tokens, or their SpecialIds where the text is at hand.
        """
        if max_length < image_positions + 4:
            raise UserError(
                f"a model of {max_length} positions holds no beat of {image_positions} image "
                "positions; expected at least "
                f"{image_positions + 4} positions, for [bos], a word, [eos] and [dyn] too"
            )
        self.photos, self.image_positions, self.max_length = photos, image_positions, max_length
        self.special = tokenizer if isinstance(tokenizer, SpecialIds) else special_ids(tokenizer)
        self.text = Text.of(stories, tokenizer) if text is None else text
        self.beats = np.diff(self.text.story_at)
        self.lengths = self.text.lengths(image_positions)
        too_long = np.flatnonzero(self.lengths > max_length)
        self.shortened = len(too_long)
        for i in too_long.tolist():
            self.beats[i], self.lengths[i] = (
                len(self.sentences(i)),
                story_length(self.sentences(i), image_positions),
            )

    @classmethod
    def load(cls, json_path, tokenizer, image_positions, max_length, encoder=None):
        """A preprocessed split. Raises UserError where its files are missing, no split, or not of
        the encoder."""
        split, text = split_head(json_path), None
        if split is not None:
            text = Text.load(Path(json_path).with_name(split["words"]), json_path, tokenizer)
        # of before words had a file of their own, of another tokenizer, or written by hand
        if text is None:
            split = read_split(json_path)
            text = Text.of(split["stories"], tokenizer)
        photos = Photos(json_path, split, encoder)
        beyond = np.flatnonzero(text.photos >= len(photos))
        if len(beyond):
            number = int(np.searchsorted(text.story_at, beyond[0], side="right")) - 1
            found = (
                f"{json_path}: story {story_ids(json_path, [number])[0]}: photo "
                f"{text.photos[beyond[0]]}"
            )
            raise UserError(
                f"{found}; expected one of the {len(photos)} rows in {photos.path.name}"
            )
        stories = cls(None, photos, tokenizer, image_positions, max_length, text)
        stories.written = split.get("text", "normalized")
        return stories

    def sentences(self, i):
        """Token ids of each sentence of story i, as far as they fit."""
        return fit(self.text.sentences(i), self.image_positions, self.max_length)

    def rows(self, i):
        """The row of each beat's photo in story i, None where it has none."""
        return self.text.rows(i)[: self.beats[i]]

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, i):
        number = range(len(self))[i]  # a negative one counts from the end, as anywhere
        photos, photo_mask = take_photos(self.rows(number), self.photos)
        packed = pack(self.sentences(number), self.special, self.image_positions)
        return packed | {"photos": photos, "photo_mask": photo_mask, "index": i}


# ------------------------------------------------------------------------------------ preprocessing


def choose_settings(args, source):
    """What the output depends on, beside the stories and photos."""
    settings = {"source": source.name, "text": args.text, "missing_photos": args.missing_photos}
    settings |= {name: vars(args).get(name, default) for name, default in source.defaults.items()}
    if settings["tokenizer"] == "bpe":
        settings["vocab_size"] = args.vocab_size
    weights = Path(settings["encoder_weights"])
    if is_trained(settings["encoder_weights"]):
        encoder = load_trained_encoder(weights)
        eye, weights = encoder.config, Path(encoder.name_or_path) / "model.safetensors"
        of_eye = {"image_encoder": eye.arch, "image_size": eye.image_size}
        of_eye |= {"encoder_stages": eye.stages, "encoder_grid": eye.grid}
        if other := [name for name in of_eye if vars(args).get(name, of_eye[name]) != of_eye[name]]:
            found = (
                f"--{other[0]} {vars(args)[other[0]]}: that of --encoder_weights "
                f"{settings['encoder_weights']}"
            )
            raise UserError(f"{found} is {of_eye[other[0]]}; expected no other")
        settings |= of_eye
    if weights.is_file():  # the same path may hold other weights tomorrow
        settings["encoder_weights_date"] = weights.stat().st_mtime_ns
    return settings


def main(argv=None):
    args = parse_args(argv)
    if args.download:
        return fetch_photos(args) if first_process() else 0
    with join_team() as team, contextlib.ExitStack() as stack:
        return preprocess(args, team, stack)


def preprocess(args, team, stack):
    """Write what is asked for, this process's share of it; `stack` closes what it opens. Returns
    the exit status."""
    if team.index:
        # the first process goes ahead: what is wrong is said once, and the output made once
        team.wait()
    chosen = choose_source(args)
    if chosen is None:
        print(NOTHING_FOUND, file=sys.stderr)
        return 2
    key, folder = chosen
    source = SOURCES[key]
    if args.machine_stories and key != "vist_edit":
        raise UserError(
            "--machine_stories: only VIST-Edit holds machine stories; expected --vist_edit DIR"
        )
    images, output = (
        vars(args).get("images", folder / source.images),
        vars(args).get("output", PREPROCESSED / key),
    )
    if not is_utf8(output):
        raise UserError(
            f"--output {output}: a name that is no UTF-8; expected one that all libraries can write"
        )
    if not images.is_dir():
        fetch = "" if key == "picturebook" else ", or --download to fetch them"
        raise UserError(
            f"{images}: no such folder; expected the photos, or --images DIR that names their "
            f"folder{fetch}"
        )

    splits, machine = source.read(folder, args.text)
    jobs = {
        split: prepare(folder, split, *told, images, args.missing_photos, args.follow_links)
        for split, told in splits.items()
    }
    settings = choose_settings(args, source)
    if settings["store"] == "features" and team.device.type == "cpu":
        args.batch_size = min(args.batch_size, CPU_BATCH)
    new = {"settings": settings, "inputs": {split: job.fingerprint for split, job in jobs.items()}}
    if team.index == 0:
        stack.enter_context(directory_lock(output, "--output"))
        report = begin(output, new, how_encoded(settings, args, team), jobs, args.overwrite)
        team.wait()
    else:
        report = read_json(output / "report.json", "the report that the first process has begun")
        if report["inputs"] != new["inputs"]:
            raise UserError(
                f"{folder}: other files here than the first process has found; expected one shared "
                "folder"
            )
    todo = [split for split in jobs if not is_complete(output, split, report)]
    wordless = [
        s for s in jobs if s not in todo and not (output / f"{s}.words.safetensors").is_file()
    ]
    if todo or wordless:
        tokenizer, encoder = load_shared(output)
    # of before words had a file of their own, or it is gone
    for split in wordless if team.index == 0 else ():
        about = read_split(output / f"{split}.json")
        write_stories(output / f"{split}.json", about, about.pop("stories"), tokenizer)
    store, workers = settings["store"], vars(args).get("num_workers", team.workers)
    for split, job in jobs.items():
        if split in todo:
            write_photos(
                partial_of(output, split), job.found, encoder, store, args.batch_size, workers, team
            )
        if team.index:
            continue
        if split in todo:
            write_split(output, split, job, report, tokenizer)
        else:
            say(f"{output / split}.json: complete already, from the same settings and input")
        shutil.rmtree(partial_of(output, split), ignore_errors=True)
        say(described(split, report["splits"][split]))
    if team.index:
        return 0
    if args.machine_stories:
        for name, stories in machine.items():
            write_json(output / f"{name}.json", {"stories": stories})
            say(f"{output / name}.json: {len(stories)} machine stories")
    if any(
        entry["photos"]["missing"] or entry["photos"]["broken"]
        for entry in report["splits"].values()
    ):
        say(f"Which photos are missing or broken, and why: {output / 'report.json'}")
    if "train" in jobs:
        paths = [
            f"--{split}_data_path {output / split}.json"
            for split in ("train", "val")
            if split in jobs
        ]
        say(f"Next: python train.py {' '.join(paths)}")
    return 0


def begin(output, new, how, jobs, overwrite):
    """The report to go on with: an earlier run's, or a new one beside a new tokenizer and
    encoder."""
    report = earlier_report(output, new, how, overwrite)
    if report is None:
        report = new | {"splits": {}}
        make_shared(output, report, jobs)
    for split in (split for split in new["inputs"] if not is_complete(output, split, report)):
        write_json(partial_of(output, split) / HOW, how)
    return report


def load_shared(output):
    tokenizer, encoder = (output / name for name in SHARED)
    return load_tokenizer(tokenizer), load_encoder(encoder).eval()


def is_trained(weights):
    """Whether --encoder_weights names a model that train.py has trained."""
    return weights not in ("imagenet", "none") and Path(weights).is_dir()


def load_trained_encoder(path):
    """The photo encoder of a model that train.py has trained; its name_or_path is the model's."""
    with flag("--encoder_weights"):
        model = load_checkpoint(path)[0]
    model.image_encoder.name_or_path = model.name_or_path
    return model.image_encoder


def make_shared(output, report, jobs):
    """The tokenizer and the photo encoder, saved in the output folder (what stood there goes), and
    the report."""
    settings = report["settings"]
    if settings["tokenizer"] == "bpe":
        taught = "train" if "train" in jobs else next(iter(jobs))
        say(f"Training the tokenizer on the {len(jobs[taught].stories)} stories of {taught}")
        tokenizer = train_tokenizer(sentences_of(jobs[taught].stories), settings["vocab_size"])
    else:
        tokenizer = load_tokenizer(settings["tokenizer"])
    torch.manual_seed(0)  # random weights are the same in every run
    weights = settings["encoder_weights"]
    encoder = (
        load_trained_encoder(weights)
        if is_trained(weights)
        else ImageEncoder.build(
            settings["image_encoder"],
            weights,
            settings["image_size"],
            settings["encoder_stages"],
            settings["encoder_grid"],
        ).eval()
    )
    for split in SPLITS:  # an earlier run's files go only now that nothing more can be wrong
        shutil.rmtree(partial_of(output, split), ignore_errors=True)
        for suffix in ("json", "words.safetensors", "safetensors"):
            (output / f"{split}.{suffix}").unlink(missing_ok=True)
    # of no split yet: a run that is stopped here begins anew
    write_json(output / "report.json", report)
    for name, item in zip(SHARED, (tokenizer, encoder), strict=True):
        with atomic_write(output / name) as folder:
            with quiet_transformers():
                item.save_pretrained(folder)


def write_split(output, split, job, report, tokenizer):
    """Write one split, whose photos are written, and its entry in the report; the photos' file
    takes its name last."""
    settings, target, partial = (
        report["settings"],
        output / f"{split}.safetensors",
        partial_of(output, split),
    )
    broken = broken_photos(partial, len(job.found))
    rows = {photo_id: row for row, photo_id in enumerate(job.found) if photo_id not in broken}
    stories, remarks = job.stories, job.remarks
    if settings["missing_photos"] == "drop":
        stories = with_photos(stories, rows, split, remarks)
    for beat in (beat for story in stories for beat in story["beats"]):
        beat["photo"] = rows.get(beat["photo_id"])
    about = {"format": 1, "source": settings["source"], "split": split, "text": settings["text"]}
    about["photos"] = {"file": target.name, "kind": settings["store"]}
    text = write_stories(output / f"{split}.json", about, stories, tokenizer)
    report["splits"][split] = measure(stories, text) | {
        "remarks": +remarks,
        "photos": {"found": len(rows), "missing": job.missing, "broken": broken},
    }
    write_json(output / "report.json", report)
    os.replace(partial / PHOTOS, target)


def write_stories(path, about, stories, tokenizer):
    """Write a split's JSON at `path` and its words beside it; return its Text."""
    words, text = path.with_suffix(".words.safetensors"), Text.of(stories, tokenizer)
    write_story_lines(path, about | {"words": words.name}, stories)
    with atomic_write(words) as temporary:
        text.save(temporary, path, tokenizer)
    return text


def measure(stories, text):
    """How many stories and beats, how long their sentences in words and they themselves in
    positions."""
    words = [len(sentence.split()) for sentence in sentences_of(stories)]
    image_positions = PlanCVAEConfig().image_positions
    lengths = text.lengths(image_positions)
    return {
        "stories": len(stories),
        "beats": len(words),
        "words": {"total": sum(words), "mean": round(float(np.mean(words)), 2), "max": max(words)},
        "positions": {
            "image_positions": image_positions,
            "mean": round(float(lengths.mean()), 1),
            "95 %": int(np.percentile(lengths, 95)),
            "max": int(lengths.max()),
        },
    }


if __name__ == "__main__":
    run(main)
