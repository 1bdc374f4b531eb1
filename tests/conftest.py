"""The notebook as data, and its definitions as a namespace that tests can call."""
import json
import os
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pytest

matplotlib.use("Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: more threads only get into each other's way
ROOT = Path(__file__).resolve().parent.parent


def tags(cell):
    return cell.get("metadata", {}).get("tags", [])


def source(cell):
    return "".join(cell["source"])


def code_lines(text):
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in text.splitlines())


@pytest.fixture(scope="session")
def notebook():
    return json.loads((ROOT / "bdunaganGPT.ipynb").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(scope="session")
def lesson(code_cells):
    """Everything that the cells tagged `definitions` define; `lesson.globals` is the dict they live in."""
    namespace = {"__name__": "lesson"}
    for cell in code_cells:
        if "definitions" in tags(cell):
            exec(compile(source(cell), cell["id"], "exec"), namespace)
    defined = {name: value for name, value in namespace.items() if not name.startswith("__")}
    return SimpleNamespace(**defined, globals=namespace)
