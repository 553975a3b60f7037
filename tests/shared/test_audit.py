"""The norm audit of a run refuses networks that cannot train as asked."""

import pytest
import torch
from torch import nn

from norm_layers import make_norm
from shared.audit import audit_network, check_num_groups
from shared.errors import UserError


def test_a_network_without_the_norm_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), make_norm("gn", 8, num_groups=2))
    images = torch.zeros(1, 3, 8, 8)
    assert audit_network(network, images, batch_size=4, norm="gn")["num_layers"] == 1
    with pytest.raises(UserError, match="norm must be in the network that trains; got bgn, of which it has no layer"):
        audit_network(network, images, batch_size=4, norm="bgn")
    of_a_user = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))  # or of a class that is made from it
    assert audit_network(of_a_user, images, batch_size=4, norm="mynorms:MyBatchNorm")["num_layers"] == 1
    bare = nn.Sequential(nn.Conv2d(3, 8, 3))
    with pytest.raises(UserError, match="norm must be in the network"):
        audit_network(bare, images, batch_size=4, norm="mynorms:MyNorm")
    assert audit_network(bare, images, batch_size=4, norm="none")["num_layers"] == 0


class Raising(nn.Module):
    """A norm from outside that raises in its first pass."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, _):
        raise self.error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError("scale"), "KeyError: 'scale'"),
        (AssertionError(), "AssertionError"),
        (ValueError("two\nlines"), "ValueError: two lines"),
        (IndexError("7"), "IndexError: 7"),
    ],
)
def test_whatever_a_norm_from_outside_raises_is_told_in_one_line_with_its_name(error, told):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), Raising(error))
    with pytest.raises(UserError) as caught:
        audit_network(network, torch.zeros(1, 3, 8, 8), batch_size=4, norm="mynorms:Raising")
    assert str(caught.value) == (
        f"norm must work in the network on images of the shape (1, 3, 8, 8); got: {told} from mynorms:Raising. "
        "NORM_SUITE_TRACEBACK=1 shows where."
    )


def test_an_error_of_a_norm_of_the_suite_keeps_its_traceback():
    with pytest.raises(KeyError):
        audit_network(Raising(KeyError("scale")), torch.zeros(1, 3, 8, 8), batch_size=4, norm="bn")


def test_a_statistic_of_one_value_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 8, 8), make_norm("bn", 8))
    with pytest.raises(UserError, match="must average at least 2 values; got 1"):
        audit_network(network, torch.zeros(1, 3, 8, 8), batch_size=1, norm="bn")


def test_more_groups_than_any_layer_has_values_are_refused_before_they_are_made():
    check_num_groups(None, torch.zeros(1, 3, 32, 32))
    check_num_groups(512, torch.zeros(1, 3, 32, 32))
    with pytest.raises(UserError, match="num_groups must be at most C·H·W of each norm's input; got 99999999"):
        check_num_groups(99_999_999, torch.zeros(1, 3, 32, 32))
