"""Mistakes of people at the command line of training: each is one line.

No log before it, no traceback, a folder as it was, unless building has begun.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from focal_mm.engine import train

ROOT = Path(__file__).parents[3]
BACKBONE = "model.backbone"
DATASET = "train_dataloader.dataset"
# Option, and what the line says. Data and model are sound otherwise.
MISTAKES = [
    # Keys and values of no part.
    (
        "optim_wraper.optimizer.lr=1",
        "optim_wrapper is the nearest",
    ),
    ("max_epochs=3", "no key max_epochs"),
    ("workdir=x", "no key workdir, work_dir is the nearest"),
    ("model=None", "it has no model"),
    ("model.type=MaskRCN", "model: KeyError: 'MaskRCN is not in"),
    ("model.neck=5", "model: TypeError"),
    ("model.roi_head.bbox_head.num_class=3", "model.roi_head.bbox_head: TypeError"),
    ("model.roi_head.bbox_head.num_classes=7", "heads of the model are made for 7"),
    ("default_scope=mmdett", "default_scope is mmdett, which is not installed"),
    ("train_cfg=None", "train_cfg"),
    ("train_cfg.type=Loop", "train_cfg: KeyError: 'Loop is not in"),
    ("train_cfg.max_iters=0", "train_cfg.max_iters must be"),
    ("train_cfg.max_iters=1.5", "train_cfg.max_iters must be"),
    ("train_cfg.max_epoch=1", "train_cfg: TypeError"),
    ("default_hooks.checkpoint.interval=0", "default_hooks.checkpoint.interval must"),
    ("default_hooks.logger.interval=-3", "default_hooks.logger.interval must be"),
    ("default_hooks.logger.type=Log", "default_hooks.logger: KeyError"),
    ("default_hooks.logger.intervall=1", "default_hooks.logger: TypeError"),
    ("optim_wrapper=None", "optim"),
    ("optim_wrapper.type=Wrapper", "optim_wrapper: KeyError"),
    ("optim_wrapper.type=AmpOptimWrapper", "mixed precision needs a GPU"),
    ("optim_wrapper.optimizer.type=AdamX", "optim_wrapper: "),
    ("optim_wrapper.optimizer.lr=high", "optim_wrapper: TypeError"),
    ("optim_wrapper.optimizer.lr=-1.0", "optim_wrapper.optimizer: ValueError"),
    ("optim_wrapper.optimizer.momentun=1", "optim_wrapper.optimizer: TypeError"),
    ("optim_wrapper.clip_gradient=1", "optim_wrapper: TypeError"),
    ("param_scheduler.type=Steps", "--cfg-options do not fit config.py: TypeError"),
    ("visualizer.type=Draw", "visualizer: KeyError"),
    ("load_from=gone.pth", "load_from: there is no checkpoint gone.pth"),
    ("work_dir=config.py", "work_dir config.py cannot be made"),
    # The data.
    ("train_dataloader=None", "train_dataloader"),
    ("train_dataloader.batch_size=0", "batch_size must be"),
    ("train_dataloader.batchsize=2", "TypeError"),
    ("train_dataloader.num_workers=many", "TypeError: '<' not supported"),
    ("train_dataloader.sampler.type=No", "train_dataloader.sampler: KeyError"),
    (f"{DATASET}.type=Coco", f"{DATASET}: KeyError: 'Coco is not in"),
    (f"{DATASET}.ann_file=no.json", "data not found: "),
    (f"{DATASET}.ann_file=classes.txt", "classes.txt is no readable JSON"),
    (f"{DATASET}.data_root=gone", "data not found: gone/coco.json"),
    (f"{DATASET}.data_prefix.img=gone/", "data not found: "),
    (f"{DATASET}.anns=x", f"{DATASET}: TypeError"),
    (f"{DATASET}.metainfo.classes=[a,b,c]", "heads of the model are made for 5"),
    (f"{DATASET}.metainfo.classes=[a,b,c,d,x]", "no category is called (x"),
    (f"{DATASET}.metainfo.classes=[b,a,c,d,e]", "in another order than metainfo"),
    (f"{DATASET}.pipeline.0.type=Load", f"{DATASET}.pipeline.0: KeyError"),
    (f"{DATASET}.pipeline.1.with_box=1", f"{DATASET}.pipeline.1: TypeError"),
    (f"{DATASET}.pipeline.2.scale=wide", f"{DATASET}.pipeline.2: "),
    # The backbone.
    (f"{BACKBONE}.type=Focal", f"{BACKBONE}: KeyError"),
    (f"{BACKBONE}.arch=huge", f"{BACKBONE}: ValueError: arch must be one of"),
    (f"{BACKBONE}.arch.embed_dims=-16", "arch: embed_dims must be at least 1"),
    (f"{BACKBONE}.arch.embed_dims=wide", "arch must be str | Mapping"),
    (f"{BACKBONE}.arch.num_heads=[3,3,3,3]", "num_heads=3 of stage 0 must divide"),
    (f"{BACKBONE}.in_channels=0", "in_channels must be at least 1, got 0"),
    (f"{BACKBONE}.in_channels=4", f"{BACKBONE}: RuntimeError"),
    (f"{BACKBONE}.patch_size=0", "patch_size must be at least 1, got 0"),
    (f"{BACKBONE}.window_size=7.5", "window_size must be int | Sequence[int], got 7.5"),
    (f"{BACKBONE}.window_size=0", "window_size"),
    (f"{BACKBONE}.windows_size=7", "windows_size"),
    (f"{BACKBONE}.mlp_ratio=four", "mlp_ratio must be float, got 'four'"),
    (f"{BACKBONE}.mlp_ratio=-4", "mlp_ratio must be above 0, got -4"),
    (f"{BACKBONE}.qkv_bias=yes", "qkv_bias must be bool, got 'yes'"),
    (f"{BACKBONE}.qk_scale=abc", "qk_scale must be float | None, got 'abc'"),
    (f"{BACKBONE}.drop_rate=1.5", "drop_rate must be in [0, 1), got 1.5"),
    (f"{BACKBONE}.drop_path_rate=high", "drop_path_rate must be float, got 'high'"),
    (f"{BACKBONE}.expand_sizes=-1", "expand_size must be between 0 and 7"),
    (f"{BACKBONE}.expand_layer=some", "expand_layer"),
    (f"{BACKBONE}.focal_levels=9", "focal_levels"),
    (f"{BACKBONE}.focal_windows=[8,8,8,8]", "focal_window must be odd"),
    (f"{BACKBONE}.focal_pool=avg", "focal_pool must be one of"),
    (f"{BACKBONE}.use_shift=often", "use_shift must be bool, got 'often'"),
    (f"{BACKBONE}.out_indices=3", "out_indices must be Sequence[int], got 3"),
    (f"{BACKBONE}.out_indices=[0,1,2,9]", "out_indices must be increasing stages"),
    (f"{BACKBONE}.out_indices=[2,3]", "model.neck: AssertionError"),
    (f"{BACKBONE}.with_cp=maybe", "with_cp must be bool, got 'maybe'"),
    (f"{BACKBONE}.frozen_stages=7", "frozen_stages must be between -1 and 4, got 7"),
    (f"{BACKBONE}.attn_backend=fast", "attn_backend must be one of"),
    (f"{BACKBONE}.attn_backend=triton", "'triton' cannot run because"),
    (f"{BACKBONE}.key_selection=best", "key_selection must be one of"),
    (f"{BACKBONE}.topk=9", "topk: no effect with key_selection='window'"),
    (f"{BACKBONE}.init_cfg.checkpoint=gone.pth", "there is no checkpoint gone.pth"),
    # Parts that do not fit each other.
    ("model.neck.in_channels=[1,2,3,4]", "model.neck: RuntimeError"),
    ("model.neck.out_channels=48", "model.rpn_head: RuntimeError"),
    (
        "model.roi_head.bbox_head.in_channels=7",
        "roi_head.bbox_head: RuntimeError",
    ),
    (
        "model.roi_head.mask_head.in_channels=7",
        "roi_head.mask_head: RuntimeError",
    ),
    ("model.data_preprocessor.mean=[0.0,0.0]", "model.data_preprocessor: "),
]


@pytest.fixture
def toy(toy_model, tmp_path, monkeypatch) -> Path:
    """The config of a small detector, and an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return toy_model("mmdet").config


@pytest.mark.parametrize(
    ("option", "says"),
    [
        # A quarter of them in the quick tier.
        pytest.param(
            *mistake, id=mistake[0], marks=[pytest.mark.slow] * bool(index % 4)
        )
        for index, mistake in enumerate(MISTAKES)
    ],
)
def test_a_mistake_is_one_line(toy, capsys, option, says):
    (Path.cwd() / "config.py").write_text(toy.read_text())
    code = train.main(["config.py", "--cfg-options", option])
    captured = capsys.readouterr()
    assert code == 1, captured.out[-2000:]
    assert captured.err.count("\n") == 1, captured.err
    assert says in captured.err
    assert "Config:" not in captured.out
    assert "Traceback" not in captured.out


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["gone.py"],
        ["{config}", "--cfg-options", "model.backbone.window_size=7.5"],
        ["{config}", "--cfg-options", f"{DATASET}.pipeline.2.scale=wide"],
        ["{config}", "--chek"],
    ],
    ids=str,
)
def test_the_script_itself(toy, arguments):
    words = [word.format(config=toy) for word in arguments]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", ROOT / "tools" / "train.py", *words],
        capture_output=True,
        text=True,
    )
    assert done.returncode in (1, 2)
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stdout + done.stderr
