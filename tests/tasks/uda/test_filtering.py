"""The filter against a loop."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from uda.filtering import keep


@settings(max_examples=50, deadline=None)
@given(
    images=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20)), max_size=40),
    steps=st.integers(1, 20),
    minimum=st.integers(1, 4),
)
def test_kept_is_that_of_a_loop(images, steps, minimum):
    labels = torch.tensor([label for label, _ in images], dtype=torch.int64)
    distances = torch.tensor([step / 20 for _, step in images], dtype=torch.float64)
    near = [step / 20 < steps / 20 for _, step in images]
    counts = [sum(is_near and label == c for is_near, (label, _) in zip(near, images)) for c in range(6)]
    kept = keep(labels, distances, threshold=steps / 20, minimum=minimum, num_classes=6)
    assert kept.classes == [c for c in range(6) if counts[c] >= minimum]
    assert kept.images.tolist() == [is_near and counts[label] >= minimum for is_near, (label, _) in zip(near, images)]


def test_the_threshold_itself_is_not_near():
    kept = keep(
        torch.zeros(3, dtype=torch.int64), torch.tensor([0.0, 0.5, 1.0]), threshold=0.5, minimum=1, num_classes=1
    )
    assert kept.images.tolist() == [True, False, False]


def test_no_class_may_be_left():
    kept = keep(torch.tensor([0, 1]), torch.tensor([0.0, 0.0]), threshold=1.0, minimum=3, num_classes=2)
    assert kept.classes == []
    assert not kept.images.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 0.0}, r"threshold must be above 0, a distance up to 1; got 0\.0"),
        ({"threshold": float("nan")}, "threshold must be above 0, a distance up to 1; got nan"),
        ({"minimum": 0}, "minimum must be at least 1; got 0"),
        ({"labels": torch.tensor([0, 2])}, r"labels must be in \[0, 2\), the classes; got 0 to 2"),
        ({"labels": torch.tensor([-1, 0])}, r"labels must be in \[0, 2\), the classes; got -1 to 0"),
        ({"distances": torch.zeros(3)}, "distances must be one for each of the 2 labels; got 3"),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = {
        "labels": torch.tensor([0, 1]), "distances": torch.zeros(2), "threshold": 1.0, "minimum": 3, "num_classes": 2,
    } | changes  # fmt: skip
    with pytest.raises(ValueError, match=message) as caught:
        keep(arguments.pop("labels"), arguments.pop("distances"), **arguments)
    assert "\n" not in str(caught.value)
