"""How much memory CUDA's caching allocator in torch takes for a given order of allocations.

The rules and sizes are those of c10/cuda/CUDACachingAllocator.cpp in torch 2.x with its default settings: requests are
rounded up to 512 bytes; up to 1 MiB they share segments of 2 MiB; below 10 MiB they share segments of 20 MiB; larger
ones get a segment of their own, rounded up to 2 MiB. A freed block is kept, joined with free neighbours of its segment,
and given to the next request that it fits best; what is left over of it is split off.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MIB = 2**20
SMALLEST = 512
SMALL = MIB
SMALL_SEGMENT = 2 * MIB
LARGE_SEGMENT = 20 * MIB
OWN_SEGMENT = 10 * MIB
ROUND_LARGE = 2 * MIB


@dataclass(eq=False)
class _Block:
    address: int
    size: int
    small: bool
    free: bool = False
    before: _Block | None = None
    after: _Block | None = None


def segments_bytes(tensors: Mapping[int, int]) -> int:
    """Bytes of segments for tensors that are alive together (size in bytes -> how many), each block well filled."""
    shared = {SMALL_SEGMENT: 0, LARGE_SEGMENT: 0}
    own = 0
    for size, count in tensors.items():
        rounded = -(-size // SMALLEST) * SMALLEST
        segment = segment_size(rounded)
        if rounded < OWN_SEGMENT:
            shared[segment] += count * rounded
        else:
            own += count * segment
    return own + sum(-(-size // segment) * segment for segment, size in shared.items())


def reserved_bytes(events: Iterable[tuple[object, int, bool]]) -> int:
    """Bytes reserved in the end over events (key, bytes, comes) in order of time: nothing is given back in between."""
    pools: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    blocks: dict[int, _Block] = {}  # free ones, by address
    used: dict[object, _Block] = {}
    reserved = 0
    for key, size, comes in events:
        if comes:
            if size == 0:
                continue
            rounded = -(-size // SMALLEST) * SMALLEST
            small = rounded <= SMALL
            pool = pools[small]
            place = bisect_left(pool, (rounded, 0))
            if place < len(pool):
                block = blocks.pop(pool.pop(place)[1])
            else:
                block = _Block(reserved, segment_size(rounded), small)
                reserved += block.size
            _split(block, rounded, pool, blocks)
            block.free = False
            used[key] = block
        elif key in used:
            block = used.pop(key)
            _release(block, pools[block.small], blocks)
    return reserved


def segment_size(rounded: int) -> int:
    """Bytes asked of the driver when no free block fits a request of `rounded` bytes."""
    if rounded <= SMALL:
        return SMALL_SEGMENT
    if rounded < OWN_SEGMENT:
        return LARGE_SEGMENT
    return -(-rounded // ROUND_LARGE) * ROUND_LARGE


def _split(block: _Block, size: int, pool: list, blocks: dict[int, _Block]) -> None:
    left = block.size - size
    if left < SMALLEST if block.small else left <= SMALL:
        return
    rest = _Block(block.address + size, left, block.small, True, block, block.after)
    if block.after:
        block.after.before = rest
    block.after, block.size = rest, size
    insort(pool, (rest.size, rest.address))
    blocks[rest.address] = rest


def _release(block: _Block, pool: list, blocks: dict[int, _Block]) -> None:
    for other in (block.before, block.after):
        if other is None or not other.free:
            continue
        pool.remove((other.size, other.address))
        del blocks[other.address]
        first, second = (other, block) if other is block.before else (block, other)
        first.size += second.size
        first.after = second.after
        if second.after:
            second.after.before = first
        block = first
    block.free = True
    insort(pool, (block.size, block.address))
    blocks[block.address] = block
