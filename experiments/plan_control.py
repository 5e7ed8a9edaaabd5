"""Whether choosing plans chooses stories: a picture book's stories written under chosen plans."""

from collections import defaultdict

import torch

import generate
from dataset import StoryDataset
from experiments.picturebook.facts import MOODS, SLOTS
from experiments.picturebook.texts import tell
from experiments.plan_data import as_written, plans_of, truth_of
from utils.cli import BOW_AGREEMENT, SCORES
from utils.plans import Sample, list_samples
from utils.processes import alone_here


class Control:
    """A model that tells a picture book's albums under chosen plans, and what becomes of the
    stories."""

    def __init__(self, model, tokenizer, book, options):
        self.model, self.tokenizer, self.options, self.book = model, tokenizer, options, book
        self.albums = generate.read_albums(options.data_path, model.image_encoder)[: options.albums]

    def write(self, plans, *arguments):
        """Stories by generate.py's options; plans: {(album, telling)} -> plans (T, Z) or None, or
        None for its own."""
        own = {
            name: str(getattr(self.options, name)) for name in ("data_path", "batch_size", "seed")
        }
        settings = generate.parse(
            [*(f"--{name}={value}" for name, value in own.items()), *arguments]
        )
        if plans is None:
            asked = list_samples(self.albums, settings, self.model.config.plan_size)
        else:
            asked = [Sample(i, n, plan) for (i, n), plan in plans.items()]
        team = alone_here(self.model.device)
        writer = generate.StoryWriter(self.model, self.tokenizer)
        return asked, writer.write(self.albums, asked, settings, team)

    def placed(self, stories):
        for story in stories:
            beats = zip(story["photo_ids"], story["sentences"])
            beats = [
                {"photo_id": photo, "position": t, "sentence": said}
                for t, (photo, said) in enumerate(beats)
            ]
            yield self.book.place_story({"photo_ids": story["photo_ids"], "beats": beats})

    def checked(self, stories):
        """Shares of stories with every slot right, whole, in one mood, cheerful; different stories
        an album."""
        figures = self.book.tally(list(self.placed(stories)))
        share = {name: right / of for name, (right, of) in figures.items()}
        different = defaultdict(set)
        for story in stories:
            different[story["story_id"]].add(tuple(story["sentences"]))
        return {
            "slots right (the worst slot)": min(share[slot] for slot in SLOTS),
            "whole": share["all five beats"],
            "one mood": share["one mood"],
            "cheerful": share["cheerful"],
            "distinct stories of each": sum(map(len, different.values())) / len(different),
        }

    def is_whole(self, story):
        """Whether a story has the wordings of its pictures, all in one mood."""
        figures = self.book.tally(list(self.placed([story])))
        return bool(figures["all five beats"][0] and figures["one mood"][0])

    def mood(self, story):
        figures = self.book.tally(list(self.placed([story])))
        return next((mood for mood in MOODS if figures[mood][0]), None)

    def changed(self, split, strengths=(1.0, 1.5, 2.0)):
        """{strength: share of albums whose story takes the mood of the plan of beat 1, both ways},
        all else left alone.

        The plans are those that the model reads off a cheerful and a gloomy first sentence about
        the album's picture, `strength` times as far from the mean; the other beats have the mean.
        """
        photos = self.albums[0]["photos"]
        facts = truth_of(self.options.data_path, self.options)
        told = []
        for story in split["stories"][: len(self.albums)]:
            for mood in MOODS:
                sentences = [
                    as_written(split, text)
                    for text in tell(facts[story["story_id"]] | {"mood": mood})
                ]
                told.append(
                    {
                        "beats": [
                            b | {"sentence": s}
                            for b, s in zip(story["beats"], sentences, strict=True)
                        ]
                    }
                )
        data = StoryDataset(
            told, photos, self.tokenizer, self.model.config.image_positions, self.model.max_length
        )
        prior, posterior = plans_of(
            self.model, data, self.tokenizer.pad_token_id, self.options.batch_size
        )
        first = posterior.relative_to(prior).mean[:, 0]
        found = {}
        for strength in strengths:
            plans = {}
            for i, album in enumerate(self.albums):
                for m in range(len(MOODS)):
                    plans[i, m + 1] = torch.zeros(len(album["rows"]), first.shape[1])
                    plans[i, m + 1][0] = strength * first[len(MOODS) * i + m]
            moods = [self.mood(story) for story in self.write(plans)[1]]
            pairs = [tuple(moods[at : at + len(MOODS)]) for at in range(0, len(moods), len(MOODS))]
            found[strength] = sum(pair == MOODS for pair in pairs) / len(pairs)
        return found

    def reranked(self):
        """Of --num_samples by word sampling: the share that is whole and in one mood of all, and of
        those that are the best of their album by each score; and how much that is of what the best
        possible choice would gain."""
        asked, stories = self.write(
            None,
            "--decoding",
            "nucleus",
            "--top_p",
            "1",
            "--plan",
            "mean",
            "--num_samples",
            str(self.options.num_samples),
        )
        whole = [self.is_whole(story) for story in stories]
        any_whole = defaultdict(bool)
        for telling, good in zip(asked, whole):
            any_whole[telling.album] |= good
        mean, possible = sum(whole) / len(whole), sum(any_whole.values()) / len(any_whole)
        found = {"word sampling: whole and in one mood": mean, "the best possible choice": possible}
        names = [name for name in SCORES if name != BOW_AGREEMENT or self.model.config.state_bow]
        writer = generate.StoryWriter(self.model, self.tokenizer)
        how = self.albums, asked, stories, names, self.options.batch_size
        for name, scores in writer.score(*how).items():
            best = generate.best_of(asked, scores)
            kept = sum(whole[k] for k in best) / len(best)
            found[f"the best of {self.options.num_samples} by {name}"] = kept
            found[f"{name}: share of the possible gain"] = (kept - mean) / max(
                1e-9, possible - mean
            )
        return found


def control(model, no_plan, split):
    """Every figure of one Control under chosen plans, beside a Control without a plan or None:
    {name: figure}."""
    options, found = model.options, {}
    many = ["--num_samples", str(options.num_samples)]
    sampled = {1.0: "sampled plans", 1.25: "plans × 1.25", 1.5: "plans × 1.5"}
    tellings = {
        name: ["--plan", "sample", "--plan_temperature", str(t), *many]
        for t, name in sampled.items()
    }
    for name, arguments in {"mean plan": ["--plan", "mean"], **tellings}.items():
        found |= {
            f"{name}: {of}": value
            for of, value in model.checked(model.write(None, *arguments)[1]).items()
        }
    if no_plan:
        for top_p in (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3):
            stories = no_plan.write(
                None, "--plan", "mean", "--decoding", "nucleus", "--top_p", str(top_p), *many
            )[1]
            figures = no_plan.checked(stories)
            if figures["whole"] >= found["sampled plans: whole"]:
                break
        found["word sampling without a plan: top_p"] = top_p
        found |= {f"word sampling without a plan: {of}": value for of, value in figures.items()}
    for strength, share in model.changed(split).items():
        found[f"plan of beat 1 chosen, × {strength:g}: the story takes its mood, both ways"] = share
    return found | model.reranked()
