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
from functools import cache
from pathlib import Path

from utils import cli
from utils.cli import OUTPUT_DIR, PROTOCOLS, SCORE_NAMES, UserError
from utils.files import check_can_write
from utils.stories import SHAPES, read_stories

BATCH_SIZE = 32

# ------------------------------------------------------------------------------------------ options


def parser() -> cli.Parser:
    parser = cli.Parser(prog="CDE_score.py", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "stories",
        nargs="*",
        metavar="[NAME=]STORIES",
        help=f"a system's stories: {SHAPES} (default: the human stories of the newest test split)",
    )
    add("--references", help="human stories, in any of these shapes: adds the caption metrics")
    add(
        "--checkpoint",
        default=OUTPUT_DIR,
        help="the model that scores, or train.py's output_dir; none: no scores by a model",
    )
    add("--data_path", help="split with the photos, where the stories do not name one")
    add("--no_photos", action="store_true", help="score the text alone")
    add(
        "--corruptions",
        action="store_true",
        help="how well scores separate stories from corrupted ones",
    )
    add(
        "--baselines",
        action="store_true",
        help="what human and constant stories reach by --references",
    )
    add("--protocol", choices=PROTOCOLS, help="of the caption metrics (default: album)")
    add("--train_data_path", help="training split: adds the share of stories copied from it")
    add(
        "--reference_log",
        action="store_true",
        help="the public reference's arithmetic (chance is 1.617)",
    )
    together = f"stories scored together (default: {BATCH_SIZE})"
    add("--batch_size", type=cli.positive_int, help=together)
    add("--seed", type=cli.non_negative_int, default=0, help="random seed")
    add("--output", default=f"{OUTPUT_DIR}/scores", help="writes OUTPUT.json, .md, .tex and .png")
    return parser


def parse(arguments: list[str] | None = None) -> Namespace:
    """The options, checked against each other; files and options in any order."""
    options = parser().parse_intermixed_args(arguments)
    if options.no_photos and options.data_path:
        raise UserError("--no_photos and --data_path: expected one of them")
    if options.baselines and not options.references:
        raise UserError("--baselines: computed from human stories; expected --references too")
    if options.checkpoint == "none":
        of_model = ("corruptions", "reference_log", "no_photos", "data_path", "batch_size")
        if given := [name for name in of_model if getattr(options, name)]:
            raise UserError(f"--{given[0]}: of the model's scores; expected a --checkpoint")
    options.batch_size = options.batch_size or BATCH_SIZE
    if options.protocol and not options.references:
        raise UserError(
            f"--protocol {options.protocol}: of the caption metrics; expected --references too"
        )
    options.protocol = options.protocol or "album"
    if Path(options.output.strip()).name in ("", ".."):
        raise UserError(f"--output {options.output}: expected the name of the files to write")
    options.output = options.output.removesuffix(".json")
    paths = [argument.split("=", 1)[-1] for argument in options.stories]
    inputs = {Path(path).resolve() for path in (*paths, options.references or "")}
    for suffix in (".json", ".md", ".tex", ".png"):
        path = Path(options.output + suffix)
        if path.resolve() in inputs:
            raise UserError(f"--output {path}: would replace what is to be scored")
        with cli.flag("--output"):
            check_can_write(path)
    return options


if __name__ == "__main__":
    cli.parse_before_imports(parse)

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from dataset import StoryDataset, collate
from model import PlanCVAE, load_checkpoint
from utils import metrics
from utils.albums import load_split
from utils.batches import BucketBatches
from utils.bounds import log_p as beat_log_p
from utils.captions import load_references, score_captions
from utils.corruptions import CORRUPTIONS, corrupt, sentences_of
from utils.image_encoder import ImageEncoder
from utils.outputs import States
from utils.photos import BrokenPhoto, load_photo, photo_files, photo_name
from utils.processes import best_device
from utils.report import report
from utils.statistics import mean_figure, median
from utils.systems import System, load_systems, normalize_like_training, with_rows
from utils.tensors import Photos
from utils.text import normalise

# ------------------------------------------------------------------------------------------- scores


def inverse_mean(agreement: np.ndarray, log: Callable = np.log2) -> float:
    """1 / the geometric mean of agreements (beats), each 0 to 1; NaN of none."""
    if not len(agreement):
        return np.nan
    # no agreement is bad, not infinite
    agreement = np.clip(agreement, 1e-12, 1, dtype=np.float64)
    return float(2 ** -log(agreement).mean())


def cde(cosines: np.ndarray, log: Callable = np.log2) -> float:
    """CDE of one story from cos(Δh_t, Δh̃_t), t = 2..T.

    log: np.log for the public reference's arithmetic, base 2 to a mean of natural logarithms.
    """
    return inverse_mean((np.asarray(cosines) + 1) / 2, log)


@torch.inference_mode()
def score_stories(
    model: PlanCVAE, dataset: StoryDataset, batch_size: int = 32, log: Callable = np.log2
) -> dict[str, np.ndarray]:
    """{score: every story's, in the data's order} for SCORE_NAMES, each the lower the better; NaN
    where a story has none. NLL per word, under the plans' prior means, is the baseline of the
    others."""
    scores = np.zeros((len(dataset), len(SCORE_NAMES)))
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
        cosine = torch.cosine_similarity(observed, expected, dim=-1)
        agreement = kl = torch.full_like(cosine, torch.nan)
        if model.config.state_bow:
            agreement = bow_agreement(model, states, batch)
        if posterior is not None:
            kl = posterior.kl(prior).sum(-1)
        log_p = beat_log_p(model, hidden, z, words, word_beat, M)[0]
        num_words = torch.bincount(word_beat, minlength=M)
        per_beat = torch.stack([cosine, agreement, kl, log_p, num_words]).float().cpu()
        by_story = per_beat.split(batch["beat_mask"].sum(1).tolist(), dim=1)
        for i, story in zip(indices, by_story):
            cosine, agreement, kl, log_p, num_words = story.numpy()
            nll = -log_p.sum() / num_words.sum()
            scores[i] = cde(cosine[1:], log), inverse_mean(agreement), kl.max(), nll
        bar.update(len(indices))
    bar.close()
    return dict(zip(SCORE_NAMES, scores.T))


def bow_agreement(model: PlanCVAE, states: States, batch: dict) -> Tensor:
    """Bhattacharyya coefficient (M) of the expected bag of words and a uniform distribution over
    the sentence's words."""
    log_p = model.expected_words(states.predicted)  # M, V
    is_said = torch.zeros_like(log_p)
    is_word = batch["is_word"]
    is_said[batch["word_beat"][is_word], batch["words"][is_word]] = 1  # a sentence's each once
    return ((log_p / 2).exp() * is_said).sum(1) / is_said.sum(1).clamp(min=1).sqrt()


# ------------------------------------------------------------------------------------------- photos


@torch.inference_mode()
def load_features(
    photos: Photos | list[Tensor] | Tensor,
    rows: list[int],
    encoder: ImageEncoder,
    device: torch.device,
) -> Tensor:
    """Features (len(rows), F) of photos that are features or pixels."""
    features = []
    for start in tqdm(range(0, len(rows), 64), "photos", unit=" batches", leave=False):
        batch = torch.stack([photos[row] for row in rows[start : start + 64]])
        if batch.dim() > 2:
            batch = encoder(batch.to(device)).cpu()
        features.append(batch.float())
    return torch.cat(features)


def attach_photos(system: System, encoder: ImageEncoder, device: torch.device) -> None:
    """Fill in the rows of the stories' photos, and the photos' features."""
    photos, find_row = [], lambda beat: None
    if system.photos_path == "folders":
        photos, find_row = open_files(system, encoder)
    elif system.photos_path is not None:
        photos, find_row = open_split(system, encoder)
    stories = [with_rows(story, find_row) for story in system.stories]
    used = {beat["photo"] for story in stories for beat in story["beats"]} - {None}
    place = {row: i for i, row in enumerate(sorted(used))}
    if used:
        system.photos = load_features(photos, list(place), encoder, device)
    system.stories = [with_rows(story, lambda beat: place.get(beat["photo"])) for story in stories]


def open_split(system: System, encoder: ImageEncoder) -> tuple[Photos, Callable]:
    """The photos of a preprocessed split, and what finds a beat's row in them; the albums' labels
    are filled in."""
    split, photos = load_split(system.photos_path, encoder)
    rows, labels = {}, {}
    for story in split["stories"]:
        rows |= {str(beat.get("photo_id")): beat["photo"] for beat in story["beats"]}
        if "label" in story:
            labels[str(story.get("album_id"))] = {"label": str(story["label"])}
    system.stories = [labels.get(story["album_id"], {}) | story for story in system.stories]
    if not any(beat["photo_id"] in rows for story in system.stories for beat in story["beats"]):
        raise UserError(
            f"{system.path}: none of its photos is in {system.photos_path}; expected --data_path "
            "with the split of these stories, or --no_photos"
        )
    return photos, lambda beat: rows.get(beat["photo_id"])


def open_files(system: System, encoder: ImageEncoder) -> tuple[list[Tensor], Callable]:
    """The pixels of photos, filled by the function that finds a beat's row among them."""
    pixels = []

    @cache
    def files_of(folder: str) -> tuple[Path, dict[str, Path]]:
        path = system.find(folder)
        paths = photo_files(path, follow_links=True)[0]
        # generate.py spells out names that cannot be printed
        return path, {photo_name(path): path for path in paths}

    @cache
    def read(path: Path) -> int | None:
        try:
            pixels.append(encoder.preprocess(load_photo(path, encoder.config.image_size)))
        except (BrokenPhoto, OSError) as error:
            cli.warn(f"{path}: {error}; scored as a missing photo")
            return None
        return len(pixels) - 1

    def find_row(beat: dict) -> int | None:
        if not beat["photo_id"] or "folder" not in beat:
            return None
        folder, files = files_of(beat["folder"])
        name = Path(beat["photo_id"]).name  # never out of its folder
        return read(files.get(name, folder / name))

    return pixels, find_row


# --------------------------------------------------------------------------------------------- main


def score_by_model(
    system: System,
    model: PlanCVAE,
    tokenizer: PreTrainedTokenizerBase,
    options: Namespace,
    others: list[dict],
) -> list[str]:
    """Fill in a system's scores, and those of its corrupted stories where they are asked for.
    others: further stories of the same albums. Returns notes on means that one story explodes."""

    def fill_scores(scored: System) -> None:
        places = [i for i, story in enumerate(scored.stories) if story["beats"]]
        if not places:
            raise UserError(f"{system.path}: every story is empty; expected {SHAPES}")
        stories = [scored.stories[i] for i in places]
        positions = model.config.image_positions, model.max_length
        dataset = StoryDataset(stories, system.photos, tokenizer, *positions)
        remark = f"shortened to the model's {model.max_length} positions"
        system.remarks[remark] = max(system.remarks[remark], dataset.shortened)
        settings = options.batch_size, np.log if options.reference_log else np.log2
        found = score_stories(model, dataset, *settings)
        for name, values in found.items():
            scored.scores[name] = np.full(len(scored.stories), np.nan)
            scored.scores[name][places] = values

    fill_scores(system)
    notes = []
    for name, values in system.scores.items():
        entries = system.album_scores(name)
        if not entries:
            continue
        figure = mean_figure([(album, value, 1) for album, value in entries])
        middle = median(entries, seed=options.seed)
        system.figures |= {name: figure, f"{name}, median": middle}
        if figure.value > 2 * middle[0]:
            worst = np.nanargmax(values)
            story_id = cli.printable(system.stories[worst]["story_id"])
            notes.append(
                f"{system.name}: the mean {name} is more than twice the median, by story "
                f"{story_id} ({values[worst]:,.2f})"
            )
    stories = [story for story in system.stories if story["beats"]]
    for kind in CORRUPTIONS if options.corruptions else ():
        corrupted = corrupt(stories, kind, others, options.seed)
        if not corrupted:
            print(f"{system.name}: skipped: {kind}, {CORRUPTIONS[kind]}: no story can be so")
            continue
        system.corrupted[kind] = System(kind, system.path, corrupted)
        fill_scores(system.corrupted[kind])
    return notes


def measure_diversity(
    systems: list[System], baselines: list[System], training: set[str] | None, seed: int
) -> str:
    """Fill in how long, how diverse and how much copied the stories are. Returns a note."""
    words = {}  # of the first story of each system's albums
    for system in systems + baselines:
        stories = [(story["album_id"], sentences_of(story)) for story in system.stories]
        system.figures |= metrics.diversity_figures(stories, training)
        words[system.name] = {
            album: normalise(" ".join(sentences)).split() for album, sentences in reversed(stories)
        }
    # half of what the smallest has, whatever the baselines have
    tokens = min(sum(map(len, words[system.name].values())) for system in systems) // 2
    if not tokens:
        return "distinct-n and vocabulary are left out: a system has too few words"
    for system in systems + baselines:
        system.figures |= metrics.distinct(words[system.name], tokens, seed=seed)
    return f"distinct-n and vocabulary of {tokens} tokens each, of an album's first story"


def main() -> None:
    options = parse()
    uses_model = options.checkpoint != "none"
    systems = load_systems(options)
    references = training = None
    if options.references:
        references = load_references(options.references, options.protocol)
        for system in systems:
            system.stories = references.find_albums(system.stories)
    if options.train_data_path:
        stories = normalize_like_training(read_stories(options.train_data_path).stories, Counter())
        training = {normalise(" ".join(sentences_of(story))) for story in stories}
    baselines, notes = [], ["95 % intervals by a bootstrap over albums"]
    if uses_model:
        with cli.flag("--checkpoint"):
            model, tokenizer = load_checkpoint(options.checkpoint)
        model.to(best_device())
        chance = cde([0.0], np.log if options.reference_log else np.log2)
        notes.append(f"CDE: 1 is perfect, {chance:.3f} chance")
    # a model of original text reads stories as they are
    as_typed = uses_model and model.config.text == "original"
    for system in systems:
        if not as_typed:
            system.stories = normalize_like_training(system.stories, system.remarks)
        if uses_model:
            attach_photos(system, model.image_encoder, model.device)
            others = references.stories if references and not as_typed else []
            notes += score_by_model(system, model, tokenizer, options, others)
        if as_typed:
            system.stories = normalize_like_training(system.stories, system.remarks)
    if references:
        baselines, caption_notes = score_captions(systems, references, options.baselines)
        notes += caption_notes
    notes.append(measure_diversity(systems, baselines, training, options.seed))
    report(systems, baselines, "; ".join(notes) + ".", vars(options))


if __name__ == "__main__":
    cli.run(main)
