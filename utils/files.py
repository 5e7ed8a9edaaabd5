"""Files: JSON in, files out whole or not at all, one process at a time in a folder."""

import contextlib
import glob
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

from utils.cli import UserError


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
    except UserError:
        raise
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
def atomic_write(path):
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
        with reraise_with_path(path, holder):
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
def reraise_with_path(path, holder):
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
def directory_lock(directory, flag):
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
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def write_json(path, value):
    """Write `value` as JSON, whole or not at all.

    A half character (of a file's name that is no UTF-8) becomes \\udcff and the like, JSON's own
    spelling of it.
    """
    write_text(path, to_json(value))


def write_story_lines(path, about, stories):
    """Write stories as JSON, whole or not at all: a line with everything about them, then a line a
    story."""
    # A half character of a file's name is no UTF-8; as a backslash writes it, it is JSON's own
    # spelling of it.
    with (
        atomic_write(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        file.write(json.dumps(about, ensure_ascii=False)[:-1] + ', "stories": [')
        for number, story in enumerate(stories):
            file.write(("," if number else "") + "\n" + json.dumps(story, ensure_ascii=False))
        file.write("\n]}\n")
