// Real weights give the outputs that they give elsewhere: every file of pretrained/ against its .expected.json, which was
// computed in float64 by other code from the same values. Looks for the folder in TINYTL_SHARED, else ../shared; without it
// there is nothing to test.

#include "check.h"

#define OUTPUT_TOLERANCE 1e-3           // absolute, of logits and features

static char weights_folder[1024];

static const char *path_of(const char *name, const char *ending)
{
    static char path[2][2048];
    static int which;
    which = !which;
    snprintf(path[which], sizeof path[which], "%s/%s%s", weights_folder, name, ending);
    return path[which];
}

// ---- as much of JSON as the files need: where the value of a key begins --------------------

static const char *value_of(const char *from, const char *end, const char *key)
{
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const char *at = from ? strstr(from, quoted) : NULL;
    if (!at || at >= end) return NULL;
    at += strlen(quoted);
    while (*at == ':' || *at == ' ') at++;
    return at;
}

static void copy_text(const char *at, char *out, size_t size)
{
    size_t n = 0;
    for (at += at && *at == '"'; at && *at && *at != '"' && n + 1 < size; at++) out[n++] = *at;
    out[n] = 0;
}

// The numbers of a list; returns how many.
static int numbers_of(const char *at, double *out, int most)
{
    int count = 0;
    if (!at || *at != '[') return 0;
    for (at++; count < most && *at && *at != ']';) {
        char *rest;
        out[count] = strtod(at, &rest);
        if (rest == at) at++;
        else count++, at = rest;
    }
    return count;
}

// ---- comparison ----------------------------------------------------------------------------

static double worst_seen;

static void compare_list(const char *file, const char *image, const char *what, const tl_real *got, int count, const char *list)
{
    static double want[4096];
    int wanted = numbers_of(list, want, 4096);
    double worst = 0;
    for (int i = 0; i < count && i < wanted; i++) worst = fmax(worst, fabs((double)got[i] - want[i]));
    worst_seen = fmax(worst_seen, worst);
    CHECK(wanted == count && worst < OUTPUT_TOLERANCE, "%s, %s: %s: %d values for %d wanted, off by %.3g", file, image, what, count,
          wanted, worst);
}

// The last node inside a module: its output.
static const tl__node *output_of(tl_net *net, const char *module)
{
    size_t length = strlen(module);
    for (int i = net->node_count - 1; i >= 0; i--)
        if (strncmp(net->nodes[i].name, module, length) == 0 && net->nodes[i].name[length] == '.') return &net->nodes[i];
    return NULL;
}

// Mean, deviation, least and largest value of the maps that the file lists by the names of modules.
static int compare_stages(tl_net *net, const char *file, const char *image, const char *list, const char *end)
{
    int compared = 0;
    for (const char *at = list; (at = value_of(at, end, "name")) != NULL;) {
        char name[64];
        double shape[3], want[4];
        const char *const keys[4] = { "mean", "std", "min", "max" };
        copy_text(at, name, sizeof name);
        numbers_of(value_of(at, end, "shape"), shape, 3);
        for (int k = 0; k < 4; k++) want[k] = strtod(value_of(at, end, keys[k]), NULL);
        const tl__node *node = output_of(net, name);
        if (!node) continue;
        size_t count = tl__sample_count(node);
        double sum = 0, squares = 0, lo = 1e30, hi = -1e30;
        for (size_t i = 0; i < count; i++) {
            double v = (double)node->data[i];
            sum += v;
            squares += v * v;
            lo = fmin(lo, v);
            hi = fmax(hi, v);
        }
        double mean = sum / (double)count, got[4] = { mean, sqrt(squares / (double)count - mean * mean), lo, hi };
        CHECK(node->c == (int)shape[0] && node->h == (int)shape[1] && node->w == (int)shape[2], "%s: %s is %dx%dx%d", file,
              name, node->h, node->w, node->c);
        for (int k = 0; k < 4; k++)
            CHECK(fabs(got[k] - want[k]) < OUTPUT_TOLERANCE, "%s, %s: %s of %s is %.6f, not %.6f", file, image, keys[k], name, got[k],
                  want[k]);
        compared++;
    }
    return compared;
}

// The picture of a case: a file, or the pattern that the folder's README describes.
static int picture_of(const char *image, tl_image *picture)
{
    if (strncmp(image, "synthetic", 9) != 0) return tl_image_load(picture, path_of(image, ""));
    int size = atoi(strrchr(image, '_') + 1);
    tl_result result = tl_image_alloc(picture, size, size, 3, TL_U8);
    for (int y = 0; !result && y < size; y++)
    for (int x = 0; x < size; x++)
    for (int c = 0; c < 3; c++) ((uint8_t *)picture->pixels)[(y * size + x) * 3 + c] = (uint8_t)(37 * c + 3 * y + 5 * x + x * y);
    return result;
}

static void pooled(const tl__node *node, tl_real *mean)
{
    for (int c = 0; c < node->c; c++) {
        double sum = 0;
        for (int p = 0; p < node->h * node->w; p++) sum += (double)node->data[(size_t)p * node->c + c];
        mean[c] = (tl_real)(sum / (node->h * node->w));
    }
}

static void run_image(tl_net *net, const char *file, const char *from, const char *end)
{
    char image[64];
    tl_image picture;
    memset(&picture, 0, sizeof picture);
    copy_text(from, image, sizeof image);
    tl_node input = { 1 };
    tl_real *values = (tl_real *)tl__alloc(tl__sample_count(&net->nodes[0]), sizeof *values);
    CHECK(picture_of(image, &picture) == TL_OK, "%s: %s", image, tl_error(NULL));
    CHECK(tl_image_input(net, &picture, values) == TL_OK && tl_set_input(net, input, values, 1) == TL_OK &&
          tl_forward(net, 1, TL_EVAL) == TL_OK, "%s, %s: %s", file, image, tl_error(net));
    tl_node last = tl_last(net);
    const char *logits = value_of(from, end, "logits"), *features = value_of(from, end, "pooled_features");
    if (logits) compare_list(file, image, "logits", tl_data(net, last), tl_node_channels(net, last), logits);
    if (tl_features(net).id) {
        compare_list(file, image, "features", tl_data(net, tl_features(net)), tl_node_channels(net, tl_features(net)), features);
    } else {                                              // a trunk
        static tl_real mean[4096];
        for (int k = 1; k <= tl_stage_count(net); k++) {
            char key[16];
            snprintf(key, sizeof key, "layer%d", k);
            pooled(&net->nodes[tl_stage(net, k).id - 1], mean);
            const char *list = value_of(value_of(from, end, "layer_pooled"), end, key);
            compare_list(file, image, key, mean, tl_node_channels(net, tl_stage(net, k)), list ? list : features);
        }
        double samples[64];
        int count = numbers_of(value_of(from, end, "layer3_samples"), samples, 4);    // the first one: channel, y, x, value
        const tl__node *map = &net->nodes[last.id - 1];
        double got = (double)map->data[((int)samples[1] * map->w + (int)samples[2]) * map->c + (int)samples[0]];
        CHECK(count == 4 && fabs(got - samples[3]) < OUTPUT_TOLERANCE, "%s, %s: sample %.6f, not %.6f", file, image, got, samples[3]);
    }
    int stages = compare_stages(net, file, image, value_of(from, end, "stages"), end);
    CHECK(stages >= 6, "%s: only %d of the maps were found", file, stages);
    tl__free(values);
    tl_image_free(&picture);
}

static void run_weights(const char *name, const char *architecture, int stages)
{
    uint8_t *json;
    size_t size;
    tl_pretrained info;
    worst_seen = 0;
    tl_net *net = tl_open_pretrained(path_of(name, ".safetensors"), NULL, NULL, &info);
    CHECK(net != NULL, "%s: %s", name, tl_error(NULL));
    if (!net) return;
    CHECK(strcmp(info.architecture, architecture) == 0 && info.stages == stages, "%s: taken for %s, %d stages", name,
          info.architecture, info.stages);
    CHECK(info.published_preprocess && info.load.missing + info.load.unexpected + info.load.mismatched == 0 &&
          info.load.matched == tl_tensor_count(net), "%s: %d matched; %s", name, info.load.matched, info.load.text);
    tl_preprocess p = tl_get_preprocess(net);
    p.resize = p.crop = 0;                                // the pictures are cut out already
    tl_set_preprocess(net, &p);
    tl_keep_all(net);
    CHECK(tl_prepare(net, 1, 0) == TL_OK, "%s: %s", name, tl_error(net));
    if (tl__read_file(path_of(name, ".expected.json"), 100000000, &json, &size) == TL_OK) {
        char *text = (char *)tl__alloc(size + 1, 1);
        memcpy(text, json, size);
        int cases = 0;
        for (const char *at = text; (at = value_of(at, text + size, "image")) != NULL; cases++) {
            const char *next = value_of(at, text + size, "image");
            run_image(net, name, at, next ? next : text + size);
        }
        CHECK(cases == 3, "%s: %d cases", name, cases);
        tl__free(text);
    }
    tl__free(json);
    printf("  %s: off by at most %.2g\n", name, worst_seen);
    tl_net_free(net);
}

MAIN(pretrained, void)
{
    const char *shared = getenv("TINYTL_SHARED");
    snprintf(weights_folder, sizeof weights_folder, "%s/pretrained", shared ? shared : "../shared");
    FILE *readme = fopen(path_of("README.md", ""), "rb");
    if (!readme) {
        printf("skipped: no folder %s; set TINYTL_SHARED\n", weights_folder);
        return finish("pretrained");
    }
    fclose(readme);
    run_weights("squeezenet1_1", "squeezenet1_1", 0);
    run_weights("mobilenet_v2", "mobilenet_v2", 0);
    run_weights("resnet20_cifar10", "resnet20", 0);
    run_weights("resnet18_trunk_layer3", "resnet18", 3);
    return finish("pretrained");
}
