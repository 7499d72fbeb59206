"""Attention gives the same whichever form is taken."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from dropmae.ops import attention as ops


@pytest.mark.parametrize(("queries", "keys"), [(1, 257), (300, 300), (256, 700), (600, 300)])
@pytest.mark.parametrize("heads", [1, 3])
def test_blocks_of_queries_give_the_same(queries: int, keys: int, heads: int) -> None:
    torch.manual_seed(0)
    packed = torch.randn(2, keys, 3, heads, 32).permute(2, 0, 3, 1, 4)
    query, key, value = packed[0][:, :, :queries], packed[1], packed[2]
    if queries > keys:
        query = torch.randn(2, heads, queries, 32)
    expected = functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(ops.in_blocks(query, key, value), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = ops.attention(query.bfloat16(), key.bfloat16(), value.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=0.03, rtol=0.03)


def test_gradients_take_another_way() -> None:
    query, key, value = (torch.randn(1, 2, 300, 16, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    ops.attention(query, key, value).sum().backward()
    assert all(part.grad is not None for part in (query, key, value))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_exported_graph_has_only_operators_of_pytorch(dtype: torch.dtype) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ops.attention(x, x, x)

    with torch.no_grad():
        graph = torch.export.export(Module(), (torch.randn(1, 1, 300, 8, dtype=dtype),)).graph
    assert not [node.name for node in graph.nodes if "dropmae" in str(node.target)]
