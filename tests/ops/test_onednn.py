"""Linear layers and the MLP by oneDNN, in chunks of tokens, against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from focal_mm.layers.linear import Mlp, project
from focal_mm.ops import onednn as module
from focal_mm.ops.common.log import log_once
from focal_mm.ops.onednn import linear, mlp

REASON = module.unavailable_reason()
onednn = pytest.mark.skipif(bool(REASON), reason=f"oneDNN is not used: {REASON}")
CLOSE = dict(rtol=1e-5, atol=1e-5)


@pytest.fixture
def products(monkeypatch):
    """MLPs in chunks of three tokens (hidden 32); returns the products' sizes."""
    monkeypatch.setattr(module, "CHUNK_BYTES", 3 * 32 * 4)
    seen = []

    def counting(call):
        def counted(*arguments):
            seen.append(len(arguments[0]))
            return call(*arguments)

        return counted

    for name in ("product", "product_gelu"):
        monkeypatch.setattr(module, name, counting(getattr(module, name)))
    module.unavailable_reason()
    seen.clear()
    return seen


def plain_mlp(x, weight1, bias1, weight2, bias2):
    return F.linear(F.gelu(F.linear(x, weight1, bias1)), weight2, bias2)


MLP_SHAPES = (2, 5, 4, 8), (32, 8), (32,), (8, 32), (8,)
LINEAR_SHAPES = (2, 5, 4, 8), (24, 8), (24,)


def arguments(shapes, dtype=torch.float32):
    torch.manual_seed(0)
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    return [tensor.to(dtype).requires_grad_() for tensor in tensors]


@onednn
@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize(
    ("fast", "plain", "shapes", "calls"),
    [
        (linear, F.linear, LINEAR_SHAPES, [40, 40]),
        (mlp, plain_mlp, MLP_SHAPES, 4 * [*([3] * 13), 1]),
    ],
    ids=["linear", "mlp"],
)
def test_outputs_and_gradients_are_those_of_the_layers_in_float64(
    fast, plain, shapes, calls, contiguous, products
):
    given, exact = arguments(shapes), arguments(shapes, torch.float64)
    output, expected = fast(*given), plain(*exact)
    torch.testing.assert_close(output.double(), expected, **CLOSE)
    weight = torch.randn(output.shape, dtype=torch.float64)
    if not contiguous:
        weight = torch.randn(*output.shape[1:], 2, dtype=torch.float64).movedim(-1, 0)
    grads = torch.autograd.grad(output, given, weight.float())
    wanted = torch.autograd.grad(expected, exact, weight)
    for grad, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad.double(), want, rtol=1e-4, atol=1e-4)
    assert sorted(products) == sorted(calls)
    with torch.no_grad():
        torch.testing.assert_close(fast(*given).double(), expected, **CLOSE)


@onednn
@pytest.mark.parametrize("frozen", ["fc1", "fc2", "input"])
def test_frozen_parts_get_no_gradient_and_the_others_do(products, frozen):
    layer = Mlp(8, 32, 0.0)
    x = torch.randn(7, 8, requires_grad=frozen != "input")
    if frozen != "input":
        getattr(layer, frozen).requires_grad_(False)
    layer(x).sum().backward()
    project(layer.fc1, x).sum().backward()
    assert products
    assert (x.grad is None) == (frozen == "input")
    for name in ("fc1", "fc2"):
        linear = getattr(layer, name)
        assert (linear.weight.grad is None) == (frozen == name)
        assert (linear.bias.grad is None) == (frozen == name)


@onednn
def test_layers_that_are_more_than_a_weight_are_called(products):
    layer, x = Mlp(8, 32, 0.0), torch.randn(7, 8)
    seen = []
    handle = layer.fc1.register_forward_hook(lambda *call: seen.append(call[1][0]))
    hooked = layer(x)
    project(layer.fc1, x)
    handle.remove()
    assert len(seen) == 2
    assert products == [7]  # Those of the other layer.
    products.clear()
    torch.testing.assert_close(layer(x), hooked, **CLOSE)
    assert len(products) == 6
    products.clear()

    class Adapted(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    layer.fc2.__class__ = Adapted
    torch.testing.assert_close(layer(x), hooked + 1, **CLOSE)
    assert products == [7]
    dropping = Mlp(8, 32, 0.5)
    assert (dropping(torch.ones(64, 8)) == 0).any()


@pytest.mark.parametrize("layer", [Mlp(8, 32, 0.0), torch.nn.Linear(8, 5)])
def test_what_onednn_is_not_for_goes_to_pytorch(products, layer):
    call = layer if isinstance(layer, Mlp) else lambda x: project(layer, x)
    x = torch.randn(7, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert call(x).dtype == torch.bfloat16
    compiled = torch.compile(call, backend="eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(x), call(x), **CLOSE)
    products.clear()
    compiled(x)
    assert call(x[:0]).shape == (0, call(x[:1]).shape[1])
    products.clear()
    with torch.backends.mkldnn.flags(enabled=False):
        call(x)
    layer.double()(x.double())
    layer.float()
    with FlopCounterMode(display=False) as counter:
        call(x)
    weights = [p for p in layer.parameters() if p.ndim == 2]
    assert counter.get_total_flops() == 2 * sum(len(x) * p.numel() for p in weights)
    with FakeTensorMode(allow_non_fake_inputs=True) as fakes:
        assert len(call(fakes.from_tensor(x))) == len(x)
    assert not products


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (lambda *_: torch.zeros(3, 5), "differ"),
        (lambda *_: torch.ops.mkldnn.no_such_operator(), "no_such_operator"),
    ],
)
def test_a_pytorch_whose_operator_differs_is_not_used_and_that_is_said(
    broken, reason, monkeypatch, caplog
):
    module.unavailable_reason.cache_clear()
    log_once.cache_clear()
    monkeypatch.setattr(module, "product", broken)
    given = arguments(LINEAR_SHAPES)
    for _ in range(2):
        torch.testing.assert_close(linear(*given), F.linear(*given))
    module.unavailable_reason.cache_clear()
    (line,) = caplog.messages
    assert reason in line


@pytest.mark.parametrize("without", [1, 2])
def test_an_mlp_may_lack_biases(without):
    layer = Mlp(8, 32, 0.0)
    sizes = ((8, 32), (32, 8))[without - 1]
    setattr(layer, f"fc{without}", torch.nn.Linear(*sizes, bias=False))
    x = torch.randn(7, 8)
    torch.testing.assert_close(layer(x), layer.fc2(F.gelu(layer.fc1(x))), **CLOSE)
