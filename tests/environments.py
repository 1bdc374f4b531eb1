"""Run the whole notebook, at a tiny size, in other environments than this one.

    python tests/environments.py                    every environment of the table below, one after another
    python tests/environments.py oldest python-3.13  only these
    python tests/environments.py --list             what there is

Each gets a virtual environment of its own in a temporary folder, which is removed afterwards. The packages come from
wherever pip is set to look; on Linux that may be a PyTorch with gigabytes of CUDA. An interpreter that this machine
lacks is skipped: install it, or `uv`, which brings it. Needs tests/requirements.txt itself.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
from test_notebook import NOTEBOOK, output, shrunk

THIS = f"{sys.version_info.major}.{sys.version_info.minor}"
JUPYTER = "ipykernel nbconvert"
IMPORTED = "numpy matplotlib"


@dataclass
class Environment:
    """One row of the table: which Python, what pip installs there, and how the notebook is run."""
    python: str
    packages: str
    run: str = "notebook"  # or as a script, by "python" or "ipython"


ENVIRONMENTS = {
    "newest": Environment(THIS, f"torch {IMPORTED} {JUPYTER}"),
    "torch-2.11": Environment(THIS, f"torch==2.11.0 {IMPORTED} {JUPYTER}"),
    "oldest": Environment("3.11", f"torch==2.10.0 numpy==1.26.* matplotlib==3.8.* {JUPYTER}"),  # see requirements.txt
    "python-3.11": Environment("3.11", f"torch==2.13.0 {IMPORTED} {JUPYTER}"),
    "python-3.12": Environment("3.12", f"torch==2.11.0 {IMPORTED} {JUPYTER}"),
    "python-3.13": Environment("3.13", f"torch==2.13.0 {IMPORTED} {JUPYTER}"),
    "python-3.14": Environment("3.14", f"torch {IMPORTED} {JUPYTER}"),
    "colab": Environment("3.12", "torch==2.11.0 numpy==2.0.* matplotlib==3.10.* ipython==7.34.0 ipykernel==6.17.1 "
                                 "jupyter_client<8 nbconvert"),
    "script": Environment(THIS, f"torch==2.13.0 {IMPORTED} {JUPYTER}", run="python"),
    "ipython": Environment(THIS, f"torch==2.13.0 {IMPORTED} {JUPYTER}", run="ipython"),
}
SHOWN = ("torch", "numpy", "matplotlib", "ipython", "ipykernel")
LIMIT = 3600  # seconds for one command


class Failed(Exception):
    """A command ended badly; says so in one line."""


def command(*words, folder=None):
    """Run a command; returns what it printed. Fails with the last line that it printed."""
    settings = {name: value for name, value in os.environ.items()
                if name not in ("PIP_CONSTRAINT", "PYTHONPATH", "MPLBACKEND", "VIRTUAL_ENV")}
    settings |= {"JUPYTER_PREFER_ENV_PATH": "1", "PYTHONFAULTHANDLER": "1"}
    try:
        done = subprocess.run(words, cwd=folder, env=settings, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", timeout=LIMIT)
    except subprocess.TimeoutExpired:
        raise Failed(f"not done after {LIMIT} s: {' '.join(map(str, words))}") from None
    if done.returncode:
        plain = re.sub(r"\x1b\[[\d;]*m", "", done.stdout)
        lines = [line.strip() for line in plain.splitlines() if line.strip()]
        raise Failed(lines[-1] if lines else f"exit status {done.returncode}")
    return done.stdout


def find_python(version):
    """The interpreter of a version, such as "3.13", or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = [sys.executable, shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"))]
    for candidate in filter(None, found):
        try:
            if command(candidate, "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])").strip() == version:
                return candidate
        except (Failed, OSError):
            continue
    try:
        return command("uv", "python", "find", version).strip()
    except (Failed, OSError):
        return None


def create(environment, folder):
    """Make the virtual environment; returns its Python, or None if the version is not to be had."""
    found = find_python(environment.python)
    if found:
        command(found, "-m", "venv", folder)
    else:
        try:
            command("uv", "venv", "--seed", "--python", environment.python, folder)  # fetches the interpreter
        except (Failed, OSError):
            return None
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    command(python, "-m", "pip", "install", "--quiet", *environment.packages.split())
    return python


def execute(environment, python, folder):
    """Run the notebook there, shrunk, and see that it came to its end."""
    nbformat.write(shrunk(NOTEBOOK, folder), folder / "lesson.ipynb")
    convert = [python, "-m", "nbconvert", "lesson.ipynb", "--output", "executed", "--to"]
    if environment.run == "notebook":
        command(*convert, "notebook", "--execute", folder=folder)
        printed = output(nbformat.read(folder / "executed.ipynb", 4), "ran")
    else:
        command(*convert, "script", folder=folder)
        module = ["-m", "IPython"] if environment.run == "ipython" else []
        printed = command(python, *module, "executed.py", folder=folder)
    if "Made by" not in printed:  # the last cell
        raise Failed("it did not come to its end")


def versions(python):
    """What is installed there, in words."""
    code = ("import json, platform; from importlib.metadata import version; "
            f"print(json.dumps([platform.python_version()] + [version(name) for name in {SHOWN}]))")
    return ", ".join(f"{name} {v}" for name, v in zip(("Python", *SHOWN), json.loads(command(python, "-c", code))))


def report(name, environment):
    """Try one environment and print one line about it; returns whether the notebook works there."""
    began, installed, details, verdict = time.monotonic(), None, "", "ok"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place) / "lesson"
        folder.mkdir()
        try:
            python = create(environment, Path(place) / "venv")
            if python is None:
                print(f"skipped  {name}: no python{environment.python} here", flush=True)
                return True
            details, installed = versions(python), time.monotonic()
            execute(environment, python, folder)
        except Failed as error:
            verdict, details = "FAILED", f"{error} ({details or 'while installing'})"
    ended = time.monotonic()
    print(f"{verdict:8} {name}: {details}; installed in {(installed or ended) - began:.0f} s, "
          f"run in {ended - (installed or ended):.0f} s", flush=True)
    return verdict == "ok"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="environments to try (default: all)")
    parser.add_argument("--list", action="store_true", help="list the environments and stop")
    options = parser.parse_args()
    if unknown := set(options.names) - set(ENVIRONMENTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(ENVIRONMENTS)}")
    if options.list:
        for name, e in ENVIRONMENTS.items():
            print(f"{name:12} Python {e.python:5} run as {e.run:9} {e.packages}")
        return 0
    return int(not all([report(name, ENVIRONMENTS[name]) for name in options.names or ENVIRONMENTS]))


if __name__ == "__main__":
    sys.exit(main())
