"""FAMILIES.md says what is found: each family is tried again."""

import pytest

from support.families import FAMILIES, TABLE, lines_of, quiet, tried

WRITTEN = TABLE.read_text(encoding="utf-8").splitlines()


def test_at_least_twenty_families_are_in_the_table():
    listed = [line.split(" | ")[0].removeprefix("| ") for line in WRITTEN if line.endswith(" |")]
    assert listed[2:] == list(FAMILIES) and len(FAMILIES) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_says_what_is_found(family, tmp_path):
    quiet()
    row, sentences = lines_of(family, tried(family, tmp_path))
    assert row in WRITTEN, "Run `make families`."
    assert [line for line in WRITTEN if line.startswith(f"- {family}, ")] == sentences, "Run `make families`."
