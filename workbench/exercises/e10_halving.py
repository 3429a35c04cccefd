"""Exercise 10.halving: find the best of many settings for the price of a few runs."""

from workbench.exercises.framework import Exercise, Mistake


def halving(settings, loss_after, stages):
    left = list(settings)
    for stage in stages:
        losses = {setting: loss_after(setting, stage) for setting in left}
        ranked = sorted(left, key=lambda setting: losses[setting])
        left = ranked[: max(2, (len(ranked) + 1) // 2)]
    return left[0]


def _counted(answer, losses, stages):
    """The setting that an answer returns, and how many it asked for at each stage, if it asked at all."""
    asked = dict.fromkeys(stages, 0)

    def loss_after(setting, stage):
        asked[stage] += 1
        return losses[setting][stages.index(stage)]

    found = answer(list(losses), loss_after, list(stages))
    return (found, list(asked.values())) if any(asked.values()) else found


def _in_words(losses, stages):
    table = "; ".join(f"{name}: {', '.join(map(str, own))}" for name, own in losses.items())
    return f"stages {list(stages)} and losses of {table} (shown: the setting returned, and how many were asked a stage)"


EXERCISE = Exercise(
    id="10.halving",
    title="find the best of many settings for the price of a few runs",
    difficulty="medium",
    minutes=15,
    task="""\
Eight settings, all trained to the end, cost eight runs. But most of them are behind after a sixth of the steps already.

`loss_after(setting, stage)` trains a setting up to a step and returns its loss on held-out rows. Every call costs time.
Write `halving(settings, loss_after, stages)`. At each stage:

- ask for the loss of each setting that is *still left*, once;
- keep the better half, rounded up, and two at least, because one alone is not compared with anything.

After the last stage return the setting with the lowest loss.""",
    function="halving",
    stub="""\
def halving(settings, loss_after, stages):
    # settings: a list of names; stages: steps, rising; returns one of the names
    ...
""",
    solution=halving,
    explanation="This is successive halving: the time goes to the settings that are worth it. It can be wrong, when a "
    "setting starts slowly and would have won in the end; that is why the first stage must not come too early.",
    hints=(
        "Keep a list of the settings that are left; it begins as all of them. Loop over the stages.",
        "sorted(left, key=...) puts the lowest loss first. Ask for each loss once, and keep it in a dictionary.",
        "Half, rounded up, is (len(left) + 1) // 2; with max(2, ...) around it two are left at least.",
    ),
    apply=_counted,
    show=_in_words,
    cases=(
        ({"a": [3, 1], "b": [1, 2], "c": [2, 3], "d": [4, 4]}, (10, 40)),
        ({"a": [1, 2, 3], "b": [2, 1, 1]}, (10, 20, 40)),
        ({"a": [5, 5, 5], "b": [4, 4, 4], "c": [3, 3, 1], "d": [2, 2, 2], "e": [1, 6, 6]}, (5, 10, 20)),
        ({"a": [3, 1, 0], "b": [1, 3, 2], "c": [2, 2, 1], "d": [6, 0, 0], "e": [5, 5, 5], "f": [7, 7, 7]}, (5, 10, 20)),
    ),
    wrong=(
        Mistake(
            """\
def halving(settings, loss_after, stages):
    losses = {}
    for stage in stages:
        losses = {setting: loss_after(setting, stage) for setting in settings}
    return min(settings, key=losses.get)
""",
            "You train every setting at every stage, which costs as many whole runs as there are settings. Ask only "
            "for those that are still left.",
        ),
        Mistake(
            """\
def halving(settings, loss_after, stages):
    left = list(settings)
    for stage in stages:
        losses = {setting: loss_after(setting, stage) for setting in left}
        left = sorted(left, key=losses.get, reverse=True)[: max(2, (len(left) + 1) // 2)]
    return left[0]
""",
            "You keep the half with the higher losses. A lower loss is better.",
        ),
        Mistake(
            """\
def halving(settings, loss_after, stages):
    left = list(settings)
    for stage in stages:
        losses = {setting: loss_after(setting, stage) for setting in left}
        left = sorted(left, key=losses.get)[: (len(left) + 1) // 2]
    return left[0]
""",
            "You go down to one setting before the last stage: from there on it is trained with nothing to compare it "
            "with. Keep two at least.",
        ),
        Mistake(
            """\
def halving(settings, loss_after, stages):
    left = list(settings)
    for stage in stages:
        losses = {setting: loss_after(setting, stage) for setting in left}
        left = sorted(left, key=losses.get)[: max(2, len(left) // 2)]
    return left[0]
""",
            "Of an odd number you keep the smaller half. Round up: of 5 go on 3.",
        ),
        Mistake(
            """\
def halving(settings, loss_after, stages):
    losses = {setting: loss_after(setting, stages[0]) for setting in settings}
    return min(settings, key=losses.get)
""",
            "You decide after the first stage. Who leads there need not lead at the end: compare the better half again "
            "at the next stage.",
        ),
    ),
)
