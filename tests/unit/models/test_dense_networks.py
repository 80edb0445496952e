"""The plain networks that benchmarks hand to peers."""

import numpy as np
import pytest
import torch

from models.data.fashion import test_images as shipped_images
from models.errors import PackageError
from models.images import load_dense
from models.package import read_package
from models.registry import find_package, load_package, shipped_repository


@pytest.mark.parametrize("name", ["fashion-mlp", "fashion-resnet"])
def test_the_dense_network_answers_like_the_gated_one_at_full_budget(name: str) -> None:
    path = find_package(shipped_repository(), name)
    pixels = shipped_images().scaled()[:8]
    gated = load_package(path).infer({"INPUT": pixels}, np.ones(8)).outputs["PROBABILITIES"]
    assert load_dense(read_package(path))(torch.from_numpy(pixels)).numpy() == pytest.approx(gated, abs=1e-4)


def test_a_family_without_a_dense_form_is_refused_by_name() -> None:
    path = find_package(shipped_repository(), "minilm-embedder")
    with pytest.raises(PackageError, match="family"):
        load_dense(read_package(path))
