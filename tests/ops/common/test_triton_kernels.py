"""The Triton kernels against the reference in float64: output and every gradient.

On a machine with a GPU they run there, else in Triton's interpreter, which a process
has to choose before it imports Triton: ``test_triton.py`` starts such a process.
"""

import random
from dataclasses import astuple

import pytest
import torch
from torch import nn

from focal_mm.layers import TopKAttention
from focal_mm.layers.attention import FocalAttention
from focal_mm.ops import FocalGeometry, TopKGeometry
from focal_mm.ops.common.triton import backend
from focal_mm.ops.topk import triton as topk_triton
from focal_mm.ops.window import triton as window_triton
from tests.ops.triton_cases import (
    ATTENTION,
    DEVICE,
    call,
    check_against_naive,
    make_case,
    map_tensors,
    run,
    tensors_of,
)

if backend.unavailable_reason():
    pytest.skip(
        "no GPU here, and TRITON_INTERPRET=1 is for a process of its own, which "
        "test_triton.py starts",
        allow_module_level=True,
    )

from focal_mm.ops.common.triton import launch, settings

Window, TopK = FocalGeometry, TopKGeometry
CASES = {
    "paper": (Window(7, 3, 7, 1), (1, 2), (1, 1, 32)),
    "two levels, map smaller than the halo": (Window(7, 3, 3, 2), (1, 1), (2, 1, 16)),
    "nothing expanded, 28 channels": (Window(4, 0, 5, 2), (3, 1), (1, 2, 28)),
    "expanded by a whole window, odd map": (Window(3, 3, 1, 1), (3, 2), (1, 1, 49)),
    "expanded by more than half, shifted": (
        Window(4, 3, 3, 1, 2),
        (2, 2),
        (1, 1, 16),
    ),
    "no coarse level, 64 channels": (Window(5, 2), (2, 1), (1, 1, 64)),
    "shifted, one token wide tiles": (Window(2, 1, 3, 1, 1), (2, 5), (1, 1, 8)),
    "window of 14": (Window(14, 7, 1, 1), (1, 1), (1, 1, 16)),
    "window of 1": (Window(1, 1, 3, 1), (3, 3), (1, 1, 16)),
    "fast": (TopK(7, 128, 1), (2, 2), (1, 1, 32)),
    "fast, all of a small map": (TopK(7, 128, 1), (1, 1), (3, 2, 16)),
    "fast, no coarse level, 28 channels": (TopK(4, 20), (3, 1), (2, 2, 28)),
    "fast, 64 channels": (TopK(5, 70, 1), (1, 3), (1, 1, 64)),
    "fast, window of 1, 49 channels": (TopK(1, 3, 1), (3, 5), (1, 2, 49)),
    "fast, window of 14": (TopK(14, 150, 1), (1, 2), (1, 1, 16)),
    "fast, one key of each level": (TopK(3, 1, 1), (2, 3), (1, 1, 8)),
    "fast, tokens that are nobody's keys": (TopK(6, 5, 1), (2, 1), (1, 1, 16)),
}
SMALL = {
    "window": (Window(2, 1, 1, 1), (1, 2), (1, 2, 16)),
    "topk": (TopK(2, 7, 1), (1, 3), (1, 2, 16)),
}
both_selections = pytest.mark.parametrize("name", SMALL)


@pytest.mark.usefixtures("garbage_in_new_tensors")
@pytest.mark.parametrize("name", CASES)
def test_kernels_agree_with_naive(name, relative_error):
    check_against_naive(make_case(*CASES[name]), relative_error)


@pytest.mark.parametrize(
    ("case", "dtype", "tolerance"),
    [
        ((Window(4, 2, 3, 1), (2, 1), (1, 1, 32)), torch.bfloat16, 1e-2),
        ((Window(4, 2, 3, 1), (2, 1), (1, 1, 32)), torch.float16, 1e-3),
        ((TopK(4, 20, 1), (2, 3), (1, 2, 32)), torch.bfloat16, 1e-2),
        ((TopK(4, 20, 1), (2, 3), (1, 2, 32)), torch.float16, 2e-3),
        # The tiles that the released models take on a GPU. Float16, as the interpreter
        # cuts bfloat16 off in the place of rounding it: sums of many keys drift.
        ((Window(7, 3, 7, 1), (1, 2), (2, 2, 32)), torch.float16, 1e-3),
        ((Window(7, 3, 15, 1), (2, 1), (1, 1, 32)), torch.float16, 1e-3),
        ((Window(7, 0, 1, 1), (1, 1), (2, 2, 32)), torch.float16, 1e-3),
        ((TopK(7, 128, 1), (2, 1), (1, 2, 32)), torch.float16, 1e-3),
    ],
    ids=str,
)
def test_kernels_in_half_precision(case, dtype, tolerance, relative_error):
    case = make_case(*case, dtype)
    check_against_naive(case, relative_error, tolerance, 3 * tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(80))
def test_kernels_agree_with_naive_on_random_sizes(seed, relative_error):
    rng = random.Random(seed)
    window = rng.choice([2, 3, 4, 5, 7])
    if seed % 2:
        geometry = TopK(window, rng.choice([3, 20, 128]), rng.randint(0, 1))
    else:
        geometry = Window(
            window,
            rng.randint(0, window),
            rng.choice([1, 3, 5, 7, 9]),
            rng.randint(0, min(3, window.bit_length())),
            rng.choice([0, window // 2]),
        )
    grid = rng.choice([(1, 1), (1, 4), (3, 1), (2, 3), (3, 3)])
    shape = (rng.choice([1, 2]), rng.choice([1, 2]), rng.choice([4, 16, 28, 33, 64]))
    check_against_naive(make_case(geometry, grid, shape), relative_error)


@both_selections
def test_slices_of_one_projection_are_read_in_place(name, monkeypatch, relative_error):
    def projections(tensor):
        stacked = torch.randn(*tensor.shape[:3], 3, *tensor.shape[3:], device=DEVICE)
        return stacked.requires_grad_().unbind(3)

    case = make_case(*SMALL[name])
    case["query"], case["key"], case["value"] = projections(case["query"])
    _, *(case["pooled_keys"], case["pooled_values"]) = (
        [tensor] for tensor in projections(case["pooled_keys"][0])
    )
    calls = []
    of = launch.Call.of.__func__
    monkeypatch.setattr(
        launch.Call,
        "of",
        classmethod(lambda *args: calls.append(of(*args)) or calls[-1]),
    )
    check_against_naive(case, relative_error)
    assert len(calls) == 2
    for made in calls:
        got = (made.query, *made.keys, *made.values)
        wanted = (case["query"], case["key"], *case["pooled_keys"])
        wanted += (case["value"], *case["pooled_values"])
        assert [t.data_ptr() for t in got] == [t.data_ptr() for t in wanted]
        assert not any(t.is_contiguous() for t in got)


@both_selections
def test_tensors_that_are_not_contiguous_are_copied(name, relative_error):
    """Channels, and biases as a linear layer gives them: heads last."""

    def transposed(tensor):
        first, last = (0, -1) if tensor.dim() == 3 else (-2, -1)
        copy = tensor.detach().transpose(first, last).contiguous()
        return copy.transpose(first, last).requires_grad_()

    case = map_tensors(transposed, make_case(*SMALL[name]))
    check_against_naive(case, relative_error)


def test_tokens_outside_a_windows_view_do_not_touch_it():
    """NaN in one token reaches the windows that see it, and no other."""
    case = make_case(Window(2, 1, 1, 1), (3, 3), (1, 1, 16))
    with torch.no_grad():
        case["key"][0, 2, 2] = torch.nan
        case["value"][0, 2, 2] = torch.nan
        case["pooled_values"][0][0, 0, 0] = torch.nan
    seen = call(case, "triton")[0, ::2, ::2, 0, 0].isnan()
    assert seen.tolist() == [[True, True, False], [True, True, False], [False] * 3]

    case = make_case(TopK(3, 9, 1), (3, 3), (1, 1, 16))
    with torch.no_grad():
        case["key"][0, 4, 4] = torch.nan
        case["value"][0, 4, 4] = torch.nan
    seen = call(case, "triton")[0, ::3, ::3, 0, 0].isnan()
    assert seen.tolist() == [[False] * 3, [False, True, False], [False] * 3]


@pytest.mark.parametrize("geometry", [Window(3, 1, 3, 1), TopK(3, 9, 1)], ids=str)
def test_order_of_programs_changes_no_bit(geometry, monkeypatch):
    """Each number is summed by one program: on a GPU programs run in any order."""
    case = make_case(geometry, (1, 3), (2, 2, 16), torch.bfloat16)
    first = run(case, "triton")
    if DEVICE == "cpu":
        builder = pytest.importorskip("triton.runtime.interpreter").interpreter_builder
        set_index = builder.set_grid_idx
        monkeypatch.setattr(
            builder,
            "set_grid_idx",
            lambda *at: set_index(
                *(n - 1 - i for i, n in zip(at, builder.grid_dim, strict=True))
            ),
        )
    again = run(case, "triton")
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]), name


@both_selections
def test_biases_summed_in_shares(name, monkeypatch, relative_error):
    """As on a GPU of many processors."""
    monkeypatch.setattr(settings, "_processors", lambda device: 16)
    shares = []
    count = settings.Launch.shares
    monkeypatch.setattr(
        settings.Launch,
        "shares",
        lambda *args: shares.append(count(*args)) or shares[-1],
    )
    check_against_naive(make_case(*SMALL[name]), relative_error)
    assert min(shares) > 1


OPERATORS = {"window": window_triton.attention, "topk": topk_triton.topk_attention}


def operator_arguments(name):
    """What the operator is called with for a small case."""
    case = make_case(*SMALL[name])
    geometry = case["geometry"]
    biases = case.get("bias_tables")
    if biases is None:
        halo = torch.randn(2, 4, geometry.halo_size**2, device=DEVICE)
        biases = [halo.requires_grad_(), *case["pooled_biases"]]
    keys = [case["key"], *case["pooled_keys"]]
    values = [case["value"], *case["pooled_values"]]
    return case["query"], keys, values, biases, list(astuple(geometry)), 0.25


@both_selections
def test_operators_keep_the_rules_of_torch(name):
    arguments = operator_arguments(name)
    torch.library.opcheck(OPERATORS[name], arguments)
    query, *lists, sizes, scale = arguments
    lists = [[tensor.detach() for tensor in tensors] for tensors in lists]
    out, lse = OPERATORS[name](query.detach(), *lists, sizes, scale)
    saved = (query.detach(), *lists, out, lse, sizes, scale)
    backward = getattr(torch.ops.focal_mm, OPERATORS[name]._name + "_backward")
    for needs_biases in (True, False):
        torch.library.opcheck(
            backward.default, (torch.ones_like(out), *saved, needs_biases)
        )


@both_selections
def test_denominators_have_no_gradient(name):
    out, lse = OPERATORS[name](*operator_arguments(name))
    assert out.requires_grad
    assert not lse.requires_grad


@both_selections
def test_second_derivatives_of_the_operator_are_refused(name):
    query, *rest = operator_arguments(name)
    out, _ = OPERATORS[name](query, *rest)
    (grad,) = torch.autograd.grad(out.square().sum(), query, create_graph=True)
    with pytest.raises(NotImplementedError, match="sdpa"):
        grad.square().sum().backward()


@both_selections
@pytest.mark.parametrize("frozen", ["bias", "query"])
def test_gradients_of_the_others_where_one_needs_none(name, frozen, monkeypatch):
    case = make_case(*SMALL[name])
    wanted = run(case, "triton")
    for tensor_name, tensor in tensors_of(case).items():
        tensor.requires_grad_(frozen not in tensor_name)
    if frozen == "bias":
        monkeypatch.setattr(launch, "backward_bias_kernel", None)
    got = run(case, "triton")
    assert 1 < len(got) < len(wanted)
    for tensor_name, tensor in got.items():
        assert torch.equal(tensor, wanted[tensor_name]), tensor_name


def test_trains_after_inference_mode(relative_error):
    """The lists of keys are then made in inference mode."""
    case = make_case(TopK(2, 9, 1), (4, 2), (1, 1, 16))
    with torch.inference_mode():
        call(case, "triton")
    check_against_naive(case, relative_error)


@both_selections
def test_compiled_as_one_graph_it_gives_the_same(name):
    case = make_case(*SMALL[name])
    attention = ATTENTION[type(case["geometry"])]
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    got = run(case, "triton", compiled)
    torch.testing.assert_close(got, run(case, "triton"))


@pytest.mark.parametrize(
    ("layer", "geometry", "dtype", "tolerance"),
    [
        (FocalAttention, Window(4, 2, 3, 1), torch.bfloat16, 5e-2),
        # Not bfloat16, which the interpreter cuts off in the place of rounding it:
        # the biases' gradients are small sums of large terms.
        (TopKAttention, TopK(4, 20, 1), torch.float16, 5e-3),
    ],
)
def test_layer_under_autocast(layer, geometry, dtype, tolerance, relative_error):
    """Half precision in, float32 gradients of float32 parameters out."""
    grads = {}
    for name in ("triton", "naive"):
        torch.manual_seed(0)
        module = layer(32, 2, geometry, backend=name).to(DEVICE)
        if layer is FocalAttention:
            nn.init.normal_(module.relative_position_bias_table)
        x = torch.randn(1, 4, 8, 32, device=DEVICE)
        pooled = torch.randn(1, 1, 2, 32, device=DEVICE)
        with torch.autocast(DEVICE, dtype):
            output = module(x, [pooled])
        assert output.dtype == dtype
        output.float().square().sum().backward()
        grads[name] = {n: p.grad for n, p in module.named_parameters()}
    for name, grad in grads["triton"].items():
        assert grad.dtype == torch.float32
        assert relative_error(grad, grads["naive"][name]) < tolerance, name
