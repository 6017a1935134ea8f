"""The data set reader takes any picture: each is read or refused by name, and nothing else is raised."""

import pytest

from dianjing.errors import DianjingError, Message
from dianjing.train.config.data import DatasetConfig
from dianjing.train.data.buckets import FileSample, make_bucket_shapes
from dianjing.train.data.index import build_index
from dianjing.train.data.inspect import decode_image
from dianjing.train.data.samples import LocalFile
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


def test_an_error_of_an_unreadable_picture_has_its_name(tmp_path):
    errors = {}
    for path in write_random_pictures(tmp_path, 60):
        try:
            decode_image(LocalFile(path), name=path.name)
        except DianjingError as error:
            errors[path.name] = error
    assert len(errors) > 5
    assert all(name in str(error) and name in error.render("zh") for name, error in errors.items())
