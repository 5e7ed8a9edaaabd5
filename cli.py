"""What every script shares at its door: one-line errors, JSON in, files out whole.

Imports nothing local and nothing heavy, so that `--help` answers at once.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import errno
import glob
import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import types
import typing
from pathlib import Path

OUTPUT_DIR = "output"  # where train.py leaves its checkpoints and the other scripts look for them
PLANS = ("cvae", "deterministic", "none")
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
BOOK = "dataset/picturebook"  # where picturebook.py draws the sample
# of a story by a trained model
SCORES = CDE, CDE_W, SURPRISE, NLL = ("CDE", "CDE-W", "plan surprise", "NLL per word")

PROTOCOLS = {  # of the caption metrics
    "album": "figures of the whole corpus, an album's references pooled: what is published about "
    "VIST",
    "mean": "the mean of the stories' own scores, an album's references pooled",
    "sequence": "the VIST Challenge's evaluator: a story against each reference by itself, the "
    "best one counts",
}


class UserError(Exception):
    """A mistake that the user can mend: the file or flag, what was found, what was expected."""


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line and whose help shows the defaults."""

    def __init__(self, **kwargs):
        super().__init__(
            formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False, **kwargs
        )

    def error(self, message):
        self.exit(2, f"{self.prog}: {printable(message)} (--help lists the options)\n")

    def add_dataclass(self, cls):
        """One option per field of a dataclass: its type, default, `help` and `choices` (from the
        field's metadata)."""
        for name, kind in typing.get_type_hints(cls).items():
            field = next(f for f in dataclasses.fields(cls) if f.name == name)
            if isinstance(kind, types.UnionType):  # `int | None`: an option that may stay unset
                kind = next(k for k in kind.__args__ if k is not type(None))
            options = {"help": field.metadata["help"], "default": field.default}
            if kind is bool:  # --flag and --no-flag, never `--flag False`
                options["action"] = argparse.BooleanOptionalAction
            else:
                options |= {"type": kind, "choices": field.metadata.get("choices")}
                if options["choices"] is None:
                    options["metavar"] = field.metadata.get("metavar", kind.__name__.upper())
            self.add_argument(f"--{name}", **options)
        return self


def option(default, help, **metadata):
    """A dataclass field that is a command-line option."""
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


def positive_int(text):
    """argparse type: a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return value


def natural_int(text):
    """argparse type: a whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 0")
    return value


def positive_float(text):
    """argparse type: a finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def natural_float(text):
    """argparse type: a finite number of at least 0."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return value


def share(text):
    """argparse type: a number above 0, at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0 and at most 1")
    return value


def first_process():
    """Whether this process works alone, or is the first of those that a launcher started: it speaks
    for all."""
    return os.environ.get("RANK", "0") == "0"  # as torchrun and accelerate launch set it


def printable(text):
    """A text on one line, what no terminal should be sent (control characters, half characters) as
    \\x1b and the like: file names and files come from anywhere."""
    line = " ".join(str(text).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def say(text):
    """Print on stdout, at once. A reader that has gone (`| head -1`) ends the printing, not the
    work."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        discard_stdout()


def discard_stdout():
    """Nothing more is printed, what is still buffered included, so that the exit does not fail at
    it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def warn(message):
    """A line on stderr: something was left aside or looks wrong, and the work goes on."""
    if first_process():
        print(f"{Path(sys.argv[0]).name}: {printable(message)}", file=sys.stderr)


@contextlib.contextmanager
def one_line_errors():
    """Around a script's work: a user's mistake becomes one line on stderr and exit status 2.

    What stdout cannot encode (LANG=C) is printed as a question mark.
    """
    with contextlib.suppress(AttributeError):  # there may be no stdout
        sys.stdout.reconfigure(errors="replace")
    try:
        yield
        return
    except UserError as error:
        message = str(error)
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # `| head` closed our output: nothing is wrong
            discard_stdout()
            sys.exit(0)
        where = f"{error.filename}: " if error.filename else ""
        fix = (
            " (free some space, then run the same command again)"
            if error.errno == errno.ENOSPC
            else ""
        )
        message = f"{where}{error.strerror or error}{fix}"
    except (RuntimeError, MemoryError) as error:
        message = of_memory(error)
        if message is None:
            raise
    except KeyboardInterrupt:
        # what half-made objects have to say when they go
        sys.unraisablehook = lambda unraisable: None
        end_bars()
        print(f"{Path(sys.argv[0]).name}: stopped by the user", file=sys.stderr)
        sys.exit(130)
    end_bars()
    print(f"{Path(sys.argv[0]).name}: {printable(message)}", file=sys.stderr)
    sys.exit(2)


def of_memory(error):
    """What to say of an error that is for want of memory; None of any other."""
    if "DataLoader worker" in str(error):  # which the system kills first
        return (
            "one of the --workers was killed, perhaps for want of memory; expected fewer (what is "
            "done is kept)"
        )
    if isinstance(error, MemoryError) or re.search(
        "out of memory|can't allocate memory", str(error)
    ):
        return (
            f"the memory does not suffice ({str(error)[:80]}); a smaller --batch_size or shorter "
            "stories take less"
        )
    return None


def end_bars():
    """Progress bars that an error has left on the screen: what comes next begins a line of its
    own."""
    if "tqdm" in sys.modules:
        for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
            bar.close()


def answer_early(parse):
    """Parse the command line for the sake of --help and of mistakes alone.

    A script calls this before it imports what takes seconds (torch and all that needs it); its
    main() then parses by the same function.
    """
    with one_line_errors():
        parse()
    # as of a job in a script's background
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C amid the imports is no traceback


def keep_memory():
    """Have the C library keep freed memory for what comes next, where it is glibc.

    It gives the pages of large tensors back at once, and those of the next come as zeros, one by
    one: in training on a CPU a third of the time. It is a setting of the whole process, so scripts
    call it, not imports.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        malloc = ctypes.CDLL(None).mallopt
        malloc(-4, 0)  # M_MMAP_MAX: large blocks come from the heap too
        malloc(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: which shrinks where 2 GiB are free at its end


def run(main):
    """Run a script's main(), and exit with the status that it returns."""
    keep_memory()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with one_line_errors():
        status = main()
        try:
            print(end="", flush=True)  # here a failure can still be told
        except OSError:
            discard_stdout()
            raise
        sys.exit(status)


def read_json(path, expected, unique=False):
    """The object in a JSON file. `expected` says, in the error, what the file should have held.

    unique: refuse an object that names a key twice (of which JSON readers keep the last without a
    word). Raises UserError where the file is missing, is a folder, is not UTF-8 or is not JSON.
    """

    def check(pairs):
        found = dict(pairs)
        if len(found) < len(pairs):
            seen = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise UserError(f"{path}: {twice[:60]!r} is there twice; expected each id once")
        return found

    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {found}; expected {expected}")
    try:
        return json.loads(
            path.read_text(encoding="utf-8-sig"), object_pairs_hook=check if unique else None
        )
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: not JSON (line {error.lineno}: {error.msg}); expected {expected}"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; expected {expected}") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path}: {error}; expected {expected}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply; expected {expected}") from None


@contextlib.contextmanager
def whole(path):
    """A temporary path (beside `path`) to write to; renamed to `path` on success, removed on
    failure.

    For a file or a directory: what stands at `path` is always complete, the old one until the new
    one is on the disk. (A process killed between the two renames that replace a directory leaves
    neither there: `recover` brings the new one.) Raises OSError that names `path` where it cannot
    be written.
    """
    path = Path(path)
    # /dev/null is to be written to, not replaced
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    path = Path(os.path.realpath(path)) if path.is_symlink() else path  # as is what a link leads to
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path)
    holder = new_holder(path)
    try:
        with naming(path, holder):
            yield holder / path.name
            # before it takes its name, so that no power cut leaves half of it there
            sync(holder / path.name)
            replace(holder / path.name, path, aside=holder / REPLACED)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


# what `whole` calls the folder of a temporary, and the old directory
UNFINISHED, REPLACED = (".unfinished", "replaced")


def replace(new, path, aside):
    """Rename `new` to `path`; a directory cannot be replaced in one step, so the old one steps
    aside first."""
    if path.is_dir() and not new.is_dir():
        raise UserError(f"{path}: is a folder; expected the name of a file to write")
    if path.is_dir():
        path.rename(aside)
    try:
        os.replace(new, path)
    except FileNotFoundError:
        if not path.exists():  # else another process has recovered it
            raise
    except BaseException:
        if aside.exists():
            aside.rename(path)
        raise


def remove(path):
    """Remove a directory, in one step for whoever looks at it."""
    holder = new_holder(path)
    path.rename(holder / path.name)
    shutil.rmtree(holder, ignore_errors=True)


def new_holder(path):
    """A new folder beside `path` for what is not to be seen under its name yet, or any more."""
    return Path(
        tempfile.mkdtemp(prefix=f".{path.name}.{os.getpid()}.", suffix=UNFINISHED, dir=path.parent)
    )


def of_holder(holder):
    """What a temporary of `whole` is for, and the number of its process: 0 where its name tells
    none."""
    *name, number, _ = holder.name.removeprefix(".").removesuffix(UNFINISHED).split(".")
    return (".".join(name), int(number)) if name and number.isdecimal() else (holder.name, 0)


def recover(path):
    """Bring back the directory that a process was replacing at `path` when it was killed between
    its two renames."""
    path = Path(path)
    for aside in path.parent.glob(f".{glob.escape(path.name)}.*{UNFINISHED}/{REPLACED}"):
        new = aside.with_name(path.name)
        with contextlib.suppress(OSError):  # another process was faster
            if not path.exists():
                (new if new.exists() else aside).rename(path)


def sync(path):
    """Have what was written to a file, or to all files of a directory, on the disk."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    # of all disks, which is faster than thousands of files one by one
    if len(files) > 100 and hasattr(os, "sync"):
        os.sync()
        return
    for file in files:
        with open(file, "r+b") as opened:
            os.fsync(opened.fileno())


@contextlib.contextmanager
def naming(path, holder):
    """Around writing `path` in `holder`: a failure of the disk becomes an OSError that names the
    path, also one that a library of Rust has met."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename).startswith(str(holder)):
            error.filename = str(path)
        raise
    except Exception as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
        raise


@contextlib.contextmanager
def alone(directory, flag):
    """Around the work that fills a directory: UserError where another process is at work there.

    What killed processes have left unfinished is cleared away. A directory that is made for it and
    stays empty goes.
    """
    import psutil
    from filelock import (  # the system lets go of its locks when a process is killed
        FileLock,
        Timeout,
    )

    directory = Path(directory)
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{flag} {directory}: a file; expected a folder")
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        found = f"{flag} {directory}: another process is at work there"
        raise UserError(
            f"{found}; expected to be alone (wait for it, or name another folder)"
        ) from None
    try:
        for holder in [*directory.glob(f".*{UNFINISHED}"), *directory.glob(f"*/.*{UNFINISHED}")]:
            name, number = of_holder(holder)
            # else of another script, or of a training in here
            if not number or not psutil.pid_exists(number):
                recover(holder.with_name(name))
                shutil.rmtree(holder, ignore_errors=True)
        yield
    finally:
        lock.release()
        if made and set(os.listdir(directory)) <= {".lock"}:
            (directory / ".lock").unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another process has put something there
                for path in made:
                    path.rmdir()


def to_json(value):
    return json.dumps(value, ensure_ascii=False, indent=1)


def write_text(path, text):
    """Write a text as UTF-8, whole or not at all; a line's end closes it."""
    with whole(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def write_json(path, value):
    """Write `value` as JSON, whole or not at all.

    A half character (of a file's name that is no UTF-8) becomes \\udcff and the like, JSON's own
    spelling of it.
    """
    write_text(path, to_json(value))


@contextlib.contextmanager
def loading(option_and_value, otherwise, tried=", neither from disk nor from a hub"):
    """Around a load by name or path: a name that cannot be fetched, or a bad file, becomes one
    clear line.

    tried: "" where it is a local file. `otherwise` says which option names a local path, or trains
    from scratch: nothing is ever substituted silently.
    """
    # a page of retries would bury that line
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        yield
    except UserError:
        raise
    except (
        BaseException
    ) as error:  # the libraries raise OSError, ValueError, URLError, KeyError, SafetensorError …
        # as one of Rust may panic
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(
            f"{option_and_value}: cannot be loaded{tried} ({reason}); {otherwise}"
        ) from None
