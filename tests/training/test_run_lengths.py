"""Run lengths to masks and back, in both conventions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from training.readers.records import RunLengths
from training.readers.run_lengths import CONVENTIONS, RunLengthsInvalid, decode, encode, spans

Mask = npt.NDArray[np.bool_]
# 4 rows, 3 columns: the second and third pixel of the first column, the last of the second, the first of the third.
EXAMPLE = np.array([[0, 0, 1], [1, 0, 0], [1, 0, 0], [0, 1, 0]], np.bool_)


def pixel_by_pixel(text: str, rows: int, columns: int) -> Mask:
    """The published rule of SIIM-ACR 2019, walked: skip as many pixels, then mark as many, down the columns."""
    mask = np.zeros((rows, columns), np.bool_)
    position = 0
    words = [int(word) for word in text.split()]
    for skipped, marked in zip(words[0::2], words[1::2], strict=True):
        position += skipped
        for _ in range(marked):
            mask[position % rows, position // rows] = True
            position += 1
    return mask


def test_a_mask_of_siim_is_read_by_hand() -> None:
    assert np.array_equal(decode(RunLengths("1 2 4 2", 4, 3, "siim")), EXAMPLE)


def test_the_same_mask_is_read_in_the_absolute_convention() -> None:
    assert np.array_equal(decode(RunLengths("2 2 8 2", 4, 3, "kaggle")), EXAMPLE)


def test_masks_are_written_by_hand() -> None:
    assert encode(EXAMPLE, "siim").text == "1 2 4 2"
    assert encode(EXAMPLE, "kaggle").text == "2 2 8 2"


def test_the_example_of_the_data_page_marks_what_it_says_it_marks() -> None:
    # Kaggle's pages: '1 3 10 5' marks the pixels 1, 2, 3 and 10 to 14, counted from 1
    marked = np.flatnonzero(decode(RunLengths("1 3 10 5", 5, 4, "kaggle")).T.ravel()) + 1
    assert marked.tolist() == [1, 2, 3, 10, 11, 12, 13, 14]
    # relative: one pixel is skipped, three marked, ten skipped, five marked
    marked = np.flatnonzero(decode(RunLengths("1 3 10 5", 5, 4, "siim")).T.ravel())
    assert marked.tolist() == [1, 2, 3, 14, 15, 16, 17, 18]


def test_pixels_count_down_the_columns() -> None:
    assert np.argwhere(decode(RunLengths("5 1", 4, 3, "siim"))).tolist() == [[1, 1]]


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_an_empty_text_is_an_empty_mask_and_back(convention: str) -> None:
    empty = decode(RunLengths("", 3, 5, convention))
    assert empty.shape == (3, 5)
    assert not empty.any()
    assert encode(empty, convention).text == ""


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_full_mask_is_one_run(convention: str) -> None:
    full = np.ones((3, 5), np.bool_)
    assert encode(full, convention).text == ("0 15" if convention == "siim" else "1 15")
    assert decode(encode(full, convention)).all()


def test_touching_runs_are_one() -> None:
    assert np.flatnonzero(decode(RunLengths("1 2 0 3", 8, 1, "siim"))).tolist() == [1, 2, 3, 4, 5]


def test_the_last_pixel_is_not_lost() -> None:
    last = np.zeros((3, 2), np.bool_)
    last[2, 1] = True
    assert encode(last, "siim").text == "5 1"  # the encoder published with the data drops a run at the very end
    assert np.array_equal(decode(encode(last, "siim")), last)


@settings(max_examples=150, deadline=None)
@given(
    arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))),
    st.sampled_from(CONVENTIONS),
)
def test_what_is_written_is_read_again(mask: Mask, convention: str) -> None:
    assert np.array_equal(decode(encode(mask, convention)), mask)


@settings(max_examples=100, deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_siim_run_lengths_are_what_the_published_rule_walks(mask: Mask) -> None:
    text = encode(mask, "siim").text
    assert np.array_equal(pixel_by_pixel(text, *mask.shape), mask)
    assert np.array_equal(decode(RunLengths(text, *mask.shape, "siim")), mask)


def test_runs_are_told_as_half_open_spans() -> None:
    starts, ends = spans(RunLengths("1 2 4 2", 4, 3, "siim"))
    assert (starts.tolist(), ends.tolist()) == ([1, 7], [3, 9])


@pytest.mark.parametrize(
    ("text", "convention", "why"),
    [
        ("1 2 3", "siim", "its length is missing"),
        ("1 two", "siim", "no number"),
        ("1.5 2", "siim", "no number"),
        ("3 0", "siim", "no pixels"),
        ("3 -2", "kaggle", "no pixels"),
        ("-1 2", "siim", "before the image"),
        ("0 2", "kaggle", "before the image"),
        ("5 2 -1 2", "siim", "before the one before it has ended"),
        ("5 3 7 1", "kaggle", "before the one before it has ended"),
        ("0 13", "siim", "reach pixel 13 of an image of 3 x 4 = 12 pixels"),
        ("8 2 2 1", "siim", "reach pixel 13"),
        ("12 2", "kaggle", "reach pixel 13"),
        ("99999999999999999999 1", "kaggle", "no number"),
        ("1 1", "coco", "no convention"),
    ],
)
def test_what_is_no_mask_of_the_image_is_refused(text: str, convention: str, why: str) -> None:
    with pytest.raises(RunLengthsInvalid, match=why):
        decode(RunLengths(text, 4, 3, convention))


def test_the_very_last_pixel_may_be_marked() -> None:
    assert decode(RunLengths("11 1", 4, 3, "siim"))[3, 2]
    assert decode(RunLengths("12 1", 4, 3, "kaggle"))[3, 2]


def test_an_unknown_convention_is_not_written() -> None:
    with pytest.raises(RunLengthsInvalid, match="no convention"):
        encode(EXAMPLE, "coco")
