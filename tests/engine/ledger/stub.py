"""Stands for the scripts in tools/: leaves what they leave, in a moment.

What a run's first and other commands do can be told by files in its work dir:
``fail-train`` and ``fail-test`` make them fail, ``sleep`` makes them wait.
"""

import json
import os
import sys
import time
from pathlib import Path

LENGTH = 4


def main(script: Path, words: list[str]) -> None:
    variables = [
        f"{k}={os.environ[k]}" for k in ("GPUS", "GPUS_PER_NODE") if k in os.environ
    ]
    line = " ".join([*variables, script.name, *words])
    with (script.parent.parent / "calls.txt").open("a") as calls:
        calls.write(line + "\n")
    kind = script.stem.partition("_")[2]
    if script.stem == "slurm_train":
        work_dir = Path(words[3])
    else:
        work_dir = Path(words[words.index("--work-dir") + 1])
    if (work_dir / f"fail-{kind}").exists():
        sys.exit("Traceback (most recent call last):\nValueError: it is broken\nbye")
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    folder = work_dir / f"20260101_{len(list(work_dir.glob('2026*'))):06d}"
    (folder / "vis_data").mkdir(parents=True)
    while (work_dir / "sleep").exists():
        (work_dir / "asleep").touch()
        time.sleep(0.05)
    if kind == "train":
        train(work_dir, folder, int(settings.get("train_cfg.max_epochs", LENGTH)))
    elif prefix := settings.get("test_evaluator.outfile_prefix"):
        predict(Path(prefix))
    else:
        test(folder, words)


def train(work_dir: Path, folder: Path, stop: int) -> None:
    lines = [
        dict(loss=1.0, step=stop, epoch=stop),
        {"coco/bbox_mAP": 0.4, "step": stop},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "vis_data" / "scalars.json").write_text(text)
    (work_dir / f"epoch_{stop}.pth").touch()
    (work_dir / "last_checkpoint").write_text(f"epoch_{stop}.pth")


def test(folder: Path, words: list[str]) -> None:
    (checkpoint,) = [word for word in words if word.endswith(".pth")]
    model = "dict(module=dict())" if "--tta" in words else "dict()"
    config = f"load_from = {checkpoint!r}\nmodel = {model}\n"
    (folder / "vis_data" / "config.py").write_text(config)
    metrics = {"coco/bbox_mAP": 0.45, "coco/segm_mAP": 0.4}
    (folder / f"{folder.name}.json").write_text(json.dumps(metrics))


def predict(prefix: Path) -> None:
    prediction = dict(image_id=1, category_id=1, bbox=[0, 0, 1, 1], score=0.5)
    Path(f"{prefix}.bbox.json").write_text(json.dumps([prediction]))
    prediction |= dict(segmentation=dict(size=[1, 1], counts="1"))
    Path(f"{prefix}.segm.json").write_text(json.dumps([prediction]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
