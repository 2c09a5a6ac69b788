// tinytl_cuda.h - v0.1 - tinytl on an NVIDIA GPU - MIT licence, see tinytl.h
//
// The optional companion of tinytl.h: hand-written CUDA kernels for every operation, loss and optimiser. No cuDNN, no
// cuBLAS, no vendor number types. Do this in ONE file:
//
//     #define TINYTL_IMPLEMENTATION
//     #include "tinytl.h"
//     #define TINYTL_CUDA_IMPLEMENTATION
//     #include "tinytl_cuda.h"
//
// and put a network on the GPU:
//
//     tl_net *net = tl_net_new(NULL);
//     if (tl_use_cuda(net, NULL)) fprintf(stderr, "%s\n", tl_error(NULL));     // the network stays on the CPU
//
//     nvcc -O2 -arch=native -x cu program.c -o program         with the CUDA toolkit, or
//     cc -O2 program.c -o program -lm -pthread -ldl            on Linux with any compiler: the program looks for the driver
//                                                              and NVRTC when it runs, and compiles the kernels once
//
// Everything else stays as it was: the same calls build, train, save and predict, and a model trained here is read
// there. What a GPU can not do it says in tl_prepare; no operation ever falls back to the CPU silently.
//
// PROMISES
//     The same bits on every run: no atomics on numbers, every sum in a fixed order that depends on the shapes alone.
//     All memory in one block, planned by tl_memory and taken by tl_prepare, which says so when it does not fit. No
//     allocation in a pass. Every call of the driver is checked; an error names the kernel, its grid and the layer.
//     It never exits.
//
// TESTED without a GPU: tests/emulator.h compiles this very file as C++ and runs every kernel on the CPU against
// tinytl.h. How fast it is on a GPU has not been measured.
//
// CONTENTS: the tags are those of tinytl.h, so >>conv here is the GPU's side of >>conv there. Per operation the plain
// kernel comes first.
//
//     INTERFACE, KERNELS (>>random >>conv >>norm >>activation >>pool >>resample >>join >>attention >>loss >>optim
//     >>augment), HOST (drivers, >>net >>execute >>augment, several GPUs)

#ifndef TINYTL_CUDA_H
#define TINYTL_CUDA_H

#ifndef __CUDACC_RTC__

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tl_cuda_math {
    TL_CUDA_FP32 = 0,      // float everywhere: the reference
    TL_CUDA_TF32,          // float everywhere, but convolutions and dense layers multiply numbers rounded to 10 bits of
                           // mantissa, on the tensor cores, and sum in float
    TL_CUDA_BF16           // activations and their gradients stored as bf16, 7 bits of mantissa, which halves the
                           // memory traffic; multiplied on the tensor cores. Sums, statistics, losses, parameters,
                           // their gradients and the optimiser stay float, so no loss scaling is needed
} tl_cuda_math;

typedef struct tl_cuda_desc {
    int device;            // number of the GPU
    tl_cuda_math math;
    int no_graph;          // 1: launch kernels one by one, not as a CUDA graph
    int augment;           // 1: tl_fit makes its batches on the GPU, with the values that they have on the CPU: all geometry,
                           // brightness, brightness_contrast, invert, gamma, gauss_noise. A list with another transform
                           // is refused. Images go over the bus as bytes. Takes room for some twenty inputs of each sample
    int debug;             // 1: wait after every kernel, so that an error names the kernel that made it
} tl_cuda_desc;

// Puts a network on a GPU; desc may be NULL. Before tl_prepare. If it fails, the network stays where it is, usable.
TINYTL_API tl_result tl_use_cuda(tl_net *net, const tl_cuda_desc *desc);

// Several GPUs: networks of one structure, each on a GPU of its own and prepared for training, learn together from
// batches of their own. tl_cuda_join gives all of them the parameters of the first. In every step, between tl_backward
// of all and tl_step of all, tl_cuda_average makes the gradients of each their mean, and so the parameters stay equal.
// Statistics of batch norms are each network's own. NCCL is looked for at run time. The first network keeps the
// connection; none of them may be freed before the last tl_cuda_average.
#define TL_CUDA_GPUS 16
TINYTL_API tl_result tl_cuda_join(tl_net *const *nets, int count);
TINYTL_API tl_result tl_cuda_average(tl_net *first);

#ifdef __cplusplus
}
#endif

#endif // not NVRTC

#endif // TINYTL_CUDA_H

#if defined(TINYTL_CUDA_IMPLEMENTATION) && !defined(TINYTL_CUDA_IMPLEMENTED)
#define TINYTL_CUDA_IMPLEMENTED

#if !defined(__CUDACC_RTC__) && !defined(TINYTL_IMPLEMENTED)
    #error "tinytl_cuda.h needs tinytl.h with TINYTL_IMPLEMENTATION before it, in the same file"
#endif
#ifdef TINYTL_DOUBLE
    #error "the GPU computes in float: TINYTL_DOUBLE and tinytl_cuda.h do not go together"
#endif

// ============================================================================================
//  WHAT KERNELS ARE TOLD: one struct each, the same for host and device
// ============================================================================================

typedef unsigned short tlk_bf16;
typedef unsigned long long tlk_size;

enum {
    TL__CU_COPY = 0, TL__CU_RELU, TL__CU_LEAKY_RELU, TL__CU_RELU6, TL__CU_SIGMOID, TL__CU_TANH, TL__CU_GELU,
    TL__CU_SILU, TL__CU_ADD, TL__CU_MUL, TL__CU_ADD_RELU
};
enum {
    TL__CU_CROSS_ENTROPY = 1, TL__CU_BCE, TL__CU_DICE, TL__CU_FOCAL, TL__CU_MSE, TL__CU_L1, TL__CU_HUBER
}; // tl_loss_kind
enum { TL__CU_SGD = 1, TL__CU_ADAGRAD, TL__CU_RMSPROP, TL__CU_ADAM, TL__CU_LION };

#define TL__CU_LOSS_RUN 1024            // positions in a block of the loss kernels

typedef struct tl__cu_elements {
    const void *x, *other, *dy;
    void    *out;
    tlk_size count;
    int      op, add;
    float    number;                    // slope of leaky_relu
} tl__cu_elements;

typedef struct tl__cu_reduce {
    const float *from;                  // `parts` arrays, `stride` values apart
    float   *to;
    tlk_size count, stride;
    int      parts, add;
} tl__cu_reduce;

typedef struct tl__cu_conv {
    int n, h, w, c, oh, ow, kh, kw, sh, sw, pt, pl, dh, dw, out, groups;    // as tl__window and tl__conv
    const void  *in, *dy;               // in: what is gathered from, x or (backward data) dy
    const float *weight, *bias;
    const void  *rounded;               // tensor cores: the weights in the type of the activations
    void  *result;                      // y or dx
    float *sums;                        // forward on tensor cores: for the batch norm behind, or NULL
    float *partial;                     // backward weights: `splits` arrays like the weights
    int    splits, add;
    int    true_c, true_out;            // tensor cores: c and out without the channels that fill pieces up
    const void *in2;                    // tensor cores: a concatenation that is not made: the first `part` channels of a
    void  *result2;                     // pixel are in `in`, the others in in2; part = c: all are. Backward data writes
    int    part, add2;                  // both; a result of NULL is not wanted
    // what is done to a value before it is stored: a batch norm with fixed statistics (mean NULL: none), a sum, ReLU
    const float *mean, *var, *norm_weight, *norm_bias;
    const void  *residual;
    float  eps;
    int    relu;
} tl__cu_conv;

typedef struct tl__cu_pad {             // rows of `c` values to rows of `to`, the rest 0
    const void *x;
    void    *y;
    tlk_size rows;
    int      c, to;
} tl__cu_pad;

typedef struct tl__cu_norm {
    const void  *x, *dy;
    void        *y, *dx;
    const float *weight, *bias;
    float *stats, *vectors, *partial;
    float *dweight, *dbias, *running_mean, *running_var;
    tlk_size rows;                      // positions; group norm: of one sample
    int   n, c, groups, run, blocks;    // run: rows in a block of a sum
    int   relu, add;
    float eps, momentum;
} tl__cu_norm;

typedef struct tl__cu_pool {
    const void *x, *dy;
    void *y, *dx;
    int   n, h, w, c, oh, ow, kh, kw, sh, sw, pt, pl;
    int   average, exclude_pad, add;
} tl__cu_pool;

typedef struct tl__cu_join {
    const void *x, *other;
    void    *y;
    tlk_size count, rows;
    int      c, from_c, from_first, to_c, to_first, add;
} tl__cu_join;

typedef struct tl__cu_attention {
    const void *qkv, *dout;
    void  *out, *dqkv;
    float *log_sum, *mean;              // [sample][head][token]
    int    n, tokens, channels, heads, add;
} tl__cu_attention;

typedef struct tl__cu_dropout {
    const void     *x;
    void           *y;
    const unsigned *pass;
    tlk_size        count, threshold;   // count: values of a sample
    unsigned        key[2], purpose;
    float           scale;
    int             whole, add;         // whole: number 0 of a sample decides for all of it
} tl__cu_dropout;

#define TL__CU_VIEW_STEPS 8             // on grey values, in a map
#define TL__CU_VIEW_MAPS 3

// One map of a sample: where pixels come from, tl__warp, and what is done to grey values then. Maps before the last leave
// f32 pixels and a mask in the sample's room; the last makes the input and the targets.
typedef struct tl__cu_view {
    double   a[9], b[9];
    tlk_size pixels, mask, lines;       // where they lie in the room, in bytes
    tlk_size to_pixels, to_mask;
    int      width, height, floats;     // of the piece of the image; 1: f32, 0: u8
    int      out_w, out_h;              // of what is made, 0: nothing; where the input is larger, it is mirrored
    int      number, map;               // of the sample; of the map, from 0
    int      border, ignore, bicubic;
    float    fill;
    int      waves;                     // 0: none, 1: a lattice of normal deviates, 2: the same along a row
    int      canvas_w, canvas_h, canvas_x, canvas_y;     // part of the canvas of the displacement
    int      columns, first_row, first_column, rows;     // of the lattice; all columns count, those from the first are kept
    float    spacing, way[2];
    unsigned wave_counter[2][4], wave_key[2];
    int      label, masked, steps;
    unsigned used;                      // bytes of the room that the host fills
    struct {
        int      kind;                  // TL__CU_SCALE ...
        float    gain, shift;
        unsigned counter[4], key[2];
    } step[TL__CU_VIEW_STEPS];
    float    mean[4], inverse[4];
    int      bgr;
} tl__cu_view;

enum { TL__CU_SCALE, TL__CU_POWER, TL__CU_NOISE };

typedef struct tl__cu_views {
    const tl__cu_view *views;
    const char *rooms;                  // of `room` bytes for each sample
    float    *lattices;                 // of `nodes` values for each map, sample and direction
    void     *out;                      // the input, or class indices
    tlk_size  room, nodes;
    int       samples, h, w, c, masks;
} tl__cu_views;

typedef struct tl__cu_loss {
    const void  *x;
    void        *dx;
    const int   *index;
    const float *dense, *class_weight, *weight;     // weight: of the positions
    double      *partial, *value;
    float       *factors;
    tlk_size     positions;
    int          c, kind, softmax, ignore_index, blocks, add;
    float        smoothing, gamma, alpha, delta, scale;
} tl__cu_loss;

typedef struct tl__cu_piece {
    tlk_size at;                        // in the flat arrays
    int      count, tensor;
    int      first;                     // of the values of the tensor
    int      c, out, to_c, to_out;      // weights [tap][c][out] for tensor cores: [tap][to_c][to_out]; to_c 0: not for them
    tlk_size rounded_at;                // where the tensor begins there
} tl__cu_piece;

typedef struct tl__cu_rates {           // tl__rates of a tensor
    float lr, decay, keep, eps, momentum, beta1, beta2, gain, from_g, from_b, rest1, rest2, debias1, debias2;
    int   frozen;
} tl__cu_rates;

typedef struct tl__cu_step {
    float  *parameters, *first, *second;
    const float *gradients;
    const tl__cu_piece *pieces;
    const tl__cu_rates *rates;
    double *partial, *state;
    void   *rounded;
    int     piece_count, kind;
    float   clip_norm;
} tl__cu_step;

// Every kernel with its struct. Those of the first list exist for both types of activations, those of the second once.
#define TL__CU_TYPED(K)                                                                                              \
    K(find_bad, elements)                                                                                            \
    K(conv_forward_plain, conv) K(conv_backward_data_plain, conv) K(conv_backward_weights_plain, conv)               \
    K(column_sums, norm)                                                                                             \
    K(mma_forward_16, conv) K(mma_forward_32, conv) K(mma_forward_64, conv) K(mma_forward_128, conv)                 \
    K(mma_data_16, conv) K(mma_data_32, conv) K(mma_data_64, conv) K(mma_data_128, conv)                             \
    K(mma_weights_16, conv) K(mma_weights_32, conv) K(mma_weights_64, conv) K(mma_weights_128, conv)                 \
    K(round_weights, step) K(pad_channels, pad)                                                                      \
    K(bn_partial, norm) K(bn_finish, norm) K(bn_apply, norm) K(bn_backward_partial, norm) K(bn_backward_apply, norm) \
    K(gn_stats, norm) K(gn_apply, norm) K(gn_backward_sums, norm) K(gn_backward_apply, norm)                         \
    K(ln_forward, norm) K(ln_backward, norm) K(ln_backward_sums, norm)                                               \
    K(elements_forward, elements) K(elements_backward, elements) K(softmax_forward, norm) K(softmax_backward, norm)  \
    K(pool_forward, pool) K(pool_backward, pool) K(adaptive_forward, pool) K(adaptive_backward, pool)                \
    K(upsample_forward, pool) K(upsample_backward, pool)                                                             \
    K(slice, join) K(mul_channels, join) K(mul_channels_sums, join) K(dropout, dropout)                              \
    K(parameter_forward, join) K(parameter_backward, join)                                                           \
    K(attention_forward, attention) K(attention_backward_queries, attention) K(attention_backward_keys, attention)   \
    K(loss_sums, loss) K(dice_sums, loss) K(loss_gradient, loss) K(view_input, views)
#define TL__CU_FLOAT(K)                                                                                              \
    K(load_floats, elements) K(store_floats, elements)                                                               \
    K(conv_forward, conv) K(conv_backward_data, conv) K(conv_backward_weights, conv)                                 \
    K(reduce_parts, reduce) K(bn_merge, norm) K(bn_eval, norm) K(bn_backward_finish, norm)                           \
    K(gn_backward_means, norm) K(loss_finish, loss) K(step_norm, step) K(step_scale, step) K(step_update, step)   \
    K(view_lattice, views) K(view_map, views) K(view_targets, views)

// ============================================================================================
//  KERNELS
//
//  Ordinary CUDA C++, but for four rules that let the same text compile three ways (nvcc, NVRTC, the emulator of
//  tests/emulator.h): one parameter struct per kernel; shared memory through tl_smem<T>(); instructions that C++ has no
//  words for only in the wrappers below; no vendor types, bf16 is an unsigned short.
//
//  Blocks have 256 threads. Arrays are channels-last, so threads that follow each other take channels that follow each
//  other, and a warp reads whole lines of memory. Every sum has a fixed order: a block sums its share, and a second
//  kernel sums the shares from first to last. No atomics, so a run gives the same bits every time.
//
//  A is the type of activations and their gradients: float, or bf16 in half of the memory. Parameters, their gradients,
//  statistics and all sums are float or double.
// ============================================================================================

#if defined(__CUDACC__) || defined(TL_CUDA_EMULATOR)

#define TLK_THREADS 256
#define TLK_PER_THREAD 4                 // elements that a thread of an element-wise kernel takes: loads in flight

// ---- language ------------------------------------------------------------------------------

#if !defined(TL_CUDA_EMULATOR)

// The dynamic shared memory of the block, as a struct: its arrays have names and bounds.
template <typename T> __device__ __forceinline__ T *tl_smem()
{
    extern __shared__ __align__(16) unsigned char tl_shared_bytes[];
    return reinterpret_cast<T *>(tl_shared_bytes);
}

// Copies 16 bytes from global to shared memory without a register in between; of these `bytes` are read, the rest is 0.
__device__ __forceinline__ void tl_cp_async16(void *shared, const void *global, int bytes)
{
    unsigned to = (unsigned)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}

// Closes a group of copies; wait<N> returns when all but the last N groups of this thread have arrived.
__device__ __forceinline__ void tl_cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void tl_cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Four 8x8 matrices of 16-bit values: lane l gives the address of row l%8 of matrix l/8, and gets of each matrix the
// two values at row l/4, columns 2(l%4) and the next; with _trans those of the transposed matrix.
__device__ __forceinline__ void tl_ldmatrix_x4(unsigned r[4], const void *row)
{
    unsigned at = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
__device__ __forceinline__ void tl_ldmatrix_x4_trans(unsigned r[4], const void *row)
{
    unsigned at = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

// A warp multiplies: c (16x8 float) += a (16x16 bf16) b (16x8 bf16), or a (16x8 tf32) b (8x8 tf32).
__device__ __forceinline__ void tl_mma_bf16(float c[4], const unsigned a[4], const unsigned b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void tl_mma_tf32(float c[4], const unsigned a[4], const unsigned b[2])
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Rounds to tf32. The tensor core would cut the low bits off, which doubles the error.
__device__ __forceinline__ unsigned tl_to_tf32(float value)
{
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
}

#endif // not the emulator

#define TLK __device__ __forceinline__

union tlk_word {
    float    f;
    unsigned u;
};

TLK float tlk_float(unsigned bits)
{
    tlk_word word;
    word.u = bits;
    return word.f;
}

// Rounds to the nearest bf16, ties to even; a NaN stays one.
TLK tlk_bf16 tlk_to_bf16(float value)
{
    tlk_word word;
    word.f = value;
    if (value != value) return (tlk_bf16)((word.u >> 16) | 64u);
    return (tlk_bf16)((word.u + 0x7fffu + ((word.u >> 16) & 1u)) >> 16);
}

TLK float tlk_get(const float *p) { return *p; }
TLK float tlk_get(const tlk_bf16 *p) { return tlk_float((unsigned)*p << 16); }
TLK void tlk_set(float *p, float value) { *p = value; }
TLK void tlk_set(tlk_bf16 *p, float value) { *p = tlk_to_bf16(value); }

// What depends on the type: values in a piece of 16 bytes, which is the most that a thread reads at once. For the
// tensor cores: values in a step of K and in the depth of one mma; bytes behind a row of m or n.
template <typename A> struct tlk_kind;
template <> struct tlk_kind<tlk_bf16> { enum { PIECE = 8, STEP = 32, MMA = 16, PAD = 16 }; };
template <> struct tlk_kind<float> { enum { PIECE = 4, STEP = 16, MMA = 8, PAD = 32 }; };

template <typename A> struct __align__(16) tlk_piece {
    A of[tlk_kind<A>::PIECE];
};

template <typename A> TLK tlk_piece<A> tlk_get_piece(const void *p, tlk_size i)
{
    return *(const tlk_piece<A> *)((const A *)p + i);
}
template <typename A> TLK void tlk_set_piece(void *p, tlk_size i, const tlk_piece<A> &piece)
{
    *(tlk_piece<A> *)((A *)p + i) = piece;
}

// Writes a gradient, or adds it to what other consumers of the value have left there.
template <typename A> TLK void tlk_put(A *p, float value, int add) { tlk_set(p, add ? tlk_get(p) + value : value); }

// Two values side by side, at an even place: one access instead of two.
struct __align__(8) tlk_two {
    float of[2];
};
TLK void tlk_put_pair(float *p, const float v[2], int add)
{
    tlk_two two = { { v[0], v[1] } };
    if (add) {
        tlk_two old = *(const tlk_two *)p;
        two.of[0] += old.of[0];
        two.of[1] += old.of[1];
    }
    *(tlk_two *)p = two;
}
TLK void tlk_put_pair(tlk_bf16 *p, const float v[2], int add)
{
    unsigned old = add ? *(const unsigned *)p : 0;
    float first = add ? v[0] + tlk_float(old << 16) : v[0], second = add ? v[1] + tlk_float(old & 0xffff0000u) : v[1];
    *(unsigned *)p = (unsigned)tlk_to_bf16(first) | (unsigned)tlk_to_bf16(second) << 16;
}

// Division of indices: in 32 bits where they fit, which takes a fifth of the time.
TLK tlk_size tlk_divide(tlk_size i, int by) { return i >> 32 ? i / (unsigned)by : (unsigned)i / (unsigned)by; }
TLK int tlk_rest(tlk_size i, int by) { return (int)(i >> 32 ? i % (unsigned)by : (unsigned)i % (unsigned)by); }

TLK int tlk_min(int a, int b) { return a < b ? a : b; }
TLK int tlk_max(int a, int b) { return a > b ? a : b; }

// The first element of this thread; the others follow at distances of TLK_THREADS.
TLK tlk_size tlk_first() { return (tlk_size)blockIdx.x * (TLK_THREADS * TLK_PER_THREAD) + threadIdx.x; }

// Element-wise work in pieces of 16 bytes: whole(i) does the piece that begins at i, each(i) one of the values
// behind the last whole piece.
template <typename A, typename Whole, typename Each> TLK void tlk_pieces(tlk_size count, Whole whole, Each each)
{
    enum { PIECE = tlk_kind<A>::PIECE };
    tlk_size i = ((tlk_size)blockIdx.x * TLK_THREADS + threadIdx.x) * PIECE;
    if (i + PIECE <= count) whole(i);
    else for (; i < count; i++) each(i);
}

// Runs `body` for the elements of this thread: the loop of element-wise kernels without pieces.
#define TLK_ELEMENTS(i, count)                                                                           \
    for (tlk_size i = tlk_first(), tlk_end = i + TLK_THREADS * TLK_PER_THREAD;                           \
         i < tlk_end && i < (count); i += TLK_THREADS)

// ---- sums within a block -------------------------------------------------------------------

TLK float tlk_warp_sum(float v)
{
    for (int bits = 16; bits > 0; bits >>= 1) v += __shfl_xor_sync(0xffffffffu, v, bits);
    return v;
}

TLK double tlk_warp_sum(double v)
{
    for (int bits = 16; bits > 0; bits >>= 1) v += __shfl_xor_sync(0xffffffffu, v, bits);
    return v;
}

TLK float tlk_warp_max(float v)
{
    for (int bits = 16; bits > 0; bits >>= 1) {
        float other = __shfl_xor_sync(0xffffffffu, v, bits);
        v = other > v ? other : v;
    }
    return v;
}

struct tlk_warp_sums {
    double of[TLK_THREADS / 32];
};

// The sum over the block, for every thread.
TLK double tlk_block_sum(double v, tlk_warp_sums *s)
{
    v = tlk_warp_sum(v);
    __syncthreads();                                   // the sums of the call before have been read
    if (threadIdx.x % 32 == 0) s->of[threadIdx.x / 32] = v;
    __syncthreads();
    double sum = 0;
    for (int i = 0; i < TLK_THREADS / 32; i++) sum += s->of[i];
    return sum;
}

// Column sums: a block takes 32 channels, one for each lane, and a run of rows, one in eight for each warp. Its eight
// partial sums per channel meet here; warp 0 gets the totals.
struct tlk_columns {
    float of[8][32];
};

TLK float tlk_column_sum(float v, tlk_columns *s)
{
    __syncthreads();
    s->of[threadIdx.x / 32][threadIdx.x % 32] = v;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < 8; i++) sum += s->of[i][threadIdx.x % 32];
    return sum;
}

// The same with a piece of channels for each thread, where the channels are a multiple: threads lie side by side
// along a row, and as many rows as fit are summed at once. body(i, k, first, second) adds what the piece at i,
// channel k gives. The totals go to p.partial[block][0, 1][channel], or [block][channel] if `pairs` is 0.
struct tlk_wide_columns {
    float of[TLK_THREADS * 8];
};

template <typename A, typename Body> TLK void tlk_wide_sums(const tl__cu_norm &p, int pairs, Body body)
{
    enum { PIECE = tlk_kind<A>::PIECE };
    tlk_wide_columns *s = tl_smem<tlk_wide_columns>();
    int across = tlk_min(p.c / PIECE, 32), down = TLK_THREADS / across, t = (int)threadIdx.x;
    int row = t / across, k0 = ((int)blockIdx.x * across + t % across) * PIECE;
    tlk_size begin = (tlk_size)blockIdx.y * p.run, end = begin + p.run < p.rows ? begin + p.run : p.rows;
    float sum[2][PIECE];
    #pragma unroll
    for (int e = 0; e < PIECE; e++) sum[0][e] = sum[1][e] = 0;
    for (tlk_size r = begin + row; r < end && row < down && k0 < p.c; r += down) body(r * p.c + k0, k0, sum[0], sum[1]);
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        if (half > pairs) break;
        __syncthreads();
        #pragma unroll
        for (int e = 0; e < PIECE; e++) if (row < down) s->of[t * PIECE + e] = sum[half][e];
        __syncthreads();
        int k = (int)blockIdx.x * across * PIECE + t;
        if (t >= across * PIECE || k >= p.c) continue;
        float total = 0;
        for (int i = 0; i < down; i++) total += s->of[i * across * PIECE + t];
        p.partial[((tlk_size)blockIdx.y * (1 + pairs) + half) * p.c + k] = total;
    }
}

// out[i] += (or =) the sum of `parts` arrays. A block takes 32 values, one for each lane; its warps share the arrays, or
// few values in many parts would leave most of the processors idle.
struct tlk_parts {
    double of[8][32];
};

TLK void tlk_reduce_parts(const tl__cu_reduce &p)
{
    tlk_parts *s = tl_smem<tlk_parts>();
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    tlk_size i = (tlk_size)blockIdx.x * 32 + lane;
    double sum = 0;
    for (int part = warp; part < p.parts && i < p.count; part += 8) sum += (double)p.from[(tlk_size)part * p.stride + i];
    s->of[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || i >= p.count) return;
    for (int w = 1; w < 8; w++) sum += s->of[w][lane];
    p.to[i] = p.add ? p.to[i] + (float)sum : (float)sum;
}

// ---- conversions and checks ----------------------------------------------------------------

// A mirror of the host (float) to and from bf16.
TLK void tlk_load_floats(const tl__cu_elements &p)
{
    TLK_ELEMENTS(i, p.count) tlk_set((tlk_bf16 *)p.out + i, ((const float *)p.x)[i]);
}

TLK void tlk_store_floats(const tl__cu_elements &p)
{
    TLK_ELEMENTS(i, p.count) ((float *)p.out)[i] = tlk_get((const tlk_bf16 *)p.x + i);
}

// *out = 1 if a value is not finite. Threads that find one all write the same.
template <typename A> TLK void tlk_find_bad(const tl__cu_elements &p)
{
    TLK_ELEMENTS(i, p.count) {
        float v = tlk_get((const A *)p.x + i);
        if (!(v - v == 0)) *(int *)p.out = 1;
    }
}

// ============================================================================================
// >>random: numbers as a function of an address; the same values as on the CPU
// ============================================================================================

TLK void tlk_philox(const unsigned counter[4], const unsigned key[2], unsigned out[4])
{
    unsigned c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        unsigned long long p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
        c0 = (unsigned)(p1 >> 32) ^ c1 ^ k0;
        c1 = (unsigned)p1;
        c2 = (unsigned)(p0 >> 32) ^ c3 ^ k1;
        c3 = (unsigned)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0; out[1] = c1; out[2] = c2; out[3] = c3;
}

// ============================================================================================
// >>conv: convolution and its adjoint
//
//  Plain: one thread for each result, which walks over the taps and channels that it sums. Every case, groups and
//  depthwise included. Each input value is read KH*KW*O times through the caches, so this is bound by loads.
//
//  Tile, in float: the same sums as a matrix product whose matrix is never stored (implicit GEMM):
//
//      pass               rows M             columns N   depth K
//      forward            output pixels      O           KH*KW*C     a = x under the window,      b = w
//      backward data      input pixels       C           KH*KW*O     a = dy seen from the input,  b = w transposed
//      backward weights   KH*KW*C            O           pixels      a = x under the window,      b = dy
//
//  A block makes 64 x 64 results and walks along K in steps of 16: all threads gather 64 x 16 of a and 16 x 64 of b
//  into shared memory, then each multiplies 4 x 4 from it. A value in shared memory is used 64 times, one in registers
//  four times: 16 multiply-adds for 8 loads.
//
//  Backward data with stride: only every sh-th tap meets an input row. Input pixels are sorted into sh*sw classes with
//  the same taps, and blockIdx.z is the class: no product with zero is computed. The forward pass of conv_transpose2d
//  is this pass too.
//
//  Backward weights has few results and a long sum. K is cut into p.splits runs (a number that depends on the shapes
//  only); each leaves its part, and tlk_reduce_parts adds them in their order.
// ============================================================================================

// What follows the sums of a convolution, while a value is still in a register: bias, batch norm with fixed statistics,
// a residual, ReLU. Each would otherwise be one more pass over memory.
template <typename A> TLK float tlk_conclude(const tl__cu_conv &p, float sum, int n, tlk_size at)
{
    if (p.bias) sum += p.bias[n];
    if (p.mean) {
        float scale = (p.norm_weight ? p.norm_weight[n] : 1) / sqrtf(p.var[n] + p.eps);
        sum = sum * scale + ((p.norm_bias ? p.norm_bias[n] : 0) - p.mean[n] * scale);
    }
    if (p.residual) sum += tlk_get((const A *)p.residual + at);
    return p.relu && sum < 0 ? 0 : sum;
}

// ---- plain ---------------------------------------------------------------------------------

template <typename A> TLK void tlk_conv_forward_plain(const tl__cu_conv &p)
{
    tlk_size index = (tlk_size)blockIdx.x * TLK_THREADS + threadIdx.x;
    if (index >= (tlk_size)p.n * p.oh * p.ow * p.out) return;
    int o = (int)(index % p.out), in_g = p.c / p.groups, c0 = o / (p.out / p.groups) * in_g;
    tlk_size pixel = index / p.out;
    int j = (int)(pixel % p.ow), i = (int)(pixel / p.ow % p.oh);
    const A *x = (const A *)p.in + pixel / p.ow / p.oh * p.h * p.w * p.c + c0;
    float sum = 0;
    for (int ky = 0; ky < p.kh; ky++)
    for (int kx = 0; kx < p.kw; kx++) {
        int y = i * p.sh - p.pt + ky * p.dh, xx = j * p.sw - p.pl + kx * p.dw;
        if (y < 0 || y >= p.h || xx < 0 || xx >= p.w) continue;
        const A *from = x + ((tlk_size)y * p.w + xx) * p.c;
        const float *w = p.weight + (tlk_size)(ky * p.kw + kx) * in_g * p.out + o;
        for (int c = 0; c < in_g; c++) sum += tlk_get(from + c) * w[(tlk_size)c * p.out];
    }
    tlk_put((A *)p.result + index, tlk_conclude<A>(p, sum, o, index), p.add);
}

template <typename A> TLK void tlk_conv_backward_data_plain(const tl__cu_conv &p)
{
    tlk_size index = (tlk_size)blockIdx.x * TLK_THREADS + threadIdx.x;
    if (index >= (tlk_size)p.n * p.h * p.w * p.c) return;
    int c = (int)(index % p.c), in_g = p.c / p.groups, out_g = p.out / p.groups, o0 = c / in_g * out_g;
    tlk_size pixel = index / p.c;
    int xx = (int)(pixel % p.w), y = (int)(pixel / p.w % p.h);
    const A *dy = (const A *)p.in + pixel / p.w / p.h * p.oh * p.ow * p.out + o0;
    float sum = 0;
    for (int ky = 0; ky < p.kh; ky++)
    for (int kx = 0; kx < p.kw; kx++) {
        int i = y + p.pt - ky * p.dh, j = xx + p.pl - kx * p.dw;
        if (i < 0 || i % p.sh || i / p.sh >= p.oh || j < 0 || j % p.sw || j / p.sw >= p.ow) continue;
        const A *from = dy + ((tlk_size)(i / p.sh) * p.ow + j / p.sw) * p.out;
        const float *w = p.weight + ((tlk_size)(ky * p.kw + kx) * in_g + c % in_g) * p.out + o0;
        for (int o = 0; o < out_g; o++) sum += tlk_get(from + o) * w[o];
    }
    tlk_put((A *)p.result + index, tlk_conclude<A>(p, sum, c, index), p.add);
}

// A block sums 32 outputs (lanes) of one tap and input channel over every p.splits-th run of pixels.
template <typename A> TLK void tlk_conv_backward_weights_plain(const tl__cu_conv &p)
{
    tlk_columns *s = tl_smem<tlk_columns>();
    int in_g = p.c / p.groups, o = (int)blockIdx.x * 32 + (int)(threadIdx.x % 32);
    int tap = (int)blockIdx.y / in_g, c = (int)blockIdx.y % in_g, split = (int)blockIdx.z;
    int ky = tap / p.kw, kx = tap % p.kw, channel = tlk_min(o, p.out - 1) / (p.out / p.groups) * in_g + c;
    tlk_size pixels = (tlk_size)p.n * p.oh * p.ow, run = (pixels + p.splits - 1) / p.splits;
    tlk_size begin = run * split, end = begin + run < pixels ? begin + run : pixels;
    float sum = 0;
    for (tlk_size pixel = begin + threadIdx.x / 32; pixel < end && o < p.out; pixel += 8) {
        int j = (int)(pixel % p.ow), i = (int)(pixel / p.ow % p.oh);
        int y = i * p.sh - p.pt + ky * p.dh, xx = j * p.sw - p.pl + kx * p.dw;
        if (y < 0 || y >= p.h || xx < 0 || xx >= p.w) continue;
        tlk_size at = ((pixel / p.ow / p.oh * p.h + y) * p.w + xx) * p.c + channel;
        sum += tlk_get((const A *)p.in + at) * tlk_get((const A *)p.dy + pixel * p.out + o);
    }
    sum = tlk_column_sum(sum, s);
    if (threadIdx.x < 32 && o < p.out)
        p.partial[((tlk_size)split * gridDim.y + blockIdx.y) * p.out + o] = sum;
}

// ---- how the matrix `a` looks at an image --------------------------------------------------

// Row (n, i, j), tap (a, b) reads pixel (i*mul_y + off_y + a*step_y, j*mul_x + off_x + b*step_x) of sample n.
struct tlk_gather {
    int rows, cols;                     // of positions in a sample
    int h, w, c;                        // of the image that is read
    int mul_y, mul_x, off_y, off_x, step_y, step_x;
    int taps_y, taps_x;
    int ky0, kx0, ky_step, kx_step;     // the kernel's tap that (a, b) stands for
};

TLK tlk_gather tlk_forward_gather(const tl__cu_conv &p)
{
    tlk_gather g = { p.oh, p.ow, p.h, p.w, p.c, p.sh, p.sw, -p.pt, -p.pl, p.dh, p.dw, p.kh, p.kw, 0, 0, 1, 1 };
    return g;
}

// The taps along one axis that reach inputs of class `phase`: those with (phase + pad - k*dilation) divisible
// by stride.
TLK void tlk_class_taps(int phase, int pad, int kernel, int stride, int dilation, int *k0, int *step, int *count)
{
    *k0 = 0;
    *step = 1;
    *count = 0;
    for (int k = 0; k < kernel; k++) {
        if ((phase + pad - k * dilation) % stride) continue;
        if (*count == 0) *k0 = k;
        if (*count == 1) *step = k - *k0;
        ++*count;
    }
}

TLK tlk_gather tlk_data_gather(const tl__cu_conv &p, int class_y, int class_x)
{
    tlk_gather g;
    tlk_class_taps(class_y, p.pt, p.kh, p.sh, p.dh, &g.ky0, &g.ky_step, &g.taps_y);
    tlk_class_taps(class_x, p.pl, p.kw, p.sw, p.dw, &g.kx0, &g.kx_step, &g.taps_x);
    g.rows = class_y < p.h ? (p.h - class_y + p.sh - 1) / p.sh : 0;
    g.cols = class_x < p.w ? (p.w - class_x + p.sw - 1) / p.sw : 0;
    g.h = p.oh; g.w = p.ow; g.c = p.out;
    g.mul_y = g.mul_x = 1;
    g.off_y = (class_y + p.pt - g.ky0 * p.dh) / p.sh;      // divides without a rest where there are taps
    g.off_x = (class_x + p.pl - g.kx0 * p.dw) / p.sw;
    g.step_y = -(g.ky_step * p.dh / p.sh);
    g.step_x = -(g.kx_step * p.dw / p.sw);
    return g;
}

// A position, decoded once and used for every tap.
struct tlk_position {
    int n, y, x;                        // sample (-1: behind the last), and where tap (0, 0) reads
};

TLK tlk_position tlk_locate(const tlk_gather &g, int samples, tlk_size m)
{
    tlk_position at;
    tlk_size row = m / g.cols;
    at.x = (int)(m % g.cols) * g.mul_x + g.off_x;
    at.y = (int)(row % g.rows) * g.mul_y + g.off_y;
    at.n = row / g.rows < (tlk_size)samples ? (int)(row / g.rows) : -1;
    return at;
}

// The pixel that tap (ty, tx) reads, or -1 outside of the image.
TLK long long tlk_pixel(const tlk_gather &g, const tlk_position &at, int ty, int tx)
{
    int y = at.y + ty * g.step_y, x = at.x + tx * g.step_x;
    if (at.n < 0 || y < 0 || y >= g.h || x < 0 || x >= g.w) return -1;
    return ((long long)at.n * g.h + y) * g.w + x;
}

// ---- tile ----------------------------------------------------------------------------------

enum { TLK_FORWARD, TLK_DATA, TLK_WEIGHTS };

struct tlk_tiles {
    float a[16][68], b[16][68];         // four more than 64: threads that write a column meet fewer banks twice
};

// a[0..3][0..3] of this thread += its part of the two tiles.
TLK void tlk_multiply_tiles(const tlk_tiles *s, float sum[4][4])
{
    int row = (int)threadIdx.x / 16 * 4, column = (int)threadIdx.x % 16 * 4;
    for (int k = 0; k < 16; k++)
        for (int r = 0; r < 4; r++)
            for (int c = 0; c < 4; c++) sum[r][c] += s->a[k][row + r] * s->b[k][column + c];
}

// Forward and backward data.
template <int PASS> TLK void tlk_conv_tile(const tl__cu_conv &p)
{
    tlk_tiles *s = tl_smem<tlk_tiles>();
    int class_y = (int)blockIdx.z / p.sw, class_x = (int)blockIdx.z % p.sw;
    tlk_gather g = PASS == TLK_FORWARD ? tlk_forward_gather(p) : tlk_data_gather(p, class_y, class_x);
    tlk_size rows = (tlk_size)p.n * g.rows * g.cols, m0 = (tlk_size)blockIdx.x * 64;
    if (m0 >= rows) return;                                     // the last classes may be smaller
    int columns = PASS == TLK_FORWARD ? p.out : p.c, depth = g.taps_y * g.taps_x * g.c, n0 = (int)blockIdx.y * 64;
    int t = (int)threadIdx.x;
    tlk_position at[4];                                         // of the rows of `a` that this thread gathers
    for (int r = 0; r < 4; r++) at[r] = tlk_locate(g, p.n, m0 + t / 16 + 16 * r);
    float sum[4][4] = { { 0 } };
    for (int k0 = 0; k0 < depth; k0 += 16) {
        int k = k0 + t % 16, tap = k / g.c, ty = tap / g.taps_x, tx = tap % g.taps_x, channel = k % g.c;
        int w_tap = (g.ky0 + ty * g.ky_step) * p.kw + g.kx0 + tx * g.kx_step;
        for (int r = 0; r < 4; r++) {
            long long from = k < depth ? tlk_pixel(g, at[r], ty, tx) : -1;
            s->a[t % 16][t / 16 + 16 * r] = from >= 0 ? ((const float *)p.in)[from * g.c + channel] : 0;
        }
        for (int r = 0; r < 4; r++) {
            if (PASS == TLK_FORWARD) {                          // w[k][n]: neighbouring threads, neighbouring n
                int kk = k0 + t / 64 + 4 * r, n = n0 + t % 64;
                s->b[t / 64 + 4 * r][t % 64] = kk < depth && n < columns ? p.weight[(tlk_size)kk * p.out + n] : 0;
            } else {                                            // w[tap][n][channel]: neighbouring k
                int n = n0 + t / 16 + 16 * r;
                int inside = k < depth && n < columns;
                s->b[t % 16][t / 16 + 16 * r] =
                    inside ? p.weight[((tlk_size)w_tap * p.c + n) * p.out + channel] : 0;
            }
        }
        __syncthreads();
        tlk_multiply_tiles(s, sum);
        __syncthreads();                                        // before the next step writes the tiles
    }
    #pragma unroll                                              // or `sum` leaves the registers
    for (int r = 0; r < 4; r++) {
        tlk_size m = m0 + t / 16 * 4 + r;
        if (m >= rows) continue;
        tlk_size pixel = m;
        if (PASS == TLK_DATA) {
            int x = (int)(m % g.cols) * p.sw + class_x, y = (int)(m / g.cols % g.rows) * p.sh + class_y;
            pixel = (m / g.cols / g.rows * p.h + y) * p.w + x;
        }
        #pragma unroll
        for (int c = 0; c < 4; c++) {
            int n = n0 + t % 16 * 4 + c;
            if (n >= columns) continue;
            tlk_size to = pixel * columns + n;
            tlk_put((float *)p.result + to, tlk_conclude<float>(p, sum[r][c], n, to), p.add);
        }
    }
}

TLK void tlk_conv_forward(const tl__cu_conv &p) { tlk_conv_tile<TLK_FORWARD>(p); }
TLK void tlk_conv_backward_data(const tl__cu_conv &p) { tlk_conv_tile<TLK_DATA>(p); }

// p.partial[split][tap*C + c][o]
TLK void tlk_conv_backward_weights(const tl__cu_conv &p)
{
    tlk_tiles *s = tl_smem<tlk_tiles>();
    tlk_gather g = tlk_forward_gather(p);
    int m_count = p.kh * p.kw * p.c, m0 = (int)blockIdx.x * 64, n0 = (int)blockIdx.y * 64, t = (int)threadIdx.x;
    tlk_size pixels = (tlk_size)p.n * p.oh * p.ow, run = (pixels + p.splits - 1) / p.splits;
    tlk_size begin = run * blockIdx.z, end = begin + run < pixels ? begin + run : pixels;
    int m = m0 + t % 64, tap = m / p.c, ty = tap / p.kw, tx = tap % p.kw, channel = m % p.c, n = n0 + t % 64;
    float sum[4][4] = { { 0 } };
    for (tlk_size k0 = begin; k0 < end; k0 += 16) {
        for (int r = 0; r < 4; r++) {
            int kk = t / 64 + 4 * r;
            tlk_size pixel = k0 + kk;
            long long from = -1;
            if (pixel < end && m < m_count) from = tlk_pixel(g, tlk_locate(g, p.n, pixel), ty, tx);
            s->a[kk][t % 64] = from >= 0 ? ((const float *)p.in)[from * g.c + channel] : 0;
            s->b[kk][t % 64] = pixel < end && n < p.out ? ((const float *)p.dy)[pixel * p.out + n] : 0;
        }
        __syncthreads();
        tlk_multiply_tiles(s, sum);
        __syncthreads();
    }
    float *partial = p.partial + (tlk_size)blockIdx.z * m_count * p.out;
    for (int r = 0; r < 4; r++) {
        int row = m0 + t / 16 * 4 + r;
        for (int c = 0; c < 4; c++) {
            int column = n0 + t % 16 * 4 + c;
            if (row < m_count && column < p.out) partial[(tlk_size)row * p.out + column] = sum[r][c];
        }
    }
}

// ---- tensor cores --------------------------------------------------------------------------
//
//  The tile again, with the multiplication by mma.sync: 16 x 8 results of a warp in one instruction, from bf16 (8 times
//  the rate of fp32 multiply-adds) or from tf32, which is float cut to 10 bits of mantissa (4 times). Products are
//  summed in float. What is different from the tile above, and why:
//
//      128 x BN results a block      a value in shared memory is used more often: BN = 16, 32, 64 or 128, by columns
//      64 bytes of K a step          32 bf16 or 16 floats: four pieces of 16 bytes, the most that one copy takes. A
//                                    piece must lie within one tap, so channels must be a multiple of 8 (bf16) or 4
//                                    (tf32); other images are copied with channels of zeros
//      cp.async, three stages        while one stage is multiplied two are on their way from memory. A piece outside
//                                    of the image is a copy of 0 bytes, which leaves zeros: no branch on borders
//      rows longer than their data   16 bytes more (32 where tf32 walks down a column): the eight rows that a warp
//                                    reads together then lie in different banks
//      ldmatrix                      brings 16-bit values to the lanes that mma wants them in, transposed if need be.
//                                    For 32-bit values there is none: tf32 reads them one by one, and rounds
//
//  Layouts in shared memory. a: rows m, or for the weights, whose m is contiguous in memory, rows k. b: rows k, or for
//  backward data, whose k is contiguous, rows n.
//
//  With p.sums the epilogue also leaves what the batch norm behind needs, while the values are in registers: of each
//  block and channel the sum, and the sum of squares about the block's own mean, which cancels nothing.

#define TLK_STAGES 3
#define TLK_ROWS 128                    // m of a block
#define TLK_ROW_BYTES 80                // of a row of K: 64, and 16 against bank conflicts

template <int BN> struct tlk_mma_tiles {
    __align__(16) unsigned char a[TLK_STAGES][TLK_ROWS * TLK_ROW_BYTES];
    __align__(16) unsigned char b[TLK_STAGES][BN * TLK_ROW_BYTES + 512];
};

// How the 8 warps share 128 x BN.
template <int BN> struct tlk_warps {
    enum { WN = BN < 32 ? BN : 32, ACROSS = BN / WN, DOWN = 8 / ACROSS, WM = TLK_ROWS / DOWN };
    enum { MI = WM / 16, NJ = WN / 8 };                         // 16 x 8 results, down and across
};

// a: 16 x MMA from row m, depth k. `stride` in bytes.
template <int PASS> TLK void tlk_load_a(unsigned r[4], const unsigned char *a, int stride, int m, int k, tlk_bf16)
{
    int lane = (int)threadIdx.x % 32;
    if (PASS != TLK_WEIGHTS) tl_ldmatrix_x4(r, a + (m + lane % 16) * stride + (k + lane / 16 * 8) * 2);
    else tl_ldmatrix_x4_trans(r, a + (k + lane / 16 * 8 + lane % 8) * stride + (m + lane / 8 % 2 * 8) * 2);
}

template <int PASS> TLK void tlk_load_a(unsigned r[4], const unsigned char *a, int stride, int m, int k, float)
{
    int lane = (int)threadIdx.x % 32;
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        int row = m + lane / 4 + i % 2 * 8, depth = k + lane % 4 + i / 2 * 4;
        int at = PASS != TLK_WEIGHTS ? row * stride + depth * 4 : depth * stride + row * 4;
        r[i] = tl_to_tf32(*(const float *)(a + at));
    }
}

// b: MMA x 16 from depth k, column n: two tiles of two registers.
template <int PASS> TLK void tlk_load_b(unsigned r[4], const unsigned char *b, int stride, int n, int k, tlk_bf16)
{
    int lane = (int)threadIdx.x % 32, lower = lane / 8 % 2 * 8, right = lane / 16 * 8;
    if (PASS == TLK_DATA) tl_ldmatrix_x4(r, b + (n + right + lane % 8) * stride + (k + lower) * 2);
    else tl_ldmatrix_x4_trans(r, b + (k + lower + lane % 8) * stride + (n + right) * 2);
}

template <int PASS> TLK void tlk_load_b(unsigned r[4], const unsigned char *b, int stride, int n, int k, float)
{
    int lane = (int)threadIdx.x % 32;
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        int column = n + lane / 4 + i / 2 * 8, depth = k + lane % 4 + i % 2 * 4;
        int at = PASS == TLK_DATA ? column * stride + depth * 4 : depth * stride + column * 4;
        r[i] = tl_to_tf32(*(const float *)(b + at));
    }
}

TLK void tlk_mma(float c[4], const unsigned a[4], const unsigned b[2], tlk_bf16) { tl_mma_bf16(c, a, b); }
TLK void tlk_mma(float c[4], const unsigned a[4], const unsigned b[2], float) { tl_mma_tf32(c, a, b); }

// A channel of a pixel of the image that is gathered; x may lie in two parts.
template <typename A, int PASS> TLK const A *tlk_image_at(const tl__cu_conv &p, const tlk_gather &g, long long pixel,
                                                          int channel)
{
    if (PASS == TLK_DATA) return (const A *)p.in + pixel * g.c + channel;
    if (channel < p.part) return (const A *)p.in + pixel * p.part + channel;
    return (const A *)p.in2 + pixel * (p.c - p.part) + channel - p.part;
}

// Fills one stage after the other. Forward and backward data.
template <typename A, int PASS, int BN> struct tlk_image_loader {
    tlk_gather g;
    tlk_position at[2];                 // of the rows t/4 and t/4 + 64
    int ty, tx, channel;                // where the piece t%4 of the next step begins

    TLK void begin(const tl__cu_conv &p, const tlk_gather &gather, tlk_size m0)
    {
        g = gather;
        #pragma unroll
        for (int i = 0; i < 2; i++) at[i] = tlk_locate(g, p.n, m0 + threadIdx.x / 4 + 64 * i);
        ty = tx = 0;
        channel = (int)(threadIdx.x % 4) * tlk_kind<A>::PIECE;
        settle();
    }
    TLK void settle()                   // channel counts on into the next taps
    {
        while (channel >= g.c && ty < g.taps_y) {
            channel -= g.c;
            if (++tx == g.taps_x) { tx = 0; ty++; }
        }
    }
    TLK void load(const tl__cu_conv &p, unsigned char *a, unsigned char *b, int k0, int n0)
    {
        enum { PIECE = tlk_kind<A>::PIECE };
        int t = (int)threadIdx.x, inside = ty < g.taps_y;
        const A *image = (const A *)p.in, *weight = (const A *)p.rounded;
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            long long pixel = inside ? tlk_pixel(g, at[i], ty, tx) : -1;
            tl_cp_async16(a + (t / 4 + 64 * i) * TLK_ROW_BYTES + t % 4 * 16,
                          pixel >= 0 ? tlk_image_at<A, PASS>(p, g, pixel, channel) : image, pixel >= 0 ? 16 : 0);
        }
        if (PASS == TLK_FORWARD) {
            int depth = g.taps_y * g.taps_x * g.c;
            for (int i = t; i < 4 * BN; i += TLK_THREADS) {
                int k = k0 + i / (BN / PIECE), n = i % (BN / PIECE) * PIECE, valid = k < depth && n0 + n < p.out;
                tl_cp_async16(b + i / (BN / PIECE) * (BN * (int)sizeof(A) + tlk_kind<A>::PAD) + n * (int)sizeof(A),
                              valid ? weight + (unsigned)(k * p.out + n0 + n) : weight, valid ? 16 : 0);
            }
        } else {
            int tap = (g.ky0 + ty * g.ky_step) * p.kw + g.kx0 + tx * g.kx_step;
            for (int i = t; i < 4 * BN; i += TLK_THREADS) {
                int n = i / 4, valid = inside && n0 + n < p.c;
                tl_cp_async16(b + n * TLK_ROW_BYTES + i % 4 * 16,
                              valid ? weight + (unsigned)((tap * p.c + n0 + n) * p.out + channel) : weight,
                              valid ? 16 : 0);
            }
        }
        channel += tlk_kind<A>::STEP;
        settle();
    }
};

// The same for backward weights: k are pixels, m are taps and channels.
template <typename A, int BN> struct tlk_pixel_loader {
    tlk_gather g;
    tlk_size end;                       // of the pixels of this split
    int ty, tx, channel;                // of the piece of m that this thread copies; ty -1: behind the last

    TLK void begin(const tl__cu_conv &p, int m0, tlk_size last)
    {
        g = tlk_forward_gather(p);
        int m = m0 + (int)threadIdx.x % (TLK_ROWS / tlk_kind<A>::PIECE) * tlk_kind<A>::PIECE, tap = m / p.c;
        ty = tap < p.kh * p.kw ? tap / p.kw : -1;
        tx = tap % p.kw;
        channel = m % p.c;
        end = last;
    }
    TLK void load(const tl__cu_conv &p, unsigned char *a, unsigned char *b, tlk_size k0, int n0)
    {
        enum { PIECE = tlk_kind<A>::PIECE, ACROSS = TLK_ROWS / PIECE };
        int t = (int)threadIdx.x;
        const A *image = (const A *)p.in, *dy = (const A *)p.dy;
        #pragma unroll
        for (int i = 0; i < 2; i++) {
            int k = t / ACROSS + i * (TLK_THREADS / ACROSS);
            long long pixel = ty >= 0 && k0 + k < end ? tlk_pixel(g, tlk_locate(g, p.n, k0 + k), ty, tx) : -1;
            tl_cp_async16(a + k * (TLK_ROWS * (int)sizeof(A) + tlk_kind<A>::PAD) + t % ACROSS * 16,
                          pixel >= 0 ? tlk_image_at<A, TLK_WEIGHTS>(p, g, pixel, channel) : image, pixel >= 0 ? 16 : 0);
        }
        for (int i = t; i < 4 * BN; i += TLK_THREADS) {
            int k = i / (BN / PIECE), n = i % (BN / PIECE) * PIECE, valid = k0 + k < end && n0 + n < p.out;
            tl_cp_async16(b + k * (BN * (int)sizeof(A) + tlk_kind<A>::PAD) + n * (int)sizeof(A),
                          valid ? dy + (k0 + k) * p.out + n0 + n : dy, valid ? 16 : 0);
        }
    }
};

// One stage into the sums of this warp.
template <typename A, int PASS, int BN> TLK void tlk_multiply_stage(float sum[tlk_warps<BN>::MI][tlk_warps<BN>::NJ][4],
                                                                    const unsigned char *a, const unsigned char *b)
{
    typedef tlk_warps<BN> W;
    enum { A_ROW = PASS == TLK_WEIGHTS ? TLK_ROWS * (int)sizeof(A) + tlk_kind<A>::PAD : TLK_ROW_BYTES,
           B_ROW = PASS == TLK_DATA ? TLK_ROW_BYTES : BN * (int)sizeof(A) + tlk_kind<A>::PAD };
    int warp = (int)threadIdx.x / 32, m = warp / W::ACROSS * W::WM, n = warp % W::ACROSS * W::WN;
    for (int k = 0; k < tlk_kind<A>::STEP; k += tlk_kind<A>::MMA) {
        unsigned left[W::MI][4], right[W::NJ / 2][4];
        #pragma unroll
        for (int i = 0; i < W::MI; i++) tlk_load_a<PASS>(left[i], a, A_ROW, m + 16 * i, k, A());
        #pragma unroll
        for (int j = 0; j < W::NJ / 2; j++) tlk_load_b<PASS>(right[j], b, B_ROW, n + 16 * j, k, A());
        #pragma unroll
        for (int i = 0; i < W::MI; i++)
            #pragma unroll
            for (int j = 0; j < W::NJ; j++) tlk_mma(sum[i][j], left[i], right[j / 2] + j % 2 * 2, A());
    }
}

// Row and column of sum[i][j][e] in the block.
template <int BN> TLK int tlk_sum_row(int i, int e)
{
    typedef tlk_warps<BN> W;
    return (int)threadIdx.x / 32 / W::ACROSS * W::WM + 16 * i + (int)threadIdx.x % 32 / 4 + e / 2 * 8;
}
template <int BN> TLK int tlk_sum_column(int j, int e)
{
    typedef tlk_warps<BN> W;
    return (int)threadIdx.x / 32 % W::ACROSS * W::WN + 8 * j + (int)threadIdx.x % 4 * 2 + e % 2;
}

TLK float tlk_as_stored(float value, float) { return value; }
TLK float tlk_as_stored(float value, tlk_bf16) { return tlk_float((unsigned)tlk_to_bf16(value) << 16); }

template <int BN> struct tlk_sums {
    float of[8][BN];                    // of each row of warps
};

// Adds one number for each of this thread's columns, v[j][0..1], over all rows of the block; every thread gets the
// totals.
template <int BN> TLK void tlk_sum_columns(float v[tlk_warps<BN>::NJ][2], tlk_sums<BN> *s)
{
    typedef tlk_warps<BN> W;
    __syncthreads();
    #pragma unroll
    for (int j = 0; j < W::NJ; j++)
        #pragma unroll
        for (int e = 0; e < 2; e++) {
            for (int bits = 4; bits < 32; bits *= 2) v[j][e] += __shfl_xor_sync(0xffffffffu, v[j][e], bits);
            if (threadIdx.x % 32 < 4) s->of[threadIdx.x / 32 / W::ACROSS][tlk_sum_column<BN>(j, e)] = v[j][e];
        }
    __syncthreads();
    #pragma unroll
    for (int j = 0; j < W::NJ; j++)
        #pragma unroll
        for (int e = 0; e < 2; e++) {
            v[j][e] = 0;
            for (int w = 0; w < W::DOWN; w++) v[j][e] += s->of[w][tlk_sum_column<BN>(j, e)];
        }
}

// p.sums[block][0, 1][channel]: sum, and squares about the mean of the block's `rows` rows.
template <typename A, int BN> TLK void tlk_leave_sums(const tl__cu_conv &p,
                                                      const float sum[tlk_warps<BN>::MI][tlk_warps<BN>::NJ][4],
                                                      int rows, int n0, void *shared)
{
    typedef tlk_warps<BN> W;
    float total[W::NJ][2], squares[W::NJ][2];
    #pragma unroll
    for (int j = 0; j < W::NJ; j++)
        #pragma unroll
        for (int e = 0; e < 2; e++) {
            total[j][e] = 0;
            #pragma unroll
            for (int i = 0; i < W::MI; i++)
                #pragma unroll
                for (int half = 0; half < 2; half++)
                    if (tlk_sum_row<BN>(i, 2 * half) < rows) total[j][e] += tlk_as_stored(sum[i][j][2 * half + e], A());
        }
    tlk_sum_columns<BN>(total, (tlk_sums<BN> *)shared);
    #pragma unroll
    for (int j = 0; j < W::NJ; j++)
        #pragma unroll
        for (int e = 0; e < 2; e++) {
            float mean = total[j][e] / (float)rows;
            squares[j][e] = 0;
            #pragma unroll
            for (int i = 0; i < W::MI; i++)
                #pragma unroll
                for (int half = 0; half < 2; half++) {
                    float d = tlk_as_stored(sum[i][j][2 * half + e], A()) - mean;
                    if (tlk_sum_row<BN>(i, 2 * half) < rows) squares[j][e] += d * d;
                }
        }
    tlk_sum_columns<BN>(squares, (tlk_sums<BN> *)shared);
    if (threadIdx.x % 32 >= 4 || (int)threadIdx.x / 32 / W::ACROSS > 0) return;
    #pragma unroll
    for (int j = 0; j < W::NJ; j++)
        #pragma unroll
        for (int e = 0; e < 2; e++) {
            int n = n0 + tlk_sum_column<BN>(j, e);
            if (n >= p.true_out) continue;
            p.sums[(tlk_size)blockIdx.x * 2 * p.true_out + n] = total[j][e];
            p.sums[((tlk_size)blockIdx.x * 2 + 1) * p.true_out + n] = squares[j][e];
        }
}

// Forward and backward data.
template <typename A, int PASS, int BN> TLK void tlk_conv_mma(const tl__cu_conv &p)
{
    typedef tlk_warps<BN> W;
    tlk_mma_tiles<BN> *s = tl_smem<tlk_mma_tiles<BN> >();
    int class_y = (int)blockIdx.z / p.sw, class_x = (int)blockIdx.z % p.sw, n0 = (int)blockIdx.y * BN;
    tlk_gather g = PASS == TLK_FORWARD ? tlk_forward_gather(p) : tlk_data_gather(p, class_y, class_x);
    tlk_size rows = (tlk_size)p.n * g.rows * g.cols, m0 = (tlk_size)blockIdx.x * TLK_ROWS;
    if (m0 >= rows) return;
    int columns = PASS == TLK_FORWARD ? p.true_out : p.true_c,
        steps = (g.taps_y * g.taps_x * g.c + tlk_kind<A>::STEP - 1) / tlk_kind<A>::STEP;
    float sum[W::MI][W::NJ][4];
    #pragma unroll
    for (int i = 0; i < W::MI; i++)
        #pragma unroll
        for (int j = 0; j < W::NJ; j++)
            #pragma unroll
            for (int e = 0; e < 4; e++) sum[i][j][e] = 0;
    tlk_image_loader<A, PASS, BN> loader;
    loader.begin(p, g, m0);
    for (int step = 0; step < TLK_STAGES - 1; step++) {
        if (step < steps) loader.load(p, s->a[step], s->b[step], step * tlk_kind<A>::STEP, n0);
        tl_cp_async_commit();                                   // an empty group, too, keeps the count
    }
    for (int step = 0; step < steps; step++) {
        tl_cp_async_wait<TLK_STAGES - 2>();
        __syncthreads();                                        // this stage is there; all are done with the one before
        int next = step + TLK_STAGES - 1;
        if (next < steps)
            loader.load(p, s->a[next % TLK_STAGES], s->b[next % TLK_STAGES], next * tlk_kind<A>::STEP, n0);
        tl_cp_async_commit();
        tlk_multiply_stage<A, PASS, BN>(sum, s->a[step % TLK_STAGES], s->b[step % TLK_STAGES]);
    }
    int left = rows - m0 < TLK_ROWS ? (int)(rows - m0) : TLK_ROWS;
    #pragma unroll
    for (int i = 0; i < W::MI; i++)
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = tlk_sum_row<BN>(i, 2 * half);
            tlk_size pixel = m0 + row;
            if (PASS == TLK_DATA) {
                int x = (int)(pixel % g.cols) * p.sw + class_x, y = (int)(pixel / g.cols % g.rows) * p.sh + class_y;
                pixel = (pixel / g.cols / g.rows * p.h + y) * p.w + x;
            }
            #pragma unroll
            for (int j = 0; j < W::NJ; j++) {
                int n = n0 + tlk_sum_column<BN>(j, 0), pairs = columns % 2 == 0;
                float *v = &sum[i][j][2 * half];
                if (row >= left) continue;
                #pragma unroll
                for (int e = 0; e < 2; e++)
                    if (n + e < columns) v[e] = tlk_conclude<A>(p, v[e], n + e, pixel * columns + n + e);
                int second = PASS == TLK_DATA && n >= p.part, add = second ? p.add2 : p.add;
                if (PASS == TLK_DATA && p.part < columns && !(second ? p.result2 : p.result)) continue;
                A *to = (A *)p.result + pixel * columns + n;
                if (PASS == TLK_DATA && p.part < columns)
                    to = second ? (A *)p.result2 + pixel * (columns - p.part) + n - p.part : (A *)p.result + pixel * p.part + n;
                if (pairs && n < columns) tlk_put_pair(to, v, add);
                #pragma unroll
                for (int e = 0; e < 2; e++)
                    if (!pairs && n + e < columns) tlk_put(to + e, v[e], add);
            }
        }
    if (PASS == TLK_FORWARD && p.sums) tlk_leave_sums<A, BN>(p, sum, left, n0, s);
}

template <typename A, int BN> TLK void tlk_conv_mma_weights(const tl__cu_conv &p)
{
    typedef tlk_warps<BN> W;
    tlk_mma_tiles<BN> *s = tl_smem<tlk_mma_tiles<BN> >();
    int m_count = p.kh * p.kw * p.c, m0 = (int)blockIdx.x * TLK_ROWS, n0 = (int)blockIdx.y * BN;
    tlk_size pixels = (tlk_size)p.n * p.oh * p.ow, run = (pixels + p.splits - 1) / p.splits;
    tlk_size begin = run * blockIdx.z, end = begin + run < pixels ? begin + run : pixels;
    int steps = begin < end ? (int)((end - begin + tlk_kind<A>::STEP - 1) / tlk_kind<A>::STEP) : 0;
    float sum[W::MI][W::NJ][4];
    #pragma unroll
    for (int i = 0; i < W::MI; i++)
        #pragma unroll
        for (int j = 0; j < W::NJ; j++)
            #pragma unroll
            for (int e = 0; e < 4; e++) sum[i][j][e] = 0;
    tlk_pixel_loader<A, BN> loader;
    loader.begin(p, m0, end);
    for (int step = 0; step < TLK_STAGES - 1; step++) {
        if (step < steps) loader.load(p, s->a[step], s->b[step], begin + (tlk_size)step * tlk_kind<A>::STEP, n0);
        tl_cp_async_commit();
    }
    for (int step = 0; step < steps; step++) {
        tl_cp_async_wait<TLK_STAGES - 2>();
        __syncthreads();
        int next = step + TLK_STAGES - 1, to = next % TLK_STAGES;
        if (next < steps) loader.load(p, s->a[to], s->b[to], begin + (tlk_size)next * tlk_kind<A>::STEP, n0);
        tl_cp_async_commit();
        tlk_multiply_stage<A, TLK_WEIGHTS, BN>(sum, s->a[step % TLK_STAGES], s->b[step % TLK_STAGES]);
    }
    float *partial = p.partial + (tlk_size)blockIdx.z * p.kh * p.kw * p.true_c * p.true_out;
    #pragma unroll
    for (int i = 0; i < W::MI; i++)
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            int m = m0 + tlk_sum_row<BN>(i, 2 * half), channel = m % p.c;
            if (m >= m_count || channel >= p.true_c) continue;
            float *row = partial + ((tlk_size)(m / p.c) * p.true_c + channel) * p.true_out;
            #pragma unroll
            for (int j = 0; j < W::NJ; j++)
                #pragma unroll
                for (int e = 0; e < 2; e++) {
                    int n = n0 + tlk_sum_column<BN>(j, e);
                    if (n < p.true_out) row[n] = sum[i][j][2 * half + e];
                }
        }
}

template <typename A> TLK void tlk_mma_forward_16(const tl__cu_conv &p) { tlk_conv_mma<A, TLK_FORWARD, 16>(p); }
template <typename A> TLK void tlk_mma_forward_32(const tl__cu_conv &p) { tlk_conv_mma<A, TLK_FORWARD, 32>(p); }
template <typename A> TLK void tlk_mma_forward_64(const tl__cu_conv &p) { tlk_conv_mma<A, TLK_FORWARD, 64>(p); }
template <typename A> TLK void tlk_mma_forward_128(const tl__cu_conv &p) { tlk_conv_mma<A, TLK_FORWARD, 128>(p); }
template <typename A> TLK void tlk_mma_data_16(const tl__cu_conv &p) { tlk_conv_mma<A, TLK_DATA, 16>(p); }
template <typename A> TLK void tlk_mma_data_32(const tl__cu_conv &p) { tlk_conv_mma<A, TLK_DATA, 32>(p); }
template <typename A> TLK void tlk_mma_data_64(const tl__cu_conv &p) { tlk_conv_mma<A, TLK_DATA, 64>(p); }
template <typename A> TLK void tlk_mma_data_128(const tl__cu_conv &p) { tlk_conv_mma<A, TLK_DATA, 128>(p); }
template <typename A> TLK void tlk_mma_weights_16(const tl__cu_conv &p) { tlk_conv_mma_weights<A, 16>(p); }
template <typename A> TLK void tlk_mma_weights_32(const tl__cu_conv &p) { tlk_conv_mma_weights<A, 32>(p); }
template <typename A> TLK void tlk_mma_weights_64(const tl__cu_conv &p) { tlk_conv_mma_weights<A, 64>(p); }
template <typename A> TLK void tlk_mma_weights_128(const tl__cu_conv &p) { tlk_conv_mma_weights<A, 128>(p); }

// A copy of the weights in the type that the tensor cores read, with whole pieces of channels. What fills them up stays 0.
template <typename A> TLK void tlk_round_weights(const tl__cu_step &p)
{
    tl__cu_piece piece = p.pieces[blockIdx.x];
    A *to = (A *)p.rounded + piece.rounded_at;
    for (int i = (int)threadIdx.x; i < piece.count && piece.to_c; i += TLK_THREADS) {
        int at = piece.first + i, row = at / piece.out;
        tlk_set(to + ((tlk_size)(row / piece.c) * piece.to_c + row % piece.c) * piece.to_out + at % piece.out,
                p.parameters[piece.at + i]);
    }
}

// The same for an image: one channel becomes eight, so that a first layer can be done by the tensor cores, whose work costs
// less than the bytes.
template <typename A> TLK void tlk_pad_channels(const tl__cu_pad &p)
{
    enum { PIECE = tlk_kind<A>::PIECE };
    tlk_size i = ((tlk_size)blockIdx.x * TLK_THREADS + threadIdx.x) * PIECE;
    if (i >= p.rows * p.to) return;
    tlk_size row = tlk_divide(i, p.to);
    int k = tlk_rest(i, p.to);
    tlk_piece<A> piece;
    #pragma unroll
    for (int e = 0; e < PIECE; e++)
        tlk_set(piece.of + e, k + e < p.c ? tlk_get((const A *)p.x + row * p.c + k + e) : 0);
    tlk_set_piece<A>(p.y, i, piece);
}

// The gradient of a bias: p.partial[block][channel] = sums of dy over the block's rows.
template <typename A> TLK void tlk_column_sums(const tl__cu_norm &p)
{
    if (p.c % tlk_kind<A>::PIECE == 0) {
        tlk_wide_sums<A>(p, 0, [&](tlk_size i, int, float *sum, float *) {
            tlk_piece<A> dy = tlk_get_piece<A>(p.dy, i);
            #pragma unroll
            for (int e = 0; e < tlk_kind<A>::PIECE; e++) sum[e] += tlk_get(dy.of + e);
        });
        return;
    }
    tlk_columns *s = tl_smem<tlk_columns>();
    int k = (int)blockIdx.x * 32 + (int)(threadIdx.x % 32);
    tlk_size begin = (tlk_size)blockIdx.y * p.run, end = begin + p.run < p.rows ? begin + p.run : p.rows;
    float sum = 0;
    for (tlk_size row = begin + threadIdx.x / 32; row < end && k < p.c; row += 8)
        sum += tlk_get((const A *)p.dy + row * p.c + k);
    sum = tlk_column_sum(sum, s);
    if (threadIdx.x < 32 && k < p.c) p.partial[(tlk_size)blockIdx.y * p.c + k] = sum;
}

// ============================================================================================
// >>norm: bring activations to mean 0 and variance 1
//
//  The sums of batch norm run over all rows of a channel. First kernel: blocks of p.run rows leave their sums of d and
//  d^2, d = x - (x of the first row), which keeps the terms small so that nothing cancels. Second: a block for each
//  channel adds these in double, and makes y = x*scale + shift of it. Third: that, element by
//  element, with the ReLU that follows in the same pass over memory. Backward likewise, with
//
//      dx = weight * inv_std * (dy - mean(dy) - xhat * mean(dy * xhat))
//
//  where dy is masked by the ReLU as it is read, so the masked gradient is never stored.
//
//  Vectors of batch norm, in p.vectors: scale, shift; backward: mean_dy, mean_dy_xhat. p.stats: mean, inv_std.
// ============================================================================================

template <typename A> TLK void tlk_bn_partial(const tl__cu_norm &p)
{
    if (p.c % tlk_kind<A>::PIECE == 0) {
        tlk_wide_sums<A>(p, 1, [&](tlk_size i, int k, float *sum, float *sum_sq) {
            tlk_piece<A> x = tlk_get_piece<A>(p.x, i), shift = tlk_get_piece<A>(p.x, (tlk_size)k);
            #pragma unroll
            for (int e = 0; e < tlk_kind<A>::PIECE; e++) {
                float d = tlk_get(x.of + e) - tlk_get(shift.of + e);
                sum[e] += d;
                sum_sq[e] += d * d;
            }
        });
        return;
    }
    tlk_columns *s = tl_smem<tlk_columns>();
    int k = (int)blockIdx.x * 32 + (int)(threadIdx.x % 32);
    tlk_size begin = (tlk_size)blockIdx.y * p.run, end = begin + p.run < p.rows ? begin + p.run : p.rows;
    const A *x = (const A *)p.x;
    float shift = k < p.c ? tlk_get(x + k) : 0, sum = 0, sum_sq = 0;
    for (tlk_size row = begin + threadIdx.x / 32; row < end && k < p.c; row += 8) {
        float d = tlk_get(x + row * p.c + k) - shift;
        sum += d;
        sum_sq += d * d;
    }
    sum = tlk_column_sum(sum, s);
    sum_sq = tlk_column_sum(sum_sq, s);
    if (threadIdx.x >= 32 || k >= p.c) return;
    p.partial[(tlk_size)blockIdx.y * 2 * p.c + k] = sum;
    p.partial[((tlk_size)blockIdx.y * 2 + 1) * p.c + k] = sum_sq;
}

// The two sums of channel k over the blocks, by a block; for every thread.
TLK void tlk_bn_totals(const tl__cu_norm &p, int k, double *first, double *second)
{
    tlk_warp_sums *s = tl_smem<tlk_warp_sums>();
    *first = *second = 0;
    for (int block = (int)threadIdx.x; block < p.blocks; block += TLK_THREADS) {
        *first += (double)p.partial[(tlk_size)block * 2 * p.c + k];
        *second += (double)p.partial[((tlk_size)block * 2 + 1) * p.c + k];
    }
    *first = tlk_block_sum(*first, s);
    *second = tlk_block_sum(*second, s);
}

// y = x*scale + shift.
TLK void tlk_bn_fold(const tl__cu_norm &p, int k, float mean, float inv_std)
{
    float scale = p.weight ? p.weight[k] * inv_std : inv_std;
    p.stats[k] = mean;
    p.stats[p.c + k] = inv_std;
    p.vectors[k] = scale;
    p.vectors[p.c + k] = (p.bias ? p.bias[k] : 0) - mean * scale;
}

// running = (1 - momentum) running + momentum batch, with the unbiased variance, as in torch.
TLK void tlk_bn_conclude(const tl__cu_norm &p, int k, float mean, double var)
{
    double rows = (double)p.rows;
    if (var < 0) var = 0;                                       // rounding; a NaN stays
    tlk_bn_fold(p, k, mean, (float)(1 / sqrt(var + (double)p.eps)));
    if (!p.running_mean) return;                                // they stay
    float unbias = p.rows > 1 ? (float)(rows / (rows - 1)) : 1;
    p.running_mean[k] += p.momentum * (mean - p.running_mean[k]);
    p.running_var[k] += p.momentum * ((float)var * unbias - p.running_var[k]);
}

// Statistics of the batch.
template <typename A> TLK void tlk_bn_finish(const tl__cu_norm &p)
{
    int k = (int)blockIdx.x;
    double sum, sum_sq, rows = (double)p.rows;
    tlk_bn_totals(p, k, &sum, &sum_sq);
    double d = sum / rows;
    if (threadIdx.x > 0) return;
    tlk_bn_conclude(p, k, (float)((double)tlk_get((const A *)p.x + k) + d), sum_sq / rows - d * d);
}

// The same from what a convolution left: sum and squares about its own mean, of every p.run rows. A block for each
// channel; the squares about the common mean are those about the own means and what the means differ (Chan et al.
// 1979).
TLK void tlk_bn_merge(const tl__cu_norm &p)
{
    tlk_warp_sums *s = tl_smem<tlk_warp_sums>();
    int k = (int)blockIdx.x;
    double sum = 0, squares = 0;
    for (int block = (int)threadIdx.x; block < p.blocks; block += TLK_THREADS)
        sum += (double)p.partial[(tlk_size)block * 2 * p.c + k];
    double mean = tlk_block_sum(sum, s) / (double)p.rows;
    for (int block = (int)threadIdx.x; block < p.blocks; block += TLK_THREADS) {
        tlk_size first = (tlk_size)block * p.run, left = p.rows - first;
        double rows = (double)(left < (tlk_size)p.run ? left : (tlk_size)p.run);
        double d = (double)p.partial[(tlk_size)block * 2 * p.c + k] / rows - mean;
        squares += (double)p.partial[((tlk_size)block * 2 + 1) * p.c + k] + rows * d * d;
    }
    squares = tlk_block_sum(squares, s);
    if (threadIdx.x == 0) tlk_bn_conclude(p, k, (float)mean, squares / (double)p.rows);
}

// Running statistics.
TLK void tlk_bn_eval(const tl__cu_norm &p)
{
    int k = (int)(blockIdx.x * TLK_THREADS + threadIdx.x);
    if (k < p.c) tlk_bn_fold(p, k, p.running_mean[k], 1 / sqrtf(p.running_var[k] + p.eps));
}

TLK float tlk_bn_value(const tl__cu_norm &p, float x, int k)
{
    float y = x * p.vectors[k] + p.vectors[p.c + k];
    return p.relu && y < 0 ? 0 : y;
}

template <typename A> TLK void tlk_bn_apply(const tl__cu_norm &p)
{
    tlk_pieces<A>(p.rows * p.c, [&](tlk_size i) {
        tlk_piece<A> x = tlk_get_piece<A>(p.x, i);
        int k = tlk_rest(i, p.c);
        #pragma unroll
        for (int e = 0; e < tlk_kind<A>::PIECE; e++, k = k + 1 < p.c ? k + 1 : 0)
            tlk_set(x.of + e, tlk_bn_value(p, tlk_get(x.of + e), k));
        tlk_set_piece<A>(p.y, i, x);
    }, [&](tlk_size i) {
        tlk_set((A *)p.y + i, tlk_bn_value(p, tlk_get((const A *)p.x + i), tlk_rest(i, p.c)));
    });
}

// dy of channel k, masked by the ReLU that was applied: y is computed again from x, which is read anyway.
TLK float tlk_masked(const tl__cu_norm &p, float dy, float x, int k)
{
    if (!p.relu) return dy;
    float scale = p.weight ? p.weight[k] * p.stats[p.c + k] : p.stats[p.c + k];
    float shift = (p.bias ? p.bias[k] : 0) - p.stats[k] * scale;
    return x * scale + shift <= 0 ? 0 : dy;
}

template <typename A> TLK void tlk_bn_backward_partial(const tl__cu_norm &p)
{
    if (p.c % tlk_kind<A>::PIECE == 0) {
        tlk_wide_sums<A>(p, 1, [&](tlk_size i, int k, float *sum, float *sum_xhat) {
            tlk_piece<A> x = tlk_get_piece<A>(p.x, i), dy = tlk_get_piece<A>(p.dy, i);
            #pragma unroll
            for (int e = 0; e < tlk_kind<A>::PIECE; e++) {
                float v = tlk_get(x.of + e), g = tlk_masked(p, tlk_get(dy.of + e), v, k + e);
                sum[e] += g;
                sum_xhat[e] += g * ((v - p.stats[k + e]) * p.stats[p.c + k + e]);
            }
        });
        return;
    }
    tlk_columns *s = tl_smem<tlk_columns>();
    int k = (int)blockIdx.x * 32 + (int)(threadIdx.x % 32);
    tlk_size begin = (tlk_size)blockIdx.y * p.run, end = begin + p.run < p.rows ? begin + p.run : p.rows;
    float mean = k < p.c ? p.stats[k] : 0, sum = 0, sum_xhat = 0;
    for (tlk_size row = begin + threadIdx.x / 32; row < end && k < p.c; row += 8) {
        tlk_size i = row * p.c + k;
        float v = tlk_get((const A *)p.x + i), g = tlk_masked(p, tlk_get((const A *)p.dy + i), v, k);
        sum += g;
        sum_xhat += g * (v - mean);
    }
    sum = tlk_column_sum(sum, s);
    sum_xhat = tlk_column_sum(sum_xhat, s);
    if (threadIdx.x >= 32 || k >= p.c) return;
    p.partial[(tlk_size)blockIdx.y * 2 * p.c + k] = sum;
    p.partial[((tlk_size)blockIdx.y * 2 + 1) * p.c + k] = sum_xhat * p.stats[p.c + k];
}

TLK void tlk_bn_backward_finish(const tl__cu_norm &p)
{
    int k = (int)blockIdx.x;
    double sum, sum_xhat;
    tlk_bn_totals(p, k, &sum, &sum_xhat);
    if (threadIdx.x > 0) return;
    if (p.dbias) p.dbias[k] += (float)sum;
    if (p.dweight) p.dweight[k] += (float)sum_xhat;
    p.vectors[k] = (float)(sum / (double)p.rows);
    p.vectors[p.c + k] = (float)(sum_xhat / (double)p.rows);
}

TLK float tlk_bn_slope(const tl__cu_norm &p, float dy, float x, int k)
{
    float inv_std = p.stats[p.c + k], a = p.weight ? p.weight[k] * inv_std : inv_std, xhat = (x - p.stats[k]) * inv_std;
    return a * (tlk_masked(p, dy, x, k) - p.vectors[k] - xhat * p.vectors[p.c + k]);
}

template <typename A> TLK void tlk_bn_backward_apply(const tl__cu_norm &p)
{
    tlk_pieces<A>(p.rows * p.c, [&](tlk_size i) {
        tlk_piece<A> x = tlk_get_piece<A>(p.x, i), dy = tlk_get_piece<A>(p.dy, i), dx = dy;
        int k = tlk_rest(i, p.c);
        if (p.add) dx = tlk_get_piece<A>(p.dx, i);
        #pragma unroll
        for (int e = 0; e < tlk_kind<A>::PIECE; e++, k = k + 1 < p.c ? k + 1 : 0)
            tlk_put(dx.of + e, tlk_bn_slope(p, tlk_get(dy.of + e), tlk_get(x.of + e), k), p.add);
        tlk_set_piece<A>(p.dx, i, dx);
    }, [&](tlk_size i) {
        float dx = tlk_bn_slope(p, tlk_get((const A *)p.dy + i), tlk_get((const A *)p.x + i), tlk_rest(i, p.c));
        tlk_put((A *)p.dx + i, dx, p.add);
    });
}

// ---- group norm: p.n samples of p.rows positions; p.stats: mean, inv_std of every (sample, group)

// A block for each group of a sample (blockIdx.x = sample * groups + group), twice over its values.
template <typename A> TLK void tlk_gn_stats(const tl__cu_norm &p)
{
    tlk_warp_sums *s = tl_smem<tlk_warp_sums>();
    int per_group = p.c / p.groups, group = (int)(blockIdx.x % (unsigned)p.groups);
    tlk_size count = p.rows * per_group;
    const A *x = (const A *)p.x + blockIdx.x / (unsigned)p.groups * p.rows * p.c + group * per_group;
    double sum = 0, sum_sq = 0;
    for (tlk_size i = threadIdx.x; i < count; i += TLK_THREADS)
        sum += (double)tlk_get(x + i / per_group * p.c + i % per_group);
    double mean = tlk_block_sum(sum, s) / (double)count;
    for (tlk_size i = threadIdx.x; i < count; i += TLK_THREADS) {
        double d = (double)tlk_get(x + i / per_group * p.c + i % per_group) - mean;
        sum_sq += d * d;
    }
    double var = tlk_block_sum(sum_sq, s) / (double)count;
    if (threadIdx.x > 0) return;
    p.stats[blockIdx.x] = (float)mean;
    p.stats[(tlk_size)p.n * p.groups + blockIdx.x] = (float)(1 / sqrt(var + (double)p.eps));
}

// Sample and channel of element i, and where the statistics of its group are.
TLK int tlk_gn_place(const tl__cu_norm &p, tlk_size i, int *k)
{
    *k = tlk_rest(i, p.c);
    return (int)(i / p.c / p.rows) * p.groups + *k / (p.c / p.groups);
}

template <typename A> TLK void tlk_gn_apply(const tl__cu_norm &p)
{
    TLK_ELEMENTS(i, p.n * p.rows * p.c) {
        int k, at = tlk_gn_place(p, i, &k);
        float xhat = (tlk_get((const A *)p.x + i) - p.stats[at]) * p.stats[p.n * p.groups + at];
        tlk_set((A *)p.y + i, (p.weight ? p.weight[k] * xhat : xhat) + (p.bias ? p.bias[k] : 0));
    }
}

// p.partial[sample][0, 1][channel] = sums of dy and dy*xhat over the positions of a sample (blockIdx.y).
template <typename A> TLK void tlk_gn_backward_sums(const tl__cu_norm &p)
{
    tlk_columns *s = tl_smem<tlk_columns>();
    int k = (int)blockIdx.x * 32 + (int)(threadIdx.x % 32), n = (int)blockIdx.y;
    int at = n * p.groups + tlk_min(k, p.c - 1) / (p.c / p.groups);
    float mean = p.stats[at], inv_std = p.stats[p.n * p.groups + at], sum = 0, sum_xhat = 0;
    for (tlk_size row = threadIdx.x / 32; row < p.rows && k < p.c; row += 8) {
        tlk_size i = (n * p.rows + row) * p.c + k;
        float g = tlk_get((const A *)p.dy + i);
        sum += g;
        sum_xhat += g * ((tlk_get((const A *)p.x + i) - mean) * inv_std);
    }
    sum = tlk_column_sum(sum, s);
    sum_xhat = tlk_column_sum(sum_xhat, s);
    if (threadIdx.x >= 32 || k >= p.c) return;
    p.partial[(tlk_size)n * 2 * p.c + k] = sum;
    p.partial[((tlk_size)n * 2 + 1) * p.c + k] = sum_xhat;
}

// p.vectors: the means of weight*dy and weight*dy*xhat of every (sample, group).
TLK void tlk_gn_backward_means(const tl__cu_norm &p)
{
    int at = (int)(blockIdx.x * TLK_THREADS + threadIdx.x), per_group = p.c / p.groups;
    if (at >= p.n * p.groups) return;
    const float *sums = p.partial + (tlk_size)(at / p.groups) * 2 * p.c;
    double sum = 0, sum_xhat = 0, count = (double)p.rows * per_group;
    for (int k = at % p.groups * per_group; k < (at % p.groups + 1) * per_group; k++) {
        double w = p.weight ? (double)p.weight[k] : 1;
        sum += w * (double)sums[k];
        sum_xhat += w * (double)sums[p.c + k];
    }
    p.vectors[at] = (float)(sum / count);
    p.vectors[p.n * p.groups + at] = (float)(sum_xhat / count);
}

template <typename A> TLK void tlk_gn_backward_apply(const tl__cu_norm &p)
{
    TLK_ELEMENTS(i, p.n * p.rows * p.c) {
        int k, at = tlk_gn_place(p, i, &k);
        float inv_std = p.stats[p.n * p.groups + at], xhat = (tlk_get((const A *)p.x + i) - p.stats[at]) * inv_std;
        float g = tlk_get((const A *)p.dy + i) * (p.weight ? p.weight[k] : 1);
        tlk_put((A *)p.dx + i, inv_std * (g - p.vectors[at] - xhat * p.vectors[p.n * p.groups + at]), p.add);
    }
}

// ---- layer norm: a warp for each row; p.stats: mean, inv_std of every row

template <typename A> TLK void tlk_ln_forward(const tl__cu_norm &p)
{
    tlk_size row = (tlk_size)blockIdx.x * (TLK_THREADS / 32) + threadIdx.x / 32;
    int lane = (int)(threadIdx.x % 32);
    if (row >= p.rows) return;                                  // a whole warp
    const A *x = (const A *)p.x + row * p.c;
    float sum = 0, sum_sq = 0;
    for (int k = lane; k < p.c; k += 32) sum += tlk_get(x + k);
    float mean = tlk_warp_sum(sum) / (float)p.c;
    for (int k = lane; k < p.c; k += 32) sum_sq += (tlk_get(x + k) - mean) * (tlk_get(x + k) - mean);
    float inv_std = 1 / sqrtf(tlk_warp_sum(sum_sq) / (float)p.c + p.eps);
    if (lane == 0) {
        p.stats[row] = mean;
        p.stats[p.rows + row] = inv_std;
    }
    for (int k = lane; k < p.c; k += 32) {
        float xhat = (tlk_get(x + k) - mean) * inv_std;
        tlk_set((A *)p.y + row * p.c + k, (p.weight ? p.weight[k] * xhat : xhat) + (p.bias ? p.bias[k] : 0));
    }
}

template <typename A> TLK void tlk_ln_backward(const tl__cu_norm &p)
{
    tlk_size row = (tlk_size)blockIdx.x * (TLK_THREADS / 32) + threadIdx.x / 32;
    int lane = (int)(threadIdx.x % 32);
    if (row >= p.rows) return;
    const A *x = (const A *)p.x + row * p.c, *dy = (const A *)p.dy + row * p.c;
    float mean = p.stats[row], inv_std = p.stats[p.rows + row], sum = 0, sum_xhat = 0;
    for (int k = lane; k < p.c; k += 32) {
        float g = tlk_get(dy + k) * (p.weight ? p.weight[k] : 1);
        sum += g;
        sum_xhat += g * ((tlk_get(x + k) - mean) * inv_std);
    }
    sum = tlk_warp_sum(sum) / (float)p.c;
    sum_xhat = tlk_warp_sum(sum_xhat) / (float)p.c;
    for (int k = lane; k < p.c; k += 32) {
        float g = tlk_get(dy + k) * (p.weight ? p.weight[k] : 1), xhat = (tlk_get(x + k) - mean) * inv_std;
        tlk_put((A *)p.dx + row * p.c + k, inv_std * (g - sum - xhat * sum_xhat), p.add);
    }
}

// p.partial[block][0, 1][channel] = sums of dy and dy*xhat over the block's rows.
template <typename A> TLK void tlk_ln_backward_sums(const tl__cu_norm &p)
{
    tlk_columns *s = tl_smem<tlk_columns>();
    int k = (int)blockIdx.x * 32 + (int)(threadIdx.x % 32);
    tlk_size begin = (tlk_size)blockIdx.y * p.run, end = begin + p.run < p.rows ? begin + p.run : p.rows;
    float sum = 0, sum_xhat = 0;
    for (tlk_size row = begin + threadIdx.x / 32; row < end && k < p.c; row += 8) {
        float g = tlk_get((const A *)p.dy + row * p.c + k);
        sum += g;
        sum_xhat += g * ((tlk_get((const A *)p.x + row * p.c + k) - p.stats[row]) * p.stats[p.rows + row]);
    }
    sum = tlk_column_sum(sum, s);
    sum_xhat = tlk_column_sum(sum_xhat, s);
    if (threadIdx.x >= 32 || k >= p.c) return;
    p.partial[(tlk_size)blockIdx.y * 2 * p.c + k] = sum;
    p.partial[((tlk_size)blockIdx.y * 2 + 1) * p.c + k] = sum_xhat;
}

// ============================================================================================
// >>activation: the nonlinear functions, element by element, and softmax
//
//  One kernel for all: the branch on the op is the same for every thread and costs nothing next to the memory.
//  Comparisons are written as on the CPU, so that a NaN passes through.
// ============================================================================================

TLK float tlk_sigmoid(float x)
{
    float e = expf(-fabsf(x));
    return (x < 0 ? e : 1) / (1 + e);
}

TLK float tlk_element_value(const tl__cu_elements &p, float x, float other)
{
    switch (p.op) {
    case TL__CU_RELU: return x < 0 ? 0 : x;
    case TL__CU_LEAKY_RELU: return x < 0 ? p.number * x : x;
    case TL__CU_RELU6: return x < 0 ? 0 : x > 6 ? 6 : x;
    case TL__CU_SIGMOID: return tlk_sigmoid(x);
    case TL__CU_TANH: return tanhf(x);
    case TL__CU_GELU: return 0.5f * x * (1 + erff(x * 0.70710678f));
    case TL__CU_SILU: return x * tlk_sigmoid(x);
    case TL__CU_ADD: return x + other;
    case TL__CU_MUL: return x * other;
    case TL__CU_ADD_RELU: return x + other < 0 ? 0 : x + other;
    default: return x;                                          // copy
    }
}

template <typename A> TLK void tlk_elements_forward(const tl__cu_elements &p)
{
    tlk_pieces<A>(p.count, [&](tlk_size i) {
        tlk_piece<A> x = tlk_get_piece<A>(p.x, i), other = x;
        if (p.other) other = tlk_get_piece<A>(p.other, i);
        #pragma unroll
        for (int e = 0; e < tlk_kind<A>::PIECE; e++)
            tlk_set(x.of + e, tlk_element_value(p, tlk_get(x.of + e), tlk_get(other.of + e)));
        tlk_set_piece<A>(p.out, i, x);
    }, [&](tlk_size i) {
        float other = p.other ? tlk_get((const A *)p.other + i) : 0;
        tlk_set((A *)p.out + i, tlk_element_value(p, tlk_get((const A *)p.x + i), other));
    });
}

// dy times the derivative, which is written in v: x or y, whichever is cheaper; for a product the other factor.
TLK float tlk_element_slope(const tl__cu_elements &p, float g, float v)
{
    float s;
    switch (p.op) {
    case TL__CU_RELU: return v <= 0 ? 0 : g;
    case TL__CU_LEAKY_RELU: return v > 0 ? g : p.number * g;
    case TL__CU_RELU6: return v <= 0 || v >= 6 ? 0 : g;
    case TL__CU_SIGMOID: return g * v * (1 - v);
    case TL__CU_TANH: return g * (1 - v * v);
    case TL__CU_GELU: return g * (0.5f * (1 + erff(v * 0.70710678f)) + v * 0.39894228f * expf(-0.5f * v * v));
    case TL__CU_SILU: s = tlk_sigmoid(v); return g * s * (1 + v * (1 - s));
    case TL__CU_MUL: return g * v;
    default: return g;
    }
}

// p.out (= or +=) the gradient.
template <typename A> TLK void tlk_elements_backward(const tl__cu_elements &p)
{
    tlk_pieces<A>(p.count, [&](tlk_size i) {
        tlk_piece<A> dy = tlk_get_piece<A>(p.dy, i), v = dy, out = dy;
        if (p.x) v = tlk_get_piece<A>(p.x, i);
        if (p.add) out = tlk_get_piece<A>(p.out, i);
        #pragma unroll
        for (int e = 0; e < tlk_kind<A>::PIECE; e++)
            tlk_put(out.of + e, tlk_element_slope(p, tlk_get(dy.of + e), tlk_get(v.of + e)), p.add);
        tlk_set_piece<A>(p.out, i, out);
    }, [&](tlk_size i) {
        float v = p.x ? tlk_get((const A *)p.x + i) : 0;
        tlk_put((A *)p.out + i, tlk_element_slope(p, tlk_get((const A *)p.dy + i), v), p.add);
    });
}

// A warp for each row of p.c values.
template <typename A> TLK void tlk_softmax_forward(const tl__cu_norm &p)
{
    tlk_size row = (tlk_size)blockIdx.x * (TLK_THREADS / 32) + threadIdx.x / 32;
    int lane = (int)(threadIdx.x % 32);
    if (row >= p.rows) return;
    const A *x = (const A *)p.x + row * p.c;
    float top = tlk_get(x), sum = 0;
    for (int k = lane; k < p.c; k += 32) top = tlk_get(x + k) > top ? tlk_get(x + k) : top;
    top = tlk_warp_max(top);
    for (int k = lane; k < p.c; k += 32) sum += expf(tlk_get(x + k) - top);
    sum = tlk_warp_sum(sum);
    for (int k = lane; k < p.c; k += 32) tlk_set((A *)p.y + row * p.c + k, expf(tlk_get(x + k) - top) / sum);
}

template <typename A> TLK void tlk_softmax_backward(const tl__cu_norm &p)
{
    tlk_size row = (tlk_size)blockIdx.x * (TLK_THREADS / 32) + threadIdx.x / 32;
    int lane = (int)(threadIdx.x % 32);
    if (row >= p.rows) return;
    const A *y = (const A *)p.y + row * p.c, *dy = (const A *)p.dy + row * p.c;
    float mean = 0;
    for (int k = lane; k < p.c; k += 32) mean += tlk_get(y + k) * tlk_get(dy + k);
    mean = tlk_warp_sum(mean);
    for (int k = lane; k < p.c; k += 32)
        tlk_put((A *)p.dx + row * p.c + k, tlk_get(y + k) * (tlk_get(dy + k) - mean), p.add);
}

// ============================================================================================
// >>pool: one value for each window
//
//  Forward threads make outputs, backward they make inputs, which gather from the windows that cover them in
//  the order of the outputs: nothing is scattered, so nothing needs an atomic. A maximum belongs to the first place of
//  its window, in row order, that equals it; that is found again by looking at the places before.
// ============================================================================================

struct tlk_box {
    int y0, y1, x0, x1;
};

TLK tlk_box tlk_pool_box(const tl__cu_pool &p, int oy, int ox)
{
    int top = oy * p.sh - p.pt, left = ox * p.sw - p.pl;
    tlk_box box = { tlk_max(top, 0), tlk_min(top + p.kh, p.h), tlk_max(left, 0), tlk_min(left + p.kw, p.w) };
    return box;
}

TLK float tlk_pool_divisor(const tl__cu_pool &p, int oy, int ox)
{
    tlk_box box = tlk_pool_box(p, oy, ox);
    if (p.exclude_pad) return (float)((box.y1 - box.y0) * (box.x1 - box.x0));
    int top = oy * p.sh - p.pt, left = ox * p.sw - p.pl;
    return (float)((tlk_min(top + p.kh, p.h + p.pt) - top) * (tlk_min(left + p.kw, p.w + p.pl) - left));
}

// A place in an N x h x w x c array.
struct tlk_place {
    int y, x, k;
    tlk_size n;
};

TLK tlk_place tlk_place_of(tlk_size i, int h, int w, int c)
{
    tlk_place at;
    tlk_size pixel = tlk_divide(i, c), row = tlk_divide(pixel, w);
    at.k = tlk_rest(i, c);
    at.x = tlk_rest(pixel, w);
    at.y = tlk_rest(row, h);
    at.n = tlk_divide(row, h);
    return at;
}

// N channels that lie side by side, at a multiple of N.
template <typename A, int N> struct __align__(N * (int)sizeof(A)) tlk_run {
    A of[N];
};

// A thread makes N channels of one output: a piece of 16 bytes where channels come in pieces, which costs one division of
// indices instead of eight; else one.
template <typename A, int N> TLK void tlk_pool_forward_run(const tl__cu_pool &p)
{
    tlk_size i = ((tlk_size)blockIdx.x * TLK_THREADS + threadIdx.x) * N;
    if (i >= (tlk_size)p.n * p.oh * p.ow * p.c) return;
    tlk_place at = tlk_place_of(i, p.oh, p.ow, p.c);
    tlk_box box = tlk_pool_box(p, at.y, at.x);
    const A *x = (const A *)p.x + at.n * p.h * p.w * p.c + at.k;
    float best[N], sum[N];
    #pragma unroll
    for (int e = 0; e < N; e++) best[e] = sum[e] = 0;
    for (int y = box.y0; y < box.y1; y++)
    for (int xx = box.x0; xx < box.x1; xx++) {
        tlk_run<A, N> v = *(const tlk_run<A, N> *)(x + ((tlk_size)y * p.w + xx) * p.c);
        int first = y == box.y0 && xx == box.x0;
        #pragma unroll
        for (int e = 0; e < N; e++) {
            float value = tlk_get(v.of + e);
            best[e] = first || value > best[e] || value != value ? value : best[e];         // a NaN wins
            sum[e] += value;
        }
    }
    float divisor = p.average ? tlk_pool_divisor(p, at.y, at.x) : 1;
    tlk_run<A, N> out;
    #pragma unroll
    for (int e = 0; e < N; e++) tlk_set(out.of + e, p.average ? sum[e] / divisor : best[e]);
    *(tlk_run<A, N> *)((A *)p.y + i) = out;
}

template <typename A> TLK void tlk_pool_forward(const tl__cu_pool &p)
{
    if (p.c % tlk_kind<A>::PIECE == 0) tlk_pool_forward_run<A, tlk_kind<A>::PIECE>(p);
    else tlk_pool_forward_run<A, 1>(p);
}

// Adds to sum[e] the slope g of a window whose maximum is `top`, for the channels in which (y, x) is the first place that has
// it. A NaN counts as met: it is what forward took.
template <typename A, int N>
TLK void tlk_add_if_maximum(const tl__cu_pool &p, const A *image, tlk_box box, const tlk_run<A, N> &top,
                            const tlk_run<A, N> &g, int y, int x, float sum[N])
{
    unsigned met = 0;                                           // a bit for each channel
    for (int yy = box.y0; yy <= y; yy++)
    for (int xx = box.x0; xx < (yy < y ? box.x1 : x + 1); xx++) {
        tlk_run<A, N> v = *(const tlk_run<A, N> *)(image + ((tlk_size)yy * p.w + xx) * p.c);
        #pragma unroll
        for (int e = 0; e < N; e++) {
            float value = tlk_get(v.of + e);
            if ((met >> e & 1) || !(value == tlk_get(top.of + e) || value != value)) continue;
            met |= 1u << e;
            if (yy == y && xx == x) sum[e] += tlk_get(g.of + e);
        }
    }
}

template <typename A, int N> TLK void tlk_pool_backward_run(const tl__cu_pool &p)
{
    tlk_size i = ((tlk_size)blockIdx.x * TLK_THREADS + threadIdx.x) * N;
    if (i >= (tlk_size)p.n * p.h * p.w * p.c) return;
    tlk_place at = tlk_place_of(i, p.h, p.w, p.c);
    const A *image = (const A *)p.x + at.n * p.h * p.w * p.c + at.k;
    tlk_size outputs = at.n * p.oh * p.ow * p.c + at.k;
    int oy0 = tlk_max(0, (at.y + p.pt - p.kh + p.sh) / p.sh), oy1 = tlk_min(p.oh - 1, (at.y + p.pt) / p.sh);
    int ox0 = tlk_max(0, (at.x + p.pl - p.kw + p.sw) / p.sw), ox1 = tlk_min(p.ow - 1, (at.x + p.pl) / p.sw);
    float sum[N];
    #pragma unroll
    for (int e = 0; e < N; e++) sum[e] = 0;
    for (int oy = oy0; oy <= oy1; oy++)
    for (int ox = ox0; ox <= ox1; ox++) {
        tlk_size out = outputs + ((tlk_size)oy * p.ow + ox) * p.c;
        tlk_run<A, N> g = *(const tlk_run<A, N> *)((const A *)p.dy + out);
        if (!p.average) {
            tlk_add_if_maximum<A, N>(p, image, tlk_pool_box(p, oy, ox), *(const tlk_run<A, N> *)((const A *)p.y + out), g,
                                     at.y, at.x, sum);
            continue;
        }
        float divisor = tlk_pool_divisor(p, oy, ox);
        #pragma unroll
        for (int e = 0; e < N; e++) sum[e] += tlk_get(g.of + e) / divisor;
    }
    tlk_run<A, N> dx;
    if (p.add) dx = *(const tlk_run<A, N> *)((const A *)p.dx + i);
    #pragma unroll
    for (int e = 0; e < N; e++) tlk_put(dx.of + e, sum[e], p.add);
    *(tlk_run<A, N> *)((A *)p.dx + i) = dx;
}

template <typename A> TLK void tlk_pool_backward(const tl__cu_pool &p)
{
    if (p.c % tlk_kind<A>::PIECE == 0) tlk_pool_backward_run<A, tlk_kind<A>::PIECE>(p);
    else tlk_pool_backward_run<A, 1>(p);
}

// ---- adaptive: output o of `out` averages the inputs floor(o*in/out) .. ceil((o+1)*in/out) - 1

TLK int tlk_adaptive_begin(int o, int in, int out) { return (int)((long long)o * in / out); }
TLK int tlk_adaptive_end(int o, int in, int out) { return (int)(((long long)(o + 1) * in + out - 1) / out); }

// A block takes 32 channels of one output; its warps share the positions. blockIdx.y: output, z: sample.
template <typename A> TLK void tlk_adaptive_forward(const tl__cu_pool &p)
{
    tlk_columns *s = tl_smem<tlk_columns>();
    int k = (int)blockIdx.x * 32 + (int)(threadIdx.x % 32), oy = (int)blockIdx.y / p.ow, ox = (int)blockIdx.y % p.ow;
    int y0 = tlk_adaptive_begin(oy, p.h, p.oh), y1 = tlk_adaptive_end(oy, p.h, p.oh);
    int x0 = tlk_adaptive_begin(ox, p.w, p.ow), x1 = tlk_adaptive_end(ox, p.w, p.ow), area = (y1 - y0) * (x1 - x0);
    const A *x = (const A *)p.x + (tlk_size)blockIdx.z * p.h * p.w * p.c + k;
    float sum = 0;
    for (int i = (int)threadIdx.x / 32; i < area && k < p.c; i += 8)
        sum += tlk_get(x + ((tlk_size)(y0 + i / (x1 - x0)) * p.w + x0 + i % (x1 - x0)) * p.c);
    sum = tlk_column_sum(sum, s);
    if (threadIdx.x < 32 && k < p.c)
        tlk_set((A *)p.y + ((tlk_size)blockIdx.z * p.oh * p.ow + blockIdx.y) * p.c + k, sum / (float)area);
}

template <typename A> TLK void tlk_adaptive_backward(const tl__cu_pool &p)
{
    tlk_size i = (tlk_size)blockIdx.x * TLK_THREADS + threadIdx.x;
    if (i >= (tlk_size)p.n * p.h * p.w * p.c) return;
    tlk_place at = tlk_place_of(i, p.h, p.w, p.c);
    int oy0 = (int)((long long)at.y * p.oh / p.h), ox0 = (int)((long long)at.x * p.ow / p.w);
    while (oy0 > 0 && tlk_adaptive_end(oy0 - 1, p.h, p.oh) > at.y) oy0--;
    while (ox0 > 0 && tlk_adaptive_end(ox0 - 1, p.w, p.ow) > at.x) ox0--;
    float sum = 0;
    for (int oy = oy0; oy < p.oh && tlk_adaptive_begin(oy, p.h, p.oh) <= at.y; oy++)
    for (int ox = ox0; ox < p.ow && tlk_adaptive_begin(ox, p.w, p.ow) <= at.x; ox++) {
        int rows = tlk_adaptive_end(oy, p.h, p.oh) - tlk_adaptive_begin(oy, p.h, p.oh);
        int cols = tlk_adaptive_end(ox, p.w, p.ow) - tlk_adaptive_begin(ox, p.w, p.ow);
        sum += tlk_get((const A *)p.dy + ((at.n * p.oh + oy) * p.ow + ox) * p.c + at.k) / (float)(rows * cols);
    }
    tlk_put((A *)p.dx + i, sum, p.add);
}

// ============================================================================================
// >>resample: make an image larger by a whole factor. p.kh is the factor, p.average says bilinear.
// ============================================================================================

struct tlk_mix {
    int   i, j;
    float t;
};

TLK tlk_mix tlk_bilinear_mix(int o, int size, int factor)
{
    tlk_mix mix;
    long long doubled = 2 * (long long)o + 1 - factor;
    if (doubled < 0) doubled = 0;
    mix.i = (int)(doubled / (2 * factor));
    mix.j = tlk_min(mix.i + 1, size - 1);
    mix.t = (float)(doubled % (2 * factor)) / (float)(2 * factor);
    return mix;
}

template <typename A> TLK void tlk_upsample_forward(const tl__cu_pool &p)
{
    tlk_size i = (tlk_size)blockIdx.x * TLK_THREADS + threadIdx.x;
    int factor = p.kh;
    if (i >= (tlk_size)p.n * p.oh * p.ow * p.c) return;
    tlk_place at = tlk_place_of(i, p.oh, p.ow, p.c);
    const A *x = (const A *)p.x + at.n * p.h * p.w * p.c + at.k;
    if (!p.average) {
        tlk_set((A *)p.y + i, tlk_get(x + ((tlk_size)(at.y / factor) * p.w + at.x / factor) * p.c));
        return;
    }
    tlk_mix v = tlk_bilinear_mix(at.y, p.h, factor), u = tlk_bilinear_mix(at.x, p.w, factor);
    const A *upper = x + (tlk_size)v.i * p.w * p.c, *lower = x + (tlk_size)v.j * p.w * p.c;
    tlk_size left = (tlk_size)u.i * p.c, right = (tlk_size)u.j * p.c;
    float above = (1 - u.t) * tlk_get(upper + left) + u.t * tlk_get(upper + right);
    float below = (1 - u.t) * tlk_get(lower + left) + u.t * tlk_get(lower + right);
    tlk_set((A *)p.y + i, (1 - v.t) * above + v.t * below);
}

// How much of input i output o reads.
TLK float tlk_bilinear_share(int o, int i, int size, int factor)
{
    long long unit = 2 * (long long)factor, at = 2 * (long long)o + 1 - factor, last = unit * (size - 1);
    at = at < 0 ? 0 : at > last ? last : at;
    long long distance = at > unit * i ? at - unit * i : unit * i - at;
    return distance < unit ? (float)(unit - distance) / (float)unit : 0;
}

template <typename A> TLK void tlk_upsample_backward(const tl__cu_pool &p)
{
    tlk_size i = (tlk_size)blockIdx.x * TLK_THREADS + threadIdx.x;
    int factor = p.kh, reach = p.average ? 1 : 0;                // bilinear: the outputs of the neighbours read it, too
    if (i >= (tlk_size)p.n * p.h * p.w * p.c) return;
    tlk_place at = tlk_place_of(i, p.h, p.w, p.c);
    int oy0 = tlk_max(at.y - reach, 0) * factor, oy1 = tlk_min(at.y + 1 + reach, p.h) * factor;
    int ox0 = tlk_max(at.x - reach, 0) * factor, ox1 = tlk_min(at.x + 1 + reach, p.w) * factor;
    const A *dy = (const A *)p.dy + at.n * p.oh * p.ow * p.c + at.k;
    float sum = 0;
    for (int oy = oy0; oy < oy1; oy++) {
        float share_y = p.average ? tlk_bilinear_share(oy, at.y, p.h, factor) : 1;
        for (int ox = ox0; ox < ox1 && share_y != 0; ox++) {
            float share = p.average ? share_y * tlk_bilinear_share(ox, at.x, p.w, factor) : 1;
            if (share != 0) sum += share * tlk_get(dy + ((tlk_size)oy * p.ow + ox) * p.c);
        }
    }
    tlk_put((A *)p.dx + i, sum, p.add);
}

// ============================================================================================
// >>join: where two branches of the network meet
//
//  Concatenation copies slices of channels: p.c of them, from channel p.from_first of p.from_c to p.to_first of p.to_c.
// ============================================================================================

template <typename A> TLK void tlk_copy_value(const tl__cu_join &p, tlk_size i)
{
    tlk_size position = tlk_divide(i, p.c);
    int k = tlk_rest(i, p.c);
    tlk_put((A *)p.y + position * p.to_c + p.to_first + k,
            tlk_get((const A *)p.x + position * p.from_c + p.from_first + k), p.add);
}

template <typename A> TLK void tlk_slice(const tl__cu_join &p)
{
    enum { PIECE = tlk_kind<A>::PIECE };
    if ((p.c | p.from_c | p.from_first | p.to_c | p.to_first) % PIECE == 0) {      // whole pieces on both sides
        tlk_pieces<A>(
            p.count,
            [&](tlk_size i) {
                tlk_size position = tlk_divide(i, p.c), k = (tlk_size)tlk_rest(i, p.c),
                         to = position * p.to_c + p.to_first + k;
                tlk_piece<A> x = tlk_get_piece<A>(p.x, position * p.from_c + p.from_first + k), y = x;
                if (p.add)
                    y = tlk_get_piece<A>(p.y, to);
#pragma unroll
                for (int e = 0; e < PIECE && p.add; e++)
                    tlk_put(y.of + e, tlk_get(x.of + e), 1);
                tlk_set_piece<A>(p.y, to, y);
            },
            [&](tlk_size) {});
        return;
    }
    tlk_pieces<A>(p.count, [&](tlk_size first) {
        for (tlk_size i = first; i < first + PIECE; i++) tlk_copy_value<A>(p, i);
    }, [&](tlk_size i) { tlk_copy_value<A>(p, i); });
}

// y (= or +=) x * factor of the sample and channel: forward, and backward for x. p.rows positions in a sample.
template <typename A> TLK void tlk_mul_channels(const tl__cu_join &p)
{
    TLK_ELEMENTS(i, p.count) {
        float factor = tlk_get((const A *)p.other + i / p.c / p.rows * p.c + i % p.c);
        tlk_put((A *)p.y + i, tlk_get((const A *)p.x + i) * factor, p.add);
    }
}

// Backward for the factors: sums of x * dy (p.other) over the positions of sample blockIdx.y.
template <typename A> TLK void tlk_mul_channels_sums(const tl__cu_join &p)
{
    tlk_columns *s = tl_smem<tlk_columns>();
    int k = (int)blockIdx.x * 32 + (int)(threadIdx.x % 32);
    float sum = 0;
    for (tlk_size row = threadIdx.x / 32; row < p.rows && k < p.c; row += 8) {
        tlk_size i = (blockIdx.y * p.rows + row) * p.c + k;
        sum += tlk_get((const A *)p.x + i) * tlk_get((const A *)p.other + i);
    }
    sum = tlk_column_sum(sum, s);
    if (threadIdx.x < 32 && k < p.c) tlk_put((A *)p.y + (tlk_size)blockIdx.y * p.c + k, sum, p.add);
}

// y (= or +=) x * mask. A thread makes the four random numbers of one block of the address, for four elements of a
// sample with p.rows values; blockIdx.y is the sample. The pass comes from device memory, for it changes every time.
template <typename A> TLK void tlk_dropout(const tl__cu_dropout &p)
{
    tlk_size first = ((tlk_size)blockIdx.x * TLK_THREADS + threadIdx.x) * 4,
             at = (tlk_size)blockIdx.y * p.count + first;
    if (first >= p.count) return;
    unsigned counter[4] = { p.whole ? 0 : (unsigned)(first / 4), p.purpose, blockIdx.y, *p.pass }, random[4];
    tlk_philox(counter, p.key, random);
    for (int i = 0; i < 4 && first + i < p.count; i++) {
        float mask = random[p.whole ? 0 : i] >= p.threshold ? p.scale : 0;
        tlk_put((A *)p.y + at + i, tlk_get((const A *)p.x + at + i) * mask, p.add);
    }
}

// A learned array as a node: p.rows values (float), the same for every sample. Backward adds the samples in order.
template <typename A> TLK void tlk_parameter_forward(const tl__cu_join &p)
{
    TLK_ELEMENTS(i, p.count) tlk_set((A *)p.y + i, ((const float *)p.x)[tlk_rest(i, (int)p.rows)]);
}

template <typename A> TLK void tlk_parameter_backward(const tl__cu_join &p)
{
    TLK_ELEMENTS(i, p.rows) {
        float sum = 0;
        for (tlk_size at = i; at < p.count; at += p.rows) sum += tlk_get((const A *)p.x + at);
        ((float *)p.y)[i] += sum;
    }
}

// ============================================================================================
// >>attention: every token looks at every other
//
//  The scores of a head are T x T and never stored. A warp takes one query; the block brings 32 keys and values at a
//  time into shared memory, lane l scores key l, and the softmax is made as the keys go by: with a larger maximum, what
//  has been summed so far is scaled down (Milakov and Gimelshein 2018; Dao et al. 2022). What is kept for backward is
//  log(sum exp) of each row. Backward computes the scores again, once from the side of the queries, for dq and the mean
//  slope of each row, and once from the side of the keys, for dk and dv; so nothing is added to by two warps.
// ============================================================================================

#define TLK_HEAD 128                    // most channels of a head
#define TLK_QUERIES 8                   // warps of a block

struct tlk_attention_tile {
    float one[TLK_QUERIES][TLK_HEAD], other[TLK_QUERIES][TLK_HEAD];        // of each warp's own token
    float first[32][TLK_HEAD + 1], second[32][TLK_HEAD + 1];               // of 32 tokens; odd rows avoid conflicts
};

// Where part `which` (0 query, 1 key, 2 value) of a token begins in qkv.
TLK tlk_size tlk_qkv(const tl__cu_attention &p, int token, int which)
{
    int d = p.channels / p.heads;
    return (((tlk_size)blockIdx.z * p.tokens + token) * 3 + which) * p.channels + (int)blockIdx.y * d;
}
TLK tlk_size tlk_out(const tl__cu_attention &p, int token)
{
    return ((tlk_size)blockIdx.z * p.tokens + token) * p.channels + (int)blockIdx.y * (p.channels / p.heads);
}
TLK tlk_size tlk_row(const tl__cu_attention &p, int token)
{
    return ((tlk_size)blockIdx.z * p.heads + blockIdx.y) * p.tokens + token;
}

// Brings 32 tokens from t0 on: parts `a` and `b` of qkv, or with b = 3 the gradient of the output.
template <typename A> TLK void tlk_bring(const tl__cu_attention &p, tlk_attention_tile *s, int t0, int a, int b)
{
    int d = p.channels / p.heads;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < 32 * d; i += TLK_THREADS) {
        int row = i / d, c = i % d, token = tlk_min(t0 + row, p.tokens - 1);
        s->first[row][c] = tlk_get((const A *)p.qkv + tlk_qkv(p, token, a) + c);
        s->second[row][c] = b < 3 ? tlk_get((const A *)p.qkv + tlk_qkv(p, token, b) + c)
                                  : tlk_get((const A *)p.dout + tlk_out(p, token) + c);
    }
    __syncthreads();
}

TLK float tlk_dot(const float *a, const float *b, int d)
{
    float sum = 0;
    for (int c = 0; c < d; c++) sum += a[c] * b[c];
    return sum;
}

// sum[e] += the lanes' weights times rows of a tile; lane l has the channels l, l + 32 ...
TLK void tlk_weigh(float sum[4], float weight, const float rows[32][TLK_HEAD + 1], int d)
{
    int lane = (int)threadIdx.x % 32;
    for (int j = 0; j < 32; j++) {
        float w = __shfl_sync(0xffffffffu, weight, j);
        #pragma unroll
        for (int e = 0; e < 4; e++) if (lane + 32 * e < d) sum[e] += w * rows[j][lane + 32 * e];
    }
}

// blockIdx: eight queries, head, sample.
template <typename A> TLK void tlk_attention_forward(const tl__cu_attention &p)
{
    tlk_attention_tile *s = tl_smem<tlk_attention_tile>();
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, d = p.channels / p.heads;
    int i = (int)blockIdx.x * TLK_QUERIES + warp, query = tlk_min(i, p.tokens - 1);
    float scale = 1 / sqrtf((float)d), top = -3e38f, total = 0, sum[4] = { 0, 0, 0, 0 };
    for (int c = lane; c < d; c += 32) s->one[warp][c] = scale * tlk_get((const A *)p.qkv + tlk_qkv(p, query, 0) + c);
    for (int j0 = 0; j0 < p.tokens; j0 += 32) {
        tlk_bring<A>(p, s, j0, 1, 2);
        int valid = j0 + lane < p.tokens;
        float score = valid ? tlk_dot(s->one[warp], s->first[lane], d) : -3e38f, most = tlk_warp_max(score);
        most = most > top ? most : top;
        float weight = valid ? expf(score - most) : 0, shrink = expf(top - most);
        total = total * shrink + tlk_warp_sum(weight);
        #pragma unroll
        for (int e = 0; e < 4; e++) sum[e] *= shrink;
        tlk_weigh(sum, weight, s->second, d);
        top = most;
    }
    if (i >= p.tokens) return;
    if (lane == 0) p.log_sum[tlk_row(p, i)] = top + logf(total);
    #pragma unroll
    for (int e = 0; e < 4; e++)
        if (lane + 32 * e < d) tlk_set((A *)p.out + tlk_out(p, i) + lane + 32 * e, sum[e] / total);
}

// dq of a query, and the mean slope of its row, in two walks over the keys.
template <typename A> TLK void tlk_attention_backward_queries(const tl__cu_attention &p)
{
    tlk_attention_tile *s = tl_smem<tlk_attention_tile>();
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, d = p.channels / p.heads;
    int i = (int)blockIdx.x * TLK_QUERIES + warp, query = tlk_min(i, p.tokens - 1);
    float scale = 1 / sqrtf((float)d), log_sum = p.log_sum[tlk_row(p, query)], mean = 0, sum[4] = { 0, 0, 0, 0 };
    for (int c = lane; c < d; c += 32) {
        s->one[warp][c] = scale * tlk_get((const A *)p.qkv + tlk_qkv(p, query, 0) + c);
        s->other[warp][c] = tlk_get((const A *)p.dout + tlk_out(p, query) + c);
    }
    for (int walk = 0; walk < 2; walk++) {
        for (int j0 = 0; j0 < p.tokens; j0 += 32) {
            tlk_bring<A>(p, s, j0, 1, 2);
            float prob = j0 + lane < p.tokens ? expf(tlk_dot(s->one[warp], s->first[lane], d) - log_sum) : 0;
            float slope = tlk_dot(s->other[warp], s->second[lane], d);
            if (walk == 0) mean += prob * slope;
            else tlk_weigh(sum, scale * prob * (slope - mean), s->first, d);
        }
        if (walk == 0) mean = tlk_warp_sum(mean);
    }
    if (i >= p.tokens) return;
    if (lane == 0) p.mean[tlk_row(p, i)] = mean;
    #pragma unroll
    for (int e = 0; e < 4; e++)
        if (lane + 32 * e < d) tlk_put((A *)p.dqkv + tlk_qkv(p, i, 0) + lane + 32 * e, sum[e], p.add);
}

// dk and dv of a key, in one walk over the queries.
template <typename A> TLK void tlk_attention_backward_keys(const tl__cu_attention &p)
{
    tlk_attention_tile *s = tl_smem<tlk_attention_tile>();
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, d = p.channels / p.heads;
    int j = (int)blockIdx.x * TLK_QUERIES + warp, key = tlk_min(j, p.tokens - 1);
    float scale = 1 / sqrtf((float)d), dk[4] = { 0, 0, 0, 0 }, dv[4] = { 0, 0, 0, 0 };
    for (int c = lane; c < d; c += 32) {
        s->one[warp][c] = scale * tlk_get((const A *)p.qkv + tlk_qkv(p, key, 1) + c);
        s->other[warp][c] = tlk_get((const A *)p.qkv + tlk_qkv(p, key, 2) + c);
    }
    for (int i0 = 0; i0 < p.tokens; i0 += 32) {
        tlk_bring<A>(p, s, i0, 0, 3);
        int query = tlk_min(i0 + lane, p.tokens - 1);
        float prob = expf(tlk_dot(s->one[warp], s->first[lane], d) - p.log_sum[tlk_row(p, query)]);
        if (i0 + lane >= p.tokens) prob = 0;
        float slope = tlk_dot(s->other[warp], s->second[lane], d);
        tlk_weigh(dv, prob, s->second, d);
        tlk_weigh(dk, scale * prob * (slope - p.mean[tlk_row(p, query)]), s->first, d);
    }
    if (j >= p.tokens) return;
    #pragma unroll
    for (int e = 0; e < 4; e++) {
        if (lane + 32 * e >= d) continue;
        tlk_put((A *)p.dqkv + tlk_qkv(p, j, 1) + lane + 32 * e, dk[e], p.add);
        tlk_put((A *)p.dqkv + tlk_qkv(p, j, 2) + lane + 32 * e, dv[e], p.add);
    }
}

// ============================================================================================
// >>loss: one number that says how wrong the network is
//
//  Three kernels. Sums: each block leaves the sum of the losses of its positions and what it is to be divided by (Dice:
//  I, P and T of each class). Finish: one block adds them in their order, and leaves the value and the factor of the
//  gradient (Dice: dL/dp = a dmin(p,t)/dp + b of each class). Gradient: computes each position again and writes
//  the derivative. The divisor is known only after the first kernel, and to compute twice is cheaper than to store.
// ============================================================================================

struct tlk_slope {
    float value, slope;
};

TLK int tlk_loss_skips(const tl__cu_loss &p, tlk_size at)
{
    return (p.index && (p.index[at] < 0 || (p.ignore_index && p.index[at] == p.ignore_index))) ||
           (p.weight && p.weight[at] == 0);
}

TLK float tlk_position_weight(const tl__cu_loss &p, tlk_size at) { return p.weight ? p.weight[at] : 1; }

// The target of channel k as a number between 0 and 1.
TLK float tlk_target(const tl__cu_loss &p, tlk_size at, int k)
{
    if (p.dense) return p.dense[at * p.c + k];
    return p.c == 1 ? (float)p.index[at] : (float)(p.index[at] == k);
}

TLK float tlk_class_weight(const tl__cu_loss &p, int k) { return p.class_weight ? p.class_weight[k] : 1; }

// exp(x_k - top) / sum is the softmax of a position, x_k - top - log(sum) its logarithm.
struct tlk_softmax {
    float top, sum;
};

template <typename A> TLK tlk_softmax tlk_softmax_of(const tl__cu_loss &p, tlk_size at)
{
    const A *x = (const A *)p.x + at * p.c;
    tlk_softmax s = { tlk_get(x), 0 };
    for (int k = 1; k < p.c; k++) s.top = tlk_get(x + k) > s.top ? tlk_get(x + k) : s.top;
    for (int k = 0; k < p.c; k++) s.sum += expf(tlk_get(x + k) - s.top);
    return s;
}

template <typename A> TLK float tlk_probability(const tl__cu_loss &p, const tlk_softmax &s, tlk_size at, int k)
{
    float x = tlk_get((const A *)p.x + at * p.c + k);
    return p.softmax ? expf(x - s.top) / s.sum : tlk_sigmoid(x);
}

// (1-p)^gamma * cross, and its derivative by p times p; `rest` is 1-p, `cross` is -log p.
TLK tlk_slope tlk_focal(float rest, float cross, float gamma)
{
    float modulation = powf(rest, gamma);
    tlk_slope r = { modulation * cross, -modulation };
    if (rest > 0) r.slope -= gamma * modulation / rest * (1 - rest) * cross;
    return r;
}

TLK tlk_slope tlk_bce(float x, float t)
{
    tlk_slope r = { (x > 0 ? x : 0) - x * t + log1pf(expf(-fabsf(x))), tlk_sigmoid(x) - t };
    return r;
}

// One number x with target t: BCE, focal with sigmoid, MSE, L1, Huber.
TLK tlk_slope tlk_number_loss(const tl__cu_loss &p, float x, float t)
{
    tlk_slope r = { 0, 0 };
    float d = x - t, size = fabsf(d), sign = (float)(d > 0) - (float)(d < 0);
    if (p.kind == TL__CU_BCE) return tlk_bce(x, t);
    if (p.kind == TL__CU_FOCAL) {
        float prob = tlk_sigmoid(x), other = tlk_sigmoid(-x), rest = prob * (1 - t) + other * t;
        float modulation = powf(rest, p.gamma), weight = p.alpha != 0 ? p.alpha * t + (1 - p.alpha) * (1 - t) : 1;
        tlk_slope cross = tlk_bce(x, t);
        r.value = weight * modulation * cross.value;
        r.slope = weight * modulation * cross.slope;
        if (rest > 0) r.slope += weight * cross.value * p.gamma * modulation / rest * (1 - 2 * t) * prob * other;
        return r;
    }
    if (p.kind == TL__CU_MSE) { r.value = d * d; r.slope = 2 * d; }
    else if (p.kind == TL__CU_HUBER && size < p.delta) { r.value = d * d / 2; r.slope = d; }
    else if (p.kind == TL__CU_HUBER) { r.value = p.delta * (size - p.delta / 2); r.slope = p.delta * sign; }
    else { r.value = size; r.slope = sign; }
    return r;
}

// The loss of one position; with `factor` not 0 its gradient is written, too.
template <typename A> TLK double tlk_loss_at(const tl__cu_loss &p, tlk_size at, int write, float factor)
{
    const A *x = (const A *)p.x + at * p.c;
    A *dx = (A *)p.dx + at * p.c;
    double loss = 0;
    if (p.kind == TL__CU_CROSS_ENTROPY) {
        tlk_softmax s = tlk_softmax_of<A>(p, at);
        float log_sum = logf(s.sum), sum_q = 0;
        for (int k = 0; k < p.c; k++) {
            float q = ((1 - p.smoothing) * tlk_target(p, at, k) + p.smoothing / (float)p.c) * tlk_class_weight(p, k);
            if (q != 0) loss += (double)(q * (s.top + log_sum - tlk_get(x + k)));
            sum_q += q;
        }
        for (int k = 0; write && k < p.c; k++) {
            float q = ((1 - p.smoothing) * tlk_target(p, at, k) + p.smoothing / (float)p.c) * tlk_class_weight(p, k);
            tlk_put(dx + k, factor * (expf(tlk_get(x + k) - s.top) / s.sum * sum_q - q), p.add);
        }
        return loss;
    }
    if (p.kind == TL__CU_FOCAL && p.softmax) {
        tlk_softmax s = tlk_softmax_of<A>(p, at);
        int target = p.index[at];
        float rest = 0;
        for (int k = 0; k < p.c; k++) rest += k == target ? 0 : expf(tlk_get(x + k) - s.top) / s.sum;
        tlk_slope r = tlk_focal(rest, s.top + logf(s.sum) - tlk_get(x + target), p.gamma);
        for (int k = 0; write && k < p.c; k++)
            tlk_put(dx + k, factor * r.slope * ((float)(k == target) - expf(tlk_get(x + k) - s.top) / s.sum), p.add);
        return (double)r.value;
    }
    for (int k = 0; k < p.c; k++) {
        tlk_slope r = tlk_number_loss(p, tlk_get(x + k), tlk_target(p, at, k));
        loss += (double)r.value;
        if (write) tlk_put(dx + k, factor * r.slope, p.add);
    }
    return loss;
}

// Positions of a block: TL__CU_LOSS_RUN. p.partial[block]: sum, divisor.
template <typename A> TLK void tlk_loss_sums(const tl__cu_loss &p)
{
    tlk_warp_sums *s = tl_smem<tlk_warp_sums>();
    double sum = 0, divisor = 0;
    for (int i = 0; i < TL__CU_LOSS_RUN / TLK_THREADS; i++) {
        tlk_size at = (tlk_size)blockIdx.x * TL__CU_LOSS_RUN + (unsigned)i * TLK_THREADS + threadIdx.x;
        if (at >= p.positions || tlk_loss_skips(p, at)) continue;
        double weight = (double)tlk_position_weight(p, at);
        sum += weight * tlk_loss_at<A>(p, at, 0, 0);
        if (p.kind == TL__CU_CROSS_ENTROPY) divisor += weight * (p.index ? (double)tlk_class_weight(p, p.index[at]) : 1);
        else divisor += weight * (p.index ? 1 : (double)p.c);
    }
    sum = tlk_block_sum(sum, s);
    divisor = tlk_block_sum(divisor, s);
    if (threadIdx.x > 0) return;
    p.partial[2 * (tlk_size)blockIdx.x] = sum;
    p.partial[2 * (tlk_size)blockIdx.x + 1] = divisor;
}

// p.partial[block][class]: I, P, T.
template <typename A> TLK void tlk_dice_sums(const tl__cu_loss &p)
{
    enum { EACH = TL__CU_LOSS_RUN / TLK_THREADS };
    tlk_warp_sums *s = tl_smem<tlk_warp_sums>();
    tlk_softmax soft[EACH];
    tlk_size first = (tlk_size)blockIdx.x * TL__CU_LOSS_RUN + threadIdx.x;
    for (int i = 0; i < EACH; i++)
        if (p.softmax && first + (unsigned)i * TLK_THREADS < p.positions)
            soft[i] = tlk_softmax_of<A>(p, first + (unsigned)i * TLK_THREADS);
    for (int k = 0; k < p.c; k++) {
        double both = 0, sum_p = 0, sum_t = 0;
        for (int i = 0; i < EACH; i++) {
            tlk_size at = first + (unsigned)i * TLK_THREADS;
            if (at >= p.positions || tlk_loss_skips(p, at)) continue;
            float prob = tlk_probability<A>(p, soft[i], at, k), t = tlk_target(p, at, k);
            double weight = (double)tlk_position_weight(p, at);
            both += weight * (double)(prob < t ? prob : t);
            sum_p += weight * (double)prob;
            sum_t += weight * (double)t;
        }
        both = tlk_block_sum(both, s);
        sum_p = tlk_block_sum(sum_p, s);
        sum_t = tlk_block_sum(sum_t, s);
        double *to = p.partial + ((tlk_size)blockIdx.x * p.c + k) * 3;
        if (threadIdx.x == 0) { to[0] = both; to[1] = sum_p; to[2] = sum_t; }
    }
}

// Entry `slot` of `each` in the partial sums, added over the blocks.
TLK double tlk_loss_total(const tl__cu_loss &p, tlk_warp_sums *s, int slot, int each)
{
    double sum = 0;
    for (int block = (int)threadIdx.x; block < p.blocks; block += TLK_THREADS)
        sum += p.partial[(tlk_size)block * each + slot];
    return tlk_block_sum(sum, s);
}

// One block. p.factors: the factor of the gradient; Dice: a and b of each class.
TLK void tlk_loss_finish(const tl__cu_loss &p)
{
    tlk_warp_sums *s = tl_smem<tlk_warp_sums>();
    if (p.kind != TL__CU_DICE) {
        double sum = tlk_loss_total(p, s, 0, 2), divisor = tlk_loss_total(p, s, 1, 2);
        if (threadIdx.x == 0) {
            *p.value = divisor > 0 ? sum / divisor : 0;
            p.factors[0] = divisor > 0 ? (float)((double)p.scale / divisor) : 0;
        }
        return;
    }
    double loss = 0;
    for (int k = 0; k < p.c; k++) {
        double both = tlk_loss_total(p, s, 3 * k, 3 * p.c), sum_p = tlk_loss_total(p, s, 3 * k + 1, 3 * p.c);
        double sum_t = tlk_loss_total(p, s, 3 * k + 2, 3 * p.c), sum = sum_p + sum_t, least = 1e-7;
        int present = sum_t > 0, held = sum < least;            // held: a constant denominator, against division by 0
        double inverse = 1 / (held ? least : sum);
        if (present) loss += 1 - 2 * both * inverse;
        if (threadIdx.x > 0) continue;
        p.factors[k] = present ? -2 * (float)inverse / (float)p.c : 0;
        p.factors[p.c + k] = present && !held ? 2 * (float)(both * inverse * inverse) / (float)p.c : 0;
    }
    if (threadIdx.x == 0) *p.value = loss / p.c;
}

template <typename A> TLK void tlk_loss_gradient(const tl__cu_loss &p)
{
    tlk_size at = (tlk_size)blockIdx.x * TLK_THREADS + threadIdx.x;
    if (at >= p.positions) return;
    A *dx = (A *)p.dx + at * p.c;
    if (tlk_loss_skips(p, at)) {
        for (int k = 0; k < p.c; k++) tlk_put(dx + k, 0, p.add);
        return;
    }
    if (p.kind != TL__CU_DICE) {
        tlk_loss_at<A>(p, at, 1, p.factors[0] * tlk_position_weight(p, at));
        return;
    }
    tlk_softmax s = { 0, 1 };
    if (p.softmax) s = tlk_softmax_of<A>(p, at);
    float mean = 0, scale = p.scale * tlk_position_weight(p, at);
    for (int pass = 0; pass < 2; pass++)                        // the mean slope first, which softmax takes off
        for (int k = 0; k < p.c; k++) {
            float prob = tlk_probability<A>(p, s, at, k), t = tlk_target(p, at, k);
            float slope = p.factors[p.c + k] + p.factors[k] * (prob < t ? 1.0f : prob > t ? 0.0f : 0.5f);
            if (pass == 0) mean += prob * slope;
            else tlk_put(dx + k, scale * prob * (p.softmax ? slope - mean : slope * (1 - prob)), p.add);
        }
}

// ============================================================================================
// >>optim: from gradients to new parameters
//
//  The flat array of parameters is cut into pieces that belong to one tensor each; a block takes a piece. The norm of
//  the gradients needs all of them first, so there are three kernels: squares of each piece, their sum with the factor
//  of clipping, and the step. If the norm is not finite the step changes nothing, and the host finds out later.
//
//  p.state: norm, clipping factor, 1 if the step is made.
// ============================================================================================

TLK void tlk_step_norm(const tl__cu_step &p)
{
    tlk_warp_sums *s = tl_smem<tlk_warp_sums>();
    tl__cu_piece piece = p.pieces[blockIdx.x];
    double sum = 0;
    for (int i = (int)threadIdx.x; i < piece.count && !p.rates[piece.tensor].frozen; i += TLK_THREADS) {
        double g = (double)p.gradients[piece.at + i];
        sum += g * g;
    }
    sum = tlk_block_sum(sum, s);
    if (threadIdx.x == 0) p.partial[blockIdx.x] = sum;
}

TLK void tlk_step_scale(const tl__cu_step &p)
{
    tlk_warp_sums *s = tl_smem<tlk_warp_sums>();
    double sum = 0;
    for (int i = (int)threadIdx.x; i < p.piece_count; i += TLK_THREADS) sum += p.partial[i];
    double norm = sqrt(tlk_block_sum(sum, s)), clip = (double)p.clip_norm;
    if (threadIdx.x > 0) return;
    p.state[0] = norm;
    p.state[1] = clip > 0 && clip < norm + 1e-6 ? clip / (norm + 1e-6) : 1;
    p.state[2] = norm - norm == 0 ? 1 : 0;
}

TLK void tlk_step_update(const tl__cu_step &p)
{
    tl__cu_piece piece = p.pieces[blockIdx.x];
    tl__cu_rates r = p.rates[piece.tensor];
    float scale = (float)p.state[1];
    if (r.frozen || p.state[2] == 0) return;
    for (int i = (int)threadIdx.x; i < piece.count; i += TLK_THREADS) {
        tlk_size at = piece.at + i;
        float v = p.parameters[at], g = scale * p.gradients[at] + r.decay * v, m = 0, q = 0;
        if (p.first) m = p.first[at];
        if (p.second) q = p.second[at];
        switch (p.kind) {
        case TL__CU_SGD:
            if (!p.first) { v -= r.lr * g; break; }
            m = r.momentum * m + r.gain * g;
            v -= r.lr * (r.from_g * g + r.from_b * m);
            break;
        case TL__CU_ADAGRAD:
            m += g * g;
            v -= r.lr * g / (sqrtf(m) + r.eps);
            break;
        case TL__CU_RMSPROP:                                    // m is the mean square, q the momentum
            m = r.beta2 * m + r.rest2 * g * g;
            g = g / (sqrtf(m) + r.eps);
            if (p.second) { q = r.momentum * q + g; g = q; }
            v -= r.lr * g;
            break;
        case TL__CU_ADAM:
            m = r.beta1 * m + r.rest1 * g;
            q = r.beta2 * q + r.rest2 * g * g;
            v = r.keep * v - r.lr * r.debias1 * m / (sqrtf(q) * r.debias2 + r.eps);
            break;
        default: {                                              // Lion
            float c = r.beta1 * m + r.rest1 * g;
            v = r.keep * v - r.lr * ((float)(c > 0) - (float)(c < 0));
            m = r.beta2 * m + r.rest2 * g;
            break;
        }
        }
        p.parameters[at] = v;
        if (p.first) p.first[at] = m;
        if (p.second) p.second[at] = q;
    }
}

// ============================================================================================
// >>augment: batches that are made here, the same values as on the CPU
//
//  The host draws the numbers that belong to a whole image (an angle, a strength) and sends the piece of the image that
//  the window needs, as bytes; a thread then makes one pixel of the window: it asks the map where the pixel comes from,
//  reads the four around that place and does the steps on grey values one after the other. Every function has the
//  formulas and the order of the operations of its namesake in tinytl.h; numbers that belong to a pixel have the same
//  address in the generator. What remains is the rounding of logarithm, root, sine and of fused multiply-adds.
// ============================================================================================

TLK float *tlk_lattice(const tl__cu_views &p, const tl__cu_view &v, int k)
{
    return p.lattices + (2 * ((tlk_size)v.map * p.samples + v.number) + k) * p.nodes;
}

TLK char *tlk_room(const tl__cu_views &p, const tl__cu_view &v) { return (char *)p.rooms + (tlk_size)v.number * p.room; }

// Makes the lattices of displacements. blockIdx: nodes, direction, sample.
TLK void tlk_view_lattice(const tl__cu_views &p)
{
    const tl__cu_view &v = p.views[blockIdx.z];
    int i = (int)(blockIdx.x * TLK_THREADS + threadIdx.x), k = (int)blockIdx.y;
    if (v.waves != 1 || i >= v.rows * v.columns) return;
    unsigned node = (unsigned)(v.first_row * v.columns + i), counter[4], bits[4];
    for (int e = 0; e < 4; e++) counter[e] = v.wave_counter[k][e];
    counter[0] += node / 4;                                     // four bits of a block make four deviates, in pairs
    tlk_philox(counter, v.wave_key, bits);
    unsigned first = node % 4 / 2 * 2;
    float radius = sqrtf(-2.0f * logf(((float)bits[first] + 1.0f) * (1.0f / 4294967296.0f)));
    float angle = 6.2831853f * ((float)bits[first + 1] * (1.0f / 4294967296.0f));
    tlk_lattice(p, v, k)[i] = radius * (node % 2 ? sinf(angle) : cosf(angle));
}

TLK void tlk_spline(float t, float w[4])
{
    float s = 1 - t;
    w[0] = s * s * s / 6;
    w[1] = (4 - 6 * t * t + 3 * t * t * t) / 6;
    w[2] = (4 - 6 * s * s + 3 * s * s * s) / 6;
    w[3] = t * t * t / 6;
}

// The displacement at a pixel of the canvas.
TLK float tlk_wave(const tl__cu_views &p, const tl__cu_view &v, int k, int x, int y)
{
    if (v.waves == 2) return ((const float *)(tlk_room(p, v) + v.lines))[k * v.canvas_h + y];
    float at_x = (float)(v.canvas_x + x) / v.spacing, at_y = (float)(v.canvas_y + y) / v.spacing, wx[4], wy[4], line[4];
    float column = floorf(at_x), row = floorf(at_y);
    tlk_spline(at_x - column, wx);
    tlk_spline(at_y - row, wy);
    const float *node = tlk_lattice(p, v, k) + ((int)row - v.first_row) * v.columns + (int)column;
    for (int c = 0; c < 4; c++)
        line[c] = (wy[0] * node[c] + wy[1] * node[v.columns + c] + wy[2] * node[2 * v.columns + c] +
                   wy[3] * node[3 * v.columns + c]) * (315.0f / 151.0f);
    float wave = line[0] * wx[0] + line[1] * wx[1] + line[2] * wx[2] + line[3] * wx[3];
    return v.way[k] * (wave < -5 ? -5.0f : wave > 5 ? 5.0f : wave);
}

struct tlk_point {
    double x, y;
};

TLK tlk_point tlk_transform(const double m[9], double x, double y)
{
    double w = m[6] * x + m[7] * y + m[8];
    if (w > -1e-9 && w < 1e-9) w = w < 0 ? -1e-9 : 1e-9;
    tlk_point to = { (m[0] * x + m[1] * y + m[2]) / w, (m[3] * x + m[4] * y + m[5]) / w };
    return to;
}

TLK double tlk_clamp(double v, double lo, double hi) { return v < lo ? lo : v > hi ? hi : v; }

// Where (x, y) comes from.
TLK tlk_point tlk_source(const tl__cu_views &p, const tl__cu_view &v, double x, double y)
{
    tlk_point q = tlk_transform(v.b, x, y);
    if (!v.waves) return tlk_transform(v.a, q.x, q.y);
    double in_x = tlk_clamp(q.x, 0, v.canvas_w - 1), in_y = tlk_clamp(q.y, 0, v.canvas_h - 1), u[2];
    int ix = tlk_min((int)in_x, tlk_max(v.canvas_w - 2, 0)), iy = tlk_min((int)in_y, tlk_max(v.canvas_h - 2, 0));
    int right = v.canvas_w > 1, below = v.canvas_h > 1;
    double fx = in_x - ix, fy = in_y - iy;
    for (int k = 0; k < 2; k++) {
        double u00 = (double)tlk_wave(p, v, k, ix, iy), u10 = (double)tlk_wave(p, v, k, ix, iy + below);
        double top = u00 + fx * ((double)tlk_wave(p, v, k, ix + right, iy) - u00);
        double bottom = u10 + fx * ((double)tlk_wave(p, v, k, ix + right, iy + below) - u10);
        u[k] = top + fy * (bottom - top);
    }
    return tlk_transform(v.a, q.x + u[0], q.y + u[1]);
}

TLK int tlk_affine(const double m[9]) { return m[6] == 0 && m[7] == 0 && m[8] == 1; }

// A place in the image as whole numbers and rests; `half`: of the nearest pixel. The CPU goes in runs of 64 pixels, and
// counts from the place of the middle one, so that no digits are lost; this does, too.
struct tlk_spot {
    int   left, top;
    float u, v;
};

TLK tlk_spot tlk_locate_pixel(const tl__cu_views &p, const tl__cu_view &v, int x, int y, float half)
{
    const double *a = v.a, *b = v.b;
    int run = x / 64 * 64, count = tlk_min(v.out_w - run, 64), i = x - run;
    tlk_point middle = tlk_source(p, v, run + count / 2, y);
    int x0 = (int)floor(tlk_clamp(middle.x, -1e8, 1e8)), y0 = (int)floor(tlk_clamp(middle.y, -1e8, 1e8));
    int plain = tlk_affine(b) && b[0] == 1 && b[1] == 0 && b[3] == 0 && b[4] == 1 && tlk_affine(a);
    int on_canvas = b[2] == floor(b[2]) && b[5] == floor(b[5]) && run + b[2] >= 0 && y + b[5] >= 0 &&
                    run + b[2] + count <= v.canvas_w && y + b[5] < v.canvas_h;
    float px, py;
    if (!plain || (v.waves && !on_canvas)) {
        tlk_point at = tlk_source(p, v, x, y);
        px = (float)tlk_clamp(at.x - x0, -1e6, 1e6);
        py = (float)tlk_clamp(at.y - y0, -1e6, 1e6);
    } else {
        double begin_x = run + b[2], begin_y = y + b[5];
        px = (float)(a[0] * begin_x + a[1] * begin_y + a[2] - x0) + (float)a[0] * (float)i;
        py = (float)(a[3] * begin_x + a[4] * begin_y + a[5] - y0) + (float)a[3] * (float)i;
        if (v.waves) {
            float dx = tlk_wave(p, v, 0, (int)begin_x + i, (int)begin_y);
            float dy = tlk_wave(p, v, 1, (int)begin_x + i, (int)begin_y);
            px += (float)a[0] * dx + (float)a[1] * dy;
            py += (float)a[3] * dx + (float)a[4] * dy;
        }
    }
    px += half;
    py += half;
    tlk_spot spot = { (int)px, (int)py, 0, 0 };
    spot.left -= (float)spot.left > px;
    spot.top -= (float)spot.top > py;
    spot.u = px - (float)spot.left;
    spot.v = py - (float)spot.top;
    spot.left += x0;
    spot.top += y0;
    return spot;
}

TLK int tlk_mirror(int i, int size)
{
    int period = 2 * size - 2;
    if (i >= 0 && i < size) return i;
    if (period == 0) return 0;
    i = (i % period + period) % period;
    return i < size ? i : period - i;
}

// 0 reflect, 1 wrap, 2 constant: -1 outside.
TLK int tlk_border(int i, int n, int border)
{
    if (i >= 0 && i < n) return i;
    if (border == 2) return -1;
    return border == 1 ? (i % n + n) % n : tlk_mirror(i, n);
}

// A value of the image, or what lies around it.
TLK float tlk_view_pixel(const tl__cu_views &p, const tl__cu_view &v, int x, int y, int c)
{
    const char *pixels = tlk_room(p, v) + v.pixels;
    x = tlk_border(x, v.width, v.border);
    y = tlk_border(y, v.height, v.border);
    if (x < 0 || y < 0) return v.fill;
    tlk_size at = ((tlk_size)y * v.width + x) * p.c + c;
    return v.floats ? ((const float *)pixels)[at] : (float)((const unsigned char *)pixels)[at] / 255.0f;
}

TLK float tlk_unit(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }

TLK void tlk_cubic(float t, float w[4])
{
    float s = 1 - t;
    w[0] = -0.5f * t * s * s;
    w[1] = 1 + t * t * (1.5f * t - 2.5f);
    w[2] = 1 + s * s * (1.5f * s - 2.5f);
    w[3] = -0.5f * s * t * t;
}

TLK float tlk_sample(const tl__cu_views &p, const tl__cu_view &v, const tlk_spot &at, int c)
{
    if (v.bicubic) {
        float wx[4], wy[4], sum = 0;
        tlk_cubic(at.u, wx);
        tlk_cubic(at.v, wy);
        for (int j = 0; j < 4; j++)
            for (int i = 0; i < 4; i++) sum += wy[j] * wx[i] * tlk_view_pixel(p, v, at.left - 1 + i, at.top - 1 + j, c);
        return tlk_unit(sum);
    }
    float a0 = tlk_view_pixel(p, v, at.left, at.top, c), b0 = tlk_view_pixel(p, v, at.left + 1, at.top, c);
    float a1 = tlk_view_pixel(p, v, at.left, at.top + 1, c), b1 = tlk_view_pixel(p, v, at.left + 1, at.top + 1, c);
    float top = a0 + at.u * (b0 - a0), bottom = a1 + at.u * (b1 - a1);
    return top + at.v * (bottom - top);
}

// tl__ln, tl__exp_minus, tl__turn_of: series that every processor computes alike.
TLK float tlk_ln(float x)
{
    tlk_word word;
    word.f = x;
    int bits = (int)word.u, e = (bits - 0x3F3504F3) >> 23;
    float m = tlk_float((unsigned)(bits - e * 0x800000)), s = (m - 1) / (m + 1), z = s * s;
    return (float)e * 0.69314718f + s * (2 + z * (0.66666667f + z * (0.4f + z * (0.28571429f + z * 0.22222222f))));
}

TLK float tlk_exp_minus(float x)
{
    x = x < 87 ? x : 87;
    int k = (int)(x * 1.44269504f + 0.5f);
    float r = (float)k * 0.693359375f - x - (float)k * 2.12194440e-4f;
    float e = 1 + r * (1 + r * (0.5f + r * (1 / 6.0f + r * (1 / 24.0f + r * (1 / 120.0f + r * (1 / 720.0f))))));
    return e * tlk_float((unsigned)(127 - k) << 23);
}

TLK float tlk_power(float x, float gamma)
{
    float power = tlk_exp_minus(-gamma * tlk_ln(x > 1e-30f ? x : 1e-30f));
    return x > 0 ? (power < 1 ? power : 1) : 0;
}

TLK void tlk_turn(float t, float *cosine, float *sine)
{
    int q = (int)(4 * t + 0.5f);
    float r = (t - 0.25f * (float)q) * 6.2831853f, z = r * r;
    float s = r * (1 + z * (-1 / 6.0f + z * (1 / 120.0f + z * (-1 / 5040.0f + z * (1 / 362880.0f)))));
    float c = 1 + z * (-0.5f + z * (1 / 24.0f + z * (-1 / 720.0f + z * (1 / 40320.0f + z * (-1 / 3628800.0f)))));
    float cc = q & 1 ? s : c, ss = q & 1 ? c : s;
    *cosine = (q + 1) & 2 ? -cc : cc;
    *sine = q & 2 ? -ss : ss;
}

// Number i of the noise: 64 blocks of four bits make 256 deviates.
TLK float tlk_noise(const unsigned start[4], const unsigned key[2], tlk_size i)
{
    int k = (int)(i % 256), half = k / 128, turn = k / 64 % 2;
    unsigned counter[4] = { start[0] + (unsigned)(i / 256) * 64 + (unsigned)(k % 64), start[1], start[2], start[3] }, bits[4];
    float c, s;
    tlk_philox(counter, key, bits);
    float radius = sqrtf(-2 * tlk_ln((float)((int)(bits[2 * half] >> 8) + 1) * (1.0f / 16777216.0f)));
    tlk_turn((float)(int)(bits[2 * half + 1] >> 8) * (1.0f / 16777216.0f), &c, &s);
    return radius * (turn ? s : c);
}

// Channel c of a pixel that a map makes.
TLK float tlk_view_value(const tl__cu_views &p, const tl__cu_view &v, const tlk_spot &at, int x, int y, int c)
{
    float value = tlk_sample(p, v, at, c);
    for (int i = 0; i < v.steps; i++) {
        float gain = v.step[i].gain, shift = v.step[i].shift;
        if (v.step[i].kind == TL__CU_POWER) { value = tlk_power(value, gain); continue; }
        if (v.step[i].kind == TL__CU_NOISE) {
            gain = 1;
            shift *= tlk_noise(v.step[i].counter, v.step[i].key, ((tlk_size)y * v.out_w + x) * p.c + c);
        }
        value = tlk_unit(value * gain + shift);
    }
    return value;
}

// Masks are never interpolated. 255: unknown, TL_IGNORE.
TLK int tlk_view_mask(const tl__cu_views &p, const tl__cu_view &v, int x, int y)
{
    tlk_spot at = tlk_locate_pixel(p, v, x, y, 0.5f);
    int border = v.ignore ? 2 : v.border;
    int left = tlk_border(at.left, v.width, border), top = tlk_border(at.top, v.height, border);
    return left < 0 || top < 0 ? 255 : ((const unsigned char *)tlk_room(p, v) + v.mask)[top * v.width + left];
}

// A map before the last. blockIdx: pixels, sample.
TLK void tlk_view_map(const tl__cu_views &p)
{
    const tl__cu_view &v = p.views[blockIdx.y];
    int pixel = (int)(blockIdx.x * TLK_THREADS + threadIdx.x);
    if (pixel >= v.out_w * v.out_h) return;
    int x = pixel % v.out_w, y = pixel / v.out_w;
    tlk_spot at = tlk_locate_pixel(p, v, x, y, 0);
    float *to = (float *)(tlk_room(p, v) + v.to_pixels) + (tlk_size)pixel * p.c;
    for (int c = 0; c < p.c; c++) to[c] = tlk_view_value(p, v, at, x, y, c);
    if (v.masked) ((unsigned char *)tlk_room(p, v) + v.to_mask)[pixel] = (unsigned char)tlk_view_mask(p, v, x, y);
}

// The input.
template <typename A> TLK void tlk_view_input(const tl__cu_views &p)
{
    const tl__cu_view &v = p.views[blockIdx.y];
    int pixel = (int)(blockIdx.x * TLK_THREADS + threadIdx.x);
    if (pixel >= p.h * p.w) return;
    int x = tlk_mirror(pixel % p.w, v.out_w), y = tlk_mirror(pixel / p.w, v.out_h);
    tlk_spot at = tlk_locate_pixel(p, v, x, y, 0);
    for (int k = 0; k < p.c; k++) {
        float value = tlk_view_value(p, v, at, x, y, v.bgr && p.c == 3 ? 2 - k : k);
        if (!(value - value == 0)) value = 0;
        tlk_set((A *)p.out + ((tlk_size)v.number * p.h * p.w + pixel) * p.c + k,
                (value - v.mean[tlk_min(k, 3)]) * v.inverse[tlk_min(k, 3)]);
    }
}

// Class indices: of the mask, or of the sample. -1: does not count.
TLK void tlk_view_targets(const tl__cu_views &p)
{
    const tl__cu_view &v = p.views[blockIdx.y];
    int pixel = (int)(blockIdx.x * TLK_THREADS + threadIdx.x), target = v.label;
    if (pixel >= p.h * p.w) return;
    if (p.masks) target = tlk_view_mask(p, v, tlk_mirror(pixel % p.w, v.out_w), tlk_mirror(pixel / p.w, v.out_h));
    ((int *)p.out)[(tlk_size)v.number * p.h * p.w + pixel] = p.masks && target == 255 ? -1 : target;
}

// ---- entry points --------------------------------------------------------------------------

// Blocks that a processor must have room for. Of the convolutions two, which leaves a thread 128 registers: left to itself
// the compiler spills some of them for a fourth block. 0: as the compiler likes.
template <typename P> struct tlk_least_blocks { enum { COUNT = 0 }; };
template <> struct tlk_least_blocks<tl__cu_conv> { enum { COUNT = 2 }; };
#define TLK_BOUNDS(P) __launch_bounds__(TLK_THREADS, tlk_least_blocks<tl__cu_##P>::COUNT)
#define TLK_ENTRY(name, P) \
    extern "C" __global__ void TLK_BOUNDS(P) tl_cuda_##name(tl__cu_##P p) { tlk_##name(p); }
#define TLK_ENTRIES(name, P)                                                                                         \
    extern "C" __global__ void TLK_BOUNDS(P) tl_cuda_##name##_f32(tl__cu_##P p)                                      \
    {                                                                                                                \
        tlk_##name<float>(p);                                                                                        \
    }                                                                                                                \
    extern "C" __global__ void TLK_BOUNDS(P) tl_cuda_##name##_bf16(tl__cu_##P p)                                     \
    {                                                                                                                \
        tlk_##name<tlk_bf16>(p);                                                                                     \
    }
TL__CU_TYPED(TLK_ENTRIES)
TL__CU_FLOAT(TLK_ENTRY)

#endif // kernels

// ============================================================================================
//  HOST
// ============================================================================================

#ifndef __CUDACC_RTC__

// Kernels by number: of the typed ones the next number is the bf16 version.
#define TL__CU_ID2(name, P) TL__CU_##name, TL__CU_##name##_bf16,
#define TL__CU_ID(name, P) TL__CU_##name,
enum { TL__CU_TYPED(TL__CU_ID2) TL__CU_FLOAT(TL__CU_ID) TL__CU_KERNELS };

#define TL__CU_NAME2(name, P) #name, #name " (bf16)",
#define TL__CU_NAME(name, P) #name,
static const char *const tl__cu_names[] = { TL__CU_TYPED(TL__CU_NAME2) TL__CU_FLOAT(TL__CU_NAME) };

// ---- the driver: all that is asked of CUDA. Functions return 0 or a code that `error` knows. ------------------------

typedef struct tl__cu_info {
    char   name[96];
    int    major, minor;                // compute capability
    size_t memory, free, shared;        // bytes; shared: that one block may have
} tl__cu_info;

enum { TL__CU_TO_DEVICE, TL__CU_TO_HOST };

typedef struct tl__cu_driver {
    const char *(*error)(int code);
    int  (*open)(int device, void **self);
    void (*close)(void *self);
    int  (*info)(void *self, tl__cu_info *info);
    int  (*alloc)(void *self, void **p, size_t bytes);
    int  (*alloc_host)(void *self, void **p, size_t bytes);         // pinned
    void (*release)(void *self, void *p);
    void (*release_host)(void *self, void *p);
    // In the order of the calls, and after the call has returned:
    int  (*copy)(void *self, void *to, const void *from, size_t bytes, int direction);
    int  (*clear)(void *self, void *p, size_t bytes);
    int  (*launch)(void *self, int kernel, const unsigned grid[3], size_t shared, const void *params);
    int  (*wait)(void *self);
    // Records what follows instead of doing it; run_graph does it.
    int  (*begin_graph)(void *self);
    int  (*end_graph)(void *self, void **graph);
    int  (*run_graph)(void *self, void *graph);
    void (*release_graph)(void *self, void *graph);
    // Several GPUs: arrays of the same size, one on each, become their mean.
    int  (*join)(void *const *selves, int count, void **ring);
    int  (*average)(void *ring, float *const *arrays, size_t values);
    void (*part)(void *ring);
} tl__cu_driver;

#if defined(TL_CUDA_EMULATOR)

static const tl__cu_driver *tl__cu_the_driver(void);         // tests/emulator_driver.h

#elif defined(__CUDACC__) || (defined(__linux__) && defined(__GNUC__))

#if defined(__linux__)
    #include <dlfcn.h>
#endif
#if defined(__CUDACC__)
    #include <cuda_runtime.h>
#endif

// What failed without a code of CUDA: the codes below 0.
static TL__THREAD_LOCAL char tl__cu_said[TL__ERROR_MAX];

static int tl__cu_say(const char *format, ...) TL__PRINTF(1);
static int tl__cu_say(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(tl__cu_said, sizeof tl__cu_said, format, args);
    va_end(args);
    return -1;
}

// ---- libraries that are looked for at run time: nobody has to link with them ---------------

// The first of a list of names, divided by spaces, that can be opened; NULL and a sentence if there is none.
static void *tl__cu_library(const char *names, const char *what)
{
    const char *at = names;
    char name[256];
    while (sscanf(at, "%255s", name) == 1) {
#if defined(__linux__)
        void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
        if (library) return library;
#endif
        at = strstr(at, name) + strlen(name);
    }
    tl__cu_say("%s is not installed (looked for %s)", what, names);
    return NULL;
}

// Function pointers of a struct, in the order of the names; 0 if all are there.
static int tl__cu_functions(void *library, const char *const *names, int count, void *functions)
{
    for (int i = 0; i < count; i++) {
        void *address = NULL;
#if defined(__linux__)
        address = dlsym(library, names[i]);
#endif
        if (!address) return tl__cu_say("a library has no function %s; it is too old", names[i]);
        memcpy((char *)functions + (size_t)i * sizeof address, &address, sizeof address);     // C has no cast for this
    }
    return 0;
}

static void tl__cu_unload(void *library)
{
#if defined(__linux__)
    if (library) dlclose(library);
#else
    (void)library;
#endif
}

#define TL__CU_MEMBER(name, arguments) int (*name) arguments;
#define TL__CU_WORD(name, arguments) #name,

// ---- several GPUs: NCCL --------------------------------------------------------------------

static int tl__cu_number_of(void *self);
static void *tl__cu_queue_of(void *self);                    // its stream

#define TL__CU_NCCL(F)                                                                                            \
    F(ncclCommInitAll, (void **rings, int count, const int *devices))                                             \
    F(ncclAllReduce, (const void *from, void *to, size_t count, int type, int how, void *ring, void *stream))     \
    F(ncclGroupStart, (void)) F(ncclGroupEnd, (void)) F(ncclCommDestroy, (void *ring))

typedef struct tl__cu_ring {
    struct { TL__CU_NCCL(TL__CU_MEMBER) } nccl;
    void *library;
    int   count;
    void *rings[TL_CUDA_GPUS], *selves[TL_CUDA_GPUS];
} tl__cu_ring;

static void tl__cu_part_ring(void *ring_)
{
    tl__cu_ring *ring = (tl__cu_ring *)ring_;
    for (int i = 0; i < ring->count; i++)
        if (ring->rings[i]) ring->nccl.ncclCommDestroy(ring->rings[i]);
    tl__cu_unload(ring->library);
    tl__free(ring);
}

static int tl__cu_join_ring(void *const *selves, int count, void **out)
{
    static const char *const names[] = { TL__CU_NCCL(TL__CU_WORD) };
    int devices[TL_CUDA_GPUS], code = 0;
    tl__cu_ring *ring = (tl__cu_ring *)tl__alloc(1, sizeof *ring);
    if (!ring) return tl__cu_say("no memory");
    ring->library = tl__cu_library("libnccl.so.2 libnccl.so", "NCCL");
    if (!ring->library) code = -1;
    if (!code) code = tl__cu_functions(ring->library, names, (int)(sizeof names / sizeof *names), &ring->nccl);
    for (int i = 0; i < count && !code; i++) {
        devices[i] = tl__cu_number_of(selves[i]);
        ring->selves[i] = selves[i];
    }
    if (!code && (code = ring->nccl.ncclCommInitAll(ring->rings, count, devices)) != 0)
        code = tl__cu_say("NCCL cannot join the GPUs: its error %d", code);
    if (!code) ring->count = count;
    if (code) tl__cu_part_ring(ring);
    else *out = ring;
    return code;
}

static int tl__cu_average_ring(void *ring_, float *const *arrays, size_t values)
{
    tl__cu_ring *ring = (tl__cu_ring *)ring_;
    enum { FLOAT = 7, MEAN = 4 };                            // ncclFloat32, ncclAvg
    int code = ring->nccl.ncclGroupStart(), end;
    for (int i = 0; i < ring->count && !code; i++)
        code = ring->nccl.ncclAllReduce(arrays[i], arrays[i], values, FLOAT, MEAN, ring->rings[i],
                                        tl__cu_queue_of(ring->selves[i]));
    end = ring->nccl.ncclGroupEnd();
    if (!code) code = end;
    return code ? tl__cu_say("NCCL cannot sum the gradients: its error %d", code) : 0;
}

// ---- compiled by nvcc: the runtime of the toolkit ------------------------------------------

#if defined(__CUDACC__)

#define TL__CU_ADDRESS2(name, P) (const void *)tl_cuda_##name##_f32, (const void *)tl_cuda_##name##_bf16,
#define TL__CU_ADDRESS(name, P) (const void *)tl_cuda_##name,
static const void *const tl__cu_addresses[] = { TL__CU_TYPED(TL__CU_ADDRESS2) TL__CU_FLOAT(TL__CU_ADDRESS) };

typedef struct tl__cu_runtime {
    int          device;
    cudaStream_t stream;
} tl__cu_runtime;

// Of the device, which is chosen for this thread.
static cudaStream_t tl__cu_stream(void *self)
{
    cudaSetDevice(((tl__cu_runtime *)self)->device);
    return ((tl__cu_runtime *)self)->stream;
}

static int tl__cu_number_of(void *self) { return ((tl__cu_runtime *)self)->device; }
static void *tl__cu_queue_of(void *self) { return (void *)tl__cu_stream(self); }
static const char *tl__cu_rt_error(int code) { return code < 0 ? tl__cu_said : cudaGetErrorString((cudaError_t)code); }

static int tl__cu_rt_open(int device, void **self)
{
    tl__cu_runtime *runtime = (tl__cu_runtime *)tl__alloc(1, sizeof *runtime);
    cudaError_t code = runtime ? cudaSetDevice(device) : cudaErrorMemoryAllocation;
    if (code == cudaSuccess) code = cudaStreamCreateWithFlags(&runtime->stream, cudaStreamNonBlocking);
    if (code != cudaSuccess) {
        tl__free(runtime);
        return (int)code;
    }
    runtime->device = device;
    *self = runtime;
    return 0;
}

static void tl__cu_rt_close(void *self)
{
    cudaStreamDestroy(tl__cu_stream(self));
    tl__free(self);
}

static int tl__cu_rt_info(void *self, tl__cu_info *info)
{
    int device = ((tl__cu_runtime *)self)->device, shared = 0;
    struct cudaDeviceProp properties;
    cudaError_t code = cudaSetDevice(device);
    if (code == cudaSuccess) code = cudaGetDeviceProperties(&properties, device);
    if (code == cudaSuccess) code = cudaMemGetInfo(&info->free, &info->memory);
    if (code == cudaSuccess) code = cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (code != cudaSuccess) return (int)code;
    snprintf(info->name, sizeof info->name, "%s", properties.name);
    info->major = properties.major;
    info->minor = properties.minor;
    info->shared = (size_t)shared;
    return 0;
}

static int tl__cu_rt_alloc(void *self, void **p, size_t bytes)
{
    (void)tl__cu_stream(self);
    return (int)cudaMalloc(p, bytes);
}

static int tl__cu_rt_alloc_host(void *self, void **p, size_t bytes)
{
    (void)self;
    return (int)cudaMallocHost(p, bytes);
}

static void tl__cu_rt_release(void *self, void *p)
{
    (void)self;
    cudaFree(p);
}

static void tl__cu_rt_release_host(void *self, void *p)
{
    (void)self;
    cudaFreeHost(p);
}

static int tl__cu_rt_copy(void *self, void *to, const void *from, size_t bytes, int direction)
{
    enum cudaMemcpyKind kind = direction == TL__CU_TO_DEVICE ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost;
    return (int)cudaMemcpyAsync(to, from, bytes, kind, tl__cu_stream(self));
}

static int tl__cu_rt_clear(void *self, void *p, size_t bytes)
{
    return (int)cudaMemsetAsync(p, 0, bytes, tl__cu_stream(self));
}

static int tl__cu_rt_launch(void *self, int kernel, const unsigned grid[3], size_t shared, const void *params)
{
    void *arguments[1];
    arguments[0] = (void *)(size_t)params;
    cudaError_t code = cudaSuccess;
    if (shared > 48 * 1024)                     // more must be asked for
        code = cudaFuncSetAttribute(tl__cu_addresses[kernel], cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (code == cudaSuccess)
        code = cudaLaunchKernel(tl__cu_addresses[kernel], dim3(grid[0], grid[1], grid[2]), dim3(TLK_THREADS), arguments,
                                shared, tl__cu_stream(self));
    return (int)code;
}

static int tl__cu_rt_wait(void *self) { return (int)cudaStreamSynchronize(tl__cu_stream(self)); }

static int tl__cu_rt_begin_graph(void *self)
{
    return (int)cudaStreamBeginCapture(tl__cu_stream(self), cudaStreamCaptureModeThreadLocal);
}

static int tl__cu_rt_end_graph(void *self, void **graph)
{
    cudaGraph_t captured = NULL;
    cudaGraphExec_t ready = NULL;
    cudaError_t code = cudaStreamEndCapture(tl__cu_stream(self), &captured);
    if (code == cudaSuccess) code = cudaGraphInstantiateWithFlags(&ready, captured, 0);
    if (captured) cudaGraphDestroy(captured);
    *graph = (void *)ready;
    return (int)code;
}

static int tl__cu_rt_run_graph(void *self, void *graph)
{
    return (int)cudaGraphLaunch((cudaGraphExec_t)graph, tl__cu_stream(self));
}

static void tl__cu_rt_release_graph(void *self, void *graph)
{
    (void)self;
    cudaGraphExecDestroy((cudaGraphExec_t)graph);
}

static const tl__cu_driver *tl__cu_the_driver(void)
{
    static const tl__cu_driver driver = {
        tl__cu_rt_error,       tl__cu_rt_open,         tl__cu_rt_close, tl__cu_rt_info,   tl__cu_rt_alloc,
        tl__cu_rt_alloc_host,  tl__cu_rt_release,      tl__cu_rt_release_host,            tl__cu_rt_copy,
        tl__cu_rt_clear,       tl__cu_rt_launch,       tl__cu_rt_wait,  tl__cu_rt_begin_graph,
        tl__cu_rt_end_graph,   tl__cu_rt_run_graph,    tl__cu_rt_release_graph,
        tl__cu_join_ring,      tl__cu_average_ring,    tl__cu_part_ring
    };
    return &driver;
}

// ---- compiled by any compiler: the driver, and NVRTC to compile the kernels ------------------
//
//  A program that was built without the CUDA toolkit carries the text of this file. It finds the driver (libcuda.so.1)
//  and the compiler library (libnvrtc) at run time, compiles the text for the GPU that is there, and keeps the result in
//  a folder: TINYTL_CUDA_CACHE, or ~/.cache/tinytl; an empty TINYTL_CUDA_CACHE keeps nothing. TINYTL_NVRTC names a
//  library elsewhere, as in a Python package.

#else

#include <sys/types.h>

__asm__(".pushsection .rodata\n"
        ".weak tl__cu_text\n"                                   // one for all files that have the implementation
        ".hidden tl__cu_text\n"
        "tl__cu_text:\n"
        ".incbin \"" __FILE__ "\"\n"
        ".byte 0\n"
        ".popsection\n");
#ifdef __cplusplus
extern "C"
#else
extern
#endif
const char tl__cu_text[];

typedef unsigned long long tl__cu_address;

#define TL__CU_CUDA(F)                                                                                             \
    F(cuInit, (unsigned flags)) F(cuGetErrorString, (int code, const char **text))                                 \
    F(cuDeviceGet, (int *device, int number)) F(cuDeviceGetName, (char *name, int size, int device))               \
    F(cuDeviceGetAttribute, (int *value, int attribute, int device))                                               \
    F(cuDevicePrimaryCtxRetain, (void **context, int device)) F(cuDevicePrimaryCtxRelease_v2, (int device))        \
    F(cuCtxSetCurrent, (void *context)) F(cuMemGetInfo_v2, (size_t *free, size_t *total))                          \
    F(cuMemAlloc_v2, (tl__cu_address *p, size_t bytes)) F(cuMemFree_v2, (tl__cu_address p))                        \
    F(cuMemAllocHost_v2, (void **p, size_t bytes)) F(cuMemFreeHost, (void *p))                                     \
    F(cuMemcpyHtoDAsync_v2, (tl__cu_address to, const void *from, size_t bytes, void *stream))                     \
    F(cuMemcpyDtoHAsync_v2, (void *to, tl__cu_address from, size_t bytes, void *stream))                           \
    F(cuMemsetD8Async, (tl__cu_address to, unsigned char value, size_t bytes, void *stream))                       \
    F(cuStreamCreate, (void **stream, unsigned flags)) F(cuStreamDestroy_v2, (void *stream))                       \
    F(cuStreamSynchronize, (void *stream)) F(cuModuleLoadData, (void **module, const void *image))                 \
    F(cuModuleUnload, (void *module)) F(cuModuleGetFunction, (void **function, void *module, const char *name))    \
    F(cuFuncSetAttribute, (void *function, int attribute, int value))                                              \
    F(cuLaunchKernel, (void *function, unsigned x, unsigned y, unsigned z, unsigned block_x, unsigned block_y,     \
                       unsigned block_z, unsigned shared, void *stream, void **arguments, void **extra))           \
    F(cuStreamBeginCapture_v2, (void *stream, int mode)) F(cuStreamEndCapture, (void *stream, void **graph))       \
    F(cuGraphInstantiateWithFlags, (void **ready, void *graph, unsigned long long flags))                          \
    F(cuGraphLaunch, (void *ready, void *stream)) F(cuGraphDestroy, (void *graph)) F(cuGraphExecDestroy, (void *ready))

#define TL__CU_NVRTC(F)                                                                                            \
    F(nvrtcVersion, (int *major, int *minor))                                                                      \
    F(nvrtcCreateProgram, (void **program, const char *text, const char *name, int headers,                        \
                           const char *const *texts, const char *const *names))                                    \
    F(nvrtcCompileProgram, (void *program, int count, const char *const *options))                                 \
    F(nvrtcGetCUBINSize, (void *program, size_t *size)) F(nvrtcGetCUBIN, (void *program, char *to))                \
    F(nvrtcGetPTXSize, (void *program, size_t *size)) F(nvrtcGetPTX, (void *program, char *to))                    \
    F(nvrtcGetProgramLogSize, (void *program, size_t *size)) F(nvrtcGetProgramLog, (void *program, char *to))      \
    F(nvrtcDestroyProgram, (void **program))

typedef struct tl__cu_cuda { TL__CU_CUDA(TL__CU_MEMBER) } tl__cu_cuda;
typedef struct tl__cu_nvrtc { TL__CU_NVRTC(TL__CU_MEMBER) } tl__cu_nvrtc;

#define TL__CU_SYMBOL2(name, P) "tl_cuda_" #name "_f32", "tl_cuda_" #name "_bf16",
#define TL__CU_SYMBOL(name, P) "tl_cuda_" #name,
static const char *const tl__cu_symbols[] = { TL__CU_TYPED(TL__CU_SYMBOL2) TL__CU_FLOAT(TL__CU_SYMBOL) };

// The driver's function that explains a code; the same for every device.
static int (*tl__cu_explain)(int code, const char **text);

static const char *tl__cu_dl_error(int code)
{
    const char *text = NULL;
    if (code < 0 || !tl__cu_explain) return tl__cu_said;
    return tl__cu_explain(code, &text) == 0 && text ? text : "an error that the driver does not know";
}

// ---- from the text to code for one GPU

// One try: with `ptx` the portable form, which the driver translates. Code that the driver can load, or NULL and a sentence.
static char *tl__cu_compile_as(const tl__cu_nvrtc *rtc, int major, int minor, int ptx, size_t *size, int *code)
{
    char arch[48], *image = NULL;
    const char *options[3];
    void *program = NULL;
    snprintf(arch, sizeof arch, "--gpu-architecture=%s_%d%d", ptx ? "compute" : "sm", major, minor);
    options[0] = arch; options[1] = "--std=c++14"; options[2] = "-DTINYTL_CUDA_IMPLEMENTATION";
    *code = rtc->nvrtcCreateProgram(&program, tl__cu_text, "tinytl_cuda.h", 0, NULL, NULL);
    if (!*code) *code = rtc->nvrtcCompileProgram(program, 3, options);
    if (!*code) *code = ptx ? rtc->nvrtcGetPTXSize(program, size) : rtc->nvrtcGetCUBINSize(program, size);
    if (!*code && (image = (char *)tl__alloc(*size + 1, 1)) != NULL)
        *code = ptx ? rtc->nvrtcGetPTX(program, image) : rtc->nvrtcGetCUBIN(program, image);
    if (*code) {
        size_t log_size = 0;
        char *log = NULL;
        if (program && !rtc->nvrtcGetProgramLogSize(program, &log_size)) log = (char *)tl__alloc(log_size + 1, 1);
        if (log) rtc->nvrtcGetProgramLog(program, log);
        if (log) log[strcspn(log, "\n")] = 0;
        tl__cu_say("NVRTC cannot compile for %s: error %d%s%.200s", arch + 19, *code, log && *log ? ", " : "", log ? log : "");
        tl__free(log);
        tl__free(image);
        image = NULL;
    } else if (!image) {
        tl__cu_say("no memory for %zu bytes of code", *size);
    }
    if (program) rtc->nvrtcDestroyProgram(&program);
    return image;
}

// Code for this GPU; for one newer than NVRTC, the portable form for the oldest that can be used.
static char *tl__cu_compile(int major, int minor, size_t *size)
{
    enum { NVRTC_ERROR_INVALID_OPTION = 5 };
    static const char *const names[] = { TL__CU_NVRTC(TL__CU_WORD) };
    tl__cu_nvrtc rtc;
    int code = 0;
    char *image = NULL;
    const char *own = getenv("TINYTL_NVRTC");
    void *library = tl__cu_library(own && *own ? own : "libnvrtc.so.13 libnvrtc.so.12 libnvrtc.so",
                                   "NVRTC, the compiler of the CUDA toolkit,");
    if (!library) return NULL;
    if (!tl__cu_functions(library, names, (int)(sizeof names / sizeof *names), &rtc)) {
        image = tl__cu_compile_as(&rtc, major, minor, 0, size, &code);
        if (!image && code == NVRTC_ERROR_INVALID_OPTION) image = tl__cu_compile_as(&rtc, 8, 0, 1, size, &code);
    }
    tl__cu_unload(library);
    return image;
}

// Where the code for a GPU is kept, or 0: nowhere. The name tells the text and the GPU.
static int tl__cu_cache_path(char *path, size_t size, int major, int minor)
{
    const char *folder = getenv("TINYTL_CUDA_CACHE"), *home = getenv("HOME");
    size_t length = strlen(tl__cu_text);
    unsigned hash[2];
    for (unsigned i = 0; i < 2; i++) hash[i] = tl__hash_bytes(2166136261u + i, tl__cu_text, length);
    if (folder ? !*folder : !home || !*home) return 0;
    int n = folder ? snprintf(path, size, "%s", folder) : snprintf(path, size, "%s/.cache", home);
    if (n < 0 || (size_t)n + 80 > size) return 0;
    mkdir(path, 0777);
    if (!folder) mkdir(strcat(path, "/tinytl"), 0777);
    size_t used = strlen(path);
    snprintf(path + used, size - used, "/cuda-%08x%08x-sm_%d%d", hash[0], hash[1], major, minor);
    return 1;
}

// Two programs may write at once: each under a name of its own, then renamed. What fails costs time, nothing else.
static void tl__cu_keep_image(const char *path, const char *image, size_t size)
{
    char own[1100];
    tl__writer writer;
    snprintf(own, sizeof own, "%s.%ld", path, (long)getpid());
    if (tl__writer_open(&writer, own)) return;
    tl__writer_put(&writer, image, size);
    if (tl__writer_commit(&writer) == TL_OK && rename(own, path) != 0) remove(own);
}

// ---- one GPU

typedef struct tl__cu_direct {
    tl__cu_cuda cuda;
    void *library, *context, *stream, *module;
    void *functions[TL__CU_KERNELS];                         // as they are needed
    int   number, device, major, minor;
} tl__cu_direct;

static int tl__cu_number_of(void *self) { return ((tl__cu_direct *)self)->number; }

// Every call is for the context of its GPU, which is made that of this thread.
static tl__cu_direct *tl__cu_direct_of(void *self)
{
    tl__cu_direct *direct = (tl__cu_direct *)self;
    direct->cuda.cuCtxSetCurrent(direct->context);
    return direct;
}

static void *tl__cu_queue_of(void *self) { return tl__cu_direct_of(self)->stream; }

static void tl__cu_dl_close(void *self)
{
    tl__cu_direct *direct = (tl__cu_direct *)self;
    if (direct->context) direct->cuda.cuCtxSetCurrent(direct->context);
    if (direct->stream) direct->cuda.cuStreamDestroy_v2(direct->stream);
    if (direct->module) direct->cuda.cuModuleUnload(direct->module);
    if (direct->context) direct->cuda.cuDevicePrimaryCtxRelease_v2(direct->device);
    tl__free(direct);                                        // the library stays: tl__cu_explain is in it
}

static int tl__cu_load_module(tl__cu_direct *direct)
{
    char path[1024], *image = NULL;
    size_t size = 0;
    int keeps = tl__cu_cache_path(path, sizeof path, direct->major, direct->minor), code;
    if (keeps && tl__read_file(path, (size_t)1 << 30, (uint8_t **)&image, &size) == TL_OK) {
        code = direct->cuda.cuModuleLoadData(&direct->module, image);
        tl__free(image);
        if (!code) return 0;                                 // damaged, or of another driver: made anew
        direct->module = NULL;
    }
    image = tl__cu_compile(direct->major, direct->minor, &size);
    if (!image) return -1;
    code = direct->cuda.cuModuleLoadData(&direct->module, image);
    if (!code && keeps) tl__cu_keep_image(path, image, size);
    tl__free(image);
    return code;
}

static int tl__cu_dl_open(int number, void **self)
{
    enum { MAJOR = 75, MINOR = 76, NON_BLOCKING = 1 };       // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_..., CU_STREAM_...
    static const char *const names[] = { TL__CU_CUDA(TL__CU_WORD) };
    tl__cu_direct *direct = (tl__cu_direct *)tl__alloc(1, sizeof *direct);
    if (!direct) return tl__cu_say("no memory");
    const tl__cu_cuda *cuda = &direct->cuda;
    int code = 0;
    direct->number = number;
    direct->library = tl__cu_library("libcuda.so.1", "the driver of NVIDIA");
    if (!direct->library) code = -1;
    if (!code) code = tl__cu_functions(direct->library, names, (int)(sizeof names / sizeof *names), &direct->cuda);
    if (!code) tl__cu_explain = cuda->cuGetErrorString;
    if (!code) code = cuda->cuInit(0);
    if (!code) code = cuda->cuDeviceGet(&direct->device, number);
    if (!code) code = cuda->cuDeviceGetAttribute(&direct->major, MAJOR, direct->device);
    if (!code) code = cuda->cuDeviceGetAttribute(&direct->minor, MINOR, direct->device);
    if (!code) code = cuda->cuDevicePrimaryCtxRetain(&direct->context, direct->device);
    if (!code) code = cuda->cuCtxSetCurrent(direct->context);
    if (!code) code = cuda->cuStreamCreate(&direct->stream, NON_BLOCKING);
    if (!code && direct->major >= 8) code = tl__cu_load_module(direct);     // tl_use_cuda refuses older ones
    if (code) tl__cu_dl_close(direct);
    else *self = direct;
    return code;
}

static int tl__cu_dl_info(void *self, tl__cu_info *info)
{
    enum { SHARED_OPTIN = 97 };
    tl__cu_direct *direct = tl__cu_direct_of(self);
    int shared = 0, code = direct->cuda.cuDeviceGetName(info->name, (int)sizeof info->name, direct->device);
    if (!code) code = direct->cuda.cuMemGetInfo_v2(&info->free, &info->memory);
    if (!code) code = direct->cuda.cuDeviceGetAttribute(&shared, SHARED_OPTIN, direct->device);
    info->major = direct->major;
    info->minor = direct->minor;
    info->shared = (size_t)shared;
    return code;
}

static tl__cu_address tl__cu_address_of(const void *p) { return (tl__cu_address)(size_t)p; }

static int tl__cu_dl_alloc(void *self, void **p, size_t bytes)
{
    tl__cu_address address = 0;
    int code = tl__cu_direct_of(self)->cuda.cuMemAlloc_v2(&address, bytes);
    *p = code ? NULL : (void *)(size_t)address;
    return code;
}

static int tl__cu_dl_alloc_host(void *self, void **p, size_t bytes)
{
    return tl__cu_direct_of(self)->cuda.cuMemAllocHost_v2(p, bytes);
}

static void tl__cu_dl_release(void *self, void *p) { tl__cu_direct_of(self)->cuda.cuMemFree_v2(tl__cu_address_of(p)); }
static void tl__cu_dl_release_host(void *self, void *p) { tl__cu_direct_of(self)->cuda.cuMemFreeHost(p); }

static int tl__cu_dl_copy(void *self, void *to, const void *from, size_t bytes, int direction)
{
    tl__cu_direct *direct = tl__cu_direct_of(self);
    return direction == TL__CU_TO_DEVICE
               ? direct->cuda.cuMemcpyHtoDAsync_v2(tl__cu_address_of(to), from, bytes, direct->stream)
               : direct->cuda.cuMemcpyDtoHAsync_v2(to, tl__cu_address_of(from), bytes, direct->stream);
}

static int tl__cu_dl_clear(void *self, void *p, size_t bytes)
{
    tl__cu_direct *direct = tl__cu_direct_of(self);
    return direct->cuda.cuMemsetD8Async(tl__cu_address_of(p), 0, bytes, direct->stream);
}

static int tl__cu_dl_launch(void *self, int kernel, const unsigned grid[3], size_t shared, const void *params)
{
    enum { MAX_DYNAMIC_SHARED = 8 };
    tl__cu_direct *direct = tl__cu_direct_of(self);
    void *arguments[1], **function = &direct->functions[kernel];
    int code = 0;
    arguments[0] = (void *)(size_t)params;
    if (!*function) code = direct->cuda.cuModuleGetFunction(function, direct->module, tl__cu_symbols[kernel]);
    if (!code && shared > 48 * 1024) code = direct->cuda.cuFuncSetAttribute(*function, MAX_DYNAMIC_SHARED, (int)shared);
    if (!code)
        code = direct->cuda.cuLaunchKernel(*function, grid[0], grid[1], grid[2], 256, 1, 1, (unsigned)shared, direct->stream,
                                           arguments, NULL);
    return code;
}

static int tl__cu_dl_wait(void *self)
{
    tl__cu_direct *direct = tl__cu_direct_of(self);
    return direct->cuda.cuStreamSynchronize(direct->stream);
}

static int tl__cu_dl_begin_graph(void *self)
{
    enum { THREAD_LOCAL_MODE = 1 };
    tl__cu_direct *direct = tl__cu_direct_of(self);
    return direct->cuda.cuStreamBeginCapture_v2(direct->stream, THREAD_LOCAL_MODE);
}

static int tl__cu_dl_end_graph(void *self, void **graph)
{
    tl__cu_direct *direct = tl__cu_direct_of(self);
    void *captured = NULL;
    int code = direct->cuda.cuStreamEndCapture(direct->stream, &captured);
    *graph = NULL;
    if (!code) code = direct->cuda.cuGraphInstantiateWithFlags(graph, captured, 0);
    if (captured) direct->cuda.cuGraphDestroy(captured);
    return code;
}

static int tl__cu_dl_run_graph(void *self, void *graph)
{
    tl__cu_direct *direct = tl__cu_direct_of(self);
    return direct->cuda.cuGraphLaunch(graph, direct->stream);
}

static void tl__cu_dl_release_graph(void *self, void *graph) { tl__cu_direct_of(self)->cuda.cuGraphExecDestroy(graph); }

static const tl__cu_driver *tl__cu_the_driver(void)
{
    static const tl__cu_driver driver = {
        tl__cu_dl_error,       tl__cu_dl_open,         tl__cu_dl_close, tl__cu_dl_info,   tl__cu_dl_alloc,
        tl__cu_dl_alloc_host,  tl__cu_dl_release,      tl__cu_dl_release_host,            tl__cu_dl_copy,
        tl__cu_dl_clear,       tl__cu_dl_launch,       tl__cu_dl_wait,  tl__cu_dl_begin_graph,
        tl__cu_dl_end_graph,   tl__cu_dl_run_graph,    tl__cu_dl_release_graph,
        tl__cu_join_ring,      tl__cu_average_ring,    tl__cu_part_ring
    };
    return &driver;
}

#endif // not nvcc

#else

static const tl__cu_driver *tl__cu_the_driver(void) { return NULL; }     // neither nvcc nor Linux

#endif

// ============================================================================================
// >>net: memory, and what a network needs
//
//  One block of device memory: the four flat arrays, the arena of tl__plan_memory, and behind it the work space, which
//  begins with small tables: the results that the host reads (state of the step, values of the losses), the number of
//  the pass, the rates of each tensor, the pieces of the optimiser, the class weights. Results, pass and rates have
//  pinned twins on the host; a pass copies them at its beginning or end, so that a recorded graph finds new values.
// ============================================================================================

#define TL__CU_PIECE 4096               // values that one block of the optimiser takes
#define TL__CU_GRAPHS 8
#define TL__CU_MAX_SUM_BLOCKS 512       // of a sum over rows
#define TL__CU_MMA_ROWS 128             // TLK_ROWS
#define TL__CU_PROCESSORS 132           // of a large GPU; sums are cut by this number on a small one, too
#ifndef TL__CU_FEW_BLOCKS               // the tests try both sides with small images
    #define TL__CU_FEW_BLOCKS 99        // fewer would leave a quarter of the processors idle
#endif

enum {
    TL__CU_DO_FORWARD = 1, TL__CU_DO_LOSSES = 2, TL__CU_DO_GRADIENTS = 4, TL__CU_DO_BACKWARD = 8, TL__CU_DO_STEP
    = 16
};

// What a recorded graph depends on.
typedef struct tl__cu_key {
    int      work, batch, training, adapting, clear, optimizer;
    float    clip_norm;
    uint32_t written, settings;         // hashes: whose gradient the caller gave; what is frozen, norm statistics
} tl__cu_key;

typedef struct tl__cu_graph {
    tl__cu_key key;
    int   seen;                         // times that it was wanted; recorded at the second
    void *graph;
} tl__cu_graph;

// Offsets in the work space, in bytes.
typedef struct tl__cu_tables {
    size_t results, pass, rates, views, rooms, between, lattices, pieces, class_weights, rounded, work, end;
    size_t room, whole_room, nodes;     // of a sample: bytes that the host fills; of its room; values of a lattice
    int    piece_count;
} tl__cu_tables;

typedef struct tl__cu_device {
    const tl__cu_driver *driver;
    void         *self;
    tl_cuda_desc  desc;
    tl__cu_info   info;
    tl_net       *net;
    int           half;                 // activations are bf16
    int           code;                 // first error of the driver; then nothing runs any more
    char          what[TL__ERROR_MAX];  // what it met
    char         *block;                // everything
    char         *flat[TL__FLAT_COUNT], *arena, *tables;
    tl__cu_tables at;
    char         *twin;                 // pinned: results, pass, rates, views at the same offsets; views once more
    int           turn;                 // which of the two places for views is being filled
    size_t        taken;                // of the work space, by the current op
    const float  *sums;                 // in it: what the convolution `sums_of` left for the batch norm behind it
    int           sums_of;
    int           pending;              // work that is promised but not begun
    int           in_flight;            // work was begun since the last wait
    tl__cu_key    key;                  // of the pending work
    unsigned char *given, *written;     // for each node: its gradient is there, given by the caller; in this pass
    tl__cu_graph  graphs[TL__CU_GRAPHS];
    int           next_graph;
    void         *ring;                 // of the first of several joined networks
    tl_net       *joined[TL_CUDA_GPUS];
    int           joined_count;
} tl__cu_device;

// A new op, loss or optimiser of tinytl.h needs kernels here before this compiles again.
typedef char tl__cu_knows_every_op[TL_OP_COUNT == TL_OP_ATTENTION + 1 && TL_OP_ATTENTION == 28 ? 1 : -1];
typedef char tl__cu_knows_every_loss[TL_LOSS_COUNT == (int)TL__CU_HUBER + 1 && TL_HUBER == (int)TL__CU_HUBER ? 1 : -1];
typedef char tl__cu_knows_every_optimizer[TL_OPTIMIZER_COUNT == TL_LION + 1 && TL_LION == 6 ? 1 : -1];

static tl__cu_device *tl__cu_of(const tl_net *net) { return (tl__cu_device *)net->device; }
static size_t tl__cu_align(size_t bytes) { return (bytes + 255) / 256 * 256; }
static int tl__cu_ceil(tlk_size a, tlk_size b) { return (int)((a + b - 1) / b); }

// ---- what can be done ----------------------------------------------------------------------

static tl_result tl__cu_check(tl_net *net)
{
    for (int i = 0; i < net->node_count; i++) {
        const tl__node *node = &net->nodes[i];
        switch (node->op) {
        case TL_OP_INPUT: case TL_OP_CONV2D: case TL_OP_CONV_TRANSPOSE2D: case TL_OP_DENSE: case TL_OP_BATCH_NORM:
        case TL_OP_GROUP_NORM: case TL_OP_LAYER_NORM: case TL_OP_RELU: case TL_OP_LEAKY_RELU: case TL_OP_RELU6:
        case TL_OP_SIGMOID: case TL_OP_TANH: case TL_OP_GELU: case TL_OP_SILU: case TL_OP_MAX_POOL: case TL_OP_AVG_POOL:
        case TL_OP_UPSAMPLE: case TL_OP_CONCAT: case TL_OP_ADD: case TL_OP_MUL: case TL_OP_FLATTEN: case TL_OP_DROPOUT:
        case TL_OP_SOFTMAX: case TL_OP_PARAMETER: case TL_OP_TOKENS: case TL_OP_SELECT:
            break;
        case TL_OP_ATTENTION:
            if (node->c / node->attr.attention.heads <= 128) break;
            return tl__refuse(net, TL_ERR_SHAPE, "prepare: attention '%s' has heads of %d channels; the GPU takes at "
                              "most 128", node->name, node->c / node->attr.attention.heads);
        case TL_OP_ADAPTIVE_AVG_POOL:
            if ((size_t)node->h * node->w <= 65535) break;
            return tl__refuse(net, TL_ERR_SHAPE,
                              "prepare: adaptive_avg_pool2d '%s' to %dx%d: the GPU makes at most 65535 "
                              "outputs of a channel",
                              node->name, node->h, node->w);
        default:
            return tl__refuse(net, TL_ERR_STATE, "prepare: the GPU has no kernel for %s '%s'; leave tl_use_cuda out",
                              tl__op_names[node->op], node->name);
        }
    }
    return TL_OK;
}

// ---- how sums are cut; depends on the shapes alone -----------------------------------------

// Rows that one block of a column sum takes.
static int tl__cu_run(tlk_size rows) { return tl__max(256, tl__cu_ceil(rows, TL__CU_MAX_SUM_BLOCKS)); }

static int tl__cu_is_plain(const tl__conv *cv) { return cv->groups > 1 || cv->s.sh * cv->s.sw > 64; }

// Values in 16 bytes of an activation.
static int tl__cu_piece_values(const tl__cu_device *dev) { return dev->half ? 8 : 4; }

// Whether the tensor cores do it.
static int tl__cu_is_mma(const tl__cu_device *dev, const tl__conv *cv)
{
    return dev->desc.math != TL_CUDA_FP32 && !tl__cu_is_plain(cv);
}

// Channels in whole pieces.
static int tl__cu_filled(const tl__cu_device *dev, int channels)
{
    int piece = tl__cu_piece_values(dev);
    return (channels + piece - 1) / piece * piece;
}

// Columns of a block: 16 << this.
static int tl__cu_width(int columns) { return columns <= 16 ? 0 : columns <= 32 ? 1 : columns <= 64 ? 2 : 3; }

// Narrower where there would be few blocks: a small batch of small images.
static int tl__cu_width_for(tlk_size rows, int columns, int z)
{
    int width = tl__cu_width(columns);
    tlk_size down = (rows + TL__CU_MMA_ROWS - 1) / TL__CU_MMA_ROWS * (tlk_size)z;
    while (width > 0 && down * (tlk_size)tl__cu_ceil(columns, 16 << width) < (tlk_size)TL__CU_FEW_BLOCKS) width--;
    return width;
}

// Into how many runs of pixels the sum of a weight gradient is cut: enough blocks to fill a large GPU.
static int tl__cu_splits(const tl__cu_device *dev, const tl__conv *cv)
{
    tlk_size pixels = (tlk_size)cv->n * cv->s.oh * cv->s.ow,
             depth = (tlk_size)cv->s.kh * cv->s.kw * (cv->s.c / cv->groups);
    tlk_size tiles = tl__cu_is_plain(cv)      ? tl__cu_ceil(cv->out, 32) * depth
                     : tl__cu_is_mma(dev, cv) ? (tlk_size)tl__cu_ceil((tlk_size)cv->s.kh * cv->s.kw *
                                                                      tl__cu_filled(dev, cv->s.c), 128) *
                                                    tl__cu_ceil(cv->out, 16 << tl__cu_width(cv->out))
                                              : (tlk_size)tl__cu_ceil(depth, 64) * tl__cu_ceil(cv->out, 64);
    tlk_size splits = 2 * TL__CU_PROCESSORS / tiles, by_pixels = pixels / 256,
             by_memory = ((tlk_size)1 << 24) / (depth * cv->out);
    if (splits > by_pixels) splits = by_pixels;
    if (splits > by_memory) splits = by_memory;
    return splits < 1 ? 1 : splits > 512 ? 512 : (int)splits;
}

// Room for the copies with whole pieces, and for the sums that are left for a batch norm in front of them; in floats.
static size_t tl__cu_padding(const tl__cu_device *dev, const tl__conv *cv, size_t channels, tlk_size rows)
{
    int c = tl__cu_filled(dev, cv->s.c), out = tl__cu_filled(dev, cv->out);
    size_t sums = 2 * (size_t)tl__cu_ceil(rows, TL__CU_MMA_ROWS) * channels, values = 0;
    if (c != cv->s.c) values += (size_t)cv->n * cv->s.h * cv->s.w * c;
    if (out != cv->out) values += (size_t)cv->n * cv->s.oh * cv->s.ow * out;
    return values ? sums + (dev->half ? values / 2 : values) + 256 : 0;
}

// Work space of one node, in floats.
static size_t tl__cu_node_work(tl_net *net, int index, int batch, int train)
{
    const tl__node *node = &net->nodes[index];
    tlk_size rows = (tlk_size)batch * node->h * node->w;
    size_t c = (size_t)node->c, blocks = (size_t)tl__cu_ceil(rows, (tlk_size)tl__cu_run(rows)), need = 0;
    switch (node->op) {
    case TL_OP_CONV2D: case TL_OP_CONV_TRANSPOSE2D: case TL_OP_DENSE: {
        tl__conv cv = tl__node_conv(net, node, batch);
        size_t weights = (size_t)cv.s.kh * cv.s.kw * (cv.s.c / cv.groups) * cv.out;
        need = train ? tl__max_size(weights * tl__cu_splits(tl__cu_of(net), &cv), blocks * c) : 0;
        if (tl__cu_is_mma(tl__cu_of(net), &cv)) need += tl__cu_padding(tl__cu_of(net), &cv, c, rows);
        break;
    }
    case TL_OP_BATCH_NORM:                    // or of the sums that the convolution before has left
        need = 2 * tl__max_size(blocks, (size_t)tl__cu_ceil(rows, TL__CU_MMA_ROWS)) * c + 2 * c + 128;
        break;
    case TL_OP_LAYER_NORM: need = 2 * blocks * c; break;
    case TL_OP_ATTENTION: need = (size_t)rows * node->attr.attention.heads; break;
    case TL_OP_GROUP_NORM: need = 2 * (size_t)batch * c + 2 * (size_t)batch * node->attr.norm.groups + 64; break;
    default: break;
    }
    for (int i = 0; i < net->loss_count; i++) {
        if (net->losses[i].node != index) continue;
        size_t sums = (size_t)tl__cu_ceil(rows, TL__CU_LOSS_RUN) * tl__max_size(2, 3 * c);
        need = tl__max_size(need, 2 * sums + 2 * c + 128);
    }
    return need + 64;
}

static int tl__cu_pieces(const tl_net *net)
{
    int count = 0;
    for (int i = 0; i < net->tensor_count; i++)
        if (net->tensors[i].trained) count += tl__cu_ceil(net->tensors[i].count, TL__CU_PIECE);
    return count;
}

// The weights of a convolution that the tensor cores do, as they lie in the rounded copy; to_c 0: the tensor is not there.
static tl__cu_piece tl__cu_shape_of(tl_net *net, int tensor)
{
    const tl__tensor *t = &net->tensors[tensor];
    const tl__node *node = &net->nodes[t->node];
    const tl__cu_device *dev = tl__cu_of(net);
    tl__cu_piece shape;
    memset(&shape, 0, sizeof shape);
    if (!t->trained || t->role != TL__WEIGHT) return shape;
    if (node->op != TL_OP_CONV2D && node->op != TL_OP_CONV_TRANSPOSE2D && node->op != TL_OP_DENSE) return shape;
    tl__conv cv = tl__node_conv(net, node, 1);
    if (!tl__cu_is_mma(dev, &cv)) return shape;
    shape.c = cv.s.c;
    shape.out = cv.out;
    shape.to_c = tl__cu_filled(dev, cv.s.c);
    shape.to_out = tl__cu_filled(dev, cv.out);
    return shape;
}

// Where a tensor lies in the rounded copy of the parameters; with tensor_count: the size. In values.
static size_t tl__cu_rounded_at(tl_net *net, int tensor)
{
    size_t at = 0;
    for (int i = 0; i < tensor; i++) {
        tl__cu_piece shape = tl__cu_shape_of(net, i);
        if (shape.to_c) at += net->tensors[i].count / ((size_t)shape.c * shape.out) * shape.to_c * shape.to_out;
    }
    return at;
}

static tl__cu_tables tl__cu_lay_out(tl_net *net, int batch, int train)
{
    tl__cu_tables at;
    size_t class_weights = 0, work = 0;
    memset(&at, 0, sizeof at);
    for (int i = 0; i < net->loss_count; i++) class_weights += (size_t)net->nodes[net->losses[i].node].c;
    for (int i = 0; i < net->node_count; i++) {
        const tl__node *node = &net->nodes[i];
        work = tl__max_size(work, tl__cu_node_work(net, i, batch, train));
        if (tl__cu_of(net)->half &&
            (node->op == TL_OP_INPUT || node->keep || tl__is_output(net, i))) // floats on their way
            work = tl__max_size(work, tl__sample_count(node) * (size_t)batch + 64);
    }
    int rounds = tl__cu_of(net)->desc.math != TL_CUDA_FP32;
    at.piece_count = train || rounds ? tl__cu_pieces(net) : 0;
    work = tl__max_size(work, 2 * (size_t)at.piece_count + 64);
    at.pass = tl__cu_align((3 + (size_t)net->loss_count) * sizeof(double));
    at.rates = at.pass + 256;
    at.views = at.rates + tl__cu_align((size_t)net->tensor_count * sizeof(tl__cu_rates));
    at.rooms = at.between = at.views;
    if (net->views && train) {
        const tl__node *input = tl__only_input(net);
        size_t pixels = input ? (size_t)input->h * input->w : 0, channels = input ? (size_t)input->c : 0;
        at.nodes = pixels + 16 * (size_t)(input ? input->h + input->w : 0) + 256;
        at.room = tl__cu_align(4 * pixels * (4 * channels + 1) + 65536);
        at.rooms = at.views + tl__cu_align(TL__CU_VIEW_MAPS * (size_t)batch * sizeof(tl__cu_view));
        at.between = at.rooms + (size_t)batch * at.room;
    }
    at.whole_room = TL__CU_VIEW_MAPS * at.room;                         // what the host fills, and what maps leave
    at.lattices = at.between + (size_t)batch * (at.whole_room - at.room);
    at.pieces = at.lattices + tl__cu_align(2 * TL__CU_VIEW_MAPS * (size_t)batch * at.nodes * sizeof(float));
    at.class_weights = at.pieces + tl__cu_align((size_t)at.piece_count * sizeof(tl__cu_piece));
    at.rounded = at.class_weights + tl__cu_align(class_weights * sizeof(float));
    at.work = at.rounded + (rounds ? tl__cu_align(tl__cu_rounded_at(net, net->tensor_count) * sizeof(float)) : 0);
    at.end = at.work + tl__cu_align(work * sizeof(float));
    return at;
}

// In tl_reals. The slack brings the tables to a multiple of 256 bytes.
static size_t tl__cu_scratch(tl_net *net, int batch, int train)
{
    return (tl__cu_lay_out(net, batch, train).end + 256) / sizeof(tl_real);
}

// ---- errors --------------------------------------------------------------------------------

// Keeps the first error of the driver with what it met.
static int tl__cu_keep_error(tl__cu_device *dev, int code, const char *format, ...) TL__PRINTF(3);
static int tl__cu_keep_error(tl__cu_device *dev, int code, const char *format, ...)
{
    if (code == 0 || dev->code != 0) return dev->code;
    dev->code = code;
    va_list args;
    va_start(args, format);
    vsnprintf(dev->what, sizeof dev->what, format, args);
    va_end(args);
    return code;
}

static tl_result tl__cu_result(tl__cu_device *dev)
{
    if (dev->code == 0) return TL_OK;
    return tl__refuse(dev->net, TL_ERR_STATE, "cuda: %s: %s; the network must be made anew", dev->what,
                      dev->driver->error(dev->code));
}

// ---- allocation ----------------------------------------------------------------------------

static void tl__cu_forget_graphs(tl__cu_device *dev)
{
    for (int i = 0; i < TL__CU_GRAPHS; i++)
        if (dev->graphs[i].graph) dev->driver->release_graph(dev->self, dev->graphs[i].graph);
    memset(dev->graphs, 0, sizeof dev->graphs);
}

static void tl__cu_release(tl__cu_device *dev)
{
    if (dev->in_flight) dev->driver->wait(dev->self);
    dev->in_flight = dev->pending = 0;
    tl__cu_forget_graphs(dev);
    if (dev->block) dev->driver->release(dev->self, dev->block);
    if (dev->twin) dev->driver->release_host(dev->self, dev->twin);
    tl__free(dev->given);
    dev->block = dev->twin = NULL;
    dev->given = dev->written = NULL;
}

static void tl__cu_close(tl_net *net)
{
    tl__cu_device *dev = tl__cu_of(net);
    if (!dev) return;
    if (dev->ring) dev->driver->part(dev->ring);
    tl__cu_release(dev);
    dev->driver->close(dev->self);
    tl__free(dev);
    net->device = NULL;
    net->backend = tl__cpu();
}

static void tl__cu_copy(tl__cu_device *dev, void *to, const void *from, size_t bytes, int direction, const char *what)
{
    dev->in_flight = 1;
    if (bytes && !dev->code)
        tl__cu_keep_error(dev, dev->driver->copy(dev->self, to, from, bytes, direction), "copying %s, %zu bytes", what,
                          bytes);
}

static void tl__cu_wait(tl__cu_device *dev)
{
    if (dev->in_flight && !dev->code) tl__cu_keep_error(dev, dev->driver->wait(dev->self), "waiting for the GPU");
    dev->in_flight = 0;
}

// The pieces of the optimiser and the class weights, which never change.
static tl_result tl__cu_send_tables(tl__cu_device *dev)
{
    tl_net *net = dev->net;
    tl__cu_piece *pieces = (tl__cu_piece *)tl__alloc((size_t)dev->at.piece_count, sizeof *pieces);
    int count = 0;
    if (!pieces) return tl__refuse(net, TL_ERR_MEMORY, "prepare: no memory for %d pieces", dev->at.piece_count);
    for (int i = 0; i < net->tensor_count && dev->at.piece_count; i++) {
        const tl__tensor *t = &net->tensors[i];
        tl__cu_piece piece = tl__cu_shape_of(net, i);
        piece.tensor = i;
        piece.rounded_at = tl__cu_rounded_at(net, i);
        for (size_t at = 0; t->trained && at < t->count; at += TL__CU_PIECE) {
            piece.at = t->at + at;
            piece.first = (int)at;
            piece.count = (int)(t->count - at < TL__CU_PIECE ? t->count - at : TL__CU_PIECE);
            pieces[count++] = piece;
        }
    }
    tl__cu_copy(dev, dev->tables + dev->at.pieces, pieces, (size_t)count * sizeof *pieces, TL__CU_TO_DEVICE, "tables");
    char *to = dev->tables + dev->at.class_weights;
    for (int i = 0; i < net->loss_count; i++) {
        size_t bytes = (size_t)net->nodes[net->losses[i].node].c * sizeof(float);
        if (net->losses[i].class_weight)
            tl__cu_copy(dev, to, net->losses[i].class_weight, bytes, TL__CU_TO_DEVICE, "class weights");
        to += bytes;
    }
    tl__cu_wait(dev);
    tl__free(pieces);
    return tl__cu_result(dev);
}

static tl_result tl__cu_allocate(tl_net *net, const tl_plan *plan)
{
    tl__cu_device *dev = tl__cu_of(net);
    size_t sizes[TL__FLAT_COUNT] = { plan->parameters, plan->buffers, plan->gradients, plan->moments }, bytes = 0;
    tl__cu_release(dev);
    if (dev->code) return tl__cu_result(dev);
    for (int i = 0; i < TL__FLAT_COUNT; i++) bytes += tl__cu_align(sizes[i]);
    size_t fixed = bytes, per_sample = (plan->activations + plan->scratch) / (size_t)plan->batch;
    bytes += tl__cu_align(net->arena_count * sizeof(tl_real));
    if (tl__cu_keep_error(dev, dev->driver->info(dev->self, &dev->info), "asking for free memory"))
        return tl__cu_result(dev);
    if (bytes > dev->info.free)
        return tl__refuse(net, TL_ERR_MEMORY,
                          "prepare: %.2f GB for a batch of %d do not fit into the %.2f GB that are free "
                          "on '%s'; a batch of about %d would",
                          (double)bytes / 1e9, plan->batch, (double)dev->info.free / 1e9, dev->info.name,
                          dev->info.free > fixed ? (int)((dev->info.free - fixed) / (per_sample + 1)) : 0);
    dev->at = tl__cu_lay_out(net, plan->batch, plan->train);
    dev->given = (unsigned char *)tl__alloc((size_t)net->node_count, 2);
    void *block = NULL, *twin = NULL;
    int code = dev->given ? dev->driver->alloc(dev->self, &block, bytes) : 0;
    size_t twin_bytes = 2 * dev->at.between - dev->at.views;            // batches are prepared in two places by turns
    if (dev->given && !code) code = dev->driver->alloc_host(dev->self, &twin, twin_bytes);
    dev->block = (char *)block;
    dev->twin = (char *)twin;
    if (code || !dev->given) {
        const char *why = code ? dev->driver->error(code) : "no memory";
        tl__cu_release(dev);
        return tl__refuse(net, TL_ERR_MEMORY, "prepare: %.2f GB for a batch of %d on '%s': %s", (double)bytes / 1e9,
                          plan->batch, dev->info.name, why);
    }
    dev->written = dev->given + net->node_count;
    memset(dev->twin, 0, twin_bytes);
    char *at = dev->block;
    for (int i = 0; i < TL__FLAT_COUNT; i++) {
        dev->flat[i] = sizes[i] ? at : NULL;
        at += tl__cu_align(sizes[i]);
    }
    dev->arena = at;
    dev->tables = dev->block + tl__cu_align((size_t)(at - dev->block) + net->scratch_at * sizeof(tl_real));
    tl__cu_keep_error(dev, dev->driver->clear(dev->self, dev->block, bytes), "clearing %zu bytes", bytes);
    return tl__cu_send_tables(dev);
}

// ============================================================================================
// >>execute: forward up the list, backward down
//
//  tl_forward, tl_backward and tl_step only promise their work; it begins when tl_step is called or when somebody asks
//  for a value. So a whole step becomes one sequence of kernels, which is recorded as a CUDA graph the second time it
//  is wanted and from then on costs one launch instead of a hundred.
// ============================================================================================

static void tl__cu_launch(tl__cu_device *dev, int kernel, const tl__node *node, tlk_size x, int y, int z, size_t shared,
                          const void *params)
{
    unsigned grid[3];
    grid[0] = (unsigned)x; grid[1] = (unsigned)y; grid[2] = (unsigned)z;
    if (dev->code) return;
    dev->in_flight = 1;
    int code = dev->driver->launch(dev->self, kernel, grid, shared, params);
    if (!code && dev->desc.debug) code = dev->driver->wait(dev->self);
    if (!code) return;
    if (!node)
        tl__cu_keep_error(dev, code, "kernel %s, grid %u,%u,%u", tl__cu_names[kernel], grid[0], grid[1], grid[2]);
    else
        tl__cu_keep_error(dev, code,
                          "kernel %s for '%s' of %dx%dx%d with a batch of %d, grid %u,%u,%u, %zu bytes shared",
                          tl__cu_names[kernel], node->name, node->h, node->w, node->c, dev->key.batch, grid[0], grid[1],
                          grid[2], shared);
}

// The version of a kernel for the type of the activations.
static void tl__cu_typed(tl__cu_device *dev, int kernel, const tl__node *node, tlk_size x, int y, int z, size_t shared,
                         const void *params)
{
    tl__cu_launch(dev, kernel + dev->half, node, x, y, z, shared, params);
}

// One thread for each of `count` values; a piece of 16 bytes, or TLK_PER_THREAD values, for each thread.
static void tl__cu_each(tl__cu_device *dev, int kernel, const tl__node *node, tlk_size count, const void *params)
{
    tl__cu_typed(dev, kernel, node, (count + 255) / 256, 1, 1, 0, params);
}
static void tl__cu_pieces_of(tl__cu_device *dev, int kernel, const tl__node *node, tlk_size count, const void *params)
{
    int piece = tl__cu_piece_values(dev);
    tl__cu_typed(dev, kernel, node, (count + 256 * (tlk_size)piece - 1) / (256 * (tlk_size)piece), 1, 1, 0, params);
}
static void tl__cu_many(tl__cu_device *dev, int kernel, const tl__node *node, tlk_size count, const void *params)
{
    tl__cu_typed(dev, kernel, node, (count + 1023) / 1024, 1, 1, 0, params);
}

#define TL__CU_COLUMNS_SHARED (8 * 32 * sizeof(float))
#define TL__CU_WIDE_SHARED (256 * 8 * sizeof(float))
#define TL__CU_SUMS_SHARED (8 * sizeof(double))
#define TL__CU_PARTS_SHARED (8 * 32 * sizeof(double))
#define TL__CU_TILES_SHARED (2 * 16 * 68 * sizeof(float))

// Work space for the current op, aligned to 256 bytes.
static void *tl__cu_take(tl__cu_device *dev, size_t bytes)
{
    char *at = dev->tables + dev->at.work + dev->taken;
    dev->taken += tl__cu_align(bytes);
    if (dev->at.work + dev->taken > dev->at.end)
        tl__cu_keep_error(dev, 1, "work space of %zu bytes was not planned", dev->taken);
    return at;
}

static void *tl__cu_data(const tl__cu_device *dev, const tl__node *node)
{
    while (node->alias >= 0) node = &dev->net->nodes[node->alias];
    return dev->arena + node->data_at * sizeof(tl_real);
}

static void *tl__cu_grad(const tl__cu_device *dev, const tl__node *node)
{
    while (node->alias >= 0) node = &dev->net->nodes[node->alias];
    return dev->arena + node->grad_at * sizeof(tl_real);
}

// A parameter, its gradient, or a buffer; NULL if the node has none, or if it is a gradient of what is frozen.
static float *tl__cu_tensor(const tl__cu_device *dev, const tl__node *node, tl__role role, int gradient)
{
    if (node->tensor[role] < 0) return NULL;
    const tl__tensor *t = &dev->net->tensors[node->tensor[role]];
    if (gradient && t->frozen) return NULL;
    char *flat = dev->flat[gradient ? TL__GRADIENTS : t->trained ? TL__PARAMETERS : TL__BUFFERS];
    return (float *)(void *)flat + t->at;
}

static const tl__node *tl__cu_input(const tl__cu_device *dev, const tl__node *node, int k)
{
    return &dev->net->nodes[node->input[k]];
}

static tlk_size tl__cu_count(const tl__cu_device *dev, const tl__node *node)
{
    return (tlk_size)tl__sample_count(node) * (tlk_size)dev->key.batch;
}

// As tl__uses_batch, for the pass that is being launched.
static int tl__cu_uses_batch(const tl__cu_device *dev, const tl__node *node)
{
    return (dev->key.training || dev->key.adapting) && !tl__is_fixed(node);
}

// A sum over rows that takes pieces of channels where it can; otherwise 32 channels a block.
static void tl__cu_column_kernel(tl__cu_device *dev, int kernel, const tl__node *node, const tl__cu_norm *p)
{
    int piece = tl__cu_piece_values(dev), wide = p->c % piece == 0;
    tl__cu_typed(dev, kernel, node, (tlk_size)tl__cu_ceil(wide ? p->c / piece : p->c, 32), p->blocks, 1,
                 wide ? TL__CU_WIDE_SHARED : TL__CU_COLUMNS_SHARED, p);
}

static void tl__cu_reduce_into(tl__cu_device *dev, const tl__node *node, const float *from, size_t stride, int parts,
                               size_t count, float *to)
{
    tl__cu_reduce p = { from, to, count, stride, parts, 1 };
    tl__cu_launch(dev, TL__CU_reduce_parts, node, (count + 31) / 32, 1, 1, TL__CU_PARTS_SHARED, &p);
}

// ---- >>conv --------------------------------------------------------------------------------

static tl__cu_conv tl__cu_conv_of(const tl__conv *cv)
{
    const tl__window *s = &cv->s;
    tl__cu_conv p;
    memset(&p, 0, sizeof p);
    p.n = cv->n; p.h = s->h; p.w = s->w; p.c = s->c; p.oh = s->oh; p.ow = s->ow; p.kh = s->kh; p.kw = s->kw;
    p.sh = s->sh; p.sw = s->sw; p.pt = s->pt; p.pl = s->pl; p.dh = s->dh; p.dw = s->dw;
    p.out = cv->out; p.groups = cv->groups;
    return p;
}

static void tl__cu_round_weights(tl__cu_device *dev)
{
    tl__cu_step p;
    if (dev->desc.math == TL_CUDA_FP32 || dev->at.piece_count == 0) return;
    memset(&p, 0, sizeof p);
    p.pieces = (const tl__cu_piece *)(const void *)(dev->tables + dev->at.pieces);
    p.parameters = (float *)(void *)dev->flat[TL__PARAMETERS];
    p.rounded = dev->tables + dev->at.rounded;
    tl__cu_typed(dev, TL__CU_round_weights, NULL, (tlk_size)dev->at.piece_count, 1, 1, 0, &p);
}

static const void *tl__cu_rounded(const tl__cu_device *dev, const tl__node *node)
{
    return dev->tables + dev->at.rounded + tl__cu_rounded_at(dev->net, node->tensor[TL__WEIGHT]) * (dev->half ? 2 : 4);
}

// `kernel` is the one with 16 columns; the wider ones follow.
static void tl__cu_mma(tl__cu_device *dev, int kernel, const tl__node *node, tlk_size rows, int columns, int z,
                       const tl__cu_conv *p)
{
    int weights = kernel == TL__CU_mma_weights_16;
    int width = weights ? tl__cu_width(columns) : tl__cu_width_for(rows, columns, z), wide = 16 << width;
    tl__cu_typed(dev, kernel + 2 * width, node, (rows + TL__CU_MMA_ROWS - 1) / TL__CU_MMA_ROWS,
                 tl__cu_ceil(columns, wide), z, 3 * (size_t)(TL__CU_MMA_ROWS * 80 + wide * 80 + 512), p);
}

// An operand of the tensor cores with whole pieces of channels: itself, or a copy in the work space.
static const void *tl__cu_filled_up(tl__cu_device *dev, const tl__node *node, const void *x, tlk_size rows, int c)
{
    tl__cu_pad p = { x, NULL, rows, c, tl__cu_filled(dev, c) };
    if (p.to == c) return x;
    p.y = tl__cu_take(dev, (size_t)rows * p.to * (dev->half ? 2 : 4));
    tl__cu_pieces_of(dev, TL__CU_pad_channels, node, rows * p.to, &p);
    return p.y;
}

// The channels of a convolution by the tensor cores.
static void tl__cu_fill_up(tl__cu_device *dev, tl__cu_conv *p)
{
    p->true_c = p->c;
    p->true_out = p->out;
    p->c = tl__cu_filled(dev, p->c);
    p->out = tl__cu_filled(dev, p->out);
    if (!p->part) p->part = p->c;
}

// The two parts of a concatenation that is not made, as x of a convolution.
static void tl__cu_join_parts(const tl__cu_device *dev, const tl__node *node, int gradient, tl__cu_conv *p)
{
    const tl__node *x = tl__cu_input(dev, node, 0);
    if (!x->joined) return;
    const tl__node *first = tl__cu_input(dev, x, 0), *second = tl__cu_input(dev, x, 1);
    p->part = first->c;
    if (!gradient) {
        p->in = tl__cu_data(dev, first);
        p->in2 = tl__cu_data(dev, second);
        return;
    }
    p->result = first->wants_grad ? tl__cu_grad(dev, first) : NULL;
    p->result2 = second->wants_grad ? tl__cu_grad(dev, second) : NULL;
    p->add = dev->written[x->input[0]];
    p->add2 = dev->written[x->input[1]];
}

// Whether the concatenation i need not be made: it has two parts of whole pieces, and only convolutions by the tensor
// cores read it.
static int tl__cu_joins(tl_net *net, int i)
{
    const tl__cu_device *dev = tl__cu_of(net);
    const tl__node *node = &net->nodes[i];
    int users = 0;
    if (node->op != TL_OP_CONCAT || node->keep || tl__is_output(net, i) || tl__has_loss(net, i)) return 0;
    if (node->inputs != 2 || node->input[0] == node->input[1]) return 0;
    for (int k = 0; k < 2; k++) {
        const tl__node *part = &net->nodes[node->input[k]];
        if (part->joined || tl__cu_filled(dev, part->c) != part->c) return 0;
    }
    for (int j = i + 1; j < net->node_count; j++)
        for (int k = 0; k < net->nodes[j].inputs; k++) {
            if (net->nodes[j].input[k] != i) continue;
            if (net->nodes[j].op != TL_OP_CONV2D) return 0;
            tl__conv cv = tl__node_conv(net, &net->nodes[j], 1);
            if (!tl__cu_is_mma(dev, &cv)) return 0;
            users++;
        }
    return users > 0;
}

// The batch norm that a convolution does, too, in this pass, for any of the nodes concerned; or NULL. As tl__folded_norm.
static const tl__node *tl__cu_folded(const tl__cu_device *dev, const tl__node *node)
{
    const tl__node *nodes = dev->net->nodes, *last = &nodes[node->folded];
    const tl__node *norm = last->op == TL_OP_ADD ? &nodes[last->alias] : last;
    return node->folded && !tl__cu_uses_batch(dev, norm) ? norm : NULL;
}

// What the convolution of `node` does to its values when it computes y, its own output. As tl__fold.
static void tl__cu_conclusion(const tl__cu_device *dev, const tl__node *node, tl__cu_conv *p)
{
    const tl__node *norm = tl__cu_folded(dev, node), *last = &dev->net->nodes[node->folded];
    p->relu = (norm ? last : node)->fused != TL_OP_NONE;
    if (!norm) return;
    p->mean = tl__cu_tensor(dev, norm, TL__RUNNING_MEAN, 0);
    p->var = tl__cu_tensor(dev, norm, TL__RUNNING_VAR, 0);
    p->norm_weight = tl__cu_tensor(dev, norm, TL__WEIGHT, 0);
    p->norm_bias = tl__cu_tensor(dev, norm, TL__BIAS, 0);
    p->eps = tl__norm_eps(norm);
    if (last->op == TL_OP_ADD)
        p->residual = tl__cu_data(dev, &dev->net->nodes[last->input[last->input[0] == last->alias]]);
}

// The two passes that make an image. own: it is the output of the node, with what follows; else a gradient.
static void tl__cu_conv_forward(tl__cu_device *dev, const tl__node *node, const tl__conv *cv, const void *x,
                                const float *weight, const float *bias, void *y, int add, int own)
{
    tl__cu_conv p = tl__cu_conv_of(cv);
    p.in = x; p.weight = weight; p.bias = bias; p.result = y; p.add = add;
    if (own) tl__cu_conclusion(dev, node, &p);
    if (tl__cu_is_mma(dev, cv)) {
        const tl__node *behind = node + 1;
        int index = (int)(node - dev->net->nodes);
        tlk_size rows = (tlk_size)p.n * p.oh * p.ow;
        p.rounded = tl__cu_rounded(dev, node);
        dev->sums_of = -1;
        if (own && index + 1 < dev->net->node_count && behind->op == TL_OP_BATCH_NORM && behind->input[0] == index &&
            tl__cu_uses_batch(dev, behind)) {
            p.sums = (float *)tl__cu_take(dev, 2 * (size_t)tl__cu_ceil(rows, TL__CU_MMA_ROWS) * p.out * sizeof(float));
            dev->sums = p.sums;
            dev->sums_of = index;
        }
        p.in = tl__cu_filled_up(dev, node, x, (tlk_size)p.n * p.h * p.w, p.c);
        if (node->op != TL_OP_CONV_TRANSPOSE2D) tl__cu_join_parts(dev, node, 0, &p);
        tl__cu_fill_up(dev, &p);
        tl__cu_mma(dev, TL__CU_mma_forward_16, node, rows, p.out, 1, &p);
        return;
    }
    tlk_size pixels = (tlk_size)p.n * p.oh * p.ow;
    if (tl__cu_is_plain(cv)) tl__cu_each(dev, TL__CU_conv_forward_plain, node, pixels * p.out, &p);
    else
        tl__cu_launch(dev, TL__CU_conv_forward, node, (pixels + 63) / 64, tl__cu_ceil(p.out, 64), 1,
                      TL__CU_TILES_SHARED, &p);
}

static void tl__cu_conv_backward_data(tl__cu_device *dev, const tl__node *node, const tl__conv *cv, const void *dy,
                                      const float *weight, const float *bias, void *dx, int add, int own)
{
    tl__cu_conv p = tl__cu_conv_of(cv);
    p.in = dy; p.weight = weight; p.bias = bias; p.result = dx; p.add = add;
    if (own) tl__cu_conclusion(dev, node, &p);
    tlk_size pixels = (tlk_size)p.n * p.h * p.w,
             largest = (tlk_size)p.n * tl__ceil_div(p.h, p.sh) * tl__ceil_div(p.w, p.sw);
    if (tl__cu_is_mma(dev, cv)) {
        p.rounded = tl__cu_rounded(dev, node);
        p.in = tl__cu_filled_up(dev, node, dy, (tlk_size)p.n * p.oh * p.ow, p.out);
        if (node->op != TL_OP_CONV_TRANSPOSE2D) tl__cu_join_parts(dev, node, 1, &p);
        tl__cu_fill_up(dev, &p);
        tl__cu_mma(dev, TL__CU_mma_data_16, node, largest, p.c, p.sh * p.sw, &p);
        return;
    }
    if (tl__cu_is_plain(cv)) tl__cu_each(dev, TL__CU_conv_backward_data_plain, node, pixels * p.c, &p);
    else tl__cu_launch(dev, TL__CU_conv_backward_data, node, (largest + 63) / 64, tl__cu_ceil(p.c, 64), p.sh * p.sw,
                       TL__CU_TILES_SHARED, &p);
}

static void tl__cu_conv_backward_weights(tl__cu_device *dev, const tl__node *node, const tl__conv *cv, const void *x,
                                         const void *dy, float *dw)
{
    tl__cu_conv p = tl__cu_conv_of(cv);
    int depth = p.kh * p.kw * (p.c / p.groups);
    size_t weights = (size_t)depth * p.out;
    p.in = x; p.dy = dy; p.splits = tl__cu_splits(dev, cv);
    p.partial = (float *)tl__cu_take(dev, weights * (size_t)p.splits * sizeof(float));
    if (tl__cu_is_mma(dev, cv)) {
        p.in = tl__cu_filled_up(dev, node, x, (tlk_size)p.n * p.h * p.w, p.c);
        p.dy = tl__cu_filled_up(dev, node, dy, (tlk_size)p.n * p.oh * p.ow, p.out);
        if (node->op != TL_OP_CONV_TRANSPOSE2D) tl__cu_join_parts(dev, node, 0, &p);
        tl__cu_fill_up(dev, &p);
        tl__cu_mma(dev, TL__CU_mma_weights_16, node, (tlk_size)p.kh * p.kw * p.c, p.out, p.splits, &p);
    } else if (tl__cu_is_plain(cv))
        tl__cu_typed(dev, TL__CU_conv_backward_weights_plain, node, (tlk_size)tl__cu_ceil(p.out, 32), depth, p.splits,
                     TL__CU_COLUMNS_SHARED, &p);
    else
        tl__cu_launch(dev, TL__CU_conv_backward_weights, node, (tlk_size)tl__cu_ceil(depth, 64), tl__cu_ceil(p.out, 64),
                      p.splits, TL__CU_TILES_SHARED, &p);
    tl__cu_reduce_into(dev, node, p.partial, weights, p.splits, weights, dw);
}

static void tl__cu_forward_conv(tl__cu_device *dev, const tl__node *node)
{
    tl__conv cv = tl__node_conv(dev->net, node, dev->key.batch);
    const void *x = tl__cu_data(dev, tl__cu_input(dev, node, 0));
    const float *weight = tl__cu_tensor(dev, node, TL__WEIGHT, 0), *bias = tl__cu_tensor(dev, node, TL__BIAS, 0);
    if (node->op == TL_OP_CONV_TRANSPOSE2D)
        tl__cu_conv_backward_data(dev, node, &cv, x, weight, bias, tl__cu_data(dev, node), 0, 1);
    else tl__cu_conv_forward(dev, node, &cv, x, weight, bias, tl__cu_data(dev, node), 0, 1);
}

// Sums over rows: geometry shared by all that take 32 channels a block.
static tl__cu_norm tl__cu_rows(const tl__node *node, tlk_size rows)
{
    tl__cu_norm p;
    memset(&p, 0, sizeof p);
    p.rows = rows;
    p.c = node->c;
    p.run = tl__cu_run(rows);
    p.blocks = tl__cu_ceil(rows, (tlk_size)p.run);
    return p;
}

static void tl__cu_backward_conv(tl__cu_device *dev, const tl__node *node)
{
    const tl__node *x = tl__cu_input(dev, node, 0);
    tl__conv cv = tl__node_conv(dev->net, node, dev->key.batch);
    const float *weight = tl__cu_tensor(dev, node, TL__WEIGHT, 0);
    float *dw = tl__cu_tensor(dev, node, TL__WEIGHT, 1), *db = tl__cu_tensor(dev, node, TL__BIAS, 1);
    void *dy = tl__cu_grad(dev, node), *dx = tl__cu_grad(dev, x);
    int add = dev->written[node->input[0]], transposed = node->op == TL_OP_CONV_TRANSPOSE2D;
    if (db) {
        tl__cu_norm p = tl__cu_rows(node, (tlk_size)dev->key.batch * node->h * node->w);
        p.dy = dy;
        p.partial = (float *)tl__cu_take(dev, (size_t)p.blocks * p.c * sizeof(float));
        tl__cu_column_kernel(dev, TL__CU_column_sums, node, &p);
        tl__cu_reduce_into(dev, node, p.partial, (size_t)p.c, p.blocks, (size_t)p.c, db);
        dev->taken = 0;
    }
    if (dw && transposed) tl__cu_conv_backward_weights(dev, node, &cv, dy, tl__cu_data(dev, x), dw);
    else if (dw) tl__cu_conv_backward_weights(dev, node, &cv, tl__cu_data(dev, x), dy, dw);
    if (!x->wants_grad) return;
    dev->taken = 0;
    if (transposed) tl__cu_conv_forward(dev, node, &cv, dy, weight, NULL, dx, add, 0);
    else tl__cu_conv_backward_data(dev, node, &cv, dy, weight, NULL, dx, add, 0);
}

// ---- >>norm --------------------------------------------------------------------------------

static tl__cu_norm tl__cu_norm_of(tl__cu_device *dev, const tl__node *node)
{
    int group = node->op == TL_OP_GROUP_NORM;
    tlk_size positions = (tlk_size)node->h * node->w;
    tl__cu_norm p = tl__cu_rows(node, group ? positions : positions * (tlk_size)dev->key.batch);
    p.x = tl__cu_data(dev, tl__cu_input(dev, node, 0));
    p.y = tl__cu_data(dev, node);
    p.weight = tl__cu_tensor(dev, node, TL__WEIGHT, 0);
    p.bias = tl__cu_tensor(dev, node, TL__BIAS, 0);
    p.running_mean = tl__cu_tensor(dev, node, TL__RUNNING_MEAN, 0);
    p.running_var = tl__cu_tensor(dev, node, TL__RUNNING_VAR, 0);
    p.stats = (float *)(void *)(dev->arena + node->aux_at * sizeof(tl_real));
    p.n = dev->key.batch;
    p.groups = group ? node->attr.norm.groups : 1;
    p.relu = node->fused != TL_OP_NONE;
    p.eps = tl__norm_eps(node);
    p.momentum = node->attr.norm.momentum > 0 ? node->attr.norm.momentum : 0.1f;
    return p;
}

static void tl__cu_backward_of(tl__cu_device *dev, const tl__node *node, tl__cu_norm *p)
{
    p->dy = tl__cu_grad(dev, node);
    p->dx = tl__cu_grad(dev, tl__cu_input(dev, node, 0));
    p->dweight = tl__cu_tensor(dev, node, TL__WEIGHT, 1);
    p->dbias = tl__cu_tensor(dev, node, TL__BIAS, 1);
    p->add = dev->written[node->input[0]];
}

static void tl__cu_forward_batch_norm(tl__cu_device *dev, const tl__node *node)
{
    tl__cu_norm p = tl__cu_norm_of(dev, node);
    tlk_size channels = (tlk_size)tl__cu_ceil(p.c, 256);
    int left_by_conv = dev->sums_of == node->input[0] && tl__cu_uses_batch(dev, node);
    if (left_by_conv) {
        p.run = TL__CU_MMA_ROWS;
        p.blocks = tl__cu_ceil(p.rows, TL__CU_MMA_ROWS);
        p.partial = (float *)(size_t)dev->sums;
        dev->taken = tl__cu_align(2 * (size_t)p.blocks * p.c * sizeof(float));        // behind them
    } else {
        p.partial = (float *)tl__cu_take(dev, 2 * (size_t)p.blocks * p.c * sizeof(float));
    }
    dev->sums_of = -1;
    p.vectors = (float *)tl__cu_take(dev, 2 * (size_t)p.c * sizeof(float));
    if (tl__cu_uses_batch(dev, node)) {
        if (dev->key.adapting) p.momentum = 1 / (float)dev->key.adapting;
        if (node->stats == TL_STATS_BATCH) p.running_mean = p.running_var = NULL;
    }
    if (left_by_conv) {
        tl__cu_launch(dev, TL__CU_bn_merge, node, (tlk_size)p.c, 1, 1, TL__CU_SUMS_SHARED, &p);
    } else if (tl__cu_uses_batch(dev, node)) {
        tl__cu_column_kernel(dev, TL__CU_bn_partial, node, &p);
        tl__cu_typed(dev, TL__CU_bn_finish, node, (tlk_size)p.c, 1, 1, TL__CU_SUMS_SHARED, &p);
    } else {
        tl__cu_launch(dev, TL__CU_bn_eval, node, channels, 1, 1, 0, &p);
    }
    tl__cu_pieces_of(dev, TL__CU_bn_apply, node, p.rows * p.c, &p);
}

static void tl__cu_backward_batch_norm(tl__cu_device *dev, const tl__node *node)
{
    tl__cu_norm p = tl__cu_norm_of(dev, node);
    tl__cu_backward_of(dev, node, &p);
    p.partial = (float *)tl__cu_take(dev, 2 * (size_t)p.blocks * p.c * sizeof(float));
    p.vectors = (float *)tl__cu_take(dev, 2 * (size_t)p.c * sizeof(float));
    tl__cu_column_kernel(dev, TL__CU_bn_backward_partial, node, &p);
    tl__cu_launch(dev, TL__CU_bn_backward_finish, node, (tlk_size)p.c, 1, 1, TL__CU_SUMS_SHARED, &p);
    if (!tl__cu_input(dev, node, 0)->wants_grad) return;
    if (!tl__cu_uses_batch(dev, node) && !dev->code)                    // no x moves fixed statistics
        tl__cu_keep_error(dev, dev->driver->clear(dev->self, p.vectors, 2 * (size_t)p.c * sizeof(float)), "clearing");
    tl__cu_pieces_of(dev, TL__CU_bn_backward_apply, node, p.rows * p.c, &p);
}

static void tl__cu_forward_norm(tl__cu_device *dev, const tl__node *node)
{
    tl__cu_norm p = tl__cu_norm_of(dev, node);
    if (node->op == TL_OP_LAYER_NORM) {
        tl__cu_typed(dev, TL__CU_ln_forward, node, (p.rows + 7) / 8, 1, 1, 0, &p);
        return;
    }
    tl__cu_typed(dev, TL__CU_gn_stats, node, (tlk_size)p.n * p.groups, 1, 1, TL__CU_SUMS_SHARED, &p);
    tl__cu_many(dev, TL__CU_gn_apply, node, tl__cu_count(dev, node), &p);
}

static void tl__cu_backward_norm(tl__cu_device *dev, const tl__node *node)
{
    tl__cu_norm p = tl__cu_norm_of(dev, node);
    int group = node->op == TL_OP_GROUP_NORM, parts = group ? p.n : p.blocks,
        wanted = tl__cu_input(dev, node, 0)->wants_grad;
    tl__cu_backward_of(dev, node, &p);
    p.partial = (float *)tl__cu_take(dev, 2 * (size_t)parts * p.c * sizeof(float));
    tl__cu_typed(dev, group ? TL__CU_gn_backward_sums : TL__CU_ln_backward_sums, node, (tlk_size)tl__cu_ceil(p.c, 32),
                 parts, 1, TL__CU_COLUMNS_SHARED, &p);
    if (p.dbias) tl__cu_reduce_into(dev, node, p.partial, 2 * (size_t)p.c, parts, (size_t)p.c, p.dbias);
    if (p.dweight) tl__cu_reduce_into(dev, node, p.partial + p.c, 2 * (size_t)p.c, parts, (size_t)p.c, p.dweight);
    if (!wanted) return;
    if (!group) {
        tl__cu_typed(dev, TL__CU_ln_backward, node, (p.rows + 7) / 8, 1, 1, 0, &p);
        return;
    }
    p.vectors = (float *)tl__cu_take(dev, 2 * (size_t)p.n * p.groups * sizeof(float));
    tl__cu_launch(dev, TL__CU_gn_backward_means, node, (tlk_size)tl__cu_ceil((tlk_size)p.n * p.groups, 256), 1, 1, 0,
                  &p);
    tl__cu_many(dev, TL__CU_gn_backward_apply, node, tl__cu_count(dev, node), &p);
}

// ---- >>activation, >>pool, >>resample, >>join -----------------------------------------------

static int tl__cu_element_op(tl_op op)
{
    switch (op) {
    case TL_OP_RELU: return TL__CU_RELU;
    case TL_OP_LEAKY_RELU: return TL__CU_LEAKY_RELU;
    case TL_OP_RELU6: return TL__CU_RELU6;
    case TL_OP_SIGMOID: return TL__CU_SIGMOID;
    case TL_OP_TANH: return TL__CU_TANH;
    case TL_OP_GELU: return TL__CU_GELU;
    case TL_OP_SILU: return TL__CU_SILU;
    case TL_OP_ADD: return TL__CU_ADD;
    case TL_OP_MUL: return TL__CU_MUL;
    default: return TL__CU_COPY;
    }
}

// A thread for each piece of channels where they come in whole pieces, else for each value.
static void tl__cu_channel_runs(tl__cu_device *dev, int kernel, const tl__node *node, tlk_size count, const tl__cu_pool *p)
{
    if (p->c % tl__cu_piece_values(dev) == 0) tl__cu_pieces_of(dev, kernel, node, count, p);
    else tl__cu_each(dev, kernel, node, count, p);
}

static tl__cu_pool tl__cu_pool_of(tl__cu_device *dev, const tl__node *node)
{
    const tl__node *x = tl__cu_input(dev, node, 0);
    tl__cu_pool p;
    memset(&p, 0, sizeof p);
    p.x = tl__cu_data(dev, x);
    p.y = tl__cu_data(dev, node);
    p.n = dev->key.batch; p.h = x->h; p.w = x->w; p.c = node->c; p.oh = node->h; p.ow = node->w;
    if (node->op == TL_OP_UPSAMPLE) {
        p.kh = node->attr.up.factor;
        p.average = node->attr.up.mode == TL_BILINEAR;
    } else if (node->op != TL_OP_ADAPTIVE_AVG_POOL) {
        tl__window s = tl__pool_of(node, x->h, x->w, x->c);
        p.kh = s.kh; p.kw = s.kw; p.sh = s.sh; p.sw = s.sw; p.pt = s.pt; p.pl = s.pl;
        p.average = node->op == TL_OP_AVG_POOL;
        p.exclude_pad = node->attr.pool.exclude_pad;
    }
    return p;
}

static tl__cu_dropout tl__cu_dropout_of(tl__cu_device *dev, const tl__node *node)
{
    tl_rng address = tl__dropout_address(dev->net, node, 0);
    float probability = node->attr.number.value;
    tl__cu_dropout p;
    memset(&p, 0, sizeof p);
    p.pass = (const unsigned *)(const void *)(dev->tables + dev->at.pass);
    p.count = tl__sample_count(node);
    p.threshold = (tlk_size)((double)probability * 4294967296.0);
    p.key[0] = address.key[0]; p.key[1] = address.key[1];
    p.purpose = address.counter[1];
    p.scale = probability < 1 ? 1 / (1 - probability) : 0;
    p.whole = node->attr.number.whole;
    return p;
}

static void tl__cu_run_dropout(tl__cu_device *dev, const tl__node *node, const void *x, void *y, int add)
{
    tl__cu_dropout p = tl__cu_dropout_of(dev, node);
    p.x = x; p.y = y; p.add = add;
    tl__cu_typed(dev, TL__CU_dropout, node, (p.count + 1023) / 1024, dev->key.batch, 1, 0, &p);
}

static void tl__cu_forward_concat(tl__cu_device *dev, const tl__node *node)
{
    tl__cu_join p;
    memset(&p, 0, sizeof p);
    p.y = tl__cu_data(dev, node);
    p.to_c = node->c;
    for (int k = 0; k < node->inputs; k++) {
        const tl__node *part = tl__cu_input(dev, node, k);
        p.x = tl__cu_data(dev, part);
        p.c = p.from_c = part->c;
        p.count = tl__cu_count(dev, part);
        tl__cu_pieces_of(dev, TL__CU_slice, node, p.count, &p);
        p.to_first += part->c;
    }
}

static tl__cu_attention tl__cu_attention_of(tl__cu_device *dev, const tl__node *node)
{
    tl__cu_attention p;
    memset(&p, 0, sizeof p);
    p.qkv = tl__cu_data(dev, tl__cu_input(dev, node, 0));
    p.out = tl__cu_data(dev, node);
    p.log_sum = (float *)(void *)(dev->arena + node->aux_at * sizeof(tl_real));
    p.n = dev->key.batch; p.tokens = node->h * node->w; p.channels = node->c; p.heads = node->attr.attention.heads;
    return p;
}

static void tl__cu_attention_kernel(tl__cu_device *dev, int kernel, const tl__node *node, const tl__cu_attention *p)
{
    tl__cu_typed(dev, kernel, node, (tlk_size)tl__cu_ceil(p->tokens, 8), p->heads, p->n,
                 (2 * 8 * 128 + 2 * 32 * 129) * sizeof(float), p);
}

// Positions one after the other are values one after the other: `values` of each sample, from one place to another.
static void tl__cu_move(tl__cu_device *dev, const tl__node *node, size_t values, const void *from, size_t from_values,
                        size_t from_first, void *to, size_t to_values, size_t to_first, int add)
{
    tl__cu_join p;
    memset(&p, 0, sizeof p);
    p.x = from; p.y = to; p.add = add;
    p.c = (int)values;
    p.from_c = (int)from_values; p.from_first = (int)from_first;
    p.to_c = (int)to_values; p.to_first = (int)to_first;
    p.count = (tlk_size)values * (tlk_size)dev->key.batch;
    tl__cu_pieces_of(dev, TL__CU_slice, node, p.count, &p);
}

static void tl__cu_forward_tokens(tl__cu_device *dev, const tl__node *node)
{
    size_t first = 0;
    for (int k = 0; k < node->inputs; k++) {
        const tl__node *part = tl__cu_input(dev, node, k);
        size_t values = tl__sample_count(part);
        tl__cu_move(dev, node, values, tl__cu_data(dev, part), values, 0, tl__cu_data(dev, node),
                    tl__sample_count(node), first, 0);
        first += values;
    }
}

static void tl__cu_run_parameter(tl__cu_device *dev, const tl__node *node, int gradient)
{
    tl__cu_join p;
    memset(&p, 0, sizeof p);
    p.rows = tl__sample_count(node);
    p.count = tl__cu_count(dev, node);
    p.x = gradient ? tl__cu_grad(dev, node) : (void *)tl__cu_tensor(dev, node, TL__WEIGHT, 0);
    p.y = gradient ? (void *)tl__cu_tensor(dev, node, TL__WEIGHT, 1) : tl__cu_data(dev, node);
    if (!p.y) return;                                                       // frozen
    if (gradient) tl__cu_many(dev, TL__CU_parameter_backward, node, p.rows, &p);
    else tl__cu_many(dev, TL__CU_parameter_forward, node, p.count, &p);
}

// A ReLU that overwrites the sum before it, which does it, too.
static int tl__cu_relu_of_sum(const tl__cu_device *dev, const tl__node *node)
{
    return node->op == TL_OP_RELU && node->alias >= 0 && &dev->net->nodes[node->alias] == node - 1 && node[-1].op == TL_OP_ADD;
}

// Whether the node that a ReLU overwrites has done it in this pass.
static int tl__cu_relu_is_done(const tl__cu_device *dev, const tl__node *node)
{
    const tl__node *x = tl__cu_input(dev, node, 0);
    return tl__cu_relu_of_sum(dev, node) || (node->fused && (x->op != TL_OP_ADD || tl__cu_folded(dev, x)));
}

static void tl__cu_forward_node(tl__cu_device *dev, const tl__node *node)
{
    const tl__node *x = node->inputs ? tl__cu_input(dev, node, 0) : NULL;
    void *y = tl__cu_data(dev, node);
    tlk_size count = tl__cu_count(dev, node);
    dev->taken = 0;
    if (tl__cu_folded(dev, node) && !tl__is_conv(node->op)) return;
    switch (node->op) {
    case TL_OP_INPUT: return;
    case TL_OP_CONCAT: if (!node->joined) tl__cu_forward_concat(dev, node); return;
    case TL_OP_CONV2D: case TL_OP_CONV_TRANSPOSE2D: case TL_OP_DENSE: tl__cu_forward_conv(dev, node); return;
    case TL_OP_BATCH_NORM: tl__cu_forward_batch_norm(dev, node); return;
    case TL_OP_GROUP_NORM: case TL_OP_LAYER_NORM: tl__cu_forward_norm(dev, node); return;
    case TL_OP_TOKENS: tl__cu_forward_tokens(dev, node); return;
    case TL_OP_PARAMETER: tl__cu_run_parameter(dev, node, 0); return;
    case TL_OP_SELECT:
        tl__cu_move(dev, node, tl__sample_count(node), tl__cu_data(dev, x), tl__sample_count(x),
                    (size_t)node->attr.select.first * node->c, y, tl__sample_count(node), 0, 0);
        return;
    case TL_OP_ATTENTION: {
        tl__cu_attention p = tl__cu_attention_of(dev, node);
        tl__cu_attention_kernel(dev, TL__CU_attention_forward, node, &p);
        return;
    }
    case TL_OP_SOFTMAX: {
        tl__cu_norm p = tl__cu_rows(node, count / (tlk_size)node->c);
        p.x = tl__cu_data(dev, x); p.y = y;
        tl__cu_typed(dev, TL__CU_softmax_forward, node, (p.rows + 7) / 8, 1, 1, 0, &p);
        return;
    }
    case TL_OP_MAX_POOL: case TL_OP_AVG_POOL: case TL_OP_UPSAMPLE: {
        tl__cu_pool p = tl__cu_pool_of(dev, node);
        if (node->op == TL_OP_UPSAMPLE) tl__cu_each(dev, TL__CU_upsample_forward, node, count, &p);
        else tl__cu_channel_runs(dev, TL__CU_pool_forward, node, count, &p);
        return;
    }
    case TL_OP_ADAPTIVE_AVG_POOL: {
        tl__cu_pool p = tl__cu_pool_of(dev, node);
        tl__cu_typed(dev, TL__CU_adaptive_forward, node, (tlk_size)tl__cu_ceil(p.c, 32), p.oh * p.ow, p.n,
                     TL__CU_COLUMNS_SHARED, &p);
        return;
    }
    case TL_OP_DROPOUT:
        if (!dev->key.training) break;
        tl__cu_run_dropout(dev, node, tl__cu_data(dev, x), y, 0);
        return;
    case TL_OP_MUL:
        if (tl__is_factor(dev->net, node)) {
            tl__cu_join p;
            memset(&p, 0, sizeof p);
            p.x = tl__cu_data(dev, x); p.other = tl__cu_data(dev, tl__cu_input(dev, node, 1)); p.y = y;
            p.count = count; p.c = node->c; p.rows = (tlk_size)node->h * node->w;
            tl__cu_many(dev, TL__CU_mul_channels, node, count, &p);
            return;
        }
        break;
    default: break;
    }
    if (node->op == TL_OP_RELU && tl__cu_relu_is_done(dev, node)) return;
    if (node->op == TL_OP_FLATTEN && tl__cu_data(dev, x) == y) return;
    tl__cu_elements p;
    memset(&p, 0, sizeof p);
    p.x = tl__cu_data(dev, x); p.out = y; p.count = count;
    p.op = tl__cu_element_op(node->op);
    if (node->op == TL_OP_ADD && node + 1 < dev->net->nodes + dev->net->node_count && tl__cu_relu_of_sum(dev, node + 1))
        p.op = TL__CU_ADD_RELU;
    if (node->inputs > 1) p.other = tl__cu_data(dev, tl__cu_input(dev, node, 1));
    if (node->op == TL_OP_LEAKY_RELU) p.number = node->attr.number.value;
    tl__cu_pieces_of(dev, TL__CU_elements_forward, node, count, &p);
}

// The gradient with respect to input number k, for all but convolutions and norms.
static void tl__cu_backward_input(tl__cu_device *dev, const tl__node *node, int k)
{
    const tl__node *x = tl__cu_input(dev, node, k);
    void *dy = tl__cu_grad(dev, node), *dx = tl__cu_grad(dev, x), *y = tl__cu_data(dev, node);
    int add = dev->written[node->input[k]];
    tlk_size count = tl__cu_count(dev, node);
    switch (node->op) {
    case TL_OP_CONCAT: {
        tl__cu_join p;
        memset(&p, 0, sizeof p);
        for (int j = 0; j < k; j++) p.from_first += tl__cu_input(dev, node, j)->c;
        p.x = dy; p.y = dx; p.c = p.to_c = x->c; p.from_c = node->c; p.add = add;
        p.count = tl__cu_count(dev, x);
        tl__cu_pieces_of(dev, TL__CU_slice, node, p.count, &p);
        return;
    }
    case TL_OP_TOKENS: {
        size_t first = 0, values = tl__sample_count(x);
        for (int j = 0; j < k; j++) first += tl__sample_count(tl__cu_input(dev, node, j));
        tl__cu_move(dev, node, values, dy, tl__sample_count(node), first, dx, values, 0, add);
        return;
    }
    case TL_OP_SELECT:
        if (!add && !dev->code)
            tl__cu_keep_error(dev,
                              dev->driver->clear(dev->self, dx, (size_t)tl__cu_count(dev, x) * (dev->half ? 2 : 4)),
                              "clearing the gradient of '%s'", x->name);
        tl__cu_move(dev, node, tl__sample_count(node), dy, tl__sample_count(node), 0, dx, tl__sample_count(x),
                    (size_t)node->attr.select.first * node->c, 1);
        return;
    case TL_OP_ATTENTION: {
        tl__cu_attention p = tl__cu_attention_of(dev, node);
        p.dout = dy; p.dqkv = dx; p.add = add;
        p.mean = (float *)tl__cu_take(dev, (size_t)p.n * p.heads * p.tokens * sizeof(float));
        tl__cu_attention_kernel(dev, TL__CU_attention_backward_queries, node, &p);
        tl__cu_attention_kernel(dev, TL__CU_attention_backward_keys, node, &p);
        return;
    }
    case TL_OP_SOFTMAX: {
        tl__cu_norm p = tl__cu_rows(node, count / (tlk_size)node->c);
        p.y = y; p.dy = dy; p.dx = dx; p.add = add;
        tl__cu_typed(dev, TL__CU_softmax_backward, node, (p.rows + 7) / 8, 1, 1, 0, &p);
        return;
    }
    case TL_OP_MAX_POOL: case TL_OP_AVG_POOL: case TL_OP_UPSAMPLE: case TL_OP_ADAPTIVE_AVG_POOL: {
        tl__cu_pool p = tl__cu_pool_of(dev, node);
        p.dy = dy; p.dx = dx; p.add = add;
        if (node->op == TL_OP_UPSAMPLE) tl__cu_each(dev, TL__CU_upsample_backward, node, tl__cu_count(dev, x), &p);
        else if (node->op == TL_OP_ADAPTIVE_AVG_POOL)
            tl__cu_each(dev, TL__CU_adaptive_backward, node, tl__cu_count(dev, x), &p);
        else tl__cu_channel_runs(dev, TL__CU_pool_backward, node, tl__cu_count(dev, x), &p);
        return;
    }
    case TL_OP_DROPOUT: tl__cu_run_dropout(dev, node, dy, dx, add); return;
    case TL_OP_MUL:
        if (tl__is_factor(dev->net, node)) {
            tl__cu_join p;
            memset(&p, 0, sizeof p);
            p.x = k == 0 ? dy : tl__cu_data(dev, tl__cu_input(dev, node, 0));
            p.other = k == 0 ? tl__cu_data(dev, tl__cu_input(dev, node, 1)) : dy;
            p.y = dx; p.count = count; p.c = node->c; p.rows = (tlk_size)node->h * node->w; p.add = add;
            if (k == 0) tl__cu_many(dev, TL__CU_mul_channels, node, count, &p);
            else tl__cu_typed(dev, TL__CU_mul_channels_sums, node, (tlk_size)tl__cu_ceil(p.c, 32), dev->key.batch, 1,
                              TL__CU_COLUMNS_SHARED, &p);
            return;
        }
        break;
    default: break;
    }
    if (node->fused && x->op == TL_OP_BATCH_NORM) return;                   // its batch norm does it
    if (dx == dy && tl__cu_element_op(node->op) == TL__CU_COPY) return;
    tl__cu_elements p;
    memset(&p, 0, sizeof p);
    p.dy = dy; p.out = dx; p.count = count; p.add = add;
    p.op = tl__cu_element_op(node->op);
    if (node->op == TL_OP_MUL) p.x = tl__cu_data(dev, tl__cu_input(dev, node, 1 - k));
    else if (tl__backward_reads_output(node->op)) p.x = y;
    else if (tl__backward_reads_input(node->op)) p.x = tl__cu_data(dev, x);
    if (node->op == TL_OP_LEAKY_RELU) p.number = node->attr.number.value;
    tl__cu_pieces_of(dev, TL__CU_elements_backward, node, count, &p);
}

static void tl__cu_backward_node(tl__cu_device *dev, const tl__node *node)
{
    int with_parameters = 1;
    dev->taken = 0;
    switch (node->op) {
    case TL_OP_INPUT: return;
    case TL_OP_PARAMETER: tl__cu_run_parameter(dev, node, 1); return;
    case TL_OP_CONV2D: case TL_OP_CONV_TRANSPOSE2D: case TL_OP_DENSE: tl__cu_backward_conv(dev, node); break;
    case TL_OP_BATCH_NORM: tl__cu_backward_batch_norm(dev, node); break;
    case TL_OP_GROUP_NORM: case TL_OP_LAYER_NORM: tl__cu_backward_norm(dev, node); break;
    default: with_parameters = 0; break;
    }
    for (int k = 0; k < node->inputs; k++) {
        if (!tl__cu_input(dev, node, k)->wants_grad) continue;
        if (!with_parameters) tl__cu_backward_input(dev, node, k);
        dev->written[node->input[k]] = 1;
        const tl__node *x = tl__cu_input(dev, node, k);
        for (int part = 0; part < x->inputs && x->joined; part++) dev->written[x->input[part]] = 1;
    }
}

// ---- >>loss --------------------------------------------------------------------------------

static void tl__cu_run_loss(tl__cu_device *dev, int index, int gradients)
{
    tl_net *net = dev->net;
    const tl__loss_term *term = &net->losses[index];
    const tl_loss_desc *d = &term->desc;
    const tl__node *logits = &net->nodes[term->node];
    void *targets = dev->arena + net->losses[term->target_of].target_at * sizeof(tl_real);
    float *class_weights = (float *)(void *)(dev->tables + dev->at.class_weights);
    int dense = tl__loss_is_dense(d);
    tl__cu_loss p;
    memset(&p, 0, sizeof p);
    dev->taken = 0;
    for (int i = 0; i < index; i++) class_weights += net->nodes[net->losses[i].node].c;
    p.x = tl__cu_data(dev, logits);
    p.dx = tl__cu_grad(dev, logits);
    p.index = dense ? NULL : (const int *)targets;
    p.dense = dense ? (const float *)targets : NULL;
    if (d->pixel_weights)
        p.weight = (const float *)targets + tl__target_values(net, &net->losses[term->target_of], net->batch_max);
    p.class_weight = term->class_weight ? class_weights : NULL;
    p.positions = (tlk_size)dev->key.batch * logits->h * logits->w;
    p.c = logits->c;
    p.kind = (int)d->kind;
    p.softmax = !dense && logits->c > 1;
    p.ignore_index = d->ignore_index;
    p.blocks = tl__cu_ceil(p.positions, TL__CU_LOSS_RUN);
    p.add = dev->written[term->node];
    p.smoothing = d->smoothing;
    p.gamma = d->gamma != 0 ? d->gamma : 2;
    p.alpha = d->alpha;
    p.delta = d->delta != 0 ? d->delta : 1;
    p.scale = d->weight;
    int each = d->kind == TL_DICE ? 3 * p.c : 2;
    p.partial = (double *)tl__cu_take(dev, (size_t)p.blocks * each * sizeof(double));
    p.factors = (float *)tl__cu_take(dev, 2 * (size_t)p.c * sizeof(float));
    p.value = (double *)(void *)(dev->tables + dev->at.results) + 3 + index;
    tl__cu_typed(dev, d->kind == TL_DICE ? TL__CU_dice_sums : TL__CU_loss_sums, logits, (tlk_size)p.blocks, 1, 1,
                 TL__CU_SUMS_SHARED, &p);
    tl__cu_launch(dev, TL__CU_loss_finish, logits, 1, 1, 1, TL__CU_SUMS_SHARED, &p);
    if (!gradients || !logits->wants_grad) return;
    tl__cu_each(dev, TL__CU_loss_gradient, logits, p.positions, &p);
    dev->written[term->node] = 1;
}

// ---- >>optim -------------------------------------------------------------------------------

static void tl__cu_run_step(tl__cu_device *dev)
{
    static const int kinds[TL_OPTIMIZER_COUNT] = { 0,           TL__CU_SGD,  TL__CU_ADAGRAD, TL__CU_RMSPROP,
                                                   TL__CU_ADAM, TL__CU_ADAM, TL__CU_LION };
    tl_net *net = dev->net;
    tl__cu_step p;
    memset(&p, 0, sizeof p);
    dev->taken = 0;
    p.parameters = (float *)(void *)dev->flat[TL__PARAMETERS];
    p.gradients = (const float *)(const void *)dev->flat[TL__GRADIENTS];
    if (net->moment_slots > 0) p.first = (float *)(void *)dev->flat[TL__MOMENTS];
    if (net->moment_slots > 1) p.second = p.first + net->parameter_count;
    p.pieces = (const tl__cu_piece *)(const void *)(dev->tables + dev->at.pieces);
    p.rates = (const tl__cu_rates *)(const void *)(dev->tables + dev->at.rates);
    p.state = (double *)(void *)(dev->tables + dev->at.results);
    p.piece_count = dev->at.piece_count;
    p.kind = kinds[dev->key.optimizer];
    p.clip_norm = dev->key.clip_norm;
    p.partial = (double *)tl__cu_take(dev, (size_t)p.piece_count * sizeof(double));
    tl__cu_copy(dev, dev->tables + dev->at.rates, dev->twin + dev->at.rates,
                (size_t)net->tensor_count * sizeof(tl__cu_rates), TL__CU_TO_DEVICE, "rates");
    if (p.piece_count)
        tl__cu_launch(dev, TL__CU_step_norm, NULL, (tlk_size)p.piece_count, 1, 1, TL__CU_SUMS_SHARED, &p);
    tl__cu_launch(dev, TL__CU_step_scale, NULL, 1, 1, 1, TL__CU_SUMS_SHARED, &p);
    if (p.piece_count) tl__cu_launch(dev, TL__CU_step_update, NULL, (tlk_size)p.piece_count, 1, 1, 0, &p);
}

static void tl__cu_set_rates(tl__cu_device *dev)
{
    tl_net *net = dev->net;
    tl__cu_rates *rates = (tl__cu_rates *)(void *)(dev->twin + dev->at.rates);
    tl__step step;
    tl__step_cut(&step, net);
    step.scale = 1;
    tl__step_debias(&step);
    for (int i = 0; i < net->tensor_count; i++) {
        if (!net->tensors[i].trained) continue;
        tl__rates r = tl__rates_of(&step, &net->tensors[i]);
        tl__cu_rates to = { r.lr,    r.decay, r.keep,    r.eps,     r.momentum,
                            r.beta1, r.beta2, r.gain,    r.from_g,  r.from_b,
                            r.rest1, r.rest2, r.debias1, r.debias2, tl__is_frozen(net, &net->tensors[i]) };
        rates[i] = to;
    }
}

// ---- the sequence --------------------------------------------------------------------------

static void tl__cu_run_backward(tl__cu_device *dev)
{
    tl_net *net = dev->net;
    if (dev->key.clear && net->parameter_count && !dev->code)
        tl__cu_keep_error(
            dev, dev->driver->clear(dev->self, dev->flat[TL__GRADIENTS], net->parameter_count * sizeof(tl_real)),
            "clearing the gradients");
    for (int i = net->node_count - 1; i >= 0; i--) {
        const tl__node *node = &net->nodes[i];
        if (!node->wants_grad || node->joined) continue;
        if (!dev->written[i] && !dev->code)
            tl__cu_keep_error(dev, dev->driver->clear(dev->self, tl__cu_grad(dev, node),
                                                      (size_t)tl__cu_count(dev, node) * (dev->half ? 2 : 4)),
                              "clearing the gradient of '%s'", node->name);
        tl__cu_backward_node(dev, node);
    }
}

// Launches the work of dev->key.
static void tl__cu_enqueue(tl__cu_device *dev)
{
    tl_net *net = dev->net;
    int work = dev->key.work;
    memcpy(dev->written, dev->given, (size_t)net->node_count);
    if (work & TL__CU_DO_FORWARD) {
        tl__cu_copy(dev, dev->tables + dev->at.pass, dev->twin + dev->at.pass, sizeof(unsigned), TL__CU_TO_DEVICE,
                    "the pass");
        dev->sums_of = -1;
        tl__cu_round_weights(dev);
        for (int i = 0; i < net->node_count; i++) tl__cu_forward_node(dev, &net->nodes[i]);
    }
    if (work & (TL__CU_DO_LOSSES | TL__CU_DO_GRADIENTS))
        for (int i = 0; i < net->loss_count; i++) tl__cu_run_loss(dev, i, work & TL__CU_DO_GRADIENTS);
    if (work & TL__CU_DO_BACKWARD) tl__cu_run_backward(dev);
    if (work & TL__CU_DO_STEP) tl__cu_run_step(dev);
    if (work & (TL__CU_DO_LOSSES | TL__CU_DO_GRADIENTS | TL__CU_DO_STEP))
        tl__cu_copy(dev, dev->twin, dev->tables, (3 + (size_t)net->loss_count) * sizeof(double), TL__CU_TO_HOST,
                    "results");
}

static tl__cu_graph *tl__cu_find_graph(tl__cu_device *dev)
{
    for (int i = 0; i < TL__CU_GRAPHS; i++)
        if (dev->graphs[i].seen && memcmp(&dev->graphs[i].key, &dev->key, sizeof dev->key) == 0) return &dev->graphs[i];
    tl__cu_graph *graph = &dev->graphs[dev->next_graph++ % TL__CU_GRAPHS];      // the oldest makes room
    if (graph->graph) dev->driver->release_graph(dev->self, graph->graph);
    memset(graph, 0, sizeof *graph);
    graph->key = dev->key;
    return graph;
}

// Begins the pending work. The first time it is launched kernel by kernel, which also loads the kernels.
static tl_result tl__cu_flush(tl__cu_device *dev)
{
    if (!dev->pending) return tl__cu_result(dev);
    dev->key.work = dev->pending;
    dev->pending = 0;
    if (dev->desc.no_graph || dev->desc.debug) {
        tl__cu_enqueue(dev);
        return tl__cu_result(dev);
    }
    tl__cu_graph *graph = tl__cu_find_graph(dev);
    if (graph->seen == 1 && !tl__cu_keep_error(dev, dev->driver->begin_graph(dev->self), "recording a graph")) {
        tl__cu_enqueue(dev);
        tl__cu_keep_error(dev, dev->driver->end_graph(dev->self, &graph->graph), "making a graph");
    }
    if (graph->seen == 0) tl__cu_enqueue(dev);
    else if (!dev->code) tl__cu_keep_error(dev, dev->driver->run_graph(dev->self, graph->graph), "running a graph");
    dev->in_flight = 1;
    graph->seen = 2 - (graph->seen == 0);
    return tl__cu_result(dev);
}

// Promises more work; what can not follow what is pending begins first.
static tl_result tl__cu_promise(tl__cu_device *dev, int work)
{
    if (dev->pending >= work && tl__cu_flush(dev)) return tl__cu_result(dev);
    if (!dev->pending) {
        dev->key.work = 0;
        dev->key.clear = 0;
        dev->key.optimizer = 0;
        dev->key.clip_norm = 0;
        dev->key.written = 0;
        memset(dev->given, 0, (size_t)dev->net->node_count);
    }
    dev->pending |= work;
    return TL_OK;
}

// ---- the table of this backend -------------------------------------------------------------

static tl_result tl__cu_forward(tl_net *net)
{
    tl__cu_device *dev = tl__cu_of(net);
    if (tl__cu_flush(dev)) return tl__cu_result(dev);
    tl__cu_wait(dev);                                     // the twin is about to change
    *(unsigned *)(void *)(dev->twin + dev->at.pass) = net->forward_count;
    dev->key.batch = net->batch;
    dev->key.training = net->training;
    dev->key.adapting = net->adapting;
    dev->key.settings = 2166136261u;
    for (int i = 0; i < net->node_count; i++)
        dev->key.settings = tl__hash_bytes(dev->key.settings, &net->nodes[i].stats, sizeof net->nodes[i].stats);
    for (int i = 0; i < net->tensor_count; i++)
        dev->key.settings = tl__hash_bytes(dev->key.settings, &net->tensors[i].frozen, sizeof net->tensors[i].frozen);
    tl_result result = tl__cu_promise(dev, TL__CU_DO_FORWARD);
    return result || net->training ? result : tl__cu_flush(dev);       // nothing will follow that could be joined
}

static tl_result tl__cu_losses(tl_net *net, int gradients)
{
    return tl__cu_promise(tl__cu_of(net), gradients ? TL__CU_DO_GRADIENTS : TL__CU_DO_LOSSES);
}

static tl_result tl__cu_backward(tl_net *net)
{
    tl__cu_device *dev = tl__cu_of(net);
    int from_losses = dev->pending & TL__CU_DO_GRADIENTS;
    if (!from_losses && tl__cu_flush(dev)) return tl__cu_result(dev);
    tl_result result = tl__cu_promise(dev, TL__CU_DO_BACKWARD);
    dev->key.clear = !net->gradients_live;
    for (int i = 0; i < net->node_count && !from_losses; i++) dev->given[i] = net->nodes[i].grad_written != 0;
    dev->key.written = tl__hash_bytes(2166136261u, dev->given, (size_t)net->node_count);
    return result;
}

static tl_result tl__cu_finish(tl_net *net)
{
    tl__cu_device *dev = tl__cu_of(net);
    tl_result result = tl__cu_flush(dev);
    tl__cu_wait(dev);
    const double *results = (const double *)(const void *)dev->twin;
    for (int i = 0; i < net->loss_count && dev->twin; i++) net->losses[i].value = results[3 + i];
    return result ? result : tl__cu_result(dev);
}

static tl_result tl__cu_take_step(tl_net *net)
{
    tl__cu_device *dev = tl__cu_of(net);
    if (dev->in_flight) tl__cu_wait(dev);                 // the twin is about to change
    tl__cu_set_rates(dev);
    tl_result result = tl__cu_promise(dev, TL__CU_DO_STEP);
    dev->key.optimizer = (int)net->optimizer.kind;
    dev->key.clip_norm = net->optimizer.clip_norm;
    if (!result) result = tl__cu_finish(net);
    if (result) return result;
    const double *state = (const double *)(const void *)dev->twin;
    if (state[2] == 0) return tl__fail_diverged(net, state[0]);
    net->grad_norm = state[0];
    return TL_OK;
}

static int tl__cu_first_bad(tl_net *net)
{
    tl__cu_device *dev = tl__cu_of(net);
    dev->key.batch = net->batch;
    dev->sums_of = -1;
    for (int i = 0; i < net->node_count && !tl__cu_flush(dev); i++) {
        const tl__node *node = &net->nodes[i];
        tl__cu_elements p;
        int *flag = (int *)(void *)(dev->twin + dev->at.pass + sizeof(unsigned)), *bad;
        memset(&p, 0, sizeof p);
        if (node->joined) continue;
        tl__cu_forward_node(dev, node);
        bad = (int *)(void *)(dev->tables + dev->at.pass + sizeof(unsigned));
        p.x = tl__cu_data(dev, node);
        p.out = bad;
        p.count = tl__cu_count(dev, node);
        *flag = 0;
        tl__cu_copy(dev, bad, flag, sizeof *flag, TL__CU_TO_DEVICE, "a flag");
        tl__cu_many(dev, TL__CU_find_bad, node, p.count, &p);
        tl__cu_copy(dev, flag, bad, sizeof *flag, TL__CU_TO_HOST, "a flag");
        tl__cu_wait(dev);
        if (*flag) return i;
    }
    return -1;
}

// The two sides of an array, its values, and whether they are activations.
typedef struct tl__cu_pair {
    void  *device, *host;
    size_t count;
    int    activation;
    const char *what;
} tl__cu_pair;

static tl__cu_pair tl__cu_pair_of(tl_net *net, tl__place place, int index)
{
    tl__cu_device *dev = tl__cu_of(net);
    tl__cu_pair pair = { NULL, NULL, 0, 0, "" };
    if (place < TL__FLAT_COUNT) {
        tl_real *const hosts[] = { net->parameters, net->buffers, net->gradients, net->moments };
        size_t counts[] = { net->parameter_count, net->buffer_count, net->parameter_count,
                            net->parameter_count * (size_t)net->moment_slots };
        static const char *const names[] = { "parameters", "buffers", "gradients", "moments" };
        pair.device = dev->flat[place];
        pair.host = hosts[place];
        pair.count = counts[place];
        pair.what = names[place];
    } else if (place == TL__TARGET) {
        const tl__loss_term *term = &net->losses[index];
        pair.device = dev->arena + term->target_at * sizeof(tl_real);
        pair.host = term->mirror;
        pair.count = tl__target_values(net, term, term->target_count);
        if (term->weighted)
            pair.count = tl__target_values(net, term, net->batch_max) + tl__weight_values(net, term, net->batch_max);
        pair.what = "targets";
    } else {
        const tl__node *node = &net->nodes[index];
        pair.device = place == TL__DATA ? tl__cu_data(dev, node) : tl__cu_grad(dev, node);
        pair.host = place == TL__DATA ? node->data : node->grad;
        pair.count = tl__sample_count(node) *
                     (size_t)(node->op == TL_OP_INPUT && place == TL__DATA ? node->samples : dev->key.batch);
        pair.activation = 1;
        pair.what = node->name;
    }
    if (!pair.device || !pair.host) pair.count = 0;
    return pair;
}

// Class indices that a loss does not know would read behind its arrays.
static tl_result tl__cu_check_targets(tl_net *net, int index)
{
    for (int i = 0; i < net->loss_count; i++) {
        const tl__loss_term *term = &net->losses[i];
        const tl__node *node = &net->nodes[term->node];
        if (term->target_of != index || tl__loss_is_dense(&term->desc)) continue;
        if (tl__loss_check_targets(NULL, &term->desc, (const int32_t *)(const void *)net->losses[index].mirror,
                                   net->losses[index].target_count, node->h, node->w, node->c))
            return tl__pass_on(net, TL_ERR_ARGUMENT);
    }
    return TL_OK;
}

static tl_result tl__cu_put(tl_net *net, tl__place place, int index)
{
    tl__cu_device *dev = tl__cu_of(net);
    tl_result result = tl__cu_flush(dev);
    if (!result && place == TL__TARGET) result = tl__cu_check_targets(net, index);
    if (result) return result;
    tl__cu_pair pair = tl__cu_pair_of(net, place, index);
    if (pair.count == 0) return TL_OK;
    if (!pair.activation || !dev->half) {
        tl__cu_copy(dev, pair.device, pair.host, pair.count * sizeof(float), TL__CU_TO_DEVICE, pair.what);
        return tl__cu_result(dev);
    }
    tl__cu_elements p;
    memset(&p, 0, sizeof p);
    dev->taken = 0;
    void *floats = tl__cu_take(dev, pair.count * sizeof(float));
    p.x = floats; p.out = pair.device; p.count = pair.count;
    tl__cu_copy(dev, floats, pair.host, pair.count * sizeof(float), TL__CU_TO_DEVICE, pair.what);
    tl__cu_launch(dev, TL__CU_load_floats, NULL, (p.count + 1023) / 1024, 1, 1, 0, &p);
    return tl__cu_result(dev);
}

static tl_result tl__cu_get(tl_net *net, tl__place place, int index)
{
    tl__cu_device *dev = tl__cu_of(net);
    tl_result result = tl__cu_flush(dev);
    tl__cu_pair pair = tl__cu_pair_of(net, place, index);
    if (result || pair.count == 0) return result;
    const void *from = pair.device;
    if (pair.activation && dev->half) {
        tl__cu_elements p;
        memset(&p, 0, sizeof p);
        dev->taken = 0;
        p.x = pair.device; p.out = tl__cu_take(dev, pair.count * sizeof(float)); p.count = pair.count;
        tl__cu_launch(dev, TL__CU_store_floats, NULL, (p.count + 1023) / 1024, 1, 1, 0, &p);
        from = p.out;
    }
    tl__cu_copy(dev, pair.host, from, pair.count * sizeof(float), TL__CU_TO_HOST, pair.what);
    tl__cu_wait(dev);
    return tl__cu_result(dev);
}

// ---- >>augment: batches made on the GPU ----------------------------------------------------

// What the kernels can not do is refused before the first batch.
static tl_result tl__cu_check_views(const tl_transform *transforms, int count)
{
    const tl_transform *options = NULL;
    int waves = 0, grey = 0, maps = 1;
    for (int i = 0; i < count; i++) {
        const tl_transform *t = &transforms[i];
        int moves = tl__transform_row_of(t->kind)->what == TL__GEOMETRY;
        int displaces = t->kind == TL_ELASTIC || t->kind == TL_DRIFT || t->kind == TL_SCAN;
        if (moves && (grey || (displaces && waves) || (t->kind > TL_CROP && options && !tl__same_options(options, t)))) {
            maps++;
            waves = grey = 0;
            options = NULL;
        }
        waves += displaces;
        if (moves && t->kind > TL_CROP && !options) options = t;
        grey += !moves;
        int kernel = moves || t->kind == TL_BRIGHTNESS || t->kind == TL_BRIGHTNESS_CONTRAST || t->kind == TL_INVERT ||
                     t->kind == TL_GAMMA || t->kind == TL_GAUSS_NOISE || t->kind == TL_GAUSS_NOISE_GREY;
        if (kernel && grey <= TL__CU_VIEW_STEPS && maps <= TL__CU_VIEW_MAPS) continue;
        return tl__fail(NULL, TL_ERR_ARGUMENT, "the GPU cannot do transform %d (%s): %s; without tl_cuda_desc.augment the "
                        "CPU does it", i + 1, tl_transform_name(t->kind),
                        !kernel ? "there is no kernel for it" : "the list changes too often between geometry and grey values");
    }
    return TL_OK;
}

// What tl__move_stage does before it moves pixels: the map, from a piece of the image.
static tl__warp tl__cu_view_map(const tl__job *job, const tl__stage *stage, int first, tl__rect *part, tl__rect *canvas)
{
    tl__warp w = stage->warp;
    tl__rect out = stage->out, none = { 0, 0, 0, 0 }, source;
    *canvas = none;
    source = tl__source_of(&w, out, job->whole_w, job->whole_h, canvas);
    *part = first ? source : job->part;
    if (w.waves.kind && w.waves.kind != TL_ELASTIC) *canvas = tl__whole_rect(w.canvas_w, w.canvas_h);
    tl__shift_right(w.waves.kind ? w.b : w.a, out.x0, out.y0);
    if (w.waves.kind) {
        tl__shift_left(w.b, -canvas->x0, -canvas->y0);
        tl__shift_right(w.a, canvas->x0, canvas->y0);
    }
    tl__shift_left(w.a, -part->x0, -part->y0);
    return w;
}

// The piece of the image, as bytes where they are what the network takes, and of the mask.
static tl_result tl__cu_view_pixels(tl_net *net, tl__job *job, tl__rect part, int steps, tl__cu_view *view, char *room,
                                    size_t size, size_t *used)
{
    const tl_record *record = job->from ? job->from : job->record;
    const tl_image *image = &record->image;
    int channels = tl__only_input(net)->c, width = part.x1 - part.x0, height = part.y1 - part.y0;
    size_t pixels = (size_t)width * height;
    view->width = width;
    view->height = height;
    view->floats = !(image->type == TL_U8 && image->channels == channels && net->preprocess.range == TL_RANGE_FULL);
    size_t bytes = pixels * channels * (view->floats ? 4 : 1), mask_at = (bytes + 15) / 16 * 16;
    *used = record->mask.pixels ? mask_at + pixels : bytes;
    if (*used > size)
        return tl__fail(NULL, TL_ERR_MEMORY, "augment: a window of '%s' needs a piece of %dx%d pixels, %zu bytes; the GPU "
                        "has room for %zu of each sample. Scale it down less, or leave tl_cuda_desc.augment out",
                        record->name, width, height, *used, size);
    if (!view->floats) {
        for (int y = 0; y < height; y++)
            memcpy(room + (size_t)y * width * channels,
                   (const char *)image->pixels + ((size_t)(part.y0 + y) * image->width + part.x0) * channels,
                   (size_t)width * channels);
    } else {
        tl_image piece, fit;
        memset(&piece, 0, sizeof piece);
        memset(&fit, 0, sizeof fit);
        tl_result result = tl_image_crop(&piece, image, part.x0, part.y0, width, height);
        if (!result && job->prepare) result = tl__to_network_image(net, &piece, &fit);
        else if (!result) result = tl_image_convert(&fit, &piece, TL_F32);
        for (size_t i = 0; i < pixels * channels && !result; i++) {
            float value = tl__finite_or_zero(((const float *)fit.pixels)[i]);
            if (steps && !(value >= 0 && value <= 1))
                result = tl__fail(NULL, TL_ERR_ARGUMENT, "augment: image '%s' has the value %g, but transforms of grey "
                                  "values are defined on 0 .. 1; scale the image first", record->name, (double)value);
            ((float *)(void *)room)[i] = value;
        }
        tl_image_free(&piece);
        tl_image_free(&fit);
        if (result) return result;
    }
    view->mask = mask_at;
    for (int y = 0; y < height && record->mask.pixels; y++)
        memcpy(room + mask_at + (size_t)y * width,
               (const char *)record->mask.pixels + (size_t)(part.y0 + y) * record->mask.width + part.x0, (size_t)width);
    return TL_OK;
}

// The numbers of the displacement; those of a lattice are made on the GPU.
static tl_result tl__cu_view_waves(tl__warp *w, tl__rect canvas, const tl__cu_tables *tables, tl__job *job, tl__cu_view *view,
                                   char *room, size_t size, size_t *used)
{
    tl__waves *waves = &w->waves;
    if (!waves->kind) return TL_OK;
    int columns = canvas.x1 - canvas.x0, rows = canvas.y1 - canvas.y0;
    view->canvas_w = columns; view->canvas_h = rows;
    view->canvas_x = canvas.x0; view->canvas_y = canvas.y0;
    if (waves->kind == TL_ELASTIC) {
        float spacing = waves->sigma < 1 ? 1 : waves->sigma;
        view->waves = 1;
        view->spacing = spacing;
        view->columns = (int)((float)w->canvas_w / spacing) + 4;
        int all = (int)((float)w->canvas_h / spacing) + 4;
        view->first_row = (int)floorf((float)canvas.y0 / spacing);
        view->rows = (int)floorf((float)(canvas.y1 - 1) / spacing) + 4 - view->first_row;
        if ((size_t)view->rows * view->columns > tables->nodes)
            return tl__fail(NULL, TL_ERR_MEMORY, "augment: the waves of elastic are too short for the GPU: %dx%d of them "
                            "over '%s', with room for %zu; use a larger sigma", view->columns, view->rows,
                            job->record->name, tables->nodes);
        for (int k = 0; k < 2; k++) {
            view->way[k] = waves->way[k];
            memcpy(view->wave_counter[k], waves->rng.counter, sizeof view->wave_counter[k]);
            view->wave_counter[k][0] += (unsigned)k * (((unsigned)view->columns * (unsigned)all + 3) / 4);
        }
        memcpy(view->wave_key, waves->rng.key, sizeof view->wave_key);
        return TL_OK;
    }
    tl_result result = tl__make_waves(w, &canvas, &job->scratch->work);
    view->waves = 2;
    view->lines = (*used + 15) / 16 * 16;
    *used = view->lines + 2 * (size_t)rows * sizeof(float);
    if (!result && *used > size)
        result = tl__fail(NULL, TL_ERR_MEMORY, "augment: no room for %d lines of '%s'", rows, job->record->name);
    for (int k = 0; k < 2 && !result; k++)
        memcpy(room + view->lines + (size_t)k * rows * sizeof(float), k ? w->dy : w->dx, (size_t)rows * sizeof(float));
    return result;
}

// The steps on grey values, with their draws.
static void tl__cu_view_steps(tl__job *job, const tl__stage *stage, tl__cu_view *view)
{
    for (int i = stage->begin; i < stage->end; i++) {
        tl_transform t;
        if (tl__transform_row_of(job->transforms[i].kind)->what == TL__GEOMETRY || !tl__happens(job, i, &t)) continue;
        float strength = t.kind == TL_INVERT ? 1 : tl__uniform(&job->rng, t.range), gain = 1;
        int at = view->steps++, noise = t.kind == TL_GAUSS_NOISE || t.kind == TL_GAUSS_NOISE_GREY;
        if (t.kind == TL_BRIGHTNESS_CONTRAST) gain += tl__uniform(&job->rng, t.contrast);
        if (t.kind == TL_INVERT) gain = -1;
        if (t.kind == TL_GAMMA) gain = strength;
        if (t.kind == TL_GAUSS_NOISE_GREY) strength = sqrtf(strength) / 255;
        view->step[at].kind = noise ? TL__CU_NOISE : t.kind == TL_GAMMA ? TL__CU_POWER : TL__CU_SCALE;
        view->step[at].gain = gain;
        view->step[at].shift = strength;
        memcpy(view->step[at].counter, job->rng.counter, sizeof view->step[at].counter);
        memcpy(view->step[at].key, job->rng.key, sizeof view->step[at].key);
    }
}

// The classes of a mask must be known to every loss that reads it.
static tl_result tl__cu_check_mask(tl_net *net, const tl_record *record, const unsigned char *mask, size_t count)
{
    unsigned char largest = 0;
    int classes = 255;
    for (size_t i = 0; i < count; i++) if (mask[i] != TL_IGNORE && mask[i] > largest) largest = mask[i];
    for (int i = 0; i < net->loss_count; i++) {
        const tl__node *node = &net->nodes[net->losses[i].node];
        classes = tl__min(classes, node->c == 1 ? 2 : node->c);
    }
    if (largest < classes) return TL_OK;
    return tl__fail(NULL, TL_ERR_ARGUMENT, "augment: the mask of '%s' has class %d, but the network has classes 0 .. %d",
                    record->name, largest, classes - 1);
}

// What the losses need of a record.
static tl_result tl__cu_check_view(tl_net *net, const tl_record *record)
{
    const char *why = NULL;
    for (int i = 0; i < net->loss_count; i++) {
        const tl__loss_term *term = &net->losses[i];
        const tl__node *node = &net->nodes[term->node];
        int masks = tl__takes_masks(node, tl__only_input(net));
        if (tl__loss_is_dense(&term->desc) || term->desc.pixel_weights) why = "a loss with targets other than classes";
        else if (masks && !record->mask.pixels) why = "a mask, which it has not";
        else if (!masks && record->label < 0) why = "a label, which it has not";
    }
    if (record->weight.pixels) why = "weights of its pixels";
    if (!why) return TL_OK;
    return tl__fail(NULL, TL_ERR_ARGUMENT, "augment: '%s' needs %s; leave tl_cuda_desc.augment out", record->name, why);
}

static char *tl__cu_view_place(tl__cu_device *dev)
{
    return dev->twin + (dev->turn ? dev->at.between : dev->at.views);
}

static tl__cu_view *tl__cu_view_at(tl__cu_device *dev, int map, int number)
{
    return (tl__cu_view *)(void *)tl__cu_view_place(dev) + (size_t)map * dev->net->batch_max + number;
}

// Prepares sample `number` of the next batch. Several threads may prepare different ones.
static tl_result tl__cu_view_one(tl_net *net, tl__job *job, int count, int number, const tl__scaling *scaling)
{
    tl__cu_device *dev = tl__cu_of(net);
    const tl__cu_tables *at = &dev->at;
    char *room = tl__cu_view_place(dev) + (at->rooms - at->views) + (size_t)number * at->room;
    const tl_record *record = job->from ? job->from : job->record;
    tl__stage *stages;
    tl__rect part[TL__CU_VIEW_MAPS], canvas[TL__CU_VIEW_MAPS];
    tl__warp w[TL__CU_VIEW_MAPS];
    int stage_count = 0, active = 0, steps = 0;
    size_t used = 0;
    for (int k = 0; k < TL__CU_VIEW_MAPS; k++) memset(tl__cu_view_at(dev, k, number), 0, sizeof(tl__cu_view));
    while (active < count && job->transforms[active].kind != TL_TRANSFORM_END) active++;
    tl_result result = tl__check_record("augment", record);
    if (!result) result = tl__check_transforms(job->transforms, count);
    if (!result) result = tl__cu_check_views(job->transforms, active);
    if (!result) result = tl__cu_check_view(net, record);
    if (result) return result;
    stages = (tl__stage *)tl__alloc((size_t)active + 1, sizeof *stages);
    if (!stages) return tl__fail(NULL, TL_ERR_MEMORY, "augment: no memory for %d transforms", active);
    job->whole_w = record->image.width;
    job->whole_h = record->image.height;
    job->part = tl__whole_rect(job->whole_w, job->whole_h);
    result = tl__plan(job, active, job->whole_w, job->whole_h, stages, &stage_count);
    if (!result && stage_count > TL__CU_VIEW_MAPS)
        result = tl__fail(NULL, TL_ERR_ARGUMENT, "augment: %d maps for '%s'; the GPU makes %d", stage_count, record->name,
                          TL__CU_VIEW_MAPS);
    for (int k = 0; k < stage_count && !result; k++) {
        int last = k == stage_count - 1;
        tl__cu_view *view = tl__cu_view_at(dev, last ? TL__CU_VIEW_MAPS - 1 : k, number);
        w[k] = tl__cu_view_map(job, &stages[k], k == 0, &part[k], &canvas[k]);
        job->part = stages[k].out;
        job->whole_w = stages[k].warp.width;
        job->whole_h = stages[k].warp.height;
        view->number = number;
        view->map = last ? TL__CU_VIEW_MAPS - 1 : k;
        view->out_w = job->part.x1 - job->part.x0;
        view->out_h = job->part.y1 - job->part.y0;
        tl__cu_view_steps(job, &stages[k], view);
        steps += view->steps;
        memcpy(view->a, w[k].a, sizeof view->a);
        memcpy(view->b, w[k].b, sizeof view->b);
        if (w[k].options) {
            tl_transform options = tl__with_defaults(w[k].options);
            view->border = (int)options.border; view->fill = options.fill;
            view->ignore = options.ignore; view->bicubic = options.bicubic;
        }
        view->label = record->label;
        view->masked = record->mask.pixels != NULL;
        memcpy(view->mean, scaling->mean, sizeof view->mean);
        memcpy(view->inverse, scaling->inverse, sizeof view->inverse);
        view->bgr = scaling->bgr;
    }
    for (int k = 0; k < stage_count && !result; k++) {
        tl__cu_view *view = tl__cu_view_at(dev, k == stage_count - 1 ? TL__CU_VIEW_MAPS - 1 : k, number);
        if (k == 0) {
            result = tl__cu_view_pixels(net, job, part[0], steps, view, room, at->room, &used);
            if (!result && view->masked)
                result = tl__cu_check_mask(net, record, (const unsigned char *)room + view->mask,
                                           (size_t)view->width * view->height);
        } else {                                                // what the map before leaves
            const tl__cu_view *before = tl__cu_view_at(dev, k - 1, number);
            view->width = before->out_w;
            view->height = before->out_h;
            view->floats = 1;
            view->pixels = before->to_pixels;
            view->mask = before->to_mask;
        }
        size_t pixels = (size_t)view->out_w * view->out_h, bytes = pixels * tl__only_input(net)->c * sizeof(float);
        view->to_pixels = (size_t)(k + 1) * at->room;
        view->to_mask = view->to_pixels + bytes;
        if (!result && k < stage_count - 1 && bytes + pixels > at->room)
            result = tl__fail(NULL, TL_ERR_MEMORY, "augment: '%s' needs %dx%d pixels between two maps, more than the GPU has "
                              "room for", record->name, view->out_w, view->out_h);
        if (!result) result = tl__cu_view_waves(&w[k], canvas[k], at, job, view, room, at->room, &used);
    }
    tl__cu_view_at(dev, 0, number)->used = (unsigned)used;
    tl__free(stages);
    return result;
}

// Makes the batch whose samples were prepared.
static tl_result tl__cu_make_views(tl_net *net, int count)
{
    tl__cu_device *dev = tl__cu_of(net);
    const tl__cu_tables *at = &dev->at;
    tl__node *input = tl__only_input(net);
    const char *rooms = tl__cu_view_place(dev) + (at->rooms - at->views);
    tl_result result = tl__cu_flush(dev);
    if (result) return result;
    tl__cu_views p;
    memset(&p, 0, sizeof p);
    p.rooms = dev->tables + at->rooms;
    p.lattices = (float *)(void *)(dev->tables + at->lattices);
    p.room = at->whole_room; p.nodes = at->nodes;
    p.samples = net->batch_max; p.c = input->c;
    for (int i = 0; i < count; i++)
        tl__cu_copy(dev, dev->tables + at->rooms + (size_t)i * at->whole_room, rooms + (size_t)i * at->room,
                    tl__cu_view_at(dev, 0, i)->used, TL__CU_TO_DEVICE, "pixels");
    tl__cu_copy(dev, dev->tables + at->views, tl__cu_view_place(dev),
                TL__CU_VIEW_MAPS * (size_t)net->batch_max * sizeof(tl__cu_view), TL__CU_TO_DEVICE, "views");
    for (int k = 0; k < TL__CU_VIEW_MAPS; k++) {
        int nodes = 0, pixels = 0;
        for (int i = 0; i < count; i++) {
            const tl__cu_view *view = tl__cu_view_at(dev, k, i);
            if (view->waves == 1) nodes = tl__max(nodes, view->rows * view->columns);
            pixels = tl__max(pixels, view->out_w * view->out_h);
        }
        p.views = (const tl__cu_view *)(const void *)(dev->tables + at->views) + (size_t)k * net->batch_max;
        if (nodes) tl__cu_launch(dev, TL__CU_view_lattice, input, (tlk_size)tl__cu_ceil((tlk_size)nodes, 256), 2, count, 0, &p);
        if (pixels && k < TL__CU_VIEW_MAPS - 1)
            tl__cu_launch(dev, TL__CU_view_map, input, (tlk_size)tl__cu_ceil((tlk_size)pixels, 256), count, 1, 0, &p);
    }
    p.out = tl__cu_data(dev, input);
    p.h = input->h; p.w = input->w;
    tl__cu_typed(dev, TL__CU_view_input, input, (tlk_size)tl__cu_ceil((tlk_size)p.h * p.w, 256), count, 1, 0, &p);
    for (int i = 0; i < net->loss_count; i++) {
        const tl__loss_term *term = &net->losses[i];
        const tl__node *node = &net->nodes[term->node];
        if (term->target_of != i) continue;
        p.out = dev->arena + term->target_at * sizeof(tl_real);
        p.masks = tl__takes_masks(node, input);
        p.h = node->h; p.w = node->w;
        tl__cu_launch(dev, TL__CU_view_targets, node, (tlk_size)tl__cu_ceil((tlk_size)p.h * p.w, 256), count, 1, 0, &p);
        net->losses[i].target_side = TL__DEVICE_NEWER;
    }
    input->data_side = TL__DEVICE_NEWER;
    dev->turn = !dev->turn;
    return tl__cu_result(dev);
}

static tl_result tl__cu_share(tl_net *net, const tl_net *with)
{
    return tl_use_cuda(net, &tl__cu_of(with)->desc);
}

TINYTL_API tl_result tl_use_cuda(tl_net *net, const tl_cuda_desc *desc)
{
    static const tl_backend backend = { tl__cu_forward,   tl__cu_losses, tl__cu_backward, tl__cu_take_step,
                                        tl__cu_first_bad, tl__cu_check,  tl__cu_scratch,  tl__cu_allocate,
                                        tl__cu_put,       tl__cu_get,    tl__cu_finish,   tl__cu_share,
                                        tl__cu_close,     tl__cu_view_one, tl__cu_make_views, tl__cu_joins };
    const tl__cu_driver *driver = tl__cu_the_driver();
    tl_cuda_desc zero;
    memset(&zero, 0, sizeof zero);
    if (!desc) desc = &zero;
    if (!net) return tl__fail(NULL, TL_ERR_ARGUMENT, "use_cuda: no network");
    if (net->status) return net->status;
    if (net->arena || net->device) return tl__refuse(net, TL_ERR_STATE, "use_cuda: call it once, before tl_prepare");
    if (!driver) return tl__refuse(net, TL_ERR_STATE, "use_cuda: on this system the program must be built with nvcc");
    if (desc->device < 0 || (int)desc->math < 0 || desc->math > TL_CUDA_BF16)
        return tl__refuse(net, TL_ERR_ARGUMENT, "use_cuda: device %d and math %d are not possible", desc->device,
                          (int)desc->math);
    tl__cu_device *dev = (tl__cu_device *)tl__alloc(1, sizeof *dev);
    if (!dev) return tl__refuse(net, TL_ERR_MEMORY, "use_cuda: no memory");
    dev->driver = driver;
    dev->net = net;
    dev->desc = *desc;
    dev->half = desc->math == TL_CUDA_BF16;
    const char *asked = getenv("TINYTL_CUDA_DEBUG");
    if (asked && *asked && *asked != '0') dev->desc.debug = 1;
    int code = driver->open(desc->device, &dev->self);
    if (!code && (code = driver->info(dev->self, &dev->info)) != 0) driver->close(dev->self);
    if (code) {
        tl__free(dev);
        return tl__refuse(net, TL_ERR_STATE, "use_cuda: GPU %d: %s", desc->device, driver->error(code));
    }
    if (dev->info.major < 8) {
        tl_result result = tl__refuse(net, TL_ERR_STATE,
                                      "use_cuda: '%s' has compute capability %d.%d; 8.0 (2020) or later is "
                                      "needed",
                                      dev->info.name, dev->info.major, dev->info.minor);
        driver->close(dev->self);
        tl__free(dev);
        return result;
    }
    net->device = dev;
    net->backend = &backend;
    net->views = desc->augment;
    snprintf(net->device_name, sizeof net->device_name, "%s", dev->info.name);
    return TL_OK;
}

// ---- several GPUs --------------------------------------------------------------------------

TINYTL_API tl_result tl_cuda_join(tl_net *const *nets, int count)
{
    void *selves[TL_CUDA_GPUS], *ring = NULL;
    if (!nets || count < 1 || count > TL_CUDA_GPUS)
        return tl__fail(NULL, TL_ERR_ARGUMENT, "cuda_join: %d networks; 1 to %d can learn together", count, TL_CUDA_GPUS);
    tl__cu_device *first = nets[0] ? tl__cu_of(nets[0]) : NULL;
    for (int i = 0; i < count; i++) {
        tl_net *net = nets[i];
        tl__cu_device *dev = net ? tl__cu_of(net) : NULL;
        if (!dev || !net->arena || !net->trainable)
            return tl__fail(NULL, TL_ERR_STATE, "cuda_join: network %d is not prepared for training on a GPU", i + 1);
        if (dev->ring) return tl__refuse(net, TL_ERR_STATE, "cuda_join: network %d has joined others already", i + 1);
        if (net->parameter_count != nets[0]->parameter_count)
            return tl__refuse(net, TL_ERR_SHAPE, "cuda_join: network %d has %zu parameters, the first one %zu", i + 1,
                              net->parameter_count, nets[0]->parameter_count);
        for (int k = 0; k < i; k++)
            if (tl__cu_of(nets[k])->desc.device == dev->desc.device)
                return tl__refuse(net, TL_ERR_ARGUMENT, "cuda_join: networks %d and %d are both on GPU %d", k + 1, i + 1,
                                  dev->desc.device);
        selves[i] = dev->self;
    }
    tl_result result = tl__fetch(nets[0], TL__PARAMETERS, 0);
    if (result) return result;
    for (int i = 1; i < count; i++) {
        memcpy(nets[i]->parameters, nets[0]->parameters, nets[0]->parameter_count * sizeof(tl_real));
        nets[i]->side[TL__PARAMETERS] = TL__HOST_NEWER;
    }
    int code = first->driver->join(selves, count, &ring);
    if (code) return tl__refuse(nets[0], TL_ERR_STATE, "cuda_join: %d GPUs: %s", count, first->driver->error(code));
    first->ring = ring;
    first->joined_count = count;
    memcpy(first->joined, nets, (size_t)count * sizeof *nets);
    return TL_OK;
}

TINYTL_API tl_result tl_cuda_average(tl_net *net)
{
    tl__cu_device *first = net ? tl__cu_of(net) : NULL;
    float *arrays[TL_CUDA_GPUS];
    if (!first || !first->ring)
        return tl__fail(NULL, TL_ERR_STATE, "cuda_average: call tl_cuda_join first, and give its first network");
    for (int i = 0; i < first->joined_count; i++) {
        tl__cu_device *dev = tl__cu_of(first->joined[i]);
        if (!dev->net->gradients_live)
            return tl__refuse(net, TL_ERR_STATE, "cuda_average: network %d has no gradients; call tl_backward", i + 1);
        tl_result result = tl__send(dev->net);
        if (!result) result = tl__cu_flush(dev);
        if (result) return tl__refuse(net, result, "cuda_average: network %d: %s", i + 1, dev->what);
        dev->in_flight = 1;
        arrays[i] = (float *)(void *)dev->flat[TL__GRADIENTS];
    }
    tl__cu_keep_error(first, first->driver->average(first->ring, arrays, net->parameter_count),
                      "the mean of %zu gradients over %d GPUs", net->parameter_count, first->joined_count);
    for (int i = 0; i < first->joined_count; i++) first->joined[i]->side[TL__GRADIENTS] = TL__DEVICE_NEWER;
    return tl__cu_result(first);
}

#endif // not NVRTC

#endif // TINYTL_CUDA_IMPLEMENTATION
