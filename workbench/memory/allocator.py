"""The memory that torch's caching allocator for CUDA reserves for given allocations.

The rules and sizes are those of c10/cuda/CUDACachingAllocator.cpp in torch 2.x with its default settings: requests are
rounded up to 512 bytes; up to 1 MiB they share segments of 2 MiB; below 10 MiB they share segments of 20 MiB; larger
ones get a segment of their own, rounded up to 2 MiB. A freed block is kept and merged with free neighbours of its
segment. A request takes the smallest free block that is large enough, and the rest of the block is split off.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MIB = 2**20
# The names are those of the allocator's constants.
MIN_BLOCK_SIZE = 512
SMALL_SIZE = MIB  # the largest small request
SMALL_BUFFER = 2 * MIB  # segment of small requests
LARGE_BUFFER = 20 * MIB  # segment of requests between SMALL_SIZE and MIN_LARGE_ALLOC
MIN_LARGE_ALLOC = 10 * MIB  # requests from here on get segments of their own ...
ROUND_LARGE = 2 * MIB  # ... rounded up to this


@dataclass(eq=False)
class _Block:
    address: int
    size: int
    small: bool
    free: bool = False
    before: _Block | None = None
    after: _Block | None = None


def segments_bytes(tensors: Mapping[int, int]) -> int:
    """Bytes of the segments for tensors that are alive together, without gaps. tensors: size in bytes -> how many."""
    shared = {SMALL_BUFFER: 0, LARGE_BUFFER: 0}
    own = 0
    for size, count in tensors.items():
        rounded = -(-size // MIN_BLOCK_SIZE) * MIN_BLOCK_SIZE
        segment = segment_size(rounded)
        if rounded < MIN_LARGE_ALLOC:
            shared[segment] += count * rounded
        else:
            own += count * segment
    return own + sum(-(-size // segment) * segment for segment, size in shared.items())


def reserved_bytes(events: Iterable[tuple[object, int, bool]]) -> int:
    """Bytes reserved after a sequence of events, (key, bytes, whether it is an allocation), in order of time.

    key: names the tensor, so that its release finds the allocation. Reserved memory only grows, because no segment is
    returned to the driver.
    """
    pools: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    blocks: dict[int, _Block] = {}  # free ones, by address
    used: dict[object, _Block] = {}
    reserved = 0
    for key, size, allocated in events:
        if allocated:
            if size == 0:
                continue
            rounded = -(-size // MIN_BLOCK_SIZE) * MIN_BLOCK_SIZE
            small = rounded <= SMALL_SIZE
            pool = pools[small]
            place = bisect_left(pool, (rounded, 0))
            if place < len(pool):
                block = blocks.pop(pool.pop(place)[1])
            else:
                block = _Block(reserved, segment_size(rounded), small)
                reserved += block.size
            _split_off(block, rounded, pool, blocks)
            block.free = False
            used[key] = block
        elif key in used:
            block = used.pop(key)
            _free(block, pools[block.small], blocks)
    return reserved


def segment_size(rounded: int) -> int:
    """Bytes to request from the driver when no free block is large enough for `rounded` bytes."""
    if rounded <= SMALL_SIZE:
        return SMALL_BUFFER
    if rounded < MIN_LARGE_ALLOC:
        return LARGE_BUFFER
    return -(-rounded // ROUND_LARGE) * ROUND_LARGE


def _split_off(block: _Block, size: int, pool: list[tuple[int, int]], blocks: dict[int, _Block]) -> None:
    """Cut `block` to `size` bytes and put the rest into the pool, if the rest is large enough."""
    left = block.size - size
    if left < MIN_BLOCK_SIZE if block.small else left <= SMALL_SIZE:
        return
    rest = _Block(block.address + size, left, block.small, True, block, block.after)
    if block.after:
        block.after.before = rest
    block.after, block.size = rest, size
    insort(pool, (rest.size, rest.address))
    blocks[rest.address] = rest


def _free(block: _Block, pool: list[tuple[int, int]], blocks: dict[int, _Block]) -> None:
    """Put `block` into the pool, merged with its free neighbours."""
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
