"""What lesson 08 says in words: who can do which task, what merging loses, latencies, and the answer."""

from __future__ import annotations

from collections.abc import Mapping

from workbench.cost.roofline import SHARED, WHOLE, Service
from workbench.course.lessons import START_MODELS, START_RANK, as_quote
from workbench.results.noise import noise_of_difference
from workbench.serving.fleet import Fleet
from workbench.serving.measure import Merging, Several
from workbench.tasks.example import Example
from workbench.tasks.tasks import Task

TIMES = "times"


def examples(tasks: Mapping[str, Task]) -> str:
    """A Markdown table with the first training row of each task."""
    rows = [
        f"| {name} | {as_quote(task.train[0].prompt)} | {as_quote(task.train[0].completion)} |"
        for name, task in tasks.items()
    ]
    return "\n".join(["| task | it reads | it answers |", "| --- | --- | --- |", *rows])


def same_prompt(example: Example, written: Mapping[str, str]) -> str:
    """A Markdown table of what each adapter makes of one prompt. written: adapter -> answer."""
    rows = [f"| {name} | {as_quote(answer)} |" for name, answer in written.items()]
    wanted = f"| wanted | {as_quote(example.completion)} |"
    return "\n".join([f"> {example.prompt}", "", "| adapter | answer |", "| --- | --- |", wanted, *rows])


def kept_tasks(scores: Mapping[str, float], own: Mapping[str, float], share: float = 0.5) -> int:
    """On how many tasks a combination is at least `share` as good as the task's own adapter, if that has learned it."""
    return sum(own[task] > 0 and scores[task] >= share * own[task] for task in own)


def merging_table(found: Mapping[str, Merging]) -> str:
    """A Markdown table: what merging, and taking the adapter out again by subtraction, does in each storage."""
    head = [
        "| weights stored as | right, unmerged | right, merged | loss changed by | weights not restored by unmerging |",
        "| --- | --- | --- | --- | --- |",
    ]
    rows = [
        f"| {name} | {one.unmerged:.0%} | {one.merged:.0%} | {one.loss_change:+.4f} nats | {one.not_restored:.1%} |"
        for name, one in found.items()
    ]
    return "\n".join([*head, *rows])


def sum_in_words(scores: Mapping[str, Mapping[str, float]], own: Mapping[str, float]) -> str:
    """A title: how many tasks the sum of the adapters keeps, and the adapter that was trained on all of them."""
    kept, trained = (kept_tasks(scores[name], own) for name in ("sum", "trained on all four"))
    return f"Tasks kept, of {len(own)}: {kept} by the sum, {trained} by training on all"


def sums_answer(scores: Mapping[str, Mapping[str, float]], own: Mapping[str, float], rows: int) -> str:
    """What the table of adapters, sums and the adapter of all tasks says, in Markdown. rows: of each task's test."""
    together = scores["trained on all four"]
    ways = {
        name: kept_tasks(row, own) for name, row in scores.items() if name not in (*own, "trained on all four", "base")
    }
    best = max(ways, key=lambda name: ways[name])
    better = [
        f"{task} {together[task]:.0%} against {share:.0%}"
        for task, share in own.items()
        if together[task] - share > noise_of_difference((together[task], rows), (share, rows))
    ]
    words = (
        f"A task is kept where the combination is at least half as good as the task's own adapter, on {rows} rows. "
        f"Without training, the best way here is *{best}* with {ways[best]} of {len(own)}; one adapter trained on the "
        f"rows of all four keeps {kept_tasks(together, own)}."
    )
    if better:
        words += (
            f" By more than noise it is ahead of adapters of one task: {', '.join(better)}. It has taken as many steps "
            "as the four together."
        )
    return words + (
        " The papers on TIES and DARE report better results; they merge larger models, and what makes the difference "
        "was not tested here."
    )


def served(url: str, answer: str, seconds: Mapping[str, float], memory: Mapping[str, int], model_bytes: int) -> str:
    """What the server did, in Markdown: a request and its answer, latencies, and the growth of its memory."""
    request = '{"model": "orders", "prompt": ..., "temperature": 0}'
    return (
        f"The client sent `{request}` to `{url}/completions` and got {as_quote(answer)}\n\n"
        f"{latency_table(seconds)}\n\n{memory_words(memory, model_bytes)}"
    )


def latency_table(seconds: Mapping[str, float]) -> str:
    """A Markdown table of latencies as multiples of the first. seconds: way -> of the same request."""
    first = next(iter(seconds.values()))
    rows = [f"| {name} | {value / first:.2f} |" for name, value in seconds.items()]
    return "\n".join(["| request | time, the first as 1 |", "| --- | --- |", *rows])


def services_table(services: Mapping[int, Mapping[str, Service]], model: str, gpu: str) -> str:
    """A Markdown table of GPUs and dollars a month for several numbers of tasks."""
    head = [f"| tasks of {model} on the {gpu} | {SHARED} | {WHOLE} | {TIMES} |", "| --- | --- | --- | --- |"]
    rows = []
    for tasks, ways in services.items():
        rows.append(f"| {tasks} | {ways[SHARED].in_words} | {ways[WHOLE].in_words} | {fewer(ways):.3g} |")
    return "\n".join([*head, *rows])


def fewer(ways: Mapping[str, Service]) -> float:
    """How many times fewer GPUs adapters take than whole models."""
    return ways[WHOLE].gpus / ways[SHARED].gpus


def answer(
    several: Several, speeds: Mapping[str, float], ways: Mapping[str, Service], tasks: int, model: str, gpu: str
) -> str:
    """The answer of lesson 08, in Markdown. speeds: of `decoding_speeds`. ways: of `cost.roofline.serve`."""
    smaller = several.model_bytes / (several.adapter_bytes / several.tasks)
    shared, whole = ways[SHARED], ways[WHOLE]
    alone, apart = (speeds["one batch"] / speeds[way] for way in ("one by one", "adapter by adapter"))
    return (
        f"**The answer:** One base serves many tasks at once: each of our {several.tasks} adapters is {smaller:.0f} "
        f"times smaller than the model, and a swap takes {several.swap_seconds * 1e3:,.0f} ms. Requests for different "
        f"tasks go into one batch, which here wrote {alone:.1f} times as many tokens a second as one request after the "
        f"other, and {apart:.1f} times as many as a batch for each task. For {tasks} tasks of {model} that means "
        f"{shared.gpus} {gpu} GPU{'s' * (shared.gpus != 1)} instead of {whole.gpus}, ${shared.money_a_month:,.0f} a "
        f"month instead of ${whole.money_a_month:,.0f}.\n\n"
        "What would change it: one task alone saves nothing, and merged it is a model like any other; and traffic that "
        "keeps twenty GPUs busy needs twenty GPUs either way."
    )


def memory_words(memory: Mapping[str, int], model_bytes: int) -> str:
    """What the server's memory grew by. memory: name -> bytes of its process after the first answer by that name."""
    first, *_, last = memory.values()
    grew = (last - first) / (len(memory) - 1)
    return (
        f"Its process took {first / 1e6:,.0f} MB after the first name and {last / 1e6:,.0f} MB after the last of "
        f"{len(memory)}: {grew / 1e6:,.0f} MB for each further name, where the model has {model_bytes / 1e6:,.0f} MB "
        "of weights."
    )


def starting_values() -> str:
    """A Markdown table: for a model of 1B, 7B and 8B parameters, an adapter's size and the GPUs that 20 tasks take."""
    head = [
        "| model | adapter of rank 16, 16 bits | whole model, 16 bits | 20 tasks as adapters | 20 whole models |",
        "| --- | --- | --- | --- | --- |",
    ]
    rows = []
    for name in START_MODELS:
        fleet = Fleet(20, name, START_RANK, "L4")
        counts = [f"{fleet.services[way].gpus} x L4" for way in (SHARED, WHOLE)]
        sizes = f"{fleet.adapter_bytes / 1e6:.0f} MB | {fleet.base_bytes / 1e9:.1f} GB"
        rows.append(f"| {name} | {sizes} | {' | '.join(counts)} |")
    return "\n".join([*head, *rows])
