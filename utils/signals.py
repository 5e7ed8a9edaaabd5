"""Ctrl-C and SIGTERM: work that is finished and saved before it stops."""

import os
import signal
from contextlib import contextmanager


class Stoppable:
    """Work that a signal asks to stop: `stop` is then its number."""

    stop = None
    speaks = True  # whether this process says so

    def ask_to_stop(self, number, frame):
        """A signal handler: the step under way is finished and saved first; a second such signal
        stops at once."""
        self.stop = number
        signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        )
        # print() may be interrupted within itself
        if self.speaks and os.getpid() == self.pid:
            os.write(
                2, b"\nstopping: the step or validation under way is finished and saved first\n"
            )

    @contextmanager
    def stoppable(self):
        """Within it SIGINT and SIGTERM ask the training to stop."""
        self.pid = os.getpid()  # not that of the workers, which get the signals too
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        # One that is ignored stays so; None is a handler that Python knows nothing of.
        before = {n: was for n, was in before.items() if was not in (signal.SIG_IGN, None)}
        for number in before:
            signal.signal(number, self.ask_to_stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
