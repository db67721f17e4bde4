"""What the figures of one layer are made of."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from benchmarks.attention import (
    Ceilings,
    Layer,
    check_layer,
    measure_layer,
    row,
)
from benchmarks.checking import MismatchError
from benchmarks.models import parse_arch_option
from benchmarks.steps import Precision
from benchmarks.timing import Times
from tests.benchmarks.conftest import detach_key

ARCH = parse_arch_option("8:1,1:1,2")
COUNTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)
    )
}
CPU = Precision(torch.device("cpu"))
LAYERS = [
    Layer(ARCH, 0, (56, 30), 2, "detection"),
    Layer(ARCH, 1, (50, 112), 1, "imagenet"),
]


@pytest.mark.parametrize("layer", LAYERS)
def test_flops_are_those_of_the_products(layer):
    """PyTorch's own count of the backend that has every key once."""
    inputs = layer.make_inputs(layer.batch, CPU)
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        layer.attend(inputs, "sdpa")
    assert counter.get_total_flops() == layer.flops("forward")
    assert layer.flops("forward+backward") == 3 * layer.flops("forward")


@pytest.mark.parametrize("layer", LAYERS)
def test_bytes_are_those_of_inputs_and_output(layer):
    inputs = layer.make_inputs(layer.batch, CPU)
    out = layer.attend(inputs, "naive")
    sizes = {name: tensor.nbytes for name, tensor in inputs.items()}
    own = layer.heads * 49
    halo = layer.geometry.halo_size**2
    biases = own * 4 * (halo + layer.geometry.region_size(0) ** 2)
    read = sizes["qkv"] + sizes["pooled_kv.0"] + biases
    assert layer.bytes_moved("forward", torch.float32) == read + out.nbytes
    assert (
        layer.bytes_moved("forward+backward", torch.float32)
        == read + out.nbytes + read + 2 * out.nbytes + read
    )
    assert layer.bytes_moved("forward", torch.float16) * 2 == read + out.nbytes


def test_roofline_is_that_of_the_slower_ceiling():
    layer = LAYERS[0]
    flops = layer.flops("forward")
    moved = layer.bytes_moved("forward", torch.float32)
    # The products need 1 s here, the bytes 2 s.
    ceilings = Ceilings(flops / 1, moved / 2)
    found = row(layer, "x", "forward", Times((5.0, 4.0)), ceilings, torch.float32)
    assert found["of_matmul"] == pytest.approx(1 / 4)
    assert found["of_copy"] == found["of_roofline"] == pytest.approx(2 / 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_right_backends_pass(dtype):
    for layer in LAYERS:
        check_layer(layer, "sdpa", Precision(CPU.device, dtype))


def test_wrong_gradient_is_refused(plant):
    plant("wrong", detach_key)
    with pytest.raises(MismatchError, match=r"wrong is wrong.*gradient of qkv"):
        measure_layer(LAYERS[0], ["wrong"], CPU, 1, 1)
