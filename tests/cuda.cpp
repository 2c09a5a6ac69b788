// tinytl_cuda.h without a GPU: its kernels run in the emulator and are compared with tinytl.h on the CPU, at odd shapes, forward
// and backward, for both types of activations, under schedules that bring races and missing waits to light; whole training
// steps; errors. Compiled by nvcc, the same cases run on a real GPU with the same tolerances; then what looks into the emulator
// is left out.

#ifdef __CUDACC__
    #include <math.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <string>
    #include <vector>
    struct emu_settings { int descending, reversed, lazy; };
    static emu_settings emu_mode;                 // a GPU has its own schedule
    #define EMULATED 0
#else
    #include "emulator.h"
    #define EMULATED 1
#endif
static int few_blocks = 1;                        // 99 in the library: small images then never see wide tiles
#define TL__CU_FEW_BLOCKS few_blocks
#define TINYTL_IMPLEMENTATION
#include "../tinytl.h"
#define TINYTL_CUDA_IMPLEMENTATION
#include "../tinytl_cuda.h"
#if EMULATED
    #include "emulator_driver.h"
#endif
#include "check.h"
#define OP_CASES_ONLY
#include "ops.c"

static const emu_settings schedules[] = { { 0, 0, 0 }, { 1, 1, 1 } };

// ---- networks ------------------------------------------------------------------------------

// float: sums in another order; the largest error, relative to the largest value of an array. bf16 keeps 8 bits of every
// activation, and a ReLU or a maximum may then choose otherwise: the root mean square error, relative to that of the array.
#define TOLERANCE_F32 2e-5
#define TOLERANCE_BF16 2e-2
#define TOLERANCE_TF32 1e-3

typedef struct gpu_case {
    const char *text;
    int         batch;
    double      bf16;              // its tolerance; 0: TOLERANCE_BF16
    double      tf32;              // 0: TOLERANCE_TF32
} gpu_case;

#define IN(h, w, c) "x = input() height=" #h " width=" #w " channels=" #c "\n"

static const gpu_case cases[] = {
    { IN(33, 57, 3) "y = conv2d(x) out=17 kernel=3 pad=1", 1, 0, 0 },
    { IN(1, 1, 1) "y = conv2d(x) out=1 kernel=1", 3, 0, 0 },
    { IN(17, 1, 17) "y = conv2d(x) out=3 kernel=3 kernel_w=1 pad=1 pad_w=0 stride=2 stride_w=1", 2, 0, 0 },
    { IN(13, 11, 8) "y = conv2d(x) out=70 kernel=3 stride=2 pad=1 no_bias=1", 2, 0, 0 },
    { IN(9, 10, 16) "y = conv2d(x) out=16 kernel=3 same=1 dilation=2", 2, 0, 0 },
    { IN(12, 15, 5) "y = conv2d(x) out=7 kernel=2 stride=3 dilation=2", 2, 0, 0 },
    { IN(14, 14, 3) "y = conv2d(x) out=8 kernel=7 stride=2 pad=3", 1, 0, 0 },
    { IN(7, 9, 12) "y = conv2d(x) out=8 kernel=3 pad=1 groups=4", 2, 0, 0 },
    { IN(15, 13, 33) "y = conv2d(x) out=33 kernel=3 pad=1 groups=33 stride=2", 2, 0, 0 },
    { IN(10, 10, 80) "y = conv2d(x) out=90 kernel=1", 1, 0, 0 },
    // for the tensor cores: 16, 32, 64 and 128 columns a block, pieces of several taps in one step, ragged rows and columns
    { IN(9, 7, 16) "y = conv2d(x) out=16 kernel=3 pad=1", 3, 0, 0 },
    { IN(17, 13, 8) "y = conv2d(x) out=24 kernel=3 pad=1 stride=2", 2, 0, 0 },
    { IN(12, 11, 24) "y = conv2d(x) out=72 kernel=3 pad=2 dilation=2 no_bias=1", 2, 0, 0 },
    { IN(5, 6, 48) "y = conv2d(x) out=136 kernel=1", 5, 0, 0 },
    { IN(6, 5, 40) "y = conv_transpose2d(x) out=16 kernel=2 stride=2", 3, 0, 0 },
    { IN(5, 5, 16) "y = conv_transpose2d(x) out=40 kernel=3 stride=2 pad=1 output_pad=1", 2, 0, 0 },
    { IN(1, 1, 264) "y = dense(x) out=40", 150, 0, 0 },
    { IN(13, 12, 8) "y = conv2d(x) out=40 kernel=3 pad=1 no_bias=1\nz = batch_norm(y)", 3, 0, 0 },
    { IN(5, 6, 7) "y = conv_transpose2d(x) out=9 kernel=2 stride=2", 2, 0, 0 },
    { IN(4, 5, 16) "y = conv_transpose2d(x) out=6 kernel=3 stride=2 pad=1 output_pad=1", 2, 0, 0 },
    { IN(4, 3, 6) "y = conv_transpose2d(x) out=4 kernel=3 stride=3 dilation=2 groups=2", 1, 0, 0 },
    { IN(3, 4, 5) "y = dense(x) out=37", 5, 0, 0 },
    { IN(1, 1, 300) "y = dense(x) out=10", 70, 0, 0 },
    { IN(33, 57, 3) "y = batch_norm(x)", 1, 0, 0 },
    { IN(5, 7, 40) "y = batch_norm(x)\nz = relu(y)", 3, 0, 0 },
    { IN(1, 1, 17) "y = batch_norm(x) no_affine=1", 5, 0, 0 },
    { IN(17, 1, 12) "y = group_norm(x) groups=3", 2, 0, 0 },
    { IN(6, 5, 34) "y = group_norm(x) groups=1 no_affine=1", 2, 0, 0 },
    { IN(5, 3, 17) "y = layer_norm(x)", 2, 0, 0 },
    { IN(1, 1, 200) "y = layer_norm(x)", 3, 0, 0 },
    { IN(6, 7, 3) "y = relu(x)", 2, 0, 0 },
    { IN(6, 7, 3) "y = leaky_relu(x) slope=0.1", 2, 0, 0 },
    { IN(6, 7, 3) "y = relu6(x)", 2, 0, 0 },
    { IN(6, 7, 3) "y = sigmoid(x)", 2, 0, 0 },
    { IN(6, 7, 3) "y = tanh(x)", 2, 0, 0 },
    { IN(6, 7, 3) "y = gelu(x)", 2, 0, 0 },
    { IN(6, 7, 3) "y = silu(x)", 2, 0, 0 },
    { IN(33, 5, 17) "y = softmax(x)", 1, 0, 0 },
    { IN(1, 1, 100) "y = softmax(x)", 3, 0, 0 },
    { IN(33, 57, 3) "y = max_pool2d(x) kernel=2", 1, 0, 0 },
    { IN(9, 8, 5) "y = max_pool2d(x) kernel=3 stride=2 pad=1 ceil_mode=1", 2, 0, 0 },
    { IN(9, 8, 5) "y = avg_pool2d(x) kernel=3 stride=2 pad=1 ceil_mode=1", 2, 0, 0 },
    { IN(9, 8, 24) "y = max_pool2d(x) kernel=3 stride=2 pad=1", 2, 0, 0 },
    { IN(9, 8, 16) "p = max_pool2d(x) kernel=2\nq = max_pool2d(x) kernel=2\ny = add(p, q)", 2, 0, 0 },
    { IN(9, 8, 8) "y = avg_pool2d(x) kernel=3 stride=2 pad=1 exclude_pad=1", 2, 0, 0 },
    { IN(9, 8, 5) "y = avg_pool2d(x) kernel=2 stride=1 pad=1 exclude_pad=1", 2, 0, 0 },
    { IN(7, 9, 35) "y = adaptive_avg_pool2d(x) height=1 width=1", 2, 0, 0 },
    { IN(7, 3, 3) "y = adaptive_avg_pool2d(x) height=3 width=5", 2, 0, 0 },
    { IN(5, 7, 3) "y = upsample(x) factor=2", 2, 0, 0 },
    { IN(5, 1, 3) "y = upsample(x) factor=3 mode=bilinear", 2, 0, 0 },
    { IN(5, 7, 3) "z = input() height=5 width=7 channels=17\ny = concat(x, z, x)", 2, 0, 0 },
    // a concatenation that the tensor cores read in its parts; one of them has another reader, too
    { IN(9, 7, 8) "z = input() height=9 width=7 channels=16\nc = concat(x, z)\nd = conv2d(c) out=20 kernel=3 pad=1\n"
                  "e = conv2d(c) out=20 kernel=1\nf = conv2d(z) out=20 kernel=1\ng = add(d, e)\ny = add(f, g)", 2, 0, 0 },
    { IN(6, 5, 24) "c = conv2d(x) out=8 kernel=3 pad=1\nd = concat(c, x)\ny = conv2d(d) out=9 kernel=3 stride=2", 3, 0, 0 },
    { IN(5, 7, 3) "z = input() height=5 width=7 channels=3\ny = add(x, z)", 2, 0, 0 },
    { IN(5, 7, 3) "y = add(x, x)", 2, 0, 0 },
    { IN(5, 7, 3) "z = input() height=5 width=7 channels=3\ny = mul(x, z)", 2, 0, 0 },
    { IN(5, 7, 35) "z = input() height=1 width=1 channels=35\ny = mul(x, z)", 2, 0, 0 },
    { IN(5, 7, 3) "y = flatten(x)", 2, 0, 0 },
    { IN(5, 7, 3) "y = dropout(x) p=0.4", 2, 0, 0 },
    { IN(5, 7, 3) "y = dropout(x) p=0.4 whole=1", 5, 0, 0 },
    { IN(3, 5, 7) "y = dense(x) out=11 each=1", 2, 0, 0 },
    { IN(1, 37, 36) "y = attention(x) heads=2", 2, 0, 0 },
    { IN(3, 3, 120) "y = attention(x) heads=1", 2, 0, 0 },
    { IN(1, 5, 16) "z = input() height=3 width=2 channels=16\ny = tokens(x, z, x)", 2, 0, 0 },
    { IN(1, 9, 5) "y = select(x) first=2 height=2 width=3", 3, 0, 0 },
    { IN(2, 3, 5) "p = parameter() height=2 width=3 channels=5 deviation=1\ny = mul(x, p)", 3, 0, 0 },
    { IN(5, 7, 3) "loss cross_entropy(x)", 2, 0, 0 },
    { IN(33, 57, 4) "loss cross_entropy(x) smoothing=0.1 class_weight=1,2,0.5,3 ignore_index=2 weight=0.7", 1, 0, 0 },
    { IN(5, 7, 4) "loss cross_entropy(x) dense=1", 2, 0, 0 },
    { IN(5, 7, 1) "loss bce(x)", 2, 0, 0 },
    { IN(5, 7, 3) "loss bce(x) dense=1", 2, 0, 0 },
    { IN(33, 57, 1) "loss dice(x)", 1, 0, 0 },
    { IN(5, 7, 3) "loss dice(x)", 2, 0, 0 },
    { IN(5, 7, 3) "loss dice(x) dense=1", 2, 0, 0 },
    { IN(5, 7, 3) "loss focal(x)", 2, 0, 0 },
    { IN(5, 7, 1) "loss focal(x) alpha=0.25 gamma=1.5", 2, 0, 0 },
    { IN(5, 7, 3) "loss mse(x)\nloss l1(x)\nloss huber(x) delta=0.5", 2, 0, 0 },
    { IN(33, 57, 4) "loss cross_entropy(x) smoothing=0.1 class_weight=1,2,0.5,3 pixel_weights=1\nloss dice(x) pixel_weights=1\nloss focal(x)", 2, 0, 0 },
    { IN(5, 7, 3) "loss bce(x) dense=1 pixel_weights=1\nloss dice(x) dense=1\nloss cross_entropy(x) pixel_weights=1", 2, 0, 0 },
    { IN(16, 16, 2) "c1 = conv2d(x) out=8 kernel=3 pad=1 no_bias=1\nn1 = batch_norm(c1)\nr1 = relu(n1)\n"
                    "c2 = conv2d(r1) out=8 kernel=3 pad=1\n"
                    "a = add(r1, c2)\ng = adaptive_avg_pool2d(a) height=1 width=1\ns = sigmoid(g)\nm = mul(a, s)\n"
                    "d = dense(m) out=5\nloss cross_entropy(d)", 4, 8e-2, 2e-2 }
};

typedef std::vector<double> numbers;

static tl_net *make(const char *text, int cuda, tl_cuda_math math, int no_graph)
{
    tl_net_desc desc;
    tl_cuda_desc cuda_desc;
    memset(&desc, 0, sizeof desc);
    memset(&cuda_desc, 0, sizeof cuda_desc);
    desc.seed = 7;
    desc.threads = 1;
    desc.exact = 1;
    cuda_desc.math = math;
    cuda_desc.no_graph = no_graph;
    tl_net *net = tl_net_new(&desc);
    CHECK(tl_parse(net, text) == TL_OK, "%s: %s", text, tl_error(net));
    if (cuda) CHECK(tl_use_cuda(net, &cuda_desc) == TL_OK, "%s: %s", text, tl_error(net));
    return net;
}

static float round_to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = (bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&value, &bits, sizeof bits);
    return value;
}

// Inputs are bf16 numbers, so that both types of activations begin with the same.
static void fill(tl_net *net, int batch, uint32_t pass)
{
    for (int i = 0; i < net->node_count; i++) {
        if (net->nodes[i].op != TL_OP_INPUT) continue;
        tl_rng rng = tl_rng_at(5, TL_RANDOM_USER, pass, 0, (uint32_t)i);
        std::vector<float> values(tl__sample_count(&net->nodes[i]) * (size_t)batch);
        for (size_t k = 0; k < values.size(); k++) values[k] = round_to_bf16(tl_random_normal(&rng));
        tl_node id = { i + 1 };
        CHECK(tl_set_input(net, id, values.data(), batch) == TL_OK, "%s", tl_error(net));
    }
    for (int i = 0; i < net->loss_count; i++) {
        const tl__loss_term *term = &net->losses[i];
        const tl__node *x = &net->nodes[term->node];
        int dense = tl__loss_is_dense(&term->desc);
        size_t count = (size_t)batch * x->h * x->w * (dense ? x->c : 1);
        tl_rng rng = tl_rng_at(6, TL_RANDOM_USER, pass, 0, (uint32_t)term->target_of);
        std::vector<int32_t> classes(count);
        std::vector<float> values(count);
        for (size_t k = 0; k < count; k++) {
            classes[k] = (int32_t)tl_random_below(&rng, (uint32_t)(x->c == 1 ? 2 : x->c)) - !tl_random_below(&rng, 6);
            values[k] = tl_random_uniform(&rng, 0, 1);
        }
        tl_result r =
            dense ? tl_set_target_dense(net, i, values.data(), batch) : tl_set_target_index(net, i, classes.data(), batch);
        for (size_t k = 0; k < count; k++) values[k] = (float)tl_random_below(&rng, 3) * values[k];
        if (!r && term->desc.pixel_weights) r = tl_set_target_weight(net, i, values.data(), batch);
        CHECK(r == TL_OK, "%s", tl_error(net));
    }
}

static void take(numbers *out, const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++) out->push_back(values ? (double)values[i] : NAN);
}

// Everything that a caller can see after two passes of training and one of prediction.
typedef struct outcome {
    std::vector<numbers> arrays;
    std::vector<std::string> names;
} outcome;

static void note(outcome *out, const char *what, const char *name, const float *values, size_t count)
{
    out->arrays.push_back(numbers());
    out->names.push_back(std::string(what) + " " + name);
    take(&out->arrays.back(), values, count);
}

static void note_pass(tl_net *net, int batch, outcome *out)
{
    for (int i = 0; i < net->node_count; i++) {
        tl_node id = { i + 1 };
        if (net->nodes[i].data_lives)
            note(out, "value", net->nodes[i].name, tl_data(net, id), tl__sample_count(&net->nodes[i]) * (size_t)batch);
    }
    for (int i = 0; i < net->loss_count; i++) {
        float value = (float)tl_loss_term(net, i);
        note(out, "loss", "", &value, 1);
    }
}

static void note_gradients(tl_net *net, int batch, outcome *out)
{
    for (int i = 0; i < net->node_count; i++) {
        tl_node id = { i + 1 };
        if (net->nodes[i].grad_lives)
            note(out, "gradient of", net->nodes[i].name, tl_grad(net, id), tl__sample_count(&net->nodes[i]) * (size_t)batch);
    }
    for (int i = 0; i < net->tensor_count; i++) {
        tl_tensor t = tl_tensor_at(net, i);
        if (t.trained) note(out, "gradient of", t.name, t.grad, t.count);
        else note(out, "buffer", t.name, t.data, t.count);
    }
}

static void run(tl_net *net, const gpu_case *c, outcome *out)
{
    for (int i = 0; i < net->node_count; i++) {
        tl_node id = { i + 1 };
        if (net->nodes[i].op == TL_OP_INPUT) tl_keep(net, id);
    }
    if (net->node_count > 0 && net->loss_count == 0) tl_output(net, tl_last(net));
    tl_result r = tl_prepare(net, c->batch, 1);
    CHECK(r == TL_OK, "%s: %s", c->text, tl_error(net));
    for (uint32_t pass = 0; pass < 2 && !r; pass++) {       // the second finds memory used, and adds to the gradients
        fill(net, c->batch, pass);
        r = tl_forward(net, c->batch, TL_TRAIN);
        if (!r) note_pass(net, c->batch, out);
        if (!r && net->loss_count) r = tl_backward(net);
        else if (!r) {
            const tl__node *last = &net->nodes[net->node_count - 1];
            std::vector<float> grad(tl__sample_count(last) * (size_t)c->batch);
            tl_rng rng = tl_rng_at(8, TL_RANDOM_USER, pass, 0, 0);
            for (size_t k = 0; k < grad.size(); k++) grad[k] = tl_random_normal(&rng);
            const float *grads[1] = { grad.data() };
            tl_node id = tl_last(net);
            r = tl_backward_from(net, &id, grads, 1);
        }
        CHECK(r == TL_OK, "%s: %s", c->text, tl_error(net));
        if (!r) note_gradients(net, c->batch, out);
    }
    fill(net, c->batch, 3);
    if (!r) r = tl_forward(net, c->batch, TL_EVAL);
    CHECK(r == TL_OK, "%s: %s", c->text, tl_error(net));
    if (!r) note_pass(net, c->batch, out);
}

static double rms(const numbers &x, const numbers *y)
{
    double sum = 0;
    for (size_t k = 0; k < x.size(); k++) sum += (x[k] - (y ? (*y)[k] : 0)) * (x[k] - (y ? (*y)[k] : 0));
    return sqrt(sum / (double)(x.size() + !x.size()));
}

static void compare_rms(const char *text, const outcome *a, const outcome *b, double tolerance)
{
    for (size_t i = 0; i < a->arrays.size() && i < b->arrays.size(); i++) {
        double error = rms(a->arrays[i], &b->arrays[i]), size = fmax(rms(a->arrays[i], NULL), 1e-2);
        CHECK(error <= tolerance * size, "%s: %s (rounded): error %.2g of %.2g", text, a->names[i].c_str(), error, size);
    }
}

static void compare(const char *text, const outcome *a, const outcome *b, double tolerance)
{
    CHECK(a->arrays.size() == b->arrays.size(), "%s: %zu and %zu arrays", text, a->arrays.size(), b->arrays.size());
    for (size_t i = 0; i < a->arrays.size() && i < b->arrays.size(); i++) {
        const numbers &x = a->arrays[i], &y = b->arrays[i];
        double range = 1e-3, worst = 0;
        size_t where = 0;
        for (size_t k = 0; k < x.size(); k++) range = fmax(range, fabs(x[k]));
        for (size_t k = 0; k < x.size(); k++) {
            double error = fabs(x[k] - y[k]) / range;
            if (!(error <= worst)) { worst = error; where = k; }
            if (error != error) break;
        }
        CHECK(x.size() == y.size() && worst <= tolerance, "%s: %s [%zu of %zu]: CPU %.9g, GPU %.9g, off by %.2g of the range",
              text, a->names[i].c_str(), where, x.size(), x.empty() ? 0 : x[where], y.empty() ? 0 : y[where], worst);
    }
}

// What the tensor cores round is seen in the cases above; here, that the kernels do what those of the CPU do, at every odd shape.
static void test_registered(const op_case *test, int twice, int number)
{
    char text[1024];
    outcome cpu, gpu, half, again;
    gpu_case c = { text, test->n, 0, 0 };
    if (!case_text(test, twice, text, sizeof text)) return;
    if (strstr(test->op, "stride=32000") || strstr(test->op, "kernel=17")) return;      // 17x17 and strides without an end: minutes
    if (test->n == 2 && test->h * test->w == 1 && strstr(test->op, "batch_norm")) return;   // of two values: a difference that rounding made
    tl_net *net = make(text, 0, TL_CUDA_FP32, 0);
    run(net, &c, &cpu);
    tl_net_free(net);
    emu_mode = schedules[number % 2];
    net = make(text, 1, TL_CUDA_FP32, 1);
    run(net, &c, &gpu);
    tl_net_free(net);
    compare(text, &cpu, &gpu, TOLERANCE_F32);
    if (twice) return;
#if EMULATED
    emu_whole_tf32 = 1;
    net = make(text, 1, TL_CUDA_TF32, 1);
    run(net, &c, &again);
    tl_net_free(net);
    emu_whole_tf32 = 0;
    compare(text, &cpu, &again, TOLERANCE_F32);
#endif
    net = make(text, 1, TL_CUDA_BF16, 1);
    run(net, &c, &half);
    tl_net_free(net);
    for (size_t i = 0; i < half.arrays.size(); i++)
        for (size_t k = 0; k < half.arrays[i].size(); k++)
            if (half.arrays[i][k] - half.arrays[i][k] != 0) {
                CHECK(0, "%s: %s [%zu] is %g in bf16", text, half.names[i].c_str(), k, half.arrays[i][k]);
                break;
            }
#if EMULATED
    CHECK(emu_memory_used == 0 && emu_open_count == 0 && emu_message[0] == 0, "%s: %zu bytes are not released; %s", text, emu_memory_used,
          emu_message);
    emu_clear();
#endif
}

static void test_case(const gpu_case *c)
{
    outcome cpu, gpu[2], tf32, half[2];
    tl_net *net = make(c->text, 0, TL_CUDA_FP32, 0);
    run(net, c, &cpu);
    tl_net_free(net);
    for (int s = 0; s < 2; s++) {
        emu_mode = schedules[s];
        net = make(c->text, 1, TL_CUDA_FP32, s);
        run(net, c, &gpu[s]);
        tl_net_free(net);
    }
    compare(c->text, &cpu, &gpu[0], TOLERANCE_F32);
    compare(c->text, &gpu[0], &gpu[1], 0);                  // the same bits under any schedule
    for (int s = 0; s < 2; s++) {
        emu_mode = schedules[s];
        net = make(c->text, 1, TL_CUDA_BF16, s);
        run(net, c, &half[s]);
        tl_net_free(net);
    }
    compare_rms(c->text, &cpu, &half[0], c->bf16 > 0 ? c->bf16 : TOLERANCE_BF16);
    compare(c->text, &half[0], &half[1], 0);
    net = make(c->text, 1, TL_CUDA_TF32, 0);
    run(net, c, &tf32);
    tl_net_free(net);
    compare_rms(c->text, &cpu, &tf32, c->tf32 > 0 ? c->tf32 : TOLERANCE_TF32);
#if EMULATED
    outcome whole;                                          // the same kernels without the rounding
    emu_whole_tf32 = 1;
    net = make(c->text, 1, TL_CUDA_TF32, 0);
    run(net, c, &whole);
    tl_net_free(net);
    emu_whole_tf32 = 0;
    compare(c->text, &cpu, &whole, TOLERANCE_F32);
    CHECK(emu_memory_used == 0 && emu_open_count == 0, "%s: %zu bytes of device memory are not released", c->text,
          emu_memory_used);
    CHECK(emu_message[0] == 0, "%s: %s", c->text, emu_message);
    emu_clear();
#endif
}

// ---- prepared for prediction ---------------------------------------------------------------

// Batch norms, sums and ReLUs that a convolution does, too: the same numbers as those of the CPU without any of that.
static void test_inference(void)
{
    static const char *const texts[] = {
        IN(9, 8, 3) "c = conv2d(x) out=16 kernel=3 pad=1\nr = relu(c)\nd = dense(r) out=5\ns = relu(d)",
        IN(9, 8, 8) "c = conv2d(x) out=24 kernel=3 pad=1 no_bias=1\nb = batch_norm(c)\nr = relu(b)\n"
                    "e = conv2d(r) out=24 kernel=3 pad=1\nf = batch_norm(e) no_affine=1\na = add(f, r)\ng = relu(a)\n"
                    "h = conv2d(g) out=24 kernel=3 groups=24\ni = batch_norm(h)\nj = relu(i)\nk = add(j, j)\nl = relu(k)",
        IN(5, 6, 16) "t = conv_transpose2d(x) out=9 kernel=2 stride=2\nb = batch_norm(t)\nr = relu(b)",
        IN(5, 6, 16) "b = batch_norm(x)\nr = relu(b)\nc = conv2d(r) out=7 kernel=1\nu = batch_norm(c)\ns = sigmoid(u)"
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        numbers values[4];
        for (int way = 0; way < 4; way++) {                 // CPU; GPU in float, tf32 without its rounding, bf16
            tl_net_desc desc;
            tl_cuda_desc cuda;
            memset(&desc, 0, sizeof desc);
            memset(&cuda, 0, sizeof cuda);
            desc.seed = 7;
            desc.exact = way == 0;
            cuda.math = (tl_cuda_math)(way - 1);
            if (way == 2 && !EMULATED) continue;
#if EMULATED
            emu_whole_tf32 = way == 2;
            memset(emu_kernel_uses, 0, sizeof emu_kernel_uses);
#endif
            tl_net *net = tl_net_new(&desc);
            CHECK(tl_parse(net, texts[i]) == TL_OK, "%s", tl_error(net));
            if (way) CHECK(tl_use_cuda(net, &cuda) == TL_OK, "%s", tl_error(net));
            CHECK(tl_prepare(net, 2, 0) == TL_OK, "%s", tl_error(net));
            tl_rng rng = tl_rng_at(4, TL_RANDOM_USER, 0, 0, 0);
            for (int k = 0; k < net->tensor_count; k++) {
                tl_tensor t = tl_tensor_at(net, k);
                for (size_t e = 0; e < t.count && t.rank == 1; e++) t.data[e] = tl_random_uniform(&rng, 0.5f, 1.5f) - (t.trained ? 0.9f : 0);
            }
            fill(net, 2, 1);
            CHECK(tl_forward(net, 2, TL_EVAL) == TL_OK, "%s", tl_error(net));
            const tl__node *last = &net->nodes[net->node_count - 1];
            take(&values[way], tl_data(net, tl_last(net)), tl__sample_count(last) * 2);
            tl_net_free(net);
#if EMULATED
            emu_whole_tf32 = 0;
            size_t passes = emu_kernel_uses[TL__CU_bn_apply] + emu_kernel_uses[TL__CU_elements_forward];
            CHECK(way != 1 || passes == (i == 1 ? 1u : i == 3 ? 2u : 0u), "%s: %zu passes that a convolution could have done", texts[i], passes);
#endif
            if (way) {
                double error = rms(values[0], &values[way]), size = rms(values[0], NULL);
                CHECK(size > 0.01 && error <= (way == 3 ? TOLERANCE_BF16 : 2e-6) * size, "%s: way %d is off by %g of %g", texts[i], way, error, size);
            }
        }
    }
}

// ---- nothing is left out -------------------------------------------------------------------

#if EMULATED

// Every op of tinytl.h was in a case, every kernel has run; what the GPU cannot do is said when a network is prepared.
static void test_coverage(void)
{
    int seen[TL_OP_COUNT] = { 0 }, losses[TL_LOSS_COUNT] = { 0 };
    for (size_t i = 0; i < sizeof op_cases / sizeof *op_cases; i++) {
        char text[1024];
        case_text(&op_cases[i], 0, text, sizeof text);
        tl_net *net = make(text, 0, TL_CUDA_FP32, 0);
        for (int k = 0; k < net->node_count; k++) seen[net->nodes[k].op]++;
        for (int k = 0; k < net->loss_count; k++) losses[net->losses[k].desc.kind]++;
        tl_net_free(net);
    }
    for (int op = TL_OP_NONE + 1; op < TL_OP_COUNT; op++) CHECK(seen[op] > 0, "no case has %s", tl__op_names[op]);
    for (int kind = TL_LOSS_NONE + 1; kind < TL_LOSS_COUNT; kind++) CHECK(losses[kind] > 0, "no case has loss %d", kind);
    tl_net *net = make(IN(2, 2, 3) "y = relu(x)", 1, TL_CUDA_FP32, 0);
    CHECK(net->backend->check(net) == TL_OK, "%s", tl_error(net));
    net->nodes[1].op = TL_OP_NONE;
    CHECK(net->backend->check(net) == TL_ERR_STATE && strstr(tl_error(net), "the GPU has no kernel for"), "%s", tl_error(net));
    net->nodes[1].op = TL_OP_RELU;
    tl_net_free(net);
    net = make(IN(1, 3, 387) "y = attention(x) heads=1", 1, TL_CUDA_FP32, 0);
    CHECK(tl_prepare(net, 1, 0) == TL_ERR_SHAPE && strstr(tl_error(net), "heads of 129 channels"), "%s", tl_error(net));
    tl_net_free(net);
}

// At the end: none of the kernels was never run.
static void test_all_ran(void)
{
    for (int i = 0; i < TL__CU_KERNELS; i++) CHECK(emu_kernel_uses[i] > 0, "kernel %s was never run", tl__cu_names[i]);
    CHECK(emu_bank_passes == 0, "ldmatrix met banks twice, %zu times", emu_bank_passes);
}

#endif

// ---- the emulator sees mistakes ------------------------------------------------------------

#if EMULATED

struct planted {
    const float *from;
    float       *to;
    int          bug;
};

enum {
    NO_BUG,
    NO_BARRIER,
    NO_WAIT,
    NO_LAST_BARRIER,
    WRONG_GLOBAL,
    WRONG_SHARED,
    DIVERGENT,
    ODD_ADDRESS,
    HALF_WARP,
    EARLY_RETURN
};

struct planted_tile {
    float value[256 + 4];
};

// Copies tiles of 256 values through shared memory with cp.async; each thread reads the value of another, backwards.
static void planted_kernel(planted p)
{
    planted_tile *s = tl_smem<planted_tile>();
    int t = (int)threadIdx.x, tiles = 4;
    if (p.bug == EARLY_RETURN && t == 7) return;
    for (int i = 0; i < tiles; i++) {
        int from = p.bug == WRONG_GLOBAL ? (i + 1) * 256 : i * 256;
        if (t < 64) tl_cp_async16(&s->value[4 * t + (p.bug == ODD_ADDRESS)], p.from + from + 4 * t, 16);
        tl_cp_async_commit();
        if (p.bug != NO_WAIT) tl_cp_async_wait<0>();
        if (p.bug != NO_BARRIER && (p.bug != DIVERGENT || t < 128)) __syncthreads();
        p.to[i * 256 + t] = s->value[p.bug == WRONG_SHARED ? 260 + t : 255 - t] + tlk_warp_sum(0.0f);
        if (p.bug == HALF_WARP && t % 32 < 16) tlk_warp_sum(1.0f);
        if (p.bug != NO_LAST_BARRIER) __syncthreads();
    }
}

// 1 if a run with this bug gives the right result and no report.
static int planted_run(int bug, emu_settings mode)
{
    const unsigned grid[3] = { 1, 1, 1 };
    float *from = (float *)emu_alloc(1024 * 4), *to = (float *)emu_alloc(1024 * 4);
    for (int i = 0; i < 1024; i++) from[i] = (float)i;
    planted p = { from, to, bug };
    emu_mode = mode;
    emu_clear();
    int right = emu_launch("planted", emu_invoke<planted, planted_kernel>, &p, grid, 256, sizeof(planted_tile), 49152) == 0;
    for (int i = 0; i < 1024 && right; i++) right = to[i] == (float)(i / 256 * 256 + 255 - i % 256);
    emu_release(from);
    emu_release(to);
    return right;
}

static void test_emulator(void)
{
    static const char *const names[] = { "nothing",
                                         "a missing barrier",
                                         "a missing wait",
                                         "a missing barrier at the end of the loop",
                                         "a global index too large",
                                         "a shared index too large",
                                         "a barrier in a branch",
                                         "an address that is not aligned",
                                         "an exchange of half a warp",
                                         "an early return" };
    static const char *const says[] = { "", "", "", "", "out of bounds", "", "wait", "16 bytes", "", "returned" };
    for (int bug = NO_BUG; bug <= EARLY_RETURN; bug++) {
        int right = 1, said = 0;
        for (int s = 0; s < 2; s++) {
            right &= planted_run(bug, schedules[s]);
            said |= says[bug][0] && strstr(emu_message, says[bug]) != NULL;
        }
        CHECK(right == (bug == NO_BUG), "the emulator with %s planted: %s", names[bug], right ? "nobody saw it" : emu_message);
        CHECK(said || !says[bug][0], "the report of %s: '%s'", names[bug], emu_message);
    }
    emu_clear();
}

#endif

// ---- whole training steps ------------------------------------------------------------------

static void build_unet(tl_net *net)
{
    tl_unet_desc unet;
    tl_loss_desc loss;
    memset(&unet, 0, sizeof unet);
    memset(&loss, 0, sizeof loss);
    unet.classes = 2; unet.width = 8; unet.depth = 2;
    tl_node y = tl_unet(net, tl_input(net, 32, 32, 1), &unet);
    loss.kind = TL_CROSS_ENTROPY;
    tl_loss(net, y, &loss);
    loss.kind = TL_DICE;
    tl_loss(net, y, &loss);
}

static void build_resnet(tl_net *net)
{
    tl_conv2d_desc conv;
    tl_loss_desc loss;
    tl_dense_desc dense;
    tl_pool2d_desc pool;
    memset(&conv, 0, sizeof conv);
    memset(&loss, 0, sizeof loss);
    memset(&dense, 0, sizeof dense);
    memset(&pool, 0, sizeof pool);
    conv.out = 16; conv.kernel = 7; conv.stride = 2; conv.pad = 3; conv.no_bias = 1;
    pool.kernel = 3; pool.stride = 2; pool.pad = 1;
    dense.out = 5;
    tl_node x = tl_relu(net, tl_batch_norm(net, tl_conv2d(net, tl_input(net, 32, 32, 3), &conv), NULL));
    x = tl_max_pool2d(net, x, &pool);
    for (int i = 0; i < 2; i++) {
        tl_push(net, i ? "layer2" : "layer1");
        x = tl_residual_block(net, x, 16 + 16 * i, 1 + i);
        tl_pop(net);
    }
    loss.kind = TL_CROSS_ENTROPY;
    tl_loss(net, tl_dense(net, tl_global_avg_pool2d(net, x), &dense), &loss);
}

// The image itself goes into a concatenation: that part has no gradient.
static void build_joined(tl_net *net)
{
    CHECK(tl_parse(net, IN(8, 8, 8) "c = conv2d(x) out=16 kernel=3 pad=1\nr = relu(c)\nj = concat(x, r)\n"
                        "d = conv2d(j) out=8 kernel=3 pad=1\nk = concat(d, x)\ne = conv2d(k) out=3 kernel=1\n"
                        "loss cross_entropy(e)") == TL_OK, "%s", tl_error(net));
}

static void train(void (*build)(tl_net *), const tl_optimizer_desc *optimizer, int cuda, tl_cuda_math math, int no_graph,
                  int steps, outcome *out)
{
    tl_net *net = make("", cuda, math, no_graph);
    build(net);
    if (optimizer->clip_norm > 0) {
        tl_optimizer(net, optimizer);
        tl_group_desc group;
        memset(&group, 0, sizeof group);
        group.params = "*bias"; group.no_weight_decay = 1; group.lr = optimizer->lr / 2;
        CHECK(tl_group(net, &group) == TL_OK, "%s", tl_error(net));
    } else tl_optimizer(net, optimizer);
    tl_result r = tl_prepare(net, 2, 1);
    for (int step = 0; step < steps && !r; step++) {
        fill(net, 2, (uint32_t)step);
        r = tl_forward(net, 2, TL_TRAIN);
        if (!r) r = tl_backward(net);
        if (!r) r = tl_step(net);
        float values[2] = { (float)tl_loss_value(net), (float)tl_grad_norm(net) };
        note(out, "loss and norm", "", values, 2);
    }
    CHECK(r == TL_OK, "%s", tl_error(net));
    for (int i = 0; i < net->tensor_count; i++) {
        tl_tensor t = tl_tensor_at(net, i);
        note(out, "tensor", t.name, t.data, t.count);
    }
    tl_net_free(net);
}

static void test_training(void)
{
    tl_optimizer_desc o;
    memset(&o, 0, sizeof o);
    o.kind = TL_SGD; o.lr = 1e-2f; o.momentum = 0.9f; o.weight_decay = 1e-4f;
    void (*const build[3])(tl_net *) = { build_unet, build_resnet, build_joined };
    const char *const names[3] = { "U-Net", "ResNet", "concatenations" };
    for (int i = 0; i < 3; i++) {
        outcome cpu, gpu[2], half, tf32;
#if EMULATED
        size_t graphs = emu_graphs_run;
#endif
        train(build[i], &o, 0, TL_CUDA_FP32, 0, 4, &cpu);
        for (int s = 0; s < 2; s++) {
            emu_mode = schedules[s];
            train(build[i], &o, 1, TL_CUDA_FP32, s, 4, &gpu[s]);
        }
#if EMULATED
        CHECK(emu_graphs_run == graphs + 3, "%s: 3 of 4 steps are one graph each, not %zu", names[i], emu_graphs_run - graphs);
#endif
        compare(names[i], &cpu, &gpu[0], 5e-4);             // four steps, rounding grows with each
        compare(names[i], &gpu[0], &gpu[1], 0);             // graph or not, any schedule
        train(build[i], &o, 1, TL_CUDA_BF16, 0, 4, &half);
        compare_rms(names[i], &cpu, &half, 0.1);
        train(build[i], &o, 1, TL_CUDA_TF32, 1, 4, &tf32);
        compare_rms(names[i], &cpu, &tf32, 0.05);
#if EMULATED
        outcome whole;                                      // the tensor cores without their rounding
        size_t slices = emu_kernel_uses[TL__CU_slice];
        emu_whole_tf32 = 1;
        train(build[i], &o, 1, TL_CUDA_TF32, 0, 4, &whole);
        emu_whole_tf32 = 0;
        compare(names[i], &cpu, &whole, 5e-4);
        CHECK(emu_kernel_uses[TL__CU_slice] == slices, "%s: a concatenation was copied", names[i]);
#endif
    }
}

static void build_small(tl_net *net)
{
    CHECK(tl_parse(net, IN(4, 4, 2) "c = conv2d(x) out=3 kernel=3\nloss mse(c)") == TL_OK, "%s", tl_error(net));
}

static void test_optimizers(void)
{
    for (int kind = TL_SGD; kind < TL_OPTIMIZER_COUNT; kind++)
        for (int variant = 0; variant < 3; variant++) {
            tl_optimizer_desc o;
            outcome cpu, gpu;
            memset(&o, 0, sizeof o);
            o.kind = (tl_optimizer_kind)kind; o.lr = 1e-2f;
            if (variant == 1) { o.weight_decay = 0.1f; o.clip_norm = 0.5f; }
            if (variant > 0 && (kind == TL_SGD || kind == TL_RMSPROP)) o.momentum = 0.8f;
            if (variant == 2 && kind == TL_SGD) o.nesterov = 1;
            train(build_small, &o, 0, TL_CUDA_FP32, 0, 3, &cpu);
            train(build_small, &o, 1, TL_CUDA_FP32, 0, 3, &gpu);
            compare(tl__optimizer_names[kind], &cpu, &gpu, TOLERANCE_F32);
        }
}

// ---- what goes wrong -----------------------------------------------------------------------

#if EMULATED

static tl_result one_step(tl_net *net)
{
    tl_result r = tl_prepare(net, 2, 1);
    if (!r) fill(net, 2, 0);
    if (!r) r = tl_forward(net, 2, TL_TRAIN);
    if (!r) r = tl_backward(net);
    if (!r) r = tl_step(net);
    return r;
}

static void test_errors(void)
{
    tl_optimizer_desc o;
    memset(&o, 0, sizeof o);
    o.kind = TL_ADAM; o.lr = 1e-3f;
    // every call of the driver may fail: an error, no crash, nothing left behind
    for (int n = 0, ended = 0; !ended && n < 400; n++) {
        tl_net *net = make("", 0, TL_CUDA_FP32, 0);
        build_small(net);
        tl_optimizer(net, &o);
        emu_fail_after = n;
        emu_failures = 0;
        tl_result r = tl_use_cuda(net, NULL);
        if (!r) r = tl_prepare(net, 2, 1);
        if (!r) {
            for (int i = 0; i < 2 && !r; i++) {
                fill(net, 2, (uint32_t)i);
                r = tl_forward(net, 2, TL_TRAIN);
                if (!r) r = tl_backward(net);
                if (!r) r = tl_step(net);
            }
        }
        ended = emu_failures == 0;
        CHECK(ended ? r == TL_OK : r != TL_OK, "failure %d of the driver: %s", n, tl_result_name(r));
        CHECK(ended || strlen(tl_error(net)) > 0, "failure %d of the driver: no sentence", n);
        emu_fail_after = -1;
        tl_net_free(net);
        CHECK(emu_memory_used == 0 && emu_open_count == 0, "failure %d of the driver: device memory is lost", n);
    }
    // too large, said before anything is taken
    size_t limit = emu_memory_limit;
    tl_net *net = make("", 1, TL_CUDA_FP32, 0);
    build_unet(net);
    tl_optimizer(net, &o);
    tl_plan plan;
    CHECK(tl_memory(net, 2, 1, &plan) == TL_OK && plan.total > 0, "%s", tl_error(net));
    emu_memory_limit = plan.total / 2;
    CHECK(tl_prepare(net, 2, 1) == TL_ERR_MEMORY && strstr(tl_error(net), "do not fit"), "%s", tl_error(net));
    emu_memory_limit = limit;
    CHECK(one_step(net) == TL_OK, "after a refusal: %s", tl_error(net));
    CHECK(tl_use_cuda(net, NULL) == TL_ERR_STATE, "use_cuda twice");
    // a gradient that is not finite: no step, and the CPU's sentence
    tl_real *weights = tl_parameters(net);
    weights[0] = INFINITY;
    fill(net, 2, 0);
    tl_forward(net, 2, TL_TRAIN);
    tl_backward(net);
    CHECK(tl_step(net) == TL_ERR_DIVERGED && strstr(tl_error(net), "not finite"), "%s", tl_error(net));
    tl_net_free(net);
    // where the first value arises that is not finite
    for (int math = TL_CUDA_FP32; math <= TL_CUDA_BF16; math++) {
        net = make(IN(4, 4, 2) "c = conv2d(x) out=3 kernel=3\nr = relu(c)\nb = batch_norm(r)\nloss mse(b)", 1, (tl_cuda_math)math, 0);
        CHECK(tl_prepare(net, 2, 1) == TL_OK, "%s", tl_error(net));
        fill(net, 2, 0);
        tl_forward(net, 2, TL_TRAIN);
        CHECK(net->backend->first_bad(net) == -1, "all was finite");
        weights = tl_parameters(net);
        weights[0] = NAN;
        tl_forward(net, 2, TL_TRAIN);
        CHECK(net->backend->first_bad(net) == 1, "the convolution made it");
        tl_net_free(net);
    }
    // a kernel that goes wrong is named
    net = make("", 1, TL_CUDA_FP32, 1);
    build_unet(net);
    tl_prepare(net, 2, 1);
    fill(net, 2, 0);
    emu_allowed_shared = 64;
    tl_result r = tl_forward(net, 2, TL_EVAL);
    CHECK(r != TL_OK && strstr(tl_error(net), "conv_forward") && strstr(tl_error(net), "a batch of 2"), "%s", tl_error(net));
    emu_allowed_shared = 232448;
    emu_clear();
    tl_net_free(net);
}

#endif

// ---- batches made on the GPU ---------------------------------------------------------------

// A record with an image of a type, and a mask of two classes with unknown pixels.
static void make_record(tl_record *record, tl_pixel type, int channels, int width, int height)
{
    tl_rng rng = tl_rng_at(11, TL_RANDOM_USER, 0, (uint32_t)type, (uint32_t)(width * channels));
    tl_image_alloc(&record->image, width, height, channels, TL_F32);
    tl_image_alloc(&record->mask, width, height, 1, TL_U8);
    for (int i = 0; i < width * height * channels; i++)
        ((float *)record->image.pixels)[i] = 0.5f + 0.4f * sinf(0.3f * (float)(i / channels % width)) * tl_random_uniform(&rng, 0, 1);
    for (int i = 0; i < width * height; i++)
        ((unsigned char *)record->mask.pixels)[i] = tl_random_below(&rng, 9) ? (unsigned char)(i / 7 % 2) : TL_IGNORE;
    tl_image_convert(&record->image, &record->image, type);
    record->label = 1;
    record->value = NAN;
}

static tl_net *make_window_net(int channels, tl_cuda_math math)
{
    tl_cuda_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.math = math;
    desc.augment = 1;
    tl_net *net = tl_net_new(NULL);
    CHECK(tl_use_cuda(net, &desc) == TL_OK, "%s", tl_error(net));
    char text[200];
    snprintf(text, sizeof text, "x = input() height=24 width=70 channels=%d\ny = conv2d(x) out=2 kernel=1\nloss cross_entropy(y)", channels);
    CHECK(tl_parse(net, text) == TL_OK, "%s", tl_error(net));
    tl_preprocess preprocess;
    memset(&preprocess, 0, sizeof preprocess);
    preprocess.scaling = TL_SCALE_FULL;
    preprocess.mean[0] = 0.3f; preprocess.std[0] = 0.2f;
    preprocess.bgr = channels == 3;
    CHECK(tl_set_preprocess(net, &preprocess) == TL_OK, "%s", tl_error(net));
    CHECK(tl_prepare(net, 3, 1) == TL_OK, "%s", tl_error(net));
    net->nodes[0].samples = net->losses[0].target_count = 3;
    return net;
}

static const char *const view_lists[] = {
    "",
    "flip_x; flip_y p=0.5; rot90",
    "rotate degrees=-40..40",
    "rotate degrees=-40..40 border=constant fill=0.3 ignore=1",
    "affine degrees=-20..20 scale=0.8..1.2 shear=-10..10 shift=-5..5 border=wrap",
    "scale factor=1.3 bicubic=1",
    "perspective inward=0..0.1",
    "elastic alpha=60 sigma=4",
    "flip_x; elastic alpha=60 sigma=4; rotate degrees=-40..40",
    "rotate degrees=10; elastic alpha=90 sigma=5; crop width=64 height=20",
    "drift way=-4..4",
    "scan sigma=1; flip_y",
    "shift pixels=-3.5..3.5; resized_crop width=70 height=24 area=0.5..1",
    "brightness shift=-0.3..0.3; gamma exponent=0.5..2; invert p=0.5",
    "gauss_noise sigma=0.1; brightness_contrast",
    "gauss_noise_grey variance=100; rot90; elastic alpha=60 sigma=4 p=0.7; gauss_noise sigma=0.05; flip_x",
    "scan sigma=1; elastic alpha=60 sigma=4; brightness shift=0.1; shift pixels=2.5 border=constant fill=1"
};

static void test_views(void)
{
    for (size_t list = 0; list < sizeof view_lists / sizeof *view_lists; list++)
        for (int kind = 0; kind < 4; kind++) {
            static const tl_pixel types[4] = { TL_U8, TL_F32, TL_U16, TL_U8 };
            tl_transform transforms[8];
            tl_record record, copy, scratch;
            memset(transforms, 0, sizeof transforms);
            memset(&record, 0, sizeof record);
            int channels = kind == 3 ? 3 : 1, count = tl_transforms_parse(view_lists[list], transforms, 8);
            CHECK(count >= 0, "%s: %s", view_lists[list], tl_error(NULL));
            make_record(&record, types[kind], channels, 130 - 40 * (kind == 1), kind == 2 ? 20 : 110);      // or smaller than the window
            tl_net *net = make_window_net(channels, list % 2 ? TL_CUDA_BF16 : TL_CUDA_FP32);
            tl__scaling scaling = tl__scaling_of(&net->preprocess, &record.image);
            tl_result r = TL_OK;
            for (uint32_t epoch = 0; epoch < 2 && !r; epoch++) {
                numbers want, got, classes;
                for (int i = 0; i < 3 && !r; i++) {
                    tl__fit fit;
                    tl__job job;
                    memset(&fit, 0, sizeof fit);
                    memset(&job, 0, sizeof job);
                    memset(&copy, 0, sizeof copy);
                    memset(&scratch, 0, sizeof scratch);
                    fit.net = net;
                    job.source = &fit;
                    job.transforms = transforms;
                    job.seed = 3; job.epoch = epoch; job.index = i;
                    job.crop_w = 70; job.crop_h = 24;
                    job.prepare = tl__fit_prepare;
                    tl__job other = job;
                    job.from = &record;
                    job.record = &copy;
                    job.scratch = &scratch;
                    r = net->backend->view(net, &job, count, i, &scaling);
                    CHECK(r == TL_OK, "%s: %s", view_lists[list], tl_error(NULL));
                    tl_record_free(&scratch);
                    tl_record_free(&copy);
                    memset(&copy, 0, sizeof copy);
                    memset(&scratch, 0, sizeof scratch);
                    other.from = &record;
                    other.record = &copy;
                    other.scratch = &scratch;
                    CHECK(tl__augment(&other, count) == TL_OK, "%s: %s", view_lists[list], tl_error(NULL));
                    std::vector<float> x((size_t)24 * 70 * (size_t)channels);
                    std::vector<int32_t> t(24 * 70);
                    tl__fill_input(x.data(), 24, 70, &copy.image, 0, 0, &scaling);
                    for (int y = 0; y < 24; y++)
                        tl__target_row(&copy.mask, &copy.weight, tl__mirror(y, copy.mask.height), 70, &t[(size_t)y * 70]);
                    take(&want, x.data(), x.size());
                    for (size_t k = 0; k < t.size(); k++) classes.push_back(t[k]);
                    tl_record_free(&scratch);
                    tl_record_free(&copy);
                }
                if (!r) r = net->backend->make_views(net, 3);
                if (!r) r = net->backend->get(net, TL__TARGET, 0);
                CHECK(r == TL_OK, "%s: %s", view_lists[list], tl_error(net));
                tl_node in = { 1 };
                take(&got, tl_data(net, in), want.size());
                double off = 0;
                size_t differ = 0;
                for (size_t k = 0; k < want.size(); k++) off = fmax(off, fabs(want[k] - got[k]));
                for (size_t k = 0; k < classes.size(); k++)
                    differ += (int)classes[k] != ((const int32_t *)(const void *)net->losses[0].mirror)[k];
                // with inputs of about +-3; where a processor fuses multiply and add, a point may round to the pixel beside it
                CHECK(off <= (list % 2 ? 0.02 : EMULATED ? 2e-6 : 2e-3), "%s, image %d: pixels are off by %g", view_lists[list], kind, off);
                CHECK(differ <= (EMULATED ? 0 : classes.size() / 500), "%s, image %d: %zu classes differ", view_lists[list], kind, differ);
                CHECK(rms(want, NULL) > 0.1, "%s: nothing is there", view_lists[list]);
            }
            tl_record_free(&record);
            tl_net_free(net);
        }
}

static void refuse_view(const char *list, int width, const char *says)
{
    tl_transform transforms[16];
    tl_record record, copy;
    tl__job job;
    memset(transforms, 0, sizeof transforms);
    memset(&record, 0, sizeof record);
    memset(&copy, 0, sizeof copy);
    memset(&job, 0, sizeof job);
    int count = tl_transforms_parse(list, transforms, 16);
    make_record(&record, TL_U8, 1, width, 110);
    tl_net *net = make_window_net(1, TL_CUDA_FP32);
    tl__scaling scaling = tl__scaling_of(&net->preprocess, &record.image);
    if (!list[0]) ((unsigned char *)record.mask.pixels)[110 * width / 2] = 2;
    job.from = &record;
    job.record = job.scratch = &copy;
    job.transforms = transforms;
    tl_result r = net->backend->view(net, &job, count, 0, &scaling);
    CHECK(r != TL_OK && strstr(tl_error(NULL), says), "%s: '%s'", list, tl_error(NULL));
    tl_record_free(&record);
    tl_net_free(net);
}

// Two GPUs, each with half of the batch, learn what one learns from all of it: the losses are means over the batch.
static void test_several_gpus(void)
{
    outcome one, two, alone;
    tl_optimizer_desc o;
    memset(&o, 0, sizeof o);
    o.kind = TL_ADAMW; o.lr = 1e-2f;
    for (int gpus = 0; gpus <= 2; gpus++) {                 // 0: one GPU that sees half of the batch
        tl_net *nets[2] = { NULL, NULL };
        int count = gpus == 2 ? 2 : 1, batch = gpus == 1 ? 4 : 2;
        std::vector<float> x(4 * 4 * 4 * 2), t(4 * 2 * 2 * 3);
        for (int i = 0; i < count; i++) {
            tl_net_desc desc;
            tl_cuda_desc cuda;
            memset(&desc, 0, sizeof desc);
            memset(&cuda, 0, sizeof cuda);
            desc.seed = 7u + (uint64_t)i;                   // joining makes them equal
            cuda.device = i;
            nets[i] = tl_net_new(&desc);
            CHECK(tl_use_cuda(nets[i], &cuda) == TL_OK, "%s", tl_error(nets[i]));
            build_small(nets[i]);
            tl_optimizer(nets[i], &o);
            CHECK(tl_prepare(nets[i], batch, 1) == TL_OK, "%s", tl_error(nets[i]));
        }
        CHECK(tl_cuda_average(nets[0]) == TL_ERR_STATE, "a mean without joining");
        if (count > 1) CHECK(tl_cuda_join(nets, count) == TL_OK, "%s", tl_error(nets[0]));
        if (count > 1) CHECK(tl_cuda_average(nets[0]) == TL_ERR_STATE, "a mean without gradients");
        for (uint32_t step = 0; step < 3; step++) {
            tl_rng rng = tl_rng_at(3, TL_RANDOM_USER, step, 0, 0);
            for (size_t k = 0; k < x.size(); k++) x[k] = tl_random_normal(&rng);
            for (size_t k = 0; k < t.size(); k++) t[k] = tl_random_normal(&rng);
            for (int i = 0; i < count; i++) {
                tl_node in = { 1 };
                tl_set_input(nets[i], in, &x[(size_t)i * x.size() / 2], batch);
                tl_set_target_dense(nets[i], 0, &t[(size_t)i * t.size() / 2], batch);
                tl_forward(nets[i], batch, TL_TRAIN);
                CHECK(tl_backward(nets[i]) == TL_OK, "%s", tl_error(nets[i]));
            }
            if (count > 1) CHECK(tl_cuda_average(nets[0]) == TL_OK, "%s", tl_error(nets[0]));
            for (int i = 0; i < count; i++) CHECK(tl_step(nets[i]) == TL_OK, "%s", tl_error(nets[i]));
        }
        for (int i = 0; i < count; i++)
            note(gpus == 2 ? &two : gpus ? &one : &alone, "parameters", "", tl_parameters(nets[i]), tl_parameter_count(nets[i]));
        for (int i = 0; i < count; i++) tl_net_free(nets[i]);
    }
    one.arrays.push_back(one.arrays[0]);
    one.names.push_back(one.names[0]);
    compare("two GPUs", &one, &two, 1e-5);
    CHECK(rms(alone.arrays[0], &two.arrays[0]) > 1e-3, "the other GPU's batch does not count");
    CHECK(two.arrays[0] == two.arrays[1], "the parameters of two GPUs went apart");
    tl_net *cpu = tl_net_new(NULL);
    CHECK(tl_cuda_join(&cpu, 1) == TL_ERR_STATE && tl_cuda_join(NULL, 1) != TL_OK, "joined without a GPU");
    tl_net_free(cpu);
}

// The high-level calls: the same program without tl_use_cuda, with it, and with batches made on the GPU.
static void test_fit(void)
{
    float best[3] = { 0, 0, 0 };
    numbers masks[3];
    for (int cuda = 0; cuda < 3; cuda++) {
        tl_net *net = make("", cuda == 1, TL_CUDA_FP32, 0);
        tl_cuda_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.augment = 1;
        if (cuda == 2) CHECK(tl_use_cuda(net, &desc) == TL_OK, "%s", tl_error(net));
        tl_grains_desc grains;
        tl_fit_desc fit;
        tl_fit_report report;
        memset(&grains, 0, sizeof grains);
        memset(&fit, 0, sizeof fit);
        build_unet(net);
        grains.width = grains.height = 32; grains.count = 6; grains.seed = 3;
        tl_dataset *data = tl_grains_stream(&grains);
        fit.train = fit.valid = data;
        fit.epochs = 2; fit.batch = 3;
        tl_transform transforms[8];
        fit.augment = transforms;
        fit.augment_count = tl_transforms_parse(tl_preset("S0-16"), transforms, 8);
        fit.optimizer.kind = TL_ADAMW; fit.optimizer.lr = 1e-3f;
        CHECK(tl_fit(net, &fit, &report) == TL_OK, "%s", tl_error(net));
        best[cuda] = (float)report.best_valid_loss;
        tl_image image, out;
        memset(&image, 0, sizeof image);
        memset(&out, 0, sizeof out);
        tl_predict_desc predict;
        memset(&predict, 0, sizeof predict);
        predict.tile = 32;
        CHECK(tl_grains(&grains, 9, 0, NULL, NULL, &image) == TL_OK, "%s", tl_error(NULL));
        CHECK(tl_predict(net, &image, NULL, &out) == TL_OK, "%s", tl_error(net));
        take(&masks[cuda], (const float *)out.pixels, (size_t)out.width * out.height * out.channels);
        tl_image_free(&image);
        tl_image_free(&out);
        tl_dataset_free(data);
        tl_net_free(net);
    }
    for (int i = 1; i < 3; i++) {
        CHECK(fabsf(best[0] - best[i]) < 1e-3f * fabsf(best[0]), "fit %d: validation loss CPU %.7g, GPU %.7g", i, (double)best[0],
              (double)best[i]);
        CHECK(masks[0].size() == masks[i].size() && rms(masks[0], &masks[i]) < 1e-3, "predict: CPU and GPU differ by %.2g",
              rms(masks[0], &masks[i]));
    }
    if (EMULATED) CHECK(best[1] == best[2], "batches made on the GPU: loss %.9g, not %.9g", (double)best[2], (double)best[1]);
}

int main(int argc, char **argv)
{
    const char *only = argc > 1 ? argv[1] : NULL;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (!only || strstr(cases[i].text, only)) test_case(&cases[i]);
    few_blocks = 99;
    for (size_t i = 0; i < sizeof op_cases / sizeof *op_cases; i++)
        for (int twice = 0; twice < 2; twice++)
            if (!only || strstr(op_cases[i].op, only)) test_registered(&op_cases[i], twice, (int)i + twice);
    if (!only) {
#if EMULATED
        test_coverage();
        test_emulator();
        test_errors();
#endif
        for (int i = 0; i < 2; i++) {
            emu_mode = schedules[i];
            test_views();
        }
        refuse_view("clahe", 130, "clahe): there is no kernel");
        refuse_view("flip_x; invert; flip_x; invert; flip_x; invert; flip_x", 130, "transform 7 (flip_x): the list changes");
        refuse_view("scale factor=0.1", 1300, "has room for");
        refuse_view("elastic alpha=1 sigma=0.6; crop width=30 height=20", 1300, "waves of elastic are too short");
        refuse_view("", 130, "class 2, but the network has classes 0 .. 1");
        emu_mode = schedules[0];
#if EMULATED
        test_several_gpus();
#endif
#if EMULATED
        test_all_ran();
#endif
        test_inference();
        test_optimizers();
        test_fit();
        test_training();
    }
    return finish("cuda");
}
