"""`from_pretrained` passes on where a model comes from, and the variant whose files it needs."""

from dianjing import TextToImagePipeline
from dianjing.pipelines import base
from dianjing.weights.resolve import resolve_model


def test_options_of_a_download_reach_it_and_not_the_components(monkeypatch):
    calls = []

    def resolve(name, **options):
        calls.append((name, options))
        return resolve_model("sticker")

    monkeypatch.setattr(base, "resolve_model", resolve)
    options = {"source": "modelscope", "revision": "v2", "token": "secret", "local_files_only": True}
    TextToImagePipeline.from_pretrained("someone/some-model", **options)
    assert calls == [("someone/some-model", {**options, "variant": None})]
