#!/usr/bin/env python3
"""Voronoi labels of tinytl beside scipy's cKDTree, and rendered pairs per second, in one run.

    python3 tools/bench_grains.py        from the root of the repository; needs numpy, scipy and a C compiler
"""
import ctypes
import os
import statistics
import subprocess
import tempfile
import time

import numpy as np
from scipy.spatial import cKDTree

SIDE, SEEDS, ROUNDS = 512, 200, 15

with tempfile.TemporaryDirectory() as folder:
    library = os.path.join(folder, "tinytl.so")
    subprocess.run([os.environ.get("CC", "cc"), "-x", "c", "-std=c99", "-D_POSIX_C_SOURCE=200809L", "-O2", "-shared", "-fPIC",
                    "-DTINYTL_IMPLEMENTATION", "tinytl.h", "-o", library, "-lm", "-pthread"], check=True)
    tinytl = ctypes.CDLL(library)

points = np.random.default_rng(1).uniform(0, SIDE, (SEEDS, 2)).astype(np.float32)
ids = np.empty((SIDE, SIDE), np.int32)
y, x = np.mgrid[0:SIDE, 0:SIDE]
pixels = np.stack([x, y], -1).reshape(-1, 2).astype(np.float64)
ours, theirs = [], []
for _ in range(ROUNDS):
    start = time.perf_counter()
    failed = tinytl.tl_voronoi(points.ctypes.data_as(ctypes.c_void_p), SEEDS, SIDE, SIDE, ids.ctypes.data_as(ctypes.c_void_p))
    ours.append(time.perf_counter() - start)
    assert not failed
    start = time.perf_counter()
    nearest = cKDTree(points.astype(np.float64)).query(pixels)[1]
    theirs.append(time.perf_counter() - start)
different = int((nearest.reshape(SIDE, SIDE) != ids).sum())
a, b = statistics.median(ours), statistics.median(theirs)
print(f"labels of {SIDE}x{SIDE} pixels, {SEEDS} seeds: tinytl {1e3 * a:.2f} ms, cKDTree {1e3 * b:.1f} ms, {b / a:.0f} times; "
      f"{different} pixels differ (ties)")

# An image and its mask, of every look. NULL for the description: its defaults. Room for two structures tl_image.
image, mask = ctypes.create_string_buffer(256), ctypes.create_string_buffer(256)
PAIRS = 200
start = time.process_time()
for i in range(PAIRS):
    assert not tinytl.tl_grains(None, 0, i, None, mask, image)
each = (time.process_time() - start) / PAIRS
print(f"image and mask of 256x256 pixels: {1e3 * each:.1f} ms of one core, ten thousand in {10000 * each / 120:.1f} minutes of two")
