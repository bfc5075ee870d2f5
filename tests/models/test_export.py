from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ghost_native.models import Ghost, GhostConfig, Transformer, export_model, import_model, load_model
from tests.models.transformer_models import build, text
from tests.models.transformer_ref import transformer_ref
from tests.tolerances import assert_close

GHOST = {"dim": 32, "num_layers": 2, "attention_layers": (1,), "stride": 8, "head_dim": 16}


def ghost(**changes) -> Ghost:
    model = Ghost(GhostConfig(**{**GHOST, **changes}), seed=1)
    model.store_fact("capital of france", "Paris")
    model.store_fact("bytes", bytes(range(40)))
    return model


def read(folder: Path) -> tuple[dict, dict[str, mx.array]]:
    loaded = mx.load(str(folder / "model.safetensors"), return_metadata=True)
    assert loaded[1]["format"] == "mlx"
    return json.loads((folder / "config.json").read_text()), loaded[0]


# -- one file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float", "codebook", "packed", "gelu", "untied"])
def test_save_and_load(kind, tmp_path):
    model = build(
        weights="codebook" if kind in ("codebook", "packed") else "float",
        ffn_activation="gelu" if kind == "gelu" else "silu",
        tie_embeddings=kind != "untied",
        dropout=0.3,
    )
    if kind == "packed":
        model.pack()
    path = tmp_path / "deep" / "model.safetensors"
    model.save(path)
    again = Transformer.load(path)
    assert again.config == model.config and again.is_packed == (kind == "packed") and not again.training
    assert mx.array_equal(again(text(2, 20)), model.eval()(text(2, 20)))
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]
    assert isinstance(load_model(path), Transformer)


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path, model = tmp_path / "model.safetensors", build()
    model.save(path)
    before = path.read_bytes()
    full_disk(monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        model.save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def full_disk(monkeypatch) -> None:
    def write(name, *_):
        Path(name).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mx, "save_safetensors", write)


def test_load_refuses_what_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"\[Transformer.load\] no such checkpoint"):
        Transformer.load(tmp_path / "none.safetensors")
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\x08garbage")
    for load in (Transformer.load, load_model):
        with pytest.raises(ValueError, match=r"oad.*\] .* is not a whole safetensors file"):
            load(path)
    ghost().save(path)
    with pytest.raises(ValueError, match=r"is no checkpoint of a transformer, given format 'ghost_native.ghost.v1'"):
        Transformer.load(path)
    assert isinstance(load_model(path), Ghost)
    mx.save_safetensors(str(path), {"a": mx.zeros((2,))})
    with pytest.raises(
        ValueError, match=r"\[load_model\] .* format given None, allowed: 'ghost_native.ghost.v1', 'gho"
    ):
        load_model(path)
    metadata = {"format": "ghost_native.transformer.v1", "packed": "false"}
    for config, message in [(None, "'config'"), ('{"d_modell": 3}', "unknown key"), ('{"d_model": 3}', "n_heads"),
                            ("[", "Expecting")]:  # fmt: skip
        mx.save_safetensors(str(path), {}, metadata if config is None else {**metadata, "config": config})
        with pytest.raises(ValueError, match=rf"\[Transformer.load\] .* has broken metadata: .*{message}"):
            Transformer.load(path)
    build().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"\[Transformer.load\]"):
        Transformer.load(path)


def test_load_refuses_weights_of_another_shape(tmp_path):
    path, model = tmp_path / "x.safetensors", build()
    model.norm.weight = mx.ones((33,))
    model.save(path)
    with pytest.raises(
        ValueError, match=r"does not fit its configuration: weight 'norm.weight', given .*33.*, allowed"
    ):
        Transformer.load(path)


# -- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_a_transformer_is_written_as_a_llama(tied, tmp_path):
    """Reading only what is in the folder, and only as LlamaForCausalLM is defined, gives the same logits."""
    model, tokens = build(tie_embeddings=tied), text(2, 20)
    export_model(model, tmp_path / "llama")
    config, weights = read(tmp_path / "llama")
    assert config["architectures"] == ["LlamaForCausalLM"] and config["model_type"] == "llama"
    assert ("lm_head.weight" in weights) != config["tie_word_embeddings"] == tied
    assert set(weights) == {
        "model.embed_tokens.weight", "model.norm.weight", *([] if tied else ["lm_head.weight"]),
        *(f"model.layers.{l}.{name}.weight" for l in range(config["num_hidden_layers"]) for name in (
            "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
            "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
        )),
    }  # fmt: skip
    assert weights["model.layers.0.mlp.up_proj.weight"].shape == (config["intermediate_size"], config["hidden_size"])
    assert weights["model.embed_tokens.weight"].shape == (config["vocab_size"], config["hidden_size"])
    logits = transformer_ref(
        {k: np.array(w, np.float64) for k, w in weights.items()},
        np.array(tokens),
        num_heads=config["num_attention_heads"],
        theta=config["rope_theta"],
        eps=config["rms_norm_eps"],
        activation=config["hidden_act"],
    )
    assert_close(model(tokens), logits)


def same(a: Transformer | Ghost, b: Transformer | Ghost) -> bool:
    return bool(mx.array_equal(a.eval()(text(2, 20)), b.eval()(text(2, 20))))


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_embeddings": False}, {"ffn_activation": "gelu"}, {"weights": "codebook"}, {"weights": "packed"}],
    ids=lambda c: "silu" if not c else next(iter(c.values())),
)
def test_transformers_come_back(changes, tmp_path):
    model = build(**({"weights": "codebook"} if changes.get("weights") == "packed" else changes))
    if changes.get("weights") == "packed":
        model.pack()
    export_model(model, tmp_path)
    for again in (import_model(tmp_path), load_model(str(tmp_path))):
        assert isinstance(again, Transformer) and again.config == model.config and not again.training
        assert same(again, model) and again.is_packed == model.is_packed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("weights", ["codebook", "packed", "float"])
def test_ghosts_come_back(weights, tmp_path):
    model = ghost(weights="float" if weights == "float" else "codebook")
    if weights == "packed":
        model.pack()
    export_model(model, tmp_path)
    again = import_model(tmp_path)
    assert isinstance(again, Ghost) and again.config == model.config and again.facts() == model.facts()
    assert same(again, model) and again.is_packed == model.is_packed


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("make", [ghost, lambda: build(weights="codebook")], ids=["ghost", "transformer"])
def test_codebook_weights_as_float_ones(make, packed, tmp_path):
    model = make()
    if packed:
        model.pack()
    export_model(model, tmp_path, dequantize=True)
    again = import_model(tmp_path)
    assert again.config.weights == "float" and not again.is_packed
    assert_close(again(text(2, 20)), model(text(2, 20)))
    assert read(tmp_path)[0]["model_type"] == ("llama" if isinstance(model, Transformer) else "ghost_native_ghost")


def test_a_failed_export_changes_nothing(tmp_path, monkeypatch):
    export_model(build(), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        full_disk(patch)
        with pytest.raises(OSError, match="No space left"):
            export_model(ghost(), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(OSError, match="No space left"):
            export_model(ghost(), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_an_export_cut_short_is_no_mixture(tmp_path, monkeypatch):
    """Killed between the two files, the folder says that it is not whole."""
    export_model(build(), tmp_path)
    replace = Path.replace

    def killed(self, target):
        if Path(target).name == "config.json":
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        export_model(ghost(), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"\[import_model\] no such file: .*config.json"):
        import_model(tmp_path)


def test_llamas_of_others(tmp_path):
    """In several files, half precision, with newer or older keys, and angles saved as weights."""
    model, tokens = build(dropout=0.0), text(2, 20)
    model.set_dtype(mx.bfloat16)
    model.set_dtype(mx.float32)
    expected = model(tokens)
    export_model(model, tmp_path)
    config, weights = read(tmp_path)
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": config.pop("rope_theta")}
    for key in ("head_dim", "rope_scaling", "mlp_bias", "num_key_value_heads", "bos_token_id"):
        del config[key]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").unlink()
    names = sorted(weights)
    index = {}
    for n, part in enumerate((names[::2], names[1::2])):
        file = f"model-{n}.safetensors"
        held = {k: weights[k].astype(mx.bfloat16) for k in part}
        if n == 0:
            held["model.layers.0.self_attn.rotary_emb.inv_freq"] = mx.zeros((4,))
        mx.save_safetensors(str(tmp_path / file), held)
        index |= dict.fromkeys(held, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert mx.array_equal(import_model(tmp_path)(tokens), expected)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="weight_map given None, allowed: an object of names and files"):
        import_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type given 'gpt2', allowed: 'ghost_native_ghost', .*'llama'"),
        ({"model_type": "ghost_native_ghost"}, "format given None, allowed: 'ghost_native.ghost.v1'"),
        ({"hidden_act": "gelu"}, "hidden_act given 'gelu', allowed: 'silu'"),
        ({"attention_bias": True}, "attention_bias given True, allowed: False"),
        ({"mlp_bias": True}, "mlp_bias given True, allowed: False"),
        ({"rope_scaling": {"factor": 8}}, "rope_scaling given {'factor': 8}, allowed: None"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters given .*yarn.*, allowed: the rope_type"),
        ({"num_key_value_heads": 2}, "num_key_value_heads given 2, allowed: num_attention_heads = 4"),
        ({"head_dim": 16}, "head_dim given 16, allowed: hidden_size / num_attention_heads = 8"),
        ({"intermediate_size": 50}, "intermediate_size given 50, allowed: a multiple of 16"),
        ({"intermediate_size": 64}, "does not fit its configuration: weight 'layers.0.ffn.down.weight'"),
        ({"num_hidden_layers": 4}, "weight 'layers.3.attention.key.weight', given None"),
        ({"num_hidden_layers": 2}, "weight 'model.layers.2.* allowed: None"),
        ({"hidden_size": None}, "is broken: TypeError"),
        ({"hidden_size": 0}, "is broken: ZeroDivisionError"),
        ({"num_attention_heads": 5}, "is broken: ConfigError .*n_heads is out of range, given 5"),
        ({"tie_word_embeddings": False}, "weight 'head.weight', given None"),
    ],
)  # fmt: skip
def test_what_our_models_do_not_compute_is_refused(changes, message, tmp_path):
    export_model(build(), tmp_path)
    config, _ = read(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match=rf"\[import_model\].*{message}"):
        import_model(tmp_path)


def test_broken_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"\[import_model\] no such file"):
        import_model(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"\[load_model\] no such checkpoint"):
        load_model(tmp_path / "none")
    path = tmp_path / "config.json"
    for content, message in [("{", "is no JSON"), ("[1]", "is broken, given a list, allowed: an object")]:
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            import_model(tmp_path)
    export_model(ghost(), tmp_path)
    config, _ = read(tmp_path)
    for changes in ({"config": {"dims": 3}}, {"facts": [3]}, {"facts": None}):
        path.write_text(json.dumps({**config, **changes}))
        with pytest.raises(ValueError, match=r"\[import_model\] .* is broken"):
            import_model(tmp_path)
    del config["packed"]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"\[import_model\] .* is broken: 'packed'"):
        import_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    path.write_text(json.dumps({**config, "packed": False}))
    with pytest.raises(FileNotFoundError, match=r"\[import_model\] no such checkpoint: .*model.safetensors"):
        import_model(tmp_path)
