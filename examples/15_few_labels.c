// How many labelled images does a U-Net save that begins with photographs? Segment your own micrographs.
//
//     15_few_labels DATA WEIGHTS [SEEDS [STEPS]]     default: 3 seeds, 100 steps
//
// DATA/images, DATA/masks and DATA/specimens.csv; WEIGHTS: a ResNet-18, or a trunk of one up to layer3. For each seed a
// third of the specimens is set aside for the test, whole. Each image of the others is cut into four: a quarter with its mask
// counts as one label, of which the U-Net gets 5, 10 or 20. Its encoder is the trunk, as photographs made it and frozen, or
// tuned at a tenth of the rate of the decoder, or the same from random weights. Scores are means over the images set aside;
// boundaries may be 3 pixels off. Writes 15_few_labels.png. Without arguments it says this and ends.

#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>
#include "experiment.h"

enum { WINDOW = 128, BATCH = 4, COUNTS = 3, WAYS = 3, SCORES = 3, SCRATCH = 2 };
static const char *const ways[WAYS] = { "frozen trunk", "tuned trunk", "scratch" };
static const char *const score_names[SCORES] = { "IoU", "Dice", "boundary F1" };

// The head is what the weights do not have, here the decoder. Batch norms of the pretrained trunk are left alone: running
// statistics, and neither scale nor shift learns.
static const tl_recipe_stage recipes[WAYS] = {
    { .train = "head", .lr = 2e-3f, .stats = TL_STATS_RUNNING },
    { .train = "head, conv1.*, layer*conv?.weight, layer*downsample.0.weight", .rates = "all 2e-4, head 2e-3",
      .stats = TL_STATS_RUNNING },
    { .lr = 2e-3f }
};

// ---- quarters of images --------------------------------------------------------------------

static tl_result quarter(void *user, uint32_t epoch, int index, tl_record *out)
{
    const tl_dataset *images = (const tl_dataset *)user;
    tl_record whole = { 0 };
    tl_result result = tl_dataset_get(images, epoch, index / 4, &whole);
    int w = whole.image.width / 2, h = whole.image.height / 2, x = index % 2 * w, y = index / 2 % 2 * h;
    if (!result) result = tl_image_crop(&out->image, &whole.image, x, y, w, h);
    if (!result) result = tl_image_crop(&out->mask, &whole.mask, x, y, w, h);
    snprintf(out->specimen, sizeof out->specimen, "%s", whole.specimen);
    out->label = -1;
    tl_record_free(&whole);
    return result;
}

// Specimens in the set, each counted once.
static int specimens_in(const tl_dataset *data)
{
    int specimens = 0;
    for (int i = 0; i < tl_dataset_count(data); i++) {
        int seen = 0;
        for (int k = 0; k < i; k++) seen |= !strcmp(tl_dataset_specimen(data, k), tl_dataset_specimen(data, i));
        specimens += !seen;
    }
    return specimens;
}

// ---- the network ---------------------------------------------------------------------------

// Twice the size by repetition, beside it the encoder's map of that size if there is one, one convolution.
static tl_node up(tl_net *net, tl_node x, tl_node skip, const char *name, int channels)
{
    char norm[32];
    snprintf(norm, sizeof norm, "%s.norm", name);
    x = tl_upsample(net, x, 2, TL_NEAREST);
    if (skip.id) x = tl_concat(net, (tl_node[]){ x, skip }, 2);
    x = tl_conv2d(net, x, &(tl_conv2d_desc){ .name = name, .out = channels, .kernel = 3, .pad = 1, .no_bias = 1 });
    return tl_relu(net, tl_batch_norm(net, x, &(tl_norm_desc){ .name = norm }));
}

// The trunk, a decoder, and the weights of the trunk if a file is given.
static tl_net *unet_on_trunk(const char *weights, uint64_t seed)
{
    tl_net *net = tl_net_new(&(tl_net_desc){ .seed = seed });
    tl_backbone(net, tl_input(net, WINDOW, WINDOW, 3), &(tl_backbone_desc){ .name = "resnet18", .stages = 3 });
    tl_node stem = { 1 }, none = { 0 };
    while (stem.id < tl_node_count(net) && tl_node_op(net, stem) != TL_OP_RELU) stem.id++;     // the map of half the size
    tl_push(net, "decoder");
    tl_node x = up(net, tl_stage(net, 3), tl_stage(net, 2), "up3", 64);
    x = up(net, x, tl_stage(net, 1), "up2", 48);
    x = up(net, x, stem, "up1", 32);
    x = up(net, x, none, "up0", 16);
    x = tl_conv2d(net, x, &(tl_conv2d_desc){ .name = "classes", .out = 2, .kernel = 1 });
    tl_pop(net);
    tl_loss(net, x, &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
    tl_loss(net, x, &(tl_loss_desc){ .kind = TL_DICE });
    must(tl_status(net), net);
    if (weights) must(tl_load(net, weights, &(tl_load_desc){ .except = "decoder.*" }, NULL), net);
    return net;
}

// ---- one run -------------------------------------------------------------------------------

// Means over the images of IoU, Dice and boundary F1.
static void score_images(tl_net *net, const tl_dataset *test, double *scores)
{
    tl_record record = { 0 };
    tl_image mask = { 0 };
    int count = tl_dataset_count(test);
    memset(scores, 0, SCORES * sizeof *scores);
    for (int i = 0; i < count; i++) {
        tl_score s;
        must(tl_dataset_get(test, 0, i, &record), NULL);
        must(tl_segment(net, &record.image, NULL, &mask), net);
        must(tl_compare_masks(&mask, &record.mask, 3, &s), NULL);
        scores[0] += s.iou / count;
        scores[1] += s.dice / count;
        scores[2] += s.boundary_f1 / count;
    }
    tl_record_free(&record);
    tl_image_free(&mask);
}

static void learn(const char *weights, int way, const tl_dataset *train, const tl_dataset *test, int steps, uint64_t seed,
                  double *scores)
{
    static const tl_transform turns[] = { { .kind = TL_FLIP_X, .p = 0.5f }, { .kind = TL_FLIP_Y, .p = 0.5f }, { .kind = TL_ROT90 } };
    tl_net *net = unet_on_trunk(way == SCRATCH ? NULL : weights, seed);
    tl_recipe_stage stage = recipes[way];
    int each = (tl_dataset_count(train) + BATCH - 1) / BATCH;
    stage.epochs = (steps + each - 1) / each;
    must(tl_finetune(net, &(tl_finetune_desc){ .train = train, .stages = &stage, .stage_count = 1, .batch = BATCH, .augment = turns,
                                               .augment_count = 3, .seed = seed }, NULL), net);
    score_images(net, test, scores);
    tl_net_free(net);
}

int main(int argc, char **argv)
{
    if (argc < 3) return puts("usage: 15_few_labels DATA WEIGHTS [SEEDS [STEPS]]") < 0;
    static const int counts[COUNTS] = { 5, 10, 20 };
    static plot p = { .x0 = 4, .x1 = 25, .y0 = 0, .y1 = 1, .log_x = 1 };
    static sample results[WAYS][COUNTS][SCORES];
    int seeds = argc > 3 ? atoi(argv[3]) : 3, steps = argc > 4 ? atoi(argv[4]) : 100;
    tl_dataset *data = tl_folder(argv[1], NULL);
    if (!data) must(TL_ERR_FILE, NULL);
    int count = tl_dataset_count(data), aside = specimens_in(data) / 3;
    int *in_test = (int *)malloc((size_t)count * sizeof(int)), *pieces = (int *)malloc((size_t)count * 4 * sizeof(int));
    tl_dataset *quarters = tl_dataset_from(4 * count, quarter, data);
    for (int seed = 1; seed <= seeds; seed++) {
        int n = 0, m = 0;
        must(tl_group_holdout(data, aside, (uint64_t)seed, in_test), NULL);
        for (int i = 0; i < 4 * count; i++) if (!in_test[i / 4]) pieces[n++] = i;
        tl_rng rng = tl_rng_at((uint64_t)seed, TL_RANDOM_USER, 0, 0, 0);
        tl_random_shuffle(&rng, pieces, n);
        for (int i = 0; i < count; i++) if (in_test[i]) in_test[m++] = i;
        tl_dataset *test = tl_subset(data, in_test, m);
        for (int c = 0; c < COUNTS && counts[c] <= n; c++) {
            tl_dataset *train = tl_subset(quarters, pieces, counts[c]);
            for (int way = 0; way < WAYS; way++) {
                double scores[SCORES];
                learn(argv[2], way, train, test, steps, (uint64_t)seed, scores);
                for (int k = 0; k < SCORES; k++) add(&results[way][c][k], scores[k]);
                printf("seed %d, %2d labels, %-12s  IoU %.3f\n", seed, counts[c], ways[way], scores[0]);
                fflush(stdout);
            }
            tl_dataset_free(train);
        }
        tl_dataset_free(test);
    }
    printf("\n%s: %d images, %d specimens of which %d are set aside; %d splits, %d steps; mean and standard deviation\n%-14s %6s", argv[1],
           count, specimens_in(data), aside, seeds, steps, "", "labels");
    for (int k = 0; k < SCORES; k++) printf("  %16s", score_names[k]);
    double x[COUNTS] = { 5, 10, 20 };
    plot_begin(&p, "U-Net on a ResNet-18", "labels", "IoU", x, COUNTS);
    for (int way = 0; way < WAYS; way++) {
        double y[COUNTS], bar[COUNTS];
        int used = 0;
        while (used < COUNTS && results[way][used][0].count) used++;
        for (int c = 0; c < used; c++) {
            printf("\n%-14s %6d", ways[way], counts[c]);
            for (int k = 0; k < SCORES; k++) printf("    %5.3f +- %5.3f", mean(&results[way][c][k]), spread(&results[way][c][k]));
            y[c] = mean(&results[way][c][0]);
            bar[c] = spread(&results[way][c][0]);
        }
        plot_curve(&p, ways[way], x, y, bar, used);
    }
    printf("\n");
    plot_save(&p, "15_few_labels.png");
    free(in_test);
    free(pieces);
    tl_dataset_free(quarters);
    tl_dataset_free(data);
    return 0;
}
