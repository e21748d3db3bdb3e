"""Released memory is used again within the context, and returned to the system behind it."""

import platform
import resource
import subprocess
import sys
import textwrap

import pytest
import torch

from lookalike.allocator import reusing_memory

BLOCK = 64 * 2**20
"""Bytes that glibc takes from the system by itself, and returns."""

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def faults(times: int) -> int:
    """Page faults of filling a block `times` times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(BLOCK // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def printed(program: str) -> str:
    """What a program prints."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout


@needs_glibc
def test_a_block_is_cleared_by_the_system_once() -> None:
    usual = faults(8)
    with reusing_memory():
        faults(1)
        within = faults(8)
    assert usual > 8 * BLOCK // 2**21  # at least one per huge page
    assert within < usual / 4
    assert faults(8) > usual / 2


@needs_glibc
def test_memory_goes_back_to_the_system_at_the_end_of_the_outermost_context() -> None:
    """In a process of its own: this one may have released memory that is used again."""
    sizes = printed("""
        import torch
        from lookalike.allocator import reusing_memory
        from lookalike.devices import used_bytes
        print(used_bytes())
        with reusing_memory():
            with reusing_memory():
                blocks = [torch.ones(2**24) for _ in range(4)]
                del blocks
            print(used_bytes())
        print(used_bytes())
    """)
    before, within, after = map(int, sizes.split())
    assert within > before + 3 * BLOCK
    assert after < before + BLOCK


@needs_glibc
def test_an_error_ends_the_context() -> None:
    with pytest.raises(KeyError), reusing_memory():
        raise KeyError
    assert faults(4) > 4 * BLOCK // 2**21


def test_other_c_libraries_are_left_alone() -> None:
    program = """
        import platform
        platform.libc_ver = lambda: ("musl", "1.2")
        from lookalike import allocator
        allocator.ctypes.CDLL = lambda name: 1 / 0
        with allocator.reusing_memory():
            print("done")
    """
    assert printed(program) == "done\n"
