// The command-line program from outside: exit status, what it prints, and what it leaves.

#define main tinytl_main
#include "../tools/tinytl.c"
#undef main
#include "check.h"
#include "temporary.h"
#include <sys/wait.h>

static char said[65536];              // of the last run, standard output and standard error together

// Runs the program with these words in a process of its own, in the temporary folder; the exit status, -1 if it was killed.
static int run(const char *line)
{
    char words[4096], *word[64];
    const char *log = temporary_path("said.txt");
    int count = 1, status = -1;
    word[0] = words;
    snprintf(words, sizeof words, "tinytl %s", line);
    for (char *at = strchr(words, ' '); at; at = strchr(at, ' ')) {
        *at++ = 0;
        word[count++] = at;
    }
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (!freopen(log, "w", stdout) || dup2(fileno(stdout), 2) < 0 || chdir(make_temporary())) _exit(99);
        exit(tinytl_main(count, word));
    }
    if (child > 0) waitpid(child, &status, 0);
    FILE *file = fopen(log, "r");
    size_t length = file ? fread(said, 1, sizeof said - 1, file) : 0;
    said[length] = 0;
    if (file) fclose(file);
    return child > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void expect(const char *line, int status, const char *text)
{
    int got = run(line);
    CHECK(got == status && strstr(said, text), "'%s': exit status %d, not %d with '%s':\n%s", line, got, status, text, said);
}

static void write_text(const char *name, const char *text)
{
    FILE *file = fopen(temporary_path(name), "w");
    if (file) fputs(text, file);
    CHECK(file && fclose(file) == 0, "%s cannot be written", name);
}

// ---- classes of whole images ---------------------------------------------------------------

enum { INPUT = 16, IMAGES = 24, HELD = 8 };

// Stripes, narrow or wide: seen at another scale, one class looks like the other.
static void write_stripes(void)
{
    char name[64];
    page rows = { 0 };
    page_print(&rows, "file,specimen,label,source\n");
    mkdir(temporary_path("stripes"), 0777);
    mkdir(temporary_path("stripes/images"), 0777);
    for (int i = 0; i < IMAGES; i++) {
        tl_image image = { 0 };
        tl_rng rng = tl_rng_at(1, TL_RANDOM_USER, 0, (uint32_t)i, 0);
        int wide = i % 2, width = 24 + (int)tl_random_below(&rng, 40), height = 24 + (int)tl_random_below(&rng, 40);
        tl_image_alloc(&image, width, height, 1, TL_U8);
        for (int k = 0; k < width * height; k++)
            ((uint8_t *)image.pixels)[k] = (uint8_t)(90 + 60 * (k % width / (wide ? 4 : 2) % 2) + tl_random_uniform(&rng, -60, 60));
        snprintf(name, sizeof name, "stripes/images/s%02d.png", i);
        CHECK(tl_image_save(&image, temporary_path(name)) == TL_OK, "%s", tl_error(NULL));
        page_print(&rows, "s%02d.png,s%02d,%s,drawn\n", i, i, wide ? "wide" : "narrow");
        tl_image_free(&image);
    }
    CHECK(!save_page(&rows, temporary_path("stripes/specimens.csv")), "no table");
    page_free(&rows);
}

static void write_network(void)
{
    tl_net *net = tl_net_new(&(tl_net_desc){ .seed = 1 });
    tl_node x = tl_input(net, INPUT, INPUT, 1);
    x = tl_relu(net, tl_conv2d(net, x, &(tl_conv2d_desc){ .name = "conv1", .out = 6, .kernel = 5, .pad = 2 }));
    x = tl_dense(net, tl_global_avg_pool2d(net, x), &(tl_dense_desc){ .name = "fc", .out = 5 });
    CHECK(tl_save(net, temporary_path("start.safetensors")) == TL_OK, "%s", tl_error(net));
    tl_net_free(net);
}

// The number behind the last `before`, -1 if it is not there.
static double last_number(const char *before)
{
    const char *found = NULL;
    for (const char *at = said; (at = strstr(at, before)) != NULL; at += strlen(before)) found = at + strlen(before);
    return found ? strtod(found, NULL) : -1;
}

// What finetune reports of its validation images is what classify and eval say of them.
static void test_finetune_and_classify(void)
{
    char line[2048] = "classify tuned.safetensors --top 1", *at;
    char held[HELD][8];
    int right = 0, classified = 0, count = 0;
    write_stripes();
    write_network();
    write_text("fast.txt", "[all]\nlr = 3e-2\nepochs = 12\n");
    expect("finetune stripes --from start.safetensors --out tuned.safetensors --recipe fast.txt --validate 8 --batch 4 --augment none --threads 1", 0, "of 8 images");
    double reported = last_number("accuracy: "), best = -1;
    for (at = said; (at = strstr(at, "  accuracy ")) != NULL; at++) {
        double accuracy = strtod(at + 11, NULL);
        if (!strncmp(at + 16, " best", 5)) best = accuracy;
    }
    CHECK(fabs(best - reported / HELD) < 1e-3, "the best epoch says %g, the table %g of 8", best, reported);
    CHECK(reported > 4, "%g of 8 right: nothing learnt", reported);
    at = strstr(said, "validation specimen");
    for (at = at ? strchr(at, '\n') : NULL; at && count < HELD && at[1] == 's'; at = strchr(at + 1, '\n')) {
        snprintf(held[count], sizeof held[count], "%.3s", at + 1);
        snprintf(line + strlen(line), sizeof line - strlen(line), " stripes/images/%s.png", held[count++]);
    }
    CHECK(count == HELD, "%d validation specimens", count);
    expect(line, 0, "windows of 16x16");
    for (at = said; (at = strstr(at, "stripes/images/s")) != NULL; at++, classified++) {
        const char *answer = strchr(at, '\n'), *name = answer ? strstr(answer, atoi(at + 16) % 2 ? "wide" : "narrow") : NULL;
        right += name && name < strchr(answer + 1, '\n');
    }
    CHECK(classified == HELD && right == (int)reported, "classify: %d of %d right, finetune: %g", right, classified, reported);
    expect("eval tuned.safetensors stripes", 0, "of 24 images");
    expect("eval tuned.safetensors stripes --tolerance 2", 2, "--tolerance");
    expect("finetune stripes --from start.safetensors --out held.safetensors --recipe fast.txt --holdout 6 --batch 4 --augment none --threads 1", 0, "of 6 images");
    reported = last_number("accuracy: ");
    expect("eval held.safetensors stripes --holdout 6", 0, "of 6 images");
    CHECK(last_number("accuracy: ") == reported, "eval: %g right, finetune: %g", last_number("accuracy: "), reported);
}

// The same with masks: IoU of the specimens set aside, as eval says it.
static void test_finetune_masks(void)
{
    double iou, loss;
    write_text("masks.txt", "[all]\nlr = 3e-2\nepochs = 4\n");
    expect("synth grains --count 8 --size 32 --diameter 8-12", 0, "8 images");
    expect("train grains --out first.safetensors --size 32 --depth 2 --width 4 --epochs 1 --images 8 --augment none --threads 1", 0, "saved");
    expect("finetune grains --from first.safetensors --out second.safetensors --recipe masks.txt --holdout 3 --batch 4 --augment none --threads 1", 0,
           "phase 1 of 1, all: 4 epochs, AdamW");
    CHECK(strstr(said, "head: kept, 2 classes") && strstr(said, "dec1") && strstr(said, "test specimen"), "%s", said);
    const char *start = strstr(said, "  loss ");
    iou = last_number("of 3 specimens");
    loss = last_number("  loss ");
    CHECK(start && loss > 0 && loss < 0.5 * strtod(start + 7, NULL) && iou > 0.5, "nothing learnt: loss %g, IoU %g", loss, iou);
    expect("eval second.safetensors grains --holdout 3", 0, "of 3 specimens");
    CHECK(last_number("of 3 specimens") == iou, "eval: IoU %g, finetune: %g", last_number("of 3 specimens"), iou);
}

// ---- what is said ---------------------------------------------------------------------------

// A sentence that speaks of options, not of fields and functions of the library.
static void expect_plain(const char *line, int status, const char *text)
{
    static const char *const inner[] = { "tl_", "no_masks", "crop_bottom", "set classes", "leave classes", "allow_illegal", ".dense", "clip_norm" };
    expect(line, status, text);
    for (int i = 0; i < COUNT(inner); i++) CHECK(!strstr(said, inner[i]), "'%s' says '%s':\n%s", line, inner[i], said);
}

static void write_grey(const char *name, int value)
{
    tl_image image = { 0 };
    tl_image_alloc(&image, 16, 16, 1, TL_U8);
    for (int i = 0; i < 256; i++) ((uint8_t *)image.pixels)[i] = (uint8_t)(i % 5 ? 0 : value);
    CHECK(tl_image_save(&image, temporary_path(name)) == TL_OK, "%s", tl_error(NULL));
    tl_image_free(&image);
}

static int same_files(const char *a, const char *b)
{
    FILE *first = fopen(temporary_path(a), "rb"), *second = fopen(temporary_path(b), "rb");
    int x = EOF, y = x, same = first && second;
    do {
        if (same) { x = getc(first); y = getc(second); }
        same &= x == y;
    } while (same && x != EOF);
    if (first) fclose(first);
    if (second) fclose(second);
    return same;
}

static void test_sentences(void)
{
    mkdir(temporary_path("pair"), 0777);
    mkdir(temporary_path("pair/images"), 0777);
    mkdir(temporary_path("pair/masks"), 0777);
    write_grey("pair/images/a.png", 100);
    write_grey("pair/masks/a.png", 255);
    write_grey("pair/images/b.png", 100);
    write_text("pair/specimens.csv", "file,specimen,label,source\na.png,,,\nb.png,,,\n");
    expect_plain("train pair --out m.safetensors --size 16 --depth 2", 1, "add it");
    expect_plain("finetune pair --from start.safetensors --out m.safetensors", 1, "--labels");
    write_grey("pair/masks/b.png", 2);
    expect_plain("train pair --out m.safetensors --size 16 --depth 2", 1, "--classes");
    write_grey("pair/masks/b.png", 255);
    expect_plain("train pair --out m.safetensors --size 16 --depth 2 --classes 3", 1, "leave out --classes");
    expect_plain("train pair --out m.safetensors --size 16 --depth 2 --crop-bottom 16", 1, "--crop-bottom 16 leaves nothing");
    expect_plain("train pair --out m.safetensors --size 16 --depth 2 --holdout 2", 1, "--holdout");
    expect_plain("eval otsu pair --holdout 2", 1, "--holdout");
    expect_plain("train pair --out m.safetensors --size 16 --depth 2 --augment mixup", 1, "leave it out");
    expect_plain("train pair --out m.safetensors --size 16 --depth 2 --physics weld --augment flip_y", 1, "--allow-illegal");
    write_text("steep.txt", "[all]\nlr = 1e9\noptimizer = sgd\nwarmup = 1\nepochs = 9\n");
    expect("finetune stripes --from start.safetensors --out m.safetensors --recipe steep.txt --threads 1", 1, ", or clip_norm in the recipe");
    command_name = "train";
    tl__fail(NULL, TL_ERR_DIVERGED, "fit: try a lower learning rate than 0.1, or clip_norm; the weights are restored");
    CHECK(!strcmp(reason(), "fit: try a lower learning rate than 0.1 (--lr); the weights are restored"), "%s", reason());
    command_name = "";
    // usage
    expect("synth drawn --count 1 --diameter 50-20", 2, "the smaller first");
    expect("synth drawn --count 1 --line 0-20", 2, "--line");
    expect("synth  --count 1", 1, "the name of a folder is empty");       // two spaces: an empty word
    expect("synth drawn --count 1 --look sem --like any.json", 1, "exclude each other");
    expect("train pair --out m.safetensors --resume", 2, "--checkpoint");
    expect("finetune pair --from start.safetensors --out m.safetensors --resume", 2, "--checkpoint");
    expect("train pair --out m.safetensors --patience 3", 2, "--validate");
    // recipes and damaged files
    write_text("wrong.txt", "[all]\nrate = 1\n");
    expect("finetune stripes --from start.safetensors --out m.safetensors --recipe wrong.txt", 1, "'wrong.txt': recipe, line 2");
    // one is one
    expect("synth drawn --count 1 --size 32 --diameter 8-12", 0, "1 image of 32x32");
    CHECK(strstr(said, "is a blind spot of a network trained on it"), "%s", said);
    expect("train synth --out g.safetensors --size 16 --depth 2 --width 4 --epochs 1 --images 1 --look sem --threads 1", 0, "1 step,");
    expect("info g.safetensors", 0, "learnt from synthetic grains from source voronoi");
    // a failure takes away the folder that it made, and leaves that of the user
    write_text("bad.png", "no image");
    mkdir(temporary_path("kept"), 0777);
    expect("predict g.safetensors bad.png --out kept", 1, "bad.png");
    CHECK(kind_of(temporary_path("kept")) == FOLDER, "a folder of the user was removed");
    expect("predict g.safetensors bad.png --out gone/deep", 1, "bad.png");
    CHECK(kind_of(temporary_path("gone/deep")) == NOTHING, "an empty folder was left");
    expect("train drawn --out u.safetensors --size 16 --depth 2 --width 4 --epochs 1 --images 1 --augment none", 0, "1 image of 1 specimen");
    CHECK(strstr(said, "1 epoch, 1 step,"), "%s", said);
    expect("train drawn --out again.safetensors --size 16 --depth 2 --width 4 --epochs 1 --images 1 --augment none --recompute", 0, "1 image of 1 specimen");
    CHECK(same_files("u.safetensors", "again.safetensors"), "--recompute changes the result");
    expect("demo shown stripes/images/s00.png --seconds 1", 0, "shown/index.html");
    // a broken image does not keep the others from their result
    write_text("broken.png", "no image");
    expect("classify start.safetensors pair/images/a.png broken.png pair/images/b.png --size 16", 1, "2 of 3 images classified");
    CHECK(strstr(said, "broken.png") && strstr(said, "b.png\n"), "%s", said);
    expect("predict u.safetensors pair/images/a.png broken.png pair/images/b.png --out found", 1, "2 of 3 images segmented");
    CHECK(strstr(said, "broken.png") && !access(temporary_path("found/b.mask.png"), R_OK), "%s", said);
    expect_plain("predict u.safetensors stripes/images/s00.png --out found --tile 8", 1, "smallest that works is ");
}

// ---- augment -------------------------------------------------------------------------------

static void read_text(const char *name, char *text, size_t size)
{
    FILE *file = fopen(temporary_path(name), "r");
    text[file ? fread(text, 1, size - 1, file) : 0] = 0;
    CHECK(file != NULL, "no file %s", name);
    if (file) fclose(file);
}

// Copies of an image of 16 bits have 16 bits, or there are none.
static void test_wide_copies(void)
{
    char pixels[15 + 16 * 16 * 2] = "P5 16 16 65535\n", why[TIFF_WHY] = "";
    for (int i = 0; i < 16 * 16; i++) { pixels[15 + 2 * i] = (char)i; pixels[16 + 2 * i] = (char)(i * 7); }
    mkdir(temporary_path("wide"), 0777);
    mkdir(temporary_path("wide/images"), 0777);
    write_bytes(temporary_path("wide/images/a.pgm"), pixels, sizeof pixels);
#ifdef TL_HAVE_TIFF
    tl_image image = { 0 };
    expect("augment wide --transforms flip_x --copies 1 --out wider", 0, "1 file in");
    CHECK(!tiff_read(temporary_path("wider/images/a_v0000.tif"), 0, &image, NULL, why) && image.type == TL_U16, "%s", why);
    CHECK(image.pixels && ((uint16_t *)image.pixels)[0] == 15 * 256 + 15 * 7, "not the last pixel of the first row");
    tl_image_free(&image);
#else
    (void)why;
    expect_plain("augment wide --transforms flip_x --copies 1 --out wider", 1, "libtiff");
#endif
}

// The laser weld of the lectures, and a fixed set with all that belongs to an image.
static void test_augment_command(void)
{
    static const struct { const char *name, *verdict; } weld[] = {
        { "flip_x", "legal" }, { "flip_y", "ILLEGAL" }, { "rot90", "ILLEGAL" }, { "brightness", "legal" }, { "gauss_noise_grey", "legal" }
    };
    char text[4096], want[64], *at = text;
    tl_image sheet = { 0 };
    expect("augment pair --physics weld --transforms flip_x;flip_y;rot90;brightness\tshift=-0.2..0.2;gauss_noise_grey\tvariance=10..50 --images 2 --views 3 --out weld", 0,
           "2 of 5 transforms are illegal");
    read_text("weld/verdicts.csv", text, sizeof text);
    for (int i = 0; i < COUNT(weld); i++) {
        at = strchr(at, '\n');
        snprintf(want, sizeof want, "\n%s,%s,\"", weld[i].name, weld[i].verdict);
        CHECK(at && !strncmp(at++, want, strlen(want)), "not '%s' in\n%s", want + 1, text);
        if (!at) return;
    }
    CHECK(!tl_image_load(&sheet, temporary_path("weld/sheet.png")) && sheet.width > 4 * 16 && sheet.height > 2 * 16, "a sheet of %dx%d", sheet.width, sheet.height);
    CHECK(!access(temporary_path("weld/index.html"), R_OK), "no page");
    tl_image_free(&sheet);
    expect("augment pair --physics weld --preset S0-16 --out weld", 0, "1 of 5 transforms are illegal");
    expect_plain("train pair --out m.safetensors --size 16 --depth 2 --physics weld --augment S0-16", 1, "rot90");
    expect_plain("augment pair --physics weld --preset S0-16 --copies 1 --out unlawful", 1, "rot90 is illegal");
    CHECK(access(temporary_path("unlawful/images"), F_OK) != 0, "illegal copies");
    expect("augment pair --preset S0-16 --out weld", 0, "not judged");
    mkdir(temporary_path("pair/weights"), 0777);
    write_grey("pair/weights/a.png", 255);
    write_text("pair/boxes.csv", "file,x0,y0,x1,y1,label\na.png,2,3,7,8,4\n");
    write_text("pair/keypoints.csv", "file,x,y,label\na.png,2,3,1\n");
    write_text("pair/specimens.csv", "file,specimen,label,source\na.png,s1,\"pores, \"\"large\"\"\",\nb.png,s2,none,\n");
    expect("augment pair --transforms flip_x --copies 1 --out copies", 0, "2 files");
    read_text("copies/specimens.csv", text, sizeof text);
    CHECK(strstr(text, "\n\"a_v0000.png\",\"s1\",\"pores, \"\"large\"\"\",tinytl augment\n"), "%s", text);
    read_text("copies/boxes.csv", text, sizeof text);
    CHECK(!strcmp(text, "file,x0,y0,x1,y1,label\n\"a_v0000.png\",8,3,13,8,4\n"), "%s", text);
    read_text("copies/keypoints.csv", text, sizeof text);
    CHECK(!strcmp(text, "file,x,y,label\n\"a_v0000.png\",13,3,1\n"), "%s", text);
    expect("train copies --out m.safetensors --size 16 --depth 2 --width 4 --epochs 1 --images 2 --augment none", 0, "saved");
    write_text("copies/boxes.csv", "file,x0,y0,x1,y1\n\"a_v0000.png\",8,3,99,8\n");
    expect_plain("train copies --out m.safetensors --size 16 --depth 2", 1, "boxes.csv', line 2");
}

// The descriptions that come with the project draw, and so does one that was measured.
static void test_descriptions(void)
{
    static const char *const looks[] = { "etched_pitted", "noisy_film", "precipitates" };
    for (int i = 0; i < COUNT(looks); i++) {
        char path[64], line[160], json[8192];
        snprintf(path, sizeof path, "docs/looks/%s.json", looks[i]);
        FILE *file = fopen(path, "r");
        size_t length = file ? fread(json, 1, sizeof json - 1, file) : 0;
        json[length] = 0;
        CHECK(file && length > 0 && !fclose(file), "%s cannot be read", path);
        write_text("look.json", json);
        snprintf(line, sizeof line, "synth %s --count 1 --size 64 --threads 1 --like look.json", looks[i]);
        expect(line, 0, "1 image of 64x64");
    }
    expect("calibrate etched_pitted/images/grains_00000.png --out measured.json", 0, "mean relative misfit");
    expect("synth measured --count 1 --size 64 --threads 1 --like measured.json", 0, "1 image of 64x64");
    write_text("look.json", "{ \"blur\": 3 }");
    expect("synth broken --count 1 --like look.json", 1, "look.json");
}

static void test_demo(void)
{
    expect("demo shown broken.png pair/images/a.png --seconds 1", 1, "not usable yet");
    CHECK(strstr(said, "image, truth, result, comparison") && strstr(said, "broken.png"), "%s", said);
    CHECK(!access(temporary_path("shown/index.html"), R_OK) && !access(temporary_path("shown/a.mask.png"), R_OK), "%s", said);
}

#include "program_tiff.h"

int main(void)
{
    test_finetune_and_classify();
    test_descriptions();
    test_finetune_masks();
    test_sentences();
    test_augment_command();
    test_wide_copies();
    test_tiff();
    test_demo();
    remove_temporary();
    return finish("program");
}
