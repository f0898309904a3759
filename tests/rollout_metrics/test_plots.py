import random
from xml.etree import ElementTree

import pytest
from extras import needs

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runs.metrics import draw, measure

from .support import table

RNG = random.Random(1)
RUNS = [
    pytest.param([], id="nothing"),
    pytest.param(table([None, None]), id="no-rewards"),
    pytest.param(table([1.0]), id="one"),
    pytest.param(table(*[[1, 0], [0, 0.5, 1], [1]] * 5), id="few-values"),
    pytest.param(table(*[[RNG.random() * 2 for _ in range(6)] for _ in range(20)]), id="many-values"),
    pytest.param(table([-1e9, 0], [0, 1e-9]), id="extremes"),
]


@needs("report")
@pytest.mark.parametrize("records", RUNS)
@pytest.mark.parametrize("suffix", [".png", ".svg", ".PNG"])
def test_plot_is_a_picture(tmp_path, records, suffix):
    path = tmp_path / f"figure{suffix}"

    draw(records, measure(records, resamples=50), path, title="a $run$ <with> _signs_")

    if suffix == ".svg":
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    else:
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        assert len(path.read_bytes()) > 5_000


@pytest.mark.parametrize("name", ["figure.pdf", "figure"])
def test_other_kinds_of_files_are_refused(tmp_path, name):
    with pytest.raises(ConfigurationError, match=r"\.png, \.svg"):
        draw([], measure([]), tmp_path / name)

    assert not list(tmp_path.iterdir())


@needs("report")
def test_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be written"):
        draw([], measure([]), tmp_path / "nowhere" / "figure.png")
