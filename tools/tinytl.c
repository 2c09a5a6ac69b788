// tinytl: learn to segment micrographs, from the command line.
//
//      tinytl demo build/demo                                      all of it in two minutes, with a page to look at
//      tinytl train synth --out grains.safetensors --minutes 10    learn grain boundaries from synthetic images
//      tinytl predict grains.safetensors sem.png --out result      segment an image of your own
//      tinytl help
//
// A program on top of the public interface of tinytl.h (only kernels.h, which times its parts, looks inside), so it is also
// an example of its use. In order: messages, options, files, images, networks, training, a section for each command, the table of commands, main.
// Exit status: 0, 1 (failed, one sentence on standard error), 2 (the command line was wrong).

#ifndef _POSIX_C_SOURCE
    #define _POSIX_C_SOURCE 200809L
#endif
#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>
#define TINYTL_IMPLEMENTATION
#include "../tinytl.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef TL_HAVE_TIFF
    #include <tiffio.h>
#endif
#include "report.h"
#include "tiff.h"

#define PATH_SIZE 4096
#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))
#define ENDLESS 100000          // epochs, where the time alone decides

static const char *command_name = "";      // for messages

// Prints the sentence and returns the exit status 1.
static int fail(const char *format, ...)
{
    va_list args;
    fflush(stdout);
    fprintf(stderr, "tinytl%s%s: ", *command_name ? " " : "", command_name);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return 1;
}

// What the library's sentences call a field of a description, and what a user of the program can do about it. The
// first column: the commands it is for, "" for all.
static const char *const spoken[][3] = {
    { "finetune", "or set no_masks to read images only", "or learn the label column with --labels" },
    { "", ", or set no_masks to read images only", "" }, { "", "; set no_masks to read images only", "" },
    { "train finetune", "set classes", "say how many with --classes" }, { "", " If values are class indices, set classes", "" },
    { "train finetune", "leave classes out", "leave out --classes" }, { "", "; if 255 is the foreground, leave classes out", "" },
    { "", "crop_bottom", "--crop-bottom" }, { "", "allow_illegal", "--allow-illegal" },
    { "train finetune", "tl_group_holdout: ", "--holdout, --validate: " }, { "", "tl_group_holdout: ", "--holdout: " },
    { "", "tl_dataset_range: ", "--range: " }, { "", "label_width", "--label-width" },
    { "classify", "tl_backbone_desc.channels", "--channels" }, { "", ", or open the weights for 4 (tl_backbone_desc.channels)", "" },
    { "", " (tl_backbone_desc.channels)", "" }, { "", "tl_architecture_at lists them", "'tinytl info models' lists them" },
    { "classify finetune", "Name it to see which", "Name it with --arch to see which" },
    { "predict demo", "allow more memory", "allow more with --memory" },
    { "finetune", ", or clip_norm", ", or clip_norm in the recipe" }, { "train", ", or clip_norm", " (--lr)" },
    { "", ", or clip_norm", "" }, { "", "; set .dense", "; leave it out" }, { "", "tl_augment: ", "augmentation: " }
};

// Sentences begin with the name of the function: that is left out.
static void drop_function(char *text)
{
    size_t name = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_");
    if (!strncmp(text, "tl_", 3) && !strncmp(text + name, ": ", 2)) memmove(text, text + name + 2, strlen(text + name + 2) + 1);
}

// The library's sentence in the words of the program.
static const char *reason(void)
{
    static char text[1024];
    char from[1024], *at;
    snprintf(text, sizeof text, "%s", tl_error(NULL));
    for (size_t i = 0; i < sizeof spoken / sizeof *spoken; i++) {
        if ((*spoken[i][0] && !strstr(spoken[i][0], command_name)) || !(at = strstr(text, spoken[i][1]))) continue;
        memcpy(from, text, sizeof from);
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - text), from, spoken[i][2], from + (at - text) + strlen(spoken[i][1]));
        if (strstr(spoken[i][2], spoken[i][1])) break;
    }
    drop_function(text);
    return text;
}

// The same with the library's sentence.
static int fail_tl(void) { return fail("%s", reason()); }

// "1 image", "2 images". Up to four are valid at a time.
static const char *count_of(int count, const char *what)
{
    static char text[4][64];
    static int next;
    char *to = text[next++ % 4];
    snprintf(to, sizeof text[0], "%d %s%s", count, what, count == 1 ? "" : "s");
    return to;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// ---- options -------------------------------------------------------------------------------
//
//  Every command has a table of its options. Parsing, range checks and help all read the same table.

typedef enum option_kind { FLAG, INTEGER, REAL, TEXT, SIZE, CHOICE, RANGE } option_kind;

typedef struct option {
    const char *name;
    option_kind kind;
    const char *value;        // what stands for the value in the help; CHOICE: the choices, "none|light|full"
    const char *fallback;     // default; NULL: none; REQUIRED: must be given
    double lo, hi;            // INTEGER, REAL
    const char *help;
} option;
#define REQUIRED "!"
#define OPTIONS_MAX 48          // train_options, the longest table, fits

struct arguments;
typedef struct command {
    const char *name, *operands, *summary, *text;
    int least, most;          // operands
    const option *options;    // ends with a row without a name
    int (*run)(const struct arguments *a);
} command;

typedef struct arguments {
    const command *command;
    const char *value[OPTIONS_MAX];     // in the order of command->options; NULL: not given and no default
    int given[OPTIONS_MAX];
    char **operand;
    int operands;
} arguments;

static int option_index(const command *c, const char *name, size_t length)
{
    for (int i = 0; c->options[i].name; i++)
        if (strlen(c->options[i].name) == length && !memcmp(c->options[i].name, name, length)) return i;
    return -1;
}

// The value of an option as text; NULL if it has none, also when the command has no such option.
static const char *text_of(const arguments *a, const char *name)
{
    int i = option_index(a->command, name, strlen(name));
    return i < 0 ? NULL : a->value[i];
}

static int given(const arguments *a, const char *name)
{
    int i = option_index(a->command, name, strlen(name));
    return i >= 0 && a->given[i];
}

// Values were checked while parsing, so these cannot fail. Without a value they are 0.
static double real_of(const arguments *a, const char *name)
{
    return text_of(a, name) ? strtod(text_of(a, name), NULL) : 0;
}

static int int_of(const arguments *a, const char *name) { return (int)real_of(a, name); }
static uint64_t seed_of(const arguments *a) { return (uint64_t)real_of(a, "seed"); }      // below 2^53

// The number of the text among choices "none|light|full", or -1.
static int choice_index(const char *choices, const char *text)
{
    for (int number = 0;; number++) {
        size_t length = strcspn(choices, "|");
        if (strlen(text) == length && !memcmp(text, choices, length)) return number;
        if (!choices[length]) return -1;
        choices += length + 1;
    }
}

static int choice_of(const arguments *a, const char *name)
{
    return choice_index(a->command->options[option_index(a->command, name, strlen(name))].value, text_of(a, name));
}

static int parse_size(const char *text, int *width, int *height)
{
    char *end;
    long w = strtol(text, &end, 10), h = w;
    if (end != text && *end == 'x' && isdigit((unsigned char)end[1])) h = strtol(end + 1, &end, 10);
    if (end == text || *end || w < 8 || h < 8 || w > 16384 || h > 16384) return 0;
    *width = (int)w;
    *height = (int)h;
    return 1;
}

// "40-120": two numbers above 0, the smaller first.
static int parse_range(const char *text, tl_range *range)
{
    char *end;
    range->lo = strtof(text, &end);
    range->hi = *end == '-' ? strtof(end + 1, &end) : -1;
    return *end == 0 && range->lo > 0 && range->hi >= range->lo && range->hi <= 1e6f;
}

// Says what is wrong with a value and returns 1, or 0.
static int check_value(const option *o, const char *v)
{
    char *end;
    int w, h, whole = o->kind == INTEGER;
    tl_range range;
    switch (o->kind) {
    case INTEGER: case REAL: {
        double x = strtod(v, &end);
        int good = end != v && !*end && !isspace((unsigned char)*v) && x >= o->lo && x <= o->hi;
        if (good && (!whole || !v[strspn(v, "0123456789")])) return 0;
        return fail("--%s '%s': expected a %snumber from %.15g to %.15g", o->name, v, whole ? "whole " : "",
                    o->lo, o->hi);
    }
    case SIZE:
        if (parse_size(v, &w, &h)) return 0;
        return fail("--%s '%s': expected a size such as 256 or 320x240, each side from 8 to 16384", o->name, v);
    case RANGE:
        if (parse_range(v, &range)) return 0;
        return fail("--%s '%s': expected two numbers above 0 such as 40-120, the smaller first", o->name, v);
    case CHOICE:
        return choice_index(o->value, v) < 0 ? fail("--%s '%s': expected one of %s", o->name, v, o->value) : 0;
    default:
        return *v ? 0 : fail("--%s: expected %s, but it is empty", o->name, o->value);
    }
}

// The name that begins most like this word; NULL if none begins like it. `names` has a name at the beginning of every
// `stride` bytes and ends with NULL.
static const char *nearest(const char *word, const void *names, size_t stride)
{
    const char *best = NULL, *name;
    size_t most = 0;
    for (const char *at = names; memcpy(&name, at, sizeof name), name; at += stride) {
        size_t same = 0;
        while (word[same] && word[same] == name[same]) same++;
        if (same > most) best = name;
        if (same > most) most = same;
    }
    return best;
}

// One word that begins with --, and its value. Returns 1 on a mistake.
static int parse_option(arguments *a, int count, char **words, int *at)
{
    char *name = words[*at] + 2, *equals = strchr(name, '=');
    int i = option_index(a->command, name, equals ? (size_t)(equals - name) : strlen(name));
    if (i < 0) {
        if (equals) *equals = 0;
        const char *like = nearest(name, a->command->options, sizeof(option));
        if (like) return fail("there is no option --%s; did you mean --%s?", name, like);
        return fail("there is no option --%s; 'tinytl help %s' lists the options", name, a->command->name);
    }
    const option *o = &a->command->options[i];
    const char *value = equals ? equals + 1 : NULL;
    if (o->kind == FLAG && value) return fail("--%s takes no value", o->name);
    if (o->kind == FLAG) value = "1";
    else if (!value && *at + 1 < count && strncmp(words[*at + 1], "--", 2)) value = words[++*at];
    if (!value) return fail("--%s needs a value: %s", o->name, o->value);
    if (a->given[i]) return fail("--%s is given twice", o->name);
    a->given[i] = 1;
    a->value[i] = value;
    return check_value(o, value);
}

// Fills *a from the words behind the command's name; operands move to the front of them. Returns 1 on a mistake.
static int parse_words(arguments *a, int count, char **words)
{
    const command *c = a->command;
    int only_operands = 0;
    for (int i = 0; c->options[i].name; i++)
        if (c->options[i].fallback && strcmp(c->options[i].fallback, REQUIRED)) a->value[i] = c->options[i].fallback;
    a->operand = words;
    for (int i = 0; i < count; i++) {
        int dashes = only_operands ? 0 : (int)strspn(words[i], "-");
        if (dashes == 2 && !words[i][2]) only_operands = 1;
        else if (dashes == 0 || !words[i][1]) words[a->operands++] = words[i];
        else if (dashes == 1) return fail("there is no option %s; options begin with two dashes", words[i]);
        else if (parse_option(a, count, words, &i)) return 1;
    }
    if (a->operands < c->least || a->operands > c->most)
        return fail("too %s names; usage: tinytl %s %s", a->operands < c->least ? "few" : "many", c->name, c->operands);
    for (int i = 0; c->options[i].name; i++)
        if (c->options[i].fallback && !a->value[i])
            return fail("--%s %s is missing: %s", c->options[i].name, c->options[i].value, c->options[i].help);
    return 0;
}

// ---- files and folders ---------------------------------------------------------------------

typedef enum path_kind { NOTHING, FOLDER, FILE_THERE } path_kind;

static path_kind kind_of(const char *path)
{
    struct stat s;
    return stat(path, &s) ? NOTHING : S_ISDIR(s.st_mode) ? FOLDER : FILE_THERE;
}

// path = folder/name + ending. Returns 1 on failure.
static int join_path(char path[PATH_SIZE], const char *folder, const char *name, const char *ending)
{
    size_t length = strlen(folder);
    if (!length) return fail("the name of a folder is empty");
    while (length > 1 && folder[length - 1] == '/') length--;
    int n = length < PATH_SIZE ? snprintf(path, PATH_SIZE, "%.*s/%s%s", (int)length, folder, name, ending) : PATH_SIZE;
    return n < 0 || n >= PATH_SIZE ? fail("the path '%.60s.../%.60s' is too long", folder, name) : 0;
}

static char made_folder[PATH_SIZE];       // the first one that make_folder made

// After a failure: takes away the folder if it is empty and was made here, not by the user.
static void drop_folder(const char *path)
{
    size_t length = strlen(made_folder);
    if (length && !strncmp(path, made_folder, length)) rmdir(path);
}

// Makes the folder and those above it. Returns 1 on failure.
static int make_folder(const char *path)
{
    char part[PATH_SIZE];
    size_t length = strlen(path);
    if (length >= sizeof part) return fail("the path '%.60s...' is too long", path);
    for (size_t i = 1; i <= length; i++) {
        if (path[i] && path[i] != '/') continue;
        memcpy(part, path, i);
        part[i] = 0;
        if (kind_of(part) == FILE_THERE) return fail("'%s' is a file, but a folder is needed there", part);
        if (kind_of(part) != NOTHING) continue;
        int made = mkdir(part, 0777) == 0;
        if (!made && errno != EEXIST) return fail("the folder '%s' cannot be made (%s)", part, strerror(errno));
        if (made && !made_folder[0]) memcpy(made_folder, part, i + 1);
    }
    return access(path, W_OK) ? fail("the folder '%s' cannot be written to (%s)", path, strerror(errno)) : 0;
}

// Whether a file can be written there, found out before the work and not after it. Returns 1 and says so if not.
static int check_target(const char *path)
{
    char beside[PATH_SIZE + 8];
    if (kind_of(path) == FOLDER) return fail("'%s' is a folder, but the name of a file is needed", path);
    snprintf(beside, sizeof beside, "%.*s.tmp", PATH_SIZE, path);
    FILE *file = fopen(beside, "ab");
    if (!file) return fail("'%s' cannot be written (%s)", path, strerror(errno));
    fclose(file);
    remove(beside);
    return 0;
}

// The name without folder and extension.
static void stem_of(const char *path, char *stem, size_t size)
{
    const char *slash = strrchr(path, '/');
    snprintf(stem, size, "%s", slash ? slash + 1 : path);
    char *dot = strrchr(stem, '.');
    if (dot && dot != stem) *dot = 0;
}

// In capitals too; `end` is in small letters.
static int ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    for (size_t i = 0; n >= m && i < m; i++) if (tolower((unsigned char)name[n - m + i]) != end[i]) return 0;
    return n >= m;
}

// Images by their extension, without the results of an earlier run.
static int is_input(const char *name)
{
    static const char *const results[] = { ".mask.png", ".prob.png", ".overlay.png", ".compare.png" };
    static const char *const known[] = { ".png", ".jpg", ".jpeg", ".bmp", ".tga", ".pgm", ".ppm", ".tif", ".tiff" };
    for (int i = 0; i < COUNT(results); i++) if (ends_with(name, results[i])) return 0;
    for (int i = 0; i < COUNT(known); i++) if (ends_with(name, known[i])) return name[0] != '.';
    return 0;
}

typedef struct list {
    char **item;
    int count;
} list;

static int list_add(list *l, const char *text)
{
    char **item = realloc(l->item, (size_t)(l->count + 1) * sizeof *item), *copy = malloc(strlen(text) + 1);
    if (item) l->item = item;
    if (!item || !copy) {
        free(copy);
        return fail("out of memory");
    }
    l->item[l->count++] = strcpy(copy, text);
    return 0;
}

static void list_free(list *l)
{
    for (int i = 0; i < l->count; i++) free(l->item[i]);
    free(l->item);
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

// Adds the images of a folder, or of its subfolder "images", sorted by name.
static int list_folder(const char *folder, list *inputs)
{
    char path[PATH_SIZE];
    int first = inputs->count, failed = 0;
    DIR *dir = opendir(folder);
    if (!dir) return fail("the folder '%s' cannot be read (%s)", folder, strerror(errno));
    for (struct dirent *entry; !failed && (entry = readdir(dir)) != NULL;)
        if (is_input(entry->d_name)) failed = join_path(path, folder, entry->d_name, "") || list_add(inputs, path);
    closedir(dir);
    if (!failed && inputs->count > first)
        qsort(inputs->item + first, (size_t)(inputs->count - first), sizeof *inputs->item, by_text);
    if (failed || inputs->count > first) return failed;
    if (join_path(path, folder, "images", "")) return 1;
    if (kind_of(path) == FOLDER) return list_folder(path, inputs);
    return fail("the folder '%s' has no images (png, jpg, jpeg, bmp, tga, pgm, ppm, tif, tiff)", folder);
}

// All images that the operands from `first` on name.
static int gather_inputs(const arguments *a, int first, list *inputs)
{
    for (int i = first; i < a->operands; i++) {
        path_kind kind = kind_of(a->operand[i]);
        if (kind == NOTHING) return fail("'%s' does not exist", a->operand[i]);
        if (kind == FOLDER ? list_folder(a->operand[i], inputs) : list_add(inputs, a->operand[i])) return 1;
    }
    return 0;
}

// The same for commands that write files: two of the same stem are refused, as are their results' names.
static int list_inputs(const arguments *a, int first, list *inputs)
{
    char one[256], other[256];
    if (gather_inputs(a, first, inputs)) return 1;
    for (int i = 0; i < inputs->count; i++) {
        stem_of(inputs->item[i], one, sizeof one);
        for (int j = 0; j < i; j++) {
            stem_of(inputs->item[j], other, sizeof other);
            if (!strcmp(one, other)) return fail("'%s' and '%s' would both be written to '%s.mask.png'; run them apart",
                                                 inputs->item[j], inputs->item[i], one);
        }
    }
    return 0;
}

// ---- images --------------------------------------------------------------------------------

static size_t pixels_of(const tl_image *image) { return (size_t)image->width * (size_t)image->height; }

static int is_tiff(const char *path) { return ends_with(path, ".tif") || ends_with(path, ".tiff"); }

// Any image file of one image, for folders.
static tl_result load_any(const char *path, tl_image *image, char *why)
{
    int pages = 1;
    tl_result result = is_tiff(path) ? tiff_read(path, 0, image, &pages, why) : tl_image_load(image, path);
    if (result && !is_tiff(path)) snprintf(why, TIFF_WHY, "%s", tl_error(NULL));
    if (!result && pages > 1)
        return tiff_fail(why, TL_ERR_FORMAT, "'%s' has %d pages, but a data set has one image per file; 'tinytl pages %s "
                         "--out DIR' writes them one by one", path, pages, path);
    return result;
}

static int page_count(const char *path)
{
    char why[TIFF_WHY];
    tl_image image = { 0 };
    int pages = 1;
    if (is_tiff(path) && tiff_read(path, 0, &image, &pages, why)) pages = 1;    // reading it again will say why
    tl_image_free(&image);
    return pages;
}

// Float images come in any unit: for looking at, their range becomes 0 .. 1. Values that are not finite become 0.
static void stretch(float *x, size_t count)
{
    float lo = FLT_MAX, hi = -FLT_MAX;
    for (size_t i = 0; i < count; i++) {
        if (!(x[i] - x[i] == 0)) continue;
        if (x[i] < lo) lo = x[i];
        if (x[i] > hi) hi = x[i];
    }
    for (size_t i = 0; i < count; i++) x[i] = x[i] - x[i] == 0 && hi > lo ? (x[i] - lo) / (hi - lo) : 0;
}

// Reads page `number` of an image file, cuts off the info bar, exchanges black and white.
static int read_page(const char *path, int number, const arguments *a, tl_image *image)
{
    char why[TIFF_WHY] = "";
    int crop = int_of(a, "crop-bottom");
    if (is_tiff(path) && tiff_read(path, number, image, NULL, why)) return fail("%s", why);
    if (!is_tiff(path) && tl_image_load(image, path)) return fail_tl();
    if (crop >= image->height)
        return fail("'%s' has %s; --crop-bottom %d leaves nothing", path, count_of(image->height, "row"), crop);
    image->height -= crop;                        // rows at the end: nothing has to move
    if (given(a, "invert")) invert_image(image);
    return 0;
}

static int read_image(const char *path, const arguments *a, tl_image *image) { return read_page(path, 0, a, image); }

// The image for looking at, as 8-bit RGB. 16 bits are stretched: a hundredth of the pixels is black, another white.
static tl_result make_view(const tl_image *image, tl_image *view)
{
    tl_image copy = { 0 };
    tl_result result;
    if (image->type == TL_U8) return tl_image_channels(view, image, 3);
    result = tl_image_copy(&copy, image);
    if (!result && copy.type == TL_F32) stretch(copy.pixels, pixels_of(&copy) * (size_t)copy.channels);
    if (!result) result = tl_image_convert(&copy, &copy, TL_U16);
    size_t count = result ? 0 : pixels_of(&copy) * (size_t)copy.channels, histogram[1024] = { 0 };
    uint16_t *v = copy.pixels;
    for (size_t i = 0; i < count; i++) histogram[v[i] >> 6]++;
    int lo = 0, hi = 1023;
    for (size_t below = 0; lo < 1022 && (below += histogram[lo]) < count / 100;) lo++;
    for (size_t above = 0; hi > lo + 1 && (above += histogram[hi]) < count / 100;) hi--;
    for (size_t i = 0; i < count; i++) {
        double x = (v[i] / 64.0 - lo) / (hi + 1 - lo);
        v[i] = (uint16_t)(65535 * (x < 0 ? 0 : x > 1 ? 1 : x));
    }
    if (!result) result = tl_image_convert(&copy, &copy, TL_U8);
    if (!result) result = tl_image_channels(view, &copy, 3);
    tl_image_free(&copy);
    return result;
}

// Colours that readers of any colour vision tell apart: of classes 1, 2, ... and of the comparison with the truth.
static const uint8_t class_colours[6][3] = {
    { 255, 40, 90 }, { 0, 160, 255 }, { 255, 190, 0 }, { 0, 200, 120 }, { 190, 90, 255 }, { 255, 120, 0 }
};
static const uint8_t compare_colours[3][3] = { { 255, 160, 0 }, { 220, 0, 130 }, { 0, 170, 230 } };
#define COMPARE_KEY "<span class=\"key\" style=\"background:#00aae6\"></span>found and true " \
                    "<span class=\"key\" style=\"background:#ffa000\"></span>found, not in the truth " \
                    "<span class=\"key\" style=\"background:#dc0082\"></span>missed"

// The view with the mask in colour; with a truth, found and true, found and false, and missed in three colours.
static tl_result make_overlay(const tl_image *view, const tl_image *mask, const tl_image *truth, tl_image *overlay)
{
    tl_result result = tl_image_copy(overlay, view);
    const uint8_t *m = mask->pixels, *t = truth->pixels;
    for (size_t i = 0; !result && i < pixels_of(mask); i++) {
        int kind = t ? (m[i] > 0) + 2 * (t[i] > 0 && t[i] != TL_IGNORE) : m[i];
        uint8_t *rgb = (uint8_t *)overlay->pixels + 3 * i;
        const uint8_t *colour = kind == 0 ? rgb : t ? compare_colours[kind - 1] : class_colours[(kind - 1) % 6];
        for (int c = 0; c < 3; c++) rgb[c] = (uint8_t)((rgb[c] + 3 * colour[c]) / 4);
    }
    return result;
}

// Classes as grey levels: 0 black, the last one white.
static tl_result scale_mask(const tl_image *mask, int classes, tl_image *out)
{
    tl_result result = tl_image_copy(out, mask);
    uint8_t *p = out->pixels;
    for (size_t i = 0; !result && i < pixels_of(out); i++)
        p[i] = (uint8_t)(p[i] >= classes ? 255 : p[i] * 255 / (classes - 1));
    return result;
}

// Lines of `baseline_width` pixels along Canny's edges, or along the boundaries of a watershed.
static float baseline_width = 5;

static tl_result widen(tl_image *mask)
{
    float *distance = malloc(pixels_of(mask) * sizeof *distance), half = 0.5f * baseline_width;
    tl_result result = distance ? tl_distance_squared(mask->pixels, mask->width, mask->height, distance) : TL_ERR_MEMORY;
    for (size_t i = 0; !result && i < pixels_of(mask); i++) ((uint8_t *)mask->pixels)[i] = distance[i] <= half * half;
    free(distance);
    return result;
}

static tl_result canny(const tl_image *image, tl_image *mask)
{
    tl_result result = tl_canny(image, 2, mask);
    return result ? result : widen(mask);
}

static tl_result watershed(const tl_image *image, tl_image *mask)
{
    int32_t *ids = malloc(pixels_of(image) * sizeof *ids);
    tl_world world = { 0 };
    tl_result result = ids ? tl_watershed(image, 3, 0.1f, ids, NULL) : TL_ERR_MEMORY;
    if (!result) result = tl_world_from_ids(&world, ids, image->width, image->height);
    if (!result) result = tl_world_mask(&world, TL_BOUNDARIES, baseline_width, mask);
    tl_world_free(&world);
    free(ids);
    return result;
}

// What segments in place of a network.
typedef struct baseline {
    const char *name;
    tl_result (*segment)(const tl_image *image, tl_image *mask);
} baseline;
static const baseline baselines[] = { { "otsu", tl_otsu }, { "canny", canny }, { "watershed", watershed } };
static const baseline *use_baseline = &baselines[0];

static tl_result run_baseline(const tl_image *image, tl_image *mask)
{
    tl_image grey = { 0 };
    tl_result result = tl_image_channels(&grey, image, 1);
    if (!result && grey.type == TL_F32) stretch(grey.pixels, pixels_of(&grey));
    if (!result) result = use_baseline->segment(&grey, mask);
    tl_image_free(&grey);
    return result;
}

static const baseline *find_baseline(const char *name)
{
    for (int i = 0; i < COUNT(baselines); i++) if (!strcmp(name, baselines[i].name)) return &baselines[i];
    return NULL;
}

// RGB or grey cells of one size in rows of `columns`, with white between them.
static tl_result arrange(const tl_image *cells, int count, int columns, tl_image *sheet)
{
    enum { GAP = 6 };
    int w = cells[0].width, h = cells[0].height, rows = (count + columns - 1) / columns;
    tl_result result = tl_image_alloc(sheet, columns * (w + GAP) - GAP, rows * (h + GAP) - GAP, 3, TL_U8);
    if (!result) memset(sheet->pixels, 255, pixels_of(sheet) * 3);
    for (int i = 0; !result && i < count; i++)
        for (int y = 0; y < h; y++) {
            size_t channels = (size_t)cells[i].channels, row = (size_t)(i / columns * (h + GAP) + y);
            size_t first = row * (size_t)sheet->width + (size_t)(i % columns * (w + GAP));
            const uint8_t *from = (const uint8_t *)cells[i].pixels + (size_t)y * (size_t)w * channels;
            uint8_t *to = (uint8_t *)sheet->pixels + 3 * first;
            for (int x = 0; x < w; x++, from += channels, to += 3)
                for (size_t c = 0; c < 3; c++) to[c] = from[channels == 3 ? c : 0];
        }
    return result;
}

// Everything that is made from one image.
typedef struct pictures {
    tl_image image, truth;              // input; truth without pixels: unknown
    tl_image probabilities;             // of each class
    tl_image mask, foreground;          // most probable class; probability of all but class 0, on 0 .. 255
    tl_image cell[4];                   // to look at: image, truth, result, comparison; or image, probability, overlay
} pictures;

static void pictures_free(pictures *p)
{
    tl_image *all[] = { &p->image, &p->truth, &p->probabilities, &p->mask, &p->foreground };
    for (int i = 0; i < COUNT(all); i++) tl_image_free(all[i]);
    for (int i = 0; i < COUNT(p->cell); i++) tl_image_free(&p->cell[i]);
}

static tl_result make_cells(pictures *p, int classes)
{
    tl_result result = make_view(&p->image, &p->cell[0]);
    int compare = p->truth.pixels != NULL;
    if (!result && compare) result = scale_mask(&p->truth, classes, &p->cell[1]);
    if (!result && compare) result = scale_mask(&p->mask, classes, &p->cell[2]);
    if (!result && !compare) result = tl_image_copy(&p->cell[1], &p->foreground);
    return result ? result : make_overlay(&p->cell[0], &p->mask, &p->truth, &p->cell[compare ? 3 : 2]);
}

// Segments p->image.
static tl_result segment(tl_net *net, const tl_predict_desc *desc, pictures *p)
{
    tl_result result = tl_predict(net, &p->image, desc, &p->probabilities);
    if (!result) result = tl_image_alloc(&p->mask, p->image.width, p->image.height, 1, TL_U8);
    if (!result) result = tl_image_alloc(&p->foreground, p->image.width, p->image.height, 1, TL_U8);
    int channels = p->probabilities.channels;
    const float *q = p->probabilities.pixels;
    for (size_t i = 0; !result && i < pixels_of(&p->mask); i++, q += channels) {
        int best = channels == 1 && q[0] > 0.5f;
        for (int c = 1; c < channels; c++) if (q[c] > q[best]) best = c;
        ((uint8_t *)p->mask.pixels)[i] = (uint8_t)best;
        ((uint8_t *)p->foreground.pixels)[i] = (uint8_t)(255 * (channels == 1 ? q[0] : 1 - q[0]) + 0.5f);
    }
    return result;
}

// ---- networks ------------------------------------------------------------------------------

static tl_net_desc net_desc(const arguments *a)
{
    tl_net_desc desc = { .seed = seed_of(a), .threads = int_of(a, "threads") };
    return desc;
}

// Classes of the masks; one channel means background and foreground.
static int class_count(const tl_net *net)
{
    int channels = tl_node_channels(net, tl_last(net));
    return channels < 2 ? 2 : channels;
}

// What tl_describe says; the caller frees it. NULL without memory.
static char *describe(tl_net *net, int batch)
{
    size_t size = tl_describe(net, batch, NULL, 0) + 1;
    char *text = malloc(size);
    if (text) tl_describe(net, batch, text, size);
    return text;
}

// The part of it below the table of layers: parameters, FLOPs, receptive field, memory, kernels.
static void print_summary(tl_net *net, int batch)
{
    char *text = describe(net, batch), *below = text ? strstr(text, "\nparameters:") : NULL;
    if (below) fputs(below + 1, stdout);
    free(text);
}

// A model file keeps the losses that its network was trained with.
static int has_losses(const tl_net *net)
{
    size_t size = tl_to_text(net, NULL, 0) + 1;
    char *text = malloc(size);
    if (text) tl_to_text(net, text, size);
    int found = text && strstr(text, "\nloss ");
    free(text);
    return found;
}

static void add_losses(tl_net *net)
{
    tl_node logits = tl_last(net);
    if (has_losses(net)) return;
    int single = tl_node_channels(net, logits) == 1;
    tl_loss(net, logits, &(tl_loss_desc){ .kind = single ? TL_BCE : TL_CROSS_ENTROPY });
    tl_loss(net, logits, &(tl_loss_desc){ .kind = TL_DICE });
}

// NULL after saying why.
static tl_net *new_unet(const tl_net_desc *desc, int width, int height, const tl_unet_desc *unet)
{
    tl_net *net = tl_net_new(desc);
    if (net) tl_unet(net, tl_input(net, height, width, 1), unet);
    if (net && !tl_status(net)) return net;
    fail_tl();
    tl_net_free(net);
    return NULL;
}

// The network of the file at another input size: its text with another first line, and its weights. NULL after saying
// why.
static tl_net *open_resized(const char *path, tl_net *old, const tl_net_desc *desc, int width, int height)
{
    size_t size = tl_to_text(old, NULL, 0) + TL_NAME_MAX + 64;
    char *text = malloc(size), *resized = malloc(size);
    tl_net *net = NULL;
    if (text && resized) {
        tl_to_text(old, text, size);
        const char *name = tl_node_name(old, (tl_node){ 1 }), *rest = text + strcspn(text, "\n");
        snprintf(resized, size, "%s = input() height=%d width=%d channels=1%s", name, height, width, rest);
        net = tl_net_new(desc);
    }
    tl_preprocess preprocess = tl_get_preprocess(old);
    if (net && (tl_parse(net, resized) || tl_load(net, path, NULL, NULL) || tl_set_preprocess(net, &preprocess))) {
        tl_net_free(net);
        net = NULL;
    }
    if (!net) fail_tl();
    free(text);
    free(resized);
    return net;
}

// Whether training can go on with this network, at the size asked for. The architecture is the file's; options that say
// otherwise are refused. Returns 1 after saying why not.
static int check_from(const arguments *a, const tl_net *net, const char *path, int size_w, int size_h)
{
    int depth = 0;
    char name[32] = "enc1.conv1";
    while (tl_find(net, name).id) snprintf(name, sizeof name, "enc%d.conv1", ++depth + 1);
    int width = tl_node_channels(net, tl_find(net, "enc1.conv1")), channels = tl_node_channels(net, (tl_node){ 1 });
    if (!depth || tl_node_op(net, (tl_node){ 1 }) != TL_OP_INPUT)
        return fail("'%s' is not a U-Net, so it cannot be trained on here", path);
    if (channels != 1) return fail("'%s' takes %d channels; train goes on with networks of one", path, channels);
    const char *const names[] = { "width", "depth", "classes" };
    const int values[] = { width, depth, class_count(net) };
    for (int i = 0; i < COUNT(names); i++)
        if (given(a, names[i]) && int_of(a, names[i]) != values[i])
            return fail("'%s' has --%s %d, not %d; leave it out", path, names[i], values[i], int_of(a, names[i]));
    if (given(a, "norm") || given(a, "up"))
        return fail("with --from the architecture is that of the file; leave out --norm and --up");
    int unit = 1 << depth, next_w = (size_w + unit - 1) / unit * unit, next_h = (size_h + unit - 1) / unit * unit;
    if (size_w == next_w && size_h == next_h) return 0;
    return fail("--size %dx%d: '%s' halves the image %d times, so both must be multiples of %d, for example %dx%d",
                size_w, size_h, path, depth, unit, next_w, next_h);
}

static tl_net *open_to_train(const arguments *a, const char *path, const tl_net_desc *desc)
{
    tl_net *net = tl_open(path, desc), *resized = NULL;
    if (!net) {
        fail_tl();
        return NULL;
    }
    int width = tl_node_width(net, (tl_node){ 1 }), height = tl_node_height(net, (tl_node){ 1 }), w = width, h = height;
    if (given(a, "size")) parse_size(text_of(a, "size"), &w, &h);
    int failed = check_from(a, net, path, w, h);
    if (!failed && w == width && h == height) return net;
    if (!failed) resized = open_resized(path, net, desc, w, h);
    tl_net_free(net);
    return resized;
}

// ---- training ------------------------------------------------------------------------------

static volatile sig_atomic_t stop_asked;

static void on_signal(int number)
{
    stop_asked = 1;
    signal(number, SIG_DFL);          // the second time ends the program at once
}

// What is seen of a training run while it goes on, and the curves that remain of it.
typedef struct watch {
    int    terminal;
    double shown;                     // when a line was last printed
    double (*epoch)[4];               // seconds, loss, validation loss, score
    int    count;                     // of epochs
} watch;

static void watch_epoch(watch *w, const tl_progress *p)
{
    double (*larger)[4] = realloc(w->epoch, (size_t)(w->count + 1) * sizeof *larger);
    if (!larger) return;              // a lost curve is no reason to stop
    double values[4] = { p->seconds, p->loss, p->valid_loss, p->valid_score };
    w->epoch = larger;
    memcpy(w->epoch[w->count++], values, sizeof values);
}

// On a terminal one line that changes; elsewhere a line per epoch, at most one in five seconds.
static int show_progress(void *user, const tl_progress *p)
{
    watch *w = user;
    double since = now() - w->shown;
    if (p->epoch_done) watch_epoch(w, p);
    int soon = w->terminal ? !p->epoch_done && since < 0.1 : !p->epoch_done || (since < 5 && p->epoch < p->epochs);
    if (soon) return stop_asked;
    w->shown = now();
    int left = (int)(p->seconds_left + 0.5);
    printf("%sepoch %d", w->terminal ? "\r\033[K" : "", p->epoch);
    if (p->epochs < ENDLESS) printf("/%d", p->epochs);
    if (!p->epoch_done) printf(" step %d/%d", p->step, p->steps);
    printf("  loss %.4f", p->loss);
    if (p->valid_loss - p->valid_loss == 0)       // known only at the end of an epoch
        printf("  validation %.4f  IoU %.3f%s", p->valid_loss, p->valid_score, p->best ? " best" : "");
    printf("  %.0f images/s  %d:%02d left", p->images_per_second, left / 60, left % 60);
    if (!w->terminal || p->epoch_done) putchar('\n');
    fflush(stdout);
    return stop_asked;
}

static const tl_transform augmentations[] = {
    { .kind = TL_FLIP_X, .p = 0.5f }, { .kind = TL_FLIP_Y, .p = 0.5f }, { .kind = TL_ROT90 },
    { .kind = TL_BRIGHTNESS, .p = 0.5f, .range = { -0.15f, 0.15f } },
    { .kind = TL_CONTRAST, .p = 0.5f, .range = { -0.3f, 0.3f } },
    { .kind = TL_GAUSS_NOISE, .p = 0.3f, .range = { 0.0f, 0.05f } }
};
static const int augmentation_counts[] = { 0, 3, COUNT(augmentations) };      // none, light, full

// A pipeline by name (none, light, full, a preset) or as text. Returns the number of transforms, -1 after saying what is
// wrong.
static int pipeline_of(const char *text, tl_transform *transforms, int capacity)
{
    int choice = choice_index("none|light|full", text);
    const char *preset = tl_preset(text);
    if (choice >= 0) {
        memcpy(transforms, augmentations, (size_t)augmentation_counts[choice] * sizeof *transforms);
        return augmentation_counts[choice];
    }
    int count = tl_transforms_parse(preset ? preset : text, transforms, capacity);
    if (count < 0)
        fail("'%s' is neither none, light, full nor a preset ('tinytl augment --list'), and as a pipeline: %s",
             text, reason());
    return count;
}

// What is true of the data: names joined by commas, such as "weld" or "rolled,eels". Returns 1 after saying what is wrong.
static int physics_of(const char *text, tl_physics *physics)
{
    memset(physics, 0, sizeof *physics);
    while (text && *text) {
        char name[64];
        tl_physics one;
        size_t length = strcspn(text, ",");
        snprintf(name, sizeof name, "%.*s", (int)(length < 63 ? length : 63), text);
        if (!tl_physics_named(name, &one))
            return fail("--physics: '%s' is not known; 'tinytl augment --list' shows the names", name);
        int *to = (int *)physics, *from = (int *)&one;
        for (size_t i = 0; i < offsetof(tl_physics, tilt) / sizeof(int); i++) to[i] |= from[i];
        text += length + (text[length] != 0);
    }
    return 0;
}

// The range of grey values, for the whole training set where that is asked for.
static int set_range(const arguments *a, tl_net *net, const tl_dataset *train)
{
    tl_preprocess p = tl_get_preprocess(net);
    if (!given(a, "range")) return 0;
    p.range = (tl_range_policy)choice_of(a, "range");
    p.lo = p.hi = 0;
    if (p.range == TL_RANGE_FIXED && tl_dataset_range(train, 0.5f, 99.5f, &p.lo, &p.hi)) return fail_tl();
    if (p.range == TL_RANGE_FIXED) printf("grey values %g .. %g of the full range become 0 .. 1\n", (double)p.lo, (double)p.hi);
    return tl_set_preprocess(net, &p) ? fail_tl() : 0;
}

// AdamW, warm-up over a twentieth of the run, cosine down to a hundredth of the rate.
static tl_result set_optimizer(tl_net *net, const tl_fit_desc *fit, double lr)
{
    int images = tl_dataset_count(fit->train), batch = fit->batch < images ? fit->batch : images;
    double steps = fmin(ceil((double)images / batch) * fit->epochs, 2e9);
    tl_schedule schedule = { .kind = TL_WARMUP_COSINE, .total = (int)steps, .warmup = (int)(steps / 20) };
    schedule.min_lr = (float)lr / 100;
    return tl_optimizer(net, &(tl_optimizer_desc){ .kind = TL_ADAMW, .lr = (float)lr, .schedule = schedule });
}

// Says what will happen, trains, and saves. Being stopped by the user is a success: it is what the user wanted. After
// values that are not finite the best epoch is saved, if there was one, and the status is still 1.
static int fit_and_save(tl_net *net, tl_fit_desc *fit, double lr, watch *w, const char *path)
{
    tl_fit_report report;
    if (set_optimizer(net, fit, lr)) return fail_tl();
    print_summary(net, fit->batch);
    fit->progress = show_progress;
    fit->user = w;
    w->terminal = isatty(STDOUT_FILENO);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    tl_result result = tl_fit(net, fit, &report);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    if (w->terminal && result) putchar('\n');
    int failed = result && result != TL_INTERRUPTED ? fail_tl() : 0;
    if (failed && (result != TL_ERR_DIVERGED || !report.best_epoch)) return 1;
    if (tl_save(net, path)) return fail_tl();
    printf("%s '%s' after %s, %s, %.0f s", result ? "stopped; saved the best so far as" : "saved", path,
           count_of(report.epochs, "epoch"), count_of(report.steps, "step"), report.seconds);
    if (fit->valid && report.best_epoch)
        printf("; best was epoch %d: loss %.4f, IoU %.3f", report.best_epoch, report.best_valid_loss,
               report.best_valid_score);
    printf("%s\n", report.stopped_early ? "; no better epoch came, so it ended early" : "");
    return failed;
}

// ---- synth ---------------------------------------------------------------------------------

typedef struct synth_job {
    const tl_grains_desc *grains;
    const char *folder;
    int  failed;                    // set once, by the unit that writes the sentence
    char sentence[512];
} synth_job;

static void synth_one(void *user, int unit, int worker)
{
    synth_job *job = user;
    char path[PATH_SIZE];
    tl_image image = { 0 }, mask = { 0 };
    (void)worker;
    if (__atomic_load_n(&job->failed, __ATOMIC_RELAXED)) return;
    tl_result result = tl_grains(job->grains, 0, (uint32_t)unit, NULL, &mask, &image);
    if (!result) result = scale_mask(&mask, 2, &mask);
    snprintf(path, sizeof path, "%s/images/grains_%05d.png", job->folder, unit);
    if (!result) result = tl_image_save(&image, path);
    snprintf(path, sizeof path, "%s/masks/grains_%05d.png", job->folder, unit);
    if (!result) result = tl_image_save(&mask, path);
    if (result && !__atomic_exchange_n(&job->failed, 1, __ATOMIC_RELAXED))
        snprintf(job->sentence, sizeof job->sentence, "%s", reason());
    tl_image_free(&image);
    tl_image_free(&mask);
}

// Removes what a failed run has written, so that nobody trains on half a data set.
static void synth_remove(const char *folder, int count)
{
    char path[PATH_SIZE];
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < count; i++) {
            snprintf(path, sizeof path, "%s/%s/grains_%05d.png", folder, k ? "masks" : "images", i);
            remove(path);
        }
        snprintf(path, sizeof path, "%s/%s", folder, k ? "masks" : "images");
        drop_folder(path);
    }
    drop_folder(folder);
}

static int save_page(const page *p, const char *path)
{
    const char *why;
    return page_save(p, path, &why) ? 0 : fail("'%s' cannot be written; %s", path, why);
}

// How synthetic grains shall look.
static int grains_of(const arguments *a, tl_grains_desc *grains)
{
    static const tl_range boundary[] = { { 0, 0 }, { -1, -0.5f }, { 0.5f, 1 } };      // 0: the default, both
    tl_grains_desc like = { 0 };
    if (text_of(a, "like") && given(a, "look"))
        return fail("--look and --like exclude each other: '%s' says all that a look says", text_of(a, "like"));
    if (text_of(a, "like") && tl_grains_load(&like, text_of(a, "like"))) return fail_tl();
    if (text_of(a, "like")) {
        like.width = grains->width;
        like.height = grains->height;
        like.count = grains->count;
        like.seed = grains->seed;
        *grains = like;
    }
    if (given(a, "label-width") || !text_of(a, "like")) grains->label_width = (float)real_of(a, "label-width");
    if (given(a, "look")) grains->look = (tl_look)choice_of(a, "look");
    if (given(a, "source")) grains->source = (tl_source)choice_of(a, "source");
    if (grains->source == TL_PARTICLES) grains->target = TL_PHASES;
    if (given(a, "boundaries")) grains->boundary = boundary[choice_of(a, "boundaries")];
    if (given(a, "diameter")) parse_range(text_of(a, "diameter"), &grains->diameter);
    if (given(a, "line")) parse_range(text_of(a, "line"), &grains->line);
    return 0;
}

static int run_synth(const arguments *a)
{
    const char *folder = a->operand[0];
    char images[PATH_SIZE], masks[PATH_SIZE], csv[PATH_SIZE];
    tl_grains_desc grains = { .count = int_of(a, "count"), .seed = seed_of(a) };
    if (grains_of(a, &grains)) return 1;
    parse_size(text_of(a, "size"), &grains.width, &grains.height);
    if (strlen(folder) > PATH_SIZE - 64) return fail("the path '%.60s...' is too long", folder);
    if (join_path(images, folder, "images", "") || join_path(masks, folder, "masks", "")) return 1;
    if (join_path(csv, folder, "specimens.csv", "")) return 1;
    if (kind_of(images) || kind_of(masks) || kind_of(csv))
        return fail("'%s' already holds a data set; give the name of a new folder", folder);
    double start = now();
    synth_job job = { .grains = &grains, .folder = folder };
    tl_pool *pool = tl_pool_new(int_of(a, "threads"));
    page rows = { 0 };
    int failed = make_folder(images) || make_folder(masks);
    if (!failed) tl_parallel_for(pool, grains.count, synth_one, &job);
    if (job.failed) failed = fail("%s", job.sentence);
    page_print(&rows, "file,specimen,label,source\n");
    for (int i = 0; i < grains.count; i++)
        page_print(&rows, "grains_%05d.png,grains_%05d,boundary,tinytl synth\n", i, i);
    if (!failed) failed = save_page(&rows, csv);
    if (failed) synth_remove(folder, grains.count);
    else {
        char manifest[2000];
        tl_grains_manifest(&grains, manifest, sizeof manifest);
        printf("%s of %dx%d in '%s', %.1f s\n%s\n", count_of(grains.count, "image"), grains.width, grains.height, folder,
               now() - start, manifest);
    }
    page_free(&rows);
    tl_pool_free(pool);
    return failed;
}

// ---- train ---------------------------------------------------------------------------------

// The data of a run. The first line is all that has to be freed; train and valid are two of it.
typedef struct sets {
    tl_dataset *all, *set_aside, *rest, *validation, *training, *repeated;
    const tl_dataset *train, *valid;
} sets;

static void sets_free(sets *s)
{
    tl_dataset *each[] = { s->repeated, s->training, s->validation, s->rest, s->set_aside, s->all };    // subsets first
    for (int i = 0; i < COUNT(each); i++) tl_dataset_free(each[i]);
}

// Puts `specimens` specimens into *part and the others into *rest. Returns 1 on failure.
static int cut(const tl_dataset *data, int specimens, uint64_t seed, tl_dataset **rest, tl_dataset **part)
{
    int count = tl_dataset_count(data);
    int *in = calloc((size_t)count, sizeof *in), *indices = calloc((size_t)count, sizeof *indices);
    int failed = in && indices ? 0 : fail("out of memory");
    if (!failed && tl_group_holdout(data, specimens, seed, in)) failed = fail_tl();
    for (int wanted = 0; !failed && wanted < 2; wanted++) {
        int found = 0;
        for (int i = 0; i < count; i++) if (in[i] == wanted) indices[found++] = i;
        tl_dataset **to = wanted ? part : rest;
        *to = tl_subset(data, indices, found);
        if (!*to) failed = fail_tl();
    }
    free(in);
    free(indices);
    return failed;
}

static void print_set(const char *what, const tl_dataset *data)
{
    int specimens = 0;
    for (int i = 0; i < tl_dataset_count(data); i++) {
        int j = 0;
        while (j < i && strcmp(tl_dataset_specimen(data, j), tl_dataset_specimen(data, i))) j++;
        specimens += j == i;
    }
    printf("%s: %s of %s\n", what, count_of(tl_dataset_count(data), "image"), count_of(specimens, "specimen"));
}

// A few large images make a short epoch; each is then drawn from several times, at other places.
static int repeat(sets *s, int images)
{
    int count = tl_dataset_count(s->train);
    if (images <= count) return 0;
    int *indices = malloc((size_t)images * sizeof(int));
    if (!indices) return fail("out of memory");
    for (int i = 0; i < images; i++) indices[i] = i % count;
    s->train = s->repeated = tl_subset(s->train, indices, images);
    free(indices);
    printf("each epoch takes %d pieces of them\n", images);
    return s->repeated ? 0 : fail_tl();
}

static int open_folders(const arguments *a, int classes, sets *s)
{
    int holdout = int_of(a, "holdout"), validate = int_of(a, "validate");
    tl_folder_desc desc = { .classes = classes > 2 ? classes : 0, .crop_bottom = int_of(a, "crop-bottom"), .load = load_any };
    const char *const drawn[] = { "label-width", "boundaries", "diameter", "line" };
    for (int i = 0; i < 4; i++)
        if (given(a, drawn[i])) return fail("--%s is for synthetic images; leave it out", drawn[i]), 2;
    if (validate && given(a, "valid")) return fail("--validate and --valid both name a validation set; leave out one"), 2;
    if (int_of(a, "patience") && !validate && !given(a, "valid"))
        return fail("--patience needs a validation set: --validate N or --valid DATA"), 2;
    s->train = s->all = tl_folder(a->operand[0], &desc);
    if (!s->all) return fail_tl();
    if (holdout) {
        if (cut(s->train, holdout, seed_of(a), &s->rest, &s->set_aside)) return 1;
        s->train = s->rest;
        print_set("set aside, not looked at", s->set_aside);
    }
    if (validate) {
        if (cut(s->train, validate, seed_of(a), &s->training, &s->validation)) return 1;
        s->train = s->training;
    }
    if (given(a, "valid") && !(s->validation = tl_folder(text_of(a, "valid"), &desc))) return fail_tl();
    s->valid = s->validation;
    print_set("training", s->train);
    if (s->valid) print_set("validation", s->valid);
    return repeat(s, int_of(a, "images") ? int_of(a, "images") : 64);
}

// Two streams of synthetic grains that share no image.
static int open_streams(const tl_grains_desc *desc, int validation_images, sets *s)
{
    tl_grains_desc grains = *desc;
    s->train = s->training = tl_grains_stream(&grains);
    grains.seed += UINT64_C(1) << 60;             // never the seed of a training set
    grains.count = validation_images;
    if (validation_images) s->valid = s->validation = tl_grains_stream(&grains);
    return s->train && (s->valid || !validation_images) ? 0 : fail_tl();
}

static int open_synth(const arguments *a, const tl_net *net, sets *s)
{
    tl_grains_desc grains = { .count = int_of(a, "images") ? int_of(a, "images") : 400, .seed = seed_of(a) };
    grains.width = tl_node_width(net, (tl_node){ 1 });
    grains.height = tl_node_height(net, (tl_node){ 1 });
    if (grains_of(a, &grains)) return 1;
    if (given(a, "holdout") || given(a, "validate"))
        return fail("synthetic images have no specimens; leave out --holdout and --validate"), 2;
    if (open_streams(&grains, given(a, "valid") ? 0 : 16, s)) return 1;
    tl_folder_desc desc = { .crop_bottom = int_of(a, "crop-bottom"), .load = load_any };
    if (given(a, "valid") && !(s->valid = s->validation = tl_folder(text_of(a, "valid"), &desc))) return fail_tl();
    printf("training: synthetic grains, %d new images of %dx%d an epoch\n", grains.count, grains.width, grains.height);
    return 0;
}

static tl_net *net_to_train(const arguments *a)
{
    int width, height;
    tl_net *net;
    tl_net_desc desc = net_desc(a);
    tl_unet_desc unet = { .classes = int_of(a, "classes"), .width = int_of(a, "width"), .depth = int_of(a, "depth"),
                          .norm = (tl_norm_kind)choice_of(a, "norm"), .up = (tl_up_kind)choice_of(a, "up") };
    desc.recompute = given(a, "recompute");
    parse_size(text_of(a, "size"), &width, &height);
    if (given(a, "from")) net = open_to_train(a, text_of(a, "from"), &desc);
    else net = new_unet(&desc, width, height, &unet);
    if (net) add_losses(net);
    return net;
}

static int run_train(const arguments *a)
{
    const char *out = text_of(a, "out"), *data = a->operand[0];
    sets s = { 0 };
    watch w = { 0 };
    tl_net *net = NULL;
    tl_transform transforms[32];
    tl_physics physics;
    int timed = real_of(a, "minutes") > 0 && !given(a, "epochs"), count = 0;
    if (given(a, "resume") && !given(a, "checkpoint")) return fail("--resume needs --checkpoint FILE, the run to go on with"), 2;
    int failed = check_target(out) || (count = pipeline_of(text_of(a, "augment"), transforms, 32)) < 0
                 || physics_of(text_of(a, "physics"), &physics) || !(net = net_to_train(a));
    if (!failed) failed = strcmp(data, "synth") ? open_folders(a, class_count(net), &s) : open_synth(a, net, &s);
    tl_fit_desc fit = {
        .train = s.train, .valid = s.valid, .seed = seed_of(a), .epochs = timed ? ENDLESS : int_of(a, "epochs"),
        .batch = int_of(a, "batch"), .patience = int_of(a, "patience"), .minutes = real_of(a, "minutes"),
        .augment = transforms, .augment_count = count, .physics = given(a, "physics") ? &physics : NULL,
        .allow_illegal = given(a, "allow-illegal"),
        .checkpoint = text_of(a, "checkpoint"), .resume = given(a, "resume")
    };
    if (!failed) failed = set_range(a, net, s.train);
    if (!failed) failed = fit_and_save(net, &fit, real_of(a, "lr"), &w, out);
    if (!failed && s.set_aside)
        printf("the score on what was set aside: tinytl eval %s %s --holdout %s --seed %s\n", out, data,
               text_of(a, "holdout"), text_of(a, "seed"));
    free(w.epoch);
    sets_free(&s);
    tl_net_free(net);
    return failed;
}

// ---- predict -------------------------------------------------------------------------------

static int save_as(const tl_image *image, const char *folder, const char *stem, const char *ending)
{
    char path[PATH_SIZE];
    if (join_path(path, folder, stem, ending)) return 1;
    return tl_image_save(image, path) ? fail_tl() : 0;
}

// All three results of an image, or none.
static int save_results(pictures *p, int classes, const char *folder, const char *stem)
{
    static const char *const endings[] = { ".mask.png", ".prob.png", ".overlay.png" };
    tl_image mask = { 0 };
    const tl_image *const images[] = { &mask, &p->foreground, &p->cell[2] };
    char path[PATH_SIZE];
    int failed = make_cells(p, classes) || scale_mask(&p->mask, classes, &mask) ? fail_tl() : 0, written = 0;
    while (!failed && written < COUNT(images)) {
        failed = save_as(images[written], folder, stem, endings[written]);
        written += !failed;
    }
    while (failed && written-- > 0) if (!join_path(path, folder, stem, endings[written])) remove(path);
    tl_image_free(&mask);
    return failed;
}

// Reads, segments and saves one image, or page `number` of a file that has several (else -1); its pictures stay with the
// caller.
static int predict_one(tl_net *net, const char *path, int number, const arguments *a, const char *folder,
                       pictures *p)
{
    char stem[256];
    tl_predict_desc desc = { .memory = (size_t)int_of(a, "memory") << 20, .tile = int_of(a, "tile") };
    double start = now();
    if (read_page(path, number < 0 ? 0 : number, a, &p->image)) return 1;
    double loaded = now();
    if (segment(net, &desc, p)) return fail("'%s': %s", path, reason());
    double segmented = now();
    stem_of(path, stem, sizeof stem - 16);
    if (number >= 0) snprintf(stem + strlen(stem), 16, "_p%04d", number + 1);
    if (save_results(p, class_count(net), folder, stem)) return 1;
    size_t above = 0;
    for (size_t i = 0; i < pixels_of(&p->mask); i++) above += ((const uint8_t *)p->mask.pixels)[i] > 0;
    printf("%s: %dx%d, %.1f %% foreground, read in %.3f s, segmented in %.3f s, written in %.3f s\n", path,
           p->image.width, p->image.height, 100.0 * (double)above / (double)pixels_of(&p->mask), loaded - start,
           segmented - loaded, now() - segmented);
    fflush(stdout);
    return 0;
}

static int run_predict(const arguments *a)
{
    const char *folder = text_of(a, "out");
    list inputs = { 0 };
    tl_net *net = NULL;
    tl_net_desc desc = net_desc(a);
    int failed = list_inputs(a, 1, &inputs), wrong = 0;
    if (!failed && !(net = tl_open(a->operand[0], &desc))) failed = fail_tl();
    if (!failed) failed = make_folder(folder);
    int images = 0;
    for (int i = 0; !failed && i < inputs.count; i++) {       // a bad image does not keep the others from their result
        int pages = page_count(inputs.item[i]);
        for (int number = 0; number < pages; number++, images++) {
            pictures p = { 0 };
            wrong += predict_one(net, inputs.item[i], pages > 1 ? number : -1, a, folder, &p);
            pictures_free(&p);
        }
    }
    if (!failed && wrong == images) drop_folder(folder);
    else if (!failed) printf("%d of %s segmented; see '%s'\n", images - wrong, count_of(images, "image"), folder);
    list_free(&inputs);
    tl_net_free(net);
    return failed || wrong;
}

// ---- eval ----------------------------------------------------------------------------------

enum { IOU, DICE, BOUNDARY_F1, SCORES };

typedef struct row {
    char   name[TL_NAME_MAX], specimen[TL_NAME_MAX];
    double score[SCORES];
    int    images;                  // 1 for an image, more for a specimen
    tl_image mask;                  // found
} row;

typedef struct table {
    row *images, *specimens;
    int  image_count, specimen_count;
    double mean[SCORES], deviation[SCORES], error[SCORES];    // over specimens
} table;

static void table_free(table *t)
{
    for (int i = 0; i < t->image_count && t->images; i++) tl_image_free(&t->images[i].mask);
    free(t->images);
    free(t->specimens);
}

// Means per specimen, then over specimens: images of one specimen are no independent evidence.
static void summarise(table *t)
{
    for (int i = 0; i < t->image_count; i++) {
        int k = 0;
        while (k < t->specimen_count && strcmp(t->specimens[k].specimen, t->images[i].specimen)) k++;
        row *specimen = &t->specimens[k];
        if (k == t->specimen_count) t->specimen_count++;
        memcpy(specimen->specimen, t->images[i].specimen, TL_NAME_MAX);
        specimen->images++;
        for (int s = 0; s < SCORES; s++) specimen->score[s] += t->images[i].score[s];
    }
    for (int s = 0; s < SCORES; s++) {
        double sum = 0, squares = 0, n = t->specimen_count;
        for (int k = 0; k < t->specimen_count; k++) sum += t->specimens[k].score[s] /= t->specimens[k].images;
        t->mean[s] = sum / n;
        for (int k = 0; k < t->specimen_count; k++) squares += pow(t->specimens[k].score[s] - t->mean[s], 2);
        t->deviation[s] = n > 1 ? sqrt(squares / (n - 1)) : 0;
        t->error[s] = t->deviation[s] / sqrt(n);
    }
}

// The image and the truth of one example; its name and specimen, too, where `named` is not NULL.
static tl_result take_record(const tl_dataset *data, int index, pictures *p, row *named)
{
    tl_record record;
    memset(&record, 0, sizeof record);
    tl_result result = tl_dataset_get(data, 0, index, &record);
    if (named) memcpy(named->name, record.name, TL_NAME_MAX);
    if (named) memcpy(named->specimen, record.specimen, TL_NAME_MAX);
    p->image = record.image;
    p->truth = record.mask;
    return result;
}

// Scores one example. net NULL: Otsu's threshold instead.
static tl_result score_one(tl_net *net, const tl_dataset *data, int index, double tolerance, row *out)
{
    pictures p = { 0 };
    tl_score score;
    out->images = 1;
    tl_result result = take_record(data, index, &p, out);
    if (!result) result = net ? segment(net, NULL, &p) : run_baseline(&p.image, &p.mask);
    if (!result) result = tl_compare_masks(&p.mask, &p.truth, tolerance, &score);
    if (!result) result = tl_image_copy(&out->mask, &p.mask);
    pictures_free(&p);
    if (result) return result;
    out->score[IOU] = score.iou;
    out->score[DICE] = score.dice;
    out->score[BOUNDARY_F1] = score.boundary_f1;
    return TL_OK;
}

static int score_all(tl_net *net, const tl_dataset *data, double tolerance, table *t)
{
    t->image_count = tl_dataset_count(data);
    t->images = calloc((size_t)t->image_count, sizeof *t->images);
    t->specimens = calloc((size_t)t->image_count, sizeof *t->specimens);
    if (!t->images || !t->specimens) return fail("out of memory");
    for (int i = 0; i < t->image_count; i++) if (score_one(net, data, i, tolerance, &t->images[i])) return fail_tl();
    summarise(t);
    return 0;
}

static void print_row(const char *name, const char *more, const double *score)
{
    printf("%-32s %-20s %8.3f %8.3f %8.3f\n", name, more, score[IOU], score[DICE], score[BOUNDARY_F1]);
}

static void print_table(const table *t, double tolerance)
{
    char more[64];
    printf("%-32s %-20s %8s %8s %8s (within %g px)\n", "image", "specimen", "IoU", "Dice", "bound.F1", tolerance);
    for (int i = 0; i < t->image_count; i++) print_row(t->images[i].name, t->images[i].specimen, t->images[i].score);
    printf("\n");
    for (int k = 0; k < t->specimen_count; k++) {
        snprintf(more, sizeof more, "mean of %d", t->specimens[k].images);
        print_row(t->specimens[k].specimen, more, t->specimens[k].score);
    }
    snprintf(more, sizeof more, "of %s", count_of(t->specimen_count, "specimen"));
    printf("\n");
    print_row("mean", more, t->mean);
    if (t->specimen_count > 1) print_row("standard deviation", "over specimens", t->deviation);
    if (t->specimen_count > 1) print_row("standard error of the mean", "over specimens", t->error);
}

static void page_row(page *p, const char *name, const double *score, const char *attribute)
{
    page_print(p, "<tr%s><td>", attribute);
    page_text(p, name);
    page_print(p, "</td><td>%.3f</td><td>%.3f</td><td>%.3f</td></tr>\n", score[IOU], score[DICE], score[BOUNDARY_F1]);
}

static void page_table(page *p, const table *t, double tolerance)
{
    page_print(p, "<div class=\"card\"><table><tr><th>specimen</th><th>IoU</th><th>Dice</th>"
               "<th>boundary F1 (%g px)</th></tr>\n", tolerance);
    for (int k = 0; k < t->specimen_count; k++) page_row(p, t->specimens[k].specimen, t->specimens[k].score, "");
    page_row(p, "mean over specimens", t->mean, " class=\"sum\"");
    if (t->specimen_count > 1) page_row(p, "standard deviation", t->deviation, "");
    if (t->specimen_count > 1) page_row(p, "standard error of the mean", t->error, "");
    page_print(p, "</table></div>\n");
}

// A picture of image, truth, result and comparison, saved as PNG and, where `to` is not NULL, put on that page.
static int show_example(const tl_dataset *data, int index, const row *scored, int classes, const char *folder, page *to)
{
    char stem[256], caption[512];
    pictures p = { 0 };
    tl_image sheet = { 0 };
    stem_of(scored->name, stem, sizeof stem);
    tl_result result = take_record(data, index, &p, NULL);
    if (!result) result = tl_image_copy(&p.mask, &scored->mask);
    if (!result) result = make_cells(&p, classes);
    if (!result) result = arrange(p.cell, 4, 4, &sheet);
    int failed = result ? fail_tl() : save_as(&sheet, folder, stem, ".compare.png");
    snprintf(caption, sizeof caption, "%s, %s: IoU %.3f, Dice %.3f, boundary F1 %.3f", stem, scored->specimen,
             scored->score[IOU], scored->score[DICE], scored->score[BOUNDARY_F1]);
    if (!failed && to) page_picture(to, sheet.pixels, sheet.width, sheet.height, 3, caption, "");
    tl_image_free(&sheet);
    pictures_free(&p);
    return failed;
}

static int save_scores(const table *t, const char *folder)
{
    page csv = { 0 };
    char path[PATH_SIZE];
    page_print(&csv, "file,specimen,iou,dice,boundary_f1\n");
    for (int i = 0; i < t->image_count; i++) {
        const row *r = &t->images[i];
        page_field(&csv, r->name);
        page_print(&csv, ",");
        page_field(&csv, r->specimen);
        page_print(&csv, ",%.6f,%.6f,%.6f\n", r->score[IOU], r->score[DICE], r->score[BOUNDARY_F1]);
    }
    int failed = join_path(path, folder, "scores.csv", "") || save_page(&csv, path);
    page_free(&csv);
    return failed;
}

// The image with the lowest IoU that has not been shown.
static int worst(const table *t, const char *shown)
{
    int at = -1;
    for (int i = 0; i < t->image_count; i++)
        if (!shown[i] && (at < 0 || t->images[i].score[IOU] < t->images[at].score[IOU])) at = i;
    return at;
}

// The folder of an evaluation: scores.csv, a picture of each image, and a page with the scores and the twelve worst.
static int save_eval(const arguments *a, const table *t, const tl_dataset *data, int classes)
{
    const char *folder = text_of(a, "out");
    char path[PATH_SIZE], *shown = calloc((size_t)t->image_count, 1);
    page html = { 0 };
    int failed = !shown || make_folder(folder) || save_scores(t, folder) || join_path(path, folder, "index.html", "");
    page_begin(&html, "Evaluation");
    page_print(&html, "<p class=\"soft\">");
    page_text(&html, a->operand[0]);
    page_print(&html, " on ");
    page_text(&html, a->operand[1]);
    page_print(&html, "</p>\n");
    page_table(&html, t, real_of(a, "tolerance"));
    page_print(&html, "<h2>The worst first</h2>\n<p>Image, truth, result, comparison: " COMPARE_KEY "</p>\n");
    for (int k = 0; !failed && k < t->image_count; k++) {
        int i = worst(t, shown);
        shown[i] = 1;
        failed = show_example(data, i, &t->images[i], classes, folder, k < 12 ? &html : NULL);
    }
    page_print(&html, "</main></html>\n");
    if (!failed) failed = save_page(&html, path);
    if (!failed) printf("\nsee %s\n", path);
    page_free(&html);
    free(shown);
    return failed;
}

static int eval_labels(const arguments *a, tl_net *net);

static int run_eval(const arguments *a)
{
    table t = { 0 };
    sets s = { 0 };
    tl_net *net = NULL;
    tl_net_desc desc = net_desc(a);
    double tolerance = real_of(a, "tolerance");
    if (find_baseline(a->operand[0])) use_baseline = find_baseline(a->operand[0]);
    else if (!(net = tl_open(a->operand[0], &desc))) return fail_tl();
    if (net && tl_node_height(net, tl_last(net)) * tl_node_width(net, tl_last(net)) == 1) {
        int status = eval_labels(a, net);
        tl_net_free(net);
        return status;
    }
    baseline_width = (float)real_of(a, "label-width");
    int classes = net ? class_count(net) : 2;
    tl_folder_desc from = { .classes = classes > 2 ? classes : 0, .crop_bottom = int_of(a, "crop-bottom"), .load = load_any };
    s.all = tl_folder(a->operand[1], &from);
    int failed = s.all ? 0 : fail_tl();
    if (!failed && int_of(a, "holdout")) failed = cut(s.all, int_of(a, "holdout"), seed_of(a), &s.rest, &s.set_aside);
    const tl_dataset *data = s.set_aside ? s.set_aside : s.all;
    if (!failed) failed = score_all(net, data, tolerance, &t);
    if (!failed) print_table(&t, tolerance);
    if (!failed && given(a, "out")) failed = save_eval(a, &t, data, classes);
    table_free(&t);
    sets_free(&s);
    tl_net_free(net);
    return failed;
}

// ---- classify ------------------------------------------------------------------------------

#include "classify.h"

// ---- calibrate, measure --------------------------------------------------------------------

#include "grains.h"

// ---- finetune ------------------------------------------------------------------------------

#include "finetune.h"

// ---- bench ---------------------------------------------------------------------------------

#include "kernels.h"

// ---- augment -------------------------------------------------------------------------------

#include "augment.h"

// ---- info ----------------------------------------------------------------------------------

static int build_named(const arguments *a, tl_net *net, const char *name)
{
    const tl_architecture *published = tl_architecture_named(name);
    int unet = !strcmp(name, "unet"), lenet = !strcmp(name, "lenet5"), mlp = !strcmp(name, "mlp");
    int width = published ? published->size : unet ? 256 : 28, height = width, widths[16];
    int layers = given(a, "depth") ? int_of(a, "depth") : 2;
    int classes = given(a, "classes") ? int_of(a, "classes") : published ? 0 : unet ? 2 : 10;
    if (!unet && !lenet && !mlp && !published)
        return fail("'%s' is neither a model file nor an architecture; 'tinytl info models' lists those", name);
    if (given(a, "size")) parse_size(text_of(a, "size"), &width, &height);
    tl_node x = tl_input(net, height, width, published ? 3 : 1);
    for (int i = 0; i < layers; i++) widths[i] = given(a, "width") ? int_of(a, "width") : 128;
    widths[layers] = classes;
    tl_unet_desc desc = { .classes = classes, .width = int_of(a, "width"), .depth = int_of(a, "depth") };
    tl_backbone_desc backbone = { .name = name, .classes = classes, .stages = int_of(a, "stages") };
    if (published) tl_backbone(net, x, &backbone);
    else if (unet) tl_unet(net, x, &desc);
    else if (lenet) tl_lenet5(net, x, classes);
    else tl_mlp(net, x, widths, layers + 1);
    return tl_status(net) ? fail_tl() : 0;
}

static int print_models(void)
{
    printf("%-14s %6s %8s %7s %11s  %s\n", "name", "input", "classes", "stages", "parameters", "source");
    for (int i = 0; i < tl_architecture_count(); i++) {
        const tl_architecture *m = tl_architecture_at(i);
        printf("%-14s %6d %8d %7d %11zu  %s\n", m->name, m->size, m->classes, m->stages, m->parameters, m->source);
    }
    printf("and unet, lenet5, mlp, of any size\n");
    return 0;
}

static void print_tensors(tl_net *net)
{
    tl_preprocess p = tl_get_preprocess(net);
    if (p.range != TL_RANGE_FULL)
        printf("grey values: %g .. %g %s become 0 .. 1\n", (double)(p.lo == p.hi ? 0.5f : p.lo),
               (double)(p.lo == p.hi ? 99.5f : p.hi), p.range == TL_RANGE_IMAGE ? "% of each image" : "of the full range");
    if (*tl_augmentation(net)) printf("%s\n", tl_augmentation(net));
    if (*tl_notes(net)) printf("learnt from %s\n", tl_notes(net));
    printf("\n%-32s %-14s %10s %10s %10s\n", "tensor", "shape", "values", "mean", "deviation");
    for (int i = 0; i < tl_tensor_count(net); i++) {
        tl_tensor t = tl_tensor_at(net, i);
        char shape[64] = "";
        double sum = 0, squares = 0, n = (double)t.count;
        for (int k = 0, used = 0; k < t.rank; k++)
            used += snprintf(shape + used, sizeof shape - (size_t)used, "%s%d", k ? "x" : "", t.dim[k]);
        for (size_t k = 0; k < t.count; k++) sum += (double)t.data[k];
        for (size_t k = 0; k < t.count; k++) squares += pow((double)t.data[k] - sum / n, 2);
        printf("%-32s %-14s %10zu %10.4g %10.4g%s\n", t.name, shape, t.count, sum / n, sqrt(squares / n),
               t.trained ? "" : "  running");
    }
}

static int run_info(const arguments *a)
{
    const char *name = a->operand[0];
    int is_file = kind_of(name) != NOTHING;
    tl_pretrained info;
    if (!is_file && !strcmp(name, "models")) return print_models();
    tl_net *net = is_file ? tl_open_pretrained(name, NULL, NULL, &info) : tl_net_new(NULL);
    int failed = !net ? fail_tl() : is_file ? 0 : build_named(a, net, name);
    if (!failed) tl_optimizer(net, &(tl_optimizer_desc){ .kind = TL_ADAMW, .lr = 1e-3f });    // its moments need memory
    char *text = failed ? NULL : describe(net, int_of(a, "batch"));
    if (text) fputs(text, stdout);
    if (text && is_file) print_pretrained(name, net, &info);
    else if (text && tl_architecture_named(name)) print_preprocess(net);
    if (text && is_file) print_tensors(net);
    free(text);
    tl_net_free(net);
    return failed;
}

// ---- demo ----------------------------------------------------------------------------------

enum { DEMO_IMAGES = 12, DEMO_ROWS = 4, DEMO_SIZE = 128, DEMO_BATCH = 8 };
#define DEMO_USABLE 0.4        // IoU on images never seen

typedef struct demo {
    const arguments *a;
    const char *folder;
    tl_net *net;
    sets    data;                  // train and valid; all: images that training never sees
    watch   w;
    table   scores, otsu_scores;
    tl_image sheet;
    page    html;
} demo;

static int demo_train(demo *d, const char *model)
{
    tl_net_desc desc = net_desc(d->a);
    tl_grains_desc grains = { .width = DEMO_SIZE, .height = DEMO_SIZE, .count = 160, .seed = seed_of(d->a) };
    tl_unet_desc unet = { .classes = 2, .width = 8, .depth = 4 };
    if (!(d->net = new_unet(&desc, DEMO_SIZE, DEMO_SIZE, &unet)) || open_streams(&grains, 16, &d->data)) return 1;
    add_losses(d->net);
    tl_fit_desc fit = { .train = d->data.train, .valid = d->data.valid, .epochs = ENDLESS, .batch = DEMO_BATCH,
                        .seed = grains.seed, .minutes = real_of(d->a, "seconds") / 60 };
    return fit_and_save(d->net, &fit, 3e-3, &d->w, model);
}

// Scores the network and Otsu's threshold on images of another seed, larger than those of the training and not square.
static int demo_score(demo *d)
{
    tl_image cells[4 * DEMO_ROWS];
    memset(cells, 0, sizeof cells);
    uint64_t other_seed = seed_of(d->a) + (UINT64_C(1) << 61);
    tl_grains_desc grains = { .width = 416, .height = 304, .count = DEMO_IMAGES, .seed = other_seed };
    if (!(d->data.all = tl_grains_stream(&grains))) return fail_tl();
    if (score_all(d->net, d->data.all, 3, &d->scores) || score_all(NULL, d->data.all, 3, &d->otsu_scores)) return 1;
    tl_result result = TL_OK;
    for (int i = 0; !result && i < DEMO_ROWS; i++) {
        pictures p = { 0 };
        result = take_record(d->data.all, i, &p, NULL);
        if (!result) result = tl_image_copy(&p.mask, &d->scores.images[i].mask);
        if (!result) result = make_cells(&p, 2);
        for (int k = 0; !result && k < 4; k++) result = tl_image_copy(&cells[4 * i + k], &p.cell[k]);
        pictures_free(&p);
    }
    if (!result) result = arrange(cells, 4 * DEMO_ROWS, 4, &d->sheet);
    for (int i = 0; i < 4 * DEMO_ROWS; i++) tl_image_free(&cells[i]);
    const double *u = d->scores.mean, *o = d->otsu_scores.mean;
    printf("on %d images never seen: IoU %.3f, Dice %.3f, boundary F1 %.3f (Otsu's threshold: %.3f, %.3f, %.3f)\n",
           DEMO_IMAGES, u[IOU], u[DICE], u[BOUNDARY_F1], o[IOU], o[DICE], o[BOUNDARY_F1]);
    if (u[IOU] < DEMO_USABLE)
        printf("this network is not usable yet: in %.0f s it came to %s only; give it more time with --seconds %.0f, or end "
               "what else runs on this machine\n", real_of(d->a, "seconds"), count_of(tl_step_count(d->net), "step"),
               4 * real_of(d->a, "seconds"));
    return result ? fail_tl() : 0;
}

static void demo_results(demo *d)
{
    page *p = &d->html;
    const page_curve loss[2] = { { "training", "var(--b)", 1 }, { "validation", "var(--a)", 2 } };
    const page_curve score = { "validation", "var(--a)", 3 };
    page_begin(p, "Grain boundaries, learnt from drawn grains");
    page_print(p, "<p>A U-Net of %zu parameters was trained for %.0f seconds on this machine, on synthetic micrographs "
               "drawn while it learnt: every one new, every label exact. Here it segments synthetic images that "
               "it has never seen, larger than those it learnt from.</p>\n", tl_parameter_count(d->net),
               d->w.count ? d->w.epoch[d->w.count - 1][0] : 0);
    page_picture(p, d->sheet.pixels, d->sheet.width, d->sheet.height, 3, "Image, truth, result, comparison: ",
                 COMPARE_KEY);
    page_print(p, "<h2>Scores</h2>\n<div class=\"card\"><table><tr><th>mean of %d such images</th><th>IoU</th>"
               "<th>Dice</th><th>boundary F1 (3 px)</th></tr>\n", DEMO_IMAGES);
    page_row(p, "U-Net", d->scores.mean, " class=\"sum\"");
    page_row(p, "standard error", d->scores.error, "");
    page_row(p, "Otsu's threshold, for orientation", d->otsu_scores.mean, "");
    page_print(p, "</table></div>\n<p class=\"soft\">IoU and Dice count pixels. Boundary F1 forgives a shift of three "
               "pixels.</p>\n<h2>Training</h2>\n<div class=\"two\">\n");
    page_plot(p, "loss (cross-entropy + Dice) over seconds", d->w.epoch, d->w.count, loss, 2);
    page_plot(p, "IoU of the boundary over seconds", d->w.epoch, d->w.count, &score, 1);
    page_print(p, "</div>\n");
}

// Images of the user's own: segmented, saved, and put on the page.
static int demo_images(demo *d, const list *inputs)
{
    int wrong = 0;
    if (inputs->count) page_print(&d->html, "<h2>Your images</h2>\n");
    for (int i = 0; i < inputs->count; i++) {         // a bad image does not keep the others from their result
        pictures p = { 0 };
        tl_image sheet = { 0 };
        int failed = predict_one(d->net, inputs->item[i], -1, d->a, d->folder, &p);
        if (!failed && arrange(p.cell, 3, 3, &sheet)) failed = fail_tl();
        if (!failed) page_picture(&d->html, sheet.pixels, sheet.width, sheet.height, 3, inputs->item[i],
                                  ": image, probability, result");
        wrong += failed;
        tl_image_free(&sheet);
        pictures_free(&p);
    }
    return wrong;
}

static void demo_next(demo *d, const char *model)
{
    static const char text[] =
        " sem.png --out result --crop-bottom 60\n\n"
        "# train longer, with a wider network\n"
        "tinytl train synth --out grains.safetensors --minutes 15\n\n"
        "# go on with labelled images in DATA/images, DATA/masks, DATA/specimens.csv; keep 4 specimens for the test\n"
        "tinytl train DATA --from grains.safetensors --out mine.safetensors --minutes 10 --holdout 4\n"
        "tinytl eval mine.safetensors DATA --holdout 4 --out scores</pre>\n"
        "<p class=\"soft\">The network knows drawn grains only. Boundaries that look like none of them will be missed; "
        "a few labelled images of your own help then.</p>\n</main></html>\n";
    page_print(&d->html, "<h2>How to go on</h2>\n<pre># segment your own images, without an info bar of 60 rows\n"
               "tinytl predict ");
    page_text(&d->html, model);
    page_bytes(&d->html, text, sizeof text - 1);
}

static int run_demo(const arguments *a)
{
    demo d = { .a = a, .folder = a->operand[0] };
    char model[PATH_SIZE], sheet[PATH_SIZE], html[PATH_SIZE];
    list inputs = { 0 };
    int wrong = 0, failed = list_inputs(a, 1, &inputs) || make_folder(d.folder)
                 || join_path(model, d.folder, "grains.safetensors", "") || join_path(sheet, d.folder, "sheet.png", "")
                 || join_path(html, d.folder, "index.html", "") || check_target(model) || demo_train(&d, model)
                 || demo_score(&d);
    if (failed) drop_folder(d.folder);
    if (!failed) {
        demo_results(&d);
        wrong = demo_images(&d, &inputs);
        demo_next(&d, model);
    }
    if (!failed && tl_image_save(&d.sheet, sheet)) failed = fail_tl();
    if (!failed) failed = save_page(&d.html, html);
    if (!failed) printf("written: %s, %s, %s\nthe sheet, from left to right: image, truth, result, comparison (blue: found "
                        "and true, orange: found, not in the truth, magenta: missed)\n", model, sheet, html);
    list_free(&inputs);
    table_free(&d.scores);
    table_free(&d.otsu_scores);
    tl_image_free(&d.sheet);
    sets_free(&d.data);
    free(d.w.epoch);
    page_free(&d.html);
    tl_net_free(d.net);
    return failed || wrong;
}

// ---- the table of commands -----------------------------------------------------------------

static int run_help(const arguments *a);

#define THREADS { "threads", INTEGER, "N", "0", 0, 256, "threads; 0: one per processor" }
#define SEED(what) { "seed", INTEGER, "K", "1", 0, 1e15, what }
#define CROP { "crop-bottom", INTEGER, "ROWS", "0", 0, 65535, "rows of pixels to cut off below, an info bar" }
#define MEMORY { "memory", INTEGER, "MB", "1024", 1, 1e6, "limit of the activations; larger images are cut into tiles" }
#define TILE { "tile", INTEGER, "PIXELS", "0", 0, 16384, "side of the tiles; 0: as large as the memory allows" }
#define INVERT { "invert", FLAG, NULL, NULL, 0, 0, "exchange black and white first" }
#define GRAINS(who) \
    { "boundaries", CHOICE, "any|dark|bright", "any", 0, 0, who "dark or bright lines on the grains" }, \
    { "diameter", RANGE, "LO-HI", NULL, 0, 0, who "grain diameters in pixels" }, \
    { "line", RANGE, "LO-HI", NULL, 0, 0, who "widths of the drawn boundaries in pixels" }, \
    { "look", CHOICE, "any|etched|sem|polarised|tem", "any", 0, 0, who "the instrument; any: another in each image" }, \
    { "source", CHOICE, "voronoi|potts|phase_field|spinodal|particles", "voronoi", 0, 0, who "where grains come from" }, \
    { "like", TEXT, "FILE", NULL, 0, 0, who "a description from 'calibrate', instead of --look; what other options say counts more" }
#define END { NULL, FLAG, NULL, NULL, 0, 0, NULL }

static const option synth_options[] = {
    { "count", INTEGER, "N", "100", 1, 99999, "images" },
    { "size", SIZE, "S|WxH", "256", 0, 0, "pixels" },
    { "label-width", REAL, "PIXELS", "0", 0, 100, "width of the boundaries in the masks; 0: as drawn, at least 5" },
    GRAINS(""),
    SEED("another seed gives other grains"), THREADS, END
};
static const option train_options[] = {
    { "out", TEXT, "MODEL", REQUIRED, 0, 0, "file to write the model to" },
    { "from", TEXT, "MODEL", NULL, 0, 0, "go on from the architecture and the weights of this file" },
    { "epochs", INTEGER, "N", "40", 1, ENDLESS - 1, "passes over the training set" },
    { "minutes", REAL, "M", "0", 0, 1e5, "stop after this time; 0: no limit. Without --epochs it alone decides" },
    { "images", INTEGER, "N", "0", 0, 1e6, "images in an epoch; 0: 400 (synth), all and at least 64 (folder)" },
    { "batch", INTEGER, "N", "8", 1, 4096, "images in one step" },
    { "lr", REAL, "RATE", "0.002", 1e-9, 10, "learning rate of AdamW; warm-up, then cosine" },
    { "size", SIZE, "S|WxH", "128", 0, 0, "pixels of the pieces to learn from; divisible by 2^depth" },
    { "width", INTEGER, "N", "16", 1, 4096, "channels of the first level, doubled at each" },
    { "depth", INTEGER, "N", "4", 1, 10, "how many times the image is halved" },
    { "classes", INTEGER, "N", "2", 2, 250, "above 2, masks hold class indices, and 255 where unknown" },
    { "norm", CHOICE, "batch|group|none", "batch", 0, 0, "normalisation" },
    { "up", CHOICE, "transposed|nearest|bilinear", "transposed", 0, 0, "how the network enlarges" },
    { "augment", TEXT, "NAME|TEXT", "full", 0, 0, "none, light (flips, turns), full (and grey, noise), a preset, or text" },
    { "physics", TEXT, "NAMES", NULL, 0, 0, "what is true of the data; refuses augmentation that contradicts it" },
    { "allow-illegal", FLAG, NULL, NULL, 0, 0, "train with it all the same; the model file says so" },
    { "range", CHOICE, "full|image|set", "full", 0, 0, "grey values that become 0 .. 1: all, 0.5 .. 99.5 % of each or all" },
    { "holdout", INTEGER, "N", "0", 0, 1e6, "specimens set aside for 'eval --holdout N' with this seed; by chance, whatever they show" },
    { "validate", INTEGER, "N", "0", 0, 1e6, "further specimens, to choose the best epoch by" },
    { "valid", TEXT, "DATA", NULL, 0, 0, "a folder to choose the best epoch by" },
    { "patience", INTEGER, "EPOCHS", "0", 0, 1e6, "stop after so many without a better validation loss; 0: never" },
    { "label-width", REAL, "PIXELS", "0", 0, 100, "synth: width of the boundaries in the masks; 0: as drawn, at least 5" },
    GRAINS("synth: "),
    CROP,
    { "checkpoint", TEXT, "FILE", NULL, 0, 0, "write the state of the run to this file after every epoch" },
    { "resume", FLAG, NULL, NULL, 0, 0, "go on from the checkpoint if it exists" },
    { "recompute", FLAG, NULL, NULL, 0, 0, "less memory, more time, the same result: compute activations twice" },
    SEED("of weights, order, pieces, augmentation and splits"), THREADS, END
};
typedef char train_options_fit[COUNT(train_options) <= OPTIONS_MAX ? 1 : -1];
static const option predict_options[] = {
    { "out", TEXT, "DIR", REQUIRED, 0, 0, "folder for the results; made if it is not there" },
    CROP, INVERT, MEMORY, TILE, THREADS, END
};
static const option calibrate_options[] = {
    { "out", TEXT, "FILE", REQUIRED, 0, 0, "description of the drawn images that match, JSON" },
    { "look", CHOICE, "etched|sem|polarised|tem", "etched", 0, 0, "the instrument, for what the statistics leave open" },
    { "pairs", FLAG, NULL, NULL, 0, 0, "each two images show the same view: noise from their differences" },
    CROP, INVERT, END
};
static const option measure_options[] = {
    { "um-per-pixel", REAL, "UM", "0", 0, 1e6, "size of a pixel in micrometres, for lengths and ASTM E112" },
    { "model", TEXT, "MODEL|BASELINE", NULL, 0, 0, "the images are micrographs: segment them first" },
    { "smallest", INTEGER, "PIXELS", "20", 1, 1e8, "smaller parts are taken as boundary" },
    { "csv", TEXT, "FILE", NULL, 0, 0, "a row for every grain" },
    CROP, INVERT, THREADS, END
};
static const option eval_options[] = {
    { "tolerance", REAL, "PIXELS", "3", 0, 1000, "shift that boundary F1 forgives" },
    { "label-width", REAL, "PIXELS", "5", 0.5, 100, "canny, watershed: width of the lines" },
    { "holdout", INTEGER, "N", "0", 0, 1e6, "only the specimens that 'train --holdout N' with this seed set aside" },
    { "out", TEXT, "DIR", NULL, 0, 0, "write scores.csv, NAME.compare.png and index.html there" },
    CROP, SEED("of the split"), THREADS, END
};
static const option classify_options[] = {
    { "arch", TEXT, "NAME", NULL, 0, 0, "the architecture of the weights; left out, it is recognised by their names" },
    { "classes", TEXT, "FILE", NULL, 0, 0, "names of the classes, one in each line, in the order of the indices" },
    { "top", INTEGER, "N", "5", 1, 100000, "how many classes to print" },
    { "size", INTEGER, "PIXELS", "0", 0, 4096, "input of the network; 0: as published. For weights without a network" },
    { "channels", INTEGER, "N", "0", 0, 1024, "of images that are neither grey nor RGB; the first layer is repeated" },
    { "fold", FLAG, NULL, NULL, 0, 0, "one grey channel: sum up the first layer instead of repeating grey images" },
    { "whole", FLAG, NULL, NULL, 0, 0, "resize all of the image to the input, cut nothing off" },
    CROP, INVERT, THREADS, END
};
static const option bench_options[] = {
    { "kernel", CHOICE, "all|plain|blocked|tile-v128|tile-avx2|tile-avx512|winograd", "all", 0, 0, "which one" },
    { "channels", INTEGER, "N", "64", 1, 2048, "channels of the layer, in and out" },
    { "size", INTEGER, "PIXELS", "64", 1, 2048, "side of the square image" },
    { "batch", INTEGER, "N", "8", 1, 256, "images" },
    THREADS, END
};
static const option info_options[] = {
    { "size", SIZE, "S|WxH", NULL, 0, 0, "input in pixels (unet: 256; lenet5, mlp: 28; others as published)" },
    { "width", INTEGER, "N", NULL, 1, 4096, "unet: channels of the first level (16); mlp: hidden units (128)" },
    { "depth", INTEGER, "N", NULL, 1, 10, "unet: halvings (4); mlp: hidden layers (2)" },
    { "classes", INTEGER, "N", NULL, 1, 100000, "outputs (unet: 2; lenet5, mlp: 10; others as published)" },
    { "stages", INTEGER, "N", "0", 0, 8, "published networks: only the first stages, a trunk; 0: all" },
    { "batch", INTEGER, "N", "8", 1, 4096, "images at a time, for the memory" }, END
};
static const option demo_options[] = {
    { "seconds", REAL, "S", "75", 1, 86400, "time to train; the rest takes some seconds" },
    CROP, INVERT, MEMORY, TILE, SEED("another seed gives another network"), THREADS, END
};
static const option augment_options[] = {
    { "out", TEXT, "DIR", NULL, 0, 0, "folder for sheet.png, verdicts.csv, index.html" },
    { "preset", TEXT, "NAME", "S0-16", 0, 0, "pipeline: a preset, or none, light, full" },
    { "transforms", TEXT, "TEXT", NULL, 0, 0, "pipeline as text instead, such as 'flip_x p=0.5; rotate degrees=-20..20'" },
    { "physics", TEXT, "NAMES", NULL, 0, 0, "what is true of the data: weld, ebsd, rolled ...; several with commas" },
    { "images", INTEGER, "N", "4", 1, 1000, "images on the sheet" },
    { "views", INTEGER, "N", "6", 1, 64, "augmented views of each" },
    { "copies", INTEGER, "N", "0", 0, 10000, "also write a fixed data set of N augmented copies of everything; 16 bits stay 16, as TIFF" },
    { "epoch", INTEGER, "E", "0", 0, 1e9, "view v of image i is what training sees in epoch E + v" },
    { "each", FLAG, NULL, NULL, 0, 0, "also write a picture of every transform there is, each.png" },
    { "list", FLAG, NULL, NULL, 0, 0, "print all transforms, presets and physics, with units and defaults" },
    CROP, SEED("of the augmentation"), END
};
static const option pages_options[] = {
    { "out", TEXT, "DIR", REQUIRED, 0, 0, "folder for the pages; made if it is not there" }, END
};
static const option no_options[] = { END };

// Ends with a row without a name.
static const command commands[] = {
    { "demo", "OUT [IMAGE...]", "all of it in two minutes: train, segment, look",
      "Trains a U-Net on synthetic grains, segments synthetic images that it has never seen and images of\n"
      "yours, and writes OUT/index.html, OUT/sheet.png and OUT/grains.safetensors.",
      1, 10000, demo_options, run_demo },
    { "synth", "OUT", "draw synthetic micrographs with exact labels",
      "Writes a data set: OUT/images/*.png, OUT/masks/*.png (0 and 255), OUT/specimens.csv.",
      1, 1, synth_options, run_synth },
    { "train", "DATA|synth --out MODEL", "train a U-Net",
      "DATA is a folder with images/, masks/ of the same names (0 background, 255 foreground) and\n"
      "specimens.csv (file,specimen,label,source). The word synth stands for an endless stream of synthetic\n"
      "grains. The loss is cross-entropy + Dice. Ctrl-C saves the best weights so far and ends with status 0.",
      1, 1, train_options, run_train },
    { "finetune", "DATA|recipes --from WEIGHTS --out MODEL", "go on from a trained network by a recipe",
      "DATA is a folder as for train; without masks/ the label column of specimens.csv is learnt. WEIGHTS is a model\n"
      "file of this program or published weights. The head is new unless that of the file makes the same classes.\n"
      "Prints what learns at which rate in each phase, and at the end the result for each specimen held out. The\n"
      "word recipes lists the recipes; a file of that form serves as well.",
      1, 1, finetune_options, run_finetune },
    { "predict", "MODEL IMAGE... --out DIR", "segment images of any size",
      "IMAGE is a file or a folder of images; colour becomes grey. Writes NAME.mask.png (0 and 255),\n"
      "NAME.prob.png (probability of the foreground) and NAME.overlay.png, without the rows that\n"
      "--crop-bottom cuts off.",
      2, 100000, predict_options, run_predict },
    { "eval", "MODEL|BASELINE DATA", "score a model on labelled images",
      "Prints IoU, Dice and boundary F1 of each image and specimen, and their mean over specimens with its\n"
      "spread. In place of a model, otsu scores the dark side of Otsu's threshold, canny the edges of Canny, and\n"
      "watershed the boundaries of basins with dark rims. A model that classifies images is scored by the label\n"
      "column of specimens.csv, image by image as classify does it.",
      2, 2, eval_options, run_eval },
    { "classify", "WEIGHTS IMAGE...", "the most probable classes of images",
      "WEIGHTS is a safetensors file of a published network ('tinytl info models'; tools/convert_torch.py\n"
      "makes it from a .pth), or one that tinytl wrote. Prints rank, index, probability and name. Images go through a\n"
      "published network resized; through one from finetune as it learnt: at their own scale, in windows, of which\n"
      "the mean counts.",
      2, 100000, classify_options, run_classify },
    { "augment", "DATA|synth --out DIR", "show what augmentation does, and judge it",
      "Writes a sheet of augmented views with their masks, and for each transform whether it is legal for data of\n"
      "this physics, by which rule and why. DATA is a folder as for train.",
      0, 1, augment_options, run_augment },
    { "pages", "FILE.tif --out DIR", "write the pages of a TIFF file one by one",
      "Types stay what they are: 8 or 16 bits or float.", 1, 1, pages_options, run_pages },
    { "calibrate", "IMAGE... --out FILE", "find how synthetic images must look to be like these",
      "Measures noise, blur, greys, line width and grain size of real images without labels, and moves the ranges of\n"
      "a description until its images have the same. Prints how well they agree. For synth and train --like FILE.",
      1, 100000, calibrate_options, run_calibrate },
    { "measure", "MASK...", "grain sizes, shapes and junctions",
      "MASK is an image or a folder of images: boundaries bright, grains 0; with --model, micrographs. Prints for each\n"
      "the grains, their mean diameter, aspect ratio and number of sides, the mean intercept (chord), triple junctions\n"
      "and the spread of their angles, ends of lines inside grains, the share of the lines that close cells, and with\n"
      "--um-per-pixel the ASTM E112 numbers by the planimetric G(N) and the intercept method G(l).",
      1, 100000, measure_options, run_measure },
    { "info", "MODEL|NAME|models", "layers, parameters, FLOPs, receptive field, memory",
      "For a file also its preprocessing and its tensors; for a name the options below. The word models\n"
      "lists the names.",
      1, 1, info_options, run_info },
    { "bench", "", "a convolution, step by step faster",
      "Times one 3x3 convolution as it is defined and with each idea that makes it faster: blocks that fit the\n"
      "cache, the register tile for each instruction set, Winograd. The plain and blocked kernels use one thread.",
      0, 0, bench_options, run_bench },
    { "help", "[COMMAND]", "this text, or the options of a command", "", 0, 1, no_options, run_help },
    { NULL, NULL, NULL, NULL, 0, 0, NULL, NULL }
};

// NULL after saying so.
static const command *find_command(const char *name)
{
    for (int i = 0; commands[i].name; i++) if (!strcmp(commands[i].name, name)) return &commands[i];
    const char *like = nearest(name, commands, sizeof(command));
    if (like) fail("there is no command '%s'; did you mean '%s'?", name, like);
    else fail("there is no command '%s'; 'tinytl help' lists them", name);
    return NULL;
}

static void print_command_help(const command *c)
{
    const char *more = c->options[0].name ? " [options]" : "";
    printf("usage: tinytl %s %s%s\n\n%s\n%s\n\n", c->name, c->operands, more, c->summary, c->text);
    for (const option *o = c->options; o->name; o++) {
        char left[64];
        snprintf(left, sizeof left, "--%s %s", o->name, o->value ? o->value : "");
        printf("  %-34s %s", left, o->help);
        if (o->fallback && !strcmp(o->fallback, REQUIRED)) printf(" (required)");
        else if (o->fallback) printf(" [%s]", o->fallback);
        printf("\n");
    }
}

static int run_help(const arguments *a)
{
    if (a->operands) {
        const command *c = find_command(a->operand[0]);
        if (c) print_command_help(c);
        return c ? 0 : 2;
    }
    printf("tinytl " TINYTL_VERSION ": deep learning from few micrographs\n\n");
    for (const command *c = commands; c->name; c++)
        printf("  tinytl %-8s %-26s %s\n", c->name, c->operands, c->summary);
    printf("\n'tinytl help COMMAND' shows its options and, in brackets, their defaults.\n"
           "Exit status: 0; 1: failed, with one sentence on standard error; 2: the command line was wrong.\n");
    return 0;
}

int main(int count, char **words)
{
    arguments a = { 0 };
    const char *first = count > 1 ? words[1] : "help";
    if (!strcmp(first, "--version")) return puts("tinytl " TINYTL_VERSION) < 0;
    a.command = find_command(!strcmp(first, "--help") || !strcmp(first, "-h") ? "help" : first);
    if (!a.command) return 2;
    command_name = a.command->name;
    signal(SIGXFSZ, SIG_IGN);         // a file that grows too large is a failed write, not the end of the program
    for (int i = 2; i < count && strcmp(words[i], "--"); i++) {
        if (strcmp(words[i], "--help") && strcmp(words[i], "-h")) continue;
        print_command_help(a.command);
        return 0;
    }
    if (count > 2 && parse_words(&a, count - 2, words + 2)) return 2;
    if (count <= 2 && parse_words(&a, 0, words)) return 2;
    int status = a.command->run(&a);
    if (fflush(stdout) || ferror(stdout)) return fail("standard output cannot be written");
    return count > 1 ? status : 2;
}
