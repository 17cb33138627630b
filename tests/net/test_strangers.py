"""How many connections there may be whose peers have not proven anything, and which has to go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from minidask.net.strangers import MOST, MOST_OF_ONE_HOST, Strangers


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=400))
def test_there_are_never_too_many_and_the_crowd_throws_out_its_own(arrivals: list[tuple[str, bool]]) -> None:
    strangers: Strangers[int] = Strangers()
    here: dict[int, str] = {}
    for number, (host, leaves) in enumerate(arrivals):
        counts = {one: [*here.values()].count(one) for one in {*here.values(), host}}
        gone = strangers.enter(number, host)
        here[number] = host
        if gone is not None:
            its_host = here.pop(gone)
            assert counts[its_host] + (its_host == host) >= max(counts.values())
            assert gone == min([gone, *(other for other, where in here.items() if where == its_host)]), "the oldest"
        assert strangers.all() == [*here]
        assert len(here) <= MOST and max([*here.values()].count(one) for one in here.values()) <= MOST_OF_ONE_HOST
        if leaves:
            strangers.leave(number)
            here.pop(number, None)


def test_who_is_alone_is_not_thrown_out_by_hosts_with_many() -> None:
    strangers: Strangers[str] = Strangers()
    assert strangers.enter("honest", "mine") is None
    gone = [strangers.enter(f"{host} {number}", f"host {host}") for number in range(100) for host in range(50)]
    assert "honest" not in gone and "honest" in strangers.all()
