"""Backends against the reference: outputs and every gradient."""

import random

import pytest
import torch

from focal_mm.ops import FocalGeometry, backend_support, focal_attention

# The kernels have their own tests: they take no float64, and a GPU's tensors.
OTHERS = ("naive", "triton")
FAST_BACKENDS = [s.name for s in backend_support() if s.ok and s.name not in OTHERS]
QUICK_SEEDS = range(16)
MORE_SEEDS = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(16, 120)]


def random_case(seed, dtype=torch.float64):
    """Arguments of one call; the seed decides sizes and values."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    window = rng.choice([1, 2, 3, 4, 7, 7, 8])
    geometry = FocalGeometry(
        window_size=window,
        expand_size=rng.choice([0, window // 2, rng.randint(0, window)]),
        focal_window=rng.choice([1, 3, 5, 7, 15]),
        coarse_levels=rng.randint(0, min(2, window.bit_length())),
        shift_size=rng.choice([0, 0, window // 2]),
    )
    rows, cols = rng.choice([(1, 1), (1, 5), (4, 1), (2, 3), (3, 3)])
    batch, heads, channels = rng.choice([1, 1, 2]), rng.choice([1, 2, 3]), 8
    area = geometry.window_area

    def tensor(*shape):
        return torch.randn(shape, dtype=dtype).requires_grad_()

    fine = (batch, rows * window, cols * window, heads, channels)
    pooled_shapes = [
        (batch, rows * 2**k, cols * 2**k, heads, channels)
        for k in range(geometry.coarse_levels)
    ]
    return dict(
        query=tensor(*fine),
        key=tensor(*fine),
        value=tensor(*fine),
        pooled_keys=[tensor(*shape) for shape in pooled_shapes],
        pooled_values=[tensor(*shape) for shape in pooled_shapes],
        window_bias=tensor(heads, area, area),
        neighbor_bias=(
            tensor(heads, area, geometry.num_neighbors)
            if geometry.expand_size
            else None
        ),
        pooled_biases=[
            tensor(heads, area, geometry.region_size(k) ** 2)
            for k in range(geometry.coarse_levels)
        ],
        geometry=geometry,
    )


def tensors_of(case):
    """All differentiable arguments by name."""
    named = {}
    for name, value in case.items():
        if isinstance(value, torch.Tensor):
            named[name] = value
        elif isinstance(value, list):
            named.update({f"{name}[{i}]": tensor for i, tensor in enumerate(value)})
    return named


def run(case, backend):
    """Output and the gradient of every argument for a fixed loss."""
    named = tensors_of(case)
    output = focal_attention(**case, backend=backend)
    torch.manual_seed(1)
    # Not randn_like: its numbers depend on strides.
    weight = torch.randn(output.shape, dtype=output.dtype)
    grads = torch.autograd.grad((output * weight).sum(), named.values())
    return output.detach(), dict(zip(named, grads, strict=True))


@pytest.mark.parametrize("backend", FAST_BACKENDS)
@pytest.mark.parametrize("seed", [*QUICK_SEEDS, *MORE_SEEDS])
def test_backend_agrees_with_naive(seed, backend):
    case = random_case(seed)
    expected, expected_grads = run(case, "naive")
    output, grads = run(case, backend)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-10)
    for name, grad in grads.items():
        torch.testing.assert_close(
            grad,
            expected_grads[name],
            rtol=1e-9,
            atol=1e-9,
            msg=lambda m, name=name: f"{name}: {m}",
        )


@pytest.mark.parametrize("backend", FAST_BACKENDS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)],
)
def test_backend_in_other_dtypes(dtype, tolerance, backend, relative_error):
    """Against the reference in float64 on the same rounded inputs."""
    for seed in range(4):
        case = random_case(seed, dtype)
        output, grads = run(case, backend)
        assert output.dtype == dtype
        exact = {
            name: [t.detach().double().requires_grad_() for t in value]
            if isinstance(value, list)
            else value.detach().double().requires_grad_()
            if isinstance(value, torch.Tensor)
            else value
            for name, value in case.items()
        }
        named = tensors_of(exact)
        expected = focal_attention(**exact, backend="naive")
        torch.manual_seed(1)
        weight = torch.randn_like(output).double()
        expected_grads = torch.autograd.grad((expected * weight).sum(), named.values())
        assert relative_error(output.double(), expected.detach()) < tolerance
        for (name, grad), want in zip(grads.items(), expected_grads, strict=True):
            assert relative_error(grad.double(), want) < 3 * tolerance, name


def test_border_of_the_pooled_map_is_masked_and_of_the_fine_map_wraps():
    """A key counts exactly where the contract says that it is seen."""
    geometry = FocalGeometry(2, 1, focal_window=3, coarse_levels=1)
    case = random_case(0)
    heads, channels, area = 1, 4, 4
    zeros = torch.zeros(1, 8, 8, heads, channels)
    value = zeros.clone()
    value[0, 0, 7] = 1.0
    pooled = torch.zeros(1, 4, 4, heads, channels)
    pooled_value = pooled.clone()
    pooled_value[0, 0, 0] = 1.0
    case.update(
        query=zeros,
        key=zeros,
        window_bias=torch.zeros(heads, area, area),
        neighbor_bias=torch.zeros(heads, area, geometry.num_neighbors),
        pooled_keys=[pooled],
        pooled_biases=[torch.zeros(heads, area, 9)],
        geometry=geometry,
    )
    for backend in ("naive", *FAST_BACKENDS):
        fine = focal_attention(
            **{**case, "value": value, "pooled_values": [pooled]}, backend=backend
        )
        seen = fine[0, ::2, ::2, 0, 0] > 1e-6
        rows, cols = seen.nonzero(as_tuple=True)
        wrapped = {(0, 3), (0, 0), (3, 3), (3, 0)}
        assert set(zip(rows.tolist(), cols.tolist(), strict=True)) == wrapped
        coarse = focal_attention(
            **{**case, "value": zeros, "pooled_values": [pooled_value]}, backend=backend
        )
        seen = (coarse[0, ::2, ::2, 0, 0] > 1e-6).nonzero().tolist()
        assert seen == [[0, 0], [0, 1], [1, 0], [1, 1]]


@pytest.mark.parametrize("backend", ["auto", "naive", *FAST_BACKENDS])
def test_dropout_drops_and_keeps_the_mean(backend):
    case = random_case(2, torch.float32)
    if backend == "cpu":
        with pytest.raises(ValueError, match="does not drop attention weights"):
            focal_attention(**case, backend=backend, dropout_p=0.5)
        return
    with torch.no_grad():
        case["value"].fill_(1.0)
        for pooled in case["pooled_values"]:
            pooled.fill_(1.0)
        runs = [
            focal_attention(**case, backend=backend, dropout_p=0.5) for _ in range(200)
        ]
    mean = torch.stack(runs).mean()
    assert runs[0].std() > 0.01
    assert abs(mean - focal_attention(**case, backend=backend).mean()) < 0.05


def test_wrong_arguments_are_named():
    geometry = FocalGeometry(7, 3, 3, 1)
    fine = torch.zeros(1, 7, 7, 1, 8)
    pooled = torch.zeros(1, 1, 1, 1, 8)
    right = dict(
        query=fine,
        key=fine,
        value=fine,
        pooled_keys=[pooled],
        pooled_values=[pooled],
        window_bias=torch.zeros(1, 49, 49),
        neighbor_bias=torch.zeros(1, 49, 132),
        pooled_biases=[torch.zeros(1, 49, 9)],
        geometry=geometry,
    )
    assert focal_attention(**right).shape == fine.shape
    for name, changes in {
        "window_size": dict(query=torch.zeros(1, 8, 7, 1, 8)),
        "query": dict(query=torch.zeros(7, 7, 8)),
        "key": dict(key=torch.zeros(1, 14, 14, 1, 8)),
        "neighbor_bias": dict(neighbor_bias=None),
        "pooled_keys": dict(pooled_keys=[]),
        r"pooled_values\[0\]": dict(pooled_values=[fine]),
        r"pooled_biases\[0\]": dict(pooled_biases=[torch.zeros(1, 49, 16)]),
        "attn_backend": dict(backend="fastest"),
    }.items():
        with pytest.raises(ValueError, match=name):
            focal_attention(**{**right, **changes})


def test_named_backend_that_cannot_run_says_why_and_auto_passes_over_it(monkeypatch):
    from focal_mm.ops import functional

    broken = functional.Backend(
        name="broken",
        run=lambda inputs: inputs.value,
        why_unavailable=lambda: "",
        why_unsupported=lambda inputs: "it never can",
        preferred_on="cpu",
    )
    monkeypatch.setattr(functional, "BACKENDS", (broken, *functional.BACKENDS))
    logged = []
    monkeypatch.setattr(functional, "_log_once", logged.append)
    case = random_case(1)
    with pytest.raises(ValueError, match="'broken' cannot run because it never can"):
        focal_attention(**case, backend="broken")
    focal_attention(**case, backend="auto")
    assert len(logged) == 1
    assert "it never can" in logged[0]
