"""CDE: how well a story's changes follow the changes that the model expected. Lower is better.

    python CDE_score.py                        the human stories of the newest test split
    python CDE_score.py stories.json           what generate.py wrote, a preprocessed split, or a VIST submission

With s_t = (cos(Δh_t, Δh̃_t) + 1) / 2 for t = 2..T, CDE = 2^(−mean_t log2 s_t) = 1 / (geometric mean of s_t): 1 is
perfect agreement, 2 is chance. It is the Flow score of DialoFlow (Li et al. 2021), for stories.
"""

import random
import re
from pathlib import Path

import numpy as np
import torch
from nltk.tokenize.punkt import PunktSentenceTokenizer
from tqdm import tqdm

import cli
from cli import UserError
from dataset import BrokenPhoto, BucketBatches, Photos, StoryDataset, collate, latest_split, load_photo, read_split
from model import OUTPUT_DIR, best_device, load_checkpoint

CONTROLS = ("shuffled", "repeated", "borrowed")
SHAPES = "stories.json of generate.py, a preprocessed split, or a VIST Challenge submission"


# -------------------------------------------------------------------------------------------- scores


def cde(cosines, reference_log=False):
    """CDE of one story from cos(Δh_t, Δh̃_t), t = 2..T (at least one).

    reference_log: the public reference's arithmetic, base 2 to a mean of natural logarithms.
    """
    s = np.clip((np.asarray(cosines, dtype=np.float64) + 1) / 2, 1e-12, 1)  # a cosine of −1 is bad, not infinite
    return float(2 ** -(np.log(s) if reference_log else np.log2(s)).mean())


def auc(better, worse):
    """Probability that a story of `better` scores lower than one of `worse`; ties count half (Mann-Whitney)."""
    better, worse = np.sort(better), np.asarray(worse)
    below = np.searchsorted(better, worse, "left")
    ties = np.searchsorted(better, worse, "right") - below
    return float((below + ties / 2).mean() / len(better))


def bootstrap(values, seed=0, samples=2000):
    """95 % percentile interval of the mean, over stories drawn with replacement."""
    values = np.asarray(values)
    drawn = np.random.default_rng(seed).integers(len(values), size=(samples, len(values)))
    return tuple(np.percentile(values[drawn].mean(1), [2.5, 97.5]).tolist())


@torch.inference_mode()
def story_cosines(model, dataset, pad_id, batch_size=32):
    """cos(Δh_t, Δh̃_t) for t = 2..T of every story: a list of arrays (T − 1), in the data's order."""
    cosines = [None] * len(dataset)
    bar = tqdm(total=len(dataset), unit="story", desc="scoring", leave=False)
    for numbers in BucketBatches(dataset.lengths, batch_size, shuffle=False):
        batch = collate([dataset[i] for i in numbers], pad_id)
        batch = {name: value.to(model.device) for name, value in batch.items()}
        states = model.states(**batch)
        cosine = torch.cosine_similarity(states.observed_change.float(), states.expected_change.float(), dim=-1)
        for i, row, beats in zip(numbers, cosine.cpu().numpy(), batch["beat_mask"].sum(1).tolist(), strict=True):
            cosines[i] = row[1:beats]
        bar.update(len(numbers))
    bar.close()
    return cosines


# ------------------------------------------------------------------------------------------ controls


def with_sentences(story, sentences):
    return story | {"beats": [beat | {"sentence": s} for beat, s in zip(story["beats"], sentences, strict=True)]}


def control(stories, kind, seed=0):
    """The same stories and photos told wrongly: "shuffled", "repeated" (one sentence) or "borrowed" (another album's).

    Only stories for which the control can differ from the original are in the result.
    """
    rng = random.Random(f"{kind} {seed}")
    told = [[beat["sentence"] for beat in story["beats"]] for story in stories]
    wrong = []
    for story, sentences in zip(stories, told, strict=True):
        if kind != "borrowed" and len(set(sentences)) < 2:
            continue
        if kind == "shuffled":
            other = sentences
            while other == sentences:
                other = rng.sample(sentences, len(sentences))
        elif kind == "repeated":
            other = [rng.choice(sentences)] * len(sentences)
        else:
            for i in (rng.randrange(len(stories)) for _ in range(1000)):  # in vain where one album is all there is
                if stories[i]["album_id"] != story["album_id"] and len(told[i]) >= len(sentences):
                    other = told[i][: len(sentences)]
                    break
            else:
                continue
        wrong.append(with_sentences(story, other))
    return wrong


# ------------------------------------------------------------------------------------- reading stories


def split_sentences(text):
    """The sentences of a story that is one string: at VIST's tokenised full stops, else by Punkt (no download)."""
    if re.search(r"\s[.!?](\s|$)", text):
        return [part.strip() for part in re.split(r"(?<=\s[.!?])\s+", text) if part.strip()]
    return PunktSentenceTokenizer().tokenize(text.strip())


def check_strings(path, story, values, what):
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise UserError(f"{path}: story {story}: expected {what}")
    return values


def read_stories(path):
    """Stories of any of SHAPES as a list of {"story_id", "album_id", "beats": [{"photo_id", "photo", "sentence"}]}.

    Returns them, where their photos are (a split's path, "folders", or None), and the number of stories that have not
    as many sentences as photos. Raises UserError where the file is none of the shapes.
    """
    value = cli.read_json(path, SHAPES)
    if not isinstance(value, dict):
        raise UserError(f"{path}: a {type(value).__name__} at its top; expected {SHAPES}")
    if value.get("format") == 1:
        return read_split(path)["stories"], path, 0
    submission = "output_stories" in value
    told = value.get("output_stories") if submission else value.get("stories")
    if not isinstance(told, list) or not told or not all(isinstance(story, dict) for story in told):
        raise UserError(f"{path}: no stories in it; expected {SHAPES}")
    stories, uneven = [], 0
    for number, story in enumerate(told):
        name = str(story.get("story_id", f"number {number}"))
        if submission:
            photos = story.get("photo_sequence")
            text = story.get("story_text_normalized")
            if not isinstance(text, str) or not text.strip():
                raise UserError(f'{path}: story {name}: expected "story_text_normalized", a text')
            sentences = split_sentences(text)
        else:
            photos = story.get("photo_ids")
            sentences = check_strings(path, name, story.get("sentences"), '"sentences", a list of texts')
        photos = [None if photo is None else str(photo) for photo in photos] if isinstance(photos, list) else []
        folder = story.get("folder")
        uneven += len(photos) != len(sentences)
        beats = [
            {
                "photo_id": photo,
                "photo": None,
                "sentence": sentence,
                "folder": folder if isinstance(folder, str) else "",
            }
            for photo, sentence in zip([*photos, *[None] * len(sentences)], sentences)
        ]
        stories.append({"story_id": name, "album_id": str(story.get("album_id", name)), "beats": beats})
    settings = value.get("settings") if isinstance(value.get("settings"), dict) else {}
    where = settings.get("data_path") if isinstance(settings.get("data_path"), str) else None
    return stories, where or ("folders" if told[0].get("folder") else None), uneven


def find_photos(stories, where, encoder):
    """The stories with the rows of their photos filled in, and the photos (None: score the text alone)."""
    if where is None:
        return stories, None
    rows, photos = {}, None
    if where == "folders":
        pixels = []

        def key(beat):  # the photo's file, which never leaves its folder
            return Path(beat["folder"], Path(beat["photo_id"] or "").name)

        for beat in (beat for story in stories for beat in story["beats"]):
            file = key(beat)
            if file in rows or not beat["photo_id"]:
                continue
            try:
                pixels.append(encoder.preprocess(load_photo(file, encoder.config.image_size)))
                rows[file] = len(pixels) - 1
            except (BrokenPhoto, OSError) as error:
                cli.warn(f"{file}: {error}; scored as a missing photo")
        photos = torch.stack(pixels) if pixels else None
    else:
        split = read_split(where)
        photos = Photos(where, split, encoder)
        rows = {beat["photo_id"]: beat["photo"] for story in split["stories"] for beat in story["beats"]}

        def key(beat):
            return beat["photo_id"]

    return [
        story | {"beats": [beat | {"photo": rows.get(key(beat))} for beat in story["beats"]]} for story in stories
    ], photos


# ---------------------------------------------------------------------------------------------- main


def parser():
    parser = cli.Parser(prog="CDE_score.py", description=__doc__.splitlines()[0])
    parser.add_argument("stories", nargs="?", help=f"{SHAPES}; the newest preprocessed test split if not named")
    parser.add_argument("--checkpoint", default=OUTPUT_DIR, help="checkpoint, or train.py's output_dir (its best one)")
    parser.add_argument("--data_path", help="preprocessed split with the photos, where the stories do not tell")
    parser.add_argument("--no_photos", action="store_true", help="score the text alone")
    parser.add_argument("--controls", action="store_true", help="how well the score tells wrongly told stories apart")
    parser.add_argument(
        "--reference_log", action="store_true", help="the public reference's arithmetic (chance is 1.617)"
    )
    parser.add_argument("--batch_size", type=cli.positive_int, default=32, help="stories scored together")
    parser.add_argument("--seed", type=cli.natural_int, default=0, help="of controls and intervals")
    parser.add_argument("--output", default="cde_scores.json", help="where the score of each story goes")
    return parser


def main():
    options = parser().parse_args()
    path = options.stories or latest_split("test")
    if path is None:
        raise UserError("no stories named and dataset/preprocessed/ holds no test split; expected " + SHAPES)
    if not options.stories:
        print(f"scoring the human stories of {path}, the newest test split, with {options.checkpoint}")
    stories, where, uneven = read_stories(path)
    model, tokenizer = load_checkpoint(options.checkpoint)
    model.to(best_device())
    where = None if options.no_photos else options.data_path or where
    if isinstance(where, str) and where != "folders" and not Path(where).is_file():
        raise UserError(
            f"{where}: no such file; expected the split with the photos of {path} (--data_path), or --no_photos"
        )
    stories, photos = find_photos(stories, where, model.image_encoder)
    missing = sum(beat["photo"] is None for story in stories for beat in story["beats"])
    print("photos: none, the text alone is scored" if photos is None else f"photos: {where}, {missing} missing")
    if uneven:
        print(f"{uneven} stories have not as many sentences as photos; they are scored on their own sentences")

    def score(told):
        data = StoryDataset(told, photos, tokenizer, model.config.image_slots, model.max_length)
        if data.shortened:
            print(f"{data.shortened} stories shortened to the model's {model.max_length} positions")
        cosines = story_cosines(model, data, tokenizer.pad_token_id, options.batch_size)
        return [cde(cosine, options.reference_log) if len(cosine) else None for cosine in cosines], cosines

    scores, cosines = score(stories)
    values = np.array([value for value in scores if value is not None])
    if not len(values):
        raise UserError(f"{path}: every story has a single sentence; CDE needs at least two")
    if len(values) < len(scores):
        print(f"{len(scores) - len(values)} stories of a single sentence have no change to score and are left out")
    low, high = bootstrap(values, options.seed)
    transitions = sum(map(len, cosines))
    chance = cde([0.0], options.reference_log)
    name = "CDE (reference's logarithm)" if options.reference_log else "CDE"
    print(f"{name} {values.mean():.4f}   95 % interval {low:.4f} to {high:.4f}   (1 is perfect, {chance:.3f} chance)")
    print(f"{len(values)} stories, {transitions} transitions, mean cosine {np.concatenate(cosines).mean():.3f}")
    result = {
        "stories": str(path), "checkpoint": options.checkpoint, "photos": str(where) if photos is not None else None,
        "reference_log": options.reference_log, "cde": values.mean(), "interval": [low, high],
        "count": len(values), "transitions": transitions,
        "scores": [
            {"story_id": story["story_id"], "album_id": story["album_id"], "cde": value}
            for story, value in zip(stories, scores, strict=True)
        ],
    }  # fmt: skip
    if options.controls:
        result["controls"] = {}
        print(f"{'told wrongly':<14}{'stories':>8}{'CDE':>9}{'AUC':>8}")
        for kind in CONTROLS:
            wrong = [value for value in score(control(stories, kind, options.seed))[0] if value is not None]
            if not wrong:
                print(f"{kind:<14}{0:>8}   (no story to tell this way)")
                continue
            result["controls"][kind] = {"count": len(wrong), "cde": float(np.mean(wrong)), "auc": auc(values, wrong)}
            print(f"{kind:<14}{len(wrong):>8}{np.mean(wrong):>9.4f}{auc(values, wrong):>8.3f}")
    cli.write_json(options.output, result)
    print(f"the score of each story -> {options.output}")


if __name__ == "__main__":
    cli.run(main)
