"""fp8 and nvfp4 bit for bit as ml_dtypes rounds them; where it makes NaN of what is too large, ours saturates."""

import ctypes
import os
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Our functions on arrays: ours.to_fp8(floats) -> codes."""
    library = tmp_path_factory.mktemp("formats") / "formats.so"
    subprocess.run([os.environ.get("CXX", "g++"), "-std=c++20", "-O2", "-shared", "-fPIC", "-iquote", ROOT / "src",
                    ROOT / "tests/peer/formats.cpp", "-o", library], check=True)
    loaded = ctypes.CDLL(library)

    class Ours:
        @staticmethod
        def convert(name, values, result):
            getattr(loaded, name)(values.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(values.size),
                                  result.ctypes.data_as(ctypes.c_void_p))
            return result

        @staticmethod
        def nvfp4(name, values, count, scale, result):
            getattr(loaded, name)(values.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(count), ctypes.c_float(scale),
                                  result.ctypes.data_as(ctypes.c_void_p))
            return result

    return Ours


def dense_floats():
    """Every upper half of an fp32, with the lower halves where ties fall and beside them."""
    high = np.arange(1 << 16, dtype=np.uint32) << 16
    low = np.array([0, 1, 0x3fff, 0x4000, 0x7fff, 0x8000, 0x8001, 0xffff], dtype=np.uint32)
    return (high[:, None] | low).ravel().view(np.float32)


def test_fp8_is_ml_dtypes(ours):
    codes = np.arange(256, dtype=np.uint8)
    meant = ours.convert("from_fp8", codes, np.empty(256, np.float32))
    np.testing.assert_array_equal(meant, codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32))
    values = dense_floats()
    mine = ours.convert("to_fp8", values, np.empty(values.size, np.uint8))
    theirs = values.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    saturated = (theirs & 0x7f == 0x7f) & ~np.isnan(values)
    assert np.all(np.abs(values[saturated]) > 464)
    theirs[saturated] = (theirs[saturated] & 0x80) | 0x7e
    np.testing.assert_array_equal(mine[~np.isnan(values)], theirs[~np.isnan(values)])
    assert np.all(mine[np.isnan(values)] & 0x7f == 0x7f)


def test_e2m1_is_ml_dtypes(ours):
    codes = np.arange(16, dtype=np.uint8)
    meant = ours.convert("from_e2m1", codes, np.empty(16, np.float32))
    np.testing.assert_array_equal(meant, codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32))
    values = dense_floats()
    values = values[~np.isnan(values)]  # there is no NaN to compare
    mine = ours.convert("to_e2m1", values, np.empty(values.size, np.uint8))
    np.testing.assert_array_equal(mine, values.astype(ml_dtypes.float4_e2m1fn).view(np.uint8))


@pytest.mark.parametrize("scale", [1.0, 0.0625, 0.3])
def test_nvfp4_blocks_are_ml_dtypes(ours, scale):
    blocks = 1 << 14
    random = np.random.default_rng(1)
    values = random.standard_normal((blocks, 16), dtype=np.float32)
    values *= np.exp2(random.integers(-14, 12, (blocks, 1))).astype(np.float32)
    scale = np.float32(scale)
    largest = np.abs(values).max(axis=1)
    scales = np.minimum(largest / np.float32(6) / scale, np.float32(448)).astype(ml_dtypes.float8_e4m3fn)
    step = scales.astype(np.float32) * scale
    inverse = np.divide(np.float32(1), step, out=np.zeros_like(step), where=step > 0)
    codes = (values * inverse[:, None]).astype(ml_dtypes.float4_e2m1fn)
    bits = codes.view(np.uint8)
    packed = bits[:, 0::2] | bits[:, 1::2] << 4
    mine = ours.nvfp4("to_nvfp4", values, values.size, scale, np.empty(values.size // 16 * 9, np.uint8))
    np.testing.assert_array_equal(mine[:values.size // 2], packed.ravel())
    np.testing.assert_array_equal(mine[values.size // 2:], scales.view(np.uint8))
    meant = ours.nvfp4("from_nvfp4", mine, values.size, scale, np.empty(values.size, np.float32))
    np.testing.assert_array_equal(meant.reshape(values.shape), codes.astype(np.float32) * step[:, None])
