"""docs/reliability.md: every fault has a test, and the page is that of the tests that there are."""

from __future__ import annotations

from tests.reliability import FAULTS, PAGE, marked_tests, page, stored

REFRESH = "run: make reliability (and PYTHON -m tests.mock_cuda -m tests.reliability for those of the mock)"


def test_every_fault_has_a_test_or_says_that_it_is_not_there_yet() -> None:
    assert list(FAULTS) == list(range(1, 28))
    tested = {number for numbers in marked_tests().values() for number in numbers}
    assert tested <= set(FAULTS)
    for number, fault in FAULTS.items():
        assert (number in tested) != bool(fault.not_yet), f"fault {number}: a test, or a reason why not; never both"


def test_the_page_is_that_of_the_tests() -> None:
    seen = stored()
    assert set(seen) == set(marked_tests()), REFRESH
    assert all(one.cases for one in seen.values())
    assert PAGE.read_text("utf-8") == page(seen), REFRESH


def test_every_message_is_of_a_fault_that_its_test_provokes() -> None:
    marked = marked_tests()
    for name, one in stored().items():
        assert set(map(int, one.messages)) <= set(marked[name]), REFRESH
