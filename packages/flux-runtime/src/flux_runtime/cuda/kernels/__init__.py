"""The Triton kernels of the engine `cuda`: the same source for a card and for Triton's interpreter.

Only the modules in this folder import triton. Kernels load bfloat16 or float32, compute in float32,
and round once when they store. Rows of a stream are tokens.

Some tables have one row per time k / N of the flow (N inference steps), so row 0 is that of t = 0.
Rows before `num_known` are known actions and use row 0; all others use row `time_row`.

In a kernel's signature, capital names without `constexpr` are sizes, and `do_not_specialize` lists
the integers whose divisibility does not matter.
"""
