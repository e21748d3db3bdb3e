"""Sixteen float32 numbers at a time, for functions compiled by Numba.

Numba has no vectors, and LLVM finds those of a resize or a blur only in part: sums stay in memory rather than in
registers, each loop tests whether arrays overlap, and each slice counts references. These are LLVM's own vectors, so
they compile for any processor (a register with AVX-512, two with AVX2, four with SSE or Neon). Indices are not checked.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

LANES = 16
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_BYTES = 4 * LANES


class _Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__("float32x16")


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)  # type: ignore[no-untyped-call]


_LANES = _Lanes()


def _instruction(typed: Callable[..., Any]) -> Any:
    """What compiled functions call: Numba adds the first argument of `typed`."""
    return intrinsic(typed)


def _function(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """One of LLVM's own functions."""
    kind = ir.FunctionType(result, arguments)
    return cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Address of `array[index]` of a contiguous array."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


def _read(builder: Any, place: Any) -> Any:
    """16 numbers from an address on, as float32."""
    element = place.type.pointee
    is_float = isinstance(element, ir.FloatType)
    size = 4 if is_float else element.width // 8
    found = builder.load(builder.bitcast(place, ir.VectorType(element, LANES).as_pointer()), align=size)
    return found if is_float else builder.uitofp(found, _VECTOR)


def _write(builder: Any, value: Any, place: Any, streamed: bool) -> None:
    wide = builder.bitcast(place, _VECTOR.as_pointer())
    stored = builder.store(value, wide, align=_BYTES if streamed else 4)
    if streamed:
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))


def _weight(context: Any, builder: Any, kind: Any, weights: Any, index: Any) -> Any:
    """16 times `weights[index]`."""
    number = builder.load(_place(context, builder, kind, weights, index))
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), number, ir.IntType(32)(0))
    return builder.shuffle_vector(one, one, _mask([0] * LANES))


def _mask(order: list[int]) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), LANES), order)


@_instruction
def load(_: Any, array: Any, index: Any) -> Any:
    """The 16 numbers from `array[index]` on."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _read(builder, _place(context, builder, signature.args[0], *args))

    return _LANES(array, types.intp), code


def _storing(streamed: bool) -> Callable[..., Any]:
    def store(_: Any, array: Any, index: Any, value: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _write(builder, args[2], _place(context, builder, signature.args[0], *args[:2]), streamed)
            return context.get_dummy_value()

        return types.void(array, types.intp, _LANES), code

    return store


store = _instruction(_storing(False))
"""`store(array, index, value)`: writes 16 numbers."""
store_streaming = _instruction(_storing(True))
"""The same past the cache, to an address that is a multiple of 64 bytes."""


@_instruction
def prefetch(_: Any, array: Any, index: Any) -> Any:
    """Starts reading the line of `array[index]` into the cache."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        place = builder.bitcast(_place(context, builder, signature.args[0], *args), address)
        started = _function(builder, "llvm.prefetch.p0", ir.VoidType(), [address, number, number, number])
        builder.call(started, [place, number(0), number(3), number(1)])  # to read, into all levels, data
        return context.get_dummy_value()

    return types.void(array, types.intp), code


@_instruction
def multiply(_: Any, value: Any, weights: Any, index: Any) -> Any:
    """`value * weights[index]`."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fmul(args[0], _weight(context, builder, signature.args[1], *args[1:]))

    return _LANES(_LANES, weights, types.intp), code


@_instruction
def add(_: Any, a: Any, b: Any) -> Any:
    """`a + b`."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(*args)

    return _LANES(_LANES, _LANES), code


@_instruction
def multiply_add(_: Any, total: Any, value: Any, weights: Any, index: Any) -> Any:
    """`total + value * weights[index]`, rounded once where the processor can."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        fused = _function(builder, f"llvm.fmuladd.v{LANES}f32", _VECTOR, [_VECTOR] * 3)
        return builder.call(fused, [args[1], _weight(context, builder, signature.args[2], *args[2:]), args[0]])

    return _LANES(_LANES, _LANES, weights, types.intp), code


def _pairs(builder: Any, a: Any, b: Any, first: list[int]) -> Any:
    """Per group of four: the two (or two pairs) of `a` and `b` that start at `first`, alternating."""
    order = [4 * group + place for group in range(LANES // 4) for place in first]
    return builder.shuffle_vector(a, b, _mask(order))


def _groups(builder: Any, a: Any, b: Any, first: int, step: int) -> Any:
    """Two groups of four of `a`, and the same two of `b`."""
    order = [base + 4 * (first + step * i) + j for base in (0, LANES) for i in range(2) for j in range(4)]
    return builder.shuffle_vector(a, b, _mask(order))


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """The columns of 16 rows of 16 numbers, in 64 shuffles of two registers."""
    found: list[Any] = [None] * LANES
    fours: list[list[Any]] = []
    for i in range(0, LANES, 4):
        a, b, c, d = rows[i : i + 4]
        low, high, lower, higher = (
            _pairs(builder, x, y, order)
            for x, y in ((a, b), (c, d))
            for order in ([0, LANES, 1, LANES + 1], [2, LANES + 2, 3, LANES + 3])
        )
        left, right = [0, 1, LANES, LANES + 1], [2, 3, LANES + 2, LANES + 3]
        fours.append(
            [_pairs(builder, x, y, order) for x, y in ((low, lower), (high, higher)) for order in (left, right)]
        )
    for j, (a, b, c, d) in enumerate(zip(*fours, strict=True)):
        for half in range(2):
            top, bottom = (_groups(builder, x, y, 2 * half, 1) for x, y in ((a, b), (c, d)))
            for i in range(2):
                found[4 * (2 * half + i) + j] = _groups(builder, top, bottom, i, 2)
    return found


def _transposing(streamed: bool) -> Callable[..., Any]:
    def transpose(_: Any, source: Any, at: Any, offsets: Any, first: Any, target: Any, to: Any, step: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source, at, offsets, first, target, to, step = args
            kinds = signature.args
            rows = []
            for i in range(LANES):
                place = _place(context, builder, kinds[2], offsets, builder.add(first, first.type(i)))
                index = builder.add(at, builder.load(place))
                rows.append(_read(builder, _place(context, builder, kinds[0], source, index)))
            for i, column in enumerate(_transposed(builder, rows)):
                index = builder.add(to, builder.mul(step, step.type(i)))
                _write(builder, column, _place(context, builder, kinds[4], target, index), streamed)
            return context.get_dummy_value()

        numbers = types.intp
        return types.void(source, numbers, offsets, numbers, target, numbers, numbers), code

    return transpose


transpose = _instruction(_transposing(False))
"""`transpose(source, at, offsets, first, target, to, step)`: transposes 16 rows of 16 numbers.

Row i is read from `source[at + offsets[first + i]]` on, column i is written from `target[to + i * step]` on.
"""
transpose_streaming = _instruction(_transposing(True))
"""The same, written past the cache, to addresses that are multiples of 64 bytes."""


@_instruction
def finish_streaming(_: Any) -> Any:
    """Makes what was written past the cache visible to other threads."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), code
