// Transfer: what is frozen stays, bit for bit, and costs nothing; what is not learns as before; batch norms do what was
// said; statistics of other data.

#include "check.h"
#include "temporary.h"

enum { SIDE = 12, CLASSES = 3, BATCH = 4 };

// ---- a small residual classifier and its data ----------------------------------------------

static tl_net *trunk_and_head(int classes, uint64_t seed)
{
    tl_net *net = tl_net_new(&(tl_net_desc){ .seed = seed, .threads = 1, .exact = 1 });
    tl_node x = tl_input(net, SIDE, SIDE, 1);
    x = tl_conv2d(net, x, &(tl_conv2d_desc){ .name = "conv1", .out = 4, .kernel = 3, .pad = 1, .no_bias = 1 });
    x = tl_relu(net, tl_batch_norm(net, x, &(tl_norm_desc){ .name = "bn1" }));
    for (int i = 1; i <= 2; i++) {
        char level[16];
        snprintf(level, sizeof level, "layer%d", i);
        tl_push(net, level);
        tl_push(net, "0");
        x = tl_residual_block(net, x, 4 * i, i);
        tl_pop(net);
        tl_pop(net);
    }
    x = tl_dense(net, tl_global_avg_pool2d(net, x), &(tl_dense_desc){ .name = "fc", .out = classes });
    tl_loss(net, x, &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
    CHECK(tl_status(net) == TL_OK, "%s", tl_error(net));
    return net;
}

static const tl_optimizer_desc adam_rule = { .kind = TL_ADAM, .lr = 1e-2f };

static tl_result set_batch(tl_net *net, int count, uint32_t number)
{
    static tl_real pixels[BATCH * SIDE * SIDE];
    int32_t classes[BATCH];
    tl_rng rng = tl_rng_at(5, TL_RANDOM_USER, 0, number, 0);
    for (int i = 0; i < count; i++) {
        classes[i] = (int32_t)tl_random_below(&rng, CLASSES);
        for (int k = 0; k < SIDE * SIDE; k++)
            pixels[i * SIDE * SIDE + k] = (tl_real)(tl_random_normal(&rng) + (k % (2 + classes[i]) == 0));
    }
    tl_result result = tl_set_input(net, (tl_node){ 1 }, pixels, count);
    return result ? result : tl_set_target_index(net, 0, classes, count);
}

static tl_result step_once(tl_net *net, uint32_t number)
{
    tl_result result = set_batch(net, BATCH, number);
    if (!result) result = tl_forward(net, BATCH, TL_TRAIN);
    if (!result) result = tl_backward(net);
    return result ? result : tl_step(net);
}

static tl_real *copy_of(const tl_real *values, size_t count)
{
    tl_real *copy = (tl_real *)malloc((count + 1) * sizeof *copy);
    memcpy(copy, values, count * sizeof *copy);
    return copy;
}

// Image number i of label i % CLASSES: stripes of another period for each label, in noise.
static tl_result stripes(void *user, uint32_t epoch, int index, tl_record *out)
{
    const float *bright = (const float *)user;
    tl_rng rng = tl_rng_at(7, TL_RANDOM_USER, 0, (uint32_t)index, 1);
    tl_result result = tl_image_alloc(&out->image, SIDE, SIDE, 1, TL_F32);
    if (result) return result;
    (void)epoch;
    out->label = index % CLASSES;
    snprintf(out->name, sizeof out->name, "stripes%d", index);
    snprintf(out->specimen, sizeof out->specimen, "specimen%d", index / 2);
    for (int i = 0; i < SIDE * SIDE; i++) {
        float wave = sinf((float)(i % SIDE) * 3.1416f / (float)(1 + out->label));
        ((float *)out->image.pixels)[i] = 0.5f + 0.15f * wave + 0.1f * tl_random_normal(&rng) + (bright ? *bright : 0);
    }
    return TL_OK;
}

// ---- freezing ------------------------------------------------------------------------------

// Gradients and updates of what is not frozen are those of the same network without freezing, bit for bit.
static void check_freezing(const char *pattern, const char *also, tl_stats stats)
{
    tl_net *all = trunk_and_head(CLASSES, 3), *part = trunk_and_head(CLASSES, 3);
    tl_optimizer(all, &adam_rule);
    tl_optimizer(part, &adam_rule);
    CHECK(!tl_freeze(part, pattern, stats), "%s: %s", pattern, tl_error(part));
    if (also) CHECK(!tl_freeze(part, also, stats), "%s: %s", also, tl_error(part));
    CHECK(!tl_prepare(all, BATCH, 1) && !tl_prepare(part, BATCH, 1), "prepare: %s", tl_error(part));
    tl_real *before = copy_of(part->parameters, part->parameter_count);
    CHECK(!step_once(all, 0) && !step_once(part, 0), "step: %s", tl_error(part));
    int frozen = 0;
    for (int i = 0; i < all->tensor_count; i++) {
        const tl__tensor *t = &all->tensors[i];
        if (!t->trained) continue;
        size_t bytes = t->count * sizeof(tl_real);
        if (tl_frozen(part, t->name)) {
            frozen++;
            CHECK(!memcmp(part->parameters + t->at, before + t->at, bytes), "'%s' is frozen and moved", t->name);
            CHECK(tl_learning_rate(part, t->name) == 0, "'%s' is frozen and has a rate", t->name);
            continue;
        }
        CHECK(!memcmp(part->gradients + t->at, all->gradients + t->at, bytes), "%s: gradient of '%s' differs", pattern,
              t->name);
        CHECK(!memcmp(part->parameters + t->at, all->parameters + t->at, bytes), "%s: step of '%s' differs", pattern,
              t->name);
    }
    CHECK(frozen > 0, "'%s' froze nothing", pattern);
    free(before);
    tl_net_free(all);
    tl_net_free(part);
}

// A frozen trunk has no backward pass: no gradients, and nothing kept for them.
static void check_frozen_plan(void)
{
    tl_net *net = trunk_and_head(CLASSES, 3);
    tl_plan full, head, infer;
    tl_optimizer(net, &adam_rule);
    tl_memory(net, BATCH, 1, &full);
    tl_memory(net, BATCH, 0, &infer);
    CHECK(!tl_freeze(net, "*", TL_STATS_RUNNING) && !tl_unfreeze(net, "fc.*"), "%s", tl_error(net));
    tl_memory(net, BATCH, 1, &head);
    CHECK(head.activations < full.activations / 2 && head.activations < infer.activations + 4096,
          "activations: all %zu, head %zu, inference %zu", full.activations, head.activations, infer.activations);
    CHECK(!tl_prepare(net, BATCH, 1), "%s", tl_error(net));
    int wanted = 0;
    for (int i = 0; i < net->node_count; i++) wanted += net->nodes[i].wants_grad;
    CHECK(wanted == 1, "%d nodes have a gradient where the head alone learns", wanted);
    CHECK(!step_once(net, 0), "%s", tl_error(net));
    // the plan is redone when freezing changes
    tl_real *before = copy_of(net->parameters, net->parameter_count);
    CHECK(!tl_unfreeze(net, "layer2.*"), "%s", tl_error(net));
    CHECK(step_once(net, 1) == TL_OK, "%s", tl_error(net));
    const char *const moved[] = { "layer2.0.conv1.weight", "fc.weight" }, *const stayed[] = { "conv1.weight", "layer1.0.conv2.weight" };
    for (int i = 0; i < 2; i++) {
        tl_tensor m = tl_param(net, moved[i]), s = tl_param(net, stayed[i]);
        CHECK(memcmp(m.data, before + (m.data - net->parameters), m.count * sizeof *before), "'%s' did not learn", moved[i]);
        CHECK(!memcmp(s.data, before + (s.data - net->parameters), s.count * sizeof *before), "'%s' moved", stayed[i]);
    }
    CHECK(tl_freeze(net, "nothing.*", TL_STATS_RUNNING) == TL_ERR_ARGUMENT, "a pattern that matches nothing");
    CHECK(tl_freeze(net, "bn1.*", TL_STATS_UNSET) == TL_ERR_ARGUMENT, "statistics must be chosen");
    CHECK(tl_freeze(net, "fc.*", TL_STATS_UNSET) == TL_OK, "no batch norm, nothing to choose");
    CHECK(tl_norm_stats(net, "fc.*", TL_STATS_RUNNING) == TL_ERR_ARGUMENT, "no batch norm in fc");
    CHECK(tl_freeze(net, "bn1.*", (tl_stats)9) == TL_ERR_ARGUMENT, "statistics that do not exist");
    free(before);
    tl_net_free(net);
}

// ---- batch norms ---------------------------------------------------------------------------

// What each choice does to the running statistics and to the output of a training pass.
static void check_statistics(void)
{
    static const struct { tl_stats stats; int moves, as_in_eval; } rows[] = {
        { TL_STATS_UPDATE, 1, 0 }, { TL_STATS_RUNNING, 0, 1 }, { TL_STATS_BATCH, 0, 0 }, { TL_STATS_RECOMPUTE, 0, 1 }
    };
    tl_real train[4][BATCH * CLASSES];
    for (int i = 0; i < 4; i++) {
        tl_net *net = trunk_and_head(CLASSES, 3);
        tl_node out = tl_last(net);
        CHECK(!tl_freeze(net, "*", rows[i].stats) && !tl_unfreeze(net, "fc.*") && !tl_prepare(net, BATCH, 1), "%s", tl_error(net));
        tl_real *before = copy_of(net->buffers, net->buffer_count);
        CHECK(!set_batch(net, BATCH, 1) && !tl_forward(net, BATCH, TL_EVAL), "%s", tl_error(net));
        tl_real *eval = copy_of(tl_data(net, out), BATCH * CLASSES);
        CHECK(!tl_forward(net, BATCH, TL_TRAIN), "%s", tl_error(net));
        memcpy(train[i], tl_data(net, out), sizeof train[i]);
        int moved = memcmp(before, net->buffers, net->buffer_count * sizeof *before) != 0;
        int same = memcmp(eval, train[i], sizeof train[i]) == 0;
        CHECK(moved == rows[i].moves, "%s: running statistics %s", tl__stats_names[rows[i].stats], moved ? "move" : "stay");
        CHECK(same == rows[i].as_in_eval, "%s: training %s evaluation", tl__stats_names[rows[i].stats], same ? "is" : "is not");
        tl_result one = tl_forward(net, 1, TL_TRAIN);
        CHECK(one == (rows[i].as_in_eval ? TL_OK : TL_ERR_ARGUMENT), "%s: a batch of one gives %s", tl__stats_names[rows[i].stats],
              tl_result_name(one));
        free(before);
        free(eval);
        tl_net_free(net);
    }
    CHECK(!memcmp(train[0], train[2], sizeof train[0]), "both of the batch, but outputs differ");
}

// With running statistics a batch norm is linear; its gradients against differences of the loss.
static void check_fixed_gradients(void)
{
#ifdef TINYTL_DOUBLE
    for (int frozen = 0; frozen < 2; frozen++) {
        tl_net *net = trunk_and_head(CLASSES, 4);
        double worst = 1;
        char where[160] = "";
        CHECK(!tl_norm_stats(net, "*", TL_STATS_RUNNING), "%s", tl_error(net));
        if (frozen) tl_freeze(net, "*.weight", TL_STATS_RUNNING);      // biases of norms learn, their weights do not
        tl_optimizer(net, &adam_rule);
        CHECK(!tl_prepare(net, BATCH, 1), "%s", tl_error(net));
        for (size_t i = 0; i < net->buffer_count; i++) net->buffers[i] += (tl_real)(0.1 + 0.01 * (double)(i % 7));
        CHECK(!set_batch(net, BATCH, 2) && !tl_forward(net, BATCH, TL_TRAIN) && !tl_backward(net), "%s", tl_error(net));
        for (int i = 0; i < net->tensor_count; i++) {
            const tl__tensor *t = &net->tensors[i];
            if (!t->trained || t->frozen) continue;
            for (size_t k = 0; k < t->count; k += 1 + t->count / 5) {
                tl_real *p = net->parameters + t->at + k, keep = *p, h = (tl_real)1e-6, g = net->gradients[t->at + k];
                double loss[2];
                for (int side = 0; side < 2; side++) {
                    *p = keep + (side ? h : -h);
                    tl_forward(net, BATCH, TL_TRAIN);
                    loss[side] = tl_loss_value(net);
                }
                *p = keep;
                double difference = (loss[1] - loss[0]) / (2 * (double)h), error = fabs(difference - (double)g) / (fabs(difference) + 1e-3);
                if (worst == 1 || error > worst) { worst = error; snprintf(where, sizeof where, "%s", t->name); }
            }
        }
        CHECK(worst < 1e-5, "gradient with running statistics: %g at '%s'", worst, where);
        tl_net_free(net);
    }
#endif
}

// tl_adapt_norm against the mean and variance of what goes into the first batch norm.
static void check_adapt(void)
{
    enum { COUNT = 8 };
    float bright = 0.3f;
    tl_dataset *data = tl_dataset_from(COUNT, stripes, &bright);
    tl_net *net = trunk_and_head(CLASSES, 3);
    tl_preprocess plain = { .scaling = TL_SCALE_FULL };
    tl_set_preprocess(net, &plain);
    tl_keep(net, tl_find(net, "conv1"));
    CHECK(!tl_prepare(net, BATCH, 0), "%s", tl_error(net));
    tl_real *weights = copy_of(net->parameters, net->parameter_count);
    double mean[4] = { 0 }, var[4] = { 0 };
    for (int b = 0; b < COUNT / BATCH; b++) {
        tl_record record = { 0 };
        static tl_real pixels[BATCH * SIDE * SIDE];
        for (int i = 0; i < BATCH; i++) {
            stripes(&bright, 0, b * BATCH + i, &record);
            for (int k = 0; k < SIDE * SIDE; k++) pixels[i * SIDE * SIDE + k] = ((float *)record.image.pixels)[k];
        }
        tl_record_free(&record);
        tl_set_input(net, (tl_node){ 1 }, pixels, BATCH);
        tl_forward(net, BATCH, TL_EVAL);
        const tl_real *y = tl_data(net, tl_find(net, "conv1"));
        int n = BATCH * SIDE * SIDE;
        for (int c = 0; c < 4; c++) {
            double m = 0, v = 0;
            for (int i = 0; i < n; i++) m += (double)y[i * 4 + c] / n;
            for (int i = 0; i < n; i++) v += pow((double)y[i * 4 + c] - m, 2) / (n - 1);
            mean[c] += m * BATCH / COUNT;
            var[c] += v * BATCH / COUNT;
        }
    }
    CHECK(!tl_adapt_norm(net, data, BATCH, NULL), "adapt: %s", tl_error(net));
    tl_tensor m = tl_param(net, "bn1.running_mean"), v = tl_param(net, "bn1.running_var");
    for (int c = 0; c < 4; c++)
        CHECK(fabs((double)m.data[c] - mean[c]) < 1e-5 && fabs((double)v.data[c] - var[c]) < 1e-5 * (1 + var[c]),
              "channel %d: mean %g, expected %g; variance %g, expected %g", c, (double)m.data[c], mean[c], (double)v.data[c], var[c]);
    CHECK(!memcmp(weights, net->parameters, net->parameter_count * sizeof *weights), "adapt_norm moved weights");
    CHECK(net->nodes[2].stats == TL_STATS_UNSET, "adapt_norm left its mark");
    // a pattern: the others stay
    tl_real *before = copy_of(net->buffers, net->buffer_count);
    m = tl_param(net, "layer2.0.bn1.running_mean");
    CHECK(!tl_adapt_norm(net, data, 3, "layer2.*"), "%s", tl_error(net));
    CHECK(!memcmp(before, net->buffers, (size_t)(tl_param(net, "layer2.0.bn1.running_mean").data - net->buffers) * sizeof *before),
          "statistics outside the pattern moved");
    CHECK(memcmp(before + (m.data - net->buffers), m.data, m.count * sizeof *before), "statistics in the pattern stayed");
    CHECK(tl_adapt_norm(net, data, 1, NULL) == TL_ERR_ARGUMENT, "a batch of one");
    CHECK(tl_adapt_norm(net, data, 4, "fc.*") == TL_ERR_ARGUMENT, "no batch norm");
    free(before);
    free(weights);
    tl_dataset_free(data);
    tl_net_free(net);
}

// ---- blocks, selections, rates -------------------------------------------------------------

static int block_number(tl_net *net, const char *name)
{
    tl_block blocks[32];
    int count = tl_blocks(net, blocks, 32);
    for (int i = 0; i < count; i++) if (!strcmp(blocks[i].name, name)) return i;
    return -1;
}

// Convolutions (kernel 1) with these names in a row.
static tl_net *chain(const char *const *names, int count)
{
    tl_net *net = tl_net_new(&(tl_net_desc){ .threads = 1 });
    tl_node x = tl_input(net, 4, 4, 2);
    for (int i = 0; i < count; i++) {
        if (strstr(names[i], "bn") || strstr(names[i], "norm")) x = tl_batch_norm(net, x, &(tl_norm_desc){ .name = names[i] });
        else x = tl_conv2d(net, x, &(tl_conv2d_desc){ .name = names[i], .out = 2, .kernel = 1 });
    }
    CHECK(!tl_status(net), "%s", tl_error(net));
    return net;
}

static void check_blocks(void)
{
    static const char *const resnet[] = { "conv1", "bn1", "layer1.0.conv1", "layer1.0.bn1", "layer1.1.conv1", "layer2.0.conv1",
                                          "layer3.0.conv1", "layer3.1.conv1", "layer3.2.conv1", "layer3.3.conv1", "layer3.4.conv1",
                                          "layer3.5.conv1", "layer4.0.conv1", "layer4.0.bn1", "fc" };
    static const char *const vgg[] = { "features.0", "features.2", "features.5", "features.7", "classifier.0", "classifier.6" };
    static const char *const unet[] = { "encoder.conv1", "encoder.bn1", "encoder.layer1.0.conv1", "encoder.layer1.1.conv1",
                                        "encoder.layer2.0.conv1", "decoder.blocks.0.conv1.0", "segmentation_head.0" };
    static const char *const vit[] = { "patch_embed.proj", "blocks.0.norm1", "blocks.0.attn.qkv", "blocks.0.mlp.fc1", "blocks.1.norm1",
                                       "blocks.1.attn.qkv", "blocks.1.mlp.fc1", "norm", "head" };
    static const struct { const char *const *names; int count; const char *expected; } rows[] = {
        { resnet, 15, "conv1 layer1 layer2 layer3 layer4 head " },
        { vgg, 6, "features.0 features.2 features.5 features.7 classifier head " },
        { unet, 7, "encoder.conv1 encoder.layer1 encoder.layer2 decoder head " },
        { vit, 9, "patch_embed blocks.0 blocks.1 head " },
        { resnet, 1, "head " }
    };
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        tl_net *net = chain(rows[r].names, rows[r].count);
        tl_block blocks[16];
        char found[256] = "";
        size_t values = 0;
        int count = tl_blocks(net, blocks, 16);
        for (int i = 0; i < count; i++) {
            strcat(strcat(found, blocks[i].name), " ");
            values += blocks[i].parameters;
        }
        CHECK(!strcmp(found, rows[r].expected), "blocks '%s', expected '%s'", found, rows[r].expected);
        CHECK(values == tl_parameter_count(net), "blocks hold %zu of %zu values", values, tl_parameter_count(net));
        tl_net_free(net);
    }
    tl_net *net = chain(resnet, 15);
    tl_block blocks[6];
    tl_blocks(net, blocks, 6);
    CHECK(!strcmp(tl_node_name(net, blocks[0].last), "bn1") && !strcmp(tl_node_name(net, blocks[4].last), "layer4.0.bn1") &&
          !strcmp(tl_node_name(net, blocks[5].last), "fc"), "ends of blocks: %s", tl_node_name(net, blocks[0].last));
    // rates: three groups, the menu of five rows, and lists
    static const struct { const char *rates; double conv1, bn1, layer2, layer3, layer4, fc; } menus[] = {
        { "two", 1e-5, 1e-5, 1e-5, 1e-5, 1e-5, 1e-3 }, { "three", 1e-5, 1e-5, 1e-4, 1e-4, 1e-4, 1e-3 },
        { "menu", 1e-5, 1e-5, 1e-5, 1e-4, 1e-4, 1e-3 }, { "menu-sgd", 1e-4, 1e-4, 1e-4, 1e-3, 1e-3, 1e-2 },
        { "all 2, layer[34].* 3 decay 0.5, *.bn1.bias 4 constant,head 5", 2, 2, 2, 3, 3, 5 }
    };
    for (size_t r = 0; r < sizeof menus / sizeof *menus; r++) {
        static const char *const names[] = { "conv1.weight", "bn1.weight", "layer2.0.conv1.weight", "layer3.5.conv1.weight",
                                             "layer4.0.bn1.weight", "fc.weight" };
        tl_optimizer(net, &(tl_optimizer_desc){ .kind = TL_ADAMW, .lr = 7 });
        CHECK(!tl_rates(net, menus[r].rates), "%s", tl_error(net));
        for (int i = 0; i < 6; i++) {
            double expected = (&menus[r].conv1)[i], lr = tl_learning_rate(net, names[i]);
            CHECK(fabs(lr - expected) < 1e-6 * expected, "%s: '%s' learns at %g instead of %g", menus[r].rates, names[i], lr, expected);
        }
    }
    CHECK(tl_learning_rate(net, "layer4.0.bn1.bias") == 4, "the last item wins");
    static const char *const wrong[] = { "", "head", "head x", "nothing.* 1e-3", "head 1e-3 quickly", "head 0", "last 2 2 2" };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        tl_optimizer(net, &(tl_optimizer_desc){ .kind = TL_ADAMW, .lr = 7 });
        CHECK(tl_rates(net, wrong[i]) == TL_ERR_ARGUMENT, "rates '%s' are taken", wrong[i]);
        CHECK(tl_learning_rate(net, "fc.weight") == 7, "rates '%s' leave something behind", wrong[i]);
    }
    // selections
    CHECK(!tl_freeze(net, "all", TL_STATS_RUNNING) && !tl_unfreeze(net, "last 1, layer2.*"), "%s", tl_error(net));
    CHECK(tl_frozen(net, "layer3.0.conv1.weight") && !tl_frozen(net, "layer4.0.conv1.weight") && !tl_frozen(net, "fc.bias") &&
          !tl_frozen(net, "layer2.0.conv1.weight") && tl_frozen(net, "conv1.weight"), "the wrong ones are frozen");
    CHECK(tl_freeze(net, "head, , nothing", TL_STATS_UNSET) == TL_ERR_ARGUMENT, "an item without a match");
    size_t length = tl_describe_training(net, NULL, 0);
    char *text = (char *)malloc(length + 1);
    tl_describe_training(net, text, length + 1);
    CHECK(strstr(text, "layer4") && strstr(text, "running") && strstr(text, "head"), "table:\n%s", text);
    char moments[64];
    tl_plan plan;
    CHECK(!tl_memory(net, 1, 1, &plan), "%s", tl_error(net));
    snprintf(moments, sizeof moments, "frozen or not: %.2f MB", (double)plan.moments / 1e6);
    CHECK(strstr(text, moments), "the plan has %s\n%s", moments, text);
    free(text);
    tl_net_free(net);
    // what was loaded is the trunk, the rest the head
    net = trunk_and_head(CLASSES, 3);
    tl_net *other = trunk_and_head(CLASSES + 2, 4);
    CHECK(!tl_prepare(net, 1, 0) && !tl_save(net, temporary_path("trunk.safetensors")), "%s", tl_error(net));
    CHECK(!tl_load(other, temporary_path("trunk.safetensors"), &(tl_load_desc){ .only = "[cbl][oan]*" , .allow_unexpected = 1 }, NULL), "%s",
          tl_error(other));
    CHECK(block_number(other, "head") == 3, "head is block %d", block_number(other, "head"));
    CHECK(!tl_freeze(other, "head", TL_STATS_UNSET) && tl_frozen(other, "fc.weight") && !tl_frozen(other, "conv1.weight"), "%s", tl_error(other));
    tl_net_free(net);
    tl_net_free(other);
}

// ---- recipes and stages --------------------------------------------------------------------

static void check_recipes(void)
{
    tl_recipe recipe;
    const char *name;
    int count = 0;
    for (; tl_recipe_at(count, &name); count++) CHECK(!tl_recipe_named(&recipe, name), "%s: %s", name, tl_error(NULL));
    CHECK(count >= 8 && !tl_recipe_at(-1, NULL), "%d recipes", count);
    CHECK(!tl_recipe_parse(&recipe, "# two\n[a b]\n train = head, layer4.*  # the top\nlr=1e-3\r\nepochs = 5\nstats=Running\nlearn_stats=running\n"
                           "[c]\nrates = head 1e-3, all 1e-4\noptimizer = lion\nschedule = one-cycle\nfinish = SGD\nepochs = 7"), "%s",
          tl_error(NULL));
    const tl_recipe_stage *a = &recipe.stage[0], *c = &recipe.stage[1];
    CHECK(recipe.count == 2 && !strcmp(a->name, "a b") && !strcmp(a->train, "head, layer4.*") && a->lr == 1e-3f && a->epochs == 5 &&
          a->stats == TL_STATS_RUNNING && a->learn_stats == TL_STATS_RUNNING, "first stage");
    CHECK(!strcmp(c->rates, "head 1e-3, all 1e-4") && c->optimizer == TL_LION && c->schedule == TL_ONE_CYCLE && c->finish == TL_SGD &&
          c->epochs == 7, "second stage");
    static const struct { const char *text, *line; } wrong[] = {
        { "", "no stage" }, { "lr = 1", "line 1" }, { "[a\n", "line 1" }, { "[a]\nrate = 1", "line 2" }, { "[a]\n\nepochs = five", "line 3" },
        { "[a]\nepochs = 1.5", "line 2" }, { "[a]\nstats = eval", "line 2" }, { "[a]\nlr = -1", "line 2" }, { "[a]\nepochs", "line 2" },
        { "[a name that is much too long for the log]", "line 1" }, { "[a] b", "line 1" }, { "[a]\nlr = 1e-3 x", "line 2" }
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK(tl_recipe_parse(&recipe, wrong[i].text) == TL_ERR_FORMAT && strstr(tl_error(NULL), wrong[i].line), "'%s': %s",
              wrong[i].text, tl_error(NULL));
    static const struct { const char *text, *list; } help[] = {
        { "[a]\nrate = 1", "train, rates, lr" }, { "[a]\nfinish = sdg", "one of SGD, AdaGrad" }, { "[a]\nschedule = x", "constant, cosine, one-cycle" },
        { "[a]\nstats = x", "one of update, running" }, { "[a]\nepochs = 1.5", "a whole number" }, { "[a]\nlr = fast", "a number" }
    };
    for (size_t i = 0; i < sizeof help / sizeof *help; i++)
        CHECK(tl_recipe_parse(&recipe, help[i].text) == TL_ERR_FORMAT && strstr(tl_error(NULL), help[i].list), "'%s': %s", help[i].text, tl_error(NULL));
    CHECK(recipe.count == 2, "a refused recipe changed the old one");
    CHECK(tl_recipe_named(&recipe, "magic") == TL_ERR_ARGUMENT, "a recipe that does not exist");
}

typedef struct story {
    char   log[16384];
    int    stop_phase, stop_epoch;      // 0: never
    int    calls, epochs_of[16];
    double best[16];                    // validation loss at the end of each phase, the best so far
} story;

static void write_log(void *user, const char *text)
{
    story *s = (story *)user;
    size_t used = strlen(s->log);
    snprintf(s->log + used, sizeof s->log - used, "%s", text);
}

static int follow(void *user, const tl_progress *p)
{
    story *s = (story *)user;
    s->calls++;
    if (p->epoch_done) s->epochs_of[p->phase] = p->epoch;
    return s->stop_phase == p->phase && s->stop_epoch == p->epoch && (p->epoch_done || p->step == 2);
}

typedef struct course {
    tl_dataset *all, *train, *valid;
} course;

static course open_course(void)
{
    course c;
    int train[24], valid[12];
    for (int i = 0; i < 24; i++) train[i] = i;
    for (int i = 0; i < 12; i++) valid[i] = 24 + i;
    c.all = tl_dataset_from(36, stripes, NULL);
    c.train = tl_subset(c.all, train, 24);
    c.valid = tl_subset(c.all, valid, 12);
    return c;
}

static void close_course(course *c)
{
    tl_dataset_free(c->train);
    tl_dataset_free(c->valid);
    tl_dataset_free(c->all);
}

static const tl_recipe_stage two_stages[] = {
    { .name = "head", .train = "head", .lr = 1e-2f, .epochs = 3, .stats = TL_STATS_RUNNING },
    { .name = "top", .rates = "all 1e-3, head 1e-2", .epochs = 2, .gradual = 2, .stats = TL_STATS_UPDATE, .patience = 2 },
    { .name = "all", .lr = 3e-3f, .block_decay = 0.5f, .epochs = 5, .finish = TL_SGD, .stats = TL_STATS_RUNNING, .weight_decay = 0.1f }
};

static tl_finetune_desc finetune_desc(const course *c, story *s)
{
    tl_finetune_desc desc = { .train = c->train, .valid = c->valid, .stages = two_stages, .stage_count = 3, .batch = 8, .seed = 9,
                              .progress = follow, .log = write_log, .user = s };
    return desc;
}

static void check_stages(void)
{
    course c = open_course();
    story s = { .calls = 0 };
    tl_finetune_desc desc = finetune_desc(&c, &s);
    tl_finetune_report report;
    tl_net *net = trunk_and_head(CLASSES, 3);
    tl_evaluation before, after;
    CHECK(!tl_evaluate(net, c.valid, 5, NULL, &before), "%s", tl_error(net));
    CHECK(!tl_finetune(net, &desc, &report), "%s", tl_error(net));
    CHECK(report.phases == 1 + 3 + 2, "%d phases", report.phases);
    CHECK(s.epochs_of[1] == 3 && s.epochs_of[5] == 4 && s.epochs_of[6] == 1, "epochs %d %d %d", s.epochs_of[1], s.epochs_of[5], s.epochs_of[6]);
    CHECK(!tl_evaluate(net, c.valid, 5, NULL, &after), "%s", tl_error(net));
    CHECK(after.loss < before.loss && fabs(after.loss - report.best_valid_loss) < 1e-5, "loss %g -> %g, reported %g", before.loss,
          after.loss, report.best_valid_loss);
    CHECK(after.score == report.best_valid_score && after.count == 12, "score %g, reported %g", after.score, report.best_valid_score);
    static const char *const said[] = { "phase 1 of 6, head: 3 epochs, AdamW", "phase 3 of 6, top, last 1", "phase 6 of 6, all, SGD: 1 epoch, SGD",
                                        "running", "update" };
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) CHECK(strstr(s.log, said[i]), "the log does not say '%s':\n%s", said[i], s.log);
    CHECK(report.shared_specimens == 0, "%d shared specimens", report.shared_specimens);
    tl_net_free(net);
    // refusals, before anything is changed
    static const struct { tl_recipe_stage stage; int batch; const char *why; } wrong[] = {
        { { .epochs = 2 }, 8, "lr" }, { { .lr = 1e-3f }, 8, "epochs" }, { { .lr = 1e-3f, .epochs = 2, .train = "head" }, 8, "stats" },
        { { .lr = 1e-3f, .epochs = 2, .train = "head", .stats = TL_STATS_BATCH }, 1, "at least two" },
        { { .lr = 1e-3f, .epochs = 2, .train = "head", .stats = TL_STATS_UPDATE }, 1, "at least two" },
        { { .lr = 1e-3f, .epochs = 2, .train = "head", .stats = TL_STATS_RECOMPUTE }, 1, "at least two" },
        { { .lr = 1e-3f, .epochs = 2, .train = "nothing" }, 8, "matches no parameter" },
        { { .rates = "two", .block_decay = 0.5f, .epochs = 2 }, 8, "block_decay" },
        { { .lr = 1e-3f, .epochs = 2, .train = "layer2.*", .gradual = 1 }, 8, "gradual" },
        { { .lr = 1e-3f, .epochs = 2, .schedule = TL_WARM_RESTARTS }, 8, "schedule" },
        { { .rates = "head 1e-3", .epochs = 2 }, 8, "say nothing about" },
        { { .lr = 1e-3f, .epochs = 2, .learn_stats = TL_STATS_BATCH }, 8, "learn_stats" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        net = trunk_and_head(CLASSES, 3);
        desc.stages = &wrong[i].stage;
        desc.stage_count = 1;
        desc.batch = wrong[i].batch;
        CHECK(tl_finetune(net, &desc, NULL) == TL_ERR_ARGUMENT && strstr(tl_error(net), wrong[i].why), "row %zu: %s", i, tl_error(net));
        tl_net_free(net);
    }
    net = trunk_and_head(CLASSES, 3);                        // a batch of one with running statistics is possible
    tl_recipe_stage one = { .lr = 1e-3f, .epochs = 1, .train = "head", .stats = TL_STATS_RUNNING };
    desc.stages = &one;
    desc.batch = 1;
    CHECK(!tl_finetune(net, &desc, NULL), "%s", tl_error(net));
    tl_net_free(net);
    // norms that learn with running statistics: these stay, scale and shift do not, and one image is enough
    tl_recipe_stage whole = { .lr = 1e-3f, .epochs = 1, .learn_stats = TL_STATS_RUNNING };
    desc.stages = &whole;
    for (desc.batch = 1; desc.batch <= 8; desc.batch += 7) {
        net = trunk_and_head(CLASSES, 3);
        CHECK(!tl_prepare(net, desc.batch, 1), "%s", tl_error(net));
        tl_real *buffers = copy_of(net->buffers, net->buffer_count), *values = copy_of(net->parameters, net->parameter_count);
        CHECK(!tl_finetune(net, &desc, NULL), "batch %d: %s", desc.batch, tl_error(net));
        CHECK(!memcmp(buffers, net->buffers, net->buffer_count * sizeof *buffers), "batch %d: running statistics moved", desc.batch);
        tl_tensor scale = tl_param(net, "layer1.0.bn1.weight");
        CHECK(memcmp(values + (scale.data - net->parameters), scale.data, scale.count * sizeof *values), "batch %d: a scale stayed", desc.batch);
        free(buffers);
        free(values);
        tl_net_free(net);
    }
    close_course(&c);
}

// From task to task to task: stages with data of their own give the bits of one call for each.
static void check_cascade(void)
{
    float bright = 0.2f;
    course c = open_course();
    tl_dataset *other = tl_dataset_from(18, stripes, &bright);
    const tl_dataset *const data[3] = { c.train, other, c.valid };
    tl_recipe_stage stages[3];
    tl_net *one = trunk_and_head(CLASSES, 3), *each = trunk_and_head(CLASSES, 3);
    tl_finetune_desc desc = { .train = c.all, .stages = stages, .stage_count = 3, .batch = 6, .seed = 4 };
    tl_finetune_report report;
    memset(stages, 0, sizeof stages);
    for (int i = 0; i < 3; i++) { stages[i].lr = 1e-2f; stages[i].epochs = 2; stages[i].data = data[i]; }
    CHECK(!tl_finetune(one, &desc, &report) && report.phases == 3 && report.steps == 2 * (4 + 3 + 2), "%d phases, %d steps: %s",
          report.phases, report.steps, tl_error(one));
    for (int i = 0; i < 3; i++) {
        tl_recipe_stage stage = { .lr = 1e-2f, .epochs = 2 };
        desc.train = data[i];
        desc.stages = &stage;
        desc.stage_count = 1;
        desc.seed = 4 + (uint64_t)i * UINT64_C(0x9E3779B97F4A7C15);       // of phase i, as tl_finetune counts
        CHECK(!tl_finetune(each, &desc, NULL), "%s", tl_error(each));
    }
    CHECK(!memcmp(one->parameters, each->parameters, one->parameter_count * sizeof(tl_real)) &&
          !memcmp(one->buffers, each->buffers, one->buffer_count * sizeof(tl_real)), "a cascade is not its tasks one after the other");
    tl_net_free(one);
    tl_net_free(each);
    tl_dataset_free(other);
    close_course(&c);
}

// The warm-up is a share of the steps, but at least so many, as far as they are not half of all.
static void check_warmup(void)
{
    static const struct { int epochs, warmup, steps, expected; float share; } rows[] = {
        { 4, 0, 12, 6, 0 }, { 20, 0, 60, 20, 0 }, { 150, 0, 450, 22, 0 }, { 20, 2, 60, 3, 0 }, { 20, 2, 60, 15, 0.25f }
    };
    course c = open_course();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        tl_net *net = trunk_and_head(CLASSES, 3);
        tl_recipe_stage stage = { .train = "head", .lr = 1e-2f, .epochs = rows[i].epochs, .warmup = rows[i].warmup,
                                  .warmup_share = rows[i].share, .stats = TL_STATS_RUNNING };
        CHECK(!tl_finetune(net, &(tl_finetune_desc){ .train = c.train, .stages = &stage, .stage_count = 1, .batch = 8 }, NULL), "%s", tl_error(net));
        const tl_schedule *s = &net->optimizer.schedule;
        CHECK(s->kind == TL_WARMUP_COSINE && s->total == rows[i].steps && s->warmup == rows[i].expected, "row %zu: %d of %d steps", i,
              s->warmup, s->total);
        tl_net_free(net);
    }
    close_course(&c);
}

// Stopped at any place and resumed, a run ends with the same bits.
static void check_resume(void)
{
    course c = open_course();
    story s = { .calls = 0 };
    tl_finetune_desc desc = finetune_desc(&c, &s);
    tl_net *whole = trunk_and_head(CLASSES, 3);
    tl_finetune_report full, part;
    CHECK(!tl_finetune(whole, &desc, &full), "%s", tl_error(whole));
    for (int phase = 1; phase <= 6; phase++) {
        for (int epoch = 1; epoch <= (phase == 6 ? 1 : 2); epoch++) {
            tl_net *first = trunk_and_head(CLASSES, 3), *second = trunk_and_head(CLASSES, 3);
            story stop = { .stop_phase = phase, .stop_epoch = epoch };
            desc.user = &stop;
            desc.checkpoint = temporary_path("run.safetensors");
            desc.resume = 0;
            remove(desc.checkpoint);
            CHECK(tl_finetune(first, &desc, NULL) == TL_INTERRUPTED, "phase %d, epoch %d: not stopped", phase, epoch);
            stop.stop_phase = 0;
            desc.resume = 1;
            CHECK(!tl_finetune(second, &desc, &part), "%s", tl_error(second));
            CHECK(!memcmp(whole->parameters, second->parameters, whole->parameter_count * sizeof(tl_real)) &&
                  !memcmp(whole->buffers, second->buffers, whole->buffer_count * sizeof(tl_real)),
                  "stopped in phase %d, epoch %d: other bits after resuming", phase, epoch);
            CHECK(full.best_valid_loss == part.best_valid_loss, "best loss %.9g, resumed %.9g", full.best_valid_loss, part.best_valid_loss);
            tl_net_free(first);
            tl_net_free(second);
        }
    }
    tl_net *other = trunk_and_head(CLASSES, 3);
    desc.stage_count = 1;
    CHECK(tl_finetune(other, &desc, NULL) == TL_ERR_ARGUMENT, "the checkpoint of another recipe is taken");
    tl_net_free(other);
    tl_net_free(whole);
    close_course(&c);
}

// Stripes stretched over several windows.
static tl_result wide_stripes(void *user, uint32_t epoch, int index, tl_record *out)
{
    tl_result result = stripes(user, epoch, index, out);
    tl_image small = { .width = 0 };
    if (!result) result = tl_image_copy(&small, &out->image);
    if (!result) result = tl_image_resize(&out->image, &small, 2 * SIDE + 5, SIDE + 3 + index % 9, 0);
    tl_image_free(&small);
    return result;
}

// Scores count images, whatever the number of their windows, and tl_classify says of each what the validation says.
static void check_windows(void)
{
    enum { COUNT = 11 };
    tl_dataset *data = tl_dataset_from(COUNT, wide_stripes, NULL);
    tl_net *net = trunk_and_head(CLASSES, 3);
    float p[COUNT * CLASSES], q[CLASSES];
    tl_real values[SIDE * SIDE];
    tl_evaluation e;
    tl_record record = { .label = 0 };
    tl_fit_desc fit = { .train = data, .valid = data, .epochs = 2, .batch = 4, .optimizer = adam_rule };
    tl_fit_report report;
    int right = 0;
    CHECK(!tl_get_preprocess(net).windows && !tl_fit(net, &fit, &report), "%s", tl_error(net));
    CHECK(tl_get_preprocess(net).windows == 1, "the network does not say that it learnt from windows");
    for (int batch = 1; batch <= 7; batch += 3) {
        CHECK(!tl_evaluate(net, data, batch, p, &e), "%s", tl_error(net));
        right = 0;
        for (int i = 0; i < COUNT; i++) {
            int best = 0;
            CHECK(!tl_dataset_get(data, 0, i, &record) && !tl_classify(net, &record.image, q, CLASSES), "%s", tl_error(net));
            for (int c = 0; c < CLASSES; c++) {
                CHECK(fabsf(q[c] - p[i * CLASSES + c]) < 1e-6f, "image %d, class %d: %g, %g", i, c, (double)q[c], (double)p[i * CLASSES + c]);
                if (q[c] > q[best]) best = c;
            }
            right += best == record.label;
        }
        CHECK(fabs(e.score - (double)right / COUNT) < 1e-9 && e.count == COUNT, "batch %d: score %g, %d of %d", batch, e.score, right, COUNT);
    }
    CHECK(fabs(report.best_valid_score * COUNT - rint(report.best_valid_score * COUNT)) < 1e-9, "score %g of %d images",
          report.best_valid_score, COUNT);
    CHECK(tl_image_input(net, &record.image, values) == TL_ERR_SHAPE && strstr(tl_error(net), "tl_classify"), "%s", tl_error(net));
    tl_preprocess whole = tl_get_preprocess(net);
    whole.windows = 0;
    CHECK(!tl_set_preprocess(net, &whole) && !tl_image_input(net, &record.image, values) && !tl_classify(net, &record.image, q, CLASSES), "%s",
          tl_error(net));
    CHECK(!tl_set_input(net, (tl_node){ 1 }, values, 1) && !tl_forward(net, 1, TL_EVAL), "%s", tl_error(net));
    double sum = 0;
    for (int c = 0; c < CLASSES; c++) sum += exp((double)tl_data(net, tl_last(net))[c]);
    for (int c = 0; c < CLASSES; c++)
        CHECK(fabs((double)q[c] - exp((double)tl_data(net, tl_last(net))[c]) / sum) < 1e-5, "class %d of the whole image: %g", c, (double)q[c]);
    CHECK(tl_classify(net, NULL, q, CLASSES) == TL_ERR_ARGUMENT && tl_classify(NULL, &record.image, q, CLASSES) == TL_ERR_ARGUMENT, "no image");
    CHECK(tl_classify(net, &record.image, q, CLASSES - 1) == TL_ERR_SHAPE && strstr(tl_error(net), "room for 2"), "too little room: %s", tl_error(net));
    tl_record_free(&record);
    tl_dataset_free(data);
    tl_net_free(net);
}

static void check_evaluate(void)
{
    course c = open_course();
    tl_net *net = trunk_and_head(CLASSES, 3);
    float p[12 * CLASSES];
    tl_evaluation e;
    CHECK(!tl_evaluate(net, c.valid, 5, p, &e), "%s", tl_error(net));
    int right = 0;
    for (int i = 0; i < 12; i++) {
        float *q = p + i * CLASSES, sum = q[0] + q[1] + q[2];
        int best = q[1] > q[0] ? 1 : 0;
        if (q[2] > q[best]) best = 2;
        CHECK(fabsf(sum - 1) < 1e-5f, "probabilities sum to %g", (double)sum);
        right += best == (24 + i) % CLASSES;
    }
    CHECK(fabs(e.score - right / 12.0) < 1e-9, "score %g, from the probabilities %g", e.score, right / 12.0);
    CHECK(tl_evaluate(net, c.valid, 0, NULL, &e) == TL_ERR_ARGUMENT, "a batch of none");
    tl_net_free(net);
    close_course(&c);
}

// Sets that know their specimens: records in memory.
static void check_shared(void)
{
    tl_dataset *set = (tl_dataset *)tl__alloc(1, sizeof *set);
    set->count = 6;
    set->records = (tl_record *)tl__alloc(6, sizeof *set->records);
    for (int i = 0; i < 6; i++) snprintf(set->records[i].specimen, TL_NAME_MAX, "field%d", i / 2);
    tl_dataset *head = tl_subset(set, (int[]){ 0, 1, 2 }, 3), *tail = tl_subset(set, (int[]){ 3, 4, 5 }, 3);
    char first[64];
    CHECK(tl_shared_specimens(head, tail, first, sizeof first) == 1 && !strcmp(first, "field1"), "shared: %s", first);
    CHECK(tl_shared_specimens(set, set, NULL, 0) == 3, "all of a set");
    tl_dataset *last = tl_subset(set, (int[]){ 4 }, 1);
    CHECK(tl_shared_specimens(head, last, first, sizeof first) == 0 && !first[0], "shared: %s", first);
    tl_dataset_free(head);
    tl_dataset_free(tail);
    tl_dataset_free(last);
    tl_dataset_free(set);
}

// ---- networks from networks ----------------------------------------------------------------

// Logits of a batch in evaluation mode.
static void logits_of(tl_net *net, tl_real *out, int classes)
{
    if (!net->arena) tl_prepare(net, BATCH, 0);
    static tl_real pixels[BATCH * SIDE * SIDE];
    tl_rng rng = tl_rng_at(6, TL_RANDOM_USER, 0, 0, 0);
    for (int i = 0; i < BATCH * SIDE * SIDE; i++) pixels[i] = (tl_real)tl_random_normal(&rng);
    CHECK(!tl_set_input(net, (tl_node){ 1 }, pixels, BATCH) && !tl_forward(net, BATCH, TL_EVAL), "%s", tl_error(net));
    memcpy(out, tl_data(net, tl_last(net)), sizeof(tl_real) * (size_t)(BATCH * classes));
}

// A network that has learnt the stripes a little.
static tl_net *learnt(const course *c)
{
    tl_net *net = trunk_and_head(CLASSES, 3);
    CHECK(!tl_fit(net, &(tl_fit_desc){ .train = c->train, .epochs = 8, .batch = 8, .seed = 2, .optimizer = adam_rule }, NULL), "%s", tl_error(net));
    return net;
}

static void check_copies(void)
{
    course c = open_course();
    tl_net *net = learnt(&c), *same = tl_clone(net, &(tl_net_desc){ .threads = 1, .exact = 1 });
    tl_real a[BATCH * CLASSES], b[BATCH * (CLASSES + 2)];
    CHECK(same, "clone: %s", tl_error(NULL));
    logits_of(net, a, CLASSES);
    logits_of(same, b, CLASSES);
    CHECK(!memcmp(a, b, sizeof a), "a clone computes something else");
    tl_evaluation one, two;
    tl_evaluate(net, c.valid, 4, NULL, &one);
    CHECK(!tl_evaluate(same, c.valid, 4, NULL, &two) && one.loss == two.loss, "losses of a clone");
    // another head
    tl_net *five = tl_replace_head(net, NULL, CLASSES + 2, &(tl_net_desc){ .threads = 1, .seed = 8 });
    CHECK(five && tl_node_channels(five, tl_last(five)) == CLASSES + 2 && five->loss_count == 0, "replace_head: %s", tl_error(NULL));
    for (int i = 0; five && i < five->tensor_count; i++) {
        tl_tensor t = tl_tensor_at(five, i), u = tl_param(net, t.name);
        int head = !strncmp(t.name, "fc.", 3);
        CHECK(head == !five->tensors[i].loaded, "'%s' %s", t.name, head ? "is old" : "is new");
        if (!head) CHECK(!memcmp(t.data, u.data, t.count * sizeof *t.data), "'%s' was not copied", t.name);
    }
    CHECK(!strncmp(tl_node_name(five, tl_last(five)), "fc", 3) && block_number(five, "head") == 3, "the head is not the head");
    tl_net *again = tl_replace_head(net, "fc", CLASSES, &(tl_net_desc){ .threads = 1, .seed = 8 });
    CHECK(again && memcmp(tl_param(again, "fc.weight").data, tl_param(net, "fc.weight").data, 8 * sizeof(tl_real)), "an equal head was kept");
    CHECK(!tl_replace_head(net, "fc2", 2, NULL) && strstr(tl_error(NULL), "fc2"), "a layer that does not exist: %s", tl_error(NULL));
    CHECK(!tl_replace_head(net, NULL, 0, NULL), "no classes");
    // names of classes go into the file and come back
    static const char *const names[] = { "ferrite", "bainite, lower", "\"\xC3\xA4\"" };
    char name[64];
    CHECK(!tl_set_class_names(net, names, 3) && !tl_save(net, temporary_path("named.safetensors")), "%s", tl_error(net));
    tl_net *named = tl_open(temporary_path("named.safetensors"), &(tl_net_desc){ .threads = 1 });
    for (int i = 0; i < 3; i++)
        CHECK(tl_class_name(named, i, name, sizeof name) && !strcmp(name, names[i]), "class %d is '%s'", i, name);
    CHECK(!tl_class_name(named, 3, name, sizeof name) && !name[0] && !tl_class_name(same, 0, NULL, 0), "a name too many");
    CHECK(tl_set_class_names(named, (const char *const[]){ "a\nb" }, 1) == TL_ERR_ARGUMENT, "a name of two lines");
    CHECK(!tl_set_class_names(named, NULL, 0) && !tl_class_name(named, 0, name, sizeof name), "names are forgotten");
    tl_net_free(named);
    // weights by name
    tl_load_report report;
    tl_net *fresh = trunk_and_head(CLASSES + 2, 9);
    CHECK(!tl_copy_weights(fresh, net, NULL, &report) && report.mismatched == 2 && report.missing == 0, "copied: %s", report.text);
    CHECK(!memcmp(tl_param(fresh, "layer2.0.bn1.running_var").data, tl_param(net, "layer2.0.bn1.running_var").data, 8 * sizeof(tl_real)),
          "statistics were not copied");
    CHECK(tl_copy_weights(fresh, net, "nothing*", &report) == TL_ERR_SHAPE, "a pattern that matches nothing");
    tl_net_free(fresh);
    tl_net_free(again);
    tl_net_free(five);
    tl_net_free(same);
    tl_net_free(net);
    close_course(&c);
}

static void check_lora(void)
{
    course c = open_course();
    tl_net *net = learnt(&c), *net2 = tl_lora(net, "layer2.0.conv?.weight, layer1.0.conv2.*, fc.*", 2, &(tl_net_desc){ .threads = 1, .exact = 1 });
    tl_real a[BATCH * CLASSES], b[BATCH * CLASSES], d[BATCH * CLASSES];
    CHECK(net2, "lora: %s", tl_error(NULL));
    if (!net2) return;
    CHECK(tl_parameter_count(net2) == tl_parameter_count(net) + 2 * (9 * 4 + 8) + 2 * (9 * 8 + 8) + 2 * (9 * 4 + 4) + 2 * (8 + 3),
          "%zu parameters with adapters", tl_parameter_count(net2));
    logits_of(net, a, CLASSES);
    logits_of(net2, b, CLASSES);
    double worst = 0;
    for (int i = 0; i < BATCH * CLASSES; i++) worst = fmax(worst, fabs((double)(a[i] - b[i])));
    CHECK(worst == 0, "an adapter that begins at zero changes the output by %g", worst);
    // only adapters learn
    tl_recipe_stage stage = { .train = "lora", .lr = 1e-2f, .epochs = 3, .stats = TL_STATS_RUNNING };
    CHECK(!tl_finetune(net2, &(tl_finetune_desc){ .train = c.train, .stages = &stage, .stage_count = 1, .batch = 8 }, NULL), "%s", tl_error(net2));
    for (int i = 0; i < net->tensor_count; i++) {
        tl_tensor t = tl_tensor_at(net, i), u = tl_param(net2, t.name);
        CHECK(!memcmp(t.data, u.data, t.count * sizeof *t.data), "'%s' moved", t.name);
    }
    logits_of(net2, b, CLASSES);
    CHECK(memcmp(a, b, sizeof a), "adapters did not learn");
    // merged it computes the same, and unmerging brings back every bit
    tl_real *before = copy_of(net2->parameters, net2->parameter_count);
    tl_net *plain = tl_lora_plain(net2, &(tl_net_desc){ .threads = 1, .exact = 1 });
    CHECK(!tl_lora_merge(net2), "%s", tl_error(net2));
    CHECK(tl_lora_merge(net2) == TL_ERR_STATE, "merged twice");
    logits_of(net2, d, CLASSES);
    worst = 0;
    for (int i = 0; i < BATCH * CLASSES; i++) worst = fmax(worst, fabs((double)(d[i] - b[i])));
    CHECK(worst < (sizeof(tl_real) == 8 ? 1e-13 : 1e-5), "merging changes the output by %g", worst);
    CHECK(plain && tl_parameter_count(plain) == tl_parameter_count(net) && plain->node_count == net->node_count, "plain: %s", tl_error(NULL));
    if (plain) logits_of(plain, b, CLASSES);
    CHECK(!memcmp(b, d, sizeof b), "the plain network differs from the merged one");
    CHECK(!tl_lora_unmerge(net2) && !memcmp(before, net2->parameters, net2->parameter_count * sizeof *before), "unmerge lost bits");
    CHECK(tl_lora_unmerge(net2) == TL_ERR_STATE, "unmerged twice");
    CHECK(tl_lora_merge(net) == TL_ERR_STATE, "merged without adapters");
    CHECK(!tl_lora(net, "bn1.*", 2, NULL), "adapters on a norm: %s", tl_error(NULL));
    // a file keeps them
    CHECK(!tl_save(net2, temporary_path("lora.safetensors")), "%s", tl_error(net2));
    tl_net *opened = tl_open(temporary_path("lora.safetensors"), &(tl_net_desc){ .threads = 1, .exact = 1 });
    CHECK(opened && !tl_lora_merge(opened), "%s", tl_error(opened));
    if (opened) logits_of(opened, b, CLASSES);
    worst = 0;
    for (int i = 0; i < BATCH * CLASSES; i++) worst = fmax(worst, fabs((double)(d[i] - b[i])));
    CHECK(worst < 1e-5, "through a file: %g", worst);
    free(before);
    tl_net_free(opened);
    tl_net_free(plain);
    tl_net_free(net2);
    tl_net_free(net);
    close_course(&c);
}

// Attention has its weights in dense layers: adapters of rank 3 on all of them, in a transformer.
static void check_lora_attention(void)
{
    tl_net *net = tl_net_new(&(tl_net_desc){ .threads = 1, .exact = 1, .seed = 2 });
    tl_backbone(net, tl_input(net, 32, 32, 3), &(tl_backbone_desc){ .name = "vit_tiny_patch16_224", .classes = CLASSES, .stages = 1 });
    CHECK(!tl_prepare(net, 1, 0), "%s", tl_error(net));
    tl_net *adapted = tl_lora(net, "blocks.*.attn.*.weight", 3, &(tl_net_desc){ .threads = 1, .exact = 1 });
    CHECK(adapted && tl_parameter_count(adapted) == tl_parameter_count(net) + 3 * 3 * ((192 + 576) + (192 + 192)), "lora: %s", tl_error(NULL));
    if (!adapted) return;
    static tl_real pixels[32 * 32 * 3];
    tl_real out[4][CLASSES];
    tl_rng rng = tl_rng_at(6, TL_RANDOM_USER, 0, 0, 0);
    for (int i = 0; i < 32 * 32 * 3; i++) pixels[i] = (tl_real)tl_random_normal(&rng);
    CHECK(!tl_prepare(adapted, 1, 0), "%s", tl_error(adapted));
    for (int i = 0; i < 4; i++) {                            // as it was; with adapters at zero; with others; merged
        tl_net *n = i ? adapted : net;
        for (int k = 0; k < n->tensor_count && i == 2; k++) {
            tl_tensor t = tl_tensor_at(n, k);
            for (size_t v = 0; tl_match("*.lora_B.weight", t.name) && v < t.count; v++) t.data[v] = (tl_real)(0.02 * tl_random_normal(&rng));
        }
        if (i == 3) CHECK(!tl_lora_merge(n), "%s", tl_error(n));
        CHECK(!tl_set_input(n, (tl_node){ 1 }, pixels, 1) && !tl_forward(n, 1, TL_EVAL), "%s", tl_error(n));
        memcpy(out[i], tl_data(n, tl_last(n)), sizeof out[i]);
    }
    CHECK(!memcmp(out[0], out[1], sizeof *out), "an adapter that begins at zero changes a transformer");
    double moved = 0, worst = 0;
    for (int i = 0; i < CLASSES; i++) {
        moved = fmax(moved, fabs((double)(out[2][i] - out[1][i])));
        worst = fmax(worst, fabs((double)(out[3][i] - out[2][i])));
    }
    CHECK(moved > 1e-3 && worst < (sizeof(tl_real) == 8 ? 1e-13 : 1e-5), "adapters change %g; merging changes %g", moved, worst);
    tl_tensor w = tl_param(adapted, "blocks.1.attn.qkv.weight"), was = tl_param(net, "blocks.1.attn.qkv.weight");
    CHECK(memcmp(w.data, was.data, was.count * sizeof *was.data), "merged weights are the old ones");
    CHECK(!tl_lora_unmerge(adapted) && !memcmp(tl_param(adapted, "blocks.1.attn.qkv.weight").data, was.data, was.count * sizeof *was.data),
          "unmerge lost bits");
    tl_net_free(adapted);
    tl_net_free(net);
}

// ---- looking before and after --------------------------------------------------------------

static void check_find_rate(void)
{
    course c = open_course();
    tl_net *net = learnt(&c);
    size_t n = net->parameter_count, moments = n * (size_t)net->moment_slots;
    tl_real *p = copy_of(net->parameters, n), *b = copy_of(net->buffers, net->buffer_count), *m = copy_of(net->moments, moments);
    tl_optimizer_desc rule = net->optimizer;
    int step = net->step, batch = net->batch_max;
    uint32_t passes = net->forward_count;
    tl_rate_report r;
    tl_result result = tl_find_rate(net, &(tl_rate_desc){ .train = c.train, .batch = 8, .optimizer = { .kind = TL_SGD, .lr = 1 }, .seed = 3 }, &r);
    CHECK(!result, "find_rate: %s", tl_error(net));
    CHECK(!memcmp(p, net->parameters, n * sizeof *p) && !memcmp(b, net->buffers, net->buffer_count * sizeof *b) &&
          !memcmp(m, net->moments, moments * sizeof *m) && !memcmp(&rule, &net->optimizer, sizeof rule) && step == net->step &&
          passes == net->forward_count && batch == net->batch_max, "find_rate changed the network");
    CHECK(r.count > 20 && r.count <= 100 && fabs(r.lr[0] - 1e-7) < 1e-12 && r.lr[r.count - 1] > 1e-3, "%d rates up to %g", r.count,
          r.lr[r.count - 1]);
    CHECK(fabs(r.lr[1] / r.lr[0] - pow(1e8, 1.0 / 99)) < 1e-4, "rates grow by %g", r.lr[1] / r.lr[0]);
    CHECK(r.steepest > 0 && r.tenth > 0 && r.tenth < 1, "suggestions %g and %g", r.steepest, r.tenth);
    CHECK(tl_find_rate(net, &(tl_rate_desc){ .train = c.train, .batch = 8, .from = 2, .to = 1 }, &r) == TL_ERR_ARGUMENT, "from above to");
    CHECK(tl_find_rate(net, &(tl_rate_desc){ .batch = 8 }, &r) == TL_ERR_ARGUMENT, "no data");
    CHECK(!step_once(net, 0), "the network goes on: %s", tl_error(net));
    free(p); free(b); free(m);
    tl_net_free(net);
    close_course(&c);
}

static void check_reports(void)
{
    course c = open_course();
    tl_net *net = learnt(&c), *before = tl_clone(net, &(tl_net_desc){ .threads = 1, .exact = 1 });
    tl_block_score s[8];
    int count = tl_drift(net, before, c.valid, 5, s, 8);
    CHECK(count == 4, "drift: %s", tl_error(net));
    for (int i = 0; i < count; i++) CHECK(s[i].a == 0 && s[i].b == 0, "'%s' has not moved: %g, %g", s[i].name, s[i].a, s[i].b);
    // what is frozen has not moved, and features change only behind what has
    tl_recipe_stage stage = { .train = "last 1", .lr = 1e-2f, .epochs = 2, .stats = TL_STATS_RUNNING };
    CHECK(!tl_finetune(net, &(tl_finetune_desc){ .train = c.train, .stages = &stage, .stage_count = 1, .batch = 8 }, NULL), "%s", tl_error(net));
    count = tl_drift(net, before, c.valid, 5, s, 8);
    for (int i = 0; i < count; i++)
        CHECK((s[i].a > 0) == (i >= 2) && (s[i].b > 0) == (i >= 2), "'%s': weights %g, features %g", s[i].name, s[i].a, s[i].b);
    tl_tensor w = tl_param(net, "fc.weight"), w0 = tl_param(before, "fc.weight"), f = tl_param(net, "fc.bias"), f0 = tl_param(before, "fc.bias");
    double d = 0, z = 0;
    for (size_t i = 0; i < w.count; i++) { d += pow((double)(w.data[i] - w0.data[i]), 2); z += pow((double)w0.data[i], 2); }
    for (size_t i = 0; i < f.count; i++) { d += pow((double)(f.data[i] - f0.data[i]), 2); z += pow((double)f0.data[i], 2); }
    CHECK(fabs(s[3].a - sqrt(d / z)) < 1e-6 * s[3].a, "drift of the head %g, expected %g", s[3].a, sqrt(d / z));
    count = tl_drift(net, before, NULL, 0, s, 8);
    CHECK(count == 4 && isnan(s[0].b), "without data");
    // pooled features against the definition
    float features[36 * 8];
    CHECK(!tl_extract(net, tl_find(net, "layer2.0.conv1"), c.all, 7, features), "%s", tl_error(net));
    tl_net *same = tl_clone(net, &(tl_net_desc){ .threads = 1, .exact = 1 });
    tl_keep(same, tl_find(same, "layer2.0.conv1"));
    tl_prepare(same, 1, 0);
    tl_record record = { 0 };
    static tl_real pixels[SIDE * SIDE];
    stripes(NULL, 0, 17, &record);
    double mean = 0, var = 0;
    const float *v = (const float *)record.image.pixels;
    for (int i = 0; i < SIDE * SIDE; i++) mean += (double)v[i] / (SIDE * SIDE);
    for (int i = 0; i < SIDE * SIDE; i++) var += pow((double)v[i] - mean, 2) / (SIDE * SIDE);
    for (int i = 0; i < SIDE * SIDE; i++) pixels[i] = (tl_real)(((double)v[i] - mean) / sqrt(var));
    tl_set_input(same, (tl_node){ 1 }, pixels, 1);
    tl_forward(same, 1, TL_EVAL);
    for (int k = 0; k < 8; k++) {
        double sum = 0;
        for (int i = 0; i < SIDE * SIDE / 4; i++) sum += (double)tl_data(same, tl_find(same, "layer2.0.conv1"))[i * 8 + k];
        CHECK(fabs(sum / (SIDE * SIDE / 4) - (double)features[17 * 8 + k]) < 1e-4, "feature %d: %g, expected %g", k,
              (double)features[17 * 8 + k], sum / (SIDE * SIDE / 4));
    }
    tl_record_free(&record);
    tl_net_free(same);
    // a linear probe tells the stripes apart, and the old head on an unchanged trunk scores as before
    count = tl_probe(net, c.train, c.valid, 6, s, 8);
    CHECK(count == 4, "probe: %s", tl_error(net));
    for (int i = 0; i < count; i++) CHECK(s[i].a >= 0.8 && s[i].b > 0.5, "probe on '%s': %g, %g", s[i].name, s[i].a, s[i].b);
    tl_evaluation was = { 0 }, is = { 0 };
    CHECK(!tl_retained(before, before, c.valid, 4, &was, &is) && was.loss == is.loss, "retained by itself: %s", tl_error(before));
    CHECK(!tl_retained(net, before, c.valid, 4, &was, &is) && was.loss != is.loss, "retained after training on: %s", tl_error(net));
    tl_net *two = tl_replace_head(net, NULL, 2, &(tl_net_desc){ .threads = 1 });
    tl_evaluation head = { 0 };
    CHECK(!tl_retained(two, before, c.valid, 4, &was, &head) && head.loss == is.loss, "the head of the old network: %s", tl_error(two));
    // advice and the check of Lion's rate
    char text[1024];
    tl_recipe recipe;
    for (int large = 0; large < 2; large++)
        for (int labels = 0; labels < 4; labels++) {
            static const int counts[] = { 0, 40, 400, 4000 };
            const char *name = tl_advise(counts[labels], large, text, sizeof text);
            CHECK(!tl_recipe_named(&recipe, name) && strlen(text) > 80 && strstr(text, name), "%d labels: '%s', %s", counts[labels], name, text);
        }
    CHECK(!strcmp(tl_advise(50, 0, NULL, 0), "head") && !strcmp(tl_advise(50, 1, NULL, 0), "adapt-head"), "few labels");
    CHECK(tl_check_rate(net, &(tl_optimizer_desc){ .kind = TL_LION, .lr = 1e-3f }, text, sizeof text) && strstr(text, "sign"), "Lion: %s", text);
    CHECK(!tl_check_rate(net, &(tl_optimizer_desc){ .kind = TL_LION, .lr = 1e-4f }, text, sizeof text) && !text[0], "Lion at 1e-4: %s", text);
    CHECK(!tl_check_rate(net, &(tl_optimizer_desc){ .kind = TL_ADAMW, .lr = 1e-3f }, text, sizeof text), "AdamW: %s", text);
    tl_net_free(two);
    tl_net_free(net);
    tl_net_free(before);
    close_course(&c);
}

MAIN(transfer, void)
{
    check_freezing("conv1.*", NULL, TL_STATS_UPDATE);
    check_freezing("layer2.0.conv1.*", NULL, TL_STATS_UPDATE);
    check_freezing("*.weight", NULL, TL_STATS_UPDATE);
    check_freezing("layer1.*", "layer2.0.bn*", TL_STATS_UPDATE);
    check_freezing("fc.*", NULL, TL_STATS_UNSET);
    check_frozen_plan();
    check_statistics();
    check_fixed_gradients();
    check_adapt();
    check_blocks();
    check_recipes();
    check_evaluate();
    check_windows();
    check_shared();
    check_stages();
    check_cascade();
    check_warmup();
    check_resume();
    check_copies();
    check_lora();
    check_lora_attention();
    check_find_rate();
    check_reports();
    remove_temporary();
    return finish("transfer");
}
