// What would a training step cost on an H200? Needs no GPU: the step is launched on a driver that only writes down the kernels.
//
//     make build/cuda_plan && build/cuda_plan [all] [fp32 | tf32 | bf16]
//
// For each kernel: its grid, the bytes that it must move (every array once), the multiply-adds of its tiles including those that
// pad a tile, and a time: the larger of bytes over 4.3 TB/s and flops over 350 TFLOP/s (bf16 by mma.sync; tf32: half; plain
// fp32: 40), divided by the share of 132 processors that get a block, and 0.9 us for the launch in a graph. A model, not a
// measurement; it shows where bytes are moved twice and where processors have nothing to do.

#include <math.h>
#include <map>
#include "emulator.h"
#define TINYTL_IMPLEMENTATION
#include "../tinytl.h"
#define TINYTL_CUDA_IMPLEMENTATION
#include "../tinytl_cuda.h"

#define BYTES_A_SECOND 4.3e12
#define PROCESSORS 132
#define LAUNCH 0.9e-6

struct cost {
    double bytes, flops, seconds;
    int    launches;
};
static std::map<std::string, cost> by_kernel;
static cost total;
static int  print_all, counting, bf16_values;
static double tensor_rate;

enum { KIND_pad, KIND_elements, KIND_conv, KIND_norm, KIND_pool, KIND_join, KIND_dropout, KIND_attention, KIND_loss, KIND_views, KIND_reduce, KIND_step };
#define PLAN_KIND2(name, P) KIND_##P, KIND_##P,
#define PLAN_KIND(name, P) KIND_##P,
static const int kinds[] = { TL__CU_TYPED(PLAN_KIND2) TL__CU_FLOAT(PLAN_KIND) };

static double round_up(double n, double to) { return ceil(n / to) * to; }
static int says(const char *name, const char *what) { return strstr(name, what) != NULL; }

static cost cost_of_conv(const char *name, const unsigned grid[3], const tl__cu_conv *p)
{
    double a = bf16_values ? 2 : 4, x = (double)p->n * p->h * p->w * p->c, y = (double)p->n * p->oh * p->ow * p->out;
    double weights = (double)p->kh * p->kw * p->c / p->groups * p->out;
    int mma = says(name, "mma"), tile = mma ? 128 : 64, columns = 64, step = mma ? (bf16_values ? 32 : 16) : 16;
    if (mma) columns = says(name, "_16") ? 16 : says(name, "_32") ? 32 : says(name, "_64") ? 64 : 128;
    int is_weights = says(name, "weights"), is_data = says(name, "data");
    double m = (double)p->n * p->oh * p->ow, n = p->out, k = (double)p->kh * p->kw * p->c / p->groups;
    if (is_data) { m = (double)p->n * p->h * p->w; n = p->c; k = (double)p->kh * p->kw * p->out / (p->sh * p->sw); }
    if (is_weights) { m = (double)p->kh * p->kw * p->c; n = p->out; k = (double)p->n * p->oh * p->ow; }
    cost c = { a * (x + y) + weights * 4, 0, 0, 1 };
    if (p->add && !is_weights) c.bytes += a * (is_data ? x : y);
    if (is_weights) c.bytes += 4 * weights * (p->splits - 1);
    if (says(name, "plain")) c.flops = 2 * m * p->out * k;
    else c.flops = 2 * round_up(m, tile) * round_up(n, columns) * round_up(k, step);
    double rate = mma ? tensor_rate : 40e12, blocks = (double)grid[0] * grid[1] * grid[2];
    c.seconds = fmax(c.bytes / BYTES_A_SECOND, c.flops / rate) * fmax(1, PROCESSORS / blocks) + LAUNCH;
    return c;
}

static cost cost_of(int kernel, const unsigned grid[3], const void *params)
{
    const char *name = tl__cu_names[kernel];
    double a = bf16_values ? 2 : 4, values = 0, floats = 0;
    switch (kinds[kernel]) {
    case KIND_conv: return cost_of_conv(name, grid, (const tl__cu_conv *)params);
    case KIND_elements: {
        const tl__cu_elements *p = (const tl__cu_elements *)params;
        values = (double)p->count * ((p->x != NULL) + (p->other != NULL) + (p->dy != NULL) + 1 + p->add);
        break;
    }
    case KIND_norm: {
        const tl__cu_norm *p = (const tl__cu_norm *)params;
        double all = (double)p->rows * p->c;
        if (says(name, "merge") || says(name, "finish") || says(name, "eval")) floats = 2.0 * p->blocks * p->c;
        else if (says(name, "backward_apply")) values = all * (3 + p->add);
        else if (says(name, "backward_partial")) values = 2 * all;
        else if (says(name, "apply")) values = 2 * all;
        else values = all;
        break;
    }
    case KIND_pool: {
        const tl__cu_pool *p = (const tl__cu_pool *)params;
        double x = (double)p->n * p->h * p->w * p->c, y = (double)p->n * p->oh * p->ow * p->c;
        values = x + y;
        if (says(name, "backward")) values += p->add * x + (says(name, "pool") && !p->average ? x + y : 0);
        break;
    }
    case KIND_join: {
        const tl__cu_join *p = (const tl__cu_join *)params;
        values = (double)p->count * (2 + p->add);
        break;
    }
    case KIND_loss: {
        const tl__cu_loss *p = (const tl__cu_loss *)params;
        if (says(name, "finish")) break;
        values = (double)p->positions * p->c * (1 + says(name, "gradient") + p->add * says(name, "gradient"));
        floats = (double)p->positions;
        break;
    }
    case KIND_pad: {
        const tl__cu_pad *p = (const tl__cu_pad *)params;
        values = (double)p->rows * (p->c + p->to);
        break;
    }
    case KIND_reduce: {
        const tl__cu_reduce *p = (const tl__cu_reduce *)params;
        floats = (double)p->count * (p->parts + 2);
        break;
    }
    case KIND_step: {
        const tl__cu_step *p = (const tl__cu_step *)params;
        double parameters = says(name, "scale") ? 0 : (double)grid[0] * TL__CU_PIECE;
        floats = parameters * (says(name, "update") ? 2 + 1 + 2.0 * ((p->first != NULL) + (p->second != NULL)) : 1);
        break;
    }
    default: break;
    }
    cost c = { values * a + floats * 4, 0, 0, 1 };
    double blocks = (double)grid[0] * grid[1] * grid[2];
    c.seconds = c.bytes / BYTES_A_SECOND * fmax(1, PROCESSORS / blocks) + LAUNCH;
    return c;
}

static void add(cost *to, const cost &c)
{
    to->bytes += c.bytes; to->flops += c.flops; to->seconds += c.seconds; to->launches += c.launches;
}

// ---- a driver that does nothing ------------------------------------------------------------

static const char *plan_error(int) { return "no"; }
static int plan_open(int, void **self) { static char it; *self = &it; return 0; }
static void plan_close(void *) {}
static int plan_info(void *, tl__cu_info *info)
{
    memset(info, 0, sizeof *info);
    snprintf(info->name, sizeof info->name, "model of an H200");
    info->major = 9;
    info->memory = info->free = (size_t)141000000000;
    info->shared = 232448;
    return 0;
}
static int plan_alloc(void *, void **p, size_t bytes)              // address space, no memory
{
    *p = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return *p == MAP_FAILED;
}
static int plan_alloc_host(void *, void **p, size_t bytes) { *p = calloc(1, bytes); return *p == NULL; }
static void plan_release(void *, void *) {}
static void plan_release_host(void *, void *p) { free(p); }
static int plan_copy(void *, void *, const void *, size_t, int) { return 0; }
static int plan_clear(void *, void *, size_t) { return 0; }
static int plan_launch(void *, int kernel, const unsigned grid[3], size_t, const void *params)
{
    if (!counting) return 0;
    cost c = cost_of(kernel, grid, params);
    const char *name = tl__cu_names[kernel];
    add(&by_kernel[name], c);
    add(&total, c);
    if (print_all) {
        char shape[80] = "";
        if (kinds[kernel] == KIND_conv) {
            const tl__cu_conv *p = (const tl__cu_conv *)params;
            snprintf(shape, sizeof shape, "%dx%d %d>%d k%d s%d", p->h, p->w, p->c, p->out, p->kh, p->sh);
        }
        printf("%-30s %-24s %7u x %3u x %3u %9.1f MB %8.2f GFLOP %8.1f us\n", name, shape, grid[0], grid[1], grid[2], c.bytes / 1e6,
               c.flops / 1e9, c.seconds * 1e6);
    }
    return 0;
}
static int plan_wait(void *) { return 0; }
static int plan_begin(void *) { return 0; }
static int plan_end(void *, void **graph) { static char it; *graph = &it; return 0; }
static int plan_run(void *, void *) { return 0; }
static void plan_release_graph(void *, void *) {}

static const tl__cu_driver *tl__cu_the_driver(void)
{
    static const tl__cu_driver driver = { plan_error, plan_open, plan_close, plan_info, plan_alloc, plan_alloc_host, plan_release,
                                          plan_release_host, plan_copy, plan_clear, plan_launch, plan_wait, plan_begin, plan_end,
                                          plan_run, plan_release_graph, NULL, NULL, NULL };
    return &driver;
}

// ---- the steps -----------------------------------------------------------------------------

static void plan(const char *title, int size, int channels, int batch, int width, const char *backbone, int train, tl_cuda_math math,
                 double floor_ms)
{
    tl_cuda_desc desc;
    tl_unet_desc unet;
    tl_backbone_desc trunk;
    tl_loss_desc loss;
    tl_optimizer_desc optimizer;
    memset(&desc, 0, sizeof desc);
    memset(&unet, 0, sizeof unet);
    memset(&trunk, 0, sizeof trunk);
    memset(&loss, 0, sizeof loss);
    memset(&optimizer, 0, sizeof optimizer);
    desc.math = math;
    desc.no_graph = 1;
    bf16_values = math == TL_CUDA_BF16;
    tensor_rate = bf16_values ? 350e12 : 175e12;
    by_kernel.clear();
    memset(&total, 0, sizeof total);
    tl_net *net = tl_net_new(NULL);
    unet.classes = 2; unet.width = width;
    trunk.name = backbone; trunk.classes = 1000;
    loss.kind = TL_CROSS_ENTROPY;
    optimizer.kind = TL_ADAMW; optimizer.lr = 1e-3f;
    tl_node x = tl_input(net, size, size, channels), y = backbone ? tl_backbone(net, x, &trunk) : width ? tl_unet(net, x, &unet) : tl_lenet5(net, x, 10);
    tl_loss(net, y, &loss);
    loss.kind = TL_DICE;
    if (width) tl_loss(net, y, &loss);
    tl_optimizer(net, &optimizer);
    tl_use_cuda(net, &desc);
    tl_result r = tl_prepare(net, batch, train);
    tl__only_input(net)->samples = batch;
    for (int i = 0; i < net->loss_count; i++) net->losses[i].target_count = batch;
    for (int i = 0; i < 2 && !r; i++) {
        counting = i;
        r = tl_forward(net, batch, train ? TL_TRAIN : TL_EVAL);
        if (!r && train) r = tl_backward(net);
        if (!r && train) {
            tl__cu_device *dev = tl__cu_of(net);
            ((double *)(void *)dev->twin)[2] = 1;                      // the step was made
            r = tl_step(net);
        }
    }
    if (r) printf("%s: %s\n", title, tl_error(net));
    printf("\n%s: %d kernels, %.2f GB, %.0f GFLOP, %.2f ms by the model", title, total.launches, total.bytes / 1e9, total.flops / 1e9,
           total.seconds * 1e3);
    printf(floor_ms > 0 ? "; floor of the study %.2f ms\n" : "\n", floor_ms);
    for (std::map<std::string, cost>::iterator i = by_kernel.begin(); i != by_kernel.end(); ++i)
        if (i->second.seconds > 0.01 * total.seconds)
            printf("    %-32s %4d %9.1f MB %9.1f GFLOP %9.1f us\n", i->first.c_str(), i->second.launches, i->second.bytes / 1e6,
                   i->second.flops / 1e9, i->second.seconds * 1e6);
    tl_net_free(net);
}

int main(int argc, char **argv)
{
    tl_cuda_math math = TL_CUDA_BF16;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "all") == 0) print_all = 1;
        if (strcmp(argv[i], "fp32") == 0) math = TL_CUDA_FP32;
        if (strcmp(argv[i], "tf32") == 0) math = TL_CUDA_TF32;
    }
    int half = math == TL_CUDA_BF16;
    plan("U-Net-16 256x256, batch 32, training step", 256, 1, 32, 16, NULL, 1, math, half ? 1.18 : 0);
    plan("U-Net-64 512x512, batch 8, training step", 512, 1, 8, 64, NULL, 1, math, half ? 12.4 : 0);
    plan("ResNet-18 224x224, batch 256, training step", 224, 3, 256, 0, "resnet18", 1, math, half ? 3.98 : 0);
    plan("LeNet-5 28x28, batch 64, training step", 28, 1, 64, 0, NULL, 1, math, 0);
    plan("U-Net-16 256x256, batch 1, prediction", 256, 1, 1, 16, NULL, 0, math, 0);
    return 0;
}
