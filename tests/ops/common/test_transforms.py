"""Second derivatives of what has a fast backward pass, and who follows a call."""

import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from focal_mm.ops.common.pyramid import cached_by_size
from focal_mm.ops.common.transforms import is_ordinary, is_transformed
from focal_mm.ops.onednn import linear


def test_second_derivatives_where_one_argument_comes_from_another():
    """The gradient of one must not run through the other."""
    x = torch.randn(6, 6, requires_grad=True)

    def penalty(call):
        out = call(x, x.tanh(), x[0])
        (slope,) = torch.autograd.grad(out.cos().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), x)[0]

    torch.testing.assert_close(penalty(linear), penalty(F.linear))


def test_cpu_attention_passes_pytorchs_own_check_of_second_derivatives():
    from tests.ops.cases import attend, tensors_of
    from tests.ops.window.test_focal_attention import random_case

    case = random_case(3)
    named = {name: t for name, t in tensors_of(case).items() if "[" not in name}

    def call(*tensors):
        return attend({**case, **dict(zip(named, tensors, strict=True))}, "cpu")

    assert torch.autograd.gradgradcheck(call, tuple(named.values()), fast_mode=True)


class Subclass(torch.Tensor):
    pass


def test_ordinary_tensors_are_those_that_nobody_follows():
    x = torch.ones(3)
    assert is_ordinary(x, None, torch.nn.Parameter(x))
    assert not is_ordinary(x, x.as_subclass(Subclass))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, x)
        assert is_transformed(dual)
        assert not is_ordinary(x, dual)
        assert is_ordinary(x)
    seen = []
    torch.func.vmap(lambda x: seen.append(is_ordinary(x)) or x)(x)
    assert seen == [False]


def test_what_a_transform_makes_is_not_kept():
    @cached_by_size
    def build(size):
        return torch.arange(size)

    torch.func.functionalize(lambda: build(3))()
    assert build(3).tolist() == [0, 1, 2]
    assert build(3) is build(3)
