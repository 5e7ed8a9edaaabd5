"""Whether choosing plans chooses stories: a picture book's stories written under chosen plans."""

import numpy as np
import torch

import generate
from experiments.picturebook.facts import MOODS, SLOTS
from experiments.picturebook.texts import write_sentences
from experiments.plan_data import first_plans, read_truth
from utils.cli import BOW_AGREEMENT, SCORE_NAMES
from utils.decoding import choose_decoding
from utils.plans import Sample, list_samples
from utils.reranking import best_samples

TOP_P = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
PLAN_TEMPERATURES = {"sampled plans": 1, "plans × 1.25": 1.25, "plans × 1.5": 1.5}
STRENGTHS = (1.0, 1.5, 2.0)  # of a first plan


class ControlledWriter:
    """A model that writes about a picture book's albums, and a check of its stories."""

    def __init__(self, model, tokenizer, book, options):
        self.model, self.tokenizer, self.book, self.options = model, tokenizer, book, options
        self.writer = generate.StoryWriter(model, tokenizer)
        self.albums = generate.read_albums(options.data_path, model.image_encoder)[: options.albums]

    def write(self, *arguments: str, samples: list[Sample] | None = None):
        """Samples and their stories, by generate.py's options."""
        names = ("data_path", "batch_size", "seed")
        own = [f"--{name}={getattr(self.options, name)}" for name in names]
        settings = generate.parse([*own, *arguments])
        choose_decoding(settings, self.model.generation_config)
        if samples is None:
            samples = list_samples(self.albums, settings, self.model.config.plan_size)
        return samples, self.writer.write(self.albums, samples, settings)

    def count_right(self, *stories: dict) -> dict[str, float]:
        """The checker's share of right stories, by name."""
        placed = []
        for story in stories:
            places = [self.book.photos[photo] for photo in story["photo_ids"]]
            facts = places[0][0]
            beats = [beat for _, beat in places]
            placed.append((facts, dict(zip(beats, story["sentences"]))))
        counts = self.book.tally(placed).items()
        return {name: right / total for name, (right, total) in counts}

    def check(self, stories: list[dict]) -> dict[str, float]:
        right = self.count_right(*stories)
        albums = {story["story_id"] for story in stories}
        distinct = {(story["story_id"], *story["sentences"]) for story in stories}
        figures = {"slots right (the worst slot)": min(right[slot] for slot in SLOTS)}
        figures |= {name: right[name] for name in ("all five beats", "one mood", "cheerful")}
        return figures | {"distinct stories per album": len(distinct) / len(albums)}

    def mood(self, story: dict) -> str | None:
        right = self.count_right(story)
        return next((mood for mood in MOODS if right[mood]), None)

    def steer(self, split: dict) -> dict[float, float]:
        """{strength: share of albums whose story takes the mood of the first plan, for both moods}.

        The first plan is the posterior's mean given the album's first sentence in that mood, times
        the strength; the later plans are the prior's mean.
        """
        truth = read_truth(self.options.data_path, self.options.world)
        sentences = []
        for album in self.albums:
            facts = truth[album["story_id"]]
            sentences.append([write_sentences(facts | {"mood": mood})[0] for mood in MOODS])
        photos, batch_size = self.albums[0]["photos"], self.options.batch_size
        prior, posterior = first_plans(
            self.model, self.tokenizer, split, photos, sentences, batch_size
        )
        means = posterior.relative_to(prior).mean
        shares = {}
        for strength in STRENGTHS:
            samples = []
            for i, album in enumerate(self.albums):
                for m, mean in enumerate(means[i]):
                    plans = torch.zeros(len(album["rows"]), len(mean))
                    plans[0] = strength * mean
                    samples.append(Sample(i, m + 1, plans))
            moods = [self.mood(story) for story in self.write(samples=samples)[1]]
            takes_mood = np.array(moods).reshape(-1, len(MOODS)) == MOODS
            shares[strength] = takes_mood.all(1).mean()
        return shares

    def rerank(self) -> dict[str, float]:
        """Of --num_samples by word sampling: the share that is right, of all and of each album's
        best by each score, and the score's share of the possible gain."""
        count = self.options.num_samples
        sampling = ("--plan=mean", "--decoding=nucleus", "--top_p=1", f"--num_samples={count}")
        samples, stories = self.write(*sampling)
        found = [self.count_right(story) for story in stories]
        right = np.array([x["all five beats"] == x["one mood"] == 1 for x in found])
        mean, best = right.mean(), right.reshape(len(self.albums), -1).any(1).mean()
        figures = {"word sampling: right, in one mood": mean, "the best possible choice": best}
        state_bow = self.model.config.state_bow
        names = [name for name in SCORE_NAMES if state_bow or name != BOW_AGREEMENT]
        batch_size = self.options.batch_size
        scores = self.writer.score(self.albums, samples, stories, names, batch_size)
        for name, values in scores.items():
            share = right[best_samples(samples, values)].mean()
            figures[f"the best of {count} by {name}"] = share
            figures[f"{name}: share of the possible gain"] = (share - mean) / max(1e-9, best - mean)
        return figures


def control(model: ControlledWriter, no_plan: ControlledWriter | None, split: dict) -> dict:
    """{name: figure} of a model under chosen plans, beside one without a plan."""
    count = f"--num_samples={model.options.num_samples}"
    checked = {"mean plan": model.check(model.write("--plan=mean")[1])}
    for name, temperature in PLAN_TEMPERATURES.items():
        sampling = ("--plan=sample", f"--plan_temperature={temperature}", count)
        checked[name] = model.check(model.write(*sampling)[1])
    if no_plan:
        needed = checked["sampled plans"]["all five beats"]
        for top_p in TOP_P:
            sampling = ("--plan=mean", "--decoding=nucleus", f"--top_p={top_p}", count)
            found = {"top_p": top_p} | no_plan.check(no_plan.write(*sampling)[1])
            if found["all five beats"] >= needed:
                break
        checked["word sampling without a plan"] = found
    figures = {f"{name}: {key}": x for name, found in checked.items() for key, x in found.items()}
    for strength, share in model.steer(split).items():
        figures[f"first plan × {strength:g}: the story takes its mood, for both moods"] = share
    return figures | model.rerank()
