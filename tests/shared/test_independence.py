"""The refusal of a network whose answer for an image depends on the other images."""

import pytest
import torch

from shared.errors import UserError
from shared.independence import check_independence

IMAGES = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def test_answers_of_each_image_by_itself_pass():
    check_independence(lambda images: images.flatten(1), IMAGES)
    check_independence(lambda images: (images.flatten(1) + 1e-3 * len(images)).bfloat16(), IMAGES)


def test_answers_by_the_batch_are_refused():
    with pytest.raises(UserError, match=r"norm must give an image the same .* a batch of 4\. Use") as caught:
        check_independence(lambda images: (images - images.mean(0)).flatten(1), IMAGES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_embeddings_that_are_no_numbers_are_not_blamed_on_the_norm(value):
    check_independence(lambda images: images.flatten(1) * value, IMAGES)
