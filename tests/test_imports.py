"""What importing one part of the package brings along."""

import subprocess
import sys

import pytest


def imported(code: str) -> set[str]:
    """The modules that a new process has after `code`."""
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {*done.stdout.split()}


@pytest.mark.parametrize("code", ["import lookalike.views", "from lookalike.views import make_views, sheet"])
def test_views_bring_along_no_engine_and_no_reader_of_data(code: str) -> None:
    assert not {"numba", "triton", "timm", "PIL", "lookalike.data"} & imported(code)


def test_the_contract_knows_recipes_and_not_what_makes_views() -> None:
    found = imported("import lookalike.core")
    assert "lookalike.views.recipes" in found
    assert not {"numba", "lookalike.views.make", "lookalike.views.ops", "lookalike.optimizers"} & found
