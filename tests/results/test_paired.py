"""Comparing row by row: the interval holds the true difference as often as it says, and the verdict follows from it."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit
from scipy.stats import binomtest

from workbench.results import compare, compare_rows, rows_in_common
from workbench.results.paired import paired_interval
from workbench.scoring import pack_rows

# --- simulated runs with a known truth: logit of a row's score = its difficulty, the method, the seed
TYPICAL = {"level": 0.5, "gap": 0.3, "difficulty": 2.0, "method": 0.5}  # about 58 %, the second method 4 points better
EASY = {"level": 3.5, "gap": 0.5, "difficulty": 1.5, "method": 0.3}  # about 94 % and 96 %: few rows differ
ALIKE = {"level": 0.0, "gap": 0.0, "difficulty": 0.3, "method": 0.0}  # a row is chance, and the methods are one
VARIED = {"level": 1.0, "gap": 0.2, "difficulty": 4.0, "method": 1.0}  # most rows are always right or always wrong


@cache
def normal(size: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(size)


def truth(case: dict, level: float, seed_sd: float) -> float:
    """The share of all rows over all seeds."""
    sd = np.sqrt(case["difficulty"] ** 2 + case["method"] ** 2 + seed_sd**2)
    return float(expit(level + sd * normal(1_000_000)).mean())


def seed_sd(case: dict, points: float) -> float:
    """The logits that move a score by so many points."""
    shares = expit(case["level"] + case["difficulty"] * normal(1_000_000))
    return points / 100 / float((shares * (1 - shares)).mean())


def simulated(case: dict, seeds: tuple[int, int], rows: int, points: float, runs: int):
    """Boolean arrays (runs, seeds, rows) of two methods, and the true difference."""
    draw, sd = np.random.default_rng(0), seed_sd(case, points)
    difficulty = case["difficulty"] * draw.standard_normal((runs, 1, rows))
    levels, methods = (case["level"], case["level"] + case["gap"]), []
    for level, count in zip(levels, seeds, strict=True):
        own = case["method"] * draw.standard_normal((runs, 1, rows)) + sd * draw.standard_normal((runs, count, 1))
        share = expit(level + difficulty + own)
        methods.append(draw.random(share.shape, dtype=np.float32) < share)
    first, second = (truth(case, level, sd) for level in levels)
    return *methods, first - second


def coverage(case: dict, seeds: tuple[int, int], rows: int, points: float, runs: int) -> float:
    """How many per cent of the intervals hold the true difference."""
    parts = [simulated(case, seeds, rows, points, runs)]
    hits = [(low <= true) & (true <= high) for one, two, true in parts for low, high in [paired_interval(one, two)]]
    return 100 * float(np.concatenate(hits).mean())


@pytest.mark.parametrize(
    ("seeds", "rows", "points"),
    [
        ((1, 1), 240, 0),
        ((3, 3), 240, 0),
        ((3, 3), 240, 2),
        ((3, 3), 240, 5),
        ((3, 3), 1000, 0),
        ((3, 3), 1000, 2),
        ((3, 3), 1000, 5),
        ((5, 5), 240, 0),
        ((5, 5), 240, 2),
        ((5, 5), 240, 5),
    ],
)
def test_95_of_100_intervals_hold_the_true_difference(seeds, rows, points):
    assert 93 <= coverage(TYPICAL, seeds, rows, points, 2000) <= 97


@pytest.mark.slow
@pytest.mark.parametrize("case", [TYPICAL, EASY, ALIKE, VARIED])
@pytest.mark.parametrize("seeds", [(1, 1), (3, 3), (5, 5), (3, 5)])
@pytest.mark.parametrize("rows", [240, 1000])
def test_they_do_so_for_easy_and_for_varied_rows_and_for_methods_that_are_alike(case, seeds, rows):
    for points in (0,) if seeds == (1, 1) else (0, 2, 5):
        assert 92.5 <= coverage(case, seeds, rows, points, 2000) <= 98.5, points


def test_resampling_three_seeds_would_be_too_narrow():
    """What the small-sample correction is for: the percentiles of a bootstrap over seeds and rows."""
    first, second, true = simulated(TYPICAL, (3, 3), 1000, 5, 200)
    draw, hits = np.random.default_rng(0), 0
    for one, two in zip(first, second, strict=True):
        seeds, rows = draw.integers(3, size=(2, 200, 3, 1)), draw.integers(1000, size=(200, 1, 1000))
        resampled = one[seeds[0], rows].mean((1, 2)) - two[seeds[1], rows].mean((1, 2))
        low, high = np.quantile(resampled, [0.025, 0.975])
        hits += low <= true <= high
    assert hits / 200 < 0.9


def test_it_holds_for_scores_between_0_and_1():
    """As NDCG is: here the share of five tries that a row gets right."""
    *methods, true = simulated(TYPICAL, (3, 3), 240, 2, 2000)
    low, high = paired_interval(*(each.reshape(5, 400, 3, 240).mean(0) for each in methods))
    assert 0.92 <= ((low <= true) & (true <= high)).mean() <= 0.98
    as_numbers = paired_interval(*(each.astype(float) for each in methods))
    assert np.allclose(as_numbers, paired_interval(*methods))


# --- verdicts


def runs(right: int, rows: int, seeds: int = 1) -> np.ndarray:
    """The first rows are right, with every seed."""
    return np.tile(np.arange(rows) < right, (seeds, 1))


def test_methods_that_agree_on_all_rows_are_on_par_where_there_are_enough_rows():
    same = runs(700, 1000, 3)
    found = compare(same, same)
    assert found.verdict == "on par" and found.difference == 0 and found.low < 0 < found.high
    few = compare(same[:, :20], same[:, :20])
    assert few.verdict == "undecided" and 20 < few.rows_needed < 1000


def test_a_clear_difference_is_named_from_both_sides():
    lora, full = runs(600, 1000, 3), runs(700, 1000, 3)
    worse, better = compare(lora, full), compare(full, lora)
    assert (worse.verdict, better.verdict) == ("worse", "better")
    assert better.difference == pytest.approx(10) and (worse.low, worse.high) == pytest.approx(
        (-better.high, -better.low)
    )
    assert worse.in_words("lora", "full") == better.in_words("full", "lora")
    assert better.in_words("full", "lora").startswith("full is 10.0 points better (95 % interval 8.")
    assert better.in_words("full", "lora").endswith("3 seeds, 1,000 rows)")


def test_a_difference_within_the_margin_is_on_par_and_says_who_is_ahead():
    found = compare(runs(715, 1000), runs(700, 1000))
    assert found.verdict == "on par" and found.excludes_zero
    words = found.in_words("full", "lora")
    assert (
        words.startswith("full and lora are on par: within 3 points (") and "; full ahead, 1 seed, 1,000 rows" in words
    )
    assert compare(runs(715, 1000), runs(700, 1000), margin=1.0).verdict == "better"


def test_the_rows_that_would_decide_do_decide():
    first, second, _ = simulated(TYPICAL | {"gap": 0.0}, (1, 1), 200, 0, 1)
    found = compare(first[0], second[0])
    assert found.verdict == "undecided" and found.rows_needed > 400
    times = found.rows_needed // 200
    for copies, decided in ((times, False), (times + 1, True)):
        more = [np.tile(right[0], copies) for right in (first, second)]
        assert (compare(*more).verdict != "undecided") == decided
    assert f"about {float(f'{found.rows_needed:.1e}'):,.0f} rows would decide" in found.in_words("full", "lora")


def test_seeds_that_differ_too_much_ask_for_more_seeds():
    first = np.stack([runs(right, 1000)[0] for right in (500, 700, 900)])
    found = compare(first, runs(690, 1000, 3))
    assert found.verdict == "undecided" and found.rows_needed is None
    assert "more seeds are needed, not more rows" in found.in_words("full", "lora")


def test_one_seed_of_each_has_the_exact_test():
    first, second = runs(130, 240), np.roll(runs(130, 240), 7)
    found = compare(first, second)
    assert found.p == binomtest(7, 14).pvalue == 1.0 and found.seeds == (1, 1)
    ahead = compare(runs(20, 240), runs(8, 240))
    assert ahead.p == pytest.approx(2 / 2**12) and "McNemar p = 0.00049" in ahead.in_words("full", "lora")
    assert compare(first, first).p == 1.0 and compare(runs(9, 240, 3), runs(8, 240, 3)).p is None


@given(arrays(bool, st.tuples(st.integers(2, 4), st.just(25))), arrays(bool, st.tuples(st.integers(2, 4), st.just(25))))
def test_the_interval_mirrors_and_is_never_empty(first, second):
    one, other = compare(first, second), compare(second, first)
    assert one.low < one.high and one.low <= one.difference + 1e-9 and one.difference - 1e-9 <= one.high
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert compare(first, second) == one


@given(arrays(bool, (3, 40)), arrays(bool, (3, 40)), st.permutations(range(40)), st.permutations(range(3)))
def test_the_order_of_rows_and_of_seeds_says_nothing(first, second, rows, seeds):
    found, other = compare(first, second), compare(first[seeds][:, rows], second[:, rows])
    assert (other.low, other.high) == pytest.approx((found.low, found.high))


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (runs(1, 9)[0], runs(1, 9), "boolean arrays"),
        (runs(1, 9).astype(float), runs(1, 9), "boolean arrays"),
        (runs(1, 9), runs(1, 8), "the same rows"),
        (runs(1, 1), runs(1, 1), "two at least"),
        (runs(1, 9), runs(1, 9, 3), "1 and 3 seeds: give one of each"),
        (runs(1, 9)[:0], runs(1, 9), "the same rows"),
    ],
)
def test_what_cannot_be_compared_is_refused(first, second, words):
    with pytest.raises(ValueError, match=words):
        compare(first, second)
    with pytest.raises(ValueError, match="margin"):
        compare(runs(1, 9), runs(1, 9), margin=0)


# --- stored rows


def stored(right: np.ndarray, seed: int = 0, **changes) -> dict:
    return {"method": "lora", "seed": seed, "task_sha256": "a", "right": pack_rows(right)} | changes


def test_a_run_on_the_first_rows_is_compared_on_these():
    study, live = stored(runs(700, 1000)[0]), stored(runs(100, 240)[0])
    first, second = rows_in_common([live], [study, study | {"seed": 1}])
    assert first.shape == (1, 240) and second.shape == (2, 240) and second.all() and first.sum() == 100
    found = compare_rows([live], [study])
    assert found.verdict == "worse" and found.rows == 240


def test_other_training_rows_with_the_same_test_rows_can_be_compared():
    one, other = stored(runs(5, 9)[0], test_sha256="t"), stored(runs(6, 9)[0], task_sha256="b", test_sha256="t")
    assert compare_rows([one], [other]).rows == 9
    with pytest.raises(ValueError, match="other test rows"):
        compare_rows([one], [other | {"test_sha256": "u"}])
    with pytest.raises(ValueError, match="other test rows"):
        compare_rows([stored(runs(5, 9)[0])], [stored(runs(5, 9)[0], task_sha256="b")])


def test_labels_have_rows_of_their_own():
    rows = [stored(runs(5, 300)[0], right_labels=pack_rows(runs(200, 300)[0]))]
    assert rows_in_common(rows, rows, "right_labels")[0].sum() == 200


@pytest.mark.parametrize("lacking", [{"right": None}, {"right": ""}])
def test_rows_of_earlier_versions_cannot_be_compared_and_say_so(lacking):
    with pytest.raises(ValueError, match=r"seed 0, has no 'right'.*Train it again"):
        compare_rows([stored(runs(5, 9)[0])], [stored(runs(5, 9)[0]) | lacking])


def test_two_rates_of_one_seed_are_not_two_seeds():
    row = stored(runs(5, 9)[0])
    with pytest.raises(ValueError, match="the same seed"):
        compare_rows([row, row], [row])
    with pytest.raises(ValueError, match="no row of one"):
        compare_rows([], [row])


def test_an_interval_of_few_rows_stays_within_what_a_difference_can_be():
    right = np.array([[True, False, False, False]])
    found = compare(right, ~right)
    assert -100 <= found.low < found.difference < found.high <= 100
