"""Exercise 04.bytes: the bytes that a training step holds besides activations."""

from workbench.exercises.framework import Exercise, Mistake

EXERCISE = Exercise(
    id="04.bytes",
    title="what training must hold besides activations",
    difficulty="medium",
    minutes=8,
    task="""\
Just before the optimizer changes the weights (from the second step on), memory holds

- `frozen` numbers that never change, in `frozen_bits` bits each (32, 16, or 4 for a quantized base);
- `trained` numbers of `trained_bytes` bytes each, with a gradient and AdamW's two averages for each, of as many bytes.

Write `resting_bytes(frozen, frozen_bits, trained, trained_bytes)`: the bytes of all of them. In full
fine-tuning `frozen` is 0.""",
    function="resting_bytes",
    stub="""\
def resting_bytes(frozen, frozen_bits, trained, trained_bytes):
    # for example LoRA on a 1B model: frozen = 1_000_000_000 in 16 bits, trained = 10_000_000 in 4 bytes
    ...
""",
    solution="""\
def resting_bytes(frozen, frozen_bits, trained, trained_bytes):
    each = 4  # the number itself, its gradient, two averages
    return frozen * frozen_bits / 8 + each * trained * trained_bytes
""",
    explanation="A billion numbers are 16 GB when all train in float32, and 8 GB in pure bfloat16. With LoRA they are "
    "2 GB, or 0.5 GB in 4 bits, and ten million adapter numbers add 0.16 GB. So at rest full in float32 takes 7 times "
    "as much, and over 20 times as much as with 4 bits; full in bfloat16 takes 3.7 and 12 times. What brings that down "
    "in a real step are the activations, which LoRA keeps as well.",
    hints=(
        "How many numbers are there in memory for each one that trains? Itself, and what else?",
        "It is four: the number, its gradient, and AdamW's two averages. A frozen number has none of the extras.",
        "Bits to bytes: divide by 8. Then add the frozen part and the trained part.",
    ),
    cases=(
        (0, 16, 1_000_000_000, 4),
        (1_000_000_000, 16, 10_000_000, 4),
        (1_000_000_000, 4, 10_000_000, 4),
        (134_515_008, 32, 4_884_480, 4),
        (0, 16, 1_000_000_000, 2),
    ),
    wrong=(
        Mistake(
            """\
def resting_bytes(frozen, frozen_bits, trained, trained_bytes):
    return frozen * frozen_bits / 8 + 3 * trained * trained_bytes
""",
            "You count three numbers for each one that trains. There are four: the number itself, its gradient, and "
            "AdamW's two averages.",
        ),
        Mistake(
            """\
def resting_bytes(frozen, frozen_bits, trained, trained_bytes):
    return frozen * frozen_bits + 4 * trained * trained_bytes
""",
            "`frozen_bits` is in bits: eight of them are a byte.",
        ),
        Mistake(
            """\
def resting_bytes(frozen, frozen_bits, trained, trained_bytes):
    return 4 * trained * trained_bytes
""",
            "The frozen numbers need no gradient and no averages, but they still take memory: without the base there "
            "is no forward pass.",
        ),
        Mistake(
            """\
def resting_bytes(frozen, frozen_bits, trained, trained_bytes):
    return 4 * (frozen * frozen_bits / 8 + trained * trained_bytes)
""",
            "Frozen numbers have no gradient and no averages; only what trains counts four times. That is all that "
            "LoRA saves here.",
        ),
        Mistake(
            """\
def resting_bytes(frozen, frozen_bits, trained, trained_bytes):
    return frozen * frozen_bits / 8 + trained * trained_bytes
""",
            "Those are the weights alone. What trains has a gradient, and AdamW keeps two averages for it.",
        ),
        Mistake(
            """\
def resting_bytes(frozen, frozen_bits, trained, trained_bytes):
    return frozen * frozen_bits / 8 + 2 * trained * trained_bytes
""",
            "You count two numbers for each one that trains. There are four: the number itself, its gradient, and "
            "AdamW's two averages.",
        ),
    ),
)
