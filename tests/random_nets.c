// Random networks: every op, several inputs, outputs and losses, nodes that nobody uses, random keeps. Each network runs as
// planned and again without any reuse of memory (tl_keep_all), on every instruction set, at 1 and 3 threads, with a larger
// batch planned than used, and prepared for inference. The arena starts as NaN, so that whatever is read before it is written
// shows; strips behind each part of the work space must stay as they were.
//
//     random_nets [NETWORKS] [FIRST SEED]

#include "check.h"

#define NETWORK_TOLERANCE 1e-3           // of the largest value, fast against plain, values only; measured: 2.3e-5
#define FOLDED_TOLERANCE 1e-5            // the same, a batch norm inside of a convolution against one of its own
#define NODES 14
#define STRIP 64                 // tl_reals behind every part of the work space

static tl_rng dice;              // draws the network

static int roll(int n) { return (int)tl_random_below(&dice, (uint32_t)n); }

// ---- a random network ----------------------------------------------------------------------

static tl_node any(tl_net *net)             // mostly recent ones, so that networks get deep
{
    int count = tl_node_count(net);
    tl_node node = { roll(3) ? count - roll(count < 3 ? count : 3) : 1 + roll(count) };
    return node;
}

static tl_node like(tl_net *net, tl_node x, int same_channels)   // a node of the same height and width, perhaps x itself
{
    for (int tries = 0; tries < 12; tries++) {
        tl_node node = { 1 + roll(tl_node_count(net)) };
        if (tl_node_height(net, node) == tl_node_height(net, x) && tl_node_width(net, node) == tl_node_width(net, x) &&
            (!same_channels || tl_node_channels(net, node) == tl_node_channels(net, x))) return node;
    }
    return x;
}

static tl_node grow_conv(tl_net *net, tl_node x, int transposed)
{
    int c = tl_node_channels(net, x), kernel = roll(2) ? 3 : 1 + roll(4), dilation = roll(4) ? 1 : 2;
    int groups = roll(4) ? 1 : roll(2) ? c : c % 2 == 0 ? 2 : 1, out = groups * (1 + roll(groups == 1 ? 36 : 2));
    if (groups == 1 && roll(2)) out = 16 * (1 + roll(2));                  // what Winograd takes
    if (transposed) {
        tl_conv_transpose2d_desc d;
        memset(&d, 0, sizeof d);
        d.out = out; d.kernel = kernel; d.stride = 1 + roll(2); d.groups = groups; d.dilation = dilation; d.no_bias = !roll(4);
        if (d.stride == 2 && !roll(2)) d.output_pad = 1;
        return tl_conv_transpose2d(net, x, &d);
    }
    tl_conv2d_desc d;
    memset(&d, 0, sizeof d);
    d.out = out; d.kernel = kernel; d.groups = groups; d.dilation = dilation; d.no_bias = !roll(4);
    if (roll(2)) d.same = 1;
    else { d.stride = 1 + roll(2); d.pad = dilation * (kernel - 1) - roll(2) * (dilation * (kernel - 1) / 2); }
    return tl_conv2d(net, x, &d);
}

// A residual block whose nodes come in an order that few people would write: long between a batch norm and its ReLU.
static void grow_block(tl_net *net, tl_node x)
{
    tl_conv2d_desc d;
    memset(&d, 0, sizeof d);
    d.out = roll(2) ? 16 : 8; d.kernel = 3; d.pad = 1;
    tl_node a = tl_conv2d(net, x, &d), b = tl_conv2d(net, a, &d);
    tl_node n = tl_batch_norm(net, a, NULL);
    for (int i = 0; i < 1 + roll(3); i++) b = roll(3) ? tl_conv2d(net, b, &d) : tl_relu(net, b);
    tl_add(net, tl_relu(net, n), b);
}

static void grow(tl_net *net)
{
    tl_node x = any(net), pair[3];
    int h = tl_node_height(net, x), w = tl_node_width(net, x), c = tl_node_channels(net, x), big = h * w * c > 3000 || c > 150;
    tl_norm_desc norm;
    tl_pool2d_desc pool;
    tl_dense_desc dense;
    memset(&norm, 0, sizeof norm);
    memset(&pool, 0, sizeof pool);
    memset(&dense, 0, sizeof dense);
    norm.no_affine = !roll(4);
    pool.kernel = 2 + roll(2); pool.stride = 1 + roll(2); pool.pad = roll(2); pool.ceil_mode = roll(2); pool.exclude_pad = roll(2);
    dense.out = 1 + roll(20);
    switch (roll(27)) {
    case 0: case 1: case 2: case 3: grow_conv(net, x, 0); break;
    case 4: if (h * w < 200) grow_conv(net, x, 1); break;
    case 5: if (!roll(3)) tl_dense(net, x, &dense); else if (h * w < 200) grow_block(net, x); break;
    case 6: case 7: tl_batch_norm(net, x, &norm); break;
    case 8:                                                                   // often foldable
        if (h * w < 200) { grow_conv(net, x, !roll(4)); x = tl_batch_norm(net, tl_last(net), &norm); if (roll(2)) tl_relu(net, x); }
        break;
    case 9: norm.groups = c % 2 ? 1 : 2; tl_group_norm(net, x, &norm); break;
    case 10: tl_layer_norm(net, x, &norm); break;
    case 11: case 12: case 13:
        for (int i = 1; i <= tl_node_count(net) && roll(2); i++) {            // often behind an early batch norm
            tl_node early = { i };
            if (tl_node_op(net, early) == TL_OP_BATCH_NORM) x = early;
        }
        tl_relu(net, x);
        break;
    case 14: if (roll(2)) tl_leaky_relu(net, x, 0.1f); else tl_relu6(net, x); break;
    case 15: if (roll(2)) tl_sigmoid(net, x); else tl_tanh(net, x); break;
    case 16: if (roll(2)) tl_gelu(net, x); else tl_silu(net, x); break;
    case 17: tl_softmax(net, x); break;
    case 18: if (h > 3 && w > 3) tl_max_pool2d(net, x, &pool); break;
    case 19: if (h > 3 && w > 3) tl_avg_pool2d(net, x, &pool); break;
    case 20: tl_adaptive_avg_pool2d(net, x, 1 + roll(4), 1 + roll(4)); break;
    case 21: if (!big && h * w < 150) tl_upsample(net, x, 2, roll(2) ? TL_BILINEAR : TL_NEAREST); break;
    case 22: pair[0] = x; pair[1] = like(net, x, 0); pair[2] = like(net, x, 0); if (!big) tl_concat(net, pair, 1 + roll(3)); break;
    case 23: tl_add(net, x, like(net, x, 1)); break;
    case 24: tl_mul(net, x, roll(2) ? like(net, x, 1) : tl_global_avg_pool2d(net, x)); break;
    case 25: tl_flatten(net, x); break;
    case 26: tl_dropout(net, x, 0.3f); break;
    }
}

static void add_random_loss(tl_net *net, tl_node x)
{
    tl_loss_desc d;
    memset(&d, 0, sizeof d);
    d.kind = (tl_loss_kind)(1 + roll(TL_LOSS_COUNT - 1));
    d.weight = 0.5f + (float)roll(3);
    int sigmoid = d.kind == TL_BCE || d.kind == TL_DICE || d.kind == TL_FOCAL;
    if (tl_node_channels(net, x) == 1 && d.kind == TL_CROSS_ENTROPY) d.kind = TL_BCE;
    d.dense = d.kind >= TL_MSE || (sigmoid && tl_node_channels(net, x) > 1 ? d.kind == TL_BCE || roll(2) : roll(2));
    tl_loss(net, x, &d);
}

// The network as text; keep[i] says which nodes to keep.
static char *draw(uint64_t seed, int keep[64])
{
    dice = tl_rng_at(seed, TL_RANDOM_USER, 0, 0, 0);
    tl_net_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.threads = 1;
    tl_net *net = tl_net_new(&desc);
    int inputs = 1 + roll(3), h = roll(4) ? 1 + roll(18) : 4, w = roll(4) ? 1 + roll(18) : 4, wanted = 2 + roll(NODES);
    for (int i = 0; i < inputs; i++) tl_input(net, h, w, 1 + roll(i ? 20 : 4));
    for (int tries = 0; tries < 100 && tl_node_count(net) < inputs + wanted; tries++) grow(net);
    int outputs = roll(3), losses = 1 + roll(3);
    for (int i = 0; i < outputs; i++) tl_output(net, any(net));
    for (int i = 0; i < losses; i++) add_random_loss(net, any(net));
    CHECK(tl_status(net) == TL_OK, "seed %llu: %s", (unsigned long long)seed, tl_error(net));
    for (int i = 0; i < 64; i++) keep[i] = !roll(6);
    size_t length = tl_to_text(net, NULL, 0);
    char *text = (char *)tl__alloc(length + 1, 1);
    tl_to_text(net, text, length + 1);
    tl_net_free(net);
    return text;
}

// ---- one run -------------------------------------------------------------------------------

typedef struct setting {
    tl_isa isa;
    int threads, planned, keep_all, train, recompute, winograd;
} setting;

typedef struct net_outcome {
    double *values;
    size_t  count, begin[128];
    char    name[128][TL_NAME_MAX + 24];
    int     again;               // nodes computed a second time
    int     parts, folded;       // folded: batch norms that are part of a convolution
} net_outcome;

static void take_outcome(net_outcome *out, const char *what, const char *name, const tl_real *values, size_t count)
{
    if (out->parts >= 127) return;
    double *grown = (double *)tl__grow(out->values, out->count, out->count + count, sizeof *grown);
    for (size_t i = 0; i < count; i++) grown[out->count + i] = (double)values[i];
    out->values = grown;
    snprintf(out->name[out->parts], sizeof out->name[0], "%s %s", what, name);
    out->begin[out->parts++] = out->count;
    out->begin[out->parts] = out->count += count;
}

// Gives the work space strips that nobody may write and fills the arena with NaN.
static void poison(tl_net *net)
{
    size_t shared = 0, worker = 0;
    for (int i = 0; i < net->node_count; i++) {
        tl__scratch need = tl__node_scratch(net, i, net->batch_max, net->trainable);
        shared = tl__max_size(shared, need.shared);
        worker = tl__max_size(worker, need.worker);
    }
    net->scratch_shared = (shared + STRIP + 15) / 16 * 16;
    net->scratch_worker = (worker + STRIP + 15) / 16 * 16;
    tl__free_block(net->arena);
    net->arena_count = net->scratch_at + net->scratch_shared + net->scratch_worker * (size_t)tl_pool_threads(net->pool);
    net->arena = tl__alloc_block(net->arena_count);
    memset(net->arena, 0xFF, net->arena_count * sizeof *net->arena);
    tl__bind_arena(net);
}

static int strip_is_clean(const tl_real *strip)
{
    const unsigned char *bytes = (const unsigned char *)strip;
    for (size_t i = 0; i < STRIP / 2 * sizeof *strip; i++) if (bytes[i] != 0xFF) return 0;
    return 1;
}

static void check_strips(const tl_net *net, uint64_t seed, const char *when)
{
    size_t shared = 0, worker = 0;
    for (int i = 0; i < net->node_count; i++) {
        tl__scratch need = tl__node_scratch((tl_net *)net, i, net->batch_max, net->trainable);
        shared = tl__max_size(shared, need.shared);
        worker = tl__max_size(worker, need.worker);
    }
    const tl_real *at = net->arena + net->scratch_at;
    CHECK(strip_is_clean(at + shared), "seed %llu: something wrote behind the shared work space (%s)", (unsigned long long)seed, when);
    for (int k = 0; k < tl_pool_threads(net->pool); k++)
        CHECK(strip_is_clean(at + net->scratch_shared + net->scratch_worker * (size_t)k + worker),
              "seed %llu: something wrote behind the work space of worker %d (%s)", (unsigned long long)seed, k, when);
}

static void fill_network(tl_net *net, int batch, uint32_t pass)
{
    for (int i = 0; i < net->node_count; i++) {
        tl__node *node = &net->nodes[i];
        if (node->op != TL_OP_INPUT) continue;
        tl_rng rng = tl_rng_at(5, TL_RANDOM_USER, pass, 0, (uint32_t)i);
        size_t count = tl__sample_count(node) * (size_t)batch;
        tl_real *values = (tl_real *)tl__alloc(count, sizeof *values);
        tl_node id = { i + 1 };
        for (size_t k = 0; k < count; k++) values[k] = (tl_real)tl_random_normal(&rng);
        CHECK(tl_set_input(net, id, values, batch) == TL_OK, "%s", tl_error(net));
        tl__free(values);
    }
    for (int i = 0; i < net->loss_count; i++) {
        const tl__loss_term *term = &net->losses[i];
        const tl__node *x = &net->nodes[term->node];
        size_t count = (size_t)batch * x->h * x->w * (term->dense ? x->c : 1);
        tl_rng rng = tl_rng_at(7, TL_RANDOM_USER, pass, 0, (uint32_t)term->target_of);
        int32_t *classes = (int32_t *)tl__alloc(count, sizeof *classes);
        tl_real *dense = (tl_real *)tl__alloc(count, sizeof *dense);
        for (size_t k = 0; k < count; k++) {
            classes[k] = (int32_t)tl_random_below(&rng, (uint32_t)(x->c == 1 ? 2 : x->c)) - !tl_random_below(&rng, 6);
            dense[k] = (tl_real)tl_random_uniform(&rng, 0, 1);
        }
        tl_result r = term->dense ? tl_set_target_dense(net, i, dense, batch) : tl_set_target_index(net, i, classes, batch);
        CHECK(r == TL_OK, "%s", tl_error(net));
        tl__free(classes);
        tl__free(dense);
    }
}

static void take_nodes(tl_net *net, const char *what, int batch, const int *keep, net_outcome *out)
{
    for (int i = 0; i < net->node_count; i++) {
        if (!keep[i % 64] && !tl__is_output(net, i)) continue;
        tl_node id = { i + 1 };
        const tl_real *data = tl_data(net, id);
        CHECK(data != NULL, "%s is kept, but %s", tl_node_name(net, id), tl_error(net));
        if (data) take_outcome(out, what, tl_node_name(net, id), data, tl__sample_count(&net->nodes[i]) * (size_t)batch);
    }
}

static void take_gradients(tl_net *net, int batch, const int *keep, net_outcome *out)
{
    for (int i = 0; i < net->node_count; i++) {
        tl_node id = { i + 1 };
        if (!keep[i % 64] || net->nodes[i].op == TL_OP_INPUT) continue;
        const tl_real *grad = net->nodes[i].grad_lives ? tl_grad(net, id) : NULL;
        if (grad) take_outcome(out, "gradient at", net->nodes[i].name, grad, tl__sample_count(&net->nodes[i]) * (size_t)batch);
    }
    for (int i = 0; i < net->tensor_count; i++)
        if (net->tensors[i].trained) take_outcome(out, "gradient of", net->tensors[i].name, net->gradients + net->tensors[i].at, net->tensors[i].count);
        else take_outcome(out, "buffer", net->tensors[i].name, net->buffers + net->tensors[i].at, net->tensors[i].count);
}

static void run_network(const char *text, const int *keep, uint64_t seed, int batch, setting s, net_outcome *out)
{
    tl_net_desc desc;
    memset(&desc, 0, sizeof desc);
    memset(out, 0, sizeof *out);
    desc.seed = 3; desc.isa = s.isa; desc.threads = s.threads; desc.recompute = s.recompute; desc.winograd = s.winograd;
    tl_net *net = tl_net_new(&desc);
    CHECK(tl_parse(net, text) == TL_OK, "seed %llu: %s", (unsigned long long)seed, tl_error(net));
    for (int i = 0; i < net->node_count; i++) {
        tl_node id = { i + 1 };
        if (s.keep_all || keep[i % 64]) if (net->nodes[i].op != TL_OP_INPUT || keep[i % 64]) tl_keep(net, id);
    }
    tl_plan plan;
    CHECK(tl_memory(net, s.planned, s.train, &plan) == TL_OK && tl_prepare(net, s.planned, s.train) == TL_OK, "seed %llu: %s",
          (unsigned long long)seed, tl_error(net));
    CHECK(plan.activations + plan.scratch == net->arena_count * sizeof(tl_real), "seed %llu: the plan is not what was taken",
          (unsigned long long)seed);
    for (int i = 0; i < net->node_count; i++) {
        out->folded += net->nodes[i].op == TL_OP_BATCH_NORM && net->nodes[i].folded;
        out->again += net->nodes[i].again;
    }
    poison(net);
    if (s.train) {
        for (uint32_t pass = 0; pass < 2; pass++) {       // the second pass finds the arena used, and adds to the gradients
            fill_network(net, batch, pass);
            if (tl_forward(net, batch, TL_TRAIN)) break;  // one value per channel in a batch norm
            take_nodes(net, pass ? "second" : "first", batch, keep, out);
            tl_real value = (tl_real)tl_loss_value(net);
            take_outcome(out, "loss", "", &value, 1);
            CHECK(tl_backward(net) == TL_OK, "seed %llu: %s", (unsigned long long)seed, tl_error(net));
            take_gradients(net, batch, keep, out);
        }
        check_strips(net, seed, "training");
        for (int i = 0; i < net->node_count; i++) {       // from one output alone
            const tl__node *node = &net->nodes[i];
            if (!tl__is_output(net, i) || !node->wants_grad) continue;
            size_t count = tl__sample_count(node) * (size_t)batch;
            tl_real *grad = (tl_real *)tl__alloc(count, sizeof *grad);
            tl_rng rng = tl_rng_at(8, TL_RANDOM_USER, 0, 0, 0);
            for (size_t k = 0; k < count; k++) grad[k] = (tl_real)tl_random_normal(&rng);
            const tl_real *grads[1];
            tl_node id = { i + 1 };
            grads[0] = grad;
            fill_network(net, batch, 3);
            tl_zero_grad(net);
            if (tl_forward(net, batch, TL_TRAIN) == TL_OK) {
                CHECK(tl_backward_from(net, &id, grads, 1) == TL_OK, "seed %llu: %s", (unsigned long long)seed, tl_error(net));
                take_gradients(net, batch, keep, out);
            }
            tl__free(grad);
            break;
        }
    }
    // A pass in eval mode, with running statistics that do not depend on the passes before.
    for (size_t i = 0; i < net->buffer_count; i++) net->buffers[i] = (tl_real)(0.5 + 0.01 * (double)(i % 13));
    fill_network(net, batch, 2);
    CHECK(tl_forward(net, batch, TL_EVAL) == TL_OK, "seed %llu: %s", (unsigned long long)seed, tl_error(net));
    if (!s.train) out->count = 0, out->parts = 0;
    take_nodes(net, "eval", batch, keep, out);
    tl_real value = (tl_real)tl_loss_value(net);
    take_outcome(out, "eval", "loss", &value, 1);
    check_strips(net, seed, "eval");
    tl_net_free(net);
}

// ---- comparisons ---------------------------------------------------------------------------

static double worst_network;

// Parts of `got` against the last parts of `want`; tolerance 0: the same bits.
static int compare_runs(const net_outcome *want, const net_outcome *got, double tolerance, uint64_t seed, const char *what)
{
    int offset = want->parts - got->parts, bad = 0;
    CHECK(offset >= 0, "seed %llu, %s: more parts", (unsigned long long)seed, what);
    for (int p = 0; p < got->parts && offset >= 0 && !bad; p++) {
        size_t a = want->begin[p + offset], b = got->begin[p], n = got->begin[p + 1] - b;
        double largest = tolerance > 0 ? 0.3 : 1e-2, worst = 0;
        if (tolerance > 0 && strncmp(got->name[p], "gradient", 8) == 0) continue;   // rounding at a kink decides; ops.c has them
        if (n != want->begin[p + offset + 1] - a) { CHECK(0, "seed %llu, %s: %s has another size", (unsigned long long)seed, what, got->name[p]); return 0; }
        for (size_t i = 0; i < n; i++) {
            double x = want->values[a + i], y = got->values[b + i], d = fabs(x - y);
            largest = fmax(largest, fabs(x));
            if (!(d <= worst)) worst = d - d == 0 ? d : INFINITY;
        }
        if (tolerance > 0) worst_network = fmax(worst_network, worst / largest);
        bad = !(worst <= tolerance * largest);
        CHECK(!bad, "seed %llu, %s: %s differs by %.3g of %.3g", (unsigned long long)seed, what, got->name[p], worst, largest);
    }
    return !bad;
}

static int verbose, skip_isa, folded_norms, recomputed;

static void test_network(uint64_t seed)
{
    int keep[64], bad = checks_failed;
    char *text = draw(seed, keep);
    int batch = 1 + roll(roll(3) ? 4 : 20);
    if (verbose) printf("%s", text);
    net_outcome planned, other, threads;
    setting base = { TL_ISA_AUTO, 1, batch, 0, 1, 0, 0 }, s = base;
    run_network(text, keep, seed, batch, base, &planned);
    for (size_t i = 0; i < planned.count; i++)
        if (!(planned.values[i] - planned.values[i] == 0)) { printf("seed %llu: not finite\n", (unsigned long long)seed); break; }
    s.keep_all = 1;
    run_network(text, keep, seed, batch, s, &other);
    compare_runs(&other, &planned, 0, seed, "planned against keep_all");
    tl__free(other.values);
    s = base; s.threads = 3; s.planned = batch + 1 + roll(24);
    run_network(text, keep, seed, batch, s, &other);
    compare_runs(&planned, &other, 0, seed, "3 threads and a larger batch planned");
    tl__free(other.values);
    s = base; s.recompute = 1;
    run_network(text, keep, seed, batch, s, &other);
    compare_runs(&planned, &other, 0, seed, "activations computed again");
    recomputed += other.again;
    tl__free(other.values);
    s = base; s.winograd = 1;
    run_network(text, keep, seed, batch, s, &other);
    compare_runs(&planned, &other, NETWORK_TOLERANCE, seed, "Winograd wherever it is possible");
    tl__free(other.values);
    s = base; s.train = 0;
    run_network(text, keep, seed, batch, s, &other);
    folded_norms += other.folded;
    compare_runs(&planned, &other, other.folded ? FOLDED_TOLERANCE : 0, seed, "prepared for inference");
    s.threads = 3;
    run_network(text, keep, seed, batch, s, &threads);
    compare_runs(&other, &threads, 0, seed, "prepared for inference, 3 threads");
    tl__free(other.values);
    tl__free(threads.values);
    for (int isa = TL_ISA_PLAIN; isa < TL_ISA_COUNT && !skip_isa; isa++) {
        if (!tl_isa_available((tl_isa)isa) || (tl_isa)isa == tl__best_isa()) continue;
        s = base; s.isa = (tl_isa)isa;
        run_network(text, keep, seed, batch, s, &other);
        if (!compare_runs(&planned, &other, NETWORK_TOLERANCE, seed, tl_isa_name((tl_isa)isa)) && verbose) printf("   isa\n");
        tl__free(other.values);
    }
    tl__free(planned.values);
    if (checks_failed > bad && (verbose || checks_failed < 40)) {
        printf("--- seed %llu, batch %d, keep", (unsigned long long)seed, batch);
        for (int i = 0; i < 24; i++) printf(" %d", keep[i]);
        printf("\n%s", text);
    }
    tl__free(text);
}

MAIN(random_nets, int argc, char **argv)
{
    int count = argc > 1 ? atoi(argv[1]) : 100;
    uint64_t first = argc > 2 ? (uint64_t)atoi(argv[2]) : 0;
    if (argc > 3) skip_isa = atoi(argv[3]);
    for (int i = 0; i < count; i++) test_network(first + (uint64_t)i);
    CHECK(folded_norms >= count / 10, "only %d batch norms became part of a convolution", folded_norms);
    CHECK(recomputed >= count / 2, "only %d nodes were computed again", recomputed);
    printf("  fast kernels and folded batch norms differ from plain ones by at most %.2g of the largest value\n", worst_network);
    return finish("random networks");
}
