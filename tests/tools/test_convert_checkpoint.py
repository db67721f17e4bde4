import pickle

import numpy as np
import torch

from tools.convert_checkpoint import main


def test_converts_and_refuses(tmp_path, capsys):
    source, target = tmp_path / "in.pth", tmp_path / "out.pth"
    state = {
        "patch_embed.proj.weight": torch.randn(4, 3, 4, 4),
        "layers.0.blocks.0.attn.relative_position_index": torch.arange(3),
        "layers.0.blocks.0.attn.coord2rpb_all.1.2.weight": torch.randn(1, 4),
        "layers.0.blocks.0.attn.topk_cloest_coords_1": torch.randn(3),
        "head.weight": torch.randn(10, 4),
    }
    torch.save({"model": state}, source)

    assert main([str(source), str(target)]) == 0
    assert f"{target}: 3 tensors" in capsys.readouterr().out
    converted = torch.load(target, weights_only=True)["state_dict"]
    assert set(converted) == {
        "backbone.patch_embed.proj.weight",
        "backbone.stages.0.blocks.0.attn.coord2rpb_all.1.2.weight",
        "head.fc.weight",
    }

    before = target.read_bytes()
    foreign = tmp_path / "foreign.pth"
    torch.save({"conv1.weight": torch.ones(1)}, foreign)
    source.write_bytes(source.read_bytes()[:100])
    for args, word in (
        ((source, target), "exists"),
        ((foreign, tmp_path / "new.pth"), "none of the known layouts"),
        ((source, tmp_path / "new.pth"), "not a checkpoint"),
        ((tmp_path / "absent.pth", tmp_path / "new.pth"), "no such"),
    ):
        assert main([*map(str, args)]) == 1
        printed = capsys.readouterr().err
        assert word in printed
        assert printed.count("\n") == 1
    assert target.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "foreign.pth",
        "in.pth",
        "out.pth",
    ]


def test_paddles_files_are_taken_as_they_are(tmp_path):
    source, target = tmp_path / "in.pdparams", tmp_path / "out.pth"
    weight = np.arange(8, dtype=np.float32).reshape(2, 4)
    block = "layers.0.blocks.0.mlp.fc1"
    state = {f"{block}.weight": weight, f"{block}.bias": np.ones(4, np.float32)}
    source.write_bytes(pickle.dumps(state, 4))
    assert main([str(source), str(target)]) == 0
    converted = torch.load(target, weights_only=True)["state_dict"]
    name = "backbone.stages.0.blocks.0.mlp.fc1.weight"
    assert np.array_equal(converted[name], weight.T)
