// Fuzz target: model files and checkpoints. See fuzz.h. The bytes are read from memory, by the functions that tl_open, tl_load and a
// resumed tl_fit call once they have read a file.

#include "fuzz.h"
#define TINYTL_IMPLEMENTATION
#include "../tinytl.h"

static const char fixed[] = "x = input() height=2 width=3 channels=1\nc = conv2d(x) out=2 kernel=2 kernel_w=3\nb = batch_norm(c)\nd = dense(b) out=2\nloss cross_entropy(d)\n";

static tl_net *fixed_net(void)
{
    tl_net_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.threads = 1;
    tl_net *net = tl_net_new(&desc);
    MUST(tl_parse(net, fixed) == TL_OK);
    return net;
}

static void fixed_fit(tl__fit *fit, tl_fit_desc *desc, tl_net *net)
{
    tl_optimizer_desc rule;
    memset(&rule, 0, sizeof rule);
    rule.kind = TL_ADAM;
    rule.lr = 0.1f;
    MUST(tl_optimizer(net, &rule) == TL_OK && tl_prepare(net, 1, 1) == TL_OK);
    static const tl__phase only;
    memset(fit, 0, sizeof *fit);
    fit->phase = &only;
    memset(desc, 0, sizeof *desc);
    desc->epochs = 2;
    fit->net = net;
    fit->desc = desc;
    fit->count = fit->batch = fit->steps = 1;
    fit->best_parameters = tl__alloc_block(net->parameter_count);
    fit->best_buffers = tl__alloc_block(net->buffer_count);
}

static void open_archive(tl__archive *a, const uint8_t *data, size_t size)
{
    memset(a, 0, sizeof *a);
    a->path = "memory";
    a->file = (uint8_t *)tl__alloc(size + 1, 1);
    MUST(a->file != NULL);
    memcpy(a->file, data, size);
    a->size = size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tl__archive a;
    open_archive(&a, data, size);
    if (tl__archive_parse(&a) == TL_OK) {
        tl_net_desc desc;
        memset(&desc, 0, sizeof desc);
        desc.threads = 1;
        tl_pretrained known;
        memset(&known, 0, sizeof known);
        tl_net *net = tl__open_archive(&a, &desc, NULL, &known);   // as a model, ours or a published one
        if (net) {
            MUST(tl_status(net) == TL_OK && tl__all_finite(net->parameters, net->parameter_count) && tl__all_finite(net->buffers, net->buffer_count));
            tl_net_free(net);
        } else MUST(strlen(tl_error(NULL)) > 0);
        tl_load_report report;                             // as weights of another network
        tl_load_desc loose;
        memset(&loose, 0, sizeof loose);
        loose.allow_missing = loose.allow_unexpected = loose.allow_mismatch = 1;
        net = fixed_net();
        if (tl__load_archive(net, &a, &loose, &report) == TL_OK) MUST(tl__all_finite(net->parameters, net->parameter_count));
        MUST(strlen(report.text) < sizeof report.text);
        tl__fit fit;                                       // as a checkpoint
        tl_fit_desc fit_desc;
        tl_net *trained = fixed_net();
        fixed_fit(&fit, &fit_desc, trained);
        if (tl__read_checkpoint_arrays(&fit, &a) == TL_OK) MUST(fit.state.step <= fit.steps && fit.state.epoch >= 0 && trained->step >= 0);
        tl__free_block(fit.best_parameters);
        tl__free_block(fit.best_buffers);
        tl_net_free(trained);
        tl_net_free(net);
    } else MUST(strlen(tl_error(NULL)) > 0);
    tl__archive_close(&a);
    return 0;
}

#ifdef STANDALONE

#include "temporary.h"

static uint8_t *read_whole(const char *path, size_t *size)
{
    uint8_t *bytes = NULL;
    MUST(tl__read_file(path, 1 << 20, &bytes, size) == TL_OK);
    return bytes;
}

int main(int argc, char **argv)
{
    static const char *const words[] = { "\"F16\"", "\"BF16\"", "\"F64\"", "\"I64\"", "18446744073709551615", "[0,0]", "[]", "{}", "{\"", "\\u0041", "\\ud83d\\ude00", "\\", "\"", ",",
        "\"shape\":[", "\"data_offsets\":[0,8]", "\"dtype\":", "__metadata__", "tinytl.network", "c.weight", "-1", "1e9", "null", "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F", "\\n", "input() height=9" };
    char model[400], checkpoint[400];
    fuzz_seed seeds[2];
    tl__fit fit;
    tl_fit_desc desc;
    snprintf(model, sizeof model, "%s", temporary_path("model.safetensors"));
    snprintf(checkpoint, sizeof checkpoint, "%s", temporary_path("run.safetensors"));
    tl_net *net = fixed_net();
    fixed_fit(&fit, &desc, net);
    MUST(tl_save(net, model) == TL_OK);
    desc.checkpoint = checkpoint;
    MUST(tl__write_checkpoint(&fit) == TL_OK);
    seeds[0].bytes = read_whole(model, &seeds[0].size);
    seeds[1].bytes = read_whole(checkpoint, &seeds[1].size);
    tl__free_block(fit.best_parameters);
    tl__free_block(fit.best_buffers);
    tl_net_free(net);
    int status = fuzz_main(argc, argv, "fuzz model", seeds, 2, words, (int)(sizeof words / sizeof *words), 30000);
    tl__free((void *)(uintptr_t)seeds[0].bytes);
    tl__free((void *)(uintptr_t)seeds[1].bytes);
    remove_temporary();
    return status;
}

#endif
