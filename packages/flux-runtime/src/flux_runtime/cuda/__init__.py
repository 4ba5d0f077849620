"""The engine `cuda`: pi0 and pi0.5 as a launch plan of a few Triton kernels."""
