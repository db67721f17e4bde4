"""The MLP in chunks of tokens against the plain layers."""

import pytest
import torch
import torch.nn.functional as F

from focal_mm.layers.mlp import Mlp
from focal_mm.ops import mlp as module


@pytest.fixture
def chunked(monkeypatch):
    """All MLPs in chunks of three tokens (hidden 32); returns the chunked calls."""
    monkeypatch.setattr(module, "LARGE_BYTES", 0)
    monkeypatch.setattr(module, "CHUNK_BYTES", 3 * 32 * 8)
    calls = []
    apply = module._ChunkedMlp.apply

    def counted(*arguments):
        calls.append(arguments[-1])
        return apply(*arguments)

    monkeypatch.setattr(module._ChunkedMlp, "apply", counted)
    return calls


def arguments():
    torch.manual_seed(0)
    shapes = (2, 5, 4, 8), (32, 8), (32,), (8, 32), (8,)
    return [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]


def test_outputs_and_gradients_are_those_of_the_layers(chunked):
    given = arguments()
    x, weight1, bias1, weight2, bias2 = given
    expected = F.linear(F.gelu(F.linear(x, weight1, bias1)), weight2, bias2)
    output = module.mlp(*given)
    assert chunked == [True]
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn(output.shape, dtype=output.dtype)
    grads = torch.autograd.grad(output, given, weight)
    torch.testing.assert_close(
        grads, torch.autograd.grad(expected, given, weight), rtol=1e-11, atol=1e-11
    )
    # A gradient that is not contiguous.
    weight = torch.randn(5, 4, 8, 2, dtype=output.dtype).permute(3, 0, 1, 2)
    output = module.mlp(*given)
    expected = F.linear(F.gelu(F.linear(x, weight1, bias1)), weight2, bias2)
    grads = torch.autograd.grad(output, given, weight)
    torch.testing.assert_close(
        grads, torch.autograd.grad(expected, given, weight), rtol=1e-11, atol=1e-11
    )


def test_nothing_is_kept_where_no_gradient_is_wanted(chunked):
    given = arguments()
    with torch.no_grad():
        output = module.mlp(*given)
    assert chunked == [False]
    torch.testing.assert_close(output, module.mlp(*given).detach())
    assert not module.mlp(*(tensor.detach() for tensor in given)).requires_grad
    assert chunked == [False, True, False]


@pytest.mark.parametrize("frozen", ["fc1", "fc2", "input"])
def test_frozen_parts_get_no_gradient_and_the_others_do(chunked, frozen):
    layer = Mlp(8, 32, 0.0).double()
    x = torch.randn(7, 8, dtype=torch.float64, requires_grad=frozen != "input")
    if frozen != "input":
        getattr(layer, frozen).requires_grad_(False)
    layer(x).sum().backward()
    assert chunked == [True]
    assert (x.grad is None) == (frozen == "input")
    for name in ("fc1", "fc2"):
        linear = getattr(layer, name)
        assert (linear.weight.grad is None) == (frozen == name)
        assert (linear.bias.grad is None) == (frozen == name)


def test_layers_that_are_more_than_a_weight_are_called(chunked):
    layer, x = Mlp(8, 32, 0.0), torch.randn(7, 8)
    seen = []
    handle = layer.fc1.register_forward_hook(lambda *call: seen.append(call[1][0]))
    hooked = layer(x)
    handle.remove()
    assert len(seen) == 1
    assert not chunked
    torch.testing.assert_close(layer(x), hooked)
    assert len(chunked) == 1

    class Adapted(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    layer.fc2.__class__ = Adapted
    torch.testing.assert_close(layer(x), hooked + 1)
    dropping = Mlp(8, 32, 0.5)
    assert (dropping(torch.ones(64, 8)) == 0).any()
    assert len(chunked) == 1


def test_mixed_precision_and_compilers_get_the_plain_layers(chunked):
    layer, x = Mlp(8, 32, 0.0), torch.randn(7, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    compiled = torch.compile(layer, backend="eager", fullgraph=True, dynamic=False)
    compiled(x)
    assert not chunked
