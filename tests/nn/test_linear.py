from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from ghost_native.nn.linear import CodebookLinear, Linear
from tests.tolerances import assert_close, to_numpy


def test_every_weight_is_one_of_four_levels_and_the_nearest():
    layer = CodebookLinear(256, 9)
    identity = layer(mx.eye(256)).T
    levels = to_numpy(layer.codebook.astype(mx.float16))[:, 0]
    weight = to_numpy(layer.weight)
    nearest = np.take_along_axis(levels, np.abs(weight[..., None] - levels[:, None]).argmin(-1), axis=1)
    assert np.array_equal(to_numpy(identity), nearest)


def test_gradient_passes_straight_through():
    """The latent weight gets the gradient of the decoded weight, the codebook its sums over equal codes."""
    layer = CodebookLinear(256, 5)
    x, dy = mx.random.normal((7, 256)), mx.random.normal((7, 5))

    def loss():
        return (layer(x) * dy).sum()

    gradients = nn.value_and_grad(layer, loss)()[1]
    dense = to_numpy(dy).T @ to_numpy(x)
    assert_close(gradients["weight"], dense, what="dweight")
    levels = to_numpy(layer.codebook.astype(mx.float16))[:, 0]
    codes = np.abs(to_numpy(layer.weight)[..., None] - levels[:, None]).argmin(-1)
    sums = np.stack([np.where(codes == c, dense, 0).sum(1) for c in range(4)], axis=-1)
    assert_close(gradients["codebook"][:, 0], sums, what="dcodebook")


@pytest.mark.parametrize(("inputs", "shape"), [(256, (6, 1, 4)), (240, (4,))])
def test_narrow_layers_share_one_codebook(inputs, shape):
    assert CodebookLinear(inputs, 6).codebook.shape == shape


@pytest.mark.parametrize("per_row", [True, False])
def test_pack(per_row):
    layer = CodebookLinear(64, 33, per_row=per_row)
    x = mx.random.normal((3, 2, 64))
    before = layer(x)
    mx.eval(before)
    layer.pack()
    layer.pack()
    assert mx.array_equal(layer(x), before)
    assert layer.codes.nbytes == 33 * 64 // 4 and layer.num_weights == 33 * 64
    assert layer.packed_bits() == 2 * 33 * 64 + 16 * layer.codebook.size
    assert "codes" not in layer.trainable_parameters()


def test_float_twin_is_an_ordinary_product():
    layer = CodebookLinear(40, 8, mode="float")
    x = mx.random.normal((5, 40))
    assert_close(layer(x), to_numpy(x) @ to_numpy(layer.weight).T)
    layer.pack()
    assert not layer.is_packed


def test_bias():
    layer = Linear(12, 4, bias=True)
    layer.bias = mx.arange(4, dtype=mx.float32)
    assert_close(layer(mx.zeros((2, 12))), np.broadcast_to(np.arange(4.0), (2, 4)))


def test_malformed():
    with pytest.raises(ValueError, match=r"\[CodebookLinear\] in_features must be a multiple of 16, given 20"):
        CodebookLinear(20, 4)
    with pytest.raises(ValueError, match=r"\[CodebookLinear\] unknown mode, given 'ternary', allowed: 'codebook'"):
        CodebookLinear(16, 4, mode="ternary")
