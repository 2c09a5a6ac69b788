// Published networks: parameter counts, shapes of the stages, the text form, recognition of files, partial loading, resizing.

#include "check.h"
#include "temporary.h"

static tl_net *build(const char *name, int size, int channels, int classes, int stages)
{
    tl_net_desc desc;
    tl_backbone_desc backbone;
    memset(&desc, 0, sizeof desc);
    memset(&backbone, 0, sizeof backbone);
    desc.threads = 1;
    desc.seed = 5;
    backbone.name = name; backbone.classes = classes; backbone.stages = stages;
    tl_net *net = tl_net_new(&desc);
    tl_backbone(net, tl_input(net, size, size, channels), &backbone);
    return net;
}

// What torchvision and the papers print; and each network survives the way through its text.
static void test_table(void)
{
    for (int i = 0; i < tl_architecture_count(); i++) {
        const tl_architecture *a = tl_architecture_at(i);
        tl_net *net = build(a->name, a->size, 3, 0, 0), *copy = tl_net_new(NULL);
        CHECK(tl_status(net) == TL_OK, "%s: %s", a->name, tl_error(net));
        CHECK(tl_parameter_count(net) == a->parameters, "%s: %zu parameters, not %zu", a->name, tl_parameter_count(net),
              a->parameters);
        CHECK(tl_stage_count(net) == a->stages, "%s: %d stages, not %d", a->name, tl_stage_count(net), a->stages);
        int unet = strncmp(a->name, "unet_", 5) == 0;
        CHECK(unet || (tl_features(net).id && tl_node_height(net, tl_features(net)) == 1), "%s: no features", a->name);
        if (a->classes) CHECK(tl_node_channels(net, tl_last(net)) == a->classes, "%s: %d classes", a->name,
                              tl_node_channels(net, tl_last(net)));
        char *text = tl__network_text(net), *again = tl_parse(copy, text) ? NULL : tl__network_text(copy);
        CHECK(again && strcmp(text, again) == 0 && tl_stage(copy, 2).id == tl_stage(net, 2).id &&
              tl_features(copy).id == tl_features(net).id, "%s: the text gives another network: %s", a->name, tl_error(copy));
        tl_plan plan;
        CHECK(tl_memory(net, 1, 1, &plan) == TL_OK && plan.parameters == a->parameters * sizeof(tl_real), "%s: plan", a->name);
        tl__free(text);
        tl__free(again);
        tl_net_free(net);
        tl_net_free(copy);
        net = build(a->name, a->size, 3, 7, 2);                    // a trunk with a head
        CHECK(!tl_status(net) && tl_node_channels(net, tl_last(net)) == 7 && tl_stage_count(net) == 2, "%s: trunk: %s", a->name,
              tl_error(net));
        tl_net_free(net);
        net = build(a->name, a->size, 3, -1, 0);
        CHECK(!tl_status(net) && (unet || tl_last(net).id == tl_features(net).id), "%s: without a head: %s", a->name,
              tl_error(net));
        tl_net_free(net);
    }
    CHECK(!tl_architecture_at(-1) && !tl_architecture_at(tl_architecture_count()) && !tl_architecture_named("resnet19") &&
          !tl_architecture_named(NULL), "an architecture that is none");
}

// Height, width and channels of the stages.
static void test_stages(void)
{
    static const struct { const char *name; int shape[5][3]; } wanted[] = {
        { "resnet50", { { 56, 56, 256 }, { 28, 28, 512 }, { 14, 14, 1024 }, { 7, 7, 2048 } } },
        { "resnet20", { { 32, 32, 16 }, { 16, 16, 32 }, { 8, 8, 64 } } },
        { "vgg16", { { 112, 112, 64 }, { 56, 56, 128 }, { 28, 28, 256 }, { 14, 14, 512 }, { 7, 7, 512 } } },
        { "alexnet", { { 27, 27, 64 }, { 13, 13, 192 }, { 6, 6, 256 } } },
        { "squeezenet1_0", { { 54, 54, 256 }, { 27, 27, 512 }, { 13, 13, 512 } } },
        { "squeezenet1_1", { { 55, 55, 128 }, { 27, 27, 256 }, { 13, 13, 512 } } },
        { "mobilenet_v2", { { 112, 112, 16 }, { 56, 56, 24 }, { 28, 28, 32 }, { 14, 14, 96 }, { 7, 7, 1280 } } },
        { "efficientnet_b0", { { 112, 112, 16 }, { 56, 56, 24 }, { 28, 28, 40 }, { 14, 14, 112 }, { 7, 7, 1280 } } },
        { "convnext_tiny", { { 56, 56, 96 }, { 28, 28, 192 }, { 14, 14, 384 }, { 7, 7, 768 } } },
        { "vit_small_patch16_224", { { 1, 197, 384 }, { 1, 197, 384 }, { 1, 197, 384 }, { 1, 197, 384 } } },
        { "vit_small_patch14_dinov2", { { 1, 1370, 384 }, { 1, 1370, 384 } } },
        { "unet_resnet34", { { 64, 64, 64 }, { 32, 32, 128 }, { 16, 16, 256 }, { 8, 8, 512 } } }
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        tl_net *net = build(wanted[i].name, tl_architecture_named(wanted[i].name)->size, 3, 0, 0);
        for (int k = 0; k < 5 && wanted[i].shape[k][0]; k++) {
            tl_node stage = tl_stage(net, k + 1);
            const int *s = wanted[i].shape[k], h = tl_node_height(net, stage), w = tl_node_width(net, stage);
            CHECK(h == s[0] && w == s[1] && tl_node_channels(net, stage) == s[2], "%s: stage %d is %dx%dx%d", wanted[i].name,
                  k + 1, h, w, tl_node_channels(net, stage));
        }
        tl_net_free(net);
    }
}

static void test_refused_models(void)
{
    static const tl_backbone_desc bad[] = {
        { "resnet19", 0, 0, 0, 0 }, { NULL, 0, 0, 0, 0 }, { "resnet18", -2, 0, 0, 0 }, { "resnet18", 0, 5, 0, 0 },
        { "resnet18", 0, -1, 0, 0 }
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tl_net *net = tl_net_new(NULL);
        CHECK(!tl_backbone(net, tl_input(net, 64, 64, 3), &bad[i]).id && tl_status(net) == TL_ERR_ARGUMENT, "case %zu", i);
        tl_net_free(net);
    }
    tl_net *net = tl_net_new(NULL);
    CHECK(!tl_backbone(net, tl_input(net, 64, 64, 3), NULL).id && tl_status(net), "no description");
    CHECK(!tl_backbone(NULL, tl_input(NULL, 1, 1, 1), bad).id && !tl_mark_stage(NULL, tl_stage(NULL, 1)).id &&
          !tl_features(NULL).id && tl_stage_count(NULL) == 0, "no network");
    tl_net_free(net);
    CHECK(!tl_open_pretrained(NULL, NULL, NULL, NULL), "no path");
}

// Writes the weights alone, as a file from elsewhere has them, without those that the patterns match.
static const char *save_weights(tl_net *net, const char *name, const char *skip, const char *skip_too)
{
    const char *path = temporary_path(name);
    int count = 0;
    tl__entry *entries = (tl__entry *)tl__alloc((size_t)net->tensor_count, sizeof *entries);
    CHECK(tl__ensure_parameters(net) == TL_OK && tl__save_entries(net, path, entries) == TL_OK, "%s", tl_error(NULL));
    for (int i = 0; i < net->tensor_count; i++)
        if (!tl_match(skip, entries[i].name) && !tl_match(skip_too, entries[i].name)) entries[count++] = entries[i];
    CHECK(tl__archive_write(path, entries, count, NULL, 0) == TL_OK, "%s", tl_error(NULL));
    tl__free(entries);
    return path;
}

static int same_tensors(tl_net *a, tl_net *b, const char *pattern)
{
    int compared = 0;
    for (int i = 0; i < tl_tensor_count(a); i++) {
        tl_tensor t = tl_tensor_at(a, i);
        if (!tl_match(pattern, t.name)) continue;
        tl_tensor u = tl_param(b, t.name);
        if (!u.data || u.count != t.count || memcmp(t.data, u.data, t.count * sizeof *t.data)) return 0;
        compared++;
    }
    return compared;
}

// A file without a network is recognised: whole, as a trunk, with other classes, and not when a part is missing.
static void test_recognise(void)
{
    tl_pretrained info;
    tl_backbone_desc wish;
    tl_net *net = build("resnet32", 32, 3, 4, 0), *opened;
    const char *whole = save_weights(net, "whole.safetensors", "", "");
    const char *trunk = save_weights(net, "trunk.safetensors", "layer3.*", "fc.*");
    const char *headless = save_weights(net, "headless.safetensors", "fc.*", "");
    const char *damaged = save_weights(net, "damaged.safetensors", "layer2.3.conv2.weight", "");
    memset(&wish, 0, sizeof wish);

    opened = tl_open_pretrained(whole, NULL, NULL, &info);
    CHECK(opened && !strcmp(info.architecture, "resnet32") && info.stages == 0 && info.published_preprocess == 1 &&
          info.load.matched == tl_tensor_count(net) && tl_node_channels(opened, tl_last(opened)) == 4 &&
          same_tensors(net, opened, "*"), "whole: %s", tl_error(NULL));
    CHECK(opened && tl_get_preprocess(opened).crop == 32 && tl_get_preprocess(opened).std[2] == 0.225f, "its preprocessing");
    const char *own = temporary_path("own.safetensors");
    tl_preprocess p = tl_get_preprocess(opened);
    p.bgr = p.cubic = 1;
    tl_set_preprocess(opened, &p);
    CHECK(tl_save(opened, own) == TL_OK, "%s", tl_error(opened));
    tl_net_free(opened);
    opened = tl_open_pretrained(own, NULL, NULL, &info);
    tl_preprocess q = tl_get_preprocess(opened);
    CHECK(opened && !info.architecture[0] && !info.published_preprocess && memcmp(&p, &q, sizeof p) == 0 &&
          tl_stage_count(opened) == 3 && tl_features(opened).id, "a file of its own: %s", tl_error(NULL));
    tl_net_free(opened);

    wish.classes = 5;
    opened = tl_open_pretrained(own, NULL, &wish, &info);
    CHECK(opened && tl_node_channels(opened, tl_last(opened)) == 4, "a network of its own stays as it is: %s", tl_error(NULL));
    tl_net_free(opened);
    wish.name = "resnet32";
    opened = tl_open_pretrained(own, NULL, &wish, &info);
    CHECK(opened && tl_node_channels(opened, tl_last(opened)) == 5 && !info.published_preprocess, "unless named: %s", tl_error(NULL));
    tl_net_free(opened);
    memset(&wish, 0, sizeof wish);

    opened = tl_open(whole, NULL);
    CHECK(opened && same_tensors(net, opened, "*"), "tl_open: %s", tl_error(NULL));
    tl_net_free(opened);
    wish.classes = 9;
    opened = tl_open_pretrained(whole, NULL, &wish, &info);
    CHECK(opened && tl_node_channels(opened, tl_last(opened)) == 9 && same_tensors(net, opened, "layer*") &&
          !same_tensors(net, opened, "fc.*"), "a new head: %s", tl_error(NULL));
    tl_net_free(opened);
    wish.classes = 0;
    wish.stages = 2;
    opened = tl_open_pretrained(whole, NULL, &wish, &info);
    CHECK(opened && tl_last(opened).id == tl_stage(opened, 2).id && info.stages == 2 && same_tensors(opened, net, "*"),
          "a trunk of a whole file: %s", tl_error(NULL));
    tl_net_free(opened);
    opened = tl_open_pretrained(trunk, NULL, NULL, &info);
    CHECK(opened && info.stages == 2 && !tl_features(opened).id && same_tensors(opened, net, "*"), "a trunk: %s", tl_error(NULL));
    tl_net_free(opened);
    opened = tl_open_pretrained(headless, NULL, NULL, &info);
    CHECK(opened && info.stages == 0 && tl_last(opened).id == tl_features(opened).id, "no head: %s", tl_error(NULL));
    tl_net_free(opened);
    memset(&wish, 0, sizeof wish);
    wish.classes = 3;
    opened = tl_open_pretrained(headless, NULL, &wish, &info);
    CHECK(opened && tl_node_channels(opened, tl_last(opened)) == 3, "a new head where there was none: %s", tl_error(NULL));
    tl_net_free(opened);

    CHECK(!tl_open(damaged, NULL) && strstr(tl_error(NULL), "resnet32") && strstr(tl_error(NULL), "1 tensors"), "%s", tl_error(NULL));
    wish.name = "resnet32";
    CHECK(!tl_open_pretrained(damaged, NULL, &wish, &info) && strstr(tl_error(NULL), "layer2.3.conv2.weight") &&
          info.load.missing == 1, "%s", tl_error(NULL));
    wish.name = "resnet34";
    CHECK(!tl_open_pretrained(whole, NULL, &wish, &info) && info.load.missing > 40 && info.load.mismatched > 100, "%s", tl_error(NULL));
    wish.name = "resnet33";
    CHECK(!tl_open_pretrained(whole, NULL, &wish, &info) && strstr(tl_error(NULL), "resnet33"), "%s", tl_error(NULL));
    tl_net_free(net);
}

// A level may have points in its name, and closes as it was opened.
static void test_levels(void)
{
    tl_net *net = tl_net_new(NULL);
    tl_node x = tl_input(net, 1, 1, 1);
    tl_push(net, "a.b");
    tl_push(net, "c");
    tl_rename(net, tl_relu(net, x), "one");
    tl_pop(net);
    tl_rename(net, tl_relu(net, x), "two");
    tl_pop(net);
    tl_rename(net, tl_relu(net, x), "three");
    CHECK(tl_find(net, "a.b.c.one").id && tl_find(net, "a.b.two").id && tl_find(net, "three").id, "levels: %s", tl_error(net));
    tl_net_free(net);
}

// Parts of a file into parts of a network.
static void test_partial(void)
{
    tl_net *net = build("resnet20", 32, 3, 10, 0), *other = build("resnet20", 32, 3, 3, 0), *inside = tl_net_new(NULL);
    const char *path = save_weights(net, "parts.safetensors", "", "");
    tl_load_desc desc;
    tl_load_report report;
    memset(&desc, 0, sizeof desc);
    CHECK(tl_load(other, path, &desc, &report) == TL_ERR_SHAPE && report.mismatched == 2 && report.matched == tl_tensor_count(net) - 2,
          "other classes: %s", report.text);
    desc.except = "fc.*";
    CHECK(tl_load(other, path, &desc, &report) == TL_OK && report.mismatched == 0, "except: %s", tl_error(other));
    CHECK(same_tensors(net, other, "layer*"), "except: other values");
    tl_push(inside, "encoder");
    tl_backbone_desc backbone;
    memset(&backbone, 0, sizeof backbone);
    backbone.name = "resnet20"; backbone.stages = 3;
    tl_node x = tl_backbone(inside, tl_input(inside, 32, 32, 3), &backbone);
    tl_pop(inside);
    tl_conv2d_desc head = tl__conv_desc("head", 2, 1);
    tl_conv2d(inside, x, &head);
    memset(&desc, 0, sizeof desc);
    desc.into = "encoder";
    CHECK(tl_load(inside, path, &desc, &report) == TL_ERR_SHAPE && report.missing == 0 && report.unexpected == 2, "into: %s", report.text);
    desc.except = "encoder.fc.*";
    CHECK(tl_load(inside, path, &desc, &report) == TL_OK && report.unexpected == 0 && report.matched == tl_tensor_count(net) - 2,
          "into: %s", tl_error(inside));
    tl_tensor a = tl_param(net, "layer3.1.conv2.weight"), b = tl_param(inside, "encoder.layer3.1.conv2.weight");
    CHECK(a.data && b.data && memcmp(a.data, b.data, a.count * sizeof *a.data) == 0, "into: other values");
    tl_net_free(net);
    tl_net_free(other);
    tl_net_free(inside);
}

// ---- channels and grids --------------------------------------------------------------------

// A first convolution for another number of channels, by request only.
static void test_channels(void)
{
    tl_pretrained info;
    tl_backbone_desc wish;
    tl_net *net = build("resnet20", 32, 3, 0, 0);
    const char *path = save_weights(net, "channels.safetensors", "", "");
    tl_tensor w = tl_param(net, "conv1.weight");
    memset(&wish, 0, sizeof wish);
    static const int counts[] = { 1, 2, 5 };
    for (int k = 0; k < 3; k++) {
        int n = wish.channels = counts[k];
        tl_net *opened = tl_open_pretrained(path, NULL, &wish, &info);
        CHECK(opened && info.load.adapted == 1 && tl_node_channels(opened, tl_find(opened, "input1")) == n, "%d channels: %s", n,
              tl_error(NULL));
        tl_tensor v = opened ? tl_param(opened, "conv1.weight") : w;
        double worst = 0;
        for (int tap = 0; tap < 9; tap++)
        for (int c = 0; c < n; c++)
        for (int o = 0; o < 16; o++) {
            const tl_real *from = w.data + tap * 3 * 16 + o;
            double want = n > 1 ? (double)from[c % 3 * 16] * 3 / n : (double)from[0] + (double)from[16] + (double)from[32];
            worst = fmax(worst, fabs((double)v.data[(tap * n + c) * 16 + o] - want));
        }
        CHECK(worst < 1e-6, "%d channels: weights off by %g", n, worst);
        tl_net_free(opened);
    }
    tl_net *five = build("resnet20", 32, 5, 0, 0);
    tl_load_report report;
    CHECK(tl_load(five, path, NULL, &report) == TL_ERR_SHAPE && report.mismatched == 1, "not by itself: %s", report.text);
    tl_image image;
    memset(&image, 0, sizeof image);
    tl_real values[32 * 32 * 5];
    CHECK(!tl_image_alloc(&image, 40, 32, 4, TL_U8) && tl_image_input(net, &image, values) == TL_ERR_SHAPE &&
          strstr(tl_error(net), "4 channels"), "%s", tl_error(net));
    CHECK(!tl_image_alloc(&image, 40, 33, 5, TL_U16) && tl_image_input(five, &image, values) == TL_OK, "%s", tl_error(five));
    tl_image_free(&image);
    tl_net_free(net);
    tl_net_free(five);
}

// A grey image of 16 bits through the network for colour, repeated, and through the folded one.
static void compare_folded(const char *name, int size, int first_layers)
{
    tl_net *net = build(name, size, 3, 0, 0);
    CHECK(tl_prepare(net, 1, 0) == TL_OK, "%s: %s", name, tl_error(net));
    tl_net *folded = tl_fold_grey(net, NULL);
    const char *path = temporary_path("folded.safetensors");
    CHECK(folded && tl_save(folded, path) == TL_OK, "%s: %s", name, tl_error(NULL));
    tl_net_free(folded);
    folded = tl_open(path, NULL);                                   // it survives a file
    CHECK(folded && tl_prepare(folded, 1, 0) == TL_OK, "%s: %s", name, tl_error(NULL));
    if (!folded) return;
    tl_image image;
    memset(&image, 0, sizeof image);
    tl_image_alloc(&image, size + 9, size + 4, 1, TL_U16);
    tl_rng rng = tl_rng_at(3, TL_RANDOM_USER, 0, 0, 0);
    for (int i = 0; i < image.width * image.height; i++) ((uint16_t *)image.pixels)[i] = (uint16_t)tl_random_u32(&rng);
    tl_node input = { 1 };
    tl_real *values = (tl_real *)tl__alloc((size_t)size * size * 3, sizeof *values);
    CHECK(!tl_image_input(net, &image, values) && !tl_set_input(net, input, values, 1) && !tl_forward(net, 1, TL_EVAL), "%s: %s",
          name, tl_error(net));
    CHECK(!tl_image_input(folded, &image, values) && !tl_set_input(folded, input, values, 1) && !tl_forward(folded, 1, TL_EVAL),
          "%s: %s", name, tl_error(folded));
    const tl_real *want = tl_data(net, tl_last(net)), *got = tl_data(folded, tl_last(folded));
    size_t count = tl__sample_count(&net->nodes[net->node_count - 1]);
    double worst = 0, largest = 0;
    for (size_t i = 0; i < count; i++) {
        worst = fmax(worst, fabs((double)got[i] - (double)want[i]));
        largest = fmax(largest, fabs((double)want[i]));
    }
    CHECK(worst <= 2e-5 * largest && largest > 0, "%s: folded differs by %.3g of %.3g", name, worst, largest);
    CHECK(tl_node_channels(folded, input) == 1 && folded->node_count - net->node_count == first_layers, "%s: %d more layers",
          name, folded->node_count - net->node_count);
    CHECK(tl_stage_count(folded) == tl_stage_count(net), "%s: stages", name);
    tl__free(values);
    tl_image_free(&image);
    tl_net_free(net);
    tl_net_free(folded);
}

static void test_fold(void)
{
    compare_folded("resnet20", 32, 1);                 // padded, without bias: needs the channel of ones
    compare_folded("unet_resnet18", 64, 1);
    compare_folded("squeezenet1_1", 65, 0);            // neither: one channel
    compare_folded("vit_tiny_patch16_224", 48, 0);     // the same mean for all channels
    compare_folded("convnext_tiny", 36, 0);
    tl_net *net = build("resnet20", 32, 5, 0, 0);
    CHECK(!tl_fold_grey(net, NULL) && !tl_fold_grey(NULL, NULL) && strlen(tl_error(NULL)), "five channels cannot be folded");
    tl_net_free(net);
    net = tl_net_new(NULL);
    tl_relu(net, tl_input(net, 4, 4, 3));
    CHECK(!tl_fold_grey(net, NULL) && strstr(tl_error(NULL), "convolution"), "%s", tl_error(NULL));
    tl_net_free(net);
}

// A file with another grid of places than the network: the class token's vector stays, the others are resampled.
static void test_grid(void)
{
    tl_net *net = build("vit_tiny_patch16_224", 80, 3, 2, 0), *other = tl_net_new(NULL);
    const char *path = save_weights(net, "grid.safetensors", "", "");
    tl_backbone_desc backbone;
    memset(&backbone, 0, sizeof backbone);
    backbone.name = "vit_tiny_patch16_224"; backbone.classes = 2;
    tl_backbone(other, tl_input(other, 48, 128, 3), &backbone);     // 3 x 8 from 5 x 5
    tl_load_report report;
    CHECK(tl_load(other, path, NULL, &report) == TL_OK && report.adapted == 1 && report.matched == tl_tensor_count(net) &&
          strstr(report.text, "pos_embed"), "%s; %s", tl_error(other), report.text);
    tl_tensor from = tl_param(net, "pos_embed"), to = tl_param(other, "pos_embed");
    tl_image grid;
    memset(&grid, 0, sizeof grid);
    tl_image_alloc(&grid, 5, 5, 192, TL_F32);
    for (int i = 0; i < 25 * 192; i++) ((float *)grid.pixels)[i] = (float)from.data[192 + i];
    CHECK(tl_image_resize(&grid, &grid, 8, 3, 1) == TL_OK, "%s", tl_error(NULL));
    double worst = 0;
    for (int i = 0; i < 192; i++) worst = fmax(worst, fabs((double)from.data[i] - (double)to.data[i]));
    for (int i = 0; i < 24 * 192; i++) worst = fmax(worst, fabs((double)((float *)grid.pixels)[i] - (double)to.data[192 + i]));
    CHECK(from.count == 26 * 192 && to.count == 25 * 192 && worst == 0, "the embedding is off by %g", worst);
    static const char *const bad[] = {
        "p = parameter() width=4 channels=2 grid_height=2", "p = parameter() width=3 channels=2 grid_height=2 grid_width=2",
        "p = parameter() height=2 width=4 channels=2 grid_height=2 grid_width=2", "p = parameter() width=2 channels=2 rank=1",
        "p = parameter() channels=2 deviation=-1", "p = parameter(x) channels=2", "p = attention(x) heads=2", "p = select(x)",
        "p = attention(x)", "p = select(x) first=-1 height=1 width=1", "p = select(x) first=15 height=1 width=2", "p = tokens()"
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[200];
        tl_net *refused = tl_net_new(NULL);
        snprintf(text, sizeof text, "x = input() height=4 width=4 channels=9\n%s\n", bad[i]);
        CHECK(tl_parse(refused, text) && strlen(tl_error(refused)), "not refused: %s", bad[i]);
        tl_net_free(refused);
    }
    tl_net *wrong = tl_net_new(NULL);
    CHECK(!tl_backbone(wrong, tl_input(wrong, 50, 48, 3), &backbone).id && strstr(tl_error(wrong), "patches of 16x16"), "%s",
          tl_error(wrong));
    tl_image_free(&grid);
    tl_net_free(net);
    tl_net_free(other);
    tl_net_free(wrong);
}

// Against torch's interpolate with antialias (tools/golden.py).
static void test_resize(void)
{
    tl__archive archive;
    int cases = 0;
    CHECK(tl__archive_open(&archive, "tests/golden/resize.safetensors") == TL_OK, "%s", tl_error(NULL));
    for (int i = 0; i < archive.pair_count; i++) {
        char name[200];
        int cubic;
        if (sscanf(archive.metadata[i].value, "cubic=%d", &cubic) != 1) continue;
        snprintf(name, sizeof name, "%s/in/x", archive.metadata[i].key);
        const tl__archive_tensor *in = tl__archive_find(&archive, name);
        snprintf(name, sizeof name, "%s/out/y", archive.metadata[i].key);
        const tl__archive_tensor *out = tl__archive_find(&archive, name);
        tl_image image;
        memset(&image, 0, sizeof image);
        tl_image_alloc(&image, (int)in->dim[1], (int)in->dim[0], (int)in->dim[2], TL_F32);
        for (size_t k = 0; k < in->count; k++) ((float *)image.pixels)[k] = (float)tl__archive_value(in, k);
        CHECK(tl_image_resize(&image, &image, (int)out->dim[1], (int)out->dim[0], cubic) == TL_OK, "%s", tl_error(NULL));
        double worst = 0;
        for (size_t k = 0; k < out->count; k++)
            worst = fmax(worst, fabs((double)((float *)image.pixels)[k] - tl__archive_value(out, k)));
        CHECK(worst < 2e-6, "%s: off by %.3g", archive.metadata[i].key, worst);
        tl_image_free(&image);
        cases++;
    }
    CHECK(cases >= 6, "%d cases", cases);
    tl__archive_close(&archive);
    tl_image image, bad;
    memset(&image, 0, sizeof image);
    memset(&bad, 0, sizeof bad);
    tl_image_alloc(&image, 3, 2, 1, TL_U8);
    CHECK(tl_image_resize(&image, &image, 0, 2, 0) && tl_image_resize(&image, &bad, 2, 2, 0) && tl_image_resize(NULL, &image, 2, 2, 0) &&
          image.width == 3, "bad sizes");
    memset(image.pixels, 200, 6);
    CHECK(!tl_image_resize(&image, &image, 70, 1, 1) && ((uint8_t *)image.pixels)[37] == 200 && image.type == TL_U8, "a constant stays");
    tl_image_free(&image);
}

MAIN(backbones, void)
{
    test_levels();
    test_channels();
    test_fold();
    test_grid();
    test_resize();
    test_table();
    test_stages();
    test_refused_models();
    test_recognise();
    test_partial();
    remove_temporary();
    return finish("backbones");
}
