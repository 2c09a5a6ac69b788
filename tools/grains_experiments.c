// Experiments on synthetic grains: what transfers to other worlds and to real micrographs, and what does not.
//
//     grains_experiments WHAT DATA [STEPS [SEEDS]]     DATA: the folder of grain_316l, grain_tbm and grain_misc
//
//     ladder       drawn up to one rung of the picture and no further
//     random       one fixed renderer, ranges of a look, ranges of all looks
//     width        masks 5 or 9 pixels wide, or as wide as the drawn line
//     twins        twins in the test alone, then also in training
//     calibrated   fitted to a set, with the noise that was measured there and with guesses
//     labels       5, 10 and 20 labels of grain_316l: alone, and after synthetic grains; fields are never on both sides
//
// Every arm trains the same small U-Net (width 8, depth 3) on 128 x 128 pixels for STEPS steps of 8 images, once for each
// seed, and is scored on worlds that are drawn otherwise and on real sets: IoU, Dice and boundary F1 (3 px), means
// over specimens. Prints one row of a Markdown table per arm: means over seeds, and the standard deviation from seed to seed
// behind IoU and F1. docs/grains.md holds what came out; examples/23_adaptive.c is the loop that looks for hard cases.

#include <stdlib.h>
#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>
#define TINYTL_IMPLEMENTATION
#include "../tinytl.h"

enum { BATCH = 8, EPOCH = 160, SETS = 5, SEEDS = 16 };

static const char *data_root;
static int steps = 250, seeds = 3;

static void stop(void)
{
    fprintf(stderr, "grains_experiments: %s\n", tl_error(NULL));
    exit(1);
}

// Mean scores over specimens; images of one specimen count together.
static void score(tl_net *net, const tl_dataset *data, double out[3])
{
    int count = tl_dataset_count(data), specimens = 0;
    tl_record record = { 0 };
    tl_image mask = { 0 };
    double sum[3] = { 0 };
    for (int i = 0; i < count; i++) {
        int first = 1, images = 0;
        double own[3] = { 0 };
        for (int j = 0; j < i; j++) first &= strcmp(tl_dataset_specimen(data, i), tl_dataset_specimen(data, j)) != 0;
        for (int j = i; j < count && first; j++) {
            tl_score s;
            if (strcmp(tl_dataset_specimen(data, i), tl_dataset_specimen(data, j))) continue;
            if (tl_dataset_get(data, 0, j, &record) || tl_image_channels(&record.image, &record.image, 1)
                || tl_segment(net, &record.image, NULL, &mask) || tl_compare_masks(&mask, &record.mask, 3, &s)) stop();
            own[0] += s.iou; own[1] += s.dice; own[2] += s.boundary_f1;
            images++;
        }
        for (int k = 0; k < 3 && first; k++) sum[k] += own[k] / images;
        specimens += first;
    }
    for (int k = 0; k < 3; k++) out[k] = sum[k] / specimens;
    tl_record_free(&record);
    tl_image_free(&mask);
}

static tl_dataset *must(tl_dataset *data)
{
    if (!data) stop();
    return data;
}

static tl_dataset *real(const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", data_root, name);
    return must(tl_folder(path, NULL));
}

// The images whose specimen has this name.
static tl_dataset *of_specimen(const tl_dataset *data, const char *specimen)
{
    int chosen[256], n = 0;
    for (int i = 0; i < tl_dataset_count(data) && n < 256; i++)
        if (!strcmp(tl_dataset_specimen(data, i), specimen)) chosen[n++] = i;
    return must(tl_subset(data, chosen, n));
}

// Potts grains, which no network here learns from.
static tl_dataset *potts_world(tl_grains_desc d)
{
    d.width = d.height = 256;
    d.count = 12;
    d.seed = 7;
    d.source = TL_POTTS;
    d.label_width = 9;
    tl_dataset *stream = must(tl_grains_stream(&d)), *drawn = must(tl_cached(stream, NULL, 0, 1, 1));
    tl_dataset_free(stream);
    return drawn;
}

static tl_net *new_net(uint64_t seed)
{
    tl_net *net = tl_net_new(&(tl_net_desc){ .seed = seed, .threads = 1 });
    tl_node y = tl_unet(net, tl_input(net, 128, 128, 1), &(tl_unet_desc){ .classes = 2, .width = 8, .depth = 3 });
    tl_loss(net, y, &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
    tl_loss(net, y, &(tl_loss_desc){ .kind = TL_DICE });
    return net;
}

// `data` must hold EPOCH examples.
static void train(tl_net *net, const tl_dataset *data, int count, float lr, uint64_t seed)
{
    static const tl_transform moves[] = { { .kind = TL_FLIP_X, .p = 0.5f }, { .kind = TL_FLIP_Y, .p = 0.5f }, { .kind = TL_ROT90 } };
    int per_epoch = EPOCH / BATCH;
    tl_fit_desc fit = { .train = data, .epochs = (count + per_epoch - 1) / per_epoch, .batch = BATCH, .augment = moves, .augment_count = 3,
                        .seed = seed, .optimizer = { .kind = TL_ADAMW, .lr = lr, .schedule = { .kind = TL_WARMUP_COSINE, .warmup = 20 } } };
    if (tl_fit(net, &fit, NULL)) stop();
}

static void train_synthetic(tl_net *net, tl_grains_desc desc, int count, uint64_t seed)
{
    desc.width = desc.height = 128;
    desc.count = EPOCH;
    desc.seed = 100 + seed;
    tl_dataset *stream = must(tl_grains_stream(&desc));
    train(net, stream, count, 3e-3f, seed);
    tl_dataset_free(stream);
}

// ---- a row of the table --------------------------------------------------------------------

// The scores of one arm: of each set and seed.
typedef struct row {
    double score[SETS][SEEDS][3];
} row;

static void add_scores(row *r, tl_net *net, int seed, const tl_dataset *const *sets, int count)
{
    for (int i = 0; i < count; i++) score(net, sets[i], r->score[i][seed]);
}

static void print_row(const char *arm, const row *r, int count)
{
    printf("| %s |", arm);
    for (int i = 0; i < count; i++) {
        double mean[3] = { 0 }, spread[3] = { 0 };
        for (int k = 0; k < 3; k++) {
            for (int s = 0; s < seeds; s++) mean[k] += r->score[i][s][k] / seeds;
            for (int s = 0; s < seeds; s++) spread[k] += (r->score[i][s][k] - mean[k]) * (r->score[i][s][k] - mean[k]);
            spread[k] = seeds > 1 ? sqrt(spread[k] / (seeds - 1)) : 0;
        }
        printf(" %.3f +- %.3f, %.3f, %.3f +- %.3f |", mean[0], spread[0], mean[1], mean[2], spread[2]);
    }
    printf("\n");
    fflush(stdout);
}

static void print_head(const char *first, const char *const *names, int count)
{
    printf("| %s |", first);
    for (int i = 0; i < count; i++) printf(" %s |", names[i]);
    printf("\n|---|");
    for (int i = 0; i < count; i++) printf("---|");
    printf("\n");
}

// Trains on one description and scores on all sets.
static void arm(const char *name, tl_grains_desc desc, const tl_dataset *const *sets, int count)
{
    row r;
    for (int s = 0; s < seeds; s++) {
        tl_net *net = new_net((uint64_t)s + 1);
        train_synthetic(net, desc, steps, (uint64_t)s + 1);
        add_scores(&r, net, s, sets, count);
        tl_net_free(net);
    }
    print_row(name, &r, count);
}

// ---- experiments ---------------------------------------------------------------------------

static const char *const set_names[] = { "Potts world", "grain_316l", "grain_tbm", "grain_misc" };
static const tl_grains_desc etched = { .look = TL_LOOK_ETCHED, .label_width = 9 };

static void open_sets(tl_dataset *sets[4])
{
    sets[0] = potts_world(etched);
    for (int i = 1; i < 4; i++) sets[i] = real(set_names[i]);
}

static void close_sets(tl_dataset *const *sets, int count)
{
    for (int i = 0; i < count; i++) tl_dataset_free(sets[i]);
}

static void ladder(void)
{
    static const struct { const char *name; unsigned on; } rungs[] = {
        { "1 geometry: lines alone", TL_RUNG_BOUNDARY }, { "2 and contrast, texture", TL_RUNG_CONTRAST | TL_RUNG_TEXTURE },
        { "3 and blur", TL_RUNG_BLUR }, { "4 and detector", TL_RUNG_DETECTOR },
        { "5 and artefacts, second phases", TL_RUNG_ARTEFACTS | TL_RUNG_DECORATION }
    };
    tl_dataset *sets[4];
    tl_grains_desc d = etched;
    open_sets(sets);
    print_head("trained on", set_names, 4);
    d.skip = TL_RUNG_ALL;
    for (int i = 0; i < 5; i++) {
        d.skip &= ~rungs[i].on;
        arm(rungs[i].name, d, (const tl_dataset *const *)sets, 4);
    }
    close_sets(sets, 4);
}

static void randomised(void)
{
    tl_dataset *sets[4];
    open_sets(sets);
    print_head("trained on", set_names, 4);
    // One value for everything: the middle of each range that does not switch off.
    tl_grains_desc fixed = tl_grains_defaults(&etched);
    for (tl_range *r = &fixed.diameter; r <= &fixed.read_noise; r++) r->lo = r->hi = 0.5f * (r->lo + r->hi);
    arm("fixed renderer", fixed, (const tl_dataset *const *)sets, 4);
    arm("ranges of one look", etched, (const tl_dataset *const *)sets, 4);
    arm("ranges of all looks", (tl_grains_desc){ .label_width = 9 }, (const tl_dataset *const *)sets, 4);
    close_sets(sets, 4);
}

static void width(void)
{
    static const struct { const char *name; float pixels; } widths[] = { { "5 pixels", 5 }, { "9 pixels", 9 }, { "that of the drawn line, at least 5", 0 } };
    tl_dataset *sets[4];
    open_sets(sets);
    print_head("width of the labels", set_names, 4);
    for (int i = 0; i < 3; i++) arm(widths[i].name, (tl_grains_desc){ .label_width = widths[i].pixels }, (const tl_dataset *const *)sets, 4);
    close_sets(sets, 4);
}

static void twins(void)
{
    static const char *const names[] = { "no twins", "60 % of the grains with twins" };
    static const tl_range shares[] = { { -1, -1 }, { 0.6f, 0.6f }, { -0.5f, 0.8f } };
    tl_dataset *sets[2];
    tl_grains_desc d = etched;
    for (int i = 0; i < 2; i++) {
        d.twins = shares[i];
        sets[i] = potts_world(d);
    }
    print_head("trained", names, 2);
    d.twins = shares[0];
    arm("without twins", d, (const tl_dataset *const *)sets, 2);
    d.twins = shares[2];
    arm("with twins", d, (const tl_dataset *const *)sets, 2);
    close_sets(sets, 2);
}

// The description whose images look like those of the set.
static tl_grains_desc calibrate(const tl_dataset *data)
{
    int count = tl_dataset_count(data);
    tl_image images[64] = { { 0 } };
    tl_record record = { 0 };
    tl_calibration c;
    if (count > 64) count = 64;
    for (int i = 0; i < count; i++)
        if (tl_dataset_get(data, 0, i, &record) || tl_image_channels(&images[i], &record.image, 1)) stop();
    if (tl_calibrate(images, count, 0, &etched, &c)) stop();
    fprintf(stderr, "gain %.4g, read noise %.4g; electrons %g .. %g, read noise %g .. %g, misfit %.3f\n", c.noise.gain, c.noise.read_noise,
            (double)c.desc.electrons.lo, (double)c.desc.electrons.hi, (double)c.desc.read_noise.lo, (double)c.desc.read_noise.hi, c.misfit);
    tl_record_free(&record);
    for (int i = 0; i < count; i++) tl_image_free(&images[i]);
    c.desc.label_width = 9;
    return c.desc;
}

// Noise of `factor` times the amplitude. What is off stays off.
static tl_grains_desc noisier(tl_grains_desc d, float factor)
{
    for (int i = 0; i < 2; i++) {
        float *electrons = i ? &d.electrons.hi : &d.electrons.lo, *read = i ? &d.read_noise.hi : &d.read_noise.lo;
        if (*electrons > 0) *electrons /= factor * factor;
        if (*read > 0) *read *= factor;
    }
    return d;
}

static void calibrated(void)
{
    tl_grains_desc instrument = { .look = TL_LOOK_ETCHED, .line = { 2, 4 }, .electrons = { 12, 12 }, .read_noise = { 0.05f, 0.05f } };
    tl_dataset *misc = real("grain_misc"), *sets[3] = { potts_world(instrument), real("grain_316l"), of_specimen(misc, "semfilm") };
    static const char *const names[] = { "Potts world, strong noise", "grain_316l", "semfilm of grain_misc" };
    enum { n = 3 };
    print_head("noise of the training images", names, n);
    row r[4];
    static const char *const arms[] = { "measured", "guessed: the ranges of the look", "three times as strong", "a third as strong" };
    for (int i = 0; i < n; i++) {
        tl_grains_desc measured = calibrate(sets[i]), choices[4] = { measured, measured, noisier(measured, 3), noisier(measured, 1.0f / 3) };
        choices[1].electrons = choices[1].read_noise = (tl_range){ 0, 0 };
        for (int k = 0; k < 4; k++)
            for (int s = 0; s < seeds; s++) {
                tl_net *net = new_net((uint64_t)s + 1);
                train_synthetic(net, choices[k], steps, (uint64_t)s + 1);
                score(net, sets[i], r[k].score[i][s]);
                tl_net_free(net);
            }
    }
    for (int k = 0; k < 4; k++) print_row(arms[k], &r[k], n);
    close_sets(sets, n);
    tl_dataset_free(misc);
}

// EPOCH examples of `labels` images that are in no tested specimen: another choice for each seed.
static tl_dataset *labelled(const tl_dataset *data, const int *in_test, int labels, uint64_t seed)
{
    int free_ones[1024], n = 0, chosen[EPOCH];
    tl_rng rng = tl_rng_at(seed, TL_RANDOM_USER, 0, 0, 0);
    for (int i = 0; i < tl_dataset_count(data) && n < 1024; i++) if (!in_test[i]) free_ones[n++] = i;
    if (n < labels) {
        fprintf(stderr, "grains_experiments: %d images, %d wanted\n", n, labels);
        exit(1);
    }
    for (int i = 0; i < labels; i++) {                    // the first of a shuffle: fewer labels are a part of more
        int k = i + (int)tl_random_below(&rng, (uint32_t)(n - i)), other = free_ones[k];
        free_ones[k] = free_ones[i];
        free_ones[i] = other;
    }
    for (int i = 0; i < EPOCH; i++) chosen[i] = free_ones[i % labels];
    return must(tl_subset(data, chosen, EPOCH));
}

static void fit_more(row *r, int s, tl_net *net, const tl_dataset *data, int count, float lr, const tl_dataset *test)
{
    train(net, data, count, lr, (uint64_t)s + 1);
    score(net, test, r->score[0][s]);
}

// Every arm makes 2 x STEPS steps; with both, half of them with real labels and at a third of the rate.
static void labels(void)
{
    static const int amounts[] = { 5, 10, 20 };
    static const char *const names[] = { "5 specimens of grain_316l that no network has seen" };
    tl_dataset *data = real("grain_316l");
    tl_grains_desc any = { .width = 128, .height = 128, .count = EPOCH, .label_width = 9 };
    row synthetic, alone[3], both[3];
    for (int s = 0; s < seeds; s++) {
        int in_test[1024], tested[1024], n = 0;
        uint64_t seed = (uint64_t)s + 1;
        if (tl_dataset_count(data) > 1024 || tl_group_holdout(data, 5, seed, in_test)) stop();
        for (int i = 0; i < tl_dataset_count(data); i++) if (in_test[i]) tested[n++] = i;
        tl_dataset *test = must(tl_subset(data, tested, n));
        tl_net *first = new_net(seed);
        train_synthetic(first, any, steps, seed);
        for (int k = 0; k < 3; k++) {
            tl_dataset *few = labelled(data, in_test, amounts[k], seed);
            tl_net *net = new_net(seed), *next = tl_clone(first, &(tl_net_desc){ .threads = 1 });
            if (!next) stop();
            fit_more(&alone[k], s, net, few, 2 * steps, 3e-3f, test);
            fit_more(&both[k], s, next, few, steps, 1e-3f, test);
            tl_net_free(net);
            tl_net_free(next);
            tl_dataset_free(few);
        }
        any.seed = 200 + seed;
        tl_dataset *more = must(tl_grains_stream(&any));
        fit_more(&synthetic, s, first, more, steps, 1e-3f, test);
        tl_dataset_free(more);
        tl_net_free(first);
        tl_dataset_free(test);
        fprintf(stderr, "seed %d done\n", s + 1);
    }
    print_head("trained on", names, 1);
    print_row("synthetic grains alone", &synthetic, 1);
    for (int k = 0; k < 3; k++) {
        char name[64];
        snprintf(name, sizeof name, "%d labels alone", amounts[k]);
        print_row(name, &alone[k], 1);
        snprintf(name, sizeof name, "synthetic first, then %d labels", amounts[k]);
        print_row(name, &both[k], 1);
    }
    tl_dataset_free(data);
}

int main(int count, char **words)
{
    static const struct { const char *name; void (*run)(void); } experiments[] = {
        { "ladder", ladder }, { "random", randomised }, { "width", width }, { "twins", twins }, { "calibrated", calibrated }, { "labels", labels }
    };
    data_root = count > 2 ? words[2] : "../shared/data";
    if (count > 3) steps = atoi(words[3]);
    if (count > 4) seeds = atoi(words[4]);
    for (int i = 0; i < 6 && count > 1 && steps > 0 && seeds > 0 && seeds <= SEEDS; i++) {
        if (strcmp(words[1], experiments[i].name)) continue;
        experiments[i].run();
        return 0;
    }
    fprintf(stderr, "usage: grains_experiments ladder|random|width|twins|calibrated|labels DATA [STEPS [SEEDS, up to %d]]\n", SEEDS);
    return 2;
}
