// How fast is this machine, and how fast is tinytl on it?
//
//     bench RESULTS.json [quick] [ISA] [threads N] [cpu] [only TEXT] [peer COMMAND]
//     bench grow PLOT.png [ISA]            how time grows with image size, width, batch and depth
//
// Times everything at one thread and at all of them: the peak rate of multiply-adds, the three passes of convolutions, matrix products,
// training and inference of whole networks, synthetic images, and the time from the start of a process to its first prediction. Each
// group of items is measured in rounds, one item after the other, and the medians are reported: what disturbs the machine then
// disturbs all items alike. GFLOP/s count two operations for each multiply-add of the definition, so a method that needs fewer
// multiplications (Winograd) can exceed the peak; "direct" is the method that makes them all.
//
// COMMAND (tools/bench_torch.py) starts PyTorch, once for each number of threads. In every round it times the same work right after
// ours: its column stands beside ours. ISA, avx2 for example, forces an instruction set. RESULTS.json gets a neighbour RESULTS.json.md with
// the same tables in Markdown.
//
// On a machine with other work, `cpu` counts the time on the processor instead of the time that passes, on one thread and for the peer too.

#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>
#define TINYTL_IMPLEMENTATION
#include "../tinytl.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

enum { ROUNDS_MAX = 15, ROUNDS_LEAST = 3, ITEMS_MAX = 320, GROUPS_MAX = 8, POOLS_MAX = 2, TITLE = 160 };

#define SHORTEST 1e-2            // seconds of a measurement: shorter runs are repeated
#define ENOUGH   3.0             // seconds of one item: it then takes no part in further rounds, but in ROUNDS_LEAST
#define WORTH_SHARING 1e-3       // seconds from which on work should gain from a second thread

// ---- items and rounds ----------------------------------------------------------------------

typedef struct series {
    double seconds[ROUNDS_MAX], spent, median;      // median 0: not measured
    int    count;
} series;

typedef struct item item;
struct item {
    char   name[64], way[16];
    char   request[80];         // what the peer is asked for; "": it is not asked
    void (*run)(item *it);
    int    threads;
    double flops;               // of one run; 0: not counted
    double images;              // made by one run; 0: not counted
    tl_isa isa;                 // whose peak it is compared with
    tl_net *net;
    tl_node in, out;
    int    batch;
    series ours, peers;
    double rate;
    char   variant[40];         // of the peer
};

typedef struct group {
    char title[TITLE];
    int  first, end;
} group;

static item items[ITEMS_MAX];
static group groups[GROUPS_MAX];
static int item_count, group_count, rounds = 9, quick;
static tl_pool *pools[POOLS_MAX];        // one thread, all threads
static int pool_count;
static tl_isa isa_used;
static const char *program, *only = "";

static clockid_t clock_used = CLOCK_MONOTONIC;

static double now(void)
{
    struct timespec t;
    clock_gettime(clock_used, &t);
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

static int most_threads(void) { return tl_pool_threads(pools[pool_count - 1]); }
static int wanted(const char *name) { return strstr(name, only) != NULL; }

static item *add_item(const char *name, const char *way, void (*run)(item *it), int threads)
{
    if (item_count == ITEMS_MAX) stop("too many items");
    item *it = &items[item_count++];
    snprintf(it->name, sizeof it->name, "%s", name);
    snprintf(it->way, sizeof it->way, "%s", way);
    it->run = run;
    it->threads = threads;
    it->isa = isa_used;
    return it;
}

static void begin_group(const char *title)
{
    if (group_count == GROUPS_MAX) stop("too many groups");
    snprintf(groups[group_count].title, TITLE, "%s", title);
    groups[group_count++].first = item_count;
}

static int compare_doubles(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;
    return (d > 0) - (d < 0);
}

static int pool_index(const item *it) { return pool_count > 1 && it->threads > 1; }
static tl_pool *pool_of(const item *it) { return pools[pool_index(it)]; }

// ---- the peer: a process for each number of threads ------------------------------------------

typedef struct peer {
    FILE *to, *from;             // NULL: there is none
    pid_t process;               // of a group of its own
    char  name[64];
} peer;

static peer peers[POOLS_MAX];

// One line of the peer's answer; 0 if it has gone.
static int hear(peer *p, char *line, int size)
{
    if (p->from && fgets(line, size, p->from)) {
        line[strcspn(line, "\n")] = 0;
        return 1;
    }
    p->from = NULL;
    return 0;
}

static void start_peer(peer *p, const char *command, int threads)
{
    int down[2], up[2];
    if (pipe(down) || pipe(up)) stop("no pipe to the peer");
    pid_t child = fork();
    if (child < 0) stop("the peer cannot be started");
    if (child == 0) {
        char count[16];
        setpgid(0, 0);
        snprintf(count, sizeof count, "%d", threads);
        setenv("OMP_NUM_THREADS", count, 1);
        if (clock_used == CLOCK_PROCESS_CPUTIME_ID) setenv("BENCH_CLOCK", "cpu", 1);
        dup2(down[0], 0);
        dup2(up[1], 1);
        close(down[1]);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    setpgid(child, child);                  // both set it: whoever comes first
    p->process = child;
    close(down[0]);
    close(up[1]);
    fcntl(down[1], F_SETFD, FD_CLOEXEC);
    fcntl(up[0], F_SETFD, FD_CLOEXEC);
    p->to = fdopen(down[1], "w");
    p->from = fdopen(up[0], "r");
}

// A peer stands still while others are timed: the threads of PyTorch spin for long after their work.
static void halt(peer *p) { if (p->process > 0) kill(-p->process, SIGSTOP); }

static void end_peers(void)
{
    for (int p = 0; p < POOLS_MAX; p++) if (peers[p].process > 0) kill(-peers[p].process, SIGKILL);
}

static void tell(peer *p, const char *request)
{
    if (!p->from) return;
    kill(-p->process, SIGCONT);
    fprintf(p->to, "%s\n", request);
    fflush(p->to);
}

// The peer's number for a request, milliseconds or megabytes, and its variant; 0 without one.
static double ask_peer(peer *p, const char *request, char *variant, size_t size)
{
    char line[256];
    if (!request[0] || !p->from) return 0;
    tell(p, request);
    if (!hear(p, line, sizeof line)) fprintf(stderr, "bench: the peer has ended, asked for '%s'\n", request);
    halt(p);
    if (!p->from) return 0;
    const char *behind = strchr(line, ' ');
    if (!strncmp(line, "none", 4)) {
        fprintf(stderr, "bench: %s: %s\n", request, line);
        return 0;
    }
    snprintf(variant, size, "%s", behind ? behind + 1 : "");
    return atof(line);
}

// ---- measuring -----------------------------------------------------------------------------

static void record(series *s, double seconds, double spent, int round)
{
    s->spent += spent;
    if (round >= 0 && seconds > 0) s->seconds[s->count++] = seconds;
}

static void measure_ours(item *it, int round)
{
    tl_pool *own = it->net ? it->net->pool : NULL;
    if (it->net) it->net->pool = pool_of(it);
    double start = now(), end;
    int runs = 0;
    do {
        it->run(it);
        runs++;
        end = now();
    } while (end - start < SHORTEST);
    record(&it->ours, (end - start) / runs, end - start, round);
    if (it->net) it->net->pool = own;
}

static void measure_peer(item *it, int round)
{
    double seconds = 1e-3 * ask_peer(&peers[pool_index(it)], it->request, it->variant, sizeof it->variant);
    if (seconds <= 0) it->request[0] = 0;                     // it cannot: not asked again
    record(&it->peers, seconds, seconds, round);
}

static int enough(const series *s) { return s->count >= ROUNDS_LEAST && s->spent > ENOUGH; }

static void finish(series *s)
{
    qsort(s->seconds, (size_t)s->count, sizeof(double), compare_doubles);
    s->median = s->count ? s->seconds[s->count / 2] : 0;
}

static void measure(int first)
{
    for (int round = -1; round < rounds; round++) {           // round -1 warms up
        for (int i = first; i < item_count; i++) {
            if (!enough(&items[i].ours)) measure_ours(&items[i], round);
            if (items[i].request[0] && !enough(&items[i].peers)) measure_peer(&items[i], round);
        }
    }
    for (int i = first; i < item_count; i++) {
        finish(&items[i].ours);
        finish(&items[i].peers);
        items[i].rate = items[i].flops / items[i].ours.median * 1e-9;
    }
    for (int p = 0; p < pool_count; p++) tell(&peers[p], "forget");
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
        if (!tl_isa_available((tl_isa)isa) || isa > (int)isa_used) continue;
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

enum { TRANSPOSED = 1, DEPTHWISE = 2, QUICK = 4, DIRECT = 8 };      // DIRECT: also by the direct method

typedef struct shape {
    const char *name;                    // in front of "channels in-out@size"
    int kernel, stride, in, out, size, batch, flags;
} shape;

// The 3x3 layers of a U-Net of width 16 at 256x256 and of ResNet-18 and -34.
static const shape shapes_3x3[] = {
    { "3x3", 3, 1,  16,  16, 256, 8, DIRECT },        { "3x3", 3, 1,  32,  32, 128, 8, DIRECT },
    { "3x3", 3, 1,  64,  64,  64, 8, DIRECT | QUICK }, { "3x3", 3, 1, 128, 128,  32, 8, DIRECT },
    { "3x3", 3, 1, 256, 256,  16, 8, DIRECT },        { "3x3", 3, 1,  16,  32, 128, 8, 0 },
    { "3x3", 3, 1,  32,  64,  64, 8, 0 },             { "3x3", 3, 1,  64, 128,  32, 8, 0 },
    { "3x3", 3, 1, 128, 256,  16, 8, 0 },             { "3x3", 3, 1, 256, 128,  32, 8, 0 },
    { "3x3", 3, 1, 128,  64,  64, 8, 0 },             { "3x3", 3, 1,  64,  32, 128, 8, 0 },
    { "3x3", 3, 1,  32,  16, 256, 8, 0 },             { "3x3", 3, 1,  64,  64,  56, 8, 0 },
    { "3x3", 3, 1, 128, 128,  28, 8, 0 },             { "3x3", 3, 1, 256, 256,  14, 8, 0 },
    { "3x3", 3, 1, 512, 512,   7, 8, 0 }
};

static const shape shapes_other[] = {
    { "first 3x3",      3, 1,   1,  16, 256, 8, QUICK },      { "stem 7x7/2",    7, 2,   3,  64, 224, 8, 0 },
    { "3x3/2",          3, 2,  64, 128,  56, 8, 0 },          { "3x3/2",         3, 2, 256, 512,  14, 8, 0 },
    { "1x1",            1, 1,  64, 256,  56, 8, 0 },          { "1x1",           1, 1, 256,  64,  56, 8, 0 },
    { "1x1/2",          1, 2, 256, 512,  28, 8, 0 },          { "transposed 2x2", 2, 2, 32,  16, 128, 8, TRANSPOSED },
    { "transposed 2x2", 2, 2, 256, 128,  16, 8, TRANSPOSED }, { "head 1x1",      1, 1,  16,   2, 256, 8, 0 },
    { "depthwise 3x3",  3, 1,  96,  96,  56, 8, DEPTHWISE },  { "depthwise 3x3/2", 3, 2, 96, 96, 112, 8, DEPTHWISE }
};

// One pass of a layer, without the rest of the network. A transposed convolution is the adjoint: it runs the other passes.
static void run_pass(item *it, tl__conv_pass pass)
{
    tl__node *y = &it->net->nodes[it->out.id - 1], *x = &it->net->nodes[it->in.id - 1];
    tl__conv conv = tl__node_conv(it->net, y, it->batch);
    int forward = pass == TL__FORWARD, weights = pass == TL__BACKWARD_WEIGHTS, adjoint = y->op == TL_OP_CONV_TRANSPOSE2D;
    tl_real *of_x = forward || weights ? x->data : x->grad, *of_y = forward ? y->data : y->grad;
    tl_real *w = weights ? tl__gradient(it->net, y, TL__WEIGHT) : tl__values(it->net, y, TL__WEIGHT);
    tl__arrays arrays = adjoint ? tl__one_array(of_y, y->c, 0, of_x, 0, w, NULL) : tl__one_array(of_x, x->c, 0, of_y, 0, w, NULL);
    if (adjoint && !weights) pass = forward ? TL__BACKWARD_DATA : TL__FORWARD;
    tl__run_conv(it->net, pass, &conv, &arrays);
}

static void run_forward(item *it) { run_pass(it, TL__FORWARD); }
static void run_backward_data(item *it) { run_pass(it, TL__BACKWARD_DATA); }
static void run_backward_weights(item *it) { run_pass(it, TL__BACKWARD_WEIGHTS); }

static void fill_normal(tl_real *to, size_t count, uint32_t stream)
{
    tl_rng rng = tl_rng_at(1, TL_RANDOM_USER, 0, stream, 0);
    for (size_t i = 0; i < count; i++) to[i] = (tl_real)tl_random_normal(&rng);
}

// A network of one layer, prepared for training, with something in its input and in the gradient of its output.
static tl_net *make_layer(const shape *s, int height, int width, tl_isa isa, int exact, tl_node *in, tl_node *out)
{
    tl_net *net = tl_net_new(&(tl_net_desc){ .isa = isa, .threads = most_threads(), .exact = exact });
    *in = tl_input(net, height, width, s->in);
    if (s->flags & TRANSPOSED)
        *out = tl_conv_transpose2d(net, *in, &(tl_conv_transpose2d_desc){ .out = s->out, .kernel = s->kernel, .stride = s->stride,
                                                                          .no_bias = 1 });
    else
        *out = tl_conv2d(net, *in, &(tl_conv2d_desc){ .out = s->out, .kernel = s->kernel, .stride = s->stride, .pad = (s->kernel - 1) / 2,
                                                      .groups = s->flags & DEPTHWISE ? s->in : 1, .no_bias = 1 });
    tl_keep_all(net);
    check(tl_prepare(net, s->batch, 1));
    fill_normal(tl_data(net, *in), (size_t)s->batch * height * width * s->in, 1);
    fill_normal(tl_grad(net, *out), (size_t)s->batch * tl_node_height(net, *out) * tl_node_width(net, *out) * s->out, 2);
    return net;
}

// Three passes, as the library would run them ("default") or by the direct method with some instruction set.
static void add_layer(const shape *s, tl_isa isa, const char *way)
{
    static const struct { const char *name, *word; void (*run)(item *); } passes[3] = {
        { "forward", "forward", run_forward }, { "backward data", "data", run_backward_data },
        { "backward weights", "weights", run_backward_weights }
    };
    int direct = strcmp(way, "default") != 0;
    tl_net *net = NULL;
    tl_node in = {0}, out = {0};
    for (int pass = 0; pass < 3; pass++)
    for (int p = 0; p < pool_count; p++) {
        char name[64];
        snprintf(name, sizeof name, "%s %d-%d@%d %s", s->name, s->in, s->out, s->size, passes[pass].name);
        if (!wanted(name)) continue;
        if (!net) net = make_layer(s, s->size, s->size, isa, direct, &in, &out);
        item *it = add_item(name, way, passes[pass].run, tl_pool_threads(pools[p]));
        it->net = net; it->in = in; it->out = out;
        it->batch = s->batch;
        it->isa = isa;
        it->flops = tl_flops(net) * s->batch;
        if (!direct)
            snprintf(it->request, sizeof it->request, "%sconv %d %d %d %d %d %d %d %s", s->flags & TRANSPOSED ? "de" : "", s->kernel,
                     s->stride, s->flags & DEPTHWISE ? s->in : 1, s->in, s->out, s->size, s->batch, passes[pass].word);
    }
}

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof(array)[0]))

static void add_layers(const shape *shapes, int count)
{
    for (int i = 0; i < count; i++) {
        const shape *s = &shapes[i];
        if (quick && !(s->flags & QUICK)) continue;
        for (int isa = TL_ISA_V128; isa < (int)isa_used && s->flags & DIRECT && s->in == 64; isa++)
            if (tl_isa_available((tl_isa)isa)) add_layer(s, (tl_isa)isa, tl_isa_name((tl_isa)isa));
        if (s->flags & DIRECT) add_layer(s, isa_used, "direct");
        add_layer(s, isa_used, "default");
    }
}

// N x N times N x N, as a dense layer of N features over N samples.
static void add_products(void)
{
    static const int sizes[3] = { 512, 1024, 2048 };
    for (int i = 0; i < (quick ? 1 : 3); i++) {
        int n = sizes[i];
        char name[64];
        snprintf(name, sizeof name, "matrix product %dx%dx%d", n, n, n);
        if (!wanted(name)) continue;
        tl_net *net = tl_net_new(&(tl_net_desc){ .isa = isa_used, .threads = most_threads() });
        tl_node in = tl_input(net, 1, 1, n), out = tl_dense(net, in, &(tl_dense_desc){ .out = n, .no_bias = 1 });
        tl_keep_all(net);
        check(tl_prepare(net, n, 1));
        fill_normal(tl_data(net, in), (size_t)n * n, 1);
        for (int p = 0; p < pool_count; p++) {
            item *it = add_item(name, "default", run_forward, tl_pool_threads(pools[p]));
            it->net = net; it->in = in; it->out = out;
            it->batch = n;
            it->flops = 2.0 * n * n * n;
            snprintf(it->request, sizeof it->request, "gemm %d", n);
        }
    }
}

// ---- networks ------------------------------------------------------------------------------

typedef enum job { INFER, TRAIN, HEAD } job;          // HEAD: a training step of the head on a frozen trunk

typedef struct network {
    const char *title, *kind;            // kind: as the peer calls it
    int width;                           // of a U-Net
    int size, batch;
    job job;
    int quick;
} network;

// ResNet-50 at batch 4 and not 16: a step of 16 takes seconds on two cores.
static const network networks[] = {
    { "U-Net 16",        "unet16",          16, 256,  8, TRAIN, 1 }, { "U-Net 32",        "unet32",          32, 256,  2, TRAIN, 0 },
    { "U-Net 64",        "unet64",          64, 256,  2, TRAIN, 0 }, { "U-Net 16",        "unet16",          16, 256,  1, INFER, 1 },
    { "U-Net 16",        "unet16",          16, 256,  8, INFER, 0 },
    { "ResNet-18",       "resnet18",         0, 224, 16, TRAIN, 0 }, { "ResNet-18",       "resnet18",         0, 224, 16, HEAD,  0 },
    { "ResNet-18",       "resnet18",         0, 224,  1, INFER, 1 }, { "ResNet-18",       "resnet18",         0, 224, 16, INFER, 0 },
    { "ResNet-50",       "resnet50",         0, 224,  4, TRAIN, 0 }, { "ResNet-50",       "resnet50",         0, 224,  4, HEAD,  0 },
    { "ResNet-50",       "resnet50",         0, 224,  1, INFER, 0 }, { "ResNet-50",       "resnet50",         0, 224,  4, INFER, 0 },
    { "MobileNetV2",     "mobilenet_v2",     0, 224,  4, TRAIN, 0 }, { "MobileNetV2",     "mobilenet_v2",     0, 224,  1, INFER, 1 },
    { "EfficientNet-B0", "efficientnet_b0",  0, 224,  4, TRAIN, 0 }, { "EfficientNet-B0", "efficientnet_b0",  0, 224,  1, INFER, 0 },
    { "LeNet-5",         "lenet",            0,  28, 64, TRAIN, 1 }, { "MLP 784-512-10",  "mlp",              0,  28, 64, TRAIN, 1 }
};

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

static tl_net *make_network(const network *n, tl_node *in)
{
    tl_net *net = tl_net_new(&(tl_net_desc){ .seed = 1, .threads = most_threads(), .isa = isa_used });
    int unet = n->width > 0, lenet = !strcmp(n->kind, "lenet"), mlp = !strcmp(n->kind, "mlp");
    tl_node y;
    *in = mlp ? tl_input(net, 1, 1, n->size * n->size) : tl_input(net, n->size, n->size, unet || lenet ? 1 : 3);
    if (unet) y = tl_unet(net, *in, &(tl_unet_desc){ .classes = 2, .width = n->width, .depth = 4 });
    else if (lenet) y = tl_lenet5(net, *in, 10);
    else if (mlp) y = tl_mlp(net, *in, (int[]){ 512, 10 }, 2);
    else y = tl_backbone(net, *in, &(tl_backbone_desc){ .name = n->kind, .classes = 10 });
    if (n->job != INFER) {
        tl_loss(net, y, &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
        if (unet) tl_loss(net, y, &(tl_loss_desc){ .kind = TL_DICE });
        tl_optimizer(net, &(tl_optimizer_desc){ .kind = TL_ADAMW, .lr = 1e-3f });
    }
    if (n->job == HEAD) {
        check(tl_freeze(net, "all", TL_STATS_RUNNING));
        check(tl_unfreeze(net, "head"));
    }
    check(tl_prepare(net, n->batch, n->job != INFER));
    return net;
}

static void make_inputs(void)
{
    size_t count = (size_t)16 * 224 * 224 * 3;
    net_values = memory(count, sizeof *net_values);
    net_classes = memory(count, sizeof *net_classes);
    fill_normal(net_values, count, 3);
    for (size_t i = 0; i < count; i++) net_classes[i] = net_values[i] > 1;
}

static void add_network(const network *n)
{
    static const char *const jobs[3][2] = { { "inference", "infer" }, { "training step", "train" }, { "step of the head", "head" } };
    char name[64];
    tl_node in;
    snprintf(name, sizeof name, "%s, %dx%d, batch %d, %s", n->title, n->size, n->size, n->batch, jobs[n->job][0]);
    if ((quick && !n->quick) || !wanted(name)) return;
    tl_net *net = make_network(n, &in);
    for (int p = 0; p < pool_count; p++) {
        item *it = add_item(name, "default", n->job == INFER ? run_inference : run_training_step, tl_pool_threads(pools[p]));
        it->net = net; it->in = in;
        it->batch = n->batch;
        it->images = n->batch;
        it->flops = tl_flops(net) * n->batch * (n->job == TRAIN ? 3 : 1);      // forward, backward data, backward weights
        snprintf(it->request, sizeof it->request, "net %s %d %d %s", n->kind, n->size, n->batch, jobs[n->job][1]);
    }
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
    if (!wanted("grains")) return;
    tl_rng rng = tl_rng_at(1, TL_RANDOM_USER, 0, 0, 0);
    for (int i = 0; i < 400; i++) points[i] = tl_random_uniform(&rng, 0, 512);
    ids = memory(512 * 512, sizeof *ids);
    add_item("Voronoi labels, 512x512, 200 grains", "default", run_voronoi, 1)->images = 1;
    add_item("grains rendered with mask, 256x256", "default", run_grains, 1)->images = 1;
}

// ---- processes: from the start to the first prediction, and the peak of memory -----------------
//
//  A process of its own opens a model file and an image file (256x256), segments the image, and ends. Another one makes three
//  training steps of the U-Net; the system says how much memory it had at most.

static char model_path[512], image_path[512];
static double peak_memory[2];            // of ours and of the peer, in megabytes; 0: not measured
static const network memory_network = { "U-Net 16", "unet16", 16, 256, 8, TRAIN, 0 };

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

static int three_steps(int threads)
{
    item it = { .batch = memory_network.batch };
    pools[pool_count++] = tl_pool_new(threads);
    make_inputs();
    it.net = make_network(&memory_network, &it.in);
    for (int i = 0; i < 3; i++) run_training_step(&it);
    return 0;
}

// Runs this program with other arguments; the peak of its memory in megabytes.
static double run_process(const char *word, const char *model, const char *image)
{
    int status = 1;
    struct rusage usage;
    pid_t child = fork();
    if (child == 0) {
        execl(program, program, word, model, image, (char *)NULL);
        _exit(127);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) stop("a process of its own failed");
    getrusage(RUSAGE_CHILDREN, &usage);
    return (double)usage.ru_maxrss * 1.024e-3;
}

static void run_first_prediction(item *it)
{
    (void)it;
    run_process("first-prediction", model_path, image_path);
}

static void add_first_prediction(const char *results)
{
    static const char name[] = "process start to first prediction, U-Net, 256x256";
    if (!wanted(name) || clock_used == CLOCK_PROCESS_CPUTIME_ID) return;       // it waits for its process
    network n = memory_network;
    tl_node in;
    n.job = INFER;
    n.batch = 1;
    tl_net *net = make_network(&n, &in);
    snprintf(model_path, sizeof model_path, "%s.safetensors", results);
    snprintf(image_path, sizeof image_path, "%s.pgm", results);
    check(tl_save(net, model_path));
    tl_net_free(net);
    tl_image drawn = {0}, bytes = {0};
    check(tl_grains(&(tl_grains_desc){ .width = 256, .height = 256 }, 0, 0, NULL, NULL, &drawn));
    check(tl_image_convert(&bytes, &drawn, TL_U8));
    FILE *file = fopen(image_path, "wb");
    if (!file) stop("cannot write the image for the first prediction");
    fprintf(file, "P5 256 256 255\n");
    fwrite(bytes.pixels, 1, 256 * 256, file);
    fclose(file);
    tl_image_free(&drawn);
    tl_image_free(&bytes);
    item *it = add_item(name, "default", run_first_prediction, most_threads());
    it->images = 1;
    snprintf(it->request, sizeof it->request, "start unet16 256");
}

// Before all other processes: the system only tells the maximum over those that have ended.
static void measure_memory(void)
{
    if (!wanted("memory") || quick) return;
    char variant[40], threads[16];
    snprintf(threads, sizeof threads, "%d", most_threads());
    peak_memory[0] = run_process("three-steps", threads, "");
    peak_memory[1] = ask_peer(&peers[pool_count - 1], "peak unet16 256 8", variant, sizeof variant);
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

static double share_of_peak(const item *it)
{
    return it->flops > 0 && strcmp(it->name, "peak") ? it->rate / peak_of(it->isa, it->threads) : NAN;
}

static int same_work(const item *a, const item *b) { return !strcmp(a->name, b->name) && !strcmp(a->way, b->way); }

// Of the rate of as many single threads, what all together reach; NAN for work too short to share out.
static double kept(const item *it)
{
    const item *one = it - (it > items);
    int paired = it->threads > 1 && one->threads == 1 && same_work(it, one);
    return paired && it->ours.median > WORTH_SHARING ? it->rate / (it->threads * one->rate) : NAN;
}

static double times_faster(const item *it) { return it->peers.median > 0 ? it->peers.median / it->ours.median : NAN; }

// One column of the tables: its title and what an item has there; NAN: an empty cell.
static double ms_of(const item *it) { return it->ours.median * 1e3; }
static double rate_of(const item *it) { return it->flops > 0 ? it->rate : NAN; }
static double percent_of_peak(const item *it) { return 100 * share_of_peak(it); }
static double percent_kept(const item *it) { return 100 * kept(it); }
static double images_of(const item *it) { return it->images > 0 ? it->images / it->ours.median : NAN; }
static double peer_ms(const item *it) { return it->peers.median > 0 ? it->peers.median * 1e3 : NAN; }

static const struct { const char *title, *key; double (*value)(const item *it); int width, digits; } columns[] = {
    { "ms", "ms", ms_of, 10, 3 },                   { "GFLOP/s", "gflops", rate_of, 8, 1 },
    { "% of peak", "percent_of_peak", percent_of_peak, 10, 0 }, { "% kept", "percent_kept", percent_kept, 7, 0 },
    { "images/s", "images_per_second", images_of, 9, 1 },       { "PyTorch ms", "peer_ms", peer_ms, 11, 3 },
    { "times", "times", times_faster, 6, 2 }
};

static void print_group(const group *g)
{
    if (g->first == g->end) return;
    printf("\n%s\n%-52s %-8s threads", g->title, "", "");
    for (int c = 0; c < COUNT_OF(columns); c++) printf(" %*s", columns[c].width, columns[c].title);
    for (int i = g->first; i < g->end; i++) {
        const item *it = &items[i];
        int same = i > g->first && same_work(it, it - 1);
        printf("\n%-52s %-8s %7d", same ? "" : it->name, same || !strcmp(it->way, "default") ? "" : it->way, it->threads);
        for (int c = 0; c < COUNT_OF(columns); c++) {
            double value = columns[c].value(it);
            if (value == value) printf(" %*.*f", columns[c].width, columns[c].digits, value);
            else printf(" %*s", columns[c].width, "");
        }
        if (it->peers.median > 0) printf("  %s", it->variant);
    }
    printf("\n");
    fflush(stdout);
}

static void print_memory(FILE *file)
{
    if (peak_memory[0] <= 0) return;
    fprintf(file, "\nU-Net 16, 256x256, batch 8, three training steps: peak of memory %.0f MB", peak_memory[0]);
    if (peak_memory[1] > 0) fprintf(file, "; PyTorch %.0f MB: %.2f times", peak_memory[1], peak_memory[0] / peak_memory[1]);
    fprintf(file, "\n");
}

static FILE *open_results(const char *path)
{
    FILE *file = fopen(path, "w");
    if (!file) stop("cannot write the results");
    return file;
}

static void write_json(const char *path, const char *processor)
{
    FILE *file = open_results(path);
    fprintf(file, "{\n  \"tinytl\": \"%s\",\n  \"processor\": \"%s\",\n  \"isa\": \"%s\",\n  \"peer\": \"%s\",\n", TINYTL_VERSION,
            processor, tl_isa_name(isa_used), peers[0].name);
    fprintf(file, "  \"rounds\": %d,\n  \"unet_training_peak_mb\": %.1f,\n  \"unet_training_peak_mb_peer\": %.1f,\n", rounds,
            peak_memory[0], peak_memory[1]);
    fprintf(file, "  \"results\": [\n");
    for (int i = 0; i < item_count; i++) {
        const item *it = &items[i];
        fprintf(file, "    {\"name\": \"%s\", \"way\": \"%s\", \"threads\": %d, \"ms_min\": %.6g", it->name, it->way, it->threads,
                it->ours.seconds[0] * 1e3);
        for (int c = 0; c < COUNT_OF(columns); c++) {
            double value = columns[c].value(it);
            if (value == value) fprintf(file, ", \"%s\": %.5g", columns[c].key, value);
        }
        if (it->peers.median > 0) fprintf(file, ", \"peer_variant\": \"%s\"", it->variant);
        fprintf(file, "}%s\n", i + 1 < item_count ? "," : "");
    }
    fprintf(file, "  ]\n}\n");
    if (fclose(file) != 0) stop("cannot write the results");
}

// A row holds the figures at one thread and at all of them, "one / all".
static void write_markdown(const char *path, const char *processor)
{
    FILE *file = open_results(path);
    fprintf(file, "tinytl %s on %s, %s kernels, medians of up to %d rounds%s%s.\n", TINYTL_VERSION, processor, tl_isa_name(isa_used),
            rounds, peers[0].name[0] ? ", beside " : "", peers[0].name);
    fprintf(file, "Each cell: at 1%s.\n", pool_count > 1 ? " / at all threads" : " thread");
    for (int g = 0; g < group_count; g++) {
        if (groups[g].first == groups[g].end) continue;
        fprintf(file, "\n%s\n\n| |", groups[g].title);
        for (int c = 0; c < COUNT_OF(columns); c++) fprintf(file, " %s |", columns[c].title);
        fprintf(file, "\n|---|");
        for (int c = 0; c < COUNT_OF(columns); c++) fprintf(file, "---|");
        for (int i = groups[g].first, end; i < groups[g].end; i = end) {
            for (end = i + 1; end < groups[g].end && same_work(&items[i], &items[end]); end++) { }
            fprintf(file, "\n| %s%s%s |", items[i].name, strcmp(items[i].way, "default") ? ", " : "",
                    strcmp(items[i].way, "default") ? items[i].way : "");
            for (int c = 0; c < COUNT_OF(columns); c++) {
                const char *between = " ";
                for (int k = i; k < end; k++) {
                    double value = columns[c].value(&items[k]);
                    if (value != value) continue;
                    fprintf(file, "%s%.*f", between, columns[c].digits > 2 && value >= 100 ? 0 : tl__min(columns[c].digits, 2), value);
                    between = " / ";
                }
                fprintf(file, " |");
            }
        }
        fprintf(file, "\n");
    }
    print_memory(file);
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

static void end_group(void)
{
    group *g = &groups[group_count - 1];
    measure(g->first);
    g->end = item_count;
    print_group(g);
    free_networks(g->first);
}

#include "grow.h"

// ---- the program ---------------------------------------------------------------------------

static tl_isa isa_named(const char *name)
{
    for (int isa = TL_ISA_V128; isa < TL_ISA_COUNT; isa++)
        if (!strcmp(name, tl_isa_name((tl_isa)isa)) && tl_isa_available((tl_isa)isa)) return (tl_isa)isa;
    fprintf(stderr, "bench: '%s' is no option and no instruction set of this machine\n", name);
    exit(2);
}

static void start_peers(const char *command)
{
    signal(SIGPIPE, SIG_IGN);
    atexit(end_peers);
    for (int p = 0; p < pool_count; p++) start_peer(&peers[p], command, tl_pool_threads(pools[p]));
    for (int p = 0; p < pool_count; p++) {
        int here = hear(&peers[p], peers[p].name, sizeof peers[p].name);
        halt(&peers[p]);
        if (p == 0 && here) printf("beside %s, the fastest of its variants\n", peers[p].name);
        if (p == 0 && !here) printf("no peer: its columns stay empty\n");
    }
}

int main(int argc, char **argv)
{
    const char *results = argc > 1 ? argv[1] : "bench.json", *command = NULL;
    char processor[128], markdown[512];
    int threads = 0;
    program = argv[0];
    if (argc == 4 && !strcmp(argv[1], "first-prediction")) return first_prediction(argv[2], argv[3]);
    if (argc == 4 && !strcmp(argv[1], "three-steps")) return three_steps(atoi(argv[2]));
    int growing = argc > 2 && !strcmp(argv[1], "grow");
    isa_used = tl__best_isa();
    for (int i = growing ? 3 : 2; i < argc; i++) {
        if (!strcmp(argv[i], "quick")) quick = 1;
        else if (!strcmp(argv[i], "only") && i + 1 < argc) only = argv[++i];
        else if (!strcmp(argv[i], "cpu")) clock_used = CLOCK_PROCESS_CPUTIME_ID;
        else if (!strcmp(argv[i], "threads") && i + 1 < argc) threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "peer") && i + 1 < argc) command = argv[++i];
        else isa_used = isa_named(argv[i]);
    }
    if (clock_used == CLOCK_PROCESS_CPUTIME_ID) threads = 1;
    if (quick) rounds = 1;
    if (growing) rounds = GROW_ROUNDS;
    pools[pool_count++] = tl_pool_new(1);
    if (threads > 1 || (threads == 0 && tl__processors() > 1)) pools[pool_count++] = tl_pool_new(threads);
    if (!pools[pool_count - 1]) stop(tl_error(NULL));
    processor_name(processor, sizeof processor);
    printf("tinytl %s on %s, %d processors, %s kernels; medians of %d rounds\n", TINYTL_VERSION, processor, tl__processors(),
           tl_isa_name(isa_used), rounds);
    if (growing) return grow(argv[2]);
    if (command) start_peers(command);
    make_inputs();
    measure_memory();

    begin_group("Peak rate of multiply-adds");
    add_peaks();
    end_group();
    begin_group("Layers: 3x3 convolution of stride 1, channels in-out@size, batch 8; % of the peak at as many threads");
    add_layers(shapes_3x3, COUNT_OF(shapes_3x3));
    end_group();
    begin_group("Other layers and matrix products");
    add_layers(shapes_other, COUNT_OF(shapes_other));
    add_products();
    end_group();
    begin_group("Networks");
    for (int i = 0; i < COUNT_OF(networks); i++) add_network(&networks[i]);
    end_group();
    begin_group("Images and start");
    add_images();
    add_first_prediction(results);
    end_group();
    print_memory(stdout);
    write_json(results, processor);
    snprintf(markdown, sizeof markdown, "%s.md", results);
    write_markdown(markdown, processor);
    printf("\nwrote %s and %s\n", results, markdown);

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
