"""The examples of docs/backbone.md run, each as it stands there."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch

import focal_mm
from tools.publish_checkpoint import main as publish

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/backbone.md").read_text()
EXAMPLES = {
    title: code
    for title, section in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    for code in re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
}
# What peft needs is kept apart: see requirements/setup_env.sh.
APART = Path(sys.prefix, "peft")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run_here(title: str) -> dict:
    names = {}
    exec(compile(EXAMPLES[title], f"docs/backbone.md: {title}", "exec"), names)
    return names


def run_apart(folder: Path, title: str, check: str, *command: str) -> str:
    """Run an example and a check of what it has computed in processes of their own."""
    script = folder / "example.py"
    script.write_text(f"{EXAMPLES[title]}\n{check}")
    done = subprocess.run(
        [sys.executable, *command, script],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, APART))),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# A process that leaves early closes the connections of the others.
TOGETHER = "dist.barrier()\ndist.destroy_process_group()\n"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def test_every_section_has_one_example_that_a_test_runs():
    assert list(EXAMPLES) == [
        *("Maps and logits", "Weights", "A training loop", "Several processes: DDP"),
        *("Sharded: FSDP2", "LoRA with peft", "timm", "The Hugging Face Hub"),
    ]
    assert PAGE.count("```python") == len(EXAMPLES)


def test_maps_and_logits(capsys):
    names = run_here("Maps and logits")
    assert names["logits"].shape == (2, 1000)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "torch.Size([2, 96, 56, 56]) 96 4"
    assert lines[3] == "torch.Size([2, 768, 7, 7]) 768 32"


def test_weights():
    names = run_here("Weights")
    trained, model, larger = (names[n] for n in ("trained", "model", "larger"))
    name = "backbone.stages.0.blocks.0.attn.qkv.weight"
    for other in (model, larger):
        assert other.get_parameter(name).equal(trained.get_parameter(name))
    assert model.get_classifier().out_features == 5


def test_training_loop():
    names = run_here("A training loop")
    assert names["logits"].dtype == torch.bfloat16
    assert names["loss"].isfinite()
    parameters = [p for group in names["groups"] for p in group["params"]]
    assert len(parameters) == len(list(names["model"].parameters()))


def test_timm():
    pytest.importorskip("timm", reason="timm is not installed")
    names = run_here("timm")
    assert names["channels"] == [192, 384, 768]
    assert names["config"]["input_size"] == (3, 224, 224)


def test_hub(tmp_path, monkeypatch):
    model = focal_mm.create_model("focal_tiny", num_classes=3)
    torch.save(model.state_dict(), "my_training.pth")
    repository = tmp_path / "models--USER--NAME"
    snapshot = repository / "snapshots/0123abcd"
    assert publish(["focal_tiny", "my_training.pth", str(snapshot)]) == 0
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0123abcd")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    names = run_here("The Hugging Face Hub")
    for name, value in model.state_dict().items():
        assert names["model"].state_dict()[name].equal(value), name
    assert names["tuned"].get_classifier().out_features == 5
    assert names["backbone"].feature_info.channels() == [96, 192, 384, 768]


@pytest.mark.slow
def test_lora(tmp_path):
    if importlib.util.find_spec("peft") is None and not APART.is_dir():
        pytest.skip("peft is not installed")
    check = """
assert type(merged) is type(model)
trained = [name for name, p in merged.named_parameters() if p.grad is not None]
assert trained == ["head.fc.weight", "head.fc.bias"], trained
"""
    printed = run_apart(tmp_path, "LoRA with peft", check)
    # Two matrices of rank 8 for queries, keys, values; two for the projection; a head.
    backbone = focal_mm.create_model("focal_tiny").backbone
    blocks = sum(
        depth * 8 * (channels + 3 * channels + 2 * channels)
        for depth, channels in zip(
            backbone.arch.depths, backbone.num_features, strict=True
        )
    )
    assert f"trainable params: {blocks + 768 * 10 + 10:,} " in printed


@pytest.mark.slow
def test_ddp_keeps_all_processes_equal(tmp_path):
    check = """
assert loss.isfinite()
sums = [p.detach().double().sum() for p in model.parameters()]
own = torch.stack(sums)
others = own.clone()
dist.broadcast(others, 0)
assert own.equal(others)
"""
    run_apart(tmp_path, "Several processes: DDP", check + TOGETHER, *TORCHRUN)


@pytest.mark.slow
def test_fsdp_computes_what_one_process_computes(tmp_path):
    check = """
torch.manual_seed(0)
whole = focal_mm.create_model("focal_tiny", drop_path_rate=0.0)
expected = F.cross_entropy(whole(images), labels)
expected.backward()
torch.testing.assert_close(loss, expected)
name = "backbone.stages.2.blocks.0.attn.qkv.weight"
shard = model.get_parameter(name)
assert shard.to_local().numel() * 2 == whole.get_parameter(name).numel()
torch.testing.assert_close(shard.grad.full_tensor(), whole.get_parameter(name).grad)
"""
    run_apart(tmp_path, "Sharded: FSDP2", check + TOGETHER, *TORCHRUN)
