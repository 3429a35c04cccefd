"""Block-wise quantization, written to be read: int8, int4, NF4 and FP4 code books, and double quantization.

A weight is cut into blocks. Each block keeps its largest magnitude, absmax, in float32, and for every entry the number
of the nearest value in a code book that spans -1 to 1. An entry is restored as code book value times absmax. The codes,
the scales and the restored values are those of bitsandbytes (tests/adapters/test_quantization.py).

Sources: Dettmers et al., "QLoRA", arXiv 2305.14314, section 3 (NF4, double quantization); "8-bit Optimizers via
Block-wise Quantization", arXiv 2110.02861 (blocks, and the dynamic code book of the scales).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import prod

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from workbench.errors import QuantizationError

KINDS = ("int8", "int4", "nf4", "fp4")
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
SCALE_BLOCK = 256  # scales that share one scale of their own, in double quantization
SMALLEST_ABSMAX = 1e-38  # 1 / absmax must stay finite

# As published with QLoRA (arXiv 2305.14314, appendix E); `nf4_from_quantiles` derives them.
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
# One sign bit, two of exponent, one of mantissa, in the order of their bit patterns: 0000, 0001, ... 1111. The largest
# is 12. bitsandbytes' own assignment of values to patterns, and so there are two zeros.
FP4_POSITIVE = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
NF4_OFFSET = 0.9677083  # the outermost quantile, bitsandbytes' create_normal_map


@dataclass(frozen=True)
class Quantized:
    """A quantized weight: what is stored, and the settings that are needed to restore it.

    codes: uint8, one code a byte for int8, two for the 4-bit kinds (the first in the high half). absmax: one float32 a
    block; or, after double quantization, these minus `offset` (their mean), themselves quantized to 8 bits.
    """

    kind: str
    block_size: int
    shape: torch.Size
    dtype: torch.dtype
    codes: Tensor
    absmax: Tensor | Quantized
    offset: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of everything stored: codes, scales, and the scales' own scales and mean."""
        return sum(part.nbytes for part in (self.codes, self.absmax, self.offset) if part is not None)

    @property
    def bits_per_parameter(self) -> float:
        """Stored bits for each entry of the weight, scales included."""
        return 8 * self.nbytes / prod(self.shape)

    @property
    def unpacked(self) -> Tensor:
        """One code an entry, flat, uint8."""
        pairs = (self.codes >> 4, self.codes & 15)
        codes = self.codes if _bits(self.kind) == 8 else torch.stack(pairs, dim=1).view(-1)
        return codes[: prod(self.shape)]


def quantize(weight: Tensor, kind: str, block_size: int = 64, double_quantization: bool = False) -> Quantized:
    """Quantize a weight of any shape and floating type, block by block, its entries in row-major order.

    kind: one of KINDS. block_size: entries that share an absmax, one of BLOCK_SIZES; the last block may be shorter.
    double_quantization: store the absmax in 8 bits too. The arithmetic is float32, on the weight's own device.
    Raises QuantizationError for another kind or size, an empty or integer tensor, and for values that are not finite.
    """
    _check_setting(kind, block_size)
    if not weight.is_floating_point() or weight.numel() == 0:
        raise QuantizationError(f"A weight of {weight.numel()} entries in {weight.dtype} cannot be quantized.")
    values = weight.detach().reshape(-1).float()
    if not torch.isfinite(values).all():
        raise QuantizationError("The weight holds values that are not finite (nan or inf); quantize a sound one.")
    codes, absmax = _nearest_codes(values, kind, block_size)
    if double_quantization:
        offset = absmax.mean()
        scale_codes, scales_of_scales = _nearest_codes(absmax - offset, "dynamic", SCALE_BLOCK)
        scales = Quantized("dynamic", SCALE_BLOCK, absmax.shape, absmax.dtype, scale_codes, scales_of_scales)
        return Quantized(kind, block_size, weight.shape, weight.dtype, codes, scales, offset)
    return Quantized(kind, block_size, weight.shape, weight.dtype, codes, absmax)


def dequantize(q: Quantized) -> Tensor:
    """The restored weight: code book value times absmax, in the shape and dtype of the original."""
    absmax = q.absmax if isinstance(q.absmax, Tensor) else dequantize(q.absmax)
    absmax = absmax if q.offset is None else absmax + q.offset
    values = code_book(q.kind).to(q.codes.device).index_select(0, q.unpacked.int())
    blocks = _in_blocks(values, q.block_size) * absmax[:, None]
    return blocks.view(-1)[: len(values)].view(q.shape).to(q.dtype)


@cache
def code_book(kind: str) -> Tensor:
    """The value of each code, float32 on the CPU, from -1 to 1: 255 values for int8, 15 for int4, 16 for NF4 and FP4.

    "dynamic": the 256 values of double quantization's scales. All but FP4's are in rising order.
    """
    if kind in ("int8", "int4"):
        largest = 2 ** (_bits(kind) - 1) - 1
        return torch.arange(-largest, largest + 1) / largest
    if kind == "dynamic":
        return _dynamic_code_book()
    if kind == "nf4":
        return torch.tensor(NF4)
    return torch.tensor([*FP4_POSITIVE, *(0.0 - value for value in FP4_POSITIVE)]) / max(FP4_POSITIVE)


def nf4_from_quantiles(offset: float = NF4_OFFSET) -> Tensor:
    """NF4 derived: quantiles of the normal distribution at even steps, eight above zero, seven below, divided by the
    largest. The published constants differ from this by about 1e-7.
    """
    above, below = (torch.special.ndtri(torch.linspace(offset, 0.5, n, dtype=torch.float64)[:-1]) for n in (9, 8))
    book = torch.cat((-below, torch.zeros(1, dtype=torch.float64), above.flip(0)))
    return (book / book.max()).float()


def stored_parts(entries: int, kind: str, block_size: int = 64, double_quantization: bool = False) -> dict[str, int]:
    """Bytes of each tensor that is stored of a quantized weight of so many entries.

    "codes" and "scales" (one float32 for each block); with double quantization the scales take one byte each, and
    "scales of scales" (one float32 for SCALE_BLOCK of them) and "offset" (one float32) come on top (QLoRA, arXiv
    2305.14314, section 3). Raises QuantizationError for another kind or block size than `quantize` takes.
    """
    _check_setting(kind, block_size)
    codes, blocks = -(-entries * _bits(kind) // 8), -(-entries // block_size)
    if not double_quantization:
        return {"codes": codes, "scales": 4 * blocks}
    return {"codes": codes, "scales": blocks, "scales of scales": 4 * -(-blocks // SCALE_BLOCK), "offset": 4}


def stored_bytes(entries: int, kind: str, block_size: int = 64, double_quantization: bool = False) -> int:
    """What `quantize(...).nbytes` of a weight of so many entries will be."""
    return sum(stored_parts(entries, kind, block_size, double_quantization).values())


def block_scaled(weight: Tensor, block_size: int) -> Tensor:
    """The entries as a code book sees them: flat, each divided by the absmax of its block (zeros stay zero)."""
    _check_setting("int8", block_size)
    blocks = _in_blocks(weight.detach().reshape(-1).float(), block_size)
    scaled = blocks / blocks.abs().amax(1, keepdim=True).clamp(min=SMALLEST_ABSMAX)
    return scaled.view(-1)[: weight.numel()]


def relative_error(weight: Tensor, restored: Tensor) -> float:
    """|weight - restored| / |weight|, Frobenius norms."""
    return ((weight.float() - restored.float()).norm() / weight.float().norm()).item()


def _nearest_codes(values: Tensor, kind: str, block_size: int) -> tuple[Tensor, Tensor]:
    """Codes (as they are stored) and absmax of flat float32 values."""
    blocks = _in_blocks(values, block_size)
    absmax = blocks.abs().amax(1)
    # Times 1 / absmax, as in bitsandbytes: a division rounds otherwise, and moves a few codes to the neighbour.
    scaled = blocks * (1 / absmax.clamp(min=SMALLEST_ABSMAX))[:, None]
    borders, order = _borders(kind)
    places = _borders_below(scaled, borders).view(-1)
    codes = order.to(values.device).index_select(0, places)
    if _bits(kind) == 8:
        return codes[: values.numel()].clone(), absmax
    pairs = codes[: values.numel() + values.numel() % 2].view(-1, 2)
    return (pairs[:, 0] << 4) | pairs[:, 1], absmax


def _borders_below(values: Tensor, borders: Tensor) -> Tensor:
    """How many borders lie below each value, int32. For few borders, comparing with each beats a search among them."""
    if len(borders) > 16:
        return torch.bucketize(values, borders.to(values.device), out_int32=True)
    count = torch.zeros_like(values, dtype=torch.uint8)
    for border in borders.tolist():
        count += values > border
    return count.int()


@cache
def _borders(kind: str) -> tuple[Tensor, Tensor]:
    """Midpoints between neighbours of the code book in rising order, and the code of each place in that order."""
    values, order = code_book(kind).sort(stable=True)
    return (values[:-1] + values[1:]) / 2, order.to(torch.uint8)


def _dynamic_code_book() -> Tensor:
    """bitsandbytes' signed 8-bit dynamic map (arXiv 2110.02861, section 2.2): seven powers of ten, each upper one with
    twice as many values, evenly spread; and 0 and 1.
    """
    book = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1)
        centres = 10.0 ** (exponent - 6) * (edges[:-1] + edges[1:]) / 2
        book += [*centres.tolist(), *(-centres).tolist()]
    return torch.tensor(book).sort().values


def _in_blocks(values: Tensor, block_size: int) -> Tensor:
    """(blocks, block_size); the last block is filled up with zeros, which change no absmax."""
    return F.pad(values, (0, -values.numel() % block_size)).view(-1, block_size)


def _bits(kind: str) -> int:
    return 8 if kind in ("int8", "dynamic") else 4


def _check_setting(kind: str, block_size: int) -> None:
    if kind not in KINDS:
        raise QuantizationError(f"kind={kind!r} is not known; use one of {', '.join(KINDS)}.")
    if block_size not in BLOCK_SIZES:
        raise QuantizationError(f"block_size={block_size!r} must be a power of two from 32 to 4096.")
