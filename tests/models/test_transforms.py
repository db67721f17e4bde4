"""The backbone under the transforms and tools of PyTorch, against the plain math.

The reference is the readable attention ('naive') and PyTorch's linear layers, both in
float64, where nothing of ours has a derivative of its own.
"""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize

from focal_mm import FocalTransformer
from focal_mm.layers import FocalAttention
from focal_mm.ops import BACKENDS, backend_support

ARCH = dict(embed_dims=8, depths=(2, 1), num_heads=(1, 2))
OPTIONS = {"window": dict(window_size=4, expand_sizes=2, focal_windows=3)}
OPTIONS["window"]["use_shift"] = True
OPTIONS["topk"] = dict(window_size=4, topk=20)
CASES = [
    (item.key_selection, item.name, dtype)
    for item in backend_support()
    if item.ok and item.name != "triton"
    for dtype in (torch.float32, torch.float64)
]
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated"),
]


def build(selection, backend="auto"):
    torch.manual_seed(0)
    model = FocalTransformer(
        ARCH,
        out_indices=(0, 1),
        key_selection=selection,
        attn_backend=backend,
        drop_path_rate=0.0,
        **OPTIONS.get(selection, {}),
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def loss_of(model, x, weights=None):
    outputs = functional_call(model, weights or {}, (x,))
    return sum(out.square().mean() + out.sum().cos() for out in outputs)


@pytest.fixture(params=CASES, ids=lambda case: "-".join(map(str, case)))
def case(request):
    """A model, its reference in float64, and a function that compares results."""
    selection, backend, dtype = request.param
    model = build(selection, backend).to(dtype)
    reference = build(selection, "naive").double()

    def check(compute):
        x = torch.randn(2, 3, 30, 21, generator=torch.Generator().manual_seed(1))
        got, want = compute(model, x.to(dtype)), compute(reference, x.double())
        assert set(got) == set(want)
        largest = max(value.abs().max() for value in want.values())
        assert largest > 1e-3
        for name, value in want.items():
            error = (got[name].double() - value).abs().max() / largest
            assert error < TOLERANCE[dtype], f"{name}: {error:.1e}"

    return check


def weights_of(model):
    return {name: p.detach() for name, p in model.named_parameters()}


def named_grads(model, value):
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(value, parameters), strict=True))


def gradient_penalty(model, x):
    x = x.requires_grad_()
    (slope,) = torch.autograd.grad(loss_of(model, x), x, create_graph=True)
    return named_grads(model, slope.square().sum())


def func_grad(model, x):
    return grad(partial(loss_of, model, x))(weights_of(model))


def per_sample_gradients(model, x):
    each = grad(lambda weights, image: loss_of(model, image[None], weights))
    return vmap(each, in_dims=(None, 0))(weights_of(model), x)


def func_jvp(model, x):
    value, tangent = jvp(partial(loss_of, model), (x,), (x.cos(),))
    return {"value": value, "tangent": tangent}


def tangents(model, x):
    """Forward-mode differentiation without torch.func, in all weights."""
    with forward_ad.dual_level():
        duals = {
            name: forward_ad.make_dual(value, value.sin())
            for name, value in weights_of(model).items()
        }
        result = forward_ad.unpack_dual(loss_of(model, x, duals))
    return {"value": result.primal, "tangent": result.tangent}


def hessian_product(model, x):
    weights = weights_of(model)
    first = grad(partial(loss_of, model, x))
    direction = {name: value.sin() for name, value in weights.items()}
    return jvp(first, (weights,), (direction,))[1]


def batched_backward(model, x):
    """Several backward passes at once, as for a Jacobian."""
    outputs = model(x.requires_grad_())
    several = torch.stack([outputs[-1].cos(), outputs[-1].sin()]).detach()
    (rows,) = torch.autograd.grad(outputs[-1], x, several, is_grads_batched=True)
    return {"rows": rows}


@pytest.mark.parametrize(
    "compute",
    [
        gradient_penalty,
        func_grad,
        per_sample_gradients,
        func_jvp,
        tangents,
        hessian_product,
        batched_backward,
    ],
    ids=lambda compute: compute.__name__,
)
def test_derivatives_of_all_kinds(case, compute):
    case(compute)


FACTOR = 1.5
"""What each way of changing a linear layer does to its output."""


class Adapter(nn.Module):
    """As LoRA does: the layer, and another one's output added to its own."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.added = copy.deepcopy(layer)
        with torch.no_grad():
            for parameter in self.added.parameters():
                parameter.mul_(FACTOR - 1)

    def forward(self, x):
        return self.layer(x) + self.added(x)


class Scaled(nn.Module):
    def forward(self, weight):
        return FACTOR * weight


def wrap(parent, name, layer):
    setattr(parent, name, Adapter(layer))


def parametrize_both(parent, name, layer):
    for parameter in ("weight", "bias"):
        parametrize.register_parametrization(layer, parameter, Scaled())


def hook_output(parent, name, layer):
    layer.register_forward_hook(lambda layer, inputs, output: FACTOR * output)


def hook_weight(parent, name, layer):
    def scale(layer, inputs):
        layer.weight, layer.bias = (FACTOR * start for start in starts)

    starts = nn.Parameter(layer.weight.detach()), nn.Parameter(layer.bias.detach())
    del layer.weight, layer.bias
    layer.register_forward_pre_hook(scale)


def replace_forward(parent, name, layer):
    plain = layer.forward
    layer.forward = lambda x: FACTOR * plain(x)


def change_class(parent, name, layer):
    class Other(nn.Linear):
        def forward(self, x):
            return FACTOR * super().forward(x)

    layer.__class__ = Other


def linears_of(model):
    """Linear layers with their parents and names there."""
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
    ]


@pytest.fixture(params=BACKENDS)
def model(request):
    """The backbone with each key selection."""
    return build(request.param)


@pytest.fixture
def image():
    return torch.randn(2, 3, 30, 21, requires_grad=True)


def scale_weights(model):
    """The same model with the factor in the weights of its linear layers."""
    folded = copy.deepcopy(model)
    with torch.no_grad():
        for _, _, layer in linears_of(folded):
            layer.weight.mul_(FACTOR)
            layer.bias.mul_(FACTOR)
    return folded


def check_same(got, want, image):
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    gradients = [
        torch.autograd.grad(sum(out.cos().sum() for out in outputs), image)[0]
        for outputs in (got, want)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        wrap,
        parametrize_both,
        hook_output,
        hook_weight,
        replace_forward,
        change_class,
    ],
    ids=lambda change: change.__name__,
)
def test_what_changes_a_linear_layer_changes_all_that_it_does(change, model, image):
    """Projections of pooled tokens, biases and the MLP included."""
    folded = scale_weights(model)
    for place in linears_of(model):
        change(*place)
    check_same(model(image), folded(image), image)


def test_hooks_of_all_modules_are_called(model, image):
    folded = scale_weights(model)

    def scale(module, inputs, output):
        return FACTOR * output if isinstance(module, nn.Linear) else None

    want = folded(image)
    handle = register_module_forward_hook(scale)
    try:
        got = model(image)
    finally:
        handle.remove()
    check_same(got, want, image)


@pytest.mark.parametrize("name", ["qkv", "proj", "fc1", "fc2", "drop", "proj_drop"])
def test_hooks_see_each_call_and_each_gradient(name, model, image):
    want = torch.autograd.grad(loss_of(model, image), image)[0]
    seen = []
    layers = [m for path, m in model.named_modules() if path.split(".")[-1] == name]
    layers = [layer for layer in layers if not isinstance(layer, nn.Conv2d)]
    for layer in layers:
        layer.register_forward_hook(lambda *_: seen.append("forward"))
        layer.register_full_backward_hook(lambda *_: seen.append("backward"))
    got = torch.autograd.grad(loss_of(model, image), image)[0]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    # Fine and pooled tokens are projected; an MLP drops after both of its layers.
    levels = 1 + model.stages[0].blocks[0].geometry.coarse_levels
    calls = {"qkv": levels, "drop": 2}.get(name, 1)
    assert seen.count("forward") == seen.count("backward") == calls * len(layers)


def test_quantised_linear_layers_run(model, image, relative_error):
    """They have no weights that one could read."""
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    kinds = {type(module) for module in quantised.modules()}
    assert nn.Linear not in kinds
    for got, want in zip(quantised(image), model(image), strict=True):
        assert 1e-4 < relative_error(got, want) < 0.1


@pytest.mark.parametrize(
    "follow",
    [
        lambda model, x: torch.export.export(model, (x,)).module(),
        lambda model, x: torch.func.functionalize(model),
        lambda model, x: torch.jit.trace(model, x, check_trace=False),
    ],
    ids=["export", "functionalize", "trace"],
)
def test_graphs_of_the_model_compute_what_it_does(follow, model, image):
    model, image = model.eval(), image.detach()
    with torch.no_grad():
        followed = follow(model, image)
        for got, want in zip(followed(image), model(image), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_second_derivatives_of_recomputed_blocks(image):
    """And with copies of the model, whose weights are their own."""
    plain = build("window", "naive")
    model = copy.deepcopy(plain)
    for module in model.modules():
        if hasattr(module, "with_cp"):
            module.with_cp = True
    for attention in (m for m in model.modules() if isinstance(m, FocalAttention)):
        attention.backend = "cpu"
    got, want = (gradient_penalty(m, image) for m in (model, plain))
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-3, atol=1e-3)
