"""The command `dianjing models`: the models that have a name in the registry."""

from typing import Any

from dianjing.cli.options import DebugOption, JsonOption, print_json
from dianjing.weights import registry


def models(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """List the models known by name."""
    rows = list_models()
    if as_json:
        print_json(rows)
        return
    for row in rows:
        pin = "" if row["revision"] or row["repository"] is None else "; not pinned to a revision"
        print(f"{row['name']:28}{row['location']:12}{row['licence']:28}{row['summary']}{pin}")
    print("\nInstead of a name, a folder of your own or a Hub id (owner/name) can be given.")


def list_models() -> list[dict[str, Any]]:
    """Return one row per registry entry."""
    return [
        {
            "name": model_info.name,
            "location": _get_location(model_info),
            "repository": model_info.repository,
            "modelscope_repository": model_info.modelscope_repository,
            "revision": model_info.revision,
            "licence": model_info.licence,
            "download_bytes": model_info.download_bytes,
            "summary": model_info.summary,
        }
        for model_info in registry.MODELS
    ]


def _get_location(model_info: registry.ModelInfo) -> str:
    if model_info.bundled_folder is not None:
        return "bundled" if (model_info.bundled_folder / "model_index.json").is_file() else "missing"
    assert model_info.repository is not None  # not bundled
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model_info.repository, "model_index.json", revision=model_info.revision)
    return "cached" if isinstance(cached, str) else f"{model_info.download_bytes / 1e9:.1f} GB"
