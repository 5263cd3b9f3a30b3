from fgcli.runs.environment import Environment


def test_what_is_not_known_is_not_told() -> None:
    now = Environment({"torch": "2", "cuda": "13", "command": ["b"]})
    assert not Environment({}).changed(now)
    assert Environment({"torch": "1", "cuda": None, "command": ["a"]}).changed(now) == {"torch": ("1", "2")}


def test_of_an_environment_that_somebody_wrote_nothing_is_taken_for_granted() -> None:
    odd = Environment({"device_name": 3, "plugins": ["a"], "command": "fgcli train", "went_on": "never"})
    assert (odd.machine, odd.plugins, odd.command) == ("unknown device", {}, "fgcli train")
    assert odd.with_move(6, {"torch": ("1", "2")}).content["went_on"] == [{"after_step": 6, "torch": "2"}]


def test_the_machine_in_words() -> None:
    assert Environment({"device_name": "A (cpu)", "threads": 1}).machine == "A (cpu), 1 thread"
