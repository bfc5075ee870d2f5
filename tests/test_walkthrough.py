"""The steps a newcomer of Ghost v6 follows: make a model, store a fact, train by hand, generate."""

from __future__ import annotations

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx import nn

from ghost_native import GhostV6


def test_walkthrough():
    model = GhostV6(dim=256, num_layers=6)
    mx.eval(model.parameters())
    print(f"Parameters: {model.count_params():,}")

    # Facts as lists of byte values.
    model.store_fact([ord(c) for c in "capital of france"], [ord(c) for c in "Paris"])

    data = b"Q: What is 2+2? A: 4\nQ: Capital of France? A: Paris\n" * 4
    tokens = mx.array(np.frombuffer(data, np.uint8).astype(np.int32))[None]

    def loss_fn(model):
        return nn.losses.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:], reduction="mean")

    optimizer = optim.AdamW(learning_rate=3e-4)
    losses = []
    for _ in range(8):
        loss, grads = mx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads)
        mx.eval(model.parameters(), optimizer.state)
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5

    def generate(model, prompt, max_tokens=5):
        x = mx.array([[ord(c) for c in prompt]], dtype=mx.int32)
        for _ in range(max_tokens):
            logits = model(x)
            probs = mx.softmax(logits[0, -1, :] / 0.3)
            val = int(mx.argmax(probs).item())
            if val == 10:
                break
            x = mx.concatenate([x, mx.array([[val]])], axis=1)
        return "".join(chr(int(b)) for b in x[0].tolist()[len(prompt) :])

    assert len(generate(model, "Q: Capital of France? A: ")) <= 5
