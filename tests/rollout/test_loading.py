import sys

import pytest

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rollout import load_callable


@pytest.fixture(autouse=True)
def clean_imports():
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "loading_neighbour.py").write_text("VALUE = 41\n")
    (tmp_path / "loading_agent.py").write_text(
        "import loading_neighbour\n"
        "def handler(payload):\n    return loading_neighbour.VALUE + 1\n"
        "class Box:\n    @staticmethod\n    def inside(payload):\n        return 'in'\n"
        "number = 3\n"
    )
    return tmp_path


def test_function_of_a_file_is_loaded_with_its_neighbours(folder):
    assert load_callable(f"{folder}/loading_agent.py:handler")({}) == 42


def test_file_loaded_twice_is_one_module(folder):
    first = load_callable(f"{folder}/loading_agent.py:handler")

    assert load_callable(f"{folder}/loading_agent.py:handler") is first


def test_dotted_function_is_found(folder):
    assert load_callable(f"{folder}/loading_agent.py:Box.inside")({}) == "in"


def test_two_files_of_one_name_stay_apart(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "loading_agent.py").write_text("def handler(payload):\n    return 'other'\n")

    assert load_callable(f"{folder}/loading_agent.py:handler")({}) == 42
    assert load_callable(f"{other}/loading_agent.py:handler")({}) == "other"


def test_function_of_a_module_is_loaded():
    assert load_callable("json:dumps")([1]) == "[1]"


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        pytest.param("handler", "names no function", id="no-colon"),
        pytest.param("agent.py:", "names no function", id="no-name"),
        pytest.param(":handler", "names no function", id="no-module"),
        pytest.param("nowhere/agent.py:handler", "no file", id="no-file"),
        pytest.param("no_such_module_at_all:handler", "no module no_such_module_at_all", id="unknown-module"),
        pytest.param("json:nothing", "json has no 'nothing'", id="no-attribute"),
        pytest.param("json:__name__", "not a function", id="not-callable"),
    ],
)
def test_wrong_reference_is_refused(reference, says):
    with pytest.raises(ConfigurationError, match=says):
        load_callable(reference)


def test_error_inside_the_module_is_the_users_to_see(tmp_path):
    (tmp_path / "loading_broken.py").write_text("import no_such_dependency\n")

    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        load_callable(f"{tmp_path}/loading_broken.py:handler")

    assert "loading_broken" not in sys.modules
