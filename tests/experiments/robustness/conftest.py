"""Processes that are killed, and a study that takes a second."""

import os
import signal
from pathlib import Path

import pytest
import torch

from experiments.cooperativity import one_round, rounds, simulation

ROOT = Path(__file__).parents[3]
TINY = one_round.Settings(
    simulation.Parameters(n_train=150, n_augmented=0, n_test=40, effect_ratio=3.0),
    n_members=2,
    epochs=1,
    max_excess=1e6,
    methods=("ivw",),
)


class Child:
    """A process that does something beside the test; forked, since imports take seconds."""

    def __init__(self, function, *arguments):
        self.status, self.pid = None, os.fork()
        if self.pid == 0:  # leaves by _exit alone, or it would go on with the tests
            code = 1
            try:
                torch.set_num_threads(1)  # a forked process has no pool of threads
                function(*arguments)
                code = 0
            except BaseException as error:
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
            finally:
                os._exit(code)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def wait(self):
        """Exit status, negative where a signal ended it."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status


@pytest.fixture(autouse=True)
def in_one_thread(one_thread):
    """All of these tests compare bit for bit."""


@pytest.fixture(scope="session")
def stored_round():
    """A round at the scale of the paper, read and not computed."""
    return rounds.load_round(ROOT / "book" / "results" / "simulation", "none", 0)
