"""What every model of the table keeps, found through the table alone."""

import copy
import inspect
import io
import math
import pickle
import pkgutil
import subprocess
import sys
from ast import literal_eval
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stepsize.models import MODELS

CONF = Path(__file__).parents[2] / "conf" / "model"
BATCH, CLASSES = 8, 10
# By what a model accepts: shapes of the recipe's data, and how a batch of them is drawn.
SHAPES = {"values": [(1, 8, 8), (1, 40), (1, 28, 28), (3, 32, 32)], "tokens": [(1,), (16,), (128,)]}
DRAW = {
    "values": lambda shape: torch.randn(BATCH, *shape),
    "tokens": lambda shape: torch.randint(CLASSES, (BATCH, *shape)),
}

CLASSES_OF_MODELS = {name: pkgutil.resolve_name(path) for name, path in MODELS.items()}
every_model = pytest.mark.parametrize("model_class", CLASSES_OF_MODELS.values(), ids=CLASSES_OF_MODELS.keys())
every_shape = pytest.mark.parametrize(
    ("model_class", "shape"),
    [
        pytest.param(model_class, shape, id=f"{name}-{'x'.join(map(str, shape))}")
        for name, model_class in CLASSES_OF_MODELS.items()
        for shape in SHAPES[model_class.accepts]
    ],
)


def build(model_class):
    """The model at its defaults, for the second of its shapes, with a batch of it."""
    torch.manual_seed(0)
    shape = SHAPES[model_class.accepts][1]
    return model_class(shape, CLASSES), DRAW[model_class.accepts](shape)


def loss_of(model, inputs):
    logits = model(inputs).flatten(0, -2)
    targets = torch.randint(CLASSES, logits.shape[:1], generator=torch.Generator().manual_seed(1))
    return F.cross_entropy(logits, targets)


def test_listing_the_models_imports_none():
    program = "import sys, stepsize.models; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": str(CONF.parents[1] / "src")})


@pytest.mark.parametrize("name", MODELS)
def test_has_a_yaml_that_says_what_it_is_and_takes_its_schema(name):
    lines = (CONF / f"{name}.yaml").read_text().splitlines()
    assert lines[0].startswith("# ")
    assert f"  - schema/{name}@_here_" in lines


@every_model
def test_hyperparameters_are_keywords_with_literal_defaults(model_class):
    input_shape, num_classes, *hyperparameters = list(inspect.signature(model_class).parameters.values())
    assert (input_shape.name, num_classes.name) == ("input_shape", "num_classes")
    assert input_shape.default is num_classes.default is inspect.Parameter.empty
    for hyperparameter in hyperparameters:
        assert hyperparameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert hyperparameter.annotation is not inspect.Parameter.empty
        assert literal_eval(repr(hyperparameter.default)) == hyperparameter.default


@every_model
@pytest.mark.parametrize("dropout", [-0.1, 1.0, math.nan])
def test_refuses_a_dropout_outside_its_range(model_class, dropout):
    with pytest.raises(ValueError, match=rf"dropout must be in \[0, 1\), got {dropout}"):
        model_class(SHAPES[model_class.accepts][1], CLASSES, dropout=dropout)


@every_model
def test_refuses_no_classes(model_class):
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        model_class(SHAPES[model_class.accepts][1], 0)


@every_model
@pytest.mark.parametrize("shape", [(), (0,), (1, 2, 3, 0)])
def test_refuses_an_empty_input(model_class, shape):
    with pytest.raises(ValueError, match="input_shape must be"):
        model_class(shape, CLASSES)


@every_shape
def test_logits_have_one_row_an_answer_and_one_column_a_class(model_class, shape):
    inputs = DRAW[model_class.accepts](shape)
    answers = {"values": (BATCH,), "tokens": (BATCH, *shape)}[model_class.accepts]
    assert model_class(shape, CLASSES)(inputs).shape == (*answers, CLASSES)


@every_model
def test_gradient_reaches_every_parameter(model_class):
    model, inputs = build(model_class)
    loss_of(model, inputs).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@every_model
def test_fits_one_batch(model_class):
    model, inputs = build(model_class)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(150):
        loss = loss_of(model, inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


@every_model
def test_dropout_acts_in_training_alone(model_class):
    shape = SHAPES[model_class.accepts][1]
    model = model_class(shape, CLASSES, dropout=0.5)
    inputs = DRAW[model_class.accepts](shape)
    assert not torch.equal(model(inputs), model(inputs))
    model.eval()
    assert torch.equal(model(inputs), model(inputs))


@every_model
def test_the_same_seed_starts_from_the_same_weights(model_class):
    first, second = (build(model_class)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


@every_model
def test_state_dict_carries_the_function(model_class):
    model, inputs = build(model_class)
    saved = io.BytesIO()
    torch.save(model.state_dict(), saved)
    saved.seek(0)
    other = model_class(SHAPES[model_class.accepts][1], CLASSES)
    other.load_state_dict(torch.load(saved, weights_only=True))
    assert torch.equal(model.eval()(inputs), other.eval()(inputs))


@every_model
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_computes_the_same_and_shares_nothing(model_class, copied):
    model, inputs = build(model_class)
    other = copied(model)
    expected = model.eval()(inputs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(other.eval()(inputs), expected)
    assert sum(p.numel() for p in other.parameters()) == sum(p.numel() for p in model.parameters())


@every_model
def test_is_one_graph_to_the_compiler(model_class):
    # The eager backend traces as every backend does and generates no code: a graph break is an error in both.
    model, inputs = build(model_class)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs), model(inputs))


@every_model
def test_trains_under_bf16_autocast_as_in_fp32(model_class):
    model, inputs = build(model_class)
    expected = loss_of(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model, inputs)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@every_model
def test_children_stand_in_the_order_of_the_data(model_class):
    # Layer-wise learning rates count depth along this order, lists expanded by one level.
    model, inputs = build(model_class)
    children = []
    for child in model.children():
        children += list(child) if isinstance(child, (nn.Sequential, nn.ModuleList)) else [child]
    called = []
    for child in children:
        child.register_forward_hook(lambda module, args, output: called.append(module))
    model(inputs)
    assert called == children
