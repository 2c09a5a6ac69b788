// Experiments on synthetic grains: what transfers to other worlds and to real micrographs, and what does not.
//
//     grains_experiments WHAT DATA [STEPS [SEEDS]]     WHAT: ladder, random or twins. DATA: the folder of grain_316l ...
//
// Every arm trains the same small U-Net (width 8, depth 3) on 128 x 128 pixels for STEPS steps of 8 images, and is scored
// on worlds of Potts grains with all artefacts, and on real sets where they are found: IoU, Dice and boundary F1 (3 px),
// means over specimens. Prints one row of a Markdown table per arm and seed; docs/grains.md holds what came out.

#include <stdlib.h>
#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>
#define TINYTL_IMPLEMENTATION
#include "../tinytl.h"

static const char *data_root;
static int steps = 300;

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

static tl_dataset *real(const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", data_root, name);
    return tl_folder(path, NULL);
}

static tl_net *new_net(uint64_t seed)
{
    tl_net *net = tl_net_new(&(tl_net_desc){ .seed = seed, .threads = 1 });
    tl_node y = tl_unet(net, tl_input(net, 128, 128, 1), &(tl_unet_desc){ .classes = 2, .width = 8, .depth = 3 });
    tl_loss(net, y, &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
    tl_loss(net, y, &(tl_loss_desc){ .kind = TL_DICE });
    return net;
}

static void train(tl_net *net, const tl_dataset *data, int count, float lr, uint64_t seed)
{
    static const tl_transform moves[] = { { .kind = TL_FLIP_X, .p = 0.5f }, { .kind = TL_FLIP_Y, .p = 0.5f }, { .kind = TL_ROT90 } };
    int per_epoch = tl_dataset_count(data) / 8 > 0 ? tl_dataset_count(data) / 8 : 1;
    tl_fit_desc fit = { .train = data, .epochs = (count + per_epoch - 1) / per_epoch, .batch = tl_dataset_count(data) < 8 ? tl_dataset_count(data) : 8,
                        .augment = moves, .augment_count = 3, .seed = seed,
                        .optimizer = { .kind = TL_ADAMW, .lr = lr, .schedule = { .kind = TL_WARMUP_COSINE, .warmup = 20 } } };
    if (tl_fit(net, &fit, NULL)) stop();
}

static void row(const char *arm, uint64_t seed, tl_net *net, const tl_dataset *const *sets, int count)
{
    printf("| %s | %d |", arm, (int)seed);
    for (int i = 0; i < count; i++) {
        double s[3];
        score(net, sets[i], s);
        printf(" %.3f %.3f %.3f |", s[0], s[1], s[2]);
    }
    printf("\n");
    fflush(stdout);
}

// Trains on one description and scores on all sets.
static void arm(const char *name, tl_grains_desc desc, uint64_t seed, const tl_dataset *const *sets, int count)
{
    desc.width = desc.height = 128;
    desc.count = 160;
    desc.seed = 100 + seed;
    tl_dataset *stream = tl_grains_stream(&desc);
    tl_net *net = new_net(seed);
    if (!stream) stop();
    train(net, stream, steps, 3e-3f, seed);
    row(name, seed, net, sets, count);
    tl_net_free(net);
    tl_dataset_free(stream);
}

static tl_dataset *world(tl_source source, tl_look look, float twins)
{
    tl_grains_desc d = { .width = 256, .height = 256, .count = 12, .seed = 7, .source = source, .look = look, .label_width = 9,
                         .twins = { twins, twins } };
    tl_dataset *stream = tl_grains_stream(&d);
    if (!stream) stop();
    return stream;
}

int main(int count, char **words)
{
    const char *what = count > 1 ? words[1] : "ladder";
    data_root = count > 2 ? words[2] : "../shared/data";
    if (count > 3) steps = atoi(words[3]);
    int seeds = count > 4 ? atoi(words[4]) : 1;
    const tl_dataset *sets[5] = { world(TL_POTTS, TL_LOOK_ETCHED, -1), real("grain_316l"), real("grain_tbm"), real("grain_misc") };
    int n = sets[1] && sets[2] && sets[3] ? 4 : 1;
    printf("| trained on | seed | Potts world | grain_316l | grain_tbm | grain_misc |\n|---|---|---|---|---|---|\n");
    for (uint64_t seed = 1; seed <= (uint64_t)seeds; seed++) {
        tl_grains_desc etched = { .look = TL_LOOK_ETCHED, .label_width = 9 };
        if (!strcmp(what, "ladder")) {
            static const struct { const char *name; unsigned on; } rungs[] = {
                { "1 geometry: lines alone", TL_RUNG_BOUNDARY }, { "2 and contrast, texture", TL_RUNG_CONTRAST | TL_RUNG_TEXTURE },
                { "3 and blur", TL_RUNG_BLUR }, { "4 and detector", TL_RUNG_DETECTOR },
                { "5 and artefacts, second phases", TL_RUNG_ARTEFACTS | TL_RUNG_DECORATION }
            };
            etched.skip = TL_RUNG_ALL;
            for (int i = 0; i < 5; i++) {
                etched.skip &= ~rungs[i].on;
                arm(rungs[i].name, etched, seed, sets, n);
            }
        } else if (!strcmp(what, "random")) {
            // One value for everything: the middle of each range that does not switch off.
            tl_grains_desc fixed = tl_grains_defaults(&etched);
            for (tl_range *r = &fixed.diameter; r <= &fixed.read_noise; r++) r->lo = r->hi = 0.5f * (r->lo + r->hi);
            arm("fixed renderer", fixed, seed, sets, n);
            arm("randomised", etched, seed, sets, n);
            arm("every look", (tl_grains_desc){ .label_width = 9 }, seed, sets, n);
        } else if (!strcmp(what, "twins")) {
            const tl_dataset *both[2] = { world(TL_VORONOI, TL_LOOK_ETCHED, -1), world(TL_VORONOI, TL_LOOK_ETCHED, 0.6f) };
            etched.twins = (tl_range){ -1, -1 };
            printf("tests without and with twins:\n");
            arm("no twins", etched, seed, both, 2);
            etched.twins = (tl_range){ -0.5f, 0.8f };
            arm("twins", etched, seed, both, 2);
        }
    }
    return 0;
}
