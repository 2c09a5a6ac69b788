// `tinytl classify`: the most probable classes of whole images. Part of tools/tinytl.c.

// Lines of a text file, without line ends; the index is the class.
static int read_lines(const char *path, list *lines)
{
    char line[1024];
    int failed = 0;
    FILE *file = fopen(path, "rb");
    if (!file) return fail("'%s' cannot be read (%s)", path, strerror(errno));
    while (!failed && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\r\n")] = 0;
        failed = list_add(lines, line);
    }
    if (!failed && ferror(file)) failed = fail("'%s' cannot be read (%s)", path, strerror(errno));
    fclose(file);
    return failed;
}

// The names of the classes that the file holds; none if it holds none.
static int names_of(const tl_net *net, list *names)
{
    char name[TL_NAME_MAX];
    int failed = 0;
    for (int i = 0; !failed && tl_class_name(net, i, name, sizeof name); i++) failed = list_add(names, name);
    return failed;
}

// How images become input, in words.
static void print_preprocess(const tl_net *net)
{
    tl_preprocess p = tl_get_preprocess(net);
    int channels = tl_node_channels(net, (tl_node){ 1 }), shown = channels < 4 ? channels : 4;
    printf("preprocessing: ");
    if (p.windows)
        printf("windows of %dx%d that cover the image at its own scale, the answer is their mean; ",
               tl_node_width(net, (tl_node){ 1 }), tl_node_height(net, (tl_node){ 1 }));
    else if (p.resize || p.crop)
        printf("shorter side to %d pixels (%s), middle %dx%d, ", p.resize ? p.resize : p.crop,
               p.cubic ? "bicubic" : "bilinear", p.crop ? p.crop : p.resize, p.crop ? p.crop : p.resize);
    if (p.scaling == TL_SCALE_STANDARD) {
        printf("each image minus its mean, divided by its standard deviation\n");
        return;
    }
    printf("full scale to 0 .. 1, minus");
    for (int k = 0; k < shown; k++) printf(" %g", (double)p.mean[k]);
    printf(", divided by");
    for (int k = 0; k < shown; k++) printf(" %g", p.std[k] > 0 ? (double)p.std[k] : 1.0);
    printf("%s\n", channels != 3 ? "" : p.bgr ? " (blue, green, red)" : " (red, green, blue)");
}

// What was opened, and where its preprocessing comes from.
static void print_pretrained(const char *path, const tl_net *net, const tl_pretrained *info)
{
    if (!info->architecture[0]) {
        printf("%s: a network of its own, %zu parameters\n", path, tl_parameter_count(net));
    } else {
        printf("%s: %s", path, info->architecture);
        if (info->stages) printf(", the first %d stages", info->stages);
        printf(", %zu parameters, %d tensors loaded", tl_parameter_count(net), info->load.matched);
        if (info->load.adapted) printf(" (%s)", info->load.text);
        printf("\n");
        if (info->published_preprocess)
            printf("the file does not say how its images were prepared; as %s was published:\n", info->architecture);
    }
    print_preprocess(net);
}

// Takes p apart.
static void print_classes(const char *path, float *p, int count, int top, const list *names)
{
    printf("%s\n", path);
    for (int rank = 1; rank <= top && rank <= count; rank++) {
        int best = 0;
        for (int k = 1; k < count; k++) if (p[k] > p[best]) best = k;
        printf("  %2d  %5d  %8.6f  %s\n", rank, best, (double)p[best], names->count ? names->item[best] : "");
        p[best] = -1;
    }
}

static int classify_one(tl_net *net, const char *path, const arguments *a, const list *names)
{
    tl_image image = { 0 };
    int classes = tl_node_channels(net, tl_last(net));
    if (read_image(path, a, &image)) return 1;
    float *p = malloc((size_t)classes * sizeof *p);
    int failed = !p ? fail("out of memory") : tl_classify(net, &image, p, classes) ? fail("'%s': %s", path, reason()) : 0;
    if (!failed) print_classes(path, p, classes, int_of(a, "top"), names);
    free(p);
    tl_image_free(&image);
    return failed;
}

static int check_classifier(const tl_net *net, const char *path, const tl_pretrained *info, const list *names)
{
    tl_node last = tl_last(net);
    int h = tl_node_height(net, last), w = tl_node_width(net, last), classes = tl_node_channels(net, last);
    if (h != 1 || w != 1 || last.id == tl_features(net).id)
        return fail("'%s' has no head that classifies: it ends in %dx%dx%d%s", path, h, w, classes,
                    info->stages ? ", the last map of a trunk" : "");
    if (names->count && names->count != classes)
        return fail("there are %d names for the %d classes of '%s'", names->count, classes, path);
    return 0;
}

// What the options ask for beyond the file: one grey channel, images as they are.
static int change_network(const arguments *a, const tl_net_desc *desc, tl_net **net)
{
    if (given(a, "fold")) {
        tl_net *folded = tl_fold_grey(*net, desc);
        if (!folded) return fail_tl();
        tl_net_free(*net);
        *net = folded;
    }
    if (given(a, "whole")) {
        tl_preprocess p = tl_get_preprocess(*net);
        p.resize = p.crop = p.windows = 0;
        tl_set_preprocess(*net, &p);
    }
    return 0;
}

static int run_classify(const arguments *a)
{
    const char *weights = a->operand[0];
    list inputs = { 0 }, names = { 0 };
    tl_net_desc desc = net_desc(a);
    tl_backbone_desc backbone = { .name = text_of(a, "arch"), .size = int_of(a, "size"),
                                  .channels = int_of(a, "channels") };
    tl_pretrained info;
    tl_net *net = NULL;
    int failed = gather_inputs(a, 1, &inputs), wrong = 0;
    if (!failed && given(a, "classes")) failed = read_lines(text_of(a, "classes"), &names);
    if (!failed && !(net = tl_open_pretrained(weights, &desc, &backbone, &info))) failed = fail_tl();
    if (!failed && !names.count) failed = names_of(net, &names);
    if (!failed) failed = check_classifier(net, weights, &info, &names);
    if (!failed) failed = change_network(a, &desc, &net);
    if (!failed && tl_prepare(net, 1, 0)) failed = fail_tl();
    if (!failed) print_pretrained(weights, net, &info);
    for (int i = 0; !failed && i < inputs.count; i++) wrong += classify_one(net, inputs.item[i], a, &names);
    if (wrong) printf("%d of %s classified\n", inputs.count - wrong, count_of(inputs.count, "image"));
    list_free(&inputs);
    list_free(&names);
    tl_net_free(net);
    return failed || wrong;
}
