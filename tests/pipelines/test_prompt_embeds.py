"""Prompt embeddings: what is encoded, by which encoder, and under which names."""

from dataclasses import fields

import torch

from dianjing.pipelines.prompt_embeds import (
    ENCODER_SUFFIXES,
    PromptEmbeds,
    TextEncoderOutput,
    encode_missing_prompts,
    get_embed_names,
)


def test_a_prompt_that_is_cut_is_warned_about(pipe, warnings):
    pipe.encode_prompt("cat " * 75)
    assert not warnings
    pipe.encode_prompt("cat " * 76)
    assert "78 tokens was cut to the 77" in warnings[0]


def test_encoded_prompts_are_not_encoded_again():
    states = TextEncoderOutput(embeds=torch.ones(2, 3, 4), attention_mask=torch.ones(2, 3))
    encoded_texts = []

    def encode_texts(texts):
        encoded_texts.extend(texts)
        return TextEncoderOutput(embeds=torch.zeros(len(texts), 3, 4), attention_mask=torch.zeros(len(texts), 3))

    positive, negative = encode_missing_prompts(states, ["a", "b"], encode_texts)
    assert positive is states
    assert encoded_texts == ["a", "b"]
    assert len(negative) == 2
    assert encode_missing_prompts(states, None, encode_texts) == (states, None)
    assert encoded_texts == ["a", "b"]


def test_the_names_of_both_encoders_are_all_fields():
    names = [name for encoder in range(len(ENCODER_SUFFIXES)) for name in get_embed_names(encoder)]
    assert sorted(names) == sorted(field.name for field in fields(PromptEmbeds))


def test_texts_are_encoded_like_prompts_without_guidance(pipe):
    embeds = pipe.encode_texts(["a cat", ""])
    states, _, mask, _ = pipe.encode_prompt("a cat", text_encoder_index=1)
    assert torch.equal(embeds.prompt_embeds_2[:1], states)
    assert torch.equal(embeds.prompt_attention_mask_2[:1], mask)
    assert embeds.negative_prompt_embeds is None


def test_negative_prompts_come_first_in_the_inputs_of_a_guided_model(pipe):
    names = ["prompt_embeds", "negative_prompt_embeds", "prompt_attention_mask", "negative_prompt_attention_mask"]
    tensors = {}
    for encoder, suffix in enumerate(ENCODER_SUFFIXES):
        encoded = pipe.encode_prompt("a cat", negative_prompt="a dog", text_encoder_index=encoder)
        tensors |= {name + suffix: tensor for name, tensor in zip(names, encoded, strict=True)}
    embeds = PromptEmbeds(**tensors)
    inputs = embeds.get_model_inputs(guided=True)
    assert torch.equal(inputs["encoder_hidden_states"][0], embeds.negative_prompt_embeds[0])
    assert torch.equal(inputs["encoder_hidden_states_t5"][1], embeds.prompt_embeds_2[0])
    assert len(embeds.get_model_inputs(guided=False)["text_embedding_mask_t5"]) == 1
