"""One layer: its FLOPs, its check, its command line."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from benchmarks import attention_layer
from benchmarks.attention_layer import Layer, check_layer
from benchmarks.measure import Precision

COUNTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)
    )
}
CPU = Precision(torch.device("cpu"))
LAYERS = [
    Layer("toy", 1, (56, 30), 2, "window", "detection"),
    Layer("toy", 2, (50, 112), 1, "window", "imagenet"),
    Layer("toy", 1, (56, 80), 2, "topk", ""),
]
TINY = ["--arch", "toy", "--device", "cpu", "--rounds", "2", "--sizes", "28"]


@pytest.mark.parametrize("layer", LAYERS)
def test_flops_are_those_of_the_products(layer):
    """PyTorch's own count of the backend that has every key once."""
    inputs = layer.make_inputs(layer.batch, CPU)
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        layer.attend(inputs, "sdpa")
    assert counter.get_total_flops() == layer.flops


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_right_backends_pass(layer, dtype):
    check_layer(layer, "sdpa", Precision(CPU.device, dtype))


def test_table_and_json(tmp_path, capsys):
    path = tmp_path / "out.json"
    options = [*TINY, "--key-selection", "window", "topk", "--backends", "sdpa", "cpu"]
    assert attention_layer.main([*options, "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert "Focal-fast, stage 2 of 28x28" in out
    assert "cpu, Focal-fast, stage 2 of 28x28, batch 512 is not measured: Value" in out
    rows = json.loads(path.read_text())["results"]
    keys = ("key_selection", "backend", "stage", "pass")
    assert {tuple(row[key] for key in keys) for row in rows} == {
        (*of, stage, run)
        for of in (("window", "sdpa"), ("window", "cpu"), ("topk", "sdpa"))
        for stage in (1, 2)
        for run in ("forward", "forward+backward")
    }
    assert all(row["of_matmul"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda bias: bias * 1.5, "its output is off by"),
        (lambda bias: bias.detach(), "lacks the gradient of fine_bias"),
    ],
)
def test_nothing_is_reported_of_wrong_backends(
    monkeypatch, tmp_path, capsys, change, message
):
    attend = Layer.attend

    def wrong(self, inputs, backend):
        if backend == "sdpa":
            inputs = inputs | {"fine_bias": change(inputs["fine_bias"])}
        return attend(self, inputs, backend)

    monkeypatch.setattr(Layer, "attend", wrong)
    path = tmp_path / "out.json"
    assert attention_layer.main([*TINY, "--json", str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert not path.exists()
    last = err.splitlines()[-1]
    assert last.startswith(f"{attention_layer.PROGRAM}: sdpa is wrong, nothing is rep")
    assert message in last
