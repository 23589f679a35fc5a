"""The networks of the recipe, each in a file of its own, in plain torch.

A model says in `accepts` what it reads, and its constructor takes, before its own hyperparameters, the two facts
that only the data know: `input_shape`, one example's shape without the batch, and `num_classes`. Its children stand in
the order in which the data pass them, because a learning rate that decays by layer follows that order.

To add one: write `models/NAME.py`, name its class in `MODELS`, and write `conf/model/NAME.yaml`. The contract tests
find it by themselves.
"""

# Dotted names rather than classes, so that listing what exists imports nothing.
MODELS: dict[str, str] = {
    "mlp": "stepsize.models.mlp.MLP",
    "convnet": "stepsize.models.convnet.ConvNet",
    "gpt": "stepsize.models.gpt.GPT",
}
