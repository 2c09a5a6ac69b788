// `tinytl calibrate` and `tinytl measure`: what real images look like, and what their grains are like. Part of
// tools/tinytl.c.

// Reads all images of the operands; *count of them, to be freed with their pixels. NULL after saying why.
static tl_image *read_all(const arguments *a, int *count)
{
    list inputs = { 0 };
    int failed = list_inputs(a, 0, &inputs);
    tl_image *images = failed ? NULL : calloc((size_t)inputs.count, sizeof *images);
    if (!failed && !images) failed = fail("out of memory");
    *count = inputs.count;
    for (int i = 0; !failed && i < inputs.count; i++) failed = read_image(inputs.item[i], a, &images[i]);
    for (int i = 0; failed && images && i < inputs.count; i++) tl_image_free(&images[i]);
    list_free(&inputs);
    if (!failed) return images;
    free(images);
    return NULL;
}

static int run_calibrate(const arguments *a)
{
    const char *out = text_of(a, "out");
    tl_grains_desc start = { .look = (tl_look)(choice_of(a, "look") + 1) };
    tl_calibration c;
    int count = 0, failed;
    if (check_target(out)) return 1;
    tl_image *images = read_all(a, &count);
    if (!images) return 1;
    failed = given(a, "pairs") && count % 2 ? fail("--pairs needs an even number of images, not %d", count) : 0;
    if (!failed && tl_calibrate(images, count, given(a, "pairs"), &start, &c)) failed = fail_tl();
    if (!failed && tl_grains_save(&c.desc, out)) failed = fail_tl();
    if (!failed) {
        printf("%s. Noise from %s: variance = %.4g x (mean - %.4g) + %.4g^2 of full scale, %d blocks on %d levels, "
               "R^2 %.2f\n", count_of(count, "image"), given(a, "pairs") ? "pairs" : "single frames", c.noise.gain, c.noise.offset,
               c.noise.read_noise, c.noise.blocks, c.noise.levels, c.noise.fit);
        if (c.noise.gain > 0) printf("%.0f electrons per pixel at full scale\n", 1 / c.noise.gain);
        printf("\n%s\nmean relative misfit %.3f\nwritten: %s; draw with 'tinytl synth OUT --like %s'\n", c.report, c.misfit,
               out, out);
    }
    for (int i = 0; i < count; i++) tl_image_free(&images[i]);
    free(images);
    return failed;
}

// One line of the table, and of the means over the images.
static void print_measurement(const char *name, const tl_measurement *m, double um)
{
    double planimetric, intercept, scale = um > 0 ? um : 1;
    printf("%-28.28s %6d %5d %9.2f %8.2f %7.2f %6.2f %9.2f %6d %5.1f %5d %6.3f", name, m->grains, m->cut,
           m->mean_diameter * scale, m->diameter_std * scale, m->mean_aspect, m->mean_neighbours,
           m->mean_intercept * scale, m->junctions, m->junction_angle_std, m->open_ends, m->closed);
    if (!tl_astm_e112(m, um, &planimetric, &intercept)) printf(" %6.2f %6.2f", planimetric, intercept);
    printf("\n");
}

// A row per grain: image, position, area, diameter, aspect, angle, neighbours, cut.
static void append_grains(page *csv, const char *name, const tl_measurement *m, double um)
{
    double scale = um > 0 ? um : 1;
    for (int i = 0; i < m->numbers; i++) {
        const tl_grain_size *g = &m->each[i];
        if (g->area > 0)
            page_print(csv, "%s,%.2f,%.2f,%.6g,%.6g,%.4f,%.2f,%d,%d\n", name, g->x, g->y, g->area * scale * scale,
                       g->diameter * scale, g->aspect, g->angle, g->neighbours, g->cut > 0);
    }
}

// The mask of one image: the image itself without a model, else what the model or the baseline says.
static tl_result mask_of(tl_net *net, int is_mask, const tl_image *image, tl_image *mask)
{
    if (net) return tl_segment(net, image, NULL, mask);
    if (!is_mask) return run_baseline(image, mask);
    tl_result result = tl_image_channels(mask, image, 1);
    return result ? result : tl_image_convert(mask, mask, TL_U8);
}

static int run_measure(const arguments *a)
{
    const char *model = text_of(a, "model"), *unit = given(a, "um-per-pixel") ? "um" : "px";
    double um = real_of(a, "um-per-pixel");
    int is_mask = !model, count = 0, failed = 0;
    tl_net_desc desc = net_desc(a);
    tl_net *net = NULL;
    list inputs = { 0 };
    page csv = { 0 };
    if (given(a, "csv") && check_target(text_of(a, "csv"))) return 1;
    if (model && find_baseline(model)) use_baseline = find_baseline(model);
    else if (model && !(net = tl_open(model, &desc))) return fail_tl();
    failed = list_inputs(a, 0, &inputs);
    if (!failed) {
        printf("%-28s %6s %5s %6s,%s %8s %7s %6s %6s,%s %6s %5s %5s %6s", "image", "grains", "cut", "diam", unit, "std",
               "aspect", "sides", "chord", unit, "joints", "+-deg", "open", "closed");
        printf(um > 0 ? " %6s %6s\n" : "\n", "G(N)", "G(l)");
    }
    page_print(&csv, "image,x,y,area,diameter,aspect,angle,neighbours,cut\n");
    for (int i = 0; !failed && i < inputs.count; i++) {
        tl_image image = { 0 }, mask = { 0 };
        tl_measurement m = { 0 };
        char name[256];
        stem_of(inputs.item[i], name, sizeof name);
        failed = read_image(inputs.item[i], a, &image);
        if (!failed && mask_of(net, is_mask, &image, &mask)) failed = fail_tl();
        if (!failed && tl_measure(&mask, int_of(a, "smallest"), &m, NULL)) failed = fail("%s: %s", name, reason());
        if (!failed) print_measurement(name, &m, um);
        if (!failed) append_grains(&csv, name, &m, um);
        count += !failed;
        tl_measurement_free(&m);
        tl_image_free(&image);
        tl_image_free(&mask);
    }
    if (!failed && given(a, "csv")) failed = save_page(&csv, text_of(a, "csv"));
    if (!failed) {
        if (um <= 0) printf("ASTM E112 grain-size numbers need --um-per-pixel.\n");
        printf("%s. Sizes are those of the section, smaller than those of the grains in space; means leave out "
               "grains cut by the frame.\n", count_of(count, "image"));
    }
    list_free(&inputs);
    page_free(&csv);
    tl_net_free(net);
    return failed;
}
