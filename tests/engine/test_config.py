"""Reading configs and walking through them."""

from mmengine.config import Config

from focal_mm.engine.config import load_config, walk


def test_options_and_the_type_of_init_cfg(tmp_path):
    path = tmp_path / "config.py"
    Config(dict(model=dict(backbone=dict(depth=1), heads=[dict()]))).dump(path)
    options = {
        "model.backbone.depth": 2,
        "model.heads.0.init_cfg.checkpoint": "x.pth",
    }
    cfg = load_config(path, options)
    assert cfg.model.backbone.depth == 2
    assert cfg.model.heads[0].init_cfg == dict(type="Pretrained", checkpoint="x.pth")
    assert load_config(path).model.backbone.depth == 1


def test_walk_names_every_dict_as_cfg_options_do():
    inner = dict(c=1)
    node = dict(a=[dict(), (3, inner)], b=dict())
    found = dict(walk(node, "root"))
    assert list(found) == ["root", "root.a.0", "root.a.1.1", "root.b"]
    assert found["root.a.1.1"] is inner
    assert [key for key, _ in walk(node)] == ["", "a.0", "a.1.1", "b"]
    assert list(walk(None)) == []
