import pytest

from fgcli.training.state import WARM_UP, StepTimes


def times(*milliseconds):
    times = StepTimes()
    for value in milliseconds:
        times.add(value)
    return times


def test_warm_up_does_not_count():
    assert times(*[1000.0] * WARM_UP, 1.0, 2.0, 3.0, 4.0, 5.0).quartiles() == (2.0, 3.0, 4.0)


def test_a_run_of_warm_up_alone_still_has_times():
    assert times(7.0).quartiles() == (7.0, 7.0, 7.0)
    assert times(1.0, 2.0, 3.0).quartiles() == (1.5, 2.0, 2.5)


def test_a_resumed_process_warms_up_anew():
    resumed = StepTimes(warm=[1.0, 2.0, 3.0])
    resumed.add(1000.0)
    assert resumed.quartiles() == (1.5, 2.0, 2.5)


def test_the_mean_is_that_of_all_warm_steps():
    assert StepTimes(warm=[1.0, 2.0, 9.0], cold=[100.0]).mean() == 4.0
    assert StepTimes(cold=[100.0]).mean() == 100.0
    with pytest.raises(ValueError, match="no step was timed"):
        StepTimes().mean()


def test_before_the_first_step():
    with pytest.raises(ValueError, match="no step was timed"):
        StepTimes().quartiles()
