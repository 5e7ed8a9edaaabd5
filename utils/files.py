"""Files: JSON in, files out whole or not at all, one process at a time in a folder."""

import contextlib
import glob
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from utils.cli import UserError


def read_json(path: str | Path, expected: str, unique: bool = False) -> Any:
    """The object in a JSON file. Raises UserError, with what the file should have held.

    unique: refuse an object that names a key twice (of which JSON readers silently keep the last).
    """

    def refuse_repeated_keys(pairs: list[tuple]) -> dict:
        counts = Counter(key for key, _ in pairs)
        if len(counts) < len(pairs):
            key = counts.most_common(1)[0][0]
            raise UserError(f"{path}: {key[:60]!r} is there twice; expected each id once")
        return dict(pairs)

    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {found}; expected {expected}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        return json.loads(text, object_pairs_hook=refuse_repeated_keys if unique else None)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON in UTF-8 ({error}); expected {expected}") from None


def check_can_write(path: str | Path) -> None:
    """Raise UserError where no file can be written at `path`, before there is work to lose.

    Tried in the nearest folder that exists; nothing is left there.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; expected the name of a file to write")
        if path.exists() and not path.is_file():  # /dev/null
            return
        folder = next(parent for parent in path.resolve().parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be written there ({error.strerror})") from None


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, for a file or a directory: renamed to `path` on success,
    removed on failure.

    A process killed between the two renames that replace a directory leaves neither: `recover`
    restores the new one. Raises OSError that names `path` where it cannot be written.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():  # /dev/null
        yield path
        return
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path)
    holder = new_holder(path)
    try:
        with reraise_with_path(path, holder):
            yield holder / path.name
            honour_umask(holder / path.name)
            sync(holder / path.name)  # before it takes its name: a power cut leaves no half
            replace(holder / path.name, path, aside=holder / REPLACED)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def honour_umask(path: Path) -> None:
    """Give a file, or all in a directory, the mode of a file that is made here: some libraries
    let nobody else read theirs."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        probe = Path(folder, "probe")
        probe.touch()
        mode = probe.stat().st_mode
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if file.is_file():
            file.chmod(mode)


UNFINISHED = ".unfinished"  # suffix of atomic_write's temporary folder
REPLACED = "replaced"  # the old directory in it


def replace(new: Path, path: Path, aside: Path) -> None:
    """Rename `new` to `path`; an old directory, which no rename replaces, goes `aside` first."""
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


def remove(path: Path) -> None:
    """Remove a directory: it is renamed first, so that no half of it stands there."""
    holder = new_holder(path)
    path.rename(holder / path.name)
    shutil.rmtree(holder, ignore_errors=True)


def new_holder(path: Path) -> Path:
    """A new temporary folder beside `path`, with the process's number in its name."""
    prefix = f".{path.name}.{os.getpid()}."
    return Path(tempfile.mkdtemp(prefix=prefix, suffix=UNFINISHED, dir=path.parent))


def recover(path: Path) -> None:
    """Restore the directory that a process was replacing at `path` when it was killed between
    two renames."""
    for aside in path.parent.glob(f".{glob.escape(path.name)}.*{UNFINISHED}/{REPLACED}"):
        new = aside.with_name(path.name)
        with contextlib.suppress(OSError):  # another process was faster
            if not path.exists():
                (new if new.exists() else aside).rename(path)


def sync(path: Path) -> None:
    """Flush a file, or all files of a directory, to the disk."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    if len(files) > 100 and hasattr(os, "sync"):  # faster than thousands of files one by one
        os.sync()
        return
    for file in files:
        with open(file, "r+b") as opened:
            os.fsync(opened.fileno())


@contextlib.contextmanager
def reraise_with_path(path: Path, holder: Path) -> Iterator[None]:
    """Within it, a failure to write in `holder` becomes an OSError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename).startswith(str(holder)):
            error.filename = str(path)
        raise
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))  # safetensors, tokenizers
        if not number:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


@contextlib.contextmanager
def directory_lock(directory: str | Path, flag: str) -> Iterator[None]:
    """Around the work that fills a directory. Raises UserError where another process holds it.

    What killed processes have left unfinished is removed. A directory that was made for the work
    and stays empty is removed.
    """
    from filelock import FileLock, Timeout  # the system frees its locks when a process is killed

    directory = Path(directory)
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{flag} {directory}: a file; expected a folder")
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{flag} {directory}: another process is at work there; expected to be alone (wait for "
            "it, or name another folder)"
        ) from None
    try:
        remove_unfinished(directory)
        yield
    finally:
        lock.release()
        if made and set(os.listdir(directory)) <= {".lock"}:
            (directory / ".lock").unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another process has put something there
                for path in made:
                    path.rmdir()


def remove_unfinished(directory: Path) -> None:
    """Remove the temporary folders of killed processes in a directory and its subfolders."""
    import psutil

    for pattern in (f".*{UNFINISHED}", f"*/.*{UNFINISHED}"):
        for holder in directory.glob(pattern):
            name = re.fullmatch(rf"\.(.+)\.(\d+)\.[^.]*{UNFINISHED}", holder.name)
            if name and psutil.pid_exists(int(name[2])):
                continue
            if name:
                recover(holder.with_name(name[1]))
            shutil.rmtree(holder, ignore_errors=True)


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 atomically. A half character (of a file's name that is no UTF-8) is written as
    \\udcff, as JSON spells it."""
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, to_json(value))


def write_story_lines(path: str | Path, about: dict, stories: Iterable[dict]) -> None:
    """Write stories as JSON: a line about them all, then a line per story."""
    lines = ",\n".join(json.dumps(story, ensure_ascii=False) for story in stories)
    head = json.dumps(about | {"stories": []}, ensure_ascii=False).removesuffix("]}")
    write_text(path, f"{head}\n{lines}\n]}}")


def save_figure(figure: Any, path: str | Path, dpi: int = 110) -> None:
    """Write a matplotlib figure atomically."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=dpi)
