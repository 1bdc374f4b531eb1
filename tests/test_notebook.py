"""The notebook as a file, executed in a kernel, and exported as a script and as a module."""
import ast
import base64
import hashlib
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import BLOG, CELLS, CODE, NOTEBOOK, PROSE, ROOT, TAGS, TINY, define, play, smaller
from nbclient import NotebookClient

FIGURES = ["window-picture", "attention-picture", "heads-picture", "block-picture", "train-now", "ladder-picture",
    "surprise",
           "attention-show", "copy-network", "lens", "leaky"]
FOLDED = {cell["id"] for cell in CELLS if cell["metadata"].get("jupyter", {}).get("source_hidden")}
SECTION = {}  # cell: number of its section
for cell in CELLS:
    heading = re.search(r"^## (\d+)\. ", PROSE.get(cell["id"], ""), re.M)
    SECTION[cell["id"]] = int(heading[1]) if heading else max(SECTION.values(), default=0)
LINES = {cell: sum(bool(line.strip()) and not line.strip().startswith("#") for line in code.splitlines()) for cell,
    code in CODE.items()}
ci = pytest.mark.skipif(not os.environ.get("CI"), reason="whoever runs the notebook replaces the committed outputs")


def paragraphs():
    """Prose without tables, code, headings and HTML; an entry of a list is a paragraph."""
    for text in PROSE.values():
        text = re.sub(r"```.*?```|^#.*?$|^\|.*?$|</?\w.*?>", "", text, flags=re.S | re.M)
        yield from (part for part in re.split(r"\n\s*\n|\n(?=- )", text) if part.strip())


def test_core_fits_in_300_lines_and_runs_alone(tmp_path):
    assert sum(lines for cell, lines in LINES.items() if "core" in TAGS[cell]) <= 300
    names, said, _ = play(tmp_path, BLOG[:5000], ("core", "parameters"), max_iters=60)
    assert said.startswith(BLOG[:400]) and len(said) >= 600, "it prints the text and writes 200 characters"
    assert names.run.history[-1]["val"] < names.run.history[0]["val"] - 0.3


def test_code_keeps_its_budget():
    """What it takes today: more than the guide's 75 cells and 1,000 lines."""
    after = {cell: lines for cell, lines in LINES.items() if SECTION[cell] == 14}
    assert len(after) <= 12 and sum(after.values()) <= 200
    assert len(LINES) - len(after) <= 79 and sum(LINES.values()) - sum(after.values()) <= 1583
    assert statistics.median(LINES.values()) <= 14
    assert {cell for cell, lines in LINES.items() if lines > 45} <= {
        "board", "check-form", "checkpoints", "fetch", "reader"}


def test_prose_says_how_long_it_is():
    (said,) = re.findall(r"about ([\d,]+) lines", PROSE["title"])
    assert abs(int(said.replace(",", "")) / sum(LINES.values()) - 1) < 0.05


def test_little_visible_code_stands_before_the_text_and_before_the_loss_curve():
    visible = [cell for cell in CODE if cell not in FOLDED]
    assert sum(LINES[cell] for cell in visible[:visible.index("text")]) <= 60
    assert sum(LINES[cell] for cell in visible[:visible.index("train-now") + 1] if SECTION[cell] == 9) <= 120


def test_prose_keeps_its_budget():
    """More than the guide's 6,500 words: readers stumbled without them, and section 14 has exercises of its own."""
    sizes = [len(part.split()) for part in paragraphs()]
    assert sum(len(re.sub(r"```.*?```", "", text, flags=re.S).split()) for text in PROSE.values()) <= 6860
    assert statistics.median(sizes) <= 30 and max(sizes) <= 90, max(paragraphs(), key=lambda part: len(part.split()))


def test_sections_are_in_order_and_end_with_exercises():
    headings = re.findall(r"^## (\d+)\. \w", "\n".join(PROSE.values()), re.M)
    assert headings == [str(i) for i in range(1, 15)]
    last = {SECTION[cell]: text for cell, text in PROSE.items()}
    assert [n for n in range(3, 14) if "**Exercise" not in last[n]] == []
    numbers = re.findall(r"\*\*Exercise (\d+)\.\*\*", "\n".join(PROSE.values()))
    assert numbers == [str(i + 1) for i in range(len(numbers))]
    assert len([cell for cell in CODE if cell.endswith("-picture") and cell != "ladder-picture"
        and SECTION[cell] < 9]) >= 4


def test_tags_and_folding():
    known = {"parameters", "definitions", "core", "check", "experiment", "notebook-only", "run"}
    assert {tag for cell in CODE for tag in TAGS[cell]} == known
    assert all(len({"run", "definitions", "parameters"} & set(TAGS[cell])) == 1 for cell in CODE)
    for cell in (cell for cell in CELLS if cell["id"] in FOLDED):
        assert cell["metadata"]["cellView"] == "form"
        assert re.match(r'#@title \S.* \{display-mode: "form"\}\n', CODE[cell["id"]])
    assert [ast.literal_eval(node.value) for node in ast.parse(CODE["hyperparameters"]).body]
    assert [cell for cell in CODE if "parameters" in TAGS[cell]] == ["hyperparameters"]


def test_definitions_print_nothing_and_need_no_data(capsys):
    define()
    assert capsys.readouterr() == ("", "")


def test_a_name_means_one_thing():
    """What a cell of definitions or the form names is not taken by another cell: else running a cell again breaks."""
    def assigned(code):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
                node.body = []
        tree = ast.parse(code)
        inner = {n for f in ast.walk(tree) if isinstance(f,
            (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.GeneratorExp, ast.ListComp,
                 ast.DictComp, ast.SetComp)) for n in ast.walk(f) if n is not f}
        return {getattr(n, "id", getattr(n, "name", None)) for n in ast.walk(tree) if n not in inner and (
            isinstance(n, (ast.FunctionDef, ast.ClassDef)) or isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))}

    owner, taken = {}, []
    for cell, code in CODE.items():
        names = assigned(code)
        taken += [(cell, name, owner[name]) for name in names if name in owner
            and name not in ("watchers", "drafts", "device", "dtype")]
        owner |= {name: cell for name in names if TAGS[cell][-1] in ("definitions", "parameters")}
    assert taken == []


def test_public_definitions_have_docstrings_or_say_in_a_line_what_they_do(lesson):
    for cell, code in CODE.items():
        for node in ast.parse(code).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                assert ast.get_docstring(node), f"{node.name} in {cell}"


@pytest.mark.parametrize("path", ["build_dataset.py", NOTEBOOK.name])
def test_no_file_is_opened_without_an_encoding(path):
    sources = CODE.values() if path == NOTEBOOK.name else [(ROOT / path).read_text(encoding="utf-8")]
    for call in (node for code in sources for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
        owner, name = getattr(call.func, "value", None), getattr(call.func, "attr", getattr(call.func, "id", ""))
        method = owner and name in ("read_text", "write_text") and ast.unparse(owner) != "self"
        if name == "open" and not owner or method:
            given = [str(arg.value) for arg in call.args if isinstance(arg, ast.Constant)]  # "rb", "utf-8"
            assert "encoding" in {k.arg for k in call.keywords} or any("b" in v or v == "utf-8"
                for v in given), call.lineno


def test_exercise_answers_hold(lesson):
    answers = [code for text in PROSE.values() for part in re.findall(r"<summary>Answer.*?</details>", text, re.S)
               for code in re.findall(r"```python\n(.*?)```", part, re.S)]
    assert len(answers) >= 10
    lesson.update(tokenizer=lesson.CharTokenizer(BLOG))
    for answer in answers:
        assert "assert" in answer
        exec(answer, dict(lesson, cfg=lesson.Config(107)))


# ---------------------------------------------------------------------------------------------------------------------
# In a kernel


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """{cell: its outputs} of a tiny run; then wrong values, full memory, and the training cell once more."""
    folder, nb = tmp_path_factory.mktemp("run"), nbformat.read(NOTEBOOK, 4)
    (folder / "text.txt").write_text(BLOG[:20_000], encoding="utf-8")
    for cell in nb.cells:
        cell.source = smaller(cell.id) if cell.cell_type == "code" else cell.source
        if cell.id == "hyperparameters":
            cell.source += "".join(f"\n{name} = {value!r}" for name,
                value in (TINY | dict(experiments="quick")).items())
    code = [cell.source.strip() for cell in nb.cells if cell.cell_type == "code"]
    for cell_id, source in {"again": CODE["train-now"], "wrong": "n_layer = -1\n" + CODE["machine"],
                            "full": "raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')",
                            "bug": "1 / 0"}.items():
        nb.cells.append(nbformat.v4.new_code_cell(source, id=cell_id, metadata={"tags": ["raises-exception"]}))
    NotebookClient(nb, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute(
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    return {cell.id: cell.outputs for cell in nb.cells if cell.cell_type == "code"} | {"code": code}


def said(outputs):
    return "".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in outputs)


def pictures(outputs):
    return [o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})]


def test_it_runs_in_a_kernel_without_errors_or_warnings(executed):
    for cell in CODE:
        assert not [o for o in executed[cell] if o.output_type == "error" or o.get("name") == "stderr"], (cell,
            executed[cell])
    assert all(len(pictures(executed[cell])) == 1 for cell in FIGURES)
    assert set(FIGURES) <= {cell["id"] for cell in CELLS if cell["metadata"].get("alt")}, "HTML describes them"
    assert all(pictures(executed[cell]) for cell in ("sweep", "ablation", "rates-picture"))
    assert said(executed["write"]) and "ok " in said(executed["checks-same"])
    assert "white-space: pre" in executed["bar"][0]["data"]["text/html"], "on a phone a table is not torn"


def test_the_last_cell_identifies_the_code_that_ran(executed):
    number = hashlib.sha256("\n".join(executed["code"]).encode()).hexdigest()[:16]
    assert f"{len(CODE)} code cells, sha256 {number}" in said(executed["ran"])


def test_training_leaves_one_line_and_one_picture_each_time(executed):
    for cell in ("train-now", "again"):
        assert len(pictures(executed[cell])) == 1 and said(executed[cell]).count("step 30 of 30") == 1, cell


@pytest.mark.parametrize(("cell", "sentence"), [("wrong", "Stopped: n_layer = -1 will not do"),
    ("full", "Stopped: there is too little memory")])
def test_what_can_go_wrong_is_a_sentence_without_a_traceback(executed, cell, sentence):
    (error,) = executed[cell]
    (line,) = error["traceback"]
    assert line.startswith(sentence) and "\n" not in line
    assert len(executed["bug"][0]["traceback"]) > 1, "what is unknown keeps its traceback"


# ---------------------------------------------------------------------------------------------------------------------
# As a script and as a module, by README's own commands


def test_script_and_module_run_by_the_commands_of_readme(tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (export,) = re.findall(r"^\.venv/bin/jupyter (nbconvert .*--to python bdunaganGPT.ipynb)$", readme, re.M)
    (module,) = re.findall(r"^\.venv/bin/jupyter (nbconvert .*remove_cell_tags.*)$", readme, re.M)
    script, _ = re.findall(r"^\.venv/bin/python (bdunaganGPT.py.*)$", readme, re.M)
    (use,) = [code for code in re.findall(r"```python\n(.*?)```", readme, re.S) if "load" in code]
    nb = nbformat.read(NOTEBOOK, 4)
    for cell in nb.cells:
        cell.source = smaller(cell.id) if cell.cell_type == "code" else cell.source
    nbformat.write(nb, tmp_path / NOTEBOOK.name)
    (tmp_path / "text.txt").write_text(BLOG[:5000], encoding="utf-8")
    arguments = [f"{name}={value}" for name, value in (TINY | dict(checkpoint_folder="checkpoints")).items()]

    def run(*command, **environment):
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "",
            "PYTHONWARNINGS": "error::EncodingWarning"} | environment
        return subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, env=environment,
            encoding=environment.get("PYTHONIOENCODING", "utf-8"))

    for command in (export, module):
        assert run("-m", *command.split()).returncode == 0
    done = run(script.split()[0], *re.findall(r'\w+="[^"]*"|\S+', script)[1:], *arguments,
        PYTHONIOENCODING="cp1252")  # as on Windows
    assert done.returncode == 0 and done.stderr == "" and "step 30 of 30" in done.stdout
    assert re.findall(r"^(\d+)\. \w", done.stdout, re.M) == [str(i) for i in range(1, 15)], "the sections' headings"
    (tmp_path / "use.py").write_text(f"{use}\nprint(flush=True)\nload('nowhere')\n", encoding="utf-8")
    wrote = run("use.py", PYTHONIOENCODING="utf-8")
    assert wrote.stdout.startswith("Today") and len(wrote.stdout) > 100 and wrote.returncode
    assert re.fullmatch(r"Stopped: there is no checkpoint in 'nowhere'.*\n", wrote.stderr)
    for steps, begins in ((30, "step 0 of 30"), (40, "Going on from step 30")):
        both = run("-m", "torch.distributed.run", "--nproc_per_node=2", script.split()[0], *arguments,
            f"max_iters={steps}", "checkpoint_folder=both", PYTHONIOENCODING="utf-8")
        assert both.returncode == 0 and both.stdout.count(f"step {steps} of {steps}") == 1, both.stderr
        assert begins in both.stdout and len([*(tmp_path / "both").iterdir()]) == 1
    refused = run(script.split()[0], "prompt")  # what else is refused: test_text.py
    assert refused.returncode != 0 and re.fullmatch("Stopped: 'prompt' sets no field.*\n", refused.stderr)


# ---------------------------------------------------------------------------------------------------------------------
# The committed outputs


@ci
def test_committed_outputs_come_from_this_code_on_a_gpu():
    outputs = {cell["id"]: cell["outputs"] for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"}
    number = hashlib.sha256("\n".join(code.strip() for code in CODE.values()).encode()).hexdigest()[:16]
    assert f"{len(CODE)} code cells, sha256 {number}" in said(outputs["ran"]) and "NVIDIA" in said(outputs["ran"])
    assert not [o for cell in outputs.values() for o in cell if o["output_type"] == "error"
        or o.get("name") == "stderr"]
    assert all(outputs[cell] for cell in CODE if "experiment" in TAGS[cell])
    drawn = (*FIGURES, "sweep", "overfitting", "recipe", "ablation", "rates-picture", "scaling")
    assert all(pictures(outputs[cell]) for cell in drawn)
    (png,) = pictures(outputs["ladder-picture"])
    assert base64.b64decode(png) == (ROOT / "data" / "training.png").read_bytes()
    assert not re.search(r"/root/|/home/|/tmp/|site-packages", NOTEBOOK.read_text(encoding="utf-8"))
    assert Path(NOTEBOOK).stat().st_size < 5_000_000
