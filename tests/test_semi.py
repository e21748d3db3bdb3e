"""Few labels: balanced draws of the labelled images, and a logistic regression on frozen features."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from lookalike.evaluation import FewLabels, few_labels


def clusters(per_class: tuple[int, ...], noise: float, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(per_class)).repeat_interleave(torch.tensor(per_class))
    features = torch.eye(8)[labels] * 3 + noise * torch.randn(len(labels), 8, generator=generator)
    return features, labels


def test_one_label_per_class_is_enough_for_clusters() -> None:
    found = few_labels(*clusters((100, 150, 120), 0.1, 0), *clusters((40, 40, 40), 0.1, 1), share=0.01, draws=4)
    assert found == FewLabels(images=4, accuracies=(1.0,) * 4)  # 1.5 rounds to 2, 1.2 to 1
    assert (found.mean, found.deviation) == (1.0, 0.0)


def test_draws_are_balanced_seeded_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    fit = LogisticRegression.fit

    def noted(self: LogisticRegression, x: np.ndarray, y: np.ndarray) -> LogisticRegression:
        seen.append(y)
        assert np.allclose(np.linalg.norm(x, axis=1), 1)
        return fit(self, x, y)

    monkeypatch.setattr(LogisticRegression, "fit", noted)
    train, test = clusters((50, 100, 30), 3.0, 0), clusters((60, 60, 60), 3.0, 1)
    found = few_labels(*train, *test, share=0.1, draws=5, seed=3)
    assert [np.bincount(y).tolist() for y in seen] == [[5, 10, 3]] * 5
    assert found.images == 18
    assert len(set(found.accuracies)) > 1
    assert 0 < found.deviation < 0.2
    assert found == few_labels(*train, *test, share=0.1, draws=5, seed=3)
    assert found != few_labels(*train, *test, share=0.1, draws=5, seed=4)


def test_more_labels_do_better() -> None:
    train, test = clusters((300,) * 5, 2.0, 0), clusters((100,) * 5, 2.0, 1)
    means = [few_labels(*train, *test, share=share, draws=5).mean for share in (0.005, 0.05, 1.0)]
    assert means[0] < means[1] < means[2]


@pytest.mark.parametrize(("share", "draws"), [(0.0, 1), (1.1, 1), (0.1, 0)])
def test_what_cannot_be(share: float, draws: int) -> None:
    with pytest.raises(ValueError, match="give a share"):
        few_labels(*clusters((5, 5), 0.1, 0), *clusters((5, 5), 0.1, 1), share=share, draws=draws)
