"""Generation against the plain way: no cache, one story, one word at a time."""

import json
import os
import random
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, random_sentences
from PIL import Image
from safetensors.torch import save_file
from transformers import GenerationConfig

from dataset import pack, special_ids, take_photos
from generate import natural, parse, plan_noise, readable, tell


def settings(tokenizer, words=8, **kwargs):
    return GenerationConfig(
        min_new_tokens=1, max_new_tokens=words,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **kwargs,
    )  # fmt: skip


def photos_of(data, numbers):
    photos, masks = zip(*(take_photos(data.rows(i), data.photos) for i in numbers))
    return torch.stack(photos), torch.stack(masks)


def write_plainly(model, special, photos, mask, words, noise=None, told=()):
    """Greedy words: every word from a fresh pass over the packed story so far, which begins with the sentences told."""
    sentences = list(told)
    for t in range(len(told), mask.shape[1]):
        sentence = []
        while len(sentence) < words:
            packed = pack([*sentences, []], special, model.config.image_slots)
            for name, unsaid in (("input_ids", 2), ("segment_ids", 2), ("dyn_at", 1)):  # up to its [bos]
                packed[name] = packed[name][:-unsaid]
            ids = torch.cat([packed["input_ids"], torch.tensor(sentence, dtype=torch.long)])[None]
            segments = torch.cat([packed["segment_ids"], torch.full((len(sentence),), special.txt)])[None]
            slots = model.project_photos(photos[:, : t + 1], mask[:, : t + 1])
            embeddings = model.embed(ids, segments, slots, packed["image_at"][None], torch.arange(t + 1))
            hidden = model.decode(embeddings, use_cache=False)[0]
            dyn = torch.cat(
                [hidden[:, packed["dyn_at"]], torch.zeros(1, 1, model.width)], 1
            )  # the coming one is unread
            _, expected = model.changes(dyn, model.follow(hidden[:, packed["image_at"]], dyn))
            prior = model.prior(expected[:, t])
            z = prior.mean if noise is None else prior.mean + noise[:, t] * (0.5 * prior.log_var).exp()
            logits = (model.decoder.lm_head(hidden[:, -1]) + model.plan_head(z))[0]
            logits[[i for i in special if i != special.eos]] = -torch.inf
            if not sentence:
                logits[special.eos] = -torch.inf  # a sentence has at least one word
            word = logits.argmax().item()
            if word == special.eos:
                break
            sentence.append(word)
        sentences.append(sentence)
    return sentences


@pytest.fixture
def album(make_model, make_stories, tokenizer):
    model = make_model()
    with torch.no_grad():  # make [eos] stand out, so that sentences end at different lengths
        model.plan_head.weight[tokenizer.eos_token_id] *= 6
        model.decoder.lm_head.weight[tokenizer.eos_token_id] *= 2
    return model, make_stories(model, [4, 4, 4, 4])


@pytest.mark.parametrize("sampled", [False, True])
def test_cached_and_batched_equals_plain(sampled, album, tokenizer):
    model, data = album
    special = special_ids(tokenizer)
    noise = plan_noise(range(4), 4, model.config.plan_size, seed=1, temperature=1.0) if sampled else None
    photos, mask = photos_of(data, range(4))
    together, _ = tell(model, special, photos, mask, settings(tokenizer), noise)
    with torch.no_grad():
        plainly = [
            write_plainly(
                model, special, photos[i : i + 1], mask[i : i + 1], 8, None if noise is None else noise[i : i + 1]
            )
            for i in range(4)
        ]
    assert together == plainly
    assert len({len(words) for story in together for words in story}) > 1  # ragged, so that padding was tried


@pytest.mark.parametrize("begun, beams", [(1, 1), (3, 1), (4, 1), (2, 3)])
def test_a_story_that_was_begun_goes_on_as_if_written_here(begun, beams, album, tokenizer):
    model, data = album
    special = special_ids(tokenizer)
    photos, mask = photos_of(data, range(4))
    chosen = settings(tokenizer, num_beams=beams)
    noise = plan_noise(range(4), 4, model.config.plan_size, seed=1, temperature=1.0)
    whole, _ = tell(model, special, photos, mask, chosen, noise)
    told = [story[:begun] for story in whole]
    assert len({sum(map(len, story)) for story in told}) > 1  # ragged, so that padding was tried
    assert tell(model, special, photos, mask, chosen, noise, told)[0] == whole
    assert told == [story[:begun] for story in whole]  # the caller's own lists are left alone


def test_a_strange_beginning_is_gone_on_with(album, tokenizer):
    """Sentences that the model would not have written itself, of very different lengths, against the plain way."""
    model, data = album
    special = special_ids(tokenizer)
    photos, mask = photos_of(data, range(4))
    told = [data.sentences(i)[:3] for i in range(4)]
    told[1] = [[], told[1][0] * 3, told[1][1]]
    together, _ = tell(model, special, photos, mask, settings(tokenizer), told=told)
    with torch.no_grad():
        for i in range(4):
            assert together[i][:3] == told[i]
            plainly = write_plainly(model, special, photos[i : i + 1], mask[i : i + 1], 8, told=told[i])
            assert together[i] == plainly
    with pytest.raises(ValueError, match="equally many"):
        tell(model, special, photos, mask, settings(tokenizer), told=[told[0], told[1][:2], told[2], told[3]])


def test_beam_1_equals_greedy_and_beams_find_likelier_sentences(album, tokenizer):
    model, data = album
    special = special_ids(tokenizer)
    photos, mask = photos_of(data, range(4))
    greedy, _ = tell(model, special, photos, mask, settings(tokenizer))
    assert tell(model, special, photos, mask, settings(tokenizer, num_beams=1))[0] == greedy
    beams, _ = tell(model, special, photos, mask, settings(tokenizer, num_beams=6, length_penalty=0.0))

    @torch.no_grad()
    def log_p(words, i):  # of the first sentence, under the prior's mean, without the forbidden tokens
        packed = pack([words], special, model.config.image_slots)
        slots = model.project_photos(photos[i : i + 1, :1], mask[i : i + 1, :1])
        ids, segments, image_at = (packed[name][None] for name in ("input_ids", "segment_ids", "image_at"))
        hidden = model.decode(model.embed(ids, segments, slots, image_at, torch.arange(1)), use_cache=False)[0]
        dyn = torch.zeros(1, 1, model.width)
        _, expected = model.changes(dyn, model.follow(hidden[:, packed["image_at"]], dyn))
        logits = model.decoder.lm_head(hidden[0, packed["word_at"]]) + model.plan_head(model.prior(expected[:, 0]).mean)
        logits[:, [j for j in special if j != special.eos]] = -torch.inf
        logits[0, special.eos] = -torch.inf
        log_probs = logits.log_softmax(-1).gather(1, packed["words"][:, None])[:, 0]
        return log_probs[: len(words) + (len(words) < 8)].sum()  # a sentence cut at 8 words has no [eos]

    gains = [log_p(beams[i][0], i) - log_p(greedy[i][0], i) for i in range(4)]
    assert min(gains) > -1e-4 and max(gains) > 1e-3


def test_teacher_forced_logits_equal_step_by_step(album, tokenizer):
    """The states of a whole packed story equal those of its tokens fed one at a time through the cache."""
    model, data = album
    item = data[0]
    from conftest import batch_of
    from transformers import DynamicCache

    batch = batch_of(data, [0], tokenizer)
    with torch.no_grad():
        whole = model.states(**batch).hidden
        slots = model.project_photos(batch["photos"], batch["photo_mask"])
        where = (batch[name] for name in ("image_at", "beats"))
        embeddings = model.embed(batch["input_ids"], batch["segment_ids"], slots, *where)
        cache = DynamicCache(config=model.decoder.config)
        steps = [
            model.decode(embeddings[:, i : i + 1], past_key_values=cache, use_cache=True)[0]
            for i in range(len(item["input_ids"]))
        ]
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-4, atol=1e-5)


def test_a_plan_does_not_depend_on_its_batch():
    many, one = plan_noise(range(5), 3, 4, seed=7, temperature=2.0), plan_noise([3], 3, 4, seed=7, temperature=1.0)
    torch.testing.assert_close(many[3], 2 * one[0])
    assert not torch.equal(many[0], many[1])


def test_words_readable():
    assert readable("i was so happy , it 's a dog . we did n't run !") == "I was so happy, it's a dog. We didn't run!"
    assert sorted(["b10.jpg", "b9.jpg", "B1.jpg", "a.jpg"], key=natural) == ["a.jpg", "B1.jpg", "b9.jpg", "b10.jpg"]


@pytest.fixture
def checkpoint(make_model, tokenizer, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


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
        "generate.py", folder, "--checkpoint", checkpoint, "--max_words", 6, "--vist_output", "vist.json",
        "--decoding", "nucleus", "--plan", "sample", "--num_stories", 2, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 photos cannot be read" in done.stderr and "broken.jpg" in done.stderr
    stories = json.loads((tmp_path / "stories.json").read_text())["stories"]
    assert [story["photo_ids"] for story in stories] == [["2.jpg", "9.png", "10.jpg"]] * 2
    assert all(len(story["sentences"]) == 3 for story in stories)
    assert stories[0]["sentences"] != stories[1]["sentences"]
    submission = json.loads((tmp_path / "vist.json").read_text())
    assert submission["output_stories"][0]["photo_sequence"] == ["2.jpg", "9.png", "10.jpg"]
    assert submission["output_stories"][0]["story_text_normalized"] == " ".join(stories[0]["sentences"])


def test_two_processes_write_what_one_writes(checkpoint, make_model, script, tmp_path):
    rng = random.Random(0)
    beats = [{"photo_id": str(t), "photo": t, "sentence": s} for t, s in enumerate(random_sentences(rng, 4))]
    stories = [{"story_id": f"s{i}", "album_id": f"a{i}", "beats": beats[: 2 + i % 3]} for i in range(7)]
    photos = {"file": "test.safetensors", "kind": "features"}
    (tmp_path / "test.json").write_text(json.dumps({"format": 1, "photos": photos, "stories": stories}))
    size = make_model().image_encoder.config.feature_size
    save_file({"photos": torch.randn(4, size).half()}, tmp_path / "test.safetensors")
    arguments = (
        "generate.py --data_path test.json --checkpoint model --decoding nucleus --plan sample --num_stories 2 "
        "--max_words 5 --batch_size 3"
    ).split()
    alone = script(*arguments, cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    expected = (tmp_path / "stories.json").read_bytes()
    (tmp_path / "stories.json").unlink()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*launcher, str(ROOT / "generate.py"), *arguments[1:]],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "stories.json").read_bytes() == expected
    assert done.stdout == alone.stdout
    total = len(json.loads(expected)["stories"])
    assert f" {total}/{total} " in alone.stderr and f" {total}/{total} " not in done.stderr  # each its share
    assert done.stderr.count("sentences were cut") == alone.stderr.count("sentences were cut") == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere"], "nowhere: no such folder"),
        (["empty"], "empty: no photo that can be read"),
        ([], "expected folders"),
        (["photos", "--num_stories", "2"], "--num_stories 2: all would be alike"),
        (["photos", "--checkpoint", "empty"], "--checkpoint empty: no checkpoint there"),
        (["photos", "--max_words", "90"], "3 photos; this model has room for 2 sentences"),
        (["photos", "--top_p", "1.5"], "--top_p"),
        (["--data_path", "missing.json"], "missing.json: no such file"),
    ],
)
def test_mistakes_are_one_line(arguments, message, checkpoint, folder, tmp_path, script):
    folder.rename(tmp_path / "photos")
    for name in ("broken.jpg", "notes.txt"):
        (tmp_path / "photos" / name).unlink()
    (tmp_path / "empty").mkdir()
    arguments = arguments if "--checkpoint" in arguments else [*arguments, "--checkpoint", checkpoint]
    done = script("generate.py", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "stories.json").exists()


def test_help_names_every_option(script):
    assert parse(["folder"]).decoding == "greedy"
    assert (ROOT / "generate.py").is_file() and "--plan_temperature" in script("generate.py", "--help").stdout
