"""How many steps a job has, also where its epochs are not equally long."""

from bagpipe.batch import Cursor
from bagpipe.config.load import parse_job
from bagpipe.oracle.sizing.steps import ends_before_steps, settle_schedules, total_steps


def spec(*overrides: str):
    return parse_job("spec: {data: {format: synthetic}, batchSize: 50}", "test", overrides).spec


def test_steps_of_all_epochs():
    """Each epoch ends with a short batch, unless that is dropped; `steps` needs no data."""
    assert total_steps(spec("epochs=3"), 120) == 9
    assert total_steps(spec("epochs=3", "data.dropLast=true"), 120) == 6
    assert total_steps(spec(), 120) == 3
    assert total_steps(spec(), None) is None
    assert total_steps(spec("steps=7"), None) == 7


def test_a_resumed_run_has_as_many():
    """From whatever cursor the steps are counted, the last one is that of an uninterrupted run."""
    for drop, of_epoch in (("false", 3), ("true", 2)):
        job = spec("epochs=3", f"data.dropLast={drop}")
        for step in range(3 * of_epoch + 1):
            epoch, number = divmod(step, of_epoch)
            assert total_steps(job, 120, trained=step, cursor=Cursor(epoch, 50 * number)) == 3 * of_epoch


def test_data_that_is_new_has_an_epoch_of_its_own():
    """After 40 steps of a longer epoch, one more epoch of 120 examples is 3 steps more; it was a part of an epoch."""
    assert total_steps(spec("epochs=2"), 120, trained=40, cursor=Cursor(1, 0)) == 43
    assert total_steps(spec("epochs=1"), 120, trained=40, cursor=Cursor(1, 0)) == 40


def test_epochs_that_end_before_steps_are_the_length_and_it_is_told():
    """With both settings the first to come is the length, a schedule falls until then, and the user hears of it."""
    job = spec("epochs=2", "steps=100", "optimizer.schedule={name: cosine}")
    assert total_steps(job, 120) == 6
    assert settle_schedules(job, total_steps(job, 120)).optimizer.schedule.decay_steps == 6
    assert total_steps(job, 120, trained=4, cursor=Cursor(1, 50)) == 6
    assert total_steps(job, None) == 100
    told = ends_before_steps(job, 6)
    assert told is not None
    assert "epochs: 2 " in told
    assert "step 6, before spec.steps: 100" in told
    assert "--set epochs=null" in told
    for few in ("steps=4", "steps=6"):
        short = spec("epochs=2", few)
        assert total_steps(short, 120) == short.steps
        assert ends_before_steps(short, total_steps(short, 120)) is None
    assert ends_before_steps(spec("steps=100"), total_steps(spec("steps=100"), 120)) is None
