"""The Triton kernels against the reference in float64: output and every gradient.

On a machine with a GPU they run there, else in Triton's interpreter, which a process
has to choose before it imports Triton: ``test_triton.py`` starts such a process.
"""

import random

import pytest
import torch
from torch import nn

from focal_mm.layers.attention import FocalAttention
from focal_mm.ops import FocalGeometry, focal_attention
from focal_mm.ops.window.triton import TRITON

if TRITON.unavailable_reason():
    pytest.skip(
        "no GPU here, and TRITON_INTERPRET=1 is for a process of its own, which "
        "test_triton.py starts",
        allow_module_level=True,
    )

from focal_mm.ops.window.triton import launch, ops
from focal_mm.ops.window.triton.settings import interpreted

DEVICE = "cpu" if interpreted() else "cuda"
CASES = {
    "paper": (FocalGeometry(7, 3, 7, 1), (1, 2), (1, 1, 32)),
    "two levels, map smaller than the halo": (
        FocalGeometry(7, 3, 3, 2),
        (1, 1),
        (2, 1, 16),
    ),
    "nothing expanded, 28 channels": (FocalGeometry(4, 0, 5, 2), (3, 1), (1, 2, 28)),
    "expanded by a whole window, odd map": (
        FocalGeometry(3, 3, 1, 1),
        (3, 2),
        (1, 1, 49),
    ),
    "expanded by more than half, shifted": (
        FocalGeometry(4, 3, 3, 1, 2),
        (2, 2),
        (1, 1, 16),
    ),
    "no coarse level, 64 channels": (FocalGeometry(5, 2), (2, 1), (1, 1, 64)),
    "shifted, one token wide tiles": (FocalGeometry(2, 1, 3, 1, 1), (2, 5), (1, 1, 8)),
    "window of 14": (FocalGeometry(14, 7, 1, 1), (1, 1), (1, 1, 16)),
    "window of 1": (FocalGeometry(1, 1, 3, 1), (3, 3), (1, 1, 16)),
}


def leaf(*shape, dtype):
    return torch.randn(shape, dtype=dtype, device=DEVICE).requires_grad_()


def make_case(geometry, grid, shape, dtype=torch.float32):
    """Arguments of one call; ``shape`` is (batch, heads, channels)."""
    (rows, cols), (batch, heads, channels) = grid, shape
    size, area = geometry.window_size, geometry.window_area
    fine = (batch, rows * size, cols * size, heads, channels)
    levels = range(geometry.coarse_levels)
    pooled = [(batch, rows * 2**k, cols * 2**k, heads, channels) for k in levels]
    neighbors = (heads, area, geometry.num_neighbors)
    regions = [(heads, area, geometry.region_size(k) ** 2) for k in levels]
    return dict(
        query=leaf(*fine, dtype=dtype),
        key=leaf(*fine, dtype=dtype),
        value=leaf(*fine, dtype=dtype),
        pooled_keys=[leaf(*shape, dtype=dtype) for shape in pooled],
        pooled_values=[leaf(*shape, dtype=dtype) for shape in pooled],
        window_bias=leaf(heads, area, area, dtype=dtype),
        neighbor_bias=leaf(*neighbors, dtype=dtype) if geometry.expand_size else None,
        pooled_biases=[leaf(*shape, dtype=dtype) for shape in regions],
        geometry=geometry,
    )


def map_tensors(function, case):
    """The case with the function applied to every tensor."""

    def apply(value):
        if isinstance(value, list):
            return [function(tensor) for tensor in value]
        return function(value) if isinstance(value, torch.Tensor) else value

    return {name: apply(value) for name, value in case.items()}


def run(case, backend, attention=focal_attention):
    """Output and the gradient of every argument for a fixed loss."""
    named = {}
    map_tensors(lambda tensor: named.setdefault(len(named), tensor), case)
    output = attention(**case, backend=backend)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(output.shape, generator=generator).to(output)
    grads = torch.autograd.grad((output * weight).sum(), tuple(named.values()))
    return [output.detach(), *grads]


def check_against_naive(case, tolerance, relative_error):
    exact = map_tensors(lambda t: t.detach().double().requires_grad_(), case)
    wanted = run(exact, "naive")
    got = run(case, "triton")
    assert got[0].dtype == case["value"].dtype
    for index, (tensor, want) in enumerate(zip(got, wanted, strict=True)):
        error = relative_error(tensor.double(), want)
        assert error < tolerance, f"{'gradient' if index else 'output'} {index}"


@pytest.mark.usefixtures("garbage_in_new_tensors")
@pytest.mark.parametrize("name", CASES)
def test_kernels_agree_with_naive(name, relative_error):
    check_against_naive(make_case(*CASES[name]), 1e-5, relative_error)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 3e-2), (torch.float16, 3e-3)]
)
def test_kernels_in_half_precision(dtype, tolerance, relative_error):
    """Against the reference in float64 on the same rounded inputs."""
    case = make_case(FocalGeometry(4, 2, 3, 1), (2, 1), (1, 1, 32), dtype)
    check_against_naive(case, tolerance, relative_error)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_kernels_agree_with_naive_on_random_sizes(seed, relative_error):
    rng = random.Random(seed)
    window = rng.choice([2, 3, 4, 5, 7])
    geometry = FocalGeometry(
        window,
        rng.randint(0, window),
        rng.choice([1, 3, 5, 7, 9]),
        rng.randint(0, min(3, window.bit_length())),
        rng.choice([0, window // 2]),
    )
    grid = rng.choice([(1, 1), (1, 4), (3, 1), (2, 3)])
    shape = (rng.choice([1, 2]), rng.choice([1, 2]), rng.choice([4, 16, 28, 33, 64]))
    check_against_naive(make_case(geometry, grid, shape), 1e-5, relative_error)


def test_slices_of_one_projection_are_read_in_place(monkeypatch, relative_error):
    geometry = FocalGeometry(2, 1, 1, 1)
    case = make_case(geometry, (2, 2), (2, 2, 16))
    fine = leaf(2, 4, 4, 3, 2, 16, dtype=torch.float32)
    pooled = leaf(2, 2, 2, 2, 2, 16, dtype=torch.float32)
    case["query"], case["key"], case["value"] = fine.unbind(3)
    case["pooled_keys"], case["pooled_values"] = ([t] for t in pooled.unbind(3))
    calls = []
    make_call = launch.make_call
    monkeypatch.setattr(
        launch, "make_call", lambda *args: calls.append(make_call(*args)) or calls[-1]
    )
    check_against_naive(case, 1e-5, relative_error)
    for call in calls:
        for name in ("query", "key", "value"):
            assert getattr(call, name).data_ptr() == case[name].data_ptr()
        assert call.pooled_value.data_ptr() == case["pooled_values"][0].data_ptr()


def test_channels_that_are_not_contiguous_are_copied(relative_error):
    case = make_case(FocalGeometry(2, 1, 1, 1), (1, 2), (1, 1, 16))
    case = map_tensors(
        lambda t: t.detach().transpose(-1, -2).contiguous().transpose(-1, -2), case
    )
    case = map_tensors(lambda t: t.requires_grad_(), case)
    check_against_naive(case, 1e-5, relative_error)


def test_tokens_outside_a_windows_view_do_not_touch_it():
    """NaN in one token reaches the windows that see it, and no other."""
    geometry = FocalGeometry(2, 1, 1, 1)
    case = make_case(geometry, (3, 3), (1, 1, 16))
    with torch.no_grad():
        case["key"][0, 2, 2] = torch.nan
        case["value"][0, 2, 2] = torch.nan
        case["pooled_values"][0][0, 0, 0] = torch.nan
    output = focal_attention(**case, backend="triton")
    windows = output[0, ::2, ::2, 0, 0].isnan()
    assert windows.tolist() == [[True, True, False], [True, True, False], [False] * 3]


@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter has no parallel programs")
def test_two_runs_agree_in_every_bit():
    case = make_case(FocalGeometry(7, 3, 7, 1), (4, 4), (4, 3, 32), torch.bfloat16)
    for first, second in zip(run(case, "triton"), run(case, "triton"), strict=True):
        assert torch.equal(first, second)


def operator_arguments():
    geometry = FocalGeometry(2, 1, 3, 1)
    fine, pooled = (1, 2, 4, 1, 16), (1, 2, 1, 16)
    tensors = [leaf(*fine, dtype=torch.float32) for _ in range(3)]
    tensors += [leaf(*pooled, dtype=torch.float32) for _ in range(2)]
    keys = geometry.halo_size**2 + geometry.region_size(0) ** 2
    bias = leaf(1, geometry.window_area, keys, dtype=torch.float32)
    return (*tensors, bias, [2, 1, 3, 1, 0], 0.25)


def test_operators_keep_the_rules_of_torch():
    arguments = operator_arguments()
    torch.library.opcheck(ops.attention, arguments)
    *tensors, sizes, scale = arguments
    tensors = [tensor.detach() for tensor in tensors]
    out, lse = ops.attention(*tensors, sizes, scale)
    for needs_bias in (True, False):
        torch.library.opcheck(
            ops.attention_backward,
            (torch.ones_like(out), *tensors, out, lse, sizes, scale, needs_bias),
        )


def test_denominators_have_no_gradient():
    out, lse = ops.attention(*operator_arguments())
    assert out.requires_grad
    assert not lse.requires_grad


def test_compiled_as_one_graph_it_gives_the_same():
    case = make_case(FocalGeometry(2, 1, 3, 2), (2, 2), (1, 2, 16))
    wanted = run(case, "triton")
    compiled = torch.compile(focal_attention, fullgraph=True, backend="aot_eager")
    got = run(case, "triton", attention=compiled)
    for tensor, want in zip(got, wanted, strict=True):
        torch.testing.assert_close(tensor, want)


def test_layer_under_autocast(relative_error):
    """Half precision in, float32 gradients of float32 parameters out."""
    geometry = FocalGeometry(4, 2, 3, 1)
    grads = {}
    for backend in ("triton", "naive"):
        torch.manual_seed(0)
        layer = FocalAttention(32, 2, geometry, backend=backend).to(DEVICE)
        nn.init.normal_(layer.relative_position_bias_table)
        x = torch.randn(1, 4, 8, 32, device=DEVICE)
        pooled = torch.randn(1, 1, 2, 32, device=DEVICE)
        with torch.autocast(DEVICE, torch.bfloat16):
            output = layer(x, [pooled])
        assert output.dtype == torch.bfloat16
        output.float().square().sum().backward()
        grads[backend] = {n: p.grad for n, p in layer.named_parameters()}
    for name, grad in grads["triton"].items():
        assert grad.dtype == torch.float32
        assert relative_error(grad, grads["naive"][name]) < 5e-2, name
