"""Precisions of an exported network: bf16, fp16, int8, and fp8 with its calibration."""
