"""Whatever an answer to an exercise does or gives back, the check ends in a verdict in words."""

import itertools
import sys

import pytest

from workbench.exercises import check, identifiers
from workbench.exercises.framework import Result


def stop(*_):
    sys.exit("done")


def fail(*_):
    raise KeyError("no\nwords")


class UnreadableError(Exception):
    def __str__(self):
        raise ValueError


def raise_unreadable(*_):
    raise UnreadableError


class Odd:
    """Something that does `action` whenever it is looked at."""

    def __init__(self, action):
        self.action = action

    def __repr__(self):
        return self.action()

    __eq__ = __float__ = __len__ = __iter__ = __str__ = __bool__ = __repr__
    __hash__ = None


class OddFunction:
    def __init__(self, action):
        self.action = action

    def __call__(self, *_):
        raise ValueError("inside")

    def __getattr__(self, name):
        raise self.action()


@pytest.mark.parametrize("id", identifiers())
@pytest.mark.parametrize("action", [stop, fail, raise_unreadable, lambda *_: exec("raise GeneratorExit"), lambda *_: 3])
def test_values_that_raise_or_exit_when_looked_at_are_wrong_and_no_error(id, action):
    for answer in (lambda *_: Odd(action), lambda *_: [Odd(action)], lambda *_: (Odd(action), 1)):
        verdict = check(id, answer)
        assert isinstance(verdict, Result) and not verdict and "cannot be shown" in verdict.message


@pytest.mark.parametrize("id", identifiers())
def test_functions_that_exit_or_raise_oddly_are_told_so(id):
    for answer in (stop, fail, raise_unreadable, OddFunction(lambda: 1 / 0)):
        verdict = check(id, answer)
        assert not verdict and verdict.message.startswith("Your function raised ")


def test_an_endless_answer_and_a_giant_one_are_shown_in_part():
    for id in identifiers():
        assert not check(id, lambda *_: itertools.count())
        verdict = check(id, lambda *_: [0] * 10**6)
        assert not verdict and len(verdict.message) < 2000


def test_a_stop_is_a_stop():
    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check("00.size", interrupted)
