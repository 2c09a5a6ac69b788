// How fast is tinytl on this GPU? Times whole training steps and predictions, and writes JSON for tools/cuda.sh.
//
//     nvcc -O2 -x cu -std=c++14 -arch=native -I. tools/cuda_bench.c -o build/cuda_bench && build/cuda_bench build/cuda_bench.json
//
// A figure is the median of seven runs of several steps; each step ends with the host knowing the loss. Inputs stay on the GPU.

#define TINYTL_IMPLEMENTATION
#include "tinytl.h"
#define TINYTL_CUDA_IMPLEMENTATION
#include "tinytl_cuda.h"

typedef struct work {
    const char *name;
    int size, channels, batch, classes, width, train;      // width 0: backbone of that name, -1: LeNet-5
    const char *backbone;
    double floor_ms;               // computed for an H200, bf16: memory traffic and arithmetic at the rates measured there; 0: none
} work;

static const work works[] = {
    { "U-Net-16 256x256, batch 32, training step", 256, 1, 32, 2, 16, 1, NULL, 1.18 },
    { "U-Net-64 512x512, batch 8, training step", 512, 1, 8, 2, 64, 1, NULL, 12.4 },
    { "ResNet-18 224x224, batch 256, training step", 224, 3, 256, 1000, 0, 1, "resnet18", 3.98 },
    { "LeNet-5, batch 64, training step", 28, 1, 64, 10, -1, 1, NULL, 0 },
    { "U-Net-16 256x256, batch 1, prediction", 256, 1, 1, 2, 16, 0, NULL, 0 },
    { "ResNet-18 224x224, batch 1, prediction", 224, 3, 1, 1000, 0, 0, "resnet18", 0 }
};

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static tl_net *build(const work *w, tl_cuda_math math, int no_graph)
{
    tl_cuda_desc desc;
    tl_unet_desc unet;
    tl_backbone_desc backbone;
    tl_loss_desc loss;
    tl_optimizer_desc optimizer;
    memset(&desc, 0, sizeof desc);
    memset(&unet, 0, sizeof unet);
    memset(&backbone, 0, sizeof backbone);
    memset(&loss, 0, sizeof loss);
    memset(&optimizer, 0, sizeof optimizer);
    tl_net *net = tl_net_new(NULL);
    desc.math = math; desc.no_graph = no_graph;
    unet.classes = w->classes; unet.width = w->width;
    backbone.name = w->backbone; backbone.classes = w->classes;
    optimizer.kind = TL_ADAMW; optimizer.lr = 1e-4f;
    tl_node x = tl_input(net, w->size, w->size, w->channels);
    tl_node y = w->width > 0 ? tl_unet(net, x, &unet) : w->width < 0 ? tl_lenet5(net, x, w->classes) : tl_backbone(net, x, &backbone);
    loss.kind = TL_CROSS_ENTROPY;
    tl_loss(net, y, &loss);
    loss.kind = TL_DICE;
    if (w->width > 0) tl_loss(net, y, &loss);
    tl_optimizer(net, &optimizer);
    tl_use_cuda(net, &desc);
    tl_prepare(net, w->batch, w->train);
    return net;
}

static tl_result fill(tl_net *net, const work *w)
{
    tl_node x = { 1 };
    size_t count = (size_t)w->batch * w->size * w->size * w->channels, pixels = (size_t)w->batch * (w->width > 0 ? w->size * w->size : 1);
    float *values = (float *)malloc(count * sizeof *values);
    int32_t *classes = (int32_t *)malloc(pixels * sizeof *classes);
    tl_rng rng = tl_rng_at(1, TL_RANDOM_USER, 0, 0, 0);
    for (size_t i = 0; values && i < count; i++) values[i] = tl_random_normal(&rng);
    for (size_t i = 0; classes && i < pixels; i++) classes[i] = (int32_t)tl_random_below(&rng, (uint32_t)w->classes);
    tl_result r = values && classes ? tl_set_input(net, x, values, w->batch) : TL_ERR_MEMORY;
    if (!r) r = tl_set_target_index(net, 0, classes, w->batch);
    free(values);
    free(classes);
    return r;
}

static tl_result one(tl_net *net, const work *w)
{
    tl_result r = tl_forward(net, w->batch, w->train ? TL_TRAIN : TL_EVAL);
    if (!w->train) return r || !tl_data(net, tl_last(net)) ? TL_ERR_STATE : TL_OK;
    if (!r) r = tl_backward(net);
    if (!r) r = tl_step(net);
    return r || !(tl_loss_value(net) < 1e30) ? TL_ERR_STATE : TL_OK;
}

// Milliseconds of one step; below 0 with a sentence on stderr if it cannot be done.
static double measure(const work *w, tl_cuda_math math, int no_graph)
{
    double times[7];
    tl_net *net = build(w, math, no_graph);
    tl_result r = tl_status(net) ? tl_status(net) : fill(net, w);
    for (int i = 0; i < 5 && !r; i++) r = one(net, w);
    double begin = tl__now();
    if (!r) r = one(net, w);
    int steps = (int)(0.3 / (tl__now() - begin + 1e-6)) + 1;
    for (int i = 0; i < 7 && !r; i++) {
        begin = tl__now();
        for (int k = 0; k < steps && !r; k++) r = one(net, w);
        times[i] = (tl__now() - begin) / steps * 1e3;
    }
    if (r) fprintf(stderr, "%s: %s\n", w->name, tl_error(net));
    tl_net_free(net);
    if (r) return -1;
    qsort(times, 7, sizeof *times, compare_doubles);
    return times[3];
}

int main(int argc, char **argv)
{
    static const char *const maths[] = { "fp32", "tf32", "bf16" };
    FILE *out = argc > 1 ? fopen(argv[1], "w") : stdout;
    if (!out) { fprintf(stderr, "%s cannot be written\n", argv[1]); return 1; }
    tl_net *probe = tl_net_new(NULL);
    if (tl_use_cuda(probe, NULL)) { fprintf(stderr, "%s\n", tl_error(probe)); return 1; }
    fprintf(out, "{\"gpu\": \"%s\", \"works\": [", tl_device_name(probe));
    tl_net_free(probe);
    int bad = 0;
    for (size_t i = 0; i < sizeof works / sizeof *works; i++) {
        fprintf(out, "%s\n{\"name\": \"%s\", \"floor_ms\": %g", i ? "," : "", works[i].name, works[i].floor_ms);
        for (int math = TL_CUDA_FP32; math <= TL_CUDA_BF16; math++)
            for (int no_graph = 0; no_graph < 2; no_graph++) {
                double ms = measure(&works[i], (tl_cuda_math)math, no_graph);
                printf("%-48s %s%-10s %9.3f ms\n", works[i].name, maths[math], no_graph ? ", no graph" : "", ms);
                fprintf(out, ", \"%s%s\": %.4f", maths[math], no_graph ? " no graph" : "", ms);
                bad |= ms < 0;
            }
        fprintf(out, "}");
    }
    fprintf(out, "\n]}\n");
    if (out != stdout) fclose(out);
    return bad;
}
