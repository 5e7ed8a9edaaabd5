"""A pretrained decoder starts as itself; words are chosen by the words of a story alone."""

import random

import numpy as np
import pytest
import torch
from conftest import batch_of
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from dataset import pack
from generate import StoryWriter, generate_stories
from model import PlanCVAE, load_checkpoint
from train import build_model
from utils.cli import UserError
from utils.decoding import NoRepeatNGram, RepetitionPenalty, default_generation
from utils.image_encoder import ImageEncoder
from utils.tensors import take_photos
from utils.train_options import TrainOptions


@pytest.fixture(params=["small logits", "logits near -100"])
def gpt2(request, tokenizer, tmp_path):
    """The folder of a GPT-2, saved as transformers saves it."""
    torch.manual_seed(0)
    eos = tokenizer.eos_token_id
    sizes = dict(n_embd=48, n_layer=3, n_head=3, n_positions=200)
    config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=eos, eos_token_id=eos, **sizes)
    decoder = GPT2LMHeadModel(config)
    with torch.no_grad():
        for p in decoder.parameters():
            if p.dim() > 1:
                p.mul_(6)  # far from uniform
        if request.param == "logits near -100":  # as GPT-2's: all share a component of the state
            decoder.transformer.ln_f.bias[0] = 50.0
            decoder.transformer.wte.weight[:, 0] = -2.0
    decoder.save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    ImageEncoder.build("resnet18", "none", image_size=32, stages=1).save_pretrained(
        tmp_path / "data/image_encoder"
    )
    return tmp_path / "gpt2"


def build(folder, tokenizer, data=None, **options):
    """The model that train.py builds around the decoder in a folder, of preprocessed data."""
    options = TrainOptions(decoder=str(folder), **options)
    return build_model(options, tokenizer, data or folder.parent / "data").eval()


def nll_of_words(model, sentences, eos, image_positions):
    """−log p of each word and end of a story without photos (N), and where each stands (N)."""
    packed = pack(sentences, eos, image_positions)
    T = len(sentences)
    photos, photo_mask = torch.zeros(1, T, 0), torch.zeros(1, T, dtype=torch.bool)
    images = model.project_photos(photos, photo_mask)[:, :, :image_positions]
    ids, image_at = packed["input_ids"][None], packed["image_at"][None]
    hidden = model.decode(model.embed(ids, images, image_at, torch.arange(T)), use_cache=False)[0]
    logits = model.decoder.lm_head(hidden[0, packed["word_at"]])
    if model.config.plan != "none":
        z = torch.randn(T, model.config.plan_size)
        logits = logits + model.plan_bias(z)[packed["word_beat"]]
    return -logits.log_softmax(-1).gather(1, packed["words"][:, None])[:, 0], packed


@pytest.mark.parametrize("plan", ["cvae", "none"])
def test_a_pretrained_decoder_starts_as_itself(gpt2, plan, tokenizer):
    """Without image positions and with one sentence, every word is as likely as after GPT-2's own
    end of text, whatever the plan."""
    bare = GPT2LMHeadModel.from_pretrained(gpt2).eval()
    model, eos = build(gpt2, tokenizer, plan=plan), tokenizer.eos_token_id
    assert model.decoder.config.vocab_size == len(tokenizer)  # no new words in its softmax
    rng = random.Random(1)
    means = []
    for _ in range(10):
        words = [rng.randrange(eos) for _ in range(rng.randint(1, 30))]
        with torch.no_grad():
            ours, _ = nll_of_words(model, [words], eos, image_positions=0)
            logits = bare(torch.tensor([[eos, *words]])).logits[0]
        expected = -logits.log_softmax(-1).gather(1, torch.tensor([*words, eos])[:, None])[:, 0]
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
        means.append(logits.mean().item())
    near = -100 if bare.transformer.ln_f.bias[0] else 0
    assert abs(sum(means) / 10 - near) < 15


def test_image_positions_are_at_the_scale_of_the_words(gpt2, tokenizer):
    model = build(gpt2, tokenizer)
    features = torch.randn(40, 2, model.image_encoder.config.feature_size)
    mask = torch.ones(40, 2, dtype=torch.bool)
    mask[0] = False
    images = model.project_photos(features, mask).detach()
    scale = model.decoder.transformer.wte.weight.square().mean().sqrt()
    for values in (images[1:], images[0, 0]):
        assert values.square().mean().sqrt() == pytest.approx(scale.item(), rel=0.15)


def test_auxiliary_terms_do_not_move_the_decoder(make_model, make_stories, tokenizer):
    """Neither its embeddings, tied or not, nor its blocks: the terms read its states as data."""
    model = make_model().train()
    batch = batch_of(make_stories(model, [3, 4]), [0, 1], tokenizer)
    heads = {
        "bow": model.plan_head.weight,
        "future_bow": model.future_bow_mlp[0].weight,
        "photo_bow": model.photo_bow_head.weight,
        "state_bow": model.state_bow_head.weight,
        "dynamics": model.dynamics_head.weight,
    }
    for name, head in heads.items():
        model.zero_grad()
        model(**batch, **{f"{name}_weight": 1.0})[name].backward()
        assert head.grad.any()
        for where, p in (
            *model.decoder.named_parameters(),
            *model.structure_embedding.named_parameters(),
        ):
            assert p.grad is None or not p.grad.any(), (name, where)
    model.zero_grad()
    model(**batch, dynamics_weight=0.0).nll.backward()
    assert all(p.grad.any() for p in model.decoder.parameters())


@pytest.mark.parametrize("decoder, values", [("scratch", (2e-3, 1, 0)), ("x", (5e-5, 10, 0.1))])
def test_defaults_suit_the_decoder(decoder, values):
    options = TrainOptions(decoder=decoder)
    assert (options.learning_rate, options.new_lr_multiplier, options.dropout) == values
    assert TrainOptions(decoder=decoder, learning_rate=0.1).learning_rate == 0.1


def test_the_sizes_of_a_pretrained_decoder_are_its_own(script):
    done = script("train.py", "--decoder", "gpt2", "--n_layer", 6)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "--n_layer 6: has no effect; expected --decoder scratch; a pretr" in done.stderr


def test_another_familys_decoder_is_one_line(gpt2, tokenizer, tmp_path, capfd):
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, ffn_dim=16,
        num_attention_heads=2, max_position_embeddings=64, word_embed_proj_dim=16,
    )  # fmt: skip
    OPTForCausalLM(config).save_pretrained(tmp_path / "opt")
    capfd.readouterr()
    with pytest.raises(UserError, match="decoder .*opt: a opt; expected a GPT-2$"):
        build_model(TrainOptions(decoder=str(tmp_path / "opt")), tokenizer, tmp_path / "data")
    assert capfd.readouterr() == ("", "")


def test_a_decoder_of_another_tokenizer_is_one_line(gpt2, tokenizer):
    other = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="Ġthe")
    with pytest.raises(UserError, match="ends a text by number .*tokenizer .*gpt2"):
        build(gpt2, other)


# ----------------------------------------------------------------------------------------- decoding


def plain_blocked(sentences, size, vocabulary):
    """Words whose choice would make an n-gram of the story occur a second time in it."""

    def ngrams(story):
        return [tuple(x[i : i + size]) for x in story for i in range(len(x) - size + 1)]

    known = ngrams(sentences)
    longer = [[*sentences[:-1], [*sentences[-1], word]] for word in range(vocabulary)]
    return {
        word
        for word, story in enumerate(longer)
        if len(ngrams(story)) > len(known) and ngrams(story)[-1] in known
    }


@pytest.mark.parametrize("size", [1, 2, 3])
def test_n_grams_are_blocked_inside_sentences_alone(size):
    rng, eos, vocabulary = random.Random(size), 5, 6
    tried = 0
    for _ in range(200):
        stories = [
            [[rng.randrange(5) for _ in range(rng.randint(0, 6))] for _ in range(2)]
            for _ in range(2)
        ]
        current = [[rng.randrange(5) for _ in range(3)] for _ in range(4)]  # two beams each
        history = torch.tensor([[9, 9, *words] for words in current])
        scores = torch.zeros(4, vocabulary)
        changed = NoRepeatNGram(size, stories, 2, eos)(history, scores)
        for row, words in enumerate(current):
            expected = plain_blocked([*stories[row // 2], words], size, vocabulary) - {eos}
            assert set(changed[row].isinf().nonzero().flatten().tolist()) == expected
            tried += len(expected)
        assert not scores.any()
    assert tried > 100


def test_used_words_are_penalised_and_the_end_is_not():
    processor = RepetitionPenalty(2.0, [[[0, 1]]], 1, 4)
    scores = processor(torch.tensor([[9, 2, 4]]), torch.tensor([[3.0, -3.0, 1.0, -1.0, -5.0]]))
    assert scores.tolist() == [[1.5, -6.0, 0.5, -1.0, -5.0]]


@pytest.mark.parametrize("beams", [1, 3])
def test_no_trigram_twice_in_a_story(beams, make_model, make_stories, tokenizer):
    model = make_model()
    data = make_stories(model, [4] * 6)
    photos, masks = zip(*(take_photos(data.rows(i), data.photos) for i in range(6)))
    eos = tokenizer.eos_token_id
    settings = dict(max_new_tokens=12, min_new_tokens=1, eos_token_id=eos, pad_token_id=eos)

    def write(**more):
        config = GenerationConfig(**settings, num_beams=beams, **more)
        return generate_stories(model, torch.stack(photos), torch.stack(masks), config)[0]

    def repeated(stories, size):
        count = 0
        for story in stories:
            grams = [tuple(x[i : i + size]) for x in story for i in range(len(x) - size + 1)]
            count += len(grams) - len(set(grams))
        return count

    assert repeated(write(), 3) > 5
    blocked = write(no_repeat_ngram_size=3)
    assert repeated(blocked, 3) == 0 and repeated(blocked, 1) > 0
    once = write(no_repeat_ngram_size=1)
    assert repeated(once, 1) == 0


def test_a_checkpoint_carries_its_settings_of_generation(make_model, tokenizer, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert (load_checkpoint(tmp_path)[0].generation_config.num_beams or 1) == 1
    GenerationConfig(num_beams=4, no_repeat_ngram_size=3).save_pretrained(tmp_path)
    loaded = load_checkpoint(tmp_path)[0].generation_config
    assert (loaded.num_beams, loaded.no_repeat_ngram_size) == (4, 3)


def test_a_larger_decoder_writes_words_of_its_tokenizer_alone(tokenizer):
    """Rows beyond the tokenizer's decode to nothing (GPT-2s padded to a multiple of 64)."""
    eos, size = tokenizer.eos_token_id, len(tokenizer) + 44
    sizes = dict(n_embd=32, n_layer=1, n_head=2, n_positions=200)
    decoder = GPT2LMHeadModel(
        GPT2Config(vocab_size=size, bos_token_id=eos, eos_token_id=eos, **sizes)
    )
    encoder = ImageEncoder.build("resnet18", "none", image_size=32, stages=1)
    with torch.no_grad():  # what it would write without care
        decoder.lm_head.weight[len(tokenizer) :] *= 50
    writer = StoryWriter(PlanCVAE.build(decoder, encoder).eval(), tokenizer)
    photos = [np.full((40, 40, 3), shade, np.uint8) for shade in (20, 200)]
    for options in ({}, {"decoding": "beam"}, {"decoding": "nucleus", "top_p": 1.0}):
        (story,) = writer(photos, max_new_tokens=6, **options)
        assert all(story["sentences"]), options


def test_the_picture_books_model_writes_greedily_and_others_by_beams():
    assert (default_generation("picturebook", 7).num_beams or 1) == 1
    assert default_generation("VIST", 7).num_beams == 3
    assert default_generation("VIST", 7).no_repeat_ngram_size == 3
