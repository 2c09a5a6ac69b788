// Published networks against the code they come from: torchvision, timm, and segmentation_models' layout (tools/golden.py
// backbones). Both sides make the weights by a formula from names and indices. Compared are logits, loss, and the length and
// a projection of every gradient. Built twice: in float with the fast kernels and running statistics in the batch norms, and
// with TINYTL_DOUBLE, where cheap networks agree to rounding, also with the statistics of the batch.

#include "check.h"

#ifdef TINYTL_DOUBLE
    #define LOGITS_TOLERANCE 1e-9
    #define GRADIENT_TOLERANCE 1e-7
    #define MOST_FLOPS 9e7           // of one forward pass: plain kernels take their time
#else
    #define LOGITS_TOLERANCE 2e-5
    #define GRADIENT_TOLERANCE 5e-5
    #define MOST_FLOPS 1e12
#endif
#define MODEL_CLASSES 7

static tl__archive models_archive;

static const tl__archive_tensor *golden(const char *test, const char *kind, const char *name)
{
    char full[512];
    snprintf(full, sizeof full, "%s/%s/%s", test, kind, name);
    return tl__archive_find(&models_archive, full);
}

// Uniform on [-1, 1), as formula_values in tools/golden.py.
static double formula_value(uint32_t start, size_t index)
{
    uint32_t x = start ^ (uint32_t)((uint64_t)index * 0x9E3779B9u);
    x = (x ^ (x >> 16)) * 0x85EBCA6Bu;
    x = (x ^ (x >> 13)) * 0xC2B2AE35u;
    return (double)((x ^ (x >> 16)) >> 8) / 8388608.0 - 1;
}

static double formula_weight(const char *name, const tl__view *view, double v)
{
    double fan_in = 1;
    for (int i = 1; i < view->rank; i++) fan_in *= (double)view->dim[i];
    if (tl__ends_with(name, "running_var")) return 1 + 0.5 * v;
    if (tl__ends_with(name, "gamma") || tl__ends_with(name, "layer_scale")) return 0.5 + 0.25 * v;
    if (tl__ends_with(name, "cls_token") || tl__ends_with(name, "pos_embed")) return 0.5 * v;
    if (view->rank > 1) return v * sqrt(4.5 / fan_in);
    return tl__ends_with(name, "weight") ? 1 + 0.25 * v : 0.25 * v;
}

// The values of a tensor in the order of files: out[i] = data[place of i], or the reverse.
static void file_order(const tl__view *v, tl_real *data, tl_real *out, int set)
{
    for (size_t a = 0; a < v->n[0]; a++)
    for (size_t b = 0; b < v->n[1]; b++)
    for (size_t c = 0; c < v->n[2]; c++) {
        tl_real *from = data + a * v->step[0] + b * v->step[1] + c * v->step[2];
        for (size_t d = 0; d < v->n[3]; d++, out++) {
            if (set) from[d * v->step[3]] = *out;
            else *out = from[d * v->step[3]];
        }
    }
}

static tl_real *ordered;         // room for the largest tensor

static void set_weights(tl_net *net)
{
    for (int i = 0; i < net->tensor_count; i++) {
        const tl__tensor *t = &net->tensors[i];
        tl__view view = tl__view_of(t);
        uint32_t start = tl__hash(t->name);
        for (size_t k = 0; k < t->count; k++) ordered[k] = (tl_real)formula_weight(t->name, &view, formula_value(start, k));
        file_order(&view, tl__tensor_data(net, t), ordered, 1);
    }
}

static double worst_logits, worst_gradient;
static char worst_name[TL_NAME_MAX];

// The length of a gradient and its projection on the formula's vector.
static void compare_digest(const char *test, const char *mode, const char *name, const tl_real *grad, size_t count)
{
    char salted[TL_NAME_MAX + 8];
    const tl__archive_tensor *want = golden(test, mode, name);
    CHECK(want && want->count == 2, "%s: there is no gradient of %s", test, name);
    if (!want) return;
    snprintf(salted, sizeof salted, "d %s", name);
    uint32_t start = tl__hash(salted);
    double squares = 0, projection = 0, length = tl__archive_value(want, 0);
    for (size_t i = 0; i < count; i++) {
        double g = (double)grad[i];
        squares += g * g;
        projection += g * formula_value(start, i);
    }
    // lengths of zero gradients (a bias before a norm) are rounding; they count relative to this
    double scale = fmax(length, 1e-4), d = fmax(fabs(sqrt(squares) - length), fabs(projection - tl__archive_value(want, 1))) / scale;
    if (d > worst_gradient) snprintf(worst_name, sizeof worst_name, "%s", name);
    worst_gradient = fmax(worst_gradient, d);
    CHECK(d < GRADIENT_TOLERANCE, "%s: gradient of %s: length %.6g, wanted %.6g, projection %.6g, wanted %.6g", test, name,
          sqrt(squares), length, projection, tl__archive_value(want, 1));
}

static void compare_logits(tl_net *net, const char *test, const char *mode)
{
    const tl__node *y = &net->nodes[net->node_count - 1];
    const tl__archive_tensor *want = golden(test, mode, "logits");
    double largest = 0, worst = 0;
    for (size_t i = 0; i < want->count; i++) {            // of maps the middle row of each sample
        size_t row = (size_t)y->w * y->c, at = i / row * tl__sample_count(y) + (size_t)(y->h / 2) * row + i % row;
        largest = fmax(largest, fabs(tl__archive_value(want, i)));
        worst = fmax(worst, fabs((double)y->data[at] - tl__archive_value(want, i)));
    }
    worst_logits = worst / largest;
    CHECK(want->count == 2 * (size_t)y->w * y->c && worst < LOGITS_TOLERANCE * largest, "%s: logits differ by %.3g of %.3g", test,
          worst, largest);
}

// A training pass; digest: the kind that the gradients are found under.
static void compare_pass(tl_net *net, const char *test, const char *mode, const char *digest)
{
    tl_node x = { 1 };
    CHECK(tl_forward(net, 2, TL_TRAIN) == TL_OK, "%s: %s", test, tl_error(net));
    compare_logits(net, test, mode);
    double loss = tl_loss_value(net), want = tl__archive_value(golden(test, mode, "loss"), 0);
    CHECK(fabs(loss - want) < 10 * LOGITS_TOLERANCE * want, "%s: loss %.9g, not %.9g", test, loss, want);
    CHECK(tl_backward(net) == TL_OK, "%s: %s", test, tl_error(net));
    worst_gradient = 0;
    compare_digest(test, digest, "input", tl_grad(net, x), tl__sample_count(&net->nodes[0]) * 2);
    for (int i = 0; i < net->tensor_count; i++) {
        const tl__tensor *t = &net->tensors[i];
        tl__view view = tl__view_of(t);
        if (!t->trained) continue;
        file_order(&view, net->gradients + t->at, ordered, 0);
        compare_digest(test, digest, t->name, ordered, t->count);
    }
    printf("  %-26s %-5s logits %.1e, gradients %.1e (%s)\n", test, mode, worst_logits, worst_gradient, worst_name);
}

static void compare_buffers(tl_net *net, const char *test)
{
    for (int i = 0; i < net->tensor_count; i++) {
        const tl__tensor *t = &net->tensors[i];
        const tl__archive_tensor *after = t->trained ? NULL : golden(test, "after", t->name);
        for (size_t k = 0; after && k < t->count; k++)
            CHECK(fabs((double)net->buffers[t->at + k] - tl__archive_value(after, k)) < 10 * LOGITS_TOLERANCE, "%s: %s", test,
                  t->name);
    }
}

// stages: a trunk of so many, with global average pooling and a head; 0: all.
static void run_model(const char *test, int size, int stages)
{
    tl_net_desc desc;
    tl_backbone_desc backbone;
    tl_loss_desc loss;
    memset(&desc, 0, sizeof desc);
    memset(&backbone, 0, sizeof backbone);
    memset(&loss, 0, sizeof loss);
    desc.threads = 2;
    backbone.name = strncmp(test, "whole_", 6) ? test : test + 6; backbone.classes = MODEL_CLASSES; backbone.stages = stages;
    loss.kind = TL_CROSS_ENTROPY;
    tl_net *net = tl_net_new(&desc);
    tl_node x = tl_input(net, size, size, 3), y = tl_backbone(net, x, &backbone);
    for (int i = 0; i < net->node_count; i++)
        if (net->nodes[i].op == TL_OP_DROPOUT) net->nodes[i].attr.number.value = 0;
    tl_loss(net, y, &loss);
    tl_keep(net, x);
    size_t count = tl__sample_count(&net->nodes[0]) * 2, pixels = 2 * (size_t)tl_node_height(net, y) * tl_node_width(net, y);
    if (tl_flops(net) > MOST_FLOPS) {
        tl_net_free(net);
        return;
    }
    CHECK(tl_prepare(net, 2, 1) == TL_OK, "%s: %s", test, tl_error(net));
    ordered = (tl_real *)tl__alloc(net->parameter_count, sizeof *ordered);
    set_weights(net);
    tl_real *values = (tl_real *)tl__alloc(count, sizeof *values);
    int32_t *classes = (int32_t *)tl__alloc(pixels, sizeof *classes);
    for (size_t i = 0; i < count; i++) values[i] = (tl_real)(1.5 * formula_value(tl__hash("input"), i));
    for (size_t i = 0; i < pixels; i++) classes[i] = (int32_t)(i % MODEL_CLASSES);
    CHECK(!tl_set_input(net, x, values, 2) && !tl_set_target_index(net, 0, classes, 2), "%s: %s", test, tl_error(net));
    CHECK(tl_forward(net, 2, TL_EVAL) == TL_OK, "%s: %s", test, tl_error(net));
    compare_logits(net, test, "eval");
    for (int i = 0; i < net->node_count; i++)
        if (net->nodes[i].op == TL_OP_BATCH_NORM) net->nodes[i].stats = TL_STATS_RUNNING;
    compare_pass(net, test, "eval", "eval_digest");
    if (sizeof(tl_real) == 8 && golden(test, "train", "loss")) {
        for (int i = 0; i < net->node_count; i++) net->nodes[i].stats = TL_STATS_UNSET;
        tl_zero_grad(net);
        compare_pass(net, test, "train", "train_digest");
        compare_buffers(net, test);
    }
    tl__free(values);
    tl__free(classes);
    tl__free(ordered);
    tl_net_free(net);
}

MAIN(models, int argc, char **argv)
{
    if (tl__archive_open(&models_archive, "tests/golden/backbones.safetensors")) {
        CHECK(0, "%s", tl_error(NULL));
        return finish("models");
    }
    for (int i = 0; i < models_archive.pair_count; i++) {
        const char *test = models_archive.metadata[i].key;
        int size = 0, stages = 0;
        if (sscanf(models_archive.metadata[i].value, "size=%d stages=%d", &size, &stages) != 2) continue;
        if (argc < 2 || !strcmp(argv[1], test)) run_model(test, size, stages);
    }
    tl__archive_close(&models_archive);
    return finish("models");
}
