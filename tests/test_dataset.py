"""dataset.py: sequences, batches, photos, VIST and VIST-Edit, preprocessing that can be stopped and
taken up again."""

import io
import itertools
import json
import os
import pickle
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

import dataset
from dataset import StoryDataset, collate, pack, story_length
from utils import cli, preprocessing
from utils.batches import BucketBatches
from utils.cli import UserError
from utils.dataset_options import latest_split
from utils.image_encoder import ImageEncoder
from utils.photos import BrokenPhoto, load_photo
from utils.story_files import align, read_vist, read_vist_edit, spread_evenly
from utils.structure import BOS, DYN, IMG, PAD
from utils.text import similarity
from utils.tokenizer import decode, encode, load_tokenizer, train_tokenizer

WORDS = "the dog ran to a red boat and we saw [male] 's old house near the sea ! it was".split()
WORDS += "n't far , naïve 🙂 .".split()
EOS = 1000


def sentence(chance, most=9):
    return " ".join(chance.choices(WORDS, k=chance.randint(1, most)))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([sentence(random.Random(seed)) for seed in range(200)], 320)


@pytest.fixture
def chance(request):
    return random.Random(request.node.name)


def random_stories(chance, count, most_beats=6):
    """Stories as lists of token ids below EOS."""
    return [
        [
            [chance.randrange(1000) for _ in range(chance.randint(0, 7))]
            for _ in range(chance.randint(1, most_beats))
        ]
        for _ in range(count)
    ]


# ------------------------------------------------------------------------------------------- tokens


def test_tokenizer_round_trip(tmp_path, tokenizer, chance):
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path))
    assert again.eos_token_id == tokenizer.eos_token_id == len(again) - 1 == len(tokenizer) - 1
    for text in [sentence(chance) for _ in range(20)]:
        (ids,) = encode(again, [text])
        assert ids == encode(tokenizer, [text])[0] and decode(again, [ids]) == [text]
        # as in the middle of a text, with the space before it
        assert ids == again(f"a {text}")["input_ids"][-len(ids) :]


def test_a_folder_with_gpt2s_two_files_is_a_tokenizer(tmp_path, tokenizer):
    tokenizer.backend_tokenizer.model.save(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"vocab.json", "merges.txt"}
    text = "it was n't far ."
    assert encode(load_tokenizer(str(tmp_path)), [text]) == encode(tokenizer, [text])


@pytest.mark.parametrize("text", ["the <|endoftext|> dog", "<|endoftext|>", "[bos] [eos] ."])
def test_text_cannot_inject_control_tokens(tokenizer, text):
    (ids,) = encode(tokenizer, [text])
    assert max(ids) < tokenizer.eos_token_id == len(tokenizer) - 1
    assert decode(tokenizer, [ids]) == [text]


def test_a_tokenizer_that_puts_the_space_itself_is_left_alone(tokenizer, chance):
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.pre_tokenizer = ByteLevel(add_prefix_space=True)
    other = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    texts = [sentence(chance) for _ in range(20)]
    assert encode(other, texts) == encode(tokenizer, texts)
    assert encode(tokenizer, ["", "a"])[0] == []


def test_a_tokenizer_that_cannot_end_a_text_is_refused(tmp_path, tokenizer):
    backend = tokenizer.backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="without an end-of-text token"):
        load_tokenizer(str(tmp_path))


def test_training_a_tokenizer_is_deterministic(chance):
    texts = [sentence(chance) for _ in range(100)]
    first, second = (train_tokenizer(texts, 300) for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    assert 256 + 1 < len(first) <= 300 + 1
    with pytest.raises(UserError, match="vocab_size 255"):
        train_tokenizer(texts, 255)


def test_a_tokenizer_that_is_not_there_names_the_flag_and_the_ways_out(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match="tokenizer .*local folder, or tokenizer bpe"):
        load_tokenizer(str(tmp_path))


# ---------------------------------------------------------------------------------------- sequences


def test_pack_against_a_position_by_position_reading(chance):
    for sentences in random_stories(chance, 50):
        slots = chance.randint(1, 5)
        packed = {name: values.tolist() for name, values in pack(sentences, EOS, slots).items()}
        ids = packed["input_ids"]
        L = len(ids)
        assert L == story_length(sentences, slots)
        # taken apart again, the ids are the story
        beats = " ".join(map(str, ids)).split(str(DYN))[:-1]
        read = [[int(i) for i in beat.split()] for beat in beats]
        assert read == [[IMG] * slots + [BOS] + words for words in sentences]
        predicted, beat = [], 0
        for i, token in enumerate(ids):
            if token not in (IMG, DYN):
                is_word = ids[i + 1] >= 0
                predicted.append((ids[i + 1] if is_word else EOS, i, beat, is_word))
            beat += token == DYN
        names = ("words", "word_at", "word_beat", "is_word")
        assert predicted == list(zip(*(packed[name] for name in names), strict=True))
        assert packed["image_at"] == [i - 1 for i in range(L) if ids[i] == BOS]
        assert packed["dyn_at"] == [i for i in range(L) if ids[i] == DYN]


def test_predicted_words_decode_to_the_sentences(tokenizer, chance):
    texts = [sentence(chance) for _ in range(5)]
    packed = pack(encode(tokenizer, texts), tokenizer.eos_token_id, 3)
    for t, text in enumerate(texts):
        words = packed["words"][packed["word_beat"] == t].tolist()
        assert tokenizer.decode(words) == f" {text}<|endoftext|>"


def test_collate_pads_on_the_right(chance):
    examples = []
    for i, sentences in enumerate(random_stories(chance, 7)):
        T = len(sentences)
        mask = torch.tensor([chance.random() < 0.7 for _ in range(T)])
        photos = torch.randn(T, 5) * mask[:, None]
        examples.append(
            pack(sentences, EOS, 2) | {"photos": photos, "photo_mask": mask, "index": 10 * i}
        )
    batch = collate(examples)
    L, T = (max(len(example[name]) for example in examples) for name in ("input_ids", "image_at"))
    assert batch["photos"].shape == (7, T, 5) and batch["index"].tolist() == [
        10 * i for i in range(7)
    ]
    padding = dict(input_ids=PAD, image_at=0, dyn_at=0, photos=0, photo_mask=0)
    for row, example in enumerate(examples):
        for name, value in padding.items():
            length = len(example[name])
            assert batch[name].shape[:2] == (
                7,
                T if name in ("image_at", "dyn_at", "photos", "photo_mask") else L,
            )
            assert torch.equal(batch[name][row, :length], example[name])
            assert (batch[name][row, length:] == value).all()
        assert batch["beat_mask"][row].tolist() == [t < len(example["image_at"]) for t in range(T)]
        own = batch["beats"][batch["word_beat"]] // T == row
        before = sum(len(other["image_at"]) for other in examples[:row])
        for name, start in (("words", 0), ("word_at", row * L), ("word_beat", before)):
            assert torch.equal(batch[name][own] - start, example[name])
    assert torch.equal(batch["beats"], batch["beat_mask"].flatten().nonzero()[:, 0])
    assert batch["photo_mask"].dtype == batch["beat_mask"].dtype == torch.bool


# ------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("count, batch_size", [(1, 4), (8, 4), (1003, 4), (250, 1)])
def test_buckets_hold_each_story_once_an_epoch(chance, count, batch_size):
    lengths = [chance.randint(10, 300) for _ in range(count)]
    batches = BucketBatches(lengths, batch_size, seed=3)
    epochs = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        epochs.append(list(batches))
        assert len(batches) == len(epochs[-1])
        assert sorted(itertools.chain(*epochs[-1])) == list(range(count))
        assert Counter(map(len, epochs[-1]))[batch_size] == count // batch_size
    batches.set_epoch(1)
    assert list(batches) == epochs[1] == list(batches)
    start = chance.randrange(len(batches))
    batches.set_epoch(1, start=start)  # what a stopped run does
    assert list(batches) == epochs[1][start:] and len(batches) == len(epochs[1]) - start
    if count > 100:
        assert epochs[0] != epochs[1]
        assert list(BucketBatches(lengths, batch_size, seed=4)) != epochs[0]


def test_buckets_save_padding_and_can_be_sorted(chance):
    lengths = [chance.randint(10, 300) for _ in range(2000)]

    def padding(batches):
        return (
            sum(max(lengths[i] for i in batch) * len(batch) for batch in batches) / sum(lengths) - 1
        )

    shuffled, straight = BucketBatches(lengths, 8, seed=0), BucketBatches(lengths, 8, shuffle=False)
    assert padding(shuffled) < 0.05 < padding([range(i, i + 8) for i in range(0, 2000, 8)])
    assert [lengths[i] for batch in straight for i in batch] == sorted(lengths)
    straight.set_epoch(5)
    assert sorted(i for batch in straight for i in batch) == list(range(2000))


# ----------------------------------------------------------------------------- a preprocessed split


def write_split(folder, chance, photos, stories=12):
    beats = lambda: [  # noqa: E731
        {
            "photo_id": "p",
            "photo": chance.choice([None, *range(len(photos))]),
            "sentence": sentence(chance),
        }
        for _ in range(chance.randint(1, 5))
    ]
    told = [{"story_id": f"s{i}", "album_id": "a", "beats": beats()} for i in range(stories)]
    kind = "pixels" if photos.dtype == torch.uint8 else "features"
    about = {"format": 1, "split": "val", "photos": {"file": "val.safetensors", "kind": kind}}
    (folder / "val.json").write_text(json.dumps(about | {"stories": told}))
    save_file({"photos": photos}, folder / "val.safetensors")
    return folder / "val.json"


@pytest.mark.parametrize(
    "photos", [torch.randn(9, 6).half(), torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)]
)
def test_stories_come_with_their_rows(tmp_path, tokenizer, chance, photos):
    path = write_split(tmp_path, chance, photos)
    data = StoryDataset.load(path, tokenizer, 2, 500)
    assert data[0]  # the file is open now, and the copy that a worker gets opens its own
    data = pickle.loads(pickle.dumps(data))
    assert (
        data.photos.kind == ("pixels" if photos.dtype == torch.uint8 else "features")
        and data.shortened == 0
    )
    for i, story in enumerate(json.loads(path.read_text())["stories"]):
        example, beats = data[i], story["beats"]
        assert data.lengths[i] == len(example["input_ids"]) and example["index"] == i
        assert tokenizer.decode(example["words"].tolist()) == "".join(
            f" {beat['sentence']}<|endoftext|>" for beat in beats
        )
        assert example["photo_mask"].tolist() == [beat["photo"] is not None for beat in beats]
        for t, beat in enumerate(beats):
            expected = (
                torch.zeros_like(photos[0]) if beat["photo"] is None else photos[beat["photo"]]
            )
            assert torch.equal(example["photos"][t], expected.to(example["photos"].dtype))


def test_workers_read_the_same_rows(tmp_path, tokenizer, chance):
    data = StoryDataset.load(
        write_split(tmp_path, chance, torch.randn(9, 6).half()), tokenizer, 2, 500
    )
    loader = DataLoader(
        data, 5, num_workers=2, collate_fn=lambda items: [x["photos"] for x in items]
    )
    for i, photos in enumerate(itertools.chain(*loader)):
        assert torch.equal(photos, data[i]["photos"])


@pytest.mark.parametrize("damage", ["missing", "cut", "other", "empty", "huge header"])
def test_damaged_photos_are_one_clear_error(tmp_path, tokenizer, chance, damage):
    path = write_split(tmp_path, chance, torch.randn(5, 4).half())
    photos = tmp_path / "val.safetensors"
    if damage == "missing":
        photos.unlink()
    elif damage == "cut":
        photos.write_bytes(photos.read_bytes()[:-9])
    elif damage == "other":
        save_file({"words": torch.zeros(3)}, photos)
    elif damage == "empty":
        photos.write_bytes(b"")
    else:
        photos.write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match="val.safetensors: no"):
        StoryDataset.load(path, tokenizer, 2, 500)


def test_a_story_that_does_not_fit_loses_trailing_beats_and_is_counted(tmp_path, tokenizer, chance):
    path = write_split(tmp_path, chance, torch.randn(3, 4).half(), stories=40)
    long = StoryDataset.load(path, tokenizer, 2, 10_000)
    limit = sorted(long.lengths)[20]
    data = StoryDataset.load(path, tokenizer, 2, limit)
    assert data.shortened == sum(length > limit for length in long.lengths) > 0
    for i in range(40):
        short, whole = data[i], long[i]
        T = len(short["image_at"])
        assert (
            len(short["input_ids"]) <= limit
            and len(short["photos"]) == len(short["photo_mask"]) == T >= 1
        )
        cut = T == 1 and len(short["input_ids"]) < len(whole["input_ids"])
        kept = len(short["input_ids"]) - cut  # a lone sentence is cut before its [dyn]
        assert torch.equal(short["input_ids"][:kept], whole["input_ids"][:kept])
        if T < len(whole["image_at"]) and T > 1:  # one beat more would not have fitted
            assert whole["dyn_at"][T] + 1 > limit
    lone = StoryDataset.load(path, tokenizer, 2, 5)
    assert max(lone.lengths) == 5 and len(lone[0]["image_at"]) == 1
    with pytest.raises(UserError, match="4 positions"):
        StoryDataset.load(path, tokenizer, 2, 4)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda split: split.pop("format"), "format"),
        (lambda split: split.pop("photos"), "photos"),
        (
            lambda split: split["photos"].update(file="none.safetensors"),
            "none.safetensors: no such file",
        ),
        (lambda split: split.update(stories=[]), '"stories" is'),
        (lambda split: split["stories"][3].pop("beats"), "story number 3.*beats"),
        (lambda split: split["stories"][3].pop("story_id"), "story number 3.*story_id"),
        (lambda split: split["stories"][3]["beats"][0].pop("sentence"), "story s3.*sentence"),
        (
            lambda split: split["stories"][3]["beats"][0].update(photo="7"),
            "story s3.*row number or null",
        ),
        (
            lambda split: split["stories"][3]["beats"][0].pop("photo"),
            "story s3.*row number or null",
        ),
        (
            lambda split: split["stories"][3]["beats"][0].update(photo=5),
            "story s3: photo 5; expected one of the 5",
        ),
    ],
)
def test_a_malformed_split_says_what_was_expected(tmp_path, tokenizer, chance, change, message):
    path = write_split(tmp_path, chance, torch.randn(5, 4).half())
    split = json.loads(path.read_text())
    change(split)
    path.write_text(json.dumps(split))
    with pytest.raises(UserError, match=message):
        StoryDataset.load(path, tokenizer, 2, 500)


def test_photos_that_are_no_safetensors_file(tmp_path, tokenizer, chance):
    path = write_split(tmp_path, chance, torch.randn(5, 4).half())
    (tmp_path / "val.safetensors").write_bytes(b"no header")
    with pytest.raises(UserError, match="val.safetensors"):
        StoryDataset.load(path, tokenizer, 2, 500)


# ------------------------------------------------------------------------------------------- photos


def noise(chance, height=12, width=20):
    return np.random.default_rng(chance.randrange(2**32)).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )


@pytest.mark.parametrize(
    "orientation, upright",
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_photos_are_turned_as_their_exif_says(tmp_path, chance, orientation, upright):
    stored, exif = noise(chance), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(np.asarray(load_photo(tmp_path / "x.png", 8)), upright(stored))


def test_every_kind_of_picture_becomes_rgb(tmp_path, chance):
    rgb, alpha = noise(chance), noise(chance)[..., 0]
    grey16 = rgb[..., 0].astype(np.uint16) * 256 + rgb[..., 1]
    over_white = np.rint(255 + (rgb.astype(float) - 255) * alpha[..., None] / 255)
    palette = Image.fromarray(rgb[..., 0] % 2).convert("P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    pictures = {
        "grey.png": (Image.fromarray(rgb[..., 0]), np.stack([rgb[..., 0]] * 3, -1)),
        "sixteen.png": (Image.fromarray(grey16), np.stack([rgb[..., 0]] * 3, -1)),
        "alpha.png": (Image.fromarray(np.dstack([rgb, alpha])), over_white),
        "palette.png": (palette, np.where(rgb[..., :1] % 2, [200, 100, 50], [10, 20, 30])),
        "rgb.webp": (Image.fromarray(rgb), rgb),
    }
    for name, (picture, expected) in pictures.items():
        picture.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
        got = load_photo(tmp_path / name, 8)
        assert got.mode == "RGB" and np.abs(np.asarray(got).astype(int) - expected).max() <= 1, name
    palette.save(tmp_path / "hole.png", transparency=0)
    holes = np.where(rgb[..., :1] % 2, [200, 100, 50], [255, 255, 255])
    assert np.array_equal(np.asarray(load_photo(tmp_path / "hole.png", 8)), holes)
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    red, green, blue = np.asarray(load_photo(tmp_path / "print.jpg", 8)).mean((0, 1))
    assert red > 200 and green < 60 and blue < 60
    first, second = Image.new("RGB", (16, 16), (0, 200, 0)), Image.new("RGB", (16, 16), (200, 0, 0))
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[second])
    assert np.asarray(load_photo(tmp_path / "moving.gif", 8))[4, 4].tolist() == [0, 200, 0]


def test_a_big_jpeg_is_decoded_small_and_looks_the_same(tmp_path, chance):
    big = Image.fromarray(noise(chance, 12, 16)).resize((1600, 1200), Image.Resampling.BICUBIC)
    big.save(tmp_path / "x.jpg", quality=95)
    photo = load_photo(tmp_path / "x.jpg", 64)
    assert 128 <= min(photo.size) < 300
    small, exact = (
        np.asarray(image.resize((64, 48), Image.Resampling.BOX)).astype(int)
        for image in (photo, big)
    )
    assert np.abs(small - exact).mean() < 2


def jpeg(chance):
    file = io.BytesIO()
    Image.fromarray(noise(chance, 90, 120)).save(file, "jpeg")
    return file.getvalue()


def test_broken_photos_say_why(tmp_path, chance, monkeypatch):
    path = tmp_path / "x.jpg"
    cases = {
        b"": "empty file",
        b"photo unavailable": "not a photo",
        jpeg(chance)[:-500]: "truncated",
        # nothing that Ghostscript would run
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n": "not a photo",
    }
    for content, reason in cases.items():
        path.write_bytes(content)
        with pytest.raises(BrokenPhoto, match=reason):
            load_photo(path, 8)
    Image.new("RGB", (1, 400)).save(tmp_path / "strip.png")
    with pytest.raises(BrokenPhoto, match="1 x 400"):
        load_photo(tmp_path / "strip.png", 8)
    with pytest.raises(BrokenPhoto):
        load_photo(tmp_path / "none.jpg", 8)
    path.write_bytes(jpeg(chance))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BrokenPhoto, match="too many pixels"):
        load_photo(path, 8)


# --------------------------------------------------------------------------------------------- VIST


def annotation(story, photo, place, text, **more):
    entry = {
        "story_id": story,
        "photo_flickr_id": photo,
        "worker_arranged_photo_order": place,
        "text": text,
    }
    return [entry | {"album_id": f"album of {story}"} | more]


def write_vist(folder, splits):
    """splits: {split: (annotations, {file name: bytes or an array})}."""
    for split, (annotations, photos) in splits.items():
        (folder / "images" / split).mkdir(parents=True)
        (folder / "sis").mkdir(exist_ok=True)
        (folder / "sis" / f"{split}.story-in-sequence.json").write_text(
            json.dumps({"annotations": annotations})
        )
        for name, content in photos.items():
            path = folder / "images" / split / name
            path.write_bytes(content) if isinstance(content, bytes) else Image.fromarray(
                content
            ).save(path)
    return folder


def test_vist_stories_follow_the_workers_order(tmp_path, chance):
    stories, annotations = {}, []
    for n in range(20):
        places = [0, 1, 2, 4, 6] if n < 3 else range(5)  # three with gaps
        stories[f"s{n}"] = [(f"p{chance.randrange(30)}", sentence(chance)) for _ in places]
        for place, (photo, text) in zip(places, stories[f"s{n}"], strict=True):
            annotations.append(annotation(f"s{n}", photo, place, text))
    annotations.append(list(annotations[0]))  # a repeated line is no second beat
    annotations += [annotation("twice", "p1", 0, "one ."), annotation("twice", "p2", 0, "two .")]
    annotations += [annotation("mute", "p1", 0, "  "), annotation("mute", "p2", 1, "two .")]
    chance.shuffle(annotations)
    write_vist(tmp_path, {"val": (annotations, {})})
    (told, remarks) = read_vist(tmp_path, "normalized")[0]["val"]
    assert {
        s["story_id"]: [(b["photo_id"], b["sentence"]) for b in s["beats"]] for s in told
    } == stories
    assert all(story["album_id"] == f"album of {story['story_id']}" for story in told)
    assert remarks == {
        "left out: two photos at one place": 1,
        "left out: an empty sentence": 1,
        "kept: a place without a photo": 3,
    }


@pytest.mark.parametrize(
    "entry, text, message",
    [
        ({"story_id": "1", "text": "a ."}, "normalized", 'annotation 0 has no "photo_flickr_id"'),
        (annotation("1", "2", "first", "a ."), "normalized", "annotation 0.*a whole number"),
        (annotation("1", "2", 0, "a ."), "original", 'no "original_text".*text normalized'),
        ("text", "normalized", "annotation 0"),
    ],
)
def test_malformed_vist_annotations(tmp_path, entry, text, message):
    write_vist(tmp_path, {"test": ([entry], {})})
    with pytest.raises(UserError, match=message):
        read_vist(tmp_path, text)


# ---------------------------------------------------------------------------------------- VIST-Edit

MACHINE = [
    "the family went to the beach .",
    "the kids built a sand castle .",
    "we ate lunch under an umbrella .",
    "a big wave hit the boat .",
    "the sunset was beautiful .",
]


@pytest.mark.parametrize(
    "edit, expected",
    [
        (MACHINE, [0, 1, 2, 3, 4]),
        (MACHINE[::-1], [0, 1, 2, 3, 4]),  # as many sentences: one a photo
        (["kids and a castle of sand .", "what a beautiful sunset ."], [1, 4]),
        (["lunch under the umbrella ."], [2]),
        (["nothing in common"], [2]),
        (["xx", "yy"], [1, 3]),  # no word decides: spread evenly
        (
            ["a beach day", "a castle !", "by our kids , of sand .", "wave !", "boat !", "sunset"],
            [0, 1, 1, 3, 3, 4],
        ),
        (["the sunset was beautiful .", "the family went to the beach .", "castle"], [0, 0, 1]),
    ],
)
def test_align(edit, expected):
    assert align(edit, MACHINE) == expected


def test_align_is_the_best_monotone_alignment(chance):
    vocabulary = "sea sun boat dog cat the a castle wave lunch".split()
    for _ in range(30):
        counts = chance.sample(range(1, 6), 2)
        edit, machine = (
            [" ".join(chance.choices(vocabulary, k=3)) for _ in range(count)] for count in counts
        )
        path = align(edit, machine)
        total = lambda p: sum(similarity(edit[i], machine[j]) for i, j in enumerate(p))  # noqa: E731
        every = itertools.combinations_with_replacement(range(len(machine)), len(edit))
        assert path == sorted(path) and total(path) == pytest.approx(
            max(map(total, every)), abs=1e-4
        )


def test_similarity_is_an_f1_of_words():
    assert similarity("Sun boat !", "boat") == pytest.approx(2 / 3)
    assert similarity("sun", "moon") == similarity("!", "!") == 0
    assert similarity("dog dog cat", "dog cat cat") == pytest.approx(2 / 3)
    assert similarity("the dog", "the cat") < 0.1 < similarity("the dog", "a dog")


def write_edits(folder, system, split, automatic, edits, photos=("10", "11", "12", "13", "14")):
    path = folder / system / split / f"{'-'.join(photos)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    edited = [
        {"normalized_edited_story_text_sent": edit, "edited_story_text": " ".join(edit)}
        for edit in edits
    ]
    about = {
        "photo_sequence_ids": list(photos),
        "album_id": "7",
        "model": system,
        "data_split": split,
    }
    path.write_text(
        json.dumps(about | {"auto_story_text_normalized": automatic, "edited_stories": edited})
    )


def test_vist_edit_edits_become_stories(tmp_path):
    edits = [
        [line + " indeed ." for line in "abcde"],
        ["a castle of sand ,", "built by kids .", "the sunset ..."],
        ["everything at once ."],
        [f"line {i} ." for i in range(9)],
        [],
    ]
    write_edits(tmp_path, "AREL", "dev", " ".join(MACHINE), edits)
    write_edits(
        tmp_path,
        "GLAC",
        "train",
        "only ... four . here .",
        [["only .", "four ."]],
        photos=("1", "2", "3"),
    )
    splits, machine = read_vist_edit(tmp_path, "normalized")
    assert splits.keys() == {"train", "val"}
    stories, remarks = splits["val"]
    # no edit with words is thrown away
    assert remarks["left out: no sentences"] == 1 and len(stories) == 4
    for story, edit in zip(stories, edits, strict=False):
        assert " ".join(beat["sentence"] for beat in story["beats"]) == " ".join(edit)
        photos = [beat["photo_id"] for beat in story["beats"]]
        assert photos == sorted(set(photos)) and story["album_id"] == "7"
    assert [story["story_id"] for story in stories] == [
        f"10-11-12-13-14-AREL-{i}" for i in range(4)
    ]
    assert [beat["photo_id"] for beat in stories[0]["beats"]] == ["10", "11", "12", "13", "14"]
    assert [(b["photo_id"], b["sentence"]) for b in stories[1]["beats"]] == [
        ("11", "a castle of sand , built by kids ."),
        ("14", "the sunset ..."),
    ]
    (automatic,) = machine["AREL.val"]
    assert (
        automatic["photo_ids"] == ["10", "11", "12", "13", "14"]
        and automatic["sentences"] == MACHINE
    )
    (automatic,) = machine["GLAC.train"]  # two sentences over three photos
    assert automatic["sentences"] == ["only ... four .", "here ."] and automatic["photo_ids"] == [
        "1",
        "3",
    ]
    original = read_vist_edit(tmp_path, "original")[0]["val"][0]
    assert [beat["sentence"] for beat in original[0]["beats"]] == edits[0]


def test_a_machine_story_of_four_sentences_still_covers_five_photos(tmp_path):
    edits = [
        [f"{word} ." for word in ("beach", "castle", "umbrella", "wave", "end")],
        ["castle .", "wave ."],
    ]
    write_edits(tmp_path, "AREL", "test", " ".join(MACHINE[:4]), edits)
    (stories, remarks) = read_vist_edit(tmp_path, "normalized")[0]["test"]
    assert [beat["photo_id"] for beat in stories[0]["beats"]] == ["10", "11", "12", "13", "14"]
    # sentences 2 and 4 of 4
    assert [beat["photo_id"] for beat in stories[1]["beats"]] == ["11", "14"]
    assert remarks["kept: a machine story without one sentence per photo"] == 1


@pytest.mark.parametrize("count, places", [*itertools.product(range(1, 9), range(1, 9))])
def test_spread_is_even(count, places):
    at = spread_evenly(count, places)
    assert at == sorted(at) and 0 <= at[0] and at[-1] < places
    assert all(
        abs((i + 0.5) / count - (place + 0.5) / places) <= 0.5 / places + 1e-9
        for i, place in enumerate(at)
    )


def test_malformed_vist_edit(tmp_path):
    write_edits(tmp_path, "AREL", "train", "", [["a ."]])
    with pytest.raises(UserError, match='10-11-12-13-14.json: "auto_story_text_normalized" is'):
        read_vist_edit(tmp_path, "normalized")


# ------------------------------------------------------------------------------------ preprocessing

ENCODER = "--image_encoder resnet18 --encoder_weights none --image_size 32"
SMALL = f"{ENCODER} --tokenizer bpe --batch_size 2 --num_workers 1".split()


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small wait for their threads longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def vist(tmp_path, chance):
    """Two splits; of the photos of train one is missing, one broken, one has an id that leads
    elsewhere."""
    photos = {
        f"p{i}{chance.choice(['.jpg', '.PNG', '.gif'])}": noise(chance, 40, 50) for i in range(9)
    }
    photos["broken.jpg"] = jpeg(chance)[:-500]
    (tmp_path / "secret.jpg").write_bytes(jpeg(chance))
    shown = [f"p{i}" for i in range(9)] + [
        "p3",
        "missing",
        "broken",
        "../../../secret",
        str(tmp_path / "secret"),
    ]
    chance.shuffle(shown)
    shown.insert(0, "broken")
    annotations = [
        annotation(f"s{i // 3}", photo, i % 3, sentence(chance)) for i, photo in enumerate(shown)
    ]
    other = [annotation("v", "p0", 0, "only [eos] and half a character \ud83d here .")]
    return write_vist(
        tmp_path / "VIST",
        {"train": (annotations, photos), "val": (other, {"p0.jpg": noise(chance)})},
    )


def preprocess(vist, output, *more):
    assert dataset.main(["--vist", str(vist), "--output", str(output), *SMALL, *more]) == 0
    return json.loads((output / "train.json").read_text())


def files_of(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def photos_of(vist, encoder):
    """{photo id: pixels} of the readable photos of train."""
    paths = [path for path in (vist / "images/train").iterdir() if path.stem != "broken"]
    return {path.stem: encoder.preprocess(load_photo(path, 32)) for path in paths}


def beats_of(split):
    return [beat for story in split["stories"] for beat in story["beats"]]


def test_preprocessed_rows_are_the_photos_encoded(vist, tmp_path, capsys):
    output = tmp_path / "out"
    split = preprocess(vist, output)
    assert split["format"] == 1 and split["photos"] == {
        "file": "train.safetensors",
        "kind": "features",
    }
    rows = load_file(output / "train.safetensors")["photos"]
    encoder = ImageEncoder.from_pretrained(output / "image_encoder").eval()
    with torch.inference_mode():
        direct = {name: encoder(image[None])[0] for name, image in photos_of(vist, encoder).items()}
    unsafe = {"../../../secret": "unsafe id", str(tmp_path / "secret"): "unsafe id"}
    for beat in beats_of(split):
        name, row = beat["photo_id"], beat["photo"]
        assert (row is None) == (name in {"missing", "broken", *unsafe})
        if row is not None:
            torch.testing.assert_close(rows[row].float(), direct[name], atol=0.01, rtol=0.01)
            assert min(direct, key=lambda other: (direct[other] - rows[row]).norm()) == name
    assert {beat["photo"] for beat in beats_of(split)} == {None, *range(1, 10)} and not rows[
        0
    ].any()  # the broken one

    report = json.loads((output / "report.json").read_text())["splits"]["train"]
    assert report["stories"] == 5 and report["photos"]["found"] == 9
    assert (
        report["photos"]["broken"].keys() == {"broken"}
        and "truncated" in report["photos"]["broken"]["broken"]
    )
    assert report["photos"]["missing"] == {"missing": "not found"} | unsafe
    words = [len(beat["sentence"].split()) for beat in beats_of(split)]
    assert report["words"]["total"] == sum(words) and report["words"]["max"] == max(words)
    out, slots = capsys.readouterr().out, report["positions"]["image_positions"]
    assert "9 found, 3 missing, 1 broken" in out
    assert (
        f"python train.py --train_data_path {output}/train.json --val_data_path {output}/val.json"
        in out
    )
    tokenizer = load_tokenizer(str(output / "tokenizer"))
    assert report["positions"]["max"] == max(
        StoryDataset.load(output / "train.json", tokenizer, slots, 999).lengths
    )
    assert StoryDataset.load(output / "val.json", tokenizer, slots, 999)[0]["photo_mask"].all()


def test_an_output_is_redone_only_if_asked(vist, tmp_path, capsys):
    output = tmp_path / "out"
    preprocess(vist, output)
    before = files_of(output)
    preprocess(vist, output)
    assert "complete already" in capsys.readouterr().out and files_of(output) == before
    with pytest.raises(UserError, match="image_size was 32, now 16.*overwrite"):
        preprocess(vist, output, "--image_size", "16")
    (vist / "images/train/missing.jpg").write_bytes(jpeg(random.Random(0)))
    with pytest.raises(UserError, match="other stories or photos.*overwrite"):
        preprocess(vist, output)
    assert files_of(output) == before

    split = preprocess(vist, output, "--overwrite", "--store", "pixels", "--missing_photos", "drop")
    without = {"broken", "../../../secret", str(tmp_path / "secret")}
    every, _ = read_vist(vist, "normalized")[0]["train"]
    complete = [
        story["story_id"]
        for story in every
        if not without & {beat["photo_id"] for beat in story["beats"]}
    ]
    assert [story["story_id"] for story in split["stories"]] == complete
    report = json.loads((output / "report.json").read_text())["splits"]["train"]
    assert report["remarks"] == {"left out: a photo missing or broken": 5 - len(complete)}
    pixels = photos_of(vist, ImageEncoder.from_pretrained(output / "image_encoder"))
    rows = load_file(output / "train.safetensors")["photos"]
    for beat in beats_of(split):
        assert torch.equal(rows[beat["photo"]], pixels[beat["photo_id"]])


def test_a_run_that_was_stopped_goes_on_and_gives_the_same_bytes(vist, tmp_path, monkeypatch):
    monkeypatch.setattr(preprocessing, "CHUNK_SIZE", 2)
    preprocess(vist, tmp_path / "straight")
    write_json, noted = preprocessing.write_json, []

    def stopped(path, value):
        if path.match(preprocessing.NOTES):
            noted.append(path.name)
            if len(noted) == 4:
                raise KeyboardInterrupt
        write_json(path, value)

    monkeypatch.setattr(preprocessing, "write_json", stopped)
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        preprocess(vist, output)
    assert not (output / "train.json").exists() and not (output / "train.safetensors").exists()
    with open(output / "train.partial" / preprocessing.PHOTOS, "ab") as file:
        file.write(b"rows of a bigger file")
    with pytest.raises(UserError, match="overwrite"):
        preprocess(vist, output, "--store", "pixels")
    preprocess(vist, output)
    # the three chunks done are not done again; the last is of val
    assert noted[4:] == ["3.json", "4.json", "0.json"]
    straight = tmp_path / "straight"
    for path in (path for path in straight.rglob("*") if path.is_file()):
        assert (output / path.relative_to(straight)).read_bytes() == path.read_bytes(), path
    assert {path.name for path in output.iterdir()} == {path.name for path in straight.iterdir()}


def test_vist_edit_end_to_end_without_a_single_photo(tmp_path, monkeypatch, tokenizer):
    monkeypatch.chdir(tmp_path)
    write_edits(
        Path("dataset/VIST-Edit"), "AREL", "train", " ".join(MACHINE), [["castle ."], MACHINE]
    )
    Path("dataset/VIST/images").mkdir(parents=True)
    # found under dataset/, photos where VIST's are
    assert dataset.main([*SMALL, "--machine_stories"]) == 0
    output = Path("dataset/preprocessed/vist_edit")
    assert latest_split("train") == output / "train.json" and latest_split("val") is None
    data = StoryDataset.load(output / "train.json", tokenizer, 2, 500)
    assert (
        data.photos.shape == (0, 512)
        and not data[1]["photo_mask"].any()
        and len(data[1]["photos"]) == 5
    )
    assert (
        json.loads((output / "AREL.train.json").read_text())["stories"][0]["sentences"] == MACHINE
    )


def test_the_newest_split_is_chosen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(("new", "old")):
        path = Path("dataset/preprocessed") / name / "train.json"
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        os.utime(path, (1000 - age, 1000 - age))
    assert latest_split("train").parent.name == "new"


@pytest.mark.parametrize(
    "options, message",
    [
        (["--vist", "nowhere"], "--vist nowhere: no such folder"),
        (["--vist", "empty"], "nowhere: no such folder; expected the photos, or --images"),
        (["--vist", "empty", "--images", "empty"], "no sis/"),
        (["--vist_edit", "empty", "--images", "empty"], "AREL and GLAC"),
        (["--vist", "empty", "--picturebook", "empty"], "not allowed with argument --vist"),
        (["--vist", "empty", "--machine_stories"], "--machine_stories: only VIST-Edit"),
        (["--batch_size", "0"], "--batch_size"),
        (
            ["--vist", "book", "--images", "book", "--vocab_size", "300"],
            "--vocab_size 300: of a tokenizer that is trained here; --tokenizer gpt2 has its own",
        ),
        (["--vist", "book", "--output", "book"], "--output book: holds"),
        (
            ["--vist", "book", "--missing_photos", "drop"],
            "--missing_photos drop: each story of val lacks a photo",
        ),
        (["--vist", "book", "--image_encoder", "vgg", "--tokenizer", "bpe"], "--image_encoder vgg"),
        (
            ["--vist", "book", "--encoder_weights", "none.pt", "--tokenizer", "bpe"],
            "--encoder_weights none.pt",
        ),
    ],
)
def test_user_mistakes_are_one_line(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dataset.py"])
    Path("empty").mkdir()
    write_vist(Path("book"), {"val": ([annotation("s", "p", 0, "a .")], {})})
    if message.startswith("nowhere"):
        message = message.replace("nowhere", "empty/images")
    with pytest.raises(SystemExit) as exit:
        cli.run(lambda: dataset.main(options))
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.count("\n") == 1 and message in error
    assert not Path("dataset").exists()  # nothing half-written


def test_with_nothing_to_preprocess_it_says_what_to_put_where(script, tmp_path):
    done = script("dataset.py", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for needed in ("dataset/VIST/", "dataset/VIST-Edit/", "python -m experiments.picturebook"):
        assert needed in done.stderr


def test_a_real_album(tmp_path):
    if "VIST_REAL" not in os.environ:
        pytest.skip("VIST_REAL does not name a folder with a real album (sis/ and images/)")
    split = preprocess(Path(os.environ["VIST_REAL"]), tmp_path / "out")
    rows = load_file(tmp_path / "out" / "train.safetensors")["photos"]
    beats = [beat for story in split["stories"] for beat in story["beats"]]
    assert all(beat["photo"] is not None for beat in beats) and rows.isfinite().all()
    distances = torch.cdist(rows.float(), rows.float()) + torch.eye(len(rows)) * 1e9
    assert distances.min() > 0.01  # different photos, different features
