"""The notebook as a file, executed, and exported as a script."""
import ast
import base64
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
            learning_rate=0.02, seed=3, experiments="quick", text_source="short.txt")
# Before the experiments, shrink the article's configurations, depth and all, but try three seeds.
SHRINK = """
for i, c in enumerate(CONFIGURATIONS.values()):
    c.update(n_layer=2, n_head=2, n_embd=8 + 4 * i, block_size=16, batch_size=2, max_iters=20)
CONFIGURATIONS["as written"]["batch_size"] = 32  # the fewer are its automatic steps
seeds = (1, 2, 3)
"""


def shrunk(notebook_file, text_folder, further=""):
    """The notebook at a tiny size, reading a text in `text_folder`; `further` is added to the cell `effort`."""
    nb = nbformat.read(notebook_file, 4)
    for cell in nb.cells:
        if "parameters" in tags(cell):
            values = literals(cell.source) | TINY
            cell.source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
        if cell.get("id") == "effort":
            cell.source += SHRINK + further
    (text_folder / "short.txt").write_bytes((ROOT / "data" / "blog.txt").read_bytes()[:30_000])
    return nb


def literals(text):
    """{name: value} of a cell of literal assignments; fails on anything else."""
    return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(text).body}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Run without a GPU, whatever there is, with all experiments."""
    folder = tmp_path_factory.mktemp("run")
    nb = shrunk(NOTEBOOK, folder, 'effort = "full"\n')
    client = NotebookClient(nb, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute(env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    return nb


@pytest.fixture(scope="module")
def committed(code_cells):
    """The notebook with its outputs, once they come from this code."""
    if fingerprint(code_cells) not in printed(code_cells, "ran"):
        pytest.skip("the outputs are older than the code")
    return nbformat.read(NOTEBOOK, 4)


def fingerprint(code_cells):
    """What the last cell prints about the code that ran."""
    return hashlib.sha256("\n\n".join(source(cell).strip() for cell in code_cells).encode()).hexdigest()[:16]


def printed(code_cells, cell_id):
    (cell,) = [cell for cell in code_cells if cell["id"] == cell_id]
    return "".join("".join(o.get("text", "")) for o in cell["outputs"])


def output(nb, cell_id):
    """Everything a cell printed or displayed as text."""
    (cell,) = [cell for cell in nb.cells if cell.get("id") == cell_id]
    return "".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in cell.outputs)


def test_core_budget(code_cells):
    core = sum(code_lines(source(cell)) for cell in code_cells if "core" in tags(cell))
    assert 200 < core <= 300


def test_core_cells_say_so_in_their_first_line(code_cells):
    marked = [cell["id"] for cell in code_cells if source(cell).split("\n")[0].strip() == "# GPT"]
    assert marked == [cell["id"] for cell in code_cells if "core" in tags(cell)]
    assert len(re.findall(r"^\s*#+ *GPT\s*$", "\n".join(map(source, code_cells)), re.M)) == len(marked), "nor elsewhere"


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
    said = printed(code_cells, "ran")
    assert f"sha256 {fingerprint(code_cells)}," in said and "NVIDIA" in said


def test_picture_is_the_one_of_the_committed_run(code_cells):
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
    assert final < 3.5


LOSS = re.compile(r"-?\d+\.\d{3}")  # as `table` prints a number; what is none becomes a dash
LOSSES = {"loss", "averaged", "+-", "difference", "noise", "last weights", "best on the way", "train", "validation",
          "regularised: train", "article: train", "article: loss", "likeness at the end"}


def tables(nb, cell_id):
    """[(header, rows)] of the tables that a cell prints before an empty line, without the stars that some rows have."""
    found = []
    for line in output(nb, cell_id).split("\n\n")[0].splitlines():
        entries = [entry for entry in re.split(r" {2,}", line.rstrip()) if entry != "*"]
        if re.search("[a-z]", entries[-1]):  # the last column holds numbers, so this is a header
            found.append((entries, []))
        else:
            found[-1][1].append(entries)
    return found


@pytest.fixture(scope="module")
def rows(lesson, code_cells):
    """{cell: first entries of the rows of its tables}."""
    (knockout,) = [ast.parse(source(cell)) for cell in code_cells if cell["id"] == "knockout"]
    (recipe,) = [[key.value for key in node.value.keys] for node in knockout.body
                 if isinstance(node, ast.Assign) and node.targets[0].id == "KNOCKOUT"]
    original, *others = lesson.ABLATION
    sweep = [name for name in lesson.CONFIGURATIONS if name.startswith("sweep")]
    assert len(sweep) == 4
    return {
        "sweep-show": [sweep[:3]],  # the fourth needs a GPU
        "overfit-show": [["10", "30", "60"]],
        "knockout-show": [recipe],
        "ablation-show": [[original, "+ last weights, not averaged", *others]],
        "leaky-read": [[f"{depth} layers, {name}" for name in lesson.LEAKY for depth in (4, 16, 52)]],
        "leaky-train": [list(lesson.LEAKY)] * 2,
        "speed": [["article 800k, piece by piece"] + [f"article 800k on {name} (article)"
                                                      for name in ("CPU", "T4", "V100", "A100")]],
    }


def check_tables(nb, cell_id, rows):
    """All rows are there, in order, and every loss is a number."""
    found = tables(nb, cell_id)
    assert [[row[0] for row in lines] for _, lines in found] == rows
    for header, lines in found:
        for row in lines:
            assert len(row) == len(header) and not {"nan", "inf", "-inf"} & set(row), row
            bad = [(name, entry) for name, entry in zip(header, row) if name in LOSSES and not LOSS.fullmatch(entry)]
            assert bad == [("noise", "-")] * (row is lines[0] and "noise" in header), row  # none against itself
    return found


TABLES = ["sweep-show", "overfit-show", "knockout-show", "ablation-show", "leaky-read", "leaky-train", "speed"]


@pytest.mark.parametrize("cell_id", TABLES)
def test_experiment_tables(executed, rows, cell_id):
    found = check_tables(executed, cell_id, rows[cell_id])
    assert cell_id == "speed" or any(name in LOSSES for name in found[0][0])


def test_speeds_are_numbers(executed):
    ((header, (first, *article)),) = tables(executed, "speed")
    assert header[1:] == ["ms/step", "characters/s", "GFLOP/step", "TFLOP/s", "% of peak"]
    for row in (first[1:-1], *(row[1:3] for row in article)):
        assert all(float(entry.replace(",", "")) >= 0 for entry in row), row


@pytest.mark.parametrize("cell_id", ["knockout-show", "ablation-show", "leaky-read", "leaky-train"])
def test_committed_tables(committed, rows, cell_id):
    check_tables(committed, cell_id, rows[cell_id])


@pytest.mark.parametrize("cell_id", ["knockout-show", "ablation-show", "leaky-train"])
def test_the_number_of_seeds_is_printed(executed, cell_id):
    assert "3 seed(s)" in output(executed, cell_id)


@pytest.mark.parametrize("cell_id", ["sweep-show", "overfit-show"])
def test_a_single_seed_is_owned_up_to(executed, cell_id):
    assert "One seed" in output(executed, cell_id)


def rising(values):
    return all(a < b for a, b in zip(values, values[1:]))


def test_sweep_rows_have_more_and_more_parameters(executed):
    ((_, lines),) = tables(executed, "sweep-show")
    assert rising([int(row[1].replace(",", "")) for row in lines])


def test_overfitting_rows_have_more_and_more_steps(executed):
    ((header, lines),) = tables(executed, "overfit-show")
    assert header[0] == "steps" and rising([int(row[0].replace(",", "")) for row in lines])


def test_losses_fall_down_the_ladder(executed):
    found = re.findall(r"^step +([\d,]+), loss (\d+\.\d\d): \S", output(executed, "ladder"), re.M)
    steps, losses = ([float(value.replace(",", "")) for value in column] for column in zip(*found))
    assert len(found) >= 2 and rising(steps) and rising([-loss for loss in losses])


FIGURES = {"data-plot", "train", "ladder-picture", "surprise-show", "maps-show", "embedding-show", "lens-show",
           "gradient-show", "sweep-plot", "overfit-plot", "knockout-plot", "ablation-plot", "positions-show",
           "leaky-show", "speed-plot"}
WIDE = {"data-plot", "train", "ladder-picture", "overfit-plot", "ablation-plot", "positions-show", "leaky-show"}


def figure_widths(nb):
    """{cell: widths of its figures in pixels}."""
    found = {}
    for cell in nb.cells:
        for picture in [o["data"]["image/png"] for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]:
            png = base64.b64decode(picture)
            assert png[12:16] == b"IHDR"
            found.setdefault(cell.id, []).append(int.from_bytes(png[16:20], "big"))
    return found


@pytest.mark.parametrize("which", ["executed", "committed"])
def test_every_figure_is_there_and_fits_a_column(which, request):
    widths = figure_widths(request.getfixturevalue(which))
    assert {cell_id: len(pixels) for cell_id, pixels in widths.items()} == dict.fromkeys(FIGURES, 1)
    assert {cell_id: pixels for cell_id, pixels in widths.items() if cell_id not in WIDE and max(pixels) > 700} == {}


NO_TERMS = {  # what stands in italics for other reasons: menus and headings, titles, stress, quotation, rows of tables
    "Runtime > Change runtime type > T4 GPU", "Runtime > Run all", "Run all", "Hyperparameters", "Now train",
    "Overfitting", "Building a 10-Million Parameter LLM with 300 Lines of Python", "Let's build GPT", "(article)",
    "you", "add", "not", "neither", "the model", "normalised", "dog bites man and", "man bites dog and",
    "averaged", "regularised", "Best on the way", "noise", "Recorded", "as written", "no positions",
    "no residuals, no attention", "no residuals", "no normalisation", "read once", "dropout only", "none of the three",
    "as in the article", "residual bug", "sinusoidal positions",
    "As in the article", "Subtle bug", "The recipe without its parts", "The rest", "best on the way", "more parameters"}


def test_terms_that_prose_introduces_are_in_the_glossary(notebook):
    (glossary,) = [source(cell).lower() for cell in notebook["cells"] if cell["id"] == "glossary"]
    missing = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown" and cell["id"] != "glossary":
            prose = re.sub(r"```.*?```|`[^`]*`|\$[^$]*\$|\*\*.+?\*\*", "_", source(cell), flags=re.S)
            for term in re.findall(r"(?<![*\w])\*(?![\s*])([^*]+?)\*(?!\*)", prose):
                stem = re.escape(re.sub("(s|y)$", "", " ".join(term.lower().split())))  # nats: nat; query: queries
                if " ".join(term.split()) not in NO_TERMS and not re.search(rf"\b{stem}", glossary):
                    missing[term] = cell["id"]
    assert missing == {}


def test_exercise_answers_hold(notebook, lesson):
    (cell,) = [cell for cell in notebook["cells"] if cell.get("id") == "exercises"]
    answers = re.findall(r"```python\n(.*?)```", source(cell), re.S)
    assert len(answers) >= 10
    for answer in answers:
        assert "assert" in answer
        exec(answer, dict(lesson.globals))


def test_script_export_runs_without_a_display(tmp_path):
    nb = shrunk(NOTEBOOK, tmp_path, "seeds = (1,)\n")  # as it is without a GPU
    nbformat.write(nb, tmp_path / "lesson.ipynb")
    subprocess.run([sys.executable, "-m", "nbconvert", "--to", "python", "--TagRemovePreprocessor.enabled=True",
                    "--TagRemovePreprocessor.remove_cell_tags", "notebook-only", "lesson.ipynb"],
                   cwd=tmp_path, check=True, capture_output=True)
    environment = os.environ | {"MPLBACKEND": "Agg"}
    done = subprocess.run([sys.executable, "lesson.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "step 40 of 40 (100%)" in done.stdout
