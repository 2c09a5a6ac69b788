#!/usr/bin/env python3
"""Golden numbers for tinytl's tests, computed by PyTorch in float64.

    pip install torch numpy torchvision timm
    python tools/golden.py [--out tests/golden] [--only ops]

Writes ops, losses, optim, models and, in a form of their own, backbones and resize.safetensors. Their `__metadata__` maps each CASE to a network in tinytl's text form, which
this script runs in torch; tensors are called CASE/KIND/NAME. Kinds: in, out, gout (gradient given at a node), gin (gradient that
arrives at an input): N,H,W,C. param, gparam, buffer, buffer_after: torch's names and layouts. target_index/TERM: N,H,W;
target_dense/TERM: N,H,W,C; target_weight/TERM: N,H,W; loss/total: a scalar. Optimizers: param/theta [n], grads/theta [steps,n], result/theta [steps,n] after
each step; lr/lr: the rate of each step; losses/curve: the loss before each training step. "# mode=eval" in the text means
inference, forward only; all else is training mode.

Random inputs and parameters are values that float32 holds exactly. Numbers in the text are rounded to float32, as tinytl's
descriptors hold them; defaults are not. The random stream is frozen (numpy's RandomState, seeded by the case's name), so a rerun
gives identical bytes with the same torch on the same machine; elsewhere the last digits may differ. Needs Python 3.10.
"""
import argparse, json, math, os, re, struct, warnings, zlib
import numpy as np
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
warnings.filterwarnings("ignore", message="Using padding='same'")

# ---- the text form ------------------------------------------------------------------------------------------------------------
KEYS = set("""height width channels out kernel kernel_w stride stride_w pad pad_w dilation dilation_w output_pad output_pad_w groups
    same no_bias eps momentum no_affine slope ceil_mode exclude_pad factor mode p weight class_weight smoothing ignore_index gamma
    alpha delta dense lr dampening nesterov beta1 beta2 weight_decay no_weight_decay clip_norm period total warmup min_lr rise
    start_div final_div each heads first rank channels_first fill deviation whole pixel_weights""".split())

def number(text):
    if "," in text:
        return [number(t) for t in text.split(",")]
    return text if text.isalpha() else int(text) if re.fullmatch(r"-?\d+", text) else float(np.float32(text))

def options(words):
    keys = dict(w.split("=") for w in words.split())
    assert set(keys) <= KEYS, keys
    return {k: number(v) for k, v in keys.items()}

def parse(text):
    """-> nodes [(name, op, inputs, keys)], losses [(kind, node, keys)]"""
    nodes, losses = [], []
    for line in text.split("\n"):
        if m := re.fullmatch(r"loss (\w+)\(([\w.-]+)\)(.*)", line):
            losses.append((m[1], m[2], options(m[3])))
        elif not line.startswith(("#", "optimizer", "schedule")):
            m = re.fullmatch(r"([\w.-]+) = (\w+)\(([^)]*)\)(.*)", line)
            nodes.append((m[1], m[2], re.findall(r"[\w.-]+", m[3]), options(m[4])))
    return nodes, losses

def pair(k, key, default=0):
    """(height, width) of an option: 0 is the default for height, and for width the same as height."""
    h = k.get(key) or default
    return h, k.get(key + "_w") or h

# ---- the operations in torch; values are N,C,H,W ------------------------------------------------------------------------------
def parameter_shapes(op, x, k):
    if op == "parameter":
        h, w, c = (k.get(key, 1) for key in ("height", "width", "channels"))
        return {"": (c,) if k.get("rank") else (c, h, w) if k.get("channels_first") else (h, w, c)}
    if op.endswith("_norm") and not k.get("no_affine"):
        return {"weight": x.shape[1:2], "bias": x.shape[1:2]}
    c, groups, bias = x.shape[1], k.get("groups", 1), {} if k.get("no_bias") else {"bias": (k.get("out"),)}
    if op == "conv2d":
        return {"weight": (k["out"], c // groups, *pair(k, "kernel")), **bias}
    if op == "conv_transpose2d":
        return {"weight": (c, k["out"] // groups, *pair(k, "kernel")), **bias}
    return {"weight": (k["out"], c if k.get("each") else x[0].numel()), **bias} if op == "dense" else {}

def apply(op, xs, k, w, b, stats, training, batch):
    if op == "parameter":
        w = w[:, None, None] if w.dim() == 1 else w if k.get("channels_first") else w.permute(2, 0, 1)
        return w.expand(batch, *w.shape)
    x, eps = xs[0], k.get("eps", 1e-5)
    if op == "conv2d":
        pad = "same" if k.get("same") else pair(k, "pad")
        return F.conv2d(x, w, b, pair(k, "stride", 1), pad, pair(k, "dilation", 1), k.get("groups", 1))
    if op == "conv_transpose2d":
        return F.conv_transpose2d(x, w, b, pair(k, "stride", 1), pair(k, "pad"), pair(k, "output_pad"), k.get("groups", 1),
                                  pair(k, "dilation", 1))
    if op == "dense" and k.get("each"):
        return F.linear(x.permute(0, 2, 3, 1), w, b).permute(0, 3, 1, 2)
    if op == "tokens":
        return torch.cat([t.flatten(2) for t in xs], 2)[:, :, None]
    if op == "select":
        first, h, w = k.get("first", 0), k["height"], k["width"]
        return x.flatten(2)[:, :, first:first + h * w].unflatten(2, (h, w))
    if op == "attention":                           # N, 3C, H, W -> three of N, heads, T, C / heads
        q, key, v = x.flatten(2).unflatten(1, (3, k["heads"], -1)).transpose(3, 4).unbind(1)
        return F.scaled_dot_product_attention(q, key, v).transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:])
    if op == "dense":
        return F.linear(x.flatten(1), w, b)[:, :, None, None]
    if op == "batch_norm":
        return F.batch_norm(x, *stats, w, b, training, k.get("momentum", 0.1), eps)
    if op == "group_norm":
        return F.group_norm(x, k["groups"], w, b, eps)
    if op == "layer_norm":
        return F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], w, b, eps).permute(0, 3, 1, 2)
    if op in ("max_pool2d", "avg_pool2d"):
        kernel, ceil = pair(k, "kernel"), bool(k.get("ceil_mode"))
        stride = pair(k, "stride") if k.get("stride") else (kernel[0], k.get("stride_w") or kernel[1])
        if op == "max_pool2d":
            return F.max_pool2d(x, kernel, stride, pair(k, "pad"), 1, ceil)
        return F.avg_pool2d(x, kernel, stride, pair(k, "pad"), ceil, not k.get("exclude_pad"))
    if op == "upsample":
        return F.interpolate(x, scale_factor=k["factor"], mode=k["mode"], align_corners=False if k["mode"] == "bilinear" else None)
    assert not (op == "dropout" and training)
    return {"leaky_relu": lambda: F.leaky_relu(x, k["slope"]), "softmax": lambda: F.softmax(x, 1), "dropout": lambda: x,
            "adaptive_avg_pool2d": lambda: F.adaptive_avg_pool2d(x, (k["height"], k["width"])), "concat": lambda: torch.cat(xs, 1),
            "add": lambda: xs[0] + xs[1], "mul": lambda: xs[0] * xs[1],
            "flatten": lambda: x.reshape(x.shape[0], -1, 1, 1)}.get(op, lambda: getattr(F, op)(x))()

# ---- the losses: means over what counts ---------------------------------------------------------------------------------------
def mean(loss, counted, w):
    """w: N,H,W weights of the positions, or None"""
    if w is None:
        return loss[counted].mean()
    w = (w if loss.ndim == 3 else w[:, None]) * counted
    return (w * loss).sum() / w.expand_as(loss).sum()

def loss_term(kind, z, target, k, w=None):
    """target: N,H,W class numbers, or N,C,H,W values"""
    index, classes = target.dtype == torch.int64, z.shape[1]
    by_class = index and classes > 1
    counted = (target >= 0) & (target != (k.get("ignore_index") or -1)) if index else torch.ones_like(target, dtype=torch.bool)
    if not counted.any():
        return 0 * z.sum()                          # torch would give NaN
    target = torch.where(counted, target, 0)
    if index and not by_class:                      # one channel: the class is the value
        counted, target = counted[:, None], target[:, None].double()
    if kind == "cross_entropy":
        weight = torch.tensor(k["class_weight"], dtype=torch.float64) if "class_weight" in k else None
        target = torch.where(counted, target, -100) if index else target
        if w is not None:
            loss = F.cross_entropy(z, target, weight, ignore_index=-100, label_smoothing=k.get("smoothing", 0.0), reduction="none")
            w = w * counted.reshape(w.shape) if index else w
            return (w * loss).sum() / (w * weight[target.clamp_min(0)] if weight is not None and index else w).sum()
        return F.cross_entropy(z, target, weight, ignore_index=-100, label_smoothing=k.get("smoothing", 0.0))
    if kind == "bce":
        return mean(F.binary_cross_entropy_with_logits(z, target, reduction="none"), counted, w)
    if kind == "dice":                              # segmentation_models_pytorch: DiceLoss, smooth 0
        p = F.softmax(z, 1) if by_class else torch.sigmoid(z)
        if by_class:
            target, counted = F.one_hot(target, classes).permute(0, 3, 1, 2).double(), counted[:, None]
        counted = counted if w is None else counted * w[:, None]
        p, target = p * counted, target * counted
        total = (p + target).sum((0, 2, 3))
        both = (total - (p - target).abs().sum((0, 2, 3))) / 2
        return ((1 - 2 * both / total.clamp_min(1e-7)) * (target.sum((0, 2, 3)) > 0)).mean()
    if kind == "focal":
        gamma, alpha = k.get("gamma") or 2, k.get("alpha")
        if by_class:
            log_p = F.log_softmax(z, 1).gather(1, target[:, None])[:, 0]
            return mean(-(1 - log_p.exp()) ** gamma * log_p, counted, w)
        p = torch.sigmoid(z)                        # torchvision: sigmoid_focal_loss
        loss = F.binary_cross_entropy_with_logits(z, target, reduction="none")
        loss = loss * (1 - (p * target + (1 - p) * (1 - target))) ** gamma
        return mean(loss * (alpha * target + (1 - alpha) * (1 - target)) if alpha else loss, counted, w)
    if kind == "huber":
        return mean(F.huber_loss(z, target, delta=k.get("delta") or 1.0, reduction="none"), counted, w)
    return mean({"mse": F.mse_loss, "l1": F.l1_loss}[kind](z, target, reduction="none"), counted, w)

# ---- optimizers and schedules -------------------------------------------------------------------------------------------------
class Lion(torch.optim.Optimizer):
    """lion-pytorch's update: decay, then the sign of the interpolated momentum, then the momentum."""
    def __init__(self, params, lr, betas, weight_decay=0.0):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            (b1, b2), lr = group["betas"], group["lr"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.mul_(1 - lr * group["weight_decay"])
                p.sub_(lr * torch.sign(b1 * m + (1 - b1) * p.grad))
                m.mul_(b2).add_((1 - b2) * p.grad)

def make_optimizer(text, params):
    """-> (a function that makes one step of the rule in `text`, the torch optimizer)"""
    m = re.search(r"^optimizer (\w+)(.*)$", text, re.M)
    kind, k = m[1], options(m[2])
    lr, momentum = k["lr"], k.get("momentum", 0.0)
    more = {key: k[key] for key in ("eps", "weight_decay") if key in k}         # not given: torch's default
    if k.get("no_weight_decay"):
        more["weight_decay"] = 0.0
    betas = k.get("beta1", 0.9), k.get("beta2", 0.99 if kind == "lion" else 0.999)
    optimizer = {
        "sgd": lambda o: o.SGD(params, lr, momentum, k.get("dampening", 0.0), nesterov=bool(k.get("nesterov")), **more),
        "adagrad": lambda o: o.Adagrad(params, lr, **more),
        "rmsprop": lambda o: o.RMSprop(params, lr, k.get("alpha", 0.99), momentum=momentum, **more),
        "adam": lambda o: o.Adam(params, lr, betas, **more), "adamw": lambda o: o.AdamW(params, lr, betas, **more),
        "lion": lambda o: Lion(params, lr, betas, **more)}[kind](torch.optim)

    m = re.search(r"^schedule (\w+)(.*)$", text, re.M)
    schedule, s = (m[1], options(m[2])) if m else ("constant", {})
    low, warmup, total = s.get("min_lr", 0.0), s.get("warmup", 0), s.get("total")
    def warmup_cosine(t):
        if t < warmup:
            return (t + 1) / warmup
        return (low + (lr - low) / 2 * (1 + math.cos(math.pi * (t - warmup) / (total - warmup)))) / lr
    scheduler = {
        "constant": lambda l: l.LambdaLR(optimizer, lambda t: 1.0),
        "step_decay": lambda l: l.StepLR(optimizer, s["period"], s.get("factor", 0.1)),
        "warmup_cosine": lambda l: l.LambdaLR(optimizer, warmup_cosine),
        "warm_restarts": lambda l: l.CosineAnnealingWarmRestarts(optimizer, s["period"], s.get("factor", 1), low),
        "one_cycle": lambda l: l.OneCycleLR(optimizer, lr, total, pct_start=s.get("rise", 0.3), div_factor=s.get("start_div", 25),
                                            final_div_factor=s.get("final_div", 1e4), cycle_momentum=False)
    }[schedule](torch.optim.lr_scheduler)

    def step():
        if "clip_norm" in k:
            torch.nn.utils.clip_grad_norm_(params, k["clip_norm"])
        optimizer.step()
        if schedule != "one_cycle" or scheduler.last_epoch < total - 1:     # OneCycleLR raises after its last step
            scheduler.step()
    return step, optimizer

# ---- cases --------------------------------------------------------------------------------------------------------------------
class Family:
    def __init__(self, name):
        self.name, self.texts, self.tensors = name, {}, {}

    def put(self, case, kind, name, value):
        value = value.detach().numpy() if torch.is_tensor(value) else value
        self.tensors[f"{case}/{kind}/{name}"] = np.array(value, order="C")

    def write(self, folder):
        entries, data = {"__metadata__": self.texts}, b""
        for name, a in self.tensors.items():
            assert np.isfinite(a).all(), name
            dtype, layout = {"f": ("F64", "<f8"), "i": ("I64", "<i8")}[a.dtype.kind]
            start, data = len(data), data + a.astype(layout).tobytes()
            entries[name] = {"dtype": dtype, "shape": list(a.shape), "data_offsets": [start, len(data)]}
        header = json.dumps(entries, separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)
        with open(os.path.join(folder, self.name + ".safetensors"), "wb") as f:
            f.write(struct.pack("<Q", len(header)) + header + data)

def nhwc(t):
    return t.permute(0, 2, 3, 1)

def nchw(a):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(a, -1, 1)))

def rng_of(name):
    return np.random.RandomState(zlib.crc32(name.encode()))

def f32(a):
    return np.asarray(a).astype(np.float32).astype(np.float64)

def normal(rng, *shape):
    return f32(rng.standard_normal(shape))

def run(nodes, losses, values, params, buffers, targets, training, create=None, weights=None):
    """Fills `values`, which holds the inputs, and returns the total loss. create(name, op, x, keys) makes missing parameters."""
    for name, op, inputs, k in nodes:
        if op != "input":
            xs = [values[i] for i in inputs]
            if create:
                create(name, op, xs[0] if xs else None, k)
            stats = buffers.get(name + ".running_mean"), buffers.get(name + ".running_var")
            weight, batch = params.get(name if op == "parameter" else name + ".weight"), len(next(iter(values.values())))
            values[name] = apply(op, xs, k, weight, params.get(name + ".bias"), stats, training, batch)
    return sum(((k.get("weight") or 1) * loss_term(kind, values[node], target, k, weights if k.get("pixel_weights") else None)
                for (kind, node, k), target in zip(losses, targets, strict=True)), torch.zeros(()))

def network(fam, case, text, batch=2, inputs={}, targets=(), formula={}, gin=True, gparam="."):
    """Runs a case forward and backward and stores it. inputs: N,H,W,C arrays; targets: N,H,W or N,H,W,C arrays;
    formula: parameters that the file leaves out; gparam: pattern of the parameters whose gradients are stored."""
    nodes, losses = parse(text)
    rng, values, params, buffers, before, training = rng_of(case), {}, {}, {}, {}, not text.startswith("# mode=eval")
    fam.texts[case] = text
    for name, op, _, k in nodes:
        if op == "input":
            shape = batch, k["height"], k["width"], k["channels"]
            value = inputs[name].reshape(shape) if name in inputs else normal(rng, *shape)
            fam.put(case, "in", name, value)
            values[name] = nchw(value).requires_grad_()
    tensors = [torch.from_numpy(t) if t.ndim == 3 else nchw(t) for t in targets]
    for i, t in enumerate(targets):
        fam.put(case, "target_index" if t.ndim == 3 else "target_dense", i, t)
    weights = None
    for i in (i for i, loss in enumerate(losses) if loss[2].get("pixel_weights")):
        drawn = rng_of(case + " weights").uniform(0, 3, targets[i].shape[:3])
        weights = torch.from_numpy(f32(np.where(drawn < 0.5, 0, drawn)))
        fam.put(case, "target_weight", i, weights)

    def create(node, op, x, k):
        for suffix, shape in parameter_shapes(op, x, k).items():
            name, scale = node + "." * bool(suffix) + suffix, math.sqrt(1.5 / math.prod(shape[1:])) if len(shape) > 1 else 0.25
            if name in formula:
                value = formula[name](math.prod(shape)).reshape(shape)
            else:
                value = f32(scale * normal(rng, *shape) + (op.endswith("_norm") and suffix == "weight"))
                fam.put(case, "param", name, value)
            params[name] = torch.from_numpy(value).requires_grad_()
        if op == "batch_norm":
            for suffix, value in (("mean", 0.3 * normal(rng, x.shape[1])), ("var", rng.uniform(0.5, 2, x.shape[1]))):
                name = f"{node}.running_{suffix}"
                before[name], buffers[name] = torch.from_numpy(f32(value)), torch.from_numpy(f32(value))
                fam.put(case, "buffer", name, before[name])

    total = run(nodes, losses, values, params, buffers, tensors, training, create, weights)
    outputs = [n for n, op, _, _ in nodes if op != "input" and not any(n in other[2] for other in nodes)]
    for name in outputs:
        fam.put(case, "out", name, nhwc(values[name]))
    if losses:
        fam.put(case, "loss", "total", total)
    if not training:
        return
    for name, value in buffers.items():
        fam.put(case, "buffer_after", name, value)
    if losses:
        total.backward()
    else:
        gouts = [normal(rng, *nhwc(values[name]).shape) for name in outputs]
        for name, g in zip(outputs, gouts):
            fam.put(case, "gout", name, g)
        torch.autograd.backward([values[name] for name in outputs], [nchw(g) for g in gouts])
    for name in [n for n, op, _, _ in nodes if op == "input" and gin]:
        fam.put(case, "gin", name, nhwc(values[name].grad))
    for name in [n for n in params if re.match(gparam, n)]:
        fam.put(case, "gparam", name, params[name].grad)

    if "\noptimizer " in text:                      # and 20 steps of training from the same start
        params = {n: v.detach().clone().requires_grad_() for n, v in params.items()}
        step, optimizer = make_optimizer(text, list(params.values()))
        curve = []
        for _ in range(20):
            optimizer.zero_grad()
            total = run(nodes, losses, values, params, before, tensors, True)
            total.backward()
            curve.append(total.item())
            step()
        fam.put(case, "losses", "curve", curve)

def entries(table):
    return [entry.strip() for entry in re.split(r"[|\n]", table) if entry.strip()]

# ---- ops: OP, then NAME SHAPE KEYS; _eval at the end of a name means inference ------------------------------------------------
POOLS = """2x2 4x6x3 kernel=2 | 2x2_odd 5x7x2 kernel=2 | 3x3_pad 5x7x2 kernel=3 stride=2 pad=1
    3x3_stride1 4x5x2 kernel=3 stride=1 pad=1 | rect 7x8x1 kernel=3 kernel_w=2 stride=2 stride_w=3 pad=1
    rect_default_stride 6x6x1 kernel=3 kernel_w=2 | ceil 5x7x2 kernel=2 ceil_mode=1
    ceil_pad 6x8x1 kernel=3 stride=2 pad=1 ceil_mode=1 | ceil_drop 5x7x1 kernel=2 stride=3 pad=1 ceil_mode=1"""
OPS = {"conv2d": """1x1 4x5x3 out=4 kernel=1 | 3x3_pad1 5x7x2 out=3 kernel=3 pad=1 | 3x3_valid 5x7x3 out=4 kernel=3
    3x3_stride2 5x7x3 out=4 kernel=3 stride=2 pad=1 | 3x3_stride2_even 6x4x2 out=3 kernel=3 stride=2 pad=1
    5x3_rect 7x8x2 out=3 kernel=5 kernel_w=3 stride=2 stride_w=3 pad=2 pad_w=1 | 1x3_pad_w 4x5x2 out=3 kernel=1 kernel_w=3 pad_w=1
    same_3 4x5x2 out=3 kernel=3 same=1 | same_2 4x5x2 out=2 kernel=2 same=1 | same_4 5x4x2 out=2 kernel=4 same=1
    same_dilation2 5x6x1 out=2 kernel=3 dilation=2 same=1 | same_even_dilation3 5x6x1 out=2 kernel=2 kernel_w=4 dilation=3 same=1
    dilation2 6x7x1 out=2 kernel=3 dilation=2 pad=2 | dilation_rect 6x7x2 out=2 kernel=3 dilation=2 dilation_w=3 pad=1 pad_w=2
    groups2 3x4x4 out=6 kernel=3 pad=1 groups=2 | depthwise 3x5x4 out=4 kernel=3 pad=1 groups=4
    depthwise_multiplier2 5x6x3 out=6 kernel=3 stride=2 pad=1 groups=3 | 7x7_stride2 8x7x3 out=3 kernel=7 stride=2 pad=3
    no_bias 4x5x3 out=2 kernel=3 pad=1 no_bias=1 | one_channel 5x6x1 out=3 kernel=3 pad=1 | wide_16_32 2x3x16 out=32 kernel=1
    wide_17_33 3x4x17 out=33 kernel=1 stride=2 | wide_3x3 3x4x5 out=17 kernel=3 pad=1 | batch3 3x4x2 out=3 kernel=3 pad=1
    kernel_is_image 3x4x2 out=3 kernel=3 kernel_w=4 | kernel_over_image 2x3x2 out=2 kernel=5 pad=2
    stride_over_kernel 7x6x2 out=2 kernel=2 stride=3""",
    "conv_transpose2d": """2x2_stride2 3x4x3 out=2 kernel=2 stride=2 | 3x3_stride1 3x4x2 out=2 kernel=3
    3x3_output_pad 3x4x2 out=2 kernel=3 stride=2 pad=1 output_pad=1 | 4x4_stride2 2x3x2 out=2 kernel=4 stride=2 pad=1
    groups2 2x3x4 out=6 kernel=2 stride=2 groups=2 | dilation2 3x4x2 out=2 kernel=3 pad=1 dilation=2
    wide 1x2x9 out=17 kernel=2 stride=2 | no_bias 3x2x3 out=2 kernel=2 stride=2 no_bias=1
    rect 3x4x2 out=2 kernel=4 kernel_w=3 stride=3 stride_w=2 pad=2 pad_w=1 output_pad=2 output_pad_w=1""",
    "attention": "map 3x4x12 heads=2 | tokens 1x7x9 heads=1 | one 1x1x6 heads=2",
    "select": "map 3x4x2 first=3 height=2 width=4 | token 1x5x3 height=1 width=1",
    "dense": "each 3x4x5 out=4 each=1 | each_no_bias 1x5x3 out=6 each=1 no_bias=1 | vector 1x1x6 out=4 | vector_wide 1x1x33 out=17 | vector_no_bias 1x1x5 out=3 no_bias=1 | spatial 3x4x2 out=5",
    "batch_norm": """train 3x4x3 | train_options 3x4x3 eps=0.01 momentum=0.25 | train_no_affine 3x4x3 no_affine=1 | vector 1x1x5
    eval 3x4x3 | no_affine_eval 3x4x3 eps=0.01 no_affine=1""",
    "group_norm": "1 3x4x4 groups=1 | 2 3x4x4 groups=2 | 4 3x4x4 groups=4 | options 3x4x4 groups=2 eps=0.01 no_affine=1",
    "layer_norm": "map 3x4x5 | options 3x4x3 eps=0.01 no_affine=1 | vector 1x1x6", "softmax": "vector 1x1x7",
    "max_pool2d": POOLS, "avg_pool2d": POOLS, "dropout": "eval 2x3x2 p=0.5",
    "adaptive_avg_pool2d": """1x1 5x7x2 height=1 width=1 | 2x3 5x7x2 height=2 width=3 | 5x7 5x7x2 height=5 width=7
    7x9 5x7x2 height=7 width=9""",
    "upsample": """nearest2 2x4x2 factor=2 mode=nearest | nearest3 2x3x2 factor=3 mode=nearest
    bilinear2 3x4x2 factor=2 mode=bilinear | bilinear3 2x3x2 factor=3 mode=bilinear | pixel 1x1x3 factor=2 mode=bilinear"""}

X, Z, U, V = (f"{name} = input() height={h} width={w} channels={c}\n"
              for name, h, w, c in (("x", 3, 4, 2), ("z", 3, 4, 2), ("u", 3, 4, 3), ("v", 1, 1, 2)))
GRAPHS = {"concat2": X + U + "y = concat(x, u)", "concat3": X + U + Z + "y = concat(u, x, z)", "add": X + Z + "y = add(x, z)",
    "concat_self": X + "y = concat(x, x)", "add_self": X + "y = add(x, x)", "mul_self": X + "y = mul(x, x)",
    "mul": X + Z + "y = mul(x, z)", "mul_broadcast": X + V + "y = mul(x, v)",
    "mul_vectors": V + V.replace("v", "w", 1) + "y = mul(v, w)",
    "dense_flatten": X + "f = flatten(x)\ny = dense(f) out=5",
    "squeeze_excite": X + "p = adaptive_avg_pool2d(x) height=1 width=1\nfc = dense(p) out=2\ns = sigmoid(fc)\ny = mul(x, s)",
    "used_three_times": X + "c = conv2d(x) out=2 kernel=3 pad=1\nr = tanh(c)\na = sigmoid(r)\nb = mul(a, r)\ny = add(b, r)",
    "input_used_three_times": X + "a = conv2d(x) out=2 kernel=1\nb = silu(x)\nc = add(a, b)\ny = concat(c, x)",
    "two_outputs": X + "c = conv2d(x) out=3 kernel=3 pad=1\nr = tanh(c)\na = conv2d(r) out=2 kernel=1\nb = max_pool2d(r) kernel=2",
    "tokens": X + V + "y = tokens(v, x)", "tokens_self": X + "y = tokens(x, x)",
    "parameter_add": X + "p = parameter() height=3 width=4 channels=2\ny = add(x, p)",
    "parameter_scale": X + "p = parameter() channels=2 rank=1\ny = mul(x, p)",
    "parameter_planes": X + "p = parameter() height=2 width=3 channels=2 channels_first=1\nt = tokens(p, x)\ny = softmax(t)",
    "transformer": "x = input() height=3 width=4 channels=6\nc = parameter() channels=6\nt = tokens(c, x)\n"
                   "p = parameter() width=13 channels=6\na = add(t, p)\nn = layer_norm(a) eps=0.000001\n"
                   "qkv = dense(n) out=18 each=1\nh = attention(qkv) heads=2\no = dense(h) out=6 each=1\n"
                   "s = parameter() channels=6 rank=1\nm = mul(o, s)\nr = add(a, m)\n"
                   "y = select(r) height=1 width=1",
    "two_inputs": X + U + "a = conv2d(x) out=3 kernel=3 pad=1\nb = add(a, u)\nn = batch_norm(b)\ny = relu(n)"}

def one(fam, case, shape, call, batch=2, x=None):
    """A case of one operation y on one input x."""
    text = "x = input() height={} width={} channels={}\n".format(*shape.split("x")) + f"y = {call}"
    network(fam, case, ("# mode=eval\n" if case.endswith("_eval") else "") + text, batch, {} if x is None else {"x": f32(x)})

def ops():
    fam = Family("ops")
    for op, table in OPS.items():
        for entry in entries(table):
            name, shape, *keys = entry.split()
            batch = 1 if name.startswith("wide") else 3 if "vector" in name or name == "batch3" else 2
            one(fam, f"{op}_{name}", shape, " ".join([f"{op}(x)"] + keys), batch)
            if op == "avg_pool2d" and "pad=1" in keys:
                one(fam, f"{op}_{name}_exclude", shape, " ".join([f"{op}(x)"] + keys + ["exclude_pad=1"]), batch)
    for name, text in GRAPHS.items():
        network(fam, name, text)
    large = np.array([-800, -90, -20, -1e-4, 1e-4, 20, 90, 800, 0, 3, -3, 40])
    for op in ("relu", "leaky_relu", "relu6", "sigmoid", "tanh", "gelu", "silu", "softmax"):
        values = np.linspace(-8, 8, 120)
        rng_of(op).shuffle(values)
        if "relu" in op:
            assert (np.abs(values) > 0.01).all() and (np.abs(values - 6) > 0.01).all()      # clear of the kinks
            one(fam, op, "4x5x3", op + ("(x) slope=0.1" if op == "leaky_relu" else "(x)"), x=values)
        else:
            values[[3, 50, 119]] = 0
            one(fam, op, "4x5x3", op + "(x)", x=values)
            one(fam, op + "_large", "1x2x3", op + "(x)", x=large)
    one(fam, "batch_norm_offset", "3x4x2", "batch_norm(x)", x=100 + normal(rng_of("offset"), 48))
    ties = rng_of("ties").randint(0, 3, (2, 5, 6, 2)) - 1.0       # torch: the first maximum of a window gets the gradient
    one(fam, "max_pool2d_ties", "5x6x2", "max_pool2d(x) kernel=3 stride=2 pad=1", x=ties)
    one(fam, "max_pool2d_negative", "5x6x2", "max_pool2d(x) kernel=3 stride=2 pad=1", x=ties - 5)
    return fam

# ---- losses: NAME SHAPE TARGET KIND KEYS; the targets are described in make_target ----------------------------------------------
SHAPES = {"map": (2, 3, 4, 3), "vec": (3, 1, 1, 4), "map1": (2, 3, 4, 1), "vec1": (3, 1, 1, 1),
          "big": (2, 2, 3, 3), "big1": (2, 2, 3, 1)}
LOSSES = """ce map index cross_entropy | ce_vector vec index cross_entropy | ce_weight map index cross_entropy weight=0.5
    ce_class_weight map index cross_entropy class_weight=1,2,0.5 | ce_class_weight_zero map index cross_entropy class_weight=1,0,3
    ce_smoothing map index cross_entropy smoothing=0.1 | ce_smoothing_vector vec index cross_entropy smoothing=0.1
    ce_class_weight_smoothing map index cross_entropy class_weight=1,2,0.5 smoothing=0.2 | ce_large big index cross_entropy
    ce_negative map index-1 cross_entropy | ce_ignore255 map mixed cross_entropy ignore_index=255
    ce_ignore_class map index-1 cross_entropy ignore_index=2 | ce_all_negative map all-1 cross_entropy
    ce_all_options map mixed cross_entropy weight=2 class_weight=1,2,0.5 smoothing=0.1 ignore_index=255
    ce_all_ignored map all255 cross_entropy ignore_index=255 smoothing=0.1 class_weight=1,2,0.5
    ce_dense map prob cross_entropy dense=1 | ce_dense_vector vec prob cross_entropy dense=1
    ce_dense_unnormalised map soft cross_entropy dense=1 | ce_dense_smoothing map prob cross_entropy dense=1 smoothing=0.1
    ce_dense_class_weight map prob cross_entropy dense=1 class_weight=1,2,0.5
    ce_dense_class_weight_smoothing map prob cross_entropy dense=1 class_weight=1,2,0.5 smoothing=0.2
    bce_index map1 index bce | bce_vector vec1 index bce | bce_negative map1 index-1 bce weight=0.5
    bce_all_negative map1 all-1 bce
    bce_ignore255 map1 mixed bce ignore_index=255 | bce_large big1 index bce | bce_dense map hard bce dense=1
    bce_dense_soft map soft bce dense=1 | bce_dense_one map1 soft bce dense=1
    dice_index map index dice | dice_vector vec index dice | dice_negative map index-1 dice | dice_all_negative map all-1 dice
    dice_ignore255 map mixed dice ignore_index=255 | dice_ignore_class map index dice ignore_index=1 weight=0.5
    dice_absent map absent dice | dice_binary map1 index dice | dice_binary_ignore map1 mixed dice ignore_index=255
    dice_binary_empty map1 zeros dice | dice_dense map soft dice dense=1 | dice_dense_hard map hard dice dense=1
    dice_dense_one map1 soft dice dense=1 | focal_index map index focal | focal_vector vec index focal
    focal_gamma map index focal gamma=1.5 | focal_ignore map mixed focal gamma=3 ignore_index=255
    focal_all_negative map all-1 focal | focal_large big index focal | focal_binary map1 index focal
    focal_binary_alpha map1 index focal alpha=0.25 gamma=1.5 | focal_binary_ignore map1 mixed focal alpha=0.75 ignore_index=255
    focal_binary_all_negative map1 all-1 focal alpha=0.25 | focal_dense map hard focal dense=1
    focal_dense_alpha map hard focal dense=1 alpha=0.25 weight=2 | focal_dense_soft map soft focal dense=1 alpha=0.25 gamma=1
    mse map normal mse | mse_vector vec normal mse | mse_weight map normal mse weight=0.25 | l1 map normal l1
    huber map normal huber | huber_delta map normal huber delta=0.7
    ce_pixels map index cross_entropy pixel_weights=1 | ce_pixels_dense map prob cross_entropy dense=1 pixel_weights=1
    ce_pixels_all map mixed cross_entropy weight=2 class_weight=1,2,0.5 smoothing=0.1 ignore_index=255 pixel_weights=1
    bce_pixels map1 index-1 bce pixel_weights=1 | bce_pixels_dense map soft bce dense=1 pixel_weights=1
    dice_pixels map index-1 dice pixel_weights=1 | dice_pixels_binary map1 mixed dice ignore_index=255 pixel_weights=1
    dice_pixels_dense map soft dice dense=1 pixel_weights=1 | focal_pixels map index-1 focal pixel_weights=1
    focal_pixels_dense map soft focal dense=1 alpha=0.25 pixel_weights=1 | mse_pixels map normal mse pixel_weights=1
    l1_pixels_vector vec normal l1 pixel_weights=1 | huber_pixels map normal huber pixel_weights=1"""

def make_target(kind, shape, rng):
    n, h, w, c = shape
    index = rng.randint(0, max(c, 2), (n, h, w))
    hole = rng.uniform(size=(n, h, w)) < 0.25
    return {"index": lambda: index, "index-1": lambda: np.where(hole, -1, index), "all-1": lambda: index * 0 - 1,
            "mixed": lambda: np.where(hole, rng.choice([-1, -100, 255], (n, h, w)), index), "all255": lambda: index * 0 + 255,
            "zeros": lambda: index * 0, "absent": lambda: np.where(index == 1, 0, index),
            "soft": lambda: f32(rng.uniform(size=shape)), "hard": lambda: f32(rng.randint(0, 2, shape)),
            "prob": lambda: f32(rng.dirichlet(np.ones(c), (n, h, w))), "normal": lambda: normal(rng, *shape)}[kind]()

def losses():
    fam = Family("losses")
    for name, size, target, kind, *keys in map(str.split, entries(LOSSES)):
        shape, rng = SHAPES[size], rng_of(name + " target")
        text = "logits = input() height={} width={} channels={}\n".format(*shape[1:]) + " ".join([f"loss {kind}(logits)"] + keys)
        logits = f32(normal(rng, *shape) * (40 if "big" in size else 2))
        network(fam, name, text, shape[0], {"logits": logits}, [make_target(target, shape, rng)])
    mixed, index, soft = (make_target(kind, SHAPES["map"], rng_of("sum " + kind)) for kind in ("mixed", "index", "soft"))
    binary = make_target("index-1", SHAPES["map1"], rng_of("sum binary"))
    edge = "\nedge = conv2d(logits) out=1 kernel=1"
    for name, text, targets in [
            ("ce_dice", "\nloss cross_entropy(logits) weight=0.5 ignore_index=255 smoothing=0.1"
                        "\nloss dice(logits) weight=2 ignore_index=255", [mixed, mixed]),
            ("index_dense", "\nloss focal(logits) gamma=1.5\nloss mse(logits) weight=0.25", [index, soft]),
            ("two_nodes", edge + "\nloss cross_entropy(logits) weight=0.5\nloss bce(edge) weight=3\nloss dice(edge)",
             [index, binary, binary]),
            ("ce_dice_pixels", "\nloss cross_entropy(logits) pixel_weights=1\nloss dice(logits)", [index, index]),
            ("ignored_term", edge + "\nloss cross_entropy(logits)\nloss bce(edge)", [index, binary * 0 - 1])]:
        network(fam, "sum_" + name, "logits = input() height=3 width=4 channels=3" + text, targets=targets)
    return fam

# ---- optimizers: RULE or RULE ; SCHEDULE, named after what comes first; schedules: NAME STEPS SCHEDULE ---------------------------
OPTIMIZERS = """sgd lr=0.1 | sgd_momentum lr=0.1 momentum=0.9 | sgd_dampening lr=0.1 momentum=0.9 dampening=0.5
    sgd_nesterov lr=0.1 momentum=0.9 nesterov=1 | sgd_decay lr=0.1 weight_decay=0.05 | sgd_clip lr=0.1 clip_norm=3.5
    sgd_nesterov_decay lr=0.1 momentum=0.9 nesterov=1 weight_decay=0.05
    sgd_dampening_decay lr=0.1 momentum=0.5 dampening=0.25 weight_decay=0.05
    sgd_momentum_decay_clip lr=0.1 momentum=0.9 weight_decay=0.05 clip_norm=1
    adagrad lr=0.01 | adagrad_decay lr=0.1 weight_decay=0.05 | adagrad_eps lr=0.1 eps=0.001
    rmsprop lr=0.01 | rmsprop_alpha lr=0.01 alpha=0.9 eps=0.001 | rmsprop_momentum lr=0.01 momentum=0.9
    rmsprop_decay lr=0.01 momentum=0.5 weight_decay=0.05
    adam lr=0.001 | adam_decay lr=0.01 weight_decay=0.05 | adam_betas lr=0.01 beta1=0.8 beta2=0.95 eps=0.001
    adam_clip lr=0.01 clip_norm=1 | adamw lr=0.001 | adamw_decay lr=0.01 weight_decay=0.5
    adamw_no_decay lr=0.01 no_weight_decay=1 | adamw_clip lr=0.01 clip_norm=3.5
    lion lr=0.0001 | lion_decay lr=0.01 weight_decay=0.5 | lion_betas lr=0.01 beta1=0.5 beta2=0.75 weight_decay=0.1
    sgd_constant lr=0.1 momentum=0.9 ; constant | sgd_step_decay lr=0.1 momentum=0.9 ; step_decay period=3 factor=0.5
    adamw_warmup_cosine lr=0.01 weight_decay=0.5 ; warmup_cosine total=10 warmup=3 min_lr=0.001
    adam_warm_restarts lr=0.01 ; warm_restarts period=3 factor=2 min_lr=0.001
    sgd_one_cycle lr=0.1 momentum=0.9 ; one_cycle total=10 rise=0.25 start_div=8 final_div=16
    lion_warmup_cosine lr=0.01 weight_decay=0.5 ; warmup_cosine total=12"""
SCHEDULES = """constant 5 constant | step_decay 12 step_decay period=4 factor=0.5 | step_decay_default 12 step_decay period=5
    cosine 21 warmup_cosine total=20 | warmup_cosine 21 warmup_cosine total=20 warmup=5 min_lr=0.001
    warmup1_cosine 8 warmup_cosine total=7 warmup=1 | warm_restarts 16 warm_restarts period=5
    warm_restarts_double 24 warm_restarts period=3 factor=2 min_lr=0.001
    one_cycle 20 one_cycle total=20 | one_cycle_options 17 one_cycle total=17 rise=0.25 start_div=8 final_div=16"""

def optim():
    fam = Family("optim")
    for entry in entries(OPTIMIZERS):
        case, rule = entry.split(" ", 1)
        fam.texts[case] = text = f"optimizer {case.split('_')[0]} " + rule.replace(" ; ", "\nschedule ")
        rng, result = rng_of(case), []
        theta, grads = normal(rng, 13), normal(rng, 10, 13)
        grads[:, 4] = grads[5, 7] = 0               # sign(0) = 0, 0 / (0 + eps) = 0
        p = torch.tensor(theta, requires_grad=True)
        step, _ = make_optimizer(text, [p])
        for g in grads:
            p.grad = torch.tensor(g)
            step()
            result.append(p.tolist())
        for kind, value in (("param", theta), ("grads", grads), ("result", result)):
            fam.put(case, kind, "theta", value)
    for entry in entries(SCHEDULES):
        name, steps, schedule = entry.split(" ", 2)
        fam.texts["lr_" + name] = text = f"optimizer sgd lr=0.125\nschedule {schedule}"
        p, rates = torch.zeros(1, requires_grad=True), []
        step, optimizer = make_optimizer(text, [p])
        for _ in range(int(steps)):
            rates.append(float(optimizer.param_groups[0]["lr"]))
            step()
        fam.put("lr_" + name, "lr", "lr", rates)
    return fam

# ---- models -------------------------------------------------------------------------------------------------------------------
def unet_text(height, width, w, depth, classes, up):
    lines = [f"x = input() height={height} width={width} channels=1"]
    def block(name, x, out):
        for i in (1, 2):
            lines.extend([f"{name}.conv{i} = conv2d({x}) out={out} kernel=3 pad=1 no_bias=1",
                          f"{name}.bn{i} = batch_norm({name}.conv{i})", f"{name}.relu{i} = relu({name}.bn{i})"])
            x = f"{name}.relu{i}"
        return x
    x = "x"
    for k in range(1, depth + 1):
        lines.append(f"enc{k}.pool = max_pool2d({block(f'enc{k}', x, w * 2 ** (k - 1))}) kernel=2")
        x = f"enc{k}.pool"
    x = block("mid", x, w * 2 ** depth)
    for k in range(depth, 0, -1):
        out = w * 2 ** (k - 1)
        if up == "transposed":
            lines.append(f"up{k} = conv_transpose2d({x}) out={out} kernel=2 stride=2")
        else:
            lines.append(f"up{k}.resize = upsample({x}) factor=2 mode={up}")
            lines.append(f"up{k} = conv2d(up{k}.resize) out={out} kernel=3 pad=1")
        lines.append(f"dec{k}.concat = concat(enc{k}.relu2, up{k})")
        x = block(f"dec{k}", f"dec{k}.concat", out)
    return "\n".join(lines + [f"head = conv2d({x}) out={classes} kernel=1", "loss cross_entropy(head)", "loss dice(head)"])

RESIDUAL = """x = input() height=5 width=7 channels=3
conv1 = conv2d(x) out=4 kernel=3 stride=2 pad=1 no_bias=1
bn1 = batch_norm(conv1)
relu1 = relu(bn1)
conv2 = conv2d(relu1) out=4 kernel=3 pad=1 no_bias=1
bn2 = batch_norm(conv2)
downsample.0 = conv2d(x) out=4 kernel=1 stride=2 no_bias=1
downsample.1 = batch_norm(downsample.0)
add = add(bn2, downsample.1)
relu2 = relu(add)"""
LENET5 = """# fc1.weight[i] = sin(i)*0.05
# fc2.weight[i] = sin(i)*0.05
x = input() height=28 width=28 channels=1
conv1 = conv2d(x) out=6 kernel=5 pad=2
relu1 = relu(conv1)
pool1 = max_pool2d(relu1) kernel=2
conv2 = conv2d(pool1) out=16 kernel=5
relu2 = relu(conv2)
pool2 = max_pool2d(relu2) kernel=2
fc1 = dense(pool2) out=120
relu3 = relu(fc1)
fc2 = dense(relu3) out=84
relu4 = relu(fc2)
fc3 = dense(relu4) out=10
loss cross_entropy(fc3)"""

def models():
    fam = Family("models")
    for case, (h, w), width, up, gparam, training in [
            ("unet", (16, 24), 4, "transposed", "enc1|up|head", "\noptimizer adamw lr=0.001"),
            ("unet_nearest", (8, 12), 2, "nearest", ".", "")]:
        y, x = np.mgrid[:h, :w]
        disks = [((y - cy) ** 2 + (x - cx) ** 2 < h * h / 9).astype(np.int64) for cy, cx in ((h / 2, w / 3), (h / 3, w / 2))]
        image = f32(np.stack(disks)[..., None] + 0.5 * normal(rng_of(case + " image"), 2, h, w, 1))
        network(fam, case, unet_text(h, w, width, 2, 2, up) + training, 2, {"x": image}, [np.stack(disks)] * 2, gin=False,
                gparam=gparam)
    network(fam, "residual", RESIDUAL)
    network(fam, "lenet5", LENET5, targets=[np.array([3, 8]).reshape(2, 1, 1)], gin=False, gparam="conv|fc3", formula={
        "fc1.weight": lambda n: np.sin(np.arange(n)) * 0.05, "fc2.weight": lambda n: np.sin(np.arange(n)) * 0.05})
    return fam

# ---- published networks: torchvision's and timm's own code, weights by a formula that tests/models.c knows too --------------------
# Stored are the logits and the loss in eval mode, and of every gradient only its length and its projection on a vector of the same
# formula, so that 10^7 numbers are compared through a few hundred; for some networks the same in training mode, where tiny batches
# make single precision useless.
def formula_values(name, count):
    """Uniform on [-1, 1): a hash (murmur3's last steps) of the name (FNV-1a) and the index."""
    start = 2166136261
    for byte in name.encode():
        start = (start ^ byte) * 16777619 & 0xFFFFFFFF
    x = (np.uint64(start) ^ (np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B9))) & np.uint64(0xFFFFFFFF)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = ((x ^ (x >> np.uint64(shift))) * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    return ((x ^ (x >> np.uint64(16))) >> np.uint64(8)).astype(np.float64) / 2 ** 23 - 1

def formula_tensor(name, shape):
    v = formula_values(name, math.prod(shape)).reshape(shape)
    if name.endswith("running_var"):
        return 1 + 0.5 * v
    if name.endswith(("gamma", "layer_scale")):
        return 0.5 + 0.25 * v
    if name.endswith(("cls_token", "pos_embed")):
        return 0.5 * v
    if len(shape) > 1:
        return v * math.sqrt(4.5 / math.prod(shape[1:]))
    return 1 + 0.25 * v if name.endswith("weight") else 0.25 * v

class DecoderBlock(torch.nn.Module):
    def __init__(self, inputs, out):
        super().__init__()
        conv = lambda i: torch.nn.Sequential(torch.nn.Conv2d(i, out, 3, padding=1, bias=False), torch.nn.BatchNorm2d(out),
                                             torch.nn.ReLU())
        self.conv1, self.conv2 = conv(inputs), conv(out)

    def forward(self, x, skip=None):
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv2(self.conv1(x if skip is None else torch.cat([x, skip], 1)))

class UNetOnResNet(torch.nn.Module):
    """segmentation_models.pytorch's Unet, its layout and names: the encoder's maps at 1/2 .. 1/32, a decoder of five blocks."""
    def __init__(self, encoder, classes):
        super().__init__()
        self.encoder, self.decoder = encoder, torch.nn.Module()
        self.encoder.fc = torch.nn.Identity()
        wide = encoder.layer4[-1].bn2.num_features * (4 if hasattr(encoder.layer4[-1], "conv3") else 1)
        skips, outs = [wide // 2, wide // 4, wide // 8, 64, 0], [256, 128, 64, 32, 16]
        self.decoder.blocks = torch.nn.ModuleList(DecoderBlock(i + s, o) for i, s, o in zip([wide] + outs, skips, outs))
        self.segmentation_head = torch.nn.Sequential(torch.nn.Conv2d(16, classes, 3, padding=1))

    def forward(self, x):
        e = self.encoder
        maps = [e.relu(e.bn1(e.conv1(x)))]
        x = e.maxpool(maps[0])
        for layer in (e.layer1, e.layer2, e.layer3, e.layer4):
            x = layer(x)
            maps.append(x)
        x = maps.pop()
        for block in self.decoder.blocks:
            x = block(x, maps.pop() if maps else None)
        return self.segmentation_head(x)

class CifarResNet(torch.nn.Module):
    """He et al. 2016 for CIFAR-10 on torchvision's BasicBlock, with projections as shortcuts."""
    def __init__(self, depth, classes):
        from torchvision.models.resnet import BasicBlock
        super().__init__()
        self.conv1, self.bn1 = torch.nn.Conv2d(3, 16, 3, padding=1, bias=False), torch.nn.BatchNorm2d(16)
        inputs = 16
        for i, width in enumerate((16, 32, 64)):
            blocks = []
            for j in range((depth - 2) // 6):
                stride = 2 if i and not j else 1
                short = torch.nn.Sequential(torch.nn.Conv2d(inputs, width, 1, stride, bias=False), torch.nn.BatchNorm2d(width))
                block = BasicBlock.__new__(BasicBlock)      # the constructor insists on 64 channels
                torch.nn.Module.__init__(block)
                block.conv1 = torch.nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
                block.conv2 = torch.nn.Conv2d(width, width, 3, 1, 1, bias=False)
                block.bn1, block.bn2 = torch.nn.BatchNorm2d(width), torch.nn.BatchNorm2d(width)
                block.relu, block.downsample, block.stride = torch.nn.ReLU(), short if stride > 1 else None, stride
                blocks.append(block)
                inputs = width
            setattr(self, f"layer{i + 1}", torch.nn.Sequential(*blocks))
        self.fc = torch.nn.Linear(64, classes)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))

class Trunk(torch.nn.Module):
    """The features of AlexNet or VGG with a small head: their dense layers have up to 10^8 weights."""
    def __init__(self, features, channels):
        super().__init__()
        self.features, self.classifier = features, torch.nn.ModuleDict({"6": torch.nn.Linear(channels, CLASSES)})

    def forward(self, x):
        return self.classifier["6"](self.features(x).mean((2, 3)))

# NAME SIZE [STAGES]: small inputs, so that every case takes seconds. The classes are 7, the batch is 2. "whole_alexnet" has the
# dense layers, which AlexNet and VGG build alike: a map of 3 x 3 is pooled to 6 x 6 and flattened in the order C, H, W.
PUBLISHED = """alexnet 72 3 | whole_alexnet 127 | vgg16_bn 32 5 | resnet18 64 | resnet50 64 | squeezenet1_0 72 | squeezenet1_1 72
    mobilenet_v2 64 | efficientnet_b0 64 | convnext_tiny 32 | vit_tiny_patch16_224 64 | vit_small_patch14_dinov2 42 | resnet20 32
    unet_resnet18 64"""
TRAINED, CLASSES = ("resnet20", "mobilenet_v2", "efficientnet_b0"), 7

def published_model(name, size):
    import torchvision
    if name.startswith("unet_"):
        return UNetOnResNet(torchvision.models.get_model(name[5:]), CLASSES)
    if name == "resnet20":
        return CifarResNet(20, CLASSES)
    if name.startswith("vit_"):
        import timm
        return timm.create_model(name, img_size=size, num_classes=CLASSES)
    model = torchvision.models.get_model(name.removeprefix("whole_"), num_classes=CLASSES)
    return Trunk(model.features, 256 if name == "alexnet" else 512) if name[:3] in ("ale", "vgg") else model

def backbones():
    fam = Family("backbones")
    for entry in entries(PUBLISHED):
        case, size, *stages = entry.split()
        model = published_model(case, int(size)).double()
        for module in model.modules():              # nothing random
            if isinstance(module, torch.nn.Dropout) or type(module).__name__ == "StochasticDepth":
                module.p = 0.0
            if isinstance(module, (torch.nn.ReLU, torch.nn.ReLU6, torch.nn.SiLU)):
                module.inplace = False
        state = model.state_dict()
        for name, value in state.items():
            if value.is_floating_point():
                value.copy_(torch.from_numpy(formula_tensor(name, tuple(value.shape))))
        fam.texts[case] = f"size={size} stages={stages[0] if stages else 0}"
        x = torch.from_numpy(1.5 * formula_values("input", 2 * int(size) ** 2 * 3)).reshape(2, int(size), int(size), 3)
        x = x.permute(0, 3, 1, 2).requires_grad_()
        for mode in ("eval", "train")[:2 if case in TRAINED else 1]:
            model.train(mode == "train").zero_grad()
            x.grad = None
            logits = model(x)
            target = torch.arange(logits[:, 0].numel()).reshape(logits[:, 0].shape) % CLASSES
            loss = F.cross_entropy(logits, target)
            loss.backward()
            # of maps only a part, the logits of the middle row
            fam.put(case, mode, "logits", nhwc(logits)[:, logits.shape[2] // 2] if logits.dim() == 4 else logits)
            fam.put(case, mode, "loss", loss)
            for name, grad in [("input", nhwc(x.grad))] + [(n, p.grad) for n, p in model.named_parameters() if p.grad is not None]:
                flat = grad.contiguous().numpy().ravel()
                fam.put(case, mode + "_digest", name, [np.sqrt((flat ** 2).sum()), flat @ formula_values("d " + name, flat.size)])
        for name, value in model.state_dict().items():
            if case in TRAINED and "running_" in name and value.numel() <= 64:
                fam.put(case, "after", name, value)
    return fam

def resize():
    fam = Family("resize")
    for name, size, new, cubic in [("down", (9, 7), (4, 5), 0), ("down_cubic", (9, 7), (4, 5), 1), ("up", (3, 4), (5, 9), 0),
                                   ("up_cubic", (3, 4), (5, 9), 1), ("mixed_cubic", (5, 8), (7, 3), 1), ("one", (6, 5), (1, 1), 0),
                                   ("same_cubic", (4, 4), (4, 4), 1)]:
        x = f32(rng_of("resize" + name).uniform(size=(*size, 2)))
        y = F.interpolate(nchw(x[None]), new, mode="bicubic" if cubic else "bilinear", antialias=True)
        fam.texts[name] = f"cubic={cubic}"
        fam.put(name, "in", "x", x)
        fam.put(name, "out", "y", nhwc(y)[0])
    return fam

# ---- the files as they lie on disk, compared with results worked out by hand ----------------------------------------------------
def read(path):
    with open(path, "rb") as f:
        raw = f.read()
    size, = struct.unpack_from("<Q", raw)
    header, data, end, tensors = json.loads(raw[8:8 + size]), raw[8 + size:], 0, {}
    texts = header.pop("__metadata__")
    for name, t in header.items():
        start, end = end, t["data_offsets"][1]
        assert t["data_offsets"][0] == start and end - start == 8 * math.prod(t["shape"]) and name.split("/")[0] in texts, name
        tensors[name] = np.frombuffer(data[start:end], {"F64": "<f8", "I64": "<i8"}[t["dtype"]]).reshape(t["shape"])
    assert size % 8 == 0 and end == len(data)
    return texts, tensors

def self_check(folder):
    files = {name: read(os.path.join(folder, name + ".safetensors"))[1] for name in FAMILIES}
    def close(a, b):
        assert np.allclose(a, b, rtol=1e-11, atol=1e-13), np.abs(a - b).max()

    t = lambda name: files["ops"]["conv2d_3x3_stride2/" + name]    # from the definition, forward and backward
    x, w, g = np.pad(t("in/x"), ((0, 0), (1, 1), (1, 1), (0, 0))), t("param/y.weight"), t("gout/y")
    y, gx, gw = np.zeros_like(g) + t("param/y.bias"), np.zeros_like(x), np.zeros_like(w)
    for i, j in np.ndindex(3, 3):
        at = np.s_[:, i:i + 2 * g.shape[1] - 1:2, j:j + 2 * g.shape[2] - 1:2]
        y += x[at] @ w[:, :, i, j].T
        gx[at] += g @ w[:, :, i, j]
        gw[:, :, i, j] = np.einsum("nhwo,nhwc->oc", g, x[at])
    close(y, t("out/y")), close(gx[:, 1:-1, 1:-1], t("gin/x")), close(gw, t("gparam/y.weight"))

    t = lambda name: files["ops"]["batch_norm_train/" + name]      # running_var takes the unbiased variance
    close(t("buffer_after/y.running_var"), 0.9 * t("buffer/y.running_var") + 0.1 * t("in/x").var((0, 1, 2), ddof=1))

    t = lambda name: files["losses"]["ce_all_options/" + name]     # weights, smoothing, ignored pixels
    z, index, weight, smooth = t("in/logits"), t("target_index/0"), np.array([1, 2, 0.5]), float(np.float32(0.1))
    on = (index >= 0) & (index != 255)
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    q = ((1 - smooth) * np.eye(3)[np.where(on, index, 0)] + smooth / 3) * weight * on[..., None] * 2 / weight[index[on]].sum()
    close(-(q * np.log(p)).sum(), t("loss/total")), close(p * q.sum(-1, keepdims=True) - q, t("gin/logits"))

    t = lambda name: files["optim"]["adamw_warmup_cosine/" + name]  # decay first, eps outside the root
    theta, m, v, lr, low = t("param/theta"), 0, 0, float(np.float32(0.01)), float(np.float32(0.001))
    for i, g in enumerate(t("grads/theta")):
        rate = lr * (i + 1) / 3 if i < 3 else low + (lr - low) * (1 + math.cos(math.pi * (i - 3) / 7)) / 2
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        theta = theta * (1 - rate * 0.5) - rate * (m / (1 - 0.9 ** (i + 1))) / (np.sqrt(v / (1 - 0.999 ** (i + 1))) + 1e-8)
        close(theta, t("result/theta")[i])

    curve = files["models"]["unet/losses/curve"]
    assert curve[0] == files["models"]["unet/loss/total"] and curve[-1] < curve[0]

FAMILIES = {"ops": ops, "losses": losses, "optim": optim, "models": models, "backbones": backbones,
            "resize": resize}

def main():
    parser = argparse.ArgumentParser(description="Writes golden numbers for tinytl's tests.")
    parser.add_argument("--out", default="tests/golden")
    parser.add_argument("--only", choices=FAMILIES, action="append", help="write only this file; may be given several times")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    for name in args.only or FAMILIES:
        fam = FAMILIES[name]()
        fam.write(args.out)
        size = os.path.getsize(os.path.join(args.out, name + ".safetensors"))
        print(f"{name + '.safetensors':22} {len(fam.texts):4} cases {len(fam.tensors):5} tensors {size:8} bytes")
    self_check(args.out)
    print("self-check passed")

if __name__ == "__main__":
    main()
