from stepsize.schedules.constant import constant


def test_is_1_at_every_step() -> None:
    assert [constant()(step, 4) for step in range(6)] == [1.0] * 6
