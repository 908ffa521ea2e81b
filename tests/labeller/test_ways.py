"""Modules that cannot do without the attention weights that they return: taken further outside, unchanged results."""

import numpy as np
import pytest
import torch
import transformers
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaModel,
    apply_rotary_pos_emb,
    repeat_kv,
)

from attention_patterns.labelling.sources.models.hugging_face import AttentionModel
from attention_patterns.labelling.sources.source import Selection
from tests.helpers.small_transformers import SOME, TEXT_MODELS, Plain, save_model

ENOUGH = 2**28  # bytes


class Softmax(torch.nn.Module):
    """A softmax that answers with a tuple, whose weights its caller goes on to use."""

    def forward(self, scores):
        return scores.softmax(-1), scores.logsumexp(-1)


class Attention(LlamaAttention):
    """Attention whose weights leave two modules: the softmax, and this."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.softmax = Softmax()

    def forward(self, hidden_states, position_embeddings, attention_mask=None, **_):
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = (
            project(hidden_states).view(shape).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        key, value = (repeat_kv(states, self.num_key_value_groups) for states in (key, value))
        weights, _ = self.softmax(query @ key.transpose(2, 3) * self.scaling + attention_mask)
        return self.o_proj((weights @ value).transpose(1, 2).flatten(2)), weights


class Layer(LlamaDecoderLayer):
    """A layer that goes on to use the weights that its attention returns, so that nothing inside can do without."""

    def forward(self, hidden_states, **arguments):
        mixed, weights = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **arguments)
        return hidden_states + mixed * (1 + weights.amax(dim=(1, 3))[..., None])


class InnerConfig(transformers.LlamaConfig):
    model_type = "llama-with-a-softmax"


class OuterConfig(transformers.LlamaConfig):
    model_type = "llama-whose-layers-use-weights"


class InnerModel(LlamaModel):
    config_class = InnerConfig

    def __init__(self, config):
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            layer.self_attn = Attention(config, index)
        self.post_init()


class OuterModel(LlamaModel):
    config_class = OuterConfig

    def __init__(self, config):
        super().__init__(config)
        self.layers = torch.nn.ModuleList([Layer(config, index) for index in range(config.num_hidden_layers)])
        self.post_init()


for config_class, model_class in ((InnerConfig, InnerModel), (OuterConfig, OuterModel)):
    transformers.AutoConfig.register(config_class.model_type, config_class)
    transformers.AutoModel.register(config_class, model_class)


@pytest.mark.parametrize(("config", "module", "kept"), [(InnerConfig, "layers.1.self_attn", 0), (OuterConfig, "", 2)])
def test_weights_that_a_module_goes_on_to_use_are_taken_further_outside(tmp_path, classifier, config, module, kept):
    folder = save_model(tmp_path, "llama", config(**TEXT_MODELS["llama"][1]))
    model, plain = AttentionModel(folder), Plain(folder)
    assert model._way.taps[-1].module == module
    assert model._way.layers_kept == kept
    found = model.measure(SOME, task="t", classifier=classifier, selection=Selection(), most_bytes=ENOUGH)
    for place, one in found:
        (whole,) = plain.measure(SOME[place], classifier, causal=[True])
        assert one.layers == (0, 1)
        assert np.abs(one.maps.images.astype(int) - whole.images).max() <= 1
        np.testing.assert_allclose(one.maps.evidence.row_entropy, whole.evidence.row_entropy, atol=1e-4)
