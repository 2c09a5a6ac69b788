// Which augmentations help? Trains a small U-Net on few specimens with all transforms, with none, and with all but one in turn, and
// scores each on the specimens held out. The numbers of docs/augment.md come from
//
//     build/augment_study DATA RUNS.csv [seeds [steps [specimens to train on [runs now]]]]
//
// DATA is a folder as for 'tinytl train'. Every run is added to RUNS.csv, and what stands there is not run again; the table
// comes when all are done. Built by: cc -O2 tools/augment_study.c -o build/augment_study -lm -pthread

#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>
#define TINYTL_IMPLEMENTATION
#include "../tinytl.h"

enum { WINDOW = 64, BATCH = 8, SEEDS_MAX = 10 };

static const char *const transforms[] = {
    "flip_x p=0.5", "flip_y p=0.5", "rot90", "rotate degrees=-180..180 p=0.5", "resized_crop width=192 height=192 area=0.2..0.6 p=0.5",
    "elastic alpha=120 sigma=6 p=0.3", "brightness_contrast brightness=-0.2..0.2 contrast=-0.2..0.2 p=0.7",
    "gamma exponent=0.7..1.3 p=0.5", "gauss_noise_grey variance=10..50 p=0.5", "blur sigma=0.3..1.5 p=0.3", "erase count=2 area=0.02..0.08 mean=1 p=0.3"
};
enum { KINDS = sizeof transforms / sizeof transforms[0] };

typedef struct score { double iou, f1; } score;

static void stop(void)
{
    fprintf(stderr, "augment_study: %s\n", tl_error(NULL));
    exit(1);
}

// Trains with all transforms whose bit is set and scores on the rest; the mean over specimens.
static score run(const tl_dataset *train, const tl_dataset *test, unsigned which, uint64_t seed, int steps)
{
    tl_transform list[KINDS];
    int count = 0;
    for (int i = 0; i < KINDS; i++)
        if (which >> i & 1 && tl_transforms_parse(transforms[i], &list[count++], 1) != 1) stop();
    tl_net *net = tl_net_new(&(tl_net_desc){ .seed = seed, .threads = 1 });
    tl_node y = tl_unet(net, tl_input(net, WINDOW, WINDOW, 1), &(tl_unet_desc){ .classes = 2, .width = 8, .depth = 2 });
    tl_loss(net, y, &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
    tl_loss(net, y, &(tl_loss_desc){ .kind = TL_DICE });
    int images = tl_dataset_count(train), repeat = (BATCH * 8 + images - 1) / images, *indices = malloc((size_t)(images * repeat) * sizeof(int));
    for (int i = 0; i < images * repeat; i++) indices[i] = i % images;
    tl_dataset *repeated = tl_subset(train, indices, images * repeat);
    int per_epoch = (images * repeat + BATCH - 1) / BATCH, epochs = (steps + per_epoch - 1) / per_epoch;
    tl_fit_desc fit = { .train = repeated, .epochs = epochs, .batch = BATCH, .augment = list, .augment_count = count, .seed = seed,
                        .optimizer = { .kind = TL_ADAMW, .lr = 3e-3f, .schedule = { .kind = TL_WARMUP_COSINE, .warmup = 20 } } };
    if (tl_fit(net, &fit, NULL)) stop();
    score sum = { 0, 0 };
    tl_record r;
    tl_image mask = { 0 };
    memset(&r, 0, sizeof r);
    for (int i = 0; i < tl_dataset_count(test); i++) {
        tl_score s;
        if (tl_dataset_get(test, 0, i, &r) || tl_segment(net, &r.image, NULL, &mask) || tl_compare_masks(&mask, &r.mask, 3, &s)) stop();
        sum.iou += s.iou / tl_dataset_count(test);
        sum.f1 += s.boundary_f1 / tl_dataset_count(test);
    }
    tl_record_free(&r);
    tl_image_free(&mask);
    tl_dataset_free(repeated);
    free(indices);
    tl_net_free(net);
    return sum;
}

static tl_dataset *part(const tl_dataset *all, const int *in, int wanted)
{
    int count = 0, *indices = malloc((size_t)tl_dataset_count(all) * sizeof(int));
    for (int i = 0; i < tl_dataset_count(all); i++) if (in[i] == wanted) indices[count++] = i;
    tl_dataset *subset = tl_subset(all, indices, count);
    free(indices);
    if (!subset) stop();
    return subset;
}

// Runs that are done stand in a file, one a line: seed, variant, IoU, boundary F1. So a study can be stopped and goes on.
static int read_scores(const char *path, score scores[][SEEDS_MAX])
{
    int done = 0, seed, variant;
    score one;
    FILE *file = fopen(path, "r");
    while (file && fscanf(file, "%d,%d,%lf,%lf", &seed, &variant, &one.iou, &one.f1) == 4)
        if (seed >= 0 && seed < SEEDS_MAX && variant >= 0 && variant < KINDS + 2 && scores[variant][seed].iou < 0) {
            scores[variant][seed] = one;
            done++;
        }
    if (file) fclose(file);
    return done;
}

static void print_table(score scores[][SEEDS_MAX], int seeds)
{
    printf("| | IoU | boundary F1 | change of IoU against all: mean (range over seeds) |\n|---|---|---|---|\n");
    for (int k = 0; k < KINDS + 2; k++) {
        double iou = 0, f1 = 0, change = 0, least = 1, most = -1;
        for (int s = 0; s < seeds; s++) {
            double d = scores[k][s].iou - scores[0][s].iou;
            iou += scores[k][s].iou / seeds;
            f1 += scores[k][s].f1 / seeds;
            change += d / seeds;
            least = fmin(least, d);
            most = fmax(most, d);
        }
        printf("| %s%s | %.3f | %.3f | ", k == 0 ? "all" : k == 1 ? "none" : "without ", k < 2 ? "" : transforms[k - 2], iou, f1);
        if (k) printf("%+.3f (%+.3f .. %+.3f) |\n", change, least, most);
        else printf("|\n");
    }
}

int main(int argc, char **argv)
{
    int seeds = argc > 3 ? atoi(argv[3]) : 3, steps = argc > 4 ? atoi(argv[4]) : 250, few = argc > 5 ? atoi(argv[5]) : 3;
    int most = argc > 6 ? atoi(argv[6]) : 1000;
    if (argc < 3 || seeds < 1 || seeds > SEEDS_MAX || steps < 1 || few < 1) {
        fprintf(stderr, "usage: augment_study DATA RUNS.csv [seeds [steps [specimens [runs now]]]]\n");
        return 2;
    }
    static score scores[KINDS + 2][SEEDS_MAX];
    for (int k = 0; k < KINDS + 2; k++) for (int s = 0; s < SEEDS_MAX; s++) scores[k][s].iou = -1;
    int done = read_scores(argv[2], scores);
    tl_dataset *all = tl_folder(argv[1], NULL);
    if (!all) stop();
    int *in = malloc((size_t)tl_dataset_count(all) * sizeof(int));
    for (int s = 0; s < seeds; s++) {
        if (tl_group_holdout(all, few, (uint64_t)s + 1, in)) stop();       // what is set aside is the training part here
        tl_dataset *train = part(all, in, 1), *test = part(all, in, 0);
        for (int k = 0; k < KINDS + 2 && most > 0; k++) {
            unsigned every = (1u << KINDS) - 1, which = k == 0 ? every : k == 1 ? 0 : every & ~(1u << (k - 2));
            if (scores[k][s].iou >= 0) continue;
            scores[k][s] = run(train, test, which, (uint64_t)s + 1, steps);
            FILE *file = fopen(argv[2], "a");
            if (!file || fprintf(file, "%d,%d,%.5f,%.5f\n", s, k, scores[k][s].iou, scores[k][s].f1) < 0 || fclose(file)) { perror(argv[2]); return 1; }
            done++;
            most--;
        }
        tl_dataset_free(train);
        tl_dataset_free(test);
    }
    if (done >= seeds * (KINDS + 2)) print_table(scores, seeds);
    free(in);
    tl_dataset_free(all);
    return 0;
}
