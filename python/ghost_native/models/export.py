"""Models as folders of ``model.safetensors`` and ``config.json``.

A transformer with the SwiGLU block and float weights is a Llama in all but name: it is written in the names and with
the configuration of Hugging Face's LlamaForCausalLM, which mlx-lm and others load. Everything else, Ghost included, is
written in our own names with a ``model_type`` of our own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx

from ghost_native import ops
from ghost_native.models.atomic import atomic_files
from ghost_native.models.checkpoint import FORMAT, TRANSFORMER_FORMAT
from ghost_native.models.config import GhostConfig
from ghost_native.models.ghost import Ghost
from ghost_native.models.transformer import Transformer
from ghost_native.models.transformer_config import HIDDEN_UNIT, TransformerConfig
from ghost_native.models.weights_file import put_weights, read_weights
from ghost_native.nn.fact_store import FactStore
from ghost_native.nn.linear import CodebookLinear

WEIGHTS, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"
TOKENIZER = "tokenizer.model"  # as other projects name a SentencePiece model
CONTEXT = "ghost_native_context"  # in the configuration of a Llama, which others pass over
GHOST_TYPE, TRANSFORMER_TYPE, LLAMA_TYPE = "ghost_native_ghost", "ghost_native_transformer", "llama"

Weights = dict[str, mx.array]

_TOP_NAMES = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
_BLOCK_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn.gate": "mlp.gate_proj",
    "ffn.up": "mlp.up_proj",
    "ffn.down": "mlp.down_proj",
}

# Keys of a Llama's configuration that we have one value for, and what else says the same.
_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "rope_scaling": (None,),
}


def export_model(
    model: Ghost | Transformer, folder: str | Path, *, dequantize: bool = False, tokenizer: bytes | None = None
) -> None:
    """Write a model into a folder, made if need be: ``model.safetensors`` and ``config.json``.

    They are written beside what is there and then put in its place; a folder with a ``config.json`` is always whole.

    Args:
        model: packed or not. Of Ghost, the facts stored now are written too.
        folder: where to.
        dequantize: write 2-bit weights as the float ones they stand for: a model of float weights that computes the
            same, and that other projects can load if it is a transformer.
        tokenizer: the SentencePiece model that a transformer reads text with, to be written as ``tokenizer.model``;
            None leaves such a file as it is.
    """
    folder = Path(folder)
    weights, config = model.weights(), model.config.to_dict()
    packed = model.is_packed
    if dequantize:
        weights, config["weights"], packed = _dequantized(model, weights), "float", False
    described: dict[str, Any]
    if isinstance(model, Ghost):
        described = {"model_type": GHOST_TYPE, "format": FORMAT, "packed": packed, "config": config}
        described["facts"] = model.fact_store.to_list()
    else:
        values = TransformerConfig.from_dict(config)
        if values.weights == "float" and values.ffn_activation == "silu":
            weights, described = llama_weights(weights), _llama_config(values) | {CONTEXT: model.context}
        else:
            described = {"model_type": TRANSFORMER_TYPE, "format": TRANSFORMER_FORMAT, "packed": packed}
            described |= {"context": model.context, "config": config}
    mx.eval(weights)
    text = json.dumps(described, indent=2) + "\n"
    paths = {folder / WEIGHTS: ".safetensors"}
    if tokenizer is not None:
        paths[folder / TOKENIZER] = ".model"
    with atomic_files({**paths, folder / CONFIG: ".json"}) as (weights_file, *tokenizer_files, config_file):
        for file in tokenizer_files:
            file.write_bytes(tokenizer or b"")
        # Transformers refuses files that do not say what they were written by.
        mx.save_safetensors(str(weights_file), weights, {"format": "mlx"})
        config_file.write_text(text, encoding="utf-8")


def import_model(folder: str | Path) -> Ghost | Transformer:
    """The model in a folder that :func:`export_model` or another project wrote, in evaluation mode.

    Llamas of other projects may be in several files; their weights are held as float32.

    Raises:
        FileNotFoundError: there is no such folder, or it lacks a file.
        ValueError: the files are broken or do not fit each other, or describe what our models do not compute.
    """
    folder = Path(folder)
    config = _read_json(folder / CONFIG)
    kind = config.get("model_type")
    if kind == LLAMA_TYPE:
        return _import_llama(folder, config)
    formats = {GHOST_TYPE: FORMAT, TRANSFORMER_TYPE: TRANSFORMER_FORMAT}
    if kind not in formats:
        allowed = ", ".join(repr(k) for k in (*formats, LLAMA_TYPE))
        raise _error(folder / CONFIG, "model_type", kind, allowed)
    if config.get("format") != formats[kind]:
        raise _error(folder / CONFIG, "format", config.get("format"), repr(formats[kind]))
    model: Ghost | Transformer
    try:
        values, packed = config["config"], config["packed"]
        if kind == GHOST_TYPE:
            ghost = GhostConfig.from_dict(values)
            limits = {"max_key": ghost.max_key, "max_value": ghost.max_value}
            facts = FactStore.from_list(config["facts"], **limits).facts()
            model = Ghost(ghost)
        else:
            facts, model = {}, Transformer(TransformerConfig.from_dict(values))
            model.context = config.get("context", model.context)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"[import_model] {folder / CONFIG} is broken: {error}.") from error
    if packed:
        model.pack()
    weights, _ = read_weights(folder / WEIGHTS, "import_model")
    put_weights(model, weights, folder / WEIGHTS, "import_model")
    for key, value in facts.items():
        assert isinstance(model, Ghost)
        model.store_fact(key, value)
    model.eval()
    return model


def load_model(path: str | Path) -> Ghost | Transformer:
    """The model at a path, whichever it is: a file that ``save`` wrote, or a folder as of :func:`import_model`.

    Raises:
        FileNotFoundError: there is nothing at path.
        ValueError: it is none of our models, or broken.
    """
    path = Path(path)
    if path.is_dir():
        return import_model(path)
    _, metadata = read_weights(path, "load_model")
    if metadata.get("format") not in (FORMAT, TRANSFORMER_FORMAT):
        raise _error(path, "format", metadata.get("format"), f"{FORMAT!r}, {TRANSFORMER_FORMAT!r}", "load_model")
    return Ghost.load(path) if metadata["format"] == FORMAT else Transformer.load(path)


def llama_weights(weights: Weights) -> Weights:
    """A transformer's weights by the names of LlamaForCausalLM."""
    return {_llama_name(name): w for name, w in weights.items()}


def _llama_name(name: str) -> str:
    layer, _, weight = name.rpartition(".")
    if not layer.startswith("layers."):
        return f"{_TOP_NAMES[layer]}.{weight}"
    _, number, inner = layer.split(".", 2)
    return f"model.layers.{number}.{_BLOCK_NAMES[inner]}.{weight}"


def _llama_config(config: TransformerConfig) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": LLAMA_TYPE,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_seq_len,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": "float32",
    }


def _import_llama(folder: Path, values: dict[str, Any]) -> Transformer:
    path = folder / CONFIG
    for key, allowed in _FIXED.items():
        if values.get(key, allowed[0]) not in allowed:
            raise _error(path, key, values[key], repr(allowed[0]))
    try:
        width, heads, hidden = values["hidden_size"], values["num_attention_heads"], values["intermediate_size"]
        rope: dict[str, Any] = values.get("rope_parameters") or {}
        config = TransformerConfig(
            vocab_size=values["vocab_size"],
            n_layers=values["num_hidden_layers"],
            d_model=width,
            n_heads=heads,
            mlp_multiple=hidden / width,
            dropout=0.0,
            max_seq_len=values["max_position_embeddings"],
            rope_theta=float(rope.get("rope_theta", values.get("rope_theta", 10000.0))),
            norm_eps=values["rms_norm_eps"],
            tie_embeddings=values.get("tie_word_embeddings", False),
        )
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"[import_model] {path} is broken: {type(error).__name__} {error}.") from error
    if rope.get("rope_type", "default") != "default":
        raise _error(path, "rope_parameters", rope, "the rope_type 'default'")
    if values.get("num_key_value_heads", heads) != heads:
        raise _error(path, "num_key_value_heads", values["num_key_value_heads"], f"num_attention_heads = {heads}")
    if values.get("head_dim") not in (None, config.head_dim):
        raise _error(path, "head_dim", values["head_dim"], f"hidden_size / num_attention_heads = {config.head_dim}")
    if config.hidden_dim != hidden:
        raise _error(path, "intermediate_size", hidden, f"a multiple of {HIDDEN_UNIT}")
    model = Transformer(config)
    model.context = _context(path, values, config)
    ours = {_llama_name(name): name for name in model.weights()}
    weights: Weights = {}
    for file in weight_files(folder):
        for name, w in read_weights(file, "import_model")[0].items():
            # Names that are not ours stay, for the error to tell them. Angles of positions are no weights.
            if not name.endswith("rotary_emb.inv_freq"):
                weights[ours.get(name, name)] = w.astype(mx.float32)
    put_weights(model, weights, folder, "import_model")
    model.eval()
    return model


def _context(path: Path, values: dict[str, Any], config: TransformerConfig) -> int:
    """The context that one of our models was trained with; Llamas of others were trained with all of it."""
    given = values.get(CONTEXT, config.max_seq_len)
    if not isinstance(given, int) or not 1 <= given <= config.max_seq_len:
        raise _error(path, CONTEXT, given, f"1 to max_position_embeddings = {config.max_seq_len}")
    return given


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of an exported model."""
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        return [folder / WEIGHTS]
    names = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(names, dict):
        raise _error(folder / INDEX, "weight_map", names, "an object of names and files")
    return [folder / str(file) for file in sorted(set(names.values()))]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"[import_model] no such file: {path}.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"[import_model] {path} is no JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"[import_model] {path} is broken, given a {type(values).__name__}, allowed: an object.")
    return values


def _dequantized(model: Ghost | Transformer, weights: Weights) -> Weights:
    """The weights with those of every codebook layer as float32 levels."""
    plain = dict(weights)
    for name, layer in model.codebook_layers():
        for part in ("weight", "codes", "codebook"):
            plain.pop(f"{name}.{part}", None)
        plain[f"{name}.weight"] = _levels(layer)
    return plain


def _levels(layer: CodebookLinear) -> mx.array:
    codebook = layer.codebook.astype(mx.float16)
    codes = layer.codes if layer.is_packed else ops.codebook_assign(layer.weight, codebook)
    return ops.codebook_dequantize(codes, codebook)


def _error(path: Path, key: str, given: Any, allowed: str, name: str = "import_model") -> ValueError:
    return ValueError(f"[{name}] {path} cannot be loaded: {key} given {given!r}, allowed: {allowed}.")
