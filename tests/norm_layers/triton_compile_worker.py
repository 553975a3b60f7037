"""Compile every Triton kernel for GPUs that need not be here, in every variant, down to machine code."""

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from norm_layers import triton_kernels as kernels

INDICES = {"starts", "groups", "channels", "offsets", "group_offsets"}
VALUES = {"x", "y", "dy", "dx"}
SIZES = {"rows", "columns", "num_pieces", "chunk_rows", "num_groups", "num_chunks", "channel_columns"}
SIZES |= {"num_larger", "size", "num_channels"}


def compile_kernel(kernel, target, dtype, constants, ones):
    """Compile for a dtype of the input, with some sizes known to be 1, as Triton specialises them."""
    constants = constants | dict.fromkeys(ones, 1)
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in VALUES:
            signature[name] = f"*{dtype}"
        elif name in INDICES:
            signature[name] = "*i64"
        else:
            signature[name] = "i32" if name in SIZES else "fp32" if name == "eps" else "*fp32"
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    return triton.compile(ASTSource(kernel, signature, constexprs=constants), target=target)


if __name__ == "__main__":
    number = 0
    for architecture, dtype, ones in [
        (80, "fp32", ()),
        (90, "bf16", ()),
        (90, "fp16", ("rows", "chunk_rows", "num_chunks")),
        (90, "fp32", ("size", "channel_columns")),
    ]:
        for per_column, rows, columns in ((False, 4, 1024), (True, 64, 64), (False, 1, 1)):
            constants = {"PER_COLUMN": per_column, "ROWS": rows, "COLUMNS": columns, "PIECES": 128}
            constants |= {"HAS_WEIGHT": per_column, "HAS_BIAS": not per_column, "UNBIASED": per_column}
            for name in dir(kernels):
                if name.endswith("_kernel"):
                    target = GPUTarget("cuda", architecture, 32)
                    compiled = compile_kernel(getattr(kernels, name), target, dtype, constants, ones)
                    number += len(compiled.asm["cubin"]) > 0
    print(number)
