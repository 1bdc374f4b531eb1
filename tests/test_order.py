"""Cells run in the orders that a reader tries: it works, or one sentence says which to run first.

Nothing is executed but the cells named; a run that was trained stays there, and writes, whatever is refused later.
"""
import re

import matplotlib.pyplot as plt
import pytest
import torch
from conftest import ROOT, source, tags
from test_checkpoints import assert_one_sentence

pytestmark = pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")

TINY = dict(configuration="as written", text_source="a.txt", n_layer=2, n_head=2, n_embd=32, block_size=32,
            batch_size=8, max_iters=12, agreement=0.0, experiments="off")
DATA = ["data-show", "tokenizer-show", "ngram-show"]
BEFORE = [*DATA, "checks-same", "settings"]  # what training and looking need
LOOKING = ["train-read", "check-cache", "ladder", "ladder-picture", "surprise-show", "surprise-guesses",
           "maps-show", "embedding-map", "embedding-show", "embedding-near", "lens-show", "lens-read", "gradient-show"]


class Reader:
    """Runs cells by their names, in any order, in one namespace; `values` is what is there."""

    def __init__(self, code_cells, capsys):
        self.cells = {cell["id"]: compile(source(cell), cell["id"], "exec") for cell in code_cells}
        self.values, self.capsys = {"__name__": "a notebook"}, capsys
        self.run(*(cell["id"] for cell in code_cells if "definitions" in tags(cell)))
        self.values["device"] = torch.device("cpu")

    def form(self, **changes):
        self.run("hyperparameters")
        self.values.update(TINY | changes)

    def run(self, *names):
        """Run cells; returns what they printed."""
        self.capsys.readouterr()
        for name in names:
            exec(self.cells[name], self.values)
            plt.close("all")
        return self.capsys.readouterr().out

    def refused(self, name):
        """Run a cell that must not do; returns its one sentence."""
        with pytest.raises(ValueError) as caught:
            self.run(name)
        assert_one_sentence(str(caught.value), "")
        return str(caught.value)


@pytest.fixture
def reader(code_cells, capsys, tmp_path, monkeypatch):
    """Has run the definitions and the form, in a folder with two texts."""
    blog = (ROOT / "data" / "blog.txt").read_text(encoding="utf-8")
    (tmp_path / "a.txt").write_text(blog[:20_000], encoding="utf-8")
    (tmp_path / "b.txt").write_text(blog[50_000:66_000].upper(), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    someone = Reader(code_cells, capsys)
    someone.form()
    someone.run("device-show")
    yield someone
    plt.close("all")
    torch.set_num_threads(threads)


@pytest.fixture
def trained(reader):
    """Has trained a network on a.txt, too."""
    reader.run(*BEFORE, "train")
    assert reader.values["run"].step == 12
    return reader


def assert_writes(reader, run):
    """The run is the one that is meant, and writes."""
    assert reader.values["run"] is run and run.step == run.history[-1]["step"] > 0
    assert len(reader.run("write")) > 400


def assert_still_there(reader, run):
    """It writes, and all that looks at it works."""
    assert_writes(reader, run)
    said = reader.run(*LOOKING)
    size = sum(p.numel() for p in run.model.parameters())
    assert f"validation loss {run.history[-1]['val']:.3f}" in said and f"{size:,} parameters" in said


@pytest.mark.parametrize("cell", ["write", "surprise-show", "check-cache"])
@pytest.mark.parametrize("before", [[], DATA, BEFORE], ids=["nothing", "the text", "all but that"])
def test_looking_before_training(reader, cell, before):
    reader.run(*before)
    assert reader.refused(cell).startswith("Nothing is trained yet: run ")


def test_training_before_anything(reader):
    assert reader.refused("train").startswith("text_source='a.txt' is chosen but None is loaded: run ")
    assert "run" not in reader.values


def test_looking_after_training_failed_at_once(reader):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    reader.run(*BEFORE)
    evaluate, reader.values["evaluate"] = reader.values["evaluate"], fail
    with pytest.raises(MemoryError, match="^batch_size=8 with block_size=32 "):
        reader.run("train")
    assert reader.refused("write").startswith("Nothing is trained yet: run ")
    reader.values["evaluate"] = evaluate
    reader.run("train")
    assert_writes(reader, reader.values["run"])


def test_training_twice_gives_the_same_again(trained):
    first = trained.values["run"]
    trained.run("train")
    second = trained.values["run"]
    assert second is not first and torch.equal(first.losses, second.losses)
    assert_still_there(trained, second)


def test_running_all_twice_prints_the_same_again(reader):
    cells = [*BEFORE, "train", "write", "ladder"]
    first, second = (re.sub(r" \| [\d.]+ ms .*", "", reader.run(*cells)) for _ in range(2))
    assert first == second and "step 12 of 12" in first


@pytest.mark.parametrize("field, value", [("n_layer", 3), ("block_size", 16), ("attention", "none"), ("max_iters", 5)])
def test_changing_a_hyperparameter_and_training_only(trained, field, value):
    first = trained.values["run"]
    trained.form(**{field: value})
    trained.run("train")
    run = trained.values["run"]
    assert run is not first
    assert getattr(run.model.cfg if hasattr(run.model.cfg, field) else run.cfg, field) == value
    assert_still_there(trained, run)


@pytest.mark.parametrize("cells", [[], ["data-show"]], ids=["only the form", "the form and the text"])
def test_switching_the_text_without_what_follows(trained, cells):
    first = trained.values["run"]
    trained.form(text_source="b.txt")
    trained.run(*cells)
    assert trained.refused("train").startswith("text_source='b.txt' is chosen but 'a.txt' is loaded: run all cells ")
    assert_writes(trained, first)


def test_switching_the_text_and_running_what_follows(trained):
    trained.form(text_source="b.txt")
    trained.run(*DATA, "settings", "train")
    run, text = trained.values["run"], trained.values["text"]
    assert text.isupper() and text.startswith(run.tokenizer.decode(run.train_ids.tolist()))
    assert "characters of b.txt" in trained.run("train-read")
    assert_still_there(trained, run)


@pytest.mark.parametrize("cells, field, value", [
    ([], "n_embd", 16), ([], "block_size", 64), (["settings"], "n_layer", 4), (["settings"], "attention", "none")])
def test_a_checkpoint_folder_of_another_run(reader, field, value, cells):
    reader.form(checkpoint_folder="runs")
    reader.run(*BEFORE, "train")
    first, other = reader.values["run"], {field: value}
    reader.form(checkpoint_folder="runs", **other)
    reader.run(*cells)
    sentence = reader.refused("train")
    assert sentence.startswith("checkpoint_folder='runs' holds a run with another ") and field in sentence
    assert_still_there(reader, first)


def test_the_folder_of_a_finished_run_brings_it_back(reader):
    reader.form(checkpoint_folder="runs")
    reader.run(*BEFORE, "train")
    first = reader.values["run"]
    assert "Resumed at step 12" in reader.run("train")
    again = reader.values["run"]
    assert again is not first and again.finished and torch.equal(first.losses, again.losses)
    assert_still_there(reader, again)


def test_a_value_that_does_not_fit(trained):
    first = trained.values["run"]
    for name, value in dict(n_head=3, learning_rate="fast", block_size=30_000, configuration="huge",
                            checkpoint_folder=5).items():
        trained.form(**{name: value})
        assert trained.refused("train").startswith(f"{name}={value!r} ")
        assert_writes(trained, first)
    assert_still_there(trained, first)


@pytest.mark.parametrize("cell", ["settings", "effort"])
def test_an_effort_that_there_is_none_of(reader, cell):
    reader.run(*BEFORE)
    for value in ("Full", "", None, True):
        reader.form(experiments=value)
        assert reader.refused(cell).startswith(f"experiments={value!r} will not do: use ")


def test_knobs_of_writing(trained):
    first = trained.values["run"]
    for name, value in [("prompt", 5), ("prompt", None), ("temperature", "hot"), ("top_k", 2.5), ("top_p", 2)]:
        trained.form(**{name: value})
        assert trained.refused("write").startswith(f"{name}={value!r} will not do: use ")
    trained.form(prompt="The ")
    assert_writes(trained, first)
