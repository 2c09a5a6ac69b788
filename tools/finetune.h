// `tinytl finetune`: go on from a published or an own network on images of one's own, by a recipe. Part of
// tools/tinytl.c.

// The text of a recipe: one that the library has, or a file. The caller frees it; NULL after saying why not.
static char *recipe_text(const char *name)
{
    const char *each, *text = NULL;
    for (int i = 0; !text && tl_recipe_at(i, &each); i++) if (!strcmp(each, name)) text = tl_recipe_at(i, NULL);
    size_t size = text ? strlen(text) : 65536;
    char *copy = calloc(size + 1, 1);
    FILE *file = text || !copy ? NULL : fopen(name, "rb");
    if (copy && text) memcpy(copy, text, size);
    size_t length = file ? fread(copy, 1, size, file) : 0;
    int failed = copy ? 0 : fail("out of memory");
    if (!failed && !text && !file)
        failed = fail("'%s' is neither a recipe nor a file (%s); 'tinytl finetune recipes' lists the recipes", name,
                      strerror(errno));
    if (!failed && file && (ferror(file) || length == size))
        failed = fail("'%s' cannot be read, or is longer than %zu bytes", name, size);
    if (file) fclose(file);
    if (!failed) return copy;
    free(copy);
    return NULL;
}

static int list_recipes(void)
{
    const char *name, *text;
    for (int i = 0; (text = tl_recipe_at(i, &name)) != NULL; i++) printf("---- %s\n%s\n", name, text);
    return 0;
}

typedef struct tuning {
    const arguments *a;
    sets   data;
    int    segments, classes;
    tl_recipe recipe;
    tl_net *net;
    int    terminal;
} tuning;

// ---- the network ---------------------------------------------------------------------------

// Does the head of the file make these classes already?
static int head_fits(const tuning *t, const tl_net *net)
{
    char name[TL_NAME_MAX];
    tl_node logits = tl_last(net);
    int maps = tl_node_height(net, logits) > 1, fits = tl_node_channels(net, logits) == t->classes && maps == t->segments;
    for (int i = 0; fits && !t->segments && i < t->classes; i++)
        fits = tl_class_name(net, i, name, sizeof name) && !strcmp(name, tl_dataset_label_name(t->data.all, i));
    return fits && !given(t->a, "new-head");
}

// Takes the place of the network so far. Returns 1 if it could not be made.
static int swap_network(tuning *t, tl_net *made)
{
    if (!made) return fail_tl();
    tl_net_free(t->net);
    t->net = made;
    return 0;
}

static int open_backbone(tuning *t)
{
    const arguments *a = t->a;
    const char *from = text_of(a, "from");
    tl_net_desc desc = net_desc(a);
    tl_pretrained info;
    tl_backbone_desc backbone = { .name = text_of(a, "arch"), .classes = t->classes, .stages = int_of(a, "stages"),
                                  .size = int_of(a, "size") };
    t->net = tl_open_pretrained(from, &desc, &backbone, &info);
    if (!t->net) return fail_tl();
    print_pretrained(from, t->net, &info);
    int own = !info.architecture[0], fits = own && head_fits(t, t->net);
    if (own && !fits && swap_network(t, tl_replace_head(t->net, NULL, t->classes, &desc))) return 1;
    printf("head: %s, %d classes\n", fits ? "kept" : "new, random", t->classes);
    if (int_of(a, "lora") && swap_network(t, tl_lora(t->net, "all", int_of(a, "lora"), &desc))) return 1;
    int maps = tl_node_height(t->net, tl_last(t->net)) > 1;
    if (maps != t->segments)
        return fail("'%s' makes %s, but the data has %s", from, maps ? "maps" : "one answer for each image",
                    t->segments ? "masks" : "labels for whole images");
    return 0;
}

static int name_classes(tuning *t)
{
    const char *names[256];
    char numbers[256][8];
    int count = t->classes <= 256 && !t->segments ? t->classes : 0;
    for (int i = 0; i < count; i++) {
        names[i] = tl_dataset_label_name(t->data.all, i);
        snprintf(numbers[i], sizeof numbers[i], "%d", i);
        if (!names[i][0]) names[i] = numbers[i];
    }
    return tl_set_class_names(t->net, names, count) ? fail_tl() : 0;
}

// ---- the data ------------------------------------------------------------------------------

// As cut, but the specimens come from all labels in turn: the next one from the label that has most left, so that none is
// left without. Returns 1 on failure.
static int cut_by_label(const tl_dataset *data, int specimens, uint64_t seed, tl_dataset **rest, tl_dataset **part)
{
    int count = tl_dataset_count(data), failed = 0, parts[2] = { 0, 0 };
    int *aside = calloc((size_t)count, 3 * sizeof *aside);
    tl_record record = { 0 };
    if (!aside) return fail("out of memory");
    int *label = aside + count, *indices = label + count;
    for (int i = 0; !failed && i < count; i++) {
        if (tl_dataset_get(data, 0, i, &record)) failed = fail_tl();
        label[i] = record.label;
    }
    tl_record_free(&record);
    for (int n = 0; !failed && n < specimens; n++) {
        int most = 0, from = -1, chosen = -1;
        for (int i = 0; i < count; i++) {                 // images stand for specimens; the largest label gives the next
            int left = 0;
            for (int k = 0; k < count; k++) left += !aside[k] && label[k] == label[i];
            if (!aside[i] && left > most) { most = left; from = label[i]; }
        }
        tl_rng rng = tl_rng_at(seed, TL_RANDOM_SPLIT, 0, (uint32_t)n, 1);
        int pick = (int)tl_random_below(&rng, (uint32_t)most);
        for (int i = 0; i < count && chosen < 0; i++)
            if (!aside[i] && label[i] == from && pick-- == 0) chosen = i;
        for (int i = 0; i < count && chosen >= 0; i++)
            if (!strcmp(tl_dataset_specimen(data, i), tl_dataset_specimen(data, chosen))) aside[i] = 1;
    }
    for (int wanted = 0; !failed && wanted < 2; wanted++) {
        for (int i = 0; i < count; i++) if (aside[i] == wanted) indices[parts[wanted]++] = i;
        if (!parts[wanted]) failed = fail("%s cannot be set aside and leave some to learn from", count_of(specimens, "specimen"));
        tl_dataset **to = wanted ? part : rest;
        if (!failed && !(*to = tl_subset(data, indices, parts[wanted]))) failed = fail_tl();
    }
    free(aside);
    return failed;
}

static int set_aside(const tuning *t, const tl_dataset *data, int specimens, tl_dataset **rest, tl_dataset **part)
{
    return t->segments ? cut(data, specimens, seed_of(t->a), rest, part)
                       : cut_by_label(data, specimens, seed_of(t->a), rest, part);
}

static int open_labelled(tuning *t)
{
    const arguments *a = t->a;
    char masks[PATH_SIZE];
    const char *folder = a->operand[0];
    if (join_path(masks, folder, "masks", "")) return 1;
    t->segments = kind_of(masks) == FOLDER && !given(a, "labels");
    int classes = t->segments ? int_of(a, "classes") : 0;
    tl_folder_desc desc = { .classes = classes > 2 ? classes : 0, .no_masks = !t->segments,
                            .crop_bottom = int_of(a, "crop-bottom"), .load = load_any };
    t->data.train = t->data.all = tl_folder(folder, &desc);
    if (!t->data.all) return fail_tl();
    t->classes = t->segments ? classes : tl_dataset_classes(t->data.all);
    if (t->classes < 2) return fail("'%s' has neither masks nor labels of two classes in specimens.csv", folder);
    sets *s = &t->data;
    if (int_of(a, "holdout")) {
        if (set_aside(t, s->train, int_of(a, "holdout"), &s->rest, &s->set_aside)) return 1;
        s->train = s->rest;
        print_set("set aside for the test", s->set_aside);
    }
    if (int_of(a, "validate")) {
        if (set_aside(t, s->train, int_of(a, "validate"), &s->training, &s->validation)) return 1;
        s->train = s->training;
        s->valid = s->validation;
    }
    print_set("training", s->train);
    if (s->valid) print_set("validation", s->valid);
    return t->segments ? repeat(s, 64) : 0;
}

// ---- training ------------------------------------------------------------------------------

static void print_log(void *user, const char *text)
{
    (void)user;
    printf("\n%s", text);
    fflush(stdout);
}

static int tuning_progress(void *user, const tl_progress *p)
{
    const tuning *t = user;
    if (!p->epoch_done && !t->terminal) return stop_asked;
    printf("%sepoch %d/%d", t->terminal ? "\r\033[K" : "", p->epoch, p->epochs);
    if (!p->epoch_done) printf(" step %d/%d", p->step, p->steps);
    printf("  loss %.4f", p->loss);
    if (p->valid_loss - p->valid_loss == 0)
        printf("  validation %.4f  %s %.3f%s", p->valid_loss, t->segments ? "IoU" : "accuracy", p->valid_score,
               p->best ? " best" : "");
    printf("  rate %.2g  %.0f images/s", p->lr, p->images_per_second);
    if (!t->terminal || p->epoch_done) putchar('\n');
    fflush(stdout);
    return stop_asked;
}

static int tune(tuning *t)
{
    const arguments *a = t->a;
    tl_finetune_report report;
    tl_finetune_desc desc = {
        .train = t->data.train, .valid = t->data.valid, .stages = t->recipe.stage, .stage_count = t->recipe.count,
        .batch = int_of(a, "batch"), .seed = seed_of(a), .augment = augmentations,
        .augment_count = augmentation_counts[choice_of(a, "augment")], .checkpoint = text_of(a, "checkpoint"),
        .resume = given(a, "resume"), .progress = tuning_progress, .log = print_log, .user = t
    };
    t->terminal = isatty(STDOUT_FILENO);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    tl_result result = tl_finetune(t->net, &desc, &report);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    if (t->terminal && result) putchar('\n');
    if (result && result != TL_INTERRUPTED) return fail_tl();
    if (tl_save(t->net, text_of(a, "out"))) return fail_tl();
    printf("\n%s '%s' after %s, %s, %.0f s\n", result ? "stopped; saved the best so far as" : "saved",
           text_of(a, "out"), count_of(report.phases, "phase"), count_of(report.epochs, "epoch"), report.seconds);
    return 0;
}

// ---- the result, specimen by specimen ------------------------------------------------------

// The class of the network that a label of the data is, by its name; -1 after saying that there is none.
static int class_of_label(const tl_net *net, const tl_dataset *data, int label)
{
    char text[16], name[TL_NAME_MAX];
    const char *wanted = tl_dataset_label_name(data, label);
    snprintf(text, sizeof text, "%d", label);
    if (!*wanted) wanted = text;
    if (!tl_class_name(net, 0, name, sizeof name) && label >= 0 && label < tl_node_channels(net, tl_last(net))) return label;
    for (int i = 0; tl_class_name(net, i, name, sizeof name); i++) if (!strcmp(name, wanted)) return i;
    fail("the network has no class '%s'", label < 0 ? "" : wanted);
    return -1;
}

// The most probable class of an image and the true one.
static int classify_record(tl_net *net, const tl_dataset *data, int index, int *best, int *truth)
{
    int classes = tl_node_channels(net, tl_last(net));
    float *p = malloc((size_t)classes * sizeof *p);
    tl_record record = { 0 };
    int failed = !p ? fail("out of memory")
                    : tl_dataset_get(data, 0, index, &record) || tl_classify(net, &record.image, p, classes) ? fail_tl() : 0;
    if (!failed && record.label < 0) failed = fail("'%s' has no label in specimens.csv", record.name);
    if (!failed) failed = (*truth = class_of_label(net, data, record.label)) < 0;
    *best = !failed && classes == 1 && p[0] > 0.5f;
    for (int c = 1; !failed && c < classes; c++) if (p[c] > p[*best]) *best = c;
    tl_record_free(&record);
    free(p);
    return failed;
}

// Images of one specimen that were recognised. The mean is over specimens, since its images are no independent evidence.
static int report_labels(tl_net *net, const char *what, const tl_dataset *data)
{
    int count = tl_dataset_count(data), specimens = 0, recognised = 0;
    int *best = malloc(2 * (size_t)count * sizeof *best), *truth = best ? best + count : NULL;
    double sum = 0, squares = 0;
    int failed = best ? 0 : fail("out of memory");
    for (int i = 0; !failed && i < count; i++) failed = classify_record(net, data, i, &best[i], &truth[i]);
    if (!failed) printf("\n%-24s %-20s %7s %7s  %s\n", what, "label", "images", "right", "taken for");
    for (int i = 0; !failed && i < count; i++) {
        const char *name = tl_dataset_specimen(data, i);
        char label[TL_NAME_MAX] = "", taken[TL_NAME_MAX] = "";
        int images = 0, right = 0, seen = 0;
        for (int k = 0; k < i; k++) seen |= !strcmp(tl_dataset_specimen(data, k), name);
        for (int k = i; !seen && k < count; k++) {
            if (strcmp(tl_dataset_specimen(data, k), name)) continue;
            images++;
            right += best[k] == truth[k];
            if (best[k] != truth[k] && !tl_class_name(net, best[k], taken, sizeof taken))
                snprintf(taken, sizeof taken, "%d", best[k]);
        }
        if (seen || !images) continue;
        if (!tl_class_name(net, truth[i], label, sizeof label)) snprintf(label, sizeof label, "%d", truth[i]);
        printf("%-24s %-20s %7d %7d  %s\n", name, label, images, right, taken);
        double share = (double)right / images;
        recognised += right;
        specimens++;
        sum += share;
        squares += share * share;
    }
    double mean = sum / specimens, deviation = sqrt(fmax(squares / specimens - mean * mean, 0));
    if (!failed) printf("accuracy: %d of %s, %.3f; mean over %s %.3f, standard error %.3f\n", recognised, count_of(count, "image"),
                        (double)recognised / count, count_of(specimens, "specimen"), mean,
                        specimens > 1 ? deviation / sqrt(specimens - 1) : 0);
    free(best);
    return failed;
}

// `tinytl eval` of a network that classifies images.
static int eval_labels(const arguments *a, tl_net *net)
{
    static const char *const of_masks[] = { "tolerance", "label-width", "out" };
    tl_folder_desc desc = { .no_masks = 1, .crop_bottom = int_of(a, "crop-bottom"), .load = load_any };
    sets s = { 0 };
    for (int i = 0; i < COUNT(of_masks); i++)
        if (given(a, of_masks[i])) return fail("--%s is for masks, but '%s' classifies images; leave it out", of_masks[i], a->operand[0]), 2;
    int failed = (s.all = tl_folder(a->operand[1], &desc)) ? 0 : fail_tl();
    if (!failed && int_of(a, "holdout")) failed = cut_by_label(s.all, int_of(a, "holdout"), seed_of(a), &s.rest, &s.set_aside);
    if (!failed) failed = report_labels(net, "specimen", s.set_aside ? s.set_aside : s.all);
    sets_free(&s);
    return failed;
}

static int report_masks(tuning *t, const char *what, const tl_dataset *data)
{
    table scores = { 0 };
    printf("\n%s\n", what);
    int failed = score_all(t->net, data, 3, &scores);
    if (!failed) print_table(&scores, 3);
    table_free(&scores);
    return failed;
}

static int run_finetune(const arguments *a)
{
    tuning t = { .a = a };
    if (!strcmp(a->operand[0], "recipes")) return list_recipes();
    if (!text_of(a, "from") || !text_of(a, "out"))
        return fail("--from and --out are needed; see 'tinytl help finetune'"), 2;
    if (given(a, "resume") && !given(a, "checkpoint")) return fail("--resume needs --checkpoint FILE, the run to go on with"), 2;
    char *text = recipe_text(text_of(a, "recipe"));
    int failed = !text || (tl_recipe_parse(&t.recipe, text) && fail("'%s': %s", text_of(a, "recipe"), reason()));
    if (!failed) failed = check_target(text_of(a, "out")) || open_labelled(&t) || open_backbone(&t) || name_classes(&t);
    if (!failed) {
        if (t.segments) add_losses(t.net);
        else if (!has_losses(t.net)) tl_loss(t.net, tl_last(t.net), &(tl_loss_desc){ .kind = TL_CROSS_ENTROPY });
        if (tl_status(t.net)) failed = fail_tl();
    }
    if (!failed) printf("\nrecipe '%s':\n%s", text_of(a, "recipe"), text);
    if (!failed) failed = tune(&t);
    const tl_dataset *test = t.data.set_aside ? t.data.set_aside : t.data.valid;
    const char *what = t.data.set_aside ? "test specimen" : "validation specimen";
    if (!failed && test) failed = t.segments ? report_masks(&t, what, test) : report_labels(t.net, what, test);
    free(text);
    sets_free(&t.data);
    tl_net_free(t.net);
    return failed;
}

static const option finetune_options[] = {
    { "from", TEXT, "WEIGHTS", NULL, 0, 0, "the network to begin with: a model file, or published weights" },
    { "out", TEXT, "MODEL", NULL, 0, 0, "file to write the model to" },
    { "recipe", TEXT, "NAME|FILE", "probe-tune", 0, 0, "how to go on; 'tinytl finetune recipes' lists them" },
    { "arch", TEXT, "NAME", NULL, 0, 0, "architecture of the weights, where it cannot be recognised" },
    { "stages", INTEGER, "N", "0", 0, 16, "only the first stages of the architecture; 0: all that the file has" },
    { "size", INTEGER, "S", "0", 0, 4096, "input of a published architecture in pixels; 0: as published" },
    { "lora", INTEGER, "RANK", "0", 0, 512, "adapters of this rank on all layers; with the recipe lora" },
    { "new-head", FLAG, NULL, NULL, 0, 0, "a new head even if that of the file makes the same classes" },
    { "labels", FLAG, NULL, NULL, 0, 0, "learn the label column of specimens.csv even if there are masks" },
    { "classes", INTEGER, "N", "2", 2, 250, "of the masks; above 2 they hold class indices" },
    { "batch", INTEGER, "N", "16", 1, 4096, "images in one step" },
    { "augment", CHOICE, "none|light|full", "full", 0, 0, "light: flips, turns; full: and grey values, noise" },
    { "holdout", INTEGER, "N", "0", 0, 1e6, "specimens to set aside for the test: from all labels in turn; with masks by chance" },
    { "validate", INTEGER, "N", "0", 0, 1e6, "further specimens, to choose the best weights and the end by" },
    { "crop-bottom", INTEGER, "ROWS", "0", 0, 65535, "rows of pixels to cut off below, an info bar" },
    { "checkpoint", TEXT, "FILE", NULL, 0, 0, "write the state of the run to this file after every epoch" },
    { "resume", FLAG, NULL, NULL, 0, 0, "go on from the checkpoint if it exists" },
    { "seed", INTEGER, "K", "1", 0, 1e15, "of the head, order, augmentation and splits" },
    { "threads", INTEGER, "N", "0", 0, 256, "threads; 0: one per processor" },
    { NULL, FLAG, NULL, NULL, 0, 0, NULL }
};
