"""Seeds derived from keys."""

import numpy
from hypothesis import given
from hypothesis import strategies as st

from zoo_core.randomness import derived_seed


@given(st.lists(st.integers(0, 2**70), min_size=1, max_size=7))
def test_they_are_those_of_numpy(key):
    assert derived_seed(*key) == int(numpy.random.SeedSequence(key).generate_state(1, numpy.uint64)[0])


@given(st.lists(st.integers(0, 100), min_size=1, max_size=4), st.integers(0, 3), st.integers(1, 5))
def test_every_part_of_a_key_counts(key, place, more):
    other = list(key)
    other[place % len(key)] += more
    assert derived_seed(*key) != derived_seed(*other)
