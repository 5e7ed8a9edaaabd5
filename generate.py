"""Write a story for a folder of photos, one sentence a photo.

python generate.py FOLDER [FOLDER …]              a story for each
python generate.py --data_path test.json          a story for each story of a preprocessed split
"""

import re
from itertools import groupby
from pathlib import Path

import cli
from cli import OUTPUT_DIR, UserError

# ------------------------------------------------------------------------------------------- options


def parser():
    parser = cli.Parser(prog="generate.py", description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="folder of photos; one story each")
    parser.add_argument("--data_path", help="a preprocessed split (.json) in place of folders")
    parser.add_argument("--checkpoint", default=OUTPUT_DIR, help="checkpoint, or train.py's output_dir (its best one)")
    parser.add_argument("--order", choices=("name", "time"), default="name", help="photos by name, or by EXIF time")
    parser.add_argument(
        "--decoding", choices=("greedy", "beam", "nucleus"), default="greedy", help="how words are chosen"
    )
    parser.add_argument("--num_beams", type=cli.positive_int, default=5, help="beams of --decoding beam")
    parser.add_argument("--top_p", type=cli.share, default=0.9, help="probability mass of --decoding nucleus")
    parser.add_argument("--temperature", type=cli.positive_float, default=1.0, help="of --decoding nucleus")
    parser.add_argument(
        "--plan", choices=("mean", "sample"), default="mean", help="the prior's mean, or a sample of it"
    )
    parser.add_argument("--plan_temperature", type=cli.positive_float, default=1.0, help="of --plan sample")
    parser.add_argument("--num_stories", type=cli.positive_int, default=1, help="tellings of each folder")
    parser.add_argument("--max_words", type=cli.positive_int, default=40, help="longest sentence, in tokens")
    parser.add_argument("--batch_size", type=cli.positive_int, default=32, help="stories written together")
    parser.add_argument("--seed", type=cli.natural_int, default=0, help="of plans and words")
    parser.add_argument("--output", default="stories.json", help="where the stories go")
    parser.add_argument("--vist_output", help="write them in the VIST Challenge's submission format too")
    return parser


def parse(arguments=None):
    """The options, checked against each other."""
    options = parser().parse_args(arguments)
    if bool(options.folders) == bool(options.data_path):
        raise UserError("expected folders of photos, or --data_path with a preprocessed split")
    if options.num_stories > 1 and options.plan == "mean" and options.decoding != "nucleus":
        raise UserError(
            f"--num_stories {options.num_stories}: all would be alike; add --plan sample or --decoding nucleus"
        )
    return options


if __name__ == "__main__":
    cli.answer_early(parse)

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import DynamicCache, GenerationConfig

from dataset import (
    PHOTO_SUFFIXES,
    BrokenPhoto,
    Photos,
    cut,
    join_team,
    load_photo,
    pack,
    photo_files,
    read_split,
    special_ids,
    story_length,
    take_photos,
    time_taken,
)
from model import load_checkpoint

# ------------------------------------------------------------------------------------------ one batch


@torch.inference_mode()
def tell(model, special, photos, photo_mask, settings, noise=None, told=None):
    """Write one sentence a photo, beat by beat on a key/value cache.

    photos (B, T, ...) and photo_mask (B, T) as `dataset.collate` makes them; settings a GenerationConfig; noise
    (B, T, Z) makes the plans samples of the prior, None its mean; told, B lists of the sentences (lists of token ids)
    that the stories begin with, equally many each, at most T: only the beats after them are written.
    Returns the words, B lists of T lists of token ids, and how many sentences were cut at settings.max_new_tokens.
    Raises ValueError where the stories told so far are not equally long.

    Each beat is two calls of the decoder: one reads what was said since the last photo and the photos up to the next
    (all positions at once), which gives the plan; then transformers' generate() writes the sentence under it. Its words
    stay in the cache, but where beams have mixed there: then they leave it, and are read again with the next photo.
    """
    B, T = photo_mask.shape
    device = photos.device
    decoder = model.decoder
    slots = model.project_photos(photos, photo_mask)  # B, T, K, D
    K = slots.shape[2]
    cache = DynamicCache(config=decoder.config)
    history = torch.empty(B, 0, dtype=torch.long, device=device)  # token ids, [img] for image slots
    mask = torch.empty(B, 0, dtype=torch.long, device=device)  # 0 where a row is padded
    image_states = dyn_states = torch.empty(B, 0, model.width, device=device, dtype=slots.dtype)  # B, beats read, D
    unwritten = torch.zeros(B, 1, model.width, device=device, dtype=slots.dtype)  # in place of the coming h_t^d
    sentences = [list(story) for story in told] if told else [[] for _ in range(B)]
    if len(set(map(len, sentences))) > 1:
        raise ValueError(f"stories of {sorted(set(map(len, sentences)))} sentences; expected equally many of each")
    forbidden = torch.zeros(decoder.config.vocab_size, device=device)
    forbidden[[i for i in special if i != special.eos]] = -torch.inf
    known = torch.zeros(B, 1, dtype=torch.long, device=device)  # positions of the last sentence that the cache holds
    rows, beams, cut_short = torch.arange(B, device=device)[:, None], settings.num_beams or 1, 0
    for t in range(len(sentences[0]), T):
        # Read the sentences that the cache lacks, each after its photo, then this beat's photo.
        seen, heard = image_states.shape[1], dyn_states.shape[1]  # beats whose photo, whose sentence was read
        unread = [pack(story[heard:], special, K) for story in sentences]
        said = [p["input_ids"][start:] for p, start in zip(unread, known.flatten().tolist(), strict=True)]
        said = pad_sequence(said, True, special.pad).to(device)
        chunk = torch.cat([said, said.new_full((B, K), special.img)], dim=1)
        dyn_at = torch.stack([p["dyn_at"] for p in unread]).to(device) - known
        image_at = torch.stack([p["image_at"][seen - heard :] for p in unread]).to(device) - known
        image_at = torch.cat([image_at, image_at.new_full((B, 1), chunk.shape[1] - 1)], dim=1)
        mask = torch.cat([mask, (chunk != special.pad).long()], dim=1)
        segments = torch.where(chunk == special.img, special.img, special.txt)
        beats = torch.arange(image_at.numel(), device=device)
        states = model.decode(
            model.embed(chunk, segments, slots[:, seen : t + 1], image_at, beats),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1)[:, -chunk.shape[1] :],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        history = torch.cat([history, chunk], dim=1)
        image_states = torch.cat([image_states, states[rows, image_at]], dim=1)
        dyn_states = torch.cat([dyn_states, states[rows, dyn_at]], dim=1)

        # Foresee the change, draw the plan.
        bias = forbidden.expand(B, -1)
        if model.config.plan != "none":
            dyn = torch.cat([dyn_states, unwritten], dim=1)
            _, expected_change = model.changes(dyn, model.follow(image_states, dyn))
            prior = model.prior(expected_change[:, t])
            z = prior.mean if noise is None else prior.sample(noise[:, t])
            bias = bias + model.plan_bias(z)

        # Write the sentence.
        if beams > 1:
            cache.batch_repeat_interleave(beams)
        ids = torch.cat([history, history.new_full((B, 1), special.bos)], dim=1)
        with model.planned(bias):
            ids = decoder.generate(
                ids,
                attention_mask=torch.cat([mask, mask.new_ones(B, 1)], dim=1),
                token_type_ids=torch.full_like(ids, special.txt),  # only the new positions' are read
                past_key_values=cache,
                generation_config=settings,
            )
        written = ids[:, history.shape[1] + 1 :]
        if beams > 1:
            cache.crop(history.shape[1] - cache.get_seq_length())  # a negative number: how many positions go
            cache.batch_select_indices(beams * rows[:, 0])
        kept = ids[:, history.shape[1] : cache.get_seq_length()]  # [bos] and words; rows that ended early are padded
        history = torch.cat([history, kept], dim=1)
        mask = torch.cat([mask, (kept != special.pad).long()], dim=1)
        known = K + (kept != special.pad).sum(1, keepdim=True)
        for story, words in zip(sentences, written.tolist(), strict=True):
            end = words.index(special.eos) if special.eos in words else len(words)
            cut_short += end == len(words)
            story.append([word for word in words[:end] if word != special.pad])
    return sentences, cut_short


def plan_noise(indices, beats, plan_size, seed, temperature):
    """Noise (B, T, Z) of stories by number: a story's plans do not depend on the batch it is written in."""
    generators = (torch.Generator().manual_seed(seed * 1_000_003 + i) for i in indices)
    return temperature * torch.stack([torch.randn(beats, plan_size, generator=g) for g in generators])


# ------------------------------------------------------------------------------------------- folders


def natural(name):
    """Sorting key by which photo2 comes before photo10."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else part.lower()) for part in re.split(r"(\d+)", name)]


def read_folder(folder, encoder, order):
    """A folder's readable photos as an album to write for; its photos are pixels (T, 3, S, S).

    Raises UserError where the folder holds none. What is left aside is said.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}; expected a folder of photos"
        )
    found, unreadable = [], []
    for path in sorted(photo_files(folder), key=lambda path: natural(path.name)):
        try:
            found.append((path, encoder.preprocess(load_photo(path, encoder.config.image_size))))
        except BrokenPhoto as error:
            unreadable.append(f"{path.name} ({error})")
    others = sum(path.is_file() and path.suffix.lower() not in PHOTO_SUFFIXES for path in folder.iterdir())
    if others:
        cli.warn(f"{folder}: {others} files are not named as photos ({', '.join(PHOTO_SUFFIXES)}) and are left aside")
    if unreadable:
        cli.warn(f"{folder}: {len(unreadable)} photos cannot be read and are left aside: {', '.join(unreadable)}")
    if not found:
        raise UserError(f"{folder}: no photo that can be read; expected {', '.join(PHOTO_SUFFIXES)} files")
    if order == "time":
        times = {path: time_taken(path) for path, _ in found}
        undated = sum(time is None for time in times.values())
        if undated:
            cli.warn(f"{folder}: {undated} photos carry no EXIF time and come last, by name")
        found.sort(key=lambda entry: (times[entry[0]] is None, times[entry[0]] or ""))
    names = [path.name for path, _ in found]
    return {
        "story_id": folder.resolve().name, "album_id": folder.resolve().name, "photo_ids": names,
        "folder": str(folder), "rows": list(range(len(names))), "photos": torch.stack([pixels for _, pixels in found]),
    }  # fmt: skip


def read_albums(path, encoder):
    """The albums of a preprocessed split, whose photos must be of the encoder's kind."""
    split = read_split(path)
    photos = Photos(path, split, encoder)
    return [
        {
            "story_id": story["story_id"], "album_id": story["album_id"], "photos": photos,
            "photo_ids": [beat["photo_id"] for beat in story["beats"]],
            "rows": [beat["photo"] for beat in story["beats"]],
        }
        for story in split["stories"]
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------- main


def write_stories(model, tokenizer, albums, options, team):
    """`options.num_stories` stories for each album, as dicts; how many sentences were cut short is said.

    Of a team's processes each writes its share of the batches, and all of them have all stories in the end.
    """
    special = special_ids(tokenizer)
    sampling = {"top_p": options.top_p, "top_k": 0, "temperature": options.temperature}
    settings = GenerationConfig(
        do_sample=options.decoding == "nucleus",
        num_beams=options.num_beams if options.decoding == "beam" else 1,
        **(sampling if options.decoding == "nucleus" else {}),
        min_new_tokens=1, max_new_tokens=options.max_words,
        bos_token_id=special.bos, eos_token_id=special.eos, pad_token_id=special.pad,
    )  # fmt: skip
    beat_length = story_length([[0] * options.max_words], model.config.image_slots)
    for album in albums:
        if len(album["rows"]) * beat_length > model.max_length:
            where = album.get("folder", f"story {album['story_id']}")
            raise UserError(
                f"{where}: {len(album['rows'])} photos; this model has room for {model.max_length // beat_length} "
                f"sentences of --max_words {options.max_words}: take fewer photos or a smaller --max_words"
            )
    beats = lambda job: len(albums[job[0]]["rows"])
    jobs = sorted(((i, telling) for i in range(len(albums)) for telling in range(options.num_stories)), key=beats)
    # A batch holds stories of one length. Its words depend on nothing but itself, so that any process may write it.
    batches = [batch for _, alike in groupby(jobs, beats) for batch in cut(list(alike), options.batch_size)]
    mine, device, written = batches[team.index :: team.count], model.device, []
    bar = tqdm(total=sum(map(len, mine)), unit="story", desc="writing", disable=len(jobs) < 2 or team.index > 0)
    for batch in mine:
        photos, mask = zip(*(take_photos(albums[i]["rows"], albums[i]["photos"]) for i, _ in batch))
        numbers, noise = [i * options.num_stories + telling for i, telling in batch], None
        if options.plan == "sample":
            plan = (model.config.plan_size, options.seed, options.plan_temperature)
            noise = plan_noise(numbers, beats(batch[0]), *plan).to(device)
        torch.manual_seed((options.seed * 1_000_003 + numbers[0]) % 2**32)  # for nucleus sampling of words
        words, cut_short = tell(
            model, special, torch.stack(photos).to(device), torch.stack(mask).to(device), settings, noise
        )
        written.append((batch, [tokenizer.batch_decode(sentences) for sentences in words], cut_short))
        bar.update(len(batch))
    bar.close()
    written = team.gather(written)
    if cut_short := sum(of_batch for _, _, of_batch in written):
        cli.warn(f"{cut_short} sentences were cut at --max_words {options.max_words}")
    stories = {job: sentences for batch, texts, _ in written for job, sentences in zip(batch, texts, strict=True)}
    return [
        {name: albums[i][name] for name in ("story_id", "album_id", "photo_ids", "folder") if name in albums[i]}
        | ({"telling": telling + 1} if options.num_stories > 1 else {})
        | {"sentences": [sentence.strip() for sentence in stories[i, telling]]}
        for i, telling in sorted(stories)
    ]


def readable(sentence):
    """A sentence as people write it: VIST's text is lower-case with spaces before the punctuation."""
    sentence = re.sub(r"\s+([.,!?;:]|n't|'\w+)", r"\1", sentence)
    sentence = re.sub(r"\bi\b", "I", sentence)
    return re.sub(r"(^|[.!?]\s+)([a-z])", lambda match: match[0].upper(), sentence)


def show(story):
    telling = f", telling {story['telling']}" if "telling" in story else ""
    print(f"\n{story['album_id']}{telling}")
    width = max(len(str(name)) for name in story["photo_ids"])
    for name, sentence in zip(story["photo_ids"], story["sentences"], strict=True):
        print(f"  {name or '(no photo)':<{width}}  {readable(sentence)}")


def vist_submission(stories):
    """Stories in the VIST Challenge's submission format."""
    return {
        "team_name": "plan-CVAE",
        "evaluation_info": {"additional_description": "written by generate.py"},
        "output_stories": [
            {
                "album_id": story["album_id"],
                "photo_sequence": story["photo_ids"],
                "story_text_normalized": " ".join(story["sentences"]),
            }
            for story in stories
        ],
    }


def main():
    options = parse()
    model, tokenizer = load_checkpoint(options.checkpoint)
    if options.plan == "sample" and model.config.plan == "none":
        raise UserError(f"--plan sample: the model in {options.checkpoint} was trained without a plan")
    albums = (
        read_albums(options.data_path, model.image_encoder)
        if options.data_path
        else [read_folder(folder, model.image_encoder, options.order) for folder in options.folders]
    )
    with join_team() as team:
        model.to(team.device)
        stories = write_stories(model, tokenizer, albums, options, team)
    if team.index:
        return
    for story in stories[: len(stories) if options.folders else 1]:
        show(story)
    written = {"checkpoint": options.checkpoint, "settings": vars(options), "stories": stories}
    cli.write_json(options.output, written)
    print(f"\n{len(stories)} {'story' if len(stories) == 1 else 'stories'} -> {options.output}")
    if options.vist_output:
        cli.write_json(options.vist_output, vist_submission(stories))
        print(f"in the VIST Challenge's format -> {options.vist_output}")


if __name__ == "__main__":
    cli.run(main)
