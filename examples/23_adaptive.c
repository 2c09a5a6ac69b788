// Where does a network fail, and what must be drawn for it to learn that? Train on drawn grains, find the images that it
// doubts most, measure how those look, draw images like them, train on.
//
//     23_adaptive [STEPS [SEEDS [DATA...]]]      default: 100 steps, 1 seed: about two minutes on one core
//
// DATA are folders with images/, masks/ and specimens.csv. Without one, grains of another world stand for the microscope: three
// of four images are etched and easy, the fourth is a film with thin faint lines in strong noise, which the first network has
// never seen. Half of the specimens are searched; all scores are of the other half. No mask is looked at but to score. Three
// networks go on from the first one for as many steps: with more of the same images, with images like any six, and with
// images like the six worst. Only the difference between the last two is due to the search.

#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>
#include "experiment.h"

enum { PIECE = 128, BATCH = 8, EPOCH = 80, HARD = 6, MOST = 400, WIDTH = 7, ARMS = 4 };

typedef struct pool {
    tl_record all[MOST];
    int count, searched[MOST];
} pool;

// ---- images --------------------------------------------------------------------------------

// Copies a set into the pool and puts its specimens into two halves by chance.
static void add_set(pool *p, const tl_dataset *data)
{
    int fold[MOST], n = tl_dataset_count(data);
    if (n > MOST - p->count) must(TL_ERR_ARGUMENT, NULL);
    must(tl_group_kfold(data, 2, fold), NULL);
    for (int i = 0; i < n; i++, p->count++) {
        tl_record *r = &p->all[p->count];
        must(tl_dataset_get(data, 0, i, r), NULL);
        must(tl_image_channels(&r->image, &r->image, 1), NULL);
        p->searched[p->count] = fold[i];
    }
}

static void add_world(pool *p, tl_grains_desc d, int count)
{
    d.width = d.height = 256;
    d.count = count;
    d.source = TL_POTTS;
    d.label_width = WIDTH;
    tl_dataset *drawn = tl_grains_stream(&d);
    must(drawn ? TL_OK : TL_ERR_ARGUMENT, NULL);
    add_set(p, drawn);
    tl_dataset_free(drawn);
}

// Images in turns: of the first description, and of the one that is aimed at something.
typedef struct mixture {
    tl_grains_desc base, aimed;
} mixture;

static tl_result draw_mixed(void *user, uint32_t epoch, int index, tl_record *out)
{
    const mixture *m = (const mixture *)user;
    return tl_grains(index % 2 ? &m->aimed : &m->base, epoch, (uint32_t)index, NULL, &out->mask, &out->image);
}

// ---- the network ---------------------------------------------------------------------------

static tl_net *new_net(uint64_t seed)
{
    tl_net *net = tl_net_new(&(tl_net_desc){ .seed = seed, .threads = 1 });
    tl_node y = tl_unet(net, tl_input(net, PIECE, PIECE, 1), &(tl_unet_desc){ .classes = 2, .width = 8, .depth = 3 });
    tl_loss(net, y, &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
    tl_loss(net, y, &(tl_loss_desc){ .kind = TL_DICE });
    return net;
}

static void learn(tl_net *net, mixture m, int steps, float lr, uint64_t seed)
{
    m.base.width = m.base.height = m.aimed.width = m.aimed.height = PIECE;
    m.base.label_width = m.aimed.label_width = WIDTH;
    m.base.seed = m.aimed.seed = seed;
    tl_dataset *stream = tl_dataset_from(EPOCH, draw_mixed, &m);
    must(stream ? TL_OK : TL_ERR_MEMORY, NULL);
    must(tl_fit(net, &(tl_fit_desc){
        .train = stream, .epochs = (steps * BATCH + EPOCH - 1) / EPOCH, .batch = BATCH, .seed = seed,
        .optimizer = { .kind = TL_ADAMW, .lr = lr, .schedule = { .kind = TL_WARMUP_COSINE, .warmup = 10 } },
    }, NULL), net);
    tl_dataset_free(stream);
}

// How unsure the network is where it sees boundaries: 0 all of them certain, 1 nothing but a suspicion. Needs no mask.
static double doubt(tl_net *net, const tl_image *image)
{
    tl_image p = { 0 };
    double sum = 1e-9, squares = 0;
    must(tl_predict(net, image, NULL, &p), net);
    for (int i = 0; i < p.width * p.height; i++) {
        double boundary = (double)((const float *)p.pixels)[2 * i + 1];
        sum += boundary;
        squares += boundary * boundary;
    }
    tl_image_free(&p);
    return 1 - squares / sum;
}

static double iou(tl_net *net, const tl_record *r)
{
    tl_image mask = { 0 };
    tl_score s;
    must(tl_segment(net, &r->image, NULL, &mask), net);
    must(tl_compare_masks(&mask, &r->mask, 3, &s), NULL);
    tl_image_free(&mask);
    return s.iou;
}

// ---- the loop ------------------------------------------------------------------------------

// Of the searched images the HARD ones with the highest value.
static void pick(const pool *p, const double *value, int *chosen)
{
    int taken[MOST] = { 0 };
    for (int k = 0; k < HARD; k++) {
        int best = -1;
        for (int i = 0; i < p->count; i++)
            if (p->searched[i] && !taken[i] && (best < 0 || value[i] > value[best])) best = i;
        if (best < 0) must(TL_ERR_ARGUMENT, NULL);
        taken[best] = 1;
        chosen[k] = best;
    }
}

// What images like these are: the look that fits best, moved until drawn images have the same statistics.
static tl_grains_desc measure(const pool *p, const int *chosen)
{
    static const char *const names[] = { "etched", "SEM", "polarised" };
    tl_image images[HARD];
    static tl_calibration best, c;
    best.misfit = INFINITY;
    for (int k = 0; k < HARD; k++) images[k] = p->all[chosen[k]].image;
    for (int look = TL_LOOK_ETCHED; look <= TL_LOOK_POLARISED; look++) {
        must(tl_calibrate(images, HARD, 0, &(tl_grains_desc){ .look = (tl_look)look }, &c), NULL);
        if (c.misfit < best.misfit) best = c;
    }
    printf("    %s, misfit %.2f: diameter %.0f .. %.0f, line %.1f .. %.1f, boundary %.2f .. %.2f, read noise %.3f\n",
           names[best.desc.look - 1], best.misfit, (double)best.desc.diameter.lo, (double)best.desc.diameter.hi, (double)best.desc.line.lo,
           (double)best.desc.line.hi, (double)best.desc.boundary.lo, (double)best.desc.boundary.hi, best.noise.read_noise);
    return best.desc;
}

// Spearman's rank correlation over the searched images.
static double rank_correlation(const pool *p, const double *a, const double *b)
{
    double n = 0, products = 0, squares[2] = { 0 };
    for (int i = 0; i < p->count; i++) {
        double ranks[2] = { 0 };
        if (!p->searched[i]) continue;
        for (int j = 0; j < p->count; j++) {
            if (!p->searched[j]) continue;
            ranks[0] += (a[j] < a[i]) - (a[j] > a[i]);
            ranks[1] += (b[j] < b[i]) - (b[j] > b[i]);
        }
        n++;
        products += ranks[0] * ranks[1];
        for (int k = 0; k < 2; k++) squares[k] += ranks[k] * ranks[k];
    }
    return n > 1 ? products / sqrt(squares[0] * squares[1] + 1e-12) : 0;
}

// Mean IoU of the images that were not searched: of all, and of the quarter that was worst at first.
static void score(const pool *p, tl_net *net, const double *first, sample *all, sample *worst)
{
    double sum = 0, low = 0, n = 0, low_n = 0;
    for (int i = 0; i < p->count; i++) {
        int below = 0, others = 0;
        if (p->searched[i]) continue;
        for (int j = 0; j < p->count; j++) {
            others += !p->searched[j];
            below += !p->searched[j] && first[j] < first[i];
        }
        double s = iou(net, &p->all[i]);
        sum += s;
        n++;
        if (4 * below < others) { low += s; low_n++; }
    }
    add(all, sum / n);
    add(worst, low / low_n);
    printf("    mean IoU of the other half %.3f, of its worst quarter %.3f\n", sum / n, low / low_n);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static const char *const names[ARMS] = { "first network", "more of the same", "like any six", "like the six worst" };
    static pool p;
    int steps = argc > 1 ? atoi(argv[1]) : 100, seeds = argc > 2 ? atoi(argv[2]) : 1;
    const tl_grains_desc etched = { .look = TL_LOOK_ETCHED };
    sample all[ARMS], worst[ARMS], correlation = { 0, 0, 0 };
    memset(all, 0, sizeof all);
    memset(worst, 0, sizeof worst);
    for (int i = 3; i < argc; i++) {
        tl_dataset *data = tl_folder(argv[i], NULL);
        must(data ? TL_OK : TL_ERR_FILE, NULL);
        add_set(&p, data);
        tl_dataset_free(data);
    }
    if (argc < 4) {
        add_world(&p, (tl_grains_desc){ .look = TL_LOOK_ETCHED, .seed = 1 }, 36);
        add_world(&p, (tl_grains_desc){ .look = TL_LOOK_SEM, .seed = 2, .diameter = { 15, 25 }, .line = { 1, 2 }, .boundary = { -0.5f, -0.4f },
                                        .electrons = { 20, 40 } }, 12);
    }
    for (int s = 0; s < seeds; s++) {
        uint64_t seed = (uint64_t)s + 1;
        tl_rng rng = tl_rng_at(seed, TL_RANDOM_USER, 23, 0, 0);
        double unsure[MOST], chance[MOST], first[MOST];
        int chosen[HARD];
        tl_net *net = new_net(seed);
        learn(net, (mixture){ etched, etched }, steps, 3e-3f, 100 + seed);
        for (int i = 0; i < p.count; i++) {
            unsure[i] = doubt(net, &p.all[i].image);
            chance[i] = (double)tl_random_uniform(&rng, 0, 1);
            first[i] = iou(net, &p.all[i]);
        }
        add(&correlation, rank_correlation(&p, unsure, first));
        printf("network %d, %s\n", s + 1, names[0]);
        score(&p, net, first, &all[0], &worst[0]);
        for (int k = 1; k < ARMS; k++) {
            tl_net *next = tl_clone(net, &(tl_net_desc){ .threads = 1 });
            if (!next) must(TL_ERR_MEMORY, NULL);
            printf("network %d, %s\n", s + 1, names[k]);
            if (k > 1) pick(&p, k == 2 ? chance : unsure, chosen);
            for (int i = 0; i < HARD && k > 1; i++)
                printf("%s%s (IoU %.2f)", i ? ", " : "    ", *p.all[chosen[i]].specimen ? p.all[chosen[i]].specimen : "image", first[chosen[i]]);
            if (k > 1) printf("\n");
            learn(next, (mixture){ etched, k > 1 ? measure(&p, chosen) : etched }, steps, 1e-3f, 200 + seed);
            score(&p, next, first, &all[k], &worst[k]);
            tl_net_free(next);
        }
        tl_net_free(net);
    }
    printf("\nrank correlation of doubt and IoU: %.2f\n\n| IoU of images not searched | all | worst quarter |\n|---|---|---|\n", mean(&correlation));
    for (int k = 0; k < ARMS; k++)
        printf("| %s | %.3f +- %.3f | %.3f +- %.3f |\n", names[k], mean(&all[k]), spread(&all[k]), mean(&worst[k]), spread(&worst[k]));
    for (int i = 0; i < p.count; i++) tl_record_free(&p.all[i]);
    return 0;
}
