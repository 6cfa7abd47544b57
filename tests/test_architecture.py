"""The rules of the house: who imports whom, who may touch threads and the network, what is lazy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("utils", "models", "pipeline", "service")
"""From the lowest; a floor imports itself and those below. Scripts and entry points are on top."""
ENTRY_POINTS = sorted(ROOT.glob("*.py"))
COMMANDS = [path for path in ENTRY_POINTS if path.stem != "setup"] + sorted(
    path for path in (ROOT / "scripts").glob("*.py") if path.stem != "__init__"
)

CONCURRENCY = {"threading", "multiprocessing", "concurrent", "asyncio", "_thread", "subprocess"}
NETWORK = {"socket", "http", "urllib", "ssl", "smtplib", "ftplib", "requests", "httpx", "aiohttp"}
ALLOWED = {
    "pipeline/executor.py": CONCURRENCY,
    "pipeline/describers/": NETWORK,
    "pipeline/sinks/": NETWORK,
    "service/": CONCURRENCY | NETWORK,
    # A decoder in a process of its own, and its watchdog.
    "utils/video/decoders/isolated_process.py": {"subprocess"},
    "utils/video/decoders/isolated_worker.py": {"threading"},
    # Asks git for the revision of the code.
    "utils/training/environment.py": {"subprocess"},
    # Asks whether this is the main thread, which alone gets signals; starts none.
    "utils/training/stopping.py": {"threading"},
    # Takes addresses apart; opens none.
    "utils/data/formats/label_studio.py": {"urllib"},
    # Gives the libraries that fetch weights a timeout; opens no connection itself.
    "models/backbones/base.py": {"socket"},
}
HEAVY = ("torch", "torchvision", "av", "timm", "transformers", "matplotlib", "accelerate", "cv2")


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


PRODUCT = [*sources(*FLOORS, "scripts", "benchmarks"), *ENTRY_POINTS]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, wherever in the file it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: imports are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def calls(path: Path) -> Iterator[tuple[ast.Call, str]]:
    """Every call, and the dotted name of what is called."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def test_there_is_something_to_check() -> None:
    assert len(PRODUCT) > 40
    assert {path.name for path in ENTRY_POINTS} >= {"train.py", "inference.py"}
    assert all(path.exists() for path in (ROOT / name for name in ALLOWED if name.endswith(".py")))


@pytest.mark.parametrize("floor", FLOORS)
def test_no_floor_imports_a_higher_one(floor: str) -> None:
    higher = {*FLOORS[FLOORS.index(floor) + 1 :], "scripts", "benchmarks", "tests"}
    higher |= {path.stem for path in ENTRY_POINTS}
    wrong = [
        f"{name_of(path)}:{line} imports {name}"
        for path in sources(floor)
        for line, name in imports(path)
        if name.partition(".")[0] in higher
    ]
    assert not wrong


def test_nothing_imports_tests_and_no_entry_point_imports_another() -> None:
    tops = {"tests", "scripts", "benchmarks"} | {path.stem for path in ENTRY_POINTS}
    wrong = [
        f"{name_of(path)}:{line} imports {name}"
        for path in [*sources("scripts"), *ENTRY_POINTS]
        for line, name in imports(path)
        if name.partition(".")[0] in tops
    ]
    assert not wrong


def test_threads_processes_and_the_network_have_their_places() -> None:
    wrong = []
    for path in sources(*FLOORS, "scripts") + ENTRY_POINTS:
        name = name_of(path)
        allowed = set().union(
            *(kinds for place, kinds in ALLOWED.items() if name.startswith(place))
        )
        wrong += [
            f"{name}:{line} imports {module}"
            for line, module in imports(path)
            if module.partition(".")[0] in (CONCURRENCY | NETWORK) - allowed
        ]
    assert not wrong


def test_torch_reads_files_without_pickle() -> None:
    wrong = []
    for path in PRODUCT:
        for call, name in calls(path):
            if name == "torch.load":
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                if options.get("weights_only") != "True":
                    wrong.append(f"{name_of(path)}:{call.lineno}")
    assert not wrong


def test_nothing_reads_pickles_or_runs_text() -> None:
    forbidden = {"pickle.load", "pickle.loads", "eval", "exec", "joblib.load", "os.system"}
    wrong = [
        f"{name_of(path)}:{call.lineno} calls {name}"
        for path in PRODUCT
        for call, name in calls(path)
        if name in forbidden
        or (
            name.endswith("np.load")
            and "False"
            not in [ast.unparse(k.value) for k in call.keywords if k.arg == "allow_pickle"]
        )
    ]
    assert not wrong


def test_yaml_is_read_safely() -> None:
    wrong = [
        f"{name_of(path)}:{call.lineno} calls {name}"
        for path in PRODUCT
        for call, name in calls(path)
        if name in {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"}
        and name_of(path) != "utils/config/loading.py"
    ]
    assert not wrong


def test_no_model_of_a_hub_brings_its_own_code() -> None:
    wrong = [
        f"{name_of(path)}:{call.lineno}"
        for path in PRODUCT
        for call, _ in calls(path)
        for keyword in call.keywords
        if keyword.arg == "trust_remote_code" and ast.unparse(keyword.value) != "False"
    ]
    assert not wrong


def test_no_exception_is_swallowed() -> None:
    wrong = []
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = "" if node.type is None else ast.unparse(node.type)
            is_all = caught in {"", "Exception", "BaseException"}
            if is_all and all(isinstance(statement, ast.Pass) for statement in node.body):
                wrong.append(f"{name_of(path)}:{node.lineno}")
    assert not wrong


def test_no_module_is_a_drawer() -> None:
    drawers = {"misc", "helpers", "helper", "common", "util", "stuff", "tools"}
    assert not [name_of(path) for path in PRODUCT if path.stem in drawers]


@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_help_needs_nothing_heavy(command: Path) -> None:
    """``--help`` answers at once: what takes seconds to import is not imported for it."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{command.name!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(command)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        "else:\n"
        "    raise AssertionError('--help did not end the command')\n"
        f"print('imported:', *sorted(set({HEAVY!r}) & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    assert done.stdout.splitlines()[-1] == "imported:"


@pytest.mark.parametrize("package", [floor for floor in FLOORS if (ROOT / floor).is_dir()])
def test_a_package_alone_imports_nothing_heavy(package: str) -> None:
    code = f"import sys, {package}; print(*sorted(set({HEAVY!r}) & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == ""
