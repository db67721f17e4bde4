"""Pictures and videos through the command line, for the three task libraries."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from focal_mm.engine import inferencers
from focal_mm.engine.infer import main

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "det" / "mask_rcnn_focal_tiny_3x.py")
SCOPES = ("mmdet", "mmseg", "mmpretrain")
FPS, FRAMES = 12.5, 5


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def demo(folder, toy_model, capsys):
    """Runs the command line with a toy model: exit code, output, errors."""

    def run(scope: str, *arguments: str | Path) -> tuple[int, str, str]:
        toy = toy_model(scope)
        options = ("--config", toy.config, "--checkpoint", toy.checkpoint)
        capsys.readouterr()
        code = main([*map(str, (*arguments, *options)), "--device", "cpu"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def pictures(folder, toy_model) -> Path:
    """A folder with two images and two files that are none."""
    copy = folder / "pictures"
    shutil.copytree(toy_model("mmseg").images, copy)
    (copy / "broken.jpg").write_text("not an image")
    (copy / "notes.txt").write_text("not for a model")
    return copy


def write_video(path: Path) -> list[np.ndarray]:
    """A video of bluish noise; returns its frames as they are read again."""
    rng = np.random.default_rng(1)
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter_fourcc(*"MJPG"), FPS, (96, 64), True
    )
    for _ in range(FRAMES):
        noise = rng.integers(0, 64, (64, 96, 3), dtype=np.uint8)
        writer.write(noise + np.array([160, 0, 0], np.uint8))
    writer.release()
    return read_video(path)


def read_video(path: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == FPS
    return [capture.read()[1] for _ in range(int(capture.get(7)))]


def files_in(folder: Path) -> set[str]:
    """All files, hidden ones too."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def predict_directly(toy, inputs: list) -> list[dict]:
    """What the library's own inferencer says, as plain data."""
    scope = Config.fromfile(toy.config).default_scope
    model, weights = str(toy.config), str(toy.checkpoint)
    if scope == "mmdet":
        from mmdet.apis import DetInferencer

        found = DetInferencer(model, weights, device="cpu")(inputs, no_save_vis=True)
        return found["predictions"]
    if scope == "mmseg":
        from mmseg.apis import MMSegInferencer

        found = MMSegInferencer(model, weights, device="cpu")(inputs)["predictions"]
        counted = [np.unique(labels, return_counts=True) for labels in found]
        return [
            dict(labels=labels.tolist(), pixels=pixels.tolist())
            for labels, pixels in counted
        ]
    from mmpretrain import ImageClassificationInferencer

    found = ImageClassificationInferencer(model, weights, device="cpu")(inputs)
    return [dict(r, pred_scores=r["pred_scores"].tolist()) for r in found]


@pytest.mark.parametrize("scope", SCOPES)
def test_images_and_a_video(demo, toy_model, pictures, folder, scope):
    frames = write_video(folder / "clip.avi")
    # The toy detector is sure of nothing.
    threshold = ["--score-thr", "0.1"] if scope == "mmdet" else []
    code, out, err = demo(scope, "pictures", "clip.avi", "--out-dir", "out", *threshold)
    assert code == 1
    assert err == (
        "image_demo.py: 1 of 4 inputs could not be used: pictures/broken.jpg "
        "(not a readable image)\n"
    )
    assert out.endswith("3 of 4 inputs done: results are in out\n")
    names = ["pictures/0.png", "pictures/1.png", "clip.avi"]
    assert files_in(folder / "out") == {
        *("vis/pictures/0.png", "vis/pictures/1.png", "vis/clip.avi.mp4"),
        *(f"preds/{name}.json" for name in names),
        *(f"preds/{name}.png" for name in names[:2] if scope == "mmseg"),
    }

    paths = [str(folder / name) for name in names[:2]]
    direct = predict_directly(toy_model(scope), [*paths, *frames])
    for name, expected in zip(names, direct[:2], strict=False):
        found = json.loads((folder / f"out/preds/{name}.json").read_text())
        assert found.pop("input") == name
        assert found == expected
    clip = json.loads((folder / "out/preds/clip.avi.json").read_text())
    assert (clip["input"], clip["fps"]) == ("clip.avi", FPS)
    assert clip["frames"] == direct[2:]

    for name, path in zip(names, paths, strict=False):
        drawn = cv2.imread(str(folder / "out" / "vis" / name))
        plain = cv2.imread(path)
        assert drawn.shape == plain.shape
        assert (drawn != plain).any()
    drawn = read_video(folder / "out/vis/clip.avi.mp4")
    assert len(drawn) == FRAMES
    assert drawn[0].shape == frames[0].shape
    if scope != "mmseg":
        # A label map colours everything; else frames are to be seen, in their colours.
        swapped = np.abs(drawn[0][..., ::-1].astype(int) - frames[0]).mean()
        assert np.abs(drawn[0].astype(int) - frames[0]).mean() < swapped
    if scope == "mmseg":
        _check_label_maps(folder / "out" / "preds", direct)


def test_every_frame_of_a_gif(demo, folder):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    first, *others = map(Image.fromarray, noise)
    first.save(folder / "a.gif", save_all=True, append_images=others, duration=100)
    assert demo("mmpretrain", "a.gif", "--out-dir", "out")[0] == 0
    assert files_in(folder / "out") == {"vis/a.gif.mp4", "preds/a.gif.json"}
    preds = json.loads((folder / "out/preds/a.gif.json").read_text())
    assert len(preds["frames"]) == 3


def _check_label_maps(preds: Path, direct: list[dict]) -> None:
    for i, expected in enumerate(direct[:2]):
        path = preds / f"pictures/{i}.png.png"
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        values, pixels = np.unique(labels, return_counts=True)
        assert labels.shape == (64, 96)
        found = dict(labels=values.tolist(), pixels=pixels.tolist())
        assert found == expected


def test_files_of_the_same_name(demo, pictures, folder, tmp_path_factory):
    """In two folders, of two suffixes, and outside the current folder."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "other").mkdir()
    for copy in (folder / "other" / "1.png", pictures / "1.bmp", elsewhere / "1.png"):
        image = cv2.imread(str(pictures / "0.png"))
        cv2.imwrite(str(copy), image)
    # A link is the input that it leads to.
    Path("other", "2.png").symlink_to(pictures / "1.png")
    inputs = ("pictures/1*", "other", elsewhere / "1.png")
    assert demo("mmpretrain", *inputs, "--no-save-pred")[0] == 0
    far = elsewhere.relative_to(elsewhere.anchor).as_posix()
    expected = {"pictures/1.png", "pictures/1.bmp", "other/1.png", f"{far}/1.png"}
    assert files_in(folder / "outputs/vis") == expected

    # Results are nobody's input, even of a glob that finds them.
    (pictures / "broken.jpg").unlink()
    Path("other", "2.png").unlink()
    code, out, _ = demo("mmpretrain", "**/*", "--no-save-pred")
    assert code == 0
    assert "1 of 4 inputs done, the results of 3 were there" in out
    assert files_in(folder / "outputs/vis") == {*expected, "pictures/0.png"}


def test_results_are_no_inputs_and_never_overwritten(demo, pictures, folder):
    picture = folder / "vis" / "0.png"
    picture.parent.mkdir()
    shutil.copy(pictures / "0.png", picture)
    os.chdir("vis")
    code, _, err = demo("mmpretrain", "0.png", "--out-dir", "..", "--overwrite")
    assert code == 1
    assert "0.png matches no image or video (results in .. left out)" in err
    assert err.count("\n") == 1
    assert picture.read_bytes() == (pictures / "0.png").read_bytes()


def test_done_again_only_when_asked(demo, pictures, folder):
    arguments = ("mmdet", pictures / "0.png")
    assert demo(*arguments, "--no-save-pred")[0] == 0
    drawn = Path("outputs/vis/pictures/0.png")
    first = drawn.stat().st_mtime_ns
    assert "the results of 1 were there" in demo(*arguments, "--no-save-pred")[1]
    assert drawn.stat().st_mtime_ns == first

    assert demo(*arguments, "--no-save-vis")[0] == 0
    assert files_in(folder / "outputs") == {
        "vis/pictures/0.png",
        "preds/pictures/0.png.json",
    }
    assert demo(*arguments, "--no-save-pred", "--score-thr", "1", "--overwrite")[0] == 0
    # Nothing has such a score.
    np.testing.assert_array_equal(
        cv2.imread(str(drawn)), cv2.imread(str(pictures / "0.png"))
    )


def test_class_names_of_the_config(demo, toy_model, pictures, folder):
    """A checkpoint without them, as a conversion writes it."""
    state = torch.load(toy_model("mmpretrain").checkpoint, weights_only=False)
    torch.save(dict(state_dict=state["state_dict"]), "plain.pth")
    base = toy_model("mmpretrain").config
    Path("other.py").write_text(
        f"_base_ = {str(base)!r}\n"
        "test_dataloader = dict(dataset=dict(metainfo=dict(classes=list('vwxyz'))))\n"
    )
    options = ("--config", "other.py", "--checkpoint", "plain.pth", "--device", "cpu")
    assert main([str(pictures / "0.png"), *options]) == 0
    found = json.loads(Path("outputs/preds/pictures/0.png.json").read_text())
    assert found["pred_class"] == "vwxyz"[found["pred_label"]]


def test_class_names_that_do_not_fit(demo, toy_model, pictures, capsys):
    state = torch.load(toy_model("mmdet").checkpoint, weights_only=False)
    torch.save(dict(state_dict=state["state_dict"]), "plain.pth")
    options = ("--config", toy_model("mmdet").config, "--checkpoint", "plain.pth")
    metainfo = "test_dataloader.dataset.metainfo.classes=['a']"
    arguments = [pictures / "0.png", *options, "--cfg-options", metainfo]
    assert main([*map(str, arguments), "--score-thr", "0.1", "--device", "cpu"]) == 0
    assert "1 have names, the model predicts 5" in capsys.readouterr().out


def weights_of(state: dict, kind: str) -> dict:
    if kind == "backbone":
        return {key: val for key, val in state.items() if key.startswith("backbone.")}
    if kind == "lacking":
        return {key: val for key, val in state.items() if key != "head.fc.bias"}
    return {**state, "head.fc.weight": torch.zeros(7, 128)}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "backbone",
            "weights, in head (2), the first is head.fc.weight: a backbone goes by",
        ),
        ("lacking", "in head (1), the first is head.fc.bias: needed is a"),
        ("wide", "head.fc.weight is (7, 128) in the file and (5, 128) in the model"),
    ],
)
def test_checkpoints_that_do_not_fit(demo, toy_model, pictures, capsys, kind, message):
    toy = toy_model("mmpretrain")
    state = torch.load(toy.checkpoint, weights_only=False)["state_dict"]
    torch.save(dict(state_dict=weights_of(state, kind)), "other.pth")
    options = ("--config", str(toy.config), "--checkpoint", "other.pth")
    assert main([str(pictures), *options, "--device", "cpu"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("image_demo.py: other.pth does not fit the model: ")
    assert message in error
    assert error.count("\n") == 1
    assert not Path("outputs").exists()


def test_released_classifier(demo, toy_model, pictures, capsys):
    """A file of the released code is taken as it is."""
    toy, released = toy_model("mmpretrain"), {}
    state = torch.load(toy.checkpoint, weights_only=False)["state_dict"]
    for name, value in state.items():
        name = name.removeprefix("backbone.").replace("stages.", "layers.", 1)
        name = name.replace("head.fc.", "head.", 1).replace("norm3.", "norm.", 1)
        released[name] = value
    torch.save(dict(model=released), "released.pth")
    picture = str(pictures / "0.png")
    assert demo("mmpretrain", picture, "--out-dir", "ours")[0] == 0
    options = ["--config", str(toy.config), "--checkpoint", "released.pth"]
    assert main([picture, *options, "--out-dir", "released", "--device", "cpu"]) == 0
    results = [
        json.loads(Path(folder, "preds", "pictures", "0.png.json").read_text())
        for folder in ("ours", "released")
    ]
    assert results[0] == results[1]


class Executes:
    """Pickled as a call."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("executed",)


def test_checkpoints_are_not_executed(demo, toy_model, pictures, capsys):
    torch.save(dict(state_dict=Executes()), "evil.pth")
    options = ("--config", str(toy_model("mmseg").config), "--checkpoint", "evil.pth")
    assert main([str(pictures), *options, "--device", "cpu"]) == 1
    assert "evil.pth is not a file of plain weights" in capsys.readouterr().err
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(config="gone.py"), "there is no config file gone.py"),
        (dict(checkpoint="gone.pth"), "--checkpoint: there is no checkpoint gone.pth"),
        (dict(checkpoint="x.pth"), "x.pth "),
        (
            dict(input="gone*.png"),
            "gone*.png matches no image or video (results in out left",
        ),
        (dict(input="empty"), "empty matches no image or video"),
        (dict(config="bare.py"), "default_scope must be one of mmdet, mmseg, mmpre"),
        (dict(device="cuda:77"), "--device cuda:77 cannot be used: "),
        (dict(device="abacus"), "--device abacus cannot be used: "),
    ],
)
def test_user_errors(folder, capsys, change, message):
    (folder / "empty").mkdir()
    (folder / "x.png").touch()
    (folder / "x.pth").touch()
    (folder / "bare.py").write_text("model = dict()")
    before = files_in(folder)
    given = dict(input="x.png", config=CONFIG, checkpoint="x.pth", out_dir="out")
    given |= {"device": "cpu", **change}
    options = [(f"--{key.replace('_', '-')}", value) for key, value in given.items()]
    arguments = [part for option in options[1:] for part in option]
    assert main([given["input"], *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("image_demo.py: ")
    assert message in error
    assert error.count("\n") == 1
    assert files_in(folder) == before


def test_score_thr_is_for_detectors(demo, pictures):
    code, _, err = demo("mmseg", pictures, "--score-thr", "0.5")
    assert (code, err.count("\n")) == (1, 1)
    assert "--score-thr is for detectors" in err


@pytest.mark.parametrize("stop", ["SIGTERM", "SIGINT"])
def test_stopped_run_leaves_no_unfinished_file_and_goes_on(
    demo, pictures, folder, monkeypatch, stop
):
    """Stopped in the midst of a video."""
    (pictures / "broken.jpg").unlink()
    write_video(folder / "clip.avi")
    seen, unfinished = [], set()
    segmentor = inferencers.Segmentor
    predict = segmentor.predict

    def predict_and_stop(self: object, image: str | np.ndarray) -> object:
        seen.append(image)
        if len(seen) == 2 + 3:
            unfinished.update(files_in(folder / "outputs"))
            signal.raise_signal(getattr(signal, stop))
        return predict(self, image)

    monkeypatch.setattr(segmentor, "predict", predict_and_stop)
    code, _, err = demo("mmseg", "pictures", "clip.avi")
    assert code == 130
    assert err.startswith("image_demo.py: stopped; what is finished is in outputs")
    assert err.count("\n") == 1
    assert len([path for path in unfinished if "clip" in path]) == 2
    left = files_in(folder / "outputs")
    assert len(left) == 6
    assert not [path for path in left if "clip" in path]

    code, out, _ = demo("mmseg", "pictures", "clip.avi")
    assert code == 0
    assert "1 of 3 inputs done, the results of 2 were there" in out
    assert len(seen) == 2 + 3 + FRAMES


def test_progress(demo, pictures, folder):
    """What a log shows at the end."""
    write_video(folder / "clip.avi")
    _, out, _ = demo("mmpretrain", "clip.avi", "pictures")
    assert re.search(r"^inputs .* 100% 0:00:00 4/4 *$", out, re.M)
    assert re.search(r"^clip.avi .* 100% 0:00:00 5/5 *$", out, re.M)


def test_the_script_itself(folder):
    (folder / "x.png").touch()
    command = [sys.executable, str(ROOT / "tools" / "image_demo.py"), "x.png"]
    command += ["--config", "gone.py", "--checkpoint", "gone.pth"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    # Other lines are warnings of libraries, which some versions have.
    assert done.stderr.endswith("image_demo.py: there is no config file gone.py\n")
