"""Every command in the documentation is one that its script's parser takes, every link leads to a
file, and every error line is what the script prints."""

import dataclasses
import json
import re
import shlex

import pytest
from conftest import EXPERIMENTS, ROOT, parser_of
from PIL import Image
from safetensors.torch import load_file, save_file

from utils import cli
from utils.files import directory_lock, write_json
from utils.train_log import SUMS
from utils.train_options import TrainOptions

SCRIPTS = ["CDE_score.py", "dataset.py", "generate.py", "train.py"]
PARSERS = {script: parser_of(script) for script in SCRIPTS}
PARSERS |= {
    f"-m experiments.{name}": parser_of(f"{name}.py")
    for name in EXPERIMENTS
    if parser_of(f"{name}.py")  # some are imported by others only
}
PARSERS["train.sh"] = PARSERS["train.py"]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"


def text_of(page):
    return page.read_text(encoding="utf-8")


def commands():
    """Each command of the bash blocks of all pages, and of runs/, once."""
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", "".join(map(text_of, PAGES)), re.S)
    blocks += [path.read_text() for path in sorted((ROOT / "runs").glob("*.sh"))]
    shown = set()
    for line in "".join(blocks).replace("\\\n", " ").replace(" && ", "\n").splitlines():
        words = shlex.split(line, comments=True)
        if words[:2] == ["torchrun", "--nproc_per_node"]:
            words = ["python", *words[3:]]
        if words[:2] == ["python", "-m"]:
            words = ["python", " ".join(words[1:3]), *words[3:]]
        shows = len(words) > 1 and words[0] in ("python", "bash") and words[1] in PARSERS
        if shows and tuple(words) not in shown:
            shown.add(tuple(words))
            yield pytest.param(words[1], words[2:], id=" ".join(words[1:]))


def test_the_pages_show_every_script():
    assert {param.values[0] for param in commands()} == set(PARSERS)


@pytest.mark.parametrize("script, arguments", list(commands()))
def test_the_command_is_taken(script, arguments):
    PARSERS[script]().parse_args(arguments)


def test_a_flag_that_is_not_there_is_refused():
    for make in PARSERS.values():
        with pytest.raises(cli.UserError, match="no_such_flag"):
            make().parse_args(["--no_such_flag", "1"])
        assert isinstance(make(), cli.Parser)


def test_the_readme_is_read_to_its_end():
    assert len(text_of(README).splitlines()) <= 250


def without_code(page):
    return re.sub(r"```.*?```", "", text_of(page), flags=re.S)


def anchors(page):
    """What the headings of a page are called in links, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_code(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_and_picture_leads_to_a_file(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        if re.match(r"[a-z]+:", link):  # https: and the like
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert target.resolve().is_relative_to(ROOT.resolve()), link
        assert not anchor or anchor in anchors(target), link


# ---------------------------------------------------------------------------------- troubleshooting


@pytest.fixture(scope="module")
def wrecks(tmp_path_factory, make_model, tokenizer):
    """A folder in which all has gone wrong that docs/troubleshooting.md lists."""
    tmp_path = tmp_path_factory.mktemp("wrecks")
    model = make_model(image_positions=4)
    for name in ("output/best", "output/latest", "pickled", "older"):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / "pickled/model.safetensors").rename(tmp_path / "pickled/pytorch_model.bin")
    weights = load_file(tmp_path / "older/model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "state_bow" not in k},
        tmp_path / "older/model.safetensors",
    )
    options = dataclasses.asdict(
        TrainOptions(train_data_path="train.json", val_data_path="val.json")
    )
    progress = {"step": 40, "best": 9.5, "best_step": 40, "worse": 0, "options": options}
    progress |= {"data": {}, "validation": {}, "window": [0.0] * len(SUMS)}
    write_json(tmp_path / "output/latest/progress.json", progress)

    for folder, names in {"holiday": "ab", "empty": "", "album": "abcdefghijklmnop"}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            Image.new("RGB", (64, 48), "teal").save(tmp_path / folder / f"{name}.jpg")
    (tmp_path / "holiday/cut.jpg").write_bytes((tmp_path / "holiday/a.jpg").read_bytes()[:400])
    (tmp_path / "holiday/phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "holiday/elsewhere.jpg").symlink_to("../album/a.jpg")
    (tmp_path / "notes.json").write_text("{")
    (tmp_path / "mine.json").write_text('{"stories": [{"story_id": 7, "sentences": "one text"}]}')
    for name in ("train.json", "val.json"):
        (tmp_path / name).write_text("{}")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    sis = tmp_path / "dataset/VIST/sis"
    sis.mkdir(parents=True)
    told = {
        "story_id": "1",
        "photo_flickr_id": "1",
        "worker_arranged_photo_order": 0,
        "text": "a day .",
    }
    (sis / "train.story-in-sequence.json").write_text(json.dumps({"annotations": [[told]]}))
    return tmp_path


def troubles():
    table = re.findall(r"^\| `(python [^`]*)` \| `([^`]*)`", text_of(TROUBLESHOOTING), re.M)
    for command, said in table:
        yield pytest.param(shlex.split(command)[1:], said, id=command)


@pytest.mark.parametrize("command, said", list(troubles()))
def test_what_is_wrong_is_said_in_that_line(command, said, wrecks, script, monkeypatch):
    """The line of the page, where … stands for anything, is all that the command prints on
    stderr."""
    # it may be installed here
    monkeypatch.setattr("utils.train_options.find_spec", lambda name: None)
    with directory_lock(wrecks / "busy", "--output_dir"):
        done = script(*command, cwd=wrecks)
    pattern = ".*".join(map(re.escape, said.split("…")))
    lines = done.stderr.splitlines()
    assert any(re.fullmatch(pattern, line) for line in lines), done.stderr
    left_aside = "skipped" in said
    assert done.returncode == (0 if left_aside else 2) and "Traceback" not in done.stderr
    assert left_aside or len(lines) == 1, done.stderr


def test_there_is_a_line_for_each_script():
    assert {param.values[0][0] for param in troubles()} >= {
        "generate.py",
        "CDE_score.py",
        "train.py",
        "dataset.py",
    }
