// augment.h: the commands augment and pages. Used by tinytl.c alone.

// ---- lists ---------------------------------------------------------------------------------

static int print_lists(void)
{
    char text[2048], *line;
    printf("transforms, with their fields, units and, in brackets, defaults; each also has p, its probability [1]\n\n");
    for (int kind = 1; kind < TL_TRANSFORM_COUNT; kind++) {
        printf("  %s\n", tl_transform_name((tl_transform_kind)kind));
        tl_transform_help((tl_transform_kind)kind, text, sizeof text);
        for (line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) printf("      %s\n", line);
    }
    const char *about = "";
    printf("\npresets\n\n");
    for (int i = 0; tl_preset_at(i, &about); i++)
        printf("  %-8s %s\n           %s\n", tl_preset_at(i, NULL), about, tl_preset(tl_preset_at(i, NULL)));
    printf("\nphysics\n\n");
    for (int i = 0; tl_physics_at(i, &about); i++) printf("  %-15s %s\n", tl_physics_at(i, NULL), about);
    return 0;
}

// ---- verdicts ------------------------------------------------------------------------------

static const char *const verdict_names[] = { "legal", "legal with label", "ILLEGAL" };

static int save_verdicts(const tl_transform *t, int count, const tl_physics *physics, const char *folder, page *html)
{
    page csv = { 0 };
    char path[PATH_SIZE];
    int illegal = 0;
    page_print(&csv, "transform,verdict,rule,reason\n");
    page_print(html, "<div class=\"card\"><table><tr><th>transform</th><th>verdict</th><th>rule</th><th>reason</th></tr>\n");
    for (int i = 0; i < count; i++) {
        tl_judgement j = tl_judge(&t[i], physics);
        illegal += j.verdict == TL_ILLEGAL;
        const char *verdict = physics ? verdict_names[j.verdict] : "not judged";
        printf("  %-20s %-17s %s%s%s\n", tl_transform_name(t[i].kind), verdict, j.rule, *j.rule ? ": " : "", j.reason);
        page_print(&csv, "%s,%s,\"%s\",\"%s\"\n", tl_transform_name(t[i].kind), verdict, j.rule, j.reason);
        page_print(html, "<tr><td>%s</td><td>%s</td><td>%s</td><td style=\"white-space:normal\">%s</td></tr>\n",
                   tl_transform_name(t[i].kind), verdict, j.rule, j.reason);
    }
    if (!physics) printf("say what is true of your images with --physics, and each is judged\n");
    page_print(html, "</table></div>\n");
    if (illegal) printf("%d of %d transforms are illegal; training with --physics refuses them\n", illegal, count);
    int failed = join_path(path, folder, "verdicts.csv", "") || save_page(&csv, path);
    page_free(&csv);
    return failed;
}

// ---- pictures ------------------------------------------------------------------------------

static void dot(tl_image *view, double x, double y)
{
    int px = (int)floor(x + 0.5), py = (int)floor(y + 0.5);
    if (px < 0 || py < 0 || px >= view->width || py >= view->height) return;
    memcpy((uint8_t *)view->pixels + 3 * ((size_t)py * (size_t)view->width + (size_t)px), class_colours[2], 3);
}

// Outlines of the boxes, crosses at the keypoints.
static void draw_places(const tl_record *record, tl_image *view)
{
    for (int i = 0; i < record->box_count; i++) {
        const tl_box *b = &record->boxes[i];
        for (float x = b->x0; x <= b->x1 && !b->hidden; x++) { dot(view, (double)x, (double)b->y0); dot(view, (double)x, (double)b->y1); }
        for (float y = b->y0; y <= b->y1 && !b->hidden; y++) { dot(view, (double)b->x0, (double)y); dot(view, (double)b->x1, (double)y); }
    }
    for (int i = 0; i < record->keypoint_count; i++)
        for (int k = -3; k <= 3 && !record->keypoints[i].hidden; k++) {
            dot(view, (double)record->keypoints[i].x + k, (double)record->keypoints[i].y);
            dot(view, (double)record->keypoints[i].x, (double)record->keypoints[i].y + k);
        }
}

// The record to look at: its image, the mask in colour over it, boxes and keypoints, at the size of the cells.
static tl_result record_cell(const tl_record *record, int width, int height, tl_image *cell)
{
    tl_image view = { 0 }, none = { 0 };
    tl_result result = tl_image_convert(&view, &record->image, TL_U8);
    if (!result) result = tl_image_channels(&view, &view, 3);
    if (!result && record->mask.pixels) result = make_overlay(&view, &record->mask, &none, cell);
    else if (!result) result = tl_image_copy(cell, &view);
    for (size_t i = 0; !result && record->mask.pixels && i < pixels_of(&view); i++)       // the unknown: half grey
        if (((const uint8_t *)record->mask.pixels)[i] == TL_IGNORE)
            for (int c = 0; c < 3; c++)
                ((uint8_t *)cell->pixels)[3 * i + (size_t)c] = (uint8_t)(((uint8_t *)view.pixels)[3 * i + (size_t)c] / 2 + 64);
    if (!result) draw_places(record, cell);
    if (!result && (cell->width != width || cell->height != height)) {                    // turned or cropped: in the middle
        tl_image framed = { 0 };
        result = tl_image_alloc(&framed, width, height, 3, TL_U8);
        if (!result) memset(framed.pixels, 255, pixels_of(&framed) * 3);
        int w = cell->width < width ? cell->width : width, h = cell->height < height ? cell->height : height;
        for (int y = 0; !result && y < h; y++)
            memcpy((uint8_t *)framed.pixels + 3 * ((size_t)(y + (height - h) / 2) * (size_t)width + (size_t)((width - w) / 2)),
                   (uint8_t *)cell->pixels + 3 * ((size_t)(y + (cell->height - h) / 2) * (size_t)cell->width +
                                                  (size_t)((cell->width - w) / 2)), (size_t)w * 3);
        tl_image_free(cell);
        *cell = framed;
    }
    tl_image_free(&view);
    return result;
}

// A row for each image: as it is, then its views of consecutive epochs, exactly as training would see them.
static int make_view_sheet(const arguments *a, const tl_dataset *data, const tl_transform *t, int count, tl_image *sheet)
{
    int images = int_of(a, "images"), columns = int_of(a, "views") + 1;
    if (images > tl_dataset_count(data)) images = tl_dataset_count(data);
    tl_image *cells = calloc((size_t)images * (size_t)columns, sizeof *cells);
    tl_record record, scratch;
    memset(&record, 0, sizeof record);
    memset(&scratch, 0, sizeof scratch);
    tl_result result = cells ? TL_OK : TL_ERR_MEMORY;
    int failed = cells ? 0 : fail("out of memory"), width = 0, height = 0;
    for (int i = 0; !result && i < images; i++) {
        for (int k = 0; !result && k < columns; k++) {
            uint32_t epoch = (uint32_t)int_of(a, "epoch") + (uint32_t)(k > 0 ? k - 1 : 0);
            if (k == 0) result = tl_dataset_get(data, epoch, i, &record);
            else result = tl_augment_from(data, t, count, seed_of(a), epoch, i, &record, &scratch);
            if (!result && width == 0) {
                width = record.image.width;
                height = record.image.height;
            }
            if (!result) result = record_cell(&record, width, height, &cells[i * columns + k]);
        }
    }
    if (!result) result = arrange(cells, images * columns, columns, sheet);
    if (result && !failed) failed = fail_tl();
    for (int i = 0; cells && i < images * columns; i++) tl_image_free(&cells[i]);
    free(cells);
    tl_record_free(&record);
    tl_record_free(&scratch);
    return failed;
}

// Strengths at which one sees what a transform does on 192 pixels.
static const char *const each_text[] = {
    "flip_x", "flip_y", "rot90", "crop width=128 height=128",
    "pad width=260 height=260 ignore=1; resized_crop width=192 height=192 area=1 aspect=1", "resized_crop width=192 height=192 area=0.2..0.4",
    "rotate degrees=30", "scale factor=1.5", "shear degrees=20", "shift pixels=25..40", "affine degrees=-25 scale=0.8 shear=10 shift=10",
    "perspective inward=0.05..0.25", "elastic alpha=200 sigma=8", "drift way=15..25", "scan sigma=2.5",
    "brightness shift=0.25", "contrast change=0.8", "brightness_contrast brightness=0.15 contrast=-0.5", "gamma exponent=2", "equalize", "clahe clip=4",
    "color_jitter brightness=0.7 contrast=1.5", "invert", "gauss_noise sigma=0.1", "gauss_noise_grey variance=400", "poisson electrons=15",
    "salt_pepper amount=0.05", "blur sigma=2.5", "defocus radius=4", "motion_blur length=14 angle=30", "erase count=3 area=0.02..0.06 ignore=1",
    "mixup alpha=100", "cutmix alpha=2", "charging count=10 height=0.5", "vignette depth=0.7", "contamination count=5 depth=0.6 radius=8..25",
    "scratches count=5 depth=-0.5 width=2", "dead_pixels amount=0.01", "info_bar height=0.12"
};

static int make_each_sheet(tl_image *sheet)
{
    enum { EACH_SIZE = 192, COLUMNS = 8 };
    tl_grains_desc grains = { .width = EACH_SIZE, .height = EACH_SIZE, .seed = 5, .count = 4, .diameter = { 45, 60 }, .boundary = { -0.8f, -0.8f },
                              .line = { 3, 3 }, .electrons = { 4000, 4000 }, .blur = { 0.7f, 0.7f } };
    tl_dataset *data = tl_grains_stream(&grains);
    tl_image cells[COUNT(each_text) + 1];
    tl_record record, scratch;
    memset(cells, 0, sizeof cells);
    memset(&record, 0, sizeof record);
    memset(&scratch, 0, sizeof scratch);
    tl_result result = data ? tl_dataset_get(data, 0, 1, &record) : TL_ERR_MEMORY;
    if (!result) result = record_cell(&record, EACH_SIZE, EACH_SIZE, &cells[0]);
    for (int i = 0; !result && i < COUNT(each_text); i++) {
        tl_transform t[2];
        int count = tl_transforms_parse(each_text[i], t, 2);
        result = count < 1 ? TL_ERR_ARGUMENT : tl_augment_from(data, t, count, 3, 0, 1, &record, &scratch);
        if (!result) result = record_cell(&record, EACH_SIZE, EACH_SIZE, &cells[i + 1]);
    }
    if (!result) result = arrange(cells, COUNT(cells), COLUMNS, sheet);
    int failed = result ? fail_tl() : 0;
    for (int i = 0; i < COUNT(cells); i++) tl_image_free(&cells[i]);
    tl_record_free(&record);
    tl_record_free(&scratch);
    tl_dataset_free(data);
    return failed;
}

// ---- a fixed set ---------------------------------------------------------------------------

// What a record has of boxes and keypoints, as rows of their tables.
static void print_places(const tl_record *record, const char *name, page *boxes, page *points)
{
    for (int i = 0; i < record->box_count; i++) {
        const tl_box *b = &record->boxes[i];
        if (b->hidden) continue;
        page_field(boxes, name);
        page_print(boxes, ",%.9g,%.9g,%.9g,%.9g,%d\n", (double)b->x0, (double)b->y0, (double)b->x1, (double)b->y1, b->label);
    }
    for (int i = 0; i < record->keypoint_count; i++) {
        const tl_keypoint *k = &record->keypoints[i];
        if (k->hidden) continue;
        page_field(points, name);
        page_print(points, ",%.9g,%.9g,%d\n", (double)k->x, (double)k->y, k->label);
    }
}

// Weights become 8 bits of 0 .. 1: asked before anything is written.
static int check_weights(const tl_dataset *data)
{
    tl_record record = { 0 };
    int failed = 0;
    for (int k = 0; !failed && k < tl_dataset_count(data); k++) {
        failed = tl_dataset_get(data, 0, k, &record) ? fail_tl() : 0;
        const float *w = record.weight.pixels;
        for (size_t i = 0; !failed && w && i < pixels_of(&record.weight); i++)
            if (w[i] > 1) failed = fail("'%s' has the weight %g; --copies writes weights of 0 to 1 only: divide all maps by the "
                                        "largest weight", record.name, (double)w[i]);
    }
    tl_record_free(&record);
    return failed;
}

// Images of 8 bits as PNG, others as TIFF of 16 bits: PNG is written with 8 only.
static int save_copy(tl_image *image, const char *folder, const char *name)
{
    char path[PATH_SIZE], why[TIFF_WHY] = "";
    if (!is_tiff(name)) return save_as(image, folder, name, "");
    if (tl_image_convert(image, image, TL_U16)) return fail_tl();
    if (join_path(path, folder, name, "")) return 1;
    return tiff_write(path, image, why) ? fail("%s", why) : 0;
}

static int write_copies(const arguments *a, const tl_dataset *data, const tl_transform *t, int count, const char *folder)
{
    char images[PATH_SIZE], masks[PATH_SIZE], weights[PATH_SIZE], csv[PATH_SIZE], boxes_csv[PATH_SIZE], points_csv[PATH_SIZE], stem[320], picture[320], base[256];
    page rows = { 0 }, boxes = { 0 }, points = { 0 };
    tl_record record, scratch;
    memset(&record, 0, sizeof record);
    memset(&scratch, 0, sizeof scratch);
    int failed = join_path(images, folder, "images", "") || join_path(masks, folder, "masks", "") ||
                 join_path(weights, folder, "weights", "") || join_path(boxes_csv, folder, "boxes.csv", "") ||
                 join_path(points_csv, folder, "keypoints.csv", "") || join_path(csv, folder, "specimens.csv", ""), copies = int_of(a, "copies");
    if (!failed && (kind_of(images) || kind_of(csv)))
        failed = fail("'%s' already holds a data set; give the name of a new folder", folder);
    if (!failed) failed = check_weights(data) || make_folder(images) || make_folder(masks);
    page_print(&rows, "file,specimen,label,source\n");
    page_print(&boxes, "file,x0,y0,x1,y1,label\n");
    page_print(&points, "file,x,y,label\n");
    int any_boxes = 0, any_points = 0;
    for (int k = 0; !failed && k < copies * tl_dataset_count(data); k++) {
        int i = k % tl_dataset_count(data), copy = k / tl_dataset_count(data);
        if (tl_dataset_get(data, (uint32_t)copy, i, &record)) { failed = fail_tl(); break; }
        int wide = record.image.type != TL_U8;
        if (tl_augment_from(data, t, count, seed_of(a), (uint32_t)copy, i, &record, &scratch)) { failed = fail_tl(); break; }
        stem_of(record.name, base, sizeof base);
        snprintf(stem, sizeof stem, "%s_v%04d.png", base, copy);
        snprintf(picture, sizeof picture, "%s_v%04d.%s", base, copy, wide ? "tif" : "png");
        const char *const fields[] = { picture, record.specimen, tl_dataset_label_name(data, record.label) };
        for (int f = 0; f < 3; f++, page_print(&rows, ",")) page_field(&rows, fields[f]);
        page_print(&rows, "tinytl augment\n");
        failed = save_copy(&record.image, images, picture);
        if (!failed && record.mask.pixels && scale_mask(&record.mask, 2, &record.mask)) failed = fail_tl();
        if (!failed && record.mask.pixels) failed = save_as(&record.mask, masks, stem, "");
        if (!failed && record.weight.pixels) failed = make_folder(weights) || save_as(&record.weight, weights, stem, "");
        print_places(&record, picture, &boxes, &points);
        any_boxes |= record.box_count > 0;
        any_points |= record.keypoint_count > 0;
    }
    if (!failed) failed = save_page(&rows, csv);
    if (!failed && any_boxes) failed = save_page(&boxes, boxes_csv);
    if (!failed && any_points) failed = save_page(&points, points_csv);
    if (!failed)
        printf("%s in '%s'. A network that sees a fixed set often enough memorises it, and a copy must never be on the "
               "other side of a split than its image: the specimen column keeps them together. Where time allows, "
               "augment on the fly (train --augment).\n", count_of(copies * tl_dataset_count(data), "file"), images);
    page_free(&rows);
    page_free(&boxes);
    page_free(&points);
    tl_record_free(&record);
    tl_record_free(&scratch);
    return failed;
}

// ---- augment -------------------------------------------------------------------------------

static int run_augment(const arguments *a)
{
    const char *folder = text_of(a, "out"), *text = given(a, "transforms") ? text_of(a, "transforms") : text_of(a, "preset");
    char path[PATH_SIZE];
    tl_transform t[32];
    tl_physics physics;
    tl_dataset *data = NULL;
    tl_image sheet = { 0 }, each = { 0 };
    page html = { 0 };
    if (given(a, "list")) return print_lists();
    if (!folder || !a->operands) return fail("DATA and --out are needed, or --list"), 2;
    int count = pipeline_of(text, t, COUNT(t));
    if (count < 0 || physics_of(text_of(a, "physics"), &physics)) return 1;
    tl_folder_desc from = { .crop_bottom = int_of(a, "crop-bottom"), .load = load_any };
    tl_grains_desc grains = { .width = 192, .height = 192, .count = 16, .seed = 5 };
    if (!strcmp(a->operand[0], "synth")) {              // a fixed set, so that the views are views of one image
        tl_dataset *stream = tl_grains_stream(&grains);
        data = stream ? tl_cached(stream, NULL, 0, 0, 1) : NULL;
        tl_dataset_free(stream);
    } else if (!(data = tl_folder(a->operand[0], &from))) {
        from.no_masks = 1;                              // images alone will do, too
        data = tl_folder(a->operand[0], &from);
    }
    int failed = data ? make_folder(folder) : fail_tl();
    page_begin(&html, "Augmentation");
    page_print(&html, "<p class=\"soft\">");
    page_text(&html, a->operand[0]);
    page_print(&html, ", %s</p>\n", given(a, "physics") ? text_of(a, "physics") : "no physics stated");
    if (!failed) failed = save_verdicts(t, count, given(a, "physics") ? &physics : NULL, folder, &html);
    if (!failed) failed = make_view_sheet(a, data, t, count, &sheet) || save_as(&sheet, folder, "sheet.png", "");
    if (!failed) page_picture(&html, sheet.pixels, sheet.width, sheet.height, 3, "Left: as it is. Then the views of consecutive "
                              "epochs, the mask in colour, what is unknown in grey.", "");
    if (!failed && given(a, "each")) failed = make_each_sheet(&each) || save_as(&each, folder, "each.png", "");
    tl_views views = tl_count_views(t, count, data ? tl_dataset_count(data) : 0, 1, 100);
    page_print(&html, "<p>In 100 epochs a network sees %.0f views; ", views.shown);
    if (views.distinct - views.distinct == 0) page_print(&html, "at most %.0f of them can differ.</p>\n</main></html>\n", views.distinct);
    else page_print(&html, "they need never repeat.</p>\n</main></html>\n");
    if (!failed) failed = join_path(path, folder, "index.html", "") || save_page(&html, path);
    for (int i = 0; i < count && !failed && int_of(a, "copies") && given(a, "physics"); i++)
        if (tl_judge(&t[i], &physics).verdict == TL_ILLEGAL)
            failed = fail("%s is illegal for this material; training refuses it, so --copies does not write it: leave it out", tl_transform_name(t[i].kind));
    if (!failed && int_of(a, "copies")) failed = write_copies(a, data, t, count, folder);
    if (!failed) printf("written: %s, sheet.png and verdicts.csv beside it\n", path);
    page_free(&html);
    tl_image_free(&sheet);
    tl_image_free(&each);
    tl_dataset_free(data);
    return failed;
}

// ---- pages ---------------------------------------------------------------------------------

static int run_pages(const arguments *a)
{
    const char *from = a->operand[0], *folder = text_of(a, "out");
    char path[PATH_SIZE], stem[256], ending[32], why[TIFF_WHY] = "";
    tl_image image = { 0 };
    int pages = 1, failed = is_tiff(from) ? 0 : fail("'%s' is not a TIFF file", from), number;
    stem_of(from, stem, sizeof stem);
    for (number = 0; !failed && number < pages; number++) {
        snprintf(ending, sizeof ending, "_p%04d.tif", number + 1);
        if (tiff_read(from, number, &image, &pages, why)) failed = fail("%s", why);
        if (!failed) failed = make_folder(folder) || join_path(path, folder, stem, ending);
        if (!failed && tiff_write(path, &image, why)) failed = fail("%s", why);
    }
    if (!failed) printf("%s in '%s'\n", count_of(pages, "page"), folder);
    tl_image_free(&image);
    return failed;
}
