"""compiled.py on lines of XLA's text, and on programs of known cost."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from xmc_jax.parallel import sharding
from xmc_jax.planning import compiled


def program(*lines, computations=""):
    """A module whose entry has these lines."""
    body = "\n".join(f"  {line}" for line in lines)
    return compiled.read_program(
        f"HloModule m, is_scheduled=true\n\n{computations}\n"
        f"ENTRY %main (p: f32[8,4]) -> f32[8,4] {{\n{body}\n}}\n"
    )


@pytest.mark.parametrize(
    ("line", "kind", "num_bytes"),
    [
        ("%a = f32[8,4]{1,0} all-reduce(%p), to_apply=%add", "all-reduce", 128),
        ("%a = bf16[2,128]{1,0:T(8,128)(2,1)S(1)} all-gather(%p)", "all-gather", 512),
        ("%a = f8e4m3fn[16]{0} all-to-all(%p)", "all-to-all", 16),
        ("%a = u8[7]{0} collective-permute(%p)", "collective-permute", 7),
        ("%a = pred[3,5]{1,0:T(8,128)(4,1)} all-gather(%p)", "all-gather", 15),
        ("%a = s4[5]{0} all-gather(%p)", "all-gather", 3),
        ("%a = s32[] reduce-scatter(%p)", "reduce-scatter", 4),
        ("%a = c64[2]{0} collective-broadcast(%p)", "collective-broadcast", 16),
        # Several arrays that were combined into one collective.
        (
            "ROOT %a = (f32[2,3]{1,0:T(2,128)}, /*index=1*/bf16[5]{0:T(256)(128)(2,1)}, f32[]) "
            "all-reduce(%p, %p, %p), to_apply=%add",
            "all-reduce",
            24 + 10 + 4,
        ),
        # In two parts: what is begun has operand and result, what is done has the result.
        (
            "%s = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%p)\n"
            "  %d = f32[8,4]{1,0} all-gather-done(%s)",
            "all-gather",
            128,
        ),
        (
            "%s = (f32[2]{0:S(3)}, f32[2]{0:S(3)}, u32[]{:S(2)}, u32[]{:S(2)}) "
            "collective-permute-start(%p)\n"
            "  %d = f32[2]{0:S(3)} collective-permute-done(%s)",
            "collective-permute",
            8,
        ),
        (
            "%s = (f32[2]{0}, f32[3]{0}) all-reduce-start(%p, %p), to_apply=%add\n"
            "  %d = (f32[2]{0}, f32[3]{0}) all-reduce-done(%s)",
            "all-reduce",
            20,
        ),
    ],
)
def test_collectives_count_their_results(line, kind, num_bytes):
    assert compiled.collective_bytes(program(line)) == {kind: num_bytes}


def test_other_lines_are_no_collectives():
    lines = [
        "%all-reduce.1 = f32[8,4]{1,0} parameter(0)",
        "ROOT %f = f32[8,4]{1,0} fusion(%all-reduce.1), kind=kLoop, calls=%all-gather",
    ]
    inner = "%all-gather (q: f32[8,4]) -> f32[8,4] {\n  ROOT %q = f32[8,4]{1,0} parameter(0)\n}\n"
    assert compiled.collective_bytes(program(*lines, computations=inner)) == {}


LOOP = """
%body (b: (s32[], f32[8])) -> (s32[], f32[8]) {
  %b = (s32[], f32[8]{0}) parameter(0)
  %g = f32[8]{0} get-tuple-element(%b), index=1
  %r = f32[8]{0} all-reduce(%g), to_apply=%add
  ROOT %t = (s32[], f32[8]{0}) tuple(%i, %r)
}

%condition (c: (s32[], f32[8])) -> pred[] {
  %c = (s32[], f32[8]{0}) parameter(0)
  %bound = s32[]{:T(128)} constant(5)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %bound), direction=LT
}
"""


@pytest.mark.parametrize(
    ("note", "turns"),
    [('backend_config={"known_trip_count":{"n":"7"}}', 7), ("backend_config={}", 5)],
)
def test_loops_count_every_turn(note, turns):
    loop = f"%w = (s32[], f32[8]{{0}}) while(%p), condition=%condition, body=%body, {note}"
    assert compiled.collective_bytes(program(loop, computations=LOOP)) == {"all-reduce": 32 * turns}


def test_a_loop_without_a_bound_counts_once():
    endless = LOOP.replace("constant(5)", "parameter(1)")
    loop = "%w = (s32[], f32[8]{0}) while(%p), condition=%condition, body=%body"
    assert compiled.collective_bytes(program(loop, computations=endless)) == {"all-reduce": 32}


def test_a_real_loop_on_eight_devices():
    """Each of six turns gathers [64, 16], multiplies it, scatters [64, 16] and sums a scalar."""
    turns, rows, width = 6, 64, 16

    def layers(x, kernels):
        def layer(x, kernel):
            whole = jax.lax.all_gather(x, "data", tiled=True) @ kernel
            x = jax.lax.psum_scatter(whole, "data", tiled=True)
            return x, jax.lax.psum(jnp.sum(x), "data")

        return jax.lax.scan(layer, x, kernels)

    specs = {"in_specs": (P("data"), P()), "out_specs": (P("data"), P())}
    island = jax.jit(jax.shard_map(layers, mesh=sharding.make_mesh(), **specs))
    shapes = (rows, width), (turns, width, width)
    step = island.lower(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)).compile()
    found = compiled.read_program(step.as_text())
    assert compiled.collective_bytes(found) == {
        "all-gather": turns * rows * width * 4,
        "all-reduce": turns * 4,
        "reduce-scatter": turns * rows // 8 * width * 4,
    }
    product = 2 * rows * width * width
    flops = compiled.count_flops(step, found)
    assert turns * product <= flops <= 1.1 * turns * product
    assert step.cost_analysis()["flops"] < 1.2 * product  # What the compiler counts alone.
    largest = compiled.largest_collectives(found, 1)[0]
    assert (largest.shape, largest.op, largest.count) == ("f32[64,16]", "all-gather", turns)
    assert "all_gather" in largest.name


def count(function, *shapes):
    """Operations of the products in a program on one device, and of all by XLA's own count."""
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    step = jax.jit(function).lower(*args).compile()
    found = compiled.read_program(step.as_text())
    return sum(map(compiled.product_flops, found)), step.cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("options", "kernel"),
    [
        ({"window_strides": (1, 1), "padding": "SAME"}, (3, 3, 5, 7)),
        ({"window_strides": (2, 2), "padding": ((2, 1), (0, 3))}, (4, 4, 5, 7)),
        (
            {"window_strides": (1, 1), "padding": ((1, 1), (2, 0)), "lhs_dilation": (2, 2)},
            (3, 3, 5, 7),
        ),
        ({"window_strides": (1, 1), "padding": "VALID", "rhs_dilation": (2, 1)}, (3, 3, 5, 7)),
    ],
)
def test_convolutions_count_as_the_compiler_counts_them(options, kernel):
    def convolve(x, w):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, dimension_numbers=layout, **options)

    ours, theirs = count(convolve, (2, 9, 8, 5), kernel)
    assert ours == theirs > 0


def test_products_count_as_the_compiler_counts_them():
    ours, theirs = count(lambda a, b: jnp.einsum("bij,bkj->bik", a, b), (3, 16, 32), (3, 8, 32))
    assert ours == theirs == 2 * 3 * 16 * 8 * 32


def test_a_program_before_optimisation():
    """Each call of a function counts, under the caller's path; other platforms' forms do not."""

    @jax.jit
    def square(x):
        return jax.lax.platform_dependent(x, tpu=lambda x: x @ x, default=lambda x: x @ x @ x)

    def twice(x):
        with jax.named_scope("one"):
            x = square(x)
        with jax.named_scope("other"):
            return square(x)

    x = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    lowered = jax.jit(twice).trace(x).lower(lowering_platforms=("tpu",))
    found = compiled.read_program(lowered.as_text("hlo", debug_info=True))
    products = {i.name: compiled.product_flops(i) for i in found if compiled.product_flops(i)}
    assert list(products.values()) == 2 * [2 * 8**3]
    assert all(name in path for name, path in zip(("/one/", "/other/"), products, strict=True))


GEMM = (
    '%g = (f32[10,7]{1,0}, s8[64]{0}) custom-call(%x, %w), custom_call_target="__cublas$gemm", '
    'backend_config={"gemm_backend_config":{"dot_dimension_numbers":{'
    '"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}'
)


def cudnn(kind, result, *operands):
    return (
        f"%c = ({result}{{3,2,1,0}}, u8[0]{{0}}) custom-call({', '.join(operands)}), "
        "window={size=3x3 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, "
        f'custom_call_target="__cudnn$conv{kind}"'
    )


# One convolution with stride 2; along each axis one of its 3 x 4 taps is on padding.
IMAGES, KERNEL, OUT = "bf16[2,8,8,4]", "bf16[6,3,3,4]", "bf16[2,4,4,6]"
CONVOLUTION = 2 * 2 * 6 * 4 * (3 * 4 - 1) ** 2


@pytest.mark.parametrize(
    ("call", "flops"),
    [
        (GEMM, 2 * 10 * 20 * 7),
        (cudnn("Forward", OUT, "%images", "%kernel"), CONVOLUTION),
        (cudnn("BackwardInput", IMAGES, "%out", "%kernel"), CONVOLUTION),
        (cudnn("BackwardFilter", KERNEL, "%images", "%out"), CONVOLUTION),
        ('%o = f32[3]{0} custom-call(%x), custom_call_target="Other"', 0),
    ],
)
def test_calls_of_gpu_libraries_are_counted(call, flops):
    arguments = {"x": "f32[10,20]", "w": "f32[20,7]"}
    arguments |= {"images": IMAGES, "kernel": KERNEL, "out": OUT}
    lines = [f"%{name} = {shape} parameter(0)" for name, shape in arguments.items()]
    assert compiled.product_flops(program(*lines, call)[-1]) == flops


def test_memory_of_a_program():
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 32), (1, 32))]

    def update(x, y):
        return x + jnp.sort(x, axis=0) * y, y * 2

    step = jax.jit(update, donate_argnums=0).lower(*arrays).compile()
    memory = compiled.measure_memory(step)
    rows, row = 64 * 32 * 4, 32 * 4
    assert memory.arguments == rows + row
    assert memory.aliased == rows
    assert rows + row <= memory.outputs <= rows + row + 64  # And a table of the results.
    assert memory.temporaries >= rows  # The sorted copy.
    parts = memory.arguments + memory.temporaries + memory.outputs + memory.code
    assert memory.total == parts - rows


def test_largest_buffers_are_those_written_to_main_memory():
    fused = (
        "%fused (q: f32[8,4]) -> f32[64,4] {\n"
        "  %q = f32[8,4]{1,0} parameter(0)\n"
        "  %wide = f32[999,4]{1,0} broadcast(%q), dimensions={0,1}\n"
        "  ROOT %r = f32[64,4]{1,0} slice(%wide)\n}\n"
    )
    path = 'metadata={op_name="jit(f)/mul" stack_frame_id=1}'
    found = program(
        "%p = f32[1000,1000]{1,0} parameter(0)",
        f"%a = f32[64,4]{{1,0:T(8,128)}} fusion(%p), kind=kLoop, calls=%fused, {path}",
        "%b = bf16[16,128]{1,0:T(8,128)(2,1)} copy(%a)",
        "%c = bf16[16,128]{1,0:T(8,128)(2,1)} copy(%b)",
        "%near = f32[512,512]{1,0:T(8,128)S(1)} copy(%a)",
        "%sum = f32[256,256]{1,0:T(8,128)} all-reduce(%a), to_apply=%add",
        "ROOT %t = (f32[64,4]{1,0}, bf16[16,128]{1,0}) tuple(%a, %b)",
        computations=fused,
    )
    assert compiled.largest_buffers(found, 9) == [
        # Four columns take the place of 128.
        compiled.Buffer(64 * 128 * 4, "f32[64,4]", "fusion", "jit(f)/mul", 1),
        compiled.Buffer(16 * 128 * 2, "bf16[16,128]", "copy", "", 2),
    ]


def test_buffers_of_a_real_program():
    x = jax.ShapeDtypeStruct((128, 64), jnp.float32)

    def outer(x):
        with jax.named_scope("outer"):
            return jnp.sum(jnp.sort(x @ x.T, axis=0))

    found = compiled.read_program(jax.jit(outer).lower(x).compile().as_text())
    largest = compiled.largest_buffers(found, 1)[0]
    assert largest.num_bytes == math.prod((128, 128)) * np.dtype(np.float32).itemsize
    assert largest.shape == "f32[128,128]" and "outer" in largest.name
