#!/usr/bin/env python3
"""Times tinytl's augmentation beside albumentations (OpenCV) and torchvision, on one core, in one run.

    pip install numpy albumentations opencv-python-headless torch torchvision
    python tools/bench_augment.py [--sizes 256,512] [--rounds 5]

Each transform moves or changes one 8-bit grey image together with its mask; parameters are as alike as the libraries allow. Rounds
go through all libraries in turn, and medians are printed, so that what disturbs the machine disturbs all alike. Differences
that remain: the others return 8 bits, tinytl float; torchvision gets float tensors, without the conversion.
"""
import argparse, ctypes, os, subprocess, tempfile, time, warnings
import numpy as np
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
warnings.filterwarnings("ignore")
import cv2, torch, albumentations as A
from torchvision import tv_tensors
from torchvision.transforms import v2 as T
cv2.setNumThreads(1)
torch.set_num_threads(1)

G = (10**0.5 / 255, 50**0.5 / 255)           # deviation of GaussNoise(var_limit=(10, 50))
ROWS = [    # name, tinytl, albumentations, torchvision
    ("flip left-right", "flip_x", A.HorizontalFlip(p=1), T.RandomHorizontalFlip(1)),
    ("quarter turns", "rot90", A.RandomRotate90(p=1), None),
    ("rotate", "rotate degrees=-90..90", A.Rotate(limit=90, border_mode=cv2.BORDER_REFLECT_101, p=1), T.RandomRotation(90, T.InterpolationMode.BILINEAR)),
    ("affine", "affine degrees=-30..30 scale=0.8..1.2 shear=-10..10", A.Affine(rotate=(-30, 30), scale=(0.8, 1.2), shear=(-10, 10), border_mode=cv2.BORDER_REFLECT_101, p=1),
     T.RandomAffine(30, scale=(0.8, 1.2), shear=10, interpolation=T.InterpolationMode.BILINEAR)),
    ("perspective", "perspective inward=0..0.1", A.Perspective(scale=(0.05, 0.1), p=1), T.RandomPerspective(0.2, p=1)),
    ("elastic 120, 6", "elastic alpha=120 sigma=6", A.ElasticTransform(alpha=120, sigma=6, p=1), T.ElasticTransform(120.0, 6.0)),
    ("crop and resize", "resized_crop width={0} height={0}", lambda n: A.RandomResizedCrop((n, n), p=1), lambda n: T.RandomResizedCrop(n, antialias=False)),
    ("brightness, contrast", "brightness_contrast", A.RandomBrightnessContrast(p=1), T.ColorJitter(0.2, 0.2)),
    ("gamma", "gamma", A.RandomGamma(p=1), None),
    ("equalize", "equalize", A.Equalize(p=1), None),
    ("CLAHE", "clahe", A.CLAHE(p=1), None),
    ("Gaussian noise", "gauss_noise_grey variance=10..50", A.GaussNoise(std_range=G, p=1), T.GaussianNoise(0, 0.02)),
    ("Poisson noise", "poisson electrons=20..200", A.ShotNoise(p=1), None),
    ("salt and pepper", "salt_pepper", A.SaltAndPepper(p=1), None),
    ("blur, sigma 0.5 to 2", "blur sigma=0.5..2", A.GaussianBlur(blur_limit=0, sigma_limit=(0.5, 2), p=1), T.GaussianBlur(13, (0.5, 2))),
    ("defocus, radius 3", "defocus radius=3", A.Defocus(radius=(3, 3), alias_blur=(0.1, 0.1), p=1), None),
    ("motion blur 9", "motion_blur length=9", A.MotionBlur(blur_limit=(9, 9), p=1), None),
    ("erase", "erase", A.CoarseDropout(p=1), T.RandomErasing(1.0)),
    ("S0-16, the lectures' pipeline", "S0-16",
     A.Compose([A.HorizontalFlip(p=0.5), A.RandomRotate90(p=0.5), A.GaussNoise(std_range=G, p=0.3), A.RandomBrightnessContrast(p=0.3), A.ElasticTransform(alpha=120, sigma=6, p=0.2)]), None),
    ("S3-23a", "S3-23a",
     A.Compose([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5), A.RandomRotate90(p=0.5), A.RandomBrightnessContrast(0.2, 0.2, p=0.5), A.GaussNoise(std_range=G, p=0.3),
                A.ElasticTransform(alpha=50, sigma=5, p=0.3)]), None),
    ("S3-23b, the torchvision recipe", "S3-23b", None,
     T.Compose([T.RandomHorizontalFlip(), T.RandomVerticalFlip(), T.RandomRotation(180), T.ColorJitter(0.2, 0.2), T.GaussianBlur(5, (0.1, 2.0))])),
]

def presets():
    text = open("tinytl.h").read()
    found = {}
    for name in ("S0-16", "S3-23a", "S3-23b"):
        body = text[text.index('{ "%s", ' % name):]
        parts = body[:body.index("}")].split('"')[1::2]
        found[name] = "".join(parts[2:])
    return found

def time_of(run, seconds):
    """Seconds of one call, from as many as fit."""
    run(1)
    number, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds or number == 0:
        run(1)
        number += 1
    return (time.perf_counter() - start) / number

def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sizes", default="256,512")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=0.03, help="of one measurement")
    options.add_argument("--library", help="built before from tools/bench_augment.c; else it is built now")
    options = options.parse_args()
    known = presets()
    with tempfile.TemporaryDirectory() as folder:
        path = options.library or os.path.join(folder, "bench_augment.so")
        if not options.library:
            subprocess.run(["cc", "-std=c99", "-D_POSIX_C_SOURCE=200809L", "-O2", "-shared", "-fPIC", "tools/bench_augment.c", "-o", path, "-lm", "-lpthread"], check=True)
        tinytl = ctypes.CDLL(os.path.abspath(path))
        for size in map(int, options.sizes.split(",")):
            random = np.random.RandomState(1)
            image = cv2.GaussianBlur(random.randint(0, 256, (size, size), np.uint8), (0, 0), 3)
            image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)[..., None]
            mask = (image[..., 0] > 140).astype(np.uint8)
            tensor, label = tv_tensors.Image(torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255)), tv_tensors.Mask(torch.from_numpy(mask))
            print(f"\n{size}x{size}, images per second on one core, image and mask\n\n| | tinytl | albumentations {A.__version__} | torchvision {__import__('torchvision').__version__} | tinytl against the better |")
            print("|---|---|---|---|---|")
            for name, text, other, vision in ROWS:
                text = known.get(text, text.format(size))
                other, vision = (f(size) if callable(f) and not hasattr(f, "__call__") or type(f).__name__ == "function" else f for f in (other, vision))
                counter = [0]
                def ours(n):
                    counter[0] += n
                    if tinytl.bench_run(counter[0], n):
                        raise SystemExit(1)
                if tinytl.bench_prepare(text.encode(), image.ctypes.data_as(ctypes.c_char_p), mask.ctypes.data_as(ctypes.c_char_p), size, size, 1):
                    raise SystemExit(1)
                runs = [ours, (lambda n: other(image=image, mask=mask)) if other else None, (lambda n: vision(tensor, label)) if vision else None]
                times = [[], [], []]
                for _ in range(options.rounds):
                    for k, run in enumerate(runs):
                        if run:
                            times[k].append(time_of(run, options.seconds))
                rate = [1 / float(np.median(t)) if t else None for t in times]
                best = max(r for r in rate[1:] if r)
                print(f"| {name} | " + " | ".join(f"{r:.0f}" if r else "" for r in rate) + f" | {rate[0] / best:.1f}x |", flush=True)

main()
