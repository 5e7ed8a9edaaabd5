"""Whether other processes use the machine meanwhile, which would spoil the figures."""

import os
import time

import psutil

from utils import cli
from utils.cli import UserError

QUIET = 0.1  # share of the machine that others may use
PATIENCE = 5  # seconds to wait for a machine that is not quiet


class Others:
    """How much of the machine other processes have used since this object was made."""

    def __init__(self):
        self.start = self.now()

    @staticmethod
    def now():
        """Seconds: on the clock, of all processors at work, of this process and its children that
        have ended."""
        of = psutil.cpu_times()._asdict()
        # a guest's time is in the user's already
        resting = {"idle", "iowait", "guest", "guest_nice"}
        return (
            time.perf_counter(),
            sum(s for name, s in of.items() if name not in resting),
            sum(os.times()[:4]),
        )

    def fraction(self):
        """0 to 1, of all processors."""
        wall, busy, own = (now - then for now, then in zip(self.now(), self.start))
        return min(1.0, max(0.0, (busy - own) / (wall * psutil.cpu_count())))


def expect_quiet(noisy, patience=PATIENCE):
    """Wait for a quiet machine. Raises UserError where it stays busy, unless `noisy`."""
    for _ in range(patience):
        others = Others()
        time.sleep(1)
        share = others.share()
        if share <= QUIET or noisy:
            break
    if share > QUIET:
        busy = f"other processes use {share:.0%} of this machine; expected at most {QUIET:.0%}"
        if not noisy:
            raise UserError(f"{busy}: end them, or measure all the same with --noisy")
        cli.warn(f"{busy}: figures will be wrong")
