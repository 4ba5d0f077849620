"""The names that a config may use as `type`, and the class of each."""

COMPONENTS: dict[str, str] = {
    "ParquetDataset": "flux_data.samples.windows:ParquetDataset",
    "DistributedRepeatingDataset": "flux_data.samples.mixture:DistributedRepeatingDataset",
    "ProcessParquetInputs": "flux_data.samples.process_inputs:ProcessParquetInputs",
    "DictCollator": "flux_data.samples.collate:DictCollator",
}
