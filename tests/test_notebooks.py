"""notebooks/, executed in a kernel with other parameters; and their saved outputs."""

import os

import nbclient
import nbformat
import pytest

from tests import small_run
from tests.places import ROOT
from tests.verbs import COMPILE_FAST, TINY

NOTEBOOKS = ROOT / "notebooks"


def execute(name, parameters, data_dir):
    """Executes a notebook with other values in its cell of parameters; returns it with outputs."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    (cell,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    names = [line.partition(" = ")[0] for line in cell.source.splitlines() if " = " in line]
    assert parameters.keys() <= set(names), names
    cell.source += "\n" + "\n".join(f"{k} = {v!r}" for k, v in parameters.items())
    environment = os.environ | {"TFDS_DATA_DIR": str(data_dir), "XLA_FLAGS": COMPILE_FAST}
    del environment["KERAS_BACKEND"]  # Users do not set it.
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOKS)}}
    )
    return client.execute(env=environment)


def figures_of(notebook):
    return [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]


@pytest.mark.long  # test_explore has its functions, test_documents its names.
def test_explore_checkpoint(folder):
    workdir = small_run.make(folder, form="sq32_n40", whole=True)
    notebook = execute(
        "explore_checkpoint",
        {
            "WORKDIR": str(workdir),
            "CAPTION": "red circle",
            "OTHER_CAPTION": "red circles",
            "NUM_TRAINING_IMAGES": 20,
        },
        folder / "data",
    )
    assert len(figures_of(notebook)) == 7


@pytest.mark.long
def test_quickstart(folder):
    notebook = execute(
        "quickstart",
        {"WORKDIR": str(folder / "quickstart"), "NUM_STEPS": 8, "OVERRIDES": TINY[1:]},
        folder / "data",
    )
    assert (folder / "quickstart" / "exported" / "model.json").exists()
    assert len(figures_of(notebook)) >= 3


@pytest.mark.parametrize("name", ["quickstart", "explore_checkpoint"])
def test_outputs_are_shown(name):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert len(figures_of(notebook)) >= 3
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code]
    assert counts == list(range(1, len(code) + 1)), "run it as a whole, from the top"
    for cell in code:
        assert not any(output.output_type == "error" for output in cell.outputs)
