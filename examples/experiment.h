// What the experiments share: two tasks on drawn micrographs, a small residual network, means with their spread, and
// plot.h. Included by one program each, which defines nothing before it.

#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>
#define TINYTL_IMPLEMENTATION
#include "../tinytl.h"
#include "plot.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Ends the program with the library's sentence if a call has failed.
static inline void must(tl_result result, const tl_net *net)
{
    if (!result) return;
    fprintf(stderr, "%s\n", tl_error(net));
    exit(1);
}

// ---- two tasks -----------------------------------------------------------------------------
//
//  Task A: which of four grain sizes, with dark or bright boundaries: eight classes, as many images as one likes. Task B:
//  are the grains round, long, tall or twinned: four classes, few labels, drawn by another "microscope" (noise, contrast).

enum { SIDE = 32, CLASSES_A = 8, CLASSES_B = 4 };

typedef struct task {
    int   b;                  // 0: task A, 1: task B
    uint32_t series;          // other images for another number
    float brighter;           // added to every pixel: another exposure
    float darker;             // and the contrast divided by 1 + this
} task;

static tl_result draw(void *user, uint32_t epoch, int index, tl_record *out)
{
    const task *t = (const task *)user;
    tl_rng rng = tl_rng_at(11, TL_RANDOM_USER, t->series, (uint32_t)index, (uint32_t)t->b);
    tl_result result = tl_image_alloc(&out->image, SIDE, SIDE, 1, TL_F32);
    float *pixels = (float *)out->image.pixels, x[64], y[64], grey[64];
    (void)epoch;
    if (result) return result;
    out->label = index % (t->b ? CLASSES_B : CLASSES_A);
    int kind = t->b ? out->label : 0, grains = t->b ? 12 + (int)tl_random_below(&rng, 8) : 6 << (out->label / 2);
    float line = t->b ? -0.22f : out->label % 2 ? 0.25f : -0.25f, level = tl_random_uniform(&rng, 0.4f, 0.6f);
    float stretch_x = kind == 1 ? 0.45f : 1, stretch_y = kind == 2 ? 0.45f : 1, noise = t->b ? 0.10f : 0.05f;
    for (int i = 0; i < grains; i++) {
        x[i] = tl_random_uniform(&rng, -4, SIDE + 4) * stretch_x;
        y[i] = tl_random_uniform(&rng, -4, SIDE + 4) * stretch_y;
        grey[i] = level + (t->b ? 0.05f : 0.08f) * tl_random_normal(&rng);
    }
    float angle = tl_random_uniform(&rng, 0, 3.1416f);                        // of the twins
    for (int p = 0; p < SIDE * SIDE; p++) {
        float px = (float)(p % SIDE), py = (float)(p / SIDE), first = 1e9f, second = 1e9f;
        int own = 0;
        for (int i = 0; i < grains; i++) {
            float dx = px * stretch_x - x[i], dy = py * stretch_y - y[i], d = sqrtf(dx * dx + dy * dy);
            if (d < first) { second = first; first = d; own = i; }
            else if (d < second) second = d;
        }
        float value = grey[own], across = px * cosf(angle + (float)own) + py * sinf(angle + (float)own);
        if (second - first < 1.0f) value += line;
        else if (kind == 3 && fmodf(across + 100, 6) < 2) value += 0.14f;      // twins: parallel bands inside a grain
        value = (value - 0.5f) / (1 + t->darker) + 0.5f + t->brighter + noise * tl_random_normal(&rng);
        pixels[p] = value < 0 ? 0 : value > 1 ? 1 : value;
    }
    return TL_OK;
}

static inline tl_dataset *draw_set(task *t, int count)
{
    tl_dataset *data = tl_dataset_from(count, draw, t);
    must(data ? TL_OK : TL_ERR_MEMORY, NULL);
    return data;
}

// ---- a network -----------------------------------------------------------------------------

// conv1, three stages of one residual block, a dense layer: 20 thousand parameters, names as in a ResNet.
static inline tl_net *small_resnet(int classes, uint64_t seed)
{
    tl_net *net = tl_net_new(&(tl_net_desc){ .seed = seed, .threads = 1 });
    tl_node x = tl_input(net, SIDE, SIDE, 1);
    x = tl_conv2d(net, x, &(tl_conv2d_desc){ .name = "conv1", .out = 8, .kernel = 3, .pad = 1, .no_bias = 1 });
    x = tl_relu(net, tl_batch_norm(net, x, &(tl_norm_desc){ .name = "bn1" }));
    for (int i = 1; i <= 3; i++) {
        char level[16];
        snprintf(level, sizeof level, "layer%d", i);
        tl_push(net, level);
        x = tl_residual_block(net, x, 4 << i, i == 1 ? 1 : 2);
        tl_pop(net);
    }
    x = tl_dense(net, tl_global_avg_pool2d(net, x), &(tl_dense_desc){ .name = "fc", .out = classes });
    tl_loss(net, x, &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
    tl_set_preprocess(net, &(tl_preprocess){ .scaling = TL_SCALE_FULL, .mean = { 0.5f }, .std = { 0.2f } });
    must(tl_status(net), net);
    return net;
}

// A network that has learnt task A.
static inline tl_net *learn_a(int images, int epochs)
{
    static task a = { .series = 1 }, test = { .series = 2 };
    tl_net *net = small_resnet(CLASSES_A, 1);
    tl_dataset *train = draw_set(&a, images), *valid = draw_set(&test, 400);
    tl_fit_report report;
    must(tl_fit(net, &(tl_fit_desc){
        .train = train, .valid = valid, .epochs = epochs, .batch = 32, .seed = 1,
        .optimizer = { .kind = TL_ADAMW, .lr = 4e-3f, .schedule = { .kind = TL_WARMUP_COSINE, .warmup = 20 } },
    }, &report), net);
    printf("task A: %d images, accuracy %.3f on others, %.0f s\n", images, report.best_valid_score, report.seconds);
    tl_dataset_free(train);
    tl_dataset_free(valid);
    return net;
}

// The same trunk with a new head for task B.
static inline tl_net *for_b(const tl_net *learnt, uint64_t seed)
{
    tl_net *net = tl_replace_head(learnt, NULL, CLASSES_B, &(tl_net_desc){ .seed = seed, .threads = 1 });
    if (!net) must(TL_ERR_ARGUMENT, NULL);
    tl_loss(net, tl_last(net), &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
    return net;
}

// Accuracy on a set.
static inline double accuracy(tl_net *net, const tl_dataset *data)
{
    tl_evaluation e;
    must(tl_evaluate(net, data, 32, NULL, &e), net);
    return e.score;
}

// ---- means ---------------------------------------------------------------------------------

typedef struct sample {
    double sum, squares;
    int    count;
} sample;

static inline void add(sample *s, double value) { s->sum += value; s->squares += value * value; s->count++; }
static inline double mean(const sample *s) { return s->sum / s->count; }
static inline double spread(const sample *s)        // standard deviation from seed to seed
{
    return s->count > 1 ? sqrt(fmax(s->squares - s->sum * mean(s), 0) / (s->count - 1)) : 0;
}
