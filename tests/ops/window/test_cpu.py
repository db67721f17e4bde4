"""The CPU backend where a call takes more than one chunk of windows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from focal_mm.ops import FocalGeometry
from focal_mm.ops.window.cpu import loading
from focal_mm.ops.window.cpu.chunks import plan_chunks, wrapped_parts
from focal_mm.ops.window.geometry import OUTSIDE_LOGIT
from tests.ops.cases import run
from tests.ops.window.test_focal_attention import random_case


@given(
    batch=st.integers(1, 5),
    rows=st.integers(1, 6),
    cols=st.integers(1, 7),
    windows=st.integers(0, 100),
)
def test_chunks_hold_each_window_once_and_the_first_is_the_largest(
    batch, rows, cols, windows
):
    seen = torch.zeros(batch, rows, cols, dtype=torch.int)
    chunks = plan_chunks(batch, rows, cols, windows)
    for chunk in chunks:
        chunk.of(seen).add_(1)
        assert chunk.num_windows == chunk.of(seen).numel() <= max(1, windows)
        largest = zip(chunk.shape, chunks[0].shape, strict=True)
        assert all(side <= most for side, most in largest)
    assert (seen == 1).all()


@given(
    size=st.integers(1, 12),
    margin=st.integers(0, 12),
    ends=st.tuples(st.integers(0, 11), st.integers(1, 12)),
)
def test_wrapped_parts_are_the_tokens_that_follow_each_other_on_a_ring(
    size, margin, ends
):
    start, stop = ends[0] % size, max(ends[0] % size + 1, min(ends[1], size))
    margin = min(margin, size)
    got = torch.full((stop - start + 2 * margin,), -1)
    for place, source in wrapped_parts(start, stop, margin, size):
        got[place] = torch.arange(size)[source]
    assert got.tolist() == [i % size for i in range(start - margin, stop + margin)]


@pytest.mark.parametrize("windows", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("seed", range(6))
def test_chunks_of_any_size_give_what_the_reference_gives(seed, windows, monkeypatch):
    case = random_case(seed)
    torch.manual_seed(seed)
    batch, (rows, cols) = 2, ((2, 3), (3, 2), (1, 4))[seed % 3]
    geometry = case["geometry"]
    fine = rows * geometry.window_size, cols * geometry.window_size
    rest = case["query"].shape[3:]

    def tensor(height, width):
        shape = batch, height, width, *rest
        return torch.randn(shape, dtype=torch.float64).requires_grad_()

    case.update({name: tensor(*fine) for name in ("query", "key", "value")})
    for name in ("pooled_keys", "pooled_values"):
        case[name] = [
            tensor(rows * 2**k, cols * 2**k) for k in range(geometry.coarse_levels)
        ]
    expected, expected_grads = run(case, "naive")
    whole, _ = run(case, "cpu")

    planned = []

    def plan(batch, rows, cols, _):
        planned.append(plan_chunks(batch, rows, cols, windows))
        return planned[-1]

    monkeypatch.setattr(loading, "plan_chunks", plan)
    if seed % 2:
        monkeypatch.setattr(loading, "BLOCK_BYTES", 0)
    output, grads = run(case, "cpu")
    assert all(len(chunks) >= batch * rows * cols / windows for chunks in planned)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(output, whole, rtol=1e-9, atol=1e-10)
    for name, grad in grads.items():
        torch.testing.assert_close(
            grad,
            expected_grads[name],
            rtol=1e-9,
            atol=1e-9,
            msg=lambda m, name=name: f"{name}: {m}",
        )


def test_chunks_bound_their_keys_and_blocks_their_logits(monkeypatch):
    keys = 49 + (-49 % loading.KEY_ALIGN)
    monkeypatch.setattr(loading, "CHUNK_BYTES", 3 * keys * 8 * 4)
    monkeypatch.setattr(loading, "BLOCK_BYTES", 2 * 49 * keys * 4 + 1)
    maps, bias = torch.randn(4, 21, 7, 1, 8), torch.zeros(1, 49, 49)
    geometry = FocalGeometry(7)
    loader = loading.ChunkLoader(maps, maps, maps, bias, None, [], geometry, 1.0)
    assert [chunk.num_windows for chunk in loader.chunks] == [3] * 4
    blocks = [part for part, _ in loader.blocks(loader.load(loader.chunks[0]))]
    assert blocks == [slice(0, 2), slice(2, 3)]


def test_keys_and_values_of_one_projection_are_not_copied():
    qkv = torch.randn(2, 7, 7, 3, 4, 8)
    _, key, value = qkv.unbind(3)
    assert loading.pair(key, value).data_ptr() == key.data_ptr()
    for other in (value.clone(), torch.randn(2, 7, 7, 4, 8)):
        torch.testing.assert_close(
            loading.pair(key, other), torch.stack((key, other)), rtol=0, atol=0
        )
    for one, two in ((key, value), (value, key), (key, key)):
        expected = torch.stack((one, two))
        torch.testing.assert_close(loading.pair(one, two), expected, rtol=0, atol=0)


def test_what_is_hidden_weighs_nothing_and_is_no_denormal_number():
    maps = torch.zeros(1, 7, 7, 1, 8)
    pooled = torch.zeros(1, 1, 1, 1, 8)
    geometry = FocalGeometry(7, focal_window=3, coarse_levels=1)
    bias, mask = torch.zeros(1, 49, 58), torch.zeros(1, 1, 58)
    mask[..., 49:] = OUTSIDE_LOGIT
    arguments = maps, maps, maps, bias, mask, [pooled, pooled], geometry, 1.0
    loader = loading.ChunkLoader(*arguments)
    ((_, weights),) = loader.blocks(loader.load(loader.chunks[0]))
    expected = torch.zeros(1, 49, 64)
    expected[..., :49] = 1 / 49
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=0)
