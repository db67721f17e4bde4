"""Write the model zoo of a README from the metafile beside it.

python tools/model_zoo.py configs/det            # updates configs/det/README.md
python tools/model_zoo.py configs/* --check      # exit code 1 if one is out of date

Run it from the root of the repository: a metafile's config paths start there.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if (ROOT / "focal_mm").is_dir():
    # A clone runs its own code, installed or not.
    sys.path.insert(0, str(ROOT))

from focal_mm.analysis.zoo import METAFILE, README, update_readme  # noqa: E402
from focal_mm.engine.errors import UserError  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help=f"folder with {METAFILE} and {README}",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit code 1 if a README is out of date",
    )
    args = parser.parse_args(argv)
    try:
        current = {folder: update_readme(folder, args.check) for folder in args.folders}
    except UserError as error:
        print(f"model_zoo: {error}", file=sys.stderr)
        return 1
    outdated = [str(folder) for folder, is_current in current.items() if not is_current]
    if args.check and outdated:
        print(
            "model_zoo: a README is out of date: run python tools/model_zoo.py "
            f"{' '.join(outdated)}",
            file=sys.stderr,
        )
        return 1
    for folder, is_current in current.items():
        print(f"{folder / README}: {'up to date' if is_current else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
