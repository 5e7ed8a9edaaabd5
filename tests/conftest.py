"""Small models and stories that the tests share. Everything is made here; nothing is downloaded.

torch and transformers are imported where they are used: the process that only hands the tests out
to the two that run them does without.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported, which reads it once
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two tests at a time, a core each
os.fsync = lambda descriptor: None  # no test cuts the power; on a busy disk they would take minutes

import contextlib
import copy
import gc
import gzip
import importlib
import multiprocessing
import random
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from utils import cli

ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted(
    path.stem
    for path in (ROOT / "experiments").iterdir()
    if (path / "__main__.py").is_file() or (path.is_file() and "__main__" in path.read_text())
)


def module_of(script):
    """The module with the main() of train.py and the like, or of an experiment (benchmark.py)."""
    name = script.removesuffix(".py")
    if name not in EXPERIMENTS:
        return importlib.import_module(name)
    package = (ROOT / "experiments" / name).is_dir()
    return importlib.import_module(f"experiments.{name}" + (".__main__" if package else ""))


def parser_of(script):
    """The function that makes a script's parser, which may be a module of its own."""
    names = ("train", "dataset", "generate")
    options = {f"{name}.py": f"utils.{name}_options" for name in names}
    module = importlib.import_module(options[script]) if script in options else module_of(script)
    return getattr(module, "parser", None)


WORDS = "a the fox bear kite boat found lost ran home sun rain and then we saw it was".split()
WORDS += "red blue . , !".split()


# Files that take long are begun first, so that in the end no worker is left alone with one.
LONGEST = (
    "generate",
    "pipeline",
    "train",
    "studies",
    "scale",
    "cde",
    "kills",
    "benchmark",
    "model",
    "metrics",
)


def pytest_collection_modifyitems(items):
    order = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def random_sentences(rng, beats, longest=9):
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, longest))) for _ in range(beats)]


@pytest.fixture(scope="session")
def tokenizer():
    from utils.tokenizer import train_tokenizer

    return train_tokenizer(random_sentences(random.Random(0), 400), vocab_size=320)


@pytest.fixture(scope="session")
def make_model(tokenizer):
    """make_model(**PlanCVAEConfig fields): a small model with random weights, in eval mode."""
    made = {}  # a copy takes a hundredth of the time

    def make(seed=0, **fields):
        import torch

        key = seed, *sorted(fields.items())
        if key not in made:
            made[key] = build(seed, fields), torch.get_rng_state()
        model, state = made[key]
        torch.set_rng_state(state)
        return copy.deepcopy(model)

    def build(seed, fields):
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        from utils.image_encoder import ImageEncoder
        from model import PlanCVAE

        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=256,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        encoder = ImageEncoder.build("resnet18", "none", image_size=32, stages=2, grid=1)
        usual = {"state_bow": True, "image_positions": 3, "plan_size": 6}
        model = PlanCVAE.build(GPT2LMHeadModel(config), encoder, **usual | fields)
        # Far from the small initial weights, so that every path leaves a trace in the numbers.
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name.startswith(("decoder", "dynamics.")) and p.dim() > 1:
                    p.mul_(4)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def saved_model(make_model, tokenizer, tmp_path_factory):
    """The checkpoint of a small model, which no test changes."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def make_stories(tokenizer):
    """make_stories(model, beats=[…]): a StoryDataset of random stories and photo features, some
    photos missing."""

    def make(model, beats, seed=0, missing=0.2):
        import torch

        from dataset import StoryDataset

        rng = random.Random(seed)
        rows = iter(range(sum(beats)))
        stories = [
            {
                "story_id": str(i),
                "album_id": str(i // 2),
                "beats": [
                    {
                        "photo_id": str(i),
                        "photo": None if rng.random() < missing else next(rows),
                        "sentence": sentence,
                    }
                    for sentence in random_sentences(rng, count)
                ],
            }
            for i, count in enumerate(beats)
        ]
        size = model.image_encoder.config.feature_size
        photos = torch.randn(sum(beats), size, generator=torch.Generator().manual_seed(seed))
        return StoryDataset(
            stories, photos, tokenizer, model.config.image_positions, model.max_length
        )

    return make


@contextlib.contextmanager
def padded(model, value):
    """The decoder's and the dynamics' states of all padding are `value`; yields how many were."""
    import torch

    from utils.structure import PAD

    where, spoilt = {}, Counter()
    states = model.states

    def remember(**batch):
        B, T = batch["image_at"].shape
        count = torch.bincount(batch["beats"] // T, minlength=B)[:, None]
        where["words"] = batch["input_ids"] == PAD
        where["beats"] = torch.arange(2 * T) >= 2 * count
        return states(**batch)

    def spoil(kind):
        def hook(module, inputs, output):
            mask = where[kind]
            spoilt[kind] += mask.sum().item() // (2 if kind == "beats" else 1)
            output.last_hidden_state = output.last_hidden_state.masked_fill(mask[..., None], value)
            return output

        return hook

    hooks = [
        model.decoder.transformer.register_forward_hook(spoil("words")),
        model.dynamics.register_forward_hook(spoil("beats")),
    ]
    model.states = remember
    try:
        yield spoilt
    finally:
        del model.states
        for hook in hooks:
            hook.remove()


@pytest.fixture
def script(monkeypatch, capsys):
    """script("train.py", *arguments): what the command would do, in this process (importing torch
    takes seconds).

    Returns an object with returncode, stdout and stderr.
    """

    def run(name, *arguments, cwd=None):
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [name, *map(str, arguments)])
            if cwd:
                patch.chdir(cwd)
            capsys.readouterr()
            with pytest.raises(SystemExit) as stop:
                cli.run(module_of(name).main)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=stop.value.code or 0, stdout=out, stderr=err)

    return run


class Forked:
    """A script's run in a process of its own, forked from one that has imported torch already
    (which takes seconds)."""

    def __init__(self, server, folder, command, environment, prepare):
        folder.mkdir(exist_ok=True)
        self.screen, self.ended = folder / "screen.txt", folder / "ended.txt"
        for path in (self.screen, self.ended):
            path.unlink(missing_ok=True)
        self.pid = server.start(folder, list(map(str, command)), environment, prepare)

    @property
    def running(self):
        return psutil.pid_exists(self.pid)

    def wait(self, seconds=100):
        """Until it has ended: its exit status, None where it was killed."""
        end = time.monotonic() + seconds
        while self.running and time.monotonic() < end:
            time.sleep(0.003)
        return int(self.ended.read_text()) if self.ended.is_file() else None

    def kill(self, number=signal.SIGKILL):
        if self.running:
            os.kill(self.pid, number)

    @property
    def said(self):
        """What it has printed, stdout and stderr."""
        if not self.screen.is_file():  # it may have been killed at once
            return ""
        return self.screen.read_text()


def run_forked(folder, command, environment, prepare):
    import torch

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as cli.answer_early does
    os.chdir(folder)
    screen = os.open("screen.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(screen, 1), os.dup2(screen, 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # its workers need not import torch anew
    sys.argv = command
    script = module_of(command[0])
    if prepare:
        prepare[0](*prepare[1:])
    try:
        cli.run(script.main)
    except SystemExit as stop:
        sys.stdout.flush()
        Path("ended.txt").write_text(str(stop.code or 0))


class ForkServer:
    """A process that forks others. It is forked when all is imported and no test has run: one that
    has run a backward pass could not be forked."""

    def __init__(self):
        self.context = multiprocessing.get_context("fork")
        self.connection, other = self.context.Pipe()
        self.process = self.context.Process(target=self.serve, args=(other,))
        self.process.start()
        other.close()

    def serve(self, connection):
        self.connection.close()  # so that it ends with its parent
        with contextlib.suppress(EOFError):
            while True:
                if connection.poll(0.005):
                    process = self.context.Process(target=run_forked, args=connection.recv())
                    process.start()
                    connection.send(process.pid)
                multiprocessing.active_children()  # lets go of those that have ended

    def start(self, *job):
        self.connection.send(job)
        return self.connection.recv()

    def stop(self):
        self.connection.close()
        self.process.join()


SERVER = pytest.StashKey()


def pytest_collection_finish(session):
    gc.freeze()  # what was imported is not searched for garbage again and again
    if any("fork" in getattr(item, "fixturenames", ()) for item in session.items):
        for name in ("train", "dataset", "generate"):
            importlib.import_module(name)
        session.config.stash[SERVER] = ForkServer()


def pytest_unconfigure(config):
    if SERVER in config.stash:
        config.stash[SERVER].stop()


@pytest.fixture(scope="session")
def fork(pytestconfig):
    """fork(folder, command, environment={}, prepare=()): a Forked in `folder`; prepare is a
    function of a module and its arguments, called there before the script begins."""
    server = pytestconfig.stash[SERVER]
    return lambda folder, command, environment=(), prepare=(): Forked(
        server, folder, command, dict(environment), prepare
    )


WANTED = set()  # names of the diagrams that the running test looks at


@pytest.fixture(scope="session", autouse=True)
def no_pictures():
    """Diagrams are not rendered and training curves not drawn, which takes a second each, except
    for those that a test looks at: @pytest.mark.pictures("training.png")."""
    from matplotlib.figure import Figure

    import train

    savefig, draw = Figure.savefig, train.Log.draw

    def save(figure, path, **options):
        if Path(path).name in WANTED:
            savefig(figure, path, **options)
        else:
            Path(path).write_bytes(b"not rendered")

    def draw_curves(log, *arguments, **options):
        if "training.png" in WANTED:
            draw(log, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        patch.setattr(train.Log, "draw", draw_curves)
        yield


@pytest.fixture(autouse=True)
def pictures(request):
    mark = request.node.get_closest_marker("pictures")
    WANTED.update(mark.args if mark else ())
    yield
    WANTED.clear()


@pytest.fixture
def no_meteor(monkeypatch):
    """Without METEOR."""
    from utils import meteor

    monkeypatch.setattr(meteor, "find_java", lambda: None)


@pytest.fixture
def small_meteor(monkeypatch, tmp_path):
    """METEOR with a table of one paraphrase: its own takes six seconds to load."""
    from utils import meteor

    with gzip.open(tmp_path / "paraphrases.gz", "wt") as file:
        file.write("0.5\nbig\nlarge\n")
    options = (*meteor.METEOR_OPTIONS, "-a", tmp_path / "paraphrases.gz")
    monkeypatch.setattr(meteor, "METEOR_OPTIONS", options)


def ranks(count):
    """The environments that a launcher of `count` processes gives them."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    common = {
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    of = [common | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(count)]
    return [{name: str(value) for name, value in one.items()} for one in of]


def batch_of(dataset, numbers, tokenizer):
    from dataset import collate

    return collate([dataset[i] for i in numbers])
