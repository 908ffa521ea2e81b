"""Transformers of every architecture, made small with random weights, and plain calls of them."""

import inspect

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

from attention_patterns.attention_map import read_attention, read_declaration
from attention_patterns.labelling.sources.texts.tasks import Text
from attention_patterns.outputs import inputs_of_layers

logging.set_verbosity_error()
logging.disable_progress_bar()

WORDS = "a short text shows what the model returns ferry harbour tide water bees roof soup salt rain well path".split()  # noqa: SIM905  as text it reads
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
VOCABULARY = {word: n for n, word in enumerate([*SPECIAL, *WORDS])}
IDS = {"vocab_size": 30, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 3, "hidden_size": 12, "intermediate_size": 24}
GROUPED = {"num_key_value_heads": 1, "head_dim": 4, "max_position_embeddings": 24}
SLIDING = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}

# Architecture -> the name of its configuration and its arguments.
TEXT_MODELS = {
    "bert": ("BertConfig", IDS | LAYERS),
    "roberta": ("RobertaConfig", IDS | LAYERS | {"max_position_embeddings": 25, "type_vocab_size": 1}),
    "distilbert": ("DistilBertConfig", IDS | {"n_layers": 2, "n_heads": 3, "dim": 12, "hidden_dim": 24}),
    "albert": ("AlbertConfig", IDS | LAYERS | {"embedding_size": 8, "num_hidden_layers": 3}),
    "albert of two groups": (
        "AlbertConfig",
        IDS | LAYERS | {"embedding_size": 8, "num_hidden_layers": 4, "num_hidden_groups": 2},
    ),
    "deberta": (
        "DebertaConfig",
        IDS | LAYERS | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_position_embeddings": 24},
    ),
    "deberta-v2": (
        "DebertaV2Config",
        IDS | LAYERS | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8},
    ),
    "xlnet": ("XLNetConfig", IDS | {"d_model": 12, "n_layer": 2, "n_head": 3, "d_inner": 24}),
    "electra": ("ElectraConfig", IDS | LAYERS | {"embedding_size": 8}),
    "t5": (
        "T5Config",
        IDS | {"d_model": 12, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 3, "decoder_start_token_id": 0},
    ),
    "bart": (
        "BartConfig",
        IDS
        | {"max_position_embeddings": 24, "d_model": 12, "encoder_layers": 2, "decoder_layers": 3}
        | {"encoder_attention_heads": 3, "decoder_attention_heads": 3, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
        | {"decoder_start_token_id": 2},
    ),
    "gpt2": ("GPT2Config", IDS | {"n_positions": 24, "n_embd": 12, "n_layer": 2, "n_head": 3}),
    "gpt-neox": ("GPTNeoXConfig", IDS | LAYERS | {"max_position_embeddings": 24, "rotary_pct": 1.0}),
    "llama": ("LlamaConfig", IDS | LAYERS | GROUPED),
    "qwen2": ("Qwen2Config", IDS | LAYERS | GROUPED | {"vocab_size": 260, "max_position_embeddings": 64}),
    "qwen3": ("Qwen3Config", IDS | LAYERS | GROUPED),
    "mistral": ("MistralConfig", IDS | LAYERS | GROUPED | {"sliding_window": 4}),
    "gemma2": ("Gemma2Config", IDS | LAYERS | GROUPED | SLIDING | {"query_pre_attn_scalar": 4}),
    "gemma3": ("Gemma3TextConfig", IDS | LAYERS | GROUPED | SLIDING | {"query_pre_attn_scalar": 4}),
    "jamba": (
        "JambaConfig",
        IDS
        | LAYERS
        | {"num_key_value_heads": 1, "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1}
        | {"num_experts": 2, "use_mamba_kernels": False, "mamba_d_state": 4, "mamba_dt_rank": 2},
    ),
    "zamba": (
        "ZambaConfig",
        IDS
        | LAYERS
        | {"num_hidden_layers": 5, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False}
        | {"layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "mamba"], "num_key_value_heads": 3}
        | {"attention_hidden_size": 24, "attention_head_dim": 8, "mamba_d_state": 4, "n_mamba_heads": 1},
    ),
    "bamba": (
        "BambaConfig",
        IDS
        | LAYERS
        | {"num_key_value_heads": 1, "num_hidden_layers": 4, "attn_layer_indices": [1, 3], "mamba_n_heads": 2}
        | {"mamba_d_head": 12, "mamba_d_state": 4, "mamba_n_groups": 1, "mamba_chunk_size": 8},
    ),
    "falcon-h1": (
        "FalconH1Config",
        IDS
        | LAYERS
        | GROUPED
        | {"mamba_n_heads": 2, "mamba_d_head": 12, "mamba_d_ssm": 24, "mamba_d_state": 4, "mamba_n_groups": 1}
        | {"mamba_chunk_size": 8},
    ),
    "minimax": (
        "MiniMaxConfig",
        IDS
        | LAYERS
        | GROUPED
        | {"num_hidden_layers": 4, "layer_types": ["linear_attention", "full_attention"] * 2}
        | {"num_local_experts": 2, "num_experts_per_tok": 1},
    ),
    "qwen3-next": (
        "Qwen3NextConfig",
        IDS
        | LAYERS
        | GROUPED
        | {"num_hidden_layers": 4, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
        | {"layer_types": ["linear_attention", "full_attention"] * 2, "shared_expert_intermediate_size": 8}
        | {"linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 4}
        | {"linear_value_head_dim": 4},
    ),
}
START = {"t5": 0, "bart": 2}  # the id that a decoder is fed first
# Architecture -> the layers that return attention, and how many it has; [0, 1] of 2 where it is not named.
LAYERS_OF = {
    "albert": [(0, 1, 2)],
    "albert of two groups": [(0, 1, 2, 3)],
    "bart": [(0, 1), (0, 1, 2)],
    "t5": [(0, 1), (0, 1)],
    "jamba": [(1, 3)],
    "zamba": [(1, 3)],
    "bamba": [(1, 3)],
    "minimax": [(1, 3)],
    "qwen3-next": [(1, 3)],
}
TEMPLATES = {
    "t5": ("$A </s>", "$A </s> $B </s>"),
    "llama": ("<s> $A", "<s> $A $B:1"),
    "xlnet": ("$A </s> <s>", "$A </s> $B:1 </s>:1 <s>:2"),
} | dict.fromkeys(("bert", "roberta", "bart", "deberta", "electra"), ("<s> $A </s>", "<s> $A </s> </s> $B </s>"))


def texts_of(*texts):
    return tuple(Text(f"t:{n}", *text.split("|")) for n, text in enumerate(texts, 1))


SOME = texts_of(
    "the ferry",
    "bees the roof soup salt rain well path a text",
    "rain water|tide harbour",
    "a model shows the tide",
    "x",
    "bees the roof soup salt rain well path text",
)


def new_tokenizer(kind):
    """Makes a tokenizer of one token per word; for Qwen2, whose tokenizer is always one of bytes, one per byte."""
    if kind == "qwen2":
        letters = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
        tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        return tokenizer
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def save_tokenizer(folder, kind):
    tokenizer = new_tokenizer(kind)
    if kind in TEMPLATES:
        single, pair = TEMPLATES[kind]
        special = [("<s>", 1), ("</s>", 2)]
        tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token=None if kind in ("gpt2", "llama") else "<pad>",
        padding_side="left" if kind in ("xlnet", "llama") else "right",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)


def save_model(folder, kind, config):
    """Saves a model with random weights, large enough that its attention is not even, and the tokenizer of ``kind``."""
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if values.ndim > 1 and "norm" not in name.lower():
                values.normal_(std=0.4)
    model.save_pretrained(folder)
    save_tokenizer(folder, kind)
    return str(folder)


def small_model(folder, kind):
    name, arguments = TEXT_MODELS[kind]
    return save_model(folder, kind, getattr(transformers, name)(**arguments))


class Plain:
    """A plain call of a model for one text with ``output_attentions=True``, all layers at once."""

    def __init__(self, folder):
        self.model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.accepts = set(inspect.signature(self.model.forward).parameters)

    def measure(self, text, classifier, *, causal):
        """Measures, for each stack, the maps of a text from the whole tensor."""
        encoding = self.tokenizer(*[one for one in (text.first, text.second) if one], return_tensors="pt")
        arguments = {name: values for name, values in encoding.items() if name in self.accepts}
        if self.model.config.is_encoder_decoder:
            ids = encoding["input_ids"]
            start = torch.full_like(ids[:, :1], START[self.model.config.model_type])
            arguments["decoder_input_ids"] = torch.cat([start, ids[:, :-1]], 1)
        with torch.inference_mode():
            outputs = self.model(**arguments, output_attentions=True)
        names = ("encoder_attentions", "decoder_attentions") if "decoder_input_ids" in arguments else ("attentions",)
        return [
            self._measure(outputs[name], encoding, classifier, causal=one, shifted=name == "decoder_attentions")
            for name, one in zip(names, causal, strict=True)
        ]

    def _measure(self, layers, encoding, classifier, *, causal, shifted):
        kinds = getattr(self.model.config, "layer_types", None) or ()
        linear = [kind == "linear_attention" for kind in kinds] if len(kinds) == len(layers) else [False] * len(layers)
        layers = [None if other else layer for layer, other in zip(layers, linear, strict=True)]
        (one,) = inputs_of_layers(layers, encoding, self.tokenizer)
        tokens, segments = one.tokens, one.segments
        if shifted:
            start = self.tokenizer.convert_ids_to_tokens([START[self.model.config.model_type]])
            tokens, segments = (*start, *tokens[:-1]), np.concatenate([segments[:1], segments[:-1]])
        declaration = read_declaration(len(tokens), tokens=tokens, segments=segments, causal=causal)
        return classifier.measure_read(read_attention(one.attention, None), declaration)
