#!/bin/sh
# check_cuda.sh DIR   Does tinytl_cuda.h compile? As C99 and C++11 without nvcc; with nvcc, where it is installed, for sm_80,
# sm_90 and the newest GPU that it knows, all warnings as errors, and no main kernel may spill registers or use a stack; with
# clang, where that is installed instead, the kernels alone. Where NVRTC is installed, it compiles the text that a program built
# without nvcc carries; the driver's library of the toolkit must have every function that such a program asks for. DIR takes
# what is built.

dir=${1:?usage: check_cuda.sh DIR}
passed=0
failed=0
mkdir -p "$dir" || exit 1

good() {        # NAME COMMAND...
    name=$1
    shift
    if "$@" >"$dir/log" 2>&1; then passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $name"
        head -n 20 "$dir/log" | sed 's/^/    /'
    fi
}

cat >"$dir/all.cu" <<'END'
#define TINYTL_IMPLEMENTATION
#include "tinytl.h"
#define TINYTL_CUDA_IMPLEMENTATION
#include "tinytl_cuda.h"
int main(void) { return tl_use_cuda(NULL, NULL) == TL_OK; }
END
warn="-D_POSIX_C_SOURCE=200809L -I. -Wall -Wextra -Wpedantic -Wshadow -Werror -fsyntax-only"
good "C99" "${CC:-cc}" -x c -std=c99 $warn "$dir/all.cu"
good "C++11" "${CXX:-c++}" -x c++ -std=c++11 $warn "$dir/all.cu"

nvcc=$(command -v nvcc || { [ -x /usr/local/cuda/bin/nvcc ] && echo /usr/local/cuda/bin/nvcc; })
if [ -n "$nvcc" ]; then
    newest=$("$nvcc" --list-gpu-arch | sed -n 's/^compute_\([0-9]*\)$/\1/p' | sort -n | tail -n 1)
    codes=
    for arch in $(printf '%s\n' 80 90 "$newest" | sort -un); do codes="$codes -gencode arch=compute_$arch,code=sm_$arch"; done
    # of the host code, which other compilers check: 1675 their pragmas, 550 a variable that is only set
    good "nvcc:$codes" "$nvcc" -std=c++14 -I. -Werror all-warnings -diag-suppress 1675,550 -Xptxas -v $codes -c "$dir/all.cu" -o "$dir/all.o"
    # "N bytes stack frame, N bytes spill stores, N bytes spill loads" below the name; of the kernels where the time goes
    spills=$(awk '/Function properties for/ { name = $NF }
        /spill stores/ && $1 + $5 > 0 && name ~ /conv_|mma_|bn_|elements|step_|slice|column/ { print "    " name ": " $0 }' "$dir/log")
    if [ -z "$spills" ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED: registers are spilled"; echo "$spills"; fi
elif command -v clang++ >/dev/null; then
    cat >"$dir/kernels.cu" <<'END'
#define __device__ __attribute__((device))
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define __align__(n) __attribute__((aligned(n)))
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(n, ...) __attribute__((launch_bounds(n)))
#include <__clang_cuda_builtin_vars.h>
extern "C" __device__ float expf(float), fabsf(float), floorf(float), sinf(float), cosf(float), tanhf(float), erff(float), sqrtf(float), logf(float), powf(float, float), log1pf(float);
extern "C" __device__ double sqrt(double), floor(double);
__device__ float __shfl_xor_sync(unsigned, float, int), __shfl_sync(unsigned, float, int);
__device__ double __shfl_xor_sync(unsigned, double, int);
__device__ unsigned long __cvta_generic_to_shared(const void *);
__device__ void __syncthreads();
#define __CUDACC_RTC__ 1
#define __CUDACC__ 1
#define TINYTL_API
#define TINYTL_CUDA_IMPLEMENTATION
#include "tinytl_cuda.h"
END
    good "clang: kernels" clang++ -x cuda -std=c++14 --cuda-device-only --cuda-gpu-arch=sm_80 -nocudainc -nocudalib -I. -fsyntax-only \
        -Wno-unknown-cuda-version "$dir/kernels.cu"
else
    echo "neither nvcc nor clang: the kernels are compiled for no GPU"
fi

# ---- what a program that was built without nvcc does at run time

toolkit=$(dirname "$(readlink -f "${nvcc:-/usr/local/cuda/bin/nvcc}")")/..
nvrtc=$(ls "$toolkit"/lib64/libnvrtc.so "$toolkit"/lib/libnvrtc.so 2>/dev/null | head -n 1)
stub=$(ls "$toolkit"/lib64/stubs/libcuda.so "$toolkit"/lib/stubs/libcuda.so 2>/dev/null | head -n 1)
cat >"$dir/nvrtc.c" <<'END'
#define TINYTL_PLAIN
#define TINYTL_IMPLEMENTATION
#include "tinytl.h"
#define TINYTL_CUDA_IMPLEMENTATION
#include "tinytl_cuda.h"
int main(void)
{
    size_t size = 0;
    char *image = tl__cu_compile(9, 0, &size);
    if (!image || size < 100000) fprintf(stderr, "%zu bytes: %s\n", size, tl__cu_said);
    tl__free(image);
    return !image || size < 100000;
}
END
good "a program for NVRTC" "${CC:-cc}" -O0 -std=c99 -D_POSIX_C_SOURCE=200809L -I. "$dir/nvrtc.c" -o "$dir/nvrtc" -lm -pthread -ldl
[ -n "$nvrtc" ] && good "NVRTC: sm_90" env TINYTL_NVRTC="$nvrtc" LD_LIBRARY_PATH="$(dirname "$nvrtc")" "$dir/nvrtc"
if [ -n "$stub" ] && command -v nm >/dev/null; then
    "${CC:-cc}" -E -I. "$dir/nvrtc.c" | tr -d '\n' | sed -n 's/.*struct tl__cu_cuda {\([^}]*\)}.*/\1/p' |
        grep -o '(\*cu[A-Za-z0-9_]*)' | tr -d '(*)' | sort >"$dir/asked"
    nm -D --defined-only "$stub" | awk '{ print $NF }' | sort >"$dir/driver"
    good "functions of the driver" test "$(comm -12 "$dir/asked" "$dir/driver" | wc -l)" -gt 25 -a -z "$(comm -23 "$dir/asked" "$dir/driver")"
fi

echo "check_cuda: $passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
