"""Prompt embeddings: what is encoded, by which encoder, and under which names."""

from dataclasses import fields

import torch

from dianjing.pipelines.embeds import ENCODER_SUFFIXES, PromptEmbeds, TextEncoderOutput, get_embed_names
from dianjing.pipelines.prompt_embeds import encode_missing_prompts


def test_a_prompt_that_is_cut_is_warned_about(pipe, warnings):
    pipe.encode_prompt("cat " * 75)
    assert not warnings
    pipe.encode_prompt("cat " * 76)
    assert "78 tokens was cut to the 77" in warnings[0]


def test_the_end_that_an_encoder_does_not_read_is_in_the_output(pipe):
    end = "and two red hearts to the left of a dog"
    prompt = "a cat on the grass " * 14 + end
    settings = {"num_inference_steps": 1, "output_type": "latent"}
    (cut,) = pipe(prompt, negative_prompt="a dog", **settings).truncated
    assert (cut.name, cut.encoder, cut.max_tokens) == ("prompt", "text_encoder", 77)
    assert cut.num_tokens == len(pipe.tokenizer(prompt).input_ids) > 77
    assert end.endswith(cut.text) or cut.text.endswith(end)
    head = prompt.removesuffix(cut.text)
    assert len(pipe.tokenizer(head).input_ids) == 77, "the rest is what the encoder takes, and no more"
    (cut,) = pipe("a cat", negative_prompt=prompt, **settings).truncated
    assert cut.name == "negative_prompt"
    assert pipe("a cat", negative_prompt=prompt, guidance_scale=1.0, **settings).truncated == []


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
