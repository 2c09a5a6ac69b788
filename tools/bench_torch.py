#!/usr/bin/env python3
"""The shapes of tools/bench.c in PyTorch, for comparison on the same machine in the same hour.

    python3 tools/bench_torch.py [--threads N] [--repeats N] [--json FILE] [--against build/bench.json] [--only TEXT]

--against prints the times of tinytl at as many threads beside PyTorch's, and how many times faster tinytl is.

Each figure is the best of the variants tried (memory layout; eager and, with --compile, torch.compile), each variant the
median of its repeats. For the honest peer let glibc keep large blocks in the heap:

    MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_TOP_PAD_=268435456 \\
        GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python3 tools/bench_torch.py
"""
import argparse
import json
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F


class DoubleConv(nn.Sequential):
    def __init__(self, inputs, outputs):
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class UNet(nn.Module):
    """The network that tl_unet builds: transposed up-convolutions, batch norm, padded convolutions."""

    def __init__(self, width=16, depth=4, classes=2):
        super().__init__()
        widths = [width << k for k in range(depth + 1)]
        self.down = nn.ModuleList(DoubleConv(a, b) for a, b in zip([1] + widths[:-2], widths[:-1]))
        self.mid = DoubleConv(widths[-2], widths[-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in reversed(widths[:-1]))
        self.dec = nn.ModuleList(DoubleConv(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x):
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.mid(x)
        for up, dec in zip(self.up, self.dec):
            x = dec(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)


def dice_loss(logits, target):
    p = logits.softmax(1)
    t = F.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2).float()
    both, total = (p * t).sum((0, 2, 3)), p.sum((0, 2, 3)) + t.sum((0, 2, 3))
    return ((1 - 2 * both / total.clamp_min(1e-7)) * (t.sum((0, 2, 3)) > 0)).mean()


def median_ms(function, repeats):
    function()
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def variants(make, compiled):
    for layout in (torch.contiguous_format, torch.channels_last):
        yield make(layout, lambda m: m)
        if compiled:
            yield make(layout, torch.compile)


def unet(width):
    return lambda: UNet(width)


def lenet():
    return nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10))


def backbone(name):
    def make():
        import torchvision
        return getattr(torchvision.models, name)(num_classes=10)
    return make


def training_step(network, shape, dense):
    def make(layout, wrap):
        net = network().to(memory_format=layout)
        run = wrap(net)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
        x = torch.randn(shape).contiguous(memory_format=layout)
        target = (x[:, 0] > 0).long() if dense else (x[:, 0, 0, 0] > 0).long()

        def step():
            optimizer.zero_grad(set_to_none=True)
            logits = run(x)
            loss = F.cross_entropy(logits, target)
            if dense:
                loss = loss + dice_loss(logits, target)
            loss.backward()
            optimizer.step()
        return step
    return make


def inference(network, shape):
    def make(layout, wrap):
        net = network().eval().to(memory_format=layout)
        x = torch.randn(shape).contiguous(memory_format=layout)
        if wrap is torch.compile:
            net = wrap(net)
        else:
            net = torch.jit.freeze(torch.jit.trace(net, x))

        def predict():
            with torch.inference_mode():
                net(x)
        return predict
    return make


def layer(channels, size, batch, which):
    def make(layout, wrap):
        conv = wrap(nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(memory_format=layout))
        x = torch.randn(batch, channels, size, size).contiguous(memory_format=layout).requires_grad_(which != "weights")
        dy = torch.randn(batch, channels, size, size).contiguous(memory_format=layout)
        wanted = {"data": [x], "weights": list(conv.parameters())}
        if which == "forward":
            return lambda: conv(x)
        y = conv(x)
        return lambda: torch.autograd.grad(y, wanted[which], dy, retain_graph=True)
    return make


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=0, help="0: as PyTorch chooses")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="also try torch.compile")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--against", help="results of tools/bench.c to compare with")
    parser.add_argument("--only", default="", help="only works whose name contains this")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    work = {}
    for width, batch in ((16, 8), (32, 2), (64, 2)):
        work[f"U-Net {width}, 256x256, batch {batch}, training step"] = training_step(unet(width), (batch, 1, 256, 256), True)
    for batch in (8, 1):
        work[f"U-Net 16, 256x256, batch {batch}, inference"] = inference(unet(16), (batch, 1, 256, 256))
    for name, batch in (("resnet18", 16), ("mobilenet_v2", 4), ("efficientnet_b0", 4)):
        work[f"{name}, 224x224, batch {batch}, training step"] = training_step(backbone(name), (batch, 3, 224, 224), False)
        work[f"{name}, 224x224, batch 1, inference"] = inference(backbone(name), (1, 3, 224, 224))
    work["LeNet-5, 28x28, batch 64, training step"] = training_step(lenet, (64, 1, 28, 28), False)
    work["MLP 784-512-10, batch 64, training step"] = training_step(mlp, (64, 1, 28, 28), False)
    for channels, size in ((16, 256), (32, 128), (64, 64), (128, 32), (256, 16)):
        for which in ("forward", "data", "weights"):
            name = f"3x3 {channels}-{channels}@{size} {which if which == 'forward' else 'backward ' + which}"
            work[name] = layer(channels, size, 8, which)
    ours = {}
    if options.against:
        with open(options.against, encoding="utf-8") as file:
            for row in json.load(file)["results"]:
                if row["way"] == "default" and row["threads"] == torch.get_num_threads():
                    ours[row["name"]] = row["ms"]
    results = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads; milliseconds, best variant")
    for name, make in work.items():
        if options.only not in name:
            continue
        try:
            results[name] = min(median_ms(run, options.repeats) for run in variants(make, options.compile))
        except ImportError as error:
            print(f"{name:50} skipped: {error}")
            continue
        ratio = f"  tinytl {ours[name]:10.2f}  {results[name] / ours[name]:6.2f}x" if name in ours else ""
        print(f"{name:50} {results[name]:10.2f}{ratio}", flush=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
