"""Writes the files of this folder with the programs that they are named after, as each does by default.

    pip install pandas polars duckdb pyspark pyarrow    (pyspark needs Java)
    python tests/integration/foreign/make.py

They are kept, so that tests need none of these programs. `rows.json` holds the rows of all of them.
"""

import json
import shutil
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROWS: list[dict[str, Any]] = json.loads((HERE / "rows.json").read_text())


def with_pandas() -> None:
    """Whole numbers with their own index, texts as categories, and times that nobody asks for."""
    import pandas as pd

    frame = pd.DataFrame(ROWS)
    frame["at"] = pd.Timestamp("2026-01-01") + pd.to_timedelta(range(len(frame)), unit="min")
    frame.set_index("user").to_parquet(HERE / "pandas.parquet")
    frame.astype({"item": "category"}).to_feather(HERE / "pandas.feather")


def with_polars() -> None:
    import polars as pl

    frame = pl.DataFrame(ROWS)
    frame.write_parquet(HERE / "polars.parquet")
    frame.with_columns(pl.col("item").cast(pl.Categorical)).write_ipc(HERE / "polars.arrow", compression="zstd")


def with_duckdb() -> None:
    import duckdb

    source = HERE / "rows.json"
    columns = "y: 'BIGINT', user: 'INTEGER', item: 'VARCHAR', price: 'DECIMAL(9, 3)'"
    read = f"read_json('{source}', format = 'array', columns = {{{columns}}})"
    duckdb.sql(f"COPY (SELECT * FROM {read}) TO '{HERE / 'duckdb.parquet'}' (FORMAT parquet)")
    duckdb.sql(f"COPY (SELECT * FROM {read}) TO '{HERE / 'duckdb.csv'}' (HEADER)")


def with_spark() -> None:
    """A folder with `_SUCCESS`, checksums, INT96 times and a file that may be empty."""
    from pyspark.sql import SparkSession

    spark = (
        SparkSession.builder.master("local[1]").config("spark.sql.parquet.outputTimestampType", "INT96").getOrCreate()
    )
    schema = "y INT, user BIGINT, item STRING, price DOUBLE"
    frame = spark.createDataFrame([(r["y"], r["user"], r["item"], r["price"]) for r in ROWS], schema)
    frame = frame.selectExpr("*", "timestamp '2026-01-01 00:00:00' AS at")
    frame.coalesce(1).write.mode("overwrite").parquet(str(HERE / "spark"))
    spark.stop()


if __name__ == "__main__":
    with_pandas()
    with_polars()
    with_duckdb()
    if shutil.which("java"):
        with_spark()
