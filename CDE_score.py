"""Scores of one system's stories or several: coherence by a trained model, captions, diversity.

    python CDE_score.py                                  the human stories of the newest test split
    python CDE_score.py stories.json other=other.json    systems side by side, in any known format
    python CDE_score.py … --references refs.json         with BLEU, METEOR, ROUGE_L and CIDEr

CDE measures how well a story's changes follow the changes that the model expected. With s_t =
(cos(Δh_t, Δh̃_t) + 1) / 2 for t = 2..T, CDE = 2^(−mean_t log2 s_t) = 1 / (geometric mean of s_t): 1
is perfect agreement, 2 is chance. It is the Flow score of DialoFlow (Li et al. 2021), for stories.

The bag-of-words agreement compares words. With b_t the bag of words that the predicted state h̃_t
expects and u_t the uniform distribution over the words of sentence t, s_t = Σ_w sqrt(b_t(w) u_t(w))
for t = 1..T (the Bhattacharyya coefficient), and the score is 1 / (geometric mean of s_t): 1 is
perfect agreement.
"""

from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from utils import cli
from utils.cli import BOW_AGREEMENT, CDE, MAX_KL, NLL, OUTPUT_DIR, PROTOCOLS, UserError
from utils.stories import SHAPES, read_split, read_stories

# ------------------------------------------------------------------------------------------ options


def parser() -> cli.Parser:
    parser = cli.Parser(prog="CDE_score.py", description=__doc__.splitlines()[0])
    add = parser.add_argument
    stories = f"a system's stories: {SHAPES} (default: the human stories of the newest test split)"
    add("stories", nargs="*", metavar="[NAME=]STORIES", help=stories)
    add("--references", help="human stories, in any of these shapes: adds the caption metrics")
    checkpoint = "the model that scores, or train.py's output_dir; none: no scores by a model"
    add("--checkpoint", default=OUTPUT_DIR, help=checkpoint)
    add("--data_path", help="split with the photos, where the stories do not name one")
    add("--no_photos", action="store_true", help="score the text alone")
    corruptions = "how well scores separate stories from corrupted ones"
    add("--corruptions", action="store_true", help=corruptions)
    baselines = "what human and constant stories reach by --references"
    add("--baselines", action="store_true", help=baselines)
    add("--protocol", choices=PROTOCOLS, default="album", help="of the caption metrics")
    add("--train_data_path", help="training split: adds the share of stories copied from it")
    log = "the public reference's arithmetic (chance is 1.617)"
    add("--reference_log", action="store_true", help=log)
    add("--batch_size", type=cli.positive_int, default=32, help="stories scored together")
    add("--seed", type=cli.non_negative_int, default=0, help="random seed")
    add("--output", default=f"{OUTPUT_DIR}/scores", help="writes OUTPUT.json, .md, .tex and .png")
    return parser


def parse(arguments: list[str] | None = None) -> Namespace:
    """The options, checked against each other; files and options in any order."""
    options = parser().parse_intermixed_args(arguments)
    if options.no_photos and options.data_path:
        raise UserError("--no_photos and --data_path: expected one of them")
    if not options.output.strip():
        raise UserError("--output: empty; expected the name of the files to write")
    paths = [argument.split("=", 1)[-1] for argument in options.stories]
    inputs = {Path(path).resolve() for path in (*paths, options.references or "")}
    for suffix in (".json", ".md", ".tex", ".png"):
        if Path(options.output.removesuffix(".json") + suffix).resolve() in inputs:
            raise UserError(
                f"--output {options.output}: would replace what is to be scored; expected another "
                "name"
            )
    if options.baselines and not options.references:
        raise UserError("--baselines: computed from human stories; expected --references too")
    if options.checkpoint == "none" and options.corruptions:
        raise UserError("--corruptions: of the model's scores; expected a --checkpoint")
    return options


if __name__ == "__main__":
    cli.parse_before_imports(parse)

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from dataset import StoryDataset, collate
from model import PlanCVAE, States, load_checkpoint
from utils import metrics
from utils.batches import BucketBatches
from utils.bounds import log_p as beat_log_p
from utils.captions import load_references, score_captions
from utils.corruptions import CORRUPTIONS, corrupt, sentences_of
from utils.image_encoder import ImageEncoder
from utils.photos import BrokenPhoto, load_photo, photo_files, photo_name
from utils.processes import best_device
from utils.report import report
from utils.statistics import mean_figure
from utils.systems import System, album_scores, load_systems, normalize_like_training, with_rows
from utils.tensors import Photos
from utils.text import normalise

# ------------------------------------------------------------------------------------------- scores


@dataclass
class Trace:
    """What a model computes of one story, beat by beat."""

    cosine: np.ndarray  # T: cos(Δh_t, Δh̃_t)
    agreement: np.ndarray | None  # T: Bhattacharyya coefficients; None without state_bow
    kl: np.ndarray | None  # T: KL(q_t ‖ p_t) in nats; None without a posterior
    nll: float  # −log p per word, in nats, under the plans' prior means


def inverse_mean(agreement: np.ndarray, log: Callable = np.log2) -> float:
    """1 / the geometric mean of agreements (beats), each 0 to 1; NaN of none."""
    if not len(agreement):
        return np.nan
    # no agreement is bad, not infinite
    agreement = np.clip(np.asarray(agreement, dtype=np.float64), 1e-12, 1)
    return float(2 ** -log(agreement).mean())


def cde(cosines: np.ndarray, reference_log: bool = False) -> float:
    """CDE of one story from cos(Δh_t, Δh̃_t), t = 2..T.

    reference_log: the public reference's arithmetic, base 2 to a mean of natural logarithms.
    """
    return inverse_mean((np.asarray(cosines) + 1) / 2, np.log if reference_log else np.log2)


def cde_score(trace: Trace) -> float:
    return cde(trace.cosine[1:])


def reference_cde_score(trace: Trace) -> float:
    return cde(trace.cosine[1:], reference_log=True)


def bow_agreement_score(trace: Trace) -> float:
    return np.nan if trace.agreement is None else inverse_mean(trace.agreement)


def max_kl_score(trace: Trace) -> float:
    return np.nan if trace.kl is None else float(trace.kl.max())


def nll_score(trace: Trace) -> float:
    return trace.nll


# Each the lower the better. NLL per word is the baseline of the others.
SCORES = {CDE: cde_score, BOW_AGREEMENT: bow_agreement_score, MAX_KL: max_kl_score, NLL: nll_score}


@torch.inference_mode()
def trace_stories(model: PlanCVAE, dataset: StoryDataset, batch_size: int = 32) -> list[Trace]:
    """The Trace of every story, in the data's order."""
    traces = [None] * len(dataset)
    bar = tqdm(total=len(dataset), unit="story", desc="scoring", leave=False)
    for indices in BucketBatches(dataset.lengths, batch_size, shuffle=False):
        batch = collate([dataset[i] for i in indices])
        batch = {name: value.to(model.device) for name, value in batch.items()}
        states = model.states(**batch)
        prior, posterior = model.plans(states)
        z = None if prior is None else prior.mean[None]
        M, words, word_beat = len(batch["beats"]), batch["words"], batch["word_beat"]
        hidden = states.hidden.flatten(0, 1).index_select(0, batch["word_at"])
        observed, expected = states.observed_change.float(), states.expected_change.float()
        per_beat = {
            "log_p": beat_log_p(model, hidden, z, words, word_beat, M)[0],
            "words": torch.bincount(word_beat, minlength=M),
            "cosine": torch.cosine_similarity(observed, expected, dim=-1),
        }
        if model.config.state_bow:
            per_beat["agreement"] = bow_agreement(model, states, batch)
        if posterior is not None:
            per_beat["kl"] = posterior.kl(prior).sum(-1)
        num_beats = batch["beat_mask"].sum(1).tolist()
        per_beat = {name: x.float().cpu().split(num_beats) for name, x in per_beat.items()}
        for k, i in enumerate(indices):
            story = {name: x[k].numpy() for name, x in per_beat.items()}
            nll = -story["log_p"].sum() / story["words"].sum()
            agreement, kl = story.get("agreement"), story.get("kl")
            traces[i] = Trace(story["cosine"], agreement, kl, float(nll))
        bar.update(len(indices))
    bar.close()
    return traces


def bow_agreement(model: PlanCVAE, states: States, batch: dict) -> Tensor:
    """Bhattacharyya coefficient (M) of the expected bag of words and a uniform distribution over
    the sentence's words."""
    log_p = model.expected_words(states.predicted)  # M, V
    M, V = log_p.shape
    is_word = batch["is_word"]
    places = batch["word_beat"][is_word] * V + batch["words"][is_word]
    places = places.unique()  # each word of a sentence once
    beat = places // V
    overlap = log_p.new_zeros(M).index_add(0, beat, (log_p.flatten()[places] / 2).exp())
    return overlap / torch.bincount(beat, minlength=M).clamp(min=1).sqrt()


# ------------------------------------------------------------------------------------------- photos


@torch.inference_mode()
def load_features(
    photos: Photos | list[Tensor] | Tensor,
    rows: list[int],
    encoder: ImageEncoder,
    device: torch.device,
    batch_size: int = 64,
) -> Tensor:
    """Features (len(rows), F) of photos that are features or pixels."""
    if photos[rows[0]].dim() == 1:
        return torch.stack([photos[row] for row in rows]).float()
    features = []
    for start in tqdm(range(0, len(rows), batch_size), "photos", unit=" batches", leave=False):
        pixels = torch.stack([photos[row] for row in rows[start : start + batch_size]])
        features.append(encoder(pixels.to(device)).float().cpu())
    return torch.cat(features)


def attach_photos(system: System, encoder: ImageEncoder, device: torch.device) -> None:
    """Fill in the rows of the stories' photos, and the photos' features."""
    if system.photos_path is None:
        system.stories = [with_rows(story, lambda beat: None) for story in system.stories]
        return
    if system.photos_path == "folders":
        photos = attach_files(system, encoder)
    else:
        photos = attach_split(system, encoder)
    used = {beat["photo"] for story in system.stories for beat in story["beats"]} - {None}
    if used:
        place = {row: i for i, row in enumerate(sorted(used))}
        system.photos = load_features(photos, list(place), encoder, device)
        system.stories = [
            with_rows(story, lambda beat: place.get(beat["photo"])) for story in system.stories
        ]


def attach_split(system: System, encoder: ImageEncoder) -> Photos:
    """Fill in the rows (and the labels of albums) of a preprocessed split; its photos."""
    path = system.photos_path
    if not Path(path).is_file():
        raise UserError(
            f"{path}: no such file; expected the split with the photos of {system.path} "
            "(--data_path names it), or --no_photos"
        )
    split = read_split(path)
    photos = Photos(path, split, encoder)
    rows, labels = {}, {}
    for story in split["stories"]:
        rows |= {str(beat.get("photo_id")): beat["photo"] for beat in story["beats"]}
        if "label" in story:
            labels[str(story.get("album_id"))] = {"label": str(story["label"])}
    system.stories = [labels.get(story["album_id"], {}) | story for story in system.stories]
    if not any(beat["photo_id"] in rows for story in system.stories for beat in story["beats"]):
        raise UserError(
            f"{system.path}: none of its photos is in {path}; expected --data_path with the split "
            "of these stories, or --no_photos"
        )
    system.stories = [
        with_rows(story, lambda beat: rows.get(beat["photo_id"])) for story in system.stories
    ]
    return photos


def attach_files(system: System, encoder: ImageEncoder) -> list[Tensor]:
    """Fill in rows of the photos' files, which are read; their pixels."""
    pixels, rows, folders = [], {}, {}

    def row(beat: dict) -> int | None:
        if not beat["photo_id"]:
            return None
        folder, name = Path(beat.get("folder", "")), Path(beat["photo_id"]).name
        if folder not in folders:  # generate.py spells out names that cannot be printed
            paths = photo_files(folder, follow_links=True)[0] if folder.is_dir() else []
            folders[folder] = {photo_name(path): path for path in paths}
        path = folders[folder].get(name, folder / name)  # never out of its folder
        if path not in rows:
            try:
                photo = encoder.preprocess(load_photo(path, encoder.config.image_size))
                rows[path] = len(pixels)
                pixels.append(photo)
            except (BrokenPhoto, OSError) as error:
                cli.warn(f"{path}: {error}; scored as a missing photo")
                rows[path] = None
        return rows[path]

    system.stories = [with_rows(story, row) for story in system.stories]
    return pixels


# --------------------------------------------------------------------------------------------- main


def score_by_model(
    system: System,
    model: PlanCVAE,
    tokenizer: PreTrainedTokenizerBase,
    options: Namespace,
    others: list[dict],
) -> None:
    """Fill in a system's scores, and those of its corrupted stories where they are asked for.
    others: further stories of the same albums."""

    def trace(stories: list[dict]) -> list[Trace]:
        positions = model.config.image_positions, model.max_length
        dataset = StoryDataset(stories, system.photos, tokenizer, *positions)
        remark = f"shortened to the model's {model.max_length} positions"
        system.remarks[remark] = max(system.remarks[remark], dataset.shortened)
        return trace_stories(model, dataset, options.batch_size)

    scores = SCORES
    if options.reference_log:
        scores = SCORES | {CDE: reference_cde_score}
    places = [i for i, story in enumerate(system.stories) if story["beats"]]
    if not places:
        raise UserError(f"{system.path}: every story is empty; expected {SHAPES}")
    stories = [system.stories[i] for i in places]
    traces = trace(stories)
    for name, score in scores.items():
        system.scores[name] = np.full(len(system.stories), np.nan)
        system.scores[name][places] = [score(x) for x in traces]
        if not np.isnan(system.scores[name]).all():
            entries = [(album, value, 1) for album, value in system.album_scores(name)]
            system.figures[name] = mean_figure(entries)
    for kind in CORRUPTIONS if options.corruptions else ():
        corrupted = corrupt(stories, kind, others, options.seed)
        if not corrupted:
            print(f"{system.name}: skipped: {kind}, {CORRUPTIONS[kind]}: no story can be so")
            continue
        traces = trace(corrupted)
        system.corrupted[kind] = {
            name: album_scores(corrupted, [score(x) for x in traces])
            for name, score in scores.items()
        }


def measure_diversity(
    systems: list[System], baselines: list[System], training: set[str] | None, seed: int
) -> str:
    """Fill in how long, how diverse and how much copied the stories are. Returns a note."""
    stories, first = {}, {}
    for system in systems + baselines:
        pairs = [(story["album_id"], sentences_of(story)) for story in system.stories]
        stories[system.name] = pairs
        first[system.name] = list(dict(reversed(pairs)).items())[::-1]
    try:  # of as many tokens as the systems allow, whatever the baselines
        diversity, tokens = metrics.distinct({x.name: first[x.name] for x in systems}, seed=seed)
        for system in baselines:
            only = {system.name: first[system.name]}
            diversity |= metrics.distinct(only, seed=seed, tokens=tokens)[0]
        note = f"distinct-n and vocabulary of {tokens} tokens each, of an album's first story"
    except ValueError as error:
        diversity, note = {}, f"distinct-n and vocabulary are left out: {error}"
    for system in systems + baselines:
        system.figures |= metrics.diversity_figures(stories[system.name], training)
        system.figures |= diversity.get(system.name, {})
    return note


def main() -> None:
    options = parse()
    uses_model = options.checkpoint != "none"
    systems = load_systems(options)
    references = training = model = None
    if options.references is not None:
        references = load_references(options.references, options.protocol)
        for system in systems:
            system.stories = references.find_albums(system.stories)
    if options.train_data_path is not None:
        stories = normalize_like_training(read_stories(options.train_data_path).stories, Counter())
        training = {normalise(" ".join(sentences_of(story))) for story in stories}
    if uses_model:
        with cli.flag("--checkpoint"):
            model, tokenizer = load_checkpoint(options.checkpoint)
        model.to(best_device())
    # a model of original text reads stories as they are
    as_typed = uses_model and model.config.text == "original"
    for system in systems:
        if not as_typed:
            system.stories = normalize_like_training(system.stories, system.remarks)
        if uses_model:
            attach_photos(system, model.image_encoder, model.device)
            others = references.stories if references and not as_typed else []
            score_by_model(system, model, tokenizer, options, others)
        if as_typed:
            system.stories = normalize_like_training(system.stories, system.remarks)
    baselines, notes = [], ["95 % intervals by a bootstrap over albums"]
    if uses_model:
        notes.append(f"CDE: 1 is perfect, {cde([0.0], options.reference_log):.3f} chance")
    if references:
        baselines, caption_notes = score_captions(systems, references, options)
        notes += caption_notes
    notes.append(measure_diversity(systems, baselines, training, options.seed))
    report(systems, baselines, "; ".join(notes) + ".", list(SCORES), vars(options))


if __name__ == "__main__":
    cli.run(main)
