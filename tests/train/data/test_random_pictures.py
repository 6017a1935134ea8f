"""The data set reader takes any picture: each is read or refused by name, and nothing else is raised."""

from dataclasses import replace

import pytest

from dianjing.errors import DianjingError, Message
from dianjing.train.config.data import DatasetConfig
from dianjing.train.data.buckets import FileSample, make_bucket_shapes
from dianjing.train.data.fitting import make_loss_mask
from dianjing.train.data.index import build_index
from dianjing.train.data.inspect import decode_image, inspect_records
from dianjing.train.data.samples import LocalFile
from dianjing.train.data.sources import list_dataset
from tests.random_pictures import write_random_pictures


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_random_pictures_are_read_or_refused_by_name(tmp_path, count):
    names = {path.name for path in write_random_pictures(tmp_path, count)}
    config = DatasetConfig(path=tmp_path, default_caption="a picture")
    shapes = make_bucket_shapes(64, multiple_px=16, max_aspect_ratio=2.0)
    index = build_index([config], lambda _: shapes, min_side_px=1, max_rejected_fraction=1.0)
    assert {record.name for record in index.list_records()} | {
        name.removeprefix(f"{tmp_path}: ") for name in index.rejected
    } == names
    assert index.count > count // 2
    for name, reason in index.rejected.items():
        line = Message("sample_problem", name=name, reason=reason)
        assert name in str(line)
        assert name in line.render("zh")
    for shape, records in index.records.items():
        for record in records:
            assert FileSample(record, shape).image.shape == (*shape[:2], 3)


def test_masks_of_random_pictures_are_read_or_refused_by_name(tmp_path):
    """Their alpha, and any picture as the mask of another."""
    paths = write_random_pictures(tmp_path, 80)
    records = list_dataset(DatasetConfig(path=tmp_path, default_caption="a", loss_mask="alpha", fit="pad")).records
    mask = LocalFile(paths[1])
    records = [*records, *(replace(record, loss_mask=mask) for record in records[:20])]
    result = inspect_records(records, min_side_px=1)
    assert len(result.records) > 30
    for record, size in zip(result.records, result.sizes, strict=True):
        counted = make_loss_mask(record, size, height=32, width=48)
        assert counted is None or counted.shape == (32, 48)
    assert all(name in str(Message("sample_problem", name=name, reason=r)) for name, r in result.rejected.items())


def test_an_error_of_an_unreadable_picture_has_its_name(tmp_path):
    errors = {}
    for path in write_random_pictures(tmp_path, 60):
        try:
            decode_image(LocalFile(path), name=path.name)
        except DianjingError as error:
            errors[path.name] = error
    assert len(errors) > 5
    assert all(name in str(error) and name in error.render("zh") for name, error in errors.items())
