// Fuzz target: images, masks, the table of a folder, and descriptions of grains (`synth --like`). See fuzz.h. The first byte says as
// which of them the others are read.

#include "fuzz.h"

#define STBI_MALLOC(size) fuzz_malloc(size)
#define STBI_REALLOC(pointer, size) ((size) > FUZZ_MEMORY ? NULL : realloc(pointer, size))
#define STBI_FREE(pointer) free(pointer)
#define STBI_ONLY_PNG
#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>
#define TINYTL_IMPLEMENTATION
#include "../tinytl.h"

// As tl_image_load does it with the bytes of a file.
static tl_result decode(tl_image *image, const uint8_t *data, size_t size)
{
    if (size >= 2 && data[0] == 'P' && (data[1] == '5' || data[1] == '6')) return tl__decode_pnm(image, data, size, "memory");
    return tl__decode_stb(image, data, (int)size, "memory");
}

static void use_image(const uint8_t *data, size_t size)
{
    tl_image image, other;
    memset(&image, 0, sizeof image);
    memset(&other, 0, sizeof other);
    if (decode(&image, data, size) == TL_OK) {
        MUST(image.pixels && image.width > 0 && image.height > 0 && (image.channels == 1 || image.channels == 3));
        for (int classes = 0; classes < 4; classes += 3) {
            if (tl__mask_classes(&other, &image, "memory", classes) != TL_OK) continue;
            for (size_t i = 0; i < tl__image_values(&other); i++) MUST(((uint8_t *)other.pixels)[i] < (classes ? classes : 2) || ((uint8_t *)other.pixels)[i] == TL_IGNORE);
        }
        MUST(tl_image_convert(&other, &image, TL_U8) == TL_OK);
    } else MUST(strlen(tl_error(NULL)) > 0);
    tl_image_free(&image);
    tl_image_free(&other);
}

// Three images called a.png, b.png and c.png.
static void use_table(const uint8_t *data, size_t size)
{
    const char *labels[3] = { NULL, NULL, NULL };
    char *text = (char *)malloc(size + 1);
    memcpy(text, data, size);
    text[size] = 0;
    tl_dataset *set = (tl_dataset *)tl__alloc(1, sizeof *set);
    set->records = (tl_record *)tl__alloc(3, sizeof *set->records);
    set->count = 3;
    for (int i = 0; i < 3; i++) {
        snprintf(set->records[i].name, sizeof set->records[i].name, "%c.png", 'a' + i);
        set->records[i].label = -1;
    }
    tl_result result = tl__read_rows(set, "memory", text, labels);
    if (result == TL_OK) result = tl__set_labels(set, "memory", labels);
    MUST(result == TL_OK || strlen(tl_error(NULL)) > 0);
    for (int i = 0; i < 3 && result == TL_OK; i++) {
        MUST(set->records[i].label >= -1 && set->records[i].label < set->classes);
        MUST(strlen(tl_dataset_specimen(set, i)) < TL_NAME_MAX && strlen(tl_dataset_label_name(set, set->records[i].label)) < TL_NAME_MAX);
    }
    for (int numbers = 2; numbers <= 4; numbers += 2) {                    // boxes and keypoints
        memcpy(text, data, size);
        for (int i = 0; i < 3; i++) set->records[i].image.width = set->records[i].image.height = 100;
        result = tl__read_place_rows(set, "memory", text, numbers, 1);
        MUST(result == TL_OK || strlen(tl_error(NULL)) > 0);
    }
    for (int i = 0; i < 3; i++) {
        const tl_record *r = &set->records[i];
        for (int k = 0; k < r->box_count; k++) MUST(r->boxes[k].hidden || (r->boxes[k].x0 < r->boxes[k].x1 && r->boxes[k].y1 <= 99.5f));
        for (int k = 0; k < r->keypoint_count; k++) MUST(r->keypoints[k].x >= -0.5f && r->keypoints[k].x <= 99.5f && r->keypoints[k].label >= 0);
        memset(&set->records[i].image, 0, sizeof r->image);
    }
    tl_dataset_free(set);
    free(text);
}

// A description that was accepted must come back from its own text, and give an image.
static void use_grains(const uint8_t *data, size_t size)
{
    char *text = (char *)malloc(size + 1);
    tl_grains_desc d, again;
    tl__text written;
    memcpy(text, data, size);
    text[size] = 0;
    memset(&written, 0, sizeof written);
    tl_result result = tl__parse_grains(text, size, "memory", &d);
    free(text);
    if (result != TL_OK) {
        MUST(strlen(tl_error(NULL)) > 0);
        return;
    }
    d = tl_grains_defaults(&d);
    tl__grains_text(&d, &written);
    MUST(!written.failed && tl__parse_grains(written.data, written.length, "memory", &again) == TL_OK);
    again = tl_grains_defaults(&again);
    MUST(memcmp(&d, &again, sizeof d) == 0);
    tl__text_free(&written);
    tl_image image, mask;
    memset(&image, 0, sizeof image);
    memset(&mask, 0, sizeof mask);
    d.width = 24;
    d.height = 17;
    if (d.grains <= 1000) {                                                // a million take minutes
        result = tl_grains(&d, 0, 0, NULL, &mask, &image);
        MUST(result == TL_OK || strlen(tl_error(NULL)) > 0);
        for (int i = 0; result == TL_OK && i < 24 * 17; i++) MUST(((uint8_t *)mask.pixels)[i] <= 1);
    }
    tl_image_free(&image);
    tl_image_free(&mask);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    if (data[0] & 1) use_table(data + 1, size - 1);
    else if (data[0] & 2) use_grains(data + 1, size - 1);
    else use_image(data + 1, size - 1);
    return 0;
}

#ifdef STANDALONE

int main(int argc, char **argv)
{
    static const char table[] = "\1\xEF\xBB\xBF" "file,specimen,label,source\na.png,\"s,1\",good,x\r\nb.png,s2,bad,\"y \"\"z\"\"\"\n\nc.png,s2,3,\n";
    static const char grey[] = "\0P5\n# c\n3 2\n255\n\0\1\2\3\4\377", deep[] = "\0P5 2 1 65535\n\1\2\3\4", colour[] = "\0P6 1 2 15 \1\2\3\4\5\6";
    static const uint8_t png[] = {                         // 2 x 2, gray
        0, 0x89, 'P', 'N', 'G', 13, 10, 26, 10, 0, 0, 0, 13, 'I', 'H', 'D', 'R', 0, 0, 0, 2, 0, 0, 0, 2, 8, 0, 0, 0, 0, 0x57, 0xDD, 0x52, 0xF8,
        0, 0, 0, 17, 'I', 'D', 'A', 'T', 0x78, 1, 1, 6, 0, 0xF9, 0xFF, 0, 0, 255, 0, 255, 0, 0x03, 0xFC, 0x02, 0x00, 0x02, 0x00, 0, 0, 0, 0, 'I', 'E', 'N', 'D', 0xAE, 0x42, 0x60, 0x82 };
    static const char json[] = "\2{\n  \"format\": \"tinytl grains 1\",\n  \"source\": 1,\n  \"look\": 2,\n  \"label_width\": 4.5,\n  \"diameter\": [6, 90],\n  "
                               "\"bend\": [-1, 0.2],\n  \"electrons\": [1e2, 4.5E+3]\n}\n";
    char written[4096] = "\2";                             // what `calibrate` writes: every range is there
    tl_grains_desc desc;
    tl__text text;
    memset(&desc, 0, sizeof desc);
    memset(&text, 0, sizeof text);
    desc.look = TL_LOOK_SEM;
    desc = tl_grains_defaults(&desc);
    tl__grains_text(&desc, &text);
    MUST(!text.failed && text.length < sizeof written - 2);
    memcpy(written + 1, text.data, text.length + 1);
    tl__text_free(&text);
    static const char *const words[] = { "\"diameter\": [", "\"lloyd\": ", "\"grains\": ", "\"skip\": ", "\"target\": ", "\"periodic\": ", "\"\\u0041", "[-1, -1]", "[1e38, 1e39]",
        "nan", "{", "}", "file", "specimen", "label", "x0,y0,x1,y1", "x,y", "1,2,3.5,4", "a.png", "c.png", "\"", "\"\"", ",", "\r\n", "\n", "-1", "2147483647", "99999", "65535", "P5 ", "P6 ", "IHDR", "IDAT",
        "PLTE", "tRNS", "#", "255\n", "\xFF\xFF", "x" };
    const fuzz_seed seeds[] = { { table, sizeof table - 1 }, { grey, sizeof grey - 1 }, { deep, sizeof deep - 1 }, { colour, sizeof colour - 1 }, { png, sizeof png }, { json, sizeof json - 1 },
                                { written, strlen(written + 1) + 1 } };
    return fuzz_main(argc, argv, "fuzz data", seeds, 7, words, (int)(sizeof words / sizeof *words), 100000);
}

#endif
