// Training: the same bits at every number of threads, in every run, and after a stop and a resume; early stopping; values
// that stop being finite; batches of every size; gradients that add up.

#include "check.h"
#include "temporary.h"

#include <pthread.h>

#define BOX_SIDE 32

// ---- the network and its data --------------------------------------------------------------

typedef struct machine {
    int threads;
    tl_isa isa;
    tl_parallel_fn parallel;
} machine;

static const machine one_thread = { 1, TL_ISA_AUTO, NULL };

static tl_net *net_on(machine m)
{
    tl_net_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.seed = 11;
    desc.threads = m.threads;
    desc.isa = m.isa;
    desc.parallel = m.parallel;
    return tl_net_new(&desc);
}

static void add_loss(tl_net *net, tl_node node, tl_loss_kind kind)
{
    tl_loss_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.kind = kind;
    tl_loss(net, node, &desc);
}

// A U-Net of width 4 and depth 2 with cross-entropy and Dice on its logits.
static tl_net *small_unet(machine m, tl_norm_kind norm, float dropout)
{
    tl_net *net = net_on(m);
    tl_unet_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.classes = 2;
    desc.width = 4;
    desc.depth = 2;
    desc.norm = norm;
    desc.dropout = dropout;
    tl_node logits = tl_unet(net, tl_input(net, BOX_SIDE, BOX_SIDE, 1), &desc);
    add_loss(net, logits, TL_CROSS_ENTROPY);
    add_loss(net, logits, TL_DICE);
    CHECK(tl_status(net) == TL_OK, "unet: %s", tl_error(net));
    return net;
}

static tl_optimizer_desc rule(tl_optimizer_kind kind, float lr)
{
    tl_optimizer_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.kind = kind;
    desc.lr = lr;
    return desc;
}

// Parameters, running statistics and moments in one array; *count values.
static tl_real *state_of(const tl_net *net, size_t *count)
{
    size_t moments = net->moments ? net->parameter_count * (size_t)net->moment_slots : 0;
    *count = net->parameter_count + net->buffer_count + moments;
    tl_real *state = (tl_real *)tl__alloc(*count, sizeof *state);
    memcpy(state, net->parameters, net->parameter_count * sizeof *state);
    memcpy(state + net->parameter_count, net->buffers, net->buffer_count * sizeof *state);
    if (moments) memcpy(state + net->parameter_count + net->buffer_count, net->moments, moments * sizeof *state);
    return state;
}

static int same_state(const tl_net *net, const tl_real *state, size_t count)
{
    size_t mine;
    tl_real *here = state_of(net, &mine);
    int same = mine == count && memcmp(here, state, count * sizeof *state) == 0;
    tl__free(here);
    return same;
}

static int all_finite(const tl_real *values, size_t count)
{
    for (size_t i = 0; i < count; i++) if (!tl__is_finite((double)values[i])) return 0;
    return 1;
}

// A set in memory: rectangles on a noisy ground, some of other sizes than the network. What it was asked for is counted.
typedef struct boxes {
    int count, size;
    int invert;                     // masks the other way round: the opposite of what training teaches
    int as_float, with_nan, nan_is_zero;
    int labels;                     // no masks, label = index modulo 3
    int no_masks;                   // nothing
    int counted;                    // only with one thread:
    int calls[64][8];               // [example][epoch]
} boxes;

static tl_result make_box(void *user, uint32_t epoch, int index, tl_record *out)
{
    boxes *set = (boxes *)user;
    int size = set->size + (index % 3 == 1 ? 9 : index % 3 == 2 ? -5 : 0);
    if (set->counted && index < 64 && epoch < 8) set->calls[index][epoch]++;
    tl_result result = tl_image_alloc(&out->image, size, size + 2, 1, set->as_float ? TL_F32 : TL_U8);
    if (result == TL_OK && !set->labels && !set->no_masks) result = tl_image_alloc(&out->mask, size, size + 2, 1, TL_U8);
    if (result != TL_OK) return result;
    snprintf(out->name, sizeof out->name, "box%d", index);
    if (set->labels) out->label = index % 3;
    tl_rng rng = tl_rng_at(77, TL_RANDOM_USER, 0, (uint32_t)index, 0);
    int x0 = (int)tl_random_below(&rng, (uint32_t)size / 2), y0 = (int)tl_random_below(&rng, (uint32_t)size / 2);
    for (int y = 0; y < size + 2; y++)
    for (int x = 0; x < size; x++) {
        int inside = x >= x0 && x < x0 + size / 2 && y >= y0 && y < y0 + size / 2, at = y * size + x;
        float grey = (inside ? 0.7f : 0.3f) + tl_random_uniform(&rng, -0.2f, 0.2f);
        if (set->labels) grey = tl_random_uniform(&rng, 0, 0.3f) + 0.3f * (float)((x + y * out->label) % 4 == 0) * (float)out->label;
        if (set->with_nan && at % 17 == 0) grey = set->nan_is_zero ? 0 : NAN;
        if (set->as_float) ((float *)out->image.pixels)[at] = grey;
        else ((uint8_t *)out->image.pixels)[at] = (uint8_t)(255 * grey);
        if (out->mask.pixels) ((uint8_t *)out->mask.pixels)[at] = (uint8_t)(inside != set->invert);
    }
    return TL_OK;
}

static boxes box_set(int count)
{
    boxes set;
    memset(&set, 0, sizeof set);
    set.count = count;
    set.size = BOX_SIDE;
    return set;
}

static tl_dataset *grains(int count)
{
    tl_grains_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.width = desc.height = BOX_SIDE + 8;
    desc.count = count;
    desc.seed = 9;
    desc.diameter.lo = desc.diameter.hi = 14;
    return tl_grains_stream(&desc);
}

// ---- steps by hand -------------------------------------------------------------------------

// n samples of boxes into the input and the targets.
static void load_batch(tl_net *net, int first, int n)
{
    boxes set = box_set(0);
    tl_real *values = (tl_real *)tl__alloc((size_t)n * BOX_SIDE * BOX_SIDE, sizeof *values);
    int32_t *classes = (int32_t *)tl__alloc((size_t)n * BOX_SIDE * BOX_SIDE, sizeof *classes);
    tl_record record;
    memset(&record, 0, sizeof record);
    for (int i = 0; i < n; i++) {
        make_box(&set, 9, 3 * (first + i), &record);
        for (int k = 0; k < BOX_SIDE * BOX_SIDE; k++) {
            values[i * BOX_SIDE * BOX_SIDE + k] = (tl_real)((uint8_t *)record.image.pixels)[k] / 255;
            classes[i * BOX_SIDE * BOX_SIDE + k] = ((uint8_t *)record.mask.pixels)[k];
        }
    }
    tl_node input = { 1 };
    CHECK(tl_set_input(net, input, values, n) == TL_OK, "%s", tl_error(net));
    CHECK(tl_set_target_index(net, 0, classes, n) == TL_OK, "%s", tl_error(net));
    tl_record_free(&record);
    tl__free(values);
    tl__free(classes);
}

static double train_steps(tl_net *net, int steps, int batch)
{
    double loss = NAN;
    for (int t = 0; t < steps; t++) {
        load_batch(net, batch * t, batch);
        CHECK(!tl_forward(net, batch, TL_TRAIN) && !tl_backward(net) && !tl_step(net), "step %d: %s", t, tl_error(net));
        loss = tl_loss_value(net);
    }
    return loss;
}

// The user's own loops: one after the other from the last unit, and on threads of the user's own.
static void backwards(void *context, int units, int threads, tl_unit_fn fn, void *user)
{
    (void)context;
    for (int unit = units - 1; unit >= 0; unit--) fn(user, unit, unit % threads);
}

typedef struct share {
    int units, threads, worker;
    tl_unit_fn fn;
    void *user;
} share;

static void *run_share(void *argument)
{
    share *s = (share *)argument;
    for (int unit = s->worker; unit < s->units; unit += s->threads) s->fn(s->user, unit, s->worker);
    return NULL;
}

static void own_threads(void *context, int units, int threads, tl_unit_fn fn, void *user)
{
    pthread_t handles[8];
    share shares[8];
    memset(shares, 0, sizeof shares);
    (void)context;
    for (int i = 0; i < threads; i++) {
        share s = { units, threads, i, fn, user };
        shares[i] = s;
        if (i) pthread_create(&handles[i], NULL, run_share, &shares[i]);
    }
    run_share(&shares[0]);
    for (int i = 1; i < threads; i++) pthread_join(handles[i], NULL);
}

static void test_threads(void)
{
    const tl_isa isas[] = { TL_ISA_PLAIN, TL_ISA_AUTO };
    for (int k = 0; k < 2; k++) {
        machine machines[] = { { 1, isas[k], NULL }, { 2, isas[k], NULL }, { 3, isas[k], NULL }, { 3, isas[k], backwards }, { 2, isas[k], own_threads } };
        tl_real *want = NULL;
        size_t count = 0;
        for (int i = 0; i < 5; i++) {
            if (i == 4 && k == 0) continue;
            tl_net *net = small_unet(machines[i], TL_NORM_BATCH, 0.2f);
            tl_optimizer_desc adamw = rule(TL_ADAMW, 1e-2f);
            adamw.clip_norm = 1;
            CHECK(tl_optimizer(net, &adamw) == TL_OK && tl_prepare(net, 4, 1) == TL_OK, "%s", tl_error(net));
            load_batch(net, 0, 4);
            tl_forward(net, 4, TL_TRAIN);
            double before = tl_loss_value(net), after = train_steps(net, 20, 4);
            CHECK(after < before, "20 steps: the loss went from %g to %g", before, after);
            CHECK(tl_step_count(net) == 20, "step count %d", tl_step_count(net));
            if (!want) want = state_of(net, &count);
            CHECK(same_state(net, want, count), "20 steps, %s kernels: %d threads%s give other bits", tl_isa_name(isas[k]),
                  machines[i].threads, machines[i].parallel ? " of the user" : "");
            tl_net_free(net);
        }
        tl__free(want);
    }
}

static void test_optimizers(void)
{
    for (int kind = TL_SGD; kind < TL_OPTIMIZER_COUNT; kind++)
    for (int variant = 0; variant < 2; variant++) {
        tl_real *want = NULL;
        size_t count = 0;
        for (int threads = 1; threads <= 3; threads++) {
            machine m = { threads, TL_ISA_AUTO, NULL };
            tl_net *net = small_unet(m, TL_NORM_GROUP, 0);
            tl_optimizer_desc desc = rule((tl_optimizer_kind)kind, kind == TL_SGD ? 0.1f : 3e-3f);
            if (variant) {
                if (kind == TL_SGD || kind == TL_RMSPROP) desc.momentum = 0.9f;
                if (kind == TL_SGD) desc.nesterov = 1;
                desc.weight_decay = 0.05f;
                desc.clip_norm = 0.3f;
                desc.schedule.kind = TL_ONE_CYCLE;
                desc.schedule.total = 12;
            }
            CHECK(tl_optimizer(net, &desc) == TL_OK, "%s", tl_error(net));
            tl_group_desc frozen;
            memset(&frozen, 0, sizeof frozen);
            frozen.params = "enc1.*";
            frozen.frozen = 1;
            if (variant) CHECK(tl_group(net, &frozen) == TL_OK, "%s", tl_error(net));
            CHECK(tl_prepare(net, 2, 1) == TL_OK, "%s", tl_error(net));
            tl_tensor first = tl_param(net, "enc1.conv1.weight");
            tl_real before[36];
            CHECK(first.count == 36, "enc1.conv1.weight has %zu values", first.count);
            memcpy(before, first.data, sizeof before);
            double start = train_steps(net, 1, 2), end = train_steps(net, 11, 2);
            CHECK(end < start || kind == TL_ADAGRAD, "%s: the loss went from %g to %g", tl__optimizer_names[kind], start, end);
            CHECK((memcmp(before, first.data, sizeof before) == 0) == variant, "%s: the group is %sfrozen", tl__optimizer_names[kind], variant ? "not " : "");
            if (!want) want = state_of(net, &count);
            CHECK(same_state(net, want, count), "%s, %d threads: other bits", tl__optimizer_names[kind], threads);
            tl_net_free(net);
        }
        tl__free(want);
    }
}

// ---- batches and gradients -----------------------------------------------------------------

static void test_batches(void)
{
    size_t count;
    tl_real *want = NULL;
    for (int planned = 3; planned <= 8; planned += 5) {
        tl_net *net = small_unet(one_thread, TL_NORM_BATCH, 0.1f);
        tl_optimizer_desc adam = rule(TL_ADAM, 1e-3f);
        tl_optimizer(net, &adam);
        CHECK(tl_prepare(net, planned, 1) == TL_OK, "%s", tl_error(net));
        train_steps(net, 3, 3);
        if (!want) want = state_of(net, &count);
        CHECK(same_state(net, want, count), "a batch of 3 of %d planned gives other bits than 3 of 3", planned);
        CHECK(tl_forward(net, planned + 1, TL_TRAIN) == TL_ERR_ARGUMENT && tl_forward(net, 0, TL_EVAL) == TL_ERR_ARGUMENT, "a batch beyond the plan");
        tl_net_free(net);
    }
    tl__free(want);
}

// Largest difference of two arrays relative to the largest value of the second.
static double relative(const tl_real *a, const tl_real *b, size_t count, double factor)
{
    double largest = 1e-12, worst = 0;
    for (size_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs((double)b[i]));
        worst = fmax(worst, fabs((double)a[i] - factor * (double)b[i]));
    }
    return worst / largest;
}

static void test_accumulation(void)
{
    tl_net *net = net_on(one_thread);
    CHECK(tl_parse(net, "x = input() height=32 width=32 channels=1\nc = conv2d(x) out=5 kernel=3 pad=1\nt = tanh(c)\n"
                        "g = group_norm(t) groups=1\nd = conv2d(g) out=3 kernel=3 pad=1\nloss cross_entropy(d)\n") == TL_OK, "%s", tl_error(net));
    tl_optimizer_desc sgd = rule(TL_SGD, 0.1f);
    tl_optimizer(net, &sgd);
    CHECK(tl_prepare(net, 4, 1) == TL_OK, "%s", tl_error(net));
    tl_real *whole = (tl_real *)tl__alloc(net->parameter_count, sizeof *whole);
    load_batch(net, 0, 4);
    CHECK(tl_step(net) == TL_ERR_STATE, "a step without gradients");
    CHECK(tl_backward(net) == TL_ERR_STATE, "backward without forward");
    CHECK(!tl_forward(net, 4, TL_TRAIN) && !tl_backward(net), "%s", tl_error(net));
    CHECK(tl_backward(net) == TL_ERR_STATE, "a second backward without forward");
    memcpy(whole, net->gradients, net->parameter_count * sizeof *whole);
    tl_zero_grad(net);
    CHECK(tl_step(net) == TL_ERR_STATE, "a step with zeroed gradients");
    for (int half = 0; half < 2; half++) {
        load_batch(net, 2 * half, 2);
        CHECK(!tl_forward(net, 2, TL_TRAIN) && !tl_backward(net), "%s", tl_error(net));
    }
    double d = relative(net->gradients, whole, net->parameter_count, 2);       // losses are means: two halves are twice the whole
    CHECK(d < 1e-5, "the gradients of two halves add up to the whole within %.3g", d);
    double norm = tl_grad_norm(net);
    CHECK(tl_step(net) == TL_OK && tl_step(net) == TL_ERR_STATE, "after a step the gradients are spent");
    CHECK(fabs(tl_grad_norm(net) - norm) <= 1e-12 * norm && norm > 0, "the norm before the step stays: %g, %g", norm, tl_grad_norm(net));
    load_batch(net, 0, 2);
    CHECK(!tl_forward(net, 2, TL_EVAL) && tl_backward(net) == TL_ERR_STATE, "backward after a forward in eval mode");
    for (int open = 0; open < 2; open++) {                  // a cosine without its end would never come down
        sgd.schedule.kind = TL_WARMUP_COSINE;
        sgd.schedule.total = open ? 0 : 7;
        tl_optimizer(net, &sgd);
        load_batch(net, 0, 2);
        CHECK(!tl_forward(net, 2, TL_TRAIN) && !tl_backward(net), "%s", tl_error(net));
        CHECK(tl_step(net) == (open ? TL_ERR_STATE : TL_OK) && (!open || strstr(tl_error(net), "schedule.total")), "%s", tl_error(net));
    }
    tl__free(whole);
    tl_net_free(net);
}

// A new target counts at once, whatever was asked before.
static void test_targets(void)
{
    tl_net *net = net_on(one_thread);
    CHECK(tl_parse(net, "x = input() height=1 width=1 channels=3\nloss cross_entropy(x)\n") == TL_OK, "%s", tl_error(net));
    CHECK(tl_prepare(net, 2, 1) == TL_OK, "%s", tl_error(net));
    tl_real logits[6] = { 1, 2, 3, 0, 0, 1 };
    tl_node x = { 1 };
    int32_t first[2] = { 0, 1 }, second[2] = { 2, 2 }, wrong[2] = { 0, 3 };
    tl_set_input(net, x, logits, 2);
    CHECK(isnan(tl_loss_value(net)), "a loss without forward");
    CHECK(tl_forward(net, 2, TL_EVAL) == TL_OK && isnan(tl_loss_value(net)), "a loss without targets");
    CHECK(strstr(tl_error(net), "target") != NULL, "it says: %s", tl_error(net));
    tl_set_target_index(net, 0, first, 2);
    double a = tl_loss_value(net);
    tl_set_target_index(net, 0, second, 2);
    double b = tl_loss_value(net), lse0 = log(exp(1.) + exp(2.) + exp(3.)), lse1 = log(2 + exp(1.));
    CHECK(fabs(a - (lse0 - 1 + lse1) / 2) < 1e-6, "cross-entropy by hand: %g", a);
    CHECK(fabs(b - (lse0 - 3 + lse1 - 1) / 2) < 1e-6, "after new targets the loss is still %g", b);
    CHECK(tl_set_target_index(net, 0, wrong, 2) == TL_ERR_ARGUMENT, "class 3 of 3");
    CHECK(strstr(tl_error(net), "class 3") != NULL, "tl_error(net) says: '%s'", tl_error(net));
    CHECK(tl_set_target_index(net, 0, first, 3) != TL_OK && tl_set_target_index(net, 1, first, 1) != TL_OK, "too many targets, no such loss");
    CHECK(tl_set_target_dense(net, 0, logits, 1) != TL_OK, "dense targets for an index loss");
    CHECK(tl_status(net) == TL_OK, "the network stays usable");
    tl_net_free(net);
}

// ---- tl_fit --------------------------------------------------------------------------------

static const tl_transform transforms[] = {
    { .kind = TL_FLIP_X, .p = 0.5f }, { .kind = TL_FLIP_Y, .p = 0.5f }, { .kind = TL_ROT90 },
    { .kind = TL_BRIGHTNESS, .p = 0.5f, .range = { -0.1f, 0.1f } },
    { .kind = TL_CONTRAST, .p = 0.5f, .range = { -0.2f, 0.2f } },
    { .kind = TL_GAUSS_NOISE, .p = 0.5f, .range = { 0, 0.05f } }, { .kind = TL_POISSON, .p = 0.3f, .range = { 50, 500 } }
};

typedef struct watch {
    tl_net *net;
    int calls, epochs_done, stop_at;             // stop at this call, counted from 1; 0: never
    int wrong;                                   // calls whose numbers do not fit
    int last_epoch, last_step;
    int snapshot_epoch;                          // keeps the parameters at the end of this epoch, -1: of the last one
    tl_real *snapshot;
    double first_lr, last_lr;
} watch;

static int on_progress(void *user, const tl_progress *p)
{
    watch *w = (watch *)user;
    w->calls++;
    if (w->calls == 1) w->first_lr = p->lr;
    w->last_lr = p->lr;
    if (!(p->lr > 0) || strcmp(p->phase_name, "training")) w->wrong++;
    if (p->epoch < 1 || p->epoch > p->epochs || p->step < 1 || p->step > p->steps) w->wrong++;
    if (p->epoch_done) {
        w->epochs_done++;
        if ((p->epoch == w->snapshot_epoch || w->snapshot_epoch < 0) && w->snapshot)
            memcpy(w->snapshot, w->net->parameters, w->net->parameter_count * sizeof *w->snapshot);
    } else if (!isnan(p->valid_loss)) {
        w->wrong++;
    }
    if (w->calls > 1 && (p->epoch < w->last_epoch || (p->epoch == w->last_epoch && p->step < w->last_step))) w->wrong++;
    if (!(p->loss - p->loss == 0) || p->seconds < 0 || p->images_per_second < 0) w->wrong++;
    w->last_epoch = p->epoch;
    w->last_step = p->step;
    return w->calls == w->stop_at;
}

static tl_fit_desc fit_desc(const tl_dataset *train, const tl_dataset *valid, int epochs, int batch)
{
    tl_fit_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.train = train;
    desc.valid = valid;
    desc.epochs = epochs;
    desc.batch = batch;
    desc.optimizer = rule(TL_ADAMW, 1e-2f);
    desc.optimizer.schedule.kind = TL_WARMUP_COSINE;
    desc.optimizer.schedule.warmup = 2;
    desc.augment = transforms;
    desc.augment_count = (int)(sizeof transforms / sizeof *transforms);
    desc.seed = 21;
    return desc;
}

// Two runs, and runs on other numbers of threads, end with the same bits. 10 examples in batches of 4: the third has 2.
static void test_fit_bits(const char *what, const tl_dataset *train, const tl_dataset *valid)
{
    tl_real *want = NULL;
    size_t count = 0;
    double loss = 0;
    for (int run = 0; run < 4; run++) {
        machine m = { run < 2 ? 1 : run, TL_ISA_AUTO, NULL };
        tl_net *net = small_unet(m, TL_NORM_BATCH, 0.1f);
        tl_fit_desc desc = fit_desc(train, valid, 3, 4);
        watch w;
        memset(&w, 0, sizeof w);
        w.net = net;
        desc.progress = on_progress;
        desc.user = &w;
        tl_fit_report report;
        CHECK(tl_fit(net, &desc, &report) == TL_OK, "%s: %s", what, tl_error(net));
        CHECK(report.epochs == 3 && report.steps == 9 && w.calls == 12 && w.epochs_done == 3 && w.wrong == 0,
              "%s: %d epochs, %d steps, %d calls, %d wrong", what, report.epochs, report.steps, w.calls, w.wrong);
        CHECK(w.last_lr < w.first_lr, "%s: the rate goes from %g to %g", what, w.first_lr, w.last_lr);
        if (!want) {
            want = state_of(net, &count);
            loss = report.best_valid_loss;
        }
        CHECK(same_state(net, want, count), "%s: run %d, %d threads: other bits", what, run, m.threads);
        CHECK(!valid || loss == report.best_valid_loss, "%s: another validation loss", what);
        tl_net_free(net);
    }
    tl__free(want);
}

// Stops at a call of the progress function, resumes from the file in a new network, and compares with a run that went through.
// With 3 steps in an epoch, calls 4, 8 and 12 are the ends of epochs.
static void test_resume(const char *what, const tl_dataset *train, const tl_dataset *valid, const char *path)
{
    tl_net *whole = small_unet(one_thread, TL_NORM_BATCH, 0.1f);
    tl_fit_desc desc = fit_desc(train, valid, 3, 4);
    tl_fit_report through, report;
    size_t count;
    CHECK(tl_fit(whole, &desc, &through) == TL_OK, "%s: %s", what, tl_error(whole));
    tl_real *want = state_of(whole, &count);
    tl_net_free(whole);
    for (int stop = 1; stop <= 12; stop++) {
        remove(path);
        desc.checkpoint = path;
        desc.resume = 1;                                  // there is nothing to resume yet: starts from the beginning
        desc.progress = on_progress;
        for (int part = 0, at = stop; part < 3; part++) { // stopped twice
            machine m = { 1 + part, TL_ISA_AUTO, NULL };
            tl_net *net = small_unet(m, TL_NORM_BATCH, 0.1f);
            watch w;
            memset(&w, 0, sizeof w);
            w.net = net;
            w.stop_at = part == 0 ? at : part == 1 ? 2 : 0;
            desc.user = &w;
            tl_result result = tl_fit(net, &desc, &report);
            if (result == TL_INTERRUPTED && part < 2) {
                CHECK(tl_status(net) == TL_OK, "%s: a stop is no error of the network", what);
                tl_net_free(net);
                continue;
            }
            CHECK(result == TL_OK || (stop == 12 && result == TL_INTERRUPTED), "%s, stop %d: %s", what, stop, tl_error(net));
            CHECK(same_state(net, want, count), "%s: stopped at call %d and resumed: other bits", what, stop);
            CHECK(report.steps == through.steps && report.epochs == through.epochs && report.best_epoch == through.best_epoch &&
                  report.train_loss == through.train_loss && (!valid || report.best_valid_loss == through.best_valid_loss),
                  "%s: stopped at call %d and resumed: another report", what, stop);
            tl_net_free(net);
            break;
        }
    }
    tl__free(want);
}

// A checkpoint of something else, or a damaged one, is refused, and the network stays as it was.
static void test_foreign_checkpoint(const tl_dataset *train, const char *path)
{
    static const char *const expected[] = { "other settings", "other settings", "not a checkpoint of this network", "'" };
    tl_fit_desc desc = fit_desc(train, NULL, 1, 4);
    desc.checkpoint = path;
    remove(path);
    tl_net *net = small_unet(one_thread, TL_NORM_BATCH, 0.1f);
    CHECK(tl_fit(net, &desc, NULL) == TL_OK, "%s", tl_error(net));
    tl_net_free(net);
    for (int i = 0; i < 4; i++) {
        net = small_unet(one_thread, i == 2 ? TL_NORM_GROUP : TL_NORM_BATCH, 0.1f);
        desc = fit_desc(train, NULL, 1, i == 0 ? 3 : 4);
        if (i == 1) desc.optimizer.lr *= 2;
        desc.checkpoint = path;
        desc.resume = 1;
        if (i == 3) {                                     // cut off
            uint8_t *bytes;
            size_t size;
            CHECK(tl__read_file(path, 1u << 30, &bytes, &size) == TL_OK, "%s", tl_error(NULL));
            FILE *file = fopen(path, "wb");
            CHECK(file && fwrite(bytes, 1, size - 1, file) == size - 1, "cannot write %s", path);
            if (file) fclose(file);
            tl__free(bytes);
        }
        tl_prepare(net, 4, 0);
        size_t count;
        tl_real *before = state_of(net, &count);
        tl_result result = tl_fit(net, &desc, NULL);
        CHECK(result != TL_OK && strstr(tl_error(net), expected[i]), "foreign checkpoint %d: %s, %s", i, tl_result_name(result), tl_error(net));
        CHECK(tl_status(net) == TL_OK, "foreign checkpoint %d: the network stays usable", i);
        CHECK(memcmp(before, net->parameters, net->parameter_count * sizeof *before) == 0, "foreign checkpoint %d: the weights changed", i);
        tl__free(before);
        tl_net_free(net);
    }
    remove(path);
}

// The validation set wants the opposite, so the first epoch is the best one.
static void test_early_stop(const char *path)
{
    boxes train_set = box_set(8), valid_set = box_set(4);
    valid_set.invert = 1;
    tl_dataset *train = tl_dataset_from(8, make_box, &train_set), *valid = tl_dataset_from(4, make_box, &valid_set);
    for (int patience = 1; patience <= 3; patience++) {
        tl_net *net = small_unet(one_thread, TL_NORM_GROUP, 0);
        tl_fit_desc desc = fit_desc(train, valid, 20, 4);
        desc.optimizer.schedule.kind = TL_CONSTANT;
        desc.optimizer.schedule.warmup = 0;
        desc.patience = patience;
        desc.checkpoint = path;
        remove(path);
        watch w;
        memset(&w, 0, sizeof w);
        w.net = net;
        w.snapshot_epoch = 1;
        w.snapshot = (tl_real *)tl__alloc(net->parameter_count, sizeof(tl_real));
        desc.progress = on_progress;
        desc.user = &w;
        tl_fit_report report;
        CHECK(tl_fit(net, &desc, &report) == TL_OK, "%s", tl_error(net));
        CHECK(report.stopped_early && report.epochs == 1 + patience && report.best_epoch == 1, "patience %d: %d epochs, best %d, stopped early %d",
              patience, report.epochs, report.best_epoch, report.stopped_early);
        CHECK(memcmp(net->parameters, w.snapshot, net->parameter_count * sizeof(tl_real)) == 0, "patience %d: not the best weights", patience);
        desc.resume = 1;                                  // patience is used up: nothing more to do
        w.calls = 0;
        CHECK(tl_fit(net, &desc, &report) == TL_OK && w.calls == 0 && report.stopped_early, "resumed after early stopping: %d calls", w.calls);
        CHECK(memcmp(net->parameters, w.snapshot, net->parameter_count * sizeof(tl_real)) == 0, "resumed after early stopping: other weights");
        tl__free(w.snapshot);
        tl_net_free(net);
    }
    tl_net *net = small_unet(one_thread, TL_NORM_GROUP, 0);
    tl_fit_desc desc = fit_desc(train, train, 20, 4);
    desc.patience = 2;
    desc.min_delta = 100;                                 // nothing is ever that much better
    tl_fit_report report;
    CHECK(tl_fit(net, &desc, &report) == TL_OK && report.epochs == 3 && report.best_epoch == 1, "min_delta: %d epochs, best %d", report.epochs, report.best_epoch);
    tl_net_free(net);
    tl_dataset_free(train);
    tl_dataset_free(valid);
    remove(path);
}

// ---- values that are not finite ------------------------------------------------------------

// Spoils the weights after epoch 2, so that the loss of epoch 3 is high but finite, and puts in NaN after epoch 3.
typedef struct spoiler {
    tl_net  *net;
    tl_real *good;
} spoiler;

static int spoil(void *user, const tl_progress *p)
{
    spoiler *s = (spoiler *)user;
    tl_real *weights = s->net->parameters;
    if (!p->epoch_done) return 0;
    if (p->epoch == 2) memcpy(s->good, weights, s->net->parameter_count * sizeof *weights);
    for (size_t i = 0; p->epoch == 2 && i < s->net->parameter_count; i++) weights[i] *= 3;
    if (p->epoch == 3) weights[0] = NAN;
    return 0;
}

// The last epoch before the loss stops being finite is often lost already: the one with the lowest loss comes back.
static void test_restored(void)
{
    boxes set = box_set(8);
    tl_dataset *train = tl_dataset_from(8, make_box, &set);
    for (int validated = 0; validated < 2; validated++) {
        tl_net *net = small_unet(one_thread, TL_NORM_NONE, 0);
        tl_fit_desc desc = fit_desc(train, validated ? train : NULL, 10, 4);
        tl_fit_report report;
        spoiler s = { net, NULL };
        tl_prepare(net, 4, 1);
        s.good = (tl_real *)tl__alloc(net->parameter_count, sizeof *s.good);
        desc.optimizer = rule(TL_SGD, 1e-3f);
        desc.progress = spoil;
        desc.user = &s;
        CHECK(tl_fit(net, &desc, &report) == TL_ERR_DIVERGED && report.best_epoch == 2, "best epoch %d: %s", report.best_epoch, tl_error(net));
        CHECK(strstr(tl_error(net), validated ? "epoch 2, which had the lowest validation loss" : "epoch 2, which had the lowest training loss"), "%s", tl_error(net));
        CHECK(!memcmp(s.good, net->parameters, net->parameter_count * sizeof *s.good), "not the weights of epoch 2");
        CHECK(validated || report.best_valid_loss != report.best_valid_loss, "validation loss %g", report.best_valid_loss);
        tl_param(net, "dec2.conv1.weight").data[5] = NAN;
        desc.progress = NULL;
        CHECK(tl_fit(net, &desc, &report) == TL_ERR_DIVERGED && !report.best_epoch && strstr(tl_error(net), "from before training"), "%s", tl_error(net));
        tl__free(s.good);
        tl_net_free(net);
    }
    tl_dataset_free(train);
}

static void test_diverged(void)
{
    boxes set = box_set(8);
    tl_dataset *train = tl_dataset_from(8, make_box, &set);
    tl_net *net = small_unet(one_thread, TL_NORM_NONE, 0);
    tl_fit_desc desc = fit_desc(train, NULL, 10, 4);
    desc.optimizer = rule(TL_SGD, 1e6f);
    tl_prepare(net, 4, 1);
    size_t count;
    tl_real *before = state_of(net, &count);
    watch w;
    memset(&w, 0, sizeof w);
    w.net = net;
    w.snapshot_epoch = -1;                                // of every epoch, the last one stays
    w.snapshot = (tl_real *)tl__alloc(net->parameter_count, sizeof(tl_real));
    memcpy(w.snapshot, net->parameters, net->parameter_count * sizeof(tl_real));
    desc.progress = on_progress;
    desc.user = &w;
    CHECK(tl_fit(net, &desc, NULL) == TL_ERR_DIVERGED, "rate 1e6: %s", tl_error(net));
    CHECK(strstr(tl_error(net), "epoch ") && strstr(tl_error(net), "step ") && strstr(tl_error(net), "'"), "rate 1e6: %s", tl_error(net));
    CHECK(tl_status(net) == TL_OK, "diverged: the network stays usable");
    CHECK(all_finite(net->parameters, net->parameter_count), "diverged: the weights are not finite");
    CHECK(memcmp(w.snapshot, net->parameters, net->parameter_count * sizeof *before) == 0, "diverged: not the weights of the last whole epoch");
    desc.optimizer = rule(TL_SGD, 0.1f);
    desc.progress = NULL;
    CHECK(tl_fit(net, &desc, NULL) == TL_OK, "after a diverged run: %s", tl_error(net));
    tl__free(before);
    tl__free(w.snapshot);
    tl_net_free(net);

    net = small_unet(one_thread, TL_NORM_BATCH, 0.1f);
    tl_prepare(net, 4, 1);
    tl_param(net, "dec2.conv1.weight").data[5] = NAN;
    desc.optimizer = rule(TL_ADAM, 1e-3f);
    CHECK(tl_fit(net, &desc, NULL) == TL_ERR_DIVERGED, "NaN in a weight: %s", tl_error(net));
    CHECK(strstr(tl_error(net), "'dec2.conv1'") && strstr(tl_error(net), "epoch 1, step 1"), "NaN in a weight: %s", tl_error(net));
    tl_net_free(net);

    // where a concatenation is not made, the search goes past it
    net = tl_net_new(NULL);
    tl_unet_desc wide;
    memset(&wide, 0, sizeof wide);
    wide.classes = 2; wide.width = 16; wide.depth = 1;
    tl_node x = tl_input(net, 32, 32, 1), head = tl_unet(net, x, &wide);
    tl_prepare(net, 2, 1);
    tl_real *noise = tl_data(net, x);
    tl_rng rng = tl_rng_at(1, TL_RANDOM_USER, 0, 0, 0);
    for (int i = 0; i < 2 * 32 * 32; i++) noise[i] = (tl_real)tl_random_normal(&rng);
    tl_param(net, "head.weight").data[0] = NAN;
    CHECK(!tl_set_input(net, x, noise, 2) && !tl_forward(net, 2, TL_TRAIN), "%s", tl_error(net));
    CHECK(tl__cpu_first_bad(net) == head.id - 1, "the head is not found");
    tl_net_free(net);

    // by hand: the step is refused and names the parameter; the gradients can be cleared and training goes on
    net = small_unet(one_thread, TL_NORM_GROUP, 0);
    desc.optimizer = rule(TL_ADAM, 1e-3f);
    tl_optimizer(net, &desc.optimizer);
    tl_prepare(net, 2, 1);
    load_batch(net, 0, 2);
    tl_forward(net, 2, TL_TRAIN);
    tl_backward(net);
    tl_param(net, "mid.conv2.weight").grad[3] = INFINITY;
    before = state_of(net, &count);
    CHECK(tl_step(net) == TL_ERR_DIVERGED && strstr(tl_error(net), "mid.conv2.weight"), "a gradient that is not finite: %s", tl_error(net));
    CHECK(same_state(net, before, count) && tl_step_count(net) == 0, "a refused step changed something");
    tl_zero_grad(net);
    train_steps(net, 1, 2);
    tl__free(before);
    tl_net_free(net);
    tl_dataset_free(train);
}

// Pixels that are not finite count as zero: the run is that of an image with zeros there.
static void test_nan_pixels(void)
{
    tl_real *want = NULL, *augmented = NULL;
    size_t count = 0;
    for (int zero = 0; zero < 2; zero++) {
        boxes set = box_set(6);
        set.as_float = set.with_nan = 1;
        set.nan_is_zero = zero;
        tl_dataset *train = tl_dataset_from(6, make_box, &set);
        tl_net *net = small_unet(one_thread, TL_NORM_BATCH, 0);
        tl_fit_desc desc = fit_desc(train, train, 2, 4);
        desc.augment = NULL;
        desc.augment_count = 0;
        CHECK(tl_fit(net, &desc, NULL) == TL_OK, "NaN in pixels: %s", tl_error(net));
        if (!want) want = state_of(net, &count);
        CHECK(same_state(net, want, count) && all_finite(want, count), "NaN in pixels is not the same as zero");
        desc = fit_desc(train, NULL, 2, 4);
        CHECK(tl_fit(net, &desc, NULL) == TL_OK, "NaN under augmentation: %s", tl_error(net));
        if (!augmented) augmented = state_of(net, &count);
        CHECK(same_state(net, augmented, count), "NaN under augmentation is not the same as zero");
        tl_net_free(net);
        tl_dataset_free(train);
    }
    tl__free(want);
    tl__free(augmented);
}

// ---- sets of all sizes ---------------------------------------------------------------------

static void test_epochs(void)
{
    boxes set = box_set(10);
    set.counted = 1;
    tl_dataset *train = tl_dataset_from(10, make_box, &set);
    tl_net *net = small_unet(one_thread, TL_NORM_GROUP, 0);
    tl_fit_desc desc = fit_desc(train, NULL, 3, 4);
    CHECK(tl_fit(net, &desc, NULL) == TL_OK, "%s", tl_error(net));
    for (int i = 0; i < 10; i++)
    for (int epoch = 0; epoch < 3; epoch++) CHECK(set.calls[i][epoch] == 1, "example %d came %d times in epoch %d", i, set.calls[i][epoch], epoch);
    tl_fit_report report;
    desc.batch = 64;
    CHECK(tl_fit(net, &desc, &report) == TL_OK && report.steps == 3, "a batch larger than the data: %d steps, %s", report.steps, tl_error(net));
    desc.batch = 1;
    CHECK(tl_fit(net, &desc, &report) == TL_OK && report.steps == 30, "a batch of 1: %d steps, %s", report.steps, tl_error(net));
    tl_dataset_free(train);
    tl_net_free(net);
}

// Labels instead of masks, with a batch norm over vectors: 7 examples in batches of 3 would leave a batch of one, which it cannot take.
static void test_labels(void)
{
    boxes set = box_set(7);
    set.labels = 1;
    tl_dataset *train = tl_dataset_from(7, make_box, &set);
    tl_net *net = net_on(one_thread);
    CHECK(tl_parse(net, "x = input() height=16 width=16 channels=1\nc = conv2d(x) out=6 kernel=3 stride=2\nr = relu(c)\n"
                        "p = adaptive_avg_pool2d(r) height=1 width=1\nb = batch_norm(p)\nd = dense(b) out=3\nloss cross_entropy(d)\n") == TL_OK, "%s", tl_error(net));
    tl_fit_desc desc = fit_desc(train, train, 12, 3);
    desc.optimizer.schedule.kind = TL_CONSTANT;
    desc.augment = NULL;
    desc.augment_count = 0;
    tl_fit_report report;
    CHECK(tl_fit(net, &desc, &report) == TL_OK, "labels: %s", tl_error(net));
    CHECK(report.steps == 24 && report.best_valid_score > 0.5 && report.best_valid_score <= 1, "labels: %d steps, accuracy %g", report.steps, report.best_valid_score);
    tl_net_free(net);

    net = small_unet(one_thread, TL_NORM_BATCH, 0);         // a loss on masks, and a set without
    desc = fit_desc(train, NULL, 1, 3);
    CHECK(tl_fit(net, &desc, NULL) == TL_ERR_ARGUMENT && strstr(tl_error(net), "no mask"), "labels for masks: %s", tl_error(net));
    tl_net_free(net);
    tl_dataset_free(train);
}

// Another optimiser on the same network, and the rate that follows the clock when there is a limit.
static void test_second_run(void)
{
    boxes set = box_set(8);
    tl_dataset *train = tl_dataset_from(8, make_box, &set);
    tl_net *net = small_unet(one_thread, TL_NORM_BATCH, 0);
    tl_fit_desc desc = fit_desc(train, NULL, 1, 4);
    desc.optimizer = rule(TL_SGD, 0.1f);
    CHECK(tl_fit(net, &desc, NULL) == TL_OK, "%s", tl_error(net));
    desc.optimizer = rule(TL_ADAMW, 1e-3f);
    CHECK(tl_fit(net, &desc, NULL) == TL_OK, "a second run with another optimiser: %s", tl_error(net));
    watch w;
    memset(&w, 0, sizeof w);
    w.net = net;
    desc.epochs = 1000000;
    desc.minutes = 0.2 / 60;
    desc.optimizer.schedule.kind = TL_WARMUP_COSINE;
    desc.progress = on_progress;
    desc.user = &w;
    tl_fit_report report;
    CHECK(tl_fit(net, &desc, &report) == TL_OK && report.epochs < 100000 && report.seconds < 30, "a limit of 0.2 seconds: %s", tl_error(net));
    CHECK(w.last_lr < 0.5 * w.first_lr, "with a time limit the rate went from %g only to %g", w.first_lr, w.last_lr);
    tl_net_free(net);
    tl_dataset_free(train);
}

static void test_refusals(void)
{
    boxes set = box_set(4);
    tl_dataset *train = tl_dataset_from(4, make_box, &set);
    tl_net *net = small_unet(one_thread, TL_NORM_BATCH, 0);
    struct { const char *what; int field; } bad[] = {
        { "training set", 0 }, { "epochs", 1 }, { "batch", 2 }, { "patience", 3 }, { "validation", 4 }, { "checkpoint", 5 }, { "transform", 6 }, { "optimiser", 7 }
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tl_fit_desc desc = fit_desc(train, NULL, 1, 2);
        tl_transform nonsense;
        memset(&nonsense, 0, sizeof nonsense);
        nonsense.kind = TL_BRIGHTNESS;
        nonsense.p = 2;
        nonsense.range.hi = 0.1f;
        if (i == 0) desc.train = NULL;
        if (i == 1) desc.epochs = 0;
        if (i == 2) desc.batch = -1;
        if (i == 3) desc.patience = -1;
        if (i == 4) desc.patience = 2;
        if (i == 5) desc.resume = 1;
        if (i == 6) { desc.augment = &nonsense; desc.augment_count = 1; }
        if (i == 7) memset(&desc.optimizer, 0, sizeof desc.optimizer);
        tl_result result = tl_fit(net, &desc, NULL);
        CHECK(result != TL_OK && strstr(tl_error(net), bad[i].what), "bad fit (%s): %s: %s", bad[i].what, tl_result_name(result), tl_error(net));
        CHECK(tl_status(net) == TL_OK, "bad fit (%s): the network stays usable", bad[i].what);
    }
    tl_fit_desc good = fit_desc(train, NULL, 1, 2);
    CHECK(tl_fit(net, &good, NULL) == TL_OK, "after all refusals: %s", tl_error(net));
    CHECK(tl_fit(NULL, &good, NULL) == TL_ERR_ARGUMENT && tl_fit(net, NULL, NULL) == TL_ERR_ARGUMENT, "NULL");
    tl_net_free(net);
    tl_dataset_free(train);
}

MAIN(training, void)
{
    const char *path = temporary_path("run.safetensors");
    boxes set = box_set(10), valid_set = box_set(3);
    tl_dataset *train = tl_dataset_from(10, make_box, &set), *valid = tl_dataset_from(3, make_box, &valid_set), *stream = grains(10);
    test_threads();
    test_optimizers();
    test_batches();
    test_accumulation();
    test_targets();
    test_fit_bits("boxes", train, valid);
    test_fit_bits("grains", stream, NULL);
    test_resume("boxes", train, valid, path);
    test_resume("grains", stream, NULL, path);
    test_foreign_checkpoint(train, path);
    test_early_stop(path);
    test_diverged();
    test_restored();
    test_nan_pixels();
    test_epochs();
    test_labels();
    test_second_run();
    test_refusals();
    tl_dataset_free(train);
    tl_dataset_free(valid);
    tl_dataset_free(stream);
    remove_temporary();
    return finish("training");
}
