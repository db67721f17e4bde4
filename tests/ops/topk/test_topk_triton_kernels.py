"""The Triton kernels of top-K attention against the reference in float64.

On a machine with a GPU they run there, else in Triton's interpreter, which a process
has to choose before it imports Triton: ``test_triton.py`` starts such a process.
"""

import random

import pytest
import torch

from focal_mm.layers import TopKAttention
from focal_mm.ops import TopKGeometry, topk_attention
from focal_mm.ops.topk.triton import TRITON_TOPK

if TRITON_TOPK.unavailable_reason():
    pytest.skip(
        "no GPU here, and TRITON_INTERPRET=1 is for a process of its own, which "
        "test_triton.py starts",
        allow_module_level=True,
    )

from focal_mm.ops.topk.triton import launch, ops
from focal_mm.ops.window.triton import settings
from tests.ops.cases import check_in_its_dtype, run, tensors_of
from tests.ops.topk.test_topk_attention import make_case

DEVICE = "cpu" if settings.interpreted() else "cuda"
CASES = {
    "paper": (TopKGeometry(7, 128, 1), (2, 2), (1, 1, 32)),
    "all of a small map, odd grid": (TopKGeometry(7, 128, 1), (1, 1), (3, 2, 16)),
    "no coarse level, 28 channels": (TopKGeometry(4, 20), (3, 1), (2, 2, 28)),
    "64 channels": (TopKGeometry(5, 70, 1), (1, 3), (1, 1, 64)),
    "window of 1, 49 channels": (TopKGeometry(1, 3, 1), (3, 5), (1, 2, 49)),
    "window of 14": (TopKGeometry(14, 150, 1), (1, 2), (1, 1, 16)),
    "one key of each level": (TopKGeometry(3, 1, 1), (2, 3), (1, 1, 8)),
    "tokens that are nobody's keys": (TopKGeometry(6, 5, 1), (2, 1), (1, 1, 16)),
}
SMALL = (TopKGeometry(2, 7, 1), (1, 3), (1, 2, 16), torch.float32)


def case_of(*arguments):
    return make_case(*arguments, device=DEVICE)


def check_against_naive(case, relative_error):
    check_in_its_dtype(case, "triton", 1e-5, relative_error)


@pytest.mark.usefixtures("garbage_in_new_tensors")
@pytest.mark.parametrize("name", CASES)
def test_kernels_agree_with_naive(name, relative_error):
    check_against_naive(case_of(*CASES[name], torch.float32), relative_error)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)]
)
def test_kernels_in_half_precision(dtype, tolerance, relative_error):
    case = case_of(TopKGeometry(4, 20, 1), (2, 3), (1, 2, 32), dtype)
    check_in_its_dtype(case, "triton", tolerance, relative_error)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_kernels_agree_with_naive_on_random_sizes(seed, relative_error):
    rng = random.Random(seed)
    geometry = TopKGeometry(
        rng.choice([2, 3, 4, 5, 7]), rng.choice([3, 20, 128]), rng.randint(0, 1)
    )
    grid = rng.choice([(1, 1), (1, 4), (3, 1), (2, 3), (3, 3)])
    shape = (rng.choice([1, 2]), rng.choice([1, 2]), rng.choice([4, 16, 28, 33, 64]))
    check_against_naive(case_of(geometry, grid, shape, torch.float32), relative_error)


def test_slices_of_one_projection_are_read_in_place(monkeypatch, relative_error):
    case = case_of(*SMALL)
    levels = []
    for name in ("key", "pooled_keys"):
        shape = (case[name][0] if isinstance(case[name], list) else case[name]).shape
        projection = torch.randn(*shape[:3], 3, *shape[3:], device=DEVICE)
        levels.append(projection.requires_grad_().unbind(3))
    case["query"], case["key"], case["value"] = levels[0]
    _, *(case["pooled_keys"], case["pooled_values"]) = ([t] for t in levels[1])
    calls = []
    make_call = launch.make_call
    monkeypatch.setattr(
        launch, "make_call", lambda *args: calls.append(make_call(*args)) or calls[-1]
    )
    check_against_naive(case, relative_error)
    assert len(calls) == 2
    for call in calls:
        assert call.query.data_ptr() == case["query"].data_ptr()
        for got, fine, pooled in (
            (call.keys, "key", "pooled_keys"),
            (call.values, "value", "pooled_values"),
        ):
            wanted = [case[fine], *case[pooled]]
            assert [t.data_ptr() for t in got] == [t.data_ptr() for t in wanted]
            assert not any(t.is_contiguous() for t in got)


def test_tensors_that_are_not_contiguous_are_copied(relative_error):
    """Channels, and tables as a linear layer gives them: heads last."""

    def transposed(value):
        if isinstance(value, list):
            return [transposed(tensor) for tensor in value]
        if not isinstance(value, torch.Tensor):
            return value
        first, last = (0, -1) if value.dim() == 3 else (-2, -1)
        copy = value.detach().transpose(first, last).contiguous()
        return copy.transpose(first, last).requires_grad_()

    case = {name: transposed(value) for name, value in case_of(*SMALL).items()}
    check_against_naive(case, relative_error)


def test_tokens_that_are_not_keys_do_not_touch_a_window():
    """NaN in one token reaches the windows that have it as a key, and no other."""
    case = case_of(TopKGeometry(3, 9, 1), (3, 3), (1, 1, 16), torch.float32)
    with torch.no_grad():
        case["key"][0, 4, 4] = torch.nan
        case["value"][0, 4, 4] = torch.nan
    seen = topk_attention(**case, backend="triton")[0, ::3, ::3, 0, 0].isnan()
    assert seen.tolist() == [[False] * 3, [False, True, False], [False] * 3]


def test_order_of_programs_changes_no_bit(monkeypatch):
    """Each number is summed by one program: on a GPU programs run in any order."""
    if DEVICE == "cpu":
        builder = pytest.importorskip("triton.runtime.interpreter").interpreter_builder
        set_index = builder.set_grid_idx
    case = case_of(TopKGeometry(3, 9, 1), (1, 3), (2, 2, 16), torch.bfloat16)
    output, grads = run(case, "triton")
    if DEVICE == "cpu":
        monkeypatch.setattr(
            builder,
            "set_grid_idx",
            lambda *at: set_index(
                *(n - 1 - i for i, n in zip(at, builder.grid_dim, strict=True))
            ),
        )
    again, grads_again = run(case, "triton")
    assert torch.equal(output, again)
    for name, grad in grads.items():
        assert torch.equal(grad, grads_again[name]), name


def test_biases_summed_in_shares(monkeypatch, relative_error):
    """As on a GPU of many processors."""
    monkeypatch.setattr(settings, "_processors", lambda device: 16)
    shapes = []
    fold = torch.Tensor.sum

    def record(tensor, *args):
        shapes.append(tensor.shape)
        return fold(tensor, *args)

    monkeypatch.setattr(torch.Tensor, "sum", record)
    check_against_naive(case_of(*SMALL), relative_error)
    assert any(len(shape) == 4 and shape[0] > 1 for shape in shapes)


def operator_arguments():
    case = case_of(TopKGeometry(2, 3, 1), (1, 2), (1, 1, 16), torch.float32)
    keys = [case["key"], *case["pooled_keys"]]
    values = [case["value"], *case["pooled_values"]]
    return (case["query"], keys, values, case["bias_tables"], [2, 3, 1], 0.25)


def test_operators_keep_the_rules_of_torch():
    arguments = operator_arguments()
    torch.library.opcheck(ops.topk_attention, arguments)
    query, *lists, sizes, scale = arguments
    lists = [[tensor.detach() for tensor in tensors] for tensors in lists]
    query = query.detach()
    out, lse = ops.topk_attention(query, *lists, sizes, scale)
    for needs_tables in (True, False):
        torch.library.opcheck(
            ops.topk_attention_backward,
            (torch.ones_like(out), query, *lists, out, lse, sizes, scale, needs_tables),
        )


def test_denominators_have_no_gradient():
    out, lse = ops.topk_attention(*operator_arguments())
    assert out.requires_grad
    assert not lse.requires_grad


@pytest.mark.parametrize("frozen", ["bias_tables", "query"])
def test_gradients_of_the_others_where_one_needs_none(frozen, monkeypatch):
    case = case_of(*SMALL)
    _, wanted = run(case, "triton")
    tensors = case[frozen] if isinstance(case[frozen], list) else [case[frozen]]
    for tensor in tensors:
        tensor.requires_grad_(False)
    if frozen == "bias_tables":
        monkeypatch.setattr(launch, "topk_backward_bias_kernel", None)
    needed = {n: t for n, t in tensors_of(case).items() if t.requires_grad}
    assert len(needed) < len(wanted)
    output = topk_attention(**case, backend="triton")
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(output.shape, generator=generator).to(output)
    grads = torch.autograd.grad((output * weight).sum(), tuple(needed.values()))
    for name, grad in zip(needed, grads, strict=True):
        assert torch.equal(grad, wanted[name]), name


def test_trains_after_inference_mode(relative_error):
    """The lists of keys are then made in inference mode."""
    case = case_of(TopKGeometry(2, 9, 1), (4, 2), (1, 1, 16), torch.float32)
    with torch.inference_mode():
        topk_attention(**case, backend="triton")
    check_against_naive(case, relative_error)


def test_compiled_as_one_graph_it_gives_the_same():
    case = case_of(*SMALL)
    output, grads = run(case, "triton")
    compiled = torch.compile(topk_attention, fullgraph=True, backend="aot_eager")
    got, got_grads = run(case, "triton", attention=compiled)
    torch.testing.assert_close(got, output)
    torch.testing.assert_close(got_grads, grads)


def test_layer_under_autocast(relative_error):
    """Half precision in, float32 gradients of float32 parameters out.

    Not bfloat16: the interpreter cuts it off in the place of rounding it, and the
    biases' gradients are small sums of large terms.
    """
    geometry = TopKGeometry(4, 20, 1)
    grads = {}
    for backend in ("triton", "naive"):
        torch.manual_seed(0)
        layer = TopKAttention(32, 2, geometry, backend=backend).to(DEVICE)
        x = torch.randn(1, 4, 8, 32, device=DEVICE)
        pooled = torch.randn(1, 1, 2, 32, device=DEVICE)
        with torch.autocast(DEVICE, torch.float16):
            output = layer(x, [pooled])
        assert output.dtype == torch.float16
        output.float().square().sum().backward()
        grads[backend] = {n: p.grad for n, p in layer.named_parameters()}
    for name, grad in grads["triton"].items():
        assert grad.dtype == torch.float32
        assert relative_error(grad, grads["naive"][name]) < 5e-3, name
