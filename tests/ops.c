// The registry of op cases: every op with odd shapes. Built twice.
//
// float: each case runs with the plain kernels and on every instruction set of this machine: output, gradients of the inputs,
// gradients of the parameters, output in eval mode. All must agree with the plain ones to FAST_TOLERANCE of the largest value. Each
// must give the same bits at 1, 2 and 3 threads, when a larger batch was planned, and when prepared for inference. Convolutions
// and dense layers are also compared with the sum written in the interface, in double.
//
// double (TINYTL_DOUBLE): the gradients must agree with central differences to 1e-6 (tl_check_gradients). That holds only where the
// loss is smooth over the step of 1e-5, so inputs stay away from the kinks: ReLUs get no values near 0 and 6, max pooling
// gets values that are all at least 1e-3 apart, L1 and Huber get differences away from 0 and delta.
//
// Each op that keeps the rules runs a second time with two consumers of its input (y = op(x) + op(x)), which
// is where gradients are added instead of written.

#include "check.h"

#define FAST_TOLERANCE 2e-5      // sums of up to a few thousand products in another order; measured: 3e-6
#define FORMULA_TOLERANCE 2e-5   // of float kernels against sums in double
#define DIFFERENCE_TOLERANCE 1e-6

typedef struct op_case {
    int n, h, w, c;              // batch and shape of input x; z has the same shape, f is 1 x 1 x c
    const char *op;              // "op(inputs) key=value ...", or "loss kind(x) ..."
} op_case;

static const op_case op_cases[] = {
    // conv2d: kernels
    { 1, 33, 57, 3,  "conv2d(x) out=16 kernel=1" },
    { 2, 7, 9, 33,   "conv2d(x) out=17 kernel=1" },
    { 3, 1, 1, 5,    "conv2d(x) out=33 kernel=1" },
    { 2, 13, 11, 5,  "conv2d(x) out=16 kernel=2" },
    { 1, 33, 57, 3,  "conv2d(x) out=16 kernel=3 pad=1" },
    { 1, 33, 57, 1,  "conv2d(x) out=31 kernel=3 pad=1" },
    { 2, 17, 9, 16,  "conv2d(x) out=33 kernel=3 pad=1" },
    { 1, 9, 11, 31,  "conv2d(x) out=64 kernel=3 pad=1 no_bias=1" },
    { 3, 5, 7, 64,   "conv2d(x) out=17 kernel=3" },
    { 1, 33, 57, 17, "conv2d(x) out=31 kernel=3 pad=1" },           // Winograd, channels that fill no vector
    { 2, 13, 16, 100, "conv2d(x) out=90 kernel=3 pad=1" },          // Winograd by plane: few tiles, many weights
    { 2, 19, 26, 50, "conv2d(x) out=48 kernel=3 pad=2 no_bias=1" },
    { 1, 9, 20, 16, "conv2d(x) out=2 kernel=1" },                   // narrow heads
    { 2, 13, 11, 48, "conv2d(x) out=3 kernel=3 stride=2 pad=1" },
    { 2, 12, 15, 16, "conv2d(x) out=2 kernel=3 dilation=2 pad=1" },
    { 2, 3, 3, 128, "conv2d(x) out=3 kernel=1" },
    { 1, 17, 1, 5,   "conv2d(x) out=5 kernel=3 pad=1" },
    { 2, 1, 1, 17,   "conv2d(x) out=3 kernel=3 pad=1" },
    { 2, 12, 10, 3,  "conv2d(x) out=5 kernel=4 pad=1" },
    { 1, 33, 57, 1,  "conv2d(x) out=5 kernel=5 pad=2" },
    { 2, 15, 14, 3,  "conv2d(x) out=17 kernel=7 pad=3" },
    { 1, 14, 14, 3,  "conv2d(x) out=16 kernel=3 kernel_w=5" },
    { 2, 11, 9, 5,   "conv2d(x) out=17 kernel=1 kernel_w=7 pad=0 pad_w=3" },
    { 2, 12, 9, 5,   "conv2d(x) out=3 kernel=7 kernel_w=1" },
    // stride, also larger than the kernel
    { 2, 33, 57, 3,  "conv2d(x) out=16 kernel=3 stride=2 pad=1" },
    { 1, 16, 20, 16, "conv2d(x) out=33 kernel=2 stride=2" },
    { 1, 23, 19, 3,  "conv2d(x) out=17 kernel=7 stride=2 pad=3" },
    { 2, 17, 13, 5,  "conv2d(x) out=5 kernel=3 stride=3" },
    { 1, 17, 13, 5,  "conv2d(x) out=31 kernel=1 stride=2" },
    { 2, 17, 23, 3,  "conv2d(x) out=5 kernel=1 stride=3" },
    { 1, 19, 23, 3,  "conv2d(x) out=5 kernel=2 stride=3 pad=1" },
    { 1, 20, 23, 5,  "conv2d(x) out=3 kernel=2 stride=5 stride_w=4" },
    { 1, 16, 23, 5,  "conv2d(x) out=17 kernel=3 stride=1 stride_w=2 pad=1" },
    { 1, 5, 4, 3,    "conv2d(x) out=3 kernel=2 stride=32000" },
    // dilation
    { 2, 15, 17, 5,  "conv2d(x) out=16 kernel=3 dilation=2 pad=2" },
    { 1, 17, 15, 3,  "conv2d(x) out=17 kernel=3 dilation=1 dilation_w=3 pad=1 pad_w=3" },
    { 1, 17, 15, 3,  "conv2d(x) out=5 kernel=3 dilation=3 dilation_w=1 stride=2" },
    { 2, 16, 18, 5,  "conv2d(x) out=5 kernel=2 dilation=4 stride=3 pad=2" },
    // groups, depthwise, depthwise with a multiplier
    { 2, 9, 11, 6,   "conv2d(x) out=9 kernel=3 pad=1 groups=3" },
    { 1, 9, 11, 64,  "conv2d(x) out=34 kernel=3 pad=1 groups=2" },
    { 1, 8, 9, 66,   "conv2d(x) out=66 kernel=1 groups=2" },
    { 2, 13, 10, 4,  "conv2d(x) out=8 kernel=3 stride=2 groups=4 dilation=2 pad=1" },
    { 2, 13, 9, 17,  "conv2d(x) out=17 kernel=3 pad=1 groups=17" },
    { 1, 33, 57, 5,  "conv2d(x) out=5 kernel=5 pad=2 groups=5 no_bias=1" },
    { 3, 12, 9, 16,  "conv2d(x) out=16 kernel=3 stride=2 dilation=2 groups=16" },
    { 2, 7, 23, 36,  "conv2d(x) out=36 kernel=5 pad=2 groups=36" },
    { 9, 5, 4, 20,   "conv2d(x) out=20 kernel=3 pad=1 groups=20" },
    { 1, 19, 17, 20, "conv2d(x) out=20 kernel=2 stride=3 stride_w=2 pad=1 groups=20" },
    { 1, 9, 31, 20,  "conv2d(x) out=20 kernel=3 dilation=3 stride=2 pad=4 groups=20" },
    { 2, 4, 5, 20,   "conv2d(x) out=20 kernel=7 pad=3 groups=20" },
    { 2, 10, 9, 5,   "conv2d(x) out=15 kernel=3 pad=1 groups=5" },
    { 1, 6, 5, 33,   "conv2d(x) out=66 kernel=3 pad=1 groups=33" },
    { 1, 6, 5, 1,    "conv2d(x) out=1 kernel=3 pad=1 groups=1" },
    // padding: same, with even kernels and dilation; larger than the kernel; image smaller than the kernel
    { 2, 9, 11, 5,   "conv2d(x) out=16 kernel=3 same=1" },
    { 1, 9, 12, 3,   "conv2d(x) out=5 kernel=4 same=1" },
    { 1, 17, 1, 3,   "conv2d(x) out=17 kernel=2 kernel_w=5 same=1" },
    { 2, 7, 10, 3,   "conv2d(x) out=3 kernel=4 same=1 dilation=3" },
    { 1, 8, 9, 6,    "conv2d(x) out=6 kernel=4 same=1 groups=6" },
    { 1, 3, 4, 3,    "conv2d(x) out=5 kernel=3 pad=17" },
    { 2, 2, 3, 3,    "conv2d(x) out=17 kernel=2 pad=9 stride=3" },
    { 2, 2, 3, 5,    "conv2d(x) out=16 kernel=5 pad=2" },
    { 1, 1, 1, 3,    "conv2d(x) out=3 kernel=7 pad=3" },
    { 1, 3, 2, 1,    "conv2d(x) out=1 kernel=7 pad=4 stride=2" },
    { 1, 2, 2, 4,    "conv2d(x) out=4 kernel=5 pad=3 groups=4" },
    // more than 256 taps: the plain kernels
    { 1, 18, 19, 2,  "conv2d(x) out=3 kernel=17 pad=1" },
    { 2, 3, 300, 1,  "conv2d(x) out=5 kernel=1 kernel_w=257" },
    { 1, 17, 16, 2,  "conv2d(x) out=5 kernel=16" },
    // conv_transpose2d
    { 2, 9, 11, 5,   "conv_transpose2d(x) out=16 kernel=2 stride=2" },
    { 1, 16, 28, 33, "conv_transpose2d(x) out=17 kernel=2 stride=2" },
    { 1, 9, 7, 16,   "conv_transpose2d(x) out=31 kernel=3" },
    { 2, 9, 7, 3,    "conv_transpose2d(x) out=5 kernel=3 stride=2 pad=1" },
    { 2, 9, 7, 3,    "conv_transpose2d(x) out=5 kernel=3 stride=2 pad=1 output_pad=1" },
    { 1, 5, 7, 5,    "conv_transpose2d(x) out=17 kernel=4 stride=2 pad=1" },
    { 1, 6, 5, 5,    "conv_transpose2d(x) out=3 kernel=2 stride=3 output_pad=2" },
    { 1, 6, 5, 3,    "conv_transpose2d(x) out=3 kernel=1 stride=3" },
    { 1, 1, 1, 64,   "conv_transpose2d(x) out=33 kernel=5" },
    { 1, 17, 1, 3,   "conv_transpose2d(x) out=5 kernel=3 kernel_w=2 stride=1 stride_w=3" },
    { 2, 6, 7, 3,    "conv_transpose2d(x) out=5 kernel=3 dilation=2 stride=2 output_pad=1 no_bias=1" },
    { 1, 6, 7, 3,    "conv_transpose2d(x) out=5 kernel=3 dilation=3 pad=4" },
    { 2, 6, 5, 6,    "conv_transpose2d(x) out=9 kernel=3 stride=2 groups=3" },
    { 1, 6, 5, 5,    "conv_transpose2d(x) out=5 kernel=3 stride=2 groups=5 pad=1 output_pad=1" },
    { 1, 6, 13, 20,  "conv_transpose2d(x) out=20 kernel=3 stride=2 groups=20 pad=1" },
    { 1, 6, 5, 5,    "conv_transpose2d(x) out=10 kernel=2 stride=2 groups=5" },
    { 1, 4, 4, 1,    "conv_transpose2d(x) out=1 kernel=17" },
    { 1, 7, 6, 5,    "conv_transpose2d(x) out=31 kernel=1" },
    // dense
    { 1, 1, 1, 1,    "dense(x) out=1" },
    { 3, 1, 1, 33,   "dense(x) out=17" },
    { 2, 1, 1, 64,   "dense(x) out=33 no_bias=1" },
    { 3, 5, 7, 3,    "dense(x) out=16" },
    { 17, 1, 1, 31,  "dense(x) out=5" },
    { 300, 1, 1, 3,  "dense(x) out=5" },
    { 2, 5, 7, 17,   "dense(x) out=33 each=1" },
    { 3, 1, 19, 5,   "dense(x) out=16 each=1 no_bias=1" },
    // tokens: attention over more and fewer positions than a block and a tile hold, heads that fill no vector
    { 2, 3, 5, 12,   "attention(x) heads=2" },
    { 1, 1, 1, 6,    "attention(x) heads=1" },
    { 1, 33, 2, 51,  "attention(x) heads=1" },
    { 2, 1, 67, 96,  "attention(x) heads=4" },
    { 1, 1, 32, 192, "attention(x) heads=2" },
    { 2, 9, 7, 5,    "tokens(x)" },
    { 2, 3, 5, 3,    "tokens(x, z, x)" },
    { 2, 3, 5, 3,    "tokens(x, f)" },
    { 2, 9, 7, 5,    "select(x) first=11 height=4 width=3" },
    { 2, 3, 5, 1,    "select(x) height=3 width=5" },
    { 2, 3, 5, 1,    "select(x) first=14 height=1 width=1" },
    { 3, 3, 5, 4,    "parameter() height=3 width=5 channels=4 deviation=0.5\ny = add(x, c)" },
    { 2, 3, 5, 4,    "parameter() channels=4 fill=0.7 rank=1\ny = mul(x, c)" },
    { 2, 3, 5, 4,    "parameter() channels=4 fill=0.7 channels_first=1\nd = tokens(c, x)\ny = dense(d) out=3 each=1" },
    // norms
    { 2, 7, 9, 5,    "batch_norm(x)" },
    { 1, 33, 35, 1,  "batch_norm(x) momentum=0.3 eps=0.001" },
    { 2, 1, 1, 17,   "batch_norm(x)" },
    { 1, 17, 1, 64,  "batch_norm(x) no_affine=1" },
    { 1, 5, 5, 65,   "batch_norm(x)" },
    { 2, 7, 9, 37,   "batch_norm(x)\ny = relu(c)" },
    { 2, 7, 9, 37,   "batch_norm(x)\ny = relu6(c)" },
    { 2, 7, 9, 21,   "conv2d(x) out=21 kernel=3 pad=1 groups=21 no_bias=1\nb = batch_norm(c)\ny = relu6(b)" },
    { 2, 7, 9, 21,   "conv2d(x) out=21 kernel=3 pad=1\ny = relu6(c)" },
    { 2, 9, 7, 6,    "group_norm(x) groups=3" },
    { 2, 5, 3, 33,   "group_norm(x) groups=1" },
    { 1, 3, 5, 17,   "group_norm(x) groups=17 eps=0.01" },
    { 2, 4, 3, 130,  "group_norm(x) groups=2" },
    { 1, 4, 3, 130,  "group_norm(x) groups=65 no_affine=1" },
    { 2, 33, 57, 3,  "layer_norm(x)" },
    { 3, 1, 1, 65,   "layer_norm(x)" },
    { 1, 17, 1, 31,  "layer_norm(x) no_affine=1 eps=0.1" },
    // activations
    { 1, 33, 57, 3,  "relu(x)" },
    { 3, 1, 1, 17,   "relu(x)" },
    { 2, 33, 57, 5,  "leaky_relu(x) slope=0.1" },
    { 1, 1, 1, 5,    "leaky_relu(x)" },
    { 1, 33, 57, 3,  "relu6(x)" },
    { 2, 17, 1, 5,   "sigmoid(x)" },
    { 1, 33, 57, 3,  "tanh(x)" },
    { 2, 9, 7, 5,    "gelu(x)" },
    { 2, 33, 57, 5,  "silu(x)" },
    { 2, 9, 7, 5,    "softmax(x)" },
    { 3, 1, 1, 33,   "softmax(x)" },
    { 1, 17, 1, 1,   "softmax(x)" },
    // pooling
    { 2, 8, 10, 5,   "max_pool2d(x) kernel=2" },
    { 1, 33, 57, 3,  "max_pool2d(x) kernel=2" },
    { 1, 33, 57, 3,  "max_pool2d(x) kernel=2 ceil_mode=1" },
    { 2, 13, 11, 5,  "max_pool2d(x) kernel=3 stride=2 pad=1" },
    { 1, 13, 11, 65, "max_pool2d(x) kernel=3 kernel_w=2 stride=1 stride_w=2" },
    { 1, 7, 9, 3,    "max_pool2d(x) kernel=2 stride=3 ceil_mode=1" },
    { 1, 1, 1, 3,    "max_pool2d(x) kernel=2 pad=1" },
    { 1, 17, 1, 3,   "max_pool2d(x) kernel=5 kernel_w=1" },
    { 2, 8, 10, 5,   "avg_pool2d(x) kernel=2" },
    { 1, 13, 11, 65, "avg_pool2d(x) kernel=3 stride=2 pad=1" },
    { 1, 13, 11, 5,  "avg_pool2d(x) kernel=3 stride=2 pad=1 exclude_pad=1" },
    { 2, 14, 12, 3,  "avg_pool2d(x) kernel=3 stride=2 pad=1 ceil_mode=1" },
    { 1, 14, 12, 3,  "avg_pool2d(x) kernel=4 stride=3 pad=2 ceil_mode=1 exclude_pad=1" },
    { 1, 7, 9, 3,    "avg_pool2d(x) kernel=1 kernel_w=4 stride=2" },
    { 2, 9, 7, 5,    "adaptive_avg_pool2d(x) height=1 width=1" },
    { 1, 33, 57, 3,  "adaptive_avg_pool2d(x) height=5 width=7" },
    { 1, 3, 2, 3,    "adaptive_avg_pool2d(x) height=5 width=3" },
    // upsampling
    { 2, 9, 7, 5,    "upsample(x) factor=2 mode=nearest" },
    { 1, 17, 1, 3,   "upsample(x) factor=3 mode=nearest" },
    { 1, 1, 1, 3,    "upsample(x) factor=5 mode=bilinear" },
    { 2, 9, 7, 5,    "upsample(x) factor=2 mode=bilinear" },
    { 1, 17, 1, 3,   "upsample(x) factor=3 mode=bilinear" },
    { 1, 4, 5, 3,    "upsample(x) factor=1 mode=bilinear" },
    // joins
    { 2, 9, 7, 5,    "concat(x, z)" },
    { 1, 17, 1, 1,   "concat(x, z, x)" },
    { 1, 5, 3, 33,   "concat(x)" },
    { 2, 33, 57, 5,  "add(x, z)" },
    { 1, 5, 3, 5,    "add(x, x)" },
    { 2, 9, 7, 5,    "mul(x, z)" },
    { 1, 5, 3, 5,    "mul(x, x)" },
    { 2, 9, 7, 65,   "mul(x, f)" },
    { 1, 1, 1, 5,    "mul(x, f)" },
    { 2, 5, 3, 5,    "flatten(x)" },
    { 2, 33, 57, 3,  "dropout(x) p=0.3" },
    { 1, 1, 1, 17,   "dropout(x) p=0.5" },
    { 1, 5, 3, 5,    "dropout(x) p=1" },
    { 2, 5, 3, 5,    "dropout(x)" },
    { 9, 5, 3, 5,    "dropout(x) p=0.5 whole=1" },
    // losses: their value counts as the output
    { 2, 9, 7, 5,    "loss cross_entropy(x)" },
    { 2, 9, 7, 3,    "loss cross_entropy(x) smoothing=0.1 class_weight=1,2,0.5 weight=0.7" },
    { 1, 17, 1, 5,   "loss cross_entropy(x) ignore_index=2" },
    { 2, 5, 3, 5,    "loss cross_entropy(x) dense=1" },
    { 2, 9, 7, 1,    "loss bce(x)" },
    { 1, 5, 3, 5,    "loss bce(x) dense=1 weight=2" },
    { 2, 9, 7, 3,    "loss dice(x)" },
    { 1, 33, 57, 1,  "loss dice(x)" },
    { 2, 9, 7, 3,    "loss dice(x) ignore_index=1" },
    { 2, 9, 7, 3,    "loss focal(x)" },
    { 2, 9, 7, 1,    "loss focal(x) alpha=0.25 gamma=1.5" },
    { 1, 9, 7, 3,    "loss focal(x) dense=1" },
    { 2, 9, 7, 3,    "loss mse(x)" },
    { 2, 9, 7, 3,    "loss l1(x)" },
    { 2, 9, 7, 3,    "loss huber(x) delta=0.5" },
    { 2, 9, 7, 3,    "loss cross_entropy(x) class_weight=1,2,0.5 smoothing=0.1 pixel_weights=1" },
    { 2, 5, 3, 5,    "loss cross_entropy(x) dense=1 pixel_weights=1" },
    { 2, 9, 7, 1,    "loss bce(x) pixel_weights=1" },
    { 1, 33, 57, 3,  "loss dice(x) pixel_weights=1" },
    { 2, 9, 7, 1,    "loss dice(x) pixel_weights=1" },
    { 2, 9, 7, 3,    "loss focal(x) pixel_weights=1" },
    { 1, 9, 7, 3,    "loss focal(x) dense=1 pixel_weights=1" },
    { 2, 9, 7, 3,    "loss huber(x) delta=0.5 pixel_weights=1" },
    // an op that may overwrite its input, behind one that allows it
    { 2, 9, 7, 3,    "conv2d(x) out=5 kernel=3\ny = sigmoid(c)" },
    { 2, 9, 7, 3,    "conv2d(x) out=5 kernel=3\ny = tanh(c)" },
    { 2, 9, 7, 3,    "conv2d(x) out=5 kernel=3\nd = flatten(c)\ny = tanh(d)" },
    { 2, 9, 7, 3,    "conv2d(x) out=5 kernel=3\nd = flatten(c)\ny = dense(d) out=3" },
    { 2, 9, 7, 3,    "batch_norm(x)\nd = tanh(c)\ny = conv2d(d) out=3 kernel=3" },
    { 2, 9, 7, 3,    "batch_norm(x)\nd = gelu(c)\ny = conv2d(d) out=3 kernel=3" }
};

#ifndef OP_CASES_ONLY              // tests/cuda.cpp runs the same cases on the GPU

// ---- data ----------------------------------------------------------------------------------

// Value i of n, away from the kinks of the op. The rest are normal deviates.
static double input_value(const char *op, tl_rng *rng, const int *order, size_t i, size_t n)
{
    double v = (double)tl_random_normal(rng);
    if (strstr(op, "max_pool")) return 1e-3 * ((double)order[i] - 0.5 * (double)n);      // all different by 1e-3
    if (strncmp(op, "relu6", 5) == 0) v = 3 + 3 * v;
    if (strstr(op, "relu")) {
        if (fabs(v) < 0.01) v = 0.02;
        if (fabs(v - 6) < 0.01) v = 6.02;
    }
    return v;
}

// Targets of a difference x - t that is neither near 0 nor near delta.
static double target_value(const char *op, tl_rng *rng, double x)
{
    static const double steps[] = { -2, -0.8, -0.3, -0.1, 0.1, 0.3, 0.8, 2 };
    if (strstr(op, "l1") || strstr(op, "huber")) return x - steps[tl_random_below(rng, 8)];
    return (double)tl_random_uniform(rng, 0, 1);
}

static void fill_inputs(tl_net *net, const op_case *test)
{
    for (int i = 0; i < net->node_count; i++) {
        tl__node *node = &net->nodes[i];
        if (node->op != TL_OP_INPUT) continue;
        size_t n = tl__sample_count(node) * (size_t)test->n;
        tl_rng rng = tl_rng_at(5, TL_RANDOM_USER, 0, 0, (uint32_t)i);
        int *order = (int *)tl__alloc(n, sizeof *order);
        for (size_t k = 0; k < n; k++) order[k] = (int)k;
        tl_random_shuffle(&rng, order, (int)n);
        for (size_t k = 0; k < n; k++) node->data[k] = (tl_real)input_value(test->op, &rng, order, k, n);
        node->samples = n > 0 ? test->n : 0;
        tl__free(order);
    }
}

// Moves all parameters off their initial values, which are 1 and 0 in norms. The outputs stay of the order of 1: a large loss would
// drown the differences in rounding.
static void fill_parameters(tl_net *net, const op_case *test)
{
    double size = strstr(test->op, "relu6") ? 4 : 1;             // so that 6 is reached behind a norm
    tl_rng rng = tl_rng_at(6, TL_RANDOM_USER, 0, 0, 0);
    for (size_t i = 0; i < net->parameter_count; i++) net->parameters[i] *= (tl_real)(size * (1 + 0.3 * (double)tl_random_normal(&rng)));
    for (int i = 0; i < net->tensor_count; i++) {
        const tl__tensor *t = &net->tensors[i];
        for (size_t k = 0; t->role == TL__BIAS && k < t->count; k++) net->parameters[t->at + k] += (tl_real)(0.3f * tl_random_normal(&rng));
    }
}

static void fill_targets(tl_net *net, const op_case *test)
{
    if (net->loss_count == 0) return;
    const tl__node *x = &net->nodes[net->losses[0].node];
    size_t pixels = (size_t)x->h * x->w * (size_t)test->n, values = pixels * (size_t)x->c;
    tl_rng rng = tl_rng_at(7, TL_RANDOM_USER, 0, 0, 0);
    int32_t *classes = (int32_t *)tl__alloc(pixels, sizeof *classes);
    tl_real *dense = (tl_real *)tl__alloc(values, sizeof *dense);
    for (size_t i = 0; i < pixels; i++)
        classes[i] = tl_random_below(&rng, 5) == 0 ? -1 : (int32_t)tl_random_below(&rng, (uint32_t)(x->c == 1 ? 2 : x->c));
    for (size_t i = 0; i < values; i++) dense[i] = (tl_real)target_value(test->op, &rng, (double)x->data[i]);
    tl_result result = net->losses[0].dense ? tl_set_target_dense(net, 0, dense, test->n) : tl_set_target_index(net, 0, classes, test->n);
    for (size_t i = 0; i < pixels; i++) dense[i] = (tl_real)tl_random_below(&rng, 4) / 2 * (tl_real)tl_random_uniform(&rng, 0, 2);
    if (net->losses[0].weighted && result == TL_OK) result = tl_set_target_weight(net, 0, dense, test->n);
    CHECK(result == TL_OK, "%s: %s", test->op, tl_error(NULL));
    tl__free(classes);
    tl__free(dense);
}

#endif

// ---- networks ------------------------------------------------------------------------------

// The network text of a case; 0 if it cannot be made with two consumers of x.
static int case_text(const op_case *test, int twice, char *text, size_t size)
{
    int used = snprintf(text, size, "x = input() height=%d width=%d channels=%d\n", test->h, test->w, test->c);
    if (strstr(test->op, "z")) used += snprintf(text + used, size - (size_t)used, "z = input() height=%d width=%d channels=%d\n", test->h, test->w, test->c);
    if (strstr(test->op, ", f)")) used += snprintf(text + used, size - (size_t)used, "f = input() height=1 width=1 channels=%d\n", test->c);
    if (strncmp(test->op, "loss", 4) == 0) {
        snprintf(text + used, size - (size_t)used, "%s\n", test->op);
        return !twice;
    }
    if (strchr(test->op, '\n')) {
        snprintf(text + used, size - (size_t)used, "c = %s\n", test->op);
        return !twice;
    }
    if (!twice) snprintf(text + used, size - (size_t)used, "y = %s\n", test->op);
    else snprintf(text + used, size - (size_t)used, "p = %s\nq = %s\ny = add(p, q)\n", test->op, test->op);
    return 1;
}

#ifndef OP_CASES_ONLY

static tl_net *make_net(const op_case *test, int twice, tl_isa isa, int threads)
{
    char text[1024];
    tl_net_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.seed = 3;
    desc.isa = isa;
    desc.threads = threads;
    if (!case_text(test, twice, text, sizeof text)) return NULL;
    tl_net *net = tl_net_new(&desc);
    CHECK(tl_parse(net, text) == TL_OK, "%s: %s", test->op, tl_error(net));
    for (int i = 0; i < net->node_count; i++) {
        tl_node node = { i + 1 };
        if (net->nodes[i].op == TL_OP_INPUT) tl_keep(net, node);
    }
    return net;
}

#ifdef TINYTL_DOUBLE

// ---- double: gradients against differences -------------------------------------------------

static void run_case(const op_case *test, int twice)
{
    char where[200];
    double worst = NAN;
    tl_net *net = make_net(test, twice, TL_ISA_PLAIN, 1);
    if (!net) return;
    if (net->loss_count == 0) {
        tl_loss_desc loss;
        memset(&loss, 0, sizeof loss);
        loss.kind = TL_MSE;
        tl_loss(net, tl_last(net), &loss);
    }
    CHECK(tl_prepare(net, test->n, 1) == TL_OK, "%s: %s", test->op, tl_error(net));
    fill_parameters(net, test);
    fill_inputs(net, test);
    if (strncmp(test->op, "loss", 4) != 0) CHECK(tl_forward(net, test->n, TL_TRAIN) == TL_OK, "%s: %s", test->op, tl_error(net));
    fill_targets(net, test);
    int samples = (int)fmin(8, fmax(2, 4e6 / (tl_flops(net) * test->n + 1)));
    tl_result result = tl_check_gradients(net, test->n, samples, &worst, where, sizeof where);
    CHECK(result == TL_OK, "%s: %s", test->op, tl_error(net));
    CHECK(worst < DIFFERENCE_TOLERANCE, "%s%s: gradient off by %.3g at %s", test->op, twice ? " twice" : "", worst, where);
    tl_net_free(net);
}

#else

// ---- float: kernels against each other -----------------------------------------------------

#define PARTS 24

// The numbers of one run, in parts that are compared separately.
typedef struct op_outcome {
    tl_real *values;
    size_t   count, begin[PARTS + 1];
    const char *name[PARTS];
    int      parts;
} op_outcome;

static void take_result(op_outcome *out, const char *name, const tl_real *values, size_t count)
{
    tl_real *grown = (tl_real *)tl__grow(out->values, out->count, out->count + count, sizeof *grown);
    memcpy(grown + out->count, values, count * sizeof *grown);
    out->values = grown;
    out->name[out->parts] = name;
    out->begin[out->parts++] = out->count;
    out->begin[out->parts] = out->count += count;
}

// What lies behind the arena may be read but must not be written.
static int arena_end_is_clean(const tl_net *net)
{
    for (size_t i = 0; i < TL__SLACK; i++) if (net->arena[net->arena_count + i] != 0) return 0;
    return 1;
}

// Forward and backward of one case; planned: batch given to tl_prepare. The network is left open for the formulas.
static tl_net *run_op(const op_case *test, int twice, tl_isa isa, int threads, int planned, op_outcome *out)
{
    tl_net *net = make_net(test, twice, isa, threads);
    memset(out, 0, sizeof *out);
    if (!net) return NULL;
    CHECK(tl_prepare(net, planned, 1) == TL_OK, "%s: %s", test->op, tl_error(net));
    fill_parameters(net, test);
    fill_inputs(net, test);
    fill_targets(net, test);
    tl_node last = tl_last(net);
    const tl__node *y = &net->nodes[last.id - 1];
    size_t count = tl__sample_count(y) * (size_t)test->n;
    CHECK(tl_forward(net, test->n, TL_TRAIN) == TL_OK, "%s: %s", test->op, tl_error(net));
    take_result(out, "output", tl_data(net, last), count);
    if (net->loss_count) {
        tl_real value = (tl_real)tl_loss_value(net);
        take_result(out, "loss", &value, 1);
        CHECK(tl_backward(net) == TL_OK, "%s: %s", test->op, tl_error(net));
    } else {
        tl_rng rng = tl_rng_at(8, TL_RANDOM_USER, 0, 0, 0);
        tl_real *grad = (tl_real *)tl__alloc(count, sizeof *grad);
        for (size_t i = 0; i < count; i++) grad[i] = (tl_real)tl_random_normal(&rng);
        const tl_real *grads[1];
        grads[0] = grad;
        CHECK(tl_backward_from(net, &last, grads, 1) == TL_OK, "%s: %s", test->op, tl_error(net));
        tl__free(grad);
    }
    for (int i = 0; i < net->node_count; i++) {
        const tl__node *node = &net->nodes[i];
        if (node->op == TL_OP_INPUT && node->grad) take_result(out, node->name, node->grad, tl__sample_count(node) * (size_t)test->n);
    }
    for (int i = 0; i < net->tensor_count; i++)
        if (net->tensors[i].trained) take_result(out, net->tensors[i].name, net->gradients + net->tensors[i].at, net->tensors[i].count);
    CHECK(tl_forward(net, test->n, TL_EVAL) == TL_OK, "%s: %s", test->op, tl_error(net));
    take_result(out, "output in eval mode", tl_data(net, last), count);
    CHECK(arena_end_is_clean(net), "%s: something wrote behind the arena (%s, %d threads)", test->op, tl_isa_name(isa), threads);
    return net;
}

static int same_bits(const op_outcome *a, const op_outcome *b)
{
    return a->count == b->count && memcmp(a->values, b->values, a->count * sizeof *a->values) == 0;
}

static double worst_op;

static void compare_outcomes(const op_case *test, int twice, tl_isa isa, const op_outcome *want, const op_outcome *got)
{
    for (int p = 0; p < want->parts; p++) {
        double largest = 1e-3, worst = 0;
        for (size_t i = want->begin[p]; i < want->begin[p + 1]; i++) {
            double d = fabs((double)got->values[i] - (double)want->values[i]);
            largest = fmax(largest, fabs((double)want->values[i]));
            if (!(d <= worst)) worst = d - d == 0 ? d : INFINITY;
        }
        worst_op = fmax(worst_op, worst / largest);
        CHECK(worst <= FAST_TOLERANCE * largest, "%s%s, input %dx%dx%dx%d, %s: %s differs from the plain one by %.3g of its largest value",
              test->op, twice ? " twice" : "", test->n, test->h, test->w, test->c, tl_isa_name(isa), want->name[p], worst / largest);
    }
}

// ---- float: convolutions by their formula --------------------------------------------------

// y[n,i,j,o] of the interface, one output at a time; for conv_transpose2d the sum over all (i,j) that reach (y,x).
static double conv_formula(const tl__conv *cv, int transposed, const tl_real *x, const tl_real *w, int n, int i, int j, int o)
{
    const tl__window *s = &cv->s;
    int in_g = s->c / cv->groups, out_g = cv->out / cv->groups, g = transposed ? o / in_g : o / out_g;
    double sum = 0;
    for (int ky = 0; ky < s->kh; ky++)
    for (int kx = 0; kx < s->kw; kx++) {
        int down = i + s->pt - ky * s->dh, right = j + s->pl - kx * s->dw;
        int y = transposed ? down / s->sh : i * s->sh - s->pt + ky * s->dh, xx = transposed ? right / s->sw : j * s->sw - s->pl + kx * s->dw;
        int h = transposed ? s->oh : s->h, width = transposed ? s->ow : s->w, channels = transposed ? cv->out : s->c;
        if (y < 0 || y >= h || xx < 0 || xx >= width) continue;
        if (transposed && (down < 0 || right < 0 || down % s->sh || right % s->sw)) continue;
        for (int c = 0; c < (transposed ? out_g : in_g); c++) {
            size_t tap = (size_t)(ky * s->kw + kx) * in_g;
            size_t weight = transposed ? (tap + o % in_g) * cv->out + g * out_g + c : (tap + c) * cv->out + o;
            int channel = transposed ? g * out_g + c : g * in_g + c;
            sum += (double)x[(((size_t)n * h + y) * width + xx) * channels + channel] * (double)w[weight];
        }
    }
    return sum;
}

static void check_formula(tl_net *net, const op_case *test, tl_isa isa)
{
    const tl__node *node = &net->nodes[net->node_count - 1], *x = &net->nodes[node->input[0]];
    if (node->op != TL_OP_CONV2D && node->op != TL_OP_CONV_TRANSPOSE2D && node->op != TL_OP_DENSE) return;
    if (x->op != TL_OP_INPUT) return;
    tl__conv cv = tl__node_conv(net, node, test->n);
    tl_tensor weight = tl_tensor_at(net, node->tensor[TL__WEIGHT]);
    const tl_real *bias = node->tensor[TL__BIAS] >= 0 ? tl_tensor_at(net, node->tensor[TL__BIAS]).data : NULL;
    double largest = 1e-3, worst = 0;
    for (int n = 0; n < test->n; n++)
    for (int i = 0; i < node->h; i++)
    for (int j = 0; j < node->w; j++)
    for (int o = 0; o < node->c; o++) {
        double want = conv_formula(&cv, node->op == TL_OP_CONV_TRANSPOSE2D, x->data, weight.data, n, i, j, o) + (bias ? (double)bias[o] : 0);
        double got = (double)node->data[(((size_t)n * node->h + i) * node->w + j) * node->c + o];
        largest = fmax(largest, fabs(want));
        if (!(fabs(got - want) <= worst)) worst = fabs(got - want);
    }
    CHECK(worst <= FORMULA_TOLERANCE * largest, "%s, input %dx%dx%dx%d, %s: differs from the formula by %.3g", test->op, test->n, test->h,
          test->w, test->c, tl_isa_name(isa), worst / largest);
}

// Prepared for inference: other buffers, other places, the same numbers.
static void check_inference(const op_case *test, tl_isa isa, const op_outcome *want)
{
    tl_net *net = make_net(test, 0, isa, 2);
    CHECK(tl_prepare(net, test->n, 0) == TL_OK, "%s: %s", test->op, tl_error(net));
    fill_parameters(net, test);
    fill_inputs(net, test);
    if (strstr(test->op, "batch_norm")) {                 // its running statistics come from a training pass
        tl_net_free(net);
        return;
    }
    size_t at = want->begin[want->parts - 1], count = want->count - at;
    CHECK(tl_forward(net, test->n, TL_EVAL) == TL_OK, "%s: %s", test->op, tl_error(net));
    CHECK(memcmp(tl_data(net, tl_last(net)), want->values + at, count * sizeof(tl_real)) == 0,
          "%s, %s: prepared for inference, the output has other bits", test->op, tl_isa_name(isa));
    tl_net_free(net);
}

static void run_case(const op_case *test, int twice)
{
    op_outcome plain, first, other;
    memset(&plain, 0, sizeof plain);
    for (int isa = TL_ISA_PLAIN; isa < TL_ISA_COUNT; isa++) {
        if (!tl_isa_available((tl_isa)isa)) continue;
        tl_net *net = run_op(test, twice, (tl_isa)isa, 1, test->n, &first);
        if (!net) return;
        if (!twice) check_formula(net, test, (tl_isa)isa);
        tl_net_free(net);
        for (int threads = 2; threads <= 3; threads++) {
            int planned = threads == 2 ? test->n : test->n + 2;
            net = run_op(test, twice, (tl_isa)isa, threads, planned, &other);
            CHECK(same_bits(&first, &other), "%s%s, input %dx%dx%dx%d, %s: %d threads, a batch of %d planned: other bits", test->op,
                  twice ? " twice" : "", test->n, test->h, test->w, test->c, tl_isa_name((tl_isa)isa), threads, planned);
            tl__free(other.values);
            tl_net_free(net);
        }
        if (!twice) check_inference(test, (tl_isa)isa, &first);
        if (isa == TL_ISA_PLAIN) {
            plain = first;
        } else {
            compare_outcomes(test, twice, (tl_isa)isa, &plain, &first);
            tl__free(first.values);
        }
    }
    tl__free(plain.values);
}

// Widths 1 to 15 meet every tile height from 1 to 14; the outputs meet one and two vectors and every kind of rest.
static void run_tiles(void)
{
    static const int outs[] = { 1, 5, 16, 17, 31, 33, 64 };
    char op[64];
    for (int width = 1; width <= 15; width++)
    for (int k = 0; k < 7; k++) {
        op_case test = { 1, 2, width, 3, op };
        snprintf(op, sizeof op, "conv2d(x) out=%d kernel=3 pad=1", outs[k]);
        run_case(&test, 0);
    }
}

// What was reserved for a batch must do for every smaller one: some of them share out Winograd's planes and take more.
static void run_smaller_batches(void)
{
#if TL__SIMD
    enum { BATCH = 300, CHANNELS = 128 };
    for (int size = 4; size <= 9; size++) {
        tl_net *net = tl_net_new(&(tl_net_desc){ .seed = 1, .winograd = 1, .threads = 1 });
        tl_node y = tl_conv2d(net, tl_input(net, size, size, CHANNELS), &(tl_conv2d_desc){ .out = CHANNELS, .kernel = 3, .pad = 1 });
        tl_loss(net, y, &(tl_loss_desc){ .kind = TL_MSE });
        tl_optimizer(net, &(tl_optimizer_desc){ .kind = TL_SGD, .lr = 1 });
        CHECK(tl_prepare(net, BATCH, 1) == TL_OK, "%s", tl_error(net));
        int short_of = 0;
        for (int n = 1; n <= BATCH; n++)
        for (int pass = TL__FORWARD; pass <= TL__BACKWARD_WEIGHTS; pass++) {
            tl__conv cv = tl__node_conv(net, &net->nodes[y.id - 1], n);
            tl__winograd_job job;
            tl__scratch need = tl__winograd_layout(&job, tl__simd(net->isa), &cv, (tl__conv_pass)pass);
            if (need.shared > net->scratch_shared || need.worker > net->scratch_worker) short_of = n;
        }
        CHECK(!short_of, "%dx%d: a batch of %d needs more work space than was reserved for %d", size, size, short_of, BATCH);
        tl_net_free(net);
    }
#endif
}

#endif

MAIN(ops, void)
{
    for (size_t i = 0; i < sizeof op_cases / sizeof *op_cases; i++) {
        run_case(&op_cases[i], 0);
        run_case(&op_cases[i], 1);
    }
#ifdef TINYTL_DOUBLE
    return finish("ops, gradients in double");
#else
    run_tiles();
    run_smaller_batches();
    printf("  fast kernels differ from plain ones by at most %.2g of the largest value\n", worst_op);
    return finish("ops");
#endif
}

#endif
