// LeNet-5 learns to tell shapes apart: the training loop with nothing hidden.
//
//     02_lenet [STEPS]     default: 1500, ten to twenty seconds
//
// Images of 28x28 pixels show a circle, square, triangle, cross or ring of any size, place, angle and contrast, in noise. The
// program draws them itself, so there are as many as we like and every step sees new ones. LeNet-5 (LeCun et al. 1998) has 61 000
// parameters: two convolutions find small patterns, two poolings forget where exactly they were, three dense layers decide.

#define TINYTL_IMPLEMENTATION
#include "../tinytl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { SIZE = 28, PIXELS = SIZE * SIZE, BATCH = 64, UNSEEN = 2000 };
enum { CIRCLE, SQUARE, TRIANGLE, CROSS, RING, CLASSES };
static const char *const names[CLASSES] = { "circle", "square", "triangle", "cross", "ring" };

// Is (u, v) inside the shape? In the shape's own coordinates, where it reaches about 1 from its centre.
static int inside(int shape, float u, float v)
{
    float r = u * u + v * v;
    switch (shape) {
    case CIRCLE:   return r < 0.8f;
    case SQUARE:   return fabsf(u) < 0.8f && fabsf(v) < 0.8f;
    case TRIANGLE: return v > -0.6f && v < 1 - 1.75f * fabsf(u);
    case CROSS:    return (fabsf(u) < 0.28f && fabsf(v) < 1) || (fabsf(v) < 0.28f && fabsf(u) < 1);
    default:       return r < 1 && r > 0.36f;
    }
}

// Draws image number `index` of a series: the same number gives the same image, in any order, on any machine.
static int draw(uint32_t series, uint32_t index, float *pixels)
{
    tl_rng rng = tl_rng_at(1, TL_RANDOM_USER, series, index, 0);
    int shape = (int)tl_random_below(&rng, CLASSES);
    float radius = tl_random_uniform(&rng, 6, 10), angle = tl_random_uniform(&rng, 0, 6.2832f);
    float cx = tl_random_uniform(&rng, radius, SIZE - radius), cy = tl_random_uniform(&rng, radius, SIZE - radius);
    float dark = tl_random_uniform(&rng, 0.2f, 0.6f), bright = dark + tl_random_uniform(&rng, 0.25f, 0.5f);
    for (int y = 0; y < SIZE; y++)
    for (int x = 0; x < SIZE; x++) {
        float dx = (x - cx) / radius, dy = (y - cy) / radius;
        float u = cosf(angle) * dx + sinf(angle) * dy, v = cosf(angle) * dy - sinf(angle) * dx;
        float grey = (inside(shape, u, v) ? bright : dark) + 0.08f * tl_random_normal(&rng);
        pixels[y * SIZE + x] = (grey - 0.5f) * 4;          // roughly mean 0 and variance 1, which suits the initial weights
    }
    return shape;
}

static int fail(const tl_net *net)
{
    fprintf(stderr, "02_lenet: %s\n", tl_error(net));
    return 1;
}

int main(int argc, char **argv)
{
    int steps = argc > 1 ? atoi(argv[1]) : 1500;
    static float images[BATCH * PIXELS];
    static int32_t shapes[BATCH];

    // The network, its loss and its optimiser. One check at the end is enough: a network keeps its first error.
    tl_net *net = tl_net_new(&(tl_net_desc){ .seed = 1 });
    tl_node in = tl_input(net, SIZE, SIZE, 1);
    tl_node logits = tl_lenet5(net, in, CLASSES);
    tl_loss(net, logits, &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
    tl_optimizer(net, &(tl_optimizer_desc){ .kind = TL_ADAM, .lr = 2e-3f,
                                            .schedule = { .kind = TL_WARMUP_COSINE, .total = steps, .warmup = steps / 20 } });
    if (tl_prepare(net, BATCH, 1)) return fail(net);
    printf("%zu parameters, %.2f million multiply-adds for an image\n", tl_parameter_count(net), tl_flops(net) / 2e6);

    // The training loop: images in, forward, backward, one step of the optimiser.
    double mean = 0;
    for (int step = 1; step <= steps; step++) {
        for (int i = 0; i < BATCH; i++) shapes[i] = draw(0, (uint32_t)(step * BATCH + i), images + i * PIXELS);
        tl_set_input(net, in, images, BATCH);
        tl_set_target_index(net, 0, shapes, BATCH);
        if (tl_forward(net, BATCH, TL_TRAIN) || tl_backward(net) || tl_step(net)) return fail(net);
        mean += tl_loss_value(net) / 100;                  // guessing costs ln 5 = 1.61
        if (step % 100) continue;
        printf("step %4d  loss %.3f  learning rate %.5f\n", step, mean, tl_learning_rate(net, "fc1.weight"));
        mean = 0;
    }

    // The test: images of another series, which training has never used.
    static int table[CLASSES][CLASSES];
    int right = 0, count = 0;
    while (count < UNSEEN) {
        for (int i = 0; i < BATCH; i++) shapes[i] = draw(1, (uint32_t)(count + i), images + i * PIXELS);
        tl_set_input(net, in, images, BATCH);
        if (tl_forward(net, BATCH, TL_EVAL)) return fail(net);
        const float *score = tl_data(net, logits);         // BATCH x CLASSES; the largest one is the answer
        for (int i = 0; i < BATCH && count < UNSEEN; i++, count++, score += CLASSES) {
            int best = 0;
            for (int c = 1; c < CLASSES; c++) if (score[c] > score[best]) best = c;
            table[shapes[i]][best]++;
            right += best == shapes[i];
        }
    }
    double p = (double)right / count;
    printf("\n%d of %d unseen shapes right: %.1f %% (standard error %.1f)\n", right, count, 100 * p, 100 * sqrt(p * (1 - p) / count));
    printf("\n%-10s", "is \\ said");
    for (int c = 0; c < CLASSES; c++) printf("%10s", names[c]);
    for (int t = 0; t < CLASSES; t++) {
        printf("\n%-10s", names[t]);
        for (int c = 0; c < CLASSES; c++) printf("%10d", table[t][c]);
    }
    printf("\n");
    tl_net_free(net);
    return 0;
}
