"""The tutorial notebook: its cells run in order, and their results are those that its text promises."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "examples" / "tutorial.ipynb"


@pytest.mark.slow
@pytest.mark.ci
def test_the_cells_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    accuracy = {model: result.measured.accuracy for model, result in names["results"].items()}
    assert accuracy["reinforce"] > 0.9
    assert accuracy["random"] < 0.65
    assert names["results"]["reinforce"].measured.focus > 0.9
    assert "chance 0.250; 400 test videos" in capsys.readouterr().out
    assert (tmp_path / "runs/tutorial/reinforce/glimpses.png").stat().st_size > 1000
    assert "<html" in (tmp_path / "runs/tutorial/report.html").read_text(encoding="utf-8")


def test_imported_names_exist():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    froms = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    assert len(froms) >= 5
    for node in froms:
        module = importlib.import_module(node.module)
        for alias in node.names:
            assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}"), alias.name


def test_links_lead_to_files_and_no_output_is_kept():
    links = []
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        links += re.findall(r"\]\(([^)#]+)", "".join(cell["source"])) if cell["cell_type"] == "markdown" else []
        assert not cell.get("outputs")
    assert links
    assert all((NOTEBOOK.parent / link).exists() for link in links)
