"""The contrastive domain discrepancy against nested loops over classes, layers, kernels and pairs, in float64."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from uda.cdd import cdd

DATASET_CLASSES = 31


def rows_of(labels, label):
    return [row for row, of_row in enumerate(labels.tolist()) if of_row == label]


def square(first, second):
    return sum((x - y) ** 2 for x, y in zip(first, second))


def loop_gammas(source, target, source_labels, target_labels):
    """Bandwidth for each (layer, a, b), as plain floats."""
    gammas = {}
    for layer, (s, t) in enumerate(zip(source, target)):
        s, t = s.tolist(), t.tolist()
        for a, b in itertools.product(sorted(set(source_labels.tolist())), repeat=2):
            of_a, of_b = rows_of(source_labels, a), rows_of(target_labels, b)
            total = sum(square(s[i], s[j]) for i in of_a for j in of_a)
            total += sum(square(t[i], t[j]) for i in of_b for j in of_b)
            total += 2 * sum(square(s[i], t[j]) for i in of_a for j in of_b)
            n, m = len(of_a), len(of_b)
            gammas[layer, a, b] = total / (n * n + m * m + 2 * n * m - n - m)
    return gammas


def loop_kernel(distance, gamma, num_kernels, multiplier):
    total = 0
    for i in range(num_kernels):
        exponent = distance / max(gamma * multiplier ** (i - num_kernels // 2), 1e-5)
        if exponent < 1e-5:
            exponent = torch.tensor(1e-5, dtype=torch.float64)
        elif exponent > 1e5:
            exponent = torch.tensor(1e5, dtype=torch.float64)
        total = total + torch.exp(-exponent)
    return total


def loop_cdd(source, target, source_labels, target_labels, *, m, gammas=None, num_kernels=5, multiplier=2.0):
    """Intra and inter, with gradients through all but the bandwidths."""
    gammas = gammas or loop_gammas(source, target, source_labels, target_labels)
    classes = sorted(set(source_labels.tolist()))
    intra = inter = torch.zeros((), dtype=torch.float64)
    for a, b in itertools.product(classes, repeat=2):
        of_a, of_b = rows_of(source_labels, a), rows_of(target_labels, b)
        for layer, (s, t) in enumerate(zip(source, target)):

            def mean(first, second, pairs, gamma=gammas[layer, a, b]):
                kernels = [
                    loop_kernel((first[i] - second[j]).pow(2).sum(), gamma, num_kernels, multiplier) for i, j in pairs
                ]
                return sum(kernels) / len(kernels)

            discrepancy = (
                mean(s, s, list(itertools.product(of_a, of_a)))
                + mean(t, t, list(itertools.product(of_b, of_b)))
                - 2 * mean(s, t, list(itertools.product(of_a, of_b)))
            )
            if a == b:
                intra = intra + discrepancy / m
            else:
                inter = inter + discrepancy / (m * (m - 1))
    return intra, inter


def draw(seed, *, classes, largest=4, widths=(5, 3), scale=1.0):
    """Features of unequal classes, in mixed order, under class numbers with gaps."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randperm(DATASET_CLASSES, generator=generator)[:classes]
    domains = []
    for shift in (0.0, 0.5):
        sizes = torch.randint(1, largest + 1, (classes,), generator=generator)
        labels = numbers.repeat_interleave(sizes)
        labels = labels[torch.randperm(len(labels), generator=generator)]
        layers = []
        for width in widths:
            centres = torch.randn(
                DATASET_CLASSES, width, dtype=torch.float64, generator=torch.Generator().manual_seed(7)
            )
            noise = torch.randn(len(labels), width, dtype=torch.float64, generator=generator)
            layers.append((scale * (centres[labels] + noise + shift)).requires_grad_())
        domains.append((layers, labels))
    (source, source_labels), (target, target_labels) = domains
    return source, target, {"source_labels": source_labels, "target_labels": target_labels}


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(1, 4),
    layers=st.integers(1, 2),
    normaliser=st.sampled_from(["dataset", "selected"]),
    intra_only=st.booleans(),
    num_kernels=st.integers(1, 6),
    multiplier=st.sampled_from([2.0, 1.5]),
    scale=st.sampled_from([1.0, 1e-3, 1e3]),
)
def test_value_and_gradient_are_those_of_loops(
    seed, classes, layers, normaliser, intra_only, num_kernels, multiplier, scale
):
    source, target, labels = draw(seed, classes=classes, widths=(5, 3)[:layers], scale=scale)
    m = DATASET_CLASSES if normaliser == "dataset" else max(classes, 2)  # 1 class: there is no pair to divide
    kernels = {"num_kernels": num_kernels, "multiplier": multiplier}
    intra, inter = loop_cdd(source, target, *labels.values(), m=m, **kernels)
    if normaliser == "selected" and classes == 1:
        intra = 2 * intra
    value = intra if intra_only else intra - inter
    terms = cdd(
        source, target, **labels, num_classes=DATASET_CLASSES, normaliser=normaliser, intra_only=intra_only, **kernels
    )
    for ours, expected in zip(terms, (value, intra, inter)):
        assert ours.shape == ()
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
    ours = torch.autograd.grad(terms.value, source + target)
    for gradient, expected in zip(ours, torch.autograd.grad(value, source + target)):
        torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-10 / scale)


def test_gradient_is_that_of_differences_at_constant_bandwidths():
    source, target, labels = draw(3, classes=3, largest=3, widths=(2, 3))
    features = source + target
    gammas = loop_gammas(source, target, *labels.values())
    terms = cdd(source, target, **labels, num_classes=3)
    gradients = torch.autograd.grad(terms.value, features)

    def value():
        with torch.no_grad():
            intra, inter = loop_cdd(source, target, *labels.values(), m=3, gammas=gammas)
            return (intra - inter).item()

    step = 1e-5
    for layer, gradient in zip(features, gradients):
        for row, column in itertools.product(range(len(layer)), range(layer.shape[1])):
            before = layer.data[row, column].item()
            layer.data[row, column] = before + step
            above = value()
            layer.data[row, column] = before - step
            below = value()
            layer.data[row, column] = before
            assert gradient[row, column].item() == pytest.approx((above - below) / (2 * step), rel=1e-6, abs=1e-8)


def test_gradcheck_where_every_bandwidth_is_at_its_least():
    source, target, labels = draw(5, classes=2, largest=3, widths=(4,), scale=1e-4)
    assert 4 * max(loop_gammas(source, target, *labels.values()).values()) < 1e-5

    def value(of_source, of_target):
        return cdd([of_source], [of_target], **labels, num_classes=2).value

    assert torch.autograd.gradcheck(value, (source[0], target[0]), eps=1e-9, atol=1e-5, rtol=1e-6)


def test_a_clipped_exponent_passes_no_gradient():
    """Two source rows so near that their exponents are below 1e-5: only the pairs with the target pull."""
    labels = {"source_labels": torch.tensor([4, 4]), "target_labels": torch.tensor([4])}
    source = torch.tensor([[0.0], [1e-3]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[3.0]], dtype=torch.float64, requires_grad=True)
    gamma = loop_gammas([source], [target], *labels.values())[0, 4, 4]
    assert 1e-6 / (gamma / 4) < 1e-5
    value = cdd([source], [target], **labels, num_classes=2).intra
    value.backward()
    for row, expected in enumerate(source.grad[:, 0].tolist()):
        gap = source[row, 0].item() - 3
        slope = sum(
            -2 * gap / (gamma * 2**i) * torch.exp(torch.tensor(-(gap**2) / (gamma * 2**i), dtype=torch.float64)).item()
            for i in range(-2, 3)
        )
        assert expected == pytest.approx(-2 * slope / 2 / 2, rel=1e-12)  # −2 k, mean of two pairs, M = 2


def test_equal_domains_have_no_discrepancy_within_classes():
    source, _, labels = draw(1, classes=3)
    labels["target_labels"] = labels["source_labels"]
    terms = cdd(source, source, **labels, num_classes=31)
    assert abs(terms.intra.item()) < 1e-15
    assert terms.inter.item() > 0
    assert terms.value.item() == -terms.inter.item()


def test_all_rows_equal():
    ones = torch.ones(4, 3, requires_grad=True)
    labels = {"source_labels": torch.tensor([0, 0, 1, 1]), "target_labels": torch.tensor([0, 1, 1, 0])}
    terms = cdd([ones], [ones], **labels, num_classes=2)
    assert [term.item() for term in terms] == [0, 0, 0]
    (gradient,) = torch.autograd.grad(terms.value, ones)
    assert torch.equal(gradient, torch.zeros(4, 3))


def test_order_and_numbers_of_classes_do_not_matter():
    source, target, labels = draw(2, classes=4)
    expected = cdd(source, target, **labels, num_classes=31)
    order = torch.randperm(len(labels["source_labels"]), generator=torch.Generator().manual_seed(0))
    renamed = torch.randperm(31, generator=torch.Generator().manual_seed(1))
    terms = cdd(
        [layer[order] for layer in source],
        target,
        source_labels=renamed[labels["source_labels"][order]],
        target_labels=renamed[labels["target_labels"]],
        num_classes=31,
    )
    for ours, other in zip(terms, expected):
        torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-14)


def test_ten_of_31_classes_weigh_as_in_the_official_code():
    """10/31 = 0.32 of the mean within classes, 90/930 = 0.097 of the mean between them."""
    source, target, labels = draw(4, classes=10)
    of_dataset = cdd(source, target, **labels, num_classes=31, normaliser="dataset")
    of_selected = cdd(source, target, **labels, num_classes=31, normaliser="selected")
    assert (of_dataset.intra / of_selected.intra).item() == pytest.approx(10 / 31, rel=1e-12)
    assert (of_dataset.inter / of_selected.inter).item() == pytest.approx(90 / 930, rel=1e-12)


@pytest.mark.parametrize(("num_classes", "normaliser"), [(1, "dataset"), (31, "dataset"), (31, "selected")])
def test_one_class_has_no_inter(num_classes, normaliser):
    source, target, labels = draw(6, classes=1)
    terms = cdd(source, target, **labels, num_classes=num_classes, normaliser=normaliser)
    assert terms.inter.item() == 0
    assert terms.value.item() == terms.intra.item() > 0
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(terms.value, source + target))


def test_half_precision_features_are_compared_in_float32():
    source, target, labels = draw(8, classes=3)
    halves = [[layer.detach().bfloat16() for layer in layers] for layers in (source, target)]
    singles = [[layer.float() for layer in layers] for layers in halves]
    expected = cdd(*singles, **labels, num_classes=31)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = cdd(*halves, **labels, num_classes=31)
    for ours, other in zip(terms, expected):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, other)


def test_float32_is_near_float64_far_from_the_origin():
    """Features of length 1000 that differ by 1: a product of matrices would lose the difference."""
    source, target, labels = draw(9, classes=3, widths=(16,))
    moved = [[layer.detach() + 250 for layer in layers] for layers in (source, target)]
    exact = cdd(*moved, **labels, num_classes=31)
    terms = cdd(*[[layer.float() for layer in layers] for layers in moved], **labels, num_classes=31)
    for ours, other in zip(terms, exact):
        assert ours.item() == pytest.approx(other.item(), rel=1e-3)


FEATURES = torch.zeros(2, 3)
LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_labels": torch.tensor([0, 2])}, r"\[1\] in the source only and \[2\] in the target only"),
        ({"normaliser": "batch"}, "normaliser must be one of dataset, selected; got 'batch'"),
        ({"num_kernels": 0}, "num_kernels must be at least 1; got 0"),
        ({"multiplier": 0.0}, r"multiplier must be above 0; got 0\.0"),
        ({"num_classes": 1}, "num_classes must be at least the 2 classes selected; got 1"),
        ({"source": []}, "the same layers, at least one; got 0 and 1"),
        ({"target": [FEATURES, FEATURES]}, "the same layers, at least one; got 1 and 2"),
        ({"target": [torch.zeros(2, 4)]}, r"layer 0 must be \(2, d\).*got \(2, 3\) and \(2, 4\)"),
        ({"source": [torch.zeros(3, 3)]}, r"layer 0 must be \(2, d\).*got \(3, 3\) and \(2, 3\)"),
        (
            {"source": [torch.zeros(0, 3)], "source_labels": LABELS[:0]},
            "source_labels must hold at least one label; got none",
        ),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = {
        "source": [FEATURES], "target": [FEATURES], "source_labels": LABELS, "target_labels": LABELS, "num_classes": 9,
    } | changes  # fmt: skip
    with pytest.raises(ValueError, match=message) as caught:
        cdd(arguments.pop("source"), arguments.pop("target"), **arguments)
    assert "\n" not in str(caught.value)


def test_labels_must_be_numbers_of_classes():
    with pytest.raises(TypeError, match=r"target_labels must be int64; got torch\.float32"):
        cdd([FEATURES], [FEATURES], source_labels=LABELS, target_labels=LABELS.float(), num_classes=31)
