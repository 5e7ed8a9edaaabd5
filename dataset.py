"""Stories as tensors: VIST, VIST-Edit and the picture book -> two files per split -> batches.

    python dataset.py                          preprocess what lies under dataset/
    python dataset.py --vist dataset/VIST      name it
    python dataset.py --download photos        fetch those that are missing, and stop
    torchrun --nproc_per_node 4 dataset.py     four processes share the photos (and the GPUs)

The first part (packing and batches) is what training, generation and scoring share: nothing else
knows positions. The second part is the preprocessing. A split is `<split>.json` (stories) and
`<split>.safetensors` (their photos).
"""

import os
import shlex
import shutil
import sys
from argparse import Namespace
from itertools import accumulate, chain, islice
from pathlib import Path

from utils.cli import RESNETS, UserError, first_process, flag, parse_before_imports, run, say
from utils.dataset_options import (
    CPU_BATCH,
    NOTHING_FOUND,
    PREPROCESSED,
    SOURCES,
    VOCAB_SIZE,
    Source,
    choose_source,
    parse_args,
)

if __name__ == "__main__":
    parse_before_imports(parse_args)

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from model import PlanCVAEConfig, load_checkpoint
from utils.albums import load_split
from utils.download import fetch
from utils.features import Features
from utils.files import atomic_write, directory_lock, read_json, write_json, write_story_lines
from utils.image_encoder import FEATURES, ImageEncoder, ImageEncoderConfig
from utils.loading import load_encoder
from utils.preprocessing import (
    PHOTOS,
    SHARED,
    SplitJob,
    broken_photos,
    describe_split,
    drop_incomplete,
    is_complete,
    partial_folder,
    prepare_split,
    read_report,
    write_photos,
)
from utils.processes import join_processes
from utils.quiet import quiet_transformers
from utils.story_files import SPLITS
from utils.structure import BOS, DYN, IMG, PAD
from utils.tensors import Photos, take_photos
from utils.tokenizer import encode, load_data_tokenizer, load_tokenizer, train_tokenizer

# -------------------------------------------------------------------------- one story, one sequence


def pack(sentences: list[list[int]], eos: int, image_positions: int) -> dict[str, Tensor]:
    """One story as one sequence: `[img]*K [bos] words [dyn]` for each beat.

    sentences: T lists of token ids; eos: the end of text, a label only. Returns 1-D tensors. Of
    length L: input_ids, structural positions negative. Of length T: image_at (the last image
    position of each beat) and dyn_at (each beat's [dyn]). Of length N, what is predicted: words
    (each sentence's and eos), word_at (the positions that predict them: [bos] the first word),
    word_beat (their beats) and is_word (False for eos).
    """
    names = ("input_ids", "image_at", "dyn_at", "words", "word_at", "word_beat", "is_word")
    fields = {name: [] for name in names}
    for t, sentence in enumerate(sentences):
        bos = len(fields["input_ids"]) + image_positions
        fields["input_ids"] += [IMG] * image_positions + [BOS, *sentence, DYN]
        fields["image_at"].append(max(0, bos - 1))  # [dyn] before it where there is no image
        fields["dyn_at"].append(len(fields["input_ids"]) - 1)
        fields["words"] += [*sentence, eos]
        fields["word_at"] += range(bos, bos + len(sentence) + 1)
        fields["word_beat"] += [t] * (len(sentence) + 1)
        fields["is_word"] += [True] * len(sentence) + [False]
    return {
        name: torch.tensor(values, dtype=torch.bool if name == "is_word" else torch.long)
        for name, values in fields.items()
    }


def story_length(sentences: list[list[int]], image_positions: int) -> int:
    """Positions that `pack` gives a story."""
    return sum(image_positions + len(words) + 2 for words in sentences)


def truncate(sentences: list[list[int]], image_positions: int, max_length: int) -> list[list[int]]:
    """The sentences without the trailing beats that do not fit; a lone sentence is cut."""
    lengths = accumulate(story_length([words], image_positions) for words in sentences)
    fitting = sum(length <= max_length for length in lengths)
    return sentences[:fitting] or [sentences[0][: max_length - image_positions - 2]]


def collate(examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Examples of StoryDataset -> one batch, padded on the right to its longest story (L) and most
    beats (T).

    input_ids: (B, L) long, padded with PAD. image_at, dyn_at: (B, T) long, 0 on padded beats;
    beat_mask: (B, T) bool; beats: (M) long, the beats' places in B·T. words, word_at, word_beat:
    (N) long, what is predicted, its place in B·L, and its beat of the M; is_word: (N) bool.
    photos: (B, T, ...) float32 features or uint8 pixels, zeros where photo_mask (B, T) is False:
    photo missing or beat padded. index: (B), the stories' places in the split.
    """

    def pad(name: str, value: int = 0) -> Tensor:
        return pad_sequence([example[name] for example in examples], True, value)

    batch = {name: pad(name) for name in ("image_at", "dyn_at", "photos", "photo_mask")}
    batch["input_ids"] = pad("input_ids", PAD)
    batch["beat_mask"] = batch["dyn_at"] > 0  # a [dyn] stands after its image positions
    batch["beats"] = batch["beat_mask"].flatten().nonzero()[:, 0]
    for name in ("words", "is_word"):
        batch[name] = torch.cat([example[name] for example in examples])
    L = batch["input_ids"].shape[1]
    word_at, word_beat, num_beats = [], [], 0
    for b, example in enumerate(examples):
        word_at.append(example["word_at"] + b * L)
        word_beat.append(example["word_beat"] + num_beats)
        num_beats += len(example["dyn_at"])
    batch["word_at"], batch["word_beat"] = torch.cat(word_at), torch.cat(word_beat)
    batch["index"] = torch.tensor([example["index"] for example in examples])
    return batch


class StoryDataset(Dataset):
    """Stories with their photos: `pack`'s tensors and `take_photos`'s, story by story.

    lengths and beats: positions and sentences of each story. photo_rows: the row of each beat's
    photo or None, also of beats that do not fit. shortened: how many stories lost trailing beats
    (or the end of a lone sentence) to fit `max_length`. text: how they are written, normalized or
    original. source: the data they are of. ids: the stories' names.
    """

    def __init__(
        self,
        stories: list[dict],
        photos: Photos | Tensor | None,
        tokenizer: PreTrainedTokenizerBase,
        image_positions: int,
        max_length: int,
    ):
        """stories: as in a preprocessed split. photos: None for text alone.

        Measured on 40,155 made-up stories (5 sentences, 14 tokens each): 6 s on one core, so that
        tokens are on no disk.
        """
        shortest = image_positions + 3
        if max_length < shortest:
            raise UserError(
                f"a model of {max_length} positions holds no beat of {image_positions} image "
                f"positions; expected at least {shortest}, for [bos], a word and [dyn] too"
            )
        self.photos, self.image_positions = photos, image_positions
        self.eos = tokenizer.eos_token_id
        self.text, self.source = "normalized", None
        self.ids = [story.get("story_id") for story in stories]
        self.photo_rows = [[beat["photo"] for beat in story["beats"]] for story in stories]
        texts = [beat["sentence"] for story in stories for beat in story["beats"]]
        encoded = iter(encode(tokenizer, texts))
        self.words, lengths = [], []
        self.shortened = 0
        for rows in self.photo_rows:
            whole = list(islice(encoded, len(rows)))
            sentences = truncate(whole, image_positions, max_length)
            self.shortened += sentences != whole
            lengths.append(story_length(sentences, image_positions))
            # 39 MB of made-up stories as many and as long as VIST's 40,155; as lists 106 MB
            self.words.append([np.array(words, np.int32) for words in sentences])
        self.beats, self.lengths = np.array(list(map(len, self.words))), np.array(lengths)

    @classmethod
    def load(
        cls,
        json_path: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        image_positions: int,
        max_length: int,
        encoder: ImageEncoder | None = None,
    ) -> "StoryDataset":
        """A preprocessed split. Raises UserError where its files are missing, no split, or not of
        the encoder."""
        split, photos = load_split(json_path, encoder)
        dataset = cls(split["stories"], photos, tokenizer, image_positions, max_length)
        dataset.text = split.get("text", "normalized")
        dataset.source = split.get("source")
        return dataset

    def sentences(self, i: int) -> list[list[int]]:
        """Token ids of each sentence of story i that fits."""
        return [words.tolist() for words in self.words[i]]

    def rows(self, i: int) -> list[int | None]:
        """The row of each beat's photo in story i, None where it has none."""
        return self.photo_rows[i][: self.beats[i]]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        number = range(len(self))[i]  # a negative one counts from the end
        photos, photo_mask = take_photos(self.rows(number), self.photos)
        packed = pack(self.sentences(number), self.eos, self.image_positions)
        return packed | {"photos": photos, "photo_mask": photo_mask, "index": i}


# ------------------------------------------------------------------------------------ preprocessing


ENCODER_OPTIONS = {  # option: the field of ImageEncoderConfig
    "image_encoder": "arch",
    "image_size": "image_size",
    "encoder_stages": "stages",
    "encoder_grid": "grid",
}


def choose_settings(args: Namespace, source: Source) -> dict:
    """What the output depends on, beside the stories and photos."""
    options = vars(args)
    settings = {"source": source.name, "text": args.text, "missing_photos": args.missing_photos}
    settings |= {name: options.get(name, default) for name, default in source.defaults.items()}
    if "features" in options:
        settings |= {"image_encoder": FEATURES, "encoder_weights": "none", "store": "features"}
        settings |= {"features": str(args.features)}
    elif settings["image_encoder"] not in RESNETS:  # the size is its own
        settings["image_size"] = options.get("image_size")
        if "encoder_stages" in options:
            raise UserError(f"--encoder_stages {args.encoder_stages}: of ResNets alone")
    if settings["tokenizer"] == "bpe":
        settings["vocab_size"] = options.get("vocab_size", VOCAB_SIZE)
    elif "vocab_size" in options:
        raise UserError(
            f"--vocab_size {args.vocab_size}: of a tokenizer that is trained here; --tokenizer "
            f"{settings['tokenizer']} has its own"
        )
    weights_file = Path(settings["encoder_weights"])
    if encoder := load_trained_encoder(settings["encoder_weights"]):
        weights_file = Path(encoder.name_or_path) / "model.safetensors"
        for name, field in ENCODER_OPTIONS.items():
            value = getattr(encoder.config, field)
            if options.get(name, value) != value:
                raise UserError(
                    f"--{name} {options[name]}: that of --encoder_weights "
                    f"{settings['encoder_weights']} is {value}; expected no other"
                )
            settings[name] = value
    if weights_file.is_file():  # the same path may hold other weights tomorrow
        settings["encoder_weights_date"] = weights_file.stat().st_mtime_ns
    return settings


def load_trained_encoder(weights: str) -> ImageEncoder | None:
    """The image encoder of a model that train.py has trained, if --encoder_weights names one; its
    name_or_path is the model's."""
    if weights in ("pretrained", "none") or not Path(weights).is_dir():
        return None
    with flag("--encoder_weights"):
        model, _ = load_checkpoint(weights)
    model.image_encoder.name_or_path = model.name_or_path
    return model.image_encoder


def make_shared(
    output: Path, report: dict, jobs: dict[str, SplitJob], features: Features | None
) -> None:
    """Save tokenizer, image encoder and report in the output folder; what was there goes."""
    settings = report["settings"]
    weights = settings["encoder_weights"]
    if settings["tokenizer"] == "bpe":
        split = min(jobs, key=SPLITS.index)  # train, where there is one
        stories = jobs[split].stories
        say(f"Training the tokenizer on the {len(stories)} stories of {split}")
        sentences = (beat["sentence"] for story in stories for beat in story["beats"])
        tokenizer = train_tokenizer(sentences, settings["vocab_size"])
    else:
        tokenizer = load_tokenizer(settings["tokenizer"])
    torch.manual_seed(0)  # random weights are the same in every run
    fields = {field: settings[name] for name, field in ENCODER_OPTIONS.items()}
    encoder = load_trained_encoder(weights)
    if features is not None:
        config = ImageEncoderConfig(arch=FEATURES, feature_size=features.width)
        encoder = ImageEncoder(config)
    elif encoder is None:
        encoder = ImageEncoder.build(weights=weights, **fields)
    for split in SPLITS:  # only now that nothing more can be wrong
        shutil.rmtree(partial_folder(output, split), ignore_errors=True)
        for suffix in ("json", "safetensors"):
            (output / f"{split}.{suffix}").unlink(missing_ok=True)
    write_json(output / "report.json", report)  # with no split yet: a stopped run begins anew
    for name, item in zip(SHARED, (tokenizer, encoder)):
        with atomic_write(output / name) as folder, quiet_transformers():
            item.save_pretrained(folder)


def write_split(
    output: Path, split: str, job: SplitJob, report: dict, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Write a split, whose photos are written, and its entry in the report; the photos' file takes
    its name last."""
    settings, target = report["settings"], output / f"{split}.safetensors"
    partial, stories = partial_folder(output, split), job.stories
    broken = broken_photos(partial, len(job.photos))
    rows = {photo_id: row for row, photo_id in enumerate(job.photos) if photo_id not in broken}
    if settings["missing_photos"] == "drop":
        stories = drop_incomplete(stories, rows, split, job.remarks)
    for beat in (beat for story in stories for beat in story["beats"]):
        beat["photo"] = rows.get(beat["photo_id"])
    about = {
        "format": 1,
        "source": settings["source"],
        "split": split,
        "text": settings["text"],
        "photos": {"file": target.name, "kind": settings["store"]},
    }
    write_story_lines(output / f"{split}.json", about, stories)
    report["splits"][split] = measure_stories(stories, tokenizer) | {
        "remarks": +job.remarks,
        "photos": {"found": len(rows), "missing": job.missing, "broken": broken},
    }
    write_json(output / "report.json", report)
    os.replace(partial / PHOTOS, target)


def measure_stories(stories: list[dict], tokenizer: PreTrainedTokenizerBase) -> dict:
    """Numbers of stories, beats, words and positions."""
    words = [len(beat["sentence"].split()) for story in stories for beat in story["beats"]]
    image_positions = PlanCVAEConfig().image_positions
    lengths = StoryDataset(stories, None, tokenizer, image_positions, sys.maxsize).lengths
    return {
        "stories": len(stories),
        "beats": len(words),
        "words": {
            "total": sum(words),
            "mean": round(sum(words) / len(words), 2),
            "max": max(words),
        },
        "positions": {
            "image_positions": image_positions,
            "mean": round(float(lengths.mean()), 1),
            "95 %": int(np.percentile(lengths, 95)),
            "max": int(lengths.max()),
        },
    }


def find_inputs(args: Namespace, key: str, folder: Path) -> tuple[Path | Features, Path]:
    """The folder of photos, or features in their place, and that of output. Raises UserError where
    they cannot be used."""
    if args.machine_stories and key != "vist_edit":
        raise UserError(
            "--machine_stories: only VIST-Edit holds machine stories; expected --vist_edit DIR"
        )
    images = vars(args).get("images", folder / SOURCES[key].images)
    if key in ("captions", "storybooks", "stories") and not (folder / "dii").is_dir():
        if "images" in args:
            raise UserError(f"--images {images}: --{key} names its own photos; expected without it")
        images = folder.parent if key == "stories" else folder
    if "features" in args:
        images = Features(args.features)
    output = vars(args).get("output", PREPROCESSED / key)
    try:
        str(output.absolute()).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"--output {output}: a name that is no UTF-8; expected one that all libraries can write"
        ) from None
    if isinstance(images, Path) and not images.is_dir():
        advice = "" if key == "picturebook" else ", or --download photos to fetch them"
        raise UserError(
            f"{images}: no such folder; expected the photos, or --images DIR that names their "
            f"folder{advice}"
        )
    return images, output


def preprocess(args: Namespace, state: PartialState) -> int:
    """Write the splits, this process's share of the photos. Returns the exit status."""
    if not state.is_main_process:
        state.wait_for_everyone()  # the first process refuses what is wrong and makes the output
    chosen = choose_source(args)
    if chosen is None:
        print(NOTHING_FOUND, file=sys.stderr)
        return 2
    key, folder = chosen
    source = SOURCES[key]
    images, output = find_inputs(args, key, folder)
    splits, machine_stories = source.read(folder, args.text)
    jobs = {
        split: prepare_split(folder, split, stories, remarks, images, args)
        for split, (stories, remarks) in splits.items()
    }
    settings = choose_settings(args, source)
    features = images if isinstance(images, Features) else None
    if features is not None:
        features.measure(chain(*(job.photos.items() for job in jobs.values())))
    encoding = {}
    if settings["store"] == "features":
        if state.device.type == "cpu":
            args.batch_size = min(args.batch_size, CPU_BATCH)
        encoding = {"device": state.device.type, "batch_size": args.batch_size}
    inputs = {split: job.fingerprint for split, job in jobs.items()}
    new = {"settings": settings, "inputs": inputs, "encoding": encoding}
    if not state.is_main_process:
        report = read_json(output / "report.json", "the report that the first process has begun")
        if report["inputs"] != inputs:
            raise UserError(
                f"{folder}: other files here than the first process has found; expected one shared "
                "folder"
            )
        encode_splits(args, output, jobs, report, state, features)
        return 0
    with directory_lock(output, "--output"):
        report = read_report(output, new, args.overwrite)
        if report is None:
            report = new | {"splits": {}}
            make_shared(output, report, jobs, features)
        elif report["encoding"] != encoding:  # of splits that are complete
            report["encoding"] = encoding
            write_json(output / "report.json", report)
        state.wait_for_everyone()
        encode_splits(args, output, jobs, report, state, features)
        if args.machine_stories:
            for name, stories in machine_stories.items():
                write_json(output / f"{name}.json", {"stories": stories})
                say(f"{output / name}.json: {len(stories)} machine stories")
    photos = [entry["photos"] for entry in report["splits"].values()]
    if any(entry["missing"] or entry["broken"] for entry in photos):
        say(f"Which photos are missing or broken, and why: {output / 'report.json'}")
    if "train" in jobs:
        names = [split for split in ("train", "val") if split in jobs]
        paths = [(f"--{split}_data_path", f"{output / split}.json") for split in names]
        say(f"Next: python train.py {shlex.join(chain(*paths))}")
    return 0


def encode_splits(
    args: Namespace,
    output: Path,
    jobs: dict[str, SplitJob],
    report: dict,
    state: PartialState,
    features: Features | None,
) -> None:
    """Encode the photos of all splits that are not complete; the first process writes the
    splits."""
    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    num_workers = vars(args).get("num_workers", max(1, cores))
    store = report["settings"]["store"]
    todo = [split for split in jobs if not is_complete(output, split, report)]
    if todo:
        tokenizer = load_data_tokenizer(output / "tokenizer")
        encoder = load_encoder(output / "image_encoder")
    for split, job in jobs.items():
        partial = partial_folder(output, split)
        if split in todo:
            how = encoder, store, args.batch_size, num_workers, state, features
            write_photos(partial, job.photos, *how)
        if not state.is_main_process:
            continue
        if split in todo:
            write_split(output, split, job, report, tokenizer)
        else:
            say(f"{output / split}.json: complete already, from the same settings and input")
        shutil.rmtree(partial, ignore_errors=True)
        say(describe_split(split, report["splits"][split]))


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.download:
        return fetch(args) if first_process() else 0
    with join_processes() as state:
        return preprocess(args, state)


if __name__ == "__main__":
    run(main)
