"""The documentation as its reader uses it: every fence runs, every name, path, flag and link leads somewhere.

A document is one session in a new folder with ``examples/`` in it: its bash, console and Python fences run in order.
Of a console fence, the lines behind a command are what it must say, in order, where … stands for anything.
"""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from preferent.cli import COMMANDS
from preferent.config import words

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+?) -->\n)?```(?P<kind>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
RUN = ("bash", "console", "python")
SMALL = {"ROWS": "96", "HELD": "12", "STEPS": "2"}  # how much of the real data a page is tried on
REAL = {"docs/real-data.md"}  # documents that need the real data

# Every fence that is not run: (document, why). Whoever adds one says so here too.
NOT_RUN = {
    ("README.md", "minutes, and a package index"),
    ("README.md", "the environment that make sets up"),
    ("README.md", "needs the Hub"),
    ("docs/real-data.md", "needs the Hub"),
    ("CONTRIBUTING.md", "minutes, and a package index"),
}


@dataclass(frozen=True)
class Fence:
    document: str
    line: int
    kind: str
    code: str
    why_not: str | None


def fences(name: str) -> list[Fence]:
    text = (ROOT / name).read_text()
    return [
        Fence(name, text[: found.start("code")].count("\n") + 1, found["kind"], found["code"], found["why"])
        for found in FENCE.finditer(text)
    ]


def run_fences(name: str) -> list[Fence]:
    return [fence for fence in fences(name) if fence.kind in RUN and not fence.why_not]


WITH_FENCES = [name for name in NAMES if run_fences(name)]


# --- what runs -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_FENCES)
def test_every_fence_of_a_document_runs(name, tmp_path, request):
    data = {"PREFERENT_TEST_DATA": str(request.getfixturevalue("real_data"))} if name in REAL else {}
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    script, expected = scripted(run_fences(name), tmp_path)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | data | SMALL | {"PATH": path, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    ran = subprocess.run(
        ["bash", "-eu", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500
    )
    assert ran.returncode == 0, f"{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"
    for output, lines in expected.items():
        said = output.read_text().strip()
        assert fnmatchcase(said, pattern(lines)), f"expected\n{lines}\nbut it said\n{said}"


def scripted(found: list[Fence], folder: Path) -> tuple[str, dict[Path, str]]:
    """One script for all fences, and what each console command must have said, by the file of its output."""
    script = ["trap 'echo \"the fence at $where failed\" >&2' ERR"]
    expected: dict[Path, str] = {}
    for fence in found:
        script.append(f"where={fence.document}:{fence.line}")
        if fence.kind == "bash":
            script.append(fence.code)
        elif fence.kind == "python":
            file = folder / f"fence_{fence.line}.py"
            file.write_text(fence.code)
            script.append(f"python {file.name}")
        else:
            for i, (command, lines) in enumerate(said(fence.code)):
                output = folder / f"said_{fence.line}_{i}.txt"
                expected[output] = lines
                script.append(f"{{ {command}\n}} > {output.name} 2>&1 || true")
    return "\n".join(script), expected


def said(code: str) -> list[tuple[str, str]]:
    """(command, what it says) for each ``$ command`` of a console fence."""
    parts = re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]
    return [(command, lines.strip()) for command, _, lines in (part.partition("\n") for part in parts)]


def pattern(lines: str) -> str:
    """Text with … for anything, as a pattern in which nothing else is special."""
    return re.sub(r"[*?[]", r"[\g<0>]", lines).replace("…", "*")


def test_what_is_not_run_is_known_and_has_a_reason():
    assert {(name, fence.why_not) for name in NAMES for fence in fences(name) if fence.why_not} == NOT_RUN


def test_every_fence_says_what_it_is_in():
    known = {*RUN, "text", "json", "yaml"}
    assert [f"{name}:{fence.line}" for name in NAMES for fence in fences(name) if fence.kind not in known] == []


def test_the_marks_of_an_expected_output_mean_what_they_say():
    assert fnmatchcase("a [x] line\nand more\nend", pattern("a [x] line\n…\nend"))
    assert not fnmatchcase("a x line", pattern("a [x] line"))


# --- what resolves -------------------------------------------------------------------------------

# Names of files that runs and readers make, and that are no files of the project.
MADE = re.compile(
    r"runs/|(config|run)\.yaml|(manifest|score|evaluation|results|losses|job|rows|rounds)\.json|judgements\.txt|truth\.py|step-N|member-|round-N|<name>|"
    r"model/|events/|samples/|reference/|checkpoints/|\w+\.jsonl|file\.py|\.gz$|dist/"
)
PLACES = (ROOT, ROOT / "src" / "preferent", ROOT / "tests", ROOT / "src")


def spans(name: str) -> list[str]:
    """What stands between backticks in a document, fences left out."""
    return CODE.findall(re.sub(r"^```.*?^```$", "", (ROOT / name).read_text(), flags=re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name):
    targets = [target.partition("#") for target in LINK.findall((ROOT / name).read_text()) if "://" not in target]
    here = (ROOT / name).parent
    assert [file for file, _, _ in targets if file and not (here / file).exists()] == []
    for file, _, heading in targets:
        text = ((here / file) if file else ROOT / name).read_text()
        assert not heading or heading in {slug(line) for line in text.splitlines() if line.startswith("#")}


def slug(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lstrip("# ").lower()).replace(" ", "-")


@pytest.mark.parametrize("name", NAMES)
def test_every_path_is_there(name):
    paths = [span for span in spans(name) if re.fullmatch(r"[\w./<>-]+(/|\.(py|md|toml|txt|json|yaml))(::?\w+)?", span)]
    missing = [span for span in paths if not MADE.search(span) and not there(span)]
    assert missing == []


def there(span: str) -> bool:
    """Is there such a file, and in it the test or function behind the colon?"""
    path, _, inside = span.partition(":")
    found = next((place / path for place in PLACES if (place / path).exists()), None)
    return found is not None and (not inside or f"def {inside.strip(':')}(" in found.read_text())


@pytest.mark.parametrize("name", NAMES)
def test_every_dotted_name_is_there(name):
    dotted = [span for span in spans(name) if re.fullmatch(r"preferent(\.\w+)+(\(.*\))?", span)]
    for span in dotted:
        resolve(span.partition("(")[0])


def resolve(dotted: str) -> object:
    """The module or what it holds. Raises ImportError or AttributeError where there is no such thing."""
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            found = getattr(found, part)
        return found
    raise ImportError(dotted)


@pytest.mark.parametrize("name", NAMES)
def test_every_flag_is_one(name):
    """Flags of our commands, in prose as in fences; those of other programs stand in fences only."""
    flags = {f"--{part}" for part in ("help", "version", "config")}
    for module, _, _ in COMMANDS.values():
        mine = words(importlib.import_module(module).Options)
        flags |= {word.flag for word in mine} | {f"--no-{word.flag[2:]}" for word in mine if word.kind is bool}
    used = [flag for span in spans(name) for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", span)]
    for fence in fences(name):
        lines = fence.code.replace("\\\n", " ").splitlines()
        ours = [line for line in lines if line.strip().removeprefix("$ ").startswith("preferent ")]
        used += [word for line in ours for word in shlex.split(line, comments=True) if word.startswith("--")]
    assert sorted({flag.partition("=")[0] for flag in used} - flags) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_make_target_is_one(name):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    fenced = [line for fence in fences(name) for line in fence.code.splitlines()]
    used = [found for text in [*spans(name), *fenced] for found in re.findall(r"^(?:\$ )?make ([a-z-]+)", text)]
    assert [target for target in used if target not in targets] == []


def test_the_formats_of_the_data_page_are_those_that_are_read():
    from preferent.data.columns import FORMATS

    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "data.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(each.name for each in FORMATS)


def test_the_papers_page_names_every_algorithm():
    text = (ROOT / "PAPERS.md").read_text()
    algorithms = {path.name for path in (ROOT / "src" / "preferent" / "algorithms").glob("*.py")} - {"__init__.py"}
    assert [name for name in sorted(algorithms - {"rollouts.py"}) if f"`algorithms/{name}`" not in text] == []


def test_no_document_speaks_of_anything_but_the_project():
    strangers = re.compile(r"/work/|/root/|/tmp/|shared/(?!prefix)", re.IGNORECASE)
    assert {name: found for name in NAMES if (found := strangers.findall((ROOT / name).read_text()))} == {}
