"""Machines that grant little: nothing may be written, there is no network, no notebook, somebody else at work.

Other versions of Python, PyTorch and IPython: `python tests/environments.py`. Two runs with one checkpoint folder and
unwritable checkpoint folders: test_checkpoints.py. Caches that cannot be used: test_robustness.py. GPUs: test_gpu.py.
"""
import ctypes
import http.server
import os
import shutil
import subprocess
import sys
import threading
import time

import nbformat
import pytest
from conftest import source, tags
from test_notebook import NOTEBOOK, output, shrunk

NO_NETWORK = '''
"""Python reads this file when it starts: names of other machines are not found, as without a network."""
import socket
known = socket.getaddrinfo
def getaddrinfo(host, *rest, **more):
    if host not in (None, "", "localhost", "127.0.0.1"):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return known(host, *rest, **more)
socket.getaddrinfo = getaddrinfo
'''


def like_any_user():
    """Root may write everywhere; give that up in a process about to start. Returns what does so there, or None."""
    if not hasattr(os, "geteuid") or os.geteuid():
        return None
    drop, override, search, ulong = 24, 1, 2, ctypes.c_ulong  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return prctl and (lambda: [prctl(drop, ulong(power), ulong(0), ulong(0), ulong(0)) for power in (override, search)])


def start(*words, folder, **settings):
    """Start Python in `folder`, without rights, proxies or a display, and with the given variables set."""
    unset = ("MPLBACKEND", "DISPLAY", "PYTHONPATH", "HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR")
    kept = {name: value for name, value in os.environ.items() if name not in unset and "proxy" not in name.lower()}
    settings = kept | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | {k: str(v) for k, v in settings.items()}
    return subprocess.Popen([sys.executable, *map(str, words)], cwd=folder, env=settings, preexec_fn=like_any_user(),
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")


def finish(process):
    """Wait until it ends well; returns what it printed."""
    try:
        printed, errors = process.communicate(timeout=300)
    finally:
        process.kill()  # does nothing to one that has ended
    assert process.returncode == 0, errors[-3000:]
    return printed


@pytest.fixture
def offline(tmp_path):
    """The folder to put on PYTHONPATH for a process that has no network."""
    folder = tmp_path / "offline"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    return folder


@pytest.fixture
def lesson_folder(tmp_path):
    """A folder with the notebook, shrunk and without experiments, and the sample blog where the notebook expects it."""
    folder = tmp_path / "lesson"
    (folder / "data").mkdir(parents=True)
    nb = shrunk(NOTEBOOK, folder)
    (folder / "short.txt").rename(folder / "data" / "blog.txt")
    for cell in nb.cells:
        if "parameters" in tags(cell):
            cell.source += '\ntext_source, experiments, checkpoint_folder = "sample blog", "off", "runs"'
    nbformat.write(nb, folder / "lesson.ipynb")
    return folder


@pytest.fixture
def script(code_cells, tmp_path):
    """Write the notebook's definitions and some lines after them as a script; returns its path."""
    definitions = "\n\n".join(source(cell) for cell in code_cells if "definitions" in tags(cell))
    return lambda more: (path := tmp_path / "script.py", path.write_text(f"{definitions}\n\n{more}", "utf-8"))[0]


@pytest.fixture
def locked(lesson_folder, tmp_path):
    """Make the notebook's folder and the home folder unwritable; returns the latter."""
    home = tmp_path / "home"
    home.mkdir()
    closed = [home, lesson_folder, lesson_folder / "data"]
    for folder in closed:
        folder.chmod(0o555)
    attempt = start("-c", "open('x', 'w')", folder=lesson_folder)
    if "Permission" not in attempt.communicate()[1]:
        pytest.skip("this system lets us write everywhere")
    yield home
    for folder in closed:
        folder.chmod(0o755)


def files_below(*folders):
    return {path for folder in folders for path in folder.rglob("*")}


def test_nothing_can_be_written_and_there_is_no_network(lesson_folder, locked, offline, tmp_path):
    """The whole notebook, except experiments. Only Jupyter, which runs it, has folders for its own files."""
    before = files_below(lesson_folder, locked)
    finish(start("-m", "nbconvert", "--to", "notebook", "--execute", "lesson.ipynb", "--output-dir", tmp_path / "out",
                 folder=lesson_folder, HOME=locked, PYTHONPATH=offline, JUPYTER_RUNTIME_DIR=tmp_path / "runtime"))
    executed = nbformat.read(tmp_path / "out" / "lesson.ipynb", 4)
    assert "Made by" in output(executed, "ran")
    said = output(executed, "train")
    assert "step 40 of 40 (100%)" in said and "checkpoint_folder='runs': not saved at step 40" in said
    assert files_below(lesson_folder, locked) == before


OFFLINE = """
for name in ["sample blog", "article's blog", "tiny shakespeare", "https://example.org/a.txt", "data/blog.txt"]:
    try:
        print(name, "->", len(load_text(name)))
    except ValueError as error:
        print(name, "->", error)
"""


@pytest.mark.parametrize("beside", [True, False], ids=["blog beside the notebook", "notebook alone"])
def test_without_network_a_text_is_read_or_refused_in_one_sentence(script, lesson_folder, offline, tmp_path, beside):
    if not beside:
        shutil.rmtree(lesson_folder / "data")
    began = time.monotonic()
    lines = finish(start(script(OFFLINE), folder=lesson_folder, HOME=tmp_path, PYTHONPATH=offline)).splitlines()
    assert time.monotonic() - began < 30, "it hangs"
    answers = dict(line.split(" -> ") for line in lines)
    assert len(answers) == len(lines) == 5, "one line each"
    for name, answer in answers.items():
        if "blog" in name and "article" not in name and beside:
            assert int(answer) > 20_000
        else:
            assert answer.startswith("text_source=") and "check the name and the network" in answer
            assert "Temporary failure" in answer or "No such file" in answer


PLAIN = """
text = load_text("data/blog.txt")
tokenizer = CharTokenizer(text)
train_ids, val_ids = (torch.tensor(tokenizer.encode(part)) for part in split_text(text))
cfg = GPTConfig(len(tokenizer.chars), block_size=16, n_layer=1, n_head=2, n_embd=16)
run = Run(GPT(cfg), tokenizer, train_ids, val_ids, TrainConfig(batch_size=4, max_iters=20))
train(run, Board({"chance": math.log(len(tokenizer.chars))}))
show(generate(run.averaged, tokenizer, "The", length=30, stop=None))
"""


def test_definitions_work_in_a_plain_script(script, lesson_folder, tmp_path):
    """As README's three lines use them. What is shown live in a notebook becomes plain lines, each printed once."""
    printed = finish(start(script(PLAIN), folder=lesson_folder, HOME=tmp_path))
    assert printed.count("step 20 of 20 (100%)") == 1 and "text/plain" not in printed
    assert printed.splitlines()[-1].strip() and not printed.splitlines()[-1].startswith("step"), "what was written"


def test_whole_export_runs_under_plain_python_twice_at_once(lesson_folder, tmp_path):
    """`jupyter nbconvert --to script`, then `python`, in one folder with one checkpoint folder; nothing is removed."""
    finish(start("-m", "nbconvert", "--to", "script", "lesson.ipynb", folder=lesson_folder, HOME=tmp_path))
    both = [start("lesson.py", folder=lesson_folder, HOME=tmp_path) for _ in range(2)]
    for printed in map(finish, both):
        assert "step 40 of 40 (100%)" in printed
        assert printed.splitlines()[-1].startswith("Made by a script, on ")
    (saved,) = (lesson_folder / "runs").iterdir()
    assert saved.name.startswith("checkpoint-00000040") and saved.suffix == ".pt"


class Slow(http.server.BaseHTTPRequestHandler):
    """Sends a text in pieces, so that two downloads overlap."""

    def do_GET(self):
        body = ("Tea was late. The 7:12 was later; nobody minded.\n" * 60).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.server.both.wait(60)
        for i in range(0, len(body), 500):
            self.wfile.write(body[i:i + 500])

    def log_message(self, *_):
        pass


def test_two_runs_at_once_download_the_same_text(script, lesson_folder, tmp_path):
    """Both find the cache empty and fill it; what is left is one whole file."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as web:
        web.both = threading.Barrier(2)
        threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
        path = script(f'print(len(load_text("http://127.0.0.1:{web.server_port}/")))')
        both = [start(path, folder=lesson_folder, HOME=tmp_path, USERPROFILE=tmp_path) for _ in range(2)]
        assert [finish(process) for process in both] == ["2940\n", "2940\n"]
        web.shutdown()
    (cached,) = (tmp_path / ".cache" / "bdunaganGPT").iterdir()
    assert cached.suffix == ".txt" and cached.stat().st_size == 2940
