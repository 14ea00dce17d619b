"""Computations beside their caller, and what is kept of them."""

from threading import Event, get_ident

import pytest

from analysis.jobs import Cancelled, Job
from analysis.recent import Recent


def test_a_job_answers_from_a_thread_of_its_own_and_tells_every_step():
    steps, ends = [], []

    def work(progress):
        for k in range(3):
            progress(k, 3)
        return get_ident()

    job = Job(work, told=lambda done, total: steps.append((done, total)), ended=ends.append)
    job.wait()
    assert job.result() != get_ident()
    assert steps == [(0, 3), (1, 3), (2, 3)]
    assert ends == [job]
    assert job.done


def test_a_cancelled_job_stops_at_its_next_step():
    begun, go_on, reached = Event(), Event(), []

    def work(progress):
        progress(0, 2)
        begun.set()
        go_on.wait()
        progress(1, 2)
        reached.append("the end")

    job = Job(work)
    begun.wait()
    job.cancel()
    assert not job.done
    go_on.set()
    with pytest.raises(Cancelled, match="1 of 2"):
        job.result()
    assert reached == []


def test_what_a_job_raises_is_raised_where_its_result_is_asked_for_and_its_end_is_told():
    ends = []

    def work(_progress):
        raise LookupError("nothing there")

    job = Job(work, ended=ends.append)
    job.wait()
    with pytest.raises(LookupError, match="nothing there"):
        job.result()
    assert ends == [job]


def test_what_nobody_asked_for_lately_goes_first():
    kept = Recent(limit=10)
    for name in "abc":
        kept.put(name, name.upper(), 3)
    assert kept.get("a") == "A"
    kept.put("d", "D", 3)
    assert [name for name in "abcd" if name in kept] == ["a", "c", "d"]
    assert kept.get("b") is None
    assert kept.bytes == 9


def test_the_newest_is_kept_even_where_it_is_too_large_and_a_key_is_counted_once():
    kept = Recent(limit=10)
    kept.put("a", 1, 4)
    kept.put("a", 2, 5)
    assert (kept.get("a"), kept.bytes, len(kept)) == (2, 5, 1)
    kept.put("b", 3, 50)
    assert ("a" in kept, kept.get("b")) == (False, 3)
    kept.put("c", 4, 1)
    assert ("b" in kept, kept.bytes) == (False, 1)
