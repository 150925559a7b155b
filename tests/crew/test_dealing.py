from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.crew.dealing import Dealing
from pipeline.share import Need, Share

RPM = "requests_per_minute"
LIMIT = 1200.0
A_HAIR = 1e-6


class Table:
    """Some processes and what each really keeps to, which changes when its message arrives."""

    def __init__(self) -> None:
        self.dealing = Dealing({RPM: LIMIT})
        self.keeps: dict[int, float] = {}
        self.on_their_way: list[tuple[int, float]] = []

    def sit(self, lane: int) -> None:
        self.keeps[lane] = self.dealing.sit(lane)[RPM].mine

    def deal(self) -> None:
        for lane, shares in self.dealing.deal().items():
            self.on_their_way.append((lane, shares[RPM].mine))

    def arrive(self) -> None:
        """The oldest message; the answer to all but a lane's last one is of no use."""
        if self.on_their_way:
            lane, mine = self.on_their_way.pop(0)
            if lane in self.keeps:
                self.keeps[lane] = mine
                if all(other != lane for other, _ in self.on_their_way):
                    self.dealing.kept(lane)

    def settle(self) -> None:
        for _ in range(20):
            self.deal()
            while self.on_their_way:
                self.arrive()


def test_one_alone_has_all_and_two_have_half_each_once_the_first_has_let_go() -> None:
    table = Table()
    table.sit(0)
    assert table.keeps == {0: LIMIT}
    table.sit(1)
    assert table.keeps[1] == 0.0, "the first still takes all"
    table.deal()
    assert table.on_their_way == [(0, (LIMIT - 1) / 2)]
    table.arrive()
    table.deal()
    table.arrive()
    assert table.keeps == {0: (LIMIT - 1) / 2, 1: (LIMIT - 1) / 2}


def test_who_wants_little_leaves_the_rest() -> None:
    table = Table()
    table.sit(0)
    table.sit(1)
    table.dealing.wants(0, {RPM: Need(LIMIT, 100.0)})
    table.dealing.wants(1, {RPM: Need(LIMIT, None)})
    table.settle()
    assert table.keeps[1] > LIMIT - 150
    assert table.keeps[0] >= 99


def test_the_part_of_a_run_among_other_jobs_is_all_that_is_dealt() -> None:
    table = Table()
    table.sit(0)
    table.sit(1)
    table.dealing.keep_to({RPM: Share(300.0, LIMIT, 4)})
    table.settle()
    assert sum(table.keeps.values()) <= 300
    assert min(table.keeps.values()) > 149
    table.dealing.keep_to({RPM: Share(0.0, LIMIT, 1)})
    table.settle()
    assert list(table.keeps.values()) == [0.0, 0.0]


def test_the_run_wants_what_its_processes_want_together() -> None:
    table = Table()
    assert table.dealing.needs() == {RPM: Need(LIMIT, None)}
    table.sit(0)
    table.sit(1)
    table.dealing.wants(0, {RPM: Need(LIMIT, 100.0)})
    assert table.dealing.needs() == {RPM: Need(LIMIT, None)}, "the other has not said yet"
    table.dealing.wants(1, {RPM: Need(LIMIT, 50.0)})
    assert table.dealing.needs() == {RPM: Need(LIMIT, 150.0)}


steps = st.lists(
    st.one_of(
        st.tuples(st.just("sit"), st.integers(0, 3)),
        st.tuples(st.just("leave"), st.integers(0, 3)),
        st.tuples(st.just("want"), st.integers(0, 3), st.none() | st.floats(0, 2000)),
        st.just(("deal",)),
        st.just(("arrive",)),
    ),
    max_size=60,
)


@given(steps)
def test_together_they_never_have_more_than_the_limit(steps: list[tuple[object, ...]]) -> None:
    table = Table()
    for step in steps:
        match step:
            case ("sit", int(lane)) if lane not in table.keeps:
                table.sit(lane)
            case ("leave", int(lane)) if lane in table.keeps:
                table.dealing.leave(lane)
                del table.keeps[lane]
                table.on_their_way = [one for one in table.on_their_way if one[0] != lane]
            case ("want", int(lane), want):
                assert want is None or isinstance(want, float)
                table.dealing.wants(lane, {RPM: Need(LIMIT, want)})
            case ("deal",):
                table.deal()
            case ("arrive",):
                table.arrive()
        assert sum(table.keeps.values()) <= LIMIT + A_HAIR
    if table.keeps:
        for lane in table.keeps:
            table.dealing.wants(lane, {RPM: Need(LIMIT, None)})
        table.settle()
        assert sum(table.keeps.values()) > 0.97 * (LIMIT - 4), "nothing is lost on the way"
