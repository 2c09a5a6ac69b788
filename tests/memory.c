// The n-th allocation fails, for every n, over a whole small job: each call in which it happens returns an error with a sentence, what
// comes after it does not crash, and in the end nothing is left. The allocations of stb's decoder fail as well, but what it then leaves
// behind is stb's own (version 2.27 does).

#include <stddef.h>
#include <stdlib.h>

static void *failing_malloc(size_t size);
static void counted_free(void *pointer);
static void *stb_realloc(void *old, size_t size);

#define STBI_MALLOC(size) stb_realloc(NULL, size)
#define STBI_REALLOC(pointer, size) stb_realloc(pointer, size)
#define STBI_FREE(pointer) free(pointer)
#define STBI_ONLY_PNG
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image.h>
#include <stb/stb_image_write.h>

#define TINYTL_MALLOC(size) failing_malloc(size)
#define TINYTL_FREE(pointer) counted_free(pointer)
#define TINYTL_IMPLEMENTATION
#include "../tinytl.h"
#include "check.h"
#include "temporary.h"

static long fail_at, allocations, live;   // fail_at: number of the allocation that fails, from 1; 0: none
static int failed;                        // it has failed

static void *failing_malloc(size_t size)
{
    if (++allocations == fail_at) {
        failed = 1;
        return NULL;
    }
    void *block = malloc(size);
    live += block != NULL;
    return block;
}

static void *stb_realloc(void *old, size_t size)
{
    if (++allocations == fail_at) {
        failed = 1;
        return NULL;
    }
    return realloc(old, size);
}

static void counted_free(void *pointer)
{
    live -= pointer != NULL;
    free(pointer);
}

// ---- the job -------------------------------------------------------------------------------

static int broken;                        // an earlier call has failed: what follows in its group must only not crash

// Judges a call that has just returned. net may be NULL.
static void judge(const char *what, int good, const tl_net *net)
{
    if (broken) return;
    if (failed) {
        broken = 1;
        CHECK(!good, "allocation %ld: %s takes no notice", fail_at, what);
        CHECK(strlen(tl_error(NULL)) > 0, "allocation %ld: %s leaves no sentence", fail_at, what);
        if (net) CHECK(strlen(tl_error(net)) > 0, "allocation %ld: %s leaves no sentence in the network", fail_at, what);
    } else {
        CHECK(good, "%s fails without a failed allocation: %s", what, tl_error(NULL));
    }
}

#define STEP(what, good, net) judge(what, (good) != 0, net)

static char folder[300], model_path[400], run_path[400], picture_path[400];

static tl_net *build(void)
{
    tl_net_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.threads = 1;
    tl_net *net = tl_net_new(&desc);
    STEP("tl_net_new", net, NULL);
    tl_unet_desc unet;
    memset(&unet, 0, sizeof unet);
    unet.classes = 2; unet.width = 2; unet.depth = 2; unet.norm = TL_NORM_GROUP;
    tl_node logits = tl_unet(net, tl_input(net, 16, 16, 1), &unet);
    float weights[2] = { 1, 2 };
    tl_loss_desc loss;
    memset(&loss, 0, sizeof loss);
    loss.kind = TL_CROSS_ENTROPY;
    loss.class_weight = weights;
    STEP("building a U-Net", logits.id, net);
    STEP("tl_loss", tl_loss(net, logits, &loss) == 0, net);
    loss.kind = TL_DICE;
    loss.class_weight = NULL;
    STEP("tl_loss", tl_loss(net, logits, &loss) == 1, net);
    return net;
}

static void train(tl_net *net)
{
    tl_transform transforms[3];
    CHECK(tl_transforms_parse("rot90; flip_x; gauss_noise sigma=0.01..0.02", transforms, 3) == 3, "%s", tl_error(NULL));
    tl_grains_desc grains;
    memset(&grains, 0, sizeof grains);
    grains.width = grains.height = 20;
    grains.count = 2;
    grains.diameter.lo = grains.diameter.hi = 8;
    tl_dataset *stream = tl_grains_stream(&grains);
    STEP("tl_grains_stream", stream, NULL);
    int first = 0;
    tl_dataset *one = tl_subset(stream, &first, 1);
    STEP("tl_subset", one, NULL);
    tl_optimizer_desc rule;
    memset(&rule, 0, sizeof rule);
    rule.kind = TL_ADAMW;
    rule.lr = 1e-3f;
    tl_group_desc group;
    memset(&group, 0, sizeof group);
    group.params = "head.*";
    group.lr = 1e-2f;
    STEP("tl_optimizer", tl_optimizer(net, &rule) == TL_OK, net);
    for (int i = 0; i < 9; i++) STEP("tl_group", tl_group(net, &group) == TL_OK, net);
    tl_fit_desc fit;
    memset(&fit, 0, sizeof fit);
    fit.train = stream; fit.valid = one; fit.epochs = 2; fit.batch = 2;
    fit.augment = transforms; fit.augment_count = 3;
    fit.checkpoint = broken ? NULL : run_path;            // writing takes most of the time
    fit.resume = fit.checkpoint != NULL;
    remove(run_path);
    STEP("tl_fit", tl_fit(net, &fit, NULL) == TL_OK, net);
    STEP("tl_fit, resumed", tl_fit(net, &fit, NULL) == TL_OK, net);
    tl_dataset_free(one);
    tl_dataset_free(stream);
}

static void files(tl_net *net)
{
    tl_load_report report;
    char where[100];
    double worst;
    STEP("tl_save", tl_save(net, model_path) == TL_OK, net);
    tl_net_desc one_thread;
    memset(&one_thread, 0, sizeof one_thread);
    one_thread.threads = 1;
    tl_net *opened = tl_open(model_path, &one_thread);
    STEP("tl_open", opened, NULL);
    STEP("tl_load", tl_load(net, model_path, NULL, &report) == TL_OK, net);
    tl_plan plan;
    STEP("tl_memory", tl_memory(opened, 2, 1, &plan) == TL_OK, opened);
    STEP("tl_prepare", tl_prepare(opened, 2, 1) == TL_OK, opened);
    STEP("tl_memory, prepared", tl_memory(opened, 3, 0, &plan) == TL_OK, opened);
    if (opened && opened->arena) {
        int32_t classes[2 * 16 * 16];
        memset(classes, 0, sizeof classes);
        STEP("tl_set_target_index", tl_set_target_index(opened, 0, classes, 2) == TL_OK, opened);
        opened->nodes[0].samples = 1;          // zeros will do
        STEP("tl_check_gradients", tl_check_gradients(opened, 1, 1, &worst, where, sizeof where) == TL_OK, opened);
    }
    tl_net_free(opened);
}

static char weights_path[400];

// Weights without a network: recognised, folded for grey images, and an image made to fit.
static void backbones(tl_net *net)
{
    tl_backbone_desc desc;
    tl_pretrained info;
    tl_image image;
    tl_real values[32 * 32];
    memset(&desc, 0, sizeof desc);
    memset(&image, 0, sizeof image);
    desc.name = "resnet20";
    tl_net_desc one_thread;
    memset(&one_thread, 0, sizeof one_thread);
    one_thread.threads = 1;
    tl_net *opened = tl_open_pretrained(weights_path, &one_thread, &desc, &info);
    STEP("tl_open_pretrained", opened, NULL);
    tl_net *grey = opened ? tl_fold_grey(opened, &one_thread) : NULL;
    STEP("tl_fold_grey", grey, NULL);
    STEP("tl_image_alloc", tl_image_alloc(&image, 41, 35, 3, TL_U8) == TL_OK, NULL);
    STEP("tl_image_input", grey && tl_image_input(grey, &image, values) == TL_OK, grey);
    STEP("tl_image_resize", tl_image_resize(&image, &image, 7, 50, 1) == TL_OK, NULL);
    tl_image_free(&image);
    tl_net_free(grey);
    tl_net_free(opened);
    (void)net;
}

static void images(tl_net *net)
{
    tl_image image, probabilities, mask, small;
    tl_score score;
    memset(&image, 0, sizeof image);
    memset(&probabilities, 0, sizeof probabilities);
    memset(&mask, 0, sizeof mask);
    memset(&small, 0, sizeof small);
    STEP("tl_image_alloc", tl_image_alloc(&image, 70, 20, 3, TL_U16) == TL_OK, NULL);
    tl_predict_desc desc = { 0, 60 };
    STEP("tl_predict, tiled", tl_predict(net, &image, &desc, &probabilities) == TL_OK, net);
    STEP("tl_segment", tl_segment(net, &image, NULL, &mask) == TL_OK, net);
    STEP("tl_compare_masks", tl_compare_masks(&mask, &mask, 3, &score) == TL_OK, NULL);
    STEP("tl_image_crop", tl_image_crop(&small, &image, 1, 1, 60, 10) == TL_OK, NULL);
    STEP("tl_image_crop in place", tl_image_crop(&image, &image, 1, 1, 60, 10) == TL_OK, NULL);
    STEP("tl_image_convert in place", tl_image_convert(&small, &small, TL_F32) == TL_OK, NULL);
    STEP("tl_image_channels in place", tl_image_channels(&small, &small, 1) == TL_OK, NULL);
    STEP("tl_image_copy", tl_image_copy(&mask, &image) == TL_OK, NULL);
    STEP("tl_image_save", tl_image_save(&small, picture_path) == TL_OK, NULL);
    STEP("tl_image_load", tl_image_load(&small, picture_path) == TL_OK, NULL);
    tl_image_free(&image);
    tl_image_free(&probabilities);
    tl_image_free(&mask);
    tl_image_free(&small);
}

static void data(tl_net *net)
{
    (void)net;
    tl_folder_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.crop_bottom = 1;
    tl_dataset *set = tl_folder(folder, &desc);
    STEP("tl_folder", set, NULL);
    tl_record record, scratch;
    memset(&record, 0, sizeof record);
    memset(&scratch, 0, sizeof scratch);
    tl_transform crop[2];
    CHECK(tl_transforms_parse("crop width=5 height=4; brightness shift=0.1..0.2", crop, 2) == 2, "%s", tl_error(NULL));
    STEP("tl_dataset_get", tl_dataset_get(set, 0, 1, &record) == TL_OK, NULL);
    STEP("tl_augment", tl_augment(&record, crop, 2, 1, 2, 3, &scratch) == TL_OK, NULL);
    int fold[3];
    STEP("tl_group_kfold", tl_group_kfold(set, 2, fold) == TL_OK, NULL);
    STEP("tl_group_holdout", tl_group_holdout(set, 1, 5, fold) == TL_OK, NULL);
    tl_record_free(&record);
    tl_record_free(&scratch);
    tl_dataset_free(set);
    float points[8] = { 1, 2, 9, 3, 4, 8, 7, 7 };
    int32_t ids[100];
    float distance[100];
    uint8_t mask[100];
    memset(mask, 1, sizeof mask);
    STEP("tl_voronoi", tl_voronoi(points, 4, 10, 10, ids) == TL_OK, NULL);
    STEP("tl_distance_squared", tl_distance_squared(mask, 10, 10, distance) == TL_OK, NULL);
    tl_image picture, truth;
    memset(&picture, 0, sizeof picture);
    memset(&truth, 0, sizeof truth);
    tl_grains_desc grains;
    memset(&grains, 0, sizeof grains);
    grains.width = grains.height = 24;
    int32_t *grain_ids = (int32_t *)malloc(24 * 24 * sizeof *grain_ids);
    STEP("tl_grains", tl_grains(&grains, 0, 0, grain_ids, &truth, &picture) == TL_OK, NULL);
    free(grain_ids);
    tl_image_free(&picture);
    tl_image_free(&truth);
}

// Image number i of label i % 2.
static tl_result labelled(void *user, uint32_t epoch, int index, tl_record *out)
{
    (void)user;
    (void)epoch;
    tl_result result = tl_image_alloc(&out->image, 8, 8, 1, TL_U8);
    for (int i = 0; i < 64 && !result; i++) ((uint8_t *)out->image.pixels)[i] = (uint8_t)(i * (3 + 40 * (index % 2)) + index);
    out->label = index % 2;
    return result;
}

static tl_net *build_labelled(void)
{
    tl_net_desc desc;
    tl_conv2d_desc conv;
    tl_dense_desc dense;
    tl_norm_desc norm;
    tl_loss_desc loss;
    memset(&desc, 0, sizeof desc);
    memset(&conv, 0, sizeof conv);
    memset(&dense, 0, sizeof dense);
    memset(&norm, 0, sizeof norm);
    memset(&loss, 0, sizeof loss);
    desc.threads = 1;
    conv.name = "conv1"; conv.out = 2; conv.kernel = 3;
    norm.name = "bn1";
    dense.name = "fc"; dense.out = 2;
    loss.kind = TL_CROSS_ENTROPY;
    tl_net *net = tl_net_new(&desc);
    STEP("tl_net_new", net, NULL);
    tl_node x = tl_relu(net, tl_batch_norm(net, tl_conv2d(net, tl_input(net, 8, 8, 1), &conv), &norm));
    x = tl_dense(net, tl_global_avg_pool2d(net, x), &dense);
    STEP("building a classifier", x.id && tl_loss(net, x, &loss) == 0, net);
    return net;
}

static void discard(void *user, const char *text)
{
    (void)user;
    (void)text;
}

static void transfer(tl_net *unused)
{
    (void)unused;
    tl_recipe recipe;
    tl_finetune_desc tune;
    tl_rate_desc rate;
    tl_rate_report rates;
    tl_block_score scores[4];
    tl_evaluation one, two;
    tl_net_desc single;
    float numbers[4 * 2];
    memset(&tune, 0, sizeof tune);
    memset(&rate, 0, sizeof rate);
    memset(&single, 0, sizeof single);
    single.threads = 1;
    const char *const names[2] = { "good", "bad" };
    tl_dataset *set = tl_dataset_from(4, labelled, NULL);
    STEP("tl_dataset_from", set, NULL);
    tl_net *net = build_labelled();
    STEP("tl_set_class_names", tl_set_class_names(net, names, 2) == TL_OK, net);
    STEP("tl_recipe_parse", tl_recipe_parse(&recipe, "[a]\ntrain=head\nlr=1\nstats=recompute\nepochs=1\n[b]\nrates=two\nstats="
                                            "running\nepochs=2\ngradual=1\nfinish=sgd") == TL_OK, NULL);
    tune.train = tune.valid = set;
    tune.stages = recipe.stage; tune.stage_count = recipe.count; tune.batch = 2;
    tune.log = discard;
    STEP("tl_finetune", tl_finetune(net, &tune, NULL) == TL_OK, net);
    tl_net *before = tl_clone(net, &single);
    STEP("tl_clone", before, NULL);
    rate.train = set; rate.batch = 2; rate.steps = 3;
    STEP("tl_find_rate", tl_find_rate(net, &rate, &rates) == TL_OK, net);
    STEP("tl_evaluate", tl_evaluate(net, set, 3, numbers, &one) == TL_OK, net);
    tl_image picture = { .width = 0 };
    STEP("tl_image_alloc", tl_image_alloc(&picture, 41, 35, 1, TL_U8) == TL_OK, NULL);
    int part[4];
    STEP("tl_group_holdout", tl_group_holdout(set, 1, 5, part) == TL_OK, NULL);
    STEP("tl_classify", tl_classify(net, &picture, numbers, tl_node_channels(net, tl_last(net))) == TL_OK, net);
    tl_image_free(&picture);
    STEP("tl_extract", tl_extract(net, tl_find(net, "conv1"), set, 3, numbers) == TL_OK, net);
    STEP("tl_drift", tl_drift(net, before, set, 3, scores, 4) == 2, net);
    STEP("tl_probe", tl_probe(net, set, set, 3, scores, 4) == 2, net);
    STEP("tl_retained", tl_retained(net, before, set, 3, &one, &two) == TL_OK, net);
    tl_net *head = tl_replace_head(net, NULL, 3, &single);
    STEP("tl_replace_head", head, NULL);
    tl_net *adapted = tl_lora(net, "all", 1, &single);
    STEP("tl_lora", adapted, NULL);
    STEP("tl_lora_merge", tl_lora_merge(adapted) == TL_OK, adapted);
    tl_net *plain = tl_lora_plain(adapted, &single);
    STEP("tl_lora_plain", plain, NULL);
    STEP("tl_freeze", tl_freeze(net, "conv1.*", TL_STATS_UNSET) == TL_OK, net);
    STEP("tl_adapt_norm", tl_adapt_norm(net, set, 2, NULL) == TL_OK, net);
    tl_net_free(plain);
    tl_net_free(adapted);
    tl_net_free(head);
    tl_net_free(before);
    tl_net_free(net);
    tl_dataset_free(set);
}

// Text, which has no code to return: 0 means that memory ran out. A description may lack a line.
static void text(tl_net *net)
{
    size_t length = tl_to_text(net, NULL, 0);
    if (!broken) CHECK(failed ? length == 0 : length > 0, "allocation %ld: tl_to_text says %zu", fail_at, length);
    broken |= failed;
    length = tl_describe(net, 1, NULL, 0);
    if (!broken) CHECK(failed || length > 0, "tl_describe says nothing");
    broken |= failed;
    tl_pool *pool = tl_pool_new(1);
    STEP("tl_pool_new", pool, NULL);
    tl_pool_free(pool);
}

// The parts of the job, each on a network of its own.
static void just_build(tl_net *net) { tl_net_free(net ? build() : NULL); }

static const struct { const char *name; void (*run)(tl_net *net); } parts[] = {
    { "build", just_build }, { "train", train }, { "files", files }, { "images", images }, { "data", data }, { "text", text },
    { "transfer", transfer },
    { "backbones", backbones }
};

// Runs one part; its n-th allocation fails. Returns how many it made.
static long run_part(int part, long n)
{
    broken = failed = 0;
    fail_at = 0;
    tl_net *net = build();
    allocations = 0;
    fail_at = n;
    parts[part].run(net);
    fail_at = 0;
    tl_net_free(net);
    return allocations;
}

// Two images with masks and a table, written before anything fails.
static void make_folder(void)
{
    char path[500];
    snprintf(folder, sizeof folder, "%s", temporary_path("set"));
    snprintf(model_path, sizeof model_path, "%s", temporary_path("model.safetensors"));
    snprintf(run_path, sizeof run_path, "%s", temporary_path("run.safetensors"));
    snprintf(picture_path, sizeof picture_path, "%s", temporary_path("picture.png"));
    snprintf(weights_path, sizeof weights_path, "%s", temporary_path("weights.safetensors"));
    tl_backbone_desc backbone;
    memset(&backbone, 0, sizeof backbone);
    backbone.name = "resnet20";
    tl_net *net = tl_net_new(NULL);
    tl_backbone(net, tl_input(net, 32, 32, 3), &backbone);
    tl__entry *entries = (tl__entry *)tl__alloc((size_t)net->tensor_count, sizeof *entries);
    CHECK(!tl__ensure_parameters(net) && !tl__save_entries(net, weights_path, entries) &&
          !tl__archive_write(weights_path, entries, net->tensor_count, NULL, 0), "%s", tl_error(NULL));
    tl__free(entries);
    tl_net_free(net);
    static uint8_t grey[120] = { 9, 99 };
    mkdir(folder, 0700);
    for (int k = 0; k < 2; k++) {
        snprintf(path, sizeof path, "%s/%s", folder, k ? "masks" : "images");
        mkdir(path, 0700);
        for (int i = 0; i < 3; i++) {
            uint8_t pixels[12 * 10];
            for (int p = 0; p < 120; p++) pixels[p] = (uint8_t)(k ? (p % 7 == i ? 255 : 0) : p + i);
            snprintf(path, sizeof path, "%s/%s/n%d.png", folder, k ? "masks" : "images", i);
            stbi_write_png(path, 12, 10, 1, pixels, 0);
        }
    }
    snprintf(path, sizeof path, "%s/specimens.csv", folder);
    FILE *file = fopen(path, "w");
    fprintf(file, "file,specimen,label\nn0.png,a,good\nn1.png,b,bad\nn2.png,a,good\n");
    fclose(file);
    snprintf(path, sizeof path, "%s/keypoints.csv", folder);
    file = fopen(path, "w");
    fprintf(file, "file,x,y\nn0.png,1,2\nn2.png,3,4\n");
    fclose(file);
    snprintf(path, sizeof path, "%s/weights", folder);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/weights/n1.png", folder);
    stbi_write_png(path, 12, 10, 1, grey, 0);
}

int main(void)
{
    long all = 0;
    make_folder();
    for (int part = 0; part < (int)(sizeof parts / sizeof *parts); part++) {
        long count = run_part(part, 0);                   // learns how many there are
        CHECK(live == 0, "%s: %ld blocks are left without any failure", parts[part].name, live);
        for (long n = 1; n <= count; n++) {
            run_part(part, n);
            CHECK(failed, "%s: allocation %ld was never made", parts[part].name, n);
            CHECK(live == 0, "%s, allocation %ld: %ld blocks are left", parts[part].name, n, live);
            live = 0;
        }
        all += count;
    }
    CHECK(all > 300, "only %ld allocations", all);
    printf("  each of %ld allocations failed once\n", all);
    remove_temporary();
    return finish("memory");
}
