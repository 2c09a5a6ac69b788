// Fuzz target: the text form of a network. See fuzz.h.

#include "fuzz.h"
#define TINYTL_IMPLEMENTATION
#include "../tinytl.h"

// Zeros into every input.
static void feed(tl_net *net, int batch)
{
    for (int i = 0; i < tl_node_count(net); i++) {
        tl_node node = { i + 1 };
        if (tl_node_op(net, node) != TL_OP_INPUT) continue;
        void *zeros = calloc((size_t)batch * tl__sample_count(&net->nodes[i]), sizeof(tl_real));
        MUST(tl_set_input(net, node, (const tl_real *)zeros, batch) == TL_OK);
        free(zeros);
    }
}

// A network that was accepted must come back from its own text, and run if it is small.
static void use(tl_net *net)
{
    tl_plan plan;
    size_t length = tl_to_text(net, NULL, 0);
    char *text = (char *)malloc(length + 1), *again = (char *)malloc(length + 1);
    MUST(tl_to_text(net, text, length + 1) == length);
    tl_net_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.threads = 1;
    tl_net *copy = tl_net_new(&desc);
    MUST(tl_parse(copy, text) == TL_OK);
    MUST(tl_to_text(copy, again, length + 1) == length && strcmp(text, again) == 0);
    tl_net_free(copy);
    free(text);
    free(again);
    for (int i = 0; i < tl_node_count(net); i++) {
        tl_node node = { i + 1 };
        tl_receptive field = tl_receptive_field(net, node);
        MUST(field.size_h >= 0 && field.before >= 0 && field.after >= 0);
        MUST(tl_node_height(net, node) > 0 && tl_node_width(net, node) > 0 && tl_node_channels(net, node) > 0);
    }
    tl_describe(net, 1, NULL, 0);
    if (tl_node_count(net) == 0 || tl_memory(net, 2, 1, &plan) != TL_OK) return;
    if (plan.total > 65536 || tl_flops(net) > 1e6) return;      // hostile sizes must not take minutes
    MUST(tl_prepare(net, 2, 1) == TL_OK);
    feed(net, 2);
    tl_forward(net, 2, TL_TRAIN);
    for (int i = 0; i < net->loss_count; i++) {
        const tl__node *node = &net->nodes[net->losses[i].node];
        void *zeros = calloc(2 * tl__sample_count(node), sizeof(tl_real));
        if (net->losses[i].dense) tl_set_target_dense(net, i, (const tl_real *)zeros, 2);
        else tl_set_target_index(net, i, (const int32_t *)zeros, 2);
        free(zeros);
    }
    tl_backward(net);
    tl_forward(net, 1, TL_EVAL);
    MUST(tl_prepare(net, 1, 0) == TL_OK);
    feed(net, 1);
    MUST(tl_forward(net, 1, TL_EVAL) == TL_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = (char *)malloc(size + 1);
    memcpy(text, data, size);
    text[size] = 0;
    tl_net_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.threads = 1;
    tl_net *net = tl_net_new(&desc);
    MUST(net != NULL);
    tl_result result = tl_parse(net, text);
    MUST(result == tl_status(net));
    MUST((result == TL_OK) == (strlen(tl_error(net)) == 0));
    if (result == TL_OK) use(net);
    tl_net_free(net);
    free(text);
    return 0;
}

#ifdef STANDALONE

int main(int argc, char **argv)
{
    static const char first[] =
        "x = input() height=6 width=8 channels=2\nc = conv2d(x) out=4 kernel=3 kernel_w=2 stride=2 pad=1 dilation=1 groups=2 no_bias=1\n"
        "b = batch_norm(c) eps=0.001 momentum=0.2\nr = relu(b)\np = max_pool2d(r) kernel=2 ceil_mode=1 pad=1\nu = upsample(p) factor=2 mode=bilinear\n"
        "d = dense(u) out=3\nloss cross_entropy(d) weight=0.5 smoothing=0.1 class_weight=1,2,3\n";
    static const char second[] =
        "x = input() height=5 width=5 channels=1\nt = conv_transpose2d(x) out=2 kernel=3 stride=2 pad=1 output_pad=1\ng = group_norm(t) groups=2\n"
        "l = layer_norm(g) no_affine=1\ns = sigmoid(l)\na = adaptive_avg_pool2d(s) height=1 width=1\nm = mul(s, a)\nk = concat(m, s, l)\nf = flatten(k)\n"
        "o = dropout(f) p=0.25\nv = leaky_relu(o) slope=-1.5e-2\noutput(m)\noutput(v)\nloss mse(v)\nloss dice(m)\n";
    static const char *const words[] = { "32768", "2147483647", "-1", "1e38", "99999999999", "kernel=", "stride=30000", "pad=20000", "groups=", "conv2d(", "relu(x)\n", "loss bce(",
        "output(x)\n", "dense=1", "\n", " = ", "x", "same=1", "softmax(", "avg_pool2d(", "exclude_pad=1", "gelu(", "channels=32768", "nearest" };
    const fuzz_seed seeds[] = { { first, sizeof first - 1 }, { second, sizeof second - 1 } };
    return fuzz_main(argc, argv, "fuzz text", seeds, 2, words, (int)(sizeof words / sizeof *words), 40000);
}

#endif
