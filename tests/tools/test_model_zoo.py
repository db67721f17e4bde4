"""Metafiles as tables, and the command line that writes them."""

from pathlib import Path

import pytest
import yaml

from focal_mm.engine.errors import UserError
from tools import model_zoo as zoo


def model(name: str, *results: dict, **metadata) -> dict:
    return {
        "Name": name,
        "In Collection": "Net",
        "Config": f"configs/task/{name}.py",
        "Metadata": {"Source": "paper", **metadata},
        "Results": list(results),
    }


def result(metrics: dict[str, float], dataset: str = "Data", **rest: str) -> dict:
    return {"Task": "Task", "Dataset": dataset, "Metrics": metrics, **rest}


def metafile(*models: dict) -> dict:
    return {"Collections": [{"Name": "Net"}, {"Name": "Unused"}], "Models": [*models]}


def cells(table: str) -> list[list[str]]:
    """Cells of the only table, less the row of rules."""
    rows = [line for line in table.splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return [split[0], *split[2:]]


def tables(*models: dict) -> str:
    return zoo.zoo_tables(metafile(*models), Path("configs/task"))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A config folder with a metafile and a README that lacks its zoo."""
    monkeypatch.chdir(tmp_path)
    path = Path("configs/task")
    path.mkdir(parents=True)
    contents = metafile(model("a", result({"mIoU": 45.8})))
    (path / zoo.METAFILE).write_text(yaml.safe_dump(contents))
    (path / zoo.README).write_text(f"before\n{zoo.BEGIN}\n{zoo.END}\nafter\n")
    return path


def test_one_column_per_dataset_metric_and_source():
    head, first, second = cells(
        tables(
            model(
                "a",
                result({"AP": 45.0, "AP50": 66.25}),
                result({"AP": 46.0}, "Other"),
                Epochs=12,
                Parameters=48_800_000,
                FLOPs=1_165_000_000_000,
            ),
            model("sub/b", result({"AP": 47.0}), Parameters=110_000_000),
        )
    )
    assert head == [
        *("Config", "Epochs", "Params (M)", "FLOPs (G)"),
        *("AP (paper)", "AP (measured)", "AP50 (paper)"),
        *("AP, Other (paper)", "AP, Other (measured)"),
    ]
    scores = ["45.0", "", "66.25", "46.0", ""]
    assert first == ["[a](a.py)", "12", "48.8", "1165", *scores]
    assert second == ["[sub/b](sub/b.py)", "", "110", "", "47.0", "", "", "", ""]


def test_measured_figures_stand_beside_the_papers():
    measured = result({"AP": 44.9, "AP50": 66.0}, Source="measured")
    head, row = cells(tables(model("a", result({"AP": 45.0, "AP50": 66.2}), measured)))
    assert head[1:] == [
        *("AP (paper)", "AP (measured)", "AP50 (paper)", "AP50 (measured)")
    ]
    assert row[1:] == ["45.0", "44.9", "66.2", "66.0"]


def test_a_model_of_our_own_has_no_paper_column():
    own = model("a", result({"Top 1 Accuracy": 81.18}), Source="measured")
    head, row = cells(tables(own))
    assert (head[1:], row[1:]) == (["Top 1 Accuracy (measured)"], ["81.18"])


def test_the_model_with_the_most_figures_decides_on_the_order():
    few = model("few", result({"box": 1.0}), result({"mask": 2.0}))
    many = model("many", result({"box": 3.0, "box50": 4.0}), result({"mask": 5.0}))
    head, first, second = cells(tables(few, many))
    assert [name for name in head if "(paper)" in name] == [
        *("box (paper)", "box50 (paper)", "mask (paper)")
    ]
    assert (first[0], second[0]) == ("[few](few.py)", "[many](many.py)")
    assert (first[1], first[4], second[4]) == ("1.0", "2.0", "5.0")


def test_whole_numbers_have_no_decimals():
    _, row = cells(tables(model("a", result({"images/s": 319, "AP": 45.0}))))
    assert row[1:] == ["319", "", "45.0"]


def test_collections_without_models_are_left_out():
    assert "Unused" not in tables(model("a"))


def test_readme_is_written_once_between_its_markers(folder):
    assert not zoo.update_readme(folder, check=True)
    assert "45.8" not in (folder / zoo.README).read_text()
    assert not zoo.update_readme(folder)
    text = (folder / zoo.README).read_text()
    assert "45.8" in text
    assert text.startswith(f"before\n{zoo.BEGIN}\n")
    assert text.endswith(f"\n{zoo.END}\nafter\n")
    assert zoo.update_readme(folder, check=True)
    assert zoo.update_readme(folder)
    assert (folder / zoo.README).read_text() == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Models: [\n  a: b: c", "ParserError"),
        (yaml.safe_dump(dict(Models=None)), "KeyError: 'Collections'"),
        (yaml.safe_dump(metafile(model("a", result({"AP": "45"})))), "ValueError"),
    ],
)
def test_what_is_no_metafile_is_named(folder, text, message):
    (folder / zoo.METAFILE).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        zoo.update_readme(folder)
    assert str(folder / zoo.METAFILE) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(folder):
    (folder / zoo.README).unlink()
    with pytest.raises(UserError, match=r"No such file .*task/README\.md"):
        zoo.update_readme(folder)


def test_readme_without_markers_stays_as_it_is(folder):
    (folder / zoo.README).write_text(f"{zoo.END}\n{zoo.BEGIN}\n")
    with pytest.raises(UserError, match="needs the lines"):
        zoo.update_readme(folder)
    assert (folder / zoo.README).read_text() == f"{zoo.END}\n{zoo.BEGIN}\n"


def test_command_line(folder, capsys):
    assert zoo.main([str(folder)]) == 0
    assert capsys.readouterr().out == "written: configs/task\n"
    assert zoo.main([str(folder)]) == 0
    assert capsys.readouterr().out == "up to date\n"
