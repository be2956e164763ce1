"""The soak's plan is the seed's and nothing else's; its judgement of memory and descriptors can fail."""

from __future__ import annotations

import itertools

from tests.faults.soak import KINDS, Samples, figure, schedule


def test_a_seed_is_a_schedule() -> None:
    assert schedule(7, 30) == schedule(7, 30)
    assert schedule(7, 30) != schedule(8, 30)


def test_a_shorter_run_is_the_beginning_of_a_longer_one() -> None:
    short, long = schedule(7, 5), schedule(7, 30)
    assert set(short) <= set(long)
    assert len(long) > 4 * len(short)


def test_half_an_hour_has_every_kind() -> None:
    planned = {(fault.track, fault.name) for fault in schedule(1, 30)}
    assert planned == {(track, kind.name) for track, kinds in KINDS.items() for kind in kinds}


def test_faults_of_one_track_do_not_meet_and_others_do() -> None:
    planned = schedule(3, 30)
    for track in KINDS:
        mine = [fault for fault in planned if fault.track == track]
        assert all(a.at_s + a.lasts_s < b.at_s for a, b in itertools.pairwise(mine))
    assert any(a.at_s + a.lasts_s > b.at_s for a, b in itertools.pairwise(planned))


def samples(rss: list[float], descriptors: list[int]) -> Samples:
    return Samples([float(at) for at in range(len(rss))], rss, descriptors)


def test_what_is_flat_passes() -> None:
    text, problems = figure(samples([100.0, 104.0] * 20, [40, 44] * 20))
    assert problems == []
    assert "RSS first quarter 102 MB, last 102, max 104" in text
    assert "descriptors first 42, last 42, max 44" in text


def test_what_grows_does_not() -> None:
    growing = [100.0 + 2.0 * at for at in range(40)]
    text, problems = figure(samples(growing, list(range(40, 80))))
    assert problems == ["memory grows: 109 MB to 169", "descriptors grow: 44 to 74"]
    assert "slope +7200.0 MB/h, by eighths 104 114 124 134 144 154 164 174;" in text


def test_a_short_run_is_not_judged() -> None:
    assert figure(samples([1.0, 500.0], [1, 500])) == ("too short to judge memory", [])
