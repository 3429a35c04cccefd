"""Exercise 02.scaling: keep the factor in front of B A when the rank changes."""

from workbench.exercises.framework import Exercise, Mistake

EXERCISE = Exercise(
    id="02.scaling",
    title="a new rank, the same factor",
    difficulty="easy",
    minutes=5,
    task="""\
You found settings that work: some `alpha` at some `rank`. Now you want to try `new_rank`, with the
same factor in front of `B A`. (The same factor is not the same movement: try your answer in the panel above.)

Write `matching_alpha(alpha, rank, new_rank, rslora)`: the alpha to use with `new_rank`. The factor is `alpha / rank`,
or `alpha / sqrt(rank)` when `rslora` is true.""",
    function="matching_alpha",
    stub="""\
def matching_alpha(alpha, rank, new_rank, rslora):
    # for example: alpha = 16 at rank 8, without rsLoRA; which alpha at rank 64?
    ...
""",
    solution="""\
import math


def matching_alpha(alpha, rank, new_rank, rslora):
    if rslora:
        return alpha * math.sqrt(new_rank / rank)
    return alpha * new_rank / rank
""",
    explanation='This keeps the factor: people who write "alpha = 2 x rank" do just this, and people who fix alpha and '
    "raise the rank lower the factor without knowing it. The same factor is not yet the same movement of the output: "
    "compare the two pictures of the panel.",
    hints=(
        "Write the old factor on one side and the new factor on the other: alpha / rank = new_alpha / new_rank.",
        "Solve for new_alpha. At rank 8, alpha 16 gives a factor of 2; at rank 64 a factor of 2 needs which alpha?",
        "With rsLoRA, put sqrt(rank) and sqrt(new_rank) in the places of rank and new_rank.",
    ),
    cases=(
        (16, 8, 64, False),
        (16, 8, 64, True),
        (32, 32, 8, False),
        (32, 32, 8, True),
        (20, 8, 12, False),
        (20, 8, 12, True),
    ),
    wrong=(
        Mistake(
            "def matching_alpha(alpha, rank, new_rank, rslora):\n    return alpha\n",
            "With the same alpha the factor does change: 16 / 8 is 2, but 16 / 64 is 0.25. Alpha has to move with "
            "the rank.",
        ),
        Mistake(
            """\
def matching_alpha(alpha, rank, new_rank, rslora):
    return alpha * (rank / new_rank) ** (0.5 if rslora else 1)
""",
            "Upside down: the factor divides by the rank, so a larger rank needs a larger alpha, not a smaller one.",
        ),
        Mistake(
            "def matching_alpha(alpha, rank, new_rank, rslora):\n    return alpha * new_rank / rank\n",
            "Right without rsLoRA. With rsLoRA the factor is alpha / sqrt(rank), so alpha must grow with the square "
            "root of the rank only.",
        ),
        Mistake(
            "def matching_alpha(alpha, rank, new_rank, rslora):\n    return alpha * (new_rank / rank) ** 0.5\n",
            "Right with rsLoRA. Without it the factor is alpha / rank, no root: look at `rslora` before choosing.",
        ),
        Mistake(
            """\
def matching_alpha(alpha, rank, new_rank, rslora):
    return alpha / (new_rank**0.5 if rslora else new_rank)
""",
            "You return the factor that the old alpha gives at the new rank. The task asks for the alpha which brings "
            "the factor back to what it was.",
        ),
        Mistake(
            """\
def matching_alpha(alpha, rank, new_rank, rslora):
    ratio = new_rank // rank
    return alpha * (ratio**0.5 if rslora else ratio)
""",
            "// throws the remainder away: 12 // 8 is 1 and 8 // 32 is 0. Divide with / instead.",
        ),
    ),
)
