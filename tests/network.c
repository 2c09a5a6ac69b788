// Networks as such: errors while building, names, several inputs and outputs, the memory plan, the text form, receptive fields,
// counts, and prediction in tiles.

#include <stddef.h>

#include "check.h"
#include "temporary.h"

static tl_net *new_net(void)
{
    tl_net_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.seed = 4;
    desc.threads = 1;
    return tl_net_new(&desc);
}

static tl_net *net_of(const char *text)
{
    tl_net *net = new_net();
    CHECK(tl_parse(net, text) == TL_OK, "%s: %s", text, tl_error(net));
    return net;
}

// ---- errors while building -----------------------------------------------------------------

typedef struct bad_text {
    const char *text;
    const char *says[3];      // parts of the sentence: the layer, the shapes
} bad_text;

#define SMALL_INPUT "x = input() height=3 width=4 channels=2\n"

static const bad_text bad_texts[] = {
    { "x = input() width=4 channels=2",                         { "input 'x'", "height", "0" } },
    { "x = input() height=40000 width=4 channels=2",            { "input 'x'", "height", "40000" } },
    { "x = input() height=32768 width=32768 channels=2",        { "input 'x'", "32768x32768x2", NULL } },
    { SMALL_INPUT "c1 = conv2d(x) out=4 kernel=5",                        { "conv2d 'c1'", "kernel 5x5", "input 3x4x2" } },
    { SMALL_INPUT "c1 = conv2d(x) out=4 kernel=2 dilation=3",             { "conv2d 'c1'", "kernel 2x2 (dilated)", "input 3x4x2" } },
    { SMALL_INPUT "c1 = conv2d(x) out=4 kernel=3 kernel_w=7 pad=1",       { "conv2d 'c1'", "kernel 3x7", "padding 1,1" } },
    { SMALL_INPUT "c1 = conv2d(x) kernel=3",                              { "conv2d 'c1'", "out is 0", NULL } },
    { SMALL_INPUT "c1 = conv2d(x) out=4",                                 { "conv2d 'c1'", "kernel is 0", NULL } },
    { SMALL_INPUT "c1 = conv2d(x) out=4 kernel=1 stride=-1",              { "conv2d 'c1'", "stride is -1", NULL } },
    { SMALL_INPUT "c1 = conv2d(x) out=4 kernel=1 pad=-1",                 { "conv2d 'c1'", "pad is -1", NULL } },
    { SMALL_INPUT "c1 = conv2d(x) out=4 kernel=1 groups=3",               { "conv2d 'c1'", "3 groups", "2 input" } },
    { SMALL_INPUT "c1 = conv2d(x) out=3 kernel=1 groups=2",               { "conv2d 'c1'", "2 groups", "3 output" } },
    { SMALL_INPUT "c1 = conv2d(x) out=3 kernel=3 same=1 stride=2",        { "conv2d 'c1'", "same padding", NULL } },
    { SMALL_INPUT "c1 = conv2d(x) out=3 kernel=3 same=1 pad=1",           { "conv2d 'c1'", "same padding", NULL } },
    { SMALL_INPUT "c1 = conv2d(x) out=32768 kernel=300 pad=149",          { "c1.weight", "values", NULL } },
    { SMALL_INPUT "t1 = conv_transpose2d(x) out=3 kernel=2 pad=4",        { "conv_transpose2d 't1'", "3x4x2", "padding 4,4" } },
    { SMALL_INPUT "t1 = conv_transpose2d(x) out=3 kernel=2 stride=2 output_pad=2", { "conv_transpose2d 't1'", "output_pad 2", "stride" } },
    { SMALL_INPUT "t1 = conv_transpose2d(x) out=3 kernel=2 stride=32768", { "conv_transpose2d 't1'", "3x4x2", "32768" } },
    { SMALL_INPUT "t1 = conv_transpose2d(x) out=3 kernel=2 groups=2",     { "conv_transpose2d 't1'", "2 groups", "3 output" } },
    { SMALL_INPUT "d1 = dense(x)",                                        { "dense 'd1'", "out is 0", NULL } },
    { SMALL_INPUT "d1 = dense(x) out=2000000000",                         { "d1", "values", NULL } },
    { SMALL_INPUT "n1 = group_norm(x)",                                   { "group_norm 'n1'", "0 groups", "2 channels" } },
    { SMALL_INPUT "n1 = group_norm(x) groups=4",                          { "group_norm 'n1'", "4 groups", "3x4x2" } },
    { SMALL_INPUT "n1 = batch_norm(x) eps=2",                             { "eps", NULL, NULL } },
    { SMALL_INPUT "p1 = max_pool2d(x) kernel=4",                          { "max_pool2d 'p1'", "kernel 4x4", "3x4x2" } },
    { SMALL_INPUT "p1 = avg_pool2d(x) kernel=3 pad=2",                    { "avg_pool2d 'p1'", "padding 2,2", "kernel 3x3" } },
    { SMALL_INPUT "p1 = max_pool2d(x)",                                   { "max_pool2d 'p1'", "kernel is 0", NULL } },
    { SMALL_INPUT "p1 = adaptive_avg_pool2d(x) height=2",                 { "adaptive_avg_pool2d 'p1'", "width is 0", NULL } },
    { SMALL_INPUT "u1 = upsample(x)",                                     { "upsample 'u1'", "factor 0", "3x4x2" } },
    { SMALL_INPUT "u1 = upsample(x) factor=20000",                        { "upsample 'u1'", "factor 20000", "3x4x2" } },
    { SMALL_INPUT "u1 = upsample(x) factor=2 mode=cubic",                 { "nearest or bilinear", NULL, NULL } },
    { SMALL_INPUT "o1 = dropout(x) p=1.5",                                { "dropout 'o1'", "1.5", NULL } },
    { SMALL_INPUT "y = input() height=3 width=5 channels=2\nj1 = concat(x, y)", { "concat 'j1'", "3x4x2", "3x5x2" } },
    { SMALL_INPUT "y = input() height=3 width=4 channels=3\nj1 = add(x, y)",    { "add 'j1'", "'x' is 3x4x2", "'y' is 3x4x3" } },
    { SMALL_INPUT "y = input() height=1 width=1 channels=3\nj1 = mul(x, y)",    { "mul 'j1'", "3x4x2", "1x1x3" } },
    { SMALL_INPUT "y = input() height=1 width=4 channels=2\nj1 = mul(x, y)",    { "mul 'j1'", "3x4x2", "1x4x2" } },
    { SMALL_INPUT "x = relu(x)",                                          { "'x' is taken", NULL, NULL } },
    { SMALL_INPUT "y = relu(z)",                                          { "line 2", "'z'", NULL } },
    { SMALL_INPUT "y = relu(x, x)",                                       { "line 2", "number of inputs", NULL } },
    { SMALL_INPUT "y = add(x)",                                           { "line 2", "number of inputs", NULL } },
    { SMALL_INPUT "y = concat(x, x, x, x, x, x, x, x, x)",                { "line 2", NULL, NULL } },
    { SMALL_INPUT "y = cnov2d(x) out=3",                                  { "line 2", "'cnov2d'", NULL } },
    { SMALL_INPUT "y = conv2d(x) out=3 kernl=3",                          { "line 2", "'kernl'", "it takes out, kernel" } },
    { SMALL_INPUT "y = conv2d(x) out=3.5 kernel=3",                       { "line 2", "whole number", NULL } },
    { SMALL_INPUT "y = conv2d(x) out=99999999999 kernel=3",               { "line 2", "whole number", NULL } },
    { SMALL_INPUT "y = conv2d(x) out=three kernel=3",                     { "line 2", "number", NULL } },
    { SMALL_INPUT "y = conv2d(x",                                         { "line 2", NULL, NULL } },
    { SMALL_INPUT "y = ",                                                 { "line 2", NULL, NULL } },
    { SMALL_INPUT "y",                                                    { "line 2", NULL, NULL } },
    { SMALL_INPUT "?",                                                    { "line 2", NULL, NULL } },
    { SMALL_INPUT "output(y)",                                            { "line 2", NULL, NULL } },
    { SMALL_INPUT "loss nothing(x)",                                      { "line 2", "nothing", NULL } },
    { SMALL_INPUT "loss mse(y)",                                          { "line 2", "'y'", NULL } },
    { SMALL_INPUT "loss bce(x)",                                          { "'x'", "BCE", "2 channels" } },
    { SMALL_INPUT "loss dice(x) smoothing=0.1",                           { "'x'", "Dice", "smoothing" } },
    { SMALL_INPUT "loss cross_entropy(x) smoothing=1",                    { "'x'", "smoothing 1", NULL } },
    { SMALL_INPUT "loss cross_entropy(x) class_weight=1",                 { "class_weight", NULL, NULL } },
    { SMALL_INPUT "loss cross_entropy(x) class_weight=1,-2",              { "'x'", "class_weight[1]", "-2" } },
    { SMALL_INPUT "loss mse(x) ignore_index=3",                           { "'x'", "ignore_index", NULL } },
    { SMALL_INPUT "loss focal(x) alpha=0.3",                              { "'x'", "alpha", NULL } },
    { SMALL_INPUT "loss huber(x) delta=-1",                               { "'x'", "delta", NULL } },
    { "x = input() height=3 width=4 channels=1\nloss cross_entropy(x)", { "'x'", "one channel", NULL } }
};

static void check_says(const tl_net *net, const char *what, const char *const *says)
{
    CHECK(tl_status(net) != TL_OK, "%s: is accepted", what);
    for (int k = 0; k < 3 && says[k]; k++)
        CHECK(strstr(tl_error(net), says[k]) != NULL, "%s: '%s' is not in the sentence: %s", what, says[k], tl_error(net));
    CHECK(strcmp(tl_error(net), tl_error(NULL)) == 0, "%s: the thread has another sentence: %s", what, tl_error(NULL));
}

static void test_bad_texts(void)
{
    for (size_t i = 0; i < sizeof bad_texts / sizeof *bad_texts; i++) {
        size_t blocks = live_blocks;
        tl_net *net = new_net();
        CHECK(tl_parse(net, bad_texts[i].text) == tl_status(net), "%s: code and status differ", bad_texts[i].text);
        check_says(net, bad_texts[i].text, bad_texts[i].says);
        tl_net_free(net);
        CHECK(live_blocks == blocks, "%s: leaks", bad_texts[i].text);
    }
}

// Mistakes that only calls can make. Case number i; 0 when there are no more.
static int make_bad_call(tl_net *net, int i, const char **says)
{
    char long_name[200];
    memset(long_name, 'a', sizeof long_name);
    long_name[sizeof long_name - 1] = 0;
    tl_node x = tl_input(net, 5, 6, 2), none = { 0 }, foreign = { 99 }, many[TL_INPUT_MAX + 1];
    tl_conv2d_desc conv;
    tl_norm_desc norm;
    tl_unet_desc unet;
    tl_loss_desc loss;
    memset(&conv, 0, sizeof conv);
    memset(&norm, 0, sizeof norm);
    memset(&unet, 0, sizeof unet);
    memset(&loss, 0, sizeof loss);
    conv.name = "c1"; conv.out = 3; conv.kernel = 3;
    unet.classes = 2;
    for (int k = 0; k <= TL_INPUT_MAX; k++) many[k] = x;
    int bad_width[2] = { 3, 0 };
    switch (i) {
    case 0: tl_conv2d(net, x, NULL); *says = "description is NULL"; return 1;
    case 1: tl_conv2d(net, none, &conv); *says = "'c1': input 1 is not a node"; return 1;
    case 2: tl_relu(net, foreign); *says = "not a node of this network"; return 1;
    case 3: tl_concat(net, many, TL_INPUT_MAX + 1); *says = "9 inputs"; return 1;
    case 4: tl_concat(net, NULL, 2); *says = "inputs"; return 1;
    case 5: tl_concat(net, many, 0); *says = "0 inputs"; return 1;
    case 6: conv.name = long_name; tl_conv2d(net, x, &conv); *says = "cannot be a name"; return 1;
    case 7: conv.name = "c 1"; tl_conv2d(net, x, &conv); *says = "'c 1' cannot be a name"; return 1;
    case 8: conv.name = ""; tl_conv2d(net, x, &conv); *says = "cannot be a name"; return 1;
    case 9: tl_rename(net, tl_conv2d(net, x, &conv), "d"); *says = "'c1' has parameters"; return 1;
    case 10: tl_rename(net, x, NULL); *says = "no name"; return 1;
    case 11: tl_rename(net, tl_relu(net, x), tl_node_name(net, x)); *says = "is taken"; return 1;
    case 12: tl_pop(net); *says = "no level is open"; return 1;
    case 13: tl_push(net, ""); *says = "empty"; return 1;
    case 14: tl_push(net, long_name); *says = "too long"; return 1;
    case 15: tl_push(net, NULL); *says = "empty"; return 1;
    case 16: tl_output(net, foreign); *says = "no such node"; return 1;
    case 17: norm.name = "bn"; norm.eps = -1; tl_batch_norm(net, x, &norm); *says = "'bn'"; return 1;
    case 18: norm.name = "bn"; norm.momentum = NAN; tl_batch_norm(net, x, &norm); *says = "'bn'"; return 1;
    case 19: tl_group_norm(net, x, NULL); *says = "0 groups"; return 1;
    case 20: tl_upsample(net, x, 2, (tl_resample)7); *says = "mode 7"; return 1;
    case 21: tl_dropout(net, x, NAN); *says = "nan"; return 1;
    case 22: tl_leaky_relu(net, x, INFINITY); *says = "slope"; return 1;
    case 23: tl_leaky_relu(net, x, NAN); *says = "slope"; return 1;
    case 24: tl_unet(net, x, &unet); *says = "multiples of 16, but the input is 5x6; use for example 16x16"; return 1;
    case 25: tl_unet(net, x, NULL); *says = "0 classes"; return 1;
    case 26: unet.depth = 11; tl_unet(net, x, &unet); *says = "depth 11"; return 1;
    case 27: tl_mlp(net, x, NULL, 2); *says = "width"; return 1;
    case 28: tl_mlp(net, x, bad_width, 2); *says = "'fc2'"; return 1;
    case 29: tl_lenet5(net, tl_input(net, 4, 4, 1), 10); *says = "conv2d 'conv2': kernel 5x5 does not fit input 2x2x6"; return 1;
    case 30: tl_residual_block(net, x, 0, 1); *says = "'conv1': out is 0"; return 1;
    case 31: tl_loss(net, x, NULL); *says = "no description"; return 1;
    case 32: tl_loss(net, x, &loss); *says = "kind 0"; return 1;
    case 33: loss.kind = TL_MSE; loss.weight = NAN; tl_loss(net, x, &loss); *says = "weight"; return 1;
    case 34: loss.kind = TL_MSE; tl_loss(net, none, &loss); *says = "no such node"; return 1;
    case 35: tl_parse(net, NULL); *says = "no text"; return 1;
    case 36: tl_push(net, "a"); tl_parse(net, "y = relu(x)\n"); *says = "'a.' is still open"; return 1;
    case 37: tl_prepare(net, 1, 0); tl_relu(net, x); *says = "after tl_prepare"; return 1;
    case 38: tl_prepare(net, 1, 0); loss.kind = TL_MSE; tl_loss(net, x, &loss); *says = "before tl_prepare"; return 1;
    case 39: conv.name = "c1"; conv.kernel = 40000; tl_conv2d(net, x, &conv); *says = "conv2d 'c1': kernel is 40000"; return 1;
    default: return 0;
    }
}

static void test_bad_calls(void)
{
    for (int i = 0; ; i++) {
        size_t blocks = live_blocks;
        char what[32];
        const char *says[3] = { NULL, NULL, NULL };
        tl_net *net = new_net();
        if (!make_bad_call(net, i, &says[0])) {
            tl_net_free(net);
            break;
        }
        snprintf(what, sizeof what, "bad call %d", i);
        check_says(net, what, says);
        CHECK(tl_relu(net, tl_last(net)).id == 0, "bad call %d: later nodes are none", i);
        CHECK(strstr(tl_error(net), says[0]) != NULL, "bad call %d: the first sentence stays, not %s", i, tl_error(net));
        tl_net_free(net);
        CHECK(live_blocks == blocks, "bad call %d: leaks", i);
    }
    tl_net_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.threads = 1000;
    tl_net *net = tl_net_new(&desc);
    CHECK(net && tl_status(net) != TL_OK && strstr(tl_error(net), "1000"), "1000 threads: %s", tl_error(net));
    tl_net_free(net);
    desc.threads = 1;
    desc.isa = (tl_isa)77;
    net = tl_net_new(&desc);
    CHECK(net && tl_status(net) != TL_OK && strstr(tl_error(net), "unknown"), "isa 77: %s", tl_error(net));
    tl_net_free(net);
}

// A code, and a sentence for it.
#define MUST_FAIL(call)                                                                  \
    do {                                                                                 \
        CHECK((call) != TL_OK, #call " is accepted");                                    \
        CHECK(strlen(tl_error(NULL)) > 0, #call " leaves no sentence");                  \
        if (net) CHECK(strlen(tl_error(net)) > 0, #call " leaves no sentence in the network"); \
    } while (0)

static int stop_at_once(void *user, const tl_progress *p)
{
    (void)user;
    (void)p;
    return 1;
}

static tl_result no_record(void *user, uint32_t epoch, int index, tl_record *out)
{
    (void)user;
    (void)epoch;
    (void)index;
    return tl_image_alloc(&out->image, 5, 5, 1, TL_U8);
}

// Every function that takes a network, on NULL, on one in error, and on an empty one. `path` is of a file that may be written.
static void call_everything(tl_net *net, const char *path)
{
    char text[64];
    double worst;
    tl_real value[4] = { 0, 0, 0, 0 };
    const tl_real *grads[1] = { value };
    int32_t classes[4] = { 0, 0, 0, 0 };
    int widths[2] = { 3, 2 };
    tl_plan plan;
    tl_node nodes[2] = { { 1 }, { 2 } }, x = { 1 };
    tl_image image, out;
    tl_load_report report;
    memset(&image, 0, sizeof image);
    memset(&out, 0, sizeof out);
    tl_image_alloc(&image, 5, 5, 1, TL_U8);
    tl_dataset *data = tl_dataset_from(3, no_record, NULL);
    tl_optimizer_desc rule;
    tl_group_desc group;
    tl_loss_desc loss;
    tl_conv2d_desc conv;
    tl_conv_transpose2d_desc deconv;
    tl_dense_desc dense;
    tl_pool2d_desc pool;
    tl_unet_desc unet;
    tl_fit_desc fit;
    tl_preprocess preprocess;
    memset(&rule, 0, sizeof rule);
    memset(&group, 0, sizeof group);
    memset(&loss, 0, sizeof loss);
    memset(&conv, 0, sizeof conv);
    memset(&deconv, 0, sizeof deconv);
    memset(&dense, 0, sizeof dense);
    memset(&pool, 0, sizeof pool);
    memset(&unet, 0, sizeof unet);
    memset(&fit, 0, sizeof fit);
    memset(&preprocess, 0, sizeof preprocess);
    rule.kind = TL_SGD; rule.lr = 0.1f;
    group.params = "*";
    loss.kind = TL_MSE;
    conv.out = deconv.out = dense.out = 2;
    conv.kernel = deconv.kernel = pool.kernel = 1;
    unet.classes = 2;
    fit.train = data; fit.epochs = fit.batch = 1; fit.optimizer = rule; fit.progress = stop_at_once;

    CHECK(tl_error(net) != NULL, "tl_error is never NULL");
    // building
    tl_conv2d(net, x, &conv); tl_conv2d(net, x, NULL); tl_conv_transpose2d(net, x, &deconv); tl_conv_transpose2d(net, x, NULL);
    tl_dense(net, x, &dense); tl_dense(net, x, NULL); tl_batch_norm(net, x, NULL); tl_group_norm(net, x, NULL); tl_layer_norm(net, x, NULL);
    tl_relu(net, x); tl_leaky_relu(net, x, 0.1f); tl_relu6(net, x); tl_sigmoid(net, x); tl_tanh(net, x); tl_gelu(net, x); tl_silu(net, x);
    tl_softmax(net, x); tl_max_pool2d(net, x, &pool); tl_max_pool2d(net, x, NULL); tl_avg_pool2d(net, x, &pool); tl_avg_pool2d(net, x, NULL);
    tl_adaptive_avg_pool2d(net, x, 1, 1); tl_global_avg_pool2d(net, x); tl_upsample(net, x, 2, TL_NEAREST); tl_concat(net, nodes, 2);
    tl_concat(net, NULL, 2); tl_add(net, x, x); tl_mul(net, x, x); tl_flatten(net, x); tl_dropout(net, x, 0.5f);
    tl_mlp(net, x, widths, 2); tl_lenet5(net, x, 3); tl_residual_block(net, x, 2, 1); tl_unet(net, x, &unet); tl_unet(net, x, NULL);
    tl_push(net, "a"); tl_pop(net); tl_rename(net, x, "b"); tl_output(net, x);
    CHECK(tl_loss(net, x, &loss) == -1, "a loss");
    CHECK(tl_find(net, "x").id == 0 && tl_find(net, NULL).id == 0, "find");
    MUST_FAIL(tl_parse(net, "y = relu(x)\n"));
    // asking
    tl_node_count(net); tl_node_name(net, x); tl_node_op(net, x); tl_node_height(net, x); tl_node_width(net, x); tl_node_channels(net, x);
    tl_last(net); tl_tensor_count(net); tl_parameter_count(net); tl_flops(net); tl_receptive_field(net, x); tl_get_preprocess(net);
    CHECK(tl_parameters(net) == NULL && tl_gradients(net) == NULL, "there are no parameters");
    CHECK(tl_tensor_at(net, 0).data == NULL && tl_tensor_at(net, -1).data == NULL && tl_param(net, "w").data == NULL && tl_param(net, NULL).data == NULL, "param");
    CHECK(strlen(tl_error(NULL)) > 0, "param leaves a sentence");
    tl_describe(net, 1, text, sizeof text); tl_describe(net, 0, text, 0); tl_to_text(net, text, sizeof text); tl_to_text(net, NULL, 0);
    // running
    MUST_FAIL(tl_memory(net, 1, 1, &plan));
    MUST_FAIL(tl_prepare(net, 1, 1));
    MUST_FAIL(tl_set_input(net, x, value, 1));
    MUST_FAIL(tl_forward(net, 1, TL_TRAIN));
    MUST_FAIL(tl_backward(net));
    MUST_FAIL(tl_backward_from(net, nodes, grads, 1));
    MUST_FAIL(tl_set_target_index(net, 0, classes, 1));
    MUST_FAIL(tl_set_target_dense(net, 0, value, 1));
    CHECK(isnan(tl_loss_value(net)), "tl_loss_value(net) gives a number");
    CHECK(isnan(tl_loss_term(net, 0)), "tl_loss_term(net, 0) gives a number");
    MUST_FAIL(tl_step(net));
    tl_zero_grad(net); tl_keep(net, x); tl_keep_all(net); tl_step_count(net); tl_grad_norm(net);
    tl_learning_rate(net, NULL); tl_learning_rate(net, "w");
    CHECK(tl_data(net, x) == NULL && tl_grad(net, x) == NULL, "there is no data");
    MUST_FAIL(tl_optimizer(net, NULL));
    MUST_FAIL(tl_group(net, NULL));
    tl_optimizer(net, &rule); tl_group(net, &group);
    MUST_FAIL(tl_predict(net, &image, NULL, &out));
    MUST_FAIL(tl_predict(net, NULL, NULL, NULL));
    MUST_FAIL(tl_segment(net, &image, NULL, &out));
    MUST_FAIL(tl_segment(net, &image, NULL, NULL));
    MUST_FAIL(tl_set_preprocess(net, NULL));
    tl_set_preprocess(net, &preprocess);
    MUST_FAIL(tl_save(net, path));
    MUST_FAIL(tl_save(net, NULL));
    MUST_FAIL(tl_load(net, path, NULL, &report));
    MUST_FAIL(tl_load(net, NULL, NULL, NULL));
    MUST_FAIL(tl_fit(net, &fit, NULL));
    MUST_FAIL(tl_fit(net, NULL, NULL));
    MUST_FAIL(tl_check_gradients(net, 1, 1, &worst, text, sizeof text));
    MUST_FAIL(tl_memory(net, 1, 1, NULL));
    MUST_FAIL(tl_backward_from(net, NULL, NULL, 1));
    tl_image_free(&image);
    tl_image_free(&out);
    tl_dataset_free(data);
}

static void test_harmless(void)
{
    const char *path = temporary_path("never.safetensors");
    size_t blocks = live_blocks;
    call_everything(NULL, path);
    tl_net *net = new_net();
    tl_pop(net);                                          // the first error
    char first[TL__ERROR_MAX];
    memcpy(first, tl_error(net), sizeof first);
    call_everything(net, path);
    CHECK(strcmp(first, tl_error(net)) == 0, "the first sentence stays, not: %s", tl_error(net));
    tl_net_free(net);
    net = new_net();
    call_everything(net, path);
    tl_net_free(net);
    tl_net_free(NULL);
    tl_pool_free(NULL);
    tl_dataset_free(NULL);
    tl_record_free(NULL);
    tl_image_free(NULL);
    CHECK(live_blocks == blocks, "%zu blocks are left", live_blocks - blocks);
    CHECK(access(path, F_OK) != 0, "a file was written");
    CHECK(strcmp(tl_result_name(TL_ERR_SHAPE), "TL_ERR_SHAPE") == 0 && strlen(tl_result_name((tl_result)99)) > 0, "names of results");
    for (int i = 0; i < TL_RESULT_COUNT; i++) CHECK(strncmp(tl_result_name((tl_result)i), "TL_", 3) == 0, "result %d has no name", i);
}

// Refused calls on a good network leave it as it was.
static void test_refused(void)
{
    tl_net *net = net_of(SMALL_INPUT "c = conv2d(x) out=3 kernel=3 pad=1\nr = relu(c)\nd = conv2d(r) out=2 kernel=1\nloss mse(d)\n");
    tl_node x = tl_find(net, "x"), r = tl_find(net, "r"), d = tl_find(net, "d");
    tl_plan plan;
    char text[32];
    tl_real values[3 * 24];
    memset(values, 0, sizeof values);
    CHECK(tl_forward(net, 1, TL_EVAL) == TL_ERR_STATE && strlen(tl_error(net)) > 0, "forward before prepare");
    CHECK(tl_memory(net, 0, 1, &plan) != TL_OK && strstr(tl_error(net), "batch"), "memory for a batch of 0: %s", tl_error(net));
    CHECK(tl_status(net) == TL_OK, "asking for the memory of a batch of 0 spoils the network: %s", tl_error(net));
    tl_describe(net, 0, text, sizeof text);
    CHECK(tl_status(net) == TL_OK, "describing it for a batch of 0 spoils the network: %s", tl_error(net));
    CHECK(tl_prepare(net, 0, 1) != TL_OK && tl_prepare(net, 1 << 20, 1) != TL_OK, "a batch of 0, and of a million");
    CHECK(tl_status(net) == TL_OK, "preparing for a batch of 0 spoils the network: %s", tl_error(net));
    tl_net_free(net);

    net = net_of(SMALL_INPUT "c = conv2d(x) out=3 kernel=3 pad=1\nr = relu(c)\nd = conv2d(r) out=2 kernel=1\nloss mse(d)\n");
    CHECK(tl_prepare(net, 2, 1) == TL_OK, "%s", tl_error(net));
    CHECK(tl_memory(net, 0, 1, &plan) != TL_OK && strstr(tl_error(net), "batch"), "memory of a prepared network for a batch of 0: '%s'", tl_error(net));
    CHECK(tl_set_input(net, d, values, 1) == TL_ERR_ARGUMENT && strstr(tl_error(net), "'d' is not an input"), "%s", tl_error(net));
    CHECK(tl_set_input(net, x, values, 3) == TL_ERR_ARGUMENT && tl_set_input(net, x, NULL, 1) == TL_ERR_ARGUMENT, "3 of 2 samples");
    CHECK(tl_data(net, r) == NULL && strstr(tl_error(net), "tl_keep"), "data of a node that is not kept: %s", tl_error(net));
    CHECK(tl_grad(net, d) == NULL && strstr(tl_error(net), "tl_keep"), "gradient of a node that is not kept: %s", tl_error(net));
    tl_keep(net, r);
    CHECK(strstr(tl_error(net), "before tl_prepare") != NULL, "keep after prepare: %s", tl_error(net));
    CHECK(tl_loss_term(net, 3) != tl_loss_term(net, 3) && tl_param(net, "c.wait").data == NULL && strstr(tl_error(net), "c.wait"), "%s", tl_error(net));
    CHECK(tl_status(net) == TL_OK, "%s", tl_error(net));
    tl_set_input(net, x, values, 2);
    tl_set_target_dense(net, 0, values, 2);
    CHECK(tl_forward(net, 2, TL_TRAIN) == TL_OK && tl_backward(net) == TL_OK, "%s", tl_error(net));
    // an output that was not one when the memory was planned
    tl_output(net, r);
    CHECK(tl_forward(net, 2, TL_TRAIN) == TL_OK, "%s", tl_error(net));
    const tl_real *grads[1] = { values };
    CHECK(tl_backward_from(net, &r, grads, 1) != TL_OK, "a gradient for a node that became an output after tl_prepare");
    tl_net_free(net);
}

// ---- names ---------------------------------------------------------------------------------

static void test_names(void)
{
    tl_net *net = new_net();
    tl_conv2d_desc conv;
    memset(&conv, 0, sizeof conv);
    conv.out = 2; conv.kernel = 1; conv.name = "conv";
    tl_node x = tl_input(net, 4, 4, 1);
    CHECK(strcmp(tl_node_name(net, x), "input1") == 0, "the input is called %s", tl_node_name(net, x));
    tl_push(net, "a");
    tl_node first = tl_conv2d(net, x, &conv);
    tl_push(net, "b.c");
    tl_node second = tl_conv2d(net, x, &conv), third = tl_relu(net, second);
    tl_pop(net);                                            // "b.c" is one level
    tl_pop(net);
    conv.name = NULL;
    tl_node fourth = tl_conv2d(net, x, &conv);
    CHECK(tl_status(net) == TL_OK, "%s", tl_error(net));
    CHECK(strcmp(tl_node_name(net, first), "a.conv") == 0 && strcmp(tl_node_name(net, second), "a.b.c.conv") == 0 &&
          strcmp(tl_node_name(net, third), "a.b.c.relu4") == 0 && strcmp(tl_node_name(net, fourth), "conv2d5") == 0,
          "names: %s %s %s %s", tl_node_name(net, first), tl_node_name(net, second), tl_node_name(net, third), tl_node_name(net, fourth));
    tl_rename(net, third, "act");
    CHECK(tl_find(net, "act").id == third.id && tl_find(net, "a.b.c.relu4").id == 0 && tl_find(net, "a.conv").id == first.id, "find after rename");
    CHECK(tl_node_count(net) == 5 && tl_last(net).id == fourth.id && tl_node_op(net, third) == TL_OP_RELU && tl_node_height(net, third) == 4 &&
          tl_node_width(net, third) == 4 && tl_node_channels(net, third) == 2, "what a node is");
    CHECK(tl_tensor_count(net) == 6 && strcmp(tl_tensor_at(net, 2).name, "a.b.c.conv.weight") == 0 && tl_tensor_at(net, 2).rank == 4 &&
          tl_tensor_at(net, 2).dim[3] == 2 && tl_tensor_at(net, 2).count == 2 && tl_tensor_at(net, 2).trained == 1, "tensors");
    CHECK(tl_parameter_count(net) == 12, "%zu parameters", tl_parameter_count(net));
    tl_net_free(net);
}

// ---- what is kept --------------------------------------------------------------------------

// In places, through joins, with two outputs and two inputs.
static const char tangle[] =
    "x = input() height=6 width=8 channels=2\nz = input() height=6 width=8 channels=3\n"
    "c1 = conv2d(x) out=4 kernel=3 pad=1\nr1 = relu(c1)\nc2 = conv2d(r1) out=4 kernel=3 pad=1\nb2 = batch_norm(c2)\nr2 = relu(b2)\n"
    "a2 = add(r2, r1)\nt = tanh(c2)\nj = concat(a2, z, t)\nc3 = conv2d(j) out=4 kernel=1\ns3 = sigmoid(c3)\np = max_pool2d(s3) kernel=2\n"
    "u = upsample(p) factor=2 mode=bilinear\nm = mul(u, s3)\ng = adaptive_avg_pool2d(m) height=1 width=1\ngd = dense(g) out=4\ngs = sigmoid(gd)\n"
    "q = mul(m, gs)\nc4 = conv2d(q) out=2 kernel=3 pad=1\nf = flatten(c4)\nfr = relu(f)\nd = dense(fr) out=3\n"
    "l = gelu(c4)\nd2 = dropout(l) p=0.2\nh = conv2d(d2) out=2 kernel=1\noutput(h)\noutput(d)\n"
    "loss cross_entropy(h)\nloss dice(h)\nloss cross_entropy(d)\nloss mse(q) weight=0.1\n";

static void fill_tangle(tl_net *net)
{
    tl_real values[2 * 6 * 8 * 4];
    int32_t classes[2 * 6 * 8];
    tl_rng rng = tl_rng_at(1, TL_RANDOM_USER, 0, 0, 0);
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) values[i] = (tl_real)tl_random_normal(&rng);
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) classes[i] = (int32_t)tl_random_below(&rng, 2);
    CHECK(!tl_set_input(net, tl_find(net, "x"), values, 2) && !tl_set_input(net, tl_find(net, "z"), values + 7, 2), "%s", tl_error(net));
    CHECK(!tl_set_target_index(net, 0, classes, 2) && !tl_set_target_index(net, 2, classes, 2) && !tl_set_target_dense(net, 3, values, 2), "%s", tl_error(net));
}

static tl_net *run_tangle(int keep)                       // the id of a node, 0: none, -1: all
{
    tl_net *net = net_of(tangle);
    tl_node node = { keep };
    if (keep > 0) tl_keep(net, node);
    if (keep < 0) tl_keep_all(net);
    CHECK(tl_prepare(net, 3, 1) == TL_OK, "%s", tl_error(net));
    fill_tangle(net);
    CHECK(tl_forward(net, 2, TL_TRAIN) == TL_OK && tl_backward(net) == TL_OK, "%s", tl_error(net));
    return net;
}

// Whatever is kept, the parameters get the same gradients; and what is kept is what a network that keeps everything has.
static void test_keep(void)
{
    tl_net *all = run_tangle(-1);
    for (int id = 0; id <= tl_node_count(all); id++) {
        tl_net *one = run_tangle(id);
        tl_node node = { id };
        CHECK(memcmp(all->gradients, one->gradients, all->parameter_count * sizeof(tl_real)) == 0, "keeping '%s': other gradients", tl_node_name(all, node));
        CHECK(memcmp(all->buffers, one->buffers, all->buffer_count * sizeof(tl_real)) == 0, "keeping '%s': other statistics", tl_node_name(all, node));
        CHECK(tl_loss_value(all) == tl_loss_value(one), "keeping '%s': another loss", tl_node_name(all, node));
        if (id > 0) {
            size_t bytes = tl__sample_count(&all->nodes[id - 1]) * 2 * sizeof(tl_real);
            tl_real *data = tl_data(one, node), *grad = tl_grad(one, node), *want = tl_grad(all, node);
            CHECK(data && memcmp(data, tl_data(all, node), bytes) == 0, "keeping '%s': other data", tl_node_name(all, node));
            CHECK(grad && want && memcmp(grad, want, bytes) == 0, "keeping '%s': another gradient than when all are kept", tl_node_name(all, node));
        }
        tl_net_free(one);
    }
    tl_net_free(all);
}

// The same as an inference: outputs alone, everything else shares places.
static void test_inference(void)
{
    tl_net *train = net_of(tangle), *infer = net_of(tangle);
    tl_node h = tl_find(train, "h"), d = tl_find(train, "d");
    CHECK(!tl_prepare(train, 2, 1) && !tl_prepare(infer, 2, 0), "%s", tl_error(infer));
    fill_tangle(train);
    fill_tangle(infer);
    CHECK(!tl_forward(train, 2, TL_EVAL) && !tl_forward(infer, 2, TL_EVAL), "%s", tl_error(infer));
    CHECK(memcmp(tl_data(train, h), tl_data(infer, h), 2 * 6 * 8 * 2 * sizeof(tl_real)) == 0 &&
          memcmp(tl_data(train, d), tl_data(infer, d), 2 * 3 * sizeof(tl_real)) == 0, "inference gives other bits");
    CHECK(tl_loss_value(train) == tl_loss_value(infer), "inference gives another loss");
    CHECK(tl_forward(infer, 2, TL_TRAIN) == TL_ERR_STATE, "training on a network prepared for inference");
    CHECK(tl_gradients(infer) == NULL && tl_param(infer, "c1.weight").grad == NULL, "an inference has no gradients");
    // the parameters survive a new plan
    tl_real *before = (tl_real *)tl__alloc(infer->parameter_count, sizeof *before);
    memcpy(before, infer->parameters, infer->parameter_count * sizeof *before);
    CHECK(!tl_prepare(infer, 7, 1) && memcmp(before, infer->parameters, infer->parameter_count * sizeof *before) == 0, "prepare again: other parameters");
    CHECK(!tl_prepare(infer, 1, 0), "%s", tl_error(infer));
    tl__free(before);
    tl_net_free(train);
    tl_net_free(infer);
}

// Gradients from outside, of one output at a time, add up to those of both.
static void test_outputs(void)
{
    tl_net *net = net_of(tangle);
    tl_node nodes[2] = { tl_find(net, "h"), tl_find(net, "d") }, c1 = tl_find(net, "c1");
    tl_real gh[2 * 6 * 8 * 2], gd[6];
    const tl_real *grads[2] = { gh, gd };
    for (int i = 0; i < 192; i++) gh[i] = (tl_real)(0.01 * (i % 7) - 0.02);
    for (int i = 0; i < 6; i++) gd[i] = (tl_real)(0.1 * i - 0.2);
    CHECK(tl_prepare(net, 2, 1) == TL_OK, "%s", tl_error(net));
    fill_tangle(net);
    tl_real *both = (tl_real *)tl__alloc(net->parameter_count, sizeof *both);
    CHECK(!tl_forward(net, 2, TL_TRAIN) && !tl_backward_from(net, nodes, grads, 2), "%s", tl_error(net));
    memcpy(both, net->gradients, net->parameter_count * sizeof *both);
    tl_zero_grad(net);
    for (int i = 0; i < 2; i++) {
        net->forward_count--;                             // the same dropout
        CHECK(!tl_forward(net, 2, TL_TRAIN) && !tl_backward_from(net, nodes + i, grads + i, 1), "%s", tl_error(net));
    }
    double worst = 0, largest = 0;
    for (size_t i = 0; i < net->parameter_count; i++) {
        worst = fmax(worst, fabs((double)(both[i] - net->gradients[i])));
        largest = fmax(largest, fabs((double)both[i]));
    }
    CHECK(worst < 1e-5 * largest, "the gradients of two outputs do not add up: %g of %g", worst, largest);
    tl_forward(net, 2, TL_TRAIN);
    CHECK(tl_backward_from(net, &c1, grads, 1) == TL_ERR_ARGUMENT && strstr(tl_error(net), "'c1'"), "a gradient for a node that is no output");
    tl__free(both);
    tl_net_free(net);
}

// ---- memory --------------------------------------------------------------------------------

static void check_plan(tl_net *net, const char *what, int batch, int train)
{
    tl_plan plan, again;
    CHECK(tl_memory(net, batch, train, &plan) == TL_OK, "%s: %s", what, tl_error(net));
    CHECK(plan.total == plan.parameters + plan.buffers + plan.gradients + plan.moments + plan.activations + plan.scratch, "%s: the total is no sum", what);
    CHECK(plan.activations <= plan.activations_unshared + 64 * 1024, "%s: sharing costs memory", what);
    size_t bytes = live_bytes, blocks = live_blocks;
    CHECK(tl_prepare(net, batch, train) == TL_OK, "%s: %s", what, tl_error(net));
    size_t margin = TL__SLACK * sizeof(tl_real) + 128;     // of each block, for alignment and for vectors at its end
    CHECK(live_bytes - bytes == plan.total + (live_blocks - blocks) * margin, "%s, batch %d, training %d: %zu bytes planned, %zu taken in %zu blocks", what,
          batch, train, plan.total, live_bytes - bytes, live_blocks - blocks);
    CHECK(tl_memory(net, batch, train, &again) == TL_OK && memcmp(&plan, &again, sizeof plan) == 0, "%s: another plan when prepared", what);
}

// Half of the activations, the same bits; nothing changes for inference.
static void test_recompute(void)
{
    tl_plan plan[2], inference[2];
    tl_net *nets[2];
    for (int i = 0; i < 2; i++) {
        tl_net_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.recompute = i;
        tl_net *net = nets[i] = tl_net_new(&desc);
        tl_loss_desc loss;
        memset(&loss, 0, sizeof loss);
        loss.kind = TL_CROSS_ENTROPY;
        tl_unet_desc unet;
        memset(&unet, 0, sizeof unet);
        unet.classes = 2; unet.width = 8; unet.depth = 3;
        tl_node x = tl_input(net, 64, 48, 1), y = tl_unet(net, x, &unet);
        tl_loss(net, y, &loss);
        tl_optimizer_desc adam;
        memset(&adam, 0, sizeof adam);
        adam.kind = TL_ADAMW; adam.lr = 1e-2f;
        tl_optimizer(net, &adam);
        CHECK(!tl_memory(net, 3, 0, &inference[i]) && !tl_memory(net, 3, 1, &plan[i]) && !tl_prepare(net, 3, 1), "%s", tl_error(net));
        tl_real *values = tl_data(net, x);
        int32_t classes[3 * 64 * 48];
        tl_rng rng = tl_rng_at(4, TL_RANDOM_USER, 0, 0, 0);
        for (int k = 0; k < 3 * 64 * 48; k++) { values[k] = (tl_real)tl_random_normal(&rng); classes[k] = values[k] > 0; }
        for (int step = 0; step < 3; step++) {
            CHECK(!tl_set_input(net, x, values, 3) && !tl_set_target_index(net, 0, classes, 3) && !tl_forward(net, 3, TL_TRAIN) &&
                  !tl_backward(net) && !tl_step(net), "%s", tl_error(net));
        }
    }
    CHECK((double)plan[1].activations < 0.6 * (double)plan[0].activations, "%zu bytes instead of %zu", plan[1].activations, plan[0].activations);
    CHECK(inference[0].total == inference[1].total, "inference needs %zu bytes instead of %zu", inference[1].total, inference[0].total);
    CHECK(!memcmp(tl_parameters(nets[0]), tl_parameters(nets[1]), tl_parameter_count(nets[0]) * sizeof(tl_real)), "other bits after three steps");
    tl_net_free(nets[0]);
    tl_net_free(nets[1]);
}

static tl_net *unet_of(int size, int width, int depth, tl_norm_kind norm, tl_up_kind up)
{
    tl_net *net = new_net();
    tl_unet_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.classes = 2; desc.width = width; desc.depth = depth; desc.norm = norm; desc.up = up;
    tl_node logits = tl_unet(net, tl_input(net, size, size, 1), &desc);
    tl_loss_desc loss;
    memset(&loss, 0, sizeof loss);
    loss.kind = TL_CROSS_ENTROPY;
    tl_loss(net, logits, &loss);
    CHECK(tl_status(net) == TL_OK, "%s", tl_error(net));
    return net;
}

static void test_memory(void)
{
    static const tl_optimizer_kind kinds[] = { TL_OPTIMIZER_NONE, TL_SGD, TL_LION, TL_ADAM };
    for (int k = 0; k < 4; k++)
    for (int train = 0; train < 2; train++) {
        tl_net *net = unet_of(32, 5, 2, TL_NORM_BATCH, TL_UP_TRANSPOSED), *knot = net_of(tangle);
        tl_optimizer_desc rule;
        memset(&rule, 0, sizeof rule);
        rule.kind = kinds[k];
        rule.lr = 0.01f;
        if (rule.kind) CHECK(!tl_optimizer(net, &rule) && !tl_optimizer(knot, &rule), "%s", tl_error(net));
        check_plan(net, "U-Net", 1 + k, train);
        check_plan(knot, "tangle", 3, train);
        tl_net_free(net);
        tl_net_free(knot);
    }
}

// A step of training takes no memory, at any batch up to the planned one.
static void test_no_allocation(void)
{
    tl_net *net = net_of(tangle);
    tl_optimizer_desc rule;
    memset(&rule, 0, sizeof rule);
    rule.kind = TL_ADAMW; rule.lr = 1e-3f; rule.clip_norm = 1;
    CHECK(!tl_optimizer(net, &rule) && !tl_prepare(net, 4, 1), "%s", tl_error(net));
    size_t blocks = all_blocks;
    for (int i = 0; i < 3; i++) {
        fill_tangle(net);
        CHECK(!tl_forward(net, 2, TL_TRAIN) && tl_loss_value(net) > 0 && !tl_backward(net) && !tl_step(net), "%s", tl_error(net));
        CHECK(!tl_forward(net, 1, TL_EVAL) && tl_loss_value(net) > 0, "%s", tl_error(net));
    }
    CHECK(all_blocks == blocks, "%zu allocations in three steps", all_blocks - blocks);
    tl_net_free(net);
}

// ---- text ----------------------------------------------------------------------------------

static const char every_op[] =
    "x = input() height=12 width=16 channels=4\n"
    "a.c-1 = conv2d(x) out=6 kernel=3 kernel_w=5 stride=2 stride_w=1 pad=1 pad_w=2 dilation=1 dilation_w=1 groups=2 no_bias=1\n"
    "c2 = conv2d(x) out=4 kernel=4 same=1 dilation=2\n"
    "t1 = conv_transpose2d(a.c-1) out=4 kernel=3 kernel_w=4 stride=2 stride_w=3 pad=1 pad_w=2 output_pad=1 output_pad_w=2 groups=2 no_bias=1\n"
    "bn = batch_norm(c2) eps=0.001 momentum=0.3\ngn = group_norm(bn) groups=2 no_affine=1\nln = layer_norm(gn) eps=0.0123456789\n"
    "r = relu(ln)\nlr = leaky_relu(r) slope=-0.01\nr6 = relu6(lr)\nsg = sigmoid(r6)\nth = tanh(sg)\nge = gelu(th)\nsi = silu(ge)\n"
    "mp = max_pool2d(si) kernel=3 kernel_w=2 stride=2 stride_w=3 pad=1 ceil_mode=1\nap = avg_pool2d(si) kernel=2 exclude_pad=1 pad=1\n"
    "ad = adaptive_avg_pool2d(ap) height=5 width=3\nu1 = upsample(ad) factor=2 mode=nearest\nu2 = upsample(ad) factor=2 mode=bilinear\n"
    "cc = concat(u1, u2)\nad2 = add(u1, u2)\nmu = mul(u1, ad2)\nfl = flatten(cc)\ndr = dropout(fl) p=0.25\nfc = dense(dr) out=7 no_bias=1\nsm = softmax(fc)\n"
    "pa = parameter() channels=4 deviation=0.02\nto = tokens(x, pa)\nse = select(to) first=1 height=12 width=16\n"
    "qk = conv2d(se) out=12 kernel=1\nat = attention(qk) heads=2\n"
    "output(mp)\noutput(sm)\n"
    "loss cross_entropy(fc) weight=0.5 smoothing=0.1 class_weight=1,2,3,4,5,6,0.1\nloss focal(mu) weight=1 gamma=1.5\nloss huber(mu) weight=1 delta=0.3\n"
    "loss bce(mu) weight=2 dense=1\nloss dice(mu) weight=-1 ignore_index=3\nloss mse(t1) weight=1e-30\nloss l1(t1) weight=123456.789\n";

static char *text_of(const tl_net *net)
{
    size_t length = tl_to_text(net, NULL, 0);
    char *text = (char *)malloc(length + 1);
    CHECK(tl_to_text(net, text, length + 1) == length && strlen(text) == length, "the length of the text");
    return text;
}

static void test_text(void)
{
    tl_net *net = new_net();
    CHECK(tl_parse(net, every_op) == TL_OK, "%s", tl_error(net));
    for (int op = TL_OP_INPUT; op < TL_OP_COUNT; op++) {
        int found = 0;
        for (int i = 0; i < net->node_count; i++) found |= net->nodes[i].op == (tl_op)op;
        CHECK(found, "%s is not in the text of every op", tl__op_names[op]);
    }
    char *first = text_of(net), short_text[10];
    tl_net *copy = net_of(first);
    char *second = text_of(copy);
    CHECK(strcmp(first, second) == 0, "the text changes on its way:\n%s\n%s", first, second);
    CHECK(copy->node_count == net->node_count && copy->loss_count == net->loss_count && copy->tensor_count == net->tensor_count, "another network");
    for (int i = 0; i < net->node_count && i < copy->node_count; i++) {
        tl__node *a = &net->nodes[i], *b = &copy->nodes[i];
        tl_node id = { i + 1 };
        tl_receptive ra = tl_receptive_field(net, id), rb = tl_receptive_field(copy, id);
        CHECK(a->op == b->op && a->h == b->h && a->w == b->w && a->c == b->c && a->is_output == b->is_output &&
              memcmp(a->input, b->input, sizeof a->input) == 0, "'%s' is another node", a->name);
        CHECK(memcmp(&ra, &rb, sizeof ra) == 0, "'%s' sees something else", a->name);
        CHECK(a->op == TL_OP_CONV2D || a->op == TL_OP_CONV_TRANSPOSE2D || memcmp(&a->attr, &b->attr, sizeof a->attr) == 0, "'%s' has other attributes", a->name);
    }
    for (int i = 0; i < net->loss_count; i++) {
        tl_loss_desc a = net->losses[i].desc, b = copy->losses[i].desc;
        const float *wa = a.class_weight, *wb = b.class_weight;
        a.class_weight = b.class_weight = NULL;
        CHECK(memcmp(&a, &b, sizeof a) == 0 && !wa == !wb && (!wa || memcmp(wa, wb, 7 * sizeof *wa) == 0), "loss %d is another one", i);
    }
    CHECK(tl_to_text(net, short_text, sizeof short_text) == strlen(first) && strlen(short_text) == 9 && strncmp(short_text, first, 9) == 0, "a short buffer");
    CHECK(tl_flops(net) == tl_flops(copy) && tl_parameter_count(net) == tl_parameter_count(copy), "other counts");
    free(first);
    free(second);
    tl_net_free(net);
    tl_net_free(copy);
    // odd but right: blanks, comments, empty lines, no line end
    net = net_of("# a comment\n\n\t x  =  input ( )  height=3\twidth=4 channels=2  \r\n#\nloss = relu( x )\noutput = relu(loss)\noutput(loss)\nloss mse(output)");
    CHECK(tl_node_count(net) == 3 && tl_find(net, "loss").id == 2 && net->loss_count == 1, "%s", tl_error(net));
    tl_net_free(net);
    // floats survive exactly
    tl_rng rng = tl_rng_at(2, TL_RANDOM_USER, 0, 0, 0);
    for (int i = 0; i < 200; i++) {
        uint32_t bits = tl_random_u32(&rng);
        float slope;
        memcpy(&slope, &bits, sizeof slope);
        if (!tl__is_finite((double)slope) || slope == 0) continue;
        net = new_net();
        tl_leaky_relu(net, tl_input(net, 1, 1, 1), slope);
        first = text_of(net);
        copy = net_of(first);
        CHECK(copy->node_count == 2 && memcmp(&copy->nodes[1].attr.number.value, &slope, sizeof slope) == 0, "%.9g is not the same in:\n%s", (double)slope, first);
        free(first);
        tl_net_free(net);
        tl_net_free(copy);
    }
}

// ---- counts --------------------------------------------------------------------------------

static size_t unet_count(size_t in, size_t width, int depth, size_t classes, tl_norm_kind norm, tl_up_kind up)
{
    size_t sum = width * classes + classes, from = in;
    for (int k = 0; k <= depth; k++) {
        size_t to = width << k, half = to / 2, shift = norm == TL_NORM_NONE ? 1 : 2;        // conv bias, or weight and bias of the norm
        sum += 9 * from * to + 9 * to * to + 2 * shift * to;                               // enc or mid
        if (k > 0) sum += (up == TL_UP_TRANSPOSED ? 4 : 9) * to * half + half;              // up
        if (k > 0) sum += 9 * to * half + 9 * half * half + 2 * shift * half;               // dec
        from = to;
    }
    return sum;
}

static void test_counts(void)
{
    tl_net *net = new_net();
    tl_lenet5(net, tl_input(net, 28, 28, 1), 10);
    CHECK(tl_parameter_count(net) == 61706, "LeNet-5 has %zu parameters", tl_parameter_count(net));
    double flops = 2. * (28 * 28 * 6 * 25 + 10 * 10 * 16 * 25 * 6 + 400 * 120 + 120 * 84 + 84 * 10);
    CHECK(tl_flops(net) == flops, "LeNet-5 takes %g FLOPs, by hand %g", tl_flops(net), flops);
    tl_net_free(net);
    for (int norm = TL_NORM_BATCH; norm <= TL_NORM_NONE; norm++)
    for (int up = TL_UP_TRANSPOSED; up <= TL_UP_BILINEAR; up++) {
        net = unet_of(32, 8, 3, (tl_norm_kind)norm, (tl_up_kind)up);
        size_t want = unet_count(1, 8, 3, 2, (tl_norm_kind)norm, (tl_up_kind)up);
        CHECK(tl_parameter_count(net) == want, "U-Net %d %d has %zu parameters, by hand %zu", norm, up, tl_parameter_count(net), want);
        CHECK(net->buffer_count == (norm == TL_NORM_BATCH ? (size_t)2 * (2 * (8 + 16 + 32) * 2 + 64 * 2) : 0), "U-Net %d has %zu buffers", norm, net->buffer_count);
        tl_net_free(net);
    }
    net = new_net();
    tl_residual_block(net, tl_input(net, 8, 8, 4), 6, 2);
    CHECK(tl_parameter_count(net) == 9 * 4 * 6 + 9 * 6 * 6 + 4 * 6 + 6 * 6 && tl_node_height(net, tl_last(net)) == 4, "a residual block has %zu parameters", tl_parameter_count(net));
    tl_net_free(net);
    net = net_of("x = input() height=10 width=12 channels=16\nc = conv2d(x) out=32 kernel=3 pad=1\nt = conv_transpose2d(c) out=8 kernel=2 stride=2\n"
                 "g = conv2d(t) out=4 kernel=5 groups=4 pad=2 stride=2\n");
    flops = 2. * (10 * 12 * 9 * 16 * 32 + 10 * 12 * 4 * 32 * 8 + 10 * 12 * 25 * 2 * 4);
    CHECK(tl_flops(net) == flops, "three convolutions take %g FLOPs, by hand %g", tl_flops(net), flops);
    size_t length = tl_describe(net, 2, NULL, 0);
    char *text = (char *)malloc(length + 1);
    CHECK(tl_describe(net, 2, text, length + 1) == length && strstr(text, "10 x 12 x 32") && strstr(text, "4640") && strstr(text, "receptive field"), "%s", text);
    free(text);
    tl_net_free(net);
}

// ---- receptive fields ----------------------------------------------------------------------

// Makes whole rows (or columns) of the input NaN, one after the other, and sees which output rows become NaN: an exact trace of
// what depends on what. Compares with what the library says.
static void check_field(const char *what, tl_net *net, int vertical, int exact_size)
{
    CHECK(tl_prepare(net, 1, 0) == TL_OK, "%s: %s", what, tl_error(net));
    tl_node last = tl_last(net), first = { 1 };
    tl_receptive field = tl_receptive_field(net, last);
    const tl__node *in = &net->nodes[0], *out = &net->nodes[last.id - 1];
    int size = vertical ? in->h : in->w, outs = vertical ? out->h : out->w, low[512], high[512];
    tl_real *values = (tl_real *)tl__alloc(tl__sample_count(in), sizeof *values);
    for (int o = 0; o < outs; o++) {
        low[o] = INT_MAX;
        high[o] = -1;
    }
    for (int i = 0; i < size; i++) {
        for (int y = 0; y < in->h; y++)
        for (int x = 0; x < in->w; x++)
        for (int c = 0; c < in->c; c++) values[(y * in->w + x) * in->c + c] = (vertical ? y : x) == i ? (tl_real)NAN : 1;
        tl_set_input(net, first, values, 1);
        tl_forward(net, 1, TL_EVAL);
        const tl_real *y = tl_data(net, last);
        for (int p = 0; p < out->h * out->w; p++) {
            int o = vertical ? p / out->w : p % out->w;
            if (y[p * out->c] == y[p * out->c]) continue;
            if (i < low[o]) low[o] = i;
            if (i > high[o]) high[o] = i;
        }
    }
    double before = 0, after = 0;
    int widest = 0;
    for (int o = 0; o < outs; o++) {
        if (high[o] < 0) continue;
        before = fmax(before, o * field.stride - low[o]);
        after = fmax(after, high[o] - o * field.stride);
        widest = tl__max(widest, high[o] - low[o] + 1);
    }
    int said = vertical ? field.size_h : field.size_w;
    CHECK(field.before >= before && field.after >= after, "%s: a pixel reaches %g before and %g after, said are %d and %d", what, before, after, field.before, field.after);
    CHECK(widest <= said, "%s: a pixel sees %d, said are %d", what, widest, said);
    if (exact_size) CHECK(widest == said, "%s: a pixel sees at most %d, said are %d", what, widest, said);
    if (exact_size) CHECK(ceil(before) == field.before && ceil(after) == field.after, "%s: reaches %g and %g, said are %d and %d", what, before, after, field.before, field.after);
    tl__free(values);
}

static void test_fields(void)
{
    static const struct { const char *text; int size, exact; } nets[] = {
        { "c = conv2d(x) out=1 kernel=3 pad=1\n", 3, 1 },
        { "c = conv2d(x) out=1 kernel=3 pad=1\nd = conv2d(c) out=2 kernel=3 pad=1\n", 5, 1 },
        { "c = conv2d(x) out=1 kernel=3 pad=1\nd = conv2d(c) out=2 kernel=3 pad=1\ne = conv2d(d) out=1 kernel=3 pad=1\n", 7, 1 },
        { "c = conv2d(x) out=1 kernel=5 dilation=2\n", 9, 1 },
        { "c = conv2d(x) out=1 kernel=4 same=1\n", 4, 1 },
        { "c = conv2d(x) out=1 kernel=3 stride=2\nd = conv2d(c) out=1 kernel=3\n", 7, 1 },
        { "c = max_pool2d(x) kernel=2\nd = conv2d(c) out=1 kernel=3 pad=1\n", 6, 1 },
        { "c = avg_pool2d(x) kernel=3 stride=2 pad=1\n", 3, 1 },
        { "c = conv_transpose2d(x) out=1 kernel=3 stride=2 pad=1\n", 2, 0 },
        { "c = conv_transpose2d(x) out=1 kernel=3\n", 3, 1 },
        { "c = max_pool2d(x) kernel=2\nd = upsample(c) factor=2 mode=nearest\ne = conv2d(d) out=1 kernel=3 pad=1\n", 0, 0 },
        { "c = max_pool2d(x) kernel=2\nd = upsample(c) factor=2 mode=bilinear\ne = conv2d(d) out=1 kernel=3 pad=1\n", 0, 0 },
        { "c = upsample(x) factor=3 mode=bilinear\n", 0, 0 },
        { "c = upsample(x) factor=2 mode=nearest\nd = conv2d(c) out=1 kernel=4\n", 0, 0 },
        { "c = conv_transpose2d(x) out=1 kernel=4 stride=2\nd = conv2d(c) out=1 kernel=4\n", 0, 0 },
        { "c = conv_transpose2d(x) out=1 kernel=3 stride=3\nd = conv2d(c) out=1 kernel=5 stride=2\n", 0, 0 },
        { "c = conv2d(x) out=1 kernel=7 pad=3\nd = add(x, c)\n", 7, 1 },
        { "c = conv2d(x) out=1 kernel=1\nd = layer_norm(c)\ne = batch_norm(d)\nf = softmax(e)\n", 1, 1 }
    };
    for (size_t i = 0; i < sizeof nets / sizeof *nets; i++) {
        char text[400];
        snprintf(text, sizeof text, "x = input() height=40 width=37 channels=1\n%s", nets[i].text);
        for (int vertical = 0; vertical < 2; vertical++) {
            tl_net *net = net_of(text);
            tl_receptive field = tl_receptive_field(net, tl_last(net));
            if (nets[i].size) CHECK(field.size_h == nets[i].size && field.size_w == nets[i].size, "%s: %d x %d", nets[i].text, field.size_h, field.size_w);
            check_field(nets[i].text, net, vertical, nets[i].exact);
            tl_net_free(net);
        }
    }
    static const char *const global[] = { "d = dense(x) out=1\n", "d = adaptive_avg_pool2d(x) height=2 width=2\n", "d = group_norm(x) groups=1\n", "d = flatten(x)\n",
        "c = adaptive_avg_pool2d(x) height=1 width=1\nd = mul(x, c)\ne = relu(d)\n" };
    for (int i = 0; i < 5; i++) {
        char text[400];
        snprintf(text, sizeof text, "x = input() height=4 width=4 channels=1\n%s", global[i]);
        tl_net *net = net_of(text);
        CHECK(tl_receptive_field(net, tl_last(net)).size_h == 0, "%s: not everything", global[i]);
        tl_net_free(net);
    }
    for (int up = TL_UP_TRANSPOSED; up <= TL_UP_BILINEAR; up++) {
        tl_net *net = unet_of(72, 2, 2, TL_NORM_BATCH, (tl_up_kind)up);
        check_field("U-Net", net, 1, 0);
        tl_net_free(net);
    }
}

// ---- prediction in tiles -------------------------------------------------------------------

static void random_state(tl_net *net)
{
    tl_rng rng = tl_rng_at(3, TL_RANDOM_USER, 0, 0, 0);
    CHECK(tl_prepare(net, 1, 0) == TL_OK, "%s", tl_error(net));
    for (int i = 0; i < net->tensor_count; i++) {
        const tl__tensor *t = &net->tensors[i];
        tl_real *values = (t->trained ? net->parameters : net->buffers) + t->at;
        for (size_t k = 0; k < t->count; k++) {
            if (t->role == TL__RUNNING_VAR) values[k] = (tl_real)tl_random_uniform(&rng, 0.5f, 2);
            else if (t->role != TL__WEIGHT) values[k] += (tl_real)(0.1f * tl_random_normal(&rng));
        }
    }
}

static tl_image random_image(int width, int height, int channels, tl_pixel type)
{
    tl_image image;
    tl_rng rng = tl_rng_at(4, TL_RANDOM_USER, 0, 0, 0);
    memset(&image, 0, sizeof image);
    CHECK(tl_image_alloc(&image, width, height, channels, type) == TL_OK, "%s", tl_error(NULL));
    for (size_t i = 0; i < tl__image_values(&image); i++) {
        if (type == TL_U8) ((uint8_t *)image.pixels)[i] = (uint8_t)tl_random_below(&rng, 256);
        else if (type == TL_U16) ((uint16_t *)image.pixels)[i] = (uint16_t)tl_random_below(&rng, 65536);
        else ((float *)image.pixels)[i] = tl_random_uniform(&rng, 0, 1);
    }
    return image;
}

static int same_image(const tl_image *a, const tl_image *b)
{
    return a->width == b->width && a->height == b->height && a->channels == b->channels && a->type == b->type &&
           memcmp(a->pixels, b->pixels, tl__image_bytes(a)) == 0;
}

static void test_tiles(void)
{
    static const int sizes[][2] = { { 1, 1 }, { 17, 300 }, { 300, 17 }, { 255, 257 }, { 2, 190 }, { 128, 128 } };
    for (int up = TL_UP_TRANSPOSED; up <= TL_UP_BILINEAR; up++) {
        tl_net *net = unet_of(32, 3, 2, TL_NORM_BATCH, (tl_up_kind)up);
        tl_receptive field = tl_receptive_field(net, tl_last(net));
        int halo = tl__ceil_div(tl__max(field.before, field.after), 4) * 4;
        random_state(net);
        for (int s = 0; s < 6; s++) {
            tl_image image = random_image(sizes[s][0], sizes[s][1], 1, TL_U8), whole, tiled;
            memset(&whole, 0, sizeof whole);
            memset(&tiled, 0, sizeof tiled);
            CHECK(tl_predict(net, &image, NULL, &whole) == TL_OK, "%s", tl_error(net));
            CHECK(whole.width == image.width && whole.height == image.height && whole.channels == 2 && whole.type == TL_F32, "the shape of the probabilities");
            const int tiles[] = { 2 * halo + 4, 2 * halo + 5, 2 * halo + 20, 120, 4000 };
            int large = image.width > 100 && image.height > 100;       // not in thousands of tiles
            for (int k = large ? 2 : 0; k < 5; k++) {
                tl_predict_desc desc = { 0, 0 };
                desc.tile = tiles[k];
                CHECK(tl_predict(net, &image, &desc, &tiled) == TL_OK, "%s", tl_error(net));
                CHECK(same_image(&whole, &tiled), "%d x %d in tiles of %d: other bits than in one piece", image.width, image.height, tiles[k]);
            }
            for (size_t i = 0; i < tl__image_values(&whole); i += 2) {
                const float *p = tl_image_f32(&whole) + i;
                if (!(fabs((double)p[0] + (double)p[1] - 1) < 1e-6)) CHECK(0, "probabilities %g and %g", (double)p[0], (double)p[1]);
            }
            // as little memory as possible: halves the limit until it is refused
            for (size_t memory = large ? 1 << 20 : 1 << 22; ; memory /= 2) {
                tl_predict_desc desc = { 0, 0 };
                desc.memory = memory;
                tl_result result = tl_predict(net, &image, &desc, &tiled);
                CHECK(result != TL_OK || same_image(&whole, &tiled), "%d x %d in %zu bytes: other bits than in one piece", image.width, image.height, memory);
                if (!result) CHECK(net->tiler->arena_count * sizeof(tl_real) <= memory, "%zu bytes of %zu", net->tiler->arena_count * sizeof(tl_real), memory);
                if (!result && large) break;
                if (!result) continue;
                CHECK(result == TL_ERR_MEMORY && tl_status(net) == TL_OK && strstr(tl_error(net), "predict"), "too little memory: %s", tl_error(net));
                break;
            }
            tl_image_free(&image);
            tl_image_free(&whole);
            tl_image_free(&tiled);
        }
        tl_net_free(net);
    }
}

// The prediction is what the network of that size says; images of other kinds; what is refused.
static void test_predict(void)
{
    tl_net *net = unet_of(32, 3, 2, TL_NORM_BATCH, TL_UP_TRANSPOSED), *large = unet_of(48, 3, 2, TL_NORM_BATCH, TL_UP_TRANSPOSED);
    random_state(net);
    random_state(large);
    tl_image image = random_image(48, 48, 1, TL_U16), out, mask;
    memset(&out, 0, sizeof out);
    memset(&mask, 0, sizeof mask);
    double sum = 0, squares = 0;
    tl_real values[48 * 48];
    for (int i = 0; i < 48 * 48; i++) sum += ((uint16_t *)image.pixels)[i] / 65535.;
    for (int i = 0; i < 48 * 48; i++) squares += tl__square(((uint16_t *)image.pixels)[i] / 65535. - sum / (48 * 48));
    for (int i = 0; i < 48 * 48; i++) values[i] = (tl_real)((((uint16_t *)image.pixels)[i] / 65535. - sum / (48 * 48)) / sqrt(squares / (48 * 48)));
    tl_node x = { 1 };
    CHECK(!tl_set_input(large, x, values, 1) && !tl_forward(large, 1, TL_EVAL), "%s", tl_error(large));
    CHECK(!tl_predict(net, &image, NULL, &out) && !tl_segment(net, &image, NULL, &mask), "%s", tl_error(net));
    const tl_real *logits = tl_data(large, tl_last(large));
    double worst = 0;
    int wrong = 0;
    for (int i = 0; i < 48 * 48; i++) {
        double p = 1 / (1 + exp((double)(logits[2 * i] - logits[2 * i + 1])));
        worst = fmax(worst, fabs(p - (double)tl_image_f32(&out)[2 * i + 1]));
        wrong += ((uint8_t *)mask.pixels)[i] != (tl_image_f32(&out)[2 * i + 1] > tl_image_f32(&out)[2 * i]);
    }
    CHECK(worst < 2e-6, "the prediction is off by %g", worst);
    CHECK(wrong == 0 && mask.type == TL_U8 && mask.channels == 1, "the mask is wrong at %d pixels", wrong);
    // new weights count at once
    tl_image again;
    memset(&again, 0, sizeof again);
    net->parameters[net->parameter_count - 1] += 1;
    CHECK(!tl_predict(net, &image, NULL, &again) && !same_image(&out, &again), "the prediction does not follow the weights");
    // RGB to gray, gray to gray; other channels are refused
    tl_image rgb = random_image(20, 10, 3, TL_U8), four = random_image(20, 10, 4, TL_U8);
    CHECK(!tl_predict(net, &rgb, NULL, &out) && out.width == 20, "RGB: %s", tl_error(net));
    CHECK(tl_predict(net, &four, NULL, &out) == TL_ERR_SHAPE && strstr(tl_error(net), "4 channels"), "four channels: %s", tl_error(net));
    tl_predict_desc small = { 0, 8 }, negative = { 0, -1 };
    CHECK(tl_predict(net, &image, &small, &out) == TL_ERR_ARGUMENT && strstr(tl_error(net), "too small"), "a tile of 8: %s", tl_error(net));
    tl_image wide = random_image(120, 40, 1, TL_U8);
    for (int k = 0; k < 2; k++) {                                  // the sentence says which tile would do
        const tl_image *of = k ? &wide : &image;
        tl_predict(net, of, &small, &out);
        const char *works = strstr(tl_error(net), "smallest that works is ");
        tl_predict_desc least = { 0, works ? atoi(works + 23) : 0 }, less = { 0, least.tile - 4 };
        CHECK(least.tile == (k ? 52 : 48) && !tl_predict(net, of, &least, &out), "a tile of %d: %s", least.tile, tl_error(net));
        CHECK(tl_predict(net, of, &less, &out) == TL_ERR_ARGUMENT, "a tile of %d", less.tile);
    }
    tl_image_free(&wide);
    CHECK(tl_predict(net, &image, &negative, &out) == TL_ERR_ARGUMENT, "a tile of -1");
    CHECK(tl_status(net) == TL_OK, "%s", tl_error(net));
    // training goes on after a prediction
    tl_net *dense = net_of("x = input() height=8 width=8 channels=1\nd = dense(x) out=2\n");
    CHECK(tl_predict(dense, &image, NULL, &out) == TL_ERR_SHAPE && strstr(tl_error(dense), "same height and width"), "a dense network: %s", tl_error(dense));
    tl_net_free(dense);
    tl_image_free(&image);
    tl_image_free(&rgb);
    tl_image_free(&four);
    tl_image_free(&out);
    tl_image_free(&mask);
    tl_image_free(&again);
    tl_net_free(net);
    tl_net_free(large);
}

// Strides that differ along the two axes, or that are no multiples of each other: every size must give an answer that does not depend on
// the tiles, or a sentence.
static void test_odd_strides(void)
{
    static const char *const nets[] = {
        "c = max_pool2d(x) kernel=3\nu = upsample(c) factor=3 mode=nearest\nd = max_pool2d(u) kernel=2\ny = upsample(d) factor=2 mode=nearest\n",
        "c = max_pool2d(x) kernel=2\nu = upsample(c) factor=2 mode=nearest\nd = max_pool2d(x) kernel=3\nv = upsample(d) factor=3 mode=nearest\ny = add(u, v)\n",
        "c = max_pool2d(x) kernel=2 kernel_w=1 stride=2 stride_w=1\ny = conv_transpose2d(c) out=1 kernel=2 kernel_w=1 stride=2 stride_w=1\n",
        "c = max_pool2d(x) kernel=1 kernel_w=4 stride=1 stride_w=4\ny = conv_transpose2d(c) out=1 kernel=1 kernel_w=4 stride=1 stride_w=4\n",
        "c = conv2d(x) out=2 kernel=4 same=1\ny = conv2d(c) out=2 kernel=3 dilation=2 pad=2\n",
        "c = conv_transpose2d(x) out=2 kernel=3 stride=3\ny = avg_pool2d(c) kernel=3\n"
    };
    for (size_t i = 0; i < sizeof nets / sizeof *nets; i++) {
        char text[400];
        snprintf(text, sizeof text, "x = input() height=12 width=12 channels=1\n%s", nets[i]);
        tl_net *net = net_of(text);
        random_state(net);
        for (int width = 1; width <= 40; width += 13)
        for (int height = 3; height <= 40; height += 6) {
            tl_image image = random_image(width, height, 1, TL_F32), whole, tiled;
            memset(&whole, 0, sizeof whole);
            memset(&tiled, 0, sizeof tiled);
            tl_result result = tl_predict(net, &image, NULL, &whole);
            tl_predict_desc desc = { 0, 24 };
            tl_result small = tl_predict(net, &image, &desc, &tiled);
            CHECK(result == TL_OK && small == TL_OK, "%s%d x %d: %s", nets[i], width, height, tl_error(net));
            if (!result && !small) CHECK(same_image(&whole, &tiled), "%s%d x %d: other bits in tiles", nets[i], width, height);
            tl_image_free(&image);
            tl_image_free(&whole);
            tl_image_free(&tiled);
        }
        tl_net_free(net);
    }
}

// A concatenation that only Winograd convolutions read is not made; kept, it is. Both must give the same bits of
// the output and, up to the order of sums, the same gradients of parameters, also where a part comes twice, has other consumers, or wants no gradient.
static tl_net *joined_net(tl_isa isa, int keep, tl_node *in)
{
    tl_net *net = tl_net_new(&(tl_net_desc){ .seed = 3, .threads = 2, .isa = isa });
    tl_conv2d_desc conv = { .out = 16, .kernel = 3, .pad = 1 };
    *in = tl_input(net, 25, 30, 16);
    tl_node a = tl_relu(net, tl_batch_norm(net, tl_conv2d(net, *in, &conv), NULL));
    tl_node b = tl_conv2d(net, a, &conv), parts[4] = { a, *in, b, a };
    tl_node all = tl_concat(net, parts, 4);
    tl_node y = tl_add(net, tl_conv2d(net, all, &conv), tl_conv2d(net, all, &conv));
    tl_output(net, tl_conv2d(net, tl_add(net, y, a), &conv));
    if (keep) tl_keep(net, all);
    CHECK(!tl_prepare(net, 2, 1), "joined: %s", tl_error(net));
    CHECK(net->nodes[all.id - 1].joined == !keep, "joined: the concatenation was %s", keep ? "not made" : "made");
    return net;
}

static void test_joined(void)
{
    for (int isa = TL_ISA_V128; isa < TL_ISA_COUNT; isa++) {
        if (!tl_isa_available((tl_isa)isa)) continue;
        tl_node in[2], out = { 0 };
        tl_net *net[2];
        tl_real *values = malloc(2 * 25 * 30 * 16 * sizeof *values);
        tl_rng rng = tl_rng_at(5, TL_RANDOM_USER, 0, 0, 0);
        for (int i = 0; i < 2 * 25 * 30 * 16; i++) values[i] = (tl_real)tl_random_normal(&rng);
        for (int k = 0; k < 2; k++) {
            net[k] = joined_net((tl_isa)isa, k, &in[k]);
            tl_set_input(net[k], in[k], values, 2);
            out = tl_last(net[k]);
            const tl_real *grad = values;
            CHECK(!tl_forward(net[k], 2, TL_TRAIN) && !tl_backward_from(net[k], &out, &grad, 1), "joined: %s",
                  tl_error(net[k]));
        }
        CHECK(!memcmp(tl_data(net[0], out), tl_data(net[1], out), 2 * 25 * 30 * 16 * sizeof *values),
              "joined: other outputs (%s)", tl_isa_name((tl_isa)isa));
        double worst = 0, largest = 0;                     // gradients are added in another order
        for (size_t i = 0; i < tl_parameter_count(net[0]); i++) {
            worst = fmax(worst, fabs((double)(tl_gradients(net[0])[i] - tl_gradients(net[1])[i])));
            largest = fmax(largest, fabs((double)tl_gradients(net[1])[i]));
        }
        CHECK(worst < 1e-6 * largest, "joined: gradients differ by %g of %g (%s)", worst, largest, tl_isa_name((tl_isa)isa));
        tl_net_free(net[0]);
        tl_net_free(net[1]);
        free(values);
    }
}

// In inference a convolution does its batch norm, sum and ReLU, too: every kernel that can, whole tiles and edges, channels
// that do and do not fill vectors; b6 comes before what it is added to, and its sum is left alone.
static const char *const foldable =
    "x = input() height=18 width=21 channels=3\n"
    "c1 = conv2d(x) out=16 kernel=3 pad=1\nb1 = batch_norm(c1)\nr1 = relu(b1)\n"
    "c2 = conv2d(r1) out=20 kernel=3 pad=1\nb2 = batch_norm(c2)\nr2 = relu(b2)\n"
    "c3 = conv2d(r2) out=20 kernel=3 pad=1 no_bias=1\nb3 = batch_norm(c3)\ns3 = add(r2, b3)\nr3 = relu(s3)\n"
    "c4 = conv2d(r3) out=20 kernel=3 pad=1 groups=20\nb4 = batch_norm(c4)\ns4 = add(b4, r3)\n"
    "c5 = conv2d(s4) out=20 kernel=1\nb5 = batch_norm(c5) no_affine=1\ns5 = add(b5, s4)\nr5 = relu(s5)\n"
    "c6 = conv2d(r5) out=16 kernel=3 pad=1\nb6 = batch_norm(c6)\nc7 = conv2d(r5) out=16 kernel=3 pad=1\ns7 = add(b6, c7)\nr7 = relu(s7)\n"
    "c8 = conv_transpose2d(r7) out=9 kernel=2 stride=2\nb8 = batch_norm(c8)\nr8 = relu(b8)\n"
    "c9 = conv_transpose2d(r8) out=16 kernel=3 pad=1\nb9 = batch_norm(c9)\n"
    "d = dense(b9) out=7\nb10 = batch_norm(d)\ny = relu(b10)\n";

// What comes out, in place of `y`; `keep` keeps that node.
static int run_foldable(tl_real *y, const char *keep, int exact, tl_isa isa, int threads, int adapting, tl_plan *plan)
{
    tl_net_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.seed = 4; desc.threads = threads; desc.exact = exact; desc.isa = isa;
    tl_net *net = tl_net_new(&desc);
    int folded = 0;
    CHECK(tl_parse(net, foldable) == TL_OK, "%s", tl_error(net));
    if (keep && !*keep) tl_keep_all(net);
    else if (keep) tl_keep(net, tl_find(net, keep));
    CHECK(tl_prepare(net, 2, 0) == TL_OK && tl_memory(net, 2, 0, plan) == TL_OK, "%s", tl_error(net));
    for (int i = 0; i < net->tensor_count; i++)
        for (size_t k = 0; k < net->tensors[i].count && net->nodes[net->tensors[i].node].op == TL_OP_BATCH_NORM; k++)
            (net->tensors[i].trained ? net->parameters : net->buffers)[net->tensors[i].at + k] = (tl_real)(0.5 + 0.1 * (double)((k + (size_t)i) % 7));
    static tl_real x[2 * 18 * 21 * 3];
    tl_rng rng = tl_rng_at(3, TL_RANDOM_USER, 0, 0, 0);
    for (int i = 0; i < (int)(sizeof x / sizeof *x); i++) x[i] = (tl_real)tl_random_normal(&rng);
    tl_node input = { 1 };
    net->adapting = adapting;
    CHECK(!tl_set_input(net, input, x, 2) && !tl_forward(net, 2, TL_EVAL), "%s", tl_error(net));
    memcpy(y, tl_data(net, tl_last(net)), 14 * sizeof *y);
    for (int i = 0; i < net->node_count; i++) folded += net->nodes[i].op == TL_OP_BATCH_NORM && net->nodes[i].folded;
    tl_net_free(net);
    return folded;
}

static void test_folded(void)
{
    tl_plan kept, plan;
    tl_net *train = net_of(foldable);
    tl_keep(train, tl_find(train, "b2"));
    tl_keep(train, tl_find(train, "c3"));
    CHECK(!tl_prepare(train, 2, 1), "%s", tl_error(train));
    for (int i = 1; i < 29; i++) {
        const tl__node *norm = &train->nodes[i], *x = &train->nodes[norm->input[0]];
        int apart = !strcmp(norm->name, "b2") || !strcmp(norm->name, "b3");
        CHECK(norm->op != TL_OP_BATCH_NORM || (norm->data != x->data && (norm->grad != x->grad) == apart),
              "'%s' shares the wrong buffers with its convolution", norm->name);
    }
    tl_net_free(train);
    for (int isa = TL_ISA_PLAIN; isa < TL_ISA_COUNT; isa++)
    for (int adapting = 0; adapting < 2 && tl_isa_available((tl_isa)isa); adapting++) {
        tl_real want[14], got[14], threads[14], exact[14];
        CHECK(run_foldable(want, "", 0, (tl_isa)isa, 1, adapting, &kept) == 0, "kept, and folded");
        CHECK(run_foldable(got, NULL, 0, (tl_isa)isa, 1, adapting, &plan) == 9, "not all are folded");
        CHECK(run_foldable(got, "b2", 0, (tl_isa)isa, 1, adapting, &plan) == 9, "b2 is the last of its convolution");
        CHECK(run_foldable(got, "c2", 0, (tl_isa)isa, 1, adapting, &plan) == 8, "c2 is kept, and folded");
        CHECK(run_foldable(exact, NULL, 1, (tl_isa)isa, 1, adapting, &plan) == 0, "exact, and folded");
        run_foldable(got, NULL, 0, (tl_isa)isa, 1, adapting, &plan);
        run_foldable(threads, NULL, 0, (tl_isa)isa, 3, adapting, &plan);
        double largest = 0, worst = 0, worst_exact = 0;
        for (int i = 0; i < 14; i++) {
            largest = fmax(largest, fabs((double)want[i]));
            worst = fmax(worst, fabs((double)want[i] - (double)got[i]));
            worst_exact = fmax(worst_exact, fabs((double)want[i] - (double)exact[i]));
        }
        CHECK(worst <= 1e-5 * largest && worst_exact <= 1e-4 * largest && largest > 0.1, "%s%s: folded differs by %.3g, exact by %.3g of %.3g",
              tl_isa_name((tl_isa)isa), adapting ? " adapting" : "", worst, worst_exact, largest);
        CHECK(!memcmp(got, threads, sizeof got), "%s: other bits with 3 threads", tl_isa_name((tl_isa)isa));
    }
}

MAIN(network, void)
{
    test_joined();
    test_bad_texts();
    test_bad_calls();
    test_harmless();
    test_refused();
    test_names();
    test_keep();
    test_inference();
    test_folded();
    test_outputs();
    test_memory();
    test_recompute();
    test_no_allocation();
    test_text();
    test_counts();
    test_fields();
    test_tiles();
    test_predict();
    test_odd_strides();
    CHECK(live_blocks == 0, "%zu blocks of memory are left", live_blocks);
    remove_temporary();
    return finish("network");
}
