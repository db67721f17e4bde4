"""Pieces of the command lines' argument parsers."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from mmengine.config import DictAction


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help shows all options)\n")


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options KEY=VALUE ...``, parsed into a dict, to a parser."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=_CfgOptions,
        metavar="KEY=VALUE",
        help="change settings of the config: model.backbone.drop_path_rate=0.1; "
        'lists as key="[a,b]", tuples as key="(a,b)"',
    )


class _CfgOptions(DictAction):
    """``KEY=VALUE`` pairs; a malformed one is an argument error."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        for pair in values or ():
            key, equals, _ = pair.partition("=")
            if not equals or not all(key.split(".")):
                raise argparse.ArgumentError(
                    self, f"{pair!r} is not of the form key.subkey=value"
                )
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:
            raise argparse.ArgumentError(self, str(error)) from None
