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
