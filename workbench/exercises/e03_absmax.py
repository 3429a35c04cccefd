"""Exercise 03.absmax: the codes of one block, symmetric and with absmax, in any number of bits."""

from workbench.exercises.framework import Exercise, Mistake

EXERCISE = Exercise(
    id="03.absmax",
    title="the codes of one block",
    difficulty="medium",
    minutes=8,
    task="""\
With `bits` bits, symmetric integer quantization has the codes from `-L` to `L`, where `L = 2 ** (bits - 1) - 1`. The
largest magnitude in the block, absmax, gets code `L` or `-L`; every other value gets the nearest code on the same
scale.

Write `block_codes(values, bits)`: the codes of a block, a plain list of whole numbers. A block of zeros has
only zeros.""",
    function="block_codes",
    stub="""\
def block_codes(values, bits):
    # values: list of floats, one block; bits: 4 or 8, say; returns a list of whole numbers
    ...
""",
    solution="""\
def block_codes(values, bits):
    largest = 2 ** (bits - 1) - 1
    absmax = max(abs(value) for value in values)
    if absmax == 0:
        return [0] * len(values)
    return [round(value / absmax * largest) for value in values]
""",
    explanation="Stored are the codes and one absmax a block: value = code / L * absmax. One large value in the block "
    "makes every step of the scale coarser for all the others.",
    hints=(
        "With 4 bits L is 7. In the block [0.55, -1.0, 0.25] absmax is 1.0, so -1.0 gets -7. What do the others get?",
        "Divide by absmax, and the block runs from -1 to 1. Multiply by L, and it runs from -L to L.",
        "Python's round() gives the nearest whole number. Look out for absmax == 0 before you divide.",
    ),
    cases=(
        ([0.55, -1.0, 0.25], 4),
        ([0.011, -0.02, 0.013, 0.004], 4),
        ([0.011, -0.02, 0.013, 0.004], 8),
        ([0.3, 0.1, -0.05], 4),
        ([0.0, 0.0, 0.0], 4),
        ([8.0, 0.1, -0.2, 0.3], 4),
        ([-0.9, 0.4], 3),
    ),
    wrong=(
        Mistake(
            """\
def block_codes(values, bits):
    largest = 2 ** (bits - 1) - 1
    top = max(values)
    return [round(value / top * largest) if top else 0 for value in values]
""",
            "You divide by the largest value. Absmax is the largest magnitude: in [0.55, -1.0, 0.25] it is 1.0, and "
            "without abs() the -1.0 gets a code that does not exist.",
        ),
        Mistake(
            """\
def block_codes(values, bits):
    largest = 2 ** (bits - 1) - 1
    absmax = max(abs(value) for value in values)
    return [int(value / absmax * largest) if absmax else 0 for value in values]
""",
            "int() cuts off what stands behind the point, so every value moves towards zero. The nearest code is what "
            "round() gives.",
        ),
        Mistake(
            """\
def block_codes(values, bits):
    largest = 2 ** (bits - 1)
    absmax = max(abs(value) for value in values)
    return [round(value / absmax * largest) if absmax else 0 for value in values]
""",
            "Your scale ends at 2 ** (bits - 1), which is 8 for 4 bits. With -8 to 8 there are 17 codes, and 4 bits "
            "tell only 16 apart: subtract 1.",
        ),
        Mistake(
            """\
def block_codes(values, bits):
    largest = 2**bits - 1
    absmax = max(abs(value) for value in values)
    return [round(value / absmax * largest) if absmax else 0 for value in values]
""",
            "2 ** bits - 1 is the largest code when all are positive. Here half of the codes are negative, so only "
            "bits - 1 bits are left for the size.",
        ),
        Mistake(
            """\
def block_codes(values, bits):
    largest = 2 ** (bits - 1) - 1
    absmax = max(abs(value) for value in values)
    codes = [round(value / absmax * largest) if absmax else 0 for value in values]
    return [code / largest * absmax for code in codes]
""",
            "You went on and restored the values. The task asks for the codes, the whole numbers that are stored.",
        ),
    ),
)
