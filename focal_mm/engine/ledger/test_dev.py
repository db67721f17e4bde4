"""Predictions for COCO's evaluation server, which alone has the truth of test-dev."""

import json
import zipfile
from pathlib import Path

from mmengine.config import Config

from focal_mm.engine.errors import UserError
from focal_mm.engine.files import replacing
from focal_mm.engine.ledger.commands import Command, Launcher
from focal_mm.engine.ledger.rows import MULTI_SCALE, Recipe, on_server
from focal_mm.engine.ledger.runs import Run

_IMAGES = "annotations/image_info_test-dev2017.json"
FOLDER = "test-dev"
"""Folder in a run's work dir of what is made for the server."""


def test_dev_command(
    run: Run, recipe: Recipe, checkpoint: Path, launcher: Launcher
) -> Command:
    """The test that writes predictions and evaluates nothing.

    It has the scales of the row's figure on test-dev; a row without one is tested at
    one scale.

    Raises:
        UserError: If the row is none of COCO.
    """
    cfg = Config.fromfile(run.row.config, import_custom_modules=False)
    if cfg.get("default_scope") != "mmdet":
        raise UserError(f"{run.row.name} is no row of COCO: it has no test-dev")
    dataset = cfg.test_dataloader.dataset
    settings = [
        f"test_dataloader.dataset.ann_file={_IMAGES}",
        "test_dataloader.dataset.data_prefix.img=test2017/",
        f"test_evaluator.ann_file={dataset.data_root}{_IMAGES}",
        "test_evaluator.format_only=True",
        f"test_evaluator.outfile_prefix={_prefix(run)}",
    ]
    augmented = any(
        MULTI_SCALE.search(figure.metric)
        for figure in run.row.published
        if on_server(figure)
    )
    work_dir = run.folder / FOLDER
    return launcher.test(run, recipe, checkpoint, augmented, work_dir, settings)


def pack(run: Run) -> list[Path]:
    """Put predictions into the files that the server takes, one for each kind.

    Returns:
        ``KIND/detections_test-dev2017_ROW_results.zip``, the kinds being bbox and segm.

    Raises:
        UserError: If there are no predictions, or a file cannot be written.
    """
    made = []
    name = f"detections_test-dev2017_{run.name}_results"
    for kind in ("bbox", "segm"):
        source = Path(f"{_prefix(run)}.{kind}.json")
        if not source.is_file():
            continue
        target = run.folder / FOLDER / kind / f"{name}.zip"
        with (
            replacing(target) as partial,
            zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            archive.writestr(f"{name}.json", _contents(source, kind))
        made.append(target)
    if not made:
        raise UserError(f"the test has left no predictions at {_prefix(run)}.*.json")
    return made


def _contents(source: Path, kind: str) -> str:
    text = source.read_text()
    if kind == "bbox":
        return text
    predictions = json.loads(text)
    for prediction in predictions:
        # With a box in it COCO's code takes the box's area for the mask's.
        prediction.pop("bbox", None)
    return json.dumps(predictions)


def _prefix(run: Run) -> Path:
    return run.folder / FOLDER / run.row.name
