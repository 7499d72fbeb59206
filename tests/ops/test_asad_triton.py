"""The Triton kernels of attention dropout, on a GPU where there is one, else on the CPU under Triton's interpreter.

The interpreter takes some 10 ms for each block of a grid, so shapes are small and tiles too. What only a compiler would
find, such as numbers that are constants because they are 1, is found by compiling for a GPU without having it. With
FAIL_WITHOUT_CUDA=1 the tests that need a GPU fail where there is none.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dropmae.ops import asad, noise, switch

if find_spec("triton") is None:
    pytest.skip("triton is not installed: pip install 'dropmae[kernels]'", allow_module_level=True)

from dropmae.ops import asad_triton

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
TYPES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Error allowed beside float64, absolute and relative: some units in the last place of what is returned."""


@pytest.fixture(autouse=True, scope="module")
def quick_interpreter() -> Iterator[None]:
    """A quarter of the interpreter's time: it prepares triton.language anew at each call of a kernel's functions, and
    repeats integer sums in 64 bits to find overflow, which is meant here: the hash wraps around."""
    if CUDA:
        yield
        return
    from triton.runtime import interpreter

    builder, function = interpreter.interpreter_builder, interpreter.InterpretedFunction
    call, options, prepared = function.__call__, builder.options, {id(asad_triton.__dict__)}

    def call_prepared(self: Any, *args: Any, **kwargs: Any) -> Any:
        where = id(self.fn.__globals__)
        if where in prepared:
            return self.rewrite()(*args, **kwargs)
        prepared.add(where)
        return call(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "options", dataclasses.replace(options, sanitize_overflow=False))
        patch.setattr(function, "__call__", call_prepared)
        yield


@pytest.fixture
def gpu() -> None:
    if not CUDA:
        assert os.environ.get("FAIL_WITHOUT_CUDA") != "1", "FAIL_WITHOUT_CUDA=1, and there is no GPU"
        pytest.skip("needs a GPU")


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles and a ragged last one, where the interpreter would else see a single one."""
    monkeypatch.setattr(asad_triton, "ROWS", 16)
    monkeypatch.setattr(asad_triton, "COLUMNS", 16)


def triple(shape: tuple[int, ...], sharpness: float = 1.0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """query, key and value as the fused projection makes them; logits have about the given deviation."""
    b, heads, length, depth = shape
    generator = torch.Generator().manual_seed(length + depth)
    packed = torch.randn(b, length, 3, heads, depth, generator=generator) * sharpness**0.5
    return [t.to(DEVICE, dtype).requires_grad_() for t in packed.permute(2, 0, 3, 1, 4).unbind(0)]


def head_keys(seed: int, samples: int, heads: int) -> Tensor:
    keys = noise.keys(seed, torch.arange(samples))[:, None]
    return noise.fold(keys, torch.arange(heads, dtype=torch.int32)).to(DEVICE)


def reference_pairs(query: Tensor, key: Tensor, count: int, keys: Tensor) -> Tensor:
    return asad.draw_pairs(asad.drop_weights(asad._logits(query.detach(), key.detach())), count, keys)


def exact(tensors: list[Tensor], dropped: Tensor, upstream: Tensor) -> list[Tensor]:
    """Masked attention and its gradients in float64."""
    query, key, value = doubles = [t.detach().double().requires_grad_() for t in tensors]
    logits = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).masked_fill(dropped, float("-inf"))
    out = torch.softmax(logits, -1) @ value
    return [out.detach(), *torch.autograd.grad(out, doubles, upstream.double())]


def check(shape: tuple[int, ...], ratio: float, sharpness: float, dtype: torch.dtype) -> None:
    """The pairs of the reference, exactly N_d of them, and the output and gradients that follow from them."""
    query, key, value = tensors = triple(shape, sharpness, dtype)
    keys = head_keys(3, *shape[:2])
    count = asad.drop_count(ratio, shape[2] // 2)
    pairs = asad_triton.dropped_pairs(query.detach(), key.detach(), count, keys)
    assert (pairs.sum((-1, -2)) == count).all()
    differing = int((pairs != reference_pairs(query, key, count, keys)).sum())
    assert differing <= 2e-4 * pairs.numel(), f"{differing} pairs differ from the reference's"
    out = asad_triton.attention(query, key, value, count, keys)
    upstream = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)
    ours = [out, *torch.autograd.grad(out, tensors, upstream)]
    for made, right in zip(ours, exact(tensors, asad.spread(pairs), upstream)):
        assert made.dtype == dtype
        size = float(right.abs().max())
        torch.testing.assert_close(made.double(), right, atol=TYPES[dtype] * max(size, 1.0), rtol=TYPES[dtype])


def test_the_interpreter_is_on_where_there_is_no_gpu() -> None:
    assert asad_triton.INTERPRETED.value != CUDA, "TRITON_INTERPRET must be set before anything imports triton"


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    ("shape", "ratio", "sharpness", "dtype"),
    [
        ((1, 2, 38, 20), 0.3, 3.0, torch.float32),
        ((2, 1, 34, 16), 0.1, 0.1, torch.bfloat16),
        ((1, 1, 42, 32), 0.7, 10.0, torch.float16),
        ((1, 1, 32, 128), 1.0, 1.0, torch.float32),
        ((1, 1, 30, 5), 0.5, 1.0, torch.bfloat16),
    ],
)
def test_pairs_output_and_gradients(shape: tuple[int, ...], ratio: float, sharpness: float, dtype: torch.dtype) -> None:
    check(shape, ratio, sharpness, dtype)


@pytest.mark.parametrize(("frame", "count"), [(2, 1), (2, 4), (3, 5), (65, 65 * 2 * 5)])
def test_odd_and_tiny_frames(frame: int, count: int) -> None:
    query, key, _ = (t.detach() for t in triple((1, 1, 2 * frame, 16), 2.0))
    keys = head_keys(1, 1, 1)
    pairs = asad_triton.dropped_pairs(query, key, count, keys)
    assert int(pairs.sum()) == count
    assert int((pairs != reference_pairs(query, key, count, keys)).sum()) <= 2


@pytest.mark.parametrize("dtype", list(TYPES))
def test_forward_itself_drops_exactly_so_many(dtype: torch.dtype) -> None:
    """With one-hot values the output is the attention matrix, in which a dropped pair is an exact zero."""
    query, key, _ = (t.detach() for t in triple((1, 1, 28, 28), 1.0, dtype))
    value = torch.eye(28, dtype=dtype, device=DEVICE).expand(1, 1, 28, 28)
    keys, count = head_keys(5, 1, 1), asad.drop_count(0.4, 14)
    share = asad_triton.attention(query, key, value, count, keys)
    assert torch.equal(share == 0, asad.spread(asad_triton.dropped_pairs(query, key, count, keys)))
    assert int((share == 0).sum()) == count


def test_equal_races_are_settled_by_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """All logits equal and only four different random numbers: hundreds of races tie, also with the threshold."""
    if CUDA:
        pytest.skip("the kernels' random numbers can be replaced in the interpreter alone")
    fine = asad_triton._mix
    monkeypatch.setattr(asad_triton, "_mix", lambda x: fine(x) & 0xC0000000)
    monkeypatch.setattr(noise, "mix", lambda x, mix=noise.mix: mix(x) & -(1 << 30))
    keys = torch.tensor([[7]], dtype=torch.int32)
    zeros = torch.zeros(1, 1, 38, 16)
    race = (1 / noise.exponential(keys[0], 38 * 19)).view(2, 19, 19)
    race.diagonal(dim1=1, dim2=2).zero_()
    order = torch.sort(race.flatten(), descending=True, stable=True)
    for count in (60, 300):
        assert order.values[count - 1] == order.values[count], "the threshold must fall between equal races"
        expected = torch.zeros(38 * 19, dtype=torch.bool)
        expected[order.indices[:count]] = True
        assert torch.equal(asad_triton.dropped_pairs(zeros, zeros, count, keys).flatten(), expected)


def test_where_what_dominated_is_dropped_the_rest_is_still_a_softmax() -> None:
    query, key, value = (t.detach() for t in triple((1, 1, 12, 16)))
    query[..., 0], key[..., 0] = 30.0, 0.0
    key[..., 3, 0] = 20.0  # logit 150 beside about 0: the others' exponentials vanish
    keys, count = head_keys(1, 1, 1), 34  # 30 pairs are of the second frame, all far likelier than the first frame's
    dropped = asad.spread(asad_triton.dropped_pairs(query, key, count, keys))
    logits = (query @ key.transpose(-1, -2)).double() * 16**-0.5
    kept = logits.masked_fill(dropped, float("-inf"))
    assert float((logits.amax(-1) - kept.amax(-1)).max()) > 100, "the case does not test what it should"
    out = asad_triton.attention(query, key, value, count, keys)
    torch.testing.assert_close(out.double(), torch.softmax(kept, -1) @ value.double(), atol=1e-4, rtol=1e-4)


def test_other_strides_and_repeated_runs_change_no_bit() -> None:
    query, key, value = triple((1, 2, 12, 16))
    keys = head_keys(2, 1, 2)
    results: list[list[Tensor]] = []
    for other_value in (value, value, value.contiguous()):  # strides that differ are made alike
        out = asad_triton.attention(query, key, other_value, 24, keys)
        results.append([out, *torch.autograd.grad(out.square().sum(), (query, key, value))])
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))


def test_under_torch_compile() -> None:
    tensors = triple((1, 1, 8, 16))
    keys = head_keys(0, 1, 1)

    def squares(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return asad_triton.attention(query, key, value, 8, keys).square().sum()

    found: list[list[Tensor]] = []
    for run in (squares, torch.compile(squares, backend="aot_eager", fullgraph=True)):
        loss = run(tensors[0], tensors[1], tensors[2])
        found.append([loss, *torch.autograd.grad(loss, tensors)])
    for plain, compiled in zip(*found):
        torch.testing.assert_close(compiled, plain)


def test_registered_shapes_are_the_true_ones() -> None:
    query, key, value = (t.detach() for t in triple((1, 2, 8, 16)))
    keys = head_keys(0, 1, 2)
    torch.library.opcheck(
        asad_triton._dropping_forward, (query, key, value, 8, keys), test_utils=["test_schema", "test_faketensor"]
    )


def test_without_triton_it_says_so_once_and_names_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dropmae.ops.asad_triton", None)
    monkeypatch.delattr("dropmae.ops.asad_triton")
    switch.note.cache_clear()
    with switch.use("fast"), pytest.warns(RuntimeWarning, match=r"plain PyTorch.*Triton cannot be imported"):
        assert switch.dropped_attention("cuda", torch.float32, 32) == "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert switch.dropped_attention("cuda", torch.float32, 32) == "torch"


@pytest.mark.parametrize(("dtype", "depth"), [(torch.float64, 32), (None, 32), (torch.float32, 256)])
def test_what_the_kernels_do_not_take_is_named(dtype: torch.dtype | None, depth: int) -> None:
    switch.note.cache_clear()
    with switch.use("fast"), pytest.warns(RuntimeWarning, match=r"float64|mixture|256 channels"):
        assert switch.dropped_attention("cuda", dtype, depth) == "torch"


def test_a_gpu_that_cannot_run_them_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    if CUDA:
        pytest.skip("there is a GPU")
    asad_triton.obstacle.cache_clear()
    switch.note.cache_clear()
    with switch.use("fast"), pytest.warns(RuntimeWarning, match="forms the matrix of all pairs: "):
        assert switch.dropped_attention("cuda", torch.float32, 32) == "torch"
    asad_triton.obstacle.cache_clear()


@pytest.mark.parametrize("name", ["reference", "torch"])
def test_the_switch_is_obeyed(name: str) -> None:
    with switch.use(name):
        assert switch.dropped_attention("cuda", torch.float32, 32) == name


# Compiled, not run


class Absent:
    """Stands for the driver of a GPU that is not there."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


def compile_only(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Calls the op on the CPU with each kernel compiled, as a launch would, and not run; prints what comes out."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    absent: Any = Absent()
    driver.set_active(absent)
    run: Any = JITFunction.run

    def build(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        made = run(self, *args, grid=grid, warmup=True, **kwargs)
        code = made.asm["ptx"]
        products = sorted(set(re.findall(r"wgmma\.mma_async\S*\.(m64n\d+k\d+)", code)))
        print(self.__name__, len(made.asm["cubin"]) > 0, "fma.rn.f32" in code, *products)

    JITFunction.run = build
    b, heads, length, depth = shape
    query, key, value = torch.zeros(b, length, 3, heads, depth, dtype=dtype).permute(2, 0, 3, 1, 4).unbind(0)
    keys = torch.zeros(b, heads, dtype=torch.int32)
    out, *kept = asad_triton._dropping_forward(query, key, value, 8, keys)
    asad_triton._dropping_backward(query, key, value, keys, out, query, *kept)


@pytest.mark.parametrize("shape", [(1, 1, 8, 32), (2, 3, 98, 32)], ids=["as obstacle tries", "as usual"])
def test_every_kernel_compiles_for_a_gpu_that_is_not_there(shape: tuple[int, ...], tmp_path: Path) -> None:
    """For compute capability 9.0; and the products that make the logits are the same in each, without contraction."""
    code = f"import torch, test_asad_triton as t; t.compile_only({shape}, torch.bfloat16)"
    folders = [str(Path(__file__).parent), *(path for path in sys.path if path)]
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(folders)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, set[str]] = {}
    for line in done.stdout.splitlines():
        name, binary, contracted, *products = line.split()
        assert (binary, contracted) == ("True", "False"), line
        found.setdefault(name, set()).update(products)
    assert found.pop("_settle") == set()
    assert set(found) == {"_statistics", "_count", "_forward", "_query_gradients", "_key_gradients"}
    assert all("m64n64k16" in products for products in found.values()), found


# On a GPU


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", list(TYPES))
@pytest.mark.parametrize("shape", [(4, 16, 392, 32), (2, 3, 130, 64), (1, 2, 258, 128), (2, 2, 98, 24)])
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 10.0])
def test_at_full_size(shape: tuple[int, ...], sharpness: float, dtype: torch.dtype) -> None:
    for ratio in (0.1, 0.7):
        check(shape, ratio, sharpness, dtype)


@pytest.mark.usefixtures("gpu")
def test_attention_takes_the_kernels() -> None:
    query, key, value = triple((1, 2, 24, 24), 1.0, torch.bfloat16)
    stream = noise.keys(3, torch.arange(1)).to(DEVICE)
    with switch.use("fast"):
        assert switch.dropped_attention("cuda", torch.bfloat16, 24) == "triton"
        out = asad.attention(query, key, value, 48, stream)
    with switch.use("reference"):
        torch.testing.assert_close(out, asad.attention(query, key, value, 48, stream), atol=0.02, rtol=0.02)


@pytest.mark.usefixtures("gpu")
def test_inclusion_agrees_with_the_reference_on_the_cpu() -> None:
    generator = torch.Generator().manual_seed(4)
    query, key = torch.randn(2, 6, 16, generator=generator).unbind(0)
    keys = noise.keys(5, torch.arange(40_000)).view(-1, 100)
    shape = (400, 100, 6, 16)
    ours = asad_triton.dropped_pairs(query.cuda().expand(shape), key.cuda().expand(shape), 4, keys.cuda())
    theirs = asad.draw_pairs(asad.drop_weights(asad._logits(query, key)).expand(400, 100, -1, -1), 4, keys)
    assert (ours.sum((-1, -2)) == 4).all()
    assert float((ours.cpu() != theirs).float().mean()) < 1e-4
