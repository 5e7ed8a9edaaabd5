"""What every script shares at its door: options, one-line errors, what is printed.

Imports nothing local and nothing heavy, so that `--help` answers at once.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import errno
import logging
import os
import re
import signal
import sys
import types
import typing
from pathlib import Path

OUTPUT_DIR = "output"  # where train.py leaves its checkpoints and the other scripts look for them
PLANS = ("cvae", "deterministic", "none")
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
BOOK = "dataset/picturebook"  # where experiments.picturebook draws the sample
# of a story by a trained model
SCORES = CDE, BOW_AGREEMENT, MAX_KL, NLL = (
    "CDE",
    "bag-of-words agreement",
    "max KL",
    "NLL per word",
)

PROTOCOLS = {  # of the caption metrics
    "album": "figures of the whole corpus, an album's references pooled: what is published about "
    "VIST",
    "mean": "the mean of the stories' own scores, an album's references pooled",
    "sequence": "the VIST Challenge's evaluator: a story against each reference by itself, the "
    "best one counts",
}


class UserError(ValueError):
    """A mistake that the user can mend: the file or option, what was found, what was expected.

    Its message names options as a command line does (--max_words): a script prints that, `line`.
    As a ValueError, from Python, it names them as Python does (max_words).
    """

    @property
    def line(self):
        return super().__str__()

    def __str__(self):
        return re.sub(r"--(?=[a-z])", "", self.line)


@contextlib.contextmanager
def flag(name):
    """Around a library's work on what an option names: its errors begin with the option."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name} {error.line}") from None


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line and whose help shows the defaults."""

    def __init__(self, **kwargs):
        super().__init__(
            formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False, **kwargs
        )

    def error(self, message):
        module = self.prog.removeprefix("python -m experiments.")
        name = self.prog if module == self.prog else f"{module}.py"
        self.exit(2, f"{name}: {printable(message)} (--help lists the options)\n")

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


def non_negative_int(text):
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


def non_negative_float(text):
    """argparse type: a finite number of at least 0."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return value


def fraction(text):
    """argparse type: a number above 0, at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0 and at most 1")
    return value


def program():
    """The name of the script that runs: train.py, benchmark.py."""
    path = Path(sys.argv[0])
    return f"{path.parent.name}.py" if path.name == "__main__.py" else path.name


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
        print(f"{program()}: {printable(message)}", file=sys.stderr)


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
        message = error.line
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
        message = out_of_memory_message(error)
        if message is None:
            raise
    except KeyboardInterrupt:
        # what half-made objects have to say when they go
        sys.unraisablehook = lambda unraisable: None
        end_bars()
        print(f"{program()}: stopped by the user", file=sys.stderr)
        sys.exit(130)
    end_bars()
    print(f"{program()}: {printable(message)}", file=sys.stderr)
    sys.exit(2)


def out_of_memory_message(error):
    """What to say of an error that is for want of memory; None of any other."""
    if "DataLoader worker" in str(error):  # which the system kills first
        return (
            "one of the --num_workers was killed, perhaps out of memory; expected fewer (what is "
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


def parse_before_imports(parse):
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
