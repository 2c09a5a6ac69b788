#!/usr/bin/env python3
"""PyTorch's side of `make bench`: times on request what tools/bench.c times, in the same rounds.

    python3 tools/bench_torch.py [--compile] [--as-it-comes] [--isa avx2]

Reads one request a line and answers each with "MILLISECONDS VARIANT", or "none" and the reason:

    net KIND SIZE BATCH train|head|infer        unet16, lenet, mlp, or a name of torchvision
    conv|deconv KERNEL STRIDE GROUPS IN OUT SIZE BATCH forward|data|weights
    gemm N                                      N x N times N x N, here and in numpy (OpenBLAS)
    start KIND SIZE                             a process that imports torch, loads weights and predicts once
    peak KIND SIZE BATCH                        three training steps in a process of its own; answers in megabytes
    forget                                      frees what was made so far

At the first request of a kind every variant is tried (memory layout; for inference traced and frozen, and optimised; with
--compile also torch.compile), and the fastest one is the peer from then on. Unless --as-it-comes, glibc is told to keep
large blocks, in huge pages: without that PyTorch pays page faults in every step. How many threads: OMP_NUM_THREADS.
"""
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings

TUNED = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "268435456",
         "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
LEAST = 1e-2            # seconds that a measurement takes at least


def restart_with(settings):
    """The allocator and oneDNN read the environment once, when a process starts."""
    if any(os.environ.get(name) != value for name, value in settings.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **settings})


def settings_of(options):
    settings = {} if "--as-it-comes" in options else dict(TUNED)
    if "--isa" in options:
        isa = options[options.index("--isa") + 1]
        settings.update(ONEDNN_MAX_CPU_ISA=isa.upper(), ATEN_CPU_CAPABILITY=isa.lower(), MKL_ENABLE_INSTRUCTIONS=isa.upper())
    return settings


if __name__ == "__main__":
    restart_with(settings_of(sys.argv))

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError:
    sys.exit("PyTorch is not installed")


# ---- networks ------------------------------------------------------------------------------

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


def lenet():
    return nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10))


def network(kind):
    if kind.startswith("unet"):
        return UNet(int(kind[4:]))
    if kind in ("lenet", "mlp"):
        return {"lenet": lenet, "mlp": mlp}[kind]()
    import torchvision
    return getattr(torchvision.models, kind)(num_classes=10)


def image(kind, size, batch, layout):
    own = re.match("unet|lenet|mlp", kind)
    return torch.randn(batch, 1 if own else 3, size, size).contiguous(memory_format=layout)


# ---- work: each function yields (name of the variant, what to run) -------------------------

def layouts():
    return (("planes", torch.contiguous_format), ("channels last", torch.channels_last))


def dice_loss(logits, target):
    p = logits.softmax(1)
    t = F.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2).float()
    both, total = (p * t).sum((0, 2, 3)), p.sum((0, 2, 3)) + t.sum((0, 2, 3))
    return ((1 - 2 * both / total.clamp_min(1e-7)) * (t.sum((0, 2, 3)) > 0)).mean()


def step_of(run, parameters, x, dense):
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
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


def training(kind, size, batch, compiled):
    for name, layout in layouts():
        net = network(kind).to(memory_format=layout)
        x = image(kind, size, batch, layout)
        yield name, step_of(net, net.parameters(), x, kind.startswith("unet"))
        if compiled:
            yield name + ", compiled", step_of(torch.compile(net), net.parameters(), x, kind.startswith("unet"))


def head_only(kind, size, batch, compiled):
    """The trunk does not learn and its batch norms keep their statistics."""
    for name, layout in layouts():
        net = network(kind).eval().to(memory_format=layout).requires_grad_(False)
        head = net.fc.requires_grad_(True)
        x = image(kind, size, batch, layout)
        yield name, step_of(net, head.parameters(), x, False)
        trunk = network(kind).eval().to(memory_format=layout).requires_grad_(False)
        trunk.fc = nn.Identity()
        frozen = torch.jit.freeze(torch.jit.trace(trunk, x))
        yield name + ", frozen", step_of(lambda x, trunk=frozen, head=head: head(trunk(x)), head.parameters(), x, False)
        if compiled:
            yield name + ", compiled", step_of(torch.compile(net), head.parameters(), x, False)


def inference(kind, size, batch, compiled):
    def predict(run, x):
        def once():
            with torch.inference_mode():
                run(x)
        return once

    for name, layout in layouts():
        net = network(kind).eval().to(memory_format=layout)
        x = image(kind, size, batch, layout)
        yield name + ", frozen", predict(torch.jit.freeze(torch.jit.trace(net, x)), x)
        yield name + ", optimised", predict(torch.jit.optimize_for_inference(torch.jit.trace(net, x)), x)
        if compiled:
            yield name + ", compiled", predict(torch.compile(net), x)


def layer(transposed, kernel, stride, groups, inputs, outputs, size, batch, which):
    for name, layout in layouts():
        if transposed:
            conv = nn.ConvTranspose2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        else:
            conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        conv = conv.to(memory_format=layout)
        x = torch.randn(batch, inputs, size, size).contiguous(memory_format=layout).requires_grad_(which != "weights")
        if which == "forward":
            yield name, lambda conv=conv, x=x: conv(x)
            continue
        y = conv(x)
        wanted = [x] if which == "data" else list(conv.parameters())
        dy = torch.randn(y.shape).contiguous(memory_format=layout)
        yield name, lambda y=y, wanted=wanted, dy=dy: torch.autograd.grad(y, wanted, dy, retain_graph=True)


def product(n):
    a, b, c = torch.randn(n, n), torch.randn(n, n), torch.empty(n, n)
    yield "torch", lambda: torch.mm(a, b, out=c)
    try:
        import numpy
    except ImportError:
        return
    x, y, z = a.numpy(), b.numpy(), c.numpy()
    yield "numpy", lambda: numpy.matmul(x, y, out=z)


# ---- processes of their own ----------------------------------------------------------------

START = """
import sys
sys.path.insert(0, {folder!r})
import torch, bench_torch
net = bench_torch.network({kind!r})
net.load_state_dict(torch.load({weights!r}))
with torch.inference_mode():
    net.eval()(bench_torch.image({kind!r}, {size}, 1, torch.contiguous_format)).argmax(1)
"""
PEAK = """
import sys
sys.path.insert(0, {folder!r})
import torch, bench_torch
_, step = next(bench_torch.training({kind!r}, {size}, {batch}, False))
for _ in range(3):
    step()
"""


def process(program, **fields):
    """Runs the program, with glibc's own settings: large blocks kept would count. The peak of its memory in megabytes."""
    text = program.format(folder=os.path.dirname(os.path.abspath(__file__)), **fields)
    as_it_comes = {name: value for name, value in os.environ.items() if name not in TUNED}
    child = subprocess.Popen([sys.executable, "-c", text], stdout=sys.stderr, env=as_it_comes)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise RuntimeError("a process of PyTorch failed")
    return usage.ru_maxrss * 1.024e-3


def start(kind, size):
    folder = tempfile.TemporaryDirectory()
    weights = os.path.join(folder.name, "weights.pt")
    torch.save(network(kind).state_dict(), weights)
    yield "process", lambda folder=folder: process(START, kind=kind, size=size, weights=weights)


# ---- requests ------------------------------------------------------------------------------

def time_once(run, least=LEAST):
    clock = time.process_time if os.environ.get("BENCH_CLOCK") == "cpu" else time.perf_counter
    begin, runs = clock(), 0
    while True:
        run()
        runs += 1
        seconds = clock() - begin
        if seconds >= least:
            return seconds / runs


def variants(words, compiled):
    numbers = [int(word) for word in words[1:] if word.isdigit()]
    if words[0] == "net":
        return {"train": training, "head": head_only, "infer": inference}[words[4]](words[1], *numbers, compiled)
    if words[0] in ("conv", "deconv"):
        return layer(words[0] == "deconv", *numbers, words[-1])
    if words[0] == "gemm":
        return product(*numbers)
    if words[0] == "start":
        return start(words[1], *numbers)
    raise ValueError("unknown request")


def fastest(words, compiled):
    """(seconds, name, what to run) of the fastest variant; a second run only where that costs little."""
    best = None
    for name, run in variants(words, compiled):
        try:
            seconds = time_once(run, 0)
            seconds = min([seconds] + [time_once(run) for _ in range(1 if seconds > 1 else 2)])
        except (RuntimeError, TypeError) as error:      # a variant that this PyTorch cannot run
            print(f"{' '.join(words)}, {name}: {error}", file=sys.stderr)
            continue
        if best is None or seconds < best[0]:
            best = (seconds, name, run)
    if best is None:
        raise RuntimeError("no variant runs")
    return best


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)                                       # what libraries print is no answer
    warnings.simplefilter("ignore")                     # jit is deprecated, and still the fastest for inference
    known = {}
    print(f"PyTorch {torch.__version__}", file=answers, flush=True)
    for line in sys.stdin:
        words = line.split()
        try:
            if words == ["forget"]:
                known.clear()
                continue
            if words[0] == "peak":
                print(f"{process(PEAK, kind=words[1], size=int(words[2]), batch=int(words[3])):.1f} process", file=answers, flush=True)
                continue
            if line not in known:
                known[line] = fastest(words, "--compile" in sys.argv)[1:]
            name, run = known[line]
            print(f"{1e3 * time_once(run):.6g} {name}", file=answers, flush=True)
        except (ImportError, AttributeError, RuntimeError, ValueError, KeyError) as error:
            print(f"none {str(error).splitlines()[0]}", file=answers, flush=True)


if __name__ == "__main__":
    main()
