"""The GPU twin of `asad.attention`: Triton kernels, none of which writes a matrix of all pairs.

Logits are computed anew wherever they are needed, tile by tile as in flash attention (Dao et al., arXiv 2205.14135):

1. `_statistics`: per query the peak of its logits and the two numbers that turn a logit into W;
2. `_count`, four times: the N_d-th largest race W / E of a head, eight bits at a time, from histograms of its races'
   float bits; four times more over positions where several pairs tie with it, of which the first ones are dropped;
3. `_forward`: flash attention in which every tile decides anew which of its pairs are dropped;
4. `_query_gradients` and `_key_gradients`, which decide likewise.

Every kernel must find the same races, bit for bit, or the count would not be exact: all of them use the same tiles of
queries by keys of one frame, in the same orientation and number of warps, and none contracts to fused multiply-add.
Only integers are added atomically, so results do not depend on the order in which a GPU runs the blocks.

B samples of H heads, numbered together by `head`; F tokens a frame, L = 2 F of at most 65,534; D channels a head.
Tensors are [B, H, L, D] in the same strides (`_aligned`), and what the kernels make is [B, L, H, D] in memory.

Under `torch.compile` the forward and the backward pass are one opaque operator each, with shapes and gradients
registered: the graph does not break at them, and nothing is fused into them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 64, 64
"""Queries and keys of a tile."""
WARPS, STAGES = 4, 2
OLDEST = (8, 0)
"""Compute capability below which Triton has no tensor-core products."""
WIDEST = 128
"""Channels of a head that fit a block's memory."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LEVELS = tl.constexpr(4)
"""Digits of a race, and of a position."""
BINS = tl.constexpr(256)
LARGEST = tl.constexpr(0x7FFFFFFF)
EPSILON = tl.constexpr(1e-6)
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
"""Whether TRITON_INTERPRET=1 was set when this was imported: the kernels then run on the CPU, for tests."""


def attention(query: Tensor, key: Tensor, value: Tensor, count: int, keys: Tensor) -> Tensor:
    """`asad.attention` [B, H, L, D] of tensors of one of DTYPES; `keys` int32 [B, H], one for each head; count > 0."""
    return _dropping_forward(query, key, value, count, keys)[0]


def dropped_pairs(query: Tensor, key: Tensor, count: int, keys: Tensor) -> Tensor:
    """bool [B, H, L, F]: which pairs `attention` drops. For inspection: this one does write a matrix."""
    query, key = _aligned(query, key)
    half = query.shape[2] // 2
    marks = torch.empty(*query.shape[:3], half, dtype=torch.bool, device=query.device)
    with torch.cuda.device_of(query):
        statistics, choice = _choose(query, key, count, keys)
        _mark[_grid(query)](query, key, marks, statistics, keys, choice, *_sizes(query), **_constants(query))
    return marks


@cache
def obstacle(dtype: torch.dtype | None, depth: int) -> str | None:
    """Why the kernels cannot serve heads of `depth` channels on this GPU, or None: tried once, on eight tokens.

    dtype None stands for query, key and value that differ in it.
    """
    if dtype not in DTYPES:
        return (
            f"the kernels take float32, bfloat16 or float16 alike for query, key and value, not {dtype or 'a mixture'}"
        )
    if depth > WIDEST:
        return f"a head has {depth} channels, and the kernels hold {WIDEST} at most"
    try:
        if torch.version.hip is None and torch.cuda.get_device_capability() < OLDEST:
            return f"{torch.cuda.get_device_name()} is older than compute capability {OLDEST[0]}.{OLDEST[1]}"
        tensor = torch.zeros(1, 1, 8, depth, dtype=dtype, device="cuda")
        keys = torch.zeros(1, 1, dtype=torch.int32, device="cuda")
        out, *kept = _dropping_forward(tensor, tensor, tensor, 8, keys)
        _dropping_backward(tensor, tensor, tensor, keys, out, tensor, *kept)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # a compiler, driver or GPU can fail in many ways
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    return None


# Parts of kernels


@triton.jit
def _mix(x):
    """`noise.mix` of uint32."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _logarithm(x):
    """log of normal positive x to about 1 unit in the last place, near 1 too, where a GPU's own is poor."""
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23  # the mantissa lands in [sqrt(1/2), sqrt(2))
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    n = exponent.to(tl.float32)
    p = f * 7.0376836292e-2 - 1.1514610310e-1
    p = p * f + 1.1676998740e-1
    p = p * f - 1.2420140846e-1
    p = p * f + 1.4249322787e-1
    p = p * f - 1.6668057665e-1
    p = p * f + 2.0000714765e-1
    p = p * f - 2.4999993993e-1
    p = p * f + 3.3333331174e-1
    square = f * f
    return f + (p * f * square + n * -2.12194440e-4 - square * 0.5) + n * 0.693359375


@triton.jit
def _program(F, SIZE: tl.constexpr):
    """Head, frame, and tokens within the frame that this program is for."""
    blocks = tl.cdiv(F, SIZE)
    block = tl.program_id(0) % (2 * blocks)
    return tl.program_id(0) // (2 * blocks), block // blocks, block % blocks * SIZE + tl.arange(0, SIZE)


@triton.jit
def _frame_of(pointer, head, frame, H, F, sb, sh, sl):
    """Where a frame of a head begins in a tensor of strides sb, sh, sl."""
    return pointer + (head // H).to(tl.int64) * sb + (head % H).to(tl.int64) * sh + (frame * F).to(tl.int64) * sl


@triton.jit
def _places(tokens, F, stride, D: tl.constexpr, DEEP: tl.constexpr):
    """Offsets [SIZE, DEEP] of a tile from its frame's start, and which of them are in it."""
    depth = tl.arange(0, DEEP)
    inside = (tokens < F)[:, None] & (depth < D)[None, :]
    return tokens.to(tl.int64)[:, None] * stride + depth[None, :], inside


@triton.jit
def _tile(start, tokens, F, stride, D: tl.constexpr, DEEP: tl.constexpr):
    """Tokens of a frame [SIZE, DEEP], zero where there are none."""
    at, inside = _places(tokens, F, stride, D, DEEP)
    return tl.load(start + at, mask=inside, other=0.0)


@triton.jit
def _row(pointer, head, frame, rows, F):
    """One number for each query of a tile, from [B, H, L]; zero where there is no query."""
    return tl.load(pointer + head.to(tl.int64) * 2 * F + frame * F + rows, mask=rows < F, other=0.0)


@triton.jit
def _product(a, b):
    """a @ b with sums in float32; float32 factors go to the tensor cores in three parts, which keeps their digits."""
    if INTERPRETED:  # which would multiply the bits of bfloat16
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="tf32x3")


@triton.jit
def _logits(query, key, columns, F, scale):
    """Scaled logits of a tile in float32, minus infinity where there is no key."""
    logits = _product(query, tl.trans(key)) * scale
    return tl.where((columns < F)[None, :], logits, float("-inf"))


@triton.jit
def _factors(STATISTICS, head, heads, frame, rows, F):
    """Peak, share and factor of the queries of a tile, as `_statistics` left them."""
    peak = _row(STATISTICS, head, frame, rows, F)
    share = _row(STATISTICS, heads + head, frame, rows, F)
    return peak, share, _row(STATISTICS, 2 * heads + head, frame, rows, F)


@triton.jit
def _race(logits, peak, share, factor, seed, frame, rows, columns, F):
    """W / E of a tile of same-frame pairs as float bits, which order as integers do, and the pairs' positions.

    0 where there is no pair, and nowhere else: W / E is never below 1e-14. A NaN, too, has its place, at the top.
    """
    weight = (tl.exp(logits - peak[:, None]) * share[:, None] + 1e-6) * factor[:, None]
    position = (frame * F + rows)[:, None] * F + columns[None, :]
    bits = _mix(seed.to(tl.uint32) ^ (position.to(tl.uint32) * 0x9E3779B9))
    uniform = ((bits >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07
    race = (weight / -_logarithm(uniform)).to(tl.int32, bitcast=True) & 0x7FFFFFFF
    pair = (rows < F)[:, None] & (columns < F)[None, :] & (rows[:, None] != columns[None, :])
    return tl.where(pair, race, 0), position


@triton.jit
def _drops(race, position, CHOICE, head):
    """Which pairs of a tile are dropped."""
    threshold, last = tl.load(CHOICE + 2 * head), tl.load(CHOICE + 2 * head + 1)
    return (race > threshold) | ((race == threshold) & (position <= last))


@triton.jit
def _descend(HISTOGRAMS, wanted, first, last):
    """The digits from level `first` to `last` of the `wanted`-th largest number, from the histograms of a head.

    Also how many of the numbers with these digits are among the `wanted` largest, and how many there are.
    """
    bins = tl.arange(0, BINS)
    digits, equal = wanted * 0, wanted * 0
    for level in range(first, last):
        counts = tl.load(HISTOGRAMS + level * BINS + bins)
        reached = tl.sum(counts, 0) - tl.cumsum(counts, 0) + counts  # in this bin and those above
        digit = tl.max(tl.where(reached >= wanted, bins, 0), 0)
        wanted -= tl.sum(tl.where(bins > digit, counts, 0), 0)
        equal = tl.sum(tl.where(bins == digit, counts, 0), 0)
        digits = digits * BINS + digit
    return digits, wanted, equal


# Kernels: what is dropped


@triton.jit
def _statistics(
    Q, K, STATISTICS, sb, sh, sl, heads, H, F, scale,
    D: tl.constexpr, DEEP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Per query: peak of its logits, 1 / sum of exp(logit - peak), f_tem / sum of the other same-frame shares."""
    head, frame, rows = _program(F, ROWS)
    query = _tile(_frame_of(Q, head, frame, H, F, sb, sh, sl), rows, F, sl, D, DEEP)
    own_keys = _frame_of(K, head, frame, H, F, sb, sh, sl)
    other_keys = _frame_of(K, head, 1 - frame, H, F, sb, sh, sl)
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    other_peak = tl.full([ROWS], float("-inf"), tl.float32)
    same, other, own = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    for start in range(0, F, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        mine = _logits(query, _tile(own_keys, columns, F, sl, D, DEEP), columns, F, scale)
        theirs = _logits(query, _tile(other_keys, columns, F, sl, D, DEEP), columns, F, scale)
        other_peak = tl.maximum(other_peak, tl.max(theirs, 1))
        higher = tl.maximum(peak, tl.maximum(tl.max(mine, 1), other_peak))
        shrink = tl.exp(peak - higher)
        itself = rows[:, None] == columns[None, :]
        mine = tl.exp(mine - higher[:, None])
        # summed without it: beside a strong self-attention the others' sum would lose its digits
        same = same * shrink + tl.sum(tl.where(itself, 0.0, mine), 1)
        own = own * shrink + tl.sum(tl.where(itself, mine, 0.0), 1)
        other = other * shrink + tl.sum(tl.exp(theirs - higher[:, None]), 1)
        peak = higher
    share = 1.0 / (same + own + other)
    factor = (tl.exp(other_peak - peak) * share + EPSILON) / (same * share + EPSILON * (F - 1))
    at = STATISTICS + head.to(tl.int64) * 2 * F + frame * F + rows
    plane = tl.cast(heads, tl.int64) * 2 * F  # a number of 1 is no tensor, and has no .to
    tl.store(at, peak, mask=rows < F)
    tl.store(at + plane, share, mask=rows < F)
    tl.store(at + 2 * plane, factor, mask=rows < F)


@triton.jit(do_not_specialize=["level"])
def _count(
    Q, K, STATISTICS, SEEDS, HISTOGRAMS, count, level, sb, sh, sl, heads, H, F, scale,
    TIES: tl.constexpr,
    D: tl.constexpr, DEEP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Histogram of the next digit of those races of a head that have the digits found so far.

    With TIES of those positions (as LARGEST - position) whose race is the threshold; nothing to do where all of them
    are wanted.
    """
    head, frame, rows = _program(F, ROWS)
    histograms = HISTOGRAMS + head.to(tl.int64) * 2 * LEVELS * BINS
    wanted = tl.load(count)
    shift = 8 * (LEVELS - 1 - level % LEVELS)
    end, threshold = F, wanted
    if TIES:
        threshold, wanted, equal = _descend(histograms, wanted, 0, LEVELS)
        digits, _, _ = _descend(histograms, wanted, LEVELS, level)
        end = tl.where(equal == wanted, 0, F)
    else:
        digits, _, _ = _descend(histograms, wanted, 0, level)
    query = _tile(_frame_of(Q, head, frame, H, F, sb, sh, sl), rows, F, sl, D, DEEP)
    keys = _frame_of(K, head, frame, H, F, sb, sh, sl)
    peak, share, factor = _factors(STATISTICS, head, heads, frame, rows, F)
    seed = tl.load(SEEDS + head)
    counts = tl.zeros([BINS], tl.int32)
    for start in range(0, end, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        logits = _logits(query, _tile(keys, columns, F, sl, D, DEEP), columns, F, scale)
        race, position = _race(logits, peak, share, factor, seed, frame, rows, columns, F)
        if TIES:
            number = LARGEST - position
            counted = race == threshold
        else:
            number = race
            counted = race > 0
        number = number >> shift
        counted = counted & ((number >> 8) == digits)
        number = tl.reshape(number & 255, [ROWS * COLUMNS])
        counts += tl.histogram(number, BINS, mask=tl.reshape(counted, [ROWS * COLUMNS]))
    bins = tl.arange(0, BINS)
    tl.atomic_add(histograms + level * BINS + bins, counts, mask=counts > 0)


@triton.jit
def _settle(HISTOGRAMS, CHOICE, count):
    """The threshold of a head, and the position up to which races equal to it are dropped."""
    head = tl.program_id(0)
    histograms = HISTOGRAMS + head.to(tl.int64) * 2 * LEVELS * BINS
    threshold, wanted, equal = _descend(histograms, tl.load(count), 0, LEVELS)
    inverse, _, _ = _descend(histograms, wanted, LEVELS, 2 * LEVELS)
    tl.store(CHOICE + 2 * head, threshold)
    tl.store(CHOICE + 2 * head + 1, tl.where(equal == wanted, LARGEST, LARGEST - inverse))


@triton.jit
def _mark(
    Q, K, MARKS, STATISTICS, SEEDS, CHOICE, sb, sh, sl, heads, H, F, scale,
    D: tl.constexpr, DEEP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Whether each pair [B, H, L, F] is dropped."""
    head, frame, rows = _program(F, ROWS)
    query = _tile(_frame_of(Q, head, frame, H, F, sb, sh, sl), rows, F, sl, D, DEEP)
    keys = _frame_of(K, head, frame, H, F, sb, sh, sl)
    peak, share, factor = _factors(STATISTICS, head, heads, frame, rows, F)
    for start in range(0, F, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        logits = _logits(query, _tile(keys, columns, F, sl, D, DEEP), columns, F, scale)
        race, position = _race(logits, peak, share, factor, tl.load(SEEDS + head), frame, rows, columns, F)
        inside = (rows < F)[:, None] & (columns < F)[None, :]
        tl.store(MARKS + head.to(tl.int64) * 2 * F * F + position, _drops(race, position, CHOICE, head), mask=inside)


# Kernels: attention


@triton.jit
def _forward(
    Q, K, V, OUT, NORMS, STATISTICS, SEEDS, CHOICE, sb, sh, sl, heads, H, F, scale,
    D: tl.constexpr, DEEP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Output of a block of queries, and log sum exp of the logits that they keep."""
    head, frame, rows = _program(F, ROWS)
    query = _tile(_frame_of(Q, head, frame, H, F, sb, sh, sl), rows, F, sl, D, DEEP)
    row_peak, share, factor = _factors(STATISTICS, head, heads, frame, rows, F)
    seed = tl.load(SEEDS + head)
    peak = tl.full([ROWS], -1e30, tl.float32)  # finite: all of a query's first tile may be dropped
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, DEEP], tl.float32)
    for other in tl.static_range(2):
        side = 1 - frame if other else frame
        keys, values = _frame_of(K, head, side, H, F, sb, sh, sl), _frame_of(V, head, side, H, F, sb, sh, sl)
        for start in range(0, F, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            logits = _logits(query, _tile(keys, columns, F, sl, D, DEEP), columns, F, scale)
            if not other:
                race, position = _race(logits, row_peak, share, factor, seed, frame, rows, columns, F)
                logits = tl.where(_drops(race, position, CHOICE, head), float("-inf"), logits)
            higher = tl.maximum(peak, tl.max(logits, 1))
            shrink = tl.exp(peak - higher)
            weights = tl.exp(logits - higher[:, None])
            total = total * shrink + tl.sum(weights, 1)
            value = _tile(values, columns, F, sl, D, DEEP)
            out = out * shrink[:, None] + _product(weights.to(value.dtype), value)
            peak = higher
    at, inside = _places(rows, F, H * D, D, DEEP)
    to = _frame_of(OUT, head, frame, H, F, 2 * F * H * D, D, H * D)
    tl.store(to + at, (out / total[:, None]).to(OUT.dtype.element_ty), mask=inside)
    tl.store(NORMS + head.to(tl.int64) * 2 * F + frame * F + rows, peak + tl.log(total), mask=rows < F)


@triton.jit
def _slopes(
    query, key, value, grad, norm, delta, STATISTICS, SEEDS, CHOICE, head, heads, frame, rows, columns, F, scale,
    SAME: tl.constexpr,
):  # fmt: skip
    """Attention weights of a tile, and the gradient of its scaled logits; 0 where there is no query or no key."""
    logits = _logits(query, key, columns, F, scale)
    weights = tl.where((rows < F)[:, None], tl.exp(logits - norm[:, None]), 0.0)
    if SAME:
        peak, share, factor = _factors(STATISTICS, head, heads, frame, rows, F)
        race, position = _race(logits, peak, share, factor, tl.load(SEEDS + head), frame, rows, columns, F)
        weights = tl.where(_drops(race, position, CHOICE, head), 0.0, weights)
    slopes = _product(grad, tl.trans(value)) - delta[:, None]
    return weights, weights * slopes


@triton.jit
def _query_gradients(
    Q, K, V, OUT, GRAD, QUERY_GRAD, NORMS, DELTAS, STATISTICS, SEEDS, CHOICE, sb, sh, sl, heads, H, F, scale,
    D: tl.constexpr, DEEP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of queries; and the products of output and its gradient, for `_key_gradients`."""
    head, frame, rows = _program(F, ROWS)
    query = _tile(_frame_of(Q, head, frame, H, F, sb, sh, sl), rows, F, sl, D, DEEP)
    at, inside = _places(rows, F, H * D, D, DEEP)
    grad = tl.load(_frame_of(GRAD, head, frame, H, F, 2 * F * H * D, D, H * D) + at, mask=inside, other=0.0)
    out = tl.load(_frame_of(OUT, head, frame, H, F, 2 * F * H * D, D, H * D) + at, mask=inside, other=0.0)
    delta = tl.sum(out.to(tl.float32) * grad.to(tl.float32), 1)
    tl.store(DELTAS + head.to(tl.int64) * 2 * F + frame * F + rows, delta, mask=rows < F)
    norm = _row(NORMS, head, frame, rows, F)
    query_grad = tl.zeros([ROWS, DEEP], tl.float32)
    for other in tl.static_range(2):
        side = 1 - frame if other else frame
        keys, values = _frame_of(K, head, side, H, F, sb, sh, sl), _frame_of(V, head, side, H, F, sb, sh, sl)
        for start in range(0, F, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            key, value = _tile(keys, columns, F, sl, D, DEEP), _tile(values, columns, F, sl, D, DEEP)
            _, slopes = _slopes(
                query, key, value, grad, norm, delta, STATISTICS, SEEDS, CHOICE,
                head, heads, frame, rows, columns, F, scale, other == 0,
            )  # fmt: skip
            query_grad += _product(slopes.to(key.dtype), key)
    to = _frame_of(QUERY_GRAD, head, frame, H, F, 2 * F * H * D, D, H * D)
    tl.store(to + at, (query_grad * scale).to(QUERY_GRAD.dtype.element_ty), mask=inside)


@triton.jit
def _key_gradients(
    Q, K, V, GRAD, KEY_GRAD, VALUE_GRAD, NORMS, DELTAS, STATISTICS, SEEDS, CHOICE, sb, sh, sl, heads, H, F, scale,
    D: tl.constexpr, DEEP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of keys and values."""
    head, frame, columns = _program(F, COLUMNS)
    key = _tile(_frame_of(K, head, frame, H, F, sb, sh, sl), columns, F, sl, D, DEEP)
    value = _tile(_frame_of(V, head, frame, H, F, sb, sh, sl), columns, F, sl, D, DEEP)
    key_grad, value_grad = tl.zeros([COLUMNS, DEEP], tl.float32), tl.zeros([COLUMNS, DEEP], tl.float32)
    for other in tl.static_range(2):
        side = 1 - frame if other else frame
        queries = _frame_of(Q, head, side, H, F, sb, sh, sl)
        grads = _frame_of(GRAD, head, side, H, F, 2 * F * H * D, D, H * D)
        for start in range(0, F, ROWS):
            rows = start + tl.arange(0, ROWS)
            query, grad = _tile(queries, rows, F, sl, D, DEEP), _tile(grads, rows, F, H * D, D, DEEP)
            norm, delta = _row(NORMS, head, side, rows, F), _row(DELTAS, head, side, rows, F)
            weights, slopes = _slopes(
                query, key, value, grad, norm, delta, STATISTICS, SEEDS, CHOICE,
                head, heads, side, rows, columns, F, scale, other == 0,
            )  # fmt: skip
            value_grad += _product(tl.trans(weights.to(grad.dtype)), grad)
            key_grad += _product(tl.trans(slopes.to(query.dtype)), query)
    at, inside = _places(columns, F, H * D, D, DEEP)
    to_key = _frame_of(KEY_GRAD, head, frame, H, F, 2 * F * H * D, D, H * D)
    to_value = _frame_of(VALUE_GRAD, head, frame, H, F, 2 * F * H * D, D, H * D)
    tl.store(to_key + at, (key_grad * scale).to(KEY_GRAD.dtype.element_ty), mask=inside)
    tl.store(to_value + at, value_grad.to(VALUE_GRAD.dtype.element_ty), mask=inside)


# Calls


def _choose(query: Tensor, key: Tensor, count: int, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Statistics float32 [3, B, H, L] of the queries; threshold and last tied position int32 [B, H, 2] of the heads."""
    b, heads, length, _ = query.shape
    statistics = torch.empty(3, b, heads, length, device=query.device)
    choice = torch.empty(b, heads, 2, dtype=torch.int32, device=query.device)
    histograms = torch.zeros(b, heads, 2 * LEVELS.value, BINS.value, dtype=torch.int32, device=query.device)
    wanted = torch.full((1,), count, dtype=torch.int32, device=query.device)
    sizes, constants = _sizes(query), _constants(query)
    _statistics[_grid(query)](query, key, statistics, *sizes, **constants)
    for level in range(2 * LEVELS.value):
        _count[_grid(query)](
            query, key, statistics, keys, histograms, wanted, level, *sizes,
            **_constants(query, TIES=level >= LEVELS.value),
        )  # fmt: skip
    _settle[(b * heads,)](histograms, choice, wanted)
    return statistics, choice


@torch.library.custom_op("dropmae::dropping_forward_triton", mutates_args=())
def _dropping_forward(
    query: Tensor, key: Tensor, value: Tensor, count: int, keys: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output; log sum exp of what is kept [B, H, L]; and what `_choose` gives."""
    query, key, value = _aligned(query, key, value)
    keys = keys.contiguous()
    out, norms = _output(query), _norms(query)
    with torch.cuda.device_of(query):
        statistics, choice = _choose(query, key, count, keys)
        _forward[_grid(query)](
            query, key, value, out, norms, statistics, keys, choice, *_sizes(query), **_constants(query)
        )
    return out, norms, statistics, choice


@_dropping_forward.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, count: int, keys: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    norms = _norms(query)
    return _output(query), norms, norms.new_empty(3, *norms.shape), keys.new_empty(*norms.shape[:2], 2)


@torch.library.custom_op("dropmae::dropping_backward_triton", mutates_args=())
def _dropping_backward(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor,
    out: Tensor, grad: Tensor, norms: Tensor, statistics: Tensor, choice: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of query, key and value."""
    query, key, value = _aligned(query, key, value)
    out, grad = (x.to(query.dtype).transpose(1, 2).contiguous() for x in (out, grad))
    keys, deltas = keys.contiguous(), torch.empty_like(norms)
    query_grad, key_grad, value_grad = _output(query), _output(query), _output(query)
    rest = (statistics, keys, choice, *_sizes(query))
    constants = _constants(query)
    with torch.cuda.device_of(query):
        _query_gradients[_grid(query)](
            query, key, value, out, grad, query_grad, norms, deltas, *rest, **constants
        )  # fmt: skip
        _key_gradients[_grid(query)](
            query, key, value, grad, key_grad, value_grad, norms, deltas, *rest, **constants
        )  # fmt: skip
    return query_grad, key_grad, value_grad


@_dropping_backward.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor,
    out: Tensor, grad: Tensor, norms: Tensor, statistics: Tensor, choice: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return _output(query), _output(query), _output(query)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    query, key, value, _, keys = inputs
    ctx.save_for_backward(query, key, value, keys, *output)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None, None
    query, key, value, keys, out, *rest = ctx.saved_tensors
    return *_dropping_backward(query, key, value, keys, out, grad, *rest), None, None


_dropping_forward.register_autograd(_differentiate, setup_context=_keep)


def _grid(query: Tensor) -> tuple[int]:
    """A program for each block of one frame's tokens; one dimension, as the others of a grid end at 65,535."""
    b, heads, length, _ = query.shape
    assert ROWS == COLUMNS
    return (b * heads * 2 * -(-(length // 2) // ROWS),)


def _sizes(query: Tensor) -> tuple[Any, ...]:
    b, heads, length, depth = query.shape
    return *query.stride()[:3], b * heads, heads, length // 2, depth**-0.5


def _constants(query: Tensor, **more: Any) -> dict[str, Any]:
    """What kernels are compiled for."""
    depth = query.shape[-1]
    sizes = {"D": depth, "DEEP": max(16, triton.next_power_of_2(depth)), "ROWS": ROWS, "COLUMNS": COLUMNS}
    return {**sizes, **more, "num_warps": WARPS, "num_stages": STAGES, "enable_fp_fusion": False}


def _aligned(*tensors: Tensor) -> list[Tensor]:
    """The tensors, of the same strides and with channels side by side; copied only if they are not."""
    if tensors[0].stride(-1) == 1 and len({tensor.stride() for tensor in tensors}) == 1:
        return list(tensors)
    return [tensor.contiguous() for tensor in tensors]


def _output(query: Tensor) -> Tensor:
    """[B, H, L, D] that is [B, L, H, D] in memory, so that joining the heads copies nothing."""
    b, heads, length, depth = query.shape
    return query.new_empty(b, length, heads, depth).transpose(1, 2)


def _norms(query: Tensor) -> Tensor:
    return torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
