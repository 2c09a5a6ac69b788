// Model files: what is written comes back bit for bit; every kind of damaged or foreign file is refused with a sentence, and then
// nothing has changed; a file that cannot be written leaves the old one.

#include "check.h"
#include "temporary.h"

#include <locale.h>
#include <signal.h>
#include <sys/resource.h>

// One of each layout: convolution, transposed convolution with groups, batch norm, dense behind a flatten.
static const char model[] =
    "x = input() height=4 width=6 channels=2\nc = conv2d(x) out=3 kernel=3 kernel_w=2 pad=1\nb = batch_norm(c)\n"
    "t = conv_transpose2d(b) out=6 kernel=2 stride=2 groups=3\nf = flatten(t)\nd = dense(f) out=5\nloss cross_entropy(d) smoothing=0.1\n";

static tl_net *parsed_net(const char *text, uint64_t seed)
{
    tl_net_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.seed = seed;
    desc.threads = 1;
    tl_net *net = tl_net_new(&desc);
    CHECK(tl_parse(net, text) == TL_OK, "%s", tl_error(net));
    return net;
}

// Values that were not there before, also in the buffers.
static void fill_weights(tl_net *net, uint32_t number)
{
    tl_rng rng = tl_rng_at(1, TL_RANDOM_USER, 0, number, 0);
    CHECK(tl_prepare(net, 1, 0) == TL_OK, "%s", tl_error(net));
    for (size_t i = 0; i < net->parameter_count; i++) net->parameters[i] = (tl_real)tl_random_normal(&rng);
    for (size_t i = 0; i < net->buffer_count; i++) net->buffers[i] = (tl_real)tl_random_uniform(&rng, 0.1f, 2);
}

static int same_weights(const tl_net *a, const tl_net *b)
{
    return a->parameter_count == b->parameter_count && a->buffer_count == b->buffer_count &&
           memcmp(a->parameters, b->parameters, a->parameter_count * sizeof(tl_real)) == 0 &&
           memcmp(a->buffers, b->buffers, a->buffer_count * sizeof(tl_real)) == 0;
}

static uint8_t *file_bytes(const char *path, size_t *size)
{
    uint8_t *bytes;
    CHECK(tl__read_file(path, 1u << 30, &bytes, size) == TL_OK, "%s", tl_error(NULL));
    return bytes;
}

// ---- there and back ------------------------------------------------------------------------

static void test_round_trip(void)
{
    const char *path = temporary_path("model.safetensors"), *other = temporary_path("other.safetensors");
    tl_net *net = parsed_net(model, 1), *fresh = parsed_net(model, 2);
    tl_preprocess full = { TL_SCALE_FULL, { 0.485f, 1e-30f, -3.25f, 0 }, { 0.229f, 1234567.8f, 1, 0 }, 256, 224, 1, 1, TL_RANGE_FIXED, 0.75f, 0.125f, 1 };
    fill_weights(net, 1);
    net->parameters[0] = (tl_real)1e-42;                  // subnormal
    net->parameters[1] = (tl_real)-0.0;
    net->parameters[2] = (tl_real)FLT_MAX;
    CHECK(tl_set_preprocess(net, &full) == TL_OK, "%s", tl_error(net));
    CHECK(tl_save(net, path) == TL_OK && tl_save(net, other) == TL_OK, "%s", tl_error(net));
    size_t size, other_size;
    uint8_t *bytes = file_bytes(path, &size), *other_bytes = file_bytes(other, &other_size);
    CHECK(size == other_size && memcmp(bytes, other_bytes, size) == 0, "two files of one network differ");
    uint64_t length = tl__get_le(bytes, 8);
    CHECK(length % 8 == 0 && size == 8 + length + 4 * (net->parameter_count + net->buffer_count), "a file of %zu bytes", size);
    tl__free(bytes);
    tl__free(other_bytes);

    tl_net *opened = tl_open(path, NULL);
    CHECK(opened && same_weights(net, opened), "opened: %s", tl_error(NULL));
    tl_preprocess p = tl_get_preprocess(opened);
    CHECK(memcmp(&p, &full, sizeof p) == 0, "the preprocessing is another one");
    size_t need = tl_to_text(net, NULL, 0) + 1;
    char *a = (char *)malloc(need), *b = (char *)malloc(need);
    tl_to_text(net, a, need);
    tl_to_text(opened, b, need);
    CHECK(strcmp(a, b) == 0, "another network:\n%s\n%s", a, b);
    free(a);
    free(b);
    tl_net_free(opened);

    tl_load_report report;
    CHECK(tl_load(fresh, path, NULL, &report) == TL_OK && same_weights(net, fresh), "loaded: %s", tl_error(fresh));
    CHECK(report.matched == net->tensor_count && report.missing + report.unexpected + report.mismatched == 0 && !report.text[0], "the report");
    tl_net_free(fresh);
    tl_net_free(net);

    // without parameters
    net = parsed_net("x = input() height=4 width=6 channels=2\np = max_pool2d(x) kernel=2\n", 1);
    CHECK(tl_save(net, path) == TL_OK, "%s", tl_error(net));
    opened = tl_open(path, NULL);
    CHECK(opened && tl_node_count(opened) == 2, "a network without parameters: %s", tl_error(NULL));
    tl_net_free(opened);
    tl_net_free(net);
}

// The text of numbers must not depend on the decimal comma of a locale.
static void test_locale(void)
{
    static const char *const names[] = { "de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE", "ru_RU.UTF-8" };
    const char *path = temporary_path("locale.safetensors");
    tl_net *net = parsed_net("x = input() height=4 width=6 channels=2\nl = leaky_relu(x) slope=0.125\nc = conv2d(l) out=1 kernel=1\n", 1);
    tl_preprocess full = { TL_SCALE_FULL, { 0.5f, 0, 0, 0 }, { 0.25f, 0, 0, 0 }, 0, 0, 0, 0, TL_RANGE_IMAGE, 0, 0, 0 };
    tl_set_preprocess(net, &full);
    int found = 0;
    for (int i = 0; i < 5 && !found; i++) found = setlocale(LC_NUMERIC, names[i]) != NULL;
    CHECK(tl_save(net, path) == TL_OK, "%s", tl_error(net));
    tl_net *opened = tl_open(path, NULL);
    CHECK(opened && opened->nodes[1].attr.number.value == 0.125f && tl_get_preprocess(opened).mean[0] == 0.5f, "with a decimal comma: %s", tl_error(NULL));
    setlocale(LC_NUMERIC, "C");
    tl_net_free(opened);
    tl_net_free(net);
}

// ---- files made by hand --------------------------------------------------------------------

// length, header, data
static void write_file(const char *path, const char *header, const void *data, size_t size)
{
    uint8_t length[8];
    FILE *file = fopen(path, "wb");
    tl__put_le(length, strlen(header), 8);
    CHECK(file && fwrite(length, 1, 8, file) == 8 && fwrite(header, 1, strlen(header), file) == strlen(header) &&
          fwrite(data, 1, size, file) == size && fclose(file) == 0, "cannot write %s", path);
}

static const char small_model[] = "x = input() height=1 width=1 channels=2\nd = dense(x) out=2 no_bias=1\n";

// d.weight is [out][in] in the file and [in][out] in memory.
static void check_values(const char *dtype, const void *data, size_t size, const float want[4])
{
    char header[200];
    const char *path = temporary_path("types.safetensors");
    tl_net *net = parsed_net(small_model, 1);
    snprintf(header, sizeof header, "{\"d.weight\":{\"dtype\":\"%s\",\"shape\":[2,2],\"data_offsets\":[0,%zu]}}", dtype, size);
    write_file(path, header, data, size);
    CHECK(tl_load(net, path, NULL, NULL) == TL_OK, "%s: %s", dtype, tl_error(net));
    for (int i = 0; i < 4; i++) {
        float got = net->parameters ? (float)net->parameters[i % 2 * 2 + i / 2] : NAN;
        CHECK(memcmp(&got, &want[i], sizeof got) == 0, "%s: value %d is %.9g, not %.9g", dtype, i, (double)got, (double)want[i]);
    }
    tl_net_free(net);
}

static void test_types(void)
{
    const float f32[4] = { 1, -2.5f, 1e-40f, 3e38f };
    const uint8_t f16[8] = { 0x00, 0x3C, 0xFF, 0xFB, 0x01, 0x00, 0x00, 0x80 };      // 1, -65504, 2^-24, -0
    const uint8_t bf16[8] = { 0x80, 0x3F, 0x20, 0xC0, 0x7F, 0x7F, 0x01, 0x00 };     // 1, -2.5, the largest, the smallest
    const double f64[4] = { 0.1, -1e300 * 1e-300, 16777217, 1e-46 };
    const float want16[4] = { 1, -65504, 5.9604645e-8f, -0.0f }, want64[4] = { 0.1f, -1, 16777216, 0 };
    const float wantb[4] = { 1, -2.5f, 3.38953139e38f, 9.18354962e-41f };
    uint8_t bytes[32];
    for (int i = 0; i < 4; i++) {
        uint32_t bits;
        memcpy(&bits, &f32[i], 4);
        tl__put_le(bytes + 4 * i, bits, 4);
    }
    check_values("F32", bytes, 16, f32);
    check_values("F16", f16, 8, want16);
    check_values("BF16", bf16, 8, wantb);
    for (int i = 0; i < 4; i++) {
        uint64_t bits;
        memcpy(&bits, &f64[i], 8);
        tl__put_le(bytes + 8 * i, bits, 8);
    }
    check_values("F64", bytes, 32, want64);
    for (uint32_t half = 0; half < 65536; half++) {        // every half: by its definition
        double fraction = half & 1023, sign = half >> 15 ? -1 : 1;
        int exponent = (int)(half >> 10 & 31);
        double want = exponent == 0 ? ldexp(fraction, -24) : exponent == 31 ? (fraction > 0 ? NAN : INFINITY) : ldexp(1024 + fraction, exponent - 25);
        double got = (double)tl__f32_from_f16(half);
        if (!(got == sign * want || (isnan(want) && isnan(got)))) CHECK(0, "half %04x is %g, not %g", half, got, sign * want);
    }
}

// Good and bad headers for small_model with 16 bytes of data; says: part of the sentence, NULL if the file is good.
typedef struct header_case {
    const char *header;
    const char *says;
} header_case;

#define GOOD "\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]"

static const header_case headers[] = {
    { "{\"d.weight\":{" GOOD "}}", NULL },
    { "{ \"d.weight\" : { \"data_offsets\" : [ 0 , 16 ] ,\n\t\"shape\":[2,2],\r\"dtype\":\"F32\" } } ", NULL },
    { "{\"\\u0064.w\\u0065ight\":{" GOOD "}}", NULL },
    { "{\"__metadata__\":{\"a\":\"b\\n\\\"\\\\\\u00e9\\ud83d\\ude00\"},\"d.weight\":{" GOOD "}}", NULL },
    { "{\"__metadata__\":{},\"d.weight\":{\"more\":[1,{\"a\":[null,true,false,-1.5e+3,\"x\"]},{}]," GOOD "}}", NULL },
    { "{\"d.weight\":{" GOOD "},\"bn.num_batches_tracked\":{\"dtype\":\"I64\",\"shape\":[0],\"data_offsets\":[16,16]}}", NULL },
    // not JSON
    { "", "does not begin" }, { "[]", "does not begin" }, { " {}", "does not begin" }, { "{", "broken" }, { "{}", "without a tensor" },
    { "{\"d.weight\":{" GOOD "}", "broken" }, { "{\"d.weight\":{" GOOD "}}}", "goes on" }, { "{\"d.weight\":{" GOOD "},}", "broken" },
    { "{\"d.weight\":{" GOOD "} \"e\":{}}", "broken" }, { "{\"d.weight\" {" GOOD "}}", "broken" }, { "{d.weight:{" GOOD "}}", "broken" },
    { "{\"d.weight\":{" GOOD ",}}", "broken" }, { "{\"d.weight\":{" GOOD, "broken" }, { "{\"d.weight", "broken" }, { "{\"d.weight\":[1]}", "object" },
    { "{\"d.wei\nght\":{" GOOD "}}", "broken" }, { "{\"d.wei\\x\":{" GOOD "}}", "broken" }, { "{\"d.weight\\u0000\":{" GOOD "}}", "broken" },
    { "{\"\\ud800\":{" GOOD "}}", "broken" }, { "{\"\\udc00\":{" GOOD "}}", "broken" }, { "{\"\\ud800\\u0041\":{" GOOD "}}", "broken" }, { "{\"\\u12", "broken" },
    { "{\"d.weight\":{\"x\":tru," GOOD "}}", "broken" }, { "{\"d.weight\":{\"x\":01," GOOD "}}", "broken" }, { "{\"d.weight\":{\"x\":1.," GOOD "}}", "broken" },
    { "{\"d.weight\":{\"x\":-," GOOD "}}", "broken" }, { "{\"d.weight\":{\"x\":1e," GOOD "}}", "broken" }, { "{\"d.weight\":{\"x\":[1," GOOD "}}", "broken" },
    // fields
    { "{\"d.weight\":{}}", "is broken JSON" }, { "{\"d.weight\":{\"dtype\":\"F32\",\"shape\":[2,2]}}", "once each" },
    { "{\"d.weight\":{" GOOD ",\"dtype\":\"F32\"}}", "once each" }, { "{\"d.weight\":{" GOOD ",\"shape\":[2,2]}}", "once each" },
    { "{\"d.weight\":{\"dtype\":3,\"shape\":[2,2],\"data_offsets\":[0,16]}}", "dtype" },
    { "{\"d.weight\":{\"dtype\":\"F32\",\"shape\":[2,-2],\"data_offsets\":[0,16]}}", "shape" },
    { "{\"d.weight\":{\"dtype\":\"F32\",\"shape\":[2,2.0],\"data_offsets\":[0,16]}}", "shape" },
    { "{\"d.weight\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,2,2],\"data_offsets\":[0,16]}}", "shape" },
    { "{\"d.weight\":{\"dtype\":\"F32\",\"shape\":\"2\",\"data_offsets\":[0,16]}}", "shape" },
    { "{\"d.weight\":{\"dtype\":\"F32\",\"shape\":[18446744073709551616],\"data_offsets\":[0,16]}}", "shape" },
    { "{\"d.weight\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,4],\"data_offsets\":[0,16]}}", "too large" },
    { "{\"d.weight\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,16]}}", "do not fit" },
    { "{\"d.weight\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0]}}", "data_offsets" },
    { "{\"d.weight\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16,32]}}", "data_offsets" },
    { "{\"d.weight\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,17]}}", "outside the file" },
    { "{\"d.weight\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[16,0]}}", "outside the file" },
    { "{\"d.weight\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[18446744073709551600,16]}}", "outside the file" },
    { "{\"d.weight\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,12]}}", "do not fit" },
    { "{\"d.weight\":{\"dtype\":\"F16\",\"shape\":[2,2],\"data_offsets\":[0,16]}}", "do not fit" },
    { "{\"d.weight\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[4,12]}}", "hole" },
    { "{\"d.weight\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]}}", "without a tensor" },
    { "{\"d.weight\":{" GOOD "},\"e\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}", "overlaps" },
    { "{\"d.weight\":{" GOOD "},\"d.weight\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[16,16]}}", "twice" },
    { "{\"__metadata__\":{},\"__metadata__\":{},\"d.weight\":{" GOOD "}}", "twice" },
    { "{\"__metadata__\":{\"a\":\"b\",\"a\":\"c\"},\"d.weight\":{" GOOD "}}", "twice" },
    { "{\"__metadata__\":{\"a\":1},\"d.weight\":{" GOOD "}}", "object of strings" }, { "{\"__metadata__\":[],\"d.weight\":{" GOOD "}}", "object of strings" },
    { "{\"__metadata__\":{\"a\":\"b\"", "object of strings" },
    // not what the network needs
    { "{\"e.weight\":{" GOOD "}}", "missing" }, { "{\"d.weight\":{" GOOD "},\"e\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[16,16]}}", "not in the network" },
    { "{\"d.weight\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", "4 in the file, 2x2 here" },
    { "{\"d.weight\":{\"dtype\":\"F32\",\"shape\":[2,2,1],\"data_offsets\":[0,16]}}", "2x2x1 in the file" },
    { "{\"d.weight\":{\"dtype\":\"I32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}", "no floating-point" },
    { "{\"d.weight\":{\"dtype\":\"F8_E4M3\",\"shape\":[2,2],\"data_offsets\":[0,16]}}", "no floating-point" }
};

static void test_headers(void)
{
    const char *path = temporary_path("header.safetensors");
    uint8_t data[16];
    for (int i = 0; i < 4; i++) tl__put_le(data + 4 * i, 0x3F800000u + (uint32_t)i, 4);
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        tl_net *net = parsed_net(small_model, 1), *before = parsed_net(small_model, 1);
        fill_weights(net, 1);
        fill_weights(before, 1);
        write_file(path, headers[i].header, data, sizeof data);
        tl_result result = tl_load(net, path, NULL, NULL);
        if (!headers[i].says) {
            CHECK(result == TL_OK && net->parameters[0] == 1, "%s: %s", headers[i].header, tl_error(net));
        } else {
            CHECK(result == TL_ERR_FORMAT || result == TL_ERR_SHAPE, "%s: %s", headers[i].header, tl_result_name(result));
            CHECK(strstr(tl_error(net), headers[i].says) && strstr(tl_error(net), path), "%s: '%s' is not in the sentence: %s", headers[i].header, headers[i].says, tl_error(net));
            CHECK(same_weights(net, before) && tl_status(net) == TL_OK, "%s: something changed", headers[i].header);
        }
        CHECK(tl_open(path, NULL) == NULL && strlen(tl_error(NULL)) > 0, "%s: opened without a network", headers[i].header);
        tl_net_free(net);
        tl_net_free(before);
    }
    // values that are not finite
    static const uint32_t bad[] = { 0x7F800000u, 0xFF800000u, 0x7FC00000u };
    for (int i = 0; i < 3; i++) {
        tl_net *net = parsed_net(small_model, 1), *before = parsed_net(small_model, 1);
        fill_weights(net, 1);
        fill_weights(before, 1);
        tl__put_le(data + 12, bad[i], 4);
        write_file(path, headers[0].header, data, sizeof data);
        CHECK(tl_load(net, path, NULL, NULL) == TL_ERR_FORMAT && strstr(tl_error(net), "not finite") && strstr(tl_error(net), "d.weight"), "%s", tl_error(net));
        CHECK(same_weights(net, before), "a value that is not finite: something changed");
        tl_net_free(net);
        tl_net_free(before);
    }
}

// Headers that would be large or deep.
static void test_bombs(void)
{
    const char *path = temporary_path("bomb.safetensors");
    tl_net *net = parsed_net(small_model, 1);
    size_t size = 300000;
    char *header = (char *)malloc(size + 200);
    uint8_t length[16];
    for (int kind = 0; kind < 4; kind++) {
        strcpy(header, kind == 0 || kind == 1 ? "{\"a\":{\"x\":" : kind == 2 ? "{\"a\":{\"shape\":[1" : "{\"__metadata__\":{\"a\":\"");
        size_t at = strlen(header);
        while (at < size) {
            const char *more = kind == 0 ? "[" : kind == 1 ? "{\"a\":" : kind == 2 ? ",1" : "\\u0041";
            memcpy(header + at, more, strlen(more));
            at += strlen(more);
        }
        header[at] = 0;
        write_file(path, header, "", 0);
        CHECK(tl_load(net, path, NULL, NULL) == TL_ERR_FORMAT, "bomb %d: %s", kind, tl_error(net));
    }
    // many tensors of no size, and a header that is longer than the file or than any file
    size_t at = (size_t)sprintf(header, "{");
    for (int i = 0; at < size; i++) at += (size_t)sprintf(header + at, "%s\"t%d\":{\"dtype\":\"F32\",\"shape\":[0,9999999],\"data_offsets\":[0,0]}", i ? "," : "", i);
    strcpy(header + at, "}");
    write_file(path, header, "", 0);
    tl_load_report report;
    CHECK(tl_load(net, path, NULL, &report) == TL_ERR_SHAPE && report.unexpected > 3000 && report.missing == 1 && strlen(report.text) < sizeof report.text, "%s", tl_error(net));
    const uint64_t lies[] = { 9, 100, 99999999, 100000001, 0x7FFFFFFFFFFFFFFFu, 0xFFFFFFFFFFFFFFF8u, UINT64_MAX };
    for (int i = 0; i < 7; i++) {
        tl__put_le(length, lies[i], 8);
        memcpy(length + 8, "{}      ", 8);
        write_bytes(path, length, 16);
        CHECK(tl_load(net, path, NULL, NULL) == TL_ERR_FORMAT && tl_open(path, NULL) == NULL, "a header of %llu bytes", (unsigned long long)lies[i]);
    }
    free(header);
    tl_net_free(net);
}

static void test_options(void)
{
    const char *path = temporary_path("options.safetensors");
    const char *header = "{\"d.weight\":{" GOOD "},\"e.weight\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[16,28]},"
                         "\"k.bias\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[28,36]}}";
    const char *text = "x = input() height=1 width=1 channels=2\nd = dense(x) out=2\nk = dense(d) out=3\n";
    uint8_t data[36];
    for (int i = 0; i < 9; i++) tl__put_le(data + 4 * i, 0x40000000u, 4);      // 2
    write_file(path, header, data, sizeof data);
    for (int i = 0; i < 16; i++) {
        tl_net *net = parsed_net(text, 1);
        tl_load_desc desc = { i & 1, i >> 1 & 1, i >> 2 & 1, i & 8 ? "d.*" : NULL, NULL, NULL, 0 };
        tl_load_report report;
        tl_result result = tl_load(net, path, &desc, &report);
        int only = i & 8, good = only ? i & 1 : (i & 7) == 7;
        CHECK((result == TL_OK) == (good != 0), "options %d: %s", i, tl_error(net));
        CHECK(report.matched == 1 && report.missing == (only ? 1 : 2) && report.unexpected == (only ? 0 : 1) && report.mismatched == (only ? 0 : 1),
              "options %d: %d %d %d %d", i, report.matched, report.missing, report.unexpected, report.mismatched);
        CHECK(strstr(report.text, "d.bias") && (only || (strstr(report.text, "e.weight") && strstr(report.text, "k.bias"))), "options %d: %s", i, report.text);
        if (good) CHECK(tl_param(net, "d.weight").data[0] == 2 && tl_param(net, "d.bias").data[0] != 2 && tl_param(net, "k.bias").data[0] != 2, "options %d: the values", i);
        else CHECK(net->parameters == NULL || tl_param(net, "d.weight").data[0] != 2, "options %d: refused and yet loaded", i);
        tl_net_free(net);
    }
    tl_net *net = parsed_net(text, 1);
    tl_load_desc nothing = { 1, 1, 1, "z*", NULL, NULL, 0 };
    CHECK(tl_load(net, path, &nothing, NULL) == TL_ERR_SHAPE && strstr(tl_error(net), "z*"), "a pattern that matches nothing: %s", tl_error(net));
    CHECK(tl_load(net, temporary_path("no such file"), NULL, NULL) == TL_ERR_FILE && tl_open(temporary_path("no such file"), NULL) == NULL, "a missing file");
    CHECK(tl_load(net, temporary_folder, NULL, NULL) == TL_ERR_FILE && tl_open(temporary_folder, NULL) == NULL, "a folder: %s", tl_error(net));
    tl_net_free(net);
}

// ---- damage --------------------------------------------------------------------------------

// Changes one byte in place: writing the file anew thousands of times would make some file systems flush each time.
static void write_byte(const char *path, size_t at, uint8_t value)
{
    FILE *file = fopen(path, "r+b");
    CHECK(file && fseek(file, (long)at, SEEK_SET) == 0 && fputc(value, file) == value && fclose(file) == 0, "cannot write %s", path);
}

// Cut off at every byte, and one byte longer.
static void test_truncated(void)
{
    const char *path = temporary_path("cut.safetensors");
    tl_net *net = parsed_net(model, 1), *before = parsed_net(model, 1);
    fill_weights(net, 1);
    fill_weights(before, 1);
    CHECK(tl_save(net, path) == TL_OK, "%s", tl_error(net));
    size_t size;
    uint8_t *bytes = file_bytes(path, &size);
    for (size_t cut = size + 2; cut-- > 0; ) {
        if (cut == size) continue;
        CHECK(truncate(path, (off_t)cut) == 0, "truncate");
        tl_result result = tl_load(net, path, NULL, NULL);
        CHECK(result == TL_ERR_FORMAT && strlen(tl_error(net)) > 0, "cut off at %zu: %s, %s", cut, tl_result_name(result), tl_error(net));
        tl_net *opened = tl_open(path, NULL);
        CHECK(opened == NULL, "cut off at %zu: opened", cut);
        tl_net_free(opened);
    }
    CHECK(same_weights(net, before), "a cut file changed something");
    tl__free(bytes);
    tl_net_free(net);
    tl_net_free(before);
}

// One bit changed anywhere in the length or the header: no crash, and either a sentence or a network in order.
static void test_flipped(void)
{
    const char *path = temporary_path("flip.safetensors");
    tl_net *net = parsed_net(model, 1);
    fill_weights(net, 1);
    CHECK(tl_save(net, path) == TL_OK, "%s", tl_error(net));
    size_t size, opened_count = 0;
    uint8_t *bytes = file_bytes(path, &size);
    size_t header = 8 + (size_t)tl__get_le(bytes, 8);
    for (size_t bit = 0; bit < 8 * header; bit++) {
        write_byte(path, bit / 8, (uint8_t)(bytes[bit / 8] ^ 1u << bit % 8));
        tl_net *opened = tl_open(path, NULL);
        if (!opened) {
            if (!strlen(tl_error(NULL))) CHECK(0, "bit %zu: no sentence", bit);
        } else {
            opened_count++;
            if (tl_status(opened) || opened->parameter_count != net->parameter_count || !tl_to_text(opened, NULL, 0)) CHECK(0, "bit %zu: an odd network", bit);
        }
        tl_net_free(opened);
        if (bit % 8 == 7) write_byte(path, bit / 8, bytes[bit / 8]);
    }
    CHECK(opened_count > 0 && opened_count < 4 * header, "%zu of %zu changed files were opened", opened_count, 8 * header);
    for (size_t at = header; at < size; at++) {            // in the values: another value, or not finite and refused
        write_byte(path, at, (uint8_t)~bytes[at]);
        tl_net *opened = tl_open(path, NULL);
        if (opened && (!tl__all_finite(opened->parameters, opened->parameter_count) || same_weights(opened, net))) CHECK(0, "byte %zu", at);
        tl_net_free(opened);
        write_byte(path, at, bytes[at]);
    }
    tl__free(bytes);
    tl_net_free(net);
}

static void test_foreign(void)
{
    const char *path = temporary_path("foreign.safetensors");
    static const char *const bad[] = {
        "{\"__metadata__\":{\"tinytl.network\":\"x = relu(y)\"},\"d.weight\":{" GOOD "}}",
        "{\"__metadata__\":{\"tinytl.network\":\"\"},\"d.weight\":{" GOOD "}}",
        "{\"__metadata__\":{\"tinytl.network\":\"x = input() height=1 width=1 channels=2\\nd = dense(x) out=2 no_bias=1\\n\",\"tinytl.preprocess\":\"half\"},\"d.weight\":{" GOOD "}}",
        "{\"__metadata__\":{\"tinytl.network\":\"x = input() height=1 width=1 channels=2\\nd = dense(x) out=2 no_bias=1\\n\",\"tinytl.preprocess\":"
            "\"full mean=0,0,0,0 std=1,1,1,-1\"},\"d.weight\":{" GOOD "}}",
        "{\"__metadata__\":{\"tinytl.network\":\"x = input() height=1 width=1 channels=2\\nd = dense(x) out=2 no_bias=1\\n\",\"tinytl.preprocess\":"
            "\"full mean=0,0,0,nan std=1,1,1,1\"},\"d.weight\":{" GOOD "}}",
        "{\"__metadata__\":{\"tinytl.network\":\"x = input() height=1 width=1 channels=2\\nd = dense(x) out=3 no_bias=1\\n\"},\"d.weight\":{" GOOD "}}"
    };
    uint8_t data[16];
    memset(data, 0, sizeof data);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_file(path, bad[i], data, sizeof data);
        tl_net *opened = tl_open(path, NULL);
        CHECK(opened == NULL && strlen(tl_error(NULL)) > 0, "foreign file %zu is opened", i);
        tl_net_free(opened);
    }
    write_file(path, bad[0], data, sizeof data);                   // the sentence names file and line
    CHECK(tl_open(path, NULL) == NULL && strstr(tl_error(NULL), path) && strstr(tl_error(NULL), "line 1"), "%s", tl_error(NULL));
    write_file(path, headers[0].header, data, sizeof data);
    CHECK(tl_open(path, NULL) == NULL && strstr(tl_error(NULL), "no network"), "weights alone: %s", tl_error(NULL));
    // a file of another network
    tl_net *net = parsed_net(model, 1), *other = parsed_net(small_model, 1);
    fill_weights(net, 1);
    fill_weights(other, 1);
    CHECK(tl_save(other, path) == TL_OK, "%s", tl_error(other));
    CHECK(tl_load(net, path, NULL, NULL) == TL_ERR_SHAPE && strstr(tl_error(net), "0 tensors match"), "another architecture: %s", tl_error(net));
    CHECK(strstr(tl_error(net), ".allow_missing") && strstr(tl_error(net), ".except"), "what would accept it: %s", tl_error(net));
    CHECK(tl_save(net, "") == TL_ERR_ARGUMENT && strstr(tl_error(net), "empty"), "a file without a name: %s", tl_error(net));
    tl_net_free(net);
    tl_net_free(other);
}

// ---- writing fails -------------------------------------------------------------------------

static int files_in(const char *folder)
{
    int count = 0;
    DIR *open_folder = opendir(folder);
    while (open_folder && readdir(open_folder)) count++;
    if (open_folder) closedir(open_folder);
    return count - 2;
}

static void test_unwritable(void)
{
    tl_net *net = parsed_net(model, 1);
    fill_weights(net, 1);
    char folder[300], path[400], beside[500];
    snprintf(folder, sizeof folder, "%s", temporary_path("full"));
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    snprintf(beside, sizeof beside, "%s.tmp", path);
    CHECK(tl_save(net, path) == TL_ERR_FILE && strstr(tl_error(net), path), "no such folder: %s", tl_error(net));
    CHECK(mkdir(folder, 0700) == 0 && tl_save(net, folder) == TL_ERR_FILE, "the name of a folder: %s", tl_error(net));
    const char *pipe_path = temporary_path("pipe");
    struct stat pipe_info;
    CHECK(mkfifo(pipe_path, 0600) == 0 && tl_save(net, pipe_path) == TL_ERR_FILE && strstr(tl_error(net), "device"), "a pipe: %s", tl_error(net));
    CHECK(stat(pipe_path, &pipe_info) == 0 && S_ISFIFO(pipe_info.st_mode) && unlink(pipe_path) == 0, "a model in the place of a pipe");
    CHECK(files_in(folder) == 0 && access(temporary_path("full.tmp"), F_OK) != 0, "a failed write leaves a file");
    CHECK(tl_save(net, path) == TL_OK, "%s", tl_error(net));
    size_t size, after;
    uint8_t *bytes = file_bytes(path, &size), *again;

    if (access("/dev/full", F_OK) == 0) {                 // a device on which every write fails, in the place of the temporary file
        CHECK(symlink("/dev/full", beside) == 0, "symlink");
        CHECK(tl_save(net, path) == TL_ERR_FILE && strstr(tl_error(net), "full"), "a full disk: %s", tl_error(net));
        struct stat info;
        CHECK(stat("/dev/full", &info) == 0 && S_ISCHR(info.st_mode), "/dev/full is gone");
        CHECK(files_in(folder) == 1, "a full disk leaves a file");
    }
    struct rlimit old_limit, limit;                       // files may not grow beyond some bytes
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old_limit);
    limit = old_limit;
    static const rlim_t most[] = { 0, 7, 8, 100, 900 };
    for (int i = 0; i < 5; i++) {
        limit.rlim_cur = most[i];
        CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0, "setrlimit");
        tl_result result = tl_save(net, path);
        setrlimit(RLIMIT_FSIZE, &old_limit);
        CHECK(result == TL_ERR_FILE && strstr(tl_error(net), path), "a disk with room for %d bytes: %s", (int)most[i], tl_error(net));
        CHECK(files_in(folder) == 1, "a disk with room for %d bytes: a file is left", (int)most[i]);
    }
    again = file_bytes(path, &after);
    CHECK(after == size && memcmp(bytes, again, size) == 0, "a failed write changed the old file");
    tl__free(again);

    net->parameters[3] = NAN;
    CHECK(tl_save(net, path) == TL_ERR_DIVERGED && strstr(tl_error(net), "c.weight"), "a weight that is not finite: %s", tl_error(net));
    again = file_bytes(path, &after);
    CHECK(after == size && memcmp(bytes, again, size) == 0 && files_in(folder) == 1, "weights that are not finite were written");
    CHECK(tl_status(net) == TL_OK, "the network stays usable");
    tl__free(again);
    tl__free(bytes);
    tl_net_free(net);
}

MAIN(files, void)
{
    make_temporary();
    test_round_trip();
    test_locale();
    test_types();
    test_headers();
    test_bombs();
    test_options();
    test_truncated();
    test_flipped();
    test_foreign();
    test_unwritable();
    remove_temporary();
    return finish("files");
}
