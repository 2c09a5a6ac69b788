#!/usr/bin/env python3
"""Golden images for tinytl's augmentation, computed by numpy in float64 from the definitions, independently of tinytl.h.

    pip install numpy
    python tools/golden_augment.py [tests/golden/augment.safetensors]

Each case is a pipeline whose parameters are fixed, so that nothing is random, with its result on one of three images. The metadata
map CASE to "input|pipeline".
"""
import json, struct, sys
import numpy as np

rng = np.random.RandomState(5)
def smooth(h, w, c):
    y, x = np.mgrid[0:h, 0:w]
    image = np.stack([0.5 + 0.25 * np.sin(x / (3.0 + k) + k) * np.cos(y / (4.0 - 0.5 * k)) + 0.12 * rng.rand(h, w) for k in range(c)], 2)
    return np.clip(image, 0, 1).astype(np.float32).astype(np.float64)
INPUTS = {"wide": smooth(33, 57, 1), "tall": smooth(57, 33, 2), "colour": smooth(20, 31, 3), "one": smooth(1, 1, 1), "line": smooth(1, 17, 1)}

# ---- geometry: source coordinates of every output pixel, borders, interpolation -------------------------------------------------
def border(i, n, mode):
    if mode == "wrap":
        return i % n
    if mode == "constant":
        return np.where((i < 0) | (i >= n), -1, i)
    if n == 1:
        return i * 0
    i = np.abs(i) % (2 * n - 2)
    return np.where(i < n, i, 2 * n - 2 - i)

def pixel(image, y, x, mode, fill):
    yy, xx = border(y, image.shape[0], mode), border(x, image.shape[1], mode)
    value = image[np.maximum(yy, 0), np.maximum(xx, 0)]
    return np.where(((yy < 0) | (xx < 0))[..., None], fill, value)

def sample(image, sx, sy, mode="reflect", fill=0.0, cubic=False):
    x0, y0 = np.floor(sx).astype(int), np.floor(sy).astype(int)
    u, v = sx - x0, sy - y0
    def weights(t):
        if not cubic:
            return {0: 1 - t, 1: t}
        a = -0.5
        near = lambda d: (a + 2) * d**3 - (a + 3) * d**2 + 1
        far = lambda d: a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
        return {-1: far(1 + t), 0: near(t), 1: near(1 - t), 2: far(2 - t)}
    out = 0
    for j, wy in weights(v).items():
        for i, wx in weights(u).items():
            out = out + (wy * wx)[..., None] * pixel(image, y0 + j, x0 + i, mode, fill)
    return np.clip(out, 0, 1) if cubic else out

def grid(h, w):
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    return x, y

def affine(image, degrees=0, scale=1, shear=0, dx=0, dy=0, **how):
    h, w = image.shape[:2]
    t, k = np.radians(degrees), np.tan(np.radians(shear))
    rotate = np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])       # counter-clockwise, y down
    back = np.linalg.inv(rotate @ np.array([[1, k], [0, 1]]) * scale)
    cx, cy = (w - 1) / 2, (h - 1) / 2
    x, y = grid(h, w)
    px, py = x - cx - dx, y - cy - dy
    return sample(image, back[0, 0] * px + back[0, 1] * py + cx, back[1, 0] * px + back[1, 1] * py + cy, **how)

def perspective(image, inward):
    h, w = image.shape[:2]
    corners = np.array([[0, 0], [w - 1, 0], [w - 1, h - 1], [0, h - 1]], float)
    to = np.array([[inward * (w - 1), inward * (h - 1)], [(1 - inward) * (w - 1), inward * (h - 1)],
                   [(1 - inward) * (w - 1), (1 - inward) * (h - 1)], [inward * (w - 1), (1 - inward) * (h - 1)]])
    rows, right = [], []
    for (x, y), (X, Y) in zip(corners, to):
        rows += [[x, y, 1, 0, 0, 0, -X * x, -X * y], [0, 0, 0, x, y, 1, -Y * x, -Y * y]]
        right += [X, Y]
    m = np.append(np.linalg.solve(np.array(rows), np.array(right)), 1).reshape(3, 3)
    x, y = grid(h, w)
    d = m[2, 0] * x + m[2, 1] * y + m[2, 2]
    return sample(image, (m[0, 0] * x + m[0, 1] * y + m[0, 2]) / d, (m[1, 0] * x + m[1, 1] * y + m[1, 2]) / d)

def resized(image, width, height):
    h, w = image.shape[:2]
    x, y = grid(height, width)
    return sample(image, (x + 0.5) * w / width - 0.5, (y + 0.5) * h / height - 0.5)

def padded(image, width, height, mode):
    h, w = image.shape[:2]
    x, y = grid(max(h, height), max(w, width))
    return sample(image, x - (max(w, width) - w) // 2, y - (max(h, height) - h) // 2, mode, 0.25)

# ---- grey values ----------------------------------------------------------------------------------------------------------------
def contrast(image, change):
    return np.clip(image.mean() + (1 + change) * (image - image.mean()), 0, 1)

def distribution(counts, limit=0.0):
    counts, n = counts.astype(float), counts.sum()
    most = max(1.0, limit * n / 256) if limit else n
    spread = np.maximum(counts - most, 0).sum() / 256
    return np.concatenate([[0], np.cumsum(np.minimum(counts, most) + spread)]) / n

def level(x):
    at = np.float32(x) * np.float32(256)
    k = np.minimum(at.astype(int), 255)
    return k, at - k

def equalize(image):
    out = np.empty_like(image)
    for c in range(image.shape[2]):
        k, rest = level(image[..., c])
        cdf = distribution(np.bincount(k.ravel(), minlength=256))
        out[..., c] = cdf[k] + rest * (cdf[k + 1] - cdf[k])
    return out

def clahe(image, clip, tiles):
    h, w = image.shape[:2]
    out = np.empty_like(image)
    for c in range(image.shape[2]):
        k, rest = level(image[..., c])
        tables = {}
        for j in range(tiles):
            for i in range(tiles):
                part = k[j * h // tiles:(j + 1) * h // tiles, i * w // tiles:(i + 1) * w // tiles]
                tables[j, i] = distribution(np.bincount(part.ravel(), minlength=256), clip)
        for y in range(h):
            v = (y + 0.5) * tiles / h - 0.5
            for x in range(w):
                u = (x + 0.5) * tiles / w - 0.5
                value = 0
                for dj in (0, 1):
                    for di in (0, 1):
                        table = tables[min(max(int(np.floor(v)) + dj, 0), tiles - 1), min(max(int(np.floor(u)) + di, 0), tiles - 1)]
                        y_of = table[k[y, x]] + rest[y, x] * (table[k[y, x] + 1] - table[k[y, x]])
                        value += (1 - abs(v - np.floor(v) - dj)) * (1 - abs(u - np.floor(u) - di)) * y_of
                out[y, x, c] = value
    return out

def jitter(image, brightness, contrast_factor, saturation, hue):
    import colorsys
    grey = lambda x: x @ np.array([0.299, 0.587, 0.114])
    image = np.clip(image * brightness, 0, 1)
    image = np.clip(grey(image).mean() * (1 - contrast_factor) + contrast_factor * image, 0, 1)
    image = np.clip(grey(image)[..., None] * (1 - saturation) + saturation * image, 0, 1)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            h, s, v = colorsys.rgb_to_hsv(*image[y, x])
            image[y, x] = colorsys.hsv_to_rgb((h + hue) % 1, s, v)
    return image

# ---- blur -----------------------------------------------------------------------------------------------------------------------
def convolve(image, taps):
    y, x = np.mgrid[0:image.shape[0], 0:image.shape[1]]
    return sum(w * pixel(image, y + dy, x + dx, "reflect", 0) for (dx, dy), w in taps.items())

def gaussian(sigma, radius):
    w = {(i, j): np.exp(-(i * i + j * j) / (2 * sigma**2)) for i in range(-radius, radius + 1) for j in range(-radius, radius + 1)}
    total = sum(w.values())
    return {k: v / total for k, v in w.items()}

def disk(radius):
    r = int(np.ceil(radius))
    w = {(i, j): np.clip(radius + 0.5 - np.hypot(i, j), 0, 1) for i in range(-r, r + 1) for j in range(-r, r + 1)}
    total = sum(w.values())
    return {k: v / total for k, v in w.items()}

def line(length, degrees):
    taps, points = {}, 2 * int(np.ceil(length)) + 1
    for i in range(points):
        s = length * (i / (points - 1) - 0.5)
        x, y = s * np.cos(np.radians(degrees)), -s * np.sin(np.radians(degrees))
        for di in (0, 1):
            for dj in (0, 1):
                key = (int(np.floor(x)) + di, int(np.floor(y)) + dj)
                weight = (1 - abs(x - np.floor(x) - di)) * (1 - abs(y - np.floor(y) - dj)) / points
                taps[key] = taps.get(key, 0) + weight
    return taps

CASES = [
    ("flip_x", ["wide", "tall", "one", "line"], lambda a: a[:, ::-1]),
    ("flip_y", ["wide", "tall", "one", "line"], lambda a: a[::-1]),
    ("rotate degrees=37", ["wide", "tall", "colour", "one", "line"], lambda a: affine(a, 37)),
    ("rotate degrees=-100 border=wrap", ["wide", "tall"], lambda a: affine(a, -100, mode="wrap")),
    ("rotate degrees=12 border=constant fill=0.25", ["wide", "tall"], lambda a: affine(a, 12, mode="constant", fill=0.25)),
    ("rotate degrees=30 bicubic=1", ["wide", "tall", "one", "line"], lambda a: affine(a, 30, cubic=True)),
    ("rotate degrees=8 bicubic=1 border=constant fill=0.25", ["wide"], lambda a: affine(a, 8, cubic=True, mode="constant", fill=0.25)),
    ("scale factor=1.7", ["wide", "tall", "line"], lambda a: affine(a, scale=1.7)),
    ("scale factor=0.4", ["wide"], lambda a: affine(a, scale=0.4)),
    ("shear degrees=25", ["wide", "tall"], lambda a: affine(a, shear=25)),
    ("shift pixels=3.25", ["wide", "tall", "line"], lambda a: affine(a, dx=3.25, dy=3.25)),
    ("affine degrees=20 scale=1.2 shear=-10 shift=2.5", ["wide", "tall"], lambda a: affine(a, 20, 1.2, -10, 2.5, 2.5)),
    ("rotate degrees=20; scale factor=1.3; rotate degrees=-5", ["wide"], lambda a: affine(a, 15, 1.3)),
    ("perspective inward=0.1", ["wide", "tall", "colour"], lambda a: perspective(a, 0.1)),
    ("resized_crop width=40 height=21 area=1 aspect=1.7272727", ["wide"], lambda a: resized(a, 40, 21)),
    ("pad width=70 height=61 border=wrap", ["wide", "tall"], lambda a: padded(a, 70, 61, "wrap")),
    ("pad width=70 height=61 border=constant fill=0.25", ["wide", "one"], lambda a: padded(a, 70, 61, "constant")),
    ("brightness shift=0.3", ["wide", "colour"], lambda a: np.clip(a + 0.3, 0, 1)),
    ("contrast change=0.8", ["wide", "tall", "one"], lambda a: contrast(a, 0.8)),
    ("brightness_contrast brightness=-0.15 contrast=0.4", ["wide"], lambda a: np.clip(a * 1.4 - 0.15, 0, 1)),
    ("gamma exponent=0.6", ["wide", "one"], lambda a: a**0.6),
    ("gamma exponent=2.5", ["colour"], lambda a: a**2.5),
    ("equalize", ["wide", "colour"], equalize),
    ("clahe clip=3 tiles=4", ["wide", "tall"], lambda a: clahe(a, 3, 4)),
    ("color_jitter brightness=1.2 contrast=0.7 saturation=1.4 hue=0.2", ["colour"], lambda a: jitter(a, 1.2, 0.7, 1.4, 0.2)),
    ("color_jitter brightness=0.8 contrast=1.3", ["wide"], lambda a: np.clip((a * 0.8).mean() + 1.3 * (a * 0.8 - (a * 0.8).mean()), 0, 1)),
    ("invert", ["wide"], lambda a: 1 - a),
    ("blur sigma=1.5", ["wide", "tall", "colour", "one", "line"], lambda a: convolve(a, gaussian(1.5, 5))),
    ("blur sigma=2 kernel=5", ["wide", "line"], lambda a: convolve(a, gaussian(2, 2))),
    ("defocus radius=3.3", ["wide", "colour", "one"], lambda a: convolve(a, disk(3.3))),
    ("motion_blur length=9 angle=30", ["wide", "tall", "line"], lambda a: convolve(a, line(9, 30))),
]

def main():
    tensors, cases = {}, {}
    for name, image in INPUTS.items():
        tensors["input/" + name] = image
    for number, (text, inputs, function) in enumerate(CASES):
        for name in inputs:
            case = f"{number:02d}_{name}"
            cases[case] = f"{name}|{text}"
            tensors["output/" + case] = np.asarray(function(INPUTS[name].copy()), np.float64)
    header, offset, body = {"__metadata__": cases}, 0, b""
    for name in sorted(tensors):
        data = np.ascontiguousarray(tensors[name].astype("<f4")).tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        body += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(sys.argv[1] if len(sys.argv) > 1 else "tests/golden/augment.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + body)
    print(len(cases), "cases,", len(body), "bytes")

main()
