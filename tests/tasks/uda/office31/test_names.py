"""Spellings of classes and the words for a difference between two sets of names."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st


def test_the_classes_are_the_official_ones_in_alphabetical_order(official_classes):
    from uda.office31.names import CLASSES, DOMAINS, NUM_IMAGES

    assert CLASSES == official_classes == tuple(sorted(official_classes))
    assert DOMAINS == ("amazon", "dslr", "webcam")
    assert sum(NUM_IMAGES.values()) == 4110


@settings(max_examples=100, deadline=None)
@given(number=st.integers(0, 30), separator=st.sampled_from(["_", "-", " ", ""]), data=st.data())
def test_case_and_separators_do_not_count(number, separator, data, official_classes):
    from uda.office31.names import official_class

    name = official_classes[number]
    letters = [data.draw(st.sampled_from([letter.lower(), letter.upper()])) for letter in name]
    assert official_class("".join(letters).replace("_", separator)) == name


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ("backpack", "back_pack"),
        ("laptop", "laptop_computer"),
        ("Laptop", "laptop_computer"),
        ("Back-Pack", "back_pack"),
        ("mugs", "mugs"),
        ("Ruck Sack", "Ruck Sack"),
        ("computer", "computer"),
    ],
)
def test_spellings_in_the_wild_and_other_names(found, wanted):
    from uda.office31.names import official_class

    assert official_class(found) == wanted


@settings(max_examples=60, deadline=None)
@given(left=st.sets(st.sampled_from("abcdefgh")), right=st.sets(st.sampled_from("abcdefgh")))
@example(left=set("abcde"), right=set("h"))
def test_differences_name_three_of_each_side(left, right):
    from uda.office31.names import name_differences

    wanted = []
    for ours, theirs, name in ((left, right, "L"), (right, left, "R")):
        only = [letter for letter in "abcdefgh" if letter in ours and letter not in theirs]
        if only:
            rest = f" and {len(only) - 3} more" if only[3:] else ""
            wanted.append(", ".join(only[:3]) + rest + f" only in {name}")
    assert name_differences(left, right, left_name="L", right_name="R") == "; ".join(wanted)
