"""Records in windows: see also tests/pipelines/test_bulk.py, where models answer them."""

import pytest

from regard.data.records import open_records


def test_a_parquet_of_one_row_group_is_not_read_whole(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"text": [f"{number:0500d}" for number in range(40_000)]})
    parquet.write_table(table, tmp_path / "x.parquet", compression="none", use_dictionary=False, row_group_size=1 << 30)
    del table
    before, records = pyarrow.total_allocated_bytes(), open_records(tmp_path / "x.parquet")
    windows = records.windows(100)
    assert len(next(windows).records) == 100
    assert pyarrow.total_allocated_bytes() - before < 8 << 20  # of 20 MB
    assert sum(len(window.records) for window in windows) == 39_900
    records.close()
