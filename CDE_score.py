"""Scores of one system's stories or several: coherence by a trained model, captions, diversity.

    python CDE_score.py                                  the human stories of the newest test split
    python CDE_score.py stories.json other=other.json    systems side by side, in any known format
    python CDE_score.py … --references refs.json         with BLEU, METEOR, ROUGE_L and CIDEr

CDE tells how well a story's changes follow the changes that the model expected. With s_t =
(cos(Δh_t, Δh̃_t) + 1) / 2 for t = 2..T, CDE = 2^(−mean_t log2 s_t) = 1 / (geometric mean of s_t): 1
is perfect agreement, 2 is chance. It is the Flow score of DialoFlow (Li et al. 2021), for stories.

The bag-of-words agreement compares words. With b_t the bag of words that the predicted state h̃_t
expects and u_t the uniform distribution over the words of sentence t, s_t = Σ_w sqrt(b_t(w) u_t(w))
for t = 1..T (the Bhattacharyya coefficient), and the score is 1 / (geometric mean of s_t): 1 is
perfect agreement.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from utils import cli
from utils.cli import BOW_AGREEMENT, CDE, MAX_KL, NLL, OUTPUT_DIR, PROTOCOLS, UserError
from utils.stories import SHAPES, read_split, read_stories

# ------------------------------------------------------------------------------------------ options


def parser():
    parser = cli.Parser(prog="CDE_score.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "stories",
        nargs="*",
        metavar="[NAME=]STORIES",
        help=f"a system's stories: {SHAPES}; the human stories of the newest preprocessed test "
        "split if none is named",
    )
    parser.add_argument(
        "--references", help="human stories, in any of these shapes: adds the caption metrics"
    )
    parser.add_argument(
        "--checkpoint",
        default=OUTPUT_DIR,
        help="checkpoint that scores, or train.py's output_dir (its best one); none leaves its "
        "scores out",
    )
    parser.add_argument(
        "--data_path", help="preprocessed split with the photos, where the stories do not tell"
    )
    parser.add_argument("--no_photos", action="store_true", help="score the text alone")
    parser.add_argument(
        "--controls", action="store_true", help="how well scores tell wrongly told stories apart"
    )
    parser.add_argument(
        "--variants",
        action="store_true",
        help="other ways to score the same agreement, for comparison",
    )
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="what human and constant stories reach by --references",
    )
    parser.add_argument(
        "--protocol", choices=PROTOCOLS, default="album", help="of the caption metrics"
    )
    parser.add_argument(
        "--train_data_path", help="training split: adds the share of stories copied from it"
    )
    parser.add_argument(
        "--reference_log",
        action="store_true",
        help="the public reference's arithmetic (chance is 1.617)",
    )
    parser.add_argument(
        "--batch_size", type=cli.positive_int, default=32, help="stories scored together"
    )
    parser.add_argument(
        "--seed", type=cli.non_negative_int, default=0, help="of controls and intervals"
    )
    parser.add_argument(
        "--output", default=f"{OUTPUT_DIR}/scores", help="writes OUTPUT.json, .md, .tex and .png"
    )
    return parser


def parse(arguments=None):
    """The options, checked against each other; files and options in any order."""
    options = parser().parse_intermixed_args(arguments)
    if options.no_photos and options.data_path:
        raise UserError("--no_photos and --data_path: expected one of them")
    inputs = [argument.split("=", 1)[-1] for argument in options.stories] + [
        options.references or ""
    ]
    for suffix in (".json", ".md", ".tex", ".png"):
        if Path(options.output.removesuffix(".json") + suffix).resolve() in map(
            Path.resolve, map(Path, inputs)
        ):
            raise UserError(
                f"--output {options.output}: would replace what is to be scored; expected another "
                "name"
            )
    if not options.output.strip():
        raise UserError("--output: empty; expected the name of the files to write")
    if options.baselines and not options.references:
        raise UserError("--baselines: computed from human stories; expected --references too")
    if options.checkpoint == "none" and options.controls:
        raise UserError("--controls: of the model's scores; expected a --checkpoint")
    return options


if __name__ == "__main__":
    cli.parse_before_imports(parse)

import numpy as np
import torch
from tqdm import tqdm

from dataset import StoryDataset, collate
from model import load_checkpoint
from utils import metrics
from utils.batches import BucketBatches
from utils.bounds import log_p as beat_log_p
from utils.captions import load_references, score_by_references
from utils.corruptions import CONTROLS, control, told
from utils.photos import BrokenPhoto, load_photo, photo_files, photo_name
from utils.processes import best_device
from utils.report import report
from utils.statistics import mean_figure
from utils.systems import albums_and, name_systems, normalize_like_training, with_rows
from utils.tensors import Photos

# ------------------------------------------------------------------------------------------- scores


def inverse_mean(agreement, log=np.log2):
    """1 / the geometric mean of agreements (beats), each 0 to 1; NaN of none."""
    if not len(agreement):
        return np.nan
    # no agreement is bad, not infinite
    agreement = np.clip(np.asarray(agreement, dtype=np.float64), 1e-12, 1)
    return float(2 ** -log(agreement).mean())


def cde(cosines, reference_log=False):
    """CDE of one story from cos(Δh_t, Δh̃_t), t = 2..T.

    reference_log: the public reference's arithmetic, base 2 to a mean of natural logarithms.
    """
    return inverse_mean((np.asarray(cosines) + 1) / 2, np.log if reference_log else np.log2)


@dataclass
class Trace:
    """What a model thought of one story, beat by beat."""

    observed: np.ndarray  # T, D: Δh_t
    expected: np.ndarray  # T, D: Δh̃_t
    # T: of the words of sentence t with those foreseen; None without foresight
    agreement: np.ndarray | None
    kl: np.ndarray | None  # T: KL(q_t ‖ p_t) in nats; None without a posterior
    nll: float  # −log p of a word, in nats, under the plans' prior means

    def cosines(self, centre=(0, 0)):
        a, b = self.observed - centre[0], self.expected - centre[1]
        return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1) + 1e-12)

    def length_ratios(self):
        a, b = (np.linalg.norm(change, axis=1) for change in (self.observed, self.expected))
        return np.minimum(a, b) / np.maximum(a, b)


# Scores of a Trace (and of the mean changes of a corpus), each the lower the better. NLL per word
# is the baseline that any of them must stand beside.
SCORES = {
    CDE: lambda trace, _: cde(trace.cosines()[1:]),
    BOW_AGREEMENT: lambda trace, _: (
        np.nan if trace.agreement is None else inverse_mean(trace.agreement)
    ),
    MAX_KL: lambda trace, _: np.nan if trace.kl is None else trace.kl.max(),
    NLL: lambda trace, _: trace.nll,
}
VARIANTS = {
    "CDE, first beat too": lambda trace, _: cde(trace.cosines()),
    "CDE, worst beat": lambda trace, _: max(map(cde, trace.cosines()[1:, None]), default=np.nan),
    "CDE, centred": lambda trace, centre: cde(trace.cosines(centre)[1:]),
    "CDE × length ratio": lambda trace, _: inverse_mean(
        (trace.cosines() + 1)[1:] / 2 * trace.length_ratios()[1:]
    ),
    "state error": lambda trace, _: ((trace.expected - trace.observed) ** 2).mean(),
    "max KL, sum": lambda trace, _: np.nan if trace.kl is None else trace.kl.sum(),
    "bag-of-words agreement, worst beat": lambda trace, _: (
        np.nan if trace.agreement is None else 1 / max(trace.agreement.min(), 1e-12)
    ),
}


@torch.inference_mode()
def traces(model, dataset, pad_id, batch_size=32):
    """The Trace of every story, in the data's order."""
    found = [None] * len(dataset)
    bar = tqdm(total=len(dataset), unit="story", desc="scoring", leave=False)
    for numbers in BucketBatches(dataset.lengths, batch_size, shuffle=False):
        batch = collate([dataset[i] for i in numbers], pad_id)
        batch = {name: value.to(model.device) for name, value in batch.items()}
        states = model.states(**batch)
        prior, posterior = model.plans(states)
        hidden = states.hidden.flatten(0, 1).index_select(0, batch["word_at"])
        z = None if prior is None else prior.mean[None]
        num_beats = batch["beat_mask"].sum(1).tolist()
        M = len(batch["beats"])
        log_p = beat_log_p(model, hidden, z, batch["words"], batch["word_beat"], M)[0]  # M
        num_words = torch.bincount(batch["word_beat"], minlength=M)
        agreement = bow_agreement(model, states, batch) if model.config.state_bow else None
        kl = None if posterior is None else posterior.kl(prior).sum(-1)  # M
        per_beat = [states.observed_change, states.expected_change, agreement, kl, log_p, num_words]
        per_story = zip(
            *(
                [None] * len(numbers) if x is None else x.float().cpu().split(num_beats)
                for x in per_beat
            )
        )
        for i, (*beats, log_p, num_words) in zip(numbers, per_story, strict=True):
            nll = -log_p.sum() / num_words.sum()
            found[i] = Trace(*(None if x is None else x.numpy() for x in beats), nll.item())
        bar.update(len(numbers))
    bar.close()
    return found


def bow_agreement(model, states, batch):
    """Bhattacharyya coefficient (M) of the words foreseen and an even distribution over those of
    the sentence."""
    foreseen = model.expected_words(states.predicted)  # M, V
    inside = batch["words"] != model.config.eos_token_id
    said = batch["word_beat"][inside] * foreseen.shape[-1] + batch["words"][inside]
    said = said.unique()  # each word of a sentence once
    beat = said // foreseen.shape[-1]
    zeros = foreseen.new_zeros(len(foreseen))
    overlap = zeros.index_add(0, beat, (foreseen.flatten()[said] / 2).exp())
    many = zeros.index_add(0, beat, torch.ones_like(beat, dtype=zeros.dtype))
    return overlap / many.clamp(min=1).sqrt()


# ------------------------------------------------------------------------------------------ systems


def find_photos(system, encoder, device):
    """Fill in the rows of the stories' photos, and the photos' features."""
    if system.where is None:
        system.stories = [with_rows(story, lambda beat: None) for story in system.stories]
        return
    files, rows = {}, {}
    if system.where != "folders":
        if not Path(system.where).is_file():
            found = (
                f"{system.where}: no such file; expected the split with the photos of {system.path}"
            )
            raise UserError(f"{found} (--data_path names it), or --no_photos")
        split = read_split(system.where)
        photos = Photos(system.where, split, encoder)
        rows = {
            str(beat.get("photo_id")): beat["photo"]
            for story in split["stories"]
            for beat in story["beats"]
        }
        labels = {
            str(story.get("album_id")): str(story["label"])
            for story in split["stories"]
            if "label" in story
        }
        known = {album: {"label": label} for album, label in labels.items()}
        system.stories = [known.get(story["album_id"], {}) | story for story in system.stories]
        if not any(beat["photo_id"] in rows for story in system.stories for beat in story["beats"]):
            found = f"{system.path}: none of its photos is in {system.where}"
            raise UserError(
                f"{found}; expected --data_path with the split that it tells of, or --no_photos"
            )

        def key(beat):
            return beat["photo_id"]
    else:

        def key(beat):  # the photo's file, which never leaves its folder
            folder, name = Path(beat.get("folder", "")), Path(beat["photo_id"] or "").name
            return spelled_out(folder).get(name, folder / name)

        for beat in (
            beat for story in system.stories for beat in story["beats"] if beat["photo_id"]
        ):
            if key(beat) not in rows:
                try:
                    pixels = encoder.preprocess(load_photo(key(beat), encoder.config.image_size))
                    files[len(files)] = pixels
                    rows[key(beat)] = len(files) - 1
                except (BrokenPhoto, OSError) as error:
                    cli.warn(f"{key(beat)}: {error}; scored as a missing photo")
                    rows[key(beat)] = None
        photos = files
    system.stories = [
        with_rows(story, lambda beat: rows.get(key(beat))) for story in system.stories
    ]
    used = sorted({beat["photo"] for story in system.stories for beat in story["beats"]} - {None})
    if used:
        place = {row: i for i, row in enumerate(used)}
        system.photos = features(photos, used, encoder, device)
        system.stories = [
            with_rows(story, lambda beat: place.get(beat["photo"])) for story in system.stories
        ]


@cache
def spelled_out(folder):
    """{the name that generate.py gives a photo: its path} of those photos in a folder whose name
    cannot be printed."""
    paths = photo_files(folder, follow_links=True)[0] if folder.is_dir() else []
    return {photo_name(path): path for path in paths if photo_name(path) != path.name}


@torch.inference_mode()
def features(photos, rows, encoder, device, batch_size=64):
    """Features (len(rows), F) of photos that are features or pixels: encoded once, however often
    they are told of."""
    if photos[rows[0]].dim() == 1:
        return torch.stack([photos[row] for row in rows]).float()
    bar = tqdm(range(0, len(rows), batch_size), unit=" batches", desc="photos", leave=False)
    batches = (
        torch.stack([photos[row] for row in rows[at : at + batch_size]]).to(device) for at in bar
    )
    return torch.cat([encoder(batch).float().cpu() for batch in batches])


def score_by_model(system, model, tokenizer, options, retellings):
    """Fill in a system's scores, and its controls' where they are asked for."""

    def read(stories):
        data = StoryDataset(
            stories, system.photos, tokenizer, model.config.image_positions, model.max_length
        )
        remark = f"shortened to the model's {model.max_length} positions"
        system.remarks[remark] = max(system.remarks[remark], data.shortened)
        return traces(model, data, tokenizer.pad_token_id, options.batch_size)

    scores = SCORES | (VARIANTS if options.variants else {})
    if options.reference_log:
        scores[CDE] = lambda trace, _: cde(trace.cosines()[1:], reference_log=True)
    spoken = [i for i, story in enumerate(system.stories) if story["beats"]]
    if not spoken:
        raise UserError(f"{system.path}: every story is empty; expected {SHAPES}")
    stories = [system.stories[i] for i in spoken]
    as_told = read(stories)
    changes = [
        np.concatenate([getattr(trace, of)[1:] for trace in as_told])
        for of in ("observed", "expected")
    ]
    centre = [of.mean(0) if len(of) else 0 for of in changes]
    for name, score in scores.items():
        system.scores[name] = np.full(len(system.stories), np.nan)
        system.scores[name][spoken] = [score(trace, centre) for trace in as_told]
        if not np.isnan(system.scores[name]).all():
            system.figures[name] = mean_figure([(*pair, 1) for pair in system.albums_and(name)])
    for kind in CONTROLS if options.controls else ():
        wrong = control(stories, kind, retellings, options.seed)
        if not wrong:
            print(
                f"{system.name}: control left out: {kind}, {CONTROLS[kind]}: no story can be told "
                "so"
            )
        else:
            told_wrongly = read(wrong)
            system.wrong[kind] = {
                name: albums_and(wrong, [score(trace, centre) for trace in told_wrongly])
                for name, score in scores.items()
            }


# --------------------------------------------------------------------------------------------- main


def main():
    options = parse()
    scored = options.checkpoint != "none"
    systems = name_systems(options)
    references = (
        load_references(options.references, options.protocol)
        if options.references is not None
        else None
    )
    training = None
    if options.train_data_path is not None:
        stories = normalize_like_training(read_stories(options.train_data_path).stories, Counter())
        training = {metrics.normalise(" ".join(told(story))) for story in stories}
    if references:
        for system in systems:
            system.stories = references.find_albums(system.stories)
    with cli.flag("--checkpoint"):
        model, tokenizer = load_checkpoint(options.checkpoint) if scored else (None, None)
    as_typed = scored and model.config.text == "original"  # such a model reads stories as they are
    for system in systems:
        if not as_typed:
            system.stories = normalize_like_training(system.stories, system.remarks)
        if scored:
            model.to(best_device())
            find_photos(system, model.image_encoder, model.device)
            score_by_model(
                system,
                model,
                tokenizer,
                options,
                references.stories if references and not as_typed else (),
            )
        if as_typed:
            system.stories = normalize_like_training(system.stories, system.remarks)
    anchors, notes = [], []
    if references:
        anchors, notes = score_by_references(systems, references, options)
    notes.append(score_by_words(systems, anchors, training, options))
    chance = cde([0.0], options.reference_log)
    notes = [*([f"CDE: 1 is perfect, {chance:.3f} chance"] if scored else []), *notes]
    notes[0] = f"95 % intervals by a bootstrap over albums. {notes[0]}"
    report(systems, anchors, "; ".join(notes) + ".", SCORES, vars(options))


def score_by_words(systems, anchors, training, options):
    """Fill in how long, how various and how much copied the stories are. Returns what the table has
    to say of it."""
    spoken = {
        s.name: [(story["album_id"], told(story)) for story in s.stories] for s in systems + anchors
    }
    firsts = {
        name: list({album: (album, said) for album, said in reversed(of)}.values())
        for name, of in spoken.items()
    }
    of_systems = {system.name: firsts[system.name] for system in systems}
    try:  # of as many tokens as the systems allow, whatever the anchors
        different, tokens = metrics.distinct(of_systems, seed=options.seed)
        for anchor in anchors:
            different |= metrics.distinct(
                {anchor.name: firsts[anchor.name]}, seed=options.seed, tokens=tokens
            )[0]
        note = f"distinct-n and vocabulary of {tokens} tokens each, of an album's first story"
    except ValueError as error:
        note, different = f"distinct-n and vocabulary are left out: {error}", {}
    for system in systems + anchors:
        system.figures |= metrics.diversity_figures(spoken[system.name], training) | different.get(
            system.name, {}
        )
    return note


if __name__ == "__main__":
    cli.run(main)
