"""Exercise 10.split: hold out test rows so that no near-duplicate of them is left in the training rows."""

from workbench.exercises.framework import Exercise, Mistake

SOLUTION = """\
def hold_out(groups, share):
    count = sum(len(group) for group in groups)
    train, test = [], []
    for group in groups:
        side = test if len(test) + len(group) <= share * count else train
        side.extend(group)
    return train, test
"""

EXERCISE = Exercise(
    id="10.split",
    title="hold out test rows that the model has not seen in other words",
    difficulty="easy",
    minutes=10,
    task="""\
"Where is my parcel 17?" and "where is my parcel 18" are two rows, and one question. If one is trained on and the other
tested, the test measures memory. So near-duplicates are put into groups first: `groups` is a list of lists of rows.

Write `hold_out(groups, share)`, which returns two lists of rows, `train` and `test`. Go through the groups in their
order: a group goes to `test` as a whole if the test rows then are at most `share` of all rows; else to `train`.""",
    function="hold_out",
    stub="""\
def hold_out(groups, share):
    # groups: lists of rows; share: for example 0.2; returns train, test
    ...
""",
    solution=SOLUTION,
    explanation="A group is on one side as a whole, and the share counts rows, not groups. The order of the groups is "
    "shuffled with a seed beforehand, so that the same file always gives the same split.",
    hints=(
        "Count all rows first: the sum of the groups' lengths. A share of that is the room that the test has.",
        "Go through the groups with a for loop, and extend one of two lists by the whole group.",
        "A group that is too large for what is left of the room goes to train; a smaller one after it may still fit.",
    ),
    cases=(
        ([["a"], ["b"], ["c"], ["d"], ["e"]], 0.4),
        ([["a", "b"], ["c"], ["d"]], 0.25),
        ([["a", "b", "c"], ["d"], ["e", "f"], ["g", "h", "i", "j"]], 0.3),
        ([["a"], ["b", "c"], ["d"], ["e"]], 0.4),
    ),
    wrong=(
        Mistake(
            """\
def hold_out(groups, share):
    rows = [row for group in groups for row in group]
    room = int(share * len(rows))
    return rows[room:], rows[:room]
""",
            "You cut the list of rows, and a group may end up on both sides: a near-duplicate of a test row is then in "
            "train. Give each group to one side as a whole.",
        ),
        Mistake(
            """\
def hold_out(groups, share):
    room = int(share * len(groups))
    train = [row for group in groups[room:] for row in group]
    return train, [row for group in groups[:room] for row in group]
""",
            "Your share counts groups, but groups differ in size: one large group can be most of the rows. Count rows.",
        ),
        Mistake(
            """\
def hold_out(groups, share):
    count = sum(len(group) for group in groups)
    train, test = [], []
    for group in groups:
        if len(test) < share * count:
            test.extend(group)
        else:
            train.extend(group)
    return train, test
""",
            "You ask whether there is room before the group is added, not after it: a large group then makes the test "
            "larger than its share.",
        ),
        Mistake(
            """\
def hold_out(groups, share):
    train, test = [], []
    count = sum(len(group) for group in groups)
    for group in groups:
        if len(test) + len(group) <= share * count:
            test.extend(group)
    return [row for group in groups for row in group], test
""",
            "The test rows are in train as well. What is tested must not be trained on.",
        ),
    ),
)
