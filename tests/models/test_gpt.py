import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F

from stepsize.models.gpt import GPT


@pytest.fixture
def model():
    torch.manual_seed(0)
    return GPT((16,), 50)


@pytest.fixture
def tokens():
    return torch.randint(50, (4, 16), generator=torch.Generator().manual_seed(1))


def test_equals_its_equations(tokens):
    torch.manual_seed(0)
    model = GPT((16,), 50, num_layers=2, num_heads=2, width=8).double()
    (later_than,) = [torch.ones(16, 16).triu(1).bool()]

    def norm(x, layer):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias

    def linear(x, layer):
        return x @ layer.weight.T + layer.bias

    h = model.embedding.tokens.weight[tokens] + model.embedding.positions.weight
    for block in model.blocks:
        x, attention = norm(h, block.attention_norm), block.attention
        heads = []
        for head in (slice(0, 4), slice(4, 8)):
            q, k, v = (linear(x, layer)[..., head] for layer in (attention.query, attention.key, attention.value))
            scores = (q @ k.transpose(1, 2) / math.sqrt(4)).masked_fill(later_than, -math.inf)
            heads.append(scores.softmax(-1) @ v)
        h = h + linear(torch.cat(heads, -1), attention.output)
        x = linear(norm(h, block.mlp_norm), block.mlp.hidden)
        x = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        h = h + linear(x, block.mlp.output)
    expected = norm(h, model.norm) @ model.embedding.tokens.weight.T
    torch.testing.assert_close(model(tokens), expected)


def test_has_the_parameters_of_gpt2():
    # 124 439 808: the smallest GPT-2 as released, counting the tied matrix once.
    with torch.device("meta"):
        model = GPT((1024,), 50257, num_layers=12, num_heads=12, width=768)
    assert sum(parameter.numel() for parameter in model.parameters()) == 124_439_808


@pytest.mark.parametrize("position", [0, 7, 15])
def test_is_causal(model, tokens, position):
    changed = tokens.clone()
    changed[:, position] = (changed[:, position] + 1) % 50
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :position], after[:, :position])
    assert not torch.isclose(before[:, position:], after[:, position:]).all(-1).any()


def test_knows_the_order_of_what_it_read(model):
    ahead, behind = model(torch.tensor([[1, 2, 3], [2, 1, 3]]))[:, -1]
    assert not torch.allclose(ahead, behind, rtol=0, atol=1e-6)


@pytest.mark.parametrize("length", [1, 9])
def test_a_shorter_input_gets_the_logits_of_its_prefix(model, tokens, length):
    torch.testing.assert_close(model(tokens[:, :length]), model(tokens)[:, :length])


def test_refuses_an_input_longer_than_the_context(model):
    with pytest.raises(ValueError, match="the input is 17 tokens long, the context only 16"):
        model(torch.zeros(1, 17, dtype=torch.long))


@pytest.mark.parametrize("made", [lambda model: model, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_input_and_output_share_one_matrix(model, tokens, made):
    model = made(model)
    assert [name for name, p in model.named_parameters() if 50 in p.shape] == ["embedding.tokens.weight"]
    before = model(tokens)[..., 0]
    with torch.no_grad():
        model.embedding.tokens.weight[0] *= 2
    assert not torch.isclose(model(tokens)[..., 0], before).any()


def test_starts_near_the_loss_of_a_uniform_guess():
    torch.manual_seed(0)
    tokens = torch.randint(256, (8, 129))
    loss = F.cross_entropy(GPT((128,), 256)(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(256), abs=0.1)


@pytest.mark.parametrize("num_layers", [1, 8])
def test_starts_from_the_standard_deviations_of_its_docstring(num_layers):
    torch.manual_seed(0)
    model = GPT((16,), 256, num_layers=num_layers)
    block = model.blocks[-1]
    writing = [block.attention.output.weight, block.mlp.output.weight]
    others = [p for p in block.parameters() if p.ndim == 2 and all(p is not w for w in writing)]
    for weight in writing:
        assert weight.std().item() == pytest.approx(0.02 / math.sqrt(2 * num_layers), rel=0.03)
    assert len(others) == 4
    for weight in [*others, model.embedding.tokens.weight]:
        assert weight.std().item() == pytest.approx(0.02, rel=0.03)


def test_biases_start_at_zero_and_norms_at_one(model):
    vectors = {name: parameter for name, parameter in model.named_parameters() if parameter.ndim == 1}
    assert all((parameter == name.endswith("norm.weight")).all() for name, parameter in vectors.items())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"num_heads": 0}, "num_heads must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"width": 100, "num_heads": 3}, "width 100 is not divisible by num_heads 3"),
    ],
)
def test_refuses_bad_sizes(wrong, message):
    with pytest.raises(ValueError, match=message):
        GPT((16,), 50, **wrong)


@pytest.mark.parametrize("shape", [(1, 28, 28), (16, 50)])
def test_refuses_an_input_that_is_no_row_of_tokens(shape):
    with pytest.raises(ValueError, match=r"input_shape must be \(context,\)"):
        GPT(shape, 50)
