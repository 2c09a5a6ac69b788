// Compares tinytl with numbers from PyTorch (tests/golden/, written by tools/golden.py). Built twice: with TINYTL_DOUBLE, where
// the two agree to rounding, and in float, where the fast kernels of every instruction set must come close.

#include "check.h"

#ifdef TINYTL_DOUBLE
    #define OP_TOLERANCE 1e-9        // relative to the largest value of the tensor
    #define CURVE_TOLERANCE 1e-7
    #define RULE_TOLERANCE 1e-6      // options are floats: 0.999f is not 0.999
#else
    #define OP_TOLERANCE 2e-5
    #define CURVE_TOLERANCE 1e-4
    #define RULE_TOLERANCE 1e-6
#endif

static tl__archive golden_archive;

// A tensor of the archive as doubles in its file order; NULL if there is none.
static double *values_of(const char *name, size_t *count)
{
    const tl__archive_tensor *t = tl__archive_find(&golden_archive, name);
    if (!t) return NULL;
    double *values = (double *)tl__alloc(t->count, sizeof *values);
    for (size_t i = 0; i < t->count; i++) values[i] = tl__archive_value(t, i);
    *count = t->count;
    return values;
}

// Some gradients are zero because terms of order one cancel (a bias before a batch norm), and keep the rounding of about a hundred
// terms. Differences count relative to at least this; the double build, where rounding is nothing, stays strict.
#define SMALLEST (sizeof(tl_real) == 8 ? 1e-3 : 5e-2)

// Largest difference, relative to the largest wanted value; infinite if sizes differ or a value is not finite.
static double difference(const tl_real *got, const double *want, size_t count)
{
    double largest = SMALLEST, worst = 0;
    for (size_t i = 0; i < count; i++) largest = fmax(largest, fabs(want[i]));
    for (size_t i = 0; i < count; i++) {
        double d = fabs((double)got[i] - want[i]);
        if (!(d <= worst)) worst = d - d == 0 ? d : INFINITY;
    }
    return worst / largest;
}

// A parameter in torch's order.
static void to_file_order(const tl__tensor *t, const tl_real *data, tl_real *out)
{
    tl__view v = tl__view_of(t);
    for (size_t a = 0; a < v.n[0]; a++)
    for (size_t b = 0; b < v.n[1]; b++)
    for (size_t c = 0; c < v.n[2]; c++)
    for (size_t d = 0; d < v.n[3]; d++) *out++ = data[a * v.step[0] + b * v.step[1] + c * v.step[2] + d * v.step[3]];
}

static void from_file_order(const tl__tensor *t, const double *file, tl_real *data)
{
    tl__view v = tl__view_of(t);
    for (size_t a = 0; a < v.n[0]; a++)
    for (size_t b = 0; b < v.n[1]; b++)
    for (size_t c = 0; c < v.n[2]; c++)
    for (size_t d = 0; d < v.n[3]; d++) data[a * v.step[0] + b * v.step[1] + c * v.step[2] + d * v.step[3]] = (tl_real)*file++;
}

static char name_buffer[512];
static const char *name_of(const char *test, const char *kind, const char *what)
{
    snprintf(name_buffer, sizeof name_buffer, "%s/%s/%s", test, kind, what);
    return name_buffer;
}

// Compares the tensor `kind/what` of a case with `got`, if the archive has it.
static void compare(const char *test, const char *kind, const char *what, const tl_real *got, size_t count)
{
    size_t wanted_count = 0;
    double *want = values_of(name_of(test, kind, what), &wanted_count);
    if (!want) return;
    double d = wanted_count == count && got ? difference(got, want, count) : INFINITY;
    CHECK(d <= OP_TOLERANCE, "%s: %s of %s differs by %.3g", test, kind, what, d);
    tl__free(want);
}

static void compare_params(tl_net *net, const char *test, const char *kind, int trained)
{
    for (int i = 0; i < net->tensor_count; i++) {
        const tl__tensor *t = &net->tensors[i];
        if (t->trained != trained) continue;
        tl_real *file = (tl_real *)tl__alloc(t->count, sizeof *file);
        to_file_order(t, (strcmp(kind, "gparam") == 0 ? net->gradients : trained ? net->parameters : net->buffers) + t->at, file);
        compare(test, kind, t->name, file, t->count);
        tl__free(file);
    }
}

// "# fc1.weight[i] = sin(i)*0.05": weights by formula, to keep the file small.
static int by_formula(const char *text, const tl__tensor *t, double *out)
{
    char line[TL_NAME_MAX + 32];
    snprintf(line, sizeof line, "# %s[i] = sin(i)*0.05", t->name);
    if (!strstr(text, line)) return 0;
    for (size_t i = 0; i < t->count; i++) out[i] = sin((double)i) * 0.05;
    return 1;
}

static void set_params(tl_net *net, const char *test, const char *text)
{
    for (int i = 0; i < net->tensor_count; i++) {
        const tl__tensor *t = &net->tensors[i];
        size_t count = 0;
        double *values = values_of(name_of(test, t->trained ? "param" : "buffer", t->name), &count);
        if (!values && t->trained) {
            values = (double *)tl__alloc(t->count, sizeof *values);
            count = by_formula(text, t, values) ? t->count : 0;
        }
        if (!values) continue;
        CHECK(count == t->count, "%s: %s has %zu values, not %zu", test, t->name, count, t->count);
        if (count == t->count) from_file_order(t, values, (t->trained ? net->parameters : net->buffers) + t->at);
        tl__free(values);
    }
}

// Inputs and targets; returns the batch.
static int set_data(tl_net *net, const char *test)
{
    int batch = 0;
    for (int i = 0; i < net->node_count; i++) {
        tl__node *node = &net->nodes[i];
        size_t count = 0;
        double *values = node->op == TL_OP_INPUT ? values_of(name_of(test, "in", node->name), &count) : NULL;
        if (!values) continue;
        batch = (int)(count / tl__sample_count(node));
        for (size_t k = 0; k < count; k++) node->data[k] = (tl_real)values[k];
        node->samples = batch;
        tl__free(values);
    }
    for (int i = 0; i < net->loss_count; i++) {
        char term[16];
        size_t count = 0;
        snprintf(term, sizeof term, "%d", i);
        double *values = values_of(name_of(test, "target_index", term), &count);
        if (values) {
            int32_t *classes = (int32_t *)tl__alloc(count, sizeof *classes);
            for (size_t k = 0; k < count; k++) classes[k] = (int32_t)values[k];
            CHECK(tl_set_target_index(net, i, classes, batch) == TL_OK, "%s: %s", test, tl_error(NULL));
            tl__free(classes);
            tl__free(values);
        }
        values = values_of(name_of(test, "target_dense", term), &count);
        if (values) {
            tl_real *dense = (tl_real *)tl__alloc(count, sizeof *dense);
            for (size_t k = 0; k < count; k++) dense[k] = (tl_real)values[k];
            CHECK(tl_set_target_dense(net, i, dense, batch) == TL_OK, "%s: %s", test, tl_error(NULL));
            tl__free(dense);
            tl__free(values);
        }
        values = values_of(name_of(test, "target_weight", term), &count);
        if (values) {
            tl_real *weights = (tl_real *)tl__alloc(count, sizeof *weights);
            for (size_t k = 0; k < count; k++) weights[k] = (tl_real)values[k];
            CHECK(tl_set_target_weight(net, i, weights, batch) == TL_OK, "%s: %s", test, tl_error(NULL));
            tl__free(weights);
            tl__free(values);
        }
    }
    return batch;
}

// The batch of a case: samples of its first input.
static int batch_of(tl_net *net, const char *test)
{
    for (int i = 0; i < net->node_count; i++) {
        const tl__archive_tensor *t = tl__archive_find(&golden_archive, name_of(test, "in", net->nodes[i].name));
        if (t) return (int)(t->count / tl__sample_count(&net->nodes[i]));
    }
    return 1;
}

// Backward from the given gradients of outputs, or from the losses.
static void run_backward(tl_net *net, const char *test)
{
    tl_node nodes[8];
    tl_real *grads[8];
    int count = 0;
    for (int i = 0; i < net->node_count && count < 8; i++) {
        size_t values = 0;
        double *gout = values_of(name_of(test, "gout", net->nodes[i].name), &values);
        if (!gout) continue;
        nodes[count].id = i + 1;
        grads[count] = (tl_real *)tl__alloc(values, sizeof **grads);
        for (size_t k = 0; k < values; k++) grads[count][k] = (tl_real)gout[k];
        count++;
        tl__free(gout);
    }
    tl_result result = count ? tl_backward_from(net, nodes, (const tl_real *const *)grads, count) : tl_backward(net);
    CHECK(result == TL_OK, "%s: backward: %s", test, tl_error(net));
    for (int i = 0; i < count; i++) tl__free(grads[i]);
}

static void check_loss(tl_net *net, const char *test)
{
    size_t count = 0;
    double *want = values_of(name_of(test, "loss", "total"), &count);
    if (!want) return;
    double got = tl_loss_value(net), d = fabs(got - *want) / fmax(fabs(*want), 1e-3);
    CHECK(d <= OP_TOLERANCE, "%s: loss %.12g, wanted %.12g", test, got, *want);
    tl__free(want);
}

static tl_net *network_of(const char *text, tl_isa isa, int threads)
{
    tl_net_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.isa = isa;
    desc.threads = threads;
    tl_net *net = tl_net_new(&desc);
    size_t length = strlen(text);
    char *copy = (char *)tl__alloc(length + 1, 1);       // without the optimizer line, which is not part of a network
    memcpy(copy, text, length);
    char *line = strstr(copy, "optimizer ");
    if (line && (line == copy || line[-1] == '\n')) *line = 0;
    tl_parse(net, copy);
    tl__free(copy);
    return net;
}

static void mark_outputs(tl_net *net, const char *test)
{
    for (int i = 0; i < net->node_count; i++) {
        tl_node node = { i + 1 };
        if (tl__archive_find(&golden_archive, name_of(test, "gout", net->nodes[i].name))) tl_output(net, node);
        if (net->nodes[i].op == TL_OP_INPUT || tl__archive_find(&golden_archive, name_of(test, "out", net->nodes[i].name))) tl_keep(net, node);
    }
}

static void run_network_case(const char *test, const char *text, tl_isa isa)
{
    int eval = strstr(text, "# mode=eval") != NULL;
    tl_net *net = network_of(text, isa, 2);
    CHECK(net->status == TL_OK, "%s: %s", test, tl_error(net));
    if (!net->status) mark_outputs(net, test);
    if (net->status || tl_prepare(net, batch_of(net, test), !eval)) {
        CHECK(0, "%s: %s", test, tl_error(net));
        tl_net_free(net);
        return;
    }
    set_params(net, test, text);
    int batch = set_data(net, test);
    CHECK(tl_forward(net, batch, eval ? TL_EVAL : TL_TRAIN) == TL_OK, "%s: %s", test, tl_error(net));
    for (int i = 0; i < net->node_count; i++)
        compare(test, "out", net->nodes[i].name, net->nodes[i].data, tl__sample_count(&net->nodes[i]) * (size_t)batch);
    compare_params(net, test, "buffer_after", 0);
    if (net->loss_count) check_loss(net, test);
    if (!eval) {
        run_backward(net, test);
        for (int i = 0; i < net->node_count; i++)
            compare(test, "gin", net->nodes[i].name, net->nodes[i].grad, tl__sample_count(&net->nodes[i]) * (size_t)batch);
        compare_params(net, test, "gparam", 1);
    }
    tl_net_free(net);
}

// ---- optimisers and schedules --------------------------------------------------------------

static const char *word_after(const char *at, char *word, size_t size)
{
    size_t n = 0;
    while (*at == ' ') at++;
    while (*at && *at != ' ' && *at != '\n' && *at != '=' && n + 1 < size) word[n++] = *at++;
    word[n] = 0;
    return at;
}

static int index_of(const char *word, const char *const *list, int count)
{
    for (int i = 0; i < count; i++) if (strcmp(word, list[i]) == 0) return i;
    return -1;
}

static void parse_rule(const char *text, tl_optimizer_desc *desc)
{
    static const char *const kinds[] = { "none", "sgd", "adagrad", "rmsprop", "adam", "adamw", "lion" };
    static const char *const schedules[] = { "constant", "step_decay", "warmup_cosine", "warm_restarts", "one_cycle" };
    char word[64], value[64];
    memset(desc, 0, sizeof *desc);
    while (*text) {
        text = word_after(text, word, sizeof word);
        if (*text == '=') {
            text = word_after(text + 1, value, sizeof value);
            float f = (float)atof(value);
            struct { const char *key; float *to; } floats[] = {
                { "lr", &desc->lr }, { "momentum", &desc->momentum }, { "dampening", &desc->dampening }, { "beta1", &desc->beta1 },
                { "beta2", &desc->beta2 }, { "alpha", &desc->alpha }, { "eps", &desc->eps }, { "weight_decay", &desc->weight_decay },
                { "clip_norm", &desc->clip_norm }, { "factor", &desc->schedule.factor }, { "min_lr", &desc->schedule.min_lr },
                { "rise", &desc->schedule.rise }, { "start_div", &desc->schedule.start_div }, { "final_div", &desc->schedule.final_div }
            };
            struct { const char *key; int *to; } ints[] = {
                { "nesterov", &desc->nesterov }, { "no_weight_decay", &desc->no_weight_decay }, { "total", &desc->schedule.total },
                { "warmup", &desc->schedule.warmup }, { "period", &desc->schedule.period }
            };
            int known = 0;
            for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) if (!strcmp(word, floats[i].key)) { *floats[i].to = f; known = 1; }
            for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) if (!strcmp(word, ints[i].key)) { *ints[i].to = (int)f; known = 1; }
            CHECK(known, "rule key '%s' is not known to this test", word);
        } else if (index_of(word, kinds, 7) > 0) {
            desc->kind = (tl_optimizer_kind)index_of(word, kinds, 7);
        } else if (index_of(word, schedules, 5) >= 0) {
            desc->schedule.kind = (tl_schedule_kind)index_of(word, schedules, 5);
        }
        while (*text == ' ' || *text == '\n') text++;
    }
}

static void run_schedule_case(const char *test, const char *text)
{
    tl_optimizer_desc desc;
    size_t count = 0;
    double *want = values_of(name_of(test, "lr", "lr"), &count);
    parse_rule(text, &desc);
    double worst = 0;
    for (size_t t = 0; t < count; t++)
        worst = fmax(worst, fabs(tl_schedule_lr(&desc.schedule, (double)desc.lr, (int)t) - want[t]) / fmax(fabs(want[t]), 1e-9));
    CHECK(want && worst < 1e-6, "%s: rates differ by %.3g", test, worst);
    tl__free(want);
}

static void run_optimizer_case(const char *test, const char *text)
{
    tl_optimizer_desc desc;
    size_t n = 0, total = 0;
    parse_rule(text, &desc);
    double *theta = values_of(name_of(test, "param", "theta"), &n), *grads = values_of(name_of(test, "grads", "theta"), &total);
    double *want = values_of(name_of(test, "result", "theta"), &total);
    tl_net *net = tl_net_new(NULL);
    tl_dense_desc dense;
    memset(&dense, 0, sizeof dense);
    dense.out = 1;
    dense.no_bias = 1;
    tl_dense(net, tl_input(net, 1, 1, (int)n), &dense);           // n parameters
    CHECK(tl_optimizer(net, &desc) == TL_OK && tl_prepare(net, 1, 1) == TL_OK, "%s: %s", test, tl_error(net));
    for (size_t i = 0; i < n; i++) net->parameters[i] = (tl_real)theta[i];
    for (size_t t = 0; t * n < total; t++) {
        for (size_t i = 0; i < n; i++) net->gradients[i] = (tl_real)grads[t * n + i];
        net->gradients_live = 1;
        CHECK(tl_step(net) == TL_OK, "%s: step %zu: %s", test, t, tl_error(net));
        double d = difference(net->parameters, want + t * n, n);
        CHECK(d < RULE_TOLERANCE, "%s: after step %zu the parameters differ by %.3g", test, t + 1, d);
    }
    tl__free(theta);
    tl__free(grads);
    tl__free(want);
    tl_net_free(net);
}

// The loss at each of 20 training steps of the same U-Net from the same weights.
static void run_curve_case(const char *test, const char *text, tl_isa isa)
{
    size_t count = 0;
    double *want = values_of(name_of(test, "losses", "curve"), &count), worst = 0;
    if (!want) return;
    tl_optimizer_desc desc;
    parse_rule(strstr(text, "optimizer "), &desc);
    tl_net *net = network_of(text, isa, 2);
    CHECK(tl_optimizer(net, &desc) == TL_OK && tl_prepare(net, batch_of(net, test), 1) == TL_OK, "%s: %s", test, tl_error(net));
    set_params(net, test, text);
    int batch = set_data(net, test);
    for (size_t t = 0; t < count; t++) {
        CHECK(!tl_forward(net, batch, TL_TRAIN) && !tl_backward(net) && !tl_step(net), "%s: step %zu: %s", test, t, tl_error(net));
        worst = fmax(worst, fabs(tl_loss_value(net) - want[t]));
    }
    CHECK(worst < CURVE_TOLERANCE, "%s: the loss curve differs by %.3g", test, worst);
    printf("  %s: loss curve of %zu steps differs by at most %.2g (%s)\n", test, count, worst, tl_isa_name(isa));
    tl__free(want);
    tl_net_free(net);
}

static void run_file(const char *folder, const char *file)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s.safetensors", folder, file);
    if (tl__archive_open(&golden_archive, path)) {
        CHECK(0, "%s", tl_error(NULL));
        return;
    }
    for (int i = 0; i < golden_archive.pair_count; i++) {
        const char *test = golden_archive.metadata[i].key, *text = golden_archive.metadata[i].value;
        if (strcmp(test, "format") == 0) continue;
        if (strcmp(file, "optim") == 0) {
            if (strncmp(test, "lr_", 3) == 0) run_schedule_case(test, text);
            else run_optimizer_case(test, text);
            continue;
        }
        for (int isa = TL_ISA_PLAIN; isa < TL_ISA_COUNT; isa++) {
            if (!tl_isa_available((tl_isa)isa)) continue;
            run_network_case(test, text, (tl_isa)isa);
            run_curve_case(test, text, (tl_isa)isa);
        }
    }
    tl__archive_close(&golden_archive);
}

MAIN(golden, void)
{
    const char *const files[] = { "ops", "losses", "optim", "models" };
    for (int i = 0; i < 4; i++) run_file("tests/golden", files[i]);
    return finish("golden numbers");
}
