"""Generation against the plain way: no cache, one story, one word at a time."""

import io
import json
import os
import random
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_sentences, ranks
from PIL import Image
from safetensors.torch import save_file
from transformers import GenerationConfig

from dataset import pack
from generate import StoryWriter, generate_stories, main
from model import PlanCVAE, load_checkpoint
from utils import albums, cli
from utils.cli import UserError
from utils.generate_options import parse
from utils.photos import natural
from utils.plans import plan_noise, slerp
from utils.screen import Screen, readable
from utils.structure import normalise_states
from utils.tensors import take_photos


def settings(tokenizer, words=8, **kwargs):
    return GenerationConfig(
        min_new_tokens=1,
        max_new_tokens=words,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        **kwargs,
    )


def photos_of(data, numbers):
    photos, masks = zip(*(take_photos(data.rows(i), data.photos) for i in numbers))
    return torch.stack(photos), torch.stack(masks)


def write_plainly(model, photos, mask, words, noise=None, prefix=()):
    """Greedy words: every word from a fresh pass over the packed story so far, which begins with
    the sentences of prefix."""
    sentences, eos = list(prefix), model.decoder.config.eos_token_id
    for t in range(len(prefix), mask.shape[1]):
        sentence = []
        while len(sentence) < words:
            packed = pack([*sentences, []], eos, model.config.image_positions)
            # up to its [bos]
            packed["input_ids"], packed["dyn_at"] = packed["input_ids"][:-1], packed["dyn_at"][:-1]
            ids = torch.cat([packed["input_ids"], torch.tensor(sentence, dtype=torch.long)])[None]
            slots = model.project_photos(photos[:, : t + 1], mask[:, : t + 1])
            embeddings = model.embed(ids, slots, packed["image_at"][None], torch.arange(t + 1))
            hidden = model.decode(embeddings, use_cache=False)[0]
            # the coming one is unread
            read = normalise_states(hidden[:, packed["dyn_at"]])
            dyn = torch.cat([read, torch.zeros(1, 1, model.width)], 1)
            image_states, beats = (
                normalise_states(hidden[:, packed["image_at"]]),
                torch.arange(t + 1),
            )
            predicted = model.predict_states(image_states, dyn, beats)
            expected = model.state_deltas(dyn, predicted, beats)[1]
            prior = model.prior(expected[t:])
            z = (
                prior.mean
                if noise is None
                else prior.mean + noise[:, t] * (0.5 * prior.log_var).exp()
            )
            logits = (model.decoder.lm_head(hidden[:, -1]) + model.plan_head(z))[0]
            if not sentence:
                logits[eos] = -torch.inf  # a sentence has at least one word
            word = logits.argmax().item()
            if word == eos:
                break
            sentence.append(word)
        sentences.append(sentence)
    return sentences


@pytest.fixture
def album(make_model, make_stories, tokenizer):
    model = make_model()
    with torch.no_grad():  # make the end stand out, so that sentences end at different lengths
        model.plan_head.weight[tokenizer.eos_token_id] *= 6
        model.decoder.lm_head.weight[tokenizer.eos_token_id] *= 6
    return model, make_stories(model, [4, 4, 4, 4])


@pytest.mark.parametrize("sampled", [False, True])
def test_cached_and_batched_equals_plain(sampled, album, tokenizer):
    model, data = album
    noise = [plan_noise(i, 4, model.config.plan_size, seed=1, temperature=1.0) for i in range(4)]
    noise = torch.stack(noise) if sampled else None
    photos, mask = photos_of(data, range(4))
    together, _ = generate_stories(model, photos, mask, settings(tokenizer), noise)
    with torch.no_grad():
        plainly = [
            write_plainly(
                model,
                photos[i : i + 1],
                mask[i : i + 1],
                8,
                None if noise is None else noise[i : i + 1],
            )
            for i in range(4)
        ]
    assert together == plainly
    # ragged, so that padding was tried
    assert len({len(words) for story in together for words in story}) > 1


@pytest.mark.parametrize("begun, beams", [(1, 1), (3, 1), (4, 1), (2, 3)])
def test_a_story_that_was_begun_goes_on_as_if_written_here(begun, beams, album, tokenizer):
    model, data = album
    photos, mask = photos_of(data, range(4))
    chosen = settings(tokenizer, num_beams=beams)
    noise = torch.stack(
        [plan_noise(i, 4, model.config.plan_size, seed=1, temperature=1.0) for i in range(4)]
    )
    whole, _ = generate_stories(model, photos, mask, chosen, noise)
    told = [story[:begun] for story in whole]
    assert len({sum(map(len, story)) for story in told}) > 1  # ragged, so that padding was tried
    assert generate_stories(model, photos, mask, chosen, noise, told)[0] == whole
    assert told == [story[:begun] for story in whole]  # the caller's own lists are left alone


def test_a_strange_beginning_is_gone_on_with(album, tokenizer):
    """Sentences that the model would not have written itself, of very different lengths, against
    the plain way."""
    model, data = album
    photos, mask = photos_of(data, range(4))
    told = [data.sentences(i)[:3] for i in range(4)]
    told[1] = [[], told[1][0] * 3, told[1][1]]
    together, _ = generate_stories(model, photos, mask, settings(tokenizer), prefix=told)
    with torch.no_grad():
        for i in range(4):
            assert together[i][:3] == told[i]
            plainly = write_plainly(model, photos[i : i + 1], mask[i : i + 1], 8, prefix=told[i])
            assert together[i] == plainly
    with pytest.raises(ValueError, match="equally many"):
        generate_stories(
            model,
            photos,
            mask,
            settings(tokenizer),
            prefix=[told[0], told[1][:2], told[2], told[3]],
        )


def test_beam_1_equals_greedy_and_beams_find_likelier_sentences(album, tokenizer):
    model, data = album
    photos, mask = photos_of(data, range(4))
    greedy, _ = generate_stories(model, photos, mask, settings(tokenizer))
    assert generate_stories(model, photos, mask, settings(tokenizer, num_beams=1))[0] == greedy
    beams, _ = generate_stories(
        model, photos, mask, settings(tokenizer, num_beams=6, length_penalty=0.0)
    )

    # of the first sentence, under the prior's mean, without the forbidden tokens
    @torch.no_grad()
    def log_p(words, i):
        packed = pack([words], tokenizer.eos_token_id, model.config.image_positions)
        slots = model.project_photos(photos[i : i + 1, :1], mask[i : i + 1, :1])
        ids, image_at = packed["input_ids"][None], packed["image_at"][None]
        embeddings = model.embed(ids, slots, image_at, torch.arange(1))
        hidden = model.decode(embeddings, use_cache=False)[0]
        dyn = torch.zeros(1, 1, model.width)
        image_states = normalise_states(hidden[:, packed["image_at"]])
        predicted = model.predict_states(image_states, dyn, torch.arange(1))
        expected = model.state_deltas(dyn, predicted, torch.arange(1))[1]
        logits = model.decoder.lm_head(hidden[0, packed["word_at"]]) + model.plan_head(
            model.prior(expected).mean
        )
        logits[0, tokenizer.eos_token_id] = -torch.inf
        log_probs = logits.log_softmax(-1).gather(1, packed["words"][:, None])[:, 0]
        return log_probs[
            : len(words) + (len(words) < 8)
        ].sum()  # a sentence cut at 8 words has no [eos]

    gains = [log_p(beams[i][0], i) - log_p(greedy[i][0], i) for i in range(4)]
    assert min(gains) > -1e-4 and max(gains) > 1e-3


def test_a_cache_that_holds_nothing_is_told_of(album, tokenizer, monkeypatch):
    """As where a release of transformers swallows a keyword that it does not know: no photo would
    be seen, and nothing said."""
    model, data = album
    photos, mask = photos_of(data, [0])
    forward = type(model.decoder.transformer).forward

    def swallow(self, *args, cache=None, **kwargs):
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model.decoder.transformer), "forward", swallow)
    with pytest.raises(UserError, match="the decoder's cache holds 0 of the 3 positions"):
        generate_stories(model, photos, mask, settings(tokenizer))


def test_teacher_forced_logits_equal_step_by_step(album, tokenizer):
    """The states of a whole packed story equal those of its tokens fed one at a time through the
    cache."""
    model, data = album
    item = data[0]
    from conftest import batch_of
    from transformers import DynamicCache

    batch = batch_of(data, [0], tokenizer)
    with torch.no_grad():
        whole = model.states(**batch).hidden
        slots = model.project_photos(batch["photos"], batch["photo_mask"])
        where = (batch[name] for name in ("image_at", "beats"))
        embeddings = model.embed(batch["input_ids"], slots, *where)
        cache = DynamicCache(config=model.decoder.config)
        steps = [
            model.decode(embeddings[:, i : i + 1], cache=cache, use_cache=True)[0]
            for i in range(len(item["input_ids"]))
        ]
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-4, atol=1e-5)


def test_a_plan_does_not_depend_on_its_batch():
    cool, hot = (
        plan_noise(3, 3, 4, seed=7, temperature=1.0),
        plan_noise(3, 3, 4, seed=7, temperature=2.0),
    )
    torch.testing.assert_close(hot, 2 * cool)
    others = [
        plan_noise(4, 3, 4, 7, 1.0),
        plan_noise(3, 3, 4, 8, 1.0),
        plan_noise(3, 3, 4, 7, 1.0, again=True),
    ]
    assert not any(torch.equal(cool, other) for other in others)


def test_from_one_plan_to_another():
    one, other = torch.randn(2, 5, 32)
    for share in (0.0, 1.0):
        torch.testing.assert_close(slerp(one, other, share), other if share else one)
    one, other = (x / x.norm(dim=1, keepdim=True) for x in (one, other))
    middle = slerp(one, other, 0.5)
    # as long as they are, and as near to either
    torch.testing.assert_close(middle.norm(dim=1), torch.ones(5))
    torch.testing.assert_close((middle * one).sum(1), (middle * other).sum(1))
    # the mean lies on no circle
    torch.testing.assert_close(slerp(one, 0 * one, 0.25), 0.75 * one)
    torch.testing.assert_close(slerp(one, one, 0.3), one)


def test_words_readable():
    assert (
        readable("i was so happy , it 's a dog . we did n't run !")
        == "I was so happy, it's a dog. We didn't run!"
    )
    assert sorted(["b10.jpg", "b9.jpg", "B1.jpg", "a.jpg"], key=natural) == [
        "a.jpg",
        "B1.jpg",
        "b9.jpg",
        "b10.jpg",
    ]


@pytest.fixture
def checkpoint(saved_model, tmp_path):
    return Path(shutil.copytree(saved_model, tmp_path / "model"))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "holiday photos"
    folder.mkdir()
    for i, name in enumerate(("10.jpg", "9.png", "2.jpg")):
        Image.new("RGB", (60 + i, 40), (80 * i, 100, 200)).save(folder / name)
    (folder / "broken.jpg").write_text("not a photo")
    (folder / "notes.txt").write_text("left alone")
    return folder


def test_from_a_folder_to_stories_json(checkpoint, folder, script, tmp_path):
    done = script(
        "generate.py",
        folder,
        "--checkpoint",
        checkpoint,
        "--max_new_tokens",
        6,
        "--vist_output",
        "vist.json",
        "--decoding",
        "nucleus",
        "--plan",
        "sample",
        "--num_samples",
        2,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "1 photos cannot be read" in done.stderr and "broken.jpg" in done.stderr
    stories = json.loads((tmp_path / "output/stories.json").read_text())["stories"]
    assert [story["photo_ids"] for story in stories] == [["2.jpg", "9.png", "10.jpg"]] * 2
    assert all(len(story["sentences"]) == 3 for story in stories)
    assert stories[0]["sentences"] != stories[1]["sentences"]
    submission = json.loads((tmp_path / "vist.json").read_text())
    (entry,) = submission["output_stories"]  # one story of each sequence, ids without suffixes
    assert entry["photo_sequence"] == ["2", "9", "10"]
    assert entry["story_text_normalized"] == " ".join(stories[0]["sentences"])
    assert "vist.json" in done.stderr and "without 1 more of the same photos" in done.stderr


def stories_of(path):
    return [story["sentences"] for story in json.loads(path.read_text())["stories"]]


def test_plans_are_kept_told_again_changed_and_gone_between(checkpoint, folder, script, tmp_path):
    (folder / "broken.jpg").unlink()

    def write(output, *arguments):
        same = ["--checkpoint", checkpoint, "--max_new_tokens", 6, "--output", output]
        done = script("generate.py", folder, *same, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return stories_of(tmp_path / output)

    first = write(
        "a.json", "--num_samples", 2, "--save_plans", "plans.json", "--plan_temperature", 9
    )
    assert first[0] != first[1]
    kept = json.loads((tmp_path / "plans.json").read_text())
    assert kept["plan_size"] == 6 and [len(story["plans"]) for story in kept["stories"]] == [3, 3]
    drawn = plan_noise(1, 3, 6, 0, 9.0)
    assert torch.equal(torch.tensor(kept["stories"][1]["plans"]), drawn)
    assert write("b.json", "--plans", "plans.json") == first
    redraw = [
        "--plans",
        "plans.json",
        "--redraw",
        2,
        "--plan_temperature",
        9,
        "--save_plans",
        "new.json",
    ]
    changed = write("c.json", *redraw)
    assert [story[0] for story in changed] == [story[0] for story in first] and changed != first
    for old, new in zip(
        kept["stories"], json.loads((tmp_path / "new.json").read_text())["stories"]
    ):
        assert [a == b for a, b in zip(old["plans"], new["plans"])] == [True, False, True]
    several = write("d.json", *redraw, "--num_samples", 3, "--save_plans", "d_plans.json")
    drawn = [
        story["plans"][1]
        for story in json.loads((tmp_path / "d_plans.json").read_text())["stories"]
    ]
    assert len(several) == len({tuple(plan) for plan in drawn}) == 6
    path = write("e.json", "--plans", "plans.json", "--interpolate", "--num_samples", 4)
    assert len(path) == 4 and [path[0], path[-1]] == first
    write("f.json", "--save_plans", "mean.json")
    (mean,) = json.loads((tmp_path / "mean.json").read_text())["stories"]
    assert mean["plans"] == [[0.0] * 6] * 3


def test_stdout_is_the_story_alone_in_the_format_asked_for(checkpoint, folder, script, tmp_path):
    files = [
        "--output",
        "a.json",
        "--html",
        "a.html",
        "--vist_output",
        "vist.json",
        "--save_plans",
        "plans.json",
    ]
    same = [folder, "--checkpoint", checkpoint, "--max_new_tokens", 6, "--num_samples", 2, *files]
    done = {
        name: script("generate.py", *same, "--format", name, cwd=tmp_path)
        for name in ("json", "vist", "html")
    }
    done["text"] = script("generate.py", *same, cwd=tmp_path)
    for name, of in done.items():
        assert of.returncode == 0, of.stderr
        assert ["2 stories -> a.json", "as a page -> a.html"] == of.stderr.splitlines()[-4:-2], name
        assert "broken.jpg" in of.stderr
    wrote = json.loads(done["json"].stdout)
    assert wrote["stories"] == json.loads((tmp_path / "a.json").read_text())["stories"]
    assert done["vist"].stdout == (tmp_path / "vist.json").read_text()
    assert (
        done["html"].stdout == (tmp_path / "a.html").read_text()
        and "</html>" in done["html"].stdout
    )
    lines = []
    for number, story in enumerate(wrote["stories"], start=1):
        lines += [""] * (number > 1) + [f"holiday photos, sample {number}"]
        said = zip(("2.jpg ", "9.png ", "10.jpg"), story["sentences"], strict=True)
        lines += [f"  {name}  {cli.printable(readable(sentence))}" for name, sentence in said]
    assert done["text"].stdout.splitlines() == lines


def test_a_sentence_is_on_the_screen_before_the_next_is_begun(
    checkpoint, folder, tmp_path, monkeypatch
):
    wire, begun = io.BytesIO(), []
    under_plan = PlanCVAE.under_plan
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(wire)))
    monkeypatch.setattr(
        PlanCVAE,
        "under_plan",
        lambda *args: (begun.append(wire.getvalue().count(b"\n")), under_plan(*args))[1],
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys,
        "argv",
        ["generate.py", str(folder), "--checkpoint", str(checkpoint), "--max_new_tokens", "4"],
    )
    main()
    # lines, the first of them the title
    assert begun == [0, 2, 3] and wire.getvalue().count(b"\n") == 4


def test_stories_are_shown_in_the_order_asked(capsys):
    screen = Screen(
        [
            {"album_id": name, "photo_ids": [f"{name}1", None][:beats]}
            for name, beats in (("a", 2), ("b", 1))
        ]
    )
    shown = []
    for k, sentence in ((1, "b one"), (0, "a one"), (2, "c one"), (0, "a two")):
        screen.add(k, sentence)
        shown.append(capsys.readouterr().out)
    assert shown == ["", "a\n  a1          A one\n", "", "  (no photo)  A two\n\nb\n  b1  B one\n"]


def test_a_reader_that_has_gone_ends_the_printing_not_the_work(
    checkpoint, folder, tmp_path, monkeypatch
):
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys,
        "argv",
        ["generate.py", str(folder), "--checkpoint", str(checkpoint), "--max_new_tokens", "4"],
    )
    with open(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        main()
    assert len(stories_of(tmp_path / "output/stories.json")) == 1


def test_a_story_writer_writes_what_the_command_writes(checkpoint, folder, script, tmp_path):
    """Of paths, images or arrays; under plans that are given back; from sentences on."""
    model, tokenizer = load_checkpoint(checkpoint)
    with torch.no_grad():  # words that begin with a space, so that text is read as it was written
        for token, number in tokenizer.get_vocab().items():
            if token[0] != "Ġ":
                model.plan_head.weight[number] = model.decoder.lm_head.weight[number] = 0
    model.save_pretrained(checkpoint)
    options = ["--max_new_tokens", 6, "--num_samples", 2, "--seed", 3, "--save_plans", "plans.json"]
    done = script("generate.py", folder, "--checkpoint", checkpoint, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = stories_of(tmp_path / "output/stories.json")
    writer = StoryWriter.from_pretrained(checkpoint)
    paths = [folder / name for name in ("2.jpg", "9.png", "10.jpg")]
    stories = writer(paths, num_samples=2, max_new_tokens=6, seed=3, scores=[cli.CDE, cli.NLL])
    assert [story["sentences"] for story in stories] == written
    assert all(story["scores"].keys() == {cli.CDE, cli.NLL} for story in stories)
    images = [Image.open(path) for path in paths]
    plans = [story["plans"].tolist() for story in stories]
    for photos in (images, [np.asarray(image) for image in images]):
        again = writer(photos, plans=plans, max_new_tokens=6)
        assert [story["sentences"] for story in again] == written
    (begun,) = writer(paths, plans=plans[:1], prefix=written[0][:2], max_new_tokens=6)
    assert begun["sentences"] == written[0]
    (other,) = writer(paths, plans=plans[:1], prefix=["a red kite ."], max_new_tokens=6)
    assert other["sentences"][0] == "a red kite ." and len(other["sentences"]) == 3
    (mean,) = writer(paths, max_new_tokens=6)
    assert not mean["plans"].any() and mean["scores"] == {}


def test_what_a_story_writer_refuses(checkpoint, folder, tmp_path):
    """ValueErrors without names of options, which a notebook has not given."""
    writer = StoryWriter.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match="plans of 1 x 2 x 6; expected stories x 1 x 6 numbers"):
        writer([folder / "2.jpg"], plans=torch.zeros(1, 2, 6))
    for name in ("broken.jpg", "absent.jpg"):
        with pytest.raises(ValueError, match=f"{name}: .*; expected a photo"):
            writer([folder / "2.jpg", folder / name])
    with pytest.raises(TypeError, match="'max_word' is no option"):
        writer([folder / "2.jpg"], max_word=3)
    paths = [folder / "2.jpg", folder / "9.png"]
    for options, message in (
        ({"seed": 1}, "seed 1: nothing is drawn"),
        ({"plan_temperature": 2}, "plan_temperature 2.0: no plan is sampled"),
        ({"top_p": 0.5}, "top_p 0.5: has no effect on decoding greedy"),
        ({"max_new_tokens": 2.5}, "argument max_new_tokens: invalid"),
        ({"max_new_tokens": "six"}, "argument max_new_tokens: invalid"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens 9: expected at most"),
        ({"batch_size": 0}, "argument batch_size: 0 is not a whole number of at least 1"),
        ({"decoding": "best"}, "argument decoding: invalid choice: 'best'"),
        ({"num_samples": 0}, "argument num_samples: 0 is not"),
        ({"num_samples": 2, "plan": "mean"}, "num_samples 2: all would be alike"),
        ({"num_samples": 2, "plans": torch.zeros(1, 2, 6)}, "num_samples 2: all would be alike"),
        ({"plans": [["a"]]}, "plans: something else; expected stories x 2 x 6 numbers"),
        ({"plans": torch.full((1, 2, 6), torch.nan)}, "plans of 1 x 2 x 6; expected"),
        ({"prefix": "a red kite ."}, "prefix: expected a list of sentences"),
        ({"prefix": ["a ."] * 3}, "photos: 2, with 3 sentences in prefix; expected a photo for"),
        ({"prefix": ["a kite . " * 99]}, "prefix: with the sentences to come the story may take"),
        ({"max_new_tokens": 999}, "story photos: 2 photos; this model has room for 0 sentences"),
        ({"scores": ["beauty"]}, "scores 'beauty': unknown; expected some of CDE, "),
    ):
        with pytest.raises(ValueError, match="^" + re.escape(message)):
            writer(paths, **options)
    with pytest.raises(ValueError, match="^photos: 0, with 0 sentences in prefix; expected"):
        writer([])
    (sampled,) = writer(paths, plan="sample", max_new_tokens=3)
    assert sampled["plans"].any()
    with pytest.raises(ValueError, match="^.*nowhere: no checkpoint there"):
        StoryWriter.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("score", (cli.CDE, cli.NLL))
def test_rerank_keeps_the_story_that_scores_best(score, checkpoint, folder, script, tmp_path):
    (folder / "broken.jpg").unlink()
    lone = tmp_path / "lone"
    lone.mkdir()
    Image.new("RGB", (40, 40), (9, 9, 9)).save(lone / "1.jpg")
    several = [
        folder,
        lone,
        "--checkpoint",
        checkpoint,
        "--max_new_tokens",
        6,
        "--num_samples",
        5,
        "--decoding",
        "nucleus",
    ]
    assert script("generate.py", *several, "--output", "all.json", cwd=tmp_path).returncode == 0
    kept = ["--rerank", "--rerank_by", score, "--output", "best.json", "--save_plans", "plans.json"]
    done = script("generate.py", *several, *kept, cwd=tmp_path)
    assert done.returncode == 0 and ("1 stories have no CDE" in done.stderr) == (score == "CDE")
    (best, alone) = json.loads((tmp_path / "best.json").read_text())["stories"]
    scored = ["CDE_score.py", "all.json", "--checkpoint", checkpoint, "--output", "scores"]
    assert script(*scored, cwd=tmp_path).returncode == 0
    scores = json.loads((tmp_path / "scores.json").read_text())["systems"]["all"]["scores"]
    found = [story[score] for story in scores][:5]
    assert len(set(found)) > 1 and best[score] == pytest.approx(min(found), rel=1e-5)
    assert best["sample"] == found.index(min(found)) + 1 and best["best_of"] == 5
    assert best["sentences"] == stories_of(tmp_path / "all.json")[found.index(min(found))]
    assert done.stdout.count("sample ") == 2 and f", sample {best['sample']}\n" in done.stdout
    assert score != "CDE" or (alone["CDE"] is None and alone["sample"] == 1)
    assert len(json.loads((tmp_path / "plans.json").read_text())["stories"]) == 2


def test_two_processes_write_what_one_writes(checkpoint, make_model, script, fork, tmp_path):
    rng = random.Random(0)
    beats = [
        {"photo_id": str(t), "photo": t, "sentence": s}
        for t, s in enumerate(random_sentences(rng, 4))
    ]
    stories = [
        {"story_id": f"s{i}", "album_id": f"a{i}", "beats": beats[: 2 + i % 3]} for i in range(7)
    ]
    photos = {"file": "test.safetensors", "kind": "features"}
    (tmp_path / "test.json").write_text(
        json.dumps({"format": 1, "photos": photos, "stories": stories})
    )
    size = make_model().image_encoder.config.feature_size
    save_file({"photos": torch.randn(4, size).half()}, tmp_path / "test.safetensors")
    arguments = (
        "generate.py --data_path test.json --checkpoint model --decoding nucleus --plan sample "
        "--num_samples 2 "
        "--max_new_tokens 5 --batch_size 3"
    ).split()
    alone = script(*arguments, cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    expected = (tmp_path / "output/stories.json").read_bytes()
    (tmp_path / "output/stories.json").unlink()
    (tmp_path / "other").mkdir()  # of the second process, which writes no file
    for name in ("model", "test.json", "test.safetensors"):
        (tmp_path / "other" / name).symlink_to(tmp_path / name)
    folders = tmp_path, tmp_path / "other"
    two = [fork(folder, arguments, environment) for folder, environment in zip(folders, ranks(2))]
    assert [one.wait() for one in two] == [0, 0], two[0].said + two[1].said
    assert (tmp_path / "output/stories.json").read_bytes() == expected and not (
        folders[1] / "output/stories.json"
    ).exists()
    said = two[0].said
    assert alone.stdout in said and not two[1].said.count("a0")
    total = len(json.loads(expected)["stories"])
    # each its share
    assert f" {total}/{total} " in alone.stderr and f" {total}/{total} " not in said
    assert f"{total} stories, {total - 1} of them not shown -> output/stories.json" in said
    assert said.count("sentences were cut") == alone.stderr.count("sentences were cut") == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere"], "nowhere: no such folder"),
        (["empty"], "empty: no photo that can be read"),
        ([], "expected folders"),
        (["photos", "--num_samples", "2", "--plan", "mean"], "--num_samples 2: all would be alike"),
        (["photos", "--rerank"], "--rerank: of one story; expected --num_samples"),
        (["photos", "--redraw", "1"], "--redraw: of no plans; expected --plans too"),
        (
            ["photos", "--plans", "p.json", "--interpolate"],
            "--interpolate: expected --num_samples of 2",
        ),
        (
            ["photos", "--plans", "p.json", "--num_samples", "2"],
            "all would be alike under the same --plans; expected --redraw",
        ),
        (
            ["photos", "photos", "--save_plans", "p.json"],
            "--save_plans: two stories are named 'photos'",
        ),
        (
            ["photos", "--save_plans", "output/stories.json"],
            "--save_plans output/stories.json: --output names that file",
        ),
        (
            ["photos", "--html", "./output/stories.json"],
            "--html ./output/stories.json: --output names that file; expected another name",
        ),
        (
            ["photos", "--html", "x", "--vist_output", "x"],
            "--html x: --vist_output names that file; expected another name",
        ),
        (
            ["--data_path", "x.json", "--html", "x.html"],
            "--html: a preprocessed split holds no pictures for a page",
        ),
        (
            ["--data_path", "x.json", "--format", "html"],
            "--format html: a preprocessed split holds no pictures",
        ),
        (["photos", "--plans", "none.json"], "--plans none.json: something else; expected"),
        (["photos", "--plans", "huge.json"], "--plans huge.json: something else; expected"),
        (
            ["photos", "--plans", "missing.json"],
            "missing.json: no such file; expected a file that --save_plans",
        ),
        (
            ["photos", "--plans", "odd.json"],
            "--plans odd.json: something else; expected a file that --save_plans",
        ),
        (
            ["photos", "--plans", "wide.json"],
            "--plans wide.json: plans of width 9; this model's have 6",
        ),
        (
            ["photos", "--plans", "other.json"],
            "--plans other.json: none of 'photos'; it has 'elsewhere'",
        ),
        (
            ["photos", "--plans", "short.json"],
            "--plans short.json: of 2 beats; 'photos' has 3 photos",
        ),
        (["photos", "--plans", "p.json", "--redraw", "4"], "--redraw 4: 'photos' has 3 photos"),
        (
            ["photos", "--plans", "p.json", "--interpolate", "--num_samples", "3"],
            "has one sample of 'photos'",
        ),
        (["photos", "--checkpoint", "empty"], "--checkpoint empty: no checkpoint there"),
        (["photos", "--max_new_tokens", "90"], "3 photos; this model has room for 2 sentences"),
        (["photos", "--top_p", "1.5"], "--top_p"),
        (["--data_path", "missing.json"], "missing.json: no such file"),
    ],
)
def test_mistakes_are_one_line(arguments, message, checkpoint, folder, tmp_path, script):
    folder.rename(tmp_path / "photos")
    for name in ("broken.jpg", "notes.txt"):
        (tmp_path / "photos" / name).unlink()
    (tmp_path / "empty").mkdir()
    plan = {"story_id": "photos", "plans": [[0.5] * 6] * 3}
    for name, width, story in (
        ("p", 6, plan),
        ("odd", 6, plan | {"plans": [["a"]]}),
        ("wide", 9, plan),
        ("other", 6, plan | {"story_id": "elsewhere"}),
        ("short", 6, plan | {"plans": [[0.5] * 6] * 2}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps({"plan_size": width, "stories": [story]}))
    (tmp_path / "none.json").write_text(json.dumps({"plan_size": 6, "stories": []}))
    huge = plan | {"plans": [[10**400] * 6] * 3}
    (tmp_path / "huge.json").write_text(json.dumps({"plan_size": 6, "stories": [huge]}))
    arguments = (
        arguments if "--checkpoint" in arguments else [*arguments, "--checkpoint", checkpoint]
    )
    done = script("generate.py", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "output/stories.json").exists()


def test_help_names_every_option(script):
    assert parse(["folder", "--num_beams", "3"]).num_beams == 3
    assert "--plan_temperature" in script("generate.py", "--help").stdout


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--temperature", 2], "--temperature 2.0: has no effect on --decoding greedy; expected"),
        (["--decoding", "beam", "--top_k", 2], "--top_k 2: has no effect on --decoding beam"),
        (["--num_beams", 3], "--num_beams 3: has no effect on --decoding greedy; expected --dec"),
        (["--seed", 1], "--seed 1: nothing is drawn; expected --plan sample or --decoding nucl"),
        (["--plan_temperature", 2], "--plan_temperature 2.0: no plan is sampled; expected --plan"),
        (["--plans", "p.json", "--plan", "sample", "--seed", 1], "--seed 1: nothing is drawn"),
        (["--rerank_by", cli.CDE], "--rerank_by CDE: expected --rerank too"),
        (["--min_new_tokens", 9, "--max_new_tokens", 8], "--min_new_tokens 9: expected at most"),
    ],
)
def test_an_option_without_effect_is_refused(arguments, message, checkpoint, folder, script):
    done = script("generate.py", folder, "--checkpoint", checkpoint, *arguments)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_options_of_folders_are_refused_of_a_split(script):
    for arguments, message in (
        (["--order", "time"], "--order time: of folders of photos"),
        (["--follow_links"], "--follow_links: of folders of photos"),
    ):
        done = script("generate.py", "--data_path", "test.json", *arguments)
        assert done.returncode == 2 and message in done.stderr


def test_the_checkpoints_settings_are_the_defaults(checkpoint, folder, script, tmp_path):
    """Those of its way of decoding; options go before them; what was chosen is in the file."""
    GenerationConfig(num_beams=4, no_repeat_ngram_size=3, max_new_tokens=7).save_pretrained(
        checkpoint
    )

    def settings_of(*arguments):
        same = ["--checkpoint", checkpoint, "--output", "stories.json"]
        done = script("generate.py", folder, *same, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        names = ("decoding", "num_beams", "no_repeat_ngram_size", "max_new_tokens", "top_p")
        settings = json.loads((tmp_path / "stories.json").read_text())["settings"]
        return [settings[name] for name in names]

    assert settings_of() == ["beam", 4, 3, 7, None]
    assert settings_of("--num_beams", 2, "--max_new_tokens", 5) == ["beam", 2, 3, 5, None]
    assert settings_of("--decoding", "greedy") == ["greedy", None, 3, 7, None]
    assert settings_of("--decoding", "nucleus", "--no_repeat_ngram_size", 0) == [
        "nucleus", None, 0, 7, 0.9
    ]  # fmt: skip


def test_files_of_a_folder_are_one_story(checkpoint, folder, script, tmp_path):
    same = ["--checkpoint", checkpoint, "--output", "stories.json"]
    done = script("generate.py", folder / "9.png", folder / "2.jpg", *same, cwd=tmp_path)
    assert done.returncode == 0 and "skipped" not in done.stderr, done.stderr
    (story,) = json.loads((tmp_path / "stories.json").read_text())["stories"]
    assert story["photo_ids"] == ["2.jpg", "9.png"] and story["story_id"] == folder.name
    for paths, message in (
        ([folder / "9.png", folder], "9.png: a file; expected folders of photos, or files of one"),
        ([folder / "notes.txt"], "notes.txt: not named as a photo; expected .jpg"),
    ):
        done = script("generate.py", *paths, *same, cwd=tmp_path)
        assert done.returncode == 2 and message in done.stderr


def test_too_many_photos_are_refused_before_they_are_read(
    checkpoint, folder, script, tmp_path, monkeypatch
):
    """The line says what would fit, and it does."""
    for i in range(30):
        shutil.copy(folder / "2.jpg", folder / f"again{i}.jpg")
    read, load = [], albums.load_photo
    monkeypatch.setattr(albums, "load_photo", lambda path, size: read.append(1) or load(path, size))
    same = ["--checkpoint", checkpoint, "--output", "stories.json"]
    done = script("generate.py", folder, *same, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 2  # and that of what is skipped
    line = "34 photos; .* room for 5 .*expected 5 photos or --max_new_tokens 2"
    assert re.search(line, done.stderr) and len(read) <= 7, done.stderr
    done = script("generate.py", folder, "--max_new_tokens", 2, *same, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("flag", ["--output", "--html", "--vist_output", "--save_plans"])
def test_where_nothing_can_be_written_is_said_before_the_work(
    flag, checkpoint, folder, script, tmp_path, monkeypatch
):
    monkeypatch.setattr(StoryWriter, "write", None)  # it is not come to
    done = script("generate.py", folder, "--checkpoint", checkpoint, flag, tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"{flag} {tmp_path}: is a folder; expected the name of a file" in done.stderr
