#!/usr/bin/env python3
"""The works of tools/cuda_bench.c in PyTorch on the same GPU.

    python3 tools/cuda_bench_torch.py [FILE.json]

Each work in four variants: eager float; channels last with autocast to bf16; the same compiled; the same compiled with CUDA graphs
(mode reduce-overhead). A figure is the median of seven runs; each step ends with the host knowing the loss.
"""
import json
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

from bench_torch import UNet, dice_loss


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc = nn.Sequential(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return self.fc(F.max_pool2d(F.relu(self.conv2(x)), 2).flatten(1))


def resnet18():
    from torchvision.models import resnet18 as make
    return make()


WORKS = [
    ("U-Net-16 256x256, batch 32, training step", lambda: UNet(16), 256, 1, 32, 2, True),
    ("U-Net-64 512x512, batch 8, training step", lambda: UNet(64), 512, 1, 8, 2, True),
    ("ResNet-18 224x224, batch 256, training step", resnet18, 224, 3, 256, 1000, True),
    ("LeNet-5, batch 64, training step", LeNet, 28, 1, 64, 10, True),
    ("U-Net-16 256x256, batch 1, prediction", lambda: UNet(16), 256, 1, 1, 2, False),
    ("ResNet-18 224x224, batch 1, prediction", resnet18, 224, 3, 1, 1000, False),
]
VARIANTS = {"eager": (False, None), "bf16": (True, None), "bf16 compiled": (True, "default"),
            "bf16 compiled, graphs": (True, "reduce-overhead")}


def measure(make, size, channels, batch, classes, train, half, mode):
    model = make().cuda().train(train)
    x = torch.randn(batch, channels, size, size, device="cuda")
    masks = isinstance(model, UNet)
    target = torch.randint(classes, (batch, size, size) if masks else (batch,), device="cuda")
    if half:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    run = torch.compile(model, mode=mode) if mode else model

    def step():
        with torch.autocast("cuda", torch.bfloat16, enabled=half), torch.set_grad_enabled(train):
            logits = run(x)
            if not train:
                return logits.float().cpu()
            loss = F.cross_entropy(logits.float(), target) + (dice_loss(logits.float(), target) if masks else 0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    for _ in range(8):
        step()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    step()
    steps = int(0.3 / (time.perf_counter() - begin + 1e-6)) + 1
    times = []
    for _ in range(7):
        begin = time.perf_counter()
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - begin) / steps * 1e3)
    return statistics.median(times)


def main():
    if not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU")
    torch.backends.cudnn.benchmark = True
    result = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "works": []}
    for name, make, size, channels, batch, classes, train in WORKS:
        entry = {"name": name}
        for variant, (half, mode) in VARIANTS.items():
            try:
                entry[variant] = measure(make, size, channels, batch, classes, train, half, mode)
                print(f"{name:48} torch {variant:22} {entry[variant]:9.3f} ms", flush=True)
            except Exception as error:      # a variant that this installation lacks
                print(f"{name:48} torch {variant:22} not possible: {str(error).splitlines()[0] if str(error) else type(error)}", flush=True)
            torch.cuda.empty_cache()
        result["works"].append(entry)
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
