// How fast is this machine, and how fast is tinytl on it?
//
//     bench [RESULTS.json [quick]]
//
// Times everything at one thread and at all of them: the peak rate of multiply-adds, the three passes of 3x3 convolutions, training and
// inference of whole networks, synthetic images, and the time from the start of a process to its first prediction. Each group of
// items is measured in rounds, one item after the other, and the medians are reported: what disturbs the machine then
// disturbs all items alike. GFLOP/s count two operations for each multiply-add of the definition, so a method that needs fewer
// multiplications (Winograd) can exceed the peak; "direct" is the method that makes them all.

#define TINYTL_IMPLEMENTATION
#include "../tinytl.h"

#include <sys/wait.h>
#include <time.h>

enum { ROUNDS_MAX = 15, ITEMS_MAX = 160, BATCH = 8 };

// ---- items and rounds ----------------------------------------------------------------------

typedef struct item item;
struct item {
    char   name[64], way[16];
    void (*run)(item *it);
    int    threads;
    double flops;               // of one run; 0: not counted
    double images;              // made by one run; 0: not counted
    tl_isa isa;                 // whose peak it is compared with
    tl_net *net;
    tl_node in, out;
    int    batch, mode;
    double seconds[ROUNDS_MAX], median, rate;
};

static item items[ITEMS_MAX];
static int item_count, rounds = 9;
static tl_pool *pools[2];        // one thread, all threads
static int pool_count;
static const char *program;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void stop(const char *what)
{
    fprintf(stderr, "bench: %s\n", what);
    exit(1);
}

static void check(tl_result result)
{
    if (result) stop(tl_error(NULL));
}

static void *memory(size_t count, size_t size)
{
    void *block = calloc(count, size);
    if (!block) stop("no memory");
    return block;
}

static item *add_item(const char *name, const char *way, void (*run)(item *it), int threads)
{
    if (item_count == ITEMS_MAX) stop("too many items");
    item *it = &items[item_count++];
    snprintf(it->name, sizeof it->name, "%s", name);
    snprintf(it->way, sizeof it->way, "%s", way);
    it->run = run;
    it->threads = threads;
    return it;
}

static int compare_doubles(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;
    return (d > 0) - (d < 0);
}

static tl_pool *pool_of(const item *it) { return pools[it->threads > 1]; }

// Measures the items first .. item_count-1. Short runs are repeated until a measurement takes 10 ms.
static void measure(int first)
{
    for (int round = -1; round < rounds; round++) {           // round -1 warms up
        for (int i = first; i < item_count; i++) {
            item *it = &items[i];
            tl_pool *own = it->net ? it->net->pool : NULL;
            if (it->net) it->net->pool = pool_of(it);
            double start = now(), end;
            int runs = 0;
            do {
                it->run(it);
                runs++;
                end = now();
            } while (end - start < 1e-2);
            if (round >= 0) it->seconds[round] = (end - start) / runs;
            if (it->net) it->net->pool = own;
        }
    }
    for (int i = first; i < item_count; i++) {
        qsort(items[i].seconds, (size_t)rounds, sizeof(double), compare_doubles);
        items[i].median = items[i].seconds[rounds / 2];
        items[i].rate = items[i].flops / items[i].median * 1e-9;
    }
}

// ---- peak ----------------------------------------------------------------------------------
//
//  Twelve sums that do not depend on each other keep two multiply-add units of latency four to six busy.

#if TL__SIMD

enum { SUMS = 12, PEAK_LOOPS = 200000 };

#define DEFINE_PEAK(NAME, VECTOR, TARGET)                                                  \
    TARGET static float NAME(float factor)                                                 \
    {                                                                                      \
        VECTOR sum[SUMS], zero = {0}, a = zero + factor, b = zero + (1 - factor), all;     \
        TL__UNROLL for (int k = 0; k < SUMS; k++) sum[k] = zero + (float)k;                \
        for (int i = 0; i < PEAK_LOOPS; i++) {                                             \
            TL__UNROLL for (int k = 0; k < SUMS; k++) sum[k] = sum[k] * a + b;             \
        }                                                                                  \
        all = zero;                                                                        \
        TL__UNROLL for (int k = 0; k < SUMS; k++) all += sum[k];                           \
        return all[0];                                                                     \
    }

DEFINE_PEAK(peak_v128, tl__v4, TL__BASELINE)
#if TL__X86
DEFINE_PEAK(peak_avx2, tl__v8, TL__TARGET("avx2,fma"))
DEFINE_PEAK(peak_avx512, tl__v16, TL__TARGET("avx512f,fma"))
#endif

static volatile float peak_factor = 0.999f, peak_result;

static void peak_unit(void *user, int unit, int worker)
{
    tl_isa isa = ((const item *)user)->isa;
    float sum = 0;
    (void)unit;
    (void)worker;
    if (isa == TL_ISA_V128) sum = peak_v128(peak_factor);
#if TL__X86
    if (isa == TL_ISA_AVX2) sum = peak_avx2(peak_factor);
    if (isa == TL_ISA_AVX512) sum = peak_avx512(peak_factor);
#endif
    if (sum == 1) peak_result = sum;
}

static void run_peak(item *it)
{
    tl_parallel_for(pool_of(it), it->threads * 4, peak_unit, it);
}

static void add_peaks(void)
{
    for (int isa = TL_ISA_V128; isa < TL_ISA_COUNT; isa++) {
        if (!tl_isa_available((tl_isa)isa)) continue;
        for (int p = 0; p < pool_count; p++) {
            item *it = add_item("peak", tl_isa_name((tl_isa)isa), run_peak, tl_pool_threads(pools[p]));
            it->isa = (tl_isa)isa;
            it->flops = 2.0 * SUMS * PEAK_LOOPS * 4 * it->threads * tl__simd(it->isa)->lanes;
        }
    }
}

#else

static void add_peaks(void) { }

#endif

static double peak_of(tl_isa isa, int threads)
{
    for (int i = 0; i < item_count; i++)
        if (!strcmp(items[i].name, "peak") && items[i].isa == isa && items[i].threads == threads) return items[i].rate;
    return NAN;
}

// ---- layers --------------------------------------------------------------------------------

typedef struct layer {
    tl__conv conv;
    tl__node *x, *y;
} layer;

static layer layer_of(const item *it)
{
    layer l;
    l.y = &it->net->nodes[it->out.id - 1];
    l.x = &it->net->nodes[it->in.id - 1];
    l.conv = tl__node_conv(it->net, l.y, it->batch);
    return l;
}

static void run_pass(item *it, tl__conv_pass pass)
{
    layer l = layer_of(it);
    int forward = pass == TL__FORWARD, weights = pass == TL__BACKWARD_WEIGHTS;
    tl__arrays arrays = tl__one_array(forward || weights ? l.x->data : l.x->grad, l.x->c, 0, forward ? l.y->data : l.y->grad, 0,
                                      weights ? tl__gradient(it->net, l.y, TL__WEIGHT) : tl__values(it->net, l.y, TL__WEIGHT), NULL);
    tl__run_conv(it->net, pass, &l.conv, &arrays);
}

static void run_forward(item *it) { run_pass(it, TL__FORWARD); }
static void run_backward_data(item *it) { run_pass(it, TL__BACKWARD_DATA); }
static void run_backward_weights(item *it) { run_pass(it, TL__BACKWARD_WEIGHTS); }

static void fill_normal(tl_real *to, size_t count, uint32_t stream)
{
    tl_rng rng = tl_rng_at(1, TL_RANDOM_USER, 0, stream, 0);
    for (size_t i = 0; i < count; i++) to[i] = (tl_real)tl_random_normal(&rng);
}

// Direct on every instruction set or on the best alone, and as the library would do it.
static void add_layer(int channels, int size, tl_isa isa, const char *way)
{
    static const char *const passes[3] = { "forward", "backward data", "backward weights" };
    static void (*const runs[3])(item *) = { run_forward, run_backward_data, run_backward_weights };
    int direct = strcmp(way, "default") != 0;
    tl_net_desc desc = { .isa = isa, .threads = tl_pool_threads(pools[pool_count - 1]), .exact = direct };
    tl_net *net = tl_net_new(&desc);
    tl_node in = tl_input(net, size, size, channels);
    tl_node out = tl_conv2d(net, in, &(tl_conv2d_desc){ .out = channels, .kernel = 3, .pad = 1, .no_bias = 1 });
    tl_keep_all(net);
    check(tl_prepare(net, BATCH, 1));
    size_t count = (size_t)BATCH * size * size * channels;
    fill_normal(tl_data(net, in), count, 1);
    fill_normal(tl_grad(net, out), count, 2);
    for (int pass = 0; pass < 3; pass++)
    for (int p = 0; p < pool_count; p++) {
        char name[64];
        snprintf(name, sizeof name, "3x3 %d-%d@%d %s", channels, channels, size, passes[pass]);
        item *it = add_item(name, way, runs[pass], tl_pool_threads(pools[p]));
        it->net = net; it->in = in; it->out = out;
        it->batch = BATCH;
        it->isa = isa;
        it->flops = 18.0 * channels * (double)count;
    }
}

// ---- networks ------------------------------------------------------------------------------

static tl_real *net_values;         // input of the largest batch
static int32_t *net_classes;

static void run_training_step(item *it)
{
    tl_set_input(it->net, it->in, net_values, it->batch);
    for (int term = 0; term < it->net->loss_count; term++) {
        if (it->net->losses[term].target_of == term) tl_set_target_index(it->net, term, net_classes, it->batch);
    }
    check(tl_forward(it->net, it->batch, TL_TRAIN));
    check(tl_backward(it->net));
    check(tl_step(it->net));
}

static void run_inference(item *it)
{
    tl_set_input(it->net, it->in, net_values, it->batch);
    check(tl_forward(it->net, it->batch, TL_EVAL));
}

static void add_network(const char *name, tl_net *net, tl_node in, int batch, int train)
{
    for (int p = 0; p < pool_count; p++) {
        item *it = add_item(name, "default", train ? run_training_step : run_inference, tl_pool_threads(pools[p]));
        it->net = net; it->in = in;
        it->batch = batch;
        it->images = batch;
        it->isa = net->isa;
        it->flops = tl_flops(net) * batch * (train ? 3 : 1);      // forward, backward data, backward weights
    }
}

static tl_net *make_unet(int width, int batch, int train, tl_node *in)
{
    tl_net *net = tl_net_new(&(tl_net_desc){ .seed = 1, .threads = tl_pool_threads(pools[pool_count - 1]) });
    *in = tl_input(net, 256, 256, 1);
    tl_node y = tl_unet(net, *in, &(tl_unet_desc){ .classes = 2, .width = width, .depth = 4 });
    if (train) {
        tl_loss(net, y, &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
        tl_loss(net, y, &(tl_loss_desc){ .kind = TL_DICE });
        tl_optimizer(net, &(tl_optimizer_desc){ .kind = TL_ADAMW, .lr = 1e-3f });
    }
    check(tl_prepare(net, batch, train));
    return net;
}

static tl_net *make_backbone(const char *name, int batch, int train, tl_node *in)
{
    tl_net *net = tl_net_new(&(tl_net_desc){ .seed = 1, .threads = tl_pool_threads(pools[pool_count - 1]) });
    *in = tl_input(net, 224, 224, 3);
    tl_node y = tl_backbone(net, *in, &(tl_backbone_desc){ .name = name, .classes = 10 });
    tl_loss(net, y, &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
    tl_optimizer(net, &(tl_optimizer_desc){ .kind = TL_ADAMW, .lr = 1e-3f });
    check(tl_prepare(net, batch, train));
    return net;
}

static tl_net *make_mlp(tl_node *in)
{
    tl_net *net = tl_net_new(&(tl_net_desc){ .seed = 1, .threads = tl_pool_threads(pools[pool_count - 1]) });
    *in = tl_input(net, 1, 1, 784);
    tl_loss(net, tl_mlp(net, *in, (int[]){ 512, 10 }, 2), &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
    tl_optimizer(net, &(tl_optimizer_desc){ .kind = TL_ADAM, .lr = 1e-3f });
    check(tl_prepare(net, 64, 1));
    return net;
}

static tl_net *make_lenet(tl_node *in)
{
    tl_net *net = tl_net_new(&(tl_net_desc){ .seed = 1, .threads = tl_pool_threads(pools[pool_count - 1]) });
    *in = tl_input(net, 28, 28, 1);
    tl_loss(net, tl_lenet5(net, *in, 10), &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
    tl_optimizer(net, &(tl_optimizer_desc){ .kind = TL_ADAM, .lr = 1e-3f });
    check(tl_prepare(net, 64, 1));
    return net;
}

static void add_networks(tl_plan *train_plan, tl_plan *eval_plan)
{
    tl_node in;
    static const struct { int width, batch; } unets[3] = { { 16, 8 }, { 32, 2 }, { 64, 2 } };
    static const char *const backbones[3] = { "resnet18", "mobilenet_v2", "efficientnet_b0" };
    size_t count = (size_t)16 * 224 * 224 * 3;
    char name[64];
    net_values = memory(count, sizeof *net_values);
    net_classes = memory(count, sizeof *net_classes);
    fill_normal(net_values, count, 3);
    for (size_t i = 0; i < count; i++) net_classes[i] = net_values[i] > 1;
    for (int i = 0; i < 3; i++) {
        int width = unets[i].width, batch = unets[i].batch;
        tl_net *net = make_unet(width, batch, 1, &in);
        if (i == 0) check(tl_memory(net, batch, 1, train_plan));
        snprintf(name, sizeof name, "U-Net %d, 256x256, batch %d, training step", width, batch);
        add_network(name, net, in, batch, 1);
    }
    tl_net *net = make_unet(16, BATCH, 0, &in);
    add_network("U-Net 16, 256x256, batch 8, inference", net, in, BATCH, 0);
    add_network("U-Net 16, 256x256, batch 1, inference", net, in, 1, 0);
    check(tl_memory(net, BATCH, 0, eval_plan));
    for (int i = 0; i < 3; i++) {
        int batch = i == 0 ? 16 : 4;
        net = make_backbone(backbones[i], batch, 1, &in);
        snprintf(name, sizeof name, "%s, 224x224, batch %d, training step", backbones[i], batch);
        add_network(name, net, in, batch, 1);
        net = make_backbone(backbones[i], 1, 0, &in);
        snprintf(name, sizeof name, "%s, 224x224, batch 1, inference", backbones[i]);
        add_network(name, net, in, 1, 0);
    }
    net = make_lenet(&in);
    add_network("LeNet-5, 28x28, batch 64, training step", net, in, 64, 1);
    net = make_mlp(&in);
    add_network("MLP 784-512-10, batch 64, training step", net, in, 64, 1);
}

// ---- images --------------------------------------------------------------------------------

static float points[400];
static int32_t *ids;
static tl_image picture, mask;

static void run_voronoi(item *it)
{
    (void)it;
    check(tl_voronoi(points, 200, 512, 512, ids));
}

static void run_grains(item *it)
{
    static uint32_t index;
    (void)it;
    check(tl_grains(NULL, 0, index++, NULL, &mask, &picture));
}

static void add_images(void)
{
    tl_rng rng = tl_rng_at(1, TL_RANDOM_USER, 0, 0, 0);
    for (int i = 0; i < 400; i++) points[i] = tl_random_uniform(&rng, 0, 512);
    ids = memory(512 * 512, sizeof *ids);
    add_item("Voronoi labels, 512x512, 200 grains", "default", run_voronoi, 1)->images = 1;
    add_item("grains rendered with mask, 256x256", "default", run_grains, 1)->images = 1;
}

// ---- from the start to the first prediction ------------------------------------------------
//
//  A process of its own opens a model file and an image file (128x128), segments the image, and ends.

static char model_path[512], image_path[512];

static int first_prediction(const char *model, const char *image)
{
    tl_image in = {0}, out = {0};
    tl_net *net = tl_open(model, NULL);
    if (!net || tl_image_load(&in, image) || tl_segment(net, &in, NULL, &out)) stop(tl_error(NULL));
    tl_image_free(&in);
    tl_image_free(&out);
    tl_net_free(net);
    return 0;
}

static void run_first_prediction(item *it)
{
    int status = 1;
    (void)it;
    pid_t child = fork();
    if (child == 0) {
        execl(program, program, "first-prediction", model_path, image_path, (char *)NULL);
        _exit(127);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) stop("the process for the first prediction failed");
}

static void add_first_prediction(const char *results)
{
    tl_node in;
    tl_net *net = make_unet(16, 1, 0, &in);
    snprintf(model_path, sizeof model_path, "%s.safetensors", results);
    snprintf(image_path, sizeof image_path, "%s.pgm", results);
    check(tl_save(net, model_path));
    tl_net_free(net);
    check(tl_grains(&(tl_grains_desc){ .width = 128, .height = 128 }, 0, 0, NULL, NULL, &picture));
    tl_image bytes = {0};
    check(tl_image_convert(&bytes, &picture, TL_U8));
    FILE *file = fopen(image_path, "wb");
    if (!file) stop("cannot write the image for the first prediction");
    fprintf(file, "P5 128 128 255\n");
    fwrite(bytes.pixels, 1, 128 * 128, file);
    fclose(file);
    tl_image_free(&bytes);
    add_item("process start to first prediction, U-Net, 128x128", "default", run_first_prediction,
             tl_pool_threads(pools[pool_count - 1]))->images = 1;
}

// ---- results -------------------------------------------------------------------------------

static void processor_name(char *name, size_t size)
{
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "r");
    snprintf(name, size, "unknown processor");
    while (file && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon) continue;
        snprintf(name, size, "%.*s", (int)strcspn(colon + 2, "\"\\\n"), colon + 2);
        break;
    }
    if (file) fclose(file);
}

static void print_cell(const item *it)
{
    printf("  %9.3f ms", it->median * 1e3);
    if (it->flops > 0) printf(" %7.1f GFLOP/s", it->rate);
    else printf(" %16s", "");
    double share = it->rate / peak_of(it->isa, it->threads);
    if (it->flops > 0 && share == share && strcmp(it->name, "peak")) printf(" %4.0f %%", 100 * share);
    else printf(" %6s", "");
    if (it->images > 0) printf(" %8.1f images/s", it->images / it->median);
}

static void print_items(const char *title, int first)
{
    printf("\n%s\n", title);
    for (int i = first; i < item_count; i++) {
        const item *it = &items[i];
        int same = i > first && !strcmp(it->name, it[-1].name) && !strcmp(it->way, it[-1].way);
        if (!same) printf("%s%-50s %-8s", i > first ? "\n" : "", it->name, strcmp(it->way, "default") ? it->way : "");
        else printf("\n%-50s %-8s", "", "");
        printf(" %2d thread%s", it->threads, it->threads > 1 ? "s" : " ");
        print_cell(it);
    }
    printf("\n");
    fflush(stdout);
}

static void write_results(const char *path, const char *processor, const tl_plan *train, const tl_plan *eval)
{
    FILE *file = fopen(path, "w");
    if (!file) stop("cannot write the results");
    fprintf(file, "{\n  \"tinytl\": \"%s\",\n  \"processor\": \"%s\",\n  \"isa\": \"%s\",\n", TINYTL_VERSION, processor,
            tl_isa_name(tl__best_isa()));
    fprintf(file, "  \"rounds\": %d,\n  \"unet_training_bytes\": %zu,\n  \"unet_inference_bytes\": %zu,\n  \"results\": [\n", rounds,
            train->total, eval->total);
    for (int i = 0; i < item_count; i++) {
        const item *it = &items[i];
        double share = it->rate / peak_of(it->isa, it->threads);
        fprintf(file, "    {\"name\": \"%s\", \"way\": \"%s\", \"threads\": %d, \"ms\": %.6g, \"ms_min\": %.6g", it->name, it->way,
                it->threads, it->median * 1e3, it->seconds[0] * 1e3);
        if (it->flops > 0) fprintf(file, ", \"gflops\": %.5g", it->rate);
        if (it->flops > 0 && share == share) fprintf(file, ", \"share_of_peak\": %.4g", share);
        if (it->images > 0) fprintf(file, ", \"images_per_second\": %.5g", it->images / it->median);
        fprintf(file, "}%s\n", i + 1 < item_count ? "," : "");
    }
    fprintf(file, "  ]\n}\n");
    if (fclose(file) != 0) stop("cannot write the results");
}

// Frees the networks of the items from `first` on; several items may share one.
static void free_networks(int first)
{
    for (int i = first; i < item_count; i++) {
        tl_net *net = items[i].net;
        for (int k = i; k < item_count; k++) if (items[k].net == net) items[k].net = NULL;
        tl_net_free(net);
    }
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "first-prediction")) return first_prediction(argv[2], argv[3]);
    const char *results = argc > 1 ? argv[1] : "bench.json";
    static const int layers[5][2] = { { 16, 256 }, { 32, 128 }, { 64, 64 }, { 128, 32 }, { 256, 16 } };
    char processor[128];
    tl_plan train_plan, eval_plan;
    tl_isa best = tl__best_isa();
    program = argv[0];
    if (argc > 2 && !strcmp(argv[2], "quick")) rounds = 1;
    pools[pool_count++] = tl_pool_new(1);
    if (tl__processors() > 1) pools[pool_count++] = tl_pool_new(0);
    if (!pools[pool_count - 1]) stop(tl_error(NULL));
    processor_name(processor, sizeof processor);
    printf("tinytl %s on %s, %d processors, %s kernels; medians of %d rounds\n", TINYTL_VERSION, processor, tl__processors(),
           tl_isa_name(best), rounds);

    add_peaks();
    int first_layer = item_count;
    for (int isa = TL_ISA_V128; isa < (int)best; isa++) {
        if (tl_isa_available((tl_isa)isa)) add_layer(64, 64, (tl_isa)isa, tl_isa_name((tl_isa)isa));
    }
    for (int i = 0; i < 5; i++) add_layer(layers[i][0], layers[i][1], best, "direct");
    for (int i = 0; i < 5; i++) add_layer(layers[i][0], layers[i][1], best, "default");
    measure(0);
    int layers_end = item_count;
    item_count = first_layer;
    print_items("Peak rate of multiply-adds", 0);
    item_count = layers_end;
    print_items("Layers: convolution, channels in-out@size, batch 8; share of the peak at as many threads", first_layer);
    free_networks(first_layer);

    int first = item_count;
    add_networks(&train_plan, &eval_plan);
    measure(first);
    print_items("Networks", first);
    printf("U-Net, batch 8: %.0f MB to train, %.0f MB for inference\n", (double)train_plan.total * 1e-6, (double)eval_plan.total * 1e-6);
    free_networks(first);

    first = item_count;
    add_images();
    add_first_prediction(results);
    measure(first);
    print_items("Images and start", first);
    write_results(results, processor, &train_plan, &eval_plan);
    printf("\nwrote %s\n", results);

    remove(model_path);
    remove(image_path);
    tl_image_free(&picture);
    tl_image_free(&mask);
    free(ids);
    free(net_values);
    free(net_classes);
    for (int p = 0; p < pool_count; p++) tl_pool_free(pools[p]);
    return 0;
}
