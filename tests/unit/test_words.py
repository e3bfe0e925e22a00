"""Numbers agree with their nouns and verbs."""

import pytest

from pytest_falsify.words import number_are, number_of


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 sites"), (1, "1 site"), (2, "2 sites"), (21, "21 sites")]
)
def test_one_of_a_thing_is_told_in_the_singular(count, words):
    assert words == number_of(count, "site")


def test_a_verb_follows_the_number():
    assert number_of(1, "site differs", "sites differ") == "1 site differs"
    assert number_of(2, "site differs", "sites differ") == "2 sites differ"
    assert number_are(1, "token") == "1 token is"
    assert number_are(0, "token") == "0 tokens are"
