#!/bin/sh
# cuda.sh [PYTHON]   Everything that needs a real GPU, in one run: builds with nvcc for the GPU that is there, runs the cases of
# tests/cuda.cpp on it with the tolerances of the emulator, compute-sanitizer where it works, and times whole steps beside PyTorch
# (if PYTHON, python3 unless named, has it). Writes build/cuda.txt, a table for the README.

cd "$(dirname "$0")/.." || exit 1
python=${1:-python3}
out=build/cuda_device
mkdir -p $out || exit 1
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
command -v "$nvcc" >/dev/null || { echo "nvcc is not installed"; exit 1; }
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader

flags="-O2 -x cu -std=c++14 -arch=native -I. -Itests -diag-suppress 1675,550"
echo "== build"
"$nvcc" $flags tests/cuda.cpp -o $out/tests || exit 1
"$nvcc" $flags tools/cuda_bench.c -o $out/bench || exit 1

echo "== the cases of the emulator on the GPU"
failed=0
$out/tests || failed=1

if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck synccheck; do
        echo "== compute-sanitizer $tool"
        compute-sanitizer --tool $tool --error-exitcode 9 $out/tests conv2d >$out/$tool.log 2>&1 || failed=1
        tail -n 3 $out/$tool.log
    done
else
    echo "compute-sanitizer is not installed"
fi

echo "== a program that cc built"
if cc -O2 -std=c99 -D_POSIX_C_SOURCE=200809L -DTINYTL_PLAIN -I. -Itests tests/cuda_dlopen.c -o $out/dlopen -lm -pthread -ldl; then
    LD_LIBRARY_PATH="$(dirname "$(readlink -f "$nvcc")")/../lib64:${LD_LIBRARY_PATH:-}" $out/dlopen real || failed=1
fi

echo "== speed"
$out/bench $out/tinytl.json || failed=1
if "$python" -c 'import torch' 2>/dev/null; then
    (cd tools && "$python" cuda_bench_torch.py "../$out/torch.json")
else
    echo "$python has no PyTorch: no comparison"
fi

"$python" - $out/tinytl.json $out/torch.json >build/cuda.txt <<'END'
import datetime, json, os, sys
ours = json.load(open(sys.argv[1]))
theirs = json.load(open(sys.argv[2])) if os.path.exists(sys.argv[2]) else {"works": []}
print(f"{ours['gpu']}, {datetime.date.today()}" + (f", PyTorch {theirs['torch']}" if theirs["works"] else ""))
print("\n| milliseconds | tinytl fp32 | tf32 | bf16 | bf16, no graph | PyTorch eager | bf16 | best | share of the floor |")
print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
for work in ours["works"]:
    peer = next((w for w in theirs["works"] if w["name"] == work["name"]), {})
    times = [v for k, v in peer.items() if k != "name"]
    cell = lambda v: f"{v:.2f}" if v and v > 0 else "-"
    share = f"{100 * work['floor_ms'] / work['bf16']:.0f} %" if work["floor_ms"] and work["bf16"] > 0 else "-"
    print(f"| {work['name']} | {cell(work['fp32'])} | {cell(work['tf32'])} | {cell(work['bf16'])} | {cell(work['bf16 no graph'])} | "
          f"{cell(peer.get('eager'))} | {cell(peer.get('bf16'))} | {cell(min(times) if times else None)} | {share} |")
END
cat build/cuda.txt
exit $failed
