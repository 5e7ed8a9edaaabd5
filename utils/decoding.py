"""How words are chosen: the settings, and logits processors that see the words of a story alone.

No n-gram crosses a sentence's border, and the end of text is neither blocked nor penalised: else
two sentences could not begin alike, or end.
"""

from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from utils import cli
from utils.cli import UserError, positive_int
from utils.generate_options import parser

DEFAULTS = {  # of the options, where the checkpoint says nothing
    "min_new_tokens": 1,
    "max_new_tokens": 40,
    "no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "num_beams": 5,
    "length_penalty": 1.0,
    "temperature": 1.0,
    "top_p": 0.9,
    "top_k": 0,
}
ONLY = {  # the options that have an effect on one way of decoding alone
    "num_beams": "beam",
    "length_penalty": "beam",
    "temperature": "nucleus",
    "top_p": "nucleus",
    "top_k": "nucleus",
}


def default_generation(source: str | None, eos: int) -> GenerationConfig:
    """How a model writes that was trained on stories of this source: the picture book's are as
    regular as its sentences are; people's are searched by beams and do not repeat a phrase."""
    settings = {"min_new_tokens": 1, "max_new_tokens": 40}
    if source != "picturebook":
        settings |= {"num_beams": 3, "no_repeat_ngram_size": 3}
    return GenerationConfig(eos_token_id=eos, pad_token_id=eos, **settings)


# what else transformers writes into generation_config.json
NOT_OPTIONS = {
    "do_sample", "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version",
    "_from_model_config",
}  # fmt: skip


def check_stored(stored: GenerationConfig) -> GenerationConfig:
    """Raises ValueError where a checkpoint's settings are of another kind or beyond the bounds of
    the options of generate.py."""
    kinds = {action.dest: action.type for action in parser()._actions}
    kinds["num_beams"] = positive_int  # 1 is no search by beams
    for name, value in stored.to_diff_dict().items():
        where = f"generation_config.json: {name} is {value!r}"
        if name not in DEFAULTS and name not in NOT_OPTIONS:
            raise ValueError(f"{where}, which is not read; expected {', '.join(DEFAULTS)} alone")
        if name in DEFAULTS and value is not None:
            try:
                kinds[name](str(value))
            except (ArgumentTypeError, ValueError):
                raise ValueError(f"{where}; expected what --{name} takes") from None
    return stored


def stored_decoding(stored: GenerationConfig) -> str:
    """The way of decoding that a checkpoint's settings describe."""
    if stored.do_sample:
        return "nucleus"
    return "beam" if (stored.num_beams or 1) > 1 else "greedy"


def choose_decoding(options: Namespace, stored: GenerationConfig) -> None:
    """Fill in the options of decoding that are None from a checkpoint's settings. Raises UserError
    for an option without effect."""
    stored_way = stored_decoding(stored)
    options.decoding = options.decoding or stored_way
    for name, default in DEFAULTS.items():
        value, way = getattr(options, name), ONLY.get(name)
        if way not in (None, options.decoding):
            if value is not None:
                raise UserError(
                    f"--{name} {value}: has no effect on --decoding {options.decoding}; expected "
                    f"--decoding {way} too"
                )
            continue
        if value is None and way in (None, stored_way):
            value = getattr(stored, name, None)
        setattr(options, name, default if value is None else value)
    if options.min_new_tokens > options.max_new_tokens:
        raise UserError(
            f"--min_new_tokens {options.min_new_tokens}: expected at most --max_new_tokens "
            f"{options.max_new_tokens}"
        )


def choose_settings(options: Namespace, model: Any) -> None:
    """Fill in what was not given: how words are chosen, by the checkpoint, and how plans are. Raise
    UserError where the model lacks what the options ask for, or an option has no effect."""
    choose_decoding(options, model.generation_config)
    plan, where = model.config.plan, options.checkpoint
    several = f"--num_samples {options.num_samples}"
    if options.decoding != "nucleus" and options.num_samples > 1 and not options.interpolate:
        if options.plan == "mean":
            raise UserError(
                f"{several}: all would be alike; add --plan sample or --decoding nucleus"
            )
        if options.plans and not options.redraw:
            raise UserError(
                f"{several}: all would be alike under the same --plans; expected --redraw, "
                "--interpolate or --decoding nucleus"
            )
    for name in ("plan", "plans", "save_plans"):
        value = getattr(options, name)
        if plan != "cvae" and value not in (None, "mean"):
            raise UserError(
                f"--{name} {value}: {where} was trained with --plan {plan}; expected cvae"
            )
    if options.plan is None:
        samples = plan == "cvae" and (options.num_samples > 1 or options.redraw)
        options.plan = "sample" if samples else "mean"
    if plan != "cvae" and options.num_samples > 1 and options.decoding != "nucleus":
        raise UserError(
            f"{several}: {where} was trained with --plan {plan}, so that all would be alike; add "
            "--decoding nucleus"
        )
    # plans that are given are not drawn
    draws = options.plan == "sample" and (options.redraw or not options.plans)
    if not draws and options.plan_temperature is not None:
        raise UserError(
            f"--plan_temperature {options.plan_temperature}: no plan is sampled; expected --plan "
            "sample too"
        )
    if not draws and options.decoding != "nucleus" and options.seed is not None:
        raise UserError(
            f"--seed {options.seed}: nothing is drawn; expected --plan sample or --decoding nucleus"
        )
    lacks = {cli.BOW_AGREEMENT: not model.config.state_bow, cli.MAX_KL: plan != "cvae"}
    if options.rerank and lacks.get(options.rerank_by):
        raise UserError(
            f"--rerank_by {options.rerank_by}: the model in {where} lacks it; expected another"
        )
    options.seed = options.seed or 0
    if options.plan_temperature is None:
        options.plan_temperature = 1.0


def generation_config(
    options: Namespace, eos: int, no_words: Iterable[int] = ()
) -> GenerationConfig:
    """transformers' settings of what `choose_decoding` has chosen. no_words: ids that the tokenizer
    does not know, which a larger decoder has."""
    chosen = {name: getattr(options, name) for name in DEFAULTS}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if no_words := list(no_words):
        chosen["suppress_tokens"] = no_words
    return GenerationConfig(
        do_sample=options.decoding == "nucleus", eos_token_id=eos, pad_token_id=eos, **chosen
    )


class WordsProcessor(LogitsProcessor):
    """Changes the scores of words by the story so far, for each row of a batch and its beams."""

    def __init__(self, stories: list[list[list[int]]], start: int, eos: int):
        """stories: the sentences so far; start: where the words of the coming one begin."""
        self.stories, self.start, self.eos = stories, start, eos

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        num_beams = len(input_ids) // len(self.stories)
        for row, words in enumerate(input_ids[:, self.start :].tolist()):
            sentences = [*self.stories[row // num_beams], words]
            self.change(scores[row], sentences)
        return scores

    def change(self, scores: Tensor, sentences: list[list[int]]) -> None:
        """Change the scores (V) of the next word in place; the last sentence is the current one."""
        raise NotImplementedError


class NoRepeatNGram(WordsProcessor):
    """No n-gram of words occurs twice in a story."""

    def __init__(self, size: int, *story):
        super().__init__(*story)
        self.size = size

    def change(self, scores: Tensor, sentences: list[list[int]]) -> None:
        current, before = sentences[-1], self.size - 1
        if len(current) < before:
            return
        context = current[len(current) - before :]
        blocked = {
            words[i + before]
            for words in sentences
            for i in range(len(words) - before)
            if words[i : i + before] == context
        }
        scores[list(blocked - {self.eos})] = -torch.inf


class RepetitionPenalty(WordsProcessor):
    """Words that a story has used are less likely (Keskar et al. 2019)."""

    def __init__(self, penalty: float, *story):
        super().__init__(*story)
        self.penalty = penalty

    def change(self, scores: Tensor, sentences: list[list[int]]) -> None:
        used = list({word for words in sentences for word in words} - {self.eos})
        value = scores[used]
        scores[used] = torch.where(value < 0, value * self.penalty, value / self.penalty)


def words_processors(
    settings: GenerationConfig, stories: list[list[list[int]]], start: int
) -> LogitsProcessorList:
    """The processors that the settings ask for, in place of transformers' own."""
    story = stories, start, settings.eos_token_id
    processors = LogitsProcessorList()
    if settings.no_repeat_ngram_size:
        processors.append(NoRepeatNGram(settings.no_repeat_ngram_size, *story))
    if settings.repetition_penalty not in (None, 1.0):
        processors.append(RepetitionPenalty(settings.repetition_penalty, *story))
    return processors
