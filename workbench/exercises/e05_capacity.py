"""Exercise 05.capacity: the smallest rank whose adapters could hold what is to be learnt."""

from workbench.exercises.framework import Exercise, Mistake
from workbench.tasks.tasks import SWEEP_FACTS, information_bits

# The linear layers of one block of SmolLM2-135M, (out, in), and the number of blocks.
BLOCK = ((576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536))
BLOCKS = 30

ALL_LAYERS = BLOCKS * sum(out + into for out, into in BLOCK)
ONE_LAYER = sum(BLOCK[0])
BITS = information_bits(SWEEP_FACTS)

EXERCISE = Exercise(
    id="05.capacity",
    title="the smallest rank that could hold it",
    difficulty="medium",
    minutes=8,
    task="""\
A data set holds some `bits` of information, and a trained parameter holds about `bits_per_parameter` of them. `shapes`
lists the adapted layers as `(out, in)`; on each, an adapter of rank `r` has a matrix `B` of `out` by `r` and a matrix
`A` of `r` by `in`.

Write `smallest_rank(bits, shapes, bits_per_parameter=2)`: the smallest rank, the same on all layers, whose adapters
could hold the bits. There is no rank below 1.""",
    function="smallest_rank",
    stub="""\
def smallest_rank(bits, shapes, bits_per_parameter=2):
    # shapes: list of (out, in), for example [(576, 576), (192, 576)]; returns a whole number
    ...
""",
    solution="""\
import math


def smallest_rank(bits, shapes, bits_per_parameter=2):
    parameters_a_rank = sum(out + into for out, into in shapes)
    return max(1, math.ceil(bits / (bits_per_parameter * parameters_a_rank)))
""",
    explanation="It is a bound, not a promise: by this rule a smaller adapter cannot hold the data, and training may "
    "fail to put them into a larger one. At laptop scale the bound is low. Rank 1 on one "
    f"{BLOCK[0][0]} x {BLOCK[0][1]} layer has {ONE_LAYER:,} parameters; rank 1 on all {BLOCKS * len(BLOCK)} linear "
    f"layers of the 135M model has {ALL_LAYERS:,}, with room for {2 * ALL_LAYERS / BITS:.0f} times the {BITS:,.0f} "
    "bits of this lesson's facts. To see an adapter that is too small you have to shrink it to a layer or two.",
    hints=(
        "Start with one layer of 576 x 576 and rank 1: how many numbers do B and A hold together? At rank 2?",
        "Every rank adds out + in parameters on each layer. Sum that over the layers, multiply by bits_per_parameter: "
        "so many bits a rank adds.",
        "Divide the bits by that and round up: math.ceil. With nothing to learn that is 0; max(1, ...) corrects that.",
    ),
    cases=(
        (2551, [(576, 576)]),
        (6912, [(576, 576)]),
        (100_000, [(192, 576), (1536, 576)], 4),
        (0, [(576, 576), (192, 576)]),
    ),
    wrong=(
        Mistake(
            """\
def smallest_rank(bits, shapes, bits_per_parameter=2):
    return max(1, bits // (bits_per_parameter * sum(out + into for out, into in shapes)))
""",
            "You round down, which leaves no room for the last bits: 2551 bits need 1.1 ranks of one 576 x 576 layer, "
            "and ranks are whole numbers. Round up.",
        ),
        Mistake(
            """\
def smallest_rank(bits, shapes, bits_per_parameter=2):
    return max(1, round(bits / (bits_per_parameter * sum(out + into for out, into in shapes))))
""",
            "You round to the nearest rank, which may be the one below. What is left over needs a rank too: round up.",
        ),
        Mistake(
            """\
def smallest_rank(bits, shapes, bits_per_parameter=2):
    return bits // (bits_per_parameter * sum(out + into for out, into in shapes)) + 1
""",
            "Nearly: rounding down and adding 1 is one rank too many when the bits fit exactly, as 6912 bits do in "
            "rank 3 of a 576 x 576 layer. math.ceil rounds up only where something is left over.",
        ),
        Mistake(
            """\
import math


def smallest_rank(bits, shapes, bits_per_parameter=2):
    return max(1, math.ceil(bits / (bits_per_parameter * sum(out * into for out, into in shapes))))
""",
            "out * in is the size of the full matrix. The adapter's two have r * out and r * in numbers: a rank costs "
            "out + in.",
        ),
        Mistake(
            """\
import math


def smallest_rank(bits, shapes, bits_per_parameter=2):
    return max(1, math.ceil(bits / (bits_per_parameter * sum(into for out, into in shapes))))
""",
            "You count A alone. B has out numbers for each rank, and they hold bits as well.",
        ),
        Mistake(
            """\
import math


def smallest_rank(bits, shapes, bits_per_parameter=2):
    return max(1, math.ceil(bits / (bits_per_parameter * sum(out for out, into in shapes))))
""",
            "You count B alone. A has in numbers for each rank, and they hold bits as well.",
        ),
        Mistake(
            """\
import math


def smallest_rank(bits, shapes, bits_per_parameter=2):
    return max(1, math.ceil(bits / sum(out + into for out, into in shapes)))
""",
            "You give each parameter one bit. It holds bits_per_parameter of them: multiply the parameters by that.",
        ),
        Mistake(
            """\
import math


def smallest_rank(bits, shapes, bits_per_parameter=2):
    return max(1, math.ceil(bits / (2 * sum(out + into for out, into in shapes))))
""",
            "You always take 2 bits a parameter. That is only the default: use bits_per_parameter.",
        ),
        Mistake(
            """\
import math


def smallest_rank(bits, shapes, bits_per_parameter=2):
    return math.ceil(bits / (bits_per_parameter * sum(out + into for out, into in shapes)))
""",
            "With nothing to learn you return rank 0, which no adapter has: the smallest is 1.",
        ),
        Mistake(
            """\
import math


def smallest_rank(bits, shapes, bits_per_parameter=2):
    out, into = shapes[0]
    return max(1, math.ceil(bits / (bits_per_parameter * (out + into))))
""",
            "You count the first layer alone. The bits may be spread over all adapted layers: sum over shapes.",
        ),
    ),
)
