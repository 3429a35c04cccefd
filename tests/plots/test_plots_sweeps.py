"""Figures of rank sweeps: what is drawn is what the rows say, whatever seeds, rates and failures they hold."""

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from support.rows import RANKS, SEEDS, STUDY, row
from workbench.plots import style, sweeps as figures, training
from workbench.results import rows as sweep_rows

GREY = [0.299, 0.587, 0.114]


SINGLE = [row(rank) for rank in RANKS]
DIVERGED = [*STUDY, row(64, 3, status="diverged"), row(8, learning_rate=3e-2, status="diverged")]
FULL = [row(None, seed, learning_rate=1e-4) for seed in SEEDS]
LIVE = [row(3, 7), row(8, 8)]
FEW = [row(rank, seed, targets="q_proj", layers=[15]) for rank in (1, 2, 4) for seed in SEEDS]
FEW += [row(2, seed, targets="attention", layers=[0, 10, 29]) for seed in SEEDS]
TARGETS = [row(rank, seed, targets=name) for name, rank in (("attention", 21), ("mlp", 13)) for seed in SEEDS]
ALPHAS = [row(8, seed, alpha=alpha) for alpha in (8, 16, 64) for seed in SEEDS]
HISTORIES = {f"r = {r}": [{"step": s, "loss": 3 / (1 + s * r)} for s in range(1, 21)] for r in RANKS}
MANY = {f"r = {r}, seed {seed}": HISTORIES["r = 8"] for r in range(1, 9) for seed in SEEDS}


def against_rank(rows, live=()):
    """Each rank at its own best rate."""
    return figures.against([row for group in sweep_rows.by_best_rate(rows).values() for row in group], live)


def bits_against_parameters(rows, live=(), bits=2551.0, each=2.0):
    return figures.bits_against_parameters(rows, live, bits, each)


FIGURES = {
    "against_rank": lambda: against_rank(STUDY + FULL, LIVE),
    "against_rank, one seed": lambda: against_rank(SINGLE),
    "against_rank, one row": lambda: against_rank([row()]),
    "against_rank, diverged": lambda: against_rank(DIVERGED, [row(4, status="diverged")]),
    "against_rank, live alone": lambda: against_rank([row(status="diverged")], LIVE),
    "against_rank, full alone": lambda: against_rank(FULL),
    "against rank, three measures": lambda: figures.against(STUDY, measures=("loss", "exact_match", "forgetting")),
    "against learning rate": lambda: figures.against(STUDY[:3], LIVE, "learning_rate", mark=2e-3),
    "against alpha": lambda: figures.against(ALPHAS, (), "alpha", mark=64),
    "bits": lambda: bits_against_parameters(STUDY + FEW + FULL, LIVE),
    "bits, one seed": lambda: bits_against_parameters(SINGLE),
    "bits, one small adapter": lambda: bits_against_parameters(FEW[:1]),
    "bits, diverged": lambda: bits_against_parameters(DIVERGED),
    "bits, live alone": lambda: bits_against_parameters([], LIVE),
    "by_targets": lambda: figures.by_targets(TARGETS + FULL),
    "by_targets, one seed": lambda: figures.by_targets([row(targets="mlp"), row(targets="attention", rslora=True)]),
    "by_targets, diverged": lambda: figures.by_targets([*TARGETS, row(8, status="diverged")]),
    "sweep_losses": lambda: training.sweep_losses(HISTORIES, 20, ": about 9 s left"),
    "sweep_losses, 24 runs": lambda: training.sweep_losses(MANY, 20),
    "sweep_losses, none yet": lambda: training.sweep_losses({}, 20),
}


def lines(axes, start: str) -> list[tuple[list, list]]:
    """(x, y) of the lines with a label that starts with `start`."""
    found = [line for line in axes.lines if str(line.get_label()).startswith(start)]
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in found]


# --- against rank -----------------------------------------------------------------------------------------------


def test_each_rank_is_drawn_at_its_own_best_rate():
    """Rank 8 does better at 8e-3, and one lucky seed 1 at a poor rate does not change which rate is best."""
    rows = [row(1), row(8), row(8, learning_rate=8e-3, exact_match=0.97, loss=0.06)]
    rows += [row(8, learning_rate=5e-4, exact_match=0.1), row(8, 1, learning_rate=5e-4, exact_match=1.0)]
    loss, exact = against_rank(rows).axes
    assert lines(exact, "mean") == [([1, 8], [rows[0]["exact_match"], 0.97])]
    assert lines(loss, "mean") == [([1, 8], [rows[0]["loss"], 0.06])]


def test_the_lower_loss_decides_between_equal_scores():
    rows = [
        row(learning_rate=rate, exact_match=0.9, loss=loss) for rate, loss in ((1e-3, 0.3), (2e-3, 0.2), (4e-3, 0.4))
    ]
    assert [one["learning_rate"] for one in sweep_rows.at_best_rate(rows)] == [2e-3]


def test_where_several_rates_have_all_seeds_the_mean_decides():
    rows = [row(8, seed, learning_rate=rate, exact_match=score) for rate, seed, score in (
        (1e-3, 0, 0.8), (1e-3, 1, 0.5), (2e-3, 0, 0.7), (2e-3, 1, 0.7), (4e-3, 0, 0.79), (5e-4, 1, 0.9),
    )]  # fmt: skip
    assert sweep_rows.best_rate(rows) == 2e-3
    assert sweep_rows.best_rate(rows[2:]) == 4e-3, "the leader on the first seed has no other yet"


def test_line_and_band_are_mean_and_range_of_the_seeds():
    exact = against_rank(STUDY).axes[1]
    ((x, y),) = lines(exact, "mean")
    own = {
        rank: [one["exact_match"] for one in STUDY if (one["rank"], one["learning_rate"]) == (rank, 2e-3)]
        for rank in RANKS
    }
    assert x == list(RANKS) and y == pytest.approx([np.mean(own[rank]) for rank in RANKS])
    band = next(c for c in exact.collections if isinstance(c, matplotlib.collections.PolyCollection))
    corners = band.get_paths()[0].vertices
    for rank in RANKS:
        heights = corners[corners[:, 0] == rank, 1]
        assert (min(heights), max(heights)) == pytest.approx((min(own[rank]), max(own[rank])))


def test_ticks_are_the_ranks_and_stars_are_the_learners_runs():
    loss, exact = against_rank(STUDY, LIVE).axes
    assert list(exact.get_xticks()) == list(RANKS) and exact.get_xscale() == "log"
    exact.figure.canvas.draw()
    assert [label.get_text() for label in exact.get_xticklabels()] == ["1", "2", "8", "64"]
    for axes, measure in ((loss, "loss"), (exact, "exact_match")):
        assert lines(axes, "your run") == [([3, 8], [one[measure] for one in LIVE])]
    assert all(text in exact.figure.alt for text in ("your run at 3", "your run at 8"))
    assert not lines(against_rank(STUDY).axes[0], "your run")


def test_full_fine_tuning_is_a_level_line_and_has_no_rank():
    exact = against_rank(STUDY + FULL).axes[1]
    ((_, heights),) = lines(exact, "full")
    assert heights == pytest.approx([np.mean([one["exact_match"] for one in FULL])] * 2)
    assert list(exact.get_xticks()) == list(RANKS)


def test_runs_that_did_not_finish_are_counted_and_not_drawn():
    clean, with_failures = (figures.against(rows).axes[1] for rows in (STUDY, DIVERGED))
    assert lines(clean, "mean") == lines(with_failures, "mean")
    words = with_failures.figure.alt
    assert f"did not finish: 2 of {len(DIVERGED)} runs" in words and "did not finish" not in clean.figure.alt
    # A stopped run has scores, but not those of its setting.
    stopped = row(2, 9, status="interrupted", exact_match=0.0)
    assert lines(figures.against([*STUDY, stopped]).axes[1], "mean") == lines(clean, "mean")
    assert figures.against(STUDY, [stopped]).alt.count("did not finish") == 1


def test_a_ring_marks_a_stored_value_only():
    (x, y), *rest = lines(figures.against(ALPHAS, (), "alpha", ("loss",), mark=16).axes[0], "chosen")
    assert not rest and x == [16] and y == pytest.approx([np.mean([one["loss"] for one in ALPHAS[3:6]])])
    assert not lines(figures.against(ALPHAS, (), "alpha", ("loss",), mark=17).axes[0], "chosen")


@pytest.mark.parametrize("draw", [against_rank, bits_against_parameters, figures.by_targets])
@pytest.mark.parametrize("rows", [[], [row(status="diverged")]])
def test_nothing_to_draw_is_a_sentence(draw, rows):
    with pytest.raises(ValueError, match=r"^No finished run has .* yet; train some, or draw other rows\.$"):
        draw(rows)


# --- bits -------------------------------------------------------------------------------------------------------


def test_bits_stand_over_parameters_one_line_a_setting():
    axes = bits_against_parameters(STUDY + FEW, LIVE).axes[0]
    ((x, y),) = lines(axes, "q_proj, layer 15")
    assert x == [1152, 2304, 4608]
    assert y == pytest.approx([2551 * (0.52 + 0.03 * np.log2(rank)) for rank in (1, 2, 4)])
    assert len(lines(axes, "attention, 3 layers (0-29)")) == 1
    ((x, y),) = lines(axes, "all-linear, all layers")
    assert x == [305_280 * rank for rank in RANKS]
    assert y == pytest.approx([2551 * (0.52 + 0.03 * np.log2(rank)) for rank in RANKS]), "each size at its best rate"
    assert lines(axes, "your run") == [
        ([one["trainable_parameters"] for one in LIVE], [one["memorised_bits"] for one in LIVE])
    ]
    looks = [(line.get_color(), line.get_marker()) for line in axes.lines if line.get_marker() not in ("None", "*")]
    assert len(looks) == len(set(looks)) == 3


def test_full_fine_tuning_is_not_taken_for_an_adapter():
    axes = bits_against_parameters(STUDY + FULL).axes[0]
    assert len(lines(axes, "full fine-tuning")) == 1 and len(lines(axes, "all-linear, all layers")[0][0]) == len(RANKS)


@pytest.mark.parametrize(("bits", "each"), [(2551.0, 2.0), (9000.0, 1.0)])
def test_the_bound_meets_what_there_is_to_learn_where_the_shade_ends(bits, each):
    axes = bits_against_parameters(FEW, bits=bits, each=each).axes[0]
    ((x, y),) = lines(axes, f"{each:g} bits a parameter")
    assert np.allclose(y, each * np.array(x)) and y[-1] == pytest.approx(bits)
    assert lines(axes, "all there is") == [([0, 1], [bits, bits])]
    shade = next(patch for patch in axes.patches if isinstance(patch, Rectangle))
    assert shade.get_x() + shade.get_width() == pytest.approx(bits / each)
    (label,) = [text for text in axes.texts if text.get_text() == "too small for all of it"]
    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    axes.figure.draw(renderer)
    words, inside = label.get_window_extent(renderer), axes.get_window_extent(renderer)
    assert inside.x0 <= words.x0 and words.x1 <= axes.transData.transform((bits / each, 0))[0]
    assert axes.transData.transform((1, bits))[1] <= words.y0 and words.y1 <= inside.y1, "above all data"
    assert f"fewer than {bits / each:,.0f} parameters" in axes.figure.alt


def test_rows_without_bits_are_left_out():
    live = [{key: value for key, value in row(4).items() if key != "memorised_bits"}]
    axes = bits_against_parameters([*SINGLE, row(2, memorised_bits=None)], live).axes[0]
    assert not lines(axes, "your run") and len(lines(axes, "all-linear")[0][0]) == len(RANKS)


# --- targets and losses -----------------------------------------------------------------------------------------


def test_targets_show_each_seed_the_mean_and_the_parameters():
    axes = figures.by_targets([*TARGETS, row(21, learning_rate=9e-3, targets="attention")]).axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    bars = [line for line in axes.lines if line.get_marker() == "None"]
    for place, group in enumerate((TARGETS[:3], TARGETS[3:])):
        scores = [one["exact_match"] for one in group]
        assert list(dots[place].get_xdata()) == scores and set(dots[place].get_ydata()) == {place}
        assert bars[place].get_xdata() == pytest.approx([np.mean(scores)] * 2)
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "attention, r = 21\n2,419,200 parameters",
        "mlp, r = 13\n2,471,040 parameters",
    ]


def test_curves_go_from_light_to_dark_in_the_order_given():
    axes = training.sweep_losses(HISTORIES, 20, ": about 9 s left").axes[0]
    assert [line.get_label() for line in axes.lines] == list(HISTORIES)
    brightness = [np.dot(to_rgb(line.get_color()), GREY) for line in axes.lines]
    assert brightness == sorted(brightness, reverse=True) and brightness[0] < 0.75 and len(set(brightness)) == 4
    for line, history in zip(axes.lines, HISTORIES.values(), strict=True):
        assert list(line.get_ydata()) == [entry["loss"] for entry in history]
    assert axes.get_title(loc="left") == "Training loss: about 9 s left" and axes.get_xlim() == (0, 21)
    assert "r = 64 is at 0.00" in axes.figure.alt


def test_the_map_of_colours_falls_evenly_in_grey():
    shades = style.LIGHT_TO_DARK(np.linspace(0, 1, 64))[:, :3] @ GREY
    assert (np.diff(shades) < 0).all()


def test_settings_in_words():
    assert sweep_rows.setting_in_words(row()) == "all-linear"
    assert sweep_rows.setting_in_words(row(targets="mlp", rslora=True)) == "mlp, rsLoRA"
    assert sweep_rows.setting_in_words(row(targets="q_proj", layers=[3])) == "q_proj, layer 3"
    assert sweep_rows.setting_in_words(row(targets="q_proj", layers=[3, 4, 9])) == "q_proj, 3 layers (3-9)"
    assert sweep_rows.setting_in_words(row(None)) == "full fine-tuning"
