"""Words of errors and lists of names, made short for one line."""

from m2f_ros.errors import some, words_of


def test_words_of_an_error_are_one_line_of_limited_length():
    assert words_of(ValueError("two\n  lines\t here\0")) == "two lines here\\x00"
    assert words_of(KeyError()) == "KeyError"
    assert words_of(OSError(" \n")) == "OSError"
    assert words_of(ValueError("x" * 80), 80) == "x" * 80
    assert words_of(ValueError("x" * 81), 80) == "x" * 79 + "…"
    assert words_of(ValueError("\n" * 10**6 + "x"), 80) == "ValueError"


def test_of_many_names_the_first_are_given():
    names = ["a", "b", "c"]
    assert some([]) == ""
    assert some(names) == "a, b, c"
    assert some(names, "; ", most=3) == "a; b; c"
    assert some(names, most=2) == "a, b and 1 more"
