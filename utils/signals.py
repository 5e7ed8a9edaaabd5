"""Ctrl-C and SIGTERM: the step under way is finished and saved first."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Stoppable:
    """Work that a signal asks to stop: `stop` is then its number."""

    stop = None
    prints = True  # whether this process says so

    def ask_to_stop(self, number: int, frame: object) -> None:
        """A signal handler; a second such signal stops at once."""
        self.stop = number
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)
        if self.prints and os.getpid() == self.pid:
            # not print(), which may be interrupted within itself
            os.write(2, b"\nstopping: the step or validation under way is finished and saved\n")

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Within it SIGINT and SIGTERM ask to stop."""
        self.pid = os.getpid()  # not that of the workers, which get the signals too
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        heard = [n for n in before if before[n] not in (signal.SIG_IGN, None)]
        for number in heard:  # one that is ignored, or not Python's, stays so
            signal.signal(number, self.ask_to_stop)
        try:
            yield
        finally:
            for number in heard:
                signal.signal(number, before[number])
