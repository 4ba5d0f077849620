"""Names a config may use as `type`, and where each one lives."""

COMPONENTS: dict[str, str] = {
    "ParquetDataset": "flux_data.parquet_dataset:ParquetDataset",
    "DistributedRepeatingDataset": "flux_data.repeating_dataset:DistributedRepeatingDataset",
    "ProcessParquetInputs": "flux_data.process_inputs:ProcessParquetInputs",
    "DictCollator": "flux_data.collate:DictCollator",
}
