"""``tools/test.py``: parse, load, adapt, join, check, test."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from copy import deepcopy

from mmengine.config import Config, ConfigDict

from focal_mm.engine import options
from focal_mm.engine.checks import check_test, explained, rehearse, run
from focal_mm.engine.config import load_config
from focal_mm.engine.errors import UserError, run_guarded
from focal_mm.engine.launch import check_together, join, leave
from focal_mm.engine.libraries import library_of


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of testing; returns the exit code."""
    args = _parser().parse_args(argv)
    return run_guarded(
        "test.py",
        lambda: _test(args),
        catch_sigterm=False,
        show_traceback=args.traceback,
    )


def _test(args: Namespace) -> None:
    cfg = load_config(args.config, args.cfg_options)
    with explained(cfg):
        _adapt(cfg, args)
        notes = join(cfg)
        notes += check_together(lambda: check_test(cfg, not args.no_data_check))
        if args.check:
            rehearse(cfg, "test")
        else:
            runner = run(cfg, notes, "test")
            runner.logger.info(f"Finished: metrics and logs are in {runner.log_dir}")
        leave()


def _parser() -> ArgumentParser:
    parser = options.Parser(prog="test.py", description="Test (and evaluate) a model.")
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    options.add_run_options(parser, "logs and metrics")
    parser.add_argument(
        "--out",
        help="dump the predictions to this .pkl file; with mmseg also a folder, for "
        "label maps as PNG",
    )
    parser.add_argument("--show", action="store_true", help="show the predictions")
    parser.add_argument(
        "--show-dir",
        help="draw the predictions into this folder, which mmdet places in "
        "WORK_DIR/TIMESTAMP; of several processes, those of the first",
    )
    parser.add_argument(
        "--wait-time", type=float, default=2, help="seconds between images of --show"
    )
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    return parser


def _adapt(cfg: Config, args: Namespace) -> None:
    """Apply the arguments to a config."""
    options.apply_run_options(cfg, args)
    cfg.load_from = args.checkpoint
    for part in ("test_dataloader", "test_evaluator"):
        if not cfg.get(part):
            raise UserError(f"{args.config} cannot be tested: it has no {part}")
    if args.show or args.show_dir:
        _apply_show(cfg, args)
    if args.tta:
        _apply_tta(cfg)
    if args.out:
        _apply_out(cfg, args.out)


def _apply_show(cfg: Config, args: Namespace) -> None:
    library = library_of(cfg)
    hook = cfg.get("default_hooks", {}).get("visualization")
    if hook is None:
        raise UserError(
            "--show and --show-dir need the library's visualization hook as "
            "default_hooks.visualization"
        )
    if args.tta and not library.draws_tta:
        raise UserError(
            f"{library.scope} cannot draw predictions of --tta: leave one out"
        )
    hook.update(library.draw)
    if args.show:
        hook.update(show=True, wait_time=args.wait_time)
    if args.show_dir and library.show_dir:
        hook[library.show_dir] = args.show_dir
    elif args.show_dir:
        cfg.visualizer.save_dir = args.show_dir


def _apply_tta(cfg: Config) -> None:
    if "tta_model" in cfg and cfg.model.get("type") == cfg.tta_model.get("type"):
        # As a run with --tta left its config in the work dir.
        return
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset.dataset
    if "tta_model" not in cfg or "tta_pipeline" not in cfg:
        default = library_of(cfg).default_tta
        if default is None:
            raise UserError("--tta needs tta_model and tta_pipeline in the config")
        *load, pack = deepcopy(dataset.pipeline)
        model, pack = default(cfg.model, pack)
        flips = [dict(type="RandomFlip", prob=prob) for prob in (1.0, 0.0)]
        augment = dict(type="TestTimeAug", transforms=[flips, [pack]])
        cfg.setdefault("tta_model", model)
        cfg.setdefault("tta_pipeline", [*load, augment])
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def _apply_out(cfg: Config, out: str) -> None:
    library = library_of(cfg)
    holder, key = cfg, "test_evaluator"
    if "metrics" in cfg.test_evaluator:
        holder, key = cfg.test_evaluator, "metrics"
    metrics = holder[key]
    metrics = metrics if isinstance(metrics, (list, tuple)) else [metrics]
    if out.endswith((".pkl", ".pickle")):
        dump = ConfigDict(type=library.dump_metric, out_file_path=out)
        holder[key] = [*metrics, dump]
    elif library.label_maps:
        for metric in metrics:
            metric.update(output_dir=out, keep_results=True)
    else:
        raise UserError(f"--out must end with .pkl or .pickle, got {out}")
