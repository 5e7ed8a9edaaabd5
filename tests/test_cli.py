"""What stands on disk is complete: the old until the new one is, and nothing else is touched."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import EXPERIMENTS, ROOT

from utils import cli
from utils.files import UNFINISHED, atomic_write, directory_lock, read_json, write_json


def test_a_file_or_folder_is_replaced_whole(tmp_path):
    target = tmp_path / "value.json"
    write_json(target, {"a": 1})
    with pytest.raises(ValueError), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise ValueError
    assert read_json(target, "a value") == {"a": 1} and [p.name for p in tmp_path.iterdir()] == [
        "value.json"
    ]
    folder = tmp_path / "folder"
    for text in ("old", "new"):
        with atomic_write(folder) as temporary:
            temporary.mkdir()
            (temporary / "file").write_text(text)
        assert (folder / "file").read_text() == text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "value.json"]


def test_what_takes_its_name_is_on_the_disk(tmp_path, monkeypatch):
    """Each file's bytes are synced before the rename, so that a power cut leaves the old ones or
    the new."""
    happened, replace = [], os.replace
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: happened.append(os.fstat(descriptor).st_ino)
    )
    monkeypatch.setattr(os, "replace", lambda *paths: (happened.append("renamed"), replace(*paths)))
    with atomic_write(tmp_path / "folder") as folder:
        folder.mkdir()
        for name in "ab":
            (folder / name).write_text(name)
    written = {path.stat().st_ino for path in (tmp_path / "folder").iterdir()}
    assert set(happened[:2]) == written and happened[2:] == ["renamed"]
    write_json(tmp_path / "x.json", {})
    assert happened[3:] == [(tmp_path / "x.json").stat().st_ino, "renamed"]


def test_a_file_never_replaces_a_folder(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "precious.jpg").write_text("x")
    with pytest.raises(cli.UserError, match="photos: is a folder"):
        write_json(folder, {})
    assert (folder / "precious.jpg").read_text() == "x" and [
        p.name for p in tmp_path.iterdir()
    ] == ["photos"]


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe{", b"[" * 100_000])
def test_what_is_not_json_is_one_clear_error(content, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(cli.UserError, match="x.json: .*expected a thing"):
        read_json(tmp_path / "x.json", "a thing")


SCRIPTS = ["CDE_score.py", "dataset.py", "generate.py", "train.py"]
SCRIPTS += [f"experiments.{name}" for name in EXPERIMENTS]
HEAVY = {"torch", "transformers", "nltk", "numpy", "PIL", "matplotlib", "pycocoevalcap", "tqdm"}
MODULES = sorted(
    path.relative_to(ROOT)
    for folder in (".", "utils", "experiments")
    for path in (ROOT / folder).glob("*.py" if folder == "." else "**/*.py")
)


@pytest.mark.parametrize(
    "script, argument, status",
    [*((script, "--help", 0) for script in SCRIPTS), ("train.py", "--no_such_flag", 2)],
)
def test_help_and_a_wrong_flag_are_answered_before_torch_is_imported(script, argument, status):
    run = "run_path" if script.endswith(".py") else "run_module"
    code = (
        "import atexit, runpy, sys\n"
        f"sys.argv = {[script, argument]}\n"
        f"atexit.register(lambda: print('heavy:', sorted({HEAVY} & set(sys.modules))))\n"
        f"runpy.{run}({script!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == status and done.stdout.endswith("heavy: []\n"), done.stderr
    assert done.stderr.count("\n") == (status == 2)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_only_defines(path):
    """At its top level: imports, definitions, constants, and what a script does as a script."""
    allowed = {"AutoConfig.register", "AutoModel.register"}  # as transformers asks its users to
    for node in ast.parse((ROOT / path).read_text()).body[1:]:
        if isinstance(node, ast.If):
            test = ast.unparse(node.test)
            assert test == "__name__ == '__main__'" or is_constant(node.body), test
        elif isinstance(node, ast.Expr):
            assert ast.unparse(node.value.func) in allowed, ast.unparse(node)
        else:
            assert isinstance(node, DEFINES), ast.unparse(node)
        assert called(node) <= CALLED | own_names(path), ast.unparse(node)


# What constants are made by: functions that return a value, and do nothing else.
CALLED = {"Path", "tuple", "set", "frozenset", "range", "re.compile", "Template", "np.array"}
CALLED |= {
    "split",
    "features.get_supported_modules",
    "StateDictOptions",
    "number",
    "Patience",
    "partial",
}


def called(node):
    """The functions that an assignment calls, those in its lambdas left out."""
    if not isinstance(node, ast.Assign | ast.AnnAssign):
        return set()
    lambdas = [part for part in ast.walk(node) if isinstance(part, ast.Lambda)]
    later = {id(part) for function in lambdas for part in ast.walk(function)}
    calls = [n.func for n in ast.walk(node) if isinstance(n, ast.Call) and id(n) not in later]
    of_text = lambda f: isinstance(f, ast.Attribute) and isinstance(f.value, ast.Constant)
    return {f.attr if of_text(f) else ast.unparse(f) for f in calls}


def own_names(path):
    """What the project itself defines, or imports from itself."""
    tree = ast.parse((ROOT / path).read_text())
    own = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in MAY_IMPORT:
            own |= {alias.name for alias in node.names}
    return own


@pytest.mark.parametrize("code", ["x = matplotlib.use('Agg')", "x = ctypes.CDLL(None)"])
def test_a_call_with_effects_is_found(code):
    assert not called(ast.parse(code).body[0]) <= CALLED


DEFINES = ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.ClassDef


def is_constant(body):
    return all(isinstance(node, ast.Assign) for node in body)


# ------------------------------------------------------------------------------- who imports whom

ORDER = ["model", "dataset", "train", "generate", "CDE_score"]
# experiments -> root -> utils; at the root {train, generate, CDE_score} -> dataset -> model.
MAY_IMPORT = {
    "model": {"utils"},
    "dataset": {"utils", "model"},
    "train": {"utils", "model", "dataset"},
    "generate": {"utils", "model", "dataset"},
    "CDE_score": {"utils", "model", "dataset"},
    "utils": {"utils"},
    "experiments": {"utils", "experiments", *ORDER},
}
IN_FUNCTIONS = {"generate": {"CDE_score"}}  # where it scores


def forbidden_imports(owner, source):
    """What a module of `owner` imports of this project and may not."""
    tree, found = ast.parse(source), set()
    at_top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        else:
            continue
        allowed = MAY_IMPORT[owner]
        if id(node) not in at_top:
            allowed = allowed | IN_FUNCTIONS.get(owner, set())
        found |= {name.split(".")[0] for name in names} & MAY_IMPORT.keys() - allowed
    return found


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_go_one_way(path):
    owner = path.parts[0].removesuffix(".py")
    assert forbidden_imports(owner, (ROOT / path).read_text()) == set()


@pytest.mark.parametrize(
    "owner, source, found",
    [
        ("utils", "from model import PlanCVAE", {"model"}),
        ("utils", "def f():\n    import experiments.ablation", {"experiments"}),
        ("model", "import dataset", {"dataset"}),
        ("train", "from experiments import benchmark", {"experiments"}),
        ("generate", "import CDE_score", {"CDE_score"}),
        ("generate", "def f():\n    import CDE_score", set()),
        ("experiments", "import train, utils.cli", set()),
    ],
)
def test_a_forbidden_import_is_found(owner, source, found):
    assert forbidden_imports(owner, source) == found


@pytest.mark.slow
def test_an_import_changes_nothing_in_the_process():
    """Not the C library's memory, not other libraries' bars, verbosity or backend."""
    modules = [".".join(path.with_suffix("").parts) for path in MODULES]
    code = f"""
import ctypes, os, random, signal, sys
import matplotlib, numpy, torch, torchvision  # what these change is theirs
from torch.distributed import fsdp
from transformers import AutoModel, GPT2LMHeadModel
from transformers.utils import logging

def state():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    draws = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    backend = matplotlib.rcParams._get_backend_or_none()
    bars = logging.is_progress_bar_enabled(), logging.get_verbosity()
    threads = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    return handlers, draws, backend, bars, threads, dict(os.environ), os.getcwd()

class Library(ctypes.CDLL):
    def __init__(self, name, *rest, **more):
        assert name is not None, "an import asks for the C library"
        super().__init__(name, *rest, **more)

ctypes.CDLL, before = Library, state()
sys.argv = ["test"]
for name in {modules}:
    __import__(name)
after = state()
assert before == after, [pair for pair in zip(before, after) if pair[0] != pair[1]]
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


FAKE_PYTHON = """#!/bin/sh
[ "$1" = -c ] && exit
echo "$@" >>calls.txt
"""


@pytest.mark.parametrize("own_data", [True, False])
def test_train_sh_runs_from_any_folder(own_data, tmp_path):
    """Its scripts are found beside it; data and output are where the user is."""
    repo, here = tmp_path / "the repo", tmp_path / "here"
    (here / "dataset/picturebook/images/test").mkdir(parents=True)
    for number in range(6):
        (here / f"dataset/picturebook/images/test/{number}.jpg").write_text("photo")
    repo.mkdir()
    shutil.copy(ROOT / "train.sh", repo)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text(FAKE_PYTHON)
    (tmp_path / "bin/python").chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    options = ["--train_data_path", "my.json"] if own_data else ["--output_dir", "out"]
    done = subprocess.run(
        ["bash", repo / "train.sh", *options],
        cwd=here,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    calls = (here / "calls.txt").read_text().splitlines()
    if own_data:
        assert calls == [f"{repo}/train.py --train_data_path my.json"]
        return
    assert calls[0].startswith("-m experiments.picturebook ")
    names = ["dataset.py", "train.py", "generate.py", "CDE_score.py"]
    scripts = [call.split(".py")[0] + ".py" for call in calls[1:]]
    assert scripts == [f"{repo}/{name}" for name in names]
    assert all((ROOT / name).is_file() for name in names)
    assert len(list((here / "out/unseen").iterdir())) == 5
    assert "the\\ repo/generate.py" in done.stdout  # what to try next can be pasted


def test_options_are_named_as_the_caller_names_them(capsys):
    """With dashes on a command line, without them from Python."""

    def main():
        raise cli.UserError("--max_new_tokens 0: expected 1 or more -- or no --max_new_tokens")

    with pytest.raises(
        ValueError, match="^max_new_tokens 0: expected 1 or more -- or no max_new_tokens$"
    ):
        main()
    with pytest.raises(SystemExit):
        cli.run(main)
    assert (
        "--max_new_tokens 0: expected 1 or more -- or no --max_new_tokens"
        in capsys.readouterr().err
    )


def test_a_directory_half_replaced_is_brought_back(tmp_path):
    """As a process leaves it that was killed between the two renames: the new one comes, where it
    is whole."""
    for number, names in enumerate((["replaced"], ["replaced", "latest"])):
        folder = tmp_path / str(number)
        for name in names:
            (folder / f".latest.999999999.a1b2c3d4{UNFINISHED}" / name).mkdir(parents=True)
            (folder / f".latest.999999999.a1b2c3d4{UNFINISHED}" / name / "file").write_text(name)
        with directory_lock(folder, "--output_dir"):
            assert (folder / "latest" / "file").read_text() == names[-1]
            assert sorted(p.name for p in folder.iterdir()) == [".lock", "latest"]


def test_a_folder_is_one_processs_own(tmp_path):
    folder = tmp_path / "a" / "b"
    with directory_lock(folder, "--output"):
        with pytest.raises(cli.UserError, match="output .*b: another process is at work there"):
            with directory_lock(folder, "--output"):
                pass
        (folder / "x").write_text("kept")
    with directory_lock(folder, "--output"):
        pass
    assert (folder / "x").read_text() == "kept"
    with pytest.raises(ValueError), directory_lock(tmp_path / "c", "--output"):
        raise ValueError
    assert not (tmp_path / "c").exists()


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    """A story's file in a training's folder; a training in a folder of another's."""
    living = [
        tmp_path / f".stories.json.{os.getpid()}.abcd{UNFINISHED}",
        tmp_path / "vist" / f".best.1.a{UNFINISHED}",
    ]
    dead = tmp_path / "vist" / f".latest.999999999.abcd{UNFINISHED}"
    for holder in (*living, dead):
        holder.mkdir(parents=True)
    with directory_lock(tmp_path, "--output_dir"):
        assert all(holder.exists() for holder in living) and not dead.exists()


def test_a_device_is_written_to_and_a_link_followed(tmp_path):
    write_json("/dev/null", {})
    assert not Path("/dev/null").is_file()
    (tmp_path / "link.json").symlink_to(tmp_path / "x.json")
    write_json(tmp_path / "link.json", 1)
    assert (tmp_path / "link.json").is_symlink() and (tmp_path / "x.json").read_text() == "1\n"


def test_a_failure_to_write_names_the_file(tmp_path):
    from safetensors import SafetensorError

    for error in (
        OSError(28, "full"),
        SafetensorError("Error while serializing: I/O error: full (os error 28)"),
    ):
        with pytest.raises(OSError) as found, atomic_write(tmp_path / "x") as temporary:
            temporary.write_text("half")
            raise error
        assert found.value.errno == 28 and found.value.filename == str(tmp_path / "x")
    with pytest.raises(FileNotFoundError) as found, atomic_write(tmp_path / "x"):
        open(tmp_path / "other")
    assert found.value.filename == str(tmp_path / "other")
    assert not any(tmp_path.iterdir())


def test_what_is_printed_is_one_line_without_control_characters():
    assert cli.printable("a\nb\x1b[31m c\udcff é") == "a b\\x1b[31m c\\udcff é"


@pytest.mark.parametrize(
    "work, arrives",
    [("print('é →', flush=True)", b"? ?\n"), ("cli.say('é →')", b"? ?\n"), ("0", b"")],
)
def test_what_stdout_cannot_encode_is_a_question_mark(work, arrives):
    command = [
        sys.executable,
        "-X",
        "utf8=0",
        "-c",
        f"from utils import cli; cli.run(lambda: {work})",
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, arrives, b"")


@pytest.mark.parametrize("work", ["print('x')", "cli.say('x')", "print('x' * 100_000)"])
def test_a_reader_that_has_gone_is_no_error(work):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", f"from utils import cli; cli.run(lambda: {work})"]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "error, said",
    [
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
            "--num_workers was killed",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "a smaller --batch_size"),
        (MemoryError(), "the memory does not suffice"),
    ],
)
def test_want_of_memory_is_one_line(error, said, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        cli.run(main)
    assert stop.value.code == 2 and said in capsys.readouterr().err
    # what is our own mistake is not hidden
    with pytest.raises(RuntimeError), cli.one_line_errors():
        raise RuntimeError("shapes do not fit")
