"""What importing one part of the package brings along."""

import subprocess
import sys

import pytest

from lookalike.methods import SELF_SUPERVISED


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
    assert (
        not {
            "numba",
            "lookalike.views.make",
            "lookalike.views.ops",
            "lookalike.optimizers",
            "lookalike.backbones.factory",
        }
        & found
    )


@pytest.mark.parametrize("methods", [SELF_SUPERVISED, ("finetune",)])
def test_a_method_brings_along_no_data_and_no_protocol(methods: tuple[str, ...]) -> None:
    found = imported(f"from lookalike.methods import get_method\nfor name in {methods}: get_method(name)")
    assert {f"lookalike.methods.{name}" for name in methods} <= found
    assert not {"lookalike.data", "lookalike.encoders", "lookalike.evaluation", "lookalike.training", "numba"} & found


def test_what_0_1_had_in_optim_is_found_there() -> None:
    from lookalike import optim, optimizers

    for name in ("LARS", "Rates", "build", "clip"):
        assert vars(optimizers)[name] is getattr(optim, name)
    with pytest.raises(AttributeError, match="has no attribute 'builds'"):
        optim.builds  # noqa: B018
