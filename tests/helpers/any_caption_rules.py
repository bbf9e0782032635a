"""Caption rules of every kind, for the tests of the rules and of the row plan."""

from blissaudit.corpora.captions import CaptionRules
from hypothesis import strategies as st

ANY_RULES = st.builds(
    CaptionRules,
    unicode_form=st.sampled_from([None, "NFC", "NFD", "NFKC", "NFKD"]),
    collapse_whitespace=st.booleans(),
    min_characters=st.integers(1, 2),
    max_characters=st.integers(2, 5),
    deduplicate=st.booleans(),
)
