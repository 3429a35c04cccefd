"""Exercise 01.rank: the smallest rank that is good enough, from the singular values alone."""

from workbench.exercises.framework import Exercise, Mistake

EXERCISE = Exercise(
    id="01.rank",
    title="the smallest rank that is good enough",
    difficulty="medium",
    minutes=8,
    task="""\
The singular values `s` of the wanted update (a list, largest first) tell how well *any* rank can do, before any
training. The best matrix of rank `r` misses a share of

$$\\text{error}(r) = \\sqrt{\\frac{s_{r+1}^2 + s_{r+2}^2 + \\dots}{s_1^2 + s_2^2 + \\dots}}$$

Write `smallest_rank(s, tolerance)`: the smallest rank, 1 or more, whose error is at most `tolerance`.""",
    function="smallest_rank",
    stub="""\
def smallest_rank(s, tolerance):
    # s: list of floats, largest first; tolerance: 0.1 means that 10 % may be missed
    ...
""",
    solution="""\
import math


def smallest_rank(s, tolerance):
    total = sum(value**2 for value in s)
    for rank in range(1, len(s) + 1):
        missed = sum(value**2 for value in s[rank:])
        if math.sqrt(missed / total) <= tolerance:
            return rank
""",
    explanation="The spectrum of the update decides which rank is enough: a fast-falling one needs a small rank, "
    "a flat one needs nearly all of it.",
    hints=(
        "With s = [4, 3] the sum of all squares is 25. Rank 1 misses the 3: which error is that?",
        "Python's s[rank:] is the list of singular values that rank leaves out.",
        "Try rank = 1, 2, 3, ... in a loop and return the first one whose error is small enough. The last rank, "
        "len(s), misses nothing.",
    ),
    cases=(
        ([4.0, 3.0], 0.61),
        ([4.0, 3.0], 0.3),
        ([8.0, 4.0, 2.0, 1.0, 0.5], 0.2),
        ([8.0, 4.0, 2.0, 1.0, 0.5], 0.05),
        ([1.0] * 10, 0.5),
        ([5.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], 0.45),
        ([3.0, 2.0, 1.0], 0.0),
    ),
    wrong=(
        Mistake(
            """\
def smallest_rank(s, tolerance):
    for rank in range(1, len(s) + 1):
        if sum(s[rank:]) / sum(s) <= tolerance:
            return rank
""",
            "You add up the singular values themselves. The error of a matrix adds up their squares: square each "
            "value, in the part that is missed and in the total, and take the root of the ratio.",
        ),
        Mistake(
            """\
def smallest_rank(s, tolerance):
    total = sum(value**2 for value in s)
    for rank in range(1, len(s) + 1):
        if sum(value**2 for value in s[rank:]) / total <= tolerance:
            return rank
""",
            "The square root is missing: you compare the squared error with the tolerance, so your ranks come out too "
            "small.",
        ),
        Mistake(
            """\
def smallest_rank(s, tolerance):
    total = sum(value**2 for value in s)
    for rank in range(len(s)):
        if (sum(value**2 for value in s[rank + 1:]) / total) ** 0.5 <= tolerance:
            return rank
""",
            "Your rank is one too small: leaving out s[rank + 1:] keeps rank + 1 singular values. Python counts from "
            "0, ranks count from 1.",
        ),
        Mistake(
            """\
def smallest_rank(s, tolerance):
    total = sum(value**2 for value in s)
    for rank in range(1, len(s) + 1):
        if (sum(value**2 for value in s[:rank]) / total) ** 0.5 >= 1 - tolerance:
            return rank
""",
            "You ask whether the kept part is at least 1 - tolerance. Kept and missed parts add up in squares, not in "
            "sizes: with s = [4, 3] and rank 1, 0.8 is kept and 0.6 is missed. Measure the missed part, s[rank:].",
        ),
    ),
)
