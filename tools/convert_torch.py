#!/usr/bin/env python3
"""Converts a PyTorch weight file to .safetensors for tinytl, with the preprocessing in its metadata.

    pip install torch numpy
    python tools/convert_torch.py resnet50-0676ba61.pth resnet50.safetensors --arch resnet50
    python tools/convert_torch.py mine.pth mine.safetensors --mean 0.47 0.46 0.45 --std 0.17 0.16 0.17 --crop 224

Reads what torch.save, torchvision, torch.hub and timm leave: a state dict, or a checkpoint that holds one under state_dict, model,
model_state_dict, net or teacher. "module." and the like in front of every name is taken off, num_batches_tracked and DINOv2's
mask_token are left out; names and values stay as they are, but for the CIFAR ResNets of akamaster/pytorch_resnet_cifar10, whose
linear.* becomes fc.* and whose parameter-free shortcuts are written out as 1x1 convolutions (--arch resnet20 .. resnet110).

The preprocessing is that of --arch as published, with whatever options say otherwise. Without both, the file says nothing about it,
and tinytl takes what was published for the architecture that it recognises, and says so. Half-precision values stay half.
Weights are read with weights_only=True: a file cannot run code.
"""
import argparse, json, os, struct, sys

IMAGENET = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
HALVES = dict(mean=[0.5] * 3, std=[0.5] * 3)
CIFAR = ["resnet20", "resnet32", "resnet44", "resnet56", "resnet110"]
PUBLISHED = {name: dict(IMAGENET, resize=256, crop=224) for name in
             """alexnet vgg11 vgg16 vgg19 vgg11_bn vgg16_bn vgg19_bn resnet18 resnet34 resnet50 resnet101 resnet152 squeezenet1_0
             squeezenet1_1 mobilenet_v2""".split()}
PUBLISHED |= {name: dict(IMAGENET, resize=32, crop=32) for name in CIFAR}
PUBLISHED |= {"efficientnet_b0": dict(IMAGENET, resize=256, crop=224, cubic=1),
              "convnext_tiny": dict(IMAGENET, resize=236, crop=224)}
PUBLISHED |= {f"vit_{size}_patch16_224": dict(HALVES, resize=248, crop=224, cubic=1) for size in ("tiny", "small", "base")}
PUBLISHED |= {f"vit_{size}_patch14_dinov2": dict(IMAGENET, resize=518, crop=518, cubic=1) for size in ("small", "base")}
PUBLISHED |= {f"unet_resnet{n}": dict(IMAGENET) for n in (18, 34, 50, 101, 152)}

def load(path):
    """-> the state dict in a file, name: tensor"""
    import torch
    data = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model_state_dict", "model", "net", "teacher"):
        if isinstance(data, dict) and isinstance(data.get(key), dict):
            data = data[key]
            break
    if not isinstance(data, dict) or not any(torch.is_tensor(v) for v in data.values()):
        sys.exit(f"'{path}' holds no state dict; save model.state_dict() and convert that")
    return {name: value for name, value in data.items() if torch.is_tensor(value)}

def clean(state):
    """Takes off what stands before every name, and what is no weight."""
    for prefix in ("module.", "model.", "backbone.", "_orig_mod."):
        if all(name.startswith(prefix) for name in state):
            state = {name[len(prefix):]: value for name, value in state.items()}
    return {name: value for name, value in state.items()
            if not name.endswith("num_batches_tracked") and name != "mask_token"}

def cifar(state):
    """linear becomes fc; a shortcut that takes every second pixel and pads channels with zeros becomes a fixed convolution."""
    import torch
    state = {name.replace("linear.", "fc.", 1) if name.startswith("linear.") else name: value for name, value in state.items()}
    for layer in (2, 3):
        first = state[f"layer{layer}.0.conv1.weight"]
        out, inputs = first.shape[:2]
        name = f"layer{layer}.0.downsample."
        if name + "0.weight" in state or inputs == out:
            continue
        weight = torch.zeros(out, inputs, 1, 1)
        for c in range(inputs):
            weight[(out - inputs) // 2 + c, c] = 1
        state |= {name + "0.weight": weight, name + "1.weight": torch.ones(out), name + "1.bias": torch.zeros(out),
                  name + "1.running_mean": torch.zeros(out), name + "1.running_var": torch.full((out,), 1 - 1e-5)}
    return state

def preprocess_text(p):
    """As tinytl writes it: four means and deviations, then what is not zero."""
    four = lambda values: ",".join(repr(float(v)) for v in (list(values) + [0] * 4)[:4])
    text = f"full mean={four(p['mean'])} std={four(p['std'])}"
    return text + "".join(f" {key}={p[key]}" for key in ("resize", "crop", "cubic", "bgr") if p.get(key))

def write(path, state, metadata):
    import torch
    kinds = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
    header, at = {"__metadata__": metadata}, 0
    tensors = []
    for name, value in state.items():
        if value.dtype not in kinds:
            print(f"left out: {name} ({value.dtype})")
            continue
        raw = value.detach().contiguous().view(torch.uint8 if value.dim() else value.dtype).numpy().tobytes()
        header[name] = {"dtype": kinds[value.dtype], "shape": list(value.shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
        tensors.append(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path + ".part", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for raw in tensors:
            f.write(raw)
    os.replace(path + ".part", path)
    return len(tensors), at

def main():
    parser = argparse.ArgumentParser(description="Converts a PyTorch weight file to .safetensors for tinytl.")
    parser.add_argument("weights", help=".pth, .pt or .bin file")
    parser.add_argument("out", help=".safetensors file to write")
    parser.add_argument("--arch", choices=sorted(PUBLISHED), metavar="NAME", help="architecture: " + ", ".join(sorted(PUBLISHED)))
    parser.add_argument("--mean", type=float, nargs=3, help="of each channel, on 0 .. 1")
    parser.add_argument("--std", type=float, nargs=3, help="of each channel, on 0 .. 1")
    parser.add_argument("--resize", type=int, help="shorter side in pixels")
    parser.add_argument("--crop", type=int, help="side of the centre crop in pixels")
    parser.add_argument("--cubic", type=int, choices=(0, 1), help="1: resize bicubic")
    parser.add_argument("--bgr", type=int, choices=(0, 1), help="1: channels in the order blue, green, red")
    parser.add_argument("--classes", help="names of the classes, one in each line, to go into the file")
    args = parser.parse_args()
    state = clean(load(args.weights))
    if args.arch in CIFAR:
        state = cifar(state)
    metadata, p = {"format": "pt"}, dict(PUBLISHED.get(args.arch, {}))
    p |= {key: getattr(args, key) for key in ("mean", "std", "resize", "crop", "cubic", "bgr") if getattr(args, key) is not None}
    if p and not ("mean" in p and "std" in p):
        sys.exit("give --mean and --std, or --arch")
    if p:
        metadata["tinytl.preprocess"] = preprocess_text(p)
    if args.arch:
        metadata["tinytl.architecture"] = args.arch
    if args.classes:
        with open(args.classes, encoding="utf-8") as f:
            metadata["tinytl.classes"] = "\n".join(line.rstrip("\r\n") for line in f)
    count, size = write(args.out, state, metadata)
    print(f"{args.out}: {count} tensors, {size / 1e6:.1f} MB; preprocessing: {metadata.get('tinytl.preprocess', 'not stated')}")

if __name__ == "__main__":
    main()
