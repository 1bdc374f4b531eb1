"""The notebook as a file, executed, and exported as a script."""
import ast
import hashlib
import os
import re
import statistics
import subprocess
import sys

import nbformat
import pytest
from conftest import ROOT, code_lines, source, tags
from nbclient import NotebookClient

NOTEBOOK = ROOT / "bdunaganGPT.ipynb"
TINY = dict(configuration="as written", n_layer=2, n_head=2, n_embd=32, block_size=32, batch_size=8, max_iters=40,
            seed=3, experiments="quick", text_source="short.txt")
# Before the experiments, shrink the article's configurations, depth and all.
SHRINK = """
for c in CONFIGURATIONS.values():
    c.update(n_layer=2, n_head=2, n_embd=8, block_size=16, batch_size=2, max_iters=20)
"""


def shrunk(notebook_file, text_folder):
    """The notebook at a tiny size, reading a text in `text_folder`."""
    nb = nbformat.read(notebook_file, 4)
    for cell in nb.cells:
        if "parameters" in tags(cell):
            values = literals(cell.source) | TINY
            cell.source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
        if cell.get("id") == "effort":
            cell.source += SHRINK
    (text_folder / "short.txt").write_bytes((ROOT / "data" / "blog.txt").read_bytes()[:30_000])
    return nb


def literals(text):
    """{name: value} of a cell of literal assignments; fails on anything else."""
    return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(text).body}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    nb = shrunk(NOTEBOOK, folder)
    NotebookClient(nb, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return nb


def output(nb, cell_id):
    """Everything a cell printed or displayed as text."""
    (cell,) = [cell for cell in nb.cells if cell.get("id") == cell_id]
    return "".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in cell.outputs)


def test_core_budget(code_cells):
    core = sum(code_lines(source(cell)) for cell in code_cells if "core" in tags(cell))
    assert 200 < core <= 300


def test_cells_are_short(code_cells):
    sizes = [code_lines(source(cell)) for cell in code_cells]
    assert statistics.median(sizes) <= 10 and max(sizes) <= 45


def test_prose_per_line_of_code(notebook, code_cells):
    words = sum(len(source(cell).split()) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    assert 3 <= words / sum(code_lines(source(cell)) for cell in code_cells) <= 7


def test_one_cell_of_parameters_with_only_literals(code_cells):
    (cell,) = [cell for cell in code_cells if "parameters" in tags(cell)]
    values = literals(source(cell))
    assert {"n_layer", "max_iters", "text_source"} <= set(values)
    assert source(cell).count("#@param") == len(values)


def test_tags_are_known(code_cells):
    known = {"parameters", "definitions", "core", "check", "experiment", "notebook-only"}
    assert all(set(tags(cell)) <= known for cell in code_cells)
    assert {tag for cell in code_cells for tag in tags(cell)} == known


def test_definitions_define_and_do_nothing_else(code_cells):
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.FunctionDef, ast.ClassDef)
    for cell in code_cells:
        if "definitions" in tags(cell):
            nodes = [node for node in ast.parse(source(cell)).body if not docstring(node)]
            assert all(isinstance(node, allowed) for node in nodes), cell["id"]


def docstring(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def test_functions_read_no_globals_but_definitions(code_cells):
    """What a function or class uses is passed in, imported, or defined in a cell of definitions."""
    import builtins
    import symtable

    defined = set(dir(builtins))
    used = {}
    for cell in code_cells:
        if "definitions" not in tags(cell):
            continue
        table = symtable.symtable(source(cell), cell["id"], "exec")
        defined |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
        pending = table.get_children()
        while pending:
            scope = pending.pop()
            pending += scope.get_children()
            used |= {s.get_name(): cell["id"] for s in scope.get_symbols() if s.is_global() and s.is_referenced()}
    assert {name: where for name, where in used.items() if name not in defined} == {}


def test_no_cell_takes_the_name_of_a_definition_or_form_field(notebook, code_cells):
    """Else whoever runs an earlier cell again calls a number. The exercises' answers are run in the notebook, too."""
    import symtable

    def assigned(text):
        symbols = symtable.symtable(text, "cell", "exec").get_symbols()
        return {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}

    defined = [name for cell in code_cells if "definitions" in tags(cell) for name in assigned(source(cell))]
    (exercises,) = [cell for cell in notebook["cells"] if cell.get("id") == "exercises"]
    others = [(cell["id"], source(cell)) for cell in code_cells if "definitions" not in tags(cell)]
    others += [("exercises", answer) for answer in re.findall(r"```python\n(.*?)```", source(exercises), re.S)]
    (form,) = [assigned(source(cell)) for cell in code_cells if "parameters" in tags(cell)]
    others = [(cell_id, assigned(text) - (form if cell_id == "hyperparameters" else set())) for cell_id, text in others]
    assert [(cell_id, name) for cell_id, names in others for name in names & (set(defined) | form)] == []
    assert len(defined) == len(set(defined)), "nothing is defined twice"


def test_public_definitions_have_docstrings(code_cells):
    for cell in code_cells:
        if "definitions" in tags(cell):
            for node in ast.parse(source(cell)).body:
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    assert ast.get_docstring(node), f"{node.name} in {cell['id']}"


def test_metadata_selects_a_t4(notebook):
    metadata = notebook["metadata"]
    assert metadata["accelerator"] == "GPU" and metadata["colab"]["gpuType"] == "T4"
    assert metadata["kernelspec"]["name"] == "python3" and metadata["language_info"]["file_extension"] == ".py"
    assert "widgets" not in metadata


def test_committed_outputs_are_complete(notebook, code_cells):
    assert [cell["execution_count"] for cell in code_cells] == list(range(1, len(code_cells) + 1))
    kinds = [output["output_type"] for cell in code_cells for output in cell["outputs"]]
    assert "error" not in kinds
    assert sum("image/png" in o.get("data", {}) for cell in code_cells for o in cell["outputs"]) >= 10
    assert NOTEBOOK.stat().st_size < 5_000_000


def test_committed_outputs_come_from_this_code_on_a_gpu(code_cells):
    fingerprint = hashlib.sha256("\n\n".join(source(cell).strip() for cell in code_cells).encode()).hexdigest()[:16]
    (ran,) = [cell for cell in code_cells if cell["id"] == "ran"]
    said = "".join("".join(o.get("text", "")) for o in ran["outputs"])
    assert f"sha256 {fingerprint}," in said and "NVIDIA" in said


def test_picture_is_the_one_of_the_committed_run(code_cells):
    import base64

    (cell,) = [cell for cell in code_cells if cell["id"] == "ladder-picture"]
    (png,) = [o["data"]["image/png"] for o in cell["outputs"] if "image/png" in o.get("data", {})]
    assert base64.b64decode("".join(png)) == (ROOT / "data" / "training.png").read_bytes()


def test_nothing_unwanted_is_in_the_file(notebook):
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"/root/|/home/|/tmp/|site-packages", text)


def test_runs_from_top_to_bottom(executed):
    counts = [cell.execution_count for cell in executed.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert not [o for cell in executed.cells for o in cell.get("outputs", []) if o.output_type == "error"]


def test_checks_are_seen_to_pass(executed):
    for cell_id, passes in (("checks-same", 3), ("checks-causal", 8), ("checks-memorise", 1), ("count-show", 2)):
        said = output(executed, cell_id)
        assert said.count("ok  ") == passes and "FAIL" not in said


def test_training_leaves_one_line_and_one_picture(executed):
    (cell,) = [cell for cell in executed.cells if cell.get("id") == "train"]
    assert sum("image/png" in o.get("data", {}) for o in cell.outputs) == 1
    lines = [o for o in cell.outputs if "image/png" not in o.get("data", {})]
    assert len(lines) == 1 and "step 40 of 40 (100%)" in lines[0].data["text/plain"]


def test_loss_falls(executed):
    final = float(re.search(r"final ([\d.]+) nats", output(executed, "train-read"))[1])
    assert final < 4.2


def rows(nb, cell_id):
    """Lines of a printed table, up to the empty line after it."""
    return output(nb, cell_id).split("\n\n")[0].splitlines()[1:]


@pytest.mark.parametrize(("cell_id", "names"), [
    ("sweep-show", ["sweep 1", "sweep 2", "sweep 3"]),
    ("overfit-show", ["10", "30", "60"]),
    ("bare", ["section 10", "without the three"]),
    ("ablation-show", ["original architecture", "no normalisation", "no positions", "no attention",
                       "no residual connections", "rotary positions", "sinusoidal, original's bug",
                       "SGD 0.1, no decay, for AdamW"]),
    ("leaky-train", ["residual connections", "no residuals  ", "subtle bug", "no normalisation"]),
    ("speed", ["article 800k"]),
])
def test_experiment_tables(executed, cell_id, names):
    lines = rows(executed, cell_id)
    for name in names:
        (line,) = [line for line in lines if line.startswith(name)]
        numbers = [float(n.replace(",", "")) for n in re.findall(r"-?\d[\d,]*\.?\d*", line[len(name):])]
        assert numbers and all(abs(number) < 1e12 for number in numbers)
        assert "nan" not in line


def test_every_figure_is_there(executed):
    figures = {cell.id for cell in executed.cells if cell.cell_type == "code"
               and any("image/png" in o.get("data", {}) for o in cell.outputs)}
    assert figures == {"data-plot", "train", "ladder-picture", "surprise-show", "maps-show", "embedding-show",
                       "lens-show", "overfit-plot", "bare-plot", "ablation-plot", "positions-show", "leaky-show"}


def test_exercise_answers_hold(notebook, lesson):
    (cell,) = [cell for cell in notebook["cells"] if cell.get("id") == "exercises"]
    answers = re.findall(r"```python\n(.*?)```", source(cell), re.S)
    assert len(answers) >= 10
    for answer in answers:
        assert "assert" in answer
        exec(answer, dict(lesson.globals))


def test_script_export_runs_without_a_display(tmp_path):
    nb = shrunk(NOTEBOOK, tmp_path)
    nbformat.write(nb, tmp_path / "lesson.ipynb")
    subprocess.run([sys.executable, "-m", "nbconvert", "--to", "python", "--TagRemovePreprocessor.enabled=True",
                    "--TagRemovePreprocessor.remove_cell_tags", "notebook-only", "lesson.ipynb"],
                   cwd=tmp_path, check=True, capture_output=True)
    environment = os.environ | {"MPLBACKEND": "Agg"}
    done = subprocess.run([sys.executable, "lesson.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "step 40 of 40 (100%)" in done.stdout
