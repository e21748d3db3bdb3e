"""What importing one part of the package brings along."""

import subprocess
import sys
from types import ModuleType

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


def test_evaluation_brings_along_what_is_used_of_it() -> None:
    assert not {"torch", "lookalike.commands", "lookalike.runs"} & imported("import lookalike.evaluation")
    found = imported("from lookalike.evaluation import knn")
    assert not {"lookalike.commands", "lookalike.encoders", "lookalike.methods", "lightning"} & found


def test_commands_of_evaluation_bring_along_no_lightning() -> None:
    """Half a second and more, which only the protocols that train need."""
    found = imported(
        "from lookalike.commands import evaluate_features, evaluate_pairs, pictures, predict\n"
        "from lookalike import classifiers\nfrom lookalike.evaluation import extractor, feature_files, label_free"
    )
    assert "lookalike.evaluation.extractor" in found
    assert not {"lightning", "lookalike.training"} & found


PLAIN = ("demo", "predict", "evaluate", "compare", "embed", "show", "report", "plot", "thin", "check", "list", "views",
         "doctor")  # fmt: skip


def test_functions_of_commands_bring_along_nothing_heavy() -> None:
    found = imported("from lookalike import embed, evaluate, plot, predict, report, show")
    assert "lookalike.commands.evaluate" in found
    assert not {"torch", "numpy", "PIL", "timm", "tyro"} & found


def test_help_of_all_plain_commands_brings_along_nothing_heavy() -> None:
    found = imported(
        "import contextlib, io\nfrom lookalike import cli\nwith contextlib.redirect_stdout(io.StringIO()):\n"
        f"    for name in {PLAIN}: assert cli.main([name, '--help']) == 0"
    )
    assert not {"torch", "numpy", "PIL", "timm", "lightning"} & found


def test_names_of_evaluation_are_functions_whatever_modules_are_imported() -> None:
    from lookalike import evaluation

    assert evaluation.knn is sys.modules["lookalike.evaluation.knn"].knn
    assert evaluation.few_labels is sys.modules["lookalike.evaluation.few_labels"].few_labels
    for name in evaluation.__all__:
        assert not isinstance(getattr(evaluation, name), ModuleType)
    with pytest.raises(AttributeError, match="has no attribute 'knns'"):
        evaluation.knns  # noqa: B018


def test_what_0_1_had_in_evaluation_is_found_there() -> None:
    from lookalike import evaluation

    assert evaluation.judge is evaluation.run_protocol
    assert evaluation.measures is evaluation.classification_metrics
    assert evaluation.Measures is evaluation.Metrics
