from stepsize.run import train


def test_x(composed):
    cfg = composed("trainer.max_epochs=2", "trainer.accelerator=cpu")
    assert train(cfg) < 2.3
