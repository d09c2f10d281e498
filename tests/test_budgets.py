"""What the project promises about its own size and habits, read off its syntax trees and its imports.

The budgets are those of ARCHITECTURE.md. A file that breaks one is split or shortened, and the budget stays.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "preferent"
MODULES = sorted(PACKAGE.rglob("*.py"))
OURS = [path for folder in ("src", "tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
ALGORITHMS = sorted(path for path in (PACKAGE / "algorithms").glob("*.py") if path.name != "__init__.py")

MODULE, ALGORITHM, TYPES, FUNCTION, CLOSURE = 400, 150, 250, 60, 1500  # lines
FIELDS = 15  # of a class of options
HEAVY = {"torch", "transformers", "tokenizers", "datasets", "peft", "pyarrow", "pandas", "tensorboard"}
LIGHT = ("cli", "config", "types", "cutting", "feedback", "annotate", "pictures")  # no heavy library at import time
SAY_NOTHING = {"utils", "util", "helpers", "helper", "misc", "common", "manager", "base"}


def named(path: Path) -> str:
    """The module that a file holds: src/preferent/losses/means.py is preferent.losses.means."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {named(path): path for path in MODULES}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), path.name)


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def read(node: ast.AST, *, deferred: bool) -> Iterator[ast.AST]:
    """Every node that runs: nothing under ``if TYPE_CHECKING``, and inside functions only where ``deferred``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not deferred:
            continue
        yield child
        yield from read(child, deferred=deferred)


@cache
def imports(module: str, *, deferred: bool = True) -> frozenset[str]:
    """Our own modules that a module names in its imports; the packages around them are not counted."""
    found = set()
    for node in read(tree(FILES[module]), deferred=deferred):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(name for name in found & FILES.keys() if FILES[name].name != "__init__.py")


def closure(module: str) -> set[str]:
    """A module and all of ours that it needs."""
    found, ahead = set(), [module]
    while ahead:
        one = ahead.pop()
        if one not in found:
            found.add(one)
            ahead += imports(one)
    return found


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def show(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- sizes ---------------------------------------------------------------------------------------


def test_every_module_has_at_most_400_lines():
    """Tests are not counted: a long list of laws about one module reads best in one piece."""
    counted = [path for path in OURS if not path.is_relative_to(ROOT / "tests")]
    assert {show(path): lines(path) for path in counted if lines(path) > MODULE} == {}


def test_every_algorithm_file_has_at_most_150_lines():
    assert {show(path): lines(path) for path in ALGORITHMS if lines(path) > ALGORITHM} == {}


def test_the_nouns_and_verbs_have_at_most_250_lines():
    assert lines(PACKAGE / "types.py") <= TYPES


def test_every_function_has_at_most_60_lines():
    long = {
        f"{show(path)}:{f.name}": f.end_lineno - f.lineno + 1
        for path in OURS
        for f in functions(path)
        if f.end_lineno - f.lineno + 1 > FUNCTION
    }
    assert long == {}


def test_every_class_of_options_has_at_most_15_fields():
    wide = {}
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef) and node.name.endswith(("Options", "Config", "Size")):
                count = sum(isinstance(line, ast.AnnAssign) for line in node.body)
                if count > FIELDS:
                    wide[f"{show(path)}:{node.name}"] = count
    assert wide == {}


@pytest.mark.parametrize("path", ALGORITHMS, ids=lambda path: path.stem)
def test_to_understand_an_algorithm_one_reads_at_most_1500_lines(path):
    sizes = {module: lines(FILES[module]) for module in closure(named(path))}
    assert sum(sizes.values()) <= CLOSURE, dict(sorted(sizes.items(), key=lambda item: -item[1]))


# --- imports -------------------------------------------------------------------------------------


def test_no_module_needs_itself():
    """Cycles, those through imports inside functions included."""
    cycles = {module for module in FILES if any(module in closure(other) for other in imports(module))}
    assert cycles == set()


def test_asking_for_help_imports_no_heavy_library():
    assert heavy_after("from preferent.cli import main; main(['--help'])") == set()


def test_importing_the_package_imports_no_heavy_library():
    assert heavy_after("import preferent") == set()


def test_what_must_work_without_torch_imports_no_heavy_library():
    parts = {module: module.split(".") for module in FILES}  # migrations are run by alembic, never imported by name
    light = [module for module, of in parts.items() if of[1:2] and of[1] in LIGHT and "migrations" not in of]
    assert "preferent.feedback.crowd" in light
    assert heavy_after(f"import {', '.join(light)}") == set()


def heavy_after(code: str) -> set[str]:
    """Which heavy libraries a fresh interpreter has loaded after ``code``."""
    ask = f"{code}\nimport sys; print(*(set({sorted(HEAVY)!r}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


# --- habits --------------------------------------------------------------------------------------

FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "torch.save"}
FORBIDDEN_MODULES = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_ARGUMENTS = {"shell": True, "weights_only": False, "trust_remote_code": True, "allow_pickle": True}


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_nothing_runs_what_it_was_given(path):
    """No pickle, eval, exec or shell, and code of a model's author only where the user said so.

    ``exec_module`` stands in one place, which runs the file that the user names in ``--reward file.py:function``.
    """
    found = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [name for name in names if name.split(".")[0] in FORBIDDEN_MODULES]
        if isinstance(node, ast.Call):
            found += [called(node)] * (called(node) in FORBIDDEN_CALLS)
            found += [called(node)] * (called(node).endswith(".exec_module") and path.name != "function.py")
            found += [
                f"{word.arg}={word.value.value}"
                for word in node.keywords
                if word.arg in FORBIDDEN_ARGUMENTS
                and isinstance(word.value, ast.Constant)
                and word.value.value is FORBIDDEN_ARGUMENTS[word.arg]
            ]
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "trust_remote_code":
            found += [ast.unparse(node)] * (node.value is None or ast.unparse(node.value) != "False")
    assert found == []


def test_code_of_the_users_is_run_in_one_place():
    places = [
        show(p) for p in MODULES for n in ast.walk(tree(p)) if isinstance(n, ast.Attribute) and n.attr == "exec_module"
    ]
    assert places == ["src/preferent/rewards/function.py"]


def test_every_file_says_in_its_name_what_is_in_it():
    assert [show(path) for path in OURS if path.stem in SAY_NOTHING] == []


def test_no_text_names_a_folder_of_somebodys_machine():
    """Absolute paths belong to one machine; system folders in a message or a probe are no such thing."""
    place = re.compile(r"""["'`(\s=](/(?:home|root|work|Users|tmp|mnt|opt|data)/[\w.-]+)""")
    texts = [*OURS, *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "Makefile", ROOT / ".ci" / "run"]
    found = {show(path): place.findall(path.read_text()) for path in texts if path != Path(__file__)}
    assert {name: places for name, places in found.items() if places} == {}


def test_layers_stand_once_and_in_order():
    """The import contract lists every package and module, so that none can be forgotten."""
    contract = re.search(r"^layers = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE)
    listed = re.findall(r"preferent\.(\w+)", contract[1])
    here = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert here - {"__init__", "__main__"} <= set(listed)
    assert all(a != b for a, b in pairwise(sorted(listed)))


def test_no_two_files_of_the_tests_have_one_name():
    """Pytest imports them by their bare names: of two, one would hide the other from whoever asks for it."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py")]
    assert sorted(names) == sorted(set(names))
