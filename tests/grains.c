// Worlds of grains against closed forms, the simulations against their laws, measurement, baselines and calibration. Seeds
// are fixed, so a test that passes once passes always.

#include "check.h"
#include "temporary.h"

static tl_grains_desc nothing_special(int width, int height, float diameter)
{
    tl_grains_desc d;
    memset(&d, 0, sizeof d);
    d.width = width;
    d.height = height;
    d.look = TL_LOOK_ETCHED;
    d.lloyd = -1;
    for (tl_range *r = &d.diameter; r <= &d.read_noise; r++) r->lo = r->hi = -1;      // everything off
    d.diameter.lo = d.diameter.hi = diameter;
    d.grey.lo = d.grey.hi = 0.7f;
    d.line.lo = d.line.hi = 2;
    d.boundary.lo = d.boundary.hi = -0.8f;
    d.object_size.lo = d.object_size.hi = 12;
    d.fringe_period.lo = d.fringe_period.hi = 5;
    return d;
}

static tl_world make(const tl_grains_desc *d, uint32_t index)
{
    tl_world w;
    CHECK(tl_world_make(&w, d, 0, index) == TL_OK, "%s", tl_error(NULL));
    return w;
}

// ---- cells ---------------------------------------------------------------------------------

// Weighted, stretched cells against every pixel compared with every point.
static void test_cells(void)
{
    enum { W = 61, H = 47, N = 90 };
    float points[2 * N], weights[N];
    int32_t ids[W * H];
    for (int kind = 0; kind < 4; kind++) {
        tl_rng rng = tl_rng_at(1, TL_RANDOM_USER, 0, (uint32_t)kind, 0);
        for (int i = 0; i < N; i++) {
            points[2 * i] = tl_random_uniform(&rng, -10, W + 10);
            points[2 * i + 1] = tl_random_uniform(&rng, -10, H + 10);
            weights[i] = tl_random_uniform(&rng, 0, 60);
        }
        tl__cells cells = { points, kind & 1 ? weights : NULL, N, kind & 2 ? 2.5 : 1, kind & 2 ? 0.9 : 0, kind & 2 ? 0.72 : 1 };
        CHECK(!tl__label_cells(&cells, W, H, ids), "%s", tl_error(NULL));
        int bad = 0;
        for (int i = 0; i < W * H; i++) {
            double best = INFINITY;
            int winner = 0;
            for (int k = 0; k < N; k++) {
                double dx = i % W - (double)points[2 * k], dy = i / W - (double)points[2 * k + 1];
                double d = cells.xx * dx * dx + 2 * cells.xy * dx * dy + cells.yy * dy * dy - (kind & 1 ? (double)weights[k] : 0);
                if (d < best) { best = d; winner = k; }
            }
            bad += ids[i] != winner;
        }
        CHECK(bad == 0, "cells of kind %d: %d pixels are wrong", kind, bad);
    }
}

// Poisson-Voronoi: 6 sides on average, variance of the area 0.280 of its square, perimeter 4 / sqrt(density).
static void test_poisson_voronoi(void)
{
    double area2 = 0, area = 0, cells = 0, sides = 0, length = 0, density = 0;
    tl_grains_desc d = nothing_special(640, 640, 24);
    d.periodic = 1;
    for (uint32_t k = 0; k < 3; k++) {
        tl_world w = make(&d, k);
        double *each = (double *)calloc((size_t)w.grains, sizeof *each), corners = 0;
        for (int i = 0; i < 640 * 640; i++) each[w.ids[i]]++;
        for (int i = 0; i < w.grains; i++) {
            area += each[i];
            area2 += each[i] * each[i];
        }
        cells += w.grains;
        // Sides: each junction of three belongs to three cells, so sides = 3 junctions / cells (two labels at 2 x 2 pixels
        // more where four meet). Junctions over the seam are not seen by the world, so they are counted here.
        for (int y = 0; y < 640; y++)
            for (int x = 0; x < 640; x++) {
                int32_t v[4] = { w.ids[y * 640 + x], w.ids[y * 640 + (x + 1) % 640], w.ids[(y + 1) % 640 * 640 + x],
                                 w.ids[(y + 1) % 640 * 640 + (x + 1) % 640] };
                int kinds = 0;
                for (int i = 0; i < 4; i++) {
                    int first = 1;
                    for (int j = 0; j < i; j++) first &= v[j] != v[i];
                    kinds += first;
                }
                if (kinds > 2) corners += kinds - 2;
                length += (v[0] != v[1]) + (v[0] != v[2]);
            }
        sides += 3 * corners;
        density = w.grains / (640.0 * 640.0);
        free(each);
        tl_world_free(&w);
    }
    double mean = area / cells, variance = area2 / cells / (mean * mean) - 1;
    // 3 x 905 cells: standard error 0.009 of the variance; a staircase is 4/pi longer than its line, two cells share it.
    CHECK(fabs(sides / cells - 6) < 0.08, "mean sides %.3f", sides / cells);
    CHECK(fabs(variance - 0.280) < 0.03, "area variance %.4f", variance);
    double perimeter = 2 * length * 0.78539816 / cells * sqrt(density);
    CHECK(fabs(perimeter - 4) < 0.06, "mean perimeter %.3f / sqrt(density)", perimeter);
    printf("  Poisson-Voronoi: sides %.3f, area variance %.4f, perimeter %.3f\n", sides / cells, variance, perimeter);
}

static void test_cell_geometry(void)
{
    tl_measurement m, random_seeds, other;
    tl_grains_desc d = nothing_special(320, 320, 24);
    tl_world w = make(&d, 0);
    CHECK(!tl_measure_ids(w.ids, 320, 320, &random_seeds), "%s", tl_error(NULL));
    double want = 1 / (0.78539816 * 24 * 24);
    CHECK(fabs(random_seeds.per_pixel / want - 1) < 0.1, "grains per pixel %g of %g", random_seeds.per_pixel, want);
    tl_world_free(&w);
    d.seeding = TL_SEEDS_BLUE;
    w = make(&d, 0);
    CHECK(!tl_measure_ids(w.ids, 320, 320, &other) && other.area_variance < 0.12, "blue noise: area variance %g", other.area_variance);
    tl_measurement_free(&other);
    tl_world_free(&w);
    d.seeding = TL_SEEDS_CLUSTERED;
    w = make(&d, 0);
    CHECK(!tl_measure_ids(w.ids, 320, 320, &other) && other.area_variance > 1.5 * random_seeds.area_variance, "clusters: area variance %g", other.area_variance);
    tl_measurement_free(&other);
    tl_world_free(&w);
    d.seeding = TL_SEEDS_RANDOM;
    d.lloyd = 20;
    w = make(&d, 0);
    CHECK(!tl_measure_ids(w.ids, 320, 320, &other) && other.area_variance < 0.05, "Lloyd: area variance %g", other.area_variance);
    tl_measurement_free(&other);
    tl_world_free(&w);
    // Laguerre weights: the diameters get the wanted spread.
    d.size_spread.lo = d.size_spread.hi = 0.4f;
    w = make(&d, 0);
    CHECK(!tl_measure_ids(w.ids, 320, 320, &other), "%s", tl_error(NULL));
    double sum = 0, squares = 0, n = 0;
    for (int i = 0; i < other.numbers; i++) {
        if (other.each[i].area == 0 || other.each[i].cut) continue;
        double v = log(other.each[i].diameter);
        sum += v;
        squares += v * v;
        n++;
    }
    double spread = sqrt(squares / n - sum / n * (sum / n));
    CHECK(spread > 0.3 && spread < 0.5, "a spread of 0.4 comes out as %.3f", spread);
    tl_measurement_free(&other);
    tl_world_free(&w);
    // Stretch: aspect ratio and direction.
    d.size_spread.lo = d.size_spread.hi = -1;
    d.stretch.lo = d.stretch.hi = 3;
    d.direction.lo = d.direction.hi = 30;
    w = make(&d, 0);
    CHECK(!tl_measure_ids(w.ids, 320, 320, &m) && fabs(m.mean_aspect - 3) < 0.6, "stretch 3: aspect %g", m.mean_aspect);
    double off = 0;
    for (int i = 0; i < m.numbers; i++) if (!m.each[i].cut && m.each[i].area > 0) off += fabs(m.each[i].angle - 30);
    CHECK(off / (m.grains - m.cut) < 8, "direction 30: off by %g on average", off / (m.grains - m.cut));
    tl_measurement_free(&m);
    tl_world_free(&w);
    // Periodic: the left column continues in the right one.
    d = nothing_special(128, 96, 20);
    d.periodic = 1;
    w = make(&d, 3);
    int same = 0;
    for (int y = 0; y < 96; y++) same += w.ids[y * 128] == w.ids[y * 128 + 127];
    CHECK(same > 75, "periodic: %d of 96 rows continue", same);
    tl_world_free(&w);
    // Relaxing brings the angles of junctions nearer to 120 degrees.
    d = nothing_special(500, 500, 50);
    w = make(&d, 0);
    tl_measurement_free(&random_seeds);
    CHECK(!tl_measure_ids(w.ids, 500, 500, &random_seeds), "%s", tl_error(NULL));
    tl_world_free(&w);
    d.relax.lo = d.relax.hi = 40;
    w = make(&d, 0);
    CHECK(!tl_measure_ids(w.ids, 500, 500, &m) && m.junctions_measured > 100, "%d junctions", m.junctions_measured);
    CHECK(fabs(m.junction_angle - 120) < 1e-6 && m.junction_angle_std < 0.75 * random_seeds.junction_angle_std,
          "junctions %.1f +- %.1f, before %.1f", m.junction_angle, m.junction_angle_std, random_seeds.junction_angle_std);
    printf("  junction angles: Voronoi 120 +- %.1f, relaxed 120 +- %.1f degrees\n", random_seeds.junction_angle_std, m.junction_angle_std);
    tl_measurement_free(&m);
    tl_measurement_free(&random_seeds);
    tl_world_free(&w);
}

// All labels of a world fit each other.
static void test_region_labels(void)
{
    tl_grains_desc d = nothing_special(160, 128, 40);
    d.twins.lo = d.twins.hi = 1;
    d.subgrains.lo = d.subgrains.hi = 4;
    d.second_phase.lo = d.second_phase.hi = 0.4f;
    d.precipitates.lo = d.precipitates.hi = 0.1f;
    d.pores.lo = d.pores.hi = 0.05f;
    tl_image mask, picture;
    memset(&mask, 0, sizeof mask);
    memset(&picture, 0, sizeof picture);
    for (int source = 0; source < TL_SOURCE_COUNT; source++) {
        d.source = (tl_source)source;
        tl_world w = make(&d, 0);
        int phases[4] = { 0, 0, 0, 0 }, twins = 0, bad = 0;
        for (int i = 0; i < 160 * 128; i++) {
            phases[w.phase[i] & 3]++;
            twins += w.twin[i];
            bad += w.ids[i] < 0 || w.ids[i] >= w.grains || w.phase[i] > 3 || w.angle[i] < -0.5f || w.angle[i] > 2.1f;
            bad += w.distance[i] < 0 || w.nearest[i] < 0 || w.nearest[i] >= w.edge_count;
        }
        CHECK(bad == 0, "source %s: %d pixels are wrong", tl_source_name(d.source), bad);
        CHECK(twins > 500 && phases[2] > 200 && phases[3] > 100, "%s: %d twin, %d precipitate, %d pore pixels", tl_source_name(d.source), twins, phases[2], phases[3]);
        CHECK(!tl_world_mask(&w, TL_JUNCTIONS, 5, &mask) && !tl_world_mask(&w, TL_TWINS, 5, &mask) && !tl_render(&d, 0, 0, &w, &picture), "%s", tl_error(NULL));
        for (int k = 0; k < w.junction_count; k++)
            CHECK(w.distance[(int)w.junctions[2 * k + 1] * 160 + (int)w.junctions[2 * k]] < 2.5f, "a junction %g from the boundary",
                  (double)w.distance[(int)w.junctions[2 * k + 1] * 160 + (int)w.junctions[2 * k]]);
        // A world of the ids alone has the same boundaries.
        tl_world again;
        CHECK(!tl_world_from_ids(&again, w.ids, 160, 128), "%s", tl_error(NULL));
        if (source != TL_PARTICLES) CHECK(memcmp(again.distance, w.distance, sizeof(float) * 160 * 128) == 0, "distances of the same ids differ");
        tl_world_free(&again);
        tl_world_free(&w);
    }
    // A straight boundary: the distance is exact.
    static int32_t halves[64 * 64];
    for (int i = 0; i < 64 * 64; i++) halves[i] = i % 64 >= 20;
    tl_world w;
    CHECK(!tl_world_from_ids(&w, halves, 64, 64), "%s", tl_error(NULL));
    for (int i = 0; i < 64 * 64; i++) if (fabs((double)w.distance[i] - fabs(i % 64 - 19.5)) > 1e-4) CHECK(0, "distance %g at x = %d", (double)w.distance[i], i % 64);
    // A slanted one is smooth to a third of a pixel.
    tl_world_free(&w);
    double worst = 0;
    for (int i = 0; i < 64 * 64; i++) halves[i] = 3 * (i % 64) > (i / 64) + 60;
    CHECK(!tl_world_from_ids(&w, halves, 64, 64), "%s", tl_error(NULL));
    for (int y = 8; y < 56; y++)
        for (int x = 8; x < 56; x++) worst = fmax(worst, fabs((double)w.distance[y * 64 + x] - fabs(3 * x - y - 60 - 0.5) / sqrt(10)));
    CHECK(worst < 0.34, "a slanted boundary is off by %g", worst);
    tl_world_free(&w);
    // Leaving a rung out leaves the others as they are; all rungs left out: one grey.
    tl_grains_desc plain;
    memset(&plain, 0, sizeof plain);
    plain.width = plain.height = 64;
    plain.skip = TL_RUNG_ALL;
    CHECK(!tl_grains(&plain, 0, 0, NULL, &mask, &picture), "%s", tl_error(NULL));
    const uint8_t *p = (const uint8_t *)picture.pixels;
    for (int i = 1; i < 64 * 64; i++) if (p[i] != p[0]) { CHECK(0, "a picture without rungs is not plain"); break; }
    plain.skip = 0;
    plain.channels = 3;
    CHECK(!tl_grains(&plain, 0, 0, NULL, NULL, &picture) && picture.channels == 3, "colour: %s", tl_error(NULL));
    char text[2000];
    size_t length = tl_grains_manifest(&d, text, sizeof text);
    CHECK(length == strlen(text) && strstr(text, "no scratches") && !strstr(text, "no annealing twins"), "%s", text);
    plain.source = (tl_source)99;
    CHECK(tl_grains(&plain, 0, 0, NULL, NULL, &picture) == TL_ERR_ARGUMENT && strstr(tl_error(NULL), "source 99"), "%s", tl_error(NULL));
    const int32_t negative[64] = { -1 };
    CHECK(tl_world_from_ids(&w, negative, 8, 8) && tl_world_from_ids(&w, NULL, 8, 8) && tl_world_from_ids(&w, negative, 3, 8), "ids that are not possible");
    tl_image_free(&mask);
    tl_image_free(&picture);
}

// Share of the pairs of pixels of one grain whose middle belongs to another: 0 if grains are convex.
static double dents(const tl_world *w)
{
    tl_rng rng = tl_rng_at(8, TL_RANDOM_USER, 0, 0, 0);
    double pairs = 0, outside = 0;
    for (int k = 0; k < 400000; k++) {
        int x = (int)tl_random_below(&rng, (uint32_t)w->width), y = (int)tl_random_below(&rng, (uint32_t)w->height);
        int u = x + 2 * ((int)tl_random_below(&rng, 41) - 20), v = y + 2 * ((int)tl_random_below(&rng, 41) - 20);
        if (u < 0 || v < 0 || u >= w->width || v >= w->height || w->ids[v * w->width + u] != w->ids[y * w->width + x]) continue;
        pairs++;
        outside += w->ids[(y + v) / 2 * w->width + (x + u) / 2] != w->ids[y * w->width + x];
    }
    return outside / pairs;
}

static void test_bend(void)
{
    tl_grains_desc d = nothing_special(320, 320, 50);
    tl_world straight = make(&d, 0);
    d.bend.lo = d.bend.hi = 0.2f;
    tl_world bent = make(&d, 0);
    CHECK(dents(&straight) < 0.001 && dents(&bent) > 0.02, "cells of seeds are convex, bent ones not: %g and %g", dents(&straight), dents(&bent));
    tl_world_free(&straight);
    tl_world_free(&bent);
}

// Every rung alone changes the picture (blur where there is something to blur), and noise is that of the description.
static void test_rungs(void)
{
    tl_grains_desc d = nothing_special(160, 160, 40);
    d.grain_contrast.lo = d.grain_contrast.hi = 0.1f;
    d.texture.lo = d.texture.hi = 0.05f;
    d.precipitates.lo = d.precipitates.hi = 0.1f;
    d.spots.lo = d.spots.hi = 20;
    d.blur.lo = d.blur.hi = 1.5f;
    d.grey.lo = d.grey.hi = 0.6f;
    d.electrons.lo = d.electrons.hi = 400;
    d.read_noise.lo = d.read_noise.hi = 0.03f;
    tl_image plain, picture;
    memset(&plain, 0, sizeof plain);
    memset(&picture, 0, sizeof picture);
    for (int rung = 1; rung <= TL_RUNG_ALL; rung *= 2) {
        unsigned below = rung == TL_RUNG_BLUR ? TL_RUNG_ALL & ~(unsigned)TL_RUNG_BOUNDARY : TL_RUNG_ALL;
        d.skip = below;
        CHECK(!tl_grains(&d, 0, 0, NULL, NULL, &plain), "%s", tl_error(NULL));
        d.skip = below & ~(unsigned)rung;
        CHECK(!tl_grains(&d, 0, 0, NULL, NULL, &picture), "%s", tl_error(NULL));
        CHECK(memcmp(plain.pixels, picture.pixels, 160 * 160) != 0, "rung %d changes nothing", rung);
    }
    double sum = 0, squares = 0, n = 160 * 160;
    for (int i = 0; i < 160 * 160; i++) {                    // the detector alone, the last rung
        double v = ((uint8_t *)picture.pixels)[i] / 255.0;
        sum += v;
        squares += v * v;
    }
    double mean = sum / n, variance = squares / n - mean * mean, want = mean / 400 + 0.03 * 0.03;
    CHECK(fabs(mean - 0.6) < 0.005 && fabs(variance / want - 1) < 0.05, "grey %g, variance %g of %g", mean, variance, want);
    tl_image_free(&plain);
    tl_image_free(&picture);
}

// ---- bodies and particles ------------------------------------------------------------------

// A world of one grain, without boundaries.
static tl_world empty_world(int width, int height)
{
    tl_world w;
    int32_t *ids = (int32_t *)calloc((size_t)width * (size_t)height, sizeof *ids);
    CHECK(ids && !tl_world_from_ids(&w, ids, width, height), "%s", tl_error(NULL));
    free(ids);
    return w;
}

// Precipitates of one shape over a fifth of an empty world: the share that they cover.
static double covered(tl_shape shape, uint32_t index)
{
    enum { S = 400 };
    tl_grains_desc d = nothing_special(S, S, 40);
    tl__draft job;
    tl_world w = empty_world(S, S);
    int inside = 0;
    CHECK(!tl__draft_init(&job, &d, 0, index), "%s", tl_error(NULL));
    tl__add_bodies(&job, &w, TL__DRAW_PRECIPITATES, (tl_range){ 0.2f, 0.2f }, shape, TL_PHASE_PRECIPITATE);
    for (int i = 0; i < S * S; i++) inside += w.phase[i] == TL_PHASE_PRECIPITATE;
    tl_world_free(&w);
    return (double)inside / (S * S);
}

// Area, length / width and direction of bodies against closed forms (the rod is a rectangle with half discs at its ends,
// the cube a curve x^4 + y^4 = 1), and the share of the area that many cover.
static void test_bodies(void)
{
    enum { S = 160 };
    const double pi = 3.14159265358979;
    static int32_t ids[S * S];
    tl_rng rng = tl_rng_at(9, TL_RANDOM_USER, 0, 0, 0);
    for (int shape = TL_SHAPE_SPHERE; shape < TL_SHAPE_COUNT; shape++) {
        for (int k = 0; k < 6; k++) {
            tl_world w = empty_world(S, S);
            tl_measurement m;
            tl__body b;
            tl__draw_body(&b, (tl_shape)shape, &rng);
            b.x = 79.3f;
            b.y = 80.6f;
            b.radius = shape == TL_SHAPE_ROD ? 9 : 20;
            tl__stamp_body(&w, &b, TL_PHASE_PRECIPITATE, -1);
            for (int i = 0; i < S * S; i++) ids[i] = w.phase[i] == TL_PHASE_PRECIPITATE;
            CHECK(!tl_measure_ids(ids, S, S, &m) && m.grains == 2, "shape %d: %d parts", shape, m.grains - 1);
            const tl_grain_size *g = &m.each[1];
            double r = (double)b.radius, s = (double)b.stretch, half = r * (s - 1), area = pi * r * r, aspect = s * s;
            if (shape == TL_SHAPE_CUBE) area = 3.70815 * r * r;
            if (shape == TL_SHAPE_BLOB) for (int j = 0; j < 3; j++) area += pi * r * r * pow((double)b.wave[j], 2) / 2;
            if (shape == TL_SHAPE_ROD) {
                double ends = pi * pow(r, 4) / 4;
                double along = 4 * r * pow(half, 3) / 3 + pi * r * r * half * half + 8 * half * pow(r, 3) / 3 + ends;
                area += 4 * r * half;
                aspect = sqrt(along / (4 * half * pow(r, 3) / 3 + ends));
                CHECK(s >= 2.5 && s <= 6, "a rod %g times as long as wide", s);
            }
            CHECK(fabs(g->area / area - 1) < 0.03, "shape %d: area %g of %g", shape, g->area, area);
            if (shape != TL_SHAPE_BLOB) {
                double off = fabs(fmod(g->angle - atan2((double)b.s, (double)b.c) * 180 / pi + 450, 180) - 90);
                CHECK(fabs(g->aspect / aspect - 1) < 0.04, "shape %d: aspect %g of %g", shape, g->aspect, aspect);
                CHECK(aspect < 1.2 || off < 3, "shape %d: %g degrees off", shape, off);
            }
            tl_measurement_free(&m);
            tl_world_free(&w);
        }
        double share = 0;
        for (uint32_t k = 0; k < 8; k++) share += covered((tl_shape)shape, k) / 8;
        CHECK(fabs(share - 0.2) < 0.02, "shape %d: %.3f of the area, not 0.2", shape, share);
        printf("  bodies of shape %d: %.3f of the area, 0.2 wanted\n", shape, share);
    }
}

// Second-phase grains are whole grains, as many as wanted; precipitates sit on boundaries in most images; the mask shows both.
static void test_phases(void)
{
    enum { S = 320 };
    tl_grains_desc d = nothing_special(S, S, 24);
    tl_image mask;
    memset(&mask, 0, sizeof mask);
    d.second_phase.lo = d.second_phase.hi = 0.3f;
    tl_world w = make(&d, 1);
    double grains = 0, second = 0;
    int *of = (int *)calloc((size_t)w.grains, sizeof *of), bad = 0;
    for (int i = 0; i < S * S; i++) {
        int bit = w.phase[i] == TL_PHASE_SECOND ? 2 : w.phase[i] == TL_PHASE_MATRIX ? 1 : 4;
        of[w.ids[i]] |= bit;
    }
    for (int i = 0; i < w.grains; i++) {
        bad += of[i] > 2;
        grains += of[i] > 0;
        second += of[i] == 2;
    }
    CHECK(bad == 0 && fabs(second / grains - 0.3) < 0.08, "%d grains of two phases; %g of the grains are of the second one", bad, second / grains);
    CHECK(!tl_world_mask(&w, TL_PHASES, 5, &mask), "%s", tl_error(NULL));
    for (int i = 0; i < S * S; i++) bad += ((uint8_t *)mask.pixels)[i] != (w.phase[i] > 0);
    CHECK(bad == 0, "the mask differs from the phases at %d pixels", bad);
    free(of);
    tl_world_free(&w);
    d.skip = TL_RUNG_ALL & ~(unsigned)TL_RUNG_DECORATION;     // and it can be told from the matrix, in any image
    for (uint32_t k = 0; k < 8; k++) {
        double grey[2] = { 0, 0 }, pixels[2] = { 0, 0 };
        w = make(&d, k);
        CHECK(!tl_render(&d, 0, k, &w, &mask), "%s", tl_error(NULL));
        for (int i = 0; i < S * S; i++) {
            int other = w.phase[i] == TL_PHASE_SECOND;
            grey[other] += ((uint8_t *)mask.pixels)[i];
            pixels[other]++;
        }
        double contrast = grey[1] / pixels[1] - grey[0] / pixels[0];
        CHECK(fabs(contrast) > 3, "the second phase differs by %g grey levels from the matrix", contrast);
        tl_world_free(&w);
    }
    d.skip = 0;
    double near_by = 0, objects = 0, all_near = 0;
    d.second_phase.lo = d.second_phase.hi = -1;
    d.precipitates.lo = d.precipitates.hi = 0.06f;
    d.diameter.lo = d.diameter.hi = 60;
    d.object_size.lo = d.object_size.hi = 5;
    for (uint32_t k = 0; k < 12; k++) {
        w = make(&d, k);
        for (int i = 0; i < S * S; i++) {
            int is_near = w.distance[i] < 3;
            all_near += (double)is_near / (12 * S * S);
            objects += w.phase[i] == TL_PHASE_PRECIPITATE;
            near_by += is_near && w.phase[i] == TL_PHASE_PRECIPITATE;
        }
        tl_world_free(&w);
    }
    CHECK(near_by / objects > 1.5 * all_near, "%g of the precipitates and %g of everything are at boundaries", near_by / objects, all_near);
    tl_image_free(&mask);
}

// Cubic B-splines on a lattice of random numbers correlate as the B-spline of degree 7.
static double spline7(double x)
{
    double sum = 0, sign = 1;
    for (int k = 0; k <= 8; k++) {
        if (x + 4 - k > 0) sum += sign * pow(x + 4 - k, 7);
        sign *= -(8.0 - k) / (k + 1);
    }
    return sum / 5040;
}

// Spacing and direction of the strongest wave inside a particle.
static void strongest_wave(const tl_world *w, const uint8_t *grey, int32_t id, double *period, double *degrees)
{
    double most = -1, mean = 0, n = 0;
    for (int i = 0; i < w->width * w->height; i++) {
        if (w->ids[i] != id) continue;
        mean += grey[i];
        n++;
    }
    mean /= n;
    for (double p = 3; p < 7; p += 0.1) {
        for (double a = 0; a < 180; a += 4) {
            double kx = 6.2831853 / p * cos(a * 0.0174532925), ky = 6.2831853 / p * sin(a * 0.0174532925), re = 0, im = 0;
            for (int i = 0; i < w->width * w->height; i++) {
                if (w->ids[i] != id) continue;
                double phase = kx * (i % w->width) + ky * (i / w->width);
                re += (grey[i] - mean) * cos(phase);
                im += (grey[i] - mean) * sin(phase);
            }
            if (re * re + im * im <= most) continue;
            most = re * re + im * im;
            *period = p;
            *degrees = a;
        }
    }
}

// Pixels of a particle, and one of them; 0 if the frame cuts it.
static double whole_area(const tl_world *w, int32_t id, int *inside)
{
    double area = 0;
    int cut = 0;
    for (int y = 0; y < w->height; y++) {
        for (int x = 0; x < w->width; x++) {
            if (w->ids[y * w->width + x] != id) continue;
            area++;
            *inside = y * w->width + x;
            cut |= x == 0 || y == 0 || x == w->width - 1 || y == w->height - 1;
        }
    }
    return cut ? 0 : area;
}

// Nanoparticles on amorphous carbon: discs of the wanted size where the labels say, fringes inside, speckle outside.
static void test_particles(void)
{
    enum { S = 300 };
    tl_grains_desc d = nothing_special(S, S, 28);
    tl_image picture, mask;
    memset(&picture, 0, sizeof picture);
    memset(&mask, 0, sizeof mask);
    d.look = TL_LOOK_TEM;
    d.source = TL_PARTICLES;
    d.shape = TL_SHAPE_SPHERE;
    d.skip = TL_RUNG_DECORATION | TL_RUNG_BOUNDARY;
    d.grey.lo = d.grey.hi = 0.5f;
    d.fringes.lo = d.fringes.hi = 0.15f;
    d.fringe_period.lo = d.fringe_period.hi = 4.5f;
    tl_world w = make(&d, 0);
    static int32_t parts[S * S];
    int bad = 0, tried = 0;
    CHECK(w.grains - 1 >= 25 && w.grains - 1 <= 37, "%d particles, a quarter of the area would be 36", w.grains - 1);
    CHECK(tl__components(w.ids, S, S, 0, parts) == w.grains, "particles touch or are in pieces");
    CHECK(!tl_render(&d, 0, 0, &w, &picture) && !tl_world_mask(&w, TL_PHASES, 5, &mask), "%s", tl_error(NULL));
    const uint8_t *grey = (const uint8_t *)picture.pixels, *m = (const uint8_t *)mask.pixels;
    for (int i = 0; i < S * S; i++) {
        bad += (w.phase[i] == TL_PHASE_PRECIPITATE) != (w.ids[i] > 0) || m[i] != (w.ids[i] > 0);
        bad += w.ids[i] == 0 && grey[i] != 128;
    }
    CHECK(bad == 0, "%d pixels with a wrong phase or mask, or marks on the bare support", bad);
    for (int32_t id = 1; id < w.grains && tried < 5; id++) {
        int inside = 0;
        double area = whole_area(&w, id, &inside), period = 0, degrees = 0;
        if (area == 0) continue;
        CHECK(fabs(area / 615.75 - 1) < 0.04, "particle %d: %g pixels, not those of a circle of 28", (int)id, area);
        strongest_wave(&w, grey, id, &period, &degrees);
        double want = 2 * (double)w.angle[inside] * 57.29578, off = fabs(fmod(degrees - want + 450, 180) - 90);
        CHECK(fabs(period - 4.5) < 0.25 && off < 6, "particle %d: fringes of %.1f px at %g degrees, not 4.5 at %g", (int)id, period, degrees, want);
        tried++;
    }
    CHECK(tried == 5, "%d whole particles", tried);
    d.shape = TL_SHAPE_ROD;                                   // of the same area, up to the corners: (pi + 4 (s - 1)) / s
    tl_world rods = make(&d, 0);
    int whole = 0;
    for (int32_t id = 1; id < rods.grains; id++) {
        int inside;
        double area = whole_area(&rods, id, &inside);
        CHECK(area == 0 || (area / 196 > 3.6 && area / 196 < 3.9), "a rod of %g pixels", area);
        whole += area > 0;
    }
    CHECK(whole > 0, "no whole rod to measure");
    tl_world_free(&rods);
    d.fringes.lo = d.fringes.hi = -1;
    d.speckle.lo = d.speckle.hi = 0.08f;
    CHECK(!tl_render(&d, 0, 0, &w, &picture), "%s", tl_error(NULL));
    grey = (const uint8_t *)picture.pixels;
    for (int lag = 0; lag < 8; lag++) {
        double sum = 0, n = 0;
        for (int i = 0; i < S * S; i++) {
            if (i % S + lag >= S || w.ids[i] || w.ids[i + lag]) continue;
            sum += (grey[i] - 127.5) * (grey[i + lag] - 127.5) / (255.0 * 255 * 0.08 * 0.08);
            n++;
        }
        double want = (spline7(lag / 1.6) + 0.25 * spline7(lag / 5.0)) / 1.25 * 315 / 151;
        CHECK(fabs(sum / n - want) < 0.05, "speckle: correlation %.3f over %d pixels, %.3f wanted", sum / n, lag, want);
    }
    tl_world_free(&w);
    tl_image_free(&picture);
    tl_image_free(&mask);
}

// ---- effects, one by one -------------------------------------------------------------------

static void set_to(tl_range *range, double value) { range->lo = range->hi = (float)value; }

static const uint8_t *grey_of(const tl_grains_desc *d, uint32_t index, const tl_world *w, tl_image *image)
{
    if (w) CHECK(!tl_render(d, 0, index, w, image), "%s", tl_error(NULL));
    else CHECK(!tl_grains(d, 0, index, NULL, NULL, image), "%s", tl_error(NULL));
    return (const uint8_t *)image->pixels;
}

// A left and a right grain.
static tl_world halves_world(int width, int height)
{
    tl_world w;
    int32_t *ids = (int32_t *)calloc((size_t)width * (size_t)height, sizeof *ids);
    for (int i = 0; ids && i < width * height; i++) ids[i] = i % width >= width / 2;
    CHECK(ids && !tl_world_from_ids(&w, ids, width, height), "%s", tl_error(NULL));
    free(ids);
    return w;
}

// Each effect alone changes the picture and not the labels; switched off again it leaves every bit as it was.
static void test_switches(void)
{
    enum { S = 128 };
#define EFFECT(name, value) { #name, offsetof(tl_grains_desc, name), value }
    static const struct { const char *name; size_t at; float value; } effects[] = {
        EFFECT(grain_contrast, 0.1f), EFFECT(texture, 0.05f), EFFECT(relief, 0.3f), EFFECT(speckle, 0.1f), EFFECT(ragged, 0.5f), EFFECT(zones, 0.5f),
        EFFECT(mottle, 0.5f), EFFECT(hollow, 0.7f), EFFECT(pitting, 0.3f), EFFECT(gaps, 0.3f), EFFECT(scratches, 3), EFFECT(spots, 40), EFFECT(rings, 2),
        EFFECT(islands, 1), EFFECT(shading, 0.1f), EFFECT(contamination, 2), EFFECT(charging, 0.3f), EFFECT(scan, 2), EFFECT(blur, 1), EFFECT(smoothing, 1),
        EFFECT(electrons, 200), EFFECT(read_noise, 0.05f)
    };
    tl_grains_desc d = nothing_special(S, S, 40);
    tl_image plain, image, plain_mask, mask;
    memset(&plain, 0, sizeof plain);
    memset(&image, 0, sizeof image);
    memset(&plain_mask, 0, sizeof plain_mask);
    memset(&mask, 0, sizeof mask);
    static int32_t ids[2][S * S];
    set_to(&d.line, 8);
    set_to(&d.read_noise, 0.02);                                 // smoothing needs something to smooth
    CHECK(!tl_grains(&d, 0, 0, ids[0], &plain_mask, &plain), "%s", tl_error(NULL));
    for (size_t k = 0; k < sizeof effects / sizeof *effects; k++) {
        tl_range *range = (tl_range *)(void *)((char *)&d + effects[k].at), off = *range;
        set_to(range, (double)effects[k].value);
        CHECK(!tl_grains(&d, 0, 0, ids[1], &mask, &image), "%s: %s", effects[k].name, tl_error(NULL));
        CHECK(memcmp(plain.pixels, image.pixels, S * S) != 0, "%s changes nothing", effects[k].name);
        CHECK(memcmp(plain_mask.pixels, mask.pixels, S * S) == 0 && memcmp(ids[0], ids[1], sizeof ids[0]) == 0, "%s changes the labels", effects[k].name);
        *range = off;
        if (off.lo < 0) set_to(range, -0.5 * (double)effects[k].value < -0.9 ? -0.9 : -0.5 * (double)effects[k].value);      // off all the same
        CHECK(memcmp(grey_of(&d, 0, NULL, &image), plain.pixels, S * S) == 0, "%s leaves something when it is off", effects[k].name);
        *range = off;
    }
    tl_image_free(&plain);
    tl_image_free(&image);
    tl_image_free(&plain_mask);
    tl_image_free(&mask);
}

// Texture, relief and the lines of boundaries: amounts.
static void test_effects_of_grains(void)
{
    enum { W = 64, H = 640, N = 12 };
    tl_grains_desc d = nothing_special(W, H, 60);
    tl_image image;
    memset(&image, 0, sizeof image);
    tl_world w = halves_world(W, H);
    set_to(&d.grey, 0.6);
    d.skip = TL_RUNG_ALL & ~(unsigned)TL_RUNG_TEXTURE;
    set_to(&d.relief, 0.4);
    const uint8_t *p = grey_of(&d, 0, &w, &image);
    double worst = 0, square = 0, seen = 0, all = 0, near_by = 0, near_pits = 0, far_pits = 0, middle = 0, sides = 0;
    for (int i = 0; i < W * H; i++) worst = fmax(worst, fabs(p[i] / 255.0 - 0.6 + 0.4 * exp(-fabs(i % W - 31.5) / (0.1 * (double)w.diameter))));
    CHECK(worst < 0.003, "relief is off by %g", worst);
    set_to(&d.relief, -1);
    set_to(&d.texture, 0.08);
    for (uint32_t k = 0; k < N; k++) {
        p = grey_of(&d, k, &w, &image);
        for (int i = 0; i < W * H; i++) square += pow(p[i] / 255.0 - 0.6, 2) / (N * W * H);
    }
    CHECK(fabs(sqrt(square) / 0.08 - 1) < 0.08, "texture of %g, not 0.08", sqrt(square));
    d.skip = TL_RUNG_ALL & ~(unsigned)TL_RUNG_BOUNDARY;
    set_to(&d.line, 6);
    set_to(&d.boundary, -1);
    set_to(&d.gaps, 0.3);
    for (uint32_t k = 0; k < N; k++) {
        p = grey_of(&d, k, &w, &image);
        for (int y = 0; y < H; y++) {
            seen += p[y * W + 31] < 76;
            all++;
        }
    }
    CHECK(fabs(seen / all - 0.7) < 0.07, "gaps of 0.3: %.3f of the boundary is seen", seen / all);
    set_to(&d.gaps, -1);
    set_to(&d.pitting, 0.5);
    int beyond = 0;
    for (uint32_t k = 0; k < N; k++) {
        p = grey_of(&d, k, &w, &image);
        for (int i = 0; i < W * H; i++) {
            double away = fabs(i % W - 31.5) - 3;
            int pit = p[i] < 115;
            if (away > 0.7 && away < 2) { near_by++; near_pits += pit; }
            if (away > 12 && away < 13.3) far_pits += pit;
            beyond += away < 0 ? p[i] > 1 && away < -0.5 : 0;
        }
    }
    CHECK(beyond == 0 && near_pits / near_by > 0.15 && near_pits / near_by < 0.5 && far_pits < 0.4 * near_pits, "pits over %.3f beside the line, %.3f farther off",
          near_pits / near_by, far_pits / near_by);
    set_to(&d.pitting, -1);
    set_to(&d.hollow, 0.8);
    set_to(&d.line, 16);
    for (uint32_t k = 0; k < N; k++) {
        p = grey_of(&d, k, &w, &image);
        for (int y = 0; y < H; y++) {
            middle += p[y * W + 31] / (255.0 * N * H);
            sides += p[y * W + 25] / (255.0 * N * H);
        }
    }
    CHECK(sides < 0.01 && middle > 0.2 && middle < 0.48, "a hollow line has grey %.3f in its middle, %.3f at its sides", middle, sides);
    tl_world_free(&w);
    tl_image_free(&image);
}

// Connected groups of the pixels that differ from `base`: centre, roots of the second moments, number of pixels.
typedef struct spot_part { double x, y, thick, long_, pixels; } spot_part;

static int changed_parts(const uint8_t *p, int width, int height, int base, spot_part *out, int most)
{
    int32_t *labels = (int32_t *)calloc((size_t)(width * height), 2 * sizeof *labels), *parts = labels + width * height;
    int found = 0;
    for (int i = 0; i < width * height; i++) labels[i] = p[i] != base;
    int count = tl__components(labels, width, height, 0, parts);
    double (*sums)[6] = (double (*)[6])calloc((size_t)count, sizeof *sums);
    for (int i = 0; i < width * height; i++) {
        double x = i % width, y = i / width, *s = sums[parts[i]];
        if (!labels[i]) continue;
        s[0]++; s[1] += x; s[2] += y; s[3] += x * x; s[4] += x * y; s[5] += y * y;
    }
    for (int k = 0; k < count && found < most; k++) {
        const double *s = sums[k];
        if (s[0] == 0) continue;
        double x = s[1] / s[0], y = s[2] / s[0], xx = s[3] / s[0] - x * x, xy = s[4] / s[0] - x * y, yy = s[5] / s[0] - y * y;
        double apart = sqrt((xx - yy) * (xx - yy) + 4 * xy * xy);
        out[found].x = x;
        out[found].y = y;
        out[found].pixels = s[0];
        out[found].thick = sqrt(fmax(0.5 * (xx + yy - apart), 0));
        out[found++].long_ = sqrt(0.5 * (xx + yy + apart));
    }
    free(sums);
    free(labels);
    return found;
}

// Lines through a point at any angle: every pixel on them is marked, none that is farther than half the width and a pixel; dashes
// leave out about half; a line of one grain ends with it.
static void test_lines(void)
{
    enum { S = 120 };
    static float grey[S * S];
    tl_world w = halves_world(S, S);
    tl__picture view;
    memset(&view, 0, sizeof view);
    view.world = &w;
    view.width = view.height = S;
    view.planes = 1;
    view.pixels = S * S;
    view.image = grey;
    for (int degrees = 0; degrees < 180; degrees += 7) {
        double c = cos(degrees * 0.0174532925), s = sin(degrees * 0.0174532925), dashed = 0, full = 0;
        for (int kind = 0; kind < 3; kind++) {
            int stray = 0, bare = 0, abroad = 0;
            for (int i = 0; i < S * S; i++) grey[i] = 1;
            tl__add_line(&view, 61.3f, 60.2f, (float)(degrees * 0.0174532925), 80, 2, -0.5f, kind == 1 ? w.ids[60 * S + 61] : -1, kind == 2 ? 4 : 0);
            for (int i = 0; i < S * S; i++) {
                double along = (i % S - 61.3) * c + (i / S - 60.2) * s, across = (i / S - 60.2) * c - (i % S - 61.3) * s;
                int inside = kind != 1 || i % S >= S / 2;
                stray += grey[i] < 1 && (fabs(across) > 2 || fabs(along) > 42);
                bare += kind < 2 && inside && fabs(across) < 0.9 && fabs(along) < 38 && grey[i] > 0.75f;
                abroad += !inside && grey[i] < 1;
                if (kind == 0) full += grey[i] < 1;
                if (kind == 2) dashed += grey[i] < 1;
            }
            CHECK(stray == 0 && bare == 0 && abroad == 0, "a line at %d degrees: %d pixels too far, %d missing, %d in another grain", degrees, stray, bare, abroad);
        }
        CHECK(dashed > 0.15 * full && dashed < 0.85 * full, "a dashed line at %d degrees has %g of %g pixels", degrees, dashed, full);
    }
    tl_world_free(&w);
}

// Share of n images that an effect leaves untouched.
static double untouched(const tl_grains_desc *d, const tl_world *w, int n, int base)
{
    tl_image image;
    int clean = 0;
    memset(&image, 0, sizeof image);
    for (int k = 0; k < n; k++) {
        const uint8_t *p = grey_of(d, (uint32_t)k, w, &image);
        int same = 1;
        for (int i = 0; i < w->width * w->height && same; i++) same = p[i] == base;
        clean += same;
    }
    tl_image_free(&image);
    return (double)clean / n;
}

static void test_artefacts(void)
{
    enum { S = 200, BASE = 153, MOST = 4000 };
    static spot_part parts[MOST];
    tl_grains_desc d = nothing_special(S, S, 50);
    tl_image image, mask, mask_off;
    memset(&image, 0, sizeof image);
    memset(&mask, 0, sizeof mask);
    memset(&mask_off, 0, sizeof mask_off);
    d.skip = TL_RUNG_ALL & ~(unsigned)TL_RUNG_ARTEFACTS;
    set_to(&d.grey, 0.6);
    tl_world w = make(&d, 0);
    const uint8_t *p = grey_of(&d, 0, &w, &image);
    for (int i = 0; i < S * S; i++) if (p[i] != BASE) { CHECK(0, "something is left when all is off"); break; }

    // Scratches: straight and thin.
    int straight = 0, crooked = 0;
    set_to(&d.scratches, 0.5);
    for (uint32_t k = 0; k < 12; k++) {
        int n = changed_parts(grey_of(&d, k, &w, &image), S, S, BASE, parts, MOST);
        for (int i = 0; i < n; i++) {
            if (parts[i].pixels < 15) continue;
            if (parts[i].thick < 1.2 && parts[i].long_ > 3 * parts[i].thick) straight++;
            else crooked++;
        }
    }
    CHECK(straight > 20 && straight > 2 * crooked, "scratches: %d straight, %d not (bundles and crossings)", straight, crooked);
    set_to(&d.scratches, -1);

    // Pits: as many as wanted but for those that some grains are spared; small, and most of them near boundaries.
    double count = 0, close_by = 0, spread = 0, changed = 0, largest = 0;
    set_to(&d.spots, 12);
    for (uint32_t k = 0; k < 16; k++) {
        p = grey_of(&d, k, &w, &image);
        int n = changed_parts(p, S, S, BASE, parts, MOST);
        for (int i = 0; i < n; i++) largest = fmax(largest, parts[i].thick);
        count += n / (16 * 48.0);                             // of 12 in 100 x 100 pixels
        for (int i = 0; i < S * S; i++) {
            changed += p[i] != BASE;
            if (p[i] != BASE) close_by += (double)w.distance[i];
            spread += (double)w.distance[i] / (16 * S * S);
        }
    }
    CHECK(count > 0.5 && count < 1 && largest < 14 && close_by / changed < 0.7 * spread, "pits: %.2f of the wanted number, up to %g thick, %g from boundaries (all: %g)",
          count, largest, close_by / changed, spread);
    set_to(&d.spots, -1);

    // Rings: a Poisson number of discs with radii of 3.5 to 9, darkest at the rim.
    set_to(&d.rings, 0.25);
    CHECK(fabs(untouched(&d, &w, 120, BASE) - exp(-1)) < 0.11, "rings: %.3f of the images have none, not exp(-1)", untouched(&d, &w, 120, BASE));
    for (uint32_t k = 0; k < 10; k++) {
        p = grey_of(&d, k, &w, &image);
        int n = changed_parts(p, S, S, BASE, parts, MOST);
        for (int i = 0; i < n; i++) {
            const spot_part *q = &parts[i];
            int round = q->long_ < 1.05 * q->thick, x = (int)(q->x + 0.5), y = (int)(q->y + 0.5);     // whole, and on its own
            if (!round) continue;
            double radius = 2 * q->thick;                     // of a disc: twice the root of the second moment
            int rim = x + (int)(radius - 1.5);
            CHECK(radius > 3.2 && radius < 9.8 && p[y * S + x] >= p[y * S + rim] && p[y * S + rim] < BASE, "a ring of radius %g, grey %d in the middle and %d at the rim",
                  radius, p[y * S + x], p[y * S + rim]);
        }
    }
    set_to(&d.rings, -1);

    // Islands: a bright piece at every junction, within two and a half lines of it.
    set_to(&d.islands, 1);
    set_to(&d.line, 6);
    p = grey_of(&d, 4, &w, &image);
    int outside = 0, missing = 0;
    for (int i = 0; i < S * S; i++) {
        double least = 1e9;
        for (int k = 0; k < w.junction_count; k++) least = fmin(least, hypot(i % S - (double)w.junctions[2 * k], i / S - (double)w.junctions[2 * k + 1]));
        outside += p[i] != BASE && least > 15;
    }
    for (int k = 0; k < w.junction_count; k++) missing += p[(int)w.junctions[2 * k + 1] * S + (int)w.junctions[2 * k]] == BASE;
    CHECK(outside == 0 && missing <= w.junction_count / 20 && w.junction_count > 20, "islands: %d pixels far off, %d of %d junctions without", outside, missing, w.junction_count);
    set_to(&d.islands, -1);

    // Uneven light: slow changes alone, as strong as wanted.
    double square = 0, sharpest = 0;
    set_to(&d.shading, 0.1);
    for (uint32_t k = 0; k < 30; k++) {
        p = grey_of(&d, k, &w, &image);
        for (int i = 0; i < S * S; i++) {
            square += pow(p[i] / 153.0 - 1, 2) / (30.0 * S * S);
            if (i % S >= 8 && i % S < S - 8) sharpest = fmax(sharpest, abs(p[i - 8] + p[i + 8] - 2 * p[i]));
        }
    }
    CHECK(fabs(sqrt(square) / 0.1 - 1) < 0.25 && sharpest < 7, "uneven light: %.3f, not 0.1; curvature %g grey levels", sqrt(square), sharpest);
    set_to(&d.shading, -1);

    // Contamination: a Poisson number of soft stains, darker by at most 0.6 and brighter by at most a quarter each.
    set_to(&d.contamination, 0.25);
    CHECK(fabs(untouched(&d, &w, 120, BASE) - exp(-1)) < 0.12, "stains: %.3f of the images have none, not exp(-1)", untouched(&d, &w, 120, BASE));
    int sharp = 0, longer = 0, whole = 0;
    for (uint32_t k = 0; k < 40; k++) {
        p = grey_of(&d, k, &w, &image);
        for (int i = 1; i < S * S; i++) sharp += i % S > 0 && abs(p[i] - p[i - 1]) > 40;
        int n = changed_parts(p, S, S, BASE, parts, MOST);
        for (int i = 0; i < n; i++) {
            whole += parts[i].pixels > 60;
            longer += parts[i].pixels > 60 && parts[i].long_ > 1.5 * parts[i].thick;
        }
    }
    CHECK(sharp == 0 && longer > whole / 4 && longer < whole, "stains: %d sharp edges, %d of %d are elongated", sharp, longer, whole);
    set_to(&d.contamination, -1);

    // Charging: streaks that begin somewhere in a row and fade to the right.
    int rows = 0, fading = 0;
    set_to(&d.charging, 0.4);
    for (uint32_t k = 0; k < 10; k++) {
        p = grey_of(&d, k, &w, &image);
        for (int y = 0; y < S; y++) {
            const uint8_t *row = p + y * S;
            int x = 0, ok = 1;
            while (x < S && row[x] == BASE) x++;
            if (x == S) continue;
            rows++;
            for (x++; x < S; x++) ok &= abs(row[x] - BASE) <= abs(row[x - 1] - BASE);
            fading += ok;
        }
    }
    CHECK(rows > 50 && rows <= 10 * (S / 24) && fading > 9 * rows / 10, "charging: %d streaks, %d of them fade", rows, fading);
    set_to(&d.charging, -1);
    tl_world_free(&w);

    // The scan: rows of a vertical line move, with the wanted deviation, and keep what they show; rows of one grey do not
    // change; the labels stay.
    enum { W = 96, H = 400 };
    w = halves_world(W, H);
    d.skip &= ~(unsigned)TL_RUNG_BOUNDARY;
    double moved = 0, lost = 0;
    set_to(&d.scan, 2);
    for (uint32_t k = 0; k < 12; k++) {
        p = grey_of(&d, k, &w, &image);
        for (int y = 0; y < H; y++) {
            double sum = 0, at = 0;
            for (int x = 0; x < W; x++) {
                sum += BASE - p[y * W + x];
                at += x * (double)(BASE - p[y * W + x]);
            }
            moved += pow(at / sum - 47.5, 2) / (12 * H);
            lost = fmax(lost, fabs(sum - 6 * 0.8 * BASE));
        }
    }
    CHECK(fabs(sqrt(moved) / (2 * 0.915) - 1) < 0.15 && lost < 8, "rows move by %.3f pixels, %.3f wanted; %g grey levels are lost", sqrt(moved), 2 * 0.915, lost);
    tl_world_free(&w);
    w = empty_world(W, H);
    CHECK(untouched(&d, &w, 1, BASE) == 1, "the scan changes rows of one grey");
    tl_world_free(&w);
    CHECK(!tl_grains(&d, 0, 0, NULL, &mask, &image), "%s", tl_error(NULL));
    set_to(&d.scan, -1);
    CHECK(!tl_grains(&d, 0, 0, NULL, &mask_off, &image) && memcmp(mask.pixels, mask_off.pixels, S * S) == 0, "the labels move with the scan");
    tl_image_free(&image);
    tl_image_free(&mask);
    tl_image_free(&mask_off);
}

// Blur widens a line by its variance; smoothing correlates the noise as its kernel says.
static void test_microscope(void)
{
    enum { W = 96, H = 64, S = 256 };
    tl_grains_desc d = nothing_special(W, H, 50);
    tl_image image;
    memset(&image, 0, sizeof image);
    tl_world w = halves_world(W, H);
    double variance[2];
    set_to(&d.grey, 0.6);
    set_to(&d.line, 6);
    for (int k = 0; k < 2; k++) {
        double sum = 0, square = 0;
        if (k) set_to(&d.blur, 2.5);
        const uint8_t *p = grey_of(&d, 0, &w, &image);
        for (int i = 0; i < W * H; i++) {
            sum += 153 - p[i];
            square += (153 - p[i]) * pow(i % W - 47.5, 2);
        }
        variance[k] = square / sum;
    }
    CHECK(fabs((variance[1] - variance[0]) / 6.25 - 1) < 0.06, "a blur of 2.5 adds %g to the variance of a line, not 6.25", variance[1] - variance[0]);
    tl_world_free(&w);
    w = empty_world(S, S);
    set_to(&d.blur, -1);
    set_to(&d.read_noise, 0.08);
    set_to(&d.smoothing, 0.9);
    const uint8_t *p = grey_of(&d, 0, &w, &image);
    double weight[4], total = 0, squares = 0, products = 0, sum = 0, next = 0;
    for (int k = 0; k < 4; k++) total += (k ? 2 : 1) * (weight[k] = exp(-0.5 * k * k / 0.81));
    for (int k = -3; k <= 3; k++) {
        squares += pow(weight[abs(k)] / total, 2);
        if (k < 3) products += weight[abs(k)] * weight[abs(k + 1)] / (total * total);
    }
    for (int i = 0; i < S * S - 1; i++) {
        if (i % S == S - 1) continue;
        sum += pow((p[i] - 153) / 255.0, 2) / (S * (S - 1));
        next += (p[i] - 153) * (p[i + 1] - 153) / (255.0 * 255 * S * (S - 1));
    }
    CHECK(fabs(sum / (0.0064 * squares * squares) - 1) < 0.06, "smoothed noise has variance %g, %g wanted", sum, 0.0064 * squares * squares);
    CHECK(fabs(next / sum - products / squares) < 0.03, "neighbours correlate by %.3f, %.3f wanted", next / sum, products / squares);
    tl_world_free(&w);
    tl_image_free(&image);
}

// ---- looks ---------------------------------------------------------------------------------

enum { LOOK_SIZE = 96, LOOK_COUNT = 6, LOOK_KINDS = 5 };
typedef struct look_result {
    tl_image mask, image;
    int32_t  ids[LOOK_SIZE * LOOK_SIZE];
} look_result;

static tl_grains_desc of_look(int kind)
{
    tl_grains_desc d;
    memset(&d, 0, sizeof d);
    d.width = d.height = LOOK_SIZE;
    d.label_width = 5;
    d.look = kind < 4 ? (tl_look)(kind + 1) : TL_LOOK_TEM;
    d.source = kind < 4 ? TL_VORONOI : TL_PARTICLES;
    return d;
}

static void draw_look(void *user, int unit, int worker)
{
    look_result *r = (look_result *)user + unit;
    tl_grains_desc d = of_look(unit / LOOK_COUNT);
    (void)worker;
    if (tl_grains(&d, 0, (uint32_t)(unit % LOOK_COUNT), r->ids, &r->mask, &r->image)) r->image.width = -1;
}

// Every preset look alone: not flat, inside the range, the mask where grains meet, and the same from any number of threads.
static void test_looks(void)
{
    enum { UNITS = LOOK_COUNT * LOOK_KINDS, PIXELS = LOOK_SIZE * LOOK_SIZE };
    static look_result serial[UNITS], parallel[UNITS];
    tl_pool *pool = tl_pool_new(3);
    tl_parallel_for(NULL, UNITS, draw_look, serial);
    tl_parallel_for(pool, UNITS, draw_look, parallel);
    tl_pool_free(pool);
    for (int u = 0; u < UNITS; u++) {
        const look_result *r = serial + u;
        const uint8_t *p = (const uint8_t *)r->image.pixels, *m = (const uint8_t *)r->mask.pixels;
        int far_off = 0, unmarked = 0, wrong = 0;
        double sum = 0, squares = 0;
        CHECK(r->image.width == LOOK_SIZE && r->image.channels == 1 && r->mask.width == LOOK_SIZE, "look %d cannot be drawn", u / LOOK_COUNT);
        if (r->image.width != LOOK_SIZE) continue;
        for (int y = 0; y < LOOK_SIZE; y++) {
            for (int x = 0; x < LOOK_SIZE; x++) {
                int i = y * LOOK_SIZE + x, meets = 0;
                sum += p[i] / 255.0 / PIXELS;
                squares += pow(p[i] / 255.0, 2) / PIXELS;
                wrong += m[i] > 1 || r->ids[i] < 0;
                for (int v = tl__max(y - 4, 0); v <= tl__min(y + 4, LOOK_SIZE - 1); v++)
                    for (int h = tl__max(x - 4, 0); h <= tl__min(x + 4, LOOK_SIZE - 1); h++) meets |= r->ids[v * LOOK_SIZE + h] != r->ids[i];
                far_off += m[i] && !meets;
                unmarked += !m[i] && x + 1 < LOOK_SIZE && r->ids[i] != r->ids[i + 1];
            }
        }
        double deviation = sqrt(squares - sum * sum);
        CHECK(sum > 0.05 && sum < 0.97 && deviation > 0.01 && deviation < 0.45, "look %d, image %d: grey %.3f +- %.3f", u / LOOK_COUNT, u % LOOK_COUNT, sum, deviation);
        CHECK(far_off == 0 && unmarked == 0 && wrong == 0, "look %d, image %d: mask off the boundary at %d pixels, boundary unmarked at %d", u / LOOK_COUNT, u % LOOK_COUNT, far_off, unmarked);
        CHECK(memcmp(p, parallel[u].image.pixels, PIXELS) == 0 && memcmp(m, parallel[u].mask.pixels, PIXELS) == 0 && memcmp(r->ids, parallel[u].ids, sizeof r->ids) == 0,
              "look %d, image %d differs with the number of threads", u / LOOK_COUNT, u % LOOK_COUNT);
        for (int j = 0; j < u % LOOK_COUNT; j++)
            CHECK(memcmp(p, serial[u - 1 - j].image.pixels, PIXELS) != 0, "two images of look %d are the same", u / LOOK_COUNT);
    }
    for (int u = 0; u < UNITS; u++) {
        tl_image_free(&serial[u].mask);
        tl_image_free(&serial[u].image);
        tl_image_free(&parallel[u].mask);
        tl_image_free(&parallel[u].image);
    }
}

// ---- simulations ---------------------------------------------------------------------------

// Exponent of y over x between the first and the last of n points, by least squares in logarithms.
static double exponent(const double *x, const double *y, int n)
{
    double sx = 0, sy = 0, sxx = 0, sxy = 0;
    for (int i = 0; i < n; i++) {
        double u = log(x[i]), v = log(y[i]);
        sx += u; sy += v; sxx += u * u; sxy += u * v;
    }
    return (n * sxy - sx * sy) / (n * sxx - sx * sx);
}

static void test_potts(void)
{
    enum { L = 160 };
    static int32_t ids[L * L];
    tl_rng rng = tl_rng_at(3, TL_RANDOM_USER, 0, 0, 0);
    double t[4], radius[4];
    for (int i = 0; i < L * L; i++) ids[i] = i;
    for (int k = 0, done = 0; k < 4; k++) {
        int until = 40 << k;
        CHECK(!tl_potts(ids, L, L, 0.5, until - done, &rng), "%s", tl_error(NULL));
        done = until;
        t[k] = until;
        radius[k] = sqrt((double)L * L / tl__renumber(ids, L * L, L * L));
    }
    double n = exponent(t, radius, 4);
    CHECK(n > 0.4 && n < 0.54, "Potts grains grow as t^%.3f, not t^0.5", n);
    printf("  Potts: R ~ t^%.3f\n", n);
    CHECK(tl_potts(ids, 2, 9, 0, 1, &rng) && tl_potts(NULL, 9, 9, 0, 1, &rng) && tl_potts(ids, 9, 9, -1, 1, &rng) && tl_potts(ids, 9, 9, 0, 1, NULL), "Potts that is not possible");
}

// A disc shrinks by curvature: dA/dt = -2 pi. Grains grow as t^1/2 once the start is forgotten.
static void test_phase_field(void)
{
    enum { L = 80, Q = 20, S = 112 };
    static float eta[Q * S * S];
    double area[3];
    for (int y = 0; y < L; y++)
        for (int x = 0; x < L; x++) {
            int in = (x - 40) * (x - 40) + (y - 40) * (y - 40) < 24 * 24;
            eta[y * L + x] = (float)in;
            eta[L * L + y * L + x] = (float)!in;
        }
    for (int k = 0; k < 3; k++) {
        CHECK(!tl_allen_cahn(eta, 2, L, L, k == 0 ? 100 : 200), "%s", tl_error(NULL));
        area[k] = 0;
        for (int i = 0; i < L * L; i++) area[k] += (double)(eta[i] * eta[i] / (eta[i] * eta[i] + eta[L * L + i] * eta[L * L + i]));
    }
    double rate = (area[0] - area[2]) / (400 * 0.15);
    CHECK(fabs(rate / 6.2831853 - 1) < 0.06, "a disc loses %.3f per time, not 2 pi", rate);
    static int32_t ids[S * S], parts[S * S];
    tl_rng rng = tl_rng_at(4, TL_RANDOM_USER, 0, 0, 0);
    memset(eta, 0, sizeof eta);
    for (int i = 0; i < S * S; i++) for (int q = 0; q < Q; q++) eta[q * S * S + i] = tl_random_uniform(&rng, 0, 0.1f);
    double t[4], radius[4];
    for (int k = 0, done = 0; k < 4; k++) {
        int until = 140 << k;
        CHECK(!tl_allen_cahn(eta, Q, S, S, until - done), "%s", tl_error(NULL));
        done = until;
        for (int i = 0; i < S * S; i++) {
            ids[i] = 0;
            for (int q = 1; q < Q; q++) if (eta[q * S * S + i] > eta[ids[i] * S * S + i]) ids[i] = q;
        }
        t[k] = until;
        radius[k] = sqrt((double)S * S / tl__components(ids, S, S, 1, parts));
    }
    double n = exponent(t, radius, 4);
    CHECK(n > 0.38 && n < 0.62, "phase-field grains grow as t^%.3f, not t^0.5", n);
    printf("  phase field: dA/dt = %.3f x -2 pi, R ~ t^%.3f\n", rate / 6.2831853, n);
    // Cahn-Hilliard keeps the mean and lowers the energy.
    float *c = eta;
    double mean[2] = { 0, 0 }, energy[2] = { 0, 0 };
    for (int i = 0; i < S * S; i++) c[i] = tl_random_uniform(&rng, -0.2f, 0.3f);
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < S * S; i++) {
            double v = (double)c[i], dx = (double)c[i / S * S + (i + 1) % S] - v, dy = (double)c[(i + S) % (S * S)] - v;
            mean[k] += v / (S * S);
            energy[k] += 0.25 * (v * v - 1) * (v * v - 1) + 0.25 * (dx * dx + dy * dy);
        }
        if (k == 0) CHECK(!tl_cahn_hilliard(c, S, S, 1500), "%s", tl_error(NULL));
    }
    CHECK(fabs(mean[0] - mean[1]) < 1e-5 && energy[1] < 0.6 * energy[0], "Cahn-Hilliard: mean %g, %g; energy %g, %g", mean[0], mean[1], energy[0], energy[1]);
}

// Onsager's energy and Yang's magnetisation.
static double exact_energy(double T)
{
    double k = 2 * sinh(2 / T) / (cosh(2 / T) * cosh(2 / T)), sum = 0;
    for (int i = 0; i < 2000; i++) sum += 1 / sqrt(1 - k * k * pow(sin((i + 0.5) * 1.5707963267948966 / 2000), 2)) / 2000;   // 2/pi K(k)
    double th = tanh(2 / T);
    return -1 / th * (1 + (2 * th * th - 1) * sum);
}

static void test_ising(void)
{
    enum { L = 64 };
    static int8_t s[L * L];
    static const double temperatures[] = { 1.8, 2.1, 2.2, 2.5, 3.0 };
    for (int wolff = 0; wolff < 2; wolff++)
        for (int k = 0; k < 5; k++) {
            double T = temperatures[k], m = 0, e = 0;
            int samples = 400;
            tl_rng rng = tl_rng_at(5, TL_RANDOM_USER, (uint32_t)wolff, (uint32_t)k, 0);
            for (int i = 0; i < L * L; i++) s[i] = 1;
            CHECK(!tl_ising(s, L, L, T, 100, wolff, &rng), "%s", tl_error(NULL));
            for (int i = 0; i < samples; i++) {
                int up = 0, bonds = 0;
                CHECK(!tl_ising(s, L, L, T, wolff ? 1 : 2, wolff, &rng), "%s", tl_error(NULL));
                for (int j = 0; j < L * L; j++) {
                    up += s[j];
                    bonds += s[j] * (s[j / L * L + (j + 1) % L] + s[(j + L) % (L * L)]);
                }
                m += fabs((double)up) / (L * L) / samples;
                e -= (double)bonds / (L * L) / samples;
            }
            double want = T < 2.2692 ? pow(1 - pow(sinh(2 / T), -4), 0.125) : 0;
            CHECK(fabs(e - exact_energy(T)) < 0.015, "Ising T = %g, %s: energy %.4f, exact %.4f", T, wolff ? "Wolff" : "Metropolis", e, exact_energy(T));
            if (T < 2.2692) CHECK(fabs(m - want) < 0.015, "Ising T = %g, %s: magnetisation %.4f, exact %.4f", T, wolff ? "Wolff" : "Metropolis", m, want);
            else CHECK(m < 0.2, "Ising T = %g: magnetisation %.3f", T, m);
        }
    s[7] = 3;
    tl_rng rng = tl_rng_at(5, TL_RANDOM_USER, 0, 0, 0);
    CHECK(tl_ising(s, L, L, 2, 1, 0, &rng) == TL_ERR_ARGUMENT && strstr(tl_error(NULL), "spin 7"), "%s", tl_error(NULL));
}

// ---- measurement ---------------------------------------------------------------------------

static void test_measure(void)
{
    // 5 x 4 squares of 20 pixels with lines of 2 pixels between them.
    enum { W = 108, H = 86 };
    tl_image mask;
    memset(&mask, 0, sizeof mask);
    CHECK(!tl_image_alloc(&mask, W, H, 1, TL_U8), "%s", tl_error(NULL));
    uint8_t *p = (uint8_t *)mask.pixels;
    for (int y = 0; y < H; y++) for (int x = 0; x < W; x++) p[y * W + x] = x % 22 >= 20 || y % 22 >= 20;
    tl_measurement m;
    static int32_t ids[W * H];
    CHECK(!tl_measure(&mask, 0, &m, ids), "%s", tl_error(NULL));
    CHECK(m.grains == 20 && m.cut == 14 && m.open_ends == 0 && m.closed > 0.97, "squares: %d grains, %d cut, %d open ends, closed %g", m.grains, m.cut, m.open_ends, m.closed);
    CHECK(fabs(m.per_pixel * W * H - (6 + 5 + 1)) < 1e-9, "6 inside, 10 at sides, 4 at corners: %g", m.per_pixel * W * H);
    CHECK(fabs(m.mean_area - 484) < 1 && fabs(m.mean_aspect - 1) < 0.01 && m.mean_neighbours == 4, "squares: area %g, aspect %g, neighbours %g", m.mean_area, m.mean_aspect, m.mean_neighbours);
    // rows cross 4 boundaries in 108 pixels, columns 3 in 86
    double crossings = 4.0 * H + 3.0 * W;
    CHECK(fabs(m.mean_intercept - 2.0 * W * H / crossings) < 1e-9, "intercept %g", m.mean_intercept);
    double planimetric, intercept, nothing;
    CHECK(tl_astm_e112(&m, 0, &planimetric, &intercept) == TL_ERR_ARGUMENT && strstr(tl_error(NULL), "size of a pixel"), "%s", tl_error(NULL));
    m.per_pixel = 1e-6 * 15.50;      // at 1 um per pixel: 15.50 per mm^2, which is 1 per square inch at 100x
    m.mean_intercept = 320;          // um: G = 0 of the standard's table
    CHECK(!tl_astm_e112(&m, 1, &planimetric, &intercept) && fabs(planimetric - 1) < 0.003 && fabs(intercept) < 0.01, "ASTM %g, %g", planimetric, intercept);
    CHECK(!tl_astm_e112(&m, 0.5, &nothing, NULL) && fabs(nothing - planimetric - 2) < 1e-5, "half the pixel, four times the number: G + 2");
    tl_measurement_free(&m);
    // A line that ends inside a grain.
    for (int x = 22; x < 33; x++) p[32 * W + x] = p[33 * W + x] = 1;
    CHECK(!tl_measure(&mask, 0, &m, NULL) && m.open_ends == 1 && m.closed < 0.99, "an open line: %d ends, closed %g", m.open_ends, m.closed);
    tl_measurement_free(&m);
    memset(p, 1, W * H);
    CHECK(tl_measure(&mask, 0, &m, NULL) == TL_ERR_ARGUMENT, "a mask without grains");
    memset(p, 0, W * H);
    CHECK(!tl_measure(&mask, 0, &m, NULL) && m.grains == 1 && m.cut == 1 && m.mean_area != m.mean_area, "one grain, cut: no mean");
    tl_measurement_free(&m);
    // Exact junctions of a hexagonal pattern: 120 degrees.
    enum { S = 260 };
    static int32_t hexagons[S * S];
    float points[2 * 100];
    int n = 0;
    for (int j = -1; j < 8; j++) for (int i = -1; i < 8; i++) {
        points[2 * n] = (float)(40 * i + (j % 2 ? 20 : 0));
        points[2 * n++ + 1] = 34.641f * (float)j;
    }
    CHECK(!tl_voronoi(points, n, S, S, hexagons) && !tl_measure_ids(hexagons, S, S, &m), "%s", tl_error(NULL));
    CHECK(m.junctions_measured > 40 && m.junction_angle_std < 9 && m.mean_neighbours == 6, "hexagons: %d junctions, +- %g, %g neighbours", m.junctions_measured, m.junction_angle_std, m.mean_neighbours);
    CHECK(fabs(m.mean_area / (40 * 34.641) - 1) < 0.01 && m.area_variance < 1e-3, "hexagons: area %g", m.mean_area);
    tl_measurement_free(&m);
    tl_image_free(&mask);
}

static void test_baselines(void)
{
    tl_grains_desc d = nothing_special(192, 160, 40);
    d.label_width = 3;
    tl_image image, truth, mask;
    memset(&image, 0, sizeof image);
    memset(&truth, 0, sizeof truth);
    memset(&mask, 0, sizeof mask);
    static int32_t ids[192 * 160];
    tl_score s = { 0 };
    CHECK(!tl_grains(&d, 0, 0, NULL, &truth, &image), "%s", tl_error(NULL));
    CHECK(!tl_otsu(&image, &mask) && !tl_compare_masks(&mask, &truth, 1, &s) && s.boundary_f1 > 0.98, "Otsu on clean lines: %g", s.boundary_f1);
    CHECK(!tl_canny(&image, 1, &mask) && !tl_compare_masks(&mask, &truth, 3, &s) && s.boundary_f1 > 0.97, "Canny on clean lines: %g", s.boundary_f1);
    int basins = 0;
    CHECK(!tl_watershed(&image, 1, 0.1f, ids, &basins), "%s", tl_error(NULL));
    tl_world w;
    CHECK(!tl_world_from_ids(&w, ids, 192, 160) && !tl_world_mask(&w, TL_BOUNDARIES, 3, &mask) && !tl_compare_masks(&mask, &truth, 2, &s) && s.boundary_f1 > 0.97,
          "watershed on clean lines: %g with %d basins", s.boundary_f1, basins);
    tl_world_free(&w);
    CHECK(tl_canny(&image, -1, &mask) && tl_otsu(NULL, &mask) && tl_otsu(&image, NULL) && tl_watershed(&image, 1, 0.1f, NULL, NULL), "baselines that are not possible");
    tl_image_free(&image);
    tl_image_free(&truth);
    tl_image_free(&mask);
}

// ---- calibration ---------------------------------------------------------------------------

// Frames of known noise: gain and read noise come back, from pairs and from single frames.
static void test_render_noise(void)
{
    enum { W = 256, H = 256, N = 2 };
    tl_image frames[N];
    memset(frames, 0, sizeof frames);
    const double gain = 1.0 / 400, read = 0.02;
    for (int k = 0; k < N; k++) {
        tl_rng rng = tl_rng_at(6, TL_RANDOM_USER, 0, (uint32_t)k, 0);
        CHECK(!tl_image_alloc(&frames[k], W, H, 1, TL_F32), "%s", tl_error(NULL));
        for (int i = 0; i < W * H; i++) {
            double light = 0.1 + 0.7 * ((i / W / 32 + i % W / 32) % 8) / 7.0;            // flat patches of eight levels
            ((float *)frames[k].pixels)[i] = (float)(gain * tl_random_poisson(&rng, light / gain) + read * (double)tl_random_normal(&rng));
        }
    }
    for (int pairs = 0; pairs < 2; pairs++) {
        tl_noise n;
        CHECK(!tl_fit_noise(frames, N, pairs, &n), "%s", tl_error(NULL));
        CHECK(fabs(n.gain / gain - 1) < 0.12 && fabs(n.read_noise / read - 1) < 0.2 && n.fit > 0.9, "%s: gain %g of %g, read noise %g of %g, fit %g",
              pairs ? "pairs" : "single frames", n.gain, gain, n.read_noise, read, n.fit);
        printf("  noise from %s: gain x%.3f, read noise x%.3f\n", pairs ? "pairs" : "single frames", n.gain / gain, n.read_noise / read);
    }
    CHECK(tl_fit_noise(frames, 1, 1, &(tl_noise){ 0, 0, 0, 0, 0, 0 }) && tl_fit_noise(NULL, 1, 0, NULL), "pairs of one frame");
    for (int k = 0; k < N; k++) tl_image_free(&frames[k]);
}

static void test_calibrate(void)
{
    tl_grains_desc d;
    memset(&d, 0, sizeof d);
    d.width = d.height = 200;
    d.look = TL_LOOK_ETCHED;
    d.diameter.lo = d.diameter.hi = 50;
    d.line.lo = d.line.hi = 7;
    d.boundary.lo = -0.9f; d.boundary.hi = -0.7f;
    d.seed = 77;
    tl_image images[4];
    memset(images, 0, sizeof images);
    for (uint32_t i = 0; i < 4; i++) CHECK(!tl_grains(&d, 0, i, NULL, NULL, &images[i]), "%s", tl_error(NULL));
    tl_calibration c;
    CHECK(!tl_calibrate(images, 4, 0, NULL, &c), "%s", tl_error(NULL));
    CHECK(c.misfit < 0.35 && c.desc.diameter.lo < 55 && c.desc.diameter.hi > 42, "calibration: misfit %g, diameter %g - %g\n%s", c.misfit,
          (double)c.desc.diameter.lo, (double)c.desc.diameter.hi, c.report);
    const char *path = temporary_path("like.json");
    tl_grains_desc back;
    CHECK(!tl_grains_save(&c.desc, path) && !tl_grains_load(&back, path), "%s", tl_error(NULL));
    CHECK(memcmp(&back.diameter, &c.desc.diameter, (size_t)((char *)(&back.read_noise + 1) - (char *)&back.diameter)) == 0 && back.look == c.desc.look, "what was written is not what is read");
    static const char *const bad[] = { "", "{", "{}", "[1]", "{\"diameter\": [1, 2}", "{\"diameter\": [90, 20]}", "{\"diametre\": [20, 90]}", "{\"source\": 99}",
                                       "{\"format\": \"other\"}", "{\"diameter\": [20, 90]} x", "{\"look\": 1e30}", "{\"diameter\": [nan, 2]}" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        FILE *file = fopen(path, "wb");
        CHECK(file && fputs(bad[i], file) >= 0 && fclose(file) == 0, "cannot write");
        CHECK(tl_grains_load(&back, path) != TL_OK, "'%s' is a description?", bad[i]);
    }
    for (int i = 0; i < 4; i++) tl_image_free(&images[i]);
}

// A model trained on grains keeps what its generator cannot make.
static void test_notes(void)
{
    tl_grains_desc d = nothing_special(16, 16, 8);
    d.count = 2;
    tl_dataset *stream = tl_grains_stream(&d);
    tl_net *net = tl_net_new(NULL);
    tl_conv2d_desc conv;
    tl_loss_desc loss;
    tl_fit_desc fit;
    memset(&conv, 0, sizeof conv);
    memset(&loss, 0, sizeof loss);
    memset(&fit, 0, sizeof fit);
    conv.out = 2; conv.kernel = 1;
    loss.kind = TL_CROSS_ENTROPY;
    tl_loss(net, tl_conv2d(net, tl_input(net, 16, 16, 1), &conv), &loss);
    fit.train = stream;
    fit.epochs = 1;
    fit.batch = 2;
    fit.optimizer.kind = TL_SGD;
    fit.optimizer.lr = 0.01f;
    const char *path = temporary_path("notes.safetensors");
    CHECK(tl_notes(net)[0] == 0 && !tl_fit(net, &fit, NULL) && !tl_save(net, path), "%s", tl_error(NULL));
    tl_net *back = tl_open(path, NULL);
    CHECK(back && strstr(tl_notes(back), "no annealing twins") && strcmp(tl_notes(back), tl_notes(net)) == 0, "notes: '%s'", tl_notes(back));
    tl_net_free(back);
    tl_net_free(net);
    tl_dataset_free(stream);
}

MAIN(grains, void)
{
    test_notes();
    test_cells();
    test_poisson_voronoi();
    test_cell_geometry();
    test_region_labels();
    test_bend();
    test_rungs();
    test_bodies();
    test_phases();
    test_particles();
    test_switches();
    test_effects_of_grains();
    test_lines();
    test_artefacts();
    test_microscope();
    test_looks();
    test_potts();
    test_phase_field();
    test_ising();
    test_measure();
    test_baselines();
    test_render_noise();
    test_calibrate();
    remove_temporary();
    return finish("grains");
}
