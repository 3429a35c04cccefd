"""Exercise 00.size: how large an adapter's file is; a first exercise, to see how exercises work."""

from workbench.exercises.framework import Exercise, Mistake

EXERCISE = Exercise(
    id="00.size",
    title="how large is the file?",
    difficulty="easy",
    minutes=3,
    task="""\
An adapter's file holds one number for each trainable parameter, and each number takes some bytes: 4 in float32, 2 in
bfloat16. Write `file_megabytes(parameters, bytes_per_number)`: the size of the file in MB, where one MB is a million
bytes.""",
    function="file_megabytes",
    stub="""\
def file_megabytes(parameters, bytes_per_number):
    # parameters: how many numbers the file holds; returns megabytes
    ...
""",
    solution="""\
def file_megabytes(parameters, bytes_per_number):
    return parameters * bytes_per_number / 1_000_000
""",
    explanation="So a million parameters are 4 MB in float32 and 2 MB in bfloat16; that is all the arithmetic behind "
    "every file size in this course.",
    hints=(
        "First the bytes: how many numbers, times how many bytes each.",
        "Then divide by the number of bytes in a megabyte, 1_000_000.",
    ),
    cases=((1_000_000, 4), (2_442_240, 4), (134_515_008, 2), (0, 4)),
    wrong=(
        Mistake(
            """\
def file_megabytes(parameters, bytes_per_number):
    return parameters * bytes_per_number / 2**20
""",
            "That is in MiB (2**20 bytes). Here one MB is 1_000_000 bytes; the two differ by 5 %.",
        ),
        Mistake(
            """\
def file_megabytes(parameters, bytes_per_number):
    return parameters / 1_000_000
""",
            "You count parameters, not bytes: each number takes `bytes_per_number` bytes.",
        ),
        Mistake(
            """\
def file_megabytes(parameters, bytes_per_number):
    return parameters * bytes_per_number
""",
            "That is in bytes; divide by 1_000_000 for megabytes.",
        ),
    ),
)
