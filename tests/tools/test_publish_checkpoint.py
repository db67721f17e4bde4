"""Publishing: what comes out loads everywhere and computes the same."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from mmengine.config import Config
from safetensors import safe_open

import focal_mm
from focal_mm.checkpoint import CheckpointError
from focal_mm.models import MODELS
from tools.publish_checkpoint import main

ROOT = Path(__file__).resolve().parents[2]
IMAGE = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
SMALL = dict(embed_dims=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8))
CONFIG = f"""
_base_ = {str(ROOT / "configs/cls/focal_tiny_conv_in1k_224.py")!r}
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, **{SMALL}),
        focal_windows=(15, 13, 9, 7),
        init_cfg=dict(type="Pretrained", checkpoint="/home/me/secret.pth"),
    ),
    head=dict(in_channels=128, num_classes=3),
)
work_dir = "/home/me/runs"
"""


@pytest.fixture
def trained(tmp_path):
    """A classifier, its config, and what MMEngine would leave of its training."""
    model = focal_mm.create_model(
        "focal_tiny_conv", num_classes=3, arch=SMALL, focal_windows=(15, 13, 9, 7)
    ).eval()
    config, checkpoint = tmp_path / "mine.py", tmp_path / "epoch_3.pth"
    config.write_text(CONFIG)
    meta = dict(epoch=3, dataset_meta=dict(classes=("ant", "bee", "cat")))
    optimizer = dict(state={0: dict(exp_avg=torch.ones(1000))})
    torch.save(
        dict(state_dict=model.state_dict(), meta=meta, optimizer=optimizer), checkpoint
    )
    return model, config, checkpoint


def publish(*args: object) -> None:
    assert main([*map(str, args)]) == 0


def test_classifier_and_its_card(trained, tmp_path, capsys):
    model, config, checkpoint = trained
    out, metrics = tmp_path / "published/ants", tmp_path / "metrics.json"
    metrics.write_text('{"accuracy/top1": 81.25}')
    publish(config, checkpoint, out, "--metrics", metrics)
    assert sorted(path.name for path in out.iterdir()) == [
        *("README.md", "config.json", "config.py", "model.safetensors")
    ]

    with safe_open(out / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(model.state_dict())
    loaded = focal_mm.create_model(f"local-dir:{out}").eval()
    assert loaded(IMAGE).equal(model(IMAGE))
    described = json.loads((out / "config.json").read_text())
    assert described["architecture"] == "focal_tiny_conv"
    assert described["label_names"] == ["ant", "bee", "cat"]
    assert set(described["model_args"]) == {"arch", "focal_windows"}
    assert described["pretrained_cfg"]["input_size"] == [3, 224, 224]
    assert described["pretrained_cfg"]["mean"] == pytest.approx([0.485, 0.456, 0.406])

    card = (out / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["pipeline_tag"] == "image-classification"
    assert "| accuracy/top1 | 81.25 |" in card
    assert 'create_model("hf-hub:USER/ants")' in card
    for name in ("README.md", "config.json", "config.py"):
        assert "/home/me" not in (out / name).read_text(), name
    test_data = Config.fromfile(out / "config.py").test_dataloader.dataset
    assert tuple(test_data.metainfo.classes) == ("ant", "bee", "cat")


def test_timm_loads_it(trained, tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model, config, checkpoint = trained
    publish(config, checkpoint, tmp_path / "out")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert loaded(IMAGE).equal(model(IMAGE))
    other = timm.create_model(
        f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=5
    )
    assert other(IMAGE).shape == (1, 5)


def test_what_timm_saves_is_loaded(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = timm.create_model("focal_tiny", num_classes=4, in_chans=2, arch=SMALL)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = focal_mm.create_model(f"local-dir:{tmp_path}").eval()
    image = IMAGE[:, :2]
    assert loaded(image).equal(model.eval()(image))


def test_name_of_a_model_and_the_hubs_cache(trained, tmp_path, monkeypatch):
    """As after a download: nothing is asked of the network."""
    model, _, checkpoint = trained
    out = tmp_path / "out"
    arch = (f"arch.{k}={v}".replace(" ", "") for k, v in SMALL.items())
    options = ("--cfg-options", *arch, "focal_windows=(15,13,9,7)")
    publish("focal_tiny_conv", checkpoint, out, *options)
    assert not (out / "config.py").exists()
    repository = tmp_path / "cache/models--user--ants"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0123abcd")
    shutil.copytree(out, repository / "snapshots/0123abcd")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(
        huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache")
    )

    loaded = focal_mm.create_model("hf-hub:user/ants").eval()
    assert loaded(IMAGE).equal(model(IMAGE))
    maps = focal_mm.create_model("hf-hub:user/ants", features_only=True).eval()
    assert maps(IMAGE)[-1].equal(model.forward_features(IMAGE))
    other = focal_mm.create_model("hf-hub:user/ants", num_classes=5)
    assert other.backbone.patch_embed.proj.weight.equal(
        model.backbone.patch_embed.proj.weight
    )
    start = focal_mm.create_model(
        "focal_tiny_conv", "hf-hub:user/ants", num_classes=3, arch=SMALL
    )
    assert start.head.fc.weight.equal(model.head.fc.weight)
    with pytest.raises(CheckpointError, match=r"hf-hub:user/bees.*cannot be had"):
        focal_mm.create_model("hf-hub:user/bees")


def test_whole_detector_or_its_backbone(toy_model, tmp_path, capsys):
    """The published folder is what the command lines take."""
    toy = toy_model("mmdet")
    state = torch.load(toy.checkpoint, weights_only=False)["state_dict"]
    whole, bare = tmp_path / "whole", tmp_path / "bare"
    publish(toy.config, toy.checkpoint, whole)
    with safe_open(whole / "model.safetensors", "pt") as file:
        assert {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()} == {  # noqa: SIM118
            k: tuple(v.shape) for k, v in state.items()
        }
    inferencer = focal_mm.load_detector(
        whole / "config.py", str(whole / "model.safetensors"), "cpu"
    )
    [image, *_] = sorted(map(str, toy.images.iterdir()))
    assert inferencer(image)["predictions"][0]["labels"]
    assert inferencer.model.dataset_meta["classes"] == toy.classes

    part = tmp_path / "part.pth"
    torch.save({k: v for k, v in state.items() if "neck" not in k}, part)
    assert main([*map(str, (toy.config, part, tmp_path / "part"))]) == 1
    assert "part.pth does not fit the model: it lacks" in capsys.readouterr().err

    publish(toy.config, toy.checkpoint, bare, "--backbone")
    assert not (bare / "config.py").exists()
    for folder in (whole, bare):
        maps = focal_mm.create_model(f"local-dir:{folder}", features_only=True)
        assert maps.feature_info.channels() == [16, 32, 64, 128]
        for name, value in maps.backbone.state_dict().items():
            assert value.equal(state[f"backbone.{name}"]), name
    assert focal_mm.create_model(f"local-dir:{bare}")(IMAGE).shape == (1, 128)


def test_push_is_one_commit_and_keeps_a_card(trained, tmp_path, monkeypatch, capsys):
    calls = []

    class Api:
        def __init__(self, **_):
            pass

        def create_repo(self, repository, private, exist_ok):
            assert exist_ok
            calls.append((repository, private))

        def file_exists(self, repository, name):
            return name == "README.md"

        def upload_folder(self, repo_id, folder_path, ignore_patterns, **_):
            assert {"config.json", "model.safetensors"} <= {
                path.name for path in folder_path.iterdir()
            }
            calls.append((repo_id, ignore_patterns))
            if repo_id == "user/refused":
                raise ConnectionError("not\nallowed")
            return "https://example.org/user/ants"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    _, config, checkpoint = trained
    publish(config, checkpoint, tmp_path / "a", "--push", "user/ants", "--private")
    assert calls == [("user/ants", True), ("user/ants", ["README.md"])]
    assert 'create_model("hf-hub:user/ants")' in (tmp_path / "a/README.md").read_text()
    args = [config, checkpoint, tmp_path / "b", "--push", "user/refused"]
    assert main([*map(str, args)]) == 1
    error = capsys.readouterr().err
    assert "hf upload user/refused" in error
    assert error.count("\n") == 1


def test_mistakes_are_one_line_and_leave_nothing(trained, tmp_path, capsys):
    _, config, checkpoint = trained
    taken = tmp_path / "taken"
    taken.mkdir()
    nested = tmp_path / "nested.json"
    nested.write_text('{"accuracy": {"top1": 1}}')
    broken = tmp_path / "broken.pth"
    broken.write_bytes(checkpoint.read_bytes()[:1000])
    resnet = tmp_path / "resnet.py"
    resnet.write_text(
        "default_scope = 'mmdet'\nmodel = dict(backbone=dict(type='ResNet'))"
    )
    new = tmp_path / "new"
    before = set(tmp_path.rglob("*"))
    for args, words in (
        ((config, checkpoint, taken), f"{taken} exists"),
        ((config, tmp_path / "absent.pth", new), "no such checkpoint"),
        ((config, broken, new), "not a checkpoint"),
        ((tmp_path / "absent.py", checkpoint, new), "there is no config file"),
        ((resnet, checkpoint, new), "no FocalTransformer"),
        (("focal_tiny", checkpoint, new), "does not fit focal_tiny: backbone.patch"),
        ((config, checkpoint, new, "--metrics", nested), "names and numbers"),
        ((config, checkpoint, new, "--metrics", tmp_path / "no"), "not a readable"),
    ):
        assert main([*map(str, args)]) == 1, words
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1, error
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "does not describe a model"),
        ("{", "does not describe a model"),
        ('{"num_classes": 3}', "'architecture'"),
        ('{"architecture": "resnet50"}', "unknown model 'resnet50'"),
        ('{"architecture": "focal_tiny"}', "no model.safetensors"),
    ],
)
def test_foreign_and_broken_folders(text, words, tmp_path):
    (tmp_path / "config.json").write_text(text)
    if "resnet50" in text:
        (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match=words) as error:
        focal_mm.create_model(f"local-dir:{tmp_path}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", MODELS)
def test_rows_are_published_under_their_names(name):
    from focal_mm.engine.publish import _complete, _nearest_name

    data = "in22k" if name == "focal_large" else "in1k"
    row = Config.fromfile(ROOT / f"configs/cls/{name}_{data}_224.py").model.backbone
    del row["type"]
    found, changed = _nearest_name(_complete(row))
    assert (found, set(changed)) == (name, {"out_indices"})
