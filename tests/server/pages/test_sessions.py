"""Sessions of a page: begun, ended, and never too many."""

from clock import Clock

from hallmark.server.pages.sessions import SESSION_SECONDS, PageSessions


def test_a_session_is_open_from_its_beginning_to_its_end() -> None:
    sessions = PageSessions()
    first, second = sessions.begin(), sessions.begin()
    assert first != second
    assert sessions.is_open(first)
    sessions.end(first)
    assert not sessions.is_open(first)
    assert sessions.is_open(second)


def test_what_was_never_begun_is_not_open() -> None:
    sessions = PageSessions()
    sessions.begin()
    for secret in (None, "", "made up", "caf\xe9", "\udcff"):
        assert not sessions.is_open(secret)
        sessions.end(secret)


def test_a_session_ends_after_its_time() -> None:
    clock = Clock()
    sessions = PageSessions(clock)
    secret = sessions.begin()
    clock.advance(SESSION_SECONDS - 1)
    assert sessions.is_open(secret)
    clock.advance(1)
    assert not sessions.is_open(secret)


def test_beyond_a_thousand_the_oldest_ends() -> None:
    sessions = PageSessions()
    first, second, *_, last = [sessions.begin() for _ in range(1_001)]
    assert not sessions.is_open(first)
    assert sessions.is_open(second)
    assert sessions.is_open(last)
