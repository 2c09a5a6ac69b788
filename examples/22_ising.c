// At which temperature does a magnet lose its order? A network that has only seen magnets far below and far above that
// temperature is asked about those in between.
//
//     22_ising [EPOCHS]       default: 6 epochs, about a minute on one core
//
// The two-dimensional Ising model, 64 x 64 spins, drawn with Wolff's clusters. Onsager's exact answer is
// 2 / ln(1 + sqrt 2) = 2.269. Carrasquilla and Melko (Nature Physics 13, 2017) let a network that was trained on both
// phases find it: where the mean probability of "ordered" crosses one half. Here no image between 1.9 and 2.7 is in the
// training set. A spin pattern and its negative are equally likely, so half of the images are turned over. Writes 22_ising.png.

#include "experiment.h"

enum { LATTICE = 64, SITES = LATTICE * LATTICE, SWEEPS = 20, IMAGES = 512, TEMPERATURES = 25, EACH = 40 };

// Drawn once: images of both phases to learn from (even: cold, odd: hot), and some of each temperature in between.
static int8_t learnt[IMAGES][SITES], asked[TEMPERATURES][EACH][SITES];
static double temperature_of(int i) { return 2.0 + 0.025 * i; }

static void draw_magnet(int8_t *spins, double temperature, tl_rng *rng)
{
    for (int i = 0; i < SITES; i++) spins[i] = tl_random_below(rng, 2) ? 1 : -1;
    must(tl_ising(spins, LATTICE, LATTICE, temperature, SWEEPS, 1, rng), NULL);
    if (tl_random_below(rng, 2)) for (int i = 0; i < SITES; i++) spins[i] = (int8_t)-spins[i];
}

static void draw_all(int images, int each)
{
    for (int i = 0; i < images; i++) {
        tl_rng rng = tl_rng_at(22, TL_RANDOM_USER, 0, (uint32_t)i, 0);
        float low = i % 2 ? 2.7f : 1.4f;
        draw_magnet(learnt[i], (double)tl_random_uniform(&rng, low, low + 0.5f), &rng);
    }
    for (int t = 0; t < TEMPERATURES; t++)
        for (int i = 0; i < each; i++) {
            tl_rng rng = tl_rng_at(22, TL_RANDOM_USER, 1, (uint32_t)i, (uint32_t)t);
            draw_magnet(asked[t][i], temperature_of(t), &rng);
        }
}

static tl_result picture(tl_image *image, const int8_t *spins)
{
    tl_result result = tl_image_alloc(image, LATTICE, LATTICE, 1, TL_U8);
    for (int i = 0; !result && i < SITES; i++) ((uint8_t *)image->pixels)[i] = spins[i] > 0 ? 255 : 0;
    return result;
}

static tl_result record_of(void *user, uint32_t epoch, int index, tl_record *out)
{
    (void)user;
    (void)epoch;
    out->label = index % 2;
    return picture(&out->image, learnt[index]);
}

static tl_net *classifier(uint64_t seed)
{
    tl_net *net = tl_net_new(&(tl_net_desc){ .seed = seed });
    tl_node x = tl_input(net, LATTICE, LATTICE, 1);
    for (int i = 0; i < 3; i++) {
        x = tl_conv2d(net, x, &(tl_conv2d_desc){ .out = 8 << i, .kernel = 3, .pad = 1 });
        x = tl_max_pool2d(net, tl_relu(net, x), &(tl_pool2d_desc){ .kernel = 2 });
    }
    x = tl_dense(net, tl_global_avg_pool2d(net, x), &(tl_dense_desc){ .out = 2 });
    tl_loss(net, x, &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
    tl_set_preprocess(net, &(tl_preprocess){ .scaling = TL_SCALE_FULL, .mean = { 0.5f }, .std = { 0.5f } });
    must(tl_status(net), net);
    return net;
}

// The mean probability of "ordered" at one temperature.
static double ordered(tl_net *net, int temperature, int each)
{
    tl_image image;
    double sum = 0;
    memset(&image, 0, sizeof image);
    for (int i = 0; i < each; i++) {
        float probability[2];
        must(picture(&image, asked[temperature][i]), NULL);
        must(tl_classify(net, &image, probability, 2), net);
        sum += (double)probability[0];
    }
    tl_image_free(&image);
    return sum / each;
}

int main(int argc, char **argv)
{
    int epochs = argc > 1 ? atoi(argv[1]) : 6, quick = epochs < 6, seeds = quick ? 1 : 5, each = quick ? 4 : EACH;
    const double onsager = 2 / log(1 + sqrt(2.0));
    sample crossing = { 0, 0, 0 }, p[TEMPERATURES];
    memset(p, 0, sizeof p);
    draw_all(quick ? 64 : IMAGES, each);
    tl_dataset *train = tl_dataset_from(quick ? 64 : IMAGES, record_of, NULL);
    must(train ? TL_OK : TL_ERR_MEMORY, NULL);
    for (int seed = 1; seed <= seeds; seed++) {
        tl_net *net = classifier((uint64_t)seed);
        must(tl_fit(net, &(tl_fit_desc){
            .train = train, .epochs = epochs, .batch = 16, .seed = (uint64_t)seed,
            .optimizer = { .kind = TL_ADAMW, .lr = 3e-3f, .schedule = { .kind = TL_WARMUP_COSINE, .warmup = 10 } },
        }, NULL), net);
        double before = 1, cross = NAN;
        for (int i = 0; i < TEMPERATURES; i++) {
            double now = ordered(net, i, each);
            if (isnan(cross) && i && now < 0.5 && before >= 0.5)
                cross = temperature_of(i - 1) + (temperature_of(i) - temperature_of(i - 1)) * (before - 0.5) / (before - now);
            add(&p[i], now);
            before = now;
        }
        printf("network %d: one half at %.3f\n", seed, cross);
        if (!isnan(cross)) add(&crossing, cross);
        tl_net_free(net);
    }
    tl_dataset_free(train);
    if (crossing.count)
        printf("mean %.3f +- %.3f of %d networks; exact %.3f: %+.1f %%\n", mean(&crossing), spread(&crossing), crossing.count, onsager,
               100 * (mean(&crossing) / onsager - 1));
    static plot curve = { .x0 = 1.98, .x1 = 2.62, .y0 = 0, .y1 = 1 };
    double ticks[5] = { 2.0, 2.15, 2.269, 2.45, 2.6 }, x[TEMPERATURES], y[TEMPERATURES], bar[TEMPERATURES];
    for (int i = 0; i < TEMPERATURES; i++) { x[i] = temperature_of(i); y[i] = mean(&p[i]); bar[i] = spread(&p[i]); }
    plot_begin(&curve, "is this magnet ordered", "temperature", "probability", ticks, 5);
    plot_curve(&curve, "mean of the networks", x, y, bar, TEMPERATURES);
    plot_save(&curve, "22_ising.png");
    return 0;
}
