"""What every script shares at its door: options, one-line errors, what is printed.

Imports nothing local and nothing heavy, so that `--help` answers at once.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import errno
import logging
import math
import os
import re
import signal
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

OUTPUT_DIR = "output"  # where train.py leaves its checkpoints and the other scripts look for them
PLANS = ("cvae", "deterministic", "none")
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
BOOK = "dataset/picturebook"  # where experiments.picturebook draws the sample
# of a story by a trained model
SCORE_NAMES = CDE, BOW_AGREEMENT, MAX_KL, NLL = (
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
    """A user's mistake: the file or option, what was found, what was expected.

    Scripts print `line`, which names options as a command line does (--max_new_tokens); str() names
    them as Python does (max_new_tokens).
    """

    @property
    def line(self) -> str:
        return super().__str__()

    def __str__(self) -> str:
        return re.sub(r"--(?=[a-z])", "", self.line)


@contextlib.contextmanager
def flag(name: str) -> Iterator[None]:
    """Within it, the message of a UserError begins with the option's name."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name} {error.line}") from None


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults; where there is none, the help says what happens."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse whose errors are UserErrors and whose help shows the defaults."""

    def __init__(self, **kwargs: object):
        super().__init__(formatter_class=HelpFormatter, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> None:
        raise UserError(f"{message} (--help lists the options)")

    def add_dataclass(self, cls: type) -> "Parser":
        """One option per field of a dataclass, made by `option`."""
        for name, kind in typing.get_type_hints(cls).items():
            field = next(f for f in dataclasses.fields(cls) if f.name == name)
            if isinstance(kind, types.UnionType):  # `int | None`: an option that may stay unset
                kind = next(k for k in kind.__args__ if k is not type(None))
            options = {"help": field.metadata["help"], "default": field.default}
            if typing.get_origin(kind) is list:  # several values
                kind, options["nargs"] = kind.__args__[0], "+"
            if kind is bool:  # --flag and --no-flag, never `--flag False`
                options["action"] = argparse.BooleanOptionalAction
            else:
                options |= {"type": kind, "choices": field.metadata.get("choices")}
                if options["choices"] is None:
                    options["metavar"] = field.metadata.get("metavar", kind.__name__.upper())
            self.add_argument(f"--{name}", **options)
        return self


def option(default: Any, help: str, **metadata: Any) -> Any:
    """A dataclass field that is a command-line option. metadata: choices, metavar; low, high: the
    bounds of its value."""
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


def check_bounds(options: Any) -> None:
    """Raise UserError where a value of a dataclass of options is beyond its bounds."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        low, high = field.metadata.get("low"), field.metadata.get("high", math.inf)
        if low is None or (low <= value <= high and value < math.inf):
            continue
        expected = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
        raise UserError(f"--{field.name} {value}: expected {expected}")


def number(kind: type, low: float, exclusive: bool = False, high: float = math.inf) -> Callable:
    """An argparse type: a finite number of `kind` (int, float) from `low` to `high`."""

    def parse(text: str) -> float:
        value = kind(text)
        if not low <= value <= high or value == math.inf or (exclusive and value == low):
            whole = "a whole number" if kind is int else "a number"
            bounds = f"above {low:g}" if exclusive else f"of at least {low:g}"
            limit = f", at most {high:g}" if high < math.inf else ""
            raise argparse.ArgumentTypeError(f"{text} is not {whole} {bounds}{limit}")
        return value

    return parse


positive_int = number(int, 1)
non_negative_int = number(int, 0)
positive_float = number(float, 0, exclusive=True)
non_negative_float = number(float, 0)
fraction = number(float, 0, exclusive=True, high=1)


def program() -> str:
    """The name of the script that runs: train.py, benchmark.py."""
    path = Path(sys.argv[0])
    return f"{path.parent.name}.py" if path.name == "__main__.py" else path.name


def first_process() -> bool:
    """Whether this is the only process, or the first that torchrun or accelerate launched."""
    return os.environ.get("RANK", "0") == "0"


def printable(text: object) -> str:
    """Text on one line, characters that a terminal should not be sent as \\x1b and the like."""
    line = " ".join(str(text).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def say(text: object) -> None:
    """Print on stdout, at once; where the reader has gone (`| head -1`) the work goes on."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        discard_stdout()


def discard_stdout() -> None:
    """Print nothing more, so that what is still buffered does not fail at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def warn(message: str) -> None:
    """A line on stderr; the work goes on."""
    if first_process():
        print(f"{program()}: {printable(message)}", file=sys.stderr)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Within it, a user's mistake becomes one line on stderr and exit status 2."""
    with contextlib.suppress(AttributeError):  # there may be no stdout
        sys.stdout.reconfigure(errors="replace")  # what LANG=C cannot encode
    try:
        yield
        return
    except UserError as error:
        message = error.line
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # `| head` closed our output: nothing is wrong
            discard_stdout()
            sys.exit(0)
        message = f"{error.strerror or error}"
        if error.filename:
            message = f"{error.filename}: {message}"
        if error.errno == errno.ENOSPC:
            message += " (free some space, then run the same command again)"
    except (RuntimeError, MemoryError) as error:
        message = out_of_memory_message(error)
        if message is None:
            raise
    except KeyboardInterrupt:
        sys.unraisablehook = print_nothing  # of half-made objects
        close_bars()
        print(f"{program()}: stopped by the user", file=sys.stderr)
        sys.exit(130)
    close_bars()
    print(f"{program()}: {printable(message)}", file=sys.stderr)
    sys.exit(2)


def print_nothing(unraisable: object) -> None:
    pass


def out_of_memory_message(error: Exception) -> str | None:
    """What to print of an error for lack of memory; None of any other."""
    if "DataLoader worker" in str(error):  # the system kills a worker first
        return (
            "one of the --num_workers was killed, perhaps out of memory; expected fewer (what is "
            "done is kept)"
        )
    no_memory = re.search("out of memory|can't allocate memory", str(error))
    if not no_memory and not isinstance(error, MemoryError):
        return None
    return (
        f"the memory does not suffice ({str(error)[:80]}); a smaller --batch_size or shorter "
        "stories take less"
    )


def close_bars() -> None:
    """Close the progress bars that an error has left on the screen."""
    if "tqdm" in sys.modules:
        for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
            bar.close()


NEEDS = {"torch": (2, 11), "transformers": (5, 24)}  # requirements.txt's


def check_versions() -> None:
    """Raise UserError where Python or a package is missing or too old."""
    import importlib.metadata  # as long as all other imports of --help

    advice = "pip install -r requirements.txt"
    if sys.version_info < (3, 11):  # noqa: UP036
        found = ".".join(map(str, sys.version_info[:3]))
        raise UserError(f"Python {found}: too old; expected 3.11 or newer")
    for name, least in NEEDS.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise UserError(f"{name}: not installed; {advice}") from None
        if tuple(map(int, re.findall(r"\d+", found)[:2])) < least:
            expected = ".".join(map(str, least))
            raise UserError(f"{name} {found}: too old; expected {expected} or newer ({advice})")


def parse_before_imports(parse: Callable) -> None:
    """Answer --help and refuse wrong options before torch is imported, which takes seconds."""
    with one_line_errors():
        parse()
        check_versions()
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # ignored in a background job
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C amid the imports is no traceback


def keep_memory() -> None:
    """Have glibc keep freed memory.

    Else it returns the pages of large tensors at once and zeroes new ones: a third of the time of
    training on a CPU. It is a setting of the process, so scripts call it, not imports.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        malloc = ctypes.CDLL(None).mallopt
        malloc(-4, 0)  # M_MMAP_MAX: large blocks come from the heap too
        malloc(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap shrinks where 2 GiB are free


def run(main: Callable) -> None:
    """Run a script's main(), and exit with the status that it returns."""
    keep_memory()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with one_line_errors():
        status = main()
        try:
            print(end="", flush=True)  # where a failure can still be reported
        except OSError:
            discard_stdout()
            raise
        sys.exit(status)


@contextlib.contextmanager
def loading(
    name: str, advice: str, tried: str = ", neither from disk nor from a hub"
) -> Iterator[None]:
    """Within it, any failure to load becomes a UserError of one line.

    name: the option and its value, or the path. advice: which option names a local path, or trains
    from scratch; nothing is ever substituted silently. tried: "" where only a file can be meant.
    """
    # a page of retries would bury that line
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        yield
    except UserError:
        raise
    except BaseException as error:  # OSError, ValueError, URLError, KeyError, SafetensorError, …
        is_rust_panic = type(error).__name__ == "PanicException"
        if not isinstance(error, Exception) and not is_rust_panic:
            raise
        reason = printable(error)[:160] or type(error).__name__
        raise UserError(f"{name}: cannot be loaded{tried} ({reason}); {advice}") from None
