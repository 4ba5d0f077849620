"""What an exported network computes in: bf16, fp16, int8, and fp8 with its calibration."""
