"""What of a project a Ray cluster is sent. No cluster is needed for that."""

import sys
import zipfile

import pytest

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rollout.engines import _ray_project
from aws_rft_sdk.rollout.engines._ray_project import Project, read_requirements


def write(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("")


@pytest.fixture
def importable(monkeypatch):
    """Put a folder on the path that modules are imported from."""
    modules = set(sys.modules)
    yield lambda folder: monkeypatch.syspath_prepend(str(folder))
    for name in set(sys.modules) - modules:
        if name.startswith("ray_project_"):
            del sys.modules[name]


@pytest.mark.parametrize("mark", ["pyproject.toml", "setup.py", ".git/config"])
def test_project_when_a_folder_above_is_marked_then_it_is_the_root(tmp_path, mark):
    write(tmp_path, mark, "agents/deep/agent.py")

    project = Project.of(f"{tmp_path}/agents/deep/agent.py:Class.method")

    assert project.root == tmp_path
    assert project.reference == "agents/deep/agent.py:Class.method"
    assert project.import_paths[0] == "agents/deep"


def test_project_when_nothing_is_marked_then_it_is_the_folder_of_the_file(tmp_path):
    write(tmp_path, "agents/agent.py")

    project = Project.of(f"{tmp_path}/agents/agent.py:fn")

    assert (project.root, project.reference, project.import_paths) == (tmp_path / "agents", "agent.py:fn", (".",))


@pytest.mark.parametrize("module", ["ray_project_a.inner.agent", "ray_project_a.inner", "ray_project_a"])
def test_project_when_the_handler_is_a_module_then_its_source_folder_is_imported_from(tmp_path, importable, module):
    files = ["ray_project_a/__init__.py", "ray_project_a/inner/__init__.py", "ray_project_a/inner/agent.py"]
    write(tmp_path, "pyproject.toml", *(f"src/{file}" for file in files))
    importable(tmp_path / "src")

    project = Project.of(f"{module}:fn")

    assert (project.root, project.reference) == (tmp_path, f"{module}:fn")
    assert project.import_paths[0] == "src"


def test_project_when_the_module_is_installed_then_there_is_nothing_to_send():
    assert Project.of("pytest:fail") is None


@pytest.mark.parametrize("reference", ["no_such_module_at_all:fn", "no/such/file.py:fn"])
def test_project_when_there_is_no_handler_then_that_is_said(reference):
    with pytest.raises(ConfigurationError, match="there is no"):
        Project.of(reference)


def test_project_when_packed_then_environments_caches_runs_and_ignored_files_stay(tmp_path):
    write(tmp_path, "pyproject.toml", "agent.py", "data/small.csv", "tools/helper.py")
    write(tmp_path, ".git/HEAD", "__pycache__/agent.pyc", "node_modules/x.js", "env/pyvenv.cfg", "env/lib/python.py")
    write(tmp_path, "runs/one/rollouts.jsonl", "runs/one/trajectories.db", ".cache/CACHEDIR.TAG")
    write(tmp_path, "raw/big.parquet", "tools/note.parquet", "tools/keep.txt")
    (tmp_path / ".rayignore").write_text("# large\n/raw/\n*.parquet\n")
    archive = tmp_path / "project.zip"

    Project.of(f"{tmp_path}/agent.py:fn").pack(archive)

    names = set(zipfile.ZipFile(archive).namelist()) - {"project.zip"}
    assert names == {".rayignore", "pyproject.toml", "agent.py", "data/small.csv", "tools/helper.py", "tools/keep.txt"}


def test_project_when_it_is_too_large_then_the_error_names_the_largest_files_and_what_to_do(tmp_path):
    write(tmp_path, "pyproject.toml", "agent.py", "data/train.jsonl")
    with (tmp_path / "data" / "train.jsonl").open("wb") as file:
        file.truncate(_ray_project.LIMIT_BYTES + 1)

    with pytest.raises(
        ConfigurationError, match=r"Name what .*\.rayignore.*largest files are data/train\.jsonl \(100 MiB\)"
    ):
        Project.of(f"{tmp_path}/agent.py:fn").files()


def test_requirements_when_read_then_they_are_what_pip_installs(tmp_path):
    (tmp_path / "requirements.txt").write_text(
        "# ours\npandas>=2 # tables\n\n--extra-index-url https://example.com\nx[y]==1\n"
    )
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["pandas>=2"]\n')

    assert read_requirements(tmp_path / "requirements.txt") == [
        "pandas>=2",
        "--extra-index-url https://example.com",
        "x[y]==1",
    ]
    assert read_requirements(tmp_path / "pyproject.toml") == ["pandas>=2"]


@pytest.mark.parametrize("line", ["-r more.txt", "-e .", "./wheels/x.whl", "-c limits.txt"])
def test_requirements_when_they_name_files_of_this_machine_then_they_are_refused(tmp_path, line):
    (tmp_path / "requirements.txt").write_text(f"pandas\n{line}\n")

    with pytest.raises(ConfigurationError, match="names a file of this machine"):
        read_requirements(tmp_path / "requirements.txt")


@pytest.mark.parametrize(("name", "text"), [("pyproject.toml", "[tool]"), ("pyproject.toml", "["), ("none.txt", None)])
def test_requirements_when_they_cannot_be_read_then_that_is_said(tmp_path, name, text):
    if text is not None:
        (tmp_path / name).write_text(text)

    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_requirements(tmp_path / name)
