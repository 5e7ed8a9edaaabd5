"""Whether choosing plans chooses stories: a picture book's stories written under chosen plans."""

from collections import defaultdict

import torch
from torch import Tensor

import generate
from experiments.picturebook.facts import MOODS, SLOTS
from experiments.picturebook.texts import write_sentences
from experiments.plan_data import as_in_split, compute_plans, read_truth, stories_dataset
from utils.cli import BOW_AGREEMENT, SCORE_NAMES
from utils.plans import Sample, list_samples
from utils.reranking import best_samples

TOP_P = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
PLAN_TEMPERATURES = {"sampled plans": 1, "plans × 1.25": 1.25, "plans × 1.5": 1.5}


class ControlledWriter:
    """A model that writes about a picture book's albums, and a check of its stories."""

    def __init__(self, model, tokenizer, book, options):
        self.model, self.tokenizer, self.book, self.options = model, tokenizer, book, options
        self.writer = generate.StoryWriter(model, tokenizer)
        self.albums = generate.read_albums(options.data_path, model.image_encoder)[: options.albums]

    def write(self, *arguments, samples: list[Sample] | None = None):
        """Samples and their stories, by generate.py's options."""
        names = ("data_path", "batch_size", "seed")
        arguments = [*(f"--{name}={getattr(self.options, name)}" for name in names), *arguments]
        settings = generate.parse(arguments)
        if samples is None:
            samples = list_samples(self.albums, settings, self.model.config.plan_size)
        return samples, self.writer.write(self.albums, samples, settings)

    def count_right(self, stories: list[dict]) -> dict[str, float]:
        """The checker's share of right stories, by name."""
        placed = []
        for story in stories:
            pairs = zip(story["photo_ids"], story["sentences"])
            beats = [
                {"photo_id": photo, "position": t, "sentence": sentence}
                for t, (photo, sentence) in enumerate(pairs)
            ]
            placed.append(self.book.place_story({"photo_ids": story["photo_ids"], "beats": beats}))
        counts = self.book.tally(placed).items()
        return {name: right / total for name, (right, total) in counts}

    def check(self, stories: list[dict]) -> dict[str, float]:
        right = self.count_right(stories)
        distinct = defaultdict(set)
        for story in stories:
            distinct[story["story_id"]].add(tuple(story["sentences"]))
        return {
            "slots right (the worst slot)": min(right[slot] for slot in SLOTS),
            "all five beats": right["all five beats"],
            "one mood": right["one mood"],
            "cheerful": right["cheerful"],
            "distinct stories per album": sum(map(len, distinct.values())) / len(distinct),
        }

    def is_right(self, story: dict) -> bool:
        right = self.count_right([story])
        return right["all five beats"] == right["one mood"] == 1

    def mood(self, story: dict) -> str | None:
        right = self.count_right([story])
        return next((mood for mood in MOODS if right[mood]), None)

    def posterior_means(self, split: dict) -> Tensor:
        """The first plan's posterior mean (albums, moods, Z), in units of the prior, given the
        album's first sentence in each mood."""
        facts = read_truth(self.options.data_path, self.options.world)
        stories = []
        for story in split["stories"][: len(self.albums)]:
            for mood in MOODS:
                texts = write_sentences(facts[story["story_id"]] | {"mood": mood})
                sentences = [{"sentence": as_in_split(split, text)} for text in texts]
                beats = [a | b for a, b in zip(story["beats"], sentences, strict=True)]
                stories.append({"beats": beats})
        photos = self.albums[0]["photos"]
        dataset = stories_dataset(self.model, self.tokenizer, stories, photos)
        prior, posterior = compute_plans(self.model, dataset, self.options.batch_size)
        return posterior.relative_to(prior).mean[:, 0].unflatten(0, (-1, len(MOODS)))

    def steer(self, split: dict, strengths=(1.0, 1.5, 2.0)) -> dict[float, float]:
        """{strength: share of albums whose story takes the mood of the first plan, for both moods}.

        The first plan is the posterior's mean given a first sentence in that mood, times
        `strength`; the later plans are the prior's mean.
        """
        means = self.posterior_means(split)
        shares = {}
        for strength in strengths:
            samples = []
            for i, album in enumerate(self.albums):
                for m in range(len(MOODS)):
                    plan = torch.zeros(len(album["rows"]), means.shape[-1])
                    plan[0] = strength * means[i, m]
                    samples.append(Sample(i, m + 1, plan))
            moods = [self.mood(story) for story in self.write(samples=samples)[1]]
            pairs = list(zip(*[iter(moods)] * len(MOODS)))
            shares[strength] = pairs.count(MOODS) / len(pairs)
        return shares

    def rerank(self) -> dict[str, float]:
        """Of --num_samples by word sampling: the share that is right, of all and of each album's
        best by each score, and the score's share of the possible gain."""
        count = str(self.options.num_samples)
        sampling = ["--decoding", "nucleus", "--top_p", "1", "--plan", "mean"]
        samples, stories = self.write(*sampling, "--num_samples", count)
        right = [self.is_right(story) for story in stories]
        possible = {sample.album for sample, is_right in zip(samples, right) if is_right}
        albums = {sample.album for sample in samples}
        mean, best = sum(right) / len(right), len(possible) / len(albums)
        figures = {"word sampling: right, in one mood": mean, "the best possible choice": best}
        names = [
            name for name in SCORE_NAMES if name != BOW_AGREEMENT or self.model.config.state_bow
        ]
        batch_size = self.options.batch_size
        scores = self.writer.score(self.albums, samples, stories, names, batch_size)
        for name, values in scores.items():
            chosen = best_samples(samples, values)
            share = sum(right[k] for k in chosen) / len(chosen)
            figures[f"the best of {count} by {name}"] = share
            figures[f"{name}: share of the possible gain"] = (share - mean) / max(1e-9, best - mean)
        return figures


def control(model: ControlledWriter, no_plan: ControlledWriter | None, split: dict) -> dict:
    """{name: figure} of a model under chosen plans, beside one without a plan."""
    count = ["--num_samples", str(model.options.num_samples)]
    settings = {"mean plan": ["--plan", "mean"]}
    for name, temperature in PLAN_TEMPERATURES.items():
        settings[name] = ["--plan", "sample", "--plan_temperature", str(temperature), *count]
    figures = {}
    for name, arguments in settings.items():
        checked = model.check(model.write(*arguments)[1])
        figures |= {f"{name}: {key}": value for key, value in checked.items()}
    if no_plan:
        needed = figures["sampled plans: all five beats"]
        for top_p in TOP_P:
            sampling = ["--plan", "mean", "--decoding", "nucleus", "--top_p", str(top_p), *count]
            checked = no_plan.check(no_plan.write(*sampling)[1])
            if checked["all five beats"] >= needed:
                break
        name = "word sampling without a plan"
        figures[f"{name}: top_p"] = top_p
        figures |= {f"{name}: {key}": value for key, value in checked.items()}
    for strength, share in model.steer(split).items():
        figures[f"first plan × {strength:g}: the story takes its mood, for both moods"] = share
    return figures | model.rerank()
