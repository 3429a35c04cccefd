"""The model of torch's caching allocator, against its documented rules."""

from collections import Counter

import pytest
from hypothesis import given, strategies as st

from workbench.memory.allocator import MIB, reserved_bytes, segments_bytes


@pytest.mark.parametrize(
    ("events", "segments"),
    [
        ([("a", 1, True)], 2 * MIB),
        ([("a", MIB, True), ("b", MIB, True)], 2 * MIB),
        ([("a", MIB + 1, True)], 20 * MIB),
        ([("a", 9 * MIB, True), ("b", 9 * MIB, True), ("c", 9 * MIB, True)], 40 * MIB),
        ([("a", 10 * MIB + 1, True)], 12 * MIB),
        ([("a", 64 * MIB, True), ("a", 64 * MIB, False), ("b", 32 * MIB, True), ("c", 32 * MIB, True)], 64 * MIB),
        ([("a", 32 * MIB, True), ("a", 32 * MIB, False), ("b", 64 * MIB, True)], 96 * MIB),
        # A fresh process would take a segment of 20 MiB for the second.
        ([("a", 10 * MIB, True), ("a", 10 * MIB, False), ("b", MIB + 1, True)], 10 * MIB),
        ([("a", 32 * MIB, True), ("a", 32 * MIB, False), ("b", 31.5 * MIB, True), ("c", 600, True)], 34 * MIB),
    ],
)
def test_the_allocator_rounds_splits_and_merges_blocks(events, segments):
    """By the rules of torch's CUDACachingAllocator: what a fresh process would show as reserved."""
    assert reserved_bytes((key, int(size), allocated) for key, size, allocated in events) == segments


@given(st.lists(st.tuples(st.integers(1, 40 * MIB), st.booleans()), max_size=40))
def test_the_allocator_reserves_at_least_what_is_alive_and_reuses_freed_blocks(steps):
    events, alive, most = [], [], 0
    for place, (size, allocated) in enumerate(steps):
        if allocated or not alive:
            alive.append((place, size))
            events.append((place, size, True))
        else:
            events.append((*alive.pop(), False))
        most = max(most, sum(size for _, size in alive))
    reserved = reserved_bytes(events)
    assert most <= reserved and reserved % (2 * MIB) == 0
    emptied = events + [(key, size, False) for key, size in alive]
    assert reserved_bytes(emptied) == reserved
    assert segments_bytes(Counter(size for _, size in alive)) >= sum(size for _, size in alive)
    for size, _ in steps:
        once = [("first", size, True)]
        assert reserved_bytes([*once, ("first", size, False), ("second", size, True)]) == reserved_bytes(once)
