"""The command line ``tools/get_flops.py``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools import get_flops

SCRIPT = Path(get_flops.__file__)

CONFIG = """
default_scope = "mmpretrain"
custom_imports = dict(imports=["focal_mm"])
model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="FocalTransformer",
        arch=dict(embed_dims=8, depths=(1, 1), num_heads=(1, 2)),
        expand_sizes=3,
        focal_windows=3,
        out_indices=(1,),
    ),
)
train_dataloader = dict(
    dataset=dict(pipeline=[dict(type="RandomResizedCrop", scale=56)])
)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with two configs that can be counted."""
    (tmp_path / "one.py").write_text(CONFIG)
    (tmp_path / "two.py").write_text('_base_ = "./one.py"')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_table(folder, capsys):
    options = ["--cfg-options", "model.backbone.use_conv_embed=True"]
    assert get_flops.main(["one.py", "two.py", *options]) == 0
    out, err = capsys.readouterr()
    header, *rows, note = out.splitlines()
    assert header.split()[0] == "config"
    assert [row.split()[:4] for row in rows] == [
        ["one.py", "56", "×", "56"],
        ["two.py", "56", "×", "56"],
    ]
    assert "multiply-adds" in note
    assert [line for line in err.splitlines() if line.startswith("[")] == [
        "[1/2] one.py",
        "[2/2] two.py",
    ]


def test_json_alone_on_stdout(folder):
    """As another program reads it, the libraries' own messages included."""
    command = [sys.executable, SCRIPT, "one.py", "--json", "--shape", "28", "35"]
    done = subprocess.run(command, capture_output=True, text=True)
    (row,) = json.loads(done.stdout)
    assert (row["config"], row["height"], row["width"]) == ("one.py", 28, 35)
    assert row["params"] == row["parts"]["backbone"]["params"]
    assert row["flops"] == row["parts"]["backbone"]["flops"] > row["product_flops"] > 0


def test_options_change_the_model(folder, capsys):
    def params(*options: str) -> int:
        assert get_flops.main(["one.py", "--json", *options]) == 0
        return json.loads(capsys.readouterr().out)[0]["params"]

    assert params("--cfg-options", "model.backbone.use_conv_embed=True") > params()


def test_goes_on_past_a_bad_config(folder, capsys):
    (folder / "bad.py").write_text(CONFIG.replace("num_heads=(1, 2)", "num_heads=(3,)"))
    assert get_flops.main(["gone.py", "bad.py", "one.py"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[1].startswith("one.py")
    errors = [line for line in err.splitlines() if line.startswith("get_flops.py: ")]
    assert errors[0].endswith("gone.py: UserError: there is no config file gone.py")
    assert errors[1].startswith("get_flops.py: bad.py: ValueError: ")
    assert "num_heads" in errors[1]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shape", "8"], "--shape: expected 2 arguments"),
        (["--cfg-options", "a"], "not of the form key.subkey=value"),
    ],
)
def test_unreadable_options(folder, capsys, options, message):
    with pytest.raises(SystemExit) as caught:
        get_flops.main(["one.py", *options])
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert error.count("\n") == 1
    assert message in error
