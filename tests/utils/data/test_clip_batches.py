"""How an epoch is cut: every clip once, in one order, for any number of processes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data.clip_batches import ClipBatchSampler, EpochPlan

PLANS = st.builds(
    EpochPlan,
    clips_per_epoch=st.integers(1, 60),
    batch_size=st.integers(1, 5),
    accumulation=st.integers(1, 4),
    num_processes=st.integers(1, 4),
)


@settings(deadline=None)
@given(plan=PLANS, first=st.integers(0, 70))
def test_every_clip_is_taken_once_and_in_order(plan: EpochPlan, first: int) -> None:
    updates = list(plan.updates(first))
    taken = [
        place
        for update in updates
        for batch in plan.batches(update)
        for process in range(plan.num_processes)
        for place in plan.share(batch, process)
    ]
    assert taken == list(range(first, plan.clips_per_epoch))
    assert len(updates) == plan.num_updates(first)
    for update in updates[:-1]:
        assert len(update) == plan.clips_per_update
        assert len(list(plan.batches(update))) == plan.accumulation
    for update in updates:
        for batch in plan.batches(update):
            assert len(batch) <= plan.clips_per_batch
            shares = [len(plan.share(batch, process)) for process in range(plan.num_processes)]
            assert max(shares) <= plan.batch_size


@settings(deadline=None)
@given(plan=PLANS, process=st.integers(0, 3), first=st.integers(0, 70))
def test_all_processes_have_as_many_batches(plan: EpochPlan, process: int, first: int) -> None:
    """One that has no clip of a short batch computes along: the others wait for it."""
    process %= plan.num_processes
    sampler = ClipBatchSampler(plan, process=process)
    sampler.set_position(7, first)
    got = list(sampler)
    batches = [batch for update in plan.updates(first) for batch in plan.batches(update)]
    assert len(got) == len(sampler) == len(batches)
    for places, batch in zip(got, batches, strict=True):
        own = list(plan.share(batch, process))
        assert [place.position for place in places] == (own or [batch[-1]])
        assert {place.epoch for place in places} == {7}


@settings(deadline=None)
@given(plan=PLANS, updates=st.integers(0, 10))
def test_a_part_of_an_epoch_is_cut_as_in_the_whole(plan: EpochPlan, updates: int) -> None:
    whole = list(plan.updates())
    first = min(updates * plan.clips_per_update, plan.clips_per_epoch)
    assert list(plan.updates(first)) == whole[updates:]


@settings(deadline=None)
@given(plan=PLANS)
def test_processes_take_what_one_takes_with_larger_batches(plan: EpochPlan) -> None:
    alone = EpochPlan(
        clips_per_epoch=plan.clips_per_epoch,
        batch_size=plan.clips_per_batch,
        accumulation=plan.accumulation,
    )
    assert list(alone.updates()) == list(plan.updates())
    for update in plan.updates():
        assert list(alone.batches(update)) == list(plan.batches(update))


def test_a_position_that_is_set_later_is_for_the_next_iteration() -> None:
    sampler = ClipBatchSampler(EpochPlan(clips_per_epoch=4, batch_size=1))
    running = iter(sampler)
    assert next(running) == [(0, 0)]
    sampler.set_position(5, 2)
    assert list(running) == [[(0, 1)], [(0, 2)], [(0, 3)]]
    assert list(sampler) == [[(5, 2)], [(5, 3)]]
