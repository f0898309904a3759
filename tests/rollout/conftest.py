import sys

import pytest
from rollout.ray_cluster import cluster, head, project  # noqa: F401 - fixtures
from rollout.worlds import write_world


@pytest.fixture
def world(tmp_path):
    """A folder with handlers, policy and dataset; what is imported from it is forgotten afterwards."""
    path, modules = list(sys.path), set(sys.modules)
    yield write_world(tmp_path)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("engine_handlers", "policy")):
            del sys.modules[name]
